//! What may still be asked of each backend this month: this instance's leases of their budgets (policy/usage.rs), shared by
//! all its cores.
//!
//! A call is admitted by taking its request and its bytes from what is left of the leases, before anything is sent; what was
//! not sent or moved in the end is given back. So what is admitted never exceeds what was lent. When a lease runs low the
//! lender (workers/lend.rs) is rung for; a call that does not fit waits for its answer. A backend without a budget costs one
//! look. Indexes are those of the published view.

use crate::base::{BackendName, Clock};
use crate::policy::usage::{BackendCall, Budget, CallSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

/// A call waits so long for the lender: longer than the database may take to answer.
const LENDER_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks whether it has answered, doubling.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_MAX: Duration = Duration::from_millis(50);
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

/// The month, counted from the start, whose lease something was taken from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Month(u32);

/// Why a call may not be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denied {
    /// The month's budget does not have it.
    Spent,
    /// The lease does not have it, and the database did not say whether there is more.
    Unanswered,
}

/// Wakes the lender. Never blocks.
pub type Ring = Box<dyn Fn() + Send + Sync>;

pub struct Budgets {
    month: AtomicU32,
    backends: Box<[Box<[Counter]>]>,
    ring: Ring,
}

impl Budgets {
    /// Nothing is lent yet. The backends in the view's order.
    pub fn new<'b>(backends: impl IntoIterator<Item = (&'b BackendName, &'b Budget)>, ring: Ring) -> Self {
        let backends = backends.into_iter().map(|(name, budget)| counters(name, budget)).collect();
        Self { month: AtomicU32::new(0), backends, ring }
    }

    /// Whether a backend has limits or counts pools of requests.
    pub fn is_metered(&self, backend: usize) -> bool {
        self.of(backend).iter().next().is_some()
    }

    fn of(&self, backend: usize) -> &[Counter] {
        self.backends.get(backend).map_or(&[], |counters| counters)
    }

    /// All counters of all backends.
    pub fn counters(&self) -> impl Iterator<Item = &Counter> {
        self.backends.iter().flatten()
    }

    fn month(&self) -> Month {
        Month(self.month.load(SeqCst))
    }

    /// Whether a call would be admitted, as far as is known here: what was lent, and what is free to be lent.
    pub fn has_room(&self, backend: usize, spend: &Spend) -> bool {
        let month = self.month();
        self.of(backend).iter().all(|counter| counter.could_cover(month, counter.amount(spend)))
    }

    /// Takes what a call needs, whole or not at all, waiting for the lender at most a few seconds. Give back with
    /// `give_back`. Cancel: safe, nothing is taken.
    pub async fn admit(&self, clock: &impl Clock, backend: usize, spend: &Spend) -> Result<Month, Denied> {
        for _ in 0..ROUNDS_MAX {
            let short = match self.try_admit(backend, spend) {
                Ok(month) => return Ok(month),
                Err(short) => short,
            };
            let amount = short.amount(spend);
            if !short.could_cover(self.month(), amount) {
                return Err(Denied::Spent);
            }
            let answers = short.answers.load(SeqCst);
            short.want(amount);
            (self.ring)();
            short.next_answer(clock, answers).await?;
        }
        Err(Denied::Spent)
    }

    /// `admit` as far as the lease has it.
    pub fn admit_now(&self, backend: usize, spend: &Spend) -> Option<Month> {
        self.try_admit(backend, spend).ok()
    }

    /// Says that a call of this kind waits, as `admit` does, for a test that is its own lender.
    #[cfg(test)]
    pub(crate) fn ask_for(&self, backend: usize, spend: &Spend) {
        self.of(backend).iter().for_each(|counter| counter.want(counter.amount(spend)));
    }

    fn try_admit(&self, backend: usize, spend: &Spend) -> Result<Month, &Counter> {
        let (counters, month) = (self.of(backend), self.month());
        for (i, counter) in counters.iter().enumerate() {
            if counter.take(month, counter.amount(spend), &self.ring) {
                continue;
            }
            for taken in &counters[..i] {
                taken.add(month, taken.amount(spend));
            }
            return Err(counter);
        }
        Ok(month)
    }

    /// Counts what is never refused: deletes, the ends of uploads, looks at whose backend it is.
    pub fn charge(&self, backend: usize, spend: &Spend) -> Month {
        let month = self.month();
        for counter in self.of(backend) {
            counter.slot(month).fetch_sub(signed(counter.amount(spend)), SeqCst);
        }
        month
    }

    /// What was taken in this month and then not used.
    pub fn give_back(&self, backend: usize, month: Month, spend: &Spend) {
        for counter in self.of(backend) {
            counter.add(month, counter.amount(spend));
        }
    }

    /// A new month: what was lent of the old one is worth nothing any more.
    pub fn turn(&self) {
        let next = Month(self.month().0.wrapping_add(1));
        for counter in self.counters() {
            // Used two months ago last: nothing that was taken then is still under way.
            counter.slot(next).store(0, SeqCst);
            counter.free.store(counter.limit, SeqCst);
        }
        self.month.store(next.0, SeqCst);
    }
}

fn counters(backend: &BackendName, budget: &Budget) -> Box<[Counter]> {
    let counter = |name: String, what, limit| Counter::new(backend.clone(), name, what, limit);
    let pools = budget
        .pools
        .iter()
        .map(|pool| counter(pool_counter(pool.calls, &pool.name), What::Calls(pool.calls), pool.limit));
    let bytes =
        [("egress_bytes", What::Egress, budget.egress_bytes), ("ingress_bytes", What::Ingress, budget.ingress_bytes)];
    let bytes = bytes.into_iter().filter(|(_, _, limit)| *limit > 0);
    pools.chain(bytes.map(|(name, what, limit)| counter(name.to_owned(), what, limit))).collect()
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
    pub limit: u64,
    what: What,
    /// Lent and not taken, of this month and the last: what was taken before the turn is given back to its own.
    left: [AtomicI64; 2],
    /// What nobody had been lent when the database was last asked.
    free: AtomicU64,
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
    fn new(backend: BackendName, name: String, what: What, limit: u64) -> Self {
        Self {
            backend,
            name,
            limit,
            what,
            left: [AtomicI64::new(0), AtomicI64::new(0)],
            free: AtomicU64::new(limit),
            low: AtomicI64::new(i64::MIN),
            waiting: AtomicU64::new(0),
            least: AtomicU64::new(u64::MAX),
            answers: AtomicU64::new(0),
            unanswered: AtomicBool::new(false),
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

    fn slot(&self, month: Month) -> &AtomicI64 {
        &self.left[(month.0 & 1) as usize]
    }

    fn could_cover(&self, month: Month, amount: u64) -> bool {
        let left = self.slot(month).load(Relaxed);
        amount == 0 || self.limit == 0 || i128::from(left) + i128::from(self.free.load(Relaxed)) >= i128::from(amount)
    }

    fn take(&self, month: Month, amount: u64, ring: &Ring) -> bool {
        if amount == 0 {
            return true;
        }
        let (slot, amount) = (self.slot(month), signed(amount));
        if self.limit == 0 {
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

    fn add(&self, month: Month, amount: u64) {
        if amount > 0 {
            self.slot(month).fetch_add(signed(amount), SeqCst);
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
        self.slot(budgets.month()).load(SeqCst)
    }

    /// So much more was lent.
    pub fn lend(&self, budgets: &Budgets, amount: u64) {
        self.add(budgets.month(), amount);
    }

    /// Takes the rest of the lease out of every core's reach; how much that was.
    pub fn take_rest(&self, budgets: &Budgets) -> u64 {
        let taken = self.slot(budgets.month()).fetch_update(SeqCst, Relaxed, |left| (left > 0).then_some(0));
        taken.map_or(0, i64::unsigned_abs)
    }

    /// The least that a call waits for, and the sum, since this was last asked; `(0, 0)` when none waits.
    pub fn take_wants(&self) -> (u64, u64) {
        let waiting = self.waiting.swap(0, SeqCst);
        let least = self.least.swap(u64::MAX, SeqCst);
        if waiting == 0 { (0, 0) } else { (least.min(waiting), waiting) }
    }

    /// The database has answered: what nobody has been lent, and below which rest to ask again.
    pub fn answered(&self, free: u64, low: i64) {
        self.free.store(free, SeqCst);
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
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
