//! The metadata: the only authority on what exists and where (PROTOCOL.md, "Tables").
//!
//! `port` is what callers ask and a database must do: changes (change.rs) and queries (query.rs), each a plain value;
//! `record` is what rows hold, `rules` what every database decides the same way. `memory` is the reference implementation,
//! `sqlite` the embedded one, `postgres` the one that instances share; `conformance` is the suite that every implementation
//! passes. `desk` gathers calls into batches, keeps the location cache and the board exact, and answers.
//!
//! How the metadata thread puts it together (a tokio current-thread runtime):
//!
//! 1. `SqliteStore::open(path, rules, wall)`, before any thread serves: `wall` is the database's clock.
//! 2. `LocationCache::new(bytes, seed)`: the `Arc` goes to the reactors, the `CacheWriter` into the desk.
//! 3. `Desk::new(store, clock, dice, limits, locations)`, then `desk.show_on(board, places)` for the published view, and again
//!    whenever a view with other backends is published.
//! 4. `desk.run(inbox)`, where the inbox is a bounded flume channel of `Call { ask, reply }`. A reactor's mailbox implements
//!    `ReplyTo` by its own way back; `Metadata::lookup` asks the location cache first and sends a `Query::Lookup` only then.
//!    A full channel is the mailbox's 503 for what `Change::may_be_refused` says and for queries; ends of what was begun need
//!    a slot that their begin has kept.
//! 5. The first change is `Register`; its incarnation goes into every begin. `cells` are the desk's metrics.
//!
//! The desk ends when every sender is gone and all is answered; dropping the store then waits for its threads.

pub mod board;
pub mod change;
#[cfg(test)]
pub(crate) mod conformance;
pub mod database_state;
pub mod desk;
pub mod direct;
mod folding;
mod lending;
pub mod location_cache;
pub mod memory;
pub mod operator;
pub mod port;
pub mod postgres;
pub mod query;
pub mod record;
pub mod rules;
pub mod sqlite;
pub mod transfer;
