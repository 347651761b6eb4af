//! The database as something to move away from (transfer.rs): read whole while nobody else has it open, then marked.

use super::super::transfer::{Cell, Table, TransferError};
use super::open::{self, OpenError};
use crate::base::Timestamp;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};
use std::fs::File;
use std::path::Path;

/// An open database that is not served. Others are kept out until it is dropped.
pub struct Source {
    conn: Connection,
    _lock: File,
}

impl Source {
    /// Brings the database up to date; it must be there. Blocks.
    pub fn open(path: &Path, now: Timestamp) -> Result<Self, OpenError> {
        if let Err(cause) = std::fs::metadata(path) {
            return Err(OpenError::File { path: path.to_owned(), cause });
        }
        let opened = open::open_moved_too(path, now)?;
        Ok(Self { conn: opened.writer, _lock: opened.lock })
    }

    /// How many rows go into this table.
    pub fn count(&self, table: &Table) -> rusqlite::Result<u64> {
        let count = format!("SELECT count(*) FROM ({})", table.select);
        self.conn.query_row(&count, [], |row| row.get::<_, i64>(0)).map(|count| count as u64)
    }

    /// Hands over the rows of a table, one after the other. Cancel: safe.
    pub async fn each_row(
        &self,
        table: &Table,
        mut take: impl AsyncFnMut(&[Cell]) -> Result<(), TransferError>,
    ) -> Result<(), TransferError> {
        let mut statement = self.conn.prepare(table.select)?;
        let width = statement.column_count();
        let mut rows = statement.query([])?;
        let mut cells = Vec::with_capacity(width);
        while let Some(row) = rows.next()? {
            cells.clear();
            for at in 0..width {
                cells.push(cell(row, at)?);
            }
            take(&cells).await?;
        }
        Ok(())
    }

    pub fn deployment(&self) -> rusqlite::Result<Option<String>> {
        self.conn.query_row("SELECT value FROM deployment WHERE name = 'id'", [], |row| row.get(0)).optional()
    }

    pub fn is_moved(&self) -> rusqlite::Result<bool> {
        open::moved_to(&self.conn).map(|moved| moved.is_some())
    }

    /// From now on no instance serves from it (`OpenError::Moved`). Durable when it returns.
    pub fn mark_moved(&mut self, at: Timestamp, to: &str) -> rusqlite::Result<()> {
        let mark = format!("{to}, {}", crate::proto::date::iso8601(at));
        self.conn.execute("INSERT OR REPLACE INTO deployment (name, value) VALUES ('moved', ?1)", [mark]).map(drop)
    }
}

fn cell(row: &Row<'_>, at: usize) -> rusqlite::Result<Cell> {
    let value = row.get_ref(at)?;
    Ok(match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(number) => Cell::Number(number),
        ValueRef::Text(_) => Cell::Text(value.as_str()?.to_owned()),
        ValueRef::Blob(bytes) => Cell::Bytes(bytes.to_vec()),
        ValueRef::Real(_) => return Err(rusqlite::Error::InvalidColumnType(at, "real".into(), value.data_type())),
    })
}
