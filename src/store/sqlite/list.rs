//! Listing: one walk along the keys, which jumps over what a common prefix stands for. So a page costs what it shows, not
//! what lies below it.

use super::super::folding::{Folding, after_all_below};
use super::super::port::{ListPage, ListQuery, ListUploadsQuery, Listed, ListedUpload, UploadsPage};
use super::super::record::StoredChecksum;
use super::read::Reader;
use super::rows;
use rusqlite::{Result, Row, params};

/// The part of a version's record that a listing shows.
#[derive(serde::Deserialize)]
struct Checksums {
    #[serde(default)]
    checksums: Vec<StoredChecksum>,
}

const KEYS: &str = "SELECT key, size, modified, etag, record FROM versions
     WHERE bucket = ?1 AND key >= ?2 AND key < ?3 AND live = 1 ORDER BY key";

impl Reader {
    pub(super) fn list(&self, list: &ListQuery) -> Result<ListPage> {
        let mut page = ListPage::default();
        let folding = Folding { prefix: &list.prefix, delimiter: &list.delimiter };
        let (mut from, end) = (folding.start(&list.after), folding.end());
        let mut statement = self.conn.prepare_cached(KEYS)?;
        'walk: loop {
            let mut found = statement.query(params![list.bucket, from, end])?;
            while let Some(row) = found.next()? {
                if page.keys.len() + page.common_prefixes.len() >= list.max as usize {
                    page.truncated = list.max > 0;
                    return Ok(page);
                }
                let key = rows::text(row, 0)?;
                if let Some(prefix) = folding.common_prefix(key) {
                    prefix.clone_into(&mut page.last);
                    page.common_prefixes.push(prefix.to_owned());
                    match after_all_below(prefix.as_bytes()) {
                        Some(next) => from = next,
                        None => return Ok(page),
                    }
                    continue 'walk;
                }
                key.clone_into(&mut page.last);
                page.keys.push(listed(key, row)?);
            }
            return Ok(page);
        }
    }
}

impl Reader {
    /// The same walk along the open uploads, which are ordered by key and id.
    pub(super) fn list_uploads(&self, list: &ListUploadsQuery) -> Result<UploadsPage> {
        let mut page = UploadsPage::default();
        let folding = Folding { prefix: &list.prefix, delimiter: &list.delimiter };
        let end = folding.end();
        let is_within = list.after.starts_with(&list.prefix) && folding.common_prefix(&list.after).is_none();
        let (mut from, mut after_upload) = if is_within && !list.after_upload.is_empty() {
            (list.after.as_bytes().to_vec(), list.after_upload.as_str())
        } else {
            (folding.start(&list.after), "")
        };
        let mut statement = self.conn.prepare_cached(
            "SELECT key, upload, initiated, checksum_algorithm, checksum_full_object FROM uploads
             WHERE bucket = ?1 AND (key, upload) > (?2, ?3) AND key < ?4 AND state IN ('open', 'completing')
             ORDER BY key, upload",
        )?;
        'walk: loop {
            let mut found = statement.query(params![list.bucket, from, after_upload, end])?;
            while let Some(row) = found.next()? {
                if page.uploads.len() + page.common_prefixes.len() >= list.max as usize {
                    page.truncated = list.max > 0;
                    return Ok(page);
                }
                let key = rows::text(row, 0)?;
                if let Some(prefix) = folding.common_prefix(key) {
                    prefix.clone_into(&mut page.last);
                    page.last_upload.clear();
                    page.common_prefixes.push(prefix.to_owned());
                    match after_all_below(prefix.as_bytes()) {
                        Some(next) => (from, after_upload) = (next, ""),
                        None => return Ok(page),
                    }
                    continue 'walk;
                }
                let upload = rows::upload_id(row, 1)?;
                key.clone_into(&mut page.last);
                upload.as_str().clone_into(&mut page.last_upload);
                page.uploads.push(ListedUpload {
                    key: key.to_owned(),
                    upload,
                    initiated: rows::time(row, 2)?,
                    checksum_algorithm: row.get(3)?,
                    checksum_full_object: row.get(4)?,
                });
            }
            return Ok(page);
        }
    }
}

fn listed(key: &str, row: &Row<'_>) -> Result<Listed> {
    Ok(Listed {
        key: key.to_owned(),
        size: rows::count(row, 1)?,
        modified: rows::time(row, 2)?,
        etag: rows::owned(row, 3)?,
        checksums: rows::json::<Checksums>(row, 4)?.checksums,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Timestamp;
    use rusqlite::{Connection, StatementStatus};
    use std::sync::Arc;

    /// Steps of SQLite's machine that a listing by `/` takes in a bucket of so many keys under ten prefixes, and its entries.
    fn steps(keys: u32) -> (i32, usize) {
        let conn = Connection::open_in_memory().expect("a database");
        conn.execute_batch(include_str!("../../../migrations/sqlite/V1__metadata.sql")).expect("the tables");
        conn.execute(
            "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1)
             INSERT INTO versions (bucket, key, version, live, size, modified, etag, record)
             SELECT 'bkt', CAST(printf('p%d/%07d', i % 10, i) AS BLOB), '01', 1, 0, 0, 'e', '{}' FROM n",
            [keys],
        )
        .expect("the keys");
        let reader = Reader::new(conn, Arc::new(Timestamp::default), 1);
        let (bucket, delimiter) = ("bkt".to_owned(), "/".to_owned());
        let list = ListQuery { bucket, delimiter, max: 1000, ..ListQuery::default() };
        let page = reader.list(&list).expect("a page");
        assert!(!page.truncated && page.keys.is_empty());
        let statement = reader.conn.prepare_cached(KEYS).expect("it was prepared");
        (statement.get_status(StatementStatus::VmStep), page.common_prefixes.len())
    }

    #[test]
    fn a_listing_costs_what_it_shows_not_what_it_skips() {
        let (few, prefixes) = steps(10);
        assert_eq!(prefixes, 10);
        let (many, prefixes) = steps(100_000);
        assert_eq!(prefixes, 10);
        assert!(many <= few * 2, "{many} steps over 100 000 keys, {few} over ten");
    }
}
