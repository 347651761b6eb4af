//! Small messages that leave together when the core's turn ends: requests to backends and answers to clients that are
//! whole in hand.
//!
//! The dearest part of sending a small message is to wake who waits for it. Sent one right after the other, several
//! messages to one process wake it once; sent as each task gets to it, each one wakes it anew. And whoever posts a message
//! goes on at once: there is nothing to wait for, the peer's silence tells what became of it.
//!
//! What a socket does not take is sent by a task of its own, as its peer reads. `Stream` sees to it that nothing else is
//! written to that socket, and that it is not closed, before a posted message has left.
#![allow(unsafe_code)] // descriptors are borrowed for one call, from streams that flush before they close them

use super::buffer::Buffer;
use super::deadline::DEADLINE_TICK_MS;
use super::handle::{borrow, send_now};
use monoio::net::TcpStream;
use rustix::net::{SendFlags, Shutdown, shutdown};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// Longer messages are written at once: they wake their receiver for a reason.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// So many messages leave before the turn ends: the first ones have waited for the others' work.
const POSTED_MAX: usize = 16;
/// The stream's own deadline strikes first, where it has one.
const PATIENCE_BEYOND: Duration = Duration::from_millis(2 * DEADLINE_TICK_MS);

/// A rest that has no descriptor of its own is tried again after so long.
const AGAIN_AFTER: Duration = Duration::from_millis(10);

/// One core's.
pub struct Outbox {
    posted: RefCell<Posted>,
    /// Counts the flushes.
    turn: Cell<Turn>,
    troubled: RefCell<Vec<Rc<Troubled>>>,
    /// As if the process had no descriptor left.
    #[cfg(test)]
    has_none_left: Cell<bool>,
}

/// From one flush to the next. What was posted in another turn than the present one has left, or is stuck.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Turn(u64);

#[derive(Default)]
struct Posted {
    bytes: Vec<u8>,
    messages: Vec<Message>,
    /// Of the task that flushes.
    flusher: Option<Waker>,
}

struct Message {
    to: RawFd,
    /// Its end in `bytes`, where it is if it has no buffer of its own.
    end: usize,
    whole: Option<Buffer>,
    /// The peer may stand still so long.
    patience: Duration,
}

/// A socket whose message has not left as a whole.
struct Troubled {
    /// None once its stream is gone: the number may be another socket's by now.
    fd: Cell<Option<RawFd>>,
    /// Nothing more is to be sent to it; else the peer has only not taken all yet.
    is_lost: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
    /// Its rest goes through the stream's descriptor; once that is gone, through `own`, if that could be had then.
    is_bare: Cell<bool>,
    own: RefCell<Option<OwnedFd>>,
}

impl Troubled {
    fn at(fd: RawFd) -> Rc<Self> {
        Rc::new(Self {
            fd: Cell::new(Some(fd)),
            is_lost: Cell::new(false),
            waiting: RefCell::default(),
            is_bare: Cell::new(false),
            own: RefCell::default(),
        })
    }

    /// Of one that is bare. Calls `work` with the socket, if there still is one.
    fn with_socket<T>(&self, work: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        if let Some(fd) = self.fd.get() {
            // Safety: a stream is forgotten here before it closes its descriptor.
            return Some(work(unsafe { BorrowedFd::borrow_raw(fd) }));
        }
        self.own.borrow().as_ref().map(|own| work(own.as_fd()))
    }
}

impl Outbox {
    /// Starts the task that flushes. Only inside a runtime.
    pub fn start() -> Rc<Self> {
        let turn = Cell::new(Turn(1)); // no stream begins with it
        let outbox = Rc::new(Self {
            posted: RefCell::default(),
            turn,
            troubled: RefCell::default(),
            #[cfg(test)]
            has_none_left: Cell::new(false),
        });
        let flushed = Rc::clone(&outbox);
        // Woken by the first message of a turn, it runs behind all tasks that were to run then.
        monoio::spawn(poll_fn::<(), _>(move |cx| {
            flushed.flush();
            flushed.posted.borrow_mut().flusher.get_or_insert_with(|| cx.waker().clone());
            Poll::Pending
        }));
        outbox
    }

    /// Queues a message, head and body, for a socket that neither a message of this turn nor a stuck one is for. Answers
    /// the turn in which it leaves.
    pub(super) fn post(self: &Rc<Self>, to: RawFd, head: &[u8], body: &[u8], patience: Duration) -> Turn {
        let mut posted = self.posted.borrow_mut();
        posted.bytes.extend_from_slice(head);
        posted.bytes.extend_from_slice(body);
        drop(posted);
        self.push(to, None, patience)
    }

    /// The same of a message that fills a buffer, which is given back when it has left.
    pub(super) fn post_buffer(self: &Rc<Self>, to: RawFd, whole: Buffer, patience: Duration) -> Turn {
        self.push(to, Some(whole), patience)
    }

    fn push(self: &Rc<Self>, to: RawFd, whole: Option<Buffer>, patience: Duration) -> Turn {
        let turn = self.turn.get();
        let mut posted = self.posted.borrow_mut();
        if posted.messages.is_empty()
            && let Some(flusher) = &posted.flusher
        {
            flusher.wake_by_ref();
        }
        let end = posted.bytes.len();
        posted.messages.push(Message { to, end, whole, patience });
        let is_full = posted.messages.len() >= POSTED_MAX;
        drop(posted);
        if is_full {
            self.flush();
        }
        turn
    }

    pub(super) fn turn(&self) -> Turn {
        self.turn.get()
    }

    /// Sends what was posted. Called by long work too, so that nobody waits for it.
    pub(super) fn flush(self: &Rc<Self>) {
        let mut posted = self.posted.borrow_mut();
        if posted.messages.is_empty() {
            return;
        }
        self.turn.set(Turn(self.turn.get().0 + 1));
        // Taken out for the while: what goes wrong on the way leaves nothing half sent behind.
        let (mut bytes, mut messages) = (std::mem::take(&mut posted.bytes), std::mem::take(&mut posted.messages));
        let mut from = 0;
        for message in messages.drain(..) {
            let bytes = message.whole.as_ref().map_or(&bytes[from..message.end], Buffer::data);
            self.send(&message, bytes);
            from = message.end;
        }
        bytes.clear();
        (posted.bytes, posted.messages) = (bytes, messages);
    }

    fn send(self: &Rc<Self>, message: &Message, bytes: &[u8]) {
        // Safety: a stream flushes before it closes its descriptor.
        let socket = unsafe { BorrowedFd::borrow_raw(message.to) };
        let sent = match send_now(socket, bytes, SendFlags::empty()) {
            Ok(count) if count == bytes.len() => return,
            Ok(count) => Ok(count),
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(cause) => Err(cause),
        };
        let troubled = Troubled::at(message.to);
        self.troubled.borrow_mut().push(Rc::clone(&troubled));
        let patience = message.patience + PATIENCE_BEYOND;
        match sent.map(|count| bytes[count..].to_vec()) {
            Err(_) => lose(&troubled, socket),
            // The rest goes through a descriptor of its own, so that the stream may be closed; if there is none to be had,
            // through the stream's as long as it has that.
            Ok(rest) => match self.second(socket).and_then(TcpStream::from_std) {
                Ok(socket) => self.finish_later(troubled, socket, rest, patience),
                Err(_) => self.finish_without(troubled, rest, patience),
            },
        }
    }

    fn second(&self, socket: BorrowedFd<'_>) -> io::Result<std::net::TcpStream> {
        #[cfg(test)]
        if self.has_none_left.get() {
            return Err(rustix::io::Errno::MFILE.into());
        }
        Ok(socket.try_clone_to_owned()?.into())
    }

    /// Sends the rest as the peer reads.
    fn finish_later(self: &Rc<Self>, troubled: Rc<Troubled>, socket: TcpStream, rest: Vec<u8>, patience: Duration) {
        let outbox = Rc::clone(self);
        monoio::spawn(async move {
            let done = finish(&socket, &rest, patience).await;
            if done.is_err() {
                lose(&troubled, borrow(&socket));
            }
            if done.is_ok() || troubled.fd.get().is_none() {
                outbox.troubled.borrow_mut().retain(|one| !Rc::ptr_eq(one, &troubled));
            }
            troubled.waiting.take().into_iter().for_each(Waker::wake);
        });
    }

    /// The same without a descriptor that could tell when it may be written to.
    fn finish_without(self: &Rc<Self>, troubled: Rc<Troubled>, mut rest: Vec<u8>, patience: Duration) {
        let outbox = Rc::clone(self);
        troubled.is_bare.set(true);
        monoio::spawn(async move {
            let mut waited = Duration::ZERO;
            while !rest.is_empty() && !troubled.is_lost.get() {
                monoio::time::sleep(AGAIN_AFTER).await;
                waited += AGAIN_AFTER;
                match troubled.with_socket(|socket| send_now(socket, &rest, SendFlags::empty())) {
                    Some(Ok(count @ 1..)) => {
                        rest.drain(..count);
                        waited = Duration::ZERO;
                    }
                    Some(Err(cause)) if cause.kind() == io::ErrorKind::WouldBlock && waited < patience => {}
                    _ => {
                        troubled.is_lost.set(true);
                        troubled.with_socket(hang_up);
                    }
                }
            }
            if rest.is_empty() || troubled.fd.get().is_none() {
                outbox.troubled.borrow_mut().retain(|one| !Rc::ptr_eq(one, &troubled));
            }
            troubled.waiting.take().into_iter().for_each(Waker::wake);
        });
    }

    /// Whether any socket's message has not left as a whole.
    pub(super) fn has_troubled(&self) -> bool {
        !self.troubled.borrow().is_empty()
    }

    /// Waits until nothing is stuck for this socket. BrokenPipe: a message for it was lost. Cancel: safe.
    pub(super) async fn unstuck(&self, fd: RawFd) -> io::Result<()> {
        poll_fn(|cx| match self.troubled.borrow().iter().find(|one| one.fd.get() == Some(fd)) {
            None => Poll::Ready(Ok(())),
            Some(one) if one.is_lost.get() => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Some(one) => {
                one.waiting.borrow_mut().push(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    /// The socket is about to be closed; what is stuck for it is still sent.
    pub(super) fn forget(&self, fd: RawFd) {
        let mut troubled = self.troubled.borrow_mut();
        for one in troubled.iter().filter(|one| one.fd.get() == Some(fd)) {
            if one.is_bare.get() {
                // Safety: it is not closed yet.
                let socket = unsafe { BorrowedFd::borrow_raw(fd) };
                *one.own.borrow_mut() = self.second(socket).map(OwnedFd::from).ok();
            }
            one.fd.set(None);
        }
        troubled.retain(|one| one.fd.get().is_some() || !one.is_lost.get());
    }
}

/// Whoever reads from the socket sees that nothing comes, and nothing more is sent to it.
fn lose(troubled: &Troubled, socket: BorrowedFd<'_>) {
    troubled.is_lost.set(true);
    hang_up(socket);
}

fn hang_up(socket: BorrowedFd<'_>) {
    let _ = shutdown(socket, Shutdown::Both); // fails if it is not connected any more
}

/// Cancel: NOT safe, an unknown part is sent.
async fn finish(socket: &TcpStream, mut rest: &[u8], patience: Duration) -> io::Result<()> {
    while !rest.is_empty() {
        let ready = monoio::time::timeout(patience, socket.writable(false)).await;
        ready.map_err(|_| io::ErrorKind::TimedOut)??;
        match send_now(borrow(socket), rest, SendFlags::empty()) {
            Ok(count) => rest = &rest[count..],
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::connection::linger;
    use crate::reactor::core::Core;
    use crate::reactor::deadline::Phase;
    use crate::reactor::fair::Budget;
    use crate::reactor::stream::{Follow, Stream};
    use crate::reactor::testing::{
        on_both, pair, pattern, pause_ms, raw_pair, read_exactly, receive_pattern, sleep_ms, until,
    };
    use rustix::net::sockopt::set_socket_send_buffer_size;
    use std::io::{Read, Write};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Its answer; the core goes on meanwhile.
    async fn joined<T>(peer: std::thread::JoinHandle<T>) -> T {
        until("the peer is done", || peer.is_finished()).await;
        peer.join().expect("every byte in its place")
    }

    #[test]
    fn what_is_posted_leaves_without_being_waited_for() {
        on_both(|core| async move {
            let (mut one, mut one_peer) = pair(&core);
            let (mut other, mut other_peer) = pair(&core);
            let turn = core.outbox.turn();
            one.post(b"to ", b"one").await.expect("posted");
            other.post(b"to other", b"").await.expect("posted");
            assert_eq!(core.outbox.turn(), turn, "nothing has left yet");
            until("both have left", || core.outbox.turn() != turn).await;
            let mut got = [0; 8];
            one_peer.read_exact(&mut got[..6]).expect("sent");
            assert_eq!(&got[..6], b"to one");
            other_peer.read_exact(&mut got).expect("sent");
            assert_eq!(&got, b"to other");
        });
    }

    #[test]
    fn a_body_leaves_from_its_own_buffer() {
        on_both(|core| async move {
            let (mut stream, mut peer) = pair(&core);
            for (room, is_copied) in [(8, false), (2, true)] {
                let mut body = core.heads.take().await;
                body.leave_out(room);
                body.append(b"body");
                let turn = core.outbox.turn();
                stream.post_from(b"head ", &mut body).await.expect("posted");
                assert!(body.is_empty());
                assert_eq!(body.capacity() > 0, is_copied, "there is no room in front");
                until("it has left", || core.outbox.turn() != turn).await;
                drop(body);
                assert_eq!(core.heads.out(), 0, "the buffer is back");
                let mut got = [0; 9];
                peer.read_exact(&mut got).expect("sent");
                assert_eq!(&got, b"head body");
            }
        });
    }

    #[test]
    fn a_body_in_its_own_buffer_leaves_as_its_peer_reads() {
        on_both(|core| async move {
            let (mut stream, may_read, reading) = narrow(&core);
            let mut posted = 0;
            while !core.outbox.has_troubled() {
                let mut body = core.heads.take().await;
                body.leave_out(1);
                body.append(&pattern(posted + 1, 15_999));
                stream.post_from(&pattern(posted, 1), &mut body).await.expect("posted");
                posted += 16_000;
                core.outbox.flush();
                // What is stuck only until the kernels have talked to each other does not count.
                sleep_ms(50).await;
            }
            assert_eq!(core.heads.out(), 0, "what is stuck holds no buffer");
            may_read.store(true, Ordering::Release);
            drop(stream);
            assert_eq!(joined(reading).await, posted);
        });
    }

    #[test]
    fn nothing_overtakes_a_posted_message() {
        on_both(|core| async move {
            let (mut stream, mut peer) = pair(&core);
            let receiving = std::thread::spawn(move || receive_pattern(&mut peer, 0, 10_000));
            let mut sent = 0;
            let mut buffer = core.bodies.take().await;
            for round in 0..60 {
                let bytes = pattern(sent, 3_000);
                stream.post(&bytes[..700], &bytes[700..]).await.expect("posted");
                sent += 3_000;
                let bytes = pattern(sent, 5_000);
                match round % 4 {
                    0 => stream.write_all(&bytes, Follow::Nothing).await.expect("written"),
                    1 => stream.post(&bytes, b"").await.expect("posted"),
                    2 => {
                        buffer.append(&bytes);
                        stream.write_buffer(&mut buffer).await.expect("written");
                    }
                    _ => {
                        buffer.append(&bytes);
                        stream.write_front_or_answered(&mut buffer, 5_000).await.expect("written");
                    }
                }
                sent += 5_000;
            }
            let last = pattern(sent, 100);
            stream.post(&last, b"").await.expect("posted");
            drop(stream);
            assert_eq!(joined(receiving).await, sent + 100);
        });
    }

    /// A connection whose kernel holds little, and its peer, which reads the pattern to its end once it is told to.
    fn narrow(core: &Core) -> (Stream, Arc<AtomicBool>, std::thread::JoinHandle<u64>) {
        let (ours, mut peer) = raw_pair(core);
        set_socket_send_buffer_size(borrow(&ours), 4096).expect("a socket option");
        let may_read = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&may_read);
        let reading = std::thread::spawn(move || {
            while !told.load(Ordering::Acquire) {
                pause_ms(1);
            }
            receive_pattern(&mut peer, 0, 100_000)
        });
        let stream = Stream::plain(core, ours);
        stream.deadline().arm(Phase::Body, Duration::from_secs(60));
        (stream, may_read, reading)
    }

    /// Posts the pattern until a message is stuck for good; how many bytes that is.
    async fn post_until_stuck(core: &Core, stream: &mut Stream) -> u64 {
        let mut posted = 0;
        while !core.outbox.has_troubled() {
            stream.post(&pattern(posted, 16_000), b"").await.expect("posted");
            posted += 16_000;
            core.outbox.flush();
            // What is stuck only until the kernels have talked to each other does not count.
            sleep_ms(50).await;
        }
        posted
    }

    #[test]
    fn what_the_peer_does_not_take_follows_as_it_reads() {
        on_both(|core| async move {
            let (mut stream, may_read, reading) = narrow(&core);
            let posted = post_until_stuck(&core, &mut stream).await;
            let (mut other, mut other_peer) = pair(&core);
            other.post(b"not held up", b"").await.expect("posted");
            core.outbox.flush();
            other_peer.read_exact(&mut [0; 11]).expect("sent");
            may_read.store(true, Ordering::Release);
            // Waits for what is stuck, and goes behind it.
            stream.post(&pattern(posted, 16_000), b"").await.expect("posted");
            stream.settled().await.expect("it reads");
            assert!(!core.outbox.has_troubled());
            stream.end().await.expect("open");
            assert_eq!(joined(reading).await, posted + 16_000);
        });
    }

    #[test]
    fn what_the_peer_does_not_take_needs_no_descriptor() {
        on_both(|core| async move {
            for closes in [false, true] {
                let (mut stream, may_read, reading) = narrow(&core);
                core.outbox.has_none_left.set(true);
                let mut posted = post_until_stuck(&core, &mut stream).await;
                // Whoever closes it needs one.
                core.outbox.has_none_left.set(!closes);
                may_read.store(true, Ordering::Release);
                if !closes {
                    stream.post(&pattern(posted, 16_000), b"").await.expect("it reads");
                    posted += 16_000;
                    stream.settled().await.expect("it reads");
                    stream.end().await.expect("open");
                }
                drop(stream);
                assert_eq!(joined(reading).await, posted);
                until("it has left", || !core.outbox.has_troubled()).await;
            }
        });
    }

    #[test]
    fn a_closed_stream_leaves_nothing_behind_but_what_is_stuck() {
        on_both(|core| async move {
            let (mut stream, may_read, reading) = narrow(&core);
            let posted = post_until_stuck(&core, &mut stream).await;
            let fd = std::os::fd::AsRawFd::as_raw_fd(&stream);
            drop(stream);
            // The next socket of that number has nothing to do with it.
            core.outbox.unstuck(fd).await.expect("nothing of its own");
            assert!(core.outbox.has_troubled());
            may_read.store(true, Ordering::Release);
            assert_eq!(joined(reading).await, posted);
            until("it has left", || !core.outbox.has_troubled()).await;
        });
    }

    #[test]
    fn a_peer_that_is_gone_shows_to_whoever_reads_or_posts_again() {
        on_both(|core| async move {
            let (mut stream, peer) = pair(&core);
            drop(peer);
            let mut posted = Ok(());
            let mut rounds = 0;
            while posted.is_ok() {
                posted = stream.post(b"to nobody", b"").await;
                core.outbox.flush();
                sleep_ms(1).await;
                rounds += 1;
                assert!(rounds < 1000, "the peer is gone");
            }
            let mut buffer = core.heads.take().await;
            assert!(matches!(stream.read_some(&mut buffer).await, Ok(0) | Err(_)));
            drop(stream);
            assert!(!core.outbox.has_troubled());
        });
    }

    #[test]
    fn a_peer_that_stands_still_is_given_up() {
        on_both(|core| async move {
            let (mut stream, may_read, reading) = narrow(&core);
            // As between two requests: nothing is due from the peer.
            stream.deadline().arm(Phase::Body, Duration::from_millis(300));
            stream.deadline().disarm();
            let posted = post_until_stuck(&core, &mut stream).await;
            let mut buffer = core.heads.take().await;
            assert_eq!(stream.read_some(&mut buffer).await.expect("ended by us"), 0);
            drop(stream);
            assert!(!core.outbox.has_troubled());
            may_read.store(true, Ordering::Release);
            assert!(joined(reading).await < posted);
        });
    }

    #[test]
    fn many_that_are_posted_do_not_wait_for_the_turn_to_end() {
        on_both(|core| async move {
            let mut pairs: Vec<_> = (0..POSTED_MAX).map(|_| pair(&core)).collect();
            let turn = core.outbox.turn();
            for (stream, _) in &mut pairs {
                assert_eq!(core.outbox.turn(), turn);
                stream.post(&pattern(0, 16_000), b"").await.expect("posted");
            }
            assert_ne!(core.outbox.turn(), turn);
            let (streams, peers): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            drop(streams);
            for mut peer in peers {
                let receiving = std::thread::spawn(move || receive_pattern(&mut peer, 0, 16_000));
                assert_eq!(joined(receiving).await, 16_000);
            }
        });
    }

    #[test]
    fn long_work_does_not_hold_a_message_up() {
        on_both(|core| async move {
            let (mut stream, mut peer) = pair(&core);
            stream.post(b"x", b"").await.expect("posted");
            Budget::default().spend(&core.fair, 1).await;
            // The core is still in the same turn.
            peer.read_exact(&mut [0]).expect("sent");
        });
    }

    #[test]
    fn a_lingering_end_waits_for_a_stuck_answer() {
        on_both(|core| async move {
            let (mut stream, may_read, reading) = narrow(&core);
            let posted = post_until_stuck(&core, &mut stream).await;
            let told = Arc::clone(&may_read);
            std::thread::spawn(move || {
                pause_ms(4_000);
                told.store(true, Ordering::Release);
            });
            linger(&mut stream).await;
            drop(stream);
            assert_eq!(joined(reading).await, posted);
        });
    }

    #[test]
    fn a_post_behind_a_stuck_one_shows_its_deadline() {
        on_both(|core| async move {
            let (mut stream, may_read, reading) = narrow(&core);
            post_until_stuck(&core, &mut stream).await;
            stream.deadline().arm(Phase::Body, Duration::from_millis(300));
            let done = stream.post(b"late", b"").await;
            may_read.store(true, Ordering::Release);
            drop(stream);
            joined(reading).await;
            assert_eq!(done.expect_err("too slow").kind(), io::ErrorKind::TimedOut);
        });
    }

    #[test]
    fn an_echo_over_posts_alone() {
        on_both(|core| async move {
            let (socket, mut peer) = raw_pair(&core);
            let mut stream = Stream::plain(&core, socket);
            let client = std::thread::spawn(move || {
                for round in 0..200_u32 {
                    peer.write_all(&round.to_be_bytes()).expect("open");
                    let mut echo = [0; 4];
                    peer.read_exact(&mut echo).expect("answered");
                    assert_eq!(u32::from_be_bytes(echo), round);
                }
            });
            for _ in 0..200 {
                let bytes = read_exactly(&core, &mut stream, 4).await;
                stream.post(&bytes, b"").await.expect("posted");
            }
            joined(client).await;
        });
    }
}
