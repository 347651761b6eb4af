//! GetObject (DESIGN.md, "The story of a GET"): one committed version, whole or a range of it, from whichever copy answers.
//!
//! Before the first byte any failure tries the next copy. Midway another copy of the same version goes on at the exact
//! offset, since copies are byte-identical; if none can, the connection is cut.

use super::degraded::Found;
use super::placing;
use super::ports::{Exchange, Ports};
use super::request::Request;
use super::scratch::Scratch;
use super::selection::{LOOKS_MAX, not_modified, select};
use super::trouble::Trouble;
use super::unread::Unread;
use crate::backend::port::{MoveEnd, Span};
use crate::base::{Failure, Version};
use crate::store::port::{Answer, Metadata, Query};
use crate::store::record::{BlobAt, Located};

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
) -> Result<(), Trouble> {
    let mut looks = 0;
    loop {
        looks += 1;
        let Some(selection) = select(ports, request, scratch, looks > 1).await? else {
            return not_modified(exchange, scratch).await;
        };
        selection.write_head(exchange, request, scratch)?;
        if selection.span.len == 0 {
            return exchange.respond(b"").await.map_err(|_| Trouble::Cut);
        }
        match send(ports, request, exchange, &scratch.located, selection.span).await? {
            Sent::Whole => return Ok(()),
            // Its bytes may have been deleted since they were found: an overwrite, a move to another backend. And what
            // was remembered without the database may have other copies by now.
            Sent::NoCopy(unread) if (unread.stale || scratch.found == Found::Remembered) && looks < LOOKS_MAX => {}
            Sent::NoCopy(unread) => return Err(unread.failure.into()),
        }
    }
}

enum Sent {
    Whole,
    /// Nothing was sent: no copy could be opened.
    NoCopy(Unread),
}

/// A body on its way to the client.
struct Progress {
    sent: u64,
    head_sent: bool,
    unread: Option<Unread>,
}

impl Progress {
    fn failed(&mut self, failure: Failure) {
        self.unread = Some(Unread::after(self.unread.take(), failure.into()));
    }
}

async fn send<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    located: &Located,
    span: Span,
) -> Result<Sent, Trouble> {
    let mut progress = Progress { sent: 0, head_sent: false, unread: None };
    if try_copies(ports, exchange, located.size, &located.blobs, span, &mut progress).await? {
        return Ok(Sent::Whole);
    }
    if !progress.head_sent {
        return Ok(Sent::NoCopy(progress.unread.unwrap_or_else(|| Unread::untried(&located.blobs))));
    }
    // The client has a part of this version: only its own copies can go on, those in their grace included.
    for _ in 1..LOOKS_MAX {
        let copies = copies_of(ports, request, located.version).await?;
        if try_copies(ports, exchange, located.size, &copies, span, &mut progress).await? {
            return Ok(Sent::Whole);
        }
    }
    ports.cells().bodies_cut.inc();
    let cause = progress.unread.map(|unread| unread.failure.to_string()).unwrap_or_default();
    tracing::warn!(request = request.id, sent = progress.sent, cause, "a body was cut: no copy can go on");
    Err(Trouble::Cut)
}

/// Each copy once, best first, until the span is whole: then true.
async fn try_copies<P: Ports, X: Exchange<P>>(
    ports: &P,
    exchange: &mut X,
    size: u64,
    copies: &[BlobAt],
    span: Span,
    progress: &mut Progress,
) -> Result<bool, Trouble> {
    for (attempt, position) in placing::read_order(ports, copies).iter().enumerate() {
        let copy = &copies[position];
        let rest = Span { from: span.from + progress.sent, len: span.len - progress.sent };
        let source = match ports.open(copy, size, rest).await {
            Ok(source) => source,
            Err(failure) => {
                tracing::debug!(backend = copy.backend.as_str(), %failure, "a copy was not opened");
                progress.failed(failure);
                continue;
            }
        };
        let backend = placing::index_of(ports, &copy.backend);
        if progress.head_sent {
            ports.cells().read_resumes.inc();
        } else {
            if attempt > 0 {
                ports.cells().read_failovers.inc();
            }
            exchange.note_backend(backend);
            exchange.send_head(span.len).await.map_err(|_| Trouble::Cut)?;
            progress.head_sent = true;
        }
        let moved = exchange.send_from(source).await;
        progress.sent += moved.bytes;
        assert!(progress.sent <= span.len, "a source gave more than it was asked for");
        match moved.end {
            MoveEnd::Done if progress.sent == span.len => return Ok(true),
            MoveEnd::Done => progress.failed(Failure::backend("a copy ended early")),
            MoveEnd::Source(failure) => {
                tracing::debug!(backend = copy.backend.as_str(), %failure, "a copy broke off");
                progress.failed(failure);
            }
            MoveEnd::Sink(_) | MoveEnd::Refused(_) => return Err(Trouble::Cut),
        }
    }
    Ok(false)
}

async fn copies_of<P: Ports>(ports: &P, request: &Request<'_>, version: Version) -> Result<Vec<BlobAt>, Trouble> {
    let (bucket, key) = (request.bucket().to_owned(), request.key().to_owned());
    match ports.meta().query(Query::Copies { bucket, key, version }).await? {
        Answer::Copies(copies) => Ok(copies),
        _ => Err(Failure::ourselves("a query was answered with another's answer").into()),
    }
}
