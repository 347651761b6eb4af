//! Instances that are in each other's way: whose fault that is, and what they may wait for.

use super::*;
use crate::base::{Clock, Dice, Failure, Tick, Timestamp};
use crate::store::desk::{Desk, DeskLimits, Locations, local};
use crate::store::port::Metadata;
use std::cell::Cell;
use std::rc::Rc;

/// Another instance's transaction, which holds what `sql` locks of this table from before this is made until it is let go.
struct Held<'o> {
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

    fn row(options: &'o PostgresOptions, table: &str, row: &str) -> Self {
        Self::by(options, &format!("SELECT 1 FROM {table} WHERE {row} FOR UPDATE"), table, "RowShareLock")
    }

    fn let_go(self) {
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
