//! The head of an answer, as a handler fills it in: a status and finished field lines in one reusable buffer.

use std::fmt::Write;

#[derive(Debug, Default)]
pub struct ResponseHead {
    pub status: u16,
    /// `Content-Length` of an answer to HEAD.
    pub content_length: u64,
    /// Complete `name: value\r\n` lines.
    fields: Vec<u8>,
}

impl ResponseHead {
    /// Back to a fresh 200, keeping the buffer.
    pub fn clear(&mut self) {
        self.status = 200;
        self.content_length = 0;
        self.fields.clear();
    }

    /// Adds a field. CR, LF and NUL cannot pass: they become spaces, so that no value can end the line.
    pub fn field(&mut self, name: &str, value: &str) {
        self.field_in_two(name, "", value);
    }

    /// `field` for a name with a prefix: `x-amz-meta-` and the rest.
    pub fn field_in_two(&mut self, prefix: &str, name: &str, value: &str) {
        debug_assert!(prefix.bytes().chain(name.bytes()).all(is_token), "a field's name is a token: {prefix}{name}");
        self.fields.extend_from_slice(prefix.as_bytes());
        self.fields.extend_from_slice(name.as_bytes());
        self.fields.extend_from_slice(b": ");
        self.value(value);
        self.fields.extend_from_slice(b"\r\n");
    }

    /// `field` for a value that is ours too: a date, a word. Nothing in it can end the line.
    pub fn own(&mut self, name: &'static str, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        debug_assert!(value.iter().all(|&b| b.is_ascii_graphic() || b == b' '), "{}", value.escape_ascii());
        self.fields.extend_from_slice(name.as_bytes());
        self.fields.extend_from_slice(b": ");
        self.fields.extend_from_slice(value);
        self.fields.extend_from_slice(b"\r\n");
    }

    /// `field` for a value between quotes.
    pub fn quoted(&mut self, name: &str, value: &str) {
        self.fields.extend_from_slice(name.as_bytes());
        self.fields.extend_from_slice(b": \"");
        self.value(value);
        self.fields.extend_from_slice(b"\"\r\n");
    }

    /// Copied in one go; what could end the line is rare.
    fn value(&mut self, value: &str) {
        let from = self.fields.len();
        self.fields.extend_from_slice(value.as_bytes());
        if memchr::memchr3(b'\r', b'\n', 0, value.as_bytes()).is_some() {
            self.fields[from..].iter_mut().for_each(|byte| *byte = without_line_ends(*byte));
        }
    }

    /// `field` for values that are put together: `head.format("content-range", format_args!("bytes {a}-{b}/{n}"))`.
    pub fn format(&mut self, name: &str, value: std::fmt::Arguments<'_>) {
        struct Lines<'a>(&'a mut Vec<u8>);
        impl Write for Lines<'_> {
            fn write_str(&mut self, text: &str) -> std::fmt::Result {
                self.0.extend(text.bytes().map(without_line_ends));
                Ok(())
            }
        }
        self.fields.extend_from_slice(name.as_bytes());
        self.fields.extend_from_slice(b": ");
        Lines(&mut self.fields).write_fmt(value).expect("writing to a vector");
        self.fields.extend_from_slice(b"\r\n");
    }

    pub fn fields(&self) -> &[u8] {
        &self.fields
    }
}

/// RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn without_line_ends(byte: u8) -> u8 {
    if matches!(byte, b'\r' | b'\n' | 0) { b' ' } else { byte }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_ends_its_line() {
        let mut head = ResponseHead::default();
        head.field("x-amz-request-id", "1\r\nset-cookie: a");
        head.field_in_two("x-amz-meta-", "b", "\u{e9}\0");
        head.format("content-range", format_args!("bytes {}-{}\n", 0, 4));
        head.quoted("etag", "a\r");
        let want = "x-amz-request-id: 1  set-cookie: a\r\nx-amz-meta-b: \u{e9} \r\ncontent-range: bytes 0-4 \r\n\
                    etag: \"a \"\r\n";
        assert_eq!(std::str::from_utf8(head.fields()), Ok(want));
        head.clear();
        assert_eq!((head.status, head.fields()), (200, &b""[..]));
    }
}
