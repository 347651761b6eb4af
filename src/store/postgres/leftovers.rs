//! What incarnations that have ended left: their reserved blobs are doomed, never promoted; their part attempts are given up;
//! their shares are another's.

use super::super::port::Rules;
use super::alone::one;
use super::rows::{Columns, Read};
use super::sessions::{Blamed, Session, Sql, sql};
use crate::base::{Failure, Incarnation, Timestamp};

/// Their rows first: a batch of theirs that is under way ends before, and one that comes later finds that its run has ended.
static LOCK_RUNS: Sql =
    sql!("SELECT 1 FROM incarnations WHERE id = ANY($1) AND ended IS NULL ORDER BY id FOR UPDATE", INT8_ARRAY);
static END: Sql =
    sql!("UPDATE incarnations SET ended = $2 WHERE id = ANY($1) AND ended IS NULL RETURNING id", INT8_ARRAY, INT8);

static LOCK_BLOBS: Sql = sql!(
    "SELECT 1 FROM blobs WHERE (incarnation = ANY($1) AND state = 'reserved')
         OR id IN (SELECT u.blob FROM part_attempts a JOIN uploads u ON u.upload = a.upload WHERE a.incarnation = ANY($1))
     ORDER BY bucket, key, id FOR UPDATE",
    INT8_ARRAY
);
static LOCK_UPLOADS: Sql = sql!(
    "SELECT 1 FROM uploads WHERE upload IN (SELECT upload FROM part_attempts WHERE incarnation = ANY($1))
     ORDER BY upload FOR UPDATE",
    INT8_ARRAY
);
static LOCK_BACKENDS: Sql = sql!(
    "SELECT 1 FROM backends WHERE id IN (SELECT backend FROM quota_shares WHERE incarnation = ANY($1))
     ORDER BY id FOR NO KEY UPDATE",
    INT8_ARRAY
);

/// Its bytes may still appear. The numbers change on its share, which is taken over below.
static DOOM: Sql = sql!(
    "WITH doomed AS (
         UPDATE blobs SET state = 'doomed', doomed_at = $2, not_before = $2, settle_until = $3, reason = 'writer gone'
         WHERE incarnation = ANY($1) AND state = 'reserved' AND upload IS NULL RETURNING backend, incarnation, bytes),
     sums AS (SELECT backend, incarnation, count(*) AS blobs, coalesce(sum(bytes), 0)::bigint AS bytes
              FROM doomed GROUP BY backend, incarnation),
     counted AS (
         INSERT INTO quota_shares AS s (backend, incarnation, reserved_bytes, doomed_blobs, doomed_bytes)
         SELECT backend, incarnation, -bytes, blobs, bytes FROM sums ORDER BY backend, incarnation
         ON CONFLICT (backend, incarnation) DO UPDATE SET reserved_bytes = s.reserved_bytes + excluded.reserved_bytes,
             doomed_blobs = s.doomed_blobs + excluded.doomed_blobs, doomed_bytes = s.doomed_bytes + excluded.doomed_bytes)
     SELECT count(*) FROM doomed",
    INT8_ARRAY,
    INT8,
    INT8
);
/// What a number held is not known any more, and all of it stays charged. The upload's row is written for its mark.
static LEAVE_BEHIND: Sql = sql!(
    "WITH left_behind AS (DELETE FROM part_attempts WHERE incarnation = ANY($1) RETURNING upload, number),
     parts_gone AS (DELETE FROM parts p USING left_behind l WHERE p.upload = l.upload AND p.number = l.number),
     marked AS (UPDATE uploads u SET ended = u.ended FROM (SELECT DISTINCT upload FROM left_behind) l
                WHERE u.upload = l.upload RETURNING u.blob)
     UPDATE blobs SET settle_until = $2 FROM marked WHERE blobs.id = marked.blob",
    INT8_ARRAY,
    INT8
);
static TAKE_OVER: Sql = sql!(
    "WITH gone AS (DELETE FROM quota_shares WHERE incarnation = ANY($1) RETURNING *)
     INSERT INTO quota_shares AS s (backend, incarnation, granted, charged, reserved_bytes, live_blobs, live_bytes,
         doomed_blobs, doomed_bytes, dead_blobs, dead_bytes, active_uploads)
     SELECT backend, $2, sum(granted), sum(charged), sum(reserved_bytes), sum(live_blobs), sum(live_bytes),
         sum(doomed_blobs), sum(doomed_bytes), sum(dead_blobs), sum(dead_bytes), sum(active_uploads)
     FROM gone GROUP BY backend ORDER BY backend
     ON CONFLICT (backend, incarnation) DO UPDATE SET granted = s.granted + excluded.granted,
         charged = s.charged + excluded.charged, reserved_bytes = s.reserved_bytes + excluded.reserved_bytes,
         live_blobs = s.live_blobs + excluded.live_blobs, live_bytes = s.live_bytes + excluded.live_bytes,
         doomed_blobs = s.doomed_blobs + excluded.doomed_blobs, doomed_bytes = s.doomed_bytes + excluded.doomed_bytes,
         dead_blobs = s.dead_blobs + excluded.dead_blobs, dead_bytes = s.dead_bytes + excluded.dead_bytes,
         active_uploads = s.active_uploads + excluded.active_uploads",
    INT8_ARRAY,
    INT8
);

/// Runs that were ended here, and what of theirs is locked: their blobs and uploads.
pub(super) struct Gone(Vec<i64>);

/// In the running transaction, which holds nothing behind blobs yet (locks.rs). Cancel: the transaction must be given up.
pub(super) async fn end(session: &Session, gone: Vec<i64>, now: Timestamp) -> Result<Gone, Failure> {
    session.query(&LOCK_RUNS, &[&gone]).await.blamed()?;
    let ended = session.query(&END, &[&gone, &now.millis]).await.blamed()?;
    let gone: Vec<i64> = ended.iter().map(|row| Columns::of(row).value()).collect::<Read<_>>()?;
    if !gone.is_empty() {
        session.query(&LOCK_BLOBS, &[&gone]).await.blamed()?;
        session.query(&LOCK_UPLOADS, &[&gone]).await.blamed()?;
    }
    Ok(Gone(gone))
}

/// In the same transaction, which may hold backends by now; answers how many blobs were doomed. Cancel: the transaction must be
/// given up.
pub(super) async fn take_over(
    session: &Session,
    Gone(gone): Gone,
    by: Incarnation,
    now: Timestamp,
    rules: Rules,
) -> Result<u64, Failure> {
    if gone.is_empty() {
        return Ok(0);
    }
    let settle = now.plus(rules.settle).millis;
    session.query(&LOCK_BACKENDS, &[&gone]).await.blamed()?;
    let doomed: i64 = one(session, &DOOM, &[&gone, &now.millis, &settle]).await?;
    session.query(&LEAVE_BEHIND, &[&gone, &settle]).await.blamed()?;
    session.query(&TAKE_OVER, &[&gone, &by.0]).await.blamed()?;
    Ok(doomed as u64)
}
