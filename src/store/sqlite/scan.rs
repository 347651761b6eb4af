//! What workers and operators ask. Each call reads a bounded number of rows, except the audit and the full count, which
//! say so.

use super::super::port::{BackendAudit, BackendStatus, BlobRow, CleanupRow, DueCleanup, PartAttempt, Usage};
use super::super::record::{BlobAt, Located};
use super::super::rules::SCAN_VERSIONS_MAX;
use super::operator::is_restored;
use super::read::Reader;
use super::rows::{self, blob_columns};
use crate::base::{
    BackendName, BlobId, BucketName, Incarnation, Nonce, ObjectKey, PartNumber, Timestamp, UploadId, Version,
};
use rusqlite::{Result, params};
use std::time::Duration;

type Found = (BucketName, ObjectKey, Located);

impl Reader {
    /// The oldest of every backend, merged.
    pub(super) fn due_cleanups(&self, on: &[BackendName], max: u32) -> Result<Vec<DueCleanup>> {
        let found = self.now();
        if is_restored(&self.conn)? {
            return Ok(Vec::new());
        }
        let mut due: Vec<(Timestamp, DueCleanup)> = Vec::new();
        let mut statement = self.conn.prepare_cached(concat!(
            "SELECT ",
            blob_columns!(),
            ", bytes, attempts, reason, abort_uploads, backend_upload, not_before FROM blobs
             WHERE backend = (SELECT id FROM backends WHERE name = ?1) AND state = 'doomed' AND not_before <= ?2
             ORDER BY not_before, id LIMIT ?3"
        ))?;
        for backend in on {
            let of_backend = statement.query_map(params![backend.as_str(), found.millis, max], |row| {
                let one = DueCleanup {
                    blob: self.blob_at(row)?,
                    found,
                    bytes: rows::count(row, 5)?,
                    attempts: row.get(6)?,
                    reason: rows::owned(row, 7)?,
                    abort_uploads: row.get(8)?,
                    backend_upload: rows::owned(row, 9)?,
                };
                Ok((rows::time(row, 10)?, one))
            })?;
            for one in of_backend {
                due.push(one?);
            }
        }
        due.sort_by_key(|(not_before, one)| (*not_before, one.blob.id));
        due.truncate(max as usize);
        Ok(due.into_iter().map(|(_, one)| one).collect())
    }

    pub(super) fn reserved(&self, incarnation: Incarnation, after: BlobId, max: u32) -> Result<Vec<BlobId>> {
        self.conn
            .prepare_cached(
                "SELECT id FROM blobs WHERE contends = 1 AND upload IS NULL AND incarnation = ?1 AND id > ?2
                 ORDER BY id LIMIT ?3",
            )?
            .query_map(params![incarnation.0, after.0, max], |row| row.get(0).map(BlobId))?
            .collect()
    }

    pub(super) fn part_attempts(
        &self,
        incarnation: Incarnation,
        after: &(String, u16),
        max: u32,
    ) -> Result<Vec<PartAttempt>> {
        self.conn
            .prepare_cached(
                "SELECT upload, number, nonce FROM part_attempts
                 WHERE incarnation = ?1 AND (upload, number) > (?2, ?3) ORDER BY upload, number LIMIT ?4",
            )?
            .query_map(params![incarnation.0, after.0, after.1, max], |row| {
                let number = PartNumber::new(row.get(1)?).ok_or_else(|| rows::damaged(row, 1))?;
                let nonce = Nonce::parse(rows::text(row, 2)?).ok_or_else(|| rows::damaged(row, 2))?;
                Ok(PartAttempt { upload: rows::upload_id(row, 0)?, number, nonce })
            })?
            .collect()
    }

    pub(super) fn stale_uploads(&self, age: Duration, max: u32) -> Result<Vec<UploadId>> {
        if is_restored(&self.conn)? {
            return Ok(Vec::new());
        }
        let before = self.now().minus(age);
        // A completing one waits since its version was minted.
        let version = Version::from_parts(u64::try_from(before.millis).unwrap_or(0), 0);
        self.conn
            .prepare_cached(
                "SELECT upload FROM uploads
                 WHERE initiated < ?1 AND state IN ('open', 'completing') AND (state = 'open' OR version < ?2)
                 ORDER BY initiated, upload LIMIT ?3",
            )?
            .query_map(params![before.millis, version.as_str(), max], |row| rows::upload_id(row, 0))?
            .collect()
    }

    pub(super) fn next_cleanup(&self, on: &[BackendName]) -> Result<Option<Timestamp>> {
        if is_restored(&self.conn)? {
            return Ok(None);
        }
        let mut statement = self.conn.prepare_cached(
            "SELECT min(not_before) FROM blobs
             WHERE backend = (SELECT id FROM backends WHERE name = ?1) AND state = 'doomed'",
        )?;
        let mut next = None;
        for backend in on {
            let first: Option<i64> = statement.query_row([backend.as_str()], |row| row.get(0))?;
            next = next.into_iter().chain(first).min();
        }
        Ok(next.map(|millis| Timestamp { millis }))
    }

    /// Live versions whose number of copies on the `counted` backends is `wanted`.
    pub(super) fn replicated(
        &self,
        after: Option<(String, String)>,
        max: u32,
        wanted: impl Fn(u32) -> bool,
        counted: &[BackendName],
    ) -> Result<(Vec<Found>, Option<(String, String)>)> {
        let (bucket, key) = after.clone().unwrap_or_default();
        let mut statement = self.conn.prepare_cached(
            "SELECT bucket, key, version FROM versions WHERE (bucket, key) > (?1, ?2) AND live = 1 ORDER BY bucket, key",
        )?;
        let mut walk = statement.query(params![bucket, key.as_bytes()])?;
        let mut found = Vec::new();
        let mut last = after;
        let mut examined = 0;
        while let Some(row) = walk.next()? {
            if examined == SCAN_VERSIONS_MAX || found.len() == max as usize {
                return Ok((found, last));
            }
            examined += 1;
            let (bucket, key) = (rows::bucket(row, 0)?, rows::key(row, 1)?);
            let blobs = self.live_blobs(bucket.as_str(), key.as_str(), rows::version(row, 2)?)?;
            last = Some((bucket.as_str().to_owned(), key.as_str().to_owned()));
            if wanted(copies(&blobs, counted))
                && let Some(located) = self.lookup(bucket.as_str(), key.as_str())?
            {
                found.push((bucket, key, located));
            }
        }
        Ok((found, None))
    }

    /// All versions, in as many short reads as it takes.
    pub(super) fn under_replicated_count(&self, factor: u32, counted: &[BackendName], max: u64) -> Result<u64> {
        let mut count = 0;
        let mut after = None;
        loop {
            let thin = |copies| copies < factor;
            let (found, next) = self.replicated(after, SCAN_VERSIONS_MAX, thin, counted)?;
            count += found.len() as u64;
            if next.is_none() || count >= max {
                return Ok(count.min(max));
            }
            after = next;
        }
    }

    pub(super) fn status(&self, period: &str) -> Result<Vec<BackendStatus>> {
        let mut all: Vec<BackendStatus> = self
            .conn
            .prepare_cached(
                "SELECT name, bytes_limit, draining, coalesce(reserved_bytes, 0), coalesce(live_blobs, 0),
                     coalesce(live_bytes, 0), coalesce(doomed_blobs, 0), coalesce(doomed_bytes, 0),
                     coalesce(dead_blobs, 0), coalesce(dead_bytes, 0), coalesce(active_uploads, 0), drained,
                     facts
                 FROM backends LEFT JOIN backend_totals ON backend = id ORDER BY name",
            )?
            .query_map([], |row| {
                Ok(BackendStatus {
                    name: rows::owned(row, 0)?,
                    bytes_limit: rows::count(row, 1)?,
                    draining: row.get(2)?,
                    bytes_reserved: rows::count(row, 3)?,
                    object_count: rows::count(row, 4)?,
                    bytes_used: rows::count(row, 5)?,
                    cleanup_depth: rows::count(row, 6)?,
                    orphan_bytes: rows::count(row, 7)? + rows::count(row, 9)?,
                    dlq_depth: rows::count(row, 8)?,
                    active_uploads: rows::count(row, 10)?,
                    drained: row.get(11)?,
                    facts: rows::json(row, 12)?,
                    usage: Usage::default(),
                })
            })?
            .collect::<Result<_>>()?;
        for one in &mut all {
            one.usage = self.usage(&one.name, period)?;
        }
        Ok(all)
    }

    fn usage(&self, backend: &str, period: &str) -> Result<Usage> {
        let mut usage = Usage::default();
        let mut statement = self.conn.prepare_cached(
            "SELECT counter, sum(value) FROM usage WHERE period = ?1 AND backend = ?2 GROUP BY counter",
        )?;
        let mut found = statement.query([period, backend])?;
        while let Some(row) = found.next()? {
            let value = rows::count(row, 1)?;
            match rows::text(row, 0)? {
                "api_requests" => usage.api_requests = value,
                "egress_bytes" => usage.egress_bytes = value,
                "ingress_bytes" => usage.ingress_bytes = value,
                _ => {} // a later program's
            }
        }
        Ok(usage)
    }

    pub(super) fn blobs(&self, backend: &BackendName, after: &str, max: u32) -> Result<Vec<BlobRow>> {
        self.conn
            .prepare_cached(
                "SELECT blobs.id, backend, blobs.name, foreign_etag, version_id, state, bytes, version, reason, not_before,
                     bucket, key
                 FROM blobs WHERE backend = (SELECT id FROM backends WHERE name = ?1) AND blobs.name > ?2
                 ORDER BY blobs.name LIMIT ?3",
            )?
            .query_map(params![backend.as_str(), after.as_bytes(), max], |row| {
                Ok(BlobRow {
                    blob: self.blob_at(row)?,
                    state: rows::blob_state(row, 5)?,
                    bytes: rows::count(row, 6)?,
                    version: rows::version(row, 7)?,
                    reason: rows::owned(row, 8)?,
                    not_before: rows::time(row, 9)?,
                    bucket: rows::bucket(row, 10)?,
                    key: rows::key(row, 11)?,
                })
            })?
            .collect()
    }

    pub(super) fn cleanups(
        &self,
        dead: bool,
        backend: Option<&BackendName>,
        after: BlobId,
        max: u32,
    ) -> Result<Vec<CleanupRow>> {
        let state = if dead { "dead" } else { "doomed" };
        self.conn
            .prepare_cached(
                "SELECT blobs.id, backend, blobs.name, foreign_etag, version_id, bucket, key, bytes, reason, attempts,
                     last_error, doomed_at, not_before
                 FROM blobs WHERE state = ?1 AND blobs.id > ?2
                     AND (?3 IS NULL OR backend = (SELECT id FROM backends WHERE name = ?3)) ORDER BY blobs.id LIMIT ?4",
            )?
            .query_map(params![state, after.0, backend.map(BackendName::as_str), max], |row| {
                Ok(CleanupRow {
                    blob: self.blob_at(row)?,
                    bucket: rows::bucket(row, 5)?,
                    key: rows::key(row, 6)?,
                    bytes: rows::count(row, 7)?,
                    reason: rows::owned(row, 8)?,
                    attempts: row.get(9)?,
                    last_error: rows::owned(row, 10)?,
                    since: rows::time(row, 11)?,
                    not_before: rows::time(row, 12)?,
                })
            })?
            .collect()
    }

    /// Adds up every row: a long read, for tests and on an operator's demand.
    pub(super) fn audit(&self) -> Result<Vec<BackendAudit>> {
        let mut books = Vec::new();
        for mut counters in self.status("")? {
            counters.usage = Usage::default();
            books.push(self.audit_one(counters)?);
        }
        Ok(books)
    }

    fn audit_one(&self, counters: BackendStatus) -> Result<BackendAudit> {
        let mut counted = BackendStatus {
            name: counters.name.clone(),
            bytes_limit: counters.bytes_limit,
            draining: counters.draining,
            drained: counters.drained,
            facts: counters.facts,
            ..BackendStatus::default()
        };
        let mut statement = self.conn.prepare(
            "SELECT state, count(*), sum(bytes) FROM blobs JOIN backends ON backends.id = backend
             WHERE backends.name = ?1 GROUP BY state",
        )?;
        let mut found = statement.query([&counters.name])?;
        let mut rows_bytes = 0;
        while let Some(row) = found.next()? {
            let (blobs, bytes) = (rows::count(row, 1)?, rows::count(row, 2)?);
            rows_bytes += bytes;
            match rows::text(row, 0)? {
                "reserved" => counted.bytes_reserved = bytes,
                "live" => (counted.object_count, counted.bytes_used) = (blobs, bytes),
                "doomed" => (counted.cleanup_depth, counted.orphan_bytes) = (blobs, counted.orphan_bytes + bytes),
                _ => (counted.dlq_depth, counted.orphan_bytes) = (blobs, counted.orphan_bytes + bytes),
            }
        }
        counted.active_uploads = self.conn.query_row(
            "SELECT count(*) FROM uploads JOIN backends ON backends.id = backend
             WHERE backends.name = ?1 AND state IN ('open', 'completing')",
            [&counters.name],
            |row| rows::count(row, 0),
        )?;
        let (granted, charged) = self.conn.query_row(
            "SELECT coalesce(sum(granted), 0), coalesce(sum(charged), 0) FROM quota_shares
             JOIN backends ON backends.id = backend WHERE backends.name = ?1",
            [&counters.name],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let (name, bytes_limit) = (counters.name.clone(), counters.bytes_limit);
        Ok(BackendAudit { name, bytes_limit, granted, charged, rows_bytes, counters, counted })
    }
}

fn copies(blobs: &[BlobAt], counted: &[BackendName]) -> u32 {
    blobs.iter().filter(|blob| counted.contains(&blob.backend)).count() as u32
}
