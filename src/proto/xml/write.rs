//! A writer of small XML documents, straight into a buffer.

use std::io::Write;

/// What every document begins with.
pub const DECLARATION: &[u8] = b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

pub(super) struct XmlWriter<'v> {
    out: &'v mut Vec<u8>,
}

impl<'v> XmlWriter<'v> {
    /// Begins a document with its root element; `namespace` may be empty.
    pub(super) fn document(out: &'v mut Vec<u8>, root: &str, namespace: &str) -> Self {
        out.extend_from_slice(DECLARATION);
        out.push(b'<');
        out.extend_from_slice(root.as_bytes());
        if !namespace.is_empty() {
            out.extend_from_slice(b" xmlns=\"");
            out.extend_from_slice(namespace.as_bytes());
            out.push(b'"');
        }
        out.push(b'>');
        Self { out }
    }

    pub(super) fn open(&mut self, name: &str) -> &mut Self {
        self.tag("<", name, "")
    }

    pub(super) fn close(&mut self, name: &str) -> &mut Self {
        self.tag("</", name, "")
    }

    fn tag(&mut self, start: &str, name: &str, rest_of_name: &str) -> &mut Self {
        for part in [start, name, rest_of_name, ">"] {
            self.out.extend_from_slice(part.as_bytes());
        }
        self
    }

    /// Text of the element that is open.
    pub(super) fn value(&mut self, value: &str) -> &mut Self {
        escape(value, self.out);
        self
    }

    /// `<name>value</name>`, escaped.
    pub(super) fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.open(name).value(value).close(name)
    }

    /// As `text`, with a name in two parts.
    pub(super) fn text_in_two(&mut self, prefix: &str, name: &str, value: &str) -> &mut Self {
        self.tag("<", prefix, name).value(value).tag("</", prefix, name)
    }

    pub(super) fn number(&mut self, name: &str, value: u64) -> &mut Self {
        self.open(name);
        write!(self.out, "{value}").expect("writing to a vector");
        self.close(name)
    }

    pub(super) fn flag(&mut self, name: &str, value: bool) -> &mut Self {
        self.text(name, if value { "true" } else { "false" })
    }

    /// An ETag in its quotes.
    pub(super) fn etag(&mut self, etag: &str) -> &mut Self {
        self.open("ETag");
        self.out.extend_from_slice(b"&quot;");
        escape(etag, self.out);
        self.out.extend_from_slice(b"&quot;");
        self.close("ETag")
    }
}

/// Characters that XML 1.0 cannot carry become references, as AWS writes them; a strict parser refuses those, which is what
/// `encoding-type=url` is for. A carriage return is one too, since readers would turn it into a line feed.
fn escape(text: &str, out: &mut Vec<u8>) {
    for c in text.chars() {
        match c {
            '&' => out.extend_from_slice(b"&amp;"),
            '<' => out.extend_from_slice(b"&lt;"),
            '>' => out.extend_from_slice(b"&gt;"),
            '"' => out.extend_from_slice(b"&quot;"),
            '\t' | '\n' => out.push(c as u8),
            '\0'..' ' | '\u{7f}' | '\u{fffe}' | '\u{ffff}' => {
                write!(out, "&#x{:x};", u32::from(c)).expect("writing to a vector");
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}
