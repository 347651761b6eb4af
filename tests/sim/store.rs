//! The memory store with faults around it: slow, failing before or after the effect, losing the answer of a COMMIT, away
//! for a while. What `apply_now` has done is durable, as a COMMIT is; what was not applied when the process died is not.

use super::mutant::Mutant;
use super::world::World;
use s3_orchestrator::base::{Clock, Failure, Tenure};
use s3_orchestrator::store::port::{Answer, Applied, ApplyError, BatchId, Change, MetadataStore, Query};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Chances per mille.
#[derive(Clone, Copy, Debug)]
pub struct StoreFaults {
    pub not_applied: u64,
    /// The COMMIT's answer is lost, half of the time after its effect.
    pub answer_lost: u64,
    pub query_fails: u64,
    pub slow: u64,
}

impl StoreFaults {
    pub const NONE: Self = Self { not_applied: 0, answer_lost: 0, query_fails: 0, slow: 0 };
    pub const SOME: Self = Self { not_applied: 6, answer_lost: 10, query_fails: 4, slow: 10 };
}

pub struct FaultyStore {
    pub world: Rc<World>,
    /// Ends with its run.
    pub tenure: Arc<Tenure>,
    /// Restores that this run knows of.
    pub epoch: Cell<u64>,
}

impl FaultyStore {
    async fn way(&self) {
        let sim = &self.world.sim;
        let slow = sim.chance(self.world.store_faults.get().slow);
        let micros = if slow { 100_000 + sim.below(2_500_000) } else { 20 + sim.below(1_500) };
        sim.sleep(Duration::from_micros(micros)).await;
    }

    /// A run that meets a database which was put back since it registered holds it, unless that was compared already, and
    /// registers anew.
    fn notice_restored(&self, changes: &[Change]) -> Result<(), ApplyError> {
        let epoch = self.world.restores.epoch.get();
        if self.epoch.get() == epoch || matches!(changes, [Change::SetRestored(_)]) {
            return Ok(());
        }
        self.world.hold_rewound();
        if matches!(changes, [Change::Register(_)]) {
            self.epoch.set(epoch);
            return Ok(());
        }
        self.tenure.end();
        Err(ApplyError::NotApplied(Failure::overloaded("this run's lease has ended; it registers anew")))
    }

    fn is_away(&self) -> bool {
        self.world.sim.now_nanos() < self.world.store_away_until_nanos.get()
    }
}

impl MetadataStore for FaultyStore {
    fn batches_in_flight_max(&self) -> usize {
        self.world.setting.in_flight
    }

    async fn apply(&self, id: BatchId, changes: Arc<[Change]>) -> Result<Applied, ApplyError> {
        let faults = self.world.store_faults.get();
        self.way().await;
        if self.is_away() || self.world.sim.chance(faults.not_applied) {
            return Err(ApplyError::NotApplied(Failure::metadata("rolled back")));
        }
        let lost = self.world.sim.chance(faults.answer_lost);
        if lost && self.world.sim.chance(500) {
            self.way().await;
            return Err(ApplyError::Unknown(Failure::metadata("the connection broke before COMMIT")));
        }
        self.notice_restored(&changes)?;
        if self.world.setting.mutant == Mutant::NoSyncStore && self.world.sim.chance(50) {
            *self.world.store_synced.borrow_mut() = Some((*self.world.store()).clone());
        }
        let named = self.world.names_of_dropped(&changes);
        let before = self.world.before(&changes);
        let applied = self.world.store().apply_now(id, &changes);
        self.world.disown(&named);
        self.world.applied(&changes, &applied, &before);
        self.way().await;
        if lost || self.is_away() {
            Err(ApplyError::Unknown(Failure::metadata("the connection broke after COMMIT")))
        } else {
            Ok(applied)
        }
    }

    async fn resolve(&self, id: BatchId) -> Result<Option<Applied>, Failure> {
        self.way().await;
        if self.is_away() || self.world.sim.chance(self.world.store_faults.get().query_fails) {
            return Err(Failure::metadata("still no connection"));
        }
        self.world.store().resolve(id).await
    }

    async fn query(&self, query: Query) -> Result<Answer, Failure> {
        self.way().await;
        if self.is_away() || self.world.sim.chance(self.world.store_faults.get().query_fails) {
            return Err(Failure::metadata("no connection"));
        }
        let answer = self.world.store().query(query).await;
        self.way().await;
        answer
    }
}
