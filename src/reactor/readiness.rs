//! Whether the process takes requests, and how well it does: what `/health` and load balancers are told.

use crate::store::database_state::DatabaseState;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Written by control, read by every reactor.
#[derive(Debug)]
pub struct Readiness {
    ready: AtomicBool,
    pub database: Arc<DatabaseState>,
}

impl Readiness {
    /// Not ready.
    pub fn new(database: Arc<DatabaseState>) -> Self {
        Self { ready: AtomicBool::new(false), database }
    }

    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// The database does not answer, or has not yet: reads go on without it.
    pub fn is_degraded(&self) -> bool {
        !self.database.circuit.is_closed() || self.database.registered().is_none()
    }
}
