//! What the stub remembers: of bodies that can be made anew, size and seed; small ones of another kind as they are. No IO.

use crate::body;
use s3_orchestrator::proto::checksum::{Algorithm, Digester};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Bodies up to this size are looked at whole.
pub(super) const KEEP_BYTES: u64 = 64 * 1024;
/// The ETag of a body that was not hashed.
pub(super) const UNHASHED_ETAG: &str = "0123456789abcdef0123456789abcdef";

#[derive(Clone)]
pub(super) struct Object {
    pub(super) body: Body,
    pub(super) etag: Cow<'static, str>,
}

#[derive(Clone)]
pub(super) enum Body {
    Kept(Arc<[u8]>),
    Made { seed: u64, size: u64 },
}

impl Object {
    /// A small one. Memory that nobody has touched before costs a virtual machine more than all else that the stub does.
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        let etag = md5_of(&bytes).into();
        let seed = bytes.first_chunk().map(|first| u64::from_le_bytes(*first));
        let body = match seed.filter(|seed| body::matches(*seed, 0, &bytes)) {
            Some(seed) => Body::Made { seed, size: bytes.len() as u64 },
            None => Body::Kept(bytes.into()),
        };
        Self { body, etag }
    }

    /// One whose bytes nobody has looked at.
    pub(super) fn unhashed(seed: u64, size: u64) -> Self {
        Self { body: Body::Made { seed, size }, etag: UNHASHED_ETAG.into() }
    }

    pub(super) fn size(&self) -> u64 {
        match &self.body {
            Body::Kept(bytes) => bytes.len() as u64,
            Body::Made { size, .. } => *size,
        }
    }
}

/// A part of an upload: its size, and the seed that its first bytes say if it is the first one.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) size: u64,
    pub(super) seed: u64,
}

/// All objects by `/bucket/key` as it stood on the wire, and all uploads.
#[derive(Default)]
pub(super) struct Objects {
    objects: RwLock<BTreeMap<String, Object>>,
    uploads: RwLock<BTreeMap<String, BTreeMap<u16, Part>>>,
    next_upload: AtomicU64,
}

/// A page of keys, and where the next one begins.
pub(super) struct Page {
    pub(super) keys: Vec<(String, u64, String)>,
    pub(super) next: Option<String>,
}

impl Objects {
    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Object>> {
        self.objects.read().expect("no poisoned lock")
    }

    fn uploads(&self) -> RwLockWriteGuard<'_, BTreeMap<String, BTreeMap<u16, Part>>> {
        self.uploads.write().expect("no poisoned lock")
    }

    pub(super) fn find(&self, path: &str) -> Option<Object> {
        self.read().get(path).cloned()
    }

    pub(super) fn insert(&self, path: &str, object: Object) {
        self.objects.write().expect("no poisoned lock").insert(path.to_owned(), object);
    }

    pub(super) fn remove(&self, path: &str) {
        self.objects.write().expect("no poisoned lock").remove(path);
    }

    /// `max` keys of a bucket (`/name/`) below `prefix` and after `after`.
    pub(super) fn page(&self, bucket: &str, prefix: &str, after: &str, max: usize) -> Page {
        let below = format!("{bucket}{prefix}");
        let from = below.clone().max(format!("{bucket}{after}"));
        let from = if after.is_empty() { Bound::Included(from) } else { Bound::Excluded(from) };
        let objects = self.read();
        let mut found = objects.range((from, Bound::Unbounded)).take_while(|(path, _)| path.starts_with(&below));
        let key = |path: &str| path[bucket.len()..].to_owned();
        let keys: Vec<_> = found
            .by_ref()
            .take(max)
            .map(|(path, object)| (key(path), object.size(), object.etag.to_string()))
            .collect();
        let next = found.next().and_then(|_| keys.last().map(|(key, ..)| key.clone()));
        Page { keys, next }
    }

    pub(super) fn create_upload(&self) -> String {
        let id = format!("u{}", self.next_upload.fetch_add(1, Ordering::Relaxed));
        self.uploads().insert(id.clone(), BTreeMap::new());
        id
    }

    /// False if there is no such upload.
    pub(super) fn add_part(&self, upload: &str, number: u16, part: Part) -> bool {
        self.uploads().get_mut(upload).map(|parts| parts.insert(number, part)).is_some()
    }

    /// Makes the object of all parts; how many there were, None if there is no such upload.
    pub(super) fn complete(&self, upload: &str, path: &str) -> Option<usize> {
        let parts = self.uploads().remove(upload)?;
        let seed = parts.values().next().map_or(0, |part| part.seed);
        self.insert(path, Object::unhashed(seed, parts.values().map(|part| part.size).sum()));
        Some(parts.len())
    }

    pub(super) fn abort(&self, upload: &str) {
        self.uploads().remove(upload);
    }
}

/// Whether a body has the SHA-256 and the checksums that its fields (lower-case names) declare; S3's error code if not.
pub(super) fn check_declared(
    bytes: &[u8],
    sha256: Option<&str>,
    sums: &[(Algorithm, String)],
) -> Result<(), &'static str> {
    let sha256 = sha256.filter(|text| text.len() == 64);
    if sha256.is_some_and(|text| text != hex(Digester::of(Algorithm::Sha256, bytes).as_bytes())) {
        return Err("XAmzContentSHA256Mismatch");
    }
    let right = |(algorithm, value): &(Algorithm, String)| Digester::of(*algorithm, bytes).to_base64() == *value;
    if sums.iter().all(right) { Ok(()) } else { Err("BadDigest") }
}

fn md5_of(bytes: &[u8]) -> String {
    hex(Digester::of(Algorithm::Md5, bytes).as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
