//! A deployment moves from SQLite to PostgreSQL: every row is copied, read back and compared, in one transaction there. Called
//! by the command line while no instance runs.
//!
//! The source is marked as moved just before the COMMIT. So a deployment never has two databases that instances would serve
//! from; a COMMIT whose answer is lost leaves a marked source, and the same call again finds out what became of it.

use super::postgres::{PostgresOptions, Target};
use super::sqlite::{OpenError, Source};
use crate::base::{Failure, Timestamp};
use std::path::Path;

/// A value of either database. A truth value of PostgreSQL's is 0 or 1, as SQLite has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cell {
    Null,
    Number(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// One table of the target, and where its rows come from.
pub struct Table {
    pub name: &'static str,
    pub columns: &'static str,
    /// SQLite's statement for these columns, in the order of the key.
    pub select: &'static str,
    pub key: &'static str,
}

/// Every table of the target, each after those that its foreign keys name. Only `batches` and `services` begin empty: what
/// they hold concerns runs that are over.
pub const TABLES: [Table; 13] = [
    Table {
        name: "deployment",
        columns: "name, value",
        select: "SELECT name, value FROM deployment WHERE name <> 'moved' ORDER BY name",
        key: "name",
    },
    Table {
        name: "counters",
        columns: "name, value",
        select: "SELECT name, value FROM counters WHERE name NOT IN ('blob', 'incarnation')
                 UNION ALL SELECT 'blob', coalesce((SELECT value FROM counters WHERE name = 'blob'), 0)
                 UNION ALL SELECT 'incarnation', coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'incarnations'), 0)
                 ORDER BY name",
        key: "name",
    },
    // Their leases are over: the first instance takes over what they left.
    Table {
        name: "incarnations",
        columns: "id, started, lease_until, mark, ended",
        select: "SELECT id, started, coalesce(lease_until, started), 0, CASE WHEN id = (SELECT max(id) FROM incarnations)
                     OR id IN (SELECT incarnation FROM blobs WHERE state = 'reserved')
                     OR id IN (SELECT incarnation FROM part_attempts) THEN NULL ELSE started END
                 FROM incarnations ORDER BY id",
        key: "id",
    },
    Table {
        name: "backends",
        columns: "id, name, bytes_limit, draining, drained, facts",
        select: "SELECT id, name, bytes_limit, draining, drained, facts FROM backends ORDER BY id",
        key: "id",
    },
    // Only sums over a backend mean something: all of it is the latest run's. Registration grants anew.
    Table {
        name: "quota_shares",
        columns: "backend, incarnation, granted, charged, reserved_bytes, live_blobs, live_bytes, doomed_blobs, doomed_bytes, \
                  dead_blobs, dead_bytes, active_uploads",
        select: "SELECT backend, (SELECT max(id) FROM incarnations), charged, charged, reserved_bytes, live_blobs, live_bytes,
                     doomed_blobs, doomed_bytes, dead_blobs, dead_bytes, active_uploads
                 FROM backend_totals JOIN (SELECT backend, sum(charged) AS charged FROM quota_shares GROUP BY backend)
                     USING (backend)
                 ORDER BY backend",
        key: "backend, incarnation",
    },
    Table {
        name: "usage",
        columns: "backend, period, incarnation, counter, value",
        select: "SELECT backend, period, incarnation, counter, value FROM usage
                 ORDER BY period, backend, incarnation, counter",
        key: "period, backend, incarnation, counter",
    },
    Table {
        name: "budget_leases",
        columns: "period, backend, counter, incarnation, granted, used, under_way, told",
        select: "SELECT period, backend, counter, incarnation, granted, used, under_way, told FROM budget_leases
                 ORDER BY period, backend, counter, incarnation",
        key: "period, backend, counter, incarnation",
    },
    Table {
        name: "buckets",
        columns: "name, owner, region, created",
        select: "SELECT name, owner, region, created FROM buckets ORDER BY name",
        key: "name",
    },
    Table {
        name: "versions",
        columns: "bucket, key, version, live, size, modified, etag, record",
        select: "SELECT bucket, key, version, live, size, modified, etag, record FROM versions ORDER BY bucket, key, version",
        key: "bucket, key, version",
    },
    Table {
        name: "blobs",
        columns: "id, backend, name, bucket, key, version, state, bytes, incarnation, superseded, upload, backend_upload, \
                  version_id, foreign_etag, form, abort_uploads, doomed_at, not_before, settle_until, attempts, last_error, \
                  reason",
        select: "SELECT id, backend, name, bucket, key, version, state, bytes, incarnation, superseded, upload,
                     backend_upload, version_id, foreign_etag, form, abort_uploads, doomed_at, not_before, settle_until,
                     attempts, last_error, reason
                 FROM blobs ORDER BY id",
        key: "id",
    },
    Table {
        name: "uploads",
        columns: "upload, bucket, key, blob, backend, name, backend_upload, record, checksum_algorithm, \
                  checksum_full_object, initiated, state, version, manifest, outcome, final_etag, final_record, ended, \
                  forgettable",
        select: "SELECT upload, bucket, key, blob, backend, name, backend_upload, record, checksum_algorithm,
                     checksum_full_object, initiated, state, version, manifest, outcome, final_etag, final_record, ended,
                     forgettable
                 FROM uploads ORDER BY upload",
        key: "upload",
    },
    Table {
        name: "parts",
        columns: "upload, number, size, record",
        select: "SELECT upload, number, size, record FROM parts ORDER BY upload, number",
        key: "upload, number",
    },
    Table {
        name: "part_attempts",
        columns: "upload, number, nonce, incarnation, size",
        select: "SELECT upload, number, nonce, incarnation, size FROM part_attempts ORDER BY upload, number",
        key: "upload, number",
    },
];

#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error("the source: {0}")]
    Open(#[from] OpenError),
    #[error("the source: {0}")]
    Source(#[from] rusqlite::Error),
    #[error("the target: {0}")]
    Target(#[from] Failure),
    #[error("the target cannot be reached as it is configured: {0}")]
    Options(std::io::Error),
    #[error(
        "the target holds a deployment already (its table {0} has rows): name an empty database, or drop and create this one \
         if nothing in it is wanted"
    )]
    NotEmpty(&'static str),
    #[error("the target has a column {0}, which this program does not know how to fill")]
    UnknownColumn(String),
    #[error("the {table} that were written are not those that were read (row {row}): nothing was kept")]
    Differs { table: &'static str, row: u64 },
    #[error(
        "the source's accounts of {0} do not agree with its blobs, and nothing mends them: nothing was moved. Move a backup of the \
         source from before that instead, and run `sync --restored` on the target before it serves"
    )]
    Accounts(String),
    #[error("whether the move was committed is not known ({0}): run the same command again, which finds out")]
    Unknown(Failure),
}

/// What a move came to.
#[derive(PartialEq, Eq, Debug)]
pub enum Moved {
    /// So many rows, per table.
    Now(Vec<(&'static str, u64)>),
    /// By an earlier call.
    Before,
}

/// What is being done, for whoever watches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Copy,
    Compare,
}

/// Called with how many rows of a table are done, and how many there are.
pub type Watch<'w> = &'w mut dyn FnMut(Step, &'static str, u64, u64);

/// Moves the deployment of the file `source` into the empty database that `target` names. Cancel: safe before the end; the
/// source is as it was, or marked and found so by the next call.
pub async fn transfer(
    source: &Path,
    target: PostgresOptions,
    now: Timestamp,
    watch: Watch<'_>,
) -> Result<Moved, TransferError> {
    let label = target.label();
    let mut source = Source::open(source, now)?;
    let target = Target::connect(target).await?;
    if let Some(table) = target.first_with_rows().await? {
        let is_same = source.is_moved()? && target.deployment().await? == source.deployment()?;
        return if is_same { Ok(Moved::Before) } else { Err(TransferError::NotEmpty(table)) };
    }
    let mut moved = Vec::with_capacity(TABLES.len());
    for table in &TABLES {
        let count = source.count(table)?;
        target.fill(table, &source, &mut |done| watch(Step::Copy, table.name, done, count)).await?;
        moved.push((table.name, count));
    }
    for (table, (_, count)) in TABLES.iter().zip(&moved) {
        target.compare(table, &source, &mut |done| watch(Step::Compare, table.name, done, *count)).await?;
    }
    if let Some(backend) = target.misjudged().await? {
        return Err(TransferError::Accounts(backend));
    }
    source.mark_moved(now, &label)?;
    match target.commit().await {
        Ok(()) => Ok(Moved::Now(moved)),
        Err(failure) => Err(TransferError::Unknown(failure)),
    }
}
