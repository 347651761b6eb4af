//! PutObject (DESIGN.md, "The story of a PUT").
//!
//! A small body is received whole, so that a backend that fails is replaced by another. A large one streams: a backend is
//! replaced only as long as nothing of the body was taken; after that the client is told to try again.

use super::object_headers::{condition_of, record_of, stored_checksum, write_checksums, write_etag};
use super::placing;
use super::ports::{Exchange, Ports, Worker};
use super::request::Request;
use super::reservation::{Reservation, Write};
use super::trouble::Trouble;
use crate::backend::port::{MoveEnd, Put, PutTarget, Stored};
use crate::backend::travel::Luggage;
use crate::base::failure::Kind;
use crate::base::limits::REPLAY_BYTES_MAX;
use crate::base::{Failure, ObjectKey};
use crate::proto::body_check::{BodyCheck, Help};
use crate::proto::body_error::BodyError;
use crate::proto::checksum::{Algorithm, Algorithms, Declared};
use crate::proto::error_code::{ErrorCode, S3Error};
use crate::proto::etag::ETag;
use crate::store::port::{CommitWrite, Committed, Metadata, Written};
use crate::store::record::ObjectRecord;

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
) -> Result<(), Trouble> {
    let (etag, record) = store(ports, request, exchange).await?;
    let head = exchange.head();
    write_etag(head, &etag);
    write_checksums(head, &record.checksums);
    exchange.respond(b"").await.map_err(|_| Trouble::Cut)
}

/// Writes the request's body as a new version of its object: ETag and record.
pub async fn store<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
) -> Result<(String, ObjectRecord), Trouble> {
    let (mut write, declared, record) = understand(ports, request)?;
    let (reservation, stored) = if write.size <= REPLAY_BYTES_MAX {
        put_in_hand(ports, &mut write, declared, record, exchange).await?
    } else {
        put_streamed(ports, &mut write, declared, record, exchange).await?
    };
    commit(ports, write, reservation, stored).await
}

/// Everything that can be refused before anything was reserved.
fn understand<P: Ports>(ports: &P, request: &Request<'_>) -> Result<(Write, Declared, ObjectRecord), Trouble> {
    let size = request.object_length()?;
    if size > ports.view().server.max_object_size_bytes {
        return Err(ErrorCode::EntityTooLarge.into());
    }
    let declared = Declared::parse(&request.head.headers, request.payload)?;
    let record = record_of(request.head)?;
    let bucket = request.home()?.name.clone();
    let key = ObjectKey::parse(request.key()).ok_or(ErrorCode::KeyTooLongError)?;
    let candidates = placing::candidates(ports, bucket.as_str(), key.as_str(), size);
    let condition = condition_of(request.head)?;
    Ok((Write { bucket, key, size, condition, candidates }, declared, record))
}

/// What a backend acknowledged, and what the pass over the body found.
struct Acknowledged {
    stored: Stored,
    check: BodyCheck,
    record: ObjectRecord,
}

async fn put_in_hand<'p, P: Ports, X: Exchange<P>>(
    ports: &'p P,
    write: &mut Write,
    declared: Declared,
    mut record: ObjectRecord,
    exchange: &mut X,
) -> Result<(Reservation<'p, P>, Acknowledged), Trouble> {
    let mut reservation = write.begin(ports, None).await?;
    let first = reservation.backend;
    // A checksum over a body in hand is nearly free.
    let help = Help { verifies_checksums: Algorithms::NONE, ..placing::help_of(ports, first) };
    let mut check = BodyCheck::new(declared, md5(), help);
    reservation.because("the body was refused");
    exchange.receive(write.size as usize, &mut check).await?;
    record.checksums.extend(check.sent_checksum().as_ref().map(stored_checksum));
    loop {
        let backend = reservation.backend;
        reservation.body_leaves();
        let body = exchange.received();
        let put = Put {
            incarnation: reservation.incarnation,
            blob: &reservation.blob,
            target: PutTarget::Object(Luggage { key: write.key.as_str(), record: &record }),
            size: write.size,
            payload: placing::upstream_payload(ports, backend, check.declared_sha256(), Some(body)),
            checksum: None,
        };
        let failure = match ports.put_bytes(put, body).await {
            Ok(stored) => {
                reservation.cannot_appear("the write was not committed");
                if told_md5(&stored).is_none() {
                    check.finish_alone(body, md5())?;
                }
                exchange.note_backend(backend);
                if backend != first {
                    ports.cells().write_failover(first, backend).inc();
                }
                return Ok((reservation, Acknowledged { stored, check, record }));
            }
            Err(failure) => failure,
        };
        tracing::debug!(backend = reservation.blob.backend.as_str(), %failure, "a backend did not take a body");
        if was_answered(&failure) {
            reservation.cannot_appear("the backend refused the body");
        }
        // The body is in hand: what was left to the backend is checked here, before another one gets it.
        check.finish_alone(exchange.received(), md5())?;
        reservation = write.begin(ports, Some((reservation, failure))).await?;
    }
}

async fn put_streamed<'p, P: Ports, X: Exchange<P>>(
    ports: &'p P,
    write: &mut Write,
    declared: Declared,
    mut record: ObjectRecord,
    exchange: &mut X,
) -> Result<(Reservation<'p, P>, Acknowledged), Trouble> {
    let mut reservation = write.begin(ports, None).await?;
    let first = reservation.backend;
    let (mut sink, mut check) = loop {
        let backend = reservation.backend;
        let check = BodyCheck::new(declared, md5(), placing::help_of(ports, backend));
        let left = check.left_to_backend().map(|one| (one.algorithm().header(), one.to_base64()));
        let put = Put {
            incarnation: reservation.incarnation,
            blob: &reservation.blob,
            target: PutTarget::Object(Luggage { key: write.key.as_str(), record: &record }),
            size: write.size,
            payload: placing::upstream_payload(ports, backend, check.declared_sha256(), None),
            checksum: left.as_ref().map(|(name, value)| (*name, value.as_str())),
        };
        match ports.create(put).await {
            Ok(sink) => break ([sink], check),
            Err(failure) => reservation = write.begin(ports, Some((reservation, failure))).await?,
        }
    };
    let backend = reservation.backend;
    exchange.note_backend(backend);
    reservation.body_leaves();
    let moved = exchange.receive_into(&mut sink, &mut check).await;
    let [sink] = sink;
    let trouble = match moved.end {
        MoveEnd::Done => None,
        // The last bytes were withheld.
        MoveEnd::Refused(error) => {
            reservation.cannot_appear("the body was refused");
            Some(Trouble::from(error))
        }
        MoveEnd::Source(failure) => {
            reservation.source_broke_off(moved.bytes, write.size, "the body broke off");
            Some(Trouble::from(failure))
        }
        MoveEnd::Sink(failure) => {
            reservation.broke_off(moved.bytes, write.size, "the backend broke off");
            Some(Trouble::from(failure))
        }
    };
    if let Some(trouble) = trouble {
        ports.discard(sink).await;
        return Err(trouble);
    }
    let stored = match ports.finish(sink).await {
        Ok(stored) => stored,
        Err(failure) => {
            reservation.because("the backend did not acknowledge the body");
            if was_answered(&failure) {
                reservation.cannot_appear("the backend refused the body");
            }
            return Err(trouble_of_refused_body(&check, failure));
        }
    };
    reservation.cannot_appear("the write was not committed");
    if backend != first {
        ports.cells().write_failover(first, backend).inc();
    }
    record.checksums.extend(check.sent_checksum().as_ref().map(stored_checksum));
    Ok((reservation, Acknowledged { stored, check, record }))
}

/// Makes the version live. The answer's ETag and record.
async fn commit<'p, P: Ports>(
    ports: &'p P,
    write: Write,
    mut reservation: Reservation<'p, P>,
    acknowledged: Acknowledged,
) -> Result<(String, ObjectRecord), Trouble> {
    let Acknowledged { stored, check, record } = acknowledged;
    reservation.because("the body was refused");
    let etag = etag_of(&check, &stored)?;
    reservation.because("the commit was not answered");
    let commit = CommitWrite {
        incarnation: reservation.incarnation,
        bucket: write.bucket,
        key: write.key,
        blobs: vec![Written { blob: reservation.blob.id, version_id: stored.version_id }],
        etag: etag.clone(),
        record: record.clone(),
        condition: write.condition,
    };
    let outcome = ports.meta().step(commit).await?;
    reservation.ended();
    match outcome? {
        Committed::Live { .. } if ports.registry().replication.factor > 1 => ports.wake(Worker::Replicate),
        Committed::Live { .. } | Committed::Overwritten { .. } => {}
    }
    Ok((etag, record))
}

/// The body's MD5, from whoever knows it. BadDigest if the backend's is not the declared one.
pub fn etag_of(check: &BodyCheck, stored: &Stored) -> Result<String, Trouble> {
    if let Some(md5) = check.md5() {
        return Ok(ETag::of_md5(md5).to_string());
    }
    let told = told_md5(stored).ok_or_else(|| Failure::backend("a backend measured to tell the MD5 told none"))?;
    if check.declared_md5().is_some_and(|declared| declared != told) {
        let message = "The Content-MD5 you specified did not match what we received.";
        return Err(S3Error::new(ErrorCode::BadDigest, message).into());
    }
    Ok(ETag::of_md5(told).to_string())
}

fn told_md5(stored: &Stored) -> Option<[u8; 16]> {
    ETag::parse(&stored.etag).and_then(|etag| etag.md5())
}

pub fn md5() -> Algorithms {
    Algorithms::NONE.with(Algorithm::Md5)
}

/// Whether the failure is the backend's own word that it has not kept the body.
pub fn was_answered(failure: &Failure) -> bool {
    matches!(failure.kind, Kind::Refused | Kind::NoSpace | Kind::NotFound | Kind::Corrupt)
}

/// A backend that was left to verify the client's hash calls a body corrupt: then the client is wrong.
pub fn trouble_of_refused_body(check: &BodyCheck, failure: Failure) -> Trouble {
    let left_to_it = check.declared_sha256().is_some() && check.found(Algorithm::Sha256).is_none();
    if failure.kind != Kind::Corrupt {
        return failure.into();
    }
    match check.left_to_backend() {
        // Both may have been left to it: S3 calls a wrong hash by a name of its own.
        Some(checksum) if !(left_to_it && failure.cause.contains("SHA256")) => {
            S3Error::from(BodyError::ChecksumMismatch(checksum.algorithm())).into()
        }
        _ if left_to_it => ErrorCode::XAmzContentSHA256Mismatch.into(),
        _ => failure.into(),
    }
}
