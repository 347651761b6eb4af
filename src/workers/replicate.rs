//! Makes the copies that a version lacks: a plain replicator (`replication.factor`), one pass over all versions, page by
//! page. It runs at start, at an interval, and when a write wakes it.
//!
//! A copy is begun and committed like a write (PROTOCOL.md, "Copies of a version"): its row is there before its bytes, and
//! it becomes live only if its version still is.

use crate::backend::port::{MoveEnd, Put, PutTarget, Span};
use crate::backend::travel::Luggage;
use crate::base::failure::Kind;
use crate::base::{BackendName, Blame, BucketName, Clock, Dice, Failure, Nonce, ObjectKey, Retry};
use crate::config::checked::Replication;
use crate::handlers::ports::Ports;
use crate::handlers::reservation::Reservation;
use crate::handlers::{concurrent, placing};
use crate::observe::circuit::Circuit;
use crate::proto::body_check::BodyCheck;
use crate::proto::etag::ETag;
use crate::store::port::{Answer, BeginCopy, CommitCopy, Metadata, Query, Refusal, Written};
use crate::store::record::{BlobAt, Located};

/// What a pass did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    pub copied: u64,
    /// Versions that still lack a copy: `s3o_replication_pending`. No room, no backend left, or an error.
    pub pending: u64,
}

/// How a version's copying ended.
enum Ended {
    Enough,
    /// Overwritten or deleted meanwhile.
    Gone,
    StillLacking,
}

pub async fn pass<P: Ports>(ports: &P) -> Result<Report, Failure> {
    let counted = counted(ports);
    let factor = ports.registry().replication.factor.min(counted.len() as u32);
    let mut report = Report::default();
    if factor < 2 {
        return Ok(report);
    }
    let Replication { batch_size: max, concurrency, .. } = ports.registry().replication;
    let mut after = None;
    loop {
        let query = Query::UnderReplicated { factor, counted: counted.clone(), after, max };
        let Answer::UnderReplicated { found, next } = ports.meta().query(query).await? else {
            return Err(Failure::ourselves("a query was answered with another's answer"));
        };
        let work = found.iter().map(|(bucket, key, located)| complete(ports, bucket, key, located, &counted, factor));
        concurrent::each(concurrency, work, |_, (copied, ended)| {
            report.copied += copied;
            report.pending += u64::from(matches!(ended, Ended::StillLacking));
        })
        .await;
        match next {
            Some(next) => after = Some(next),
            None => return Ok(report),
        }
    }
}

/// Backends whose copies count: those that are not being emptied. One that is away for a while still holds its bytes; one
/// that is away for `replication.unhealthy_threshold` counts as lost.
fn counted<P: Ports>(ports: &P) -> Vec<BackendName> {
    let (now, threshold) = (ports.clock().tick(), ports.registry().replication.unhealthy_threshold);
    let lost = |circuit: &Circuit| !circuit.is_closed() && circuit.degraded(now) >= threshold;
    let counts = |index: usize| !ports.standing().draining(index) && !ports.standing().circuit(index).is_some_and(lost);
    named(ports, counts)
}

/// Backends whose copies may be relied on when another one is removed: they are not being emptied, and answer.
pub(super) fn reliable<P: Ports>(ports: &P) -> Vec<BackendName> {
    named(ports, |index| !ports.standing().draining(index) && ports.standing().usable(index))
}

fn named<P: Ports>(ports: &P, wanted: impl Fn(usize) -> bool) -> Vec<BackendName> {
    let backends = ports.view().backends.iter().enumerate();
    backends.filter(|(index, _)| wanted(*index)).map(|(_, backend)| backend.name.clone()).collect()
}

async fn complete<P: Ports>(
    ports: &P,
    bucket: &BucketName,
    key: &ObjectKey,
    located: &Located,
    counted: &[BackendName],
    factor: u32,
) -> (u64, Ended) {
    let held = located.blobs.iter().filter(|blob| counted.contains(&blob.backend)).count() as u32;
    let mut copied = 0;
    for _ in held..factor {
        match copy_once(ports, bucket, key, located).await {
            Ok(true) => copied += 1,
            Ok(false) => return (copied, Ended::Gone),
            Err(failure) => {
                ports.cells().replication_errors.inc();
                tracing::debug!(bucket = bucket.as_str(), key = key.as_str(), %failure, "a copy was not made");
                return (copied, Ended::StillLacking);
            }
        }
    }
    (copied, Ended::Enough)
}

/// One more copy, from the first source that gives the whole of it, of those that answered when they were last asked, or
/// were not asked for a while. False: the version is gone.
pub(super) async fn copy_once<P: Ports>(
    ports: &P,
    bucket: &BucketName,
    key: &ObjectKey,
    located: &Located,
) -> Result<bool, Failure> {
    let mut last = Failure::backend("no source is on a backend that is configured");
    for position in placing::read_order(ports, &located.blobs).iter() {
        let from = &located.blobs[position];
        if !ports.health().is_good(placing::index_of(ports, &from.backend), ports.clock().tick()) {
            // It is found again. To wait for each object of one that does not answer would hold up those of all others.
            last = Failure::backend(format!("backend {} has just not answered", from.backend.as_str()));
            continue;
        }
        match copy_from(ports, bucket, key, located, from).await {
            Ok(live) => return Ok(live),
            Err((failure, true)) => last = failure,
            Err((failure, false)) => return Err(failure),
        }
    }
    Err(last)
}

/// The flag of an error says whether another source may do better.
async fn copy_from<P: Ports>(
    ports: &P,
    bucket: &BucketName,
    key: &ObjectKey,
    located: &Located,
    from: &BlobAt,
) -> Result<bool, (Failure, bool)> {
    let mut candidates = placing::candidates(ports, bucket.as_str(), key.as_str(), located.size);
    let holds_one = |backend: &BackendName| located.blobs.iter().any(|blob| blob.backend == *backend);
    candidates.retain(|one| !holds_one(&one.backend) && placing::may_fit(ports, &one.backend, located.size));
    if candidates.is_empty() {
        // Without asking a source for what has no place to go.
        return Err((no_room(Refusal::NoSpace), false));
    }
    let whole = Span { from: 0, len: located.size };
    let source = ports.open(from, located.size, whole).await.map_err(|failure| (failure, true))?;
    let incarnation = ports.incarnation();
    let begin = BeginCopy {
        incarnation,
        bucket: bucket.clone(),
        key: key.clone(),
        version: located.version,
        candidates,
        nonce: Nonce::from_roll(ports.dice().roll()),
    };
    let mut reservation = match ports.meta().step(begin).await.map_err(|failure| (failure, false))? {
        Ok(begun) => Reservation::new(ports, incarnation, begun),
        Err(Refusal::Lost) => return Ok(false),
        Err(refusal) => return Err((no_room(refusal), false)),
    };
    let put = Put {
        incarnation,
        blob: &reservation.blob,
        target: PutTarget::Object(Luggage { key: key.as_str(), record: &located.record }),
        size: located.size,
        payload: placing::upstream_payload(ports, reservation.backend, None, None),
        checksum: None,
    };
    let mut sink = ports.create(put).await.map_err(|failure| (failure, false))?;
    reservation.body_leaves();
    let moved = ports.copy(source, &mut sink, &mut BodyCheck::unseen()).await;
    match moved.end {
        MoveEnd::Done => {}
        MoveEnd::Source(failure) => {
            reservation.source_broke_off(moved.bytes, located.size, "the source of the copy broke off");
            ports.discard(sink).await;
            return Err((failure, true));
        }
        MoveEnd::Sink(failure) => {
            reservation.broke_off(moved.bytes, located.size, "the target of the copy broke off");
            ports.discard(sink).await;
            return Err((failure, false));
        }
        MoveEnd::Refused(_) => return Err((Failure::ourselves("a copy was refused by its own body check"), false)),
    }
    reservation.because("the target did not acknowledge the copy");
    let stored = ports.finish(sink).await.map_err(|failure| (failure, false))?;
    reservation.cannot_appear("the copy was not committed");
    let told = ETag::parse(&stored.etag).and_then(|etag| etag.md5());
    let known = ETag::parse(&located.etag).and_then(|etag| etag.md5());
    if placing::help_of(ports, reservation.backend).tells_md5 && known.is_some() && told != known {
        let failure = Failure::new(Kind::Corrupt, Blame::Backend, Retry::OtherBackend, "the copy has another MD5");
        return Err((failure, true));
    }
    let commit = CommitCopy {
        incarnation,
        bucket: bucket.clone(),
        key: key.clone(),
        written: Written { blob: reservation.blob.id, version_id: stored.version_id },
    };
    let outcome = ports.meta().step(commit).await.map_err(|failure| (failure, false))?;
    reservation.ended();
    let live = outcome.is_ok();
    if live {
        ports.cells().replication_copies_created.inc();
    }
    Ok(live)
}

fn no_room(refusal: Refusal) -> Failure {
    let cause = format!("no backend takes another copy: {refusal:?}");
    Failure::new(Kind::NoSpace, Blame::Backend, Retry::Never, cause)
}
