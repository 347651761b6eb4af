//! A core's way to the metadata: the location cache where it can answer, the desk's mailbox otherwise.

use super::clock::CoreClock;
use super::mailbox::{Mailbox, Replier, Undelivered};
use crate::base::{Clock, Failure};
use crate::observe::cells::CoreCells;
use crate::store::database_state::DatabaseState;
use crate::store::desk::{Ask, Reply, ReplyTo};
use crate::store::location_cache::{LocationCache, Trust};
use crate::store::port::{Answer, Change, Metadata, Outcome, Query};
use crate::store::record::Located;
use std::sync::Arc;

impl ReplyTo for Replier<Reply> {
    /// The mailbox cannot tell whether its caller still waits; a task that panicked has its reservation's guard.
    fn send(self, reply: Reply) -> Result<(), Reply> {
        self.reply(reply);
        Ok(())
    }
}

pub struct CoreMetadata {
    mailbox: Mailbox<Ask, Reply>,
    cache: Arc<LocationCache>,
    trust: Trust,
    clock: CoreClock,
    state: Arc<DatabaseState>,
    cells: Arc<CoreCells>,
}

impl CoreMetadata {
    pub fn new(
        mailbox: Mailbox<Ask, Reply>,
        (cache, trust): (Arc<LocationCache>, Trust),
        state: Arc<DatabaseState>,
        cells: Arc<CoreCells>,
    ) -> Self {
        Self { mailbox, cache, trust, clock: CoreClock::default(), state, cells }
    }

    async fn ask(&self, request: Ask, may_be_refused: bool) -> Result<Reply, Failure> {
        let delivered =
            if may_be_refused { self.mailbox.call(request).await } else { self.mailbox.call_accepted(request).await };
        match delivered {
            Ok(reply) => Ok(reply),
            Err(Undelivered::Full) => {
                self.cells.mailbox_refusals.inc();
                Err(Failure::overloaded("the metadata mailbox is full"))
            }
            Err(Undelivered::Lost) => Err(Failure::metadata("the metadata thread did not answer")),
        }
    }
}

impl Metadata for CoreMetadata {
    async fn lookup(&self, bucket: &str, key: &str, into: &mut Located) -> Result<bool, Failure> {
        if self.cache.answer(self.trust, || self.clock.tick(), bucket, key, into) {
            self.cells.location_cache_hits.inc();
            return Ok(true);
        }
        if self.trust != Trust::Nothing {
            self.cells.location_cache_misses.inc();
        }
        self.lookup_afresh(bucket, key, into).await
    }

    fn recall(&self, bucket: &str, key: &str, into: &mut Located) -> bool {
        self.cache.get(bucket, key, into)
    }

    fn database(&self) -> Option<&DatabaseState> {
        Some(&self.state)
    }

    async fn query(&self, query: Query) -> Result<Answer, Failure> {
        match self.ask(Ask::Query(query), true).await? {
            Reply::Query(answer) => answer,
            Reply::Change(other) => Err(Failure::ourselves(format!("a query was answered with {other:?}"))),
        }
    }

    async fn change(&self, change: Change) -> Result<Outcome, Failure> {
        let may_be_refused = change.may_be_refused();
        match self.ask(Ask::Change(change), may_be_refused).await? {
            Reply::Change(outcome) => outcome,
            Reply::Query(other) => Err(Failure::ourselves(format!("a change was answered with {other:?}"))),
        }
    }
}
