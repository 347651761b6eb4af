//! A named circuit breaker as operators see it: its transitions are logged and counted, its state is a gauge.
//!
//! Shared by all threads; while all is well, a call costs it one load.

use crate::base::Tick;
use crate::policy::breaker::{Breaker, BreakerSettings, State, Transition};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The transitions that there are.
pub const TRANSITIONS: [(State, State); 4] = [
    (State::Closed, State::Open),
    (State::Open, State::HalfOpen),
    (State::HalfOpen, State::Open),
    (State::HalfOpen, State::Closed),
];

#[derive(Debug)]
pub struct Circuit {
    /// `database`, `redis`, or a backend's.
    pub name: String,
    breaker: Breaker,
    transitions: [AtomicU64; TRANSITIONS.len()],
}

impl Circuit {
    /// Closed.
    pub fn new(name: impl Into<String>, settings: BreakerSettings) -> Self {
        Self { name: name.into(), breaker: Breaker::new(settings), transitions: Default::default() }
    }

    pub fn is_closed(&self) -> bool {
        self.breaker.is_closed()
    }

    pub fn state(&self) -> State {
        self.breaker.state()
    }

    pub fn failures_in_a_row(&self) -> u32 {
        self.breaker.failures_in_a_row()
    }

    /// How long it has been open or half-open; zero while it is closed.
    pub fn degraded(&self, now: Tick) -> Duration {
        self.breaker.degraded(now)
    }

    /// A call that `began` then has failed, by the other side's own fault.
    pub fn failed(&self, began: Tick, now: Tick, roll: u64) {
        self.note(self.breaker.failed(began, now, roll));
    }

    /// A call that `began` then was answered.
    pub fn succeeded(&self, began: Tick, now: Tick) {
        self.note(self.breaker.succeeded(began, now));
    }

    /// Whether the caller, and nobody else, is to probe now, and to report what came of it.
    pub fn probe_due(&self, now: Tick, roll: u64) -> bool {
        let transition = self.breaker.advance(now, roll);
        self.note(transition);
        transition.is_some_and(|one| one.to == State::HalfOpen)
    }

    /// How often it has closed again: the number of outages that are over.
    pub fn times_closed(&self) -> u64 {
        self.transitions(State::HalfOpen, State::Closed)
    }

    pub fn transitions(&self, from: State, to: State) -> u64 {
        let index = TRANSITIONS.iter().position(|one| *one == (from, to));
        index.map_or(0, |index| self.transitions[index].load(Relaxed))
    }

    fn note(&self, transition: Option<Transition>) {
        let Some(Transition { from, to, failures, degraded }) = transition else { return };
        if let Some(index) = TRANSITIONS.iter().position(|one| *one == (from, to)) {
            self.transitions[index].fetch_add(1, Relaxed);
        }
        let (name, degraded_duration) = (self.name.as_str(), format!("{:.3}s", degraded.as_secs_f64()));
        match to {
            State::Open => tracing::warn!(name, failures, degraded_duration, "circuit breaker opened"),
            State::HalfOpen => tracing::info!(name, failures, degraded_duration, "circuit breaker half-open"),
            State::Closed => tracing::info!(name, failures, degraded_duration, "circuit breaker closed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions_are_counted() {
        let settings =
            BreakerSettings { failure_threshold: 1, open_timeout: Duration::ZERO, probe_max: Duration::from_secs(1) };
        let circuit = Circuit::new("redis", settings);
        let now = Tick { nanos: 5_000_000 };
        for _ in 0..2 {
            circuit.failed(now, now, 0);
            assert!(!circuit.is_closed());
            assert!(circuit.probe_due(now, 0) && !circuit.probe_due(now, 0), "one probe");
            circuit.failed(now, now, 0);
            assert!(circuit.probe_due(now, 0));
            circuit.succeeded(now, now);
            assert_eq!(circuit.state(), State::Closed);
        }
        let counts = TRANSITIONS.map(|(from, to)| circuit.transitions(from, to));
        assert_eq!(counts, [2, 4, 2, 2]);
        assert_eq!(circuit.transitions(State::Closed, State::Closed), 0);
    }
}
