//! Signatures of the chunks and trailers of a streamed body ("Transferring payload in multiple chunks"): each covers its
//! bytes and the signature before it, the first one the request's. Used by both sides of `aws_chunked`.

use super::canonical::write_scope;
use super::{AmzDate, EMPTY_SHA256, Hex, SigningKey, hex, same_signature};

/// The chain of signatures of one body.
#[derive(Clone, Debug)]
pub struct ChunkSigner {
    key: SigningKey,
    date: AmzDate,
    scope: Vec<u8>,
    previous: Hex,
    text: Vec<u8>,
}

impl ChunkSigner {
    /// `seed` is the signature of the request itself.
    pub fn new(key: SigningKey, date: AmzDate, region: &str, seed: Hex) -> Self {
        let mut scope = Vec::new();
        write_scope(&mut scope, &date, region);
        Self { key, date, scope, previous: seed, text: Vec::with_capacity(384) }
    }

    /// The signature of the next chunk, whose bytes have this SHA-256. The final, empty chunk is one too.
    pub fn sign_chunk(&mut self, data: &[u8; 32]) -> Hex {
        self.sign(b"AWS4-HMAC-SHA256-PAYLOAD\n", Some(&EMPTY_SHA256), data)
    }

    /// The signature of the trailers: `data` is the SHA-256 of `name:value\n` of each.
    pub fn sign_trailers(&mut self, data: &[u8; 32]) -> Hex {
        self.sign(b"AWS4-HMAC-SHA256-TRAILER\n", None, data)
    }

    /// Whether `sent` is the signature of the next chunk. In constant time.
    pub fn verify_chunk(&mut self, data: &[u8; 32], sent: &[u8]) -> bool {
        same_signature(&self.sign_chunk(data), sent)
    }

    /// Whether `sent` is the signature of the trailers. In constant time.
    pub fn verify_trailers(&mut self, data: &[u8; 32], sent: &[u8]) -> bool {
        same_signature(&self.sign_trailers(data), sent)
    }

    fn sign(&mut self, kind: &[u8], headers: Option<&[u8; 32]>, data: &[u8; 32]) -> Hex {
        let text = &mut self.text;
        text.clear();
        text.extend_from_slice(kind);
        text.extend_from_slice(self.date.as_bytes());
        text.push(b'\n');
        text.extend_from_slice(&self.scope);
        text.push(b'\n');
        text.extend_from_slice(&self.previous);
        text.push(b'\n');
        if let Some(headers) = headers {
            text.extend_from_slice(&hex(headers));
            text.push(b'\n');
        }
        text.extend_from_slice(&hex(data));
        self.previous = self.key.sign(text);
        self.previous
    }
}
