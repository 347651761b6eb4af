//! Ends what was begun and left: attempts whose tasks could not wait for their end, and rows that have had their time.
//!
//! Recovery after a death of the process is the store's, when the next run registers; it dooms, it never commits.

use crate::base::{Clock, Dice, Failure};
use crate::handlers::ports::{Ports, Worker};
use crate::policy::retry::Backoff;
use crate::store::port::{Change, ForgetOld, Metadata};
use std::time::Duration;

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

/// Once an hour or so.
pub async fn forget_old<P: Ports>(ports: &P) -> Result<(), Failure> {
    match ports.meta().step(ForgetOld).await? {
        Ok(_) => Ok(()),
        Err(refusal) => Err(Failure::ourselves(format!("forgetting was refused: {refusal:?}"))),
    }
}
