//! A write: begin, commit, abandon, delete (PROTOCOL.md, "A write").

use super::super::port::{
    AbandonWrite, BeginWrite, Begun, CommitWrite, Committed, Delete, Deleted, Done, Existing, Overtaken, Refusal,
    SetTags, WriteCondition,
};
use super::super::record::BlobState;
use super::super::rules::{chance_of_nonce, mint_version};
use super::tables::{Blob, Key, Live, Tables};
use crate::base::limits::OBJECT_BYTES_MAX;
use crate::base::{BackendName, BlobId, Incarnation, Timestamp, Version, blob_name};

impl Tables {
    pub(super) fn test(&self, key: &Key, condition: &WriteCondition) -> Result<(), Refusal> {
        condition.test(self.versions.get(key).map(|live| Existing {
            etag: &live.etag,
            size: live.size,
            modified: live.modified,
        }))
    }

    /// Whether this blob is a write's or a copy's, and still this incarnation's to end.
    fn is_reserved_by(&self, id: BlobId, incarnation: Incarnation) -> bool {
        self.blobs.get(&id).is_some_and(|blob| {
            blob.state == BlobState::Reserved && blob.owner == Some(incarnation) && blob.upload.is_none()
        })
    }

    /// The same, and of this key.
    pub(super) fn is_ours(&self, id: BlobId, incarnation: Incarnation, key: &Key) -> bool {
        self.is_reserved_by(id, incarnation) && self.blobs[&id].key == *key
    }

    pub(super) fn begin_write(&mut self, now: Timestamp, begin: BeginWrite) -> Result<Begun, Refusal> {
        let key = (begin.bucket, begin.key);
        let mut kept = None;
        if let Some(given_up) = begin.instead_of {
            if !self.is_ours(given_up.blob, begin.incarnation, &key) {
                return Err(Refusal::Lost);
            }
            let failed = &self.blobs[&given_up.blob];
            kept = Some((failed.version, failed.superseded));
            self.doom(now, given_up.blob, now, given_up.may_appear, "attempt failed");
        }
        if begin.incarnation != self.current {
            return Err(Refusal::Lost);
        }
        self.must_be_there(&key.0, begin.in_stored)?;
        if begin.size > OBJECT_BYTES_MAX {
            return Err(Refusal::EntityTooLarge);
        }
        self.test(&key, &begin.condition)?;
        let candidate = self.choose(now, &begin.candidates, begin.size, true)?;
        let (version, superseded) =
            kept.unwrap_or_else(|| (mint_version(now, self.floor(&key), chance_of_nonce(begin.nonce)), Overtaken::No));
        let name = blob_name::mint(key.0.as_str(), key.1.as_str(), candidate.literal, version, begin.nonce);
        let mut blob = Blob::reserved(candidate.backend, name, key, version, begin.size);
        blob.owner = Some(begin.incarnation);
        blob.superseded = superseded;
        Ok(Begun { version, blob: self.add_blob(blob) })
    }

    pub(super) fn commit_write(&mut self, now: Timestamp, commit: CommitWrite) -> Result<Committed, Refusal> {
        let key = (commit.bucket, commit.key);
        let mut ours: Vec<BlobId> = Vec::new();
        for one in &commit.blobs {
            if self.is_ours(one.blob, commit.incarnation, &key) && !ours.contains(&one.blob) {
                self.blobs.get_mut(&one.blob).expect("it is ours").version_id.clone_from(&one.version_id);
                ours.push(one.blob);
            }
        }
        let Some(version) = self.common_version(&ours).filter(|_| ours.len() == commit.blobs.len()) else {
            self.doom_all(now, &ours, "commit lost");
            return Err(Refusal::Lost);
        };
        let overtaken = ours.iter().map(|id| self.blobs[id].superseded).max().unwrap_or_default();
        if overtaken != Overtaken::No {
            self.doom_all(now, &ours, "overtaken");
            return commit.condition.overtaken(overtaken, version, now);
        }
        if self.versions.get(&key).is_some_and(|live| live.version == version) {
            self.doom_all(now, &ours, "commit lost");
            return Err(Refusal::Lost);
        }
        if let Err(refusal) = self.test(&key, &commit.condition) {
            self.doom_all(now, &ours, "condition refused");
            return Err(refusal);
        }
        let size = self.blobs[&ours[0]].bytes;
        let live = Live { version, size, etag: commit.etag, modified: now, record: commit.record };
        Ok(self.make_live(now, &key, &ours, live, &commit.condition))
    }

    /// The version that all these blobs are copies of.
    fn common_version(&self, blobs: &[BlobId]) -> Option<Version> {
        let first = self.blobs[blobs.first()?].version;
        blobs.iter().all(|id| self.blobs[id].version == first).then_some(first)
    }

    /// Blobs whose backend has answered, and that no reader can know.
    fn doom_all(&mut self, now: Timestamp, blobs: &[BlobId], reason: &str) {
        for id in blobs {
            if self.blobs[id].state == BlobState::Reserved {
                self.doom(now, *id, now, false, reason);
            }
        }
    }

    pub(super) fn abandon_write(&mut self, now: Timestamp, abandon: &AbandonWrite) -> Done {
        let given_up = abandon.given_up;
        if self.is_reserved_by(given_up.blob, abandon.incarnation) {
            self.doom(now, given_up.blob, now, given_up.may_appear, &abandon.reason);
        }
        Done
    }

    pub(super) fn delete(&mut self, now: Timestamp, delete: &Delete) -> Result<Deleted, Refusal> {
        let key = (delete.bucket.clone(), delete.key.clone());
        self.test(&key, &delete.condition)?;
        let existed = self.versions.contains_key(&key);
        self.displace(now, &key, "deleted");
        self.supersede(&key, None, Overtaken::by(&delete.condition));
        Ok(Deleted { existed })
    }

    pub(super) fn set_tags(&mut self, set: SetTags) -> Result<Done, Refusal> {
        let live = self.versions.get_mut(&(set.bucket, set.key)).ok_or(Refusal::NoSuchKey)?;
        live.record.tags = set.tags;
        Ok(Done)
    }
}

impl Blob {
    pub(super) fn reserved(backend: BackendName, name: String, key: Key, version: Version, bytes: u64) -> Self {
        Self {
            backend,
            name,
            key,
            version,
            state: BlobState::Reserved,
            bytes,
            owner: None,
            superseded: Overtaken::No,
            upload: None,
            backend_upload: String::new(),
            version_id: String::new(),
            foreign_etag: String::new(),
            abort_uploads: false,
            doomed_at: Timestamp::default(),
            not_before: Timestamp::default(),
            settle_until: Timestamp::default(),
            attempts: 0,
            last_error: String::new(),
            reason: String::new(),
        }
    }
}
