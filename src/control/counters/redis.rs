//! What other instances have used since they last wrote it to the database, by way of a Redis that all share.
//!
//! Every second an instance writes its own counters of the month, as absolute values under a key of its own, and reads the
//! others'. So writing again after an outage can neither lose nor double anything, and a Redis that lost its data is whole
//! again a second after it came back. Behind a circuit breaker: while it is open every instance knows its own counters
//! and what the database says. Nothing of this is on the request path, and no budget depends on it.

use crate::base::{BackendName, Clock, Dice, Incarnation};
use crate::config::checked::Redis as Settings;
use crate::observe::circuit::Circuit;
use crate::observe::redis::{RedisCall, RedisCells};
use crate::policy::breaker::BreakerSettings;
use crate::reactor::clock::CoreClock;
use crate::reactor::dice::CoreDice;
use crate::store::port::{Usage, UsageRow};
use anyhow::Context;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use redis::{ErrorKind, RedisError, RedisResult, TlsCertificates};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often counters are exchanged.
const EXCHANGE_EVERY: Duration = Duration::from_secs(1);
/// For connecting, and for each answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Keys outlive their month by a few days.
const KEPT_SECONDS: i64 = 35 * 24 * 3600;

/// What this instance has used of the backends in a month.
#[derive(Debug)]
pub struct OwnUsage {
    pub incarnation: Incarnation,
    pub period: String,
    pub backends: Vec<(BackendName, Usage)>,
}

/// What the rest of the control core sees of it.
#[derive(Debug)]
pub struct Shared {
    pub circuit: Circuit,
    pub cells: RedisCells,
    /// The other instances' counters, and their month. None while Redis does not answer.
    others: Mutex<Option<(String, Vec<UsageRow>)>>,
}

impl Shared {
    /// The other instances' counters of this month, if they are known.
    pub fn others(&self, period: &str) -> Vec<UsageRow> {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.as_ref().filter(|(month, _)| month == period).map(|(_, rows)| rows.clone()).unwrap_or_default()
    }

    /// Whether Redis has answered the last time: if not, as at the start, this instance goes on with its own counters.
    pub fn is_answering(&self) -> bool {
        self.others.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn set(&self, others: Option<(String, Vec<UsageRow>)>) {
        *self.others.lock().unwrap_or_else(PoisonError::into_inner) = others;
    }
}

pub struct RedisCounters {
    client: Client,
    prefix: String,
    connection: Option<MultiplexedConnection>,
    /// A key of the same name, of another life of the database, may still be there.
    is_new: bool,
    shared: Arc<Shared>,
    clock: CoreClock,
    dice: CoreDice,
}

impl RedisCounters {
    /// Connects to nothing yet: a Redis that is down at the start is one that is down. Fails when its certificates cannot be
    /// read.
    pub fn new(settings: &Settings) -> anyhow::Result<Self> {
        let breaker = BreakerSettings {
            failure_threshold: settings.failure_threshold,
            open_timeout: settings.open_timeout,
            probe_max: PATIENCE * 4,
        };
        Ok(Self {
            client: client(settings).context("redis")?,
            prefix: settings.key_prefix.clone(),
            connection: None,
            is_new: true,
            shared: Arc::new(Shared {
                circuit: Circuit::new("redis", breaker),
                cells: RedisCells::default(),
                others: Mutex::default(),
            }),
            clock: CoreClock::default(),
            dice: CoreDice::from_system().context("the system's random numbers")?,
        })
    }

    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Exchanges counters for ever; `own` says this instance's. Cancel: safe.
    pub async fn run(mut self, own: impl Fn() -> Option<OwnUsage>) {
        loop {
            if (self.shared.circuit.is_closed() || self.probe().await)
                && let Some(own) = own()
            {
                let began = self.clock.tick();
                let exchanged = self.exchange(&own).await;
                self.note(began, exchanged.as_ref().map(|_| ()));
                self.shared.set(exchanged.ok().map(|rows| (own.period, rows)));
            }
            tokio::time::sleep(EXCHANGE_EVERY).await;
        }
    }

    /// Whether the breaker has just closed: a PING, when it is time for one, was answered.
    async fn probe(&mut self) -> bool {
        if !self.shared.circuit.probe_due(self.clock.tick(), self.dice.roll()) {
            return false;
        }
        let began = self.clock.tick();
        let ponged = self.ping().await;
        self.note(began, ponged.as_ref().map(|_| ()));
        ponged.is_ok()
    }

    fn note(&mut self, began: crate::base::Tick, done: Result<(), &RedisError>) {
        let now = self.clock.tick();
        match done {
            Ok(()) => self.shared.circuit.succeeded(began, now),
            Err(error) => {
                tracing::debug!(%error, "redis did not answer properly");
                self.connection = None;
                self.shared.circuit.failed(began, now, self.dice.roll());
            }
        }
    }

    async fn ping(&mut self) -> RedisResult<()> {
        let mut connection = self.connected().await;
        let ponged: RedisResult<()> = match &mut connection {
            Ok(connection) => redis::cmd("PING").query_async(connection).await,
            Err(error) => Err(error.clone()),
        };
        self.shared.cells.called(RedisCall::Ping, ponged.is_ok());
        ponged
    }

    /// Writes this instance's counters and reads the others'.
    async fn exchange(&mut self, own: &OwnUsage) -> RedisResult<Vec<UsageRow>> {
        let written = self.write(own).await;
        self.shared.cells.called(RedisCall::Write, written.is_ok());
        let others = written?;
        let read = self.read(&own.period, &others).await;
        self.shared.cells.called(RedisCall::Read, read.is_ok());
        read
    }

    /// Answers the incarnations that have written this month, our own apart.
    async fn write(&mut self, own: &OwnUsage) -> RedisResult<Vec<i64>> {
        let (me, instances) = (own.incarnation.0, format!("{}:usage:{}", self.prefix, own.period));
        let key = self.key(&own.period, me);
        let mut pipe = redis::pipe();
        pipe.atomic();
        if self.is_new {
            pipe.del(&key).ignore();
        }
        for (backend, usage) in &own.backends {
            for (counter, value) in fields(usage) {
                pipe.hset(&key, format!("{}:{counter}", backend.as_str()), value).ignore();
            }
        }
        pipe.expire(&key, KEPT_SECONDS).ignore();
        pipe.sadd(&instances, me).ignore();
        pipe.expire(&instances, KEPT_SECONDS).ignore();
        pipe.smembers(&instances);
        let (mut members,): (Vec<i64>,) = pipe.query_async(&mut self.connected().await?).await?;
        self.is_new = false;
        members.retain(|one| *one != me);
        Ok(members)
    }

    async fn read(&mut self, period: &str, others: &[i64]) -> RedisResult<Vec<UsageRow>> {
        if others.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for one in others {
            pipe.hgetall(self.key(period, *one));
        }
        let hashes: Vec<HashMap<String, u64>> = pipe.query_async(&mut self.connected().await?).await?;
        Ok(others.iter().zip(hashes).flat_map(|(one, hash)| rows_of(Incarnation(*one), &hash)).collect())
    }

    fn key(&self, period: &str, incarnation: i64) -> String {
        format!("{}:usage:{period}:{incarnation}", self.prefix)
    }

    async fn connected(&mut self) -> RedisResult<MultiplexedConnection> {
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE));
        // A host name is resolved within this time, too.
        let connecting = self.client.get_multiplexed_async_connection_with_config(&config);
        let connection = tokio::time::timeout(PATIENCE * 2, connecting)
            .await
            .unwrap_or_else(|_| Err(RedisError::from((ErrorKind::Io, "no connection in time"))))?;
        self.connection = Some(connection.clone());
        Ok(connection)
    }
}

fn client(settings: &Settings) -> anyhow::Result<Client> {
    let (host, port) = (settings.host.clone(), settings.port);
    let address = if settings.tls {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    };
    let mut handshake = RedisConnectionInfo::default().set_db(i64::from(settings.db));
    if let Some(password) = &settings.password {
        handshake = handshake.set_password(password.expose());
    }
    let info: ConnectionInfo = address.into_connection_info()?.set_redis_settings(handshake);
    Ok(match &settings.ca_file {
        Some(file) if settings.tls => {
            let root = std::fs::read(file).with_context(|| format!("ca_file {}", file.display()))?;
            Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert: Some(root) })?
        }
        _ => Client::open(info)?,
    })
}

fn fields(usage: &Usage) -> [(&'static str, u64); 3] {
    [("api_requests", usage.api_requests), ("egress_bytes", usage.egress_bytes), ("ingress_bytes", usage.ingress_bytes)]
}

/// What a hash says of each backend; fields of a later program are passed over.
fn rows_of(incarnation: Incarnation, hash: &HashMap<String, u64>) -> Vec<UsageRow> {
    let mut by_backend: HashMap<&str, Usage> = HashMap::new();
    for (field, value) in hash {
        let Some((backend, counter)) = field.rsplit_once(':') else { continue };
        let usage = by_backend.entry(backend).or_default();
        match counter {
            "api_requests" => usage.api_requests = *value,
            "egress_bytes" => usage.egress_bytes = *value,
            "ingress_bytes" => usage.ingress_bytes = *value,
            _ => {}
        }
    }
    by_backend
        .into_iter()
        .map(|(backend, usage)| UsageRow { backend: backend.to_owned(), incarnation, usage })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let usage = Usage { api_requests: 1, egress_bytes: 1 << 60, ingress_bytes: 3 };
        let mut hash: HashMap<String, u64> =
            fields(&usage).into_iter().map(|(counter, value)| (format!("a.b-c:{counter}"), value)).collect();
        hash.insert("a.b-c:more".into(), 7);
        hash.insert("nonsense".into(), 7);
        let rows = rows_of(Incarnation(4), &hash);
        assert_eq!(rows, [UsageRow { backend: "a.b-c".into(), incarnation: Incarnation(4), usage }]);
    }
}
