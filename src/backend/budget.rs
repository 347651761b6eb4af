//! What may still be asked of each backend this month: this instance's leases of their budgets (policy/usage.rs), shared by
//! all its cores.
//!
//! A call is admitted by taking its request and its bytes from what is left of the leases, before anything is sent; what was
//! not sent or moved in the end is given back. So what is admitted never exceeds what was lent. When a lease runs low the
//! lender (workers/lend.rs) is rung for; a call that does not fit waits for its answer. A backend without a budget costs one
//! look. Indexes are those of the published view.
//!
//! Limits may be changed while calls are under way (`set_limits`), by the lender alone.

use crate::base::{BackendName, Clock};
use crate::policy::usage::{BackendCall, Budget, CallSet, RequestPool};
use crate::store::port::Usage;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

mod bodies;
use bodies::Bodies;

/// A call waits so long for the lender: longer than the database may take to answer.
const LENDER_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks whether it has answered, doubling.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_MAX: Duration = Duration::from_millis(50);
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
            let answers = short.answers.load(SeqCst);
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
            counter.slot(now).fetch_sub(signed(counter.amount(spend)), SeqCst);
        }
        now
    }

    /// Before its bytes are taken: whoever turns the month sees it under way, or it begins in the new one. Answers when.
    fn begin_body(&self, counters: &[Counter], whole: &Spend) -> Taken {
        loop {
            // A month is closed after it was left.
            let now = self.now();
            let closed = counters.iter().position(|counter| !counter.bodies.begin(now.month, counter.bytes(whole)));
            let Some(closed) = closed else { return now };
            counters[..closed].iter().for_each(|begun| begun.never_taken(now, begun.bytes(whole)));
        }
    }

    pub fn has_turned(&self, taken: Taken) -> bool {
        self.now().month != taken.month
    }

    /// The month has turned over a body of `whole`: only `rest` of it is the new month's. Answers when that was taken.
    pub fn body_goes_on(&self, backend: usize, taken: Taken, whole: &Spend, rest: &Spend) -> Taken {
        let now = Taken { month: self.now().month, unasked: true, ..taken };
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
    /// is the new month's: it begins with so much less.
    pub fn turn(&self) {
        let now = self.now();
        let next = Taken { month: now.month.wrapping_add(1), ..now };
        for counter in self.every_counter() {
            // Used two months ago last: nothing that was taken then is still under way.
            counter.slot(next).store(0, SeqCst);
            counter.bodies.open(next.month);
            counter.free.store(counter.limit(), SeqCst);
            counter.held_back.store(0, SeqCst);
        }
        self.set_now(next);
        for counter in self.every_counter() {
            let carried = counter.bodies.close(now.month);
            if counter.is_on() {
                counter.carry_over(next, carried);
            }
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

/// What a budget counts, or would if it had a limit.
struct Wanted {
    name: String,
    what: What,
    limit: u64,
    is_on: bool,
}

/// What usage is recorded of anyway can be given a limit at any time. Pools are counted from the start.
fn wanted(budget: &Budget) -> Vec<Wanted> {
    let pool = |pool: &RequestPool| {
        let name = pool_counter(pool.calls, &pool.name);
        Wanted { name, what: What::Calls(pool.calls), limit: pool.limit, is_on: true }
    };
    let mut wanted: Vec<Wanted> = budget.pools.iter().map(pool).collect();
    if wanted.is_empty() {
        let (name, what) = (ALL_REQUESTS.to_owned(), What::Calls(CallSet::ALL));
        wanted.push(Wanted { name, what, limit: 0, is_on: false });
    }
    for (name, what, limit) in
        [("egress_bytes", What::Egress, budget.egress_bytes), ("ingress_bytes", What::Ingress, budget.ingress_bytes)]
    {
        wanted.push(Wanted { name: name.to_owned(), what, limit, is_on: limit > 0 });
    }
    wanted
}

fn counters(backend: &BackendName, budget: &Budget) -> Box<[Counter]> {
    wanted(budget).into_iter().map(|want| Counter::new(backend.clone(), want)).collect()
}

/// The counter of the pool of all requests (`api_request_limit`): the one that usage is recorded under anyway.
pub const ALL_REQUESTS: &str = "api_requests";
pub const ALL_POOL: &str = "all";
/// Stands before the name of any other pool.
pub const POOL_PREFIX: &str = "pool:";

fn pool_counter(calls: CallSet, name: &str) -> String {
    if calls == CallSet::ALL && name == ALL_POOL { ALL_REQUESTS.to_owned() } else { format!("{POOL_PREFIX}{name}") }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Calls(CallSet),
    Egress,
    Ingress,
}

/// One budget of one backend.
#[derive(Debug)]
pub struct Counter {
    pub backend: BackendName,
    /// As the store calls it.
    pub name: String,
    /// 0 = none: only counted, below zero.
    limit: AtomicU64,
    /// Whether it is counted at all; and since which change of the limits: what was taken before is not in it.
    is_on: AtomicBool,
    since: AtomicU32,
    what: What,
    /// Lent and not taken, of this month and the last: what was taken before the turn is given back to its own.
    left: [AtomicI64; 2],
    /// What bytes were taken for.
    bodies: Bodies,
    /// What nobody had been lent when the database was last asked, and what of that was not to be had yet.
    free: AtomicU64,
    held_back: AtomicU64,
    /// The lender is rung for when less than this is left.
    low: AtomicI64,
    /// What calls wait for since the lender last looked: the sum, and the least of them.
    waiting: AtomicU64,
    least: AtomicU64,
    /// The lender's answers so far, and whether the last one knows nothing.
    answers: AtomicU64,
    unanswered: AtomicBool,
}

impl Counter {
    fn new(backend: BackendName, want: Wanted) -> Self {
        Self {
            backend,
            name: want.name,
            limit: AtomicU64::new(want.limit),
            is_on: AtomicBool::new(want.is_on),
            since: AtomicU32::new(0),
            what: want.what,
            left: [AtomicI64::new(0), AtomicI64::new(0)],
            bodies: Bodies::default(),
            free: AtomicU64::new(want.limit),
            held_back: AtomicU64::new(0),
            low: AtomicI64::new(i64::MIN),
            waiting: AtomicU64::new(0),
            least: AtomicU64::new(u64::MAX),
            answers: AtomicU64::new(0),
            unanswered: AtomicBool::new(false),
        }
    }

    pub fn limit(&self) -> u64 {
        self.limit.load(Relaxed)
    }

    pub fn is_on(&self) -> bool {
        self.is_on.load(SeqCst)
    }

    /// Whether it was switched on by it.
    fn set_limit(&self, want: &Wanted, next: Taken) -> bool {
        let old = self.limit.swap(want.limit, SeqCst);
        // As far as is known before the lender has asked.
        let _ = self.free.fetch_update(SeqCst, Relaxed, |free| {
            Some(if want.limit > old { free.saturating_add(want.limit - old) } else { free.min(want.limit) })
        });
        if want.is_on == self.is_on() {
            return false;
        }
        if want.is_on {
            self.slot(next).store(0, SeqCst);
            self.since.store(next.limits, SeqCst);
        }
        self.is_on.store(want.is_on, SeqCst);
        want.is_on
    }

    /// What `UsageRow`s say of the same, where they do.
    pub fn of_usage(&self, usage: &Usage) -> u64 {
        match self.what {
            What::Calls(calls) if calls == CallSet::ALL => usage.api_requests,
            What::Calls(_) => 0,
            What::Egress => usage.egress_bytes,
            What::Ingress => usage.ingress_bytes,
        }
    }

    /// Requests, not bytes.
    pub fn counts_calls(&self) -> bool {
        matches!(self.what, What::Calls(_))
    }

    fn amount(&self, spend: &Spend) -> u64 {
        match self.what {
            What::Calls(calls) => u64::from(spend.call.is_some_and(|call| calls.contains(call))),
            What::Egress => spend.egress,
            What::Ingress => spend.ingress,
        }
    }

    fn bytes(&self, spend: &Spend) -> u64 {
        if self.counts_calls() { 0 } else { self.amount(spend) }
    }

    /// `rest` was not used of what was taken then for a body of `whole`, or for a request.
    fn body_ends(&self, taken: Taken, whole: u64, rest: u64) {
        if whole == 0 {
            self.give_back(taken, rest);
        } else if self.bodies.end(taken.month, whole) {
            // Others may take it only now: no more is ever under way than was lent.
            let given = self.give_back(taken, rest);
            self.bodies.spent(taken.month, whole.saturating_sub(given));
        } else {
            self.carried_ends(after(taken), whole);
        }
    }

    /// A body was begun then, and its bytes were not taken.
    fn never_taken(&self, at: Taken, whole: u64) {
        if !self.bodies.end(at.month, whole) {
            self.carried_ends(after(at), whole);
        }
    }

    fn body_goes_on(&self, taken: Taken, now: Taken, whole: u64, rest: u64) {
        if whole == 0 {
            return;
        }
        // Carried over unasked: what the other instances were lent leaves room for it (store/lending.rs), but a limit that
        // was lowered may not.
        let months = now.month.wrapping_sub(taken.month);
        if months > 1 || self.bodies.is_closed(taken.month) {
            return self.carried_ends(now, whole.saturating_sub(rest));
        }
        // The turn is about to. First what the new month has of it, so that it is in no instant nobody's.
        self.bodies.begin(now.month, rest);
        if self.is_on() {
            self.carry_over(now, rest);
        }
        if !self.bodies.end(taken.month, whole) {
            self.carried_ends(now, whole);
        }
    }

    /// So many bytes that the turn has carried over are the new month's no more, or never were.
    fn carried_ends(&self, now: Taken, bytes: u64) {
        self.bodies.end(now.month, bytes);
        let given = self.give_back(now, bytes);
        self.bodies.spent(now.month, bytes.saturating_sub(given));
    }

    /// Taken without asking: the lender holds it next.
    fn carry_over(&self, at: Taken, bytes: u64) {
        self.slot(at).fetch_sub(signed(bytes), SeqCst);
    }

    fn slot(&self, at: Taken) -> &AtomicI64 {
        &self.left[(at.month & 1) as usize]
    }

    fn could_cover(&self, now: Taken, amount: u64) -> bool {
        self.covers(now, amount, self.free.load(Relaxed).saturating_add(self.held_back.load(Relaxed)))
    }

    fn is_held_back(&self, now: Taken, amount: u64) -> bool {
        !self.covers(now, amount, self.free.load(Relaxed)) && self.could_cover(now, amount)
    }

    fn covers(&self, now: Taken, amount: u64, more: u64) -> bool {
        let left = self.slot(now).load(Relaxed);
        amount == 0 || !self.is_on() || self.limit() == 0 || i128::from(left) + i128::from(more) >= i128::from(amount)
    }

    fn take(&self, now: Taken, amount: u64, ring: &Ring) -> bool {
        if amount == 0 || !self.is_on() {
            return true;
        }
        let (slot, amount) = (self.slot(now), signed(amount));
        if self.limit() == 0 {
            slot.fetch_sub(amount, SeqCst);
            return true;
        }
        let Ok(before) = slot.fetch_update(SeqCst, Relaxed, |left| (left >= amount).then(|| left - amount)) else {
            return false;
        };
        let low = self.low.load(Relaxed);
        if before >= low && before - amount < low {
            ring();
        }
        true
    }

    /// What was taken before it was switched on was not taken from it. What was taken unasked only makes what is owed less:
    /// the lender may have covered it since, beyond the limit, and then it makes room for nobody. Answers how much was given.
    fn give_back(&self, taken: Taken, amount: u64) -> u64 {
        if amount == 0 || !self.is_on() || taken.limits < self.since.load(SeqCst) {
            return 0;
        }
        if !taken.unasked {
            self.add(taken, amount);
            return amount;
        }
        let less = |left: i64| (left < 0).then(|| left.saturating_add(signed(amount)).min(0));
        let owed = self.slot(taken).fetch_update(SeqCst, Relaxed, less);
        owed.map_or(0, |owed| owed.unsigned_abs().min(amount)) // or nothing is owed any more
    }

    fn add(&self, at: Taken, amount: u64) {
        if amount > 0 {
            self.slot(at).fetch_add(signed(amount), SeqCst);
        }
    }

    fn want(&self, amount: u64) {
        self.least.fetch_min(amount, SeqCst);
        self.waiting.fetch_add(amount, SeqCst);
    }

    /// Until the lender has answered after so many answers.
    async fn next_answer(&self, clock: &impl Clock, answers: u64) -> Result<(), Denied> {
        let (since, mut look) = (clock.tick(), LOOK_FIRST);
        while self.answers.load(SeqCst) == answers {
            if clock.tick().since(since) > LENDER_PATIENCE {
                return Err(Denied::Unanswered);
            }
            clock.sleep(look).await;
            look = (look * 2).min(LOOK_MAX);
        }
        if self.unanswered.load(SeqCst) { Err(Denied::Unanswered) } else { Ok(()) }
    }
}

/// The lender's side.
impl Counter {
    /// What is left of this month's lease; below zero is what was spent beyond it without asking.
    pub fn left(&self, budgets: &Budgets) -> i64 {
        self.slot(budgets.now()).load(SeqCst)
    }

    /// So much more was lent.
    pub fn lend(&self, budgets: &Budgets, amount: u64) {
        self.add(budgets.now(), amount);
    }

    /// Covers what was spent without asking; how much that was.
    pub fn cover_debt(&self, budgets: &Budgets) -> u64 {
        let owed = self.slot(budgets.now()).fetch_update(SeqCst, Relaxed, |left| (left < 0).then_some(0));
        owed.map_or(0, i64::unsigned_abs)
    }

    /// Takes the rest of the lease out of every core's reach; how much that was.
    pub fn take_rest(&self, budgets: &Budgets) -> u64 {
        let taken = self.slot(budgets.now()).fetch_update(SeqCst, Relaxed, |left| (left > 0).then_some(0));
        taken.map_or(0, i64::unsigned_abs)
    }

    /// The least that a call waits for, and the sum, since this was last asked; `(0, 0)` when none waits.
    pub fn take_wants(&self) -> (u64, u64) {
        let waiting = self.waiting.swap(0, SeqCst);
        let least = self.least.swap(u64::MAX, SeqCst);
        if waiting == 0 { (0, 0) } else { (least.min(waiting), waiting) }
    }

    /// The most of this month's bytes that bodies may have under way, given what has ended of them: they were taken out of
    /// `spent`, of which `before` was spent before any of them began.
    pub fn under_way(&self, budgets: &Budgets, spent: u64, before: i64) -> u64 {
        if self.counts_calls() {
            return 0;
        }
        let ended = i64::try_from(self.bodies.ended(budgets.now().month)).unwrap_or(i64::MAX);
        u64::try_from(i64::try_from(spent).unwrap_or(i64::MAX).saturating_sub(before).saturating_sub(ended))
            .unwrap_or(0)
    }

    /// What of `spent` bodies do not have under way: the `before` of a counter that was just switched on.
    pub fn not_under_way(&self, budgets: &Budgets, spent: u64) -> i64 {
        // In this order: a body that ends between is under way.
        let month = budgets.now().month;
        let (under_way, ended) = (self.bodies.under_way(month), self.bodies.ended(month));
        signed(spent).saturating_sub(signed(under_way)).saturating_sub(signed(ended))
    }

    /// The database has answered: what nobody has been lent, what is free besides but not to be had yet, and below which
    /// rest to ask again.
    pub fn answered(&self, free: u64, held_back: u64, low: i64) {
        self.free.store(free, SeqCst);
        self.held_back.store(held_back, SeqCst);
        self.low.store(low, SeqCst);
        self.unanswered.store(false, SeqCst);
        self.answers.fetch_add(1, SeqCst);
    }

    /// It has not.
    pub fn not_answered(&self) {
        self.unanswered.store(true, SeqCst);
        self.answers.fetch_add(1, SeqCst);
    }

    pub fn free(&self) -> u64 {
        self.free.load(SeqCst)
    }

    pub fn held_back(&self) -> u64 {
        self.held_back.load(SeqCst)
    }
}

/// What the turn has just carried over.
fn after(taken: Taken) -> Taken {
    Taken { month: taken.month.wrapping_add(1), unasked: true, ..taken }
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
