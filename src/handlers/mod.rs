//! One file per S3 verb: straight-line async functions over the ports, the same on a reactor, on the mover and in the
//! simulator.

pub mod ports;
pub mod request;
pub mod response;
