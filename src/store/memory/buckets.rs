//! Stored buckets: made and ended by users, seen by every begin of a write into one.

use super::super::port::{
    BucketCreated, BucketDeleted, BucketRow, Buckets, CreateBucket, DeleteBucket, Overtaken, Refusal, UploadState,
};
use super::super::record::BlobState;
use super::tables::Tables;
use crate::base::{BucketName, Timestamp};

impl Tables {
    /// Refuses what begins in a stored bucket that is not there (any more).
    pub(super) fn must_be_there(&self, name: &BucketName, stored: bool) -> Result<(), Refusal> {
        if stored && !self.buckets.contains_key(name) { Err(Refusal::NoSuchBucket) } else { Ok(()) }
    }

    pub(super) fn create_bucket(&mut self, now: Timestamp, create: CreateBucket) -> Result<BucketCreated, Refusal> {
        let CreateBucket { bucket: name, owner, region, buckets_max } = create;
        if let Some(row) = self.buckets.get(&name) {
            return Ok(BucketCreated { row: row.clone(), new: false, generation: self.buckets_generation });
        }
        if self.buckets.values().filter(|row| row.owner == owner).count() >= buckets_max as usize {
            return Err(Refusal::TooManyBuckets);
        }
        let row = BucketRow { name: name.clone(), owner, region, created: now };
        self.buckets.insert(name, row.clone());
        self.buckets_generation += 1;
        Ok(BucketCreated { row, new: true, generation: self.buckets_generation })
    }

    pub(super) fn delete_bucket(&mut self, delete: &DeleteBucket) -> Result<BucketDeleted, Refusal> {
        let name = &delete.bucket;
        self.must_be_there(name, true)?;
        let open = |state| matches!(state, UploadState::Open | UploadState::Completing);
        if self.versions.keys().any(|(bucket, _)| bucket == name)
            || self.uploads.values().any(|row| row.key.0 == *name && open(row.state))
        {
            return Err(Refusal::BucketNotEmpty);
        }
        for blob in self.blobs.values_mut().filter(|blob| blob.key.0 == *name && blob.state == BlobState::Reserved) {
            blob.superseded = Overtaken::ByBucketsEnd;
        }
        self.buckets.remove(name);
        self.buckets_generation += 1;
        Ok(BucketDeleted { generation: self.buckets_generation })
    }

    pub(super) fn stored_buckets(&self, unless: Option<u64>) -> Option<Buckets> {
        let generation = self.buckets_generation;
        (unless != Some(generation)).then(|| Buckets { generation, rows: self.buckets.values().cloned().collect() })
    }
}
