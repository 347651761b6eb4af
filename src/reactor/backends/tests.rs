//! The backends of a core, end to end on both drivers: against the stub endpoint and a directory.

use super::stub::{Fault, Stub, etag_of};
use super::{BackendParts, CoreBackends, Source};
use crate::backend::budget::Budgets;
use crate::backend::directory;
use crate::backend::health::Health;
use crate::backend::marker;
use crate::backend::port::{Backends, MoveEnd, Moved, Put, PutTarget, Span, UpstreamPayload};
use crate::backend::standing::Standing;
use crate::backend::travel::Luggage;
use crate::base::failure::Kind;
use crate::base::{BackendName, BlobId, Clock, Failure, Incarnation, Mandate, Nonce, PartNumber};
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
        Self::claimed(Self::unclaimed(core, relay)).await
    }

    async fn claimed(bench: Self) -> Self {
        for backend in BOTH {
            bench
                .backends
                .claim(backend, DEPLOYMENT, Some(marker::Known::default()))
                .await
                .expect("a new backend is claimed");
            bench.standing.set_usable(backend, true);
            bench.standing.set_facts(backend, &directory::FACTS);
        }
        bench
    }

    fn unclaimed(core: &Rc<Core>, relay: &str) -> Self {
        Self::limited(core, relay, CoreLimits::default())
    }

    fn limited(core: &Rc<Core>, relay: &str, limits: CoreLimits) -> Self {
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
        let core = Core::start(core.driver, limits, cells).expect("a core starts");
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

    /// For what has just been decided.
    fn mandate(&self) -> Mandate {
        Mandate { incarnation: Incarnation(0), until: None }
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
    let (target, payload) = (PutTarget::Object(Luggage { key: "", record }), UpstreamPayload::Unsigned);
    Put { incarnation: Incarnation(0), blob, target, size, payload, checksum: None }
}

fn kind<T>(done: Result<T, Failure>) -> Result<(), Kind> {
    done.map(|_| ()).map_err(|failure| failure.kind)
}

mod identity;
mod objects;
mod trouble;
