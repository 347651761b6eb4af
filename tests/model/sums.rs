//! Checksums by their definitions, a byte at a time: what the product combines and computes otherwise is compared with this.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use data_encoding::BASE64;
use std::sync::LazyLock;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Crc32,
    Crc32c,
    Crc64nvme,
    Sha1,
    Sha256,
}

pub const KINDS: [Kind; 5] = [Kind::Crc32, Kind::Crc32c, Kind::Crc64nvme, Kind::Sha1, Kind::Sha256];

impl Kind {
    /// As `x-amz-checksum-algorithm` and the documents spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    pub fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// Of a whole object ("Checking object integrity": the CRCs alone can be, CRC64NVME must be).
    pub fn can_be_full(self) -> bool {
        matches!(self, Self::Crc32 | Self::Crc32c | Self::Crc64nvme)
    }

    pub fn can_be_composite(self) -> bool {
        self != Self::Crc64nvme
    }

    fn raw(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Crc32 => (crc(&CRC32, bytes) as u32).to_be_bytes().into(),
            Self::Crc32c => (crc(&CRC32C, bytes) as u32).to_be_bytes().into(),
            Self::Crc64nvme => crc(&CRC64NVME, bytes).to_be_bytes().into(),
            Self::Sha1 => digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref().into(),
            Self::Sha256 => digest(&SHA256, bytes).as_ref().into(),
        }
    }

    /// In base64.
    pub fn of(self, bytes: &[u8]) -> String {
        BASE64.encode(&self.raw(bytes))
    }

    /// The checksum of the parts' checksums, with their number.
    pub fn of_parts<'a>(self, parts: impl Iterator<Item = &'a [u8]>) -> String {
        let raw: Vec<Vec<u8>> = parts.map(|part| self.raw(part)).collect();
        format!("{}-{}", self.of(&raw.concat()), raw.len())
    }

    /// Of this kind's length, and of no body that is sent here.
    pub fn wrong(self) -> String {
        BASE64.encode(&vec![0xff; self.raw(b"").len()])
    }
}

type Table = LazyLock<([u64; 256], u64)>;

/// Both polynomials with their bits reversed, as the specifications of zlib, iSCSI and NVMe give them.
static CRC32: Table = LazyLock::new(|| table(0xedb8_8320, 32));
static CRC32C: Table = LazyLock::new(|| table(0x82f6_3b78, 32));
static CRC64NVME: Table = LazyLock::new(|| table(0x9a6c_9329_ac4b_c9b5, 64));

fn table(polynomial: u64, bits: u32) -> ([u64; 256], u64) {
    let step = |crc: u64, _| if crc & 1 == 1 { crc >> 1 ^ polynomial } else { crc >> 1 };
    (std::array::from_fn(|byte| (0..8).fold(byte as u64, step)), u64::MAX >> (64 - bits))
}

fn crc((table, mask): &([u64; 256], u64), bytes: &[u8]) -> u64 {
    let step = |crc: u64, byte: &u8| crc >> 8 ^ table[(crc as u8 ^ byte) as usize];
    bytes.iter().fold(*mask, step) ^ mask
}

/// Check values of the catalogues, and of FIPS 180.
#[test]
fn sums_of_the_nine_digits() {
    for (kind, want) in [
        (Kind::Crc32, "cbf43926"),
        (Kind::Crc32c, "e3069283"),
        (Kind::Crc64nvme, "ae8b14860a799888"),
        (Kind::Sha1, "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
        (Kind::Sha256, "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
    ] {
        assert_eq!(data_encoding::HEXLOWER.encode(&kind.raw(b"123456789")), want, "{kind:?}");
    }
}
