//! When each background job runs. The mover asks for the next pass of a service and reports the last one; the answer comes
//! when the pass is due: at once at the start, then by interval, by a core's wake, or when something comes due.

use super::admin::Operations;
use super::lease::Terms;
use crate::observe::cells::Service;
use crate::reactor::jobs::{Ask, Go, Pass};
use crate::reactor::mailbox::{Desk, Letter};
use crate::reactor::wake::Woken;
use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Finished uploads, old batches: nothing urgent.
const FORGET_EVERY: Duration = Duration::from_secs(600);
/// Between two looks for uploads that nobody finishes.
const STALE_EVERY_MAX: Duration = Duration::from_secs(600);
/// A backend that could not be checked is tried again so often, one that is in order looked at so often.
const STANDING_AGAIN: Duration = Duration::from_secs(2);
const STANDING_EVERY: Duration = Duration::from_secs(60);
/// Terms of a lease between two looks for own reservations that no task holds.
const SWEEP_TERMS: u32 = 6;
/// And calls to the database that may take as long as they may, at least.
const SWEEP_TIMEOUTS: u32 = 3;
/// What a drain could not move, or waits for (a grace, an upload), is looked at again so often.
const DRAIN_EVERY: Duration = Duration::from_secs(5);
/// After a failed pass, and between passes that have more to do.
const FAILED_WAIT: Duration = Duration::from_secs(1);
/// How often a paused worker looks whether the database answers again.
const DEGRADED_LOOK: Duration = Duration::from_millis(100);
/// Wakes come with every write; passes need not.
const WOKEN_WAIT: Duration = Duration::from_millis(20);
/// Nothing that is due is left waiting longer by an early estimate.
const DUE_WAIT_MIN: Duration = Duration::from_millis(10);

pub struct Bells {
    pub drain: Woken,
    pub cleanup: Woken,
    pub replicate: Woken,
    pub trim: Woken,
}

/// Answers the mover for as long as it lives. Runs on the control core's local set.
pub async fn run(asks: Desk<Ask, Go>, bells: Bells, operations: Arc<Operations>, terms: Rc<Terms>) {
    let bells = Arc::new(bells);
    while let Some(Letter { request, replier }) = asks.next().await {
        let (bells, operations, terms) = (Arc::clone(&bells), Arc::clone(&operations), Rc::clone(&terms));
        tokio::task::spawn_local(async move {
            if request.last.is_some() {
                terms.ended(request.service);
            }
            let service = request.service;
            let go = wait_until_due(request, &bells, &operations).await;
            // Workers pause while the database does not answer. Markers are looked at all the same.
            while service != Service::Standing && operations.readiness.is_degraded() {
                tokio::time::sleep(DEGRADED_LOOK).await;
            }
            terms.wait_for(service).await;
            replier.reply(go);
        });
    }
}

async fn wait_until_due(ask: Ask, bells: &Bells, operations: &Operations) -> Go {
    if ask.service == Service::Sync {
        return Go { order: Some(operations.next_order().await) };
    }
    let Some(last) = ask.last else { return Go::default() };
    let view = &operations.view;
    match ask.service {
        Service::Cleanup => {
            let due = last.due_in.unwrap_or(Duration::MAX).max(DUE_WAIT_MIN);
            wait(last, view.cleanup_queue.interval.min(due), bells.cleanup.heard()).await;
        }
        Service::Replicate => {
            if let Some(pending) = last.pending {
                operations.set_replication_pending(pending);
            }
            wait(last, operations.replication().worker_interval, bells.replicate.heard()).await;
        }
        Service::Drain => {
            operations.note_drains(&last.drains);
            wait(last, DRAIN_EVERY, bells.drain.heard()).await;
        }
        Service::Trim => wait(last, operations.replication().worker_interval, bells.trim.heard()).await,
        Service::Standing => {
            let every = if last.failed { STANDING_AGAIN } else { STANDING_EVERY };
            tokio::time::sleep(every).await;
        }
        Service::StaleUploads => wait(last, stale_every(view.cleanup_queue.multipart_stale_timeout), pending()).await,
        Service::Sweep => {
            // Longer than an answer to a begin can be on its way.
            let apart = (view.write_path.lease * SWEEP_TERMS).max(view.database.call_timeout * SWEEP_TIMEOUTS);
            wait(last, apart, pending()).await;
        }
        _ => wait(last, FORGET_EVERY, pending()).await,
    }
    Go::default()
}

/// An upload that is a little older than it may be does no harm.
fn stale_every(age: Duration) -> Duration {
    (age / 4).min(STALE_EVERY_MAX)
}

async fn wait(last: Pass, interval: Duration, woken: impl Future<Output = ()>) {
    if last.failed {
        tokio::time::sleep(FAILED_WAIT.min(interval)).await;
    } else if !last.more {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = woken => tokio::time::sleep(WOKEN_WAIT).await,
        }
    }
}
