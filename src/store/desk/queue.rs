//! Changes that wait, and which of them form the next batch.
//!
//! Two that share a subject never share a batch, nor are two batches with them under way at the same time, and they keep
//! their order. What concerns everything is a batch of its own, and what is neither of a key, an upload nor a blob is in the only
//! batch that is under way: nothing behind it is taken before, so that it never waits for more than what is under way.

use super::super::port::{Change, Subject};
use super::under_way::UnderWay;
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
    pub(super) subjects: [Option<u64>; 2],
    /// In its batch.
    alone: bool,
    /// No batch is under way beside its own.
    apart: bool,
}

/// Changes that were taken to be carried out.
pub(super) struct Batch<R> {
    pub(super) changes: Vec<Waiting<R>>,
    /// Nothing may be under way beside it.
    pub(super) apart: bool,
}

pub(super) struct Queue<R> {
    waiting: VecDeque<Waiting<R>>,
    /// As many have to arrive, or a batch has to end, before it is worth while to look for another batch.
    wanted: usize,
}

impl<R> Default for Queue<R> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), wanted: 0 }
    }
}

impl<R> Queue<R> {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn push(&mut self, change: Change, since: Tick, reply: Option<R>) {
        let hash = |subject| BuildHasherDefault::<DefaultHasher>::default().hash_one(subject);
        let subjects = change.subjects();
        let alone = subjects.contains(&Some(Subject::Everything));
        let of_object = |one: &Subject<'_>| matches!(one, Subject::Key(..) | Subject::Upload(_) | Subject::Blob(_));
        let apart = subjects == [None, None] || !subjects.iter().flatten().all(of_object);
        let subjects = subjects.map(|subject| subject.map(hash));
        self.waiting.push_back(Waiting { change, since, reply, subjects, alone, apart });
        self.wanted = self.wanted.saturating_sub(1);
    }

    /// Takes out what waits since a time that is `too_long` ago; ends stay, without their callers. Returns their callers, and since
    /// when each waits.
    pub(super) fn expire(&mut self, too_long: impl Fn(Tick) -> bool) -> Vec<(Tick, R)> {
        let mut callers = Vec::new();
        self.wanted = 0;
        self.waiting.retain_mut(|one| {
            if too_long(one.since) {
                callers.extend(one.reply.take().map(|reply| (one.since, reply)));
                return is_end(&one.change);
            }
            true
        });
        callers
    }

    /// A batch has ended: what waited for it may be taken.
    pub(super) fn look_again(&mut self) {
        self.wanted = 0;
    }

    /// The next batch: in order, at most `max` changes and at most one per subject, none of which is under way; None where
    /// fewer than `at_least` can be taken. What has to wait keeps its subjects from those behind it, so that changes of one key
    /// or upload are never reordered.
    pub(super) fn take_batch(&mut self, max: usize, at_least: usize, under_way: &UnderWay) -> Option<Batch<R>> {
        if self.wanted > 0 || self.waiting.len() < at_least {
            return None;
        }
        let nothing_beside = under_way.is_empty();
        if nothing_beside && self.waiting.front().is_some_and(|first| first.alone) {
            return Some(Batch { changes: self.waiting.pop_front().into_iter().collect(), apart: true });
        }
        let mut taken: HashSet<u64> = HashSet::new();
        let (mut chosen, mut count, mut apart) = (Vec::new(), 0, false);
        for next in &self.waiting {
            let enough = count == max || chosen.len() - count == LOOK_AHEAD_MAX;
            if enough || next.alone || next.apart && !nothing_beside {
                break;
            }
            let subjects = next.subjects.iter().flatten();
            let free = subjects.clone().all(|subject| !taken.contains(subject) && !under_way.holds(*subject));
            taken.extend(subjects);
            apart |= free && next.apart;
            count += usize::from(free);
            chosen.push(free);
        }
        if count < at_least {
            self.wanted = at_least - count;
            return None;
        }
        let (mut changes, mut passed) = (Vec::with_capacity(count), Vec::with_capacity(chosen.len() - count));
        for (free, next) in chosen.iter().zip(self.waiting.drain(..chosen.len())) {
            if *free { changes.push(next) } else { passed.push(next) }
        }
        passed.into_iter().rev().for_each(|back| self.waiting.push_front(back));
        Some(Batch { changes, apart })
    }
}
