//! Backends that an operator removes from the fleet, with their bytes or without, and takes back later: emptied, or with what was
//! left there, which `sync` may find.

use super::backend::LATE_MAX;
use super::counts::count;
use super::history::Call;
use super::instance::Instance;
use super::world::{BUCKET, World, value_of};
use s3_orchestrator::backend::directory::paths;
use s3_orchestrator::base::{BackendName, BlobId, Clock};
use s3_orchestrator::handlers::ports::Ports;
use s3_orchestrator::store::port::{Adopt, Adopted, Applied, Bytes, Change, Outcome};
use s3_orchestrator::store::record::BlobState;
use s3_orchestrator::workers::remove;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// What was removed, and what may be done to a backend next.
#[derive(Default)]
pub struct Removals {
    /// Names that were left behind without a row, whatever became of them since.
    left: RefCell<BTreeSet<String>>,
    /// Keys whose last copy went.
    keys: RefCell<BTreeSet<String>>,
    /// Values that were adopted under another ETag than clients were told.
    renamed: RefCell<BTreeSet<u64>>,
    /// By backend.
    standing: RefCell<BTreeMap<BackendName, Rc<Standing>>>,
}

/// A backend is not compared while it is being removed, nor as long as a DELETE that was sent before may still be under way to
/// what would be adopted.
#[derive(Default)]
struct Standing {
    at_work: Cell<u32>,
    /// How often it took bytes again.
    taken_back: Cell<u64>,
    settled_at_nanos: Cell<u64>,
    /// Bytes that `sync` found there and charged whatever the limit said.
    found_bytes: Cell<u64>,
}

/// Ends with its task, also when that is killed.
pub struct AtWork {
    standing: Rc<Standing>,
    until_nanos: Box<dyn Fn() -> u64>,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.standing.at_work.set(self.standing.at_work.get() - 1);
        self.standing.settled_at_nanos.set(self.standing.settled_at_nanos.get().max((self.until_nanos)()));
    }
}

impl Removals {
    pub fn left(&self, name: &str) -> bool {
        self.left.borrow().contains(name)
    }

    /// Whether this target of a copy's source lost its last copy.
    pub fn took(&self, target: &str) -> bool {
        target.strip_prefix(&format!("/{BUCKET}/")).is_some_and(|key| self.keys.borrow().contains(key))
    }

    pub fn renamed(&self, value: u64) -> bool {
        self.renamed.borrow().contains(&value)
    }

    pub fn found_bytes(&self, backend: &BackendName) -> u64 {
        self.standing(backend).found_bytes.get()
    }

    fn standing(&self, backend: &BackendName) -> Rc<Standing> {
        self.standing.borrow_mut().entry(backend.clone()).or_default().clone()
    }

    fn begin(&self, backend: &BackendName, until_nanos: impl Fn() -> u64 + 'static) -> AtWork {
        let standing = self.standing(backend);
        standing.at_work.set(standing.at_work.get() + 1);
        AtWork { standing, until_nanos: Box::new(until_nanos) }
    }

    /// None: not now.
    pub fn compare(&self, world: &World, backend: &BackendName) -> Option<AtWork> {
        let standing = self.standing(backend);
        let may = standing.at_work.get() == 0 && standing.settled_at_nanos.get() <= world.sim.now_nanos();
        may.then(|| self.begin(backend, || 0))
    }

    fn remove(&self, world: &World, backend: &BackendName) -> Option<AtWork> {
        let sim = world.sim.clone();
        let until = move || sim.tick().after(LATE_MAX).nanos;
        (self.standing(backend).at_work.get() == 0).then(|| self.begin(backend, until))
    }
}

impl Instance {
    /// Where things are compared, the backend is taken back with what was left on it, and that is found.
    pub(super) async fn remove_for_a_while(&self, backend: BackendName, purge: bool) {
        self.remove(backend.clone(), purge).await;
        if !purge && !self.world.setting.seed.is_multiple_of(2) {
            self.world.sim.sleep(LATE_MAX + Duration::from_millis(500)).await;
            self.set_draining(backend.clone(), false).await;
            self.compare(backend).await;
        }
    }

    /// As the admin API does it.
    async fn remove(&self, backend: BackendName, purge: bool) {
        let Some(_busy) = self.world.removals.remove(&self.world, &backend) else { return };
        let taken_back = self.world.removals.standing(&backend).taken_back.get();
        if !self.set_draining(backend.clone(), true).await {
            return;
        }
        let Ok(removed) = remove::forget_all(self.meta(), &backend, purge).await else { return };
        let is_taken_back = self.world.removals.standing(&backend).taken_back.get() != taken_back;
        match (removed.cancelled, is_taken_back) {
            (true, true) => {}
            (true, false) => self.world.violated("I7 (a removal goes on to its end)", backend.as_str().to_owned()),
            (false, _) => count(&self.world.counts.removed),
        }
        if !is_taken_back {
            self.must_be_forgotten(&backend, purge);
        }
    }

    /// Nothing names the backend any more, but for what is deleted there.
    fn must_be_forgotten(&self, backend: &BackendName, purge: bool) {
        let index = self.world.view.backend_index(backend).expect("a configured backend");
        let mut rows = self.world.rows(&self.world.backends[index]);
        rows.retain(|row| !purge || !matches!(row.state, BlobState::Doomed | BlobState::Dead));
        if !rows.is_empty() {
            let story = format!("{} was removed (purge: {purge}): {rows:#?}", backend.as_str());
            self.world.violated("I7 (a removed backend is forgotten)", story);
        }
    }

    /// A backend that drains, or was removed, takes bytes again: what it was left with is still there, or is not.
    pub(super) async fn take_back(&self, backend: BackendName) {
        let index = self.world.view.backend_index(&backend).expect("a configured backend");
        if self.world.sim.chance(250) {
            self.world.backends[index].wipe_disowned();
        }
        self.set_draining(backend, false).await;
    }
}

impl World {
    /// What operators are about to drop from the database while its bytes stay: backend and name of each.
    pub fn names_of_dropped(&self, changes: &[Change]) -> BTreeMap<BlobId, (usize, String)> {
        let left_behind = |change: &Change| match change {
            Change::DropCopy(drop) if drop.bytes == Bytes::Gone && drop.reason == remove::REASON => Some(drop.blob),
            _ => None,
        };
        let dropped: BTreeSet<BlobId> = changes.iter().filter_map(left_behind).collect();
        if dropped.is_empty() {
            return BTreeMap::new();
        }
        let rows = self.backends.iter().flat_map(|backend| {
            self.rows(backend).into_iter().map(|row| (row.blob.id, (backend.index, row.blob.name)))
        });
        rows.filter(|(id, _)| dropped.contains(id)).collect()
    }

    pub fn disown(&self, named: &BTreeMap<BlobId, (usize, String)>) {
        for (index, name) in named.values() {
            let unfinished = paths::unfinished(name);
            let parts = format!("{unfinished}{}", paths::PARTS_SUFFIX);
            self.removals.left.borrow_mut().extend([name.clone(), unfinished, parts]);
            self.backends[*index].disown(name);
        }
    }

    /// What operators have done to objects; what is charged for it is known.
    pub fn operated(&self, changes: &[Change], applied: &Applied) {
        for change in changes {
            if let Change::Adopt(adopt) = change {
                let standing = self.removals.standing(&adopt.backend);
                standing.found_bytes.set(standing.found_bytes.get() + adopt.size);
            }
        }
        for (change, outcome) in changes.iter().zip(&applied.outcomes) {
            match (change, outcome) {
                (Change::DropCopy(drop), Outcome::DropCopy(Ok(dropped))) if dropped.object_ended => {
                    count(&self.counts.removed_objects);
                    self.removals.keys.borrow_mut().insert(drop.key.as_str().to_owned());
                    self.operated_on(drop.key.as_str(), Call::Removed);
                }
                (Change::SetDraining(set), _) if !set.draining => {
                    count(&self.removals.standing(&set.backend).taken_back);
                }
                (Change::Adopt(adopt), Outcome::Adopt(Ok(adopted))) => self.adopted(adopt, adopted),
                _ => {}
            }
        }
    }

    fn adopted(&self, adopt: &Adopt, adopted: &Adopted) {
        if matches!(adopted, Adopted::Known | Adopted::UnderWay) {
            return;
        }
        count(&self.counts.adopted);
        self.backends[self.view.backend_index(&adopt.backend).expect("configured")].own(&adopt.name);
        let Some(value) = value_of(&adopt.record).filter(|_| matches!(adopted, Adopted::Live { .. })) else { return };
        if self.etags.borrow().get(&adopt.etag) != Some(&value) {
            self.removals.renamed.borrow_mut().insert(value);
            self.etags.borrow_mut().insert(adopt.etag.clone(), value);
        }
        self.operated_on(adopt.key.as_str(), Call::Adopted { value });
    }
}
