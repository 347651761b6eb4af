//! Bringing the database up to date: several instances may start at once, so under a lock; the last one finds nothing to do.

use super::faults::{failure, pool_failure};
use super::options::PostgresOptions;
use crate::base::Failure;
use deadpool_postgres::{Object, Pool};

/// Advisory locks of ours share a first key, so that they meet nobody else's: "s3or".
pub(super) const LOCKS: i32 = 0x7333_6f72;
/// Second keys.
const LOCK_MIGRATE: i32 = 1;
pub(super) const LOCK_REGISTER: i32 = 2;
pub(super) const LOCK_BUDGETS: i32 = 5;

mod migrations {
    refinery::embed_migrations!("migrations/postgres");
}

/// Cancel: safe; a migration that has begun ends or is rolled back. Needs two connections.
pub(super) async fn bring_up_to_date(pool: &Pool, options: &PostgresOptions) -> Result<(), Failure> {
    let mut object = pool.get().await.map_err(|error| pool_failure(&error))?;
    let encoding = object.query_one("SHOW server_encoding", &[]).await.map_err(|error| failure(&error))?;
    let encoding: String = encoding.get(0);
    if encoding != "UTF8" {
        return Err(Failure::metadata(format!(
            "postgres: the database {} has the encoding {encoding}; create it with ENCODING 'UTF8'",
            options.database
        )));
    }
    // In a transaction on a connection of its own, so that it also holds behind a pooler; another's migration may take long.
    let guard = pool.get().await.map_err(|error| pool_failure(&error))?;
    let lock = format!(
        "BEGIN; SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0;
         SET LOCAL idle_in_transaction_session_timeout = 0; SELECT pg_advisory_xact_lock({LOCKS}, {LOCK_MIGRATE})"
    );
    guard.batch_execute(&lock).await.map_err(|error| failure(&error))?;
    object.batch_execute("SET statement_timeout = 0").await.map_err(|error| failure(&error))?;
    let done = migrations::migrations::runner().run_async(&mut **object).await;
    drop(Object::take(object));
    guard.batch_execute("COMMIT").await.map_err(|error| failure(&error))?;
    done.map(drop)
        .map_err(|error| Failure::metadata(format!("postgres: cannot bring the database up to date: {error}")))
}
