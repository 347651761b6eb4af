//! Writing a batch: one pipeline from BEGIN to COMMIT, so that no stall of ours can hold a lock.
//!
//! First what it was decided on is locked and verified, and that this incarnation lives (locks.rs), then its rows are written,
//! and last the incarnation's mark and its shares: those are every batch's of this process, so one that is under way beside
//! another waits there for its COMMIT, and for nothing before. What a batch has nothing to do with is not sent: each statement
//! is a message, a plan that starts, and an answer.

use super::super::memory::tables::{Blob, Key, Live, Tables};
use super::super::port::Committed;
use super::super::rules::oldest_leases;
use super::diff::{Delta, Diff};
use super::faults::{failure, is_stale};
use super::load::{KeyColumns, Loaded};
use super::locks::lock_and_verify;
use super::rows::{of_overtaken, state_of_upload, storable, to_json};
use super::sessions::{Ready, Session, Sql, sql};
use crate::base::{BackendName, BlobId, Failure, Incarnation, Timestamp};
use futures_util::future::{LocalBoxFuture, join_all};
use std::time::Duration;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};

/// Why a batch was not written.
pub(super) enum Unwritten {
    /// Rows have changed since: nothing happened, decide anew.
    Stale(Failure),
    /// Nothing happened.
    Refused(Failure),
    /// The COMMIT was sent and its answer lost.
    Unknown(Failure),
}

/// By every batch, so that whoever loses it with the database's last transactions sees that.
static RAISE_MARK: Sql = sql!("UPDATE incarnations SET mark = mark + 1 WHERE id = $1 RETURNING mark", INT8);

/// New versions ($1 to $7), blobs that have changed ($9 to $23; all may but backend, name, key and foreign ETag), and new ones
/// ($24 to $43). One whose number is another's already is refused. $8: now.
pub(super) static PUT_ROWS: Sql = sql!(
    "WITH live AS (
         INSERT INTO versions (bucket, key, version, live, size, modified, etag, record)
         SELECT unnest($1), unnest($2), unnest($3), TRUE, unnest($4), unnest($5), unnest($6), unnest($7)),
     changed AS (
         UPDATE blobs b SET version = n.version, state = n.state, bytes = n.bytes, incarnation = n.incarnation,
             superseded = n.superseded, upload = n.upload, backend_upload = n.backend_upload,
             version_id = n.version_id, abort_uploads = n.abort_uploads, not_before = n.not_before,
             settle_until = n.settle_until, attempts = n.attempts, last_error = n.last_error, reason = n.reason,
             doomed_at = CASE WHEN b.state NOT IN ('reserved', 'live') THEN b.doomed_at
                              WHEN n.state IN ('doomed', 'dead') THEN $8 ELSE 0 END
         FROM (SELECT unnest($9) AS id, unnest($10) AS version, unnest($11) AS state, unnest($12) AS bytes,
                   unnest($13) AS incarnation, unnest($14) AS superseded, unnest($15) AS upload,
                   unnest($16) AS backend_upload, unnest($17) AS version_id, unnest($18) AS abort_uploads,
                   unnest($19) AS not_before, unnest($20) AS settle_until, unnest($21) AS attempts,
                   unnest($22) AS last_error, unnest($23) AS reason) AS n
         WHERE b.id = n.id)
     INSERT INTO blobs (id, backend, name, bucket, key, version, state, bytes, incarnation, superseded, upload,
         backend_upload, version_id, abort_uploads, not_before, settle_until, attempts, last_error, reason, foreign_etag,
         doomed_at)
     SELECT n.*, CASE WHEN n.state IN ('doomed', 'dead') THEN $8 ELSE 0 END
     FROM (SELECT unnest($24), unnest($25), unnest($26), unnest($27), unnest($28), unnest($29), unnest($30) AS state,
               unnest($31), unnest($32), unnest($33), unnest($34), unnest($35), unnest($36), unnest($37), unnest($38),
               unnest($39), unnest($40), unnest($41), unnest($42), unnest($43)) AS n",
    // Versions.
    TEXT_ARRAY,
    BYTEA_ARRAY,
    TEXT_ARRAY,
    INT8_ARRAY,
    INT8_ARRAY,
    TEXT_ARRAY,
    TEXT_ARRAY,
    INT8,
    // Changed blobs.
    INT8_ARRAY,
    TEXT_ARRAY,
    TEXT_ARRAY,
    INT8_ARRAY,
    INT8_ARRAY,
    INT2_ARRAY,
    TEXT_ARRAY,
    TEXT_ARRAY,
    TEXT_ARRAY,
    BOOL_ARRAY,
    INT8_ARRAY,
    INT8_ARRAY,
    INT4_ARRAY,
    TEXT_ARRAY,
    TEXT_ARRAY,
    // New blobs.
    INT8_ARRAY,
    INT8_ARRAY,
    BYTEA_ARRAY,
    TEXT_ARRAY,
    BYTEA_ARRAY,
    TEXT_ARRAY,
    TEXT_ARRAY,
    INT8_ARRAY,
    INT8_ARRAY,
    INT2_ARRAY,
    TEXT_ARRAY,
    TEXT_ARRAY,
    TEXT_ARRAY,
    BOOL_ARRAY,
    INT8_ARRAY,
    INT8_ARRAY,
    INT4_ARRAY,
    TEXT_ARRAY,
    TEXT_ARRAY,
    TEXT_ARRAY
);
static END_BLOBS: Sql = sql!("DELETE FROM blobs WHERE id = ANY($1)", INT8_ARRAY);

/// What made a version that has ended is forgotten in due time.
static END_VERSIONS: Sql = sql!(
    "WITH ended AS (
         DELETE FROM versions v USING unnest($1, $2, $3) AS e (bucket, key, version)
         WHERE v.bucket = e.bucket AND v.key = e.key AND v.version = e.version RETURNING v.bucket, v.key, v.version)
     UPDATE uploads u SET forgettable = TRUE FROM ended e
     WHERE u.bucket = e.bucket AND u.key = e.key AND u.version = e.version AND u.state = 'done'",
    TEXT_ARRAY,
    BYTEA_ARRAY,
    TEXT_ARRAY
);
pub(super) static CHANGE_VERSIONS: Sql = sql!(
    "UPDATE versions v SET size = n.size, modified = n.modified, etag = n.etag, record = n.record
     FROM unnest($1, $2, $3, $4, $5, $6, $7) AS n (bucket, key, version, size, modified, etag, record)
     WHERE v.bucket = n.bucket AND v.key = n.key AND v.version = n.version",
    TEXT_ARRAY,
    BYTEA_ARRAY,
    TEXT_ARRAY,
    INT8_ARRAY,
    INT8_ARRAY,
    TEXT_ARRAY,
    TEXT_ARRAY
);

/// Uploads are few beside objects: one statement each. What became forgettable with its version stays so.
static PUT_UPLOAD: Sql = sql!(
    "INSERT INTO uploads (upload, bucket, key, blob, backend, name, backend_upload, record, checksum_algorithm,
         checksum_full_object, initiated, state, version, manifest, outcome, final_etag, final_record, ended, forgettable)
     VALUES ($1, $2, $3, $4, (SELECT id FROM backends WHERE name = $5), $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
         $17, $18, $19)
     ON CONFLICT (upload) DO UPDATE SET backend_upload = excluded.backend_upload, state = excluded.state,
         version = excluded.version, manifest = excluded.manifest, outcome = excluded.outcome,
         final_etag = excluded.final_etag, final_record = excluded.final_record, ended = excluded.ended,
         forgettable = uploads.forgettable OR excluded.forgettable",
    TEXT,
    TEXT,
    BYTEA,
    INT8,
    TEXT,
    BYTEA,
    TEXT,
    TEXT,
    TEXT,
    BOOL,
    INT8,
    TEXT,
    TEXT,
    TEXT,
    TEXT,
    TEXT,
    TEXT,
    INT8,
    BOOL
);
static END_PARTS: Sql = sql!(
    "DELETE FROM parts p USING unnest($1, $2) AS e (upload, number) WHERE p.upload = e.upload AND p.number = e.number",
    TEXT_ARRAY,
    INT4_ARRAY
);
/// Parts and attempts of an upload that was aborted, whoever has loaded them.
static END_ALL_PARTS: Sql = sql!(
    "WITH attempts_gone AS (DELETE FROM part_attempts WHERE upload = ANY($1)) DELETE FROM parts WHERE upload = ANY($1)",
    TEXT_ARRAY
);
static PUT_PARTS: Sql = sql!(
    "INSERT INTO parts (upload, number, size, record) SELECT * FROM unnest($1, $2, $3, $4)
     ON CONFLICT (upload, number) DO UPDATE SET size = excluded.size, record = excluded.record",
    TEXT_ARRAY,
    INT4_ARRAY,
    INT8_ARRAY,
    TEXT_ARRAY
);
static END_ATTEMPTS: Sql = sql!(
    "DELETE FROM part_attempts p USING unnest($1, $2) AS e (upload, number)
     WHERE p.upload = e.upload AND p.number = e.number",
    TEXT_ARRAY,
    INT4_ARRAY
);
static PUT_ATTEMPTS: Sql = sql!(
    "INSERT INTO part_attempts (upload, number, nonce, incarnation, size) SELECT * FROM unnest($1, $2, $3, $4, $5)
     ON CONFLICT (upload, number) DO UPDATE SET nonce = excluded.nonce, incarnation = excluded.incarnation,
         size = excluded.size",
    TEXT_ARRAY,
    INT4_ARRAY,
    TEXT_ARRAY,
    INT8_ARRAY,
    INT8_ARRAY
);
/// Each column by itself: another instance may have changed the other meanwhile.
static PUT_DRAINING: Sql = sql!("UPDATE backends SET draining = $2, drained = $3 WHERE name = $1", TEXT, BOOL, BOOL);
static PUT_FACTS: Sql = sql!("UPDATE backends SET facts = $2 WHERE name = $1", TEXT, TEXT);
static PUT_USAGE: Sql = sql!(
    "INSERT INTO usage (backend, period, incarnation, counter, value) SELECT * FROM unnest($1, $2, $3, $4, $5)
     ON CONFLICT (period, backend, incarnation, counter) DO UPDATE SET value = excluded.value",
    TEXT_ARRAY,
    TEXT_ARRAY,
    INT8_ARRAY,
    TEXT_ARRAY,
    INT8_ARRAY
);

/// What is charged more must have been granted: another instance may have taken back what was idle. Not so bytes that were
/// found ($13): they are there. Answers what is charged now, in all, and the mark of the rows that the batch has written.
static PUT_SHARE: Sql = sql!(
    "INSERT INTO quota_shares AS s (incarnation, backend, charged, reserved_bytes, live_blobs, live_bytes, doomed_blobs,
         doomed_bytes, dead_blobs, dead_bytes, active_uploads)
     VALUES ($1, $2, $4, $5, $6, $7, $8, $9, $10, $11, $12)
     ON CONFLICT (backend, incarnation) DO UPDATE SET charged = s.charged + excluded.charged,
         reserved_bytes = s.reserved_bytes + excluded.reserved_bytes, live_blobs = s.live_blobs + excluded.live_blobs,
         live_bytes = s.live_bytes + excluded.live_bytes, doomed_blobs = s.doomed_blobs + excluded.doomed_blobs,
         doomed_bytes = s.doomed_bytes + excluded.doomed_bytes, dead_blobs = s.dead_blobs + excluded.dead_blobs,
         dead_bytes = s.dead_bytes + excluded.dead_bytes, active_uploads = s.active_uploads + excluded.active_uploads
     RETURNING $3, (s.charged + coalesce((SELECT sum(o.charged) FROM quota_shares o
             WHERE o.backend = $2 AND o.incarnation <> $1), 0))::bigint,
         txid_current() & 4294967295,
         CASE WHEN $4 > $13 AND s.charged - $13 > s.granted AND (SELECT bytes_limit FROM backends WHERE id = $2) > 0
              THEN stale_batch('shares') ELSE TRUE END",
    INT8,
    INT8,
    TEXT,
    INT8,
    INT8,
    INT8,
    INT8,
    INT8,
    INT8,
    INT8,
    INT8,
    INT8,
    INT8
);
/// The same where this batch's changes of it add up to nothing.
static CHARGED: Sql = sql!(
    "SELECT b.name, coalesce(sum(s.charged), 0)::bigint FROM backends b JOIN quota_shares s ON s.backend = b.id
     WHERE b.name = ANY($1) GROUP BY b.name ORDER BY b.name",
    TEXT_ARRAY
);
static FORGET_BATCHES: Sql = sql!("DELETE FROM batches WHERE at < $1", INT8);
static FORGET_LEASES: Sql = sql!("DELETE FROM budget_leases WHERE period < $1", TEXT);
/// The version that one made may have come back since it was marked.
static FORGET_UPLOADS: Sql = sql!(
    "DELETE FROM uploads WHERE upload IN
        (SELECT upload FROM uploads u WHERE forgettable AND ended < $1 AND NOT (state = 'done' AND EXISTS
             (SELECT 1 FROM versions v WHERE v.bucket = u.bucket AND v.key = u.key AND v.version = u.version))
         ORDER BY ended, upload LIMIT $2)",
    INT8,
    INT8
);
/// Said in a transaction that waits less than others, and in every one of sessions that are not ours alone.
static SETTINGS: Sql = sql!(
    "SELECT set_config('statement_timeout', $1, TRUE), set_config('lock_timeout', $2, TRUE),
         set_config('idle_in_transaction_session_timeout', $1, TRUE)",
    TEXT,
    TEXT
);

/// A statement with its parameters.
pub(super) type Bound = (&'static Sql, Vec<Box<dyn ToSql + Sync>>);

macro_rules! bound {
    ($sql:expr $(, $param:expr)* $(,)?) => {
        (&$sql, vec![$(Box::new($param) as Box<dyn tokio_postgres::types::ToSql + Sync>),*])
    };
}
pub(super) use bound;

/// What a batch's transaction consists of beside its changes.
pub(super) struct Around<'w> {
    pub(super) id: [u8; 16],
    pub(super) incarnation: Incarnation,
    /// Of the loading: which keys and uploads were asked for.
    pub(super) keys: Vec<&'w Key>,
    pub(super) uploads: Vec<String>,
    /// Backends whose charge is told afterwards.
    pub(super) told: Vec<BackendName>,
    /// It adopts what was found.
    pub(super) adopts: bool,
    pub(super) forget: Option<Forget>,
}

/// What has had its time.
pub(super) struct Forget {
    pub(super) batches_before: Timestamp,
    pub(super) uploads_before: Timestamp,
    pub(super) uploads_max: u32,
}

/// The statements of a batch, between BEGIN and COMMIT.
pub(super) struct Statements {
    pub(super) all: Vec<Bound>,
    /// Which one answers the mark, if it is raised.
    pub(super) raises: Option<usize>,
    /// This one and all behind it tell what is charged.
    pub(super) tells: usize,
}

pub(super) fn statements(around: &Around<'_>, before: &Tables, loaded: &Loaded, diff: &Diff<'_>) -> Statements {
    let mut all = Vec::new();
    lock_and_verify(around, before, loaded, diff, &mut all);
    put_rows(loaded, diff, &mut all);
    put_uploads(diff, &mut all);
    for (name, row) in &diff.draining {
        all.push(bound!(PUT_DRAINING, name.as_str().to_owned(), row.draining, row.drained));
    }
    for (name, row) in &diff.facts {
        all.push(bound!(PUT_FACTS, name.as_str().to_owned(), to_json(&row.facts)));
    }
    put_usage(diff, &mut all);
    if let Some(forget) = &around.forget {
        all.push(bound!(FORGET_BATCHES, forget.batches_before.millis));
        all.push(bound!(FORGET_LEASES, oldest_leases(loaded.now)));
        all.push(bound!(FORGET_UPLOADS, forget.uploads_before.millis, i64::from(forget.uploads_max)));
    }
    let raises = loaded.mark.map(|_| all.len());
    if raises.is_some() {
        all.push(bound!(RAISE_MARK, around.incarnation.0));
    }
    let tells = all.len();
    put_shares(around, loaded, diff, &mut all);
    let untold = around.told.iter().filter(|name| !diff.shares.contains_key(*name));
    let untold: Vec<String> = untold.map(|name| name.as_str().to_owned()).collect();
    if !untold.is_empty() {
        all.push(bound!(CHARGED, untold));
    }
    Statements { all, raises, tells }
}

pub(super) fn owned(columns: KeyColumns<'_>) -> (Vec<String>, Vec<Vec<u8>>) {
    (columns.buckets.into_iter().map(str::to_owned).collect(), columns.keys.into_iter().map(<[u8]>::to_vec).collect())
}

/// A version's columns: bucket, key, version, size, modified, ETag, record.
type VersionColumns = (Vec<String>, Vec<Vec<u8>>, Vec<String>, Vec<i64>, Vec<i64>, Vec<String>, Vec<String>);

fn version_columns(rows: &[(&Key, &Live)]) -> VersionColumns {
    let (buckets, keys) = owned(KeyColumns::of(rows.iter().map(|(key, _)| *key)));
    let live = || rows.iter().map(|(_, live)| live);
    (
        buckets,
        keys,
        live().map(|live| live.version.as_str().to_owned()).collect(),
        live().map(|live| live.size as i64).collect(),
        live().map(|live| live.modified.millis).collect(),
        live().map(|live| live.etag.clone()).collect(),
        live().map(|live| to_json(&live.record)).collect(),
    )
}

/// Of each of these blobs, boxed as a parameter.
macro_rules! column {
    ($blobs:expr, ($id:pat, $blob:pat) => $value:expr) => {
        Box::new($blobs.iter().map(|($id, $blob)| $value).collect::<Vec<_>>()) as Box<dyn ToSql + Sync>
    };
}

/// The columns of blobs that may change, but the time at which one is doomed.
fn changing_columns(blobs: &[(BlobId, &Blob)]) -> [Box<dyn ToSql + Sync>; 14] {
    [
        column!(blobs, (_, blob) => blob.version.as_str().to_owned()),
        column!(blobs, (_, blob) => blob.state.as_str()),
        column!(blobs, (_, blob) => blob.bytes as i64),
        column!(blobs, (_, blob) => blob.owner.map(|owner| owner.0)),
        column!(blobs, (_, blob) => of_overtaken(blob.superseded)),
        column!(blobs, (_, blob) => blob.upload.as_ref().map(|upload| upload.as_str().to_owned())),
        column!(blobs, (_, blob) => blob.backend_upload.clone()),
        column!(blobs, (_, blob) => blob.version_id.clone()),
        column!(blobs, (_, blob) => blob.abort_uploads),
        column!(blobs, (_, blob) => blob.not_before.millis),
        column!(blobs, (_, blob) => blob.settle_until.millis),
        column!(blobs, (_, blob) => blob.attempts as i32),
        column!(blobs, (_, blob) => storable(&blob.last_error)),
        column!(blobs, (_, blob) => storable(&blob.reason)),
    ]
}

fn put_rows(loaded: &Loaded, diff: &Diff<'_>, all: &mut Vec<Bound>) {
    // First: what is adopted in the same batch may have the name of one that ends.
    if !diff.blobs_ended.is_empty() {
        all.push(bound!(END_BLOBS, diff.blobs_ended.clone()));
    }
    if !diff.versions_ended.is_empty() {
        let (buckets, keys) = owned(KeyColumns::of(diff.versions_ended.iter().map(|(key, _)| *key)));
        let versions: Vec<String> =
            diff.versions_ended.iter().map(|(_, version)| version.as_str().to_owned()).collect();
        all.push(bound!(END_VERSIONS, buckets, keys, versions));
    }
    if !(diff.blobs_changed.is_empty() && diff.blobs_added.is_empty() && diff.versions_added.is_empty()) {
        let (buckets, keys, versions, sizes, modified, etags, records) = version_columns(&diff.versions_added);
        let now = loaded.now.millis;
        let (sql, mut params) = bound!(PUT_ROWS, buckets, keys, versions, sizes, modified, etags, records, now);
        params.push(column!(diff.blobs_changed, (id, _) => id.0));
        params.extend(changing_columns(&diff.blobs_changed));
        params.push(column!(diff.blobs_added, (id, _) => id.0));
        params.push(column!(diff.blobs_added, (_, blob) => loaded.id_of(&blob.backend)));
        params.push(column!(diff.blobs_added, (_, blob) => blob.name.as_bytes().to_vec()));
        params.push(column!(diff.blobs_added, (_, blob) => blob.key.0.as_str().to_owned()));
        params.push(column!(diff.blobs_added, (_, blob) => blob.key.1.as_str().as_bytes().to_vec()));
        params.extend(changing_columns(&diff.blobs_added));
        params.push(column!(diff.blobs_added, (_, blob) => storable(&blob.foreign_etag)));
        all.push((sql, params));
    }
    if !diff.versions_changed.is_empty() {
        let (buckets, keys, versions, sizes, modified, etags, records) = version_columns(&diff.versions_changed);
        all.push(bound!(CHANGE_VERSIONS, buckets, keys, versions, sizes, modified, etags, records));
    }
}

fn put_uploads(diff: &Diff<'_>, all: &mut Vec<Bound>) {
    for (upload, row) in &diff.uploads {
        let manifest: Vec<(u16, &str)> =
            row.manifest.iter().map(|(number, etag)| (number.get(), etag.as_str())).collect();
        let (outcome, final_etag, final_record) = match &row.finished {
            Some((Committed::Live { .. }, etag, record)) => (Some("live"), etag.clone(), to_json(record)),
            Some((_, etag, record)) => (Some("overwritten"), etag.clone(), to_json(record)),
            None => (None, String::new(), "{}".to_owned()),
        };
        all.push(bound!(
            PUT_UPLOAD,
            upload.as_str().to_owned(),
            row.key.0.as_str().to_owned(),
            row.key.1.as_str().as_bytes().to_vec(),
            row.blob.id.0,
            row.blob.backend.as_str().to_owned(),
            row.blob.name.as_bytes().to_vec(),
            row.backend_upload.clone(),
            to_json(&row.record),
            row.checksum_algorithm.clone(),
            row.checksum_full_object,
            row.initiated.millis,
            state_of_upload(row.state),
            row.version.as_str().to_owned(),
            to_json(&manifest),
            outcome,
            final_etag,
            final_record,
            row.ended.millis,
            !row.is_active() && outcome != Some("live")
        ));
    }
    let names = |uploads: Vec<&crate::base::UploadId>| -> Vec<String> {
        uploads.into_iter().map(|upload| upload.as_str().to_owned()).collect()
    };
    if !diff.aborted.is_empty() {
        all.push(bound!(END_ALL_PARTS, names(diff.aborted.clone())));
    }
    if !diff.parts_ended.is_empty() {
        let numbers: Vec<i32> = diff.parts_ended.iter().map(|(_, number)| i32::from(*number)).collect();
        all.push(bound!(END_PARTS, names(diff.parts_ended.iter().map(|(upload, _)| *upload).collect()), numbers));
    }
    if !diff.parts.is_empty() {
        let numbers: Vec<i32> = diff.parts.iter().map(|(_, part)| i32::from(part.number)).collect();
        let sizes: Vec<i64> = diff.parts.iter().map(|(_, part)| part.size as i64).collect();
        let records: Vec<String> = diff.parts.iter().map(|(_, part)| to_json(part)).collect();
        let of = names(diff.parts.iter().map(|(upload, _)| *upload).collect());
        all.push(bound!(PUT_PARTS, of, numbers, sizes, records));
    }
    if !diff.attempts_ended.is_empty() {
        let numbers: Vec<i32> = diff.attempts_ended.iter().map(|(_, number)| i32::from(number.get())).collect();
        all.push(bound!(END_ATTEMPTS, names(diff.attempts_ended.iter().map(|(upload, _)| *upload).collect()), numbers));
    }
    if !diff.attempts.is_empty() {
        all.push(bound!(
            PUT_ATTEMPTS,
            names(diff.attempts.iter().map(|(upload, ..)| *upload).collect()),
            diff.attempts.iter().map(|(_, number, _)| i32::from(number.get())).collect::<Vec<_>>(),
            diff.attempts.iter().map(|(_, _, one)| one.nonce.as_str().to_owned()).collect::<Vec<_>>(),
            diff.attempts.iter().map(|(_, _, one)| one.incarnation.0).collect::<Vec<_>>(),
            diff.attempts.iter().map(|(_, _, one)| one.size as i64).collect::<Vec<_>>()
        ));
    }
}

fn put_usage(diff: &Diff<'_>, all: &mut Vec<Bound>) {
    let mut columns: (Vec<String>, Vec<String>, Vec<i64>, Vec<&'static str>, Vec<i64>) = Default::default();
    for ((backend, period, incarnation), usage) in &diff.usage {
        let counters = [
            ("api_requests", usage.api_requests),
            ("egress_bytes", usage.egress_bytes),
            ("ingress_bytes", usage.ingress_bytes),
        ];
        for (counter, value) in counters {
            columns.0.push(backend.as_str().to_owned());
            columns.1.push(period.clone());
            columns.2.push(incarnation.0);
            columns.3.push(counter);
            columns.4.push(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
    if !columns.0.is_empty() {
        all.push(bound!(PUT_USAGE, columns.0, columns.1, columns.2, columns.3, columns.4));
    }
}

fn put_shares(around: &Around<'_>, loaded: &Loaded, diff: &Diff<'_>, all: &mut Vec<Bound>) {
    let mut shares: Vec<(i64, &BackendName, &Delta)> =
        diff.shares.iter().map(|(name, delta)| (loaded.id_of(name), name, delta)).collect();
    shares.sort_unstable_by_key(|(backend, ..)| *backend);
    for (backend, name, delta) in shares {
        all.push(bound!(
            PUT_SHARE,
            around.incarnation.0,
            backend,
            name.as_str().to_owned(),
            delta.charged,
            delta.reserved_bytes,
            delta.live_blobs,
            delta.live_bytes,
            delta.doomed_blobs,
            delta.doomed_bytes,
            delta.dead_blobs,
            delta.dead_bytes,
            delta.active_uploads,
            delta.found
        ));
    }
}

/// Sends BEGIN, the statements and COMMIT at once; answers the statements' rows. `lock_within`: how long it may wait for
/// others, if less than usual. Cancel: NOT safe.
pub(super) async fn commit(
    session: &Session,
    mut statements: Vec<Bound>,
    lock_within: Option<Duration>,
) -> Result<Vec<Vec<Row>>, Unwritten> {
    let asked = statements.len();
    if let Some((statement, lock)) = session.settings(lock_within) {
        statements.insert(0, bound!(SETTINGS, statement, lock));
    }
    let mut prepared: Vec<(Ready, Vec<&(dyn ToSql + Sync)>)> = Vec::with_capacity(statements.len());
    for (sql, params) in &statements {
        let ready = session.ready(sql).await.map_err(|error| Unwritten::Refused(failure(&error)))?;
        prepared.push((ready, params.iter().map(AsRef::as_ref).collect()));
    }
    let mut pipeline: Vec<LocalBoxFuture<'_, Result<Vec<Row>, Error>>> = Vec::with_capacity(prepared.len() + 2);
    pipeline
        .push(Box::pin(async { session.command("BEGIN ISOLATION LEVEL READ COMMITTED").await.map(|()| Vec::new()) }));
    for (ready, params) in &prepared {
        pipeline.push(Box::pin(session.run(ready, params)));
    }
    pipeline.push(Box::pin(async { session.command("COMMIT").await.map(|()| Vec::new()) }));
    let mut answers = join_all(pipeline).await;
    match answers.iter().position(Result::is_err) {
        None => {
            let before_commit = answers.len() - 1;
            Ok(answers.drain(before_commit - asked..before_commit).map(Result::unwrap_or_default).collect())
        }
        Some(at) => {
            let is_commit = at == answers.len() - 1;
            let Err(error) = answers.swap_remove(at) else { unreachable!("it was found to be one") };
            Err(unwritten(&error, is_commit))
        }
    }
}

/// A statement that the server refused ends its transaction. Where no answer came, the COMMIT behind it may have been heard.
fn unwritten(error: &Error, is_commit: bool) -> Unwritten {
    match error.as_db_error() {
        Some(_) if !is_commit && is_stale(error) => Unwritten::Stale(failure(error)),
        Some(_) if !is_commit => Unwritten::Refused(failure(error)),
        _ => Unwritten::Unknown(failure(error)),
    }
}
