//! Transactions that are no batch of changes to keys: rare, a few statements one after the other, each with its answer.

use super::super::port::{Applied, ApplyError, BatchId, Outcome};
use super::PostgresStore;
use super::batch::id_bytes;
use super::faults::failure;
use super::rows::damaged;
use super::sessions::{Blamed, Params, Session, Sql, sql};
use crate::base::{Failure, Timestamp};
use std::time::Duration;
use tokio_postgres::types::FromSql;

static BATCH: Sql = sql!("INSERT INTO batches (id, at, outcome) VALUES ($1, $2, 'applied')", BYTEA, INT8);
/// Acknowledged means durable, whatever the server's default is: of these transactions like of batches (write.rs).
static NOW: Sql = sql!(
    "SELECT coalesce($1, now_millis()),
         CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', TRUE) END",
    INT8
);

impl PostgresStore {
    /// Begins a transaction, and answers what time it is. Cancel: the session must be given up.
    pub(super) async fn begin(&self, session: &Session) -> Result<Timestamp, Failure> {
        session.command("BEGIN ISOLATION LEVEL READ COMMITTED").await.blamed()?;
        let now = Timestamp { millis: one(session, &NOW, &[&self.test_clock()]).await? }.max(self.latest.get());
        self.latest.set(now);
        Ok(now)
    }

    /// The same for one that is looked for by the batch's id. Cancel: the session must be given up.
    pub(super) async fn begin_alone(&self, session: &Session, id: BatchId) -> Result<Timestamp, Failure> {
        let now = self.begin(session).await?;
        session.query(&BATCH, &[&id_bytes(id).to_vec(), &now.millis]).await.blamed()?;
        Ok(now)
    }

    /// From `begin_alone`, which `work` calls, to COMMIT. Cancel: NOT safe.
    pub(super) async fn alone(
        &self,
        id: BatchId,
        work: impl AsyncFnOnce(&Session) -> Result<Outcome, Failure>,
    ) -> Result<Applied, ApplyError> {
        self.alone_within(Duration::MAX, id, work).await
    }

    /// The same for what a client waits for: like a batch, it is not committed any more when that has been told that there
    /// is no answer. Cancel: NOT safe.
    pub(super) async fn alone_for_client(
        &self,
        id: BatchId,
        work: impl AsyncFnOnce(&Session) -> Result<Outcome, Failure>,
    ) -> Result<Applied, ApplyError> {
        self.alone_within(self.decide_within, id, work).await
    }

    async fn alone_within(
        &self,
        within: Duration,
        id: BatchId,
        work: impl AsyncFnOnce(&Session) -> Result<Outcome, Failure>,
    ) -> Result<Applied, ApplyError> {
        let began = (self.tick)();
        let session = self.sessions.get().await.map_err(ApplyError::NotApplied)?;
        let outcome = match work(&session).await {
            Ok(outcome) => outcome,
            Err(cause) => {
                session.give_up();
                return Err(ApplyError::NotApplied(cause));
            }
        };
        if (self.tick)().since(began) >= within {
            session.give_up();
            return Err(ApplyError::NotApplied(Failure::metadata("postgres: a transaction did not end in time")));
        }
        let applied = Applied { outcomes: vec![outcome], charged: Vec::new() };
        self.remember(id, applied.clone());
        match session.command("COMMIT").await {
            Ok(()) => Ok(applied),
            Err(error) => {
                session.give_up();
                self.answer_is_lost(id);
                Err(ApplyError::Unknown(failure(&error)))
            }
        }
    }
}

/// The first column of a statement's only row.
pub(super) async fn one<T: for<'r> FromSql<'r>>(
    session: &Session,
    sql: &'static Sql,
    params: Params<'_>,
) -> Result<T, Failure> {
    let rows = session.query(sql, params).await.blamed()?;
    rows.first().ok_or_else(|| damaged("a row is missing"))?.try_get(0).blamed()
}
