//! What workers and operators ask, each on a connection of its own from the pool. Each call reads a bounded number of rows,
//! except the audit and the full count, which say so.

use super::super::port::{BackendAudit, BackendStatus, BlobRow, CleanupRow, DueCleanup, PartAttempt};
use super::super::record::Located;
use super::super::rules::SCAN_VERSIONS_MAX;
use super::PostgresStore;
use super::rows::{Columns, Read, damaged};
use super::sessions::{Blamed, Params, Sql, sql};
use crate::base::{
    BackendName, BlobId, BucketName, Failure, Incarnation, Nonce, ObjectKey, PartNumber, Timestamp, UploadId, Version,
};
use std::time::Duration;
use tokio_postgres::Row;

/// The oldest of every backend, merged. None of a database that is held as restored.
static DUE: Sql = sql!(
    "SELECT d.id, d.backend, d.name, d.foreign_etag, d.version_id, d.bytes, d.attempts, d.reason, d.abort_uploads,
         d.backend_upload, n.now
     FROM (SELECT coalesce($2, now_millis()) AS now) AS n, unnest($1) AS o (name) JOIN backends b ON b.name = o.name,
         LATERAL (SELECT * FROM blobs WHERE backend = b.id AND state = 'doomed' AND not_before <= n.now
                  ORDER BY not_before, id LIMIT $3) AS d
     WHERE NOT EXISTS (SELECT 1 FROM deployment WHERE name = 'restored')
     ORDER BY d.not_before, d.id LIMIT $3",
    TEXT_ARRAY,
    INT8,
    INT8
);
static NEXT: Sql = sql!(
    "SELECT min(d.not_before) FROM unnest($1) AS o (name) JOIN backends b ON b.name = o.name,
         LATERAL (SELECT not_before FROM blobs WHERE backend = b.id AND state = 'doomed' ORDER BY not_before LIMIT 1) AS d
     WHERE NOT EXISTS (SELECT 1 FROM deployment WHERE name = 'restored')",
    TEXT_ARRAY
);
static COUNTED: Sql = sql!(
    "SELECT v.bucket, v.key, (SELECT count(*) FROM blobs b WHERE b.bucket = v.bucket AND b.key = v.key
         AND b.version = v.version AND b.state = 'live' AND b.backend IN (SELECT id FROM backends WHERE name = ANY($3)))
     FROM (SELECT bucket, key, version FROM versions WHERE (bucket, key) > ($1, $2) AND live
           ORDER BY bucket, key LIMIT $4) AS v
     ORDER BY v.bucket, v.key",
    TEXT,
    BYTEA,
    TEXT_ARRAY,
    INT8
);
static RESERVED: Sql = sql!(
    "SELECT id FROM blobs WHERE incarnation = $1 AND state = 'reserved' AND upload IS NULL AND id > $2 ORDER BY id LIMIT $3",
    INT8,
    INT8,
    INT8
);
static PART_ATTEMPTS: Sql = sql!(
    "SELECT upload, number, nonce FROM part_attempts
     WHERE incarnation = $1 AND (upload, number) > ($2, $3) ORDER BY upload, number LIMIT $4",
    INT8,
    TEXT,
    INT4,
    INT8
);
/// A completing one waits since its version was minted ($2, as a version). None of a database that is held as restored.
static STALE: Sql = sql!(
    "SELECT upload FROM uploads WHERE initiated < $1 AND state IN ('open', 'completing') AND (state = 'open' OR version < $2)
         AND NOT EXISTS (SELECT 1 FROM deployment WHERE name = 'restored')
     ORDER BY initiated, upload LIMIT $3",
    INT8,
    TEXT,
    INT8
);
static NOW: Sql = sql!("SELECT coalesce($1, now_millis())", INT8);
static STATUS: Sql = sql!(
    "SELECT b.name, b.bytes_limit, b.draining, b.drained, b.facts, coalesce(sum(s.reserved_bytes), 0)::bigint,
         coalesce(sum(s.live_blobs), 0)::bigint, coalesce(sum(s.live_bytes), 0)::bigint,
         coalesce(sum(s.doomed_blobs), 0)::bigint, coalesce(sum(s.doomed_bytes), 0)::bigint,
         coalesce(sum(s.dead_blobs), 0)::bigint, coalesce(sum(s.dead_bytes), 0)::bigint,
         coalesce(sum(s.active_uploads), 0)::bigint, coalesce(sum(s.granted), 0)::bigint,
         coalesce(sum(s.charged), 0)::bigint
     FROM backends b LEFT JOIN quota_shares s ON s.backend = b.id GROUP BY b.id ORDER BY b.name"
);
static USAGE: Sql =
    sql!("SELECT backend, counter, sum(value)::bigint FROM usage WHERE period = $1 GROUP BY backend, counter", TEXT);
static ROWS: Sql = sql!(
    "SELECT id, backend, name, foreign_etag, version_id, state, bytes, version, reason, not_before, bucket, key
     FROM blobs
     WHERE backend = (SELECT id FROM backends WHERE name = $1) AND name > $2 ORDER BY name LIMIT $3",
    TEXT,
    BYTEA,
    INT8
);
static CLEANUPS: Sql = sql!(
    "SELECT id, backend, name, foreign_etag, version_id, bucket, key, bytes, reason, attempts, last_error, doomed_at,
         not_before
     FROM blobs WHERE state = $1 AND id > $2
         AND ($3::text IS NULL OR backend = (SELECT id FROM backends WHERE name = $3)) ORDER BY id LIMIT $4",
    TEXT,
    INT8,
    TEXT,
    INT8
);
/// From one snapshot: sums of shares and of rows would not be of the same moment otherwise.
static AUDIT: Sql = sql!(
    "SELECT b.name, b.bytes_limit, b.draining, b.drained, b.facts, r.reserved, r.live_blobs, r.live, r.doomed_blobs,
         r.doomed, r.dead_blobs, r.dead, (SELECT count(*) FROM uploads u WHERE u.backend = b.id AND u.state IN ('open', 'completing')),
         s.granted, s.charged, s.reserved, s.live_blobs, s.live, s.doomed_blobs, s.doomed, s.dead_blobs, s.dead, s.uploads
     FROM backends b,
         LATERAL (SELECT coalesce(sum(bytes) FILTER (WHERE state = 'reserved'), 0)::bigint AS reserved,
                      count(*) FILTER (WHERE state = 'live') AS live_blobs,
                      coalesce(sum(bytes) FILTER (WHERE state = 'live'), 0)::bigint AS live,
                      count(*) FILTER (WHERE state = 'doomed') AS doomed_blobs,
                      coalesce(sum(bytes) FILTER (WHERE state = 'doomed'), 0)::bigint AS doomed,
                      count(*) FILTER (WHERE state = 'dead') AS dead_blobs,
                      coalesce(sum(bytes) FILTER (WHERE state = 'dead'), 0)::bigint AS dead
                  FROM blobs WHERE backend = b.id) AS r,
         LATERAL (SELECT coalesce(sum(granted), 0)::bigint AS granted, coalesce(sum(charged), 0)::bigint AS charged,
                      coalesce(sum(reserved_bytes), 0)::bigint AS reserved,
                      coalesce(sum(live_blobs), 0)::bigint AS live_blobs, coalesce(sum(live_bytes), 0)::bigint AS live,
                      coalesce(sum(doomed_blobs), 0)::bigint AS doomed_blobs,
                      coalesce(sum(doomed_bytes), 0)::bigint AS doomed, coalesce(sum(dead_blobs), 0)::bigint AS dead_blobs,
                      coalesce(sum(dead_bytes), 0)::bigint AS dead, coalesce(sum(active_uploads), 0)::bigint AS uploads
                  FROM quota_shares WHERE backend = b.id) AS s
     ORDER BY b.name"
);

type Found = (BucketName, ObjectKey, Located);

fn names(of: &[BackendName]) -> Vec<&str> {
    of.iter().map(BackendName::as_str).collect()
}

impl PostgresStore {
    pub(super) async fn due_cleanups(&self, on: &[BackendName], max: u32) -> Result<Vec<DueCleanup>, Failure> {
        let session = self.sessions.get().await?;
        let params: Params<'_> = &[&names(on), &self.test_clock(), &i64::from(max)];
        let rows = session.query(&DUE, params).await.blamed()?;
        let read = |blob, columns: &mut Columns<'_>| {
            Ok(DueCleanup {
                blob,
                bytes: columns.count()?,
                attempts: u32::try_from(columns.value::<i32>()?).unwrap_or(0),
                reason: columns.value()?,
                abort_uploads: columns.value()?,
                backend_upload: columns.value()?,
                found: columns.time()?,
            })
        };
        self.read_blobs(&session, &rows, read).await
    }

    pub(super) async fn next_cleanup(&self, on: &[BackendName]) -> Result<Option<Timestamp>, Failure> {
        let session = self.sessions.get().await?;
        let rows = session.query(&NEXT, &[&names(on)]).await.blamed()?;
        let next: Option<i64> = rows.first().map_or(Ok(None), |row| Columns::of(row).value())?;
        Ok(next.map(|millis| Timestamp { millis }))
    }

    /// Live versions whose number of copies on the `counted` backends is `wanted`.
    pub(super) async fn replicated(
        &self,
        counted: &[BackendName],
        after: Option<(String, String)>,
        max: u32,
        wanted: impl Fn(u64) -> bool,
    ) -> Result<(Vec<Found>, Option<(String, String)>), Failure> {
        let (page, more) = self.count_copies(counted, after.clone()).await?;
        let mut found = Vec::new();
        let mut last = after;
        for (bucket, key, copies) in page {
            if found.len() == max as usize {
                return Ok((found, last));
            }
            last = Some((bucket.as_str().to_owned(), key.as_str().to_owned()));
            if wanted(copies)
                && let Some(located) = self.lookup(bucket.as_str(), key.as_str()).await?
            {
                found.push((bucket, key, located));
            }
        }
        Ok((found, last.filter(|_| more)))
    }

    /// The next versions and how many copies each has; whether more follow.
    async fn count_copies(
        &self,
        counted: &[BackendName],
        after: Option<(String, String)>,
    ) -> Result<(Vec<(BucketName, ObjectKey, u64)>, bool), Failure> {
        let (bucket, key) = after.unwrap_or_default();
        let session = self.sessions.get().await?;
        let limit = i64::from(SCAN_VERSIONS_MAX) + 1;
        let params: Params<'_> = &[&bucket, &key.as_bytes(), &names(counted), &limit];
        let rows = session.query(&COUNTED, params).await.blamed()?;
        let read = |row: &Row| {
            let mut columns = Columns::of(row);
            Ok((columns.parsed(BucketName::parse)?, columns.key()?, columns.count()?))
        };
        let page = rows.iter().take(SCAN_VERSIONS_MAX as usize).map(read).collect::<Read<_>>()?;
        Ok((page, rows.len() > SCAN_VERSIONS_MAX as usize))
    }

    /// All versions, in as many short reads as it takes.
    pub(super) async fn under_replicated_count(
        &self,
        factor: u32,
        counted: &[BackendName],
        max: u64,
    ) -> Result<u64, Failure> {
        let (mut count, mut after) = (0, None);
        loop {
            let (page, more) = self.count_copies(counted, after).await?;
            count += page.iter().filter(|(_, _, copies)| *copies < u64::from(factor)).count() as u64;
            if count >= max || !more {
                return Ok(count.min(max));
            }
            after = page.last().map(|(bucket, key, _)| (bucket.as_str().to_owned(), key.as_str().to_owned()));
        }
    }

    pub(super) async fn reserved(
        &self,
        incarnation: Incarnation,
        after: BlobId,
        max: u32,
    ) -> Result<Vec<BlobId>, Failure> {
        let session = self.sessions.get().await?;
        let rows = session.query(&RESERVED, &[&incarnation.0, &after.0, &i64::from(max)]).await.blamed()?;
        rows.iter().map(|row| Ok(BlobId(Columns::of(row).value()?))).collect()
    }

    pub(super) async fn part_attempts(
        &self,
        incarnation: Incarnation,
        after: (String, u16),
        max: u32,
    ) -> Result<Vec<PartAttempt>, Failure> {
        let session = self.sessions.get().await?;
        let params: Params<'_> = &[&incarnation.0, &after.0, &i32::from(after.1), &i64::from(max)];
        let rows = session.query(&PART_ATTEMPTS, params).await.blamed()?;
        let attempt = |row| {
            let mut row = Columns::of(row);
            let upload = row.parsed(UploadId::parse)?;
            let number: i32 = row.value()?;
            let number = u16::try_from(number).ok().and_then(PartNumber::new).ok_or_else(|| damaged("number"))?;
            Ok(PartAttempt { upload, number, nonce: row.parsed(Nonce::parse)? })
        };
        rows.iter().map(attempt).collect()
    }

    pub(super) async fn stale_uploads(&self, age: Duration, max: u32) -> Result<Vec<UploadId>, Failure> {
        let session = self.sessions.get().await?;
        let now = session.query(&NOW, &[&self.test_clock()]).await.blamed()?;
        let now = now.first().map_or(Ok(Timestamp::default()), |row| Columns::of(row).time())?;
        let before = now.minus(age);
        let version = Version::from_parts(u64::try_from(before.millis).unwrap_or(0), 0);
        let params: Params<'_> = &[&before.millis, &version.as_str(), &i64::from(max)];
        let rows = session.query(&STALE, params).await.blamed()?;
        rows.iter().map(|row| Columns::of(row).parsed(UploadId::parse)).collect()
    }

    pub(super) async fn status(&self, period: &str) -> Result<Vec<BackendStatus>, Failure> {
        let session = self.sessions.get().await?;
        let rows = session.query(&STATUS, &[]).await.blamed()?;
        let mut all = rows.iter().map(|row| status(&mut Columns::of(row))).collect::<Read<Vec<_>>>()?;
        for row in &session.query(&USAGE, &[&period]).await.blamed()? {
            let mut columns = Columns::of(row);
            let (backend, counter, value): (&str, &str, u64) = (columns.value()?, columns.value()?, columns.count()?);
            let Some(one) = all.iter_mut().find(|one| one.name == backend) else { continue };
            match counter {
                "api_requests" => one.usage.api_requests = value,
                "egress_bytes" => one.usage.egress_bytes = value,
                "ingress_bytes" => one.usage.ingress_bytes = value,
                _ => {} // a later program's
            }
        }
        Ok(all)
    }

    pub(super) async fn blobs(&self, backend: &BackendName, after: &str, max: u32) -> Result<Vec<BlobRow>, Failure> {
        let session = self.sessions.get().await?;
        let params: Params<'_> = &[&backend.as_str(), &after.as_bytes(), &i64::from(max)];
        let rows = session.query(&ROWS, params).await.blamed()?;
        let read = |blob, columns: &mut Columns<'_>| {
            Ok(BlobRow {
                blob,
                state: columns.state()?,
                bytes: columns.count()?,
                version: columns.version()?,
                reason: columns.value()?,
                not_before: columns.time()?,
                bucket: columns.parsed(BucketName::parse)?,
                key: columns.key()?,
            })
        };
        self.read_blobs(&session, &rows, read).await
    }

    pub(super) async fn cleanups(
        &self,
        dead: bool,
        backend: Option<&BackendName>,
        after: BlobId,
        max: u32,
    ) -> Result<Vec<CleanupRow>, Failure> {
        let session = self.sessions.get().await?;
        let state = if dead { "dead" } else { "doomed" };
        let backend = backend.map(BackendName::as_str);
        let params: Params<'_> = &[&state, &after.0, &backend, &i64::from(max)];
        let rows = session.query(&CLEANUPS, params).await.blamed()?;
        let read = |blob, columns: &mut Columns<'_>| {
            Ok(CleanupRow {
                blob,
                bucket: columns.parsed(BucketName::parse)?,
                key: columns.key()?,
                bytes: columns.count()?,
                reason: columns.value()?,
                attempts: u32::try_from(columns.value::<i32>()?).unwrap_or(0),
                last_error: columns.value()?,
                since: columns.time()?,
                not_before: columns.time()?,
            })
        };
        self.read_blobs(&session, &rows, read).await
    }

    /// Adds up every row: a long read, for tests and on an operator's demand.
    pub(super) async fn audit(&self) -> Result<Vec<BackendAudit>, Failure> {
        let session = self.sessions.get().await?;
        let rows = session.query(&AUDIT, &[]).await.blamed()?;
        rows.iter().map(|row| audit(&mut Columns::of(row))).collect()
    }
}

/// From the columns name, limit, draining, drained, facts, reserved bytes, blobs and bytes that are live, doomed and dead, active uploads.
fn status(columns: &mut Columns<'_>) -> Read<BackendStatus> {
    let head = BackendStatus {
        name: columns.value()?,
        bytes_limit: columns.count()?,
        draining: columns.value()?,
        drained: columns.value()?,
        facts: columns.json()?,
        ..BackendStatus::default()
    };
    numbers(columns, head)
}

fn numbers(columns: &mut Columns<'_>, mut status: BackendStatus) -> Read<BackendStatus> {
    status.bytes_reserved = columns.count()?;
    (status.object_count, status.bytes_used) = (columns.count()?, columns.count()?);
    (status.cleanup_depth, status.orphan_bytes) = (columns.count()?, columns.count()?);
    (status.dlq_depth, status.orphan_bytes) = (columns.count()?, status.orphan_bytes + columns.count()?);
    status.active_uploads = columns.count()?;
    Ok(status)
}

fn audit(columns: &mut Columns<'_>) -> Read<BackendAudit> {
    let counted = status(columns)?;
    let (granted, charged) = (columns.value()?, columns.value()?);
    let head = BackendStatus {
        name: counted.name.clone(),
        bytes_limit: counted.bytes_limit,
        draining: counted.draining,
        drained: counted.drained,
        facts: counted.facts,
        ..BackendStatus::default()
    };
    let counters = numbers(columns, head)?;
    let rows_bytes = counted.bytes_reserved + counted.bytes_used + counted.orphan_bytes;
    let (name, bytes_limit) = (counted.name.clone(), counted.bytes_limit);
    Ok(BackendAudit { name, bytes_limit, granted, charged, rows_bytes, counters, counted })
}
