//! Batches under way: how many, since when, and what they hold.
//!
//! A store says how many it bears (`MetadataStore::batches_in_flight_max`). Beyond the first, one is begun only
//! - when enough changes wait for it. A transaction has its price, however little is in it: two small ones beside each other
//!   carry out less than one after the other that are twice as large. Enough is its part of all changes that the desk has had at
//!   the same time lately, as if they were dealt out evenly; smaller batches were slower, on two cores that the database
//!   shares, with 16, 64 and 256 writers;
//! - with changes that share no subject with those under way (queue.rs). A batch holds its subjects until its outcome is known
//!   and its callers are answered, whatever that takes: asked for again, resolved, taken apart;
//! - beside batches that go well, of a database whose breaker is closed. While one has failed or its answer is lost, nothing new
//!   is begun, so whoever asks what became of it is at most so many batches behind it.

use super::queue::Batch;
use crate::base::Tick;
use std::collections::HashSet;

/// However few there are: a batch beside another one has no fewer changes.
const BESIDE_CHANGES_MIN: usize = 4;
/// For each batch that begins, so much of the crowd is forgotten.
const CROWD_FORGOTTEN: usize = 16;

#[derive(Default)]
pub(super) struct UnderWay {
    batches: Vec<One>,
    /// So many changes waited or were under way at the same time, lately.
    crowd: usize,
    /// Hashes of their subjects.
    subjects: HashSet<u64>,
    begun: u64,
}

struct One {
    number: u64,
    since: Tick,
    changes: usize,
    subjects: Vec<u64>,
    apart: bool,
}

impl UnderWay {
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Whether there may be one more, of so many at most.
    pub(super) fn bears_another(&self, max: usize) -> bool {
        self.batches.len() < max && !self.batches.iter().any(|one| one.apart)
    }

    pub(super) fn holds(&self, subject: u64) -> bool {
        self.subjects.contains(&subject)
    }

    /// How many changes it takes to begin another one, if there are so many batches at most.
    pub(super) fn enough_for_another(&self, max: usize) -> usize {
        (self.crowd / max.max(1)).max(BESIDE_CHANGES_MIN)
    }

    /// The number of a batch that begins now, while so many changes wait.
    pub(super) fn begin<R>(&mut self, batch: &Batch<R>, waiting: usize, now: Tick) -> u64 {
        let subjects: Vec<u64> = batch.changes.iter().flat_map(|one| one.subjects).flatten().collect();
        for subject in &subjects {
            assert!(self.subjects.insert(*subject), "two changes of one subject are under way");
        }
        self.begun += 1;
        let changes = batch.changes.len();
        self.batches.push(One { number: self.begun, since: now, changes, subjects, apart: batch.apart });
        let here = waiting + self.batches.iter().map(|one| one.changes).sum::<usize>();
        self.crowd = here.max(self.crowd - self.crowd.div_ceil(CROWD_FORGOTTEN));
        self.begun
    }

    pub(super) fn end(&mut self, number: u64) {
        let at = self.batches.iter().position(|one| one.number == number).expect("a batch ends once");
        for subject in self.batches.remove(at).subjects {
            self.subjects.remove(&subject);
        }
    }

    /// Which has been under way for longest, and since when.
    pub(super) fn oldest(&self) -> Option<(u64, Tick)> {
        self.batches.first().map(|one| (one.number, one.since))
    }
}
