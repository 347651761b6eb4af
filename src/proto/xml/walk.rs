//! A bounded walk over one XML document: each element as it closes, with its path and its own text.
//!
//! That is all S3's documents need: fields are leaves, and a container's closing says that its fields are complete. Bounds:
//! bytes, depth, one root, no DTD, no entities but XML's own. Attributes and namespaces are skipped unread, so many of them
//! cost nothing. Elements that nobody asks for are walked over.

use crate::base::limits::XML_BYTES_MAX;
use quick_xml::Reader;
use quick_xml::events::Event;
use std::fmt;

/// S3's documents are four deep.
const DEPTH_MAX: usize = 8;

/// Not the XML that was asked for; says why, for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadXml(pub &'static str);

impl fmt::Display for BadXml {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

pub(super) struct Walk<'x> {
    reader: Reader<&'x [u8]>,
    root: String,
    /// Local names below the root, joined with `/`; no XML name holds one.
    path: String,
    /// Of the innermost open element, since it was opened; leaves only ever have text.
    text: String,
    depth: usize,
    /// The element that closed last is still on the path, for the caller to look at.
    closing: bool,
}

impl<'x> Walk<'x> {
    /// Reads up to the root element. Leading white space is let pass: a backend sends it to keep the connection alive.
    pub(super) fn new(bytes: &'x [u8]) -> Result<Self, BadXml> {
        if bytes.len() > XML_BYTES_MAX {
            return Err(BadXml("the document is too long"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| BadXml("the document is not UTF-8"))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim_ascii_start();
        let mut walk = Self {
            reader: Reader::from_str(text),
            root: String::new(),
            path: String::new(),
            text: String::new(),
            depth: 0,
            closing: false,
        };
        walk.reader.config_mut().expand_empty_elements = true;
        loop {
            match walk.event()? {
                Event::Start(element) => {
                    walk.root = local_name(&element.name());
                    walk.depth = 1;
                    return Ok(walk);
                }
                Event::Decl(_) | Event::Comment(_) | Event::PI(_) => {}
                Event::Text(text) if is_blank(&text) => {}
                _ => return Err(BadXml("the document does not begin with an element")),
            }
        }
    }

    pub(super) fn root(&self) -> &str {
        &self.root
    }

    /// The next element that closes: its path below the root (`Part/ETag`) and its text. None after the root has closed
    /// and nothing but white space and comments followed.
    pub(super) fn next_closed(&mut self) -> Result<Option<(&str, &str)>, BadXml> {
        if std::mem::take(&mut self.closing) {
            self.path.truncate(self.path.rfind('/').unwrap_or(0));
            self.text.clear();
        }
        loop {
            match self.event()? {
                Event::Start(element) => self.open(&local_name(&element.name()))?,
                Event::End(_) if self.depth == 1 => return self.finish(),
                Event::End(_) => {
                    self.depth -= 1;
                    self.closing = true;
                    return Ok(Some((&self.path, &self.text)));
                }
                Event::Text(text) => self.text.push_str(&text.xml10_content()),
                Event::CData(text) => self.text.push_str(&text.xml10_content()),
                Event::GeneralRef(reference) => self.text.push(resolve(&reference)?),
                Event::Comment(_) | Event::PI(_) => {}
                Event::Eof => return Err(BadXml("the document ends inside of an element")),
                Event::Decl(_) | Event::DocType(_) | Event::Empty(_) => {
                    return Err(BadXml("a declaration inside of the document"));
                }
            }
        }
    }

    fn open(&mut self, name: &str) -> Result<(), BadXml> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(BadXml("the document is too deep"));
        }
        if !self.path.is_empty() {
            self.path.push('/');
        }
        self.path.push_str(name);
        self.text.clear();
        Ok(())
    }

    /// Exactly one document: nothing of meaning follows the root.
    fn finish(&mut self) -> Result<Option<(&str, &str)>, BadXml> {
        loop {
            match self.event()? {
                Event::Eof => return Ok(None),
                Event::Comment(_) | Event::PI(_) => {}
                Event::Text(text) if is_blank(&text) => {}
                _ => return Err(BadXml("something follows the document")),
            }
        }
    }

    fn event(&mut self) -> Result<Event<'x>, BadXml> {
        self.reader.read_event().map_err(|_| BadXml("the document is not well-formed"))
    }
}

fn local_name(name: &quick_xml::name::QName<'_>) -> String {
    name.local_name().as_ref().to_owned()
}

fn is_blank(text: &str) -> bool {
    text.trim_ascii().is_empty()
}

/// `&lt;` and `&#x1;`. Control characters that XML 1.0 does not allow are let through: keys may hold them, and clients have
/// no other way to name such keys.
fn resolve(reference: &str) -> Result<char, BadXml> {
    let number = |digits: &str, radix| {
        let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
        plain.then(|| u32::from_str_radix(digits, radix).ok().and_then(char::from_u32)).flatten()
    };
    let resolved = match reference {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        other => match other.strip_prefix('#') {
            Some(digits) => digits.strip_prefix('x').map_or_else(|| number(digits, 10), |hex| number(hex, 16)),
            None => None,
        },
    };
    resolved.ok_or(BadXml("an entity that XML does not define"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(text: &str) -> Result<Vec<(String, String)>, BadXml> {
        let mut walk = Walk::new(text.as_bytes())?;
        let mut found = vec![(walk.root().to_owned(), String::new())];
        while let Some((path, text)) = walk.next_closed()? {
            found.push((path.to_owned(), text.to_owned()));
        }
        Ok(found)
    }

    fn check(text: &str, want: &[(&str, &str)]) {
        let got = leaves(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        let got: Vec<(&str, &str)> = got.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        assert_eq!(got, want, "{text:?}");
    }

    #[test]
    fn elements_close_with_their_text() {
        check("<A><B>1</B><C><D> x </D></C></A>", &[("A", ""), ("B", "1"), ("C/D", " x "), ("C", "")]);
        check("<A><B/><B></B></A>", &[("A", ""), ("B", ""), ("B", "")]);
        check("<A/>", &[("A", "")]);
        check("\u{feff} \r\n <?xml version=\"1.0\"?> <!-- a --> <A xmlns='x'>\n</A> <!-- b -->\n", &[("A", "")]);
        check("<s3:A xmlns:s3='x'><s3:B a='1' a='1'>t</s3:B></s3:A>", &[("A", ""), ("B", "t")]);
    }

    #[test]
    fn text_is_unescaped_once() {
        check("<A><B>a&lt;&gt;&amp;&quot;&apos;&amp;lt;</B></A>", &[("A", ""), ("B", "a<>&\"'&lt;")]);
        check("<A><B>&#252;&#xFC;&#13;&#x1;&#0;</B></A>", &[("A", ""), ("B", "üü\r\u{1}\0")]);
        check("<A><B>x<![CDATA[<&amp;>]]>y<!-- no -->z</B></A>", &[("A", ""), ("B", "x<&amp;>yz")]);
        check("<A><B>a\r\nb\rc</B></A>", &[("A", ""), ("B", "a\nb\nc")]);
    }

    #[test]
    fn floods_cost_no_more_than_their_bytes() {
        let attributes: String = (0..100_000).map(|i| format!(" a{i}='1'")).collect();
        check(&format!("<A><B{attributes}>t</B></A>"), &[("A", ""), ("B", "t")]);
        let namespaces: String = (0..100_000).map(|i| format!(" xmlns:n{i}='u'")).collect();
        check(&format!("<A{namespaces}><n1:B/></A>"), &[("A", ""), ("B", "")]);
    }

    #[test]
    fn what_is_refused() {
        let deep = format!("{}{}", "<a>".repeat(DEPTH_MAX + 1), "</a>".repeat(DEPTH_MAX + 1));
        let long = format!("<A>{}</A>", " ".repeat(XML_BYTES_MAX));
        for text in [
            "",
            "   ",
            "text",
            "<A>",
            "<A><B></A></B>",
            "<A></A><A></A>",
            "<A></A>text",
            "<A></A><?xml version=\"1.0\"?><A/>",
            "<!DOCTYPE A [<!ENTITY x \"y\">]><A>&x;</A>",
            "<!DOCTYPE A SYSTEM \"file:///etc/passwd\"><A/>",
            "<A><!DOCTYPE A></A>",
            "<A>&nbsp;</A>",
            "<A>&#xD800;</A>",
            "<A>&#x110000;</A>",
            "<A>&#;</A>",
            "<A>&#+5;</A>",
            "<A>a & b</A>",
            "<A><B</A>",
            "{\"Key\": 1}",
            &deep,
            &long,
        ] {
            let shown = &text[..text.len().min(60)];
            assert!(leaves(text).is_err(), "{shown:?}");
        }
        assert!(Walk::new(b"<A>\xff</A>").is_err());
    }
}
