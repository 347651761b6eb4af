//! A quick keyed hash of short texts, for tables of one process: every request asks several, and the standard library's hash
//! costs such texts more to set up than to read.
//!
//! Words of eight bytes are multiplied into the state, both halves of the product folded into one. Who does not know the
//! seed cannot choose texts that collide; it protects nothing else.

/// The first 128 bits of pi's fraction: odd, and no pattern in them.
const FIRST: u64 = 0x243f_6a88_85a3_08d3;
const SECOND: u64 = 0x1319_8a2e_0370_7345;

/// The hash of several texts one after another; where one ends counts.
pub fn text_hash(seed: u64, texts: &[&str]) -> u64 {
    let mut state = seed ^ SECOND;
    for text in texts {
        let (words, rest) = text.as_bytes().as_chunks::<8>();
        for word in words {
            state = folded(state ^ u64::from_le_bytes(*word), FIRST);
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        // Zeros may also be text: the length tells.
        state = folded(state ^ u64::from_le_bytes(last), SECOND ^ ((text.len() as u64) << 1));
    }
    folded(state, FIRST)
}

fn folded(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn everything_counts() {
        let texts: [&[&str]; 9] =
            [&[], &[""], &["", ""], &["\0"], &["a", "b"], &["b", "a"], &["ab", ""], &["ab"], &["", "ab"]];
        let hashes: HashSet<_> = texts.iter().flat_map(|text| [text_hash(1, text), text_hash(2, text)]).collect();
        assert_eq!(hashes.len(), 2 * texts.len());
    }

    #[test]
    fn keys_that_are_alike_are_spread_evenly() {
        for bits in [0, 32, 56] {
            let mut places = [0_u32; 256];
            for number in 0..25_600 {
                let key = format!("load/4096/{number:08}");
                places[(text_hash(7, &["photos", &key]) >> bits) as usize & 255] += 1;
            }
            // A hundred each, give or take: far out, 50 and 160 are five and six deviations away.
            assert!(places.iter().all(|count| (50..160).contains(count)), "from bit {bits}: {places:?}");
        }
    }
}
