//! The backends of a core, end to end on both drivers: against the stub endpoint and a directory.

use super::stub::{Fault, Stub, etag_of};
use super::{BackendParts, CoreBackends, Source};
use crate::backend::budget::Budgets;
use crate::backend::directory;
use crate::backend::health::Health;
use crate::backend::marker;
use crate::backend::port::{Backends, MoveEnd, Moved, Put, PutTarget, Span, UpstreamPayload};
use crate::backend::standing::Standing;
use crate::base::failure::Kind;
use crate::base::{BackendName, BlobId, Clock, Failure, Incarnation, Nonce, PartNumber};
use crate::config::{View, from_text};
use crate::observe::cells::{BackendCall, CallStatus, CoreCells};
use crate::proto::body_check::BodyCheck;
use crate::reactor::core::{Core, CoreLimits};
use crate::reactor::disk::Disk;
use crate::reactor::relay::copy::{Body, Unseen, Wire, copy_body};
use crate::reactor::relay::{End, Patience, Sink as RelaySink};
use crate::reactor::testing::{Stopwatch, on_both, pair, pattern, until};
use crate::store::record::{BlobAt, ObjectRecord, PartRecord};
use std::io::Read;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

/// Indexes of the view.
const CLOUD: usize = 0;
const NAS: usize = 1;
const BOTH: [usize; 2] = [CLOUD, NAS];
const DEPLOYMENT: &str = "deployment-1";
const PATIENCE: Duration = Duration::from_secs(30);

struct Bench {
    core: Rc<Core>,
    view: Arc<View>,
    standing: Arc<Standing>,
    health: Rc<Health>,
    backends: CoreBackends,
    stub: Stub,
    disks: Rc<Disk>,
    place: TempDir,
}

impl Bench {
    /// Both backends claimed, nothing measured.
    async fn ready(core: &Rc<Core>, relay: &str) -> Self {
        let bench = Self::unclaimed(core, relay);
        for backend in BOTH {
            bench.backends.claim(backend, DEPLOYMENT, Some(0)).await.expect("a new backend is claimed");
            bench.standing.set_usable(backend, true);
            bench.standing.set_facts(backend, &directory::FACTS);
        }
        bench
    }

    fn unclaimed(core: &Rc<Core>, relay: &str) -> Self {
        let stub = Stub::start();
        let place = tempfile::tempdir().expect("a temporary directory");
        let text = format!(
            "server: {{listen_addr: '127.0.0.1:0', relay: {relay}, backend_timeout: 1s}}
buckets:
  - name: photos
    credentials: [{{access_key_id: photoskey, secret_access_key: photossecret}}]
backends:
  - name: cloud
    endpoint: http://{}
    bucket: {}
    access_key_id: {}
    secret_access_key: {}
    quota_bytes: 1GiB
  - name: nas
    directory: {}
    quota_bytes: 1GiB
",
            stub.address,
            super::stub::BUCKET,
            super::stub::ACCESS_KEY,
            super::stub::SECRET_KEY,
            place.path().join("nas").display(),
        );
        let checked = from_text(&text, place.path(), &|_| None).unwrap_or_else(|problems| panic!("{problems}"));
        let view = Arc::new(View::new(checked.config));
        let names = view.backends.iter().map(|backend| backend.name.clone());
        let cells = Arc::new(CoreCells::new("test", names));
        let core = Core::start(core.driver, CoreLimits::default(), cells).expect("a core starts");
        let standing = Arc::new(Standing::new(2));
        let health = Rc::new(Health::new(2, Arc::clone(&standing)));
        let metered = view.backends.iter().map(|backend| (&backend.name, &backend.budget));
        let budgets = Arc::new(Budgets::new(metered, Box::new(|| {})));
        let parts = BackendParts::open(&view, &standing, &budgets).expect("threads start");
        let super::Way::Directory { disk, .. } = &parts.ways[NAS] else { panic!("the second is a directory") };
        let disks = Disk::open(&core, disk.clone(), 64).expect("a mailbox opens");
        let backends = CoreBackends::open(&core, &view, parts, Rc::clone(&health)).expect("it opens");
        Self { core, view, standing, health, backends, stub, disks, place }
    }

    fn nas(&self) -> PathBuf {
        self.place.path().join("nas")
    }

    fn blob(&self, backend: usize, name: &str) -> BlobAt {
        BlobAt {
            id: BlobId(1),
            backend: self.view.backends[backend].name.clone(),
            name: name.to_owned(),
            foreign_etag: String::new(),
            version_id: String::new(),
        }
    }

    async fn put(&self, backend: usize, name: &str, body: &[u8]) -> Result<String, Failure> {
        let record = ObjectRecord::default();
        let blob = self.blob(backend, name);
        let put = object(&blob, &record, body.len() as u64);
        Ok(self.backends.put_bytes(put, body).await?.etag)
    }

    async fn open(&self, backend: usize, name: &str, size: u64, span: (u64, u64)) -> Result<Source, Failure> {
        let (from, len) = span;
        self.backends.open(&self.blob(backend, name), size, Span { from, len }).await
    }

    async fn read(&self, backend: usize, name: &str, size: u64, span: (u64, u64)) -> Result<Vec<u8>, Failure> {
        let source = self.open(backend, name, size, span).await?;
        Ok(self.drain(source).await.expect("readable to its end"))
    }

    /// What a source gives, through a socket as to a client.
    async fn drain(&self, mut source: Source) -> Result<Vec<u8>, Failure> {
        let (mut stream, mut peer) = pair(&self.core);
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            peer.read_to_end(&mut bytes).map(|_| bytes)
        });
        let left = source.left();
        let (relay, ahead) = source.parts();
        let body = Body { wire: Wire::Exact(left), size: left, ahead };
        let patience = Patience { source: Duration::from_secs(1), sink: PATIENCE };
        let sinks = &mut [RelaySink::Socket(&mut stream)];
        let moved = copy_body(&self.core, relay, sinks, body, &mut Unseen, patience).await;
        drop(stream);
        source.moved(moved.bytes);
        until("the peer has read all", || reader.is_finished()).await;
        let bytes = reader.join().expect("no panic").expect("readable");
        assert_eq!(bytes.len() as u64, moved.bytes, "what was moved arrived");
        match moved.end {
            End::Done => {
                source.finished();
                Ok(bytes)
            }
            End::SourceFailed(cause) => Err(source.failure(cause)),
            end => panic!("{end:?}"),
        }
    }

    /// Moves a blob as the replicator does, and ends it if it was moved whole.
    async fn copy(&self, from: (usize, &str), to: (usize, &str), size: u64) -> Moved {
        let source = self.open(from.0, from.1, size, (0, size)).await.expect("it is there");
        let record = ObjectRecord::default();
        let blob = self.blob(to.0, to.1);
        let mut sink = self.backends.create(object(&blob, &record, size)).await.expect("there is room");
        let moved = self.backends.copy(source, &mut sink, &mut BodyCheck::unseen()).await;
        match &moved.end {
            MoveEnd::Done => drop(self.backends.finish(sink).await.expect("stored")),
            _ => self.backends.discard(sink).await,
        }
        moved
    }

    /// Keeps every disk thread busy until what it answers is dropped.
    fn hang_disks(&self) -> Sender<()> {
        let (release, hung) = channel::<()>();
        let hung = Arc::new(Mutex::new(hung));
        for _ in 0..super::DISK_THREADS {
            let (disks, hung) = (Rc::clone(&self.disks), Arc::clone(&hung));
            monoio::spawn(async move {
                let waited = disks.run(move || {
                    let _ = hung.lock().map(|hung| hung.recv());
                    Ok(())
                });
                waited.await.expect("a job that ends");
            });
        }
        release
    }

    fn stale_retries(&self) -> u64 {
        self.core.cells.backends[CLOUD].stale_retries.value()
    }

    /// Requests that the stub has seen for this name.
    fn asked(&self, method: &str, name: &str) -> usize {
        let target = format!("{method} /{}/{name}", super::stub::BUCKET);
        self.stub.state().log.iter().filter(|line| **line == target).count()
    }
}

fn object<'a>(blob: &'a BlobAt, record: &'a ObjectRecord, size: u64) -> Put<'a> {
    let (target, payload) = (PutTarget::Object { record }, UpstreamPayload::Unsigned);
    Put { incarnation: Incarnation(0), blob, target, size, payload, checksum: None }
}

fn kind<T>(done: Result<T, Failure>) -> Result<(), Kind> {
    done.map(|_| ()).map_err(|failure| failure.kind)
}

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
                    bench.backends.delete(&blob).await.expect("gone, also when asked again");
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
                    bench.backends.delete(&bench.blob(backend, name)).await.expect("deleted");
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
        let good = super::calls::sha256_of(body);
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
fn multipart_uploads_become_one_blob() {
    on_both(|core| async move {
        let bench = Bench::ready(&core, "auto").await;
        let name = "bkt/big!00000000010000000000000001ABCDEFGHJK";
        for backend in BOTH {
            let blob = bench.blob(backend, name);
            let upload = bench.backends.create_upload(&blob, &ObjectRecord::default()).await.expect("opened");
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
            bench.backends.abort_uploads(&blob, &upload).await.expect("there is none any more");
            bench.backends.delete(&blob).await.expect("deleted");
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
            let known = bench.backends.create_upload(&blob, &record).await.expect("opened");
            for _ in 0..4 {
                bench.backends.create_upload(&blob, &record).await.expect("opened, its answer lost");
            }
            bench.backends.create_upload(&other, &record).await.expect("another's");
            for _ in 0..2 {
                bench.backends.abort_uploads(&blob, &known).await.expect("aborted, also when asked again");
            }
            bench.backends.abort_uploads(&blob, "").await.expect("none is known, none is there");
            if backend == CLOUD {
                assert_eq!(bench.stub.state().open_uploads(), 1, "the other name's");
            }
        }
        bench.stub.state().lists_no_uploads = true;
        let blob = bench.blob(CLOUD, "bkt/ab");
        bench.backends.abort_uploads(&blob, "u+/999").await.expect("what cannot be listed is not waited for");

        // A dialect that refuses what it does not know. Its listing says whether the upload is there, if there is one.
        for lists in [true, false] {
            bench.stub.state().forbids_unknown_uploads = true;
            bench.stub.state().lists_no_uploads = !lists;
            bench.backends.abort_uploads(&blob, "u+/999").await.expect("there is none");
        }
        bench.stub.fail_next([Fault::Answer(403, "AccessDenied"), Fault::Answer(403, "AccessDenied")]);
        let forbidden = bench.backends.abort_uploads(&blob, "u+/999").await;
        assert_eq!(kind(forbidden), Err(Kind::Refused), "what we may not see may be there");
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
                bench.backends.delete(&bench.blob(NAS, "bkt/b")).await.expect("nothing was left");
            }
        }
    });
}

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
            bench.backends.delete(&blob).await.expect("deleted");
            assert_eq!(bench.stub.state().names(), [marker::NAME, "bkt/ab"], "measured as removing: {removes}");
            bench.backends.delete(&bench.blob(CLOUD, "bkt/ab")).await.expect("deleted");
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
        assert_eq!(kind(bench.backends.delete(&blob).await), Err(Kind::Refused));
        assert_eq!(bench.stub.state().body("theirs"), Some(&b"changed bit"[..]));
        bench.put(CLOUD, "theirs", b"as imported").await.expect("stored");
        for _ in 0..2 {
            bench.backends.delete(&blob).await.expect("deleted, also when it is gone");
        }
        assert_eq!(bench.stub.state().body("theirs"), None);
    });
}

#[test]
fn a_backend_is_claimed_once_and_never_twice() {
    on_both(|core| async move {
        let bench = Bench::unclaimed(&core, "auto");
        for backend in BOTH {
            let name = bench.view.backends[backend].name.as_str().to_owned();
            let refused =
                bench.backends.claim(backend, DEPLOYMENT, Some(3)).await.expect_err("where are the three blobs?");
            assert_eq!(refused.kind, Kind::Refused);
            assert!(refused.cause.contains("3 blobs") && refused.cause.contains(&name), "{refused}");
            assert_eq!(kind(bench.put(backend, "bkt/a", b"x").await), Err(Kind::Unavailable), "not in use");
            assert_eq!(kind(bench.backends.delete(&bench.blob(backend, "bkt/a")).await), Err(Kind::Unavailable));
            for blobs_named in [0, 0, 3] {
                bench.backends.claim(backend, DEPLOYMENT, Some(blobs_named)).await.expect("it is ours");
            }
            let refused = bench.backends.claim(backend, "another", Some(0)).await.expect_err("it is not theirs");
            assert!(refused.kind == Kind::Refused && refused.cause.contains(DEPLOYMENT), "{refused}");
        }
        assert!(bench.nas().join(marker::NAME).exists());
        // Unmounted: the empty place under it is no backend that lost its blobs.
        std::fs::rename(bench.nas(), bench.place.path().join("aside")).expect("moved");
        for is_empty_place in [false, true] {
            if is_empty_place {
                std::fs::create_dir(bench.nas()).expect("made");
            }
            assert_eq!(kind(bench.backends.claim(NAS, DEPLOYMENT, Some(3)).await), Err(Kind::Refused));
        }
        std::fs::remove_dir(bench.nas()).expect("nothing was put there");
        std::fs::rename(bench.place.path().join("aside"), bench.nas()).expect("moved back");
        bench.backends.claim(NAS, DEPLOYMENT, Some(3)).await.expect("mounted again");
        // What may pass by itself is not refused.
        for fault in [Fault::Answer(404, "NoSuchBucket"), Fault::Answer(503, "SlowDown"), Fault::Stall] {
            bench.stub.fail_next([fault]);
            assert_eq!(kind(bench.backends.claim(CLOUD, DEPLOYMENT, Some(0)).await), Err(Kind::Unavailable));
        }
        assert_eq!(kind(bench.backends.list(&BackendName::new("gone"), "", "").await), Err(Kind::Unavailable));
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
            let backend_upload = bench.backends.create_upload(&target, &record).await.expect("opened");
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

#[test]
fn an_endpoint_is_measured() {
    on_both(|core| async move {
        let bench = Bench::ready(&core, "auto").await;
        let facts = bench.backends.measure(CLOUD, Nonce::from_roll(1)).await.expect("measured");
        assert!(facts.measured && facts.verifies_sha256 && facts.etag_is_md5 && facts.copies && facts.delete_removes);
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
