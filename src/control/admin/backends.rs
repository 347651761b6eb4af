//! Drains and removals of backends. What they mean is in the database, so that they survive restarts; the mover does the
//! work of a drain (workers/drain.rs), a removal is transactions only (workers/remove.rs).

use super::{Operations, fault, refusal};
use crate::base::{BackendName, Failure};
use crate::store::port::{Answer, BackendStatus, Metadata, Query, SetDraining};
use crate::workers::remove;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, post};
use axum::{Json, Router};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// How long a removal may be confirmed after its preview.
const CONFIRM_WITHIN: Duration = Duration::from_secs(60);

/// A removal that was shown and not done yet.
#[derive(Debug)]
pub struct Preview {
    token: String,
    backend: BackendName,
    purge: bool,
    until_millis: i64,
}

pub fn routes() -> Router<Arc<Operations>> {
    Router::new()
        .route("/admin/api/backends/{name}/drain", post(drain).get(drain_status).delete(drain_cancel))
        .route("/admin/api/backends/{name}", delete(remove))
}

async fn known(operations: &Operations, name: &str) -> Result<BackendStatus, Response> {
    let backends = operations.backends().await.map_err(|failure| fault(&failure))?;
    let unknown = || refusal(StatusCode::NOT_FOUND, &format!("no backend is called {name}"));
    backends.into_iter().find(|one| one.name == name).ok_or_else(unknown)
}

async fn set_draining(operations: &Operations, name: &str, draining: bool) -> Result<(), Response> {
    let backend = BackendName::new(name);
    match operations.metadata.step(SetDraining { backend: backend.clone(), draining }).await {
        Ok(Ok(_)) => {
            if let Some(index) = operations.view.backend_index(&backend) {
                operations.standing.set_draining(index, draining);
            }
            Ok(())
        }
        Ok(Err(_)) => Err(refusal(StatusCode::NOT_FOUND, &format!("no backend is called {name}"))),
        Err(failure) => Err(fault(&failure)),
    }
}

async fn drain(State(operations): State<Arc<Operations>>, Path(name): Path<String>) -> Response {
    if let Err(response) = known(&operations, &name).await {
        return response;
    }
    if operations.view.backend_index(&BackendName::new(&name)).is_none() {
        let text = format!("{name} is not in the configuration, so nothing can be read from it: use remove-backend");
        return refusal(StatusCode::BAD_REQUEST, &text);
    }
    if let Err(response) = set_draining(&operations, &name, true).await {
        return response;
    }
    tracing::info!(backend = name, "drain started");
    operations.wake_drain();
    (StatusCode::ACCEPTED, Json(serde_json::json!({ "status": "started" }))).into_response()
}

async fn drain_cancel(State(operations): State<Arc<Operations>>, Path(name): Path<String>) -> Response {
    match set_draining(&operations, &name, false).await {
        Ok(()) => {
            tracing::info!(backend = name, "drain cancelled");
            operations.forget_drain(&name);
            Json(serde_json::json!({ "status": "cancelled" })).into_response()
        }
        Err(response) => response,
    }
}

async fn drain_status(State(operations): State<Arc<Operations>>, Path(name): Path<String>) -> Response {
    let status = match known(&operations, &name).await {
        Ok(status) => status,
        Err(response) => return response,
    };
    let worker = match operations.drain_worker().await {
        Ok(worker) => worker,
        Err(failure) => return fault(&failure),
    };
    let (own, told) = (operations.tenure.incarnation(), operations.drain_note(&name));
    let is_worker = worker == Some(own);
    let state = match (status.drained, status.draining) {
        (true, _) => "drained",
        (false, true) => "draining",
        (false, false) => "not draining",
    };
    let mut answer = serde_json::json!({
        "status": state,
        "active": status.draining && !status.drained,
        "objects_remaining": status.object_count,
        "bytes_remaining": status.bytes_used,
        "objects_moved": told.moved,
        "bytes_moved": told.moved_bytes,
        "objects_stuck": is_worker.then(|| told.stuck.min(status.object_count)),
        "uploads_open": status.active_uploads,
        "cleanup_queue": status.cleanup_depth,
        "cleanup_dlq": status.dlq_depth,
        // What was moved and what is stuck is known where the work is done: by this run, and by whom now.
        "told_by": own.0,
        "worked_by": worker.map(|worker| worker.0),
    });
    if let Some(error) = told.error.filter(|_| is_worker && status.object_count > 0) {
        answer["error"] = error.into();
    }
    Json(answer).into_response()
}

#[derive(Deserialize)]
struct Removal {
    #[serde(default)]
    purge: bool,
    confirm: Option<String>,
}

/// Without a token it only tells what it would do, and gives one.
async fn remove(
    State(operations): State<Arc<Operations>>,
    Path(name): Path<String>,
    removal: axum::extract::Query<Removal>,
) -> Response {
    let status = match known(&operations, &name).await {
        Ok(status) => status,
        Err(response) => return response,
    };
    let backend = BackendName::new(&name);
    let Some(token) = &removal.confirm else {
        return preview(&operations, &backend, &status, removal.purge).await;
    };
    if !operations.take_preview(|one| one.token == *token && one.backend == backend && one.purge == removal.purge) {
        let text = "this token confirms nothing (any more): ask without one, and confirm within a minute";
        return refusal(StatusCode::FORBIDDEN, text);
    }
    if let Err(response) = set_draining(&operations, &name, true).await {
        return response;
    }
    // It goes on if the client goes away.
    let working = Arc::clone(&operations);
    let purge = removal.purge;
    match tokio::spawn(async move { remove::forget_all(&working.metadata, &backend, purge).await }).await {
        Ok(Ok(done)) if done.cancelled => {
            let (copies, lost) = (done.copies, done.objects_lost);
            tracing::warn!(backend = name, purge, copies, lost, "a removal was cancelled");
            operations.wake_cleanup();
            let text = format!(
                "the drain of {name} was cancelled meanwhile: it is in use and not removed; {copies} copies were forgotten before \
                 that, {lost} objects lost"
            );
            refusal(StatusCode::CONFLICT, &text)
        }
        Ok(Ok(done)) => {
            tracing::warn!(backend = name, purge, copies = done.copies, lost = done.objects_lost, "backend removed");
            operations.wake_cleanup();
            operations.wake_drain();
            let status = if purge { "backend purged" } else { "backend removed" };
            let answer =
                serde_json::json!({ "status": status, "copies": done.copies, "objects_lost": done.objects_lost });
            Json(answer).into_response()
        }
        Ok(Err(failure)) => fault(&failure),
        Err(cause) => fault(&Failure::ourselves(format!("the removal broke off: {cause}"))),
    }
}

async fn preview(operations: &Operations, backend: &BackendName, status: &BackendStatus, purge: bool) -> Response {
    let others = match operations.backends().await {
        Ok(backends) => backends,
        Err(failure) => return fault(&failure),
    };
    let counted = others.iter().filter(|one| one.name != backend.as_str()).map(|one| BackendName::new(&one.name));
    let alone = Query::UnderReplicatedCount { factor: 1, counted: counted.collect(), max: u64::MAX };
    let lost = match operations.metadata.query(alone).await {
        Ok(Answer::Count(lost)) => lost,
        Ok(other) => return fault(&Failure::ourselves(format!("a count was answered with {other:?}"))),
        Err(failure) => return fault(&failure),
    };
    let token = match operations.roll_token() {
        Ok(token) => token,
        Err(failure) => return fault(&failure),
    };
    let until_millis = (operations.now)().plus(CONFIRM_WITHIN).millis;
    operations.keep_preview(Preview { token: token.clone(), backend: backend.clone(), purge, until_millis });
    let answer = serde_json::json!({
        "status": "confirmation required",
        "object_count": status.object_count,
        "total_bytes": status.bytes_used + status.bytes_reserved + status.orphan_bytes,
        "objects_lost": lost,
        "uploads_open": status.active_uploads,
        "confirm_token": token,
        "expires_in": CONFIRM_WITHIN.as_secs(),
    });
    Json(answer).into_response()
}

impl Preview {
    pub fn is_valid_at(&self, now_millis: i64) -> bool {
        now_millis < self.until_millis
    }
}
