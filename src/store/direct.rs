//! A store as `Metadata` without a desk between: every call its own batch, nothing cached. For tests of handlers and
//! workers that are not about batching.

use super::port::{Answer, ApplyError, BatchId, Change, Metadata, MetadataStore, Outcome, Query};
use crate::base::Failure;
use std::cell::Cell;
use std::sync::Arc;

#[derive(Debug)]
pub struct Direct<S> {
    store: S,
    batches: Cell<u64>,
}

impl<S: MetadataStore> Direct<S> {
    pub fn new(store: S) -> Self {
        Self { store, batches: Cell::new(0) }
    }

    pub fn store(&self) -> &S {
        &self.store
    }
}

impl<S: MetadataStore> Metadata for Direct<S> {
    async fn query(&self, query: Query) -> Result<Answer, Failure> {
        self.store.query(query).await
    }

    async fn change(&self, change: Change) -> Result<Outcome, Failure> {
        self.batches.set(self.batches.get() + 1);
        match self.store.apply(BatchId(0, self.batches.get()), Arc::new([change])).await {
            Ok(mut applied) => applied.outcomes.pop().ok_or_else(|| Failure::ourselves("a batch without outcomes")),
            Err(ApplyError::NotApplied(failure) | ApplyError::Unknown(failure)) => Err(failure),
        }
    }
}
