//! Limits that change while the process runs (SIGHUP): `quota_bytes`, the monthly budgets, `usage_flush`; and when the replicator
//! runs.

use super::admin::Operations;
use super::registration::limits_in_force;
use crate::base::Failure;
use crate::config::Config;
use crate::policy::usage::Budget;
use crate::store::port::{Metadata, SetLimits};
use crate::workers::lend::Occasion;

impl Operations {
    /// Those of this configuration are in force from now on: here at once, in the database with `tell_limits`. Backends are
    /// known by their names; one that is new or gone waits for a restart, like pools that are others than before.
    pub(super) async fn set_limits(&self, config: &Config) {
        self.set_usage_flush(config.usage_flush);
        self.set_replication(config.replication);
        let read = |name| config.backends.iter().find(|one| one.name == name);
        let mut budgets: Vec<Budget> = Vec::with_capacity(self.view.backends.len());
        for (index, backend) in self.view.backends.iter().enumerate() {
            let now = read(backend.name.clone()).unwrap_or(backend);
            self.board.set_limit_bytes(index, now.quota_bytes);
            budgets.push(now.budget.clone());
        }
        let kept = self.lender().await.set_limits(&budgets, (self.now)(), || self.used_this_month());
        for (backend, _) in self.view.backends.iter().zip(kept).filter(|(_, taken)| !taken) {
            let backend = backend.name.as_str();
            tracing::warn!(
                backend,
                "its pools of requests are others than before: its monthly limits wait for a restart"
            );
        }
    }

    /// Fails while the database does not answer: to be asked for again.
    pub(super) async fn tell_limits(&self) -> Result<(), Failure> {
        let set = SetLimits { backends: limits_in_force(&self.view, &self.board) };
        if let Err(refusal) = self.metadata.step(set).await? {
            return Err(Failure::ourselves(format!("limits were refused: {refusal:?}")));
        }
        self.flush_usage().await?;
        self.lend(Occasion::Regular).await
    }
}
