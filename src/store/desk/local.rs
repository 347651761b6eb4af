//! The desk as `Metadata` for tasks of its own thread: the simulator's, and tests'. Reactors come through their mailboxes.

use super::super::database_state::DatabaseState;
use super::super::location_cache::{LocationCache, Trust};
use super::super::port::{Answer, Change, Metadata, Outcome, Query};
use super::super::record::Located;
use super::{Ask, Call, Reply};
use crate::base::{Failure, Tick};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Cheap to clone; the desk ends when all are gone.
#[derive(Clone)]
pub struct LocalMetadata {
    calls: flume::Sender<Call<oneshot::Sender<Reply>>>,
    cache: Option<Arc<LocationCache>>,
    trust: Trust,
    tick: Rc<dyn Fn() -> Tick>,
    state: Option<Arc<DatabaseState>>,
}

/// A way to a desk and the inbox that it runs on. Unbounded: the desk's own limits hold. What the cache holds is exact.
pub fn local(cache: Option<Arc<LocationCache>>) -> (LocalMetadata, flume::Receiver<Call<oneshot::Sender<Reply>>>) {
    let (calls, inbox) = flume::unbounded();
    (LocalMetadata { calls, cache, trust: Trust::Exact, tick: Rc::new(Tick::default), state: None }, inbox)
}

impl LocalMetadata {
    /// With what the desk tells everybody of its database.
    pub fn knowing(self, state: Arc<DatabaseState>) -> Self {
        Self { state: Some(state), ..self }
    }

    /// What the cache holds is trusted so far, by this clock.
    pub fn trusting(self, trust: Trust, tick: impl Fn() -> Tick + 'static) -> Self {
        Self { trust, tick: Rc::new(tick), ..self }
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
        if self.cache.as_ref().is_some_and(|cache| cache.answer(self.trust, &*self.tick, bucket, key, into)) {
            return Ok(true);
        }
        self.lookup_afresh(bucket, key, into).await
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
