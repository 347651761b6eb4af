//! What callers ask of the metadata, and what it answers.
//!
//! A `Change` is one step of the write protocol: it runs in one transaction (with the others of its batch), and asking
//! again after a lost answer is safe, because the batch's id is resolved first. A refusal is an outcome, not an error, so
//! it cannot fail its neighbours. An error (`Failure`) means that nothing is known to have happened.
//!
//! `MetadataStore` is implemented by each database; `Metadata` is what handlers and workers hold (the reactor's mailbox, or
//! the simulator). Both speak the same values.

use super::record::{BackendFacts, BlobAt, BlobState, Located, ObjectRecord, PartRecord, StoredChecksum};
use crate::base::{
    BackendName, BlobId, BucketName, Failure, Incarnation, Nonce, ObjectKey, PartNumber, Timestamp, UploadId, Version,
};

/// Quota and naming facts of a backend, synchronised from the configuration at start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackendLimit {
    pub name: BackendName,
    /// Bytes; 0 = unlimited.
    pub bytes_limit: u64,
}

/// A backend that may take a blob, in order of preference (policy/placement).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    pub backend: BackendName,
    /// Whether the key may stand in this backend's keys as it is (base/blob_name.rs), else it is hashed.
    pub literal: bool,
}

/// If-Match and If-None-Match of a write, tested early by the begin and decided by the commit.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WriteCondition {
    /// `If-None-Match: *`: the key must not exist.
    pub must_not_exist: bool,
    /// If-Match: the live version's ETag must be one of these (without quotes); `*` matches any. None: no condition.
    pub etag_in: Option<Vec<String>>,
    /// If-None-Match with ETags: the live version's ETag must be none of these.
    pub etag_not_in: Vec<String>,
}

impl WriteCondition {
    pub fn is_none(&self) -> bool {
        !self.must_not_exist && self.etag_in.is_none() && self.etag_not_in.is_empty()
    }

    /// Whether a live version with this ETag (None: no live version) lets the write happen.
    /// AWS answers 404 NoSuchKey to an If-Match on a key that does not exist, 412 otherwise.
    pub fn test(&self, live_etag: Option<&str>) -> Result<(), Refusal> {
        if self.must_not_exist && live_etag.is_some() {
            return Err(Refusal::PreconditionFailed);
        }
        if let (Some(etag), true) = (live_etag, !self.etag_not_in.is_empty())
            && self.etag_not_in.iter().any(|one| one == etag)
        {
            return Err(Refusal::PreconditionFailed);
        }
        match (&self.etag_in, live_etag) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(Refusal::NoSuchKey),
            (Some(etags), Some(etag)) if etags.iter().any(|one| one == "*" || one == etag) => Ok(()),
            (Some(_), Some(_)) => Err(Refusal::PreconditionFailed),
        }
    }
}

/// Why a change was not made. Nothing was changed, except where the outcome says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    NoSuchKey,
    NoSuchUpload,
    PreconditionFailed,
    /// A conditional write was overtaken by a later one: 409 ConditionalRequestConflict.
    Conflict,
    /// No candidate has room.
    NoSpace,
    /// No candidate has room, but displaced bytes in their grace would make it: they were made due at once. Nudge the
    /// cleanup worker and ask again shortly.
    NoSpaceYet,
    /// The blob is no longer ours to commit (recovery doomed it), or the version to be copied is no longer live. A blob
    /// that this change named and that was still reserved is doomed now.
    Lost,
    /// Another attempt for the same part is under way, or an upload is being completed: 409 OperationAborted.
    Busy,
    InvalidPart,
    InvalidPartOrder,
    EntityTooSmall,
    EntityTooLarge,
    /// The bucket's `max_multipart_uploads` is reached.
    TooManyUploads,
}

/// Registers this run of this instance, synchronises limits, and, where the database itself proves that no other
/// instance lives (SQLite), recovers: every other incarnation's reserved blobs and part attempts are doomed (never
/// promoted), its shares become this one's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Register {
    /// A random id for the deployment, used only if it has none yet.
    pub deployment: String,
    pub backends: Vec<BackendLimit>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registered {
    pub incarnation: Incarnation,
    /// The deployment's id: what `.s3o/id` on each backend must hold.
    pub deployment: String,
    /// Blobs of dead incarnations that were doomed.
    pub doomed: u64,
    pub facts: Vec<(BackendName, BackendFacts)>,
    /// Backends that are draining.
    pub draining: Vec<BackendName>,
    /// Backends that rows name but the configuration does not, with the number of live blobs there.
    pub unknown_backends: Vec<(BackendName, u64)>,
}

/// A failed attempt, given up in the same transaction that reserves its replacement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GivenUp {
    pub blob: BlobId,
    /// The whole body may have reached the backend without an answer coming back, so it may still appear there
    /// (settle time). False only if the backend answered, or the body was never sent whole.
    pub may_appear: bool,
}

/// PROTOCOL.md, "A write", 1: tests the conditions, mints a version above all of the key's, reserves a blob on the first
/// candidate that fits and charges `size` to this incarnation's share, never above the backend's limit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BeginWrite {
    pub incarnation: Incarnation,
    pub bucket: BucketName,
    pub key: ObjectKey,
    /// Bytes that the blob will hold.
    pub size: u64,
    pub candidates: Vec<Candidate>,
    pub condition: WriteCondition,
    pub nonce: Nonce,
    /// An attempt that failed: doomed here; the new blob keeps its version.
    pub instead_of: Option<GivenUp>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Begun {
    pub version: Version,
    pub blob: BlobAt,
}

/// PROTOCOL.md, "A write", 3. All `blobs` are copies of one version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommitWrite {
    pub incarnation: Incarnation,
    pub blobs: Vec<BlobId>,
    pub etag: String,
    pub record: ObjectRecord,
    pub condition: WriteCondition,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Committed {
    /// The version is live, the former one's blobs are doomed.
    Live { version: Version, modified: Timestamp },
    /// A later version or a delete came first: committed as already overwritten, own blobs doomed. Answered 200.
    Overwritten { version: Version, modified: Timestamp },
}

/// PROTOCOL.md, "A write", 4. Idempotent; a blob that is not reserved by this incarnation is left alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AbandonWrite {
    pub incarnation: Incarnation,
    pub given_up: GivenUp,
    pub reason: String,
}

/// Removes the key's live version: its blobs are doomed with the grace, lower reserved ones superseded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delete {
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub condition: WriteCondition,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deleted {
    pub existed: bool,
}

/// Reserves one more copy of a live version on the first candidate that fits and holds no blob of it yet.
/// Refused: `Lost` (no longer live), `NoSpace` (or every candidate holds one).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BeginCopy {
    pub incarnation: Incarnation,
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub version: Version,
    pub candidates: Vec<Candidate>,
    pub nonce: Nonce,
}

/// The copy is live if its version still is and the target is not draining; otherwise it is doomed and the answer `Lost`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommitCopy {
    pub incarnation: Incarnation,
    pub blob: BlobId,
}

/// Dooms one live copy, with the grace, if at least `floor` other live blobs of its version are on backends not in
/// `not_counted`; otherwise `Busy`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemoveCopy {
    pub blob: BlobId,
    pub floor: u32,
    pub not_counted: Vec<BackendName>,
    pub reason: String,
}

/// PROTOCOL.md, "Multipart". Reserves the upload's blob (0 bytes charged until parts come); it has no lease.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreateUpload {
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub upload: UploadId,
    pub candidates: Vec<Candidate>,
    pub nonce: Nonce,
    /// Headers, metadata and tags of the object to be.
    pub record: ObjectRecord,
    /// `x-amz-checksum-algorithm`, if declared; parts must then carry it.
    pub checksum_algorithm: Option<String>,
    /// `x-amz-checksum-type: FULL_OBJECT`, else composite.
    pub checksum_full_object: bool,
    /// 0 = unlimited.
    pub uploads_max: u32,
}

/// An upload as its row says. `blob.name` is the final object's exact key on the backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upload {
    pub upload: UploadId,
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub blob: BlobAt,
    /// Empty until `SetBackendUpload`.
    pub backend_upload: String,
    pub record: ObjectRecord,
    pub checksum_algorithm: Option<String>,
    pub checksum_full_object: bool,
    pub initiated: Timestamp,
    pub state: UploadState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UploadState {
    Open,
    Completing,
    Done,
    Aborted,
}

/// The backend's own upload id, stored before the first part. If another caller stored one first, that one stands and is
/// answered; the caller aborts its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetBackendUpload {
    pub upload: UploadId,
    pub backend_upload: String,
}

/// Charges a part's bytes to the upload's blob. `Busy` while another attempt of a living incarnation for the same number
/// is under way; `NoSpace` when the backend has no room; `NoSuchUpload` unless open and of this bucket and key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BeginPart {
    pub incarnation: Incarnation,
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub upload: UploadId,
    pub number: PartNumber,
    pub size: u64,
    /// Names the attempt: a directory's part file, and the answer to "is this attempt still the current one".
    pub nonce: Nonce,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartBegun {
    pub upload: Upload,
    pub nonce: Nonce,
}

/// The part is stored: it replaces a former one of the same number, whose bytes are no longer charged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommitPart {
    pub incarnation: Incarnation,
    pub upload: UploadId,
    pub nonce: Nonce,
    pub part: PartRecord,
}

/// Ends an attempt. With `may_have_replaced` the backend may hold the attempt's bytes under this number (its whole body
/// was sent), so a former part of that number is forgotten and both stay charged until the upload ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AbandonPart {
    pub incarnation: Incarnation,
    pub upload: UploadId,
    pub number: PartNumber,
    pub nonce: Nonce,
    pub may_have_replaced: bool,
}

/// open -> completing(manifest, version). The same manifest again while completing goes on from where it was; another
/// one is `Busy`; after done, the same manifest gets the same answer again and another is `InvalidPart`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StartComplete {
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub upload: UploadId,
    /// Part numbers and ETags (without quotes), as the client sent them, in its order.
    pub manifest: Vec<(PartNumber, String)>,
    pub condition: WriteCondition,
    /// The 5 MiB rule for all parts but the last.
    pub enforce_min_part_size: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CompleteStarted {
    Go { upload: Upload, version: Version, parts: Vec<PartRecord> },
    AlreadyDone { etag: String, record: ObjectRecord, version: Version },
}

/// The backend has assembled the object: its version becomes live as in `CommitWrite`; the upload is done and remembered
/// for at least 24 h. Asking again answers the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FinishComplete {
    pub upload: UploadId,
    pub etag: String,
    pub record: ObjectRecord,
    pub condition: WriteCondition,
}

/// completing -> open, after the backend refused the manifest for good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReopenUpload {
    pub upload: UploadId,
}

/// open -> aborted; the blob is doomed with the backend's upload id, so that cleanup aborts every backend upload under its
/// exact key and then deletes. `Busy` while completing; done or unknown: `NoSuchUpload`; aborted: asked again, done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AbortUpload {
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub upload: UploadId,
}

/// The bytes are gone (204 or NoSuchKey from a backend whose marker was seen). The row and its charge end, unless the blob
/// may still appear and its settle time has not passed: then it stays and is due again at the end of that time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CleanupDone {
    pub blob: BlobId,
}

/// A DELETE failed: attempts + 1, due again after 1 min doubling to 24 h; the tenth failure makes it dead, still charged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CleanupFailed {
    pub blob: BlobId,
    pub error: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CleanupFailedOutcome {
    /// It became dead with this attempt.
    pub dead: bool,
}

/// Absolute values of this incarnation for a month; sending them twice changes nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordUsage {
    pub incarnation: Incarnation,
    /// `YYYY-MM`, UTC.
    pub period: String,
    pub backends: Vec<(BackendName, Usage)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    pub api_requests: u64,
    pub egress_bytes: u64,
    pub ingress_bytes: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordFacts {
    pub backend: BackendName,
    pub facts: BackendFacts,
}

/// Forgets what has had its time: batches after 1 h, finished uploads after 24 h, versions without blobs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ForgetOld;

/// Nothing more to say than that it was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done;

/// Pairs each change with its outcome, so that a caller gets the type it asked for.
pub trait Step: Into<Change> {
    type Outcome;
    /// Panics only when a store answers one change with another's outcome.
    fn outcome(outcome: Outcome) -> Self::Outcome;
}

macro_rules! steps {
    ($($name:ident -> $outcome:ty),* $(,)?) => {
        /// One step of the write protocol.
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub enum Change { $($name($name)),* }

        /// What became of a change.
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub enum Outcome { $($name(Result<$outcome, Refusal>)),* }

        impl Change {
            /// The refusal of this kind of change, as its outcome.
            pub fn refused(&self, refusal: Refusal) -> Outcome {
                match self { $(Self::$name(_) => Outcome::$name(Err(refusal))),* }
            }
        }

        $(impl From<$name> for Change {
            fn from(step: $name) -> Self { Self::$name(step) }
        }

        impl Step for $name {
            type Outcome = Result<$outcome, Refusal>;
            fn outcome(outcome: Outcome) -> Self::Outcome {
                match outcome {
                    Outcome::$name(outcome) => outcome,
                    other => panic!("a store answered {} with {other:?}", stringify!($name)),
                }
            }
        })*
    };
}

steps! {
    Register -> Registered,
    BeginWrite -> Begun,
    CommitWrite -> Committed,
    AbandonWrite -> Done,
    Delete -> Deleted,
    BeginCopy -> Begun,
    CommitCopy -> Done,
    RemoveCopy -> Done,
    CreateUpload -> Upload,
    SetBackendUpload -> Upload,
    BeginPart -> PartBegun,
    CommitPart -> Done,
    AbandonPart -> Done,
    StartComplete -> CompleteStarted,
    FinishComplete -> Committed,
    ReopenUpload -> Done,
    AbortUpload -> Done,
    CleanupDone -> Done,
    CleanupFailed -> CleanupFailedOutcome,
    RecordUsage -> Done,
    RecordFacts -> Done,
    ForgetOld -> Done,
}

/// A read of the metadata. `Lookup` is on the request path; the others are listings and workers' scans.
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
    /// Doomed blobs whose time has come, oldest due first.
    DueCleanups {
        max: u32,
    },
    /// Live versions with fewer than `factor` live blobs on the `counted` backends, after this (bucket, key), in order.
    UnderReplicated {
        factor: u32,
        counted: Vec<BackendName>,
        after: Option<(String, String)>,
        max: u32,
    },
    /// How many there are, counting no further than `max`.
    UnderReplicatedCount {
        factor: u32,
        counted: Vec<BackendName>,
        max: u64,
    },
    /// When the next doomed blob comes due, if any.
    NextCleanup,
    Status {
        period: String,
    },
    /// Every blob row on a backend in pages ordered by name; for tests and audits of charges against bytes.
    Blobs {
        backend: BackendName,
        after: String,
        max: u32,
    },
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListQuery {
    pub bucket: String,
    pub prefix: String,
    /// Empty: none.
    pub delimiter: String,
    /// Keys and common prefixes greater than this, in byte order. A common prefix as `after` skips all below it.
    pub after: String,
    /// Entries of both kinds together, 0 to 1000.
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

/// A doomed blob that is due.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DueCleanup {
    pub blob: BlobAt,
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
    pub state: BlobState,
    pub bytes: u64,
    pub version: Version,
    pub reason: String,
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
    pub usage: Usage,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Lookup(Option<Located>),
    Copies(Vec<BlobAt>),
    List(ListPage),
    Upload(Option<Upload>),
    Parts { parts: Vec<PartRecord>, truncated: bool },
    DueCleanups(Vec<DueCleanup>),
    UnderReplicated(Vec<(BucketName, ObjectKey, Located)>),
    Count(u64),
    NextCleanup(Option<Timestamp>),
    Status(Vec<BackendStatus>),
    Blobs(Vec<BlobRow>),
}

/// The id of a batch, in `batches`; random, made by the desk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BatchId(pub u64, pub u64);

/// What a batch did.
#[derive(Clone, PartialEq, Debug)]
pub struct Applied {
    /// One per change, in order.
    pub outcomes: Vec<Outcome>,
    /// Bytes charged in all on the backends that the batch touched, after it.
    pub charged: Vec<(BackendName, u64)>,
}

/// Why a batch has no outcomes.
#[derive(Clone, Debug)]
pub enum ApplyError {
    /// Rolled back, or never begun: nothing happened.
    NotApplied(Failure),
    /// The COMMIT was sent and its answer lost: ask `resolve` before anything runs again.
    Unknown(Failure),
}

/// A database. One implementation passes `store/conformance.rs` or is not one.
pub trait MetadataStore {
    /// Carries out the changes as one transaction that is durable when this returns. No two changes of a batch concern
    /// the same key. Cancel: NOT safe.
    fn apply(&self, id: BatchId, changes: Vec<Change>) -> impl Future<Output = Result<Applied, ApplyError>>;
    /// The outcomes of a batch whose answer was lost; None if it never committed (and now never will).
    fn resolve(&self, id: BatchId) -> impl Future<Output = Result<Option<Applied>, Failure>>;
    /// Cancel: safe.
    fn query(&self, query: Query) -> impl Future<Output = Result<Answer, Failure>>;
}

/// Times of the protocol (PROTOCOL.md; configuration keys in brackets), given to a store when it is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// Displaced copies stay readable so long (`cleanup_queue.grace`, 5 min).
    pub grace: std::time::Duration,
    /// A body may appear on a backend so long after it was given up (`write_path.settle`, 20 min).
    pub settle: std::time::Duration,
    /// First retry of a failed DELETE, doubling up to the second (1 min, 24 h).
    pub retry_first: std::time::Duration,
    pub retry_max: std::time::Duration,
    /// Failed DELETEs until a blob is dead (10).
    pub attempts_max: u32,
}

/// What handlers and workers hold: the way to the metadata desk.
pub trait Metadata {
    /// Fills `into` with the live version of a key; false if there is none. Served from the location cache when it can be.
    /// Fails with `Kind::Overloaded` when the mailbox is full. Cancel: NOT safe.
    fn lookup(&self, bucket: &str, key: &str, into: &mut Located) -> impl Future<Output = Result<bool, Failure>>;
    /// Cancel: NOT safe.
    fn query(&self, query: Query) -> impl Future<Output = Result<Answer, Failure>>;
    /// Begins may fail with `Kind::Overloaded`; ends of what was begun never do. Cancel: NOT safe.
    fn change(&self, change: Change) -> impl Future<Output = Result<Outcome, Failure>>;

    /// `change`, typed.
    fn step<S: Step>(&self, step: S) -> impl Future<Output = Result<S::Outcome, Failure>> {
        async { self.change(step.into()).await.map(S::outcome) }
    }
}
