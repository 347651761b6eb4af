//! One run of the product: the desk over the store, the ports of one core, the workers. It ends by a crash.

use super::backend::{Sink, Source};
use super::counts::count;
use super::exchange::piece_bytes;
use super::executor::{Group, Sim};
use super::meta::SimMeta;
use super::mutant::Mutant;
use super::operations;
use super::store::FaultyStore;
use super::tenure::{begin_term, register};
use super::world::World;
use s3_orchestrator::backend::budget::{Budgets, Denied, Spend};
use s3_orchestrator::backend::health::Health;
use s3_orchestrator::backend::port::{
    Backends, BlobHead, BlobPage, MoveEnd, Moved, Put, PutTarget, Span, Stored, Unfinished,
};
use s3_orchestrator::backend::standing::Standing;
use s3_orchestrator::backend::travel::Luggage;
use s3_orchestrator::base::failure::Kind;
use s3_orchestrator::base::{BackendName, Blame, Clock, Dice, Failure, Incarnation, Mandate, Retry, Tenure, blob_name};
use s3_orchestrator::config::View;
use s3_orchestrator::config::registry::Published;
use s3_orchestrator::handlers::held::Held;
use s3_orchestrator::handlers::ports::{Ports, Worker};
use s3_orchestrator::handlers::searched::Searched;
use s3_orchestrator::observe::cells::CoreCells;
use s3_orchestrator::policy::breaker::BreakerSettings;
use s3_orchestrator::policy::usage::BackendCall;
use s3_orchestrator::proto::body_check::BodyCheck;
use s3_orchestrator::proto::date;
use s3_orchestrator::store::board::Board;
use s3_orchestrator::store::desk::{Desk, DeskLimits, Locations, local};
use s3_orchestrator::store::location_cache::{LocationCache, Trust};
use s3_orchestrator::store::port::*;
use s3_orchestrator::store::record::{BackendFacts, BlobAt, PartRecord};
use s3_orchestrator::workers::lend::{Lender, Occasion};
use s3_orchestrator::workers::{cleanup, recover, replicate, stale_uploads};
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::backend::Backend as Model;
use super::backend::Flavour;

pub struct Instance {
    pub world: Rc<World>,
    pub group: Group,
    alive: Cell<bool>,
    pub meta: SimMeta,
    board: Arc<Board>,
    standing: Arc<Standing>,
    budgets: Arc<Budgets>,
    /// For the lender.
    rung: Arc<AtomicBool>,
    /// The month that the lender lends of.
    period: RefCell<String>,
    health: Health,
    cells: CoreCells,
    searched: Searched,
    held: Arc<Held>,
    pub tenure: Arc<Tenure>,
    wanted: [Cell<bool>; 2],
    this: Weak<Self>,
}

impl Instance {
    /// Starts a run and registers it; None of the world's tasks is served before.
    pub async fn boot(world: Rc<World>, group: Group) -> Rc<Self> {
        let sim = world.sim.clone();
        let (cache, writer) = LocationCache::new(1 << 20, 7);
        let trust = world.setting.trust;
        let locations = if trust == Trust::Exact { Locations::Exact(writer) } else { Locations::memory(writer) };
        let tenure = Arc::new(Tenure::default());
        let epoch = Cell::new(world.restores.noticed.get());
        let store = FaultyStore { world: world.clone(), tenure: Arc::clone(&tenure), epoch };
        let limits = DeskLimits::default();
        // Short, or the store's outages would leave no time for anything to go wrong.
        let breaker = BreakerSettings { open_timeout: Duration::from_millis(300), ..limits.breaker };
        // Few wait here.
        let limits = DeskLimits { breaker, beside_changes_min: Some(1), ..limits };
        let desk = Rc::new(Desk::new(store, sim.clone(), sim.clone(), limits, locations));
        let (calls, inbox) = local(Some(cache));
        let now = sim.clone();
        let calls = calls.knowing(desk.state()).trusting(trust, move || now.tick());
        let running = desk.clone();
        sim.spawn(group, async move { running.run(inbox).await });
        super::recovery::before_registering(&world, &calls).await;
        let registered = register(&world, &calls).await;
        world.recovered();

        begin_term(&world, &tenure, &registered);

        let names: Vec<BackendName> = world.backends.iter().map(|backend| backend.name.clone()).collect();
        let board = Arc::new(Board::new(world.view.backends.iter().map(|one| one.quota_bytes)));
        desk.show_on(board.clone(), names.clone());
        let standing = Arc::new(Standing::new(names.len()));
        for backend in &world.backends {
            let good = backend.flavour == Flavour::GoodEndpoint;
            let facts = BackendFacts {
                measured: true,
                verifies_sha256: good,
                etag_is_md5: good,
                copies: good,
                delete_removes: true,
                ..BackendFacts::default()
            };
            standing.set_usable(backend.index, true);
            standing.set_facts(backend.index, &facts);
        }
        operations::take_over(&world, &standing, &registered.draining);
        let rung = Arc::new(AtomicBool::new(false));
        let rings = Arc::clone(&rung);
        let metered = world.view.backends.iter().map(|backend| (&backend.name, &backend.budget));
        let budgets = Arc::new(Budgets::new(metered, Box::new(move || rings.store(true, Ordering::Relaxed))));
        let held = Arc::new(Held::default());
        let instance = Rc::new_cyclic(|this| Self {
            meta: SimMeta { desk: calls, world: world.clone(), held: Arc::clone(&held) },
            group,
            alive: Cell::new(true),
            board,
            health: Health::new(names.len(), Arc::clone(&standing)),
            standing,
            budgets,
            rung,
            period: RefCell::new(date::month(world.calendar())),
            cells: CoreCells::new("0", names),
            searched: Searched::default(),
            held,
            tenure,
            wanted: [Cell::new(true), Cell::new(true)],
            this: this.clone(),
            world,
        });
        if instance.world.setting.restored {
            sim.spawn(group, instance.clone().keep_lease());
        }
        sim.spawn(group, instance.clone().clean_up());
        sim.spawn(group, instance.clone().replicate());
        if instance.world.setting.metered {
            sim.spawn(group, instance.clone().lend());
        }
        sim.spawn(group, instance.clone().end_stale_uploads());
        if instance.world.setting.operated {
            sim.spawn(group, instance.clone().work_for_operators());
        }
        if instance.world.setting.mutant != Mutant::NoSweep {
            sim.spawn(group, instance.clone().sweep());
        }
        instance
    }

    /// Every task of the run ends where it stands.
    pub fn crash(&self) {
        self.alive.set(false);
        self.world.counts.add(&self.cells);
        self.world.sim.kill(self.group);
    }

    async fn clean_up(self: Rc<Self>) {
        loop {
            self.until_wanted(Worker::Cleanup, Duration::from_millis(400)).await;
            while let Ok(cleanup::Report { more: true, .. }) = cleanup::pass(&*self).await {}
        }
    }

    async fn lend(self: Rc<Self>) {
        let mut lender = Lender::new(Arc::clone(&self.budgets), self.world.calendar());
        let mut occasion = Occasion::Regular;
        while lender.has_work() {
            let now = self.world.calendar();
            *self.period.borrow_mut() = date::month(now);
            // Whoever waits is told; the next round asks again.
            let _ = lender.run(&self.meta, self.incarnation(), occasion, (self.world.sim.tick(), now), Vec::new).await;
            let since = self.world.sim.tick();
            occasion = Occasion::Regular;
            while self.world.sim.tick().since(since) < Duration::from_millis(250) {
                if self.rung.swap(false, Ordering::Relaxed) {
                    occasion = Occasion::Rung;
                    break;
                }
                self.world.sim.sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Takes a call from the budget of its backend, as a reactor's account does.
    async fn pay(&self, model: &Model, call: BackendCall) -> Result<(), Failure> {
        if !self.budgets.is_metered(model.index) {
            return Ok(());
        }
        match self.budgets.admit(&self.world.sim, model.index, &Spend::call(call)).await {
            Ok(_) => {
                self.world.admitted(&self.period.borrow());
                Ok(())
            }
            Err(Denied::Unanswered) => Err(Failure::metadata("nothing was lent")),
            Err(Denied::HeldBack) => Err(Failure::new(
                Kind::Overloaded,
                Blame::Ourselves,
                Retry::OtherBackend,
                "the rest is kept for others",
            )),
            Err(Denied::Spent) => {
                count(&self.world.counts.over_budget);
                let kind = if call.is_read() { Kind::ReadBudget } else { Kind::WriteBudget };
                Err(Failure::new(kind, Blame::Ourselves, Retry::OtherBackend, "the month is spent"))
            }
        }
    }

    async fn replicate(self: Rc<Self>) {
        loop {
            self.until_wanted(Worker::Replicate, Duration::from_millis(2_500)).await;
            // A pass that failed is run again at the next interval.
            let _ = replicate::pass(&*self).await;
        }
    }

    async fn sweep(self: Rc<Self>) {
        let mut sweep = recover::Sweep::default();
        loop {
            // Three times as long as the desk lets callers wait.
            self.world.sim.sleep(Duration::from_millis(6_000)).await;
            let swept = sweep.pass(&*self).await.unwrap_or_default();
            let counts = &self.world.counts;
            counts.swept.set(counts.swept.get() + swept.blobs);
            counts.swept_parts.set(counts.swept_parts.get() + swept.parts);
        }
    }

    async fn end_stale_uploads(self: Rc<Self>) {
        loop {
            self.world.sim.sleep(Duration::from_secs(1)).await;
            let ended = stale_uploads::pass(&*self).await.map_or(0, |report| report.aborted);
            self.world.counts.stale_uploads.set(self.world.counts.stale_uploads.get() + ended);
        }
    }

    /// Until somebody wakes this worker, or its interval has passed.
    async fn until_wanted(&self, worker: Worker, interval: Duration) {
        let since = self.world.sim.tick();
        while !self.wanted[place_of(worker)].replace(false) && self.world.sim.tick().since(since) < interval {
            self.world.sim.sleep(Duration::from_millis(20)).await;
        }
    }

    fn model(&self, backend: &BackendName) -> &Model {
        let index = self.world.view.backend_index(backend).expect("rows name configured backends");
        &self.world.backends[index]
    }

    /// What a core learns of a backend from an answer, or from none.
    fn noted<T>(&self, model: &Model, result: Result<T, Failure>) -> Result<T, Failure> {
        match &result {
            Err(failure) if failure.blame == Blame::Backend && failure.kind == Kind::Unavailable => {
                let now = self.world.sim.tick();
                self.health.failed(model.index, now, now, self.world.sim.roll());
            }
            _ => {
                let now = self.world.sim.tick();
                self.health.answered(model.index, Duration::from_millis(2), now);
                self.health.succeeded(model.index, now, now);
            }
        }
        result
    }
}

fn place_of(worker: Worker) -> usize {
    match worker {
        Worker::Cleanup => 0,
        Worker::Replicate => 1,
    }
}

impl Ports for Instance {
    type Meta = SimMeta;
    type Clock = Sim;
    type Dice = Sim;

    fn meta(&self) -> &SimMeta {
        &self.meta
    }

    fn clock(&self) -> &Sim {
        &self.world.sim
    }

    fn dice(&self) -> &Sim {
        &self.world.sim
    }

    fn view(&self) -> &View {
        &self.world.view
    }

    fn registry(&self) -> Rc<Published> {
        self.world.registry.clone()
    }

    async fn buckets_known(&self, _generation: u64) -> Result<(), Failure> {
        Ok(()) // nobody makes buckets here
    }

    fn board(&self) -> &Board {
        &self.board
    }

    fn standing(&self) -> &Standing {
        &self.standing
    }

    fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    fn health(&self) -> &Health {
        &self.health
    }

    fn searched(&self) -> &Searched {
        &self.searched
    }

    fn cells(&self) -> &CoreCells {
        &self.cells
    }

    fn incarnation(&self) -> Incarnation {
        self.tenure.incarnation()
    }

    fn mandate(&self) -> Mandate {
        self.tenure.mandate(self.world.sim.tick(), self.view().write_path.lease)
    }

    fn held(&self) -> &Held {
        &self.held
    }

    fn end_later(&self, end: Change) {
        if !self.alive.get() {
            return; // a dead process ends nothing
        }
        let end = match (self.world.setting.mutant, end) {
            (Mutant::NoSettleTime, Change::AbandonWrite(mut abandon)) => {
                abandon.given_up.may_appear = false;
                abandon.into()
            }
            (Mutant::CleanupByKey, Change::AbandonWrite(abandon)) => {
                self.world.erase_key_of(abandon.given_up.blob);
                abandon.into()
            }
            (_, end) => end,
        };
        let this = self.this.upgrade().expect("a live instance");
        self.world.sim.spawn(self.group, async move { recover::end(&*this, end).await });
    }

    fn wake(&self, worker: Worker) {
        self.wanted[place_of(worker)].set(true);
    }
}

impl Backends for Instance {
    type Source = Source;
    type Sink = Sink;

    async fn open(&self, blob: &BlobAt, size: u64, span: Span) -> Result<Source, Failure> {
        let model = self.model(&blob.backend);
        self.pay(model, BackendCall::Get).await?;
        self.noted(model, model.open(&blob.name, size, span.from, span.len).await)
    }

    async fn create(&self, put: Put<'_>) -> Result<Sink, Failure> {
        self.may_write(put.incarnation)?;
        self.tell_world(&put);
        let model = self.model(&put.blob.backend);
        self.pay(model, BackendCall::Put).await?;
        self.noted(model, model.create(put).await)
    }

    async fn finish(&self, sink: Sink) -> Result<Stored, Failure> {
        self.may_write(sink.writer)?;
        sink.finish().await
    }

    async fn discard(&self, sink: Sink) {
        drop(sink);
        self.world.sim.pause().await;
    }

    async fn put_bytes(&self, put: Put<'_>, body: &[u8]) -> Result<Stored, Failure> {
        self.may_write(put.incarnation)?;
        self.tell_world(&put);
        let model = self.model(&put.blob.backend);
        self.pay(model, BackendCall::Put).await?;
        self.noted(model, model.put_bytes(put, body).await)
    }

    async fn copy(&self, mut source: Source, sink: &mut Sink, check: &mut BodyCheck) -> Moved {
        let mut bytes = 0;
        loop {
            let piece = match source.pull(piece_bytes(source.len())) {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(failure) => return Moved { bytes, end: MoveEnd::Source(failure) },
            };
            check.update(&piece);
            if let Err(failure) = sink.push(&piece) {
                return Moved { bytes, end: MoveEnd::Sink(failure) };
            }
            bytes += piece.len() as u64;
            self.world.sim.sleep(Duration::from_micros(100)).await;
        }
        Moved { bytes, end: check.end(None).map_or_else(MoveEnd::Refused, |()| MoveEnd::Done) }
    }

    async fn copy_within(&self, from: &BlobAt, size: u64, span: Span, put: Put<'_>) -> Result<Stored, Failure> {
        let mut source = self.open(from, size, span).await?;
        let mut body = Vec::new();
        while let Some(piece) = source.pull(piece_bytes(source.len()))? {
            body.extend_from_slice(&piece);
        }
        self.put_bytes(put, &body).await
    }

    async fn delete(&self, blob: &BlobAt, mandate: Mandate) -> Result<(), Failure> {
        self.may_delete(mandate)?;
        self.world.deletes(&blob.name, mandate);
        let model = self.model(&blob.backend);
        self.budgets.charge(model.index, &Spend::call(BackendCall::Delete));
        self.noted(model, model.delete(&blob.name).await)
    }

    async fn head(&self, blob: &BlobAt) -> Result<Option<BlobHead>, Failure> {
        let model = self.model(&blob.backend);
        self.pay(model, BackendCall::Head).await?;
        let found = self.noted(model, model.head(&blob.name).await)?;
        let record = self.world.records.borrow().get(&blob.name).cloned().unwrap_or_default();
        // Only beside the bytes of a hashed name.
        let key = blob_name::hash_in(&blob.name).and_then(|_| self.world.key_of(&record));
        let key = key.map(|(_, key)| key.as_str().to_owned());
        Ok(found.map(|head| BlobHead { record, key, ..head }))
    }

    async fn create_upload(&self, blob: &BlobAt, luggage: Luggage<'_>) -> Result<String, Failure> {
        self.world.records.borrow_mut().insert(blob.name.clone(), luggage.record.clone());
        let model = self.model(&blob.backend);
        self.pay(model, BackendCall::CreateUpload).await?;
        self.noted(model, model.create_upload(&blob.name).await)
    }

    async fn complete_upload(&self, blob: &BlobAt, id: &str, parts: &[PartRecord]) -> Result<Stored, Failure> {
        let model = self.model(&blob.backend);
        self.pay(model, BackendCall::CompleteUpload).await?;
        self.noted(model, model.complete_upload(&blob.name, id, parts).await)
    }

    async fn abort_uploads(&self, blob: &BlobAt, _known: &str, mandate: Mandate) -> Result<(), Failure> {
        self.may_delete(mandate)?;
        self.world.deletes(&blob.name, mandate);
        let model = self.model(&blob.backend);
        self.noted(model, model.abort_uploads(&blob.name).await)
    }

    async fn list(&self, backend: &BackendName, prefix: &str, after: &str) -> Result<BlobPage, Failure> {
        let model = self.model(backend);
        let objects = self.noted(model, model.list().await)?;
        let blobs = objects.into_iter().filter(|(name, _)| name.starts_with(prefix) && name.as_str() > after);
        Ok(BlobPage { blobs: blobs.collect(), next: None })
    }

    async fn unfinished(&self, backend: &BackendName) -> Result<Vec<Unfinished>, Failure> {
        let model = self.model(backend);
        self.noted(model, model.unfinished().await)
    }

    async fn remove_unfinished(&self, backend: &BackendName, path: &str, mandate: Mandate) -> Result<(), Failure> {
        self.may_delete(mandate)?;
        let model = self.model(backend);
        self.noted(model, model.remove_unfinished(path).await)
    }
}

impl Instance {
    fn tell_world(&self, put: &Put<'_>) {
        if let PutTarget::Object(Luggage { record, .. }) = put.target {
            self.world.records.borrow_mut().insert(put.blob.name.clone(), record.clone());
        }
    }
}
