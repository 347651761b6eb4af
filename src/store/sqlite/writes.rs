//! A write: begin, commit, abandon, delete (PROTOCOL.md, "A write"); and copies of a live version.

use super::super::port::{
    AbandonWrite, BeginCopy, BeginWrite, Begun, Candidate, CommitCopy, CommitWrite, Committed, Delete, Deleted, Done,
    Overtaken, Refusal, RemoveCopy, SetTags, Written,
};
use super::super::record::{BlobState, ObjectRecord};
use super::super::rules::{chance_of_nonce, mint_version};
use super::rows;
use super::transaction::{Blob, Key, Live, NewBlob, Step, Transaction};
use crate::base::limits::OBJECT_BYTES_MAX;
use crate::base::{BackendName, BlobId, Incarnation, Version};
use rusqlite::{OptionalExtension, params};

/// Object sizes fit: the limit on objects is far below.
pub(super) fn signed(size: u64) -> Step<i64> {
    if size > OBJECT_BYTES_MAX { Err(Refusal::EntityTooLarge.into()) } else { Ok(size as i64) }
}

/// What becomes live.
pub(super) struct Coming<'a> {
    pub(super) version: Version,
    pub(super) size: i64,
    pub(super) etag: &'a str,
    pub(super) upload: Option<&'a str>,
    pub(super) record: &'a ObjectRecord,
    /// What it does to the writes that are under way below it.
    pub(super) overtakes: Overtaken,
}

impl Blob {
    /// A write's or a copy's, and still this incarnation's to end.
    fn is_reserved_by(&self, incarnation: Incarnation) -> bool {
        self.state == BlobState::Reserved && self.incarnation == Some(incarnation.0) && !self.of_upload
    }
}

impl Transaction<'_> {
    fn ours(&self, id: BlobId, incarnation: Incarnation, key: Key<'_>) -> rusqlite::Result<Option<Blob>> {
        Ok(self.blob_of(id, key)?.filter(|blob| blob.is_reserved_by(incarnation)))
    }

    pub(super) fn begin_write(&mut self, begin: &BeginWrite) -> Step<Begun> {
        let key = Key::of(&begin.bucket, &begin.key);
        let mut kept = None;
        if let Some(given_up) = begin.instead_of {
            let failed = self.ours(given_up.blob, begin.incarnation, key)?.ok_or(Refusal::Lost)?;
            self.doom(&failed, self.now, given_up.may_appear, "attempt failed")?;
            kept = Some((failed.version, failed.superseded));
        }
        self.must_live(begin.incarnation)?;
        self.must_be_there(&begin.bucket, begin.in_stored)?;
        let bytes = signed(begin.size)?;
        self.test(key, &begin.condition)?;
        let candidate = self.choose(&begin.candidates, bytes, true)?;
        let (version, superseded) = match kept {
            Some(kept) => kept,
            None => (mint_version(self.now, self.floor(key)?, chance_of_nonce(begin.nonce)), Overtaken::No),
        };
        let blob = self.add_blob(&NewBlob {
            key,
            candidate: &candidate,
            version,
            nonce: begin.nonce,
            bytes,
            incarnation: Some(begin.incarnation),
            superseded,
            upload: None,
        })?;
        Ok(Begun { version, blob })
    }

    pub(super) fn commit_write(&mut self, commit: &CommitWrite) -> Step<Committed> {
        let key = Key::of(&commit.bucket, &commit.key);
        let mut ours = Vec::with_capacity(commit.blobs.len());
        for written in &commit.blobs {
            let twice = ours.iter().any(|(_, other): &(Blob, &Written)| other.blob == written.blob);
            if let Some(blob) = self.ours(written.blob, commit.incarnation, key)?.filter(|_| !twice) {
                ours.push((blob, written));
            }
        }
        let version = ours.first().map(|(first, _)| first.version);
        let one_version = ours.iter().all(|(blob, _)| Some(blob.version) == version);
        let Some(version) = version.filter(|_| one_version && ours.len() == commit.blobs.len()) else {
            self.doom_all(&ours, "commit lost")?;
            return Err(Refusal::Lost.into());
        };
        let overtaken = ours.iter().map(|(blob, _)| blob.superseded).max().unwrap_or_default();
        if overtaken != Overtaken::No {
            self.doom_all(&ours, "overtaken")?;
            return Ok(commit.condition.overtaken(overtaken, version, self.now)?);
        }
        let old = self.live(key)?;
        if old.as_ref().is_some_and(|old| old.version == version) {
            self.doom_all(&ours, "commit lost")?;
            return Err(Refusal::Lost.into());
        }
        if let Err(refusal) = commit.condition.test(old.as_ref().map(Live::existing)) {
            self.doom_all(&ours, "condition refused")?;
            return Err(refusal.into());
        }
        if let Some(old) = old {
            self.displace(key, &old, "overwritten")?;
        }
        let size = ours[0].0.bytes;
        let (etag, record) = (commit.etag.as_str(), &commit.record);
        let overtakes = Overtaken::by(&commit.condition);
        let coming = Coming { version, size, etag, upload: None, record, overtakes };
        for (blob, written) in &ours {
            self.enliven(blob, &written.version_id)?;
        }
        Ok(self.insert_live(key, &coming)?)
    }

    /// PROTOCOL.md, "A write", 3; the former version has been displaced, the blobs are live.
    pub(super) fn insert_live(&mut self, key: Key<'_>, coming: &Coming<'_>) -> rusqlite::Result<Committed> {
        let (version, modified) = (coming.version, self.now);
        self.supersede(key, Some(version), coming.overtakes)?;
        self.execute(
            "INSERT INTO versions (bucket, key, version, live, size, modified, etag, upload, record)
             VALUES (?1, ?2, ?3, 1, ?4, ?5, ?6, ?7, ?8)",
            params![
                key.bucket,
                key.bytes(),
                version.as_str(),
                coming.size,
                modified.millis,
                coming.etag,
                coming.upload,
                rows::to_json(coming.record),
            ],
        )?;
        Ok(Committed::Live { version, modified })
    }

    /// Blobs whose backend has answered, and that no reader can know.
    fn doom_all(&mut self, blobs: &[(Blob, &Written)], reason: &str) -> rusqlite::Result<()> {
        for (blob, written) in blobs {
            self.doom(blob, self.now, false, reason)?;
            self.note_version_id(blob.id, &written.version_id)?;
        }
        Ok(())
    }

    pub(super) fn note_version_id(&self, id: i64, version_id: &str) -> rusqlite::Result<()> {
        if !version_id.is_empty() {
            self.execute("UPDATE blobs SET version_id = ?2 WHERE id = ?1", params![id, version_id])?;
        }
        Ok(())
    }

    pub(super) fn abandon_write(&mut self, abandon: &AbandonWrite) -> Step<Done> {
        let given_up = abandon.given_up;
        if let Some(blob) = self.blob(given_up.blob)?.filter(|blob| blob.is_reserved_by(abandon.incarnation)) {
            self.doom(&blob, self.now, given_up.may_appear, &abandon.reason)?;
        }
        Ok(Done)
    }

    pub(super) fn delete(&mut self, delete: &Delete) -> Step<Deleted> {
        let key = Key::of(&delete.bucket, &delete.key);
        let old = self.live(key)?;
        delete.condition.test(old.as_ref().map(Live::existing))?;
        if let Some(old) = &old {
            self.displace(key, old, "deleted")?;
        }
        self.supersede(key, None, Overtaken::by(&delete.condition))?;
        Ok(Deleted { existed: old.is_some() })
    }

    pub(super) fn set_tags(&mut self, set: &SetTags) -> Step<Done> {
        let key = Key::of(&set.bucket, &set.key);
        let live: Option<(Version, ObjectRecord)> = self
            .conn
            .prepare_cached("SELECT version, record FROM versions WHERE bucket = ?1 AND key = ?2 AND live = 1")?
            .query_row(params![key.bucket, key.bytes()], |row| Ok((rows::version(row, 0)?, rows::json(row, 1)?)))
            .optional()?;
        let (version, record) = live.ok_or(Refusal::NoSuchKey)?;
        let record = ObjectRecord { tags: set.tags.clone(), ..record };
        self.execute(
            "UPDATE versions SET record = ?4 WHERE bucket = ?1 AND key = ?2 AND version = ?3",
            params![key.bucket, key.bytes(), version.as_str(), rows::to_json(&record)],
        )?;
        Ok(Done)
    }

    // ---- copies --------------------------------------------------------------------------------------------------

    pub(super) fn begin_copy(&mut self, begin: &BeginCopy) -> Step<Begun> {
        let key = Key::of(&begin.bucket, &begin.key);
        let live = self.live(key)?.filter(|live| live.version == begin.version).ok_or(Refusal::Lost)?;
        self.must_live(begin.incarnation)?;
        let holders = self.holders(key, begin.version)?;
        let free = begin.candidates.iter().filter(|one| !holders.contains(&one.backend));
        let candidates: Vec<Candidate> = free.cloned().collect();
        let candidate = self.choose(&candidates, live.size, false)?;
        let blob = self.add_blob(&NewBlob {
            key,
            candidate: &candidate,
            version: begin.version,
            nonce: begin.nonce,
            bytes: live.size,
            incarnation: Some(begin.incarnation),
            superseded: Overtaken::No,
            upload: None,
        })?;
        Ok(Begun { version: begin.version, blob })
    }

    /// Backends that hold a copy of this version, or are about to.
    fn holders(&self, key: Key<'_>, version: Version) -> rusqlite::Result<Vec<BackendName>> {
        self.conn
            .prepare_cached(
                "SELECT backend FROM blobs
                 WHERE bucket = ?1 AND key = ?2 AND version = ?3 AND state IN ('live', 'reserved')",
            )?
            .query_map(params![key.bucket, key.bytes(), version.as_str()], |row| Ok(self.ledger.name_of(row.get(0)?)))?
            .collect()
    }

    pub(super) fn commit_copy(&mut self, commit: &CommitCopy) -> Step<Done> {
        let key = Key::of(&commit.bucket, &commit.key);
        let written = &commit.written;
        let blob = self.ours(written.blob, commit.incarnation, key)?.ok_or(Refusal::Lost)?;
        let still_live = self.live(key)?.is_some_and(|live| live.version == blob.version);
        let is_surplus = self.has_copy(key, blob.version, blob.backend)?;
        let draining = self.ledger.by_id(blob.backend).draining;
        if !still_live || is_surplus || blob.superseded != Overtaken::No || draining {
            self.doom(&blob, self.now, false, "copy came too late")?;
            self.note_version_id(blob.id, &written.version_id)?;
            return Err(Refusal::Lost.into());
        }
        self.enliven(&blob, &written.version_id)?;
        Ok(Done)
    }

    pub(super) fn remove_copy(&mut self, remove: &RemoveCopy) -> Step<Done> {
        let key = Key::of(&remove.bucket, &remove.key);
        let blob = self.blob_of(remove.blob, key)?.filter(|blob| blob.state == BlobState::Live);
        let blob = blob.ok_or(Refusal::Lost)?;
        let others: Vec<i64> = self
            .conn
            .prepare_cached(
                "SELECT backend FROM blobs
                 WHERE bucket = ?1 AND key = ?2 AND version = ?3 AND state = 'live' AND id <> ?4",
            )?
            .query_map(params![key.bucket, key.bytes(), blob.version.as_str(), blob.id], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let counted = others.into_iter().filter(|&backend| {
            let line = self.ledger.by_id(backend);
            !line.draining && !remove.not_counted.contains(&line.name)
        });
        if counted.count() < remove.floor.max(1) as usize {
            return Err(Refusal::Busy.into());
        }
        self.doom(&blob, self.now.plus(self.rules.grace), false, &remove.reason)?;
        Ok(Done)
    }
}
