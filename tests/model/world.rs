//! What S3 is, in memory: plain maps and the rules of its documentation, nothing of the product's.

use super::action::{Body, Facts};
use super::server::BUCKETS;
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
    /// As the server told it when the object was first read.
    pub modified: Option<String>,
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
    pub bucket: usize,
    pub key: String,
    /// Of the object to be; without bytes.
    pub object: Object,
    /// Bytes and ETag.
    pub parts: BTreeMap<u16, (Arc<[u8]>, String)>,
    pub stage: Stage,
}

#[derive(Default)]
pub struct World {
    pub buckets: [BTreeMap<String, Object>; BUCKETS.len()],
    pub uploads: Vec<Upload>,
}

impl World {
    pub fn object(&self, bucket: usize, key: &str) -> Option<&Object> {
        self.buckets[bucket].get(key)
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

    pub fn object(self, bytes: Arc<[u8]>) -> Object {
        Object {
            etag: md5_hex(&bytes),
            bytes,
            content_type: self.content_type().unwrap_or("binary/octet-stream").to_owned(),
            metadata: self.metadata(),
            tags: tags(self.tags),
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

/// A listing's entry: a key or a common prefix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    Key(String),
    Prefix(String),
}

impl Entry {
    pub fn text(&self) -> &str {
        match self {
            Self::Key(text) | Self::Prefix(text) => text,
        }
    }
}

/// Everything behind `after` in the order of bytes, by the definition.
pub fn entries(objects: &BTreeMap<String, Object>, prefix: &str, delimiter: &str, after: &str) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    for key in objects.keys().filter(|key| key.starts_with(prefix)) {
        let rest = &key[prefix.len()..];
        let entry = match rest.find(delimiter).filter(|_| !delimiter.is_empty()) {
            Some(at) => Entry::Prefix(key[..prefix.len() + at + delimiter.len()].to_owned()),
            None => Entry::Key(key.clone()),
        };
        let is_new = found.last() != Some(&entry);
        if is_new && entry.text() > after {
            found.push(entry);
        }
    }
    found
}
