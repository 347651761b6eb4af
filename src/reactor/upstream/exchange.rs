//! One request and its answer on one connection to a backend: the head and a body that is in hand go out, the answer's
//! head comes back, then its body if it is a small one.
//!
//! Called by `reactor/backends`. Never decides what an answer means (`backend/s3/answer.rs`), and never asks twice: it
//! only says whether asking on another connection would be safe.

use crate::base::limits::HEAD_BYTES_MAX;
use crate::proto::http1::{BadHead, ChunkedDecoder, ChunkedStep, ResponseFraming, ResponseHead};
use crate::reactor::buffer::Buffer;
use crate::reactor::core::Core;
use crate::reactor::deadline::Phase;
use crate::reactor::fair::Budget;
use crate::reactor::stream::{Follow, Stream};
use crate::reactor::upstream::pool::Lent;
use std::io;
use std::time::Duration;

/// With the head that an answer comes with, room enough for the one that it leaves with.
const ROOM_BEFORE: usize = 512;
/// Interim answers (1xx) before the real one.
const INTERIM_MAX: usize = 8;

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// The connection ended before a byte of an answer. On a pooled connection that is how a stale one shows.
    Closed(io::Error),
    Failed(io::Error),
    /// What came is not an answer that could be read safely.
    Malformed(BadHead),
}

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed(cause) => write!(f, "the connection ended before an answer: {cause}"),
            Self::Failed(cause) if cause.kind() == io::ErrorKind::TimedOut => f.write_str("no answer in time"),
            Self::Failed(cause) => write!(f, "the connection failed: {cause}"),
            Self::Malformed(bad) => write!(f, "an answer that cannot be read: {bad}"),
        }
    }
}

/// An answer whose head has been read. Dropped, it closes its connection.
pub struct Answer {
    line: Lent,
    /// The head, then what came along of the body.
    buffer: Buffer,
    head_len: usize,
    status: u16,
    framing: ResponseFraming,
    keep_alive: bool,
    to_head: bool,
}

/// Sends a head and the start of its body; with all of the body in `first`, they leave in one call.
/// Cancel: NOT safe, an unknown part is sent.
pub async fn send(stream: &mut Stream, head: &[u8], first: &[u8], patience: Duration) -> io::Result<()> {
    stream.deadline().arm(Phase::Body, patience);
    let sent = stream.write_both(head, first, Follow::Nothing).await;
    if sent.is_ok() {
        stream.deadline().disarm();
    }
    sent
}

/// As `send`, of a request whose body is all in hand and whose answer is read next: whether the backend took it, the answer
/// tells. Cancel: NOT safe, an unknown part is sent.
pub async fn send_whole(stream: &mut Stream, head: &[u8], body: &[u8], patience: Duration) -> io::Result<()> {
    stream.deadline().arm(Phase::Body, patience);
    let posted = stream.post(head, body).await;
    if posted.is_ok() {
        stream.deadline().disarm();
    }
    posted
}

/// Reads the answer's head, passing over interim ones, and shows it to `look`. `to_head`: the request was a HEAD.
/// Cancel: NOT safe, the connection is closed.
pub async fn receive<R>(
    core: &Core,
    mut line: Lent,
    to_head: bool,
    patience: Duration,
    look: impl FnOnce(&ResponseHead<'_>) -> R,
) -> Result<(Answer, R), NoAnswer> {
    // Never waits: the client's connection holds a buffer of the same pool, and all that wait could be such.
    let mut buffer = core.heads.take_now();
    buffer.leave_out(ROOM_BEFORE);
    let (mut scanned, mut interim) = (0, 0);
    line.deadline().arm(Phase::Body, patience);
    loop {
        if !buffer.is_empty() {
            match ResponseHead::parse(buffer.data(), to_head, &mut scanned).map_err(NoAnswer::Malformed)? {
                Some(head) if head.is_interim() => {
                    interim += 1;
                    if interim > INTERIM_MAX {
                        return Err(NoAnswer::Malformed(BadHead::Status));
                    }
                    let len = head.head_len;
                    buffer.consume(len);
                    buffer.compact();
                    scanned = 0;
                    continue;
                }
                Some(head) => {
                    line.deadline().disarm();
                    let seen = look(&head);
                    let (head_len, status, framing) = (head.head_len, head.status, head.framing);
                    let keep_alive = head.keep_alive;
                    return Ok((Answer { line, buffer, head_len, status, framing, keep_alive, to_head }, seen));
                }
                None => {}
            }
        }
        if buffer.spare() == 0 {
            buffer.compact();
        }
        match line.read_some(&mut buffer).await {
            Ok(0) => {
                let cause = io::ErrorKind::UnexpectedEof.into();
                let unheard = buffer.is_empty() && interim == 0;
                return Err(if unheard { NoAnswer::Closed(cause) } else { NoAnswer::Failed(cause) });
            }
            Ok(_) => {}
            Err(cause) if buffer.is_empty() && interim == 0 && is_closing(&cause) => {
                return Err(NoAnswer::Closed(cause));
            }
            Err(cause) => return Err(NoAnswer::Failed(cause)),
        }
    }
}

/// Whether an error says that the peer had closed.
pub fn is_closing(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
    )
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The head once more. `receive` showed it already; this is for the answers that are not what was hoped for.
    pub fn head(&self) -> ResponseHead<'_> {
        let parsed = ResponseHead::parse(self.buffer.data(), self.to_head, &mut 0);
        parsed.expect("it was read before").expect("it was complete before")
    }

    /// Reads the body, at most `max` bytes of it, into `body`. Ok(true): that was all of it. After an error `body` holds
    /// what had come. Cancel: NOT safe, the connection is closed.
    pub async fn read_body(
        &mut self,
        core: &Core,
        max: usize,
        patience: Duration,
        body: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let mut framing = Framing::of(self.framing);
        let mut budget = Budget::default();
        // The head stays where it is, for `head()`; the body is taken from behind it.
        let mut at = self.head_len;
        loop {
            let came = &self.buffer.data()[at..];
            if framing.feed(came, &mut at, max, body)? {
                return Ok(self.is_all_read(&framing, at));
            }
            if body.len() >= max {
                return Ok(false);
            }
            self.buffer.truncate(self.head_len);
            at = self.head_len;
            if self.buffer.spare() == 0 {
                return Ok(false);
            }
            self.line.deadline().arm(Phase::Body, patience);
            let count = self.line.read_some(&mut self.buffer).await?;
            self.line.deadline().disarm();
            if count == 0 {
                return framing.at_end_of_input().map(|()| true);
            }
            budget.spend(&core.fair, count).await;
        }
    }

    fn is_all_read(&mut self, framing: &Framing, at: usize) -> bool {
        // Bytes behind the answer are nobody's: the connection is not to be used again.
        if at < self.buffer.len() || matches!(framing, Framing::UntilClose) {
            self.keep_alive = false;
        }
        self.framing = ResponseFraming::None;
        self.buffer.truncate(self.head_len);
        true
    }

    /// The connection, if its answer was read whole and it may carry another request.
    pub fn into_reusable(self) -> Option<Lent> {
        let is_whole = matches!(self.framing, ResponseFraming::None | ResponseFraming::Length(0));
        (self.keep_alive && is_whole && self.buffer.len() == self.head_len).then_some(self.line)
    }

    /// For a body that is to be moved on: the connection, what came of the body already, and whether the connection may
    /// be used again after it.
    pub fn into_body(mut self) -> (Lent, Buffer, bool) {
        self.buffer.consume(self.head_len);
        (self.line, self.buffer, self.keep_alive)
    }
}

/// How far a small body has been read.
enum Framing {
    Nothing,
    Length(u64),
    Chunked(ChunkedDecoder),
    UntilClose,
}

impl Framing {
    fn of(framing: ResponseFraming) -> Self {
        match framing {
            ResponseFraming::None => Self::Nothing,
            ResponseFraming::Length(len) => Self::Length(len),
            ResponseFraming::Chunked => Self::Chunked(ChunkedDecoder::new()),
            ResponseFraming::UntilClose => Self::UntilClose,
        }
    }

    /// Takes what `came`, moving `at` on by what it used. Ok(true): the body has ended.
    fn feed(&mut self, mut came: &[u8], at: &mut usize, max: usize, body: &mut Vec<u8>) -> io::Result<bool> {
        let mut take = |bytes: &[u8]| body.extend_from_slice(&bytes[..bytes.len().min(max - body.len())]);
        match self {
            Self::Nothing => Ok(true),
            Self::Length(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(came.len());
                take(&came[..count]);
                *at += count;
                *left -= count as u64;
                Ok(*left == 0)
            }
            Self::UntilClose => {
                take(came);
                *at += came.len();
                Ok(false)
            }
            Self::Chunked(decoder) => loop {
                let malformed = |bad: crate::proto::http1::BadChunk| io::Error::new(io::ErrorKind::InvalidData, bad.0);
                match decoder.feed(came).map_err(malformed)? {
                    ChunkedStep::NeedMore => {
                        *at += came.len();
                        return Ok(false);
                    }
                    ChunkedStep::Data { skip, len } => {
                        take(&came[skip..skip + len]);
                        *at += skip + len;
                        came = &came[skip + len..];
                    }
                    ChunkedStep::Done { used } => {
                        *at += used;
                        return Ok(true);
                    }
                }
            },
        }
    }

    fn at_end_of_input(&self) -> io::Result<()> {
        match self {
            Self::UntilClose | Self::Nothing => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

const _: () = assert!(HEAD_BYTES_MAX >= 1024, "behind a head there is room to read a body through");
