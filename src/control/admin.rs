//! The admin port: `/metrics`, `/admin/api/…`, `/health`. Plain HTTP for operators; a token guards everything
//! but health where one is configured.

mod backends;
mod cleanup;
mod status;
mod sync;

use super::counters::local::UsageBook;
use super::counters::merged;
use super::counters::redis::{OwnUsage, Shared as SharedCounters};
use super::metadata::ControlMetadata;
use crate::backend::budget::{ALL_POOL, ALL_REQUESTS, Budgets, POOL_PREFIX};
use crate::backend::standing::Standing;
use crate::base::{Failure, Incarnation, Secret, Tenure, Timestamp};
use crate::config::checked::{Replication, UsageFlush};
use crate::config::view::View;
use crate::observe::cells::{CoreCells, DeskCells, Label, Service};
use crate::observe::circuit::Circuit;
use crate::observe::metrics::{self, BackendGauges, PoolGauge, Snapshot};
use crate::observe::process::Process;
use crate::policy::usage::is_near;
use crate::proto::date;
use crate::reactor::clock::monotonic;
use crate::reactor::jobs::SyncOrder;
use crate::reactor::readiness::Readiness;
use crate::reactor::wake::Wake;
use crate::store::board::Board;
use crate::store::port::{Answer, BackendStatus, Metadata, Query, RecordUsage, Usage};
use crate::workers::drain;
use crate::workers::lend::{Lender, Occasion, TELL_WITHIN};
use axum::Json;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use status::BudgetLine;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use subtle::ConstantTimeEq;

/// Bells of the schedule that operators ring.
pub struct Rings {
    pub cleanup: Wake,
    pub drain: Wake,
    pub replicate: Wake,
    pub trim: Wake,
}

/// What is known of a drain since this process started.
#[derive(Clone, Debug, Default)]
struct DrainNote {
    moved: u64,
    moved_bytes: u64,
    /// By the last pass.
    stuck: u64,
    error: Option<String>,
}

/// What the admin port shows, shared by its tasks and by the schedule.
pub struct Operations {
    pub view: Arc<View>,
    pub(super) board: Arc<Board>,
    pub standing: Arc<Standing>,
    /// The reactors', then the mover's.
    pub cores: Vec<Arc<CoreCells>>,
    pub desk: Arc<DeskCells>,
    pub metadata: ControlMetadata,
    pub readiness: Arc<Readiness>,
    pub now: fn() -> Timestamp,
    tenure: Arc<Tenure>,
    book: Mutex<UsageBook>,
    lender: tokio::sync::Mutex<Lender>,
    /// As last read.
    usage_flush: Mutex<UsageFlush>,
    replication: Mutex<Replication>,
    /// What other instances told through Redis.
    redis: Option<Arc<SharedCounters>>,
    /// Versions short of copies, as the last pass counted; u64::MAX = not counted yet.
    replication_pending: AtomicU64,
    rings: Rings,
    drains: Mutex<HashMap<String, DrainNote>>,
    previews: Mutex<Vec<backends::Preview>>,
    /// Comparisons on their way to the mover: one may wait for the one under way.
    orders: (flume::Sender<SyncOrder>, flume::Receiver<SyncOrder>),
}

impl Operations {
    pub fn new(
        view: Arc<View>,
        board: Arc<Board>,
        standing: Arc<Standing>,
        cores: Vec<Arc<CoreCells>>,
        desk: Arc<DeskCells>,
        metadata: ControlMetadata,
        readiness: Arc<Readiness>,
        budgets: Arc<Budgets>,
        redis: Option<Arc<SharedCounters>>,
        rings: Rings,
        tenure: Arc<Tenure>,
        now: fn() -> Timestamp,
    ) -> Arc<Self> {
        let book = Mutex::new(UsageBook::new(cores.clone(), now()));
        let lender = tokio::sync::Mutex::new(Lender::new(budgets, now()));
        let replication_pending = AtomicU64::new(u64::MAX);
        let (drains, previews) = (Mutex::default(), Mutex::default());
        Arc::new(Self {
            usage_flush: Mutex::new(view.usage_flush),
            replication: Mutex::new(view.replication),
            view,
            board,
            standing,
            cores,
            desk,
            metadata,
            readiness,
            now,
            tenure,
            book,
            lender,
            redis,
            replication_pending,
            rings,
            drains,
            previews,
            orders: flume::bounded(1),
        })
    }

    /// Gives a comparison to the mover; false while one waits already.
    pub fn order(&self, order: SyncOrder) -> bool {
        self.orders.0.try_send(order).is_ok()
    }

    /// What the mover is to compare next. Cancel: safe.
    pub async fn next_order(&self) -> SyncOrder {
        self.orders.1.recv_async().await.expect("its other end is kept here")
    }

    fn wake_cleanup(&self) {
        self.rings.cleanup.ring();
    }

    /// What is to be copied or trimmed may be other than before.
    pub(super) fn wake_replication(&self) {
        self.rings.replicate.ring();
        self.rings.trim.ring();
    }

    fn wake_drain(&self) {
        self.rings.drain.ring();
    }

    /// What a pass of the drain worker did.
    pub fn note_drains(&self, reports: &[drain::Report]) {
        let mut drains = self.drains.lock().unwrap_or_else(PoisonError::into_inner);
        for report in reports {
            let note = drains.entry(report.backend.as_str().to_owned()).or_default();
            note.moved += report.moved;
            note.moved_bytes += report.moved_bytes;
            if report.stuck > 0 && note.error != report.error {
                let (backend, stuck) = (report.backend.as_str(), report.stuck);
                tracing::warn!(backend, stuck, error = report.error, "a drain cannot move everything");
            }
            (note.stuck, note.error) = (report.stuck, report.error.clone());
            if report.finished {
                tracing::info!(backend = report.backend.as_str(), "drained: nothing is left on it");
            }
        }
    }

    /// Who works on drains: only there it is known what could not be moved. None: nobody at the moment.
    async fn drain_worker(&self) -> Result<Option<Incarnation>, Failure> {
        if !self.tenure.has_lease() {
            return Ok(Some(self.tenure.incarnation()));
        }
        let service = Service::Drain.as_str().to_owned();
        match self.metadata.query(Query::ServiceHolder { service }).await? {
            Answer::ServiceHolder(holder) => Ok(holder),
            other => Err(Failure::ourselves(format!("a job's holder was answered with {other:?}"))),
        }
    }

    fn drain_note(&self, backend: &str) -> DrainNote {
        self.drains.lock().unwrap_or_else(PoisonError::into_inner).get(backend).cloned().unwrap_or_default()
    }

    fn forget_drain(&self, backend: &str) {
        self.drains.lock().unwrap_or_else(PoisonError::into_inner).remove(backend);
    }

    /// 128 bits that nobody can guess.
    fn roll_token(&self) -> Result<String, Failure> {
        let mut bytes = [0; 16];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Failure::ourselves("the system has no random numbers"))?;
        Ok(data_encoding::HEXLOWER.encode(&bytes))
    }

    fn keep_preview(&self, preview: backends::Preview) {
        let now = (self.now)().millis;
        let mut previews = self.previews.lock().unwrap_or_else(PoisonError::into_inner);
        previews.retain(|one| one.is_valid_at(now));
        previews.push(preview);
    }

    /// Each confirms once.
    fn take_preview(&self, is_it: impl Fn(&backends::Preview) -> bool) -> bool {
        let now = (self.now)().millis;
        let mut previews = self.previews.lock().unwrap_or_else(PoisonError::into_inner);
        previews.retain(|one| one.is_valid_at(now));
        let place = previews.iter().position(is_it);
        place.map(|place| previews.swap_remove(place)).is_some()
    }

    pub fn set_replication_pending(&self, pending: u64) {
        self.replication_pending.store(pending, Ordering::Relaxed);
    }

    /// Borrows from the backends' budgets, and tells what was spent of them. Cancel: NOT safe.
    pub async fn lend(&self, occasion: Occasion) -> Result<(), Failure> {
        let mut lender = self.lender.lock().await;
        if !lender.has_work() {
            return Ok(());
        }
        let Some(incarnation) = self.counts_as() else {
            lender.answer_nobody();
            return Err(unregistered());
        };
        lender.run(&self.metadata, incarnation, occasion, (monotonic(), (self.now)()), || self.used_this_month()).await
    }

    /// How long usage may wait to be written.
    pub async fn usage_interval(&self) -> Duration {
        let flush = *self.usage_flush.lock().unwrap_or_else(PoisonError::into_inner);
        let lender = self.lender.lock().await;
        let interval = match flush.adaptive_per_mille {
            Some(per_mille) if lender.is_near(|used, limit| is_near(used, limit, per_mille)) => flush.fast_interval,
            _ => flush.interval,
        };
        if lender.has_work() { interval.min(TELL_WITHIN) } else { interval }
    }

    pub(super) async fn lender(&self) -> tokio::sync::MutexGuard<'_, Lender> {
        self.lender.lock().await
    }

    /// As last read; the cores have it in their registry.
    pub(super) fn replication(&self) -> Replication {
        *self.replication.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_replication(&self, replication: Replication) {
        *self.replication.lock().unwrap_or_else(PoisonError::into_inner) = replication;
    }

    pub(super) fn set_usage_flush(&self, flush: UsageFlush) {
        *self.usage_flush.lock().unwrap_or_else(PoisonError::into_inner) = flush;
    }

    /// By this instance, of the backends in the view's order.
    pub(super) fn used_this_month(&self) -> Vec<Usage> {
        self.book().this_month((self.now)()).1
    }

    /// Under which number this run counts what it uses, to its end: the first that the database gave it, whatever it was
    /// given later, since its counters go on. None before.
    fn counts_as(&self) -> Option<Incarnation> {
        self.readiness.database.registered().map(|registered| registered.incarnation)
    }

    fn book(&self) -> MutexGuard<'_, UsageBook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this instance has used of the backends this month. None while the database has not given it a number.
    pub fn own_usage(&self) -> Option<OwnUsage> {
        let incarnation = self.counts_as()?;
        let (period, used) = self.book().this_month((self.now)());
        let backends = self.view.backends.iter().map(|one| one.name.clone()).zip(used).collect();
        Some(OwnUsage { incarnation, period, backends })
    }

    /// Writes this instance's usage to the database.
    pub async fn flush_usage(&self) -> Result<(), Failure> {
        let incarnation = self.counts_as().ok_or_else(unregistered)?;
        let months = self.book().untold((self.now)());
        for (period, used) in months {
            let backends = self.view.backends.iter().map(|one| one.name.clone()).zip(used).collect();
            // There is nothing that a record of usage could be refused for.
            let _ = self.metadata.step(RecordUsage { incarnation, period: period.clone(), backends }).await?;
            self.book().told(&period);
        }
        Ok(())
    }

    /// The backends as the database has them now, usage included: in the configuration's order, then those that only rows
    /// name.
    async fn backends(&self) -> Result<Vec<BackendStatus>, Failure> {
        self.flush_usage().await?;
        match self.metadata.query(Query::Status { period: date::month((self.now)()) }).await? {
            Answer::Status(mut backends) => {
                let place = |name: &str| self.view.backends.iter().position(|one| one.name.as_str() == name);
                // Of a removed one, an upload that has ended may name it for a day.
                let empty = BackendStatus::default();
                backends.retain(|one| {
                    let nothing = BackendStatus {
                        name: one.name.clone(),
                        bytes_limit: one.bytes_limit,
                        usage: one.usage,
                        ..empty.clone()
                    };
                    let facts = empty.facts;
                    let unmarked = BackendStatus { draining: false, drained: false, facts, ..one.clone() };
                    place(&one.name).is_some() || unmarked != nothing
                });
                backends.sort_by_key(|one| place(&one.name).unwrap_or(usize::MAX));
                self.refresh_usage(&mut backends).await?;
                Ok(backends)
            }
            other => Err(Failure::ourselves(format!("a status was answered with {other:?}"))),
        }
    }

    fn circuits(&self) -> Vec<&Circuit> {
        let redis = self.redis.as_ref().map(|redis| &redis.circuit);
        std::iter::once(&self.readiness.database.circuit).chain(self.standing.circuits()).chain(redis).collect()
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
    async fn budgets(self: &Arc<Self>) -> Result<Vec<BudgetLine>, Failure> {
        let mut lines: Vec<BudgetLine> = Vec::new();
        if !self.lender.lock().await.has_work() {
            return Ok(lines);
        }
        // To its end, though whoever asks may hang up: calls wait for what it borrows.
        let lending = Arc::clone(self);
        let lent = tokio::spawn(async move { lending.lend(Occasion::Regular).await });
        lent.await.map_err(|_| Failure::ourselves("the lender broke off"))??;
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
                limit: counter.limit(),
            });
        }
        Ok(lines)
    }

    /// None where breakers are off.
    fn breaker(&self, index: usize) -> Option<&'static str> {
        self.standing.circuit(index).map(|circuit| circuit.state().as_str())
    }

    fn usable(&self, name: &str) -> bool {
        self.view.backends.iter().position(|one| one.name.as_str() == name).is_some_and(|i| self.standing.usable(i))
    }
}

fn unregistered() -> Failure {
    Failure::metadata("the database has not answered since the start")
}

pub fn router(operations: Arc<Operations>, token: Option<Secret>, with_metrics: bool) -> Router {
    let mut guarded = Router::new().route("/admin/api/status", get(status::status));
    guarded = guarded.merge(cleanup::routes()).merge(backends::routes()).merge(sync::routes());
    if with_metrics {
        guarded = guarded.route(&operations.view.metrics.path, get(metrics_text));
    }
    if let Some(token) = token {
        let token = Arc::new(token);
        guarded = guarded.layer(middleware::from_fn(move |request: Request, next: Next| {
            let token = Arc::clone(&token);
            async move { require_token(&token, request, next).await }
        }));
    } else {
        guarded = guarded.layer(middleware::from_fn(refuse_pages));
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

/// What could not be asked of the database, or went wrong here.
fn fault(failure: &Failure) -> Response {
    tracing::warn!(%failure, "an administrator's request failed");
    refusal(StatusCode::SERVICE_UNAVAILABLE, &failure.to_string())
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

/// Without a token only this machine may ask, but a page that a browser on it shows must not.
async fn refuse_pages(request: Request, next: Next) -> Response {
    if request.headers().contains_key(header::ORIGIN) {
        return refusal(StatusCode::FORBIDDEN, "pages of other origins may not ask: configure admin.token");
    }
    next.run(request).await
}

async fn nothing_here() -> Response {
    refusal(StatusCode::NOT_FOUND, "not found")
}

async fn health(State(operations): State<Arc<Operations>>) -> Json<serde_json::Value> {
    let status = if operations.readiness.is_degraded() { "degraded" } else { "ok" };
    Json(serde_json::json!({ "status": status }))
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
                draining: one.draining && !one.drained,
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
        circuits: &operations.circuits(),
        redis: redis.map(|redis| &redis.cells),
        redis_healthy: redis.is_some_and(SharedCounters::is_answering),
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

#[cfg(test)]
mod tests;
