//! The circuit breaker: after some failures in a row nobody asks any more, until a single probe finds that it works again.
//! One machine for the database, for every backend and for Redis; what counts as a failure is the caller's to decide.
//!
//! closed -> open after `failure_threshold` consecutive failures -> half-open when the wait is over, for one probe ->
//! closed, or open again. Calls go through while it is closed. Whoever looks after the dependency asks `advance`; told
//! that the state is half-open now, it alone probes. A probe that does not come back within `probe_max` is given up: open.
//!
//! The state is one word that all threads share: while all is well a call costs a load, and nothing is written.
//! A result says when its call began; one that began before the present state did is of another time and changes nothing.

use crate::base::Tick;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BreakerSettings {
    /// Failures in a row that open it; at least 1.
    pub failure_threshold: u32,
    /// How long it is open before a probe; up to a quarter more by chance, so that instances do not probe together.
    pub open_timeout: Duration,
    /// A probe that takes longer is given up.
    pub probe_max: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Closed,
    Open,
    HalfOpen,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// What has just changed, told to the one who caused it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transition {
    pub from: State,
    pub to: State,
    /// Failures in a row so far; 0 when it has closed.
    pub failures: u32,
    /// Since it was first opened.
    pub degraded: Duration,
}

/// The state, unpacked: two bits of state, sixteen of failures, the rest milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Word {
    state: State,
    failures: u32,
    /// Closed and half-open: since when. Open: when the probe is due.
    millis: u64,
}

const FAILURES_MAX: u32 = u16::MAX as u32;

impl Word {
    fn pack(self) -> u64 {
        let state = match self.state {
            State::Closed => 0,
            State::Open => 1,
            State::HalfOpen => 2,
        };
        (self.millis << 18) | (u64::from(self.failures.min(FAILURES_MAX)) << 2) | state
    }

    fn unpack(word: u64) -> Self {
        let state = match word & 3 {
            0 => State::Closed,
            1 => State::Open,
            _ => State::HalfOpen,
        };
        Self { state, failures: ((word >> 2) & u64::from(FAILURES_MAX)) as u32, millis: word >> 18 }
    }
}

#[derive(Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    word: AtomicU64,
    /// When it was first opened, in milliseconds; of no meaning while it is closed.
    opened: AtomicU64,
}

impl Breaker {
    /// Closed.
    pub fn new(settings: BreakerSettings) -> Self {
        assert!((1..=FAILURES_MAX).contains(&settings.failure_threshold), "a threshold that can be reached");
        Self { settings, word: AtomicU64::new(0), opened: AtomicU64::new(0) }
    }

    fn word(&self) -> Word {
        Word::unpack(self.word.load(Relaxed))
    }

    pub fn state(&self) -> State {
        self.word().state
    }

    /// Whether calls may go through.
    pub fn is_closed(&self) -> bool {
        self.state() == State::Closed
    }

    pub fn failures_in_a_row(&self) -> u32 {
        self.word().failures
    }

    /// How long it has been open or half-open; zero while it is closed.
    pub fn degraded(&self, now: Tick) -> Duration {
        if self.is_closed() { Duration::ZERO } else { since(now, self.opened.load(Relaxed)) }
    }

    /// A call that `began` then has failed, by a fault of the other side. A failed probe opens it again.
    pub fn failed(&self, began: Tick, now: Tick, roll: u64) -> Option<Transition> {
        self.step(now, |word| match word.state {
            State::Open => None,
            _ if millis(began) < word.millis => None,
            State::HalfOpen => Some(self.opened_again(word.failures + 1, now, roll)),
            State::Closed if word.failures + 1 >= self.settings.failure_threshold => {
                Some(self.opened_again(word.failures + 1, now, roll))
            }
            State::Closed => Some(Word { failures: word.failures + 1, ..word }),
        })
    }

    /// A call that `began` then was answered. A probe's success closes it. While it is open, which lets nobody through, the
    /// answer of a call that was made all the same says that a probe is worth making now.
    pub fn succeeded(&self, began: Tick, now: Tick) -> Option<Transition> {
        self.step(now, |word| match word.state {
            State::Closed if word.failures == 0 => None,
            State::Closed => Some(Word { failures: 0, ..word }),
            State::HalfOpen if millis(began) < word.millis => None,
            State::HalfOpen => Some(Word { state: State::Closed, failures: 0, millis: millis(now) }),
            State::Open => Some(Word { millis: word.millis.min(millis(now)), ..word }),
        })
    }

    /// What time alone changes. `to: HalfOpen` in the answer: the caller, and nobody else, is to probe now and to report.
    pub fn advance(&self, now: Tick, roll: u64) -> Option<Transition> {
        self.step(now, |word| match word.state {
            State::Open if millis(now) >= word.millis => {
                Some(Word { state: State::HalfOpen, millis: millis(now), ..word })
            }
            State::HalfOpen if since(now, word.millis) >= self.settings.probe_max => {
                Some(self.opened_again(word.failures, now, roll))
            }
            _ => None,
        })
    }

    fn opened_again(&self, failures: u32, now: Tick, roll: u64) -> Word {
        let wait = self.settings.open_timeout;
        let chance = Duration::from_nanos(roll % (u64::try_from(wait.as_nanos() / 4).unwrap_or(u64::MAX - 1) + 1));
        let failures = failures.min(FAILURES_MAX);
        Word { state: State::Open, failures, millis: millis(now.after(wait.saturating_add(chance))) }
    }

    /// One change of the word, whole: who loses a race against another thread decides again on what is there now.
    fn step(&self, now: Tick, change: impl Fn(Word) -> Option<Word>) -> Option<Transition> {
        let mut seen = self.word.load(Relaxed);
        loop {
            let from = Word::unpack(seen);
            let to = change(from)?;
            if from.state == State::Closed && to.state == State::Open {
                self.opened.store(millis(now), Relaxed);
            }
            match self.word.compare_exchange_weak(seen, to.pack(), Relaxed, Relaxed) {
                Ok(_) if from.state == to.state => return None,
                Ok(_) => {
                    let degraded = since(now, self.opened.load(Relaxed));
                    return Some(Transition { from: from.state, to: to.state, failures: to.failures, degraded });
                }
                Err(other) => seen = other,
            }
        }
    }
}

fn millis(tick: Tick) -> u64 {
    // 46 bits: two thousand years.
    (tick.nanos / 1_000_000).min((1 << 46) - 1)
}

fn since(now: Tick, earlier_millis: u64) -> Duration {
    Duration::from_millis(millis(now).saturating_sub(earlier_millis))
}

#[cfg(test)]
mod tests;
