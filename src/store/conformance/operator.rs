//! Dead letters, drained and removed backends, and what `sync` finds (store/operator.rs).

use super::*;
use crate::base::{UploadId, Version, blob_name};

fn kill<S: MetadataStore>(bench: &Bench<S>, text: &str, size: u64) -> BlobAt {
    let blob = bench.put(text, size).blob;
    bench.delete(text);
    bench.advance(300);
    for _ in 0..10 {
        bench.step(CleanupFailed { blob: blob.id, error: "403".into() }).expect("failing is not refused");
    }
    assert_eq!(bench.state(&blob), Some(BlobState::Dead));
    blob
}

fn cleanups<S: MetadataStore>(bench: &Bench<S>, dead: bool, backend: Option<&str>, after: i64, max: u32) -> Vec<i64> {
    let query = Query::Cleanups { dead, backend: backend.map(name), after: BlobId(after), max };
    match bench.query(query) {
        Answer::Cleanups(rows) => rows.iter().map(|row| row.blob.id.0).collect(),
        other => panic!("{other:?}"),
    }
}

pub(super) fn dead_letters<S: MetadataStore>(bench: &Bench<S>) {
    let (first, second) = (kill(bench, "one", 100), kill(bench, "two", 200));
    let doomed = bench.put("three", 50).blob;
    bench.delete("three");
    assert_eq!(cleanups(bench, true, None, 0, 10), [first.id.0, second.id.0]);
    assert_eq!(cleanups(bench, true, None, 0, 1), [first.id.0]);
    assert_eq!(cleanups(bench, true, None, first.id.0, 10), [second.id.0]);
    assert_eq!(cleanups(bench, true, Some("b"), 0, 10), Vec::<i64>::new());
    assert_eq!(cleanups(bench, false, Some("a"), 0, 10), [doomed.id.0]);
    let Answer::Cleanups(rows) =
        bench.query(Query::Cleanups { dead: true, backend: Some(name("a")), after: BlobId(0), max: 1 })
    else {
        panic!("another answer")
    };
    assert_eq!((rows[0].key.as_str(), rows[0].bytes, rows[0].attempts), ("one", 100, 10));
    assert_eq!((rows[0].last_error.as_str(), rows[0].reason.as_str()), ("403", "deleted"));
    assert_eq!(rows[0].since, rows[0].not_before.minus(Duration::from_secs(300)));

    assert_eq!(bench.step(Requeue { blob: doomed.id }), Err(Refusal::Lost), "only the dead are called back");
    assert_eq!(
        bench.step(WriteOff { blob: doomed.id }),
        Err(Refusal::Lost),
        "what may still be deleted is not given up"
    );
    bench.step(Requeue { blob: first.id }).expect("it is dead");
    let due = bench.due();
    assert_eq!((due.len(), due[0].blob.id, due[0].attempts), (1, first.id, 0), "at once, with all its attempts");
    bench.step(WriteOff { blob: second.id }).expect("it is dead");
    assert_eq!(bench.state(&second), None);
    assert_eq!(bench.status("a").orphan_bytes, 150, "its charge has ended");
    assert_eq!(bench.step(WriteOff { blob: second.id }), Err(Refusal::Lost));
}

pub(super) fn a_drain_ends_when_nothing_is_left<S: MetadataStore>(bench: &Bench<S>) {
    let blob = bench.put("k", 100).blob;
    let finish = || bench.step(FinishDrain { backend: name("a") });
    assert_eq!(finish(), Err(Refusal::Lost), "it is not draining");
    let under_way = bench.begin("later", 10).blob;
    bench.step(SetDraining { backend: name("a"), draining: true }).expect("a is known");
    assert_eq!(finish(), Err(Refusal::Busy));
    bench.copy("k", &["b"]);
    let remove = RemoveCopy {
        bucket: bucket(),
        key: key("k"),
        blob: blob.id,
        floor: 1,
        not_counted: Vec::new(),
        reason: "drained".into(),
    };
    bench.step(remove).expect("b holds one");
    assert_eq!(finish(), Err(Refusal::Busy), "in its grace it is still there");
    bench.advance(300);
    assert_eq!(bench.clean(), 1);
    assert_eq!(finish(), Err(Refusal::Busy), "a write is under way");
    bench.abandon(&under_way, false);
    bench.clean();
    finish().expect("nothing is left");
    let status = bench.status("a");
    assert!(status.draining && status.drained);
    let registered = bench.register(&[("a", 1000), ("b", 1000), ("c", 0)]);
    assert_eq!(registered.draining, [name("a")], "and it stays so");
    let begin = BeginWrite { candidates: on(&["a"]), ..bench.begin_write("x", 1) };
    assert_eq!(bench.step(begin), Err(Refusal::NoSpace));
    bench.step(SetDraining { backend: name("a"), draining: false }).expect("a is known");
    assert!(!bench.status("a").drained);
    bench.put("x", 1);
}

fn drop_copy<S: MetadataStore>(bench: &Bench<S>, text: &str, blob: &BlobAt, bytes: Bytes) -> Dropped {
    let (bucket, key, reason) = (bucket(), key(text), "removed".to_owned());
    bench.step(DropCopy { bucket, key, blob: blob.id, bytes, only_live: false, reason }).expect("never refused")
}

pub(super) fn copies_are_dropped<S: MetadataStore>(bench: &Bench<S>) {
    let first = bench.put("two", 10).blob;
    let second = bench.copy("two", &["b"]);
    let lonely = bench.put("one", 20).blob;
    let reserved = bench.begin("begun", 30).blob;
    let dead = kill(bench, "dead", 40);
    for (text, blob, ended) in
        [("two", &first, false), ("one", &lonely, true), ("begun", &reserved, false), ("dead", &dead, false)]
    {
        assert_eq!(drop_copy(bench, text, blob, Bytes::Gone).object_ended, ended, "{text}");
        assert_eq!(bench.state(blob), None, "{text}");
        assert!(!drop_copy(bench, text, blob, Bytes::Gone).object_ended, "dropped is dropped");
    }
    assert_eq!(bench.lookup("two").expect("b holds one").blobs, vec![second.clone()]);
    assert_eq!(bench.lookup("one"), None);
    assert_eq!(bench.status("a"), BackendStatus { name: "a".into(), bytes_limit: 1000, ..BackendStatus::default() });
    let begun = Begun { version: Version::from_parts(0, 0), blob: reserved };
    assert_eq!(bench.commit("begun", &begun), Err(Refusal::Lost));
    let again = DropCopy {
        bucket: bucket(),
        key: key("one"),
        blob: lonely.id,
        bytes: Bytes::Gone,
        only_live: true,
        reason: String::new(),
    };
    assert_eq!(bench.step(again), Err(Refusal::Lost), "only what is still live");

    assert!(drop_copy(bench, "two", &second, Bytes::Deleted).object_ended);
    let row = bench.row(&second).expect("its bytes are not gone yet");
    assert_eq!((row.state, row.reason.as_str()), (BlobState::Doomed, "removed"));
    let dead = kill(bench, "dead", 40);
    drop_copy(bench, "dead", &dead, Bytes::Deleted);
    assert_eq!(bench.due().len(), 2, "the dead are tried again");
}

pub(super) fn uploads_on_a_dropped_backend_end<S: MetadataStore>(bench: &Bench<S>) {
    let create = |text: &str| {
        bench
            .step(CreateUpload {
                bucket: bucket(),
                key: key(text),
                upload: UploadId::parse(&format!("{:032x}", bench.roll())).expect("an id"),
                candidates: on(&["a"]),
                nonce: bench.nonce(),
                record: ObjectRecord::default(),
                checksum_algorithm: None,
                checksum_full_object: false,
                uploads_max: 0,
                in_stored: false,
            })
            .expect("there is room")
    };
    let (gone, deleted) = (create("gone"), create("deleted"));
    assert_eq!(bench.status("a").active_uploads, 2);
    drop_copy(bench, "gone", &gone.blob, Bytes::Gone);
    drop_copy(bench, "deleted", &deleted.blob, Bytes::Deleted);
    assert_eq!(bench.status("a").active_uploads, 0);
    assert_eq!(bench.state(&gone.blob), None);
    let due = bench.due();
    assert!(due.len() == 1 && due[0].abort_uploads, "the backend's upload is aborted too: {due:?}");
    let abort = AbortUpload { bucket: bucket(), key: key("gone"), upload: gone.upload };
    assert_eq!(bench.step(abort), Ok(Done), "it has ended");
}

pub(super) fn versions_with_too_many_copies<S: MetadataStore>(bench: &Bench<S>) {
    for text in ["k1", "k2", "k3"] {
        bench.put(text, 1);
        bench.copy(text, &["b"]);
    }
    bench.copy("k2", &["c"]);
    let scan = |factor, counted: &[&str]| {
        let counted = counted.iter().map(|one| name(one)).collect();
        match bench.query(Query::OverReplicated { factor, counted, after: None, max: 10 }) {
            Answer::UnderReplicated { found, next: None } => {
                found.iter().map(|(_, key, _)| key.as_str().to_owned()).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(scan(2, &["a", "b", "c"]), ["k2"]);
    assert_eq!(scan(1, &["a", "b", "c"]), ["k1", "k2", "k3"]);
    assert_eq!(scan(1, &["a", "c"]), ["k2"]);
    assert_eq!(scan(2, &["a", "b"]), Vec::<String>::new());
}

fn found<S: MetadataStore>(bench: &Bench<S>, text: &str, version: Version, size: u64) -> Adopt {
    Adopt {
        bucket: bucket(),
        key: key(text),
        backend: name("a"),
        name: blob_name::mint(BUCKET, text, true, version, bench.nonce()),
        version: Some(version),
        assembled: false,
        size,
        etag: format!("found-{}", version.as_str()),
        foreign_etag: String::new(),
        record: ObjectRecord { headers: vec![("content-type".into(), "a/b".into())], ..ObjectRecord::default() },
        nonce: bench.nonce(),
    }
}

fn at<S: MetadataStore>(bench: &Bench<S>, seconds: i64) -> Version {
    Version::from_parts((bench.now().millis + seconds * 1000) as u64, 5)
}

pub(super) fn found_blobs_are_adopted<S: MetadataStore>(bench: &Bench<S>) {
    let newer = at(bench, 10);
    let adopt = found(bench, "new", newer, 100);
    assert_eq!(bench.step(adopt.clone()), Ok(Adopted::Live { version: newer, displaced: false }));
    let live = bench.lookup("new").expect("it is there");
    assert_eq!((live.version, live.size, live.blobs[0].name.as_str()), (newer, 100, adopt.name.as_str()));
    assert_eq!(
        (live.etag, live.record, live.modified.millis),
        (adopt.etag.clone(), adopt.record.clone(), newer.millis() as i64)
    );
    assert_eq!(bench.step(adopt.clone()), Ok(Adopted::Known), "once");
    let adopt_name = adopt.name.clone();
    let copy = Adopt { backend: name("b"), ..adopt };
    assert_eq!(bench.step(copy), Ok(Adopted::Copy));
    assert_eq!(bench.lookup("new").unwrap().blobs.len(), 2);

    let surplus = Adopt { name: format!("{}x", adopt_name), backend: name("b"), ..found(bench, "new", newer, 100) };
    assert_eq!(bench.step(surplus.clone()), Ok(Adopted::Outdated), "b has a copy already");
    let row = bench.rows("b").into_iter().find(|row| row.blob.name == surplus.name).expect("it has a row now");
    assert_eq!(row.state, BlobState::Doomed);
    assert_eq!(bench.lookup("new").unwrap().blobs.len(), 2);

    let under_way = bench.step(bench.begin_copy("new", &["c"])).expect("c has room");
    let on_c = Adopt { name: format!("{adopt_name}y"), backend: name("c"), ..found(bench, "new", newer, 100) };
    assert_eq!(bench.step(on_c), Ok(Adopted::Copy));
    assert_eq!(bench.step(bench.commit_copy("new", &under_way.blob)), Err(Refusal::Lost), "c has got one meanwhile");
    assert_eq!(bench.state(&under_way.blob), Some(BlobState::Doomed));
    assert_eq!(bench.lookup("new").unwrap().blobs.len(), 3);

    let known = bench.put("known", 10);
    let newer = at(bench, 20);
    let adopt = found(bench, "known", newer, 11);
    assert_eq!(bench.step(adopt), Ok(Adopted::Live { version: newer, displaced: true }));
    assert_eq!(bench.state(&known.blob), Some(BlobState::Doomed));
    let older = found(bench, "known", at(bench, -20), 12);
    let assembled = Adopt { assembled: true, ..found(bench, "known", at(bench, -21), 12) };
    assert_eq!(bench.step(assembled), Ok(Adopted::Unclear), "its version may be newer than its name");
    assert_eq!(bench.step(older.clone()), Ok(Adopted::Outdated));
    assert_eq!(bench.lookup("known").unwrap().version, newer);
    let row = bench.rows("a").into_iter().find(|row| row.blob.name == older.name).expect("it has a row now");
    assert_eq!((row.state, row.bytes), (BlobState::Doomed, 12), "and its bytes will go");
    let written = bench.put("known", 1);
    assert!(written.version > newer, "later writes are above it");
    assert_eq!(bench.step(Adopt { backend: name("nowhere"), ..older }), Err(Refusal::Lost));

    // A blob's row ends in the same batch in which bytes of its name are found.
    let given_up = bench.begin("again", 5);
    bench.abandon(&given_up.blob, false);
    let due = bench.due().into_iter().find(|due| due.blob.id == given_up.blob.id).expect("it is due at once");
    let again = Adopt { name: given_up.blob.name.clone(), ..found(bench, "again", given_up.version, 5) };
    let applied = bench.batch(vec![CleanupDone { blob: due.blob.id, found: due.found }.into(), again.into()]);
    assert_eq!(applied.outcomes[1], Outcome::Adopt(Ok(Adopted::Live { version: given_up.version, displaced: false })));
}

pub(super) fn known_deletes_are_not_revived<S: MetadataStore>(bench: &Bench<S>) {
    let deleted = bench.put("k", 10);
    bench.copy("k", &["b"]);
    bench.delete("k");
    let same = Adopt { name: deleted.blob.name.clone(), ..found(bench, "k", deleted.version, 10) };
    assert_eq!(bench.step(same), Ok(Adopted::Known));
    let another_copy = Adopt { backend: name("c"), ..found(bench, "k", deleted.version, 10) };
    assert_eq!(bench.step(another_copy), Ok(Adopted::Outdated));
    assert_eq!(bench.step(found(bench, "k", at(bench, -60), 10)), Ok(Adopted::Outdated));
    assert_eq!(bench.lookup("k"), None);
    let later = at(bench, 60);
    assert_eq!(bench.step(found(bench, "k", later, 10)), Ok(Adopted::Live { version: later, displaced: false }));
}

pub(super) fn found_bytes_are_charged_above_the_limit<S: MetadataStore>(bench: &Bench<S>) {
    bench.put("k", 900);
    let big = at(bench, 1);
    bench.step(found(bench, "big", big, 400)).expect("it is there, so it counts");
    assert_eq!(bench.status("a").bytes_used, 1300);
    assert_eq!(bench.step(BeginWrite { candidates: on(&["a"]), ..bench.begin_write("x", 1) }), Err(Refusal::NoSpace));
    bench.delete("big");
    bench.advance(300);
    bench.clean();
    bench.step(BeginWrite { candidates: on(&["a"]), ..bench.begin_write("x", 100) }).expect("there is room again");
}

pub(super) fn foreign_objects_are_imported<S: MetadataStore>(bench: &Bench<S>) {
    let foreign = |text: &str| Adopt {
        name: text.to_owned(),
        version: None,
        foreign_etag: "their-etag".into(),
        ..found(bench, text, at(bench, 0), 7)
    };
    let Ok(Adopted::Live { .. }) = bench.step(foreign("theirs")) else { panic!("it is new") };
    let live = bench.lookup("theirs").expect("it is there");
    assert_eq!((live.blobs[0].name.as_str(), live.blobs[0].foreign_etag.as_str()), ("theirs", "their-etag"));
    assert_eq!(live.modified, bench.now());
    assert_eq!(bench.step(foreign("theirs")), Ok(Adopted::Known));
    bench.put("ours", 5);
    assert_eq!(bench.step(foreign("ours")), Ok(Adopted::Unclear), "which is newer cannot be said");
    bench.put("theirs", 5);
    bench.advance(300);
    let due = bench.due();
    assert_eq!((due.len(), due[0].blob.foreign_etag.as_str()), (1, "their-etag"), "its delete looks at it first");
}

pub(super) fn a_restored_database_deletes_nothing<S: MetadataStore>(bench: &Bench<S>) {
    let writing = bench.begin("k", 10);
    let displaced = bench.put("old", 20);
    bench.delete("old");
    let restored = |restored| bench.step(SetRestored { restored }).expect("never refused");
    restored(true);
    assert_eq!(bench.query(Query::Restored), Answer::Restored(true));
    assert!(bench.register(&[("a", 1000), ("b", 1000), ("c", 0)]).restored);
    bench.advance(3600);
    assert_eq!((bench.due(), bench.next_cleanup()), (vec![], None));

    // What was being written when the backup was made may have been acknowledged since.
    let back = Adopt { name: writing.blob.name.clone(), ..found(bench, "k", writing.version, 12) };
    assert_eq!(bench.state(&writing.blob), Some(BlobState::Doomed));
    assert_eq!(bench.step(back), Ok(Adopted::Live { version: writing.version, displaced: false }));
    assert_eq!(bench.lookup("k").map(|live| live.size), Some(12));
    let known = Adopt { name: displaced.blob.name.clone(), ..found(bench, "old", displaced.version, 20) };
    assert_eq!(bench.step(known), Ok(Adopted::Known), "the backup knows of this delete");

    let under_way = bench.begin("m", 10);
    let met = Adopt { name: under_way.blob.name.clone(), ..found(bench, "m", under_way.version, 10) };
    assert_eq!(bench.step(met.clone()), Ok(Adopted::UnderWay), "its run lives");
    bench.register(&[("a", 1000), ("b", 1000), ("c", 0)]);
    assert_eq!(bench.step(met.clone()), Ok(Adopted::Live { version: under_way.version, displaced: false }));
    assert_eq!(bench.step(met), Ok(Adopted::Known));

    restored(false);
    assert_eq!(bench.query(Query::Restored), Answer::Restored(false));
    assert_eq!(bench.due().len(), 1);
    let given_up = bench.begin("l", 10);
    bench.register(&[("a", 1000), ("b", 1000), ("c", 0)]);
    let not_back = Adopt { name: given_up.blob.name.clone(), ..found(bench, "l", given_up.version, 10) };
    assert_eq!(bench.step(not_back), Ok(Adopted::Known), "only after a restore");
}

/// Runs of before still have such numbers in hand.
pub(super) fn a_restored_database_skips_numbers<S: MetadataStore>(bench: &Bench<S>) {
    let before = bench.put("k", 10).blob.id;
    bench.step(SetRestored { restored: true }).expect("never refused");
    let skipped = bench.put("k", 11).blob.id;
    assert!(skipped.0 - before.0 > 1_000_000_000, "what was given out and lost is not given out again: {skipped:?}");
    bench.step(SetRestored { restored: true }).expect("never refused");
    assert_eq!(bench.put("k", 12).blob.id.0, skipped.0 + 1, "it is held already");
    bench.step(SetRestored { restored: false }).expect("never refused");
    assert_eq!(bench.put("k", 13).blob.id.0, skipped.0 + 2);
}

pub(super) fn what_is_found_on_a_drained_backend<S: MetadataStore>(bench: &Bench<S>) {
    bench.step(SetDraining { backend: name("a"), draining: true }).expect("a is known");
    bench.step(FinishDrain { backend: name("a") }).expect("nothing is there");
    assert!(bench.status("a").drained);
    let version = at(bench, 1);
    bench.step(found(bench, "k", version, 10)).expect("it is there");
    let status = bench.status("a");
    assert!(status.draining && !status.drained, "there is something to move again: {status:?}");
    assert_eq!(bench.step(FinishDrain { backend: name("a") }), Err(Refusal::Busy));
}
