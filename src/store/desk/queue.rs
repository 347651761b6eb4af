//! Changes that wait, and which of them form the next batch.

use super::super::port::{Change, Subject};
use crate::base::Tick;
use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

/// How far a batch looks past changes that have to wait for others.
const LOOK_AHEAD_MAX: usize = 1024;

/// What ends something that was begun: asked for until it is done, whether anybody waits for it or not.
pub(super) fn is_end(change: &Change) -> bool {
    matches!(change, Change::AbandonWrite(_) | Change::AbandonPart(_) | Change::AbortUpload(_))
}

pub(super) struct Waiting<R> {
    pub(super) change: Change,
    since: Tick,
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

    pub(super) fn push(&mut self, change: Change, since: Tick, reply: Option<R>) {
        let hash = |subject| BuildHasherDefault::<DefaultHasher>::default().hash_one(subject);
        let subjects = change.subjects();
        let alone = subjects.contains(&Some(Subject::Everything));
        let subjects = subjects.map(|subject| subject.map(hash));
        self.0.push_back(Waiting { change, since, reply, subjects, alone });
    }

    /// Takes out what waits since a time that is `too_long` ago; ends stay, without their callers. Returns their callers, and since
    /// when each waits.
    pub(super) fn expire(&mut self, too_long: impl Fn(Tick) -> bool) -> Vec<(Tick, R)> {
        let mut callers = Vec::new();
        self.0.retain_mut(|one| {
            if too_long(one.since) {
                callers.extend(one.reply.take().map(|reply| (one.since, reply)));
                return is_end(&one.change);
            }
            true
        });
        callers
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
