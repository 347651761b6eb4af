//! Monthly budgets: leases, and what has been recorded of a month.

use super::super::lending::{Account, Lent, Month, SPENT_UNSEEN, months_around};
use super::super::port::{Answer, BudgetAsk, BudgetLease, BudgetRow, BudgetsLeased, LeaseBudgets, Usage, UsageRow};
use super::tables::Tables;
use crate::base::Timestamp;

impl Tables {
    pub(super) fn lease_budgets(&mut self, lease: &LeaseBudgets, now: Timestamp) -> BudgetsLeased {
        BudgetsLeased { leases: lease.asks.iter().map(|ask| self.lease(lease, ask, now)).collect() }
    }

    fn lease(&mut self, lease: &LeaseBudgets, ask: &BudgetAsk, now: Timestamp) -> BudgetLease {
        let place = |by| (ask.backend.clone(), lease.period.clone(), ask.counter.clone(), by);
        let in_doubt = self.budgets_in_doubt == lease.period;
        let (lent, unseen) = self.account(&lease.period, ask).lend(ask, lease.incarnation, now, in_doubt);
        if let Some(granted) = unseen {
            self.budgets.insert(place(SPENT_UNSEEN), Lent { granted, ..Lent::default() });
        }
        let own = Lent { granted: lent.granted, used: ask.used, under_way: ask.under_way, told: now };
        self.budgets.insert(place(lease.incarnation), own);
        lent
    }

    fn account(&self, period: &str, ask: &BudgetAsk) -> Account {
        let [before, this, after] = months_around(period);
        let month = |period: &str| match period {
            _ if *period == this => Some(Month::This),
            _ if *period == before => Some(Month::Before),
            _ if *period == after => Some(Month::After),
            _ => None,
        };
        let mut account = Account::new(period);
        for ((backend, period, counter, of), lent) in &self.budgets {
            if let Some(month) = month(period).filter(|_| *backend == ask.backend && *counter == ask.counter) {
                account.lease(month, *of, *lent);
            }
        }
        for ((backend, period, of), usage) in &self.usage {
            if let Some(month) = month(period).filter(|_| *backend == ask.backend) {
                account.recorded(month, *of, counted(usage, &ask.counter));
            }
        }
        account
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
