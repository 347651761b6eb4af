//! Rows to values and back. A column that holds what this program never wrote there is the database's fault.

use super::super::memory::tables::{Attempt, Blob, Key, Live, UploadRow};
use super::super::port::{Committed, Overtaken, UploadState};
use super::super::record::{BlobAt, BlobState};
use crate::base::{
    BackendName, BlobId, BucketName, Failure, Incarnation, Nonce, ObjectKey, PartNumber, Timestamp, UploadId, Version,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

/// Reads a row's columns one after the other.
pub(super) struct Columns<'r> {
    row: &'r Row,
    at: usize,
}

pub(super) type Read<T> = Result<T, Failure>;

pub(super) fn damaged(what: &str) -> Failure {
    Failure::metadata(format!("postgres: a column is damaged: {what}"))
}

impl<'r> Columns<'r> {
    pub(super) fn of(row: &'r Row) -> Self {
        Self::from(row, 0)
    }

    /// From this column on.
    pub(super) fn from(row: &'r Row, at: usize) -> Self {
        Self { row, at }
    }

    fn name(&self) -> &'r str {
        self.row.columns().get(self.at).map_or("?", |column| column.name())
    }

    pub(super) fn value<T: FromSql<'r>>(&mut self) -> Read<T> {
        let value = self.row.try_get(self.at).map_err(|error| damaged(&format!("{}: {error}", self.name())))?;
        self.at += 1;
        Ok(value)
    }

    pub(super) fn parsed<T>(&mut self, parse: impl FnOnce(&'r str) -> Option<T>) -> Read<T> {
        let name = self.name();
        parse(self.value()?).ok_or_else(|| damaged(name))
    }

    /// Bytes that are text.
    pub(super) fn text(&mut self) -> Read<&'r str> {
        let name = self.name();
        std::str::from_utf8(self.value()?).map_err(|_| damaged(name))
    }

    pub(super) fn key(&mut self) -> Read<ObjectKey> {
        let name = self.name();
        ObjectKey::parse(self.text()?).ok_or_else(|| damaged(name))
    }

    pub(super) fn version(&mut self) -> Read<Version> {
        self.parsed(Version::parse)
    }

    pub(super) fn time(&mut self) -> Read<Timestamp> {
        Ok(Timestamp { millis: self.value()? })
    }

    /// Sizes and counts, which are never below zero.
    pub(super) fn count(&mut self) -> Read<u64> {
        let name = self.name();
        u64::try_from(self.value::<i64>()?).map_err(|_| damaged(name))
    }

    pub(super) fn json<T: DeserializeOwned>(&mut self) -> Read<T> {
        let name = self.name();
        serde_json::from_str(self.value()?).map_err(|_| damaged(name))
    }

    pub(super) fn state(&mut self) -> Read<BlobState> {
        self.parsed(|text| match text {
            "reserved" => Some(BlobState::Reserved),
            "live" => Some(BlobState::Live),
            "doomed" => Some(BlobState::Doomed),
            "dead" => Some(BlobState::Dead),
            _ => None,
        })
    }

    /// From the columns id, backend, name, foreign_etag, version_id.
    pub(super) fn blob_at(&mut self, backends: &Backends) -> Read<BlobAt> {
        Ok(BlobAt {
            id: BlobId(self.value()?),
            backend: backends.name(self.value()?)?,
            name: self.text()?.to_owned(),
            foreign_etag: self.value()?,
            version_id: self.value()?,
        })
    }
}

/// Row ids of backends, which are never used again.
#[derive(Clone, Debug, Default)]
pub(super) struct Backends(pub(super) Vec<(i64, BackendName)>);

impl Backends {
    pub(super) fn name(&self, id: i64) -> Read<BackendName> {
        let known = self.0.iter().find(|(one, _)| *one == id);
        known.map(|(_, name)| name.clone()).ok_or_else(|| damaged("a blob's backend has no row"))
    }

    pub(super) fn id(&self, name: &BackendName) -> Option<i64> {
        self.0.iter().find(|(_, one)| one == name).map(|(id, _)| *id)
    }
}

/// Row types serialise to text without fail: they hold strings, numbers and lists.
pub(super) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("row types serialise")
}

/// Text from elsewhere may hold what PostgreSQL's text cannot.
pub(super) fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

pub(super) fn of_overtaken(overtaken: Overtaken) -> i16 {
    match overtaken {
        Overtaken::No => 0,
        Overtaken::ByCondition => 1,
        Overtaken::ByWrite => 2,
        Overtaken::ByBucketsEnd => 3,
    }
}

/// The columns of `read_blob`, in its order.
macro_rules! blob_columns {
    () => {
        "b.id, b.backend, b.name, b.bucket, b.key, b.version, b.state, b.bytes, b.incarnation, b.superseded, b.upload,
         b.backend_upload, b.version_id, b.abort_uploads, b.not_before, b.settle_until, b.attempts, b.last_error,
         b.reason, b.foreign_etag, b.xmin::text::bigint"
    };
}
pub(super) use blob_columns;

/// As many NULLs.
macro_rules! no_blob_columns {
    () => {
        "NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
         NULL"
    };
}
pub(super) use no_blob_columns;
/// How many they are.
pub(super) const BLOB_COLUMNS: usize = 21;

/// A blob, and what tells whether its row has changed since.
pub(super) fn read_blob(row: &Row, backends: &Backends) -> Read<(BlobId, Blob, i64)> {
    let mut columns = Columns::of(row);
    let id = BlobId(columns.value()?);
    let blob = Blob {
        backend: backends.name(columns.value()?)?,
        name: columns.text()?.to_owned(),
        key: (columns.parsed(BucketName::parse)?, columns.key()?),
        version: columns.version()?,
        state: columns.state()?,
        bytes: columns.count()?,
        owner: columns.value::<Option<i64>>()?.map(Incarnation),
        superseded: match columns.value::<i16>()? {
            0 => Overtaken::No,
            1 => Overtaken::ByCondition,
            2 => Overtaken::ByWrite,
            3 => Overtaken::ByBucketsEnd,
            _ => return Err(damaged("superseded")),
        },
        upload: match columns.value::<Option<&str>>()? {
            None => None,
            Some(text) => Some(UploadId::parse(text).ok_or_else(|| damaged("upload"))?),
        },
        backend_upload: columns.value()?,
        version_id: columns.value()?,
        // Read by operators' queries only.
        doomed_at: Timestamp::default(),
        abort_uploads: columns.value()?,
        not_before: columns.time()?,
        settle_until: columns.time()?,
        attempts: u32::try_from(columns.value::<i32>()?).map_err(|_| damaged("attempts"))?,
        last_error: columns.value()?,
        reason: columns.value()?,
        foreign_etag: columns.value()?,
    };
    Ok((id, blob, columns.value()?))
}

macro_rules! live_columns {
    () => {
        "v.bucket, v.key, v.version, v.size, v.modified, v.etag, v.record, v.xmin::text::bigint"
    };
}
pub(super) use live_columns;

/// As many NULLs.
macro_rules! no_live_columns {
    () => {
        "NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL"
    };
}
pub(super) use no_live_columns;

/// From this column on; None if its columns are NULLs.
pub(super) fn read_live(row: &Row, from: usize) -> Read<Option<(Key, Live, i64)>> {
    let mut columns = Columns::from(row, from);
    let Some(bucket) = columns.value::<Option<&str>>()? else { return Ok(None) };
    let bucket = BucketName::parse(bucket).ok_or_else(|| damaged("bucket"))?;
    let key = (bucket, columns.key()?);
    let live = Live {
        version: columns.version()?,
        size: columns.count()?,
        modified: columns.time()?,
        etag: columns.value()?,
        record: columns.json()?,
    };
    Ok(Some((key, live, columns.value()?)))
}

macro_rules! upload_columns {
    () => {
        "u.upload, u.bucket, u.key, u.blob, u.backend, u.name, u.backend_upload, u.record, u.checksum_algorithm,
         u.checksum_full_object, u.initiated, u.state, u.version, u.manifest, u.outcome, u.final_etag, u.final_record,
         u.ended, u.xmin::text::bigint"
    };
}
pub(super) use upload_columns;

/// An upload without its parts.
pub(super) fn read_upload(row: &Row, backends: &Backends) -> Read<(UploadId, UploadRow, i64)> {
    let mut columns = Columns::of(row);
    let upload = columns.parsed(UploadId::parse)?;
    let key = (columns.parsed(BucketName::parse)?, columns.key()?);
    let blob = BlobAt {
        id: BlobId(columns.value()?),
        backend: backends.name(columns.value()?)?,
        name: columns.text()?.to_owned(),
        foreign_etag: String::new(),
        version_id: String::new(),
    };
    let (backend_upload, record) = (columns.value()?, columns.json()?);
    let (checksum_algorithm, checksum_full_object) = (columns.value()?, columns.value()?);
    let initiated = columns.time()?;
    let state = columns.parsed(|text| match text {
        "open" => Some(UploadState::Open),
        "completing" => Some(UploadState::Completing),
        "done" => Some(UploadState::Done),
        "aborted" => Some(UploadState::Aborted),
        _ => None,
    })?;
    let version = columns.version()?;
    let manifest = columns.json::<Vec<(u16, String)>>()?.into_iter();
    let manifest = manifest.map(|(number, etag)| PartNumber::new(number).map(|number| (number, etag)));
    let manifest = manifest.collect::<Option<Vec<_>>>().ok_or_else(|| damaged("manifest"))?;
    let outcome: Option<&str> = columns.value()?;
    let (etag, final_record) = (columns.value()?, columns.json()?);
    let ended = columns.time()?;
    let finished = outcome.map(|outcome| {
        let committed = match outcome {
            "live" => Committed::Live { version, modified: ended },
            _ => Committed::Overwritten { version, modified: ended },
        };
        (committed, etag, final_record)
    });
    let row = UploadRow {
        key,
        blob,
        backend_upload,
        record,
        checksum_algorithm,
        checksum_full_object,
        initiated,
        state,
        manifest,
        version,
        parts: BTreeMap::new(),
        attempts: BTreeMap::new(),
        finished,
        ended,
    };
    Ok((upload, row, columns.value()?))
}

pub(super) fn state_of_upload(state: UploadState) -> &'static str {
    match state {
        UploadState::Open => "open",
        UploadState::Completing => "completing",
        UploadState::Done => "done",
        UploadState::Aborted => "aborted",
    }
}

/// From the columns nonce, incarnation, size.
pub(super) fn read_attempt(columns: &mut Columns<'_>) -> Read<Attempt> {
    Ok(Attempt {
        nonce: columns.parsed(Nonce::parse)?,
        incarnation: Incarnation(columns.value()?),
        size: columns.count()?,
    })
}
