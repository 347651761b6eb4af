//! Loading the rows that a batch is decided on, in one pipeline, without locks.
//!
//! What is loaded may change before the batch is written: every row comes with its mark (`xmin`), and the writing
//! transaction looks, under its locks, whether all marks are still the same and no row has been added.

use super::super::memory::tables::{Backend, Blob, Key, Share, Tables};
use super::super::port::{Rules, UploadState};
use super::super::record::BlobState;
use super::buckets::read as read_bucket;
use super::footprint::Footprint;
use super::recall::KeyRows;
use super::restored;
use super::rows::{
    BLOB_COLUMNS, Backends, Columns, Read, blob_columns, live_columns, no_blob_columns, no_live_columns, read_attempt,
    read_blob, read_live, read_upload, upload_columns,
};
use super::sessions::{Blamed, Params, Session, Sql, sql};
use crate::base::{BackendName, BlobId, BucketName, Failure, Incarnation, PartNumber, Timestamp, UploadId};
use futures_util::future::join_all;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::Row;

/// Displaced blobs that are looked at for room, per backend.
const ROOM_BLOBS_MAX: i64 = 10_000;

/// What others than the living incarnation have been granted and have charged, as one incarnation of nobody's.
pub(super) const OTHERS: Incarnation = Incarnation(-1);

/// Rows, and what tells whether they have changed since.
pub(super) struct Loaded {
    pub(super) tables: Tables,
    pub(super) backends: Backends,
    pub(super) now: Timestamp,
    /// Of the living incarnation's row; None if it has ended.
    pub(super) mark: Option<i64>,
    /// Whether the incarnation has a row: a database that lost it was rewound.
    pub(super) has_row: bool,
    pub(super) blob_marks: BTreeMap<i64, i64>,
    pub(super) live_marks: BTreeMap<Key, i64>,
    pub(super) upload_marks: BTreeMap<UploadId, i64>,
}

/// The time and the incarnation ($1), with each backend's books; once without, if there is no backend.
static BOOKS: Sql = sql!(
    "SELECT coalesce($2, now_millis()), i.id IS NOT NULL, CASE WHEN i.ended IS NULL THEN i.mark END,
            b.id, b.name, b.bytes_limit, b.draining, b.drained, b.facts,
            coalesce(sum(s.granted) FILTER (WHERE s.incarnation = $1), 0)::bigint,
            coalesce(sum(s.charged) FILTER (WHERE s.incarnation = $1), 0)::bigint,
            coalesce(sum(greatest(s.granted, s.charged)) FILTER (WHERE s.incarnation <> $1), 0)::bigint,
            coalesce(sum(s.charged) FILTER (WHERE s.incarnation <> $1), 0)::bigint
     FROM (SELECT) AS one LEFT JOIN incarnations i ON i.id = $1 LEFT JOIN backends b ON TRUE
         LEFT JOIN quota_shares s ON s.backend = b.id
     GROUP BY i.id, b.id",
    INT8,
    INT8
);

/// All blobs of these keys, and their live versions.
pub(super) static KEYS: Sql = sql!(
    concat!(
        "SELECT ",
        blob_columns!(),
        ", ",
        no_live_columns!(),
        " FROM unnest($1, $2) AS k (bucket, key) JOIN blobs b ON b.bucket = k.bucket AND b.key = k.key
         UNION ALL SELECT ",
        no_blob_columns!(),
        ", ",
        live_columns!(),
        " FROM unnest($1, $2) AS k (bucket, key) JOIN versions v ON v.bucket = k.bucket AND v.key = k.key WHERE v.live"
    ),
    TEXT_ARRAY,
    BYTEA_ARRAY
);

/// Those with these numbers, and those of these uploads.
pub(super) static BLOBS: Sql = sql!(
    concat!(
        "SELECT ",
        blob_columns!(),
        " FROM blobs b WHERE b.id = ANY($1)
         UNION ALL SELECT ",
        blob_columns!(),
        " FROM unnest($2) AS w (upload) JOIN uploads u ON u.upload = w.upload JOIN blobs b ON b.id = u.blob"
    ),
    INT8_ARRAY,
    TEXT_ARRAY
);

pub(super) static UPLOADS: Sql = sql!(
    concat!("SELECT ", upload_columns!(), " FROM unnest($1) AS w (upload) JOIN uploads u ON u.upload = w.upload"),
    TEXT_ARRAY
);

static PARTS: Sql = sql!(
    "SELECT p.upload, p.number, p.record FROM parts p WHERE p.upload = ANY($1)
     UNION ALL
     SELECT p.upload, p.number, p.record FROM unnest($2, $3) AS w (upload, number)
     JOIN parts p ON p.upload = w.upload AND p.number = w.number",
    TEXT_ARRAY,
    TEXT_ARRAY,
    INT4_ARRAY
);

static ATTEMPTS: Sql = sql!(
    "SELECT a.upload, a.number, a.nonce, a.incarnation, a.size FROM part_attempts a WHERE a.upload = ANY($1)
     UNION ALL
     SELECT a.upload, a.number, a.nonce, a.incarnation, a.size FROM unnest($2, $3) AS w (upload, number)
     JOIN part_attempts a ON a.upload = w.upload AND a.number = w.number",
    TEXT_ARRAY,
    TEXT_ARRAY,
    INT4_ARRAY
);

static BUCKETS: Sql = sql!("SELECT name, owner, region, created FROM buckets WHERE name = ANY($1)", TEXT_ARRAY);

static UPLOAD_COUNTS: Sql = sql!(
    "SELECT bucket, count(*) FROM uploads WHERE bucket = ANY($1) AND state IN ('open', 'completing') GROUP BY bucket",
    TEXT_ARRAY
);

/// Displaced blobs of a backend, the oldest first, until they make up so many bytes.
static ROOM: Sql = sql!(
    concat!(
        "SELECT ",
        blob_columns!(),
        " FROM (
             SELECT id, sum(bytes) OVER (ORDER BY not_before, id) - bytes AS before FROM (
                 SELECT id, bytes, not_before FROM blobs
                 WHERE backend = (SELECT id FROM backends WHERE name = $1) AND state = 'doomed' AND attempts = 0
                     AND settle_until <= $3
                 ORDER BY not_before, id LIMIT $4
             ) AS oldest
         ) AS enough JOIN blobs b ON b.id = enough.id WHERE enough.before < $2"
    ),
    TEXT,
    INT8,
    INT8,
    INT8
);

static ANY_BLOB: Sql = sql!(
    concat!(
        "SELECT ",
        blob_columns!(),
        " FROM blobs b WHERE b.backend = (SELECT id FROM backends WHERE name = $1) LIMIT 1"
    ),
    TEXT
);

static NAMED: Sql = sql!(
    concat!(
        "SELECT ",
        blob_columns!(),
        " FROM blobs b WHERE b.backend = (SELECT id FROM backends WHERE name = $1) AND b.name = $2"
    ),
    TEXT,
    BYTEA
);

/// A key's columns as arrays.
pub(super) struct KeyColumns<'k> {
    pub(super) buckets: Vec<&'k str>,
    pub(super) keys: Vec<&'k [u8]>,
}

impl<'k> KeyColumns<'k> {
    pub(super) fn of(keys: impl IntoIterator<Item = &'k Key>) -> Self {
        let (buckets, keys) = keys.into_iter().map(|(bucket, key)| (bucket.as_str(), key.as_str().as_bytes())).unzip();
        Self { buckets, keys }
    }
}

/// Answers of the loading statements, in their order; empty where nothing was asked.
struct Answers {
    uploads: Vec<Row>,
    parts: Vec<Row>,
    attempts: Vec<Row>,
    blobs: Vec<Row>,
    keys: Vec<Row>,
    counts: Vec<Row>,
    buckets: Vec<Row>,
    books: Vec<Row>,
}

/// `recalled`: keys that need not be asked for. `clock`: a test's, instead of the database's. Cancel: safe.
pub(super) async fn load(
    session: &Session,
    wanted: &Footprint,
    recalled: Vec<(Key, KeyRows)>,
    incarnation: Incarnation,
    rules: Rules,
    clock: Option<Timestamp>,
) -> Result<Loaded, Failure> {
    let known: BTreeSet<&Key> = recalled.iter().map(|(key, _)| key).collect();
    let answers = ask(session, wanted, &known, incarnation, clock).await?;
    let mut columns = Columns::of(answers.books.first().ok_or_else(|| Failure::metadata("postgres: no time"))?);
    let now = columns.time()?;
    let (has_row, mark) = (columns.value()?, columns.value()?);
    let mut loaded = Loaded {
        tables: Tables::new(rules),
        backends: Backends::default(),
        now,
        mark,
        has_row,
        blob_marks: BTreeMap::new(),
        live_marks: BTreeMap::new(),
        upload_marks: BTreeMap::new(),
    };
    // An incarnation that has ended begins nothing any more: to the tables, another one lives.
    loaded.tables.current = if mark.is_some() { incarnation } else { Incarnation(0) };
    for row in &answers.books {
        loaded.take_backend(row, incarnation)?;
    }
    // Before what was loaded: the rows of a key come all from the same side.
    for (key, rows) in recalled {
        loaded.take_recalled(key, rows);
    }
    for row in &answers.blobs {
        loaded.take_blob(row)?;
    }
    for row in &answers.keys {
        match read_live(row, BLOB_COLUMNS)? {
            None => loaded.take_blob(row)?,
            Some((key, live, mark)) => {
                loaded.live_marks.insert(key.clone(), mark);
                loaded.tables.versions.insert(key, live);
            }
        }
    }
    for row in &answers.uploads {
        loaded.take_upload(row)?;
    }
    let under_way = loaded.uploads_under_way();
    if !under_way.is_empty() {
        for row in &session.query(&UPLOADS, &[&under_way]).await.blamed()? {
            loaded.take_upload(row)?;
        }
    }
    for row in &answers.buckets {
        let row = read_bucket(row)?;
        loaded.tables.buckets.insert(row.name.clone(), row);
    }
    loaded.take_parts(&answers)?;
    loaded.count_uploads(&answers.counts)?;
    for (backend, name) in &wanted.named {
        for row in &session.query(&NAMED, &[&backend.as_str(), &name.as_bytes()]).await.blamed()? {
            loaded.take_blob(row)?;
        }
    }
    if !wanted.named.is_empty() {
        loaded.tables.restored = restored::is_restored(session).await?;
    }
    for backend in &wanted.emptied {
        for row in &session.query(&ANY_BLOB, &[&backend.as_str()]).await.blamed()? {
            loaded.take_blob(row)?;
        }
    }
    for (backend, missing) in &wanted.room {
        let limits: Params<'_> = &[&backend.as_str(), missing, &now.millis, &ROOM_BLOBS_MAX];
        for row in &session.query(&ROOM, limits).await.blamed()? {
            loaded.take_blob(row)?;
        }
    }
    Ok(loaded)
}

async fn ask(
    session: &Session,
    wanted: &Footprint,
    known: &BTreeSet<&Key>,
    incarnation: Incarnation,
    clock: Option<Timestamp>,
) -> Result<Answers, Failure> {
    let keys = KeyColumns::of(wanted.keys.iter().filter(|key| !known.contains(key)));
    let blobs: Vec<i64> = wanted.blobs.iter().copied().collect();
    let uploads: Vec<&str> = wanted.uploads.iter().map(UploadId::as_str).collect();
    let all_parts: Vec<&str> = wanted.all_parts.iter().map(UploadId::as_str).collect();
    let (of, numbers): (Vec<&str>, Vec<i32>) =
        wanted.parts.iter().map(|(upload, number)| (upload.as_str(), i32::from(number.get()))).unzip();
    let stored: Vec<&str> = wanted.stored_buckets.iter().map(BucketName::as_str).collect();
    let counted: Vec<&str> = wanted.upload_counts.iter().map(BucketName::as_str).collect();
    let clock = clock.map(|clock| clock.millis);
    let with_parts = !(all_parts.is_empty() && of.is_empty());
    // Uploads before their parts: whatever changes a part changes its upload's mark.
    let statements: [(&'static Sql, bool, Params<'_>); 8] = [
        (&UPLOADS, !uploads.is_empty(), &[&uploads]),
        (&PARTS, with_parts, &[&all_parts, &of, &numbers]),
        (&ATTEMPTS, with_parts, &[&all_parts, &of, &numbers]),
        (&BLOBS, !(blobs.is_empty() && uploads.is_empty()), &[&blobs, &uploads]),
        (&KEYS, !keys.keys.is_empty(), &[&keys.buckets, &keys.keys]),
        (&UPLOAD_COUNTS, !counted.is_empty(), &[&counted]),
        (&BUCKETS, !stored.is_empty(), &[&stored]),
        // After the blobs: a backend that one of them is on is there.
        (&BOOKS, true, &[&incarnation.0, &clock]),
    ];
    let mut prepared = Vec::with_capacity(statements.len());
    for (sql, needed, params) in statements {
        prepared.push(if needed { Some((session.ready(sql).await.blamed()?, params)) } else { None });
    }
    let answers = join_all(prepared.iter().map(|one| async move {
        match one {
            Some((ready, params)) => session.run(ready, params).await.blamed(),
            None => Ok(Vec::new()),
        }
    }));
    let mut answers = answers.await.into_iter();
    let mut next = || answers.next().expect("as many as statements");
    Ok(Answers {
        uploads: next()?,
        parts: next()?,
        attempts: next()?,
        blobs: next()?,
        keys: next()?,
        counts: next()?,
        buckets: next()?,
        books: next()?,
    })
}

impl Loaded {
    /// Of a backend that was loaded: all are.
    pub(super) fn id_of(&self, backend: &BackendName) -> i64 {
        self.backends.id(backend).expect("a backend that was chosen was loaded")
    }

    fn take_backend(&mut self, row: &Row, incarnation: Incarnation) -> Read<()> {
        let mut columns = Columns::from(row, 3);
        let Some(id) = columns.value()? else { return Ok(()) };
        let name = BackendName::new(columns.value()?);
        let bytes_limit = columns.count()?;
        let (draining, drained) = (columns.value()?, columns.value()?);
        let backend = Backend { bytes_limit, draining, drained, facts: columns.json()? };
        let mut own = Share { granted: columns.value()?, charged: columns.value()? };
        let others = Share { granted: columns.value()?, charged: columns.value()? };
        if bytes_limit > 0 {
            // A limit that was lowered below what was granted: nobody charges more until it fits again.
            own.granted = own.granted.min(bytes_limit as i64 - others.granted);
        }
        self.backends.0.push((id, name.clone()));
        self.tables.shares.insert((name.clone(), incarnation), own);
        self.tables.shares.insert((name.clone(), OTHERS), others);
        self.tables.backends.insert(name, backend);
        Ok(())
    }

    fn take_recalled(&mut self, key: Key, rows: KeyRows) {
        for (id, blob, mark) in rows.blobs {
            self.add_blob(id, blob, mark);
        }
        if let Some((live, mark)) = rows.live {
            self.live_marks.insert(key.clone(), mark);
            self.tables.versions.insert(key, live);
        }
    }

    fn take_blob(&mut self, row: &Row) -> Read<()> {
        let (id, blob, mark) = read_blob(row, &self.backends)?;
        self.add_blob(id, blob, mark);
        Ok(())
    }

    /// The first that comes of a blob counts.
    fn add_blob(&mut self, id: BlobId, blob: Blob, mark: i64) {
        if let Entry::Vacant(place) = self.blob_marks.entry(id.0) {
            place.insert(mark);
            self.tables.blobs_of.entry(blob.key.clone()).or_default().insert(id);
            self.tables.blobs.insert(id, blob);
        }
    }

    fn take_upload(&mut self, row: &Row) -> Read<()> {
        let (upload, row, mark) = read_upload(row, &self.backends)?;
        self.upload_marks.insert(upload.clone(), mark);
        self.tables.uploads.insert(upload, row);
        Ok(())
    }

    /// Those that the loaded keys have reserved blobs of, and that are not loaded yet: a change of the key may supersede them.
    fn uploads_under_way(&self) -> Vec<String> {
        let reserved = self.tables.blobs.values().filter(|blob| blob.state == BlobState::Reserved);
        let uploads = reserved.filter_map(|blob| blob.upload.as_ref());
        let missing = uploads.filter(|upload| !self.tables.uploads.contains_key(*upload));
        missing.map(|upload| upload.as_str().to_owned()).collect()
    }

    fn take_parts(&mut self, answers: &Answers) -> Read<()> {
        for row in &answers.parts {
            let mut columns = Columns::of(row);
            let (upload, number) = (columns.parsed(UploadId::parse)?, columns.value::<i32>()?);
            if let Some(row) = self.tables.uploads.get_mut(&upload) {
                row.parts.insert(number as u16, columns.json()?);
            }
        }
        for row in &answers.attempts {
            let mut columns = Columns::of(row);
            let (upload, number) = (columns.parsed(UploadId::parse)?, columns.value::<i32>()?);
            if let (Some(row), Some(number)) = (self.tables.uploads.get_mut(&upload), PartNumber::new(number as u16)) {
                row.attempts.insert(number, read_attempt(&mut columns)?);
            }
        }
        Ok(())
    }

    fn count_uploads(&mut self, counts: &[Row]) -> Read<()> {
        for row in counts {
            let mut columns = Columns::of(row);
            let bucket = columns.parsed(BucketName::parse)?;
            let all = columns.count()? as usize;
            let active = |state| matches!(state, UploadState::Open | UploadState::Completing);
            let here = self.tables.uploads.values().filter(|row| row.key.0 == bucket && active(row.state)).count();
            self.tables.uploads_elsewhere.insert(bucket, all.saturating_sub(here));
        }
        Ok(())
    }
}
