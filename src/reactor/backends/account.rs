//! One backend's account on one core: every call to it is counted, and its health remembered.

use super::charge::Charge;
use crate::backend::budget::{Budgets, Denied, Spend};
use crate::backend::health::Health;
use crate::backend::marker;
use crate::backend::s3::Ask;
use crate::base::failure::Kind;
use crate::base::{Blame, Clock, Dice, Failure, Retry, Tick};
use crate::observe::cells::{BackendCall, BackendCells, CallStatus};
use crate::reactor::core::Core;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

#[derive(Clone)]
pub(super) struct Account {
    pub(super) core: Rc<Core>,
    pub(super) index: usize,
    pub(super) name: Rc<str>,
    health: Rc<Health>,
    budgets: Arc<Budgets>,
}

impl Account {
    pub(super) fn new(core: &Rc<Core>, health: &Rc<Health>, budgets: &Arc<Budgets>, index: usize, name: &str) -> Self {
        Self {
            core: Rc::clone(core),
            index,
            name: name.into(),
            health: Rc::clone(health),
            budgets: Arc::clone(budgets),
        }
    }

    /// Takes what a call needs from the backend's budget; a call that is never refused is counted. Not to be sent if it
    /// fails. Cancel: safe, nothing is taken.
    pub(super) async fn pay(&self, spend: Spend, is_exempt: bool) -> Result<Option<Box<Charge>>, Failure> {
        let budgets = &self.budgets;
        if !budgets.is_metered(self.index) {
            return Ok(None);
        }
        let taken = if is_exempt {
            budgets.charge(self.index, &spend)
        } else {
            match budgets.admit_now(self.index, &spend) {
                Some(taken) => taken,
                // Boxed, since hardly any call waits.
                None => Box::pin(budgets.admit(&*self.core.clock, self.index, &spend))
                    .await
                    .map_err(|denied| self.denied(denied, &spend))?,
            }
        };
        Ok(Some(Box::new(Charge::new(budgets, self.index, taken, spend))))
    }

    fn denied(&self, denied: Denied, spend: &Spend) -> Failure {
        let is_read = spend.call.map_or(spend.ingress == 0, BackendCall::is_read);
        match denied {
            Denied::Spent => {
                let kind = if is_read { Kind::ReadBudget } else { Kind::WriteBudget };
                let cause = format!("backend {}: this month's budget is spent", self.name);
                Failure::new(kind, Blame::Ourselves, Retry::OtherBackend, cause)
            }
            Denied::Unanswered => Failure::metadata(format!("backend {}: its budget was not lent in time", self.name)),
            Denied::HeldBack => {
                let cause = format!(
                    "backend {}: the rest of this month's budget is kept for instances that were not seen to begin the month",
                    self.name
                );
                Failure::new(Kind::Overloaded, Blame::Ourselves, Retry::OtherBackend, cause)
            }
        }
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

    /// The head of a body has come, which is counted as the call's answer; the body's end will say more.
    pub(super) fn opened(&self, call: BackendCall, start: Tick) {
        let now = self.now();
        let time = now.since(start);
        self.cells().called(call, CallStatus::Success, time);
        self.health.answered(self.index, time, now);
    }

    /// That body has come whole.
    pub(super) fn came_whole(&self, now: Tick) {
        self.health.succeeded(self.index, now, now);
    }

    /// It did not, for this reason.
    pub(super) fn failed(&self, call: BackendCall, start: Tick, failure: &Failure) {
        if let Some(status) = status_of(failure) {
            self.ended(call, status, start);
        }
    }

    /// It said so itself, with this HTTP status. A 4xx is never a fault of its own.
    pub(super) fn refused(&self, call: BackendCall, start: Tick, http_status: u16, failure: &Failure) {
        match status_of(failure) {
            Some(CallStatus::Error) if (400..500).contains(&http_status) => {
                let now = self.now();
                self.cells().called(call, CallStatus::Error, now.since(start));
                self.health.declined(self.index, start, now, self.core.dice.roll());
            }
            Some(status) => self.ended(call, status, start),
            None => {}
        }
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
            self.health.failed(self.index, start, now, self.core.dice.roll());
        } else {
            // Any other call may have waited for its client, or for work that a read does not cause.
            if matches!(call, BackendCall::Get | BackendCall::Head) {
                self.health.answered(self.index, time, now);
            }
            self.health.succeeded(self.index, start, now);
        }
    }

    /// A body from it broke off midway, after its head had been counted as a success.
    pub(super) fn broke_off(&self) {
        let now = self.now();
        self.health.failed(self.index, now, now, self.core.dice.roll());
    }

    /// Its breaker is open: whoever asks it all the same does so for want of another.
    pub(super) fn is_open(&self) -> bool {
        self.health.is_open(self.index)
    }

    /// It cannot be reached, or does not answer properly.
    pub(super) fn down(&self, cause: fmt::Arguments<'_>) -> Failure {
        Failure::backend(format!("backend {}: {cause}", self.name))
    }
}

/// None: our own limit, or the database's silence; nothing was asked.
fn status_of(failure: &Failure) -> Option<CallStatus> {
    match failure.kind {
        _ if failure.blame == Blame::Metadata => None,
        Kind::NotFound => Some(CallStatus::NotFound),
        Kind::Refused | Kind::NoSpace => Some(CallStatus::Refused),
        Kind::Overloaded | Kind::ReadBudget | Kind::WriteBudget => None,
        Kind::Unavailable | Kind::Corrupt | Kind::Gone => Some(CallStatus::Error),
    }
}

/// Whether a call is made whatever the budget says: deletes and what belongs to them, and looks at whose backend it is and
/// what it does.
pub(super) fn is_exempt(ask: &Ask<'_>) -> bool {
    match ask {
        Ask::Delete { .. } | Ask::AbortUpload { .. } | Ask::ListUploads { .. } | Ask::ListVersions { .. } => true,
        _ => ask.name().starts_with(marker::FOLDER),
    }
}

pub(super) fn call_of(ask: &Ask<'_>) -> BackendCall {
    match ask {
        Ask::Get { .. } => BackendCall::Get,
        Ask::Put { .. } | Ask::Copy { .. } => BackendCall::Put,
        Ask::PutPart { .. } | Ask::CopyPart { .. } => BackendCall::UploadPart,
        Ask::Head { .. } => BackendCall::Head,
        Ask::Delete { .. } => BackendCall::Delete,
        Ask::CreateUpload { .. } => BackendCall::CreateUpload,
        Ask::CompleteUpload { .. } => BackendCall::CompleteUpload,
        Ask::AbortUpload { .. } => BackendCall::AbortUpload,
        Ask::ListUploads { .. } => BackendCall::ListUploads,
        Ask::List { .. } | Ask::ListVersions { .. } => BackendCall::List,
    }
}
