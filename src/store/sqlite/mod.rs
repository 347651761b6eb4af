//! The embedded database: SQLite in WAL mode with `synchronous=FULL`, exclusive to one process.
//!
//! Three threads, each with a connection of its own, fed by bounded channels and answering by tokio's oneshot: the writer
//! runs batches, one transaction and one fsync each; the reader answers what requests ask (lookups, listings, uploads); the
//! scanner what workers and operators ask, in short transactions. Called by the metadata desk; nothing here blocks a caller.
//!
//! Each read begins after the last acknowledged batch: what a caller was told of, the next lookup sees.

mod buckets;
mod budgets;
mod ledger;
mod list;
mod open;
mod operator;
mod read;
mod rows;
mod scan;
mod source;
mod transaction;
mod upkeep;
mod uploads;
mod writer;
mod writes;

use super::port::{Answer, Applied, ApplyError, BatchId, Change, MetadataStore, Query, Rules};
use crate::base::{Failure, Timestamp};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

pub use open::OpenError;
pub use source::Source;

/// The database's clock.
pub type Wall = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Batches and resolutions waiting for the writer; the desk sends one at a time.
const WRITER_JOBS_MAX: usize = 16;
/// Queries waiting for the reader or the scanner; beyond, callers are told to slow down.
const QUERY_JOBS_MAX: usize = 4096;

/// Requests' queries that share a snapshot. A scan has one of its own: a long snapshot keeps the log from being reused.
const READER_SNAPSHOT_QUERIES_MAX: usize = 64;

/// The database's side of a query.
struct QueryJob {
    query: Query,
    reply: oneshot::Sender<Result<Answer, Failure>>,
}

/// An open database. Dropping it waits for its threads: then the file is free for another process.
pub struct SqliteStore {
    writer: Option<flume::Sender<writer::Job>>,
    reader: Option<flume::Sender<QueryJob>>,
    scanner: Option<flume::Sender<QueryJob>>,
    threads: Vec<JoinHandle<()>>,
}

impl SqliteStore {
    /// Opens the database, makes it if it is missing, brings it up to date and starts its threads. Blocks: at start only.
    pub fn open(path: &Path, rules: Rules, wall: Wall) -> Result<Self, OpenError> {
        let opened = open::open(path, wall())?;
        let database = |cause| OpenError::Database { path: path.to_owned(), cause };
        let thread = |cause| OpenError::File { path: path.to_owned(), cause };
        let lock = Arc::new(opened.lock);
        let writer = writer::Writer::new(opened.writer, opened.mark, rules, wall.clone()).map_err(database)?;
        let reader = read::Reader::new(opened.reader, wall.clone(), READER_SNAPSHOT_QUERIES_MAX);
        let scanner = read::Reader::new(opened.scanner, wall, 1);

        let (write, write_jobs) = flume::bounded(WRITER_JOBS_MAX);
        let (read, read_jobs) = flume::bounded(QUERY_JOBS_MAX);
        let (scan, scan_jobs) = flume::bounded(QUERY_JOBS_MAX);
        let mut store =
            Self { writer: Some(write), reader: Some(read), scanner: Some(scan), threads: Vec::with_capacity(3) };
        store.start("sqlite-write", lock.clone(), move || writer.run(&write_jobs)).map_err(thread)?;
        store.start("sqlite-read", lock.clone(), move || reader.run(&read_jobs)).map_err(thread)?;
        store.start("sqlite-scan", lock, move || scanner.run(&scan_jobs)).map_err(thread)?;
        Ok(store)
    }

    fn start(
        &mut self,
        name: &str,
        lock: Arc<std::fs::File>,
        work: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<()> {
        let body = move || {
            work();
            drop(lock); // after the connection
        };
        self.threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(body)?);
        Ok(())
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        (self.writer, self.reader, self.scanner) = (None, None, None);
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // a thread that panicked has said so
        }
    }
}

impl MetadataStore for SqliteStore {
    async fn apply(&self, id: BatchId, changes: Arc<[Change]>) -> Result<Applied, ApplyError> {
        let (reply, answer) = oneshot::channel();
        let writer = self.writer.as_ref().expect("open until dropped");
        if writer.try_send(writer::Job::Apply { id, changes, reply }).is_err() {
            return Err(ApplyError::NotApplied(Failure::overloaded("the database's writer is busy or gone")));
        }
        answer.await.unwrap_or_else(|_| Err(ApplyError::Unknown(gone())))
    }

    async fn resolve(&self, id: BatchId) -> Result<Option<Applied>, Failure> {
        let (reply, answer) = oneshot::channel();
        let writer = self.writer.as_ref().expect("open until dropped");
        if writer.try_send(writer::Job::Resolve { id, reply }).is_err() {
            return Err(Failure::overloaded("the database's writer is busy or gone"));
        }
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    async fn query(&self, query: Query) -> Result<Answer, Failure> {
        let on_request_path = matches!(
            query,
            Query::Lookup { .. }
                | Query::Copies { .. }
                | Query::List(_)
                | Query::Upload { .. }
                | Query::Parts { .. }
                | Query::VersionParts { .. }
                | Query::ListUploads(_)
                | Query::Buckets { .. }
        );
        let thread = if on_request_path { &self.reader } else { &self.scanner };
        let (reply, answer) = oneshot::channel();
        if thread.as_ref().expect("open until dropped").try_send(QueryJob { query, reply }).is_err() {
            return Err(Failure::overloaded("too many queries wait for the database"));
        }
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}

fn gone() -> Failure {
    Failure::metadata("a thread of the database has ended")
}

fn failure(error: &rusqlite::Error) -> Failure {
    Failure::metadata(format!("sqlite: {error}"))
}

#[cfg(test)]
mod tests;
