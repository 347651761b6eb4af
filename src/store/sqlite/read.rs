//! The threads that only read: the requests' reader and the workers' scanner are two of these.

use super::super::port::{Answer, Query, VersionParts};
use super::super::record::{BlobAt, Located, PartRecord};
use super::operator::is_restored;
use super::rows::{self, UploadRow, blob_columns, upload_columns};
use super::{QueryJob, Wall, failure};
use crate::base::{BackendName, Timestamp, UploadId, Version};
use rusqlite::{Connection, OptionalExtension, Result, params};
use std::cell::RefCell;

pub(super) struct Reader {
    pub(super) conn: Connection,
    wall: Wall,
    /// Queries that are answered from one snapshot.
    snapshot_queries_max: usize,
    /// Backends by row id, as far as they were met: ids are never used again, so nothing here grows old.
    backends: RefCell<Vec<(i64, BackendName)>>,
}

impl Reader {
    pub(super) fn new(conn: Connection, wall: Wall, snapshot_queries_max: usize) -> Self {
        Self { conn, wall, snapshot_queries_max, backends: RefCell::default() }
    }

    /// Works until every sender is gone. Whatever waits is answered from one snapshot, which begins after it was asked:
    /// so it contains all that was acknowledged before.
    pub(super) fn run(self, jobs: &flume::Receiver<QueryJob>) {
        while let Ok(first) = jobs.recv() {
            let mut waiting = vec![first];
            waiting.extend(jobs.try_iter().take(self.snapshot_queries_max - 1));
            let shared = waiting.len() > 1 && self.conn.execute_batch("BEGIN").is_ok();
            for job in waiting {
                if !job.reply.is_closed() {
                    let answer = self.answer(job.query).map_err(|error| failure(&error));
                    let _ = job.reply.send(answer); // a caller that has gone away does not want it
                }
            }
            if shared {
                // It only read: there is nothing to lose.
                let _ = self.conn.execute_batch("ROLLBACK");
            }
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        (self.wall)()
    }

    fn answer(&self, query: Query) -> Result<Answer> {
        Ok(match query {
            Query::Lookup { bucket, key } => Answer::Lookup(self.lookup(&bucket, &key)?),
            Query::Copies { bucket, key, version } => Answer::Copies(self.copies(&bucket, &key, version)?),
            Query::List(list) => Answer::List(self.list(&list)?),
            Query::Upload { upload } => Answer::Upload(self.upload(&upload)?),
            Query::Parts { upload, after, max } => {
                let (parts, truncated) = self.parts(upload.as_str(), after, max)?;
                Answer::Parts { parts, truncated }
            }
            Query::VersionParts { bucket, key, version, after, max } => {
                Answer::VersionParts(self.version_parts(&bucket, &key, version, after, max)?)
            }
            Query::ListUploads(list) => Answer::ListUploads(self.list_uploads(&list)?),
            Query::StaleUploads { age, max } => Answer::StaleUploads(self.stale_uploads(age, max)?),
            Query::DueCleanups { on, max } => Answer::DueCleanups(self.due_cleanups(&on, max)?),
            Query::UnderReplicated { factor, counted, after, max } => {
                let (found, next) = self.replicated(after, max, |copies| copies < factor, &counted)?;
                Answer::UnderReplicated { found, next }
            }
            Query::OverReplicated { factor, counted, after, max } => {
                let (found, next) = self.replicated(after, max, |copies| copies > factor, &counted)?;
                Answer::UnderReplicated { found, next }
            }
            Query::Cleanups { dead, backend, after, max } => {
                Answer::Cleanups(self.cleanups(dead, backend.as_ref(), after, max)?)
            }
            Query::Restored => Answer::Restored(is_restored(&self.conn)?),
            Query::ServiceHolder { .. } => Answer::ServiceHolder(None),
            Query::UnderReplicatedCount { factor, counted, max } => {
                Answer::Count(self.under_replicated_count(factor, &counted, max)?)
            }
            Query::NextCleanup { on } => Answer::NextCleanup(self.next_cleanup(&on)?),
            Query::Reserved { incarnation, after, max } => Answer::Reserved(self.reserved(incarnation, after, max)?),
            Query::PartAttempts { incarnation, after, max } => {
                Answer::PartAttempts(self.part_attempts(incarnation, &after, max)?)
            }
            Query::Status { period } => Answer::Status(self.status(&period)?),
            Query::Buckets { unless } => Answer::Buckets(self.stored_buckets(unless)?),
            Query::Usage { period } => self.recorded_usage(&period)?,
            Query::Blobs { backend, after, max } => Answer::Blobs(self.blobs(&backend, &after, max)?),
            Query::Audit => Answer::Audit(self.audit()?),
        })
    }

    /// A blob's backend always has a row (a foreign key), which may be newer than the last look.
    pub(super) fn name_of(&self, id: i64) -> Result<BackendName> {
        let known = self.backends.borrow().iter().find(|(one, _)| *one == id).map(|(_, name)| name.clone());
        if let Some(name) = known {
            return Ok(name);
        }
        let name = self.conn.query_row("SELECT name FROM backends WHERE id = ?1", [id], |row| {
            Ok(BackendName::new(rows::text(row, 0)?))
        })?;
        self.backends.borrow_mut().push((id, name.clone()));
        Ok(name)
    }

    pub(super) fn lookup(&self, bucket: &str, key: &str) -> Result<Option<Located>> {
        let found = self
            .conn
            .prepare_cached(
                "SELECT version, size, modified, etag, record FROM versions
                 WHERE bucket = ?1 AND key = ?2 AND live = 1",
            )?
            .query_row(params![bucket, key.as_bytes()], |row| {
                Ok(Located {
                    version: rows::version(row, 0)?,
                    size: rows::count(row, 1)?,
                    modified: rows::time(row, 2)?,
                    etag: rows::owned(row, 3)?,
                    record: rows::json(row, 4)?,
                    blobs: Vec::new(),
                })
            })
            .optional()?;
        let Some(mut located) = found else { return Ok(None) };
        located.blobs = self.live_blobs(bucket, key, located.version)?;
        Ok(Some(located))
    }

    pub(super) fn live_blobs(&self, bucket: &str, key: &str, version: Version) -> Result<Vec<BlobAt>> {
        self.conn
            .prepare_cached(concat!(
                "SELECT ",
                blob_columns!(),
                " FROM blobs WHERE bucket = ?1 AND key = ?2 AND version = ?3 AND state = 'live' ORDER BY id"
            ))?
            .query_map(params![bucket, key.as_bytes(), version.as_str()], |row| self.blob_at(row))?
            .collect()
    }

    pub(super) fn blob_at(&self, row: &rusqlite::Row<'_>) -> Result<BlobAt> {
        let backend = self.name_of(row.get(1)?)?;
        rows::blob_at(row, 0, |_| backend)
    }

    /// Live ones, and displaced ones in their grace.
    fn copies(&self, bucket: &str, key: &str, version: Version) -> Result<Vec<BlobAt>> {
        self.conn
            .prepare_cached(concat!(
                "SELECT ",
                blob_columns!(),
                " FROM blobs WHERE bucket = ?1 AND key = ?2 AND version = ?3 AND (state = 'live'
                     OR state = 'doomed' AND attempts = 0 AND settle_until <= ?4 AND not_before > ?4) ORDER BY id"
            ))?
            .query_map(params![bucket, key.as_bytes(), version.as_str(), self.now().millis], |row| self.blob_at(row))?
            .collect()
    }

    fn upload(&self, upload: &UploadId) -> Result<Option<super::super::port::Upload>> {
        let mut statement =
            self.conn.prepare_cached(concat!("SELECT ", upload_columns!(), " FROM uploads WHERE upload = ?1"))?;
        let mut found = statement.query([upload.as_str()])?;
        let Some(row) = found.next()? else { return Ok(None) };
        let backend = self.name_of(row.get(4)?)?;
        UploadRow::read(row, |_| backend).map(|row| Some(row.shown))
    }

    /// A page, and whether more follow.
    fn parts(&self, upload: &str, after: u16, max: u32) -> Result<(Vec<PartRecord>, bool)> {
        let mut parts: Vec<_> = self
            .conn
            .prepare_cached("SELECT record FROM parts WHERE upload = ?1 AND number > ?2 ORDER BY number LIMIT ?3")?
            .query_map(params![upload, after, i64::from(max) + 1], |row| rows::json(row, 0))?
            .collect::<Result<_>>()?;
        let truncated = parts.len() > max as usize;
        parts.truncate(max as usize);
        Ok((parts, truncated))
    }

    fn version_parts(
        &self,
        bucket: &str,
        key: &str,
        version: Version,
        after: u16,
        max: u32,
    ) -> Result<Option<VersionParts>> {
        let upload: Option<String> = self
            .conn
            .prepare_cached("SELECT upload FROM versions WHERE bucket = ?1 AND key = ?2 AND version = ?3 AND live = 1")?
            .query_row(params![bucket, key.as_bytes(), version.as_str()], |row| row.get(0))
            .optional()?
            .flatten();
        let Some(upload) = upload else { return Ok(None) };
        let (parts, truncated) = self.parts(&upload, after, max)?;
        let before_bytes = self
            .conn
            .prepare_cached("SELECT coalesce(sum(size), 0) FROM parts WHERE upload = ?1 AND number <= ?2")?
            .query_row(params![upload, after], |row| rows::count(row, 0))?;
        Ok(Some(VersionParts { parts, truncated, before_bytes }))
    }
}
