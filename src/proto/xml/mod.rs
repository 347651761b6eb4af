//! The XML of S3: bodies that clients and backends send, read with bounds; bodies that we send, written straight into a buffer.
//!
//! `walk` reads events for `request` (what clients send) and `answer` (what backends send); `write` holds the writer, and
//! `result` and `listing` the documents made with it. Nothing here resolves entities beyond XML's own five, reads a DTD, or recurses.

mod answer;
mod attributes;
mod listing;
mod request;
mod result;
mod settings;
mod walk;
mod write;

pub use answer::{
    BackendError, CompletedUpload, ListedKey, ListedPage, ListedUpload, ListedUploads, ListedVersion,
    read_complete_result, read_error, read_initiate_result, read_list, read_uploads, read_versions,
};
pub use attributes::{AttributePart, Attributes, PartsPage, write_attributes};
pub use listing::{
    ListEntry, ListHeader, UploadEntry, write_list_objects, write_list_objects_v1, write_list_uploads,
    write_list_versions, write_versioning,
};
pub use request::{
    CompletedPart, DeleteRequest, ObjectToDelete, read_complete_multipart_upload, read_create_bucket, read_delete,
    read_tagging,
};
pub use result::{
    About, BucketsPage, Completed, DeleteOutcome, PartEntry, PartsHeader, Posted, write_complete_request,
    write_complete_result, write_copy_result, write_delete_result, write_error, write_initiate_result,
    write_list_buckets, write_list_parts, write_location, write_post_result, write_tagging,
};
pub use settings::{CorsEntry, check_acl, write_acl, write_cors, write_setting};
pub use walk::BadXml;
pub use write::DECLARATION;

/// The namespace of every document of S3's.
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// The element that carries a checksum, as in `ChecksumCRC32`, is this and the algorithm's name.
const CHECKSUM_ELEMENT: &str = "Checksum";
