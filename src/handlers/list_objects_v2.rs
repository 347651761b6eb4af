//! ListObjectsV2: one walk of the store's index per page; no backend is asked.

use super::ports::{Exchange, Ports};
use super::request::Request;
use super::scratch::Scratch;
use super::trouble::Trouble;
use crate::base::Failure;
use crate::proto::owner::Owner;
use crate::proto::params::ListObjectsV2;
use crate::proto::xml::{self, ListEntry, ListHeader};
use crate::store::port::{Answer, ListPage, ListQuery, Listed, Metadata, Query};

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
) -> Result<(), Trouble> {
    let query = request.query();
    let asked = ListObjectsV2::parse(&query)?;
    let page = page_of(ports, request, &asked.prefix, &asked.delimiter, &asked.after, asked.max_keys).await?;
    let header = ListHeader {
        bucket: request.bucket(),
        owner: Owner::of(&request.home()?.owner),
        request: &asked,
        entries: page.keys.len() + page.common_prefixes.len(),
        continues_after: page.truncated.then_some(page.last.as_str()),
    };
    scratch.body.clear();
    let prefixes = page.common_prefixes.iter().map(String::as_str);
    xml::write_list_objects(&mut scratch.body, &header, page.keys.iter().map(entry_of), prefixes);
    exchange.head().field("content-type", "application/xml");
    exchange.respond(&scratch.body).await.map_err(|_| Trouble::Cut)
}

/// One page of the bucket's keys and common prefixes behind `after`: what every listing of keys begins with.
pub(super) async fn page_of<P: Ports>(
    ports: &P,
    request: &Request<'_>,
    prefix: &str,
    delimiter: &str,
    after: &str,
    max: u32,
) -> Result<ListPage, Failure> {
    let (bucket, prefix) = (request.bucket().to_owned(), prefix.to_owned());
    let list = ListQuery { bucket, prefix, delimiter: delimiter.to_owned(), after: after.to_owned(), max };
    match ports.meta().query(Query::List(list)).await? {
        Answer::List(page) => Ok(page),
        _ => Err(Failure::ourselves("a query was answered with another's answer")),
    }
}

pub(super) fn entry_of(listed: &Listed) -> ListEntry<'_> {
    let checksum = listed.checksums.first().map(|one| (one.algorithm.as_str(), one.composite));
    ListEntry { key: &listed.key, size: listed.size, etag: &listed.etag, modified: listed.modified, checksum }
}
