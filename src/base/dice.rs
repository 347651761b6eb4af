//! Chance as an argument: nonces, jitter, request ids. The simulator's dice are seeded.

/// A source of random bits. The real one is seeded by the operating system per thread.
pub trait Dice {
    fn roll(&self) -> u64;
}
