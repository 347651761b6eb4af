//! Background jobs as the mover asks for them: it runs a pass when control says so, reports what the pass did, and asks
//! again. When is control's business (control/schedule), what is the workers'.

use crate::observe::cells::Service;
use crate::workers::{drain, sync};
use std::time::Duration;

/// The mover is ready for the next pass of a service.
#[derive(Clone, Debug)]
pub struct Ask {
    pub service: Service,
    /// What the last pass did; None before the first.
    pub last: Option<Pass>,
}

/// What a pass did, as far as the schedule decides by it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pass {
    pub failed: bool,
    /// There is more to do at once.
    pub more: bool,
    /// When the next thing comes due, if that is known and earlier than the interval.
    pub due_in: Option<Duration>,
    /// Work that is left, for services that count it.
    pub pending: Option<u64>,
    /// Of drains: what was done for each backend.
    pub drains: Vec<drain::Report>,
}

/// Run a pass now.
#[derive(Clone, Debug, Default)]
pub struct Go {
    /// Of `Service::Sync`: what an operator asked for.
    pub order: Option<SyncOrder>,
}

/// A comparison that somebody waits for.
#[derive(Clone, Debug)]
pub struct SyncOrder {
    pub plan: sync::Plan,
    /// Hears of everything that is found. Unbounded, because the mover cannot wait for another thread's channel; see
    /// `EVENTS_MAX`.
    pub events: flume::Sender<sync::Event>,
}

/// Events that may wait to be read; of more, only counts and the end are told.
pub const EVENTS_MAX: usize = 100_000;
