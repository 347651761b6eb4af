//! What one core remembers of its backends' recent behaviour, so that reads prefer copies that will answer and writes
//! prefer backends that will take them. A light predecessor of the backend breaker: it reorders, it never refuses.

use super::retry::Backoff;
use crate::base::Tick;
use std::cell::Cell;
use std::time::Duration;

/// After n failures in a row a backend is avoided for a second doubled n-1 times, at most half a minute.
const AVOID: Backoff = Backoff { first: Duration::from_secs(1), cap: Duration::from_secs(30) };

/// Indexes are those of the published view; one outside it is never good and never remembered.
#[derive(Debug)]
pub struct Health {
    backends: Box<[Cell<Recent>]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    failures_in_a_row: u32,
    avoid_until: Tick,
    latency_micros: u32,
}

impl Health {
    pub fn new(backends: usize) -> Self {
        Self { backends: (0..backends).map(|_| Cell::default()).collect() }
    }

    /// Only the backend's own faults are failures: never a 4xx, a client's abort or a cancelled call.
    pub fn failed(&self, backend: usize, now: Tick, roll: u64) {
        let Some(cell) = self.backends.get(backend) else { return };
        let mut recent = cell.get();
        recent.avoid_until = now.after(AVOID.delay(recent.failures_in_a_row, roll));
        recent.failures_in_a_row = recent.failures_in_a_row.saturating_add(1);
        cell.set(recent);
    }

    /// `first_byte` is the time from the request to the answer's head.
    pub fn succeeded(&self, backend: usize, first_byte: Duration) {
        let Some(cell) = self.backends.get(backend) else { return };
        let sample = u32::try_from(first_byte.as_micros()).unwrap_or(u32::MAX).max(1);
        // An average over about eight answers: recent, yet one slow answer does not send everybody elsewhere.
        let latency_micros = match cell.get().latency_micros {
            0 => sample,
            old => old - old / 8 + sample / 8,
        };
        cell.set(Recent { latency_micros, ..Recent::default() });
    }

    /// Whether calls should go here first. After the wait it is preferred again: the next call is the probe.
    pub fn is_good(&self, backend: usize, now: Tick) -> bool {
        self.recent(backend).is_some_and(|recent| recent.failures_in_a_row == 0 || now >= recent.avoid_until)
    }

    pub fn failures_in_a_row(&self, backend: usize) -> u32 {
        self.recent(backend).unwrap_or_default().failures_in_a_row
    }

    /// Recent time to the first byte; 0 while nothing was measured.
    pub fn latency_micros(&self, backend: usize) -> u32 {
        self.recent(backend).unwrap_or_default().latency_micros
    }

    fn recent(&self, backend: usize) -> Option<Recent> {
        self.backends.get(backend).map(Cell::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Tick {
        Tick { nanos: millis * 1_000_000 }
    }

    #[test]
    fn failures_avoid_for_longer_and_a_success_forgives() {
        let health = Health::new(2);
        assert!(health.is_good(1, at(0)));
        for (failure, avoided_ms) in
            [(1, 1_000), (2, 2_000), (3, 4_000), (4, 8_000), (5, 16_000), (6, 30_000), (7, 30_000)]
        {
            health.failed(1, at(100), 0);
            assert!(!health.is_good(1, at(100 + avoided_ms - 1)), "after {failure} failures");
            assert!(health.is_good(1, at(100 + avoided_ms)), "after {failure} failures the next call is the probe");
        }
        assert_eq!(health.failures_in_a_row(1), 7);
        assert!(health.is_good(0, at(100)), "another backend is none the worse for it");
        health.succeeded(1, Duration::from_millis(5));
        assert!(health.is_good(1, at(0)) && health.failures_in_a_row(1) == 0);
        assert_eq!(health.latency_micros(1), 5_000);
        health.succeeded(1, Duration::from_millis(13));
        assert_eq!(health.latency_micros(1), 6_000, "one slow answer moves the average by an eighth");
    }

    #[test]
    fn a_backend_that_the_view_does_not_have_is_not_good() {
        let health = Health::new(1);
        health.succeeded(usize::MAX, Duration::ZERO);
        health.failed(1, at(0), 0);
        assert!(!health.is_good(1, at(0)) && !health.is_good(usize::MAX, at(0)));
    }
}
