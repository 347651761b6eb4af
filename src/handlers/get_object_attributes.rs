//! GetObjectAttributes: from the rows alone.

use super::ports::{Exchange, Ports};
use super::request::Request;
use super::scratch::Scratch;
use super::selection::{LOOKS_MAX, look_up, not_modified, parts_of};
use super::trouble::Trouble;
use crate::base::Clock;
use crate::proto::attributes::ObjectAttributes;
use crate::proto::conditional::{ReadConditions, Verdict};
use crate::proto::date;
use crate::proto::error_code::ErrorCode;
use crate::proto::xml::{self, AttributePart, Attributes, PartsPage};
use crate::store::port::VersionParts;
use crate::store::record::{Located, PartRecord};

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
) -> Result<(), Trouble> {
    let asked = ObjectAttributes::of(request.head)?;
    let mut looks = 0;
    let parts = loop {
        looks += 1;
        let located = &mut scratch.located;
        look_up(ports, request, located, looks > 1).await?;
        match ReadConditions::of(request.head)?.test(&located.etag, located.modified, || ports.clock().now()) {
            Verdict::Proceed => {}
            Verdict::NotModified => return not_modified(exchange, scratch).await,
            Verdict::PreconditionFailed => return Err(ErrorCode::PreconditionFailed.into()),
        }
        let is_listed = located.record.parts > 0 && located.record.checksums.iter().any(|one| one.composite);
        if !asked.object_parts || !is_listed {
            break None;
        }
        match parts_of(ports, request, located, asked.part_number_marker, asked.max_parts).await? {
            Some(parts) => break Some(parts),
            // Overwritten between two questions.
            None if looks < LOOKS_MAX => {}
            None => return Err(ErrorCode::ServiceUnavailable.into()),
        }
    };
    scratch.body.clear();
    write(&mut scratch.body, &asked, &scratch.located, parts.as_ref());
    let head = exchange.head();
    head.field("content-type", "application/xml");
    head.field("last-modified", date::http(scratch.located.modified).as_str());
    exchange.respond(&scratch.body).await.map_err(|_| Trouble::Cut)
}

fn write(out: &mut Vec<u8>, asked: &ObjectAttributes, located: &Located, parts: Option<&VersionParts>) {
    let listed: Vec<AttributePart<'_>> = parts.iter().flat_map(|found| &found.parts).map(shown).collect();
    let page = parts.map(|found| PartsPage {
        // As ListParts: a page of nothing has no next one.
        truncated: found.truncated && asked.max_parts > 0,
        parts: &listed,
    });
    let checksum = located.record.checksums.first();
    let object = Attributes {
        etag: &located.etag,
        size: located.size,
        checksum: checksum.map(|one| (one.algorithm.as_str(), one.value.as_str(), one.composite)),
        parts: (located.record.parts > 0).then_some(located.record.parts),
        page,
    };
    xml::write_attributes(out, asked, &object);
}

fn shown(part: &PartRecord) -> AttributePart<'_> {
    let checksum = part.checksums.first().map(|one| (one.algorithm.as_str(), one.value.as_str()));
    AttributePart { number: part.number, size: part.size, checksum }
}
