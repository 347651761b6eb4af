//! One batch, from holding its keys to answering its callers.

use super::super::port::{
    AbandonPart, AbandonWrite, AbortUpload, Applied, ApplyError, BatchId, Change, CompleteStarted, GivenUp,
    MetadataStore, Outcome,
};
use super::queue::{Waiting, is_end};
use super::{Desk, Reply, ReplyTo, unanswered};
use crate::base::{BlobId, Clock, Dice, Failure, Incarnation, Tick};
use futures_util::future::{Either, select};
use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// A batch whose answer was lost and that turned out not to be applied runs again so often.
const RERUNS_MAX: u32 = 3;
/// Changes of a failed batch that fail one after the other until the rest is given up: then it is the database.
const FAILURES_IN_A_ROW_MAX: u32 = 3;
/// Waits between questions about a lost answer.
const ASK_AGAIN_FIRST: Duration = Duration::from_millis(10);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(1);

/// Why a batch has no outcomes. Nothing of it happened.
enum Undone {
    /// The database failed it.
    NotApplied(Failure),
    /// Its answer was lost too often, or its callers have been told so meanwhile: it must not run again.
    GivenUp(Failure),
}

/// Of one batch: counted from when it is met until the batch ends.
struct Trouble<'d> {
    of: &'d Cell<usize>,
    met: bool,
}

impl Trouble<'_> {
    fn meet(&mut self) {
        if !self.met {
            self.met = true;
            self.of.set(self.of.get() + 1);
        }
    }
}

impl Drop for Trouble<'_> {
    fn drop(&mut self) {
        if self.met {
            self.of.set(self.of.get() - 1);
        }
    }
}

impl<S: MetadataStore, C: Clock, D: Dice> Desk<S, C, D> {
    /// Answers every change of the batch. Returns the ends of what was begun for callers that are gone.
    pub(super) async fn carry_out<R: ReplyTo>(&self, batch: Vec<Waiting<R>>) -> Vec<Change> {
        let (changes, mut callers): (Vec<_>, Vec<_>) = batch.into_iter().map(|one| (one.change, one.reply)).unzip();
        let changes: Arc<[Change]> = changes.into();
        let began = self.clock.tick();
        self.locations.borrow_mut().hold(&changes);
        let mut ends = Vec::new();
        let mut trouble = Trouble { of: &self.in_trouble, met: false };
        match self.attempt(&changes, &mut callers, &mut trouble).await {
            Ok(applied) => self.deliver(&changes, applied, began, &mut callers, &mut ends),
            Err(Undone::NotApplied(_)) if changes.len() > 1 => {
                self.take_apart(&changes, began, &mut callers, &mut ends, &mut trouble).await;
            }
            Err(Undone::NotApplied(failure) | Undone::GivenUp(failure)) => self.fail(&changes, &failure, &mut callers),
        }
        ends
    }

    /// One bad change must not fail its neighbours: each is a batch of its own now.
    async fn take_apart<R: ReplyTo>(
        &self,
        changes: &[Change],
        began: Tick,
        callers: &mut [Option<R>],
        ends: &mut Vec<Change>,
        trouble: &mut Trouble<'_>,
    ) {
        self.cells.taken_apart.inc();
        let mut in_a_row = 0;
        for (i, change) in changes.iter().enumerate() {
            if callers[i].is_none() && !is_end(change) {
                // Told meanwhile that it did not happen.
                self.locations.borrow_mut().release(std::slice::from_ref(change));
                continue;
            }
            let alone: Arc<[Change]> = Arc::new([change.clone()]);
            let caller = &mut callers[i..=i];
            match self.attempt(&alone, caller, trouble).await {
                Ok(applied) => {
                    in_a_row = 0;
                    self.deliver(&alone, applied, began, caller, ends);
                }
                Err(Undone::NotApplied(failure) | Undone::GivenUp(failure)) => {
                    in_a_row += 1;
                    self.fail(&alone, &failure, caller);
                    if in_a_row == FAILURES_IN_A_ROW_MAX {
                        return self.fail(&changes[i + 1..], &failure, &mut callers[i + 1..]);
                    }
                }
            }
        }
    }

    /// Runs the changes as one transaction until it is known what came of it.
    async fn attempt<R: ReplyTo>(
        &self,
        changes: &Arc<[Change]>,
        callers: &mut [Option<R>],
        trouble: &mut Trouble<'_>,
    ) -> Result<Applied, Undone> {
        let mut runs = 0;
        loop {
            let id = BatchId(self.dice.roll(), self.dice.roll());
            let begun = self.clock.tick();
            let lost = match self.in_time(begun, self.store.apply(id, changes.clone()), callers).await {
                Ok(applied) => {
                    self.noted(begun, false, Ok(()));
                    self.cells.committed(changes.len(), self.clock.tick().since(begun));
                    return Ok(applied);
                }
                Err(ApplyError::NotApplied(failure)) => {
                    trouble.meet();
                    self.noted(begun, false, Err::<(), _>(&failure));
                    self.cells.failures.inc();
                    return Err(Undone::NotApplied(failure));
                }
                Err(ApplyError::Unknown(failure)) => failure,
            };
            trouble.meet();
            self.noted(begun, false, Err::<(), _>(&lost));
            self.cells.answers_lost.inc();
            tracing::warn!(changes = changes.len(), cause = %lost, "the answer of a commit was lost");
            if let Some(applied) = self.resolve(id, &lost, callers).await {
                return Ok(applied);
            }
            runs += 1;
            let told_otherwise = callers.iter().all(Option::is_none);
            if told_otherwise || runs > RERUNS_MAX {
                return Err(Undone::GivenUp(lost));
            }
        }
    }

    /// A call of the store. Callers are told after a while that there is no answer; the desk waits for it still.
    async fn in_time<T, R: ReplyTo>(&self, began: Tick, call: impl Future<Output = T>, callers: &mut [Option<R>]) -> T {
        let patience = pin!(self.clock.sleep(self.limits.answer_within));
        let call = pin!(call);
        let late = match select(call, patience).await {
            Either::Left((done, _)) => return done,
            Either::Right(((), late)) => late,
        };
        for caller in callers.iter_mut().filter_map(Option::take) {
            self.noted(began, false, Err::<(), _>(&unanswered()));
            let _ = caller.send(Reply::Change(Err(unanswered()))); // what was begun is ended when it is known
        }
        late.await
    }

    /// Asks until the database says what became of the batch. Callers are told after a while that nobody knows; the desk
    /// goes on, since nothing of these keys may run before.
    async fn resolve<R: ReplyTo>(&self, id: BatchId, lost: &Failure, callers: &mut [Option<R>]) -> Option<Applied> {
        let since = self.clock.tick();
        let mut wait = ASK_AGAIN_FIRST;
        loop {
            let begun = self.clock.tick();
            match self.in_time(begun, self.store.resolve(id), callers).await {
                Ok(found) => {
                    self.noted(begun, false, Ok(()));
                    return found;
                }
                Err(failure) => {
                    self.noted(begun, false, Err::<(), _>(&failure));
                    if wait == ASK_AGAIN_FIRST {
                        tracing::warn!(cause = %failure, "a lost answer is not resolved yet");
                    }
                }
            }
            if self.clock.tick().since(since) >= self.limits.answer_within {
                for caller in callers.iter_mut().filter_map(Option::take) {
                    let _ = caller.send(Reply::Change(Err(lost.clone()))); // what was begun is ended when it is known
                }
            }
            self.clock.sleep(wait).await;
            wait = (wait * 2).min(ASK_AGAIN_MAX);
        }
    }

    // ---- before and after ----------------------------------------------------------------------------------------

    fn deliver<R: ReplyTo>(
        &self,
        changes: &[Change],
        applied: Applied,
        began: Tick,
        callers: &mut [Option<R>],
        ends: &mut Vec<Change>,
    ) {
        assert_eq!(applied.outcomes.len(), changes.len(), "a store answers every change");
        self.state.batch_applied();
        self.locations.borrow_mut().release(changes);
        self.show(&applied);
        for (change, outcome) in changes.iter().zip(&applied.outcomes) {
            self.note_blobs(change, outcome);
            self.locations.borrow_mut().done(change, outcome, began);
        }
        for ((change, outcome), caller) in changes.iter().zip(applied.outcomes).zip(callers) {
            let unheard = match caller.take() {
                Some(caller) => caller.send(Reply::Change(Ok(outcome))).err(),
                None => Some(Reply::Change(Ok(outcome))),
            };
            if let Some(Reply::Change(Ok(outcome))) = unheard {
                ends.extend(end_of(change, &outcome));
            }
        }
        ends.append(&mut self.postponed.borrow_mut());
    }

    /// Which blobs are nobody's yet. What is given up stays so: its bytes may be there for a while.
    fn note_blobs(&self, change: &Change, outcome: &Outcome) {
        match (change, outcome) {
            (_, Outcome::BeginWrite(Ok(begun))) => self.state.begun(begun.blob.id, &begun.blob.name),
            (Change::CommitWrite(commit), Outcome::CommitWrite(Ok(_))) => {
                commit.blobs.iter().for_each(|written| self.state.committed(written.blob));
            }
            (_, Outcome::StartComplete(Ok(CompleteStarted::Go { upload, .. }))) => {
                self.state.begun(&upload.upload, &upload.blob.name);
            }
            (Change::FinishComplete(done), Outcome::FinishComplete(Ok(_))) => self.state.committed(&done.upload),
            _ => {}
        }
    }

    fn fail<R: ReplyTo>(&self, changes: &[Change], failure: &Failure, callers: &mut [Option<R>]) {
        self.locations.borrow_mut().release(changes);
        for (change, caller) in changes.iter().zip(callers) {
            match caller.take() {
                Some(caller) => drop(caller.send(Reply::Change(Err(failure.clone())))), // nothing was begun
                None if is_end(change) => self.postponed.borrow_mut().push(change.clone()),
                None => {}
            }
        }
    }

    fn show(&self, applied: &Applied) {
        let mut shown = self.shown.borrow_mut();
        for (backend, bytes) in &applied.charged {
            if let Some(place) = shown.places.iter().position(|one| one == backend) {
                shown.board.set_charged_bytes(place, *bytes);
            }
            match shown.charged.get_mut(backend) {
                Some(cell) => *cell = *bytes,
                None => drop(shown.charged.insert(backend.clone(), *bytes)),
            }
        }
    }
}

/// What ends a begin whose caller will never hear of it.
fn end_of(change: &Change, outcome: &Outcome) -> Option<Change> {
    let abandon = |incarnation: Incarnation, blob: BlobId| {
        let given_up = GivenUp { blob, may_appear: false };
        Change::from(AbandonWrite { incarnation, given_up, reason: "caller gone".into() })
    };
    match (change, outcome) {
        (Change::BeginWrite(one), Outcome::BeginWrite(Ok(begun))) => Some(abandon(one.incarnation, begun.blob.id)),
        (Change::BeginCopy(one), Outcome::BeginCopy(Ok(begun))) => Some(abandon(one.incarnation, begun.blob.id)),
        (Change::BeginPart(one), Outcome::BeginPart(Ok(begun))) => Some(Change::from(AbandonPart {
            incarnation: one.incarnation,
            upload: one.upload.clone(),
            number: one.number,
            nonce: begun.nonce,
            may_have_replaced: false,
        })),
        (Change::CreateUpload(one), Outcome::CreateUpload(Ok(_))) => Some(Change::from(AbortUpload {
            bucket: one.bucket.clone(),
            key: one.key.clone(),
            upload: one.upload.clone(),
        })),
        _ => None,
    }
}
