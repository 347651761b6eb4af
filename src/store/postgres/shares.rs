//! Quota shares (PROTOCOL.md, "Many instances"): what this incarnation may charge without asking the others. Refilling a share
//! and taking back idle ones are short transactions of their own, one at a time per backend.

use super::sessions::{Session, Sql, sql};
use super::write::{Bound, Unwritten, bound, commit};
use crate::base::{Failure, Incarnation};

/// Whoever changes what is granted holds this.
static LOCK: Sql = sql!("SELECT 1 FROM backends WHERE id = $1 FOR NO KEY UPDATE", INT8);

/// Up to $3 at least, with a sixteenth of what is free (at most 1 GiB) to spare, as far as the limit allows. What is charged
/// above what was granted (bytes that `sync` found) is not free.
static REFILL: Sql = sql!(
    "INSERT INTO quota_shares AS s (backend, incarnation, granted)
     SELECT b.id, $2, greatest(0, least(f.free, greatest($3 - f.own, least(f.free / 16, 1073741824))))
     FROM backends b, LATERAL (
         SELECT b.bytes_limit - coalesce(sum(greatest(granted, charged)), 0)::bigint AS free,
                coalesce(sum(granted) FILTER (WHERE incarnation = $2), 0)::bigint AS own
         FROM quota_shares WHERE backend = b.id) AS f
     WHERE b.id = $1 AND b.bytes_limit > 0
     ON CONFLICT (backend, incarnation) DO UPDATE SET granted = s.granted + excluded.granted",
    INT8,
    INT8,
    INT8
);
static TAKE_BACK: Sql = sql!(
    "UPDATE quota_shares SET granted = charged WHERE backend = $1 AND incarnation <> $2 AND granted > charged",
    INT8,
    INT8
);

/// Tries to have at least `granted` bytes granted on this backend. Cancel: safe.
pub(super) async fn refill(session: &Session, backend: i64, to: Incarnation, granted: i64) -> Result<(), Failure> {
    alone(session, vec![bound!(LOCK, backend), bound!(REFILL, backend, to.0, granted)]).await
}

/// What others were granted and have not charged is nobody's again. Cancel: safe.
pub(super) async fn take_back(session: &Session, backend: i64, not_from: Incarnation) -> Result<(), Failure> {
    alone(session, vec![bound!(LOCK, backend), bound!(TAKE_BACK, backend, not_from.0)]).await
}

/// Done again, it does no harm: so nobody asks what became of it.
async fn alone(session: &Session, statements: Vec<Bound>) -> Result<(), Failure> {
    match commit(session, statements, None).await {
        Ok(_) | Err(Unwritten::Stale(_)) => Ok(()),
        Err(Unwritten::Refused(failure) | Unwritten::Unknown(failure)) => Err(failure),
    }
}
