//! The name of one request, for its answer (`x-amz-request-id`), its error body, its audit line and its log events.

use std::fmt;

/// 16 upper-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId([u8; Self::CHARS]);

impl RequestId {
    pub const CHARS: usize = 16;
    /// Of a request that never got one.
    pub const ZERO: Self = Self([b'0'; Self::CHARS]);

    pub fn from_roll(roll: u64) -> Self {
        const HEX: &[u8; 16] = b"0123456789ABCDEF";
        let mut text = [0; Self::CHARS];
        for (i, slot) in text.iter_mut().rev().enumerate() {
            *slot = HEX[(roll >> (4 * i)) as usize & 15];
        }
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hex digits are ASCII")
    }
}

impl AsRef<[u8]> for RequestId {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_counts() {
        assert_eq!(RequestId::from_roll(0).as_str(), "0000000000000000");
        assert_eq!(RequestId::from_roll(0x0123_4567_89AB_CDEF).as_str(), "0123456789ABCDEF");
        assert_eq!(RequestId::from_roll(u64::MAX).as_str(), "FFFFFFFFFFFFFFFF");
    }
}
