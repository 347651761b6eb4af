//! What an incarnation is lent of a monthly budget: a pure function of what the rows say of it in three months. Called by the
//! stores only.
//!
//! Instances do not turn their months in the same instant. One that has not begun the month yet may still bring into it what it
//! has of the month before: bodies that are under way, and what it was lent and has not used. That much is kept for it until
//! its first row of the month says what it was. Whoever never begins it, since it died or stays cut off, has spent that: nobody can
//! know what it moved. One that was not heard of shortly before the turn brings nothing into it: it was told so (`goes_on`),
//! and cuts its bodies when its own month turns.

use super::change::{BudgetAsk, BudgetLease};
use crate::base::{Incarnation, Timestamp};
use crate::policy::usage::lend;
use crate::proto::date;
use std::collections::BTreeMap;
use std::time::Duration;

/// Who holds, of a month that is in doubt, all that nobody else is known to hold of a budget: runs that a restored database does not
/// know, or whose last leases it does not know. No run has this number.
pub const SPENT_UNSEEN: Incarnation = Incarnation(0);

/// Who was heard of within this time before a month began may bring bodies into it. Those that live are heard of at every flush of
/// usage.
const HEARD: Duration = Duration::from_secs(3600);
/// Who has not begun a month so long after it was last heard of hardly will: what is kept for it counts as spent.
const AWAITED: Duration = Duration::from_secs(6 * 3600);

/// What calls take is the month's in which they are sent: what a run leaves of it at its end is nobody's in the next one.
fn is_of_bodies(counter: &str) -> bool {
    matches!(counter, "egress_bytes" | "ingress_bytes")
}

/// The months before and after that of a lease have a say.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Month {
    Before,
    This,
    After,
}

/// How they are called, in the order of `Month`. What is no month has nothing before and after it.
pub fn months_around(period: &str) -> [String; 3] {
    let (before, after) = date::months_around(period).unwrap_or_default();
    [before, period.to_owned(), after]
}

/// A row of an incarnation's lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lent {
    pub granted: u64,
    pub used: u64,
    /// Of what was used, bodies may have so much under way.
    pub under_way: u64,
    /// When the incarnation said so, by the database's clock.
    pub told: Timestamp,
}

impl Lent {
    fn taken(&self) -> u64 {
        self.granted.max(self.used)
    }

    /// The most that may go on in the next month: what was not used may be under way by then.
    fn may_go_on(&self) -> u64 {
        self.taken().saturating_sub(self.used).saturating_add(self.under_way)
    }
}

/// All that the rows say of one budget.
#[derive(Debug)]
pub struct Account {
    /// When the month of the lease and the one after it begin. What is no month begins before everything.
    begins: [Timestamp; 2],
    leases: BTreeMap<(Month, Incarnation), Lent>,
    /// Recorded as usage under the same counter.
    recorded: BTreeMap<(Month, Incarnation), u64>,
}

impl Account {
    pub fn new(period: &str) -> Self {
        let [_, this, after] = months_around(period);
        let begins = [this, after].map(|month| date::month_begins(&month).unwrap_or_default());
        Self { begins, leases: BTreeMap::new(), recorded: BTreeMap::new() }
    }

    pub fn lease(&mut self, month: Month, of: Incarnation, lent: Lent) {
        self.leases.insert((month, of), lent);
    }

    pub fn recorded(&mut self, month: Month, of: Incarnation, value: u64) {
        self.recorded.insert((month, of), value);
    }

    /// What `ask` of `me` comes to. In doubt, when nobody has said yet how much that may be, the whole rest goes to
    /// `SPENT_UNSEEN`: how much that is comes second.
    pub fn lend(&self, ask: &BudgetAsk, me: Incarnation, now: Timestamp, in_doubt: bool) -> (BudgetLease, Option<u64>) {
        let holds = ask.holds.max(ask.used);
        if ask.limit == 0 {
            return (BudgetLease { granted: holds, free: 0, held_back: 0, goes_on: true }, None);
        }
        let mine = self.recorded.get(&(Month::This, me)).copied().unwrap_or(0);
        let (awaited, gone) = self.kept(ask, Month::Before, Month::This, me, now);
        let others = self.taken(Month::This, me).saturating_add(gone);
        let free = ask.limit.saturating_sub(others).saturating_sub(mine.max(holds));
        let next = self.next_room(ask, me, now);
        let goes_on = next.is_some() && now > self.begins[1].minus(HEARD);
        if in_doubt && !self.has_lease(Month::This, SPENT_UNSEEN) {
            return (BudgetLease { granted: holds, free: 0, held_back: 0, goes_on }, Some(free));
        }
        let ready = free.saturating_sub(awaited).min(next.unwrap_or(0));
        let more = lend(ready, ask.least, ask.waiting, ask.slice);
        (BudgetLease { granted: holds + more, free: ready - more, held_back: free - ready, goes_on }, None)
    }

    fn has_lease(&self, month: Month, of: Incarnation) -> bool {
        self.leases.contains_key(&(month, of))
    }

    /// By all but one: of each the most that it was lent, says that it has used, or has recorded.
    fn taken(&self, month: Month, but: Incarnation) -> u64 {
        let leases = self.leases.iter().map(|(at, lent)| (*at, lent.taken()));
        let mut taken: BTreeMap<Incarnation, u64> = BTreeMap::new();
        for ((at, of), one) in leases.chain(self.recorded.iter().map(|(at, value)| (*at, *value))) {
            if at == month && of != but {
                let most = taken.entry(of).or_default();
                *most = one.max(*most);
            }
        }
        taken.values().fold(0, |sum, one| sum.saturating_add(*one))
    }

    /// For those that may bring something from one month into the next, and have not begun that: what may still be told, and
    /// what never will.
    fn kept(&self, ask: &BudgetAsk, from: Month, into: Month, but: Incarnation, now: Timestamp) -> (u64, u64) {
        let begins = self.begins[usize::from(into == Month::After)];
        let late = self.leases.iter().filter(|((month, of), lent)| {
            // Before it begins, anybody may yet be heard of in time.
            let in_time = now < begins || lent.told > begins.minus(HEARD);
            *month == from && *of != but && *of != SPENT_UNSEEN && in_time && !self.has_lease(into, *of)
        });
        late.fold((0, 0), |(awaited, gone): (u64, u64), (_, lent)| match lent.told > now.minus(AWAITED) {
            true => (awaited.saturating_add(lent.may_go_on()), gone),
            false if is_of_bodies(&ask.counter) => (awaited, gone.saturating_add(lent.may_go_on())),
            false => (awaited, gone),
        })
    }

    /// Others have begun the next month: what is still lent of this one may go on there, so it must have room for it. None: it has not
    /// even for what was lent before.
    fn next_room(&self, ask: &BudgetAsk, me: Incarnation, now: Timestamp) -> Option<u64> {
        let has_begun = self.leases.keys().any(|(month, _)| *month == Month::After);
        if !has_begun {
            return Some(u64::MAX);
        }
        let mine = Lent { granted: ask.holds, used: ask.used, under_way: ask.under_way, told: now };
        let (awaited, gone) = self.kept(ask, Month::This, Month::After, me, now);
        let others = self.taken(Month::After, me).saturating_add(awaited).saturating_add(gone);
        ask.limit.checked_sub(others)?.checked_sub(mine.may_go_on())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::BackendName;

    const NOW: Timestamp = Timestamp { millis: 1_790_000_000_000 };
    const MONTH: &str = "2026-09";
    const ME: Incarnation = Incarnation(1);
    const OTHER: Incarnation = Incarnation(2);

    fn ask(holds: u64, used: u64, under_way: u64) -> BudgetAsk {
        let (backend, counter) = (BackendName::new("a"), "egress_bytes".to_owned());
        BudgetAsk { backend, counter, limit: 100, holds, used, under_way, least: 1, waiting: 1000, slice: 0 }
    }

    fn lent(granted: u64, used: u64, under_way: u64) -> Lent {
        Lent { granted, used, under_way, told: NOW }
    }

    #[track_caller]
    fn check(account: &Account, ask: &BudgetAsk, granted: u64, held_back: u64) {
        let want = BudgetLease { granted, free: 0, held_back, goes_on: false };
        assert_eq!(account.lend(ask, ME, NOW, false), (want, None));
    }

    #[test]
    fn what_may_go_on_is_kept_until_its_instance_has_begun_the_month() {
        let mut account = Account::new(MONTH);
        account.lease(Month::Before, ME, lent(90, 10, 5));
        check(&account, &ask(0, 0, 0), 100, 0);
        account.lease(Month::Before, OTHER, lent(50, 40, 25));
        check(&account, &ask(0, 0, 0), 65, 35);
        account.recorded(Month::This, OTHER, 3);
        check(&account, &ask(0, 0, 0), 62, 35);
        account.lease(Month::This, OTHER, lent(20, 20, 20));
        check(&account, &ask(65, 0, 0), 80, 0);
    }

    #[test]
    fn who_was_not_heard_of_shortly_before_the_turn_or_never_lived_keeps_nothing() {
        let turn = date::month_begins(MONTH).expect("a month");
        let mut account = Account::new(MONTH);
        account.lease(Month::Before, SPENT_UNSEEN, lent(80, 0, 0));
        account.lease(Month::Before, OTHER, Lent { told: turn.minus(HEARD), ..lent(50, 40, 25) });
        check(&account, &ask(0, 0, 0), 100, 0);
        // While the month has not begun by the database's clock, it may yet be.
        let before = turn.minus(Duration::from_secs(1));
        let early = account.lend(&ask(0, 0, 0), ME, before, false).0;
        assert_eq!((early.granted, early.held_back), (65, 35));
        account.lease(Month::Before, OTHER, lent(50, 50, 0));
        check(&account, &ask(0, 0, 0), 100, 0);
    }

    #[test]
    fn who_does_not_come_back_has_spent_what_is_kept() {
        let turn = date::month_begins(MONTH).expect("a month");
        let mut account = Account::new(MONTH);
        account.lease(Month::Before, OTHER, Lent { told: turn, ..lent(50, 40, 25) });
        check(&account, &ask(0, 0, 0), 65, 0);
        let calls = BudgetAsk { counter: "api_requests".to_owned(), ..ask(0, 0, 0) };
        check(&account, &calls, 100, 0);
    }

    #[test]
    fn a_body_goes_on_if_it_is_told_of_shortly_before_the_turn_and_there_is_room() {
        let turn = date::month_begins("2026-10").expect("a month");
        let goes_on = |account: &Account, now| account.lend(&ask(60, 50, 20), ME, now, false).0.goes_on;
        let mut account = Account::new(MONTH);
        assert!(!goes_on(&account, turn.minus(HEARD)));
        assert!(goes_on(&account, turn.minus(HEARD).plus(Duration::from_millis(1))) && goes_on(&account, turn));
        account.lease(Month::After, OTHER, lent(70, 70, 0));
        assert!(goes_on(&account, turn), "it needs 30");
        account.lease(Month::After, OTHER, lent(71, 71, 0));
        assert!(!goes_on(&account, turn));
    }

    #[test]
    fn of_the_old_month_no_more_is_lent_than_the_new_one_has_room_for() {
        let mut account = Account::new(MONTH);
        account.lease(Month::This, OTHER, lent(10, 10, 9));
        check(&account, &ask(20, 10, 7), 90, 0);
        account.lease(Month::After, OTHER, lent(60, 9, 9));
        check(&account, &ask(20, 10, 7), 43, 47);
        account.lease(Month::This, Incarnation(3), lent(5, 2, 1));
        check(&account, &ask(20, 10, 7), 39, 46);
        account.lease(Month::After, OTHER, lent(100, 9, 9));
        check(&account, &ask(20, 10, 7), 20, 65);
    }
}
