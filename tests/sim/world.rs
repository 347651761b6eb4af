//! Everything that outlives one run of the instance: the backends, the database, what clients know, and the checks that
//! look at all of it after every change.

use super::backend::{Backend, Effect, Faults, Flavour};
use super::executor::Sim;
use super::history::{Answer as Told, Call, KeyHistory};
use super::instance::Instance;
use super::mutant::Mutant;
use super::removal::Removals;
use super::restore::{Before, Restores};
use super::store::StoreFaults;
use s3_orchestrator::base::{BackendName, BlobId, BucketName, Incarnation, Nonce, ObjectKey, Version};
use s3_orchestrator::base::{Clock, Timestamp};
use s3_orchestrator::config::registry::Published;
use s3_orchestrator::config::{Registry, View};
use s3_orchestrator::observe::cells::CoreCells;
use s3_orchestrator::store::location_cache::Trust;
use s3_orchestrator::store::memory::MemoryStore;
use s3_orchestrator::store::port::*;
use s3_orchestrator::store::record::{BlobAt, BlobState, Located, ObjectRecord};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

pub const BUCKET: &str = "bkt";
pub const KEYS: [&str; 5] = ["a", "b/c", "d", "e//f", "g"];
/// The user metadata that says which write a body is from.
pub const VALUE_NAME: &str = "value";
/// User metadata that every write carries, to see that nothing is lost on the way.
pub const MARK: (&str, &str) = ("mark", "kept");

/// Requests that `b0` may be asked for in a month, deletes apart, and how long a month is here.
pub const MONTH_CALLS: u64 = 24;
pub const MONTH: Duration = Duration::from_millis(4_000);
/// In peace nobody should have to wait for the next.
pub const MONTH_IN_PEACE: Duration = Duration::from_millis(100);

/// Short where `sync` waits for the end of one.
const RESTORED_LEASE: &str = "2s";

/// A bound on the location cache: with one instance at a time nothing is ever stale.
const STALENESS: Duration = Duration::from_secs(1);

const STORY_LINES: usize = 4_000;

/// What a seed decides about a whole run.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub seed: u64,
    pub mutant: Mutant,
    pub factor: u32,
    /// What of the location cache is answered.
    pub trust: Trust,
    pub spread: bool,
    pub quota_bytes: u64,
    /// Batches that the store bears at the same time.
    pub in_flight: usize,
    /// Whether `b0` has a monthly limit.
    pub metered: bool,
    /// Whether the instance is killed now and then. If not, what it forgets to end is still there when all is quiet.
    pub killed: bool,
    /// Whether operators drain, compare and hold.
    pub operated: bool,
    /// Whether the database is put back to older dumps of itself.
    pub restored: bool,
    /// Keep a story of what happens.
    pub told: bool,
}

impl Setting {
    pub fn of(seed: u64, mutant: Mutant) -> Self {
        let pick = Sim::new(seed ^ 0xa5a5);
        Self {
            seed,
            mutant,
            factor: 1 + pick.below(2) as u32,
            trust: match (pick.chance(500), seed % 2) {
                (true, _) => Trust::Exact,
                (false, 0) => Trust::Nothing,
                (false, _) => Trust::Within(STALENESS),
            },
            spread: pick.chance(500),
            in_flight: 1 + (seed % 3) as usize,
            quota_bytes: [60_000, 700_000, 4_000_000][pick.below(3) as usize],
            killed: pick.chance(700),
            metered: match mutant {
                Mutant::None => pick.chance(500),
                other => other == Mutant::DeadLeasesLentAgain,
            },
            operated: match mutant {
                Mutant::None => pick.chance(500),
                other => other.is_of_removal(),
            },
            restored: false,
            told: false,
        }
    }

    /// The database is put back now and then; operators are there to look after what is left.
    pub fn restored(seed: u64, mutant: Mutant) -> Self {
        let trust = |trust| if seed.is_multiple_of(2) { Trust::Nothing } else { trust };
        let any = Self::of(seed, mutant);
        // Months go by another clock than what the store holds in doubt.
        Self { restored: true, operated: true, metered: false, trust: trust(any.trust), ..any }
    }

    /// Short enough for a run, in the same order of size as the real ones.
    pub fn rules(&self) -> Rules {
        Rules {
            grace: Duration::from_millis(1_500),
            settle: Duration::from_millis(10_000),
            retry_first: Duration::from_millis(100),
            retry_max: Duration::from_millis(1_000),
            attempts_max: 1_000,
        }
    }

    fn view(&self) -> View {
        let strategy = if self.spread { "spread" } else { "pack" };
        let limit = if self.metered { MONTH_CALLS } else { 0 };
        let endpoint = |name: &str, unsigned: bool, limit: u64| {
            format!(
                "  - name: {name}\n    endpoint: http://127.0.0.1:9\n    bucket: {name}\n    access_key_id: k\n    \
                 secret_access_key: s\n    quota_bytes: {}\n    unsigned_payload: {unsigned}\n    \
                 api_request_limit: {limit}\n",
                self.quota_bytes
            )
        };
        let text = format!(
            "server:\n  listen_addr: 127.0.0.1:9\ndatabase:\n  driver: sqlite\n  path: x.db\nbuckets:\n  - name: {BUCKET}\n    credentials:\n      \
             - access_key_id: k\n        secret_access_key: s\nrouting_strategy: {strategy}\nreplication:\n  \
             factor: {}\n  concurrency: 3\ncleanup_queue:\n  multipart_stale_timeout: 16s\n\
             write_path:\n  lease: {}\n  multipart:\n    enforce_min_part_size: false\nbackends:\n\
             {}{}  - name: b2\n    directory: d\n    quota_bytes: {}\n",
            self.factor,
            if self.restored { RESTORED_LEASE } else { "10s" },
            endpoint("b0", false, limit),
            endpoint("b1", true, 0),
            self.quota_bytes
        );
        let checked = s3_orchestrator::config::from_text(&text, Path::new("/nowhere"), &|_| None);
        View::new(checked.unwrap_or_else(|problems| panic!("{problems}")).config)
    }
}

pub struct World {
    pub sim: Sim,
    pub setting: Setting,
    pub view: Rc<View>,
    pub registry: Rc<Published>,
    pub backends: Vec<Rc<Backend>>,
    store: RefCell<Rc<MemoryStore<Sim>>>,
    /// For a mutant: what its store has synced.
    pub store_synced: RefCell<Option<MemoryStore<Sim>>>,
    pub store_faults: Cell<StoreFaults>,
    pub store_away_until_nanos: Cell<u64>,
    pub instance: RefCell<Option<Rc<Instance>>>,
    /// Clients end when they see it.
    pub stopping: Cell<bool>,
    histories: RefCell<BTreeMap<&'static str, KeyHistory>>,
    operations: Cell<u64>,
    /// Which operation writes which value, to which key, of which size.
    pub values: RefCell<BTreeMap<u64, Written>>,
    pub etags: RefCell<BTreeMap<String, u64>>,
    /// What was put to be copied, as targets.
    pub sources: RefCell<Vec<String>>,
    pub removals: Removals,
    pub restores: Restores,
    /// The operation whose task is being polled.
    pub serving: Cell<u64>,
    /// Which operation begins with which nonce.
    nonces: RefCell<BTreeMap<String, u64>>,
    /// When each version was minted.
    minted: RefCell<BTreeMap<Version, u64>>,
    /// For mutants: what was about to be written under a blob's name.
    pub records: RefCell<BTreeMap<String, ObjectRecord>>,
    /// For mutants: where a blob was to be, whose row was taken away.
    pub unnamed: RefCell<BTreeMap<BlobId, BlobAt>>,
    blob_names: RefCell<BTreeMap<BlobId, BlobAt>>,
    /// Months since the start.
    pub month: Cell<u32>,
    /// Calls to `b0` that the budget had to admit, by month.
    admitted: RefCell<BTreeMap<String, u64>>,
    pub last_incarnation: Cell<Option<Incarnation>>,
    charged: RefCell<Vec<u64>>,
    /// Names and sizes of live blobs, by backend.
    live: RefCell<Vec<BTreeMap<String, u64>>>,
    violation: RefCell<Option<String>>,
    /// The last things that happened, when somebody wants to read them.
    story: RefCell<VecDeque<String>>,
    pub counts: Counts,
}

#[derive(Clone, Debug)]
pub struct Written {
    pub key: &'static str,
    pub operation: u64,
    pub size: usize,
}

/// How much of what happened, to see that a run was not idle.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub acknowledged_writes: Cell<u64>,
    pub unknown_writes: Cell<u64>,
    pub reads: Cell<u64>,
    pub cut_bodies: Cell<u64>,
    pub degraded_reads: Cell<u64>,
    pub degraded_absences: Cell<u64>,
    pub resumed_bodies: Cell<u64>,
    pub failed_over: Cell<u64>,
    pub copies: Cell<u64>,
    pub crashes: Cell<u64>,
    pub no_room: Cell<u64>,
    pub conflicts: Cell<u64>,
    pub completed_uploads: Cell<u64>,
    pub stale_uploads: Cell<u64>,
    pub object_copies: Cell<u64>,
    pub over_budget: Cell<u64>,
    pub swept: Cell<u64>,
    pub swept_parts: Cell<u64>,
    pub drained: Cell<u64>,
    pub compared: Cell<u64>,
    pub removed: Cell<u64>,
    pub removed_objects: Cell<u64>,
    pub adopted: Cell<u64>,
    pub restored: Cell<u64>,
    pub restored_running: Cell<u64>,
    pub restored_compared: Cell<u64>,
    pub objects_back: Cell<u64>,
    pub objects_gone: Cell<u64>,
}

impl Counts {
    pub fn all(&self) -> [(&'static str, u64); 28] {
        [
            ("acknowledged writes", &self.acknowledged_writes),
            ("unknown writes", &self.unknown_writes),
            ("reads", &self.reads),
            ("cut bodies", &self.cut_bodies),
            ("reads without the database", &self.degraded_reads),
            ("keys found to be absent without it", &self.degraded_absences),
            ("resumed bodies", &self.resumed_bodies),
            ("reads from another copy", &self.failed_over),
            ("copies", &self.copies),
            ("crashes", &self.crashes),
            ("no room", &self.no_room),
            ("conflicts", &self.conflicts),
            ("completed uploads", &self.completed_uploads),
            ("stale uploads", &self.stale_uploads),
            ("object copies", &self.object_copies),
            ("calls over budget", &self.over_budget),
            ("reservations swept", &self.swept),
            ("parts in flight swept", &self.swept_parts),
            ("drained backends", &self.drained),
            ("comparisons", &self.compared),
            ("removed backends", &self.removed),
            ("objects removed with them", &self.removed_objects),
            ("objects adopted", &self.adopted),
            ("restored databases", &self.restored),
            ("restored under a running instance", &self.restored_running),
            ("restored databases compared", &self.restored_compared),
            ("objects that are back", &self.objects_back),
            ("objects whose bytes were gone", &self.objects_gone),
        ]
        .map(|(name, cell)| (name, cell.get()))
    }

    /// What a run of the instance has counted itself.
    pub fn add(&self, cells: &CoreCells) {
        for (total, more) in [
            (&self.resumed_bodies, cells.read_resumes.value()),
            (&self.failed_over, cells.read_failovers.value()),
            (&self.copies, cells.replication_copies_created.value()),
        ] {
            total.set(total.get() + more);
        }
    }
}

pub fn count(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

impl World {
    pub fn new(setting: Setting) -> Rc<Self> {
        let sim = Sim::new(setting.seed);
        let flavours = [Flavour::GoodEndpoint, Flavour::PoorEndpoint, Flavour::Directory];
        let backends: Vec<Rc<Backend>> =
            flavours.into_iter().enumerate().map(|(index, flavour)| Backend::new(&sim, index, flavour)).collect();
        let world = Rc::new(Self {
            registry: Published::new(Arc::new(Registry::new(&setting.view(), 0, []))),
            view: Rc::new(setting.view()),
            store: RefCell::new(Rc::new(MemoryStore::new(sim.clone(), setting.rules()))),
            store_synced: RefCell::default(),
            store_faults: Cell::new(StoreFaults::SOME),
            store_away_until_nanos: Cell::new(0),
            instance: RefCell::new(None),
            stopping: Cell::new(false),
            histories: RefCell::new(KEYS.into_iter().map(|key| (key, KeyHistory::new(key))).collect()),
            operations: Cell::new(0),
            values: RefCell::default(),
            etags: RefCell::default(),
            sources: RefCell::default(),
            removals: Removals::default(),
            restores: Restores::default(),
            serving: Cell::new(0),
            nonces: RefCell::default(),
            minted: RefCell::default(),
            unnamed: RefCell::default(),
            blob_names: RefCell::default(),
            month: Cell::new(0),
            admitted: RefCell::default(),
            last_incarnation: Cell::new(None),
            records: RefCell::default(),
            charged: RefCell::new(vec![0; backends.len()]),
            live: RefCell::new(vec![BTreeMap::new(); backends.len()]),
            violation: RefCell::default(),
            story: RefCell::default(),
            counts: Counts::default(),
            sim,
            setting,
            backends,
        });
        for backend in &world.backends {
            let weak = Rc::downgrade(&world);
            backend.faults.set(if setting.restored { Faults::FEW } else { Faults::SOME });
            backend.names_reused.set(setting.mutant == Mutant::NamesReused);
            backend.never_syncs.set(setting.mutant == Mutant::NoSyncDirectory);
            backend.watched_by(Rc::new(move |index, place, effect| {
                if let Some(world) = weak.upgrade() {
                    world.bytes_changed(index, place, effect);
                }
            }));
        }
        world
    }

    /// The clock that months are counted by.
    pub fn calendar(&self) -> Timestamp {
        self.sim.now().plus(Duration::from_secs(31 * 24 * 3600) * self.month.get())
    }

    /// Months come and go, and faster in peace.
    pub async fn turn_months(self: Rc<Self>) {
        loop {
            self.sim.sleep(if self.stopping.get() { MONTH_IN_PEACE } else { MONTH }).await;
            self.month.set(self.month.get() + 1);
        }
    }

    /// I6: a call to `b0` was admitted in this month, on behalf of whichever run of the instance.
    pub fn admitted(&self, month: &str) {
        let so_far = {
            let mut admitted = self.admitted.borrow_mut();
            let so_far = admitted.entry(month.to_owned()).or_default();
            *so_far += 1;
            *so_far
        };
        if so_far > MONTH_CALLS {
            self.violated("I6 (a budget is never overshot)", format!("call {so_far} of {month}"));
        }
    }

    /// The database as it is now.
    pub fn store(&self) -> Rc<MemoryStore<Sim>> {
        self.store.borrow().clone()
    }

    /// The power goes: what was not synced is lost. What the store has applied it has synced, unless a mutant does not.
    pub fn power_lost(&self) {
        self.backends.iter().for_each(|backend| backend.power_lost());
        if let Some(synced) = self.store_synced.borrow_mut().take() {
            *self.store.borrow_mut() = Rc::new(synced);
        }
    }

    /// One line of the run's story, if it is told.
    pub fn tell(&self, line: impl FnOnce() -> String) {
        if !self.setting.told || self.violation.borrow().is_some() {
            return;
        }
        let mut story = self.story.borrow_mut();
        if story.len() == STORY_LINES {
            story.pop_front();
        }
        story.push_back(format!("{:>12.6} s  {}", self.sim.now_nanos() as f64 / 1e9, line()));
    }

    pub fn story(&self) -> String {
        self.story.borrow().iter().fold(String::new(), |all, line| all + line + "\n")
    }

    pub fn violated(&self, invariant: &str, story: String) {
        let at = self.sim.now_nanos() as f64 / 1e9;
        self.violation.borrow_mut().get_or_insert_with(|| format!("{invariant} at {at:.6} s: {story}"));
    }

    pub fn violation(&self) -> Option<String> {
        self.violation.borrow().clone()
    }

    // ---- what clients see ----

    pub fn new_operation(&self) -> u64 {
        self.operations.set(self.operations.get() + 1);
        self.operations.get()
    }

    pub fn called(&self, key: &'static str, operation: u64, call: Call) {
        let mut histories = self.histories.borrow_mut();
        histories.get_mut(key).expect("a known key").called(self.sim.now_nanos(), operation, call);
    }

    /// I1, I2, I3: some order of all operations on the key explains this answer too.
    pub fn answered(&self, key: &'static str, operation: u64, told: Told) {
        let answered = {
            let mut histories = self.histories.borrow_mut();
            histories.get_mut(key).expect("a known key").answered(self.sim.now_nanos(), operation, told)
        };
        if let Err(story) = answered {
            self.violated("I1-I3 (linearizable per key)", story);
        }
    }

    /// The database is what it was once.
    pub fn put_back(&self, dump: MemoryStore<Sim>) {
        *self.store.borrow_mut() = Rc::new(dump);
        let Ok(Answer::Audit(books)) = now(self.store().query(Query::Audit)) else {
            panic!("the memory store did not answer the audit");
        };
        for book in books {
            if let Some(index) = self.view.backend_index(&BackendName::new(&book.name)) {
                self.charged.borrow_mut()[index] = book.charged.max(0) as u64;
            }
        }
        for (key, history) in self.histories.borrow_mut().iter_mut() {
            let value = self.located(BUCKET, key).and_then(|located| value_of(&located.record));
            history.restart(self.sim.now_nanos(), value);
        }
    }

    /// What an operator did to the key.
    pub fn operated_on(&self, key: &str, call: Call) {
        let (at, operation) = (self.sim.now_nanos(), self.new_operation());
        let done = match self.histories.borrow_mut().get_mut(key) {
            Some(history) => history.done(at, operation, call),
            None => Ok(()), // a source of a copy
        };
        if let Err(story) = done {
            self.violated("I1-I3 (linearizable per key)", story);
        }
    }

    /// A put's task asks for its begin with this nonce.
    pub fn begins(&self, nonce: Nonce) {
        self.nonces.borrow_mut().insert(nonce.as_str().to_owned(), self.serving.get());
    }

    /// The version of a value was minted: now, or when its first attempt was begun.
    fn begun(&self, value: u64, version: Version) {
        let at = *self.minted.borrow_mut().entry(version).or_insert(self.sim.now_nanos());
        if let Some(written) = self.values.borrow().get(&value) {
            let mut histories = self.histories.borrow_mut();
            histories.get_mut(written.key).expect("a known key").begun(written.operation, at);
        }
    }

    /// Recovery has run: what has no answer yet is decided.
    pub fn recovered(&self) {
        let now = self.sim.now_nanos();
        self.histories.borrow_mut().values_mut().for_each(|history| history.close_unknown(now));
    }

    // ---- what the store did ----

    pub fn applied(&self, changes: &[Change], applied: &Applied, before: &Before) {
        self.sim.event(changes.len() as u64);
        for (change, outcome) in changes.iter().zip(&applied.outcomes) {
            self.tell(|| format!("{change:?}\n        = {outcome:?}"));
            self.note_versions(change, outcome);
        }
        for (name, bytes) in &applied.charged {
            if let Some(index) = self.view.backend_index(name) {
                self.charged.borrow_mut()[index] = *bytes;
            }
        }
        self.operated(changes, applied);
        for (change, outcome) in changes.iter().zip(&applied.outcomes) {
            self.compared(before, change, outcome);
        }
        self.check_charges();
        if changes.iter().any(|change| change.alters().is_some()) {
            self.check_live();
        }
    }

    fn note_versions(&self, change: &Change, outcome: &Outcome) {
        match (change, outcome) {
            (Change::BeginWrite(begin), Outcome::BeginWrite(Ok(begun))) => {
                self.blob_names.borrow_mut().insert(begun.blob.id, begun.blob.clone());
                if let Some(&value) = self.nonces.borrow().get(begin.nonce.as_str()) {
                    self.begun(value, begun.version);
                }
            }
            (_, Outcome::StartComplete(Ok(CompleteStarted::Go { upload, version, .. }))) => {
                if let Some(value) = value_of(&upload.record) {
                    self.begun(value, *version);
                }
            }
            _ => {}
        }
    }

    /// I5: bytes charged >= bytes stored, and never above the quota.
    pub fn check_charges(&self) {
        for (backend, &charged) in self.backends.iter().zip(self.charged.borrow().iter()) {
            if backend.bytes() > charged && !self.restores.is_unsettled() {
                let name = backend.name.as_str();
                let (holds, rows, contents) = (backend.bytes(), self.rows(backend), backend.contents());
                let story = format!("{name} holds {holds} bytes, {charged} are charged\n{rows:#?}\n{contents:#?}");
                self.violated("I5 (charged >= stored)", story);
            }
            let found = self.removals.found_bytes(&backend.name);
            if charged > self.setting.quota_bytes + found {
                let story = format!("{} is charged {charged} of {}", backend.name.as_str(), self.setting.quota_bytes);
                self.violated("I5 (quota)", story);
            }
        }
    }

    /// I1, I4: every live row has its bytes.
    pub fn check_live(&self) {
        for backend in self.backends.iter().filter(|_| !self.restores.is_unsettled()) {
            let live: BTreeMap<String, u64> = self
                .rows(backend)
                .into_iter()
                .filter(|row| row.state == BlobState::Live)
                .map(|row| (row.blob.name, row.bytes))
                .collect();
            for (name, size) in &live {
                match backend.object(name) {
                    Some(object) if object.body.len() as u64 == *size => {}
                    Some(object) => {
                        let story =
                            format!("{name} on {} has {} of {size} bytes", backend.name.as_str(), object.body.len());
                        self.violated("I1 (a live row has its bytes)", story);
                    }
                    None => {
                        let story = format!("{name} on {} is not there", backend.name.as_str());
                        self.violated("I1 (a live row has its bytes)", story);
                    }
                }
            }
            self.live.borrow_mut()[backend.index] = live;
        }
    }

    pub fn rows(&self, backend: &Backend) -> Vec<BlobRow> {
        let mut rows = Vec::new();
        loop {
            let after = rows.last().map(|row: &BlobRow| row.blob.name.clone()).unwrap_or_default();
            match now(self.store().query(Query::Blobs { backend: backend.name.clone(), after, max: 1000 })) {
                Ok(Answer::Blobs(page)) if page.is_empty() => return rows,
                Ok(Answer::Blobs(page)) => rows.extend(page),
                other => panic!("the memory store answered {other:?}"),
            }
        }
    }

    // ---- what the backends did ----

    fn bytes_changed(&self, index: usize, place: &str, effect: Effect) {
        self.tell(|| format!("{effect:?} b{index} {place}: {} bytes in all", self.backends[index].bytes()));
        self.check_charges();
        if effect == Effect::Gone && !self.restores.is_unsettled() {
            let backend = &self.backends[index];
            let lost = self.live.borrow()[index].keys().find(|name| backend.place(name) == place).cloned();
            if let Some(name) = lost.filter(|_| backend.object_at(place).is_none()) {
                let story = format!("{name} on {} was deleted under a live row", backend.name.as_str());
                self.violated("I4 (nothing deletes what a live row names)", story);
            }
        }
    }

    // ---- the end ----

    /// I7: after quiescence copies match the policy, no orphan is left, and charges are bytes.
    pub fn check_quiescence(&self) {
        self.end_histories();
        let mut copies: BTreeMap<Version, (u32, u64)> = BTreeMap::new();
        for backend in &self.backends {
            let rows = self.rows(backend);
            let mut named: Vec<String> = rows.iter().map(|row| backend.place(&row.blob.name)).collect();
            let mut stored = backend.names();
            named.sort();
            stored.sort();
            if named != stored {
                let story = format!("{}: rows {rows:#?}\nnames {stored:#?}", backend.name.as_str());
                self.violated("I7 (rows are bytes)", story);
            }
            if let Some(row) = rows.iter().find(|row| row.state != BlobState::Live) {
                self.violated("I7 (nothing but live rows)", format!("{}: {row:?}", backend.name.as_str()));
            }
            let charged = self.charged.borrow()[backend.index];
            if charged != backend.bytes() {
                let story = format!("{} holds {} bytes, {charged} are charged", backend.name.as_str(), backend.bytes());
                self.violated("I7 (charges are bytes)", story);
            }
            for row in rows.iter().filter(|row| row.state == BlobState::Live) {
                let copy = copies.entry(row.version).or_default();
                (copy.0, copy.1) = (copy.0 + 1, row.bytes);
            }
        }
        for (version, (held, size)) in copies {
            if held < self.setting.factor && self.could_take_another(version, size) {
                self.violated("I7 (copies match the policy)", format!("{version:?} has {held} copies"));
            }
        }
        self.check_live_versions();
        self.check_books();
    }

    /// A live blob is one of its key's live version.
    fn check_live_versions(&self) {
        let lookup = |key: &str| Query::Lookup { bucket: BUCKET.to_owned(), key: key.to_owned() };
        let found = KEYS.iter().filter_map(|key| match now(self.store().query(lookup(key))) {
            Ok(Answer::Lookup(located)) => located,
            other => panic!("the memory store answered {other:?}"),
        });
        let of_keys: BTreeSet<String> = found.flat_map(|located| located.blobs).map(|blob| blob.name).collect();
        let rows = self.backends.iter().flat_map(|backend| self.rows(backend));
        let live: BTreeSet<String> = rows.filter(|row| row.state == BlobState::Live).map(|row| row.blob.name).collect();
        if of_keys != live {
            self.violated("I7 (live blobs are of live versions)", format!("rows {live:#?}\nkeys {of_keys:#?}"));
        }
    }

    fn end_histories(&self) {
        for history in self.histories.borrow_mut().values_mut() {
            if let Err(story) = history.end(self.sim.now_nanos()) {
                self.violated("I1-I3 (linearizable per key)", story);
            }
        }
    }

    /// The most explanations that any key's history had beside each other.
    pub fn widest(&self) -> usize {
        self.histories.borrow().values().map(KeyHistory::widest).max().unwrap_or(0)
    }

    fn could_take_another(&self, version: Version, size: u64) -> bool {
        self.backends.iter().any(|backend| {
            let has_one = self.rows(backend).iter().any(|row| row.version == version);
            !has_one && self.charged.borrow()[backend.index] + size <= self.setting.quota_bytes
        })
    }

    fn check_books(&self) {
        let Ok(Answer::Audit(books)) = now(self.store().query(Query::Audit)) else {
            panic!("the memory store did not answer the audit");
        };
        for book in books {
            if book.charged != book.rows_bytes as i64 || book.counters != book.counted {
                self.violated("I5 (books)", format!("{book:#?}"));
            }
        }
    }

    // ---- for mutants ----

    pub fn key_of(&self, record: &ObjectRecord) -> Option<(BucketName, ObjectKey)> {
        let values = self.values.borrow();
        let key = values.get(&value_of(record)?)?.key;
        Some((self.view.buckets[0].name.clone(), ObjectKey::parse(key)?))
    }

    /// Everything that this blob's backend holds for this blob's key.
    pub fn erase_key_of(&self, blob: BlobId) {
        let Some(at) = self.blob_names.borrow().get(&blob).cloned() else { return };
        let backend = &self.backends[self.view.backend_index(&at.backend).expect("configured")];
        let stem = at.name.rsplit_once('!').map_or("", |(stem, _)| stem);
        for (name, _) in backend.names_and_sizes() {
            if name.starts_with(&format!("{stem}!")) {
                backend.erase(&name);
            }
        }
    }

    pub fn erase_blob(&self, blob: BlobId) {
        for backend in &self.backends {
            if let Some(row) = self.rows(backend).into_iter().find(|row| row.blob.id == blob) {
                backend.erase(&row.blob.name);
            }
        }
    }

    /// What the database says of a key, whether it can be asked or not.
    pub fn located(&self, bucket: &str, key: &str) -> Option<Located> {
        let query = Query::Lookup { bucket: bucket.to_owned(), key: key.to_owned() };
        match now(self.store().query(query)) {
            Ok(Answer::Lookup(located)) => located,
            _ => None,
        }
    }

    pub fn erase_live(&self, bucket: &BucketName, key: &ObjectKey) {
        for blob in self.located(bucket.as_str(), key.as_str()).map(|located| located.blobs).unwrap_or_default() {
            self.backends[self.view.backend_index(&blob.backend).expect("configured")].erase(&blob.name);
        }
    }
}

/// The write that a record is of.
pub fn value_of(record: &ObjectRecord) -> Option<u64> {
    let (_, value) = record.user_metadata.iter().find(|(name, _)| name == VALUE_NAME)?;
    value.parse().ok()
}

/// The bytes of a value: its number, then noise that only it has.
pub fn body_of(value: u64, size: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(size + 8);
    let mut state = value.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    body.extend_from_slice(&value.to_le_bytes());
    while body.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        body.extend_from_slice(&state.to_le_bytes());
    }
    body.truncate(size);
    body
}

/// The result of a future that never waits.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a future of the memory store waits"),
    }
}
