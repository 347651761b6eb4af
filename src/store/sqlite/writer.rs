//! The writer thread: the only one that changes the database. A batch is one transaction, one fsync.

use super::super::port::{Applied, ApplyError, BatchId, Change, Rules};
use super::ledger::Ledger;
use super::open::Mark;
use super::transaction::Transaction;
use super::{Wall, failure};
use crate::base::{Failure, Timestamp};
use rusqlite::{Connection, params};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Batches whose outcomes are remembered: a lost answer concerns the last one.
const REMEMBERED: usize = 16;
/// Rows of `batches` that are kept, and how often the others are removed. This process is the only one that could ask, and
/// it asks at once, so they are kept by number and not for an hour.
const BATCHES_KEPT: i64 = 4096;
const BATCHES_TRIM_EVERY: i64 = 256;

pub(super) enum Job {
    Apply { id: BatchId, changes: Arc<[Change]>, reply: oneshot::Sender<Result<Applied, ApplyError>> },
    Resolve { id: BatchId, reply: oneshot::Sender<Result<Option<Applied>, Failure>> },
}

pub(super) struct Writer {
    conn: Connection,
    rules: Rules,
    wall: Wall,
    /// The clock, which never runs backwards here.
    latest: Timestamp,
    ledger: Ledger,
    last_batch: i64,
    mark: Mark,
    /// The last batches that were sent to COMMIT, whatever came of it.
    sent: VecDeque<(BatchId, Applied)>,
    /// A batch whose COMMIT failed: whether it is in the database is not known yet, nor what the books say.
    unsure: Option<BatchId>,
}

impl Writer {
    pub(super) fn new(conn: Connection, mark: Mark, rules: Rules, wall: Wall) -> rusqlite::Result<Self> {
        let ledger = Ledger::load(&conn)?;
        let last_batch = conn.query_row("SELECT coalesce(max(seq), 0) FROM batches", [], |row| row.get(0))?;
        let latest = Timestamp::default();
        Ok(Self { conn, rules, wall, latest, ledger, last_batch, mark, sent: VecDeque::new(), unsure: None })
    }

    /// Works until every sender is gone.
    pub(super) fn run(mut self, jobs: &flume::Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            // A caller that has gone away does not want its answer.
            match job {
                Job::Apply { id, changes, reply } => drop(reply.send(self.apply(id, &changes))),
                Job::Resolve { id, reply } => drop(reply.send(self.resolve(id).map_err(|error| failure(&error)))),
            }
        }
    }

    pub(super) fn apply(&mut self, id: BatchId, changes: &[Change]) -> Result<Applied, ApplyError> {
        let not_applied = |error: rusqlite::Error| ApplyError::NotApplied(failure(&error));
        if let Some(unsure) = self.unsure {
            self.resolve(unsure).map_err(not_applied)?;
        }
        let books = self.ledger.clone();
        match self.carry_out(id, changes) {
            Ok(applied) => self.commit(id, applied),
            Err(error) => {
                self.ledger = books;
                // When the rollback fails too, the next BEGIN will tell.
                let _ = self.conn.execute_batch("ROLLBACK");
                Err(not_applied(error))
            }
        }
    }

    /// Everything up to the COMMIT.
    fn carry_out(&mut self, id: BatchId, changes: &[Change]) -> rusqlite::Result<Applied> {
        self.latest = self.latest.max((self.wall)());
        self.conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let mut transaction =
            Transaction { conn: &self.conn, ledger: &mut self.ledger, rules: &self.rules, now: self.latest };
        let outcomes = changes.iter().map(|one| transaction.carry_out(one)).collect::<Result<_, _>>()?;
        if changes.iter().any(|one| matches!(one, Change::ForgetOld(_))) {
            transaction.forget_old()?;
        }
        let charged = self.ledger.write(&self.conn)?;
        self.note_batch(id, "applied")?;
        Ok(Applied { outcomes, charged })
    }

    fn commit(&mut self, id: BatchId, applied: Applied) -> Result<Applied, ApplyError> {
        self.sent.push_back((id, applied.clone()));
        if self.sent.len() > REMEMBERED {
            self.sent.pop_front();
        }
        match self.conn.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([])) {
            Ok(_) => {
                self.mark.write(self.last_batch);
                Ok(applied)
            }
            Err(error) => {
                self.unsure = Some(id);
                Err(ApplyError::Unknown(failure(&error)))
            }
        }
    }

    #[cfg(test)]
    pub(super) fn execute_in_test(&self, sql: &str) {
        self.conn.execute_batch(sql).expect("a test's own statement");
    }

    fn note_batch(&mut self, id: BatchId, outcome: &str) -> rusqlite::Result<()> {
        self.last_batch += 1;
        self.conn
            .prepare_cached("INSERT INTO batches (seq, id, at, outcome) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![self.last_batch, id_bytes(id), self.latest.millis, outcome])?;
        if self.last_batch % BATCHES_TRIM_EVERY == 0 {
            self.conn.execute("DELETE FROM batches WHERE seq <= ?1", [self.last_batch - BATCHES_KEPT])?;
        }
        Ok(())
    }

    /// Looks for the batch's row in a transaction that is itself committed. A COMMIT that failed at its fsync may have left
    /// its pages in the log: a later one overwrites them, so that they cannot come back after a crash. If the row is not
    /// there, a void one takes its place, and the batch never was.
    pub(super) fn resolve(&mut self, id: BatchId) -> rusqlite::Result<Option<Applied>> {
        if !self.conn.is_autocommit() {
            self.conn.execute_batch("ROLLBACK")?;
        }
        self.ledger = Ledger::load(&self.conn)?;
        self.last_batch = self.conn.query_row("SELECT coalesce(max(seq), 0) FROM batches", [], |row| row.get(0))?;
        self.conn.execute_batch("BEGIN IMMEDIATE")?;
        let settled = self.look_for(id);
        let settled = settled.and_then(|found| self.conn.execute_batch("COMMIT").map(|()| found));
        if settled.is_err() && !self.conn.is_autocommit() {
            let _ = self.conn.execute_batch("ROLLBACK"); // the error of the transaction is the one to tell
        }
        let applied = settled?;
        if self.unsure == Some(id) {
            self.unsure = None;
        }
        if !applied {
            return Ok(None);
        }
        let sent = self.sent.iter().find(|(one, _)| *one == id);
        let gone = || rusqlite::Error::ToSqlConversionFailure("the outcomes of that batch are forgotten".into());
        sent.map(|(_, applied)| Some(applied.clone())).ok_or_else(gone)
    }

    /// Whether the batch was applied; afterwards a row says so for good.
    fn look_for(&mut self, id: BatchId) -> rusqlite::Result<bool> {
        let found = self.conn.query_row(
            "SELECT outcome = 'applied' FROM batches WHERE id = ?1 ORDER BY seq DESC LIMIT 1",
            [id_bytes(id)],
            |row| row.get(0),
        );
        match found {
            Ok(applied) => {
                // The COMMIT that follows must write something, or it overwrites nothing.
                self.conn.execute("UPDATE batches SET at = at WHERE id = ?1", [id_bytes(id)])?;
                Ok(applied)
            }
            Err(rusqlite::Error::QueryReturnedNoRows) => self.note_batch(id, "void").map(|()| false),
            Err(error) => Err(error),
        }
    }
}

fn id_bytes(id: BatchId) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&id.0.to_be_bytes());
    bytes[8..].copy_from_slice(&id.1.to_be_bytes());
    bytes
}
