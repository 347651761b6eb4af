//! The load: connections that do one operation after the other each (closed loop), or at times fixed beforehand (open loop:
//! `rate`). In the open loop a latency counts from the time at which the operation was due, so that a slow
//! answer is not hidden by the requests it held up.

use crate::client::{Client, Payload, Refused, Target};
use crate::report::{Figures, Report};
use crate::{body, cores};
use anyhow::{Result, ensure};
use futures_util::future::join_all;
use indicatif::{ProgressBar, ProgressStyle};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

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
    /// Object sizes, by key in turn. Not empty.
    pub sizes: Vec<u64>,
    /// Distinct keys; more than 0.
    pub keys: u64,
    pub prefix: String,
    pub payload: Payload,
    /// Objects larger than this are put in parts of this size.
    pub part_size: Option<u64>,
    pub verify: bool,
    /// No progress bar.
    pub quiet: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    Put,
    Get,
    Head,
    List,
    Delete,
}

impl Verb {
    pub const ALL: [Self; 5] = [Self::Put, Self::Get, Self::Head, Self::List, Self::Delete];

    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
        }
    }
}

/// Weights of the operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mix {
    weights: [u32; Verb::ALL.len()],
}

impl Mix {
    pub fn only(verb: Verb) -> Self {
        Self::default().with(verb, 1)
    }

    #[must_use]
    pub fn with(mut self, verb: Verb, weight: u32) -> Self {
        self.weights[verb as usize] = weight;
        self
    }

    pub fn weight(&self, verb: Verb) -> u32 {
        self.weights[verb as usize]
    }

    /// The operation of a number drawn at random; GET if every weight is 0.
    fn pick(&self, roll: u64) -> Verb {
        let total: u64 = self.weights.iter().copied().map(u64::from).sum();
        let mut left = roll % total.max(1);
        for verb in Verb::ALL {
            let weight = u64::from(self.weight(verb));
            if left < weight {
                return verb;
            }
            left -= weight;
        }
        Verb::Get
    }
}

/// Figures of each kind of operation.
type Measured = BTreeMap<&'static str, Figures>;

struct Shared<'a> {
    plan: &'a Plan,
    /// Where everybody waits until each has all that it needs: what that costs is none of the target's.
    ready: Barrier,
    started: OnceLock<Instant>,
    /// The number of the next operation, and how many there are.
    next: AtomicU64,
    end: AtomicU64,
    /// Operations that are due and not begun.
    due: Semaphore,
    stop: AtomicBool,
    done: ProgressBar,
}

impl Shared<'_> {
    /// Waits for the others; when the load began.
    #[allow(clippy::disallowed_methods)] // a load generator's clock is the wall's
    fn start(&self) -> Instant {
        self.ready.wait();
        *self.started.get_or_init(Instant::now)
    }
}

/// Runs the plan to its end.
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
    let connections = plan.connections.max(1);
    let threads = cores::count(connections);
    let (timekeepers, pacers) = (usize::from(plan.operations.is_none()), usize::from(plan.rate.is_some()));
    let shared = Shared {
        plan,
        ready: Barrier::new(threads + timekeepers + pacers),
        started: OnceLock::new(),
        next: AtomicU64::new(0),
        end: AtomicU64::new(plan.operations.unwrap_or(u64::MAX)),
        due: Semaphore::new(0),
        stop: AtomicBool::new(false),
        done: bar,
    };
    let per_thread: Vec<Measured> = std::thread::scope(|scope| {
        (0..timekeepers).for_each(|_| drop(scope.spawn(|| timekeeper(&shared))));
        plan.rate.iter().for_each(|rate| drop(scope.spawn(|| pacer(&shared, *rate))));
        let measured =
            cores::on_each(threads, async |number| work(&shared, (number..connections).step_by(threads)).await);
        shared.stop.store(true, Ordering::Relaxed);
        measured
    });
    let elapsed = shared.started.get().map_or(Duration::ZERO, Instant::elapsed);
    shared.done.finish_and_clear();
    let mut operations = Measured::new();
    for measured in per_thread {
        for (name, one) in measured {
            operations.entry(name).or_default().add(&one);
        }
    }
    Report { elapsed, operations }
}

#[allow(clippy::disallowed_methods)]
fn timekeeper(shared: &Shared<'_>) {
    let start = shared.start();
    while start.elapsed() < shared.plan.duration && !shared.stop.load(Ordering::Relaxed) {
        let left = shared.plan.duration.saturating_sub(start.elapsed());
        std::thread::sleep(left.min(Duration::from_millis(100)));
        shared.done.set_position(start.elapsed().as_secs());
        shared.done.set_message(format!("{} operations", shared.next.load(Ordering::Relaxed)));
    }
    shared.stop.store(true, Ordering::Relaxed);
}

/// Lets an operation begin when its time has come, to the very end of the plan.
#[allow(clippy::disallowed_methods)]
fn pacer(shared: &Shared<'_>, rate: f64) {
    let start = shared.start();
    let last = shared.plan.operations.is_none().then_some(start + shared.plan.duration);
    let mut released = 0;
    while shared.plan.operations.is_none_or(|total| released < total) {
        let due = start + Duration::from_secs_f64(released as f64 / rate);
        std::thread::sleep(last.map_or(due, |last| due.min(last)).saturating_duration_since(Instant::now()));
        if last.is_some_and(|last| due > last) {
            break;
        }
        shared.due.add_permits(1);
        released += 1;
    }
    shared.end.store(released, Ordering::Relaxed);
    // Who waits for one that will not come ends.
    shared.due.add_permits(shared.plan.connections.max(1));
}

/// All connections of a thread, by their numbers.
async fn work(shared: &Shared<'_>, numbers: impl Iterator<Item = usize>) -> Measured {
    let meant = Verb::ALL.into_iter().filter(|&verb| shared.plan.mix.weight(verb) > 0);
    let measured = RefCell::new(meant.map(|verb| (verb.name(), Figures::default())).collect());
    let workers: Vec<_> = numbers.map(|number| Worker::new(shared, &measured, number as u64)).collect();
    let start = shared.start();
    join_all(workers.into_iter().map(|worker| worker.work(start))).await;
    measured.into_inner()
}

/// One connection.
struct Worker<'a> {
    shared: &'a Shared<'a>,
    measured: &'a RefCell<Measured>,
    client: Client,
    dice: u64,
    /// Where its walk through the listing has come to: the token of the next page, and the last key seen.
    walk: Option<(String, String)>,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared<'a>, measured: &'a RefCell<Measured>, number: u64) -> Self {
        let plan = shared.plan;
        Self {
            shared,
            measured,
            client: Client::new(plan.target.clone(), plan.payload),
            dice: 0x2545_f491_4f6c_dd1d_u64.wrapping_mul(number + 1) | 1,
            walk: None,
        }
    }

    #[allow(clippy::disallowed_methods)]
    async fn work(mut self, start: Instant) {
        let (shared, plan) = (self.shared, self.shared.plan);
        loop {
            if plan.rate.is_some() {
                shared.due.acquire().await.expect("it is never closed").forget();
            }
            let turn = shared.next.fetch_add(1, Ordering::Relaxed);
            if turn >= shared.end.load(Ordering::Relaxed) || shared.stop.load(Ordering::Relaxed) {
                return;
            }
            let due = plan.rate.map_or_else(Instant::now, |rate| start + Duration::from_secs_f64(turn as f64 / rate));
            let roll = self.roll();
            let verb = plan.mix.pick(roll);
            // Puts take the keys in turn, so that `put` fills exactly the keys that `get` reads; others choose at random.
            let index = if verb == Verb::Put { turn } else { self.roll() } % plan.keys;
            let outcome = self.perform(verb, index).await;
            let mut measured = self.measured.borrow_mut();
            let entry = measured.entry(verb.name()).or_default();
            match outcome {
                Ok(bytes) => entry.success(due.elapsed(), bytes),
                Err(why) => entry.error(format!("{why:#}")),
            }
            if plan.operations.is_some() {
                shared.done.inc(1);
            }
        }
    }

    fn roll(&mut self) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice >> 8
    }

    /// One operation; the body bytes that it moved.
    async fn perform(&mut self, verb: Verb, index: u64) -> Result<u64> {
        let plan = self.shared.plan;
        let key = format!("{}{index:08}", plan.prefix);
        let size = plan.sizes[(index % plan.sizes.len() as u64) as usize];
        let seed = body::seed_of(&key);
        // Where the load deletes, a key may be gone.
        let may_be_gone = |outcome: Result<u64>| match outcome {
            Err(error) if plan.mix.weight(Verb::Delete) > 0 && is_not_found(&error) => Ok(0),
            outcome => outcome,
        };
        match verb {
            Verb::Put => self.client.put(&key, seed, size, plan.part_size).await,
            Verb::Get => may_be_gone(self.client.get(&key, seed, size, plan.verify).await),
            Verb::Head => may_be_gone(self.client.head(&key).await.map(|()| 0)),
            Verb::Delete => self.client.delete(&key).await.map(|()| 0),
            Verb::List => self.list().await,
        }
    }

    /// The next page of this connection's walk; after the last one the walk begins anew.
    async fn list(&mut self) -> Result<u64> {
        let (token, mut last) = self.walk.take().unzip();
        let page = self.client.list(&self.shared.plan.prefix, token.as_deref()).await?;
        if self.shared.plan.verify {
            for key in page.keys {
                ensure!(last.as_ref().is_none_or(|last| *last < key), "the listing is out of order at {key:?}");
                last = Some(key);
            }
        }
        self.walk = page.token.map(|token| (token, last.unwrap_or_default()));
        Ok(page.bytes)
    }
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| refused.status == 404)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_come_by_their_weights() {
        let mix = Mix::default().with(Verb::Get, 3).with(Verb::Delete, 1);
        let mut picked = [0; Verb::ALL.len()];
        (0..400).for_each(|roll| picked[mix.pick(roll) as usize] += 1);
        assert_eq!(picked, [0, 300, 0, 0, 100]);
        assert_eq!(Mix::default().pick(7), Verb::Get);
    }
}
