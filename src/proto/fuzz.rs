//! Fuzz entries of this layer's decoders: each takes any bytes and checks what must hold for all of them.
//!
//! Called by the fuzz targets and by the replay of their corpora, by name out of `TARGETS`. A broken rule panics; anything
//! else, refusals included, is fine. The program itself never calls them.

use super::conditional::{ReadConditions, WriteConditions};
use super::http1::{ChunkedDecoder, ChunkedStep, HeadWriter, RequestHead, ResponseHead};
use super::operation::Operation;
use super::owner::Owner;
use super::params::{ListObjectsV2, ListParts, UploadPart};
use super::range::Range;
use super::target::{Query, Target, encode_percent};
use super::{aws_chunked, checksum, date, list_token, post, sigv4, xml};
use crate::base::Timestamp;

/// A target's name and its entry.
pub type FuzzTarget = (&'static str, fn(&[u8]));

pub const TARGETS: &[FuzzTarget] = &[
    ("request_head", request_head),
    ("response_head", response_head),
    ("chunked", chunked),
    ("target", target),
    ("query", query),
    ("range", range),
    ("date", date),
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
        conditions.test("9bb58f26192e4ba00f01e2e7b136bbd8", Timestamp::default());
        conditions.range_applies("9bb58f26192e4ba00f01e2e7b136bbd8", Timestamp::default());
    }
    let mut scratch = String::new();
    let Ok(target) = Target::parse(head.target, None, &mut scratch) else { return };
    if let Ok(operation) = Operation::classify(&head, &target) {
        let of_whole_object = matches!(
            operation,
            Operation::GetObject | Operation::HeadObject | Operation::PutObject | Operation::DeleteObject
        );
        let plain = target.query.raw_pairs().all(|(name, _)| super::target::is_name(name, "x-id"));
        assert!(plain || !of_whole_object, "{} with {}", operation.name(), head.target);
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Inputs that get past the first checks, for each target; they are also its first corpus.
    const SEEDS: &[(&str, &[&str])] = &[
        (
            "request_head",
            &[
                "GET /b/k?x-id=GetObject HTTP/1.1\r\nHost: a\r\nRange: bytes=0-5\r\nIf-None-Match: \"a\", W/\"b\"\r\n\r\n",
                "PUT /b/%C3%BC%2F HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
                "POST /b?delete HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
            ],
        ),
        (
            "response_head",
            &[
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\nhello",
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 500 Oops\r\n\r\n",
            ],
        ),
        ("chunked", &["5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\nGET", "0\r\n\r\n", "a\r\n0123456789\r\n1\r\nx\r\n0\r\n\r\n"]),
        ("target", &["/b/a%2Fb+c%20%25?x-id=GetObject&a=b", "//", "/b//", "/b/..%2f%FF"]),
        (
            "query",
            &[
                "list-type=2&prefix=a%2F&delimiter=%2F&max-keys=5&start-after=b+c&encoding-type=url",
                "partNumber=10000&uploadId=000000000000000000000000000000ff&max-parts=2&part-number-marker=7",
            ],
        ),
        ("range", &["dbytes=0-5", "dbytes=-5", "dbytes=5-", "\0bytes=0-", "dbytes=0-1,2-3"]),
        (
            "date",
            &[
                "Sun, 06 Nov 1994 08:49:37 GMT",
                "Sunday, 06-Nov-94 08:49:37 GMT",
                "Sun Nov  6 08:49:37 1994",
                "20261122T170000Z",
                "2026-11-22T17:00:00.123Z",
            ],
        ),
        ("list_token", &["AWEvYg", "AQ", "AmE"]),
        (
            "xml_request",
            &[
                "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>&quot;a&quot;</ETag>\
                 <ChecksumCRC32>AAAAAA==</ChecksumCRC32></Part></CompleteMultipartUpload>",
                "<Delete><Quiet>true</Quiet><Object><Key>a&#x1;<![CDATA[<]]></Key></Object></Delete>",
                "<!DOCTYPE Delete [<!ENTITY a \"b\">]><Delete><Object><Key>&a;</Key></Object></Delete>",
            ],
        ),
        (
            "xml_answer",
            &[
                "<?xml version=\"1.0\"?>  <Error><Code>InternalError</Code><Message>m</Message></Error>",
                "<CompleteMultipartUploadResult><ETag>\"a-2\"</ETag></CompleteMultipartUploadResult>",
                "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>",
                "<ListBucketResult><EncodingType>url</EncodingType><Contents><Key>a%20</Key><Size>5</Size>\
                 <LastModified>2026-11-22T17:00:00Z</LastModified></Contents></ListBucketResult>",
                "<ListMultipartUploadsResult><Upload><Key>k</Key><UploadId>u</UploadId></Upload>\
                 </ListMultipartUploadsResult>",
            ],
        ),
        (
            "sigv4_authorization",
            &[
                "AWS4-HMAC-SHA256 Credential=AK/20130524/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature=0",
            ],
        ),
        (
            "sigv4_presigned",
            &["X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
                 &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host%3Brange&X-Amz-Signature=ab"],
        ),
        (
            "sigv4_verify",
            &["GET /b/k%20 a=b&c\nhost:a\nx-amz-date:20130524T000000Z\nx-amz-content-sha256:UNSIGNED-PAYLOAD\n\
               authorization:AWS4-HMAC-SHA256 Credential=AK/20130524/us-east-1/s3/aws4_request,\
               SignedHeaders=host;x-amz-content-sha256;x-amz-date,\
               Signature=0000000000000000000000000000000000000000000000000000000000000000"],
        ),
        (
            "post_form",
            &[
                "--b\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\na\r\n--b\r\nContent-Disposition: form-data; \
                 name=\"file\"; filename=\"a\\\"b\"\r\n\r\nthe\r\nfile\r\n--b--\r\n",
                "multipart/form-data; charset=utf-8; boundary=\"a b\"",
            ],
        ),
        (
            "post_policy",
            &["{\"expiration\": \"2026-11-22T17:00:00Z\", \"conditions\": [{\"bucket\": \"b\"}, \
               [\"starts-with\", \"$key\", \"a\"], [\"content-length-range\", 1, 2]]}"],
        ),
        (
            "aws_chunked",
            &[
                "\x03\x04\x003\r\nabc\r\n0\r\nx-amz-checksum-crc32:NSRBwg==\r\n\r\n",
                "\x03\x00\x001\r\na\r\n2\r\nbc\r\n0\r\nx-amz-checksum-crc32:NSRBwg==\n\r\n\r\n",
                "\x00\x02\x7f0\r\n\r\n",
            ],
        ),
        (
            "declared_checksums",
            &[
                "\x01x-amz-trailer:x-amz-checksum-crc32\nContent-MD5:JfnnlDI7RTiF9RgfG2JNCw==",
                "\x00x-amz-checksum-crc32:y/Q5Jg==\nx-amz-sdk-checksum-algorithm:CRC32\nx-amz-checksum-type:FULL_OBJECT",
            ],
        ),
    ];

    #[test]
    fn every_target_has_seeds_that_pass() {
        assert!(TARGETS.iter().map(|(name, _)| name).eq(SEEDS.iter().map(|(name, _)| name)));
        for ((_, entry), (_, seeds)) in TARGETS.iter().zip(SEEDS) {
            for seed in *seeds {
                (0..=seed.len()).for_each(|end| entry(&seed.as_bytes()[..end]));
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes(input in prop::collection::vec(any::<u8>(), 0..200)) {
            TARGETS.iter().for_each(|(_, entry)| entry(&input));
        }

        #[test]
        fn seeds_with_damage(
            seed in any::<prop::sample::Index>(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..3), 1..4),
        ) {
            for ((_, entry), (_, seeds)) in TARGETS.iter().zip(SEEDS) {
                let mut input = seed.get(seeds).as_bytes().to_vec();
                for (at, byte, kind) in &damage {
                    let at = at.index(input.len());
                    match kind {
                        0 => input[at] = *byte,
                        1 => input.insert(at, *byte),
                        _ => input.extend_from_within(at..),
                    }
                }
                entry(&input);
            }
        }
    }
}
