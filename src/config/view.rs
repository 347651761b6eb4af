//! The configuration as published: immutable, shared by every thread, with the lookups that requests need prepared. The
//! control core publishes it; reactors hold an `Arc` and never lock.

use super::checked::{Backend, Config};
use crate::base::BackendName;
use std::collections::HashMap;
use std::ops::Deref;

/// Everything of `Config` (through `Deref`) as the process started with it. Buckets and users may change after that: they
/// are in the `Registry`.
#[derive(Debug)]
pub struct View {
    config: Config,
    backends: HashMap<BackendName, usize>,
}

impl View {
    pub fn new(config: Config) -> Self {
        let backends = config.backends.iter().enumerate().map(|(i, one)| (one.name.clone(), i)).collect();
        Self { config, backends }
    }

    /// Place of a backend in `backends`, which is also its index in every core's cells and pools. None for a name that only
    /// rows know.
    pub fn backend_index(&self, name: &BackendName) -> Option<usize> {
        self.backends.get(name).copied()
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
