//! A database that was put back: restored from a backup, or a standby that took over without its last commits (PROTOCOL.md,
//! "Rewound database"). Held as restored, it gives out nothing to delete until `sync` has compared it with the backends.
//!
//! Three things tell of it. The operator does, with `sync --restored`. A run that meets a lower mark than it was told, or no
//! row of itself at all, knows that commits are missing. And a copy (pg_dump and pg_restore) has other tables than those
//! that the deployment was last used with, whoever runs over it first.

use super::super::lending::SPENT_UNSEEN;
use super::super::port::{Applied, ApplyError, BatchId, Done, Outcome, SetRestored};
use super::super::rules::NUMBERS_SKIPPED;
use super::PostgresStore;
use super::alone::one;
use super::rows::Columns;
use super::sessions::{Blamed, Session, Sql, sql};
use crate::base::{Failure, Incarnation, Timestamp};
use crate::proto::date;

static IS_RESTORED: Sql = sql!("SELECT EXISTS (SELECT 1 FROM deployment WHERE name = 'restored')");
static HOLD: Sql = sql!(
    "INSERT INTO deployment (name, value) VALUES ('restored', $1) ON CONFLICT (name) DO NOTHING RETURNING 1",
    TEXT
);
/// Numbers that were given out and are not known any more are not given out again; those of runs follow the clock.
static SKIP_NUMBERS: Sql = sql!("UPDATE counters SET value = (value / $1 + 2) * $1 WHERE name <> 'incarnation'", INT8);
static IN_DOUBT: Sql = sql!(
    "INSERT INTO deployment (name, value) VALUES ('budgets_in_doubt', $1)
     ON CONFLICT (name) DO UPDATE SET value = excluded.value",
    TEXT
);
static NOT_RECKONED: Sql = sql!("DELETE FROM budget_leases WHERE period = $1 AND incarnation = $2", TEXT, INT8);
/// And when: what was told before has been compared.
static RELEASE: Sql = sql!(
    "WITH released AS (DELETE FROM deployment WHERE name = 'restored' RETURNING 1)
     INSERT INTO deployment (name, value) SELECT 'released', $1 FROM released
     ON CONFLICT (name) DO UPDATE SET value = excluded.value",
    TEXT
);
static RELEASED_AFTER: Sql =
    sql!("SELECT EXISTS (SELECT 1 FROM deployment WHERE name = 'released' AND value::bigint > $1)", INT8);
static ROW: Sql = sql!("SELECT mark FROM incarnations WHERE id = $1", INT8);

/// Not every role may ask this, and not every compatible server knows it.
static CLUSTER: Sql = sql!("SELECT system_identifier::text FROM pg_control_system()");
static TABLES: Sql = sql!(
    "SELECT oid::text || '/' || 'deployment'::regclass::oid::text FROM pg_database WHERE datname = current_database()"
);
static PLACE: Sql = sql!("SELECT value FROM deployment WHERE name = 'place' FOR UPDATE");
static PUT_PLACE: Sql = sql!(
    "INSERT INTO deployment (name, value) VALUES ('place', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
    TEXT
);

/// Which tables these are, of which database of which cluster: a standby's are the primary's, a restored dump's are others.
#[derive(Debug)]
pub(super) struct Place {
    /// None: it may not be asked.
    cluster: Option<String>,
    tables: String,
}

impl Place {
    /// Outside of a transaction: a refused question would end it. Cancel: safe.
    pub(super) async fn of(session: &Session) -> Result<Self, Failure> {
        let cluster = match session.query(&CLUSTER, &[]).await {
            Ok(rows) => rows.first().and_then(|row| row.try_get(0).ok()),
            Err(error) if error.as_db_error().is_some() => None,
            Err(error) => return Err(error).blamed(),
        };
        Ok(Self { cluster, tables: one(session, &TABLES, &[]).await? })
    }

    fn text(&self) -> String {
        format!("{} {}", self.cluster.as_deref().unwrap_or("?"), self.tables)
    }

    /// Whether these may be the tables of that text.
    fn may_be(&self, text: &str) -> bool {
        let Some((cluster, tables)) = text.split_once(' ') else { return false };
        let known = |one: &str| one != "?";
        let same_cluster = self.cluster.as_deref().is_none_or(|own| !known(cluster) || own == cluster);
        same_cluster && tables == self.tables
    }
}

/// Cancel: safe.
pub(super) async fn is_restored(session: &Session) -> Result<bool, Failure> {
    one(session, &IS_RESTORED, &[]).await
}

/// False if it was held already.
async fn hold(session: &Session, now: Timestamp) -> Result<bool, Failure> {
    if session.query(&HOLD, &[&now.millis.to_string()]).await.blamed()?.is_empty() {
        return Ok(false);
    }
    // Of this month's budgets, what the database does not know counts as spent.
    let month = date::month(now);
    session.query(&IN_DOUBT, &[&month]).await.blamed()?;
    session.query(&NOT_RECKONED, &[&month, &SPENT_UNSEEN.0]).await.blamed()?;
    session.query(&SKIP_NUMBERS, &[&NUMBERS_SKIPPED]).await.blamed()?;
    Ok(true)
}

/// Whether this incarnation has ever had a row here. Cancel: safe.
pub(super) async fn has_row(session: &Session, incarnation: Incarnation) -> Result<bool, Failure> {
    Ok(!session.query(&ROW, &[&incarnation.0]).await.blamed()?.is_empty())
}

impl PostgresStore {
    /// Cancel: NOT safe.
    pub(super) async fn set_restored(&self, id: BatchId, set: SetRestored) -> Result<Applied, ApplyError> {
        let work = async |session: &Session| {
            let now = self.begin_alone(session, id).await?;
            if set.restored {
                if hold(session, now).await? {
                    self.leave_ids();
                }
            } else {
                session.query(&RELEASE, &[&now.millis.to_string()]).await.blamed()?;
            }
            Ok(Outcome::SetRestored(Ok(Done)))
        };
        self.alone(id, work).await
    }

    /// In the running transaction, when this run has found that the database lost what it was told: not if that was told before
    /// the last hold was released, because `sync` has compared it since. The run registers anew in both cases.
    pub(super) async fn hold_missed(&self, session: &Session, now: Timestamp) -> Result<(), Failure> {
        if one(session, &RELEASED_AFTER, &[&self.told_at.get().millis]).await? {
            self.leave_ids();
            tracing::warn!("the database was put back, and `sync --restored` has run since");
            return Ok(());
        }
        self.hold_noticed(session, now).await
    }

    async fn hold_noticed(&self, session: &Session, now: Timestamp) -> Result<(), Failure> {
        // Numbers that this process has in store may be others' by now.
        self.leave_ids();
        if hold(session, now).await? {
            tracing::error!(
                "the database was put back: nothing is deleted from any backend until `sync --restored` has run"
            );
        }
        Ok(())
    }

    /// Whether the living incarnation finds less than it was told before it looked: no row of itself, or a lower mark.
    pub(super) fn was_rewound(&self, has_row: bool, mark: Option<i64>, told: i64) -> bool {
        let lives = self.incarnation.get() != Incarnation(0);
        lives && (!has_row || mark.is_some_and(|mark| mark < told))
    }

    /// The same, looked up. Cancel: safe.
    pub(super) async fn is_rewound(&self, session: &Session) -> Result<bool, Failure> {
        let told = self.told_mark.get();
        let rows = session.query(&ROW, &[&self.incarnation.get().0]).await.blamed()?;
        let mark = rows.first().map(|row| Columns::of(row).value()).transpose()?;
        Ok(self.was_rewound(mark.is_some(), mark, told))
    }

    /// A transaction of its own, before anything is decided on such a database. The run then ends and registers anew: what the
    /// database says that it has reserved may long have been committed. Cancel: the session must be given up.
    pub(super) async fn hold_rewound(&self, session: &Session) -> Result<(), Failure> {
        let held = async { self.hold_missed(session, self.begin(session).await?).await };
        let held = held.await;
        if held.is_err() {
            session.give_up();
        }
        held?;
        session.command("COMMIT").await.blamed()
    }

    /// In the registration's transaction, before anything is given up: whether the database is held as restored, which it
    /// becomes here if it has lost what the former run was told, or is a copy.
    pub(super) async fn notice_restored(
        &self,
        session: &Session,
        former: Incarnation,
        place: &Place,
        now: Timestamp,
    ) -> Result<bool, Failure> {
        let rows = session.query(&PLACE, &[]).await.blamed()?;
        let was: Option<&str> = rows.first().map(|row| Columns::of(row).value()).transpose()?;
        let moved = was.is_some_and(|was| !place.may_be(was));
        let rows = session.query(&ROW, &[&former.0]).await.blamed()?;
        let mark = rows.first().map(|row| Columns::of(row).value()).transpose()?;
        if moved {
            self.hold_noticed(session, now).await?;
        } else if self.was_rewound(mark.is_some(), mark, self.told_mark.get()) {
            self.hold_missed(session, now).await?;
        }
        if was.is_none() || moved {
            session.query(&PUT_PLACE, &[&place.text()]).await.blamed()?;
        }
        is_restored(session).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        let place = |cluster: Option<&str>| Place { cluster: cluster.map(str::to_owned), tables: "16384/16400".into() };
        let known = place(Some("7001"));
        for (text, may_be) in [
            (known.text(), true),
            (place(None).text(), true),
            ("7002 16384/16400".to_owned(), false),
            ("7001 16385/16400".to_owned(), false),
            ("? 16384/16401".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(known.may_be(&text), may_be, "{text:?}");
        }
        assert!(place(None).may_be("7002 16384/16400"), "what may not be asked is not compared");
    }
}
