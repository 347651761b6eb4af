//! One backend's account on one core: every call to it is counted, and its health remembered.

use crate::backend::s3::Ask;
use crate::base::failure::Kind;
use crate::base::{Clock, Dice, Failure, Tick};
use crate::observe::cells::{BackendCall, BackendCells, CallStatus};
use crate::policy::health::Health;
use crate::reactor::core::Core;
use std::fmt;
use std::rc::Rc;

#[derive(Clone)]
pub(super) struct Account {
    pub(super) core: Rc<Core>,
    pub(super) index: usize,
    pub(super) name: Rc<str>,
    health: Rc<Health>,
}

impl Account {
    pub(super) fn new(core: &Rc<Core>, health: &Rc<Health>, index: usize, name: &str) -> Self {
        Self { core: Rc::clone(core), index, name: name.into(), health: Rc::clone(health) }
    }

    pub(super) fn cells(&self) -> &BackendCells {
        &self.core.cells.backends[self.index]
    }

    pub(super) fn now(&self) -> Tick {
        self.core.clock.tick()
    }

    /// It answered as hoped.
    pub(super) fn succeeded(&self, call: BackendCall, start: Tick) {
        self.ended(call, CallStatus::Success, start);
    }

    /// It did not, for this reason.
    pub(super) fn failed(&self, call: BackendCall, start: Tick, failure: &Failure) {
        let status = match failure.kind {
            Kind::NotFound => CallStatus::NotFound,
            Kind::Refused | Kind::NoSpace => CallStatus::Refused,
            // Our own limit: nothing was asked.
            Kind::Overloaded => return,
            Kind::Unavailable | Kind::Corrupt | Kind::Gone => CallStatus::Error,
        };
        self.ended(call, status, start);
    }

    pub(super) fn noted<T>(&self, call: BackendCall, start: Tick, done: Result<T, Failure>) -> Result<T, Failure> {
        match &done {
            Ok(_) => self.succeeded(call, start),
            Err(failure) => self.failed(call, start, failure),
        }
        done
    }

    fn ended(&self, call: BackendCall, status: CallStatus, start: Tick) {
        let now = self.now();
        let time = now.since(start);
        self.cells().called(call, status, time);
        if status == CallStatus::Error {
            self.health.failed(self.index, now, self.core.dice.roll());
        } else {
            self.health.succeeded(self.index, time);
        }
    }

    /// A body from it broke off midway, after its head had been counted as a success.
    pub(super) fn broke_off(&self) {
        self.health.failed(self.index, self.now(), self.core.dice.roll());
    }

    /// It cannot be reached, or does not answer properly.
    pub(super) fn down(&self, cause: fmt::Arguments<'_>) -> Failure {
        Failure::backend(format!("backend {}: {cause}", self.name))
    }
}

pub(super) fn call_of(ask: &Ask<'_>) -> BackendCall {
    match ask {
        Ask::Get { .. } => BackendCall::Get,
        Ask::Put { .. } => BackendCall::Put,
        Ask::PutPart { .. } => BackendCall::UploadPart,
        Ask::Head { .. } => BackendCall::Head,
        Ask::Delete { .. } => BackendCall::Delete,
        Ask::CreateUpload { .. } => BackendCall::CreateUpload,
        Ask::CompleteUpload { .. } => BackendCall::CompleteUpload,
        Ask::AbortUpload { .. } => BackendCall::AbortUpload,
        Ask::ListUploads { .. } => BackendCall::ListUploads,
        Ask::List { .. } | Ask::ListVersions { .. } => BackendCall::List,
    }
}
