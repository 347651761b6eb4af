//! ListObjectVersions as a bucket answers it that never had versioning: each key's only version is the latest, called `null`.

use super::list_objects_v2::{entry_of, page_of};
use super::ports::{Exchange, Ports};
use super::request::Request;
use super::scratch::Scratch;
use super::trouble::Trouble;
use crate::proto::owner::Owner;
use crate::proto::params::ListObjectVersions;
use crate::proto::xml;

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
) -> Result<(), Trouble> {
    let query = request.query();
    let asked = ListObjectVersions::parse(&query)?;
    let page = page_of(ports, request, &asked.prefix, &asked.delimiter, &asked.key_marker, asked.max_keys).await?;
    let is_key = page.keys.last().is_some_and(|one| one.key == page.last);
    let last = page.truncated.then_some((page.last.as_str(), is_key));
    let (keys, prefixes) = (page.keys.iter().map(entry_of), page.common_prefixes.iter().map(String::as_str));
    scratch.body.clear();
    let owner = Owner::of(&request.home()?.owner);
    xml::write_list_versions(&mut scratch.body, (request.bucket(), &owner), &asked, last, keys, prefixes);
    exchange.head().field("content-type", "application/xml");
    exchange.respond(&scratch.body).await.map_err(|_| Trouble::Cut)
}
