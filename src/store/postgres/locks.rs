//! What a batch locks, in one order for everybody, and what it verifies under its locks: that nothing that it was decided on
//! has changed.
//!
//! The order, of batches and of all other transactions; each leaves out what it has nothing to do with:
//!
//! 1. the registrations' lock (registrations, new limits), or the budgets';
//! 2. runs: a batch's own row, which does not keep other batches of it out; those that are ended, by number, which does;
//! 3. stored buckets by name;
//! 4. keys without a row, by hash; then blobs by key and number;
//! 5. uploads by name;
//! 6. backends by number, also of those whose shares are looked after below: who changes more of a backend's shares than his
//!    own run's holds its row;
//! 7. a batch's own run's mark;
//! 8. shares by backend, then run. A run has one on every backend from its registration on: a new row would lock its backend
//!    behind it.
//!
//! Rows that nobody waits for while he holds others (a batch's id, counters, a run's usage) stand outside of it. Of one process,
//! a batch that writes usage or facts has no other beside it.
//!
//! A key's live version appears only together with a change of one of the key's blobs, so where none was there, the blobs
//! tell of it. One that was there is looked at itself: tags change without a blob.

use super::super::memory::tables::{Key, Tables};
use super::diff::Diff;
use super::load::{KeyColumns, Loaded};
use super::sessions::{Sql, sql};
use super::write::{Around, Bound, bound, owned};
use crate::base::BackendName;
use aws_lc_rs::digest;
use std::collections::{BTreeMap, BTreeSet};

/// The first statement of a batch: its id, which a lost answer is looked for by, and the locks of the order's 2 to 6, of all
/// that it has to do with. The conditions of a CASE are looked at one after the other, and each part is run when it is.
///
/// $3, $4: the run, and its mark when the batch was decided on (none before the first registration): one that was ended
/// meanwhile commits nothing, and whoever ends it waits until what it has under way can be seen. $5: stored buckets; whoever
/// ends one waits likewise. $6: hashes of keys without a row, in order. $7: blobs. $8: uploads. $9: backends that blobs are added
/// on; $10: those of them that were draining already. Whoever sets one to drain waits here until what began on it can be
/// seen, and what begins later waits for him. Acknowledged means durable, whatever the server's default is.
pub(super) static LOCK: Sql = sql!(
    "WITH batch AS (INSERT INTO batches (id, at, outcome) VALUES ($1, $2, 'applied')),
          lives AS (SELECT 1 FROM incarnations WHERE id = $3 AND ended IS NULL AND mark >= $4 FOR KEY SHARE),
          stored AS (SELECT 1 FROM buckets WHERE name = ANY($5) ORDER BY name FOR SHARE),
          without AS (SELECT pg_advisory_xact_lock(hash) FROM unnest($6) AS h (hash)),
          copies AS (SELECT 1 FROM blobs WHERE id = ANY($7) ORDER BY bucket, key, id FOR UPDATE),
          begun AS (SELECT 1 FROM uploads WHERE upload = ANY($8) ORDER BY upload FOR UPDATE),
          places AS (SELECT 1 FROM backends WHERE id = ANY($9) AND (NOT draining OR id = ANY($10))
                     ORDER BY id FOR KEY SHARE)
     SELECT CASE
         WHEN $4 IS NOT NULL AND NOT EXISTS (SELECT FROM lives) THEN stale_batch('incarnation')
         WHEN (SELECT count(*) FROM stored) <> cardinality($5) THEN stale_batch('buckets')
         WHEN (SELECT count(*) FROM without) < 0 THEN FALSE
         WHEN (SELECT count(*) FROM copies) < 0 THEN FALSE
         WHEN (SELECT count(*) FROM begun) < 0 THEN FALSE
         WHEN (SELECT count(*) FROM places) <> cardinality($9) THEN stale_batch('backends')
         ELSE TRUE END,
         CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', TRUE) END",
    BYTEA,
    INT8,
    INT8,
    INT8,
    TEXT_ARRAY,
    INT8_ARRAY,
    INT8_ARRAY,
    TEXT_ARRAY,
    INT8_ARRAY,
    INT8_ARRAY
);
/// For who sets what is written of a drain: as it was found, or an end that was decided on undoes another's cancel.
static LOCK_BACKENDS_ALONE: Sql = sql!(
    "WITH there AS (SELECT 1 FROM backends WHERE id = ANY($1) AND draining = (id = ANY($2)) ORDER BY id FOR UPDATE)
     SELECT CASE WHEN (SELECT count(*) FROM there) = cardinality($1) THEN TRUE ELSE stale_batch('backends') END",
    INT8_ARRAY,
    INT8_ARRAY
);
/// Whose drain ends: under their locks nothing is on them, and nothing comes.
static VERIFY_EMPTY: Sql = sql!(
    "SELECT CASE WHEN EXISTS (SELECT 1 FROM blobs WHERE backend = ANY($1)) THEN stale_batch('drained') ELSE TRUE END",
    INT8_ARRAY
);
/// An adoption was decided on whether the database is held as restored.
static LOCK_RESTORED: Sql = sql!(
    "WITH held AS (SELECT 1 FROM deployment WHERE name = 'restored' FOR SHARE)
     SELECT CASE WHEN EXISTS (SELECT 1 FROM held) = $1 THEN TRUE ELSE stale_batch('restored') END",
    BOOL
);

/// $1, $2: keys; $3, $4: all their blobs, and the marks of these.
pub(super) static VERIFY_KEYS: Sql = sql!(
    "SELECT CASE WHEN count(*) = cardinality($3)
             AND bool_and((b.id, b.xmin::text::bigint) IN (SELECT id, mark FROM unnest($3, $4) AS s (id, mark))) IS NOT FALSE
         THEN TRUE ELSE stale_batch('keys') END
     FROM unnest($1, $2) AS k (bucket, key) JOIN blobs b ON b.bucket = k.bucket AND b.key = k.key",
    TEXT_ARRAY,
    BYTEA_ARRAY,
    INT8_ARRAY,
    INT8_ARRAY
);
/// $1, $2: blobs and their marks.
pub(super) static VERIFY_BLOBS: Sql = sql!(
    "SELECT CASE WHEN count(*) = cardinality($1) THEN TRUE ELSE stale_batch('blobs') END
     FROM unnest($1, $2) AS s (id, mark) JOIN blobs b ON b.id = s.id AND b.xmin::text::bigint = s.mark",
    INT8_ARRAY,
    INT8_ARRAY
);
/// $1, $2, $3: keys with a live version, and its mark.
pub(super) static VERIFY_VERSIONS: Sql = sql!(
    "SELECT CASE WHEN count(*) = cardinality($3) THEN TRUE ELSE stale_batch('versions') END
     FROM unnest($1, $2, $3) AS s (bucket, key, mark)
         JOIN versions v ON v.bucket = s.bucket AND v.key = s.key AND v.xmin::text::bigint = s.mark WHERE v.live",
    TEXT_ARRAY,
    BYTEA_ARRAY,
    INT8_ARRAY
);
/// $1, $2: uploads and their marks; $3: uploads that were asked for, of which $4 are there.
pub(super) static VERIFY_UPLOADS: Sql = sql!(
    "SELECT CASE WHEN
         (SELECT count(*) FROM unnest($1, $2) AS s (upload, mark)
              JOIN uploads u ON u.upload = s.upload AND u.xmin::text::bigint = s.mark) = cardinality($1)
         AND (SELECT count(*) FROM uploads WHERE upload = ANY($3)) = $4
     THEN TRUE ELSE stale_batch('uploads') END",
    TEXT_ARRAY,
    INT8_ARRAY,
    TEXT_ARRAY,
    INT8
);

/// Statements that lock and verify what the batch was decided on; none beyond the first about what it has nothing to do with.
pub(super) fn lock_and_verify(
    around: &Around<'_>,
    before: &Tables,
    loaded: &Loaded,
    diff: &Diff<'_>,
    all: &mut Vec<Bound>,
) {
    let buckets: Vec<String> = before.buckets.keys().map(|name| name.as_str().to_owned()).collect();
    let has_row = |key: &Key| before.blobs_of.contains_key(key);
    let mut hashes: Vec<i64> = around.keys.iter().filter(|key| !has_row(key)).map(|key| hash_of(key)).collect();
    hashes.sort_unstable();
    hashes.dedup();
    let (uploads, upload_marks): (Vec<String>, Vec<i64>) =
        loaded.upload_marks.iter().map(|(upload, mark)| (upload.as_str().to_owned(), *mark)).unzip();
    let (places, draining) = places(before, loaded, diff);
    let sets_drains = !diff.draining.is_empty();
    let shared = |places: &Vec<i64>| if sets_drains { Vec::new() } else { places.clone() };
    all.push(bound!(
        LOCK,
        around.id.to_vec(),
        loaded.now.millis,
        around.incarnation.0,
        loaded.mark,
        buckets,
        hashes,
        loaded.blob_marks.keys().copied().collect::<Vec<i64>>(),
        uploads.clone(),
        shared(&places),
        shared(&draining)
    ));
    if sets_drains {
        all.push(bound!(LOCK_BACKENDS_ALONE, places, draining));
        let ended: Vec<i64> =
            diff.draining.iter().filter(|(_, row)| row.drained).map(|(name, _)| loaded.id_of(name)).collect();
        if !ended.is_empty() {
            all.push(bound!(VERIFY_EMPTY, ended));
        }
    }
    if around.adopts {
        all.push(bound!(LOCK_RESTORED, before.restored));
    }
    verify_blobs(around, before, loaded, all);
    if !loaded.live_marks.is_empty() {
        let (buckets, keys) = owned(KeyColumns::of(loaded.live_marks.keys()));
        let marks: Vec<i64> = loaded.live_marks.values().copied().collect();
        all.push(bound!(VERIFY_VERSIONS, buckets, keys, marks));
    }
    if !(uploads.is_empty() && around.uploads.is_empty()) {
        let there = around.uploads.iter().filter(|upload| uploads.contains(upload)).count() as i64;
        all.push(bound!(VERIFY_UPLOADS, uploads, upload_marks, around.uploads.clone(), there));
    }
}

/// Every blob that was loaded is as it was, and the keys have no others.
fn verify_blobs(around: &Around<'_>, before: &Tables, loaded: &Loaded, all: &mut Vec<Bound>) {
    let mut others: BTreeMap<i64, i64> = loaded.blob_marks.clone();
    if !around.keys.is_empty() {
        let of_keys = around.keys.iter().filter_map(|key| before.blobs_of.get(*key)).flatten();
        let (ids, marks): (Vec<i64>, Vec<i64>) = of_keys.filter_map(|id| others.remove_entry(&id.0)).unzip();
        let (buckets, keys) = owned(KeyColumns::of(around.keys.iter().copied()));
        all.push(bound!(VERIFY_KEYS, buckets, keys, ids, marks));
    }
    if !others.is_empty() {
        let (ids, marks): (Vec<i64>, Vec<i64>) = others.into_iter().unzip();
        all.push(bound!(VERIFY_BLOBS, ids, marks));
    }
}

/// Backends that blobs are added on or drains are set of, and those of them that were draining.
fn places(before: &Tables, loaded: &Loaded, diff: &Diff<'_>) -> (Vec<i64>, Vec<i64>) {
    let changed = diff.draining.iter().map(|(name, _)| *name);
    let names: BTreeSet<&BackendName> = diff.added_on.iter().chain(changed).collect();
    let draining = |name: &&&BackendName| before.backends.get(**name).is_some_and(|row| row.draining);
    let id = |name: &&BackendName| loaded.id_of(name);
    (names.iter().map(id).collect(), names.iter().filter(draining).map(id).collect())
}

/// The lock of a key without a row: the same in every instance, whoever built it.
fn hash_of(key: &Key) -> i64 {
    let name = format!("{}/{}", key.0.as_str(), key.1.as_str());
    let digest = digest::digest(&digest::SHA256, name.as_bytes());
    i64::from_be_bytes(digest.as_ref()[..8].try_into().expect("a SHA-256 has 32 bytes"))
}
