//! Months that turn at each instance in its own time, over bodies that are under way.

use super::*;
use crate::backend::budget::Taken;

const LIMIT: u64 = 1_000;
const MONTHS: u64 = 4;

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

/// An instance that has its own idea of the month, and the bodies that it moves.
struct Mover {
    instance: Instance,
    month: u64,
    bodies: Vec<Body>,
}

fn limited() -> Budget {
    Budget { egress_bytes: LIMIT, ..Budget::default() }
}

impl Mover {
    fn boot(bench: &Bench, month: u64) -> Self {
        let mut mover = Self { instance: bench.boot_with(&limited()), month, bodies: Vec::new() };
        mover.instance.lender = Lender::new(Arc::clone(&mover.instance.budgets), mover.calendar(bench));
        mover
    }

    fn calendar(&self, bench: &Bench) -> Timestamp {
        bench.clock.now().plus(Duration::from_secs(31 * 24 * 3600) * self.month as u32)
    }

    fn run(&mut self, bench: &Bench, occasion: Occasion) {
        let now = self.calendar(bench);
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
}

#[test]
fn a_body_goes_on_in_a_month_that_another_instance_has_begun_before() {
    let bench = Bench::new();
    let (mut early, mut late) = (Mover::boot(&bench, 0), Mover::boot(&bench, 0));
    assert!(late.begin(&bench, 600));
    early.run(&bench, Occasion::Regular);
    late.run(&bench, Occasion::Regular);
    early.month = 1;
    let taken = early.take_all(&bench);
    let one = Spend { egress: 1, ..Spend::default() };
    assert!(early.instance.budgets.has_room(0, &one), "there will be when the other has begun the month");
    late.month = 1;
    late.run(&bench, Occasion::Regular);
    let body = &mut late.bodies[0];
    body.moved(&late.instance.budgets, 600);
    let rest = early.take_all(&bench);
    assert_eq!(600 + taken + rest + late.take_all(&bench), LIMIT);
    assert!(!early.instance.budgets.has_room(0, &one));
    assert!(taken >= LIMIT / 4, "what is kept is what may go on: {taken}");
}

#[test]
fn with_no_body_under_way_the_month_keeps_nothing_but_the_leases() {
    let bench = Bench::new();
    let (mut early, mut late) = (Mover::boot(&bench, 0), Mover::boot(&bench, 0));
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
    early.month = 1;
    assert_eq!(early.take_all(&bench), LIMIT - left as u64);
    // One that ends says that nothing of it goes on.
    late.run(&bench, Occasion::End);
    assert_eq!(early.take_all(&bench), left as u64);
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
        let bench = Bench::new();
        let mut movers: Vec<Mover> = (0..3).map(|_| Mover::boot(&bench, 0)).collect();
        let mut moved = [0_u64; MONTHS as usize];
        for _ in 0..600 {
            let slowest = movers.iter().map(|one| one.month).min().expect("three");
            let who = roll(movers.len() as u64) as usize;
            let mover = &mut movers[who];
            bench.meta.lose.set((roll(6) == 0).then_some(roll(2) == 0));
            bench.clock.advance(Duration::from_secs(roll(60)));
            match roll(40) {
                // Who is in the new month takes all of it.
                0..=5 if mover.month > slowest => while mover.begin(&bench, 1 + roll(20)) {},
                0..=11 => {
                    let most = if roll(4) == 0 { 400 } else { 60 };
                    mover.begin(&bench, 1 + roll(most));
                }
                12..=23 if !mover.bodies.is_empty() => {
                    let place = roll(mover.bodies.len() as u64) as usize;
                    let body = &mut mover.bodies[place];
                    let bytes = if roll(2) == 0 { body.rest.egress } else { roll(body.rest.egress + 1) };
                    body.moved(&mover.instance.budgets, bytes);
                    moved[mover.month as usize] += bytes;
                }
                // In the new month all that is under way comes.
                24..=27 if mover.month > 0 => {
                    for mut body in mover.bodies.drain(..) {
                        let bytes = body.rest.egress;
                        body.moved(&mover.instance.budgets, bytes);
                        moved[mover.month as usize] += bytes;
                        body.end(&mover.instance.budgets);
                    }
                }
                28..=29 if !mover.bodies.is_empty() => {
                    let place = roll(mover.bodies.len() as u64) as usize;
                    let body = mover.bodies.swap_remove(place);
                    body.end(&mover.instance.budgets);
                }
                30..=35 => mover.run(&bench, Occasion::Regular),
                36 if roll(4) == 0 && mover.month == slowest => {
                    bench.meta.lose.set(None);
                    *mover = Mover::boot(&bench, mover.month);
                }
                37 if roll(2) == 0 && mover.month == slowest && mover.month + 1 < MONTHS => {
                    // It turns, whether the database hears of it or not.
                    mover.month += 1;
                    mover.run(&bench, Occasion::Regular);
                }
                _ => {}
            }
            assert!(moved.iter().all(|bytes| *bytes <= LIMIT), "seed {seed}: {moved:?}");
        }
    }
}
