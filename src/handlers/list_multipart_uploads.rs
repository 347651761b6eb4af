//! ListMultipartUploads: the open uploads of a bucket, in pages ordered by key and, for one key, by when they were begun.

use super::ports::{Exchange, Ports};
use super::request::Request;
use super::scratch::Scratch;
use super::trouble::Trouble;
use crate::base::Failure;
use crate::proto::owner::Owner;
use crate::proto::params::ListMultipartUploads;
use crate::proto::xml::{self, UploadEntry};
use crate::store::port::{Answer, ListUploadsQuery, ListedUpload, Metadata, Query};

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
) -> Result<(), Trouble> {
    let query = request.query();
    let asked = ListMultipartUploads::parse(&query)?;
    let list = ListUploadsQuery {
        bucket: request.bucket().to_owned(),
        prefix: asked.prefix.clone().into_owned(),
        delimiter: asked.delimiter.clone().into_owned(),
        after: asked.key_marker.clone().into_owned(),
        after_upload: asked.upload_id_marker.clone().into_owned(),
        max: asked.max_uploads,
    };
    let Answer::ListUploads(page) = ports.meta().query(Query::ListUploads(list)).await? else {
        return Err(Failure::ourselves("a query was answered with another's answer").into());
    };
    let last = page.truncated.then_some((page.last.as_str(), page.last_upload.as_str()));
    let (uploads, prefixes) = (page.uploads.iter().map(entry_of), page.common_prefixes.iter().map(String::as_str));
    let owner = Owner::of(&request.home()?.owner);
    scratch.body.clear();
    xml::write_list_uploads(&mut scratch.body, (request.bucket(), &owner), &asked, last, uploads, prefixes);
    exchange.head().field("content-type", "application/xml");
    exchange.respond(&scratch.body).await.map_err(|_| Trouble::Cut)
}

fn entry_of(listed: &ListedUpload) -> UploadEntry<'_> {
    UploadEntry {
        key: &listed.key,
        upload: listed.upload.as_str(),
        initiated: listed.initiated,
        checksum: listed.checksum_algorithm.as_deref().map(|name| (name, !listed.checksum_full_object)),
    }
}
