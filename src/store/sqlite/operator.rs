//! Steps that operators ask for (store/operator.rs).

use super::super::lending::SPENT_UNSEEN;
use super::super::port::{
    Adopt, Adopted, Bytes, Done, DropCopy, Dropped, FinishDrain, Overtaken, Refusal, Requeue, SetRestored, UNCLEAR,
    WHICH_IS_NEWER, WRITER_GONE, WriteOff,
};
use super::super::record::BlobState;
use super::super::rules::{chance_of_nonce, mint_version, skipped};
use super::ledger;
use super::rows;
use super::transaction::{Blob, Key, Live, Step, Transaction};
use super::writes::{Coming, signed};
use crate::base::{BlobId, Timestamp, Version};
use crate::proto::date;
use rusqlite::{Connection, OptionalExtension, Result, params};

/// Whether the database was restored from a backup and `sync` has not run since.
pub(super) fn is_restored(conn: &Connection) -> Result<bool> {
    conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM deployment WHERE name = 'restored')")?
        .query_row([], |row| row.get(0))
}

/// Holds the database as restored, if it is not held already; of this month's budgets, what it does not know counts as spent, and
/// numbers that it does not know are not given out again.
pub(super) fn hold(conn: &Connection, why: &str, now: Timestamp) -> Result<()> {
    let held = "INSERT OR IGNORE INTO deployment (name, value) VALUES ('restored', ?1)";
    if conn.execute(held, [why])? == 0 {
        return Ok(());
    }
    let month = date::month(now);
    conn.execute("INSERT OR REPLACE INTO deployment (name, value) VALUES ('budgets_in_doubt', ?1)", [&month])?;
    let reckoned = "DELETE FROM budget_leases WHERE period = ?1 AND incarnation = ?2";
    conn.execute(reckoned, params![month, SPENT_UNSEEN.0])?;
    let last = ledger::last_blob(conn)?;
    ledger::put_last_blob(conn, skipped(last))
}

impl Transaction<'_> {
    fn dead(&self, id: BlobId) -> Step<Blob> {
        Ok(self.blob(id)?.filter(|blob| blob.state == BlobState::Dead).ok_or(Refusal::Lost)?)
    }

    pub(super) fn requeue(&mut self, one: Requeue) -> Step<Done> {
        let blob = self.dead(one.blob)?;
        self.due_again(&blob)?;
        Ok(Done)
    }

    fn due_again(&mut self, blob: &Blob) -> Result<()> {
        self.execute(
            "UPDATE blobs SET state = 'doomed', attempts = 0, not_before = ?2 WHERE id = ?1",
            params![blob.id, self.now.millis],
        )?;
        self.ledger.by_id(blob.backend).blob_moved(blob.state, BlobState::Doomed, blob.bytes);
        Ok(())
    }

    pub(super) fn write_off(&mut self, one: WriteOff) -> Step<Done> {
        let blob = self.dead(one.blob)?;
        self.end_row(&blob)?;
        Ok(Done)
    }

    fn end_row(&mut self, blob: &Blob) -> Result<()> {
        self.execute("DELETE FROM blobs WHERE id = ?1", [blob.id])?;
        self.ledger.by_id(blob.backend).blob_ended(blob.state, blob.bytes);
        Ok(())
    }

    pub(super) fn finish_drain(&mut self, one: &FinishDrain) -> Step<Done> {
        let line = self.ledger.by_name(&one.backend).filter(|line| line.draining).ok_or(Refusal::Lost)?;
        let id = line.id;
        let in_use: bool = self
            .conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM blobs WHERE backend = ?1)")?
            .query_row([id], |row| row.get(0))?;
        if in_use {
            return Err(Refusal::Busy.into());
        }
        self.execute("UPDATE backends SET drained = 1 WHERE id = ?1", [id])?;
        Ok(Done)
    }

    pub(super) fn drop_copy(&mut self, one: &DropCopy) -> Step<Dropped> {
        let key = Key::of(&one.bucket, &one.key);
        let found = self.blob_of(one.blob, key)?;
        if one.only_live && found.as_ref().is_none_or(|blob| blob.state != BlobState::Live) {
            return Err(Refusal::Lost.into());
        }
        let Some(blob) = found else { return Ok(Dropped { object_ended: false }) };
        if blob.of_upload && blob.state == BlobState::Reserved {
            self.give_up_upload_of(blob.id)?;
        }
        let object_ended = blob.state == BlobState::Live && self.is_last_copy(key, &blob)?;
        if object_ended && let Some(live) = self.live(key)? {
            self.forget_version(key, &live)?;
        }
        match one.bytes {
            Bytes::Gone => self.end_row(&blob)?,
            Bytes::Deleted if matches!(blob.state, BlobState::Live | BlobState::Reserved) => {
                self.doom(&blob, self.now, blob.state == BlobState::Reserved, &one.reason)?;
            }
            Bytes::Deleted => self.due_again(&blob)?,
        }
        Ok(Dropped { object_ended })
    }

    fn is_last_copy(&self, key: Key<'_>, blob: &Blob) -> Result<bool> {
        self.conn
            .prepare_cached(
                "SELECT NOT EXISTS (SELECT 1 FROM blobs
                     WHERE bucket = ?1 AND key = ?2 AND version = ?3 AND state = 'live' AND id <> ?4)",
            )?
            .query_row(params![key.bucket, key.bytes(), blob.version.as_str(), blob.id], |row| row.get(0))
    }

    pub(super) fn adopt(&mut self, one: &Adopt) -> Step<Adopted> {
        let key = Key::of(&one.bucket, &one.key);
        let backend = self.ledger.by_name(&one.backend).ok_or(Refusal::Lost)?.id;
        let bytes = signed(one.size)?;
        let known = self.named(backend, &one.name)?;
        if let Some((id, may_be_taken_back, is_under_way)) = known
            && !(may_be_taken_back && self.blob_of(BlobId(id), key)?.is_some() && is_restored(self.conn)?)
        {
            return Ok(if is_under_way { Adopted::UnderWay } else { Adopted::Known });
        }
        let known = known.map(|(id, ..)| BlobId(id));
        let live = self.live(key)?;
        let Some(named) = one.version else {
            if live.is_some() {
                return Ok(Adopted::Unclear);
            }
            let version = mint_version(self.now, self.floor(key)?, chance_of_nonce(one.nonce));
            let blob = self.add_found(key, backend, one, version, bytes)?;
            return Ok(self.adopt_live(key, one, &blob, None)?);
        };
        // Of an upload that was completing the row knows better than the name, which is older.
        let row = known.map(|id| self.blob(id)).transpose()?.flatten();
        let version = row.as_ref().map_or(named, |blob| blob.version);
        let is_live = live.as_ref().map(|live| live.version);
        let newest = is_live.max(self.newest_displaced(key)?);
        let overtaken = newest.is_some_and(|newest| version < newest) || newest == Some(version) && is_live != newest;
        // A row that is no upload's knows its version.
        if overtaken && row.map_or(one.assembled, |blob| blob.of_upload) {
            let blob = match known {
                Some(id) => self.take_back(id, bytes)?,
                None => self.add_found(key, backend, one, version, bytes)?,
            };
            self.set_aside(&blob)?;
            return Ok(Adopted::Unclear);
        }
        if overtaken || self.has_copy(key, version, backend)? {
            if known.is_none() {
                let blob = self.add_found(key, backend, one, version, bytes)?;
                self.doom(&blob, self.now, false, "outdated")?;
            }
            return Ok(Adopted::Outdated);
        }
        let blob = match known {
            Some(id) => self.take_back(id, bytes)?,
            None => self.add_found(key, backend, one, version, bytes)?,
        };
        if is_live == Some(version) {
            self.enliven(&blob, "")?;
            return Ok(Adopted::Copy);
        }
        Ok(self.adopt_live(key, one, &blob, live.as_ref())?)
    }

    fn adopt_live(&mut self, key: Key<'_>, one: &Adopt, blob: &Blob, old: Option<&Live>) -> Result<Adopted> {
        if let Some(old) = old {
            self.displace(key, old, "overwritten")?;
        }
        self.enliven(blob, "")?;
        let coming = Coming {
            version: blob.version,
            size: blob.bytes,
            etag: &one.etag,
            upload: None,
            record: &one.record,
            overtakes: Overtaken::ByWrite,
        };
        self.insert_live(key, &coming)?;
        if one.foreign_etag.is_empty() {
            self.execute(
                "UPDATE versions SET modified = ?4 WHERE bucket = ?1 AND key = ?2 AND version = ?3",
                params![key.bucket, key.bytes(), blob.version.as_str(), blob.version.millis() as i64],
            )?;
        }
        Ok(Adopted::Live { version: blob.version, displaced: old.is_some() })
    }

    /// The row that names these bytes; and whether, after a restore, what became of it may not be known: recovery gave it up,
    /// or an upload had reserved it; and whether a write has reserved it.
    fn named(&self, backend: i64, name: &str) -> Result<Option<(i64, bool, bool)>> {
        self.conn
            .prepare_cached(
                "SELECT id, state IN ('doomed', 'dead') AND reason = ?3 OR state = 'reserved' AND upload IS NOT NULL,
                     state = 'reserved' AND upload IS NULL
                 FROM blobs WHERE backend = ?1 AND name = ?2",
            )?
            .query_row(params![backend, name.as_bytes(), WRITER_GONE], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()
    }

    /// Whether the backend holds a live copy of this version.
    pub(super) fn has_copy(&self, key: Key<'_>, version: Version, backend: i64) -> Result<bool> {
        self.conn
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM blobs
                     WHERE bucket = ?1 AND key = ?2 AND version = ?3 AND state = 'live' AND backend = ?4)",
            )?
            .query_row(params![key.bucket, key.bytes(), version.as_str(), backend], |row| row.get(0))
    }

    /// The highest version of the key that was live once and that a row still names.
    fn newest_displaced(&self, key: Key<'_>) -> Result<Option<Version>> {
        self.conn
            .prepare_cached(
                "SELECT version FROM blobs WHERE bucket = ?1 AND key = ?2 AND reason IN ('overwritten', 'deleted')
                 ORDER BY version DESC LIMIT 1",
            )?
            .query_row(params![key.bucket, key.bytes()], |row| rows::version(row, 0))
            .optional()
    }

    /// A blob that was given up, as if it had just been reserved.
    fn take_back(&mut self, id: BlobId, bytes: i64) -> Result<Blob> {
        let blob = self.blob(id)?.expect("it is known");
        if blob.of_upload && blob.state == BlobState::Reserved {
            self.give_up_upload_of(blob.id)?;
        }
        self.execute(
            "UPDATE blobs SET state = 'reserved', bytes = ?2, superseded = 0, contends = 0, upload = NULL,
                 abort_uploads = 0, attempts = 0, not_before = 0, settle_until = 0, reason = '' WHERE id = ?1",
            params![id.0, bytes],
        )?;
        let line = self.ledger.by_id(blob.backend);
        line.blob_moved(blob.state, BlobState::Reserved, blob.bytes);
        line.blob_found(bytes - blob.bytes, 0);
        Ok(Blob { state: BlobState::Reserved, bytes, settle_until: Timestamp::default(), attempts: 0, ..blob })
    }

    /// Makes a dead letter of bytes that may be a client's newest: nothing deletes them.
    fn set_aside(&mut self, blob: &Blob) -> Result<()> {
        self.doom(blob, self.now, false, UNCLEAR)?;
        self.execute(
            "UPDATE blobs SET state = 'dead', last_error = ?2 WHERE id = ?1",
            params![blob.id, WHICH_IS_NEWER],
        )?;
        self.ledger.by_id(blob.backend).blob_moved(BlobState::Doomed, BlobState::Dead, blob.bytes);
        Ok(())
    }

    /// A row for bytes that are there, whatever the limit says.
    fn add_found(&mut self, key: Key<'_>, backend: i64, one: &Adopt, version: Version, bytes: i64) -> Result<Blob> {
        let id = self.ledger.next_blob();
        self.ledger.by_id(backend).blob_found(bytes, 1);
        self.execute("UPDATE backends SET drained = 0 WHERE id = ?1 AND drained", [backend])?;
        self.execute(
            "INSERT INTO blobs (id, backend, name, bucket, key, version, state, bytes, foreign_etag)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'reserved', ?7, ?8)",
            params![
                id,
                backend,
                one.name.as_bytes(),
                key.bucket,
                key.bytes(),
                version.as_str(),
                bytes,
                one.foreign_etag
            ],
        )?;
        Ok(self.blob(BlobId(id))?.expect("it was just added"))
    }

    pub(super) fn set_restored(&mut self, one: SetRestored) -> Step<Done> {
        if one.restored {
            hold(self.conn, &self.now.millis.to_string(), self.now)?;
            self.ledger.look_at_numbers(self.conn)?;
        } else {
            self.execute("DELETE FROM deployment WHERE name = 'restored'", [])?;
        }
        Ok(Done)
    }
}
