//! Every metric of the program: name, type, labels, help. `metrics.rs` can write no other, docs/metrics.md lists them all,
//! and a test compares them. Names of the reference system are kept where they mean the same.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

/// The metric of that name. Panics on one that the table does not have: it is our own spelling.
pub fn metric(name: &str) -> &'static Metric {
    METRICS.iter().find(|one| one.name == name).unwrap_or_else(|| panic!("the table of metrics has no {name}"))
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help }
}

const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram, labels, help }
}

pub const METRICS: &[Metric] = &[
    gauge("s3o_build_info", &["version"], "1, labelled with the version"),
    // Requests, per core.
    counter("s3o_requests_total", &["method", "status_code", "core"], "Requests answered"),
    histogram("s3o_request_duration_seconds", &["method", "core"], "From the head's last byte to the answer's last"),
    histogram("s3o_request_size_bytes", &["method", "core"], "Bodies received"),
    histogram("s3o_response_size_bytes", &["method", "core"], "Bodies sent"),
    gauge("s3o_inflight_requests", &["method", "core"], "Requests under way"),
    gauge("s3o_connections_open", &["core"], "Client connections"),
    counter("s3o_connections_total", &["core"], "Client connections accepted"),
    counter("s3o_connections_refused_total", &["core"], "Client connections refused at server.max_connections"),
    counter("s3o_accept_errors_total", &["core"], "Failures to accept, such as too many open files"),
    counter("s3o_client_received_bytes_total", &["core"], "Bytes from clients, heads included"),
    counter("s3o_client_sent_bytes_total", &["core"], "Bytes to clients, heads included"),
    counter("s3o_malformed_requests_total", &["core"], "Heads that were no request, or an ambiguous one"),
    counter("s3o_auth_failures_total", &["core"], "Requests without a valid signature"),
    counter("s3o_access_denied_total", &["core"], "Valid signatures without the grant"),
    counter("s3o_timeouts_total", &["phase", "core"], "Connections and exchanges ended because they stood still"),
    counter("s3o_http_panic_recovered_total", &["core"], "Panics that ended one connection or task"),
    // Bodies, per core.
    counter("s3o_relay_bodies_total", &["path", "core"], "Bodies moved, spliced or copied"),
    counter("s3o_relay_bytes_total", &["path", "core"], "Body bytes moved, spliced or copied"),
    counter("s3o_splice_fallbacks_total", &["core"], "Bodies copied because no pipe could be had"),
    counter("s3o_read_failovers_total", &["core"], "Reads that another copy answered before the first body byte"),
    counter("s3o_read_resumes_total", &["core"], "Reads that went on midway from another copy"),
    counter("s3o_bodies_cut_total", &["core"], "Answers cut because no copy could go on"),
    counter(
        "s3o_write_failover_total",
        &["operation", "failed_backend", "success_backend", "core"],
        "Writes that ended on another backend",
    ),
    counter(
        "s3o_usage_limit_rejections_total",
        &["operation", "limit_type", "core"],
        "Requests that no backend's monthly budget had room for: read, write",
    ),
    // Backends, per core.
    counter("s3o_backend_requests_total", &["operation", "backend", "status", "core"], "Calls to backends"),
    histogram(
        "s3o_backend_duration_seconds",
        &["operation", "backend", "core"],
        "From the call to the head of its answer",
    ),
    counter("s3o_backend_api_requests_total", &["backend", "core"], "Requests sent, retries included"),
    counter("s3o_backend_egress_bytes_total", &["backend", "core"], "Body bytes read from the backend"),
    counter("s3o_backend_ingress_bytes_total", &["backend", "core"], "Body bytes written to the backend"),
    counter("s3o_backend_connections_total", &["backend", "kind", "core"], "Calls on new and on reused connections"),
    counter(
        "s3o_backend_stale_retries_total",
        &["backend", "core"],
        "Requests sent again because a pooled connection had gone stale",
    ),
    counter(
        "s3o_backend_unexpected_data_total",
        &["backend", "core"],
        "Idle connections closed because the backend spoke unasked",
    ),
    gauge("s3o_backend_idle_connections", &["backend", "core"], "Connections kept for later"),
    // Metadata.
    counter(
        "s3o_mailbox_refusals_total",
        &["core"],
        "Calls refused with SlowDown because the metadata desk had no room",
    ),
    counter("s3o_location_cache_hits_total", &["core"], "Lookups answered from memory"),
    counter("s3o_location_cache_misses_total", &["core"], "Lookups that asked the database"),
    counter("s3o_store_batches_total", &[], "Transactions that changed something"),
    counter("s3o_store_changes_total", &[], "Changes in them"),
    histogram("s3o_store_batch_duration_seconds", &[], "From a transaction's begin until it was durable"),
    counter("s3o_store_queries_total", &[], "Reads of the database"),
    counter("s3o_store_failures_total", &[], "Transactions and reads that the database did not carry out"),
    gauge("s3o_store_waiting_calls", &[], "Calls that wait for the next transaction"),
    gauge("s3o_degraded_mode_active", &[], "1 while the database does not answer"),
    counter("s3o_degraded_reads_total", &["operation", "core"], "Reads without the database"),
    counter(
        "s3o_degraded_write_rejections_total",
        &["operation", "core"],
        "Requests answered 503 because the database did not answer",
    ),
    counter("s3o_degraded_cache_hits_total", &["core"], "Reads without the database whose key was remembered"),
    counter("s3o_degraded_cache_misses_total", &["core"], "Reads without the database that searched the backends"),
    gauge("s3o_circuit_breaker_state", &["name"], "0 closed, 1 open, 2 half-open: `database`, `redis` or a backend"),
    counter("s3o_circuit_breaker_transitions_total", &["name", "from", "to"], "Changes of that state"),
    // What the database says.
    gauge("s3o_quota_bytes_used", &["backend"], "Bytes of live copies"),
    gauge("s3o_quota_bytes_reserved", &["backend"], "Bytes of writes under way"),
    gauge("s3o_quota_orphan_bytes", &["backend"], "Bytes that wait for their deletion, dead letters included"),
    gauge("s3o_quota_bytes_limit", &["backend"], "quota_bytes; 0 = unlimited"),
    gauge("s3o_quota_bytes_available", &["backend"], "What is left of the quota; without one there is no series"),
    gauge("s3o_objects_count", &["backend"], "Live copies"),
    gauge("s3o_active_multipart_uploads", &["backend"], "Open uploads"),
    gauge("s3o_usage_api_requests", &["backend"], "Requests of this month"),
    gauge("s3o_usage_egress_bytes", &["backend"], "Bytes read from the backend this month"),
    gauge("s3o_usage_ingress_bytes", &["backend"], "Bytes written to the backend this month"),
    gauge("s3o_backend_usable", &["backend"], "1 when its marker was seen and is ours, and its breaker is closed"),
    gauge("s3o_usage_pool_requests", &["backend", "pool"], "Requests of this month in a pool of request_limits"),
    gauge("s3o_usage_pool_limit", &["backend", "pool"], "The pool's limit; 0 = none"),
    gauge("s3o_redis_fallback_active", &[], "1 while Redis is configured and does not answer"),
    counter("s3o_redis_operations_total", &["operation", "status"], "Calls to Redis: write, read, ping"),
    gauge("s3o_drain_active", &[], "Backends that are draining and not empty yet"),
    gauge("s3o_cleanup_queue_depth", &[], "Doomed copies that wait for their deletion"),
    gauge("s3o_cleanup_dlq_depth", &[], "Copies whose deletion failed for good, still charged"),
    gauge("s3o_replication_pending", &[], "Objects with too few copies, counted up to a bound"),
    // Workers.
    counter("s3o_cleanup_queue_processed_total", &["status"], "Deletions tried: success, retry, exhausted"),
    counter("s3o_cleanup_dlq_enqueued_total", &["backend"], "Copies that became dead letters"),
    counter("s3o_replication_copies_created_total", &[], "Copies made"),
    counter("s3o_replication_errors_total", &[], "Copies that could not be made"),
    counter(
        "s3o_over_replication_removed_total",
        &[],
        "Copies removed because there were more than replication.factor",
    ),
    counter("s3o_drain_objects_moved_total", &[], "Copies moved off draining backends"),
    counter("s3o_drain_bytes_moved_total", &[], "Bytes of them"),
    counter("s3o_worker_ticks_total", &["service", "result"], "Runs of background jobs: success, failure"),
    gauge("s3o_worker_last_success_timestamp_seconds", &["service"], "Unix time of the last successful run"),
    gauge("s3o_worker_consecutive_failures", &["service"], "Failed runs since then"),
    // The program itself.
    counter("s3o_audit_lines_total", &["core"], "Audit lines written"),
    counter("s3o_audit_dropped_total", &["core"], "Audit lines lost because the output stood still"),
    counter("s3o_log_dropped_total", &[], "Other lines of the log that were lost for the same reason"),
    gauge("process_resident_memory_bytes", &[], "Resident memory"),
    counter("process_cpu_seconds_total", &[], "Processor time, user and system"),
    gauge("process_open_fds", &[], "Open file descriptors"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_well_formed_and_stand_once() {
        let word = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
        };
        for (i, metric) in METRICS.iter().enumerate() {
            assert!(word(metric.name) && metric.labels.iter().all(|label| word(label)), "{}", metric.name);
            assert!(metric.name.starts_with("s3o_") || metric.name.starts_with("process_"), "{}", metric.name);
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            assert!(METRICS[..i].iter().all(|other| other.name != metric.name), "{} stands twice", metric.name);
            assert!(!metric.help.contains(['\n', '\\']), "{}", metric.name);
        }
    }

    #[test]
    fn the_documentation_lists_every_metric() {
        let documentation = include_str!("../../docs/metrics.md");
        for metric in METRICS {
            let labels = if metric.labels.is_empty() { "–".to_owned() } else { metric.labels.join(", ") };
            let row = format!("| `{}` | {} | {labels} | {} |", metric.name, metric.kind.as_str(), metric.help);
            assert!(documentation.contains(&row), "docs/metrics.md lacks the row\n{row}");
        }
        let rows = documentation.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, METRICS.len(), "docs/metrics.md lists metrics that do not exist");
    }
}
