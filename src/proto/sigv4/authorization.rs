//! The Authorization header: `AWS4-HMAC-SHA256 Credential=KEY/DATE/REGION/s3/aws4_request, SignedHeaders=…, Signature=…`.
//! Reads it; says nothing about whether the signature is right.

use super::{ALGORITHM, AuthError, REGION_BYTES_MAX};
use crate::proto::target::split_once;
use std::borrow::Cow;

/// The header's parts, borrowed from it. Those of a presigned URL are decoded copies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Authorization<'h> {
    pub access_key: Cow<'h, str>,
    /// `YYYYMMDD`; eight digits, but not yet compared with the request's date.
    pub day: [u8; 8],
    pub region: Cow<'h, str>,
    /// Lower-case names, ascending, joined by `;`, `host` among them.
    pub signed_headers: Cow<'h, str>,
    /// As sent; anything that is not the right signature does not match.
    pub signature: Cow<'h, str>,
}

impl<'h> Authorization<'h> {
    pub fn parse(value: &'h [u8]) -> Result<Self, AuthError> {
        let value = std::str::from_utf8(value).map_err(|_| AuthError::UnsupportedScheme)?.trim_ascii();
        let (scheme, mut rest) = split_once(value, b' ').unwrap_or((value, ""));
        match scheme {
            ALGORITHM => {}
            "AWS" | "AWS4-ECDSA-P256-SHA256" => return Err(AuthError::UnsupportedVersion),
            _ => return Err(AuthError::UnsupportedScheme),
        }
        let (mut credential, mut signed_headers, mut signature) = (None, None, None);
        loop {
            let (field, after) = split_once(rest, b',').map_or((rest, None), |(field, after)| (field, Some(after)));
            let field = field.trim_ascii();
            let (slot, value) = if let Some(value) = field.strip_prefix("Credential=") {
                (&mut credential, value)
            } else if let Some(value) = field.strip_prefix("SignedHeaders=") {
                (&mut signed_headers, value)
            } else if let Some(value) = field.strip_prefix("Signature=") {
                (&mut signature, value)
            } else if field.contains('=') {
                return Err(AuthError::Malformed("it has a field that is not known."));
            } else {
                return Err(MISSING_FIELD);
            };
            if slot.replace(value).is_some() {
                return Err(AuthError::Malformed("it has a field twice."));
            }
            let Some(after) = after else { break };
            rest = after;
        }
        let (access_key, day, region) = parse_credential(credential.ok_or(MISSING_FIELD)?)?;
        let signed_headers = signed_headers.ok_or(MISSING_FIELD)?;
        check_signed_headers(signed_headers)?;
        Ok(Self {
            access_key: access_key.into(),
            day,
            region: region.into(),
            signed_headers: signed_headers.into(),
            signature: signature.ok_or(MISSING_FIELD)?.into(),
        })
    }
}

const MISSING_FIELD: AuthError =
    AuthError::Malformed("the Credential, SignedHeaders and Signature fields are required.");
const BAD_CREDENTIAL: AuthError = AuthError::Malformed(
    "the Credential is mal-formed; expecting \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\".",
);

/// An access key may itself hold slashes; the scope is the last four parts.
pub(super) fn parse_credential(credential: &str) -> Result<(&str, [u8; 8], &str), AuthError> {
    let mut left = credential;
    let mut next = || {
        let at = memchr::memrchr(b'/', left.as_bytes()).ok_or(BAD_CREDENTIAL)?;
        let part = &left[at + 1..];
        left = &left[..at];
        Ok(part)
    };
    let (terminal, service, region, day) = (next()?, next()?, next()?, next()?);
    let access_key = left;
    if terminal != "aws4_request" {
        return Err(AuthError::Malformed("incorrect terminal. This endpoint uses \"aws4_request\"."));
    }
    if service != "s3" {
        return Err(AuthError::Malformed("incorrect service. This endpoint belongs to \"s3\"."));
    }
    let day: [u8; 8] = day.as_bytes().try_into().map_err(|_| BAD_CREDENTIAL)?;
    if access_key.is_empty() || !day.iter().all(u8::is_ascii_digit) || region.len() > REGION_BYTES_MAX {
        return Err(BAD_CREDENTIAL);
    }
    Ok((access_key, day, region))
}

/// Names must be there, lower case, tokens, and strictly ascending, which also excludes empty and repeated ones.
pub(super) fn check_signed_headers(names: &str) -> Result<(), AuthError> {
    const OUT_OF_ORDER: AuthError =
        AuthError::Malformed("the SignedHeaders are not lower-case names in ascending order.");
    let (mut last, mut has_host) = (&b""[..], false);
    let mut rest = names.as_bytes();
    loop {
        let end = rest.iter().take_while(|&&byte| TOKEN[usize::from(byte)]).count();
        let (name, after) = rest.split_at(end);
        if name <= last {
            return Err(OUT_OF_ORDER);
        }
        has_host |= name == b"host";
        last = name;
        rest = match after {
            [] => break,
            [b';', following @ ..] => following,
            _ => return Err(OUT_OF_ORDER),
        };
    }
    if has_host { Ok(()) } else { Err(AuthError::HeadersNotSigned) }
}

/// The bytes of a field name (RFC 9110, 5.6.2), less the upper-case letters.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let bytes = b"abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < bytes.len() {
        table[bytes[at] as usize] = true;
        at += 1;
    }
    table
};

/// Anything may be in the header; what is read keeps its promises.
pub fn fuzz_one(input: &[u8]) {
    if let Ok(parsed) = Authorization::parse(input) {
        assert!(!parsed.access_key.is_empty());
        assert!(parsed.region.len() <= REGION_BYTES_MAX);
        assert!(parsed.signed_headers.split(';').is_sorted_by(|a, b| a < b));
        assert!(parsed.signed_headers.split(';').any(|name| name == "host"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, want: Result<(&str, &str, &str, &str), &str>) {
        let got = Authorization::parse(value.as_bytes());
        let got = match &got {
            Ok(it) => Ok((&*it.access_key, &*it.region, &*it.signed_headers, &*it.signature)),
            Err(error) => Err(error.code().name()),
        };
        assert_eq!(got, want, "{value}");
        fuzz_one(value.as_bytes());
    }

    #[test]
    fn forms_that_clients_send() {
        let want = Ok(("AK", "us-east-1", "host;x-amz-date", "abc"));
        let scope = "20261122/us-east-1/s3/aws4_request";
        check(&format!("AWS4-HMAC-SHA256 Credential=AK/{scope}, SignedHeaders=host;x-amz-date, Signature=abc"), want);
        check(&format!("AWS4-HMAC-SHA256 Credential=AK/{scope},SignedHeaders=host;x-amz-date,Signature=abc"), want);
        check(&format!("AWS4-HMAC-SHA256  Signature=abc ,Credential=AK/{scope},  SignedHeaders=host;x-amz-date"), want);
        check(
            &format!("AWS4-HMAC-SHA256 Credential=a/b/{scope},SignedHeaders=host,Signature="),
            Ok(("a/b", "us-east-1", "host", "")),
        );
        check(
            "AWS4-HMAC-SHA256 Credential=AK/20261122//s3/aws4_request,SignedHeaders=host,Signature=abc",
            Ok(("AK", "", "host", "abc")),
        );
    }

    #[test]
    fn other_schemes() {
        check("", Err("InvalidArgument"));
        check("Basic dXNlcjpwYXNz", Err("InvalidArgument"));
        check("Bearer x", Err("InvalidArgument"));
        check("aws4-hmac-sha256 Credential=AK", Err("InvalidArgument"));
        check("AWS AKID:c2lnbmF0dXJl", Err("InvalidRequest"));
        check("AWS4-ECDSA-P256-SHA256 Credential=AK", Err("InvalidRequest"));
    }

    #[test]
    fn malformed_fields() {
        let bad = Err("AuthorizationHeaderMalformed");
        let scope = "20261122/us-east-1/s3/aws4_request";
        check("AWS4-HMAC-SHA256", bad);
        check("AWS4-HMAC-SHA256 Credential", bad);
        check(&format!("AWS4-HMAC-SHA256 Credential=AK/{scope}, SignedHeaders=host"), bad);
        check(&format!("AWS4-HMAC-SHA256 Credential=AK/{scope}, Signature=abc"), bad);
        check("AWS4-HMAC-SHA256 SignedHeaders=host, Signature=abc", bad);
        check(&format!("AWS4-HMAC-SHA256 Credential=AK/{scope},SignedHeaders=host,Signature=a,Signature=b"), bad);
        check(&format!("AWS4-HMAC-SHA256 Credential=AK/{scope},SignedHeaders=host,Signature=a,Extra=b"), bad);
        check(&format!("AWS4-HMAC-SHA256 Credential=AK/{scope},SignedHeaders=host,Signature=a,"), bad);
    }

    #[test]
    fn malformed_credentials() {
        let bad = Err("AuthorizationHeaderMalformed");
        let long_region = format!("AK/20261122/{}/s3/aws4_request", "r".repeat(65));
        for credential in [
            "",
            "AK",
            "/20261122/us-east-1/s3/aws4_request",
            "20261122/us-east-1/s3/aws4_request",
            "AK/2026112/us-east-1/s3/aws4_request",
            "AK/2026112x/us-east-1/s3/aws4_request",
            "AK/20261122/us-east-1/ec2/aws4_request",
            "AK/20261122/us-east-1/s3/aws5_request",
            "AK/20261122/us-east-1/s3/aws4_request/",
            &long_region,
        ] {
            check(&format!("AWS4-HMAC-SHA256 Credential={credential},SignedHeaders=host,Signature=a"), bad);
        }
    }

    #[test]
    fn signed_header_lists() {
        for (names, want) in [
            ("", "AuthorizationHeaderMalformed"),
            (";host", "AuthorizationHeaderMalformed"),
            ("host;", "AuthorizationHeaderMalformed"),
            ("host;;range", "AuthorizationHeaderMalformed"),
            ("host;host", "AuthorizationHeaderMalformed"),
            ("range;host", "AuthorizationHeaderMalformed"),
            ("Host", "AuthorizationHeaderMalformed"),
            ("host;x amz", "AuthorizationHeaderMalformed"),
            ("host;x:y", "AuthorizationHeaderMalformed"),
            ("x-amz-date", "AccessDenied"),
        ] {
            let scope = "AK/20261122/us-east-1/s3/aws4_request";
            check(&format!("AWS4-HMAC-SHA256 Credential={scope},SignedHeaders={names},Signature=a"), Err(want));
        }
    }
}
