//! The backend port: every call concerns one blob by its exact name, or one backend.
//!
//! A body is opened at both ends and then moved by one call of the side that owns the client (`handlers::ports::Exchange`)
//! or by `Backends::copy`; a caller never sees a chunk. Failures carry whose fault they are and what may be tried again:
//! `Kind::NotFound` only when the backend itself was seen (its marker), never for a missing bucket or an unmounted
//! directory.

use super::travel::Luggage;
use crate::base::{BackendName, Failure, Incarnation, Mandate, PartNumber};
use crate::proto::body_check::BodyCheck;
use crate::store::record::{BlobAt, ObjectRecord, PartRecord};

/// A part of a blob, in bytes. `len` may be 0 only for an empty blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    pub from: u64,
    pub len: u64,
}

/// How the payload of an upstream PUT is signed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpstreamPayload {
    /// The body's SHA-256 is known: declared by the client, or of a body that is in hand.
    Sha256([u8; 32]),
    /// Nobody knows it yet: the body goes in chunks, each signed as it passes. Only for bodies that are moved into a sink.
    Chunked,
    Unsigned,
}

/// A new blob, or a part of a multipart upload.
#[derive(Clone, Copy, Debug)]
pub enum PutTarget<'a> {
    /// What travels with the blob as far as the backend's metadata limit allows, so that degraded reads can answer.
    Object(Luggage<'a>),
    /// `nonce` names the attempt; a directory keeps each attempt in a file of its own until it is committed.
    Part { backend_upload: &'a str, number: PartNumber, nonce: &'a str },
}

#[derive(Clone, Copy, Debug)]
pub struct Put<'a> {
    /// Who has reserved the blob, or begun the part: nothing is written when its lease has passed.
    pub incarnation: Incarnation,
    pub blob: &'a BlobAt,
    pub target: PutTarget<'a>,
    /// Exact length of the body.
    pub size: u64,
    pub payload: UpstreamPayload,
    /// One checksum header that the client declared (`x-amz-checksum-crc32`, …; base64), for the backend to verify.
    /// Sent only where the backend was measured to verify (`BackendFacts`) and nobody else looks at the body.
    pub checksum: Option<(&'a str, &'a str)>,
}

/// A backend's answer to a finished body or a completed upload.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stored {
    /// Without quotes; empty if the backend gave none (a directory). Of a part: what `complete_upload` must name it by, kept
    /// as `PartRecord::backend_etag`; a directory answers the attempt's nonce, so it is the MD5 only where that was measured.
    pub etag: String,
    /// The version id that a versioned bucket returned: deletes must name it.
    pub version_id: String,
}

/// What a backend says of a blob.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlobHead {
    pub size: u64,
    /// Empty if the backend gives none (a directory).
    pub etag: String,
    /// What travelled with the blob (travel.rs).
    pub record: ObjectRecord,
    /// The key that travelled with a hashed name, as the backend says it: only the name proves it.
    pub key: Option<String>,
    /// Of parts.
    pub assembled: bool,
}

/// One page of a backend's listing, in byte order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BlobPage {
    /// Name and size.
    pub blobs: Vec<(String, u64)>,
    /// Pass as `after` for the next page; None at the end.
    pub next: Option<String>,
}

/// What a write that has not ended keeps on a backend beside its blob.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Unfinished {
    /// As `directory::paths::unfinished` derives it from the blob's name; an upload's with `PARTS_SUFFIX`.
    pub path: String,
    pub bytes: u64,
}

/// Which side ended a movement of bytes early.
#[derive(Clone, Debug)]
pub enum MoveEnd {
    /// Exactly the expected bytes were moved (and, with checks, found right).
    Done,
    /// The source failed after `Moved::bytes` had reached the sink. A backend's source may be resumed elsewhere.
    Source(Failure),
    /// The sink failed. The source's remaining bytes were not read.
    Sink(Failure),
    /// The body is not what was declared (checksum, chunk signature, trailer, framing). The last bytes were withheld, so
    /// the sink never became complete. The error is the client's.
    Refused(crate::proto::error_code::S3Error),
}

/// What a movement of bytes did.
#[derive(Clone, Debug)]
pub struct Moved {
    /// Bytes handed to the sink's side; counted as sent.
    pub bytes: u64,
    pub end: MoveEnd,
}

/// The backends, as one core reaches them.
pub trait Backends {
    /// A blob opened for reading: the backend has answered and the first body byte may be waiting.
    type Source;
    /// A place opened for writing: connected, nothing of the body sent.
    type Sink;

    /// Opens `span` of a blob of `size` bytes. The backend's answer is checked: status, exact length, range, and for a
    /// `foreign_etag` the ETag. Cancel: NOT safe.
    fn open(&self, blob: &BlobAt, size: u64, span: Span) -> impl Future<Output = Result<Self::Source, Failure>>;

    /// Opens a place for a body. A pooled connection that has gone stale is replaced here or at the first byte, unseen by
    /// the caller. Cancel: NOT safe.
    fn create(&self, put: Put<'_>) -> impl Future<Output = Result<Self::Sink, Failure>>;

    /// Ends a body that was moved whole: the backend's answer to it. For a directory: durable under its final name.
    /// Cancel: NOT safe.
    fn finish(&self, sink: Self::Sink) -> impl Future<Output = Result<Stored, Failure>>;

    /// Gives a sink up: nothing of it becomes visible, unless the whole body had been sent. Cancel: NOT safe.
    fn discard(&self, sink: Self::Sink) -> impl Future<Output = ()>;

    /// Writes a body that is in hand. Cancel: NOT safe.
    fn put_bytes(&self, put: Put<'_>, body: &[u8]) -> impl Future<Output = Result<Stored, Failure>>;

    /// Moves a whole body between backends, through `check` as far as that must look at it; `check.end` is called before
    /// the last bytes go. Cancel: NOT safe.
    fn copy(&self, source: Self::Source, sink: &mut Self::Sink, check: &mut BodyCheck) -> impl Future<Output = Moved>;

    /// Makes a blob or a part out of `span` of another blob, of `size` bytes, on the same backend, which copies within itself
    /// (`BackendFacts::copies`): the bytes never leave it. `put.size` is the span's length. Cancel: NOT safe.
    fn copy_within(
        &self,
        from: &BlobAt,
        size: u64,
        span: Span,
        put: Put<'_>,
    ) -> impl Future<Output = Result<Stored, Failure>>;

    /// Deletes by exact name; a directory's temporary and part files of that name go too. Ok = it is gone (204, or
    /// NoSuchKey from a backend whose marker was seen). Not sent any more when `mandate` has passed. Cancel: NOT safe.
    fn delete(&self, blob: &BlobAt, mandate: Mandate) -> impl Future<Output = Result<(), Failure>>;

    /// None: not there. Cancel: NOT safe.
    fn head(&self, blob: &BlobAt) -> impl Future<Output = Result<Option<BlobHead>, Failure>>;

    /// Opens the backend's own multipart upload under the blob's exact name; its id. Cancel: NOT safe.
    fn create_upload(&self, blob: &BlobAt, luggage: Luggage<'_>) -> impl Future<Output = Result<String, Failure>>;

    /// Assembles the blob from parts, in this order. `NotFound` = the backend does not know the upload (any more);
    /// `Refused` = it will never take this manifest. Cancel: NOT safe.
    fn complete_upload(
        &self,
        blob: &BlobAt,
        backend_upload: &str,
        parts: &[PartRecord],
    ) -> impl Future<Output = Result<Stored, Failure>>;

    /// Aborts every upload of the backend under the blob's exact name (`known` first) until none is listed; none any more
    /// when `mandate` has passed. Cancel: NOT safe.
    fn abort_uploads(&self, blob: &BlobAt, known: &str, mandate: Mandate) -> impl Future<Output = Result<(), Failure>>;

    /// Names under a prefix, after `after` (empty: from the start). What appears while a walk goes on from page to page may be
    /// passed over. Cancel: NOT safe.
    fn list(&self, backend: &BackendName, prefix: &str, after: &str)
    -> impl Future<Output = Result<BlobPage, Failure>>;

    /// What unfinished writes have in a directory; nothing of an endpoint's. Cancel: NOT safe.
    fn unfinished(&self, backend: &BackendName) -> impl Future<Output = Result<Vec<Unfinished>, Failure>>;

    /// Removes it, unless `mandate` has passed. Only for what no row names: whose writer can commit nothing.
    /// Cancel: NOT safe.
    fn remove_unfinished(
        &self,
        backend: &BackendName,
        path: &str,
        mandate: Mandate,
    ) -> impl Future<Output = Result<(), Failure>>;
}
