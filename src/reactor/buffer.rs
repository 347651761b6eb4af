//! Buffers of one fixed size from a per-core pool. A buffer goes back to its pool when it is dropped, also when the driver
//! drops it: on the ring a dropped operation keeps its buffer until the kernel is done with it (RUNTIME 2).
//!
//! A buffer holds bytes in its middle: consumed ones before, spare room behind.
#![allow(unsafe_code)] // the runtime's buffer traits are unsafe to implement

use super::turns::{Turn, Turns};
use monoio::buf::{IoBuf, IoBufMut};
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

/// The buffers of one size of one core.
pub struct BufferPool {
    size_bytes: usize,
    turns: Rc<Turns>,
    idle: RefCell<IdleBuffers>,
}

#[derive(Default)]
struct IdleBuffers {
    buffers: Vec<Box<[u8]>>,
    /// The fewest since the last trim: so many were not needed.
    low: usize,
}

impl BufferPool {
    /// At most `out_max` buffers of `size_bytes` are in use at once.
    pub fn new(size_bytes: usize, out_max: usize) -> Rc<Self> {
        assert!(size_bytes > 0, "an empty buffer serves nobody");
        Rc::new(Self { size_bytes, turns: Turns::new(out_max), idle: RefCell::default() })
    }

    /// An empty buffer, or None when all are in use or promised to those who wait.
    pub fn try_take(self: &Rc<Self>) -> Option<Buffer> {
        self.turns.try_take().map(|turn| self.fresh(turn))
    }

    /// An empty buffer, in the order of asking. A task that holds one never waits for a second of the same pool: all
    /// could. Cancel: safe.
    pub async fn take(self: &Rc<Self>) -> Buffer {
        let turn = self.turns.take().await;
        self.fresh(turn)
    }

    /// An empty buffer at once: one outside the pool when all of its own are in use. For those who may hold one already,
    /// and for those whose number is bounded elsewhere.
    pub fn take_now(self: &Rc<Self>) -> Buffer {
        self.try_take().unwrap_or_else(|| Buffer::roomy(self.size_bytes))
    }

    fn fresh(self: &Rc<Self>, turn: Turn) -> Buffer {
        let mut idle = self.idle.borrow_mut();
        let bytes = idle.buffers.pop().unwrap_or_else(|| vec![0; self.size_bytes].into());
        idle.low = idle.low.min(idle.buffers.len());
        Buffer { bytes, start: 0, end: 0, home: Some(Home { pool: Rc::clone(self), _turn: turn }) }
    }

    /// Frees the buffers that were not needed since the last call. The core's tick task calls it every few seconds.
    pub fn trim(&self) {
        let mut idle = self.idle.borrow_mut();
        let keep = idle.buffers.len() - idle.low.min(idle.buffers.len());
        idle.buffers.truncate(keep);
        idle.low = keep;
    }

    /// Buffers in use.
    pub fn out(&self) -> usize {
        self.turns.out()
    }

    /// Buffers kept for the next taker.
    pub fn idle(&self) -> usize {
        self.idle.borrow().buffers.len()
    }
}

/// A buffer's place in its pool.
struct Home {
    pool: Rc<BufferPool>,
    _turn: Turn,
}

impl Home {
    fn give_back(self, bytes: Box<[u8]>) {
        self.pool.idle.borrow_mut().buffers.push(bytes);
    }
}

/// A pooled buffer. While an operation has its memory it is hollow: no room and no bytes.
pub struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    home: Option<Home>,
}

impl Buffer {
    fn hollow() -> Self {
        Self { bytes: Box::default(), start: 0, end: 0, home: None }
    }

    /// A buffer of its own, outside any pool, holding `bytes`.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self { bytes: bytes.into(), start: 0, end: bytes.len(), home: None }
    }

    /// An empty one outside the pools.
    pub fn roomy(bytes: usize) -> Self {
        Self { bytes: vec![0; bytes].into(), start: 0, end: 0, home: None }
    }

    /// The bytes held.
    pub fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    pub fn len(&self) -> usize {
        self.end - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Room behind the bytes held.
    pub fn spare(&self) -> usize {
        self.bytes.len() - self.end
    }

    pub fn spare_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    /// The first `count` bytes of the room behind have been filled.
    pub fn filled(&mut self, count: usize) {
        assert!(count <= self.spare(), "filled past the end");
        self.end += count;
    }

    /// The first `count` bytes held are done with.
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.len(), "consumed past the end");
        self.start += count;
        if self.start == self.end {
            self.clear();
        }
    }

    /// Puts `bytes` in front of those held, if there is room: where others were consumed or left out.
    pub fn put_before(&mut self, bytes: &[u8]) -> bool {
        let Some(start) = self.start.checked_sub(bytes.len()) else { return false };
        self.bytes[start..self.start].copy_from_slice(bytes);
        self.start = start;
        true
    }

    /// Leaves out so many bytes of an empty buffer, for `put_before`.
    pub fn leave_out(&mut self, count: usize) {
        assert!(self.is_empty() && count <= self.bytes.len(), "room in front of bytes that are there already");
        (self.start, self.end) = (count, count);
    }

    /// The buffer with all it holds; a hollow one stays.
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Self::hollow())
    }

    /// Keeps only the first `count` bytes held.
    pub fn truncate(&mut self, count: usize) {
        self.end = self.end.min(self.start + count);
    }

    pub fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    /// Of the bytes held from `at` on, keeps only `range` (relative to `at`), moved up to `at`.
    pub fn keep(&mut self, at: usize, range: Range<usize>) {
        let from = self.start + at;
        assert!(from + range.end <= self.end, "kept past the end");
        if range.start > 0 {
            self.bytes.copy_within(from + range.start..from + range.end, from);
        }
        self.end = from + range.len();
    }

    /// Where the bytes held are, to come back to after consuming some: consumed bytes stay in place until the buffer is
    /// filled or compacted.
    pub fn mark(&self) -> (usize, usize) {
        (self.start, self.end)
    }

    /// Holds again what it held at `mark`.
    pub fn reset(&mut self, (start, end): (usize, usize)) {
        assert!(start <= end && end <= self.bytes.len(), "a mark of another buffer");
        self.start = start;
        self.end = end;
    }

    /// Moves the bytes held to the front, so that all room is behind them.
    pub fn compact(&mut self) {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
    }

    /// Appends as many of `bytes` as there is room for; how many.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.spare());
        self.bytes[self.end..self.end + count].copy_from_slice(&bytes[..count]);
        self.end += count;
        count
    }

    /// The whole buffer for an operation that fills the room behind, at most `limit` bytes of it.
    pub(super) fn take_to_fill(&mut self, limit: usize) -> Filling {
        let buffer = std::mem::replace(self, Self::hollow());
        let until = buffer.end + limit.min(buffer.spare());
        Filling { buffer, until }
    }

    /// The whole buffer for an operation that sends the first `count` bytes held.
    pub(super) fn take_to_drain(&mut self, count: usize) -> Draining {
        assert!(count <= self.len(), "drained past the end");
        Draining { buffer: std::mem::replace(self, Self::hollow()), count }
    }

    /// Takes the memory out so that it can cross to another thread and back; the lease keeps its place in the pool. The
    /// buffer is left hollow.
    pub fn lend(&mut self) -> (Lease, Loose) {
        let mut whole = std::mem::replace(self, Self::hollow());
        let loose = Loose { bytes: std::mem::take(&mut whole.bytes), start: whole.start, end: whole.end };
        (Lease { home: whole.home.take() }, loose)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.give_back(std::mem::take(&mut self.bytes));
        }
    }
}

/// The memory of a buffer on its way through another thread. Dropped there, it is freed and its place in the pool is free
/// as soon as the lease is dropped.
#[derive(Debug)]
pub struct Loose {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Loose {
    pub fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub fn spare_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    pub fn filled(&mut self, count: usize) {
        assert!(count <= self.bytes.len() - self.end, "filled past the end");
        self.end += count;
    }
}

/// A lent buffer's place in its pool.
pub struct Lease {
    home: Option<Home>,
}

impl Lease {
    /// The buffer again, with its memory back.
    pub fn restore(self, loose: Loose) -> Buffer {
        Buffer { bytes: loose.bytes, start: loose.start, end: loose.end, home: self.home }
    }
}

/// A buffer in the hands of a receive.
pub(super) struct Filling {
    buffer: Buffer,
    until: usize,
}

impl Filling {
    pub(super) fn into_buffer(self) -> Buffer {
        self.buffer
    }
}

// Safety: the boxed memory does not move with the value, stays allocated until the value is dropped, and is initialised
// throughout; `until` never passes its end.
unsafe impl IoBufMut for Filling {
    fn write_ptr(&mut self) -> *mut u8 {
        self.buffer.bytes[self.buffer.end..].as_mut_ptr()
    }

    fn bytes_total(&mut self) -> usize {
        self.until - self.buffer.end
    }

    unsafe fn set_init(&mut self, count: usize) {
        self.buffer.filled(count);
    }
}

/// A buffer in the hands of a send.
pub(super) struct Draining {
    buffer: Buffer,
    count: usize,
}

impl Draining {
    pub(super) fn into_buffer(self) -> Buffer {
        self.buffer
    }
}

// Safety: as above; the bytes held are initialised.
unsafe impl IoBuf for Draining {
    fn read_ptr(&self) -> *const u8 {
        self.buffer.data().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::race::race;
    use crate::reactor::testing::{on_both, pair, sleep_ms, until};
    use std::cell::Cell;
    use std::io::Write;

    #[test]
    fn bytes_are_held_between_consumed_and_spare() {
        let pool = BufferPool::new(8, 1);
        let mut buffer = pool.try_take().expect("the first");
        assert_eq!((buffer.len(), buffer.spare(), buffer.capacity()), (0, 8, 8));
        assert_eq!(buffer.append(b"abcdefghij"), 8);
        buffer.consume(5);
        assert_eq!((buffer.data(), buffer.spare()), (&b"fgh"[..], 0));
        buffer.compact();
        assert_eq!((buffer.data(), buffer.spare()), (&b"fgh"[..], 5));
        buffer.append(b"12345");
        buffer.keep(3, 1..3);
        assert_eq!(buffer.data(), b"fgh23");
        let mark = buffer.mark();
        buffer.consume(5);
        buffer.reset(mark);
        assert_eq!(buffer.data(), b"fgh23", "consumed bytes can be had again");
        buffer.truncate(1);
        assert_eq!(buffer.data(), b"f");
        buffer.consume(1);
        assert_eq!(buffer.spare(), 8, "an emptied buffer has all its room again");
    }

    #[test]
    fn room_is_left_in_front_of_what_comes() {
        let pool = BufferPool::new(16, 1);
        let mut buffer = pool.try_take().expect("the first");
        buffer.leave_out(4);
        buffer.append(b"head body");
        buffer.consume(5);
        assert!(!buffer.put_before(b"0123456789"), "there is room for nine bytes");
        assert_eq!(buffer.data(), b"body", "nothing was put in front");
        assert!(buffer.put_before(b"new head "));
        assert_eq!(buffer.data(), b"new head body");
        let whole = buffer.take();
        assert_eq!((buffer.capacity(), whole.data()), (0, &b"new head body"[..]));
        drop(buffer);
        assert_eq!(pool.out(), 1, "the whole one has the place");
        drop(whole);
        assert_eq!(pool.out(), 0);
    }

    #[test]
    fn a_pool_is_bounded_and_frees_what_is_not_needed() {
        let pool = BufferPool::new(16, 3);
        let all: Vec<_> = std::iter::from_fn(|| pool.try_take()).collect();
        assert_eq!((all.len(), pool.out()), (3, 3));
        drop(all);
        assert_eq!((pool.out(), pool.idle()), (0, 3));
        pool.trim();
        assert_eq!(pool.idle(), 3, "they were in use since the last trim");
        drop(pool.try_take());
        pool.trim();
        assert_eq!(pool.idle(), 1, "two were not needed");
    }

    #[test]
    fn a_lent_buffer_comes_back_or_frees_its_place() {
        let pool = BufferPool::new(16, 1);
        let mut buffer = pool.try_take().expect("the first");
        buffer.append(b"abc");
        let (lease, mut loose) = buffer.lend();
        assert!(pool.try_take().is_none(), "its place is taken while it is away");
        loose.spare_mut()[0] = b'd';
        loose.filled(1);
        let mut buffer = lease.restore(loose);
        assert_eq!(buffer.data(), b"abcd");
        let (lease, loose) = buffer.lend();
        drop(lease);
        assert!(pool.try_take().is_some());
        drop(loose);
    }

    #[test]
    fn the_buffer_of_a_dropped_read_comes_back_when_the_kernel_is_done() {
        on_both(|core| async move {
            let (mut stream, mut peer) = pair(&core);
            let reading = Rc::new(Cell::new(false));
            let seen = Rc::clone(&reading);
            let owner = Rc::clone(&core);
            let read = async move {
                let mut buffer = owner.heads.take().await;
                seen.set(true);
                let _ = stream.read_some(&mut buffer).await;
            };
            race(read, sleep_ms(30)).await;
            assert!(reading.get());
            until("the buffer is back", || core.heads.out() == 0).await;
            let _ = peer.write_all(b"too late");
        });
    }
}
