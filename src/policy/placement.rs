//! Where a new blob may go, in order of preference. The store picks the first that fits (`begin_write`), so what is known
//! here of used bytes is a hint and never decides whether something fits.

use crate::base::blob_name;

/// `routing_strategy`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Strategy {
    /// Fill backends in the configuration's order.
    #[default]
    Pack,
    /// The one with the lowest share of its quota used.
    Spread,
}

/// What is known of a backend when a blob is placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackendFacts {
    pub used_bytes: u64,
    /// 0 = unlimited.
    pub limit_bytes: u64,
    pub draining: bool,
    /// Its budget of the month may have room for the blob (policy/usage.rs).
    pub affordable: bool,
    /// No recent failures (backend/health.rs). Others come last, but they come: the client may still get its 200.
    pub healthy: bool,
    /// Bigger objects never go here; 0 = no such limit.
    pub max_object_bytes: u64,
    /// Longest backend key.
    pub max_key_bytes: usize,
}

/// A backend that may take the blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Choice {
    /// Index into the slice that was ranked.
    pub backend: usize,
    /// The key stands in the blob's name as it is, else it is hashed (base/blob_name.rs).
    pub literal: bool,
}

/// Backends that may take a blob of this size under this key, best first; empty if none ever could.
pub fn rank(strategy: Strategy, bucket: &str, key: &str, size_bytes: u64, backends: &[BackendFacts]) -> Vec<Choice> {
    let mut order: Vec<usize> = (0..backends.len()).filter(|&i| could_take(&backends[i], size_bytes)).collect();
    if strategy == Strategy::Spread {
        order.sort_by(|&a, &b| compare_use(&backends[a], &backends[b])); // stable: ties keep the configuration's order
    }
    order.sort_by_key(|&i| !backends[i].healthy);
    let literal = |i: usize| blob_name::can_be_literal(bucket, key, backends[i].max_key_bytes);
    order.into_iter().map(|i| Choice { backend: i, literal: literal(i) }).collect()
}

fn could_take(backend: &BackendFacts, size_bytes: u64) -> bool {
    !backend.draining
        && backend.affordable
        && (backend.max_object_bytes == 0 || size_bytes <= backend.max_object_bytes)
        && (backend.limit_bytes == 0 || size_bytes <= backend.limit_bytes)
}

/// By used / limit, without division; unlimited counts as empty.
fn compare_use(a: &BackendFacts, b: &BackendFacts) -> std::cmp::Ordering {
    let parts = |one: &BackendFacts| match one.limit_bytes {
        0 => (0, 1),
        limit => (u128::from(one.used_bytes), u128::from(limit)),
    };
    let ((used_a, limit_a), (used_b, limit_b)) = (parts(a), parts(b));
    (used_a * limit_b).cmp(&(used_b * limit_a))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Strategy::{Pack, Spread};

    const PLAIN: BackendFacts = BackendFacts {
        used_bytes: 0,
        limit_bytes: 100,
        draining: false,
        affordable: true,
        healthy: true,
        max_object_bytes: 0,
        max_key_bytes: 1024,
    };

    fn check(strategy: Strategy, size_bytes: u64, backends: &[BackendFacts], want: &[usize]) {
        let got: Vec<_> = rank(strategy, "bkt", "k", size_bytes, backends).iter().map(|c| c.backend).collect();
        assert_eq!(got, want, "{strategy:?} {size_bytes} {backends:?}");
    }

    #[test]
    fn order_and_filters() {
        let used = |used_bytes| BackendFacts { used_bytes, ..PLAIN };
        let unlimited = BackendFacts { limit_bytes: 0, used_bytes: 1_000_000, ..PLAIN };
        let draining = BackendFacts { draining: true, ..PLAIN };
        let sick = BackendFacts { healthy: false, ..PLAIN };
        let spent = BackendFacts { affordable: false, ..PLAIN };
        let small = BackendFacts { max_object_bytes: 9, ..PLAIN };
        let half = BackendFacts { used_bytes: 100, limit_bytes: 200, ..PLAIN };

        check(Pack, 10, &[used(90), used(10), used(50)], &[0, 1, 2]);
        check(Spread, 10, &[used(90), used(10), used(50)], &[1, 2, 0]);
        check(Spread, 10, &[used(50), half, used(49)], &[2, 0, 1]);
        check(Spread, 10, &[used(1), unlimited], &[1, 0]);
        check(Pack, 10, &[draining, small, used(0)], &[2]);
        check(Spread, 10, &[spent, used(50)], &[1]);
        check(Pack, 9, &[draining, small, used(0)], &[1, 2]);
        check(Spread, 1, &[sick, used(99), used(98)], &[2, 1, 0]);
        check(Pack, 101, &[used(0), unlimited], &[1]); // larger than the whole quota
        check(Pack, 100, &[used(99)], &[0]); // what is free is the store's business
        check(Pack, 1, &[], &[]);
        check(Spread, 0, &[used(u64::MAX), BackendFacts { limit_bytes: u64::MAX, ..PLAIN }], &[1, 0]);
    }

    #[test]
    fn names_that_a_backend_cannot_hold_are_hashed_there() {
        let narrow = BackendFacts { max_key_bytes: 60, ..PLAIN };
        let literal = |key: &str| -> Vec<bool> {
            rank(Pack, "bkt", key, 1, &[PLAIN, narrow]).iter().map(|choice| choice.literal).collect()
        };
        let fits = "x".repeat(60 - "bkt/".len() - blob_name::SUFFIX_CHARS);
        assert_eq!(literal("a/b"), [true, true]);
        assert_eq!(literal("a//b"), [false, false]);
        assert_eq!(literal(&fits), [true, true]);
        assert_eq!(literal(&format!("{fits}x")), [true, false]);
        assert_eq!(literal(&fits.replacen('x', "!", 1)), [true, false], "an exclamation mark is doubled");
    }
}
