//! The books of every backend, held in the writer's memory: nobody else writes, so they need not be read back.
//!
//! Loaded when the database is opened, changed beside the rows, written with them in the same transaction; a transaction
//! that does not commit takes its copy back. So a begin costs no read of quotas, and a status no count of rows.

use super::super::record::BlobState;
use crate::base::BackendName;
use rusqlite::{Connection, Result, params};

/// Blob rows of a backend per state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Totals {
    pub(super) reserved_bytes: i64,
    pub(super) live_blobs: i64,
    pub(super) live_bytes: i64,
    pub(super) doomed_blobs: i64,
    pub(super) doomed_bytes: i64,
    pub(super) dead_blobs: i64,
    pub(super) dead_bytes: i64,
    pub(super) active_uploads: i64,
}

impl Totals {
    fn count(&mut self, state: BlobState, blobs: i64, bytes: i64) {
        let (blobs_cell, bytes_cell) = match state {
            BlobState::Reserved => (&mut 0, &mut self.reserved_bytes),
            BlobState::Live => (&mut self.live_blobs, &mut self.live_bytes),
            BlobState::Doomed => (&mut self.doomed_blobs, &mut self.doomed_bytes),
            BlobState::Dead => (&mut self.dead_blobs, &mut self.dead_bytes),
        };
        *blobs_cell += blobs;
        *bytes_cell += bytes;
        assert!(*blobs_cell >= 0 || state == BlobState::Reserved, "more {} blobs ended than were", state.as_str());
        assert!(*bytes_cell >= 0, "more {} bytes ended than were charged", state.as_str());
    }

    fn sum_bytes(&self) -> i64 {
        self.reserved_bytes + self.live_bytes + self.doomed_bytes + self.dead_bytes
    }
}

/// One backend's page.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) id: i64,
    pub(super) name: BackendName,
    /// 0 = unlimited.
    pub(super) limit: i64,
    pub(super) draining: bool,
    /// The living incarnation's share.
    pub(super) granted: i64,
    pub(super) charged: i64,
    /// The sums of all other shares.
    pub(super) others_granted: i64,
    pub(super) others_charged: i64,
    pub(super) totals: Totals,
    /// Changed by the running batch; and whether what is charged did.
    pub(super) dirty: bool,
    pub(super) recharged: bool,
}

impl Line {
    pub(super) fn charged_in_all(&self) -> i64 {
        self.charged + self.others_charged
    }

    /// Bytes that the living incarnation could still charge: what its share has left and what nobody was granted.
    pub(super) fn room(&self) -> i64 {
        if self.limit == 0 {
            return i64::MAX;
        }
        let unallocated = (self.limit - self.granted - self.others_granted).max(0);
        self.granted + unallocated - self.charged
    }

    /// Adds to what the living incarnation has charged (or takes away), refilling its share where that is needed. Callers
    /// have checked `room`.
    fn charge(&mut self, bytes: i64) {
        self.charged += bytes;
        if self.limit > 0 && bytes > 0 {
            self.granted = self.granted.max(self.charged);
            assert!(self.granted + self.others_granted <= self.limit, "the shares of {:?} exceed its limit", self.name);
        }
        self.dirty = true;
        self.recharged |= bytes != 0;
    }

    pub(super) fn blob_added(&mut self, bytes: i64) {
        self.totals.count(BlobState::Reserved, 1, bytes);
        self.charge(bytes);
    }

    /// Bytes that are there already are charged, above the limit if need be; as reserved ones, for a moment.
    pub(super) fn blob_found(&mut self, bytes: i64, blobs: i64) {
        self.totals.count(BlobState::Reserved, blobs, bytes);
        self.charged += bytes;
        if self.limit > 0 {
            let unallocated = (self.limit - self.granted - self.others_granted).max(0);
            self.granted = self.granted.max(self.charged.min(self.granted + unallocated));
        }
        self.dirty = true;
        self.recharged |= bytes != 0;
    }

    /// A reserved blob (an upload's) holds more or fewer bytes than before.
    pub(super) fn blob_recharged(&mut self, bytes: i64) {
        self.totals.count(BlobState::Reserved, 0, bytes);
        self.charge(bytes);
    }

    pub(super) fn blob_moved(&mut self, from: BlobState, to: BlobState, bytes: i64) {
        self.totals.count(from, -1, -bytes);
        self.totals.count(to, 1, bytes);
        self.dirty = true;
    }

    pub(super) fn blob_ended(&mut self, state: BlobState, bytes: i64) {
        self.totals.count(state, -1, -bytes);
        self.charge(-bytes);
    }

    pub(super) fn uploads_changed(&mut self, by: i64) {
        self.totals.active_uploads += by;
        assert!(self.totals.active_uploads >= 0, "more uploads ended than were");
        self.dirty = true;
    }
}

/// The last blob id that was given out.
pub(super) fn last_blob(conn: &Connection) -> Result<i64> {
    conn.prepare_cached("SELECT coalesce((SELECT value FROM counters WHERE name = 'blob'), 0)")?
        .query_row([], |row| row.get(0))
}

pub(super) fn put_last_blob(conn: &Connection, last: i64) -> Result<()> {
    conn.prepare_cached("INSERT OR REPLACE INTO counters (name, value) VALUES ('blob', ?1)")?.execute([last])?;
    Ok(())
}

#[derive(Clone, Debug)]
pub(super) struct Ledger {
    /// The one that lives: the last one registered.
    pub(super) incarnation: i64,
    pub(super) lines: Vec<Line>,
    /// The last blob id given out, and whether the running batch has given out any.
    last_blob: i64,
    blobs_added: bool,
}

impl Ledger {
    pub(super) fn load(conn: &Connection) -> Result<Self> {
        let incarnation =
            conn.query_row("SELECT coalesce(max(id), 0) FROM incarnations", [], |row| row.get::<_, i64>(0))?;
        let mut statement = conn.prepare(
            "SELECT id, name, bytes_limit, draining,
                    coalesce((SELECT sum(granted) FROM quota_shares WHERE backend = id AND incarnation = ?1), 0),
                    coalesce((SELECT sum(charged) FROM quota_shares WHERE backend = id AND incarnation = ?1), 0),
                    coalesce((SELECT sum(granted) FROM quota_shares WHERE backend = id AND incarnation <> ?1), 0),
                    coalesce((SELECT sum(charged) FROM quota_shares WHERE backend = id AND incarnation <> ?1), 0),
                    coalesce(reserved_bytes, 0), coalesce(live_blobs, 0), coalesce(live_bytes, 0),
                    coalesce(doomed_blobs, 0), coalesce(doomed_bytes, 0), coalesce(dead_blobs, 0),
                    coalesce(dead_bytes, 0), coalesce(active_uploads, 0)
             FROM backends LEFT JOIN backend_totals ON backend = id ORDER BY name",
        )?;
        let line = |row: &rusqlite::Row<'_>| {
            Ok(Line {
                id: row.get(0)?,
                name: BackendName::new(row.get_ref(1)?.as_str()?),
                limit: row.get(2)?,
                draining: row.get(3)?,
                granted: row.get(4)?,
                charged: row.get(5)?,
                others_granted: row.get(6)?,
                others_charged: row.get(7)?,
                totals: Totals {
                    reserved_bytes: row.get(8)?,
                    live_blobs: row.get(9)?,
                    live_bytes: row.get(10)?,
                    doomed_blobs: row.get(11)?,
                    doomed_bytes: row.get(12)?,
                    dead_blobs: row.get(13)?,
                    dead_bytes: row.get(14)?,
                    active_uploads: row.get(15)?,
                },
                dirty: false,
                recharged: false,
            })
        };
        let lines = statement.query_map([incarnation], line)?.collect::<Result<_>>()?;
        Ok(Self { incarnation, lines, last_blob: last_blob(conn)?, blobs_added: false })
    }

    /// Numbers were skipped. No blob was added in this batch.
    pub(super) fn look_at_numbers(&mut self, conn: &Connection) -> Result<()> {
        self.last_blob = last_blob(conn)?;
        Ok(())
    }

    /// Never given out before, and never again.
    pub(super) fn next_blob(&mut self) -> i64 {
        self.last_blob += 1;
        self.blobs_added = true;
        self.last_blob
    }

    pub(super) fn by_name(&mut self, name: &BackendName) -> Option<&mut Line> {
        self.lines.iter_mut().find(|line| line.name == *name)
    }

    /// Rows name only backends that have a row of their own (a foreign key).
    pub(super) fn by_id(&mut self, id: i64) -> &mut Line {
        self.lines.iter_mut().find(|line| line.id == id).expect("a blob's backend has a row")
    }

    pub(super) fn name_of(&self, id: i64) -> BackendName {
        self.lines.iter().find(|line| line.id == id).expect("a blob's backend has a row").name.clone()
    }

    /// Writes what the batch changed, and answers what is charged now where that changed.
    pub(super) fn write(&mut self, conn: &Connection) -> Result<Vec<(BackendName, u64)>> {
        if self.blobs_added {
            put_last_blob(conn, self.last_blob)?;
            self.blobs_added = false;
        }
        let incarnation = self.incarnation;
        let mut charged = Vec::new();
        for line in self.lines.iter_mut().filter(|line| line.dirty) {
            assert_eq!(line.charged_in_all(), line.totals.sum_bytes(), "the books of {:?}", line.name);
            conn.prepare_cached(
                "INSERT INTO quota_shares (backend, incarnation, granted, charged) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET granted = excluded.granted, charged = excluded.charged",
            )?
            .execute(params![line.id, incarnation, line.granted, line.charged])?;
            let totals = &line.totals;
            conn.prepare_cached(
                "INSERT OR REPLACE INTO backend_totals (backend, reserved_bytes, live_blobs, live_bytes, doomed_blobs,
                     doomed_bytes, dead_blobs, dead_bytes, active_uploads) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                line.id,
                totals.reserved_bytes,
                totals.live_blobs,
                totals.live_bytes,
                totals.doomed_blobs,
                totals.doomed_bytes,
                totals.dead_blobs,
                totals.dead_bytes,
                totals.active_uploads,
            ])?;
            if line.recharged {
                let bytes =
                    u64::try_from(line.charged_in_all()).expect("the charges of a backend are never below zero");
                charged.push((line.name.clone(), bytes));
            }
            (line.dirty, line.recharged) = (false, false);
        }
        Ok(charged)
    }
}
