//! One transaction of the writer: the moves that every change is made of, and which change is made of which.
//!
//! A change that is refused changes nothing, except where its description says so: it tests first and moves then.

use super::super::port::{
    Candidate, Change, Done, Existing, Outcome, Overtaken, Refusal, Renewed, Rules, WriteCondition,
};
use super::super::record::{BlobAt, BlobState};
use super::ledger::Ledger;
use super::rows;
use crate::base::{BlobId, BucketName, Incarnation, Nonce, ObjectKey, Timestamp, Version, blob_name};
use rusqlite::{Connection, OptionalExtension, params};

/// Why a change stops.
pub(super) enum Stop {
    Refused(Refusal),
    /// The database failed, and the whole batch with it.
    Broken(rusqlite::Error),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Broken(error)
    }
}

pub(super) type Step<T> = Result<T, Stop>;

/// A key as every statement names it.
#[derive(Clone, Copy)]
pub(super) struct Key<'a> {
    pub(super) bucket: &'a str,
    pub(super) key: &'a str,
}

impl<'a> Key<'a> {
    pub(super) fn of(bucket: &'a BucketName, key: &'a ObjectKey) -> Self {
        Self { bucket: bucket.as_str(), key: key.as_str() }
    }

    pub(super) fn bytes(&self) -> &'a [u8] {
        self.key.as_bytes()
    }
}

/// A live version, as far as changes need it.
pub(super) struct Live {
    pub(super) version: Version,
    pub(super) size: i64,
    pub(super) etag: String,
    pub(super) upload: Option<String>,
    pub(super) modified: Timestamp,
}

impl Live {
    pub(super) fn existing(&self) -> Existing<'_> {
        let size = u64::try_from(self.size).expect("sizes are never below zero");
        Existing { etag: &self.etag, size, modified: self.modified }
    }
}

/// A blob's row, as far as changes need it.
pub(super) struct Blob {
    pub(super) id: i64,
    pub(super) backend: i64,
    pub(super) version: Version,
    pub(super) state: BlobState,
    pub(super) bytes: i64,
    pub(super) incarnation: Option<i64>,
    pub(super) superseded: Overtaken,
    pub(super) of_upload: bool,
    pub(super) settle_until: Timestamp,
    pub(super) attempts: u32,
}

/// The columns of `read_blob`, in its order.
macro_rules! blob_columns {
    () => {
        "id, backend, version, state, bytes, incarnation, superseded, upload IS NOT NULL, settle_until, attempts"
    };
}

/// A blob to be reserved.
pub(super) struct NewBlob<'a> {
    pub(super) key: Key<'a>,
    pub(super) candidate: &'a Candidate,
    pub(super) version: Version,
    pub(super) nonce: Nonce,
    pub(super) bytes: i64,
    /// None: an upload's.
    pub(super) incarnation: Option<Incarnation>,
    pub(super) superseded: Overtaken,
    pub(super) upload: Option<&'a str>,
}

pub(super) struct Transaction<'a> {
    pub(super) conn: &'a Connection,
    pub(super) ledger: &'a mut Ledger,
    pub(super) rules: &'a Rules,
    pub(super) now: Timestamp,
}

impl Transaction<'_> {
    pub(super) fn carry_out(&mut self, change: &Change) -> rusqlite::Result<Outcome> {
        macro_rules! settle {
            ($kind:ident, $outcome:expr) => {
                match $outcome {
                    Ok(outcome) => Outcome::$kind(Ok(outcome)),
                    Err(Stop::Refused(refusal)) => Outcome::$kind(Err(refusal)),
                    Err(Stop::Broken(error)) => return Err(error),
                }
            };
        }
        Ok(match change {
            Change::Register(one) => settle!(Register, self.register(one)),
            Change::SetLimits(one) => settle!(SetLimits, self.set_limits(one)),
            Change::Renew(one) => settle!(Renew, self.must_live(one.incarnation).map(|()| Renewed::default())),
            Change::TakeService(one) => settle!(TakeService, self.must_live(one.incarnation).map(|()| Done)),
            Change::BeginWrite(one) => settle!(BeginWrite, self.begin_write(one)),
            Change::CommitWrite(one) => settle!(CommitWrite, self.commit_write(one)),
            Change::AbandonWrite(one) => settle!(AbandonWrite, self.abandon_write(one)),
            Change::Delete(one) => settle!(Delete, self.delete(one)),
            Change::SetTags(one) => settle!(SetTags, self.set_tags(one)),
            Change::BeginCopy(one) => settle!(BeginCopy, self.begin_copy(one)),
            Change::CommitCopy(one) => settle!(CommitCopy, self.commit_copy(one)),
            Change::RemoveCopy(one) => settle!(RemoveCopy, self.remove_copy(one)),
            Change::CreateUpload(one) => settle!(CreateUpload, self.create_upload(one)),
            Change::SetBackendUpload(one) => settle!(SetBackendUpload, self.set_backend_upload(one)),
            Change::BeginPart(one) => settle!(BeginPart, self.begin_part(one)),
            Change::CommitPart(one) => settle!(CommitPart, self.commit_part(one)),
            Change::AbandonPart(one) => settle!(AbandonPart, self.abandon_part(one)),
            Change::StartComplete(one) => settle!(StartComplete, self.start_complete(one)),
            Change::FinishComplete(one) => settle!(FinishComplete, self.finish_complete(one)),
            Change::ReopenUpload(one) => settle!(ReopenUpload, self.reopen_upload(one)),
            Change::AbortUpload(one) => settle!(AbortUpload, self.abort_upload(one)),
            Change::AbortStale(one) => settle!(AbortStale, self.abort_stale(one)),
            Change::CleanupDone(one) => settle!(CleanupDone, self.cleanup_done(*one)),
            Change::CleanupFailed(one) => settle!(CleanupFailed, self.cleanup_failed(one)),
            Change::RecordUsage(one) => settle!(RecordUsage, self.record_usage(one)),
            Change::LeaseBudgets(one) => settle!(LeaseBudgets, self.lease_budgets(one)),
            Change::RecordFacts(one) => settle!(RecordFacts, self.record_facts(one)),
            Change::SetDraining(one) => settle!(SetDraining, self.set_draining(one)),
            Change::CreateBucket(one) => settle!(CreateBucket, self.create_bucket(one)),
            Change::DeleteBucket(one) => settle!(DeleteBucket, self.delete_bucket(one)),
            // At the batch's end.
            Change::ForgetOld(_) => Outcome::ForgetOld(Ok(Done)),
            Change::Requeue(one) => settle!(Requeue, self.requeue(*one)),
            Change::WriteOff(one) => settle!(WriteOff, self.write_off(*one)),
            Change::FinishDrain(one) => settle!(FinishDrain, self.finish_drain(one)),
            Change::DropCopy(one) => settle!(DropCopy, self.drop_copy(one)),
            Change::Adopt(one) => settle!(Adopt, self.adopt(one)),
            Change::SetRestored(one) => settle!(SetRestored, self.set_restored(*one)),
        })
    }

    pub(super) fn execute(&self, sql: &str, parameters: impl rusqlite::Params) -> rusqlite::Result<usize> {
        self.conn.prepare_cached(sql)?.execute(parameters)
    }

    pub(super) fn must_live(&self, incarnation: Incarnation) -> Step<()> {
        if incarnation.0 == self.ledger.incarnation { Ok(()) } else { Err(Refusal::Lost.into()) }
    }

    // ---- versions ------------------------------------------------------------------------------------------------

    pub(super) fn live(&self, key: Key<'_>) -> rusqlite::Result<Option<Live>> {
        self.conn
            .prepare_cached(
                "SELECT version, size, etag, upload, modified FROM versions
                 WHERE bucket = ?1 AND key = ?2 AND live = 1",
            )?
            .query_row(params![key.bucket, key.bytes()], |row| {
                Ok(Live {
                    version: rows::version(row, 0)?,
                    size: row.get(1)?,
                    etag: rows::owned(row, 2)?,
                    upload: row.get(3)?,
                    modified: rows::time(row, 4)?,
                })
            })
            .optional()
    }

    pub(super) fn test(&self, key: Key<'_>, condition: &WriteCondition) -> Step<()> {
        if condition.is_none() {
            return Ok(());
        }
        let live = self.live(key)?;
        Ok(condition.test(live.as_ref().map(Live::existing))?)
    }

    /// The highest version of a key that a row names: what the next one must be above. A live version has a live blob, so
    /// blobs name them all.
    pub(super) fn floor(&self, key: Key<'_>) -> rusqlite::Result<Option<Version>> {
        self.conn
            .prepare_cached("SELECT version FROM blobs WHERE bucket = ?1 AND key = ?2 ORDER BY version DESC LIMIT 1")?
            .query_row(params![key.bucket, key.bytes()], |row| rows::version(row, 0))
            .optional()
    }

    /// Ends the key's live version: its blobs are doomed with the grace.
    pub(super) fn displace(&mut self, key: Key<'_>, old: &Live, reason: &str) -> rusqlite::Result<()> {
        let displaced: Vec<(i64, i64)> = self
            .conn
            .prepare_cached(
                "UPDATE blobs SET state = 'doomed', not_before = ?4, doomed_at = ?5, reason = ?6
                 WHERE bucket = ?1 AND key = ?2 AND version = ?3 AND state = 'live' RETURNING backend, bytes",
            )?
            .query_map(
                params![
                    key.bucket,
                    key.bytes(),
                    old.version.as_str(),
                    self.now.plus(self.rules.grace).millis,
                    self.now.millis,
                    reason
                ],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?
            .collect::<rusqlite::Result<_>>()?;
        for (backend, bytes) in displaced {
            self.ledger.by_id(backend).blob_moved(BlobState::Live, BlobState::Doomed, bytes);
        }
        self.forget_version(key, old)
    }

    pub(super) fn forget_version(&self, key: Key<'_>, old: &Live) -> rusqlite::Result<()> {
        self.execute(
            "DELETE FROM versions WHERE bucket = ?1 AND key = ?2 AND version = ?3",
            params![key.bucket, key.bytes(), old.version.as_str()],
        )?;
        if let Some(upload) = &old.upload {
            self.execute("UPDATE uploads SET forgettable = 1 WHERE upload = ?1", [upload])?;
        }
        Ok(())
    }

    /// Marks the key's writes under way below `below` (None: all of them).
    pub(super) fn supersede(&self, key: Key<'_>, below: Option<Version>, by: Overtaken) -> rusqlite::Result<()> {
        let by = rows::of_overtaken(by);
        match below {
            Some(below) => self.execute(
                "UPDATE blobs SET superseded = max(superseded, ?4)
                 WHERE contends = 1 AND bucket = ?1 AND key = ?2 AND version < ?3",
                params![key.bucket, key.bytes(), below.as_str(), by],
            ),
            None => self.execute(
                "UPDATE blobs SET superseded = max(superseded, ?3) WHERE contends = 1 AND bucket = ?1 AND key = ?2",
                params![key.bucket, key.bytes(), by],
            ),
        }
        .map(drop)
    }

    // ---- blobs ---------------------------------------------------------------------------------------------------

    fn read_blob(row: &rusqlite::Row<'_>) -> rusqlite::Result<Blob> {
        Ok(Blob {
            id: row.get(0)?,
            backend: row.get(1)?,
            version: rows::version(row, 2)?,
            state: rows::blob_state(row, 3)?,
            bytes: row.get(4)?,
            incarnation: row.get(5)?,
            superseded: rows::overtaken(row, 6)?,
            of_upload: row.get(7)?,
            settle_until: rows::time(row, 8)?,
            attempts: row.get(9)?,
        })
    }

    pub(super) fn blob(&self, id: BlobId) -> rusqlite::Result<Option<Blob>> {
        self.conn
            .prepare_cached(concat!("SELECT ", blob_columns!(), " FROM blobs WHERE id = ?1"))?
            .query_row([id.0], Self::read_blob)
            .optional()
    }

    pub(super) fn blob_of(&self, id: BlobId, key: Key<'_>) -> rusqlite::Result<Option<Blob>> {
        self.conn
            .prepare_cached(concat!(
                "SELECT ",
                blob_columns!(),
                " FROM blobs WHERE id = ?1 AND bucket = ?2 AND key = ?3"
            ))?
            .query_row(params![id.0, key.bucket, key.bytes()], Self::read_blob)
            .optional()
    }

    pub(super) fn add_blob(&mut self, new: &NewBlob<'_>) -> rusqlite::Result<BlobAt> {
        let literal = new.candidate.literal;
        let name = blob_name::mint(new.key.bucket, new.key.key, literal, new.version, new.nonce);
        let id = self.ledger.next_blob();
        let line = self.ledger.by_name(&new.candidate.backend).expect("a chosen candidate is known");
        line.blob_added(new.bytes);
        self.conn
            .prepare_cached(
                "INSERT INTO blobs (id, backend, name, bucket, key, version, state, bytes, incarnation, superseded,
                     contends, upload) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'reserved', ?7, ?8, ?9, ?10, ?11)",
            )?
            .execute(params![
                id,
                line.id,
                name.as_bytes(),
                new.key.bucket,
                new.key.bytes(),
                new.version.as_str(),
                new.bytes,
                new.incarnation.map(|one| one.0),
                rows::of_overtaken(new.superseded),
                new.upload.is_none(),
                new.upload,
            ])?;
        Ok(BlobAt {
            id: BlobId(id),
            backend: line.name.clone(),
            name,
            foreign_etag: String::new(),
            version_id: String::new(),
        })
    }

    /// A reserved or live blob's bytes are to be deleted from `not_before` on. `may_appear`: they may still arrive, for the
    /// settle time.
    pub(super) fn doom(
        &mut self,
        blob: &Blob,
        not_before: Timestamp,
        may_appear: bool,
        reason: &str,
    ) -> rusqlite::Result<()> {
        assert!(matches!(blob.state, BlobState::Reserved | BlobState::Live), "a blob is doomed once");
        let settle_until = if may_appear { self.now.plus(self.rules.settle) } else { blob.settle_until };
        let abort_uploads = blob.of_upload && blob.state == BlobState::Reserved;
        self.execute(
            "UPDATE blobs SET state = 'doomed', contends = 0, doomed_at = ?2, not_before = ?3, settle_until = ?4,
                 reason = ?5, abort_uploads = ?6 WHERE id = ?1",
            params![blob.id, self.now.millis, not_before.millis, settle_until.millis, reason, abort_uploads],
        )?;
        self.ledger.by_id(blob.backend).blob_moved(blob.state, BlobState::Doomed, blob.bytes);
        Ok(())
    }

    /// Reserved blobs become copies of the live version.
    pub(super) fn enliven(&mut self, blob: &Blob, version_id: &str) -> rusqlite::Result<()> {
        self.execute(
            "UPDATE blobs SET state = 'live', incarnation = NULL, contends = 0, settle_until = 0, version_id = ?2
             WHERE id = ?1",
            params![blob.id, version_id],
        )?;
        self.ledger.by_id(blob.backend).blob_moved(BlobState::Reserved, BlobState::Live, blob.bytes);
        Ok(())
    }

    // ---- room ----------------------------------------------------------------------------------------------------

    /// The first candidate that has room for `size` bytes. With `shorten_grace`, and if none has, displaced bytes that
    /// would make room are made due at once: `NoSpaceYet`.
    pub(super) fn choose(&mut self, candidates: &[Candidate], size: i64, shorten_grace: bool) -> Step<Candidate> {
        let mut able = Vec::with_capacity(candidates.len());
        for one in candidates {
            match self.ledger.by_name(&one.backend) {
                Some(line) if line.draining => {}
                Some(line) if line.room() >= size => return Ok(one.clone()),
                Some(line) => able.push((line.id, size - line.room(), line.totals.doomed_bytes)),
                None => {}
            }
        }
        for (backend, missing, doomed) in able {
            if shorten_grace && doomed >= missing && self.make_room_due(backend, missing)? {
                return Err(Refusal::NoSpaceYet.into());
            }
        }
        Err(Refusal::NoSpace.into())
    }

    /// Makes due as many displaced blobs, the oldest first, as free `missing` bytes when they are gone; false if all of
    /// them would not. Those that failed to be deleted, or may still appear, are not counted on.
    fn make_room_due(&mut self, backend: i64, mut missing: i64) -> rusqlite::Result<bool> {
        let mut statement = self.conn.prepare_cached(
            "SELECT id, bytes, not_before FROM blobs
             WHERE backend = ?1 AND state = 'doomed' AND attempts = 0 AND settle_until <= ?2 ORDER BY not_before, id",
        )?;
        let mut found = statement.query(params![backend, self.now.millis])?;
        let mut early = Vec::new();
        while missing > 0 {
            let Some(row) = found.next()? else { return Ok(false) };
            missing -= row.get::<_, i64>(1)?;
            if rows::time(row, 2)? > self.now {
                early.push(row.get::<_, i64>(0)?);
            }
        }
        drop(found);
        for id in early {
            self.execute("UPDATE blobs SET not_before = ?2 WHERE id = ?1", params![id, self.now.millis])?;
        }
        Ok(true)
    }
}
