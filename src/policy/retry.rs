//! How long to wait before trying again. Used by workers, by the desk after a lost answer, and by backend health.

use std::time::Duration;

/// A wait that doubles with every attempt up to a cap, half of it by chance so that many waiters do not return at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    pub first: Duration,
    pub cap: Duration,
}

impl Backoff {
    /// The wait after the failed attempt number `attempt` (from 0), between half of its ceiling and all of it.
    pub fn delay(self, attempt: u32, roll: u64) -> Duration {
        let ceiling = self.ceiling(attempt);
        let half_nanos = u64::try_from(ceiling.as_nanos() / 2).unwrap_or(u64::MAX - 1);
        ceiling.saturating_sub(Duration::from_nanos(roll % (half_nanos + 1)))
    }

    /// The longest wait after that attempt; for schedules that are written down, where chance has no place.
    pub fn ceiling(self, attempt: u32) -> Duration {
        self.first.saturating_mul(1 << attempt.min(31)).min(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_cap_and_never_falls_below_half() {
        let backoff = Backoff { first: Duration::from_millis(20), cap: Duration::from_secs(2) };
        for (attempt, ceiling_ms) in [(0, 20), (1, 40), (6, 1280), (7, 2000), (40, 2000), (u32::MAX, 2000)] {
            assert_eq!(backoff.ceiling(attempt), Duration::from_millis(ceiling_ms), "attempt {attempt}");
            for roll in [0, 1, 12_345_678_901, u64::MAX / 3, u64::MAX] {
                let delay = backoff.delay(attempt, roll);
                let range = Duration::from_millis(ceiling_ms) / 2..=Duration::from_millis(ceiling_ms);
                assert!(range.contains(&delay), "attempt {attempt}, roll {roll}: {delay:?}");
            }
        }
    }

    #[test]
    fn huge_waits_do_not_overflow() {
        let backoff = Backoff { first: Duration::MAX, cap: Duration::MAX };
        assert!(backoff.delay(9, u64::MAX) > Duration::from_secs(1));
    }
}
