//! The bytes of every object: made from a seed and an offset, so that neither side has to keep them.
//!
//! A body starts with its seed (8 bytes, little endian) and goes on with a fixed pattern read from a place that the seed
//! chooses. Whoever has seen the first bytes can make or check any of the others; two objects with different seeds differ
//! throughout.

use std::sync::LazyLock;

const PATTERN_BYTES: usize = 1 << 20;
const SEED_BYTES: u64 = 8;
const PIECE_BYTES: u64 = 256 * 1024;

/// The pattern twice in a row, so that any window of its length is one slice.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut once = Vec::with_capacity(PATTERN_BYTES);
    while once.len() < PATTERN_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        once.extend_from_slice(&state.to_le_bytes());
    }
    [once.clone(), once].concat()
});

/// The seed of an object: a hash of its name (FNV-1a).
pub fn seed_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// At most `len` bytes of the body from `offset`; fewer at the seed's end and never more than the pattern holds.
fn window(seed: u64, offset: u64, len: usize, scratch: &mut [u8; 8]) -> &[u8] {
    if offset < SEED_BYTES {
        *scratch = seed.to_le_bytes();
        let from = offset as usize;
        return &scratch[from..(from + len).min(SEED_BYTES as usize)];
    }
    let from = (seed.wrapping_add(offset) % PATTERN_BYTES as u64) as usize;
    &PATTERN[from..from + len.min(PATTERN_BYTES)]
}

/// A part of the body that belongs to `seed`: a whole object starts at 0.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub seed: u64,
    pub from: u64,
    pub to: u64,
}

impl Span {
    /// Takes its first piece away; None at its end.
    pub fn next<'s>(&mut self, scratch: &'s mut [u8; 8]) -> Option<&'s [u8]> {
        if self.from >= self.to {
            return None;
        }
        let want = (self.to - self.from).min(PIECE_BYTES) as usize;
        let piece = window(self.seed, self.from, want, scratch);
        self.from += piece.len() as u64;
        Some(piece)
    }

    pub fn each(mut self, mut take: impl FnMut(&[u8])) {
        let mut scratch = [0; 8];
        while let Some(piece) = self.next(&mut scratch) {
            take(piece);
        }
    }
}

/// Whether `bytes` are what the body holds at `offset`.
pub fn matches(seed: u64, mut offset: u64, mut bytes: &[u8]) -> bool {
    let mut scratch = [0; 8];
    while !bytes.is_empty() {
        let want = window(seed, offset, bytes.len(), &mut scratch);
        if bytes[..want.len()] != *want {
            return false;
        }
        offset += want.len() as u64;
        bytes = &bytes[want.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_matches_itself_at_every_offset_and_no_other() {
        let (seed, other) = (seed_of("a"), seed_of("b"));
        let mut body = Vec::new();
        Span { seed, from: 0, to: 3 << 20 }.each(|piece| body.extend_from_slice(piece));
        for (from, to) in [(0, 3), (3, 20), (7, 9), (1 << 20, 3 << 20), (0, 3 << 20)] {
            assert!(matches(seed, from as u64, &body[from..to]), "{from}..{to}");
            assert!(!matches(other, from as u64, &body[from..to]), "{from}..{to} of another object");
        }
    }
}
