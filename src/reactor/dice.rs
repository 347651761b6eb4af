//! A core's dice: xoshiro256++ seeded by the operating system. For nonces, jitter and request ids; never for keys.

use crate::base::Dice;
use rustix::rand::{GetRandomFlags, getrandom};
use std::cell::Cell;
use std::io;

#[derive(Debug)]
pub struct CoreDice {
    state: Cell<[u64; 4]>,
}

impl CoreDice {
    /// Fails only where the kernel has no `getrandom`.
    pub fn from_system() -> io::Result<Self> {
        let mut seed = [0u8; 32];
        let mut filled = 0;
        while filled < seed.len() {
            match getrandom(&mut seed[filled..], GetRandomFlags::empty()) {
                Ok(count) => filled += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(cause) => return Err(cause.into()),
            }
        }
        let mut state = [0; 4];
        for (word, bytes) in state.iter_mut().zip(seed.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().expect("chunks of eight"));
        }
        // All zeros is the one state that stays.
        state[0] |= 1;
        Ok(Self { state: Cell::new(state) })
    }
}

impl Dice for CoreDice {
    /// David Blackman and Sebastiano Vigna, "xoshiro256++ 1.0" (public domain).
    fn roll(&self) -> u64 {
        let mut s = self.state.get();
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let shifted = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= shifted;
        s[3] = s[3].rotate_left(45);
        self.state.set(s);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_sequence() {
        let dice = CoreDice { state: Cell::new([1, 2, 3, 4]) };
        let rolls: Vec<u64> = (0..4).map(|_| dice.roll()).collect();
        assert_eq!(rolls, [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386]);
    }

    #[test]
    fn two_dice_differ() {
        let (one, other) = (CoreDice::from_system().expect("seeded"), CoreDice::from_system().expect("seeded"));
        assert_ne!((one.roll(), one.roll()), (other.roll(), other.roll()));
    }
}
