//! Connections that go stale, bodies that break off, disks and peers that fall silent.

use super::*;
use crate::base::{Blame, Tenure, Tick};
use crate::reactor::race::{Won, race};

#[test]
fn a_body_of_a_run_that_has_ended_never_becomes_a_file() {
    on_both(|core| async move {
        let bench = Bench::ready(&core, "auto").await;
        let (blob, record) = (bench.blob(NAS, "bkt/late"), ObjectRecord::default());
        let sink = bench.backends.create(object(&blob, &record, 0)).await.expect("there is room");
        let tenure = Tenure::default();
        tenure.set_incarnation(Incarnation(1));
        bench.core.set_tenure(Arc::new(tenure));
        assert!(bench.backends.finish(sink).await.is_err(), "it was begun by another");
        assert!(!bench.nas().join("bkt/late").exists());
    });
}

#[test]
fn what_waits_for_a_disk_until_its_run_has_ended_never_becomes_a_file() {
    on_both(|core| async move {
        let bench = Bench::ready(&core, "auto").await;
        bench.put(NAS, "bkt/old", b"0123456789").await.expect("stored");
        let tenure = Arc::new(Tenure::default());
        tenure.renew(Tick { nanos: u64::MAX });
        bench.core.set_tenure(Arc::clone(&tenure));
        let (whole, copy, record) =
            (bench.blob(NAS, "bkt/whole"), bench.blob(NAS, "bkt/copy"), ObjectRecord::default());
        let parts = bench.blob(NAS, "bkt/parts");
        let luggage = Luggage { key: "", record: &record };
        let upload = bench.backends.create_upload(&parts, luggage).await.expect("opened");
        let release = bench.hang_disks();
        crate::reactor::testing::sleep_ms(30).await; // its jobs are first
        let putting = bench.backends.put_bytes(object(&whole, &record, 10), b"0123456789");
        let (old, span) = (bench.blob(NAS, "bkt/old"), Span { from: 0, len: 10 });
        let copying = bench.backends.copy_within(&old, 10, span, object(&copy, &record, 10));
        let nonces = [Nonce::from_roll(1), Nonce::from_roll(2)];
        let putting_part = bench.backends.put_bytes(part(&parts, &upload, nonces[0].as_str(), 10), b"0123456789");
        let copying_part = bench.backends.copy_within(&old, 10, span, part(&parts, &upload, nonces[1].as_str(), 10));
        let (putting, copying) =
            (futures_util::future::join(putting, putting_part), futures_util::future::join(copying, copying_part));
        let ending = async {
            crate::reactor::testing::sleep_ms(30).await; // all wait for a thread
            tenure.end();
            drop(release);
        };
        let (put, copied, ()) = futures_util::future::join3(putting, copying, ending).await;
        for done in [put.0, put.1, copied.0, copied.1] {
            assert_eq!(done.expect_err("others have given it up by now").blame, Blame::Metadata);
        }
        let within = |folder: &std::path::Path| -> Vec<_> {
            std::fs::read_dir(folder).expect("readable").flatten().map(|entry| entry.path()).collect()
        };
        let left = within(&bench.nas().join("bkt"));
        assert_eq!(left.len(), 2, "the old one and the upload: {left:?}");
        let folder = left.iter().find(|path| path.is_dir()).expect("the upload");
        assert!(
            within(folder).iter().all(|path| !path.to_string_lossy().contains("0000")),
            "no part: {:?}",
            within(folder)
        );
    });
}

fn part<'a>(blob: &'a BlobAt, backend_upload: &'a str, nonce: &'a str, size: u64) -> Put<'a> {
    let number = PartNumber::new(1).expect("a part number");
    let target = PutTarget::Part { backend_upload, number, nonce };
    Put { incarnation: Incarnation(0), blob, target, size, payload: UpstreamPayload::Unsigned, checksum: None }
}

#[test]
fn what_is_written_is_not_sent_again_by_a_run_that_has_ended() {
    on_both(|core| async move {
        let bench = Bench::ready(&core, "auto").await;
        let tenure = Arc::new(Tenure::default());
        tenure.renew(Tick { nanos: u64::MAX });
        bench.core.set_tenure(Arc::clone(&tenure));
        let (record, size) = (ObjectRecord::default(), 1);
        let (old, new) = (bench.blob(CLOUD, "bkt/old"), bench.blob(CLOUD, "bkt/new"));
        let span = Span { from: 0, len: size };
        for copies in [false, true] {
            tenure.renew(Tick { nanos: u64::MAX });
            bench.put(CLOUD, "bkt/old", b"x").await.expect("stored, on a connection that is kept");
            bench.stub.fail_next([Fault::Stall]);
            let before = bench.stale_retries();
            let writing = async {
                let put = object(&new, &record, size);
                if copies {
                    bench.backends.copy_within(&old, size, span, put).await
                } else {
                    bench.backends.put_bytes(put, b"y").await
                }
            };
            let ending = async {
                until("it was sent", || bench.stub.state().faults.is_empty()).await;
                tenure.end();
                bench.stub.close_idle();
            };
            let (written, ()) = futures_util::future::join(writing, ending).await;
            assert_eq!(written.expect_err("too late").blame, Blame::Metadata, "nothing is told of the backend");
            assert_eq!(bench.asked("PUT", "bkt/new"), 0, "not sent again");
            assert_eq!(bench.stale_retries(), before + 1, "another connection was ready");
        }
    });
}

#[test]
fn calls_need_no_head_buffer_of_a_pool_that_their_clients_have_emptied() {
    on_both(|core| async move {
        let limits = CoreLimits { head_buffers_max: 2, ..CoreLimits::default() };
        let bench = Bench::claimed(Bench::limited(&core, "auto", limits)).await;
        let clients = [bench.core.heads.take().await, bench.core.heads.take().await];
        assert!(bench.core.heads.try_take().is_none(), "each waits for its answer with a buffer in hand");
        let body = pattern(0, 3000);
        for backend in [CLOUD, NAS] {
            bench.put(backend, "bkt/a", &body).await.expect("stored");
            assert_eq!(bench.read(backend, "bkt/a", 3000, (0, 3000)).await.expect("read"), body);
        }
        drop(clients);
        assert_eq!(bench.core.heads.out(), 0);
    });
}

#[test]
fn bodies_are_copied_while_slow_ones_hold_every_buffer_of_the_pool() {
    on_both(|core| async move {
        let limits = CoreLimits { body_buffers_max: 1, ..CoreLimits::default() };
        let bench = Bench::claimed(Bench::limited(&core, "copy", limits)).await;
        let _slow = bench.core.bodies.try_take().expect("the only one");
        let body = pattern(0, 600_000);
        bench.put(NAS, "bkt/a", &body).await.expect("stored");
        let size = body.len() as u64;
        for (from, to) in [((NAS, "bkt/a"), (CLOUD, "bkt/b")), ((CLOUD, "bkt/b"), (NAS, "bkt/c"))] {
            let copying = bench.copy(from, to, size);
            let Won::First(moved) = race(copying, crate::reactor::testing::sleep_ms(20_000)).await else {
                panic!("it waits for a slow one")
            };
            assert!(matches!(moved.end, MoveEnd::Done), "{:?}", moved.end);
        }
        assert_eq!(bench.read(NAS, "bkt/c", size, (0, size)).await.expect("read"), body);
    });
}

#[test]
fn what_was_decided_before_a_run_ended_is_not_deleted() {
    on_both(|core| async move {
        let bench = Bench::ready(&core, "auto").await;
        let tenure = Arc::new(Tenure::default());
        tenure.renew(Tick { nanos: u64::MAX });
        bench.core.set_tenure(Arc::clone(&tenure));
        let old = Mandate { until: Some(bench.core.clock.tick()), ..bench.mandate() };
        let others = Mandate { incarnation: Incarnation(9), ..bench.mandate() };
        let record = ObjectRecord::default();
        for backend in BOTH {
            let (blob, open) = (bench.blob(backend, "bkt/a"), bench.blob(backend, "bkt/open"));
            bench.put(backend, "bkt/a", b"x").await.expect("stored");
            let luggage = Luggage { key: "", record: &record };
            let upload = bench.backends.create_upload(&open, luggage).await.expect("opened");
            for mandate in [old, others] {
                let kept = bench.backends.delete(&blob, mandate).await.expect_err("too late");
                assert_eq!(kept.blame, Blame::Metadata, "nothing is told of the backend");
                assert!(bench.backends.abort_uploads(&open, &upload, mandate).await.is_err());
            }
            assert!(bench.backends.head(&blob).await.expect("asked").is_some());
        }
        assert_eq!(bench.stub.state().open_uploads(), 1);

        // They wait, one for a thread, one for an answer that never comes; then their run has ended.
        let (on_disk, far) = (bench.blob(NAS, "bkt/a"), bench.blob(CLOUD, "bkt/a"));
        let release = bench.hang_disks();
        crate::reactor::testing::sleep_ms(30).await; // its jobs are first
        bench.stub.fail_next([Fault::Stall]);
        let ending = async {
            until("it was sent", || bench.stub.state().faults.is_empty()).await;
            tenure.end();
            drop(release);
            bench.stub.close_idle();
        };
        let deletes = (bench.backends.delete(&on_disk, bench.mandate()), bench.backends.delete(&far, bench.mandate()));
        let (near, far, ()) = futures_util::future::join3(deletes.0, deletes.1, ending).await;
        assert!(near.is_err() && far.is_err());
        assert_eq!(bench.asked("DELETE", "bkt/a"), 0, "not sent again");
        assert!(bench.nas().join("bkt/a").exists());
    });
}

#[test]
fn stale_connections_are_replaced_unseen() {
    on_both(|core| async move {
        let bench = Bench::ready(&core, "auto").await;
        let body = pattern(0, 100);
        // It says nothing and closes: seen before the next request is sent.
        bench.stub.fail_next([Fault::CloseAfter]);
        bench.put(CLOUD, "bkt/a", &body).await.expect("stored");
        crate::reactor::testing::sleep_ms(30).await;
        bench.put(CLOUD, "bkt/b", &body).await.expect("stored");
        assert_eq!(bench.stale_retries(), 0);
        // It closes as the request comes, or after it was carried out: asked once more on a new connection.
        for (name, fault) in [("bkt/c", Fault::CloseUnanswered), ("bkt/d", Fault::LoseAnswer)] {
            let before = bench.stale_retries();
            bench.stub.fail_next([fault]);
            bench.put(CLOUD, name, &body).await.expect("stored");
            assert_eq!(bench.stale_retries(), before + 1, "{name}");
            assert!(bench.stub.state().body(name) == Some(&body));
        }
        bench.stub.fail_next([Fault::CloseUnanswered]);
        assert_eq!(bench.read(CLOUD, "bkt/a", 100, (0, 100)).await.expect("read"), body);
        // A new connection that closes is no stale one: asked once.
        bench.stub.fail_next([Fault::CloseAfter]);
        bench.put(CLOUD, "bkt/e", &body).await.expect("stored");
        crate::reactor::testing::sleep_ms(30).await;
        bench.stub.fail_next([Fault::LoseAnswer]);
        let failed = bench.put(CLOUD, "bkt/f", &body).await;
        assert_eq!(kind(failed), Err(Kind::Unavailable));
        assert_eq!(bench.asked("PUT", "bkt/f"), 1);
        assert_eq!(bench.health.failures_in_a_row(CLOUD), 1);
    });
}

#[test]
fn a_sink_whose_connection_went_stale_is_replaced() {
    on_both(|core| async move {
        let bench = Bench::ready(&core, "auto").await;
        let body = pattern(0, 300_000);
        bench.put(NAS, "bkt/a", &body).await.expect("stored");
        let record = ObjectRecord::default();
        let blob = bench.blob(CLOUD, "bkt/a");
        let mut sink = bench.backends.create(object(&blob, &record, 300_000)).await.expect("connected");
        // The warm connection that it holds is closed before a byte is sent.
        bench.stub.close_idle();
        crate::reactor::testing::sleep_ms(30).await;
        let source = bench.open(NAS, "bkt/a", 300_000, (0, 300_000)).await.expect("opened");
        let moved = bench.backends.copy(source, &mut sink, &mut BodyCheck::unseen()).await;
        assert!(matches!(moved.end, MoveEnd::Done), "{:?}", moved.end);
        bench.backends.finish(sink).await.expect("stored");
        assert!(bench.stub.state().body("bkt/a") == Some(&body));
        // One that is given up unused goes back, one that was used is cut and nothing appears.
        let connections = bench.stub.state().connections;
        for _ in 0..3 {
            let sink = bench.backends.create(object(&blob, &record, 300_000)).await.expect("connected");
            bench.backends.discard(sink).await;
        }
        assert_eq!(bench.stub.state().connections, connections);
        let blob = bench.blob(CLOUD, "bkt/half");
        let mut sink = bench.backends.create(object(&blob, &record, 300_000)).await.expect("connected");
        sink.start(&body[..1000]).await.expect("sent");
        bench.backends.discard(sink).await;
        crate::reactor::testing::sleep_ms(30).await;
        assert_eq!(bench.stub.state().body("bkt/half"), None);
    });
}

#[test]
fn how_slowly_a_body_is_sent_says_nothing_of_how_fast_its_backend_answers() {
    on_both(|core| async move {
        let bench = Bench::ready(&core, "auto").await;
        for (backend, other) in [(CLOUD, NAS), (NAS, CLOUD)] {
            let latency = || bench.health.latency_micros(backend, Tick::default());
            for place in BOTH {
                bench.put(place, "bkt/a", b"body").await.expect("stored");
            }
            bench.read(backend, "bkt/a", 4, (0, 4)).await.expect("read");
            let measured = latency();
            assert!(measured > 0, "a read was measured");
            let source = bench.open(other, "bkt/a", 4, (0, 4)).await.expect("opened");
            let (blob, record) = (bench.blob(backend, "bkt/slow"), ObjectRecord::default());
            let mut sink = bench.backends.create(object(&blob, &record, 4)).await.expect("connected");
            crate::reactor::testing::sleep_ms(40).await;
            let moved = bench.backends.copy(source, &mut sink, &mut BodyCheck::unseen()).await;
            assert!(matches!(moved.end, MoveEnd::Done), "{:?}", moved.end);
            bench.backends.finish(sink).await.expect("stored");
            assert_eq!(latency(), measured, "of {backend}");
        }
    });
}

/// More than any socket's buffers take: of such a body something is left when the peer closes, so that nothing whole can have
/// been taken.
const BODY_BEYOND_BUFFERS: usize = 20_000_000;

#[test]
fn a_body_that_broke_off_on_a_kept_connection_is_begun_again_once() {
    on_both(|core| async move {
        let bench = Bench::ready(&core, "auto").await;
        let (record, body) = (ObjectRecord::default(), pattern(0, BODY_BEYOND_BUFFERS));
        let size = body.len() as u64;
        let (again, fresh) = (bench.blob(CLOUD, "bkt/again"), bench.blob(CLOUD, "bkt/fresh"));
        bench.put(CLOUD, "bkt/old", b"x").await.expect("stored, on a connection that is kept");
        let connections = bench.stub.state().connections;
        bench.stub.fail_next([Fault::CloseUnanswered]);
        let mut sink = bench.backends.create(object(&again, &record, size)).await.expect("connected");
        sink.start(&body).await.expect("sent on another connection");
        bench.backends.finish(sink).await.expect("stored");
        assert!(bench.stub.state().body("bkt/again") == Some(&body), "from its first byte on");
        assert_eq!((bench.asked("PUT", "bkt/again"), bench.stale_retries()), (1, 1));
        assert_eq!(bench.stub.state().connections, connections + 1);

        // A connection that was made for it may have been closed for what it carries.
        bench.stub.close_idle();
        crate::reactor::testing::sleep_ms(30).await;
        bench.stub.fail_next([Fault::CloseUnanswered]);
        let mut sink = bench.backends.create(object(&fresh, &record, size)).await.expect("connected");
        let failed = sink.start(&body).await;
        assert_eq!(kind(failed), Err(Kind::Unavailable));
        bench.backends.discard(sink).await;
        assert_eq!((bench.asked("PUT", "bkt/fresh"), bench.stale_retries()), (0, 1), "not sent again");
        assert_eq!(bench.stub.state().connections, connections + 2);
    });
}

#[test]
fn a_body_is_not_begun_again_by_a_run_that_has_ended() {
    on_both(|core| async move {
        let bench = Bench::ready(&core, "auto").await;
        let tenure = Arc::new(Tenure::default());
        tenure.renew(Tick { nanos: u64::MAX });
        bench.core.set_tenure(Arc::clone(&tenure));
        let (record, body) = (ObjectRecord::default(), pattern(0, BODY_BEYOND_BUFFERS));
        let blob = bench.blob(CLOUD, "bkt/late");
        bench.put(CLOUD, "bkt/old", b"x").await.expect("stored, on a connection that is kept");
        bench.stub.fail_next([Fault::CloseUnanswered]);
        let mut sink = bench.backends.create(object(&blob, &record, body.len() as u64)).await.expect("connected");
        // It is asked before it sends, and waits for the backend to read when its run ends.
        let (sent, ()) = futures_util::future::join(sink.start(&body), async { tenure.end() }).await;
        assert_eq!(sent.expect_err("too late").blame, Blame::Metadata, "nothing is told of the backend");
        bench.backends.discard(sink).await;
        assert!(bench.stub.state().faults.is_empty(), "the first attempt arrived");
        assert_eq!((bench.asked("PUT", "bkt/late"), bench.stale_retries()), (0, 1), "another connection was ready");
        assert_eq!(bench.health.failures_in_a_row(CLOUD), 0);
    });
}

#[test]
fn an_early_answer_says_why_a_body_was_not_taken() {
    on_both(|core| async move {
        for relay in ["splice", "copy"] {
            let bench = Bench::ready(&core, relay).await;
            let size = 20_000_000;
            bench.put(NAS, "bkt/a", &pattern(0, size)).await.expect("stored");
            for (status, code, want) in [
                (507, "InsufficientStorage", Kind::NoSpace),
                (403, "AccessDenied", Kind::Refused),
                (503, "SlowDown", Kind::Unavailable),
            ] {
                bench.stub.fail_next([Fault::Early(status, code)]);
                let moved = bench.copy((NAS, "bkt/a"), (CLOUD, "bkt/b"), size as u64).await;
                assert!(moved.bytes < size as u64, "{relay}: {} bytes", moved.bytes);
                match moved.end {
                    MoveEnd::Sink(failure) => assert_eq!(failure.kind, want, "{relay}, {status}: {failure}"),
                    end => panic!("{relay}, {status}: {end:?}"),
                }
                assert_eq!(bench.stub.state().body("bkt/b"), None);
            }
            bench.stub.fail_next([Fault::Early(507, "InsufficientStorage")]);
            let refused = bench.put(CLOUD, "bkt/c", &pattern(0, 5_000_000)).await;
            assert_eq!(kind(refused), Err(Kind::NoSpace), "{relay}: a body in hand");
        }
    });
}

#[test]
fn silence_ends_in_time() {
    on_both(|core| async move {
        let bench = Bench::ready(&core, "auto").await;
        bench.put(CLOUD, "bkt/a", &pattern(0, 100)).await.expect("stored");
        let watch = Stopwatch::start();
        bench.stub.fail_next([Fault::Stall]);
        let failed = bench.read(CLOUD, "bkt/a", 100, (0, 100)).await;
        assert_eq!(kind(failed), Err(Kind::Unavailable));
        bench.stub.fail_next([Fault::Stall]);
        assert_eq!(kind(bench.put(CLOUD, "bkt/b", b"x").await), Err(Kind::Unavailable));
        let elapsed_ms = watch.elapsed_ms();
        assert!((1_500..20_000).contains(&elapsed_ms), "after {elapsed_ms} ms");
        assert_eq!(bench.stale_retries(), 0, "slow is not stale");
        assert!(!bench.health.is_good(CLOUD, bench.core.clock.tick()));
        bench.put(CLOUD, "bkt/c", b"x").await.expect("it speaks again");
        assert!(bench.health.is_good(CLOUD, bench.core.clock.tick()));
    });
}

#[test]
fn a_body_that_is_not_what_was_asked_for_is_not_passed_on() {
    on_both(|core| async move {
        let bench = Bench::ready(&core, "auto").await;
        bench.put(CLOUD, "bkt/a", &pattern(0, 100)).await.expect("stored");
        let head = |fields: &str| Fault::Head(format!("HTTP/1.1 {fields}\r\n\r\n"));
        for (fault, span) in [
            (head("200 OK\r\nContent-Length: 99"), (0, 100)),
            (head("200 OK\r\nContent-Length: 101"), (0, 100)),
            (head("200 OK\r\nTransfer-Encoding: chunked"), (0, 100)),
            (head("200 OK"), (0, 100)),
            (head("206 Partial\r\nContent-Length: 100\r\nContent-Range: bytes 0-99/100"), (0, 100)),
            (head("200 OK\r\nContent-Length: 100"), (10, 5)),
            (head("206 Partial\r\nContent-Length: 5\r\nContent-Range: bytes 11-15/100"), (10, 5)),
            (head("206 Partial\r\nContent-Length: 5\r\nContent-Range: bytes 10-14/101"), (10, 5)),
            (head("206 Partial\r\nContent-Length: 5"), (10, 5)),
            (Fault::Answer(416, "InvalidRange"), (10, 5)),
        ] {
            bench.stub.fail_next([fault.clone()]);
            let opened = bench.open(CLOUD, "bkt/a", 100, span).await;
            assert_eq!(kind(opened), Err(Kind::Corrupt), "{fault:?}");
        }
        for fault in [
            head("HTTP/1.1 what"),
            Fault::Head("garbage\r\n\r\n".to_owned()),
            head("200 OK\r\nContent-Length: 5\r\nContent-Length: 5"),
            Fault::Answer(404, "NoSuchBucket"),
            Fault::Answer(500, "InternalError"),
            Fault::Answer(503, "SlowDown"),
        ] {
            bench.stub.fail_next([fault.clone()]);
            let opened = bench.open(CLOUD, "bkt/a", 100, (0, 100)).await;
            assert_eq!(kind(opened), Err(Kind::Unavailable), "{fault:?}");
        }
        let connections = bench.stub.state().connections;
        for (status, code, want) in [(404, "NoSuchKey", Kind::NotFound), (403, "AccessDenied", Kind::Refused)] {
            bench.stub.fail_next([Fault::Answer(status, code)]);
            assert_eq!(kind(bench.open(CLOUD, "bkt/a", 100, (0, 100)).await), Err(want));
        }
        assert!(bench.stub.state().connections <= connections + 1, "an error that was read whole costs no connection");
        bench.stub.fail_next([Fault::Odd]);
        assert_eq!(kind(bench.open(CLOUD, "bkt/a", 100, (0, 100)).await), Err(Kind::Corrupt), "chunks have no length");
        assert_eq!(bench.read(CLOUD, "bkt/a", 100, (0, 100)).await.expect("read"), pattern(0, 100));
    });
}

#[test]
fn a_body_that_breaks_off_is_resumed_at_the_exact_offset() {
    on_both(|core| async move {
        for relay in ["splice", "copy"] {
            let bench = Bench::ready(&core, relay).await;
            let size = 2_000_000;
            bench.put(CLOUD, "bkt/a", &pattern(0, size)).await.expect("stored");
            for cut in [0, 1, 100_000, 1_999_999] {
                bench.stub.fail_next([Fault::CutBodyAt(cut)]);
                let moved = bench.copy((CLOUD, "bkt/a"), (NAS, "bkt/b"), size as u64).await;
                assert!(matches!(moved.end, MoveEnd::Source(_)), "{relay}, cut at {cut}: {:?}", moved.end);
                assert!(moved.bytes <= cut as u64, "{relay}: {} bytes of {cut}", moved.bytes);
                let rest = (moved.bytes, size as u64 - moved.bytes);
                let got = bench.read(CLOUD, "bkt/a", size as u64, rest).await.expect("read");
                assert!(got == pattern(moved.bytes, got.len()) && got.len() as u64 == rest.1);
                assert_eq!(bench.backends.head(&bench.blob(NAS, "bkt/b")).await.expect("asked"), None);
                bench.backends.delete(&bench.blob(NAS, "bkt/b"), bench.mandate()).await.expect("nothing was left");
            }
        }
    });
}

#[test]
fn a_disk_that_hangs_holds_nobody_for_ever() {
    on_both(|core| async move {
        let bench = Bench::ready(&core, "splice").await;
        let body = pattern(0, 300_000);
        bench.put(NAS, "bkt/a", &body).await.expect("stored");
        let source = bench.open(NAS, "bkt/a", 300_000, (0, 300_000)).await.expect("opened");
        let to_cloud = bench.open(NAS, "bkt/a", 300_000, (0, 300_000)).await.expect("opened");
        bench.put(CLOUD, "bkt/a", &body).await.expect("stored");
        let from_cloud = bench.open(CLOUD, "bkt/a", 300_000, (0, 300_000)).await.expect("opened");
        let record = ObjectRecord::default();
        let (blob, other) = (bench.blob(NAS, "bkt/b"), bench.blob(CLOUD, "bkt/b"));
        let mut sink = bench.backends.create(object(&blob, &record, 300_000)).await.expect("there is room");
        let mut cloud_sink = bench.backends.create(object(&other, &record, 300_000)).await.expect("connected");

        let hung = bench.hang_disks();
        let watch = Stopwatch::start();
        assert_eq!(kind(bench.drain(source).await), Err(Kind::Unavailable), "a copy from it");
        let moved = bench.backends.copy(to_cloud, &mut cloud_sink, &mut BodyCheck::unseen()).await;
        assert!(matches!(moved.end, MoveEnd::Source(_)), "a splice from it: {:?}", moved.end);
        let moved = bench.backends.copy(from_cloud, &mut sink, &mut BodyCheck::unseen()).await;
        assert!(matches!(moved.end, MoveEnd::Sink(_)), "a copy to it: {:?}", moved.end);
        assert_eq!(kind(bench.open(NAS, "bkt/a", 300_000, (0, 1)).await), Err(Kind::Unavailable));
        assert_eq!(kind(bench.backends.head(&blob).await), Err(Kind::Unavailable));
        let elapsed_ms = watch.elapsed_ms();
        assert!((4_000..20_000).contains(&elapsed_ms), "after {elapsed_ms} ms");
        assert!(!bench.health.is_good(NAS, bench.core.clock.tick()));
        drop(hung);
        bench.backends.discard(sink).await;
        bench.backends.discard(cloud_sink).await;
        until("the disk works again", || !bench.nas().join("bkt").join("b").exists()).await;
        assert_eq!(bench.read(NAS, "bkt/a", 300_000, (0, 300_000)).await.expect("read"), body);
        until("what was given up is gone", || std::fs::read_dir(bench.nas().join("bkt")).expect("there").count() == 1)
            .await;
    });
}
