//! Multipart uploads (PROTOCOL.md, "Multipart"): open -> completing -> done, open -> aborted.

use super::super::port::{
    AbandonPart, AbortStale, AbortUpload, BeginPart, Candidate, CommitPart, Committed, CompleteStarted, CreateUpload,
    Done, FinishComplete, Overtaken, PartBegun, Refusal, ReopenUpload, SetBackendUpload, StartComplete, Upload,
    UploadState,
};
use super::super::record::{BlobState, PartRecord};
use super::super::rules::{chance_of_nonce, chance_of_upload, check_manifest, mint_version, version_time};
use super::rows::{self, UploadRow, upload_columns};
use super::transaction::{Blob, Key, Live, NewBlob, Step, Transaction};
use super::writes::{Coming, signed};
use crate::base::{BlobId, BucketName, Incarnation, Nonce, ObjectKey, PartNumber, UploadId};
use rusqlite::{OptionalExtension, params};
use std::collections::HashMap;

/// A part in flight.
struct Attempt {
    nonce: String,
    incarnation: i64,
    size: i64,
}

impl Transaction<'_> {
    fn upload(&self, upload: &UploadId) -> rusqlite::Result<Option<UploadRow>> {
        self.conn
            .prepare_cached(concat!("SELECT ", upload_columns!(), " FROM uploads WHERE upload = ?1"))?
            .query_row([upload.as_str()], |row| UploadRow::read(row, |backend| self.ledger.name_of(backend)))
            .optional()
    }

    fn upload_of(&self, upload: &UploadId, bucket: &BucketName, key: &ObjectKey) -> Step<UploadRow> {
        let of_key = |row: &UploadRow| row.shown.bucket == *bucket && row.shown.key == *key;
        Ok(self.upload(upload)?.filter(of_key).ok_or(Refusal::NoSuchUpload)?)
    }

    /// The blob of an upload that has not ended.
    fn blob_of_upload(&self, row: &UploadRow) -> rusqlite::Result<Blob> {
        Ok(self.blob(row.shown.blob.id)?.expect("an upload that has not ended has its blob"))
    }

    fn set_state(&self, upload: &UploadId, state: &str) -> rusqlite::Result<()> {
        self.execute("UPDATE uploads SET state = ?2 WHERE upload = ?1", params![upload.as_str(), state]).map(drop)
    }

    /// Changes what an upload's blob is charged for.
    fn recharge(&mut self, blob: BlobId, backend: i64, bytes: i64) -> rusqlite::Result<()> {
        if bytes != 0 {
            self.execute("UPDATE blobs SET bytes = bytes + ?2 WHERE id = ?1", params![blob.0, bytes])?;
            self.ledger.by_id(backend).blob_recharged(bytes);
        }
        Ok(())
    }

    pub(super) fn create_upload(&mut self, create: &CreateUpload) -> Step<Upload> {
        if self.upload(&create.upload)?.is_some() {
            return Err(Refusal::Conflict.into());
        }
        self.must_be_there(&create.bucket, create.in_stored)?;
        if create.uploads_max > 0 {
            let active: u32 = self
                .conn
                .prepare_cached("SELECT count(*) FROM uploads WHERE bucket = ?1 AND state IN ('open', 'completing')")?
                .query_row([create.bucket.as_str()], |row| row.get(0))?;
            if active >= create.uploads_max {
                return Err(Refusal::TooManyUploads.into());
            }
        }
        let candidate = self.choose(&create.candidates, 1, true)?;
        let key = Key::of(&create.bucket, &create.key);
        let version = mint_version(self.now, self.floor(key)?, chance_of_nonce(create.nonce));
        let blob = self.add_blob(&NewBlob {
            key,
            candidate: &candidate,
            version,
            nonce: create.nonce,
            bytes: 0,
            incarnation: None,
            superseded: Overtaken::No,
            upload: Some(create.upload.as_str()),
        })?;
        let line = self.ledger.by_name(&candidate.backend).expect("a chosen candidate is known");
        line.uploads_changed(1);
        let backend = line.id;
        self.execute(
            "INSERT INTO uploads (upload, bucket, key, blob, backend, name, record, checksum_algorithm,
                 checksum_full_object, initiated, state, version)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 'open', ?11)",
            params![
                create.upload.as_str(),
                key.bucket,
                key.bytes(),
                blob.id.0,
                backend,
                blob.name.as_bytes(),
                rows::to_json(&create.record),
                create.checksum_algorithm,
                create.checksum_full_object,
                self.now.millis,
                version.as_str(),
            ],
        )?;
        Ok(Upload {
            upload: create.upload.clone(),
            bucket: create.bucket.clone(),
            key: create.key.clone(),
            blob,
            backend_upload: String::new(),
            record: create.record.clone(),
            checksum_algorithm: create.checksum_algorithm.clone(),
            checksum_full_object: create.checksum_full_object,
            initiated: self.now,
            state: UploadState::Open,
        })
    }

    pub(super) fn set_backend_upload(&mut self, set: &SetBackendUpload) -> Step<Upload> {
        let row = self.upload(&set.upload)?.filter(|row| row.shown.state != UploadState::Aborted);
        let mut shown = row.ok_or(Refusal::NoSuchUpload)?.shown;
        if shown.backend_upload.is_empty() {
            self.execute(
                "UPDATE uploads SET backend_upload = ?2 WHERE upload = ?1",
                params![set.upload.as_str(), set.backend_upload],
            )?;
            self.execute(
                "UPDATE blobs SET backend_upload = ?2 WHERE id = ?1",
                params![shown.blob.id.0, set.backend_upload],
            )?;
            shown.backend_upload.clone_from(&set.backend_upload);
        }
        Ok(shown)
    }

    // ---- parts ---------------------------------------------------------------------------------------------------

    fn attempt(&self, upload: &UploadId, number: PartNumber) -> rusqlite::Result<Option<Attempt>> {
        self.conn
            .prepare_cached("SELECT nonce, incarnation, size FROM part_attempts WHERE upload = ?1 AND number = ?2")?
            .query_row(params![upload.as_str(), number.get()], |row| {
                Ok(Attempt { nonce: row.get(0)?, incarnation: row.get(1)?, size: row.get(2)? })
            })
            .optional()
    }

    fn end_attempt(&self, upload: &str, number: u16) -> rusqlite::Result<()> {
        self.execute("DELETE FROM part_attempts WHERE upload = ?1 AND number = ?2", params![upload, number]).map(drop)
    }

    /// The current attempt for a number, if it is this one.
    fn this_attempt(
        &self,
        upload: &UploadId,
        number: PartNumber,
        nonce: Nonce,
        incarnation: Incarnation,
    ) -> rusqlite::Result<Option<Attempt>> {
        let is_this = |one: &Attempt| one.nonce == nonce.as_str() && one.incarnation == incarnation.0;
        Ok(self.attempt(upload, number)?.filter(is_this))
    }

    pub(super) fn begin_part(&mut self, begin: &BeginPart) -> Step<PartBegun> {
        self.must_live(begin.incarnation)?;
        let bytes = signed(begin.size)?;
        let row = self.upload_of(&begin.upload, &begin.bucket, &begin.key)?;
        match row.shown.state {
            UploadState::Open => {}
            UploadState::Completing => return Err(Refusal::Busy.into()),
            UploadState::Done | UploadState::Aborted => return Err(Refusal::NoSuchUpload.into()),
        }
        if self.attempt(&begin.upload, begin.number)?.is_some() {
            return Err(Refusal::Busy.into());
        }
        let only = Candidate { backend: row.shown.blob.backend.clone(), literal: true };
        self.choose(&[only], bytes, true)?;
        self.recharge(row.shown.blob.id, row.backend, bytes)?;
        self.execute(
            "INSERT INTO part_attempts (upload, number, nonce, incarnation, size) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![begin.upload.as_str(), begin.number.get(), begin.nonce.as_str(), begin.incarnation.0, bytes],
        )?;
        Ok(PartBegun { upload: row.shown, nonce: begin.nonce })
    }

    pub(super) fn commit_part(&mut self, commit: &CommitPart) -> Step<Done> {
        let number = PartNumber::new(commit.part.number).ok_or(Refusal::InvalidPart)?;
        let row = self.upload(&commit.upload)?.ok_or(Refusal::NoSuchUpload)?;
        match row.shown.state {
            UploadState::Open => {}
            UploadState::Completing => return Err(Refusal::Busy.into()),
            UploadState::Done | UploadState::Aborted => return Err(Refusal::NoSuchUpload.into()),
        }
        let attempt = self.this_attempt(&commit.upload, number, commit.nonce, commit.incarnation)?;
        if attempt.ok_or(Refusal::Lost)?.size != signed(commit.part.size)? {
            return Err(Refusal::InvalidPart.into());
        }
        self.end_attempt(commit.upload.as_str(), number.get())?;
        self.forget_part(&commit.upload, number)?;
        self.execute(
            "INSERT INTO parts (upload, number, size, record) VALUES (?1, ?2, ?3, ?4)",
            params![commit.upload.as_str(), number.get(), signed(commit.part.size)?, rows::to_json(&commit.part)],
        )?;
        Ok(Done)
    }

    fn forget_part(&self, upload: &UploadId, number: PartNumber) -> rusqlite::Result<()> {
        let params = params![upload.as_str(), number.get()];
        self.execute("DELETE FROM parts WHERE upload = ?1 AND number = ?2", params).map(drop)
    }

    pub(super) fn abandon_part(&mut self, abandon: &AbandonPart) -> Step<Done> {
        let (upload, number) = (&abandon.upload, abandon.number);
        let Some(attempt) = self.this_attempt(upload, number, abandon.nonce, abandon.incarnation)? else {
            return Ok(Done);
        };
        let row = self.upload(upload)?.expect("an attempt has its upload (a foreign key)");
        if abandon.may_have_replaced {
            self.leave_behind(row.shown.blob.id, upload, number)?;
        } else {
            self.end_attempt(upload.as_str(), number.get())?;
            self.recharge(row.shown.blob.id, row.backend, -attempt.size)?;
        }
        Ok(Done)
    }

    /// An attempt whose bytes the backend may hold, now or later: what the number held is not known any more, and all of it
    /// stays charged.
    pub(super) fn leave_behind(&self, blob: BlobId, upload: &UploadId, number: PartNumber) -> rusqlite::Result<()> {
        self.end_attempt(upload.as_str(), number.get())?;
        self.forget_part(upload, number)?;
        let settle_until = self.now.plus(self.rules.settle);
        self.execute("UPDATE blobs SET settle_until = ?2 WHERE id = ?1", params![blob.0, settle_until.millis]).map(drop)
    }

    // ---- completing ----------------------------------------------------------------------------------------------

    fn parts_of(&self, start: &StartComplete) -> Step<Vec<PartRecord>> {
        let mut statement = self.conn.prepare_cached("SELECT number, record FROM parts WHERE upload = ?1")?;
        let stored = statement.query_map([start.upload.as_str()], |row| Ok((row.get(0)?, rows::json(row, 1)?)))?;
        let stored: HashMap<u16, PartRecord> = stored.collect::<rusqlite::Result<_>>()?;
        let part = |number: PartNumber| stored.get(&number.get()).cloned();
        Ok(check_manifest(&start.manifest, start.enforce_min_part_size, part)?.0)
    }

    pub(super) fn start_complete(&mut self, start: &StartComplete) -> Step<CompleteStarted> {
        let row = self.upload_of(&start.upload, &start.bucket, &start.key)?;
        let manifest = manifest_text(&start.manifest);
        let same = row.manifest == manifest;
        match row.shown.state {
            UploadState::Aborted => return Err(Refusal::NoSuchUpload.into()),
            UploadState::Done if !same => return Err(Refusal::InvalidPart.into()),
            UploadState::Done => return Ok(self.already_done(&row)?),
            UploadState::Completing if !same => return Err(Refusal::Busy.into()),
            UploadState::Completing => {
                let parts = self.parts_of(start)?;
                return Ok(CompleteStarted::Go { upload: row.shown, version: row.version, parts, joined: true });
            }
            UploadState::Open => {}
        }
        let key = Key::of(&start.bucket, &start.key);
        self.test(key, &start.condition)?;
        for (number, _) in &start.manifest {
            if self.attempt(&start.upload, *number)?.is_some() {
                return Err(Refusal::Busy.into());
            }
        }
        let parts = self.parts_of(start)?;
        let version = mint_version(self.now, self.floor(key)?, chance_of_upload(&start.upload));
        self.execute(
            "UPDATE uploads SET state = 'completing', manifest = ?2, version = ?3 WHERE upload = ?1",
            params![start.upload.as_str(), manifest, version.as_str()],
        )?;
        self.execute(
            "UPDATE blobs SET version = ?2, contends = 1 WHERE id = ?1",
            params![row.shown.blob.id.0, version.as_str()],
        )?;
        let upload = Upload { state: UploadState::Completing, ..row.shown };
        Ok(CompleteStarted::Go { upload, version, parts, joined: false })
    }

    fn already_done(&self, row: &UploadRow) -> rusqlite::Result<CompleteStarted> {
        self.conn.prepare_cached("SELECT final_etag, final_record FROM uploads WHERE upload = ?1")?.query_row(
            [row.shown.upload.as_str()],
            |found| {
                let (etag, record) = (rows::owned(found, 0)?, rows::json(found, 1)?);
                Ok(CompleteStarted::AlreadyDone { etag, record, version: row.version })
            },
        )
    }

    pub(super) fn finish_complete(&mut self, finish: &FinishComplete) -> Step<Committed> {
        let row = self.upload_of(&finish.upload, &finish.bucket, &finish.key)?;
        match row.shown.state {
            UploadState::Aborted => return Err(Refusal::NoSuchUpload.into()),
            UploadState::Open => return Err(Refusal::Lost.into()),
            _ if row.version != finish.version => return Err(Refusal::Lost.into()),
            UploadState::Done => return Ok(row.committed()),
            UploadState::Completing => {}
        }
        let blob = self.keep_the_manifest(&row)?;
        self.note_version_id(blob.id, &finish.version_id)?;
        let key = Key::of(&finish.bucket, &finish.key);
        let old = self.live(key)?;
        let outcome = if blob.superseded != Overtaken::No {
            self.doom(&blob, self.now, false, "overtaken")?;
            finish.condition.overtaken(blob.superseded, blob.version, self.now)
        } else if let Err(refusal) = finish.condition.test(old.as_ref().map(Live::existing)) {
            self.doom(&blob, self.now, false, "condition refused")?;
            Err(refusal)
        } else {
            if let Some(old) = &old {
                self.displace(key, old, "overwritten")?;
            }
            self.enliven(&blob, &finish.version_id)?;
            let coming = Coming {
                version: blob.version,
                size: blob.bytes,
                etag: &finish.etag,
                upload: Some(finish.upload.as_str()),
                record: &finish.record,
                overtakes: Overtaken::by(&finish.condition),
            };
            Ok(self.insert_live(key, &coming)?)
        };
        self.end_upload(&row, outcome.as_ref().ok(), finish)?;
        Ok(outcome?)
    }

    /// The backend has made the object of the manifest's parts and dropped the others. Answers the blob, charged for it.
    fn keep_the_manifest(&mut self, row: &UploadRow) -> Step<Blob> {
        let upload = row.shown.upload.as_str();
        self.execute(
            "DELETE FROM parts WHERE upload = ?1
                 AND number NOT IN (SELECT value ->> 0 FROM json_each(?2))",
            params![upload, row.manifest],
        )?;
        self.execute("DELETE FROM part_attempts WHERE upload = ?1", [upload])?;
        let size: i64 = self
            .conn
            .prepare_cached("SELECT coalesce(sum(size), 0) FROM parts WHERE upload = ?1")?
            .query_row([upload], |found| found.get(0))?;
        let charged = self.blob_of_upload(row)?.bytes;
        self.recharge(row.shown.blob.id, row.backend, size - charged)?;
        self.execute("UPDATE blobs SET settle_until = 0 WHERE id = ?1", [row.shown.blob.id.0])?;
        Ok(self.blob_of_upload(row)?)
    }

    fn end_upload(
        &mut self,
        row: &UploadRow,
        committed: Option<&Committed>,
        finish: &FinishComplete,
    ) -> rusqlite::Result<()> {
        let upload = row.shown.upload.as_str();
        let (state, outcome) = match committed {
            Some(Committed::Live { .. }) => ("done", Some("live")),
            Some(Committed::Overwritten { .. }) => ("done", Some("overwritten")),
            None => ("aborted", None),
        };
        self.execute(
            "UPDATE uploads SET state = ?2, outcome = ?3, final_etag = ?4, final_record = ?5, ended = ?6, forgettable = ?7
             WHERE upload = ?1",
            params![
                upload,
                state,
                outcome,
                finish.etag,
                rows::to_json(&finish.record),
                self.now.millis,
                outcome != Some("live")
            ],
        )?;
        if committed.is_none() {
            self.execute("DELETE FROM parts WHERE upload = ?1", [upload])?;
        }
        self.ledger.by_id(row.backend).uploads_changed(-1);
        Ok(())
    }

    /// Ends the upload that a blob is reserved for, whatever its state. What becomes of the blob is the caller's business.
    pub(super) fn give_up_upload_of(&mut self, blob: i64) -> rusqlite::Result<()> {
        let found: Option<(String, i64)> = self
            .conn
            .prepare_cached(
                "SELECT upload, backend FROM uploads
                 WHERE upload = (SELECT upload FROM blobs WHERE id = ?1) AND state IN ('open', 'completing')",
            )?
            .query_row([blob], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((upload, backend)) = found else { return Ok(()) };
        self.execute("DELETE FROM part_attempts WHERE upload = ?1", [&upload])?;
        self.execute("DELETE FROM parts WHERE upload = ?1", [&upload])?;
        self.execute(
            "UPDATE uploads SET state = 'aborted', ended = ?2, forgettable = 1 WHERE upload = ?1",
            params![upload, self.now.millis],
        )?;
        self.ledger.by_id(backend).uploads_changed(-1);
        Ok(())
    }

    pub(super) fn reopen_upload(&mut self, reopen: &ReopenUpload) -> Step<Done> {
        let row = self.upload(&reopen.upload)?.filter(UploadRow::is_active).ok_or(Refusal::NoSuchUpload)?;
        if row.shown.state != UploadState::Completing || row.version != reopen.version {
            return Ok(Done);
        }
        self.set_state(&reopen.upload, "open")?;
        self.execute("UPDATE uploads SET manifest = '[]' WHERE upload = ?1", [reopen.upload.as_str()])?;
        let settle_until = self.now.plus(self.rules.settle);
        self.execute(
            "UPDATE blobs SET superseded = 0, contends = 0, settle_until = ?2 WHERE id = ?1",
            params![row.shown.blob.id.0, settle_until.millis],
        )?;
        Ok(Done)
    }

    pub(super) fn abort_upload(&mut self, abort: &AbortUpload) -> Step<Done> {
        let row = self.upload_of(&abort.upload, &abort.bucket, &abort.key)?;
        match row.shown.state {
            UploadState::Open => {}
            UploadState::Completing => return Err(Refusal::Busy.into()),
            UploadState::Done => return Err(Refusal::NoSuchUpload.into()),
            UploadState::Aborted => return Ok(Done),
        }
        Ok(self.end_with_nothing(&row, "upload aborted")?)
    }

    pub(super) fn abort_stale(&mut self, abort: &AbortStale) -> Step<Done> {
        let row = self.upload(&abort.upload)?.filter(UploadRow::is_active).ok_or(Refusal::NoSuchUpload)?;
        let is_completing = row.shown.state == UploadState::Completing;
        let since = if is_completing { version_time(row.version) } else { row.shown.initiated };
        if since >= self.now.minus(abort.age) {
            return Err(Refusal::Busy.into());
        }
        Ok(self.end_with_nothing(&row, "upload was not finished in time")?)
    }

    fn end_with_nothing(&mut self, row: &UploadRow, reason: &str) -> rusqlite::Result<Done> {
        let upload = row.shown.upload.as_str();
        // A part that is on its way, a backend upload that is being made, an object that is being assembled may arrive after
        // the first look.
        let in_flight = self.execute("DELETE FROM part_attempts WHERE upload = ?1", [upload])?;
        let may_appear =
            in_flight > 0 || row.shown.backend_upload.is_empty() || row.shown.state == UploadState::Completing;
        self.execute("DELETE FROM parts WHERE upload = ?1", [upload])?;
        self.execute(
            "UPDATE uploads SET state = 'aborted', ended = ?2, forgettable = 1 WHERE upload = ?1",
            params![upload, self.now.millis],
        )?;
        self.ledger.by_id(row.backend).uploads_changed(-1);
        let blob = self.blob_of_upload(row)?;
        assert_eq!(blob.state, BlobState::Reserved, "an active upload's blob is reserved");
        self.doom(&blob, self.now, may_appear, reason)?;
        Ok(Done)
    }
}

/// As stored: `[[number, etag], …]`.
fn manifest_text(manifest: &[(PartNumber, String)]) -> String {
    let plain: Vec<(u16, &str)> = manifest.iter().map(|(number, etag)| (number.get(), etag.as_str())).collect();
    rows::to_json(&plain)
}
