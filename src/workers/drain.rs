//! Empties backends that an operator has set to drain: each copy is made elsewhere first, then removed here (PROTOCOL.md,
//! "Copies of a version"), until one transaction finds no row of any state on the backend.
//!
//! What cannot be moved is counted with its reason and looked at again at the next pass, never in a loop. Multipart uploads
//! that are open there are their clients' to complete or abort; the drain waits for them.

use super::replicate;
use super::sync::is_held;
use crate::base::{BackendName, Failure};
use crate::handlers::concurrent;
use crate::handlers::ports::{Ports, Worker};
use crate::store::port::{Answer, BackendStatus, BlobRow, FinishDrain, Metadata, Query, Refusal, RemoveCopy};
use crate::store::record::{BlobState, Located};

/// Rows of one page; a pass ends after a page on which something moved, so that progress can be told.
const PAGE: u32 = 500;

/// What a pass did for one backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    pub backend: BackendName,
    pub moved: u64,
    pub moved_bytes: u64,
    /// Copies that could not be moved, and why the last of them could not.
    pub stuck: u64,
    pub error: Option<String>,
    /// Nothing is left, and nothing can come.
    pub finished: bool,
    /// There is more that can be moved at once.
    pub more: bool,
}

/// What became of one copy.
enum Moved {
    Away,
    /// Overwritten, deleted or moved by somebody else meanwhile.
    Gone,
    Stuck(String),
}

/// All draining backends, a page each. What the database says of draining is told to this instance's cores first: another
/// instance may have been asked.
pub async fn pass<P: Ports>(ports: &P) -> Result<Vec<Report>, Failure> {
    let Answer::Status(status) = ports.meta().query(Query::Status { period: String::new() }).await? else {
        return Err(Failure::ourselves("a query was answered with another's answer"));
    };
    // Held as restored, what it says of copies elsewhere is not known to be true: nothing is removed for them.
    let is_held = is_held(ports).await?;
    let mut reports = Vec::new();
    for one in status {
        let Some(index) = ports.view().backend_index(&BackendName::new(&one.name)) else { continue };
        ports.standing().set_draining(index, one.draining);
        if one.draining && !one.drained && !is_held {
            reports.push(empty(ports, &one).await?);
        }
    }
    Ok(reports)
}

async fn empty<P: Ports>(ports: &P, status: &BackendStatus) -> Result<Report, Failure> {
    let backend = BackendName::new(&status.name);
    let mut report = Report {
        backend: backend.clone(),
        moved: 0,
        moved_bytes: 0,
        stuck: 0,
        error: None,
        finished: false,
        more: false,
    };
    let mut after = String::new();
    loop {
        let query = Query::Blobs { backend: backend.clone(), after, max: PAGE };
        let Answer::Blobs(rows) = ports.meta().query(query).await? else {
            return Err(Failure::ourselves("a query was answered with another's answer"));
        };
        let live: Vec<&BlobRow> = rows.iter().filter(|row| row.state == BlobState::Live).collect();
        let concurrency = ports.registry().replication.concurrency;
        concurrent::each(concurrency, live.iter().map(|row| move_away(ports, row)), |place, ended| match ended {
            Ok(Moved::Away) => {
                report.moved += 1;
                report.moved_bytes += live[place].bytes;
            }
            Ok(Moved::Gone) => {}
            Ok(Moved::Stuck(reason)) => {
                report.stuck += 1;
                report.error = Some(reason);
            }
            Err(failure) => {
                report.stuck += 1;
                report.error = Some(failure.to_string());
            }
        })
        .await;
        ports.cells().drain_objects_moved.add(report.moved);
        ports.cells().drain_bytes_moved.add(report.moved_bytes);
        report.more = rows.len() == PAGE as usize;
        match rows.last() {
            Some(last) if report.more && report.moved == 0 => after = last.blob.name.clone(),
            _ => break,
        }
    }
    if report.moved > 0 {
        ports.wake(Worker::Cleanup);
    } else if report.stuck == 0 {
        report.finished = ports.meta().step(FinishDrain { backend }).await?.is_ok();
    }
    Ok(report)
}

/// As many copies elsewhere as there should be, then this one goes.
async fn move_away<P: Ports>(ports: &P, row: &BlobRow) -> Result<Moved, Failure> {
    let counted = replicate::reliable(ports);
    let wanted = ports.registry().replication.factor.min(counted.len() as u32).max(1);
    let mut located = Located::empty();
    loop {
        if !ports.meta().lookup(row.bucket.as_str(), row.key.as_str(), &mut located).await?
            || !located.blobs.iter().any(|blob| blob.id == row.blob.id)
        {
            return Ok(Moved::Gone);
        }
        let elsewhere = located.blobs.iter().filter(|blob| counted.contains(&blob.backend)).count() as u32;
        if elsewhere >= wanted {
            break;
        }
        match replicate::copy_once(ports, &row.bucket, &row.key, &located).await {
            Ok(true) => {}
            Ok(false) => return Ok(Moved::Gone),
            // With a copy elsewhere it may go, even if there should be more.
            Err(_) if elsewhere > 0 => break,
            Err(failure) => return Ok(Moved::Stuck(failure.to_string())),
        }
    }
    let uncounted = ports.view().backends.iter().filter(|one| !counted.contains(&one.name));
    let remove = RemoveCopy {
        bucket: row.bucket.clone(),
        key: row.key.clone(),
        blob: row.blob.id,
        floor: 1,
        not_counted: uncounted.map(|one| one.name.clone()).collect(),
        reason: "drained".to_owned(),
    };
    match ports.meta().step(remove).await? {
        Ok(_) => Ok(Moved::Away),
        Err(Refusal::Lost) => Ok(Moved::Gone),
        Err(refusal) => Ok(Moved::Stuck(format!("the copy may not be removed: {refusal:?}"))),
    }
}
