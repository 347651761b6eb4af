//! A local directory as a backend: which files a blob has, how a multipart blob is put together, what a listing shows.
//!
//! All of it is pure; the calls to the file system are the reactor layer's, on its disk threads. What they do, in order:
//!
//! - **put**: open the parent (made if missing), write `temporary`, fsync it, rename it to `leaf`, fsync the parent and
//!   every directory that was new on the way.
//! - **multipart**: `parts` is made in the same parent; each attempt at a part is a file of its own in it, fsynced.
//!   Completing writes the manifest, fsyncs it and the directory, renames `parts` to `leaf`, fsyncs the parent, and then
//!   removes what the manifest does not name. Asked again, it finds the same manifest in place and answers the same.
//! - **delete**: `leaf`, `temporary` and `parts` go, directories with all their files (the manifest last, so that a
//!   delete that broke off is still seen as a blob); then empty parents; then the lowest parent left is fsynced. Every
//!   step takes "not there" for done, so it may be repeated from any point.

pub mod listing;
pub mod manifest;
pub mod paths;
pub mod unfinished;

pub use paths::BlobPath;

use crate::store::record::BackendFacts;

/// The one extended attribute: what travels with a blob (`backend/travel.rs`), as JSON.
pub const XATTR_NAME: &str = "user.s3o";

/// The id that a directory gives to every multipart upload: the blob's exact name says all.
pub const UPLOAD_ID: &str = "directory";

/// A directory needs no measuring: it verifies nothing, gives no entity tags, and what it deletes is gone.
pub const FACTS: BackendFacts = BackendFacts {
    measured: true,
    verifies_sha256: false,
    verifies_crc32: false,
    verifies_crc32c: false,
    verifies_crc64nvme: false,
    etag_is_md5: false,
    copies: true,
    delete_removes: true,
    place: 0,
};
