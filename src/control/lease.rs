//! Keeps this run alive in the eyes of the others (PROTOCOL.md, "Who is alive"): renews its lease, ends runs whose lease has
//! lapsed, registers anew when others have ended this one; and knows which background jobs this run holds.
//!
//! With a database of one process there is no lease: every job is ours, and nothing runs here.

use super::metadata::ControlMetadata;
use super::registration::{register_change, register_once};
use crate::base::failure::Kind;
use crate::base::{Clock, Failure, Incarnation, Tenure, Tick};
use crate::config::View;
use crate::observe::cells::{Label, Service};
use crate::reactor::clock::CoreClock;
use crate::reactor::wake::Wake;
use crate::store::board::Board;
use crate::store::port::{Metadata, Renew, TakeService};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Parts of a term: how often the lease is renewed, and others are looked at.
const RENEWALS_PER_TERM: u32 = 4;
/// How often it is looked whether this run was ended.
const LOOK: Duration = Duration::from_millis(50);
/// Background passes of an ended run end by themselves, because nothing of theirs is carried out any more; this long at most.
const PASSES_END_WITHIN: Duration = Duration::from_secs(10);

/// What this run may do among others.
pub struct Terms {
    tenure: Arc<Tenure>,
    term: Duration,
    metadata: ControlMetadata,
    /// The backends' limits in force.
    board: Arc<Board>,
    /// Jobs that this run holds, and as which incarnation it took them.
    held: RefCell<Vec<(Service, Incarnation)>>,
    /// Passes of exclusive jobs that are under way.
    running: Cell<u32>,
    /// That a job waits for the database was said; it is said again when it was answered in between.
    wait_told: Cell<bool>,
}

/// Whether only one run at a time may do it.
fn is_exclusive(service: Service) -> bool {
    // What this instance sees of the backends, and what an operator has asked it to compare, is its own business.
    !matches!(service, Service::Standing | Service::Sync | Service::Sweep)
}

impl Terms {
    pub fn new(view: &View, tenure: Arc<Tenure>, metadata: ControlMetadata, board: Arc<Board>) -> Rc<Self> {
        let term = view.write_path.lease;
        Rc::new(Self {
            tenure,
            term,
            metadata,
            board,
            held: RefCell::default(),
            running: Cell::new(0),
            wait_told: Cell::new(false),
        })
    }

    /// The database knows this run by this number.
    pub fn set_incarnation(&self, incarnation: Incarnation) {
        self.tenure.set_incarnation(incarnation);
    }

    pub fn has_lease(&self) -> bool {
        self.tenure.has_lease()
    }

    /// Returns when this run may do the job, and a pass of it begins. Cancel: safe.
    pub async fn wait_for(&self, service: Service) {
        if !self.tenure.has_lease() || service == Service::Standing {
            return;
        }
        if !is_exclusive(service) {
            // An ended run is about to register anew.
            while self.tenure.has_ended() {
                tokio::time::sleep(LOOK).await;
            }
            return;
        }
        while !self.hold(service).await {
            tokio::time::sleep(self.term / RENEWALS_PER_TERM).await;
        }
        self.running.set(self.running.get() + 1);
    }

    /// The pass that `wait_for` let begin has ended.
    pub fn ended(&self, service: Service) {
        if self.tenure.has_lease() && is_exclusive(service) {
            self.running.set(self.running.get().saturating_sub(1));
        }
    }

    async fn hold(&self, service: Service) -> bool {
        let incarnation = self.tenure.incarnation();
        if self.tenure.has_ended() {
            return false;
        }
        if self.held.borrow().contains(&(service, incarnation)) {
            return true;
        }
        let take = TakeService { incarnation, service: service.as_str().to_owned() };
        let taken = self.metadata.step(take).await;
        let was_told = self.wait_told.replace(taken.is_err());
        match taken {
            Ok(Ok(_)) => {
                tracing::info!(
                    service = service.as_str(),
                    incarnation = incarnation.0,
                    "background job is this instance's"
                );
                let mut held = self.held.borrow_mut();
                held.retain(|(one, _)| *one != service);
                held.push((service, incarnation));
                true
            }
            Ok(Err(_)) => false,
            Err(failure) => {
                if !was_told {
                    tracing::warn!(service = service.as_str(), %failure, "a background job waits for the database");
                }
                false
            }
        }
    }
}

/// Runs as long as the control core, where there is a lease to keep.
pub async fn keep(terms: Rc<Terms>, view: Arc<View>, cleanup: Wake) {
    let clock = CoreClock::default();
    let mut answering_since: Option<Tick> = None;
    let mut renewed_at = clock.tick();
    // Said once, not at each attempt.
    let (mut is_unrenewed, mut is_unregistered) = (false, false);
    loop {
        tokio::time::sleep(LOOK.min(terms.term / RENEWALS_PER_TERM)).await;
        if terms.tenure.has_ended() {
            match register_anew(&terms, &view).await {
                Ok(registered) => is_unregistered = !registered,
                Err(cause) => {
                    if !is_unregistered {
                        tracing::warn!(%cause, "this instance's lease has lapsed, and it cannot register anew yet");
                    }
                    is_unregistered = true;
                }
            }
            continue;
        }
        if clock.tick().since(renewed_at) < terms.term / RENEWALS_PER_TERM {
            continue;
        }
        renewed_at = clock.tick();
        let judge = answering_since.is_some_and(|since| clock.tick().since(since) >= terms.term);
        match renew(&terms, judge, false).await {
            Ok(doomed) => {
                answering_since.get_or_insert(renewed_at);
                if std::mem::take(&mut is_unrenewed) {
                    tracing::info!("the lease is renewed again");
                }
                if doomed > 0 {
                    cleanup.ring();
                }
            }
            Err(failure) => {
                answering_since = None;
                if !std::mem::replace(&mut is_unrenewed, true) {
                    tracing::warn!(%failure, "the lease could not be renewed");
                }
            }
        }
    }
}

/// Answers how many blobs of lapsed runs were doomed.
async fn renew(terms: &Terms, judge: bool, leave: bool) -> Result<u64, Failure> {
    let incarnation = terms.tenure.incarnation();
    match terms.metadata.step(Renew { incarnation, judge, leave }).await? {
        Ok(renewed) => {
            if renewed.ended > 0 {
                tracing::info!(
                    runs = renewed.ended,
                    blobs = renewed.doomed,
                    "lapsed instances' unfinished writes are given up"
                );
            }
            Ok(renewed.doomed)
        }
        // The store has noted it in the tenure.
        Err(_) => Ok(0),
    }
}

/// Others have ended this run: it was stopped, or cut off from the database, for longer than its lease. Whether it is
/// registered again; not while the database does not answer.
async fn register_anew(terms: &Terms, view: &View) -> anyhow::Result<bool> {
    let clock = CoreClock::default();
    let (was, since) = (terms.tenure.incarnation(), clock.tick());
    while terms.running.get() > 0 && clock.tick().since(since) < PASSES_END_WITHIN {
        tokio::time::sleep(LOOK).await;
    }
    let Ok(registered) = register_once(&terms.metadata, &register_change(view, &terms.board)?).await? else {
        return Ok(false);
    };
    tracing::warn!(
        was = was.0,
        incarnation = registered.incarnation.0,
        "this instance's lease had lapsed: it registered anew"
    );
    terms.set_incarnation(registered.incarnation);
    Ok(true)
}

/// At the end of an orderly stop: the others need not wait for the lease to lapse.
pub async fn leave(terms: &Terms) {
    if terms.tenure.has_lease()
        && let Err(failure) = renew(terms, false, true).await
        && failure.kind != Kind::Overloaded
    {
        tracing::warn!(%failure, "the lease could not be given back: it lapses");
    }
}
