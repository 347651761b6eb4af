//! When this instance tells the database what it has used of the backends, and borrows from their monthly budgets: regularly, when
//! a month begins, when a core has rung, and at the end.

use super::admin::Operations;
use crate::base::{Clock, Failure, Timestamp};
use crate::proto::date;
use crate::reactor::clock::CoreClock;
use crate::reactor::wake::Woken;
use crate::workers::lend::Occasion;
use std::sync::Arc;
use std::time::Duration;

/// For as long as the control core works. Only on its local set.
pub(super) fn regularly(operations: Arc<Operations>) {
    tokio::task::spawn_local(async move {
        loop {
            until_due(&operations).await;
            if let Err(failure) = operations.flush_usage().await {
                tell(&operations, &failure, "usage could not be recorded");
            }
            if let Err(failure) = operations.lend(Occasion::Regular).await {
                tell(&operations, &failure, "spending of monthly budgets could not be told");
            }
        }
    });
}

/// The same.
pub(super) fn lend_when_rung(operations: Arc<Operations>, borrow: Woken) {
    tokio::task::spawn_local(async move {
        loop {
            borrow.heard().await;
            if let Err(failure) = operations.lend(Occasion::Rung).await {
                tell(&operations, &failure, "nothing more of the monthly budgets was lent");
            }
        }
    });
}

/// Nothing will be used any more.
pub(super) async fn at_the_end(operations: &Operations) {
    if let Err(failure) = operations.flush_usage().await {
        tracing::warn!(%failure, "usage could not be recorded");
    }
    if let Err(failure) = operations.lend(Occasion::End).await {
        tracing::warn!(%failure, "what is left of the monthly budgets was not given back");
    }
}

/// Cancel: safe.
async fn until_due(operations: &Operations) {
    let clock = CoreClock::default();
    let (since, month) = (clock.tick(), date::month((operations.now)()));
    loop {
        let left = operations.usage_interval().await.saturating_sub(clock.tick().since(since));
        let Some(wait) = next_look(left, &month, (operations.now)()) else { return };
        tokio::time::sleep(wait).await;
    }
}

/// How long until it is looked again whether a flush is due; None: it is. So when the interval has passed, and at once when a
/// month has begun, since nothing of its budgets is lent before. Each second, because intervals are shortened near a limit,
/// clocks are set, and machines sleep.
fn next_look(left: Duration, month: &str, now: Timestamp) -> Option<Duration> {
    if left.is_zero() || date::month(now) != month {
        return None;
    }
    let to_next_second = 1000 - now.millis.rem_euclid(1000);
    Some(left.min(Duration::from_millis(to_next_second.unsigned_abs())))
}

/// While the database's breaker is open, its own message has said why.
fn tell(operations: &Operations, failure: &Failure, what: &str) {
    if operations.readiness.is_degraded() {
        tracing::debug!(%failure, "{what}");
    } else {
        tracing::warn!(%failure, "{what}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_is_due_after_its_interval_and_when_a_month_begins() {
        let december = 1_796_083_200_000;
        let at = |millis| Timestamp { millis };
        let millis = Duration::from_millis;
        for (left, now, want) in [
            (30_000, december - 90_000, Some(1000)),
            (30_000, december - 400, Some(400)),
            (250, december - 400, Some(250)),
            (0, december - 400, None),
            (30_000, december, None),
            (30_000, december + 86_400_000, None),
        ] {
            assert_eq!(next_look(millis(left), "2026-11", at(now)), want.map(millis), "{left} ms left at {now}");
        }
        assert_eq!(next_look(millis(30_000), "2026-12", at(december)), Some(millis(1000)), "once");
    }
}
