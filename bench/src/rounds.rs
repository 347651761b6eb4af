//! The same load on each contestant in turn, round after round, so that whatever disturbs the machine disturbs all of them
//! alike. A window's CPU is what the contestant's whole process used; windows are summed up by their medians.

use crate::contestant::{Contestant, Ground, Kind};
use crate::figures::median;
use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use loadtest::client::{Payload, Target};
use loadtest::load::{self, Mix, Plan, Verb};
use loadtest::sign::Credentials;
use std::time::Duration;

/// How long everything takes.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Pace {
    /// Rounds; every contestant has one window in each
    #[arg(long, global = true, default_value_t = 5)]
    pub rounds: u32,
    /// Seconds of a window
    #[arg(long, global = true, default_value_t = 3.0)]
    pub seconds: f64,
}

/// What one window measured.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub operations: u64,
    pub bytes: u64,
    pub seconds: f64,
    pub cpu: Duration,
    pub p99_us: u64,
}

/// The windows of one contestant.
pub struct Series {
    pub kind: Kind,
    /// None: it is not installed.
    contestant: Option<Contestant>,
    pub windows: Vec<Window>,
}

impl Series {
    /// Starts those that are to take part; absent ones stay in the list.
    pub fn start(ground: &Ground, kinds: &[Kind]) -> Result<Vec<Self>> {
        let start = |&kind: &Kind| Ok(Self { kind, contestant: kind.start(ground)?, windows: Vec::new() });
        kinds.iter().map(start).collect()
    }

    pub fn is_present(&self) -> bool {
        self.contestant.is_some()
    }

    /// Medians over the windows; NaN if there are none.
    pub fn cpu_us_per_operation(&self) -> f64 {
        median(self.windows.iter().map(|window| window.cpu.as_secs_f64() * 1e6 / window.operations as f64))
    }

    pub fn cpu_seconds_per_gib(&self) -> f64 {
        const GIB: f64 = (1_u64 << 30) as f64;
        median(self.windows.iter().map(|window| window.cpu.as_secs_f64() * GIB / window.bytes as f64))
    }

    pub fn operations_per_second(&self) -> f64 {
        median(self.windows.iter().map(|window| window.operations as f64 / window.seconds))
    }

    pub fn mib_per_second(&self) -> f64 {
        median(self.windows.iter().map(|window| window.bytes as f64 / window.seconds / f64::from(1 << 20)))
    }

    pub fn p99_ms(&self) -> f64 {
        median(self.windows.iter().map(|window| window.p99_us as f64 / 1e3))
    }
}

/// The series of one kind.
pub fn of(series: &[Series], kind: Kind) -> &Series {
    series.iter().find(|one| one.kind == kind).expect("it takes part")
}

/// What is asked of every contestant.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub verb: Verb,
    pub size: u64,
    pub connections: usize,
    pub keys: u64,
    pub payload: Payload,
}

impl Load {
    pub fn plan(&self, address: &str, duration: Duration) -> Plan {
        Plan {
            target: Target {
                address: address.to_owned(),
                bucket: "photos".to_owned(),
                credentials: Credentials::new("photoskey", "photossecret", "us-east-1"),
            },
            mix: Mix::only(self.verb),
            connections: self.connections,
            operations: None,
            duration,
            rate: None,
            sizes: vec![self.size],
            keys: self.keys,
            prefix: format!("bench/{}/", self.size),
            payload: self.payload,
            part_size: None,
            verify: true,
            quiet: true,
        }
    }

    /// Writes every key that a GET of this load may read, and reads as many at random as will meet nearly each of them: what
    /// is remembered of objects is remembered then.
    pub fn fill(&self, address: &str) -> Result<()> {
        let plan = Self { verb: Verb::Put, ..*self }.plan(address, Duration::ZERO);
        run(&Plan { operations: Some(self.keys), connections: self.connections.min(8), ..plan })?;
        let plan = Self { verb: Verb::Get, ..*self }.plan(address, Duration::ZERO);
        run(&Plan { operations: Some(5 * self.keys), ..plan }).map(drop)
    }
}

/// A load that must not fail.
pub fn run(plan: &Plan) -> Result<loadtest::report::Report> {
    let report = load::run(plan);
    if report.errors() > 0 {
        bail!("the load met errors:\n{}", report.table());
    }
    Ok(report)
}

/// Runs the rounds; the order within a round turns, so that nobody always follows the same neighbour.
pub fn alternate(series: &mut [Series], load: Load, pace: Pace) -> Result<()> {
    let present: Vec<usize> = (0..series.len()).filter(|&at| series[at].is_present()).collect();
    let bar = ProgressBar::new(u64::from(pace.rounds) * present.len() as u64);
    bar.set_style(ProgressStyle::with_template("{wide_bar} {pos}/{len} windows, {msg}").expect("a valid template"));
    if load.verb == Verb::Get {
        for &at in &present {
            let address = series[at].contestant.as_ref().map(|one| one.address.to_string()).unwrap_or_default();
            load.fill(&address)?;
        }
    }
    for round in 0..pace.rounds as usize {
        for turn in 0..present.len() {
            let one = &mut series[present[(round + turn) % present.len()]];
            let Some(contestant) = &one.contestant else { continue };
            bar.set_message(contestant.name);
            one.windows.push(window(contestant, load, pace)?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn window(contestant: &Contestant, load: Load, pace: Pace) -> Result<Window> {
    let address = contestant.address.to_string();
    // Its caches and connections shall be warm, and the core awake.
    run(&load.plan(&address, Duration::from_millis(200)))?;
    let before = contestant.process.cpu()?;
    let report = run(&load.plan(&address, Duration::from_secs_f64(pace.seconds)))?;
    let cpu = contestant.process.cpu()?.saturating_sub(before);
    let p99_us = report.operations.values().map(|figures| figures.latency_us(0.99)).max().unwrap_or(0);
    Ok(Window { operations: report.count(), bytes: report.bytes(), seconds: report.elapsed.as_secs_f64(), cpu, p99_us })
}
