//! What the desk does with the locations that it learns.
//!
//! Exact where no other process writes to the database: a key is absent from before the batch that may alter it until its
//! outcome is known, and what is there may be answered instead of asking. A memory where others do: it keeps what lookups and
//! writes of this process have told, and another's overwrite makes it old. Reads take from it while the database does not
//! answer; before that only what is young enough, if the configuration says what that is, and nothing that a batch may alter.

use super::super::change::{CommitWrite, Committed, CompleteStarted, FinishComplete};
use super::super::location_cache::{CacheWriter, Place};
use super::super::port::{Change, Outcome};
use super::super::record::{BlobAt, Located, ObjectRecord};
use crate::base::{BlobId, Tick, UploadId};
use std::collections::HashMap;

/// Writes under way that are remembered, per kind; beyond, all are forgotten, and what they write is not remembered.
const UNDER_WAY_MAX: usize = 16 * 1024;

#[derive(Debug)]
pub enum Locations {
    None,
    Exact(CacheWriter),
    Memory(Memory),
}

#[derive(Debug)]
pub struct Memory {
    writer: CacheWriter,
    /// Where the blobs of writes under way are, with the sizes of their objects.
    blobs: HashMap<BlobId, (BlobAt, u64)>,
    uploads: HashMap<UploadId, (BlobAt, u64)>,
}

impl Locations {
    pub fn memory(writer: CacheWriter) -> Self {
        Self::Memory(Memory { writer, blobs: HashMap::new(), uploads: HashMap::new() })
    }

    /// Before a batch.
    pub(super) fn hold(&mut self, changes: &[Change]) {
        for (bucket, key) in changes.iter().filter_map(Change::alters) {
            match self {
                Self::None => {}
                Self::Exact(writer) => writer.hold(bucket.as_str(), key.as_str()),
                Self::Memory(memory) => memory.writer.distrust(bucket.as_str(), key.as_str()),
            }
        }
    }

    /// When its outcome is known, before anybody is told.
    pub(super) fn release(&mut self, changes: &[Change]) {
        for (bucket, key) in changes.iter().filter_map(Change::alters) {
            match self {
                Self::None => {}
                Self::Exact(writer) => writer.release(bucket.as_str(), key.as_str()),
                Self::Memory(memory) => memory.writer.trust_again(bucket.as_str(), key.as_str()),
            }
        }
    }

    /// When a lookup is sent.
    pub(super) fn place(&self, bucket: &str, key: &str, now: Tick) -> Option<Place> {
        match self {
            Self::None => None,
            Self::Exact(writer) | Self::Memory(Memory { writer, .. }) => Some(writer.place(bucket, key, now)),
        }
    }

    /// When it was answered.
    pub(super) fn looked_up(&mut self, place: Place, bucket: &str, key: &str, found: Option<&Located>) {
        match (self, found) {
            (Self::Exact(writer) | Self::Memory(Memory { writer, .. }), Some(located)) => {
                writer.fill(place, bucket, key, located);
            }
            (Self::Memory(memory), None) => memory.writer.found_nothing(place),
            _ => {}
        }
    }

    /// A change was carried out, by a batch that was sent at `began` or later.
    pub(super) fn done(&mut self, change: &Change, outcome: &Outcome, began: Tick) {
        if let Self::Memory(memory) = self {
            memory.done(change, outcome, began);
        }
    }
}

impl Memory {
    fn done(&mut self, change: &Change, outcome: &Outcome, began: Tick) {
        match (change, outcome) {
            (Change::BeginWrite(begin), Outcome::BeginWrite(Ok(begun))) => {
                put(&mut self.blobs, begun.blob.id, (begun.blob.clone(), begin.size));
            }
            (Change::AbandonWrite(one), _) => drop(self.blobs.remove(&one.given_up.blob)),
            (Change::CommitWrite(commit), Outcome::CommitWrite(Ok(done))) => self.written(commit, *done, began),
            (_, Outcome::StartComplete(Ok(CompleteStarted::Go { upload, parts, .. }))) => {
                let size = parts.iter().map(|part| part.size).sum();
                put(&mut self.uploads, upload.upload.clone(), (upload.blob.clone(), size));
            }
            (Change::FinishComplete(finish), Outcome::FinishComplete(Ok(done))) => self.completed(finish, *done, began),
            (Change::Delete(one), Outcome::Delete(Ok(_))) => self.writer.forget(one.bucket.as_str(), one.key.as_str()),
            _ => {}
        }
    }

    fn written(&mut self, commit: &CommitWrite, done: Committed, began: Tick) {
        let (mut blobs, mut size) = (Vec::with_capacity(commit.blobs.len()), 0);
        for written in &commit.blobs {
            if let Some((blob, bytes)) = self.blobs.remove(&written.blob) {
                blobs.push(BlobAt { version_id: written.version_id.clone(), ..blob });
                size = bytes;
            }
        }
        let CommitWrite { bucket, key, etag, record, .. } = commit;
        self.remember((bucket.as_str(), key.as_str()), (done, began), (etag, record), (blobs, size));
    }

    fn completed(&mut self, finish: &FinishComplete, done: Committed, began: Tick) {
        let under_way = self.uploads.remove(&finish.upload);
        let (blobs, size) = under_way.map_or((Vec::new(), 0), |(blob, size)| {
            (vec![BlobAt { version_id: finish.version_id.clone(), ..blob }], size)
        });
        let FinishComplete { bucket, key, etag, record, .. } = finish;
        self.remember((bucket.as_str(), key.as_str()), (done, began), (etag, record), (blobs, size));
    }

    /// What was written, if it lives and it is known where; else the key is forgotten, for what is remembered is older.
    fn remember(
        &mut self,
        (bucket, key): (&str, &str),
        (done, began): (Committed, Tick),
        (etag, record): (&str, &ObjectRecord),
        (blobs, size): (Vec<BlobAt>, u64),
    ) {
        self.writer.forget(bucket, key);
        if let (Committed::Live { version, modified }, false) = (done, blobs.is_empty()) {
            let located = Located { version, size, etag: etag.to_owned(), modified, record: record.clone(), blobs };
            let place = self.writer.place(bucket, key, began);
            self.writer.fill(place, bucket, key, &located);
        }
    }
}

fn put<K: std::hash::Hash + Eq>(under_way: &mut HashMap<K, (BlobAt, u64)>, by: K, what: (BlobAt, u64)) {
    if under_way.len() >= UNDER_WAY_MAX {
        under_way.clear();
    }
    under_way.insert(by, what);
}
