//! `put-small`: how many small objects a second become durable. 64 writers, new keys, SQLite with synchronous=FULL, a
//! stub that answers at once; beside it, in turn, how many times a second the disk can be made to write something.

use crate::contestant::{Ground, Product};
use crate::figures::{Outcome, Verdict, median};
use crate::rounds::{self, Load, Pace};
use anyhow::{Context, Result};
use loadtest::client::Payload;
use loadtest::load::{Plan, Verb};
use loadtest::report::Report;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const WRITERS: usize = 64;
const BYTES: u64 = 1024;
const RATE_MIN: f64 = 5000.0;
/// What SQLite syncs for a small transaction: a few pages of its log.
const SYNCED_BYTES: usize = 16 * 1024;
/// The log is overwritten from its start again and again, as SQLite's is, so no sync has to make the file longer.
const LOG_BYTES: u64 = 4 << 20;

pub fn put_small(ground: &Ground, pace: Pace) -> Result<Outcome> {
    let mut outcome = Outcome::new("PUT of 1 KiB under new keys, 64 writers", ["median", "least", "most"]);
    let product = Product::start(ground, "put-small", false)?;
    let (mut rates, mut costs, mut p99s, mut syncs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..pace.rounds {
        println!("round {} of {}", round + 1, pace.rounds);
        syncs.push(syncs_per_second(&ground.dir, Duration::from_secs_f64(pace.seconds / 3.0))?);
        let before = product.process.cpu()?;
        let report = put(product.address, &format!("round-{round}/"), pace.seconds)?;
        let cpu = product.process.cpu()?.saturating_sub(before);
        rates.push(report.count() as f64 / report.elapsed.as_secs_f64());
        costs.push(cpu.as_secs_f64() * 1e6 / report.count() as f64);
        p99s.push(report.operations.values().map(|one| one.latency_us(0.99)).max().unwrap_or(0) as f64 / 1e3);
    }
    drop(product);
    let (rate, sync_rate) = (median(rates.iter().copied()), median(syncs.iter().copied()));
    for (label, values) in [
        ("PUTs per second", &rates),
        ("CPU us per PUT", &costs),
        ("p99 ms", &p99s),
        ("serial fdatasync per second", &syncs),
    ] {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        outcome.row(label, [median(values.iter().copied()), least, most]);
    }
    outcome.verdicts.push(Verdict::at_least("PUTs per second", rate, RATE_MIN.min(sync_rate)));
    outcome.notes.push(match syncs_per_put(ground, pace) {
        Ok((syncs, puts)) => format!(
            "{:.3} fsyncs per PUT ({syncs} for {puts}, counted by strace in a run of its own)",
            syncs as f64 / puts as f64
        ),
        Err(error) => format!("fsyncs per PUT not counted: {error:#}"),
    });
    Ok(outcome)
}

fn put(address: SocketAddr, prefix: &str, seconds: f64) -> Result<Report> {
    let load = Load { verb: Verb::Put, size: BYTES, connections: WRITERS, keys: u64::MAX, payload: Payload::Auto };
    let plan = load.plan(&address.to_string(), Duration::from_secs_f64(seconds));
    rounds::run(&Plan { prefix: prefix.to_owned(), ..plan })
}

/// How often a second one thread can overwrite some bytes of a file and have them on the disk.
#[allow(clippy::disallowed_methods)] // a bench's clock is the wall's
fn syncs_per_second(dir: &Path, time: Duration) -> Result<f64> {
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

/// Syncs of any kind, and PUTs, of a run under strace, which slows only the calls that it counts.
fn syncs_per_put(ground: &Ground, pace: Pace) -> Result<(u64, u64)> {
    Command::new("strace").arg("-V").output().context("strace is not installed")?;
    let counts = ground.dir.join("strace.txt");
    let path = counts.to_str().context("a path in UTF-8")?;
    let words = ["strace", "-f", "--seccomp-bpf", "-c", "-e", "trace=fsync,fdatasync,sync_file_range", "-o", path];
    let product = Product::start_under(ground, "put-small-traced", false, &words)?;
    let report = put(product.address, "traced/", pace.seconds)?;
    product.process.stop()?;
    let text = std::fs::read_to_string(&counts)?;
    let calls = text.lines().filter(|line| line.trim_end().ends_with("sync")).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(3)?.parse::<u64>().ok()
    });
    Ok((calls.sum(), report.count()))
}
