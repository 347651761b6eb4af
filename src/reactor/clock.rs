//! A reactor's two clocks and its timer. The place where time enters the data path.

use crate::base::{Clock, Tick, Timestamp};
use rustix::time::{ClockId, clock_gettime};
use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The real clocks. One per core; the coarse tick is refreshed by the core's tick task.
#[derive(Debug)]
pub struct CoreClock {
    coarse: Cell<Tick>,
    /// What the wall showed then, since 1970; to the nanosecond, so that `wall_at` is never early.
    coarse_wall: Cell<Duration>,
}

impl Default for CoreClock {
    fn default() -> Self {
        Self { coarse: Cell::new(monotonic()), coarse_wall: Cell::new(wall()) }
    }
}

impl CoreClock {
    /// The time of the last tick, up to `DEADLINE_TICK_MS` old: one load instead of a call, for deadlines and idle times.
    pub fn coarse(&self) -> Tick {
        self.coarse.get()
    }

    /// The wall's time, as old as `coarse`: for the Date field.
    pub fn coarse_now(&self) -> Timestamp {
        timestamp(self.coarse_wall.get())
    }

    /// What the wall shows at a tick that was just read: one call of the system for both clocks.
    pub fn wall_at(&self, tick: Tick) -> Timestamp {
        timestamp(self.coarse_wall.get() + tick.since(self.coarse.get()))
    }

    /// Called by the tick task only.
    pub fn refresh(&self) -> Tick {
        let now = monotonic();
        self.coarse.set(now);
        self.coarse_wall.set(wall());
        now
    }
}

impl Clock for CoreClock {
    fn tick(&self) -> Tick {
        monotonic()
    }

    fn now(&self) -> Timestamp {
        timestamp(wall())
    }

    /// To the next millisecond. Only inside a runtime. Cancel: safe.
    async fn sleep(&self, wait: Duration) {
        monoio::time::sleep(wait).await;
    }
}

/// Nanoseconds of the system's monotonic clock, the same zero for all threads. It goes on while the machine is suspended: leases
/// lapse all the same.
pub fn monotonic() -> Tick {
    let time = clock_gettime(ClockId::Boottime);
    Tick { nanos: time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs() }
}

/// Since 1970. Asked of the C library, so that a test can show the program another date.
#[allow(clippy::disallowed_methods)]
fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn timestamp(since: Duration) -> Timestamp {
    Timestamp { millis: since.as_secs().cast_signed() * 1000 + i64::from(since.subsec_millis()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_told_from_a_tick_is_never_early() {
        let clock = CoreClock::default();
        for _ in 0..20_000 {
            let before = clock.now();
            assert!(clock.wall_at(clock.tick()) >= before, "what expired before is not valid any more");
        }
    }

    #[test]
    fn the_coarse_tick_stands_still_until_refreshed() {
        let clock = CoreClock::default();
        let start = clock.coarse();
        while clock.tick() == start {}
        assert_eq!(clock.coarse(), start);
        assert!(clock.refresh() > start && clock.coarse() > start);
        let millis_of_2026 = 1_767_225_600_000;
        assert!((0..1000).contains(&(clock.now().millis - clock.coarse_now().millis)), "they are one clock");
        assert!((0..1000).contains(&(clock.now().millis - clock.wall_at(clock.tick()).millis)), "told from a tick too");
        assert!(clock.now().millis > millis_of_2026, "wall-clock time counts from 1970");
    }
}
