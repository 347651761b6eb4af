//! What one core remembers of its backends' recent behaviour, so that reads prefer copies that will answer and writes
//! prefer backends that will take them; and what it tells their breakers, which all cores share (`Standing`).
//!
//! A few failures only change the order in which backends are tried, on this core and for a moment. Many in a row open the
//! breaker, where breakers are on: then nothing is written there, and reads go there last, until the probe (reading the
//! marker) has succeeded. Only the probe closes it; what other calls find meanwhile is not asked.

use super::standing::Standing;
use crate::base::Tick;
use crate::observe::circuit::Circuit;
use crate::policy::breaker::State;
use crate::policy::retry::Backoff;
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

/// After n failures in a row a backend is avoided for a second doubled n-1 times, at most half a minute.
const AVOID: Backoff = Backoff { first: Duration::from_secs(1), cap: Duration::from_secs(30) };

/// A latency that nothing has confirmed for so long counts half, and so on: whoever is passed over for a slow answer is asked
/// again after a few minutes, and rarely if it is always slow.
const LATENCY_HALF_LIFE: Duration = Duration::from_secs(30);

/// Indexes are those of the published view; one outside it is never good and never remembered.
#[derive(Debug)]
pub struct Health {
    backends: Box<[Cell<Recent>]>,
    standing: Arc<Standing>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    failures_in_a_row: u32,
    avoid_until: Tick,
    latency_micros: u32,
    latency_at: Tick,
}

impl Recent {
    fn latency_micros(&self, now: Tick) -> u32 {
        let halvings = now.since(self.latency_at).as_secs() / LATENCY_HALF_LIFE.as_secs();
        match self.latency_micros {
            0 => 0,
            measured => measured.checked_shr(u32::try_from(halvings).unwrap_or(u32::MAX)).unwrap_or(0).max(1),
        }
    }
}

impl Health {
    pub fn new(backends: usize, standing: Arc<Standing>) -> Self {
        Self { backends: (0..backends).map(|_| Cell::default()).collect(), standing }
    }

    /// A call that `began` then failed by the backend's own fault: never a 4xx, a client's abort or a cancelled call.
    pub fn failed(&self, backend: usize, began: Tick, now: Tick, roll: u64) {
        self.avoid(backend, now, roll);
        if let Some(circuit) = self.open_to_news(backend) {
            circuit.failed(began, now, roll);
        }
    }

    /// It answered, but with a no that another moment may change (429 Too Many Requests, a bucket that is not there).
    pub fn declined(&self, backend: usize, began: Tick, now: Tick, roll: u64) {
        self.avoid(backend, now, roll);
        if let Some(circuit) = self.open_to_news(backend) {
            circuit.succeeded(began, now);
        }
    }

    fn avoid(&self, backend: usize, now: Tick, roll: u64) {
        let Some(cell) = self.backends.get(backend) else { return };
        let mut recent = cell.get();
        recent.avoid_until = now.after(AVOID.delay(recent.failures_in_a_row, roll));
        recent.failures_in_a_row = recent.failures_in_a_row.saturating_add(1);
        cell.set(recent);
    }

    /// The head of an answer to a read has come, `first_byte` after the request. Whether its body comes is not known yet.
    pub fn answered(&self, backend: usize, first_byte: Duration, now: Tick) {
        let Some(cell) = self.backends.get(backend) else { return };
        let sample = u32::try_from(first_byte.as_micros()).unwrap_or(u32::MAX).max(1);
        // An average over about eight answers: recent, yet one slow answer does not send everybody elsewhere.
        let recent = cell.get();
        let latency_micros = match recent.latency_micros(now) {
            0 => sample,
            old => old - old / 8 + sample / 8,
        };
        cell.set(Recent { latency_micros, latency_at: now, ..recent });
    }

    /// A call that `began` then ended well, its body included.
    pub fn succeeded(&self, backend: usize, began: Tick, now: Tick) {
        let Some(cell) = self.backends.get(backend) else { return };
        cell.set(Recent { failures_in_a_row: 0, avoid_until: Tick::default(), ..cell.get() });
        if let Some(circuit) = self.open_to_news(backend) {
            circuit.succeeded(began, now);
        }
    }

    fn open_to_news(&self, backend: usize) -> Option<&Circuit> {
        self.standing.circuit(backend).filter(|circuit| circuit.state() != State::HalfOpen)
    }

    /// Whether calls should go here first. After the wait it is preferred again: the next call tells.
    pub fn is_good(&self, backend: usize, now: Tick) -> bool {
        self.recent(backend).is_some_and(|recent| recent.failures_in_a_row == 0 || now >= recent.avoid_until)
            && !self.standing.is_open(backend)
    }

    /// Its breaker is open or half-open: no more than a few calls may wait for it.
    pub fn is_open(&self, backend: usize) -> bool {
        self.standing.is_open(backend)
    }

    pub fn failures_in_a_row(&self, backend: usize) -> u32 {
        self.recent(backend).unwrap_or_default().failures_in_a_row
    }

    /// Recent time to the first byte of reads; 0 while nothing was measured.
    pub fn latency_micros(&self, backend: usize, now: Tick) -> u32 {
        self.recent(backend).unwrap_or_default().latency_micros(now)
    }

    fn recent(&self, backend: usize) -> Option<Recent> {
        self.backends.get(backend).map(Cell::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::BackendName;
    use crate::policy::breaker::BreakerSettings;

    fn at(millis: u64) -> Tick {
        Tick { nanos: millis * 1_000_000 }
    }

    fn health(backends: usize) -> Health {
        Health::new(backends, Arc::new(Standing::new(backends)))
    }

    #[test]
    fn failures_avoid_for_longer_and_a_success_forgives() {
        let health = health(2);
        assert!(health.is_good(1, at(0)));
        for (failure, avoided_ms) in
            [(1, 1_000), (2, 2_000), (3, 4_000), (4, 8_000), (5, 16_000), (6, 30_000), (7, 30_000)]
        {
            health.failed(1, at(90), at(100), 0);
            assert!(!health.is_good(1, at(100 + avoided_ms - 1)), "after {failure} failures");
            assert!(health.is_good(1, at(100 + avoided_ms)), "after {failure} failures the next call is tried");
        }
        assert_eq!(health.failures_in_a_row(1), 7);
        assert!(health.is_good(0, at(100)), "another backend is none the worse for it");
        health.answered(1, Duration::from_millis(5), at(105));
        assert!(!health.is_good(1, at(100)), "a head is no body");
        health.succeeded(1, at(100), at(105));
        assert!(health.is_good(1, at(0)) && health.failures_in_a_row(1) == 0);
        assert_eq!(health.latency_micros(1, at(105)), 5_000, "which its failures and successes leave as it was");
    }

    #[test]
    fn a_latency_moves_by_an_eighth_and_is_believed_less_the_older_it_is() {
        let health = health(1);
        assert_eq!(health.latency_micros(0, at(0)), 0);
        health.answered(0, Duration::from_millis(5), at(1_000));
        health.answered(0, Duration::from_millis(13), at(2_000));
        for (millis, micros) in [(2_000, 6_000), (31_999, 6_000), (32_000, 3_000), (62_000, 1_500), (86_400_000, 1)] {
            assert_eq!(health.latency_micros(0, at(millis)), micros, "at {millis} ms");
        }
        health.answered(0, Duration::from_millis(11), at(32_000));
        assert_eq!(health.latency_micros(0, at(32_000)), 4_000);
    }

    #[test]
    fn a_backend_that_the_view_does_not_have_is_not_good() {
        let health = health(1);
        health.succeeded(usize::MAX, at(0), at(0));
        health.answered(usize::MAX, Duration::ZERO, at(0));
        health.failed(1, at(0), at(0), 0);
        assert!(!health.is_good(1, at(0)) && !health.is_good(usize::MAX, at(0)));
    }

    #[test]
    fn a_breaker_opens_for_all_cores_and_only_its_probe_closes_it() {
        let settings = BreakerSettings {
            failure_threshold: 3,
            open_timeout: Duration::from_secs(300),
            probe_max: Duration::from_secs(60),
        };
        let names = ["one", "two"].map(BackendName::new);
        let standing = Arc::new(Standing::with_breakers(&names, settings));
        standing.set_usable(0, true);
        let cores = [Health::new(2, Arc::clone(&standing)), Health::new(2, Arc::clone(&standing))];
        for _ in 0..9 {
            cores[0].declined(0, at(0), at(1), 0);
        }
        assert!(standing.usable(0) && !cores[0].is_good(0, at(1)), "a no is no failure, but worth a detour");
        for core in [0, 1, 0] {
            assert!(!standing.is_open(0));
            cores[core].failed(0, at(1), at(2), 0);
        }
        assert!(standing.is_open(0) && !standing.usable(0) && standing.is_ours(0));
        assert!(!cores[1].is_good(0, at(400_000)), "however long ago, until the probe");
        let circuit = standing.circuit(0).expect("breakers are on");
        assert!(!circuit.probe_due(at(299_000), 0));
        cores[1].succeeded(0, at(3), at(4));
        assert!(standing.is_open(0) && circuit.probe_due(at(5), 0), "a last resort that worked asks for the probe");
        cores[1].succeeded(0, at(6), at(7));
        cores[0].failed(0, at(6), at(7), 0);
        assert_eq!(circuit.state(), State::HalfOpen, "only the probe's result is heard");
        circuit.succeeded(at(5), at(8));
        assert!(standing.usable(0) && cores[1].is_good(0, at(8)));
    }
}
