//! Ends what was begun and left: attempts whose tasks could not wait for their end, reservations that no task holds, and rows
//! that have had their time.
//!
//! Recovery after a death of the process is the store's, when the next run registers; it dooms, it never commits.

use crate::base::{BlobId, Clock, Dice, Failure};
use crate::handlers::ports::{Ports, Worker};
use crate::policy::retry::Backoff;
use crate::store::port::{AbandonWrite, Answer, Change, ForgetOld, GivenUp, Metadata, Query, WRITER_GONE};
use std::collections::HashSet;
use std::time::Duration;

/// Rows of one query.
const PAGE: u32 = 1000;

const AGAIN: Backoff = Backoff { first: Duration::from_millis(100), cap: Duration::from_secs(10) };

/// Asks for an end (`Ports::end_later`) until the store has answered. Ends are idempotent, so one whose answer was lost is
/// asked again. Run as a task of its own by whoever implements the port.
pub async fn end<P: Ports>(ports: &P, end: Change) {
    let mut attempt = 0;
    while let Err(failure) = ports.meta().change(end.clone()).await {
        // While the breaker is open, its own message has said so, for all of them.
        if attempt == 0 && ports.meta().database().is_none_or(|database| database.circuit.is_closed()) {
            tracing::warn!(%failure, "the end of an attempt waits for the database");
        }
        ports.clock().sleep(AGAIN.delay(attempt, ports.dice().roll())).await;
        attempt = attempt.saturating_add(1);
    }
    // What nobody can know of has no grace: it is due now.
    ports.wake(Worker::Cleanup);
}

/// The sweep of this run's own reservations (PROTOCOL.md, "Who is alive"): a begin whose answer no task was there to take, a task
/// that ended without its guard. One per run.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Those that no task held at the last look.
    unheld: HashSet<BlobId>,
}

impl Sweep {
    /// Gives up what no task has held at two looks; how many those were. Between the commit of a begin and its task's knowing of
    /// it, one look may find it unheld; so looks are to be
    /// further apart than an answer may take (`database.call_timeout`). What was given up too early could not be committed any
    /// more, and its bytes are deleted when they have settled: a write would fail, and nothing would be lost.
    pub async fn pass<P: Ports>(&mut self, ports: &P) -> Result<u64, Failure> {
        let incarnation = ports.incarnation();
        let mut reserved = Vec::new();
        loop {
            let after = reserved.last().copied().unwrap_or(BlobId(0));
            let page = match ports.meta().query(Query::Reserved { incarnation, after, max: PAGE }).await? {
                Answer::Reserved(page) => page,
                other => return Err(Failure::ourselves(format!("a query was answered with {other:?}"))),
            };
            reserved.extend(&page);
            if page.len() < PAGE as usize {
                break;
            }
        }
        // Looked at later than the rows: whose task holds it had it then.
        let Some(held) = ports.held().blobs() else {
            self.unheld.clear();
            return Ok(0);
        };
        let unheld: HashSet<BlobId> = reserved.into_iter().filter(|blob| !held.contains(blob)).collect();
        let mut lost: Vec<BlobId> = unheld.intersection(&self.unheld).copied().collect();
        lost.sort_unstable();
        self.unheld = unheld;
        for &blob in &lost {
            let given_up = GivenUp { blob, may_appear: true };
            let abandon = AbandonWrite { incarnation, given_up, reason: WRITER_GONE.to_owned() };
            // Ended meanwhile, or ended now: both are well.
            let _ = ports.meta().step(abandon).await?;
        }
        if !lost.is_empty() {
            tracing::warn!(blobs = lost.len(), "reservations that no task held were given up");
            ports.wake(Worker::Cleanup);
        }
        Ok(lost.len() as u64)
    }
}

/// Once an hour or so.
pub async fn forget_old<P: Ports>(ports: &P) -> Result<(), Failure> {
    match ports.meta().step(ForgetOld).await? {
        Ok(_) => Ok(()),
        Err(refusal) => Err(Failure::ourselves(format!("forgetting was refused: {refusal:?}"))),
    }
}
