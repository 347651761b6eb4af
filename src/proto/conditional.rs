//! Conditional requests: If-Match, If-None-Match, If-Modified-Since, If-Unmodified-Since, If-Range (RFC 9110, 13).
//!
//! Reads are decided here, against one version's ETag and time. A write's conditions are only parsed here; the store decides
//! them in the commit. ETags on our side are without quotes; clients may send theirs with or without.

use super::date;
use super::error_code::{ErrorCode, S3Error};
use super::http1::RequestHead;
use crate::base::Timestamp;

/// The conditions of a GET or HEAD, as sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReadConditions<'h> {
    pub if_match: Option<&'h [u8]>,
    pub if_none_match: Option<&'h [u8]>,
    pub if_modified_since: Option<&'h [u8]>,
    pub if_unmodified_since: Option<&'h [u8]>,
    pub if_range: Option<&'h [u8]>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Proceed,
    /// 304, without a body.
    NotModified,
    /// 412.
    PreconditionFailed,
}

impl<'h> ReadConditions<'h> {
    /// InvalidRequest when a condition is sent twice: dropping one of them would answer another question.
    pub fn of(head: &RequestHead<'h>) -> Result<Self, S3Error> {
        Ok(Self {
            if_match: only(head, "if-match")?,
            if_none_match: only(head, "if-none-match")?,
            if_modified_since: only(head, "if-modified-since")?,
            if_unmodified_since: only(head, "if-unmodified-since")?,
            if_range: only(head, "if-range")?,
        })
    }

    /// Those of a copy's source.
    pub fn of_copy_source(head: &RequestHead<'h>) -> Result<Self, S3Error> {
        Ok(Self {
            if_match: only(head, "x-amz-copy-source-if-match")?,
            if_none_match: only(head, "x-amz-copy-source-if-none-match")?,
            if_modified_since: only(head, "x-amz-copy-source-if-modified-since")?,
            if_unmodified_since: only(head, "x-amz-copy-source-if-unmodified-since")?,
            if_range: None,
        })
    }

    /// In the order of RFC 9110, 13.2.2: a date counts only when the ETag condition of its kind is absent. A malformed date
    /// is no condition, and neither is an If-Modified-Since of the future, as S3 has it.
    pub fn test(&self, etag: &str, modified: Timestamp, now: impl FnOnce() -> Timestamp) -> Verdict {
        let changed_after = |value: &[u8]| date::parse_http(value).map(|at| modified.seconds() > at.seconds());
        let holds = match (self.if_match, self.if_unmodified_since) {
            (Some(tags), _) => matches_strongly(tags, etag),
            (None, Some(since)) => changed_after(since) != Some(true),
            (None, None) => true,
        };
        if !holds {
            return Verdict::PreconditionFailed;
        }
        let is_news = match (self.if_none_match, self.if_modified_since) {
            (Some(tags), _) => !matches_weakly(tags, etag),
            (None, Some(since)) => {
                let is_past = date::parse_http(since).is_some_and(|at| at.seconds() <= now().seconds());
                !is_past || changed_after(since) != Some(false)
            }
            (None, None) => true,
        };
        if is_news { Verdict::Proceed } else { Verdict::NotModified }
    }

    /// Whether a Range is to be honoured: If-Range, if there is one, names exactly this version (RFC 9110, 13.1.5).
    pub fn range_applies(&self, etag: &str, modified: Timestamp) -> bool {
        let Some(value) = self.if_range else { return true };
        match date::parse_http(value) {
            Some(at) => at.seconds() == modified.seconds(),
            None => matches_strongly(value, etag) && value != b"*",
        }
    }
}

/// One condition of a write: ETags without quotes, or `*`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EtagList {
    /// `*`
    Any,
    /// Empty when no tag of the list could ever match one of ours.
    Tags(Vec<String>),
}

/// The conditions of a PutObject, CompleteMultipartUpload or DeleteObject.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WriteConditions {
    pub if_match: Option<EtagList>,
    pub if_none_match: Option<EtagList>,
}

impl WriteConditions {
    /// InvalidRequest when a condition is sent twice.
    pub fn of(head: &RequestHead<'_>) -> Result<Self, S3Error> {
        Ok(Self {
            if_match: only(head, "if-match")?.map(|value| parse_list(value, false)),
            if_none_match: only(head, "if-none-match")?.map(|value| parse_list(value, true)),
        })
    }
}

#[inline]
fn only<'h>(head: &RequestHead<'h>, name: &str) -> Result<Option<&'h [u8]>, S3Error> {
    if head.headers.may_have(name) { only_of(head, name) } else { Ok(None) }
}

#[inline(never)]
fn only_of<'h>(head: &RequestHead<'h>, name: &str) -> Result<Option<&'h [u8]>, S3Error> {
    let mut values = head.headers.all(name);
    let value = values.next();
    if values.next().is_some() {
        return Err(S3Error::new(ErrorCode::InvalidRequest, format!("The header {name} may be sent only once.")));
    }
    Ok(value)
}

fn parse_list(value: &[u8], weak_too: bool) -> EtagList {
    if value == b"*" {
        return EtagList::Any;
    }
    let tags = EntityTags { rest: value }
        .filter(|tag| weak_too || !tag.weak)
        .filter_map(|tag| std::str::from_utf8(tag.opaque).ok())
        // A quoted asterisk is a tag like any other, and none of ours.
        .filter(|tag| *tag != "*")
        .map(str::to_owned)
        .collect();
    EtagList::Tags(tags)
}

/// For If-Match: a weak tag promises too little.
fn matches_strongly(value: &[u8], etag: &str) -> bool {
    value == b"*" || EntityTags { rest: value }.any(|tag| !tag.weak && tag.opaque == etag.as_bytes())
}

/// For If-None-Match.
fn matches_weakly(value: &[u8], etag: &str) -> bool {
    value == b"*" || EntityTags { rest: value }.any(|tag| tag.opaque == etag.as_bytes())
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct EntityTag<'h> {
    weak: bool,
    /// Between the quotes, if there were any.
    opaque: &'h [u8],
}

/// The tags of a list. A quoted tag may hold commas; one without quotes ends at the next.
struct EntityTags<'h> {
    rest: &'h [u8],
}

impl<'h> Iterator for EntityTags<'h> {
    type Item = EntityTag<'h>;

    fn next(&mut self) -> Option<EntityTag<'h>> {
        let start = self.rest.iter().position(|b| !matches!(b, b',' | b' ' | b'\t'))?;
        let item = &self.rest[start..];
        let (weak, item) = item.strip_prefix(b"W/").map_or((false, item), |item| (true, item));
        let quoted = item.strip_prefix(b"\"").and_then(|inner| {
            let end = inner.iter().position(|&b| b == b'"')?;
            Some((&inner[..end], &inner[end + 1..]))
        });
        let (opaque, rest) = quoted.unwrap_or_else(|| {
            let end = item.iter().position(|&b| b == b',').unwrap_or(item.len());
            (item[..end].trim_ascii_end(), &item[end..])
        });
        self.rest = rest;
        Some(EntityTag { weak, opaque })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETAG: &str = "9bb58f26192e4ba00f01e2e7b136bbd8";
    const MODIFIED: Timestamp = Timestamp { millis: 784_111_777_500 };
    const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    const NOW: Timestamp = Timestamp { millis: 784_111_778_000 };
    const FUTURE: &str = "Sun, 06 Nov 1994 08:49:39 GMT";

    fn with_head<T>(fields: &[(&str, &str)], check: impl FnOnce(&RequestHead<'_>) -> T) -> T {
        let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let text = format!("GET /b/k HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        check(&RequestHead::parse(text.as_bytes(), &mut 0).expect("well-formed").expect("complete"))
    }

    fn check(fields: &[(&str, &str)], want: Verdict) {
        let verdict =
            with_head(fields, |head| ReadConditions::of(head).expect("once each").test(ETAG, MODIFIED, || NOW));
        assert_eq!(verdict, want, "{fields:?}");
    }

    #[test]
    fn if_match() {
        let quoted = format!("\"{ETAG}\"");
        for value in
            ["*", ETAG, &quoted, &format!("\"a\", {quoted}"), &format!("a,{ETAG}"), &format!("\"a,b\",{quoted}")]
        {
            check(&[("If-Match", value)], Verdict::Proceed);
        }
        let weak = format!("W/{quoted}");
        for value in ["\"a\"", "a", "", "\"\"", "\"*\"", &weak, &ETAG.to_uppercase(), &format!("\"{ETAG}")] {
            check(&[("If-Match", value)], Verdict::PreconditionFailed);
        }
    }

    #[test]
    fn if_none_match() {
        let quoted = format!("\"{ETAG}\"");
        for value in
            ["*", ETAG, &quoted, &format!("W/{quoted}"), &format!("\"a\" , {quoted}"), &format!("W/\"a\",W/{quoted}")]
        {
            check(&[("If-None-Match", value)], Verdict::NotModified);
        }
        for value in ["\"a\"", "a", "", "\"*\"", ",,,", &format!("\"{ETAG}-2\"")] {
            check(&[("If-None-Match", value)], Verdict::Proceed);
        }
    }

    #[test]
    fn dates_count_in_whole_seconds() {
        for (value, want) in
            [(BEFORE, Verdict::PreconditionFailed), (SAME, Verdict::Proceed), (AFTER, Verdict::Proceed)]
        {
            check(&[("If-Unmodified-Since", value)], want);
        }
        for (value, want) in [
            (BEFORE, Verdict::Proceed),
            (SAME, Verdict::NotModified),
            (AFTER, Verdict::NotModified),
            (FUTURE, Verdict::Proceed),
        ] {
            check(&[("If-Modified-Since", value)], want);
        }
        check(&[("If-Unmodified-Since", "yesterday"), ("If-Modified-Since", "tomorrow")], Verdict::Proceed);
        check(&[("If-Modified-Since", "Sunday, 06-Nov-94 08:49:37 GMT")], Verdict::NotModified);
        check(&[("If-Modified-Since", "Sun Nov  6 08:49:37 1994")], Verdict::NotModified);
    }

    #[test]
    fn etags_outrank_dates_and_order_decides() {
        check(&[("If-Match", ETAG), ("If-Unmodified-Since", BEFORE)], Verdict::Proceed);
        check(&[("If-Match", "a"), ("If-Unmodified-Since", AFTER)], Verdict::PreconditionFailed);
        check(&[("If-None-Match", ETAG), ("If-Modified-Since", BEFORE)], Verdict::NotModified);
        check(&[("If-None-Match", "a"), ("If-Modified-Since", AFTER)], Verdict::Proceed);
        check(&[("If-Match", "a"), ("If-None-Match", ETAG)], Verdict::PreconditionFailed);
        check(&[("If-Match", ETAG), ("If-None-Match", ETAG)], Verdict::NotModified);
        check(&[("If-Match", ETAG), ("If-Modified-Since", AFTER)], Verdict::NotModified);
        check(&[("If-None-Match", ETAG), ("If-Unmodified-Since", BEFORE)], Verdict::PreconditionFailed);
    }

    #[test]
    fn if_range_names_one_version() {
        let applies = |value: &str| {
            with_head(&[("If-Range", value)], |head| {
                ReadConditions::of(head).expect("once").range_applies(ETAG, MODIFIED)
            })
        };
        assert!(applies(&format!("\"{ETAG}\"")) && applies(SAME));
        for value in ["\"a\"", BEFORE, AFTER, "*", &format!("W/\"{ETAG}\"")] {
            assert!(!applies(value), "{value:?}");
        }
        assert!(ReadConditions::default().range_applies(ETAG, MODIFIED));
    }

    #[test]
    fn a_condition_sent_twice_is_refused() {
        let fields = [("If-None-Match", "a"), ("if-none-match", ETAG)];
        let read = with_head(&fields, |head| ReadConditions::of(head).map(|_| ()).map_err(|error| error.code));
        let write = with_head(&fields, |head| WriteConditions::of(head).map(|_| ()).map_err(|error| error.code));
        assert_eq!((read, write), (Err(ErrorCode::InvalidRequest), Err(ErrorCode::InvalidRequest)));
    }

    #[test]
    fn conditions_of_a_write() {
        let tags = |list: &[&str]| Some(EtagList::Tags(list.iter().map(|&tag| tag.to_owned()).collect()));
        for (name, value, want) in [
            ("If-None-Match", "*", Some(EtagList::Any)),
            ("If-None-Match", "\"a\", W/\"b\", c", tags(&["a", "b", "c"])),
            ("If-None-Match", "", tags(&[])),
            ("If-None-Match", "\"*\"", tags(&[])),
            ("If-Match", "*", Some(EtagList::Any)),
            ("If-Match", "\"a\", W/\"b\", c", tags(&["a", "c"])),
            ("If-Match", "W/\"b\"", tags(&[])),
        ] {
            let conditions = with_head(&[(name, value)], |head| WriteConditions::of(head).expect("once"));
            let got = if name == "If-Match" { conditions.if_match } else { conditions.if_none_match };
            assert_eq!(got, want, "{name}: {value}");
        }
    }
}
