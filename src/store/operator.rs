//! Steps that operators ask for: dead letters, drained and removed backends, and what `sync` finds on a backend.
//!
//! Each is one transaction like every other change (change.rs); handlers never make them. Made by the workers and by the
//! admin API.

use super::change::BackendLimit;
use super::record::ObjectRecord;
use crate::base::{BackendName, BlobId, BucketName, Nonce, ObjectKey, Version};

/// A dead letter is doomed again, due at once, with all its attempts before it. `Lost` for a blob that is not dead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Requeue {
    pub blob: BlobId,
}

/// An operator knows that the bytes of a dead letter are gone, or does not want to pay for them any more: its row and its
/// charge end. `Lost` for a blob that is not dead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteOff {
    pub blob: BlobId,
}

/// A draining backend that no row of any state names any more is drained. It stays so, and takes nothing, until
/// `SetDraining` says otherwise. `Busy` while rows name it, `Lost` if it is not draining.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FinishDrain {
    pub backend: BackendName,
}

/// What becomes of the bytes of a copy that is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bytes {
    /// They are gone, or nobody can reach them: the row and its charge end at once.
    Gone,
    /// They are deleted like any doomed blob's, at once.
    Deleted,
}

/// Takes a blob of any state out of the books, whatever else there is of its version: the operator removes its backend, or
/// `sync` saw that its bytes are gone. If it was the last live copy, its version ends with it. An upload that it was
/// reserved for ends. Idempotent: a blob without a row is dropped already.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DropCopy {
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub blob: BlobId,
    pub bytes: Bytes,
    /// Only if it is still live, otherwise `Lost`.
    pub only_live: bool,
    pub reason: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dropped {
    /// It was the last live copy: the object is no more.
    pub object_ended: bool,
}

/// A backend holds this blob, and no row names it (`sync`): it gets one, charged whatever the limit says, since its bytes are
/// there. PROTOCOL.md, "Many instances": the newest version of a key wins; one that something newer has displaced is doomed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Adopt {
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub backend: BackendName,
    /// The exact backend key.
    pub name: String,
    /// As its name says; None for an object that somebody else put there, which gets a new one.
    pub version: Option<Version>,
    /// Its version may be newer than its name says: it was assembled from parts, and its version minted after its name.
    pub assembled: bool,
    pub size: u64,
    /// Without quotes.
    pub etag: String,
    /// The backend's ETag of an object that somebody else put there; empty for names of our own form.
    pub foreign_etag: String,
    pub record: ObjectRecord,
    /// Chance for a version that is minted here.
    pub nonce: Nonce,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Adopted {
    /// It is the key's live version now; `displaced`: an older one was.
    Live { version: Version, displaced: bool },
    /// One more copy of the live version.
    Copy,
    /// Something newer is, or was, live, or its backend has a copy already: its bytes are to be deleted.
    Outdated,
    /// A row names it, so the database knows what became of it: nothing was changed.
    Known,
    /// The same, but what will become of it is not known yet: a run that has not ended has reserved it, for no upload.
    UnderWay,
    /// The key is in use and it cannot be said which is newer; its bytes are left alone. What was assembled from parts is a dead
    /// letter now, charged, and its upload has ended; of what somebody else put there nothing was changed.
    Unclear,
}

/// The limits of backends, as the configuration has them now (`quota_bytes`). A lower one than what is charged lets nothing more be
/// charged; backends that no row knows are passed over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetLimits {
    pub backends: Vec<BackendLimit>,
}

/// The database was restored from a backup, so it may not know of what happened since: until this is taken back (`sync` has
/// adopted what it does not know), nothing is deleted from any backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetRestored {
    pub restored: bool,
}

/// Why a blob was doomed by recovery. While a database is held as restored, such a blob may have been committed after the
/// backup was made, and `Adopt` may take it back.
pub const WRITER_GONE: &str = "writer gone";

/// Why a blob is a dead letter that nothing tried to delete: it may be the newest of its key. An operator decides, of each by
/// its id.
pub const UNCLEAR: &str = "unclear";
/// The same, as a dead letter's last error.
pub const WHICH_IS_NEWER: &str = "it cannot be said which is newer, this or what the database knows";

/// Whether a doomed blob of this reason was live once: then everything older of its key was displaced.
pub fn was_live(reason: &str) -> bool {
    ["overwritten", "deleted"].contains(&reason)
}
