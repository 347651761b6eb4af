//! UploadPart: the part's bytes stream into the backend's own upload (PROTOCOL.md, "Multipart").

use super::held::{Own, Place};
use super::object_headers::{stored_checksum, write_checksum_value, write_etag};
use super::placing;
use super::ports::{Exchange, Ports, Worker};
use super::put_object::{etag_of, md5, trouble_of_refused_body, was_answered};
use super::request::Request;
use super::reservation::may_be_whole;
use super::trouble::Trouble;
use crate::backend::port::{MoveEnd, Put, PutTarget};
use crate::base::failure::Kind;
use crate::base::{BucketName, Clock, Dice, Failure, Incarnation, Nonce, ObjectKey};
use crate::proto::body_check::{BodyCheck, Help};
use crate::proto::checksum::{Algorithm, Algorithms, Declared};
use crate::proto::error_code::{ErrorCode, S3Error};
use crate::proto::params::UploadPart;
use crate::store::port::{AbandonPart, BeginPart, CommitPart, Metadata, PartBegun, Refusal, Upload};
use crate::store::record::PartRecord;
use std::time::Duration;

/// How long a part waits for an attempt at the same number whose client is gone, and for room; and a Complete for attempts at
/// its parts.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(5);
pub(super) const WAIT_STEP: Duration = Duration::from_millis(100);

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
) -> Result<(), Trouble> {
    let size = request.object_length()?;
    if size > ports.view().server.max_object_size_bytes {
        return Err(ErrorCode::EntityTooLarge.into());
    }
    let asked = UploadPart::parse(&request.query())?;
    let declared = Declared::parse(&request.head.headers, request.payload)?;
    let bucket = request.home()?.name.clone();
    let key = ObjectKey::parse(request.key()).ok_or(ErrorCode::KeyTooLongError)?;
    let mut attempt = begin(ports, bucket, key, &asked, size).await?;
    let part = store(ports, &mut attempt, declared, exchange).await?;
    attempt.commit(part.clone()).await?;
    let head = exchange.head();
    write_etag(head, &part.etag);
    part.checksums.iter().for_each(|checksum| write_checksum_value(head, checksum));
    exchange.respond(b"").await.map_err(|_| Trouble::Cut)
}

/// An attempt at a part; handed over to be abandoned unless its end was recorded.
pub(super) struct Attempt<'p, P: Ports> {
    ports: &'p P,
    /// Who has begun it.
    pub(super) incarnation: Incarnation,
    pub(super) upload: Upload,
    pub(super) part: UploadPart,
    pub(super) nonce: Nonce,
    pub(super) size: u64,
    /// The backend may hold the attempt's bytes under this number.
    pub(super) may_have_replaced: bool,
    held: Place,
    ended: bool,
}

impl<P: Ports> Attempt<'_, P> {
    /// The part as the backend acknowledged it is the upload's.
    pub(super) async fn commit(mut self, part: PartRecord) -> Result<(), Trouble> {
        let commit =
            CommitPart { incarnation: self.incarnation, upload: self.upload.upload.clone(), nonce: self.nonce, part };
        let outcome = self.ports.meta().step(commit).await?;
        self.ended = true;
        outcome?;
        Ok(())
    }
}

impl<P: Ports> Drop for Attempt<'_, P> {
    fn drop(&mut self) {
        if !self.ended {
            let abandon = AbandonPart {
                incarnation: self.incarnation,
                upload: self.upload.upload.clone(),
                number: self.part.number,
                nonce: self.nonce,
                may_have_replaced: self.may_have_replaced,
            };
            self.ports.end_later(abandon.into());
        }
        self.ports.held().leave(&self.held);
    }
}

/// Charges the part. A client that lost its connection sends the part again while the attempt it lost is still being
/// noticed, so a busy number is waited for.
pub(super) async fn begin<'p, P: Ports>(
    ports: &'p P,
    bucket: BucketName,
    key: ObjectKey,
    asked: &UploadPart,
    size: u64,
) -> Result<Attempt<'p, P>, Trouble> {
    let since = ports.clock().tick();
    loop {
        let incarnation = ports.incarnation();
        let begin = BeginPart {
            incarnation,
            bucket: bucket.clone(),
            key: key.clone(),
            upload: asked.upload.clone(),
            number: asked.number,
            size,
            nonce: Nonce::from_roll(ports.dice().roll()),
        };
        match ports.meta().step(begin).await? {
            Ok(PartBegun { upload, nonce }) => {
                let part = asked.clone();
                return Ok(Attempt {
                    ports,
                    incarnation,
                    upload,
                    part,
                    nonce,
                    size,
                    may_have_replaced: false,
                    held: ports.held().hold(Own::Part(nonce)),
                    ended: false,
                });
            }
            Err(refusal @ (Refusal::Busy | Refusal::NoSpaceYet)) if ports.clock().tick().since(since) < WAIT_MAX => {
                if refusal == Refusal::NoSpaceYet {
                    ports.wake(Worker::Cleanup);
                }
                ports.clock().sleep(WAIT_STEP).await;
            }
            Err(refusal) => return Err(refusal.into()),
        }
    }
}

async fn store<P: Ports, X: Exchange<P>>(
    ports: &P,
    attempt: &mut Attempt<'_, P>,
    declared: Declared,
    exchange: &mut X,
) -> Result<PartRecord, Trouble> {
    let wanted_algorithm = attempt.upload.checksum_algorithm.as_deref().and_then(Algorithm::parse);
    check_kind(wanted_algorithm, &declared)?;
    let backend = placing::index_of(ports, &attempt.upload.blob.backend);
    if backend == usize::MAX {
        return Err(ErrorCode::ServiceUnavailable.into());
    }
    // A bad part must not replace a good one, so a declared MD5 is not left to be compared afterwards.
    let help = placing::help_of(ports, backend);
    let help = Help {
        tells_md5: help.tells_md5 && declared.content_md5.is_none(),
        // An upload takes no checksum that it was not created for.
        verifies_checksums: Algorithms::NONE,
        ..help
    };
    let mut check = BodyCheck::new(declared, md5().and(wanted_algorithm), help);
    let put = Put {
        incarnation: attempt.incarnation,
        blob: &attempt.upload.blob,
        target: PutTarget::Part {
            backend_upload: &attempt.upload.backend_upload,
            number: attempt.part.number,
            nonce: attempt.nonce.as_str(),
        },
        size: attempt.size,
        payload: placing::upstream_payload(ports, backend, check.declared_sha256(), None),
        checksum: None,
    };
    let sink = ports.create(put).await.map_err(trouble_of_backend)?;
    exchange.note_backend(backend);
    attempt.may_have_replaced = true;
    let mut sinks = [sink];
    let moved = exchange.receive_into(&mut sinks, &mut check).await;
    let [sink] = sinks;
    let (may_be_whole, trouble) = match moved.end {
        MoveEnd::Done => (true, None),
        // The last bytes were withheld.
        MoveEnd::Refused(error) => (false, Some(Trouble::from(error))),
        MoveEnd::Source(failure) => (moved.bytes >= attempt.size, Some(Trouble::from(failure))),
        MoveEnd::Sink(failure) => (may_be_whole(moved.bytes, attempt.size), Some(Trouble::from(failure))),
    };
    attempt.may_have_replaced = may_be_whole;
    if let Some(trouble) = trouble {
        ports.discard(sink).await;
        return Err(trouble);
    }
    let stored = match ports.finish(sink).await {
        Ok(stored) => stored,
        Err(failure) => {
            attempt.may_have_replaced = !was_answered(&failure);
            return Err(match trouble_of_refused_body(&check, failure) {
                Trouble::Failed(failure) => trouble_of_backend(failure),
                other => other,
            });
        }
    };
    let etag = etag_of(&check, &stored)?;
    let computed = wanted_algorithm.and_then(|algorithm| check.found(algorithm));
    let checksums = check.sent_checksum().or(computed).as_ref().map(stored_checksum).into_iter().collect();
    let backend_etag = if stored.etag == etag { String::new() } else { stored.etag };
    let modified_ms = ports.clock().now().millis;
    Ok(PartRecord { number: attempt.part.number.get(), size: attempt.size, etag, backend_etag, checksums, modified_ms })
}

/// A part may come without the upload's checksum, which is then computed here, but not with another one.
fn check_kind(wanted: Option<Algorithm>, declared: &Declared) -> Result<(), S3Error> {
    let sent = declared.trailer.or(declared.checksum.map(|checksum| checksum.algorithm()));
    match (wanted, sent) {
        (Some(wanted), Some(sent)) if wanted != sent => {
            let (wanted, sent) = (wanted.name().to_ascii_lowercase(), sent.name().to_ascii_lowercase());
            let message = format!(
                "Checksum Type mismatch occurred, expected checksum Type: {wanted}, actual checksum Type: {sent}"
            );
            Err(S3Error::new(ErrorCode::InvalidRequest, message))
        }
        _ => Ok(()),
    }
}

/// A backend that does not know its upload any more has lost the parts: the client must begin anew.
pub(super) fn trouble_of_backend(failure: Failure) -> Trouble {
    if failure.kind == Kind::NotFound { ErrorCode::NoSuchUpload.into() } else { failure.into() }
}
