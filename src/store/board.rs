//! Bytes charged per backend, as of the last committed batch, and the limits in force: what placement ranks by and metrics show.
//!
//! Charges are written by the metadata desk before it answers, so that a caller who was told of a write sees it counted; read by every
//! core without locks. A hint, never a proof: only the store's transaction decides whether something fits.

use std::sync::atomic::{AtomicU64, Ordering};

/// Indexes are those of the published view.
#[derive(Debug, Default)]
pub struct Board {
    charged_bytes: Box<[AtomicU64]>,
    limit_bytes: Box<[AtomicU64]>,
}

impl Board {
    /// Nothing is charged; the limits (`quota_bytes`, 0 = unlimited) in the view's order.
    pub fn new(limits: impl IntoIterator<Item = u64>) -> Self {
        let limit_bytes: Box<[_]> = limits.into_iter().map(AtomicU64::new).collect();
        Self { charged_bytes: limit_bytes.iter().map(|_| AtomicU64::new(0)).collect(), limit_bytes }
    }

    /// 0 = unlimited.
    pub fn limit_bytes(&self, backend: usize) -> u64 {
        self.limit_bytes.get(backend).map_or(0, |cell| cell.load(Ordering::Relaxed))
    }

    pub fn set_limit_bytes(&self, backend: usize, bytes: u64) {
        self.limit_bytes[backend].store(bytes, Ordering::Relaxed);
    }

    /// Live, reserved, doomed and dead bytes together.
    pub fn charged_bytes(&self, backend: usize) -> u64 {
        self.charged_bytes.get(backend).map_or(0, |cell| cell.load(Ordering::Relaxed))
    }

    pub fn set_charged_bytes(&self, backend: usize, bytes: u64) {
        self.charged_bytes[backend].store(bytes, Ordering::Relaxed);
    }
}
