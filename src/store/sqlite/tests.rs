//! What only SQLite can get wrong: the lock, the file after a restart, failing statements and commits, plans, and views.

use super::super::conformance::{TestClock, bucket, key, name, on, wait_for, written};
use super::super::port::*;
use super::super::record::ObjectRecord;
use super::*;
use crate::base::{Clock, Incarnation, Nonce};
use crate::proto::date;
use rusqlite::Connection;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("below/meta.db");
    (directory, path)
}

fn open(path: &Path, clock: &TestClock) -> Result<SqliteStore, OpenError> {
    let clock = clock.clone();
    SqliteStore::open(path, Rules::default(), Arc::new(move || clock.now()))
}

fn register(limit: u64) -> Register {
    Register { deployment: "d".into(), backends: vec![BackendLimit { name: name("a"), bytes_limit: limit }] }
}

fn begin(incarnation: i64, text: &str, size: u64) -> BeginWrite {
    BeginWrite {
        incarnation: Incarnation(incarnation),
        bucket: bucket(),
        in_stored: false,
        key: key(text),
        size,
        candidates: on(&["a"]),
        condition: WriteCondition::default(),
        nonce: Nonce::from_roll(size),
        instead_of: None,
    }
}

fn commit(incarnation: i64, text: &str, begun: &Begun) -> CommitWrite {
    CommitWrite {
        incarnation: Incarnation(incarnation),
        bucket: bucket(),
        key: key(text),
        blobs: vec![written(&begun.blob)],
        etag: "e".into(),
        record: ObjectRecord::default(),
        condition: WriteCondition::default(),
    }
}

fn step<T: Step>(store: &SqliteStore, number: u64, step: T) -> T::Outcome {
    let mut applied = wait_for(store.apply(BatchId(0, number), Arc::new([step.into()]))).expect("applied");
    T::outcome(applied.outcomes.remove(0))
}

#[test]
fn the_bodies_of_a_process_that_has_ended_go_on_no_more() {
    let (_directory, path) = place();
    let clock = TestClock::new();
    let month = date::month(clock.now());
    let (_, next) = date::months_around(&month).expect("a month");
    let turn = date::month_begins(&next).expect("a month");
    clock.advance(turn.since(clock.now()) - Duration::from_secs(60));
    let store = open(&path, &clock).expect("a new database");
    let lease = |store: &SqliteStore, number, incarnation, period: &str, ask: BudgetAsk| {
        step(store, number, LeaseBudgets { incarnation, period: period.into(), asks: vec![ask] })
            .expect("never refused")
            .leases[0]
    };
    let ask = |used, waiting| BudgetAsk {
        backend: name("a"),
        counter: "egress_bytes".into(),
        limit: 100,
        holds: 2 * used,
        used,
        under_way: used,
        least: waiting,
        waiting,
        slice: 0,
    };
    let killed = step(&store, 1, register(1000)).expect("registered").incarnation;
    lease(&store, 2, killed, &month, ask(20, 0));
    drop(store);
    let store = open(&path, &clock).expect("the same database");
    let run = step(&store, 3, register(1000)).expect("registered").incarnation;
    clock.advance(Duration::from_secs(60));
    let lent = lease(&store, 4, run, &next, ask(0, 100));
    assert_eq!((lent.granted, lent.held_back), (100, 0));
}

#[test]
fn a_second_process_is_told_who_holds_the_database() {
    let (_directory, path) = place();
    let clock = TestClock::new();
    let first = open(&path, &clock).expect("made with its directory");
    let Err(error) = open(&path, &clock) else { panic!("two writers on one database") };
    let text = error.to_string();
    assert!(matches!(error, OpenError::InUse { .. }) && text.contains("meta.db.lock"), "{text}");
    drop(first);
    assert!(open(&path, &clock).is_ok(), "free again when it is closed");
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let (_directory, path) = place();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let bytes = b"not a database, but somebody's only copy of something".repeat(100);
    std::fs::write(&path, &bytes).unwrap();
    let Err(error) = open(&path, &TestClock::new()) else { panic!("opened anything") };
    assert!(error.to_string().contains("meta.db"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    let (_directory, path) = place();
    let clock = TestClock::new();
    let store = open(&path, &clock).expect("opens");
    step(&store, 1, register(1000)).expect("not refused");
    let kept = step(&store, 2, begin(1, "kept", 100)).expect("room");
    step(&store, 3, commit(1, "kept", &kept)).expect("nothing is in the way");
    let orphan = step(&store, 4, begin(1, "orphan", 300)).expect("room");
    drop(store);

    let store = open(&path, &clock).expect("opens again");
    let refused = step(&store, 5, begin(2, "early", 1));
    assert_eq!(refused, Err(Refusal::Lost), "nothing is begun before registration");
    let registered = step(&store, 6, register(1000)).expect("not refused");
    assert_eq!((registered.incarnation, registered.doomed), (Incarnation(2), 1));
    let lookup = Query::Lookup { bucket: "bkt".into(), key: "kept".into() };
    let Ok(Answer::Lookup(Some(live))) = wait_for(store.query(lookup)) else { panic!("the object is gone") };
    assert_eq!(live.blobs, vec![kept.blob]);
    assert_eq!(step(&store, 7, begin(2, "big", 601)), Err(Refusal::NoSpace), "charges survive");
    let next = step(&store, 8, begin(2, "big", 600)).expect("room");
    assert!(next.blob.id > orphan.blob.id);

    // Ids are not used again even when the rows that had them are gone.
    let abandon = AbandonWrite {
        incarnation: Incarnation(2),
        given_up: GivenUp { blob: next.blob.id, may_appear: false },
        reason: String::new(),
    };
    step(&store, 9, abandon).expect("not refused");
    step(&store, 10, CleanupDone { blob: next.blob.id, found: clock.now() }).expect("doomed");
    drop(store);
    let store = open(&path, &clock).expect("opens again");
    step(&store, 11, register(1000)).expect("not refused");
    assert!(step(&store, 12, begin(3, "more", 5)).expect("room").blob.id > next.blob.id);
}

fn writer(path: &Path) -> (writer::Writer, std::fs::File) {
    let clock = TestClock::new();
    let opened = open::open(path, clock.now()).expect("opens");
    let writer = writer::Writer::new(opened.writer, opened.mark, Rules::default(), Arc::new(move || clock.now()));
    (writer.expect("reads its books"), opened.lock)
}

fn changes(changes: Vec<Change>) -> Arc<[Change]> {
    changes.into()
}

/// The books that the writer keeps in memory, against the rows.
fn check_books(path: &Path) {
    let conn = Connection::open(path).expect("opens");
    let clock = TestClock::new();
    for one in read::Reader::new(conn, Arc::new(move || clock.now()), 1).audit().expect("audited") {
        assert_eq!((one.charged, &one.counters), (one.rows_bytes as i64, &one.counted));
    }
}

#[test]
fn a_batch_that_fails_halfway_leaves_nothing_behind() {
    let (_directory, path) = place();
    let (mut writer, _lock) = writer(&path);
    writer.apply(BatchId(0, 1), &changes(vec![register(1000).into()])).expect("applied");
    writer.execute_in_test(
        "CREATE TRIGGER test_poison BEFORE INSERT ON blobs WHEN CAST(NEW.key AS TEXT) = 'poison'
        BEGIN SELECT RAISE(ABORT, 'poisoned'); END",
    );
    let poisoned = changes(vec![begin(1, "good", 10).into(), begin(1, "poison", 20).into(), begin(1, "x", 30).into()]);
    let Err(ApplyError::NotApplied(failure)) = writer.apply(BatchId(0, 2), &poisoned) else { panic!("applied") };
    assert!(failure.cause.contains("poisoned"), "{failure}");
    check_books(&path);
    let applied = writer.apply(BatchId(0, 3), &changes(vec![begin(1, "good", 1000).into()])).expect("applied");
    assert_eq!(applied.charged, vec![(name("a"), 1000)], "what failed is not charged");
    assert!(matches!(writer.resolve(BatchId(0, 2)), Ok(None)));
    check_books(&path);
}

#[test]
fn a_commit_that_fails_is_resolved_before_anything_else_runs() {
    for asked in [true, false] {
        let (_directory, path) = place();
        let (mut writer, _lock) = writer(&path);
        writer.apply(BatchId(0, 1), &changes(vec![register(1000).into()])).expect("applied");
        // A foreign key that is only looked at by COMMIT.
        writer.execute_in_test(
            "CREATE TABLE test_parent (id INTEGER PRIMARY KEY);
            CREATE TABLE test_child (id INTEGER REFERENCES test_parent DEFERRABLE INITIALLY DEFERRED);
            CREATE TRIGGER test_break BEFORE INSERT ON blobs WHEN CAST(NEW.key AS TEXT) = 'break'
            BEGIN INSERT INTO test_child VALUES (1); END",
        );
        let broken = changes(vec![begin(1, "break", 10).into()]);
        let Err(ApplyError::Unknown(_)) = writer.apply(BatchId(0, 2), &broken) else { panic!("committed") };
        if asked {
            assert!(matches!(writer.resolve(BatchId(0, 2)), Ok(None)), "it never was");
        }
        let applied = writer.apply(BatchId(0, 3), &changes(vec![begin(1, "good", 1000).into()])).expect("applied");
        assert_eq!(applied.charged, vec![(name("a"), 1000)]);
        assert!(matches!(writer.resolve(BatchId(0, 2)), Ok(None)), "and never will be");
        let resolved = writer.resolve(BatchId(0, 3)).expect("resolved");
        assert_eq!(resolved.map(|one| one.outcomes), Some(applied.outcomes));
        check_books(&path);
    }
}

#[test]
fn batches_are_kept_by_number() {
    let (_directory, path) = place();
    let (mut writer, _lock) = writer(&path);
    writer.execute_in_test("PRAGMA synchronous = OFF"); // thousands of batches
    for number in 0..5_000 {
        writer.apply(BatchId(1, number), &changes(vec![])).expect("applied");
    }
    let conn = Connection::open(&path).expect("opens");
    let kept: u32 = conn.query_row("SELECT count(*) FROM batches", [], |row| row.get(0)).expect("counted");
    assert!((4096..=4096 + 256).contains(&kept), "{kept}");
}

/// Whatever runs per request or per batch finds its rows by an index.
#[test]
fn no_statement_of_the_request_path_scans_a_table() {
    let (_directory, path) = place();
    let clock = TestClock::new();
    let store = open(&path, &clock).expect("opens");
    step(&store, 1, register(0)).expect("not refused");
    let statements = request_path_statements();
    assert!(statements.len() > 20, "found by their text in the sources: {}", statements.len());
    let conn = Connection::open(&path).expect("opens");
    for sql in statements {
        let mut plan =
            conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap_or_else(|error| panic!("{error}: {sql}"));
        for number in 1..=plan.parameter_count() {
            plan.raw_bind_parameter(number, "x").expect("bound");
        }
        let mut steps = plan.raw_query();
        while let Some(row) = steps.next().expect("explained") {
            let detail: String = row.get(3).expect("a plan has a text");
            assert!(!detail.starts_with("SCAN") || detail.contains("json_each"), "{detail}: {sql}");
            assert!(!detail.contains("TEMP B-TREE") || detail.contains("LAST TERM"), "{detail}: {sql}");
        }
    }
}

/// Every statement in the files whose statements are all of that kind.
fn request_path_statements() -> Vec<String> {
    let sources = [
        include_str!("writes.rs"),
        include_str!("uploads.rs"),
        include_str!("transaction.rs"),
        include_str!("list.rs"),
        include_str!("read.rs"),
    ];
    let columns =
        [("blob_columns!(),", "id, backend, version, state, bytes, "), ("upload_columns!(),", "upload, bucket, key ")];
    let mut statements = Vec::new();
    for source in sources {
        let mut source = source.to_owned();
        for (name, list) in columns {
            source = source.replace(name, &format!("\"{}\",", list.trim_end_matches([',', ' '])));
        }
        statements.extend(literals(&source).into_iter().filter(|text| {
            ["SELECT ", "UPDATE ", "INSERT ", "DELETE "].iter().any(|verb| text.starts_with(verb)) && text.contains(' ')
        }));
    }
    statements
}

/// String literals, those that only `",` and `"` separate (as in `concat!`) joined.
fn literals(source: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut between = String::new();
    for (i, piece) in source.split('"').enumerate() {
        if i % 2 == 0 {
            between = piece.trim().to_owned();
        } else if between == "," && !found.is_empty() {
            found.last_mut().expect("not empty").push_str(piece);
        } else {
            found.push(piece.to_owned());
        }
    }
    found
}

/// A delimiter listing costs what it shows, not what it skips.
#[test]
#[allow(clippy::disallowed_methods)] // what is measured here is real time
fn a_million_keys_under_ten_prefixes_are_listed_in_milliseconds() {
    let (_directory, path) = place();
    let (writer, _lock) = writer(&path);
    writer.execute_in_test(
        "PRAGMA synchronous = OFF;
        WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999999)
        INSERT INTO versions (bucket, key, version, live, size, modified, etag, record)
        SELECT 'bkt', CAST(printf('p%d/%06d', i / 100000, i) AS BLOB), '01ARZ3NDEKTSV4RRFFQ69G5FAV', 1, 1, 0, 'e', '{}'
        FROM n",
    );
    let clock = TestClock::new();
    let reader = read::Reader::new(Connection::open(&path).expect("opens"), Arc::new(move || clock.now()), 1);
    let prefixes: Vec<String> = (0..10).map(|i| format!("p{i}/")).collect();
    let list = ListQuery { bucket: "bkt".into(), delimiter: "/".into(), max: 1000, ..ListQuery::default() };
    let within_one = ListQuery { prefix: "p3/".into(), max: 2, ..list.clone() };
    let behind_one = ListQuery { after: "p3/".into(), max: 2, ..list.clone() };
    for (query, want) in [(list, &prefixes[..]), (within_one, &[][..]), (behind_one, &prefixes[4..6])] {
        // The quickest of a few: the machine may be busy. A walk over a tenth of the keys takes ten times as long.
        let quickest = (0..9).map(|_| {
            let start = std::time::Instant::now();
            let page = reader.list(&query).expect("listed");
            let took = start.elapsed();
            assert_eq!(page.common_prefixes, want);
            took
        });
        let quickest = quickest.min().expect("nine times");
        assert!(quickest < Duration::from_millis(5), "{quickest:?}: {query:?}");
    }
}

#[test]
fn operators_see_the_queues_with_the_columns_they_know() {
    let (_directory, path) = place();
    let clock = TestClock::new();
    let store = open(&path, &clock).expect("opens");
    step(&store, 1, register(0)).expect("not refused");
    for (number, text) in [(10, "queued"), (20, "dead")] {
        let begun = step(&store, number, begin(1, text, number)).expect("room");
        let given_up = GivenUp { blob: begun.blob.id, may_appear: false };
        let abandon = AbandonWrite { incarnation: Incarnation(1), given_up, reason: "because".into() };
        step(&store, number + 1, abandon).expect("not refused");
        for attempt in 0..if text == "dead" { 10 } else { 1 } {
            step(&store, number + 100 + attempt, CleanupFailed { blob: begun.blob.id, error: "503".into() }).unwrap();
        }
    }
    let conn = Connection::open(&path).expect("opens");
    let row = |sql: &str| -> Vec<String> {
        conn.query_row(sql, [], |row| {
            (0..row.as_ref().column_count())
                .map(|i| row.get::<_, rusqlite::types::Value>(i).map(|v| format!("{v:?}")))
                .collect()
        })
        .expect("one row")
    };
    let queued =
        row("SELECT backend_name, object_key, reason, size_bytes, attempts, last_error, created_at, next_retry
         FROM cleanup_queue");
    assert_eq!(
        queued[..6].join(" "),
        r#"Text("a") Text("bkt/queued") Text("because") Integer(10) Integer(1) Text("503")"#
    );
    assert!(queued[6].starts_with("Text(\"2026-09-21T") && queued[7] > queued[6], "{queued:?}");
    let dead = row(
        "SELECT backend_name, object_key, reason, size_bytes, attempts, last_error, id = original_id, first_enqueued_at,
             moved_at FROM cleanup_dlq",
    );
    assert_eq!(
        dead[..6].join(" "),
        r#"Text("a") Text("bkt/dead") Text("because") Integer(20) Integer(10) Text("503")"#
    );
    assert_eq!(dead[6], "Integer(1)");
}
