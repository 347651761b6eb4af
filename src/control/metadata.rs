//! The metadata thread, which owns the desk and the database, and the control core's way to it.

use crate::base::{Clock, Failure};
use crate::base::{Tick, Timestamp};
use crate::config::View;
use crate::observe::cells::DeskCells;
use crate::policy::breaker::BreakerSettings;
use crate::reactor::clock::CoreClock;
use crate::reactor::dice::CoreDice;
use crate::reactor::mailbox::{Desk as CoreDesk, Letter, Replier};
use crate::store::board::Board;
use crate::store::database_state::DatabaseState;
use crate::store::desk::{Ask, Call, Desk, DeskLimits, Locations, Reply, ReplyTo};
use crate::store::port::{Answer, Change, Metadata, MetadataStore, Outcome, Query};
use anyhow::Context;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// The way back to a caller, on a reactor or on the control core.
enum WayBack {
    Core(Replier<Reply>),
    Control(oneshot::Sender<Reply>),
}

impl ReplyTo for WayBack {
    fn send(self, reply: Reply) -> Result<(), Reply> {
        match self {
            Self::Core(replier) => ReplyTo::send(replier, reply),
            Self::Control(sender) => sender.send(reply),
        }
    }
}

/// The control core's metadata. Any number of clones.
#[derive(Clone)]
pub struct ControlMetadata {
    send: flume::Sender<Call<WayBack>>,
}

impl ControlMetadata {
    async fn ask(&self, ask: Ask) -> Result<Reply, Failure> {
        let (reply, answer) = oneshot::channel();
        let lost = || Failure::metadata("the metadata thread is gone");
        let call = Call { ask, reply: WayBack::Control(reply) };
        self.send.send_async(call).await.map_err(|_| lost())?;
        answer.await.map_err(|_| lost())
    }
}

/// A way to a desk that the caller plays.
#[cfg(test)]
pub(super) fn played() -> (ControlMetadata, flume::Receiver<Call<impl ReplyTo>>) {
    let (send, calls) = flume::unbounded::<Call<WayBack>>();
    (ControlMetadata { send }, calls)
}

impl Metadata for ControlMetadata {
    async fn query(&self, query: Query) -> Result<Answer, Failure> {
        match self.ask(Ask::Query(query)).await? {
            Reply::Query(answer) => answer,
            Reply::Change(other) => Err(Failure::ourselves(format!("a query was answered with {other:?}"))),
        }
    }

    async fn change(&self, change: Change) -> Result<Outcome, Failure> {
        match self.ask(Ask::Change(change)).await? {
            Reply::Change(outcome) => outcome,
            Reply::Query(other) => Err(Failure::ourselves(format!("a change was answered with {other:?}"))),
        }
    }
}

/// The thread's clock: the system's, with tokio's timer.
#[derive(Debug, Default)]
struct DeskClock(CoreClock);

impl Clock for DeskClock {
    fn tick(&self) -> Tick {
        self.0.tick()
    }

    fn now(&self) -> Timestamp {
        self.0.now()
    }

    async fn sleep(&self, wait: Duration) {
        tokio::time::sleep(wait).await;
    }
}

/// What the thread is made of.
pub struct Parts<S> {
    pub store: S,
    pub locations: Locations,
    pub board: Arc<Board>,
    pub view: Arc<View>,
    /// Where the cores' calls arrive.
    pub cores: CoreDesk<Ask, Reply>,
}

/// Calls on their way to the desk: every core's mailbox bounds its own.
const CALLS_WAITING_MAX: usize = 64 * 1024;

/// The way to the desk, its metrics, and what it tells everybody of the database.
pub type Spawned = (ControlMetadata, Arc<DeskCells>, Arc<DatabaseState>);

/// Starts the metadata thread.
pub fn spawn<S: MetadataStore + Send + 'static>(parts: Parts<S>) -> anyhow::Result<Spawned> {
    let (send, inbox) = flume::bounded(CALLS_WAITING_MAX);
    let dice = CoreDice::from_system().context("the system's random numbers")?;
    let (answer_within, breaker) = (parts.view.database.call_timeout, parts.view.circuit_breaker.breaker);
    let breaker = BreakerSettings {
        failure_threshold: breaker.failure_threshold,
        open_timeout: breaker.open_timeout,
        // The desk ends its probes itself.
        probe_max: answer_within.saturating_mul(2),
    };
    let limits = DeskLimits { answer_within, breaker, ..DeskLimits::default() };
    let (cells_in, cells) = flume::bounded(1);
    let forward = send.clone();
    std::thread::Builder::new()
        .name("metadata".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("the metadata thread's runtime can be built: its parts were used before");
            let desk = Desk::new(parts.store, DeskClock::default(), dice, limits, parts.locations);
            desk.show_on(parts.board, parts.view.backends.iter().map(|one| one.name.clone()).collect());
            let _ = cells_in.send((desk.cells(), desk.state()));
            runtime.block_on(async {
                tokio::join!(desk.run(inbox), pass_on(parts.cores, forward));
            });
        })
        .context("the metadata thread")?;
    let (cells, state) = cells.recv().context("the metadata thread ended at its start")?;
    Ok((ControlMetadata { send }, cells, state))
}

/// Hands the cores' calls to the desk.
async fn pass_on(cores: CoreDesk<Ask, Reply>, desk: flume::Sender<Call<WayBack>>) {
    while let Some(Letter { request, replier }) = cores.next().await {
        if desk.send_async(Call { ask: request, reply: WayBack::Core(replier) }).await.is_err() {
            return;
        }
    }
}
