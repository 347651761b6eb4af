//! What `x-amz-content-sha256` says about the body.

use super::{AuthError, Hex, hex};

/// SHA-256 of nothing: the payload hash of a request without a body.
pub const EMPTY_SHA256: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae, 0x41,
    0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

/// How the body is covered by the signature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PayloadMode {
    /// The body has this SHA-256, and the signature covers it.
    DeclaredSha256([u8; 32]),
    /// The signature does not cover the body.
    Unsigned,
    /// aws-chunked, a signature for every chunk and, if `trailer`, for the trailers.
    StreamingSigned { trailer: bool },
    /// aws-chunked without signatures, a checksum as trailer.
    StreamingUnsignedTrailer,
}

impl PayloadMode {
    /// Of most requests: they have no body.
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
    const STREAMING_SIGNED: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
    const STREAMING_SIGNED_TRAILER: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER";
    const STREAMING_UNSIGNED_TRAILER: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";

    /// From the header's value. The value itself goes into the canonical request, so no form is lost here.
    pub fn parse(value: &[u8]) -> Result<Self, AuthError> {
        if value == Self::EMPTY.as_bytes() {
            return Ok(Self::DeclaredSha256(EMPTY_SHA256));
        }
        match std::str::from_utf8(value).unwrap_or_default() {
            Self::UNSIGNED => Ok(Self::Unsigned),
            Self::STREAMING_SIGNED => Ok(Self::StreamingSigned { trailer: false }),
            Self::STREAMING_SIGNED_TRAILER => Ok(Self::StreamingSigned { trailer: true }),
            Self::STREAMING_UNSIGNED_TRAILER => Ok(Self::StreamingUnsignedTrailer),
            digits => parse_sha256(digits).map(Self::DeclaredSha256).ok_or(AuthError::BadContentSha256),
        }
    }

    /// Whether the body is aws-chunked, so that its length on the wire is not the object's.
    pub fn is_streaming(self) -> bool {
        matches!(self, Self::StreamingSigned { .. } | Self::StreamingUnsignedTrailer)
    }

    /// The header's value; `buffer` lends the room for a hash.
    pub fn write(self, buffer: &mut Hex) -> &str {
        match self {
            Self::DeclaredSha256(EMPTY_SHA256) => Self::EMPTY,
            Self::DeclaredSha256(digest) => {
                *buffer = hex(&digest);
                std::str::from_utf8(buffer).expect("hexadecimal digits are ASCII")
            }
            Self::Unsigned => Self::UNSIGNED,
            Self::StreamingSigned { trailer: false } => Self::STREAMING_SIGNED,
            Self::StreamingSigned { trailer: true } => Self::STREAMING_SIGNED_TRAILER,
            Self::StreamingUnsignedTrailer => Self::STREAMING_UNSIGNED_TRAILER,
        }
    }
}

fn parse_sha256(digits: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    let wanted = data_encoding::HEXLOWER_PERMISSIVE.decode_len(digits.len()).ok()?;
    if wanted != digest.len() {
        return None;
    }
    data_encoding::HEXLOWER_PERMISSIVE.decode_mut(digits.as_bytes(), &mut digest).ok()?;
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_is_read_as_it_is_written() {
        let modes = [
            PayloadMode::DeclaredSha256(EMPTY_SHA256),
            PayloadMode::Unsigned,
            PayloadMode::StreamingSigned { trailer: false },
            PayloadMode::StreamingSigned { trailer: true },
            PayloadMode::StreamingUnsignedTrailer,
        ];
        for mode in modes {
            assert_eq!(PayloadMode::parse(mode.write(&mut [0; 64]).as_bytes()), Ok(mode));
        }
        let upper = b"E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855";
        assert_eq!(PayloadMode::parse(upper), Ok(modes[0]));
    }

    #[test]
    fn anything_else_is_refused() {
        let signed_v4a = "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD";
        let short = &"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"[2..];
        for text in ["", "unsigned-payload", signed_v4a, short, "e3b0c4", &"g".repeat(64), &"0".repeat(66)] {
            assert_eq!(PayloadMode::parse(text.as_bytes()), Err(AuthError::BadContentSha256), "{text}");
        }
        assert_eq!(PayloadMode::parse(&[0xff; 64]), Err(AuthError::BadContentSha256));
    }
}
