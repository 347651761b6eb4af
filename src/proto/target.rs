//! A request target as bucket, key and query. Keys are byte-exact. The bucket is the path's first part (path-style), or
//! stands in the Host before a domain that the configuration names (virtual-host style).
//!
//! Called by the connection before classification. Nothing is normalised: `//`, a leading `/`, `.`, `..`, `%2F` and `+` in a
//! path are bytes of the key. The signature is verified over the raw forms kept here.

use super::error_code::{ErrorCode, S3Error};
use super::http1::RequestHead;
use crate::base::limits::KEY_BYTES_MAX;
use std::borrow::Cow;

/// A target taken apart. Borrows the head's bytes, or the scratch string where the path had escapes.
#[derive(Clone, Copy, Debug)]
pub struct Target<'t> {
    /// The path as sent, with its escapes.
    pub raw_path: &'t str,
    /// None for the service itself (`/`). Not yet known to be a valid name.
    pub bucket: Option<&'t str>,
    /// 1 to 1024 bytes.
    pub key: Option<&'t str>,
    pub query: Query<'t>,
}

impl<'t> Target<'t> {
    /// `hosted` is the bucket that the Host names, if it does: then the whole path is the key.
    /// `raw` starts with `/` (http1 sees to that). Escapes are decoded into `scratch`, whose capacity is reused from request
    /// to request. InvalidURI, InvalidBucketName or KeyTooLongError.
    pub fn parse(raw: &'t str, hosted: Option<&str>, scratch: &'t mut String) -> Result<Self, S3Error> {
        let (raw_path, raw_query) = split_once(raw, b'?').unwrap_or((raw, ""));
        if memchr::memchr(b'#', raw.as_bytes()).is_some() {
            // A fragment never travels; some would cut it off and some would not.
            return Err(ErrorCode::InvalidURI.into());
        }
        let path = raw_path.strip_prefix('/').ok_or(ErrorCode::InvalidURI)?;
        let (raw_bucket, raw_key) = match hosted {
            Some(_) => ("", path),
            None => split_once(path, b'/').unwrap_or((path, "")),
        };
        let (bucket, key) = if hosted.is_some() || memchr::memchr(b'%', raw_path.as_bytes()).is_some() {
            let mut bytes = std::mem::take(scratch).into_bytes();
            bytes.clear();
            bytes.extend(hosted.unwrap_or_default().bytes().map(|byte| byte.to_ascii_lowercase()));
            decode_percent(raw_bucket, false, &mut bytes)?;
            let bucket_len = bytes.len();
            decode_percent(raw_key, false, &mut bytes)?;
            *scratch = String::from_utf8(bytes).map_err(|_| ErrorCode::InvalidURI)?;
            // Each half is whole characters, or splitting the path at a `/` would have cut one.
            scratch.split_at_checked(bucket_len).ok_or(ErrorCode::InvalidURI)?
        } else {
            (raw_bucket, raw_key)
        };
        if bucket.is_empty() && !path.is_empty() {
            return Err(ErrorCode::InvalidBucketName.into());
        }
        if key.len() > KEY_BYTES_MAX {
            return Err(ErrorCode::KeyTooLongError.into());
        }
        let present = |text: &'t str| (!text.is_empty()).then_some(text);
        Ok(Self { raw_path, bucket: present(bucket), key: present(key), query: Query { raw: raw_query } })
    }
}

/// As `str::split_once` by an ASCII character, which for texts this short spends more on starting its search than on
/// searching.
pub(super) fn split_once(text: &str, separator: u8) -> Option<(&str, &str)> {
    let at = memchr::memchr(separator, text.as_bytes())?;
    Some((&text[..at], &text[at + 1..]))
}

/// The bucket that stands in the Host before one of our domains (lower case, without port); the longest domain counts.
/// None for a host that is none of ours, or is a domain itself: then the bucket is in the path.
pub fn bucket_of_host<'h>(head: &RequestHead<'h>, domains: &[Box<str>]) -> Option<&'h str> {
    if domains.is_empty() {
        return None;
    }
    let host = std::str::from_utf8(head.header("host")?).ok()?;
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let bucket_before = |domain: &str| {
        let (bucket, end) = name.split_at_checked(name.len().checked_sub(domain.len() + 1)?)?;
        let ours = end.starts_with('.') && end[1..].eq_ignore_ascii_case(domain);
        (ours && !bucket.is_empty()).then_some(bucket)
    };
    if domains.iter().any(|domain| name.eq_ignore_ascii_case(domain)) {
        return None;
    }
    domains.iter().filter_map(|domain| bucket_before(domain)).min_by_key(|bucket| bucket.len())
}

/// The part after `?`: an ordered list of pairs, repeated names kept.
#[derive(Clone, Copy, Debug)]
pub struct Query<'t> {
    raw: &'t str,
}

impl<'t> Query<'t> {
    pub fn new(raw: &'t str) -> Self {
        Self { raw }
    }

    pub fn raw(&self) -> &'t str {
        self.raw
    }

    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// Names and values as sent, with their escapes. A name without `=` has an empty value.
    pub fn raw_pairs(&self) -> impl Iterator<Item = (&'t str, &'t str)> + use<'t> {
        self.raw.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    pub fn has(&self, name: &str) -> bool {
        !self.is_empty() && self.raw_pairs().any(|(raw, _)| is_name(raw, name))
    }

    /// The first value of this name, decoded; `+` is a blank here. Borrowed unless it has escapes. InvalidURI when an escape
    /// is malformed or the text is not UTF-8.
    pub fn value(&self, name: &str) -> Result<Option<Cow<'t, str>>, S3Error> {
        self.raw_pairs().find(|(raw, _)| is_name(raw, name)).map(|(_, value)| decode_query(value)).transpose()
    }
}

/// Whether a raw name decodes to `name`.
pub fn is_name(raw: &str, name: &str) -> bool {
    raw == name || (raw.contains('%') && decode_query(raw).is_ok_and(|decoded| decoded == name))
}

/// A name or value of a query, decoded.
pub fn decode_query(raw: &str) -> Result<Cow<'_, str>, S3Error> {
    if !raw.contains(['%', '+']) {
        return Ok(Cow::Borrowed(raw));
    }
    let mut bytes = Vec::with_capacity(raw.len());
    decode_percent(raw, true, &mut bytes)?;
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| ErrorCode::InvalidURI.into())
}

fn decode_percent(raw: &str, plus_is_blank: bool, out: &mut Vec<u8>) -> Result<(), S3Error> {
    let mut rest = raw.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        out.push(match byte {
            b'%' => {
                let (digits, after) = rest.split_first_chunk::<2>().ok_or(ErrorCode::InvalidURI)?;
                rest = after;
                hex_byte(*digits).ok_or(ErrorCode::InvalidURI)?
            }
            b'+' if plus_is_blank => b' ',
            other => other,
        });
    }
    Ok(())
}

fn hex_byte(digits: [u8; 2]) -> Option<u8> {
    let digit = |b: u8| (b as char).to_digit(16);
    Some((digit(digits[0])? << 4 | digit(digits[1])?) as u8)
}

/// Appends `text` percent-encoded as S3 wants it in paths, queries and `encoding-type=url` listings: RFC 3986's unreserved
/// characters stay, and `/` where `keep_slash`.
pub fn encode_percent(text: &[u8], keep_slash: bool, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in text {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (keep_slash && byte == b'/') {
            out.push(byte as char);
        } else {
            out.push('%');
            out.push(HEX[(byte >> 4) as usize] as char);
            out.push(HEX[(byte & 15) as usize] as char);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(raw: &str, bucket: Option<&str>, key: Option<&str>) {
        let mut scratch = String::from("left over");
        let target = Target::parse(raw, None, &mut scratch).unwrap_or_else(|error| panic!("{raw:?}: {error}"));
        assert_eq!((target.bucket, target.key), (bucket, key), "{raw:?}");
    }

    fn refused(raw: &str, want: ErrorCode) {
        let mut scratch = String::new();
        let error = Target::parse(raw, None, &mut scratch).map(|_| ()).expect_err(raw);
        assert_eq!(error.code, want, "{raw:?}");
    }

    #[test]
    fn keys_are_byte_exact() {
        check("/", None, None);
        check("/?x-id=ListBuckets", None, None);
        check("/photos", Some("photos"), None);
        check("/photos/", Some("photos"), None);
        check("/photos?location", Some("photos"), None);
        for (raw, key) in [
            ("a/b", "a/b"),
            ("/a", "/a"),
            ("/", "/"),
            ("//", "//"),
            ("a//b", "a//b"),
            ("a/", "a/"),
            (".", "."),
            ("..", ".."),
            ("../../etc/passwd", "../../etc/passwd"),
            ("a/./b", "a/./b"),
            ("a%2Fb", "a/b"),
            ("%2Fa", "/a"),
            ("%2e%2E", ".."),
            ("a+b", "a+b"),
            ("a%2Bb", "a+b"),
            ("a%20b", "a b"),
            ("100%25", "100%"),
            ("%2525", "%25"),
            ("a%3Fb%26c%3Dd", "a?b&c=d"),
            ("a&b=c", "a&b=c"),
            ("%C3%BC", "ü"),
            ("ü", "ü"),
            ("%F0%9F%98%80", "😀"),
            ("%00", "\0"),
            ("%0A%0d", "\n\r"),
            ("!'()*", "!'()*"),
            ("a!0b", "a!0b"),
        ] {
            check(&format!("/photos/{raw}"), Some("photos"), Some(key));
        }
        check("/ph%6Ftos/k", Some("photos"), Some("k"));
        check("/a%2Fb", Some("a/b"), None);
    }

    #[test]
    fn what_cannot_be_a_target_is_refused() {
        for raw in ["/b/%", "/b/%2", "/b/%zz", "/b/%+1", "/b/a%2", "/b/%FF", "/b/%C3", "/%C3/%BC", "/b/%ED%A0%80"] {
            refused(raw, ErrorCode::InvalidURI);
        }
        refused("/b/k#part", ErrorCode::InvalidURI);
        refused("b/k", ErrorCode::InvalidURI);
        refused("//k", ErrorCode::InvalidBucketName);
        refused("//", ErrorCode::InvalidBucketName);
    }

    #[test]
    fn buckets_in_the_host() {
        let domains: Vec<Box<str>> = ["s3.local", "eu.s3.local", "h"].map(Into::into).into();
        for (host, want) in [
            ("photos.s3.local", Some("photos")),
            ("PHOTOS.S3.Local:9000", Some("PHOTOS")),
            ("photos.s3.local.:9000", Some("photos")),
            ("a.b.c.s3.local", Some("a.b.c")),
            ("photos.eu.s3.local", Some("photos")),
            ("eu.s3.local", None),
            ("s3.local:9000", None),
            (".s3.local", None),
            ("photoss3.local", None),
            ("photos.s3.locals", None),
            ("x.h", Some("x")),
            ("127.0.0.1:9000", None),
            ("[::1]:9000", None),
            ("localhost", None),
        ] {
            let text = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let head = RequestHead::parse(text.as_bytes(), &mut 0).expect(host).expect("whole");
            assert_eq!(bucket_of_host(&head, &domains), want, "{host}");
            assert_eq!(bucket_of_host(&head, &[]), None, "{host}");
        }
        for (raw, key) in [("/", None), ("/a/b", Some("a/b")), ("//a%20b", Some("/a b")), ("/?location", None)] {
            let mut scratch = String::from("left over");
            let target = Target::parse(raw, Some("PHOTOS"), &mut scratch).expect(raw);
            assert_eq!((target.bucket, target.key), (Some("photos"), key), "{raw:?}");
        }
    }

    #[test]
    fn keys_end_at_1024_bytes_of_utf8() {
        for (unit, count) in [("k", 1024), ("%6B", 1024), ("%C3%BC", 512)] {
            let longest = format!("/b/{}", unit.repeat(count));
            let mut scratch = String::new();
            let target = Target::parse(&longest, None, &mut scratch).expect("1024 bytes are allowed");
            assert_eq!(target.key.map(str::len), Some(1024));
            refused(&format!("{longest}x"), ErrorCode::KeyTooLongError);
        }
    }

    #[test]
    fn queries_keep_order_and_repetition() {
        let query = Query::new("b=2&a=1&&b=3&flag&empty=&c=x=y&list%2Dtype=2");
        let pairs: Vec<_> = query.raw_pairs().collect();
        let want =
            [("b", "2"), ("a", "1"), ("b", "3"), ("flag", ""), ("empty", ""), ("c", "x=y"), ("list%2Dtype", "2")];
        assert_eq!(pairs, want);
        assert_eq!(query.value("b").expect("plain").as_deref(), Some("2"), "the first counts");
        assert!(query.has("flag") && query.has("list-type") && !query.has("B") && !query.has("x"));
        assert_eq!(query.value("absent").expect("plain"), None);
    }

    #[test]
    fn query_values_are_decoded() {
        let value = |raw: &str| Query::new(&format!("p={raw}")).value("p").map(|v| v.expect("present").into_owned());
        assert_eq!(value("a+b%2Bc%20d%2F%C3%BC").as_deref(), Ok("a b+c d/ü"));
        for bad in ["%", "%4", "%zz", "%FF"] {
            assert_eq!(value(bad).map_err(|error| error.code), Err(ErrorCode::InvalidURI), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn encoded_keys_come_back(key in "\\PC{1,200}", control in any::<[char; 3]>(), keep_slash in any::<bool>()) {
            let key: String = key.chars().chain(control).collect();
            prop_assume!(key.len() <= KEY_BYTES_MAX);
            let mut raw = String::from("/b/");
            encode_percent(key.as_bytes(), keep_slash, &mut raw);
            let mut scratch = String::new();
            let target = Target::parse(&raw, None, &mut scratch).expect("well-formed");
            prop_assert_eq!(target.key, Some(key.as_str()));
            let encoded = &raw[3..];
            prop_assert_eq!(&*decode_query(encoded).expect("well-formed"), key.as_str());
        }
    }
}
