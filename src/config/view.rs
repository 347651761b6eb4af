//! The configuration as published: immutable, shared by every thread, with the lookups that requests need prepared. The
//! control core publishes it; reactors hold an `Arc` and never lock.

use super::checked::{Backend, Config};
use crate::base::BackendName;
use std::ops::Deref;

/// Everything of `Config` (through `Deref`) as the process started with it. Buckets, users and replication may change
/// after that: they are in the `Registry`.
#[derive(Debug)]
pub struct View {
    config: Config,
    /// In the order of their names. A request asks for several: among a few names that is a comparison or two, less than a
    /// hash costs.
    backends: Box<[(BackendName, usize)]>,
}

impl View {
    pub fn new(config: Config) -> Self {
        let mut backends: Vec<_> = config.backends.iter().enumerate().map(|(i, one)| (one.name.clone(), i)).collect();
        backends.sort_unstable();
        Self { config, backends: backends.into() }
    }

    /// Place of a backend in `backends`, which is also its index in every core's cells and pools. None for a name that only
    /// rows know.
    pub fn backend_index(&self, name: &BackendName) -> Option<usize> {
        let at = self.backends.binary_search_by(|(known, _)| known.cmp(name)).ok()?;
        Some(self.backends[at].1)
    }

    pub fn backend(&self, name: &BackendName) -> Option<&Backend> {
        self.backend_index(name).map(|i| &self.config.backends[i])
    }
}

impl Deref for View {
    type Target = Config;
    fn deref(&self) -> &Config {
        &self.config
    }
}
