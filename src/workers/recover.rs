//! Ends what was begun and left: attempts whose tasks could not wait for their end, reservations that no task holds, and rows
//! that have had their time.
//!
//! Recovery after a death of the process is the store's, when the next run registers; it dooms, it never commits.

use crate::base::{BlobId, Clock, Dice, Failure, Incarnation};
use crate::handlers::held::Own;
use crate::handlers::ports::{Ports, Worker};
use crate::policy::retry::Backoff;
use crate::store::port::{
    AbandonPart, AbandonWrite, Answer, Change, ForgetOld, GivenUp, Metadata, PartAttempt, Query, WRITER_GONE,
};
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

/// Something reserved that no task held at a look.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Unheld {
    Blob(BlobId),
    Part(PartAttempt),
}

impl Unheld {
    fn own(&self) -> Own {
        match self {
            Self::Blob(blob) => Own::Blob(*blob),
            Self::Part(part) => Own::Part(part.nonce),
        }
    }

    /// Gives it up. Nobody knows what its task has sent.
    fn end(&self, incarnation: Incarnation) -> Change {
        match self.clone() {
            Self::Blob(blob) => {
                let given_up = GivenUp { blob, may_appear: true };
                AbandonWrite { incarnation, given_up, reason: WRITER_GONE.to_owned() }.into()
            }
            Self::Part(PartAttempt { upload, number, nonce }) => {
                AbandonPart { incarnation, upload, number, nonce, may_have_replaced: true }.into()
            }
        }
    }
}

/// What was given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Swept {
    pub blobs: u64,
    pub parts: u64,
}

/// The sweep of this run's own reservations, blobs and parts in flight (PROTOCOL.md, "Who is alive"): a begin whose answer no task
/// was there to take, a task that ended without its guard. One per run.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Those of the last look.
    unheld: HashSet<Unheld>,
}

impl Sweep {
    /// Gives up what no task has held at two looks. Between the commit of a begin and its task's knowing of
    /// it, one look may find it unheld; so looks are to be further apart than an answer may take (`database.call_timeout`). What was
    /// given up too early could not be committed any more, and its bytes are deleted when they have settled: a write would
    /// fail, and nothing would be lost.
    pub async fn pass<P: Ports>(&mut self, ports: &P) -> Result<Swept, Failure> {
        let incarnation = ports.incarnation();
        let mut reserved = blobs_of(ports, incarnation).await?;
        reserved.extend(parts_of(ports, incarnation).await?);
        // Looked at later than the rows: whose task holds it had it then.
        let Some(seen) = ports.held().seen() else {
            self.unheld.clear();
            return Ok(Swept::default());
        };
        reserved.retain(|one| !seen.has(one.own()));
        let lost: Vec<Unheld> = reserved.iter().filter(|one| self.unheld.contains(one)).cloned().collect();
        self.unheld = reserved.into_iter().collect();
        let mut swept = Swept::default();
        for one in &lost {
            // Ended meanwhile, or ended now: both are well.
            let _ = ports.meta().change(one.end(incarnation)).await?;
            match one {
                Unheld::Blob(_) => swept.blobs += 1,
                Unheld::Part(_) => swept.parts += 1,
            }
        }
        if !lost.is_empty() {
            let Swept { blobs, parts } = swept;
            tracing::warn!(blobs, parts, "reservations that no task held were given up");
            ports.wake(Worker::Cleanup);
        }
        Ok(swept)
    }
}

async fn blobs_of<P: Ports>(ports: &P, incarnation: Incarnation) -> Result<Vec<Unheld>, Failure> {
    let (mut blobs, mut after) = (Vec::new(), BlobId(0));
    loop {
        let page = match ports.meta().query(Query::Reserved { incarnation, after, max: PAGE }).await? {
            Answer::Reserved(page) => page,
            other => return Err(Failure::ourselves(format!("a query was answered with {other:?}"))),
        };
        blobs.extend(page.iter().map(|blob| Unheld::Blob(*blob)));
        match page.last() {
            Some(last) if page.len() == PAGE as usize => after = *last,
            _ => return Ok(blobs),
        }
    }
}

async fn parts_of<P: Ports>(ports: &P, incarnation: Incarnation) -> Result<Vec<Unheld>, Failure> {
    let (mut parts, mut after) = (Vec::new(), (String::new(), 0));
    loop {
        let page = match ports.meta().query(Query::PartAttempts { incarnation, after, max: PAGE }).await? {
            Answer::PartAttempts(page) => page,
            other => return Err(Failure::ourselves(format!("a query was answered with {other:?}"))),
        };
        parts.extend(page.iter().cloned().map(Unheld::Part));
        match page.last() {
            Some(last) if page.len() == PAGE as usize => after = (last.upload.as_str().to_owned(), last.number.get()),
            _ => return Ok(parts),
        }
    }
}

/// Once an hour or so.
pub async fn forget_old<P: Ports>(ports: &P) -> Result<(), Failure> {
    match ports.meta().step(ForgetOld).await? {
        Ok(_) => Ok(()),
        Err(refusal) => Err(Failure::ourselves(format!("forgetting was refused: {refusal:?}"))),
    }
}
