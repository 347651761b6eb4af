//! Signature version 2 ("Signing and authenticating REST requests"), in the query as `AWSAccessKeyId`, `Expires` and
//! `Signature`, or in the header as `AWS KEY:SIGNATURE`. AWS takes it in us-east-1 to this day, and boto3 makes such URLs there by
//! default.
//!
//! Called by the verifier. Only for buckets in the path: this version names a bucket by the resource alone.

use super::canonical::{has_too_many_parameters, is_amz};
use super::verify::Verified;
use super::{AuthError, PayloadMode, Request, SKEW_SECONDS_MAX, Verifier};
use crate::base::{Secret, Timestamp};
use crate::proto::date;
use crate::proto::fields::{Fields, Sole};
use crate::proto::target::decode_query;
use aws_lc_rs::hmac;
use std::borrow::Cow;
use subtle::ConstantTimeEq;

/// The region in which AWS takes version 2.
const REGION: &str = "us-east-1";
/// Names of the parameters that sign and say nothing else of the request.
pub const SIGNING_PARAMETERS: [&str; 3] = ["AWSAccessKeyId", "Expires", "Signature"];
/// Parameters that are part of the resource; others are not signed.
const OF_RESOURCE: [&str; 31] = [
    "accelerate",
    "acl",
    "analytics",
    "cors",
    "delete",
    "encryption",
    "inventory",
    "legal-hold",
    "lifecycle",
    "location",
    "logging",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "partNumber",
    "policy",
    "publicAccessBlock",
    "replication",
    "requestPayment",
    "restore",
    "retention",
    "select",
    "select-type",
    "tagging",
    "torrent",
    "uploadId",
    "uploads",
    "versionId",
    "versioning",
    "website",
];
const ALSO_OF_RESOURCE: [&str; 7] = [
    "versions",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
];
/// Parameters that this version never signs, and that only say which part of an answer is wanted. Any other unsigned one
/// could turn the request into another operation.
const UNSIGNED: [&str; 16] = [
    "content-md5",
    "content-type",
    "continuation-token",
    "delimiter",
    "encoding-type",
    "fetch-owner",
    "key-marker",
    "list-type",
    "marker",
    "max-keys",
    "max-parts",
    "max-uploads",
    "part-number-marker",
    "prefix",
    "start-after",
    "x-id",
];

/// The parameters of the query, decoded.
type Pairs<'h> = Vec<(Cow<'h, str>, Option<Cow<'h, str>>)>;

/// What the request says of its signature, its time found right.
pub(super) struct Signed<'h> {
    access_key: Cow<'h, str>,
    signature: Cow<'h, str>,
    /// The line of the text that is signed which names the time.
    time: Cow<'h, [u8]>,
    pairs: Pairs<'h>,
}

impl<'h> Signed<'h> {
    pub(super) fn in_query(query: &'h [u8], now: Timestamp) -> Result<Self, AuthError> {
        let incomplete = || AuthError::UnsupportedVersion;
        let pairs = pairs_of(query)?;
        let take = |wanted: &str| {
            let mut found = pairs.iter().filter(|(name, _)| name == wanted);
            let one = found.next().and_then(|(_, value)| value.clone()).ok_or_else(incomplete)?;
            if found.next().is_some() { Err(incomplete()) } else { Ok(one) }
        };
        let (access_key, expires, signature) = (take("AWSAccessKeyId")?, take("Expires")?, take("Signature")?);
        let end: i64 = expires.parse().map_err(|_| AuthError::Expired)?;
        if now.seconds() >= end {
            return Err(AuthError::Expired);
        }
        let time = match expires {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        };
        Ok(Self { access_key, signature, time, pairs })
    }

    /// `value` is the Authorization field, `dates` are `x-amz-date` and `Date`.
    pub(super) fn in_header(
        value: &'h [u8],
        dates: (Sole<'h>, Sole<'h>),
        query: &'h [u8],
        now: Timestamp,
    ) -> Result<Self, AuthError> {
        let text = std::str::from_utf8(value).ok().and_then(|value| value.strip_prefix("AWS "));
        let halves = text.and_then(|text| text.trim().rsplit_once(':'));
        let (access_key, signature) = halves.ok_or(AuthError::UnsupportedScheme)?;
        let (value, time) = match dates {
            // A field that is signed as such stands in for the line.
            (Sole::One(value), _) => (value, &b""[..]),
            (Sole::Absent, Sole::One(value)) => (value, value),
            _ => return Err(AuthError::NoDate),
        };
        let at = date_of(value).ok_or(AuthError::NoDate)?;
        if (at.seconds() - now.seconds()).abs() > SKEW_SECONDS_MAX {
            return Err(AuthError::RequestTimeTooSkewed);
        }
        Ok(Self {
            access_key: access_key.into(),
            signature: signature.into(),
            time: time.into(),
            pairs: pairs_of(query)?,
        })
    }

    /// Nothing that is not signed may turn the request into another one, or say twice what is signed once.
    fn check_unsigned<H: Fields + ?Sized>(&self, headers: &H) -> Result<(), AuthError> {
        if ["content-md5", "content-type"].iter().any(|name| headers.sole(name) == Sole::Several) {
            return Err(AuthError::SignatureDoesNotMatch);
        }
        let is_known = |name: &str| {
            let sets: [&[&str]; 3] = [&SIGNING_PARAMETERS, &UNSIGNED, &["upload-id-marker", "version-id-marker"]];
            is_of_resource(name)
                || name.to_ascii_lowercase().starts_with("x-amz-")
                || sets.iter().any(|set| set.contains(&name))
        };
        if self.pairs.iter().all(|(name, _)| is_known(name)) { Ok(()) } else { Err(AuthError::SignatureDoesNotMatch) }
    }

    fn value(&self, name: &str) -> Option<&str> {
        let (_, value) = self.pairs.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        value.as_deref()
    }

    /// The text that is signed, with what ends the path. Fields of the head count, and those that a presigner put into the query in their place.
    fn text<H: Fields + ?Sized>(&self, request: &Request<'_, H>, path_end: &[u8]) -> Vec<u8> {
        let mut amz: Vec<(String, Vec<u8>)> = Vec::new();
        let plain = |name: &str| match request.headers.sole(name) {
            Sole::One(value) => value,
            Sole::Absent | Sole::Several => self.value(name).unwrap_or_default().as_bytes(),
        };
        for (name, value) in request.headers.fields() {
            if is_amz(name) {
                let name = String::from_utf8_lossy(name).to_ascii_lowercase();
                match amz.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, joined)) => joined.extend([b",", value.trim_ascii()].concat()),
                    None => amz.push((name, value.trim_ascii().to_vec())),
                }
            }
        }
        for (name, value) in &self.pairs {
            let name = name.to_ascii_lowercase();
            if name.starts_with("x-amz-") && !amz.iter().any(|(known, _)| *known == name) {
                amz.push((name, value.as_deref().unwrap_or_default().trim().as_bytes().to_vec()));
            }
        }
        amz.sort();
        let mut resource: Vec<_> = self.pairs.iter().filter(|(name, _)| is_of_resource(name)).collect();
        resource.sort();
        let lines = [request.method.as_bytes(), plain("content-md5"), plain("content-type"), &self.time];
        let mut text = lines.join(&b'\n');
        text.push(b'\n');
        for (name, value) in amz {
            text.extend([name.as_bytes(), b":", &value, b"\n"].concat());
        }
        text.extend_from_slice(request.path);
        text.extend_from_slice(path_end);
        for (i, (name, value)) in resource.into_iter().enumerate() {
            text.push(if i == 0 { b'?' } else { b'&' });
            text.extend_from_slice(name.as_bytes());
            // `uploads=` is signed as `uploads`.
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                text.push(b'=');
                text.extend_from_slice(value.as_bytes());
            }
        }
        text
    }
}

fn pairs_of(query: &[u8]) -> Result<Pairs<'_>, AuthError> {
    let bad = || AuthError::UnsupportedVersion;
    let decode = |text| decode_query(text).map_err(|_| bad());
    let query = std::str::from_utf8(query).map_err(|_| bad())?;
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').map_or((pair, None), |(name, value)| (name, Some(value)));
        Ok((decode(name)?, value.map(decode).transpose()?))
    });
    pairs.collect()
}

/// HTTP's form, in which some write the zone otherwise (s3cmd as a number, rclone as UTC). None for a time before 1970.
fn date_of(value: &[u8]) -> Option<Timestamp> {
    let at = match [&b"+0000"[..], b"UTC"].iter().find_map(|zone| value.strip_suffix(*zone)) {
        Some(start) => date::parse_http(&[start, b"GMT"].concat()),
        None => date::parse_http(value).or_else(|| date::parse_basic(value)),
    };
    at.filter(|at| at.seconds() >= 0)
}

fn is_of_resource(name: &str) -> bool {
    OF_RESOURCE.contains(&name) || ALSO_OF_RESOURCE.contains(&name)
}

impl Verifier {
    /// As `verify`, for version 2. It covers no body, so the payload is unsigned or declared; and not the host, so the bucket
    /// must stand in the path.
    pub(super) fn verify_version_2<'h, 's, H: Fields + ?Sized, P>(
        &self,
        request: &Request<'h, H>,
        signed: Signed<'h>,
        content_sha256: Option<&[u8]>,
        region: Option<&str>,
        find: impl FnOnce(&str) -> Option<(&'s Secret, P)>,
    ) -> Result<Verified<'h, P>, AuthError> {
        if region.is_some_and(|region| region != REGION) {
            return Err(AuthError::UnsupportedVersion);
        }
        let payload = match content_sha256.map(PayloadMode::parse).transpose()? {
            None | Some(PayloadMode::Unsigned) => PayloadMode::Unsigned,
            Some(declared @ PayloadMode::DeclaredSha256(_)) => declared,
            Some(PayloadMode::StreamingSigned { .. } | PayloadMode::StreamingUnsignedTrailer) => {
                return Err(AuthError::BadContentSha256);
            }
        };
        if has_too_many_parameters(request.query) {
            return Err(AuthError::TooManyParameters);
        }
        signed.check_unsigned(request.headers)?;
        let found = find(&signed.access_key);
        let secret = found.as_ref().map_or(self.nobody(), |(secret, _)| *secret);
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.expose().as_bytes());
        let is_right_with = |path_end: &[u8]| -> bool {
            let right = data_encoding::BASE64.encode(hmac::sign(&key, &signed.text(request, path_end)).as_ref());
            right.as_bytes().ct_eq(signed.signature.as_bytes()).into()
        };
        // A bucket's resource ends in a slash, whether its path does or not.
        let is_bucket = !request.path.get(1..).is_some_and(|path| path.contains(&b'/'));
        let is_right = is_right_with(b"") || is_bucket && is_right_with(b"/");
        let (_, principal) = found.ok_or(AuthError::InvalidAccessKeyId)?;
        if !is_right {
            return Err(AuthError::SignatureDoesNotMatch);
        }
        Ok(Verified { access_key: signed.access_key, principal, payload, covers_host: false, chunks: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &str =
        "AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE&Signature=NpgCjnDzrM%2BWFzoENXmpNDUsSn8%3D&Expires=1175139620";

    fn verify(method: &str, path: &str, query: &str, seconds: i64) -> Result<PayloadMode, AuthError> {
        let secret = Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        let headers: &[(&str, &str)] = &[("host", "johnsmith.s3.us-west-1.amazonaws.com")];
        let request = Request { method, path: path.as_bytes(), query: query.as_bytes(), headers };
        let find = |key: &str| (key == "AKIAIOSFODNN7EXAMPLE").then_some((&secret, ()));
        let now = Timestamp { millis: seconds * 1000 };
        Verifier::new().verify(&request, now, None, find).map(|verified| verified.payload)
    }

    /// As `verify`, signed in the header: `fields` and the signature.
    fn verify_header(
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        signature: &str,
        at: i64,
    ) -> Result<(), AuthError> {
        let authorization = format!("AWS AKIAIOSFODNN7EXAMPLE:{signature}");
        let headers = [&[("Host", "s3.amazonaws.com"), ("Authorization", &authorization)], fields].concat();
        let secret = Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let request = Request { method, path: path.as_bytes(), query: query.as_bytes(), headers: &headers };
        let find = |key: &str| (key == "AKIAIOSFODNN7EXAMPLE").then_some((&secret, ()));
        Verifier::new().verify(&request, Timestamp { millis: at * 1000 }, None, find).map(|_| ())
    }

    /// The examples of "Authentication examples", their bucket moved into the path.
    #[test]
    fn published_headers() {
        let (puppy, get) = ("/johnsmith/photos/puppy.jpg", "bWq2s1WEIj+Ydj0vQ697zp+IXMU=");
        let (dated, then) = ([("Date", "Tue, 27 Mar 2007 19:36:42 +0000")], 1_175_024_202);
        let mismatch = Err(AuthError::SignatureDoesNotMatch);
        assert_eq!(verify_header("GET", puppy, &dated, get, then), Ok(()));
        assert_eq!(verify_header("GET", puppy, &dated, get, then + 900), Ok(()));
        assert_eq!(verify_header("GET", puppy, &dated, get, then + 901), Err(AuthError::RequestTimeTooSkewed));
        assert_eq!(verify_header("HEAD", puppy, &dated, get, then), mismatch);
        for changed in ["/johnsmith/photos/puppy", "/johnsmith/photos/puppy.jpg?acl", "/johnsmith/photos/puppy.jpg?a=b"]
        {
            assert_eq!(verify_header("GET", changed, &dated, get, then), mismatch, "{changed}");
        }
        let more = [dated[0], ("x-amz-acl", "private")];
        assert_eq!(verify_header("GET", puppy, &more, get, then), mismatch);
        let put = [("Content-Type", "image/jpeg"), ("Date", "Tue, 27 Mar 2007 21:15:45 +0000")];
        let put_signature = "MyyxeRY7whkBe+bq8fHCL/2kKUg=";
        assert_eq!(verify_header("PUT", puppy, &put, put_signature, then + 5943), Ok(()));
        let twice = [put[0], put[0], put[1]];
        assert_eq!(verify_header("PUT", puppy, &twice, put_signature, then + 5943), mismatch);
        let (list, listed) = ([("Date", "Tue, 27 Mar 2007 19:42:41 +0000")], "htDYFYduRNen8P9ZfE/s9SuKy0U=");
        for path in ["/johnsmith/?prefix=photos&max-keys=50&marker=puppy", "/johnsmith?prefix=photos"] {
            assert_eq!(verify_header("GET", path, &list, listed, then), Ok(()), "{path}");
        }
    }

    #[test]
    fn dates_and_fields_that_are_none() {
        let then = 1_175_024_202;
        let at = |fields: &[(&str, &str)]| verify_header("GET", "/b/k", fields, "x", then);
        assert_eq!(at(&[]), Err(AuthError::NoDate));
        for bad in ["", "Bad Date", "Tue, 07 Jul 1950 21:53:04 GMT", "Tue, 27 Mar 2007 19:36:42 +0100"] {
            assert_eq!(
                at(&[("x-amz-date", bad), ("Date", "Tue, 27 Mar 2007 19:36:42 GMT")]),
                Err(AuthError::NoDate),
                "{bad}"
            );
        }
        for far in ["Wed, 07 Jul 2010 21:53:04 GMT", "Wed, 07 Jul 9999 21:53:04 UTC", "20100707T215304Z"] {
            assert_eq!(at(&[("x-amz-date", far)]), Err(AuthError::RequestTimeTooSkewed), "{far}");
        }
        let headers = [("Host", "a"), ("Authorization", "AWS HAHAHA")];
        let request = Request { method: "GET", path: b"/b/k", query: b"", headers: &headers };
        let nobody = |_: &str| None::<(&Secret, ())>;
        let got = Verifier::new().verify(&request, Timestamp { millis: then * 1000 }, None, nobody);
        assert_eq!(got.map(|_| ()), Err(AuthError::UnsupportedScheme));
    }

    /// The example of "Query string request authentication alternative", its bucket moved into the path.
    #[test]
    fn published_url() {
        let (path, then) = ("/johnsmith/photos/puppy.jpg", 1_175_139_000);
        assert_eq!(verify("GET", path, QUERY, then), Ok(PayloadMode::Unsigned));
        assert_eq!(verify("PUT", path, QUERY, then), Err(AuthError::SignatureDoesNotMatch));
        assert_eq!(verify("GET", "/johnsmith/photos/puppy", QUERY, then), Err(AuthError::SignatureDoesNotMatch));
        for added in ["acl", "attributes", "x-amz-acl=private", "uploadId=1", "anything=1"] {
            let query = format!("{QUERY}&{added}");
            assert_eq!(verify("GET", path, &query, then), Err(AuthError::SignatureDoesNotMatch), "{added}");
        }
        assert_eq!(verify("GET", path, &format!("{QUERY}&x-id=GetObject"), then), Ok(PayloadMode::Unsigned));
        assert_eq!(verify("GET", path, QUERY, 1_175_139_620), Err(AuthError::Expired));
        assert_eq!(verify("GET", path, &QUERY.replace("AKIA", "AKIB"), then), Err(AuthError::InvalidAccessKeyId));
        for part in ["Expires", "Signature", "AWSAccessKeyId"] {
            let without = QUERY.replace(part, "x-other");
            assert!(verify("GET", path, &without, then).is_err(), "{part}");
        }
    }
}
