//! Instances over one store, which forgets answers when it is told to.

use super::*;
use crate::backend::budget::Spend;
use crate::base::{BackendName, Clock};
use crate::policy::usage::{BackendCall, Budget, CallSet, RequestPool};
use crate::store::conformance::{TestClock, wait_for};
use crate::store::direct::Direct;
use crate::store::memory::MemoryStore;
use crate::store::port::{Answer, BackendLimit, Change, Outcome, Query, Register, Rules, Usage};
use crate::store::record::Located;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

mod turns;

/// The way to the database; loses the answers of changes, before or after they were made.
struct Meta {
    direct: Direct<MemoryStore<TestClock>>,
    lose: Cell<Option<bool>>,
}

impl Metadata for Meta {
    async fn lookup(&self, bucket: &str, key: &str, into: &mut Located) -> Result<bool, Failure> {
        self.direct.lookup(bucket, key, into).await
    }

    async fn query(&self, query: Query) -> Result<Answer, Failure> {
        self.direct.query(query).await
    }

    async fn change(&self, change: Change) -> Result<Outcome, Failure> {
        match self.lose.get() {
            Some(false) => Err(Failure::metadata("not asked")),
            Some(true) => self.direct.change(change).await.and(Err(Failure::metadata("the answer was lost"))),
            None => self.direct.change(change).await,
        }
    }
}

struct Instance {
    budgets: Arc<Budgets>,
    incarnation: Incarnation,
    lender: Lender,
}

struct Bench {
    meta: Meta,
    clock: TestClock,
}

const CALL: Spend = Spend { call: Some(BackendCall::Put), egress: 0, ingress: 0 };

impl Bench {
    fn new() -> Self {
        let clock = TestClock::new();
        let store = MemoryStore::new(clock.clone(), Rules::default());
        Self { meta: Meta { direct: Direct::new(store), lose: Cell::new(None) }, clock }
    }

    fn boot(&self, limit: u64) -> Instance {
        let pools = vec![RequestPool { name: "all".into(), calls: CallSet::ALL, limit }];
        self.boot_with(&Budget { pools, ..Budget::default() })
    }

    fn boot_with(&self, budget: &Budget) -> Instance {
        let name = BackendName::new("b");
        let budgets = Arc::new(Budgets::new([(&name, budget)], Box::new(|| {})));
        let backends = vec![BackendLimit { name, bytes_limit: 0 }];
        let registered = wait_for(self.meta.step(Register { deployment: "d".into(), backends }));
        let incarnation = registered.expect("answered").expect("not refused").incarnation;
        let lender = Lender::new(Arc::clone(&budgets), self.clock.now());
        Instance { budgets, incarnation, lender }
    }

    fn run(&self, instance: &mut Instance, occasion: Occasion) {
        self.run_after(0, instance, occasion);
    }

    /// After so many calls in this month.
    fn run_after(&self, calls: u64, instance: &mut Instance, occasion: Occasion) {
        let lender = &mut instance.lender;
        let _ = wait_for(lender.run(
            &self.meta,
            instance.incarnation,
            occasion,
            (self.clock.tick(), self.clock.now()),
            used(calls),
        ));
    }

    /// Calls until one is refused for good; how many were admitted.
    fn spend_all(&self, instance: &mut Instance) -> u64 {
        let mut admitted = 0;
        loop {
            if instance.budgets.admit_now(0, &CALL).is_some() {
                admitted += 1;
            } else if instance.budgets.has_room(0, &CALL) {
                instance.budgets.ask_for(0, &CALL);
                self.run(instance, Occasion::Rung);
            } else {
                return admitted;
            }
        }
    }

    /// Granted and used, added up over all incarnations.
    fn books(&self) -> (u64, u64) {
        match wait_for(self.meta.query(Query::Usage { period: date::month(self.clock.now()) })) {
            Ok(Answer::Usage { budgets, .. }) => {
                budgets.iter().fold((0, 0), |(granted, used), row| (granted + row.granted, used + row.used))
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_left_counts_towards_what_a_call_waits_for() {
    let bench = Bench::new();
    let mut one = bench.boot_with(&Budget { egress_bytes: 100, ..Budget::default() });
    bench.run(&mut one, Occasion::Regular);
    let whole = Spend { egress: 100, ..Spend::default() };
    assert!(bench.books().0 > 0 && one.budgets.admit_now(0, &whole).is_none() && one.budgets.has_room(0, &whole));
    one.budgets.ask_for(0, &whole);
    bench.run(&mut one, Occasion::Rung);
    assert!(one.budgets.admit_now(0, &whole).is_some(), "the slice and all that was free");
    assert_eq!(bench.books().0, 100);
}

#[test]
fn one_instance_spends_the_whole_budget_and_not_one_call_more() {
    for limit in [1, 7, 8, 100, 12_345] {
        let bench = Bench::new();
        let mut one = bench.boot(limit);
        bench.run(&mut one, Occasion::Regular);
        assert!(bench.books().0 <= limit / 8, "a slice in advance is a part");
        assert_eq!(bench.spend_all(&mut one), limit);
        bench.run(&mut one, Occasion::End);
        assert_eq!(bench.books(), (limit, limit));
    }
}

#[test]
fn what_an_instance_does_not_need_another_can_spend() {
    let bench = Bench::new();
    let (mut idle, mut busy) = (bench.boot(1_000), bench.boot(1_000));
    bench.run(&mut idle, Occasion::Regular);
    assert!(idle.budgets.admit_now(0, &CALL).is_some(), "lent in advance");
    let held = bench.books().0;
    assert_eq!(bench.spend_all(&mut busy), 1_000 - held);
    for _ in 0..3 {
        bench.run(&mut idle, Occasion::Regular);
    }
    bench.run(&mut busy, Occasion::Regular);
    assert_eq!(bench.books(), (1_000 - held + 1, 1_000 - held + 1), "scarce and idle: given back");
    assert_eq!(bench.spend_all(&mut busy), held - 1);
    assert_eq!(bench.spend_all(&mut idle), 0);
    bench.run(&mut busy, Occasion::End);
    assert_eq!(bench.books(), (1_000, 1_000));
}

#[test]
fn what_a_dead_instance_had_left_counts_as_spent() {
    let bench = Bench::new();
    let mut dead = bench.boot(1_000);
    bench.run(&mut dead, Occasion::Regular);
    assert!(dead.budgets.admit_now(0, &CALL).is_some());
    let held = bench.books().0;
    drop(dead);
    let mut next = bench.boot(1_000);
    assert_eq!(bench.spend_all(&mut next), 1_000 - held);
}

#[test]
fn lost_answers_lend_nothing_twice() {
    for made in [false, true] {
        let bench = Bench::new();
        let mut one = bench.boot(1_000);
        let mut admitted = 0;
        for round in 0..200 {
            bench.meta.lose.set((round % 3 != 0).then_some(made));
            if one.budgets.admit_now(0, &CALL).is_some() {
                admitted += 1;
                continue;
            }
            one.budgets.ask_for(0, &CALL);
            bench.run(&mut one, if round % 5 == 0 { Occasion::Regular } else { Occasion::Rung });
        }
        bench.meta.lose.set(None);
        admitted += bench.spend_all(&mut one);
        assert_eq!(admitted, 1_000, "whether a change was made whose answer was lost: {made}");
        bench.run(&mut one, Occasion::End);
        assert_eq!(bench.books(), (1_000, 1_000));
    }
}

#[test]
fn deletes_are_counted_beyond_the_lease() {
    let bench = Bench::new();
    let (mut one, mut other) = (bench.boot(100), bench.boot(100));
    for _ in 0..30 {
        one.budgets.charge(0, &CALL);
    }
    bench.run(&mut one, Occasion::Regular);
    assert_eq!(bench.books().1, 30);
    assert_eq!(bench.spend_all(&mut other) + bench.spend_all(&mut one), 70);
    one.budgets.charge(0, &CALL);
    bench.run(&mut one, Occasion::Regular);
    assert_eq!(bench.spend_all(&mut one), 0);
    for instance in [&mut one, &mut other] {
        bench.run(instance, Occasion::End);
    }
    assert_eq!(bench.books(), (101, 101), "a delete may go beyond the limit, and is counted");
}

/// What `set_limits` is told that this instance has used before.
fn used(api_requests: u64) -> impl Fn() -> Vec<Usage> {
    move || vec![Usage { api_requests, ..Usage::default() }]
}

#[test]
fn a_limit_that_is_raised_lends_what_it_adds_and_a_lower_one_nothing_more() {
    let bench = Bench::new();
    let mut one = bench.boot(50);
    assert_eq!(bench.spend_all(&mut one), 50);
    let pool = |limit| Budget {
        pools: vec![RequestPool { name: "all".into(), calls: CallSet::ALL, limit }],
        ..Budget::default()
    };
    assert_eq!(one.lender.set_limits(&[pool(80)], bench.clock.now(), used(50)), [true]);
    assert_eq!(bench.spend_all(&mut one), 30);
    assert_eq!(one.lender.set_limits(&[pool(60)], bench.clock.now(), used(80)), [true]);
    assert_eq!(bench.spend_all(&mut one), 0);
    assert_eq!(one.lender.set_limits(&[pool(0)], bench.clock.now(), used(80)), [true]);
    bench.run(&mut one, Occasion::Regular);
    assert!((0..5).all(|_| one.budgets.admit_now(0, &CALL).is_some()), "only counted");
    assert_eq!(one.lender.set_limits(&[pool(90)], bench.clock.now(), used(85)), [true]);
    assert_eq!(bench.spend_all(&mut one), 5);
    bench.run(&mut one, Occasion::End);
    assert_eq!(bench.books(), (90, 90));
    let others = RequestPool { name: "puts".into(), calls: CallSet::NONE.with(BackendCall::Put), limit: 9 };
    let others = Budget { pools: vec![others], ..Budget::default() };
    assert_eq!(one.lender.set_limits(&[others], bench.clock.now(), used(90)), [false], "pools are made at the start");
    assert_eq!(bench.spend_all(&mut one), 0);
}

#[test]
fn of_a_limit_that_is_lowered_no_more_is_spent_than_it_has() {
    let bench = Bench::new();
    let mut one = bench.boot(10_000);
    let pool = |limit| Budget {
        pools: vec![RequestPool { name: "all".into(), calls: CallSet::ALL, limit }],
        ..Budget::default()
    };
    let lower = |one: &mut Instance, limit| {
        bench.run(one, Occasion::Regular);
        assert!(one.budgets.admit_now(0, &CALL).is_some(), "lent in advance");
        assert_eq!(one.lender.set_limits(&[pool(limit)], bench.clock.now(), used(0)), [true]);
        bench.run(one, Occasion::Regular);
    };
    lower(&mut one, 5);
    assert_eq!(bench.spend_all(&mut one), 4);
    assert_eq!(bench.books().0, 5);
    // And by way of none.
    assert_eq!(one.lender.set_limits(&[pool(10_000)], bench.clock.now(), used(5)), [true]);
    lower(&mut one, 0);
    assert_eq!(one.lender.set_limits(&[pool(8)], bench.clock.now(), used(6)), [true]);
    assert_eq!(bench.spend_all(&mut one), 2);
    bench.run(&mut one, Occasion::End);
    assert_eq!(bench.books(), (8, 8));
}

#[test]
fn a_limit_that_is_new_counts_what_the_month_has_had() {
    let bench = Bench::new();
    let mut one = bench.boot_with(&Budget::default());
    let mut other = bench.boot_with(&Budget::default());
    assert!(!one.lender.has_work() && !one.budgets.is_metered(0));
    let before = one.budgets.admit_now(0, &CALL).expect("there is no limit");
    let limited = Budget {
        pools: vec![RequestPool { name: "all".into(), calls: CallSet::ALL, limit: 100 }],
        ..Budget::default()
    };
    for (instance, has_used) in [(&mut one, 30), (&mut other, 20)] {
        assert_eq!(
            instance.lender.set_limits(std::slice::from_ref(&limited), bench.clock.now(), used(has_used)),
            [true]
        );
        bench.run(instance, Occasion::Regular);
    }
    one.budgets.body_ends(0, before, &CALL, &CALL);
    assert_eq!(
        bench.spend_all(&mut one) + bench.spend_all(&mut other),
        50,
        "and what was taken before is not given back to it"
    );
    // Gone again, and back: what was used meanwhile counts.
    assert_eq!(one.lender.set_limits(&[Budget::default()], bench.clock.now(), used(80)), [true]);
    assert!(!one.budgets.is_metered(0) && one.budgets.admit_now(0, &CALL).is_some());
    assert_eq!(
        one.lender.set_limits(
            &[Budget { pools: limited.pools.clone(), egress_bytes: 9, ..Budget::default() }],
            bench.clock.now(),
            used(81)
        ),
        [true]
    );
    assert_eq!(bench.spend_all(&mut one), 0);
}

#[test]
fn a_new_month_brings_a_new_budget() {
    let bench = Bench::new();
    let mut one = bench.boot(50);
    assert_eq!(bench.spend_all(&mut one), 50);
    bench.clock.advance(Duration::from_secs(31 * 24 * 3600));
    bench.run(&mut one, Occasion::Regular);
    assert_eq!(bench.spend_all(&mut one), 50);
    bench.run(&mut one, Occasion::End);
    assert_eq!(bench.books(), (50, 50));
}

#[test]
fn what_the_old_month_had_lent_and_the_new_one_has_counted_is_of_the_new_ones_budget() {
    let bench = Bench::new();
    let mut one = bench.boot(500);
    bench.run(&mut one, Occasion::Regular);
    bench.clock.advance(Duration::from_secs(31 * 24 * 3600));
    assert!((0..3).all(|_| one.budgets.admit_now(0, &CALL).is_some()), "nobody has looked at the calendar yet");
    bench.run_after(3, &mut one, Occasion::Regular);
    assert_eq!(bench.spend_all(&mut one), 497);
    bench.run(&mut one, Occasion::End);
    assert_eq!(bench.books(), (500, 500));
}

/// Review: deletes are charged whatever is left; those that could not be sent in the end must not make room for others.
#[test]
fn what_was_charged_beyond_the_limit_and_not_sent_makes_no_room() {
    let bench = Bench::new();
    let mut one = bench.boot(10);
    assert_eq!(bench.spend_all(&mut one), 10, "all of it was sent");
    let delete = Spend::call(BackendCall::Delete);
    let charged: Vec<_> = (0..4).map(|_| one.budgets.charge(0, &delete)).collect();
    bench.run(&mut one, Occasion::Regular);
    charged.into_iter().for_each(|taken| one.budgets.body_ends(0, taken, &delete, &delete)); // the backend could not be connected to
    assert_eq!(bench.spend_all(&mut one), 0, "calls admitted beyond the limit");
}
