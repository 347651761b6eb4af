//! Connections to backends: made (`connect`) and kept warm (`pool`), per core; and one request with its answer on one of
//! them (`exchange`).

pub mod connect;
pub mod exchange;
pub mod pool;
