//! The metadata desk: gathers calls into batches, keeps the location cache and the board exact, and answers.
//!
//! A state machine over any `MetadataStore`, for one thread and any executor: the metadata thread runs it on tokio, the
//! simulator on its own. Calls come through a bounded flume channel, each with its way back (`ReplyTo`).
//!
//! - Changes that arrive while a transaction is under way form the next batch; two that share a subject never share a batch
//!   and keep their order (queue.rs). A store that bears it has several batches under way (under_way.rs). Lookups and other
//!   queries run beside them.
//! - A key that a batch may alter is absent from the cache from before the batch until its outcome is known (locations.rs).
//! - A lost answer is resolved by the batch's id before anything is begun again; a batch that failed for one bad change is
//!   tried change by change, so that it fails no neighbour.
//! - The cache and the board are written after COMMIT returned and before anybody is answered.
//! - What was begun for a caller that nobody can tell any more is ended by the desk itself.
//! - While the database does not answer, nobody waits longer than `DeskLimits::answer_within` to be told so; and after some
//!   failures in a row nobody is let through at all until a probe has succeeded (probe.rs).

mod asked;
mod batch;
mod local;
mod locations;
mod probe;
mod queue;
mod under_way;

use super::board::Board;
use super::database_state::DatabaseState;
use super::port::{Answer, Change, MetadataStore, Outcome, Query};
use crate::base::{BackendName, Clock, Dice, Failure, Tick};
use crate::observe::cells::DeskCells;
use crate::policy::breaker::{BreakerSettings, State};
use asked::Asked;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use queue::{Queue, is_end};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use under_way::UnderWay;

pub use local::{LocalMetadata, local};
pub use locations::Locations;

/// What is asked of the desk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ask {
    Change(Change),
    Query(Query),
}

/// What it answers: a change with a change's, a query with a query's.
#[derive(Clone, Debug)]
pub enum Reply {
    Change(Result<Outcome, Failure>),
    Query(Result<Answer, Failure>),
}

/// One call and its way back.
#[derive(Debug)]
pub struct Call<R> {
    pub ask: Ask,
    pub reply: R,
}

/// The way back to a caller. Never blocks.
pub trait ReplyTo {
    /// Gives the reply back if nobody waits for it any more: what was begun for that caller is then ended. A way back that
    /// cannot know (another thread's mailbox) answers Ok, and its other side sees to that.
    #[allow(clippy::result_large_err)] // a reply is moved once, whoever takes it
    fn send(self, reply: Reply) -> Result<(), Reply>;
}

impl ReplyTo for tokio::sync::oneshot::Sender<Reply> {
    fn send(self, reply: Reply) -> Result<(), Reply> {
        self.send(reply)
    }
}

/// How much the desk takes on.
#[derive(Clone, Copy, Debug)]
pub struct DeskLimits {
    /// Changes of one transaction.
    pub batch_changes_max: usize,
    /// A batch is begun beside another one when so many changes can be taken into it; None: as many as come to it of all that
    /// are there (under_way.rs).
    pub beside_changes_min: Option<usize>,
    /// Changes waiting; beyond, begins are refused with `Kind::Overloaded`. Ends of what was begun are always taken.
    pub waiting_changes_max: usize,
    /// Queries under way; beyond, they are refused likewise.
    pub queries_max: usize,
    /// How long callers wait while a batch does not come back, or its lost answer is not resolved
    /// (`database.call_timeout`). The desk goes on after that.
    pub answer_within: Duration,
    /// The database's breaker (`circuit_breaker.*`).
    pub breaker: BreakerSettings,
}

impl Default for DeskLimits {
    fn default() -> Self {
        Self {
            batch_changes_max: 256,
            beside_changes_min: None,
            waiting_changes_max: 4096,
            queries_max: 2048,
            answer_within: Duration::from_secs(2),
            breaker: BreakerSettings {
                failure_threshold: 3,
                open_timeout: Duration::from_secs(15),
                probe_max: Duration::from_secs(4),
            },
        }
    }
}

/// Where charges are shown, and whose place is whose.
#[derive(Debug, Default)]
struct Shown {
    board: Arc<Board>,
    places: Vec<BackendName>,
    /// All that was ever told, for a board that comes later.
    charged: HashMap<BackendName, u64>,
}

#[derive(Debug)]
pub struct Desk<S, C, D> {
    store: S,
    clock: C,
    dice: D,
    limits: DeskLimits,
    locations: RefCell<Locations>,
    shown: RefCell<Shown>,
    cells: Arc<DeskCells>,
    state: Arc<DatabaseState>,
    /// The last query failed: while the breaker is open, queries are refused only then. A database that takes no changes
    /// (a full disk) is still read exactly.
    queries_fail: Cell<bool>,
    /// The last change failed. Failures of one kind are not forgiven for successes of the other.
    changes_fail: Cell<bool>,
    /// The last change was failed by a database that answers: what waits behind it waits for others' transactions.
    kept_waiting: Cell<bool>,
    /// A batch is under way, and so no probe may run beside it.
    running: Cell<bool>,
    /// Batches under way that the database has not carried out at once: nothing new is begun beside them.
    in_trouble: Cell<usize>,
    /// An empty batch is under way to find out whether changes work.
    probing: Cell<bool>,
    /// Ends that failed and that nobody waits for: asked for again when the store works again.
    postponed: RefCell<Vec<Change>>,
}

/// Events handled before the executor's other tasks have a turn.
const EVENTS_PER_TURN: u32 = 256;

#[allow(clippy::large_enum_variant)] // most events are arrivals
enum Event<R> {
    /// The oldest batch under way has taken `answer_within` or more.
    Stalled,
    /// Some query may have.
    QueryStalled,
    /// The breaker has closed again.
    Probed,
    /// The batch of that number, with ends of what was begun for callers that are gone.
    BatchDone(u64, Vec<Change>),
    Answered,
    Arrived(Call<R>),
    Closed,
}

type Alarm<'d> = Pin<Box<dyn Future<Output = ()> + 'd>>;

impl<S: MetadataStore, C: Clock, D: Dice> Desk<S, C, D> {
    pub fn new(store: S, clock: C, dice: D, limits: DeskLimits, locations: Locations) -> Self {
        Self {
            store,
            clock,
            dice,
            limits,
            locations: RefCell::new(locations),
            shown: RefCell::default(),
            cells: Arc::default(),
            state: Arc::new(DatabaseState::new(limits.breaker)),
            queries_fail: Cell::new(false),
            changes_fail: Cell::new(false),
            kept_waiting: Cell::new(false),
            running: Cell::new(false),
            in_trouble: Cell::new(0),
            probing: Cell::new(false),
            postponed: RefCell::default(),
        }
    }

    pub fn store(&self) -> &S {
        &self.store
    }

    pub fn cells(&self) -> Arc<DeskCells> {
        self.cells.clone()
    }

    /// What other threads may know without asking.
    pub fn state(&self) -> Arc<DatabaseState> {
        self.state.clone()
    }

    /// Shows charges on this board from now on: `places` are its backends in order (the published view's).
    pub fn show_on(&self, board: Arc<Board>, places: Vec<BackendName>) {
        let mut shown = self.shown.borrow_mut();
        for (place, name) in places.iter().enumerate() {
            board.set_charged_bytes(place, shown.charged.get(name).copied().unwrap_or(0));
        }
        (shown.board, shown.places) = (board, places);
    }

    /// Works until the inbox is closed and everything taken from it is answered. Run it once at a time.
    /// Cancel: as a crash; callers are not answered, and what was begun stays until recovery.
    pub async fn run<R: ReplyTo>(&self, inbox: flume::Receiver<Call<R>>) {
        let mut queue = Queue::default();
        let mut under_way = UnderWay::default();
        let mut running = FuturesUnordered::new();
        // Of the oldest batch under way.
        let mut alarm: Option<(u64, Alarm<'_>)> = None;
        let asked = RefCell::new(Asked::default());
        let mut queries = FuturesUnordered::new();
        let mut query_alarm: Option<Alarm<'_>> = None;
        let mut probing: Option<Alarm<'_>> = None;
        let mut arrivals = inbox.stream();
        let mut open = true;
        let mut events = 0;
        loop {
            if !self.state.circuit.is_closed() && probing.is_none() {
                probing = Some(Box::pin(self.probe_until_closed()));
            }
            if query_alarm.is_none() && !queries.is_empty() {
                query_alarm = Some(Box::pin(self.clock.sleep(self.limits.answer_within)));
            }
            while self.may_begin(&under_way) {
                // What has arrived already goes into this batch. Taken from the stream too: a receiver that is woken for
                // what somebody else has taken wakes itself at every poll from then on.
                while queue.len() < self.limits.batch_changes_max
                    && let Some(Some(call)) = arrivals.next().now_or_never()
                {
                    if let Some((query, reply)) = self.admit(call, &mut queue, queries.len()) {
                        queries.push(self.answer(query, reply, &asked));
                    }
                }
                let enough = || under_way.enough_for_another(self.store.batches_in_flight_max());
                let beside = || self.limits.beside_changes_min.unwrap_or_else(enough);
                let at_least = if under_way.is_empty() { 1 } else { beside().min(self.limits.batch_changes_max) };
                let batch = queue.take_batch(self.limits.batch_changes_max, at_least, &under_way);
                self.cells.waiting.set(queue.len() as u64);
                let Some(batch) = batch else { break };
                let number = under_way.begin(&batch, queue.len(), self.clock.tick());
                running.push(self.carry_out(batch.changes).map(move |ends| (number, ends)));
            }
            if alarm.as_ref().map(|(of, _)| *of) != under_way.oldest().map(|(number, _)| number) {
                alarm = under_way.oldest().map(|(number, since)| {
                    let left = self.limits.answer_within.saturating_sub(self.clock.tick().since(since));
                    (number, Box::pin(self.clock.sleep(left)) as Alarm<'_>)
                });
            }
            self.running.set(!under_way.is_empty());
            if !open && under_way.is_empty() && queries.is_empty() {
                return;
            }
            let event = std::future::poll_fn(|context| {
                events += 1;
                if events > EVENTS_PER_TURN {
                    events = 0;
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                if let Poll::Ready(Some((number, ends))) = running.poll_next_unpin(context) {
                    return Poll::Ready(Event::BatchDone(number, ends));
                }
                if let Some((_, rings)) = &mut alarm
                    && rings.as_mut().poll(context).is_ready()
                {
                    return Poll::Ready(Event::Stalled);
                }
                if let Poll::Ready(Some(())) = queries.poll_next_unpin(context) {
                    return Poll::Ready(Event::Answered);
                }
                if let Some(rings) = &mut query_alarm
                    && rings.as_mut().poll(context).is_ready()
                {
                    return Poll::Ready(Event::QueryStalled);
                }
                if let Some(probe) = &mut probing
                    && probe.as_mut().poll(context).is_ready()
                {
                    return Poll::Ready(Event::Probed);
                }
                if open && let Poll::Ready(call) = arrivals.poll_next_unpin(context) {
                    return Poll::Ready(call.map_or(Event::Closed, Event::Arrived));
                }
                Poll::Pending
            });
            match event.await {
                Event::BatchDone(number, ends) => {
                    under_way.end(number);
                    queue.look_again();
                    ends.into_iter().for_each(|end| queue.push(end, self.clock.tick(), None));
                }
                Event::Stalled => {
                    self.tell_stalled(&mut queue);
                    if let Some((_, rings)) = &mut alarm {
                        *rings = Box::pin(self.clock.sleep(self.limits.answer_within / 4));
                    }
                }
                Event::Answered => {}
                Event::Probed => probing = None,
                Event::QueryStalled => {
                    self.tell_unanswered(&asked);
                    let again = self.limits.answer_within / 4;
                    query_alarm = (!queries.is_empty()).then(|| Box::pin(self.clock.sleep(again)) as Alarm<'_>);
                }
                Event::Arrived(call) => {
                    if let Some((query, reply)) = self.admit(call, &mut queue, queries.len()) {
                        queries.push(self.answer(query, reply, &asked));
                    }
                }
                Event::Closed => open = false,
            }
        }
    }

    fn may_begin(&self, under_way: &UnderWay) -> bool {
        let goes_well = || self.in_trouble.get() == 0 && self.state.circuit.is_closed();
        let bears = under_way.is_empty() || goes_well() && under_way.bears_another(self.store.batches_in_flight_max());
        bears && !self.probing.get()
    }

    /// Queues a change, gives a query back to be answered, or refuses what would be too much.
    fn admit<R: ReplyTo>(&self, call: Call<R>, queue: &mut Queue<R>, queries: usize) -> Option<(Query, R)> {
        match call.ask {
            Ask::Change(change) if self.is_refused(&change) => {
                let _ = call.reply.send(Reply::Change(Err(refused()))); // nothing was begun
                None
            }
            Ask::Query(_) if self.queries_fail.get() && !self.state.circuit.is_closed() => {
                let _ = call.reply.send(Reply::Query(Err(refused()))); // nothing was begun
                None
            }
            Ask::Change(change) => {
                if queue.len() >= self.limits.waiting_changes_max && change.may_be_refused() {
                    self.cells.refused.inc();
                    let refused = Failure::overloaded("too many changes wait for the database");
                    let _ = call.reply.send(Reply::Change(Err(refused))); // nothing was begun
                } else {
                    queue.push(change, self.clock.tick(), Some(call.reply));
                }
                None
            }
            Ask::Query(_) if queries >= self.limits.queries_max => {
                self.cells.refused.inc();
                let refused = Failure::overloaded("too many queries wait for the database");
                let _ = call.reply.send(Reply::Query(Err(refused))); // nothing was begun
                None
            }
            Ask::Query(query) => Some((query, call.reply)),
        }
    }

    /// Tells those who have waited long enough that the database does not answer, or that others keep it busy. Nothing of
    /// theirs has run, and nothing will, except ends: they are asked for still.
    fn tell_stalled<R: ReplyTo>(&self, queue: &mut Queue<R>) {
        let now = self.clock.tick();
        for (since, caller) in queue.expire(|since| now.since(since) >= self.limits.answer_within) {
            self.cells.failures.inc();
            let failure = if self.kept_waiting.get() { busy() } else { unanswered() };
            self.noted(since, false, Err::<(), _>(&failure));
            let _ = caller.send(Reply::Change(Err(failure))); // nothing was begun
        }
    }

    /// The same for queries. Each of them counts as a failed call, when it is told so.
    fn tell_unanswered<R: ReplyTo>(&self, asked: &RefCell<Asked<R>>) {
        let now = self.clock.tick();
        let late = asked.borrow_mut().expire(|since| now.since(since) >= self.limits.answer_within);
        for (since, caller) in late {
            self.cells.failures.inc();
            self.noted(since, true, Err::<(), _>(&unanswered()));
            let _ = caller.send(Reply::Query(Err(unanswered()))); // a reader that is gone needs nothing
        }
    }

    /// While the breaker is open nothing is begun; the ends of what was begun are kept until they can be asked for.
    fn is_refused(&self, change: &Change) -> bool {
        !self.state.circuit.is_closed() && !is_end(change)
    }

    /// Tells the breaker how a call that `began` then has ended, by the database's own fault or well. A failure of another
    /// kind says nothing.
    fn noted<T>(&self, began: Tick, is_query: bool, result: Result<T, &Failure>) {
        let (this, other) = match is_query {
            true => (&self.queries_fail, &self.changes_fail),
            false => (&self.changes_fail, &self.queries_fail),
        };
        if !is_query {
            self.kept_waiting.set(result.as_ref().is_err_and(|failure| !failure.is_of_database()));
        }
        match result {
            Ok(_) => {
                this.set(false);
                if !other.get() {
                    self.state.circuit.succeeded(began, self.clock.tick());
                }
            }
            Err(failure) if failure.is_of_database() => {
                this.set(true);
                self.failed(began);
            }
            Err(_) => {}
        }
    }

    /// The breaker opens after some of these; then nothing that is open to the database is trusted any more.
    fn failed(&self, began: Tick) {
        let was_open = self.state.circuit.state() == State::Open;
        self.state.circuit.failed(began, self.clock.tick(), self.dice.roll());
        if !was_open && self.state.circuit.state() == State::Open {
            self.store.drop_sessions();
        }
    }

    /// A lookup's answer goes into the cache if nothing touched its key meanwhile.
    async fn answer<R: ReplyTo>(&self, query: Query, reply: R, asked: &RefCell<Asked<R>>) {
        let began = self.clock.tick();
        let place_asked = asked.borrow_mut().put(began, reply);
        let looked_up = match &query {
            Query::Lookup { bucket, key } => {
                let place = self.locations.borrow().place(bucket, key, began);
                place.map(|place| (place, bucket.clone(), key.clone()))
            }
            _ => None,
        };
        self.cells.queries.inc();
        let answer = self.store.query(query).await;
        if answer.is_err() {
            self.cells.failures.inc();
        }
        if let (Some((place, bucket, key)), Ok(Answer::Lookup(found))) = (looked_up, &answer) {
            self.locations.borrow_mut().looked_up(place, &bucket, &key, found.as_ref());
        }
        if let Some(reply) = asked.borrow_mut().end(place_asked) {
            self.noted(began, true, answer.as_ref());
            let _ = reply.send(Reply::Query(answer)); // a reader that is gone needs nothing
        }
    }
}

fn unanswered() -> Failure {
    Failure::metadata("the database does not answer")
}

fn busy() -> Failure {
    Failure::overloaded("changes of others keep the database busy")
}

fn refused() -> Failure {
    Failure::metadata("the database does not answer: its breaker is open")
}

#[cfg(test)]
mod tests;
