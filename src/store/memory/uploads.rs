//! Multipart uploads (PROTOCOL.md, "Multipart"): open -> completing -> done, open -> aborted.
//!
//! An upload's blob is charged for its parts and for those in flight. What a backend may hold although no part row names
//! it stays charged until the upload ends.

use super::super::port::{
    AbandonPart, AbortStale, AbortUpload, BeginPart, Candidate, CommitPart, Committed, CompleteStarted, CreateUpload,
    Done, FinishComplete, Overtaken, PartAttempt, PartBegun, Refusal, ReopenUpload, SetBackendUpload, StartComplete,
    Upload, UploadState,
};
use super::super::rules::{chance_of_nonce, chance_of_upload, check_manifest, mint_version, version_time};
use super::tables::{Attempt, Blob, Key, Live, Tables, UploadRow};
use crate::base::limits::OBJECT_BYTES_MAX;
use crate::base::{BlobId, Incarnation, Nonce, PartNumber, Timestamp, UploadId, blob_name};
use std::collections::BTreeMap;
use std::time::Duration;

impl Tables {
    pub(super) fn create_upload(&mut self, now: Timestamp, create: CreateUpload) -> Result<Upload, Refusal> {
        if self.uploads.contains_key(&create.upload) {
            return Err(Refusal::Conflict);
        }
        self.must_be_there(&create.bucket, create.in_stored)?;
        let active = self.uploads.values().filter(|row| row.key.0 == create.bucket && row.is_active()).count();
        let active = active + self.uploads_elsewhere.get(&create.bucket).copied().unwrap_or(0);
        if create.uploads_max > 0 && active >= create.uploads_max as usize {
            return Err(Refusal::TooManyUploads);
        }
        let candidate = self.choose(now, &create.candidates, 1, true)?;
        let key = (create.bucket, create.key);
        let version = mint_version(now, self.floor(&key), chance_of_nonce(create.nonce));
        let name = blob_name::mint(key.0.as_str(), key.1.as_str(), candidate.literal, version, create.nonce);
        let mut blob = Blob::reserved(candidate.backend, name, key.clone(), version, 0);
        blob.upload = Some(create.upload.clone());
        let row = UploadRow {
            key,
            blob: self.add_blob(blob),
            backend_upload: String::new(),
            record: create.record,
            checksum_algorithm: create.checksum_algorithm,
            checksum_full_object: create.checksum_full_object,
            initiated: now,
            state: UploadState::Open,
            manifest: Vec::new(),
            version,
            parts: BTreeMap::new(),
            attempts: BTreeMap::new(),
            finished: None,
            ended: Timestamp::default(),
        };
        let upload = row.shown(&create.upload);
        self.uploads.insert(create.upload, row);
        Ok(upload)
    }

    pub(super) fn part_attempts(&self, incarnation: Incarnation, after: (String, u16), max: u32) -> Vec<PartAttempt> {
        let of = |upload: &UploadId, row: &UploadRow| {
            let own = row.attempts.iter().filter(|(_, one)| one.incarnation == incarnation);
            let shown = |(number, one): (&PartNumber, &Attempt)| PartAttempt {
                upload: upload.clone(),
                number: *number,
                nonce: one.nonce,
            };
            own.map(shown).collect::<Vec<_>>()
        };
        let place = |one: &PartAttempt| (one.upload.as_str().to_owned(), one.number.get());
        let mut found: Vec<PartAttempt> = self.uploads.iter().flat_map(|(upload, row)| of(upload, row)).collect();
        found.retain(|one| place(one) > after);
        found.sort_by_key(place);
        found.truncate(max as usize);
        found
    }

    pub(super) fn set_backend_upload(&mut self, set: SetBackendUpload) -> Result<Upload, Refusal> {
        let row = self.uploads.get_mut(&set.upload).filter(|row| row.state != UploadState::Aborted);
        let row = row.ok_or(Refusal::NoSuchUpload)?;
        if row.backend_upload.is_empty() {
            row.backend_upload.clone_from(&set.backend_upload);
            // That of one that is done may be gone.
            if let Some(blob) = self.blobs.get_mut(&row.blob.id) {
                blob.backend_upload = set.backend_upload;
            }
        }
        Ok(row.shown(&set.upload))
    }

    /// The upload, if it is open and of this key.
    fn open_upload(&self, upload: &UploadId, key: &Key) -> Result<&UploadRow, Refusal> {
        let row = self.uploads.get(upload).filter(|row| row.key == *key).ok_or(Refusal::NoSuchUpload)?;
        match row.state {
            UploadState::Open => Ok(row),
            UploadState::Completing => Err(Refusal::Busy),
            UploadState::Done | UploadState::Aborted => Err(Refusal::NoSuchUpload),
        }
    }

    pub(super) fn begin_part(&mut self, now: Timestamp, begin: BeginPart) -> Result<PartBegun, Refusal> {
        if begin.incarnation != self.current {
            return Err(Refusal::Lost);
        }
        if begin.size > OBJECT_BYTES_MAX {
            return Err(Refusal::EntityTooLarge);
        }
        let row = self.open_upload(&begin.upload, &(begin.bucket, begin.key))?;
        if row.attempts.contains_key(&begin.number) {
            return Err(Refusal::Busy);
        }
        let (id, upload) = (row.blob.id, row.shown(&begin.upload));
        let only = Candidate { backend: row.blob.backend.clone(), literal: true };
        self.choose(now, &[only], begin.size, true)?;
        self.recharge(id, begin.size as i64);
        let attempt = Attempt { nonce: begin.nonce, incarnation: begin.incarnation, size: begin.size };
        let row = self.uploads.get_mut(&begin.upload).expect("it is open");
        row.attempts.insert(begin.number, attempt);
        Ok(PartBegun { upload, nonce: begin.nonce })
    }

    /// Changes what an upload's blob is charged for.
    fn recharge(&mut self, id: BlobId, bytes: i64) {
        let blob = self.blobs.get_mut(&id).expect("an upload that has not ended has its blob");
        blob.bytes = blob.bytes.checked_add_signed(bytes).expect("a charge is never below zero");
        let backend = blob.backend.clone();
        self.charge(&backend, bytes);
    }

    pub(super) fn commit_part(&mut self, commit: CommitPart) -> Result<Done, Refusal> {
        let number = PartNumber::new(commit.part.number).ok_or(Refusal::InvalidPart)?;
        let row = self.uploads.get_mut(&commit.upload).ok_or(Refusal::NoSuchUpload)?;
        match row.state {
            UploadState::Open => {}
            UploadState::Completing => return Err(Refusal::Busy),
            UploadState::Done | UploadState::Aborted => return Err(Refusal::NoSuchUpload),
        }
        let size = row.attempt(number, commit.nonce, commit.incarnation).ok_or(Refusal::Lost)?.size;
        if size != commit.part.size {
            return Err(Refusal::InvalidPart);
        }
        row.attempts.remove(&number);
        row.parts.insert(number.get(), commit.part);
        Ok(Done)
    }

    pub(super) fn abandon_part(&mut self, now: Timestamp, abandon: &AbandonPart) -> Done {
        let Some(row) = self.uploads.get_mut(&abandon.upload) else { return Done };
        let Some(attempt) = row.attempt(abandon.number, abandon.nonce, abandon.incarnation) else { return Done };
        let (size, blob) = (attempt.size, row.blob.id);
        if abandon.may_have_replaced {
            self.leave_behind(now, &abandon.upload, abandon.number);
        } else {
            row.attempts.remove(&abandon.number);
            self.recharge(blob, -(size as i64));
        }
        Done
    }

    /// An attempt whose bytes the backend may hold, now or later: what the number held is not known any more, and all of
    /// it stays charged.
    pub(super) fn leave_behind(&mut self, now: Timestamp, upload: &UploadId, number: PartNumber) {
        let row = self.uploads.get_mut(upload).expect("its attempt was looked up");
        row.attempts.remove(&number);
        row.parts.remove(&number.get());
        let blob = self.blobs.get_mut(&row.blob.id).expect("an upload that has not ended has its blob");
        blob.settle_until = now.plus(self.rules.settle);
    }

    pub(super) fn start_complete(&mut self, now: Timestamp, start: StartComplete) -> Result<CompleteStarted, Refusal> {
        let key = (start.bucket, start.key);
        let row = self.uploads.get(&start.upload).filter(|row| row.key == key).ok_or(Refusal::NoSuchUpload)?;
        let parts_of = |row: &UploadRow| {
            let part = |number: PartNumber| row.parts.get(&number.get()).cloned();
            check_manifest(&start.manifest, start.enforce_min_part_size, part)
        };
        match row.state {
            UploadState::Aborted => return Err(Refusal::NoSuchUpload),
            UploadState::Done if row.manifest != start.manifest => return Err(Refusal::InvalidPart),
            UploadState::Done => {
                let (committed, etag, record) = row.finished.clone().expect("a done upload has its answer");
                return Ok(CompleteStarted::AlreadyDone { etag, record, version: committed.version() });
            }
            UploadState::Completing if row.manifest != start.manifest => return Err(Refusal::Busy),
            UploadState::Completing => {
                let (parts, _) = parts_of(row)?;
                let (upload, version) = (row.shown(&start.upload), row.version);
                return Ok(CompleteStarted::Go { upload, version, parts, joined: true });
            }
            UploadState::Open => {}
        }
        self.test(&key, &start.condition)?;
        if start.manifest.iter().any(|(number, _)| row.attempts.contains_key(number)) {
            return Err(Refusal::Busy);
        }
        let (parts, _) = parts_of(row)?;
        let version = mint_version(now, self.floor(&key), chance_of_upload(&start.upload));
        let row = self.uploads.get_mut(&start.upload).expect("it is open");
        row.state = UploadState::Completing;
        row.manifest = start.manifest;
        row.version = version;
        let blob = self.blobs.get_mut(&row.blob.id).expect("an upload that has not ended has its blob");
        blob.version = version;
        Ok(CompleteStarted::Go { upload: row.shown(&start.upload), version, parts, joined: false })
    }

    pub(super) fn finish_complete(&mut self, now: Timestamp, finish: FinishComplete) -> Result<Committed, Refusal> {
        let key = (finish.bucket, finish.key);
        let row = self.uploads.get_mut(&finish.upload).filter(|row| row.key == key).ok_or(Refusal::NoSuchUpload)?;
        match row.state {
            UploadState::Aborted => return Err(Refusal::NoSuchUpload),
            UploadState::Open => return Err(Refusal::Lost),
            _ if row.version != finish.version => return Err(Refusal::Lost),
            UploadState::Done => return Ok(row.finished.as_ref().expect("a done upload has its answer").0),
            UploadState::Completing => {}
        }
        // The backend has made the object of the manifest's parts and dropped the others.
        let named = |number: u16| row.manifest.iter().any(|(one, _)| one.get() == number);
        row.parts.retain(|number, _| named(*number));
        row.attempts.clear();
        let (id, version) = (row.blob.id, row.version);
        let size: u64 = row.parts.values().map(|part| part.size).sum();
        let excess = self.blobs[&id].bytes - size;
        self.recharge(id, -(excess as i64));
        let blob = self.blobs.get_mut(&id).expect("an upload that has not ended has its blob");
        blob.version_id = finish.version_id;
        blob.settle_until = Timestamp::default();
        let overtaken = blob.superseded;
        let outcome = if overtaken != Overtaken::No {
            self.doom(now, id, now, false, "overtaken");
            finish.condition.overtaken(overtaken, version, now)
        } else if let Err(refusal) = self.test(&key, &finish.condition) {
            self.doom(now, id, now, false, "condition refused");
            Err(refusal)
        } else {
            let (etag, record) = (finish.etag.clone(), finish.record.clone());
            let live = Live { version, size, etag, modified: now, record };
            Ok(self.make_live(now, &key, &[id], live, &finish.condition))
        };
        let row = self.uploads.get_mut(&finish.upload).expect("it was looked up");
        row.ended = now;
        if let Ok(committed) = outcome {
            row.state = UploadState::Done;
            row.finished = Some((committed, finish.etag, finish.record));
        } else {
            row.state = UploadState::Aborted;
            row.parts.clear();
        }
        outcome
    }

    pub(super) fn reopen_upload(&mut self, now: Timestamp, reopen: &ReopenUpload) -> Result<Done, Refusal> {
        let row = self.uploads.get_mut(&reopen.upload).filter(|row| row.is_active()).ok_or(Refusal::NoSuchUpload)?;
        if row.state != UploadState::Completing || row.version != reopen.version {
            return Ok(Done);
        }
        row.state = UploadState::Open;
        row.manifest.clear();
        let blob = self.blobs.get_mut(&row.blob.id).expect("an upload that has not ended has its blob");
        blob.superseded = Overtaken::No;
        blob.settle_until = now.plus(self.rules.settle);
        Ok(Done)
    }

    pub(super) fn abort_upload(&mut self, now: Timestamp, abort: &AbortUpload) -> Result<Done, Refusal> {
        let key = (abort.bucket.clone(), abort.key.clone());
        let row = self.uploads.get_mut(&abort.upload).filter(|row| row.key == key).ok_or(Refusal::NoSuchUpload)?;
        match row.state {
            UploadState::Open => {}
            UploadState::Completing => return Err(Refusal::Busy),
            UploadState::Done => return Err(Refusal::NoSuchUpload),
            UploadState::Aborted => return Ok(Done),
        }
        self.end_with_nothing(now, &abort.upload, "upload aborted");
        Ok(Done)
    }

    pub(super) fn abort_stale(&mut self, now: Timestamp, abort: &AbortStale) -> Result<Done, Refusal> {
        let row = self.uploads.get(&abort.upload).filter(|row| row.is_active()).ok_or(Refusal::NoSuchUpload)?;
        if !row.is_stale(now, abort.age) {
            return Err(Refusal::Busy);
        }
        self.end_with_nothing(now, &abort.upload, "upload was not finished in time");
        Ok(Done)
    }

    fn end_with_nothing(&mut self, now: Timestamp, upload: &UploadId, reason: &str) {
        let row = self.uploads.get_mut(upload).expect("it was looked up");
        // A part that is on its way, a backend upload that is being made, an object that is being assembled may arrive after
        // the first look.
        let may_appear =
            !row.attempts.is_empty() || row.backend_upload.is_empty() || row.state == UploadState::Completing;
        row.state = UploadState::Aborted;
        row.ended = now;
        row.parts.clear();
        row.attempts.clear();
        let id = row.blob.id;
        self.doom(now, id, now, may_appear, reason);
    }
}

impl UploadRow {
    pub(in crate::store) fn is_active(&self) -> bool {
        matches!(self.state, UploadState::Open | UploadState::Completing)
    }

    /// Nobody is at it any more.
    pub(super) fn is_stale(&self, now: Timestamp, age: Duration) -> bool {
        let since = if self.state == UploadState::Completing { version_time(self.version) } else { self.initiated };
        since < now.minus(age)
    }

    fn attempt(&self, number: PartNumber, nonce: Nonce, incarnation: Incarnation) -> Option<&Attempt> {
        self.attempts.get(&number).filter(|one| one.nonce == nonce && one.incarnation == incarnation)
    }

    pub(in crate::store) fn shown(&self, upload: &UploadId) -> Upload {
        Upload {
            upload: upload.clone(),
            bucket: self.key.0.clone(),
            key: self.key.1.clone(),
            blob: self.blob.clone(),
            backend_upload: self.backend_upload.clone(),
            record: self.record.clone(),
            checksum_algorithm: self.checksum_algorithm.clone(),
            checksum_full_object: self.checksum_full_object,
            initiated: self.initiated,
            state: self.state,
        }
    }
}
