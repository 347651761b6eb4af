//! One run of the product: the desk over the store, the ports of one core, the workers. It ends by a crash.

use super::backend::{Sink, Source};
use super::exchange::piece_bytes;
use super::executor::{Group, Sim};
use super::mutant::Mutant;
use super::operations;
use super::store::FaultyStore;
use super::world::{World, count};
use s3_orchestrator::backend::budget::{Budgets, Denied, Spend};
use s3_orchestrator::backend::health::Health;
use s3_orchestrator::backend::port::{
    Backends, BlobHead, BlobPage, MoveEnd, Moved, Put, PutTarget, Span, Stored, Unfinished,
};
use s3_orchestrator::backend::standing::Standing;
use s3_orchestrator::backend::travel::Luggage;
use s3_orchestrator::base::failure::Kind;
use s3_orchestrator::base::{
    BackendName, Blame, Clock, Dice, Failure, Incarnation, Mandate, Retry, Tenure, Tick, blob_name,
};
use s3_orchestrator::config::View;
use s3_orchestrator::config::registry::Published;
use s3_orchestrator::handlers::held::{Held, Own};
use s3_orchestrator::handlers::ports::{Ports, Worker};
use s3_orchestrator::handlers::searched::Searched;
use s3_orchestrator::observe::cells::CoreCells;
use s3_orchestrator::policy::breaker::BreakerSettings;
use s3_orchestrator::policy::usage::BackendCall;
use s3_orchestrator::proto::body_check::BodyCheck;
use s3_orchestrator::proto::date;
use s3_orchestrator::store::board::Board;
use s3_orchestrator::store::database_state::DatabaseState;
use s3_orchestrator::store::desk::{Desk, DeskLimits, LocalMetadata, Locations, local};
use s3_orchestrator::store::location_cache::{LocationCache, Trust};
use s3_orchestrator::store::port::*;
use s3_orchestrator::store::record::{BackendFacts, BlobAt, BlobState, Located, PartRecord};
use s3_orchestrator::workers::lend::{Lender, Occasion};
use s3_orchestrator::workers::{cleanup, recover, replicate, stale_uploads};
use std::cell::{Cell, RefCell};
use std::fmt::Debug;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::backend::Backend as Model;
use super::backend::Flavour;

/// Of a thousand begins, those whose tasks end before they hear of it.
const LOST_BEGINS: u64 = 10;
/// And of begins of parts, which end with their uploads if nothing else ends them.
const LOST_PART_BEGINS: u64 = 80;

pub struct Instance {
    pub world: Rc<World>,
    pub group: Group,
    alive: Cell<bool>,
    meta: SimMeta,
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
    tenure: Arc<Tenure>,
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

    /// Registers anew when the store has ended this run: the database was put back under it.
    async fn keep_lease(self: Rc<Self>) {
        loop {
            self.world.sim.sleep(Duration::from_millis(50)).await;
            if self.tenure.has_ended() {
                let registered = register(&self.world, &self.meta.desk).await;
                begin_term(&self.world, &self.tenure, &registered);
                self.world.recovered();
            }
        }
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
            let _ = lender.run(&self.meta, self.incarnation(), occasion, now, Vec::new).await;
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
                self.health.answered(model.index, Duration::from_millis(2));
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

/// Nobody ends it but a database that was put back.
fn begin_term(world: &World, tenure: &Tenure, registered: &Registered) {
    world.last_incarnation.set(Some(registered.incarnation));
    tenure.set_incarnation(registered.incarnation);
    tenure.renew(Tick { nanos: u64::MAX });
}

async fn register(world: &World, calls: &LocalMetadata) -> Registered {
    let backends = world.view.backends.iter();
    let backends = backends.map(|one| BackendLimit { name: one.name.clone(), bytes_limit: one.quota_bytes }).collect();
    let register = Register { deployment: "simulated".into(), backends };
    loop {
        match calls.step(register.clone()).await {
            Ok(Ok(registered)) => return registered,
            Ok(Err(refusal)) => panic!("registering was refused: {refusal:?}"),
            Err(_) => world.sim.sleep(Duration::from_millis(50)).await,
        }
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
    fn may_delete(&self, mandate: Mandate) -> Result<(), Failure> {
        let covers = self.tenure.covers(mandate, || self.world.sim.tick());
        if covers { Ok(()) } else { Err(Failure::metadata("that was decided too long ago")) }
    }

    fn may_write(&self, incarnation: Incarnation) -> Result<(), Failure> {
        let lasts = self.tenure.lasts_for(incarnation, || self.world.sim.tick());
        if lasts { Ok(()) } else { Err(Failure::metadata("this run's lease has passed")) }
    }

    fn tell_world(&self, put: &Put<'_>) {
        if let PutTarget::Object(Luggage { record, .. }) = put.target {
            self.world.records.borrow_mut().insert(put.blob.name.clone(), record.clone());
        }
    }
}

/// The desk as handlers hold it, with some of the mutants between.
pub struct SimMeta {
    desk: LocalMetadata,
    world: Rc<World>,
    held: Arc<Held>,
}

impl Metadata for SimMeta {
    async fn lookup(&self, bucket: &str, key: &str, into: &mut Located) -> Result<bool, Failure> {
        self.desk.lookup(bucket, key, into).await
    }

    fn recall(&self, bucket: &str, key: &str, into: &mut Located) -> bool {
        self.desk.recall(bucket, key, into)
    }

    fn database(&self) -> Option<&DatabaseState> {
        self.desk.database()
    }

    async fn query(&self, query: Query) -> Result<Answer, Failure> {
        match (self.world.setting.mutant, query) {
            (Mutant::ChargeFreedEarly, query @ Query::DueCleanups { .. }) => {
                let answer = self.desk.query(query).await?;
                if let Answer::DueCleanups(due) = &answer {
                    for one in due {
                        let _ = self.desk.step(CleanupDone { blob: one.blob.id, found: one.found }).await?;
                    }
                }
                Ok(answer)
            }
            (Mutant::ResumeOnAnotherVersion, Query::Copies { bucket, key, .. }) => {
                let found = self.desk.query(Query::Lookup { bucket, key }).await?;
                let Answer::Lookup(located) = found else { return Ok(found) };
                Ok(Answer::Copies(located.map(|located| located.blobs).unwrap_or_default()))
            }
            (Mutant::RemovalForgetsWrites, query @ Query::Blobs { .. }) => {
                let mut answer = self.desk.query(query).await?;
                if let Answer::Blobs(rows) = &mut answer {
                    rows.retain(|row| row.state != BlobState::Reserved);
                }
                Ok(answer)
            }
            (Mutant::DeletesWhileHeld, query @ Query::DueCleanups { .. }) => Ok(self.world.due_although_held(query)),
            (Mutant::SyncRevives, query @ Query::Blobs { .. }) => {
                let mut answer = self.desk.query(query).await?;
                if let Answer::Blobs(rows) = &mut answer {
                    rows.retain(|row| !was_live(&row.reason));
                }
                Ok(answer)
            }
            (_, query) => self.desk.query(query).await,
        }
    }

    async fn change(&self, change: Change) -> Result<Outcome, Failure> {
        if let Change::BeginWrite(begin) = &change {
            self.world.begins(begin.nonce);
        }
        match (self.world.setting.mutant, change) {
            (Mutant::BytesBeforeRow, Change::Delete(delete)) => {
                self.world.erase_live(&delete.bucket, &delete.key);
                self.desk.change(delete.into()).await
            }
            (Mutant::RemovalBytesBeforeRows, Change::DropCopy(drop)) => {
                self.world.erase_blob(drop.blob);
                self.desk.change(drop.into()).await
            }
            (Mutant::RemovalChargeFreedEarly, Change::DropCopy(drop)) => {
                let blob = drop.blob;
                let outcome = self.desk.change(drop.into()).await?;
                let found = self.world.sim.now().plus(Duration::from_secs(3_600));
                let _ = self.desk.step(CleanupDone { blob, found }).await?;
                Ok(outcome)
            }
            (Mutant::SyncRevives, Change::Adopt(adopt)) => {
                self.world.forget_ended(&adopt);
                self.desk.change(adopt.into()).await
            }
            (Mutant::NoIntent, Change::BeginWrite(begin)) => self.begin_without_row(begin).await,
            (Mutant::NoIntent, Change::CommitWrite(commit)) => self.commit_without_row(commit).await,
            (Mutant::DeadlockCleansUp, Change::CommitWrite(commit)) if self.world.sim.chance(50) => {
                let blob = commit.blobs[0].blob;
                self.world.erase_key_of(blob);
                Err(Failure::metadata("deadlock detected"))
            }
            (Mutant::DeadLeasesLentAgain, Change::LeaseBudgets(mut lease)) => {
                lease.incarnation = Incarnation(0);
                self.desk.change(lease.into()).await
            }
            (_, change @ (Change::BeginWrite(_) | Change::BeginCopy(_)))
                if !self.world.stopping.get() && self.world.sim.chance(LOST_BEGINS) =>
            {
                // The task ends before it hears of it.
                self.desk.change(change).await?;
                Err(Failure::metadata("the task has ended"))
            }
            (_, change @ Change::BeginPart(_))
                if !self.world.stopping.get() && self.world.sim.chance(LOST_PART_BEGINS) =>
            {
                self.desk.change(change).await?;
                Err(Failure::metadata("the task has ended"))
            }
            (_, Change::AbandonWrite(abandon)) if abandon.reason == WRITER_GONE => {
                self.must_not_be_held(Own::Blob(abandon.given_up.blob), &abandon);
                self.desk.change(abandon.into()).await
            }
            // Its task has let go of it before it asks for that.
            (_, Change::AbandonPart(abandon)) => {
                self.must_not_be_held(Own::Part(abandon.nonce), &abandon);
                self.desk.change(abandon.into()).await
            }
            (_, change) => self.desk.change(change).await,
        }
    }
}

impl SimMeta {
    fn must_not_be_held(&self, own: Own, given_up: &impl Debug) {
        if self.held.seen().is_some_and(|seen| seen.has(own)) {
            self.world.violated("I1 (a task's reservation is its own)", format!("{given_up:?}"));
        }
    }

    /// Takes the row away as soon as it is there.
    async fn begin_without_row(&self, begin: BeginWrite) -> Result<Outcome, Failure> {
        let incarnation = begin.incarnation;
        let outcome = self.desk.change(begin.into()).await?;
        if let Outcome::BeginWrite(Ok(begun)) = &outcome {
            let given_up = GivenUp { blob: begun.blob.id, may_appear: false };
            let _ = self.desk.step(AbandonWrite { incarnation, given_up, reason: "no intent".into() }).await?;
            let found = self.world.sim.now();
            let _ = self.desk.step(CleanupDone { blob: begun.blob.id, found }).await?;
            self.world.unnamed.borrow_mut().insert(begun.blob.id, begun.blob.clone());
        }
        Ok(outcome)
    }

    /// Writes the row when the bytes are there.
    async fn commit_without_row(&self, mut commit: CommitWrite) -> Result<Outcome, Failure> {
        let written = self.world.unnamed.borrow_mut().remove(&commit.blobs[0].blob);
        let Some(written) = written else { return self.desk.change(commit.into()).await };
        let model = &self.world.backends[self.world.view.backend_index(&written.backend).expect("configured")];
        let size = model.object(&written.name).map_or(0, |object| object.body.len() as u64);
        let begin = BeginWrite {
            incarnation: commit.incarnation,
            bucket: commit.bucket.clone(),
            in_stored: false,
            key: commit.key.clone(),
            size,
            candidates: vec![Candidate { backend: written.backend.clone(), literal: true }],
            condition: WriteCondition::default(),
            nonce: s3_orchestrator::base::Nonce::from_roll(self.world.sim.roll()),
            instead_of: None,
        };
        match self.desk.step(begin).await? {
            Ok(begun) => {
                model.rename(&written.name, &begun.blob.name);
                commit.blobs[0].blob = begun.blob.id;
                self.desk.change(commit.into()).await
            }
            Err(refusal) => Ok(Change::from(commit).refused(refusal)),
        }
    }
}
