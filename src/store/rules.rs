//! Decisions that every database makes the same way: pure functions of what its rows say. Called by the stores only.

use super::change::Refusal;
use super::record::PartRecord;
use crate::base::limits::{OBJECT_BYTES_MAX, PART_BYTES_MIN};
use crate::base::{Nonce, PartNumber, Timestamp, UploadId, Version};
use crate::proto::date;

/// Versions that one call of a scan over all versions examines, so that no read transaction is long.
pub const SCAN_VERSIONS_MAX: u32 = 1000;
/// Uploads that one `ForgetOld` removes, each with up to 10 000 parts.
pub const FORGET_UPLOADS_MAX: u32 = 100;
/// How long the outcome of a batch is remembered.
pub const BATCH_KEPT: std::time::Duration = std::time::Duration::from_secs(3600);
/// How long an ended upload is remembered at least.
pub const UPLOAD_KEPT: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// Leases of months before this one (`YYYY-MM`) have had their time: the last two months are kept, whatever an instance's
/// clock says.
pub fn oldest_leases(now: Timestamp) -> String {
    date::month(now.minus(std::time::Duration::from_secs(62 * 24 * 3600)))
}

/// A version by the database's clock, above `floor`, the highest version of the key that a row names. Where the clock does
/// not reach (many writes in a millisecond, a clock that was set back), the floor's millisecond is outbid. `chance` differs
/// between attempts, so a version is never given twice to a key, not even after every row that named it is gone.
pub fn mint_version(now: Timestamp, floor: Option<Version>, chance: u128) -> Version {
    let by_clock = Version::from_parts(u64::try_from(now.millis).unwrap_or(0), chance);
    match floor {
        Some(floor) if floor >= by_clock => Version::from_parts(floor.millis() + 1, chance),
        _ => by_clock,
    }
}

/// When a version was minted, or later (`mint_version`).
pub fn version_time(version: Version) -> Timestamp {
    Timestamp { millis: i64::try_from(version.millis()).unwrap_or(i64::MAX) }
}

/// The 80 bits of chance of a version: the ten characters of the attempt's nonce.
pub fn chance_of_nonce(nonce: Nonce) -> u128 {
    nonce.as_str().bytes().fold(0, |bits, byte| bits << 8 | u128::from(byte))
}

/// The 80 bits of chance of an upload's version: the last 20 of its 32 hex digits.
pub fn chance_of_upload(upload: &UploadId) -> u128 {
    u128::from_str_radix(&upload.as_str()[12..], 16).expect("an upload id is hex")
}

/// The parts that a manifest names, in its order, and the object's size; or why it is refused. `part` finds a stored part.
pub fn check_manifest(
    manifest: &[(PartNumber, String)],
    enforce_min_part_size: bool,
    part: impl Fn(PartNumber) -> Option<PartRecord>,
) -> Result<(Vec<PartRecord>, u64), Refusal> {
    if manifest.is_empty() {
        return Err(Refusal::InvalidPart);
    }
    if manifest.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
        return Err(Refusal::InvalidPartOrder);
    }
    let mut parts = Vec::with_capacity(manifest.len());
    for (number, etag) in manifest {
        parts.push(part(*number).filter(|stored| stored.etag == *etag).ok_or(Refusal::InvalidPart)?);
    }
    let all_but_last = &parts[..parts.len() - 1];
    if enforce_min_part_size && all_but_last.iter().any(|part| part.size < PART_BYTES_MIN) {
        return Err(Refusal::EntityTooSmall);
    }
    let size = parts.iter().map(|part| part.size).sum();
    if size > OBJECT_BYTES_MAX { Err(Refusal::EntityTooLarge) } else { Ok((parts, size)) }
}

/// A restored database does not know which numbers were given out since its backup: at least so many are skipped.
pub const NUMBERS_SKIPPED: i64 = 1_000_000_000;

/// The number that counts as the last one given out then: the same whether some were taken in advance or not.
pub fn skipped(last: i64) -> i64 {
    (last / NUMBERS_SKIPPED + 2) * NUMBERS_SKIPPED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_above_its_floor_whatever_the_clock_says() {
        let now = Timestamp { millis: 1_000 };
        assert_eq!(mint_version(now, None, 7), Version::from_parts(1_000, 7));
        let older = Version::from_parts(999, u128::MAX);
        assert_eq!(mint_version(now, Some(older), 7), Version::from_parts(1_000, 7));
        for ahead in [1_000, 5_000] {
            let floor = Version::from_parts(ahead, 7);
            assert_eq!(mint_version(now, Some(floor), 7), Version::from_parts(ahead + 1, 7));
            assert_eq!(mint_version(now, Some(floor), 3), Version::from_parts(ahead + 1, 3));
        }
        assert_eq!(mint_version(Timestamp { millis: -5 }, None, 0), Version::from_parts(0, 0));
    }

    fn check(sizes: &[u64], manifest: &[(u16, &str)], want: Result<u64, Refusal>) {
        let stored = |number: PartNumber| {
            let size = *sizes.get(usize::from(number.get()) - 1)?;
            let etag = format!("e{}", number.get());
            Some(PartRecord {
                number: number.get(),
                size,
                etag,
                backend_etag: String::new(),
                checksums: Vec::new(),
                modified_ms: 0,
            })
        };
        let manifest: Vec<_> =
            manifest.iter().map(|(number, etag)| (PartNumber::new(*number).unwrap(), (*etag).to_owned())).collect();
        let got = check_manifest(&manifest, true, stored).map(|(_, size)| size);
        assert_eq!(got, want, "{manifest:?} of parts {sizes:?}");
    }

    #[test]
    fn manifests() {
        const BIG: u64 = PART_BYTES_MIN;
        check(&[BIG, 1], &[(1, "e1"), (2, "e2")], Ok(BIG + 1));
        check(&[BIG, BIG, 1], &[(1, "e1"), (3, "e3")], Ok(BIG + 1));
        check(&[1], &[(1, "e1")], Ok(1));
        check(&[0], &[(1, "e1")], Ok(0));
        check(&[BIG, 1], &[], Err(Refusal::InvalidPart));
        check(&[BIG, 1], &[(2, "e2"), (1, "e1")], Err(Refusal::InvalidPartOrder));
        check(&[BIG, 1], &[(1, "e1"), (1, "e1")], Err(Refusal::InvalidPartOrder));
        check(&[BIG, 1], &[(1, "e2")], Err(Refusal::InvalidPart));
        check(&[BIG, 1], &[(1, "e1"), (3, "e3")], Err(Refusal::InvalidPart));
        check(&[BIG - 1, 1], &[(1, "e1"), (2, "e2")], Err(Refusal::EntityTooSmall));
        check(&[OBJECT_BYTES_MAX, 1], &[(1, "e1"), (2, "e2")], Err(Refusal::EntityTooLarge));
    }
}
