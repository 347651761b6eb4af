//! What keeps the books: registration with recovery, cleanup, usage, measured facts, forgetting.

use super::super::port::{
    CleanupDone, CleanupFailed, CleanupFailedOutcome, Done, RecordFacts, RecordUsage, Refusal, Register, Registered,
    SetDraining, SetLimits, WRITER_GONE,
};
use super::super::record::{BackendFacts, BlobState};
use super::super::rules::{FORGET_UPLOADS_MAX, UPLOAD_KEPT, oldest_leases};
use super::ledger::Ledger;
use super::operator::is_restored;
use super::rows;
use super::transaction::{Blob, Step, Transaction};
use crate::base::{BackendName, BlobId, Incarnation, PartNumber, UploadId};
use rusqlite::{Result, params};

impl Transaction<'_> {
    pub(super) fn register(&mut self, register: &Register) -> Step<Registered> {
        self.execute("INSERT INTO incarnations (started) VALUES (?1)", [self.now.millis])?;
        let incarnation = self.conn.last_insert_rowid();
        self.execute("INSERT OR IGNORE INTO deployment (name, value) VALUES ('id', ?1)", [&register.deployment])?;
        let deployment = self.conn.query_row("SELECT value FROM deployment WHERE name = 'id'", [], |row| row.get(0))?;
        let doomed = self.recover()?;
        // Whoever holds the database is alone: no other run's bodies go on in the next month.
        self.execute("UPDATE budget_leases SET under_way = 0, told = 0", [])?;
        // The books so far belong to the rows as they were; from here on they are the new incarnation's.
        self.ledger.write(self.conn)?;
        let configured: Vec<BackendName> = register.backends.iter().map(|one| one.name.clone()).collect();
        self.forget_unused_backends(&configured)?;
        for one in &register.backends {
            let limit = i64::try_from(one.bytes_limit).unwrap_or(i64::MAX);
            self.execute(
                "INSERT INTO backends (name, bytes_limit) VALUES (?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET bytes_limit = excluded.bytes_limit",
                params![one.name.as_str(), limit],
            )?;
        }
        self.take_over_shares(incarnation)?;
        let (facts, draining) = self.facts_of(&configured)?;
        Ok(Registered {
            incarnation: Incarnation(incarnation),
            deployment,
            doomed,
            restored: is_restored(self.conn)?,
            facts,
            draining,
            unknown_backends: self.unknown_backends(&configured)?,
        })
    }

    pub(super) fn set_limits(&mut self, set: &SetLimits) -> Step<Done> {
        self.ledger.write(self.conn)?;
        for one in &set.backends {
            let limit = i64::try_from(one.bytes_limit).unwrap_or(i64::MAX);
            self.execute("UPDATE backends SET bytes_limit = ?2 WHERE name = ?1", params![one.name.as_str(), limit])?;
        }
        self.take_over_shares(self.ledger.incarnation)?;
        Ok(Done)
    }

    /// Nobody else lives: what others had reserved is doomed, and may still appear. Answers how many blobs that were.
    fn recover(&mut self) -> Result<u64> {
        let orphans: Vec<i64> = self
            .conn
            .prepare("SELECT id FROM blobs WHERE contends = 1 AND upload IS NULL ORDER BY id")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_>>()?;
        for id in &orphans {
            let blob = self.blob(BlobId(*id))?.expect("listed above");
            self.doom(&blob, self.now, true, WRITER_GONE)?;
        }
        let attempts: Vec<(UploadId, u16, i64)> = self
            .conn
            .prepare("SELECT upload, number, blob FROM part_attempts JOIN uploads USING (upload)")?
            .query_map([], |row| Ok((rows::upload_id(row, 0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<_>>()?;
        for (upload, number, blob) in attempts {
            let number = PartNumber::new(number).expect("attempts are stored under part numbers");
            self.leave_behind(BlobId(blob), &upload, number)?;
        }
        Ok(orphans.len() as u64)
    }

    /// Backends that neither the configuration nor a blob nor an upload names.
    fn forget_unused_backends(&mut self, configured: &[BackendName]) -> Result<()> {
        let unused: Vec<i64> = self
            .conn
            .prepare(
                "SELECT id FROM backends WHERE NOT EXISTS (SELECT 1 FROM blobs WHERE backend = backends.id)
                     AND NOT EXISTS (SELECT 1 FROM uploads WHERE backend = backends.id)",
            )?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_>>()?;
        for id in unused {
            if !configured.contains(&self.ledger.name_of(id)) {
                self.execute("DELETE FROM backends WHERE id = ?1", [id])?;
            }
        }
        Ok(())
    }

    /// Everything that dead incarnations were granted and had charged is this one's now.
    fn take_over_shares(&mut self, incarnation: i64) -> Result<()> {
        *self.ledger = Ledger::load(self.conn)?;
        assert_eq!(self.ledger.incarnation, incarnation, "the latest incarnation is the one that registers");
        self.conn.execute("DELETE FROM quota_shares", [])?;
        for line in &mut self.ledger.lines {
            let granted = line.granted + line.others_granted;
            line.granted = if line.limit == 0 { 0 } else { granted.min(line.limit) };
            line.charged += line.others_charged;
            line.others_granted = 0;
            line.others_charged = 0;
            (line.dirty, line.recharged) = (true, true);
        }
        Ok(())
    }

    fn facts_of(&self, configured: &[BackendName]) -> Result<(Vec<(BackendName, BackendFacts)>, Vec<BackendName>)> {
        let mut statement = self.conn.prepare("SELECT name, facts, draining FROM backends ORDER BY name")?;
        let mut found = statement.query([])?;
        let (mut facts, mut draining) = (Vec::new(), Vec::new());
        while let Some(row) = found.next()? {
            let name = BackendName::new(rows::text(row, 0)?);
            if configured.contains(&name) {
                facts.push((name.clone(), rows::json(row, 1)?));
                if row.get(2)? {
                    draining.push(name);
                }
            }
        }
        Ok((facts, draining))
    }

    fn unknown_backends(&self, configured: &[BackendName]) -> Result<Vec<(BackendName, u64)>> {
        let lines = self.ledger.lines.iter().filter(|line| !configured.contains(&line.name));
        Ok(lines.map(|line| (line.name.clone(), line.totals.live_blobs as u64)).collect())
    }

    // ---- cleanup -------------------------------------------------------------------------------------------------

    pub(super) fn cleanup_done(&mut self, done: CleanupDone) -> Step<Done> {
        let Some(blob) = self.blob(done.blob)? else { return Ok(Done) };
        if !matches!(blob.state, BlobState::Doomed | BlobState::Dead) {
            return Err(Refusal::Lost.into());
        }
        if done.found >= blob.settle_until {
            self.execute("DELETE FROM blobs WHERE id = ?1", [blob.id])?;
            self.ledger.by_id(blob.backend).blob_ended(blob.state, blob.bytes);
        } else {
            self.execute(
                "UPDATE blobs SET state = 'doomed', not_before = settle_until, attempts = 0 WHERE id = ?1",
                [blob.id],
            )?;
            self.ledger.by_id(blob.backend).blob_moved(blob.state, BlobState::Doomed, blob.bytes);
        }
        Ok(Done)
    }

    pub(super) fn cleanup_failed(&mut self, failed: &CleanupFailed) -> Step<CleanupFailedOutcome> {
        let doomed = |blob: &Blob| blob.state == BlobState::Doomed;
        let Some(blob) = self.blob(failed.blob)?.filter(doomed) else {
            return Ok(CleanupFailedOutcome { dead: false });
        };
        let attempts = blob.attempts + 1;
        let dead = attempts >= self.rules.attempts_max;
        let (state, not_before) = if dead {
            (BlobState::Dead, self.now)
        } else {
            (BlobState::Doomed, self.rules.retry_at(self.now, attempts))
        };
        self.execute(
            "UPDATE blobs SET state = ?2, attempts = ?3, last_error = ?4, not_before = ?5 WHERE id = ?1",
            params![blob.id, state.as_str(), attempts, failed.error, not_before.millis],
        )?;
        self.ledger.by_id(blob.backend).blob_moved(BlobState::Doomed, state, blob.bytes);
        Ok(CleanupFailedOutcome { dead })
    }

    // ---- facts ---------------------------------------------------------------------------------------------------

    pub(super) fn record_usage(&mut self, record: &RecordUsage) -> Step<Done> {
        for (backend, usage) in &record.backends {
            let counters = [
                ("api_requests", usage.api_requests),
                ("egress_bytes", usage.egress_bytes),
                ("ingress_bytes", usage.ingress_bytes),
            ];
            for (counter, value) in counters {
                self.execute(
                    "INSERT INTO usage (period, backend, incarnation, counter, value) VALUES (?1, ?2, ?3, ?4, ?5)
                     ON CONFLICT DO UPDATE SET value = excluded.value",
                    params![record.period, backend.as_str(), record.incarnation.0, counter, rows::signed(value)],
                )?;
            }
        }
        Ok(Done)
    }

    pub(super) fn record_facts(&mut self, record: &RecordFacts) -> Step<Done> {
        let facts = rows::to_json(&record.facts);
        let known =
            self.execute("UPDATE backends SET facts = ?2 WHERE name = ?1", params![record.backend.as_str(), facts])?;
        if known == 0 { Err(Refusal::Lost.into()) } else { Ok(Done) }
    }

    pub(super) fn set_draining(&mut self, set: &SetDraining) -> Step<Done> {
        let line = self.ledger.by_name(&set.backend).ok_or(Refusal::Lost)?;
        line.draining = set.draining;
        let id = line.id;
        self.execute(
            "UPDATE backends SET facts = CASE WHEN drained AND NOT ?2 THEN '{}' ELSE facts END, draining = ?2, drained = 0
             WHERE id = ?1",
            params![id, set.draining],
        )?;
        Ok(Done)
    }

    pub(super) fn forget_old(&mut self) -> Result<()> {
        self.execute(
            // The version that it made may have come back since it was marked.
            "DELETE FROM uploads WHERE upload IN (SELECT upload FROM uploads u
                 WHERE forgettable = 1 AND ended < ?1 AND NOT (state = 'done' AND EXISTS (SELECT 1 FROM versions v
                     WHERE v.bucket = u.bucket AND v.key = u.key AND v.version = u.version))
                 ORDER BY ended, upload LIMIT ?2)",
            params![self.now.minus(UPLOAD_KEPT).millis, FORGET_UPLOADS_MAX],
        )?;
        self.execute("DELETE FROM budget_leases WHERE period < ?1", [oldest_leases(self.now)])?;
        Ok(())
    }
}
