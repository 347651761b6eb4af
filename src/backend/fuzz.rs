//! Fuzz entries of this layer (`crate::fuzz`): names of blobs and their paths, and what is read back from a backend.

use super::directory::manifest::Manifest;
use super::directory::paths::{self, BlobPath};
use super::port::Span;
use super::travel::{self, Label, Luggage};
use crate::base::{Nonce, Version, blob_name};

pub const TARGETS: &[(&str, fn(&[u8]))] =
    &[("key_codec", key_codec), ("manifest", manifest), ("label", label), ("travelled", travelled)];

/// Two keys, parted by a line end: their blobs' names lie under different stems and say their version; every name, and the
/// input as a name, has a legal path of its own inside the directory, none on the way to another.
pub fn key_codec(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (one, other) = text.split_once('\n').unwrap_or((text, ""));
    let (version, nonce) = (Version::from_parts(1, 1), Nonce::from_roll(7));
    let mint = |key: &str| {
        let literal = blob_name::can_be_literal("bkt", key, 1024);
        (blob_name::stem("bkt", key, literal), blob_name::mint("bkt", key, literal, version, nonce))
    };
    let ((stem, name), (_, other_name)) = (mint(one), mint(other));
    assert_eq!(blob_name::version_of(&name), Some(version));
    assert_eq!(other_name.starts_with(&format!("{stem}0")), one == other);
    assert!(name.len() <= 1024);
    let _ = blob_name::version_of(text);
    let (path, other_path) = (path_of(&name), path_of(&other_name));
    assert_eq!(path == other_path, one == other);
    assert!(!other_path.starts_with(&format!("{path}/")), "{path} is a directory on the way to {other_path}");
    if let Some(pieces) = path_of(text).strip_prefix(paths::ESCAPED_ROOT) {
        let hex = pieces.replace('/', "");
        assert_eq!(paths::from_hex(paths::escaped_end(&hex).expect("the end mark")).as_deref(), Some(text));
    }
}

/// A blob's path, after the checks that it is inside the directory and a path that a file system takes.
fn path_of(name: &str) -> String {
    let at = BlobPath::of(name);
    let path = if at.parent.is_empty() { at.leaf.clone() } else { format!("{}/{}", at.parent, at.leaf) };
    for segment in path.split('/').chain([at.temporary.as_str(), at.parts.as_str()]) {
        assert!(!matches!(segment, "" | "." | ".."), "{name:?} leaves the directory by {path:?}");
        assert!(segment.len() <= paths::SEGMENT_BYTES_MAX && !segment.contains('\0'), "{name:?} has no file {path:?}");
    }
    assert!(
        path.starts_with(paths::ESCAPED_ROOT) || !path.starts_with(".s3o/"),
        "{name:?} reaches our files by {path:?}"
    );
    path
}

/// The first two bytes choose a span. Its pieces lie in their parts and are as long together as the span.
pub fn manifest(input: &[u8]) {
    let Some(([from, len], text)) = input.split_first_chunk::<2>() else { return };
    let Some(manifest) = Manifest::decode(text) else { return };
    assert_eq!(Manifest::decode(&manifest.encode()).as_ref(), Some(&manifest));
    assert!(manifest.parts.iter().all(|(file, _)| !file.contains('/') && !file.starts_with('.')));
    let span = Span { from: u64::from(*from), len: u64::from(*len) };
    match manifest.segments(span) {
        Some(segments) => {
            assert_eq!(segments.iter().map(|segment| segment.len).sum::<u64>(), span.len);
            assert!(segments.iter().all(|one| one.len > 0 && one.offset + one.len <= one.file_size));
        }
        None => assert!(span.from + span.len > manifest.size()),
    }
}

pub fn label(input: &[u8]) {
    let Some(label) = Label::decode(input) else { return };
    let name = label.name.clone();
    let arrived = label.arrived();
    let key = arrived.key.unwrap_or_default();
    let written = Label::new(&name, Luggage { key: &key, record: &arrived.record }).encode();
    if let Some(again) = Label::decode(&written) {
        assert_eq!(again.name, name);
        assert_eq!(again.arrived().key.is_some(), blob_name::hash_in(&name).is_some());
    }
}

/// Lines `name:value` of an answer. What was read of them can be sent, and then arrives as it was read.
pub fn travelled(input: &[u8]) {
    let lines = input.split(|&byte| byte == b'\n');
    let fields = lines.filter_map(|line| line.iter().position(|&b| b == b':').map(|at| (&line[..at], &line[at + 1..])));
    let arrived = travel::collect(fields);
    let mut wire = Vec::new();
    let (key, mut record) = (arrived.key.unwrap_or_default(), arrived.record);
    let name = blob_name::stem("bkt", &key, false);
    travel::fields(&name, Luggage { key: &key, record: &record }, |prefix, name, value| {
        wire.push((format!("{prefix}{name}"), value.to_owned()));
    });
    for (name, value) in &wire {
        assert!(value.bytes().all(|b| b == b' ' || b.is_ascii_graphic()), "{name}: {value:?} breaks a head");
    }
    let again = travel::collect(wire.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
    // The longest key of S3 fits; a longer one is nobody's.
    assert!(again.key.as_deref() == Some(&key) || key.len() > 1024);
    let mut again = again.record;
    // What no header field can hold, or does not fit, stays behind.
    let order = |fields: &mut Vec<(String, String)>| fields.sort();
    for fields in [&mut record.headers, &mut record.user_metadata, &mut again.headers, &mut again.user_metadata] {
        order(fields);
    }
    assert!(again.headers.iter().all(|field| record.headers.contains(field)));
    assert!(again.user_metadata.iter().all(|field| record.user_metadata.contains(field)));
}
