//! Reads of the metadata, and what they answer. `Lookup` is on the request path; the others are listings and workers'
//! scans. No query changes anything.

use super::change::{Upload, Usage};
use super::record::{BackendFacts, BlobAt, BlobState, Located, PartRecord, StoredChecksum};
use crate::base::{
    BackendName, BlobId, BucketName, Incarnation, Nonce, ObjectKey, PartNumber, Timestamp, UploadId, Version,
};
use std::time::Duration;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Query {
    Lookup {
        bucket: String,
        key: String,
    },
    /// All blobs of one version that may still be read: live ones, and doomed ones in their grace.
    Copies {
        bucket: String,
        key: String,
        version: Version,
    },
    List(ListQuery),
    Upload {
        upload: UploadId,
    },
    Parts {
        upload: UploadId,
        after: u16,
        max: u32,
    },
    /// The parts that a live version was made of, after this number.
    VersionParts {
        bucket: String,
        key: String,
        version: Version,
        after: u16,
        max: u32,
    },
    ListUploads(ListUploadsQuery),
    /// Uploads that `AbortStale` with this age would abort, oldest first. None of a database that is held as restored: what
    /// it knows as unfinished may have been completed after the backup.
    StaleUploads {
        age: Duration,
        max: u32,
    },
    /// Doomed blobs on these backends whose time has come, oldest due first. The caller names the backends that it can
    /// reach, so that those of one that is away do not stand in the others' way.
    DueCleanups {
        on: Vec<BackendName>,
        max: u32,
    },
    /// Live versions with fewer than `factor` live blobs on the `counted` backends, after this (bucket, key), in order. One
    /// call examines a bounded number of versions; the answer says where to go on.
    UnderReplicated {
        factor: u32,
        counted: Vec<BackendName>,
        after: Option<(String, String)>,
        max: u32,
    },
    /// Live versions with more than `factor` live blobs on the `counted` backends; otherwise as `UnderReplicated`.
    OverReplicated {
        factor: u32,
        counted: Vec<BackendName>,
        after: Option<(String, String)>,
        max: u32,
    },
    /// How many there are, counting no further than `max`. Walks all versions, in short transactions: not for polling.
    UnderReplicatedCount {
        factor: u32,
        counted: Vec<BackendName>,
        max: u64,
    },
    /// When the next doomed blob on these backends comes due, if any.
    NextCleanup {
        on: Vec<BackendName>,
    },
    /// Blobs that this incarnation has reserved and not ended, above `after`, in order of their ids. An upload's are nobody's.
    Reserved {
        incarnation: Incarnation,
        after: BlobId,
        max: u32,
    },
    /// Attempts at parts that this incarnation has begun and not ended, after this upload and number ("", 0: from the start),
    /// in their order.
    PartAttempts {
        incarnation: Incarnation,
        after: (String, u16),
        max: u32,
    },
    Status {
        period: String,
    },
    /// All stored buckets, unless this is still their generation.
    Buckets {
        unless: Option<u64>,
    },
    /// What each incarnation has recorded of a month, and what it was lent.
    Usage {
        period: String,
    },
    /// Every blob row on a backend in pages ordered by name; for tests and audits of charges against bytes.
    Blobs {
        backend: BackendName,
        after: String,
        max: u32,
    },
    /// Doomed blobs, or dead ones, after this one, by id; on one backend or on all.
    Cleanups {
        dead: bool,
        backend: Option<BackendName>,
        after: BlobId,
        max: u32,
    },
    /// Whether the database was restored and `sync` has not run yet.
    Restored,
    /// Which living run holds a background job (`TakeService`). None: nobody, or the database is one process's and every job its.
    ServiceHolder {
        service: String,
    },
    /// Adds up the rows of every backend and compares; a full scan, for tests and audits.
    Audit,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListQuery {
    pub bucket: String,
    pub prefix: String,
    /// Empty: none.
    pub delimiter: String,
    /// Entries (keys and common prefixes) greater than this, in byte order. So a common prefix as `after`, or a key below
    /// one, skips all that the prefix stands for.
    pub after: String,
    /// Entries of both kinds together, 0 to 1000. A page of 0 is empty and not truncated.
    pub max: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    pub key: String,
    pub size: u64,
    pub etag: String,
    pub modified: Timestamp,
    /// Algorithms and the multipart flag for ListObjectsV2's ChecksumAlgorithm.
    pub checksums: Vec<StoredChecksum>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListPage {
    pub keys: Vec<Listed>,
    pub common_prefixes: Vec<String>,
    /// More entries follow.
    pub truncated: bool,
    /// The last entry of the page (key or common prefix): the next page's `after`.
    pub last: String,
}

/// Open uploads of a bucket, ended ones left out, ordered by key and id.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListUploadsQuery {
    pub bucket: String,
    pub prefix: String,
    /// Empty: none.
    pub delimiter: String,
    /// Entries (keys and common prefixes) greater than this, as in `ListQuery::after`.
    pub after: String,
    /// With it also uploads of the key `after` itself whose ids are greater than this; empty: none.
    pub after_upload: String,
    /// Entries of both kinds together, 0 to 1000. A page of 0 is empty and not truncated.
    pub max: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedUpload {
    pub key: String,
    pub upload: UploadId,
    pub initiated: Timestamp,
    pub checksum_algorithm: Option<String>,
    pub checksum_full_object: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UploadsPage {
    pub uploads: Vec<ListedUpload>,
    pub common_prefixes: Vec<String>,
    /// More entries follow.
    pub truncated: bool,
    /// The last entry of the page: the next page's `after` and `after_upload` (empty if it is a common prefix).
    pub last: String,
    pub last_upload: String,
}

/// A doomed blob that is due.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DueCleanup {
    pub blob: BlobAt,
    /// The database's clock when this was answered; `CleanupDone` brings it back.
    pub found: Timestamp,
    pub bytes: u64,
    pub attempts: u32,
    pub reason: String,
    /// The blob belonged to a multipart upload that was not completed: abort every backend upload under its key first.
    pub abort_uploads: bool,
    /// The id that the backend gave to this upload; empty if unknown.
    pub backend_upload: String,
}

/// A row of `blobs` for audits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlobRow {
    pub blob: BlobAt,
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub state: BlobState,
    pub bytes: u64,
    pub version: Version,
    pub reason: String,
    /// When a doomed blob is due.
    pub not_before: Timestamp,
}

/// A doomed or dead blob, as operators see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CleanupRow {
    pub blob: BlobAt,
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub bytes: u64,
    pub reason: String,
    pub attempts: u32,
    pub last_error: String,
    /// When it was doomed.
    pub since: Timestamp,
    /// Doomed: when it is due; dead: since when.
    pub not_before: Timestamp,
}

/// One backend's books. `charged` = `rows_bytes` always; `granted` <= `bytes_limit` unless that is 0 or was lowered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackendAudit {
    pub name: String,
    pub bytes_limit: u64,
    /// Sums over all shares.
    pub granted: i64,
    pub charged: i64,
    /// Sum over all blob rows, counted one by one.
    pub rows_bytes: u64,
    /// The status that the counters tell, and the one that the rows tell.
    pub counters: BackendStatus,
    pub counted: BackendStatus,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BackendStatus {
    pub name: String,
    /// Charged by live blobs.
    pub bytes_used: u64,
    /// Charged by reserved blobs and parts in flight.
    pub bytes_reserved: u64,
    /// Charged by doomed and dead blobs.
    pub orphan_bytes: u64,
    /// 0 = unlimited.
    pub bytes_limit: u64,
    /// Live blobs.
    pub object_count: u64,
    pub cleanup_depth: u64,
    pub dlq_depth: u64,
    pub active_uploads: u64,
    pub draining: bool,
    /// Its drain has ended: nothing is on it and nothing will be.
    pub drained: bool,
    /// What was measured of it when it was taken into use, and where.
    pub facts: BackendFacts,
    pub usage: Usage,
}

impl BackendStatus {
    /// At least how many blobs of any state rows name there: 0 only if they name none that may have bytes.
    pub fn blobs_named(&self) -> u64 {
        // The parts of an open upload are acknowledged; what else is not finished is not counted one by one.
        let unfinished = self.active_uploads.max(u64::from(self.bytes_reserved > 0));
        self.object_count + self.cleanup_depth + self.dlq_depth + unfinished
    }
}

/// A page of the parts of a version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VersionParts {
    pub parts: Vec<PartRecord>,
    pub truncated: bool,
    /// Bytes of the object before the page's first part.
    pub before_bytes: u64,
}

/// A bucket that was created over S3.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BucketRow {
    pub name: BucketName,
    /// The user's name.
    pub owner: String,
    /// As its creator asked for; empty: the default.
    pub region: String,
    pub created: Timestamp,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Buckets {
    /// Raised by every change of them.
    pub generation: u64,
    /// In the order of their names.
    pub rows: Vec<BucketRow>,
}

/// What one incarnation has recorded of one backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UsageRow {
    pub backend: String,
    pub incarnation: Incarnation,
    pub usage: Usage,
}

/// What one incarnation was lent of one budget, and what it said that it has used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BudgetRow {
    pub backend: String,
    pub counter: String,
    pub incarnation: Incarnation,
    pub granted: u64,
    pub used: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PartAttempt {
    pub upload: UploadId,
    pub number: PartNumber,
    pub nonce: Nonce,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Lookup(Option<Located>),
    Copies(Vec<BlobAt>),
    List(ListPage),
    Upload(Option<Upload>),
    Parts {
        parts: Vec<PartRecord>,
        truncated: bool,
    },
    /// None: no such live version, or not one of parts.
    VersionParts(Option<VersionParts>),
    ListUploads(UploadsPage),
    StaleUploads(Vec<UploadId>),
    DueCleanups(Vec<DueCleanup>),
    /// Of `UnderReplicated` and `OverReplicated`. `next`: pass as `after` to go on; None when all were examined.
    UnderReplicated {
        found: Vec<(BucketName, ObjectKey, Located)>,
        next: Option<(String, String)>,
    },
    Count(u64),
    NextCleanup(Option<Timestamp>),
    Reserved(Vec<BlobId>),
    PartAttempts(Vec<PartAttempt>),
    Buckets(Option<Buckets>),
    Status(Vec<BackendStatus>),
    /// Both in byte order of their names, then by incarnation.
    Usage {
        usage: Vec<UsageRow>,
        budgets: Vec<BudgetRow>,
    },
    Blobs(Vec<BlobRow>),
    Cleanups(Vec<CleanupRow>),
    Restored(bool),
    ServiceHolder(Option<Incarnation>),
    Audit(Vec<BackendAudit>),
}
