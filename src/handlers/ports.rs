//! What a handler or worker holds: the metadata, the backends, a clock, dice, the published view; and, for a request, the
//! client's side of the exchange. Reactors, the mover and the simulator each implement these once.

use crate::backend::budget::Budgets;
use crate::backend::health::Health;
use crate::backend::port::{Backends, Moved};
use crate::backend::standing::Standing;
use crate::base::{Clock, Dice, Failure, Incarnation, Mandate};
use crate::config::registry::Published;
use crate::config::view::View;
use crate::handlers::held::Held;
use crate::handlers::response::ResponseHead;
use crate::handlers::searched::Searched;
use crate::observe::cells::CoreCells;
use crate::proto::body_check::BodyCheck;
use crate::proto::error_code::S3Error;
use crate::store::board::Board;
use crate::store::port::{Change, Metadata};
use std::rc::Rc;

/// One core's way to everything that is not the client.
pub trait Ports: Backends {
    type Meta: Metadata;
    type Clock: Clock;
    type Dice: Dice;

    fn meta(&self) -> &Self::Meta;
    fn clock(&self) -> &Self::Clock;
    fn dice(&self) -> &Self::Dice;
    /// The configuration in force for this call.
    fn view(&self) -> &View;
    /// Buckets and users as this core knows them now. A request keeps what it began with (`Request::registry`).
    fn registry(&self) -> Rc<Published>;
    /// Ready when every core of this process knows the stored buckets of this generation of the store's. Cancel: safe.
    fn buckets_known(&self, generation: u64) -> impl Future<Output = Result<(), Failure>>;
    /// Bytes charged per backend, as of the last committed batch.
    fn board(&self) -> &Board;
    /// Which backends may be used, and what was measured of them.
    fn standing(&self) -> &Standing;
    /// What may still be asked of the backends this month.
    fn budgets(&self) -> &Budgets;
    /// This core's own view of which backends answer.
    fn health(&self) -> &Health;
    fn cells(&self) -> &CoreCells;
    /// What this core has found without the database.
    fn searched(&self) -> &Searched;
    fn incarnation(&self) -> Incarnation;
    /// To delete what the database is asked for from now on.
    fn mandate(&self) -> Mandate;
    /// The reserved blobs that tasks of this process hold, on any core.
    fn held(&self) -> &Held;
    /// Hands over the end of what was begun (AbandonWrite, AbandonPart, AbortUpload), which its task cannot wait for: a
    /// panic, a client that waits for its error. It is asked for in the background until the store has answered. Never blocks, never fails.
    fn end_later(&self, end: Change);
    /// A change was committed that a worker waits for (bytes to delete, a copy to make).
    fn wake(&self, worker: Worker);
}

/// Workers that a commit can wake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Worker {
    Cleanup,
    Replicate,
}

/// The client's side of one request. A handler answers exactly once: `respond`, or `send_head` and then bodies.
pub trait Exchange<P: Ports> {
    /// The head to fill in; status 200 and no fields at the start of a request. Date, request id, connection and server
    /// fields are added when it is sent.
    fn head(&mut self) -> &mut ResponseHead;

    /// Reads a whole body of at most `max` bytes into memory that the exchange owns, after `100 Continue` if the client
    /// waits for it, through `check`. A longer one is EntityTooLarge (or MalformedXML for XML bodies, the caller's choice).
    /// Cancel: NOT safe.
    fn receive(&mut self, max: usize, check: &mut BodyCheck) -> impl Future<Output = Result<(), S3Error>>;

    /// What `receive` read.
    fn received(&self) -> &[u8];

    /// Moves the request's body into the sinks (1..K), after `100 Continue` if the client waits for it. The body ends
    /// complete only if `check.end` finds it right: its last bytes are withheld until then. `Moved::bytes` counts what the
    /// most advanced sink was given; a failure of any sink ends the movement. Cancel: NOT safe.
    fn receive_into(&mut self, sinks: &mut [P::Sink], check: &mut BodyCheck) -> impl Future<Output = Moved>;

    /// Sends the head and a body that is in hand; `Content-Length` is its length, except for HEAD requests, where the head
    /// keeps the length set in it and no body is sent. Cancel: NOT safe.
    fn respond(&mut self, body: &[u8]) -> impl Future<Output = Result<(), Failure>>;

    /// Does `work` for a request whose body was read. If that takes long, the client is kept waiting with a status of 200 and
    /// white space, as AWS does: what `respond` says after that, an error too, stands in the body only, whose document must
    /// begin with the XML declaration. Cancel: NOT safe.
    fn patiently<T>(&mut self, work: impl Future<Output = T>) -> impl Future<Output = T>;

    /// Sends the head for a body that `send_from` will bring: `length` bytes. May be held back to leave with the first
    /// body bytes. Cancel: NOT safe.
    fn send_head(&mut self, length: u64) -> impl Future<Output = Result<(), Failure>>;

    /// Moves a source's bytes to the client. After `MoveEnd::Source` another source may go on at the exact offset; if none
    /// can, the handler calls `cut`. Cancel: NOT safe.
    fn send_from(&mut self, source: P::Source) -> impl Future<Output = Moved>;

    /// What the audit line adds to the request itself: which backend served it.
    fn note_backend(&mut self, backend: usize);

    /// The S3 error that the client is about to get: for the audit line, and to say in the head that the connection closes
    /// if it does.
    fn note_error(&mut self, error: &S3Error);

    /// Whether an error can no longer be answered: a head has been sent, and not by `patiently`.
    fn answered(&self) -> bool;

    /// The connection must end. Before the answer is whole it is cut, so that a short body never looks finished; after it,
    /// closed in order.
    fn cut(&mut self);
}
