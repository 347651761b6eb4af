//! Puts a body that passes into signed chunks of one size, as a backend that wants every body signed takes it
//! (`STREAMING-AWS4-HMAC-SHA256-PAYLOAD`). Never does IO: whoever moves the body gives bytes and takes frames.

use super::Form;
use super::encode::Encoder;
use crate::proto::sigv4::ChunkSigner;

/// Bytes of every chunk but the last. A signature stands before what it covers, so a chunk is gathered first.
const CHUNK_BYTES: usize = 64 * 1024;

/// Bytes on the wire for a body of this size; at least one byte.
pub fn signed_length(size: u64) -> u64 {
    Encoder::signed_length(size, CHUNK_BYTES as u64)
}

pub struct SignedFrames {
    encoder: Option<Encoder>,
    /// Of the chunk that is being gathered.
    gathered: Vec<u8>,
    /// Of the whole body, not gathered yet.
    left: u64,
    frames: Vec<u8>,
}

impl SignedFrames {
    pub fn new(signer: ChunkSigner, size: u64) -> Self {
        let encoder = Some(Encoder::new(Form::Signed(Box::new(signer))));
        Self { encoder, gathered: Vec::with_capacity(CHUNK_BYTES), left: size, frames: Vec::new() }
    }

    /// Takes from `bytes` what fits the chunk under way; how many that were. Its frame is then in `frames` if it is whole:
    /// of the last one, with the end of the body.
    pub fn gather(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(CHUNK_BYTES - self.gathered.len());
        assert!(count as u64 <= self.left, "more than was announced");
        self.gathered.extend_from_slice(&bytes[..count]);
        self.left -= count as u64;
        if self.gathered.len() == CHUNK_BYTES || self.left == 0 {
            let encoder = self.encoder.as_mut().expect("the body has not ended");
            encoder.chunk(&mut self.frames, &self.gathered);
            self.gathered.clear();
        }
        if self.left == 0
            && let Some(encoder) = self.encoder.take()
        {
            encoder.finish(&mut self.frames, None);
        }
        count
    }

    /// What is to be sent; the caller clears it.
    pub fn frames(&mut self) -> &mut Vec<u8> {
        &mut self.frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Secret, Timestamp};
    use crate::proto::sigv4::{Signer, Target};

    fn frames(body: &[u8], pieces: usize) -> Vec<u8> {
        let secret = Secret::new("secret");
        let target = Target { access_key: "k", secret: &secret, region: "r" };
        let signer = Signer::new().chunk_signer(&target, Timestamp { millis: 1_790_000_000_000 }, [b'7'; 64]);
        let mut signed = SignedFrames::new(signer, body.len() as u64);
        let mut sent = Vec::new();
        for mut piece in body.chunks(pieces) {
            while !piece.is_empty() {
                piece = &piece[signed.gather(piece)..];
                sent.append(signed.frames());
            }
        }
        sent
    }

    #[test]
    fn frames_do_not_depend_on_how_the_body_came_and_have_the_length_that_was_announced() {
        for size in [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 17] {
            let body: Vec<u8> = (0..size).map(|i| (i % 253) as u8).collect();
            let whole = frames(&body, size);
            assert_eq!(whole.len() as u64, signed_length(size as u64), "{size}");
            assert!(whole.ends_with(b"\r\n\r\n"));
            for pieces in [1000, CHUNK_BYTES, 100_000] {
                assert_eq!(frames(&body, pieces), whole, "{size} in pieces of {pieces}");
            }
        }
    }
}
