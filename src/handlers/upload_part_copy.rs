//! UploadPartCopy: as UploadPart, with the bytes of another object, or a range of them: copied by the backend itself where
//! both are on one that can, streamed from backend to backend otherwise.

use super::copy_source::{CopySource, NotCopied, check_size, from_copies, within};
use super::object_headers::stored_checksum;
use super::placing;
use super::ports::{Exchange, Ports};
use super::put_object::{etag_of, md5, was_answered};
use super::request::Request;
use super::reservation::may_be_whole;
use super::scratch::Scratch;
use super::trouble::Trouble;
use super::upload_part::{self, Attempt, trouble_of_backend};
use crate::backend::port::{MoveEnd, Put, PutTarget, Span, UpstreamPayload};
use crate::base::{Clock, ObjectKey, Timestamp};
use crate::proto::body_check::BodyCheck;
use crate::proto::checksum::{Algorithm, Declared};
use crate::proto::error_code::ErrorCode;
use crate::proto::etag::ETag;
use crate::proto::params::UploadPart;
use crate::proto::range::Range;
use crate::proto::xml;
use crate::store::record::{BlobAt, Located, PartRecord, StoredChecksum};

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
) -> Result<(), Trouble> {
    let source = CopySource::of(request.head)?;
    let asked = UploadPart::parse(&request.query())?;
    source.admit(ports, request)?;
    let work = source.copy(ports, request, &mut scratch.located, async |located| {
        let span = span_of(request, located)?;
        check_size(span.len).map_err(Trouble::from)?;
        copy(ports, request, located, span, &asked).await
    });
    let (part, backend) = exchange.patiently(work).await?;
    exchange.note_backend(backend);
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

/// The part, committed, and its backend's place in the view.
async fn copy<P: Ports>(
    ports: &P,
    request: &Request<'_>,
    located: &Located,
    span: Span,
    asked: &UploadPart,
) -> Result<(PartRecord, usize), NotCopied> {
    let refused = |code: ErrorCode| Trouble::from(code);
    let bucket = request.home().map_err(Trouble::from)?.name.clone();
    let key = ObjectKey::parse(request.key()).ok_or_else(|| refused(ErrorCode::KeyTooLongError))?;
    let done = from_copies(ports, &located.blobs, async |from| {
        // An attempt that failed is given up, and the next one waits for that.
        let mut attempt = upload_part::begin(ports, bucket.clone(), key.clone(), asked, span.len).await?;
        let backend = placing::index_of(ports, &attempt.upload.blob.backend);
        if backend == usize::MAX {
            return Err(refused(ErrorCode::ServiceUnavailable).into());
        }
        let part = match copy_within(ports, &mut attempt, backend, located, span).await? {
            Some(part) => part,
            None => copy_from(ports, &mut attempt, backend, located.size, from, span).await?,
        };
        attempt.commit(part.clone()).await?;
        Ok((part, backend))
    });
    done.await
}

/// The part as the upload's own backend made it of the source that stands there; None if it cannot, or somebody has to see the
/// bytes: where neither the source's row nor the backend tells what the part's ETag and checksum are.
async fn copy_within<P: Ports>(
    ports: &P,
    attempt: &mut Attempt<'_, P>,
    backend: usize,
    located: &Located,
    span: Span,
) -> Result<Option<PartRecord>, Trouble> {
    let Some(from) = within(ports, backend, located) else { return Ok(None) };
    let whole = span.len == located.size;
    let known = ETag::parse(&located.etag).and_then(|etag| etag.md5()).filter(|_| whole);
    let kept = located.record.checksums.first().filter(|one| whole && !one.composite);
    let checksum = match attempt.upload.checksum_algorithm.as_deref() {
        None => None,
        Some(wanted) => match kept.filter(|one| one.algorithm == wanted) {
            Some(kept) => Some(kept.clone()),
            None => return Ok(None),
        },
    };
    if known.is_none() && !placing::help_of(ports, backend).tells_md5 || span.len == 0 {
        return Ok(None);
    }
    attempt.may_have_replaced = true;
    let put = put_of(attempt, span.len, UpstreamPayload::Unsigned);
    match ports.copy_within(from, located.size, span, put).await {
        Ok(stored) => {
            let etag = match known {
                Some(known) => ETag::of_md5(known).to_string(),
                None => etag_of(&BodyCheck::unseen(), &stored)?,
            };
            Ok(Some(part_of(ports, attempt, etag, stored.etag, checksum.into_iter().collect())))
        }
        Err(failure) if was_answered(&failure) => {
            tracing::debug!(%failure, "a backend did not copy a part within itself");
            attempt.may_have_replaced = false;
            Ok(None)
        }
        Err(failure) => Err(failure.into()),
    }
}

fn put_of<'a, P: Ports>(attempt: &'a Attempt<'_, P>, size: u64, payload: UpstreamPayload) -> Put<'a> {
    let target = PutTarget::Part {
        backend_upload: &attempt.upload.backend_upload,
        number: attempt.part.number,
        nonce: attempt.nonce.as_str(),
    };
    Put { incarnation: attempt.incarnation, blob: &attempt.upload.blob, target, size, payload, checksum: None }
}

fn part_of<P: Ports>(
    ports: &P,
    attempt: &Attempt<'_, P>,
    etag: String,
    backend_etag: String,
    checksums: Vec<StoredChecksum>,
) -> PartRecord {
    let backend_etag = if backend_etag == etag { String::new() } else { backend_etag };
    let (number, modified_ms) = (attempt.part.number.get(), ports.clock().now().millis);
    PartRecord { number, size: attempt.size, etag, backend_etag, checksums, modified_ms }
}

async fn copy_from<P: Ports>(
    ports: &P,
    attempt: &mut Attempt<'_, P>,
    backend: usize,
    size: u64,
    from: &BlobAt,
    span: Span,
) -> Result<PartRecord, NotCopied> {
    let source = ports.open(from, size, span).await.map_err(NotCopied::source)?;
    let wanted = attempt.upload.checksum_algorithm.as_deref().and_then(Algorithm::parse);
    let mut check = BodyCheck::new(Declared::default(), md5().and(wanted), placing::help_of(ports, backend));
    let put = put_of(attempt, span.len, placing::upstream_payload(ports, backend, None, None));
    let mut sink = ports.create(put).await.map_err(trouble_of_backend)?;
    attempt.may_have_replaced = true;
    let moved = ports.copy(source, &mut sink, &mut check).await;
    let not_copied = match moved.end {
        MoveEnd::Done => None,
        MoveEnd::Source(failure) => {
            attempt.may_have_replaced = moved.bytes >= span.len;
            Some(NotCopied::source(failure))
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
    Ok(part_of(ports, attempt, etag, stored.etag, checksums))
}
