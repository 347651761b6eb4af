//! Background jobs as the mover asks for them: it runs a pass when control says so, reports what the pass did, and asks
//! again. When is control's business (control/schedule), what is the workers'.

use crate::observe::cells::Service;
use std::time::Duration;

/// The mover is ready for the next pass of a service.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    pub service: Service,
    /// What the last pass did; None before the first.
    pub last: Option<Pass>,
}

/// What a pass did, as far as the schedule decides by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pass {
    pub failed: bool,
    /// There is more to do at once.
    pub more: bool,
    /// When the next thing comes due, if that is known and earlier than the interval.
    pub due_in: Option<Duration>,
    /// Work that is left, for services that count it.
    pub pending: Option<u64>,
}

/// Run a pass now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Go;
