//! What travels with a blob: the headers and user metadata that are known before its body, so that a reader without the
//! database can answer properly (PROTOCOL.md, "Answers without the database").
//!
//! On S3 they are header fields of the PUT, at most 2 KiB of metadata; in a directory they are one extended attribute. A
//! backend must neither refuse a body for its headers nor act on them, so only what no backend looks at travels under
//! its own name; the rest is metadata of ours:
//!
//! | field | carries |
//! |---|---|
//! | `content-type`, `cache-control`, `content-disposition`, `content-language` | themselves, when plain |
//! | `x-amz-meta-s3o-h-NAME` | any other header (`content-encoding`, by which some backends unpack; `expires`, which some parse) |
//! | `x-amz-meta-NAME` | user metadata |
//! | `x-amz-meta-s3o-m-NAME` | user metadata whose name begins with `s3o-` |
//!
//! A value that is not plain visible ASCII is written as AWS writes it (RFC 2047, `=?UTF-8?B?…?=`).

use crate::store::record::ObjectRecord;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Names and values of all metadata together (S3: "User-defined object metadata"). What does not fit does not travel.
pub const METADATA_BYTES_MAX: usize = 2 * 1024;
/// Plain headers together; AWS takes 8 KiB of all fields.
const HEADERS_BYTES_MAX: usize = 2 * 1024;

const METADATA: &str = "x-amz-meta-";
const OURS: &str = "s3o-";
const OUR_HEADER: &str = "s3o-h-";
const OUR_METADATA: &str = "s3o-m-";

/// Calls `each` with every field that travels: a name in two parts, and a value.
pub fn fields(record: &ObjectRecord, mut each: impl FnMut(&str, &str, &str)) {
    let mut headers_left = HEADERS_BYTES_MAX;
    let mut metadata_left = METADATA_BYTES_MAX;
    for (name, value) in &record.headers {
        if is_harmless(name, value) {
            if take(&mut headers_left, name.len() + value.len()) {
                each("", name, value);
            }
        } else {
            let value = encode(value);
            if take(&mut metadata_left, OUR_HEADER.len() + name.len() + value.len()) {
                each("x-amz-meta-s3o-h-", name, &value);
            }
        }
    }
    for (name, value) in &record.user_metadata {
        let value = encode(value);
        let (prefix, cost) =
            if name.starts_with(OURS) { ("x-amz-meta-s3o-m-", OUR_METADATA.len()) } else { (METADATA, 0) };
        if is_token(name) && take(&mut metadata_left, cost + name.len() + value.len()) {
            each(prefix, name, &value);
        }
    }
}

/// What a backend's answer to GET or HEAD says of what travelled. Names may have any case; values that are not text are
/// left out.
pub fn collect<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> ObjectRecord {
    let mut record = ObjectRecord::default();
    for (name, value) in fields {
        let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else { continue };
        let name = name.to_ascii_lowercase();
        match name.strip_prefix(METADATA) {
            Some(name) => match (name.strip_prefix(OUR_HEADER), name.strip_prefix(OUR_METADATA)) {
                (Some(header), _) => record.headers.push((header.to_owned(), decode(value).into_owned())),
                (_, Some(own)) => record.user_metadata.push((own.to_owned(), decode(value).into_owned())),
                _ => record.user_metadata.push((name.to_owned(), decode(value).into_owned())),
            },
            None if HARMLESS.contains(&name.as_str()) => record.headers.push((name, value.to_owned())),
            None => {}
        }
    }
    record
}

/// Bytes of a label: what small file systems' attribute blocks hold.
pub const LABEL_BYTES_MAX: usize = 3 * 1024;

/// The extended attribute of a directory's blob. Holds its name too, so that a file moved by hand can be told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Label {
    pub name: String,
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    #[serde(default)]
    pub metadata: Vec<(String, String)>,
}

impl Label {
    /// At most `LABEL_BYTES_MAX`; what does not fit is left out.
    pub fn encode(name: &str, record: &ObjectRecord) -> Vec<u8> {
        let whole =
            Self { name: name.to_owned(), headers: record.headers.clone(), metadata: record.user_metadata.clone() };
        let without_metadata = Self { metadata: Vec::new(), ..whole.clone() };
        let bare = Self { headers: Vec::new(), ..without_metadata.clone() };
        [whole, without_metadata, bare]
            .iter()
            .map(|label| serde_json::to_vec(label).expect("a label is plain text"))
            .find(|bytes| bytes.len() <= LABEL_BYTES_MAX)
            .unwrap_or_default()
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// What travelled, as a reader needs it.
    pub fn into_record(self) -> ObjectRecord {
        ObjectRecord { headers: self.headers, user_metadata: self.metadata, ..ObjectRecord::default() }
    }
}

const HARMLESS: [&str; 4] = ["content-type", "cache-control", "content-disposition", "content-language"];

/// Whether a header may stand in a PUT under its own name: no backend refuses it, or does anything with it.
fn is_harmless(name: &str, value: &str) -> bool {
    HARMLESS.contains(&name) && is_plain(value) && (name != "content-type" || is_media_type(value))
}

/// `type/subtype` with or without parameters: what strict backends take.
fn is_media_type(value: &str) -> bool {
    let essence = value.split(';').next().unwrap_or_default().trim_end();
    essence.split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype))
}

fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Visible ASCII that no signer or server would change: blanks inside are single.
fn is_plain(value: &str) -> bool {
    value.bytes().all(|b| b.is_ascii_graphic() || b == b' ') && !value.contains("  ") && value.trim() == value
}

fn encode(value: &str) -> Cow<'_, str> {
    let is_clear = is_plain(value) && !value.is_empty() && !value.starts_with("=?");
    if is_clear { Cow::Borrowed(value) } else { Cow::Owned(format!("=?UTF-8?B?{}?=", BASE64.encode(value.as_bytes()))) }
}

fn decode(value: &str) -> Cow<'_, str> {
    let inner = value.strip_prefix("=?UTF-8?B?").and_then(|rest| rest.strip_suffix("?="));
    let decoded = inner.and_then(|text| String::from_utf8(BASE64.decode(text.as_bytes()).ok()?).ok());
    decoded.map_or(Cow::Borrowed(value), Cow::Owned)
}

fn take(left: &mut usize, bytes: usize) -> bool {
    let fits = bytes <= *left;
    if fits {
        *left -= bytes;
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sent(record: &ObjectRecord) -> Vec<(String, String)> {
        let mut sent = Vec::new();
        fields(record, |prefix, name, value| sent.push((format!("{prefix}{name}"), value.to_owned())));
        sent
    }

    fn record(headers: &[(&str, &str)], user_metadata: &[(&str, &str)]) -> ObjectRecord {
        let own = |pairs: &[(&str, &str)]| pairs.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect();
        ObjectRecord { headers: own(headers), user_metadata: own(user_metadata), ..ObjectRecord::default() }
    }

    fn check(headers: &[(&str, &str)], user_metadata: &[(&str, &str)], want: &[(&str, &str)]) {
        let got = sent(&record(headers, user_metadata));
        let got: Vec<(&str, &str)> = got.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(got, want, "{headers:?} {user_metadata:?}");
    }

    #[test]
    fn what_is_sent() {
        check(&[("content-type", "text/plain; charset=utf-8")], &[], &[("content-type", "text/plain; charset=utf-8")]);
        check(&[("content-type", "weird")], &[], &[("x-amz-meta-s3o-h-content-type", "weird")]);
        check(&[("content-encoding", "gzip")], &[], &[("x-amz-meta-s3o-h-content-encoding", "gzip")]);
        check(&[("expires", "-1")], &[], &[("x-amz-meta-s3o-h-expires", "-1")]);
        let encoded = "=?UTF-8?B?w6Q=?=";
        check(&[("cache-control", "ä")], &[], &[("x-amz-meta-s3o-h-cache-control", encoded)]);
        check(&[], &[("a", "ä"), ("b", "x y")], &[("x-amz-meta-a", encoded), ("x-amz-meta-b", "x y")]);
        check(&[], &[("s3o-h-x", "1")], &[("x-amz-meta-s3o-m-s3o-h-x", "1")]);
        check(&[], &[("a", "two  blanks")], &[("x-amz-meta-a", "=?UTF-8?B?dHdvICBibGFua3M=?=")]);
        check(&[], &[("a b", "no name for a field")], &[]);
    }

    #[test]
    fn what_does_not_fit_stays() {
        let big = "v".repeat(METADATA_BYTES_MAX);
        check(&[], &[("a", &big), ("b", "fits")], &[("x-amz-meta-b", "fits")]);
        let label =
            Label::decode(&Label::encode("n", &record(&[("content-type", "a/b")], &[("a", &big), ("b", &big)])));
        let want =
            Label { name: "n".to_owned(), headers: vec![("content-type".into(), "a/b".into())], metadata: vec![] };
        assert_eq!(label, Some(want));
    }

    fn any_record() -> impl Strategy<Value = ObjectRecord> {
        let names = prop::sample::subsequence(
            vec![
                "cache-control",
                "content-disposition",
                "content-encoding",
                "content-language",
                "content-type",
                "expires",
            ],
            0..4,
        );
        let metadata =
            prop::collection::btree_map("(s3o-)?(h-|m-)?[a-z_-]{1,5}", "\\PC{0,20}|=\\?UTF-8\\?B\\?.{0,4}\\?=", 0..5);
        (names, "[a-z]{1,4}/[a-z]{1,4}|\\PC{0,20}", metadata).prop_map(|(names, value, metadata)| ObjectRecord {
            headers: names.into_iter().map(|name| (name.to_owned(), value.clone())).collect(),
            user_metadata: metadata.into_iter().collect(),
            ..ObjectRecord::default()
        })
    }

    proptest! {
        #[test]
        fn what_travels_arrives(record in any_record()) {
            let wire = sent(&record);
            for (name, value) in &wire {
                prop_assert!(is_token(name) && is_plain(value), "{} {}", name, value);
            }
            let mut got = collect(wire.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
            got.headers.sort();
            let mut want = record.clone();
            want.headers.sort();
            prop_assert_eq!(&got, &want);
            let label = Label::decode(&Label::encode("some/name", &record)).expect("it was encoded");
            prop_assert_eq!((label.headers, label.metadata), (record.headers, record.user_metadata));
        }
    }
}
