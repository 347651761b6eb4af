//! The metadata: the only authority on what exists and where (PROTOCOL.md, "Tables").
//!
//! `port` is what callers ask (changes and queries, each a plain value); `record` is what rows hold. A `MetadataStore`
//! carries out a batch of changes as one transaction; `desk` gathers calls into batches, keeps the location cache exact,
//! and answers. `memory` is the reference implementation, `sqlite` the embedded one; `conformance` is the suite that
//! every implementation passes.

pub mod board;
pub mod change;
#[cfg(test)]
mod conformance;
pub mod direct;
pub mod location_cache;
pub mod memory;
pub mod port;
pub mod query;
pub mod record;
pub mod rules;
pub mod sqlite;
