//! The admin port: `/metrics`, `GET /admin/api/status`, `/health`. Plain HTTP for operators; a token guards everything
//! but health where one is configured.

use super::counters::local::UsageBook;
use super::counters::merged;
use super::counters::redis::Shared as SharedCounters;
use super::metadata::ControlMetadata;
use crate::backend::budget::{ALL_POOL, ALL_REQUESTS, Budgets, POOL_PREFIX};
use crate::backend::standing::Standing;
use crate::base::{BackendName, Failure, Incarnation, Secret, Timestamp};
use crate::config::view::View;
use crate::observe::cells::{CoreCells, DeskCells};
use crate::observe::metrics::{self, BackendGauges, PoolGauge, Snapshot};
use crate::observe::process::Process;
use crate::policy::usage::is_near;
use crate::proto::date;
use crate::reactor::readiness::Readiness;
use crate::store::port::{Answer, BackendStatus, Metadata, Query, RecordUsage, Usage};
use crate::workers::lend::{Lender, Occasion};
use axum::Json;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use subtle::ConstantTimeEq;

/// What the admin port shows, shared by its tasks and by the schedule.
pub struct Operations {
    pub view: Arc<View>,
    pub standing: Arc<Standing>,
    /// The reactors', then the mover's.
    pub cores: Vec<Arc<CoreCells>>,
    pub desk: Arc<DeskCells>,
    pub metadata: ControlMetadata,
    pub incarnation: Incarnation,
    pub readiness: Arc<Readiness>,
    pub now: fn() -> Timestamp,
    book: Mutex<UsageBook>,
    lender: tokio::sync::Mutex<Lender>,
    /// What other instances told through Redis.
    redis: Option<Arc<SharedCounters>>,
    /// Versions short of copies, as the last pass counted; u64::MAX = not counted yet.
    replication_pending: AtomicU64,
}

impl Operations {
    pub fn new(
        view: Arc<View>,
        standing: Arc<Standing>,
        cores: Vec<Arc<CoreCells>>,
        desk: Arc<DeskCells>,
        metadata: ControlMetadata,
        incarnation: Incarnation,
        readiness: Arc<Readiness>,
        budgets: Arc<Budgets>,
        redis: Option<Arc<SharedCounters>>,
        now: fn() -> Timestamp,
    ) -> Arc<Self> {
        let book = Mutex::new(UsageBook::new(cores.clone(), now()));
        let lender = tokio::sync::Mutex::new(Lender::new(budgets, incarnation, now()));
        let replication_pending = AtomicU64::new(u64::MAX);
        Arc::new(Self {
            view,
            standing,
            cores,
            desk,
            metadata,
            incarnation,
            readiness,
            now,
            book,
            lender,
            redis,
            replication_pending,
        })
    }

    pub fn set_replication_pending(&self, pending: u64) {
        self.replication_pending.store(pending, Ordering::Relaxed);
    }

    /// Borrows from the backends' budgets, and tells what was spent of them. Cancel: NOT safe.
    pub async fn lend(&self, occasion: Occasion) -> Result<(), Failure> {
        let mut lender = self.lender.lock().await;
        if lender.has_work() {
            lender.run(&self.metadata, occasion, (self.now)()).await?;
        }
        Ok(())
    }

    /// How long usage may wait to be written.
    pub async fn usage_interval(&self) -> Duration {
        let flush = self.view.usage_flush;
        let lender = self.lender.lock().await;
        match flush.adaptive_per_mille {
            Some(per_mille) if lender.is_near(|used, limit| is_near(used, limit, per_mille)) => flush.fast_interval,
            _ => flush.interval,
        }
    }

    /// The month, and what this instance has used of the backends in it.
    pub fn own_usage(&self) -> (String, Vec<(BackendName, Usage)>) {
        let (period, used) = self.book.lock().unwrap_or_else(PoisonError::into_inner).look();
        (period, self.view.backends.iter().map(|one| one.name.clone()).zip(used).collect())
    }

    /// Writes this incarnation's usage to the database.
    pub async fn flush_usage(&self) -> Result<(), Failure> {
        let (period, used) = self.book.lock().unwrap_or_else(PoisonError::into_inner).read((self.now)());
        let backends = self.view.backends.iter().map(|one| one.name.clone()).zip(used).collect();
        let record = RecordUsage { incarnation: self.incarnation, period, backends };
        // There is nothing that a record of usage could be refused for.
        self.metadata.step(record).await.map(|_| ())
    }

    /// The backends as the database has them now, usage included: in the configuration's order, then those that only rows
    /// name.
    async fn backends(&self) -> Result<Vec<BackendStatus>, Failure> {
        self.flush_usage().await?;
        match self.metadata.query(Query::Status { period: date::month((self.now)()) }).await? {
            Answer::Status(mut backends) => {
                let place = |name: &str| self.view.backends.iter().position(|one| one.name.as_str() == name);
                backends.sort_by_key(|one| place(&one.name).unwrap_or(usize::MAX));
                self.refresh_usage(&mut backends).await?;
                Ok(backends)
            }
            other => Err(Failure::ourselves(format!("a status was answered with {other:?}"))),
        }
    }

    /// What other instances have used since they wrote it to the database, as far as Redis knows.
    async fn refresh_usage(&self, backends: &mut [BackendStatus]) -> Result<(), Failure> {
        let period = date::month((self.now)());
        let others = self.redis.as_ref().map(|redis| redis.others(&period)).unwrap_or_default();
        if others.is_empty() {
            return Ok(());
        }
        let Answer::Usage { usage, .. } = self.metadata.query(Query::Usage { period }).await? else {
            return Err(Failure::ourselves("a query was answered with another's answer"));
        };
        let sums = merged(usage.iter().chain(&others));
        for one in backends {
            if let Some(usage) = sums.get(one.name.as_str()) {
                one.usage = *usage;
            }
        }
        Ok(())
    }

    /// What all instances have spent of each backend's budgets.
    async fn budgets(&self) -> Result<Vec<BudgetLine>, Failure> {
        let mut lines: Vec<BudgetLine> = Vec::new();
        if !self.lender.lock().await.has_work() {
            return Ok(lines);
        }
        self.lend(Occasion::Regular).await?;
        let Answer::Usage { budgets, .. } =
            self.metadata.query(Query::Usage { period: date::month((self.now)()) }).await?
        else {
            return Err(Failure::ourselves("a query was answered with another's answer"));
        };
        let lender = self.lender.lock().await;
        for counter in lender.counters() {
            let rows =
                budgets.iter().filter(|row| row.backend == counter.backend.as_str() && row.counter == counter.name);
            let (used, lent) = rows.fold((0, 0), |(used, lent), row| (used + row.used, lent + row.granted));
            lines.push(BudgetLine {
                backend: counter.backend.as_str().to_owned(),
                counter: counter.name.clone(),
                used,
                lent,
                limit: counter.limit,
            });
        }
        Ok(lines)
    }

    fn usable(&self, name: &str) -> bool {
        self.view.backends.iter().position(|one| one.name.as_str() == name).is_some_and(|i| self.standing.usable(i))
    }
}

pub fn router(operations: Arc<Operations>, token: Option<Secret>, with_metrics: bool) -> Router {
    let mut guarded = Router::new().route("/admin/api/status", get(status));
    if with_metrics {
        guarded = guarded.route(&operations.view.metrics.path, get(metrics_text));
    }
    if let Some(token) = token {
        let token = Arc::new(token);
        guarded = guarded.layer(middleware::from_fn(move |request: Request, next: Next| {
            let token = Arc::clone(&token);
            async move { require_token(&token, request, next).await }
        }));
    }
    guarded.route("/health", get(health)).fallback(nothing_here).with_state(operations)
}

/// Only `/metrics`, for a listener of its own.
pub fn metrics_router(operations: Arc<Operations>) -> Router {
    Router::new().route(&operations.view.metrics.path, get(metrics_text)).fallback(nothing_here).with_state(operations)
}

fn refusal(status: StatusCode, text: &str) -> Response {
    (status, Json(serde_json::json!({ "error": text }))).into_response()
}

async fn require_token(token: &Secret, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let given = headers.get("x-admin-token").map(header::HeaderValue::as_bytes).or(bearer);
    match given {
        Some(given) if bool::from(given.ct_eq(token.expose().as_bytes())) => next.run(request).await,
        _ => refusal(StatusCode::UNAUTHORIZED, "unauthorized: send the configured admin.token as X-Admin-Token"),
    }
}

async fn nothing_here() -> Response {
    refusal(StatusCode::NOT_FOUND, "not found")
}

async fn health(State(operations): State<Arc<Operations>>) -> Json<serde_json::Value> {
    let status = if operations.readiness.is_degraded() { "degraded" } else { "ok" };
    Json(serde_json::json!({ "status": status }))
}

#[derive(Serialize)]
struct Status {
    version: &'static str,
    db_healthy: bool,
    usage_period: String,
    backends: Vec<BackendLine>,
    budgets: Vec<BudgetLine>,
    reactors: Vec<ReactorLine>,
}

#[derive(Serialize)]
struct BackendLine {
    name: String,
    healthy: bool,
    draining: bool,
    bytes_used: u64,
    bytes_reserved: u64,
    orphan_bytes: u64,
    bytes_limit: u64,
    object_count: u64,
    cleanup_queue: u64,
    cleanup_dlq: u64,
    api_requests: u64,
    egress_bytes: u64,
    ingress_bytes: u64,
}

/// One monthly budget of a backend, over all instances.
#[derive(Serialize)]
struct BudgetLine {
    backend: String,
    counter: String,
    used: u64,
    /// Lent to instances: spent, or theirs to spend; what a dead one left counts as spent.
    lent: u64,
    /// 0 = unlimited.
    limit: u64,
}

#[derive(Serialize)]
struct ReactorLine {
    core: String,
    connections: u64,
    requests: u64,
}

async fn status(State(operations): State<Arc<Operations>>) -> Response {
    let backends = operations.backends().await;
    if let Err(failure) = &backends {
        tracing::warn!(%failure, "status without the database");
    }
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        db_healthy: backends.is_ok(),
        usage_period: date::month((operations.now)()),
        budgets: operations.budgets().await.unwrap_or_default(),
        backends: backends.unwrap_or_default().into_iter().map(|one| backend_line(&operations, one)).collect(),
        reactors: operations.cores.iter().map(|core| reactor_line(core)).filter(|line| line.core != "mover").collect(),
    };
    Json(status).into_response()
}

fn backend_line(operations: &Operations, one: BackendStatus) -> BackendLine {
    BackendLine {
        healthy: operations.usable(&one.name),
        name: one.name,
        draining: one.draining,
        bytes_used: one.bytes_used,
        bytes_reserved: one.bytes_reserved,
        orphan_bytes: one.orphan_bytes,
        bytes_limit: one.bytes_limit,
        object_count: one.object_count,
        cleanup_queue: one.cleanup_depth,
        cleanup_dlq: one.dlq_depth,
        api_requests: one.usage.api_requests,
        egress_bytes: one.usage.egress_bytes,
        ingress_bytes: one.usage.ingress_bytes,
    }
}

fn reactor_line(core: &CoreCells) -> ReactorLine {
    ReactorLine { core: core.core.clone(), connections: core.connections_open.value(), requests: core.requests_total() }
}

async fn metrics_text(State(operations): State<Arc<Operations>>) -> Response {
    let backends = operations.backends().await;
    let budgets = operations.budgets().await.unwrap_or_default();
    let gauges: Option<Vec<_>> = backends.as_ref().ok().map(|backends| {
        backends
            .iter()
            .map(|one| BackendGauges {
                name: one.name.clone(),
                bytes_used: one.bytes_used,
                bytes_reserved: one.bytes_reserved,
                orphan_bytes: one.orphan_bytes,
                bytes_limit: one.bytes_limit,
                object_count: one.object_count,
                active_uploads: one.active_uploads,
                cleanup_depth: one.cleanup_depth,
                dlq_depth: one.dlq_depth,
                draining: one.draining,
                usable: operations.usable(&one.name),
                api_requests: one.usage.api_requests,
                egress_bytes: one.usage.egress_bytes,
                ingress_bytes: one.usage.ingress_bytes,
                pools: pools_of(&budgets, &one.name),
            })
            .collect()
    });
    let pending = operations.replication_pending.load(Ordering::Relaxed);
    let redis = operations.redis.as_deref();
    let text = metrics::render(&Snapshot {
        version: env!("CARGO_PKG_VERSION"),
        cores: &operations.cores,
        desk: &operations.desk,
        circuits: &operations.standing.circuits().iter().chain(redis.map(|redis| &redis.circuit)).collect::<Vec<_>>(),
        redis: redis.map(|redis| &redis.cells),
        redis_healthy: redis.is_some_and(|redis| redis.circuit.is_closed()),
        db_healthy: backends.is_ok(),
        backends: gauges.as_deref(),
        replication_pending: (pending != u64::MAX).then_some(pending),
        process: process(),
    });
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

fn pools_of(budgets: &[BudgetLine], backend: &str) -> Vec<PoolGauge> {
    let of_backend = budgets.iter().filter(|line| line.backend == backend);
    let pool = |line: &BudgetLine| {
        let name = line.counter.strip_prefix(POOL_PREFIX).or((line.counter == ALL_REQUESTS).then_some(ALL_POOL))?;
        Some(PoolGauge { name: name.to_owned(), requests: line.used, limit: line.limit })
    };
    of_backend.filter_map(pool).collect()
}

fn process() -> Process {
    let text = |path| std::fs::read_to_string(path).unwrap_or_default();
    let open_fds = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    Process::from_texts(&text("/proc/self/stat"), &text("/proc/self/status"), open_fds)
}
