//! From the tree as written to the configuration as meant: every key read, every cross-field rule tested. Finds all
//! problems before it gives up; warns of what is allowed but rarely meant.

use super::check_budgets::{redis, usage_flush};
use super::checked::*;
use super::problem::{Problem, Problems};
use super::raw::Node;
use super::reader::{Reader, Section};
use super::values::{TIMEOUT, WAIT};
use super::written::Written;
use super::{check_auth, check_backends, check_postgres, check_unused};
use crate::base::Secret;
use crate::base::limits::{HEAD_BYTES_MAX, OBJECT_BYTES_MAX};
use crate::policy::body_path::RelayMode;
use crate::policy::placement::Strategy;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// A signed request can be accepted for so long (SigV4's clock skew), so a given-up body can appear until then.
const SETTLE_USUAL: Duration = Duration::from_secs(15 * 60);

/// A configuration and what is doubtful in it.
#[derive(Clone, Debug)]
pub struct Checked {
    pub config: Config,
    pub warnings: Vec<Problem>,
    /// To be compared with a later reading.
    pub written: Written,
}

/// `base` is the folder that relative paths start from; `reported` are problems found before (variables).
pub fn check(root: &Node, base: &Path, reported: Vec<Problem>) -> Result<Checked, Problems> {
    let mut reader = Reader::new(base);
    let config = read_all(&mut reader, root, reported);
    let Reader { mut problems, mut warnings, .. } = reader;
    let place = |problem: &Problem| if problem.line == 0 { usize::MAX } else { problem.line };
    problems.sort_by_key(place);
    problems.dedup();
    warnings.sort_by_key(place);
    match (config, problems.is_empty()) {
        (Some(config), true) => Ok(Checked { config, warnings, written: Written::of(root) }),
        _ => Err(Problems(problems)),
    }
}

/// None only together with a problem; what could not be read is replaced, so that the rest is checked as well.
pub(super) fn read_all(reader: &mut Reader, root: &Node, reported: Vec<Problem>) -> Option<Config> {
    reader.problems = reported;
    reader.check_keys(root);
    let root = Section::root(root);
    let (buckets, credentials) = check_auth::buckets_and_credentials(reader, &root);
    let backends = check_backends::backends(reader, &root);
    let routing_strategy = reader.choice(&root, "routing_strategy", &[Strategy::Pack, Strategy::Spread]);
    let listed = root.items("backends").len();
    let replication = replication(reader, &root.section("replication"), listed);
    check_backends::warn_of_backends(reader, &root, &backends, routing_strategy, replication.factor);
    let server = server(reader, &root.section("server"));
    let database = database(reader, &root.section("database"))?;
    check_backends::check_own_files(reader, &backends, &database, server.tls.as_ref());
    let config = Config {
        server,
        buckets,
        credentials,
        database,
        backends: backends.into_iter().map(|(backend, _)| backend).collect(),
        routing_strategy,
        replication,
        cleanup_queue: cleanup_queue(reader, &root.section("cleanup_queue")),
        write_path: write_path(reader, &root.section("write_path")),
        location_cache: location_cache(reader, &root.section("location_cache"))?,
        circuit_breaker: database_breaker(reader, &root.section("circuit_breaker")),
        backend_breaker: backend_breaker(reader, &root.section("backend_circuit_breaker")),
        usage_flush: usage_flush(reader, &root.section("usage_flush")),
        redis: redis(reader, &root, &root.section("redis")),
        admin: admin(reader, &root.section("admin")),
        metrics: metrics(reader, &root.section("telemetry").section("metrics")),
    };
    check_addresses(reader, &root, &config);
    check_staleness(reader, &root.section("location_cache"), &config);
    check_postgres::warn_of_patience(reader, &root, &config);
    check_unused::warn_of_unused(reader, &root, &config);
    Some(config)
}

fn location_cache(reader: &mut Reader, at: &Section<'_>) -> Option<LocationCache> {
    Some(LocationCache {
        max_size_bytes: reader.size(at, "max_size", 0..=1 << 40)?,
        max_staleness: reader.duration(at, "max_staleness", WAIT),
    })
}

/// What a location may lead to stays for the grace.
fn check_staleness(reader: &mut Reader, at: &Section<'_>, config: &Config) {
    let (bound, grace) = (config.location_cache.max_staleness, config.cleanup_queue.grace);
    if bound > Duration::ZERO && bound >= grace {
        let message = format!("must be shorter than `cleanup_queue.grace`, {grace:?}: displaced bytes go after that");
        reader.problem(at.line_of("max_staleness"), at.key("max_staleness"), message);
    }
}

fn server(reader: &mut Reader, at: &Section<'_>) -> Server {
    use LogLevel::{Debug, Error, Info, Warn};
    Server {
        listen_addr: reader.address(at, "listen_addr").unwrap_or(NO_ADDRESS),
        log_level: reader.choice(at, "log_level", &[Debug, Info, Warn, Error]),
        max_object_size_bytes: reader.size(at, "max_object_size", 1..=OBJECT_BYTES_MAX).unwrap_or_default(),
        reactors: reader.number(at, "reactors", 1..=1024).map(|n| n as usize),
        driver: reader.choice(at, "driver", &[Driver::Auto, Driver::Ring, Driver::Epoll]),
        relay: reader.choice(at, "relay", &[RelayMode::Auto, RelayMode::Splice, RelayMode::Copy]),
        region: reader.text(at, "region"),
        domains: reader.texts(at, "domains", domain),
        read_header_timeout: reader.duration(at, "read_header_timeout", TIMEOUT),
        body_progress_timeout: reader.duration(at, "body_progress_timeout", TIMEOUT),
        idle_timeout: reader.duration(at, "idle_timeout", TIMEOUT),
        backend_timeout: reader.duration(at, "backend_timeout", TIMEOUT),
        max_connections: reader.number(at, "max_connections", 1..=1_000_000).unwrap_or_default() as usize,
        max_header_bytes: reader.size(at, "max_header_bytes", 4096..=HEAD_BYTES_MAX as u64).unwrap_or_default()
            as usize,
        shutdown_delay: reader.duration(at, "shutdown_delay", WAIT),
        shutdown_timeout: reader.duration(at, "shutdown_timeout", WAIT),
        tls: tls(reader, &at.section("tls")),
    }
}

fn domain(text: &str) -> Result<Box<str>, String> {
    let label = |label: &str| {
        let bytes = label.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        bytes.len() <= 63
            && ends.iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
            && bytes.iter().all(|&b| b.is_ascii_alphanumeric() || b == b'-')
    };
    // The last label of an IP address is a number.
    let is_address = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if text.split('.').all(label) && !is_address {
        Ok(text.to_ascii_lowercase().into())
    } else {
        Err(format!("`{text}` is not a domain; write it like s3.example.com, without port"))
    }
}

/// Stands in for an address that was wrong; never leaves this file, because the problem does.
const NO_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn tls(reader: &mut Reader, at: &Section<'_>) -> Option<Tls> {
    let min_version = reader.choice(at, "min_version", &[TlsVersion::V1_2, TlsVersion::V1_3]);
    let client_ca_file = reader.path(at, "client_ca_file");
    match (reader.path(at, "cert_file"), reader.path(at, "key_file")) {
        (Some(cert_file), Some(key_file)) => Some(Tls { cert_file, key_file, min_version, client_ca_file }),
        _ => {
            // Left alone, they would look like TLS on a port that speaks none.
            for alone in ["min_version", "client_ca_file"].into_iter().filter(|key| at.has(key)) {
                reader.problem(at.line_of(alone), at.key(alone), "needs `cert_file` and `key_file` beside it");
            }
            for (has, lacks) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
                if at.has(has) && !at.has(lacks) {
                    reader.problem(at.line_of(has), at.key(has), format!("needs `{lacks}` beside it"));
                }
            }
            None
        }
    }
}

fn database(reader: &mut Reader, at: &Section<'_>) -> Option<Database> {
    let call_timeout = reader.duration(at, "call_timeout", TIMEOUT);
    let driver = reader.parsed(at, "driver", |text| match text {
        "sqlite" => Ok(false),
        "postgres" => Ok(true),
        other => Err(format!("`{other}` is none of sqlite, postgres")),
    });
    let driver = if driver.unwrap_or_else(|| at.has("host")) {
        DatabaseDriver::Postgres(check_postgres::postgres(reader, at)?)
    } else {
        check_postgres::nothing_of_postgres(reader, at);
        DatabaseDriver::Sqlite { path: reader.path(at, "path")? }
    };
    Some(Database { driver, call_timeout })
}

fn replication(reader: &mut Reader, at: &Section<'_>, backends: usize) -> Replication {
    let factor = reader.number(at, "factor", 1..=64).unwrap_or(1) as u32;
    if backends > 0 && factor as usize > backends {
        let message = format!("{factor} copies need {factor} backends, but {backends} are listed");
        reader.problem(at.line_of("factor"), at.key("factor"), message);
    }
    Replication {
        factor,
        worker_interval: reader.duration(at, "worker_interval", TIMEOUT),
        unhealthy_threshold: reader.duration(at, "unhealthy_threshold", TIMEOUT),
        batch_size: reader.number(at, "batch_size", 1..=1000).unwrap_or_default() as u32,
        concurrency: reader.number(at, "concurrency", 1..=1000).unwrap_or_default() as usize,
    }
}

fn cleanup_queue(reader: &mut Reader, at: &Section<'_>) -> CleanupQueue {
    let queue = CleanupQueue {
        concurrency: reader.number(at, "concurrency", 1..=1000).unwrap_or_default() as usize,
        interval: reader.duration(at, "interval", TIMEOUT),
        grace: reader.duration(at, "grace", WAIT),
        retry_first: reader.duration(at, "retry_first", TIMEOUT),
        retry_max: reader.duration(at, "retry_max", WAIT),
        max_attempts: reader.number(at, "max_attempts", 1..=1000).unwrap_or_default() as u32,
        multipart_stale_timeout: reader.duration(at, "multipart_stale_timeout", *TIMEOUT.start()..=*WAIT.end()),
    };
    if queue.retry_first > queue.retry_max {
        reader.problem(at.line_of("retry_first"), at.key("retry_first"), "is longer than `retry_max`");
    }
    queue
}

fn write_path(reader: &mut Reader, at: &Section<'_>) -> WritePath {
    let multipart = at.section("multipart");
    let path = WritePath {
        lease: reader.duration(at, "lease", Duration::from_millis(100)..=Duration::from_secs(600)),
        settle: reader.duration(at, "settle", WAIT),
        enforce_min_part_size: reader.flag(&multipart, "enforce_min_part_size").unwrap_or_default(),
    };
    if path.settle < SETTLE_USUAL {
        let message = "is shorter than 15m, for which a backend may still accept a request that was given up; its bytes \
                       could stay there unnoticed";
        reader.warn(at.line_of("settle"), at.key("settle"), message);
    }
    path
}

fn database_breaker(reader: &mut Reader, at: &Section<'_>) -> DatabaseBreaker {
    DatabaseBreaker {
        breaker: breaker(reader, at),
        cache_ttl: reader.duration(at, "cache_ttl", WAIT),
        degraded_reads_enabled: reader.flag(at, "degraded_reads_enabled").unwrap_or_default(),
        parallel_broadcast: reader.flag(at, "parallel_broadcast").unwrap_or_default(),
    }
}

fn backend_breaker(reader: &mut Reader, at: &Section<'_>) -> Option<Breaker> {
    let breaker = breaker(reader, at);
    reader.flag(at, "enabled").unwrap_or_default().then_some(breaker)
}

fn breaker(reader: &mut Reader, at: &Section<'_>) -> Breaker {
    Breaker {
        failure_threshold: reader.number(at, "failure_threshold", 1..=1000).unwrap_or(1) as u32,
        open_timeout: reader.duration(at, "open_timeout", TIMEOUT),
    }
}

fn admin(reader: &mut Reader, at: &Section<'_>) -> Admin {
    let listen_addr = reader.address(at, "listen_addr").unwrap_or(NO_ADDRESS);
    let token: Option<Secret> = reader.secret(at, "token");
    if !listen_addr.ip().is_loopback() && !at.has("token") {
        let message = "is reachable from other machines and so needs `admin.token`; or listen on 127.0.0.1";
        reader.problem(at.line_of("listen_addr"), at.key("listen_addr"), message);
    }
    Admin { listen_addr, token }
}

fn metrics(reader: &mut Reader, at: &Section<'_>) -> Metrics {
    let path = |text: &str| {
        // `{`, and `:` and `*` at the start of a segment, are the router's.
        let usable = text.starts_with('/')
            && !["/:", "/*"].iter().any(|start| text.contains(start))
            && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'{' | b'}'));
        if !usable || text.starts_with("//") {
            Err(format!("`{text}` is not a path; write it like /metrics"))
        } else if text == "/" || text.starts_with("/admin/") || text.starts_with("/health") {
            Err(format!("`{text}` has another use on the admin address; write it like /metrics"))
        } else {
            Ok(text.to_owned())
        }
    };
    Metrics {
        enabled: reader.flag(at, "enabled").unwrap_or_default(),
        listen: reader.address(at, "listen"),
        path: reader.parsed(at, "path", path).unwrap_or_default(),
    }
}

/// No two listeners on one address.
fn check_addresses(reader: &mut Reader, root: &Section<'_>, config: &Config) {
    let collide = |a: SocketAddr, b: SocketAddr| {
        let any = a.ip().is_unspecified() || b.ip().is_unspecified();
        a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || any)
    };
    let admin = root.section("admin");
    if collide(config.admin.listen_addr, config.server.listen_addr) {
        let message = "is the address of `server.listen_addr`; use another port";
        reader.problem(admin.line_of("listen_addr"), admin.key("listen_addr"), message);
    }
    let metrics = root.section("telemetry").section("metrics");
    let Some(listen) = config.metrics.listen else { return };
    if collide(listen, config.server.listen_addr) {
        let message = "is the address of `server.listen_addr`; use another port";
        reader.problem(metrics.line_of("listen"), metrics.key("listen"), message);
    } else if collide(listen, config.admin.listen_addr) {
        let message = "is the address of `admin.listen_addr`, which serves metrics already; remove it";
        reader.problem(metrics.line_of("listen"), metrics.key("listen"), message);
    }
}
