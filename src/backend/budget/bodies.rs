//! The bodies that a counter's bytes were taken for, by month: which are under way when it turns, and how many bytes of those
//! that have ended will never come back.
//!
//! A body is begun before its bytes are taken, so the sum of what is left and what is under way is never less than what may
//! still be moved. The turn closes the old month in the same step that reads it: each body is carried over once, or not at all.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::SeqCst};

/// A month that was closed is about here; so far no sum of bodies comes.
const CLOSED: i64 = i64::MIN / 2;
/// No body is larger, and what is not one is not counted as more.
const BODY_MAX: u64 = 1 << 50;

#[derive(Debug, Default)]
pub(super) struct Bodies {
    /// Of this month and the last.
    under_way: [AtomicI64; 2],
    ended: [AtomicU64; 2],
    /// What began in a month before this one was given up: it goes on no more, and comes back no more.
    given_up_before: AtomicU32,
}

fn signed(bytes: u64) -> i64 {
    bytes.min(BODY_MAX) as i64
}

fn is_closed(under_way: i64) -> bool {
    under_way < CLOSED / 2
}

impl Bodies {
    fn slot(&self, month: u32) -> &AtomicI64 {
        &self.under_way[(month & 1) as usize]
    }

    /// False, and nothing has begun: that month is closed.
    pub(super) fn begin(&self, month: u32, bytes: u64) -> bool {
        // What is added to a closed month means nothing.
        bytes == 0 || !is_closed(self.slot(month).fetch_add(signed(bytes), SeqCst))
    }

    /// False: the month's turn had carried it over before.
    pub(super) fn end(&self, month: u32, bytes: u64) -> bool {
        bytes == 0 || !is_closed(self.slot(month).fetch_sub(signed(bytes), SeqCst))
    }

    pub(super) fn is_closed(&self, month: u32) -> bool {
        is_closed(self.slot(month).load(SeqCst))
    }

    /// So many bytes of a body that has ended are spent for good.
    pub(super) fn spent(&self, month: u32, bytes: u64) {
        if bytes > 0 {
            self.ended[(month & 1) as usize].fetch_add(bytes, SeqCst);
        }
    }

    /// Before anybody knows that month. Of the last one with that place no body can still be there.
    pub(super) fn open(&self, month: u32) {
        self.slot(month).store(0, SeqCst);
        self.ended[(month & 1) as usize].store(0, SeqCst);
    }

    /// Before anybody knows the month that follows.
    pub(super) fn give_up(&self, month: u32) {
        self.given_up_before.store(month.wrapping_add(1), SeqCst);
    }

    pub(super) fn is_given_up(&self, month: u32) -> bool {
        month < self.given_up_before.load(SeqCst)
    }

    /// From now on this month's bodies, unless they were given up, are the next one's: so many bytes.
    pub(super) fn close(&self, month: u32) -> u64 {
        let under_way = self.slot(month).swap(CLOSED, SeqCst).max(0);
        let carried = if self.is_given_up(month) { 0 } else { under_way };
        self.slot(month.wrapping_add(1)).fetch_add(carried, SeqCst);
        carried.unsigned_abs()
    }

    pub(super) fn under_way(&self, month: u32) -> u64 {
        self.slot(month).load(SeqCst).max(0).unsigned_abs()
    }

    pub(super) fn ended(&self, month: u32) -> u64 {
        self.ended[(month & 1) as usize].load(SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_carried_over_once_or_never() {
        let bodies = Bodies::default();
        assert!([5, 7, 9].iter().all(|bytes| bodies.begin(0, *bytes)) && bodies.end(0, 5));
        bodies.open(1);
        assert_eq!((bodies.under_way(0), bodies.close(0)), (16, 16));
        assert!(bodies.is_closed(0) && !bodies.is_closed(1));
        assert!(!bodies.begin(0, 3), "it begins in the new month instead");
        assert!(!bodies.end(0, 7) && bodies.end(1, 7), "it was carried over");
        assert_eq!(bodies.under_way(1), 9);
        bodies.open(2);
        assert_eq!((bodies.close(1), bodies.under_way(2)), (9, 9));
        assert!(bodies.begin(2, 3) && bodies.end(2, 12));
        assert!(bodies.begin(1, 0) && bodies.end(1, 0), "nothing is always possible");
    }

    #[test]
    fn what_was_given_up_is_not_carried_over() {
        let bodies = Bodies::default();
        assert!(bodies.begin(0, 5) && !bodies.is_given_up(0));
        bodies.give_up(0);
        bodies.open(1);
        assert_eq!((bodies.close(0), bodies.under_way(1)), (0, 0));
        assert!(bodies.is_given_up(0) && !bodies.is_given_up(1) && !bodies.end(0, 5));
    }

    #[test]
    fn bodies_of_all_threads_are_carried_over_exactly() {
        const EACH: u64 = 20_000;
        let bodies = Bodies::default();
        std::thread::scope(|scope| {
            let bodies = &bodies;
            let workers: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(move || {
                        // Every other body stays; how many of those began in the first month, or were carried over.
                        (0..EACH)
                            .filter(|i| {
                                let first = bodies.begin(0, 3);
                                assert!(
                                    first || bodies.begin(1, 3),
                                    "the next month is open before the last is closed"
                                );
                                if i % 2 == 0 && !(first && bodies.end(0, 3)) {
                                    assert!(bodies.end(1, 3));
                                }
                                i % 2 == 1 && first
                            })
                            .count() as u64
                    })
                })
                .collect();
            bodies.open(1);
            let carried = bodies.close(0);
            let began_in_the_first: u64 = workers.into_iter().map(|one| one.join().expect("no panic")).sum();
            assert!(
                carried >= 3 * began_in_the_first,
                "{carried} of {began_in_the_first} bodies, and some that were ending"
            );
            assert_eq!(bodies.under_way(1), 3 * 3 * EACH / 2, "those that stay, whenever they began");
        });
    }
}
