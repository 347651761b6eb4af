//! The names of things, parsed at the edge: a value of these types is valid.

use super::clock::Timestamp;
use super::limits::{KEY_BYTES_MAX, PARTS_MAX};
use std::fmt;
use std::sync::Arc;

/// A virtual bucket's name, by S3's naming rules ("General purpose bucket naming rules"), minus our reserved names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BucketName(Arc<str>);

impl BucketName {
    /// Paths of our own on the main port; no bucket may hide them.
    pub const RESERVED: [&'static str; 2] = ["health", "metrics"];

    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let well_formed = (3..=63).contains(&bytes.len())
            && bytes.iter().all(|&b| edge(b) || b == b'-' || b == b'.')
            && edge(bytes[0])
            && edge(bytes[bytes.len() - 1])
            && !text.contains("..")
            && text.parse::<std::net::Ipv4Addr>().is_err();
        (well_formed && !Self::RESERVED.contains(&text)).then(|| Self(text.into()))
    }

    /// A name that may be given to a new bucket: S3 keeps more names to itself than it can read. (It also keeps
    /// `amzn-s3-demo-…`, which its guides use.)
    pub fn parse_new(text: &str) -> Option<Self> {
        const PREFIXES: [&str; 2] = ["xn--", "sthree-"];
        const SUFFIXES: [&str; 5] = ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"];
        let kept = PREFIXES.iter().any(|prefix| text.starts_with(prefix))
            || SUFFIXES.iter().any(|suffix| text.ends_with(suffix))
            || text.contains(".-")
            || text.contains("-.");
        Self::parse(text).filter(|_| !kept)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An object key: 1 to 1024 bytes of UTF-8, any characters, ordered by bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectKey(Box<str>);

impl ObjectKey {
    pub fn parse(text: &str) -> Option<Self> {
        (1..=KEY_BYTES_MAX).contains(&text.len()).then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A backend's name as written in the configuration; rows may name backends that the configuration no longer has.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BackendName(Arc<str>);

impl BackendName {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Row id of a blob. Never reused, so a late answer about one blob cannot be taken for another's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlobId(pub i64);

/// One run of one instance, numbered by the database.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Incarnation(pub i64);

/// A version of an object: a ULID, 26 characters of Crockford's base32 that sort by time. Minted by the store, above
/// every version of the key that a row names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version([u8; Self::CHARS]);

const BASE32: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// On every read of a version, so without a search.
fn is_base32(byte: u8) -> bool {
    IS_BASE32[usize::from(byte)]
}

const IS_BASE32: [bool; 256] = {
    let mut table = [false; 256];
    let mut at = 0;
    while at < BASE32.len() {
        table[BASE32[at] as usize] = true;
        at += 1;
    }
    table
};

impl Version {
    pub const CHARS: usize = 26;

    /// From 48 bits of milliseconds and 80 bits of chance (ULID specification).
    pub fn from_parts(millis: u64, chance: u128) -> Self {
        Self::from_bits((u128::from(millis) & ((1 << 48) - 1)) << 80 | (chance & ((1 << 80) - 1)))
    }

    fn from_bits(bits: u128) -> Self {
        let mut text = [0; Self::CHARS];
        for (i, slot) in text.iter_mut().rev().enumerate() {
            *slot = BASE32[(bits >> (5 * i)) as usize & 31];
        }
        Self(text)
    }

    fn bits(self) -> u128 {
        let digit = |b: u8| BASE32.iter().position(|&c| c == b).expect("a version holds base32 digits only") as u128;
        self.0.iter().fold(0, |bits, &b| bits << 5 | digit(b))
    }

    /// The smallest version above this one.
    pub fn successor(self) -> Self {
        Self::from_bits(self.bits() + 1)
    }

    /// Milliseconds since 1970 of its minting, or later if a newer version had to be outbid.
    pub fn millis(self) -> u64 {
        (self.bits() >> 80) as u64
    }

    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; Self::CHARS] = text.as_bytes().try_into().ok()?;
        (bytes[0] <= b'7' && bytes.iter().all(|&b| is_base32(b))).then_some(Self(bytes))
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a version holds ASCII only")
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Ten random base32 characters that make every attempt's backend key new.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Nonce([u8; Self::CHARS]);

impl Nonce {
    pub const CHARS: usize = 10;

    pub fn from_roll(roll: u64) -> Self {
        let mut text = [0; Self::CHARS];
        for (i, slot) in text.iter_mut().enumerate() {
            *slot = BASE32[(roll >> (5 * i)) as usize & 31];
        }
        Self(text)
    }

    /// The bits of the roll that it was made of, 50 of them.
    pub fn bits(&self) -> u64 {
        let place = |byte: u8| BASE32.iter().position(|&one| one == byte).unwrap_or(0) as u64;
        self.0.iter().rev().fold(0, |bits, &byte| bits << 5 | place(byte))
    }

    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; Self::CHARS] = text.as_bytes().try_into().ok()?;
        bytes.iter().all(|&b| is_base32(b)).then_some(Self(bytes))
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a nonce holds ASCII only")
    }
}

/// A multipart upload, as clients see it: 32 lowercase hex digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UploadId(Box<str>);

impl UploadId {
    pub fn from_rolls(high: u64, low: u64) -> Self {
        Self(format!("{high:016x}{low:016x}").into())
    }

    /// A new one. The first twelve digits are its time, so that the order of ids is that in which uploads were begun; the
    /// other twenty are chance.
    pub fn new(now: Timestamp, high: u64, low: u64) -> Self {
        const TIME_BITS: u64 = 0xffff_ffff_ffff;
        let millis = u64::try_from(now.millis).unwrap_or(0) & TIME_BITS;
        Self::from_rolls(millis << 16 | high & 0xffff, low)
    }

    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        (text.len() == 32 && hex).then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// 1 to 10 000.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PartNumber(u16);

impl PartNumber {
    pub fn new(number: u16) -> Option<Self> {
        (1..=PARTS_MAX).contains(&number).then_some(Self(number))
    }

    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok().and_then(Self::new)
    }

    pub fn get(self) -> u16 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_names() {
        for good in ["abc", "a.b-c", "123", &"a".repeat(63)] {
            assert!(BucketName::parse(good).is_some(), "{good}");
        }
        for bad in ["", "ab", "Abc", "a_b", "-ab", "ab-", "a..b", "1.2.3.4", "health", "metrics", &"a".repeat(64)] {
            assert!(BucketName::parse(bad).is_none(), "{bad}");
        }
        for kept in ["a.-b", "a-.b", "xn--ab", "sthree-a", "a-s3alias", "a--ol-s3", "a.mrap", "a--x-s3", "a--table-s3"]
        {
            assert!(BucketName::parse(kept).is_some() && BucketName::parse_new(kept).is_none(), "{kept}");
        }
        for good in ["a.b-c", "a--b", "amzn-s3-demo-bucket", "mrap"] {
            assert!(BucketName::parse_new(good).is_some(), "{good}");
        }
        assert!(BucketName::parse_new("ab").is_none());
    }

    #[test]
    fn a_version_survives_its_text_and_sorts_by_time() {
        let early = Version::from_parts(1_700_000_000_000, u128::MAX);
        let late = Version::from_parts(1_700_000_000_001, 0);
        assert!(early < late && early.as_str() < late.as_str());
        assert_eq!(Version::parse(early.as_str()), Some(early));
        assert_eq!(early.successor(), late, "a full chance field carries into the time");
        assert_eq!(late.millis(), 1_700_000_000_001);
        assert!(Version::parse("8ZZZZZZZZZZZZZZZZZZZZZZZZZ").is_none(), "over 128 bits");
        assert!((0..=255).all(|byte| is_base32(byte) == BASE32.contains(&byte)));
    }

    #[test]
    fn upload_ids_sort_by_time_and_end_in_chance() {
        let at = |millis, high, low| UploadId::new(Timestamp { millis }, high, low);
        assert!(at(1_700_000_000_000, u64::MAX, u64::MAX) < at(1_700_000_000_001, 0, 0));
        assert_eq!(at(0x123, 0xffff_0007, 9).as_str(), "00000000012300070000000000000009");
        assert!(UploadId::parse(at(-1, 1, 2).as_str()).is_some());
    }

    #[test]
    fn part_numbers_end_at_ten_thousand() {
        assert!(PartNumber::parse("1").is_some() && PartNumber::parse("10000").is_some());
        for bad in ["0", "10001", "-1", "", "a", "70000"] {
            assert!(PartNumber::parse(bad).is_none(), "{bad}");
        }
    }
}
