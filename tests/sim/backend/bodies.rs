//! Bodies on their way to a model backend and from it, and how they break off.

use super::super::executor::WORLD;
use super::{Backend, Body, Flavour, LATE_MAX};
use s3_orchestrator::backend::port::{Put, PutTarget, Stored, UpstreamPayload};
use s3_orchestrator::base::{Clock, Failure, Incarnation};
use std::rc::Rc;
use std::time::Duration;

/// A body on its way in.
pub(super) struct Arriving {
    pub(super) name: String,
    pub(super) payload: UpstreamPayload,
    /// The backend's upload id, the part's number, the attempt's nonce.
    pub(super) part: Option<(String, u16, String)>,
}

impl Arriving {
    pub(super) fn new(put: &Put<'_>) -> Self {
        let part = match put.target {
            PutTarget::Object(_) => None,
            PutTarget::Part { backend_upload, number, nonce } => {
                Some((backend_upload.to_owned(), number.get(), nonce.to_owned()))
            }
        };
        Self { name: put.blob.name.clone(), payload: put.payload, part }
    }
}

pub struct Sink {
    pub(super) backend: Rc<Backend>,
    pub(super) arriving: Option<Arriving>,
    /// Which run writes it.
    pub writer: Incarnation,
    pub(super) size: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) breaks_at: Option<u64>,
}

impl Sink {
    pub fn push(&mut self, piece: &[u8]) -> Result<(), Failure> {
        self.bytes.extend_from_slice(piece);
        assert!(self.bytes.len() as u64 <= self.size, "more bytes than were declared");
        match self.breaks_at {
            Some(at) if self.bytes.len() as u64 >= at => Err(self.backend.unavailable("put")),
            _ if self.backend.is_down() => Err(self.backend.unavailable("put")),
            _ => Ok(()),
        }
    }

    pub async fn finish(mut self) -> Result<Stored, Failure> {
        assert_eq!(self.bytes.len() as u64, self.size, "a body that is finished is whole");
        let arriving = self.arriving.take().expect("a sink ends once");
        let body = std::mem::take(&mut self.bytes);
        self.backend.clone().finish_body(arriving, body.into()).await
    }
}

impl Drop for Sink {
    /// Given up, or its process died: a whole body may still be accepted, a part of one never is.
    fn drop(&mut self) {
        let Some(arriving) = self.arriving.take() else { return };
        let whole = self.bytes.len() as u64 == self.size;
        if !whole || self.backend.flavour == Flavour::Directory || self.backend.sim.chance(500) {
            return;
        }
        let (backend, body) = (self.backend.clone(), std::mem::take(&mut self.bytes));
        let after = Duration::from_nanos(backend.sim.below(LATE_MAX.as_nanos() as u64));
        let sim = backend.sim.clone();
        sim.clone().spawn(WORLD, async move {
            sim.sleep(after).await;
            // Nobody waits for the answer.
            let _ = backend.store(arriving, body.into(), true);
        });
    }
}

pub struct Source {
    pub(super) backend: Rc<Backend>,
    pub(super) body: Body,
    pub(super) from: u64,
    pub(super) len: u64,
    pub(super) sent: u64,
    pub(super) breaks_at: Option<u64>,
}

impl Source {
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// The next piece; None at the end; Err when the source breaks off.
    pub fn pull(&mut self, max: usize) -> Result<Option<Body>, Failure> {
        if self.breaks_at.is_some_and(|at| self.sent >= at) || self.backend.is_down() {
            return Err(self.backend.unavailable("get"));
        }
        let left = self.len - self.sent;
        if left == 0 {
            return Ok(None);
        }
        let until_break = self.breaks_at.map_or(left, |at| at - self.sent);
        let piece = left.min(max as u64).min(until_break);
        let at = (self.from + self.sent) as usize;
        self.sent += piece;
        Ok(Some(self.body[at..at + piece as usize].into()))
    }
}
