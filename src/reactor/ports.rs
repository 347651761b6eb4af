//! One core's ports: what handlers and workers hold on a reactor and on the mover.

use super::backends::{CoreBackends, Sink, Source};
use super::clock::CoreClock;
use super::core::Core;
use super::dice::CoreDice;
use super::metadata::CoreMetadata;
use super::publication::{CoreRegistry, Publication};
use super::wake::Wake;
use crate::backend::budget::Budgets;
use crate::backend::health::Health;
use crate::backend::port::{Backends, BlobHead, BlobPage, Moved, Put, Span, Stored, Unfinished};
use crate::backend::standing::Standing;
use crate::backend::travel::Luggage;
use crate::base::{BackendName, Clock, Failure, Incarnation, Mandate, Tenure};
use crate::config::registry::Published;
use crate::config::view::View;
use crate::handlers::held::Held;
use crate::handlers::ports::{Ports, Worker};
use crate::handlers::searched::Searched;
use crate::observe::cells::CoreCells;
use crate::proto::body_check::BodyCheck;
use crate::store::board::Board;
use crate::store::database_state::DatabaseState;
use crate::store::port::{Change, Metadata};
use crate::store::record::{BlobAt, PartRecord};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Ends that could not be delivered are tried again this often.
const END_AGAIN: Duration = Duration::from_millis(500);

/// How long the change of a bucket waits for every core to know of it, and how often it looks.
const BUCKETS_KNOWN_WITHIN: Duration = Duration::from_secs(10);
const BUCKETS_KNOWN_LOOK: Duration = Duration::from_millis(1);

/// What all threads share, as `control` made it at the start.
#[derive(Clone)]
pub struct Shared {
    pub view: Arc<View>,
    pub board: Arc<Board>,
    pub standing: Arc<Standing>,
    pub tenure: Arc<Tenure>,
    pub database: Arc<DatabaseState>,
    pub budgets: Arc<Budgets>,
    pub held: Arc<Held>,
    pub cleanup: Wake,
    pub replicate: Wake,
}

pub struct CorePorts {
    pub core: Rc<Core>,
    pub shared: Shared,
    backends: CoreBackends,
    meta: CoreMetadata,
    health: Rc<Health>,
    registry: Rc<CoreRegistry>,
    publication: Publication,
    searched: Searched,
    /// Ends of attempts whose tasks could not wait for them.
    ends: RefCell<Vec<Change>>,
}

impl CorePorts {
    pub fn new(
        core: Rc<Core>,
        shared: Shared,
        backends: CoreBackends,
        meta: CoreMetadata,
        health: Rc<Health>,
        (registry, publication): (Rc<CoreRegistry>, Publication),
    ) -> Rc<Self> {
        let (searched, ends) = (Searched::default(), RefCell::default());
        core.set_tenure(Arc::clone(&shared.tenure));
        let ports = Rc::new(Self { core, shared, backends, meta, health, registry, publication, searched, ends });
        let ending = Rc::clone(&ports);
        super::task::spawn(&ports.core.cells, "ends of attempts", async move { ending.deliver_ends().await });
        ports
    }

    /// Asks for the ends that were left, until the store has answered each. Runs as long as the core.
    async fn deliver_ends(&self) {
        loop {
            self.core.clock.sleep(END_AGAIN).await;
            let due = std::mem::take(&mut *self.ends.borrow_mut());
            for end in due {
                if let Err(failure) = self.meta.change(end.clone()).await {
                    // While the breaker is open, its own message has said so, for all of them.
                    if self.shared.database.circuit.is_closed() {
                        tracing::warn!(%failure, "an attempt could not be ended yet");
                    }
                    self.ends.borrow_mut().push(end);
                }
            }
        }
    }

    pub fn backends(&self) -> &CoreBackends {
        &self.backends
    }
}

impl Ports for CorePorts {
    type Meta = CoreMetadata;
    type Clock = CoreClock;
    type Dice = CoreDice;

    fn meta(&self) -> &CoreMetadata {
        &self.meta
    }

    fn clock(&self) -> &CoreClock {
        &self.core.clock
    }

    fn dice(&self) -> &CoreDice {
        &self.core.dice
    }

    fn view(&self) -> &View {
        &self.shared.view
    }

    fn registry(&self) -> Rc<Published> {
        self.registry.current()
    }

    async fn buckets_known(&self, generation: u64) -> Result<(), Failure> {
        self.publication.note_change();
        let asked = self.core.clock.tick();
        while self.publication.settled() < generation {
            if self.core.clock.tick().since(asked) >= BUCKETS_KNOWN_WITHIN {
                return Err(Failure::metadata("the cores were not told of a bucket in time"));
            }
            self.core.clock.sleep(BUCKETS_KNOWN_LOOK).await;
        }
        Ok(())
    }

    fn board(&self) -> &Board {
        &self.shared.board
    }

    fn standing(&self) -> &Standing {
        &self.shared.standing
    }

    fn budgets(&self) -> &Budgets {
        &self.shared.budgets
    }

    fn health(&self) -> &Health {
        &self.health
    }

    fn cells(&self) -> &CoreCells {
        &self.core.cells
    }

    fn searched(&self) -> &Searched {
        &self.searched
    }

    fn incarnation(&self) -> Incarnation {
        self.shared.tenure.incarnation()
    }

    fn mandate(&self) -> Mandate {
        self.shared.tenure.mandate(self.core.clock.tick(), self.shared.view.write_path.lease)
    }

    fn held(&self) -> &Held {
        &self.shared.held
    }

    fn end_later(&self, end: Change) {
        self.ends.borrow_mut().push(end);
    }

    fn wake(&self, worker: Worker) {
        match worker {
            Worker::Cleanup => self.shared.cleanup.ring(),
            Worker::Replicate => self.shared.replicate.ring(),
        }
    }
}

impl Backends for CorePorts {
    type Source = Source;
    type Sink = Sink;

    async fn open(&self, blob: &BlobAt, size: u64, span: Span) -> Result<Source, Failure> {
        self.backends.open(blob, size, span).await
    }

    async fn create(&self, put: Put<'_>) -> Result<Sink, Failure> {
        self.backends.create(put).await
    }

    async fn finish(&self, sink: Sink) -> Result<Stored, Failure> {
        self.backends.finish(sink).await
    }

    async fn discard(&self, sink: Sink) {
        self.backends.discard(sink).await;
    }

    async fn put_bytes(&self, put: Put<'_>, body: &[u8]) -> Result<Stored, Failure> {
        self.backends.put_bytes(put, body).await
    }

    async fn copy(&self, source: Source, sink: &mut Sink, check: &mut BodyCheck) -> Moved {
        self.backends.copy(source, sink, check).await
    }

    async fn copy_within(&self, from: &BlobAt, size: u64, span: Span, put: Put<'_>) -> Result<Stored, Failure> {
        self.backends.copy_within(from, size, span, put).await
    }

    async fn delete(&self, blob: &BlobAt, mandate: Mandate) -> Result<(), Failure> {
        self.backends.delete(blob, mandate).await
    }

    async fn head(&self, blob: &BlobAt) -> Result<Option<BlobHead>, Failure> {
        self.backends.head(blob).await
    }

    async fn create_upload(&self, blob: &BlobAt, luggage: Luggage<'_>) -> Result<String, Failure> {
        self.backends.create_upload(blob, luggage).await
    }

    async fn complete_upload(
        &self,
        blob: &BlobAt,
        backend_upload: &str,
        parts: &[PartRecord],
    ) -> Result<Stored, Failure> {
        self.backends.complete_upload(blob, backend_upload, parts).await
    }

    async fn abort_uploads(&self, blob: &BlobAt, known: &str, mandate: Mandate) -> Result<(), Failure> {
        self.backends.abort_uploads(blob, known, mandate).await
    }

    async fn list(&self, backend: &BackendName, prefix: &str, after: &str) -> Result<BlobPage, Failure> {
        self.backends.list(backend, prefix, after).await
    }

    async fn unfinished(&self, backend: &BackendName) -> Result<Vec<Unfinished>, Failure> {
        self.backends.unfinished(backend).await
    }

    async fn remove_unfinished(&self, backend: &BackendName, path: &str, mandate: Mandate) -> Result<(), Failure> {
        self.backends.remove_unfinished(backend, path, mandate).await
    }
}
