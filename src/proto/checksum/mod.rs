//! Checksums of bodies: what a client declared ([`Declared`]), what the bytes give ([`Inspector`]), and what the parts of
//! an upload give together ([`full_object`], [`composite`]).
//!
//! Called by the write handlers and the copy pass. Never does IO; whoever moves the bytes passes them by once.

mod combine;
mod declared;
mod digest;

pub use combine::{composite, full_object};
pub use declared::{Declared, fuzz_one};
pub use digest::{Digester, Digests, Inspector};

/// The checksums that S3 knows and we do. SHA-512 and the XXHash family are refused by name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
    Md5,
}

impl Algorithm {
    pub const ALL: [Self; 6] = [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256, Self::Md5];

    /// As `x-amz-checksum-algorithm` and the XML documents spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
            Self::Md5 => "MD5",
        }
    }

    /// The header or trailer that carries the value, in lower case.
    pub fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
            Self::Md5 => "x-amz-checksum-md5",
        }
    }

    /// Length of the value in bytes.
    pub fn value_bytes(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Md5 => 16,
        }
    }

    /// From its name, in any case.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    /// From the name of its header or trailer, in any case.
    pub fn from_header(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.header().as_bytes().eq_ignore_ascii_case(name))
    }
}

/// A set of algorithms.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Algorithms(u8);

impl Algorithms {
    pub const NONE: Self = Self(0);

    #[must_use]
    pub fn with(self, algorithm: Algorithm) -> Self {
        Self(self.0 | 1 << algorithm as u8)
    }

    #[must_use]
    pub fn and(self, others: impl IntoIterator<Item = Algorithm>) -> Self {
        others.into_iter().fold(self, Self::with)
    }

    #[must_use]
    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    pub fn contains(self, algorithm: Algorithm) -> bool {
        self.0 & 1 << algorithm as u8 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = Algorithm> {
        Algorithm::ALL.into_iter().filter(move |&algorithm| self.contains(algorithm))
    }
}

/// The value of a checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checksum {
    algorithm: Algorithm,
    /// Zero beyond the algorithm's length.
    bytes: [u8; 32],
}

impl Checksum {
    /// None when the length is not the algorithm's.
    pub fn new(algorithm: Algorithm, value: &[u8]) -> Option<Self> {
        let mut bytes = [0; 32];
        bytes.get_mut(..value.len())?.copy_from_slice(value);
        (value.len() == algorithm.value_bytes()).then_some(Self { algorithm, bytes })
    }

    /// From base64 as on the wire: padded, nothing around it, no stray bits.
    pub fn parse(algorithm: Algorithm, base64: &[u8]) -> Option<Self> {
        let mut bytes = [0; 33];
        let room = bytes.get_mut(..data_encoding::BASE64.decode_len(base64.len()).ok()?)?;
        let used = data_encoding::BASE64.decode_mut(base64, room).ok()?;
        Self::new(algorithm, &bytes[..used])
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.value_bytes()]
    }

    pub fn to_base64(&self) -> String {
        data_encoding::BASE64.encode(self.as_bytes())
    }

    /// As base64 in a buffer of the caller's.
    pub fn write_base64<'b>(&self, buffer: &'b mut [u8; 44]) -> &'b str {
        let room = &mut buffer[..data_encoding::BASE64.encode_len(self.algorithm.value_bytes())];
        data_encoding::BASE64.encode_mut_str(self.as_bytes(), room)
    }

    /// The MD5 itself, if it is one.
    pub fn md5(&self) -> Option<[u8; 16]> {
        self.as_bytes().try_into().ok().filter(|_| self.algorithm == Algorithm::Md5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::parse(algorithm.name()), Some(algorithm));
            assert_eq!(Algorithm::parse(&algorithm.name().to_lowercase()), Some(algorithm));
            assert_eq!(Algorithm::from_header(algorithm.header().as_bytes()), Some(algorithm));
            assert_eq!(Algorithm::from_header(algorithm.header().to_uppercase().as_bytes()), Some(algorithm));
            assert_eq!(algorithm.header(), format!("x-amz-checksum-{}", algorithm.name().to_lowercase()));
        }
        assert_eq!(Algorithm::parse("SHA512"), None);
        assert_eq!(Algorithm::from_header(b"x-amz-checksum-"), None);
    }

    #[test]
    fn sets() {
        let set = Algorithms::NONE.with(Algorithm::Md5).and([Algorithm::Crc32, Algorithm::Md5]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [Algorithm::Crc32, Algorithm::Md5]);
        assert_eq!(set.without(Algorithms::NONE.with(Algorithm::Md5)).iter().collect::<Vec<_>>(), [Algorithm::Crc32]);
        assert!(Algorithms::NONE.is_empty() && !set.is_empty() && !set.contains(Algorithm::Sha1));
    }

    fn check(algorithm: Algorithm, base64: &str, good: bool) {
        let parsed = Checksum::parse(algorithm, base64.as_bytes());
        assert_eq!(parsed.is_some(), good, "{algorithm:?} {base64:?}");
        if let Some(checksum) = parsed {
            assert_eq!((checksum.to_base64().as_str(), checksum.write_base64(&mut [0; 44])), (base64, base64));
            assert_eq!(Checksum::new(algorithm, checksum.as_bytes()), Some(checksum));
        }
    }

    #[test]
    fn base64_is_strict() {
        check(Algorithm::Crc32, "AAAAAA==", true);
        check(Algorithm::Crc32c, "sOO8/Q==", true);
        check(Algorithm::Crc64Nvme, "rosUhgy5XYM=", true);
        check(Algorithm::Sha1, "qvTGHdzF6KLavt4PO0gs2a6pQ00=", true);
        check(Algorithm::Sha256, "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", true);
        check(Algorithm::Md5, "1B2M2Y8AsgTpgAmY7PhCfg==", true);
        for bad in [
            "",
            "=",
            "AAAAAA",
            "AAAAAA=",
            " AAAAAA==",
            "AAAAAA== ",
            "AAAAAB==",
            "AAAA/w",
            "AAAA_w==",
            "AAAA",
            "AAAAAAA=",
        ] {
            check(Algorithm::Crc32, bad, false);
        }
        check(Algorithm::Sha256, "1B2M2Y8AsgTpgAmY7PhCfg==", false);
        check(Algorithm::Sha256, &"A".repeat(88), false);
    }
}
