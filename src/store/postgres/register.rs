//! Registration of a run of an instance: its number, its lease, the backends' limits and its shares.
//!
//! Other instances live: nothing of theirs is touched here. A former run of this same process is over, and what it left is
//! given up as that of a dead one would be.

use super::super::port::{Applied, ApplyError, BackendLimit, BatchId, Done, Outcome, Register, Registered, SetLimits};
use super::alone::one;
use super::batch::read_charges;
use super::faults::failure;
use super::migrate::{LOCK_REGISTER, LOCKS};
use super::restored::Place;
use super::rows::Columns;
use super::sessions::{Blamed, Session, Sql, sql};
use super::{PostgresStore, leftovers};
use crate::base::{BackendName, Failure, Incarnation, Tick};

static LOCK: Sql = sql!("SELECT pg_advisory_xact_lock($1, $2)", INT4, INT4);
/// By the clock, so that a number whose row a rewound database has lost is not given out again while its run still lives.
static NUMBER: Sql =
    sql!("UPDATE counters SET value = greatest(value + 1, $1) WHERE name = 'incarnation' RETURNING value", INT8);
/// Its lease as a renewal gives it (lease.rs).
static INCARNATION: Sql = sql!(
    "INSERT INTO incarnations (id, started, lease_until) VALUES ($1, $2, coalesce($3, now_millis()) + $4)",
    INT8,
    INT8,
    INT8,
    INT8
);
static DEPLOYMENT: Sql =
    sql!("INSERT INTO deployment (name, value) VALUES ('id', $1) ON CONFLICT (name) DO NOTHING", TEXT);
static DEPLOYMENT_ID: Sql = sql!("SELECT value FROM deployment WHERE name = 'id'");
static LOCK_BACKENDS: Sql = sql!("SELECT 1 FROM backends ORDER BY id FOR UPDATE");
/// All of them are brought within the limits below.
static LOCK_SHARES: Sql = sql!("SELECT 1 FROM quota_shares ORDER BY backend, incarnation FOR UPDATE");
static FORGET_BACKENDS: Sql = sql!(
    "DELETE FROM backends b WHERE b.name <> ALL($1) AND NOT EXISTS (SELECT 1 FROM blobs WHERE blobs.backend = b.id)
         AND NOT EXISTS (SELECT 1 FROM uploads WHERE uploads.backend = b.id)",
    TEXT_ARRAY
);
static BACKENDS: Sql = sql!(
    "INSERT INTO backends (name, bytes_limit) SELECT * FROM unnest($1, $2)
     ON CONFLICT (name) DO UPDATE SET bytes_limit = excluded.bytes_limit",
    TEXT_ARRAY,
    INT8_ARRAY
);
static LIMITS: Sql = sql!(
    "UPDATE backends b SET bytes_limit = new.bytes_limit FROM unnest($1, $2) AS new (name, bytes_limit) WHERE b.name = new.name",
    TEXT_ARRAY,
    INT8_ARRAY
);
/// Without a limit nothing is granted. A backend that has one now begins with what is charged; and where all that was granted
/// is above the limit, what is idle is taken back. Where even that does not do, this incarnation owes the rest.
static GRANTS: Sql = sql!(
    "UPDATE quota_shares s SET granted = CASE WHEN b.bytes_limit = 0 THEN 0 ELSE s.charged END
     FROM backends b, LATERAL (SELECT coalesce(sum(granted), 0) AS granted, bool_or(charged > granted) AS ungranted
                               FROM quota_shares WHERE backend = b.id) AS t
     WHERE s.backend = b.id AND (b.bytes_limit = 0 OR t.granted > b.bytes_limit OR t.ungranted)"
);
static OWED: Sql = sql!(
    "INSERT INTO quota_shares AS s (backend, incarnation, granted)
     SELECT b.id, $1, CASE WHEN b.bytes_limit = 0 THEN 0 ELSE least(0, b.bytes_limit - t.granted) END
     FROM backends b, LATERAL (
         SELECT coalesce(sum(granted), 0)::bigint AS granted FROM quota_shares WHERE backend = b.id) AS t
     ORDER BY b.id
     ON CONFLICT (backend, incarnation) DO UPDATE SET granted = s.granted + excluded.granted",
    INT8
);
static FACTS: Sql = sql!("SELECT name, facts, draining FROM backends WHERE name = ANY($1) ORDER BY name", TEXT_ARRAY);
static UNKNOWN: Sql = sql!(
    "SELECT name, coalesce((SELECT sum(live_blobs) FROM quota_shares WHERE backend = backends.id), 0)::bigint
     FROM backends WHERE name <> ALL($1) ORDER BY name",
    TEXT_ARRAY
);
static CHARGED: Sql = sql!(
    "SELECT b.name, coalesce(sum(s.charged), 0)::bigint FROM backends b LEFT JOIN quota_shares s ON s.backend = b.id
     GROUP BY b.name ORDER BY b.name"
);

impl PostgresStore {
    /// Cancel: NOT safe.
    pub(super) async fn register(&self, id: BatchId, register: &Register) -> Result<Applied, ApplyError> {
        let session = self.sessions.get().await.map_err(ApplyError::NotApplied)?;
        let asked = (self.tick)();
        let place = Place::of(&session).await.map_err(ApplyError::NotApplied)?;
        match self.registration(&session, id, register, &place).await {
            Ok(applied) => {
                let Some(Outcome::Register(Ok(registered))) = applied.outcomes.first() else {
                    return Err(ApplyError::NotApplied(Failure::ourselves("a registration was answered otherwise")));
                };
                let incarnation = registered.incarnation;
                self.remember(id, applied.clone());
                if let Err(error) = session.command("COMMIT").await {
                    session.give_up();
                    self.answer_is_lost(id);
                    self.pending.set(Some((id, incarnation, asked)));
                    return Err(ApplyError::Unknown(failure(&error)));
                }
                self.begin_incarnation(incarnation, asked);
                Ok(applied)
            }
            Err(cause) => {
                session.give_up();
                Err(ApplyError::NotApplied(cause))
            }
        }
    }

    /// The store speaks for this incarnation from now on; its lease was asked for then.
    pub(super) fn begin_incarnation(&self, incarnation: Incarnation, asked: Tick) {
        self.incarnation.set(incarnation);
        self.told_mark.set(0);
        self.charged_at.borrow_mut().clear();
        self.recall.borrow_mut().clear();
        // Who it is first: what the former run has begun must not go on under this one's lease.
        self.tenure.set_incarnation(incarnation);
        self.tenure.renew(asked.after(self.lease));
    }

    /// Everything up to the COMMIT.
    async fn registration(
        &self,
        session: &Session,
        id: BatchId,
        register: &Register,
        place: &Place,
    ) -> Result<Applied, Failure> {
        let now = self.begin_alone(session, id).await?;
        session.query(&LOCK, &[&LOCKS, &LOCK_REGISTER]).await.blamed()?;
        let former = self.incarnation.get();
        let restored = self.notice_restored(session, former, place, now).await?;
        // A test's clock stands still.
        let not_below = if self.clock.is_some() { 0 } else { now.millis };
        let incarnation = Incarnation(one(session, &NUMBER, &[&not_below]).await?);
        let (clock, term) = (self.test_clock(), self.term_millis());
        session.query(&INCARNATION, &[&incarnation.0, &now.millis, &clock, &term]).await.blamed()?;
        session.query(&DEPLOYMENT, &[&register.deployment]).await.blamed()?;
        let deployment = one(session, &DEPLOYMENT_ID, &[]).await?;
        let gone = leftovers::end(session, vec![former.0], now).await?;
        lock_shares(session).await?;
        let doomed = leftovers::take_over(session, gone, incarnation, now, self.rules).await?;
        let (facts, draining, unknown_backends) = limits(session, incarnation, register).await?;
        let charged = read_charges(&session.query(&CHARGED, &[]).await.blamed()?);
        self.told_at.set(now);
        let registered = Registered { incarnation, deployment, doomed, restored, facts, draining, unknown_backends };
        Ok(Applied { outcomes: vec![Outcome::Register(Ok(registered))], charged })
    }
}

impl PostgresStore {
    /// Cancel: NOT safe.
    pub(super) async fn set_limits(&self, id: BatchId, set: &SetLimits) -> Result<Applied, ApplyError> {
        let mut charged = Vec::new();
        let applied = self.alone(id, async |session| {
            self.begin_alone(session, id).await?;
            session.query(&LOCK, &[&LOCKS, &LOCK_REGISTER]).await.blamed()?;
            let (names, limits) = columns_of(&set.backends);
            lock_shares(session).await?;
            session.query(&LIMITS, &[&names, &limits]).await.blamed()?;
            share_out(session, self.incarnation.get()).await?;
            charged = read_charges(&session.query(&CHARGED, &[]).await.blamed()?);
            Ok(Outcome::SetLimits(Ok(Done)))
        });
        let applied = applied.await?;
        Ok(Applied { charged, ..applied })
    }
}

fn columns_of(backends: &[BackendLimit]) -> (Vec<&str>, Vec<i64>) {
    let limit = |one: &BackendLimit| i64::try_from(one.bytes_limit).unwrap_or(i64::MAX);
    (backends.iter().map(|one| one.name.as_str()).collect(), backends.iter().map(limit).collect())
}

/// Every backend and every share. Whoever adds a blob on a backend holds that until its row can be seen.
async fn lock_shares(session: &Session) -> Result<(), Failure> {
    session.query(&LOCK_BACKENDS, &[]).await.blamed()?;
    session.query(&LOCK_SHARES, &[]).await.blamed()?;
    Ok(())
}

/// Brings what is granted within the limits, under `lock_shares`; from then on this incarnation has a share of each backend.
async fn share_out(session: &Session, incarnation: Incarnation) -> Result<(), Failure> {
    session.query(&GRANTS, &[]).await.blamed()?;
    session.query(&OWED, &[&incarnation.0]).await.blamed()?;
    Ok(())
}

type Told = (Vec<(BackendName, super::super::record::BackendFacts)>, Vec<BackendName>, Vec<(BackendName, u64)>);

/// The backends as the configuration has them, under `lock_shares`.
async fn limits(session: &Session, incarnation: Incarnation, register: &Register) -> Result<Told, Failure> {
    let (names, limits) = columns_of(&register.backends);
    session.query(&FORGET_BACKENDS, &[&names]).await.blamed()?;
    session.query(&BACKENDS, &[&names, &limits]).await.blamed()?;
    share_out(session, incarnation).await?;
    let (mut facts, mut draining, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for row in &session.query(&FACTS, &[&names]).await.blamed()? {
        let mut columns = Columns::of(row);
        let name = BackendName::new(columns.value()?);
        facts.push((name.clone(), columns.json()?));
        if columns.value()? {
            draining.push(name);
        }
    }
    for row in &session.query(&UNKNOWN, &[&names]).await.blamed()? {
        let mut columns = Columns::of(row);
        unknown.push((BackendName::new(columns.value()?), columns.count()?));
    }
    Ok((facts, draining, unknown))
}
