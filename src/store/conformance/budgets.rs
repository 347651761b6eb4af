//! I6: what all incarnations have been lent of a budget is never more than its limit.

use super::*;
use crate::proto::date;

const MONTH: &str = "2026-11";

/// What an incarnation holds of `a`'s requests and how many more it wants.
fn ask(limit: u64, holds: u64, waiting: u64, slice: u64) -> BudgetAsk {
    let least = waiting.min(1);
    let (backend, counter) = (name("a"), "api_requests".to_owned());
    BudgetAsk { backend, counter, limit, holds, used: holds, under_way: 0, least, waiting, slice }
}

fn lease<S: MetadataStore>(bench: &Bench<S>, incarnation: i64, ask: BudgetAsk) -> BudgetLease {
    let change = LeaseBudgets { incarnation: Incarnation(incarnation), period: MONTH.into(), asks: vec![ask] };
    bench.step(change).expect("a lease is not refused").leases[0]
}

fn lent(granted: u64, free: u64) -> BudgetLease {
    BudgetLease { granted, free, held_back: 0, goes_on: false }
}

/// Of a month that has as good as ended, or without a limit.
fn going_on(lent: BudgetLease) -> BudgetLease {
    BudgetLease { goes_on: true, ..lent }
}

pub(super) fn slices_never_exceed_the_limit<S: MetadataStore>(bench: &Bench<S>) {
    assert_eq!(lease(bench, 1, ask(100, 0, 0, 64)), lent(12, 88));
    assert_eq!(lease(bench, 2, ask(100, 0, 40, 64)), lent(40, 48));
    assert_eq!(lease(bench, 3, ask(100, 0, 49, 64)), lent(48, 0), "all that is left, for some of those who wait");
    assert_eq!(lease(bench, 2, ask(100, 40, 1, 64)), lent(40, 0));
    assert_eq!(lease(bench, 1, ask(50, 12, 1, 64)), lent(12, 0), "a lower limit takes nothing away");
    assert_eq!(lease(bench, 1, ask(103, 12, 2, 64)), lent(14, 1), "a higher one lends more");
}

pub(super) fn the_dead_keep_what_they_were_lent<S: MetadataStore>(bench: &Bench<S>) {
    let dead = bench.incarnation.get().0;
    assert_eq!(lease(bench, dead, ask(100, 0, 30, 0)), lent(30, 70));
    let living = bench.register(&[("a", 1000), ("b", 1000), ("c", 0)]).incarnation.0;
    assert_eq!(lease(bench, living, ask(100, 0, 80, 0)), lent(70, 0));
}

pub(super) fn asking_twice_lends_once<S: MetadataStore>(bench: &Bench<S>) {
    assert_eq!(lease(bench, 1, ask(100, 5, 10, 0)), lent(15, 85));
    // The answer was lost: it still holds what it held.
    assert_eq!(lease(bench, 1, ask(100, 5, 10, 0)), lent(15, 85));
    assert_eq!(lease(bench, 1, ask(100, 15, 10, 0)), lent(25, 75));
}

pub(super) fn what_is_given_back_is_lent_again<S: MetadataStore>(bench: &Bench<S>) {
    assert_eq!(lease(bench, 1, ask(100, 0, 90, 0)), lent(90, 10));
    assert_eq!(lease(bench, 2, ask(100, 0, 50, 0)), lent(10, 0));
    assert_eq!(lease(bench, 1, ask(100, 20, 0, 0)), lent(20, 70));
    assert_eq!(lease(bench, 2, ask(100, 10, 50, 0)), lent(60, 20));
}

pub(super) fn recorded_usage_counts<S: MetadataStore>(bench: &Bench<S>) {
    let record = |incarnation, api_requests| RecordUsage {
        incarnation: Incarnation(incarnation),
        period: MONTH.into(),
        backends: vec![(name("a"), Usage { api_requests, egress_bytes: 999, ingress_bytes: 999 })],
    };
    // Requests of a time before there was a limit.
    bench.step(record(1, 60)).expect("recording is not refused");
    assert_eq!(lease(bench, 2, ask(100, 0, 50, 0)), lent(40, 0));
    bench.step(record(2, 30)).expect("recording is not refused");
    assert_eq!(lease(bench, 2, ask(100, 30, 50, 0)), lent(40, 0), "what was lent and what was recorded are one");
    assert_eq!(lease(bench, 3, BudgetAsk { counter: "pool:reads".into(), ..ask(100, 0, 50, 0) }), lent(50, 50));
}

pub(super) fn what_is_never_refused_counts<S: MetadataStore>(bench: &Bench<S>) {
    assert_eq!(lease(bench, 1, ask(100, 0, 90, 0)), lent(90, 10));
    // Deletes beyond what it was lent, and beyond the limit.
    assert_eq!(lease(bench, 1, ask(100, 97, 0, 0)), lent(97, 3));
    assert_eq!(lease(bench, 2, ask(100, 8, 1, 0)), lent(8, 0));
    assert_eq!(lease(bench, 1, ask(100, 97, 1, 9)), lent(97, 0));
    // An unlimited counter lends nothing, and is counted.
    assert_eq!(lease(bench, 1, BudgetAsk { counter: "pool:free".into(), ..ask(0, 7, 5, 5) }), going_on(lent(7, 0)));
    let Answer::Usage { usage, budgets } = bench.query(Query::Usage { period: MONTH.into() }) else {
        panic!("another query's answer")
    };
    assert_eq!(usage, []);
    let row = |counter: &str, incarnation, granted, used| BudgetRow {
        backend: "a".into(),
        counter: counter.into(),
        incarnation: Incarnation(incarnation),
        granted,
        used,
    };
    assert_eq!(budgets, [row("api_requests", 1, 97, 97), row("api_requests", 2, 8, 8), row("pool:free", 1, 7, 7)]);
}

pub(super) fn a_restored_database_lends_nothing_of_a_month_in_doubt<S: MetadataStore>(bench: &Bench<S>) {
    let month = date::month(bench.now());
    let lease = |incarnation, ask: BudgetAsk| {
        let change = LeaseBudgets { incarnation: Incarnation(incarnation), period: month.clone(), asks: vec![ask] };
        bench.step(change).expect("a lease is not refused").leases[0]
    };
    let hold = |restored| bench.step(SetRestored { restored }).expect("never refused");
    assert_eq!(lease(1, ask(100, 0, 30, 0)), lent(30, 70));
    hold(true);
    // A run that goes on knows what it holds; what others may hold, or have held, is all the rest.
    assert_eq!(lease(1, ask(100, 50, 10, 8)), lent(50, 0));
    assert_eq!(lease(2, ask(100, 0, 5, 8)), lent(0, 0));
    assert_eq!(lease(1, BudgetAsk { backend: name("b"), ..ask(100, 0, 5, 8) }), lent(0, 0), "of which no row tells");
    assert_eq!(lease(1, BudgetAsk { counter: "pool:free".into(), ..ask(0, 7, 5, 5) }), going_on(lent(7, 0)));
    hold(false);
    assert_eq!(lease(2, ask(100, 0, 5, 8)), lent(0, 0), "the comparison with the backends tells nothing of it");
    assert_eq!(lease(1, ask(100, 40, 0, 0)), lent(40, 10), "what is given back is known");
    assert_eq!(lease(2, ask(110, 0, 25, 0)), lent(20, 0), "and a higher limit lends more");
    // Restored again: what was reckoned then is reckoned anew.
    hold(true);
    assert_eq!(lease(2, ask(200, 20, 25, 0)), lent(20, 0));
    let change = LeaseBudgets { incarnation: Incarnation(2), period: "2026-12".into(), asks: vec![ask(100, 0, 30, 0)] };
    assert_eq!(bench.step(change).expect("not refused").leases, [lent(30, 70)], "other months are not in doubt");
}

pub(super) fn a_month_keeps_what_may_go_on_from_the_one_before<S: MetadataStore>(bench: &Bench<S>) {
    let in_month = |period: &str, incarnation, ask: BudgetAsk| {
        let change = LeaseBudgets { incarnation: Incarnation(incarnation), period: period.into(), asks: vec![ask] };
        bench.step(change).expect("a lease is not refused").leases[0]
    };
    let kept = |granted, free, held_back| BudgetLease { granted, free, held_back, goes_on: false };
    let (december, january) = ("2026-12", "2027-01");
    let using = |used, under_way, ask: BudgetAsk| BudgetAsk { used, under_way, ..ask };
    // Two of the old month: one with 20 under way and 10 of its lease, one with all that it had spent.
    assert_eq!(in_month(december, 1, using(30, 20, ask(100, 40, 0, 0))), lent(40, 60));
    assert_eq!(in_month(december, 2, ask(100, 30, 0, 0)), lent(30, 30));
    assert_eq!(in_month(january, 2, ask(100, 0, 90, 0)), kept(70, 0, 30));
    assert_eq!(in_month(january, 3, ask(100, 0, 1, 0)), kept(0, 0, 30), "nor may one that is new have it");
    // The old month lends on, as far as the new one has room for what may go on.
    assert_eq!(in_month(december, 1, using(35, 20, ask(100, 40, 20, 0))), kept(45, 0, 25));
    assert_eq!(in_month(december, 3, ask(100, 0, 5, 0)), kept(0, 0, 25));
    // Another budget, and another month, know nothing of it.
    let other = BudgetAsk { counter: "egress_bytes".into(), ..ask(100, 0, 90, 0) };
    assert_eq!(in_month(january, 2, other), lent(90, 10));
    // It has begun the month: what it brought is known.
    assert_eq!(in_month(january, 1, ask(100, 12, 0, 0)), lent(12, 18));
    assert_eq!(in_month(january, 2, ask(100, 70, 90, 0)), lent(88, 0));
}

pub(super) fn a_month_awaits_who_was_heard_of_before_it_began<S: MetadataStore>(bench: &Bench<S>) {
    let in_month = |period: &str, incarnation, ask: BudgetAsk| {
        let change = LeaseBudgets { incarnation: Incarnation(incarnation), period: period.into(), asks: vec![ask] };
        bench.step(change).expect("a lease is not refused").leases[0]
    };
    let kept = |granted, free, held_back| BudgetLease { granted, free, held_back, goes_on: false };
    let this = date::month(bench.now());
    let (_, next) = date::months_around(&this).expect("a month");
    let until_the_turn = || date::month_begins(&next).expect("a month").since(bench.now()).as_secs();
    let ask = |limit, holds, waiting, slice| BudgetAsk {
        counter: "egress_bytes".into(),
        ..ask(limit, holds, waiting, slice)
    };
    let going = BudgetAsk { used: 10, under_way: 5, ..ask(100, 20, 0, 0) };
    bench.advance(until_the_turn() - 3700);
    assert_eq!(in_month(&this, 1, going.clone()), lent(20, 80), "too early for what is under way");
    bench.advance(3700 - 60);
    assert_eq!(in_month(&this, 2, going.clone()), going_on(lent(20, 60)));
    assert_eq!(in_month(&next, 3, ask(100, 0, 1, 0)), kept(1, 69, 30), "either may be heard of yet");
    bench.advance(120);
    assert_eq!(in_month(&next, 3, ask(100, 1, 1, 0)), kept(2, 83, 15));
    bench.advance(6 * 3600);
    assert_eq!(in_month(&next, 3, ask(100, 2, 1, 0)), kept(3, 82, 0), "what it was has been spent");
}

pub(super) fn months_and_counters_are_apart<S: MetadataStore>(bench: &Bench<S>) {
    assert_eq!(lease(bench, 1, ask(100, 0, 100, 0)), lent(100, 0));
    assert_eq!(lease(bench, 1, BudgetAsk { backend: name("b"), ..ask(100, 0, 60, 0) }), lent(60, 40));
    assert_eq!(lease(bench, 1, BudgetAsk { counter: "egress_bytes".into(), ..ask(100, 0, 60, 0) }), lent(60, 40));
    let both = vec![ask(100, 100, 1, 0), BudgetAsk { backend: name("b"), ..ask(100, 60, 1, 0) }];
    let leases = bench.step(LeaseBudgets { incarnation: Incarnation(1), period: MONTH.into(), asks: both });
    assert_eq!(leases.expect("not refused").leases, [lent(100, 0), lent(61, 39)]);
    let old = LeaseBudgets { incarnation: Incarnation(1), period: "2026-01".into(), asks: vec![ask(100, 0, 9, 0)] };
    assert_eq!(bench.step(old).expect("not refused").leases, [going_on(lent(9, 91))]);
    bench.step(ForgetOld).expect("forgetting is not refused");
    let months = ["2026-01", MONTH].map(|period| match bench.query(Query::Usage { period: period.into() }) {
        Answer::Usage { budgets, .. } => budgets.len(),
        other => panic!("{other:?}"),
    });
    assert_eq!(months, [0, 3], "what nobody can be lent any more is forgotten");
}
