//! The desk as `Metadata` for tasks of its own thread: the simulator's, and tests'. Reactors come through their mailboxes.

use super::super::database_state::DatabaseState;
use super::super::location_cache::LocationCache;
use super::super::port::{Answer, Change, Metadata, Outcome, Query};
use super::super::record::Located;
use super::{Ask, Call, Reply};
use crate::base::Failure;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Cheap to clone; the desk ends when all are gone.
#[derive(Clone, Debug)]
pub struct LocalMetadata {
    calls: flume::Sender<Call<oneshot::Sender<Reply>>>,
    cache: Option<Arc<LocationCache>>,
    /// What the cache holds may be answered instead of asking.
    exact: bool,
    state: Option<Arc<DatabaseState>>,
}

/// A way to a desk and the inbox that it runs on. Unbounded: the desk's own limits hold.
pub fn local(cache: Option<Arc<LocationCache>>) -> (LocalMetadata, flume::Receiver<Call<oneshot::Sender<Reply>>>) {
    let (calls, inbox) = flume::unbounded();
    (LocalMetadata { calls, cache, exact: true, state: None }, inbox)
}

impl LocalMetadata {
    /// With what the desk tells everybody of its database.
    pub fn knowing(self, state: Arc<DatabaseState>) -> Self {
        Self { state: Some(state), ..self }
    }

    /// The cache is a memory only, for reads without the database.
    pub fn remembering(self) -> Self {
        Self { exact: false, ..self }
    }

    async fn call(&self, ask: Ask) -> Result<Reply, Failure> {
        let gone = || Failure::metadata("the metadata desk has stopped");
        let (reply, answer) = oneshot::channel();
        self.calls.send(Call { ask, reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}

impl Metadata for LocalMetadata {
    async fn lookup(&self, bucket: &str, key: &str, into: &mut Located) -> Result<bool, Failure> {
        if self.exact && self.cache.as_ref().is_some_and(|cache| cache.get(bucket, key, into)) {
            return Ok(true);
        }
        let query = Query::Lookup { bucket: bucket.to_owned(), key: key.to_owned() };
        match self.query(query).await? {
            Answer::Lookup(found) => Ok(found.map(|located| *into = located).is_some()),
            _ => Err(Failure::ourselves("a store answered a lookup with something else")),
        }
    }

    fn recall(&self, bucket: &str, key: &str, into: &mut Located) -> bool {
        self.cache.as_ref().is_some_and(|cache| cache.get(bucket, key, into))
    }

    fn database(&self) -> Option<&DatabaseState> {
        self.state.as_deref()
    }

    async fn query(&self, query: Query) -> Result<Answer, Failure> {
        match self.call(Ask::Query(query)).await? {
            Reply::Query(answer) => answer,
            Reply::Change(_) => Err(Failure::ourselves("a query was answered as a change")),
        }
    }

    async fn change(&self, change: Change) -> Result<Outcome, Failure> {
        match self.call(Ask::Change(change)).await? {
            Reply::Change(outcome) => outcome,
            Reply::Query(_) => Err(Failure::ourselves("a change was answered as a query")),
        }
    }
}
