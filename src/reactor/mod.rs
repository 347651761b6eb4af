//! Sockets, TLS, connections, upstream pools, relays, disk threads. The only layer that names the runtime.
//!
//! One `Core` per reactor thread holds what its tasks share: the driver's kind, clock, dice, fairness, deadlines, buffers,
//! pipes. What crosses threads goes through a `mailbox` and nothing else.

pub mod accept;
pub mod affinity;
pub mod backends;
pub mod buffer;
pub mod client;
pub mod client_body;
mod client_form;
pub mod client_relay;
pub mod clock;
pub mod connection;
pub mod core;
pub mod deadline;
pub mod dice;
pub mod directory;
pub mod disk;
pub mod dns;
pub mod driver;
pub mod fair;
pub mod handle;
pub mod jobs;
pub mod mailbox;
pub mod metadata;
pub mod outbox;
pub mod ports;
pub mod publication;
pub mod race;
pub mod readiness;
pub mod receive_buffer;
pub mod relay;
pub mod run;
pub mod signal;
pub mod site;
pub mod stream;
pub mod task;
pub mod tls;
pub mod turns;
pub mod upstream;
pub mod wake;

#[cfg(test)]
pub(crate) mod testing;
