//! What a call has taken from its backend's budget and not used yet: given back when nobody holds it any more.

use crate::backend::budget::{Budgets, Spend, Taken};
use std::sync::Arc;

/// After a failure so much more of a body may have left than the relay has counted (one pipe, or one buffer).
const UNCOUNTED_BYTES_MAX: u64 = 1024 * 1024;

pub(super) struct Charge {
    budgets: Arc<Budgets>,
    backend: usize,
    taken: Taken,
    rest: Spend,
    /// Of the rest of an outgoing body, this much may be on its way.
    uncounted: u64,
}

impl Charge {
    /// `rest` was taken then.
    pub(super) fn new(budgets: &Arc<Budgets>, backend: usize, taken: Taken, rest: Spend) -> Self {
        Self { budgets: Arc::clone(budgets), backend, taken, rest, uncounted: 0 }
    }

    /// The request, with a body that is in hand, is on its way: nothing comes back.
    pub(super) fn all_sent(mut self) {
        self.rest = Spend::default();
    }

    /// The head of the request is on its way, and its body begins.
    pub(super) fn head_sent(&mut self) {
        self.rest.call = None;
        self.uncounted = UNCOUNTED_BYTES_MAX;
    }

    /// So many bytes of a body have left us, or have come.
    pub(super) fn moved(&mut self, bytes: u64) {
        self.rest.ingress = self.rest.ingress.saturating_sub(bytes);
        self.rest.egress = self.rest.egress.saturating_sub(bytes);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let ingress = self.rest.ingress.saturating_sub(self.uncounted);
        self.budgets.give_back(self.backend, self.taken, &Spend { ingress, ..self.rest });
    }
}
