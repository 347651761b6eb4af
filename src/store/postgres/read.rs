//! What requests ask: one statement each, on a shared connection. A statement sees all that was acknowledged before it.

use super::super::port::{Answer, Query, VersionParts};
use super::super::record::{BlobAt, Located, PartRecord};
use super::rows::{Columns, Read, read_upload, upload_columns};
use super::sessions::{Blamed, Params, Session, Sql, sql};
use super::{PostgresStore, restored};
use crate::base::{BackendName, Failure, UploadId, Version};
use std::sync::Arc;
use tokio_postgres::Row;

pub(super) static LOOKUP: Sql = sql!(
    "SELECT v.version, v.size, v.modified, v.etag, v.record, b.id, b.backend, b.name, b.foreign_etag, b.version_id
     FROM versions v LEFT JOIN blobs b
         ON b.bucket = v.bucket AND b.key = v.key AND b.version = v.version AND b.state = 'live'
     WHERE v.bucket = $1 AND v.key = $2 AND v.live ORDER BY b.id",
    TEXT,
    BYTEA
);
pub(super) static COPIES: Sql = sql!(
    "SELECT id, backend, name, foreign_etag, version_id FROM blobs
     WHERE bucket = $1 AND key = $2 AND version = $3 AND (state = 'live' OR state = 'doomed' AND attempts = 0
         AND settle_until <= coalesce($4, now_millis()) AND not_before > coalesce($4, now_millis()))
     ORDER BY id",
    TEXT,
    BYTEA,
    TEXT,
    INT8
);
static UPLOAD: Sql = sql!(concat!("SELECT ", upload_columns!(), " FROM uploads u WHERE u.upload = $1"), TEXT);
static PARTS: Sql =
    sql!("SELECT record FROM parts WHERE upload = $1 AND number > $2 ORDER BY number LIMIT $3", TEXT, INT4, INT8);
static MADE_OF: Sql = sql!(
    "SELECT u.upload, coalesce((SELECT sum(size) FROM parts p WHERE p.upload = u.upload AND p.number <= $4), 0)::bigint
     FROM versions v JOIN uploads u ON u.bucket = v.bucket AND u.key = v.key AND u.version = v.version AND u.state = 'done'
     WHERE v.bucket = $1 AND v.key = $2 AND v.version = $3 AND v.live",
    TEXT,
    BYTEA,
    TEXT,
    INT4
);
static BACKENDS: Sql = sql!("SELECT id, name FROM backends");

impl PostgresStore {
    pub(super) async fn answer(&self, query: Query) -> Result<Answer, Failure> {
        Ok(match query {
            Query::Lookup { bucket, key } => Answer::Lookup(self.lookup(&bucket, &key).await?),
            Query::Copies { bucket, key, version } => Answer::Copies(self.copies(&bucket, &key, version).await?),
            Query::List(list) => Answer::List(self.list(&list).await?),
            Query::Upload { upload } => Answer::Upload(self.upload(&upload).await?),
            Query::Parts { upload, after, max } => self.parts(&upload, after, max).await?,
            Query::VersionParts { bucket, key, version, after, max } => {
                Answer::VersionParts(self.version_parts(&bucket, &key, version, after, max).await?)
            }
            Query::ListUploads(list) => Answer::ListUploads(self.list_uploads(&list).await?),
            Query::StaleUploads { age, max } => Answer::StaleUploads(self.stale_uploads(age, max).await?),
            Query::Buckets { unless } => Answer::Buckets(self.stored_buckets(unless).await?),
            Query::DueCleanups { on, max } => Answer::DueCleanups(self.due_cleanups(&on, max).await?),
            Query::UnderReplicated { factor, counted, after, max } => {
                let thin = |copies| copies < u64::from(factor);
                let (found, next) = self.replicated(&counted, after, max, thin).await?;
                Answer::UnderReplicated { found, next }
            }
            Query::OverReplicated { factor, counted, after, max } => {
                let many = |copies| copies > u64::from(factor);
                let (found, next) = self.replicated(&counted, after, max, many).await?;
                Answer::UnderReplicated { found, next }
            }
            Query::Cleanups { dead, backend, after, max } => {
                Answer::Cleanups(self.cleanups(dead, backend.as_ref(), after, max).await?)
            }
            Query::Restored => Answer::Restored(restored::is_restored(&*self.shared().await?).await?),
            Query::ServiceHolder { service } => Answer::ServiceHolder(self.service_holder(&service).await?),
            Query::UnderReplicatedCount { factor, counted, max } => {
                Answer::Count(self.under_replicated_count(factor, &counted, max).await?)
            }
            Query::NextCleanup { on } => Answer::NextCleanup(self.next_cleanup(&on).await?),
            Query::Reserved { incarnation, after, max } => {
                Answer::Reserved(self.reserved(incarnation, after, max).await?)
            }
            Query::PartAttempts { incarnation, after, max } => {
                Answer::PartAttempts(self.part_attempts(incarnation, after, max).await?)
            }
            Query::Status { period } => Answer::Status(self.status(&period).await?),
            Query::Usage { period } => self.recorded_usage(&period).await?,
            Query::Blobs { backend, after, max } => Answer::Blobs(self.blobs(&backend, &after, max).await?),
            Query::Audit => Answer::Audit(self.audit().await?),
        })
    }

    /// The test's clock, if there is one, for statements that take it in the place of the database's.
    pub(super) fn test_clock(&self) -> Option<i64> {
        self.clock.as_ref().map(|clock| clock().millis)
    }

    pub(super) async fn shared(&self) -> Result<Arc<Session>, Failure> {
        self.sessions.shared().await
    }

    /// Learns the names of backends that these rows name (column `at`) and that were not met before.
    async fn know_backends(&self, session: &Session, rows: &[Row], at: usize) -> Result<(), Failure> {
        let met = |row: &Row| {
            let id: Option<i64> = row.try_get(at).ok().flatten();
            id.is_none_or(|id| self.backends.borrow().name(id).is_ok())
        };
        if rows.iter().all(met) {
            return Ok(());
        }
        let mut found = Vec::new();
        for row in &session.query(&BACKENDS, &[]).await.blamed()? {
            let mut columns = Columns::of(row);
            found.push((columns.value()?, BackendName::new(columns.value()?)));
        }
        self.backends.borrow_mut().0 = found;
        Ok(())
    }

    /// Rows that begin with the columns of `Columns::blob_at`.
    pub(super) async fn read_blobs<T>(
        &self,
        session: &Session,
        rows: &[Row],
        read: impl Fn(BlobAt, &mut Columns<'_>) -> Read<T>,
    ) -> Result<Vec<T>, Failure> {
        self.know_backends(session, rows, 1).await?;
        let backends = self.backends.borrow();
        let one = |row| {
            let mut columns = Columns::of(row);
            read(columns.blob_at(&backends)?, &mut columns)
        };
        rows.iter().map(one).collect()
    }

    pub(super) async fn lookup(&self, bucket: &str, key: &str) -> Result<Option<Located>, Failure> {
        let session = self.shared().await?;
        let rows = session.query(&LOOKUP, &[&bucket, &key.as_bytes()]).await.blamed()?;
        let Some(first) = rows.first() else { return Ok(None) };
        self.know_backends(&session, &rows, 6).await?;
        let backends = self.backends.borrow();
        let mut columns = Columns::of(first);
        let mut located = Located {
            version: columns.version()?,
            size: columns.count()?,
            modified: columns.time()?,
            etag: columns.value()?,
            record: columns.json()?,
            blobs: Vec::with_capacity(rows.len()),
        };
        for row in rows.iter().filter(|row| !matches!(row.try_get::<_, Option<i64>>(5), Ok(None))) {
            located.blobs.push(Columns::from(row, 5).blob_at(&backends)?);
        }
        Ok(Some(located))
    }

    /// Live ones, and displaced ones in their grace.
    async fn copies(&self, bucket: &str, key: &str, version: Version) -> Result<Vec<BlobAt>, Failure> {
        let session = self.shared().await?;
        let params: Params<'_> = &[&bucket, &key.as_bytes(), &version.as_str(), &self.test_clock()];
        let rows = session.query(&COPIES, params).await.blamed()?;
        self.read_blobs(&session, &rows, |blob, _| Ok(blob)).await
    }

    async fn upload(&self, upload: &UploadId) -> Result<Option<super::super::port::Upload>, Failure> {
        let session = self.shared().await?;
        let rows = session.query(&UPLOAD, &[&upload.as_str()]).await.blamed()?;
        let Some(row) = rows.first() else { return Ok(None) };
        self.know_backends(&session, &rows, 4).await?;
        let (upload, row, _) = read_upload(row, &self.backends.borrow())?;
        Ok(Some(row.shown(&upload)))
    }

    async fn parts(&self, upload: &UploadId, after: u16, max: u32) -> Result<Answer, Failure> {
        let (parts, truncated) = self.parts_page(upload.as_str(), after, max).await?;
        Ok(Answer::Parts { parts, truncated })
    }

    /// A page, and whether more follow.
    async fn parts_page(&self, upload: &str, after: u16, max: u32) -> Result<(Vec<PartRecord>, bool), Failure> {
        let session = self.shared().await?;
        let params: Params<'_> = &[&upload, &i32::from(after), &(i64::from(max) + 1)];
        let rows = session.query(&PARTS, params).await.blamed()?;
        let truncated = rows.len() > max as usize;
        let parts = rows.iter().take(max as usize).map(|row| Columns::of(row).json()).collect::<Result<_, _>>()?;
        Ok((parts, truncated))
    }

    /// The parts of a version that lives never change.
    async fn version_parts(
        &self,
        bucket: &str,
        key: &str,
        version: Version,
        after: u16,
        max: u32,
    ) -> Result<Option<VersionParts>, Failure> {
        let session = self.shared().await?;
        let params: Params<'_> = &[&bucket, &key.as_bytes(), &version.as_str(), &i32::from(after)];
        let rows = session.query(&MADE_OF, params).await.blamed()?;
        let Some(row) = rows.first() else { return Ok(None) };
        let mut columns = Columns::of(row);
        let (upload, before_bytes): (&str, u64) = (columns.value()?, columns.count()?);
        let (parts, truncated) = self.parts_page(upload, after, max).await?;
        Ok(Some(VersionParts { parts, truncated, before_bytes }))
    }
}
