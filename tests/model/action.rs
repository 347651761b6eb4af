//! What a client may do, as small plain values that shrink: keys, uploads and ETags are named by number and mean something
//! only when they are played (`play.rs`).

use super::server::BUCKETS;
use proptest::prelude::*;
use std::sync::Arc;

/// Keys near each other, and keys that somebody in the path might change.
pub const KEYS: [&str; 14] = [
    "a",
    "a/",
    "a/b",
    "a//b",
    "a/b/c",
    "a b+c",
    "a!b",
    "a%2Fb",
    "..",
    "a/../b",
    "ü/é",
    "\u{10ffff}",
    "z?x=y&z",
    "b\u{7}",
];
pub const PART_BYTES_MIN: usize = 5 << 20;

/// Which key of which bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub bucket: usize,
    pub key: usize,
}

/// A body of this length; the same seed gives the same bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Body {
    pub len: usize,
    pub seed: u8,
}

impl Body {
    pub fn bytes(self) -> Arc<[u8]> {
        let mut state = u32::from(self.seed) | 1;
        let mut byte = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..self.len).map(|_| byte()).collect()
    }
}

/// A tag that a condition names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tag {
    /// Of what is there; of nothing, if nothing is there.
    Current,
    Other,
    /// A list with the current one, weak and unquoted spellings among it.
    ListWithCurrent,
    Any,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    None,
    IfMatch(Tag),
    IfNoneMatch(Tag),
    /// `If-Modified-Since`, with the object's own time or one long before it.
    IfModifiedSince {
        own: bool,
    },
    IfUnmodifiedSince {
        own: bool,
    },
}

/// What a write says of the object besides its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    pub content_type: bool,
    pub metadata: u8,
    pub tags: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Range {
    Whole,
    Suffix(usize),
    From(usize),
    Between(usize, usize),
    Malformed,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listing {
    pub bucket: usize,
    pub version: Version,
    pub prefix: String,
    pub delimiter: String,
    pub max_keys: Option<usize>,
    /// `start-after`, `marker` or `key-marker`.
    pub after: String,
    pub encoded: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    V1,
    V2,
    Versions,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Digest {
    None,
    RightMd5,
    WrongMd5,
    WrongCrc32,
}

/// Which parts a Complete names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manifest {
    All,
    /// Without the part of the lowest number.
    WithoutFirst,
    WrongEtag,
    Backwards,
    NotUploaded,
    Empty,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    Put {
        at: Place,
        body: Body,
        facts: Facts,
        condition: Condition,
        digest: Digest,
    },
    Get {
        at: Place,
        head: bool,
        range: Range,
        condition: Condition,
    },
    Delete {
        at: Place,
        condition: Condition,
    },
    DeleteMany {
        bucket: usize,
        keys: Vec<usize>,
        quiet: bool,
    },
    Copy {
        from: Place,
        to: Place,
        replace: Option<Facts>,
        replace_tags: Option<u8>,
        source: Condition,
        condition: Condition,
    },
    GetTags {
        at: Place,
    },
    PutTags {
        at: Place,
        tags: u8,
    },
    DeleteTags {
        at: Place,
    },
    List(Listing),
    CreateUpload {
        at: Place,
        facts: Facts,
    },
    UploadPart {
        upload: usize,
        number: u16,
        body: Body,
        digest: Digest,
    },
    CopyPart {
        upload: usize,
        number: u16,
        from: Place,
        range: Option<(usize, usize)>,
    },
    ListParts {
        upload: usize,
        max: Option<usize>,
        after: Option<u16>,
    },
    Complete {
        upload: usize,
        manifest: Manifest,
        condition: Condition,
    },
    Abort {
        upload: usize,
    },
}

/// Mostly the first.
fn bucket() -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(0_usize), 1 => 0..BUCKETS.len()]
}

fn place() -> impl Strategy<Value = Place> {
    // Few keys, so that actions meet.
    let key = prop_oneof![3 => 0..3_usize, 1 => 0..KEYS.len()];
    (bucket(), key).prop_map(|(bucket, key)| Place { bucket, key })
}

fn body() -> impl Strategy<Value = Body> {
    let len = prop_oneof![2 => Just(0_usize), 6 => 1..40_usize, 1 => 60_000..70_000_usize, 1 => 260_000..264_000_usize];
    (len, 0..8_u8).prop_map(|(len, seed)| Body { len, seed })
}

fn part() -> impl Strategy<Value = Body> {
    let len = prop_oneof![3 => 0..40_usize, 2 => Just(PART_BYTES_MIN), 1 => Just(PART_BYTES_MIN - 1)];
    (len, 0..8_u8).prop_map(|(len, seed)| Body { len, seed })
}

fn facts() -> impl Strategy<Value = Facts> {
    (any::<bool>(), 0..4_u8, 0..4_u8).prop_map(|(content_type, metadata, tags)| Facts { content_type, metadata, tags })
}

fn tag() -> impl Strategy<Value = Tag> {
    prop_oneof![Just(Tag::Current), Just(Tag::Other), Just(Tag::ListWithCurrent), Just(Tag::Any)]
}

fn read_condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        6 => Just(Condition::None),
        1 => tag().prop_map(Condition::IfMatch),
        1 => tag().prop_map(Condition::IfNoneMatch),
        1 => any::<bool>().prop_map(|own| Condition::IfModifiedSince { own }),
        1 => any::<bool>().prop_map(|own| Condition::IfUnmodifiedSince { own }),
    ]
}

/// S3 knows If-Match with one tag, and If-None-Match with `*`.
fn write_condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        6 => Just(Condition::None),
        1 => Just(Condition::IfMatch(Tag::Current)),
        1 => Just(Condition::IfMatch(Tag::Other)),
        2 => Just(Condition::IfNoneMatch(Tag::Any)),
    ]
}

fn delete_condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        6 => Just(Condition::None),
        1 => Just(Condition::IfMatch(Tag::Current)),
        1 => Just(Condition::IfMatch(Tag::Other)),
    ]
}

fn range() -> impl Strategy<Value = Range> {
    prop_oneof![
        4 => Just(Range::Whole),
        1 => (0..50_usize).prop_map(Range::Suffix),
        1 => (0..50_usize).prop_map(Range::From),
        2 => (0..50_usize, 0..70_000_usize).prop_map(|(first, last)| Range::Between(first, last)),
        1 => Just(Range::Malformed),
    ]
}

fn digest() -> impl Strategy<Value = Digest> {
    prop_oneof![7 => Just(Digest::None), 1 => Just(Digest::RightMd5), 1 => Just(Digest::WrongMd5), 1 => Just(Digest::WrongCrc32)]
}

pub fn listing() -> impl Strategy<Value = Listing> {
    let version = prop_oneof![1 => Just(Version::V1), 2 => Just(Version::V2), 1 => Just(Version::Versions)];
    let text =
        |some: &'static [&'static str]| prop_oneof![Just(""), prop::sample::select(some)].prop_map(str::to_owned);
    let max_keys =
        prop_oneof![2 => Just(None), 3 => (1..5_usize).prop_map(Some), 1 => Just(Some(0)), 1 => Just(Some(5_000))];
    (
        bucket(),
        version,
        text(&["a", "a/", "a//", "ü", "..", "nothing"]),
        text(&["/", "b", "//", "é", "a/"]),
        max_keys,
        text(&["a", "a/", "a/b", "a//", "\u{10ffff}", "zz"]),
        any::<bool>(),
    )
        .prop_map(|(bucket, version, prefix, delimiter, max_keys, after, encoded)| Listing {
            bucket,
            version,
            prefix,
            delimiter,
            max_keys,
            after,
            encoded,
        })
}

fn manifest() -> impl Strategy<Value = Manifest> {
    prop_oneof![
        6 => Just(Manifest::All),
        1 => Just(Manifest::WithoutFirst),
        1 => Just(Manifest::WrongEtag),
        1 => Just(Manifest::Backwards),
        1 => Just(Manifest::NotUploaded),
        1 => Just(Manifest::Empty),
    ]
}

pub fn action() -> impl Strategy<Value = Action> {
    let upload = || 0..3_usize;
    let number = || prop_oneof![8 => 1..4_u16, 1 => Just(10_000_u16)];
    let keys = prop::collection::vec(0..KEYS.len(), 1..6);
    prop_oneof![
        8 => (place(), body(), facts(), write_condition(), digest())
            .prop_map(|(at, body, facts, condition, digest)| Action::Put { at, body, facts, condition, digest }),
        8 => (place(), any::<bool>(), range(), read_condition())
            .prop_map(|(at, head, range, condition)| Action::Get { at, head, range, condition }),
        3 => (place(), delete_condition()).prop_map(|(at, condition)| Action::Delete { at, condition }),
        2 => (bucket(), keys, any::<bool>())
            .prop_map(|(bucket, keys, quiet)| Action::DeleteMany { bucket, keys, quiet }),
        4 => (place(), place(), prop::option::of(facts()), prop::option::of(0..4_u8), read_condition(), write_condition())
            .prop_map(|(from, to, replace, replace_tags, source, condition)| {
                Action::Copy { from, to, replace, replace_tags, source, condition }
            }),
        1 => place().prop_map(|at| Action::GetTags { at }),
        1 => (place(), 0..4_u8).prop_map(|(at, tags)| Action::PutTags { at, tags }),
        1 => place().prop_map(|at| Action::DeleteTags { at }),
        6 => listing().prop_map(Action::List),
        3 => (place(), facts()).prop_map(|(at, facts)| Action::CreateUpload { at, facts }),
        6 => (upload(), number(), part(), digest())
            .prop_map(|(upload, number, body, digest)| Action::UploadPart { upload, number, body, digest }),
        2 => (upload(), number(), place(), prop::option::of((0..20_usize, 0..40_usize)))
            .prop_map(|(upload, number, from, range)| Action::CopyPart { upload, number, from, range }),
        2 => (upload(), prop::option::of(0..4_usize), prop::option::of(0..4_u16))
            .prop_map(|(upload, max, after)| Action::ListParts { upload, max, after }),
        4 => (upload(), manifest(), write_condition())
            .prop_map(|(upload, manifest, condition)| Action::Complete { upload, manifest, condition }),
        1 => upload().prop_map(|upload| Action::Abort { upload }),
    ]
}
