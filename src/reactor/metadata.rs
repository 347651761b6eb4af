//! A core's way to the metadata: the location cache where it can answer, the desk's mailbox otherwise.

use super::mailbox::{Mailbox, Replier, Undelivered};
use crate::base::Failure;
use crate::observe::cells::CoreCells;
use crate::store::database_state::DatabaseState;
use crate::store::desk::{Ask, Reply, ReplyTo};
use crate::store::location_cache::LocationCache;
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
    /// What the cache holds may be answered instead of asking.
    exact: bool,
    state: Arc<DatabaseState>,
    cells: Arc<CoreCells>,
}

impl CoreMetadata {
    pub fn new(
        mailbox: Mailbox<Ask, Reply>,
        (cache, exact): (Arc<LocationCache>, bool),
        state: Arc<DatabaseState>,
        cells: Arc<CoreCells>,
    ) -> Self {
        Self { mailbox, cache, exact, state, cells }
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
        if self.exact {
            if self.cache.get(bucket, key, into) {
                self.cells.location_cache_hits.inc();
                return Ok(true);
            }
            self.cells.location_cache_misses.inc();
        }
        let query = Query::Lookup { bucket: bucket.to_owned(), key: key.to_owned() };
        match self.query(query).await? {
            Answer::Lookup(Some(located)) => {
                *into = located;
                Ok(true)
            }
            Answer::Lookup(None) => Ok(false),
            other => Err(Failure::ourselves(format!("a lookup was answered with {other:?}"))),
        }
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
