//! A database that is put back to an older dump of itself while the backends go on as they are (PROTOCOL.md, "Rewound database").
//! From then on nothing may be deleted until `sync --restored` has compared every backend; then whatever was acknowledged and
//! has bytes is there. What was under way when it was put back may arrive later than `sync` has looked, so it runs once more when
//! all of that has arrived (docs/disaster-recovery.md), and from there on everything holds as before.

use super::backend::LATE_MAX;
use super::channel::oneshot;
use super::counts::count;
use super::executor::Sim;
use super::instance::Instance;
use super::mutant::Mutant;
use super::world::{BUCKET, KEYS, World, now, value_of};
use s3_orchestrator::base::{BackendName, BlobId, Clock, Dice, Mandate, Version};
use s3_orchestrator::store::memory::MemoryStore;
use s3_orchestrator::store::port::*;
use s3_orchestrator::store::record::BlobState;
use s3_orchestrator::workers::sync::{self, Event, Found, Plan};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// Of a blob's name (PROTOCOL.md, "Names and versions").
const NONCE_CHARS: usize = 10;
/// After so long all bytes have arrived, or disappeared, that a run had under way when it ended.
const ARRIVED: Duration = Duration::from_millis(LATE_MAX.as_millis() as u64 + 3_000);
/// Why a blob is doomed whose upload a client has aborted.
const ABORTED: &str = "upload aborted";
/// Batches that no run has asked for.
const WORLD_BATCH: u64 = u64::MAX;

#[derive(Default)]
pub struct Restores {
    /// The backup.
    dump: RefCell<Option<MemoryStore<Sim>>>,
    /// Restores so far.
    pub epoch: Cell<u64>,
    /// Of those, the last that a run has found out about.
    pub noticed: Cell<u64>,
    /// Restored, and not compared since everything has arrived.
    is_unsettled: Cell<bool>,
    /// When everything will have arrived that was under way.
    settled_at_nanos: Cell<u64>,
    /// Restored, and compared once since.
    is_compared: Cell<bool>,
    /// Whether the `sync` that runs was begun when everything had arrived.
    is_last: Cell<bool>,
    /// Since when the database is held, if it is.
    held_since_nanos: Cell<Option<u64>>,
    /// What the lost database said that is live and has bytes.
    lost: RefCell<BTreeMap<&'static str, (Version, u64)>>,
    /// Keys that clients only delete or read until the backup is put back.
    leaving: RefCell<BTreeSet<&'static str>>,
    /// Keys that clients only read until everything is as it was.
    quiet: RefCell<BTreeSet<&'static str>>,
    /// Keys that were written or deleted since the restore.
    touched: RefCell<BTreeSet<String>>,
    /// Keys of which `sync` has told that it cannot say which is newer.
    unclear: RefCell<BTreeSet<String>>,
    /// Names that the dump knows to be overwritten or deleted.
    ended: RefCell<BTreeSet<String>>,
    /// Names that became objects since the `sync` that runs was begun.
    revived: RefCell<BTreeSet<String>>,
}

impl Restores {
    /// Bytes without rows, and rows without bytes, are as they should be.
    pub fn is_unsettled(&self) -> bool {
        self.is_unsettled.get()
    }

    pub fn is_quiet(&self, key: &str) -> bool {
        self.is_unsettled() && self.quiet.borrow().contains(key)
    }

    pub fn is_leaving(&self, key: &str) -> bool {
        self.has_dump() && self.leaving.borrow().contains(key)
    }

    pub fn has_dump(&self) -> bool {
        self.dump.borrow().is_some()
    }
}

/// What is looked at before a batch changes it.
#[derive(Default)]
pub struct Before {
    /// The live version of each key that something is adopted for.
    live: BTreeMap<String, Version>,
    /// Of copies that `sync` drops: the version's names on all backends begin so.
    stems: BTreeMap<BlobId, String>,
}

impl World {
    pub fn dump(&self) {
        self.tell(|| "DUMP".into());
        *self.restores.leaving.borrow_mut() = self.some_keys(300);
        *self.restores.dump.borrow_mut() = Some((*self.store()).clone());
    }

    /// The last backup is put back. Where no instance runs, the next one finds out before anything else.
    pub fn restore(&self, is_running: bool) {
        let dump = self.restores.dump.take().expect("a backup");
        self.tell(|| format!("RESTORE, an instance runs: {is_running}"));
        count(if is_running { &self.counts.restored_running } else { &self.counts.restored });
        let restores = &self.restores;
        restores.epoch.set(restores.epoch.get() + 1);
        *restores.lost.borrow_mut() = KEYS.into_iter().filter_map(|key| Some((key, self.has_bytes(key)?))).collect();
        self.put_back(dump);
        restores.is_unsettled.set(true);
        restores.is_compared.set(false);
        restores.held_since_nanos.set(None);
        restores.settled_at_nanos.set(self.sim.tick().after(ARRIVED).nanos);
        let rows = self.backends.iter().flat_map(|backend| self.rows(backend));
        let ended =
            rows.filter(|row| matches!(row.state, BlobState::Doomed | BlobState::Dead) && was_live(&row.reason));
        *restores.ended.borrow_mut() = ended.map(|row| row.blob.name).collect();
        *restores.quiet.borrow_mut() = self.some_keys(600);
        restores.touched.borrow_mut().clear();
        restores.unclear.borrow_mut().clear();
        if !is_running {
            self.hold_rewound();
        }
    }

    /// The database is what it was once.
    fn put_back(&self, dump: MemoryStore<Sim>) {
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

    fn some_keys(&self, per_mille: u64) -> BTreeSet<&'static str> {
        KEYS.into_iter().filter(|_| self.sim.chance(per_mille)).collect()
    }

    /// The version and the value of a live object that is somewhere.
    fn has_bytes(&self, key: &str) -> Option<(Version, u64)> {
        let located = self.located(BUCKET, key)?;
        let is_there = located.blobs.iter().any(|blob| {
            self.backends[self.view.backend_index(&blob.backend).expect("configured")].object(&blob.name).is_some()
        });
        let value = value_of(&located.record).filter(|_| is_there)?;
        Some((located.version, value))
    }

    /// Somebody finds out: the database is held, unless it was compared meanwhile. Numbers of runs that it does not know are not
    /// given out again.
    pub fn hold_rewound(&self) {
        let restores = &self.restores;
        restores.noticed.set(restores.epoch.get());
        restores.settled_at_nanos.set(self.sim.tick().after(ARRIVED).nanos);
        if !restores.is_compared.get() {
            self.change_now(SetRestored { restored: true });
            self.held();
        }
        let backends = self.view.backends.iter();
        let backends = backends.map(|one| BackendLimit { name: one.name.clone(), bytes_limit: one.quota_bytes });
        let register = Register { deployment: "simulated".into(), backends: backends.collect() };
        loop {
            let Outcome::Register(Ok(registered)) = self.change_now(register.clone()) else {
                panic!("registering was refused");
            };
            if self.last_incarnation.get().is_none_or(|last| registered.incarnation >= last) {
                break;
            }
        }
    }

    fn change_now(&self, change: impl Into<Change>) -> Outcome {
        let id = BatchId(WORLD_BATCH, self.sim.roll());
        self.store().apply_now(id, &[change.into()]).outcomes.remove(0)
    }

    fn held(&self) {
        let since = self.restores.held_since_nanos.get().unwrap_or(self.sim.tick().nanos);
        self.restores.held_since_nanos.set(Some(since));
    }

    /// What is in the way of a batch's changes.
    pub fn before(&self, changes: &[Change]) -> Before {
        let mut before = Before::default();
        for change in changes.iter().filter(|_| self.restores.is_unsettled()) {
            match change {
                Change::Adopt(adopt) => {
                    let located = self.located(adopt.bucket.as_str(), adopt.key.as_str());
                    before.live.extend(located.map(|located| (adopt.key.as_str().to_owned(), located.version)));
                }
                Change::DropCopy(drop) => {
                    let rows = self.backends.iter().flat_map(|backend| self.rows(backend));
                    let row = rows.into_iter().find(|row| row.blob.id == drop.blob);
                    let stem = |row: BlobRow| row.blob.name[..row.blob.name.len() - NONCE_CHARS].to_owned();
                    before.stems.extend(row.map(|row| (drop.blob, stem(row))));
                }
                _ => {}
            }
        }
        before
    }

    /// I9: what `sync` and everybody beside it does to a database that was put back.
    pub fn compared(&self, before: &Before, change: &Change, outcome: &Outcome) {
        let touch = |key: &str| _ = self.restores.touched.borrow_mut().insert(key.to_owned());
        match (change, outcome) {
            (Change::CommitWrite(one), Outcome::CommitWrite(Ok(_))) => touch(one.key.as_str()),
            (Change::FinishComplete(one), Outcome::FinishComplete(Ok(_))) => touch(one.key.as_str()),
            (Change::Delete(one), Outcome::Delete(Ok(_))) => touch(one.key.as_str()),
            // Of a database that knows it as open; its bytes may be those of the object that it became.
            (Change::AbortUpload(one), Outcome::AbortUpload(Ok(_))) => touch(one.key.as_str()),
            (Change::Adopt(one), Outcome::Adopt(Ok(Adopted::Live { version, .. }))) if self.restores.is_unsettled() => {
                self.restores.revived.borrow_mut().insert(one.name.clone());
                if self.restores.ended.borrow().contains(&one.name) {
                    self.violated("I9 (what is known to be deleted is not revived)", one.name.clone());
                }
                if before.live.get(one.key.as_str()).is_some_and(|live| live > version) {
                    self.violated("I9 (the newest version wins)", format!("{} over {:?}", one.name, before.live));
                }
            }
            (Change::Adopt(one), Outcome::Adopt(Ok(Adopted::Unclear))) => {
                self.restores.unclear.borrow_mut().insert(one.key.as_str().to_owned());
            }
            (Change::DropCopy(one), Outcome::DropCopy(Ok(dropped))) if dropped.object_ended => {
                let stem = before.stems.get(&one.blob).cloned().unwrap_or_default();
                self.must_have_no_bytes(&stem);
            }
            (Change::SetRestored(one), Outcome::SetRestored(Ok(_))) if one.restored => self.held(),
            (Change::SetRestored(_), Outcome::SetRestored(Ok(_))) => self.released(),
            _ => {}
        }
    }

    /// An object is only dropped when nobody has it any more.
    fn must_have_no_bytes(&self, stem: &str) {
        let checks = self.restores.is_unsettled() && self.restores.is_last.get() && !stem.is_empty();
        for backend in self.backends.iter().filter(|_| checks) {
            let named: BTreeSet<String> = self.rows(backend).into_iter().map(|row| row.blob.name).collect();
            let mut unknown = backend.names_and_sizes().into_iter().map(|(name, _)| name);
            if let Some(name) = unknown.find(|name| name.starts_with(stem) && !named.contains(name)) {
                let story =
                    format!("{name} on {} was not adopted before its object was dropped", backend.name.as_str());
                self.violated("I9 (an object that has bytes stays)", story);
            }
        }
    }

    /// The end of a `sync`; of the last one after a restore everything is as it was before.
    fn released(&self) {
        let restores = &self.restores;
        restores.held_since_nanos.set(None);
        if !restores.is_unsettled() {
            return;
        }
        self.tell(|| format!("RELEASED, everything has arrived: {}", restores.is_last.get()));
        restores.is_compared.set(true);
        self.must_be_back();
        if !restores.is_last.get() {
            return;
        }
        count(&self.counts.restored_compared);
        for backend in &self.backends {
            let rows = self.rows(backend);
            // The bytes that the dump knew of are charged until it is deleted, not those of what the upload became.
            rows.iter().filter(|row| row.reason == ABORTED).for_each(|row| backend.disown(&row.blob.name));
            backend.leave_unfinished(&rows.into_iter().map(|row| row.blob.name).collect());
        }
        restores.is_unsettled.set(false);
        self.check_live();
        self.check_charges();
    }

    /// What was acknowledged to be live is again, or a write that nobody knows the fate of has taken its place.
    fn must_be_back(&self) {
        let restores = &self.restores;
        for (key, (version, value)) in restores.lost.borrow().iter() {
            let located = self.located(BUCKET, key);
            let is_back = located
                .as_ref()
                .is_some_and(|located| value_of(&located.record) == Some(*value) || located.version > *version);
            if restores.is_last.get() && is_back && !restores.touched.borrow().contains(*key) {
                count(&self.counts.objects_back);
            }
            if !is_back && !restores.touched.borrow().contains(*key) && !restores.unclear.borrow().contains(*key) {
                let story = format!("value {value} of {key}, {version:?}, has bytes and is not there: {located:?}");
                self.violated("I9 (what was acknowledged is back)", story);
            }
        }
    }

    /// The operator's `sync --restored`, again until it has come to its end: maybe at once, and when everything has arrived.
    pub async fn put_right(self: Rc<Self>) {
        let restores = &self.restores;
        restores.is_last.set(false);
        if self.sim.chance(500) {
            self.sim.sleep(Duration::from_millis(self.sim.below(3_000))).await;
            while !restores.is_compared.get() && self.has_not_arrived() {
                self.compare_all().await;
            }
        }
        while self.has_not_arrived() {
            self.sim.sleep(Duration::from_millis(50)).await;
        }
        self.backends.iter().for_each(|backend| backend.write_back());
        restores.is_last.set(true);
        while restores.is_unsettled() {
            self.compare_all().await;
        }
    }

    fn has_not_arrived(&self) -> bool {
        let is_unnoticed = self.restores.noticed.get() != self.restores.epoch.get();
        is_unnoticed || self.sim.tick().nanos < self.restores.settled_at_nanos.get()
    }

    /// One `sync --restored` of the instance that serves, which may be killed meanwhile.
    async fn compare_all(&self) {
        let serving = self.instance.borrow().clone();
        if let Some(instance) = serving {
            let (done, ended) = oneshot();
            self.sim.spawn(instance.group, async move {
                instance.compare_all().await;
                done.send(());
            });
            let _ = ended.receive().await; // None: its instance was killed
        }
        self.sim.sleep(Duration::from_millis(200)).await;
    }

    /// Nothing is deleted on the word of a database that is held.
    pub fn deletes(&self, name: &str, mandate: Mandate) {
        let Some((since, until)) = self.restores.held_since_nanos.get().zip(mandate.until) else { return };
        if until.nanos - self.view.write_path.lease.as_nanos() as u64 >= since {
            self.violated("I9 (nothing is deleted while it is held)", name.to_owned());
        }
    }
}

/// For mutants.
impl World {
    pub fn due_although_held(&self, query: Query) -> Answer {
        let is_held = matches!(now(self.store().query(Query::Restored)), Ok(Answer::Restored(true)));
        self.change_now(SetRestored { restored: false });
        let answer = now(self.store().query(query)).expect("the memory store answers");
        self.change_now(SetRestored { restored: is_held });
        answer
    }

    /// Takes the row away of what was overwritten or deleted.
    pub fn forget_ended(&self, adopt: &Adopt) {
        let backend = &self.backends[self.view.backend_index(&adopt.backend).expect("configured")];
        let row = self.rows(backend).into_iter().find(|row| row.blob.name == adopt.name && was_live(&row.reason));
        if let Some(row) = row {
            let found = self.sim.now().plus(Duration::from_secs(3_600));
            self.change_now(CleanupDone { blob: row.blob.id, found });
        }
    }
}

impl Instance {
    async fn compare_all(&self) {
        let restores = &self.world.restores;
        restores.revived.borrow_mut().clear();
        let (mut told, mut is_done) = (BTreeSet::new(), false);
        sync::run(self, &Plan::after_restore(&self.world.view, false), |event| {
            match event {
                Event::Item { found: Found::Imported | Found::Newer, name, .. } => _ = told.insert(name),
                Event::Item { found: Found::ObjectGone, .. } => count(&self.world.counts.objects_gone),
                Event::Result(_) => is_done = true,
                Event::Failed { error, .. } => self.world.tell(|| format!("SYNC failed: {error}")),
                _ => {}
            }
            true
        })
        .await;
        let untold = restores.revived.borrow().iter().find(|name| !told.contains(*name)).cloned();
        if let Some(name) = untold.filter(|_| is_done) {
            self.world.violated("I9 (what is revived is told)", name);
        }
        if !is_done && self.world.setting.mutant == Mutant::SyncReleasesTooEarly {
            self.set_restored(false).await;
        }
    }
}
