//! `sync` on a running server: the mover compares, the answer is a stream of what it finds, a line of JSON each.

use super::{Operations, refusal};
use crate::base::{BackendName, BucketName};
use crate::reactor::jobs::SyncOrder;
use crate::workers::sync::{Event, Plan};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures_util::StreamExt;
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;

pub fn routes() -> Router<Arc<Operations>> {
    Router::new().route("/admin/api/backends/{name}/sync", post(one)).route("/admin/api/sync", post(restored))
}

#[derive(Deserialize)]
struct Asked {
    bucket: Option<String>,
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    restored: bool,
}

async fn one(
    State(operations): State<Arc<Operations>>,
    Path(name): Path<String>,
    asked: axum::extract::Query<Asked>,
) -> Response {
    let backend = BackendName::new(&name);
    if operations.view.backend_index(&backend).is_none() {
        return refusal(StatusCode::NOT_FOUND, &format!("no backend of the configuration is called {name}"));
    }
    let Some(bucket) = asked.bucket.as_deref().and_then(BucketName::parse) else {
        return refusal(StatusCode::BAD_REQUEST, "say which bucket");
    };
    let prefix = asked.prefix.clone();
    run(
        &operations,
        Plan { backends: vec![backend], bucket: Some(bucket), prefix, dry_run: asked.dry_run, restored: false },
    )
}

/// Every backend, after the database was restored from a backup.
async fn restored(State(operations): State<Arc<Operations>>, asked: axum::extract::Query<Asked>) -> Response {
    if !asked.restored {
        return refusal(StatusCode::BAD_REQUEST, "say restored=true, or which backend");
    }
    run(&operations, Plan::after_restore(&operations.view, asked.dry_run))
}

fn run(operations: &Operations, plan: Plan) -> Response {
    if operations.readiness.is_degraded() {
        // It would wait, and begin when nobody expects it any more: one after a restore holds all deletes.
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "the database does not answer");
    }
    let (events, told) = flume::unbounded();
    if !operations.order(SyncOrder { plan, events }) {
        return refusal(StatusCode::CONFLICT, "other comparisons are under way: wait for their end");
    }
    let lines = told.into_stream().map(|event: Event| {
        let mut line = serde_json::to_vec(&event).expect("an event is plain JSON");
        line.push(b'\n');
        Ok::<_, Infallible>(line)
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}
