//! Monthly budgets: leases, and what has been recorded of a month.

use super::super::port::{Answer, BudgetAsk, BudgetLease, BudgetRow, BudgetsLeased, LeaseBudgets, Usage, UsageRow};
use super::super::rules::{SPENT_UNSEEN, lend_of};
use super::tables::{Lent, Tables};
use crate::base::Incarnation;
use std::collections::BTreeMap;

impl Tables {
    pub(super) fn lease_budgets(&mut self, lease: &LeaseBudgets) -> BudgetsLeased {
        BudgetsLeased { leases: lease.asks.iter().map(|ask| self.lease(lease, ask)).collect() }
    }

    fn lease(&mut self, lease: &LeaseBudgets, ask: &BudgetAsk) -> BudgetLease {
        let place = |by| (ask.backend.clone(), lease.period.clone(), ask.counter.clone(), by);
        let mut taken = self.taken(&lease.period, ask, lease.incarnation);
        let in_doubt = self.budgets_in_doubt == lease.period && !self.budgets.contains_key(&place(SPENT_UNSEEN));
        let mine = taken.remove(&lease.incarnation).unwrap_or(0);
        let others = taken.values().fold(0_u64, |sum, one| sum.saturating_add(*one));
        let (lent, unseen) = lend_of(ask, mine, others, in_doubt);
        if let Some(granted) = unseen {
            self.budgets.insert(place(SPENT_UNSEEN), Lent { granted, used: 0 });
        }
        self.budgets.insert(place(lease.incarnation), Lent { granted: lent.granted, used: ask.used });
        lent
    }

    /// What each incarnation has taken; of `but` only what it has recorded as usage, since its lease is being written anew.
    fn taken(&self, period: &str, ask: &BudgetAsk, but: Incarnation) -> BTreeMap<Incarnation, u64> {
        let mut taken: BTreeMap<Incarnation, u64> = BTreeMap::new();
        for ((backend, month, counter, incarnation), lent) in &self.budgets {
            if *backend == ask.backend && month == period && *counter == ask.counter && *incarnation != but {
                taken.insert(*incarnation, lent.granted.max(lent.used));
            }
        }
        for ((backend, month, incarnation), usage) in &self.usage {
            if *backend == ask.backend && month == period {
                let value = counted(usage, &ask.counter);
                let one = taken.entry(*incarnation).or_default();
                *one = (*one).max(value);
            }
        }
        taken
    }

    pub(super) fn recorded_usage(&self, period: &str) -> Answer {
        let of_month = self.usage.iter().filter(|((_, month, _), _)| month == period);
        let mut usage: Vec<UsageRow> = of_month
            .map(|((backend, _, incarnation), usage)| UsageRow {
                backend: backend.as_str().to_owned(),
                incarnation: *incarnation,
                usage: *usage,
            })
            .collect();
        usage.sort_by(|a, b| (&a.backend, a.incarnation).cmp(&(&b.backend, b.incarnation)));
        let of_month = self.budgets.iter().filter(|((_, month, _, _), _)| month == period);
        let mut budgets: Vec<BudgetRow> = of_month
            .map(|((backend, _, counter, incarnation), lent)| BudgetRow {
                backend: backend.as_str().to_owned(),
                counter: counter.clone(),
                incarnation: *incarnation,
                granted: lent.granted,
                used: lent.used,
            })
            .collect();
        budgets.sort_by(|a, b| (&a.backend, &a.counter, a.incarnation).cmp(&(&b.backend, &b.counter, b.incarnation)));
        Answer::Usage { usage, budgets }
    }
}

fn counted(usage: &Usage, counter: &str) -> u64 {
    match counter {
        "api_requests" => usage.api_requests,
        "egress_bytes" => usage.egress_bytes,
        "ingress_bytes" => usage.ingress_bytes,
        _ => 0,
    }
}
