//! Time as an argument. Reactors, the mover and the control core have real clocks; the simulator has a virtual one.

use std::time::Duration;

/// A point of monotonic time, in nanoseconds since the process's own zero. For deadlines and durations, never stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Tick {
    pub nanos: u64,
}

impl Tick {
    pub fn after(self, wait: Duration) -> Self {
        Self { nanos: self.nanos.saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)) }
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }
}

/// Wall-clock time in milliseconds since 1970-01-01T00:00:00Z. Stored, shown to clients, compared between rows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Timestamp {
    pub millis: i64,
}

impl Timestamp {
    pub fn seconds(self) -> i64 {
        self.millis.div_euclid(1000)
    }

    pub fn plus(self, wait: Duration) -> Self {
        Self { millis: self.millis.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)) }
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.millis.saturating_sub(earlier.millis).max(0).unsigned_abs())
    }

    pub fn minus(self, wait: Duration) -> Self {
        Self { millis: self.millis.saturating_sub(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)) }
    }
}

/// The two clocks of a thread and its timer.
pub trait Clock {
    fn tick(&self) -> Tick;
    fn now(&self) -> Timestamp;
    /// Cancel: safe.
    fn sleep(&self, wait: Duration) -> impl Future<Output = ()>;
}
