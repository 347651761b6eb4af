//! One coarse deadline per socket, and shutdown(2) as the kick. Reads and writes are never raced against timers: a finished
//! read that loses a race loses its bytes (RUNTIME 2). A kick ends a pending receive, send or readiness wait on every
//! driver, and the buffer comes back by itself.
//!
//! Each change of phase and each piece of progress is one store; the core's tick task sweeps all deadlines.

use super::clock::CoreClock;
use crate::base::Tick;
use rustix::net::Shutdown;
use std::cell::{Cell, RefCell};
use std::os::fd::{BorrowedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

/// How often deadlines are looked at: none is missed by more than this.
pub const DEADLINE_TICK_MS: u64 = 100;

/// What the socket is waiting for, which decides how it is ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Nothing is due; it may be ended at any time, by `Deadlines::end_idle` too. Its reader sees the end of input.
    Idle,
    /// A whole head is due: progress wins no time. Its reader sees the end of input and can still answer.
    Head,
    /// The peer is to say more of a body. Its reader sees the end of input and can still answer.
    Input,
    /// A body is under way to or from the peer, and nothing can be said to it any more: both directions end.
    Body,
}

const NEVER: Tick = Tick { nanos: u64::MAX };

struct Entry {
    fd: RawFd,
    at: Cell<Tick>,
    wait: Cell<Duration>,
    phase: Cell<Phase>,
    hit: Cell<bool>,
    place: Cell<usize>,
}

/// All watched sockets of one core.
pub struct Deadlines {
    clock: Rc<CoreClock>,
    entries: RefCell<Vec<Rc<Entry>>>,
}

impl Deadlines {
    pub fn new(clock: Rc<CoreClock>) -> Rc<Self> {
        Rc::new(Self { clock, entries: RefCell::default() })
    }

    /// A deadline for `fd`, not armed yet. It must be dropped before the descriptor is closed: hold it in a field above
    /// the socket's.
    pub(super) fn watch(self: &Rc<Self>, fd: RawFd) -> Deadline {
        let mut entries = self.entries.borrow_mut();
        let entry = Rc::new(Entry {
            fd,
            at: Cell::new(NEVER),
            wait: Cell::new(Duration::ZERO),
            phase: Cell::new(Phase::Idle),
            hit: Cell::new(false),
            place: Cell::new(entries.len()),
        });
        entries.push(Rc::clone(&entry));
        Deadline { entry, all: Rc::clone(self) }
    }

    /// Ends every socket whose time has come. Called by the tick task.
    pub(super) fn sweep(&self, now: Tick) {
        for entry in self.entries.borrow().iter().filter(|entry| entry.at.get() <= now) {
            if !entry.hit.replace(true) {
                kick(entry);
            }
        }
    }

    /// Ends every socket that is idle now, so that its task sees the end of input. For an orderly stop.
    pub fn end_idle(&self) {
        for entry in self.entries.borrow().iter().filter(|entry| entry.phase.get() == Phase::Idle) {
            if entry.at.get() != NEVER && !entry.hit.replace(true) {
                kick(entry);
            }
        }
    }
}

fn kick(entry: &Entry) {
    let how = if entry.phase.get() == Phase::Body { Shutdown::Both } else { Shutdown::Read };
    // Safety: a Deadline is dropped before its socket, and its entry leaves the table with it.
    #[allow(unsafe_code)]
    let fd = unsafe { BorrowedFd::borrow_raw(entry.fd) };
    // A socket that is not connected any more has nothing pending.
    let _ = rustix::net::shutdown(fd, how);
}

/// The deadline of one socket.
pub struct Deadline {
    entry: Rc<Entry>,
    all: Rc<Deadlines>,
}

impl Deadline {
    /// Starts a phase: unless progress is reported within `wait`, or the whole of a head has come, the socket is ended.
    pub fn arm(&self, phase: Phase, wait: Duration) {
        self.entry.phase.set(phase);
        self.entry.wait.set(wait);
        self.entry.hit.set(false);
        self.entry.at.set(self.all.clock.coarse().after(wait));
    }

    /// How long its peer may stand still in the present or last phase.
    pub fn wait(&self) -> Duration {
        self.entry.wait.get()
    }

    /// Bytes have moved: the time starts again, unless a whole head is due.
    pub fn progress(&self) {
        if self.entry.at.get() != NEVER && self.entry.phase.get() != Phase::Head {
            self.entry.at.set(self.all.clock.coarse().after(self.entry.wait.get()));
        }
    }

    /// Not waiting for this socket: the other side's slowness is not its fault.
    pub fn disarm(&self) {
        self.entry.at.set(NEVER);
    }

    /// Whether the deadline ended the socket: an end of input or a broken pipe means "too slow", not "went away".
    pub fn hit(&self) -> bool {
        self.entry.hit.get()
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let mut entries = self.all.entries.borrow_mut();
        let place = self.entry.place.get();
        entries.swap_remove(place);
        if let Some(moved) = entries.get(place) {
            moved.place.set(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::stream::Follow;
    use crate::reactor::testing::{Stopwatch, on_both, pair, pause_ms, sleep_ms, until};
    use std::io::{ErrorKind, Read, Write};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    const WAIT: Duration = Duration::from_millis(150);

    fn check_in_time(watch: &Stopwatch) {
        let elapsed_ms = watch.elapsed_ms();
        assert!((40..5_000).contains(&elapsed_ms), "ended after {elapsed_ms} ms");
    }

    #[test]
    fn a_read_from_a_silent_peer_times_out_and_can_still_be_answered() {
        on_both(|core| async move {
            let (mut stream, mut peer) = pair(&core);
            let mut buffer = core.heads.take().await;
            let watch = Stopwatch::start();
            stream.deadline().arm(Phase::Input, WAIT);
            let cause = stream.read_some(&mut buffer).await.expect_err("nobody speaks");
            check_in_time(&watch);
            assert!(cause.kind() == ErrorKind::TimedOut && stream.deadline().hit());
            assert!(buffer.capacity() > 0, "the buffer came back by itself");
            stream.write_all(b"HTTP/1.1 408 \r\n\r\n", Follow::Nothing).await.expect("our direction is open");
            drop(stream);
            let reading = std::thread::spawn(move || {
                let mut answer = String::new();
                peer.read_to_string(&mut answer).expect("an answer and the end");
                assert_eq!(answer, "HTTP/1.1 408 \r\n\r\n");
            });
            until("the answer is there", || reading.is_finished()).await;
            reading.join().expect("the answer and nothing else");
        });
    }

    #[test]
    fn a_write_to_a_peer_that_does_not_read_times_out() {
        on_both(|core| async move {
            let (mut stream, peer) = pair(&core);
            let watch = Stopwatch::start();
            stream.deadline().arm(Phase::Body, WAIT);
            let mut buffer = core.bodies.take().await;
            let cause = loop {
                buffer.clear();
                let room = buffer.spare();
                buffer.filled(room);
                if let Err(cause) = stream.write_buffer(&mut buffer).await {
                    break cause;
                }
            };
            check_in_time(&watch);
            assert_eq!(cause.kind(), ErrorKind::TimedOut);
            drop(peer);
        });
    }

    #[test]
    fn readiness_waits_are_kicked_too() {
        on_both(|core| async move {
            let (stream, peer) = pair(&core);
            let watch = Stopwatch::start();
            stream.deadline().arm(Phase::Body, WAIT);
            let _ = stream.readable().await;
            check_in_time(&watch);
            assert!(stream.deadline().hit());
            drop(peer);
        });
    }

    #[test]
    fn progress_and_disarming_keep_a_socket_alive() {
        on_both(|core| async move {
            let (mut stream, mut peer) = pair(&core);
            let (idle, _kept) = pair(&core);
            stream.deadline().arm(Phase::Body, Duration::from_millis(600));
            idle.deadline().arm(Phase::Body, WAIT);
            idle.deadline().disarm();
            let mut buffer = core.heads.take().await;
            for _ in 0..6 {
                sleep_ms(200).await;
                peer.write_all(b"x").expect("open");
                assert_eq!(stream.read_some(&mut buffer).await.expect("alive"), 1);
            }
            assert!(!stream.deadline().hit() && !idle.deadline().hit());
        });
    }

    #[test]
    fn a_head_is_due_however_often_a_byte_of_it_comes() {
        on_both(|core| async move {
            let (mut stream, mut peer) = pair(&core);
            let ended = Arc::new(AtomicBool::new(false));
            let seen = Arc::clone(&ended);
            let trickling = std::thread::spawn(move || {
                while !seen.load(Ordering::Relaxed) && peer.write_all(b"x").is_ok() {
                    pause_ms(20);
                }
            });
            let mut buffer = core.bodies.take().await;
            let watch = Stopwatch::start();
            stream.deadline().arm(Phase::Head, WAIT);
            let cause = loop {
                if let Err(cause) = stream.read_some(&mut buffer).await {
                    break Some(cause.kind());
                }
                if watch.elapsed_ms() > 5_000 {
                    break None;
                }
            };
            ended.store(true, Ordering::Relaxed);
            assert_eq!(cause, Some(ErrorKind::TimedOut), "a byte now and then is no head");
            stream.write_all(b"HTTP/1.1 408 \r\n\r\n", Follow::Nothing).await.expect("our direction is open");
            until("it gives up", || trickling.is_finished()).await;
        });
    }

    #[test]
    fn a_dropped_deadline_never_touches_the_next_socket_of_that_number() {
        on_both(|core| async move {
            for _ in 0..20 {
                let (stream, peer) = pair(&core);
                stream.deadline().arm(Phase::Body, Duration::from_millis(1));
                drop((stream, peer));
            }
            let (mut stream, mut peer) = pair(&core);
            sleep_ms(3 * DEADLINE_TICK_MS).await;
            peer.write_all(b"alive").expect("open");
            let mut buffer = core.heads.take().await;
            assert_eq!(stream.read_some(&mut buffer).await.expect("open"), 5);
            assert!(!stream.deadline().hit());
        });
    }

    #[test]
    fn an_orderly_stop_ends_the_idle_ones_only() {
        on_both(|core| async move {
            let (mut idle, _peer) = pair(&core);
            let (mut busy, mut busy_peer) = pair(&core);
            idle.deadline().arm(Phase::Idle, Duration::from_secs(60));
            busy.deadline().arm(Phase::Input, Duration::from_secs(60));
            core.deadlines.end_idle();
            let mut buffer = core.heads.take().await;
            assert!(idle.read_some(&mut buffer).await.is_err());
            busy_peer.write_all(b"x").expect("open");
            assert_eq!(busy.read_some(&mut buffer).await.expect("open"), 1);
        });
    }
}
