//! What is known of each backend right now, shared by all cores: whether it may be used at all, and what was measured of it.
//!
//! Written by the control core (start, marker checks, drains); read on every request without locks. Indexes are those of
//! the published view.

use crate::base::BackendName;
use crate::observe::circuit::Circuit;
use crate::policy::breaker::BreakerSettings;
use crate::store::record::BackendFacts;
use std::sync::atomic::{AtomicU16, Ordering};

/// May be used: its marker was read and is ours.
const USABLE: u16 = 1;
/// Takes no new blobs.
const DRAINING: u16 = 1 << 1;
const VERIFIES_SHA256: u16 = 1 << 2;
const ETAG_IS_MD5: u16 = 1 << 3;
const DELETE_REMOVES: u16 = 1 << 4;
const MEASURED: u16 = 1 << 8;
const COPIES: u16 = 1 << 9;
const VERIFIES_CRC32: u16 = 1 << 5;
const VERIFIES_CRC32C: u16 = 1 << 6;
const VERIFIES_CRC64NVME: u16 = 1 << 7;

#[derive(Debug, Default)]
pub struct Standing {
    backends: Box<[AtomicU16]>,
    /// One per backend, or none at all (`backend_circuit_breaker.enabled`).
    circuits: Box<[Circuit]>,
}

impl Standing {
    /// Nothing is usable before its marker was seen.
    pub fn new(backends: usize) -> Self {
        Self { backends: (0..backends).map(|_| AtomicU16::new(0)).collect(), circuits: Box::default() }
    }

    /// As `new`, with a breaker for each of these backends.
    pub fn with_breakers(names: &[BackendName], settings: BreakerSettings) -> Self {
        let circuits = names.iter().map(|name| Circuit::new(name.as_str(), settings)).collect();
        Self { circuits, ..Self::new(names.len()) }
    }

    fn has(&self, backend: usize, flag: u16) -> bool {
        self.backends.get(backend).is_some_and(|cell| cell.load(Ordering::Relaxed) & flag != 0)
    }

    fn set(&self, backend: usize, flag: u16, on: bool) {
        let cell = &self.backends[backend];
        if on {
            cell.fetch_or(flag, Ordering::Relaxed);
        } else {
            cell.fetch_and(!flag, Ordering::Relaxed);
        }
    }

    /// Its marker was read and is ours, and its breaker is closed; deletes and writes are sent only there.
    pub fn usable(&self, backend: usize) -> bool {
        self.has(backend, USABLE) && !self.is_open(backend)
    }

    /// Its marker was read and is ours, whether it answers now or not.
    pub fn is_ours(&self, backend: usize) -> bool {
        self.has(backend, USABLE)
    }

    /// Its breaker is open or half-open.
    pub fn is_open(&self, backend: usize) -> bool {
        self.circuits.get(backend).is_some_and(|circuit| !circuit.is_closed())
    }

    /// None where breakers are off.
    pub fn circuit(&self, backend: usize) -> Option<&Circuit> {
        self.circuits.get(backend)
    }

    pub fn circuits(&self) -> &[Circuit] {
        &self.circuits
    }

    pub fn draining(&self, backend: usize) -> bool {
        self.has(backend, DRAINING)
    }

    /// A PUT with a wrong SHA-256 is refused by this backend.
    pub fn verifies_sha256(&self, backend: usize) -> bool {
        self.has(backend, VERIFIES_SHA256)
    }

    /// A PUT with a wrong checksum of this algorithm (`CRC32`, …) is refused by this backend.
    pub fn verifies_checksum(&self, backend: usize, algorithm: &str) -> bool {
        match algorithm {
            "CRC32" => self.has(backend, VERIFIES_CRC32),
            "CRC32C" => self.has(backend, VERIFIES_CRC32C),
            "CRC64NVME" => self.has(backend, VERIFIES_CRC64NVME),
            _ => false,
        }
    }

    /// The ETag of a plain PUT is the body's MD5.
    pub fn etag_is_md5(&self, backend: usize) -> bool {
        self.has(backend, ETAG_IS_MD5)
    }

    /// It copies within itself.
    pub fn copies(&self, backend: usize) -> bool {
        self.has(backend, COPIES)
    }

    /// A DELETE leaves nothing behind.
    pub fn delete_removes(&self, backend: usize) -> bool {
        self.has(backend, DELETE_REMOVES)
    }

    /// Its facts are known.
    pub fn measured(&self, backend: usize) -> bool {
        self.has(backend, MEASURED)
    }

    pub fn set_usable(&self, backend: usize, usable: bool) {
        self.set(backend, USABLE, usable);
    }

    pub fn set_draining(&self, backend: usize, draining: bool) {
        self.set(backend, DRAINING, draining);
    }

    pub fn set_facts(&self, backend: usize, facts: &BackendFacts) {
        self.set(backend, MEASURED, facts.measured);
        self.set(backend, VERIFIES_SHA256, facts.verifies_sha256);
        self.set(backend, VERIFIES_CRC32, facts.verifies_crc32);
        self.set(backend, VERIFIES_CRC32C, facts.verifies_crc32c);
        self.set(backend, VERIFIES_CRC64NVME, facts.verifies_crc64nvme);
        self.set(backend, ETAG_IS_MD5, facts.etag_is_md5);
        self.set(backend, COPIES, facts.copies);
        self.set(backend, DELETE_REMOVES, facts.delete_removes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_independent_and_unknown_backends_have_none() {
        let standing = Standing::new(2);
        standing.set_usable(1, true);
        standing.set_facts(1, &BackendFacts { measured: true, etag_is_md5: true, ..BackendFacts::default() });
        assert!(standing.usable(1) && standing.etag_is_md5(1) && !standing.verifies_sha256(1) && !standing.draining(1));
        assert!(!standing.usable(0) && !standing.usable(7));
        standing.set_facts(0, &BackendFacts { measured: true, verifies_crc32c: true, ..BackendFacts::default() });
        let verified = |algorithm| standing.verifies_checksum(0, algorithm);
        assert_eq!(["CRC32", "CRC32C", "CRC64NVME", "SHA1"].map(verified), [false, true, false, false]);
        assert!(standing.measured(0), "whatever was found");
        standing.set_facts(0, &BackendFacts { verifies_crc32: true, ..BackendFacts::default() });
        assert!(!standing.measured(0) && standing.verifies_checksum(0, "CRC32"));
        standing.set_usable(1, false);
        assert!(!standing.usable(1) && standing.etag_is_md5(1));
    }
}
