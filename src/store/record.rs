//! What the rows hold. One struct describes each thing and is serialised whole, so that no writer can forget a column
//! (TRAPS L7).

use crate::base::{BackendName, BlobId, Timestamp, Version};
use serde::{Deserialize, Serialize};

/// A checksum that the client declared and we verified, or that a completed upload combined. Base64 as on the wire.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoredChecksum {
    /// `CRC32`, `CRC32C`, `CRC64NVME`, `SHA1` or `SHA256`, as `x-amz-checksum-algorithm` spells it.
    pub algorithm: String,
    /// Base64; a composite one ends in `-N`.
    pub value: String,
    /// `COMPOSITE` (of parts) rather than `FULL_OBJECT`.
    #[serde(default)]
    pub composite: bool,
}

/// Everything about a version that a client may read back, except size, ETag and time, which have columns of their own.
/// System headers keep the client's bytes; absent ones are not stored.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ObjectRecord {
    /// Header names in lower case (`content-type`, `cache-control`, `content-disposition`, `content-encoding` without
    /// `aws-chunked`, `content-language`, `expires`), in a fixed order.
    pub headers: Vec<(String, String)>,
    /// Names in lower case without `x-amz-meta-`, in the order sent.
    pub user_metadata: Vec<(String, String)>,
    pub checksums: Vec<StoredChecksum>,
    pub tags: Vec<(String, String)>,
    /// Number of parts when the object came from a multipart upload, else 0.
    pub parts: u16,
}

/// A blob as readers and copiers need it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlobAt {
    pub id: BlobId,
    pub backend: BackendName,
    /// The exact backend key.
    pub name: String,
    /// The backend's own ETag of an imported object, sent as If-Match; empty for names of our own form.
    pub foreign_etag: String,
    /// The version id that a versioned bucket returned: deletes name it. Empty if there is none or it never came back.
    pub version_id: String,
}

/// One committed version and its live blobs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Located {
    pub version: Version,
    pub size: u64,
    /// Without quotes.
    pub etag: String,
    pub modified: Timestamp,
    pub record: ObjectRecord,
    pub blobs: Vec<BlobAt>,
}

impl Located {
    /// An empty one to be filled by a lookup; its buffers are reused from request to request.
    pub fn empty() -> Self {
        Self {
            version: Version::from_parts(0, 0),
            size: 0,
            etag: String::new(),
            modified: Timestamp::default(),
            record: ObjectRecord::default(),
            blobs: Vec::new(),
        }
    }
}

/// The state of a blob (PROTOCOL.md, "Tables"). It changes state and never moves between tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlobState {
    Reserved,
    Live,
    Doomed,
    Dead,
}

impl BlobState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Live => "live",
            Self::Doomed => "doomed",
            Self::Dead => "dead",
        }
    }
}

/// A part as it was stored.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PartRecord {
    pub number: u16,
    pub size: u64,
    /// MD5 of the part in hex, the ETag that the client got.
    pub etag: String,
    /// What the backend calls it, for its CompleteMultipartUpload; empty when it is the same.
    #[serde(default)]
    pub backend_etag: String,
    #[serde(default)]
    pub checksums: Vec<StoredChecksum>,
    /// Milliseconds since 1970.
    pub modified_ms: i64,
}

/// What was measured of a backend (PROTOCOL.md, "Backends are measured, not believed"). False turns the shortcut off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BackendFacts {
    pub measured: bool,
    /// A PUT with a wrong SHA-256 is refused.
    pub verifies_sha256: bool,
    /// A PUT with a right `x-amz-checksum-…` is taken and one with a wrong one is refused, per algorithm.
    pub verifies_crc32: bool,
    pub verifies_crc32c: bool,
    pub verifies_crc64nvme: bool,
    /// The ETag of a plain PUT is the body's MD5.
    pub etag_is_md5: bool,
    /// It copies within itself: a CopyObject from one name to another makes the same bytes there.
    pub copies: bool,
    /// A DELETE leaves nothing behind. Where it does not (a versioned bucket), deletes name the version id.
    pub delete_removes: bool,
    /// Where it was measured (`Place::fingerprint`): of another place under the same name nothing is known.
    pub place: u64,
}
