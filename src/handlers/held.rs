//! What tasks of this process hold of what it has reserved, blobs and attempts at parts: that the sweep of its own reservations
//! (workers/recover.rs) leaves alone. One table for all cores, without locks: a place is taken and left by one store each.

use crate::base::{BlobId, Nonce};
use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};

/// What is held at once and can be told; a power of two. With more, nothing is swept.
const PLACES: usize = 16 * 1024;
/// Consecutive ids are put apart, so that cores do not write to the same line of memory.
const APART: u64 = 0x9e37_79b9_7f4a_7c15;

/// A reservation of this process's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Own {
    Blob(BlobId),
    /// By its attempt's name; one that is held twice is only swept later.
    Part(Nonce),
}

impl Own {
    /// Never 0. Ids of blobs are positive.
    fn word(self) -> i64 {
        match self {
            Self::Blob(blob) => blob.0,
            Self::Part(nonce) => -1 - nonce.bits() as i64,
        }
    }
}

#[derive(Debug)]
pub struct Held {
    /// 0: free.
    places: Box<[AtomicI64]>,
    untold: AtomicU64,
}

/// Where a reservation stands.
#[derive(Debug)]
pub struct Place(Option<usize>);

/// All that was held at a look.
#[derive(PartialEq, Eq, Debug)]
pub struct Seen(HashSet<i64>);

impl Seen {
    pub fn has(&self, own: Own) -> bool {
        self.0.contains(&own.word())
    }
}

impl Default for Held {
    /// Nothing is held.
    fn default() -> Self {
        Self { places: (0..PLACES).map(|_| AtomicI64::new(0)).collect(), untold: AtomicU64::new(0) }
    }
}

impl Held {
    pub fn hold(&self, own: Own) -> Place {
        let first = ((own.word() as u64).wrapping_mul(APART) >> 48) as usize;
        for step in 0..PLACES {
            let place = (first + step) % PLACES;
            if self.places[place].compare_exchange(0, own.word(), SeqCst, SeqCst).is_ok() {
                return Place(Some(place));
            }
        }
        self.untold.fetch_add(1, SeqCst);
        Place(None)
    }

    pub fn leave(&self, place: &Place) {
        match place.0 {
            Some(place) => self.places[place].store(0, SeqCst),
            None => drop(self.untold.fetch_sub(1, SeqCst)),
        }
    }

    /// None while some cannot be told.
    pub fn seen(&self) -> Option<Seen> {
        let words = self.places.iter().map(|place| place.load(SeqCst)).filter(|word| *word != 0);
        let seen = Seen(words.collect());
        (self.untold.load(SeqCst) == 0).then_some(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_told_until_it_is_left() {
        let held = Held::default();
        let places: Vec<Place> = (1..=PLACES as i64).map(|id| held.hold(Own::Blob(BlobId(id)))).collect();
        assert!(held.seen().is_some_and(|seen| seen.has(Own::Blob(BlobId(PLACES as i64)))));
        let more = held.hold(Own::Part(Nonce::from_roll(7)));
        assert_eq!(held.seen(), None, "one cannot");
        held.leave(&more);
        places.iter().for_each(|place| held.leave(place));
        assert_eq!(held.seen(), Some(Seen(HashSet::new())));
    }

    #[test]
    fn parts_are_no_blobs() {
        let held = Held::default();
        let (nonce, last) = (Nonce::from_roll(u64::MAX), Nonce::from_roll(0));
        assert_eq!((nonce.bits(), last.bits()), ((1 << 50) - 1, 0));
        for one in [Own::Part(nonce), Own::Part(last)] {
            let place = held.hold(one);
            let seen = held.seen().expect("all can be told");
            assert!(seen.has(one) && seen.0.len() == 1);
            assert!(!seen.has(Own::Blob(BlobId(1))) && !seen.has(Own::Part(Nonce::from_roll(9))));
            held.leave(&place);
        }
    }
}
