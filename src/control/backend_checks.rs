//! Looking after the backends, on the mover: whether each is ours, what it was measured to do, and whether one whose
//! breaker is open works again.

use crate::backend::budget::Spend;
use crate::backend::marker::Known;
use crate::backend::standing::Standing;
use crate::base::failure::Kind;
use crate::base::{Clock, Dice, Failure, Nonce};
use crate::config::checked;
use crate::handlers::ports::Ports;
use crate::policy::usage::BackendCall;
use crate::reactor::ports::CorePorts;
use crate::reactor::task;
use crate::store::port::{Answer, Metadata, Query, RecordFacts};
use crate::workers::recover::Sweep;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked whether a probe is due.
const PROBE_LOOK: Duration = Duration::from_millis(250);

/// What answers so soon belongs to the pass that asked; whoever takes longer is not waited for where another is to be looked at again.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);
/// How often it is looked whether all have answered.
const LOOK_ENDS: Duration = Duration::from_millis(5);

/// What passes remember of this run.
pub struct Book {
    /// Hears when every backend has been looked at once.
    checked: flume::Sender<()>,
    pub sweep: Cell<Sweep>,
    /// In the view's order.
    looks: Box<[Cell<Look>]>,
}

impl Book {
    pub fn new(checked: flume::Sender<()>, backends: usize) -> Self {
        Self { checked, sweep: Cell::default(), looks: (0..backends).map(|_| Cell::default()).collect() }
    }
}

/// The looks at one backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Look {
    is_under_way: bool,
    /// Whether the last that ended found it in order. None: none has ended.
    found: Option<bool>,
}

/// One look, on a task of its own; ends with it, also by a panic.
struct Looking {
    book: Rc<Book>,
    index: usize,
    found: bool,
}

impl Looking {
    /// None while the one before is under way.
    fn begin(book: &Rc<Book>, index: usize) -> Option<Self> {
        let look = book.looks[index].get();
        book.looks[index].set(Look { is_under_way: true, ..look });
        (!look.is_under_way).then(|| Self { book: Rc::clone(book), index, found: false })
    }

    fn end(mut self, found: bool) {
        self.found = found;
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.book.looks[self.index].set(Look { is_under_way: false, found: Some(self.found) });
    }
}

/// Looks at every backend's marker and measures what was not measured; whether all are in order. Those whose breaker is
/// open have their probes; one that was in order and whose monthly budget has no more looks is left alone. Each by itself: one
/// that does not answer must not keep the others from being used, nor from being looked at again.
pub async fn check_backends(ports: &Rc<CorePorts>, book: &Rc<Book>) -> bool {
    let found = what_is_known(ports).await.ok();
    let look = Spend::call(BackendCall::Get);
    let is_due = |index: usize| {
        let standing = ports.standing();
        !standing.is_open(index) && (!standing.is_ours(index) || ports.budgets().has_room(index, &look))
    };
    let looks = || book.looks.iter().map(Cell::get).enumerate();
    for index in (0..book.looks.len()).filter(|&index| is_due(index)) {
        let Some(looking) = Looking::begin(book, index) else { continue };
        let (ports, found) = (Rc::clone(ports), found.as_ref().map(|found| found[index]));
        let cells = Arc::clone(&ports.core.cells);
        task::spawn(&cells, "look", async move {
            let checked = check_and_tell(&ports, index, found).await;
            looking.end(checked.is_ok());
        });
    }
    // One whose breaker may close before anybody knows whose it is must not wait for the next regular look.
    let is_in_order =
        |index: usize, look: Look| ports.standing().is_ours(index) && (!is_due(index) || look.found == Some(true));
    let since = ports.clock().tick();
    loop {
        let others_wait = looks().any(|(index, look)| !look.is_under_way && !is_in_order(index, look));
        let has_patience = ports.clock().tick().since(since) < LOOK_PATIENCE || !others_wait;
        if !looks().any(|(_, look)| look.is_under_way) || !has_patience {
            break;
        }
        ports.clock().sleep(LOOK_ENDS).await;
    }
    if looks().all(|(index, look)| look.found.is_some() || !is_due(index)) {
        let _ = book.checked.try_send(()); // who waited for it may be gone
    }
    looks().all(|(index, look)| !look.is_under_way && is_in_order(index, look))
}

/// Probes each backend whose breaker's wait is over, for ever; returns at once where breakers are off. The breaker closes
/// when the backend is found in order, or answers while nobody says whose it is; one that is not ours any more stays away.
pub async fn probe_when_due(ports: &Rc<CorePorts>) {
    while !ports.standing().circuits().is_empty() {
        ports.clock().sleep(PROBE_LOOK).await;
        for (index, circuit) in ports.standing().circuits().iter().enumerate() {
            if !circuit.is_closed() && circuit.probe_due(ports.clock().tick(), ports.dice().roll()) {
                let probing = Rc::clone(ports);
                let cells = Arc::clone(&ports.core.cells);
                task::spawn(&cells, "probe", async move { probe(&probing, index).await });
            }
        }
    }
}

async fn probe(ports: &CorePorts, index: usize) {
    let began = ports.clock().tick();
    let found = what_is_known(ports).await.ok().map(|found| found[index]);
    let checked = check_and_tell(ports, index, found).await;
    let Some(circuit) = ports.standing().circuit(index) else { return };
    match checked {
        Err(failure) if !failure.is_of_database() => {
            circuit.failed(began, ports.clock().tick(), ports.dice().roll());
        }
        // It has answered. That without the database nobody knows whose it is keeps writes away, not reads.
        _ => circuit.succeeded(began, ports.clock().tick()),
    }
}

/// `found`: None while the database does not say.
async fn check_and_tell(ports: &CorePorts, index: usize, found: Option<Recorded>) -> Result<(), Failure> {
    let name = ports.view().backends[index].name.as_str();
    let was_ours = ports.standing().is_ours(index);
    let checked = check_backend(ports, index, found).await;
    match &checked {
        Ok(()) if !was_ours => tracing::info!(backend = name, "backend is in order"),
        Ok(()) => {}
        Err(failure) => {
            if failure.kind == Kind::Refused {
                // For the operator: an unmounted directory, somebody else's bucket.
                ports.standing().set_usable(index, false);
            }
            // The passing failure of a backend that is in use is its health's business.
            if !ports.standing().is_ours(index) && !failure.is_of_database() {
                tracing::error!(backend = name, %failure, "backend is not used");
            }
        }
    }
    checked
}

async fn check_backend(ports: &CorePorts, index: usize, found: Option<Recorded>) -> Result<(), Failure> {
    let Some(registered) = ports.shared.database.registered() else {
        ports.backends().open_for_reading(index).await?;
        return Err(Failure::metadata("whose backend it is nobody knows without the database: only read for now"));
    };
    let is_new = ports.backends().claim(index, &registered.deployment, found.map(|found| found.known)).await?;
    let standing: &Standing = ports.standing();
    // What was measured of one that had this name before need not hold for a new one. And before anything is written there
    // the database must know that it is in use (`Recorded`).
    if standing.measured(index) && !is_new && found.is_none_or(|found| found.is_measured) {
        standing.set_usable(index, true);
        return Ok(());
    }
    let facts = ports.backends().measure(index, Nonce::from_roll(ports.dice().roll())).await?;
    let backend = ports.view().backends[index].name.clone();
    tracing::info!(
        backend = backend.as_str(),
        verifies_sha256 = facts.verifies_sha256,
        etag_is_md5 = facts.etag_is_md5,
        copies = facts.copies,
        delete_removes = facts.delete_removes,
        "backend measured"
    );
    let _never_refused = ports.meta().step(RecordFacts { backend, facts }).await?;
    standing.set_facts(index, &facts);
    standing.set_usable(index, true);
    Ok(())
}

/// What the database says of a backend.
#[derive(Clone, Copy, Default)]
struct Recorded {
    known: Known,
    /// What was measured at its place is recorded.
    is_measured: bool,
}

/// By backend.
async fn what_is_known(ports: &CorePorts) -> Result<Vec<Recorded>, Failure> {
    let Answer::Status(status) = ports.meta().query(Query::Status { period: String::new() }).await? else {
        return Err(Failure::ourselves("a query was answered with another's answer"));
    };
    let of = |backend: &checked::Backend| {
        let Some(status) = status.iter().find(|one| one.name == backend.name.as_str()) else {
            return Recorded::default();
        };
        let is_measured = status.facts.measured && status.facts.place == backend.place.fingerprint();
        let known = Known { blobs: status.blobs_named(), in_use: is_measured && !status.drained };
        Recorded { known, is_measured }
    };
    Ok(ports.view().backends.iter().map(of).collect())
}
