//! Dead letters and the cleanup queue: listed, tried again, written off. One transaction per copy.

use super::{Operations, fault, refusal};
use crate::base::{BackendName, BlobId, Timestamp};
use crate::handlers::concurrent;
use crate::proto::date;
use crate::store::port::{Answer, BackendStatus, CleanupRow, Metadata, Query, Refusal, Requeue, UNCLEAR, WriteOff};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Rows that one answer lists, unless it is asked for fewer or more, and at most.
const LISTED: u32 = 50;
const LISTED_MAX: u32 = 1000;
/// Dead letters that are requeued at once: they share transactions.
const REQUEUED_AT_ONCE: usize = 64;

pub fn routes() -> Router<Arc<Operations>> {
    Router::new()
        .route("/admin/api/cleanup-queue", get(queue))
        .route("/admin/api/cleanup-dlq", get(dead_letters))
        .route("/admin/api/cleanup-dlq/requeue", post(requeue))
        .route("/admin/api/cleanup-dlq/{id}", delete(write_off))
}

#[derive(Deserialize)]
struct Filter {
    backend: Option<String>,
    limit: Option<u32>,
    id: Option<i64>,
}

#[derive(Serialize)]
struct Item {
    id: i64,
    backend_name: String,
    /// Bucket and key of the object that it was a copy of.
    object_key: String,
    /// The exact name of the bytes on the backend.
    storage_key: String,
    reason: String,
    attempts: u32,
    size_bytes: u64,
    first_enqueued_at: String,
    /// Of the queue: when it is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_retry: Option<String>,
    /// Of the dead letters: since when it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    moved_at: Option<String>,
    last_error: String,
}

impl Item {
    fn of(row: CleanupRow, dead: bool) -> Self {
        let time = |at: Timestamp| date::iso8601(at).as_str().to_owned();
        Self {
            id: row.blob.id.0,
            backend_name: row.blob.backend.as_str().to_owned(),
            object_key: format!("{}/{}", row.bucket.as_str(), row.key.as_str()),
            storage_key: row.blob.name,
            reason: row.reason,
            attempts: row.attempts,
            size_bytes: row.bytes,
            first_enqueued_at: time(row.since),
            next_retry: (!dead).then(|| time(row.not_before)),
            moved_at: dead.then(|| time(row.not_before)),
            last_error: row.last_error,
        }
    }
}

async fn queue(State(operations): State<Arc<Operations>>, filter: axum::extract::Query<Filter>) -> Response {
    list(&operations, &filter, false).await
}

async fn dead_letters(State(operations): State<Arc<Operations>>, filter: axum::extract::Query<Filter>) -> Response {
    list(&operations, &filter, true).await
}

/// `depth` counts all of them, `items` are one page.
async fn list(operations: &Operations, filter: &Filter, dead: bool) -> Response {
    let depth: u64 = match asked_of(operations, filter).await {
        Err(response) => return response,
        Ok(backends) => backends.iter().map(|one| if dead { one.dlq_depth } else { one.cleanup_depth }).sum(),
    };
    let max = filter.limit.unwrap_or(LISTED).min(LISTED_MAX);
    match page(operations, filter, dead, BlobId(0), max).await {
        Ok(rows) => {
            let items: Vec<Item> = rows.into_iter().map(|row| Item::of(row, dead)).collect();
            Json(serde_json::json!({ "depth": depth, "items": items })).into_response()
        }
        Err(failure) => fault(&failure),
    }
}

/// The backends that the filter lets through; one that nobody knows is refused, so that a slip of the pen does not look like
/// nothing to do.
async fn asked_of(operations: &Operations, filter: &Filter) -> Result<Vec<BackendStatus>, Response> {
    let mut backends = operations.backends().await.map_err(|failure| fault(&failure))?;
    backends.retain(|one| filter.backend.as_ref().is_none_or(|name| *name == one.name));
    if backends.is_empty() { Err(unknown_backend()) } else { Ok(backends) }
}

async fn page(
    operations: &Operations,
    filter: &Filter,
    dead: bool,
    after: BlobId,
    max: u32,
) -> Result<Vec<CleanupRow>, crate::base::Failure> {
    let backend = filter.backend.as_deref().map(BackendName::new);
    match operations.metadata.query(Query::Cleanups { dead, backend, after, max }).await? {
        Answer::Cleanups(rows) => Ok(rows),
        other => Err(crate::base::Failure::ourselves(format!("a page was answered with {other:?}"))),
    }
}

/// One by its id, or all of those that are dead now, but for what may be a client's newest: that is deleted only by its id.
async fn requeue(State(operations): State<Arc<Operations>>, filter: axum::extract::Query<Filter>) -> Response {
    let requeued = match filter.id {
        Some(id) => match operations.metadata.step(Requeue { blob: BlobId(id) }).await {
            Ok(Ok(_)) => 1,
            Ok(Err(_)) => return no_dead_letter(id),
            Err(failure) => return fault(&failure),
        },
        None => {
            if let Err(response) = asked_of(&operations, &filter).await {
                return response;
            }
            match requeue_all(&operations, &filter).await {
                Ok(requeued) => requeued,
                Err(failure) => return fault(&failure),
            }
        }
    };
    operations.wake_cleanup();
    tracing::info!(requeued, backend = filter.backend, "dead letters are tried again");
    Json(serde_json::json!({ "requeued": requeued })).into_response()
}

async fn requeue_all(operations: &Operations, filter: &Filter) -> Result<u64, crate::base::Failure> {
    let (mut after, mut requeued, mut failed) = (BlobId(0), 0, None);
    loop {
        let rows = page(operations, filter, true, after, LISTED_MAX).await?;
        let Some(last) = rows.last() else { return Ok(requeued) };
        after = last.blob.id;
        let failed_to_go = rows.iter().filter(|row| row.reason != UNCLEAR);
        let steps: Vec<_> = failed_to_go.map(|row| operations.metadata.step(Requeue { blob: row.blob.id })).collect();
        concurrent::each(REQUEUED_AT_ONCE, steps, |_, outcome| match outcome {
            Ok(Ok(_)) => requeued += 1,
            Ok(Err(_)) => {} // somebody else did, or wrote it off
            Err(failure) => failed = Some(failure),
        })
        .await;
        if let Some(failure) = failed {
            return Err(failure);
        }
    }
}

async fn write_off(State(operations): State<Arc<Operations>>, Path(id): Path<i64>) -> Response {
    match operations.metadata.step(WriteOff { blob: BlobId(id) }).await {
        Ok(Ok(_)) => {
            tracing::warn!(id, "a dead letter was written off: its bytes are not charged any more");
            Json(serde_json::json!({ "status": "written off" })).into_response()
        }
        Ok(Err(Refusal::Lost)) => no_dead_letter(id),
        Ok(Err(other)) => refusal(StatusCode::CONFLICT, &format!("refused: {other:?}")),
        Err(failure) => fault(&failure),
    }
}

fn no_dead_letter(id: i64) -> Response {
    refusal(StatusCode::NOT_FOUND, &format!("{id} is no dead letter: see cleanup-dlq for those that are"))
}

fn unknown_backend() -> Response {
    refusal(StatusCode::BAD_REQUEST, "no backend of that name is known")
}
