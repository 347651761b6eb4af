//! What the disk itself can do, as a measure for whoever waits for it.

use anyhow::{Context, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// What a database syncs for a small transaction: a few pages of its log.
const SYNCED_BYTES: usize = 16 * 1024;
/// The log is overwritten from its start again and again, as a database's is, so no sync has to make the file longer.
const LOG_BYTES: u64 = 4 << 20;

/// How often a second one thread can overwrite some bytes of a file and have them on the disk.
#[allow(clippy::disallowed_methods)] // a bench's clock is the wall's
pub fn syncs_per_second(dir: &Path, time: Duration) -> Result<f64> {
    let path = dir.join("sync-probe");
    let file = File::create(&path).context("sync probe")?;
    let bytes = vec![0x5a; SYNCED_BYTES];
    for at in (0..LOG_BYTES).step_by(SYNCED_BYTES) {
        file.write_all_at(&bytes, at)?;
    }
    file.sync_all()?;
    let start = Instant::now();
    let mut count = 0_u64;
    while start.elapsed() < time {
        file.write_all_at(&bytes, count * SYNCED_BYTES as u64 % LOG_BYTES)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}
