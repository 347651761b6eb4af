//! Takes a backend out of the books (`remove-backend`): every row that names it ends, whatever its state; the bytes are deleted
//! through the cleanup queue (a purge), or are nobody's any more. Transactions only, so it runs wherever the admin API does.

use crate::base::{BackendName, Failure};
use crate::handlers::concurrent;
use crate::store::port::{Answer, BlobRow, Bytes, DropCopy, FinishDrain, Metadata, Query, Refusal};

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
    /// The backend was taken back meanwhile (`drain-cancel`): what was not dropped by then stays, and more may come.
    pub cancelled: bool,
}

/// Every row of the backend, page by page, for as long as it drains, so that nothing new can be begun there meanwhile. When it
/// fails it is asked again. Cancel: NOT safe, as every worker.
pub async fn forget_all<M: Metadata>(metadata: &M, backend: &BackendName, purge: bool) -> Result<Removed, Failure> {
    let mut done = Removed::default();
    loop {
        drop_all(metadata, backend, purge, &mut done).await?;
        match metadata.step(FinishDrain { backend: backend.clone() }).await? {
            // Of a purge, the rows end with their bytes: the drain worker looks again.
            Err(Refusal::Busy) if purge => break,
            // It was taken back and given up again since a page was read.
            Err(Refusal::Busy) => {}
            Err(_) => {
                done.cancelled = true;
                break;
            }
            Ok(_) => break,
        }
    }
    Ok(done)
}

async fn drop_all<M: Metadata>(
    metadata: &M,
    backend: &BackendName,
    purge: bool,
    done: &mut Removed,
) -> Result<(), Failure> {
    let bytes = if purge { Bytes::Deleted } else { Bytes::Gone };
    let mut after = String::new();
    while is_draining(metadata, backend).await? {
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
    Ok(())
}

async fn is_draining<M: Metadata>(metadata: &M, backend: &BackendName) -> Result<bool, Failure> {
    match metadata.query(Query::Status { period: String::new() }).await? {
        Answer::Status(all) => Ok(all.iter().any(|one| one.name == backend.as_str() && one.draining)),
        _ => Err(Failure::ourselves("a query was answered with another's answer")),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{BucketName, Incarnation, Nonce, ObjectKey};
    use crate::store::conformance::{TestClock, wait_for};
    use crate::store::direct::Direct;
    use crate::store::memory::MemoryStore;
    use crate::store::port::{
        BackendLimit, BeginWrite, Candidate, Change, CommitWrite, Outcome, Register, Rules, SetDraining, Step,
        WriteCondition, Written,
    };
    use crate::store::record::ObjectRecord;

    const OBJECTS: u64 = 3;

    /// The way to the database; an operator takes the backend back when so many copies were dropped.
    struct Meta {
        direct: Direct<MemoryStore<TestClock>>,
        taken_back_after: Option<u64>,
        dropped: std::cell::Cell<u64>,
    }

    impl Metadata for Meta {
        async fn query(&self, query: Query) -> Result<Answer, Failure> {
            self.direct.query(query).await
        }

        async fn change(&self, change: Change) -> Result<Outcome, Failure> {
            let drops = matches!(change, Change::DropCopy(_));
            let outcome = self.direct.change(change).await;
            if drops {
                self.dropped.set(self.dropped.get() + 1);
                if self.taken_back_after == Some(self.dropped.get()) {
                    let _ = self.direct.step(SetDraining { backend: backend(), draining: false }).await?;
                }
            }
            outcome
        }
    }

    fn backend() -> BackendName {
        BackendName::new("b")
    }

    fn set_draining(metadata: &impl Metadata, draining: bool) {
        done(metadata, SetDraining { backend: backend(), draining });
    }

    fn done<S: Step<Outcome = Result<T, Refusal>>, T>(metadata: &impl Metadata, step: S) -> T {
        wait_for(metadata.step(step)).expect("answered").expect("not refused")
    }

    fn removed(taken_back_after: Option<u64>, purge: bool) -> Removed {
        let direct = Direct::new(MemoryStore::new(TestClock::new(), Rules::default()));
        let backends = vec![BackendLimit { name: backend(), bytes_limit: 0 }];
        let incarnation = done(&direct, Register { deployment: "d".into(), backends }).incarnation;
        (0..OBJECTS).for_each(|n| put(&direct, incarnation, n));
        set_draining(&direct, taken_back_after != Some(0));
        let meta = Meta { direct, taken_back_after, dropped: std::cell::Cell::new(0) };
        wait_for(forget_all(&meta, &backend(), purge)).expect("the database answers")
    }

    fn put(metadata: &impl Metadata, incarnation: Incarnation, n: u64) {
        let bucket = BucketName::parse("bkt").expect("a bucket's name");
        let key = ObjectKey::parse(&format!("k{n}")).expect("a key");
        let condition = WriteCondition::default();
        let begin = BeginWrite {
            incarnation,
            bucket: bucket.clone(),
            in_stored: false,
            key: key.clone(),
            size: 1,
            candidates: vec![Candidate { backend: backend(), literal: true }],
            condition: condition.clone(),
            nonce: Nonce::from_roll(n),
            instead_of: None,
        };
        let blob = done(metadata, begin).blob.id;
        let (etag, record) = ("e".into(), ObjectRecord::default());
        let blobs = vec![Written { blob, version_id: String::new() }];
        done(metadata, CommitWrite { incarnation, bucket, key, blobs, etag, record, condition });
    }

    #[test]
    fn what_was_taken_back_meanwhile_is_not_said_to_be_removed() {
        for purge in [true, false] {
            let all = Removed { copies: OBJECTS, objects_lost: OBJECTS, cancelled: false };
            assert_eq!(removed(None, purge), all);
            assert_eq!(removed(Some(0), purge), Removed { cancelled: true, ..Removed::default() }, "before anything");
            assert!(removed(Some(1), purge).cancelled, "among the drops");
            assert!(removed(Some(OBJECTS), purge).cancelled, "after the last one");
        }
    }
}
