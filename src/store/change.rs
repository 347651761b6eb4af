//! The steps of the write protocol (PROTOCOL.md): each a plain value that a store carries out whole or refuses.
//!
//! Handlers and workers make them, the desk gathers them into batches, a `MetadataStore` runs a batch as one transaction.
//! A refusal is an outcome, not an error, so it cannot fail its neighbours. Nothing here knows a database.

use super::operator::{Adopt, Adopted, DropCopy, Dropped, FinishDrain, Requeue, SetLimits, SetRestored, WriteOff};
use super::query::BucketRow;
use super::record::{BackendFacts, BlobAt, ObjectRecord, PartRecord};
use crate::base::{
    BackendName, BlobId, BucketName, Incarnation, Nonce, ObjectKey, PartNumber, Timestamp, UploadId, Version,
};
use std::time::Duration;

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
    /// The live version must have this size (`x-amz-if-match-size` of a delete).
    pub size_is: Option<u64>,
    /// The live version must be of this second (`x-amz-if-match-last-modified-time` of a delete).
    pub modified_at: Option<Timestamp>,
}

/// What conditions are tested against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Existing<'a> {
    pub etag: &'a str,
    pub size: u64,
    pub modified: Timestamp,
}

impl WriteCondition {
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// What becomes of a write that a later one, or a delete, has overtaken: committed as already overwritten, which a
    /// conditional one must not be, and which it is not either if whoever overtook it had a condition that did not see it.
    pub fn overtaken(&self, by: Overtaken, version: Version, modified: Timestamp) -> Result<Committed, Refusal> {
        match by {
            Overtaken::ByBucketsEnd => Err(Refusal::NoSuchBucket),
            _ if !self.is_none() => Err(Refusal::Conflict),
            Overtaken::ByWrite => Ok(Committed::Overwritten { version, modified }),
            Overtaken::ByCondition | Overtaken::No => Err(Refusal::Lost),
        }
    }

    /// Whether the live version (None: there is none) lets the change happen.
    /// AWS answers 404 NoSuchKey to an If-Match on a key that does not exist, 412 otherwise.
    pub fn test(&self, live: Option<Existing<'_>>) -> Result<(), Refusal> {
        let Some(live) = live else {
            let needs_one = self.etag_in.is_some() || self.size_is.is_some() || self.modified_at.is_some();
            return if needs_one { Err(Refusal::NoSuchKey) } else { Ok(()) };
        };
        let matches = |etags: &[String]| etags.iter().any(|one| one == "*" || one == live.etag);
        let holds = !self.must_not_exist
            && !self.etag_not_in.iter().any(|one| one == live.etag)
            && self.etag_in.as_deref().is_none_or(matches)
            && self.size_is.is_none_or(|size| size == live.size)
            && self.modified_at.is_none_or(|at| at.seconds() == live.modified.seconds());
        if holds { Ok(()) } else { Err(Refusal::PreconditionFailed) }
    }
}

/// Whether something that was committed since a write was begun has overtaken it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Overtaken {
    #[default]
    No,
    /// Only by conditional ones: their conditions were true of a key that this write had not touched, so it cannot be said
    /// to have happened before them.
    ByCondition,
    /// By an unconditional write or delete: it may be said to have happened just before that.
    ByWrite,
    /// Its stored bucket was deleted, empty: it cannot have happened before that, and nowhere after.
    ByBucketsEnd,
}

impl Overtaken {
    /// By a change with this condition.
    pub fn by(condition: &WriteCondition) -> Self {
        if condition.is_none() { Self::ByWrite } else { Self::ByCondition }
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
    /// The blob is no longer ours to commit (recovery doomed it, a conditional write overtook it), the version to be copied
    /// is no longer live, the blob is not in the state that the change needs, or the change comes from an incarnation that
    /// has ended. A blob that a commit named and that was still reserved is doomed now.
    Lost,
    /// Another attempt for the same part is under way, an upload is being completed (409 OperationAborted), or too few other
    /// copies would remain.
    Busy,
    InvalidPart,
    InvalidPartOrder,
    EntityTooSmall,
    EntityTooLarge,
    /// The bucket's `max_multipart_uploads` is reached.
    TooManyUploads,
    /// A stored bucket that is not there, or was deleted while the write was under way.
    NoSuchBucket,
    /// A bucket with objects or open uploads is not deleted.
    BucketNotEmpty,
    /// Its user owns as many as it may.
    TooManyBuckets,
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
    /// The database was restored and `sync` has not run yet (`SetRestored`).
    pub restored: bool,
    pub facts: Vec<(BackendName, BackendFacts)>,
    /// Backends of the configuration that are draining.
    pub draining: Vec<BackendName>,
    /// Backends that rows name but the configuration does not, with the number of live blobs there.
    pub unknown_backends: Vec<(BackendName, u64)>,
}

/// Renews this run's lease (PROTOCOL.md, "Who is alive"). `judge`: runs whose lease has lapsed are ended, their leftovers
/// given up, never promoted; only for a caller whom the database has answered without a break for one full term. `leave`: the
/// lease ends now. `Lost` if this run has been ended: then it registers anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Renew {
    pub incarnation: Incarnation,
    pub judge: bool,
    pub leave: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Renewed {
    /// Runs that were ended, and their blobs that were doomed.
    pub ended: u64,
    pub doomed: u64,
}

/// The right to run a background job, held until the run ends. `Busy` while another run that has not ended holds it. The
/// incarnation is its fence: a batch of one that has ended is not carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TakeService {
    pub incarnation: Incarnation,
    pub service: String,
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
    /// The bucket is a stored one: `NoSuchBucket` unless its row is there.
    pub in_stored: bool,
    pub key: ObjectKey,
    /// Bytes that the blob will hold.
    pub size: u64,
    pub candidates: Vec<Candidate>,
    pub condition: WriteCondition,
    pub nonce: Nonce,
    /// An attempt that failed: doomed here, whatever the outcome; the new blob keeps its version, and its fate if that was
    /// superseded meanwhile. `Lost` if it was no longer reserved by this incarnation.
    pub instead_of: Option<GivenUp>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Begun {
    pub version: Version,
    pub blob: BlobAt,
}

/// A blob whose bytes its backend has acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    pub blob: BlobId,
    /// The version id that a versioned bucket returned; empty if none. A delete names it.
    pub version_id: String,
}

/// PROTOCOL.md, "A write", 3. All `blobs` are copies of one version of this key. `Lost` if any of them is not reserved by
/// this incarnation, or if that version is live already (then they are `CommitCopy`'s); those that are, are then doomed. A
/// refused condition dooms them all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommitWrite {
    pub incarnation: Incarnation,
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub blobs: Vec<Written>,
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

impl Committed {
    pub fn version(self) -> Version {
        match self {
            Self::Live { version, .. } | Self::Overwritten { version, .. } => version,
        }
    }
}

/// PROTOCOL.md, "A write", 4; also ends a copy that was begun. Idempotent; a blob that is not reserved by this incarnation,
/// or that belongs to an upload, is left alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AbandonWrite {
    pub incarnation: Incarnation,
    pub given_up: GivenUp,
    pub reason: String,
}

/// Removes the key's live version: its blobs are doomed with the grace. Every write of the key that is under way is
/// superseded, whether there was a live version or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delete {
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub condition: WriteCondition,
}

/// Replaces the tags of the key's live version; nothing else of it changes. `NoSuchKey` if there is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetTags {
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub tags: Vec<(String, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deleted {
    pub existed: bool,
}

/// Reserves one more copy of a live version on the first candidate that fits and holds no live or reserved blob of it yet.
/// Refused: `Lost` (no longer live), `NoSpace` (or every candidate holds one); nobody's grace is shortened for a copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BeginCopy {
    pub incarnation: Incarnation,
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub version: Version,
    pub candidates: Vec<Candidate>,
    pub nonce: Nonce,
}

/// The copy is live if its version still is and the target neither drains nor has got another copy (`Adopt`) meanwhile;
/// otherwise it is doomed and the answer `Lost`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommitCopy {
    pub incarnation: Incarnation,
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub written: Written,
}

/// Dooms one live copy, with the grace, if at least `floor` (never less than 1) other live blobs of its version are on
/// backends that are neither draining nor in `not_counted`; otherwise `Busy`. `Lost` if it is not live.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemoveCopy {
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub blob: BlobId,
    pub floor: u32,
    pub not_counted: Vec<BackendName>,
    pub reason: String,
}

/// PROTOCOL.md, "Multipart". Reserves the upload's blob on the first candidate that has any room (0 bytes charged until
/// parts come); it has no lease. `Conflict` if the id is taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreateUpload {
    pub bucket: BucketName,
    /// As in `BeginWrite`.
    pub in_stored: bool,
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
/// answered; the caller aborts its own. `NoSuchUpload` if it was aborted meanwhile (the caller aborts its own, too).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetBackendUpload {
    pub upload: UploadId,
    pub backend_upload: String,
}

/// Charges a part's bytes to the upload's blob. `Busy` while another attempt for the same number is under way, and while
/// completing; `NoSpace` or `NoSpaceYet` when the backend has no room or is draining; `NoSuchUpload` unless open and of
/// this bucket and key.
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

/// The part is stored: it replaces a former one of the same number, which stays charged until the upload ends, because a
/// directory keeps its file that long. `Lost` if this is not the current attempt for the number; `Busy` while completing
/// and `NoSuchUpload` when the upload has ended: then the attempt's bytes stay charged as long as the upload's blob.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommitPart {
    pub incarnation: Incarnation,
    pub upload: UploadId,
    pub nonce: Nonce,
    pub part: PartRecord,
}

/// Ends an attempt; idempotent. With `may_have_replaced` the backend may hold the attempt's bytes under this number (its
/// whole body was sent), so a former part of that number is forgotten and both stay charged until the upload ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AbandonPart {
    pub incarnation: Incarnation,
    pub upload: UploadId,
    pub number: PartNumber,
    pub nonce: Nonce,
    pub may_have_replaced: bool,
}

/// open -> completing(manifest, version). The same manifest again while completing goes on from where it was; another
/// one is `Busy`; after done, the same manifest gets the same answer again and another is `InvalidPart`. `Busy` too while
/// an attempt for a part of the manifest is under way. The version is minted here, so that a write or delete that is
/// committed later supersedes this upload.
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
// One per completed upload, moved once: a box would cost more than it saves.
#[allow(clippy::large_enum_variant)]
pub enum CompleteStarted {
    /// `joined`: an earlier Complete of the same manifest began it, with this version, and may be at the backend still.
    Go {
        upload: Upload,
        version: Version,
        parts: Vec<PartRecord>,
        joined: bool,
    },
    AlreadyDone {
        etag: String,
        record: ObjectRecord,
        version: Version,
    },
}

/// The backend has assembled the object: its version becomes live as in `CommitWrite`; the upload is done and remembered
/// for at least 24 h. Asking again answers the same. If the condition refuses it, the upload has ended with nothing to show
/// for it (aborted) and the blob is doomed; so it has when a conditional write overtook it (`Lost`). `Lost` too if it is not
/// being completed as this version: what a former manifest has made is not what a later one names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FinishComplete {
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub upload: UploadId,
    /// As `StartComplete` answered.
    pub version: Version,
    /// The version id that a versioned bucket returned; empty if none.
    pub version_id: String,
    pub etag: String,
    pub record: ObjectRecord,
    pub condition: WriteCondition,
}

/// completing -> open, after the backend refused the manifest for good; nothing if it is not being completed as this version
/// (any more). Another Complete of the manifest may be at the backend still: what it makes is waited for before the blob goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReopenUpload {
    pub upload: UploadId,
    /// As `StartComplete` answered.
    pub version: Version,
}

/// open -> aborted; the blob is doomed with the backend's upload id, so that cleanup aborts every backend upload under its
/// exact key and then deletes. `Busy` while completing; done or unknown: `NoSuchUpload`; aborted: asked again, done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AbortUpload {
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub upload: UploadId,
}

/// Aborts an upload that nobody finished: open and older than `age`, or completing since longer than that, when nobody is
/// at it any more. `Busy` if it is younger; ended or unknown: `NoSuchUpload`. What it leaves is doomed as by `AbortUpload`;
/// what its backend may have assembled can still appear.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AbortStale {
    pub upload: UploadId,
    pub age: Duration,
}

/// The bytes are gone (204 or NoSuchKey from a backend whose marker was seen). The row and its charge end, unless the blob
/// may still appear and `found` lies before the end of its settle time: then it stays and is due again at that end.
/// Idempotent; `Lost` for a blob that is not doomed or dead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CleanupDone {
    pub blob: BlobId,
    /// `DueCleanup::found` of the answer that the DELETE followed from: it was sent after this, by the database's clock.
    pub found: Timestamp,
}

/// A DELETE failed: attempts + 1, due again after 1 min doubling to 24 h; the tenth failure makes it dead, still charged.
/// A blob that is not doomed (any more) is left alone.
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

/// Asks for this incarnation's leases of backends' budgets (policy/usage.rs). Every value is absolute for the month, so that
/// a lost answer or a second asking lends nothing twice: what is lent is what the row says afterwards, whoever heard of it.
/// Of a budget's limit, each incarnation takes the most that it was lent, says that it has used, or has recorded as usage
/// under the same counter; one that has died keeps that. In a transaction of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseBudgets {
    pub incarnation: Incarnation,
    /// `YYYY-MM`, UTC.
    pub period: String,
    pub asks: Vec<BudgetAsk>,
}

/// One budget of a backend, as an incarnation has it and wants it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BudgetAsk {
    pub backend: BackendName,
    /// `egress_bytes`, `ingress_bytes`, `api_requests`, or `pool:` and a pool's name.
    pub counter: String,
    /// 0 = unlimited: it is only counted.
    pub limit: u64,
    /// What it holds: it will spend no more without a new answer. Less than it was lent gives the rest back; more was spent on
    /// what is never refused.
    pub holds: u64,
    /// What it has spent.
    pub used: u64,
    /// The most of that which bodies may have under way: if the month turns, they go on in the next one.
    pub under_way: u64,
    /// As `policy::usage::lend` takes them.
    pub least: u64,
    pub waiting: u64,
    pub slice: u64,
}

/// One per ask, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BudgetsLeased {
    pub leases: Vec<BudgetLease>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BudgetLease {
    /// What it may spend in all: `holds` or more.
    pub granted: u64,
    /// What nobody has been lent, afterwards.
    pub free: u64,
    /// And what besides is kept for incarnations that may carry it over from the month before (`store/lending.rs`).
    pub held_back: u64,
    /// Whether the next month keeps room for what it has under way, should nothing be heard of it until then.
    pub goes_on: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordFacts {
    pub backend: BackendName,
    pub facts: BackendFacts,
}

/// A draining backend takes no new blobs, copies or parts; what is reserved there may still be committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetDraining {
    pub backend: BackendName,
    pub draining: bool,
}

/// Forgets what has had its time, a bounded amount per call (ask again a minute later): ended uploads after 24 h, those
/// that made an object not before that version is gone (their parts tell where its parts begin); and old batches. Whatever
/// its place in a batch, it is carried out last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ForgetOld;

/// Makes a stored bucket. One of that name stays as it is and is answered; names of the configuration's buckets are the
/// caller's to refuse.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreateBucket {
    pub bucket: BucketName,
    /// The user's name.
    pub owner: String,
    /// As asked for; empty: the default.
    pub region: String,
    /// A user that owns so many gets no more: `TooManyBuckets`.
    pub buckets_max: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BucketCreated {
    pub row: BucketRow,
    /// Made by this change.
    pub new: bool,
    /// The state of the stored buckets that has this one (`Buckets::generation`).
    pub generation: u64,
}

/// Ends a stored bucket that holds no object and no open upload, else `BucketNotEmpty`. Writes into it that are under way
/// are refused when they commit: nothing comes to be in a bucket that is gone, nor in the next one of its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeleteBucket {
    pub bucket: BucketName,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BucketDeleted {
    pub generation: u64,
}

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
    SetLimits -> Done,
    Renew -> Renewed,
    TakeService -> Done,
    BeginWrite -> Begun,
    CommitWrite -> Committed,
    AbandonWrite -> Done,
    Delete -> Deleted,
    SetTags -> Done,
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
    AbortStale -> Done,
    CleanupDone -> Done,
    CleanupFailed -> CleanupFailedOutcome,
    RecordUsage -> Done,
    LeaseBudgets -> BudgetsLeased,
    RecordFacts -> Done,
    SetDraining -> Done,
    CreateBucket -> BucketCreated,
    DeleteBucket -> BucketDeleted,
    ForgetOld -> Done,
    Requeue -> Done,
    WriteOff -> Done,
    FinishDrain -> Done,
    DropCopy -> Dropped,
    Adopt -> Adopted,
    SetRestored -> Done,
}

/// What a change concerns. Two changes that share a subject are never in one batch, nor in two that are under way together, and
/// keep their order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Subject<'a> {
    /// Runs in a batch of its own.
    Everything,
    Key(&'a BucketName, &'a ObjectKey),
    Upload(&'a UploadId),
    Blob(BlobId),
    Backend(&'a BackendName),
}

impl Change {
    pub fn subjects(&self) -> [Option<Subject<'_>>; 2] {
        fn key<'a>(bucket: &'a BucketName, key: &'a ObjectKey) -> Option<Subject<'a>> {
            Some(Subject::Key(bucket, key))
        }
        match self {
            // A bucket ends for all of its keys, and both are rare.
            Self::Register(_) | Self::SetLimits(_) => [Some(Subject::Everything), None],
            Self::CreateBucket(_) | Self::DeleteBucket(_) => [Some(Subject::Everything), None],
            Self::Renew(_) | Self::TakeService(_) | Self::LeaseBudgets(_) => [Some(Subject::Everything), None],
            Self::BeginWrite(one) => [key(&one.bucket, &one.key), None],
            Self::CommitWrite(one) => [key(&one.bucket, &one.key), None],
            Self::AbandonWrite(one) => [Some(Subject::Blob(one.given_up.blob)), None],
            Self::Delete(one) => [key(&one.bucket, &one.key), None],
            Self::SetTags(one) => [key(&one.bucket, &one.key), None],
            Self::BeginCopy(one) => [key(&one.bucket, &one.key), None],
            Self::CommitCopy(one) => [key(&one.bucket, &one.key), None],
            Self::RemoveCopy(one) => [key(&one.bucket, &one.key), None],
            Self::CreateUpload(one) => [key(&one.bucket, &one.key), Some(Subject::Upload(&one.upload))],
            Self::SetBackendUpload(one) => [Some(Subject::Upload(&one.upload)), None],
            Self::BeginPart(one) => [Some(Subject::Upload(&one.upload)), None],
            Self::CommitPart(one) => [Some(Subject::Upload(&one.upload)), None],
            Self::AbandonPart(one) => [Some(Subject::Upload(&one.upload)), None],
            Self::StartComplete(one) => [key(&one.bucket, &one.key), Some(Subject::Upload(&one.upload))],
            Self::FinishComplete(one) => [key(&one.bucket, &one.key), Some(Subject::Upload(&one.upload))],
            Self::ReopenUpload(one) => [Some(Subject::Upload(&one.upload)), None],
            Self::AbortUpload(one) => [Some(Subject::Upload(&one.upload)), None],
            Self::AbortStale(one) => [Some(Subject::Upload(&one.upload)), None],
            Self::CleanupDone(one) => [Some(Subject::Blob(one.blob)), None],
            Self::CleanupFailed(one) => [Some(Subject::Blob(one.blob)), None],
            Self::RecordUsage(_) | Self::ForgetOld(_) => [None, None],
            Self::RecordFacts(one) => [Some(Subject::Backend(&one.backend)), None],
            Self::SetDraining(one) => [Some(Subject::Backend(&one.backend)), None],
            Self::Requeue(one) => [Some(Subject::Blob(one.blob)), None],
            Self::WriteOff(one) => [Some(Subject::Blob(one.blob)), None],
            // Of all that could be begun on it meanwhile, nothing is known before the batch.
            Self::FinishDrain(_) | Self::SetRestored(_) => [Some(Subject::Everything), None],
            Self::DropCopy(one) => [key(&one.bucket, &one.key), Some(Subject::Blob(one.blob))],
            Self::Adopt(one) => [key(&one.bucket, &one.key), None],
        }
    }

    /// The key whose live version (its tags included), or its live blobs, this change may alter: what a cache must not answer meanwhile.
    pub fn alters(&self) -> Option<(&BucketName, &ObjectKey)> {
        match self {
            Self::CommitWrite(one) => Some((&one.bucket, &one.key)),
            Self::Delete(one) => Some((&one.bucket, &one.key)),
            Self::SetTags(one) => Some((&one.bucket, &one.key)),
            Self::CommitCopy(one) => Some((&one.bucket, &one.key)),
            Self::RemoveCopy(one) => Some((&one.bucket, &one.key)),
            Self::FinishComplete(one) => Some((&one.bucket, &one.key)),
            Self::DropCopy(one) => Some((&one.bucket, &one.key)),
            Self::Adopt(one) => Some((&one.bucket, &one.key)),
            _ => None,
        }
    }

    /// Begins and other first steps, which may be refused when there is too much to do. Ends of what was begun never are.
    pub fn may_be_refused(&self) -> bool {
        matches!(
            self,
            Self::BeginWrite(_)
                | Self::Delete(_)
                | Self::SetTags(_)
                | Self::BeginCopy(_)
                | Self::CreateUpload(_)
                | Self::BeginPart(_)
                | Self::StartComplete(_)
                | Self::CreateBucket(_)
                | Self::DeleteBucket(_)
        )
    }
}
