//! ListParts: what is stored of an open upload, in pages.

use super::ports::{Exchange, Ports};
use super::request::Request;
use super::scratch::Scratch;
use super::trouble::Trouble;
use crate::base::{Failure, Timestamp};
use crate::proto::error_code::ErrorCode;
use crate::proto::owner::Owner;
use crate::proto::params::ListParts;
use crate::proto::xml::{self, PartEntry, PartsHeader};
use crate::store::port::{Answer, Metadata, Query, Upload, UploadState};
use crate::store::record::PartRecord;

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
) -> Result<(), Trouble> {
    let asked = ListParts::parse(&request.query())?;
    let upload = match ports.meta().query(Query::Upload { upload: asked.upload.clone() }).await? {
        Answer::Upload(found) => found.filter(|upload| is_listed(upload, request)).ok_or(ErrorCode::NoSuchUpload)?,
        _ => return Err(Failure::ourselves("a query was answered with another's answer").into()),
    };
    let query = Query::Parts { upload: asked.upload.clone(), after: asked.after, max: asked.max_parts };
    let Answer::Parts { parts, truncated } = ports.meta().query(query).await? else {
        return Err(Failure::ourselves("a query was answered with another's answer").into());
    };
    let header = PartsHeader {
        bucket: request.bucket(),
        owner: Owner::of(&request.home()?.owner),
        key: request.key(),
        request: &asked,
        last: parts.last().map_or(0, |part| part.number),
        // A page of nothing has no next one: its marker would be where it began.
        truncated: truncated && asked.max_parts > 0,
        checksum: upload.checksum_algorithm.as_deref().map(|name| (name, !upload.checksum_full_object)),
    };
    scratch.body.clear();
    xml::write_list_parts(&mut scratch.body, &header, parts.iter().map(entry_of));
    exchange.head().field("content-type", "application/xml");
    exchange.respond(&scratch.body).await.map_err(|_| Trouble::Cut)
}

/// Another bucket's or key's upload is as unknown as one that has ended.
fn is_listed(upload: &Upload, request: &Request<'_>) -> bool {
    upload.bucket.as_str() == request.bucket()
        && upload.key.as_str() == request.key()
        && matches!(upload.state, UploadState::Open | UploadState::Completing)
}

fn entry_of(part: &PartRecord) -> PartEntry<'_> {
    PartEntry {
        number: part.number,
        size: part.size,
        etag: &part.etag,
        modified: Timestamp { millis: part.modified_ms },
        checksum: part.checksums.first().map(|one| (one.algorithm.as_str(), one.value.as_str())),
    }
}
