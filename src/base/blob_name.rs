//! Backend keys: `{bucket}/{key'}!{version}{nonce}` (PROTOCOL, "Names and versions").
//!
//! key' is the key with each `!` written `!!`, so the prefix `{bucket}/{key'}!0` lists the blobs of that key and of no
//! other. A key that a backend cannot hold literally goes under `{bucket}/.s3o-h/{sha256 of the key, hex}`.

use super::ids::{Nonce, Version};
use aws_lc_rs::digest;
use std::fmt::Write;

/// Where our own objects on a backend live; no blob name starts with it, because a bucket name holds no leading dot.
pub const OWN_PREFIX: &str = ".s3o/";
/// Below a bucket's name: what lies under a key's hash. No literal key has such a segment.
pub const HASHED_FOLDER: &str = ".s3o-h/";
/// What a name adds to bucket and key when no `!` is doubled.
pub const SUFFIX_CHARS: usize = 1 + Version::CHARS + Nonce::CHARS;

/// Whether `key` may stand in a backend key as it is: every segment is a real one, no control bytes, and the whole name
/// fits `max_key_bytes`.
pub fn can_be_literal(bucket: &str, key: &str, max_key_bytes: usize) -> bool {
    let doubled = key.bytes().filter(|&b| b == b'!').count();
    bucket.len() + 1 + key.len() + doubled + SUFFIX_CHARS <= max_key_bytes
        && !key.bytes().any(|b| b < 0x20 || b == 0x7f)
        && key.split('/').all(|segment| !matches!(segment, "" | "." | "..") && segment != ".s3o-h")
}

/// The part of a name that all blobs of one key share, with the `!` that ends it.
pub fn stem(bucket: &str, key: &str, literal: bool) -> String {
    let mut name = String::with_capacity(bucket.len() + key.len() + 80);
    name.push_str(bucket);
    name.push('/');
    if literal {
        for part in key.split_inclusive('!') {
            name.push_str(part);
            if part.ends_with('!') {
                name.push('!');
            }
        }
    } else {
        name.push_str(HASHED_FOLDER);
        for byte in digest::digest(&digest::SHA256, key.as_bytes()).as_ref() {
            write!(name, "{byte:02x}").expect("writing to a string");
        }
    }
    name.push('!');
    name
}

pub fn mint(bucket: &str, key: &str, literal: bool, version: Version, nonce: Nonce) -> String {
    let mut name = stem(bucket, key, literal);
    name.push_str(version.as_str());
    name.push_str(nonce.as_str());
    name
}

/// The key's hash in a name, or a stem, that holds only that: nothing in it says what the key was.
pub fn hash_in(name: &str) -> Option<&str> {
    let (_, below) = name.split_once('/')?;
    let (hash, _) = below.strip_prefix(HASHED_FOLDER)?.split_once('!')?;
    let is_hash = hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_hash.then_some(hash)
}

/// The version in a name of our own form; None for anything else.
pub fn version_of(name: &str) -> Option<Version> {
    let (_, tail) = name.rsplit_once('!')?;
    let well_formed = tail.len() == Version::CHARS + Nonce::CHARS && tail.is_ascii();
    well_formed.then(|| Version::parse(&tail[..Version::CHARS])).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_different_keys_never_share_a_stem() {
        let keys = ["a", "a!", "a!0", "a!!0", "!", "!!", "a/b", "b"];
        for x in keys {
            for y in keys {
                let listed = mint("bkt", y, true, Version::from_parts(1, 1), Nonce::from_roll(7));
                let by_prefix = listed.starts_with(&format!("{}0", stem("bkt", x, true)));
                assert_eq!(by_prefix, x == y, "{x} against {y}");
            }
        }
    }

    #[test]
    fn what_a_backend_cannot_hold_is_hashed() {
        for bad in ["", "/a", "a/", "a//b", "./a", "a/../b", "a\nb", "a\x7f", ".s3o-h/x"] {
            assert!(!can_be_literal("bkt", bad, 1024), "{bad:?}");
        }
        assert!(can_be_literal("bkt", "photos/2026/ä !.jpg", 1024));
        assert!(!can_be_literal("bkt", &"k".repeat(1024), 1024));
        let name = mint("bkt", "a//b", false, Version::from_parts(1, 1), Nonce::from_roll(7));
        assert!(name.starts_with("bkt/.s3o-h/") && version_of(&name) == Some(Version::from_parts(1, 1)));
        let by_sha256sum = "7a9acf331a5dc1e020c17901e85936a279e0aa49b04474b13fa2ee63f80fa57a";
        assert_eq!(hash_in(&name), Some(by_sha256sum));
        for other in ["bkt/a!1", "bkt/.s3o-h/0123!1", ".s3o-h/x", "bkt"] {
            assert_eq!(hash_in(other), None, "{other}");
        }
    }
}
