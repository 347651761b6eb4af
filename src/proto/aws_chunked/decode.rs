//! Takes the framing off an aws-chunked body, piece by piece as it arrives, and checks every signature in it.
//!
//! The payload of a signed chunk is handed on as it comes, but its signature is known to be right before the last piece of
//! the chunk is. So a body with a wrong chunk never becomes complete.

use super::Form;
use crate::base::limits::{AWS_CHUNK_BYTES_MAX, CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};
use crate::proto::body_error::BodyError;
use crate::proto::checksum::{Algorithm, Checksum};
use crate::proto::sigv4::Hex;
use sha2::{Digest, Sha256};
use std::ops::Range;

/// What one call of [`Decoder::feed`] made of its input.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// So many bytes of the input are done with. The rest is to be fed again.
    pub used: usize,
    /// Where in the input payload lies; empty when there was only framing. Never beyond `used`.
    pub payload: Range<usize>,
    /// The body is complete and right. Nothing may follow.
    pub done: bool,
}

pub struct Decoder {
    form: Form,
    announced: Option<Algorithm>,
    state: State,
    /// Payload that is still to come by the declared length.
    payload_left: u64,
    /// The part of a line that earlier inputs held.
    line: Vec<u8>,
    /// The signature that the chunk's line carried, and the hash of its bytes so far.
    signature: Hex,
    hash: Sha256,
    trailer: Option<Checksum>,
    trailer_bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    ChunkLine,
    Payload {
        left: u64,
    },
    /// The line end after a chunk's bytes.
    ChunkEnd,
    /// Trailer lines, up to the empty one.
    Trailers,
    /// A trailer ended in LF alone: CRLF must follow (see `trailer_line`).
    LineEndAfterLf,
    /// Only the empty line may follow.
    LastLine,
    Done,
    Failed(BodyError),
}

impl Decoder {
    /// For a body of `decoded_length` bytes of payload. `announced` is the trailing checksum that the request promised
    /// (`Declared::trailer`).
    pub fn new(form: Form, decoded_length: u64, announced: Option<Algorithm>) -> Self {
        Self {
            form,
            announced,
            state: State::ChunkLine,
            payload_left: decoded_length,
            line: Vec::new(),
            signature: [0; 64],
            hash: Sha256::new(),
            trailer: None,
            trailer_bytes: 0,
        }
    }

    /// Takes the next bytes of the body; to be called again with what was not used until all is. Uses at least one byte
    /// of any input. An error is final.
    pub fn feed(&mut self, input: &[u8]) -> Result<Step, BodyError> {
        self.advance(input).inspect_err(|&error| self.state = State::Failed(error))
    }

    /// The body has ended. The trailing checksum, if one was announced; it has not been compared with anything yet.
    pub fn finish(self) -> Result<Option<Checksum>, BodyError> {
        match self.state {
            State::Done => Ok(self.trailer),
            State::Failed(error) => Err(error),
            _ => Err(BodyError::Incomplete),
        }
    }

    fn advance(&mut self, input: &[u8]) -> Result<Step, BodyError> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            match self.state {
                State::Failed(error) => return Err(error),
                State::Done if !rest.is_empty() => return Err(BodyError::Incomplete),
                _ if rest.is_empty() => {
                    return Ok(Step { used, payload: used..used, done: self.state == State::Done });
                }
                State::Payload { left } => {
                    let len = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    self.take_payload(&rest[..len], left)?;
                    return Ok(Step { used: used + len, payload: used..used + len, done: false });
                }
                _ => used += self.take_line(rest)?,
            }
        }
    }

    fn take_payload(&mut self, bytes: &[u8], left: u64) -> Result<(), BodyError> {
        if self.is_signed() {
            self.hash.update(bytes);
        }
        let left = left - bytes.len() as u64;
        self.payload_left -= bytes.len() as u64;
        self.state = State::Payload { left };
        if left == 0 {
            self.check_chunk()?;
            self.state = State::ChunkEnd;
        }
        Ok(())
    }

    /// Takes bytes up to the end of a line, and acts on the line if it is complete. Returns how many it took.
    fn take_line(&mut self, input: &[u8]) -> Result<usize, BodyError> {
        let (limit, too_long) = match self.state {
            State::ChunkLine => (CHUNK_LINE_BYTES_MAX, BodyError::Incomplete),
            State::Trailers => (TRAILER_BYTES_MAX - self.trailer_bytes, BodyError::MalformedTrailer),
            _ => (2, BodyError::Incomplete),
        };
        let window = &input[..input.len().min(limit + 1 - self.line.len())];
        let end = window.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
        let taken = end.unwrap_or(window.len());
        if self.line.len() + taken > limit {
            return Err(too_long);
        }
        if end.is_none() {
            self.line.extend_from_slice(window);
        } else if self.line.is_empty() {
            self.act_on(&window[..taken])?;
        } else {
            let mut line = std::mem::take(&mut self.line);
            line.extend_from_slice(&window[..taken]);
            self.act_on(&line)?;
            line.clear();
            self.line = line;
        }
        Ok(taken)
    }

    /// `line` ends in LF, and has no other.
    fn act_on(&mut self, line: &[u8]) -> Result<(), BodyError> {
        let text = line.strip_suffix(b"\r\n");
        match self.state {
            State::ChunkLine => self.chunk_line(text.ok_or(BodyError::Incomplete)?),
            State::ChunkEnd => self.empty_line(text, State::ChunkLine),
            State::LineEndAfterLf => self.empty_line(text, State::Trailers),
            State::LastLine => self.empty_line(text, State::Done),
            _ => {
                self.trailer_bytes += line.len();
                self.trailer_line(line, text)
            }
        }
    }

    fn empty_line(&mut self, text: Option<&[u8]>, next: State) -> Result<(), BodyError> {
        self.state = next;
        if text == Some(b"") { Ok(()) } else { Err(BodyError::Incomplete) }
    }

    fn chunk_line(&mut self, text: &[u8]) -> Result<(), BodyError> {
        let digits = if self.is_signed() {
            const FIELD: &[u8] = b";chunk-signature=";
            let at = text.len().checked_sub(FIELD.len() + self.signature.len()).ok_or(BodyError::Incomplete)?;
            self.signature.copy_from_slice(text[at..].strip_prefix(FIELD).ok_or(BodyError::Incomplete)?);
            &text[..at]
        } else {
            text
        };
        let size = parse_size(digits).ok_or(BodyError::Incomplete)?;
        if size > self.payload_left {
            return Err(BodyError::Incomplete);
        }
        if self.is_signed() && size > AWS_CHUNK_BYTES_MAX {
            return Err(BodyError::ChunkTooLarge);
        }
        if size > 0 {
            self.state = State::Payload { left: size };
            return Ok(());
        }
        if self.payload_left > 0 {
            return Err(BodyError::Incomplete);
        }
        self.check_chunk()?;
        self.state = if matches!(self.form, Form::Signed(_)) { State::LastLine } else { State::Trailers };
        Ok(())
    }

    fn is_signed(&self) -> bool {
        !matches!(self.form, Form::UnsignedTrailer)
    }

    fn check_chunk(&mut self) -> Result<(), BodyError> {
        let (Form::Signed(signer) | Form::SignedTrailer(signer)) = &mut self.form else { return Ok(()) };
        let digest = self.hash.finalize_reset().into();
        if signer.verify_chunk(&digest, &self.signature) { Ok(()) } else { Err(BodyError::SignatureDoesNotMatch) }
    }

    /// `name:value CRLF`. The MinIO clients end a trailer in LF CRLF, as the example in AWS's documentation does, and S3
    /// takes it; nothing else may end in LF alone.
    fn trailer_line(&mut self, line: &[u8], text: Option<&[u8]>) -> Result<(), BodyError> {
        let is_complete = self.trailer.is_some() == self.announced.is_some();
        if text == Some(b"") {
            // The signature's line leads to `LastLine`: signed trailers that end here have none.
            self.state = State::Done;
            return if is_complete && !self.is_signed() { Ok(()) } else { Err(BodyError::MalformedTrailer) };
        }
        let content = text.unwrap_or(&line[..line.len() - 1]);
        let colon = content.iter().position(|&byte| byte == b':').ok_or(BodyError::MalformedTrailer)?;
        let (name, value) = (&content[..colon], trim_blanks(&content[colon + 1..]));
        if let Form::SignedTrailer(signer) = &mut self.form
            && name.eq_ignore_ascii_case(b"x-amz-trailer-signature")
        {
            if !is_complete || text.is_none() {
                return Err(BodyError::MalformedTrailer);
            }
            self.state = State::LastLine;
            let digest = self.hash.finalize_reset().into();
            return if signer.verify_trailers(&digest, value) { Ok(()) } else { Err(BodyError::SignatureDoesNotMatch) };
        }
        let announced = self.announced.ok_or(BodyError::MalformedTrailer)?;
        if Algorithm::from_header(name) != Some(announced) || self.trailer.is_some() {
            return Err(BodyError::MalformedTrailer);
        }
        for part in [announced.header().as_bytes(), b":", value, b"\n"] {
            self.hash.update(part);
        }
        let parsed = Checksum::parse(announced, value);
        self.trailer = Some(parsed.ok_or(BodyError::InvalidTrailerValue(announced))?);
        self.state = if text.is_some() { State::Trailers } else { State::LineEndAfterLf };
        Ok(())
    }
}

/// Without the spaces and tabs around it; a CR is neither.
fn trim_blanks(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Hexadecimal digits and nothing else; at most 16 of them.
fn parse_size(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    digits.iter().try_fold(0, |size, &byte| Some(size << 4 | u64::from(char::from(byte).to_digit(16)?)))
}

/// Any bytes may come, in any pieces; what is accepted is as long as it was declared, however it was cut. Three bytes of
/// the input choose the declared length, the length of the pieces and the announced trailer.
pub fn fuzz_one(input: &[u8]) {
    let Some(([length, cut, announced], body)) = input.split_first_chunk::<3>() else { return };
    let announced = Algorithm::ALL.get(usize::from(*announced)).copied();
    let run = |piece: usize| {
        let mut decoder = Decoder::new(Form::UnsignedTrailer, u64::from(*length), announced);
        let mut payload = Vec::new();
        for mut piece in body.chunks(piece) {
            while !piece.is_empty() {
                let step = decoder.feed(piece)?;
                assert!(step.payload.end <= step.used && step.used <= piece.len() && step.used > 0);
                payload.extend_from_slice(&piece[step.payload]);
                piece = &piece[step.used..];
            }
        }
        decoder.finish().map(|trailer| (payload, trailer))
    };
    let whole = run(body.len().max(1));
    assert_eq!(whole, run(usize::from(*cut) + 1), "the result depends on how the input is cut");
    if let Ok((payload, trailer)) = whole {
        assert_eq!(payload.len(), usize::from(*length));
        assert_eq!(trailer.map(|checksum| checksum.algorithm()), announced);
    }
}
