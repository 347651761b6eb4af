//! Fuzz entries of this layer's decoders (`crate::fuzz`): each takes any bytes and checks what must hold for all of them.

use super::conditional::{ReadConditions, WriteConditions};
use super::http1::{ChunkedDecoder, ChunkedStep, HeadWriter, RequestHead, ResponseHead};
use super::operation::Operation;
use super::owner::Owner;
use super::params::{ListMultipartUploads, ListObjectsV2, ListParts, UploadPart};
use super::range::Range;
use super::target::{Query, Target, encode_percent};
use super::{aws_chunked, checksum, date, etag, list_token, post, sigv4, tags, xml};
use crate::base::Timestamp;

pub const TARGETS: &[(&str, fn(&[u8]))] = &[
    ("request_head", request_head),
    ("response_head", response_head),
    ("chunked", chunked),
    ("target", target),
    ("query", query),
    ("range", range),
    ("date", date),
    ("etag", etag),
    ("tags", tags),
    ("list_token", list_token),
    ("xml_request", xml_request),
    ("xml_answer", xml_answer),
    ("sigv4_authorization", sigv4::fuzz_authorization),
    ("sigv4_presigned", sigv4::fuzz_presigned),
    ("sigv4_verify", sigv4::fuzz_one),
    ("post_form", post::fuzz_form),
    ("post_policy", post::fuzz_policy),
    ("aws_chunked", aws_chunked::fuzz_one),
    ("declared_checksums", checksum::fuzz_one),
];

/// A head reads the same in one piece and in two; what is read and written again is the same head; and no head gets through
/// to an object unless its query is understood.
pub fn request_head(input: &[u8]) {
    let whole = RequestHead::parse(input, &mut 0);
    let mut scanned = 0;
    let half = RequestHead::parse(&input[..input.len() / 2], &mut scanned);
    if let Ok(None) = half {
        let later = RequestHead::parse(input, &mut scanned);
        assert_eq!(later.as_ref().map(Option::is_some), whole.as_ref().map(Option::is_some));
    }
    let Ok(Some(head)) = whole else { return };
    assert!(head.head_len <= input.len() && input[..head.head_len].ends_with(b"\r\n\r\n"));
    for header in head.headers() {
        assert!(!header.name.is_empty() && !header.value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)));
    }
    if head.http11 && head.target.is_ascii() {
        let mut written = Vec::new();
        let mut writer = HeadWriter::request(&mut written, head.method_word, head.target);
        for header in head.headers() {
            writer.header_in_two(header.name, "", header.value);
        }
        writer.finish();
        let again = RequestHead::parse(&written, &mut 0).expect("what was read is well-formed").expect("and whole");
        assert_eq!((again.target, again.framing, again.keep_alive), (head.target, head.framing, head.keep_alive));
        assert!(again.headers().eq(head.headers()));
    }
    let _ = (ReadConditions::of(&head), WriteConditions::of(&head));
    if let Ok(conditions) = ReadConditions::of(&head) {
        conditions.test("9bb58f26192e4ba00f01e2e7b136bbd8", Timestamp::default(), Timestamp::default);
        conditions.range_applies("9bb58f26192e4ba00f01e2e7b136bbd8", Timestamp::default());
    }
    let mut scratch = String::new();
    let Ok(target) = Target::parse(head.target, None, &mut scratch) else { return };
    if let Ok(operation) = Operation::classify(&head, &target) {
        let understood: &[&str] = match operation {
            Operation::GetObject | Operation::HeadObject => &["x-id", "versionId", "partNumber", "response-"],
            Operation::PutObject => &["x-id"],
            Operation::DeleteObject => &["x-id", "versionId"],
            _ => return,
        };
        for (name, _) in target.query.raw_pairs() {
            let name = super::target::decode_query(name).expect("the target was read").into_owned();
            let plain =
                understood.iter().any(|known| name == *known || known.ends_with('-') && name.starts_with(known));
            assert!(plain, "{} with {}", operation.name(), head.target);
        }
    }
}

pub fn response_head(input: &[u8]) {
    for to_head in [false, true] {
        if let Ok(Some(head)) = ResponseHead::parse(input, to_head, &mut 0) {
            assert!((100..600).contains(&head.status) && head.head_len <= input.len());
        }
    }
}

/// How the input is cut does not change the body, its end, or whether it is refused.
pub fn chunked(input: &[u8]) {
    let decode = |piece: usize| {
        let mut decoder = ChunkedDecoder::new();
        let mut body = Vec::new();
        let mut used = 0;
        while used < input.len() {
            let end = input.len().min(used + piece);
            match decoder.feed(&input[used..end]) {
                Ok(ChunkedStep::NeedMore) => used = end,
                Ok(ChunkedStep::Data { skip, len }) => {
                    assert!(len > 0 && used + skip + len <= end);
                    body.extend_from_slice(&input[used + skip..used + skip + len]);
                    used += skip + len;
                }
                Ok(ChunkedStep::Done { used: last }) => return (body, Some(used + last), None),
                Err(bad) => return (body, None, Some(bad)),
            }
        }
        (body, None, None)
    };
    let whole = decode(input.len().max(1));
    for piece in [1, 3, 16] {
        assert_eq!(decode(piece), whole, "in pieces of {piece}");
    }
}

/// A key that was read and written again is the same key.
pub fn target(input: &[u8]) {
    let Ok(raw) = std::str::from_utf8(input) else { return };
    let mut scratch = String::new();
    let Ok(target) = Target::parse(raw, None, &mut scratch) else { return };
    let (Some(bucket), Some(key)) = (target.bucket, target.key) else { return };
    let mut written = String::from("/");
    encode_percent(bucket.as_bytes(), false, &mut written);
    written.push('/');
    encode_percent(key.as_bytes(), true, &mut written);
    let mut scratch = String::new();
    let again = Target::parse(&written, None, &mut scratch).expect("what was read is well-formed");
    assert_eq!((again.bucket, again.key), (Some(bucket), Some(key)));
}

pub fn query(input: &[u8]) {
    let Ok(raw) = std::str::from_utf8(input) else { return };
    let query = Query::new(raw);
    if let Ok(list) = ListObjectsV2::parse(&query) {
        assert!(list.max_keys <= 1000);
    }
    if let Ok(list) = ListParts::parse(&query) {
        assert!(list.max_parts <= 1000 && list.after <= 10_000);
    }
    if let Ok(list) = ListMultipartUploads::parse(&query) {
        assert!(list.max_uploads <= 1000 && (list.upload_id_marker.is_empty() || list.upload_id_marker.len() == 32));
    }
    if let Ok(part) = UploadPart::parse(&query) {
        assert!((1..=10_000).contains(&part.number.get()));
    }
}

/// The first byte is the object's size.
pub fn range(input: &[u8]) {
    let Some((&size, header)) = input.split_first() else { return };
    let size = u64::from(size);
    if let Range::Part { first, last } = Range::of(Some(header), size) {
        assert!(first <= last && last < size);
    }
    if let Ok((first, last)) = Range::of_copy_source(header, size) {
        assert!(first <= last && last < size);
    }
}

/// A date that was read and written again is the same moment.
pub fn date(input: &[u8]) {
    if let Some(at) = date::parse_http(input) {
        assert_eq!(date::parse_http(date::http(at).as_ref()), Some(at));
    }
    if let Some(at) = date::parse_basic(input) {
        assert_eq!(date::parse_basic(date::basic(at).as_ref()), Some(at));
    }
    if let Some(at) = date::parse_iso8601(input) {
        assert_eq!(date::parse_iso8601(date::iso8601(at).as_ref()), Some(at));
    }
}

/// A tag of ours that was read and written again is the same tag.
pub fn etag(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Some(tag) = etag::ETag::parse(etag::unquoted(text)) {
        assert_eq!(etag::ETag::parse(&tag.to_string()), Some(tag));
    }
}

/// What is accepted is within S3's limits, and written as a document and read again it is the same.
pub fn tags(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(found) = tags::parse_header(text) {
        assert!(found.len() <= 10 && found.iter().all(|(name, _)| !name.is_empty()));
        let mut written = Vec::new();
        xml::write_tagging(&mut written, &found);
        assert_eq!(xml::read_tagging(&written), Ok(found));
    }
}

/// One entry has one token.
pub fn list_token(input: &[u8]) {
    let Ok(token) = std::str::from_utf8(input) else { return };
    if let Ok(last) = list_token::decode(token) {
        assert_eq!(list_token::encode(&last), token);
    }
}

/// A manifest that was read and written again is the same manifest.
pub fn xml_request(input: &[u8]) {
    if let Ok(delete) = xml::read_delete(input) {
        assert!((1..=1000).contains(&delete.objects.len()));
    }
    if let Ok(tags) = xml::read_tagging(input) {
        let mut written = Vec::new();
        xml::write_tagging(&mut written, &tags);
        assert_eq!(xml::read_tagging(&written), Ok(tags));
    }
    if let Ok(parts) = xml::read_complete_multipart_upload(input) {
        let mut written = Vec::new();
        let fields = parts.iter().map(|part| (part.number.get(), part.etag.as_str(), part.checksums.as_slice()));
        xml::write_complete_request(&mut written, fields);
        let again = xml::read_complete_multipart_upload(&written).expect("what was read is well-formed");
        assert!(
            again
                .iter()
                .map(|part| (part.number, &part.checksums))
                .eq(parts.iter().map(|part| (part.number, &part.checksums)))
        );
    }
}

pub fn xml_answer(input: &[u8]) {
    let _ = (xml::read_error(input), xml::read_complete_result(input), xml::read_uploads(input));
    let _ = xml::read_versions(input);
    if let Ok(upload) = xml::read_initiate_result(input) {
        assert!(!upload.is_empty());
    }
    if let Ok(page) = xml::read_list(input) {
        let mut written = Vec::new();
        let request = ListObjectsV2::parse(&Query::new("list-type=2")).expect("well-formed");
        let entries = page.keys.len();
        let header =
            xml::ListHeader { bucket: "b", owner: Owner::of("o"), request: &request, entries, continues_after: None };
        let keys = page.keys.iter().map(|entry| xml::ListEntry {
            key: &entry.key,
            size: entry.size,
            etag: &entry.etag,
            modified: entry.modified.unwrap_or_default(),
            checksum: None,
        });
        xml::write_list_objects(&mut written, &header, keys, []);
        let again = xml::read_list(&written).expect("what was read is well-formed");
        assert!(again.keys.iter().map(|entry| &entry.key).eq(page.keys.iter().map(|entry| &entry.key)));
    }
}
