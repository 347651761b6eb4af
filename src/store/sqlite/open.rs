//! Opening the database: the lock that keeps other processes out, the connections' settings, the migrations.

use super::operator::hold;
use crate::base::Timestamp;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Memory of each connection's page cache, in KiB.
const WRITER_CACHE_KIB: i32 = 16 * 1024;
const READER_CACHE_KIB: i32 = 16 * 1024;
const SCAN_CACHE_KIB: i32 = 2 * 1024;
/// The log is copied back into the database when it has this many pages (16 MiB), by the writer between two batches.
const CHECKPOINT_PAGES: i32 = 4096;
/// What a long reader made the log grow to is given back down to this.
const LOG_BYTES_KEPT: i64 = 64 * 1024 * 1024;
/// More than the statements that this layer has.
const STATEMENTS_KEPT: usize = 128;

mod migrations {
    refinery::embed_migrations!("migrations/sqlite");
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the database {} is in use by another process (it holds {}): stop that one, or give this instance a database of \
         its own; several instances share one PostgreSQL instead",
        database.display(), lock.display()
    )]
    InUse { database: PathBuf, lock: PathBuf },
    #[error("cannot open {}: {cause}", path.display())]
    File { path: PathBuf, cause: io::Error },
    #[error("cannot open the database {}: {cause}", path.display())]
    Database { path: PathBuf, cause: rusqlite::Error },
    #[error("cannot bring the database {} up to date: {cause}", path.display())]
    Migration { path: PathBuf, cause: Box<refinery::Error> },
    #[error(
        "the database {} was moved to {to}: name that one under `database`. If it was never served from there, the mark \
         can be taken away: DELETE FROM deployment WHERE name = 'moved'",
        path.display()
    )]
    Moved { path: PathBuf, to: String },
}

/// The three connections, and the lock that must outlive them.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) writer: Connection,
    pub(super) reader: Connection,
    pub(super) scanner: Connection,
    pub(super) lock: File,
    /// Where the mark of the last batch is kept, beside the database.
    pub(super) mark: Mark,
}

/// Blocks on files: called at start only.
pub(super) fn open(path: &Path, now: Timestamp) -> Result<Opened, OpenError> {
    let opened = open_moved_too(path, now)?;
    match moved_to(&opened.writer) {
        Ok(None) => Ok(opened),
        Ok(Some(to)) => Err(OpenError::Moved { path: path.to_owned(), to }),
        Err(cause) => Err(OpenError::Database { path: path.to_owned(), cause }),
    }
}

/// Where and when its rows went (transfer.rs).
pub(super) fn moved_to(conn: &Connection) -> rusqlite::Result<Option<String>> {
    conn.query_row("SELECT value FROM deployment WHERE name = 'moved'", [], |row| row.get(0)).optional()
}

/// As `open`, even if its rows were moved to another database.
pub(super) fn open_moved_too(path: &Path, now: Timestamp) -> Result<Opened, OpenError> {
    make_parents(path).map_err(|cause| OpenError::File { path: path.to_owned(), cause })?;
    let (lock, is_new) = lock(path)?;
    let mark = Mark::read(&lock, is_new).map_err(|cause| OpenError::File { path: path.to_owned(), cause })?;
    let database = |cause| OpenError::Database { path: path.to_owned(), cause };
    let mut writer = connect(path, WRITER_CACHE_KIB).map_err(database)?;
    migrations::migrations::runner()
        .run(&mut writer)
        .map_err(|cause| OpenError::Migration { path: path.to_owned(), cause: Box::new(cause) })?;
    mark.hold_if_rewound(&writer, now).map_err(database)?;
    let reader = connect(path, READER_CACHE_KIB).and_then(read_only).map_err(database)?;
    let scanner = connect(path, SCAN_CACHE_KIB).and_then(read_only).map_err(database)?;
    Ok(Opened { writer, reader, scanner, lock, mark })
}

/// Makes the database's directory if it is missing, durably.
fn make_parents(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    if parent.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(parent)?;
    for directory in parent.ancestors().filter(|directory| !directory.as_os_str().is_empty()) {
        match File::open(directory).and_then(|directory| directory.sync_all()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break, // not ours, so not made by us
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A lock of the operating system, which ends with the process however that ends.
fn lock(database: &Path) -> Result<(File, bool), OpenError> {
    let mut path = database.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let is_new = !path.exists();
    let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
    let file = file.map_err(|cause| OpenError::File { path: path.clone(), cause })?;
    match file.try_lock() {
        Ok(()) => Ok((file, is_new)),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { database: database.to_owned(), lock: path }),
        Err(TryLockError::Error(cause)) => Err(OpenError::File { path, cause }),
    }
}

/// The number of the last batch, in the lock file (PROTOCOL.md, "Rewound database"): a database that was put back has a lower
/// one. Written after each COMMIT and never synced, so it is never ahead of the database that it was written for.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    /// None: an earlier version of this program kept none.
    last: Option<i64>,
    /// The database came without the file beside which it was written.
    alone: bool,
}

impl Mark {
    fn read(lock: &File, is_new: bool) -> io::Result<Self> {
        let file = lock.try_clone()?;
        let mut text = [0; 20];
        let read = file.read_at(&mut text, 0)?;
        let last = std::str::from_utf8(&text[..read]).ok().and_then(|text| text.trim().parse().ok());
        Ok(Self { file, last, alone: is_new })
    }

    /// Holds a database that was put back from a backup: until `sync` has run, nothing is deleted from any backend.
    fn hold_if_rewound(&self, conn: &Connection, now: Timestamp) -> rusqlite::Result<()> {
        let in_use: bool =
            conn.query_row("SELECT EXISTS (SELECT 1 FROM deployment WHERE name = 'id')", [], |row| row.get(0))?;
        let batch: i64 = conn.query_row("SELECT coalesce(max(seq), 0) FROM batches", [], |row| row.get(0))?;
        if in_use && (self.alone || self.last.is_some_and(|last| last > batch)) {
            hold(conn, &format!("batch {batch} after {}", self.last.unwrap_or(0)), now)?;
        }
        self.write(batch);
        Ok(())
    }

    pub(super) fn write(&self, batch: i64) {
        // Without it, a restore is only known by `sync --restored`, which operators are told to run.
        let _ = self.file.write_all_at(format!("{batch:<19}\n").as_bytes(), 0);
    }
}

fn connect(path: &Path, cache_kib: i32) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(std::time::Duration::from_secs(5))?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.pragma_update(None, "cache_size", -cache_kib)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    conn.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT)?;
    // Otherwise statements that could use a partial index are planned anew for every set of parameters.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    Ok(conn)
}

fn read_only(conn: Connection) -> rusqlite::Result<Connection> {
    conn.pragma_update(None, "query_only", true)?;
    Ok(conn)
}
