//! One at a time completes an upload: a client that asks again while it is still being done must not find it half done,
//! nor write a manifest over the one that is in force by then.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Names of blobs whose uploads are being completed.
#[derive(Debug, Default)]
pub(super) struct Completing {
    names: Mutex<HashSet<String>>,
    ended: Condvar,
}

impl Completing {
    /// Waits until nobody else completes this upload. Blocks.
    pub(super) fn enter(&self, name: &str) -> Turn<'_> {
        let mut names = self.names();
        while names.contains(name) {
            names = self.ended.wait(names).unwrap_or_else(PoisonError::into_inner);
        }
        names.insert(name.to_owned());
        Turn { of: self, name: name.to_owned() }
    }

    fn names(&self) -> MutexGuard<'_, HashSet<String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held while it is being completed.
pub(super) struct Turn<'c> {
    of: &'c Completing,
    name: String,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.of.names().remove(&self.name);
        self.of.ended.notify_all();
    }
}
