//! Stored buckets: made and ended by users, seen by every begin of a write into one, which holds the bucket's row until it is
//! committed.

use super::super::port::{
    Applied, ApplyError, BatchId, BucketCreated, BucketDeleted, BucketRow, Buckets, CreateBucket, DeleteBucket,
    Outcome, Overtaken, Refusal,
};
use super::PostgresStore;
use super::alone::one;
use super::rows::{Columns, Read, of_overtaken};
use super::sessions::{Blamed, Session, Sql, sql};
use crate::base::{BucketName, Failure};
use tokio_postgres::Row;

static GENERATION: Sql = sql!("SELECT coalesce((SELECT value FROM counters WHERE name = 'buckets'), 0)");
static ROWS: Sql = sql!("SELECT name, owner, region, created FROM buckets ORDER BY name");
/// One change of the buckets at a time: a user's number of them is counted under it.
static NEXT: Sql = sql!(
    "INSERT INTO counters AS c (name, value) VALUES ('buckets', 1)
     ON CONFLICT (name) DO UPDATE SET value = c.value + 1 RETURNING value"
);
static UNDO: Sql = sql!("UPDATE counters SET value = value - 1 WHERE name = 'buckets'");
static FIND: Sql = sql!("SELECT name, owner, region, created FROM buckets WHERE name = $1 FOR UPDATE", TEXT);
static OWNED: Sql = sql!("SELECT count(*) FROM buckets WHERE owner = $1", TEXT);
static MAKE: Sql =
    sql!("INSERT INTO buckets (name, owner, region, created) VALUES ($1, $2, $3, $4)", TEXT, TEXT, TEXT, INT8);
/// Writes that are being committed end first: what they made is seen by the next statement.
static LOCK_RESERVED: Sql =
    sql!("SELECT 1 FROM blobs WHERE bucket = $1 AND state = 'reserved' ORDER BY bucket, key, id FOR UPDATE", TEXT);
static HOLDS: Sql = sql!(
    "SELECT EXISTS (SELECT 1 FROM versions WHERE bucket = $1)
         OR EXISTS (SELECT 1 FROM uploads WHERE bucket = $1 AND state IN ('open', 'completing'))",
    TEXT
);
static SUPERSEDE: Sql = sql!("UPDATE blobs SET superseded = $2 WHERE bucket = $1 AND state = 'reserved'", TEXT, INT2);
static END: Sql = sql!("DELETE FROM buckets WHERE name = $1", TEXT);

pub(super) fn read(row: &Row) -> Read<BucketRow> {
    let mut columns = Columns::of(row);
    Ok(BucketRow {
        name: columns.parsed(BucketName::parse)?,
        owner: columns.value()?,
        region: columns.value()?,
        created: columns.time()?,
    })
}

impl PostgresStore {
    /// Cancel: NOT safe.
    pub(super) async fn create_bucket(&self, id: BatchId, create: &CreateBucket) -> Result<Applied, ApplyError> {
        self.alone_for_client(id, async |session| Ok(Outcome::CreateBucket(self.creation(session, id, create).await?)))
            .await
    }

    async fn creation(
        &self,
        session: &Session,
        id: BatchId,
        create: &CreateBucket,
    ) -> Result<Result<BucketCreated, Refusal>, Failure> {
        let now = self.begin_alone(session, id).await?;
        let generation: i64 = one(session, &NEXT, &[]).await?;
        let name = create.bucket.as_str();
        let found = session.query(&FIND, &[&name]).await.blamed()?;
        if let Some(row) = found.first() {
            session.query(&UNDO, &[]).await.blamed()?;
            return Ok(Ok(BucketCreated { row: read(row)?, new: false, generation: generation as u64 - 1 }));
        }
        let owned: i64 = one(session, &OWNED, &[&create.owner]).await?;
        if owned >= i64::from(create.buckets_max) {
            session.query(&UNDO, &[]).await.blamed()?;
            return Ok(Err(Refusal::TooManyBuckets));
        }
        session.query(&MAKE, &[&name, &create.owner, &create.region, &now.millis]).await.blamed()?;
        let row = BucketRow {
            name: create.bucket.clone(),
            owner: create.owner.clone(),
            region: create.region.clone(),
            created: now,
        };
        Ok(Ok(BucketCreated { row, new: true, generation: generation as u64 }))
    }

    /// Cancel: NOT safe.
    pub(super) async fn delete_bucket(&self, id: BatchId, delete: &DeleteBucket) -> Result<Applied, ApplyError> {
        self.alone_for_client(id, async |session| Ok(Outcome::DeleteBucket(self.deletion(session, id, delete).await?)))
            .await
    }

    async fn deletion(
        &self,
        session: &Session,
        id: BatchId,
        delete: &DeleteBucket,
    ) -> Result<Result<BucketDeleted, Refusal>, Failure> {
        self.begin_alone(session, id).await?;
        let generation: i64 = one(session, &NEXT, &[]).await?;
        let name = delete.bucket.as_str();
        if session.query(&FIND, &[&name]).await.blamed()?.is_empty() {
            session.query(&UNDO, &[]).await.blamed()?;
            return Ok(Err(Refusal::NoSuchBucket));
        }
        session.query(&LOCK_RESERVED, &[&name]).await.blamed()?;
        if one(session, &HOLDS, &[&name]).await? {
            session.query(&UNDO, &[]).await.blamed()?;
            return Ok(Err(Refusal::BucketNotEmpty));
        }
        session.query(&SUPERSEDE, &[&name, &of_overtaken(Overtaken::ByBucketsEnd)]).await.blamed()?;
        session.query(&END, &[&name]).await.blamed()?;
        Ok(Ok(BucketDeleted { generation: generation as u64 }))
    }

    /// The generation is read first: rows that are newer than it are read again at the next look.
    pub(super) async fn stored_buckets(&self, unless: Option<u64>) -> Result<Option<Buckets>, Failure> {
        let session = self.shared().await?;
        let generation = one::<i64>(&session, &GENERATION, &[]).await? as u64;
        if unless == Some(generation) {
            return Ok(None);
        }
        let rows = session.query(&ROWS, &[]).await.blamed()?.iter().map(read).collect::<Read<_>>()?;
        Ok(Some(Buckets { generation, rows }))
    }
}
