//! Two futures, the first to finish wins. Only for futures whose loser may be dropped: readiness, timers, signals. Never
//! for a read, a write or an accept (RUNTIME: finished reads that lose a race lose their bytes).

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Won<A, B> {
    First(A),
    Second(B),
}

/// The first is asked first. Cancel: as safe as both.
pub async fn race<A, B>(first: impl Future<Output = A>, second: impl Future<Output = B>) -> Won<A, B> {
    let (mut first, mut second) = (pin!(first), pin!(second));
    poll_fn(|cx| {
        if let Poll::Ready(value) = first.as_mut().poll(cx) {
            return Poll::Ready(Won::First(value));
        }
        second.as_mut().poll(cx).map(Won::Second)
    })
    .await
}
