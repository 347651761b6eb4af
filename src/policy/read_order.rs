//! In which order the copies of a version are asked. Called for every GET, so it allocates nothing.

/// Copies that are ranked; with more of them the best eight are kept, which is more than a reader will try.
pub const COPIES_MAX: usize = 8;

/// Latencies below this are one class: their differences are noise.
const LATENCY_FLOOR_MICROS: u32 = 1_000;

/// What is known of one copy's backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyFacts {
    /// Place of the backend in the configuration; `usize::MAX` if the configuration no longer has it.
    pub backend: usize,
    /// No recent failures (backend/health.rs).
    pub healthy: bool,
    /// A directory of this machine: no network, no budget.
    pub local: bool,
    /// Recent time to the first byte; 0 = not measured yet, taken as fast so that it gets measured.
    pub latency_micros: u32,
}

/// Positions in the slice that was ranked, best first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReadOrder {
    positions: [u8; COPIES_MAX],
    len: u8,
}

impl ReadOrder {
    /// For a lone copy: it, if it can be reached at all.
    pub fn of_one(can_be_reached: bool) -> Self {
        Self { positions: [0; COPIES_MAX], len: can_be_reached.into() }
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.positions[..usize::from(self.len)]
    }

    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.as_slice().iter().map(|&position| usize::from(position))
    }
}

/// Health first, then local directories, then clearly faster backends (by powers of two), then the configuration's order.
/// A copy on a backend that the configuration no longer has is left out: nobody can reach it.
pub fn rank(copies: &[CopyFacts]) -> ReadOrder {
    let mut order = ReadOrder::default();
    let mut keys = [(false, false, 0, 0); COPIES_MAX];
    for (position, copy) in copies.iter().enumerate().take(usize::from(u8::MAX)) {
        if copy.backend == usize::MAX {
            continue;
        }
        let key = (!copy.healthy, !copy.local, latency_class(copy.latency_micros), copy.backend);
        let len = usize::from(order.len);
        let place = keys[..len].iter().position(|other| key < *other).unwrap_or(len);
        if place == COPIES_MAX {
            continue;
        }
        let end = (len + 1).min(COPIES_MAX);
        keys[place..end].rotate_right(1);
        order.positions[place..end].rotate_right(1);
        keys[place] = key;
        order.positions[place] = position as u8;
        order.len = end as u8;
    }
    order
}

fn latency_class(micros: u32) -> u32 {
    micros.max(LATENCY_FLOOR_MICROS).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(backend: usize, healthy: bool, local: bool, latency_micros: u32) -> CopyFacts {
        CopyFacts { backend, healthy, local, latency_micros }
    }

    #[test]
    fn the_best_copy_comes_first() {
        let far = copy(0, true, false, 200_000);
        let near = copy(1, true, false, 3_000);
        let new = copy(2, true, false, 0);
        let disk = copy(3, true, true, 900);
        let sick = copy(4, false, true, 500);
        let gone = copy(usize::MAX, true, true, 0);
        let cases: [(&[CopyFacts], &[u8]); 7] = [
            (&[], &[]),
            (&[far], &[0]),
            (&[far, near, disk], &[2, 1, 0]),
            (&[sick, far], &[1, 0]),
            (&[gone, far, gone], &[1]),
            (&[near, new, far, sick, disk], &[4, 1, 0, 2, 3]),
            (&[copy(5, true, false, 40_000), copy(2, true, false, 60_000)], &[1, 0]), // one class: configuration's order
        ];
        for (copies, want) in cases {
            assert_eq!(rank(copies).as_slice(), want, "{copies:?}");
        }
    }

    #[test]
    fn of_many_copies_the_best_eight_are_kept() {
        let copies: Vec<_> = (0..20).map(|i| copy(19 - i, true, false, 0)).collect();
        assert_eq!(rank(&copies).as_slice(), [19, 18, 17, 16, 15, 14, 13, 12]);
    }
}
