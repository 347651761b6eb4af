//! The configuration as meant: every value parsed, every default filled in, every cross-field rule kept. Built by
//! `check.rs` only, read by everything that starts or serves; a value of these types is valid.

use crate::base::text_hash::text_hash;
use crate::base::{BackendName, BucketName, Secret};
use crate::policy::access::Principal;
use crate::policy::body_path::RelayMode;
use crate::policy::cors::CorsRule;
use crate::policy::placement::Strategy;
use crate::policy::usage::Budget;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    pub server: Server,
    pub buckets: Vec<Bucket>,
    /// Of root, of the users and of the buckets' own. What serves reads them, and the buckets, from the `Registry`.
    pub credentials: Vec<Credential>,
    pub database: Database,
    /// At least one; in the order written, which `pack` and reads follow.
    pub backends: Vec<Backend>,
    pub routing_strategy: Strategy,
    pub replication: Replication,
    pub cleanup_queue: CleanupQueue,
    pub write_path: WritePath,
    pub location_cache: LocationCache,
    pub circuit_breaker: DatabaseBreaker,
    /// None: off.
    pub backend_breaker: Option<Breaker>,
    pub usage_flush: UsageFlush,
    /// None: instances tell each other their usage through the database only.
    pub redis: Option<Redis>,
    pub admin: Admin,
    pub metrics: Metrics,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    pub listen_addr: SocketAddr,
    pub log_level: LogLevel,
    /// Largest object, whether put whole or assembled from parts; also the largest part.
    pub max_object_size_bytes: u64,
    /// Reactor threads; None: one per core but one, at least one.
    pub reactors: Option<usize>,
    pub driver: Driver,
    pub relay: RelayMode,
    /// The region that clients must sign for; None: any.
    pub region: Option<String>,
    /// Before one of these in the Host stands a bucket (virtual-host style). Lower case.
    pub domains: Vec<Box<str>>,
    /// From the first byte of a head to its end; also for a TLS handshake.
    pub read_header_timeout: Duration,
    /// A client's body may stand still so long, in either direction.
    pub body_progress_timeout: Duration,
    /// A kept-alive connection may wait so long for its next request.
    pub idle_timeout: Duration,
    /// A backend may stand still so long: until its head, and within a body.
    pub backend_timeout: Duration,
    /// Client connections per reactor.
    pub max_connections: usize,
    pub max_header_bytes: usize,
    /// Between "not ready" and closing the listeners.
    pub shutdown_delay: Duration,
    /// Requests in flight may take so long to finish after that.
    pub shutdown_timeout: Duration,
    pub tls: Option<Tls>,
}

impl Server {
    /// How many reactor threads to run on a machine with that many cores.
    pub fn reactors_on(&self, cores: usize) -> usize {
        self.reactors.unwrap_or_else(|| cores.saturating_sub(1).max(1))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

impl LogLevel {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// `server.driver`: how reactors wait for sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Driver {
    /// io_uring where the kernel lets us, else epoll.
    Auto,
    /// io_uring, or fail to start.
    Ring,
    Epoll,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    pub min_version: TlsVersion,
    /// Clients must show a certificate that one of these signed.
    pub client_ca_file: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bucket {
    pub name: BucketName,
    /// Open uploads at once; 0 = unlimited.
    pub max_multipart_uploads: u32,
    /// Pages of other origins that may use it; none without rules.
    pub cors: Vec<CorsRule>,
    /// The user that answers name as its owner: nothing follows from that, grants decide.
    pub owner: Arc<str>,
}

/// An access key of the configuration, and who it stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credential {
    pub access_key_id: Box<str>,
    pub secret_access_key: Secret,
    pub principal: Principal,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Database {
    pub driver: DatabaseDriver,
    /// A call that takes longer is answered as if the database were down.
    pub call_timeout: Duration,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DatabaseDriver {
    Sqlite { path: PathBuf },
    Postgres(Postgres),
}

/// A server of PostgreSQL, or several of which one takes writes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Postgres {
    /// In this order; a path is the directory of a Unix socket.
    pub hosts: Vec<(String, u16)>,
    pub database: String,
    pub user: String,
    /// Empty: none.
    pub password: Secret,
    pub ssl_mode: SslMode,
    pub ssl_root_cert: Option<PathBuf>,
    pub max_conns: usize,
    pub min_conns: usize,
    pub max_conn_lifetime: Duration,
    pub connect_timeout: Duration,
    pub statement_timeout: Duration,
    pub lock_timeout: Duration,
    pub prepared_statements: bool,
}

/// In PostgreSQL's own words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SslMode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backend {
    pub name: BackendName,
    pub place: Place,
    /// 0 = unlimited.
    pub quota_bytes: u64,
    /// Bigger objects never go here; 0 = no such limit.
    pub max_object_size_bytes: u64,
    /// A key whose name here would be longer is stored under its hash.
    pub max_key_bytes: usize,
    /// What it may be asked for in a month.
    pub budget: Budget,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    Endpoint(Box<S3Place>),
    Directory(PathBuf),
}

impl Place {
    /// Tells endpoints and buckets apart, from one start of the program to the next. Directories are all alike: 0.
    pub fn fingerprint(&self) -> u64 {
        match self {
            Self::Endpoint(place) => text_hash(0, &[&place.endpoint.authority(), &place.bucket]),
            Self::Directory(_) => 0,
        }
    }
}

impl Backend {
    pub fn is_local(&self) -> bool {
        matches!(self.place, Place::Directory(_))
    }
}

/// What a request's signature says of its body (`backends[].unsigned_payload`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PayloadSigning {
    /// `true`, and over TLS by default: nothing.
    Never,
    /// By default without TLS: its hash, where that is known before it is sent.
    WhereKnown,
    /// `false`: always. A body that streams goes in chunks, each signed.
    Always,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct S3Place {
    pub endpoint: Endpoint,
    pub bucket: String,
    /// What requests are signed for.
    pub region: String,
    pub access_key_id: String,
    pub secret_access_key: Secret,
    /// `host/bucket/key` rather than `bucket.host/key`.
    pub force_path_style: bool,
    pub signing: PayloadSigning,
    /// Send no `x-amz-checksum-…` there, also where the client declared one.
    pub disable_checksum: bool,
    /// PEM roots to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    pub http: BackendHttp,
}

/// `http://host[:port]` or `https://host[:port]`, taken apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// A name in lower case, or an address (IPv6 without brackets).
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

impl Endpoint {
    /// As a Host header has it: with the port only when it is not the scheme's own.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.tls, self.port) {
            (false, 80) | (true, 443) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackendHttp {
    /// Idle connections that each reactor keeps to this backend.
    pub max_idle_conns_per_host: usize,
    /// Connections that each reactor has to this backend in all.
    pub max_conns_per_host: usize,
    /// An idle connection older than this is not used again.
    pub idle_conn_timeout: Duration,
    pub connect_timeout: Duration,
    /// How long a resolved name is believed.
    pub dns_ttl: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replication {
    /// Copies of every version; at most the number of backends.
    pub factor: u32,
    pub worker_interval: Duration,
    /// A backend whose breaker is open so long counts as lost: its copies are made elsewhere.
    pub unhealthy_threshold: Duration,
    /// Versions per pass.
    pub batch_size: u32,
    pub concurrency: usize,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CleanupQueue {
    pub concurrency: usize,
    pub interval: Duration,
    /// Displaced copies stay readable so long.
    pub grace: Duration,
    /// First retry of a failed DELETE, doubling up to `retry_max`.
    pub retry_first: Duration,
    pub retry_max: Duration,
    /// Failed DELETEs until a blob is a dead letter.
    pub max_attempts: u32,
    /// Age at which a multipart upload that nobody finished is aborted.
    pub multipart_stale_timeout: Duration,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WritePath {
    /// Term of an instance's lease.
    pub lease: Duration,
    /// A body may still appear on a backend so long after it was given up.
    pub settle: Duration,
    /// The 5 MiB rule for all parts but the last.
    pub enforce_min_part_size: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocationCache {
    /// 0 = off.
    pub max_size_bytes: u64,
    /// So old may be what is answered beside a database that others write to; zero: nothing is.
    pub max_staleness: Duration,
}

/// The database's breaker, and what is done without the database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DatabaseBreaker {
    pub breaker: Breaker,
    /// What a search of the backends has found holds for so long, within one outage.
    pub cache_ttl: Duration,
    /// GET and HEAD are answered from memory and from the backends.
    pub degraded_reads_enabled: bool,
    /// All backends are searched at once, not one after the other.
    pub parallel_broadcast: bool,
}

/// When a circuit breaker opens, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Breaker {
    /// Failures in a row.
    pub failure_threshold: u32,
    /// Until the first probe; up to a quarter more by chance.
    pub open_timeout: Duration,
}

/// How often usage is written to the database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UsageFlush {
    pub interval: Duration,
    /// While so many thousandths of any budget are used, `fast_interval` applies; None: never.
    pub adaptive_per_mille: Option<u32>,
    pub fast_interval: Duration,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Redis {
    pub host: String,
    pub port: u16,
    pub password: Option<Secret>,
    pub db: u32,
    pub tls: bool,
    /// PEM roots to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Stands before every key.
    pub key_prefix: String,
    /// Failures in a row until it is left alone.
    pub failure_threshold: u32,
    /// From then until a PING, and between two.
    pub open_timeout: Duration,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admin {
    pub listen_addr: SocketAddr,
    /// Asked of every admin request; None only on a loopback address.
    pub token: Option<Secret>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Metrics {
    pub enabled: bool,
    /// An address of its own; None: the admin listener serves them.
    pub listen: Option<SocketAddr>,
    pub path: String,
}
