//! The configuration as published: immutable, shared by every thread, with the lookups that requests need prepared. The
//! control core publishes it; reactors hold an `Arc` and never lock.

use super::checked::{Backend, Bucket, Config, Credential};
use crate::base::BackendName;
use std::collections::HashMap;
use std::ops::Deref;

/// Everything of `Config` (through `Deref`), and who is who.
#[derive(Debug)]
pub struct View {
    config: Config,
    buckets: HashMap<Box<str>, usize>,
    credentials: HashMap<Box<str>, usize>,
    backends: HashMap<BackendName, usize>,
}

impl View {
    pub fn new(config: Config) -> Self {
        let buckets = config.buckets.iter().enumerate().map(|(i, one)| (one.name.as_str().into(), i)).collect();
        let credentials =
            config.credentials.iter().enumerate().map(|(i, one)| (one.access_key_id.clone(), i)).collect();
        let backends = config.backends.iter().enumerate().map(|(i, one)| (one.name.clone(), i)).collect();
        Self { config, buckets, credentials, backends }
    }

    pub fn bucket(&self, name: &str) -> Option<&Bucket> {
        self.buckets.get(name).map(|&i| &self.config.buckets[i])
    }

    pub fn credential(&self, access_key_id: &str) -> Option<&Credential> {
        self.credentials.get(access_key_id).map(|&i| &self.config.credentials[i])
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
