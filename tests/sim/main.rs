//! The simulator: the product's handlers and workers, its metadata desk and its memory store, under a virtual clock and
//! seeded dice, with several clients per key and everything failing that can fail.
//!
//! `S3O_SIM_SEED=n` runs that seed alone; `S3O_SIM_SEEDS=n` runs so many more of each kind, from a random one on.

mod backend;
mod channel;
mod client;
mod copy;
mod counts;
mod exchange;
mod executor;
mod history;
mod instance;
mod meta;
mod multipart;
mod mutant;
mod operations;
mod quiescence;
mod recovery;
mod removal;
mod restore;
mod run;
mod scenes;
mod store;
mod tenure;
mod world;

use mutant::Mutant;
use run::{Outcome, run};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use world::Setting;

/// Runs of the ordinary test, and the steps of each: more than a million in all.
const SEEDS: u64 = 40;
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
    let (mut steps, mut happened) = (0, BTreeMap::new());
    for seed in 1..=SEEDS {
        let outcome = check(Setting::of(seed, Mutant::None), STEPS);
        steps += outcome.steps;
        for (what, times) in outcome.counts {
            *happened.entry(what).or_insert(0) += times;
        }
    }
    println!("{steps} steps: {happened:?}");
    assert!(steps >= 1_000_000, "{steps} steps");
    // Not in every run, but often enough to mean something.
    let idle: Vec<_> =
        happened.into_iter().filter(|(what, times)| *times < SEEDS / 2 && !OF_RESTORES.contains(what)).collect();
    assert!(idle.is_empty(), "hardly anything was tried: {idle:?}");
    for seed in more_seeds() {
        check(Setting::of(seed, Mutant::None), STEPS);
    }
}

/// What happens in runs whose database is put back, and in no others.
const OF_RESTORES: [&str; 5] = [
    "restored databases",
    "restored under a running instance",
    "restored databases compared",
    "objects that are back",
    "objects whose bytes were gone",
];

/// Those runs, and the steps of each.
const RESTORED_SEEDS: u64 = 20;

#[test]
fn invariants_hold_over_restored_databases() {
    if let Some(seed) = number_from_environment("S3O_SIM_SEED") {
        let outcome = check(Setting { told: true, ..Setting::restored(seed, Mutant::None) }, STEPS);
        println!("seed {seed}: {} steps, hash {:016x}, {}", outcome.steps, outcome.hash, outcome.summary);
        return;
    }
    let mut happened = BTreeMap::new();
    for seed in 1..=RESTORED_SEEDS {
        for (what, times) in check(Setting::restored(seed, Mutant::None), STEPS).counts {
            *happened.entry(what).or_insert(0) += times;
        }
    }
    println!("{happened:?}");
    for what in OF_RESTORES {
        assert!(happened[what] >= RESTORED_SEEDS / 4, "hardly anything was tried: {what}: {}", happened[what]);
    }
    for seed in more_seeds() {
        check(Setting::restored(seed, Mutant::None), STEPS);
    }
}

/// As many as `S3O_SIM_SEEDS` says, from a random one on.
fn more_seeds() -> impl Iterator<Item = u64> {
    let first = RandomState::new().build_hasher().finish() >> 16;
    let more = number_from_environment("S3O_SIM_SEEDS").unwrap_or(0);
    (first..first + more).inspect(|seed| println!("seed {seed}"))
}

#[test]
fn one_seed_twice_is_the_same_run() {
    let hash = |seed| {
        let outcome = check(Setting::of(seed, Mutant::None), STEPS / 5);
        (outcome.steps, outcome.hash)
    };
    for seed in 1..=4 {
        assert_eq!(hash(seed), hash(seed), "seed {seed}");
    }
    assert_ne!(hash(1).1, hash(2).1, "the hash tells runs apart");
}

/// Seeds that a mutant has to get past.
const MUTANT_SEEDS: u64 = 20;

#[test]
fn bugs_put_back_are_caught() {
    for (mutant, checks) in Mutant::ALL {
        let setting = |seed| match mutant.is_of_restore() {
            true => Setting::restored(seed, mutant),
            false => Setting::of(seed, mutant),
        };
        let mut outcomes = (1..=MUTANT_SEEDS).map(|seed| (seed, run(setting(seed), STEPS)));
        let caught = outcomes.find_map(|(seed, outcome)| Some((seed, outcome.violation?, outcome.steps)));
        match caught {
            Some((seed, violation, steps)) => {
                let again = run(Setting { told: true, ..setting(seed) }, STEPS);
                assert_eq!(again.violation.as_ref(), Some(&violation), "seed {seed} of {mutant:?} does not reproduce");
                let violation = violation.lines().next().unwrap_or_default();
                println!("{mutant:?} after {steps} steps of seed {seed}: {violation}");
                let expected = checks.iter().any(|check| violation.starts_with(&format!("{check} ")));
                assert!(expected, "{mutant:?} was caught by another check than {checks:?}: {violation}");
            }
            None => panic!("{mutant:?} was not caught"),
        }
    }
}
