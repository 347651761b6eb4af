//! What may still be asked of each backend this month: this instance's leases of their budgets (policy/usage.rs), shared by
//! all its cores.
//!
//! A call is admitted by taking its request and its bytes from what is left of the leases, before anything is sent; what was
//! not sent or moved in the end is given back. So what is admitted never exceeds what was lent. When a lease runs low the
//! lender (workers/lend.rs) is rung for; a call that does not fit waits for its answer. A backend without a budget costs one
//! look. Indexes are those of the published view.
//!
//! Limits may be changed while calls are under way (`set_limits`), by the lender alone.

use crate::base::{BackendName, Clock, Tick};
use crate::policy::usage::{BackendCall, Budget};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

mod bodies;
mod counter;
pub use counter::{ALL_POOL, ALL_REQUESTS, Counter, POOL_PREFIX};
use counter::{Wanted, wanted};

/// A call waits so long for the lender: longer than the database may take to answer.
const LENDER_PATIENCE: Duration = Duration::from_secs(5);
/// Between two questions for what is held back.
const HELD_BACK_LOOK: Duration = Duration::from_millis(200);
/// Answers that others were faster to use up.
const ROUNDS_MAX: u32 = 32;

/// What a call takes from a backend's budget.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Spend {
    /// One request of this kind.
    pub call: Option<BackendCall>,
    /// Body bytes to be read from the backend.
    pub egress: u64,
    /// Body bytes to be written to it.
    pub ingress: u64,
}

impl Spend {
    pub fn call(call: BackendCall) -> Self {
        Self { call: Some(call), ..Self::default() }
    }
}

/// When something was taken from a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken {
    /// Counted from the start.
    month: u32,
    /// How often the limits had been changed.
    limits: u32,
    /// By a call that is never refused, whatever was left.
    unasked: bool,
}

/// A body that was paid for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fare {
    /// Its index in the published view.
    pub backend: usize,
    pub taken: Taken,
}

/// Why a call may not be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denied {
    /// The month's budget does not have it.
    Spent,
    /// The lease does not have it, and the database did not say whether there is more.
    Unanswered,
    /// What is left of the budget is held back for instances that have not begun the month yet.
    HeldBack,
}

/// Wakes the lender. Never blocks.
pub type Ring = Box<dyn Fn() + Send + Sync>;

pub struct Budgets {
    /// The present `Taken`, in one word: the month above the changes of the limits.
    now: AtomicU64,
    backends: Box<[Metered]>,
    ring: Ring,
}

struct Metered {
    /// Whether any of the counters is.
    is_on: AtomicBool,
    counters: Box<[Counter]>,
}

impl Budgets {
    /// Nothing is lent yet. The backends in the view's order.
    pub fn new<'b>(backends: impl IntoIterator<Item = (&'b BackendName, &'b Budget)>, ring: Ring) -> Self {
        let metered = |(name, budget)| {
            let counters = counters(name, budget);
            Metered { is_on: AtomicBool::new(counters.iter().any(Counter::is_on)), counters }
        };
        Self { now: AtomicU64::new(0), backends: backends.into_iter().map(metered).collect(), ring }
    }

    /// Whether a backend has limits or counts pools of requests.
    pub fn is_metered(&self, backend: usize) -> bool {
        self.backends.get(backend).is_some_and(|metered| metered.is_on.load(Relaxed))
    }

    /// What is counted of a backend, or could be: its part of `every_counter`.
    pub fn of(&self, backend: usize) -> &[Counter] {
        self.backends.get(backend).map_or(&[], |metered| &metered.counters)
    }

    /// What is counted of all backends.
    pub fn counters(&self) -> impl Iterator<Item = &Counter> {
        self.every_counter().filter(|counter| counter.is_on())
    }

    /// And what could be, if it had a limit: always the same ones.
    pub fn every_counter(&self) -> impl Iterator<Item = &Counter> {
        self.backends.iter().flat_map(|metered| &metered.counters)
    }

    /// Where the counters of each backend begin among all of them.
    pub fn starts(&self) -> impl Iterator<Item = usize> {
        self.backends.iter().scan(0, |next, metered| Some(std::mem::replace(next, *next + metered.counters.len())))
    }

    fn now(&self) -> Taken {
        let now = self.now.load(SeqCst);
        Taken { month: (now >> 32) as u32, limits: now as u32, unasked: false }
    }

    /// Whether a call would be admitted, as far as is known here: what was lent, and what is free to be lent.
    pub fn has_room(&self, backend: usize, spend: &Spend) -> bool {
        let now = self.now();
        self.of(backend).iter().all(|counter| counter.could_cover(now, counter.amount(spend)))
    }

    /// Takes what a call needs, whole or not at all, waiting for the lender at most a few seconds. Its body is under way from
    /// then on, until `body_ends` gives back the rest. Cancel: safe, nothing is taken.
    pub async fn admit(&self, clock: &impl Clock, backend: usize, spend: &Spend) -> Result<Taken, Denied> {
        let since = clock.tick();
        for _ in 0..ROUNDS_MAX {
            let short = match self.try_admit(backend, spend) {
                Ok(taken) => return Ok(taken),
                Err(short) => short,
            };
            let amount = short.amount(spend);
            if !short.could_cover(self.now(), amount) {
                return Err(Denied::Spent);
            }
            let answers = short.answers();
            short.want(amount);
            (self.ring)();
            short.next_answer(clock, answers).await?;
            if short.is_held_back(self.now(), amount) {
                if clock.tick().since(since) > LENDER_PATIENCE {
                    return Err(Denied::HeldBack);
                }
                clock.sleep(HELD_BACK_LOOK).await;
            }
        }
        Err(Denied::Spent)
    }

    /// `admit` as far as the lease has it.
    pub fn admit_now(&self, backend: usize, spend: &Spend) -> Option<Taken> {
        self.try_admit(backend, spend).ok()
    }

    /// Says that a call of this kind waits, as `admit` does, for a test that is its own lender.
    #[cfg(test)]
    pub(crate) fn ask_for(&self, backend: usize, spend: &Spend) {
        self.of(backend).iter().for_each(|counter| counter.want(counter.amount(spend)));
    }

    fn try_admit(&self, backend: usize, spend: &Spend) -> Result<Taken, &Counter> {
        let counters = self.of(backend);
        let now = self.begin_body(counters, spend);
        for (i, counter) in counters.iter().enumerate() {
            if counter.take(now, counter.amount(spend), &self.ring) {
                continue;
            }
            counters[..i].iter().for_each(|taken| taken.body_ends(now, taken.bytes(spend), taken.amount(spend)));
            counters[i..].iter().for_each(|begun| begun.never_taken(now, begun.bytes(spend)));
            return Err(counter);
        }
        Ok(now)
    }

    /// Counts what is never refused: deletes, the ends of uploads, looks at whose backend it is.
    pub fn charge(&self, backend: usize, spend: &Spend) -> Taken {
        let counters = self.of(backend);
        let now = Taken { unasked: true, ..self.begin_body(counters, spend) };
        for counter in counters.iter().filter(|counter| counter.is_on()) {
            counter.take_unasked(now, counter.amount(spend));
        }
        now
    }

    /// Before its bytes are taken: whoever turns the month sees it under way, or it begins in the new one. Answers when.
    fn begin_body(&self, counters: &[Counter], whole: &Spend) -> Taken {
        loop {
            // A month is closed after it was left.
            let now = self.now();
            let closed = counters.iter().position(|counter| !counter.body_begins(now, counter.bytes(whole)));
            let Some(closed) = closed else { return now };
            counters[..closed].iter().for_each(|begun| begun.never_taken(now, begun.bytes(whole)));
        }
    }

    /// Asked before each piece of a body is moved. False: the month has ended, or ends, without the next one's having room for
    /// it, since the database was not told of it in time.
    pub fn may_go_on(&self, fare: Fare, now: impl Fn() -> Tick) -> bool {
        self.of(fare.backend).iter().all(|counter| counter.may_go_on(fare.taken, &now))
    }

    pub fn has_turned(&self, taken: Taken) -> bool {
        self.now().month != taken.month
    }

    /// The month has turned over a body of `whole`: only `rest` of it is the new month's, or nothing if it was given up. Answers
    /// when that was taken.
    pub fn body_goes_on(&self, backend: usize, taken: Taken, whole: &Spend, rest: &Spend) -> Taken {
        let now = Taken { month: self.now().month, unasked: true, ..taken };
        let mut counters = self.of(backend).iter();
        if counters.any(|counter| counter.bytes(whole) > 0 && counter.is_given_up(taken)) {
            return taken;
        }
        for counter in self.of(backend) {
            counter.body_goes_on(taken, now, counter.bytes(whole), counter.bytes(rest));
        }
        now
    }

    /// A body of `whole` has ended, and `rest` was not used of what was taken for it.
    pub fn body_ends(&self, backend: usize, taken: Taken, whole: &Spend, rest: &Spend) {
        for counter in self.of(backend) {
            counter.body_ends(taken, counter.bytes(whole), counter.amount(rest));
        }
    }

    /// A new month: what was lent of the old one is worth nothing any more. What was taken for bodies that are under way
    /// is the new month's: it begins with so much less. That which the new month has no room for is given up: it is cut.
    pub fn turn(&self) {
        let now = self.now();
        let next = Taken { month: now.month.wrapping_add(1), ..now };
        for counter in self.every_counter() {
            counter.open_month(now, next);
        }
        self.set_now(next);
        for counter in self.every_counter() {
            counter.close_month(now, next);
        }
    }

    fn set_now(&self, now: Taken) {
        self.now.store(u64::from(now.month) << 32 | u64::from(now.limits), SeqCst);
    }

    /// These limits hold from now on. Which counters were switched on by it, by their place among the backend's: what
    /// was used before is not in them. None, and nothing is changed, if the pools are others than from the start.
    pub fn set_limits(&self, backend: usize, budget: &Budget) -> Option<Vec<usize>> {
        let metered = self.backends.get(backend)?;
        let wanted = wanted(budget);
        let is_same = |(counter, want): (&Counter, &Wanted)| counter.name == want.name && counter.what == want.what;
        if metered.counters.len() != wanted.len() || !metered.counters.iter().zip(&wanted).all(is_same) {
            return None;
        }
        let now = self.now();
        let next = Taken { limits: now.limits.wrapping_add(1), ..now };
        let mut switched_on = Vec::new();
        for (place, (counter, want)) in metered.counters.iter().zip(&wanted).enumerate() {
            if counter.set_limit(want, next) {
                switched_on.push(place);
            }
        }
        metered.is_on.store(metered.counters.iter().any(Counter::is_on), SeqCst);
        // Last: whoever takes by it finds the counters as they are to be.
        self.set_now(next);
        Some(switched_on)
    }
}

fn counters(backend: &BackendName, budget: &Budget) -> Box<[Counter]> {
    wanted(budget).into_iter().map(|want| Counter::new(backend.clone(), want)).collect()
}

#[cfg(test)]
mod tests;
