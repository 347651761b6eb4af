//! `contest`: everybody, GET and PUT, from 4 KiB to 64 MiB.

use super::relay;
use crate::contestant::{Ground, Kind};
use crate::figures::Outcome;
use crate::rounds::{Load, Pace, Series, alternate};
use anyhow::Result;
use loadtest::client::Payload;
use loadtest::load::Verb;
use loadtest::size;

/// Size, connections, keys.
const SIZES: [(u64, usize, u64); 4] = [(4 << 10, 32, 64), (64 << 10, 32, 64), (1 << 20, 16, 32), (64 << 20, 8, 8)];

pub fn contest(ground: &Ground, pace: Pace) -> Result<Vec<Outcome>> {
    let mut series = Series::start(ground, &Kind::ALL)?;
    let mut outcomes = Vec::new();
    for verb in [Verb::Get, Verb::Put] {
        for (size, connections, keys) in SIZES {
            let title = format!("{} of {}", verb.name().to_uppercase(), size::show(size));
            println!("{title}");
            series.iter_mut().for_each(|one| one.windows.clear());
            alternate(&mut series, Load { verb, size, connections, keys, payload: Payload::Unsigned }, pace)?;
            outcomes.push(relay::table(&title, &series));
        }
    }
    Ok(outcomes)
}
