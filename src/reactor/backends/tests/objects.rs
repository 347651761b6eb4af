//! What is written is what is read: objects, multipart uploads, copies, both kinds.

use super::*;
use crate::base::{Version, blob_name};

#[test]
fn what_is_put_is_read_listed_and_gone_after_a_delete() {
    on_both(|core| async move {
        let bench = Bench::ready(&core, "auto").await;
        for backend in BOTH {
            for size in [0, 1, 5_000, 200_000, 3_000_000] {
                let (name, body) = (format!("bkt/dir/a b+ä!{size}"), pattern(0, size));
                let etag = bench.put(backend, &name, &body).await.expect("stored");
                let want = if backend == CLOUD { etag_of(&body) } else { "\"\"".to_owned() };
                assert_eq!(format!("\"{etag}\""), want, "{size} bytes on {backend}");
                let whole = size as u64;
                assert_eq!(bench.read(backend, &name, whole, (0, whole)).await.expect("opened"), body);
                let head = bench.backends.head(&bench.blob(backend, &name)).await.expect("asked").expect("there");
                assert_eq!(head.size, whole);
            }
            let size = 200_000;
            for span in [(0, 1), (199_999, 1), (1_000, 150_000), (5, 0)] {
                let (from, len) = (span.0 as usize, span.1 as usize);
                if len > 0 {
                    let got = bench.read(backend, "bkt/dir/a b+ä!200000", size, span).await.expect("opened");
                    assert_eq!(got, pattern(0, 200_000)[from..from + len], "{span:?} on {backend}");
                }
            }
            let name = bench.view.backends[backend].name.clone();
            let mut listed = Vec::new();
            let mut after = Some(String::new());
            while let Some(from) = after {
                let page = bench.backends.list(&name, "bkt/", &from).await.expect("listed");
                listed.extend(page.blobs.into_iter().map(|(_, size)| size));
                after = page.next;
            }
            assert_eq!(listed, [0, 1, 200_000, 3_000_000, 5_000], "in the order of names");
            for size in [0, 1, 5_000, 200_000, 3_000_000] {
                let blob = bench.blob(backend, &format!("bkt/dir/a b+ä!{size}"));
                for _ in 0..2 {
                    bench.backends.delete(&blob, bench.mandate()).await.expect("gone, also when asked again");
                }
                assert_eq!(bench.backends.head(&blob).await.expect("asked"), None);
                let opened = bench.open(backend, &blob.name, 1, (0, 1)).await;
                assert_eq!(kind(opened), Err(Kind::NotFound));
            }
            let cells = &bench.core.cells.backends[backend];
            assert_eq!(cells.calls(BackendCall::Put, CallStatus::Error).value(), 0);
            assert!(cells.calls(BackendCall::Put, CallStatus::Success).value() >= 5);
            assert!(cells.egress_bytes.value() >= 3_205_001 && cells.ingress_bytes.value() >= 3_205_001);
            assert!(bench.health.is_good(backend, bench.core.clock.tick()));
        }
        assert_eq!(bench.stub.state().names(), [marker::NAME]);
        assert_eq!(bench.stub.state().connections, 1, "one warm connection served it all");
    });
}

#[test]
fn bodies_are_copied_between_all_kinds_on_every_path() {
    on_both(|core| async move {
        for relay in ["auto", "splice", "copy"] {
            let bench = Bench::ready(&core, relay).await;
            for size in [0, 1, 100_000, 5_000_000] {
                let body = pattern(7, size);
                bench.put(CLOUD, "bkt/a", &body).await.expect("stored");
                for (from, to) in [
                    ((CLOUD, "bkt/a"), (NAS, "bkt/b")),
                    ((NAS, "bkt/b"), (CLOUD, "bkt/c")),
                    ((CLOUD, "bkt/c"), (CLOUD, "bkt/d")),
                ] {
                    let moved = bench.copy(from, to, size as u64).await;
                    assert!(matches!(moved.end, MoveEnd::Done), "{relay}, {size} bytes: {:?}", moved.end);
                    assert_eq!(moved.bytes, size as u64);
                }
                assert!(bench.stub.state().body("bkt/d") == Some(&body), "{relay}, {size} bytes");
                for (backend, name) in [(NAS, "bkt/b"), (CLOUD, "bkt/c"), (CLOUD, "bkt/d")] {
                    bench.backends.delete(&bench.blob(backend, name), bench.mandate()).await.expect("deleted");
                }
            }
            assert!(bench.stub.state().connections <= 2, "connections go back to their pool");
        }
    });
}

#[test]
fn headers_and_declared_hashes_travel() {
    on_both(|core| async move {
        let bench = Bench::ready(&core, "auto").await;
        let record = ObjectRecord {
            headers: vec![("content-type".into(), "text/plain".into())],
            user_metadata: vec![("owner".into(), "me".into())],
            ..ObjectRecord::default()
        };
        let blob = bench.blob(CLOUD, "bkt/a");
        let body = b"the body".as_slice();
        let good = crate::reactor::backends::calls::sha256_of(body);
        let crc = data_encoding::BASE64.encode(&crc32fast::hash(body).to_be_bytes());
        let checksum = Some(("x-amz-checksum-crc32", crc.as_str()));
        let put = Put { payload: good, checksum, ..object(&blob, &record, 8) };
        bench.backends.put_bytes(put, body).await.expect("stored");
        let want = [
            ("content-length", "8"),
            ("x-amz-checksum-crc32", crc.as_str()),
            ("content-type", "text/plain"),
            ("x-amz-meta-owner", "me"),
        ];
        let fields = bench.stub.state().fields.clone();
        assert_eq!(fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>(), want);

        let wrong = UpstreamPayload::Sha256([7; 32]);
        let put = Put { payload: wrong, ..object(&blob, &record, 8) };
        assert_eq!(kind(bench.backends.put_bytes(put, body).await), Err(Kind::Corrupt));
        let put = Put { checksum: Some(("x-amz-checksum-crc32", "AAAAAA==")), ..object(&blob, &record, 8) };
        assert_eq!(kind(bench.backends.put_bytes(put, body).await), Err(Kind::Corrupt));
        let number = PartNumber::new(1).expect("a number");
        let target = PutTarget::Part { backend_upload: "u", number, nonce: "0123456789" };
        let put = Put { target, checksum, ..object(&blob, &record, 8) };
        assert!(bench.backends.put_bytes(put, body).await.is_err(), "nobody would check it");
        assert!(bench.health.is_good(CLOUD, bench.core.clock.tick()) || bench.health.failures_in_a_row(CLOUD) > 0);
    });
}

#[test]
fn the_key_travels_with_a_hashed_name_however_it_was_written() {
    on_both(|core| async move {
        let bench = Bench::ready(&core, "auto").await;
        let version = Version::from_parts(1, 1);
        let long = "\u{1}\"ä".repeat(256);
        for (key, literal) in [(long.as_str(), false), ("a//b", false), ("plain", true)] {
            let record = ObjectRecord { user_metadata: vec![("owner".into(), "me".into())], ..ObjectRecord::default() };
            let luggage = Luggage { key, record: &record };
            for backend in BOTH {
                let blob =
                    |roll| bench.blob(backend, &blob_name::mint("bkt", key, literal, version, Nonce::from_roll(roll)));
                let (in_hand, streamed, copied, parts) = (blob(1), blob(2), blob(3), blob(4));
                let put = |blob| Put { target: PutTarget::Object(luggage), ..object(blob, &record, 8) };
                bench.backends.put_bytes(put(&in_hand), b"the body").await.expect("stored");

                let source = bench.open(backend, &in_hand.name, 8, (0, 8)).await.expect("opened");
                let mut sink = bench.backends.create(put(&streamed)).await.expect("there is room");
                let moved = bench.backends.copy(source, &mut sink, &mut BodyCheck::unseen()).await;
                assert!(matches!(moved.end, MoveEnd::Done), "{:?}", moved.end);
                bench.backends.finish(sink).await.expect("stored");

                let whole = Span { from: 0, len: 8 };
                bench.backends.copy_within(&in_hand, 8, whole, put(&copied)).await.expect("copied");

                let upload = bench.backends.create_upload(&parts, luggage).await.expect("opened");
                let (number, nonce) = (PartNumber::new(1).expect("a number"), Nonce::from_roll(5));
                let target = PutTarget::Part { backend_upload: &upload, number, nonce: nonce.as_str() };
                let part = Put { target, ..object(&parts, &record, 8) };
                let stored = bench.backends.put_bytes(part, b"the body").await.expect("stored");
                let part = PartRecord {
                    number: 1,
                    size: 8,
                    etag: String::new(),
                    backend_etag: stored.etag,
                    checksums: Vec::new(),
                    modified_ms: 0,
                };
                bench.backends.complete_upload(&parts, &upload, &[part]).await.expect("complete");

                for blob in [in_hand, streamed, copied, parts] {
                    let head = bench.backends.head(&blob).await.expect("asked").expect("it is there");
                    assert_eq!(head.key.as_deref(), (!literal).then_some(key), "{}", blob.name);
                    assert_eq!(head.record.user_metadata, record.user_metadata, "{}", blob.name);
                }
            }
        }
    });
}

#[test]
fn multipart_uploads_become_one_blob() {
    on_both(|core| async move {
        let bench = Bench::ready(&core, "auto").await;
        let name = "bkt/big!00000000010000000000000001ABCDEFGHJK";
        for backend in BOTH {
            let blob = bench.blob(backend, name);
            let upload = bench
                .backends
                .create_upload(&blob, Luggage { key: "", record: &ObjectRecord::default() })
                .await
                .expect("opened");
            let mut parts = Vec::new();
            for (number, body) in [(1, pattern(0, 300_000)), (2, pattern(300_000, 10)), (3, pattern(300_010, 70_000))] {
                let nonce = Nonce::from_roll(number);
                let target = PutTarget::Part {
                    backend_upload: &upload,
                    number: PartNumber::new(number as u16).expect("a number"),
                    nonce: nonce.as_str(),
                };
                let record = ObjectRecord::default();
                let put = Put { target, ..object(&blob, &record, body.len() as u64) };
                let stored = if number == 1 {
                    bench.put(CLOUD, "bkt/from", &body).await.expect("stored");
                    let source = bench.open(CLOUD, "bkt/from", 300_000, (0, 300_000)).await.expect("opened");
                    let mut sink = bench.backends.create(put).await.expect("there is room");
                    let moved = bench.backends.copy(source, &mut sink, &mut BodyCheck::unseen()).await;
                    assert!(matches!(moved.end, MoveEnd::Done));
                    bench.backends.finish(sink).await.expect("stored")
                } else {
                    bench.backends.put_bytes(put, &body).await.expect("stored")
                };
                parts.push(PartRecord {
                    number: number as u16,
                    size: body.len() as u64,
                    etag: "not the backend's".to_owned(),
                    backend_etag: stored.etag,
                    checksums: Vec::new(),
                    modified_ms: 0,
                });
            }
            let bad = [parts[0].clone(), PartRecord { number: 9, ..parts[1].clone() }];
            let refused = bench.backends.complete_upload(&blob, &upload, &bad).await;
            assert_eq!(kind(refused), Err(Kind::Refused), "on {backend}");
            if backend == CLOUD {
                bench.stub.fail_next([Fault::Answer(200, "InternalError")]);
                let failed = bench.backends.complete_upload(&blob, &upload, &parts).await;
                assert_eq!(kind(failed), Err(Kind::Unavailable), "a 200 may be an error");
                bench.stub.fail_next([Fault::Odd]);
            }
            bench.backends.complete_upload(&blob, &upload, &parts).await.expect("complete");
            assert_eq!(bench.read(backend, name, 370_010, (0, 370_010)).await.expect("opened"), pattern(0, 370_010));
            let span = (299_990, 100);
            assert_eq!(bench.read(backend, name, 370_010, span).await.expect("opened"), pattern(299_990, 100));
            let again = bench.backends.complete_upload(&blob, &upload, &parts).await;
            let want = if backend == CLOUD { Err(Kind::NotFound) } else { Ok(()) };
            assert_eq!(kind(again), want, "a directory knows what it did");
            bench.backends.abort_uploads(&blob, &upload, bench.mandate()).await.expect("there is none any more");
            bench.backends.delete(&blob, bench.mandate()).await.expect("deleted");
            assert_eq!(bench.backends.head(&blob).await.expect("asked"), None);
        }
    });
}

#[test]
fn every_upload_of_a_name_is_aborted() {
    on_both(|core| async move {
        let bench = Bench::ready(&core, "auto").await;
        for backend in BOTH {
            let (blob, other) = (bench.blob(backend, "bkt/a"), bench.blob(backend, "bkt/ab"));
            let record = ObjectRecord::default();
            let known =
                bench.backends.create_upload(&blob, Luggage { key: "", record: &record }).await.expect("opened");
            for _ in 0..4 {
                bench
                    .backends
                    .create_upload(&blob, Luggage { key: "", record: &record })
                    .await
                    .expect("opened, its answer lost");
            }
            bench.backends.create_upload(&other, Luggage { key: "", record: &record }).await.expect("another's");
            for _ in 0..2 {
                bench
                    .backends
                    .abort_uploads(&blob, &known, bench.mandate())
                    .await
                    .expect("aborted, also when asked again");
            }
            bench.backends.abort_uploads(&blob, "", bench.mandate()).await.expect("none is known, none is there");
            if backend == CLOUD {
                assert_eq!(bench.stub.state().open_uploads(), 1, "the other name's");
            }
        }
        bench.stub.state().lists_no_uploads = true;
        let blob = bench.blob(CLOUD, "bkt/ab");
        bench
            .backends
            .abort_uploads(&blob, "u+/999", bench.mandate())
            .await
            .expect("what cannot be listed is not waited for");

        // A dialect that refuses what it does not know. Its listing says whether the upload is there, if there is one.
        for lists in [true, false] {
            bench.stub.state().forbids_unknown_uploads = true;
            bench.stub.state().lists_no_uploads = !lists;
            bench.backends.abort_uploads(&blob, "u+/999", bench.mandate()).await.expect("there is none");
        }
        bench.stub.fail_next([Fault::Answer(403, "AccessDenied"), Fault::Answer(403, "AccessDenied")]);
        let forbidden = bench.backends.abort_uploads(&blob, "u+/999", bench.mandate()).await;
        assert_eq!(kind(forbidden), Err(Kind::Refused), "what we may not see may be there");
    });
}

#[test]
fn both_kinds_copy_within_themselves() {
    on_both(|core| async move {
        let bench = Bench::ready(&core, "auto").await;
        let body = pattern(0, 300_000);
        let whole = Span { from: 0, len: 300_000 };
        let record = ObjectRecord::default();
        for backend in [NAS, CLOUD] {
            bench.put(backend, "bkt/a b", &body).await.expect("stored");
            let (from, to) = (bench.blob(backend, "bkt/a b"), bench.blob(backend, "bkt/copy"));
            let put = object(&to, &record, 300_000);
            let stored = bench.backends.copy_within(&from, 300_000, whole, put).await.expect("copied");
            assert_eq!(bench.read(backend, "bkt/copy", 300_000, (0, 300_000)).await.expect("read"), body);
            let etag = etag_of(&body);
            assert_eq!(stored.etag, if backend == CLOUD { etag.trim_matches('"') } else { "" });

            let target = bench.blob(backend, "bkt/parts!00000000010000000000000001ABCDEFGHJK");
            let backend_upload =
                bench.backends.create_upload(&target, Luggage { key: "", record: &record }).await.expect("opened");
            let (number, nonce) = (PartNumber::new(1).expect("a number"), Nonce::from_roll(5));
            let span = Span { from: 7, len: 1000 };
            let put = Put {
                target: PutTarget::Part { backend_upload: &backend_upload, number, nonce: nonce.as_str() },
                ..object(&target, &record, 1000)
            };
            let part = bench.backends.copy_within(&from, 300_000, span, put).await.expect("copied");
            let part = PartRecord {
                number: 1,
                size: 1000,
                etag: etag_of(&body[7..1007]).trim_matches('"').to_owned(),
                backend_etag: part.etag,
                checksums: Vec::new(),
                modified_ms: 0,
            };
            bench.backends.complete_upload(&target, &backend_upload, &[part]).await.expect("complete");
            assert_eq!(bench.read(backend, &target.name, 1000, (0, 1000)).await.expect("read"), body[7..1007]);

            let gone = bench.blob(backend, "bkt/gone");
            let other = bench.blob(backend, "bkt/other");
            let put = object(&other, &record, 300_000);
            assert_eq!(kind(bench.backends.copy_within(&gone, 300_000, whole, put).await), Err(Kind::NotFound));
        }
    });
}
