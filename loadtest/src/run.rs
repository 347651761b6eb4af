//! The load: a thread per connection, each doing one operation after the other (closed loop), or at times fixed beforehand
//! (open loop: `--rate`). In the open loop a latency counts from the time at which the operation was due, so that a slow
//! answer is not hidden by the requests it held up.

use crate::client::{Client, Target};
use crate::report::{Figures, Report};
use crate::{body, client::Verb};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What to do, how often, how wide.
#[derive(Clone, Debug)]
pub struct Plan {
    pub target: Target,
    pub mix: Mix,
    pub connections: usize,
    /// Operations in all; None: until `duration` has passed.
    pub operations: Option<u64>,
    pub duration: Duration,
    /// Operations per second, spread evenly over all connections; None: as fast as answers come.
    pub rate: Option<f64>,
    pub sizes: Vec<u64>,
    /// Distinct keys.
    pub keys: u64,
    pub prefix: String,
    pub verify: bool,
    pub quiet: bool,
}

/// Weights of the operations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mix {
    pub put: u32,
    pub get: u32,
    pub head: u32,
    pub list: u32,
    pub delete: u32,
}

impl Mix {
    /// The operation of a number drawn at random.
    fn pick(&self, roll: u64) -> Verb {
        let weights = [
            (self.put, Verb::Put),
            (self.get, Verb::Get),
            (self.head, Verb::Head),
            (self.list, Verb::List),
            (self.delete, Verb::Delete),
        ];
        let total: u32 = weights.iter().map(|(weight, _)| weight).sum();
        let mut left = (roll % u64::from(total.max(1))) as u32;
        for (weight, verb) in weights {
            if left < weight {
                return verb;
            }
            left -= weight;
        }
        Verb::Get
    }
}

struct Shared<'a> {
    plan: &'a Plan,
    start: Instant,
    next: AtomicU64,
    stop: AtomicBool,
    done: ProgressBar,
}

/// Runs the plan to its end.
#[allow(clippy::disallowed_methods)] // a load generator's clock is the wall's
pub fn run(plan: &Plan) -> Report {
    let bar = match (plan.quiet, plan.operations) {
        (true, _) => ProgressBar::hidden(),
        (false, Some(total)) => ProgressBar::new(total),
        (false, None) => ProgressBar::new(plan.duration.as_secs()),
    };
    let template = if plan.operations.is_some() {
        "{wide_bar} {pos}/{len} operations, {per_sec}, {eta} left"
    } else {
        "{wide_bar} {pos}/{len} s {msg}"
    };
    bar.set_style(ProgressStyle::with_template(template).expect("a fixed template is valid"));
    let shared =
        Shared { plan, start: Instant::now(), next: AtomicU64::new(0), stop: AtomicBool::new(false), done: bar };
    let per_thread: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..plan.connections)
            .map(|n| {
                scope.spawn({
                    let shared = &shared;
                    move || connection(shared, n as u64)
                })
            })
            .collect();
        if plan.operations.is_none() {
            scope.spawn(|| timekeeper(&shared));
        }
        let results = workers.into_iter().map(|worker| worker.join().expect("a load thread does not panic")).collect();
        shared.stop.store(true, Ordering::Relaxed);
        results
    });
    shared.done.finish_and_clear();
    let mut operations: BTreeMap<&'static str, Figures> = BTreeMap::new();
    for figures in per_thread {
        for (name, one) in figures {
            operations.entry(name).or_default().add(&one);
        }
    }
    Report { elapsed: shared.start.elapsed(), operations }
}

#[allow(clippy::disallowed_methods)]
fn timekeeper(shared: &Shared<'_>) {
    while shared.start.elapsed() < shared.plan.duration && !shared.stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(100));
        shared.done.set_position(shared.start.elapsed().as_secs());
        shared.done.set_message(format!("{} operations", shared.next.load(Ordering::Relaxed)));
    }
    shared.stop.store(true, Ordering::Relaxed);
}

#[allow(clippy::disallowed_methods)]
fn connection(shared: &Shared<'_>, number: u64) -> BTreeMap<&'static str, Figures> {
    let plan = shared.plan;
    let mut client = Client::new(plan.target.clone());
    let mut figures: BTreeMap<&'static str, Figures> = BTreeMap::new();
    let mut dice = 0x2545_f491_4f6c_dd1d_u64.wrapping_mul(number + 1) | 1;
    loop {
        let turn = shared.next.fetch_add(1, Ordering::Relaxed);
        if shared.stop.load(Ordering::Relaxed) || plan.operations.is_some_and(|total| turn >= total) {
            return figures;
        }
        let due = match plan.rate {
            None => Instant::now(),
            Some(rate) => {
                let due = shared.start + Duration::from_secs_f64(turn as f64 / rate);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                due
            }
        };
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let verb = plan.mix.pick(dice >> 8);
        // Puts take the keys in turn, so that `put` fills exactly the keys that `get` reads; others choose at random.
        let index = if verb == Verb::Put { turn } else { dice >> 16 } % plan.keys;
        let name = format!("{}{index:08}", plan.prefix);
        let size = plan.sizes[(index % plan.sizes.len() as u64) as usize];
        let outcome = client.perform(verb, &name, body::seed_of(&name), size, plan.verify);
        let entry = figures.entry(verb.name()).or_default();
        match outcome {
            Ok(bytes) => entry.success(due.elapsed(), bytes),
            Err(why) => entry.error(format!("{why:#}")),
        }
        if plan.operations.is_some() {
            shared.done.inc(1);
        }
    }
}
