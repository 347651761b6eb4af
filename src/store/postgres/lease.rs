//! Who is alive (PROTOCOL.md): leases by the database's clock, and who may run which background job.

use super::super::port::{Applied, ApplyError, BatchId, Done, Outcome, Refusal, Renew, Renewed, TakeService};
use super::alone::one;
use super::rows::{Columns, Read};
use super::sessions::{Blamed, Session, Sql, sql};
use super::{PostgresStore, leftovers, restored};
use crate::base::{Failure, Incarnation, Timestamp};

/// Its mark too, so that whoever loses this transaction with the database's last ones sees it. Leases are given and judged by the
/// database's clock as it is now, also if that was set back (another host took over): by the latest time that it has seen, a run
/// would end all those that have not, however often they renew. $2: a test's clock; $3: the term in milliseconds.
static RENEW: Sql = sql!(
    "UPDATE incarnations SET lease_until = coalesce($2, now_millis()) + $3, mark = mark + 1
     WHERE id = $1 AND ended IS NULL RETURNING mark",
    INT8,
    INT8,
    INT8
);
static LAPSED: Sql = sql!(
    "SELECT id FROM incarnations WHERE ended IS NULL AND lease_until < (SELECT coalesce($1, now_millis()))
     ORDER BY id FOR UPDATE SKIP LOCKED",
    INT8
);
static TAKE: Sql = sql!(
    "INSERT INTO services AS s (name, incarnation) SELECT $1, id FROM incarnations WHERE id = $2 AND ended IS NULL
     ON CONFLICT (name) DO UPDATE SET incarnation = excluded.incarnation
         WHERE s.incarnation = excluded.incarnation
             OR NOT EXISTS (SELECT 1 FROM incarnations i WHERE i.id = s.incarnation AND i.ended IS NULL)
     RETURNING s.incarnation",
    TEXT,
    INT8
);
static HOLDER: Sql = sql!(
    "SELECT s.incarnation FROM services s JOIN incarnations i ON i.id = s.incarnation
     WHERE s.name = $1 AND i.ended IS NULL",
    TEXT
);
static LIVES: Sql = sql!("SELECT ended IS NULL FROM incarnations WHERE id = $1", INT8);

impl PostgresStore {
    /// Cancel: NOT safe.
    pub(super) async fn renew(&self, id: BatchId, renew: Renew) -> Result<Applied, ApplyError> {
        // The database counts the term from later than this.
        let asked = (self.tick)();
        let applied =
            self.alone(id, async |session| Ok(Outcome::Renew(self.renewal(session, id, renew).await?))).await?;
        match applied.outcomes.first() {
            Some(Outcome::Renew(Ok(_))) if !renew.leave => {
                let (mark, now) = self.renewing.get();
                self.told_mark.set(mark);
                self.told_at.set(now);
                self.renewed_at.set(now);
                self.tenure.renew(asked.after(self.lease));
            }
            Some(Outcome::Renew(Err(_))) => self.tenure.end(),
            _ => {}
        }
        Ok(applied)
    }

    async fn renewal(&self, session: &Session, id: BatchId, renew: Renew) -> Result<Result<Renewed, Refusal>, Failure> {
        let now = self.begin_alone(session, id).await?;
        let term = if renew.leave { 0 } else { self.term_millis() };
        let lives = session.query(&RENEW, &[&renew.incarnation.0, &self.test_clock(), &term]).await.blamed()?;
        let mark: Option<i64> = lives.first().map(|row| Columns::of(row).value()).transpose()?;
        let has_row = mark.is_some() || restored::has_row(session, renew.incarnation).await?;
        // Before anybody is judged: what is missing may be what a lapsed run had committed.
        let rewound = self.was_rewound(has_row, mark.map(|mark| mark - 1), self.told_mark.get());
        if rewound {
            self.hold_missed(session, now).await?;
        }
        let Some(mark) = mark.filter(|_| !rewound) else { return Ok(Err(Refusal::Lost)) };
        self.renewing.set((mark, now));
        let mut renewed = Renewed::default();
        if renew.judge && !self.was_held_up(now) {
            let lapsed = session.query(&LAPSED, &[&self.test_clock()]).await.blamed()?;
            let lapsed: Vec<i64> = lapsed.iter().map(|row| Columns::of(row).value()).collect::<Read<_>>()?;
            renewed.ended = lapsed.len() as u64;
            let gone = leftovers::end(session, lapsed, now).await?;
            renewed.doomed = leftovers::take_over(session, gone, renew.incarnation, now, self.rules).await?;
        }
        Ok(Ok(renewed))
    }

    /// Whether this renewal comes so late that the database, or the way to it, has stood still meanwhile. That is not a failure
    /// where calls may wait for long (`database.call_timeout`); but the renewals of others have been waiting too, perhaps behind
    /// this one, and are to be heard before anybody is judged.
    fn was_held_up(&self, now: Timestamp) -> bool {
        now.since(self.renewed_at.get()) > self.lease / 2
    }

    /// Of this run's lease.
    pub(super) fn term_millis(&self) -> i64 {
        self.lease.as_millis() as i64
    }

    /// Cancel: NOT safe.
    pub(super) async fn take_service(&self, id: BatchId, take: &TakeService) -> Result<Applied, ApplyError> {
        let taken = async |session: &Session| {
            self.begin_alone(session, id).await?;
            let taken = session.query(&TAKE, &[&take.service, &take.incarnation.0]).await.blamed()?;
            if !taken.is_empty() {
                return Ok(Outcome::TakeService(Ok(Done)));
            }
            let lives: bool = one(session, &LIVES, &[&take.incarnation.0]).await?;
            Ok(Outcome::TakeService(Err(if lives { Refusal::Busy } else { Refusal::Lost })))
        };
        self.alone(id, taken).await
    }

    /// Cancel: safe.
    pub(super) async fn service_holder(&self, service: &str) -> Result<Option<Incarnation>, Failure> {
        let held = self.shared().await?.query(&HOLDER, &[&service]).await.blamed()?;
        Ok(held.first().map(|row| Columns::of(row).value()).transpose()?.map(Incarnation))
    }
}
