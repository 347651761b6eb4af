//! Monthly budgets: leases, and what has been recorded of a month.

use super::super::port::{Answer, BudgetAsk, BudgetLease, BudgetRow, BudgetsLeased, LeaseBudgets, Usage, UsageRow};
use super::super::rules::{SPENT_UNSEEN, lend_of};
use super::read::Reader;
use super::rows;
use super::transaction::{Step, Transaction};
use crate::base::Incarnation;
use rusqlite::{Result, params};

impl Transaction<'_> {
    pub(super) fn lease_budgets(&mut self, lease: &LeaseBudgets) -> Step<BudgetsLeased> {
        let leases = lease.asks.iter().map(|ask| self.lease(lease, ask)).collect::<Result<_>>()?;
        Ok(BudgetsLeased { leases })
    }

    fn lease(&self, lease: &LeaseBudgets, ask: &BudgetAsk) -> Result<BudgetLease> {
        let (mine, others) = self.taken(lease, ask)?;
        let (lent, unseen) = lend_of(ask, mine, others, self.is_in_doubt(lease, ask)?);
        if let Some(granted) = unseen {
            self.put_lease(lease, ask, SPENT_UNSEEN, granted, 0)?;
        }
        self.put_lease(lease, ask, lease.incarnation, lent.granted, ask.used)?;
        Ok(lent)
    }

    /// Whether more of this budget may have been lent than is known, and nobody has reckoned yet how much.
    fn is_in_doubt(&self, lease: &LeaseBudgets, ask: &BudgetAsk) -> Result<bool> {
        self.conn
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM deployment WHERE name = 'budgets_in_doubt' AND value = ?1)
                     AND NOT EXISTS (SELECT 1 FROM budget_leases
                         WHERE period = ?1 AND backend = ?2 AND counter = ?3 AND incarnation = ?4)",
            )?
            .query_row(params![lease.period, ask.backend.as_str(), ask.counter, SPENT_UNSEEN.0], |row| row.get(0))
    }

    fn put_lease(
        &self,
        lease: &LeaseBudgets,
        ask: &BudgetAsk,
        holder: Incarnation,
        granted: u64,
        used: u64,
    ) -> Result<()> {
        self.execute(
            "INSERT INTO budget_leases (period, backend, counter, incarnation, granted, used)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO UPDATE SET granted = excluded.granted, used = excluded.used",
            params![
                lease.period,
                ask.backend.as_str(),
                ask.counter,
                holder.0,
                rows::signed(granted),
                rows::signed(used)
            ],
        )?;
        Ok(())
    }

    /// What this incarnation has recorded as usage, and what the others have taken.
    fn taken(&self, lease: &LeaseBudgets, ask: &BudgetAsk) -> Result<(u64, u64)> {
        let mut statement = self.conn.prepare_cached(
            "SELECT incarnation, max(taken) FROM (
                 SELECT incarnation, max(granted, used) AS taken FROM budget_leases
                 WHERE period = ?1 AND backend = ?2 AND counter = ?3 AND incarnation <> ?4
                 UNION ALL
                 SELECT incarnation, value FROM usage WHERE period = ?1 AND backend = ?2 AND counter = ?3
             ) GROUP BY incarnation",
        )?;
        let mut found =
            statement.query(params![lease.period, ask.backend.as_str(), ask.counter, lease.incarnation.0])?;
        let (mut mine, mut others) = (0, 0_u64);
        while let Some(row) = found.next()? {
            let taken = rows::count(row, 1)?;
            if row.get::<_, i64>(0)? == lease.incarnation.0 {
                mine = taken;
            } else {
                others = others.saturating_add(taken);
            }
        }
        Ok((mine, others))
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
