//! Listing: one statement, which without a delimiter walks along the keys, and with one jumps over what a common prefix stands
//! for. So a page costs what it shows, not what lies below it, and is of one moment.

use super::super::folding::{Folding, after_all_below};
use super::super::port::{ListPage, ListQuery, ListUploadsQuery, Listed, ListedUpload, UploadsPage};
use super::super::record::StoredChecksum;
use super::PostgresStore;
use super::rows::Columns;
use super::sessions::{Blamed, Params, Sql, sql};
use crate::base::{Failure, UploadId};
use tokio_postgres::Row;

static WALK: Sql = sql!(
    "SELECT key, NULL::bytea, size, modified, etag, record FROM versions
     WHERE bucket = $1 AND key >= $2 AND key < $3 AND live ORDER BY key LIMIT $4",
    TEXT,
    BYTEA,
    BYTEA,
    INT8
);

/// $5: bytes of the prefix; $6: the delimiter. Each step finds the next key; one that holds the delimiter behind the prefix
/// stands for its common prefix, and the walk goes on above all of it: the last byte of a delimiter is never 0xff.
static JUMP: Sql = sql!(
    "WITH RECURSIVE walk (key, common, above, step) AS (
         SELECT w.key, w.common, CASE WHEN w.common IS NULL THEN w.key || '\\x00'::bytea
             ELSE set_byte(w.common, length(w.common) - 1, get_byte(w.common, length(w.common) - 1) + 1) END, 1::bigint
         FROM (SELECT f.key, CASE WHEN position($6 IN substring(f.key FROM $5 + 1)) > 0
                   THEN substring(f.key FROM 1 FOR $5 + position($6 IN substring(f.key FROM $5 + 1)) - 1 + length($6)) END
                   AS common
               FROM (SELECT key FROM versions WHERE bucket = $1 AND key >= $2 AND key < $3 AND live
                     ORDER BY key LIMIT 1) AS f) AS w
         UNION ALL
         SELECT w.key, w.common, CASE WHEN w.common IS NULL THEN w.key || '\\x00'::bytea
             ELSE set_byte(w.common, length(w.common) - 1, get_byte(w.common, length(w.common) - 1) + 1) END, w.step
         FROM (SELECT n.key, CASE WHEN position($6 IN substring(n.key FROM $5 + 1)) > 0
                   THEN substring(n.key FROM 1 FOR $5 + position($6 IN substring(n.key FROM $5 + 1)) - 1 + length($6)) END
                   AS common, p.step + 1 AS step
               FROM walk p, LATERAL (SELECT key FROM versions WHERE bucket = $1 AND key >= p.above AND key < $3 AND live
                                     ORDER BY key LIMIT 1) AS n
               WHERE p.step < $4) AS w)
     SELECT w.key, w.common, v.size, v.modified, v.etag, v.record
     FROM walk w JOIN versions v ON v.bucket = $1 AND v.key = w.key AND v.live ORDER BY w.step",
    TEXT,
    BYTEA,
    BYTEA,
    INT8,
    INT4,
    BYTEA
);

static UPLOADS: Sql = sql!(
    "SELECT key, upload, initiated, checksum_algorithm, checksum_full_object FROM uploads
     WHERE bucket = $1 AND (key, upload) > ($2, $3) AND key < $4 AND state IN ('open', 'completing')
     ORDER BY key, upload LIMIT $5",
    TEXT,
    BYTEA,
    TEXT,
    BYTEA,
    INT8
);

/// The part of a version's record that a listing shows.
#[derive(serde::Deserialize)]
struct Checksums {
    #[serde(default)]
    checksums: Vec<StoredChecksum>,
}

impl PostgresStore {
    pub(super) async fn list(&self, list: &ListQuery) -> Result<ListPage, Failure> {
        let mut page = ListPage::default();
        let folding = Folding { prefix: &list.prefix, delimiter: &list.delimiter };
        let (from, end) = (folding.start(&list.after), folding.end());
        let limit = i64::from(list.max) + 1;
        let session = self.shared().await?;
        let rows = if list.delimiter.is_empty() {
            session.query(&WALK, &[&list.bucket, &from, &end, &limit]).await.blamed()?
        } else {
            let prefix = list.prefix.len() as i32;
            let delimiter = list.delimiter.as_bytes();
            session.query(&JUMP, &[&list.bucket, &from, &end, &limit, &prefix, &delimiter]).await.blamed()?
        };
        for row in &rows {
            if page.keys.len() + page.common_prefixes.len() >= list.max as usize {
                page.truncated = list.max > 0;
                return Ok(page);
            }
            add(&mut page, row)?;
        }
        Ok(page)
    }
}

impl PostgresStore {
    /// Open uploads, which are few: one statement more where a page ends within what a common prefix stands for.
    pub(super) async fn list_uploads(&self, list: &ListUploadsQuery) -> Result<UploadsPage, Failure> {
        let mut page = UploadsPage::default();
        let folding = Folding { prefix: &list.prefix, delimiter: &list.delimiter };
        let end = folding.end();
        let is_within = list.after.starts_with(&list.prefix) && folding.common_prefix(&list.after).is_none();
        let (mut from, mut after_upload) = if is_within && !list.after_upload.is_empty() {
            (list.after.as_bytes().to_vec(), list.after_upload.clone())
        } else {
            (folding.start(&list.after), String::new())
        };
        let session = self.shared().await?;
        let limit = i64::from(list.max) + 1;
        loop {
            let params: Params<'_> = &[&list.bucket, &from, &after_upload, &end, &limit];
            let rows = session.query(&UPLOADS, params).await.blamed()?;
            for row in &rows {
                let upload = listed_upload(row)?;
                if page.common_prefixes.last().is_some_and(|common| upload.key.starts_with(common)) {
                    continue;
                }
                if page.uploads.len() + page.common_prefixes.len() >= list.max as usize {
                    page.truncated = list.max > 0;
                    return Ok(page);
                }
                page.last_upload.clear();
                if let Some(common) = folding.common_prefix(&upload.key) {
                    common.clone_into(&mut page.last);
                    page.common_prefixes.push(common.to_owned());
                } else {
                    upload.key.clone_into(&mut page.last);
                    upload.upload.as_str().clone_into(&mut page.last_upload);
                    page.uploads.push(upload);
                }
            }
            if (rows.len() as i64) < limit {
                return Ok(page);
            }
            // All that was found stands behind the last entry, or below it.
            after_upload.clone_from(&page.last_upload);
            from = if page.last_upload.is_empty() {
                after_all_below(page.last.as_bytes()).unwrap_or_else(|| end.clone())
            } else {
                page.last.as_bytes().to_vec()
            };
        }
    }
}

fn listed_upload(row: &Row) -> Result<ListedUpload, Failure> {
    let mut columns = Columns::of(row);
    Ok(ListedUpload {
        key: columns.text()?.to_owned(),
        upload: columns.parsed(UploadId::parse)?,
        initiated: columns.time()?,
        checksum_algorithm: columns.value()?,
        checksum_full_object: columns.value()?,
    })
}

fn add(page: &mut ListPage, row: &Row) -> Result<(), Failure> {
    let mut columns = Columns::of(row);
    let key = columns.text()?;
    if let Some(common) = columns.value::<Option<&[u8]>>()? {
        let common = std::str::from_utf8(common).map_err(|_| super::rows::damaged("key"))?;
        common.clone_into(&mut page.last);
        page.common_prefixes.push(common.to_owned());
        return Ok(());
    }
    key.clone_into(&mut page.last);
    page.keys.push(Listed {
        key: key.to_owned(),
        size: columns.count()?,
        modified: columns.time()?,
        etag: columns.value()?,
        checksums: columns.json::<Checksums>()?.checksums,
    });
    Ok(())
}
