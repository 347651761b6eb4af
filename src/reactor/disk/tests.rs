//! Blobs of a directory through the disk threads and the relays, on both drivers. What the calls do to the file system is
//! tested with `directory`.

use super::*;
use crate::base::Clock;
use crate::base::failure::Kind;
use crate::reactor::buffer::Buffer;
use crate::reactor::core::Footing;
use crate::reactor::race::race;
use crate::reactor::relay::copy::{Body, Unseen, Wire, copy_body};
use crate::reactor::relay::splice::splice_body;
use crate::reactor::relay::{Cause, End, Patience, Sink, Source};
use crate::reactor::testing::{on_both, pair, pattern, receive_pattern, send_pattern, until};
use crate::store::record::{ObjectRecord, PartRecord};
use std::cell::Cell;
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Patience = Patience { source: Duration::from_secs(60), sink: Duration::from_secs(60) };

struct Bench {
    core: Rc<Core>,
    disk: Rc<Disk>,
    directory: Arc<Directory>,
    home: TempDir,
}

/// Runs a test over an empty directory on each driver.
fn over_a_directory<F, Fut>(test: F)
where
    F: Fn(Rc<Bench>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()>,
{
    on_both(move |core| {
        let test = test.clone();
        async move {
            let home = tempfile::tempdir().expect("a temporary folder");
            let directory = Directory::new(home.path());
            let seen = directory.look().expect("it is there");
            directory.adopt(seen.root, core.clock.tick());
            let disk = Disk::open(&core, start(2).expect("threads start"), 16).expect("a mailbox opens");
            test(Rc::new(Bench { core, disk, directory, home })).await;
        }
    });
}

impl Bench {
    fn files(&self) -> usize {
        std::fs::read_dir(self.home.path()).expect("readable").count()
    }

    async fn create(&self, name: &str, size: u64) -> Draft {
        self.disk
            .create(&self.directory, name, size, Luggage { key: name, record: &ObjectRecord::default() })
            .await
            .expect("room")
    }

    async fn write(&self, draft: &mut Draft, bytes: &[u8]) {
        let mut buffer = self.core.bodies.take().await;
        for piece in bytes.chunks(buffer.capacity()) {
            buffer.append(piece);
            let count = buffer.len();
            draft.write(&mut buffer, count).await.expect("room on the disk");
            assert!(buffer.is_empty());
        }
    }

    async fn put(&self, name: &str, bytes: &[u8]) {
        let mut draft = self.create(name, bytes.len() as u64).await;
        self.write(&mut draft, bytes).await;
        draft.commit().await.expect("durable");
    }

    async fn read(&self, name: &str, size: u64) -> Vec<u8> {
        let mut file = self.disk.read(&self.directory, name, size, None).await.expect("it is there");
        let mut all = Vec::new();
        let mut buffer = self.core.bodies.take().await;
        while file.read(&mut buffer, usize::MAX).await.expect("readable") > 0 {
            all.extend_from_slice(buffer.data());
            buffer.clear();
        }
        assert_eq!(file.left(), 0);
        all
    }
}

#[test]
fn what_is_written_is_read_back() {
    over_a_directory(|bench| async move {
        for size in [0, 1, 700_000] {
            let name = format!("of-{size}");
            bench.put(&name, &pattern(0, size)).await;
            assert!(bench.read(&name, size as u64).await == pattern(0, size));
        }
        let directory = Arc::clone(&bench.directory);
        bench.disk.run(move || directory.delete("of-1")).await.expect("deleted");
        let gone = bench.disk.read(&bench.directory, "of-1", 1, None).await.map(drop);
        assert_eq!(gone.map_err(|failure| failure.kind), Err(Kind::NotFound));
        assert_eq!(bench.core.bodies.out(), 0);
    });
}

#[test]
fn a_draft_that_is_dropped_or_discarded_leaves_nothing() {
    over_a_directory(|bench| async move {
        let mut draft = bench.create("a", 100).await;
        bench.write(&mut draft, b"some").await;
        assert_eq!(bench.files(), 1);
        drop(draft);
        until("the file is gone", || bench.files() == 0).await;

        let mut draft = bench.create("a", 100).await;
        bench.write(&mut draft, b"some").await;
        draft.discard().await;
        assert_eq!(bench.files(), 0);

        // While a disk thread has it.
        let mut draft = bench.create("a", 100_000).await;
        let mut buffer = bench.core.bodies.take().await;
        buffer.append(&[1; 100_000]);
        race(async { drop(draft.write(&mut buffer, 100_000).await) }, async {}).await;
        drop((draft, buffer));
        until("the file is gone", || bench.files() == 0).await;
        until("the buffer's place is free", || bench.core.bodies.out() == 0).await;
    });
}

#[test]
fn a_panic_on_a_disk_thread_ends_one_call() {
    over_a_directory(|bench| async move {
        for _ in 0..5 {
            let panicked = bench.disk.run(|| -> Result<(), Failure> { panic!("asked to") }).await;
            assert!(panicked.is_err_and(|failure| failure.cause.contains("did not answer")));
        }
        bench.put("after", b"x").await;
    });
}

#[test]
fn calls_beyond_the_limit_are_refused_but_not_the_end_of_a_draft() {
    over_a_directory(|bench| async move {
        let mut draft = bench.create("a", 1).await;
        let (refused, answered) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        for _ in 0..40 {
            let (bench, refused, answered) = (Rc::clone(&bench), Rc::clone(&refused), Rc::clone(&answered));
            monoio::spawn(async move {
                match bench.disk.run(|| Ok(())).await {
                    Ok(()) => {}
                    Err(failure) if failure.kind == Kind::Overloaded => refused.set(refused.get() + 1),
                    Err(failure) => panic!("{failure}"),
                }
                answered.set(answered.get() + 1);
            });
        }
        bench.write(&mut draft, b"x").await;
        draft.commit().await.expect("an accepted begin owns its end");
        until("all were answered", || answered.get() == 40).await;
        assert!(refused.get() > 0, "the limit is 16");
    });
}

/// Relays a span of a blob to a socket; how it ended. What arrives must be the pattern from the span's start.
async fn serve(bench: &Bench, splice: bool, name: &str, size: u64, span: Span, len: u64) -> End {
    let mut file = bench.disk.read(&bench.directory, name, size, Some(span)).await.expect("it is there");
    let (mut sink, mut taker) = pair(&bench.core);
    let taking = std::thread::spawn(move || receive_pattern(&mut taker, span.from, 1 << 17));
    let source = Source::File(&mut file, Footing::default());
    let moved = if splice {
        let mut pipe = bench.core.pipes.take().expect("a pipe");
        splice_body(&bench.core, source, Sink::Socket(&mut sink), len, PATIENCE, &mut pipe).await
    } else {
        let mut nothing = Buffer::from_bytes(&[]);
        let body = Body { wire: Wire::Exact(len), size: len, ahead: &mut nothing };
        copy_body(&bench.core, source, &mut [Sink::Socket(&mut sink)], body, &mut Unseen, PATIENCE).await
    };
    sink.end().await.expect("open");
    until("everything arrived", || taking.is_finished()).await;
    assert_eq!(taking.join().expect("bytes in order"), moved.bytes);
    assert_eq!(moved.bytes, span.len.min(len));
    moved.end
}

#[test]
fn files_are_relayed_to_sockets() {
    const LEN: u64 = 3 << 20;
    over_a_directory(|bench| async move {
        bench.put("a", &pattern(0, 3 << 20)).await;
        for splice in [true, false] {
            for span in [Span { from: 0, len: LEN }, Span { from: 1_000_001, len: 1_500_000 }, Span { from: 5, len: 0 }]
            {
                assert!(matches!(serve(&bench, splice, "a", LEN, span, span.len).await, End::Done), "{span:?}");
            }
            let span = Span { from: 100, len: 1000 };
            assert!(matches!(serve(&bench, splice, "a", LEN, span, 1001).await, End::SourceFailed(_)));
        }
    });
}

#[test]
fn a_file_that_became_shorter_fails_its_reader() {
    over_a_directory(|bench| async move {
        for splice in [true, false] {
            bench.put("a", &pattern(0, 2 << 20)).await;
            let mut file = bench.disk.read(&bench.directory, "a", 2 << 20, None).await.expect("it is there");
            let on_disk = std::fs::OpenOptions::new().write(true).open(bench.home.path().join("a")).expect("there");
            on_disk.set_len(1 << 20).expect("cut");
            let (mut sink, mut taker) = pair(&bench.core);
            let taking = std::thread::spawn(move || receive_pattern(&mut taker, 0, 1 << 17));
            let source = Source::File(&mut file, Footing::default());
            let moved = if splice {
                let mut pipe = bench.core.pipes.take().expect("a pipe");
                splice_body(&bench.core, source, Sink::Socket(&mut sink), 2 << 20, PATIENCE, &mut pipe).await
            } else {
                let mut nothing = Buffer::from_bytes(&[]);
                let body = Body { wire: Wire::Exact(2 << 20), size: 2 << 20, ahead: &mut nothing };
                copy_body(&bench.core, source, &mut [Sink::Socket(&mut sink)], body, &mut Unseen, PATIENCE).await
            };
            assert!(
                matches!(&moved.end, End::SourceFailed(Cause::Disk(failure)) if failure.kind == Kind::Corrupt),
                "{moved:?}"
            );
            assert_eq!(moved.bytes, 1 << 20);
            sink.end().await.expect("open");
            until("everything arrived", || taking.is_finished()).await;
            assert_eq!(taking.join().expect("bytes in order"), 1 << 20);
            let directory = Arc::clone(&bench.directory);
            bench.disk.run(move || directory.delete("a")).await.expect("deleted");
        }
    });
}

#[test]
fn sockets_are_relayed_to_files_and_parts_are_relayed_as_one() {
    const SIZES: [u64; 3] = [2_345_678, 1, 600_000];
    over_a_directory(|bench| async move {
        let name = "bkt/big!01JD0000000000000000000000AAAAAAAAAA";
        let directory = Arc::clone(&bench.directory);
        bench.disk.run(move || directory.create_upload(name, &Label::default())).await.expect("opened");
        let mut parts = Vec::new();
        let mut from = 0;
        for (number, size) in (1..).zip(SIZES) {
            let (mut source, mut giver) = pair(&bench.core);
            let giving = std::thread::spawn(move || send_pattern(&mut giver, from, size, 30_000));
            let part = PartNumber::new(number).expect("in range");
            let nonce = "ABCDEFGHJK";
            let created = bench.disk.create_part(&bench.directory, name, part, nonce, size).await;
            let mut draft = created.expect("an open upload");
            let mut ahead = Buffer::from_bytes(&[]);
            let body = Body { wire: Wire::Exact(size), size, ahead: &mut ahead };
            let sinks = &mut [Sink::File(&mut draft, Footing::default())];
            let moved = copy_body(&bench.core, Source::Client(&mut source), sinks, body, &mut Unseen, PATIENCE).await;
            assert!(matches!(moved.end, End::Done) && moved.bytes == size, "{moved:?}");
            let etag = draft.commit().await.expect("durable").etag;
            let (backend_etag, checksums) = (etag, Vec::new());
            parts.push(PartRecord { number, size, etag: String::new(), backend_etag, checksums, modified_ms: 0 });
            until("everything was sent", || giving.is_finished()).await;
            from += size;
        }
        let directory = Arc::clone(&bench.directory);
        bench.disk.run(move || directory.complete_upload(name, &parts)).await.expect("complete");
        for splice in [true, false] {
            for span in [Span { from: 0, len: from }, Span { from: SIZES[0] - 5, len: 100 }] {
                assert!(matches!(serve(&bench, splice, name, from, span, span.len).await, End::Done), "{span:?}");
            }
        }
    });
}
