//! Months that turn at each instance in its own time, over bodies that are under way.

use super::*;
use crate::backend::budget::{Fare, Taken};

const LIMIT: u64 = 1_000;
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// As a reactor's charge has it.
struct Body {
    taken: Taken,
    whole: Spend,
    rest: Spend,
}

impl Body {
    /// None: the budget did not have it.
    fn begin(budgets: &Budgets, bytes: u64) -> Option<Self> {
        let whole = Spend { egress: bytes, ..Spend::default() };
        budgets.admit_now(0, &whole).map(|taken| Self { taken, whole, rest: whole })
    }

    fn look_at_the_calendar(&mut self, budgets: &Budgets) {
        if budgets.has_turned(self.taken) {
            self.taken = budgets.body_goes_on(0, self.taken, &self.whole, &self.rest);
            self.whole = self.rest;
        }
    }

    fn moved(&mut self, budgets: &Budgets, bytes: u64) {
        self.look_at_the_calendar(budgets);
        self.rest.egress -= bytes;
    }

    fn end(mut self, budgets: &Budgets) {
        self.look_at_the_calendar(budgets);
        budgets.body_ends(0, self.taken, &self.whole, &self.rest);
    }
}

/// An instance whose wall clock is ahead of the database's, and the bodies that it moves.
struct Mover {
    instance: Instance,
    ahead: Duration,
    bodies: Vec<Body>,
}

fn limited() -> Budget {
    Budget { egress_bytes: LIMIT, ..Budget::default() }
}

/// Some seconds before the database's month ends.
fn bench_before_the_turn(seconds: u64) -> Bench {
    let bench = Bench::new();
    wait_until(&bench, &date::month(bench.clock.now()), seconds);
    bench
}

/// Until some seconds before the end of a month.
fn wait_until(bench: &Bench, month: &str, seconds: u64) {
    let (_, next) = date::months_around(month).expect("a month");
    let turn = date::month_begins(&next).expect("a month");
    bench.clock.advance(turn.since(bench.clock.now()) - Duration::from_secs(seconds));
}

impl Mover {
    fn boot(bench: &Bench, ahead: Duration) -> Self {
        let mut mover = Self { instance: bench.boot_with(&limited()), ahead, bodies: Vec::new() };
        mover.instance.lender = Lender::new(Arc::clone(&mover.instance.budgets), mover.now(bench));
        mover
    }

    fn now(&self, bench: &Bench) -> Timestamp {
        bench.clock.now().plus(self.ahead)
    }

    /// The month that it counts in.
    fn month(&self) -> &str {
        &self.instance.lender.period
    }

    fn run(&mut self, bench: &Bench, occasion: Occasion) {
        let now = (bench.clock.tick(), self.now(bench));
        let Instance { lender, incarnation, .. } = &mut self.instance;
        let _ = wait_for(lender.run(&bench.meta, *incarnation, occasion, now, || vec![Usage::default()]));
    }

    /// Whether a body of so many bytes has begun, after one question to the lender at most.
    fn begin(&mut self, bench: &Bench, bytes: u64) -> bool {
        let begun = Body::begin(&self.instance.budgets, bytes).or_else(|| {
            self.instance.budgets.ask_for(0, &Spend { egress: bytes, ..Spend::default() });
            self.run(bench, Occasion::Rung);
            Body::begin(&self.instance.budgets, bytes)
        });
        let has_begun = begun.is_some();
        self.bodies.extend(begun);
        has_begun
    }

    /// Bodies of one byte each until there is no more for them.
    fn take_all(&mut self, bench: &Bench) -> u64 {
        std::iter::repeat_with(|| self.begin(bench, 1)).take_while(|has_begun| *has_begun).count() as u64
    }

    /// How many bytes more of a body have been moved: none if it may not go on.
    fn go_on(&mut self, bench: &Bench, place: usize, bytes: u64) -> u64 {
        let (body, budgets) = (&mut self.bodies[place], &self.instance.budgets);
        if !budgets.may_go_on(Fare { backend: 0, taken: body.taken }, || bench.clock.tick()) {
            return 0;
        }
        body.moved(budgets, bytes);
        bytes
    }
}

#[test]
fn a_body_goes_on_in_a_month_that_another_instance_has_begun_before() {
    let bench = bench_before_the_turn(MINUTE);
    let (mut early, mut late) =
        (Mover::boot(&bench, 2 * Duration::from_secs(MINUTE)), Mover::boot(&bench, Duration::ZERO));
    assert!(early.month() > late.month() && late.begin(&bench, 600));
    let taken = early.take_all(&bench);
    let one = Spend { egress: 1, ..Spend::default() };
    assert!(early.instance.budgets.has_room(0, &one), "there will be when the other has begun the month");
    bench.clock.advance(Duration::from_secs(2 * MINUTE));
    late.run(&bench, Occasion::Regular);
    assert_eq!(late.go_on(&bench, 0, 600), 600);
    let rest = early.take_all(&bench);
    assert_eq!(600 + taken + rest + late.take_all(&bench), LIMIT);
    assert!(!early.instance.budgets.has_room(0, &one));
    assert!(taken >= LIMIT / 4, "what is kept is what may go on: {taken}");
}

#[test]
fn with_no_body_under_way_the_month_keeps_nothing_but_the_leases() {
    let bench = bench_before_the_turn(MINUTE);
    let mut late = Mover::boot(&bench, Duration::ZERO);
    assert!(late.begin(&bench, 600));
    let body = late.bodies.pop().expect("begun");
    body.end(&late.instance.budgets);
    assert!(late.begin(&bench, 600));
    let mut body = late.bodies.pop().expect("begun");
    body.moved(&late.instance.budgets, 600);
    body.end(&late.instance.budgets);
    late.run(&bench, Occasion::Regular);
    let left: i64 = late.instance.budgets.counters().map(|one| one.left(&late.instance.budgets)).sum();
    assert!(left < LIMIT as i64 / SLICE_OF_LIMIT as i64);
    let mut early = Mover::boot(&bench, 2 * Duration::from_secs(MINUTE));
    assert_eq!(early.take_all(&bench), LIMIT - left as u64);
    // One that ends says that nothing of it goes on.
    late.run(&bench, Occasion::End);
    assert_eq!(early.take_all(&bench), left as u64);
}

/// Its bodies may go on for as long as they like, so what it brought is spent whether it comes back or not.
#[test]
fn an_instance_that_stays_away_over_the_turn_has_spent_what_it_may_have_brought() {
    let bench = bench_before_the_turn(30 * MINUTE);
    let (mut stays, mut away) = (Mover::boot(&bench, Duration::ZERO), Mover::boot(&bench, Duration::ZERO));
    assert!(away.begin(&bench, 600));
    bench.clock.advance(Duration::from_secs(HOUR));
    let one = Spend { egress: 1, ..Spend::default() };
    assert_eq!(stays.take_all(&bench), 400);
    assert!(stays.instance.budgets.has_room(0, &one), "it may come back");
    bench.clock.advance(Duration::from_secs(20 * HOUR));
    assert_eq!(stays.take_all(&bench), 0);
    assert!(!stays.instance.budgets.has_room(0, &one), "it will not");
    bench.meta.lose.set(Some(false));
    away.run(&bench, Occasion::Regular);
    assert_eq!(away.go_on(&bench, 0, 300), 300, "cut off, but the month keeps room for it");
    bench.meta.lose.set(None);
    away.run(&bench, Occasion::Regular);
    assert_eq!((away.go_on(&bench, 0, 200), stays.take_all(&bench)), (200, 0));
}

#[test]
fn an_instance_that_was_long_cut_off_at_the_turn_brings_nothing_over() {
    let bench = bench_before_the_turn(2 * HOUR);
    let (mut stays, mut away) = (Mover::boot(&bench, Duration::ZERO), Mover::boot(&bench, Duration::ZERO));
    assert!((0..2).all(|_| away.begin(&bench, 200)));
    bench.clock.advance(Duration::from_secs(2 * HOUR - 1));
    assert_eq!(away.go_on(&bench, 0, 50), 50, "to the month's end");
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(away.go_on(&bench, 0, 50), 0, "whether it has looked at the calendar or not");
    assert_eq!(stays.take_all(&bench), LIMIT);
    bench.meta.lose.set(Some(false));
    away.run(&bench, Occasion::Regular);
    bench.meta.lose.set(None);
    assert_eq!(away.go_on(&bench, 0, 50), 0);
    away.bodies.pop().expect("two").end(&away.instance.budgets);
    away.run(&bench, Occasion::Regular);
    assert_eq!(away.go_on(&bench, 0, 50), 0, "nor when it is back");
    away.bodies.pop().expect("two").end(&away.instance.budgets);
    assert_eq!(away.take_all(&bench), 0, "what was cut comes back to nobody");
}

/// What each month has had of all instances, by the calendar of the one that moved it, is never more than the limit.
#[test]
fn whenever_the_instances_turn_no_month_has_more_than_its_limit() {
    for seed in 1..=60_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut roll = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let bench = bench_before_the_turn(4 * HOUR);
        let months = {
            let first = date::month(bench.clock.now());
            let (_, second) = date::months_around(&first).expect("a month");
            [first, second]
        };
        // Clocks that agree to some seconds, or to hours.
        let apart = if seed % 4 == 0 { 2 * HOUR } else { MINUTE };
        let mut movers: Vec<Mover> = (0..3).map(|_| Mover::boot(&bench, Duration::from_secs(roll(apart)))).collect();
        // Until then it is cut off from the database, or stands still.
        let mut away = [(0_u64, false); 3];
        let mut moved: BTreeMap<String, u64> = BTreeMap::new();
        for step in 0..1000 {
            if step == 500 {
                // The second turn; what is under way was so for a month.
                wait_until(&bench, &months[1], 4 * HOUR);
            }
            let who = roll(movers.len() as u64) as usize;
            bench.clock.advance(Duration::from_secs(roll(HOUR / 30)));
            if away[who].0 < step && roll(100) == 0 {
                away[who] = (step + roll(300), roll(2) == 0);
            }
            let (is_away, stands_still) = (step < away[who].0, away[who].1);
            if is_away && stands_still {
                continue;
            }
            let lost = (roll(6) == 0).then_some(roll(2) == 0);
            bench.meta.lose.set(if is_away { Some(false) } else { lost });
            let mover = &mut movers[who];
            match roll(40) {
                // Who is in a new month takes all of it.
                0..=5 if mover.month() > months[0].as_str() => while mover.begin(&bench, 1 + roll(20)) {},
                0..=11 => {
                    let most = if roll(4) == 0 { 400 } else { 60 };
                    mover.begin(&bench, 1 + roll(most));
                }
                12..=23 if !mover.bodies.is_empty() => {
                    let place = roll(mover.bodies.len() as u64) as usize;
                    let rest = mover.bodies[place].rest.egress;
                    let bytes = if roll(2) == 0 { rest } else { roll(rest + 1) };
                    *moved.entry(mover.month().to_owned()).or_default() += mover.go_on(&bench, place, bytes);
                }
                // In the new month all that is under way comes.
                24..=27 if mover.month() > months[0].as_str() => {
                    for place in 0..mover.bodies.len() {
                        let rest = mover.bodies[place].rest.egress;
                        *moved.entry(mover.month().to_owned()).or_default() += mover.go_on(&bench, place, rest);
                    }
                    mover.bodies.drain(..).for_each(|body| body.end(&mover.instance.budgets));
                }
                28..=29 if !mover.bodies.is_empty() => {
                    let place = roll(mover.bodies.len() as u64) as usize;
                    let body = mover.bodies.swap_remove(place);
                    body.end(&mover.instance.budgets);
                }
                30..=37 => mover.run(&bench, Occasion::Regular),
                38 if roll(4) == 0 => {
                    bench.meta.lose.set(None);
                    *mover = Mover::boot(&bench, mover.ahead);
                }
                _ => {}
            }
            assert!(moved.values().all(|bytes| *bytes <= LIMIT), "seed {seed}, step {step}: {moved:?}");
        }
    }
}
