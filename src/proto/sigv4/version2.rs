//! Signature version 2 in the query: `AWSAccessKeyId`, `Expires`, `Signature` ("Signing and authenticating REST requests"). AWS
//! takes such URLs in us-east-1 to this day, and boto3 makes them there by default; in a header version 2 is refused.
//!
//! Called by the verifier. Only for buckets in the path: a URL of this version names its bucket by the resource alone.

use super::canonical::{has_too_many_parameters, is_amz};
use super::verify::Verified;
use super::{AuthError, PayloadMode, Request, Verifier};
use crate::base::{Secret, Timestamp};
use crate::proto::fields::Fields;
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

/// What the query says, decoded.
struct Signed<'h> {
    access_key: Cow<'h, str>,
    expires: Cow<'h, str>,
    signature: Cow<'h, str>,
    pairs: Vec<(Cow<'h, str>, Option<Cow<'h, str>>)>,
}

impl<'h> Signed<'h> {
    fn parse(query: &'h [u8]) -> Result<Self, AuthError> {
        let incomplete = || AuthError::UnsupportedVersion;
        let query = std::str::from_utf8(query).map_err(|_| incomplete())?;
        let mut pairs = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').map_or((pair, None), |(name, value)| (name, Some(value)));
            let decode = |text| decode_query(text).map_err(|_| incomplete());
            pairs.push((decode(name)?, value.map(decode).transpose()?));
        }
        let take = |wanted: &str| {
            let mut found = pairs.iter().filter(|(name, _)| name == wanted);
            let one = found.next().and_then(|(_, value)| value.clone()).ok_or_else(incomplete)?;
            if found.next().is_some() { Err(incomplete()) } else { Ok(one) }
        };
        let (access_key, expires, signature) = (take("AWSAccessKeyId")?, take("Expires")?, take("Signature")?);
        let is_known = |name: &str| {
            let sets: [&[&str]; 3] = [&SIGNING_PARAMETERS, &UNSIGNED, &["upload-id-marker", "version-id-marker"]];
            is_of_resource(name)
                || name.to_ascii_lowercase().starts_with("x-amz-")
                || sets.iter().any(|set| set.contains(&name))
        };
        if !pairs.iter().all(|(name, _)| is_known(name)) {
            return Err(AuthError::SignatureDoesNotMatch);
        }
        Ok(Self { access_key, expires, signature, pairs })
    }

    fn value(&self, name: &str) -> Option<&str> {
        let (_, value) = self.pairs.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        value.as_deref()
    }

    /// The text that is signed, with what ends the path. Fields of the head count, and those that a presigner put into the query in their place.
    fn text<H: Fields + ?Sized>(&self, request: &Request<'_, H>, path_end: &[u8]) -> Vec<u8> {
        let mut amz: Vec<(String, Vec<u8>)> = Vec::new();
        let (mut md5, mut kind) =
            (self.value("content-md5").map(str::as_bytes), self.value("content-type").map(str::as_bytes));
        for (name, value) in request.headers.fields() {
            if name.eq_ignore_ascii_case(b"content-md5") {
                md5 = Some(value.trim_ascii());
            } else if name.eq_ignore_ascii_case(b"content-type") {
                kind = Some(value.trim_ascii());
            } else if is_amz(name) {
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
        let lines =
            [request.method.as_bytes(), md5.unwrap_or_default(), kind.unwrap_or_default(), self.expires.as_bytes()];
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
            if let Some(value) = value {
                text.push(b'=');
                text.extend_from_slice(value.as_bytes());
            }
        }
        text
    }
}

fn is_of_resource(name: &str) -> bool {
    OF_RESOURCE.contains(&name) || ALSO_OF_RESOURCE.contains(&name)
}

impl Verifier {
    /// As `verify`, for a URL that was presigned in version 2. It covers no body: the payload is unsigned or declared.
    pub(super) fn verify_version_2<'h, 's, H: Fields + ?Sized, P>(
        &self,
        request: &Request<'h, H>,
        content_sha256: Option<&[u8]>,
        now: Timestamp,
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
        let signed = Signed::parse(request.query)?;
        let expires: i64 = signed.expires.parse().map_err(|_| AuthError::Expired)?;
        if now.seconds() > expires {
            return Err(AuthError::Expired);
        }
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
        Ok(Verified { access_key: signed.access_key, principal, payload, chunks: None })
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
        assert_eq!(verify("GET", path, QUERY, 1_175_139_621), Err(AuthError::Expired));
        assert_eq!(verify("GET", path, &QUERY.replace("AKIA", "AKIB"), then), Err(AuthError::InvalidAccessKeyId));
        for part in ["Expires", "Signature", "AWSAccessKeyId"] {
            let without = QUERY.replace(part, "x-other");
            assert!(verify("GET", path, &without, then).is_err(), "{part}");
        }
    }
}
