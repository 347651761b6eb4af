//! An object's headers: out of a write's request into its record, and out of the record into the answer to a read.

use super::request::Request;
use super::response::ResponseHead;
use crate::base::limits::USER_METADATA_BYTES_MAX;
use crate::proto::aws_chunked::stored_content_encoding;
use crate::proto::checksum::{Algorithm, Checksum};
use crate::proto::conditional::{EtagList, WriteConditions};
use crate::proto::date;
use crate::proto::error_code::{ErrorCode, S3Error};
use crate::proto::http1::RequestHead;
use crate::proto::tags;
use crate::proto::target::{Query, decode_query};
use crate::store::port::WriteCondition;
use crate::store::record::{Located, ObjectRecord, StoredChecksum};
use std::borrow::Cow;

/// System headers that are kept and returned, in the order in which records hold them.
const KEPT_HEADERS: [&str; 6] =
    ["cache-control", "content-disposition", "content-encoding", "content-language", "content-type", "expires"];
/// What S3 says of an object that was stored without a type.
const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";
const METADATA_PREFIX: &str = "x-amz-meta-";

/// What a PutObject or CreateMultipartUpload says about the object. InvalidArgument for values that are not UTF-8,
/// MetadataTooLarge, InvalidTag.
pub fn record_of(head: &RequestHead<'_>) -> Result<ObjectRecord, S3Error> {
    let mut record = ObjectRecord::default();
    for name in KEPT_HEADERS {
        let Some(value) = head.header_text(name)? else { continue };
        let kept = if name == "content-encoding" { stored_content_encoding(value) } else { Some(value.into()) };
        record.headers.extend(kept.map(|value| (name.to_owned(), value.into_owned())));
    }
    record.user_metadata = user_metadata(head)?;
    record.tags = head.header_text("x-amz-tagging")?.map(tags::parse_header).transpose()?.unwrap_or_default();
    Ok(record)
}

/// S3 joins repeated names with a comma.
fn user_metadata(head: &RequestHead<'_>) -> Result<Vec<(String, String)>, S3Error> {
    let mut metadata: Vec<(String, String)> = Vec::new();
    for field in head.headers() {
        let Some((prefix, name)) = field.name.split_at_checked(METADATA_PREFIX.len()) else { continue };
        if !prefix.eq_ignore_ascii_case(METADATA_PREFIX) {
            continue;
        }
        let name = name.to_ascii_lowercase();
        let value = std::str::from_utf8(field.value).map_err(|_| {
            S3Error::new(
                ErrorCode::InvalidArgument,
                format!("The value of {METADATA_PREFIX}{name} is not valid UTF-8."),
            )
        })?;
        match metadata.iter_mut().find(|(known, _)| *known == name) {
            Some((_, joined)) => {
                joined.push(',');
                joined.push_str(value);
            }
            None => metadata.push((name, value.to_owned())),
        }
    }
    let bytes: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > USER_METADATA_BYTES_MAX { Err(ErrorCode::MetadataTooLarge.into()) } else { Ok(metadata) }
}

/// If-Match and If-None-Match of a write.
pub fn condition_of(head: &RequestHead<'_>) -> Result<WriteCondition, S3Error> {
    let sent = WriteConditions::of(head)?;
    let etag_in = sent.if_match.map(|list| match list {
        EtagList::Any => vec!["*".to_owned()],
        EtagList::Tags(tags) => tags,
    });
    let mut condition = WriteCondition { etag_in, ..WriteCondition::default() };
    match sent.if_none_match {
        Some(EtagList::Any) => condition.must_not_exist = true,
        Some(EtagList::Tags(tags)) => condition.etag_not_in = tags,
        None => {}
    }
    Ok(condition)
}

/// What a DeleteObject asks of the object that it deletes. InvalidArgument, InvalidRequest.
pub fn condition_of_delete(head: &RequestHead<'_>) -> Result<WriteCondition, S3Error> {
    let mut condition = condition_of(head)?;
    let refused = |name: &str| S3Error::new(ErrorCode::InvalidArgument, format!("The value of {name} is invalid."));
    const SIZE: &str = "x-amz-if-match-size";
    if let Some(text) = head.header_text(SIZE)? {
        condition.size_is = Some(text.parse().map_err(|_| refused(SIZE))?);
    }
    const TIME: &str = "x-amz-if-match-last-modified-time";
    if let Some(value) = head.header(TIME) {
        condition.modified_at = Some(date::parse_any(value).ok_or_else(|| refused(TIME))?);
    }
    Ok(condition)
}

pub fn stored_checksum(checksum: &Checksum) -> StoredChecksum {
    StoredChecksum { algorithm: checksum.algorithm().name().to_owned(), value: checksum.to_base64(), composite: false }
}

/// The fields of an answer to GET or HEAD that tell about the object; not those that tell about the body that is sent.
/// `checksums` are those of what is sent. InvalidURI for a `response-…` parameter that cannot be decoded.
pub fn write_object(
    head: &mut ResponseHead,
    request: &Request<'_>,
    located: &Located,
    checksums: &[StoredChecksum],
) -> Result<(), S3Error> {
    write_version(head, located);
    head.own("accept-ranges", "bytes");
    let record = &located.record;
    let instead = asked_headers(&request.query())?;
    let is_asked = |name: &str| instead.iter().any(|(asked, _)| *asked == name);
    if !record.headers.iter().any(|(name, _)| name == "content-type") && !is_asked("content-type") {
        head.own("content-type", DEFAULT_CONTENT_TYPE);
    }
    for (name, value) in record.headers.iter().filter(|(name, _)| !is_asked(name)) {
        head.field(name, value);
    }
    for (name, value) in &instead {
        head.field(name, value);
    }
    for (name, value) in &record.user_metadata {
        head.field_in_two(METADATA_PREFIX, name, value);
    }
    if !record.tags.is_empty() {
        head.format("x-amz-tagging-count", format_args!("{}", record.tags.len()));
    }
    if request.head.header("x-amz-checksum-mode").is_some_and(|mode| mode.eq_ignore_ascii_case(b"enabled")) {
        write_checksums(head, checksums);
    }
    Ok(())
}

/// System headers that the request wants in place of the object's (`response-content-type=…`). Nearly no request does.
fn asked_headers<'t>(query: &Query<'t>) -> Result<Vec<(&'static str, Cow<'t, str>)>, S3Error> {
    const PREFIX: &str = "response-";
    let mut asked = Vec::new();
    if query.raw_pairs().any(|(name, _)| name.starts_with(PREFIX) || name.contains('%')) {
        for (raw_name, value) in query.raw_pairs() {
            let name = decode_query(raw_name)?;
            let kept = name.strip_prefix(PREFIX).and_then(|name| KEPT_HEADERS.into_iter().find(|kept| *kept == name));
            if let Some(name) = kept {
                asked.push((name, decode_query(value)?));
            }
        }
    }
    Ok(asked)
}

/// What also goes with a 304.
pub fn write_version(head: &mut ResponseHead, located: &Located) {
    write_etag(head, &located.etag);
    head.own("last-modified", date::http(located.modified));
}

pub fn write_etag(head: &mut ResponseHead, etag: &str) {
    head.quoted("etag", etag);
}

/// `x-amz-checksum-crc32: …` and which kind it is.
pub fn write_checksums(head: &mut ResponseHead, checksums: &[StoredChecksum]) {
    for checksum in checksums {
        write_checksum_value(head, checksum);
        head.field("x-amz-checksum-type", if checksum.composite { "COMPOSITE" } else { "FULL_OBJECT" });
    }
}

pub fn write_checksum_value(head: &mut ResponseHead, checksum: &StoredChecksum) {
    if let Some(algorithm) = Algorithm::parse(&checksum.algorithm) {
        head.field(algorithm.header(), &checksum.value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(fields: &str) -> Result<ObjectRecord, ErrorCode> {
        let bytes = format!("PUT /bkt/k HTTP/1.1\r\nhost: h\r\n{fields}content-length: 0\r\n\r\n");
        let head = RequestHead::parse(bytes.as_bytes(), &mut 0).expect("a good head").expect("a whole head");
        record_of(&head).map_err(|error| error.code)
    }

    fn check(fields: &str, headers: &[(&str, &str)], metadata: &[(&str, &str)]) {
        let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        let record = record(fields).unwrap_or_else(|code| panic!("{fields:?}: {code:?}"));
        assert_eq!((record.headers, record.user_metadata), (owned(headers), owned(metadata)), "{fields:?}");
    }

    #[test]
    fn headers_that_are_kept() {
        check("", &[], &[]);
        check(
            "Content-Type: text/plain\r\nCache-Control: no-cache\r\nX-Other: 1\r\n",
            &[("cache-control", "no-cache"), ("content-type", "text/plain")],
            &[],
        );
        check("content-encoding: aws-chunked,gzip\r\n", &[("content-encoding", "gzip")], &[]);
        check("content-encoding: aws-chunked\r\n", &[], &[]);
        check("X-Amz-Meta-B: 1\r\nx-amz-meta-a: \u{fc}\r\nx-amz-meta-b: 2\r\n", &[], &[("b", "1,2"), ("a", "\u{fc}")]);
        check("x-amz-meta-: nameless\r\nx-amz-met: 1\r\n", &[], &[("", "nameless")]);
    }

    #[test]
    fn metadata_ends_at_two_kibibytes() {
        let longest = format!("x-amz-meta-name: {}\r\n", "v".repeat(2048 - 4));
        assert!(record(&longest).is_ok());
        assert_eq!(record(&format!("{longest}x-amz-meta-x: y\r\n")), Err(ErrorCode::MetadataTooLarge));
    }

    #[test]
    fn conditions_of_writes() {
        for (fields, want) in [
            ("", WriteCondition::default()),
            ("if-none-match: *\r\n", WriteCondition { must_not_exist: true, ..WriteCondition::default() }),
            (
                "if-match: \"abc\"\r\n",
                WriteCondition { etag_in: Some(vec!["abc".into()]), ..WriteCondition::default() },
            ),
            ("if-match: *\r\n", WriteCondition { etag_in: Some(vec!["*".into()]), ..WriteCondition::default() }),
            ("if-none-match: a\r\n", WriteCondition { etag_not_in: vec!["a".into()], ..WriteCondition::default() }),
        ] {
            let bytes = format!("PUT /bkt/k HTTP/1.1\r\nhost: h\r\n{fields}\r\n");
            let head = RequestHead::parse(bytes.as_bytes(), &mut 0).expect("a good head").expect("a whole head");
            assert_eq!(condition_of(&head).map_err(|error| error.code), Ok(want), "{fields:?}");
        }
    }

    #[test]
    fn conditions_of_deletes() {
        let of = |fields: &str| {
            let bytes = format!("DELETE /bkt/k HTTP/1.1\r\nhost: h\r\n{fields}\r\n");
            let head = RequestHead::parse(bytes.as_bytes(), &mut 0).expect("a good head").expect("a whole head");
            condition_of_delete(&head).map_err(|error| error.code)
        };
        let at = crate::base::Timestamp { millis: 784_111_777_000 };
        let want = WriteCondition { size_is: Some(5), modified_at: Some(at), ..WriteCondition::default() };
        for time in ["Sun, 06 Nov 1994 08:49:37 GMT", "1994-11-06T08:49:37Z", "1994-11-06T08:49:37.000Z"] {
            let fields = format!("x-amz-if-match-size: 5\r\nx-amz-if-match-last-modified-time: {time}\r\n");
            assert_eq!(of(&fields), Ok(want.clone()), "{time}");
        }
        for bad in ["x-amz-if-match-size: -1\r\n", "x-amz-if-match-last-modified-time: yesterday\r\n"] {
            assert_eq!(of(bad), Err(ErrorCode::InvalidArgument), "{bad}");
        }
        assert!(of("").is_ok_and(|condition| condition.is_none()));
    }

    #[test]
    fn answers_have_the_headers_that_were_asked_for() {
        let asked = |raw: &str| {
            let asked = asked_headers(&Query::new(raw)).map_err(|error| error.code)?;
            Ok(asked.into_iter().map(|(name, value)| (name, value.into_owned())).collect::<Vec<_>>())
        };
        assert_eq!(asked("x-id=GetObject&partNumber=1"), Ok(vec![]));
        let raw = "response-content-type=a%2Fb&x-id=G&response%2Dexpires=never+ever";
        let want = vec![("content-type", "a/b".to_owned()), ("expires", "never ever".to_owned())];
        assert_eq!(asked(raw), Ok(want));
        assert_eq!(asked("response-content-type=%zz"), Err(ErrorCode::InvalidURI));
    }

    #[test]
    fn checksums_are_told_with_their_kind() {
        let mut head = ResponseHead::default();
        let stored = StoredChecksum { algorithm: "CRC64NVME".into(), value: "AAAA".into(), composite: false };
        write_checksums(&mut head, &[stored]);
        let want = "x-amz-checksum-crc64nvme: AAAA\r\nx-amz-checksum-type: FULL_OBJECT\r\n";
        assert_eq!(std::str::from_utf8(head.fields()), Ok(want));
    }
}
