//! A reactor thread from its start to its end: runtime, core, ports, listener. The mover is the same without a listener.

use super::accept::{AcceptLimits, accept_loop};
use super::affinity;
use super::backends::{BackendParts, CoreBackends};
use super::connection;
use super::core::{Core, CoreLimits};
use super::driver::{self, DriverChoice};
use super::mailbox::{Mailbox, Postbox};
use super::metadata::CoreMetadata;
use super::ports::{CorePorts, Shared};
use super::publication::Publication;
use super::readiness::Readiness;
use super::site::Site;
use super::task::{self, ThreadGuard};
use super::tls::ServerTls;
use crate::backend::health::Health;
use crate::base::Clock;
use crate::observe::audit::AuditLog;
use crate::observe::cells::CoreCells;
use crate::store::desk::{Ask, Reply};
use crate::store::location_cache::{LocationCache, Trust};
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Calls to the metadata that one core may have under way; more are answered 503 SlowDown.
const METADATA_CALLS_MAX: usize = 4096;
/// How often a reactor looks whether it is to stop, hands its audit lines over, and says that it lives.
const HOUSEKEEPING: Duration = Duration::from_millis(50);
/// Connections still open while stopping are looked at this often.
const STOP_LOOK: Duration = Duration::from_millis(20);
/// How long a reactor that stops waits for the thread that writes audit lines.
pub const AUDIT_PATIENCE: Duration = Duration::from_secs(2);

/// What every core's thread is made of.
#[derive(Clone)]
pub struct CoreParts {
    pub shared: Shared,
    pub backends: BackendParts,
    pub metadata: Postbox<Ask, Reply>,
    /// And what of them is answered.
    pub locations: (Arc<LocationCache>, Trust),
    pub publication: Publication,
    pub cells: Arc<CoreCells>,
    pub driver: DriverChoice,
    /// The processor to stay on; None: anywhere.
    pub processor: Option<usize>,
}

impl CoreParts {
    /// This thread's core and ports. Only inside its runtime.
    fn assemble(self, driver: driver::DriverKind) -> io::Result<Rc<CorePorts>> {
        let core = Core::start(driver, CoreLimits::default(), Arc::clone(&self.cells))?;
        let health = Rc::new(Health::new(self.shared.view.backends.len(), Arc::clone(&self.shared.standing)));
        let mailbox = Mailbox::open(self.metadata, METADATA_CALLS_MAX, Rc::clone(&core.fair), Arc::clone(&self.cells))?;
        let database = Arc::clone(&self.shared.database);
        let meta = CoreMetadata::new(mailbox, self.locations, database, Arc::clone(&self.cells));
        let backends = CoreBackends::open(&core, &self.shared.view, self.backends, Rc::clone(&health))?;
        let registry = self.publication.join(&core)?;
        Ok(CorePorts::new(core, self.shared, backends, meta, health, (registry, self.publication)))
    }

    fn pin(&self) {
        if let Some(processor) = self.processor
            && let Err(cause) = affinity::pin(processor)
        {
            tracing::warn!(%cause, processor, "could not pin the thread");
        }
    }
}

/// How the stop of all reactors is told and watched.
#[derive(Debug, Default)]
pub struct Stop {
    asked: AtomicBool,
    /// Reactors whose connections have all ended.
    finished: AtomicU64,
    /// And whose audit lines are all handed over, or given up.
    told: AtomicU64,
}

impl Stop {
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Release);
    }

    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    pub fn finished(&self) -> u64 {
        self.finished.load(Ordering::Acquire)
    }

    /// Whether all that have finished have handed their audit lines over, or given them up.
    pub fn is_told(&self) -> bool {
        self.told.load(Ordering::Acquire) >= self.finished()
    }
}

/// What a reactor has beyond a core.
pub struct ReactorParts {
    pub core: CoreParts,
    pub listener: TcpListener,
    pub tls: Option<Arc<ServerTls>>,
    pub audit: AuditLog,
    pub readiness: Arc<Readiness>,
    pub stop: Arc<Stop>,
    /// Told once the reactor serves, or why it cannot.
    pub started: flume::Sender<Result<driver::DriverKind, String>>,
}

/// The body of a reactor's thread. Returns only by a start that failed; a reactor that stops in order ends with the
/// process.
pub fn reactor(parts: ReactorParts) {
    let started = parts.started.clone();
    let guard = ThreadGuard::new("reactor");
    parts.core.pin();
    match driver::build(parts.core.driver) {
        Ok((mut runtime, kind)) => {
            let outcome = runtime.block_on(serve(parts, kind));
            if let Err(cause) = outcome {
                let _ = started.send(Err(cause.to_string()));
                tracing::error!(%cause, "reactor ended");
            }
        }
        Err(cause) => drop(started.send(Err(cause.to_string()))),
    }
    guard.let_go();
}

async fn serve(parts: ReactorParts, kind: driver::DriverKind) -> io::Result<()> {
    let limits = AcceptLimits {
        connections_max: parts.core.shared.view.server.max_connections as u64,
        plaintext: parts.tls.is_none(),
    };
    let ports = parts.core.assemble(kind)?;
    let site = Site::new(ports, parts.tls, parts.audit, parts.readiness);
    let _ = parts.started.send(Ok(kind));
    let keeping = Rc::clone(&site);
    let stop = Arc::clone(&parts.stop);
    task::spawn(&site.ports.core.cells, "housekeeping", async move { housekeeping(&keeping, &stop).await });
    let serving = Rc::clone(&site);
    let cells = Arc::clone(&site.ports.core.cells);
    accept_loop(&site.ports.core, parts.listener, limits, &site.stopping, move |tcp, place| {
        let site = Rc::clone(&serving);
        // Large, and moved by whoever spawns it: made where it stays.
        task::spawn(&cells, "connection", async move { Box::pin(connection::serve(site, tcp, place)).await });
    })
    .await?;
    // No new connections; those that wait for a request are ended, the others finish theirs.
    while site.ports.core.cells.connections_open.value() > 0 {
        site.ports.core.deadlines.end_idle();
        site.ports.core.clock.sleep(STOP_LOOK).await;
    }
    parts.stop.finished.fetch_add(1, Ordering::AcqRel);
    hand_over_last(&site).await;
    parts.stop.told.fetch_add(1, Ordering::AcqRel);
    // What was promised to others (ends of attempts, replies) goes on until the process exits.
    std::future::pending::<()>().await;
    Ok(())
}

/// The last audit lines: also where whoever reads the output has only just begun to.
async fn hand_over_last(site: &Site) {
    let (clock, cells) = (&site.ports.core.clock, &site.ports.core.cells);
    let since = clock.tick();
    while !site.audit.flush() {
        if clock.tick().since(since) >= AUDIT_PATIENCE {
            let lines = site.audit.give_up(cells);
            tracing::warn!(core = cells.core, lines, "the last audit lines of a core are lost");
            return;
        }
        clock.sleep(STOP_LOOK).await;
    }
}

async fn housekeeping(site: &Site, stop: &Stop) {
    loop {
        site.ports.core.clock.sleep(HOUSEKEEPING).await;
        site.audit.flush();
        if stop.is_asked() && !site.stopping.is_set() {
            site.stopping.set();
        }
    }
}

/// The body of the mover's thread: `work` over this core's ports, for ever.
pub fn mover<W, F>(parts: CoreParts, started: flume::Sender<Result<driver::DriverKind, String>>, work: W)
where
    W: FnOnce(Rc<CorePorts>) -> F,
    F: Future<Output = ()>,
{
    let guard = ThreadGuard::new("mover");
    parts.pin();
    match driver::build(parts.driver) {
        Ok((mut runtime, kind)) => runtime.block_on(async move {
            match parts.assemble(kind) {
                Ok(ports) => {
                    let _ = started.send(Ok(kind));
                    work(ports).await;
                }
                Err(cause) => drop(started.send(Err(cause.to_string()))),
            }
        }),
        Err(cause) => drop(started.send(Err(cause.to_string()))),
    }
    guard.let_go();
}
