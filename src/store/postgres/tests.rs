//! What only a shared database can do to a store: lose what it was told, be another one, change between a decision and its
//! transaction. Done here by statements that the program never sends.

use super::super::conformance::{Bench, TestClock, bucket, key, name, on, wait_for};
use super::super::port::{
    Answer, ApplyError, BatchId, BeginWrite, BudgetAsk, Change, Committed, CreateBucket, Delete, DeleteBucket,
    LeaseBudgets, MetadataStore, Query, Refusal, Renew, Renewed, Rules, SetBackendUpload, SetRestored, WriteCondition,
};
use super::super::record::BlobState;
use super::cluster::{self, OnPostgres};
use super::options::PostgresOptions;
use crate::base::BucketName;
use std::time::Duration;

fn bench() -> (PostgresOptions, Bench<OnPostgres>) {
    let (options, clock) = (cluster::options(), TestClock::new());
    let bench = Bench::new(OnPostgres::on(options.clone(), clock.clone(), Rules::default()), clock);
    (options, bench)
}

fn execute(options: &PostgresOptions, sql: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let sql = format!("SET search_path = {}; {sql}", options.schema.as_deref().expect("of its own"));
    runtime.block_on(cluster::execute(options, &sql));
}

/// Much more than a batch takes, and much less than `hold` holds.
const DECIDE_WITHIN: Duration = Duration::from_secs(1);

/// Holds a table for three seconds, from before this returns until what is returned has ended.
fn hold(options: &PostgresOptions, table: &str) -> std::thread::JoinHandle<()> {
    let of_holder = options.clone();
    let sql = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(3); COMMIT");
    let holder = std::thread::spawn(move || execute(&of_holder, &sql));
    let held = format!("relation = '{table}'::regclass AND mode = 'AccessExclusiveLock' AND granted");
    let look = format!("WHILE NOT EXISTS (SELECT FROM pg_locks WHERE {held}) LOOP PERFORM pg_sleep(0.01); END LOOP");
    execute(options, &format!("DO $$ BEGIN {look}; END $$"));
    holder
}

fn is_held(bench: &Bench<OnPostgres>) -> bool {
    bench.query(Query::Restored) == Answer::Restored(true)
}

fn release(bench: &Bench<OnPostgres>) {
    bench.step(SetRestored { restored: false }).expect("never refused");
}

const BACKENDS: [(&str, u64); 3] = [("a", 1000), ("b", 1000), ("c", 0)];

/// What this run begins is refused, because it has ended.
fn check_ended(bench: &Bench<OnPostgres>) {
    let changes = vec![bench.begin_write("k", 1).into()];
    let refused = wait_for(bench.store.apply(BatchId(9, bench.roll()), changes.into()));
    assert!(matches!(refused, Err(ApplyError::NotApplied(_))), "a run that has ended changes nothing: {refused:?}");
}

#[test]
fn a_batch_that_meets_a_lower_mark_holds_the_database() {
    let (options, bench) = bench();
    let old = bench.put("old", 10);
    bench.delete("old");
    let begun = bench.begin("begun", 10);
    assert!(!is_held(&bench));
    execute(&options, "UPDATE incarnations SET mark = mark - 1");
    check_ended(&bench);
    assert!(is_held(&bench));
    check_ended(&bench);
    assert!(bench.register(&BACKENDS).restored);
    let put = bench.put("k", 10);
    assert!(put.blob.id.0 > 1_000_000_000, "numbers that were lost are not given out again: {:?}", put.blob.id);
    assert_eq!(bench.state(&begun.blob), Some(BlobState::Doomed), "what it has reserved may be over");
    bench.advance(3600);
    assert_eq!(bench.due(), []);
    release(&bench);
    bench.put("k", 10);
    assert!(!is_held(&bench), "it is told once");
    assert!(bench.due().iter().any(|due| due.blob.id == old.blob.id));
}

#[test]
fn a_renewal_notices_before_it_judges() {
    let (options, bench) = bench();
    let renew = || bench.step(Renew { incarnation: bench.incarnation.get(), judge: true, leave: false });
    // Whoever does nothing else raises its mark by renewing.
    for _ in 0..3 {
        assert_eq!(renew(), Ok(Renewed::default()));
    }
    execute(&options, "UPDATE incarnations SET mark = 1");
    assert!(!is_held(&bench));
    assert_eq!(renew(), Err(Refusal::Lost));
    assert!(is_held(&bench));
    bench.register(&BACKENDS);
    release(&bench);
    assert_eq!(renew(), Ok(Renewed::default()));
    assert!(!is_held(&bench), "it is told once");
}

#[test]
fn a_run_whose_row_is_gone_holds_the_database() {
    let (options, bench) = bench();
    bench.put("k", 10);
    execute(&options, "DELETE FROM incarnations");
    let renewal = bench.step(Renew { incarnation: bench.incarnation.get(), judge: true, leave: false });
    assert_eq!(renewal, Err(Refusal::Lost));
    assert!(is_held(&bench));
    release(&bench);
    check_ended(&bench);
    assert!(is_held(&bench), "a batch notices too");
    release(&bench);
    let before = bench.incarnation.get();
    assert!(bench.register(&BACKENDS).restored);
    assert_ne!(bench.incarnation.get(), before);
    release(&bench);
    assert!(!bench.register(&BACKENDS).restored, "it is told once");
}

#[test]
fn what_sync_has_compared_is_not_held_again() {
    let (options, bench) = bench();
    bench.put("k", 10);
    execute(&options, "UPDATE incarnations SET mark = mark - 1");
    bench.step(SetRestored { restored: true }).expect("never refused");
    bench.advance(1);
    release(&bench);
    // Another instance did that; this one meets the lower mark only now.
    check_ended(&bench);
    assert!(!is_held(&bench));
    assert!(!bench.register(&BACKENDS).restored);
    bench.put("k", 11);
    bench.advance(1);
    bench.put("k", 12);
    execute(&options, "UPDATE incarnations SET mark = mark - 1");
    check_ended(&bench);
    assert!(is_held(&bench), "what was told after the release was compared with nothing");
}

#[test]
fn nothing_is_lent_by_what_a_rewound_database_says() {
    let (options, bench) = bench();
    let lease = |waiting| {
        let (backend, counter) = (name("a"), "api_requests".to_owned());
        let asked = BudgetAsk { backend, counter, limit: 100, holds: 0, used: 0, least: 1, waiting, slice: 0 };
        let period = crate::proto::date::month(bench.now());
        let lease = LeaseBudgets { incarnation: bench.incarnation.get(), period, asks: vec![asked] };
        bench.step(lease).map(|leased| leased.leases[0].granted)
    };
    bench.put("k", 10);
    assert_eq!(lease(10), Ok(10));
    execute(&options, "UPDATE incarnations SET mark = 0; DELETE FROM budget_leases");
    assert_eq!(lease(10), Err(Refusal::Lost));
    assert!(is_held(&bench));
    bench.register(&BACKENDS);
    release(&bench);
    assert_eq!(lease(10), Ok(0), "others may hold all of it");
}

#[test]
fn other_tables_than_the_last_ones_are_a_restored_copy() {
    let (options, bench) = bench();
    assert!(!bench.register(&BACKENDS).restored);
    execute(&options, "UPDATE deployment SET value = '1 2/3' WHERE name = 'place'");
    assert!(bench.register(&BACKENDS).restored);
    assert!(bench.register(&BACKENDS).restored, "until it was compared");
    release(&bench);
    assert!(!bench.register(&BACKENDS).restored);
}

#[test]
fn a_begin_waits_for_a_drain_that_is_being_set() {
    let (options, bench) = bench();
    let of_drainer = options.clone();
    let drainer = std::thread::spawn(move || {
        execute(
            &of_drainer,
            "BEGIN; SELECT 1 FROM backends WHERE name = 'a' FOR UPDATE;
             UPDATE backends SET draining = TRUE WHERE name = 'a'; SELECT pg_sleep(0.6); COMMIT",
        );
    });
    execute(&options, "SELECT pg_sleep(0.3)");
    let begin = BeginWrite { candidates: on(&["a", "b"]), ..bench.begin_write("k", 10) };
    let begun = bench.step(begin).expect("b takes it");
    assert_eq!(begun.blob.backend, name("b"), "decided before the drain, it must not be committed after it");
    drainer.join().expect("the drain is set");
}

#[test]
fn a_batch_that_has_waited_too_long_is_not_decided() {
    let (patient, clock) = (cluster::options(), TestClock::new());
    let options = PostgresOptions { decide_within: DECIDE_WITHIN, ..patient };
    let bench = Bench::new(OnPostgres::on(options.clone(), clock.clone(), Rules::default()), clock);
    bench.put("k", 10);
    let holder = hold(&options, "versions");
    let delete = Delete { bucket: bucket(), key: key("k"), condition: WriteCondition::default() };
    let late = wait_for(bench.store.apply(BatchId(9, 9), vec![delete.into()].into()));
    holder.join().expect("it was held");
    assert!(
        matches!(late, Err(ApplyError::NotApplied(_))),
        "its caller was told so, and may have written since: {late:?}"
    );
    assert!(bench.lookup("k").is_some());
    assert!(bench.delete("k"), "in time");
}

#[test]
fn what_a_client_waits_for_is_not_committed_late() {
    let (patient, clock) = (cluster::options(), TestClock::new());
    let options = PostgresOptions { decide_within: DECIDE_WITHIN, ..patient };
    let bench = Bench::new(OnPostgres::on(options.clone(), clock.clone(), Rules::default()), clock);
    let stored = BucketName::parse("stored").expect("a bucket's name");
    let (owner, region) = ("ann".to_owned(), String::new());
    let create = CreateBucket { bucket: stored.clone(), owner, region, buckets_max: 9 };
    let delete = Change::from(DeleteBucket { bucket: stored.clone() });
    let upload = bench.step(bench.create_upload("u")).expect("there is room");
    let set = SetBackendUpload { upload: upload.upload.clone(), backend_upload: "theirs".into() };
    for (table, change) in [("buckets", create.clone().into()), ("uploads", set.clone().into()), ("buckets", delete)] {
        if matches!(change, Change::DeleteBucket(_)) {
            bench.step(create.clone()).expect("in time");
        }
        let holder = hold(&options, table);
        let late = wait_for(bench.store.apply(BatchId(9, bench.roll()), vec![change.clone()].into()));
        holder.join().expect("it was held");
        assert!(matches!(late, Err(ApplyError::NotApplied(_))), "{change:?}: {late:?}");
    }
    let Answer::Buckets(Some(buckets)) = bench.query(Query::Buckets { unless: None }) else { panic!("no buckets") };
    assert_eq!(buckets.rows.len(), 1, "made in time, and not deleted late");
    assert_eq!(bench.step(set).expect("in time").backend_upload, "theirs");
}

/// Another instance on the same tables.
fn another(options: &PostgresOptions, bench: &Bench<OnPostgres>) -> Bench<OnPostgres> {
    let clock = bench.clock.clone();
    let store = OnPostgres::open(options.clone(), Rules::default(), clock.clone(), |_| {});
    Bench::rolling_from(1 << 32, store, clock)
}

#[test]
fn a_commit_sees_what_others_did_since_its_begin() {
    let (options, one) = bench();
    let other = another(&options, &one);
    // A later write of another's.
    let begun = one.begin("k", 10);
    other.advance(1);
    let later = other.put("k", 20);
    let committed = one.commit("k", &begun);
    assert!(matches!(committed, Ok(Committed::Overwritten { .. })), "{committed:?}");
    assert_eq!(one.lookup("k").expect("live").version, later.version);
    // An earlier one, committed meanwhile.
    let earlier = other.begin("l", 10);
    one.advance(1);
    let begun = one.begin("l", 10);
    other.commit("l", &earlier).expect("nothing is in the way");
    let committed = one.commit("l", &begun);
    assert!(matches!(committed, Ok(Committed::Live { .. })), "{committed:?}");
    assert_eq!(other.state(&earlier.blob), Some(BlobState::Doomed), "it was displaced");
    // A delete, of nothing that one knew of.
    let begun = one.begin("m", 10);
    other.delete("m");
    let committed = one.commit("m", &begun);
    assert!(matches!(committed, Ok(Committed::Overwritten { .. })), "{committed:?}");
    assert!(one.lookup("m").is_none());
    // And the object that a begin found there.
    one.put("n", 10);
    let begun = one.begin("n", 10);
    assert!(other.delete("n"));
    let committed = one.commit("n", &begun);
    assert!(matches!(committed, Ok(Committed::Overwritten { .. })), "{committed:?}");
    assert!(one.lookup("n").is_none());
}

#[test]
fn a_write_that_nobody_disturbs_is_decided_once() {
    let (options, bench) = bench();
    // A sequence counts batches that were rolled back too.
    execute(
        &options,
        "CREATE SEQUENCE attempts;
         CREATE FUNCTION count_attempt() RETURNS TRIGGER LANGUAGE plpgsql
             AS $$ BEGIN PERFORM nextval('attempts'); RETURN NEW; END $$;
         CREATE TRIGGER counted BEFORE INSERT ON batches FOR EACH ROW EXECUTE FUNCTION count_attempt()",
    );
    let (one, two) = (bench.begin_write("k", 10), bench.begin_write("l", 20));
    bench.batch(vec![one.into(), two.into()]);
    let begun = bench.begin("k", 10);
    bench.commit("k", &begun).expect("nothing is in the way");
    bench.put("k", 10);
    bench.put("l", 10);
    execute(
        &options,
        "DO $$ BEGIN ASSERT (SELECT last_value FROM attempts) = (SELECT count(*) FROM batches) - 1; END $$",
    );
}
