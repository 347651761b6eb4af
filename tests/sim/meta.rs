//! The way from handlers and workers to the desk, which loses answers and lets some of the mutants in between.

use super::mutant::Mutant;
use super::world::World;
use s3_orchestrator::base::{Clock, Dice, Failure, Incarnation, Nonce};
use s3_orchestrator::handlers::held::{Held, Own};
use s3_orchestrator::store::database_state::DatabaseState;
use s3_orchestrator::store::desk::LocalMetadata;
use s3_orchestrator::store::port::*;
use s3_orchestrator::store::record::{BlobState, Located};
use std::fmt::Debug;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Of a thousand begins, those whose tasks end before they hear of it.
const LOST_BEGINS: u64 = 10;
/// And of begins of parts, which end with their uploads if nothing else ends them.
const LOST_PART_BEGINS: u64 = 80;

/// The desk as handlers hold it, with some of the mutants between.
pub struct SimMeta {
    pub desk: LocalMetadata,
    pub world: Rc<World>,
    pub held: Arc<Held>,
}

impl Metadata for SimMeta {
    async fn lookup(&self, bucket: &str, key: &str, into: &mut Located) -> Result<bool, Failure> {
        self.desk.lookup(bucket, key, into).await
    }

    fn recall(&self, bucket: &str, key: &str, into: &mut Located) -> bool {
        self.desk.recall(bucket, key, into)
    }

    fn database(&self) -> Option<&DatabaseState> {
        self.desk.database()
    }

    async fn query(&self, query: Query) -> Result<Answer, Failure> {
        match (self.world.setting.mutant, query) {
            (Mutant::ChargeFreedEarly, query @ Query::DueCleanups { .. }) => {
                let answer = self.desk.query(query).await?;
                if let Answer::DueCleanups(due) = &answer {
                    for one in due {
                        let _ = self.desk.step(CleanupDone { blob: one.blob.id, found: one.found }).await?;
                    }
                }
                Ok(answer)
            }
            (Mutant::ResumeOnAnotherVersion, Query::Copies { bucket, key, .. }) => {
                let found = self.desk.query(Query::Lookup { bucket, key }).await?;
                let Answer::Lookup(located) = found else { return Ok(found) };
                Ok(Answer::Copies(located.map(|located| located.blobs).unwrap_or_default()))
            }
            (Mutant::RemovalForgetsWrites, query @ Query::Blobs { .. }) => {
                let mut answer = self.desk.query(query).await?;
                if let Answer::Blobs(rows) = &mut answer {
                    rows.retain(|row| row.state != BlobState::Reserved);
                }
                Ok(answer)
            }
            (Mutant::DeletesWhileHeld, query @ Query::DueCleanups { .. }) => Ok(self.world.due_although_held(query)),
            (Mutant::SyncRevives, query @ Query::Blobs { .. }) => {
                let mut answer = self.desk.query(query).await?;
                if let Answer::Blobs(rows) = &mut answer {
                    rows.retain(|row| !was_live(&row.reason));
                }
                Ok(answer)
            }
            (_, query) => self.desk.query(query).await,
        }
    }

    async fn change(&self, change: Change) -> Result<Outcome, Failure> {
        if let Change::BeginWrite(begin) = &change {
            self.world.begins(begin.nonce);
        }
        match (self.world.setting.mutant, change) {
            (Mutant::BytesBeforeRow, Change::Delete(delete)) => {
                self.world.erase_live(&delete.bucket, &delete.key);
                self.desk.change(delete.into()).await
            }
            (Mutant::RemovalBytesBeforeRows, Change::DropCopy(drop)) => {
                self.world.erase_blob(drop.blob);
                self.desk.change(drop.into()).await
            }
            (Mutant::RemovalChargeFreedEarly, Change::DropCopy(drop)) => {
                let blob = drop.blob;
                let outcome = self.desk.change(drop.into()).await?;
                let found = self.world.sim.now().plus(Duration::from_secs(3_600));
                let _ = self.desk.step(CleanupDone { blob, found }).await?;
                Ok(outcome)
            }
            (Mutant::SyncRevives, Change::Adopt(adopt)) => {
                self.world.forget_ended(&adopt);
                self.desk.change(adopt.into()).await
            }
            (Mutant::NoIntent, Change::BeginWrite(begin)) => self.begin_without_row(begin).await,
            (Mutant::NoIntent, Change::CommitWrite(commit)) => self.commit_without_row(commit).await,
            (Mutant::DeadlockCleansUp, Change::CommitWrite(commit)) if self.world.sim.chance(50) => {
                let blob = commit.blobs[0].blob;
                self.world.erase_key_of(blob);
                Err(Failure::metadata("deadlock detected"))
            }
            (Mutant::DeadLeasesLentAgain, Change::LeaseBudgets(mut lease)) => {
                lease.incarnation = Incarnation(0);
                self.desk.change(lease.into()).await
            }
            (_, change @ (Change::BeginWrite(_) | Change::BeginCopy(_)))
                if !self.world.stopping.get() && self.world.sim.chance(LOST_BEGINS) =>
            {
                // The task ends before it hears of it.
                self.desk.change(change).await?;
                Err(Failure::metadata("the task has ended"))
            }
            (_, change @ Change::BeginPart(_))
                if !self.world.stopping.get() && self.world.sim.chance(LOST_PART_BEGINS) =>
            {
                self.desk.change(change).await?;
                Err(Failure::metadata("the task has ended"))
            }
            (_, Change::AbandonWrite(abandon)) if abandon.reason == WRITER_GONE => {
                self.must_not_be_held(Own::Blob(abandon.given_up.blob), &abandon);
                self.desk.change(abandon.into()).await
            }
            // Its task has let go of it before it asks for that.
            (_, Change::AbandonPart(abandon)) => {
                self.must_not_be_held(Own::Part(abandon.nonce), &abandon);
                self.desk.change(abandon.into()).await
            }
            (_, change) => self.desk.change(change).await,
        }
    }
}

impl SimMeta {
    fn must_not_be_held(&self, own: Own, given_up: &impl Debug) {
        if self.held.seen().is_some_and(|seen| seen.has(own)) {
            self.world.violated("I1 (a task's reservation is its own)", format!("{given_up:?}"));
        }
    }

    /// Takes the row away as soon as it is there.
    async fn begin_without_row(&self, begin: BeginWrite) -> Result<Outcome, Failure> {
        let incarnation = begin.incarnation;
        let outcome = self.desk.change(begin.into()).await?;
        if let Outcome::BeginWrite(Ok(begun)) = &outcome {
            let given_up = GivenUp { blob: begun.blob.id, may_appear: false };
            let _ = self.desk.step(AbandonWrite { incarnation, given_up, reason: "no intent".into() }).await?;
            let found = self.world.sim.now();
            let _ = self.desk.step(CleanupDone { blob: begun.blob.id, found }).await?;
            self.world.unnamed.borrow_mut().insert(begun.blob.id, begun.blob.clone());
        }
        Ok(outcome)
    }

    /// Writes the row when the bytes are there.
    async fn commit_without_row(&self, mut commit: CommitWrite) -> Result<Outcome, Failure> {
        let written = self.world.unnamed.borrow_mut().remove(&commit.blobs[0].blob);
        let Some(written) = written else { return self.desk.change(commit.into()).await };
        let model = &self.world.backends[self.world.view.backend_index(&written.backend).expect("configured")];
        let size = model.object(&written.name).map_or(0, |object| object.body.len() as u64);
        let begin = BeginWrite {
            incarnation: commit.incarnation,
            bucket: commit.bucket.clone(),
            in_stored: false,
            key: commit.key.clone(),
            size,
            candidates: vec![Candidate { backend: written.backend.clone(), literal: true }],
            condition: WriteCondition::default(),
            nonce: Nonce::from_roll(self.world.sim.roll()),
            instead_of: None,
        };
        match self.desk.step(begin).await? {
            Ok(begun) => {
                model.rename(&written.name, &begun.blob.name);
                commit.blobs[0].blob = begun.blob.id;
                self.desk.change(commit.into()).await
            }
            Err(refusal) => Ok(Change::from(commit).refused(refusal)),
        }
    }
}
