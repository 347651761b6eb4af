//! The bytes of every object: made from a seed and an offset, so that neither side has to keep them.
//!
//! A body starts with its seed (8 bytes, little endian) and goes on with a fixed pattern read from a place that the seed
//! chooses. Whoever has seen the first bytes can make or check any of the others; two objects with different seeds differ
//! throughout.

use std::sync::LazyLock;

const PATTERN_BYTES: usize = 1 << 20;
const SEED_BYTES: u64 = 8;

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
pub fn window(seed: u64, offset: u64, len: usize, scratch: &mut [u8; 8]) -> &[u8] {
    if offset < SEED_BYTES {
        *scratch = seed.to_le_bytes();
        let from = offset as usize;
        return &scratch[from..(from + len).min(SEED_BYTES as usize)];
    }
    let from = (seed.wrapping_add(offset) % PATTERN_BYTES as u64) as usize;
    &PATTERN[from..from + len.min(PATTERN_BYTES)]
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

/// The first `size` bytes of a body, for small ones.
pub fn whole(seed: u64, size: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(size);
    let mut scratch = [0; 8];
    while body.len() < size {
        let piece = window(seed, body.len() as u64, size - body.len(), &mut scratch);
        body.extend_from_slice(piece);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_matches_itself_at_every_offset_and_no_other() {
        let (seed, other) = (seed_of("a"), seed_of("b"));
        let body = whole(seed, 3 << 20);
        for (from, to) in [(0, 3), (3, 20), (7, 9), (1 << 20, 3 << 20), (0, 3 << 20)] {
            assert!(matches(seed, from as u64, &body[from..to]), "{from}..{to}");
            assert!(!matches(other, from as u64, &body[from..to]), "{from}..{to} of another object");
        }
    }
}
