//! The signature of a browser upload's policy document ("Calculating a signature for POST"): over the document's text as it
//! stands in the form, in version 4 and in the older one, which forms and SDKs still use for this.

use super::authorization::parse_credential;
use super::key::KeyOf;
use super::{ALGORITHM, AmzDate, AuthError, Verifier, same_signature};
use crate::base::Secret;
use aws_lc_rs::hmac;
use subtle::ConstantTimeEq;

/// The form's fields about its signature.
#[derive(Clone, Copy, Debug)]
pub enum PolicySignature<'f> {
    V4 { algorithm: &'f str, credential: &'f str, date: &'f str, signature: &'f str },
    V2 { access_key: &'f str, signature: &'f str },
}

impl Verifier {
    /// Whose policy this is. The document itself says until when.
    pub fn verify_policy<'s, P>(
        &mut self,
        policy: &str,
        signature: PolicySignature<'_>,
        token: Option<&str>,
        region: Option<&str>,
        find: impl FnOnce(&str) -> Option<(&'s Secret, P)>,
    ) -> Result<P, AuthError> {
        if token.is_some_and(|token| !token.is_empty()) {
            return Err(AuthError::SessionToken);
        }
        let (access_key, scope) = match signature {
            PolicySignature::V2 { access_key, .. } => (access_key, None),
            PolicySignature::V4 { algorithm, credential, date, .. } => {
                if algorithm != ALGORITHM {
                    return Err(AuthError::UnsupportedVersion);
                }
                let (access_key, day, scope_region) = parse_credential(credential).map_err(AuthError::in_query)?;
                if let Some(expected) = region.filter(|expected| *expected != scope_region) {
                    let error = AuthError::WrongRegion { sent: scope_region.into(), expected: expected.into() };
                    return Err(error.in_query());
                }
                if AmzDate::parse(date.as_bytes()).is_none_or(|date| date.day() != day) {
                    return Err(AuthError::WrongDay.in_query());
                }
                (access_key, Some((day, scope_region)))
            }
        };
        let found = find(access_key);
        let secret = found.as_ref().map(|(secret, _)| *secret);
        let is_right = match (signature, scope) {
            (PolicySignature::V4 { signature, .. }, Some((day, region))) => self.is_signed(
                policy,
                signature,
                KeyOf { access_key, secret: secret.unwrap_or(self.nobody()), day, region },
            ),
            (PolicySignature::V2 { signature, .. } | PolicySignature::V4 { signature, .. }, _) => {
                is_signed_in_version_2(policy, signature, secret.unwrap_or(self.nobody()))
            }
        };
        match found {
            None => Err(AuthError::InvalidAccessKeyId),
            Some((_, principal)) if is_right => Ok(principal),
            Some(_) => Err(AuthError::SignatureDoesNotMatch),
        }
    }

    /// The key is derived afresh: uploads by form are rare.
    fn is_signed(&self, policy: &str, signature: &str, of: KeyOf<'_>) -> bool {
        same_signature(&of.derive().sign(policy.as_bytes()), signature.as_bytes())
    }
}

fn is_signed_in_version_2(policy: &str, signature: &str, secret: &Secret) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.expose().as_bytes());
    let right = data_encoding::BASE64.encode(hmac::sign(&key, policy.as_bytes()).as_ref());
    right.as_bytes().ct_eq(signature.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of "Browser-Based Upload using HTTP POST (Using AWS Signature Version 4)".
    const POLICY: &str = "eyAiZXhwaXJhdGlvbiI6ICIyMDE1LTEyLTMwVDEyOjAwOjAwLjAwMFoiLA0KICAiY29uZGl0aW9ucyI6IFsNCiAgICB7ImJ1Y2tldCI6\
        ICJzaWd2NGV4YW1wbGVidWNrZXQifSwNCiAgICBbInN0YXJ0cy13aXRoIiwgIiRrZXkiLCAidXNlci91c2VyMS8iXSwNCiAgICB7ImFjbCI6ICJwdWJsaWMt\
        cmVhZCJ9LA0KICAgIHsic3VjY2Vzc19hY3Rpb25fcmVkaXJlY3QiOiAiaHR0cDovL3NpZ3Y0ZXhhbXBsZWJ1Y2tldC5zMy5hbWF6b25hd3MuY29tL3N1Y2Nl\
        c3NmdWxfdXBsb2FkLmh0bWwifSwNCiAgICBbInN0YXJ0cy13aXRoIiwgIiRDb250ZW50LVR5cGUiLCAiaW1hZ2UvIl0sDQogICAgeyJ4LWFtei1tZXRhLXV1\
        aWQiOiAiMTQzNjUxMjM2NTEyNzQifSwNCiAgICB7IngtYW16LXNlcnZlci1zaWRlLWVuY3J5cHRpb24iOiAiQUVTMjU2In0sDQogICAgWyJzdGFydHMtd2l0\
        aCIsICIkeC1hbXotbWV0YS10YWciLCAiIl0sDQoNCiAgICB7IngtYW16LWNyZWRlbnRpYWwiOiAiQUtJQUlPU0ZPRE5ON0VYQU1QTEUvMjAxNTEyMjkvdXMt\
        ZWFzdC0xL3MzL2F3czRfcmVxdWVzdCJ9LA0KICAgIHsieC1hbXotYWxnb3JpdGhtIjogIkFXUzQtSE1BQy1TSEEyNTYifSwNCiAgICB7IngtYW16LWRhdGUi\
        OiAiMjAxNTEyMjlUMDAwMDAwWiIgfQ0KICBdDQp9";
    const SIGNATURE: &str = "8afdbf4008c03f22c2cd3cdb72e4afbb1f6a588f3255ac628749a66d7f09699e";
    const CREDENTIAL: &str = "AKIAIOSFODNN7EXAMPLE/20151229/us-east-1/s3/aws4_request";

    fn verify(policy: &str, signature: PolicySignature<'_>, region: Option<&str>) -> Result<&'static str, AuthError> {
        let secret = Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        let find = |key: &str| (key == "AKIAIOSFODNN7EXAMPLE").then_some((&secret, "the owner"));
        Verifier::new().verify_policy(policy, signature, None, region, find)
    }

    #[test]
    fn published_policy() {
        let v4 =
            |credential, date, signature| PolicySignature::V4 { algorithm: ALGORITHM, credential, date, signature };
        let right = v4(CREDENTIAL, "20151229T000000Z", SIGNATURE);
        assert_eq!(verify(POLICY, right, None), Ok("the owner"));
        assert_eq!(verify(POLICY, right, Some("us-east-1")), Ok("the owner"));
        assert_eq!(verify(&POLICY[4..], right, None), Err(AuthError::SignatureDoesNotMatch));
        let wrong = v4(CREDENTIAL, "20151229T000000Z", &SIGNATURE[1..]);
        assert_eq!(verify(POLICY, wrong, None), Err(AuthError::SignatureDoesNotMatch));
        let nobody = CREDENTIAL.replace("AKIA", "AKIB");
        let nobody = v4(&nobody, "20151229T000000Z", SIGNATURE);
        assert_eq!(verify(POLICY, nobody, None), Err(AuthError::InvalidAccessKeyId));
        for (signature, region) in [(right, Some("eu-west-1")), (v4(CREDENTIAL, "20151228T000000Z", SIGNATURE), None)] {
            assert!(matches!(verify(POLICY, signature, region), Err(AuthError::QueryParameters(_))), "{signature:?}");
        }
    }

    #[test]
    fn version_2() {
        // HMAC-SHA1 by another implementation.
        let signature = "eL3OlIgXlaEdW8YOBw30RYKlweI=";
        let signed = |access_key, signature| PolicySignature::V2 { access_key, signature };
        assert_eq!(verify("cG9saWN5", signed("AKIAIOSFODNN7EXAMPLE", signature), None), Ok("the owner"));
        assert!(verify("cG9saWN4", signed("AKIAIOSFODNN7EXAMPLE", signature), None).is_err());
        assert_eq!(verify("cG9saWN5", signed("AK", signature), None), Err(AuthError::InvalidAccessKeyId));
    }
}
