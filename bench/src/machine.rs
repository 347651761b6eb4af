//! The machine under the measurements: which cores carry what, and what to print beside the figures.
//!
//! Proxies run on the last core, everything else (loads, stub, this process) on the others, so that every proxy has one core
//! to itself and none is helped or hurt by where the scheduler puts the load.

use anyhow::{Context, Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use s3_orchestrator::reactor::affinity::{allowed_cores, pin};
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;

/// The core of the proxies, and the one that this thread stays on.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    pub proxy: usize,
    pub load: usize,
    all: CpuSet,
}

impl Cores {
    /// From this process's CPU set.
    pub fn split() -> Result<Self> {
        let allowed = allowed_cores().context("asking for the CPU set")?;
        ensure!(allowed.len() >= 2, "at least two cores are needed: one for the proxy, one for the load");
        let all = sched_getaffinity(None).context("asking for the CPU set")?;
        Ok(Self { proxy: allowed[allowed.len() - 1], load: allowed[0], all })
    }

    /// Runs `start` pinned to `core`, so that what it starts stays there, and comes back to the load's core.
    pub fn start_on<T>(self, core: usize, start: impl FnOnce() -> Result<T>) -> Result<T> {
        pin(core).context("pinning")?;
        let started = start();
        pin(self.load).context("pinning")?;
        started
    }

    /// Runs `start` so that what it starts may use every core, and comes back to the load's core.
    pub fn start_anywhere<T>(self, start: impl FnOnce() -> Result<T>) -> Result<T> {
        sched_setaffinity(None, &self.all).context("unpinning")?;
        let started = start();
        pin(self.load).context("pinning")?;
        started
    }
}

/// What the figures were measured on.
pub fn describe() -> Value {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory_kib =
        memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    json!({
        "processor": model.unwrap_or("unknown"),
        "cores": allowed_cores().map_or(0, |cores| cores.len()),
        "memory_gib": memory_kib.map_or(0, |kib: u64| kib >> 20),
        "kernel": kernel.trim(),
        "load_average": load_average(),
    })
}

/// Runnable tasks over the last minute. Above 0.5 before a measurement others are using the machine.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

/// CPU time of this process but for the thread that asks. Threads that have ended are not in it.
pub fn cpu_of_other_threads() -> Result<Duration> {
    let this = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut others = Duration::ZERO;
    for thread in fs::read_dir("/proc/self/task").context("/proc/self/task")?.flatten() {
        if thread.file_name().to_str() != Some(&this) {
            // The first number is nanoseconds on a processor. A thread may end meanwhile.
            let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            let nanos = text.split(' ').next().and_then(|number| number.parse().ok());
            others += Duration::from_nanos(nanos.unwrap_or(0));
        }
    }
    Ok(others)
}
