//! Puts a body into aws-chunked framing, as a client does. For bodies to backends that want them signed (`sign`), the load
//! test and tests.

use super::Form;
use crate::proto::checksum::{Algorithm, Checksum};
use sha2::{Digest, Sha256};
use std::io::Write;

pub struct Encoder {
    form: Form,
}

impl Encoder {
    pub fn new(form: Form) -> Self {
        Self { form }
    }

    /// Length of the whole body on the wire for `payload` bytes in chunks of `chunk` bytes (the last one shorter), which is
    /// the Content-Length of the request.
    pub fn encoded_length(form: &Form, payload: u64, chunk: u64, trailer: Option<Algorithm>) -> u64 {
        let (per_line, trailer_signature) = match form {
            Form::UnsignedTrailer => (2, 0),
            Form::Signed(_) => (SIGNED_LINE, 0),
            Form::SignedTrailer(_) => (SIGNED_LINE, "x-amz-trailer-signature:\r\n".len() as u64 + 64),
        };
        let trailer_line = trailer.map_or(0, |algorithm| {
            (algorithm.header().len() + ":\r\n".len() + data_encoding::BASE64.encode_len(algorithm.value_bytes()))
                as u64
        });
        chunks_length(payload, chunk, per_line) + hex_digits(0) + per_line + trailer_line + trailer_signature + 2
    }

    /// The same for signed chunks without a trailer.
    pub fn signed_length(payload: u64, chunk: u64) -> u64 {
        chunks_length(payload, chunk, SIGNED_LINE) + hex_digits(0) + SIGNED_LINE + 2
    }

    /// Appends one chunk. `payload` must not be empty: an empty chunk ends the body.
    pub fn chunk(&mut self, out: &mut Vec<u8>, payload: &[u8]) {
        assert!(!payload.is_empty(), "an empty chunk ends the body: call finish");
        self.line(out, payload);
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
    }

    /// Appends the last chunk, the trailer and the end.
    pub fn finish(mut self, out: &mut Vec<u8>, trailer: Option<&Checksum>) {
        self.line(out, b"");
        let mut line = Vec::new();
        if let Some(checksum) = trailer {
            line.extend_from_slice(checksum.algorithm().header().as_bytes());
            line.push(b':');
            line.extend_from_slice(checksum.write_base64(&mut [0; 44]).as_bytes());
            out.extend_from_slice(&line);
            out.extend_from_slice(b"\r\n");
            line.push(b'\n');
        }
        if let Form::SignedTrailer(signer) = &mut self.form {
            out.extend_from_slice(b"x-amz-trailer-signature:");
            out.extend_from_slice(&signer.sign_trailers(&Sha256::digest(&line).into()));
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    fn line(&mut self, out: &mut Vec<u8>, payload: &[u8]) {
        write!(out, "{:x}", payload.len()).expect("a Vec takes what is written");
        if let Form::Signed(signer) | Form::SignedTrailer(signer) = &mut self.form {
            out.extend_from_slice(b";chunk-signature=");
            out.extend_from_slice(&signer.sign_chunk(&Sha256::digest(payload).into()));
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// What stands in a signed chunk's line behind its size.
const SIGNED_LINE: u64 = ";chunk-signature=".len() as u64 + 64 + 2;

fn chunks_length(payload: u64, chunk: u64, per_line: u64) -> u64 {
    let framed = |size: u64| hex_digits(size) + per_line + size + 2;
    let rest = payload % chunk;
    payload / chunk * framed(chunk) + if rest > 0 { framed(rest) } else { 0 }
}

fn hex_digits(number: u64) -> u64 {
    u64::from((u64::BITS - number.leading_zeros()).div_ceil(4).max(1))
}
