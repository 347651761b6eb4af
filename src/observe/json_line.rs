//! Writes one JSON object and a line feed into a buffer that the caller owns; allocates only when the buffer must grow.
//! Used by audit lines and log events, so that both have one form.
//!
//! Names are words of ours and are written as they are. An audit line has twenty fields: what writes one is inlined, and its
//! name comes with all that stands around it.

use crate::base::decimal::{write_decimal, write_digits};
use std::fmt;
use std::io::Write;
use std::time::Duration;

pub struct JsonLine<'a> {
    out: &'a mut Vec<u8>,
}

/// What stands before a text, from the comma to its first quote. Made by `name!`.
#[derive(Clone, Copy)]
pub struct Name(pub &'static str);

impl Name {
    /// What stands before anything else: the same without the quote.
    fn unquoted(self) -> &'static [u8] {
        &self.0.as_bytes()[..self.0.len() - 1]
    }
}

/// The name of a field.
macro_rules! name {
    ($word:literal) => {
        $crate::observe::json_line::Name(concat!(",\"", $word, "\":\""))
    };
}
pub(super) use name;

impl<'a> JsonLine<'a> {
    /// Begins a line with what every line has.
    /// `time` is in ISO 8601.
    pub fn begin(out: &'a mut Vec<u8>, time: impl AsRef<[u8]>, level: &'static str, message: &str) -> Self {
        out.extend_from_slice(b"{\"time\":\"");
        out.extend_from_slice(time.as_ref());
        out.push(b'"');
        let mut line = Self { out };
        line.word(name!("level"), level);
        line.text(name!("msg"), message);
        line
    }

    pub fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }

    #[inline(always)]
    pub fn text(&mut self, name: Name, value: &str) {
        self.out.extend_from_slice(name.0.as_bytes());
        escape(self.out, value);
        self.out.push(b'"');
    }

    /// A word of ours, which is written as it is.
    #[inline(always)]
    pub fn word(&mut self, name: Name, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        debug_assert!(is_plain_text(value), "a word of ours is plain: {}", value.escape_ascii());
        self.out.extend_from_slice(name.0.as_bytes());
        self.out.extend_from_slice(value);
        self.out.push(b'"');
    }

    /// A word of ours in two parts.
    #[inline(always)]
    pub fn word_in_two(&mut self, name: Name, start: &str, end: &str) {
        self.word(name, start);
        self.out.pop();
        debug_assert!(is_plain_text(end.as_bytes()), "a word of ours is plain: {end:?}");
        self.out.extend_from_slice(end.as_bytes());
        self.out.push(b'"');
    }

    /// Leaves the field out when there is nothing to say.
    #[inline(always)]
    pub fn text_if_any(&mut self, name: Name, value: &str) {
        if !value.is_empty() {
            self.text(name, value);
        }
    }

    /// A number, without the detour through `fmt`.
    #[inline(always)]
    pub fn whole(&mut self, name: Name, value: u64) {
        self.out.extend_from_slice(name.unquoted());
        write_decimal(self.out, value);
    }

    /// Seconds with six decimals.
    #[inline(always)]
    pub fn seconds(&mut self, name: Name, time: Duration) {
        self.whole(name, time.as_secs());
        self.out.push(b'.');
        write_digits::<6>(self.out, u64::from(time.subsec_micros()));
    }

    #[inline(always)]
    pub fn flag(&mut self, name: Name, value: bool) {
        self.out.extend_from_slice(name.unquoted());
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    // ---- names that are found at run time -----------------------------------------------------------------------------

    pub fn display(&mut self, name: &str, value: impl fmt::Display) {
        struct Escaped<'a>(&'a mut Vec<u8>);
        impl fmt::Write for Escaped<'_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                escape(self.0, text);
                Ok(())
            }
        }
        self.name(name);
        self.out.push(b'"');
        // A Display that fails midway leaves a shorter text; the line stays well-formed.
        let _ = fmt::Write::write_fmt(&mut Escaped(self.out), format_args!("{value}"));
        self.out.push(b'"');
    }

    /// A number or a truth, written as it is.
    pub fn number(&mut self, name: &str, value: impl fmt::Display) {
        self.name(name);
        write!(self.out, "{value}").expect("writing to a vector");
    }

    fn name(&mut self, name: &str) {
        debug_assert!(is_plain_text(name.as_bytes()), "a field's name is a plain word: {name:?}");
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }
}

/// RFC 8259, 7. DEL and the C1 controls are escaped too: a log is read on terminals.
fn escape(out: &mut Vec<u8>, text: &str) {
    if is_plain_text(text.as_bytes()) {
        return out.extend_from_slice(text.as_bytes());
    }
    let mut plain_from = 0;
    for (at, c) in text.char_indices() {
        let short: &[u8] = match c {
            '"' => b"\\\"",
            '\\' => b"\\\\",
            '\n' => b"\\n",
            '\r' => b"\\r",
            '\t' => b"\\t",
            c if c.is_control() => b"",
            _ => continue,
        };
        out.extend_from_slice(&text.as_bytes()[plain_from..at]);
        if short.is_empty() {
            write!(out, "\\u{:04x}", c as u32).expect("writing to a vector");
        } else {
            out.extend_from_slice(short);
        }
        plain_from = at + c.len_utf8();
    }
    out.extend_from_slice(&text.as_bytes()[plain_from..]);
}

/// Whether every byte is ASCII and stands for itself: so is nearly every text, and most are short.
fn is_plain_text(text: &[u8]) -> bool {
    text.iter().fold(true, |all, &byte| all & PLAIN[usize::from(byte)])
}

/// No control, quote, backslash, DEL, nor what is beyond ASCII.
const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0x20;
    while byte < 0x7f {
        table[byte] = byte != b'"' as usize && byte != b'\\' as usize;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_survives_a_json_parser() {
        for text in [
            "",
            "plain",
            "seven b",
            "eight by",
            "nine byte",
            "eight by\"",
            "\u{80}",
            "a word\u{7f}",
            "a\"b\\c",
            "\n\r\t\0\u{1b}[31m\u{7f}\u{85}",
            "ä€😀",
            "\\u0041",
            "</script>",
        ] {
            let mut out = Vec::new();
            let mut line = JsonLine::begin(&mut out, "2026-09-21T14:13:20.123Z", "INFO", text);
            line.text(name!("text"), text);
            line.text_if_any(name!("none"), "");
            line.display("shown", format_args!("{text}!"));
            line.number("n", 1.5);
            line.whole(name!("whole"), u64::MAX);
            line.seconds(name!("seconds"), Duration::new(61, 42_999));
            line.word(name!("word"), "GetObject");
            line.word_in_two(name!("words"), "s3.", "GetObject");
            line.flag(name!("yes"), true);
            line.number("no", false);
            line.end();
            assert_eq!(out.iter().filter(|&&b| b == b'\n').count(), 1, "one line");
            let json: serde_json::Value = serde_json::from_slice(&out).expect("valid JSON");
            assert_eq!((json["msg"].as_str(), json["n"].as_f64()), (Some(text), Some(1.5)));
            assert_eq!(json["text"].as_str(), Some(text));
            assert_eq!(json["shown"].as_str(), Some(format!("{text}!").as_str()));
            assert_eq!((json["whole"].as_u64(), json["seconds"].as_f64()), (Some(u64::MAX), Some(61.000_042)));
            assert_eq!(json["word"].as_str(), Some("GetObject"));
            assert_eq!((json["yes"].as_bool(), json["no"].as_bool()), (Some(true), Some(false)));
            assert_eq!((json["words"].as_str(), json.get("none")), (Some("s3.GetObject"), None));
            assert_eq!(json["time"].as_str(), Some("2026-09-21T14:13:20.123Z"));
        }
    }
}
