//! How a task lets the others of its core run: it waits until the queue has emptied and the runtime has parked once, so
//! that completions are reaped and timers fire. Self-waking, spawning and re-awaiting readiness do not do that (RUNTIME 0).
//!
//! Long-running tasks charge a `Budget`; nothing else yields.

use super::handle::Bell;
use super::outbox::Outbox;
use crate::base::limits::{YIELD_AFTER_BYTES, YIELD_AFTER_OPERATIONS};
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

pub struct Fair {
    bell: Bell,
    waiting: RefCell<Vec<Waker>>,
    outbox: Rc<Outbox>,
}

impl Fair {
    /// Starts the task that wakes those who yielded. Only inside a runtime.
    pub fn start(outbox: &Rc<Outbox>) -> io::Result<Rc<Self>> {
        let outbox = Rc::clone(outbox);
        let fair = Rc::new(Self { bell: Bell::new()?, waiting: RefCell::default(), outbox });
        let bell = fair.bell.listen()?;
        let served = Rc::clone(&fair);
        monoio::spawn(async move {
            let mut batch = Vec::new();
            loop {
                if let Err(cause) = bell.readable().await {
                    // Nobody may hang for it: yields become short sleeps.
                    tracing::error!(%cause, "waiting for the yield bell failed");
                    monoio::time::sleep(Duration::from_millis(1)).await;
                }
                served.bell.quiet();
                std::mem::swap(&mut *served.waiting.borrow_mut(), &mut batch);
                batch.drain(..).for_each(Waker::wake);
            }
        });
        Ok(fair)
    }

    /// Lets every other task and every due timer of this core run once. About two microseconds. Cancel: safe.
    pub async fn yield_io(&self) {
        let mut waited = false;
        poll_fn(|cx| {
            if waited {
                return Poll::Ready(());
            }
            waited = true;
            let mut waiting = self.waiting.borrow_mut();
            waiting.push(cx.waker().clone());
            if waiting.len() == 1 {
                self.bell.ring();
            }
            Poll::Pending
        })
        .await;
    }
}

/// What one task may still do before it lets the others run.
#[derive(Debug, Default)]
pub struct Budget {
    bytes: usize,
    operations: u32,
}

impl Budget {
    /// Charges one operation that moved `bytes`, and yields when the budget is used up. What others have posted leaves
    /// meanwhile. Cancel: safe.
    pub async fn spend(&mut self, fair: &Fair, bytes: usize) {
        fair.outbox.flush();
        self.bytes += bytes;
        self.operations += 1;
        if self.bytes >= YIELD_AFTER_BYTES || self.operations >= YIELD_AFTER_OPERATIONS {
            *self = Self::default();
            fair.yield_io().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::testing::{Stopwatch, on_both, pair, sleep_ms};
    use std::cell::Cell;
    use std::io::{Read, Write};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_task_that_never_waits_starves_neither_timers_nor_sockets() {
        on_both(|core| async move {
            let (mut small, mut peer) = pair(&core);
            let stop = Rc::new(Cell::new(false));
            let turns = Rc::new(Cell::new(0u64));
            // Two of them, so that each finds the other in the queue.
            for _ in 0..2 {
                let (core, stop, turns) = (Rc::clone(&core), Rc::clone(&stop), Rc::clone(&turns));
                monoio::spawn(async move {
                    let mut budget = Budget::default();
                    while !stop.get() {
                        budget.spend(&core.fair, YIELD_AFTER_BYTES).await;
                        turns.set(turns.get() + 1);
                    }
                });
            }
            let client = std::thread::spawn(move || {
                for round in 0..200u8 {
                    peer.write_all(&[round]).expect("sent");
                    let mut echo = [0];
                    peer.read_exact(&mut echo).expect("answered");
                    assert_eq!(echo, [round]);
                }
            });
            let watch = Stopwatch::start();
            for _ in 0..200 {
                let mut buffer = core.heads.take().await;
                small.read_some(&mut buffer).await.expect("a byte");
                small.write_buffer(&mut buffer).await.expect("sent");
            }
            client.join().expect("the client saw every echo");
            for _ in 0..10 {
                sleep_ms(2).await;
            }
            stop.set(true);
            assert!(watch.elapsed_ms() < 5_000, "200 echoes and 10 timers took {} ms", watch.elapsed_ms());
            assert!(turns.get() > 200, "the busy tasks had their turns too: {}", turns.get());
        });
    }

    #[test]
    fn a_flood_between_fast_peers_leaves_room_for_small_requests() {
        on_both(|core| async move {
            let (mut flooded, mut flooder) = pair(&core);
            let stop = Arc::new(AtomicBool::new(false));
            let stopped = Arc::clone(&stop);
            let flood = std::thread::spawn(move || {
                let bytes = vec![7; 1 << 20];
                while !stopped.load(Ordering::Relaxed) {
                    let _ = flooder.write_all(&bytes);
                }
            });
            let reading = Rc::clone(&core);
            let moved = Rc::new(Cell::new(0));
            let count = Rc::clone(&moved);
            monoio::spawn(async move {
                let mut buffer = reading.bodies.take().await;
                let mut budget = Budget::default();
                while let Ok(bytes @ 1..) = flooded.read_some(&mut buffer).await {
                    buffer.clear();
                    count.set(count.get() + bytes);
                    budget.spend(&reading.fair, bytes).await;
                }
            });
            let watch = Stopwatch::start();
            for _ in 0..50 {
                sleep_ms(1).await;
            }
            assert!(watch.elapsed_ms() < 2_000, "50 timers of 1 ms took {} ms", watch.elapsed_ms());
            assert!(moved.get() > 1 << 20, "the flood flowed: {}", moved.get());
            stop.store(true, Ordering::Relaxed);
            crate::reactor::testing::until("the flood's end", || flood.is_finished()).await;
        });
    }
}
