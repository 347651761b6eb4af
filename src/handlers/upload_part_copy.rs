//! UploadPartCopy: as UploadPart, with the bytes of another object, or a range of them, streamed from backend to backend.

use super::copy_source::{CopySource, LOOKS_MAX, NotCopied, is_stale};
use super::object_headers::stored_checksum;
use super::placing;
use super::ports::{Exchange, Ports};
use super::put_object::{etag_of, md5, was_answered};
use super::request::Request;
use super::reservation::may_be_whole;
use super::scratch::Scratch;
use super::trouble::Trouble;
use super::upload_part::{self, Attempt, trouble_of_backend};
use crate::backend::port::{MoveEnd, Put, PutTarget, Span};
use crate::base::{Clock, Failure, ObjectKey, Timestamp};
use crate::proto::body_check::BodyCheck;
use crate::proto::checksum::{Algorithm, Declared};
use crate::proto::error_code::ErrorCode;
use crate::proto::params::UploadPart;
use crate::proto::range::Range;
use crate::proto::xml;
use crate::store::record::{BlobAt, Located, PartRecord};

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
) -> Result<(), Trouble> {
    let source = CopySource::of(request.head)?;
    let asked = UploadPart::parse(&request.query())?;
    source.admit(ports, request)?;
    let mut looks = 0;
    let part = loop {
        looks += 1;
        source.look_up(ports, request, &mut scratch.located).await?;
        let span = span_of(request, &scratch.located)?;
        if span.len > ports.view().server.max_object_size_bytes {
            return Err(ErrorCode::EntityTooLarge.into());
        }
        match copy(ports, request, exchange, &scratch.located, span, &asked).await {
            Ok(part) => break part,
            Err(NotCopied::Source(failure)) if is_stale(&failure) && looks < LOOKS_MAX => {}
            Err(NotCopied::Source(failure)) => return Err(failure.into()),
            Err(NotCopied::Ended(trouble)) => return Err(trouble),
        }
    };
    let checksum = part.checksums.first().map(|one| (one.algorithm.as_str(), one.value.as_str(), one.composite));
    let modified = Timestamp { millis: part.modified_ms };
    scratch.body.clear();
    xml::write_copy_result(&mut scratch.body, "CopyPartResult", modified, &part.etag, checksum);
    exchange.head().field("content-type", "application/xml");
    exchange.respond(&scratch.body).await.map_err(|_| Trouble::Cut)
}

fn span_of(request: &Request<'_>, located: &Located) -> Result<Span, Trouble> {
    let Some(value) = request.head.header("x-amz-copy-source-range") else {
        return Ok(Span { from: 0, len: located.size });
    };
    let (first, last) = Range::of_copy_source(value, located.size)?;
    Ok(Span { from: first, len: last - first + 1 })
}

/// From the first copy of the source that gives the whole span.
async fn copy<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    located: &Located,
    span: Span,
    asked: &UploadPart,
) -> Result<PartRecord, NotCopied> {
    let refused = |code: ErrorCode| Trouble::from(code);
    let bucket = request.home().map_err(Trouble::from)?.name.clone();
    let key = ObjectKey::parse(request.key()).ok_or_else(|| refused(ErrorCode::KeyTooLongError))?;
    let mut last = Failure::backend("no copy of the source is on a backend that is configured");
    for position in placing::read_order(ports, &located.blobs).iter() {
        let mut attempt = upload_part::begin(ports, bucket.clone(), key.clone(), asked, span.len).await?;
        match copy_from(ports, &mut attempt, located.size, &located.blobs[position], span).await {
            Ok(part) => {
                exchange.note_backend(placing::index_of(ports, &attempt.upload.blob.backend));
                attempt.commit(part.clone()).await?;
                return Ok(part);
            }
            // The attempt is given up, and the next one waits for that.
            Err(NotCopied::Source(failure)) => {
                tracing::debug!(%failure, "a part's source was not read");
                last = failure;
            }
            Err(ended) => return Err(ended),
        }
    }
    Err(NotCopied::Source(last))
}

async fn copy_from<P: Ports>(
    ports: &P,
    attempt: &mut Attempt<'_, P>,
    size: u64,
    from: &BlobAt,
    span: Span,
) -> Result<PartRecord, NotCopied> {
    let backend = placing::index_of(ports, &attempt.upload.blob.backend);
    if backend == usize::MAX {
        return Err(Trouble::from(ErrorCode::ServiceUnavailable).into());
    }
    let source = ports.open(from, size, span).await.map_err(NotCopied::Source)?;
    let wanted = attempt.upload.checksum_algorithm.as_deref().and_then(Algorithm::parse);
    let mut check = BodyCheck::new(Declared::default(), md5().and(wanted), placing::help_of(ports, backend));
    let put = Put {
        blob: &attempt.upload.blob,
        target: PutTarget::Part {
            backend_upload: &attempt.upload.backend_upload,
            number: attempt.part.number,
            nonce: attempt.nonce.as_str(),
        },
        size: span.len,
        payload: placing::upstream_payload(ports, backend, None, None),
        checksum: None,
    };
    let mut sink = ports.create(put).await.map_err(trouble_of_backend)?;
    attempt.may_have_replaced = true;
    let moved = ports.copy(source, &mut sink, &mut check).await;
    let not_copied = match moved.end {
        MoveEnd::Done => None,
        MoveEnd::Source(failure) => {
            attempt.may_have_replaced = moved.bytes >= span.len;
            Some(NotCopied::Source(failure))
        }
        MoveEnd::Sink(failure) => {
            attempt.may_have_replaced = may_be_whole(moved.bytes, span.len);
            Some(trouble_of_backend(failure).into())
        }
        MoveEnd::Refused(error) => {
            attempt.may_have_replaced = false;
            Some(Trouble::from(error).into())
        }
    };
    if let Some(not_copied) = not_copied {
        ports.discard(sink).await;
        return Err(not_copied);
    }
    let stored = ports.finish(sink).await.map_err(|failure| {
        attempt.may_have_replaced = !was_answered(&failure);
        trouble_of_backend(failure)
    })?;
    let etag = etag_of(&check, &stored)?;
    let checksums = wanted.and_then(|one| check.found(one)).as_ref().map(stored_checksum).into_iter().collect();
    let backend_etag = if stored.etag == etag { String::new() } else { stored.etag };
    let modified_ms = ports.clock().now().millis;
    Ok(PartRecord { number: attempt.part.number.get(), size: span.len, etag, backend_etag, checksums, modified_ms })
}
