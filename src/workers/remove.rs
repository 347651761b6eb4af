//! Takes a backend out of the books (`remove-backend`): every row that names it ends, whatever its state; the bytes are deleted
//! through the cleanup queue (a purge), or are nobody's any more. Transactions only, so it runs wherever the admin API does.

use crate::base::{BackendName, Failure};
use crate::handlers::concurrent;
use crate::store::port::{Answer, BlobRow, Bytes, DropCopy, FinishDrain, Metadata, Query};

/// Why a copy was dropped.
pub const REASON: &str = "backend removed";
/// Rows of a page; and copies that are dropped at once, to share transactions.
const PAGE: u32 = 1000;
const DROPPED_AT_ONCE: usize = 64;

/// What was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Removed {
    pub copies: u64,
    /// Objects that had no other copy.
    pub objects_lost: u64,
}

/// Every row of the backend, page by page. The backend drains already, so that nothing new can be begun there meanwhile. When it
/// fails it is asked again. Cancel: NOT safe, as every worker.
pub async fn forget_all<M: Metadata>(metadata: &M, backend: &BackendName, purge: bool) -> Result<Removed, Failure> {
    let bytes = if purge { Bytes::Deleted } else { Bytes::Gone };
    let (mut done, mut after) = (Removed::default(), String::new());
    loop {
        let query = Query::Blobs { backend: backend.clone(), after, max: PAGE };
        let Answer::Blobs(rows) = metadata.query(query).await? else {
            return Err(Failure::ourselves("a query was answered with another's answer"));
        };
        let mut failed = None;
        let steps: Vec<_> = rows.iter().map(|row| metadata.step(drop_of(row, bytes))).collect();
        concurrent::each(DROPPED_AT_ONCE, steps, |_, outcome| match outcome {
            Ok(Ok(dropped)) => {
                done.copies += 1;
                done.objects_lost += u64::from(dropped.object_ended);
            }
            Ok(Err(_)) => {} // nothing refuses it
            Err(failure) => failed = Some(failure),
        })
        .await;
        if let Some(failure) = failed {
            return Err(failure);
        }
        match rows.last() {
            Some(last) => after = last.blob.name.clone(),
            None => break,
        }
    }
    // Of a purge, the rows end with their bytes: the drain worker looks again.
    let _ = metadata.step(FinishDrain { backend: backend.clone() }).await?;
    Ok(done)
}

fn drop_of(row: &BlobRow, bytes: Bytes) -> DropCopy {
    DropCopy {
        bucket: row.bucket.clone(),
        key: row.key.clone(),
        blob: row.blob.id,
        bytes,
        only_live: false,
        reason: REASON.to_owned(),
    }
}
