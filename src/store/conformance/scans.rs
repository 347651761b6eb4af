//! What workers and operators ask.

use super::super::record::BackendFacts;
use super::*;

pub(super) fn under_replicated_versions<S: MetadataStore>(bench: &Bench<S>) {
    let scan = |factor, counted: &[&str], after: Option<(&str, &str)>, max| {
        let after = after.map(|(bucket, key)| (bucket.to_owned(), key.to_owned()));
        let counted = counted.iter().map(|one| name(one)).collect();
        match bench.query(Query::UnderReplicated { factor, counted, after, max }) {
            Answer::UnderReplicated { found, next } => {
                let keys: Vec<String> = found.iter().map(|(_, key, _)| key.as_str().to_owned()).collect();
                assert!(found.iter().all(|(bucket, _, live)| bucket.as_str() == BUCKET && !live.blobs.is_empty()));
                (keys, next.map(|(_, key)| key))
            }
            other => panic!("{other:?}"),
        }
    };
    let all = ["a", "b", "c"];
    assert_eq!(scan(2, &all, None, 10), (vec![], None));
    for text in ["k1", "k2", "k3", "k4"] {
        bench.put(text, 1);
    }
    bench.copy("k2", &["b"]);
    bench.copy("k4", &["c"]);
    bench.begin("k5", 1);
    let _ = bench.step(bench.begin_copy("k1", &["b"]));
    assert_eq!(scan(2, &all, None, 10), (vec!["k1".into(), "k3".into()], None), "reserved copies do not count");
    assert_eq!(scan(1, &all, None, 10), (vec![], None));
    assert_eq!(scan(2, &["a", "b"], None, 10).0, ["k1", "k3", "k4"], "c is not counted");
    assert_eq!(scan(1, &["c"], Some((BUCKET, "k1")), 10).0, ["k2", "k3"]);
    assert_eq!(scan(2, &all, Some(("bkt0", "z")), 10).0, Vec::<String>::new(), "buckets come first");
    assert_eq!(scan(2, &all, Some(("bks", "z")), 10).0, ["k1", "k3"]);
    let (page, next) = scan(3, &all, None, 2);
    assert_eq!((page, next.as_deref()), (vec!["k1".into(), "k2".into()], Some("k2")));
    assert_eq!(scan(3, &all, Some((BUCKET, "k2")), 2).0, ["k3", "k4"]);
    let count = |factor, max| {
        let counted = all.iter().map(|one| name(one)).collect();
        bench.query(Query::UnderReplicatedCount { factor, counted, max })
    };
    assert_eq!((count(2, 10), count(3, 10), count(3, 3)), (Answer::Count(2), Answer::Count(4), Answer::Count(3)));
    bench.delete("k1");
    assert_eq!(count(2, 10), Answer::Count(1));
}

pub(super) fn status_and_usage<S: MetadataStore>(bench: &Bench<S>) {
    bench.put("k", 100);
    bench.begin("r", 20);
    bench.put("d", 3);
    bench.delete("d");
    let usage = |api_requests| Usage { api_requests, egress_bytes: 7, ingress_bytes: 1 << 50 };
    let record = |incarnation: i64, period: &str, api_requests| RecordUsage {
        incarnation: Incarnation(incarnation),
        period: period.into(),
        backends: vec![(name("a"), usage(api_requests)), (name("b"), usage(1))],
    };
    for one in [record(1, "2026-11", 10), record(1, "2026-11", 12), record(2, "2026-11", 5), record(1, "2026-10", 90)] {
        bench.step(one).expect("recording is not refused");
    }
    let want = BackendStatus {
        name: "a".into(),
        bytes_used: 100,
        bytes_reserved: 20,
        orphan_bytes: 3,
        bytes_limit: 1000,
        object_count: 1,
        cleanup_depth: 1,
        dlq_depth: 0,
        active_uploads: 0,
        draining: false,
        drained: false,
        facts: BackendFacts::default(),
        usage: Usage { api_requests: 17, egress_bytes: 14, ingress_bytes: 2 << 50 },
    };
    assert_eq!(bench.status("a"), want, "absolute values per incarnation, summed");
    assert_eq!((want.blobs_named(), bench.status("b").blobs_named()), (3, 0));
    assert_eq!(bench.status("c").usage, Usage::default());
}

pub(super) fn facts_and_draining_are_told<S: MetadataStore>(bench: &Bench<S>) {
    let facts = BackendFacts { measured: true, verifies_sha256: true, delete_removes: true, ..BackendFacts::default() };
    bench.step(RecordFacts { backend: name("b"), facts }).expect("b is known");
    assert_eq!(bench.step(RecordFacts { backend: name("nowhere"), facts }), Err(Refusal::Lost));
    bench.step(SetDraining { backend: name("c"), draining: true }).expect("c is known");
    let backends = vec![
        BackendLimit { name: name("a"), bytes_limit: 1000 },
        BackendLimit { name: name("b"), bytes_limit: 1000 },
        BackendLimit { name: name("c"), bytes_limit: 0 },
    ];
    let registered = bench.step(Register { deployment: "second".into(), backends }).expect("not refused");
    assert_eq!(registered.deployment, "first", "a deployment keeps its id");
    let none = BackendFacts::default();
    assert_eq!(registered.facts, vec![(name("a"), none), (name("b"), facts), (name("c"), none)]);
    assert_eq!(registered.draining, vec![name("c")]);
    assert!(bench.status("c").draining && !bench.status("b").draining);
    // One that is taken back is as it was, unless it was given up for good: then it is as good as a new one.
    let facts_of = |backend| bench.status(backend).facts;
    bench.step(RecordFacts { backend: name("c"), facts }).expect("c is known");
    let set_draining = |draining| bench.step(SetDraining { backend: name("c"), draining }).expect("c is known");
    set_draining(false);
    assert_eq!((facts_of("a"), facts_of("b"), facts_of("c")), (none, facts, facts));
    set_draining(true);
    bench.step(FinishDrain { backend: name("c") }).expect("it is empty");
    assert_eq!(facts_of("c"), facts, "until it is taken back");
    set_draining(false);
    assert_eq!((facts_of("b"), facts_of("c")), (facts, none));
}

pub(super) fn what_a_run_has_reserved<S: MetadataStore>(bench: &Bench<S>) {
    let reserved = |incarnation, after, max| match bench.query(Query::Reserved { incarnation, after, max }) {
        Answer::Reserved(blobs) => blobs,
        other => panic!("{other:?}"),
    };
    let me = bench.incarnation.get();
    let ids: Vec<BlobId> = ["k", "k", "l"].map(|text| bench.begin(text, 1).blob.id).to_vec();
    bench.put("k", 1);
    bench.step(bench.create_upload("u")).expect("there is room");
    assert_eq!(reserved(me, BlobId(0), 10), ids, "superseded ones too; committed ones and an upload's are not");
    assert_eq!((reserved(me, BlobId(0), 2), reserved(me, ids[1], 2)), (ids[..2].to_vec(), ids[2..].to_vec()));
    assert_eq!(reserved(Incarnation(me.0 + 1), BlobId(0), 10), []);
    let given_up = GivenUp { blob: ids[0], may_appear: true };
    bench.step(AbandonWrite { incarnation: me, given_up, reason: String::new() }).expect("never refused");
    assert_eq!(reserved(me, BlobId(0), 10), ids[1..]);
}

pub(super) fn blobs_page_by_name<S: MetadataStore>(bench: &Bench<S>) {
    for text in ["z", "y", "x"] {
        bench.put(text, 1);
    }
    let page = |after: &str, max| match bench.query(Query::Blobs { backend: name("a"), after: after.into(), max }) {
        Answer::Blobs(rows) => rows,
        other => panic!("{other:?}"),
    };
    let first = page("", 2);
    assert!(first[0].blob.name.starts_with("bkt/x!") && first[1].blob.name.starts_with("bkt/y!"), "{first:?}");
    let second = page(&first[1].blob.name, 2);
    assert!(second.len() == 1 && second[0].blob.name.starts_with("bkt/z!"), "{second:?}");
    assert_eq!(second[0].state, BlobState::Live);
}
