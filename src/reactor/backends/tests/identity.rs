//! Whose a backend is, what it can do, and what was there before.

use super::*;
use crate::backend::marker::Known;

#[test]
fn a_versioned_bucket_keeps_nothing_after_a_delete() {
    on_both(|core| async move {
        let bench = Bench::ready(&core, "auto").await;
        bench.stub.state().is_versioned = true;
        for removes in [true, false] {
            bench
                .standing
                .set_facts(CLOUD, &crate::store::record::BackendFacts { delete_removes: removes, ..directory::FACTS });
            let record = ObjectRecord::default();
            let mut blob = bench.blob(CLOUD, "bkt/a");
            // A repeated request made a second version.
            for _ in 0..5 {
                blob.version_id =
                    bench.backends.put_bytes(object(&blob, &record, 1), b"x").await.expect("stored").version_id;
                bench.put(CLOUD, "bkt/ab", b"another").await.expect("stored");
            }
            assert!(!blob.version_id.is_empty());
            if removes {
                blob.version_id.clear();
            }
            bench.backends.delete(&blob, bench.mandate()).await.expect("deleted");
            assert_eq!(bench.stub.state().names(), [marker::NAME, "bkt/ab"], "measured as removing: {removes}");
            bench.backends.delete(&bench.blob(CLOUD, "bkt/ab"), bench.mandate()).await.expect("deleted");
        }
    });
}

#[test]
fn imported_objects_are_read_and_deleted_only_unchanged() {
    on_both(|core| async move {
        let bench = Bench::ready(&core, "auto").await;
        let etag = bench.put(CLOUD, "theirs", b"as imported").await.expect("stored");
        let blob = BlobAt { foreign_etag: etag, ..bench.blob(CLOUD, "theirs") };
        let span = Span { from: 0, len: 11 };
        let source = bench.backends.open(&blob, 11, span).await.expect("unchanged");
        assert_eq!(bench.drain(source).await.expect("read"), b"as imported");
        bench.put(CLOUD, "theirs", b"changed bit").await.expect("stored");
        assert_eq!(kind(bench.backends.open(&blob, 11, span).await), Err(Kind::Corrupt));
        assert_eq!(kind(bench.backends.delete(&blob, bench.mandate()).await), Err(Kind::Refused));
        assert_eq!(bench.stub.state().body("theirs"), Some(&b"changed bit"[..]));
        bench.put(CLOUD, "theirs", b"as imported").await.expect("stored");
        for _ in 0..2 {
            bench.backends.delete(&blob, bench.mandate()).await.expect("deleted, also when it is gone");
        }
        assert_eq!(bench.stub.state().body("theirs"), None);
    });
}

fn blobs(count: u64) -> Option<Known> {
    Some(Known { blobs: count, in_use: count > 0 })
}

#[test]
fn a_backend_is_claimed_once_and_never_twice() {
    on_both(|core| async move {
        let bench = Bench::unclaimed(&core, "auto");
        for backend in BOTH {
            let name = bench.view.backends[backend].name.as_str().to_owned();
            let refused =
                bench.backends.claim(backend, DEPLOYMENT, blobs(3)).await.expect_err("where are the three blobs?");
            assert_eq!(refused.kind, Kind::Refused);
            assert!(refused.cause.contains("3 blobs") && refused.cause.contains(&name), "{refused}");
            assert_eq!(kind(bench.put(backend, "bkt/a", b"x").await), Err(Kind::Unavailable), "not in use");
            assert_eq!(
                kind(bench.backends.delete(&bench.blob(backend, "bkt/a"), bench.mandate()).await),
                Err(Kind::Unavailable)
            );
            for (count, want) in [(0, true), (0, false), (3, false)] {
                let is_new = bench.backends.claim(backend, DEPLOYMENT, blobs(count)).await.expect("it is ours");
                assert_eq!(is_new, want);
            }
            let refused = bench.backends.claim(backend, "another", blobs(0)).await.expect_err("it is not theirs");
            assert!(refused.kind == Kind::Refused && refused.cause.contains(DEPLOYMENT), "{refused}");
        }
        assert!(bench.nas().join(marker::NAME).exists());
        // Unmounted: the empty place under it is no backend that lost its blobs, nor a new one.
        std::fs::rename(bench.nas(), bench.place.path().join("aside")).expect("moved");
        for is_empty_place in [false, true] {
            if is_empty_place {
                std::fs::create_dir(bench.nas()).expect("made");
            }
            assert_eq!(kind(bench.backends.claim(NAS, DEPLOYMENT, blobs(3)).await), Err(Kind::Refused));
            let emptied = Known { blobs: 0, in_use: true };
            assert_eq!(kind(bench.backends.claim(NAS, DEPLOYMENT, Some(emptied)).await), Err(Kind::Refused));
        }
        std::fs::remove_dir(bench.nas()).expect("nothing was put there");
        std::fs::rename(bench.place.path().join("aside"), bench.nas()).expect("moved back");
        bench.backends.claim(NAS, DEPLOYMENT, blobs(3)).await.expect("mounted again");
        // What may pass by itself is not refused.
        for fault in [Fault::Answer(404, "NoSuchBucket"), Fault::Answer(503, "SlowDown"), Fault::Stall] {
            bench.stub.fail_next([fault]);
            assert_eq!(kind(bench.backends.claim(CLOUD, DEPLOYMENT, blobs(0)).await), Err(Kind::Unavailable));
        }
        assert_eq!(kind(bench.backends.list(&BackendName::new("gone"), "", "").await), Err(Kind::Unavailable));
    });
}

#[test]
fn an_endpoint_is_measured() {
    on_both(|core| async move {
        let bench = Bench::ready(&core, "auto").await;
        let facts = bench.backends.measure(CLOUD, Nonce::from_roll(1)).await.expect("measured");
        assert!(facts.measured && facts.verifies_sha256 && facts.etag_is_md5 && facts.copies && facts.delete_removes);
        assert!(facts.place != 0 && facts.place == bench.view.backends[CLOUD].place.fingerprint());
        // The stub knows one kind of checksum and passes over the others.
        assert!(facts.verifies_crc32 && !facts.verifies_crc32c && !facts.verifies_crc64nvme);
        {
            let mut state = bench.stub.state();
            state.is_versioned = true;
            state.ignores_sha256 = true;
        }
        let facts = bench.backends.measure(CLOUD, Nonce::from_roll(2)).await.expect("measured");
        assert!(facts.measured && !facts.verifies_sha256 && facts.etag_is_md5 && !facts.delete_removes);
        assert_eq!(bench.backends.measure(NAS, Nonce::from_roll(3)).await.expect("measured"), directory::FACTS);
        bench.stub.fail_next([Fault::Answer(500, "InternalError")]);
        assert_eq!(kind(bench.backends.measure(CLOUD, Nonce::from_roll(4)).await), Err(Kind::Unavailable));
        assert_eq!(bench.stub.state().names(), [marker::NAME], "no probe is left");
    });
}
