//! The chunked transfer coding (RFC 9112, 7.1), decoded in place as bytes come in.
//!
//! Used under aws-chunked for clients that send no Content-Length, and for backends' XML answers. It holds no buffer: each
//! step says which bytes of the caller's input are data. Extensions and trailers are checked and dropped.

use crate::base::limits::{CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};
use std::fmt;

/// The framing is broken; nothing after it can be trusted, so the connection must end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadChunk(pub &'static str);

impl fmt::Display for BadChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// What one look at the input found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChunkedStep {
    /// All of the input was framing; the body goes on.
    NeedMore,
    /// `input[skip..skip + len]` is data; feed again from `skip + len`. `len` is never 0.
    Data { skip: usize, len: usize },
    /// The body ended `used` bytes into the input; what follows is the next message.
    Done { used: usize },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// At most 16 hex digits.
    Size {
        digits: u8,
    },
    Extension,
    SizeLineFeed,
    Data,
    DataReturn,
    DataLineFeed,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLineFeed,
    LastLineFeed,
    Done,
}

#[derive(Debug)]
pub struct ChunkedDecoder {
    state: State,
    /// Of the size being read, then what is left of the chunk.
    left: u64,
    /// Bytes of the size line or of all trailers so far.
    line_bytes: usize,
}

impl Default for ChunkedDecoder {
    fn default() -> Self {
        Self { state: State::Size { digits: 0 }, left: 0, line_bytes: 0 }
    }
}

impl ChunkedDecoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at `input` up to the next data. After `Done` every call answers `Done { used: 0 }`.
    pub fn feed(&mut self, input: &[u8]) -> Result<ChunkedStep, BadChunk> {
        for (at, &byte) in input.iter().enumerate() {
            match self.state {
                State::Done => return Ok(ChunkedStep::Done { used: at }),
                State::Data => {
                    let len = self.left.min((input.len() - at) as u64) as usize;
                    self.left -= len as u64;
                    if self.left == 0 {
                        self.state = State::DataReturn;
                    }
                    return Ok(ChunkedStep::Data { skip: at, len });
                }
                _ => self.state = self.framing_byte(byte)?,
            }
        }
        Ok(if self.state == State::Done { ChunkedStep::Done { used: input.len() } } else { ChunkedStep::NeedMore })
    }

    fn framing_byte(&mut self, byte: u8) -> Result<State, BadChunk> {
        Ok(match (self.state, byte) {
            (State::Size { digits }, _) => self.size_byte(digits, byte)?,
            (State::Extension, b'\r') => State::SizeLineFeed,
            (State::Extension, b'\t' | b' '..=b'~') => {
                self.count_line_byte(CHUNK_LINE_BYTES_MAX, "a chunk size line is too long")?;
                State::Extension
            }
            (State::SizeLineFeed, b'\n') => {
                self.line_bytes = 0;
                if self.left == 0 { State::TrailerStart } else { State::Data }
            }
            (State::DataReturn, b'\r') => State::DataLineFeed,
            (State::DataLineFeed, b'\n') => State::Size { digits: 0 },
            (State::TrailerStart, b'\r') => State::LastLineFeed,
            (State::LastLineFeed, b'\n') => State::Done,
            (State::TrailerStart | State::TrailerName, _)
                if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' =>
            {
                self.count_line_byte(TRAILER_BYTES_MAX, "the trailers are too long")?;
                State::TrailerName
            }
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerValue, b'\r') => State::TrailerLineFeed,
            (State::TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => {
                self.count_line_byte(TRAILER_BYTES_MAX, "the trailers are too long")?;
                State::TrailerValue
            }
            (State::TrailerLineFeed, b'\n') => State::TrailerStart,
            (State::TrailerStart | State::TrailerName | State::TrailerValue, _) => {
                return Err(BadChunk("a trailer is malformed"));
            }
            (State::DataReturn, _) => return Err(BadChunk("a chunk is longer than its size says")),
            _ => return Err(BadChunk("a chunk line does not end in CR LF")),
        })
    }

    fn size_byte(&mut self, digits: u8, byte: u8) -> Result<State, BadChunk> {
        match (byte as char).to_digit(16) {
            Some(_) if digits == 16 => Err(BadChunk("a chunk size is too large")),
            Some(digit) => {
                self.left = self.left << 4 | u64::from(digit);
                Ok(State::Size { digits: digits + 1 })
            }
            None if digits == 0 => Err(BadChunk("a chunk size is missing")),
            None if byte == b'\r' => Ok(State::SizeLineFeed),
            None if byte == b';' => Ok(State::Extension),
            None => Err(BadChunk("a chunk size is not a hexadecimal number")),
        }
    }

    fn count_line_byte(&mut self, max: usize, message: &'static str) -> Result<(), BadChunk> {
        self.line_bytes += 1;
        if self.line_bytes > max { Err(BadChunk(message)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Body and what is left of the input, fed in pieces of `piece` bytes.
    fn decode(wire: &[u8], piece: usize) -> Result<Option<(Vec<u8>, usize)>, BadChunk> {
        let mut decoder = ChunkedDecoder::new();
        let mut body = Vec::new();
        let mut used = 0;
        for part in wire.chunks(piece) {
            let mut rest = part;
            loop {
                match decoder.feed(rest)? {
                    ChunkedStep::NeedMore => break,
                    ChunkedStep::Data { skip, len } => {
                        body.extend_from_slice(&rest[skip..skip + len]);
                        rest = &rest[skip + len..];
                    }
                    ChunkedStep::Done { used: last } => {
                        let used = used + (part.len() - rest.len()) + last;
                        return Ok(Some((body, used)));
                    }
                }
            }
            used += part.len();
        }
        Ok(None)
    }

    fn check(wire: &str, want: &str, left: usize) {
        for piece in 1..=wire.len() {
            let (body, used) = decode(wire.as_bytes(), piece).expect(wire).expect("complete");
            assert_eq!((body.as_slice(), wire.len() - used), (want.as_bytes(), left), "{wire:?} in pieces of {piece}");
        }
    }

    fn refused(wire: &str) {
        for piece in [1, wire.len()] {
            assert!(decode(wire.as_bytes(), piece).is_err(), "{wire:?} in pieces of {piece}");
        }
    }

    #[test]
    fn well_formed_bodies() {
        check("0\r\n\r\n", "", 0);
        check("5\r\nhello\r\n0\r\n\r\n", "hello", 0);
        check("5\r\nhello\r\n00A\r\n, world...\r\n0\r\n\r\nGET", "hello, world...", 3);
        check("5;name=\"v\";x\r\nhello\r\n0\r\n\r\n", "hello", 0);
        check("2\r\n\r\n\r\n0\r\nX-Sum: abc\r\nY:\r\n\r\n", "\r\n", 0);
    }

    #[test]
    fn unfinished_bodies_need_more() {
        for wire in ["", "5", "5\r\nhell", "5\r\nhello\r\n", "5\r\nhello\r\n0\r\n", "0\r\n\r", "0\r\nX: y\r\n"] {
            assert_eq!(decode(wire.as_bytes(), 1), Ok(None), "{wire:?}");
        }
    }

    #[test]
    fn broken_framing_is_refused() {
        for wire in [
            "\r\n",
            "-1\r\n",
            "+5\r\nhello",
            " 5\r\nhello",
            "5 \r\nhello",
            "0x5\r\nhello",
            "g\r\n",
            ";x\r\n",
            "5\nhello\n0\n\n",
            "5\rhello",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello!\r\n0\r\n\r\n",
            "5;a\nb\r\nhello",
            "5;a\0\r\nhello",
            "0\r\n\n",
            "0\r\nX y: z\r\n\r\n",
            "0\r\n: z\r\n\r\n",
            "0\r\nX\r\n\r\n",
            "0\r\nX: a\nY: b\r\n\r\n",
            "0\r\nX: a\r\n b\r\n\r\n",
            "10000000000000000\r\n",
        ] {
            refused(wire);
        }
        refused(&format!("5;{}\r\nhello", "x".repeat(CHUNK_LINE_BYTES_MAX + 1)));
        refused(&format!("0\r\nX:{}\r\n\r\n", "y".repeat(TRAILER_BYTES_MAX)));
    }

    proptest! {
        #[test]
        fn whatever_is_chunked_comes_back(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            piece in 1_usize..50,
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(decode(&wire, piece), Ok(Some((chunks.concat(), wire.len()))));
        }

        #[test]
        fn pieces_do_not_matter(wire in "[0-9a-f\r\n;:x]{0,60}", piece in 1_usize..10) {
            prop_assert_eq!(decode(wire.as_bytes(), piece), decode(wire.as_bytes(), 64));
        }
    }
}
