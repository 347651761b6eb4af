//! Warm connections to one backend, per core. The most recently used is taken first, so that the others can grow old.
//!
//! A connection that the backend has closed meanwhile, or on which it has spoken unasked, is not used. One that goes stale
//! after this look, or so soon that nobody looked, is the exchange's to notice: `Lent::reused` says that one more try
//! on a fresh connection is due.

use super::connect::{ConnectError, Target, connect};
use crate::base::{Clock, Dice, Tick};
use crate::observe::cells::BackendCells;
use crate::reactor::core::Core;
use crate::reactor::dns::Resolver;
use crate::reactor::stream::{Idle, Stream};
use crate::reactor::task;
use crate::reactor::turns::{Turn, Turns};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::rc::{Rc, Weak};
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub struct PoolLimits {
    /// Idle connections that are kept.
    pub idle_max: usize,
    /// Connections in use and idle; who wants one more waits.
    pub open_max: usize,
    /// An idle connection older than this is not used again. Below what backends allow, or they close first.
    pub idle_for: Duration,
}

/// A connection that has been idle no longer than this is taken without a look: the look is a system call, and between
/// requests that follow each other closely nothing has had time to go stale.
const LOOK_AFTER: Duration = Duration::from_millis(5);

pub struct Pool {
    core: Rc<Core>,
    resolver: Rc<Resolver>,
    target: Target,
    limits: PoolLimits,
    /// The backend's index in the view.
    backend: usize,
    in_use: Rc<Turns>,
    /// Oldest first. Boxed, for they pass through many hands with every request.
    idle: RefCell<Vec<(Box<Stream>, Tick)>>,
}

impl Pool {
    /// Starts with no connection. Only inside the core's runtime.
    pub fn new(
        core: &Rc<Core>,
        resolver: &Rc<Resolver>,
        target: Target,
        limits: PoolLimits,
        backend: usize,
    ) -> Rc<Self> {
        let pool = Rc::new(Self {
            core: Rc::clone(core),
            resolver: Rc::clone(resolver),
            target,
            limits,
            backend,
            in_use: Turns::new(limits.open_max),
            idle: RefCell::default(),
        });
        task::spawn(&core.cells, "pool sweep", sweep_while_used(Rc::downgrade(&pool), limits.idle_for));
        pool
    }

    /// A connection, warm if there is one; it is `now`. Waits for a free one as long as for connecting.
    /// Cancel: safe, what was opened is closed.
    pub async fn take(self: &Rc<Self>, now: Tick) -> Result<Lent, ConnectError> {
        let turn = self.turn().await?;
        if let Some(stream) = self.take_warm(now) {
            self.count(|cells| cells.connections_reused.inc());
            return Ok(Lent { stream: Some(stream), reused: true, pool: Rc::clone(self), _turn: turn });
        }
        self.open(turn).await
    }

    /// A fresh connection: for the one more try after a warm one turned out stale. The other warm ones are as old or older,
    /// so they go. Cancel: safe, what was opened is closed.
    pub async fn take_fresh(self: &Rc<Self>) -> Result<Lent, ConnectError> {
        let turn = self.turn().await?;
        self.close_idle();
        self.open(turn).await
    }

    async fn turn(&self) -> Result<Turn, ConnectError> {
        // Mostly there is one, and no timer is needed.
        if let Some(turn) = self.in_use.try_take() {
            return Ok(turn);
        }
        let waiting = monoio::time::timeout(self.target.timeout(), self.in_use.take());
        waiting.await.map_err(|_| ConnectError::Busy)
    }

    async fn open(self: &Rc<Self>, turn: Turn) -> Result<Lent, ConnectError> {
        let stream = connect(&self.core, &self.resolver, &self.target, self.core.dice.roll()).await?;
        self.count(|cells| cells.connections_opened.inc());
        Ok(Lent { stream: Some(Box::new(stream)), reused: false, pool: Rc::clone(self), _turn: turn })
    }

    fn take_warm(&self, now: Tick) -> Option<Box<Stream>> {
        loop {
            let (mut stream, since) = self.idle.borrow_mut().pop()?;
            self.count(|cells| cells.connections_idle.dec());
            let idle = now.since(since);
            if idle < self.limits.idle_for && (idle < LOOK_AFTER || self.is_quiet(&mut stream)) {
                return Some(stream);
            }
        }
    }

    fn is_quiet(&self, stream: &mut Stream) -> bool {
        match stream.look_idle() {
            Idle::Quiet => true,
            Idle::Closed => false,
            Idle::Spoke => {
                self.count(|cells| cells.unexpected_data.inc());
                tracing::warn!(backend = self.backend, "unexpected data on an idle connection");
                false
            }
        }
    }

    /// Keeps a connection for the next one, unless there are enough.
    fn keep(&self, stream: Box<Stream>, now: Tick) {
        stream.deadline().disarm();
        let mut idle = self.idle.borrow_mut();
        if idle.len() < self.limits.idle_max {
            idle.push((stream, now));
            self.count(|cells| cells.connections_idle.inc());
        }
    }

    /// Closes idle connections that have grown old or that the backend has closed.
    fn sweep(&self) {
        let now = self.core.clock.tick();
        let before = self.idle.take();
        for (mut stream, since) in before {
            if now.since(since) < self.limits.idle_for && self.is_quiet(&mut stream) {
                self.idle.borrow_mut().push((stream, since));
            } else {
                self.count(|cells| cells.connections_idle.dec());
            }
        }
    }

    /// Closes all idle connections: the backend has restarted, or is not to be used any more.
    pub fn close_idle(&self) {
        for _ in self.idle.take() {
            self.count(|cells| cells.connections_idle.dec());
        }
    }

    /// Connections that are lent or being opened.
    pub fn in_use(&self) -> usize {
        self.in_use.out()
    }

    /// Idle connections.
    pub fn idle(&self) -> usize {
        self.idle.borrow().len()
    }

    fn count(&self, with: impl FnOnce(&BackendCells)) {
        if let Some(cells) = self.core.cells.backends.get(self.backend) {
            with(cells);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close_idle();
    }
}

/// Ends with its pool.
async fn sweep_while_used(pool: Weak<Pool>, idle_for: Duration) {
    let every = (idle_for / 4).max(Duration::from_millis(100));
    loop {
        monoio::time::sleep(every).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.sweep();
    }
}

/// A connection on loan. Dropped it is closed; `give_back` keeps it warm.
pub struct Lent {
    stream: Option<Box<Stream>>,
    reused: bool,
    pool: Rc<Pool>,
    _turn: Turn,
}

impl Lent {
    /// Whether an exchange has gone over it before: it may have gone stale unseen.
    pub fn reused(&self) -> bool {
        self.reused
    }

    /// The exchange is complete in both directions `now`, and the backend keeps the connection.
    pub fn give_back(mut self, now: Tick) {
        if let Some(stream) = self.stream.take() {
            self.pool.keep(stream, now);
        }
    }

    /// Ends it with a reset: what was sent must not look whole.
    pub fn cut(mut self) {
        if let Some(stream) = self.stream.take() {
            stream.cut();
        }
    }
}

impl Deref for Lent {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        self.stream.as_ref().expect("here until given back")
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Stream {
        self.stream.as_mut().expect("here until given back")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::dns;
    use crate::reactor::stream::Follow;
    use crate::reactor::testing::{on_both, read_exactly, sleep_ms, until};
    use std::cell::Cell;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const LIMITS: PoolLimits = PoolLimits { idle_max: 2, open_max: 3, idle_for: Duration::from_secs(60) };

    /// Echoes bytes on every connection: `q` closes it, `u` is followed by a byte that nobody asked for.
    fn backend() -> (u16, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        std::thread::spawn(move || {
            for peer in listener.incoming() {
                count.fetch_add(1, Ordering::Relaxed);
                let mut peer = peer.expect("somebody comes");
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while matches!(peer.read(&mut byte), Ok(1)) {
                        let _ = peer.write_all(&byte);
                        match byte[0] {
                            b'q' => return,
                            b'u' => drop(peer.write_all(b"?")),
                            _ => {}
                        }
                    }
                });
            }
        });
        (port, accepted)
    }

    fn pool(core: &Rc<Core>, port: u16, limits: PoolLimits, timeout: Duration) -> Rc<Pool> {
        let lookups = dns::start(1, dns::system_lookup).expect("a thread starts");
        let resolver = Resolver::open(core, lookups).expect("a mailbox opens");
        let target = Target::new("127.0.0.1", port, None, timeout, timeout).expect("an address");
        Pool::new(core, &resolver, target, limits, 0)
    }

    async fn exchange(core: &Core, lent: &mut Lent, byte: u8) {
        lent.write_all(&[byte], Follow::Nothing).await.expect("open");
        assert_eq!(read_exactly(core, lent, 1).await, [byte]);
    }

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn a_warm_connection_is_used_again() {
        on_both(|core| async move {
            let (port, accepted) = backend();
            let pool = pool(&core, port, LIMITS, PATIENCE);
            for round in 0..5 {
                let mut lent = pool.take(core.clock.tick()).await.expect("connects");
                assert_eq!(lent.reused(), round > 0);
                exchange(&core, &mut lent, b'x').await;
                lent.give_back(core.clock.tick());
            }
            drop(pool.take(core.clock.tick()).await.expect("the warm one"));
            assert!(
                !pool.take(core.clock.tick()).await.expect("connects").reused(),
                "a dropped connection is closed, not kept"
            );
            pool.take(core.clock.tick()).await.expect("connects").give_back(core.clock.tick());
            assert!(!pool.take_fresh().await.expect("connects").reused());
            assert_eq!(pool.idle(), 0);
            until("four connections were made", || accepted.load(Ordering::Relaxed) == 4).await;
        });
    }

    #[test]
    fn what_the_backend_closed_or_spoke_on_is_not_used() {
        on_both(|core| async move {
            let (port, _) = backend();
            let pool = pool(&core, port, LIMITS, PATIENCE);
            for byte in [b'q', b'u'] {
                let mut lent = pool.take(core.clock.tick()).await.expect("connects");
                exchange(&core, &mut lent, byte).await;
                lent.give_back(core.clock.tick());
                sleep_ms(30).await;
                assert!(!pool.take(core.clock.tick()).await.expect("connects").reused(), "{}", char::from(byte));
            }
        });
    }

    #[test]
    fn the_number_of_connections_is_bounded() {
        on_both(|core| async move {
            let (port, accepted) = backend();
            let pool = pool(&core, port, LIMITS, Duration::from_millis(300));
            let mut lent = Vec::new();
            for _ in 0..3 {
                lent.push(pool.take(core.clock.tick()).await.expect("connects"));
            }
            assert!(matches!(pool.take(core.clock.tick()).await.map(drop), Err(ConnectError::Busy)));
            let waited = Rc::new(Cell::new(None));
            let (waiting, told, asked) = (Rc::clone(&pool), Rc::clone(&waited), core.clock.tick());
            monoio::spawn(async move { told.set(waiting.take(asked).await.ok()) });
            sleep_ms(5).await;
            lent.drain(..).for_each(|lent| lent.give_back(core.clock.tick()));
            until("the one who waited has one", || {
                let got = waited.take();
                let is_there = got.is_some();
                waited.set(got);
                is_there
            })
            .await;
            assert!(waited.take().is_some_and(|lent| lent.reused()), "a warm one, and no fourth");
            assert_eq!(pool.idle(), 1, "two were kept, one of them used");
            until("three connections were made", || accepted.load(Ordering::Relaxed) == 3).await;
        });
    }

    #[test]
    fn old_ones_are_closed_unasked() {
        on_both(|core| async move {
            let (port, _) = backend();
            let pool = pool(&core, port, PoolLimits { idle_for: Duration::from_millis(50), ..LIMITS }, PATIENCE);
            pool.take(core.clock.tick()).await.expect("connects").give_back(core.clock.tick());
            assert_eq!(pool.idle(), 1);
            until("it has grown old", || pool.idle() == 0).await;
        });
    }
}
