//! Copies of a live version (PROTOCOL.md, "Copies of a version").

use super::super::port::{BeginCopy, Begun, Candidate, CommitCopy, Done, Overtaken, Refusal, RemoveCopy};
use super::super::record::BlobState;
use super::tables::{Blob, Key, Tables};
use crate::base::{BackendName, Timestamp, Version, blob_name};

impl Tables {
    pub(super) fn begin_copy(&mut self, now: Timestamp, begin: BeginCopy) -> Result<Begun, Refusal> {
        let key = (begin.bucket, begin.key);
        let live = self.versions.get(&key).filter(|live| live.version == begin.version);
        let Some(size) = live.map(|live| live.size).filter(|_| begin.incarnation == self.current) else {
            return Err(Refusal::Lost);
        };
        let holds_one = |one: &Candidate| {
            self.blobs_of(&key).any(|(_, blob)| {
                blob.backend == one.backend
                    && blob.version == begin.version
                    && matches!(blob.state, BlobState::Live | BlobState::Reserved)
            })
        };
        let candidates: Vec<_> = begin.candidates.iter().filter(|one| !holds_one(one)).cloned().collect();
        let candidate = self.choose(now, &candidates, size, false)?;
        let name = blob_name::mint(key.0.as_str(), key.1.as_str(), candidate.literal, begin.version, begin.nonce);
        let mut blob = Blob::reserved(candidate.backend, name, key, begin.version, size);
        blob.owner = Some(begin.incarnation);
        Ok(Begun { version: begin.version, blob: self.add_blob(blob) })
    }

    pub(super) fn commit_copy(&mut self, now: Timestamp, commit: CommitCopy) -> Result<Done, Refusal> {
        let key = (commit.bucket, commit.key);
        let id = commit.written.blob;
        if !self.is_ours(id, commit.incarnation, &key) {
            return Err(Refusal::Lost);
        }
        let blob = &self.blobs[&id];
        let is_surplus = self.has_copy(&key, blob.version, &blob.backend);
        let blob = self.blobs.get_mut(&id).expect("it is ours");
        blob.version_id = commit.written.version_id;
        let still_live = self.versions.get(&key).is_some_and(|live| live.version == blob.version);
        if !still_live || is_surplus || blob.superseded != Overtaken::No || self.backends[&blob.backend].draining {
            self.doom(now, id, now, false, "copy came too late");
            return Err(Refusal::Lost);
        }
        blob.state = BlobState::Live;
        blob.owner = None;
        Ok(Done)
    }

    /// Whether the backend holds a live copy of this version.
    pub(super) fn has_copy(&self, key: &Key, version: Version, backend: &BackendName) -> bool {
        let is_one = |blob: &Blob| blob.version == version && blob.state == BlobState::Live && blob.backend == *backend;
        self.blobs_of(key).any(|(_, blob)| is_one(blob))
    }

    pub(super) fn remove_copy(&mut self, now: Timestamp, remove: &RemoveCopy) -> Result<Done, Refusal> {
        let key = (remove.bucket.clone(), remove.key.clone());
        let Some(blob) = self.blobs.get(&remove.blob).filter(|one| one.state == BlobState::Live && one.key == key)
        else {
            return Err(Refusal::Lost);
        };
        let counts = |other: &Blob| {
            other.version == blob.version
                && other.state == BlobState::Live
                && !remove.not_counted.contains(&other.backend)
                && !self.backends[&other.backend].draining
        };
        let others = self.blobs_of(&key).filter(|(id, other)| *id != remove.blob && counts(other)).count();
        if others < remove.floor.max(1) as usize {
            return Err(Refusal::Busy);
        }
        self.doom(now, remove.blob, now.plus(self.rules.grace), false, &remove.reason);
        Ok(Done)
    }
}
