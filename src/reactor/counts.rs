//! What the low half of a reactor counts. One per core, written by that core alone, read by whoever gathers metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter or gauge with one writer, so that adding takes no locked instruction.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    pub fn subtract(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(amount), Relaxed);
    }

    pub fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[repr(align(128))]
#[derive(Debug, Default)]
pub struct Counts {
    /// Gauge: accepted connections that have not ended.
    pub connections: Count,
    pub accepted: Count,
    /// Turned away because the core was at its connection limit.
    pub refused_at_limit: Count,
    /// Times accepting paused because the process had no descriptor or memory left.
    pub accept_exhausted: Count,
    /// Tasks that ended by a panic.
    pub panics: Count,
    /// Calls to another thread refused because the mailbox was full.
    pub mailbox_full: Count,
    /// Sockets that a deadline ended.
    pub deadlines_hit: Count,
    /// Times a task let the others run.
    pub yields: Count,
    /// Idle upstream connections that the backend had closed, and those on which it had spoken unasked.
    pub upstream_stale: Count,
    pub upstream_unexpected_data: Count,
    /// Upstream connections opened, and requests that found a warm one.
    pub upstream_connects: Count,
    pub upstream_reuses: Count,
    pub spliced_bytes: Count,
    pub copied_bytes: Count,
    /// Bodies that were to be spliced but copied, because no pipe of a useful size could be had.
    pub splice_fallbacks: Count,
}
