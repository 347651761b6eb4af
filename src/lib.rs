//! S3 Orchestrator: one S3 endpoint in front of many S3-compatible backends, a thread per core.
//!
//! Layers, bottom to top; an import points only downwards (tests/tidy.rs):
//!
//! | layer | holds |
//! |---|---|
//! | [`base`] | ids, byte counts, clocks, dice, failures, limits, secrets |
//! | [`proto`] | pure bytes to meaning and back: HTTP/1.1, SigV4, aws-chunked, XML, targets, operations |
//! | [`policy`] | pure decisions: placement, read order, body path, retry, access |
//! | [`config`] | as written, as meant, as published |
//! | [`observe`] | metric cells, histograms, audit log |
//! | [`store`] | the metadata port and its databases; batching; the location cache |
//! | [`backend`] | the backend port and its request building; S3 endpoints and local directories |
//! | [`handlers`] | one file per S3 verb, straight-line async functions over the ports |
//! | [`workers`] | one file per background job |
//! | [`reactor`] | sockets, TLS, connections, upstream pools, relays, disk threads: the only layer that names the runtime |
//! | [`control`] | the metadata desk's thread, schedule, admin, metrics, signals |
//! | [`cli`] | serve, dev, validate, version |

pub mod backend;
pub mod base;
pub mod cli;
pub mod config;
pub mod control;
pub mod fuzz;
pub mod handlers;
pub mod observe;
pub mod policy;
pub mod proto;
pub mod reactor;
pub mod store;
pub mod workers;
