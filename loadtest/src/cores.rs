//! Threads for connections: one per core that this process may use, each with an event loop for its share of them. A burst of
//! answers wakes each thread once; a thread per connection would be woken for each answer, by the proxy, and what that costs
//! would be measured as the proxy's.

use std::num::NonZero;
use tokio::runtime::{Builder, Runtime};

/// How many there are for so many connections.
pub(crate) fn count(connections: usize) -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get).min(connections)
}

/// Runs `work` on each of `count` threads, by their numbers, until all have ended.
pub(crate) fn on_each<T: Send>(count: usize, work: impl AsyncFn(usize) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> =
            (0..count).map(|number| scope.spawn(move || event_loop().block_on(work(number)))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread of connections does not panic")).collect()
    })
}

/// On the calling thread.
pub(crate) fn event_loop() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("the system gives an event loop")
}
