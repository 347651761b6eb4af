//! What is charged never exceeds a limit, whatever happens (I5).

use super::*;

fn begin_on<S: MetadataStore>(bench: &Bench<S>, text: &str, size: u64, backends: &[&str]) -> Result<Begun, Refusal> {
    bench.step(BeginWrite { candidates: on(backends), ..bench.begin_write(text, size) })
}

pub(super) fn the_first_that_fits<S: MetadataStore>(bench: &Bench<S>) {
    let placed = |size, backends: &[&str]| {
        begin_on(bench, "k", size, backends).map(|begun| begun.blob.backend.as_str().to_owned())
    };
    assert_eq!(placed(600, &["a", "b"]).as_deref(), Ok("a"));
    assert_eq!(placed(600, &["a", "b"]).as_deref(), Ok("b"), "overflow to the next");
    assert_eq!(placed(400, &["a", "b"]).as_deref(), Ok("a"), "what still fits goes first");
    assert_eq!(placed(401, &["a", "b"]), Err(Refusal::NoSpace));
    assert_eq!(placed(401, &["a", "b", "c"]).as_deref(), Ok("c"), "no limit");
    assert_eq!(placed(1 << 40, &["a", "c"]).as_deref(), Ok("c"));
    assert_eq!(placed(0, &["a"]).as_deref(), Ok("a"), "an empty object fits a full backend");
    assert_eq!(placed(1, &[]), Err(Refusal::NoSpace));
    assert_eq!(placed(1, &["nowhere"]), Err(Refusal::NoSpace));
    assert_eq!(placed(u64::MAX, &["c"]), Err(Refusal::EntityTooLarge));
    let begin =
        BeginWrite { candidates: vec![Candidate { backend: name("b"), literal: false }], ..bench.begin_write("k", 1) };
    let hashed = bench.step(begin).expect("b has room");
    assert!(hashed.blob.name.starts_with("bkt/.s3o-h/"), "{}", hashed.blob.name);
}

pub(super) fn never_above_the_limit<S: MetadataStore>(bench: &Bench<S>) {
    let changes: Vec<Change> = (0..30).map(|i| bench.begin_write(&format!("k{i}"), 99).into()).collect();
    let applied = bench.batch(changes);
    let taken = applied.outcomes.iter().filter(|one| matches!(one, Outcome::BeginWrite(Ok(_)))).count();
    assert_eq!(taken, 10);
    assert_eq!(applied.charged, vec![(name("a"), 990)]);
    assert_eq!(begin_on(bench, "more", 11, &["a"]), Err(Refusal::NoSpace));
    let last = begin_on(bench, "more", 10, &["a"]).expect("ten bytes are left");
    bench.abandon(&last.blob, false);
    assert_eq!(begin_on(bench, "more", 10, &["a"]), Err(Refusal::NoSpaceYet), "abandoned bytes stay charged, for now");
    assert_eq!(bench.clean(), 1);
    assert!(begin_on(bench, "more", 10, &["a"]).is_ok(), "until they are gone");
}

pub(super) fn displaced_bytes_make_room<S: MetadataStore>(bench: &Bench<S>) {
    let old: Vec<Begun> = (0..4).map(|i| bench.put(&format!("k{i}"), 200)).collect();
    for (i, begun) in old.iter().enumerate() {
        bench.delete(&format!("k{i}"));
        assert_eq!(bench.state(&begun.blob), Some(BlobState::Doomed));
        bench.advance(1);
    }
    // 200 bytes are free, 800 in their grace.
    assert_eq!(begin_on(bench, "new", 200, &["a"]).map(|_| ()), Ok(()));
    assert_eq!(bench.due(), vec![], "no grace was shortened while there was room");
    assert_eq!(begin_on(bench, "big", 801, &["a"]), Err(Refusal::NoSpace), "all of them would not do");
    assert_eq!(bench.due(), vec![]);
    assert_eq!(begin_on(bench, "new", 300, &["b", "a"]).map(|begun| begun.blob.backend), Ok(name("b")));
    assert_eq!(begin_on(bench, "new", 300, &["a"]), Err(Refusal::NoSpaceYet));
    let due: Vec<BlobId> = bench.due().iter().map(|due| due.blob.id).collect();
    assert_eq!(due, vec![old[0].blob.id, old[1].blob.id], "as many as are needed, the oldest first");
    assert_eq!(begin_on(bench, "new", 300, &["a"]), Err(Refusal::NoSpaceYet), "asked again before they are gone");
    assert_eq!(bench.due().len(), 2);
    let copy = BeginCopy { candidates: on(&["a"]), ..copy_of_small(bench) };
    assert_eq!(bench.step(copy), Err(Refusal::NoSpace), "nobody's grace is shortened for a copy");
    assert_eq!(bench.clean(), 2);
    assert!(begin_on(bench, "new", 300, &["a"]).is_ok());

    // What failed to be deleted is not counted on, nor what may still appear.
    assert_eq!(begin_on(bench, "new", 200, &["a"]), Err(Refusal::NoSpaceYet));
    for due in bench.due() {
        bench.step(CleanupFailed { blob: due.blob.id, error: "503".into() }).expect("failing is not refused");
    }
    assert_eq!(begin_on(bench, "new", 301, &["a"]), Err(Refusal::NoSpace));
}

fn copy_of_small<S: MetadataStore>(bench: &Bench<S>) -> BeginCopy {
    let begun = begin_on(bench, "small", 200, &["c"]).expect("c has room");
    bench.commit("small", &begun).expect("nothing is in the way");
    bench.begin_copy("small", &["a"])
}

pub(super) fn what_was_charged_stays_charged<S: MetadataStore>(bench: &Bench<S>) {
    let orphan = bench.begin("orphan", 300);
    let dead = bench.put("dead", 300);
    bench.delete("dead");
    bench.advance(300);
    for _ in 0..10 {
        bench.step(CleanupFailed { blob: dead.blob.id, error: "403".into() }).expect("failing is not refused");
    }
    bench.register(&[("a", 1000), ("b", 1000), ("c", 0)]);
    assert_eq!(bench.state(&orphan.blob), Some(BlobState::Doomed));
    assert_eq!(bench.state(&dead.blob), Some(BlobState::Dead));
    assert_eq!(bench.status("a").orphan_bytes, 600);
    assert_eq!(begin_on(bench, "k", 401, &["a"]), Err(Refusal::NoSpace), "the dead one's charges were taken over");
    assert!(begin_on(bench, "k", 400, &["a"]).is_ok());
    bench.advance(20 * 60);
    assert_eq!(bench.clean(), 1);
    assert_eq!(bench.status("a").orphan_bytes, 300);
}

pub(super) fn limits_may_change<S: MetadataStore>(bench: &Bench<S>) {
    bench.put("k", 500);
    bench.register(&[("a", 400), ("b", 0), ("c", 100)]);
    assert_eq!(begin_on(bench, "x", 1, &["a"]), Err(Refusal::NoSpace), "below what is charged");
    assert_eq!(bench.lookup("k").unwrap().size, 500, "what is there stays");
    assert!(begin_on(bench, "x", 5_000, &["b"]).is_ok());
    assert_eq!(begin_on(bench, "x", 101, &["c"]), Err(Refusal::NoSpace));
    bench.register(&[("a", 600), ("b", 5_001), ("c", 100)]);
    assert!(begin_on(bench, "x", 100, &["a"]).is_ok());
    assert_eq!(begin_on(bench, "x", 1, &["a"]), Err(Refusal::NoSpace));
    assert!(begin_on(bench, "x", 1, &["b"]).is_ok());
    assert_eq!(begin_on(bench, "x", 1, &["b"]), Err(Refusal::NoSpace), "5 000 may still appear there");
}

pub(super) fn limits_change_while_a_run_goes_on<S: MetadataStore>(bench: &Bench<S>) {
    let set = |limits: &[(&str, u64)]| {
        let limit = |&(backend, bytes_limit): &(&str, u64)| BackendLimit { name: name(backend), bytes_limit };
        bench.step(SetLimits { backends: limits.iter().map(limit).collect() }).expect("never refused");
    };
    bench.put("k", 500);
    let under_way = bench.begin("l", 300);
    set(&[("a", 700), ("b", 0), ("c", 100), ("nowhere", 5)]);
    assert_eq!(begin_on(bench, "x", 1, &["a"]), Err(Refusal::NoSpace), "below what is charged");
    assert!(bench.commit("l", &under_way).is_ok(), "what was begun is finished");
    assert!(begin_on(bench, "x", 5_000, &["b"]).is_ok());
    assert_eq!(begin_on(bench, "x", 101, &["c"]), Err(Refusal::NoSpace));
    set(&[("a", 900), ("b", 5_001)]);
    assert_eq!(begin_on(bench, "x", 101, &["a"]), Err(Refusal::NoSpace));
    assert!(begin_on(bench, "x", 100, &["a"]).is_ok());
    assert!(begin_on(bench, "x", 1, &["b"]).is_ok());
    assert_eq!(begin_on(bench, "x", 1, &["b"]), Err(Refusal::NoSpace));
    assert!(begin_on(bench, "x", 100, &["c"]).is_ok(), "of c nothing was said the second time");
    let limits: Vec<_> = bench.audit().into_iter().map(|one| (one.name, one.bytes_limit)).collect();
    assert_eq!(limits, [("a".to_owned(), 900), ("b".to_owned(), 5_001), ("c".to_owned(), 100)]);
}

pub(super) fn draining_backends_take_nothing<S: MetadataStore>(bench: &Bench<S>) {
    let before = bench.begin("k", 1);
    bench.step(SetDraining { backend: name("a"), draining: true }).expect("a is known");
    assert_eq!(begin_on(bench, "x", 1, &["a"]), Err(Refusal::NoSpace));
    assert_eq!(begin_on(bench, "x", 1, &["a", "b"]).map(|begun| begun.blob.backend), Ok(name("b")));
    assert!(bench.commit("k", &before).is_ok(), "what was begun is finished");
    bench.step(SetDraining { backend: name("a"), draining: false }).expect("a is known");
    assert!(begin_on(bench, "x", 1, &["a"]).is_ok());
    assert_eq!(bench.step(SetDraining { backend: name("nowhere"), draining: true }), Err(Refusal::Lost));
}

pub(super) fn vanished_backends_are_told<S: MetadataStore>(bench: &Bench<S>) {
    let live = bench.put("k", 10);
    bench.step(RecordFacts { backend: name("b"), facts: Default::default() }).expect("b is known");
    let registered = bench.register(&[("c", 0)]);
    assert_eq!(registered.unknown_backends, vec![(name("a"), 1)]);
    assert_eq!(registered.facts.len(), 1);
    assert_eq!(bench.lookup("k").unwrap().blobs, vec![live.blob.clone()]);
    assert_eq!(bench.status("a").bytes_used, 10, "its rows and charges stay");
    let names: Vec<String> = bench.audit().into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["a", "c"], "a backend that nothing names is forgotten");
    bench.delete("k");
    bench.advance(300);
    bench.clean();
    assert_eq!(bench.register(&[("c", 0)]).unknown_backends, vec![]);
}
