//! PostgreSQL, shared by any number of instances (PROTOCOL.md, "Many instances").
//!
//! A batch loads the rows that its changes look at (footprint.rs, load.rs), decides with the reference implementation's own
//! code (store/memory), and writes what that changed (diff.rs, write.rs) as one pipeline from BEGIN to COMMIT. So a change is
//! described once; what is PostgreSQL's is which rows it needs. Nothing is locked while we think: the writing transaction
//! verifies under its locks that what was loaded is still so, and a batch that was overtaken is decided anew.
//!
//! Two batches of this process may be under way at the same time, as batches of two instances are (the desk sees to it that they
//! have no key in common): each has its connection, and its blobs' numbers beforehand. They meet at the end of their
//! transactions only, on the run's mark and shares (write.rs).
//!
//! Charges go to this incarnation's own shares (shares.rs), so that batches of different instances wait for each other only
//! over a common key. Requests' lookups are pipelined on two connections; everything else takes one from the pool.
//!
//! All of it runs on the metadata thread. Connections are made when first needed, and the tables are brought up to date then
//! (migrate.rs): a store can be made while the database is down.

mod alone;
mod batch;
mod buckets;
mod budgets;
#[cfg(test)]
pub(super) mod cluster;
mod diff;
mod faults;
mod footprint;
mod hosts;
mod lease;
mod leftovers;
mod list;
mod load;
mod locks;
mod migrate;
mod options;
#[cfg(test)]
mod plans;
mod read;
mod recall;
mod register;
mod restored;
mod rows;
mod scan;
mod sessions;
mod shares;
mod target;
#[cfg(test)]
mod tests;
mod tls;
mod write;

use super::port::{Answer, Applied, ApplyError, BatchId, Change, MetadataStore, Query, Rules};
use crate::base::{BackendName, Failure, Incarnation, Tenure, Tick, Timestamp};
use rows::Backends;
use sessions::Sessions;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub use options::{PostgresOptions, Protection};
pub use target::Target;

/// What one batch waits for (its round trips, the disk) is another's time to be decided and written.
const BATCHES_IN_FLIGHT: usize = 2;

/// A clock instead of the database's, for tests.
pub type TestWall = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// For one thread.
pub struct PostgresStore {
    sessions: Sessions,
    rules: Rules,
    /// Term of this incarnation's lease (`write_path.lease`).
    lease: Duration,
    tenure: Arc<Tenure>,
    tick: fn() -> Tick,
    decide_within: Duration,
    clock: Option<TestWall>,
    /// The database's clock, which never runs backwards here.
    latest: Cell<Timestamp>,
    /// The one that batches are charged to; 0 before the first registration.
    incarnation: Cell<Incarnation>,
    /// The incarnation's mark after the last transaction of it that is known to be committed.
    told_mark: Cell<i64>,
    /// When it was told that, or that it is registered, by the database's clock.
    told_at: Cell<Timestamp>,
    /// When its lease was last renewed, by the same clock.
    renewed_at: Cell<Timestamp>,
    /// What both will be when the renewal that is under way is committed.
    renewing: Cell<(i64, Timestamp)>,
    blob_ids: Cell<batch::BlobIds>,
    /// What writes under way will be committed on.
    recall: RefCell<recall::Recall>,
    /// The last batches, whatever came of them.
    sent: RefCell<VecDeque<batch::Sent>>,
    /// The marks of what was last told of a backend's charge.
    charged_at: RefCell<BTreeMap<BackendName, i64>>,
    /// A registration whose answer was lost, and when it was asked for.
    pending: Cell<Option<(BatchId, Incarnation, Tick)>>,
    /// As far as they were met.
    backends: RefCell<Backends>,
}

impl PostgresStore {
    /// Connects when it is first asked something. `tenure` is kept up to date with the lease, by the clock `tick`; `clock`: None,
    /// except in tests.
    pub fn new(
        options: PostgresOptions,
        rules: Rules,
        lease: Duration,
        tenure: Arc<Tenure>,
        tick: fn() -> Tick,
        clock: Option<TestWall>,
    ) -> std::io::Result<Self> {
        Ok(Self {
            decide_within: options.decide_within,
            sessions: Sessions::new(options)?,
            rules,
            lease,
            tenure,
            tick,
            clock,
            latest: Cell::default(),
            incarnation: Cell::new(Incarnation(0)),
            told_mark: Cell::new(0),
            told_at: Cell::default(),
            renewed_at: Cell::default(),
            renewing: Cell::default(),
            blob_ids: Cell::default(),
            recall: RefCell::default(),
            sent: RefCell::default(),
            charged_at: RefCell::default(),
            pending: Cell::new(None),
            backends: RefCell::default(),
        })
    }
}

impl MetadataStore for PostgresStore {
    fn batches_in_flight_max(&self) -> usize {
        BATCHES_IN_FLIGHT
    }

    async fn apply(&self, id: BatchId, changes: Arc<[Change]>) -> Result<Applied, ApplyError> {
        match &changes[..] {
            [Change::Register(register)] => self.register(id, register).await,
            [Change::SetLimits(set)] => self.set_limits(id, set).await,
            [Change::CreateBucket(create)] => self.create_bucket(id, create).await,
            [Change::LeaseBudgets(lease)] => self.lease_budgets(id, lease).await,
            [Change::DeleteBucket(delete)] => self.delete_bucket(id, delete).await,
            [Change::Renew(renew)] => self.renew(id, *renew).await,
            [Change::TakeService(take)] => self.take_service(id, take).await,
            [Change::SetRestored(set)] => self.set_restored(id, *set).await,
            changes => self.batch(id, changes).await,
        }
    }

    async fn resolve(&self, id: BatchId) -> Result<Option<Applied>, Failure> {
        let found = self.look_for(id).await?;
        let pending = self.pending.take().filter(|(pending, ..)| *pending == id);
        if let (Some(_), Some((_, incarnation, asked))) = (&found, pending) {
            self.begin_incarnation(incarnation, asked);
        }
        Ok(found)
    }

    async fn query(&self, query: Query) -> Result<Answer, Failure> {
        self.answer(query).await.map_err(faults::of_reader)
    }

    fn drop_sessions(&self) {
        // Another database may answer next.
        self.recall.borrow_mut().clear();
        self.leave_ids();
        self.sessions.drop_all();
    }
}
