//! `memory`: the largest resident set of the product while many large objects go up and down at once, and the same for
//! small ones. The kernel's part (pipes, socket buffers) is not in it.

use crate::contestant::{Ground, Product};
use crate::figures::{Outcome, Verdict};
use crate::rounds::{self, Load};
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use loadtest::client::Payload;
use loadtest::load::{Plan, Verb};
use loadtest::size;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const EACH_WAY: usize = 64;
const RESIDENT_MAX_MIB: f64 = 256.0;
const MIB: f64 = (1 << 20) as f64;

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct MemoryOptions {
    /// The large objects' size
    #[arg(long, value_parser = size::parse, default_value = "1GiB")]
    large: u64,
    /// The small objects' size
    #[arg(long, value_parser = size::parse, default_value = "10MiB")]
    small: u64,
    /// Bytes that the uploads of the small objects move, and so do the downloads
    #[arg(long, value_parser = size::parse, default_value = "16GiB")]
    small_total: u64,
}

pub fn memory(ground: &Ground, options: MemoryOptions) -> Result<Outcome> {
    let title = format!("Resident memory with {EACH_WAY} uploads and {EACH_WAY} downloads at once");
    let mut outcome = Outcome::new(title, ["peak MiB", "idle before", "idle after", "GiB moved", "MiB/s"]);
    for payload in [Payload::Unsigned, Payload::AwsChunked] {
        for (bytes, count) in [
            (options.large, EACH_WAY as u64),
            (options.small, (options.small_total / options.small).max(EACH_WAY as u64)),
        ] {
            let form = if payload == Payload::Unsigned { "plain" } else { "aws-chunked, signed" };
            let what = format!("{}, {form}", size::show(bytes));
            // Each on a bucket of its own: a backend belongs to the database that has marked it.
            let name = format!("memory-{}", outcome.rows.len() + 1);
            let values = measure(ground, &name, &what, bytes, count, payload)?;
            outcome.verdicts.push(Verdict::at_most(format!("peak MiB, {what}"), values[0], RESIDENT_MAX_MIB));
            outcome.row(what, values);
        }
    }
    Ok(outcome)
}

fn measure(ground: &Ground, name: &str, what: &str, bytes: u64, count: u64, payload: Payload) -> Result<[f64; 5]> {
    let Product { address, process } = Product::start(ground, name, false)?;
    let address = address.to_string();
    let idle_before = process.resident()?;
    let shortages_before = tcp_shortages();
    let load = Load { verb: Verb::Get, size: bytes, connections: EACH_WAY, keys: 1, payload: Payload::Unsigned };
    load.fill(&address)?;
    let down = Plan { operations: Some(count), ..load.plan(&address, Duration::ZERO) };
    let up = Load { verb: Verb::Put, keys: EACH_WAY as u64, payload, ..load }.plan(&address, Duration::ZERO);
    let up = Plan { operations: Some(count), prefix: "up/".to_owned(), ..up };
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {elapsed} {msg}").expect("a valid template"));
    let is_over = AtomicBool::new(false);
    let (up, down) = std::thread::scope(|scope| {
        let up = scope.spawn(|| rounds::run(&up));
        let down = scope.spawn(|| rounds::run(&down));
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let mib = |bytes: Result<u64>| bytes.map_or(0.0, |bytes| bytes as f64 / MIB);
                let (now, peak) = (mib(process.resident()), mib(process.resident_peak()));
                bar.set_message(format!("{what}: {now:.0} MiB resident, peak {peak:.0} MiB"));
                std::thread::park_timeout(Duration::from_millis(250));
            }
        });
        let both = (up.join(), down.join());
        is_over.store(true, Ordering::Relaxed);
        both
    });
    bar.finish_and_clear();
    let died = "a load thread died";
    let (up, down) = (up.ok().context(died)?, down.ok().context(died)?);
    let shortages = tcp_shortages() - shortages_before;
    let why = || match shortages {
        0 => "the load".to_owned(),
        times => format!(
            "the load, while the kernel ran short of memory for TCP {times} times (net.ipv4.tcp_mem): it drops what has \
             arrived, and connections stand still for as long as its timers back off"
        ),
    };
    let (up, down) = (up.with_context(why)?, down.with_context(why)?);
    let peak = process.resident_peak()?;
    let moved = (up.bytes() + down.bytes()) as f64;
    let seconds = up.elapsed.max(down.elapsed).as_secs_f64();
    Ok([
        peak as f64 / MIB,
        idle_before as f64 / MIB,
        process.resident()? as f64 / MIB,
        moved / (1_u64 << 30) as f64,
        moved / MIB / seconds,
    ])
}

/// How often this machine's kernel has run short of memory for TCP.
fn tcp_shortages() -> u64 {
    let text = fs::read_to_string("/proc/net/netstat").unwrap_or_default();
    let mut rows = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (Some(names), Some(values)) = (rows.next(), rows.next()) else { return 0 };
    let counters = names.split_whitespace().zip(values.split_whitespace());
    counters
        .filter(|(name, _)| matches!(*name, "PruneCalled" | "TCPMemoryPressures"))
        .filter_map(|(_, value)| value.parse::<u64>().ok())
        .sum()
}
