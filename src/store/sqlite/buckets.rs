//! Stored buckets: made and ended by users, seen by every begin of a write into one.

use super::super::port::{
    BucketCreated, BucketDeleted, BucketRow, Buckets, CreateBucket, DeleteBucket, Overtaken, Refusal,
};
use super::read::Reader;
use super::rows;
use super::transaction::{Step, Transaction};
use crate::base::BucketName;
use rusqlite::{Connection, OptionalExtension, Result, Row, params};

fn read(row: &Row<'_>) -> Result<BucketRow> {
    Ok(BucketRow {
        name: rows::bucket(row, 0)?,
        owner: rows::owned(row, 1)?,
        region: rows::owned(row, 2)?,
        created: rows::time(row, 3)?,
    })
}

impl Transaction<'_> {
    fn bucket(&self, name: &BucketName) -> Result<Option<BucketRow>> {
        self.conn
            .prepare_cached("SELECT name, owner, region, created FROM buckets WHERE name = ?1")?
            .query_row([name.as_str()], read)
            .optional()
    }

    /// Refuses what begins in a stored bucket that is not there (any more).
    pub(super) fn must_be_there(&self, name: &BucketName, stored: bool) -> Step<()> {
        if stored && self.bucket(name)?.is_none() { Err(Refusal::NoSuchBucket.into()) } else { Ok(()) }
    }

    fn next_generation(&self) -> Result<u64> {
        self.conn
            .prepare_cached(
                "INSERT INTO counters (name, value) VALUES ('buckets', 1)
                 ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value",
            )?
            .query_row([], |row| rows::count(row, 0))
    }

    pub(super) fn create_bucket(&mut self, create: &CreateBucket) -> Step<BucketCreated> {
        if let Some(row) = self.bucket(&create.bucket)? {
            return Ok(BucketCreated { row, new: false, generation: generation(self.conn)? });
        }
        let owned: u32 = self
            .conn
            .prepare_cached("SELECT count(*) FROM buckets WHERE owner = ?1")?
            .query_row([&create.owner], |row| row.get(0))?;
        if owned >= create.buckets_max {
            return Err(Refusal::TooManyBuckets.into());
        }
        self.execute(
            "INSERT INTO buckets (name, owner, region, created) VALUES (?1, ?2, ?3, ?4)",
            params![create.bucket.as_str(), create.owner, create.region, self.now.millis],
        )?;
        let row = BucketRow {
            name: create.bucket.clone(),
            owner: create.owner.clone(),
            region: create.region.clone(),
            created: self.now,
        };
        Ok(BucketCreated { row, new: true, generation: self.next_generation()? })
    }

    pub(super) fn delete_bucket(&mut self, delete: &DeleteBucket) -> Step<BucketDeleted> {
        self.must_be_there(&delete.bucket, true)?;
        let name = delete.bucket.as_str();
        let holds: bool = self
            .conn
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM versions WHERE bucket = ?1)
                     OR EXISTS (SELECT 1 FROM uploads WHERE bucket = ?1 AND state IN ('open', 'completing'))",
            )?
            .query_row([name], |row| row.get(0))?;
        if holds {
            return Err(Refusal::BucketNotEmpty.into());
        }
        let by = rows::of_overtaken(Overtaken::ByBucketsEnd);
        self.execute("UPDATE blobs SET superseded = ?2 WHERE contends = 1 AND bucket = ?1", params![name, by])?;
        self.execute("DELETE FROM buckets WHERE name = ?1", [name])?;
        Ok(BucketDeleted { generation: self.next_generation()? })
    }
}

impl Reader {
    pub(super) fn stored_buckets(&self, unless: Option<u64>) -> Result<Option<Buckets>> {
        // Read first: rows that are newer than it are read again at the next look.
        let generation = generation(&self.conn)?;
        if unless == Some(generation) {
            return Ok(None);
        }
        let mut statement =
            self.conn.prepare_cached("SELECT name, owner, region, created FROM buckets ORDER BY name")?;
        let rows = statement.query_map([], read)?.collect::<Result<_>>()?;
        Ok(Some(Buckets { generation, rows }))
    }
}

/// How often the stored buckets have changed.
fn generation(conn: &Connection) -> Result<u64> {
    conn.prepare_cached("SELECT coalesce((SELECT value FROM counters WHERE name = 'buckets'), 0)")?
        .query_row([], |row| rows::count(row, 0))
}
