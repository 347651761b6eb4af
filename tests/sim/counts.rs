//! How often what happened, to see that a run has met everything.

use s3_orchestrator::observe::cells::CoreCells;
use std::cell::Cell;

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
