//! Which rows a change is decided on. A change whose rows are not all loaded would be decided wrongly: whoever adds a change
//! says here what it looks at (store/memory says how it decides).

use super::super::memory::tables::Key;
use super::super::port::{BeginWrite, Change, CreateUpload, Outcome, Refusal};
use crate::base::{BackendName, BucketName, ObjectKey, PartNumber, UploadId};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Default)]
pub(super) struct Footprint {
    /// The live version and every blob of these.
    pub(super) keys: BTreeSet<Key>,
    pub(super) blobs: BTreeSet<i64>,
    /// With their blobs; without parts unless named below.
    pub(super) uploads: BTreeSet<UploadId>,
    /// All parts and attempts of these uploads; and single ones.
    pub(super) all_parts: BTreeSet<UploadId>,
    pub(super) parts: BTreeSet<(UploadId, PartNumber)>,
    /// Stored buckets that something begins in: held until it has begun.
    pub(super) stored_buckets: BTreeSet<BucketName>,
    /// Buckets whose uploads are counted.
    pub(super) upload_counts: BTreeSet<BucketName>,
    /// Backends whose displaced bytes might make room, with how many are missed at most.
    pub(super) room: BTreeMap<BackendName, i64>,
    /// Backends of which it is asked whether any row names them: one is enough.
    pub(super) emptied: BTreeSet<BackendName>,
    /// Exact names of which it is asked whether a row names them, and whether the database is held as restored.
    pub(super) named: BTreeSet<(BackendName, String)>,
    /// Blobs that may be added.
    pub(super) new_blobs: i64,
    /// Keys on which something begins whose end comes soon.
    pub(super) begun: Vec<Key>,
}

impl Footprint {
    pub(super) fn of(changes: &[Change]) -> Self {
        let mut all = Self::default();
        changes.iter().for_each(|change| all.add(change));
        all
    }

    fn key(&mut self, bucket: &BucketName, key: &ObjectKey) {
        self.keys.insert((bucket.clone(), key.clone()));
    }

    fn part(&mut self, upload: &UploadId, number: PartNumber) {
        self.uploads.insert(upload.clone());
        self.parts.insert((upload.clone(), number));
    }

    fn whole_upload(&mut self, upload: &UploadId) {
        self.uploads.insert(upload.clone());
        self.all_parts.insert(upload.clone());
    }

    fn add(&mut self, change: &Change) {
        match change {
            Change::BeginWrite(one) => {
                self.key(&one.bucket, &one.key);
                self.begun.push((one.bucket.clone(), one.key.clone()));
                self.new_blobs += 1;
                if one.in_stored {
                    self.stored_buckets.insert(one.bucket.clone());
                }
            }
            // A blob of another key is not the write's, and none of it is committed.
            Change::CommitWrite(one) => self.key(&one.bucket, &one.key),
            Change::AbandonWrite(one) => drop(self.blobs.insert(one.given_up.blob.0)),
            Change::Delete(one) => self.key(&one.bucket, &one.key),
            Change::SetTags(one) => self.key(&one.bucket, &one.key),
            Change::BeginCopy(one) => {
                self.key(&one.bucket, &one.key);
                self.new_blobs += 1;
            }
            Change::CommitCopy(one) => self.key(&one.bucket, &one.key),
            Change::RemoveCopy(one) => self.key(&one.bucket, &one.key),
            Change::CreateUpload(one) => {
                self.key(&one.bucket, &one.key);
                self.uploads.insert(one.upload.clone());
                self.new_blobs += 1;
                if one.in_stored {
                    self.stored_buckets.insert(one.bucket.clone());
                }
                if one.uploads_max > 0 {
                    self.upload_counts.insert(one.bucket.clone());
                }
            }
            Change::SetBackendUpload(one) => drop(self.uploads.insert(one.upload.clone())),
            Change::BeginPart(one) => self.part(&one.upload, one.number),
            Change::CommitPart(one) => {
                self.uploads.insert(one.upload.clone());
                if let Some(number) = PartNumber::new(one.part.number) {
                    self.part(&one.upload, number);
                }
            }
            Change::AbandonPart(one) => self.part(&one.upload, one.number),
            Change::StartComplete(one) => {
                self.key(&one.bucket, &one.key);
                self.whole_upload(&one.upload);
            }
            Change::FinishComplete(one) => {
                self.key(&one.bucket, &one.key);
                self.whole_upload(&one.upload);
            }
            Change::ReopenUpload(one) => drop(self.uploads.insert(one.upload.clone())),
            Change::AbortUpload(one) => {
                self.key(&one.bucket, &one.key);
                self.whole_upload(&one.upload);
            }
            Change::AbortStale(one) => self.whole_upload(&one.upload),
            Change::CleanupDone(one) => drop(self.blobs.insert(one.blob.0)),
            Change::CleanupFailed(one) => drop(self.blobs.insert(one.blob.0)),
            Change::Requeue(one) => drop(self.blobs.insert(one.blob.0)),
            Change::WriteOff(one) => drop(self.blobs.insert(one.blob.0)),
            Change::DropCopy(one) => {
                self.key(&one.bucket, &one.key);
                self.blobs.insert(one.blob.0);
            }
            Change::FinishDrain(one) => drop(self.emptied.insert(one.backend.clone())),
            Change::Adopt(one) => {
                self.key(&one.bucket, &one.key);
                self.named.insert((one.backend.clone(), one.name.clone()));
                self.new_blobs += 1;
            }
            // Backends are always loaded; the others have statements of their own.
            Change::Register(_)
            | Change::SetLimits(_)
            | Change::CreateBucket(_)
            | Change::DeleteBucket(_)
            | Change::Renew(_)
            | Change::TakeService(_)
            | Change::RecordUsage(_)
            | Change::LeaseBudgets(_)
            | Change::RecordFacts(_)
            | Change::SetDraining(_)
            | Change::SetRestored(_)
            | Change::ForgetOld(_) => {}
        }
    }

    /// What a change that found no room might have had after all, if others gave back what they do not use, or displaced
    /// bytes went early. `of_upload` is the backend of a part's upload. Answers false if nothing is missed.
    pub(super) fn miss_room<'c>(
        change: &'c Change,
        outcome: &Outcome,
        of_upload: impl FnOnce(&UploadId) -> Option<BackendName>,
    ) -> Option<(Vec<BackendName>, u64)> {
        let names = |candidates: &'c [super::super::port::Candidate]| {
            candidates.iter().map(|one| one.backend.clone()).collect::<Vec<_>>()
        };
        let refused = |refusal: &Refusal| matches!(refusal, Refusal::NoSpace | Refusal::NoSpaceYet);
        match (change, outcome) {
            (Change::BeginWrite(BeginWrite { candidates, size, .. }), Outcome::BeginWrite(Err(why)))
                if refused(why) =>
            {
                Some((names(candidates), *size))
            }
            (Change::BeginCopy(one), Outcome::BeginCopy(Err(why))) if refused(why) => {
                // Its size is the version's, which the caller has; taking back one byte takes back all that is idle.
                Some((names(&one.candidates), 1))
            }
            (Change::CreateUpload(CreateUpload { candidates, .. }), Outcome::CreateUpload(Err(why)))
                if refused(why) =>
            {
                Some((names(candidates), 1))
            }
            (Change::BeginPart(one), Outcome::BeginPart(Err(why))) if refused(why) => {
                Some((of_upload(&one.upload).into_iter().collect(), one.size))
            }
            _ => None,
        }
    }
}
