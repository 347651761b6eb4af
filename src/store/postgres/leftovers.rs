//! What an incarnation that has ended left: its reserved blobs are doomed, never promoted; its part attempts are given up; its
//! shares are another's.

use super::super::port::Rules;
use super::alone::one;
use super::sessions::{Blamed, Session, Sql, sql};
use crate::base::{Failure, Incarnation, Timestamp};

/// Its row first: a batch of its own that is under way ends before, and one that comes later finds that it has ended.
static END: Sql = sql!("UPDATE incarnations SET ended = $2 WHERE id = $1 AND ended IS NULL RETURNING id", INT8, INT8);

/// In the order in which batches lock them.
static LOCK_BLOBS: Sql = sql!(
    "SELECT 1 FROM blobs WHERE (incarnation = $1 AND state = 'reserved')
         OR id IN (SELECT u.blob FROM part_attempts a JOIN uploads u ON u.upload = a.upload WHERE a.incarnation = $1)
     ORDER BY bucket, key, id FOR UPDATE",
    INT8
);

/// Its bytes may still appear. The numbers change on its share, which is taken over below.
static DOOM: Sql = sql!(
    "WITH doomed AS (
         UPDATE blobs SET state = 'doomed', doomed_at = $2, not_before = $2, settle_until = $3, reason = 'writer gone'
         WHERE incarnation = $1 AND state = 'reserved' AND upload IS NULL RETURNING backend, bytes),
     sums AS (SELECT backend, count(*) AS blobs, coalesce(sum(bytes), 0)::bigint AS bytes FROM doomed GROUP BY backend),
     counted AS (
         INSERT INTO quota_shares AS s (backend, incarnation, reserved_bytes, doomed_blobs, doomed_bytes)
         SELECT backend, $1, -bytes, blobs, bytes FROM sums
         ON CONFLICT (backend, incarnation) DO UPDATE SET reserved_bytes = s.reserved_bytes + excluded.reserved_bytes,
             doomed_blobs = s.doomed_blobs + excluded.doomed_blobs, doomed_bytes = s.doomed_bytes + excluded.doomed_bytes)
     SELECT count(*) FROM doomed",
    INT8,
    INT8,
    INT8
);

static LOCK_UPLOADS: Sql = sql!(
    "SELECT 1 FROM uploads WHERE upload IN (SELECT upload FROM part_attempts WHERE incarnation = $1)
     ORDER BY upload FOR UPDATE",
    INT8
);
/// What a number held is not known any more, and all of it stays charged. The upload's row is written for its mark.
static LEAVE_BEHIND: Sql = sql!(
    "WITH left_behind AS (DELETE FROM part_attempts WHERE incarnation = $1 RETURNING upload, number),
     parts_gone AS (DELETE FROM parts p USING left_behind l WHERE p.upload = l.upload AND p.number = l.number),
     marked AS (UPDATE uploads u SET ended = u.ended FROM (SELECT DISTINCT upload FROM left_behind) l
                WHERE u.upload = l.upload RETURNING u.blob)
     UPDATE blobs SET settle_until = $2 FROM marked WHERE blobs.id = marked.blob",
    INT8,
    INT8
);

static LOCK_SHARES: Sql = sql!(
    "SELECT 1 FROM backends WHERE id IN (SELECT backend FROM quota_shares WHERE incarnation = $1)
     ORDER BY id FOR NO KEY UPDATE",
    INT8
);
static TAKE_OVER: Sql = sql!(
    "WITH gone AS (DELETE FROM quota_shares WHERE incarnation = $1 RETURNING *)
     INSERT INTO quota_shares AS s (backend, incarnation, granted, charged, reserved_bytes, live_blobs, live_bytes,
         doomed_blobs, doomed_bytes, dead_blobs, dead_bytes, active_uploads)
     SELECT backend, $2, granted, charged, reserved_bytes, live_blobs, live_bytes, doomed_blobs, doomed_bytes, dead_blobs,
         dead_bytes, active_uploads FROM gone ORDER BY backend
     ON CONFLICT (backend, incarnation) DO UPDATE SET granted = s.granted + excluded.granted,
         charged = s.charged + excluded.charged, reserved_bytes = s.reserved_bytes + excluded.reserved_bytes,
         live_blobs = s.live_blobs + excluded.live_blobs, live_bytes = s.live_bytes + excluded.live_bytes,
         doomed_blobs = s.doomed_blobs + excluded.doomed_blobs, doomed_bytes = s.doomed_bytes + excluded.doomed_bytes,
         dead_blobs = s.dead_blobs + excluded.dead_blobs, dead_bytes = s.dead_bytes + excluded.dead_bytes,
         active_uploads = s.active_uploads + excluded.active_uploads",
    INT8,
    INT8
);

/// In the running transaction; answers how many blobs were doomed. Cancel: the transaction must be given up.
pub(super) async fn take_over(
    session: &Session,
    gone: Incarnation,
    by: Incarnation,
    now: Timestamp,
    rules: Rules,
) -> Result<u64, Failure> {
    let settle = now.plus(rules.settle).millis;
    if session.query(&END, &[&gone.0, &now.millis]).await.blamed()?.is_empty() {
        return Ok(0);
    }
    session.query(&LOCK_BLOBS, &[&gone.0]).await.blamed()?;
    let doomed: i64 = one(session, &DOOM, &[&gone.0, &now.millis, &settle]).await?;
    session.query(&LOCK_UPLOADS, &[&gone.0]).await.blamed()?;
    session.query(&LEAVE_BEHIND, &[&gone.0, &settle]).await.blamed()?;
    session.query(&LOCK_SHARES, &[&gone.0]).await.blamed()?;
    session.query(&TAKE_OVER, &[&gone.0, &by.0]).await.blamed()?;
    Ok(doomed as u64)
}
