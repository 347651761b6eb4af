//! The request that a presigned URL stands for: what its query says in the name of header fields (`x-amz-acl`,
//! `x-amz-checksum-crc32`, ...) becomes header fields, and the signing parameters go. Presigners put fields there because
//! a browser or a plain HTTP client will not send them.
//!
//! Called by the connection for requests with a signature in the query, before anything reads the request's meaning; the
//! signature itself is verified over the request as sent.

use super::error_code::{ErrorCode, S3Error};
use super::http1::{BadHead, RequestHead};
use super::sigv4::{QuerySignature, SIGNING_PARAMETERS, VERSION_2_PARAMETERS};
use super::target::decode_query;
use std::borrow::Cow;

/// Writes the head of the request meant into `text`; None if that is the request as sent. InvalidArgument for a parameter
/// that can be no field, or that contradicts one.
pub fn unfold<'t>(head: &RequestHead<'_>, text: &'t mut Vec<u8>) -> Result<Option<RequestHead<'t>>, S3Error> {
    let (path, query) = (head.path, head.query);
    if query.is_empty() {
        return Ok(None);
    }
    let signature = QuerySignature::of(query.as_bytes());
    if signature == QuerySignature::Absent {
        return Ok(None);
    }
    // Presigners of version 2 put these there too.
    let is_of_version_2 =
        |name: &str| signature == QuerySignature::V2 && ["content-md5", "content-type"].contains(&name);
    let mut fields: Vec<(String, Cow<'_, str>)> = Vec::new();
    let mut rest = String::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode_query(name)?.to_ascii_lowercase();
        let of_version_2: &[&str] = if signature == QuerySignature::V2 { &VERSION_2_PARAMETERS } else { &[] };
        if SIGNING_PARAMETERS.iter().chain(of_version_2).any(|known| known.eq_ignore_ascii_case(&name)) {
            continue;
        }
        if is_of_version_2(&name) && head.header_count(&name) == 1 {
            // What is sent counts, for the signature too: it is wrong if another was signed.
            continue;
        }
        if name.starts_with("x-amz-") || is_of_version_2(&name) {
            let value = decode_query(value)?;
            if !is_placeholder(&name, &value) {
                add_field(head, &mut fields, name, value)?;
            }
        } else {
            rest.push(if rest.is_empty() { '?' } else { '&' });
            rest.push_str(pair);
        }
    }
    // Presigners name the algorithm of a checksum that only the upload itself could know; without one it means nothing.
    let is_checksum = |name: &str| {
        let kind = name.strip_prefix("x-amz-checksum-");
        kind.is_some_and(|kind| !["algorithm", "mode", "type"].contains(&kind)) || name == "x-amz-trailer"
    };
    let has_checksum = fields.iter().any(|(name, _)| is_checksum(name))
        || head.headers().any(|field| is_checksum(&field.name.to_ascii_lowercase()));
    fields.retain(|(name, _)| has_checksum || name != "x-amz-sdk-checksum-algorithm");
    text.clear();
    let version = if head.http11 { "HTTP/1.1" } else { "HTTP/1.0" };
    text.extend_from_slice(format!("{} {path}{rest} {version}\r\n", head.method_word).as_bytes());
    let sent = head.headers().map(|field| (field.name, field.value));
    for (name, value) in sent.chain(fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))) {
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    RequestHead::parse(text, &mut 0).map_err(BadHead::to_s3_error)
}

/// Presigners that have no body put the checksum of nothing into the URL (the JavaScript SDK does by default, with CRC32): it
/// says nothing of the body that will be sent. AWS does not look at checksums in a query at all.
fn is_placeholder(name: &str, value: &str) -> bool {
    let of_nothing = match name.strip_prefix("x-amz-checksum-") {
        Some("crc32" | "crc32c") => "AAAAAA==",
        Some("crc64nvme") => "AAAAAAAAAAA=",
        Some("sha1") => "2jmj7l5rSw0yVb/vlWAYkK/YBwk=",
        Some("sha256") => "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        _ => return false,
    };
    value == of_nothing
}

/// A field once: in the query, or as sent with the same value.
fn add_field<'v>(
    head: &RequestHead<'_>,
    fields: &mut Vec<(String, Cow<'v, str>)>,
    name: String,
    value: Cow<'v, str>,
) -> Result<(), S3Error> {
    let bad = |text: &str| S3Error::new(ErrorCode::InvalidArgument, format!("The parameter {name:?} {text}"));
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Err(bad("is no name of a header field."));
    }
    if value.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(bad("has a value that no header field can have."));
    }
    match head.header(&name) {
        Some(sent) if sent == value.trim().as_bytes() && head.header_count(&name) == 1 => return Ok(()),
        Some(_) => return Err(bad("is also sent as a header field, with another value.")),
        None => {}
    }
    if fields.iter().any(|(other, _)| *other == name) {
        return Err(bad("is there more than once."));
    }
    fields.push((name, value));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNED: &str = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a&X-Amz-Date=b&X-Amz-Expires=1\
        &X-Amz-SignedHeaders=host&X-Amz-Content-Sha256=UNSIGNED-PAYLOAD&X-Amz-Signature=c";

    /// Target and fields of what is meant; None if nothing is unfolded.
    fn unfolded(target: &str, fields: &str) -> Result<Option<(String, String)>, ErrorCode> {
        let head = format!("PUT {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n{fields}\r\n");
        let head = RequestHead::parse(head.as_bytes(), &mut 0).expect("well-formed").expect("whole");
        let mut text = vec![1, 2, 3];
        let meant = unfold(&head, &mut text).map_err(|error| error.code)?;
        Ok(meant.map(|meant| {
            assert_eq!((meant.method, meant.framing), (head.method, head.framing));
            let lines = meant.headers().skip(2);
            let lines = lines.map(|field| format!("{}={};", field.name, String::from_utf8_lossy(field.value)));
            (meant.target.to_owned(), lines.collect())
        }))
    }

    fn check(target: &str, fields: &str, want: (&str, &str)) {
        let want = Ok(Some((want.0.to_owned(), want.1.to_owned())));
        assert_eq!(unfolded(target, fields), want, "{target}");
    }

    #[test]
    fn fields_leave_the_query() {
        check(&format!("/b/k?{SIGNED}"), "", ("/b/k", ""));
        check(&format!("/b/k?x-id=PutObject&{SIGNED}"), "A: b\r\n", ("/b/k?x-id=PutObject", "A=b;"));
        check(
            &format!("/b/k?x-amz-meta-a=1%202&{SIGNED}&uploadId=%2F&partNumber=1&X-Amz-Checksum-CRC32=AA%3D%3D"),
            "",
            ("/b/k?uploadId=%2F&partNumber=1", "x-amz-meta-a=1 2;x-amz-checksum-crc32=AA==;"),
        );
        let named = format!("/b/k?{SIGNED}&x-amz-sdk-checksum-algorithm=CRC32");
        check(&named, "", ("/b/k", ""));
        let crc = "x-amz-checksum-crc32: AA==\r\n";
        check(&named, crc, ("/b/k", "x-amz-checksum-crc32=AA==;x-amz-sdk-checksum-algorithm=CRC32;"));
        // As the JavaScript SDK presigns a PUT.
        let placeholder = format!("{named}&x-amz-checksum-crc32=AAAAAA%3D%3D");
        check(&placeholder, "", ("/b/k", ""));
        check(&placeholder, crc, ("/b/k", "x-amz-checksum-crc32=AA==;x-amz-sdk-checksum-algorithm=CRC32;"));
        check(&format!("/b/k?{SIGNED}&x-amz-acl=private"), "X-Amz-Acl: private\r\n", ("/b/k", "X-Amz-Acl=private;"));
        let version_2 = "/b/k?AWSAccessKeyId=a&Expires=1&Signature=b&content-type=a/b";
        check(version_2, "", ("/b/k", "content-type=a/b;"));
        check(version_2, "Content-Type: c/d\r\n", ("/b/k", "Content-Type=c/d;"));
    }

    #[test]
    fn other_requests_stay_as_they_are() {
        for target in ["/", "/b/k?x-amz-meta-a=1", "/b/k?versionId=X-Amz-Signature"] {
            assert_eq!(unfolded(target, ""), Ok(None), "{target}");
        }
    }

    #[test]
    fn nothing_is_smuggled_in() {
        for parameter in [
            "x-amz-meta-a=1%0D%0AContent-Length:%209",
            "x-amz-meta-a%3A=1",
            "x-amz-meta-a%0D%0Ab=1",
            "x-amz-meta-a=1&x-amz-meta-a=1",
            "x-amz-acl=public-read",
        ] {
            let got = unfolded(&format!("/b/k?{SIGNED}&{parameter}"), "x-amz-acl: private\r\n");
            assert_eq!(got, Err(ErrorCode::InvalidArgument), "{parameter}");
        }
        assert_eq!(unfolded(&format!("/b/k?{SIGNED}&x-amz-acl=%zz"), ""), Err(ErrorCode::InvalidURI));
    }
}
