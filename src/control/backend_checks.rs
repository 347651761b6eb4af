//! Looking after the backends, on the mover: whether each is ours, what it was measured to do, and whether one whose
//! breaker is open works again.

use crate::backend::budget::Spend;
use crate::backend::standing::Standing;
use crate::base::failure::Kind;
use crate::base::{Clock, Dice, Failure, Nonce};
use crate::handlers::concurrent;
use crate::handlers::ports::Ports;
use crate::policy::usage::BackendCall;
use crate::reactor::ports::CorePorts;
use crate::reactor::task;
use crate::store::port::{Answer, BackendStatus, Metadata, Query, RecordFacts};
use crate::workers::recover::Sweep;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked whether a probe is due.
const PROBE_LOOK: Duration = Duration::from_millis(250);

/// What passes remember of this run.
pub struct Book {
    /// Hears when every backend has been looked at once.
    pub checked: flume::Sender<()>,
    pub sweep: Cell<Sweep>,
}

/// Looks at every backend's marker and measures what was not measured; whether all are in order. Those whose breaker is
/// open have their probes; one that was in order and whose monthly budget has no more looks is left alone.
pub async fn check_backends(ports: &CorePorts, book: &Book) -> bool {
    let named = blobs_named(ports).await;
    let mut all = true;
    let look = Spend::call(BackendCall::Get);
    let is_due = |&index: &usize| {
        let standing = ports.standing();
        !standing.is_open(index) && (!standing.is_ours(index) || ports.budgets().has_room(index, &look))
    };
    let backends = ports.view().backends.len();
    let looks = (0..backends).filter(is_due).map(|index| {
        let named = named.as_ref().ok().map(|named| named[index]);
        check_and_tell(ports, index, named)
    });
    // All at once: one that does not answer must not keep the others from being used.
    concurrent::each(backends, looks, |_, checked| all &= checked.is_ok()).await;
    let _ = book.checked.try_send(());
    // One whose breaker may close before anybody knows whose it is must not wait for the next regular look.
    all && (0..ports.view().backends.len()).all(|index| ports.standing().is_ours(index))
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
    let named = blobs_named(ports).await.ok().map(|named| named[index]);
    let checked = check_and_tell(ports, index, named).await;
    let Some(circuit) = ports.standing().circuit(index) else { return };
    match checked {
        Err(failure) if !failure.is_of_database() => {
            circuit.failed(began, ports.clock().tick(), ports.dice().roll());
        }
        // It has answered. That without the database nobody knows whose it is keeps writes away, not reads.
        _ => circuit.succeeded(began, ports.clock().tick()),
    }
}

/// `named`: how many rows name blobs there; None while the database does not say.
async fn check_and_tell(ports: &CorePorts, index: usize, named: Option<u64>) -> Result<(), Failure> {
    let name = ports.view().backends[index].name.as_str();
    let was_ours = ports.standing().is_ours(index);
    let checked = check_backend(ports, index, named).await;
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

async fn check_backend(ports: &CorePorts, index: usize, named: Option<u64>) -> Result<(), Failure> {
    let Some(registered) = ports.shared.database.registered() else {
        ports.backends().open_for_reading(index).await?;
        return Err(Failure::metadata("whose backend it is nobody knows without the database: only read for now"));
    };
    let is_new = ports.backends().claim(index, &registered.deployment, named).await?;
    let standing: &Standing = ports.standing();
    match (standing.measured(index), is_new) {
        (true, false) => {
            standing.set_usable(index, true);
            return Ok(());
        }
        // What was measured of one that had this name before need not hold for the new one.
        (true, true) => {
            let backend = ports.view().backends[index].name.as_str();
            tracing::warn!(
                backend,
                "its marker is gone, and no row names anything there: it is taken for a new one. If it is not mounted, \
                 stop and mount it: what is written meanwhile would be hidden by it"
            );
        }
        (false, _) => {}
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
    standing.set_facts(index, &facts);
    standing.set_usable(index, true);
    // Nothing refuses a record of facts; without it they are measured again at the next start.
    if let Err(failure) = ports.meta().step(RecordFacts { backend, facts }).await {
        tracing::warn!(%failure, "what was measured of a backend is not recorded");
    }
    Ok(())
}

/// Blobs of any state that rows name, by backend.
async fn blobs_named(ports: &CorePorts) -> Result<Vec<u64>, Failure> {
    let Answer::Status(status) = ports.meta().query(Query::Status { period: String::new() }).await? else {
        return Err(Failure::ourselves("a query was answered with another's answer"));
    };
    let of = |name: &str| status.iter().find(|one| one.name == name).map_or(0, BackendStatus::blobs_named);
    Ok(ports.view().backends.iter().map(|backend| of(backend.name.as_str())).collect())
}
