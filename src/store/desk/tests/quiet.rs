//! The desk waits quietly: while nothing comes, nobody wakes it.

use super::*;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Wake, Waker};

/// A waker of its own for every poll, as an executor may hand out: all of them count into one number.
struct Counting(Arc<AtomicU32>);

impl Wake for Counting {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Time stands still.
struct StoppedClock(TestClock);

impl Clock for StoppedClock {
    fn tick(&self) -> Tick {
        self.0.tick()
    }

    fn now(&self) -> Timestamp {
        self.0.now()
    }

    async fn sleep(&self, _: Duration) {
        std::future::pending::<()>().await;
    }
}

/// Polls until nobody asks for another poll.
fn run_until_quiet(mut desk: Pin<&mut impl Future<Output = ()>>) {
    let wakes = Arc::new(AtomicU32::new(1));
    let mut polls = 0;
    while wakes.swap(0, Ordering::Relaxed) > 0 {
        polls += 1;
        assert!(polls < 50, "it wakes itself for ever");
        let waker = Waker::from(Arc::new(Counting(Arc::clone(&wakes))));
        assert!(desk.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
}

#[test]
fn a_desk_whose_batch_is_under_way_is_not_woken_by_what_it_has_taken_already() {
    let clock = TestClock::new();
    let store = Scripted::new(clock.clone());
    let (_, writer) = LocationCache::new(1 << 20, 1);
    let clock = StoppedClock(clock);
    let desk = Desk::new(store, clock, CountingDice(Cell::new(0)), DeskLimits::default(), Locations::Exact(writer));
    let (calls, inbox) = flume::bounded(8);
    let ask = |deployment: &str| {
        let change = Change::Register(Register { deployment: deployment.into(), backends: Vec::new() });
        let (reply, answer) = tokio::sync::oneshot::channel();
        calls.send(Call { ask: Ask::Change(change), reply }).expect("the desk is there");
        answer
    };
    let mut working = pin!(desk.run(inbox));
    run_until_quiet(working.as_mut());
    desk.store.batches_may_run.forget_permits(1000);
    let mut first = ask("one");
    run_until_quiet(working.as_mut());
    // Arrives while the first is under way, and is taken when that has ended.
    let mut second = ask("two");
    desk.store.batches_may_run.add_permits(1);
    run_until_quiet(working.as_mut());
    assert!(first.try_recv().is_ok() && second.try_recv().is_err());
    run_until_quiet(working.as_mut());
    desk.store.batches_may_run.add_permits(1);
    run_until_quiet(working.as_mut());
    assert!(second.try_recv().is_ok());
}
