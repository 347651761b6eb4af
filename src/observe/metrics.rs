//! The cells of all cores and what the database says, as Prometheus reads them (text format 0.0.4). Called by the control
//! core for each scrape. Series that a core never touched are left out, so that a machine of many cores stays readable.

use super::catalogue::{Kind, Metric, metric};
use super::cells::{
    BackendCall, BackendCells, CallStatus, CleanupStatus, CoreCells, DeskCells, Histogram, Label, Row, STATUS_CODES,
    Service, TimeoutPhase,
};
use super::circuit::{Circuit, TRANSITIONS};
use super::logs;
use super::process::Process;
use super::redis::{RedisCall, RedisCells};
use crate::policy::body_path::BodyPath;
use crate::policy::breaker::State;
use crate::proto::http1::Method;
use crate::proto::operation::Operation;
use std::fmt::{Display, Write};
use std::sync::Arc;

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A backend as the database knows it, and whether it may be used.
#[derive(Clone, Debug, Default)]
pub struct BackendGauges {
    pub name: String,
    pub bytes_used: u64,
    pub bytes_reserved: u64,
    pub orphan_bytes: u64,
    /// 0 = unlimited.
    pub bytes_limit: u64,
    pub object_count: u64,
    pub active_uploads: u64,
    pub cleanup_depth: u64,
    pub dlq_depth: u64,
    pub draining: bool,
    pub usable: bool,
    pub api_requests: u64,
    pub egress_bytes: u64,
    pub ingress_bytes: u64,
    pub pools: Vec<PoolGauge>,
}

/// A pool of requests: this month's, and what it may have; 0 = as many as come.
#[derive(Clone, Debug, Default)]
pub struct PoolGauge {
    pub name: String,
    pub requests: u64,
    pub limit: u64,
}

/// Everything that a scrape shows.
#[derive(Debug)]
pub struct Snapshot<'a> {
    pub version: &'a str,
    pub cores: &'a [Arc<CoreCells>],
    pub desk: &'a DeskCells,
    pub circuits: &'a [&'a Circuit],
    /// None: no Redis is configured.
    pub redis: Option<&'a RedisCells>,
    pub redis_healthy: bool,
    pub db_healthy: bool,
    /// None while the database does not answer; what it would say is then left out rather than shown as 0.
    pub backends: Option<&'a [BackendGauges]>,
    pub replication_pending: Option<u64>,
    pub process: Process,
}

pub fn render(snapshot: &Snapshot<'_>) -> String {
    let mut text = Text { out: String::with_capacity(64 * 1024) };
    text.family("s3o_build_info", |series| series.sample(&[snapshot.version], 1));
    requests(&mut text, snapshot.cores);
    bodies(&mut text, snapshot.cores);
    refused_by_budgets(&mut text, snapshot.cores);
    backends(&mut text, snapshot.cores);
    metadata(&mut text, snapshot);
    redis(&mut text, snapshot);
    database(&mut text, snapshot);
    workers(&mut text, snapshot.cores);
    program(&mut text, snapshot);
    text.out
}

fn requests(text: &mut Text, cores: &[Arc<CoreCells>]) {
    text.family("s3o_requests_total", |series| {
        for core in cores {
            for &method in Method::ALL {
                for status in STATUS_CODES.into_iter().chain([OTHER_STATUS]) {
                    let count = core.requests(method, status).value();
                    let code = if status == OTHER_STATUS { "other".to_owned() } else { status.to_string() };
                    series.sample_if_any(&[method.as_str(), &code, &core.core], count);
                }
            }
        }
    });
    text.per_method("s3o_request_duration_seconds", cores, CoreCells::request_micros);
    text.per_method("s3o_request_size_bytes", cores, CoreCells::request_bytes);
    text.per_method("s3o_response_size_bytes", cores, CoreCells::response_bytes);
    text.family("s3o_inflight_requests", |series| {
        for core in cores {
            for &method in Method::ALL {
                if core.request_micros(method).count() > 0 || core.inflight(method).value() > 0 {
                    series.sample(&[method.as_str(), &core.core], core.inflight(method).value());
                }
            }
        }
    });
    text.per_core("s3o_connections_open", cores, |core| core.connections_open.value());
    text.per_core("s3o_connections_total", cores, |core| core.connections.value());
    text.per_core("s3o_connections_refused_total", cores, |core| core.connections_refused.value());
    text.per_core("s3o_accept_errors_total", cores, |core| core.accept_errors.value());
    text.per_core("s3o_client_received_bytes_total", cores, |core| core.client_bytes_in.value());
    text.per_core("s3o_client_sent_bytes_total", cores, |core| core.client_bytes_out.value());
    text.per_core("s3o_malformed_requests_total", cores, |core| core.malformed_requests.value());
    text.per_core("s3o_auth_failures_total", cores, |core| core.auth_failures.value());
    text.per_core("s3o_access_denied_total", cores, |core| core.access_denied.value());
    text.per_label("s3o_timeouts_total", cores, |core, phase: TimeoutPhase| core.timeouts.at(phase).value());
    text.per_core("s3o_http_panic_recovered_total", cores, |core| core.panics.value());
}

/// Not a status; names the column of all that have no series of their own.
const OTHER_STATUS: u16 = 0;

fn bodies(text: &mut Text, cores: &[Arc<CoreCells>]) {
    text.per_label("s3o_relay_bodies_total", cores, |core, path: BodyPath| core.relay_bodies.at(path).value());
    text.per_label("s3o_relay_bytes_total", cores, |core, path: BodyPath| core.relay_bytes.at(path).value());
    text.per_core("s3o_splice_fallbacks_total", cores, |core| core.splice_fallbacks.value());
    text.per_core("s3o_read_failovers_total", cores, |core| core.read_failovers.value());
    text.per_core("s3o_read_resumes_total", cores, |core| core.read_resumes.value());
    text.per_core("s3o_bodies_cut_total", cores, |core| core.bodies_cut.value());
    text.family("s3o_write_failover_total", |series| {
        for core in cores {
            for (failed, from) in core.backends.iter().enumerate() {
                for (success, to) in core.backends.iter().enumerate() {
                    let labels = ["PutObject", from.name.as_str(), to.name.as_str(), &core.core];
                    series.sample_if_any(&labels, core.write_failover(failed, success).value());
                }
            }
        }
    });
}

fn refused_by_budgets(text: &mut Text, cores: &[Arc<CoreCells>]) {
    text.family("s3o_usage_limit_rejections_total", |series| {
        for core in cores {
            for operation in Operation::ALL {
                for (limit_type, is_read) in [("read", true), ("write", false)] {
                    let count = core.usage_limit_rejections(operation, is_read).value();
                    series.sample_if_any(&[operation.name(), limit_type, &core.core], count);
                }
            }
        }
    });
}

fn backends(text: &mut Text, cores: &[Arc<CoreCells>]) {
    text.family("s3o_backend_requests_total", |series| {
        each_backend(cores, |core, backend| {
            for call in BackendCall::ALL {
                for &status in CallStatus::ALL {
                    let labels = [call.as_str(), backend.name.as_str(), status.as_str(), core];
                    series.sample_if_any(&labels, backend.calls(call, status).value());
                }
            }
        });
    });
    text.family("s3o_backend_duration_seconds", |series| {
        each_backend(cores, |core, backend| {
            for call in BackendCall::ALL {
                let labels = [call.as_str(), backend.name.as_str(), core];
                series.histogram_if_any(&labels, backend.call_micros(call));
            }
        });
    });
    text.per_backend("s3o_backend_api_requests_total", cores, |backend| backend.api_requests.value());
    text.per_backend("s3o_backend_egress_bytes_total", cores, |backend| backend.egress_bytes.value());
    text.per_backend("s3o_backend_ingress_bytes_total", cores, |backend| backend.ingress_bytes.value());
    text.family("s3o_backend_connections_total", |series| {
        each_backend(cores, |core, backend| {
            series.sample(&[backend.name.as_str(), "new", core], backend.connections_opened.value());
            series.sample(&[backend.name.as_str(), "reused", core], backend.connections_reused.value());
        });
    });
    text.per_backend("s3o_backend_stale_retries_total", cores, |backend| backend.stale_retries.value());
    text.per_backend("s3o_backend_unexpected_data_total", cores, |backend| backend.unexpected_data.value());
    text.per_backend("s3o_backend_idle_connections", cores, |backend| backend.connections_idle.value());
}

fn each_backend(cores: &[Arc<CoreCells>], mut visit: impl FnMut(&str, &BackendCells)) {
    for core in cores {
        for backend in &core.backends {
            visit(&core.core, backend);
        }
    }
}

fn metadata(text: &mut Text, snapshot: &Snapshot<'_>) {
    let (cores, desk) = (snapshot.cores, snapshot.desk);
    text.per_core("s3o_mailbox_refusals_total", cores, |core| core.mailbox_refusals.value());
    text.per_core("s3o_location_cache_hits_total", cores, |core| core.location_cache_hits.value());
    text.per_core("s3o_location_cache_misses_total", cores, |core| core.location_cache_misses.value());
    text.single("s3o_store_batches_total", desk.batches.value());
    text.single("s3o_store_changes_total", desk.changes.value());
    text.family("s3o_store_batch_duration_seconds", |series| series.histogram(&[], &desk.batch_micros));
    text.single("s3o_store_queries_total", desk.queries.value());
    text.single("s3o_store_failures_total", desk.failures.value());
    text.single("s3o_store_waiting_calls", desk.waiting.value());
    text.family("s3o_degraded_reads_total", |series| per_operation(series, cores, |core| &core.degraded_reads));
    text.family("s3o_degraded_write_rejections_total", |series| {
        per_operation(series, cores, |core| &core.degraded_rejections);
    });
    text.per_core("s3o_degraded_cache_hits_total", cores, |core| core.degraded_cache_hits.value());
    text.per_core("s3o_degraded_cache_misses_total", cores, |core| core.degraded_cache_misses.value());
    text.single("s3o_degraded_mode_active", u64::from(!snapshot.db_healthy));
    text.family("s3o_circuit_breaker_state", |series| {
        for circuit in snapshot.circuits {
            let state = match circuit.state() {
                State::Closed => 0,
                State::Open => 1,
                State::HalfOpen => 2,
            };
            series.sample(&[&circuit.name], state);
        }
    });
    text.family("s3o_circuit_breaker_transitions_total", |series| {
        for circuit in snapshot.circuits {
            for (from, to) in TRANSITIONS {
                series.sample(&[&circuit.name, from.as_str(), to.as_str()], circuit.transitions(from, to));
            }
        }
    });
}

fn per_operation(series: &mut Series<'_>, cores: &[Arc<CoreCells>], read: impl Fn(&CoreCells) -> &Row) {
    for core in cores {
        for operation in Operation::ALL {
            series.sample_if_any(&[operation.name(), &core.core], read(core).at(operation).value());
        }
    }
}

fn redis(text: &mut Text, snapshot: &Snapshot<'_>) {
    let Some(cells) = snapshot.redis else { return };
    text.single("s3o_redis_fallback_active", u64::from(!snapshot.redis_healthy));
    text.family("s3o_redis_operations_total", |series| {
        for &call in RedisCall::ALL {
            for (status, succeeded) in [("success", true), ("error", false)] {
                series.sample(&[call.as_str(), status], cells.calls(call, succeeded));
            }
        }
    });
}

fn database(text: &mut Text, snapshot: &Snapshot<'_>) {
    if let Some(pending) = snapshot.replication_pending {
        text.single("s3o_replication_pending", pending);
    }
    let Some(backends) = snapshot.backends else { return };
    type Read = fn(&BackendGauges) -> u64;
    let gauges: [(&str, Read); 10] = [
        ("s3o_quota_bytes_used", |one| one.bytes_used),
        ("s3o_quota_bytes_reserved", |one| one.bytes_reserved),
        ("s3o_quota_orphan_bytes", |one| one.orphan_bytes),
        ("s3o_quota_bytes_limit", |one| one.bytes_limit),
        ("s3o_objects_count", |one| one.object_count),
        ("s3o_active_multipart_uploads", |one| one.active_uploads),
        ("s3o_usage_api_requests", |one| one.api_requests),
        ("s3o_usage_egress_bytes", |one| one.egress_bytes),
        ("s3o_usage_ingress_bytes", |one| one.ingress_bytes),
        ("s3o_backend_usable", |one| u64::from(one.usable)),
    ];
    for (name, read) in gauges {
        text.family(name, |series| {
            for backend in backends {
                series.sample(&[&backend.name], read(backend));
            }
        });
    }
    text.family("s3o_quota_bytes_available", |series| {
        // Of what has no limit nothing runs out: a series would look as if it had.
        for one in backends.iter().filter(|one| one.bytes_limit > 0) {
            let taken = one.bytes_used.saturating_add(one.bytes_reserved).saturating_add(one.orphan_bytes);
            series.sample(&[&one.name], one.bytes_limit.saturating_sub(taken));
        }
    });
    let pools: [(&str, fn(&PoolGauge) -> u64); 2] =
        [("s3o_usage_pool_requests", |pool| pool.requests), ("s3o_usage_pool_limit", |pool| pool.limit)];
    for (name, read) in pools {
        text.family(name, |series| {
            for (backend, pool) in backends.iter().flat_map(|one| one.pools.iter().map(move |pool| (one, pool))) {
                series.sample(&[&backend.name, &pool.name], read(pool));
            }
        });
    }
    text.single("s3o_drain_active", backends.iter().filter(|one| one.draining).count() as u64);
    text.single("s3o_cleanup_queue_depth", backends.iter().map(|one| one.cleanup_depth).sum());
    text.single("s3o_cleanup_dlq_depth", backends.iter().map(|one| one.dlq_depth).sum());
}

/// Background jobs run on one or two threads, so their series are added up over the cores.
fn workers(text: &mut Text, cores: &[Arc<CoreCells>]) {
    let sum = |read: &dyn Fn(&CoreCells) -> u64| cores.iter().map(|core| read(core)).sum::<u64>();
    text.family("s3o_cleanup_queue_processed_total", |series| {
        for &status in CleanupStatus::ALL {
            series.sample(&[status.as_str()], sum(&|core| core.cleanup_processed.at(status).value()));
        }
    });
    text.family("s3o_cleanup_dlq_enqueued_total", |series| {
        let backends = cores.first().map_or(&[][..], |core| &core.backends);
        for (i, backend) in backends.iter().enumerate() {
            let enqueued = |core: &CoreCells| core.backends.get(i).map_or(0, |one| one.dlq_enqueued.value());
            series.sample(&[backend.name.as_str()], sum(&enqueued));
        }
    });
    text.single("s3o_over_replication_removed_total", sum(&|core| core.over_replication_removed.value()));
    text.single("s3o_drain_objects_moved_total", sum(&|core| core.drain_objects_moved.value()));
    text.single("s3o_drain_bytes_moved_total", sum(&|core| core.drain_bytes_moved.value()));
    text.single("s3o_replication_copies_created_total", sum(&|core| core.replication_copies_created.value()));
    text.single("s3o_replication_errors_total", sum(&|core| core.replication_errors.value()));
    text.family("s3o_worker_ticks_total", |series| {
        for &service in Service::ALL {
            series.sample(&[service.as_str(), "success"], sum(&|core| core.service(service).successes.value()));
            series.sample(&[service.as_str(), "failure"], sum(&|core| core.service(service).failures.value()));
        }
    });
    text.family("s3o_worker_last_success_timestamp_seconds", |series| {
        for &service in Service::ALL {
            let last = cores.iter().map(|core| core.service(service).last_success.value()).max().unwrap_or(0);
            series.sample_if_any(&[service.as_str()], last);
        }
    });
    text.family("s3o_worker_consecutive_failures", |series| {
        for &service in Service::ALL {
            series.sample(&[service.as_str()], sum(&|core| core.service(service).failures_in_a_row.value()));
        }
    });
}

fn program(text: &mut Text, snapshot: &Snapshot<'_>) {
    text.per_core("s3o_audit_lines_total", snapshot.cores, |core| core.audit_lines.value());
    text.per_core("s3o_audit_dropped_total", snapshot.cores, |core| core.audit_dropped.value());
    text.single("s3o_log_dropped_total", logs::dropped());
    text.single("process_resident_memory_bytes", snapshot.process.resident_bytes);
    text.family("process_cpu_seconds_total", |series| series.sample(&[], snapshot.process.cpu_seconds));
    text.single("process_open_fds", snapshot.process.open_fds);
}

struct Text {
    out: String,
}

impl Text {
    /// A metric with its head; `write` adds its series. A metric without any series is left out.
    fn family(&mut self, name: &str, write: impl FnOnce(&mut Series<'_>)) {
        let metric = metric(name);
        let before = self.out.len();
        writeln!(self.out, "# HELP {name} {}\n# TYPE {name} {}", metric.help, metric.kind.as_str()).expect(TO_A_STRING);
        let head_end = self.out.len();
        write(&mut Series { out: &mut self.out, metric });
        if self.out.len() == head_end {
            self.out.truncate(before);
        }
    }

    fn single(&mut self, name: &str, value: u64) {
        self.family(name, |series| series.sample(&[], value));
    }

    fn per_core(&mut self, name: &str, cores: &[Arc<CoreCells>], read: impl Fn(&CoreCells) -> u64) {
        self.family(name, |series| {
            for core in cores {
                series.sample(&[&core.core], read(core));
            }
        });
    }

    fn per_label<L: Label>(&mut self, name: &str, cores: &[Arc<CoreCells>], read: impl Fn(&CoreCells, L) -> u64) {
        self.family(name, |series| {
            for core in cores {
                for &label in L::ALL {
                    series.sample(&[label.as_str(), &core.core], read(core, label));
                }
            }
        });
    }

    fn per_method(&mut self, name: &str, cores: &[Arc<CoreCells>], read: impl Fn(&CoreCells, Method) -> &Histogram) {
        self.family(name, |series| {
            for core in cores {
                for &method in Method::ALL {
                    series.histogram_if_any(&[method.as_str(), &core.core], read(core, method));
                }
            }
        });
    }

    fn per_backend(&mut self, name: &str, cores: &[Arc<CoreCells>], read: impl Fn(&BackendCells) -> u64) {
        self.family(name, |series| {
            each_backend(cores, |core, backend| series.sample(&[backend.name.as_str(), core], read(backend)));
        });
    }
}

const TO_A_STRING: &str = "writing to a string";

/// The series of one metric.
struct Series<'a> {
    out: &'a mut String,
    metric: &'static Metric,
}

impl Series<'_> {
    fn sample(&mut self, labels: &[&str], value: impl Display) {
        assert!(self.metric.kind != Kind::Histogram, "{} is a histogram", self.metric.name);
        self.line("", labels, None, value);
    }

    fn sample_if_any(&mut self, labels: &[&str], value: u64) {
        if value > 0 {
            self.sample(labels, value);
        }
    }

    fn histogram_if_any(&mut self, labels: &[&str], histogram: &Histogram) {
        if histogram.count() > 0 {
            self.histogram(labels, histogram);
        }
    }

    fn histogram(&mut self, labels: &[&str], histogram: &Histogram) {
        assert!(self.metric.kind == Kind::Histogram, "{} is no histogram", self.metric.name);
        let per_unit = histogram.per_unit;
        let mut count = 0;
        for (i, bucket) in histogram.buckets.iter().enumerate() {
            count += bucket.value();
            let bound = histogram.bounds.get(i).map(|&bound| bound as f64 / per_unit);
            self.line("_bucket", labels, Some(bound.unwrap_or(f64::INFINITY)), count);
        }
        self.line("_sum", labels, None, histogram.sum.value() as f64 / per_unit);
        // The sum of the buckets just read, so that count and +Inf agree although the owner goes on counting.
        self.line("_count", labels, None, count);
    }

    fn line(&mut self, suffix: &str, labels: &[&str], bound: Option<f64>, value: impl Display) {
        assert_eq!(labels.len(), self.metric.labels.len(), "labels of {}", self.metric.name);
        let Self { out, metric } = self;
        out.push_str(metric.name);
        out.push_str(suffix);
        let mut separator = '{';
        for (name, value) in metric.labels.iter().zip(labels) {
            out.push(separator);
            write!(out, "{name}=\"").expect(TO_A_STRING);
            escape(out, value);
            out.push('"');
            separator = ',';
        }
        if let Some(bound) = bound {
            out.push(separator);
            if bound.is_infinite() {
                out.push_str("le=\"+Inf\"");
            } else {
                write!(out, "le=\"{bound}\"").expect(TO_A_STRING);
            }
            separator = ',';
        }
        out.push_str(if separator == ',' { "} " } else { " " });
        writeln!(out, "{value}").expect(TO_A_STRING);
    }
}

/// Label values: backslash, quote and line feed (text format 0.0.4).
fn escape(out: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{BackendName, Tick};
    use crate::observe::catalogue::METRICS;
    use crate::policy::breaker::BreakerSettings;
    use std::collections::BTreeMap;
    use std::time::Duration;

    /// Every cell touched once.
    fn busy_core(name: &str) -> Arc<CoreCells> {
        let cells = CoreCells::new(name, [BackendName::new("one"), BackendName::new("two")]);
        cells.request_started(Method::Get);
        cells.request_ended(Method::Get, 200, Duration::from_micros(700), 0, 4096);
        cells.request_started(Method::Put);
        cells.request_ended(Method::Put, 299, Duration::from_secs(90), 2000, 0);
        cells.relayed(BodyPath::Copy, 4096);
        cells.degraded_reads.at(Operation::GetObject).inc();
        cells.degraded_rejections.at(Operation::PutObject).inc();
        cells.write_failover(0, 1).inc();
        cells.backends[0].called(BackendCall::Get, CallStatus::Success, Duration::from_millis(3));
        cells.backends[1].dlq_enqueued.inc();
        cells.usage_limit_rejections(Operation::PutObject, false).inc();
        cells.service(Service::Cleanup).succeeded(1_790_000_000);
        Arc::new(cells)
    }

    fn redis_cells() -> RedisCells {
        let cells = RedisCells::default();
        cells.called(RedisCall::Ping, false);
        cells
    }

    fn broken_circuit() -> Circuit {
        let settings = BreakerSettings { failure_threshold: 1, open_timeout: Duration::MAX, probe_max: Duration::MAX };
        let circuit = Circuit::new("one", settings);
        circuit.failed(Tick::default(), Tick::default(), 0);
        circuit
    }

    fn rendered(cores: &[Arc<CoreCells>]) -> String {
        let backend = |name: &str| BackendGauges {
            name: name.into(),
            bytes_used: 60,
            bytes_reserved: 20,
            orphan_bytes: 15,
            bytes_limit: 100,
            dlq_depth: 2,
            pools: vec![PoolGauge { name: "class-a".into(), requests: 7, limit: 1000 }],
            ..BackendGauges::default()
        };
        let endless = BackendGauges { bytes_limit: 0, dlq_depth: 0, ..backend("endless") };
        render(&Snapshot {
            version: "1.2.3",
            cores,
            desk: &DeskCells::default(),
            circuits: &[&broken_circuit()],
            redis: Some(&redis_cells()),
            redis_healthy: false,
            db_healthy: false,
            backends: Some(&[backend("one"), backend("t\"w\\o"), endless]),
            replication_pending: Some(7),
            process: Process { resident_bytes: 1, cpu_seconds: 1.25, open_fds: 3 },
        })
    }

    #[test]
    fn every_metric_of_the_table_is_written_in_its_form() {
        let text = rendered(&[busy_core("0"), busy_core("1")]);
        let mut types: BTreeMap<&str, &str> = BTreeMap::new();
        for line in text.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                assert!(types.insert(name, kind).is_none(), "{name} stands twice");
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').expect("name and value");
                assert!(value.parse::<f64>().is_ok(), "{line}");
                let name = series.split('{').next().expect("a name");
                let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
                let known = types.get(name).or_else(|| family.and_then(|family| types.get(family)));
                assert!(known.is_some(), "{line} before its type");
                assert!(!series.contains('{') || series.ends_with('}'), "{line}");
            }
        }
        for metric in METRICS {
            assert_eq!(types.get(metric.name), Some(&metric.kind.as_str()), "{} is not written", metric.name);
        }
    }

    #[test]
    fn values_and_labels() {
        let text = rendered(&[busy_core("0"), busy_core("mover")]);
        for line in [
            "s3o_build_info{version=\"1.2.3\"} 1",
            "s3o_requests_total{method=\"GET\",status_code=\"200\",core=\"0\"} 1",
            "s3o_requests_total{method=\"PUT\",status_code=\"other\",core=\"mover\"} 1",
            "s3o_request_duration_seconds_bucket{method=\"GET\",core=\"0\",le=\"0.0005\"} 0",
            "s3o_request_duration_seconds_bucket{method=\"GET\",core=\"0\",le=\"0.001\"} 1",
            "s3o_request_duration_seconds_bucket{method=\"PUT\",core=\"0\",le=\"60\"} 0",
            "s3o_request_duration_seconds_bucket{method=\"PUT\",core=\"0\",le=\"+Inf\"} 1",
            "s3o_request_duration_seconds_sum{method=\"PUT\",core=\"0\"} 90",
            "s3o_response_size_bytes_bucket{method=\"GET\",core=\"0\",le=\"4096\"} 1",
            "s3o_write_failover_total{operation=\"PutObject\",failed_backend=\"one\",success_backend=\"two\",core=\"0\"} 1",
            "s3o_quota_bytes_available{backend=\"one\"} 5",
            "s3o_quota_bytes_used{backend=\"t\\\"w\\\\o\"} 60",
            "s3o_usage_limit_rejections_total{operation=\"PutObject\",limit_type=\"write\",core=\"0\"} 1",
            "s3o_usage_pool_requests{backend=\"one\",pool=\"class-a\"} 7",
            "s3o_usage_pool_limit{backend=\"one\",pool=\"class-a\"} 1000",
            "s3o_cleanup_dlq_depth 4",
            "s3o_cleanup_dlq_enqueued_total{backend=\"two\"} 2",
            "s3o_replication_pending 7",
            "s3o_degraded_mode_active 1",
            "s3o_degraded_reads_total{operation=\"GetObject\",core=\"0\"} 1",
            "s3o_circuit_breaker_state{name=\"one\"} 1",
            "s3o_redis_fallback_active 1",
            "s3o_redis_operations_total{operation=\"ping\",status=\"error\"} 1",
            "s3o_circuit_breaker_transitions_total{name=\"one\",from=\"closed\",to=\"open\"} 1",
            "s3o_circuit_breaker_transitions_total{name=\"one\",from=\"half-open\",to=\"closed\"} 0",
            "s3o_worker_last_success_timestamp_seconds{service=\"cleanup\"} 1790000000",
            "process_cpu_seconds_total 1.25",
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\nis not in\n{text}");
        }
        assert!(!text.contains("status_code=\"404\""), "what never happened is left out");
        assert!(text.contains("s3o_quota_bytes_limit{backend=\"endless\"} 0"));
        assert!(!text.contains("s3o_quota_bytes_available{backend=\"endless\"}"), "it does not run out");
    }

    #[test]
    fn without_a_database_its_gauges_are_absent_not_zero() {
        let text = render(&Snapshot {
            version: "",
            cores: &[],
            desk: &DeskCells::default(),
            circuits: &[],
            redis: None,
            redis_healthy: false,
            db_healthy: false,
            backends: None,
            replication_pending: None,
            process: Process::default(),
        });
        assert!(!text.contains("s3o_quota") && !text.contains("s3o_cleanup_queue_depth") && !text.contains("pending"));
        assert!(text.contains("s3o_degraded_mode_active 1"));
    }
}
