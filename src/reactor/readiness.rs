//! Whether the process takes requests, and how well it does: what `/health` and load balancers are told.

use std::sync::atomic::{AtomicU8, Ordering};

/// Written by control, read by every reactor.
#[derive(Debug, Default)]
pub struct Readiness(AtomicU8);

impl Readiness {
    const READY: u8 = 1;
    const DEGRADED: u8 = 2;

    pub fn set_ready(&self, ready: bool) {
        self.set(Self::READY, ready);
    }

    /// The database does not answer.
    pub fn set_degraded(&self, degraded: bool) {
        self.set(Self::DEGRADED, degraded);
    }

    fn set(&self, flag: u8, on: bool) {
        if on {
            self.0.fetch_or(flag, Ordering::Relaxed);
        } else {
            self.0.fetch_and(!flag, Ordering::Relaxed);
        }
    }

    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Relaxed) & Self::READY != 0
    }

    pub fn is_degraded(&self) -> bool {
        self.0.load(Ordering::Relaxed) & Self::DEGRADED != 0
    }
}
