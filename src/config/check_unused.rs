//! Keys that are right by themselves and have no effect beside the others of the file: each is warned of, so that nobody
//! believes in a limit that is not there.

use super::checked::{Config, DatabaseDriver, SslMode};
use super::reader::{Reader, Section};
use crate::policy::usage::Budget;
use std::time::Duration;

pub(super) fn warn_of_unused(reader: &mut Reader, root: &Section<'_>, config: &Config) {
    let mut warn = |section: &Section<'_>, keys: &[&str], why: &str| {
        for word in keys.iter().filter(|word| section.has(word)) {
            reader.warn(section.line_of(word), section.key(word), format!("has no effect {why}"));
        }
    };
    let has_breakers = config.backend_breaker.is_some();
    if !has_breakers {
        let keys = ["failure_threshold", "open_timeout"];
        warn(&root.section("backend_circuit_breaker"), &keys, "without `backend_circuit_breaker.enabled: true`");
    }
    let replication = root.section("replication");
    if config.replication.factor == 1 {
        warn(&replication, &["unhealthy_threshold"], "with `replication.factor: 1`: there is nothing to copy from");
    } else if !has_breakers {
        let why = "without `backend_circuit_breaker.enabled: true`: no backend is ever known to be away";
        warn(&replication, &["unhealthy_threshold"], why);
    }
    if !config.circuit_breaker.degraded_reads_enabled {
        let keys = ["cache_ttl", "parallel_broadcast"];
        warn(&root.section("circuit_breaker"), &keys, "without `circuit_breaker.degraded_reads_enabled`");
    }
    let flush = root.section("usage_flush");
    if config.usage_flush.adaptive_per_mille.is_none() {
        warn(&flush, &["adaptive_threshold", "fast_interval"], "without `usage_flush.adaptive_enabled: true`");
    } else if !config.backends.iter().any(|backend| is_limited(&backend.budget)) {
        warn(&flush, &["adaptive_enabled"], "while no backend has a monthly limit that it could come near to");
    }
    if !config.metrics.enabled {
        let metrics = root.section("telemetry").section("metrics");
        warn(&metrics, &["listen", "path"], "with `telemetry.metrics.enabled: false`");
    }
    warn_of_database(&mut warn, root, config);
}

fn is_limited(budget: &Budget) -> bool {
    budget.egress_bytes > 0 || budget.ingress_bytes > 0 || budget.pools.iter().any(|pool| pool.limit > 0)
}

fn warn_of_database(warn: &mut impl FnMut(&Section<'_>, &[&str], &str), root: &Section<'_>, config: &Config) {
    let cache = root.section("location_cache");
    match &config.database.driver {
        DatabaseDriver::Sqlite { .. } if config.location_cache.max_staleness > Duration::ZERO => {
            warn(&cache, &["max_staleness"], "on SQLite, beside which the cache is exact");
        }
        DatabaseDriver::Postgres(postgres) => {
            if matches!(postgres.ssl_mode, SslMode::Disable | SslMode::Prefer) {
                warn(&root.section("database"), &["ssl_root_cert"], "with this `ssl_mode`, which trusts any server");
            }
            if config.location_cache.max_size_bytes == 0 && config.location_cache.max_staleness > Duration::ZERO {
                warn(&cache, &["max_staleness"], "with `location_cache.max_size: 0`");
            }
        }
        DatabaseDriver::Sqlite { .. } => {}
    }
}
