//! Which backends drain, as other instances were told: this one's cores place and count copies by it. The store would
//! refuse what they got wrong, but only after they had tried.

use super::admin::Operations;
use crate::base::BackendName;
use crate::store::port::{Answer, Metadata, Query};
use std::sync::Arc;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Runs as long as the control core, where other instances may have been asked to drain a backend.
pub async fn follow(operations: Arc<Operations>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // Without an answer, what was known before goes on being so.
        if let Ok(Answer::Status(status)) = operations.metadata.query(Query::Status { period: String::new() }).await {
            for one in status {
                if let Some(index) = operations.view.backend_index(&BackendName::new(&one.name)) {
                    operations.standing.set_draining(index, one.draining);
                }
            }
        }
    }
}
