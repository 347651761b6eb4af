//! Monthly budgets of backends, and how often usage is told.

use super::checked::{Redis, UsageFlush};
use super::reader::{Reader, Section};
use super::values::{self, TIMEOUT};
use crate::policy::usage::{BackendCall, Budget, CallSet, RequestPool};

/// The pool that `api_request_limit` stands for.
const ALL: &str = "all";
/// Beyond what any month has room for.
const LIMIT_MAX: u64 = 1 << 62;

pub(super) fn budget(reader: &mut Reader, at: &Section<'_>) -> Budget {
    let unmetered = reader.texts(at, "unmetered", operation).into_iter().fold(CallSet::NONE, CallSet::with);
    let limit = reader.number(at, "api_request_limit", 0..=LIMIT_MAX).unwrap_or_default();
    let mut pools = pools(reader, at, unmetered);
    if limit > 0 && !pools.is_empty() {
        let message = "and `request_limits` exclude each other; write it as a pool with the operations `*`";
        reader.problem(at.line_of("api_request_limit"), at.key("api_request_limit"), message);
    } else if limit > 0 {
        pools.push(RequestPool { name: ALL.into(), calls: CallSet::ALL.without(unmetered), limit });
    } else if !unmetered.is_empty() && pools.is_empty() {
        let message = "has no effect without `request_limits` or `api_request_limit`";
        reader.warn(at.line_of("unmetered"), at.key("unmetered"), message);
    }
    Budget {
        pools,
        egress_bytes: reader.size(at, "egress_byte_limit", 0..=LIMIT_MAX).unwrap_or_default(),
        ingress_bytes: reader.size(at, "ingress_byte_limit", 0..=LIMIT_MAX).unwrap_or_default(),
    }
}

fn pools(reader: &mut Reader, at: &Section<'_>, unmetered: CallSet) -> Vec<RequestPool> {
    let mut pools: Vec<RequestPool> = Vec::new();
    for pool in at.items("request_limits") {
        let name = reader.parsed(&pool, "name", pool_name);
        let named = reader.texts(&pool, "operations", operation_or_all);
        let limit = reader.number(&pool, "limit", 0..=LIMIT_MAX).unwrap_or_default();
        let mut calls = CallSet::NONE;
        for call in named {
            match call {
                None => {
                    calls =
                        BackendCall::ALL.into_iter().filter(|one| !unmetered.contains(*one)).fold(calls, CallSet::with);
                }
                Some(call) if unmetered.contains(call) => {
                    let message = format!("`{}` is `unmetered`; take it out of one of them", call.operation());
                    reader.problem(pool.line_of("operations"), pool.key("operations"), message);
                }
                Some(call) => calls = calls.with(call),
            }
        }
        let Some(name) = name else { continue };
        if pools.iter().any(|other| other.name == name) {
            let message = format!("`{name}` stands twice; each pool has a name of its own");
            reader.problem(pool.line_of("name"), pool.key("name"), message);
        }
        pools.push(RequestPool { name, calls, limit });
    }
    pools
}

fn pool_name(text: &str) -> Result<Box<str>, String> {
    let usable = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if (1..=64).contains(&text.len()) && text.bytes().all(usable) {
        Ok(text.into())
    } else {
        Err(format!("`{text}` is not a pool's name: 1 to 64 letters, digits, `-`, `_` and `.`"))
    }
}

fn operation(text: &str) -> Result<BackendCall, String> {
    BackendCall::parse(text).ok_or_else(|| {
        let known = BackendCall::ALL.map(BackendCall::operation).join(", ");
        format!("`{text}` is none of the operations that backends are asked for: {known}")
    })
}

/// None: `*`, all that are metered.
fn operation_or_all(text: &str) -> Result<Option<BackendCall>, String> {
    if text == "*" { Ok(None) } else { operation(text).map(Some) }
}

pub(super) fn usage_flush(reader: &mut Reader, at: &Section<'_>) -> UsageFlush {
    let interval = reader.duration(at, "interval", TIMEOUT);
    let fast_interval = reader.duration(at, "fast_interval", TIMEOUT);
    let is_adaptive = reader.flag(at, "adaptive_enabled").unwrap_or_default();
    let threshold = reader.fraction(at, "adaptive_threshold");
    if is_adaptive && fast_interval >= interval {
        reader.problem(at.line_of("fast_interval"), at.key("fast_interval"), "is not shorter than `interval`");
    }
    UsageFlush { interval, adaptive_per_mille: threshold.filter(|_| is_adaptive), fast_interval }
}

pub(super) fn redis(reader: &mut Reader, root: &Section<'_>, at: &Section<'_>) -> Option<Redis> {
    let address = reader.parsed(at, "address", values::host_and_port);
    let redis = Redis {
        host: String::new(),
        port: 0,
        password: reader.secret(at, "password"),
        db: reader.number(at, "db", 0..=1_000_000).unwrap_or_default() as u32,
        tls: reader.flag(at, "tls").unwrap_or_default(),
        ca_file: reader.path(at, "ca_file"),
        key_prefix: reader.text(at, "key_prefix").unwrap_or_default(),
        failure_threshold: reader.number(at, "failure_threshold", 1..=1000).unwrap_or(1) as u32,
        open_timeout: reader.duration(at, "open_timeout", TIMEOUT),
    };
    if root.has("redis") && !at.has("address") {
        reader.problem(at.line(), at.key("address"), "is required where there is a section `redis`");
    }
    if redis.ca_file.is_some() && !redis.tls {
        reader.warn(at.line_of("ca_file"), at.key("ca_file"), "has no effect without `tls: true`");
    }
    address.map(|(host, port)| Redis { host, port, ..redis })
}
