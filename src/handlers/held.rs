//! Which reserved blobs a task of this process holds: those that the sweep of its own reservations (workers/recover.rs) leaves
//! alone. One table for all cores, without locks: a place is taken and left by one store each.

use crate::base::BlobId;
use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};

/// Blobs that are held at once and can be told; a power of two. With more, nothing is swept.
const PLACES: usize = 16 * 1024;
/// Consecutive ids are put apart, so that cores do not write to the same line of memory.
const APART: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Debug)]
pub struct Held {
    /// 0: free.
    places: Box<[AtomicI64]>,
    untold: AtomicU64,
}

/// Where a blob stands.
#[derive(Debug)]
pub struct Place(Option<usize>);

impl Default for Held {
    /// Nothing is held.
    fn default() -> Self {
        Self { places: (0..PLACES).map(|_| AtomicI64::new(0)).collect(), untold: AtomicU64::new(0) }
    }
}

impl Held {
    pub fn hold(&self, blob: BlobId) -> Place {
        let first = ((blob.0 as u64).wrapping_mul(APART) >> 48) as usize;
        for step in 0..PLACES {
            let place = (first + step) % PLACES;
            if self.places[place].compare_exchange(0, blob.0, SeqCst, SeqCst).is_ok() {
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

    /// All that are held; None while some cannot be told.
    pub fn blobs(&self) -> Option<HashSet<BlobId>> {
        let ids = self.places.iter().map(|place| place.load(SeqCst)).filter(|id| *id != 0);
        let blobs = ids.map(BlobId).collect();
        (self.untold.load(SeqCst) == 0).then_some(blobs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_told_until_it_is_left() {
        let held = Held::default();
        let places: Vec<Place> = (1..=PLACES as i64).map(|id| held.hold(BlobId(id))).collect();
        assert_eq!(held.blobs().expect("all can be told").len(), PLACES);
        let more = held.hold(BlobId(-7));
        assert_eq!(held.blobs(), None, "one cannot");
        held.leave(&more);
        places.iter().skip(1).for_each(|place| held.leave(place));
        assert_eq!(held.blobs(), Some(HashSet::from([BlobId(1)])));
    }
}
