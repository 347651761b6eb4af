//! How a run of this instance becomes known to the database, at its start or when the database answers at last, and who learns
//! what it says.

use super::lease::{self, Terms};
use super::metadata::ControlMetadata;
use crate::backend::standing::Standing;
use crate::base::failure::Kind;
use crate::base::{Dice, Failure};
use crate::config::View;
use crate::config::checked;
use crate::reactor::dice::CoreDice;
use crate::reactor::wake::Wake;
use crate::store::board::Board;
use crate::store::database_state::DatabaseState;
use crate::store::port::{BackendLimit, Metadata, Register, Registered};
use anyhow::{Context, bail};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How often this run tries to register while the database does not answer.
const REGISTER_AGAIN: Duration = Duration::from_millis(500);

/// `quota_bytes` as last read.
pub(super) fn limits_in_force(view: &View, board: &Board) -> Vec<BackendLimit> {
    let limit = |(index, one): (usize, &checked::Backend)| BackendLimit {
        name: one.name.clone(),
        bytes_limit: board.limit_bytes(index),
    };
    view.backends.iter().enumerate().map(limit).collect()
}

pub(super) fn register_change(view: &View, board: &Board) -> anyhow::Result<Register> {
    let dice = CoreDice::from_system().context("the system's random numbers")?;
    let deployment = format!("{:016x}{:016x}", dice.roll(), dice.roll());
    Ok(Register { deployment, backends: limits_in_force(view, board) })
}

/// This run of this instance becomes known; what former ones left is recovered. The inner failure: the database
/// does not answer, or others were in the way.
pub(super) async fn register_once(
    metadata: &ControlMetadata,
    register: &Register,
) -> anyhow::Result<Result<Registered, Failure>> {
    match metadata.step(register.clone()).await {
        Ok(Ok(registered)) => Ok(Ok(registered)),
        Ok(Err(refusal)) => bail!("the database refused this instance: {refusal:?}"),
        Err(failure) if failure.is_of_database() || failure.kind == Kind::Overloaded => {
            tracing::debug!(%failure, "this instance is not registered yet");
            Ok(Err(failure))
        }
        Err(failure) => bail!("the database cannot be used: {failure}"),
    }
}

/// Once the database answers; nothing is begun before that.
pub(super) async fn register_later(known: Known, metadata: ControlMetadata, register: Register) {
    let mut is_told = false;
    loop {
        tokio::time::sleep(REGISTER_AGAIN).await;
        if !known.database.circuit.is_closed() {
            continue;
        }
        match register_once(&metadata, &register).await {
            Ok(Ok(registered)) => return known.note(registered),
            // The breaker's log says so.
            Ok(Err(_)) => {}
            Err(cause) if !is_told => {
                is_told = true;
                tracing::error!(%cause, "this instance stays without writes");
            }
            Err(_) => {}
        }
    }
}

/// Who learns what the database says when this run registers.
pub(super) struct Known {
    pub view: Arc<View>,
    pub standing: Arc<Standing>,
    pub database: Arc<DatabaseState>,
    pub terms: Rc<Terms>,
    pub cleanup: Wake,
}

impl Known {
    pub(super) fn note(self, registered: Registered) {
        if registered.doomed > 0 {
            tracing::info!(blobs = registered.doomed, "unfinished writes of a former run are given up");
        }
        if registered.restored {
            tracing::warn!(
                "the database was restored from a backup: nothing is deleted from any backend until `sync --restored` has run, \
                 and what it does not know of this month's budgets counts as spent"
            );
        }
        for (name, blobs) in &registered.unknown_backends {
            let backend = name.as_str();
            tracing::warn!(backend, blobs, "the database names a backend that the configuration has not");
        }
        for name in &registered.draining {
            if let Some(index) = self.view.backend_index(name) {
                self.standing.set_draining(index, true);
            }
        }
        for (name, facts) in &registered.facts {
            if let Some(index) = self.view.backend_index(name)
                && facts.place == self.view.backends[index].place.fingerprint()
            {
                self.standing.set_facts(index, facts);
            }
        }
        self.terms.set_incarnation(registered.incarnation);
        self.database.set_registered(registered);
        if self.terms.has_lease() {
            tokio::task::spawn_local(lease::keep(self.terms, self.view, self.cleanup));
        }
    }
}
