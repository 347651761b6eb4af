//! The database as something to move to (transfer.rs): filled and looked through in one transaction.

use super::super::sqlite::Source;
use super::super::transfer::{Cell, TABLES, Table, TransferError};
use super::options::PostgresOptions;
use super::sessions::{Blamed, Session, Sessions, Sql, sql};
use crate::base::Failure;
use futures_util::TryStreamExt;
use std::error::Error;
use std::pin::pin;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

/// How long a statement takes is not known: there is no limit.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = 0;
                     SET LOCAL idle_in_transaction_session_timeout = 0";
/// Tables that begin empty.
const LEFT_EMPTY: [&str; 3] = ["batches", "services", "refinery_schema_history"];

static COLUMNS_THERE: Sql = sql!(
    "SELECT c.table_name::text, c.column_name::text FROM information_schema.columns c
     JOIN information_schema.tables t USING (table_schema, table_name)
     WHERE table_schema = current_schema() AND t.table_type = 'BASE TABLE' ORDER BY table_name, c.ordinal_position"
);
static DEPLOYMENT: Sql = sql!("SELECT (SELECT value FROM deployment WHERE name = 'id')");
static NUMBERS: Sql =
    sql!("SELECT setval(pg_get_serial_sequence('backends', 'id'), max(id)) FROM backends HAVING max(id) IS NOT NULL");
/// A backend on which a share, or a count, is not what its rows add up to.
static MISJUDGED: Sql = sql!(
    "SELECT b.name FROM backends b
     LEFT JOIN (SELECT backend, sum(charged) AS charged, sum(reserved_bytes) AS reserved, sum(live_blobs) AS live,
                    sum(live_bytes) AS live_bytes, sum(doomed_blobs) AS doomed, sum(doomed_bytes) AS doomed_bytes,
                    sum(dead_blobs) AS dead, sum(dead_bytes) AS dead_bytes FROM quota_shares GROUP BY backend) s
         ON s.backend = b.id
     LEFT JOIN (SELECT backend, sum(bytes) AS charged,
                    sum(bytes) FILTER (WHERE state = 'reserved') AS reserved,
                    count(*) FILTER (WHERE state = 'live') AS live, sum(bytes) FILTER (WHERE state = 'live') AS live_bytes,
                    count(*) FILTER (WHERE state = 'doomed') AS doomed,
                    sum(bytes) FILTER (WHERE state = 'doomed') AS doomed_bytes,
                    count(*) FILTER (WHERE state = 'dead') AS dead, sum(bytes) FILTER (WHERE state = 'dead') AS dead_bytes
                FROM blobs GROUP BY backend) f ON f.backend = b.id
     WHERE (coalesce(s.charged, 0), coalesce(s.reserved, 0), coalesce(s.live, 0), coalesce(s.live_bytes, 0),
            coalesce(s.doomed, 0), coalesce(s.doomed_bytes, 0), coalesce(s.dead, 0), coalesce(s.dead_bytes, 0))
        <> (coalesce(f.charged, 0), coalesce(f.reserved, 0), coalesce(f.live, 0), coalesce(f.live_bytes, 0),
            coalesce(f.doomed, 0), coalesce(f.doomed_bytes, 0), coalesce(f.dead, 0), coalesce(f.dead_bytes, 0))
     ORDER BY b.name LIMIT 1"
);

/// A connection in a transaction that holds every table, so that no instance registers meanwhile.
pub struct Target {
    session: Session,
    _sessions: Sessions,
}

impl Target {
    /// Brings the tables up to date. Cancel: safe.
    pub async fn connect(options: PostgresOptions) -> Result<Self, TransferError> {
        let sessions = Sessions::new(options).map_err(TransferError::Options)?;
        let session = sessions.get().await?;
        for row in session.query(&COLUMNS_THERE, &[]).await.blamed()? {
            let (name, column): (&str, &str) = (row.try_get(0).blamed()?, row.try_get(1).blamed()?);
            let fills = |table: &Table| table.name == name && table.columns.split(", ").any(|filled| filled == column);
            if !LEFT_EMPTY.contains(&name) && !TABLES.iter().any(fills) {
                return Err(TransferError::UnknownColumn(format!("{name}.{column}")));
            }
        }
        session.command(BEGIN).await.blamed()?;
        let names: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
        session.command(&format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", names.join(", "))).await.blamed()?;
        Ok(Self { session, _sessions: sessions })
    }

    /// The first table that is not empty. The numbers that nobody has taken yet do not count. Cancel: safe.
    pub async fn first_with_rows(&self) -> Result<Option<&'static str>, Failure> {
        for table in &TABLES {
            let taken = if table.name == "counters" { "WHERE value > 0" } else { "" };
            let found = format!("SELECT EXISTS (SELECT 1 FROM {} {taken})", table.name);
            if self.session.object().query_one(&found, &[]).await.blamed()?.try_get(0).blamed()? {
                return Ok(Some(table.name));
            }
        }
        Ok(None)
    }

    /// The id of the deployment that it holds. Cancel: safe.
    pub async fn deployment(&self) -> Result<Option<String>, Failure> {
        super::alone::one(&self.session, &DEPLOYMENT, &[]).await
    }

    /// Copies a table's rows into it; `done` is told how many. Cancel: the transaction must be given up.
    pub async fn fill(&self, table: &Table, source: &Source, done: &mut dyn FnMut(u64)) -> Result<(), TransferError> {
        let client = self.session.object();
        if table.name == "counters" {
            self.session.command("DELETE FROM counters").await.blamed()?;
        }
        let types = self.types(table).await?;
        let copy = format!("COPY {} ({}) FROM STDIN BINARY", table.name, table.columns);
        let mut writer = pin!(BinaryCopyInWriter::new(client.copy_in(&copy).await.blamed()?, &types));
        let mut count = 0;
        let row = async |cells: &[Cell]| {
            writer.as_mut().write_raw(cells).await.blamed()?;
            count += 1;
            done(count);
            Ok(())
        };
        source.each_row(table, row).await?;
        writer.as_mut().finish().await.blamed()?;
        if table.name == "backends" {
            self.session.query(&NUMBERS, &[]).await.blamed()?;
        }
        Ok(())
    }

    async fn types(&self, table: &Table) -> Result<Vec<Type>, Failure> {
        let select = format!("SELECT {} FROM {}", table.columns, table.name);
        let statement = self.session.object().prepare(&select).await.blamed()?;
        Ok(statement.columns().iter().map(|column| column.type_().clone()).collect())
    }

    /// Reads a table's rows back and compares each with what it was made of. Cancel: safe.
    pub async fn compare(
        &self,
        table: &Table,
        source: &Source,
        done: &mut dyn FnMut(u64),
    ) -> Result<(), TransferError> {
        let select = format!("SELECT {} FROM {} ORDER BY {}", table.columns, table.name, table.key);
        let nothing: [&(dyn ToSql + Sync); 0] = [];
        let mut there = pin!(self.session.object().query_raw(&select, nothing).await.blamed()?);
        let mut row = 0;
        let differs = |row| TransferError::Differs { table: table.name, row };
        let compare = async |cells: &[Cell]| {
            row += 1;
            let found = there.try_next().await.blamed()?.ok_or_else(|| differs(row))?;
            for (at, cell) in cells.iter().enumerate() {
                if found.try_get::<_, Cell>(at).blamed()? != *cell {
                    return Err(differs(row));
                }
            }
            done(row);
            Ok(())
        };
        source.each_row(table, compare).await?;
        if there.try_next().await.blamed()?.is_some() { Err(differs(row + 1)) } else { Ok(()) }
    }

    /// A backend whose charges are not what its blobs add up to. Cancel: safe.
    pub async fn misjudged(&self) -> Result<Option<String>, Failure> {
        let found = self.session.query(&MISJUDGED, &[]).await.blamed()?;
        found.first().map(|row| row.try_get(0).blamed()).transpose()
    }

    /// Cancel: NOT safe. Err: what became of it is not known.
    pub async fn commit(&self) -> Result<(), Failure> {
        self.session.command("COMMIT").await.blamed()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Ends the transaction, if it is still open.
        self.session.give_up();
    }
}

impl ToSql for Cell {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Text(text) => text.to_sql(kind, out),
            Self::Bytes(bytes) => bytes.to_sql(kind, out),
            Self::Number(number) => match *kind {
                Type::BOOL => (*number != 0).to_sql(kind, out),
                Type::INT2 => i16::try_from(*number)?.to_sql(kind, out),
                Type::INT4 => i32::try_from(*number)?.to_sql(kind, out),
                _ => number.to_sql(kind, out),
            },
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl<'r> FromSql<'r> for Cell {
    fn from_sql(kind: &Type, raw: &'r [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(match *kind {
            Type::BOOL => Self::Number(bool::from_sql(kind, raw)?.into()),
            Type::INT2 => Self::Number(i16::from_sql(kind, raw)?.into()),
            Type::INT4 => Self::Number(i32::from_sql(kind, raw)?.into()),
            Type::INT8 => Self::Number(i64::from_sql(kind, raw)?),
            Type::BYTEA => Self::Bytes(raw.to_vec()),
            _ => Self::Text(String::from_sql(kind, raw)?),
        })
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self::Null)
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}
