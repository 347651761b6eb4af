//! What a client may do, as small plain values that shrink: keys, uploads and ETags are named by number and mean something
//! only when they are played (`play/`).

use super::sums::Kind;
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

/// What `versionId` says, where it may be said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    Unsaid,
    Null,
    /// What could be another version's.
    Other,
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

/// What of an object is read, and how it is to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reading {
    pub head: bool,
    pub range: Range,
    pub part: Option<u16>,
    pub version: Version,
    /// `response-content-type` and `response-cache-control`.
    pub instead: bool,
    /// `x-amz-checksum-mode`.
    pub sums: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listing {
    pub bucket: usize,
    pub kind: ListKind,
    pub prefix: String,
    pub delimiter: String,
    /// `max-keys` or `max-uploads`.
    pub max: Option<usize>,
    /// `start-after`, `marker` or `key-marker`.
    pub after: String,
    pub encoded: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ListKind {
    V1,
    V2,
    Versions,
    Uploads,
}

/// How a body is sent, and what is said of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    Plain(Digest),
    /// In signed chunks.
    Signed,
    SignedTrailer {
        kind: Kind,
        right: bool,
    },
    UnsignedTrailer {
        kind: Kind,
        right: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Digest {
    None,
    RightMd5,
    WrongMd5,
    Right(Kind),
    Wrong(Kind),
}

/// The checksum that an upload declares for its object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Declared {
    pub kind: Kind,
    pub full: bool,
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

/// What a Complete says of checksums: beside the parts, and of the whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Said {
    /// Beside each part that has one, its own.
    Parts,
    Nothing,
    WrongPart,
    Whole,
    WrongWhole,
    /// Of a kind that the parts have none of, perhaps.
    WholeOf(Kind),
    WrongSize,
    RightSize,
}

/// One key of a DeleteObjects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Doomed {
    pub key: usize,
    pub version: Version,
    /// Current, Other or none.
    pub etag: Option<Tag>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    CreateBucket {
        bucket: usize,
    },
    DeleteBucket {
        bucket: usize,
    },
    /// HeadBucket, GetBucketLocation, GetBucketVersioning and the settings that nobody has made.
    AskBucket {
        bucket: usize,
        what: usize,
    },
    ListBuckets {
        prefix: bool,
        max: Option<usize>,
    },
    /// Of a bucket, or of an object.
    GetAcl {
        bucket: usize,
        key: Option<usize>,
    },
    PutAcl {
        bucket: usize,
        key: Option<usize>,
        acl: usize,
    },
    Put {
        at: Place,
        body: Body,
        facts: Facts,
        condition: Condition,
        sent: Sent,
    },
    /// By a form.
    Post {
        at: Place,
        body: Body,
        facts: Facts,
    },
    Get {
        at: Place,
        reading: Reading,
        condition: Condition,
    },
    Attributes {
        at: Place,
        version: Version,
        max: Option<usize>,
        after: Option<u16>,
    },
    Delete {
        at: Place,
        version: Version,
        condition: Condition,
    },
    DeleteMany {
        bucket: usize,
        keys: Vec<Doomed>,
        quiet: bool,
    },
    Copy {
        from: Place,
        version: Version,
        to: Place,
        replace: Option<Facts>,
        replace_tags: Option<u8>,
        sum: Option<Kind>,
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
        declared: Option<Declared>,
    },
    UploadPart {
        upload: usize,
        number: u16,
        body: Body,
        sent: Sent,
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
        after: u16,
    },
    Complete {
        upload: usize,
        manifest: Manifest,
        said: Said,
        condition: Condition,
    },
    Abort {
        upload: usize,
    },
}
