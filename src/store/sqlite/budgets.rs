//! Monthly budgets: leases, and what has been recorded of a month.

use super::super::lending::{Account, Lent, Month, SPENT_UNSEEN, months_around};
use super::super::port::{Answer, BudgetAsk, BudgetLease, BudgetRow, BudgetsLeased, LeaseBudgets, Usage, UsageRow};
use super::read::Reader;
use super::rows;
use super::transaction::{Step, Transaction};
use crate::base::{Incarnation, Timestamp};
use rusqlite::{Result, params};

impl Transaction<'_> {
    pub(super) fn lease_budgets(&mut self, lease: &LeaseBudgets) -> Step<BudgetsLeased> {
        let leases = lease.asks.iter().map(|ask| self.lease(lease, ask)).collect::<Result<_>>()?;
        Ok(BudgetsLeased { leases })
    }

    fn lease(&self, lease: &LeaseBudgets, ask: &BudgetAsk) -> Result<BudgetLease> {
        let account = self.account(lease, ask)?;
        let (lent, unseen) = account.lend(ask, lease.incarnation, self.now, self.is_in_doubt(lease)?);
        if let Some(granted) = unseen {
            self.put_lease(lease, ask, SPENT_UNSEEN, Lent { granted, ..Lent::default() })?;
        }
        let own = Lent { granted: lent.granted, used: ask.used, under_way: ask.under_way, told: self.now };
        self.put_lease(lease, ask, lease.incarnation, own)?;
        Ok(lent)
    }

    /// Whether more of this month may have been lent than is known.
    fn is_in_doubt(&self, lease: &LeaseBudgets) -> Result<bool> {
        self.conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM deployment WHERE name = 'budgets_in_doubt' AND value = ?1)")?
            .query_row([&lease.period], |row| row.get(0))
    }

    fn put_lease(&self, lease: &LeaseBudgets, ask: &BudgetAsk, holder: Incarnation, lent: Lent) -> Result<()> {
        self.execute(
            "INSERT INTO budget_leases (period, backend, counter, incarnation, granted, used, under_way, told)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT DO UPDATE SET granted = excluded.granted, used = excluded.used,
                 under_way = excluded.under_way, told = excluded.told",
            params![
                lease.period,
                ask.backend.as_str(),
                ask.counter,
                holder.0,
                rows::signed(lent.granted),
                rows::signed(lent.used),
                rows::signed(lent.under_way),
                lent.told.millis
            ],
        )?;
        Ok(())
    }

    fn account(&self, lease: &LeaseBudgets, ask: &BudgetAsk) -> Result<Account> {
        let mut account = Account::new(&lease.period);
        let mut leases = self.conn.prepare_cached(
            "SELECT incarnation, granted, used, under_way, told FROM budget_leases
             WHERE period = ?1 AND backend = ?2 AND counter = ?3",
        )?;
        let mut usage = self.conn.prepare_cached(
            "SELECT incarnation, value FROM usage WHERE period = ?1 AND backend = ?2 AND counter = ?3",
        )?;
        for (month, period) in [Month::Before, Month::This, Month::After].into_iter().zip(months_around(&lease.period))
        {
            let budget = params![period, ask.backend.as_str(), ask.counter];
            let mut found = leases.query(budget)?;
            while let Some(row) = found.next()? {
                let told = Timestamp { millis: row.get(4)? };
                let (granted, used) = (rows::count(row, 1)?, rows::count(row, 2)?);
                let lent = Lent { granted, used, under_way: rows::count(row, 3)?, told };
                account.lease(month, Incarnation(row.get(0)?), lent);
            }
            let mut found = usage.query(budget)?;
            while let Some(row) = found.next()? {
                account.recorded(month, Incarnation(row.get(0)?), rows::count(row, 1)?);
            }
        }
        Ok(account)
    }
}

impl Reader {
    pub(super) fn recorded_usage(&self, period: &str) -> Result<Answer> {
        let mut statement = self.conn.prepare_cached(
            "SELECT backend, incarnation, counter, value FROM usage WHERE period = ?1 ORDER BY backend, incarnation",
        )?;
        let mut found = statement.query([period])?;
        let mut usage: Vec<UsageRow> = Vec::new();
        while let Some(row) = found.next()? {
            let (backend, incarnation) = (rows::text(row, 0)?, Incarnation(row.get(1)?));
            if usage.last().is_none_or(|last| last.backend != backend || last.incarnation != incarnation) {
                usage.push(UsageRow { backend: backend.to_owned(), incarnation, usage: Usage::default() });
            }
            let one = &mut usage.last_mut().expect("pushed above").usage;
            let value = rows::count(row, 3)?;
            match rows::text(row, 2)? {
                "api_requests" => one.api_requests = value,
                "egress_bytes" => one.egress_bytes = value,
                "ingress_bytes" => one.ingress_bytes = value,
                _ => {} // a later program's
            }
        }
        let budgets = self
            .conn
            .prepare_cached(
                "SELECT backend, counter, incarnation, granted, used FROM budget_leases WHERE period = ?1
                 ORDER BY backend, counter, incarnation",
            )?
            .query_map([period], |row| {
                Ok(BudgetRow {
                    backend: rows::owned(row, 0)?,
                    counter: rows::owned(row, 1)?,
                    incarnation: Incarnation(row.get(2)?),
                    granted: rows::count(row, 3)?,
                    used: rows::count(row, 4)?,
                })
            })?
            .collect::<Result<_>>()?;
        Ok(Answer::Usage { usage, budgets })
    }
}
