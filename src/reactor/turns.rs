//! A bound that is waited for in order: buffers in use, connections in use. One core's own.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// At most so many turns are out at once.
pub struct Turns {
    max: usize,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    out: usize,
    waiting: VecDeque<(u64, Waker)>,
    next_ticket: u64,
}

/// One turn; dropping it lets the next one have it.
pub struct Turn {
    turns: Rc<Turns>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.turns.state.borrow_mut();
        state.out -= 1;
        state.wake_first();
    }
}

impl State {
    fn wake_first(&self) {
        if let Some((_, waker)) = self.waiting.front() {
            waker.wake_by_ref();
        }
    }
}

impl Turns {
    pub fn new(max: usize) -> Rc<Self> {
        assert!(max > 0, "nobody would ever have a turn");
        Rc::new(Self { max, state: RefCell::default() })
    }

    /// Turns that are out.
    pub fn out(&self) -> usize {
        self.state.borrow().out
    }

    /// A turn, or None when all are out or promised to those who wait.
    pub fn try_take(self: &Rc<Self>) -> Option<Turn> {
        let promised = self.state.borrow().waiting.len();
        self.take_behind(promised)
    }

    fn take_behind(self: &Rc<Self>, promised: usize) -> Option<Turn> {
        let mut state = self.state.borrow_mut();
        if state.out + promised >= self.max {
            return None;
        }
        state.out += 1;
        Some(Turn { turns: Rc::clone(self) })
    }

    /// A turn, in the order of asking. Cancel: safe.
    pub async fn take(self: &Rc<Self>) -> Turn {
        if let Some(turn) = self.try_take() {
            return turn;
        }
        let ticket = Ticket::draw(self);
        poll_fn(|cx| {
            let ahead = self.state.borrow().waiting.iter().position(|(number, _)| *number == ticket.number);
            let ahead = ahead.expect("a ticket stays in the queue until it is dropped");
            if let Some(turn) = self.take_behind(ahead) {
                return Poll::Ready(turn);
            }
            self.state.borrow_mut().waiting[ahead].1.clone_from(cx.waker());
            Poll::Pending
        })
        .await
    }
}

/// A place in the queue; leaving it wakes the next.
struct Ticket<'a> {
    turns: &'a Turns,
    number: u64,
}

impl<'a> Ticket<'a> {
    fn draw(turns: &'a Turns) -> Self {
        let mut state = turns.state.borrow_mut();
        let number = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.push_back((number, Waker::noop().clone()));
        Self { turns, number }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.turns.state.borrow_mut();
        state.waiting.retain(|(number, _)| *number != self.number);
        if state.out < self.turns.max {
            state.wake_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::race::{Won, race};
    use crate::reactor::testing::{on_both, sleep_ms, until};

    #[test]
    fn those_who_wait_are_served_in_order_and_may_leave() {
        on_both(|_core| async move {
            let turns = Turns::new(2);
            let mut held: Vec<_> = std::iter::from_fn(|| turns.try_take()).collect();
            assert_eq!((held.len(), turns.out()), (2, 2));
            let order = Rc::new(RefCell::new(Vec::new()));
            for number in 0..5 {
                let (turns, order) = (Rc::clone(&turns), Rc::clone(&order));
                monoio::spawn(async move {
                    // The second gives up before its turn.
                    if number == 1 {
                        assert!(matches!(race(turns.take(), sleep_ms(20)).await, Won::Second(())));
                        return;
                    }
                    let _turn = turns.take().await;
                    order.borrow_mut().push(number);
                    sleep_ms(1).await;
                });
            }
            sleep_ms(50).await;
            held.clear();
            assert!(turns.try_take().is_none(), "nobody overtakes those who wait");
            until("all were served", || order.borrow().len() == 4).await;
            assert_eq!(*order.borrow(), [0, 2, 3, 4]);
            until("all turns are back", || turns.out() == 0).await;
        });
    }
}
