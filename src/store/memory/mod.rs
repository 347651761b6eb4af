//! The reference implementation of `MetadataStore`: plain maps, meant to be read. Tests and the simulator use it; every
//! database is compared with it outcome by outcome.
//!
//! What it holds is what a database would have made durable: tasks may be dropped at any point (a crash) and nothing that
//! was committed is lost. It never fails; faults are put around it by those who test them.

mod buckets;
mod budgets;
mod copies;
mod operator;
mod read;
pub(super) mod tables;
mod upkeep;
mod uploads;
mod writes;

use super::port::{Answer, Applied, ApplyError, BatchId, Change, Done, MetadataStore, Outcome, Query, Renewed, Rules};
use crate::base::{Clock, Failure, Timestamp};
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use tables::Tables;

/// One database in memory. `clock` is the database's clock. A clone is a copy of all rows, as a backup is.
#[derive(Debug, Clone)]
pub struct MemoryStore<C> {
    clock: C,
    latest: Cell<Timestamp>,
    tables: RefCell<Tables>,
}

impl<C: Clock> MemoryStore<C> {
    pub fn new(clock: C, rules: Rules) -> Self {
        Self { clock, latest: Cell::default(), tables: RefCell::new(Tables::new(rules)) }
    }

    /// The clock, which never runs backwards here.
    fn now(&self) -> Timestamp {
        self.latest.set(self.latest.get().max(self.clock.now()));
        self.latest.get()
    }

    /// `apply` without a future, for tests that need none.
    pub fn apply_now(&self, id: BatchId, changes: &[Change]) -> Applied {
        let now = self.now();
        let mut tables = self.tables.borrow_mut();
        tables.touched.clear();
        tables.found.clear();
        let outcomes = changes.iter().map(|change| tables.carry_out(now, change.clone())).collect();
        if changes.iter().any(|change| matches!(change, Change::ForgetOld(_))) {
            tables.forget_old(now);
        }
        let applied = Applied { outcomes, charged: tables.charged_of_touched() };
        tables.batches.insert(id, (now, applied.clone()));
        applied
    }
}

impl<C: Clock> MetadataStore for MemoryStore<C> {
    async fn apply(&self, id: BatchId, changes: Arc<[Change]>) -> Result<Applied, ApplyError> {
        Ok(self.apply_now(id, &changes))
    }

    async fn resolve(&self, id: BatchId) -> Result<Option<Applied>, Failure> {
        Ok(self.tables.borrow().batches.get(&id).map(|(_, applied)| applied.clone()))
    }

    async fn query(&self, query: Query) -> Result<Answer, Failure> {
        Ok(self.tables.borrow().answer(self.now(), query))
    }
}

impl Tables {
    pub(in crate::store) fn carry_out(&mut self, now: Timestamp, change: Change) -> Outcome {
        match change {
            Change::Register(one) => Outcome::Register(Ok(self.register(now, one))),
            Change::SetLimits(one) => Outcome::SetLimits(Ok(self.set_limits(one))),
            Change::Renew(one) => Outcome::Renew(self.must_live(one.incarnation).map(|()| Renewed::default())),
            Change::TakeService(one) => Outcome::TakeService(self.must_live(one.incarnation).map(|()| Done)),
            Change::BeginWrite(one) => Outcome::BeginWrite(self.begin_write(now, one)),
            Change::CommitWrite(one) => Outcome::CommitWrite(self.commit_write(now, one)),
            Change::AbandonWrite(one) => Outcome::AbandonWrite(Ok(self.abandon_write(now, &one))),
            Change::Delete(one) => Outcome::Delete(self.delete(now, &one)),
            Change::SetTags(one) => Outcome::SetTags(self.set_tags(one)),
            Change::BeginCopy(one) => Outcome::BeginCopy(self.begin_copy(now, one)),
            Change::CommitCopy(one) => Outcome::CommitCopy(self.commit_copy(now, one)),
            Change::RemoveCopy(one) => Outcome::RemoveCopy(self.remove_copy(now, &one)),
            Change::CreateUpload(one) => Outcome::CreateUpload(self.create_upload(now, one)),
            Change::SetBackendUpload(one) => Outcome::SetBackendUpload(self.set_backend_upload(one)),
            Change::BeginPart(one) => Outcome::BeginPart(self.begin_part(now, one)),
            Change::CommitPart(one) => Outcome::CommitPart(self.commit_part(one)),
            Change::AbandonPart(one) => Outcome::AbandonPart(Ok(self.abandon_part(now, &one))),
            Change::StartComplete(one) => Outcome::StartComplete(self.start_complete(now, one)),
            Change::FinishComplete(one) => Outcome::FinishComplete(self.finish_complete(now, one)),
            Change::ReopenUpload(one) => Outcome::ReopenUpload(self.reopen_upload(now, &one)),
            Change::AbortUpload(one) => Outcome::AbortUpload(self.abort_upload(now, &one)),
            Change::AbortStale(one) => Outcome::AbortStale(self.abort_stale(now, &one)),
            Change::CleanupDone(one) => Outcome::CleanupDone(self.cleanup_done(one)),
            Change::CleanupFailed(one) => Outcome::CleanupFailed(Ok(self.cleanup_failed(now, one))),
            Change::RecordUsage(one) => Outcome::RecordUsage(Ok(self.record_usage(one))),
            Change::LeaseBudgets(one) => Outcome::LeaseBudgets(Ok(self.lease_budgets(&one, now))),
            Change::RecordFacts(one) => Outcome::RecordFacts(self.record_facts(&one)),
            Change::SetDraining(one) => Outcome::SetDraining(self.set_draining(&one)),
            Change::CreateBucket(one) => Outcome::CreateBucket(self.create_bucket(now, one)),
            Change::DeleteBucket(one) => Outcome::DeleteBucket(self.delete_bucket(&one)),
            // At the batch's end.
            Change::ForgetOld(_) => Outcome::ForgetOld(Ok(Done)),
            Change::Requeue(one) => Outcome::Requeue(self.requeue(now, one)),
            Change::WriteOff(one) => Outcome::WriteOff(self.write_off(one)),
            Change::FinishDrain(one) => Outcome::FinishDrain(self.finish_drain(&one)),
            Change::DropCopy(one) => Outcome::DropCopy(self.drop_copy(now, &one)),
            Change::Adopt(one) => Outcome::Adopt(self.adopt(now, one)),
            Change::SetRestored(one) => Outcome::SetRestored(Ok(self.set_restored(now, one))),
        }
    }
}
