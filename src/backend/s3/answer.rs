//! What an S3 endpoint's answer means: what was asked for, or a `Failure` with whose fault it is and what may be tried.
//!
//! Called by the exchange with a parsed head and, where there is one, a small XML body. Never trusts a status alone where a
//! body says more: a 404 is "gone" only by its code, a 200 to CompleteMultipartUpload may carry an error, and a GET's
//! answer must be exactly the bytes that were asked for.

use super::Ask;
use crate::backend::port::{BlobHead, BlobPage, Span, Stored};
use crate::backend::travel;
use crate::base::failure::Kind;
use crate::base::{Blame, Failure, Retry};
use crate::proto::http1::{ResponseFraming, ResponseHead};
use crate::proto::xml::{self, BackendError, BadXml, CompletedUpload};

/// Of a backend's error document, as far as it is read.
pub const ERROR_BYTES_MAX: usize = 64 * 1024;

/// Whether the status is the one that this request hopes for.
pub fn is_success(ask: &Ask<'_>, status: u16) -> bool {
    match ask {
        Ask::Get { span, .. } => status == if span.is_some() { 206 } else { 200 },
        Ask::Delete { .. } | Ask::AbortUpload { .. } => matches!(status, 200 | 204),
        _ => status == 200,
    }
}

/// What any other answer means. `body` is its XML as far as it came, empty for HEAD.
pub fn failure(ask: &Ask<'_>, head: &ResponseHead<'_>, body: &[u8]) -> Failure {
    let error = xml::read_error(body).unwrap_or_default();
    let mut cause = describe(ask, head.status, &error);
    if (300..400).contains(&head.status) {
        cause.push_str(&elsewhere(head));
    }
    if head.status == 404 && ask.is_head() {
        return Failure::new(Kind::NotFound, Blame::Backend, Retry::OtherBackend, cause);
    }
    from_error(ask, head.status, &error, cause)
}

/// Checks the head of an answer to `Ask::Get` for a blob of `size` bytes. The body is then `span` (None: all of it), of
/// exactly that length. `Corrupt` otherwise: another copy may be sound.
pub fn check_get(head: &ResponseHead<'_>, span: Option<Span>, size: u64, if_match: &str) -> Result<(), Failure> {
    let wrong = |cause: String| Err(Failure::new(Kind::Corrupt, Blame::Backend, Retry::OtherBackend, cause));
    let len = span.map_or(size, |span| span.len);
    if head.framing != ResponseFraming::Length(len) {
        return wrong(format!("a body of {len} bytes was asked for, {:?} is offered", head.framing));
    }
    if let Some(Span { from, len }) = span {
        let value = head.header("content-range").unwrap_or_default();
        if content_range(value) != Some((from, from + len - 1, size)) {
            let value = value.escape_ascii();
            return wrong(format!("{len} bytes from {from} of {size} were asked for, {value:?} is offered"));
        }
    }
    if !if_match.is_empty() {
        let etag = unquoted_etag(head);
        if etag != if_match {
            return wrong(format!("the object was changed by others: its entity tag is {etag:?} and not {if_match:?}"));
        }
    }
    Ok(())
}

/// The answer to a PUT of an object or a part.
pub fn stored(head: &ResponseHead<'_>) -> Stored {
    Stored { etag: etag_of(head), version_id: version_id_of(head) }
}

/// The answer to a HEAD.
pub fn blob_head(head: &ResponseHead<'_>) -> Result<BlobHead, Failure> {
    let size = head.content_length.ok_or_else(|| Failure::backend("an answer to HEAD without Content-Length"))?;
    let etag = etag_of(head);
    // As every S3 server writes the entity tag of a completed multipart upload.
    let assembled = etag.contains('-');
    let travel::Arrived { key, record } = travel::collect(head.fields());
    Ok(BlobHead { size, etag, record, key, assembled })
}

/// Whether a DELETE only hid the object behind a marker: its bytes are still there.
pub fn left_a_marker(head: &ResponseHead<'_>) -> bool {
    head.header("x-amz-delete-marker").is_some_and(|value| value.eq_ignore_ascii_case(b"true"))
}

/// The upload id in the answer to `Ask::CreateUpload`.
pub fn upload_id(body: &[u8]) -> Result<String, Failure> {
    xml::read_initiate_result(body).map_err(|bad| garbled("CreateMultipartUpload", bad))
}

/// The answer to `Ask::CompleteUpload` after a 200, whose head said `stored`. A document that breaks off leaves the outcome
/// open: `Unavailable`.
pub fn completed(ask: &Ask<'_>, stored: Stored, body: &[u8]) -> Result<Stored, Failure> {
    document_after_200(ask, "CompleteMultipartUpload", stored, body)
}

fn document_after_200(ask: &Ask<'_>, operation: &str, stored: Stored, body: &[u8]) -> Result<Stored, Failure> {
    match xml::read_complete_result(body).map_err(|bad| garbled(operation, bad))? {
        CompletedUpload::Done { etag } => Ok(Stored { etag, ..stored }),
        CompletedUpload::Failed(error) => {
            let cause = describe(ask, 200, &error);
            let status = status_of(&error.code);
            Err(from_error(ask, status, &error, cause))
        }
    }
}

/// The answer to `Ask::Copy` or `Ask::CopyPart` after a 200, whose head said `stored`: an error may stand there too.
pub fn copied(ask: &Ask<'_>, stored: Stored, body: &[u8]) -> Result<Stored, Failure> {
    document_after_200(ask, "a copy", stored, body)
}

/// A page of a listing. The next one starts after its last name.
pub fn blob_page(body: &[u8]) -> Result<BlobPage, Failure> {
    let page = xml::read_list(body).map_err(|bad| garbled("ListObjectsV2", bad))?;
    let blobs: Vec<(String, u64)> = page.keys.into_iter().map(|entry| (entry.key, entry.size)).collect();
    match (page.next, blobs.last()) {
        (None, _) => Ok(BlobPage { blobs, next: None }),
        (Some(_), Some((last, _))) => Ok(BlobPage { next: Some(last.clone()), blobs }),
        (Some(_), None) => Err(Failure::backend("a listing that goes on after an empty page")),
    }
}

/// Ids of the open uploads of exactly this name.
pub fn uploads_of(body: &[u8], name: &str) -> Result<Vec<String>, Failure> {
    let page = xml::read_uploads(body).map_err(|bad| garbled("ListMultipartUploads", bad))?;
    Ok(page.uploads.into_iter().filter(|one| one.key == name).map(|one| one.upload).collect())
}

/// Ids of the versions and delete markers of exactly this name.
pub fn versions_of(body: &[u8], name: &str) -> Result<Vec<String>, Failure> {
    let versions = xml::read_versions(body).map_err(|bad| garbled("ListObjectVersions", bad))?;
    Ok(versions.into_iter().filter(|one| one.key == name).map(|one| one.version_id).collect())
}

fn garbled(operation: &str, bad: BadXml) -> Failure {
    Failure::backend(format!("the answer to {operation} cannot be read: {bad}"))
}

fn from_error(ask: &Ask<'_>, status: u16, error: &BackendError, cause: String) -> Failure {
    let kind = match kind_of(ask, status, &error.code) {
        // The body is not what its PUT declared: the client's word was wrong, or the bytes suffered on the way. Whoever
        // knows whether the word was checked before can tell.
        Kind::Refused if matches!(ask, Ask::Put { .. } | Ask::PutPart { .. }) && is_digest_error(error) => {
            Kind::Corrupt
        }
        kind => kind,
    };
    Failure::new(kind, Blame::Backend, Retry::OtherBackend, cause)
}

fn kind_of(ask: &Ask<'_>, status: u16, code: &str) -> Kind {
    match (status, code) {
        (404, "NoSuchKey" | "NoSuchUpload" | "NoSuchVersion") => Kind::NotFound,
        // NoSuchBucket, and whatever stands between us and the backend: nothing is known about the object.
        (404, _) => Kind::Unavailable,
        (507, _)
        | (_, "QuotaExceeded" | "InsufficientStorage" | "InsufficientCapacity" | "XMinioStorageFull")
        | (_, "XMinioAdminBucketQuotaExceeded") => Kind::NoSpace,
        (501, _) => Kind::Refused,
        (408 | 429 | 500.., _) => Kind::Unavailable,
        (_, "SlowDown" | "RequestTimeout" | "InternalError" | "ServiceUnavailable" | "Throttling") => Kind::Unavailable,
        (409, "OperationAborted") => Kind::Unavailable,
        // The bytes that the database names are not what is there, or not what was asked for.
        (200..300 | 412 | 416, _) if matches!(ask, Ask::Get { .. }) => Kind::Corrupt,
        (300..500, _) => Kind::Refused,
        _ => Kind::Unavailable,
    }
}

/// For an error that came with a 200: what its status would have been.
fn status_of(code: &str) -> u16 {
    match code {
        "NoSuchUpload" | "NoSuchKey" | "NoSuchBucket" => 404,
        "InternalError" | "ServiceUnavailable" | "SlowDown" | "" => 500,
        _ => 400,
    }
}

fn is_digest_error(error: &BackendError) -> bool {
    match error.code.as_str() {
        "BadDigest" | "InvalidDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch" => true,
        // How AWS calls a checksum of the wrong length.
        "InvalidRequest" => error.message.contains("x-amz-checksum"),
        _ => false,
    }
}

fn describe(ask: &Ask<'_>, status: u16, error: &BackendError) -> String {
    const MESSAGE_CHARS_MAX: usize = 300;
    let mut cause = format!("{} {} was answered {status}", ask.method(), ask.name());
    if !error.code.is_empty() {
        cause.push(' ');
        cause.push_str(&error.code);
    }
    if !error.message.is_empty() {
        cause.push_str(": ");
        cause.extend(error.message.chars().take(MESSAGE_CHARS_MAX));
    }
    cause
}

/// Redirects are never followed: our signature is for one host only, and another may not even be the backend's.
fn elsewhere(head: &ResponseHead<'_>) -> String {
    let mut text = "; redirects are not followed: endpoint, bucket or region are not those of this bucket".to_owned();
    for name in ["x-amz-bucket-region", "location"] {
        if let Some(value) = head.header(name) {
            text.push_str(&format!(" ({name}: {})", value.escape_ascii()));
        }
    }
    text
}

fn etag_of(head: &ResponseHead<'_>) -> String {
    unquoted_etag(head).to_owned()
}

fn unquoted_etag<'b>(head: &ResponseHead<'b>) -> &'b str {
    let value = std::str::from_utf8(head.header("etag").unwrap_or_default()).unwrap_or_default();
    let value = value.strip_prefix("W/").unwrap_or(value);
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}

/// First byte, last byte and size of `bytes 0-4/10`.
fn content_range(value: &[u8]) -> Option<(u64, u64, u64)> {
    let (range, size) = std::str::from_utf8(value).ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, size.parse().ok()?))
}

fn version_id_of(head: &ResponseHead<'_>) -> String {
    let value = std::str::from_utf8(head.header("x-amz-version-id").unwrap_or_default()).unwrap_or_default();
    value.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::port::UpstreamPayload;
    use crate::backend::travel::Luggage;
    use crate::base::PartNumber;
    use crate::store::record::ObjectRecord;

    fn head(text: &str) -> String {
        format!("HTTP/1.1 {text}\r\n\r\n")
    }

    fn parsed(text: &str, to_head: bool) -> ResponseHead<'_> {
        ResponseHead::parse(text.as_bytes(), to_head, &mut 0).expect("well-formed").expect("complete")
    }

    const GET: Ask<'static> = Ask::Get { name: "n", span: None, if_match: "" };
    const DELETE: Ask<'static> = Ask::Delete { name: "n", version_id: "" };
    const COMPLETE: Ask<'static> = Ask::CompleteUpload { name: "n", upload: "u", body: b"" };

    fn check(ask: &Ask<'_>, status: &str, code: &str, want: (Kind, Blame, Retry)) {
        let text = head(&format!("{status} Reason\r\nContent-Length: 0"));
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>told</Message></Error>");
        let body = if code.is_empty() { "" } else { body.as_str() };
        let failure = failure(ask, &parsed(&text, ask.is_head()), body.as_bytes());
        assert_eq!((failure.kind, failure.blame, failure.retry), want, "{ask:?} {status} {code}: {failure}");
        assert!(failure.cause.contains(status) && failure.cause.contains(code), "{failure}");
        assert!(!is_success(ask, status.parse().expect("a status")), "{status} is no success of {ask:?}");
    }

    #[test]
    fn failures() {
        let record = ObjectRecord::default();
        let payload = UpstreamPayload::Unsigned;
        let put =
            Ask::Put { name: "n", size: 1, payload, luggage: Luggage { key: "", record: &record }, checksum: None };
        let number = PartNumber::new(1).expect("a number");
        let part = Ask::PutPart { name: "n", upload: "u", number, size: 1, payload };
        let ranged = Ask::Get { name: "n", span: Some(Span { from: 0, len: 1 }), if_match: "e" };
        let head = Ask::Head { name: "n", version_id: "" };

        let backend = |kind| (kind, Blame::Backend, Retry::OtherBackend);
        let gone = backend(Kind::NotFound);
        let refused = backend(Kind::Refused);
        let down = backend(Kind::Unavailable);
        let full = backend(Kind::NoSpace);
        let corrupt = backend(Kind::Corrupt);

        check(&GET, "404", "NoSuchKey", gone);
        check(&DELETE, "404", "NoSuchKey", gone);
        check(&DELETE, "404", "NoSuchVersion", gone);
        check(&COMPLETE, "404", "NoSuchUpload", gone);
        check(&head, "404", "", gone);
        for ask in [&GET, &DELETE, &put, &COMPLETE] {
            check(ask, "404", "NoSuchBucket", down);
            check(ask, "404", "", down);
            check(ask, "403", "AccessDenied", refused);
            check(ask, "403", "SignatureDoesNotMatch", refused);
            check(ask, "403", "RequestTimeTooSkewed", refused);
            check(ask, "400", "InvalidRequest", refused);
            check(ask, "500", "InternalError", down);
            check(ask, "502", "", down);
            check(ask, "503", "SlowDown", down);
            check(ask, "429", "", down);
            check(ask, "400", "RequestTimeout", down);
            check(ask, "507", "", full);
            check(ask, "403", "QuotaExceeded", full);
            check(ask, "501", "NotImplemented", refused);
            check(ask, "301", "PermanentRedirect", refused);
            check(ask, "307", "TemporaryRedirect", refused);
        }
        for code in ["BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"] {
            check(&put, "400", code, corrupt);
            check(&part, "400", code, corrupt);
            check(&COMPLETE, "400", code, refused);
        }
        check(&put, "412", "PreconditionFailed", refused);
        check(&put, "409", "OperationAborted", down);
        check(&ranged, "412", "PreconditionFailed", corrupt);
        check(&ranged, "416", "InvalidRange", corrupt);
        check(&ranged, "200", "", corrupt);
        check(&GET, "206", "", corrupt);
        for ask in [&DELETE, &put, &COMPLETE] {
            check(ask, "202", "", down);
        }
    }

    #[test]
    fn a_redirect_says_where_to() {
        let text = head("301 Moved\r\nx-amz-bucket-region: eu-west-1\r\nLocation: http://evil/\r\nContent-Length: 0");
        let cause = failure(&GET, &parsed(&text, false), b"").cause;
        assert!(
            cause.contains("not followed") && cause.contains("eu-west-1") && cause.contains("http://evil/"),
            "{cause}"
        );
    }

    fn check_body(fields: &str, span: Option<(u64, u64)>, size: u64, if_match: &str, is_right: bool) {
        let text = head(fields);
        let span = span.map(|(from, len)| Span { from, len });
        match check_get(&parsed(&text, false), span, size, if_match) {
            Ok(()) => assert!(is_right, "{fields:?} for {span:?} of {size}"),
            Err(failure) => assert!(!is_right && failure.kind == Kind::Corrupt, "{fields:?}: {failure}"),
        }
    }

    #[test]
    fn a_body_must_be_exactly_what_was_asked_for() {
        check_body("200 OK\r\nContent-Length: 10", None, 10, "", true);
        check_body("200 OK\r\nContent-Length: 0", None, 0, "", true);
        check_body("200 OK\r\nContent-Length: 9", None, 10, "", false);
        check_body("200 OK\r\nTransfer-Encoding: chunked", None, 10, "", false);
        check_body("200 OK", None, 10, "", false);
        let partial = "206 Partial\r\nContent-Length: 5\r\nContent-Range: ";
        check_body(&format!("{partial}bytes 2-6/10"), Some((2, 5)), 10, "", true);
        for range in ["bytes 2-6/11", "bytes 2-6/*", "bytes 1-5/10", "2-6/10", ""] {
            check_body(&format!("{partial}{range}"), Some((2, 5)), 10, "", false);
        }
        check_body("206 Partial\r\nContent-Length: 5", Some((2, 5)), 10, "", false);
        check_body("206 Partial\r\nContent-Length: 10\r\nContent-Range: bytes 2-6/10", Some((2, 5)), 10, "", false);
        check_body("200 OK\r\nContent-Length: 10\r\nETag: \"e\"", None, 10, "e", true);
        check_body("200 OK\r\nContent-Length: 10\r\nETag: \"f\"", None, 10, "e", false);
        check_body("200 OK\r\nContent-Length: 10", None, 10, "e", false);
    }

    #[test]
    fn what_was_stored() {
        let text = head("200 OK\r\nETag: \"abc\"\r\nx-amz-version-id: v1\r\nContent-Length: 0");
        let want = Stored { etag: "abc".to_owned(), version_id: "v1".to_owned() };
        assert_eq!(stored(&parsed(&text, false)), want);
        let text = head("200 OK\r\nContent-Length: 77\r\nETag: W/\"abc\"\r\nX-Amz-Meta-Owner: me");
        let record = ObjectRecord { user_metadata: vec![("owner".into(), "me".into())], ..ObjectRecord::default() };
        let want = BlobHead { size: 77, etag: "abc".to_owned(), record, key: None, assembled: false };
        assert_eq!(blob_head(&parsed(&text, true)).ok(), Some(want));
        assert!(blob_head(&parsed(&head("200 OK"), true)).is_err());
        assert!(left_a_marker(&parsed(&head("204 No Content\r\nx-amz-delete-marker: true"), false)));
        assert!(!left_a_marker(&parsed(&head("204 No Content"), false)));
    }

    #[test]
    fn a_200_to_complete_is_not_yet_a_success() {
        let told = Stored { etag: String::new(), version_id: "v1".to_owned() };
        let complete = |body: &str| {
            let stored = completed(&COMPLETE, told.clone(), body.as_bytes());
            stored.map(|one| one.etag + &one.version_id).map_err(|failure| failure.kind)
        };
        let done = "<CompleteMultipartUploadResult><ETag>\"e-2\"</ETag></CompleteMultipartUploadResult>";
        assert_eq!(complete(done), Ok("e-2v1".to_owned()));
        for (code, kind) in [
            ("InternalError", Kind::Unavailable),
            ("SlowDown", Kind::Unavailable),
            ("", Kind::Unavailable),
            ("NoSuchUpload", Kind::NotFound),
            ("InvalidPart", Kind::Refused),
        ] {
            assert_eq!(complete(&format!("  <Error><Code>{code}</Code></Error>")), Err(kind), "{code}");
        }
        assert_eq!(complete(""), Err(Kind::Unavailable));
        assert_eq!(complete("<CompleteMultipartUploadResult>"), Err(Kind::Unavailable));
    }

    #[test]
    fn listings() {
        let list = |inner: &str| blob_page(format!("<ListBucketResult>{inner}</ListBucketResult>").as_bytes());
        let more = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>";
        let entry = "<Contents><Key>a</Key><Size>7</Size></Contents>";
        let page = list(&format!("{more}{entry}")).expect("well-formed");
        assert_eq!(page, BlobPage { blobs: vec![("a".to_owned(), 7)], next: Some("a".to_owned()) });
        assert_eq!(list(entry).expect("well-formed").next, None);
        assert!(list(more).is_err(), "this would go on for ever");
        let uploads = "<ListMultipartUploadsResult><Upload><Key>n</Key><UploadId>1</UploadId></Upload>\
                       <Upload><Key>nn</Key><UploadId>2</UploadId></Upload></ListMultipartUploadsResult>";
        assert_eq!(uploads_of(uploads.as_bytes(), "n").ok(), Some(vec!["1".to_owned()]));
        let versions = "<ListVersionsResult><Version><Key>n</Key><VersionId>1</VersionId></Version>\
                        <DeleteMarker><Key>nn</Key><VersionId>2</VersionId></DeleteMarker></ListVersionsResult>";
        assert_eq!(versions_of(versions.as_bytes(), "n").ok(), Some(vec!["1".to_owned()]));
    }
}
