//! This process's right to write: which incarnation it is, and until when its lease lasts by its own monotonic clock.
//!
//! One per process, written by whoever keeps the lease, read by every thread without locks. With a database of one process
//! there is no lease: it lasts for ever.

use super::clock::Tick;
use super::ids::Incarnation;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

const FOR_EVER: u64 = u64::MAX;

/// That a run may delete what the database has just told it to: while its lease lasts, and for one term. After that the
/// database may have been put back, and every row may say something else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mandate {
    pub incarnation: Incarnation,
    /// None: there is no lease, and nobody puts the database back under this process.
    pub until: Option<Tick>,
}

#[derive(Debug)]
pub struct Tenure {
    incarnation: AtomicI64,
    /// Nanoseconds of the monotonic clock.
    until: AtomicU64,
}

impl Default for Tenure {
    /// Nobody yet, without a lease.
    fn default() -> Self {
        Self { incarnation: AtomicI64::new(0), until: AtomicU64::new(FOR_EVER) }
    }
}

impl Tenure {
    pub fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation.load(Ordering::Acquire))
    }

    pub fn set_incarnation(&self, incarnation: Incarnation) {
        self.incarnation.store(incarnation.0, Ordering::Release);
    }

    /// Whether the lease lasts. `now` is only asked for where there is one.
    pub fn lasts(&self, now: impl FnOnce() -> Tick) -> bool {
        let until = self.until.load(Ordering::Acquire);
        until == FOR_EVER || now().nanos < until
    }

    /// Whether it lasts and is still this incarnation's: of one that has lapsed since, nothing goes on under the next one's.
    pub fn lasts_for(&self, incarnation: Incarnation, now: impl FnOnce() -> Tick) -> bool {
        // In this order: whoever registers anew says first who it is.
        self.lasts(now) && self.incarnation() == incarnation
    }

    /// For what is decided on what the database is asked from `now` on; a lease is of this `term`.
    pub fn mandate(&self, now: Tick, term: Duration) -> Mandate {
        Mandate { incarnation: self.incarnation(), until: self.has_lease().then(|| now.after(term)) }
    }

    /// Whether what was decided may still be carried out.
    pub fn covers(&self, mandate: Mandate, now: impl Fn() -> Tick) -> bool {
        mandate.until.is_none_or(|until| now() < until) && self.lasts_for(mandate.incarnation, now)
    }

    /// Whether there is a lease at all.
    pub fn has_lease(&self) -> bool {
        self.until.load(Ordering::Relaxed) != FOR_EVER
    }

    pub fn renew(&self, until: Tick) {
        self.until.store(until.nanos.min(FOR_EVER - 1), Ordering::Release);
    }

    /// The database says that the incarnation has ended.
    pub fn end(&self) {
        self.until.store(0, Ordering::Relaxed);
    }

    pub fn has_ended(&self) -> bool {
        self.until.load(Ordering::Relaxed) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_lasts_until_its_end() {
        let tenure = Tenure::default();
        assert!(tenure.lasts(|| panic!("there is no lease")) && !tenure.has_lease());
        let mandate = tenure.mandate(Tick { nanos: 3 }, Duration::from_nanos(5));
        assert!(tenure.covers(mandate, || panic!("there is no lease")));
        tenure.renew(Tick { nanos: 10 });
        assert!(tenure.lasts(|| Tick { nanos: 9 }));
        assert!(!tenure.lasts(|| Tick { nanos: 10 }) && tenure.has_lease() && !tenure.has_ended());
        tenure.set_incarnation(Incarnation(7));
        assert!(tenure.lasts_for(Incarnation(7), || Tick { nanos: 9 }));
        assert!(!tenure.lasts_for(Incarnation(6), || Tick { nanos: 9 }), "another run's lease");
        let mandate = tenure.mandate(Tick { nanos: 3 }, Duration::from_nanos(5));
        assert!(tenure.covers(mandate, || Tick { nanos: 7 }));
        assert!(!tenure.covers(mandate, || Tick { nanos: 8 }), "it is older than a term");
        assert!(!tenure.covers(Mandate { incarnation: Incarnation(6), ..mandate }, || Tick { nanos: 7 }));
        tenure.end();
        assert!(!tenure.covers(mandate, || Tick { nanos: 7 }));
        assert!(tenure.has_ended() && !tenure.lasts(|| Tick { nanos: 0 }));
    }
}
