//! What travels with a blob: the headers and user metadata that are known before its body, so that a reader without the
//! database can answer properly (PROTOCOL.md, "Answers without the database"); and its key, where the name holds only the
//! key's hash, so that the object can be had back when the database is lost.
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
//! | `x-amz-meta-s3o-key` | the key of a hashed name, as base64 (URL alphabet, no padding) |
//!
//! Any other value that is not plain visible ASCII is written as AWS writes it (RFC 2047, `=?UTF-8?B?…?=`). AWS and others decode
//! that and write it anew when they answer: in words of at most 75 characters, in base64 or with the odd bytes in hex, or plain
//! if it is ASCII. All of that is read; a key must not suffer it.

use crate::base::blob_name;
use crate::base::limits::KEY_BYTES_MAX;
use crate::store::record::ObjectRecord;
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXUPPER_PERMISSIVE};
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
const OUR_KEY: &str = "s3o-key";
const _: () = assert!(OUR_KEY.len() + KEY_BYTES_MAX.div_ceil(3) * 4 <= METADATA_BYTES_MAX, "any key fits");

/// What an object's blobs take along; `key` only where their name is a hash.
#[derive(Clone, Copy, Debug)]
pub struct Luggage<'a> {
    pub key: &'a str,
    pub record: &'a ObjectRecord,
}

impl Luggage<'_> {
    /// None: the name says the key.
    fn key_beside(&self, name: &str) -> Option<String> {
        blob_name::hash_in(name).map(|_| BASE64URL_NOPAD.encode(self.key.as_bytes()))
    }
}

/// Calls `each` with every field that travels with the blob `name`: a name in two parts, and a value.
pub fn fields(name: &str, luggage: Luggage<'_>, mut each: impl FnMut(&str, &str, &str)) {
    let mut headers_left = HEADERS_BYTES_MAX;
    let mut metadata_left = METADATA_BYTES_MAX;
    if let Some(key) = luggage.key_beside(name)
        && take(&mut metadata_left, OUR_KEY.len() + key.len())
    {
        each(METADATA, OUR_KEY, &key);
    }
    let record = luggage.record;
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

/// What arrived with a blob.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Arrived {
    /// As its writer, or whoever changed it since, says: only who knows the name can tell whether it is true.
    pub key: Option<String>,
    pub record: ObjectRecord,
}

/// What a backend's answer to GET or HEAD says of what travelled. Names may have any case; values that are not text are
/// left out.
pub fn collect<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Arrived {
    let mut arrived = Arrived::default();
    let record = &mut arrived.record;
    for (name, value) in fields {
        let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else { continue };
        let name = name.to_ascii_lowercase();
        match name.strip_prefix(METADATA) {
            Some(OUR_KEY) => arrived.key = key_of(value),
            Some(name) => match (name.strip_prefix(OUR_HEADER), name.strip_prefix(OUR_METADATA)) {
                (Some(header), _) => record.headers.push((header.to_owned(), decode(value).into_owned())),
                (_, Some(own)) => record.user_metadata.push((own.to_owned(), decode(value).into_owned())),
                _ => record.user_metadata.push((name.to_owned(), decode(value).into_owned())),
            },
            None if HARMLESS.contains(&name.as_str()) => record.headers.push((name, value.to_owned())),
            None => {}
        }
    }
    arrived
}

/// Bytes of a label: what small file systems' attribute blocks hold.
pub const LABEL_BYTES_MAX: usize = 3 * 1024;

/// The extended attribute of a directory's blob. Holds its name too, so that a file moved by hand can be told.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Label {
    pub name: String,
    /// Of a hashed name, written as on S3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    #[serde(default)]
    pub metadata: Vec<(String, String)>,
}

impl Label {
    pub fn new(name: &str, luggage: Luggage<'_>) -> Self {
        Self {
            name: name.to_owned(),
            key: luggage.key_beside(name),
            headers: luggage.record.headers.clone(),
            metadata: luggage.record.user_metadata.clone(),
        }
    }

    /// At most `LABEL_BYTES_MAX`; what does not fit is left out.
    pub fn encode(&self) -> Vec<u8> {
        let without_metadata = Self { metadata: Vec::new(), ..self.clone() };
        let bare = Self { headers: Vec::new(), ..without_metadata.clone() };
        [self, &without_metadata, &bare]
            .into_iter()
            .map(|label| serde_json::to_vec(label).expect("a label is plain text"))
            .find(|bytes| bytes.len() <= LABEL_BYTES_MAX)
            .unwrap_or_default()
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// What travelled, as a reader needs it.
    pub fn arrived(self) -> Arrived {
        let key = self.key.as_deref().and_then(key_of);
        let record = ObjectRecord { headers: self.headers, user_metadata: self.metadata, ..ObjectRecord::default() };
        Arrived { key, record }
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

fn key_of(value: &str) -> Option<String> {
    String::from_utf8(BASE64URL_NOPAD.decode(value.as_bytes()).ok()?).ok()
}

fn encode(value: &str) -> Cow<'_, str> {
    let is_clear = is_plain(value) && !value.is_empty() && !value.contains("=?");
    if is_clear { Cow::Borrowed(value) } else { Cow::Owned(format!("=?UTF-8?B?{}?=", BASE64.encode(value.as_bytes()))) }
}

/// A value that is nothing but encoded words, in whichever form the backend has written them anew; any other as it is.
fn decode(value: &str) -> Cow<'_, str> {
    if !value.starts_with("=?") {
        return Cow::Borrowed(value);
    }
    // A character may be cut in two between words.
    let mut bytes = Vec::with_capacity(value.len());
    let all = value.split_ascii_whitespace().try_for_each(|word| decode_word(word, &mut bytes));
    let decoded = all.and_then(|()| String::from_utf8(bytes).ok());
    decoded.map_or(Cow::Borrowed(value), Cow::Owned)
}

/// Appends the bytes of `=?UTF-8?B?…?=` or `=?UTF-8?Q?…?=`. None: it is no such word.
fn decode_word(word: &str, bytes: &mut Vec<u8>) -> Option<()> {
    let mut fields = word.strip_prefix("=?")?.strip_suffix("?=")?.splitn(3, '?');
    let (charset, encoding, text) = (fields.next()?, fields.next()?, fields.next()?);
    if !["utf-8", "us-ascii"].iter().any(|known| charset.eq_ignore_ascii_case(known)) {
        return None;
    }
    match encoding {
        "B" | "b" => bytes.extend(BASE64.decode(text.as_bytes()).ok()?),
        "Q" | "q" => decode_quoted(text, bytes)?,
        _ => return None,
    }
    Some(())
}

fn decode_quoted(text: &str, bytes: &mut Vec<u8>) -> Option<()> {
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        bytes.push(match first {
            b'_' => b' ',
            b'=' => {
                let (hex, after) = rest.split_at_checked(2)?;
                rest = after;
                *HEXUPPER_PERMISSIVE.decode(hex).ok()?.first()?
            }
            plain => plain,
        });
    }
    Some(())
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
        sent_as("bkt/k!", "k", record)
    }

    fn sent_as(name: &str, key: &str, record: &ObjectRecord) -> Vec<(String, String)> {
        let mut sent = Vec::new();
        fields(name, Luggage { key, record }, |prefix, name, value| {
            sent.push((format!("{prefix}{name}"), value.to_owned()));
        });
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
    fn what_backends_write_anew_is_read() {
        let long = "ä€😀 ".repeat(20);
        let words = |bytes: usize| {
            let word = |piece: &[u8]| format!("=?UTF-8?B?{}?=", BASE64.encode(piece));
            long.as_bytes().chunks(bytes).map(word).collect::<Vec<_>>().join(" ")
        };
        for (told, want) in [
            (words(45), long.as_str()),
            (words(1000), &long),
            ("=?UTF-8?Q?Mini=C3=B6_and=3F?= =?utf-8?q?=c3?= =?utf-8?b?tg==?=".into(), "Miniö and?ö"),
            ("=?us-ascii?Q?a_b?=".into(), "a b"),
            ("two  blanks".into(), "two  blanks"),
            ("=?UTF-8?B?w6Q=?= and more".into(), "=?UTF-8?B?w6Q=?= and more"),
            ("=?UTF-8?Q?=C?=".into(), "=?UTF-8?Q?=C?="),
            ("=?ISO-8859-1?Q?=E4?=".into(), "=?ISO-8859-1?Q?=E4?="),
            ("=?UTF-8?Q?=E4?=".into(), "=?UTF-8?Q?=E4?="),
            ("=?".into(), "=?"),
            ("=?=".into(), "=?="),
        ] {
            assert_eq!(decode(&told), want, "{told}");
        }
    }

    #[test]
    fn what_does_not_fit_stays() {
        let big = "v".repeat(METADATA_BYTES_MAX);
        check(&[], &[("a", &big), ("b", "fits")], &[("x-amz-meta-b", "fits")]);
        let big = record(&[("content-type", "a/b")], &[("a", &big), ("b", &big)]);
        let label = Label::new("n", Luggage { key: "n", record: &big });
        let want = Label { metadata: vec![], ..label.clone() };
        assert_eq!(Label::decode(&label.encode()), Some(want));
    }

    #[test]
    fn the_key_of_a_hashed_name_travels_before_all_else() {
        let big = "v".repeat(METADATA_BYTES_MAX / 3);
        let record =
            record(&[("content-type", "a/b")], &[("s3o-key", "a client's"), ("a", &big), ("b", &big), ("c", &big)]);
        for key in [
            "/a",
            "a//b",
            " ",
            "\u{1}",
            "=?UTF-8?B?AAAA?=",
            &"\"".repeat(1024),
            &"ä".repeat(512),
            &"\u{1}".repeat(1024),
        ] {
            let name = blob_name::stem(&"b".repeat(63), key, false);
            let wire = sent_as(&name, key, &record);
            let spent: usize = wire.iter().filter_map(|(n, v)| Some(n.strip_prefix(METADATA)?.len() + v.len())).sum();
            assert!(spent <= METADATA_BYTES_MAX, "{key:?}: {spent}");
            let got = collect(wire.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
            assert_eq!(got.key.as_deref(), Some(key));
            assert!(
                got.record.user_metadata.contains(&("s3o-key".into(), "a client's".into())),
                "its own stays its own"
            );
            let label = Label::decode(&Label::new(&name, Luggage { key, record: &record }).encode()).expect("a label");
            assert_eq!(label.arrived().key.as_deref(), Some(key));
        }
        assert!(
            sent(&record).iter().all(|(name, _)| name != "x-amz-meta-s3o-key"),
            "a name that says its key is enough"
        );
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
            let mut got = collect(wire.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()))).record;
            got.headers.sort();
            let mut want = record.clone();
            want.headers.sort();
            prop_assert_eq!(&got, &want);
            let label = Label::new("some/name", Luggage { key: "", record: &record });
            let label = Label::decode(&label.encode()).expect("it was encoded");
            prop_assert_eq!((label.headers, label.metadata), (record.headers, record.user_metadata));
        }
    }
}
