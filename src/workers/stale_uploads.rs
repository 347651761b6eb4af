//! Aborts multipart uploads that were neither completed nor aborted in time (`cleanup_queue.multipart_stale_timeout`): their
//! clients have forgotten them, and their parts are charged.
//!
//! Only rows change here, each by a transaction that looks at the upload again; what the backends have of it is the cleanup
//! worker's. An upload that is being completed is left alone until nobody can be at it any more.

use crate::base::{Failure, UploadId};
use crate::handlers::concurrent;
use crate::handlers::ports::{Ports, Worker};
use crate::store::port::{AbortStale, Answer, Metadata, Query};

/// Uploads of one page (PROTOCOL.md, "Load").
const PAGE_MAX: u32 = 1000;
/// Aborts under way at once: they share transactions.
const CONCURRENT_MAX: usize = 64;

/// What a pass did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    pub aborted: u64,
    /// The page was full: there is more to do now.
    pub more: bool,
}

pub async fn pass<P: Ports>(ports: &P) -> Result<Report, Failure> {
    let query = Query::StaleUploads { age: ports.view().cleanup_queue.multipart_stale_timeout, max: PAGE_MAX };
    let Answer::StaleUploads(stale) = ports.meta().query(query).await? else {
        return Err(Failure::ourselves("a query was answered with another's answer"));
    };
    let mut report = Report::default();
    concurrent::each(CONCURRENT_MAX, stale.iter().map(|upload| abort(ports, upload)), |_, aborted| {
        report.aborted += u64::from(aborted);
    })
    .await;
    if report.aborted > 0 {
        tracing::info!(aborted = report.aborted, "uploads that nobody finished were aborted");
        ports.wake(Worker::Cleanup);
    }
    // A page on which nothing moved would only be the same again.
    report.more = stale.len() == PAGE_MAX as usize && report.aborted > 0;
    Ok(report)
}

/// False: its client came back meanwhile, or the database did not answer; then it is found again.
async fn abort<P: Ports>(ports: &P, upload: &UploadId) -> bool {
    let age = ports.view().cleanup_queue.multipart_stale_timeout;
    matches!(ports.meta().step(AbortStale { upload: upload.clone(), age }).await, Ok(Ok(_)))
}
