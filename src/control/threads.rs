//! Threads that say whether they could start: reactors and the mover.

use crate::reactor::driver::DriverKind;
use anyhow::{Context, bail};
use std::time::Duration;

/// A thread that has not started after this long never will.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// Starts a thread and waits until it says that it runs.
pub(super) async fn start_thread<F>(
    name: String,
    body: impl FnOnce(flume::Sender<Result<DriverKind, String>>) -> F,
) -> anyhow::Result<()>
where
    F: FnOnce() + Send + 'static,
{
    let (started, starts) = flume::bounded(1);
    std::thread::Builder::new().name(name.clone()).spawn(body(started)).with_context(|| format!("thread {name}"))?;
    match tokio::time::timeout(START_PATIENCE, starts.recv_async()).await {
        Ok(Ok(Ok(_))) => Ok(()),
        Ok(Ok(Err(cause))) => bail!("{name} could not start: {cause}"),
        Ok(Err(_)) => bail!("{name} ended at its start"),
        Err(_) => bail!("{name} did not start within {START_PATIENCE:?}"),
    }
}
