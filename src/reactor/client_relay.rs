//! Bodies between a client and what is opened at the other end: which path they take, what an early end means, what is
//! counted.

use super::backends::{Sink, Source};
use super::buffer::Buffer;
use super::client::ClientExchange;
use super::relay::copy::{Body, Inspect, Unseen, Wire, copy_body};
use super::relay::pipe::PooledPipe;
use super::relay::splice::splice_body;
use super::relay::{self, Cause, End};
use crate::backend::port::{MoveEnd, Moved};
use crate::base::Failure;
use crate::base::limits::HEAD_BYTES_MAX;
use crate::policy::body_path::{BodyFacts, BodyPath, choose_body_path};
use crate::proto::body_check::BodyCheck;
use crate::proto::body_error::BodyError;
use crate::proto::error_code::{ErrorCode, S3Error};
use std::io;

/// A disk tells its failure itself; of a socket's the side that owns it knows what it means.
fn failure_of(cause: Cause, of_socket: impl FnOnce(&io::Error) -> Failure) -> Failure {
    match cause {
        Cause::Socket(cause) => of_socket(&cause),
        Cause::Disk(failure) => failure,
    }
}

/// The client's body ended early: it went away, or was too slow and is told so.
fn body_broken(exchange: &mut ClientExchange<'_>, cause: Cause) -> MoveEnd {
    exchange.close_after();
    let cause = match cause {
        Cause::Socket(cause) => cause,
        Cause::Disk(failure) => return MoveEnd::Source(failure),
    };
    match cause.kind() {
        io::ErrorKind::TimedOut => {
            exchange.count_timeout();
            let text =
                "Your socket connection to the server was not read from or written to within the timeout period.";
            MoveEnd::Refused(S3Error::new(ErrorCode::RequestTimeout, text).closing())
        }
        io::ErrorKind::UnexpectedEof => MoveEnd::Refused(S3Error::from(BodyError::Incomplete).closing()),
        _ => MoveEnd::Source(exchange.lost_client(&cause)),
    }
}

/// Reads a whole body of at most `max` bytes into memory. Cancel: NOT safe.
pub async fn receive(exchange: &mut ClientExchange<'_>, max: usize, check: &mut BodyCheck) -> Result<Buffer, S3Error> {
    let too_large = || S3Error::from(ErrorCode::EntityTooLarge);
    if exchange.body.length().is_some_and(|length| length > max as u64) {
        return Err(too_large());
    }
    let broken = || S3Error::from(BodyError::Incomplete).closing();
    exchange.before_body().await.map_err(|_| broken())?;
    exchange.time_input();
    let mut left = match exchange.body.wire() {
        Wire::Exact(bytes) => Some(bytes),
        Wire::Framed => None,
    };
    let mut intake = exchange.body.open(check);
    let small = left.is_some_and(|left| left <= HEAD_BYTES_MAX as u64);
    let pool = if small { &exchange.site.core().heads } else { &exchange.site.core().bodies };
    let mut body = pool.try_take().unwrap_or_else(|| Buffer::roomy(HEAD_BYTES_MAX));
    let mut ended = left == Some(0);
    while !ended {
        if body.spare() == 0 {
            // Longer than a pooled buffer is XML, and rare: it is gathered in memory of its own.
            let mut larger = Buffer::roomy((body.capacity() * 4).min(2 * max + HEAD_BYTES_MAX));
            larger.append(body.data());
            body = larger;
        }
        let seen = body.len();
        let ahead = exchange.ahead.as_mut().expect("a request with a body has room for what was read ahead");
        let due = left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
        let was_ahead = !ahead.is_empty();
        if was_ahead {
            body.append(&ahead.data()[..ahead.len().min(due)]);
        } else {
            // Behind a framed body may lie the next request: no more is read than `ahead` can keep.
            let limit = if left.is_some() { due } else { ahead.capacity() };
            match exchange.stream.read_at_most(&mut body, limit).await {
                Ok(1..) => {}
                Ok(0) => return Err(broken()),
                Err(cause) => {
                    return Err(match body_broken(exchange, cause.into()) {
                        MoveEnd::Refused(error) => error,
                        _ => broken(),
                    });
                }
            }
        }
        let fresh = body.len() - seen;
        let Ok(looked) = intake.look(&mut body.data_mut()[seen..]) else { return Err(intake.into_refusal()) };
        let ahead = exchange.ahead.as_mut().expect("checked above");
        if was_ahead {
            ahead.consume(looked.used.min(fresh));
        } else {
            ahead.append(&body.data()[seen + looked.used..]);
        }
        body.keep(seen, looked.forward);
        if body.len() > max {
            return Err(too_large());
        }
        left = left.map(|left| left - looked.used as u64);
        ended = looked.ended || left == Some(0);
    }
    if intake.verdict().is_err() {
        return Err(intake.into_refusal());
    }
    exchange.body.finished();
    exchange.received_bytes = body.len() as u64;
    Ok(body)
}

/// Moves the client's body into the sinks. Cancel: NOT safe.
pub async fn receive_into(exchange: &mut ClientExchange<'_>, sinks: &mut [Sink], check: &mut BodyCheck) -> Moved {
    if let Err(failure) = exchange.before_body().await {
        return Moved { bytes: 0, end: MoveEnd::Source(failure) };
    }
    let size = exchange.body.length().unwrap_or(0);
    let facts = BodyFacts {
        size_bytes: size,
        plaintext_both_sides: exchange.body.is_plain()
            && !exchange.stream.is_tls()
            && sinks.iter().all(Sink::is_plain_socket),
        must_inspect: check.must_look(),
        targets: sinks.len(),
        pipe_available: true,
    };
    let pipe = match choose_body_path(exchange.site.view().server.relay, &facts) {
        BodyPath::Splice => exchange.site.core().pipes.take(),
        BodyPath::Copy => None,
    };
    let moved = match pipe {
        Some(pipe) => splice_in(exchange, &mut sinks[0], size, check, pipe).await,
        None => copy_in(exchange, sinks, size, check).await,
    };
    exchange.received_bytes = moved.bytes;
    moved
}

/// As `receive_into`, within the kernel: nobody looks at the bytes.
async fn splice_in(
    exchange: &mut ClientExchange<'_>,
    sink: &mut Sink,
    size: u64,
    check: &mut BodyCheck,
    mut pipe: PooledPipe,
) -> Moved {
    let mut intake = exchange.body.open(check);
    if intake.verdict().is_err() {
        return Moved { bytes: 0, end: MoveEnd::Refused(intake.into_refusal()) };
    }
    let held = exchange.ahead.as_ref().map_or(&[][..], Buffer::data);
    let first = held.len().min(usize::try_from(size).unwrap_or(usize::MAX));
    if let Err(failure) = sink.start(&held[..first]).await {
        return Moved { bytes: 0, end: MoveEnd::Sink(failure) };
    }
    if let Some(ahead) = &mut exchange.ahead {
        ahead.consume(first);
    }
    let patience = exchange.patience_in();
    let source = relay::Source::Client(exchange.stream);
    let core = exchange.site.core();
    let moved = splice_body(core, source, sink.relay(), size - first as u64, patience, &mut pipe).await;
    sink.moved(moved.bytes);
    exchange.site.cells().relayed(BodyPath::Splice, moved.bytes);
    exchange.note_path(BodyPath::Splice);
    let bytes = first as u64 + moved.bytes;
    let end = match moved.end {
        End::Done => {
            exchange.body.finished();
            MoveEnd::Done
        }
        End::SourceFailed(cause) => body_broken(exchange, cause),
        End::SinkFailed(_, cause) => MoveEnd::Sink(sink.broken(cause).await),
        End::Answered(_) => MoveEnd::Sink(sink.early_answer().await),
        End::Refused => unreachable!("nobody looks at a spliced body"),
    };
    Moved { bytes, end }
}

async fn copy_in(exchange: &mut ClientExchange<'_>, sinks: &mut [Sink], size: u64, check: &mut BodyCheck) -> Moved {
    for sink in &mut *sinks {
        if let Err(failure) = sink.start(&[]).await {
            return Moved { bytes: 0, end: MoveEnd::Sink(failure) };
        }
    }
    let wire = exchange.body.wire();
    let mut intake = exchange.body.open(check);
    // A request whose body is empty has none, and what lies behind it stays in the head's buffer.
    let mut ahead = exchange.ahead.take();
    let mut nothing = Buffer::roomy(0);
    let patience = exchange.patience_in();
    let source = relay::Source::Client(exchange.stream);
    let mut ends: Vec<_> = sinks.iter_mut().map(Sink::relay).collect();
    let body = Body { wire, size, ahead: ahead.as_mut().unwrap_or(&mut nothing) };
    let moved = copy_body(exchange.site.core(), source, &mut ends, body, &mut intake, patience).await;
    drop(ends);
    sinks.iter_mut().for_each(|sink| sink.moved(moved.bytes));
    exchange.ahead = ahead;
    exchange.site.cells().relayed(BodyPath::Copy, moved.bytes);
    exchange.note_path(BodyPath::Copy);
    let end = match moved.end {
        End::Done => {
            exchange.body.finished();
            MoveEnd::Done
        }
        End::SourceFailed(cause) => body_broken(exchange, cause),
        End::SinkFailed(number, cause) => MoveEnd::Sink(sinks[number].broken(cause).await),
        End::Answered(number) => MoveEnd::Sink(sinks[number].early_answer().await),
        End::Refused => MoveEnd::Refused(intake.into_refusal()),
    };
    Moved { bytes: moved.bytes, end }
}

/// Moves what a source holds to the client. Cancel: NOT safe.
pub async fn send_from(exchange: &mut ClientExchange<'_>, mut source: Source) -> Moved {
    let mut moved = 0;
    let end = loop {
        if source.left() == 0 {
            source.finished();
            break MoveEnd::Done;
        }
        match send_segment(exchange, &mut source, &mut moved).await {
            MoveEnd::Done => {}
            early => break early,
        }
    };
    Moved { bytes: moved, end }
}

/// Moves what can be moved in one go: what was read along with the head, and the rest of one file or connection.
async fn send_segment(exchange: &mut ClientExchange<'_>, source: &mut Source, moved: &mut u64) -> MoveEnd {
    if !source.ahead().is_empty() || exchange.head_held() {
        let first = source.ahead().len();
        if let Err(failure) = exchange.send_body(source.ahead()).await {
            return MoveEnd::Sink(failure);
        }
        exchange.site.cells().relayed(BodyPath::Copy, first as u64);
        exchange.note_path(BodyPath::Copy);
        source.moved(first as u64);
        *moved += first as u64;
        if source.left() == 0 {
            return MoveEnd::Done;
        }
    }
    let size = source.segment_left();
    let facts = BodyFacts {
        size_bytes: size,
        plaintext_both_sides: source.is_plain() && !exchange.stream.is_tls(),
        must_inspect: false,
        targets: 1,
        pipe_available: true,
    };
    let pipe = match choose_body_path(exchange.site.view().server.relay, &facts) {
        BodyPath::Splice => exchange.site.core().pipes.take(),
        BodyPath::Copy => None,
    };
    let patience = exchange.patience_out();
    let core = exchange.site.core();
    let sink = relay::Sink::Socket(exchange.stream);
    let (done, path) = match pipe {
        Some(mut pipe) => (splice_body(core, source.relay(), sink, size, patience, &mut pipe).await, BodyPath::Splice),
        None => {
            let body = Body { wire: Wire::Exact(size), size, ahead: &mut Buffer::roomy(0) };
            (copy_body(core, source.relay(), &mut [sink], body, &mut Unseen, patience).await, BodyPath::Copy)
        }
    };
    exchange.site.cells().relayed(path, done.bytes);
    exchange.note_path(path);
    exchange.count_sent(done.bytes);
    source.moved(done.bytes);
    *moved += done.bytes;
    match done.end {
        End::Done => MoveEnd::Done,
        End::SourceFailed(cause) => MoveEnd::Source(source.failure(cause)),
        End::SinkFailed(_, cause) => MoveEnd::Sink(failure_of(cause, |cause| exchange.lost_client(cause))),
        End::Answered(_) | End::Refused => unreachable!("a client does not answer, and nobody looks"),
    }
}
