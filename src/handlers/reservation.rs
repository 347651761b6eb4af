//! A blob that is reserved for a write under way (PROTOCOL.md, "A write"): begun here, and handed over to be abandoned
//! unless its end was recorded, whatever way its task ends.

use super::held::{Own, Place};
use super::placing;
use super::ports::{Ports, Worker};
use super::trouble::Trouble;
use crate::base::{BucketName, Clock, Dice, Failure, Incarnation, Nonce, ObjectKey};
use crate::store::port::{AbandonWrite, BeginWrite, Begun, Candidate, GivenUp, Metadata, Refusal, WriteCondition};
use crate::store::record::BlobAt;
use std::time::Duration;

/// How long a begin waits for the cleanup of displaced bytes before it answers that there is no room.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(5);
/// Between two looks for room.
const ROOM_WAIT_STEP: Duration = Duration::from_millis(100);

/// A relay counts what it has handed over; so much more may have left when it fails (one pipe, or one buffer).
const UNCOUNTED_BYTES_MAX: u64 = 1024 * 1024;

/// Whether a backend that broke off after this much may have the whole body all the same.
pub fn may_be_whole(bytes: u64, size: u64) -> bool {
    bytes.saturating_add(UNCOUNTED_BYTES_MAX) >= size
}

/// A write that is to be begun, as often as it takes.
pub struct Write {
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub size: u64,
    pub condition: WriteCondition,
    /// Backends that have not failed yet, best first.
    pub candidates: Vec<Candidate>,
}

pub struct Reservation<'p, P: Ports> {
    ports: &'p P,
    /// Who has reserved it. This process may be another by the time that the write goes on.
    pub incarnation: Incarnation,
    pub blob: BlobAt,
    /// Its backend's place in the view.
    pub backend: usize,
    held: Place,
    /// The body, or all of it, may be on its way (`GivenUp::may_appear`).
    may_appear: bool,
    reason: &'static str,
    ended: bool,
}

impl Write {
    /// Reserves the blob on the first candidate that fits. `instead_of` is the attempt that failed: its backend is no
    /// candidate any more, and it is given up in the same transaction. Fails with its failure when no candidate is left.
    pub async fn begin<'p, P: Ports>(
        &mut self,
        ports: &'p P,
        instead_of: Option<(Reservation<'p, P>, Failure)>,
    ) -> Result<Reservation<'p, P>, Trouble> {
        let mut given_up = None;
        if let Some((failed, failure)) = instead_of {
            self.candidates.retain(|candidate| candidate.backend != failed.blob.backend);
            if self.candidates.is_empty() {
                return Err(failure.into());
            }
            given_up = Some(failed);
        }
        if self.candidates.is_empty() && !placing::any_usable(ports) {
            return Err(Failure::backend("no backend is usable").into());
        }
        if self.candidates.is_empty() && placing::is_unaffordable(ports, self.size) {
            return Err(placing::over_budget().into());
        }
        self.begin_when_there_is_room(ports, given_up).await
    }

    async fn begin_when_there_is_room<'p, P: Ports>(
        &self,
        ports: &'p P,
        mut instead_of: Option<Reservation<'p, P>>,
    ) -> Result<Reservation<'p, P>, Trouble> {
        let asked = ports.clock().tick();
        loop {
            let incarnation = ports.incarnation();
            let begin = BeginWrite {
                incarnation,
                bucket: self.bucket.clone(),
                in_stored: !ports.registry().is_configured(self.bucket.as_str()),
                key: self.key.clone(),
                size: self.size,
                candidates: self.candidates.clone(),
                condition: self.condition.clone(),
                nonce: Nonce::from_roll(ports.dice().roll()),
                instead_of: instead_of.as_ref().map(Reservation::given_up),
            };
            let outcome = ports.meta().step(begin).await?;
            // Whatever became of the new attempt, the former one is given up by now.
            if let Some(former) = instead_of.take() {
                former.ended();
            }
            match outcome {
                Ok(begun) => return Ok(Reservation::new(ports, incarnation, begun)),
                Err(Refusal::NoSpaceYet) if ports.clock().tick().since(asked) < ROOM_WAIT_MAX => {
                    ports.wake(Worker::Cleanup);
                    ports.clock().sleep(ROOM_WAIT_STEP).await;
                }
                Err(refusal) => return Err(refusal.into()),
            }
        }
    }
}

impl<'p, P: Ports> Reservation<'p, P> {
    pub fn new(ports: &'p P, incarnation: Incarnation, begun: Begun) -> Self {
        let backend = placing::index_of(ports, &begun.blob.backend);
        let held = ports.held().hold(Own::Blob(begun.blob.id));
        Self {
            ports,
            incarnation,
            blob: begun.blob,
            backend,
            held,
            may_appear: false,
            reason: "the write ended",
            ended: false,
        }
    }

    /// From here on the whole body may reach the backend without an answer coming back.
    pub fn body_leaves(&mut self) {
        self.may_appear = true;
    }

    /// The backend has answered, or it is certain that it never got the whole body.
    pub fn cannot_appear(&mut self, reason: &'static str) {
        self.may_appear = false;
        self.reason = reason;
    }

    /// The source of the body broke off after this much of it was handed on; nothing more will be.
    pub fn source_broke_off(&mut self, bytes: u64, size: u64, reason: &'static str) {
        self.may_appear = bytes >= size;
        self.reason = reason;
    }

    /// The backend broke off after it was handed this much of the body.
    pub fn broke_off(&mut self, bytes: u64, size: u64, reason: &'static str) {
        self.may_appear = may_be_whole(bytes, size);
        self.reason = reason;
    }

    pub fn because(&mut self, reason: &'static str) {
        self.reason = reason;
    }

    fn given_up(&self) -> GivenUp {
        GivenUp { blob: self.blob.id, may_appear: self.may_appear }
    }

    /// The store has recorded what became of the blob: committed, or doomed.
    pub fn ended(mut self) {
        self.ended = true;
    }
}

impl<P: Ports> Drop for Reservation<'_, P> {
    fn drop(&mut self) {
        if !self.ended {
            let (incarnation, given_up) = (self.incarnation, self.given_up());
            self.ports.end_later(AbandonWrite { incarnation, given_up, reason: self.reason.to_owned() }.into());
        }
        self.ports.held().leave(&self.held);
    }
}
