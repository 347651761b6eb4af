//! Where a blob's bytes are inside a directory backend: blob name to relative path and back.
//!
//! Called by the listing (`listing.rs`) and by the file IO of the reactor layer. Never touches a file system, and total: every name maps to a
//! legal path inside the directory, no two names to the same one.
//!
//! Most names are their own path. A name with a segment that no file can have (empty, `.`, `..`, over 255 bytes, a NUL) or
//! that is ours (`.s3o` at the top, `.s3o~…` anywhere) is written in hex under `.s3o/n/`, in pieces of a legal length, each
//! piece but the last a directory. The last piece ends in `-`, which sorts before every hex digit and before `/`: so no
//! name's file is another name's directory, and a walk in byte order meets the names in byte order.
//!
//! A plain name of our own form cannot be in another's way either: its last segment has an odd run of `!` before version
//! and nonce, a directory segment has only even ones (base/blob_name.rs).

use crate::base::{Nonce, PartNumber, Version};
use aws_lc_rs::digest;
use std::fmt::Write;

/// The longest file name that Linux file systems take.
pub const SEGMENT_BYTES_MAX: usize = 255;
/// Our own directory at the top of a backend.
pub const OWN_DIRECTORY: &str = ".s3o";
/// Every file or directory with this prefix is a temporary thing of ours, and no blob.
pub const TEMPORARY_PREFIX: &str = ".s3o~";
/// Ends the name of an open upload's directory.
pub const PARTS_SUFFIX: &str = ".parts";
/// Root of the names that cannot be their own path.
pub const ESCAPED_ROOT: &str = ".s3o/n";
/// Of a temporary name's hash.
pub const TEMPORARY_HEX_CHARS: usize = 32;
const ESCAPED_PIECE_CHARS: usize = 200;
/// Ends the last piece of an escaped name.
const ESCAPED_END: char = '-';

const _: () = assert!(ESCAPED_PIECE_CHARS.is_multiple_of(2) && ESCAPED_PIECE_CHARS < SEGMENT_BYTES_MAX);

/// A blob's place: all of its files are in one directory, under names that only this blob uses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlobPath {
    /// Relative to the backend's directory, without `/` at either end; empty for the directory itself.
    pub parent: String,
    /// A file with the bytes, or a directory with the parts and their manifest.
    pub leaf: String,
    /// The file while it is being written.
    pub temporary: String,
    /// The directory of an open multipart upload; renamed to `leaf` when it completes.
    pub parts: String,
    /// A directory called `leaf` is this blob; otherwise it belongs to the names of others.
    pub may_be_multipart: bool,
}

impl BlobPath {
    pub fn of(name: &str) -> Self {
        let path = if is_plain(name) { name.to_owned() } else { escape(name) };
        let (parent, leaf) = path.rsplit_once('/').unwrap_or(("", &path));
        let temporary = temporary_name(name);
        let parts = format!("{temporary}{PARTS_SUFFIX}");
        let may_be_multipart =
            is_multipart_leaf(leaf) || escaped_end(leaf).is_some() && parent.starts_with(ESCAPED_ROOT);
        Self { parent: parent.to_owned(), leaf: leaf.to_owned(), temporary, parts, may_be_multipart }
    }
}

/// Where a blob's bytes are while they are being written, relative to the backend's directory: below it as a file, or with
/// `PARTS_SUFFIX` as a directory of parts.
pub fn unfinished(name: &str) -> String {
    let at = BlobPath::of(name);
    if at.parent.is_empty() { at.temporary } else { format!("{}/{}", at.parent, at.temporary) }
}

/// The file of one attempt at a part, inside the upload's directory. None for a nonce that is not one of ours.
pub fn part_file(number: PartNumber, nonce: &str) -> Option<String> {
    let well_formed = nonce.len() == Nonce::CHARS && nonce.bytes().all(|b| b.is_ascii_alphanumeric());
    well_formed.then(|| format!("{:05}-{nonce}", number.get()))
}

/// Whether a name is its own path.
pub fn is_plain(name: &str) -> bool {
    let possible = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment.len() <= SEGMENT_BYTES_MAX
            && !segment.contains('\0')
            && !segment.starts_with(TEMPORARY_PREFIX)
    };
    name.split('/').all(possible) && name.split('/').next() != Some(OWN_DIRECTORY)
}

/// Whether a directory of this name, found outside `.s3o`, is a completed multipart blob rather than a part of keys.
pub fn is_multipart_leaf(segment: &str) -> bool {
    const TAIL_CHARS: usize = Version::CHARS + Nonce::CHARS;
    let Some(cut) = segment.len().checked_sub(TAIL_CHARS) else { return false };
    let (Some(front), Some(tail)) = (segment.get(..cut), segment.get(cut..)) else { return false };
    let marks = front.len() - front.trim_end_matches('!').len();
    marks % 2 == 1 && Version::parse(&tail[..Version::CHARS]).is_some() && !tail.contains('!')
}

/// Two hex digits per byte: sorts as the bytes do.
pub fn to_hex(text: &str) -> String {
    let mut hex = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        write!(hex, "{byte:02x}").expect("writing to a string");
    }
    hex
}

/// The name whose pieces, put together, are `hex`.
pub fn from_hex(hex: &str) -> Option<String> {
    let digits = hex.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let bytes =
        digits.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect::<Option<_>>()?;
    String::from_utf8(bytes).ok()
}

/// The hex of an escaped name's last piece; None for a piece that is a directory on the way.
pub fn escaped_end(piece: &str) -> Option<&str> {
    piece.strip_suffix(ESCAPED_END)
}

fn escape(name: &str) -> String {
    let hex = to_hex(name);
    let mut path = String::with_capacity(ESCAPED_ROOT.len() + hex.len() + hex.len() / ESCAPED_PIECE_CHARS + 2);
    path.push_str(ESCAPED_ROOT);
    for start in (0..hex.len().max(1)).step_by(ESCAPED_PIECE_CHARS) {
        path.push('/');
        path.push_str(&hex[start..hex.len().min(start + ESCAPED_PIECE_CHARS)]);
    }
    path.push(ESCAPED_END);
    path
}

/// Derived from the blob's name, so that a delete finds what a crash left behind.
fn temporary_name(name: &str) -> String {
    let mut text = String::with_capacity(TEMPORARY_PREFIX.len() + TEMPORARY_HEX_CHARS);
    text.push_str(TEMPORARY_PREFIX);
    for byte in &digest::digest(&digest::SHA256, name.as_bytes()).as_ref()[..TEMPORARY_HEX_CHARS / 2] {
        write!(text, "{byte:02x}").expect("writing to a string");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::blob_name;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn path(name: &str) -> String {
        let at = BlobPath::of(name);
        if at.parent.is_empty() { at.leaf } else { format!("{}/{}", at.parent, at.leaf) }
    }

    fn check_legal(name: &str) {
        let at = BlobPath::of(name);
        let whole = path(name);
        for segment in whole.split('/').chain([at.temporary.as_str(), at.parts.as_str()]) {
            assert!(!matches!(segment, "" | "." | ".."), "{name:?} leaves the directory by {whole:?}");
            assert!(segment.len() <= SEGMENT_BYTES_MAX && !segment.contains('\0'), "{name:?} has no file {whole:?}");
        }
        let escaped = whole.starts_with(".s3o/");
        assert_eq!(escaped, !is_plain(name), "{name:?}");
        assert!(!escaped || whole.starts_with(".s3o/n/"), "{name:?} reaches our own files by {whole:?}");
        assert!(!at.leaf.starts_with(TEMPORARY_PREFIX) && !at.parent.contains(TEMPORARY_PREFIX), "{name:?}");
    }

    #[test]
    fn every_name_has_a_legal_place() {
        let long = "k".repeat(256);
        let longest = "é".repeat(512);
        let names = [
            "",
            ".",
            "..",
            "/",
            "//",
            "a",
            "a/",
            "/a",
            "../a",
            "a/../../b",
            "a/./b",
            "a\0b",
            ".s3o",
            ".s3o/id",
            ".s3o/n/61-",
            ".s3o~x",
            "b/.s3o~x/c",
            "b/.s3o",
            "b/.s3o-h/x",
            &long,
            &longest,
            "b/ä !%\n",
            &"x/".repeat(512),
        ];
        for name in names {
            check_legal(name);
        }
    }

    #[test]
    fn a_usual_name_is_its_own_path() {
        let name = blob_name::mint("bkt", "photos/a b.jpg", true, Version::from_parts(1, 1), Nonce::from_roll(7));
        assert_eq!(path(&name), name);
        assert!(is_multipart_leaf(name.rsplit('/').next().expect("a leaf")));
    }

    #[test]
    fn directories_of_keys_are_not_taken_for_blobs() {
        let tail = "00000000010000000000000001ABCDEFGHJK";
        for (segment, want) in [
            (format!("a!{tail}"), true),
            (format!("a!!{tail}"), false),
            (format!("a!!!{tail}"), true),
            (format!("!{tail}"), true),
            (tail.to_owned(), false),
            (format!("é{tail}"), false),
            (format!("a!9{}", &tail[1..]), false),
            ("a!".to_owned(), false),
        ] {
            assert_eq!(is_multipart_leaf(&segment), want, "{segment}");
        }
    }

    #[test]
    fn part_files() {
        let number = PartNumber::new(7).expect("a part number");
        assert_eq!(part_file(number, "0123456789").as_deref(), Some("00007-0123456789"));
        for bad in ["", "../../../x", "012345678/", "01234567890"] {
            assert_eq!(part_file(number, bad), None, "{bad:?}");
        }
    }

    /// Names close to each other and to everything that is special.
    fn any_name() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just(String::new()),
            Just(".".to_owned()),
            Just("..".to_owned()),
            Just(".s3o".to_owned()),
            Just(".s3o~".to_owned()),
            Just("n".to_owned()),
            "[ab!/.~-]{0,6}",
            "[a]{99,101}",
            "[a]{254,257}",
            "\\PC{0,8}",
        ];
        prop::collection::vec(piece, 1..5).prop_map(|pieces| pieces.join("/"))
    }

    /// Blob names as we make them, of few keys that resemble each other.
    fn own_name() -> impl Strategy<Value = String> {
        ("[ab!/]{1,5}", 0u128..3, 0u64..3).prop_map(|(key, version, nonce)| {
            let literal = blob_name::can_be_literal("bkt", &key, 1024);
            blob_name::mint("bkt", &key, literal, Version::from_parts(1, version), Nonce::from_roll(nonce))
        })
    }

    proptest! {
        #[test]
        fn places_are_legal_and_escaping_can_be_undone(name in any_name()) {
            check_legal(&name);
            if let Some(pieces) = path(&name).strip_prefix(".s3o/n/") {
                let hex = pieces.replace('/', "");
                prop_assert_eq!(from_hex(escaped_end(&hex).expect("the end mark")), Some(name));
            }
        }

        #[test]
        fn no_two_names_share_a_place(names in prop::collection::hash_set(any_name(), 2..12)) {
            let mut places = HashMap::new();
            for name in &names {
                let at = BlobPath::of(name);
                for file in [&at.leaf, &at.temporary, &at.parts] {
                    let former = places.insert(format!("{}/{file}", at.parent), name);
                    prop_assert!(former.is_none(), "{:?} and {:?} share {}", former, name, file);
                }
            }
        }

        #[test]
        fn no_file_of_ours_is_on_the_way_to_another(names in prop::collection::vec(own_name(), 2..12)) {
            let paths: Vec<String> = names.iter().map(|name| path(name)).collect();
            for file in &paths {
                for other in &paths {
                    prop_assert!(!other.starts_with(&format!("{file}/")), "{} is a directory for {}", file, other);
                }
            }
        }

        #[test]
        fn no_escaped_file_is_on_the_way_to_another(names in prop::collection::vec("a{0,3}|a{95,105}|a{195,205}", 2..6)) {
            let paths: Vec<String> = names.iter().map(|name| path(&format!("//{name}"))).collect();
            for file in &paths {
                for other in &paths {
                    prop_assert!(!other.starts_with(&format!("{file}/")), "{} is a directory for {}", file, other);
                }
            }
        }

        #[test]
        fn escaped_paths_sort_as_their_names(a in "[a-c!/]{0,230}", b in "[a-c!/]{0,230}") {
            let (a, b) = (format!("//{a}"), format!("//{b}"));
            prop_assert_eq!(path(&a).cmp(&path(&b)), a.cmp(&b));
        }
    }
}
