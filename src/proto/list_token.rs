//! Continuation tokens of listings: the last entry of a page, made opaque.
//!
//! Opaque, because clients must not build them; versioned, because a token handed out before an upgrade may come back after
//! it. Base64url (RFC 4648, 5, without padding) of a version byte and the entry.

use super::error_code::{ErrorCode, S3Error};
use crate::base::limits::KEY_BYTES_MAX;
use data_encoding::BASE64URL_NOPAD;

const FORM_1: u8 = 1;

/// The token of a page that ends with `last`, a key or a common prefix.
pub fn encode(last: &str) -> String {
    let bytes: Vec<u8> = std::iter::once(FORM_1).chain(last.bytes()).collect();
    BASE64URL_NOPAD.encode(&bytes)
}

/// Where the next page begins. InvalidArgument for anything that `encode` did not make.
pub fn decode(token: &str) -> Result<String, S3Error> {
    decode_bytes(token)
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| S3Error::new(ErrorCode::InvalidArgument, "The continuation token provided is incorrect"))
}

fn decode_bytes(token: &str) -> Option<Vec<u8>> {
    if token.len() > BASE64URL_NOPAD.encode_len(1 + KEY_BYTES_MAX) {
        return None;
    }
    let mut bytes = BASE64URL_NOPAD.decode(token.as_bytes()).ok()?;
    (bytes.first() == Some(&FORM_1)).then(|| bytes.split_off(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn malformed_tokens_are_invalid_arguments() {
        let with_other_form = "AmE";
        for token in ["A", "AQ==", "a+b/", "AR", "%41", "photos/x", "ä", with_other_form, "AcM", &"A".repeat(4000)] {
            assert_eq!(decode(token).map_err(|error| error.code), Err(ErrorCode::InvalidArgument), "{token:?}");
        }
    }

    proptest! {
        #[test]
        fn tokens_come_back(last in ".{0,250}") {
            let token = encode(&last);
            prop_assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "safe in a query as it is: {}", token);
            prop_assert_eq!(decode(&token), Ok(last));
        }

        #[test]
        fn one_entry_has_one_token(token in "[A-Za-z0-9_-]{1,24}") {
            if let Ok(last) = decode(&token) {
                prop_assert_eq!(encode(&last), token);
            }
        }
    }
}
