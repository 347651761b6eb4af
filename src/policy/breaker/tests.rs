//! The machine step by step, and against a plain model under random calls.

use super::*;
use State::{Closed, HalfOpen, Open};

const SETTINGS: BreakerSettings = BreakerSettings {
    failure_threshold: 3,
    open_timeout: Duration::from_millis(1_000),
    probe_max: Duration::from_millis(500),
};

fn at(millis: u64) -> Tick {
    Tick { nanos: millis * 1_000_000 }
}

fn opened_at(millis: u64) -> Breaker {
    let breaker = Breaker::new(SETTINGS);
    for _ in 0..3 {
        breaker.failed(at(millis), at(millis), 0);
    }
    assert_eq!(breaker.state(), Open);
    breaker
}

#[test]
fn opens_after_failures_in_a_row_only() {
    let breaker = Breaker::new(SETTINGS);
    for _ in 0..5 {
        assert_eq!(breaker.failed(at(1), at(2), 0), None);
        assert_eq!(breaker.failed(at(1), at(2), 0), None);
        assert_eq!(breaker.succeeded(at(1), at(2)), None, "a success forgives");
    }
    assert_eq!((breaker.state(), breaker.failures_in_a_row()), (Closed, 0));
    breaker.failed(at(1), at(3), 0);
    breaker.failed(at(1), at(3), 0);
    let opened = breaker.failed(at(1), at(4), 0).expect("the third opens it");
    assert_eq!(opened, Transition { from: Closed, to: Open, failures: 3, degraded: Duration::ZERO });
    assert_eq!(breaker.failed(at(1), at(5), 0), None, "it is open");
}

#[test]
fn one_probe_closes_or_opens_it() {
    let breaker = opened_at(100);
    assert_eq!(breaker.advance(at(1_099), 0), None, "its wait is not over");
    let probe = breaker.advance(at(1_100), 0).expect("it is over");
    assert_eq!((probe.from, probe.to, probe.degraded), (Open, HalfOpen, Duration::from_millis(1_000)));
    assert_eq!(breaker.advance(at(1_100), 0), None, "one probe at a time");
    let failed = breaker.failed(at(1_100), at(1_150), 0).expect("opens again");
    assert_eq!((failed.from, failed.to, failed.failures), (HalfOpen, Open, 4));
    assert_eq!(breaker.advance(at(2_149), 0), None, "the wait begins anew");
    assert_eq!(breaker.advance(at(2_150), 0).map(|one| one.to), Some(HalfOpen));
    let closed = breaker.succeeded(at(2_150), at(2_160)).expect("closes");
    assert_eq!(
        closed,
        Transition { from: HalfOpen, to: Closed, failures: 0, degraded: Duration::from_millis(2_060) },
        "counted from the first opening"
    );
    assert_eq!((breaker.is_closed(), breaker.failures_in_a_row()), (true, 0));
    assert_eq!(breaker.degraded(at(9_000)), Duration::ZERO);
}

#[test]
fn an_abandoned_probe_returns_to_open() {
    let breaker = opened_at(0);
    breaker.advance(at(1_000), 0).expect("a probe is due");
    assert_eq!(breaker.advance(at(1_499), 0), None);
    let given_up = breaker.advance(at(1_500), 0).expect("it took too long");
    assert_eq!((given_up.from, given_up.to), (HalfOpen, Open));
    assert_eq!(breaker.failed(at(1_000), at(1_600), 0), None, "its late result is of another time");
    assert_eq!(breaker.advance(at(2_500), 0).map(|one| one.to), Some(HalfOpen), "and there is another probe");
}

#[test]
fn results_of_another_time_change_nothing() {
    let breaker = opened_at(100);
    breaker.advance(at(1_100), 0).expect("a probe is due");
    assert_eq!(breaker.failed(at(90), at(1_200), 0), None, "a call that hung since before it opened");
    assert_eq!(breaker.succeeded(at(90), at(1_200)), None);
    assert_eq!(breaker.state(), HalfOpen);
    breaker.succeeded(at(1_100), at(1_210)).expect("the probe's own");
    for _ in 0..9 {
        breaker.failed(at(1_150), at(1_300), 0);
    }
    assert_eq!((breaker.state(), breaker.failures_in_a_row()), (Closed, 0), "they began before it closed");
}

#[test]
fn an_answer_while_it_is_open_brings_the_probe_forward() {
    let breaker = opened_at(0);
    assert_eq!(breaker.succeeded(at(200), at(300)), None, "it stays open");
    assert_eq!(breaker.state(), Open);
    assert_eq!(breaker.advance(at(300), 0).map(|one| one.to), Some(HalfOpen));
}

#[test]
fn chance_adds_up_to_a_quarter() {
    for roll in [0, 1, 77_777_777, 250_000_000, 250_000_001, u64::MAX] {
        let breaker = Breaker::new(BreakerSettings { failure_threshold: 1, ..SETTINGS });
        breaker.failed(at(0), at(0), roll).expect("opens");
        let due = (0..2_000).find(|&millis| breaker.advance(at(millis), roll).is_some()).expect("it is due some time");
        assert!((1_000..=1_251).contains(&due), "roll {roll}: {due}");
    }
    let endless = Breaker::new(BreakerSettings { failure_threshold: 1, open_timeout: Duration::MAX, ..SETTINGS });
    endless.failed(at(0), at(0), u64::MAX).expect("opens, without an overflow");
}

/// What the rules say, without packing and races.
struct Model {
    state: State,
    failures: u32,
    millis: u64,
}

#[test]
fn it_follows_a_plain_model_and_never_gets_stuck() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut roll = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let breaker = Breaker::new(SETTINGS);
    let mut model = Model { state: Closed, failures: 0, millis: 0 };
    let mut now = 0;
    for _ in 0..200_000 {
        now += roll() % 200;
        let began = now.saturating_sub(roll() % 2_000);
        let chance = roll();
        let open = || now + 1_000 + (chance % 250_000_001) / 1_000_000;
        match roll() % 3 {
            0 => {
                breaker.failed(at(began), at(now), chance);
                let counts = model.state != Open && began >= model.millis;
                if counts {
                    model.failures += 1;
                    if model.state == HalfOpen || model.failures >= 3 {
                        (model.state, model.millis) = (Open, open());
                    }
                }
            }
            1 => {
                breaker.succeeded(at(began), at(now));
                match model.state {
                    Closed => model.failures = 0,
                    HalfOpen if began >= model.millis => {
                        (model.state, model.failures, model.millis) = (Closed, 0, now);
                    }
                    HalfOpen => {}
                    Open => model.millis = model.millis.min(now),
                }
            }
            _ => {
                breaker.advance(at(now), chance);
                match model.state {
                    Open if now >= model.millis => (model.state, model.millis) = (HalfOpen, now),
                    HalfOpen if now - model.millis >= 500 => (model.state, model.millis) = (Open, open()),
                    _ => {}
                }
            }
        }
        assert_eq!((breaker.state(), breaker.failures_in_a_row()), (model.state, model.failures), "at {now}");
    }
    // Whatever the state, a probe comes within a wait, a quarter, and a probe's patience.
    let stuck = (0..4).all(|_| {
        now += 1_250;
        breaker.advance(at(now), 0).is_none_or(|one| one.to != HalfOpen)
    });
    assert!(!stuck || breaker.is_closed());
}

#[test]
fn threads_agree_on_one_opening_and_one_probe() {
    let breaker = Breaker::new(SETTINGS);
    let count = |what: &(dyn Fn() -> Option<Transition> + Sync)| -> usize {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..50).filter_map(|_| what()).count())).collect();
            threads.into_iter().map(|one| one.join().expect("no panic")).sum()
        })
    };
    for round in 0..50_u64 {
        let now = 10_000 * (round + 1);
        assert_eq!(count(&|| breaker.failed(at(now), at(now), 0)), 1, "one opening");
        assert_eq!(count(&|| breaker.advance(at(now + 1_000), 0)), 1, "one probe");
        assert_eq!(count(&|| breaker.succeeded(at(now + 1_000), at(now + 1_001))), 1, "one closing");
    }
}
