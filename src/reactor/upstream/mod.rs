//! Connections to backends: made (`connect`) and kept warm (`pool`), per core.

pub mod connect;
pub mod pool;
