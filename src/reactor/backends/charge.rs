//! What a call has taken from its backend's budget and not used yet: given back when nobody holds it any more.

use crate::backend::budget::{Budgets, Fare, Spend, Taken};
use std::sync::Arc;

/// After a failure so much more of a body may have left than the relay has counted (one pipe, or one buffer).
const UNCOUNTED_BYTES_MAX: u64 = 1024 * 1024;

/// Boxed by who holds one: most calls have none, and what could hold it passes through many hands.
pub(super) struct Charge {
    budgets: Arc<Budgets>,
    backend: usize,
    taken: Taken,
    /// What was taken at first, or was left at the month's turn.
    whole: Spend,
    rest: Spend,
    /// Of the rest of an outgoing body, this much may be on its way.
    uncounted: u64,
}

impl Charge {
    /// `whole` was taken then.
    pub(super) fn new(budgets: &Arc<Budgets>, backend: usize, taken: Taken, whole: Spend) -> Self {
        Self { budgets: Arc::clone(budgets), backend, taken, whole, rest: whole, uncounted: 0 }
    }

    pub(super) fn fare(&self) -> Fare {
        Fare { backend: self.backend, taken: self.taken }
    }

    /// The request, with a body that is in hand, is on its way: nothing comes back.
    pub(super) fn all_sent(mut self) {
        self.look_at_the_calendar();
        self.rest = Spend::default();
    }

    /// The head of the request is on its way, and its body begins.
    pub(super) fn head_sent(&mut self) {
        self.rest.call = None;
        self.uncounted = UNCOUNTED_BYTES_MAX;
    }

    /// So many bytes of a body have left us, or have come.
    pub(super) fn moved(&mut self, bytes: u64) {
        self.look_at_the_calendar();
        self.rest.ingress = self.rest.ingress.saturating_sub(bytes);
        self.rest.egress = self.rest.egress.saturating_sub(bytes);
    }

    /// What moves after a month's turn is the new month's, and so are the bytes that are given back; the request is the old
    /// one's.
    fn look_at_the_calendar(&mut self) {
        if self.budgets.has_turned(self.taken) {
            self.taken = self.budgets.body_goes_on(self.backend, self.taken, &self.whole, &self.rest);
            self.rest.call = None;
            self.whole = self.rest;
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.look_at_the_calendar();
        let ingress = self.rest.ingress.saturating_sub(self.uncounted);
        self.budgets.body_ends(self.backend, self.taken, &self.whole, &Spend { ingress, ..self.rest });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::budget::Counter;
    use crate::base::BackendName;
    use crate::observe::cells::BackendCall;
    use crate::policy::usage::Budget;

    /// 100 bytes a month of each kind, all of it lent.
    fn lent() -> Arc<Budgets> {
        let budget = Budget { egress_bytes: 100, ingress_bytes: 100, ..Budget::default() };
        let budgets = Budgets::new([(&BackendName::new("b"), &budget)], Box::new(|| {}));
        budgets.counters().for_each(|counter| counter.lend(&budgets, 100));
        Arc::new(budgets)
    }

    fn charge(budgets: &Arc<Budgets>, egress: u64, ingress: u64) -> Charge {
        let spend = Spend { call: Some(BackendCall::Get), egress, ingress };
        let taken = budgets.admit_now(0, &spend).expect("it was lent");
        Charge::new(budgets, 0, taken, spend)
    }

    fn left(budgets: &Budgets) -> Vec<i64> {
        budgets.counters().map(|counter: &Counter| counter.left(budgets)).collect()
    }

    #[test]
    fn a_body_that_the_months_turn_overtakes_is_the_new_months() {
        let budgets = lent();
        drop(charge(&budgets, 100, 100));
        let (mut going, standing) = (charge(&budgets, 60, 0), charge(&budgets, 30, 0));
        let sent = charge(&budgets, 0, 40);
        going.moved(20);
        budgets.turn();
        assert_eq!(left(&budgets), [-90, -40], "before anything is lent of it");
        going.moved(10);
        assert_eq!(left(&budgets), [-70, -40], "20 had come before");
        drop(going);
        assert_eq!(left(&budgets), [-40, -40], "of the rest 10 have come, and 30 will not");
        drop(standing);
        sent.all_sent();
        assert_eq!(left(&budgets), [-10, -40]);
        budgets.turn();
        assert_eq!(left(&budgets), [0, 0], "nothing is under way");
    }
}
