//! Instances that are in each other's way: whose fault that is, and what they may wait for.

use super::*;
use crate::base::{Clock, Dice, Failure, PartNumber, Tick, Timestamp};
use crate::store::desk::{Desk, DeskLimits, Locations, local};
use crate::store::port::{BeginPart, Metadata, Step};
use std::cell::Cell;
use std::rc::Rc;

/// Another instance's transaction, which holds what `sql` locks of this table from before this is made until it is let go.
pub(super) struct Held<'o> {
    options: &'o PostgresOptions,
    holder: std::thread::JoinHandle<()>,
}

impl<'o> Held<'o> {
    fn by(options: &'o PostgresOptions, sql: &str, table: &str, mode: &str) -> Self {
        execute(options, "CREATE TABLE IF NOT EXISTS let_go (); DELETE FROM let_go");
        let sql = format!(
            "BEGIN; {sql}; DO $$ BEGIN FOR i IN 1..6000 LOOP
                 EXIT WHEN EXISTS (SELECT FROM let_go);
                 PERFORM pg_sleep(0.01);
             END LOOP; END $$; COMMIT"
        );
        Self { options, holder: begin_holding(options, &sql, table, mode) }
    }

    pub(super) fn row(options: &'o PostgresOptions, table: &str, row: &str) -> Self {
        Self::by(options, &format!("SELECT 1 FROM {table} WHERE {row} FOR UPDATE"), table, "RowShareLock")
    }

    pub(super) fn let_go(self) {
        execute(self.options, "INSERT INTO let_go DEFAULT VALUES");
        self.holder.join().expect("it was held");
    }
}

fn failure_of(bench: &Bench<OnPostgres>, change: Change) -> Failure {
    match wait_for(bench.store.apply(BatchId(9, bench.roll()), vec![change].into())) {
        Err(ApplyError::NotApplied(failure)) => failure,
        other => panic!("it is held: {other:?}"),
    }
}

fn delete(text: &str) -> Delete {
    Delete { bucket: bucket(), key: key(text), condition: WriteCondition::default() }
}

#[test]
fn waiting_for_others_is_no_fault_of_the_databases() {
    let patient = cluster::options();
    let short = Duration::from_secs(1);
    let limits = |lock_timeout, decide_within, statement_timeout| PostgresOptions {
        lock_timeout,
        decide_within,
        statement_timeout,
        ..cluster::options()
    };
    // What ends the wait: its lock's time, the batch's, or a statement's.
    let all = [
        limits(short, 2 * short, patient.statement_timeout),
        limits(patient.lock_timeout, short, patient.statement_timeout),
        limits(patient.lock_timeout, Duration::MAX, short),
    ];
    std::thread::scope(|scope| all.iter().for_each(|impatient| drop(scope.spawn(|| wait_for_others(impatient)))));
}

fn wait_for_others(impatient: &PostgresOptions) {
    let clock = TestClock::new();
    let patient = PostgresOptions { schema: impatient.schema.clone(), ..cluster::options() };
    let patient = Bench::new(OnPostgres::on(patient, clock.clone(), Rules::default()), clock);
    patient.put("k", 10);
    let bench = another(impatient, &patient);
    let held = Held::row(impatient, "blobs", "key = 'k'");
    let failure = failure_of(&bench, delete("k").into());
    assert!(!failure.is_of_database(), "of a batch: {failure}");
    held.let_go();
    let held = Held::row(impatient, "backends", "name = 'a'");
    let limits = SetLimits { backends: vec![BackendLimit { name: name("a"), bytes_limit: 2000 }] };
    let failure = failure_of(&bench, limits.into());
    assert!(!failure.is_of_database(), "of a transaction alone: {failure}");
    held.let_go();
    // Who reads waits for no transaction of ours.
    let held = Held::by(impatient, "LOCK TABLE versions IN ACCESS EXCLUSIVE MODE", "versions", "AccessExclusiveLock");
    let lookup = Query::Lookup { bucket: "bkt".into(), key: "k".into() };
    let failure = wait_for(bench.store.query(lookup)).expect_err("it is held");
    assert!(failure.is_of_database(), "reads have to do without: {failure}");
    held.let_go();
    assert!(patient.delete("k"));
}

/// The system's clock, with tokio's timer.
struct WallClock;

impl Clock for WallClock {
    fn tick(&self) -> Tick {
        cluster::tick()
    }

    fn now(&self) -> Timestamp {
        Timestamp::default()
    }

    async fn sleep(&self, wait: Duration) {
        tokio::time::sleep(wait).await;
    }
}

struct CountingDice(Cell<u64>);

impl Dice for CountingDice {
    fn roll(&self) -> u64 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }
}

#[test]
fn writers_of_a_key_that_another_instance_holds_do_not_open_the_breaker() {
    let (patient, clock) = (cluster::options(), TestClock::new());
    let answer_within = Duration::from_secs(4);
    let options = PostgresOptions { decide_within: answer_within / 2, ..patient };
    let bench = Bench::new(OnPostgres::on(options.clone(), clock.clone(), Rules::default()), clock);
    bench.put("held", 10);
    let limits = DeskLimits { answer_within, ..DeskLimits::default() };
    let incarnation = bench.incarnation.get();
    let begins: Vec<BeginWrite> = (0..40).map(|i| bench.begin_write(&format!("free{i}"), 1)).collect();
    let desk = Rc::new(Desk::new(bench.store, WallClock, CountingDice(Cell::new(1 << 40)), limits, Locations::None));
    let held = Held::row(&options, "blobs", "key = 'held'");
    let let_go = options.clone();
    let (meta, inbox) = local(None);
    let circuit = desk.state();
    let working = Rc::clone(&desk);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let working = tokio::task::spawn_local(async move { working.run(inbox).await });
        let mut callers = Vec::new();
        for begin in begins {
            let (one, other) = (meta.clone(), meta.clone());
            callers.push(tokio::task::spawn_local(async move { one.step(delete("held")).await.map(drop) }));
            callers.push(tokio::task::spawn_local(async move { other.step(begin).await.map(drop) }));
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        tokio::task::spawn_blocking(move || execute(&let_go, "INSERT INTO let_go DEFAULT VALUES")).await.expect("done");
        let mut answers = (0, 0);
        for caller in callers {
            match caller.await.expect("it was answered") {
                Ok(()) => answers.0 += 1,
                Err(failure) => {
                    assert!(!failure.is_of_database(), "{failure}");
                    answers.1 += 1;
                }
            }
        }
        assert!(answers.0 > 0 && answers.1 > 0, "the first ones waited, the last did not: {answers:?}");
        assert_eq!(circuit.circuit.failures_in_a_row(), 0);
        assert!(meta.step(Renew { incarnation, judge: true, leave: false }).await.is_ok(), "it was never refused");
        drop(meta);
        working.await.expect("the desk ends when nobody calls any more");
    });
    held.let_go();
}

/// A database of its own, whose deadlocks are nobody else's.
fn of_its_own(database: &str) -> PostgresOptions {
    let options = PostgresOptions { schema: None, ..cluster::options() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(cluster::execute(&options, &format!("CREATE DATABASE {database}")));
    PostgresOptions { database: database.to_owned(), schema: Some("ours".to_owned()), ..options }
}

/// How often transactions waited for each other, as of when all that have worked on the database have left it: before that it
/// may not have been counted.
fn check_no_deadlocks(options: &PostgresOptions) {
    execute(
        options,
        "DO $$ BEGIN
             FOR i IN 1..3000 LOOP
                 EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity
                                       WHERE datname = current_database() AND pid <> pg_backend_pid());
                 PERFORM pg_stat_clear_snapshot();
                 PERFORM pg_sleep(0.01);
             END LOOP;
             PERFORM pg_stat_clear_snapshot();
             ASSERT (SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()) = 0, 'deadlocks';
         END $$",
    );
}

/// Returns when so many wait for locks here, or `is_done`.
fn wait_until_waiting(options: &PostgresOptions, waiting: u32, is_done: impl Fn() -> bool) {
    while !is_done() {
        let others = "datname = current_database() AND wait_event_type = 'Lock'";
        let look = format!("SELECT 1 / (count(*) / {waiting}) FROM pg_stat_activity WHERE {others}");
        if succeeds(options, &look) {
            return;
        }
        execute(options, "SELECT pg_sleep(0.01)");
    }
}

/// Whether the statement does: a division by zero says no.
fn succeeds(options: &PostgresOptions, sql: &str) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (client, connection) = cluster::connect(options).await;
        let connection = tokio::spawn(connection);
        let answer = client.simple_query(sql).await;
        drop(client);
        let _ = connection.await; // it has said what it had to say
        answer.is_ok()
    })
}

#[test]
fn who_judges_a_run_and_who_sets_limits_do_not_wait_for_each_other() {
    let (options, clock) = (of_its_own("judged"), TestClock::new());
    let judge = Bench::new(OnPostgres::on(options.clone(), clock.clone(), Rules::default()), clock);
    let (gone, setter) = (nth(1, &options, &judge.clock), nth(2, &options, &judge.clock));
    gone.step(BeginWrite { candidates: on(&["c"]), ..gone.begin_write("k", 10) }).expect("there is room");
    let upload = gone.step(gone.create_upload("u")).expect("there is room");
    let part = BeginPart {
        incarnation: gone.incarnation.get(),
        bucket: upload.bucket.clone(),
        key: upload.key.clone(),
        upload: upload.upload.clone(),
        number: PartNumber::new(1).expect("in range"),
        size: 5,
        nonce: gone.nonce(),
    };
    gone.step(part).expect("there is room");
    drop(gone);
    judge.advance(11);
    let renew = |bench: &Bench<OnPostgres>, judge| {
        bench.step(Renew { incarnation: bench.incarnation.get(), judge, leave: false }).expect("it lives")
    };
    renew(&setter, false);
    renew(&judge, false);
    // While the judge waits for an upload of the run that is gone, limits are set.
    let held = Held::row(&options, "uploads", "TRUE");
    let judging = std::thread::spawn(move || renew(&judge, true));
    wait_until_waiting(&options, 1, || judging.is_finished());
    let setting = std::thread::spawn(move || {
        let backends = BACKENDS.map(|(backend, bytes_limit)| BackendLimit { name: name(backend), bytes_limit });
        setter.step(SetLimits { backends: backends.into() }).expect("never refused");
    });
    wait_until_waiting(&options, 2, || setting.is_finished());
    held.let_go();
    setting.join().expect("limits are set");
    assert_eq!(judging.join().expect("it is judged"), Renewed { ended: 1, doomed: 1 });
    check_no_deadlocks(&options);
}

/// One instance among others: writes, cleans, sets limits, judges and registers anew as chance has it.
fn work(bench: &Bench<OnPostgres>, seed: u64) {
    let mut state = seed;
    let mut roll = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    // What others have done meanwhile may refuse it, or keep it waiting.
    let tried = |changes: Vec<Change>| match wait_for(bench.store.apply(BatchId(8, bench.roll()), changes.into())) {
        Ok(applied) => applied.outcomes,
        Err(ApplyError::NotApplied(failure)) => {
            assert!(!failure.is_of_database(), "{failure}");
            Vec::new()
        }
        Err(ApplyError::Unknown(failure)) => panic!("{failure}"),
    };
    for _ in 0..120 {
        let limits = [("a", 400 + roll(600)), ("b", 400 + roll(600)), ("c", roll(2) * 1000)];
        let limits = limits.map(|(backend, bytes_limit)| BackendLimit { name: name(backend), bytes_limit });
        match roll(12) {
            0 => drop(tried(vec![SetLimits { backends: limits.into() }.into()])),
            1 => {
                let register = Register { deployment: "first".into(), backends: limits.into() };
                if let Some(Outcome::Register(Ok(registered))) = tried(vec![register.into()]).first() {
                    bench.incarnation.set(registered.incarnation);
                }
            }
            2 => {
                bench.advance(roll(12));
                // The first after a while judges nobody.
                for judge in [false, true] {
                    drop(tried(vec![Renew { incarnation: bench.incarnation.get(), judge, leave: false }.into()]));
                }
            }
            3 => {
                bench.advance(100);
                let due = bench.due().into_iter().take(10);
                drop(tried(due.map(|due| CleanupDone { blob: due.blob.id, found: due.found }.into()).collect()));
            }
            _ => {
                let texts: Vec<String> = (0..1 + roll(6)).map(|_| format!("k{}", roll(12))).collect();
                let texts: std::collections::BTreeSet<String> = texts.into_iter().collect();
                let mut begin = |text: &String| {
                    let mut candidates = on(&["a", "b", "c"]);
                    candidates.rotate_left(roll(3) as usize);
                    BeginWrite { candidates, ..bench.begin_write(text, 1 + roll(90)) }.into()
                };
                let begun = tried(texts.iter().map(&mut begin).collect());
                let commits =
                    texts.iter().zip(begun).filter_map(|(text, outcome)| match BeginWrite::outcome(outcome) {
                        Ok(begun) => Some(bench.commit_write(text, &begun).into()),
                        Err(_) => None,
                    });
                let commits: Vec<Change> = commits.collect();
                if roll(3) > 0 && !commits.is_empty() {
                    tried(commits);
                } else if let Some(text) = texts.first() {
                    tried(vec![delete(text).into()]);
                }
            }
        }
    }
}

#[test]
fn instances_never_wait_for_each_other_in_a_circle() {
    let (options, clock) = (of_its_own("circle"), TestClock::new());
    let first = Bench::new(OnPostgres::on(options.clone(), clock.clone(), Rules::default()), clock.clone());
    let benches = [first, nth(1, &options, &clock), nth(2, &options, &clock), nth(3, &options, &clock)];
    std::thread::scope(|scope| {
        for (seed, bench) in benches.into_iter().enumerate() {
            scope.spawn(move || work(&bench, seed as u64));
        }
    });
    check_no_deadlocks(&options);
}
