//! CopyObject: a new version of the target whose bytes come from the source: copied by the backend itself where both are on
//! one that can, streamed from backend to backend otherwise.
//!
//! The target is reserved and committed as in a PutObject. A source that breaks off is read again from another copy, a target
//! that fails is replaced by another backend: no client has to send anything twice.

use super::copy_source::{CopySource, NotCopied, check_size, from_copies, within};
use super::object_headers::{condition_of, record_of, stored_checksum};
use super::placing;
use super::ports::{Exchange, Ports, Worker};
use super::put_object::{etag_of, md5, was_answered};
use super::request::Request;
use super::reservation::{Reservation, Write};
use super::scratch::Scratch;
use super::trouble::Trouble;
use crate::backend::port::{MoveEnd, Put, PutTarget, Span, Stored, UpstreamPayload};
use crate::backend::travel::Luggage;
use crate::base::failure::Kind;
use crate::base::{Blame, Clock, Failure, ObjectKey, Retry, Timestamp};
use crate::proto::body_check::BodyCheck;
use crate::proto::checksum::{Algorithm, Algorithms, Declared};
use crate::proto::error_code::{ErrorCode, S3Error};
use crate::proto::etag::ETag;
use crate::proto::http1::RequestHead;
use crate::proto::xml;
use crate::store::port::{Candidate, CommitWrite, Committed, Metadata, Written};
use crate::store::record::{BlobAt, Located, ObjectRecord};

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
) -> Result<(), Trouble> {
    let source = CopySource::of(request.head)?;
    let directives = Directives::of(request.head)?;
    source.admit(ports, request)?;
    let work = source.copy(ports, request, &mut scratch.located, async |located| {
        directives.check_self_copy(&source, request).map_err(Trouble::from)?;
        check_size(located.size).map_err(Trouble::from)?;
        copy(ports, request, located, Plan::of(located, &directives)).await
    });
    let Copied { etag, record, modified, backend } = exchange.patiently(work).await?;
    exchange.note_backend(backend);
    let checksum = record.checksums.first().map(|one| (one.algorithm.as_str(), one.value.as_str(), one.composite));
    scratch.body.clear();
    xml::write_copy_result(&mut scratch.body, "CopyObjectResult", modified, &etag, checksum);
    exchange.head().field("content-type", "application/xml");
    exchange.respond(&scratch.body).await.map_err(|_| Trouble::Cut)
}

/// What the request says of the copy.
struct Directives {
    /// Headers and metadata of the request in place of the source's.
    replaced: Option<ObjectRecord>,
    /// Tags of the request in place of the source's.
    tags: Option<Vec<(String, String)>>,
    algorithm: Option<Algorithm>,
    /// It asks for something that makes sense of a copy onto itself.
    changes: bool,
}

impl Directives {
    fn of(head: &RequestHead<'_>) -> Result<Self, S3Error> {
        let replaces_metadata = is_replace(head, "x-amz-metadata-directive", "Unknown metadata directive.")?;
        let replaces_tags = is_replace(head, "x-amz-tagging-directive", "Unknown tagging directive.")?;
        let mut record = record_of(head)?;
        let tags = std::mem::take(&mut record.tags);
        let algorithm = head.header_text("x-amz-checksum-algorithm")?.map(|name| {
            let known = Algorithm::parse(name).filter(|&one| one != Algorithm::Md5);
            let message = "Checksum algorithm provided is unsupported.";
            known.ok_or_else(|| S3Error::new(ErrorCode::InvalidRequest, message))
        });
        let algorithm = algorithm.transpose()?;
        Ok(Self {
            replaced: replaces_metadata.then_some(record),
            tags: replaces_tags.then_some(tags),
            algorithm,
            changes: replaces_metadata || algorithm.is_some() || head.header("x-amz-storage-class").is_some(),
        })
    }

    fn check_self_copy(&self, source: &CopySource, request: &Request<'_>) -> Result<(), S3Error> {
        if self.changes || !source.is_target(request) {
            return Ok(());
        }
        let message = "This copy request is illegal because it is trying to copy an object to itself without changing the \
                       object's metadata, storage class, website redirect location or encryption attributes.";
        Err(S3Error::new(ErrorCode::InvalidRequest, message))
    }
}

fn is_replace(head: &RequestHead<'_>, name: &str, unknown: &'static str) -> Result<bool, S3Error> {
    match head.header_text(name)? {
        None | Some("COPY") => Ok(false),
        Some("REPLACE") => Ok(true),
        Some(_) => Err(S3Error::new(ErrorCode::InvalidArgument, unknown)),
    }
}

/// What becomes of one version of the source.
struct Plan {
    record: ObjectRecord,
    /// The MD5 that the copy must have, if the source's ETag is one; otherwise it is found on the way.
    md5: Option<[u8; 16]>,
    /// The checksum to be found on the way.
    algorithm: Option<Algorithm>,
}

impl Plan {
    fn of(located: &Located, directives: &Directives) -> Self {
        let of_source = located.record.checksums.first();
        let wanted = directives.algorithm.or_else(|| of_source.and_then(|one| Algorithm::parse(&one.algorithm)));
        // Of a source in parts: the copy is one piece, and so is its checksum.
        let is_kept = |one: Algorithm| of_source.is_some_and(|known| known.algorithm == one.name() && !known.composite);
        let kept = wanted.is_some_and(is_kept);
        let tags = directives.tags.as_ref().unwrap_or(&located.record.tags).clone();
        let shown = directives.replaced.as_ref().unwrap_or(&located.record);
        let record = ObjectRecord {
            headers: shown.headers.clone(),
            user_metadata: shown.user_metadata.clone(),
            checksums: if kept { located.record.checksums.clone() } else { Vec::new() },
            tags,
            parts: 0,
        };
        let md5 = ETag::parse(&located.etag).and_then(|etag| etag.md5());
        Self { record, md5, algorithm: wanted.filter(|_| !kept) }
    }

    fn wanted(&self) -> Algorithms {
        let md5 = if self.md5.is_none() { md5() } else { Algorithms::NONE };
        md5.and(self.algorithm)
    }

    /// Whether nobody here has to see the bytes: the ETag is known or the backend tells it, and so is the checksum.
    fn is_blind<P: Ports>(&self, ports: &P, backend: usize) -> bool {
        self.algorithm.is_none() && (self.md5.is_some() || placing::help_of(ports, backend).tells_md5)
    }
}

/// A copy that has been committed.
struct Copied {
    etag: String,
    record: ObjectRecord,
    modified: Timestamp,
    backend: usize,
}

async fn copy<P: Ports>(ports: &P, request: &Request<'_>, located: &Located, plan: Plan) -> Result<Copied, NotCopied> {
    let refused = |code: ErrorCode| Trouble::from(code);
    let bucket = request.home().map_err(Trouble::from)?.name.clone();
    let key = ObjectKey::parse(request.key()).ok_or_else(|| refused(ErrorCode::KeyTooLongError))?;
    let condition = condition_of(request.head).map_err(Trouble::from)?;
    let mut candidates = placing::candidates(ports, bucket.as_str(), key.as_str(), located.size);
    // Where the source is, its bytes need not travel.
    candidates.sort_by_key(|candidate| {
        let backend = placing::index_of(ports, &candidate.backend);
        let is_good = ports.health().is_good(backend, ports.clock().tick());
        !(is_good && plan.is_blind(ports, backend) && within(ports, backend, located).is_some())
    });
    let mut write = Write { bucket, key, size: located.size, condition, candidates };
    let written =
        from_copies(ports, &located.blobs, async |from| copy_from(ports, &mut write, located, from, &plan).await);
    let written = written.await?;
    Ok(commit(ports, write, written, plan).await?)
}

/// A target that has the whole body.
struct WrittenTarget<'p, P: Ports> {
    reservation: Reservation<'p, P>,
    stored: Stored,
    check: BodyCheck,
}

/// Onto the first backend that takes it.
async fn copy_from<'p, P: Ports>(
    ports: &'p P,
    write: &mut Write,
    located: &Located,
    from: &BlobAt,
    plan: &Plan,
) -> Result<WrittenTarget<'p, P>, NotCopied> {
    let whole = Span { from: 0, len: located.size };
    let mut instead_of = None;
    let mut reserved = match copy_within(ports, write, located, plan).await? {
        Within::Done(written) => return Ok(written),
        Within::Elsewhere(reservation) => reservation,
    };
    loop {
        let source = ports.open(from, located.size, whole).await.map_err(NotCopied::source)?;
        let mut reservation = match reserved.take() {
            Some(reservation) => reservation,
            None => write.begin(ports, instead_of.take()).await?,
        };
        let backend = reservation.backend;
        let mut check = BodyCheck::new(Declared::default(), plan.wanted(), placing::help_of(ports, backend));
        let put = Put {
            incarnation: reservation.incarnation,
            blob: &reservation.blob,
            target: PutTarget::Object(Luggage { key: write.key.as_str(), record: &plan.record }),
            size: located.size,
            payload: placing::upstream_payload(ports, backend, None, None),
            checksum: None,
        };
        let mut sink = match ports.create(put).await {
            Ok(sink) => sink,
            Err(failure) => {
                instead_of = Some((reservation, failure));
                continue;
            }
        };
        reservation.body_leaves();
        let moved = ports.copy(source, &mut sink, &mut check).await;
        let failure = match moved.end {
            MoveEnd::Done => match ports.finish(sink).await {
                Ok(stored) => {
                    reservation.cannot_appear("the copy was not committed");
                    return Ok(WrittenTarget { reservation, stored, check });
                }
                Err(failure) => {
                    reservation.because("the target did not acknowledge the copy");
                    if was_answered(&failure) {
                        reservation.cannot_appear("the target refused the copy");
                    }
                    failure
                }
            },
            MoveEnd::Source(failure) => {
                reservation.source_broke_off(moved.bytes, located.size, "the source of the copy broke off");
                ports.discard(sink).await;
                return Err(NotCopied::source(failure));
            }
            MoveEnd::Sink(failure) => {
                reservation.broke_off(moved.bytes, located.size, "the target of the copy broke off");
                ports.discard(sink).await;
                failure
            }
            MoveEnd::Refused(error) => {
                ports.discard(sink).await;
                return Err(Trouble::from(error).into());
            }
        };
        tracing::debug!(backend = reservation.blob.backend.as_str(), %failure, "a backend did not take a copy");
        instead_of = Some((reservation, failure));
    }
}

/// What came of letting the backend copy.
enum Within<'p, P: Ports> {
    Done(WrittenTarget<'p, P>),
    /// The bytes have to be streamed; to this place, if one is reserved already.
    Elsewhere(Option<Reservation<'p, P>>),
}

/// Has the backend copy, if the first one with room holds the source and can.
async fn copy_within<'p, P: Ports>(
    ports: &'p P,
    write: &mut Write,
    located: &Located,
    plan: &Plan,
) -> Result<Within<'p, P>, Trouble> {
    let can = |candidate: &Candidate| {
        let backend = placing::index_of(ports, &candidate.backend);
        plan.is_blind(ports, backend) && within(ports, backend, located).is_some()
    };
    if !write.candidates.first().is_some_and(can) {
        return Ok(Within::Elsewhere(None));
    }
    let mut reservation = write.begin(ports, None).await?;
    let backend = reservation.backend;
    let Some(from) = within(ports, backend, located).filter(|_| plan.is_blind(ports, backend)) else {
        return Ok(Within::Elsewhere(Some(reservation)));
    };
    let blob = reservation.blob.clone();
    let put = Put {
        incarnation: reservation.incarnation,
        blob: &blob,
        target: PutTarget::Object(Luggage { key: write.key.as_str(), record: &plan.record }),
        size: located.size,
        payload: UpstreamPayload::Unsigned,
        checksum: None,
    };
    reservation.body_leaves();
    let done = ports.copy_within(from, located.size, Span { from: 0, len: located.size }, put).await;
    match done {
        Ok(stored) => {
            reservation.cannot_appear("the copy was not committed");
            Ok(Within::Done(WrittenTarget { reservation, stored, check: BodyCheck::unseen() }))
        }
        Err(failure) => {
            // Given up; its name is used no more, since the copy may still appear there.
            reservation.because("the backend did not copy within itself");
            if was_answered(&failure) {
                reservation.cannot_appear("the backend refused to copy within itself");
            }
            tracing::debug!(backend = reservation.blob.backend.as_str(), %failure, "a backend did not copy within itself");
            Ok(Within::Elsewhere(None))
        }
    }
}

/// Makes the version live.
async fn commit<P: Ports>(
    ports: &P,
    write: Write,
    written: WrittenTarget<'_, P>,
    plan: Plan,
) -> Result<Copied, Trouble> {
    let WrittenTarget { reservation, stored, check } = written;
    let etag = match plan.md5 {
        Some(known) => {
            let told = ETag::parse(&stored.etag).and_then(|etag| etag.md5());
            if placing::help_of(ports, reservation.backend).tells_md5 && told != Some(known) {
                let cause = "the copy has another MD5 than its source";
                return Err(Failure::new(Kind::Corrupt, Blame::Backend, Retry::OtherBackend, cause).into());
            }
            ETag::of_md5(known).to_string()
        }
        None => etag_of(&check, &stored)?,
    };
    let mut record = plan.record;
    record.checksums.extend(plan.algorithm.and_then(|one| check.found(one)).as_ref().map(stored_checksum));
    let commit = CommitWrite {
        incarnation: reservation.incarnation,
        bucket: write.bucket,
        key: write.key,
        blobs: vec![Written { blob: reservation.blob.id, version_id: stored.version_id }],
        etag: etag.clone(),
        record: record.clone(),
        condition: write.condition,
    };
    let backend = reservation.backend;
    let outcome = ports.meta().step(commit).await?;
    reservation.ended();
    let (Committed::Live { modified, .. } | Committed::Overwritten { modified, .. }) = outcome?;
    if ports.registry().replication.factor > 1 {
        ports.wake(Worker::Replicate);
    }
    Ok(Copied { etag, record, modified, backend })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::checksum::Digester;
    use crate::store::record::StoredChecksum;

    fn directives(fields: &str) -> Result<Directives, ErrorCode> {
        let bytes = format!("PUT /bkt/k HTTP/1.1\r\nhost: h\r\n{fields}\r\n");
        let head = RequestHead::parse(bytes.as_bytes(), &mut 0).expect("a good head").expect("a whole head");
        Directives::of(&head).map_err(|error| error.code)
    }

    fn source(etag: &str, composite: bool) -> Located {
        let pair = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        let checksum = StoredChecksum { algorithm: "CRC32".into(), value: "AAAAAA==".into(), composite };
        let record = ObjectRecord {
            headers: pair("content-type", "a/b"),
            user_metadata: pair("m", "1"),
            checksums: vec![checksum],
            tags: pair("t", "1"),
            parts: u16::from(composite) * 2,
        };
        Located { size: 100, etag: etag.to_owned(), record, ..Located::empty() }
    }

    const PLAIN: &str = "9bb58f26192e4ba00f01e2e7b136bbd8";
    const IN_PARTS: &str = "9bb58f26192e4ba00f01e2e7b136bbd8-2";

    #[test]
    fn directives_choose_what_is_kept() {
        let plan = |fields: &str| Plan::of(&source(PLAIN, false), &directives(fields).expect("well-formed")).record;
        let kept = plan("x-amz-meta-m: 2\r\ncontent-type: c/d\r\nx-amz-tagging: t=2\r\n");
        assert_eq!(kept, source(PLAIN, false).record, "COPY is the default, of both");
        let replaced = plan("x-amz-metadata-directive: REPLACE\r\nx-amz-meta-n: 2\r\nx-amz-tagging: t=2\r\n");
        assert_eq!((replaced.headers.len(), replaced.user_metadata[0].0.as_str()), (0, "n"));
        assert_eq!(replaced.tags, kept.tags);
        let tagged = plan("x-amz-tagging-directive: REPLACE\r\nx-amz-tagging: t=2\r\n");
        assert_eq!((&tagged.headers, tagged.tags[0].1.as_str()), (&kept.headers, "2"));
        assert_eq!(plan("x-amz-tagging-directive: REPLACE\r\n").tags, []);
        for fields in ["x-amz-metadata-directive: replace\r\n", "x-amz-tagging-directive: X\r\n"] {
            assert_eq!(directives(fields).err(), Some(ErrorCode::InvalidArgument), "{fields}");
        }
    }

    #[test]
    fn what_is_computed_on_the_way() {
        let crc = |one: Algorithm| Algorithms::NONE.with(one);
        for (located, fields, wanted, kept) in [
            (source(PLAIN, false), "", Algorithms::NONE, 1),
            (source(PLAIN, false), "x-amz-checksum-algorithm: crc32\r\n", Algorithms::NONE, 1),
            (source(PLAIN, false), "x-amz-checksum-algorithm: SHA256\r\n", crc(Algorithm::Sha256), 0),
            (source(IN_PARTS, true), "", crc(Algorithm::Crc32).and(md5().iter()), 0),
        ] {
            let plan = Plan::of(&located, &directives(fields).expect("well-formed"));
            assert_eq!((plan.wanted(), plan.record.checksums.len()), (wanted, kept), "{fields:?} of {}", located.etag);
            assert_eq!(plan.record.parts, 0);
        }
        assert_eq!(Digester::of(Algorithm::Crc32, b"").to_base64(), "AAAAAA==");
    }
}
