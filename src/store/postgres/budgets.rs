//! Monthly budgets: leases, one at a time over all instances, and what has been recorded of a month.

use super::super::port::{
    Answer, Applied, ApplyError, BatchId, BudgetAsk, BudgetLease, BudgetRow, BudgetsLeased, LeaseBudgets, Outcome,
    Usage, UsageRow,
};
use super::PostgresStore;
use super::migrate::{LOCK_BUDGETS, LOCKS};
use super::rows::{Columns, Read};
use super::sessions::{Blamed, Session, Sql, sql};
use crate::base::{Failure, Incarnation};
use crate::policy::usage::lend;

static LOCK: Sql = sql!("SELECT pg_advisory_xact_lock($1, $2)", INT4, INT4);
static TAKEN: Sql = sql!(
    "SELECT incarnation, max(taken)::bigint FROM (
         SELECT incarnation, greatest(granted, used) AS taken FROM budget_leases
         WHERE period = $1 AND backend = $2 AND counter = $3 AND incarnation <> $4
         UNION ALL
         SELECT incarnation, value FROM usage WHERE period = $1 AND backend = $2 AND counter = $3
     ) AS by_incarnation GROUP BY incarnation",
    TEXT,
    TEXT,
    TEXT,
    INT8
);
static PUT: Sql = sql!(
    "INSERT INTO budget_leases (period, backend, counter, incarnation, granted, used) VALUES ($1, $2, $3, $4, $5, $6)
     ON CONFLICT (period, backend, counter, incarnation)
         DO UPDATE SET granted = excluded.granted, used = excluded.used",
    TEXT,
    TEXT,
    TEXT,
    INT8,
    INT8,
    INT8
);
static USAGE: Sql = sql!(
    "SELECT backend, incarnation, counter, value FROM usage WHERE period = $1 ORDER BY backend COLLATE \"C\", incarnation",
    TEXT
);
static LEASES: Sql = sql!(
    "SELECT backend, counter, incarnation, granted, used FROM budget_leases WHERE period = $1
     ORDER BY backend, counter, incarnation",
    TEXT
);

impl PostgresStore {
    /// Cancel: NOT safe.
    pub(super) async fn lease_budgets(&self, id: BatchId, lease: &LeaseBudgets) -> Result<Applied, ApplyError> {
        self.alone(id, async |session| {
            self.begin_alone(session, id).await?;
            session.query(&LOCK, &[&LOCKS, &LOCK_BUDGETS]).await.blamed()?;
            let mut leases = Vec::with_capacity(lease.asks.len());
            for ask in &lease.asks {
                leases.push(lease_one(session, lease, ask).await?);
            }
            Ok(Outcome::LeaseBudgets(Ok(BudgetsLeased { leases })))
        })
        .await
    }

    pub(super) async fn recorded_usage(&self, period: &str) -> Result<Answer, Failure> {
        let session = self.shared().await?;
        let mut usage: Vec<UsageRow> = Vec::new();
        for row in &session.query(&USAGE, &[&period]).await.blamed()? {
            let mut columns = Columns::of(row);
            let (backend, incarnation) = (columns.value::<&str>()?, Incarnation(columns.value()?));
            let (counter, value): (&str, u64) = (columns.value()?, columns.count()?);
            if usage.last().is_none_or(|last| last.backend != backend || last.incarnation != incarnation) {
                usage.push(UsageRow { backend: backend.to_owned(), incarnation, usage: Usage::default() });
            }
            let one = &mut usage.last_mut().expect("pushed above").usage;
            match counter {
                "api_requests" => one.api_requests = value,
                "egress_bytes" => one.egress_bytes = value,
                "ingress_bytes" => one.ingress_bytes = value,
                _ => {} // a later program's
            }
        }
        let leases = session.query(&LEASES, &[&period]).await.blamed()?;
        let budgets = leases.iter().map(|row| {
            let mut columns = Columns::of(row);
            Ok(BudgetRow {
                backend: columns.value()?,
                counter: columns.value()?,
                incarnation: Incarnation(columns.value()?),
                granted: columns.count()?,
                used: columns.count()?,
            })
        });
        Ok(Answer::Usage { usage, budgets: budgets.collect::<Read<_>>()? })
    }
}

async fn lease_one(session: &Session, lease: &LeaseBudgets, ask: &BudgetAsk) -> Result<BudgetLease, Failure> {
    let (period, backend, counter) = (lease.period.as_str(), ask.backend.as_str(), ask.counter.as_str());
    let holds = ask.holds.max(ask.used);
    let lent = if ask.limit == 0 {
        BudgetLease { granted: holds, free: 0 }
    } else {
        let (mut mine, mut others) = (0, 0_u64);
        for row in &session.query(&TAKEN, &[&period, &backend, &counter, &lease.incarnation.0]).await.blamed()? {
            let mut columns = Columns::of(row);
            let (incarnation, taken): (i64, u64) = (columns.value()?, columns.count()?);
            if incarnation == lease.incarnation.0 {
                mine = taken;
            } else {
                others = others.saturating_add(taken);
            }
        }
        let free = ask.limit.saturating_sub(others).saturating_sub(mine.max(holds));
        let more = lend(free, ask.least, ask.waiting, ask.slice);
        BudgetLease { granted: holds + more, free: free - more }
    };
    let (granted, used) = (signed(lent.granted), signed(ask.used));
    session.query(&PUT, &[&period, &backend, &counter, &lease.incarnation.0, &granted, &used]).await.blamed()?;
    Ok(lent)
}

/// What is above the database's integers is no count of ours.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
