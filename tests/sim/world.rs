//! Everything that outlives one run of the instance: the backends, the database, what clients know, and the checks that
//! look at all of it after every change.

use super::backend::{Backend, Effect, Faults, Flavour};
use super::counts::Counts;
use super::executor::Sim;
use super::history::{Answer as Told, Call, KeyHistory};
use super::instance::Instance;
use super::mutant::Mutant;
use super::removal::Removals;
use super::restore::{Before, Restores};
use super::store::StoreFaults;
use s3_orchestrator::base::{BlobId, Clock, Incarnation, Nonce, Timestamp, Version};
use s3_orchestrator::config::registry::Published;
use s3_orchestrator::config::{Registry, View};
use s3_orchestrator::store::location_cache::Trust;
use s3_orchestrator::store::memory::MemoryStore;
use s3_orchestrator::store::port::*;
use s3_orchestrator::store::record::{BlobAt, BlobState, Located, ObjectRecord};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
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
    pub store: RefCell<Rc<MemoryStore<Sim>>>,
    /// For a mutant: what its store has synced.
    pub store_synced: RefCell<Option<MemoryStore<Sim>>>,
    pub store_faults: Cell<StoreFaults>,
    pub store_away_until_nanos: Cell<u64>,
    pub instance: RefCell<Option<Rc<Instance>>>,
    /// Clients end when they see it.
    pub stopping: Cell<bool>,
    pub histories: RefCell<BTreeMap<&'static str, KeyHistory>>,
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
    pub blob_names: RefCell<BTreeMap<BlobId, BlobAt>>,
    /// Months since the start.
    pub month: Cell<u32>,
    /// Calls to `b0` that the budget had to admit, by month.
    admitted: RefCell<BTreeMap<String, u64>>,
    pub last_incarnation: Cell<Option<Incarnation>>,
    pub charged: RefCell<Vec<u64>>,
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

    /// What the database says of a key, whether it can be asked or not.
    pub fn located(&self, bucket: &str, key: &str) -> Option<Located> {
        let query = Query::Lookup { bucket: bucket.to_owned(), key: key.to_owned() };
        match now(self.store().query(query)) {
            Ok(Answer::Lookup(located)) => located,
            _ => None,
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
