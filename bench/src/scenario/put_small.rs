//! `put-small`: how many small objects a second become durable. New keys, a stub that answers at once; SQLite with
//! synchronous=FULL and PostgreSQL with fsync on, in turn; beside them, how many times a second the disk can be made to write
//! something.

use crate::contestant::{Database, Ground, Product};
use crate::disk;
use crate::figures::{Outcome, Verdict, median};
use crate::postgres::Postgres;
use crate::rounds::{self, Load, Pace};
use anyhow::{Context, Result};
use loadtest::client::Payload;
use loadtest::load::{Plan, Verb};
use loadtest::report::Report;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

/// The target is for the most of them.
const WRITERS: [usize; 2] = [16, 64];
const BYTES: u64 = 1024;
const RATE_MIN: f64 = 5000.0;
const WARM_SECONDS: f64 = 0.2;

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct PutSmallOptions {
    /// Reach PostgreSQL by its Unix socket instead of TCP
    #[arg(long)]
    socket: bool,
}

/// A product on one database under so many writers.
struct Series<'p> {
    product: &'p Product,
    server: Option<&'p Postgres>,
    writers: usize,
    windows: Vec<Window>,
}

struct Window {
    per_second: f64,
    own_cpu_us: f64,
    server_cpu_us: f64,
    p99_ms: f64,
}

pub fn put_small(ground: &Ground, options: PutSmallOptions, pace: Pace) -> Result<Outcome> {
    let server = Postgres::start(ground, options.socket)?;
    let on_sqlite = Product::start(ground, "put-small", false)?;
    let on_postgres = Product::start_under(ground, "put-small-postgres", Database::Postgres(&server), false, &[])?;
    let on_both = |writers| {
        let series = |product, server| Series { product, server, writers, windows: Vec::new() };
        [series(&on_sqlite, None), series(&on_postgres, Some(&server))]
    };
    let mut all: Vec<Series<'_>> = WRITERS.into_iter().flat_map(on_both).collect();
    let mut syncs = Vec::new();
    for round in 0..pace.rounds as usize {
        println!("round {} of {}", round + 1, pace.rounds);
        syncs.push(disk::syncs_per_second(&ground.dir, Duration::from_secs_f64(pace.seconds / 3.0))?);
        for turn in 0..all.len() {
            let at = (round + turn) % all.len();
            let window = all[at].window(&format!("round-{round}-{at}/"), pace.seconds)?;
            all[at].windows.push(window);
        }
    }
    let columns = ["PUT/s", "least", "most", "CPU us/PUT", "PostgreSQL CPU us/PUT", "p99 ms"];
    let mut outcome = Outcome::new("PUT of 1 KiB under new keys", columns);
    let sync_rate = median(syncs);
    for one in &all {
        let column = |of: fn(&Window) -> f64| one.windows.iter().map(of);
        let rates = column(|window| window.per_second);
        let rate = median(rates.clone());
        let values = [
            rate,
            rates.clone().fold(f64::INFINITY, f64::min),
            rates.fold(0.0, f64::max),
            median(column(|window| window.own_cpu_us)),
            median(column(|window| window.server_cpu_us)),
            median(column(|window| window.p99_ms)),
        ];
        outcome.row(one.label(), values);
        if Some(&one.writers) == WRITERS.last() {
            let what = format!("PUTs per second, {}", one.label());
            outcome.verdicts.push(Verdict::at_least(what, rate, RATE_MIN.min(sync_rate)));
        }
    }
    drop(all);
    drop((on_sqlite, on_postgres));
    outcome.notes.push(format!("{sync_rate:.0} serial fdatasync a second (median)"));
    outcome.notes.push(match syncs_per_put(ground, pace) {
        Ok((syncs, puts)) => format!(
            "SQLite: {:.3} fsyncs per PUT ({syncs} for {puts}, counted by strace in a run of its own)",
            syncs as f64 / puts as f64
        ),
        Err(error) => format!("fsyncs per PUT not counted: {error:#}"),
    });
    Ok(outcome)
}

impl Series<'_> {
    fn label(&self) -> String {
        format!("{}, {} writers", if self.server.is_some() { "PostgreSQL" } else { "SQLite" }, self.writers)
    }

    fn window(&self, prefix: &str, seconds: f64) -> Result<Window> {
        // Its connections and its plans shall be warm, and the cores awake.
        put(self.product.address, self.writers, &format!("{prefix}warm/"), WARM_SECONDS)?;
        let server_cpu = || self.server.map_or(Ok(Duration::ZERO), Postgres::cpu);
        let (own, server) = (self.product.process.cpu()?, server_cpu()?);
        let report = put(self.product.address, self.writers, prefix, seconds)?;
        let (own, server) = (self.product.process.cpu()? - own, server_cpu()?.saturating_sub(server));
        let per_put = |cpu: Duration| cpu.as_secs_f64() * 1e6 / report.count() as f64;
        Ok(Window {
            per_second: report.count() as f64 / report.elapsed.as_secs_f64(),
            own_cpu_us: per_put(own),
            server_cpu_us: self.server.map_or(f64::NAN, |_| per_put(server)),
            p99_ms: report.operations.values().map(|one| one.latency_us(0.99)).max().unwrap_or(0) as f64 / 1e3,
        })
    }
}

fn put(address: SocketAddr, writers: usize, prefix: &str, seconds: f64) -> Result<Report> {
    let load = Load { verb: Verb::Put, size: BYTES, connections: writers, keys: u64::MAX, payload: Payload::Auto };
    let plan = load.plan(&address.to_string(), Duration::from_secs_f64(seconds));
    rounds::run(&Plan { prefix: prefix.to_owned(), ..plan })
}

/// Syncs of any kind, and PUTs, of a run on SQLite under strace, which slows only the calls that it counts.
fn syncs_per_put(ground: &Ground, pace: Pace) -> Result<(u64, u64)> {
    Command::new("strace").arg("-V").output().context("strace is not installed")?;
    let counts = ground.dir.join("strace.txt");
    let path = counts.to_str().context("a path in UTF-8")?;
    let words = ["strace", "-f", "--seccomp-bpf", "-c", "-e", "trace=fsync,fdatasync,sync_file_range", "-o", path];
    let product = Product::start_under(ground, "put-small-traced", Database::Sqlite, false, &words)?;
    let report = put(product.address, WRITERS[WRITERS.len() - 1], "traced/", pace.seconds)?;
    product.process.stop()?;
    let text = std::fs::read_to_string(&counts)?;
    let calls = text.lines().filter(|line| line.trim_end().ends_with("sync")).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(3)?.parse::<u64>().ok()
    });
    Ok((calls.sum(), report.count()))
}
