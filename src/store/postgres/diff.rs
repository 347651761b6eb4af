//! What a batch changed: rows before and after, compared.

use super::super::memory::tables::{Attempt, Backend, Blob, Key, Live, Tables, UploadRow};
use super::super::port::{UploadState, Usage};
use super::super::record::{BlobState, PartRecord};
use crate::base::{BackendName, BlobId, Incarnation, PartNumber, UploadId, Version};
use std::collections::BTreeMap;

/// Rows to write, in the tables' order.
#[derive(Debug, Default)]
pub(super) struct Diff<'t> {
    pub(super) blobs_added: Vec<(BlobId, &'t Blob)>,
    pub(super) blobs_changed: Vec<(BlobId, &'t Blob)>,
    /// Backends that blobs were added on: they must still be there.
    pub(super) added_on: Vec<BackendName>,
    pub(super) blobs_ended: Vec<i64>,
    pub(super) versions_added: Vec<(&'t Key, &'t Live)>,
    pub(super) versions_changed: Vec<(&'t Key, &'t Live)>,
    pub(super) versions_ended: Vec<(&'t Key, Version)>,
    pub(super) uploads: Vec<(&'t UploadId, &'t UploadRow)>,
    pub(super) parts: Vec<(&'t UploadId, &'t PartRecord)>,
    pub(super) parts_ended: Vec<(&'t UploadId, u16)>,
    pub(super) attempts: Vec<(&'t UploadId, PartNumber, &'t Attempt)>,
    pub(super) attempts_ended: Vec<(&'t UploadId, PartNumber)>,
    /// Uploads that were aborted: what they had of parts goes.
    pub(super) aborted: Vec<&'t UploadId>,
    /// Those whose drain begins, ends or is called off.
    pub(super) draining: Vec<(&'t BackendName, &'t Backend)>,
    pub(super) facts: Vec<(&'t BackendName, &'t Backend)>,
    pub(super) usage: Vec<(&'t (BackendName, String, Incarnation), &'t Usage)>,
    /// What it adds to this incarnation's numbers; may be below zero.
    pub(super) shares: BTreeMap<BackendName, Delta>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Delta {
    pub(super) charged: i64,
    pub(super) reserved_bytes: i64,
    pub(super) live_blobs: i64,
    pub(super) live_bytes: i64,
    pub(super) doomed_blobs: i64,
    pub(super) doomed_bytes: i64,
    pub(super) dead_blobs: i64,
    pub(super) dead_bytes: i64,
    pub(super) active_uploads: i64,
    /// Bytes that were found, as far as they are charged here: above the limit if need be.
    pub(super) found: i64,
}

impl Delta {
    fn count(&mut self, blob: &Blob, sign: i64) {
        let bytes = sign * blob.bytes as i64;
        let (blobs_cell, bytes_cell) = match blob.state {
            BlobState::Reserved => (&mut 0, &mut self.reserved_bytes),
            BlobState::Live => (&mut self.live_blobs, &mut self.live_bytes),
            BlobState::Doomed => (&mut self.doomed_blobs, &mut self.doomed_bytes),
            BlobState::Dead => (&mut self.dead_blobs, &mut self.dead_bytes),
        };
        *blobs_cell += sign;
        *bytes_cell += bytes;
        self.charged += bytes;
    }
}

impl<'t> Diff<'t> {
    pub(super) fn between(before: &'t Tables, after: &'t Tables) -> Self {
        let mut diff = Self::default();
        diff.compare_blobs(before, after);
        diff.compare_versions(before, after);
        diff.compare_uploads(before, after);
        let old = |name: &BackendName| before.backends.get(name);
        let drain = |row: &Backend| (row.draining, row.drained);
        let draining = |(name, row): &(&BackendName, &Backend)| old(name).is_none_or(|old| drain(old) != drain(row));
        diff.draining = after.backends.iter().filter(draining).collect();
        let facts = |(name, row): &(&BackendName, &Backend)| old(name).is_none_or(|old| old.facts != row.facts);
        diff.facts = after.backends.iter().filter(facts).collect();
        for (name, bytes) in &after.found {
            diff.share(name).found = *bytes;
        }
        diff.usage = after.usage.iter().collect();
        diff.shares.retain(|_, delta| *delta != Delta::default());
        diff
    }

    fn share(&mut self, backend: &BackendName) -> &mut Delta {
        self.shares.entry(backend.clone()).or_default()
    }

    fn compare_blobs(&mut self, before: &'t Tables, after: &'t Tables) {
        for (id, blob) in &after.blobs {
            let old = before.blobs.get(id);
            if old == Some(blob) {
                continue;
            }
            if let Some(old) = old {
                self.share(&old.backend).count(old, -1);
                self.blobs_changed.push((*id, blob));
            } else {
                if !self.added_on.contains(&blob.backend) {
                    self.added_on.push(blob.backend.clone());
                }
                self.blobs_added.push((*id, blob));
            }
            self.share(&blob.backend).count(blob, 1);
        }
        for (id, old) in before.blobs.iter().filter(|(id, _)| !after.blobs.contains_key(id)) {
            self.share(&old.backend).count(old, -1);
            self.blobs_ended.push(id.0);
        }
    }

    fn compare_versions(&mut self, before: &'t Tables, after: &'t Tables) {
        for (key, live) in &after.versions {
            match before.versions.get(key) {
                Some(old) if old == live => continue,
                Some(old) if old.version == live.version => self.versions_changed.push((key, live)),
                Some(old) => {
                    self.versions_ended.push((key, old.version));
                    self.versions_added.push((key, live));
                }
                None => self.versions_added.push((key, live)),
            }
        }
        let ended = before.versions.iter().filter(|(key, _)| !after.versions.contains_key(*key));
        self.versions_ended.extend(ended.map(|(key, old)| (key, old.version)));
    }

    /// An upload whose parts changed is written too: its mark tells others of it.
    fn compare_uploads(&mut self, before: &'t Tables, after: &'t Tables) {
        for (upload, row) in &after.uploads {
            let old = before.uploads.get(upload);
            if old == Some(row) {
                continue;
            }
            self.uploads.push((upload, row));
            let was_active = old.is_some_and(UploadRow::is_active);
            self.share(&row.blob.backend).active_uploads += i64::from(row.is_active()) - i64::from(was_active);
            let old_part = |number| old.and_then(|old| old.parts.get(number));
            self.parts.extend(
                row.parts
                    .iter()
                    .filter(|(number, part)| old_part(number) != Some(part))
                    .map(|(_, part)| (upload, part)),
            );
            let old_attempt = |number| old.and_then(|old| old.attempts.get(number));
            let attempts = row.attempts.iter().filter(|(number, one)| old_attempt(number) != Some(one));
            self.attempts.extend(attempts.map(|(number, one)| (upload, *number, one)));
            let Some(old) = old else { continue };
            if old.is_active() && row.state == UploadState::Aborted {
                self.aborted.push(upload);
            }
            let parts = old.parts.keys().filter(|number| !row.parts.contains_key(number));
            self.parts_ended.extend(parts.map(|number| (upload, *number)));
            let attempts = old.attempts.keys().filter(|number| !row.attempts.contains_key(number));
            self.attempts_ended.extend(attempts.map(|number| (upload, *number)));
        }
    }
}
