//! The control core: it starts everything, decides when background jobs run, and answers operators. Never on the request path.

pub mod admin;
mod backend_checks;
mod certificate;
pub mod counters;
pub mod drains;
mod flush;
pub mod lease;
mod limits;
pub mod metadata;
pub mod mover;
mod registration;
pub mod registry;
pub mod schedule;
pub mod start;
pub mod stores;
mod threads;
