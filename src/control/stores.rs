//! The store that the configuration names, opened with what the configuration says.

use crate::base::{Clock, Tenure, Timestamp};
use crate::config::View;
use crate::config::checked::{self, DatabaseDriver, SslMode};
use crate::reactor::clock::CoreClock;
use crate::store::port::Rules;
use crate::store::postgres::{PostgresOptions, PostgresStore, Protection};
use crate::store::sqlite::SqliteStore;
use anyhow::{Context, anyhow, bail};
use std::sync::Arc;
use std::time::Duration;

fn rules(view: &View) -> Rules {
    Rules {
        grace: view.cleanup_queue.grace,
        settle: view.write_path.settle,
        retry_first: view.cleanup_queue.retry_first,
        retry_max: view.cleanup_queue.retry_max,
        attempts_max: view.cleanup_queue.max_attempts,
    }
}

/// The embedded database that the configuration names.
pub fn open_store(view: &View) -> anyhow::Result<SqliteStore> {
    let DatabaseDriver::Sqlite { path } = &view.database.driver else { bail!("database.driver: is not sqlite") };
    let wall = Arc::new(|| -> Timestamp { CoreClock::default().now() });
    SqliteStore::open(path, rules(view), wall).map_err(|error| anyhow!("database.path: {error}"))
}

/// The PostgreSQL that it names, which is not connected to yet.
pub(super) fn open_postgres(view: &View, tenure: Arc<Tenure>) -> anyhow::Result<PostgresStore> {
    let DatabaseDriver::Postgres(postgres) = &view.database.driver else { bail!("database.driver: is not postgres") };
    let tick = || CoreClock::default().tick();
    // Less than the desk's patience, which begins to run a little earlier.
    let decide_within = view.database.call_timeout * 3 / 4;
    let options = PostgresOptions { decide_within, ..postgres_options(postgres) };
    PostgresStore::new(options, rules(view), view.write_path.lease, tenure, tick, None)
        .context("database.ssl_root_cert")
}

/// `database.*`, as the store takes it.
pub fn postgres_options(of: &checked::Postgres) -> PostgresOptions {
    PostgresOptions {
        hosts: of.hosts.clone(),
        database: of.database.clone(),
        user: of.user.clone(),
        password: of.password.clone(),
        protection: match of.ssl_mode {
            SslMode::Disable => Protection::Disable,
            SslMode::Prefer => Protection::Prefer,
            SslMode::Require => Protection::Require,
            SslMode::VerifyCa => Protection::VerifyCa,
            SslMode::VerifyFull => Protection::VerifyFull,
        },
        root_certificates: of.ssl_root_cert.clone(),
        connections_max: of.max_conns,
        connections_min: of.min_conns,
        connection_lifetime: of.max_conn_lifetime,
        connect_timeout: of.connect_timeout,
        statement_timeout: of.statement_timeout,
        lock_timeout: of.lock_timeout,
        decide_within: Duration::MAX,
        prepared_statements: of.prepared_statements,
        schema: None,
    }
}
