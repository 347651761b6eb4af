//! `allocations`: heap allocations of the reactor's thread per request. The product runs with a counting allocator.
//!
//! Each run opens its connections anew, which allocates. Two runs of different lengths over equally many connections
//! differ by requests alone, so what they allocated is compared.

use crate::contestant::{Counted, Ground};
use crate::figures::{Outcome, Verdict};
use crate::rounds::{self, Load};
use anyhow::{Context, Result};
use loadtest::client::Payload;
use loadtest::load::{Plan, Verb};
use serde_json::Value;
use std::time::Duration;

const THREAD: &str = "reactor-0";
const WARM_UP: u64 = 20_000;
const SHORT: u64 = 2_000;
const LONG: u64 = 22_000;
/// None. A thread that was not scheduled for long finds its audit buffers still unwritten and makes one more.
const PER_GET_MAX: f64 = 0.0005;

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct AllocationOptions {
    /// Print the stacks of so many allocations made by GETs of 4 KiB
    #[arg(long, default_value_t = 0)]
    stacks: u32,
}

pub fn allocations(ground: &Ground, options: AllocationOptions) -> Result<Outcome> {
    let mut outcome = Outcome::new(
        format!("Heap allocations of {THREAD} per request in steady state"),
        ["allocations", "bytes allocated"],
    );
    let mut product = Counted::start(ground)?;
    let address = product.address.to_string();
    let get = Load { verb: Verb::Get, size: 4 << 10, connections: 8, keys: 64, payload: Payload::Auto };
    get.fill(&address)?;
    let plan = |load: Load, operations| Plan { operations: Some(operations), ..load.plan(&address, Duration::ZERO) };
    for (label, load) in [
        ("GET of 4 KiB", get),
        ("HEAD", Load { verb: Verb::Head, ..get }),
        ("PUT of 4 KiB", Load { verb: Verb::Put, ..get }),
    ] {
        let share = if load.verb == Verb::Put { 10 } else { 1 };
        rounds::run(&plan(load, WARM_UP / share))?;
        let mut counted = |operations: u64| -> Result<[f64; 2]> {
            let before = reactor(&product.counts()?)?;
            rounds::run(&plan(load, operations / share))?;
            let after = reactor(&product.counts()?)?;
            Ok([0, 1].map(|at| (after[at] - before[at]) as f64))
        };
        let (short, long) = (counted(SHORT)?, counted(LONG)?);
        let requests = ((LONG - SHORT) / share) as f64;
        outcome.row(label, [0, 1].map(|at| ((long[at] - short[at]) / requests).max(0.0)));
    }
    outcome.verdicts.push(Verdict::at_most("allocations per GET of 4 KiB", outcome.rows[0].values[0], PER_GET_MAX));
    if options.stacks > 0 {
        let provoke = || drop(rounds::run(&plan(get, 2000)));
        outcome.notes.push(product.trace(THREAD, options.stacks, provoke)?);
    }
    Ok(outcome)
}

/// Allocations and bytes of the reactor's thread.
fn reactor(counts: &Value) -> Result<[u64; 2]> {
    let pair = counts.get(THREAD).with_context(|| format!("no thread {THREAD} in {counts}"))?;
    let number = |at: usize| pair.get(at).and_then(Value::as_u64).context("a count");
    Ok([number(0)?, number(1)?])
}
