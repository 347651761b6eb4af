//! How a reactor asks another thread: the metadata desk, a disk thread, the resolver, control.
//!
//! Requests go through one channel, bounded by each mailbox's number of slots; replies come back through a locked vector
//! and an eventfd that is rung only when the vector was empty. monoio's own cross-thread wake-ups are not used: they cost
//! the ring a tenth of its speed, and without them a foreign thread that wakes a monoio task panics (RUNTIME 4).
//! In steady state a call allocates nothing.

use super::fair::Fair;
use super::handle::{Bell, Pollable};
use crate::observe::cells::CoreCells;
use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

/// Replies handed out before the task that hands them out lets the others run.
const REPLIES_PER_TURN: usize = 64;

/// The two ends of a channel. It has no bound of its own: every mailbox bounds its calls by its slots, and a channel that
/// refused what they let pass could strand the end of something that was let begin.
pub fn channel<Req, Rep>() -> (Postbox<Req, Rep>, Desk<Req, Rep>) {
    let (send, receive) = flume::unbounded();
    (Postbox { send }, Desk { receive })
}

/// What a thread needs to make a mailbox.
pub struct Postbox<Req, Rep> {
    send: flume::Sender<Letter<Req, Rep>>,
}

impl<Req, Rep> Clone for Postbox<Req, Rep> {
    fn clone(&self) -> Self {
        Self { send: self.send.clone() }
    }
}

impl<Req, Rep> Postbox<Req, Rep> {
    /// Sends without a way back, from any thread: closing a file, giving something up.
    pub fn post(&self, request: Req) {
        // When the desk is gone, so is the reason to tell it.
        let _ = self.send.send(Letter { request, replier: Replier { slot: 0, returns: None } });
    }
}

/// Where the other thread takes requests from. Several threads may share one.
pub struct Desk<Req, Rep> {
    receive: flume::Receiver<Letter<Req, Rep>>,
}

impl<Req, Rep> Clone for Desk<Req, Rep> {
    fn clone(&self) -> Self {
        Self { receive: self.receive.clone() }
    }
}

impl<Req, Rep> Drop for Desk<Req, Rep> {
    fn drop(&mut self) {
        // The channel would keep what nobody will take; dropping the letters tells their callers.
        if self.receive.receiver_count() == 1 {
            self.receive.drain().for_each(drop);
        }
    }
}

impl<Req, Rep> Desk<Req, Rep> {
    /// Waits on a plain thread. None once every postbox and mailbox is gone.
    pub fn wait(&self) -> Option<Letter<Req, Rep>> {
        self.receive.recv().ok()
    }

    /// Waits on an async thread. None once every postbox and mailbox is gone. Cancel: safe.
    pub async fn next(&self) -> Option<Letter<Req, Rep>> {
        self.receive.recv_async().await.ok()
    }

    /// What is there already.
    pub fn try_next(&self) -> Option<Letter<Req, Rep>> {
        self.receive.try_recv().ok()
    }

    /// Letters that wait to be taken.
    pub fn len(&self) -> usize {
        self.receive.len()
    }

    pub fn is_empty(&self) -> bool {
        self.receive.is_empty()
    }
}

/// A request with the way back.
pub struct Letter<Req, Rep> {
    pub request: Req,
    pub replier: Replier<Rep>,
}

/// The way back to one call; any thread may use it, once. Dropped unused (a panic of the desk), the call ends as `Lost`.
pub struct Replier<Rep> {
    slot: u32,
    returns: Option<Arc<Returns<Rep>>>,
}

impl<Rep> Replier<Rep> {
    pub fn reply(mut self, reply: Rep) {
        if let Some(returns) = self.returns.take() {
            returns.put(self.slot, Some(reply));
        }
    }
}

impl<Rep> Drop for Replier<Rep> {
    fn drop(&mut self) {
        if let Some(returns) = self.returns.take() {
            returns.put(self.slot, None);
        }
    }
}

struct Returns<Rep> {
    replies: Mutex<Vec<(u32, Option<Rep>)>>,
    bell: Bell,
}

impl<Rep> Returns<Rep> {
    fn put(&self, slot: u32, reply: Option<Rep>) {
        let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        replies.push((slot, reply));
        let first = replies.len() == 1;
        drop(replies);
        if first {
            self.bell.ring();
        }
    }

    /// Swaps what has come with an empty vector.
    fn take_all(&self, empty: &mut Vec<(u32, Option<Rep>)>) {
        // Quiet first: a reply put after this rings again or is taken by the swap.
        self.bell.quiet();
        std::mem::swap(&mut *self.replies.lock().unwrap_or_else(PoisonError::into_inner), empty);
    }
}

/// Why a call has no reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Undelivered {
    /// The mailbox is full; nothing was sent. The client should slow down.
    Full,
    /// The other thread is gone or dropped the request: whether it took effect is unknown.
    Lost,
}

impl fmt::Display for Undelivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the mailbox is full",
            Self::Lost => "the reply was lost",
        })
    }
}

impl std::error::Error for Undelivered {}

enum Slot<Rep> {
    Free,
    Waiting(Option<Waker>),
    Done(Option<Rep>),
    /// The caller is gone; the reply is still to come and ends the slot.
    Gone,
}

struct Slots<Rep> {
    slots: Vec<Slot<Rep>>,
    free: Vec<u32>,
}

impl<Rep> Slots<Rep> {
    fn under_way(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn take(&mut self, with: Slot<Rep>) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = with;
            return slot;
        }
        let slot = u32::try_from(self.slots.len()).expect("fewer than 2^32 calls at once");
        self.slots.push(with);
        slot
    }

    fn end(&mut self, slot: u32) -> Slot<Rep> {
        self.free.push(slot);
        std::mem::replace(&mut self.slots[slot as usize], Slot::Free)
    }

    fn deliver(&mut self, slot: u32, reply: Option<Rep>) {
        match &mut self.slots[slot as usize] {
            Slot::Waiting(waker) => {
                let waker = waker.take();
                self.slots[slot as usize] = Slot::Done(reply);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Slot::Gone => drop(self.end(slot)),
            Slot::Free | Slot::Done(_) => unreachable!("a slot is answered once"),
        }
    }
}

/// One reactor's end. Not shared between threads.
pub struct Mailbox<Req, Rep> {
    send: flume::Sender<Letter<Req, Rep>>,
    slots: Rc<RefCell<Slots<Rep>>>,
    returns: Arc<Returns<Rep>>,
    calls_max: usize,
    cells: Arc<CoreCells>,
}

impl<Req: 'static, Rep: 'static> Mailbox<Req, Rep> {
    /// Opens this thread's end; of its calls at most `calls_max` are under way at once. Only inside a runtime.
    pub fn open(
        postbox: Postbox<Req, Rep>,
        calls_max: usize,
        fair: Rc<Fair>,
        cells: Arc<CoreCells>,
    ) -> io::Result<Self> {
        let bell = Bell::new()?;
        let ear = bell.listen()?;
        let returns = Arc::new(Returns { replies: Mutex::default(), bell });
        let slots = Rc::new(RefCell::new(Slots { slots: Vec::new(), free: Vec::new() }));
        monoio::spawn(hand_out(Arc::clone(&returns), Rc::clone(&slots), ear, fair));
        Ok(Self { send: postbox.send, slots, returns, calls_max, cells })
    }

    /// Asks and waits for the reply; refused when too many calls are under way.
    /// Cancel: safe for this side; the request still runs, and its reply is dropped.
    pub async fn call(&self, request: Req) -> Result<Rep, Undelivered> {
        if self.slots.borrow().under_way() >= self.calls_max {
            self.cells.mailbox_refusals.inc();
            return Err(Undelivered::Full);
        }
        self.call_accepted(request).await
    }

    /// As `call`, never refused: for the end of something that was let begin. Bounded all the same, because a task makes
    /// one call at a time and only a task whose `call` was accepted has something to end.
    /// Cancel: safe for this side; the request still runs, and its reply is dropped.
    pub async fn call_accepted(&self, request: Req) -> Result<Rep, Undelivered> {
        let slot = self.slots.borrow_mut().take(Slot::Waiting(None));
        let waiting = Waiting { slots: &self.slots, slot };
        self.post_to(slot, request);
        poll_fn(|cx| waiting.poll(cx)).await.ok_or(Undelivered::Lost)
    }

    fn post_to(&self, slot: u32, request: Req) {
        let replier = Replier { slot, returns: Some(Arc::clone(&self.returns)) };
        // When the desk is gone the letter comes back in the error, and its replier reports the loss.
        let _ = self.send.send(Letter { request, replier });
    }

    /// Calls that were sent and not answered.
    pub fn under_way(&self) -> usize {
        self.slots.borrow().under_way()
    }
}

/// The task behind a mailbox: hears the bell, takes all replies at once, wakes their callers.
async fn hand_out<Rep>(returns: Arc<Returns<Rep>>, slots: Rc<RefCell<Slots<Rep>>>, ear: Pollable, fair: Rc<Fair>) {
    let mut batch = Vec::new();
    let mut handed_out = 0;
    loop {
        if let Err(cause) = ear.readable().await {
            tracing::error!(%cause, "waiting for the mailbox bell failed");
            monoio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        returns.take_all(&mut batch);
        for (slot, reply) in batch.drain(..) {
            slots.borrow_mut().deliver(slot, reply);
            handed_out += 1;
        }
        if handed_out >= REPLIES_PER_TURN {
            handed_out = 0;
            fair.yield_io().await;
        }
    }
}

/// A call in its slot. Dropped before the reply, the slot is left to the reply.
struct Waiting<'a, Rep> {
    slots: &'a RefCell<Slots<Rep>>,
    slot: u32,
}

impl<Rep> Waiting<'_, Rep> {
    fn poll(&self, cx: &std::task::Context<'_>) -> Poll<Option<Rep>> {
        match &mut self.slots.borrow_mut().slots[self.slot as usize] {
            Slot::Waiting(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Slot::Done(reply) => Poll::Ready(reply.take()),
            Slot::Free | Slot::Gone => unreachable!("a waiting call owns its slot"),
        }
    }
}

impl<Rep> Drop for Waiting<'_, Rep> {
    fn drop(&mut self) {
        let mut slots = self.slots.borrow_mut();
        let ended = match &mut slots.slots[self.slot as usize] {
            slot @ Slot::Waiting(_) => {
                *slot = Slot::Gone;
                None
            }
            _ => Some(slots.end(self.slot)),
        };
        drop(slots);
        // A reply that nobody took may own things (files, buffers) whose end calls the mailbox again.
        drop(ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::core::Core;
    use crate::reactor::race::race;
    use crate::reactor::testing::{on_both, pause_ms, sleep_ms, until};
    use std::cell::Cell;

    type Doubler = Mailbox<u64, u64>;

    fn open(core: &Core, postbox: Postbox<u64, u64>, calls_max: usize) -> Rc<Doubler> {
        let mailbox = Mailbox::open(postbox, calls_max, Rc::clone(&core.fair), Arc::clone(&core.cells));
        Rc::new(mailbox.expect("a mailbox opens"))
    }

    fn doubling(desk: Desk<u64, u64>) {
        while let Some(letter) = desk.wait() {
            letter.replier.reply(letter.request * 2);
        }
    }

    async fn many_calls(mailbox: &Rc<Doubler>, tasks: u64, calls_each: u64) {
        let finished = Rc::new(Cell::new(0));
        for task in 0..tasks {
            let (mailbox, finished) = (Rc::clone(mailbox), Rc::clone(&finished));
            monoio::spawn(async move {
                for call in 0..calls_each {
                    let question = task * calls_each + call;
                    assert_eq!(mailbox.call(question).await, Ok(question * 2));
                }
                finished.set(finished.get() + 1);
            });
        }
        until("every call was answered", || finished.get() == tasks).await;
        assert_eq!(mailbox.under_way(), 0);
    }

    #[test]
    fn no_wake_up_is_lost() {
        on_both(|core| async move {
            let (postbox, desk) = channel();
            for desk in [desk.clone(), desk] {
                std::thread::spawn(move || doubling(desk));
            }
            let mailbox = open(&core, postbox, 64);
            many_calls(&mailbox, 1, 20_000).await;
            many_calls(&mailbox, 2, 20_000).await;
            many_calls(&mailbox, 64, 1_500).await;
        });
    }

    #[test]
    fn a_full_mailbox_refuses_calls_but_not_the_end_of_accepted_ones() {
        on_both(|core| async move {
            let (postbox, desk) = channel::<u64, u64>();
            let mailbox = open(&core, postbox, 2);
            for question in 0..2 {
                let mailbox = Rc::clone(&mailbox);
                monoio::spawn(async move { assert_eq!(mailbox.call(question).await, Ok(question * 2)) });
            }
            sleep_ms(5).await;
            assert_eq!(mailbox.call(7).await, Err(Undelivered::Full));
            assert_eq!(core.cells.mailbox_refusals.value(), 1);
            let ended = Rc::new(Cell::new(None));
            let (seen, accepted) = (Rc::clone(&ended), Rc::clone(&mailbox));
            monoio::spawn(async move { seen.set(Some(accepted.call_accepted(9).await)) });
            sleep_ms(5).await;
            assert_eq!(desk.len(), 3);
            std::thread::spawn(move || doubling(desk));
            until("the accepted call was answered", || ended.get() == Some(Ok(18))).await;
            assert_eq!(mailbox.call(8).await, Ok(16), "there is room again");
        });
    }

    #[test]
    fn a_dropped_call_frees_its_slot_when_its_reply_comes() {
        on_both(|core| async move {
            let (postbox, desk) = channel::<u64, u64>();
            let mailbox = open(&core, postbox, 1);
            race(mailbox.call(1), sleep_ms(10)).await;
            assert_eq!(mailbox.call(2).await, Err(Undelivered::Full), "the request is still under way");
            std::thread::spawn(move || doubling(desk));
            until("the slot is free", || mailbox.under_way() == 0).await;
            assert_eq!(mailbox.call(3).await, Ok(6), "no late reply reaches another call");
        });
    }

    #[test]
    fn a_request_that_is_dropped_unanswered_is_lost_and_not_hung() {
        on_both(|core| async move {
            let (postbox, desk) = channel::<u64, u64>();
            let mailbox = open(&core, postbox, 8);
            let quitting = std::thread::spawn(move || {
                drop(desk.wait());
                // The second waits in the channel when its last reader leaves.
                while desk.is_empty() {
                    pause_ms(1);
                }
            });
            assert_eq!(mailbox.call(1).await, Err(Undelivered::Lost));
            assert_eq!(mailbox.call(2).await, Err(Undelivered::Lost));
            quitting.join().expect("no panic");
            assert_eq!(mailbox.call(3).await, Err(Undelivered::Lost), "nobody is there");
        });
    }
}
