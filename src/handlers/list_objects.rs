//! ListObjects, the first version: as ListObjectsV2, with a plain marker in place of a token.

use super::list_objects_v2::{entry_of, page_of};
use super::ports::{Exchange, Ports};
use super::request::Request;
use super::scratch::Scratch;
use super::trouble::Trouble;
use crate::proto::owner::Owner;
use crate::proto::params::ListObjects;
use crate::proto::xml;

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
) -> Result<(), Trouble> {
    let query = request.query();
    let asked = ListObjects::parse(&query)?;
    let page = page_of(ports, request, &asked.prefix, &asked.delimiter, &asked.marker, asked.max_keys).await?;
    let last = page.truncated.then_some(page.last.as_str());
    let (keys, prefixes) = (page.keys.iter().map(entry_of), page.common_prefixes.iter().map(String::as_str));
    scratch.body.clear();
    let owner = Owner::of(&request.home()?.owner);
    xml::write_list_objects_v1(&mut scratch.body, (request.bucket(), &owner), &asked, last, keys, prefixes);
    exchange.head().field("content-type", "application/xml");
    exchange.respond(&scratch.body).await.map_err(|_| Trouble::Cut)
}
