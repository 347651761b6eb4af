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
        debug_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b == b'.'));
        self.fields.extend_from_slice(name.as_bytes());
        self.fields.extend_from_slice(b": ");
        self.fields.extend(value.bytes().map(|b| if matches!(b, b'\r' | b'\n' | 0) { b' ' } else { b }));
        self.fields.extend_from_slice(b"\r\n");
    }

    /// `field` for values that are put together: `head.format("content-range", format_args!("bytes {a}-{b}/{n}"))`.
    pub fn format(&mut self, name: &str, value: std::fmt::Arguments<'_>) {
        struct Lines<'a>(&'a mut Vec<u8>);
        impl Write for Lines<'_> {
            fn write_str(&mut self, text: &str) -> std::fmt::Result {
                self.0.extend(text.bytes().map(|b| if matches!(b, b'\r' | b'\n' | 0) { b' ' } else { b }));
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
