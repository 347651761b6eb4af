//! Entity tags of our own making: the MD5 of the body in hexadecimal, and for uploads in parts the MD5 of the parts'
//! MD5s with `-N`. Also reads the forms in which clients and backends write tags.

use md5::{Digest, Md5};
use std::fmt;

/// An entity tag of S3's form. Shown without quotes, as stored and compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ETag {
    md5: [u8; 16],
    /// 0: not an upload in parts.
    parts: u16,
}

impl ETag {
    /// Of a body with this MD5.
    pub fn of_md5(md5: [u8; 16]) -> Self {
        Self { md5, parts: 0 }
    }

    /// Of an upload whose parts have these MD5s, in order. None for no parts or more than a number can count.
    pub fn of_parts(parts: impl IntoIterator<Item = [u8; 16]>) -> Option<Self> {
        let mut whole = Md5::new();
        let mut count: u16 = 0;
        for part in parts {
            whole.update(part);
            count = count.checked_add(1)?;
        }
        (count > 0).then(|| Self { md5: whole.finalize().into(), parts: count })
    }

    /// From the form without quotes. None for tags of other makers.
    pub fn parse(text: &str) -> Option<Self> {
        let (digits, parts) = match text.split_once('-') {
            None => (text, 0),
            Some((digits, count)) => {
                let is_plain = count.bytes().all(|b| b.is_ascii_digit()) && !count.starts_with('0');
                (digits, count.parse().ok().filter(|&count: &u16| is_plain && count > 0)?)
            }
        };
        let md5 = data_encoding::HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()?.try_into().ok()?;
        Some(Self { md5, parts })
    }

    /// The body's MD5, if this is the tag of a body that was not uploaded in parts.
    pub fn md5(&self) -> Option<[u8; 16]> {
        (self.parts == 0).then_some(self.md5)
    }

    /// How many parts the upload had; 0 for a plain one.
    pub fn parts(&self) -> u16 {
        self.parts
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 32];
        f.write_str(data_encoding::HEXLOWER.encode_mut_str(&self.md5, &mut digits))?;
        if self.parts > 0 { write!(f, "-{}", self.parts) } else { Ok(()) }
    }
}

/// A tag without its quotes and without the mark of a weak one, whoever made it: `"x"`, `W/"x"` and `x` are all x.
pub fn unquoted(text: &str) -> &str {
    let text = text.trim_ascii();
    let text = text.strip_prefix("W/").unwrap_or(text);
    text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: &str = "d41d8cd98f00b204e9800998ecf8427e";

    #[test]
    fn of_a_body() {
        let tag = ETag::of_md5(Md5::digest(b"").into());
        assert_eq!((tag.to_string().as_str(), tag.parts()), (NOTHING, 0));
        assert_eq!(tag.md5(), Some(Md5::digest(b"").into()));
    }

    #[test]
    fn of_parts() {
        // MD5 over the 16 bytes of the empty body's MD5, and over two of them.
        let nothing: [u8; 16] = Md5::digest(b"").into();
        let one = ETag::of_parts([nothing]).expect("one part is enough");
        assert_eq!(one.to_string(), "59adb24ef3cdbe0297f05b395827453f-1");
        assert_eq!((one.parts(), one.md5()), (1, None));
        let two = ETag::of_parts([nothing; 2]).expect("two parts are enough");
        assert_eq!(two, ETag { md5: Md5::digest([nothing; 2].concat()).into(), parts: 2 });
        assert_eq!(ETag::of_parts([]), None);
        assert_eq!(ETag::of_parts(vec![nothing; 65_536]), None);
    }

    fn check(text: &str, good: bool) {
        let parsed = ETag::parse(text);
        assert_eq!(parsed.is_some(), good, "{text}");
        assert!(parsed.is_none_or(|tag| tag.to_string() == text.to_ascii_lowercase()), "{text}");
    }

    #[test]
    fn parsing() {
        check(NOTHING, true);
        check(&NOTHING.to_uppercase(), true);
        check(&format!("{NOTHING}-1"), true);
        check(&format!("{NOTHING}-10000"), true);
        for bad in ["", "-1", "abc", &NOTHING[1..], "0x8D4BCC2E4835CD0"] {
            check(bad, false);
        }
        for bad in ["-", "-0", "-01", "-+1", "-65536", "-1-1", "-x"] {
            check(&format!("{NOTHING}{bad}"), false);
        }
        check(&format!("\"{NOTHING}\""), false);
    }

    #[test]
    fn quotes() {
        for (text, want) in [
            ("\"abc\"", "abc"),
            ("abc", "abc"),
            ("W/\"abc\"", "abc"),
            (" \"abc\" ", "abc"),
            ("\"", "\""),
            ("\"abc", "\"abc"),
            ("\"\"", ""),
            ("", ""),
            ("*", "*"),
        ] {
            assert_eq!(unquoted(text), want, "{text}");
        }
    }
}
