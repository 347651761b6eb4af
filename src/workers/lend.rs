//! Borrows from the database what this instance may spend of the backends' monthly budgets, and gives back what it does not
//! need. One per instance, called at its start, when a core has rung, at every flush of usage and at the end.
//!
//! What it holds is written down as absolute values (`LeaseBudgets`), and given back only after no core can take it any
//! more, so whatever answer is lost, no more is spent than the database has lent.

use crate::backend::budget::{Budgets, Counter};
use crate::base::{Failure, Incarnation, Tick, Timestamp};
use crate::policy::usage::{Budget, next_slice};
use crate::proto::date;
use crate::store::port::{BudgetAsk, BudgetLease, LeaseBudgets, Metadata, Usage};
use std::sync::Arc;
use std::time::Duration;

/// The smallest slices, and the largest as a part of the limit.
const CALLS_SLICE_MIN: u64 = 16;
const BYTES_SLICE_MIN: u64 = 16 * 1024 * 1024;
const SLICE_OF_LIMIT: u64 = 16;
/// With less than this part of a limit free, an instance that does not use its rest gives it back.
const SCARCE: u64 = 8;

/// Regular runs are no further apart: bodies may go on over a month's turn only if they were told of in the hour before it.
pub const TELL_WITHIN: Duration = Duration::from_secs(20 * 60);

/// Why the lender runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Occasion {
    /// A lease ran low, or a call waits.
    Rung,
    /// At the start and then regularly: what was spent is told, and what others gave back is heard of.
    Regular,
    /// Nothing will be spent any more.
    End,
}

pub struct Lender {
    budgets: Arc<Budgets>,
    /// `YYYY-MM`.
    period: String,
    /// As the counters.
    ledgers: Vec<Ledger>,
}

#[derive(Default)]
struct Ledger {
    /// All that was lent this month and not given back.
    held: u64,
    slice: u64,
    asked: Option<Timestamp>,
    /// What was spent of a month before any body that is counted there began: of it nothing is under way.
    before: i64,
    /// What was spent at the last regular run.
    spent_then: Option<u64>,
}

impl Lender {
    pub fn new(budgets: Arc<Budgets>, now: Timestamp) -> Self {
        let ledgers = budgets.every_counter().map(|_| Ledger::default()).collect();
        Self { budgets, period: date::month(now), ledgers }
    }

    /// Whether any backend has a budget.
    pub fn has_work(&self) -> bool {
        self.budgets.counters().next().is_some()
    }

    /// These limits hold from now on, one budget per backend; false for a backend whose pools are others than from the start:
    /// nothing is changed for it. What was used without a limit counts: `used`, which is asked for afterwards, says what this
    /// instance has used of the backends this month.
    pub fn set_limits(&mut self, budgets: &[Budget], now: Timestamp, used: impl Fn() -> Vec<Usage>) -> Vec<bool> {
        self.turn_with(now, &used);
        let limits: Vec<u64> = self.budgets.every_counter().map(Counter::limit).collect();
        let changed: Vec<_> = (0..).zip(budgets).map(|(backend, one)| self.budgets.set_limits(backend, one)).collect();
        let used = used();
        let counters: Vec<&Counter> = self.budgets.every_counter().collect();
        for ((counter, ledger), was) in counters.iter().zip(&mut self.ledgers).zip(limits) {
            let limit = counter.limit();
            if limit > 0 && (was == 0 || limit < was) {
                // It was lent under a higher one; what this one still has is lent anew.
                ledger.held -= counter.take_rest(&self.budgets);
            }
        }
        for ((switched_on, start), used) in changed.iter().zip(self.budgets.starts()).zip(&used) {
            for place in switched_on.iter().flatten().map(|place| start + place) {
                let held = counters[place].of_usage(used);
                let before = counters[place].not_under_way(&self.budgets, held);
                self.ledgers[place] = Ledger { held, before, ..Ledger::default() };
            }
        }
        changed.iter().map(Option::is_some).collect()
    }

    /// Every budget of every backend.
    pub fn counters(&self) -> impl Iterator<Item = &Counter> {
        self.budgets.counters()
    }

    /// Whoever waits hears that there is no answer.
    pub fn answer_nobody(&self) {
        self.budgets.counters().for_each(Counter::not_answered);
    }

    /// Asks once, always as the same incarnation. Whoever waits hears the answer, or that there is none. `now` on both clocks;
    /// `used` as for `set_limits`. Cancel: NOT safe.
    pub async fn run<M: Metadata>(
        &mut self,
        meta: &M,
        incarnation: Incarnation,
        occasion: Occasion,
        (tick, now): (Tick, Timestamp),
        used: impl Fn() -> Vec<Usage>,
    ) -> Result<(), Failure> {
        self.turn_with(now, used);
        let (budgets, ledgers) = (Arc::clone(&self.budgets), &mut self.ledgers);
        let counters = || budgets.every_counter();
        let wants: Vec<_> =
            counters().zip(ledgers).map(|(counter, ledger)| ledger.ask(counter, &budgets, occasion, now)).collect();
        if wants.iter().all(Option::is_none) {
            return Ok(());
        }
        let asks = wants.iter().flatten().cloned().collect();
        let lease = LeaseBudgets { incarnation, period: self.period.clone(), asks };
        let month_ends = date::month_begins(&date::months_around(&self.period).unwrap_or_default().1);
        let month_ends = tick.after(month_ends.unwrap_or_default().since(now));
        let answer = meta.step(lease).await;
        let asked = counters().zip(&mut self.ledgers).zip(&wants).filter(|(_, want)| want.is_some());
        match answer {
            Ok(Ok(leased)) => {
                for (((counter, ledger), _), lease) in asked.zip(leased.leases) {
                    ledger.take(counter, &budgets, lease, month_ends);
                }
                Ok(())
            }
            Ok(Err(refusal)) => {
                asked.for_each(|((counter, _), _)| counter.not_answered());
                Err(Failure::ourselves(format!("a lease was refused: {refusal:?}")))
            }
            Err(failure) => {
                asked.for_each(|((counter, _), _)| counter.not_answered());
                Err(failure)
            }
        }
    }

    fn turn_with(&mut self, now: Timestamp, used: impl Fn() -> Vec<Usage>) {
        let month = date::month(now);
        // A clock that was set back does not bring the old month back: its leases are gone.
        if month > self.period {
            self.budgets.turn();
            self.period = month;
            self.ledgers.iter_mut().for_each(|ledger| *ledger = Ledger { slice: ledger.slice, ..Ledger::default() });
            // From the old month's leases, but counted in this one: what was used since it began.
            for (backend, (start, used)) in self.budgets.starts().zip(&used()).enumerate() {
                for (counter, ledger) in self.budgets.of(backend).iter().zip(&mut self.ledgers[start..]) {
                    ledger.held = counter.of_usage(used);
                    ledger.before = i64::try_from(ledger.held).unwrap_or(i64::MAX);
                }
            }
        }
    }

    /// Whether so much of any limit is used that usage should be told more often.
    pub fn is_near(&self, near: impl Fn(u64, u64) -> bool) -> bool {
        let mut counters = self.budgets.counters();
        counters.any(|counter| {
            let limit = counter.limit();
            limit > 0 && near(limit.saturating_sub(counter.free()).saturating_sub(counter.held_back()), limit)
        })
    }
}

impl Ledger {
    /// None: nothing to ask for.
    fn ask(&mut self, counter: &Counter, budgets: &Budgets, occasion: Occasion, now: Timestamp) -> Option<BudgetAsk> {
        if !counter.is_on() {
            return None;
        }
        let limit = counter.limit();
        let (least, waiting) = counter.take_wants();
        if limit > 0 {
            // Deletes and the like: spent, and now held.
            self.held += counter.cover_debt(budgets);
        }
        let spent = self.spent(counter, budgets);
        let is_idle = occasion == Occasion::Regular && self.spent_then == Some(spent) && waiting == 0;
        if occasion == Occasion::Regular {
            self.spent_then = Some(spent);
        }
        let is_scarce = counter.free() < limit / SCARCE;
        if occasion == Occasion::End || (is_idle && is_scarce) {
            self.held -= counter.take_rest(budgets);
        }
        let left = counter.left(budgets).max(0).unsigned_abs();
        let min = if counter.counts_calls() { CALLS_SLICE_MIN } else { BYTES_SLICE_MIN };
        let is_low = waiting > 0 || left < self.slice.max(min) / 2;
        let in_advance = is_low && !is_idle && occasion != Occasion::End && (waiting > 0 || counter.free() > 0);
        if !in_advance && occasion == Occasion::Rung {
            return None;
        }
        if in_advance {
            let since = self.asked.map(|asked| now.since(asked));
            self.slice = next_slice(self.slice, since, min, limit / SLICE_OF_LIMIT);
            self.asked = Some(now);
        }
        let used = self.spent(counter, budgets);
        Some(BudgetAsk {
            backend: counter.backend.clone(),
            counter: counter.name.clone(),
            limit,
            holds: self.held.max(used),
            used,
            // At the end nothing goes on.
            under_way: if occasion == Occasion::End { 0 } else { counter.under_way(budgets, used, self.before) },
            // What is left of the lease is theirs, too.
            least: least.saturating_sub(left),
            waiting: waiting.saturating_sub(left),
            slice: if in_advance { self.slice.saturating_sub(left) } else { 0 },
        })
    }

    /// So far this month; more may be by now.
    fn spent(&self, counter: &Counter, budgets: &Budgets) -> u64 {
        let held = i64::try_from(self.held).unwrap_or(i64::MAX);
        u64::try_from(held.saturating_sub(counter.left(budgets))).unwrap_or(0)
    }

    fn take(&mut self, counter: &Counter, budgets: &Budgets, lease: BudgetLease, month_ends: Tick) {
        // Before there is anything to take.
        counter.set_go_on_until((!lease.goes_on).then_some(month_ends));
        if counter.limit() == 0 {
            return counter.answered(0, 0, i64::MIN);
        }
        // What it held was all that any core could take; the answer is never less.
        counter.lend(budgets, lease.granted.saturating_sub(self.held));
        self.held = self.held.max(lease.granted);
        let low = if lease.free == 0 { i64::MIN } else { counter.left(budgets) / 2 };
        counter.answered(lease.free, lease.held_back, low);
    }
}

#[cfg(test)]
mod tests;
