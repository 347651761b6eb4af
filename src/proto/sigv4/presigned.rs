//! The query form of a signature, a presigned URL: `X-Amz-Algorithm`, `X-Amz-Credential`, `X-Amz-Date`, `X-Amz-Expires`,
//! `X-Amz-SignedHeaders` and `X-Amz-Signature`. Reads it; says nothing about whether the signature is right.
//!
//! Sources: "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)", and what AWS answers.

use super::authorization::{check_signed_headers, parse_credential};
use super::{ALGORITHM, AmzDate, AuthError, Authorization, SKEW_SECONDS_MAX};
use crate::base::Timestamp;
use crate::proto::target::decode_query;
use std::borrow::Cow;

/// A week.
pub const EXPIRES_SECONDS_MAX: i64 = 7 * 24 * 3600;

/// Names of the parameters that sign and say nothing else of the request.
pub const SIGNING_PARAMETERS: [&str; 8] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
    "X-Amz-Security-Token",
    "X-Amz-Content-Sha256",
];

/// What kind of signature a query carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QuerySignature {
    Absent,
    V2,
    V4,
}

impl QuerySignature {
    pub fn of(query: &[u8]) -> Self {
        let mut found = Self::Absent;
        for pair in query.split(|&byte| byte == b'&') {
            match pair.split(|&byte| byte == b'=').next().unwrap_or_default() {
                b"X-Amz-Algorithm" | b"X-Amz-Credential" | b"X-Amz-Signature" => return Self::V4,
                b"Signature" | b"AWSAccessKeyId" => found = Self::V2,
                _ => {}
            }
        }
        found
    }
}

/// What a presigned URL says of itself.
#[derive(Debug)]
pub(super) struct Presigned<'h> {
    pub authorization: Authorization<'h>,
    pub date: AmzDate,
    pub expires_seconds: i64,
    pub content_sha256: Option<Cow<'h, str>>,
    pub has_token: bool,
}

impl<'h> Presigned<'h> {
    /// Every parameter once, all but the last two required.
    pub(super) fn parse(query: &'h [u8]) -> Result<Self, AuthError> {
        let query = std::str::from_utf8(query).map_err(|_| INCOMPLETE)?;
        let mut values: [Option<Cow<'h, str>>; 8] = Default::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(slot) = SIGNING_PARAMETERS.iter().position(|known| *known == name) else { continue };
            let value = decode_query(value).map_err(|_| INCOMPLETE)?;
            if values[slot].replace(value).is_some() {
                return Err(AuthError::QueryParameters(format!("{name} is there more than once.").into()));
            }
        }
        let [algorithm, credential, date, expires, signed_headers, signature, token, content_sha256] = values;
        let (Some(algorithm), Some(credential), Some(date)) = (algorithm, credential, date) else {
            return Err(INCOMPLETE);
        };
        let (Some(expires), Some(signed_headers), Some(signature)) = (expires, signed_headers, signature) else {
            return Err(INCOMPLETE);
        };
        if algorithm != ALGORITHM {
            return Err(AuthError::QueryParameters("X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\"".into()));
        }
        let (access_key, day, region) = credential_of(credential)?;
        check_signed_headers(&signed_headers).map_err(|error| match error {
            AuthError::Malformed(reason) => {
                AuthError::QueryParameters(format!("Error parsing the X-Amz-SignedHeaders parameter; {reason}").into())
            }
            other => other,
        })?;
        let date = AmzDate::parse(date.as_bytes()).ok_or(AuthError::QueryParameters(Cow::Borrowed(
            "X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"",
        )))?;
        Ok(Self {
            authorization: Authorization { access_key, day, region, signed_headers, signature },
            date,
            expires_seconds: parse_expires(&expires)?,
            content_sha256,
            has_token: token.is_some_and(|token| !token.is_empty()),
        })
    }

    /// Not before its date, as far as clocks agree, and before its end: one of no seconds is never valid.
    pub(super) fn check_time(&self, now: Timestamp) -> Result<(), AuthError> {
        if self.date.seconds() - now.seconds() > SKEW_SECONDS_MAX {
            return Err(AuthError::NotYetValid);
        }
        if now.seconds() >= self.date.seconds() + self.expires_seconds {
            return Err(AuthError::Expired);
        }
        Ok(())
    }
}

const INCOMPLETE: AuthError = AuthError::QueryParameters(Cow::Borrowed(
    "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, X-Amz-Date, \
     X-Amz-SignedHeaders, and X-Amz-Expires parameters.",
));

/// Access key, day and region.
type Scope<'h> = (Cow<'h, str>, [u8; 8], Cow<'h, str>);

fn credential_of(credential: Cow<'_, str>) -> Result<Scope<'_>, AuthError> {
    match credential {
        Cow::Borrowed(text) => {
            let (access_key, day, region) = parse_credential(text).map_err(AuthError::in_query)?;
            Ok((access_key.into(), day, region.into()))
        }
        Cow::Owned(text) => {
            let (access_key, day, region) = parse_credential(&text).map_err(AuthError::in_query)?;
            Ok((access_key.to_owned().into(), day, region.to_owned().into()))
        }
    }
}

fn parse_expires(text: &str) -> Result<i64, AuthError> {
    let bad = |text: &'static str| Err(AuthError::QueryParameters(text.into()));
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return bad("X-Amz-Expires should be a number");
    }
    if text.starts_with('-') {
        return bad("X-Amz-Expires must be non-negative");
    }
    match digits.parse() {
        Ok(seconds) if seconds <= EXPIRES_SECONDS_MAX => Ok(seconds),
        _ => bad(
            "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less than \
             604800 seconds",
        ),
    }
}

/// Any query may come; what is read keeps its promises.
pub fn fuzz_one(input: &[u8]) {
    let _ = QuerySignature::of(input);
    if let Ok(parsed) = Presigned::parse(input) {
        assert!(!parsed.authorization.access_key.is_empty());
        assert!((0..=EXPIRES_SECONDS_MAX).contains(&parsed.expires_seconds));
        assert!(parsed.authorization.signed_headers.split(';').any(|name| name == "host"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK%2F20130524%2Fr%2Fs3%2Faws4_request\
        &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host%3Brange&X-Amz-Signature=ab";

    fn refused(from: &str, to: &str, want: &str) {
        let query = SOUND.replace(from, to);
        assert_ne!(query, SOUND, "{from} is there");
        match Presigned::parse(query.as_bytes()) {
            Err(AuthError::QueryParameters(text)) => assert!(text.contains(want), "{query}: {text}"),
            other => panic!("{query}: {other:?}"),
        }
        fuzz_one(query.as_bytes());
    }

    #[test]
    fn parameters_are_read() {
        let parsed = Presigned::parse(SOUND.as_bytes()).expect("sound");
        let one = &parsed.authorization;
        assert_eq!((&*one.access_key, &*one.region, &*one.signed_headers), ("AK", "r", "host;range"));
        assert_eq!((&*one.signature, parsed.expires_seconds, parsed.has_token), ("ab", 86_400, false));
        assert_eq!(parsed.content_sha256, None);
        let more = format!("{SOUND}&X-Amz-Security-Token=t&X-Amz-Content-Sha256=UNSIGNED-PAYLOAD&x=y");
        let parsed = Presigned::parse(more.as_bytes()).expect("sound");
        assert!(parsed.has_token && parsed.content_sha256.as_deref() == Some("UNSIGNED-PAYLOAD"));
    }

    #[test]
    fn refusals_are_those_of_s3() {
        for name in &SIGNING_PARAMETERS[..6] {
            refused(name, "x", "requires the X-Amz-Algorithm");
        }
        refused("HMAC", "ECDSA", "X-Amz-Algorithm only supports");
        refused("86400", "-1", "non-negative");
        refused("86400", "x", "should be a number");
        refused("86400", "", "should be a number");
        refused("86400", "604801", "less than a week");
        refused("86400", "99999999999999999999", "less than a week");
        refused("T000000Z", "", "ISO8601 Long Format");
        refused("aws4_request", "aws5", "X-Amz-Credential parameter; incorrect terminal");
        refused("%2Fs3", "%2Fec2", "X-Amz-Credential parameter; incorrect service");
        refused("AK%2F", "", "X-Amz-Credential parameter; the Credential is mal-formed");
        refused("host%3Brange", "range%3Bhost", "X-Amz-SignedHeaders parameter");
        refused("&X-Amz-Sig", "&X-Amz-Date=x&X-Amz-Sig", "more than once");
    }

    #[test]
    fn a_week_and_no_time_are_allowed() {
        for (text, want) in [("604800", 604_800), ("0", 0), ("1", 1), ("060", 60)] {
            assert_eq!(parse_expires(text), Ok(want));
        }
    }

    #[test]
    fn its_time() {
        let parsed = Presigned::parse(SOUND.as_bytes()).expect("sound");
        let at = |seconds: i64| parsed.check_time(Timestamp { millis: (1_369_353_600 + seconds) * 1000 });
        assert_eq!((at(-900), at(-901)), (Ok(()), Err(AuthError::NotYetValid)));
        assert_eq!((at(86_399), at(86_400)), (Ok(()), Err(AuthError::Expired)));
    }

    #[test]
    fn kinds_of_query_signatures() {
        for (query, want) in [
            ("", QuerySignature::Absent),
            ("prefix=X-Amz-Signature", QuerySignature::Absent),
            ("x-amz-signature=1", QuerySignature::Absent),
            ("AWSAccessKeyId=a&Expires=1&Signature=b", QuerySignature::V2),
            ("a&X-Amz-Algorithm", QuerySignature::V4),
            ("Signature=b&X-Amz-Credential=x", QuerySignature::V4),
        ] {
            assert_eq!(QuerySignature::of(query.as_bytes()), want, "{query}");
        }
    }
}
