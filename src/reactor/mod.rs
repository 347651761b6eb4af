//! Sockets, TLS, connections, upstream pools, relays, disk threads. The only layer that names the runtime.
//!
//! One `Core` per reactor thread holds what its tasks share: the driver's kind, clock, dice, fairness, deadlines, buffers,
//! pipes. What crosses threads goes through a `mailbox` and nothing else.

pub mod accept;
pub mod affinity;
pub mod backends;
pub mod buffer;
pub mod clock;
pub mod core;
pub mod deadline;
pub mod dice;
pub mod directory;
pub mod disk;
pub mod dns;
pub mod driver;
pub mod fair;
pub mod handle;
pub mod mailbox;
pub mod race;
pub mod relay;
pub mod signal;
pub mod stream;
pub mod task;
pub mod tls;
pub mod turns;
pub mod upstream;

#[cfg(test)]
pub(crate) mod testing;
