//! Writing a batch: one pipeline from BEGIN to COMMIT, so that no stall of ours can hold a lock.
//!
//! Its id first (a lost answer is looked for by it), then this incarnation's mark, then locks in one order for everybody: keys
//! without a row by their hashes, blobs by key, uploads, and last the shares, which are this incarnation's own. Under the
//! locks it is verified that nothing that the batch was decided on has changed.

use super::super::memory::tables::{Key, Tables};
use super::super::port::Committed;
use super::super::rules::oldest_leases;
use super::diff::{Delta, Diff};
use super::faults::{failure, is_stale};
use super::load::{KeyColumns, Loaded};
use super::rows::{of_overtaken, state_of_upload, storable, to_json};
use super::sessions::{Ready, Session, Sql, sql};
use crate::base::{BackendName, Failure, Incarnation, Timestamp};
use aws_lc_rs::digest;
use futures_util::future::{LocalBoxFuture, join_all};
use std::collections::BTreeSet;
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

static BATCH: Sql = sql!("INSERT INTO batches (id, at, outcome) VALUES ($1, $2, 'applied')", BYTEA, INT8);

/// The mark is raised only from what the batch was decided on: an incarnation that was ended meanwhile commits nothing.
static MARK: Sql = sql!(
    "WITH raised AS (UPDATE incarnations SET mark = $2 + 1 WHERE id = $1 AND ended IS NULL AND mark = $2 RETURNING 1)
     SELECT CASE WHEN (SELECT count(*) FROM raised) = 1 THEN TRUE ELSE stale_batch('incarnation') END",
    INT8,
    INT8
);

/// Whoever ends a bucket waits until what began in it can be seen.
static LOCK_BUCKETS: Sql = sql!(
    "WITH there AS (SELECT 1 FROM buckets WHERE name = ANY($1) ORDER BY name FOR SHARE)
     SELECT CASE WHEN (SELECT count(*) FROM there) = cardinality($1) THEN TRUE ELSE stale_batch('buckets') END",
    TEXT_ARRAY
);
static LOCK_HASHES: Sql = sql!("SELECT pg_advisory_xact_lock(hash) FROM unnest($1) AS h (hash)", INT8_ARRAY);
pub(super) static LOCK_BLOBS: Sql =
    sql!("SELECT 1 FROM blobs WHERE id = ANY($1) ORDER BY bucket, key, id FOR UPDATE", INT8_ARRAY);
pub(super) static LOCK_UPLOADS: Sql =
    sql!("SELECT 1 FROM uploads WHERE upload = ANY($1) ORDER BY upload FOR UPDATE", TEXT_ARRAY);
/// $2: those of $1 that were draining already. Whoever sets one to drain waits here until what began on it can be seen, and
/// what begins later waits for him.
static LOCK_BACKENDS: Sql = sql!(
    "WITH there AS (SELECT 1 FROM backends WHERE name = ANY($1) AND (NOT draining OR name = ANY($2)) ORDER BY id FOR KEY SHARE)
     SELECT CASE WHEN (SELECT count(*) FROM there) = cardinality($1) THEN TRUE ELSE stale_batch('backends') END",
    TEXT_ARRAY,
    TEXT_ARRAY
);
static LOCK_BACKENDS_ALONE: Sql = sql!(
    "WITH there AS (SELECT 1 FROM backends WHERE name = ANY($1) AND (NOT draining OR name = ANY($2)) ORDER BY id FOR UPDATE)
     SELECT CASE WHEN (SELECT count(*) FROM there) = cardinality($1) THEN TRUE ELSE stale_batch('backends') END",
    TEXT_ARRAY,
    TEXT_ARRAY
);
/// Whose drain ends: under their locks nothing is on them, and nothing comes.
static VERIFY_EMPTY: Sql = sql!(
    "SELECT CASE WHEN EXISTS (SELECT 1 FROM blobs WHERE backend IN (SELECT id FROM backends WHERE name = ANY($1)))
     THEN stale_batch('drained') ELSE TRUE END",
    TEXT_ARRAY
);
/// An adoption was decided on whether the database is held as restored.
static LOCK_RESTORED: Sql = sql!(
    "WITH held AS (SELECT 1 FROM deployment WHERE name = 'restored' FOR SHARE)
     SELECT CASE WHEN EXISTS (SELECT 1 FROM held) = $1 THEN TRUE ELSE stale_batch('restored') END",
    BOOL
);

/// $1, $2: blobs and their marks; $3, $4: keys; $5: blobs of these keys; $6, $7: versions' marks (of $8, $9); $10, $11: uploads
/// and their marks; $12: uploads that were asked for, whether there or not.
pub(super) static VERIFY: Sql = sql!(
    "SELECT CASE WHEN
         (SELECT count(*) FROM unnest($1, $2) AS s (id, mark) JOIN blobs b ON b.id = s.id AND b.xmin::text::bigint = s.mark)
             = cardinality($1)
         AND (SELECT count(*) FROM unnest($3, $4) AS k (bucket, key) JOIN blobs b ON b.bucket = k.bucket AND b.key = k.key)
             = $5
         AND (SELECT count(*) FROM unnest($3, $4) AS k (bucket, key)
              JOIN versions v ON v.bucket = k.bucket AND v.key = k.key WHERE v.live) = cardinality($6)
         AND (SELECT count(*) FROM unnest($7, $8, $6) AS s (bucket, key, mark)
              JOIN versions v ON v.bucket = s.bucket AND v.key = s.key AND v.xmin::text::bigint = s.mark
              WHERE v.live) = cardinality($6)
         AND (SELECT count(*) FROM unnest($9, $10) AS s (upload, mark)
              JOIN uploads u ON u.upload = s.upload AND u.xmin::text::bigint = s.mark) = cardinality($9)
         AND (SELECT count(*) FROM uploads WHERE upload = ANY($11)) = $12
     THEN TRUE ELSE stale_batch('rows') END",
    INT8_ARRAY,
    INT8_ARRAY,
    TEXT_ARRAY,
    BYTEA_ARRAY,
    INT8,
    INT8_ARRAY,
    TEXT_ARRAY,
    BYTEA_ARRAY,
    TEXT_ARRAY,
    INT8_ARRAY,
    TEXT_ARRAY,
    INT8
);

static PUT_BLOBS: Sql = sql!(
    "INSERT INTO blobs (id, backend, name, bucket, key, version, state, bytes, incarnation, superseded, upload,
         backend_upload, version_id, abort_uploads, not_before, settle_until, attempts, last_error, reason, foreign_etag,
         doomed_at)
     SELECT n.id, b.id, n.name, n.bucket, n.key, n.version, n.state, n.bytes, n.incarnation, n.superseded, n.upload,
         n.backend_upload, n.version_id, n.abort_uploads, n.not_before, n.settle_until, n.attempts, n.last_error, n.reason,
         n.foreign_etag, CASE WHEN n.state = 'doomed' THEN $21 ELSE 0 END
     FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
         AS n (id, backend, name, bucket, key, version, state, bytes, incarnation, superseded, upload, backend_upload,
               version_id, abort_uploads, not_before, settle_until, attempts, last_error, reason, foreign_etag)
     JOIN backends b ON b.name = n.backend
     ON CONFLICT (id) DO UPDATE SET version = excluded.version, state = excluded.state, bytes = excluded.bytes,
         incarnation = excluded.incarnation, superseded = excluded.superseded, upload = excluded.upload,
         backend_upload = excluded.backend_upload,
         version_id = excluded.version_id, abort_uploads = excluded.abort_uploads, not_before = excluded.not_before,
         settle_until = excluded.settle_until, attempts = excluded.attempts, last_error = excluded.last_error,
         reason = excluded.reason,
         doomed_at = CASE WHEN blobs.state IN ('reserved', 'live') AND excluded.state = 'doomed' THEN $21
                     ELSE blobs.doomed_at END",
    INT8_ARRAY,
    TEXT_ARRAY,
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
    TEXT_ARRAY,
    INT8
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
static PUT_VERSIONS: Sql = sql!(
    "INSERT INTO versions (bucket, key, version, live, size, modified, etag, record)
     SELECT n.bucket, n.key, n.version, TRUE, n.size, n.modified, n.etag, n.record
     FROM unnest($1, $2, $3, $4, $5, $6, $7) AS n (bucket, key, version, size, modified, etag, record)
     ON CONFLICT (bucket, key, version) DO UPDATE SET size = excluded.size, modified = excluded.modified,
         etag = excluded.etag, record = excluded.record",
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
/// found ($12): they are there.
static PUT_SHARES: Sql = sql!(
    "WITH written AS (
         INSERT INTO quota_shares AS s (backend, incarnation, charged, reserved_bytes, live_blobs, live_bytes, doomed_blobs,
             doomed_bytes, dead_blobs, dead_bytes, active_uploads)
         SELECT b.id, $1, n.charged, n.reserved_bytes, n.live_blobs, n.live_bytes, n.doomed_blobs, n.doomed_bytes,
             n.dead_blobs, n.dead_bytes, n.active_uploads
         FROM unnest($2, $3, $4, $5, $6, $7, $8, $9, $10, $11) AS n (backend, charged, reserved_bytes, live_blobs,
             live_bytes, doomed_blobs, doomed_bytes, dead_blobs, dead_bytes, active_uploads)
         JOIN backends b ON b.name = n.backend ORDER BY b.id
         ON CONFLICT (backend, incarnation) DO UPDATE SET charged = s.charged + excluded.charged,
             reserved_bytes = s.reserved_bytes + excluded.reserved_bytes, live_blobs = s.live_blobs + excluded.live_blobs,
             live_bytes = s.live_bytes + excluded.live_bytes, doomed_blobs = s.doomed_blobs + excluded.doomed_blobs,
             doomed_bytes = s.doomed_bytes + excluded.doomed_bytes, dead_blobs = s.dead_blobs + excluded.dead_blobs,
             dead_bytes = s.dead_bytes + excluded.dead_bytes, active_uploads = s.active_uploads + excluded.active_uploads
         RETURNING s.backend, s.granted, s.charged)
     SELECT CASE WHEN EXISTS (
         SELECT 1 FROM written w JOIN backends b ON b.id = w.backend JOIN unnest($2, $3, $12) AS n (backend, charged, found)
             ON n.backend = b.name
         WHERE n.charged > n.found AND b.bytes_limit > 0 AND w.charged - n.found > w.granted)
     THEN stale_batch('shares') ELSE TRUE END",
    INT8,
    TEXT_ARRAY,
    INT8_ARRAY,
    INT8_ARRAY,
    INT8_ARRAY,
    INT8_ARRAY,
    INT8_ARRAY,
    INT8_ARRAY,
    INT8_ARRAY,
    INT8_ARRAY,
    INT8_ARRAY,
    INT8_ARRAY
);
static CHARGED: Sql = sql!(
    "SELECT b.name, coalesce(sum(s.charged), 0)::bigint FROM backends b JOIN quota_shares s ON s.backend = b.id
     WHERE b.name = ANY($1) GROUP BY b.name ORDER BY b.name",
    TEXT_ARRAY
);
static FORGET_BATCHES: Sql = sql!("DELETE FROM batches WHERE at < $1", INT8);
static FORGET_LEASES: Sql = sql!("DELETE FROM budget_leases WHERE period < $1", TEXT);
static FORGET_UPLOADS: Sql = sql!(
    "DELETE FROM uploads WHERE upload IN
         (SELECT upload FROM uploads WHERE forgettable AND ended < $1 ORDER BY ended, upload LIMIT $2)",
    INT8,
    INT8
);
/// Said again in every transaction, for sessions that are not ours alone.
static SETTINGS: Sql = sql!(
    "SELECT set_config('statement_timeout', $1, TRUE), set_config('lock_timeout', $2, TRUE),
         set_config('idle_in_transaction_session_timeout', $1, TRUE)",
    TEXT,
    TEXT
);
/// Acknowledged means durable, whatever the server's default is.
static DURABLE: Sql = sql!(
    "SELECT CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', TRUE) END"
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

/// The statements of a batch, between BEGIN and COMMIT; the last one tells the charges.
pub(super) fn statements(around: &Around<'_>, before: &Tables, loaded: &Loaded, diff: &Diff<'_>) -> Vec<Bound> {
    let mut all = vec![bound!(DURABLE), bound!(BATCH, around.id.to_vec(), loaded.now.millis)];
    if let Some(mark) = loaded.mark {
        all.push(bound!(MARK, around.incarnation.0, mark));
    }
    lock_and_verify(around, before, loaded, diff, &mut all);
    put_blobs(loaded, diff, &mut all);
    put_versions(diff, &mut all);
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
    put_shares(around, diff, &mut all);
    let told: Vec<String> = around.told.iter().map(|name| name.as_str().to_owned()).collect();
    all.push(bound!(CHARGED, told));
    all
}

fn lock_and_verify(around: &Around<'_>, before: &Tables, loaded: &Loaded, diff: &Diff<'_>, all: &mut Vec<Bound>) {
    let buckets: Vec<String> = before.buckets.keys().map(|name| name.as_str().to_owned()).collect();
    if !buckets.is_empty() {
        all.push(bound!(LOCK_BUCKETS, buckets));
    }
    let has_row = |key: &Key| before.blobs_of.contains_key(key);
    let mut hashes: Vec<i64> = around.keys.iter().filter(|key| !has_row(key)).map(|key| hash_of(key)).collect();
    hashes.sort_unstable();
    hashes.dedup();
    if !hashes.is_empty() {
        all.push(bound!(LOCK_HASHES, hashes));
    }
    let (ids, marks): (Vec<i64>, Vec<i64>) = loaded.blob_marks.iter().unzip();
    if !ids.is_empty() {
        all.push(bound!(LOCK_BLOBS, ids.clone()));
    }
    let (uploads, upload_marks): (Vec<String>, Vec<i64>) =
        loaded.upload_marks.iter().map(|(upload, mark)| (upload.as_str().to_owned(), *mark)).unzip();
    if !uploads.is_empty() {
        all.push(bound!(LOCK_UPLOADS, uploads.clone()));
    }
    lock_backends(before, diff, all);
    if around.adopts {
        all.push(bound!(LOCK_RESTORED, before.restored));
    }
    let keys = owned(KeyColumns::of(around.keys.iter().copied()));
    let of_keys: usize = around.keys.iter().filter_map(|key| before.blobs_of.get(key)).map(BTreeSet::len).sum();
    let live = owned(KeyColumns::of(loaded.live_marks.iter().map(|(key, _)| key)));
    let live_marks: Vec<i64> = loaded.live_marks.iter().map(|(_, mark)| *mark).collect();
    let there = around.uploads.iter().filter(|upload| uploads.contains(upload)).count() as i64;
    all.push(bound!(
        VERIFY,
        ids,
        marks,
        keys.0,
        keys.1,
        of_keys as i64,
        live_marks,
        live.0,
        live.1,
        uploads,
        upload_marks,
        around.uploads.clone(),
        there
    ));
}

fn lock_backends(before: &Tables, diff: &Diff<'_>, all: &mut Vec<Bound>) {
    let changed = diff.draining.iter().map(|(name, _)| *name);
    let names: BTreeSet<&BackendName> = diff.added_on.iter().chain(changed).collect();
    let draining = |name: &&BackendName| before.backends.get(*name).is_some_and(|row| row.draining);
    let drained: Vec<String> = names.iter().copied().filter(draining).map(|name| name.as_str().to_owned()).collect();
    let names: Vec<String> = names.into_iter().map(|name| name.as_str().to_owned()).collect();
    if !diff.draining.is_empty() {
        all.push(bound!(LOCK_BACKENDS_ALONE, names, drained));
        let ended = diff.draining.iter().filter(|(_, row)| row.drained);
        let ended: Vec<String> = ended.map(|(name, _)| name.as_str().to_owned()).collect();
        if !ended.is_empty() {
            all.push(bound!(VERIFY_EMPTY, ended));
        }
    } else if !names.is_empty() {
        all.push(bound!(LOCK_BACKENDS, names, drained));
    }
}

fn owned(columns: KeyColumns<'_>) -> (Vec<String>, Vec<Vec<u8>>) {
    (columns.buckets.into_iter().map(str::to_owned).collect(), columns.keys.into_iter().map(<[u8]>::to_vec).collect())
}

/// The lock of a key without a row: the same in every instance, whoever built it.
fn hash_of(key: &Key) -> i64 {
    let name = format!("{}/{}", key.0.as_str(), key.1.as_str());
    let digest = digest::digest(&digest::SHA256, name.as_bytes());
    i64::from_be_bytes(digest.as_ref()[..8].try_into().expect("a SHA-256 has 32 bytes"))
}

fn put_blobs(loaded: &Loaded, diff: &Diff<'_>, all: &mut Vec<Bound>) {
    macro_rules! column {
        ($blob:ident => $value:expr) => {
            diff.blobs.iter().map(|(_, $blob)| $value).collect::<Vec<_>>()
        };
    }
    // First: what is adopted in the same batch may have the name of one that ends.
    if !diff.blobs_ended.is_empty() {
        all.push(bound!(END_BLOBS, diff.blobs_ended.clone()));
    }
    if !diff.blobs.is_empty() {
        all.push(bound!(
            PUT_BLOBS,
            diff.blobs.iter().map(|(id, _)| id.0).collect::<Vec<i64>>(),
            column!(blob => blob.backend.as_str().to_owned()),
            column!(blob => blob.name.as_bytes().to_vec()),
            column!(blob => blob.key.0.as_str().to_owned()),
            column!(blob => blob.key.1.as_str().as_bytes().to_vec()),
            column!(blob => blob.version.as_str().to_owned()),
            column!(blob => blob.state.as_str()),
            column!(blob => blob.bytes as i64),
            column!(blob => blob.owner.map(|owner| owner.0)),
            column!(blob => of_overtaken(blob.superseded)),
            column!(blob => blob.upload.as_ref().map(|upload| upload.as_str().to_owned())),
            column!(blob => blob.backend_upload.clone()),
            column!(blob => blob.version_id.clone()),
            column!(blob => blob.abort_uploads),
            column!(blob => blob.not_before.millis),
            column!(blob => blob.settle_until.millis),
            column!(blob => blob.attempts as i32),
            column!(blob => storable(&blob.last_error)),
            column!(blob => storable(&blob.reason)),
            column!(blob => storable(&blob.foreign_etag)),
            loaded.now.millis
        ));
    }
}

fn put_versions(diff: &Diff<'_>, all: &mut Vec<Bound>) {
    if !diff.versions_ended.is_empty() {
        let (buckets, keys) = owned(KeyColumns::of(diff.versions_ended.iter().map(|(key, _)| *key)));
        let versions: Vec<String> =
            diff.versions_ended.iter().map(|(_, version)| version.as_str().to_owned()).collect();
        all.push(bound!(END_VERSIONS, buckets, keys, versions));
    }
    if !diff.versions.is_empty() {
        let (buckets, keys) = owned(KeyColumns::of(diff.versions.iter().map(|(key, _)| *key)));
        let live = || diff.versions.iter().map(|(_, live)| live);
        all.push(bound!(
            PUT_VERSIONS,
            buckets,
            keys,
            live().map(|live| live.version.as_str().to_owned()).collect::<Vec<_>>(),
            live().map(|live| live.size as i64).collect::<Vec<_>>(),
            live().map(|live| live.modified.millis).collect::<Vec<_>>(),
            live().map(|live| live.etag.clone()).collect::<Vec<_>>(),
            live().map(|live| to_json(&live.record)).collect::<Vec<_>>()
        ));
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

fn put_shares(around: &Around<'_>, diff: &Diff<'_>, all: &mut Vec<Bound>) {
    if diff.shares.is_empty() {
        return;
    }
    let column = |of: fn(&Delta) -> i64| diff.shares.values().map(of).collect::<Vec<i64>>();
    all.push(bound!(
        PUT_SHARES,
        around.incarnation.0,
        diff.shares.keys().map(|name| name.as_str().to_owned()).collect::<Vec<_>>(),
        column(|one| one.charged),
        column(|one| one.reserved_bytes),
        column(|one| one.live_blobs),
        column(|one| one.live_bytes),
        column(|one| one.doomed_blobs),
        column(|one| one.doomed_bytes),
        column(|one| one.dead_blobs),
        column(|one| one.dead_bytes),
        column(|one| one.active_uploads),
        column(|one| one.found)
    ));
}

/// Sends BEGIN, the statements and COMMIT at once; answers the last statement's rows. Cancel: NOT safe.
pub(super) async fn commit(session: &Session, mut statements: Vec<Bound>) -> Result<Vec<Row>, Unwritten> {
    if let Some((statement, lock)) = session.settings() {
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
        None => Ok(answers.swap_remove(answers.len() - 2).unwrap_or_default()),
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
