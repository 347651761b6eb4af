//! What all threads see of the database without asking it: its breaker, what it said when this run registered, and which
//! blobs this process knows to be uncommitted. Written by the metadata desk and by the start.

use super::change::Registered;
use crate::base::Incarnation;
use crate::observe::circuit::Circuit;
use crate::policy::breaker::BreakerSettings;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Uncommitted blobs that are remembered; beyond, the oldest are forgotten.
const UNCOMMITTED_MAX: usize = 64 * 1024;

#[derive(Debug)]
pub struct DatabaseState {
    /// Named `database`.
    pub circuit: Circuit,
    uncommitted: Mutex<Uncommitted>,
    registered: OnceLock<Registered>,
    /// Batches that were applied; some are even while the breaker is open.
    applied: AtomicU64,
}

/// By a hash of what a commit names (a blob or an upload), a hash of the blob's name.
#[derive(Debug, Default)]
struct Uncommitted {
    names: HashMap<u64, u64>,
    /// Oldest first; some are committed meanwhile.
    order: VecDeque<u64>,
}

impl DatabaseState {
    pub fn new(settings: BreakerSettings) -> Self {
        Self {
            circuit: Circuit::new("database", settings),
            uncommitted: Mutex::default(),
            registered: OnceLock::new(),
            applied: AtomicU64::new(0),
        }
    }

    /// The database knows this run from now on; said once.
    pub fn set_registered(&self, registered: Registered) {
        let again = self.registered.set(registered);
        assert!(again.is_ok(), "a run registers once");
    }

    /// None while the database has not answered since the start.
    pub fn registered(&self) -> Option<&Registered> {
        self.registered.get()
    }

    /// Before registering, one that no database has given out: what it would begin is refused.
    pub fn incarnation(&self) -> Incarnation {
        self.registered().map_or(Incarnation(0), |registered| registered.incarnation)
    }

    /// Changes with everything that this process has heard of the database: what was found without it holds no longer
    /// than this stays the same.
    pub fn age(&self) -> (u64, u64) {
        (self.circuit.times_closed(), self.applied.load(Relaxed))
    }

    pub(super) fn batch_applied(&self) {
        self.applied.fetch_add(1, Relaxed);
    }

    /// Bytes may come to be under this name that are nobody's yet. `by`: what a commit will name.
    pub(super) fn begun(&self, by: impl Hash, name: &str) {
        let mut uncommitted = self.uncommitted.lock().unwrap_or_else(PoisonError::into_inner);
        let by = hash(by);
        if uncommitted.names.insert(by, hash(name)).is_none() {
            uncommitted.order.push_back(by);
        }
        while uncommitted.order.len() > UNCOMMITTED_MAX
            || uncommitted.order.front().is_some_and(|first| !uncommitted.names.contains_key(first))
        {
            let oldest = uncommitted.order.pop_front();
            oldest.map(|oldest| uncommitted.names.remove(&oldest));
        }
    }

    pub(super) fn committed(&self, by: impl Hash) {
        self.uncommitted.lock().unwrap_or_else(PoisonError::into_inner).names.remove(&hash(by));
    }

    /// Whether this process began the blob of this name and has not heard that it was committed. Walks all that is
    /// remembered: for reads without the database.
    pub fn is_uncommitted(&self, name: &str) -> bool {
        let name = hash(name);
        self.uncommitted.lock().unwrap_or_else(PoisonError::into_inner).names.values().any(|one| *one == name)
    }
}

fn hash(what: impl Hash) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::BlobId;
    use std::time::Duration;

    #[test]
    fn what_was_begun_is_uncommitted_until_it_is_not() {
        let settings = BreakerSettings { failure_threshold: 1, open_timeout: Duration::MAX, probe_max: Duration::MAX };
        let state = DatabaseState::new(settings);
        for i in 0..3 * UNCOMMITTED_MAX as i64 {
            state.begun(BlobId(i), &format!("bkt/k!{i}"));
            if i % 3 != 0 {
                state.committed(BlobId(i));
            }
        }
        let last = 3 * UNCOMMITTED_MAX as i64 - 3;
        assert!(state.is_uncommitted(&format!("bkt/k!{last}")));
        assert!(!state.is_uncommitted(&format!("bkt/k!{}", last + 1)), "committed");
        assert!(!state.is_uncommitted("bkt/k!0"), "too long ago to remember");
        assert!(state.uncommitted.lock().expect("no panic").names.len() <= UNCOMMITTED_MAX);
        state.committed(BlobId(last));
        assert!(!state.is_uncommitted(&format!("bkt/k!{last}")));
    }
}
