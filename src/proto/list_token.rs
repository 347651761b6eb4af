//! Continuation tokens of listings: the last entry of a page, made opaque.
//!
//! Opaque, because clients must not build them; versioned, because a token handed out before an upgrade may come back after
//! it. Base64url (RFC 4648, 5, without padding) of a version byte and the entry.

use super::error_code::{ErrorCode, S3Error};
use crate::base::limits::KEY_BYTES_MAX;

const FORM_1: u8 = 1;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The token of a page that ends with `last`, a key or a common prefix.
pub fn encode(last: &str) -> String {
    let bytes: Vec<u8> = std::iter::once(FORM_1).chain(last.bytes()).collect();
    let mut token = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, &b| bits << 8 | u32::from(b)) << (8 * (3 - group.len()));
        for i in 0..=group.len() {
            token.push(ALPHABET[(bits >> (18 - 6 * i)) as usize & 63] as char);
        }
    }
    token
}

/// Where the next page begins. InvalidArgument for anything that `encode` did not make.
pub fn decode(token: &str) -> Result<String, S3Error> {
    decode_bytes(token)
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| S3Error::new(ErrorCode::InvalidArgument, "The continuation token provided is incorrect"))
}

fn decode_bytes(token: &str) -> Option<Vec<u8>> {
    if token.len() > (KEY_BYTES_MAX + 1).div_ceil(3) * 4 {
        return None;
    }
    let mut bytes = Vec::with_capacity(token.len() / 4 * 3 + 2);
    for group in token.as_bytes().chunks(4) {
        let mut bits = 0_u32;
        for &b in group {
            bits = bits << 6 | digit(b)?;
        }
        bits <<= 6 * (4 - group.len());
        let whole = group.len().checked_sub(1).filter(|&whole| whole > 0)?;
        // What does not fit whole bytes must be zero, so that one entry has one token.
        if bits & (0x00FF_FFFF >> (8 * whole)) != 0 {
            return None;
        }
        bytes.extend_from_slice(&bits.to_be_bytes()[1..=whole]);
    }
    (bytes.first() == Some(&FORM_1)).then(|| bytes.split_off(1))
}

fn digit(b: u8) -> Option<u32> {
    Some(u32::from(match b {
        b'A'..=b'Z' => b - b'A',
        b'a'..=b'z' => b - b'a' + 26,
        b'0'..=b'9' => b - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    }))
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
            prop_assert!(token.bytes().all(|b| digit(b).is_some()), "safe in a query as it is: {}", token);
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
