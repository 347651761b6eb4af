//! Pipes for splicing, from a per-core pool. A pipe goes back only when it is known to be empty; one that may hold bytes
//! is closed, because the next body would begin with them.

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

/// What we ask for, largest first. Without privileges a user may have 64 pipes of 1 MiB; beyond that, new ones get 8 KiB.
const CAPACITIES: [usize; 3] = [1024 * 1024, 256 * 1024, CAPACITY_BYTES_MIN];
/// Below this, copying is cheaper.
pub const CAPACITY_BYTES_MIN: usize = 64 * 1024;

/// A pipe and what is in it. May cross to a disk thread and back.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
    holds: usize,
}

impl Pipe {
    /// None: no descriptor left, or the user's pipes are used up so that this one would be too small.
    fn open() -> Option<Self> {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
        let set = CAPACITIES.iter().find_map(|&wanted| fcntl_setpipe_size(&write, wanted).ok());
        let capacity = set.or_else(|| fcntl_getpipe_size(&write).ok())?;
        (capacity >= CAPACITY_BYTES_MIN).then_some(Self { read, write, capacity, holds: 0 })
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes in it.
    pub fn holds(&self) -> usize {
        self.holds
    }

    /// Moves up to `len` bytes from a socket or, with `offset`, from a file. 0 = the source has ended. Never waits when
    /// the source is a non-blocking socket. Only into an empty pipe: then `WouldBlock` can only mean the source.
    pub fn fill(&mut self, source: impl AsFd, offset: Option<&mut u64>, len: usize) -> io::Result<usize> {
        assert!(self.holds == 0, "only an empty pipe is filled");
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let count = retried(source, offset, &self.write, len.min(self.capacity), flags)?;
        self.holds = count;
        Ok(count)
    }

    /// Moves bytes on to a non-blocking socket, or to a file. `more`: further bytes follow at once.
    pub fn drain(&mut self, sink: impl AsFd, more: bool) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let flags = if more { flags | SpliceFlags::MORE } else { flags };
        let count = retried(&self.read, None, sink, self.holds, flags)?;
        self.holds -= count;
        Ok(count)
    }
}

fn retried(
    from: impl AsFd,
    mut offset: Option<&mut u64>,
    to: impl AsFd,
    len: usize,
    flags: SpliceFlags,
) -> io::Result<usize> {
    loop {
        match splice(&from, offset.as_deref_mut(), &to, None, len, flags) {
            Err(Errno::INTR) => {}
            Ok(count) => return Ok(count),
            Err(cause) => return Err(cause.into()),
        }
    }
}

/// The pipes of one core.
pub struct PipePool {
    open_max: usize,
    state: RefCell<PoolState>,
}

#[derive(Default)]
struct PoolState {
    idle: Vec<Pipe>,
    open: usize,
    /// The fewest idle ones since the last trim: so many were not needed.
    idle_low: usize,
}

impl PipePool {
    /// At most `open_max` pipes, in use and idle together.
    pub fn new(open_max: usize) -> Rc<Self> {
        Rc::new(Self { open_max, state: RefCell::default() })
    }

    /// An empty pipe of useful capacity, or None: copy instead.
    pub fn take(self: &Rc<Self>) -> Option<PooledPipe> {
        let mut state = self.state.borrow_mut();
        let idle = state.idle.pop();
        state.idle_low = state.idle_low.min(state.idle.len());
        let pipe = match idle {
            Some(pipe) => pipe,
            None if state.open >= self.open_max => return None,
            None => {
                let pipe = Pipe::open()?;
                state.open += 1;
                pipe
            }
        };
        drop(state);
        Some(PooledPipe { pipe: Some(pipe), home: Rc::clone(self) })
    }

    /// Closes the pipes that were not needed since the last call. The core's tick task calls it every few seconds.
    pub fn trim(&self) {
        let mut state = self.state.borrow_mut();
        let surplus = state.idle_low.min(state.idle.len());
        let keep = state.idle.len() - surplus;
        state.idle.truncate(keep);
        state.open -= surplus;
        state.idle_low = keep;
    }

    /// Pipes in use and idle.
    pub fn open(&self) -> usize {
        self.state.borrow().open
    }
}

/// A pipe on loan. Dropped empty it goes back; dropped with bytes in it, or while a disk thread has it, it is closed.
pub struct PooledPipe {
    pipe: Option<Pipe>,
    home: Rc<PipePool>,
}

impl PooledPipe {
    /// The pipe itself; absent while a disk thread has it.
    pub fn pipe(&mut self) -> &mut Pipe {
        self.pipe.as_mut().expect("the pipe is here unless it was lent")
    }

    /// For a disk thread to fill; bring it back with `restore`.
    pub(crate) fn lend(&mut self) -> Pipe {
        self.pipe.take().expect("lent once at a time")
    }

    pub(crate) fn restore(&mut self, pipe: Pipe) {
        self.pipe = Some(pipe);
    }
}

impl Drop for PooledPipe {
    fn drop(&mut self) {
        let mut state = self.home.state.borrow_mut();
        match self.pipe.take() {
            Some(pipe) if pipe.holds == 0 => state.idle.push(pipe),
            _ => state.open -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let one = TcpStream::connect(listener.local_addr().expect("bound")).expect("listening");
        (one, listener.accept().expect("connected").0)
    }

    #[test]
    fn bytes_pass_through_and_the_pipe_is_pooled_only_when_empty() {
        let pool = PipePool::new(2);
        let (mut writer, source) = sockets();
        let (sink, mut reader) = sockets();
        writer.write_all(b"0123456789").expect("open");
        let mut pipe = pool.take().expect("a pipe");
        assert_eq!(pipe.pipe().fill(&source, None, 10).expect("bytes are there"), 10);
        assert_eq!(pipe.pipe().drain(&sink, false).expect("room"), 10);
        let mut got = [0; 10];
        reader.read_exact(&mut got).expect("arrived");
        assert_eq!(&got, b"0123456789");
        drop(pipe);
        assert_eq!(pool.open(), 1, "empty, so kept");

        writer.write_all(b"left").expect("open");
        let mut pipe = pool.take().expect("the same pipe");
        pipe.pipe().fill(&source, None, 4).expect("bytes are there");
        drop(pipe);
        assert_eq!(pool.open(), 0, "a pipe with bytes in it is closed");

        let mut lent = pool.take().expect("a pipe");
        drop(lent.lend());
        drop(lent);
        assert_eq!(pool.open(), 0, "a pipe that did not come back is forgotten");
    }

    #[test]
    fn the_pool_is_bounded_and_frees_what_is_not_needed() {
        let pool = PipePool::new(2);
        let both: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(both.len(), 2);
        drop(both);
        pool.trim();
        assert_eq!(pool.open(), 2, "they were in use since the last trim");
        drop(pool.take());
        pool.trim();
        assert_eq!(pool.open(), 1);
    }

    #[test]
    fn an_end_and_a_wait_are_told_apart() {
        let pool = PipePool::new(1);
        let (writer, source) = sockets();
        source.set_nonblocking(true).expect("a socket option");
        let mut pipe = pool.take().expect("a pipe");
        let cause = pipe.pipe().fill(&source, None, 10).expect_err("nothing is there");
        assert_eq!(cause.kind(), io::ErrorKind::WouldBlock);
        writer.shutdown(std::net::Shutdown::Write).expect("open");
        while let Err(cause) = pipe.pipe().fill(&source, None, 10) {
            assert_eq!(cause.kind(), io::ErrorKind::WouldBlock);
        }
        assert_eq!(pipe.pipe().holds(), 0);
    }
}
