//! Finding out whether the database works again, while its breaker is open.
//!
//! What is tried is what did not work: a query, an empty batch, or both. No batch runs beside an empty one: whether
//! changes work is then known from one of them alone. While one hangs, a query has to do.

use super::super::port::{ApplyError, BatchId, MetadataStore, Query};
use super::{Desk, unanswered};
use crate::base::{Clock, Dice, Failure, Tick};
use futures_util::future::{Either, select};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked whether a probe is due.
const LOOK: Duration = Duration::from_millis(50);

impl<S: MetadataStore, C: Clock, D: Dice> Desk<S, C, D> {
    /// Cancel: safe between probes.
    pub(super) async fn probe_until_closed(&self) {
        let circuit = &self.state.circuit;
        while !circuit.is_closed() {
            let began = self.clock.tick();
            if !circuit.probe_due(began, self.dice.roll()) {
                self.clock.sleep(LOOK).await;
                continue;
            }
            match self.probe(began).await {
                Ok(()) => {
                    self.queries_fail.set(false);
                    self.changes_fail.set(false);
                    circuit.succeeded(began, self.clock.tick());
                }
                Err(failure) => {
                    tracing::debug!(%failure, "the database does not answer yet");
                    self.failed(began);
                }
            }
        }
    }

    async fn probe(&self, began: Tick) -> Result<(), Failure> {
        let only_changes_fail = self.changes_fail.get() && !self.queries_fail.get();
        if self.running.get() || !only_changes_fail {
            self.probe_query().await?;
            self.queries_fail.set(false);
        }
        if self.changes_fail.get() && !self.running.get() {
            self.probe_change(began).await?;
        }
        Ok(())
    }

    async fn probe_query(&self) -> Result<(), Failure> {
        let nothing = Query::Lookup { bucket: String::new(), key: String::new() };
        let patience = pin!(self.clock.sleep(self.limits.answer_within));
        match select(pin!(self.store.query(nothing)), patience).await {
            Either::Left((answer, _)) => answer.map(|_| ()),
            Either::Right(_) => Err(unanswered()),
        }
    }

    /// One that does not come back has failed, but is waited for all the same.
    async fn probe_change(&self, began: Tick) -> Result<(), Failure> {
        self.probing.set(true);
        let id = BatchId(self.dice.roll(), self.dice.roll());
        let applied = pin!(self.store.apply(id, Arc::new([])));
        let patience = pin!(self.clock.sleep(self.limits.answer_within));
        let applied = match select(applied, patience).await {
            Either::Left((applied, _)) => applied,
            Either::Right(((), late)) => {
                self.failed(began);
                let _ = late.await; // too late to count
                Err(ApplyError::NotApplied(unanswered()))
            }
        };
        self.probing.set(false);
        match applied {
            Ok(_) => Ok(()),
            // It answers. That it refuses this run, whose lease has lapsed meanwhile, is for the registration to mend, which the
            // breaker must let through.
            Err(ApplyError::NotApplied(failure)) if !failure.is_of_database() => Ok(()),
            Err(ApplyError::NotApplied(failure) | ApplyError::Unknown(failure)) => Err(failure),
        }
    }
}
