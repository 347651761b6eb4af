//! Moves a plaintext body within the kernel: splice(2) through a pooled pipe, waiting by readiness. Never by
//! IORING_OP_SPLICE, which holds a kernel thread per idle connection.
//!
//! Sockets of the ring's driver are blocking: they are made non-blocking for the body, with no other operation in flight,
//! and blocking again however it ends. Only an empty pipe is filled, so a failing source leaves nothing in it.

use super::pipe::PooledPipe;
use super::{Cause, End, Moved, Patience, Sink, Source, disk_in_time, waiting_for};
use crate::reactor::core::Core;
use crate::reactor::deadline::Phase;
use crate::reactor::disk::OpenFile;
use crate::reactor::driver::DriverKind;
use crate::reactor::fair::Budget;
use crate::reactor::stream::{Ready, Stream};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Moves `len` bytes. The sink is a plaintext socket, the source a plaintext socket or a file; bytes that were read ahead
/// of them into a buffer are sent before. Both deadlines are disarmed at the beginning and at a good end.
/// Cancel: NOT safe, both sides are to be closed.
pub async fn splice_body(
    core: &Core,
    source: Source<'_>,
    sink: Sink<'_>,
    len: u64,
    patience: Patience,
    pipe: &mut PooledPipe,
) -> Moved {
    let (from, to) = (source.footing(), sink.footing());
    let (sink, answers) = match sink {
        Sink::Socket(stream) => (&*stream, false),
        Sink::Answering(stream, _) => (&*stream, true),
        Sink::File(..) | Sink::Signed(..) => unreachable!("bodies are spliced to plain sockets only"),
    };
    sink.deadline().disarm();
    let _sink_mode = match NonBlocking::set(sink) {
        Ok(mode) => mode,
        Err(cause) => return Moved::end(0, End::SinkFailed(0, cause.into())),
    };
    let mut feed = match Feed::open(source, patience) {
        Ok(feed) => feed,
        Err(cause) => return Moved::end(0, End::SourceFailed(cause.into())),
    };
    let mut left = len;
    let mut moved = 0;
    let mut budget = Budget::default();
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(pipe.pipe().capacity());
        let filled = match feed.fill(wanted, pipe).await {
            Ok(0) => return Moved::end(moved, End::SourceFailed(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => count,
            Err(cause) => return Moved::end(moved, End::SourceFailed(cause)),
        };
        left -= filled as u64;
        // Told that more follows, the kernel holds a short segment back for 200 ms: so only after a source that filled the
        // whole pipe, not after one that has paused.
        let more = left > 0 && filled == pipe.pipe().capacity();
        while pipe.pipe().holds() > 0 {
            if let Err(failure) = core.may_go_on(from) {
                return Moved::end(moved, End::SourceFailed(failure.into()));
            }
            if let Err(failure) = core.may_go_on(to) {
                return Moved::end(moved, End::SinkFailed(0, failure.into()));
            }
            match pipe.pipe().drain(sink, more) {
                Ok(count) => {
                    moved += count as u64;
                    budget.spend(&core.fair, count).await;
                }
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                    match waiting_for(sink, (Phase::Body, patience.sink), writable(sink, answers)).await {
                        Ok(Ready::Writable) => {}
                        Ok(Ready::Answered) => return Moved::end(moved, End::Answered(0)),
                        Err(cause) => return Moved::end(moved, End::SinkFailed(0, cause.into())),
                    }
                }
                Err(cause) => return Moved::end(moved, End::SinkFailed(0, sink.blame(cause).into())),
            }
        }
    }
    Moved::end(moved, End::Done)
}

async fn writable(sink: &Stream, answers: bool) -> io::Result<Ready> {
    if answers {
        return sink.plain_writable_or_answered().await;
    }
    sink.writable().await.map(|()| Ready::Writable)
}

/// The source while it is being spliced from.
enum Feed<'a> {
    Socket { stream: &'a Stream, patience: Patience, _mode: NonBlocking<'a> },
    File(&'a mut OpenFile, Duration),
}

impl<'a> Feed<'a> {
    fn open(source: Source<'a>, patience: Patience) -> io::Result<Self> {
        Ok(match source {
            Source::File(file, _) => Self::File(file, patience.source),
            Source::Client(stream) | Source::Backend(stream, _) => {
                let stream: &Stream = stream;
                stream.deadline().disarm();
                Self::Socket { stream, patience, _mode: NonBlocking::set(stream)? }
            }
        })
    }

    /// Fills the pipe with at most `wanted` bytes, waiting for the source. 0 = it has ended.
    async fn fill(&mut self, wanted: usize, pipe: &mut PooledPipe) -> Result<usize, Cause> {
        match self {
            Self::File(file, patience) => disk_in_time(*patience, file.fill(wanted, pipe)).await,
            Self::Socket { stream, patience, .. } => loop {
                match pipe.pipe().fill(*stream, None, wanted) {
                    Ok(0) if stream.deadline().hit() => return Err(io::ErrorKind::TimedOut.into()),
                    Ok(count) => return Ok(count),
                    Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                        waiting_for(stream, (Phase::Input, patience.source), stream.readable()).await?;
                    }
                    Err(cause) => return Err(stream.blame(cause).into()),
                }
            },
        }
    }
}

/// A socket of the ring's driver while it is non-blocking.
struct NonBlocking<'a> {
    restore: Option<(BorrowedFd<'a>, OFlags)>,
}

impl<'a> NonBlocking<'a> {
    fn set(stream: &'a Stream) -> io::Result<Self> {
        assert!(!stream.is_tls(), "TLS bodies are copied");
        if stream.driver() == DriverKind::Epoll {
            return Ok(Self { restore: None });
        }
        let before = fcntl_getfl(stream)?;
        fcntl_setfl(stream, before | OFlags::NONBLOCK)?;
        Ok(Self { restore: Some((stream.as_fd(), before)) })
    }
}

impl Drop for NonBlocking<'_> {
    fn drop(&mut self) {
        if let Some((fd, before)) = self.restore {
            let _ = fcntl_setfl(fd, before);
        }
    }
}
