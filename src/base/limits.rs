//! Every limit of the program that is not a configuration key, with its unit in its name.

/// A request or response head, start line and all fields. AWS refuses heads over 8 KiB of user metadata and URL;
/// 32 KiB leaves room for 1024-byte keys percent-encoded, presigned queries and proxies' own fields.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Header fields of one head.
pub const HEAD_FIELDS_MAX: usize = 96;
/// A body buffer of the copy path.
pub const BODY_BUFFER_BYTES: usize = 256 * 1024;
/// A body up to this size is read whole before it is sent, so that a failed backend can be replaced by another.
pub const REPLAY_BYTES_MAX: u64 = BODY_BUFFER_BYTES as u64;
/// Bodies from this size on are spliced when nobody must look at them; below, copying is as cheap.
pub const SPLICE_BYTES_MIN: u64 = 64 * 1024;
/// What a body may move, and how many small operations a task may do, before it lets the others run.
pub const YIELD_AFTER_BYTES: usize = 1024 * 1024;
pub const YIELD_AFTER_OPERATIONS: u32 = 16;
/// An object key, in bytes of UTF-8 (S3: "Object key names").
pub const KEY_BYTES_MAX: usize = 1024;
/// User metadata, names without prefix and values together (S3: "User-defined object metadata", 2 KB).
pub const USER_METADATA_BYTES_MAX: usize = 2 * 1024;
/// An XML body of a request: CompleteMultipartUpload of 10 000 parts and DeleteObjects of 1 000 long keys both fit.
pub const XML_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Keys of one DeleteObjects, and entries of one list page.
pub const BATCH_KEYS_MAX: usize = 1000;
/// Parts of one upload (S3: "Multipart upload limits").
pub const PARTS_MAX: u16 = 10_000;
/// Every part but the last is at least this big (S3: "Multipart upload limits").
pub const PART_BYTES_MIN: u64 = 5 * 1024 * 1024;
/// Largest object that multipart can make (S3: 5 TiB).
pub const OBJECT_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024 * 1024;
/// A chunk of an aws-chunked body. SDKs send 64 KiB to 1 MiB; a signed chunk is verified before any of it is passed on
/// only when it fits the buffer, so larger ones are verified as they stream and cut before the last byte.
pub const AWS_CHUNK_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The line that starts a chunk, with its signature; and all trailer lines together.
pub const CHUNK_LINE_BYTES_MAX: usize = 1024;
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;

const _: () = assert!(HEAD_BYTES_MAX <= BODY_BUFFER_BYTES, "a head must fit one buffer");
