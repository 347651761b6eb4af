//! The checksum of a completed upload out of those of its parts ("Checking object integrity", multipart uploads).

use super::{Algorithm, Checksum, Digester};
use crc_fast::CrcAlgorithm;

/// FULL_OBJECT: the checksum that the whole object has, computed from its parts' checksums and lengths in order, without
/// the bytes. None for algorithms where that is impossible, for parts of mixed algorithms, and for no parts.
pub fn full_object(parts: impl IntoIterator<Item = (Checksum, u64)>) -> Option<Checksum> {
    parts.into_iter().try_fold(None, |sum: Option<Checksum>, (part, bytes)| {
        let joined = match sum {
            None => join_first(part)?,
            Some(sum) => join(sum, part, bytes)?,
        };
        Some(Some(joined))
    })?
}

/// COMPOSITE: the checksum of the parts' checksums put together, and the number of parts; shown as `{base64}-{number}`.
/// None for parts of mixed algorithms, for no parts, and for CRC64NVME, which S3 has as FULL_OBJECT only.
pub fn composite(parts: impl IntoIterator<Item = Checksum>) -> Option<(Checksum, u32)> {
    let mut parts = parts.into_iter().peekable();
    let algorithm = parts.peek()?.algorithm();
    let mut digester = Digester::new(algorithm);
    let mut count = 0;
    for part in parts {
        if part.algorithm() != algorithm {
            return None;
        }
        digester.update(part.as_bytes());
        count += 1;
    }
    (algorithm != Algorithm::Crc64Nvme).then(|| (digester.finish(), count))
}

fn join_first(part: Checksum) -> Option<Checksum> {
    matches!(part.algorithm(), Algorithm::Crc32 | Algorithm::Crc32c | Algorithm::Crc64Nvme).then_some(part)
}

/// The checksum of what has `first`, followed by `second_bytes` bytes that have `second`.
fn join(first: Checksum, second: Checksum, second_bytes: u64) -> Option<Checksum> {
    if first.algorithm() != second.algorithm() {
        return None;
    }
    let number = |checksum: &Checksum| checksum.as_bytes().iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
    let (one, two) = (number(&first), number(&second));
    match first.algorithm() {
        Algorithm::Crc32 => {
            let mut sum = crc32fast::Hasher::new_with_initial(u32::try_from(one).ok()?);
            sum.combine(&crc32fast::Hasher::new_with_initial_len(u32::try_from(two).ok()?, second_bytes));
            Checksum::new(Algorithm::Crc32, &sum.finalize().to_be_bytes())
        }
        Algorithm::Crc32c => {
            let sum = crc_fast::checksum_combine(CrcAlgorithm::Crc32Iscsi, one, two, second_bytes);
            Checksum::new(Algorithm::Crc32c, &u32::try_from(sum).ok()?.to_be_bytes())
        }
        Algorithm::Crc64Nvme => {
            let sum = crc_fast::checksum_combine(CrcAlgorithm::Crc64Nvme, one, two, second_bytes);
            Checksum::new(Algorithm::Crc64Nvme, &sum.to_be_bytes())
        }
        Algorithm::Sha1 | Algorithm::Sha256 | Algorithm::Md5 => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts_of(algorithm: Algorithm, parts: &[Vec<u8>]) -> Vec<(Checksum, u64)> {
        parts.iter().map(|part| (Digester::of(algorithm, part), part.len() as u64)).collect()
    }

    proptest! {
        #[test]
        fn parts_join_to_the_checksum_of_the_whole(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 1..8)
        ) {
            let whole = parts.concat();
            for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
                let joined = full_object(parts_of(algorithm, &parts));
                prop_assert_eq!(joined, Some(Digester::of(algorithm, &whole)), "{:?}", algorithm);
            }
        }
    }

    #[test]
    fn digests_have_no_full_object_form() {
        for algorithm in [Algorithm::Sha1, Algorithm::Sha256, Algorithm::Md5] {
            assert_eq!(full_object(parts_of(algorithm, &[b"a".to_vec()])), None);
        }
        assert_eq!(full_object([]), None);
        let mixed = [Digester::of(Algorithm::Crc32, b"a"), Digester::of(Algorithm::Crc32c, b"a")];
        assert_eq!(full_object(mixed.map(|checksum| (checksum, 1))), None);
        assert_eq!(composite(mixed), None);
    }

    #[test]
    fn composites_are_checksums_of_checksums() {
        let parts = [&b"hello "[..], b"world"];
        for algorithm in Algorithm::ALL {
            let values = parts.map(|part| Digester::of(algorithm, part));
            let together: Vec<u8> = values.iter().flat_map(|value| value.as_bytes().to_vec()).collect();
            let want = (algorithm != Algorithm::Crc64Nvme).then(|| (Digester::of(algorithm, &together), 2));
            assert_eq!(composite(values), want, "{algorithm:?}");
        }
        assert_eq!(composite([]), None);
    }
}
