//! Fuzz entry of this layer (`crate::fuzz`).

use super::copy_source::CopySource;
use super::object_headers;
use crate::proto::http1::RequestHead;

pub const TARGETS: &[(&str, fn(&[u8]))] = &[("object_headers", object_headers)];

/// Header lines of a write: what is kept of them can be sent back in a head; a copy's source has a bucket and a key.
pub fn object_headers(input: &[u8]) {
    let bytes = [b"PUT /bkt/k HTTP/1.1\r\nhost: h\r\n", input, b"\r\n\r\n"].concat();
    let Ok(Some(head)) = RequestHead::parse(&bytes, &mut 0) else { return };
    if let Ok(source) = CopySource::of(&head) {
        assert!(!source.bucket.is_empty() && !source.bucket.contains('/') && !source.key.is_empty());
    }
    let _ = object_headers::condition_of(&head);
    if let Ok(record) = object_headers::record_of(&head) {
        for (name, value) in record.headers.iter().chain(&record.user_metadata) {
            assert!(!value.contains(['\r', '\n', '\0']), "{name:?}: {value:?}");
        }
    }
}
