//! Monthly budgets: leases, one at a time over all instances, and what has been recorded of a month.

use super::super::lending::{Account, Lent, Month, SPENT_UNSEEN, months_around};
use super::super::port::{
    Answer, Applied, ApplyError, BatchId, BudgetAsk, BudgetLease, BudgetRow, BudgetsLeased, LeaseBudgets, Outcome,
    Refusal, Usage, UsageRow,
};
use super::PostgresStore;
use super::alone::one;
use super::migrate::{LOCK_BUDGETS, LOCKS};
use super::rows::{Columns, Read};
use super::sessions::{Blamed, Params, Session, Sql, sql};
use crate::base::{Failure, Incarnation, Timestamp};

static LOCK: Sql = sql!("SELECT pg_advisory_xact_lock($1, $2)", INT4, INT4);
/// What it was lent comes first; then what was recorded as usage.
static ACCOUNT: Sql = sql!(
    "SELECT period, incarnation, TRUE, granted, used, under_way, told FROM budget_leases
     WHERE period IN ($1, $2, $3) AND backend = $4 AND counter = $5
     UNION ALL
     SELECT period, incarnation, FALSE, value, 0, 0, 0 FROM usage
     WHERE period IN ($1, $2, $3) AND backend = $4 AND counter = $5",
    TEXT,
    TEXT,
    TEXT,
    TEXT,
    TEXT
);
static IN_DOUBT: Sql =
    sql!("SELECT EXISTS (SELECT 1 FROM deployment WHERE name = 'budgets_in_doubt' AND value = $1)", TEXT);
static PUT: Sql = sql!(
    "INSERT INTO budget_leases (period, backend, counter, incarnation, granted, used, under_way, told)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
     ON CONFLICT (period, backend, counter, incarnation) DO UPDATE SET granted = excluded.granted, used = excluded.used,
         under_way = excluded.under_way, told = excluded.told",
    TEXT,
    TEXT,
    TEXT,
    INT8,
    INT8,
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
                leases.push(lease_one(session, lease, ask, now, in_doubt).await?);
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
    now: Timestamp,
    in_doubt: bool,
) -> Result<BudgetLease, Failure> {
    let account = account(session, lease, ask).await?;
    let (lent, unseen) = account.lend(ask, lease.incarnation, now, in_doubt);
    if let Some(granted) = unseen {
        put(session, lease, ask, SPENT_UNSEEN, Lent { granted, ..Lent::default() }).await?;
    }
    let own = Lent { granted: lent.granted, used: ask.used, under_way: ask.under_way, told: now };
    put(session, lease, ask, lease.incarnation, own).await?;
    Ok(lent)
}

async fn account(session: &Session, lease: &LeaseBudgets, ask: &BudgetAsk) -> Result<Account, Failure> {
    let [before, this, after] = months_around(&lease.period);
    let budget: Params<'_> = &[&before, &this, &after, &ask.backend.as_str(), &ask.counter];
    let mut account = Account::new(&lease.period);
    for row in &session.query(&ACCOUNT, budget).await.blamed()? {
        let mut columns = Columns::of(row);
        let (period, of): (&str, _) = (columns.value()?, Incarnation(columns.value()?));
        let (is_lease, granted): (bool, u64) = (columns.value()?, columns.count()?);
        let month = match period {
            _ if period == this => Month::This,
            _ if period == before => Month::Before,
            _ => Month::After,
        };
        if is_lease {
            let (used, under_way) = (columns.count()?, columns.count()?);
            account.lease(month, of, Lent { granted, used, under_way, told: Timestamp { millis: columns.value()? } });
        } else {
            account.recorded(month, of, granted);
        }
    }
    Ok(account)
}

async fn put(
    session: &Session,
    lease: &LeaseBudgets,
    ask: &BudgetAsk,
    holder: Incarnation,
    lent: Lent,
) -> Result<(), Failure> {
    let [granted, used, under_way] = [lent.granted, lent.used, lent.under_way].map(signed);
    let row: Params<'_> = &[
        &lease.period.as_str(),
        &ask.backend.as_str(),
        &ask.counter.as_str(),
        &holder.0,
        &granted,
        &used,
        &under_way,
        &lent.told.millis,
    ];
    session.query(&PUT, row).await.blamed()?;
    Ok(())
}

/// What is above the database's integers is no count of ours.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
