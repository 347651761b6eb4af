//! Tasks whose panic ends themselves and nothing else. monoio lets a task's panic unwind the whole reactor, whose listener
//! then stays in the SO_REUSEPORT group: connections would hang (RUNTIME 8). So every spawn goes through here, and a
//! reactor thread that ends all the same takes the process with it.

use crate::observe::cells::CoreCells;
use crate::observe::logs;
use monoio::task::JoinHandle;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

/// Starts a task on this core. Its result is None if it panicked; the panic is counted and logged.
pub fn spawn<F>(cells: &Arc<CoreCells>, what: &'static str, future: F) -> JoinHandle<Option<F::Output>>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let cells = Arc::clone(cells);
    monoio::spawn(async move { shielded(&cells, what, future).await })
}

/// Runs a future to its end or its panic. Cancel: as safe as the future.
pub async fn shielded<F: Future>(cells: &CoreCells, what: &'static str, future: F) -> Option<F::Output> {
    // In an Option so that its drop, which can panic as well, happens inside the shield.
    let mut running = pin!(Some(future));
    poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| poll_and_drop(running.as_mut(), cx)));
        polled.map(|poll| poll.map(Some)).unwrap_or_else(|cause| {
            cells.panics.inc();
            tracing::error!(task = what, cause = panic_text(&*cause), "task panicked");
            Poll::Ready(None)
        })
    })
    .await
}

fn poll_and_drop<F: Future>(mut running: Pin<&mut Option<F>>, cx: &mut Context<'_>) -> Poll<F::Output> {
    let future = running.as_mut().as_pin_mut().expect("polled after its end");
    let polled = future.poll(cx);
    if polled.is_ready() {
        running.set(None);
    }
    polled
}

/// What a panic said.
pub(super) fn panic_text(cause: &(dyn std::any::Any + Send)) -> &str {
    let text = cause.downcast_ref::<&str>().copied();
    text.or_else(|| cause.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no text)")
}

/// Held by a reactor thread for as long as it lives. If the thread ends without `let_go`, the process aborts: a dead
/// reactor's listener would swallow connections.
pub struct ThreadGuard {
    name: &'static str,
    armed: bool,
}

impl ThreadGuard {
    pub fn new(name: &'static str) -> Self {
        Self { name, armed: true }
    }

    /// The thread ends on purpose, its listener closed.
    pub fn let_go(mut self) {
        self.armed = false;
    }
}

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        if self.armed {
            tracing::error!(thread = self.name, "a reactor thread ended, aborting");
            logs::flush();
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::testing::{on_both, sleep_ms};

    struct PanicsWhenDropped;

    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("in a drop");
        }
    }

    #[test]
    fn a_panic_ends_its_own_task_only() {
        on_both(|core| async move {
            let neighbour = spawn(&core.cells, "neighbour", async {
                sleep_ms(20).await;
                "alive"
            });
            let at_once = spawn(&core.cells, "at once", async { panic!("before any wait") });
            let later = spawn(&core.cells, "later", async {
                sleep_ms(1).await;
                panic!("after a wait: {}", 1);
            });
            let in_drop = spawn(&core.cells, "in a drop", async {
                let _held = PanicsWhenDropped;
                sleep_ms(1).await;
            });
            let results: [Option<()>; 3] = [at_once.await, later.await, in_drop.await];
            assert_eq!(results, [None; 3]);
            assert_eq!(neighbour.await, Some("alive"));
            assert_eq!(core.cells.panics.value(), 3);
        });
    }
}
