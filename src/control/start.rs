//! From a valid configuration to a serving process, and from a signal to its end. Reads top to bottom: the database, the
//! metadata thread, the disks, the mover and its check of the backends, the reactors, the admin port; then it waits.

use super::admin::{self, Operations, Rings};
use super::certificate::{self, Certificate};
use super::counters::redis::RedisCounters;
use super::drains;
use super::flush;
use super::lease::{self, Terms};
use super::metadata;
use super::mover;
use super::registration::{Known, register_change, register_later, register_once};
use super::registry::{ConfigFile, Keeper};
use super::schedule::{self, Bells};
use super::stores::{open_postgres, open_store};
use super::threads::start_thread;
use crate::backend::budget::Budgets;
use crate::backend::standing::Standing;
use crate::base::{Clock, Tenure};
use crate::config::View;
use crate::config::checked::{DatabaseDriver, Driver};
use crate::observe::audit::{AuditLog, audit_log};
use crate::observe::cells::{CoreCells, Service};
use crate::policy::breaker::BreakerSettings;
use crate::reactor::accept;
use crate::reactor::affinity;
use crate::reactor::backends::BackendParts;
use crate::reactor::clock::CoreClock;
use crate::reactor::driver::DriverChoice;
use crate::reactor::jobs::SyncOrder;
use crate::reactor::mailbox;
use crate::reactor::ports::Shared;
use crate::reactor::readiness::Readiness;
use crate::reactor::run::{AUDIT_PATIENCE, CoreParts, ReactorParts, Stop, reactor};
use crate::reactor::wake;
use crate::store::board::Board;
use crate::store::desk::Locations;
use crate::store::location_cache::{LocationCache, Trust};
use crate::store::port::MetadataStore;
use crate::workers::lend::Occasion;
use crate::workers::sync::{Event, Plan};
use anyhow::{Context, anyhow, bail};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often, and at most how many times, an address that is taken is tried again: for two seconds.
const ADDRESS_LOOK: Duration = Duration::from_millis(20);
const ADDRESS_LOOKS_MAX: u32 = 100;
/// How long the start waits for the first look at all backends.
const FIRST_CHECK: Duration = Duration::from_secs(10);
/// Calls that a probe of a backend makes: connecting, its marker, and what follows if it was never measured.
const PROBE_CALLS: u32 = 4;
/// While stopping, how often it is looked whether all connections have ended.
const STOP_LOOK: Duration = Duration::from_millis(20);

/// Serves until SIGTERM or SIGINT. Errors are those of the start: what is wrong and what to do.
pub fn serve(view: View, file: Option<ConfigFile>) -> anyhow::Result<()> {
    if let DatabaseDriver::Sqlite { .. } = view.database.driver {
        return serve_over(view, file, open_store, io::stdout());
    }
    let tenure = Arc::new(Tenure::default());
    let kept = Arc::clone(&tenure);
    over(view, file, |view| open_postgres(view, kept), io::stdout(), tenure)
}

/// The same over any store, opened once the address is ours, with the audit log going to `audit`.
pub fn serve_over<S: MetadataStore + Send + 'static>(
    view: View,
    file: Option<ConfigFile>,
    open: impl FnOnce(&View) -> anyhow::Result<S>,
    audit: impl io::Write + Send + 'static,
) -> anyhow::Result<()> {
    over(view, file, open, audit, Arc::default())
}

/// `tenure` is kept by the store, if it has leases.
fn over<S: MetadataStore + Send + 'static>(
    view: View,
    file: Option<ConfigFile>,
    open: impl FnOnce(&View) -> anyhow::Result<S>,
    audit: impl io::Write + Send + 'static,
    tenure: Arc<Tenure>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("the control core")?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, run(Arc::new(view), file, open, audit, tenure))
}

async fn run<S: MetadataStore + Send + 'static>(
    view: Arc<View>,
    file: Option<ConfigFile>,
    open: impl FnOnce(&View) -> anyhow::Result<S>,
    mut audit: impl io::Write + Send + 'static,
    tenure: Arc<Tenure>,
) -> anyhow::Result<()> {
    let names = || view.backends.iter().map(|backend| backend.name.clone());
    let processors = Processors::plan(view.server.reactors)?;
    let reactor_cells: Vec<_> =
        (0..processors.reactors.len()).map(|i| Arc::new(CoreCells::new(i.to_string(), names()))).collect();

    // The listeners first: a second process on the same port must fail before it touches anything.
    let listeners = listen(view.server.listen_addr, reactor_cells.len())
        .await
        .with_context(|| format!("server.listen_addr: cannot listen on {}", view.server.listen_addr))?;
    let served_on = listeners[0].local_addr().context("the listener's address")?;
    let admin_listener = TcpListener::bind(view.admin.listen_addr)
        .await
        .with_context(|| format!("admin.listen_addr: cannot listen on {}", view.admin.listen_addr))?;
    let certificate = match &view.server.tls {
        Some(files) => Some(Certificate::open(files).context("server.tls")?),
        None => None,
    };
    let server_tls = certificate.as_ref().map(Certificate::current);
    let hangup = signal(SignalKind::hangup()).context("SIGHUP")?;
    tokio::task::spawn_local(certificate::keep(certificate, hangup));

    let store = open(&view)?;
    let Works { parts, operations, checked, terms } =
        start_works(&view, store, file, &processors, &reactor_cells, mover::ALL_SERVICES, tenure).await?;
    let (mut audit_ends, audit_writer, audit_flush) = audit_log(reactor_cells.len());
    std::thread::Builder::new()
        .name("audit".to_owned())
        .spawn(move || audit_writer.run(&mut audit))
        .context("the audit thread")?;
    let stop = Arc::new(Stop::default());
    // Before anybody is served: from then on a stop is an orderly one.
    let mut ends = Ends::listen()?;
    for ((cells, listener), processor) in reactor_cells.iter().zip(listeners).zip(&processors.reactors) {
        let audit: AuditLog = audit_ends.pop().expect("one end per reactor");
        let core = CoreParts { cells: Arc::clone(cells), processor: *processor, ..parts.clone() };
        let readiness: Arc<Readiness> = Arc::clone(&operations.readiness);
        let tls = server_tls.clone();
        let stop = Arc::clone(&stop);
        start_thread(format!("reactor-{}", cells.core), |started| {
            move || reactor(ReactorParts { core, listener, tls, audit, readiness, stop, started })
        })
        .await?;
    }
    serve_admin(&view, &operations, admin_listener).await?;
    flush::regularly(Arc::clone(&operations));
    tokio::select! {
        // Writes need a backend whose marker was seen; one that does not answer must not keep the others from serving.
        _ = tokio::time::timeout(FIRST_CHECK, checked.recv_async()) => {
            operations.readiness.set_ready(true);
            tracing::info!(address = %served_on, tls = server_tls.is_some(), reactors = reactor_cells.len(), "serving");
            ends.asked().await;
        }
        () = ends.asked() => {}
    }
    stop_in_order(&view, &operations, &stop, reactor_cells.len() as u64).await;
    lease::leave(&terms).await;
    let told = async {
        while !stop.is_told() {
            tokio::time::sleep(STOP_LOOK).await;
        }
    };
    let _ = tokio::time::timeout(AUDIT_PATIENCE * 2, told).await; // a core that does not come to it has other troubles
    // The last of what this thread does: nothing is held up by its standing still.
    if !audit_flush.wait() {
        tracing::warn!("the last audit lines are lost: whoever reads the output stands still");
    }
    tracing::info!("stopped");
    Ok(())
}

/// Compares backends with the database without serving anybody, on a database that no other process uses; `told` hears of
/// what is found. Errors are those of the start.
pub fn sync(view: View, plan: Plan, told: impl FnMut(Event) + Send + 'static) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("the control core")?;
    let local = tokio::task::LocalSet::new();
    let (view, tenure) = (Arc::new(view), Arc::new(Tenure::default()));
    if let DatabaseDriver::Sqlite { .. } = &view.database.driver {
        let store = open_store(&view)?;
        return local.block_on(&runtime, compare(view, store, plan, told, tenure));
    }
    let store = open_postgres(&view, Arc::clone(&tenure))?;
    local.block_on(&runtime, compare(view, store, plan, told, tenure))
}

async fn compare<S: MetadataStore + Send + 'static>(
    view: Arc<View>,
    store: S,
    plan: Plan,
    mut told: impl FnMut(Event),
    tenure: Arc<Tenure>,
) -> anyhow::Result<()> {
    let nobody = Processors { control: None, reactors: Vec::new() };
    let works = start_works(&view, store, None, &nobody, &[], mover::SYNC_SERVICES, tenure).await?;
    if works.operations.readiness.is_degraded() {
        bail!("the database does not answer");
    }
    let _ = tokio::time::timeout(FIRST_CHECK, works.checked.recv_async()).await;
    let (events, found) = flume::unbounded();
    assert!(works.operations.order(SyncOrder { plan, events }), "nobody else orders");
    while let Ok(event) = found.recv_async().await {
        told(event);
    }
    flush::at_the_end(&works.operations).await;
    lease::leave(&works.terms).await;
    Ok(())
}

/// What works behind the listeners: the database, the disks, the mover with its jobs.
struct Works {
    parts: CoreParts,
    operations: Arc<Operations>,
    /// Hears when every backend has been looked at once.
    checked: flume::Receiver<()>,
    terms: Rc<Terms>,
}

async fn start_works<S: MetadataStore + Send + 'static>(
    view: &Arc<View>,
    store: S,
    file: Option<ConfigFile>,
    processors: &Processors,
    reactor_cells: &[Arc<CoreCells>],
    services: &'static [Service],
    tenure: Arc<Tenure>,
) -> anyhow::Result<Works> {
    let mover_cells = Arc::new(CoreCells::new("mover", view.backends.iter().map(|backend| backend.name.clone())));
    let cores: Vec<_> = reactor_cells.iter().chain([&mover_cells]).cloned().collect();
    let board = Arc::new(Board::new(view.backends.iter().map(|one| one.quota_bytes)));
    let (cache, cache_writer) = LocationCache::new(view.location_cache.max_size_bytes, random()?);
    let (postbox, desk) = mailbox::channel();
    let trust = trust_of(view);
    let locations =
        if trust == Trust::Exact { Locations::Exact(cache_writer) } else { Locations::memory(cache_writer) };
    let (metadata, desk_cells, database) = metadata::spawn(metadata::Parts {
        store,
        locations,
        board: Arc::clone(&board),
        view: Arc::clone(view),
        cores: desk,
    })?;
    let register = register_change(view, &board)?;
    let first = register_once(&metadata, &register).await?;
    let standing = Arc::new(standing_of(view));
    let terms = Terms::new(view, Arc::clone(&tenure), metadata.clone(), Arc::clone(&board));
    let (cleanup, cleanup_woken) = wake::bell();
    let (replicate, replicate_woken) = wake::bell();
    let (borrow, borrow_woken) = wake::bell();
    let metered = view.backends.iter().map(|backend| (&backend.name, &backend.budget));
    let budgets = Arc::new(Budgets::new(metered, Box::new(move || borrow.ring())));
    let (drain, drain_woken) = wake::bell();
    let (trim, trim_woken) = wake::bell();
    let known = Known {
        view: Arc::clone(view),
        standing: Arc::clone(&standing),
        database: Arc::clone(&database),
        terms: Rc::clone(&terms),
        cleanup: cleanup.clone(),
    };
    match first {
        Ok(registered) => known.note(registered),
        Err(failure) => {
            tracing::warn!(%failure, "the database does not answer: serving reads without it until it does");
            tokio::task::spawn_local(register_later(known, metadata.clone(), register));
        }
    }
    let shared = Shared {
        view: Arc::clone(view),
        board: Arc::clone(&board),
        standing: Arc::clone(&standing),
        tenure: Arc::clone(&tenure),
        database: Arc::clone(&database),
        budgets: Arc::clone(&budgets),
        held: Arc::default(),
        cleanup: cleanup.clone(),
        replicate: replicate.clone(),
    };
    let hangup = signal(SignalKind::hangup()).context("SIGHUP")?;
    let (keeper, publication) = Keeper::open(view, file, metadata.clone())
        .await
        .map_err(|failure| anyhow!("the stored buckets cannot be read: {failure}"))?;
    let parts = CoreParts {
        shared,
        backends: BackendParts::open(view, &standing, &budgets).context("the backends")?,
        metadata: postbox,
        locations: (Arc::clone(&cache), trust),
        publication,
        cells: Arc::clone(&mover_cells),
        driver: driver_choice(view.server.driver),
        processor: processors.control,
    };

    let redis = match &view.redis {
        Some(settings) => Some(RedisCounters::new(settings)?),
        None => None,
    };
    let (asks_in, asks) = mailbox::channel();
    let operations = Operations::new(
        Arc::clone(view),
        board,
        standing,
        cores,
        desk_cells,
        metadata,
        Arc::new(Readiness::new(database)),
        budgets,
        redis.as_ref().map(RedisCounters::shared),
        Rings { cleanup, drain, replicate, trim },
        Arc::clone(&tenure),
        || CoreClock::default().now(),
    );
    tokio::task::spawn_local(keeper.run(hangup, Arc::clone(&operations)));
    if let Some(redis) = redis {
        let told = Arc::clone(&operations);
        tokio::task::spawn_local(redis.run(move || told.own_usage()));
    }
    // Otherwise the first calls wait for it; without the database they do.
    let _ = operations.lend(Occasion::Regular).await;
    flush::lend_when_rung(Arc::clone(&operations), borrow_woken);
    let (checked_in, checked) = flume::bounded(1);
    // Its jobs act on what they find.
    let trust_of_jobs = if trust == Trust::Exact { trust } else { Trust::Nothing };
    let of_mover = CoreParts { locations: (cache, trust_of_jobs), ..parts.clone() };
    mover::spawn(of_mover, asks_in, checked_in, services).await?;
    let bells = Bells { drain: drain_woken, cleanup: cleanup_woken, replicate: replicate_woken, trim: trim_woken };
    tokio::task::spawn_local(schedule::run(asks, bells, Arc::clone(&operations), Rc::clone(&terms)));
    if !matches!(view.database.driver, DatabaseDriver::Sqlite { .. }) {
        tokio::task::spawn_local(drains::follow(Arc::clone(&operations)));
    }
    Ok(Works { parts, operations, checked, terms })
}

/// Exact only where no other process writes.
fn trust_of(view: &View) -> Trust {
    match (&view.database.driver, view.location_cache.max_staleness) {
        (DatabaseDriver::Sqlite { .. }, _) => Trust::Exact,
        (DatabaseDriver::Postgres(_), Duration::ZERO) => Trust::Nothing,
        (DatabaseDriver::Postgres(_), bound) => Trust::Within(bound),
    }
}

/// Takes the address for the reactors. That of a process that was killed is free a moment later only: the kernel ends a ring,
/// and lets go of the sockets that it waited for, after the process.
async fn listen(address: SocketAddr, reactors: usize) -> io::Result<Vec<std::net::TcpListener>> {
    for _ in 0..ADDRESS_LOOKS_MAX {
        match accept::listen(address, reactors) {
            Err(cause) if cause.kind() == io::ErrorKind::AddrInUse => tokio::time::sleep(ADDRESS_LOOK).await,
            done => return done,
        }
    }
    accept::listen(address, reactors)
}

/// Which processors the threads stay on: reactors from the second on, control and mover on the first; with one processor, or
/// with more reactors than fit, nobody is pinned.
struct Processors {
    control: Option<usize>,
    reactors: Vec<Option<usize>>,
}

impl Processors {
    fn plan(wanted: Option<usize>) -> anyhow::Result<Self> {
        let allowed = affinity::allowed_cores().context("the processors that we may use")?;
        let reactors = wanted.unwrap_or_else(|| allowed.len().saturating_sub(1).max(1));
        if allowed.len() < 2 || reactors > allowed.len() {
            return Ok(Self { control: None, reactors: vec![None; reactors] });
        }
        // As many reactors as processors: control shares one.
        let first = allowed.len() - reactors;
        let reactors = allowed[first..].iter().copied().map(Some).collect();
        Ok(Self { control: Some(allowed[0]), reactors })
    }
}

/// A probe that has not come back when every call of its own must have ended is given up.
fn standing_of(view: &View) -> Standing {
    let names: Vec<_> = view.backends.iter().map(|backend| backend.name.clone()).collect();
    match view.backend_breaker {
        None => Standing::new(names.len()),
        Some(breaker) => Standing::with_breakers(
            &names,
            BreakerSettings {
                failure_threshold: breaker.failure_threshold,
                open_timeout: breaker.open_timeout,
                probe_max: view.server.backend_timeout.saturating_mul(PROBE_CALLS),
            },
        ),
    }
}

fn driver_choice(driver: Driver) -> DriverChoice {
    match driver {
        Driver::Auto => DriverChoice::Auto,
        Driver::Ring => DriverChoice::Ring,
        Driver::Epoll => DriverChoice::Epoll,
    }
}

fn random() -> anyhow::Result<u64> {
    use crate::base::Dice;
    Ok(crate::reactor::dice::CoreDice::from_system().context("the system's random numbers")?.roll())
}

async fn serve_admin(view: &View, operations: &Arc<Operations>, listener: TcpListener) -> anyhow::Result<()> {
    let own_metrics = view.metrics.enabled && view.metrics.listen.is_some();
    let router = admin::router(Arc::clone(operations), view.admin.token.clone(), view.metrics.enabled && !own_metrics);
    spawn_server("admin", listener, router);
    if let Some(address) = view.metrics.listen.filter(|_| own_metrics) {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("telemetry.metrics.listen: cannot listen on {address}"))?;
        spawn_server("metrics", listener, admin::metrics_router(Arc::clone(operations)));
    }
    Ok(())
}

fn spawn_server(what: &'static str, listener: TcpListener, router: axum::Router) {
    tokio::task::spawn(async move {
        if let Err(cause) = axum::serve(listener, router).await {
            tracing::error!(%cause, what, "listener ended");
        }
    });
}

/// The signals that ask for an orderly stop.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    fn listen() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt()).context("SIGINT")? })
    }

    /// Cancel: safe.
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!(signal = "SIGTERM", "stopping"),
            _ = self.interrupt.recv() => tracing::info!(signal = "SIGINT", "stopping"),
        }
    }
}

/// Not ready; the delay in which load balancers notice; no new connections, those under way finish, within bounds.
async fn stop_in_order(view: &View, operations: &Operations, stop: &Stop, reactors: u64) {
    operations.readiness.set_ready(false);
    tokio::time::sleep(view.server.shutdown_delay).await;
    stop.ask();
    let finished = async {
        while stop.finished() < reactors {
            tokio::time::sleep(STOP_LOOK).await;
        }
    };
    if tokio::time::timeout(view.server.shutdown_timeout, finished).await.is_err() {
        let open: u64 = operations.cores.iter().map(|core| core.connections_open.value()).sum();
        tracing::warn!(connections = open, "requests did not finish in time and are cut");
    }
    flush::at_the_end(operations).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_let_go_shortly_is_waited_for() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = holder.local_addr().expect("bound");
        let kept = runtime.block_on(listen(address, 2)).expect_err("it stays taken");
        assert_eq!(kept.kind(), io::ErrorKind::AddrInUse);
        let (listeners, ()) = runtime.block_on(async {
            tokio::join!(listen(address, 2), async {
                tokio::time::sleep(ADDRESS_LOOK * 5).await;
                drop(holder);
            })
        });
        assert_eq!(listeners.expect("it was let go").len(), 2);
    }
}
