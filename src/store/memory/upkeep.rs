//! What keeps the books: registration with recovery, cleanup, usage, measured facts, forgetting.

use super::super::port::{
    CleanupDone, CleanupFailed, CleanupFailedOutcome, Done, RecordFacts, RecordUsage, Refusal, Register, Registered,
    SetDraining, SetLimits, UploadState, WRITER_GONE,
};
use super::super::record::{BackendFacts, BlobState};
use super::super::rules::{BATCH_KEPT, FORGET_UPLOADS_MAX, UPLOAD_KEPT, oldest_leases};
use super::tables::{Backend, Share, Tables};
use crate::base::{BackendName, BlobId, Incarnation, PartNumber, Timestamp, UploadId};
use std::collections::BTreeSet;

impl Tables {
    pub(super) fn register(&mut self, now: Timestamp, register: Register) -> Registered {
        self.current = Incarnation(self.current.0 + 1);
        let deployment = self.deployment.get_or_insert(register.deployment).clone();
        let doomed = self.recover(now);
        let configured: BTreeSet<BackendName> = register.backends.iter().map(|one| one.name.clone()).collect();
        let of_blobs = self.blobs.values().map(|blob| &blob.backend);
        let in_rows: BTreeSet<BackendName> =
            of_blobs.chain(self.uploads.values().map(|row| &row.blob.backend)).cloned().collect();
        self.backends.retain(|name, _| configured.contains(name) || in_rows.contains(name));
        for one in register.backends {
            self.backends.entry(one.name).or_default().bytes_limit = one.bytes_limit;
        }
        self.take_over_shares();
        self.touched = self.backends.keys().cloned().collect();
        Registered {
            incarnation: self.current,
            deployment,
            doomed,
            restored: self.restored,
            facts: self.of_configured(&configured, |backend| Some(backend.facts)),
            draining: self
                .of_configured(&configured, |backend| backend.draining.then_some(()))
                .into_iter()
                .map(|(name, ())| name)
                .collect(),
            unknown_backends: in_rows
                .difference(&configured)
                .map(|name| (name.clone(), self.live_blobs_on(name)))
                .collect(),
        }
    }

    pub(super) fn set_limits(&mut self, set: SetLimits) -> Done {
        for one in set.backends {
            if let Some(backend) = self.backends.get_mut(&one.name) {
                backend.bytes_limit = one.bytes_limit;
            }
        }
        self.take_over_shares();
        self.touched = self.backends.keys().cloned().collect();
        Done
    }

    /// Here, the last one registered proves that no other lives.
    pub(super) fn must_live(&self, incarnation: Incarnation) -> Result<(), Refusal> {
        if incarnation == self.current { Ok(()) } else { Err(Refusal::Lost) }
    }

    fn of_configured<T>(
        &self,
        configured: &BTreeSet<BackendName>,
        tell: impl Fn(&Backend) -> Option<T>,
    ) -> Vec<(BackendName, T)> {
        let known = self.backends.iter().filter(|(name, _)| configured.contains(name));
        known.filter_map(|(name, backend)| Some((name.clone(), tell(backend)?))).collect()
    }

    fn live_blobs_on(&self, name: &BackendName) -> u64 {
        self.blobs.values().filter(|blob| blob.backend == *name && blob.state == BlobState::Live).count() as u64
    }

    /// Nobody else lives: what others had reserved is doomed, and may still appear. Answers how many blobs that were.
    fn recover(&mut self, now: Timestamp) -> u64 {
        let reserved = self.blobs.iter().filter(|(_, blob)| blob.state == BlobState::Reserved && blob.upload.is_none());
        let orphans: Vec<BlobId> = reserved.map(|(id, _)| *id).collect();
        for id in &orphans {
            self.doom(now, *id, now, true, WRITER_GONE);
        }
        let attempts: Vec<(UploadId, PartNumber)> = self
            .uploads
            .iter()
            .flat_map(|(upload, row)| row.attempts.keys().map(|number| (upload.clone(), *number)))
            .collect();
        for (upload, number) in attempts {
            self.leave_behind(now, &upload, number);
        }
        orphans.len() as u64
    }

    /// Everything that dead incarnations were granted and had charged is this one's now.
    fn take_over_shares(&mut self) {
        let names: Vec<BackendName> = self.backends.keys().cloned().collect();
        let mut shares = std::collections::BTreeMap::new();
        for name in names {
            let limit = self.backends[&name].bytes_limit as i64;
            let granted = if limit == 0 { 0 } else { self.granted(&name).min(limit) };
            shares.insert((name.clone(), self.current), Share { granted, charged: self.charged(&name) });
        }
        self.shares = shares;
    }

    pub(super) fn cleanup_done(&mut self, done: CleanupDone) -> Result<Done, Refusal> {
        let Some(blob) = self.blobs.get_mut(&done.blob) else { return Ok(Done) };
        if !matches!(blob.state, BlobState::Doomed | BlobState::Dead) {
            return Err(Refusal::Lost);
        }
        if done.found >= blob.settle_until {
            self.end_blob(done.blob);
        } else {
            blob.state = BlobState::Doomed;
            blob.not_before = blob.settle_until;
            blob.attempts = 0;
        }
        Ok(Done)
    }

    pub(super) fn cleanup_failed(&mut self, now: Timestamp, failed: CleanupFailed) -> CleanupFailedOutcome {
        let Some(blob) = self.blobs.get_mut(&failed.blob).filter(|blob| blob.state == BlobState::Doomed) else {
            return CleanupFailedOutcome { dead: false };
        };
        blob.attempts += 1;
        blob.last_error = failed.error;
        let dead = blob.attempts >= self.rules.attempts_max;
        if dead {
            blob.state = BlobState::Dead;
            blob.not_before = now;
        } else {
            blob.not_before = self.rules.retry_at(now, blob.attempts);
        }
        CleanupFailedOutcome { dead }
    }

    pub(super) fn record_usage(&mut self, record: RecordUsage) -> Done {
        for (backend, usage) in record.backends {
            self.usage.insert((backend, record.period.clone(), record.incarnation), usage);
        }
        Done
    }

    pub(super) fn record_facts(&mut self, record: &RecordFacts) -> Result<Done, Refusal> {
        self.backends.get_mut(&record.backend).ok_or(Refusal::Lost)?.facts = record.facts;
        Ok(Done)
    }

    pub(super) fn set_draining(&mut self, set: &SetDraining) -> Result<Done, Refusal> {
        let backend = self.backends.get_mut(&set.backend).ok_or(Refusal::Lost)?;
        if backend.drained && !set.draining {
            backend.facts = BackendFacts::default();
        }
        (backend.draining, backend.drained) = (set.draining, false);
        Ok(Done)
    }

    pub(super) fn forget_old(&mut self, now: Timestamp) {
        self.batches.retain(|_, (at, _)| *at >= now.minus(BATCH_KEPT));
        let versions = &self.versions;
        let forgettable = self.uploads.iter().filter(|(_, row)| {
            let had_its_time = !row.is_active() && row.ended < now.minus(UPLOAD_KEPT);
            let made_what_lives = row.state == UploadState::Done
                && versions.get(&row.key).is_some_and(|live| live.version == row.version);
            had_its_time && !made_what_lives
        });
        let mut oldest: Vec<(Timestamp, UploadId)> =
            forgettable.map(|(upload, row)| (row.ended, upload.clone())).collect();
        oldest.sort();
        for (_, upload) in oldest.into_iter().take(FORGET_UPLOADS_MAX as usize) {
            self.uploads.remove(&upload);
        }
        let oldest = oldest_leases(now);
        self.budgets.retain(|(_, period, ..), _| *period >= oldest);
    }
}
