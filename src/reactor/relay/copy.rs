//! Moves a body through one pooled buffer in one pass: read, look, write. Decoding and hashing happen in place while the
//! bytes are hot.
//!
//! The last byte of a body is written only after the verdict over all of it, so that no sink ever completes a body that
//! was not what it claimed to be.

use super::{Cause, End, Moved, Patience, Sink, Source, disk_in_time};
use crate::base::limits::HEAD_BYTES_MAX;
use crate::reactor::buffer::Buffer;
use crate::reactor::core::Core;
use crate::reactor::deadline::Phase;
use crate::reactor::fair::Budget;
use crate::reactor::stream::Ready;
use std::io;
use std::ops::Range;

/// How much is gathered before a file is written: a hop to a disk thread is dear.
const FILE_BATCH_BYTES: usize = 128 * 1024;

/// The body was refused by the one who looks at it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused;

/// Who looks at the bytes on their way. It keeps its reason for a refusal.
pub trait Inspect {
    /// Sees every byte of the body as received, once and in order; may change them in place. Says which of them go on.
    fn look(&mut self, bytes: &mut [u8]) -> Result<Looked, Refused>;

    /// Called once, when the body has ended and before its last byte is written.
    fn verdict(&mut self) -> Result<(), Refused>;
}

/// What was found in a piece of a body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Looked {
    /// The bytes that go on; decoded ones have been moved together.
    pub forward: Range<usize>,
    /// How many belong to the body: all, unless it has ended.
    pub used: usize,
    /// The body's own framing has ended.
    pub ended: bool,
}

/// For bodies that nobody looks at.
pub struct Unseen;

impl Inspect for Unseen {
    fn look(&mut self, bytes: &mut [u8]) -> Result<Looked, Refused> {
        Ok(Looked { forward: 0..bytes.len(), used: bytes.len(), ended: false })
    }

    fn verdict(&mut self) -> Result<(), Refused> {
        Ok(())
    }
}

/// How a body's end is known on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wire {
    /// By its length as sent, in bytes.
    Exact(u64),
    /// By its own framing, as `Looked::ended` tells.
    Framed,
}

/// A body to be copied.
pub struct Body<'a> {
    pub wire: Wire,
    /// What the sinks are to get, in bytes.
    pub size: u64,
    /// What was read ahead of the body; what lies behind its end is left in it, or put there.
    pub ahead: &'a mut Buffer,
}

/// Copies a whole body. `size` is checked: a body that turns out longer or shorter is refused. All deadlines are disarmed
/// at the beginning and at a good end. Cancel: NOT safe, all sides are to be closed.
pub async fn copy_body<'b>(
    core: &Core,
    source: Source<'b>,
    sinks: &mut [Sink<'b>],
    body: Body<'_>,
    inspect: &mut impl Inspect,
    patience: Patience,
) -> Moved {
    let small = matches!(body.wire, Wire::Exact(len) if len <= HEAD_BYTES_MAX as u64);
    // Never waits for a head's buffer: this connection may hold one already.
    let buffer = match small.then(|| core.heads.try_take()).flatten() {
        Some(buffer) => buffer,
        // Nor for a body's: those who hold one may be as slow as their peers. What goes beyond has a buffer as small as
        // the head's that its connection holds, so that memory is bounded by connections either way.
        None => core.bodies.try_take().unwrap_or_else(|| Buffer::roomy(HEAD_BYTES_MAX)),
    };
    for stream in source.socket().into_iter().chain(sinks.iter().filter_map(Sink::socket)) {
        stream.deadline().disarm();
    }
    let mut pass = Pass { core, source, sinks, patience, buffer, written: 0, budget: Budget::default() };
    match pass.run(body, inspect).await {
        Ok(()) => Moved::end(pass.written, End::Done),
        Err(end) => Moved::end(pass.written, end),
    }
}

struct Pass<'a, 'b> {
    core: &'a Core,
    source: Source<'b>,
    sinks: &'a mut [Sink<'b>],
    patience: Patience,
    /// Bytes that have been looked at and not been written.
    buffer: Buffer,
    written: u64,
    budget: Budget,
}

impl Pass<'_, '_> {
    async fn run(&mut self, body: Body<'_>, inspect: &mut impl Inspect) -> Result<(), End> {
        let Body { wire, size, ahead } = body;
        assert!(ahead.capacity() > 0 || wire != Wire::Framed, "what lies behind a framed body needs room");
        let mut wire_left = if let Wire::Exact(len) = wire { Some(len) } else { None };
        let mut passed = 0;
        let mut ended = false;
        while !ended && wire_left != Some(0) {
            let seen = self.buffer.len();
            let is_ahead = self.gather(ahead, wire_left).await?;
            let fresh = self.buffer.len() - seen;
            let looked = inspect.look(&mut self.buffer.data_mut()[seen..]).map_err(|Refused| End::Refused)?;
            assert!(looked.used <= fresh && looked.forward.end <= fresh, "looked beyond the bytes");
            if is_ahead {
                ahead.consume(looked.used);
            } else {
                ahead.append(&self.buffer.data()[seen + looked.used..]);
            }
            self.buffer.keep(seen, looked.forward.clone());
            passed += looked.forward.len() as u64;
            wire_left = wire_left.map(|left| left - looked.used as u64);
            ended = looked.ended;
            if passed > size || (ended && wire_left.is_some_and(|left| left > 0)) {
                return Err(End::Refused);
            }
            if !ended && wire_left != Some(0) {
                let withheld = usize::from(passed == size && !self.buffer.is_empty());
                self.write(self.buffer.len() - withheld, false).await?;
            }
        }
        inspect.verdict().map_err(|Refused| End::Refused)?;
        if passed != size {
            return Err(End::Refused);
        }
        self.write(self.buffer.len(), true).await
    }

    /// Appends fresh bytes to the buffer: those read ahead first, then from the source. Whether they were read ahead.
    async fn gather(&mut self, ahead: &Buffer, wire_left: Option<u64>) -> Result<bool, End> {
        self.buffer.compact();
        let due = wire_left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
        if !ahead.is_empty() {
            let count = ahead.len().min(due);
            let taken = self.buffer.append(&ahead.data()[..count]);
            assert!(taken > 0, "there is room after every write");
            return Ok(true);
        }
        // Behind a framed body may lie the next request: no more is read than `ahead` can keep.
        let limit = if wire_left.is_some() { due } else { ahead.capacity() };
        let done = match &mut self.source {
            Source::Client(stream) | Source::Backend(stream, _) => {
                stream.deadline().arm(Phase::Input, self.patience.source);
                let done = stream.read_at_most(&mut self.buffer, limit).await;
                if !stream.deadline().hit() {
                    stream.deadline().disarm();
                }
                done.map_err(Cause::from)
            }
            Source::File(file, _) => disk_in_time(self.patience.source, file.read(&mut self.buffer, limit)).await,
        };
        match done {
            Ok(0) => Err(End::SourceFailed(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(false),
            Err(cause) => Err(End::SourceFailed(cause)),
        }
    }

    /// Writes the first `count` bytes to every sink and lets go of them. Unless it is the last time, small amounts may be
    /// left to be gathered.
    async fn write(&mut self, count: usize, last: bool) -> Result<(), End> {
        let to_file = self.sinks.iter().any(|sink| matches!(sink, Sink::File(..)));
        if count == 0 || (to_file && !last && count < FILE_BATCH_BYTES.min(self.buffer.capacity() / 2)) {
            return Ok(());
        }
        self.core.may_go_on(self.source.footing()).map_err(|failure| End::SourceFailed(failure.into()))?;
        let mark = self.buffer.mark();
        let last_sink = self.sinks.len() - 1;
        for number in 0..self.sinks.len() {
            self.buffer.reset(mark);
            let footing = self.sinks[number].footing();
            self.core.may_go_on(footing).map_err(|failure| End::SinkFailed(number, failure.into()))?;
            let before = self.buffer.len();
            let done = write_to(&mut self.sinks[number], &mut self.buffer, count, self.patience).await;
            if !matches!(done, Ok(Ready::Writable)) && number == last_sink {
                self.written += (before - self.buffer.len()) as u64;
            }
            match done {
                Ok(Ready::Writable) => {}
                Ok(Ready::Answered) => return Err(End::Answered(number)),
                Err(cause) => return Err(End::SinkFailed(number, cause)),
            }
        }
        self.written += count as u64;
        self.budget.spend(&self.core.fair, count).await;
        Ok(())
    }
}

/// Writes the first `count` bytes of the buffer, consuming what was taken.
async fn write_to(sink: &mut Sink<'_>, buffer: &mut Buffer, count: usize, patience: Patience) -> Result<Ready, Cause> {
    match sink {
        Sink::File(draft, _) => disk_in_time(patience.sink, draft.write(buffer, count)).await.map(|()| Ready::Writable),
        Sink::Socket(stream) => {
            stream.deadline().arm(Phase::Body, patience.sink);
            stream.write_front(buffer, count).await?;
            stream.deadline().disarm();
            Ok(Ready::Writable)
        }
        Sink::Signed(stream, signed, _) => {
            let mut left = count;
            while left > 0 {
                let taken = signed.gather(&buffer.data()[..left]);
                buffer.consume(taken);
                left -= taken;
                if signed.frames().is_empty() {
                    continue;
                }
                let mut frames = Buffer::from_bytes(signed.frames());
                signed.frames().clear();
                stream.deadline().arm(Phase::Body, patience.sink);
                let whole = frames.len();
                let done = stream.write_front_or_answered(&mut frames, whole).await?;
                stream.deadline().disarm();
                if done == Ready::Answered {
                    return Ok(done);
                }
            }
            Ok(Ready::Writable)
        }
        Sink::Answering(stream, _) => {
            stream.deadline().arm(Phase::Body, patience.sink);
            let done = stream.write_front_or_answered(buffer, count).await?;
            stream.deadline().disarm();
            Ok(done)
        }
    }
}
