use super::*;
use crate::base::{Tick, Timestamp};
use crate::policy::usage::{CallSet, RequestPool};
use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll, Waker};

/// Time passes while somebody sleeps, and `on_sleep` may do what another thread would.
struct Sleeper<F>(Cell<u64>, F);

impl<F: Fn()> Clock for Sleeper<F> {
    fn tick(&self) -> Tick {
        Tick { nanos: self.0.get() }
    }

    fn now(&self) -> Timestamp {
        Timestamp::default()
    }

    async fn sleep(&self, wait: Duration) {
        self.0.set(self.0.get() + wait.as_nanos() as u64);
        (self.1)();
    }
}

fn budgets(budget: &Budget) -> Budgets {
    let other = Budget::default();
    let names = [BackendName::new("free"), BackendName::new("metered")];
    Budgets::new([(&names[0], &other), (&names[1], budget)], Box::new(|| {}))
}

fn requests(limit: u64) -> Budget {
    Budget { pools: vec![RequestPool { name: "all".into(), calls: CallSet::ALL, limit }], ..Budget::default() }
}

const GET: Spend = Spend { call: Some(BackendCall::Get), egress: 0, ingress: 0 };

/// Admits with a lender that never answers.
fn admit(budgets: &Budgets, spend: &Spend) -> Result<Taken, Denied> {
    let clock = Sleeper(Cell::new(0), || {});
    match pin!(budgets.admit(&clock, 1, spend)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(admitted) => admitted,
        Poll::Pending => panic!("this clock never waits"),
    }
}

fn lend(budgets: &Budgets, amount: u64, free: u64) {
    for counter in budgets.counters() {
        counter.lend(budgets, amount);
        counter.answered(free, 0, 0);
    }
}

#[test]
fn a_backend_without_a_budget_admits_everything() {
    let budgets = budgets(&requests(1));
    let spend = Spend { call: Some(BackendCall::Put), egress: u64::MAX, ingress: u64::MAX };
    assert!(!budgets.is_metered(0) && budgets.is_metered(1) && !budgets.is_metered(7));
    assert!(budgets.has_room(0, &spend) && budgets.has_room(7, &spend));
    assert!(budgets.try_admit(0, &spend).is_ok() && budgets.try_admit(7, &spend).is_ok());
}

#[test]
fn what_was_lent_is_admitted_and_no_more() {
    let budgets = budgets(&requests(100));
    assert_eq!(admit(&budgets, &GET), Err(Denied::Unanswered), "nothing was lent, and nobody answers");
    lend(&budgets, 2, 0);
    let first = admit(&budgets, &GET).expect("lent");
    assert!(budgets.has_room(1, &GET));
    admit(&budgets, &GET).expect("lent");
    assert!(!budgets.has_room(1, &GET));
    assert_eq!(admit(&budgets, &GET), Err(Denied::Spent));
    budgets.body_ends(1, first, &GET, &GET);
    admit(&budgets, &GET).expect("it was not sent after all");
    budgets.charge(1, &GET);
    assert_eq!(budgets.counters().next().expect("one").left(&budgets), -1, "a delete is counted whatever is left");
}

#[test]
fn a_call_waits_for_the_lender_and_goes_on() {
    let budget = requests(100);
    let rung = Arc::new(AtomicU64::new(0));
    let rings = Arc::clone(&rung);
    let name = BackendName::new("metered");
    let ring = Box::new(move || {
        rings.fetch_add(1, SeqCst);
    });
    let budgets = Budgets::new([(&BackendName::new("free"), &Budget::default()), (&name, &budget)], ring);
    let counter = budgets.counters().next().expect("one");
    // The lender answers at the third look; the first answer is used up by somebody else.
    let (looks, lent) = (Cell::new(0), Cell::new(0));
    let clock = Sleeper(Cell::new(0), || {
        looks.set(looks.get() + 1);
        if looks.get() % 3 == 0 {
            let (least, waiting) = counter.take_wants();
            assert_eq!((least, waiting), (1, 1));
            lent.set(lent.get() + 1);
            counter.lend(&budgets, u64::from(lent.get() > 1));
            counter.answered(50, 0, 0);
        }
    });
    let done = pin!(budgets.admit(&clock, 1, &GET)).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(done, Poll::Ready(Ok(_))), "{done:?}");
    assert_eq!((lent.get(), rung.load(SeqCst)), (2, 2));
    assert_eq!(counter.take_wants(), (0, 0));
    counter.not_answered();
    let clock = Sleeper(Cell::new(0), || counter.not_answered());
    let done = pin!(budgets.admit(&clock, 1, &GET)).poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(done, Poll::Ready(Err(Denied::Unanswered)), "the database is away");
}

#[test]
fn a_call_waits_for_what_is_held_back_and_is_not_told_that_the_month_is_spent() {
    for turns in [true, false] {
        let budgets = budgets(&requests(100));
        let counter = budgets.counters().next().expect("one");
        let asked = Cell::new(0);
        // The other instance begins the month before the fifth question, or never.
        let clock = Sleeper(Cell::new(0), || {
            if counter.take_wants() != (0, 0) {
                asked.set(asked.get() + 1);
                let is_free = turns && asked.get() == 5;
                counter.lend(&budgets, u64::from(is_free));
                counter.answered(0, if is_free { 0 } else { 30 }, i64::MIN);
            }
        });
        let done = pin!(budgets.admit(&clock, 1, &GET)).poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(done) = done else { panic!("this clock never waits") };
        assert_eq!(done.map(|_| ()), if turns { Ok(()) } else { Err(Denied::HeldBack) });
        assert!(asked.get() <= 30, "not asked again at once: {}", asked.get());
        assert!(Duration::from_nanos(clock.0.get()) < 2 * LENDER_PATIENCE);
        assert_eq!(budgets.has_room(1, &GET), !turns, "another backend need not be looked for");
    }
}

#[test]
fn a_call_needs_room_in_every_pool_that_holds_it() {
    let pool = |name: &str, calls: CallSet, limit| RequestPool { name: name.into(), calls, limit };
    let reads = CallSet::NONE.with(BackendCall::Get);
    let budget = Budget {
        pools: vec![
            pool("all", CallSet::ALL, 10),
            pool("reads", reads, 3),
            pool("seen", CallSet::ALL.without(reads), 0),
        ],
        egress_bytes: 100,
        ingress_bytes: 0,
    };
    let budgets = budgets(&budget);
    let names: Vec<_> = budgets.counters().map(|counter| counter.name.as_str()).collect();
    assert_eq!(names, ["api_requests", "pool:reads", "pool:seen", "egress_bytes"]);
    let left = || budgets.counters().map(|counter| counter.left(&budgets)).collect::<Vec<_>>();
    for (counter, amount) in budgets.counters().zip([10, 3, 0, 100]) {
        counter.lend(&budgets, amount);
        counter.answered(0, 0, 0);
    }
    let get = Spend { egress: 60, ..GET };
    let month = admit(&budgets, &get).expect("lent");
    assert_eq!(left(), [9, 2, 0, 40]);
    assert_eq!(admit(&budgets, &get), Err(Denied::Spent), "not enough bytes");
    assert_eq!(left(), [9, 2, 0, 40], "nothing is taken of the others");
    budgets.body_ends(1, month, &get, &Spend { egress: 25, ..Spend::default() });
    assert_eq!(left(), [9, 2, 0, 65]);
    admit(&budgets, &Spend::call(BackendCall::Put)).expect("lent");
    assert_eq!(left(), [8, 2, -1, 65], "what has no limit is counted below zero");
    admit(&budgets, &GET).expect("lent");
    admit(&budgets, &GET).expect("lent");
    assert_eq!(admit(&budgets, &GET), Err(Denied::Spent));
    assert!(!budgets.has_room(1, &GET) && budgets.has_room(1, &Spend::call(BackendCall::Put)));
}

#[test]
fn the_lender_is_rung_for_once_when_a_lease_runs_low() {
    let rung = Arc::new(AtomicU64::new(0));
    let rings = Arc::clone(&rung);
    let ring = Box::new(move || {
        rings.fetch_add(1, SeqCst);
    });
    let budgets = Budgets::new([(&BackendName::new("b"), &requests(100))], ring);
    let counter = budgets.counters().next().expect("one");
    counter.lend(&budgets, 10);
    counter.answered(90, 0, 5);
    for _ in 0..9 {
        budgets.try_admit(0, &GET).map_err(|_| ()).expect("lent");
    }
    assert_eq!(rung.load(SeqCst), 1);
    assert_eq!((counter.take_rest(&budgets), counter.take_rest(&budgets)), (1, 0));
    assert!(budgets.try_admit(0, &GET).is_err());
}

#[test]
fn a_new_month_starts_with_nothing_and_the_old_one_keeps_its_own() {
    let budgets = budgets(&requests(100));
    lend(&budgets, 5, 0);
    let november = admit(&budgets, &GET).expect("lent");
    budgets.turn();
    let counter = budgets.counters().next().expect("one");
    assert_eq!((counter.left(&budgets), counter.free()), (0, 100));
    budgets.body_ends(1, november, &GET, &GET);
    assert_eq!(counter.left(&budgets), 0, "that was November's");
    counter.lend(&budgets, 1);
    let december = admit(&budgets, &GET).expect("lent");
    assert_ne!(november, december);
    budgets.turn();
    assert_eq!(counter.left(&budgets), 0);
}

#[test]
fn threads_take_exactly_what_was_lent() {
    const LENT: u64 = 100_000;
    let budgets = budgets(&Budget { egress_bytes: 1 << 40, ..requests(LENT) });
    let all: Vec<_> = budgets.counters().collect();
    all[0].lend(&budgets, LENT);
    all[1].lend(&budgets, 1 << 40);
    let admitted: u64 = std::thread::scope(|scope| {
        let taker = || {
            let mut admitted = 0;
            while let Ok(month) = budgets.try_admit(1, &Spend { egress: 3, ..GET }) {
                admitted += 1;
                // Every third is not sent after all.
                if admitted % 3 == 0 {
                    budgets.body_ends(1, month, &Spend { egress: 3, ..GET }, &Spend { egress: 3, ..GET });
                    admitted += 1 << 32;
                }
            }
            (admitted & 0xffff_ffff) - (admitted >> 32)
        };
        let takers: Vec<_> = (0..4).map(|_| scope.spawn(taker)).collect();
        takers.into_iter().map(|one| one.join().expect("no panic")).sum()
    });
    assert_eq!(admitted, LENT);
    assert_eq!((all[0].left(&budgets), all[1].left(&budgets)), (0, (1 << 40) - 3 * LENT as i64));
}
