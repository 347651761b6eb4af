//! How things are, for operators: the database, each backend, the budgets, the cores. Without the database what is known here,
//! marked as such.

use super::Operations;
use crate::base::BackendName;
use crate::observe::cells::CoreCells;
use crate::proto::date;
use crate::store::port::{Answer, BackendStatus, Metadata, Query};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::Arc;

#[derive(Serialize)]
struct Status {
    version: &'static str,
    db_healthy: bool,
    /// Restored from a backup: nothing is deleted until `sync` has run.
    restored: bool,
    usage_period: String,
    backends: Vec<BackendLine>,
    budgets: Vec<BudgetLine>,
    reactors: Vec<ReactorLine>,
}

/// What only the database knows is null while it does not answer.
#[derive(Serialize)]
pub(super) struct BackendLine {
    name: String,
    /// The database does not answer: what it said last.
    last_known: bool,
    healthy: bool,
    /// Null where breakers are off, and of a backend that only rows name.
    breaker: Option<&'static str>,
    draining: bool,
    drained: Option<bool>,
    /// Used, reserved, and waiting for their deletion. Null: the database has not answered since the start.
    bytes_charged: Option<u64>,
    bytes_used: Option<u64>,
    bytes_reserved: Option<u64>,
    orphan_bytes: Option<u64>,
    bytes_limit: u64,
    object_count: Option<u64>,
    cleanup_queue: Option<u64>,
    cleanup_dlq: Option<u64>,
    api_requests: Option<u64>,
    egress_bytes: Option<u64>,
    ingress_bytes: Option<u64>,
}

/// One monthly budget of a backend, over all instances.
#[derive(Serialize)]
pub(super) struct BudgetLine {
    pub backend: String,
    pub counter: String,
    pub used: u64,
    /// Lent to instances: spent, or theirs to spend; what a dead one left counts as spent.
    pub lent: u64,
    /// 0 = unlimited.
    pub limit: u64,
}

#[derive(Serialize)]
struct ReactorLine {
    core: String,
    connections: u64,
    requests: u64,
}

pub async fn status(State(operations): State<Arc<Operations>>) -> Response {
    let backends = operations.backends().await;
    if let Err(failure) = &backends {
        tracing::warn!(%failure, "status without the database");
    }
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        db_healthy: backends.is_ok(),
        restored: matches!(operations.metadata.query(Query::Restored).await, Ok(Answer::Restored(true))),
        usage_period: date::month((operations.now)()),
        budgets: operations.budgets().await.unwrap_or_default(),
        backends: match backends {
            Ok(backends) => backends.into_iter().map(|one| backend_line(&operations, one)).collect(),
            Err(_) => (0..operations.view.backends.len()).map(|index| last_known(&operations, index)).collect(),
        },
        reactors: operations.cores.iter().map(|core| reactor_line(core)).filter(|line| line.core != "mover").collect(),
    };
    Json(status).into_response()
}

fn backend_line(operations: &Operations, one: BackendStatus) -> BackendLine {
    BackendLine {
        last_known: false,
        healthy: operations.usable(&one.name),
        breaker: operations.view.backend_index(&BackendName::new(&one.name)).and_then(|i| operations.breaker(i)),
        name: one.name,
        draining: one.draining,
        drained: Some(one.drained),
        bytes_charged: Some(one.bytes_used + one.bytes_reserved + one.orphan_bytes),
        bytes_used: Some(one.bytes_used),
        bytes_reserved: Some(one.bytes_reserved),
        orphan_bytes: Some(one.orphan_bytes),
        bytes_limit: one.bytes_limit,
        object_count: Some(one.object_count),
        cleanup_queue: Some(one.cleanup_depth),
        cleanup_dlq: Some(one.dlq_depth),
        api_requests: Some(one.usage.api_requests),
        egress_bytes: Some(one.usage.egress_bytes),
        ingress_bytes: Some(one.usage.ingress_bytes),
    }
}

/// Of a backend of the configuration, without the database.
pub(super) fn last_known(operations: &Operations, index: usize) -> BackendLine {
    let was_told = operations.readiness.database.registered().is_some();
    BackendLine {
        name: operations.view.backends[index].name.as_str().to_owned(),
        last_known: true,
        healthy: operations.standing.usable(index),
        breaker: operations.breaker(index),
        draining: operations.standing.draining(index),
        drained: None,
        bytes_charged: was_told.then(|| operations.board.charged_bytes(index)),
        bytes_used: None,
        bytes_reserved: None,
        orphan_bytes: None,
        bytes_limit: operations.board.limit_bytes(index),
        object_count: None,
        cleanup_queue: None,
        cleanup_dlq: None,
        api_requests: None,
        egress_bytes: None,
        ingress_bytes: None,
    }
}

fn reactor_line(core: &CoreCells) -> ReactorLine {
    ReactorLine { core: core.core.clone(), connections: core.connections_open.value(), requests: core.requests_total() }
}
