//! Why a body was not accepted: its framing, its signatures, its checksums. Said by `aws_chunked` and `checksum`; the
//! handler abandons the write and answers it.

use super::checksum::Algorithm;
use super::error_code::{ErrorCode, S3Error};
use std::borrow::Cow;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyError {
    /// The framing is broken, the body ended early, or it is not as long as declared.
    Incomplete,
    /// A signed chunk above the limit, which nobody could check before passing it on.
    ChunkTooLarge,
    /// The signature of a chunk or of the trailers is wrong.
    SignatureDoesNotMatch,
    /// The trailers are not those that were announced, or are not trailers at all.
    MalformedTrailer,
    /// The trailer's value cannot be a checksum of its kind.
    InvalidTrailerValue(Algorithm),
    /// `x-amz-decoded-content-length` is not there.
    MissingDecodedLength,
    /// `x-amz-decoded-content-length` is not a number.
    InvalidDecodedLength,
    /// `x-amz-trailer` names something that is no checksum we know.
    UnsupportedTrailer,
    /// An `x-amz-checksum-…` of a kind we do not know.
    UnsupportedChecksum,
    /// The header's value cannot be a checksum of its kind.
    InvalidChecksumHeader(Algorithm),
    SeveralChecksums,
    /// A checksum in the header and another announced as a trailer.
    ChecksumAndTrailer,
    /// `x-amz-sdk-checksum-algorithm` names an algorithm that we do not know or that is not the declared checksum's.
    InvalidSdkAlgorithm,
    /// `x-amz-sdk-checksum-algorithm` without any checksum.
    SdkAlgorithmAlone,
    /// Content-MD5 is not the base64 of 16 bytes.
    InvalidContentMd5,
    ContentMd5Mismatch,
    /// A form whose file does not end where it must.
    FileNotLast,
    ChecksumMismatch(Algorithm),
    ContentSha256Mismatch,
}

impl BodyError {
    pub fn code(self) -> ErrorCode {
        match self {
            Self::Incomplete => ErrorCode::IncompleteBody,
            Self::SignatureDoesNotMatch => ErrorCode::SignatureDoesNotMatch,
            Self::MalformedTrailer => ErrorCode::MalformedTrailerError,
            Self::MissingDecodedLength => ErrorCode::MissingContentLength,
            Self::InvalidContentMd5 => ErrorCode::InvalidDigest,
            Self::FileNotLast => ErrorCode::MalformedPOSTRequest,
            Self::ContentMd5Mismatch | Self::ChecksumMismatch(_) => ErrorCode::BadDigest,
            Self::ContentSha256Mismatch => ErrorCode::XAmzContentSHA256Mismatch,
            Self::ChunkTooLarge
            | Self::InvalidTrailerValue(_)
            | Self::InvalidDecodedLength
            | Self::UnsupportedTrailer
            | Self::UnsupportedChecksum
            | Self::InvalidChecksumHeader(_)
            | Self::SeveralChecksums
            | Self::ChecksumAndTrailer
            | Self::InvalidSdkAlgorithm
            | Self::SdkAlgorithmAlone => ErrorCode::InvalidRequest,
        }
    }

    /// The text for the client; None: the code's own.
    fn message(self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::SignatureDoesNotMatch
            | Self::MalformedTrailer
            | Self::MissingDecodedLength
            | Self::ContentSha256Mismatch => return None,
            Self::FileNotLast => {
                "A large file must be the form's last field, followed by nothing but the boundary and a \
                line end."
                    .into()
            }
            Self::Incomplete => "The request body terminated unexpectedly".into(),
            Self::ChunkTooLarge => "A signed chunk of the body is too large.".into(),
            Self::InvalidTrailerValue(algorithm) => {
                format!("Value for {} trailing header is invalid.", algorithm.header()).into()
            }
            Self::InvalidDecodedLength => "Value for x-amz-decoded-content-length header is invalid.".into(),
            Self::UnsupportedTrailer => "The value specified in the x-amz-trailer header is not supported".into(),
            Self::UnsupportedChecksum => {
                "The algorithm type you specified in x-amz-checksum- header is invalid.".into()
            }
            Self::InvalidChecksumHeader(algorithm) => {
                format!("Value for {} header is invalid.", algorithm.header()).into()
            }
            Self::SeveralChecksums => {
                "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.".into()
            }
            Self::ChecksumAndTrailer => "Expecting a single x-amz-checksum- header".into(),
            Self::InvalidSdkAlgorithm => "Value for x-amz-sdk-checksum-algorithm header is invalid.".into(),
            Self::SdkAlgorithmAlone => "x-amz-sdk-checksum-algorithm specified, but no corresponding \
                x-amz-checksum-* or x-amz-trailer headers were found."
                .into(),
            Self::InvalidContentMd5 => "The Content-MD5 you specified was invalid.".into(),
            Self::ContentMd5Mismatch => "The Content-MD5 you specified did not match what we received.".into(),
            Self::ChecksumMismatch(algorithm) => {
                format!("The {} you specified did not match the calculated checksum.", algorithm.name()).into()
            }
        })
    }
}

impl From<BodyError> for S3Error {
    fn from(error: BodyError) -> Self {
        match error.message() {
            Some(message) => Self::new(error.code(), message),
            None => error.code().into(),
        }
    }
}
