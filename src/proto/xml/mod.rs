//! The XML of S3: bodies that clients and backends send, read with bounds; bodies that we send, written straight into a buffer.
//!
//! `walk` reads events for `request` (what clients send) and `answer` (what backends send); `write` holds the writer, and
//! `result` the documents made with it. Nothing here resolves entities beyond XML's own five, reads a DTD, or recurses.

mod answer;
mod request;
mod result;
mod walk;
mod write;

pub use answer::{
    BackendError, CompletedUpload, ListedKey, ListedPage, ListedUpload, ListedUploads, read_complete_result,
    read_error, read_initiate_result, read_list, read_uploads,
};
pub use request::{CompletedPart, DeleteRequest, ObjectToDelete, read_complete_multipart_upload, read_delete};
pub use result::{
    Completed, DeleteOutcome, ListEntry, ListHeader, PartEntry, PartsHeader, write_complete_request,
    write_complete_result, write_delete_result, write_error, write_initiate_result, write_list_buckets,
    write_list_objects, write_list_parts, write_location,
};
pub use walk::BadXml;

/// The namespace of every document of S3's.
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// A checksum beside a part or an object: the algorithm as `x-amz-checksum-algorithm` spells it, and the value in base64.
pub type XmlChecksum = (&'static str, String);

/// Algorithms and the elements that carry their values.
const CHECKSUM_ELEMENTS: [(&str, &str); 5] = [
    ("CRC32", "ChecksumCRC32"),
    ("CRC32C", "ChecksumCRC32C"),
    ("CRC64NVME", "ChecksumCRC64NVME"),
    ("SHA1", "ChecksumSHA1"),
    ("SHA256", "ChecksumSHA256"),
];

fn algorithm_of_element(element: &str) -> Option<&'static str> {
    CHECKSUM_ELEMENTS.iter().find(|(_, name)| *name == element).map(|(algorithm, _)| *algorithm)
}

fn element_of_algorithm(algorithm: &str) -> Option<&'static str> {
    CHECKSUM_ELEMENTS.iter().find(|(name, _)| *name == algorithm).map(|(_, element)| *element)
}
