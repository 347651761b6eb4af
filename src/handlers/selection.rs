//! What of an object a GET or HEAD sends: all of it, a range, or one of the parts that it was uploaded in; or nothing, if its
//! conditions say so.

use super::degraded::{self, Found};
use super::object_headers::{write_object, write_version};
use super::ports::{Exchange, Ports};
use super::request::Request;
use super::response::ResponseHead;
use super::scratch::Scratch;
use super::trouble::Trouble;
use crate::backend::port::Span;
use crate::base::{Clock, Failure, PartNumber};
use crate::proto::conditional::{ReadConditions, Verdict};
use crate::proto::error_code::{ErrorCode, S3Error};
use crate::proto::params;
use crate::proto::range::Range;
use crate::store::port::{Answer, Metadata, Query, VersionParts};
use crate::store::record::{Located, PartRecord};

const DEGRADED: &str = "x-s3o-degraded";
/// Looks for a version, the first one included (PROTOCOL.md, "Deleting bytes").
pub const LOOKS_MAX: u32 = 3;

#[derive(Clone, PartialEq, Debug)]
pub struct Selection {
    pub span: Span,
    /// 206: it was asked for by range or by part number.
    partial: bool,
    /// By part number, of an object that came in parts.
    part: Option<Box<PartRecord>>,
}

/// Finds the live version, without the database where that does not answer, and decides what of it is to be sent; None: 304.
/// NoSuchKey, PreconditionFailed, InvalidRange, InvalidPartNumber. `again`: no copy of what was found before could be read.
/// Cancel: NOT safe.
pub async fn select<P: Ports>(
    ports: &P,
    request: &Request<'_>,
    scratch: &mut Scratch,
    again: bool,
) -> Result<Option<Selection>, Trouble> {
    let number = params::part_number(&request.query())?;
    if number.is_some() && request.head.header("range").is_some() {
        let message = "Cannot specify both Range header and partNumber query parameter";
        return Err(S3Error::new(ErrorCode::InvalidRequest, message).into());
    }
    let mut looks = 0;
    loop {
        looks += 1;
        scratch.found = Found::Exact;
        match look(ports, request, &mut scratch.located, again || looks > 1).await {
            Ok(true) => {}
            Ok(false) => return Err(ErrorCode::NoSuchKey.into()),
            Err(failure) => Box::pin(degraded::find(ports, request, scratch, failure, again)).await?,
        }
        let located = &scratch.located;
        let Some(range) = decide(ports, request, located)? else { return Ok(None) };
        let Some(number) = number else { return Ok(Some(Selection::of_range(range, located.size))) };
        if scratch.found == Found::Searched {
            // No backend tells which parts an object came in.
            return Err(ErrorCode::ServiceUnavailable.into());
        }
        match Box::pin(part_of(ports, request, located, number)).await? {
            Some(selection) => return Ok(Some(selection)),
            // Overwritten between two questions.
            None if looks < LOOKS_MAX => {}
            None => return Err(ErrorCode::ServiceUnavailable.into()),
        }
    }
}

/// `afresh`: what the location cache may hold has led nowhere.
async fn look<P: Ports>(
    ports: &P,
    request: &Request<'_>,
    located: &mut Located,
    afresh: bool,
) -> Result<bool, Failure> {
    match afresh {
        false => ports.meta().lookup(request.bucket(), request.key(), located).await,
        true => Box::pin(ports.meta().lookup_afresh(request.bucket(), request.key(), located)).await,
    }
}

/// NoSuchKey if there is no live version. `afresh`: the location cache is not asked. Cancel: NOT safe.
pub async fn look_up<P: Ports>(
    ports: &P,
    request: &Request<'_>,
    located: &mut Located,
    afresh: bool,
) -> Result<(), Trouble> {
    let found = look(ports, request, located, afresh).await?;
    if found { Ok(()) } else { Err(ErrorCode::NoSuchKey.into()) }
}

fn decide<P: Ports>(ports: &P, request: &Request<'_>, located: &Located) -> Result<Option<Range>, S3Error> {
    let conditions = ReadConditions::of(request.head)?;
    match conditions.test(&located.etag, located.modified, || ports.clock().now()) {
        Verdict::Proceed => {}
        Verdict::NotModified => return Ok(None),
        Verdict::PreconditionFailed => return Err(ErrorCode::PreconditionFailed.into()),
    }
    let asked = request.head.header("range").filter(|_| conditions.range_applies(&located.etag, located.modified));
    match Range::of(asked, located.size) {
        Range::Unsatisfiable => Err(ErrorCode::InvalidRange.into()),
        range => Ok(Some(range)),
    }
}

/// None: this version is not live any more.
async fn part_of<P: Ports>(
    ports: &P,
    request: &Request<'_>,
    located: &Located,
    number: PartNumber,
) -> Result<Option<Selection>, Trouble> {
    if located.record.parts == 0 {
        // One piece is its own first part.
        let whole = Selection { span: Span { from: 0, len: located.size }, partial: located.size > 0, part: None };
        return if number.get() == 1 { Ok(Some(whole)) } else { Err(ErrorCode::InvalidPartNumber.into()) };
    }
    let Some(mut found) = parts_of(ports, request, located, number.get() - 1, 1).await? else { return Ok(None) };
    let part = found.parts.pop().filter(|part| part.number == number.get()).ok_or(ErrorCode::InvalidPartNumber)?;
    let span = Span { from: found.before_bytes, len: part.size };
    Ok(Some(Selection { span, partial: part.size > 0, part: Some(Box::new(part)) }))
}

/// A page of the version's parts; None if it is not live any more. Cancel: NOT safe.
pub async fn parts_of<P: Ports>(
    ports: &P,
    request: &Request<'_>,
    located: &Located,
    after: u16,
    max: u32,
) -> Result<Option<VersionParts>, Failure> {
    let (bucket, key) = (request.bucket().to_owned(), request.key().to_owned());
    let query = Query::VersionParts { bucket, key, version: located.version, after, max };
    match ports.meta().query(query).await? {
        Answer::VersionParts(found) => Ok(found),
        _ => Err(Failure::ourselves("a query was answered with another's answer")),
    }
}

impl Selection {
    fn of_range(range: Range, size: u64) -> Self {
        let (from, partial) = match range {
            Range::Part { first, .. } => (first, true),
            Range::Whole | Range::Unsatisfiable => (0, false),
        };
        Self { span: Span { from, len: range.len(size) }, partial, part: None }
    }

    /// Status and fields of the answer that sends it.
    pub fn write_head<P: Ports, X: Exchange<P>>(
        &self,
        exchange: &mut X,
        request: &Request<'_>,
        scratch: &Scratch,
    ) -> Result<(), S3Error> {
        let located = &scratch.located;
        let Span { from, len } = self.span;
        let head = exchange.head();
        head.clear();
        head.content_length = len;
        if self.partial {
            head.status = 206;
            head.format("content-range", format_args!("bytes {from}-{}/{}", from + len - 1, located.size));
        }
        // A checksum is the whole object's, so a range is answered without; S3 tells that of a part only where the object's
        // is one of the parts' ("Checking object integrity").
        let is_composite = located.record.checksums.iter().any(|one| one.composite);
        let checksums = match &self.part {
            Some(part) if is_composite => &*part.checksums,
            _ if len == located.size => &*located.record.checksums,
            _ => &[],
        };
        write_found(head, scratch.found);
        write_object(head, request, located, checksums)?;
        if self.part.is_some() {
            head.format("x-amz-mp-parts-count", format_args!("{}", located.record.parts));
        }
        Ok(())
    }
}

/// Says of an answer that was found without the database that it was, and how.
pub fn write_found(head: &mut ResponseHead, found: Found) {
    if let Some(how) = found.degraded() {
        head.field(DEGRADED, how);
    }
}

/// The answer to a condition that says that the client has these bytes already.
pub async fn not_modified<P: Ports, X: Exchange<P>>(exchange: &mut X, scratch: &Scratch) -> Result<(), Trouble> {
    let located = &scratch.located;
    let head = exchange.head();
    head.clear();
    head.status = ErrorCode::NotModified.http_status();
    write_found(head, scratch.found);
    write_version(head, located);
    for (name, value) in located.record.headers.iter().filter(|(name, _)| name == "cache-control" || name == "expires")
    {
        head.field(name, value);
    }
    exchange.respond(b"").await.map_err(|_| Trouble::Cut)
}
