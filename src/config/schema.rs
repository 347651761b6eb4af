//! The one table of configuration keys: their names, types and defaults, and the keys of the reference system that mean
//! nothing here (yet). It drives reading, the search for unknown keys, and the check that `docs/configuration.md` names
//! everything.

/// What a key's value is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Text,
    Secret,
    Path,
    Address,
    Url,
    Duration,
    Size,
    Number,
    Flag,
    /// Between 0 and 1, neither of them.
    Fraction,
    /// A list of texts, or one alone.
    Texts,
    Choice(&'static [&'static str]),
}

impl Kind {
    /// As `docs/configuration.md` names it.
    pub fn name(self) -> String {
        match self {
            Self::Text => "text".into(),
            Self::Secret => "secret".into(),
            Self::Path => "path".into(),
            Self::Address => "address".into(),
            Self::Url => "URL".into(),
            Self::Duration => "duration".into(),
            Self::Size => "size".into(),
            Self::Number => "number".into(),
            Self::Flag => "true, false".into(),
            Self::Fraction => "fraction".into(),
            Self::Texts => "list of texts".into(),
            Self::Choice(words) => words.join(", "),
        }
    }
}

/// What an absent key means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Absent {
    Required,
    /// Absent is a meaning of its own, which the documentation gives.
    Unset,
    Is(&'static str),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Known {
        kind: Kind,
        default: Absent,
    },
    /// A key of the reference whose feature is not built yet: an error that says so, and what to do meanwhile.
    NotYet {
        feature: &'static str,
        meanwhile: &'static str,
    },
    /// A key of the reference that has no meaning here: an error that says why, and what to use.
    Gone {
        instead: &'static str,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// Dotted; a list's items are written `[]`. A key that is not `Known` stands for everything below it.
    pub path: &'static str,
    pub state: State,
}

use Absent::{Is, Required, Unset};
use Kind::{Address, Choice, Duration, Flag, Fraction, Number, Path, Secret, Size, Text, Texts, Url};

const fn key(path: &'static str, kind: Kind, default: Absent) -> Key {
    Key { path, state: State::Known { kind, default } }
}

const fn not_yet(path: &'static str, feature: &'static str, meanwhile: &'static str) -> Key {
    Key { path, state: State::NotYet { feature, meanwhile } }
}

const fn gone(path: &'static str, instead: &'static str) -> Key {
    Key { path, state: State::Gone { instead } }
}

const REMOVE: &str = "remove it from the file";
const ADMISSION: &str = "admission control";
const USE_CONNECTIONS: &str = "remove it; `server.max_connections` bounds the load";

pub const KEYS: &[Key] = &[
    key("server.listen_addr", Address, Required),
    key("server.log_level", Choice(&["debug", "info", "warn", "error"]), Is("info")),
    key("server.max_object_size", Size, Is("5GiB")),
    key("server.reactors", Number, Unset),
    key("server.driver", Choice(&["auto", "ring", "epoll"]), Is("auto")),
    key("server.relay", Choice(&["auto", "splice", "copy"]), Is("auto")),
    key("server.region", Text, Unset),
    key("server.domains", Texts, Unset),
    key("server.read_header_timeout", Duration, Is("10s")),
    key("server.body_progress_timeout", Duration, Is("30s")),
    key("server.idle_timeout", Duration, Is("120s")),
    key("server.backend_timeout", Duration, Is("30s")),
    key("server.max_connections", Number, Is("10000")),
    key("server.max_header_bytes", Size, Is("32KiB")),
    key("server.shutdown_delay", Duration, Is("0s")),
    key("server.shutdown_timeout", Duration, Is("30s")),
    key("server.tls.cert_file", Path, Unset),
    key("server.tls.key_file", Path, Unset),
    key("server.tls.min_version", Choice(&["1.2", "1.3"]), Is("1.2")),
    key("server.tls.client_ca_file", Path, Unset),
    not_yet("server.max_concurrent_requests", ADMISSION, USE_CONNECTIONS),
    not_yet("server.max_concurrent_reads", ADMISSION, USE_CONNECTIONS),
    not_yet("server.max_concurrent_writes", ADMISSION, USE_CONNECTIONS),
    not_yet("server.load_shed_threshold", ADMISSION, USE_CONNECTIONS),
    not_yet("server.admission_wait", ADMISSION, USE_CONNECTIONS),
    gone("server.read_timeout", "a body has no total time limit, only `server.body_progress_timeout` without progress"),
    gone(
        "server.write_timeout",
        "a body has no total time limit, only `server.body_progress_timeout` without progress",
    ),
    gone("server.spill_dir", "bodies stream and are never spilled to disk; remove it"),
    gone("server.max_header_value_count", "a head holds at most 96 fields; remove it"),
    key("buckets[].name", Text, Required),
    key("buckets[].max_multipart_uploads", Number, Is("0")),
    key("buckets[].credentials[].access_key_id", Text, Required),
    key("buckets[].credentials[].secret_access_key", Secret, Required),
    key("buckets[].credentials[].permissions", Texts, Unset),
    not_yet("buckets[].credentials[].token", "proxy tokens", "use `access_key_id` and `secret_access_key`"),
    key("buckets[].cors[].allowed_origins", Texts, Required),
    key("buckets[].cors[].allowed_methods", Texts, Required),
    key("buckets[].cors[].allowed_headers", Texts, Unset),
    key("buckets[].cors[].expose_headers", Texts, Unset),
    key("buckets[].cors[].max_age", Number, Unset),
    key("auth.root.access_key_id", Text, Unset),
    key("auth.root.secret_access_key", Secret, Unset),
    key("auth.users[].name", Text, Required),
    key("auth.users[].access_key_id", Text, Required),
    key("auth.users[].secret_access_key", Secret, Required),
    key("auth.users[].permissions", Texts, Unset),
    key("auth.users[].grants[].bucket", Text, Required),
    key("auth.users[].grants[].permissions", Texts, Required),
    key("database.driver", Choice(&["sqlite", "postgres"]), Unset),
    key("database.path", Path, Is("s3-orchestrator.db")),
    key("database.call_timeout", Duration, Is("2s")),
    key("database.host", Texts, Unset),
    key("database.port", Number, Is("5432")),
    key("database.database", Text, Unset),
    key("database.user", Text, Unset),
    key("database.password", Secret, Unset),
    key("database.ssl_mode", Choice(&["disable", "prefer", "require", "verify-ca", "verify-full"]), Is("require")),
    key("database.ssl_root_cert", Path, Unset),
    key("database.max_conns", Number, Is("10")),
    key("database.min_conns", Number, Is("2")),
    key("database.max_conn_lifetime", Duration, Is("5m")),
    key("database.connect_timeout", Duration, Is("2s")),
    key("database.statement_timeout", Duration, Is("5s")),
    key("database.lock_timeout", Duration, Is("2s")),
    key("database.prepared_statements", Flag, Is("true")),
    key("backends[].name", Text, Unset),
    key("backends[].directory", Path, Unset),
    key("backends[].endpoint", Url, Unset),
    key("backends[].bucket", Text, Unset),
    key("backends[].region", Text, Is("us-east-1")),
    key("backends[].access_key_id", Text, Unset),
    key("backends[].secret_access_key", Secret, Unset),
    key("backends[].force_path_style", Flag, Is("false")),
    key("backends[].unsigned_payload", Flag, Unset),
    key("backends[].disable_checksum", Flag, Is("false")),
    key("backends[].strip_sdk_headers", Flag, Is("true")),
    key("backends[].ca_file", Path, Unset),
    key("backends[].quota_bytes", Size, Is("0")),
    key("backends[].max_object_size", Size, Is("0")),
    key("backends[].max_key_bytes", Number, Is("1024")),
    key("backends[].http.max_idle_conns_per_host", Number, Is("100")),
    key("backends[].http.max_conns_per_host", Number, Is("200")),
    key("backends[].http.idle_conn_timeout", Duration, Is("30s")),
    key("backends[].http.connect_timeout", Duration, Is("5s")),
    key("backends[].http.dns_ttl", Duration, Is("30s")),
    gone("backends[].http.max_idle_conns", "pools are per reactor and backend: use `max_idle_conns_per_host`"),
    gone("backends[].http.response_header_timeout", "use `server.backend_timeout`"),
    gone("backends[].http.force_http2", "backends are spoken to in HTTP/1.1, which moves bodies faster; remove it"),
    key("backends[].api_request_limit", Number, Is("0")),
    key("backends[].egress_byte_limit", Size, Is("0")),
    key("backends[].ingress_byte_limit", Size, Is("0")),
    key("backends[].request_limits[].name", Text, Required),
    key("backends[].request_limits[].operations", Texts, Required),
    key("backends[].request_limits[].limit", Number, Is("0")),
    key("backends[].unmetered", Texts, Unset),
    not_yet(
        "backends[].credential_source",
        "credentials from the environment's chain",
        "write the keys into the file, as `${NAME}`",
    ),
    key("routing_strategy", Choice(&["pack", "spread"]), Is("pack")),
    key("replication.factor", Number, Is("1")),
    key("replication.worker_interval", Duration, Is("5m")),
    key("replication.batch_size", Number, Is("50")),
    key("replication.concurrency", Number, Is("5")),
    key("replication.unhealthy_threshold", Duration, Is("10m")),
    key("cleanup_queue.concurrency", Number, Is("10")),
    key("cleanup_queue.interval", Duration, Is("1m")),
    key("cleanup_queue.grace", Duration, Is("5m")),
    key("cleanup_queue.retry_first", Duration, Is("1m")),
    key("cleanup_queue.retry_max", Duration, Is("24h")),
    key("cleanup_queue.max_attempts", Number, Is("10")),
    key("cleanup_queue.multipart_stale_timeout", Duration, Is("24h")),
    gone("cleanup_queue.claim_grace_period", "an instance's lease (`write_path.lease`) ends its claims; remove it"),
    key("write_path.lease", Duration, Is("10s")),
    key("write_path.settle", Duration, Is("20m")),
    key("write_path.multipart.enforce_min_part_size", Flag, Is("true")),
    gone("write_path.pending_pattern", "every write is reserved before its bytes, without a reaper; remove it"),
    not_yet(
        "write_path.parallel_copies",
        "several copies written at once",
        "use `replication.factor`; copies follow in the background",
    ),
    key("location_cache.max_size", Size, Is("64MiB")),
    key("location_cache.max_staleness", Duration, Is("0s")),
    key("circuit_breaker.failure_threshold", Number, Is("3")),
    key("circuit_breaker.open_timeout", Duration, Is("15s")),
    key("circuit_breaker.cache_ttl", Duration, Is("60s")),
    key("circuit_breaker.degraded_reads_enabled", Flag, Is("true")),
    key("circuit_breaker.parallel_broadcast", Flag, Is("false")),
    gone(
        "circuit_breaker.degraded_broadcast_parallelism",
        "use `parallel_broadcast`: all backends at once, or one by one",
    ),
    key("backend_circuit_breaker.enabled", Flag, Is("false")),
    key("backend_circuit_breaker.failure_threshold", Number, Is("5")),
    key("backend_circuit_breaker.open_timeout", Duration, Is("5m")),
    key("usage_flush.interval", Duration, Is("30s")),
    key("usage_flush.adaptive_enabled", Flag, Is("false")),
    key("usage_flush.adaptive_threshold", Fraction, Is("0.8")),
    key("usage_flush.fast_interval", Duration, Is("5s")),
    key("redis.address", Text, Unset),
    key("redis.password", Secret, Unset),
    key("redis.db", Number, Is("0")),
    key("redis.tls", Flag, Is("false")),
    key("redis.ca_file", Path, Unset),
    key("redis.key_prefix", Text, Is("s3orch")),
    key("redis.failure_threshold", Number, Is("3")),
    key("redis.open_timeout", Duration, Is("5s")),
    key("admin.listen_addr", Address, Is("127.0.0.1:9001")),
    key("admin.token", Secret, Unset),
    key("telemetry.metrics.enabled", Flag, Is("true")),
    key("telemetry.metrics.listen", Address, Unset),
    key("telemetry.metrics.path", Text, Is("/metrics")),
    gone(
        "telemetry.metrics.require_listener",
        "a metrics address that cannot be bound always fails the start; remove it",
    ),
    gone("telemetry.metrics.pprof", "there is no Go runtime to profile; remove it"),
    not_yet("telemetry.tracing", "tracing", REMOVE),
    not_yet("rebalance", "rebalancing", REMOVE),
    not_yet("lifecycle", "lifecycle rules", REMOVE),
    not_yet("reconcile", "reconciliation", REMOVE),
    not_yet("integrity", "integrity checks of stored copies", REMOVE),
    not_yet("cache", "the object data cache", REMOVE),
    not_yet("rate_limit", "rate limits", REMOVE),
    not_yet("encryption", "encryption", "remove it; objects are stored as they are sent"),
    not_yet("compression", "compression", REMOVE),
    not_yet("ui", "the web interface", REMOVE),
    not_yet("notifications", "webhooks", REMOVE),
    gone("debug", "there is no Go runtime to trace; remove it"),
];

/// The key at a path.
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Type and default of a key that the program reads. Panics on one that the table does not know: it is our own spelling.
pub fn known(path: &str) -> (&'static str, Kind, Absent) {
    match find(path) {
        Some(Key { path, state: State::Known { kind, default } }) => (path, *kind, *default),
        _ => panic!("the table of configuration keys has no {path}"),
    }
}

/// Whether keys lie below this path.
pub fn is_section(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// Whether this path is a list of sections.
pub fn is_list(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with("[]")))
}

/// The known key that a wrong one probably meant: the nearest word in the same section, one there that holds the word, or
/// the same word elsewhere.
pub fn nearest(section: &str, word: &str) -> Option<String> {
    let siblings: Vec<&str> = KEYS
        .iter()
        .filter_map(|key| {
            let below =
                if section.is_empty() { key.path } else { key.path.strip_prefix(section)?.strip_prefix('.')? };
            below.split(['.', '[']).next()
        })
        .collect();
    let misspelt = || {
        let distances = siblings.iter().map(|&sibling| (strsim::osa_distance(sibling, word), sibling));
        distances.min().filter(|&(distance, _)| distance <= (word.len() / 3).max(1)).map(|(_, sibling)| sibling)
    };
    let shortened = || siblings.iter().copied().find(|sibling| word.len() >= 4 && sibling.contains(word));
    let elsewhere = || {
        let known = KEYS.iter().filter(|key| matches!(key.state, State::Known { .. }));
        known.map(|key| key.path).find(|path| path.rsplit('.').next() == Some(word)).map(str::to_owned)
    };
    let below = |sibling: &str| if section.is_empty() { sibling.to_owned() } else { format!("{section}.{sibling}") };
    misspelt().or_else(shortened).map(below).or_else(elsewhere)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_stands_twice_or_below_one_that_is_no_section() {
        for (i, key) in KEYS.iter().enumerate() {
            assert!(!is_section(key.path) && !is_list(key.path), "{} is a key and a section", key.path);
            assert!(KEYS[..i].iter().all(|other| other.path != key.path), "{} stands twice", key.path);
        }
    }

    #[test]
    fn the_nearest_key_is_found() {
        for (section, word, want) in [
            ("server", "listen_adress", Some("server.listen_addr")),
            ("server", "reactor", Some("server.reactors")),
            ("", "listen_addr", Some("server.listen_addr")),
            ("", "backend", Some("backends")),
            ("", "bucket", Some("buckets")),
            ("backends[]", "quota", Some("backends[].quota_bytes")),
            ("backends[]", "path_style", Some("backends[].force_path_style")),
            ("", "qqq", None),
        ] {
            assert_eq!(nearest(section, word).as_deref(), want, "{section} {word}");
        }
    }
}
