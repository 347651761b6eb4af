//! Batches of one run that are under way at the same time.

use super::*;
use crate::store::port::{Applied, TakeService};
use futures_util::future::join_all;
use std::collections::BTreeSet;

const TOGETHER: u64 = 3;

impl Bench<OnPostgres> {
    /// As many at once, each with its changes.
    fn batches(&self, all: Vec<Vec<Change>>) -> Vec<Applied> {
        let applied = all.into_iter().map(|changes| self.store.apply(BatchId(9, self.roll()), changes.into()));
        let applied = wait_for(async { join_all(applied).await });
        applied.into_iter().map(|one| one.expect("nobody is in the way")).collect()
    }
}

#[test]
fn batches_without_a_common_key_do_not_overtake_each_other() {
    let (options, bench) = bench();
    count_attempts(&options);
    let mut blobs = BTreeSet::new();
    for round in 0..40 {
        let key = |of: u64, n: u64| format!("{round}-{of}-{n}");
        // Without a limit: where room is short, one has to look again for what the other has left.
        let begin = |text: &str| BeginWrite { candidates: on(&["c"]), ..bench.begin_write(text, 1) };
        let begins = |of| (0..5).map(|n| begin(&key(of, n)).into()).collect::<Vec<Change>>();
        let begun = bench.batches((0..TOGETHER).map(begins).collect());
        let mut commits = Vec::new();
        for (of, batch) in begun.iter().enumerate() {
            let begun = batch.outcomes.iter().map(|outcome| match outcome {
                Outcome::BeginWrite(Ok(begun)) => begun,
                other => panic!("there is room: {other:?}"),
            });
            let commits_of = begun.enumerate().map(|(n, begun)| {
                assert!(blobs.insert(begun.blob.id.0), "two blobs of one number");
                bench.commit_write(&key(of as u64, n as u64), begun).into()
            });
            commits.push(commits_of.collect::<Vec<Change>>());
        }
        for batch in bench.batches(commits) {
            let live = |one: &Outcome| matches!(one, Outcome::CommitWrite(Ok(Committed::Live { .. })));
            assert!(batch.outcomes.iter().all(live), "{batch:?}");
        }
    }
    assert_decided_once(&options);
    let renewed = renew(&bench, true);
    assert_eq!(renewed, Ok(Renewed::default()), "nothing was lost of what it was told");
    assert!(!is_held(&bench));
    assert_eq!(bench.status("c").bytes_used, 40 * TOGETHER * 5);
}

#[test]
fn a_lost_answer_is_known_whatever_ran_since() {
    let (_, bench) = bench();
    let (lost, begin) = (BatchId(9, bench.roll()), bench.begin_write("k", 10));
    let applied = wait_for(bench.store.apply(lost, vec![begin.into()].into())).expect("there is room");
    wait_for(bench.store.on_thread(move |store| Box::pin(async move { store.answer_is_lost(lost) })));
    (0..40).for_each(|n| drop(bench.put(&format!("other-{n}"), 1)));
    let found = wait_for(bench.store.resolve(lost)).expect("it answers");
    assert_eq!(found.map(|found| found.outcomes), Some(applied.outcomes));
}

fn renew(bench: &Bench<OnPostgres>, judge: bool) -> Result<Renewed, Refusal> {
    bench.step(Renew { incarnation: bench.incarnation.get(), judge, leave: false })
}

#[test]
fn who_holds_a_job_is_known_to_all_while_it_lives() {
    let (options, bench) = bench();
    let other = another(&options, &bench);
    other.register(&BACKENDS);
    let holder = |of: &Bench<OnPostgres>| of.query(Query::ServiceHolder { service: "drain".into() });
    assert_eq!(holder(&other), Answer::ServiceHolder(None));
    let take =
        |of: &Bench<OnPostgres>| of.step(TakeService { incarnation: of.incarnation.get(), service: "drain".into() });
    take(&bench).expect("nobody has it");
    assert_eq!(take(&other), Err(Refusal::Busy));
    assert_eq!(holder(&other), Answer::ServiceHolder(Some(bench.incarnation.get())));
    renew(&other, false).expect("it lives");
    for _ in 0..3 {
        bench.advance(4);
        renew(&other, true).expect("it lives");
    }
    assert_eq!(holder(&other), Answer::ServiceHolder(None), "its holder has ended");
    take(&other).expect("it is free");
    assert_eq!(holder(&other), Answer::ServiceHolder(Some(other.incarnation.get())));
}

/// A database that stood still for longer than a term, and for less than calls wait, has failed nobody: who renews first
/// afterwards must not end all others, whose renewals are on their way.
#[test]
fn who_could_not_renew_itself_judges_nobody() {
    let (options, bench) = bench();
    let other = another(&options, &bench);
    other.register(&BACKENDS);
    let begun = bench.step(bench.begin_write("k", 10)).expect("there is room");
    renew(&other, true).expect("it lives");
    bench.advance(11);
    assert_eq!(renew(&other, true), Ok(Renewed::default()), "it may have been the database");
    renew(&bench, true).expect("it was not ended");
    bench.step(bench.commit_write("k", &begun)).expect("its write is its own still");
    for _ in 0..3 {
        bench.advance(4);
        let renewed = renew(&other, true);
        assert!(renewed.is_ok(), "{renewed:?}");
    }
    assert_eq!(renew(&bench, true), Err(Refusal::Lost), "one that does not renew while the other does is ended");
}

/// What a run has under way is seen before it is ended, and afterwards it commits nothing.
#[test]
fn a_run_is_not_ended_under_a_batch() {
    let (options, bench) = bench();
    let other = another(&options, &bench);
    other.register(&BACKENDS);
    bench.put("k", 10);
    bench.advance(3600);
    renew(&other, false).expect("nobody has ended it");
    let held = contention::Held::row(&options, "blobs", "key = 'k'");
    let (mine, id, store) = (bench.incarnation.get().0, BatchId(9, bench.roll()), &bench.store);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            let delete = Delete { bucket: bucket(), key: key("k"), condition: WriteCondition::default() };
            wait_for(store.apply(id, vec![delete.into()].into()))
        });
        let waits = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let look =
            format!("WHILE NOT EXISTS ({waits}) LOOP PERFORM pg_sleep(0.01), pg_stat_clear_snapshot(); END LOOP");
        execute(&options, &format!("DO $$ BEGIN {look}; END $$"));
        let renewed = renew(&other, true);
        assert_eq!(renewed, Ok(Renewed::default()), "it has a batch under way");
        held.let_go();
        waiting.join().expect("no panic").expect("it was not ended");
    });
    let renewed = renew(&other, true);
    assert_eq!(renewed.map(|renewed| renewed.ended), Ok(1), "{mine} has lapsed");
    check_ended(&bench);
}
