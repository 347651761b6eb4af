//! What a connection needs to know, and how long anything may take.

use crate::base::Secret;
use std::path::PathBuf;
use std::time::Duration;
use tokio_postgres::config::{Config, SslMode, TargetSessionAttrs};

/// Hosts that stop answering are noticed by the kernel in this time, whatever waits for them.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);

/// Every statement is planned once, and every table is gone through by its indexes: a plan that was made while the tables were
/// small would read them whole, and go on doing so when they have grown; and planning costs more than what is planned. Reading
/// all where there is no index would look so dear now that it would be compiled first.
const BY_INDEX: &str = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off;
     SET enable_mergejoin = off; SET jit = off";

/// How a connection is protected (libpq's words).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protection {
    Disable,
    /// TLS if the server offers it, whoever it is.
    Prefer,
    /// TLS, whoever the server is; with `root_certificates` as `VerifyCa`.
    Require,
    /// TLS with a server whose certificate leads to a trusted root.
    VerifyCa,
    /// The same, and the certificate names the host.
    VerifyFull,
}

/// `database.*` of the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PostgresOptions {
    /// Tried in order until one lets us write, those last that did not the last time; a path is the directory of a Unix socket.
    /// Names are looked up again at each connection.
    pub hosts: Vec<(String, u16)>,
    pub database: String,
    pub user: String,
    pub password: Secret,
    pub protection: Protection,
    /// Trusted roots in PEM; None: the system's.
    pub root_certificates: Option<PathBuf>,
    pub connections_max: usize,
    /// Kept open even if idle.
    pub connections_min: usize,
    /// A connection that is older is closed when it is next idle, so that sessions move after a failover.
    pub connection_lifetime: Duration,
    /// Of a lookup, and of an attempt at one address: to its end, when it is known whether we may write.
    pub connect_timeout: Duration,
    /// No statement takes longer than this (`database.statement_timeout`).
    pub statement_timeout: Duration,
    /// No statement waits longer for another's lock (`database.lock_timeout`), nor longer than `decide_within`: that others are in
    /// the way is known before anybody concludes that there is no answer.
    pub lock_timeout: Duration,
    /// A batch is not decided after it has waited so long: its callers have been told by then that there is no answer
    /// (`database.call_timeout`), and what they have done since must not be undone by it.
    pub decide_within: Duration,
    /// False behind a pooler that gives every transaction another session and does not know of prepared statements.
    pub prepared_statements: bool,
    /// Tables are there; None: wherever the database's own settings say.
    pub schema: Option<String>,
}

impl PostgresOptions {
    /// As people name it.
    pub fn label(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect();
        format!("the PostgreSQL database {} on {}", self.database, hosts.join(", "))
    }

    /// Of any host (hosts.rs).
    pub(super) fn config(&self) -> Config {
        let mut config = Config::new();
        config
            .dbname(&self.database)
            .user(&self.user)
            .application_name("s3-orchestrator")
            .ssl_mode(match self.protection {
                Protection::Disable => SslMode::Disable,
                Protection::Prefer => SslMode::Prefer,
                Protection::Require | Protection::VerifyCa | Protection::VerifyFull => SslMode::Require,
            })
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .tcp_user_timeout(TCP_USER_TIMEOUT)
            .keepalives_idle(KEEPALIVE_IDLE);
        if !self.password.expose().is_empty() {
            config.password(self.password.expose());
        }
        config
    }

    pub(super) fn lock_within(&self) -> Duration {
        self.lock_timeout.min(self.decide_within)
    }

    /// What a session is told first. Behind a pooler it holds for some session or other: each batch says it again for itself.
    pub(super) fn session_settings(&self) -> String {
        let mut settings = format!(
            "SET statement_timeout = {}; SET lock_timeout = {}; SET idle_in_transaction_session_timeout = {}; {BY_INDEX};",
            self.statement_timeout.as_millis(),
            self.lock_within().as_millis(),
            self.statement_timeout.as_millis(),
        );
        if let Some(schema) = &self.schema {
            settings.push_str(&format!("SET search_path = \"{schema}\";"));
        }
        settings
    }
}
