//! Listing: one walk along the keys, which jumps over what a common prefix stands for. So a page costs what it shows, not
//! what lies below it.

use super::super::port::{ListPage, ListQuery, Listed};
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

impl Reader {
    pub(super) fn list(&self, list: &ListQuery) -> Result<ListPage> {
        let mut page = ListPage::default();
        let mut from = start(list);
        // Keys are UTF-8, which never holds this byte.
        let end = after_all_below(list.prefix.as_bytes()).unwrap_or_else(|| vec![0xff]);
        let mut statement = self.conn.prepare_cached(
            "SELECT key, size, modified, etag, record FROM versions
             WHERE bucket = ?1 AND key >= ?2 AND key < ?3 AND live = 1 ORDER BY key",
        )?;
        'walk: loop {
            let mut found = statement.query(params![list.bucket, from, end])?;
            while let Some(row) = found.next()? {
                if page.keys.len() + page.common_prefixes.len() >= list.max as usize {
                    page.truncated = list.max > 0;
                    return Ok(page);
                }
                let key = rows::text(row, 0)?;
                if let Some(prefix) = common_prefix(key, list) {
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

fn listed(key: &str, row: &Row<'_>) -> Result<Listed> {
    Ok(Listed {
        key: key.to_owned(),
        size: rows::count(row, 1)?,
        modified: rows::time(row, 2)?,
        etag: rows::owned(row, 3)?,
        checksums: rows::json::<Checksums>(row, 4)?.checksums,
    })
}

/// The first key that may be an entry.
fn start(list: &ListQuery) -> Vec<u8> {
    let prefix = list.prefix.as_bytes();
    if list.after.as_bytes() < prefix {
        return prefix.to_vec();
    }
    // What lies below the common prefix that `after` is or lies below is no entry any more.
    match common_prefix(&list.after, list).map(|prefix| after_all_below(prefix.as_bytes())) {
        Some(Some(next)) => next,
        _ => {
            let mut next = list.after.as_bytes().to_vec();
            next.push(0);
            next
        }
    }
}

fn common_prefix<'k>(key: &'k str, list: &ListQuery) -> Option<&'k str> {
    if list.delimiter.is_empty() {
        return None;
    }
    let at = key.strip_prefix(list.prefix.as_str())?.find(&list.delimiter)?;
    Some(&key[..list.prefix.len() + at + list.delimiter.len()])
}

/// The smallest bytes above all that start with `prefix`; None if nothing is.
fn after_all_below(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut next = prefix[..=last].to_vec();
    next[last] += 1;
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_above_a_prefix() {
        for (prefix, want) in [
            (&b"a/"[..], Some(&b"a0"[..])),
            (b"a\xff\xff", Some(b"b")),
            (b"\xff\xff", None),
            (b"", None),
            (b"\0", Some(b"\x01")),
        ] {
            assert_eq!(after_all_below(prefix).as_deref(), want, "{prefix:?}");
        }
    }
}
