//! The aws-chunked body: chunks of `SIZE[;chunk-signature=…] CRLF bytes CRLF`, a last one of size 0, trailers, CRLF
//! ("Transferring payload in multiple chunks"). [`Decoder`] takes it off what clients send; [`SignedFrames`] puts it on for a
//! backend that wants every body signed, [`Encoder`] for the load test and for tests.
//!
//! Called by whoever moves a body; never does IO, never copies payload. It stands inside HTTP's own framing: what comes
//! here has already been freed of Content-Length or chunked transfer coding.

mod decode;
mod encode;
mod sign;

pub use decode::{Decoder, Step, fuzz_one};
pub use encode::Encoder;
pub use sign::{SignedFrames, signed_length};

use super::body_error::BodyError;
use super::fields::{Fields, Sole};
use super::sigv4::{ChunkSigner, PayloadMode};
use std::borrow::Cow;

/// What is signed in the body.
#[derive(Clone, Debug)]
pub enum Form {
    /// Every chunk; no trailers.
    Signed(Box<ChunkSigner>),
    /// Every chunk and the trailers.
    SignedTrailer(Box<ChunkSigner>),
    /// Nothing.
    UnsignedTrailer,
}

impl Form {
    /// None when the payload is not streamed, or when the signer of a signed one is missing.
    pub fn of(payload: PayloadMode, signer: Option<Box<ChunkSigner>>) -> Option<Self> {
        match (payload, signer) {
            (PayloadMode::StreamingSigned { trailer: false }, Some(signer)) => Some(Self::Signed(signer)),
            (PayloadMode::StreamingSigned { trailer: true }, Some(signer)) => Some(Self::SignedTrailer(signer)),
            (PayloadMode::StreamingUnsignedTrailer, _) => Some(Self::UnsignedTrailer),
            _ => None,
        }
    }
}

/// `x-amz-decoded-content-length`: how many bytes of payload an aws-chunked body holds.
pub fn decoded_length<H: Fields + ?Sized>(headers: &H) -> Result<u64, BodyError> {
    let value = match headers.sole("x-amz-decoded-content-length") {
        Sole::One(value) => value,
        Sole::Absent => return Err(BodyError::MissingDecodedLength),
        Sole::Several => return Err(BodyError::InvalidDecodedLength),
    };
    let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).ok_or(BodyError::InvalidDecodedLength)
}

/// The Content-Encoding to store: without `aws-chunked`, which is the transfer's and not the object's. None when nothing
/// is left. What has no `aws-chunked` stays as it is, byte for byte.
pub fn stored_content_encoding(sent: &str) -> Option<Cow<'_, str>> {
    let tokens = || sent.split(',').map(str::trim_ascii);
    let is_ours = |token: &str| token.eq_ignore_ascii_case("aws-chunked");
    if !tokens().any(is_ours) {
        return (!sent.trim_ascii().is_empty()).then_some(sent.into());
    }
    let others: Vec<&str> = tokens().filter(|token| !token.is_empty() && !is_ours(token)).collect();
    (!others.is_empty()).then(|| others.join(",").into())
}

#[cfg(test)]
mod tests;
