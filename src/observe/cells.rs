//! The counters of one core. Only the owning thread writes them, so an addition is a load and a store without a locked
//! instruction; the control core reads them all at a scrape (`metrics.rs`) and for the status page.

use crate::base::BackendName;
use crate::policy::body_path::BodyPath;
pub use crate::policy::usage::BackendCall;
use crate::proto::http1::Method;
use crate::proto::operation::Operation;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A number that its owner raises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub fn inc(&self) {
        self.add(1);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that its owner raises and lowers.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn inc(&self) {
        self.0.store(self.0.load(Relaxed).wrapping_add(1), Relaxed);
    }

    pub fn dec(&self) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(1), Relaxed);
    }

    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds in microseconds: the reference's from 5 ms on, finer ones below.
pub const TIME_BOUNDS_MICROS: &[u64] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];
/// 1 KiB times a power of four.
pub const SIZE_BOUNDS_BYTES: &[u64] =
    &[1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26, 1 << 28];

/// A histogram over fixed bounds. Buckets hold their own values only; they are added up when written out.
#[derive(Debug)]
pub struct Histogram {
    pub(super) bounds: &'static [u64],
    /// What is shown is what was recorded divided by this.
    pub(super) per_unit: f64,
    pub(super) buckets: Box<[Counter]>,
    pub(super) sum: Counter,
}

impl Histogram {
    /// Recorded in microseconds, shown in seconds.
    fn of_times() -> Self {
        Self::new(TIME_BOUNDS_MICROS, 1e6)
    }

    fn of_sizes() -> Self {
        Self::new(SIZE_BOUNDS_BYTES, 1.0)
    }

    fn new(bounds: &'static [u64], per_unit: f64) -> Self {
        Self { bounds, per_unit, buckets: counters(bounds.len() + 1), sum: Counter::default() }
    }

    pub fn record(&self, value: u64) {
        self.buckets[self.bounds.partition_point(|&bound| bound < value)].inc();
        self.sum.add(value);
    }

    pub fn record_time(&self, time: Duration) {
        self.record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::value).sum()
    }
}

/// An enumeration whose members are a metric's label values, in order.
pub trait Label: Copy + 'static {
    const ALL: &'static [Self];
    fn as_str(self) -> &'static str;
    fn index(self) -> usize;
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($member:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name { $($member),* }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$member),*];
            fn as_str(self) -> &'static str {
                match self { $(Self::$member => $text),* }
            }
            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

impl Label for Method {
    const ALL: &'static [Self] = &[
        Self::Get,
        Self::Head,
        Self::Put,
        Self::Post,
        Self::Delete,
        Self::Options,
        Self::Patch,
        Self::Trace,
        Self::Other,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Patch => "PATCH",
            Self::Trace => "TRACE",
            Self::Other => "other",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl Label for Operation {
    const ALL: &'static [Self] = &Self::ALL;

    fn as_str(self) -> &'static str {
        self.name()
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl Label for BodyPath {
    const ALL: &'static [Self] = &[Self::Splice, Self::Copy];

    fn as_str(self) -> &'static str {
        self.as_str()
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl Label for BackendCall {
    const ALL: &'static [Self] = &Self::ALL;

    fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Head => "head",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::List => "list",
            Self::CreateUpload => "create_upload",
            Self::UploadPart => "upload_part",
            Self::CompleteUpload => "complete_upload",
            Self::AbortUpload => "abort_upload",
            Self::ListUploads => "list_uploads",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

label!(
    /// How a backend answered: a 4xx is `refused`, no answer and a 5xx are `error`.
    CallStatus { Success = "success", NotFound = "not_found", Refused = "refused", Error = "error" }
);
label!(
    /// What took too long.
    TimeoutPhase { Head = "head", ClientBody = "client_body", Backend = "backend", TlsHandshake = "tls_handshake" }
);
label!(
    /// What became of a doomed blob's DELETE.
    CleanupStatus { Success = "success", Retry = "retry", Exhausted = "exhausted" }
);
label!(
    /// A background job.
    Service {
        Recover = "recover", Cleanup = "cleanup", Replicate = "replicate", Usage = "usage", Forget = "forget",
        Standing = "standing", StaleUploads = "stale_uploads", Drain = "drain", Trim = "over-replication", Sync = "sync",
        Sweep = "sweep",
    }
);

/// Status codes that have a series of their own; any other is counted as `other`.
pub const STATUS_CODES: [u16; 25] = [
    200, 204, 206, 301, 304, 307, 400, 401, 403, 404, 405, 408, 409, 411, 412, 413, 416, 429, 431, 500, 501, 502, 503,
    505, 507,
];

/// One counter per pair of labels.
#[derive(Debug)]
pub struct Grid {
    cells: Box<[Counter]>,
    columns: usize,
}

impl Grid {
    fn new(rows: usize, columns: usize) -> Self {
        Self { cells: counters(rows * columns), columns }
    }

    pub fn at(&self, row: usize, column: usize) -> &Counter {
        assert!(column < self.columns, "column {column} of {}", self.columns);
        &self.cells[row * self.columns + column]
    }
}

/// One counter per member of a label.
#[derive(Debug)]
pub struct Row(Box<[Counter]>);

impl Row {
    fn of<L: Label>() -> Self {
        Self(counters(L::ALL.len()))
    }

    pub fn at<L: Label>(&self, label: L) -> &Counter {
        &self.0[label.index()]
    }
}

fn counters(len: usize) -> Box<[Counter]> {
    (0..len).map(|_| Counter::default()).collect()
}

/// All of one core. The alignment keeps two cores' cells out of one pair of cache lines.
#[derive(Debug)]
#[repr(align(128))]
pub struct CoreCells {
    /// The `core` label: a reactor's number, `mover` or `control`.
    pub core: String,
    requests: Grid,
    request_micros: Box<[Histogram]>,
    request_bytes: Box<[Histogram]>,
    response_bytes: Box<[Histogram]>,
    inflight: Box<[Gauge]>,
    pub connections_open: Gauge,
    pub connections: Counter,
    /// Refused because the reactor held `server.max_connections`.
    pub connections_refused: Counter,
    pub accept_errors: Counter,
    /// Everything read from clients and written to them, heads included; below TLS nothing is counted.
    pub client_bytes_in: Counter,
    pub client_bytes_out: Counter,
    /// Heads that were not a request, or an ambiguous one.
    pub malformed_requests: Counter,
    /// Requests whose signature was not valid.
    pub auth_failures: Counter,
    /// Valid signatures without the grant.
    pub access_denied: Counter,
    pub timeouts: Row,
    pub panics: Counter,
    pub relay_bodies: Row,
    pub relay_bytes: Row,
    /// Bodies that were to be spliced but copied, because no pipe of a useful size could be had.
    pub splice_fallbacks: Counter,
    /// Reads answered by another copy before the first body byte, and midway at the exact offset.
    pub read_failovers: Counter,
    pub read_resumes: Counter,
    /// Responses cut because no copy could go on.
    pub bodies_cut: Counter,
    /// Calls that the metadata desk's mailbox had no room for.
    pub mailbox_refusals: Counter,
    pub location_cache_hits: Counter,
    pub location_cache_misses: Counter,
    /// Reads that were answered, or tried, without the database; requests that could not be.
    pub degraded_reads: Row,
    pub degraded_rejections: Row,
    /// Keys of such reads that were remembered, and that were searched on the backends.
    pub degraded_cache_hits: Counter,
    pub degraded_cache_misses: Counter,
    pub audit_lines: Counter,
    /// Audit lines lost because the control core did not take them in time.
    pub audit_dropped: Counter,
    pub cleanup_processed: Row,
    pub drain_objects_moved: Counter,
    pub drain_bytes_moved: Counter,
    pub over_replication_removed: Counter,
    pub replication_copies_created: Counter,
    pub replication_errors: Counter,
    pub backends: Box<[BackendCells]>,
    write_failovers: Grid,
    usage_limit_rejections: Grid,
    pub services: Box<[ServiceCells]>,
}

/// One backend, as one core used it.
#[derive(Debug)]
pub struct BackendCells {
    pub name: BackendName,
    calls: Grid,
    call_micros: Box<[Histogram]>,
    /// What counts against its budgets: every request sent, body bytes read from it, body bytes written to it.
    pub api_requests: Counter,
    pub egress_bytes: Counter,
    pub ingress_bytes: Counter,
    pub connections_opened: Counter,
    pub connections_reused: Counter,
    /// Requests sent once more because a pooled connection had gone stale.
    pub stale_retries: Counter,
    /// Idle connections closed because the backend spoke unasked.
    pub unexpected_data: Counter,
    pub connections_idle: Gauge,
    /// Blobs on it that became dead letters.
    pub dlq_enqueued: Counter,
}

/// A background job, as the thread that runs it saw it.
#[derive(Debug, Default)]
pub struct ServiceCells {
    pub successes: Counter,
    pub failures: Counter,
    pub failures_in_a_row: Gauge,
    /// Seconds since 1970; 0 = never.
    pub last_success: Gauge,
}

/// The metadata desk's own, written by its thread.
#[derive(Debug)]
#[repr(align(128))]
pub struct DeskCells {
    /// Transactions that changed something, the changes in them, and how long they took from begin to durable.
    pub batches: Counter,
    pub changes: Counter,
    pub batch_micros: Histogram,
    pub queries: Counter,
    /// Batches and queries that the database did not carry out.
    pub failures: Counter,
    /// Calls that wait for the next batch.
    pub waiting: Gauge,
    /// Batches that failed and were tried change by change.
    pub taken_apart: Counter,
    /// Answers of a COMMIT that were lost.
    pub answers_lost: Counter,
    /// Calls refused because too many waited.
    pub refused: Counter,
}

impl Default for DeskCells {
    fn default() -> Self {
        Self {
            batches: Counter::default(),
            changes: Counter::default(),
            batch_micros: Histogram::of_times(),
            queries: Counter::default(),
            failures: Counter::default(),
            waiting: Gauge::default(),
            taken_apart: Counter::default(),
            answers_lost: Counter::default(),
            refused: Counter::default(),
        }
    }
}

impl DeskCells {
    pub fn committed(&self, changes: usize, time: Duration) {
        self.batches.inc();
        self.changes.add(changes as u64);
        self.batch_micros.record_time(time);
    }
}

impl CoreCells {
    /// `backends` in the view's order; their indexes here are the view's.
    pub fn new(core: impl Into<String>, backends: impl IntoIterator<Item = BackendName>) -> Self {
        let backends: Box<[_]> = backends.into_iter().map(BackendCells::new).collect();
        let per_method = |histogram: fn() -> Histogram| Method::ALL.iter().map(|_| histogram()).collect();
        Self {
            core: core.into(),
            requests: Grid::new(Method::ALL.len(), STATUS_CODES.len() + 1),
            request_micros: per_method(Histogram::of_times),
            request_bytes: per_method(Histogram::of_sizes),
            response_bytes: per_method(Histogram::of_sizes),
            inflight: Method::ALL.iter().map(|_| Gauge::default()).collect(),
            connections_open: Gauge::default(),
            connections: Counter::default(),
            connections_refused: Counter::default(),
            accept_errors: Counter::default(),
            client_bytes_in: Counter::default(),
            client_bytes_out: Counter::default(),
            malformed_requests: Counter::default(),
            auth_failures: Counter::default(),
            access_denied: Counter::default(),
            timeouts: Row::of::<TimeoutPhase>(),
            panics: Counter::default(),
            relay_bodies: Row::of::<BodyPath>(),
            relay_bytes: Row::of::<BodyPath>(),
            splice_fallbacks: Counter::default(),
            read_failovers: Counter::default(),
            read_resumes: Counter::default(),
            bodies_cut: Counter::default(),
            mailbox_refusals: Counter::default(),
            location_cache_hits: Counter::default(),
            location_cache_misses: Counter::default(),
            degraded_reads: Row::of::<Operation>(),
            degraded_rejections: Row::of::<Operation>(),
            degraded_cache_hits: Counter::default(),
            degraded_cache_misses: Counter::default(),
            audit_lines: Counter::default(),
            audit_dropped: Counter::default(),
            cleanup_processed: Row::of::<CleanupStatus>(),
            drain_objects_moved: Counter::default(),
            drain_bytes_moved: Counter::default(),
            over_replication_removed: Counter::default(),
            replication_copies_created: Counter::default(),
            replication_errors: Counter::default(),
            write_failovers: Grid::new(backends.len(), backends.len()),
            usage_limit_rejections: Grid::new(Operation::ALL.len(), 2),
            backends,
            services: Service::ALL.iter().map(|_| ServiceCells::default()).collect(),
        }
    }

    /// A head was read and understood. Pairs with `request_ended`.
    pub fn request_started(&self, method: Method) {
        self.inflight[method.index()].inc();
    }

    /// The exchange is over, however it ended. `status` is what the client was sent; body sizes without framing.
    pub fn request_ended(&self, method: Method, status: u16, time: Duration, request_bytes: u64, response_bytes: u64) {
        self.inflight[method.index()].dec();
        self.requests.at(method.index(), status_column(status)).inc();
        self.request_micros[method.index()].record_time(time);
        self.request_bytes[method.index()].record(request_bytes);
        self.response_bytes[method.index()].record(response_bytes);
    }

    pub fn requests(&self, method: Method, status: u16) -> &Counter {
        self.requests.at(method.index(), status_column(status))
    }

    /// All requests that this core has answered.
    pub fn requests_total(&self) -> u64 {
        self.requests.cells.iter().map(Counter::value).sum()
    }

    pub fn inflight(&self, method: Method) -> &Gauge {
        &self.inflight[method.index()]
    }

    pub fn request_micros(&self, method: Method) -> &Histogram {
        &self.request_micros[method.index()]
    }

    pub fn request_bytes(&self, method: Method) -> &Histogram {
        &self.request_bytes[method.index()]
    }

    pub fn response_bytes(&self, method: Method) -> &Histogram {
        &self.response_bytes[method.index()]
    }

    /// A body of so many bytes was moved; partly moved ones count with what was moved.
    pub fn relayed(&self, path: BodyPath, bytes: u64) {
        self.relay_bodies.at(path).inc();
        self.relay_bytes.at(path).add(bytes);
    }

    /// A write that `failed` could not take ended on `success` (indexes of the view).
    pub fn write_failover(&self, failed: usize, success: usize) -> &Counter {
        self.write_failovers.at(failed, success)
    }

    /// A request that no backend's monthly budget had room for; the second kind are writes.
    pub fn usage_limit_rejections(&self, operation: Operation, is_read: bool) -> &Counter {
        let row = Operation::ALL.iter().position(|one| *one == operation).expect("ALL holds every operation");
        self.usage_limit_rejections.at(row, usize::from(!is_read))
    }

    pub fn service(&self, service: Service) -> &ServiceCells {
        &self.services[service.index()]
    }
}

impl BackendCells {
    fn new(name: BackendName) -> Self {
        Self {
            name,
            calls: Grid::new(BackendCall::ALL.len(), CallStatus::ALL.len()),
            call_micros: BackendCall::ALL.iter().map(|_| Histogram::of_times()).collect(),
            api_requests: Counter::default(),
            egress_bytes: Counter::default(),
            ingress_bytes: Counter::default(),
            connections_opened: Counter::default(),
            connections_reused: Counter::default(),
            stale_retries: Counter::default(),
            unexpected_data: Counter::default(),
            connections_idle: Gauge::default(),
            dlq_enqueued: Counter::default(),
        }
    }

    /// A call was answered or given up; `time` is until the answer's head.
    pub fn called(&self, call: BackendCall, status: CallStatus, time: Duration) {
        self.calls.at(call.index(), status.index()).inc();
        self.call_micros[call.index()].record_time(time);
    }

    pub fn calls(&self, call: BackendCall, status: CallStatus) -> &Counter {
        self.calls.at(call.index(), status.index())
    }

    pub fn call_micros(&self, call: BackendCall) -> &Histogram {
        &self.call_micros[call.index()]
    }
}

impl ServiceCells {
    pub fn succeeded(&self, now_seconds: u64) {
        self.successes.inc();
        self.failures_in_a_row.set(0);
        self.last_success.set(now_seconds);
    }

    pub fn failed(&self) {
        self.failures.inc();
        self.failures_in_a_row.inc();
    }
}

fn status_column(status: u16) -> usize {
    STATUS_CODES.binary_search(&status).unwrap_or(STATUS_CODES.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells() -> CoreCells {
        CoreCells::new("0", [BackendName::new("one"), BackendName::new("two")])
    }

    #[test]
    fn a_request_is_counted_once_under_its_labels() {
        let cells = cells();
        cells.request_started(Method::Get);
        assert_eq!(cells.inflight(Method::Get).value(), 1);
        cells.request_ended(Method::Get, 206, Duration::from_micros(180), 0, 4096);
        cells.request_started(Method::Other);
        cells.request_ended(Method::Other, 418, Duration::ZERO, 1, 1);
        assert_eq!(cells.inflight(Method::Get).value(), 0);
        assert_eq!(cells.requests(Method::Get, 206).value(), 1);
        assert_eq!(cells.requests(Method::Get, 200).value(), 0);
        assert_eq!(cells.requests(Method::Other, 299).value(), 1, "a code without a series of its own");
        assert_eq!(cells.requests_total(), 2);
        assert_eq!(cells.request_micros(Method::Get).count(), 1);
    }

    #[test]
    fn a_value_on_a_bound_belongs_to_it() {
        let histogram = Histogram::new(&[10, 100], 1.0);
        for value in [0, 10, 11, 100, 101, u64::MAX / 2] {
            histogram.record(value);
        }
        let buckets: Vec<_> = histogram.buckets.iter().map(Counter::value).collect();
        assert_eq!(buckets, [2, 2, 2]);
    }

    #[test]
    fn tables_that_are_searched_are_sorted() {
        assert!(STATUS_CODES.is_sorted() && TIME_BOUNDS_MICROS.is_sorted() && SIZE_BOUNDS_BYTES.is_sorted());
        for code in crate::proto::error_code::ErrorCode::ALL {
            assert!(STATUS_CODES.contains(&code.http_status()), "{code:?} has no series of its own");
        }
        assert!(Method::ALL.iter().enumerate().all(|(i, label)| label.index() == i));
        assert!(Operation::ALL.iter().enumerate().all(|(i, label)| label.index() == i));
        assert!(BodyPath::ALL.iter().enumerate().all(|(i, label)| label.index() == i));
        assert!(BackendCall::ALL.iter().enumerate().all(|(i, label)| label.index() == i));
    }

    #[test]
    fn backends_keep_their_own_counts() {
        let cells = cells();
        cells.backends[1].called(BackendCall::Put, CallStatus::Success, Duration::from_millis(3));
        cells.write_failover(0, 1).inc();
        assert_eq!(cells.backends[1].calls(BackendCall::Put, CallStatus::Success).value(), 1);
        assert_eq!(cells.backends[0].calls(BackendCall::Put, CallStatus::Success).value(), 0);
        assert_eq!((cells.write_failover(0, 1).value(), cells.write_failover(1, 0).value()), (1, 0));
    }
}
