//! What only a shared database can do to a store: lose what it was told, be another one, change between a decision and its
//! transaction. Done here by statements that the program never sends.

use super::super::conformance::{Bench, TestClock, bucket, key, name, on, wait_for};
use super::super::port::{
    Answer, ApplyError, BackendLimit, BatchId, BeginWrite, BudgetAsk, Change, CleanupDone, Committed, CreateBucket,
    Delete, DeleteBucket, FinishDrain, LeaseBudgets, MetadataStore, Outcome, Query, Refusal, Register, Renew, Renewed,
    Rules, SetBackendUpload, SetDraining, SetLimits, SetRestored, WriteCondition,
};
use super::super::record::BlobState;
use super::cluster::{self, OnPostgres};
use super::options::PostgresOptions;
use crate::base::BucketName;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
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
    let sql = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(3); COMMIT");
    begin_holding(options, &sql, table, "AccessExclusiveLock")
}

/// Runs a transaction of another's; returns when that holds this lock of the table.
fn begin_holding(options: &PostgresOptions, sql: &str, table: &str, mode: &str) -> std::thread::JoinHandle<()> {
    let (of_holder, sql) = (options.clone(), sql.to_owned());
    let holder = std::thread::spawn(move || execute(&of_holder, &sql));
    let held = format!("relation = '{table}'::regclass AND mode = '{mode}' AND granted");
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
        let asked =
            BudgetAsk { backend, counter, limit: 100, holds: 0, used: 0, under_way: 0, least: 1, waiting, slice: 0 };
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
fn a_drain_that_ends_does_not_undo_a_cancel() {
    let (options, bench) = bench();
    bench.step(SetDraining { backend: name("a"), draining: true }).expect("a is known");
    // Another instance's cancel, committed when the end of the drain has been decided on and waits for it.
    let cancel = "BEGIN; UPDATE backends SET draining = FALSE WHERE name = 'a';
         DO $$ BEGIN FOR i IN 1..1000 LOOP
             EXIT WHEN EXISTS (SELECT FROM pg_locks WHERE NOT granted AND transactionid = pg_current_xact_id()::xid);
             PERFORM pg_sleep(0.01);
         END LOOP; END $$; COMMIT";
    let canceller = begin_holding(&options, cancel, "backends", "RowExclusiveLock");
    assert_eq!(bench.step(FinishDrain { backend: name("a") }), Err(Refusal::Lost));
    canceller.join().expect("it was cancelled");
    let status = bench.status("a");
    assert!(!status.draining && !status.drained, "{status:?}");
}

#[test]
fn what_is_acknowledged_is_durable_whatever_the_servers_default_is() {
    let (plain, clock) = (cluster::options(), TestClock::new());
    execute(&plain, "CREATE ROLE lazy SUPERUSER LOGIN; ALTER ROLE lazy SET synchronous_commit = off");
    let options = PostgresOptions { user: "lazy".into(), ..plain };
    let bench = Bench::new(OnPostgres::on(options.clone(), clock.clone(), Rules::default()), clock);
    // Looked at when a transaction is about to be committed; each that is acknowledged has its batch, or its row here.
    execute(
        &options,
        "CREATE FUNCTION check_durable() RETURNS TRIGGER LANGUAGE plpgsql
             AS $$ BEGIN ASSERT current_setting('synchronous_commit') = 'on'; RETURN NULL; END $$;
         SET synchronous_commit = on;
         CREATE CONSTRAINT TRIGGER durable AFTER INSERT ON batches DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION check_durable();
         CREATE CONSTRAINT TRIGGER durable AFTER INSERT ON deployment DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION check_durable()",
    );
    bench.register(&BACKENDS);
    bench.put("k", 10);
    let stored = BucketName::parse("stored").expect("a bucket's name");
    let create = CreateBucket { bucket: stored.clone(), owner: "ann".into(), region: String::new(), buckets_max: 9 };
    bench.step(create).expect("it is new");
    bench.step(DeleteBucket { bucket: stored }).expect("it is empty");
    let renew = Renew { incarnation: bench.incarnation.get(), judge: true, leave: false };
    bench.step(renew).expect("it lives");
    let (period, asks) = (crate::proto::date::month(bench.now()), Vec::new());
    bench.step(LeaseBudgets { incarnation: bench.incarnation.get(), period, asks }).expect("never refused");
    execute(&options, "UPDATE incarnations SET mark = mark - 1");
    check_ended(&bench);
    assert!(is_held(&bench), "that is for ever too");
}

#[test]
fn a_registration_whose_answer_was_lost_has_its_lease() {
    let plain = cluster::options();
    let hosts = vec![("127.0.0.1".to_owned(), losing_a_registrations_answer(plain.hosts[0].1))];
    let options = PostgresOptions { hosts, ..plain };
    let clock = TestClock::new();
    execute(&options, &format!("CREATE SCHEMA {}", options.schema.as_deref().expect("of its own")));
    let store = OnPostgres::open(options, Rules::default(), clock, |_| {});
    let backends = vec![BackendLimit { name: name("a"), bytes_limit: 0 }];
    let register = Register { deployment: "first".into(), backends };
    let id = BatchId(9, 9);
    let lost = wait_for(store.apply(id, vec![register.into()].into()));
    assert!(matches!(lost, Err(ApplyError::Unknown(_))), "{lost:?}");
    assert!(!store.tenure.has_lease(), "nobody knows yet");
    let found = wait_for(store.resolve(id)).expect("it answers again").expect("it was committed");
    let Outcome::Register(Ok(registered)) = &found.outcomes[0] else { panic!("{found:?}") };
    let incarnation = registered.incarnation;
    assert!(store.tenure.has_lease() && !store.tenure.has_ended(), "it is to be renewed");
    assert!(store.tenure.lasts_for(incarnation, cluster::tick), "and what it begins goes on: {:?}", store.tenure);
    let renew = Renew { incarnation, judge: true, leave: false };
    let renewed = wait_for(store.apply(BatchId(9, 10), vec![renew.into()].into())).expect("it answers");
    assert_eq!(renewed.outcomes, [Outcome::Renew(Ok(Renewed::default()))]);
}

/// A way to the server that cuts the connection of the first registration when the server has answered its COMMIT.
fn losing_a_registrations_answer(server: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let is_lost = Arc::new(AtomicBool::new(false));
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("a connection");
            let server = TcpStream::connect(("127.0.0.1", server)).expect("the test's server listens");
            let (mut from_client, mut to_server) =
                (client.try_clone().expect("a copy"), server.try_clone().expect("a copy"));
            let (is_lost, commits) = (Arc::clone(&is_lost), Arc::new(AtomicBool::new(false)));
            let commits_there = Arc::clone(&commits);
            std::thread::spawn(move || {
                let mut registers = false;
                pass_on(&mut from_client, &mut to_server, |bytes| {
                    let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
                    registers |= has(b"INSERT INTO incarnations");
                    if registers && has(b"COMMIT") && !is_lost.swap(true, SeqCst) {
                        commits.store(true, SeqCst);
                    }
                    true
                });
            });
            let (mut from_server, mut to_client) = (server, client);
            std::thread::spawn(move || pass_on(&mut from_server, &mut to_client, |_| !commits_there.load(SeqCst)));
        }
    });
    port
}

/// Until one side ends, or what was read is not to be passed on: then both do.
fn pass_on(from: &mut TcpStream, to: &mut TcpStream, mut may_pass: impl FnMut(&[u8]) -> bool) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if !may_pass(&bytes[..count]) || to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    for side in [from, to] {
        let _ = side.shutdown(Shutdown::Both); // it may have ended by itself
    }
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
    nth(1, options, &bench.clock)
}

/// One of several: its number tells its batches from theirs.
fn nth(n: u64, options: &PostgresOptions, clock: &TestClock) -> Bench<OnPostgres> {
    let store = OnPostgres::open(options.clone(), Rules::default(), clock.clone(), |_| {});
    Bench::rolling_from(n << 32, store, clock.clone())
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

/// From now on.
fn count_attempts(options: &PostgresOptions) {
    // A sequence counts batches that were rolled back too.
    execute(
        options,
        "CREATE SEQUENCE attempts MINVALUE 0 START 0; SELECT nextval('attempts');
         CREATE FUNCTION count_attempt() RETURNS TRIGGER LANGUAGE plpgsql
             AS $$ BEGIN PERFORM nextval('attempts'); RETURN NEW; END $$;
         DELETE FROM batches;
         CREATE TRIGGER counted BEFORE INSERT ON batches FOR EACH ROW EXECUTE FUNCTION count_attempt()",
    );
}

/// Every batch since they are counted.
fn assert_decided_once(options: &PostgresOptions) {
    execute(options, "DO $$ BEGIN ASSERT (SELECT last_value FROM attempts) = (SELECT count(*) FROM batches); END $$");
}

#[test]
fn a_write_that_nobody_disturbs_is_decided_once() {
    let (options, bench) = bench();
    count_attempts(&options);
    let (one, two) = (bench.begin_write("k", 10), bench.begin_write("l", 20));
    bench.batch(vec![one.into(), two.into()]);
    let begun = bench.begin("k", 10);
    bench.commit("k", &begun).expect("nothing is in the way");
    bench.put("k", 10);
    bench.put("l", 10);
    assert_decided_once(&options);
}

mod contention;
mod failover;
mod several;
