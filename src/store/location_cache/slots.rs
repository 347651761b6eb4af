//! The table's memory: slots of fixed size, each under a sequence number (a seqlock), with one writer and any readers.
//!
//! A slot is odd while it is written. A reader copies the words it wants and looks at the sequence number again: if that
//! moved, what it copied may be torn, and it has read nothing. All words are atomics, so a torn copy is only a wrong one,
//! never a data race (Boehm, "Can seqlocks get along with programming language memory models?", 2012).
#![allow(unsafe_code)] // one cast, below

use crate::base::Tick;
use std::sync::atomic::{AtomicU64, Ordering, fence};

pub const SLOT_BYTES: usize = 1024;
/// Slots in which a key may stand.
pub(super) const WAYS: usize = 4;
const SLOT_WORDS: usize = SLOT_BYTES / 8;
/// The sequence number, the length in bytes, when the database said so, then the payload.
const HEAD_WORDS: usize = 3;
const LENGTH: usize = 1;
const AS_OF: usize = 2;
/// The time of what must not be answered any more.
const TOO_OLD: u64 = 0;
const PAYLOAD_WORDS: usize = SLOT_WORDS - HEAD_WORDS;
pub(super) const PAYLOAD_BYTES: usize = PAYLOAD_WORDS * 8;

#[derive(Debug)]
pub(super) struct Slots {
    words: Box<[AtomicU64]>,
    /// Which key a slot may hold, apart from the slots so that a set's are on one cache line. 0: none.
    tags: Box<[AtomicU64]>,
    sets: usize,
}

impl Slots {
    pub(super) fn new(sets: usize) -> Self {
        Self { words: zeroed(sets * WAYS * SLOT_WORDS), tags: zeroed(sets * WAYS), sets }
    }

    pub(super) fn sets(&self) -> usize {
        self.sets
    }

    /// The high half chooses the set, without a division.
    pub(super) fn set_of(&self, tag: u64) -> usize {
        (((tag >> 32) * self.sets as u64) >> 32) as usize
    }

    pub(super) fn slots_of(&self, tag: u64) -> std::ops::Range<usize> {
        let first = self.set_of(tag) * WAYS;
        first..(first + WAYS).min(self.tags.len())
    }

    pub(super) fn tag(&self, slot: usize) -> u64 {
        self.tags[slot].load(Ordering::Acquire)
    }

    /// Only the writer.
    pub(super) fn set_tag(&self, slot: usize, tag: u64) {
        self.tags[slot].store(tag, Ordering::Release);
    }

    fn words(&self, slot: usize) -> &[AtomicU64] {
        &self.words[slot * SLOT_WORDS..][..SLOT_WORDS]
    }

    /// Copies a payload out, and tells its length and when the database said so (None: that is not to be answered any more);
    /// nothing if it was being written. The payload says itself which key it is of.
    pub(super) fn read(&self, slot: usize, payload: &mut [u8; PAYLOAD_BYTES]) -> Option<(usize, Option<Tick>)> {
        let words = self.words(slot);
        let before = words[0].load(Ordering::Acquire);
        if before % 2 == 1 {
            return None;
        }
        let length = words[LENGTH].load(Ordering::Relaxed) as usize;
        let used = length.div_ceil(8).min(PAYLOAD_WORDS);
        for (eight, word) in payload.chunks_exact_mut(8).zip(&words[HEAD_WORDS..][..used]) {
            eight.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        let as_of = self.as_of(slot);
        // Orders the copies before the second look.
        fence(Ordering::Acquire);
        let after = words[0].load(Ordering::Relaxed);
        (before == after && length <= PAYLOAD_BYTES).then_some((length, as_of))
    }

    /// As `read`; by itself only for the writer.
    pub(super) fn as_of(&self, slot: usize) -> Option<Tick> {
        let nanos = self.words(slot)[AS_OF].load(Ordering::Relaxed);
        (nanos != TOO_OLD).then_some(Tick { nanos })
    }

    /// Only the writer. What stands there stays, for those who ask whatever its age.
    pub(super) fn set_too_old(&self, slot: usize) {
        self.words(slot)[AS_OF].store(TOO_OLD, Ordering::Relaxed);
    }

    /// Only the writer; at most `PAYLOAD_BYTES`.
    pub(super) fn write(&self, slot: usize, as_of: Tick, payload: &[u8]) {
        assert!(payload.len() <= PAYLOAD_BYTES, "a payload fits its slot");
        let words = self.words(slot);
        let sequence = words[0].load(Ordering::Relaxed);
        words[0].store(sequence + 1, Ordering::Relaxed);
        // Orders the odd number before everything that is written under it.
        fence(Ordering::Release);
        words[LENGTH].store(payload.len() as u64, Ordering::Relaxed);
        words[AS_OF].store(as_of.nanos, Ordering::Relaxed);
        for (word, bytes) in words[HEAD_WORDS..].iter().zip(payload.chunks(8)) {
            let mut eight = [0; 8];
            eight[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(eight), Ordering::Relaxed);
        }
        words[0].store(sequence + 2, Ordering::Release);
    }
}

/// Zeroed pages that the system hands out when they are first written, so that an empty table costs nothing.
fn zeroed(length: usize) -> Box<[AtomicU64]> {
    let plain: Box<[u64]> = vec![0; length].into_boxed_slice();
    // SAFETY: AtomicU64 has the size and bit validity of u64 (std's guarantee), and on the 64-bit targets that we build for
    // its alignment; the box is owned here alone, so nobody reads it as plain words any more.
    unsafe { Box::from_raw(Box::into_raw(plain) as *mut [AtomicU64]) }
}

const _: () =
    assert!(align_of::<AtomicU64>() == align_of::<u64>(), "the cast in `zeroed` keeps the allocation's layout");

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    /// Readers that go straight for a slot that is rewritten all the time: what they get is one payload, never two.
    #[test]
    fn a_torn_copy_is_no_copy() {
        let slots = Slots::new(1);
        let stop = AtomicBool::new(false);
        let read = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut payload = [0; PAYLOAD_BYTES];
                while !stop.load(Ordering::Relaxed) {
                    if let Some((length, _)) = slots.read(0, &mut payload) {
                        let whole = payload[..length].iter().all(|&byte| byte == payload[0]);
                        if !whole || (length > 0 && length != PAYLOAD_BYTES - usize::from(payload[0])) {
                            stop.store(true, Ordering::Relaxed);
                            panic!("torn: {:?}", &payload[..length]);
                        }
                        read.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            let mut round = 0_u64;
            while (round < 200_000 || read.load(Ordering::Relaxed) < 1_000) && !stop.load(Ordering::Relaxed) {
                round += 1;
                let byte = (round % 251) as u8;
                slots.write(0, Tick::default(), &[byte; PAYLOAD_BYTES][..PAYLOAD_BYTES - usize::from(byte)]);
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
