//! `get-small`, `get-large`, `put-large`: CPU of the product beside the bare relay and nginx, one size each.

use crate::contestant::{Ground, Kind};
use crate::figures::{Outcome, Verdict};
use crate::rounds::{self, Load, Pace, Series, alternate};
use anyhow::Result;
use loadtest::client::Payload;
use loadtest::load::Verb;

pub const COLUMNS: [&str; 6] = ["CPU us/req", "CPU s/GiB", "of relay", "req/s", "MiB/s", "p99 ms"];

/// CPU per request of a 4 KiB GET, at most so many times that of the bare relay.
const SMALL_RATIO_MAX: f64 = 1.3;

/// Many more than heads are kept for (`kept_heads`), and fewer than locations are.
const MANY_OBJECTS: u64 = 4_000;

pub fn get_small(ground: &Ground, pace: Pace) -> Result<Outcome> {
    let load = Load { verb: Verb::Get, size: 4 << 10, connections: 32, keys: 64, payload: Payload::Auto };
    let kinds = [Kind::Product, Kind::Relay, Kind::Nginx, Kind::NginxBuffered];
    let (mut outcome, mut series) =
        measure("GET of 4 KiB, signature checked, location cached", ground, pace, load, &kinds)?;
    let ratio = |series: &[Series]| {
        let cost = |kind| rounds::of(series, kind).cpu_us_per_operation();
        cost(Kind::Product) / cost(Kind::Relay)
    };
    let what = "CPU per request, ratio to the bare relay";
    outcome.verdicts.push(Verdict::at_most(format!("{what}, 64 objects"), ratio(&series), SMALL_RATIO_MAX));
    // Objects that are asked for once in a while: every request to the backend is signed anew.
    series.retain(|one| matches!(one.kind, Kind::Product | Kind::Relay));
    series.iter_mut().for_each(|one| one.windows.clear());
    alternate(&mut series, Load { keys: MANY_OBJECTS, ..load }, pace)?;
    let relay = rounds::of(&series, Kind::Relay).cpu_us_per_operation();
    for one in &series {
        outcome.row(format!("{}, {MANY_OBJECTS} objects", one.kind.name()), values(one, relay));
    }
    outcome.verdicts.push(Verdict::at_most(format!("{what}, {MANY_OBJECTS} objects"), ratio(&series), SMALL_RATIO_MAX));
    Ok(outcome)
}

pub fn get_large(ground: &Ground, pace: Pace) -> Result<Outcome> {
    let load = Load { verb: Verb::Get, size: 64 << 20, connections: 8, keys: 8, payload: Payload::Unsigned };
    let (mut outcome, series) = measure("GET of 64 MiB", ground, pace, load, &Kind::ALL)?;
    outcome.verdicts.extend(no_more_than_nginx(&series));
    Ok(outcome)
}

pub fn put_large(ground: &Ground, pace: Pace) -> Result<Outcome> {
    let load = Load { verb: Verb::Put, size: 64 << 20, connections: 8, keys: 64, payload: Payload::Unsigned };
    let (mut outcome, mut series) = measure("PUT of 64 MiB, unsigned payload", ground, pace, load, &Kind::ALL)?;
    outcome.verdicts.extend(no_more_than_nginx(&series));
    // What SDKs send: only the product has to look into it, so it stands alone.
    series.retain(|one| one.kind == Kind::Product);
    for (payload, label) in [
        (Payload::Signed, "product, SHA-256 declared"),
        (Payload::AwsChunkedUnsigned, "product, aws-chunked with CRC32"),
        (Payload::AwsChunked, "product, aws-chunked, signed"),
    ] {
        series[0].windows.clear();
        alternate(&mut series, Load { payload, ..load }, pace)?;
        outcome.row(label, values(&series[0], f64::NAN));
    }
    Ok(outcome)
}

/// Runs one load on these contestants.
pub fn measure(title: &str, ground: &Ground, pace: Pace, load: Load, kinds: &[Kind]) -> Result<(Outcome, Vec<Series>)> {
    let mut series = Series::start(ground, kinds)?;
    alternate(&mut series, load, pace)?;
    Ok((table(title, &series), series))
}

/// One row for each contestant; ratios are of medians, to the bare relay's.
pub fn table(title: &str, series: &[Series]) -> Outcome {
    let mut outcome = Outcome::new(title, COLUMNS);
    let relay = rounds::of(series, Kind::Relay).cpu_us_per_operation();
    for one in series {
        let label = if one.is_present() { one.kind.name().to_owned() } else { format!("{} (absent)", one.kind.name()) };
        outcome.row(label, values(one, relay));
    }
    outcome
}

fn values(one: &Series, relay_us: f64) -> [f64; 6] {
    let cpu_us = one.cpu_us_per_operation();
    [
        cpu_us,
        one.cpu_seconds_per_gib(),
        cpu_us / relay_us,
        one.operations_per_second(),
        one.mib_per_second(),
        one.p99_ms(),
    ]
}

/// Against the cheaper of nginx's two settings; nothing to compare with if it is absent.
fn no_more_than_nginx(series: &[Series]) -> Option<Verdict> {
    let cost = |kind| rounds::of(series, kind).cpu_seconds_per_gib();
    let nginx = cost(Kind::Nginx).min(cost(Kind::NginxBuffered));
    let what = "CPU seconds per GiB, against nginx";
    (!nginx.is_nan()).then(|| Verdict::at_most(what, cost(Kind::Product), nginx))
}
