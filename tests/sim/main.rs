//! The simulator: the product's handlers and workers, its metadata desk and its memory store, under a virtual clock and
//! seeded dice, with several clients per key and everything failing that can fail.
//!
//! `S3O_SIM_SEED=n` runs that seed alone; `S3O_SIM_SEEDS=n` runs so many more, from a random one on.

mod backend;
mod channel;
mod client;
mod exchange;
mod executor;
mod history;
mod instance;
mod multipart;
mod mutant;
mod recovery;
mod run;
mod store;
mod world;

use mutant::Mutant;
use run::{Outcome, run};
use world::Setting;

/// Runs of the ordinary test, and the steps of each: a million in all.
const SEEDS: u64 = 20;
const STEPS: u64 = 50_000;

fn check(setting: Setting, steps: u64) -> Outcome {
    let seed = setting.seed;
    let outcome = run(setting, steps);
    if let Some(violation) = &outcome.violation {
        print!("{}", outcome.story);
        panic!("seed {seed} (S3O_SIM_SEED={seed} runs it again): {violation}\n{}", outcome.summary);
    }
    outcome
}

#[allow(clippy::disallowed_methods)] // the tests' own switches
fn number_from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn invariants_hold_for_a_million_steps() {
    if let Some(seed) = number_from_environment("S3O_SIM_SEED") {
        let outcome = check(Setting { told: true, ..Setting::of(seed, Mutant::None) }, STEPS);
        println!("seed {seed}: {} steps, hash {:016x}, {}", outcome.steps, outcome.hash, outcome.summary);
        return;
    }
    let steps: u64 = (1..=SEEDS).map(|seed| check(Setting::of(seed, Mutant::None), STEPS).steps).sum();
    assert!(steps >= 1_000_000, "{steps} steps");
}
