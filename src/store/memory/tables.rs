//! The rows, and the few moves that every change is made of: charge, choose a backend, doom, make live.

use super::super::lending::Lent;
use super::super::port::{
    Applied, BatchId, BucketRow, Candidate, Committed, Overtaken, Refusal, Rules, UploadState, Usage, WriteCondition,
};
use super::super::record::{BackendFacts, BlobAt, BlobState, ObjectRecord, PartRecord};
use crate::base::{
    BackendName, BlobId, BucketName, Incarnation, Nonce, ObjectKey, PartNumber, Timestamp, UploadId, Version,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

pub(in crate::store) type Key = (BucketName, ObjectKey);

#[derive(Debug, Default, Clone, PartialEq)]
pub(in crate::store) struct Backend {
    /// 0 = unlimited.
    pub(in crate::store) bytes_limit: u64,
    pub(in crate::store) draining: bool,
    pub(in crate::store) drained: bool,
    pub(in crate::store) facts: BackendFacts,
}

/// What an incarnation may charge to a backend without asking the others, and what it has. Bytes that another incarnation
/// charged may be released here, so `charged` may be below zero; only the sums mean something.
#[derive(Debug, Default, Clone, Copy)]
pub(in crate::store) struct Share {
    pub(in crate::store) granted: i64,
    pub(in crate::store) charged: i64,
}

/// A live version. Its row ends with its being live: what is left of it are blobs.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::store) struct Live {
    pub(in crate::store) version: Version,
    pub(in crate::store) size: u64,
    pub(in crate::store) etag: String,
    pub(in crate::store) modified: Timestamp,
    pub(in crate::store) record: ObjectRecord,
}

#[derive(Debug, Clone, PartialEq)]
pub(in crate::store) struct Blob {
    pub(in crate::store) backend: BackendName,
    pub(in crate::store) name: String,
    pub(in crate::store) key: Key,
    pub(in crate::store) version: Version,
    pub(in crate::store) state: BlobState,
    pub(in crate::store) bytes: u64,
    /// Who reserved it. None: an upload's, which has no lease.
    pub(in crate::store) owner: Option<Incarnation>,
    /// A later version or a delete was committed while it was reserved.
    pub(in crate::store) superseded: Overtaken,
    pub(in crate::store) upload: Option<UploadId>,
    pub(in crate::store) backend_upload: String,
    pub(in crate::store) version_id: String,
    /// Of an object that somebody else put there.
    pub(in crate::store) foreign_etag: String,
    /// Its upload never made an object of it.
    pub(in crate::store) abort_uploads: bool,
    pub(in crate::store) doomed_at: Timestamp,
    pub(in crate::store) not_before: Timestamp,
    /// Until then bytes may appear that nobody waits for. Before 1970: none will.
    pub(in crate::store) settle_until: Timestamp,
    pub(in crate::store) attempts: u32,
    pub(in crate::store) last_error: String,
    pub(in crate::store) reason: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(in crate::store) struct Attempt {
    pub(in crate::store) nonce: Nonce,
    pub(in crate::store) incarnation: Incarnation,
    pub(in crate::store) size: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub(in crate::store) struct UploadRow {
    pub(in crate::store) key: Key,
    pub(in crate::store) blob: BlobAt,
    pub(in crate::store) backend_upload: String,
    pub(in crate::store) record: ObjectRecord,
    pub(in crate::store) checksum_algorithm: Option<String>,
    pub(in crate::store) checksum_full_object: bool,
    pub(in crate::store) initiated: Timestamp,
    pub(in crate::store) state: UploadState,
    /// While completing and after.
    pub(in crate::store) manifest: Vec<(PartNumber, String)>,
    pub(in crate::store) version: Version,
    pub(in crate::store) parts: BTreeMap<u16, PartRecord>,
    pub(in crate::store) attempts: BTreeMap<PartNumber, Attempt>,
    /// What `FinishComplete` answered, with the final ETag and record.
    pub(in crate::store) finished: Option<(Committed, String, ObjectRecord)>,
    pub(in crate::store) ended: Timestamp,
}

#[derive(Debug, Clone)]
pub(in crate::store) struct Tables {
    pub(in crate::store) rules: Rules,
    pub(in crate::store) deployment: Option<String>,
    /// Restored from a backup: nothing is deleted until `sync` has run.
    pub(in crate::store) restored: bool,
    /// The month of whose budgets more may have been lent than is known here; empty: none.
    pub(in crate::store) budgets_in_doubt: String,
    /// The incarnation that lives; the last one registered.
    pub(in crate::store) current: Incarnation,
    pub(in crate::store) backends: BTreeMap<BackendName, Backend>,
    pub(in crate::store) shares: BTreeMap<(BackendName, Incarnation), Share>,
    pub(in crate::store) versions: BTreeMap<Key, Live>,
    pub(in crate::store) blobs: BTreeMap<BlobId, Blob>,
    pub(in crate::store) blobs_of: BTreeMap<Key, BTreeSet<BlobId>>,
    pub(in crate::store) last_blob: i64,
    pub(in crate::store) uploads: BTreeMap<UploadId, UploadRow>,
    /// Active uploads per bucket that are not in `uploads`: none, unless these are some rows of a larger database.
    pub(in crate::store) uploads_elsewhere: BTreeMap<BucketName, usize>,
    pub(in crate::store) buckets: BTreeMap<BucketName, BucketRow>,
    pub(in crate::store) buckets_generation: u64,
    pub(in crate::store) usage: BTreeMap<(BackendName, String, Incarnation), Usage>,
    /// By backend, month, counter and incarnation.
    pub(in crate::store) budgets: BTreeMap<(BackendName, String, String, Incarnation), Lent>,
    pub(in crate::store) batches: HashMap<BatchId, (Timestamp, Applied)>,
    /// Backends whose charge the running batch has changed.
    pub(in crate::store) touched: BTreeSet<BackendName>,
    /// Bytes that the running batch has charged whatever the limits say, because they are there.
    pub(in crate::store) found: BTreeMap<BackendName, i64>,
}

impl Tables {
    pub(in crate::store) fn new(rules: Rules) -> Self {
        Self {
            rules,
            deployment: None,
            restored: false,
            budgets_in_doubt: String::new(),
            current: Incarnation(0),
            backends: BTreeMap::new(),
            shares: BTreeMap::new(),
            versions: BTreeMap::new(),
            blobs: BTreeMap::new(),
            blobs_of: BTreeMap::new(),
            last_blob: 0,
            uploads: BTreeMap::new(),
            uploads_elsewhere: BTreeMap::new(),
            buckets: BTreeMap::new(),
            buckets_generation: 0,
            usage: BTreeMap::new(),
            budgets: BTreeMap::new(),
            batches: HashMap::new(),
            touched: BTreeSet::new(),
            found: BTreeMap::new(),
        }
    }

    pub(in crate::store) fn blobs_of(&self, key: &Key) -> impl Iterator<Item = (BlobId, &Blob)> {
        self.blobs_of.get(key).into_iter().flatten().map(|id| (*id, &self.blobs[id]))
    }

    /// The highest version of a key that a row names: what the next one must be above.
    pub(in crate::store) fn floor(&self, key: &Key) -> Option<Version> {
        self.blobs_of(key).map(|(_, blob)| blob.version).max()
    }

    // ---- charges -------------------------------------------------------------------------------------------------

    pub(in crate::store) fn charged(&self, backend: &BackendName) -> i64 {
        self.shares.iter().filter(|((name, _), _)| name == backend).map(|(_, share)| share.charged).sum()
    }

    pub(in crate::store) fn granted(&self, backend: &BackendName) -> i64 {
        self.shares.iter().filter(|((name, _), _)| name == backend).map(|(_, share)| share.granted).sum()
    }

    pub(in crate::store) fn charged_of_touched(&self) -> Vec<(BackendName, u64)> {
        let bytes = |name| u64::try_from(self.charged(name)).expect("the charges of a backend are never below zero");
        self.touched.iter().map(|name| (name.clone(), bytes(name))).collect()
    }

    /// Bytes that the living incarnation could still charge: what its share has left and what nobody was granted.
    pub(in crate::store) fn room(&self, name: &BackendName) -> i64 {
        let Some(backend) = self.backends.get(name) else { return 0 };
        if backend.bytes_limit == 0 {
            return i64::MAX;
        }
        let share = self.shares.get(&(name.clone(), self.current)).copied().unwrap_or_default();
        let unallocated = (backend.bytes_limit as i64 - self.granted(name)).max(0);
        share.granted + unallocated - share.charged
    }

    /// Adds to what the living incarnation has charged (or takes away), refilling its share where that is needed.
    /// Callers have checked `room`.
    pub(in crate::store) fn charge(&mut self, name: &BackendName, bytes: i64) {
        let limit = self.backends[name].bytes_limit as i64;
        let share = self.shares.entry((name.clone(), self.current)).or_default();
        share.charged += bytes;
        if limit > 0 && bytes > 0 {
            share.granted = share.granted.max(share.charged);
            assert!(self.granted(name) <= limit, "the shares of {name:?} exceed its limit");
        }
        if bytes != 0 {
            self.touched.insert(name.clone());
        }
    }

    /// Charges bytes that are there already, above the limit if need be.
    pub(super) fn charge_found(&mut self, name: &BackendName, bytes: i64) {
        *self.found.entry(name.clone()).or_default() += bytes;
        let limit = self.backends[name].bytes_limit as i64;
        let unallocated = (limit - self.granted(name)).max(0);
        let share = self.shares.entry((name.clone(), self.current)).or_default();
        share.charged += bytes;
        if limit > 0 {
            share.granted = share.granted.max(share.charged.min(share.granted + unallocated));
        }
        if bytes != 0 {
            self.touched.insert(name.clone());
        }
    }

    /// The first candidate that has room for `size` bytes. With `shorten_grace`, and if none has, displaced bytes that
    /// would make room are made due at once: `NoSpaceYet`.
    pub(in crate::store) fn choose(
        &mut self,
        now: Timestamp,
        candidates: &[Candidate],
        size: u64,
        shorten_grace: bool,
    ) -> Result<Candidate, Refusal> {
        let takes = |one: &&Candidate| self.backends.get(&one.backend).is_some_and(|backend| !backend.draining);
        let able: Vec<Candidate> = candidates.iter().filter(takes).cloned().collect();
        if let Some(one) = able.iter().find(|one| self.room(&one.backend) >= size as i64) {
            return Ok(one.clone());
        }
        if shorten_grace && able.iter().any(|one| self.make_room_due(now, &one.backend, size)) {
            return Err(Refusal::NoSpaceYet);
        }
        Err(Refusal::NoSpace)
    }

    /// Makes due as many displaced blobs, the oldest first, as give room for `size` bytes when they are gone; false if all
    /// of them would not. Those that failed to be deleted, or may still appear, are not counted on.
    fn make_room_due(&mut self, now: Timestamp, backend: &BackendName, size: u64) -> bool {
        let mut missing = size as i64 - self.room(backend);
        let free_soon = |blob: &Blob| {
            blob.backend == *backend
                && blob.state == BlobState::Doomed
                && blob.attempts == 0
                && blob.settle_until <= now
        };
        let mut doomed: Vec<_> =
            self.blobs.iter().filter(|(_, blob)| free_soon(blob)).map(|(id, blob)| (blob.not_before, *id)).collect();
        doomed.sort();
        let mut due = Vec::new();
        for (_, id) in doomed {
            if missing > 0 {
                missing -= self.blobs[&id].bytes as i64;
                due.push(id);
            }
        }
        if missing > 0 {
            return false;
        }
        for id in due {
            let blob = self.blobs.get_mut(&id).expect("listed above");
            blob.not_before = blob.not_before.min(now);
        }
        true
    }

    // ---- blobs ---------------------------------------------------------------------------------------------------

    pub(in crate::store) fn add_blob(&mut self, blob: Blob) -> BlobAt {
        self.last_blob += 1;
        let id = BlobId(self.last_blob);
        self.charge(&blob.backend.clone(), blob.bytes as i64);
        let at = blob.at(id);
        self.blobs_of.entry(blob.key.clone()).or_default().insert(id);
        self.blobs.insert(id, blob);
        at
    }

    /// Only cleanup ends a row.
    pub(in crate::store) fn end_blob(&mut self, id: BlobId) {
        let blob = self.blobs.remove(&id).expect("only a known blob ends");
        let siblings = self.blobs_of.get_mut(&blob.key).expect("every blob is listed under its key");
        siblings.remove(&id);
        if siblings.is_empty() {
            self.blobs_of.remove(&blob.key);
        }
        self.charge(&blob.backend, -(blob.bytes as i64));
    }

    /// Its bytes are to be deleted from `not_before` on. `may_appear`: they may still arrive, for the settle time.
    pub(in crate::store) fn doom(
        &mut self,
        now: Timestamp,
        id: BlobId,
        not_before: Timestamp,
        may_appear: bool,
        reason: &str,
    ) {
        let settle_until = now.plus(self.rules.settle);
        let blob = self.blobs.get_mut(&id).expect("only a known blob is doomed");
        assert!(matches!(blob.state, BlobState::Reserved | BlobState::Live), "a blob is doomed once");
        blob.abort_uploads = blob.upload.is_some() && blob.state == BlobState::Reserved;
        blob.state = BlobState::Doomed;
        (blob.doomed_at, blob.not_before) = (now, not_before);
        blob.reason = reason.to_owned();
        if may_appear {
            blob.settle_until = settle_until;
        }
    }

    /// Ends the key's live version, if any: its blobs are doomed with the grace.
    pub(in crate::store) fn displace(&mut self, now: Timestamp, key: &Key, reason: &str) {
        let Some(old) = self.versions.remove(key) else { return };
        let of_old = |blob: &Blob| blob.version == old.version && blob.state == BlobState::Live;
        let displaced: Vec<_> = self.blobs_of(key).filter(|(_, blob)| of_old(blob)).map(|(id, _)| id).collect();
        for id in displaced {
            self.doom(now, id, now.plus(self.rules.grace), false, reason);
        }
    }

    /// Marks the key's writes under way below `below` (None: all of them). An upload is one only while it is completing.
    pub(in crate::store) fn supersede(&mut self, key: &Key, below: Option<Version>, by: Overtaken) {
        let ids: Vec<_> = self.blobs_of(key).map(|(id, _)| id).collect();
        for id in ids {
            let blob = self.blobs.get_mut(&id).expect("listed above");
            let under_way = match &blob.upload {
                None => true,
                Some(upload) => self.uploads.get(upload).is_some_and(|row| row.state == UploadState::Completing),
            };
            if blob.state == BlobState::Reserved && under_way && below.is_none_or(|below| blob.version < below) {
                blob.superseded = blob.superseded.max(by);
            }
        }
    }

    /// PROTOCOL.md, "A write", 3: the version becomes live, the former one is displaced, lower ones are superseded.
    pub(in crate::store) fn make_live(
        &mut self,
        now: Timestamp,
        key: &Key,
        blobs: &[BlobId],
        live: Live,
        condition: &WriteCondition,
    ) -> Committed {
        self.displace(now, key, "overwritten");
        self.supersede(key, Some(live.version), Overtaken::by(condition));
        for id in blobs {
            let blob = self.blobs.get_mut(id).expect("a commit's blobs were looked up");
            blob.state = BlobState::Live;
            blob.owner = None;
            blob.settle_until = Timestamp::default();
        }
        let committed = Committed::Live { version: live.version, modified: live.modified };
        self.versions.insert(key.clone(), live);
        committed
    }
}

impl Blob {
    pub(in crate::store) fn at(&self, id: BlobId) -> BlobAt {
        BlobAt {
            id,
            backend: self.backend.clone(),
            name: self.name.clone(),
            foreign_etag: self.foreign_etag.clone(),
            version_id: self.version_id.clone(),
        }
    }
}
