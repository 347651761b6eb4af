//! Changes that wait, and which of them form the next batch.

use super::super::port::{Change, Subject};
use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

/// How far a batch looks past changes that have to wait for others.
const LOOK_AHEAD_MAX: usize = 1024;

pub(super) struct Waiting<R> {
    pub(super) change: Change,
    /// None: nobody waits for it.
    pub(super) reply: Option<R>,
    /// Hashes of its subjects; that two differ is all that is asked of them.
    subjects: [Option<u64>; 2],
    alone: bool,
}

pub(super) struct Queue<R>(VecDeque<Waiting<R>>);

impl<R> Default for Queue<R> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<R> Queue<R> {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn push(&mut self, change: Change, reply: Option<R>) {
        let hash = |subject| BuildHasherDefault::<DefaultHasher>::default().hash_one(subject);
        let subjects = change.subjects();
        let alone = subjects.contains(&Some(Subject::Everything));
        let subjects = subjects.map(|subject| subject.map(hash));
        self.0.push_back(Waiting { change, reply, subjects, alone });
    }

    /// The next batch: in order, and at most one change per subject. What has to wait keeps its subjects from those behind
    /// it, so that changes of one key or upload are never reordered.
    pub(super) fn take_batch(&mut self, max: usize) -> Vec<Waiting<R>> {
        let mut batch = Vec::new();
        if self.0.front().is_some_and(|first| first.alone) {
            batch.extend(self.0.pop_front());
            return batch;
        }
        let mut taken: HashSet<u64> = HashSet::new();
        let mut passed = VecDeque::new();
        while batch.len() < max && passed.len() < LOOK_AHEAD_MAX {
            let Some(next) = self.0.pop_front_if(|next| !next.alone) else { break };
            let subjects = next.subjects.iter().flatten();
            let free = subjects.clone().all(|subject| !taken.contains(subject));
            taken.extend(subjects);
            if free {
                batch.push(next);
            } else {
                passed.push_back(next);
            }
        }
        while let Some(back) = passed.pop_back() {
            self.0.push_front(back);
        }
        batch
    }
}
