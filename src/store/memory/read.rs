//! Queries: what the rows say, in the plainest way.

use super::super::port::{
    Answer, BackendAudit, BackendStatus, BlobRow, CleanupRow, DueCleanup, ListPage, ListQuery, ListUploadsQuery,
    Listed, ListedUpload, Query, UploadState, UploadsPage, VersionParts,
};
use super::super::record::{BlobState, Located};
use super::super::rules::SCAN_VERSIONS_MAX;
use super::tables::{Blob, Key, Live, Tables, UploadRow};
use crate::base::{BackendName, BlobId, BucketName, ObjectKey, Timestamp, Version};

impl Tables {
    pub(super) fn answer(&self, now: Timestamp, query: Query) -> Answer {
        match query {
            Query::Lookup { bucket, key } => Answer::Lookup(key_of(&bucket, &key).and_then(|key| self.located(&key))),
            Query::Copies { bucket, key, version } => {
                let readable = |blob: &Blob| blob.version == version && blob.is_readable(now);
                let key = key_of(&bucket, &key);
                let blobs = key.iter().flat_map(|key| self.blobs_of(key)).filter(|(_, blob)| readable(blob));
                Answer::Copies(blobs.map(|(id, blob)| blob.at(id)).collect())
            }
            Query::List(list) => Answer::List(self.list(&list)),
            Query::Upload { upload } => Answer::Upload(self.uploads.get(&upload).map(|row| row.shown(&upload))),
            Query::Parts { upload, after, max } => {
                let row = self.uploads.get(&upload);
                let mut parts: Vec<_> = row
                    .into_iter()
                    .flat_map(|row| row.parts.range(after.saturating_add(1)..))
                    .map(|(_, part)| part.clone())
                    .take(max as usize + 1)
                    .collect();
                let truncated = parts.len() > max as usize;
                parts.truncate(max as usize);
                Answer::Parts { parts, truncated }
            }
            Query::VersionParts { bucket, key, version, after, max } => {
                let key = key_of(&bucket, &key);
                Answer::VersionParts(key.and_then(|key| self.version_parts(&key, version, after, max)))
            }
            Query::ListUploads(list) => Answer::ListUploads(self.list_uploads(&list)),
            Query::StaleUploads { age, max } => {
                let stale =
                    self.uploads.iter().filter(|(_, row)| !self.restored && row.is_active() && row.is_stale(now, age));
                let mut stale: Vec<_> = stale.map(|(upload, row)| (row.initiated, upload.clone())).collect();
                stale.sort();
                Answer::StaleUploads(stale.into_iter().take(max as usize).map(|(_, upload)| upload).collect())
            }
            Query::DueCleanups { on, max } => Answer::DueCleanups(self.due_cleanups(&on, now, max)),
            Query::UnderReplicated { factor, counted, after, max } => {
                self.replicated(after, max, |copies| copies < factor, &counted)
            }
            Query::OverReplicated { factor, counted, after, max } => {
                self.replicated(after, max, |copies| copies > factor, &counted)
            }
            Query::Cleanups { dead, backend, after, max } => {
                let state = if dead { BlobState::Dead } else { BlobState::Doomed };
                let wanted =
                    |blob: &Blob| blob.state == state && backend.as_ref().is_none_or(|one| blob.backend == *one);
                let found = self.blobs.range(BlobId(after.0 + 1)..).filter(|(_, blob)| wanted(blob));
                Answer::Cleanups(found.take(max as usize).map(|(id, blob)| blob.as_cleanup(*id)).collect())
            }
            Query::Restored => Answer::Restored(self.restored),
            Query::ServiceHolder { .. } => Answer::ServiceHolder(None),
            Query::UnderReplicatedCount { factor, counted, max } => {
                let thin = self.versions.iter().filter(|(key, live)| self.copies(key, live, &counted) < factor);
                Answer::Count((thin.count() as u64).min(max))
            }
            Query::NextCleanup { on } => {
                Answer::NextCleanup(self.doomed_on(&on).map(|(_, blob)| blob.not_before).min())
            }
            Query::Reserved { incarnation, after, max } => {
                let wanted = |blob: &Blob| blob.state == BlobState::Reserved && blob.owner == Some(incarnation);
                let found = self.blobs.range(BlobId(after.0 + 1)..).filter(|(_, blob)| wanted(blob));
                Answer::Reserved(found.take(max as usize).map(|(id, _)| *id).collect())
            }
            Query::PartAttempts { incarnation, after, max } => {
                Answer::PartAttempts(self.part_attempts(incarnation, after, max))
            }
            Query::Usage { period } => self.recorded_usage(&period),
            Query::Status { period } => {
                Answer::Status(self.backends.keys().map(|name| self.status(name, &period)).collect())
            }
            Query::Buckets { unless } => Answer::Buckets(self.stored_buckets(unless)),
            Query::Blobs { backend, after, max } => Answer::Blobs(self.blobs_on(&backend, &after, max)),
            Query::Audit => Answer::Audit(self.backends.keys().map(|name| self.audit(name)).collect()),
        }
    }

    fn located(&self, key: &Key) -> Option<Located> {
        let live = self.versions.get(key)?;
        let blobs = self.live_blobs(key, live).map(|(id, blob)| blob.at(id)).collect();
        Some(Located {
            version: live.version,
            size: live.size,
            etag: live.etag.clone(),
            modified: live.modified,
            record: live.record.clone(),
            blobs,
        })
    }

    fn live_blobs(&self, key: &Key, live: &Live) -> impl Iterator<Item = (BlobId, &Blob)> {
        self.blobs_of(key).filter(|(_, blob)| blob.version == live.version && blob.state == BlobState::Live)
    }

    fn copies(&self, key: &Key, live: &Live, counted: &[BackendName]) -> u32 {
        self.live_blobs(key, live).filter(|(_, blob)| counted.contains(&blob.backend)).count() as u32
    }

    /// Every key becomes an entry (itself or its common prefix); equal entries are one; those after `after` are shown.
    fn list(&self, list: &ListQuery) -> ListPage {
        let mut page = ListPage::default();
        let of_bucket = self.versions.iter().filter(|((bucket, _), _)| bucket.as_str() == list.bucket);
        for ((_, key), live) in of_bucket {
            let key = key.as_str();
            let Some(rest) = key.strip_prefix(list.prefix.as_str()) else { continue };
            let end = if list.delimiter.is_empty() { None } else { rest.find(&list.delimiter) };
            let entry = end.map_or(key, |end| &key[..list.prefix.len() + end + list.delimiter.len()]);
            if entry <= list.after.as_str() || (end.is_some() && entry == page.last) {
                continue;
            }
            if page.keys.len() + page.common_prefixes.len() == list.max as usize {
                page.truncated = list.max > 0;
                break;
            }
            entry.clone_into(&mut page.last);
            match end {
                Some(_) => page.common_prefixes.push(entry.to_owned()),
                None => page.keys.push(Listed {
                    key: key.to_owned(),
                    size: live.size,
                    etag: live.etag.clone(),
                    modified: live.modified,
                    checksums: live.record.checksums.clone(),
                }),
            }
        }
        page
    }

    fn version_parts(&self, key: &Key, version: Version, after: u16, max: u32) -> Option<VersionParts> {
        self.versions.get(key).filter(|live| live.version == version)?;
        let made_it = |row: &&UploadRow| row.state == UploadState::Done && row.version == version && row.key == *key;
        let row = self.uploads.values().find(made_it)?;
        let before_bytes = row.parts.range(..=after).map(|(_, part)| part.size).sum();
        let mut parts: Vec<_> = row.parts.range(after.saturating_add(1)..).map(|(_, part)| part.clone()).collect();
        let truncated = parts.len() > max as usize;
        parts.truncate(max as usize);
        Some(VersionParts { parts, truncated, before_bytes })
    }

    /// As `list`: entries that follow the markers, equal prefixes once.
    fn list_uploads(&self, list: &ListUploadsQuery) -> UploadsPage {
        let mut page = UploadsPage::default();
        let active = self.uploads.iter().filter(|(_, row)| row.is_active() && row.key.0.as_str() == list.bucket);
        let mut sorted: Vec<_> = active.map(|(upload, row)| (row.key.1.as_str(), upload, row)).collect();
        sorted.sort_by_key(|(key, upload, _)| (*key, *upload));
        for (key, upload, row) in sorted {
            let Some(rest) = key.strip_prefix(list.prefix.as_str()) else { continue };
            let end = if list.delimiter.is_empty() { None } else { rest.find(&list.delimiter) };
            let entry = end.map_or(key, |end| &key[..list.prefix.len() + end + list.delimiter.len()]);
            let is_later = end.is_none()
                && entry == list.after
                && !list.after_upload.is_empty()
                && upload.as_str() > list.after_upload.as_str();
            if entry <= list.after.as_str() && !is_later || end.is_some() && entry == page.last {
                continue;
            }
            if page.uploads.len() + page.common_prefixes.len() == list.max as usize {
                page.truncated = list.max > 0;
                break;
            }
            entry.clone_into(&mut page.last);
            page.last_upload.clear();
            if end.is_some() {
                page.common_prefixes.push(entry.to_owned());
                continue;
            }
            page.last_upload.push_str(upload.as_str());
            page.uploads.push(ListedUpload {
                key: key.to_owned(),
                upload: upload.clone(),
                initiated: row.initiated,
                checksum_algorithm: row.checksum_algorithm.clone(),
                checksum_full_object: row.checksum_full_object,
            });
        }
        page
    }

    fn doomed_on<'a>(&'a self, backends: &'a [BackendName]) -> impl Iterator<Item = (BlobId, &'a Blob)> {
        let doomed = self.blobs.iter().filter(|(_, blob)| blob.state == BlobState::Doomed && !self.restored);
        doomed.filter(|(_, blob)| backends.contains(&blob.backend)).map(|(id, blob)| (*id, blob))
    }

    fn due_cleanups(&self, on: &[BackendName], now: Timestamp, max: u32) -> Vec<DueCleanup> {
        let mut due: Vec<_> = self.doomed_on(on).filter(|(_, blob)| blob.not_before <= now).collect();
        due.sort_by_key(|(id, blob)| (blob.not_before, *id));
        due.truncate(max as usize);
        due.into_iter()
            .map(|(id, blob)| DueCleanup {
                blob: blob.at(id),
                found: now,
                bytes: blob.bytes,
                attempts: blob.attempts,
                reason: blob.reason.clone(),
                abort_uploads: blob.abort_uploads,
                backend_upload: blob.backend_upload.clone(),
            })
            .collect()
    }

    fn replicated(
        &self,
        after: Option<(String, String)>,
        max: u32,
        wanted: impl Fn(u32) -> bool,
        counted: &[BackendName],
    ) -> Answer {
        let beyond =
            |key: &Key| after.as_ref().is_none_or(|(b, k)| (key.0.as_str(), key.1.as_str()) > (b.as_str(), k.as_str()));
        let mut found = Vec::new();
        let mut last: Option<&Key> = None;
        let versions = self.versions.iter().filter(|(key, _)| beyond(key));
        for (examined, (key, live)) in versions.enumerate() {
            if examined == SCAN_VERSIONS_MAX as usize || found.len() == max as usize {
                let next = last.map(|(bucket, key)| (bucket.as_str().to_owned(), key.as_str().to_owned()));
                return Answer::UnderReplicated { found, next: next.or(after) };
            }
            last = Some(key);
            if wanted(self.copies(key, live, counted)) {
                let located = self.located(key).expect("the version is live");
                found.push((key.0.clone(), key.1.clone(), located));
            }
        }
        Answer::UnderReplicated { found, next: None }
    }

    fn status(&self, name: &BackendName, period: &str) -> BackendStatus {
        let backend = &self.backends[name];
        let mut status = BackendStatus {
            name: name.as_str().to_owned(),
            bytes_limit: backend.bytes_limit,
            draining: backend.draining,
            drained: backend.drained,
            facts: backend.facts,
            ..BackendStatus::default()
        };
        for blob in self.blobs.values().filter(|blob| blob.backend == *name) {
            match blob.state {
                BlobState::Reserved => status.bytes_reserved += blob.bytes,
                BlobState::Live => {
                    status.bytes_used += blob.bytes;
                    status.object_count += 1;
                }
                BlobState::Doomed => {
                    status.orphan_bytes += blob.bytes;
                    status.cleanup_depth += 1;
                }
                BlobState::Dead => {
                    status.orphan_bytes += blob.bytes;
                    status.dlq_depth += 1;
                }
            }
        }
        let on_it = self.uploads.values().filter(|row| row.is_active() && row.blob.backend == *name);
        status.active_uploads = on_it.count() as u64;
        for ((_, _, _), usage) in self.usage.iter().filter(|((one, month, _), _)| one == name && month == period) {
            status.usage.api_requests += usage.api_requests;
            status.usage.egress_bytes += usage.egress_bytes;
            status.usage.ingress_bytes += usage.ingress_bytes;
        }
        status
    }

    fn blobs_on(&self, backend: &BackendName, after: &str, max: u32) -> Vec<BlobRow> {
        let mut rows: Vec<BlobRow> = self
            .blobs
            .iter()
            .filter(|(_, blob)| blob.backend == *backend && blob.name.as_str() > after)
            .map(|(id, blob)| BlobRow {
                blob: blob.at(*id),
                bucket: blob.key.0.clone(),
                key: blob.key.1.clone(),
                state: blob.state,
                bytes: blob.bytes,
                version: blob.version,
                reason: blob.reason.clone(),
                not_before: blob.not_before,
            })
            .collect();
        rows.sort_by(|a, b| a.blob.name.cmp(&b.blob.name));
        rows.truncate(max as usize);
        rows
    }

    fn audit(&self, name: &BackendName) -> BackendAudit {
        let counted = self.status(name, "");
        BackendAudit {
            name: name.as_str().to_owned(),
            bytes_limit: counted.bytes_limit,
            granted: self.granted(name),
            charged: self.charged(name),
            rows_bytes: self.blobs.values().filter(|blob| blob.backend == *name).map(|blob| blob.bytes).sum(),
            counters: counted.clone(),
            counted,
        }
    }
}

impl Blob {
    fn as_cleanup(&self, id: BlobId) -> CleanupRow {
        CleanupRow {
            blob: self.at(id),
            bucket: self.key.0.clone(),
            key: self.key.1.clone(),
            bytes: self.bytes,
            reason: self.reason.clone(),
            attempts: self.attempts,
            last_error: self.last_error.clone(),
            since: self.doomed_at,
            not_before: self.not_before,
        }
    }

    /// Live, or displaced and in its grace.
    fn is_readable(&self, now: Timestamp) -> bool {
        let in_grace = self.attempts == 0 && self.settle_until <= now && self.not_before > now;
        self.state == BlobState::Live || (self.state == BlobState::Doomed && in_grace)
    }
}

/// None: no object can have this name.
fn key_of(bucket: &str, key: &str) -> Option<Key> {
    Some((BucketName::parse(bucket)?, ObjectKey::parse(key)?))
}
