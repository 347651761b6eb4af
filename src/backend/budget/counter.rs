//! One counter of a backend's budget: what is left of its lease, what bodies have under way, what calls wait for.

use super::bodies::Bodies;
use super::{Budgets, Denied, LENDER_PATIENCE, Ring, Spend, Taken};
use crate::base::{BackendName, Clock, Tick};
use crate::policy::usage::{Budget, CallSet, RequestPool};
use crate::store::port::Usage;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

/// Between two looks whether it has answered, doubling.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_MAX: Duration = Duration::from_millis(50);

/// The counter of the pool of all requests (`api_request_limit`): the one that usage is recorded under anyway.
pub const ALL_REQUESTS: &str = "api_requests";
pub const ALL_POOL: &str = "all";
/// Stands before the name of any other pool.
pub const POOL_PREFIX: &str = "pool:";

fn pool_counter(calls: CallSet, name: &str) -> String {
    if calls == CallSet::ALL && name == ALL_POOL { ALL_REQUESTS.to_owned() } else { format!("{POOL_PREFIX}{name}") }
}

const FOR_EVER: u64 = u64::MAX;

/// What a budget counts, or would if it had a limit.
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) what: What,
    pub(super) limit: u64,
    pub(super) is_on: bool,
}

/// What usage is recorded of anyway can be given a limit at any time. Pools are counted from the start.
pub(super) fn wanted(budget: &Budget) -> Vec<Wanted> {
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

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum What {
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
    pub(super) what: What,
    /// Lent and not taken, of this month and the last: what was taken before the turn is given back to its own.
    left: [AtomicI64; 2],
    /// What bytes were taken for.
    bodies: Bodies,
    /// Until when those go on, in nanoseconds of the monotonic clock: to this month's end, or for ever if the next one keeps
    /// room for them.
    go_on_until: AtomicU64,
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
    pub(super) fn new(backend: BackendName, want: Wanted) -> Self {
        Self {
            backend,
            name: want.name,
            limit: AtomicU64::new(want.limit),
            is_on: AtomicBool::new(want.is_on),
            since: AtomicU32::new(0),
            what: want.what,
            left: [AtomicI64::new(0), AtomicI64::new(0)],
            bodies: Bodies::default(),
            go_on_until: AtomicU64::new(FOR_EVER),
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
    pub(super) fn set_limit(&self, want: &Wanted, next: Taken) -> bool {
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

    /// Before anybody takes by the new month.
    pub(super) fn open_month(&self, last: Taken, next: Taken) {
        if !self.counts_calls() && self.go_on_until.load(SeqCst) != FOR_EVER {
            self.bodies.give_up(last.month);
        }
        // Used two months ago last: nothing that was taken then is still under way.
        self.slot(next).store(0, SeqCst);
        self.bodies.open(next.month);
        self.free.store(self.limit(), SeqCst);
        self.held_back.store(0, SeqCst);
    }

    /// What bodies have under way is the next month's from now on, unless they were given up.
    pub(super) fn close_month(&self, last: Taken, next: Taken) {
        let carried = self.bodies.close(last.month);
        if self.is_on() {
            self.take_unasked(next, carried);
        }
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

    pub(super) fn amount(&self, spend: &Spend) -> u64 {
        match self.what {
            What::Calls(calls) => u64::from(spend.call.is_some_and(|call| calls.contains(call))),
            What::Egress => spend.egress,
            What::Ingress => spend.ingress,
        }
    }

    pub(super) fn bytes(&self, spend: &Spend) -> u64 {
        if self.counts_calls() { 0 } else { self.amount(spend) }
    }

    /// Whether more may be moved of a body that was taken for then.
    pub(super) fn may_go_on(&self, taken: Taken, now: impl FnOnce() -> Tick) -> bool {
        if self.counts_calls() || !self.is_on() || self.limit() == 0 {
            return true;
        }
        let until = self.go_on_until.load(SeqCst);
        !self.is_given_up(taken) && (until == FOR_EVER || now().nanos < until)
    }

    pub(super) fn is_given_up(&self, taken: Taken) -> bool {
        self.bodies.is_given_up(taken.month)
    }

    /// False, and nothing has begun: that month is closed.
    pub(super) fn body_begins(&self, at: Taken, whole: u64) -> bool {
        self.bodies.begin(at.month, whole)
    }

    /// `rest` was not used of what was taken then for a body of `whole`, or for a request.
    pub(super) fn body_ends(&self, taken: Taken, whole: u64, rest: u64) {
        if self.is_given_up(taken) {
            // It belongs to a month that has ended.
        } else if whole == 0 {
            self.give_back(taken, rest);
        } else if self.bodies.end(taken.month, whole) {
            // Others may take it only now: no more is ever under way than was lent.
            let given = self.give_back(taken, rest);
            self.bodies.spent(taken.month, whole.saturating_sub(given));
        } else {
            self.carried_ends(taken, after(taken), whole);
        }
    }

    /// A body was begun then, and its bytes were not taken.
    pub(super) fn never_taken(&self, at: Taken, whole: u64) {
        if !self.is_given_up(at) && !self.bodies.end(at.month, whole) {
            self.carried_ends(at, after(at), whole);
        }
    }

    pub(super) fn body_goes_on(&self, taken: Taken, now: Taken, whole: u64, rest: u64) {
        if whole == 0 || self.is_given_up(taken) {
            return;
        }
        // Carried over unasked: what the other instances were lent leaves room for it (store/lending.rs), but a limit that
        // was lowered may not.
        let months = now.month.wrapping_sub(taken.month);
        if months > 1 || self.bodies.is_closed(taken.month) {
            return self.carried_ends(taken, now, whole.saturating_sub(rest));
        }
        // The turn is about to. First what the new month has of it, so that it is in no instant nobody's.
        self.bodies.begin(now.month, rest);
        if self.is_on() {
            self.take_unasked(now, rest);
        }
        if !self.bodies.end(taken.month, whole) {
            self.carried_ends(taken, now, whole);
        }
    }

    /// So many bytes that were taken then, and that the turn has carried over, are the new month's no more, or never were.
    fn carried_ends(&self, taken: Taken, now: Taken, bytes: u64) {
        if self.is_given_up(taken) {
            return; // the turn has just done so
        }
        self.bodies.end(now.month, bytes);
        let given = self.give_back(now, bytes);
        self.bodies.spent(now.month, bytes.saturating_sub(given));
    }

    /// The lender holds it next.
    pub(super) fn take_unasked(&self, at: Taken, bytes: u64) {
        self.slot(at).fetch_sub(signed(bytes), SeqCst);
    }

    fn slot(&self, at: Taken) -> &AtomicI64 {
        &self.left[(at.month & 1) as usize]
    }

    pub(super) fn could_cover(&self, now: Taken, amount: u64) -> bool {
        self.covers(now, amount, self.free.load(Relaxed).saturating_add(self.held_back.load(Relaxed)))
    }

    pub(super) fn is_held_back(&self, now: Taken, amount: u64) -> bool {
        !self.covers(now, amount, self.free.load(Relaxed)) && self.could_cover(now, amount)
    }

    fn covers(&self, now: Taken, amount: u64, more: u64) -> bool {
        let left = self.slot(now).load(Relaxed);
        amount == 0 || !self.is_on() || self.limit() == 0 || i128::from(left) + i128::from(more) >= i128::from(amount)
    }

    pub(super) fn take(&self, now: Taken, amount: u64, ring: &Ring) -> bool {
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

    pub(super) fn want(&self, amount: u64) {
        self.least.fetch_min(amount, SeqCst);
        self.waiting.fetch_add(amount, SeqCst);
    }

    /// How often the lender has answered so far.
    pub(super) fn answers(&self) -> u64 {
        self.answers.load(SeqCst)
    }

    /// Until the lender has answered after so many answers.
    pub(super) async fn next_answer(&self, clock: &impl Clock, answers: u64) -> Result<(), Denied> {
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

    /// What is lent from now on goes on until then; none: into the next month too.
    pub fn set_go_on_until(&self, end: Option<Tick>) {
        self.go_on_until.store(end.map_or(FOR_EVER, |end| end.nanos.min(FOR_EVER - 1)), SeqCst);
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
