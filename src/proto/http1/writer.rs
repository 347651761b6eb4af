//! Writes message heads into a buffer, without allocating anything else.
//!
//! The connection answers clients with it, the upstream exchange asks backends. No byte of a name or value can end a line:
//! controls become blanks, so that stored metadata can never add a header to an answer.

use crate::base::decimal::write_decimal;
use std::io::Write;

/// Told to a client that waits with its body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A head being appended to a buffer; `finish` ends it.
#[must_use = "a head is complete only after finish()"]
pub struct HeadWriter<'v> {
    out: &'v mut Vec<u8>,
}

impl<'v> HeadWriter<'v> {
    pub fn response(out: &'v mut Vec<u8>, status: u16) -> Self {
        if status == 200 {
            out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
            return Self { out };
        }
        out.extend_from_slice(b"HTTP/1.1 ");
        write_decimal(out, u64::from(status));
        out.push(b' ');
        out.extend_from_slice(reason_phrase(status).as_bytes());
        out.extend_from_slice(b"\r\n");
        Self { out }
    }

    /// `target` is already percent-encoded.
    pub fn request(out: &'v mut Vec<u8>, method: &str, target: &str) -> Self {
        out.extend_from_slice(method.as_bytes());
        out.push(b' ');
        out.extend(target.bytes().map(|b| if b.is_ascii_graphic() { b } else { b'?' }));
        out.extend_from_slice(b" HTTP/1.1\r\n");
        Self { out }
    }

    /// A field of ours.
    pub fn header(&mut self, name: &'static str, value: impl AsRef<[u8]>) -> &mut Self {
        debug_assert!(name.bytes().all(is_token_byte), "a field's name is a token: {name}");
        self.out.extend_from_slice(name.as_bytes());
        self.value(value.as_ref())
    }

    /// As `header`, for a value that is ours too: an id, a date, a word. Nothing in it can end the line.
    pub fn own(&mut self, name: &'static str, value: impl AsRef<[u8]>) -> &mut Self {
        let value = value.as_ref();
        debug_assert!(value.iter().all(|&b| b.is_ascii_graphic() || b == b' '), "{}", value.escape_ascii());
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        self.out.extend_from_slice(value);
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// A name in two parts, such as `x-amz-meta-` and the user's own.
    pub fn header_in_two(&mut self, prefix: &str, name: &str, value: impl AsRef<[u8]>) -> &mut Self {
        for part in [prefix, name] {
            self.out.extend(part.bytes().map(|b| if is_token_byte(b) { b } else { b'-' }));
        }
        self.value(value.as_ref())
    }

    fn value(&mut self, value: &[u8]) -> &mut Self {
        self.out.extend_from_slice(b": ");
        self.out.extend(value.iter().map(|&b| if b < 0x20 && b != b'\t' || b == 0x7f { b' ' } else { b }));
        self.out.extend_from_slice(b"\r\n");
        self
    }

    pub fn header_u64(&mut self, name: &str, value: u64) -> &mut Self {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        write_decimal(self.out, value);
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// `"etag"`, with the quotes that the field needs.
    pub fn etag(&mut self, etag: &str) -> &mut Self {
        self.out.extend_from_slice(b"ETag: \"");
        self.out.extend(etag.bytes().filter(|&b| b.is_ascii_graphic() && b != b'"'));
        self.out.extend_from_slice(b"\"\r\n");
        self
    }

    /// `Content-Range: bytes first-last/size` of a 206.
    pub fn content_range(&mut self, first: u64, last: u64, size: u64) -> &mut Self {
        write!(self.out, "Content-Range: bytes {first}-{last}/{size}\r\n").expect("writing to a vector");
        self
    }

    /// Complete lines, each with its CRLF, made by `ResponseHead`.
    pub fn lines(&mut self, lines: &[u8]) -> &mut Self {
        debug_assert!(lines.is_empty() || lines.ends_with(b"\r\n"));
        self.out.extend_from_slice(lines);
        self
    }

    pub fn finish(self) {
        self.out.extend_from_slice(b"\r\n");
    }
}

/// RFC 9110, 5.6.2.
fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// RFC 9110, 15; "Unknown" for what we never send.
fn reason_phrase(status: u16) -> &'static str {
    match status {
        201 => "Created",
        204 => "No Content",
        206 => "Partial Content",
        303 => "See Other",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        412 => "Precondition Failed",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::error_code::ErrorCode;
    use crate::proto::http1::{RequestHead, ResponseHead};

    #[test]
    fn a_response_head() {
        let mut out = Vec::new();
        let mut head = HeadWriter::response(&mut out, 206);
        head.header("Content-Type", "text/plain").header_u64("Content-Length", u64::MAX).etag("abc-2");
        head.content_range(0, 9, 100).header_in_two("x-amz-meta-", "note", "ü");
        head.finish();
        let want = "HTTP/1.1 206 Partial Content\r\nContent-Type: text/plain\r\nContent-Length: 18446744073709551615\r\n\
                    ETag: \"abc-2\"\r\nContent-Range: bytes 0-9/100\r\nx-amz-meta-note: ü\r\n\r\n";
        assert_eq!(String::from_utf8(out).expect("text"), want);
    }

    #[test]
    fn no_value_can_end_a_line() {
        let mut out = Vec::new();
        let mut head = HeadWriter::response(&mut out, 200);
        head.header("X-Evil", "a\r\nSet-Cookie: b\0").header_in_two("X:", "\r\nY", "c").etag("q\"\r\n\r\n");
        head.finish();
        let head = ResponseHead::parse(&out, true, &mut 0).expect("well-formed").expect("complete");
        let fields: Vec<_> = head.headers.iter().map(|h| (h.name, h.value)).collect();
        let want: [(&str, &[u8]); 3] = [("X-Evil", b"a  Set-Cookie: b"), ("X---Y", b"c"), ("ETag", b"\"q\"")];
        assert_eq!(fields, want);
    }

    #[test]
    fn a_request_head_is_read_back() {
        let mut out = Vec::new();
        let mut head = HeadWriter::request(&mut out, "PUT", "/b/k%20\r\n");
        head.header("Host", "s3.local").header_u64("Content-Length", 3);
        head.finish();
        let head = RequestHead::parse(&out, &mut 0).expect("well-formed").expect("complete");
        assert_eq!((head.method_word, head.target), ("PUT", "/b/k%20??"));
    }

    #[test]
    fn every_error_has_a_reason_phrase() {
        for code in ErrorCode::ALL {
            assert_ne!(reason_phrase(code.http_status()), "Unknown", "{code:?}");
        }
    }
}
