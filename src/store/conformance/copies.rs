//! Further copies of a live version (PROTOCOL.md, "Copies of a version").

use super::*;

pub(super) fn copies_of_a_live_version<S: MetadataStore>(bench: &Bench<S>) {
    let first = bench.put("k", 100);
    let begun = bench.step(bench.begin_copy("k", &["a", "b", "c"])).expect("b has room");
    assert_eq!((begun.version, begun.blob.backend.as_str()), (first.version, "b"), "a holds one already");
    assert_eq!(bench.lookup("k").unwrap().blobs.len(), 1, "not before it is committed");
    let again = bench.step(bench.begin_copy("k", &["a", "b"]));
    assert_eq!(again, Err(Refusal::NoSpace), "one is on its way to b");
    bench.step(bench.commit_copy("k", &begun.blob)).expect("the version is live");
    assert_eq!(bench.lookup("k").unwrap().blobs, vec![first.blob.clone(), begun.blob.clone()]);
    assert_eq!(bench.status("b").bytes_used, 100);
    assert_eq!(bench.step(bench.commit_copy("k", &begun.blob)), Err(Refusal::Lost), "committed once");

    let no_write = bench.step(bench.begin_copy("k", &["c"])).expect("c has room");
    assert_eq!(bench.commit("k", &no_write), Err(Refusal::Lost), "a copy of what is live is no new version");
    assert_eq!(bench.state(&no_write.blob), Some(BlobState::Doomed));
    assert_eq!(bench.lookup("k").unwrap().blobs.len(), 2, "which stays");

    let third = bench.step(bench.begin_copy("k", &["c"])).expect("c has room");
    bench.abandon(&third.blob, false);
    assert_eq!(bench.state(&third.blob), Some(BlobState::Doomed));
    let fourth = bench.copy("k", &["c"]);
    assert_eq!(fourth.backend.as_str(), "c", "a failed copy does not bar its backend");

    bench.delete("k");
    for blob in [&first.blob, &begun.blob, &fourth] {
        assert_eq!(bench.state(blob), Some(BlobState::Doomed));
    }
    assert_eq!(bench.copies("k", &first), vec![first.blob.id, begun.blob.id, fourth.id], "all of them in their grace");
}

pub(super) fn copies_come_too_late<S: MetadataStore>(bench: &Bench<S>) {
    let too_late = |text: &str, change: &dyn Fn()| {
        bench.put(text, 10);
        let begin = bench.begin_copy(text, &["b"]);
        let begun = bench.step(begin.clone()).expect("b has room");
        change();
        assert_eq!(bench.step(bench.commit_copy(text, &begun.blob)), Err(Refusal::Lost), "{text}");
        assert_eq!(bench.state(&begun.blob), Some(BlobState::Doomed), "{text}");
        BeginCopy { nonce: bench.nonce(), candidates: on(&["c"]), ..begin }
    };
    let begin = too_late("overwritten", &|| drop(bench.put("overwritten", 11)));
    assert_eq!(bench.step(begin), Err(Refusal::Lost), "that version is no longer live");
    let begin = too_late("deleted", &|| assert!(bench.delete("deleted")));
    assert_eq!(bench.step(begin), Err(Refusal::Lost));
    let draining = |draining| {
        bench.step(SetDraining { backend: name("b"), draining }).expect("b is known");
    };
    let begin = too_late("drained", &|| draining(true));
    assert!(bench.step(begin).is_ok(), "another backend takes it");
    draining(false);
    too_late("restarted", &|| drop(bench.register(&[("a", 1000), ("b", 1000), ("c", 0)])));
    let stranger = Incarnation(99);
    let begin = BeginCopy { incarnation: stranger, ..bench.begin_copy("restarted", &["c"]) };
    assert_eq!(bench.step(begin), Err(Refusal::Lost));
}

pub(super) fn the_last_copies_stay<S: MetadataStore>(bench: &Bench<S>) {
    let first = bench.put("k", 10).blob;
    let remove = |blob: &BlobAt, floor: u32, not_counted: &[&str]| {
        bench.step(RemoveCopy {
            bucket: bucket(),
            key: key("k"),
            blob: blob.id,
            floor,
            not_counted: not_counted.iter().map(|one| name(one)).collect(),
            reason: "trim".into(),
        })
    };
    for floor in [0, 1] {
        assert_eq!(remove(&first, floor, &[]), Err(Refusal::Busy), "the only copy stays");
    }
    let second = bench.copy("k", &["b"]);
    assert_eq!(remove(&first, 1, &["b"]), Err(Refusal::Busy), "b is not to be relied on");
    assert_eq!(remove(&first, 2, &[]), Err(Refusal::Busy));
    bench.step(SetDraining { backend: name("b"), draining: true }).expect("b is known");
    assert_eq!(remove(&first, 1, &[]), Err(Refusal::Busy), "b is going away");
    bench.step(SetDraining { backend: name("b"), draining: false }).expect("b is known");
    let third = bench.copy("k", &["c"]);
    assert_eq!(remove(&first, 2, &[]), Ok(Done));
    assert_eq!(bench.lookup("k").unwrap().blobs, vec![second.clone(), third]);
    let row = bench.row(&first).unwrap();
    assert_eq!((row.state, row.reason.as_str()), (BlobState::Doomed, "trim"));
    assert_eq!(row.not_before, bench.now().plus(Duration::from_secs(300)), "readers remember it");
    assert_eq!(remove(&first, 1, &[]), Err(Refusal::Lost), "it is not live any more");
    let begun = bench.begin("k", 10);
    assert_eq!(remove(&begun.blob, 1, &[]), Err(Refusal::Lost));
}
