//! Rows to values and back.

use super::super::port::{Committed, Overtaken, Upload, UploadState};
use super::super::record::{BlobAt, BlobState, ObjectRecord};
use crate::base::{BackendName, BlobId, BucketName, ObjectKey, Timestamp, UploadId, Version};
use rusqlite::types::{FromSqlError, ValueRef};
use rusqlite::{Error, Result, Row};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A column that holds something that this program never wrote there.
pub(super) fn damaged(row: &Row<'_>, column: usize) -> Error {
    let name = row.as_ref().column_name(column).unwrap_or("?").to_owned();
    let kind = row.get_ref(column).map_or(rusqlite::types::Type::Null, |value| value.data_type());
    Error::FromSqlConversionFailure(column, kind, format!("column {name} is damaged").into())
}

/// Text, or bytes that are text.
pub(super) fn text<'a>(row: &'a Row<'_>, column: usize) -> Result<&'a str> {
    match row.get_ref(column)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => std::str::from_utf8(bytes).map_err(|_| damaged(row, column)),
        _ => Err(FromSqlError::InvalidType.into()),
    }
}

pub(super) fn owned(row: &Row<'_>, column: usize) -> Result<String> {
    text(row, column).map(str::to_owned)
}

pub(super) fn version(row: &Row<'_>, column: usize) -> Result<Version> {
    Version::parse(text(row, column)?).ok_or_else(|| damaged(row, column))
}

pub(super) fn bucket(row: &Row<'_>, column: usize) -> Result<BucketName> {
    BucketName::parse(text(row, column)?).ok_or_else(|| damaged(row, column))
}

pub(super) fn key(row: &Row<'_>, column: usize) -> Result<ObjectKey> {
    ObjectKey::parse(text(row, column)?).ok_or_else(|| damaged(row, column))
}

pub(super) fn upload_id(row: &Row<'_>, column: usize) -> Result<UploadId> {
    UploadId::parse(text(row, column)?).ok_or_else(|| damaged(row, column))
}

pub(super) fn time(row: &Row<'_>, column: usize) -> Result<Timestamp> {
    Ok(Timestamp { millis: row.get(column)? })
}

/// Sizes and counts, which are never below zero.
pub(super) fn count(row: &Row<'_>, column: usize) -> Result<u64> {
    u64::try_from(row.get::<_, i64>(column)?).map_err(|_| damaged(row, column))
}

/// As SQLite holds it; what is above its integers is no count of ours.
pub(super) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<T> {
    serde_json::from_str(text(row, column)?).map_err(|_| damaged(row, column))
}

/// Row types serialise to text without fail: they hold strings, numbers and lists.
pub(super) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("row types serialise")
}

pub(super) fn blob_state(row: &Row<'_>, column: usize) -> Result<BlobState> {
    match text(row, column)? {
        "reserved" => Ok(BlobState::Reserved),
        "live" => Ok(BlobState::Live),
        "doomed" => Ok(BlobState::Doomed),
        "dead" => Ok(BlobState::Dead),
        _ => Err(damaged(row, column)),
    }
}

pub(super) fn overtaken(row: &Row<'_>, column: usize) -> Result<Overtaken> {
    match row.get(column)? {
        0 => Ok(Overtaken::No),
        1 => Ok(Overtaken::ByCondition),
        2 => Ok(Overtaken::ByWrite),
        3 => Ok(Overtaken::ByBucketsEnd),
        _ => Err(damaged(row, column)),
    }
}

pub(super) fn of_overtaken(overtaken: Overtaken) -> i64 {
    match overtaken {
        Overtaken::No => 0,
        Overtaken::ByCondition => 1,
        Overtaken::ByWrite => 2,
        Overtaken::ByBucketsEnd => 3,
    }
}

/// The columns of `blob_at`, in its order.
macro_rules! blob_columns {
    () => {
        "id, backend, name, foreign_etag, version_id"
    };
}
pub(super) use blob_columns;

/// From five columns that start at `first`.
pub(super) fn blob_at(row: &Row<'_>, first: usize, name_of: impl FnOnce(i64) -> BackendName) -> Result<BlobAt> {
    Ok(BlobAt {
        id: BlobId(row.get(first)?),
        backend: name_of(row.get(first + 1)?),
        name: owned(row, first + 2)?,
        foreign_etag: owned(row, first + 3)?,
        version_id: owned(row, first + 4)?,
    })
}

/// An upload's row, with what only the writer needs.
#[derive(Debug)]
pub(super) struct UploadRow {
    pub(super) shown: Upload,
    pub(super) backend: i64,
    pub(super) version: Version,
    /// JSON.
    pub(super) manifest: String,
    pub(super) outcome: Option<String>,
    pub(super) ended: Timestamp,
}

macro_rules! upload_columns {
    () => {
        "upload, bucket, key, blob, backend, name, backend_upload, record, checksum_algorithm, checksum_full_object,
         initiated, state, version, manifest, outcome, ended"
    };
}
pub(super) use upload_columns;

impl UploadRow {
    pub(super) fn read(row: &Row<'_>, name_of: impl FnOnce(i64) -> BackendName) -> Result<Self> {
        let state = match text(row, 11)? {
            "open" => UploadState::Open,
            "completing" => UploadState::Completing,
            "done" => UploadState::Done,
            "aborted" => UploadState::Aborted,
            _ => return Err(damaged(row, 11)),
        };
        let backend = row.get(4)?;
        let blob = BlobAt {
            id: BlobId(row.get(3)?),
            backend: name_of(backend),
            name: owned(row, 5)?,
            foreign_etag: String::new(),
            version_id: String::new(),
        };
        let shown = Upload {
            upload: upload_id(row, 0)?,
            bucket: bucket(row, 1)?,
            key: key(row, 2)?,
            blob,
            backend_upload: owned(row, 6)?,
            record: json::<ObjectRecord>(row, 7)?,
            checksum_algorithm: row.get(8)?,
            checksum_full_object: row.get(9)?,
            initiated: time(row, 10)?,
            state,
        };
        Ok(Self {
            shown,
            backend,
            version: version(row, 12)?,
            manifest: owned(row, 13)?,
            outcome: row.get(14)?,
            ended: time(row, 15)?,
        })
    }

    pub(super) fn is_active(&self) -> bool {
        matches!(self.shown.state, UploadState::Open | UploadState::Completing)
    }

    /// What `FinishComplete` answered; it was answered when the upload ended.
    pub(super) fn committed(&self) -> Committed {
        let (version, modified) = (self.version, self.ended);
        if self.outcome.as_deref() == Some("live") {
            Committed::Live { version, modified }
        } else {
            Committed::Overwritten { version, modified }
        }
    }
}
