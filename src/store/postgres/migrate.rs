//! Bringing the database up to date: several instances may start at once, so under a lock; the last one finds nothing to do.

use super::faults::{BEHIND_A_POOLER, failure, pool_failure};
use super::options::PostgresOptions;
use crate::base::Failure;
use deadpool_postgres::{Object, Pool};
use refinery_core::Migration;
use refinery_core::traits::r#async::{AsyncMigrate, AsyncQuery, AsyncTransaction};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_postgres::{Client, Error, Row};

/// Advisory locks of ours share a first key, so that they meet nobody else's: "s3or".
pub(super) const LOCKS: i32 = 0x7333_6f72;
/// Second keys.
const LOCK_MIGRATE: i32 = 1;
pub(super) const LOCK_REGISTER: i32 = 2;
pub(super) const LOCK_BUDGETS: i32 = 5;
/// How often it is looked for a pooler.
const PROBES: u32 = 5;
/// From one look whether another still migrates, or whether the server still answers, to the next.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);

mod migrations {
    refinery::embed_migrations!("migrations/postgres");
}

/// A connection whose migrations take as long as they must. Each says so in its own transaction: what a session is told stays with
/// it, and behind a pooler it is somebody else's next.
struct Unhurried<'c> {
    client: &'c mut Client,
    migrating: &'c AtomicBool,
}

impl AsyncTransaction for Unhurried<'_> {
    type Error = Error;

    /// Cancel: safe, rolled back.
    async fn execute<'a, T: Iterator<Item = &'a str> + Send + 'a>(&'a mut self, queries: T) -> Result<usize, Error> {
        self.migrating.store(true, Ordering::Relaxed);
        let done = in_one_transaction(self.client, queries).await;
        self.migrating.store(false, Ordering::Relaxed);
        done
    }
}

impl AsyncQuery<Vec<Migration>> for Unhurried<'_> {
    /// Cancel: safe.
    async fn query<'a>(&'a mut self, query: &'a str) -> Result<Vec<Migration>, Error> {
        self.client.query(query).await
    }
}

impl AsyncMigrate for Unhurried<'_> {}

async fn in_one_transaction(client: &mut Client, queries: impl Iterator<Item = &str>) -> Result<usize, Error> {
    let transaction = client.transaction().await?;
    transaction.batch_execute("SET LOCAL statement_timeout = 0").await?;
    let mut count = 0;
    for query in queries {
        transaction.batch_execute(query).await?;
        count += 1;
    }
    transaction.commit().await?;
    Ok(count)
}

/// Whether a connection is one session: behind a pooler that gives its transactions to others' sessions, a prepared statement
/// is not there, or is another instance's of the same name. Such a pooler gives the session that was used last to the next
/// who asks, so `other` takes it away. Cancel: safe.
async fn must_keep_sessions(session: &Object, other: &Object) -> Result<(), Failure> {
    let asked = |error: Error| failure(&error);
    let text = |rows: &[Row]| rows.first().and_then(|row| row.get::<_, Option<String>>(0));
    for _ in 0..PROBES {
        let mark = session.query_typed("SELECT set_config('s3o.session', gen_random_uuid()::text, FALSE)", &[]).await;
        let mark = text(&mark.map_err(asked)?);
        other.batch_execute("BEGIN").await.map_err(asked)?;
        let found = session.query_typed("SELECT current_setting('s3o.session', TRUE)", &[]).await;
        other.batch_execute("COMMIT").await.map_err(asked)?;
        if text(&found.map_err(asked)?) != mark {
            return Err(Failure::metadata(format!("postgres: statements find other sessions{BEHIND_A_POOLER}")));
        }
    }
    Ok(())
}

/// Returns when the server that migrates on another connection has not answered this one for so long: it hangs. How long a migration
/// takes says nothing. Cancel: safe.
async fn silence(other: &Object, patience: Duration) -> Failure {
    loop {
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        match tokio::time::timeout(patience, other.query_typed("SELECT 1", &[])).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return failure(&error),
            Err(_) => {
                let cause = format!("postgres: silent for {patience:?} within a migration, which is begun anew");
                tracing::warn!("{cause}");
                return Failure::metadata(cause);
            }
        }
    }
}

/// `migrating` is set while a migration runs, which may take long: then no connection may be cut because nothing answers, but by
/// whoever gets the failure that says that the server hangs. Cancel: safe; a migration that has begun ends or is rolled back. Needs
/// two connections.
pub(super) async fn bring_up_to_date(
    pool: &Pool,
    options: &PostgresOptions,
    migrating: &AtomicBool,
) -> Result<(), Failure> {
    migrating.store(false, Ordering::Relaxed); // one that was cancelled may have left it
    let mut object = pool.get().await.map_err(|error| pool_failure(&error))?;
    // In one message: a pooler may give the next one to another session.
    let encoding = object.query_typed("SELECT current_setting('server_encoding')", &[]).await;
    let encoding = encoding.map_err(|error| failure(&error))?;
    let encoding: String = encoding.first().map(|row| row.get(0)).unwrap_or_default();
    if encoding != "UTF8" {
        return Err(Failure::metadata(format!(
            "postgres: the database {} has the encoding {encoding}; create it with ENCODING 'UTF8'",
            options.database
        )));
    }
    let guard = pool.get().await.map_err(|error| pool_failure(&error))?;
    if options.prepared_statements {
        must_keep_sessions(&object, &guard).await?;
    }
    // In a transaction on a connection of its own, so that it also holds behind a pooler; another's migration may take long.
    // It is asked for again and again: if this connection is cut meanwhile, the server notices and nothing waits on.
    guard
        .batch_execute("BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0")
        .await
        .map_err(|error| failure(&error))?;
    let try_lock = format!("SELECT pg_try_advisory_xact_lock({LOCKS}, {LOCK_MIGRATE})");
    loop {
        let rows = guard.query_typed(&try_lock, &[]).await.map_err(|error| failure(&error))?;
        if rows.first().is_some_and(|row| row.get(0)) {
            break;
        }
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    }
    let mut unhurried = Unhurried { client: &mut object, migrating };
    let runner = migrations::migrations::runner();
    let work = async {
        let done = runner.run_async(&mut unhurried).await;
        guard.batch_execute("COMMIT").await.map_err(|error| failure(&error))?;
        done.map(drop)
            .map_err(|error| Failure::metadata(format!("postgres: cannot bring the database up to date: {error}")))
    };
    tokio::select! {
        done = work => done,
        hangs = silence(&guard, options.statement_timeout) => {
            migrating.store(false, Ordering::Relaxed);
            // Nobody is to get them with what they wait for.
            drop((Object::take(object), Object::take(guard)));
            Err(hangs)
        }
    }
}
