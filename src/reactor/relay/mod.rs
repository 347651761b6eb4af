//! Moves a body of known length from a source to its sinks: spliced in the kernel where nobody must look at the bytes
//! (`splice`), in one pass through a pooled buffer otherwise (`copy`). Which of the two is policy's decision.
//!
//! Called by connections and exchanges. Never decides what a failure means: it says exactly how many bytes every sink's
//! kernel side took, and who ended the movement.

pub mod copy;
pub mod pipe;
pub mod splice;
#[cfg(test)]
mod tests;

use super::core::Footing;
use super::deadline::Phase;
use super::disk::{Draft, OpenFile};
use super::race::{Won, race};
use super::stream::Stream;
use crate::base::Failure;
use crate::proto::aws_chunked::SignedFrames;
use std::fmt;
use std::io;
use std::time::Duration;

/// Where a body comes from.
pub enum Source<'a> {
    Client(&'a mut Stream),
    Backend(&'a mut Stream, Footing),
    /// A span of a blob in a directory.
    File(&'a mut OpenFile, Footing),
}

/// Where a body goes.
pub enum Sink<'a> {
    Socket(&'a mut Stream),
    /// A peer that may answer before it has read the body (a backend): its answer ends the movement as `Answered`. So does
    /// the end of what it rests on, as a failure.
    Answering(&'a mut Stream, Footing),
    /// The same, of a body that goes in signed chunks. It is given plain bytes.
    Signed(&'a mut Stream, &'a mut SignedFrames, Footing),
    File(&'a mut Draft, Footing),
}

impl Source<'_> {
    fn socket(&self) -> Option<&Stream> {
        match self {
            Self::Client(stream) | Self::Backend(stream, _) => Some(stream),
            Self::File(..) => None,
        }
    }

    fn footing(&self) -> Footing {
        match self {
            Self::Client(_) => Footing::default(),
            Self::Backend(_, footing) | Self::File(_, footing) => *footing,
        }
    }
}

impl Sink<'_> {
    fn socket(&self) -> Option<&Stream> {
        match self {
            Self::Socket(stream) | Self::Answering(stream, _) | Self::Signed(stream, ..) => Some(stream),
            Self::File(..) => None,
        }
    }

    fn footing(&self) -> Footing {
        match self {
            Self::Socket(_) => Footing::default(),
            Self::Answering(_, footing) | Self::Signed(_, _, footing) | Self::File(_, footing) => *footing,
        }
    }
}

/// How long each side may stand still. Only the side that is being waited for is timed, whatever was armed before.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub source: Duration,
    pub sink: Duration,
}

/// What a movement did.
#[derive(Debug)]
pub struct Moved {
    /// Bytes that every sink has taken: written to its socket or file. Of a refused or failed body, the beginning.
    pub bytes: u64,
    pub end: End,
}

#[derive(Debug)]
pub enum End {
    /// Exactly the expected bytes were moved.
    Done,
    SourceFailed(Cause),
    /// The sink of this number.
    SinkFailed(usize, Cause),
    /// The sink of this number has answered already (or ended), with its body unfinished.
    Answered(usize),
    /// The one who looks at the bytes did not like them, and knows why. The last byte was withheld.
    Refused,
}

/// Why a side failed.
#[derive(Debug)]
pub enum Cause {
    /// Among others `UnexpectedEof`: the source ended early; `TimedOut`: it stood still for too long.
    Socket(io::Error),
    Disk(Failure),
}

impl From<io::Error> for Cause {
    fn from(cause: io::Error) -> Self {
        Self::Socket(cause)
    }
}

impl From<io::ErrorKind> for Cause {
    fn from(kind: io::ErrorKind) -> Self {
        Self::Socket(kind.into())
    }
}

impl From<Failure> for Cause {
    fn from(failure: Failure) -> Self {
        Self::Disk(failure)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(cause) => cause.fmt(f),
            Self::Disk(failure) => failure.fmt(f),
        }
    }
}

impl Moved {
    fn end(bytes: u64, end: End) -> Self {
        Self { bytes, end }
    }
}

/// Times `stream` for one wait: the other side's slowness is not its fault.
async fn waiting_for<T>(
    stream: &Stream,
    (phase, patience): (Phase, Duration),
    wait: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    stream.deadline().arm(phase, patience);
    let done = wait.await;
    if !stream.deadline().hit() {
        stream.deadline().disarm();
    }
    done
}

/// Times a call to a disk. One that hangs keeps what was lent to it; whoever waited goes on without.
async fn disk_in_time<T>(patience: Duration, call: impl Future<Output = Result<T, Failure>>) -> Result<T, Cause> {
    match race(call, monoio::time::sleep(patience)).await {
        Won::First(done) => done.map_err(Cause::from),
        Won::Second(()) => Err(Failure::backend(format!("a disk did not answer for {patience:?}")).into()),
    }
}
