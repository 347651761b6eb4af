//! The parameters of operations that have some, out of the query.
//!
//! Called by the handlers after classification, which has made sure that no unknown key is there.

use super::error_code::{ErrorCode, S3Error};
use super::list_token;
use super::target::Query;
use crate::base::limits::{BATCH_KEYS_MAX, PARTS_MAX};
use crate::base::{PartNumber, UploadId};
use std::borrow::Cow;

/// Entries of one page, unless fewer are asked for.
const PAGE_MAX: u32 = BATCH_KEYS_MAX as u32;

/// ListBuckets. All of them have one region, so `bucket-region` leaves nothing out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListBuckets<'t> {
    pub prefix: Option<Cow<'t, str>>,
    /// The page begins behind this name; empty: at the first.
    pub after: String,
    /// 1 to 10 000.
    pub max: u32,
}

impl<'t> ListBuckets<'t> {
    const MAX: u32 = 10_000;

    pub fn parse(query: &Query<'t>) -> Result<Self, S3Error> {
        let after = query.value("continuation-token")?.filter(|token| !token.is_empty());
        let max = count(query, "max-buckets", u32::MAX)?.unwrap_or(Self::MAX);
        if !(1..=Self::MAX).contains(&max) {
            let text = "Argument max-buckets must be an integer between 1 and 10000";
            return Err(S3Error::new(ErrorCode::InvalidArgument, text));
        }
        let after = after.map_or(Ok(String::new()), |token| list_token::decode(&token))?;
        Ok(Self { prefix: query.value("prefix")?, after, max })
    }
}

/// ListObjectsV2.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListObjectsV2<'t> {
    pub prefix: Cow<'t, str>,
    /// Empty: none.
    pub delimiter: Cow<'t, str>,
    /// As asked, to be echoed. Where the page begins is `after`.
    pub start_after: Option<Cow<'t, str>>,
    /// As asked, to be echoed.
    pub continuation_token: Option<Cow<'t, str>>,
    /// The page begins behind this key or common prefix: the token's, else `start_after`, else empty.
    pub after: String,
    /// 0 to 1000.
    pub max_keys: u32,
    /// Names in the answer are percent-encoded.
    pub url_encoding: bool,
    pub fetch_owner: bool,
}

impl<'t> ListObjectsV2<'t> {
    pub fn parse(query: &Query<'t>) -> Result<Self, S3Error> {
        if query.value("list-type")?.as_deref() != Some("2") {
            return Err(S3Error::new(ErrorCode::InvalidArgument, "Invalid List Type specified in Request"));
        }
        let start_after = query.value("start-after")?;
        let continuation_token = query.value("continuation-token")?;
        let after = match continuation_token.as_deref() {
            None | Some("") => start_after.as_deref().unwrap_or_default().to_owned(),
            Some(token) => list_token::decode(token)?,
        };
        Ok(Self {
            prefix: query.value("prefix")?.unwrap_or_default(),
            delimiter: query.value("delimiter")?.unwrap_or_default(),
            start_after,
            continuation_token,
            after,
            max_keys: count(query, "max-keys", PAGE_MAX)?.unwrap_or(PAGE_MAX),
            url_encoding: url_encoding(query)?,
            fetch_owner: query.value("fetch-owner")?.is_some_and(|value| value.eq_ignore_ascii_case("true")),
        })
    }
}

/// ListObjects, the first version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListObjects<'t> {
    pub prefix: Cow<'t, str>,
    /// Empty: none.
    pub delimiter: Cow<'t, str>,
    /// The page begins behind this key or common prefix.
    pub marker: Cow<'t, str>,
    /// 0 to 1000.
    pub max_keys: u32,
    /// Names in the answer are percent-encoded.
    pub url_encoding: bool,
}

impl<'t> ListObjects<'t> {
    pub fn parse(query: &Query<'t>) -> Result<Self, S3Error> {
        Ok(Self {
            prefix: query.value("prefix")?.unwrap_or_default(),
            delimiter: query.value("delimiter")?.unwrap_or_default(),
            marker: query.value("marker")?.unwrap_or_default(),
            max_keys: count(query, "max-keys", PAGE_MAX)?.unwrap_or(PAGE_MAX),
            url_encoding: url_encoding(query)?,
        })
    }
}

/// ListObjectVersions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListObjectVersions<'t> {
    pub prefix: Cow<'t, str>,
    /// Empty: none.
    pub delimiter: Cow<'t, str>,
    /// The page begins behind this key or common prefix.
    pub key_marker: Cow<'t, str>,
    /// As asked, to be echoed. A key has one version here, so the page begins behind the key with or without it.
    pub version_id_marker: Option<Cow<'t, str>>,
    /// 0 to 1000.
    pub max_keys: u32,
    /// Names in the answer are percent-encoded.
    pub url_encoding: bool,
}

impl<'t> ListObjectVersions<'t> {
    pub fn parse(query: &Query<'t>) -> Result<Self, S3Error> {
        let key_marker = query.value("key-marker")?;
        let version_id_marker = query.value("version-id-marker")?;
        if version_id_marker.as_deref().is_some_and(|marker| !marker.is_empty()) && key_marker.is_none() {
            let message = "A version-id marker cannot be specified without a key marker.";
            return Err(S3Error::new(ErrorCode::InvalidArgument, message));
        }
        Ok(Self {
            prefix: query.value("prefix")?.unwrap_or_default(),
            delimiter: query.value("delimiter")?.unwrap_or_default(),
            key_marker: key_marker.unwrap_or_default(),
            version_id_marker,
            max_keys: count(query, "max-keys", PAGE_MAX)?.unwrap_or(PAGE_MAX),
            url_encoding: url_encoding(query)?,
        })
    }
}

/// UploadPart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UploadPart {
    pub upload: UploadId,
    pub number: PartNumber,
}

impl UploadPart {
    pub fn parse(query: &Query<'_>) -> Result<Self, S3Error> {
        let number = part_number(query)?.ok_or_else(bad_part_number)?;
        Ok(Self { upload: upload_id(query)?, number })
    }
}

/// `partNumber` of a part that is uploaded, or of a read.
pub fn part_number(query: &Query<'_>) -> Result<Option<PartNumber>, S3Error> {
    let Some(text) = query.value("partNumber")? else { return Ok(None) };
    PartNumber::parse(&text).map(Some).ok_or_else(bad_part_number)
}

fn bad_part_number() -> S3Error {
    S3Error::new(ErrorCode::InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive")
}

/// ListParts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListParts {
    pub upload: UploadId,
    /// Parts with greater numbers are listed.
    pub after: u16,
    /// 0 to 1000.
    pub max_parts: u32,
    pub url_encoding: bool,
}

impl ListParts {
    pub fn parse(query: &Query<'_>) -> Result<Self, S3Error> {
        Ok(Self {
            upload: upload_id(query)?,
            after: count(query, "part-number-marker", u32::from(PARTS_MAX))?.unwrap_or(0) as u16,
            max_parts: count(query, "max-parts", PAGE_MAX)?.unwrap_or(PAGE_MAX),
            url_encoding: url_encoding(query)?,
        })
    }
}

/// ListMultipartUploads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListMultipartUploads<'t> {
    pub prefix: Cow<'t, str>,
    /// Empty: none.
    pub delimiter: Cow<'t, str>,
    /// The page begins behind this key or common prefix.
    pub key_marker: Cow<'t, str>,
    /// With it, behind this upload of the key `key_marker`. S3 ignores it where there is no key marker.
    pub upload_id_marker: Cow<'t, str>,
    /// 0 to 1000.
    pub max_uploads: u32,
    /// Names in the answer are percent-encoded.
    pub url_encoding: bool,
}

impl<'t> ListMultipartUploads<'t> {
    pub fn parse(query: &Query<'t>) -> Result<Self, S3Error> {
        let key_marker = query.value("key-marker")?.unwrap_or_default();
        let upload_id_marker = query.value("upload-id-marker")?.filter(|_| !key_marker.is_empty()).unwrap_or_default();
        if !upload_id_marker.is_empty() && UploadId::parse(&upload_id_marker).is_none() {
            return Err(S3Error::new(ErrorCode::InvalidArgument, "Invalid uploadId marker"));
        }
        Ok(Self {
            prefix: query.value("prefix")?.unwrap_or_default(),
            delimiter: query.value("delimiter")?.unwrap_or_default(),
            key_marker,
            upload_id_marker,
            max_uploads: count(query, "max-uploads", PAGE_MAX)?.unwrap_or(PAGE_MAX),
            url_encoding: url_encoding(query)?,
        })
    }
}

/// The upload that Complete, Abort, ListParts and UploadPart name. Any text that is no id of ours names no upload.
pub fn upload_id(query: &Query<'_>) -> Result<UploadId, S3Error> {
    let text = query.value("uploadId")?.unwrap_or_default();
    UploadId::parse(&text).ok_or_else(|| ErrorCode::NoSuchUpload.into())
}

/// A number from 0 on, lowered to `max`.
fn count(query: &Query<'_>, name: &str, max: u32) -> Result<Option<u32>, S3Error> {
    let Some(text) = query.value(name)?.filter(|text| !text.is_empty()) else { return Ok(None) };
    let number: Option<i64> = text.parse().ok().filter(|number| (0..=i64::from(i32::MAX)).contains(number));
    let number = number.ok_or_else(|| {
        let message = format!("Argument {name} must be an integer between 0 and 2147483647");
        S3Error::new(ErrorCode::InvalidArgument, message)
    })?;
    Ok(Some(number.min(i64::from(max)) as u32))
}

fn url_encoding(query: &Query<'_>) -> Result<bool, S3Error> {
    match query.value("encoding-type")?.as_deref() {
        None | Some("") => Ok(false),
        Some(kind) if kind.eq_ignore_ascii_case("url") => Ok(true),
        Some(_) => Err(S3Error::new(ErrorCode::InvalidArgument, "Invalid Encoding Method specified in Request")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(raw: &str) -> Result<ListObjectsV2<'_>, ErrorCode> {
        ListObjectsV2::parse(&Query::new(raw)).map_err(|error| error.code)
    }

    #[test]
    fn list_parameters() {
        let plain = list("list-type=2").expect("all defaults");
        assert_eq!((plain.max_keys, plain.after.as_str(), plain.url_encoding), (1000, "", false));
        assert_eq!((&*plain.prefix, &*plain.delimiter, plain.fetch_owner), ("", "", false));
        let full = list(
            "list-type=2&prefix=a%2F&delimiter=%2F&start-after=a%2Fb&max-keys=7&encoding-type=url&fetch-owner=true",
        );
        let full = full.expect("well-formed");
        assert_eq!((full.max_keys, full.after.as_str(), full.url_encoding), (7, "a/b", true));
        assert_eq!((&*full.prefix, &*full.delimiter, full.fetch_owner), ("a/", "/", true));
    }

    #[test]
    fn a_token_wins_over_start_after() {
        let token = list_token::encode("photos/x y");
        let raw = format!("list-type=2&start-after=a&continuation-token={token}");
        let list = list(&raw).expect("well-formed");
        assert_eq!(list.after, "photos/x y");
        assert_eq!(
            (list.start_after.as_deref(), list.continuation_token.as_deref()),
            (Some("a"), Some(token.as_str()))
        );
    }

    #[test]
    fn max_keys_is_clamped_or_refused() {
        for (text, want) in [
            ("0", Ok(0)),
            ("1", Ok(1)),
            ("999", Ok(999)),
            ("1000", Ok(1000)),
            ("1001", Ok(1000)),
            ("2147483647", Ok(1000)),
            ("", Ok(1000)),
            ("2147483648", Err(ErrorCode::InvalidArgument)),
            ("-1", Err(ErrorCode::InvalidArgument)),
            ("ten", Err(ErrorCode::InvalidArgument)),
            ("1.5", Err(ErrorCode::InvalidArgument)),
            ("99999999999999999999", Err(ErrorCode::InvalidArgument)),
        ] {
            let raw = format!("list-type=2&max-keys={text}");
            assert_eq!(list(&raw).map(|list| list.max_keys), want, "{text:?}");
        }
    }

    #[test]
    fn markers_of_the_other_listings() {
        let first = ListObjects::parse(&Query::new("prefix=a&marker=a%2Fb&delimiter=ab&max-keys=0"));
        let first = first.expect("well-formed");
        assert_eq!((&*first.prefix, &*first.marker, &*first.delimiter, first.max_keys), ("a", "a/b", "ab", 0));
        let versions = |raw: &'static str| {
            let parsed = ListObjectVersions::parse(&Query::new(raw)).map_err(|error| error.code);
            parsed.map(|list| (list.key_marker.into_owned(), list.version_id_marker.map(Cow::into_owned)))
        };
        assert_eq!(versions("versions"), Ok((String::new(), None)));
        assert_eq!(versions("versions&key-marker=k&version-id-marker=null"), Ok(("k".into(), Some("null".into()))));
        assert_eq!(versions("versions&version-id-marker="), Ok((String::new(), Some(String::new()))));
        assert_eq!(versions("versions&version-id-marker=null"), Err(ErrorCode::InvalidArgument));
        assert_eq!(versions("versions&max-keys=-1"), Err(ErrorCode::InvalidArgument));
    }

    #[test]
    fn markers_of_uploads() {
        let id = UploadId::from_rolls(1, 2);
        let parse = |raw: &str| {
            let parsed = ListMultipartUploads::parse(&Query::new(raw)).map_err(|error| error.code);
            parsed.map(|list| (list.key_marker.into_owned(), list.upload_id_marker.into_owned(), list.max_uploads))
        };
        let of = |key: &str, upload: &str, max| Ok((key.to_owned(), upload.to_owned(), max));
        assert_eq!(parse("uploads"), of("", "", 1000));
        let raw = format!("uploads&key-marker=a%2Fb&upload-id-marker={}&max-uploads=2", id.as_str());
        assert_eq!(parse(&raw), of("a/b", id.as_str(), 2));
        assert_eq!(parse("uploads&upload-id-marker=any&max-uploads=1001"), of("", "", 1000));
        for bad in ["uploads&key-marker=k&upload-id-marker=any", "uploads&max-uploads=-1", "uploads&encoding-type=x"] {
            assert_eq!(parse(bad), Err(ErrorCode::InvalidArgument), "{bad}");
        }
    }

    #[test]
    fn bad_list_parameters() {
        for raw in
            ["list-type=1", "list-type=", "list-type=2&encoding-type=base64", "list-type=2&continuation-token=nonsense"]
        {
            assert_eq!(list(raw).map(|_| ()), Err(ErrorCode::InvalidArgument), "{raw}");
        }
        assert_eq!(list("list-type=2&prefix=%zz").map(|_| ()), Err(ErrorCode::InvalidURI));
        assert_eq!(list("list-type=2&continuation-token=").map(|list| list.after), Ok(String::new()));
    }

    #[test]
    fn upload_parameters() {
        let id = UploadId::from_rolls(1, 2);
        let part = |number: &str| {
            let raw = format!("partNumber={number}&uploadId={}", id.as_str());
            UploadPart::parse(&Query::new(&raw)).map(|part| part.number.get()).map_err(|error| error.code)
        };
        assert_eq!((part("1"), part("10000")), (Ok(1), Ok(10_000)));
        for bad in ["0", "10001", "-1", "", "x", "%31%"] {
            assert!(part(bad).is_err(), "{bad:?}");
        }
        let missing = upload_id(&Query::new("uploadId=mine")).map_err(|error| error.code);
        assert_eq!(missing, Err(ErrorCode::NoSuchUpload));
        let raw = format!("uploadId={}&max-parts=2&part-number-marker=5", id.as_str());
        let parts = ListParts::parse(&Query::new(&raw)).expect("well-formed");
        assert_eq!((parts.after, parts.max_parts, &parts.upload), (5, 2, &id));
        let raw = format!("uploadId={}", id.as_str());
        let parts = ListParts::parse(&Query::new(&raw)).expect("well-formed");
        assert_eq!((parts.after, parts.max_parts), (0, 1000));
    }
}
