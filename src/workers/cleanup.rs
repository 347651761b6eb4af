//! Deletes the bytes of doomed blobs, by exact name, when their time has come (PROTOCOL.md, "Deleting bytes").
//!
//! Row first, bytes second, charge last: a blob is doomed by the transaction that gave it up, its bytes go here, and only an
//! answered DELETE ends the row and its charge. A pass is one page; the schedule runs it again while there is more, when it
//! is woken, and when the next blob comes due.
//!
//! What a page says is acted upon for one term of a lease at most: by then the database may have been put back, and `sync`, which
//! waits for that term when it holds a database, may have taken back what was doomed.
//!
//! Backends take turns in a page, and one that was slow to fail is left alone for the rest of it: what is due on the others
//! does not wait for each of its answers.

use super::sync::is_held;
use crate::base::failure::Kind;
use crate::base::{BackendName, Blame, Clock, Failure, Mandate, Timestamp};
use crate::handlers::concurrent;
use crate::handlers::placing;
use crate::handlers::ports::Ports;
use crate::observe::cells::CleanupStatus;
use crate::store::port::{Answer, CleanupDone, CleanupFailed, DueCleanup, Metadata, Query, WRITER_GONE};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Rows of one page (PROTOCOL.md, "Load").
const PAGE_MAX: u32 = 1000;
/// A backend whose failure took longer holds up others.
const SLOW: Duration = Duration::from_secs(1);

/// What a pass did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Bytes are gone. Rows that wait for a late body (settle time) stay, and come due again.
    pub deleted: u64,
    /// Will be tried again later.
    pub failed: u64,
    /// Became dead letters, still charged.
    pub dead: u64,
    /// The page was full: there is more to do now.
    pub more: bool,
}

/// One page of what is due. Backends whose marker was not seen are left alone: what is not there need not be gone.
pub async fn pass<P: Ports>(ports: &P) -> Result<Report, Failure> {
    let mandate = ports.mandate();
    let on = reachable(ports);
    let mut due = due_on(ports, on.clone()).await?;
    let is_full = due.len() == PAGE_MAX as usize;
    if is_full && on.len() > 1 {
        // It may be one backend's alone.
        due.clear();
        for backend in on {
            due.append(&mut due_on(ports, vec![backend]).await?);
        }
    }
    let (due, slow) = (in_turns(due), RefCell::default());
    let mut report = Report::default();
    let concurrency = ports.view().cleanup_queue.concurrency;
    let work = due.iter().map(|one| clean(ports, one, mandate, &slow));
    concurrent::each(concurrency, work, |_, ended| match ended {
        Some(CleanupStatus::Success) => report.deleted += 1,
        Some(CleanupStatus::Retry) => report.failed += 1,
        Some(CleanupStatus::Exhausted) => report.dead += 1,
        None => {}
    })
    .await;
    // A page on which nothing moved would only be the same again.
    report.more = is_full && report != Report::default();
    Ok(report)
}

async fn due_on<P: Ports>(ports: &P, on: Vec<BackendName>) -> Result<Vec<DueCleanup>, Failure> {
    match ports.meta().query(Query::DueCleanups { on, max: PAGE_MAX }).await? {
        Answer::DueCleanups(due) => Ok(due),
        _ => Err(Failure::ourselves("a query was answered with another's answer")),
    }
}

/// One of each backend, and again; each backend's own in their order.
fn in_turns(due: Vec<DueCleanup>) -> Vec<DueCleanup> {
    let mut turns = Vec::with_capacity(due.len());
    let mut waiting: BTreeMap<BackendName, VecDeque<DueCleanup>> = BTreeMap::new();
    for one in due {
        waiting.entry(one.blob.backend.clone()).or_default().push_back(one);
    }
    while !waiting.is_empty() {
        waiting.retain(|_, rows| {
            turns.extend(rows.pop_front());
            !rows.is_empty()
        });
    }
    turns
}

/// When the next doomed blob on a reachable backend comes due.
pub async fn next_due<P: Ports>(ports: &P) -> Result<Option<Timestamp>, Failure> {
    match ports.meta().query(Query::NextCleanup { on: reachable(ports) }).await? {
        Answer::NextCleanup(next) => Ok(next),
        _ => Err(Failure::ourselves("a query was answered with another's answer")),
    }
}

fn reachable<P: Ports>(ports: &P) -> Vec<BackendName> {
    let backends = ports.view().backends.iter().enumerate();
    backends.filter(|(index, _)| ports.standing().usable(*index)).map(|(_, backend)| backend.name.clone()).collect()
}

/// None: neither done nor failed; it stays as it is and is found again.
async fn clean<P: Ports>(
    ports: &P,
    due: &DueCleanup,
    mandate: Mandate,
    slow: &RefCell<BTreeSet<BackendName>>,
) -> Option<CleanupStatus> {
    if slow.borrow().contains(&due.blob.backend) {
        return None;
    }
    // Without a lease only this process holds it, by `sync` beside this worker, and takes back what recovery gave up.
    if due.reason == WRITER_GONE && is_held(ports).await.unwrap_or(true) {
        return None;
    }
    let began = ports.clock().tick();
    let status = match delete(ports, due, mandate).await {
        Ok(()) => {
            let done = CleanupDone { blob: due.blob.id, found: due.found };
            ports.meta().step(done).await.ok()?.ok()?;
            CleanupStatus::Success
        }
        // Nothing was asked of the backend.
        Err(failure) if failure.kind == Kind::Overloaded || failure.blame == Blame::Metadata => return None,
        Err(failure) => {
            if ports.clock().tick().since(began) >= SLOW {
                slow.borrow_mut().insert(due.blob.backend.clone());
            }
            let failed = CleanupFailed { blob: due.blob.id, error: failure.to_string() };
            let outcome = ports.meta().step(failed).await.ok()?.ok()?;
            let (backend, attempts) = (due.blob.backend.as_str(), due.attempts + 1);
            if outcome.dead {
                tracing::error!(backend, name = due.blob.name, attempts, %failure, "a blob became a dead letter");
                if let Some(cells) = ports.cells().backends.get(placing::index_of(ports, &due.blob.backend)) {
                    cells.dlq_enqueued.inc();
                }
                CleanupStatus::Exhausted
            } else {
                tracing::debug!(backend, name = due.blob.name, attempts, %failure, "a blob was not deleted");
                CleanupStatus::Retry
            }
        }
    };
    ports.cells().cleanup_processed.at(status).inc();
    Some(status)
}

/// What an unfinished upload has left on the backend goes before the name that it would have had.
async fn delete<P: Ports>(ports: &P, due: &DueCleanup, mandate: Mandate) -> Result<(), Failure> {
    if due.abort_uploads {
        ports.abort_uploads(&due.blob, &due.backend_upload, mandate).await?;
    }
    ports.delete(&due.blob, mandate).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::BlobId;
    use crate::store::record::BlobAt;

    #[test]
    fn backends_take_turns_in_a_page() {
        let due = |text: &str| DueCleanup {
            blob: BlobAt {
                id: BlobId(1),
                backend: BackendName::new(&text[..1]),
                name: text.to_owned(),
                foreign_etag: String::new(),
                version_id: String::new(),
            },
            found: Timestamp { millis: 0 },
            bytes: 1,
            attempts: 0,
            reason: String::new(),
            abort_uploads: false,
            backend_upload: String::new(),
        };
        let names = |page: &str| -> Vec<String> {
            in_turns(page.split(' ').map(due).collect()).into_iter().map(|one| one.blob.name).collect()
        };
        assert_eq!(names("a1 a2 a3 b1 c1 b2").join(" "), "a1 b1 c1 a2 b2 a3");
        assert_eq!(names("b1 b2").join(" "), "b1 b2");
    }
}
