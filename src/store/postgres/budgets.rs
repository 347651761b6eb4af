//! Monthly budgets: leases, one at a time over all instances, and what has been recorded of a month.

use super::super::port::{
    Answer, Applied, ApplyError, BatchId, BudgetAsk, BudgetLease, BudgetRow, BudgetsLeased, LeaseBudgets, Outcome,
    Refusal, Usage, UsageRow,
};
use super::super::rules::{SPENT_UNSEEN, lend_of};
use super::PostgresStore;
use super::alone::one;
use super::migrate::{LOCK_BUDGETS, LOCKS};
use super::rows::{Columns, Read};
use super::sessions::{Blamed, Session, Sql, sql};
use crate::base::{Failure, Incarnation};

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
static IN_DOUBT: Sql =
    sql!("SELECT EXISTS (SELECT 1 FROM deployment WHERE name = 'budgets_in_doubt' AND value = $1)", TEXT);
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
            let now = self.begin_alone(session, id).await?;
            session.query(&LOCK, &[&LOCKS, &LOCK_BUDGETS]).await.blamed()?;
            // Nothing is lent by what a rewound database says.
            if self.is_rewound(session).await? {
                self.hold_missed(session, now).await?;
                return Ok(Outcome::LeaseBudgets(Err(Refusal::Lost)));
            }
            let in_doubt = one(session, &IN_DOUBT, &[&lease.period.as_str()]).await?;
            let mut leases = Vec::with_capacity(lease.asks.len());
            for ask in &lease.asks {
                leases.push(lease_one(session, lease, ask, in_doubt).await?);
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

async fn lease_one(
    session: &Session,
    lease: &LeaseBudgets,
    ask: &BudgetAsk,
    in_doubt: bool,
) -> Result<BudgetLease, Failure> {
    let (period, backend, counter) = (lease.period.as_str(), ask.backend.as_str(), ask.counter.as_str());
    let (mut mine, mut others, mut is_reckoned) = (0, 0_u64, false);
    for row in &session.query(&TAKEN, &[&period, &backend, &counter, &lease.incarnation.0]).await.blamed()? {
        let mut columns = Columns::of(row);
        let (incarnation, taken): (i64, u64) = (columns.value()?, columns.count()?);
        is_reckoned |= incarnation == SPENT_UNSEEN.0;
        if incarnation == lease.incarnation.0 {
            mine = taken;
        } else {
            others = others.saturating_add(taken);
        }
    }
    let (lent, unseen) = lend_of(ask, mine, others, in_doubt && !is_reckoned);
    if let Some(granted) = unseen {
        let none = 0_i64;
        session.query(&PUT, &[&period, &backend, &counter, &SPENT_UNSEEN.0, &signed(granted), &none]).await.blamed()?;
    }
    let (granted, used) = (signed(lent.granted), signed(ask.used));
    session.query(&PUT, &[&period, &backend, &counter, &lease.incarnation.0, &granted, &used]).await.blamed()?;
    Ok(lent)
}

/// What is above the database's integers is no count of ours.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
