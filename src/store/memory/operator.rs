//! Steps that operators ask for (store/operator.rs).

use super::super::lending::SPENT_UNSEEN;
use super::super::port::{
    Adopt, Adopted, Bytes, Done, DropCopy, Dropped, FinishDrain, Overtaken, Refusal, Requeue, SetRestored, UNCLEAR,
    UploadState, WHICH_IS_NEWER, WRITER_GONE, WriteCondition, WriteOff, was_live,
};
use super::super::record::BlobState;
use super::super::rules::{chance_of_nonce, mint_version, skipped};
use super::tables::{Blob, Key, Live, Tables};
use crate::base::{BackendName, BlobId, Timestamp, Version};
use crate::proto::date;

impl Tables {
    pub(super) fn requeue(&mut self, now: Timestamp, one: Requeue) -> Result<Done, Refusal> {
        let blob = self.blobs.get_mut(&one.blob).filter(|blob| blob.state == BlobState::Dead).ok_or(Refusal::Lost)?;
        blob.state = BlobState::Doomed;
        blob.not_before = now;
        blob.attempts = 0;
        Ok(Done)
    }

    pub(super) fn write_off(&mut self, one: WriteOff) -> Result<Done, Refusal> {
        self.blobs.get(&one.blob).filter(|blob| blob.state == BlobState::Dead).ok_or(Refusal::Lost)?;
        self.end_blob(one.blob);
        Ok(Done)
    }

    pub(super) fn finish_drain(&mut self, one: &FinishDrain) -> Result<Done, Refusal> {
        let in_use = self.blobs.values().any(|blob| blob.backend == one.backend);
        let backend = self.backends.get_mut(&one.backend).filter(|backend| backend.draining).ok_or(Refusal::Lost)?;
        if in_use {
            return Err(Refusal::Busy);
        }
        backend.drained = true;
        Ok(Done)
    }

    pub(super) fn drop_copy(&mut self, now: Timestamp, one: &DropCopy) -> Result<Dropped, Refusal> {
        let key = (one.bucket.clone(), one.key.clone());
        let found = self.blobs.get(&one.blob).filter(|blob| blob.key == key);
        if one.only_live && found.is_none_or(|blob| blob.state != BlobState::Live) {
            return Err(Refusal::Lost);
        }
        let Some(blob) = found else { return Ok(Dropped { object_ended: false }) };
        let (state, version, upload) = (blob.state, blob.version, blob.upload.clone());
        if let Some(upload) = upload.filter(|_| state == BlobState::Reserved) {
            self.give_up_upload(now, &upload);
        }
        let copies = |other: &Blob| other.version == version && other.state == BlobState::Live;
        let others = self.blobs_of(&key).filter(|(id, other)| *id != one.blob && copies(other)).count();
        let object_ended = state == BlobState::Live && others == 0;
        if object_ended {
            self.versions.remove(&key);
        }
        match one.bytes {
            Bytes::Gone => self.end_blob(one.blob),
            Bytes::Deleted => match state {
                BlobState::Live => self.doom(now, one.blob, now, false, &one.reason),
                BlobState::Reserved => self.doom(now, one.blob, now, true, &one.reason),
                BlobState::Doomed | BlobState::Dead => {
                    let blob = self.blobs.get_mut(&one.blob).expect("found above");
                    blob.state = BlobState::Doomed;
                    blob.not_before = now;
                    blob.attempts = 0;
                }
            },
        }
        Ok(Dropped { object_ended })
    }

    fn give_up_upload(&mut self, now: Timestamp, upload: &crate::base::UploadId) {
        if let Some(row) = self.uploads.get_mut(upload).filter(|row| row.is_active()) {
            row.state = UploadState::Aborted;
            row.ended = now;
            row.parts.clear();
            row.attempts.clear();
        }
    }

    pub(super) fn adopt(&mut self, now: Timestamp, one: Adopt) -> Result<Adopted, Refusal> {
        if !self.backends.contains_key(&one.backend) {
            return Err(Refusal::Lost);
        }
        let key = (one.bucket.clone(), one.key.clone());
        let known = self.named(&one.backend, &one.name);
        if let Some(id) = known
            && !self.may_be_taken_back(id, &key)
        {
            let blob = &self.blobs[&id];
            let is_under_way = blob.state == BlobState::Reserved && blob.upload.is_none();
            return Ok(if is_under_way { Adopted::UnderWay } else { Adopted::Known });
        }
        let live = self.versions.get(&key).map(|live| live.version);
        let Some(named) = one.version else { return Ok(self.import(now, &key, one, live)) };
        // Of an upload that was completing the row knows better than the name, which is older.
        let version = known.map_or(named, |id| self.blobs[&id].version);
        let displaced =
            self.blobs_of(&key).filter(|(_, blob)| was_live(&blob.reason)).map(|(_, blob)| blob.version).max();
        let newest = live.max(displaced);
        let overtaken = newest.is_some_and(|newest| version < newest) || newest == Some(version) && live != newest;
        // A row that is no upload's knows its version.
        let may_be_newer = known.map_or(one.assembled, |id| self.blobs[&id].upload.is_some());
        if overtaken && may_be_newer {
            self.set_aside(now, known, &key, &one, version);
            return Ok(Adopted::Unclear);
        }
        if overtaken || self.has_copy(&key, version, &one.backend) {
            return Ok(match known {
                Some(_) => Adopted::Outdated,
                None => {
                    let id = self.add_found(&key, &one, version);
                    self.doom(now, id, now, false, "outdated");
                    Adopted::Outdated
                }
            });
        }
        let id = match known {
            Some(id) => self.take_back(now, id, one.size),
            None => self.add_found(&key, &one, version),
        };
        if live == Some(version) {
            let blob = self.blobs.get_mut(&id).expect("it was added");
            blob.state = BlobState::Live;
            return Ok(Adopted::Copy);
        }
        Ok(self.adopt_live(now, &key, one, version, id, live.is_some()))
    }

    /// An object that somebody else put there.
    fn import(&mut self, now: Timestamp, key: &Key, one: Adopt, live: Option<Version>) -> Adopted {
        if live.is_some() {
            return Adopted::Unclear;
        }
        let version = mint_version(now, self.floor(key), chance_of_nonce(one.nonce));
        let id = self.add_found(key, &one, version);
        self.adopt_live(now, key, one, version, id, false)
    }

    fn adopt_live(
        &mut self,
        now: Timestamp,
        key: &Key,
        one: Adopt,
        version: Version,
        id: BlobId,
        displaced: bool,
    ) -> Adopted {
        let modified = if one.foreign_etag.is_empty() { Timestamp { millis: version.millis() as i64 } } else { now };
        let live = Live { version, size: one.size, etag: one.etag, modified, record: one.record };
        self.make_live(now, key, &[id], live, &WriteCondition::default());
        Adopted::Live { version, displaced }
    }

    fn named(&self, backend: &BackendName, name: &str) -> Option<BlobId> {
        self.blobs.iter().find(|(_, blob)| blob.backend == *backend && blob.name == name).map(|(id, _)| *id)
    }

    /// After a restore: what recovery gave up, and what an upload had reserved, may have been committed after the backup.
    fn may_be_taken_back(&self, id: BlobId, key: &Key) -> bool {
        let blob = &self.blobs[&id];
        let given_up = matches!(blob.state, BlobState::Doomed | BlobState::Dead) && blob.reason == WRITER_GONE;
        let of_upload = blob.state == BlobState::Reserved && blob.upload.is_some();
        self.restored && blob.key == *key && (given_up || of_upload)
    }

    fn take_back(&mut self, now: Timestamp, id: BlobId, size: u64) -> BlobId {
        if let Some(upload) = self.blobs[&id].upload.clone() {
            self.give_up_upload(now, &upload);
        }
        let blob = self.blobs.get_mut(&id).expect("it is known");
        let more = size as i64 - blob.bytes as i64;
        blob.bytes = size;
        (blob.state, blob.superseded, blob.upload, blob.attempts) = (BlobState::Reserved, Overtaken::No, None, 0);
        (blob.settle_until, blob.not_before) = (Timestamp::default(), Timestamp::default());
        blob.reason.clear();
        let backend = blob.backend.clone();
        self.charge_found(&backend, more);
        id
    }

    /// Makes a dead letter of bytes that may be a client's newest: an upload that they are of ends, nothing deletes them.
    fn set_aside(&mut self, now: Timestamp, known: Option<BlobId>, key: &Key, one: &Adopt, version: Version) {
        let id = match known {
            Some(id) => self.take_back(now, id, one.size),
            None => self.add_found(key, one, version),
        };
        self.doom(now, id, now, false, UNCLEAR);
        let blob = self.blobs.get_mut(&id).expect("it was just doomed");
        blob.state = BlobState::Dead;
        WHICH_IS_NEWER.clone_into(&mut blob.last_error);
    }

    /// A row for bytes that are there, whatever the limit says.
    fn add_found(&mut self, key: &Key, one: &Adopt, version: Version) -> BlobId {
        self.last_blob += 1;
        let id = BlobId(self.last_blob);
        let mut blob = Blob::reserved(one.backend.clone(), one.name.clone(), key.clone(), version, one.size);
        blob.foreign_etag.clone_from(&one.foreign_etag);
        self.blobs_of.entry(key.clone()).or_default().insert(id);
        self.blobs.insert(id, blob);
        self.backends.get_mut(&one.backend).expect("tested by the caller").drained = false;
        self.charge_found(&one.backend, one.size as i64);
        id
    }

    pub(super) fn set_restored(&mut self, now: Timestamp, one: SetRestored) -> Done {
        if one.restored && !self.restored {
            self.last_blob = skipped(self.last_blob);
            self.budgets_in_doubt = date::month(now);
            self.budgets.retain(|(_, period, _, by), _| *by != SPENT_UNSEEN || *period != self.budgets_in_doubt);
        }
        self.restored = one.restored;
        Done
    }
}
