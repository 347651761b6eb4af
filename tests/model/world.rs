//! What S3 is, in memory: plain maps and the rules of its documentation, nothing of the product's.

use super::action::{Body, Declared, Facts, Place};
use super::server::BUCKETS;
use super::sums::Kind;
use md5::{Digest, Md5};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, PartialEq, Debug)]
pub struct Object {
    pub bytes: Arc<[u8]>,
    pub etag: String,
    pub content_type: String,
    pub metadata: Vec<(String, String)>,
    pub tags: Vec<(String, String)>,
    pub sum: Option<Sum>,
    /// Number, length and checksum of those that it was uploaded in; none of an object that is one piece.
    pub parts: Vec<(u16, usize, Option<Sum>)>,
    /// As the server told it when the object was first read.
    pub modified: Option<String>,
}

/// A checksum that is kept, in base64; a composite one with its number of parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sum {
    pub kind: Kind,
    pub value: String,
    pub composite: bool,
}

impl Sum {
    pub fn of(kind: Kind, bytes: &[u8]) -> Self {
        Self { kind, value: kind.of(bytes), composite: false }
    }

    pub fn type_name(&self) -> &'static str {
        if self.composite { "COMPOSITE" } else { "FULL_OBJECT" }
    }
}

impl Declared {
    pub fn type_name(self) -> &'static str {
        if self.full { "FULL_OBJECT" } else { "COMPOSITE" }
    }
}

#[derive(Clone, PartialEq, Debug)]
pub struct Part {
    pub bytes: Arc<[u8]>,
    pub etag: String,
    pub sum: Option<Sum>,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Stage {
    Open,
    /// The parts that were named and the ETag that was answered.
    Done(Vec<(u16, String)>, String),
    Aborted,
}

#[derive(Clone, Debug)]
pub struct Upload {
    pub id: String,
    pub at: Place,
    /// Of the object to be; without bytes.
    pub object: Object,
    pub declared: Option<Declared>,
    pub parts: BTreeMap<u16, Part>,
    pub stage: Stage,
}

pub type Objects = BTreeMap<String, Object>;

pub struct World {
    /// None: there is no such bucket.
    pub buckets: [Option<Objects>; BUCKETS.len()],
    /// In the order in which they were begun.
    pub uploads: Vec<Upload>,
}

impl Default for World {
    fn default() -> Self {
        let mut buckets = [const { None }; BUCKETS.len()];
        buckets[0] = Some(Objects::new());
        Self { buckets, uploads: Vec::new() }
    }
}

impl World {
    pub fn object(&self, bucket: usize, key: &str) -> Option<&Object> {
        self.buckets[bucket].as_ref()?.get(key)
    }

    pub fn insert(&mut self, bucket: usize, key: &str, object: Object) {
        let objects = self.buckets[bucket].as_mut().expect("the bucket was looked for before");
        objects.insert(key.to_owned(), object);
    }
}

impl Facts {
    pub fn content_type(self) -> Option<&'static str> {
        self.content_type.then_some("text/x-model; charset=utf-8")
    }

    /// Sorted by name.
    pub fn metadata(self) -> Vec<(String, String)> {
        (0..self.metadata).map(|i| (format!("name-{i}"), format!("value {i} of {}", self.metadata))).collect()
    }

    pub fn object(self, bytes: Arc<[u8]>, sum: Option<Sum>) -> Object {
        Object {
            etag: md5_hex(&bytes),
            bytes,
            content_type: self.content_type().unwrap_or("binary/octet-stream").to_owned(),
            metadata: self.metadata(),
            tags: tags(self.tags),
            sum,
            parts: Vec::new(),
            modified: None,
        }
    }
}

/// Sorted by name.
pub fn tags(count: u8) -> Vec<(String, String)> {
    (0..count).map(|i| (format!("tag {i}"), if i == 1 { String::new() } else { format!("of {count}") })).collect()
}

pub fn md5_of(bytes: &[u8]) -> [u8; 16] {
    Md5::digest(bytes).into()
}

pub fn md5_hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&md5_of(bytes))
}

/// "Checking object integrity": the MD5 of the parts' MD5s, and their number.
pub fn etag_of_parts<'a>(parts: impl Iterator<Item = &'a [u8]>) -> String {
    let digests: Vec<[u8; 16]> = parts.map(md5_of).collect();
    format!("{}-{}", md5_hex(&digests.concat()), digests.len())
}

impl Body {
    pub fn etag(self) -> String {
        md5_hex(&self.bytes())
    }
}

/// A listing's entry: a key with what tells it from others of that key, or a common prefix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    Key(String, String),
    Prefix(String),
}

impl Entry {
    pub fn text(&self) -> &str {
        match self {
            Self::Key(text, _) | Self::Prefix(text) => text,
        }
    }
}

/// Everything behind `after` in the order of bytes, by the definition. `keys` are in order, each with its id, if it has one.
pub fn entries<'k>(
    keys: impl Iterator<Item = (&'k str, &'k str)>,
    prefix: &str,
    delimiter: &str,
    after: &str,
) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    for (key, id) in keys.filter(|(key, _)| key.starts_with(prefix)) {
        let rest = &key[prefix.len()..];
        let entry = match rest.find(delimiter).filter(|_| !delimiter.is_empty()) {
            Some(at) => Entry::Prefix(key[..prefix.len() + at + delimiter.len()].to_owned()),
            None => Entry::Key(key.to_owned(), id.to_owned()),
        };
        let is_new = found.last() != Some(&entry);
        if is_new && entry.text() > after {
            found.push(entry);
        }
    }
    found
}
