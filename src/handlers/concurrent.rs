//! Several futures at once on one task, so many at a time. For calls that batch in the metadata desk and for the workers'
//! bounded concurrency; names no runtime.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

/// Runs every future, at most `limit` (at least 1) at a time; `done` gets each result with the future's place in the order.
/// Cancel: as safe as the futures are.
pub async fn each<F: Future>(
    limit: usize,
    futures: impl IntoIterator<Item = F>,
    mut done: impl FnMut(usize, F::Output),
) {
    let mut waiting = futures.into_iter().enumerate();
    let mut running: Vec<(usize, Pin<Box<F>>)> = Vec::new();
    poll_fn(|context| {
        loop {
            while running.len() < limit.max(1) {
                let Some((place, future)) = waiting.next() else { break };
                running.push((place, Box::pin(future)));
            }
            if running.is_empty() {
                return Poll::Ready(());
            }
            let before = running.len();
            running.retain_mut(|(place, future)| match future.as_mut().poll(context) {
                Poll::Ready(result) => {
                    done(*place, result);
                    false
                }
                Poll::Pending => true,
            });
            if running.len() == before {
                return Poll::Pending;
            }
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::task::{Context, Waker};

    #[test]
    fn all_run_and_never_too_many_at_once() {
        for (limit, count) in [(1, 5), (3, 10), (4, 4), (10, 3), (0, 2), (2, 0)] {
            let (running, most) = (Cell::new(0), Cell::new(0));
            let work = (0..count).map(|place: usize| {
                let (running, most) = (&running, &most);
                let mut polls = 0;
                poll_fn(move |context| {
                    if polls == 0 {
                        running.set(running.get() + 1);
                        most.set(most.get().max(running.get()));
                    }
                    polls += 1;
                    if polls > place % 3 {
                        running.set(running.get() - 1);
                        return Poll::Ready(place * 10);
                    }
                    context.waker().wake_by_ref();
                    Poll::Pending
                })
            });
            let mut results = vec![None; count];
            {
                let mut all = Box::pin(each(limit, work, |place, result| results[place] = Some(result)));
                let mut polls = 0;
                while all.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                    polls += 1;
                    assert!(polls < 100, "it ends");
                }
            }
            assert_eq!(results, (0..count).map(|place| Some(place * 10)).collect::<Vec<_>>());
            assert!(most.get() <= limit.max(1), "{} at once, {limit} allowed", most.get());
        }
    }
}
