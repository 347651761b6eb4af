//! What one core remembers of a backend's recent behaviour, so that reads prefer copies that will answer and writes
//! prefer backends that will take them. A light predecessor of the backend breaker: it reorders, it never refuses.

use super::retry::Backoff;
use crate::base::Tick;
use std::time::Duration;

/// After n failures in a row a backend is avoided for a second doubled n-1 times, at most half a minute.
const AVOID: Backoff = Backoff { first: Duration::from_secs(1), cap: Duration::from_secs(30) };

/// Only the backend's own faults are failures: never a 4xx, a client's abort or a cancelled call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Health {
    failures_in_a_row: u32,
    avoid_until: Tick,
    latency_micros: u32,
}

impl Health {
    pub fn failed(&mut self, now: Tick, roll: u64) {
        self.avoid_until = now.after(AVOID.delay(self.failures_in_a_row, roll));
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
    }

    /// `first_byte` is the time from the request to the answer's head.
    pub fn succeeded(&mut self, first_byte: Duration) {
        self.failures_in_a_row = 0;
        self.avoid_until = Tick::default();
        let sample = u32::try_from(first_byte.as_micros()).unwrap_or(u32::MAX).max(1);
        // An average over about eight answers: recent, yet one slow answer does not send everybody elsewhere.
        self.latency_micros = match self.latency_micros {
            0 => sample,
            old => old - old / 8 + sample / 8,
        };
    }

    /// Whether calls should go here first. After the wait it is preferred again: the next call is the probe.
    pub fn is_good(&self, now: Tick) -> bool {
        self.failures_in_a_row == 0 || now >= self.avoid_until
    }

    pub fn failures_in_a_row(&self) -> u32 {
        self.failures_in_a_row
    }

    /// Recent time to the first byte; 0 while nothing was measured.
    pub fn latency_micros(&self) -> u32 {
        self.latency_micros
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
        let mut health = Health::default();
        assert!(health.is_good(at(0)));
        for (failure, avoided_ms) in
            [(1, 1_000), (2, 2_000), (3, 4_000), (4, 8_000), (5, 16_000), (6, 30_000), (7, 30_000)]
        {
            health.failed(at(100), 0);
            assert!(!health.is_good(at(100 + avoided_ms - 1)), "after {failure} failures");
            assert!(health.is_good(at(100 + avoided_ms)), "after {failure} failures the next call is the probe");
        }
        health.succeeded(Duration::from_millis(5));
        assert!(health.is_good(at(0)));
        assert_eq!(health.latency_micros(), 5_000);
        health.succeeded(Duration::from_millis(13));
        assert_eq!(health.latency_micros(), 6_000, "one slow answer moves the average by an eighth");
    }
}
