//! A slot for one value between two tasks of the simulator.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

struct Slot<T> {
    value: Option<T>,
    sender_alive: bool,
    waiting: Option<Waker>,
}

pub struct Sender<T>(Rc<RefCell<Slot<T>>>);
pub struct Receiver<T>(Rc<RefCell<Slot<T>>>);

pub fn oneshot<T>() -> (Sender<T>, Receiver<T>) {
    let slot = Rc::new(RefCell::new(Slot { value: None, sender_alive: true, waiting: None }));
    (Sender(slot.clone()), Receiver(slot))
}

impl<T> Sender<T> {
    pub fn send(self, value: T) {
        self.0.borrow_mut().value = Some(value);
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut slot = self.0.borrow_mut();
        slot.sender_alive = false;
        if let Some(waker) = slot.waiting.take() {
            waker.wake();
        }
    }
}

impl<T> Receiver<T> {
    /// None if the sender went away without sending.
    pub async fn receive(self) -> Option<T> {
        poll_fn(|context| {
            let mut slot = self.0.borrow_mut();
            if slot.sender_alive {
                slot.waiting = Some(context.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(slot.value.take())
        })
        .await
    }
}
