//! Bytes charged per backend, as of the last committed batch: what placement ranks by and metrics show.
//!
//! Written by the metadata desk before it answers, so that a caller who was told of a write sees it counted; read by every
//! core without locks. A hint, never a proof: only the store's transaction decides whether something fits.

use std::sync::atomic::{AtomicU64, Ordering};

/// Indexes are those of the published view.
#[derive(Debug, Default)]
pub struct Board {
    charged_bytes: Box<[AtomicU64]>,
}

impl Board {
    pub fn new(backends: usize) -> Self {
        Self { charged_bytes: (0..backends).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Live, reserved, doomed and dead bytes together.
    pub fn charged_bytes(&self, backend: usize) -> u64 {
        self.charged_bytes.get(backend).map_or(0, |cell| cell.load(Ordering::Relaxed))
    }

    pub fn set_charged_bytes(&self, backend: usize, bytes: u64) {
        self.charged_bytes[backend].store(bytes, Ordering::Relaxed);
    }
}
