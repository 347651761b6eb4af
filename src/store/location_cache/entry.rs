//! An entry's bytes: bucket and key, then the located version, each text with its length before it.
//!
//! Reading reuses what the caller's `Located` holds; strings that one record has too many of wait, per thread, for one that
//! has too few.

use super::super::record::{BlobAt, Located, ObjectRecord, StoredChecksum};
use crate::base::{BackendName, BlobId, Timestamp, Version};
use std::cell::RefCell;
use std::sync::OnceLock;

/// Backends that entries can name; blobs on further ones are not cached.
const NAMES_MAX: usize = 256;
/// Strings that wait per thread.
const SPARE_MAX: usize = 128;

/// Backends' names, numbered as they are met; entries hold the number.
#[derive(Debug)]
pub(super) struct Names([OnceLock<BackendName>; NAMES_MAX]);

impl Default for Names {
    fn default() -> Self {
        Self([const { OnceLock::new() }; NAMES_MAX])
    }
}

impl Names {
    /// Only the writer: two would number twice.
    pub(super) fn index_of(&self, name: &BackendName) -> Option<u8> {
        let index = self.0.iter().position(|one| one.get_or_init(|| name.clone()) == name)?;
        u8::try_from(index).ok()
    }

    fn name(&self, index: u8) -> Option<&BackendName> {
        self.0[usize::from(index)].get()
    }
}

// ---- writing -------------------------------------------------------------------------------------------------------------

/// None if something is too long for its length field: that does not fit a slot either.
pub(super) fn write(to: &mut Vec<u8>, names: &Names, bucket: &str, key: &str, located: &Located) -> Option<()> {
    let Located { version, size, etag, modified, record, blobs } = located;
    text(to, bucket)?;
    text(to, key)?;
    to.extend_from_slice(version.as_str().as_bytes());
    to.extend_from_slice(&size.to_le_bytes());
    to.extend_from_slice(&modified.millis.to_le_bytes());
    text(to, etag)?;
    let ObjectRecord { headers, user_metadata, checksums, tags, parts } = record;
    to.extend_from_slice(&parts.to_le_bytes());
    for pairs in [headers, user_metadata, tags] {
        to.push(u8::try_from(pairs.len()).ok()?);
        for (name, value) in pairs {
            text(to, name)?;
            text(to, value)?;
        }
    }
    to.push(u8::try_from(checksums.len()).ok()?);
    for StoredChecksum { algorithm, value, composite } in checksums {
        text(to, algorithm)?;
        text(to, value)?;
        to.push(u8::from(*composite));
    }
    to.push(u8::try_from(blobs.len()).ok()?);
    for BlobAt { id, backend, name, foreign_etag, version_id } in blobs {
        to.extend_from_slice(&id.0.to_le_bytes());
        to.push(names.index_of(backend)?);
        text(to, name)?;
        text(to, foreign_etag)?;
        text(to, version_id)?;
    }
    Some(())
}

fn text(to: &mut Vec<u8>, text: &str) -> Option<()> {
    to.extend_from_slice(&u16::try_from(text.len()).ok()?.to_le_bytes());
    to.extend_from_slice(text.as_bytes());
    Some(())
}

// ---- reading -------------------------------------------------------------------------------------------------------------

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = u16::from_le_bytes(self.array()?);
        self.take(usize::from(length))
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn text_into(&mut self, into: &mut String) -> Option<()> {
        let text = self.text()?;
        into.clear();
        into.push_str(text);
        Some(())
    }
}

/// What follows bucket and key, if the entry is of this key.
pub(super) fn of_key<'a>(entry: &'a [u8], bucket: &str, key: &str) -> Option<&'a [u8]> {
    let mut cursor = Cursor(entry);
    (cursor.bytes()? == bucket.as_bytes() && cursor.bytes()? == key.as_bytes()).then_some(cursor.0)
}

/// None only if an entry were not what `write` made.
pub(super) fn read(entry: &[u8], names: &Names, into: &mut Located) -> Option<()> {
    let mut cursor = Cursor(entry);
    let version = std::str::from_utf8(cursor.take(Version::CHARS)?).ok()?;
    into.version = Version::parse(version)?;
    into.size = u64::from_le_bytes(cursor.array()?);
    into.modified = Timestamp { millis: i64::from_le_bytes(cursor.array()?) };
    cursor.text_into(&mut into.etag)?;
    SPARE.with_borrow_mut(|spare| {
        let ObjectRecord { headers, user_metadata, checksums, tags, parts } = &mut into.record;
        *parts = u16::from_le_bytes(cursor.array()?);
        for pairs in [headers, user_metadata, tags] {
            read_pairs(&mut cursor, spare, pairs)?;
        }
        read_checksums(&mut cursor, spare, checksums)?;
        read_blobs(&mut cursor, spare, names, &mut into.blobs)
    })
}

fn read_pairs(cursor: &mut Cursor<'_>, spare: &mut Spare, pairs: &mut Vec<(String, String)>) -> Option<()> {
    let count = usize::from(cursor.byte()?);
    while pairs.len() > count {
        let (name, value) = pairs.pop().expect("longer than the count");
        spare.put(name);
        spare.put(value);
    }
    pairs.resize_with(count, || (spare.take(), spare.take()));
    for (name, value) in pairs {
        cursor.text_into(name)?;
        cursor.text_into(value)?;
    }
    Some(())
}

fn read_checksums(cursor: &mut Cursor<'_>, spare: &mut Spare, checksums: &mut Vec<StoredChecksum>) -> Option<()> {
    let count = usize::from(cursor.byte()?);
    while checksums.len() > count {
        let StoredChecksum { algorithm, value, .. } = checksums.pop().expect("longer than the count");
        spare.put(algorithm);
        spare.put(value);
    }
    checksums.resize_with(count, || StoredChecksum { algorithm: spare.take(), value: spare.take(), composite: false });
    for one in checksums {
        cursor.text_into(&mut one.algorithm)?;
        cursor.text_into(&mut one.value)?;
        one.composite = cursor.byte()? != 0;
    }
    Some(())
}

fn read_blobs(cursor: &mut Cursor<'_>, spare: &mut Spare, names: &Names, blobs: &mut Vec<BlobAt>) -> Option<()> {
    let count = usize::from(cursor.byte()?);
    while blobs.len() > count {
        let BlobAt { name, foreign_etag, version_id, .. } = blobs.pop().expect("longer than the count");
        for text in [name, foreign_etag, version_id] {
            spare.put(text);
        }
    }
    for i in 0..count {
        let id = BlobId(i64::from_le_bytes(cursor.array()?));
        let backend = names.name(cursor.byte()?)?;
        if i == blobs.len() {
            blobs.push(BlobAt {
                id,
                backend: backend.clone(),
                name: spare.take(),
                foreign_etag: spare.take(),
                version_id: spare.take(),
            });
        }
        let blob = &mut blobs[i];
        blob.id = id;
        if blob.backend != *backend {
            blob.backend = backend.clone(); // a count that cores share: touched only when it must be
        }
        cursor.text_into(&mut blob.name)?;
        cursor.text_into(&mut blob.foreign_etag)?;
        cursor.text_into(&mut blob.version_id)?;
    }
    Some(())
}

thread_local! {
    static SPARE: RefCell<Spare> = const { RefCell::new(Spare(Vec::new())) };
}

/// Strings with their buffers, for the next record that needs more of them.
struct Spare(Vec<String>);

impl Spare {
    fn put(&mut self, text: String) {
        if self.0.len() < SPARE_MAX {
            self.0.push(text);
        }
    }

    fn take(&mut self) -> String {
        self.0.pop().unwrap_or_default()
    }
}
