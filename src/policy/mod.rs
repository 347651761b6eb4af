//! Pure decisions: plain values in, plain values out, so that a table test can list every case. Time and chance are
//! arguments; nothing here waits, logs or counts.

pub mod access;
pub mod body_path;
pub mod breaker;
pub mod cors;
pub mod placement;
pub mod read_order;
pub mod retry;
pub mod usage;
