//! Begin, commit, abandon, delete (PROTOCOL.md, "A write").

use super::*;
use crate::base::{Version, blob_name};

pub(super) fn a_write_is_seen_when_committed<S: MetadataStore>(bench: &Bench<S>) {
    let begun = bench.begin("photo", 100);
    assert_eq!(
        begun.blob.name,
        blob_name::mint(BUCKET, "photo", true, begun.version, Nonce::from_roll(bench.roll() - 2))
    );
    assert_eq!(begun.version.millis(), bench.now().millis as u64);
    assert_eq!(bench.lookup("photo"), None, "a reserved blob is nobody's to read");
    assert_eq!(bench.status("a").bytes_reserved, 100);

    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let record = ObjectRecord {
        headers: vec![pair("content-type", "image/jpeg")],
        user_metadata: vec![pair("camera", "ü\u{1}")],
        checksums: vec![super::super::record::StoredChecksum {
            algorithm: "CRC32".into(),
            value: "AAAAAA==".into(),
            composite: false,
        }],
        tags: vec![pair("k", "v")],
        parts: 0,
    };
    bench.advance(3);
    let blobs = vec![Written { blob: begun.blob.id, version_id: "v-1".into() }];
    let commit =
        CommitWrite { blobs, record: record.clone(), etag: "abc".into(), ..bench.commit_write("photo", &begun) };
    let committed = bench.step(commit).expect("nothing is in the way");
    assert_eq!(committed, Committed::Live { version: begun.version, modified: bench.now() });
    let blob = BlobAt { version_id: "v-1".into(), ..begun.blob.clone() };
    let want = Located {
        version: begun.version,
        size: 100,
        etag: "abc".into(),
        modified: bench.now(),
        record,
        blobs: vec![blob],
    };
    assert_eq!(bench.lookup("photo"), Some(want));
    assert_eq!(bench.lookup("photo2"), None);
    assert_eq!(bench.query(Query::Lookup { bucket: "bkt2".into(), key: "photo".into() }), Answer::Lookup(None));
    let status = bench.status("a");
    assert_eq!((status.bytes_used, status.bytes_reserved, status.object_count), (100, 0, 1));
}

pub(super) fn an_overwrite_displaces_with_grace<S: MetadataStore>(bench: &Bench<S>) {
    let first = bench.put("k", 10);
    bench.advance(1);
    let second = bench.put("k", 20);
    assert!(second.version > first.version);
    assert_eq!(bench.lookup("k").unwrap().blobs, vec![second.blob.clone()]);
    assert_eq!(bench.copies("k", &first), vec![first.blob.id], "readers of the former version go on in its grace");
    assert_eq!(bench.copies("k", &second), vec![second.blob.id]);
    assert_eq!(bench.due(), vec![], "nothing is deleted in its grace");
    assert_eq!(bench.next_cleanup(), Some(bench.now().plus(Duration::from_secs(300))));
    bench.advance(300);
    assert_eq!(bench.copies("k", &first), vec![]);
    let due = bench.due();
    assert_eq!((due.len(), &due[0].blob, due[0].bytes), (1, &first.blob, 10));
    assert!(!due[0].abort_uploads && due[0].attempts == 0 && due[0].reason == "overwritten");
    assert_eq!(bench.clean(), 1);
    assert_eq!(bench.state(&first.blob), None);
    assert_eq!(bench.next_cleanup(), None);
}

pub(super) fn conditions<S: MetadataStore>(bench: &Bench<S>) {
    let absent = || WriteCondition { must_not_exist: true, ..WriteCondition::default() };
    let matching = |etag: &str| WriteCondition { etag_in: Some(vec![etag.into()]), ..WriteCondition::default() };
    let differing = |etag: &str| WriteCondition { etag_not_in: vec![etag.into()], ..WriteCondition::default() };
    // (key, condition, outcome of begin, commit and delete)
    bench.put("there", 1);
    let etag = bench.lookup("there").unwrap().etag;
    let table = [
        ("there", absent(), Some(Refusal::PreconditionFailed)),
        ("not", absent(), None),
        ("there", matching(&etag), None),
        ("there", matching("*"), None),
        ("there", matching("other"), Some(Refusal::PreconditionFailed)),
        ("not", matching("*"), Some(Refusal::NoSuchKey)),
        ("there", differing(&etag), Some(Refusal::PreconditionFailed)),
        ("there", differing("other"), None),
        ("not", differing("other"), None),
    ];
    for (text, condition, want) in table {
        let begin = bench.step(BeginWrite { condition: condition.clone(), ..bench.begin_write(text, 1) });
        assert_eq!(begin.as_ref().err().copied(), want, "begin of {text} with {condition:?}");
        if let Ok(begun) = begin {
            bench.abandon(&begun.blob, false);
        }
        if want.is_some() {
            let begun = bench.begin(text, 1);
            let commit = CommitWrite { condition: condition.clone(), ..bench.commit_write(text, &begun) };
            assert_eq!(bench.step(commit).err(), want, "commit of {text} with {condition:?}");
            assert_eq!(bench.state(&begun.blob), Some(BlobState::Doomed), "a refused commit leaves nothing to leak");
            let delete = Delete { bucket: bucket(), key: key(text), condition };
            assert_eq!(bench.step(delete).err(), want, "delete of {text}");
        }
        assert_eq!(bench.lookup("there").map(|live| live.etag).as_ref(), Some(&etag));
    }
    let begun = bench.begin("there", 1);
    let commit = CommitWrite { condition: matching(&etag), ..bench.commit_write("there", &begun) };
    assert!(matches!(bench.step(commit), Ok(Committed::Live { .. })));
}

pub(super) fn later_versions_win_whatever_the_order_of_commits<S: MetadataStore>(bench: &Bench<S>) {
    for conditional in [false, true] {
        let text = if conditional { "c" } else { "k" };
        let low = bench.begin(text, 10);
        let middle = bench.begin(text, 11);
        let high = bench.begin(text, 12);
        assert!(low.version < middle.version && middle.version < high.version);
        assert!(matches!(bench.commit(text, &middle), Ok(Committed::Live { .. })));
        let condition = if conditional {
            WriteCondition { etag_in: Some(vec!["*".into()]), ..WriteCondition::default() }
        } else {
            WriteCondition::default()
        };
        let late = bench.step(CommitWrite { condition, ..bench.commit_write(text, &low) });
        if conditional {
            assert_eq!(late, Err(Refusal::Conflict));
        } else {
            assert_eq!(late, Ok(Committed::Overwritten { version: low.version, modified: bench.now() }));
        }
        assert_eq!(bench.state(&low.blob), Some(BlobState::Doomed));
        assert!(bench.due().iter().any(|due| due.blob == low.blob), "no reader knows it, so it is due at once");
        assert_eq!(bench.lookup(text).unwrap().version, middle.version);
        assert!(matches!(bench.commit(text, &high), Ok(Committed::Live { .. })));
        assert_eq!(bench.lookup(text).unwrap().version, high.version);
    }
}

pub(super) fn a_delete_supersedes<S: MetadataStore>(bench: &Bench<S>) {
    let begun = bench.begin("k", 10);
    assert!(!bench.delete("k"), "there was nothing to delete yet");
    assert!(matches!(bench.commit("k", &begun), Ok(Committed::Overwritten { .. })));
    assert_eq!(bench.lookup("k"), None, "what was deleted does not come back");
    let conditional = bench.begin("k", 10);
    bench.delete("k");
    let condition = WriteCondition { must_not_exist: true, ..WriteCondition::default() };
    let commit = CommitWrite { condition, ..bench.commit_write("k", &conditional) };
    assert_eq!(bench.step(commit), Err(Refusal::Conflict));

    let live = bench.put("k", 10);
    let other = bench.put("other", 10);
    let after = bench.begin("k", 10);
    assert!(bench.delete("k"));
    assert_eq!(bench.lookup("k"), None);
    assert_eq!(bench.copies("k", &live), vec![live.blob.id], "displaced with the grace");
    assert_eq!(bench.row(&live.blob).unwrap().reason, "deleted");
    assert!(matches!(bench.commit("k", &after), Ok(Committed::Overwritten { .. })));
    assert_eq!(bench.lookup("other").unwrap().version, other.version);
    let begun = bench.put("k", 10);
    assert!(begun.version > after.version, "a later write is not touched by an earlier delete");
}

/// A conditional change that was committed said that the key was as it wanted it. A write that was under way and has a lower
/// version cannot be said to have happened before it; it may have happened after it and before an unconditional one.
pub(super) fn a_condition_does_not_see_what_is_under_way<S: MetadataStore>(bench: &Bench<S>) {
    let must_not_exist = WriteCondition { must_not_exist: true, ..WriteCondition::default() };
    let any = WriteCondition { etag_in: Some(vec!["*".into()]), ..WriteCondition::default() };

    let (low, high) = (bench.begin("k", 10), bench.begin("k", 10));
    let create = CommitWrite { condition: must_not_exist.clone(), ..bench.commit_write("k", &high) };
    assert!(matches!(bench.step(create), Ok(Committed::Live { .. })));
    assert_eq!(bench.commit("k", &low), Err(Refusal::Lost), "it is not told that it happened");
    assert_eq!(bench.state(&low.blob), Some(BlobState::Doomed));
    assert_eq!(bench.lookup("k").unwrap().version, high.version);

    let open = bench.begin("k", 10);
    bench.step(Delete { bucket: bucket(), key: key("k"), condition: any }).expect("it exists");
    assert_eq!(bench.commit("k", &open), Err(Refusal::Lost));

    for by_delete in [false, true] {
        let (low, high) = (bench.begin("k", 10), bench.begin("k", 10));
        let create = CommitWrite { condition: must_not_exist.clone(), ..bench.commit_write("k", &high) };
        bench.step(create).expect("the key does not exist");
        if by_delete {
            bench.delete("k");
        } else {
            bench.put("k", 10);
        }
        assert!(matches!(bench.commit("k", &low), Ok(Committed::Overwritten { .. })), "it happened just before that");
        bench.delete("k");
    }
}

pub(super) fn only_what_is_reserved_commits<S: MetadataStore>(bench: &Bench<S>) {
    let begun = bench.begin("k", 10);
    bench.abandon(&begun.blob, false);
    bench.abandon(&begun.blob, true);
    assert_eq!(bench.commit("k", &begun), Err(Refusal::Lost));
    assert_eq!(bench.clean(), 1, "abandoned twice is abandoned once, as the first said");
    assert_eq!(bench.commit("k", &begun), Err(Refusal::Lost));

    let live = bench.put("k", 10);
    assert_eq!(bench.commit("k", &live), Err(Refusal::Lost), "a live blob is not committed again");
    bench.abandon(&live.blob, false);
    assert_eq!(bench.state(&live.blob), Some(BlobState::Live), "nor abandoned");

    let begun = bench.begin("k", 10);
    let stranger = Incarnation(bench.incarnation.get().0 + 1);
    let commit = CommitWrite { incarnation: stranger, ..bench.commit_write("k", &begun) };
    assert_eq!(bench.step(commit), Err(Refusal::Lost));
    assert_eq!(bench.state(&begun.blob), Some(BlobState::Reserved), "another's blob is left alone");
    let begin = BeginWrite { incarnation: stranger, ..bench.begin_write("k", 1) };
    assert_eq!(bench.step(begin), Err(Refusal::Lost));
    let commit = CommitWrite { key: key("k2"), ..bench.commit_write("k", &begun) };
    assert_eq!(bench.step(commit), Err(Refusal::Lost), "a blob is committed under its own key only");
    let none = CommitWrite { blobs: vec![], ..bench.commit_write("k", &begun) };
    assert_eq!(bench.step(none), Err(Refusal::Lost));
    assert!(bench.commit("k", &begun).is_ok());
}

pub(super) fn several_copies_commit_together<S: MetadataStore>(bench: &Bench<S>) {
    let two = |text: &str| {
        let first = bench.begin(text, 10);
        let blobs = vec![written(&first.blob)];
        (first, blobs)
    };
    let (first, mut blobs) = two("k");
    let (other, _) = two("k");
    blobs.push(written(&other.blob));
    let commit = CommitWrite { blobs, ..bench.commit_write("k", &first) };
    assert_eq!(bench.step(commit), Err(Refusal::Lost), "two versions are not copies of one");
    for blob in [&first.blob, &other.blob] {
        assert_eq!(bench.state(blob), Some(BlobState::Doomed));
    }
    let (third, mut blobs) = two("k");
    blobs.push(written(&first.blob));
    let commit = CommitWrite { blobs, ..bench.commit_write("k", &third) };
    assert_eq!(bench.step(commit), Err(Refusal::Lost), "one of them was lost");
    assert_eq!(bench.state(&third.blob), Some(BlobState::Doomed));
    assert_eq!(bench.lookup("k"), None);
}

pub(super) fn a_replacement_keeps_version_and_fate<S: MetadataStore>(bench: &Bench<S>) {
    let failed = bench.begin("k", 100);
    let instead_of = Some(GivenUp { blob: failed.blob.id, may_appear: true });
    let begin = BeginWrite { instead_of, candidates: on(&["b"]), ..bench.begin_write("k", 100) };
    let second = bench.step(begin).expect("b has room");
    assert_eq!(second.version, failed.version);
    assert_ne!(second.blob.name, failed.blob.name);
    assert_eq!(bench.state(&failed.blob), Some(BlobState::Doomed));
    assert_eq!(bench.clean(), 1);
    assert_eq!(bench.state(&failed.blob), Some(BlobState::Doomed), "its bytes may still appear");

    bench.put("k", 1);
    let begin = BeginWrite { instead_of: Some(gone(&second.blob)), ..bench.begin_write("k", 100) };
    let third = bench.step(begin).expect("there is room");
    assert_eq!(third.version, failed.version);
    assert!(matches!(bench.commit("k", &third), Ok(Committed::Overwritten { .. })), "it was overtaken before");

    let fourth = bench.begin("k", 100);
    let begin = BeginWrite { instead_of: Some(gone(&fourth.blob)), ..bench.begin_write("k", 5_000) };
    assert_eq!(bench.step(begin), Err(Refusal::NoSpace));
    assert_eq!(bench.state(&fourth.blob), Some(BlobState::Doomed), "given up is given up");
    let begin = BeginWrite { instead_of: Some(gone(&fourth.blob)), ..bench.begin_write("k", 1) };
    assert_eq!(bench.step(begin), Err(Refusal::Lost));
}

pub(super) fn versions_rise_when_the_clock_does_not<S: MetadataStore>(bench: &Bench<S>) {
    let mut last = Version::from_parts(0, 0);
    for round in 0..5 {
        let begun = bench.put("k", 1);
        assert!(begun.version > last, "round {round}");
        last = begun.version;
    }
    bench.clock.0.fetch_sub(3_600_000, Ordering::SeqCst);
    assert!(bench.put("k", 1).version > last, "the clock was set back an hour");
}

pub(super) fn any_key_is_kept_byte_for_byte<S: MetadataStore>(bench: &Bench<S>) {
    let long = "ä".repeat(512);
    let keys =
        ["a", "a!", "a!!", "a\0", "a\0b", "/", "//", ".", "..", "a/../b", " ", "%41", "'", "\u{10ffff}", "\x7f", &long];
    for (i, text) in keys.iter().enumerate() {
        bench.put(text, i as u64);
    }
    for (i, text) in keys.iter().enumerate() {
        assert_eq!(bench.lookup(text).map(|live| live.size), Some(i as u64), "{text:?}");
    }
    let Answer::List(page) =
        bench.query(Query::List(ListQuery { bucket: BUCKET.into(), max: 1000, ..ListQuery::default() }))
    else {
        panic!("a list answers with a page")
    };
    let mut sorted: Vec<&str> = keys.to_vec();
    sorted.sort_unstable();
    assert_eq!(page.keys.iter().map(|one| one.key.as_str()).collect::<Vec<_>>(), sorted);
}

pub(super) fn batches_are_resolved_by_id<S: MetadataStore>(bench: &Bench<S>) {
    let changes = vec![
        Change::from(bench.begin_write("x", 10)),
        Change::from(bench.begin_write("y", 5_000)),
        Change::from(Delete { bucket: bucket(), key: key("z"), condition: WriteCondition::default() }),
    ];
    let id = BatchId(42, 1);
    let applied = wait_for(bench.store.apply(id, changes.into())).expect("applied");
    assert!(matches!(applied.outcomes[0], Outcome::BeginWrite(Ok(_))));
    assert_eq!(applied.outcomes[1], Outcome::BeginWrite(Err(Refusal::NoSpace)), "a refusal fails no neighbour");
    assert_eq!(applied.outcomes[2], Outcome::Delete(Ok(Deleted { existed: false })));
    assert_eq!(applied.charged, vec![(name("a"), 10)]);
    assert_eq!(wait_for(bench.store.resolve(id)).expect("resolved"), Some(applied));
    let never = BatchId(42, 2);
    assert_eq!(wait_for(bench.store.resolve(never)).expect("resolved"), None);
    assert_eq!(wait_for(bench.store.resolve(never)).expect("resolved"), None, "and never will");
}

pub(super) fn tags_of_the_live_version<S: MetadataStore>(bench: &Bench<S>) {
    let set = |text: &str, tags: &[(&str, &str)]| {
        let tags = tags.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        bench.step(SetTags { bucket: bucket(), key: key(text), tags })
    };
    assert_eq!(set("k", &[]), Err(Refusal::NoSuchKey));
    let begun = bench.begin("k", 10);
    let record = ObjectRecord { headers: vec![("content-type".into(), "a/b".into())], ..ObjectRecord::default() };
    bench.step(CommitWrite { record, ..bench.commit_write("k", &begun) }).expect("nothing is in the way");
    let before = bench.lookup("k").expect("live");
    bench.advance(60);
    for tags in [&[("a", "1"), ("ü", "")][..], &[("b", "2")], &[]] {
        set("k", tags).expect("live");
        let found = bench.lookup("k").expect("live");
        let shown: Vec<_> = found.record.tags.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(shown, tags);
        let record = ObjectRecord { tags: Vec::new(), ..found.record };
        assert_eq!(Located { record, ..found }, before, "nothing else changes, the time least of all");
    }
    let under_way = bench.begin("k", 10);
    set("k", &[("c", "3")]).expect("live");
    bench.commit("k", &under_way).expect("a tag overtakes nothing");
    assert_eq!(bench.lookup("k").expect("live").record.tags, [], "the new version has its own");
    bench.delete("k");
    assert_eq!(set("k", &[("a", "1")]), Err(Refusal::NoSuchKey));
}

pub(super) fn registration_dooms_the_dead<S: MetadataStore>(bench: &Bench<S>) {
    let kept = bench.put("kept", 100);
    let orphan = bench.begin("orphan", 200);
    let before = bench.incarnation.get();
    let registered = bench.register(&[("a", 1000), ("b", 1000), ("c", 0)]);
    assert!(registered.incarnation > before);
    assert_eq!(registered.deployment, "first");
    assert_eq!(registered.doomed, 1);
    assert_eq!(bench.state(&orphan.blob), Some(BlobState::Doomed), "recovery dooms, it never promotes");
    assert_eq!(bench.state(&kept.blob), Some(BlobState::Live));
    assert_eq!(bench.commit("orphan", &orphan), Err(Refusal::Lost));
    let late = CommitWrite { incarnation: before, ..bench.commit_write("orphan", &orphan) };
    assert_eq!(bench.step(late), Err(Refusal::Lost));
    let begin = BeginWrite { incarnation: before, ..bench.begin_write("orphan", 1) };
    assert_eq!(bench.step(begin), Err(Refusal::Lost), "a dead incarnation begins nothing");
    assert_eq!(bench.clean(), 1, "a DELETE is tried at once");
    assert_eq!(bench.state(&orphan.blob), Some(BlobState::Doomed), "but its bytes may come late");
    bench.advance(20 * 60);
    assert_eq!(bench.clean(), 1);
    assert_eq!(bench.state(&orphan.blob), None);
}

pub(super) fn conditions_of_size_and_time<S: MetadataStore>(bench: &Bench<S>) {
    let delete = |condition: WriteCondition| bench.step(Delete { bucket: bucket(), key: key("k"), condition });
    let of_size = |size| WriteCondition { size_is: Some(size), ..WriteCondition::default() };
    let at = |modified| WriteCondition { modified_at: Some(modified), ..WriteCondition::default() };
    assert_eq!(delete(of_size(5)), Err(Refusal::NoSuchKey));
    bench.put("k", 5);
    let modified = bench.lookup("k").expect("live").modified;
    let later = modified.plus(Duration::from_secs(1));
    for refused in [of_size(4), at(later), WriteCondition { size_is: Some(5), ..at(later) }] {
        assert_eq!(delete(refused), Err(Refusal::PreconditionFailed));
    }
    let same_second = Timestamp { millis: modified.seconds() * 1000 + 1 };
    let both = WriteCondition { size_is: Some(5), ..at(same_second) };
    assert_eq!(delete(both), Ok(Deleted { existed: true }));
}
