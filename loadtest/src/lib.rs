//! S3 load: a client of its own, a plan and its figures, and a stub that keeps no bodies. The `loadtest` binary puts a
//! command line on it; `bench` drives the same code.

pub mod body;
pub mod client;
mod cores;
pub mod load;
pub mod report;
pub mod sign;
pub mod size;
mod socket;
pub mod stub;
mod wire;
