//! What a database must do, and what handlers and workers hold. Both speak changes (change.rs) and queries (query.rs).
//!
//! A `Change` runs in one transaction (with the others of its batch), and asking again after a lost answer is safe,
//! because the batch's id is resolved first. An error (`Failure`) means that nothing is known to have happened.
//!
//! `MetadataStore` is implemented by each database; `Metadata` is what callers have (the reactor's mailbox, or the
//! simulator).

use super::database_state::DatabaseState;
use super::record::Located;
use crate::base::{BackendName, Failure, Timestamp};
use std::sync::Arc;
use std::time::Duration;

pub use super::change::*;
pub use super::operator::*;
pub use super::query::*;

/// The id of a batch, in `batches`; random, made by the desk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BatchId(pub u64, pub u64);

/// What a batch did.
#[derive(Clone, PartialEq, Debug)]
pub struct Applied {
    /// One per change, in order.
    pub outcomes: Vec<Outcome>,
    /// Bytes charged in all, after the batch, on the backends where it changed that; on all after a registration.
    pub charged: Vec<(BackendName, u64)>,
}

/// Why a batch has no outcomes.
#[derive(Clone, Debug)]
pub enum ApplyError {
    /// Rolled back, or never begun: nothing happened.
    NotApplied(Failure),
    /// The COMMIT was sent and its answer lost: ask `resolve` before anything runs again.
    Unknown(Failure),
}

/// A database. One implementation passes `store/conformance.rs` or is not one.
pub trait MetadataStore {
    /// Carries out the changes as one transaction that is durable when this returns. No two changes of a batch concern
    /// the same key. The caller keeps the changes too, to run them again if nothing happened. Cancel: NOT safe.
    fn apply(&self, id: BatchId, changes: Arc<[Change]>) -> impl Future<Output = Result<Applied, ApplyError>>;
    /// So many batches may be under way at the same time, of which no two concern the same key, upload or blob, and none is
    /// beside one that concerns something else.
    fn batches_in_flight_max(&self) -> usize {
        1
    }
    /// The outcomes of a batch whose answer was lost; None if it never committed (and now never will). Nothing else is begun
    /// between a lost answer and this, but what was under way beside it may go on, to the end of each of its changes.
    /// Cancel: NOT safe.
    fn resolve(&self, id: BatchId) -> impl Future<Output = Result<Option<Applied>, Failure>>;
    /// Cancel: safe.
    fn query(&self, query: Query) -> impl Future<Output = Result<Answer, Failure>>;
    /// The database does not answer: whatever is open to it is closed, so that calls under way fail and the next one may
    /// find another server.
    fn drop_sessions(&self) {}
}

/// Times of the protocol (PROTOCOL.md; configuration keys in brackets), given to a store when it is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// Displaced copies stay readable so long (`cleanup_queue.grace`, 5 min).
    pub grace: Duration,
    /// A body may appear on a backend so long after it was given up (`write_path.settle`, 20 min).
    pub settle: Duration,
    /// First retry of a failed DELETE, doubling up to the second (1 min, 24 h).
    pub retry_first: Duration,
    pub retry_max: Duration,
    /// Failed DELETEs until a blob is dead (10).
    pub attempts_max: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(5 * 60),
            settle: Duration::from_secs(20 * 60),
            retry_first: Duration::from_secs(60),
            retry_max: Duration::from_secs(24 * 3600),
            attempts_max: 10,
        }
    }
}

impl Rules {
    /// When a blob is due again after this many failed DELETEs.
    pub fn retry_at(&self, now: Timestamp, attempts: u32) -> Timestamp {
        let doublings = attempts.saturating_sub(1).min(31);
        now.plus(self.retry_first.saturating_mul(1 << doublings).min(self.retry_max))
    }
}

/// What handlers and workers hold: the way to the metadata desk.
pub trait Metadata {
    /// Fills `into` with the live version of a key; false if there is none. Served from the location cache when it can be.
    /// Fails with `Kind::Overloaded` when the mailbox is full. Cancel: NOT safe.
    fn lookup(&self, bucket: &str, key: &str, into: &mut Located) -> impl Future<Output = Result<bool, Failure>> {
        self.lookup_afresh(bucket, key, into)
    }
    /// The same, asked of the database whatever the location cache holds: where that has led nowhere, or where something is
    /// written that depends on it. Cancel: NOT safe.
    fn lookup_afresh(
        &self,
        bucket: &str,
        key: &str,
        into: &mut Located,
    ) -> impl Future<Output = Result<bool, Failure>> {
        async {
            let query = Query::Lookup { bucket: bucket.to_owned(), key: key.to_owned() };
            match self.query(query).await? {
                Answer::Lookup(found) => Ok(found.map(|located| *into = located).is_some()),
                other => Err(Failure::ourselves(format!("a lookup was answered with {other:?}"))),
            }
        }
    }
    /// Cancel: NOT safe.
    fn query(&self, query: Query) -> impl Future<Output = Result<Answer, Failure>>;
    /// Begins may fail with `Kind::Overloaded`; ends of what was begun never do. Cancel: NOT safe.
    fn change(&self, change: Change) -> impl Future<Output = Result<Outcome, Failure>>;

    /// Where the key was when this process last heard of it, whatever has happened since; false if it never did.
    fn recall(&self, _bucket: &str, _key: &str, _into: &mut Located) -> bool {
        false
    }

    /// What is known of the database without asking it; None where there is no breaker around it.
    fn database(&self) -> Option<&DatabaseState> {
        None
    }

    /// `change`, typed.
    fn step<S: Step>(&self, step: S) -> impl Future<Output = Result<S::Outcome, Failure>> {
        async { self.change(step.into()).await.map(S::outcome) }
    }
}
