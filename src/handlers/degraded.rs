//! Reads without the database (PROTOCOL.md, "Answers without the database"): where the key was when this process last
//! heard of it; else what the backends list under its prefix, the newest version of it.
//!
//! Such an answer may be old, deleted or never acknowledged, and says so (`x-s3o-degraded`). Blobs that this process
//! knows to be uncommitted are passed over. "Not there" is only answered when every backend has said so.

use super::concurrent;
use super::ports::Ports;
use super::request::Request;
use super::scratch::Scratch;
use super::searched::Searched;
use super::selection::LOOKS_MAX;
use super::trouble::Trouble;
use crate::base::{BackendName, BlobId, Clock, Dice, Failure, Timestamp, Version, blob_name};
use crate::proto::checksum::{Algorithm, Digester};
use crate::proto::error_code::ErrorCode;
use crate::store::port::Metadata;
use crate::store::record::{BlobAt, Located};
use std::cell::RefCell;
use std::fmt::Write;

/// How a version was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// The database, or what is known to be what it would say.
    Exact,
    Remembered,
    Searched,
}

impl Found {
    /// The value of `x-s3o-degraded`, which every answer carries that was found so, that of "not there" included; None for an exact answer.
    pub fn degraded(self) -> Option<&'static str> {
        match self {
            Self::Exact => None,
            Self::Remembered => Some("remembered"),
            Self::Searched => Some("searched"),
        }
    }
}

/// Pages of one listing: a key that has more blobs than that on a backend is not found there, nor is it absent.
const PAGES_MAX: usize = 50;

/// The newest blob of a key on one backend.
struct Newest {
    backend: usize,
    version: Version,
    name: String,
}

/// Finds a version without the database, which has just failed with this. `again`: what was remembered has not led to a
/// copy. NoSuchKey; ServiceUnavailable while some backend does not answer and the others have nothing. Cancel: NOT safe.
pub async fn find<P: Ports>(
    ports: &P,
    request: &Request<'_>,
    scratch: &mut Scratch,
    failure: Failure,
    again: bool,
) -> Result<(), Trouble> {
    if !failure.is_of_database() || !ports.view().circuit_breaker.degraded_reads_enabled {
        return Err(failure.into());
    }
    tracing::debug!(request = request.id, %failure, "a read without the database");
    let cells = ports.cells();
    cells.degraded_reads.at(request.operation).inc();
    let (bucket, key) = (request.bucket(), request.key());
    if !again && ports.meta().recall(bucket, key, &mut scratch.located) {
        cells.degraded_cache_hits.inc();
        scratch.found = Found::Remembered;
        return Ok(());
    }
    let now = ports.clock().tick();
    let outage = outage_of(ports);
    if !again && let Some(known) = ports.searched().get(outage, bucket, key, now) {
        cells.degraded_cache_hits.inc();
        scratch.found = Found::Searched;
        scratch.located = known.ok_or(ErrorCode::NoSuchKey)?;
        return Ok(());
    }
    cells.degraded_cache_misses.inc();
    let found = search(ports, bucket, key).await?;
    if let Some(outage) = outage {
        let lasts = Searched::jittered(ports.view().circuit_breaker.cache_ttl, ports.dice().roll());
        ports.searched().put(outage, bucket, key, ports.clock().tick().after(lasts), found.clone());
    }
    scratch.found = Found::Searched;
    scratch.located = found.ok_or(ErrorCode::NoSuchKey)?;
    Ok(())
}

/// Which outage this is, for what is remembered of it; None while the breaker is closed, when nothing should be.
fn outage_of<P: Ports>(ports: &P) -> Option<(u64, u64)> {
    let database = ports.meta().database()?;
    (!database.circuit.is_closed()).then(|| database.age())
}

/// Looks until what was listed is still there when it is asked for.
async fn search<P: Ports>(ports: &P, bucket: &str, key: &str) -> Result<Option<Located>, Trouble> {
    for _ in 0..LOOKS_MAX {
        match look(ports, bucket, key).await? {
            Looked::Found(located) => return Ok(Some(*located)),
            Looked::Nowhere => return Ok(None),
            Looked::Vanished => {}
        }
    }
    Err(Failure::backend("blobs vanish while they are looked for").into())
}

/// What a look at the backends has found.
enum Looked {
    Found(Box<Located>),
    /// Every backend has said so.
    Nowhere,
    /// The newest was deleted between two questions, so that one below it may be the one.
    Vanished,
}

/// Asks the backends that are well, and the others only if those have nothing.
async fn look<P: Ports>(ports: &P, bucket: &str, key: &str) -> Result<Looked, Trouble> {
    let now = ports.clock().tick();
    let (well, unwell): (Vec<usize>, Vec<usize>) =
        (0..ports.view().backends.len()).partition(|&index| ports.health().is_good(index, now));
    let mut unanswered = None;
    for backends in [well, unwell] {
        let newest = newest_on(ports, bucket, key, &backends, &mut unanswered).await;
        match locate(ports, newest, &mut unanswered).await {
            Looked::Nowhere => {}
            found => return Ok(found),
        }
    }
    // Absent is what every backend has said, and nothing less.
    match unanswered {
        Some(failure) => Err(failure.into()),
        None if stands_under_a_name_of_others(ports, bucket, key).await? => {
            Err(Failure::metadata("whether what others put there was imported only the database knows").into())
        }
        None => Ok(Looked::Nowhere),
    }
}

/// Whether any backend holds something under the names that the key has where it was imported (workers/sync.rs): the search
/// does not find it, and nobody can say that it is not there.
async fn stands_under_a_name_of_others<P: Ports>(ports: &P, bucket: &str, key: &str) -> Result<bool, Failure> {
    let view = ports.view();
    let below_a_bucket = |name: &str| view.buckets.iter().any(|one| name.split('/').next() == Some(one.name.as_str()));
    let names = [Some(format!("{bucket}/{key}")), (!below_a_bucket(key)).then(|| key.to_owned())];
    let names = || names.iter().flatten().filter(|name| !name.starts_with(blob_name::OWN_PREFIX));
    let places = view.backends.iter().flat_map(|place| names().map(|name| (place.name.clone(), name.clone())));
    let blobs: Vec<BlobAt> = places.map(|(backend, name)| of_name(backend, name)).collect();
    let at_once = if view.circuit_breaker.parallel_broadcast { blobs.len() } else { 1 };
    let (mut found, mut failed) = (false, None);
    concurrent::each(at_once, blobs.iter().map(|blob| ports.head(blob)), |_, head| match head {
        Ok(head) => found |= head.is_some(),
        Err(failure) => failed = Some(failure),
    })
    .await;
    failed.map_or(Ok(found), Err)
}

/// One blob per backend that has any, those of the newest version first.
async fn newest_on<P: Ports>(
    ports: &P,
    bucket: &str,
    key: &str,
    backends: &[usize],
    unanswered: &mut Option<Failure>,
) -> Vec<Newest> {
    let at_once = if ports.view().circuit_breaker.parallel_broadcast { backends.len() } else { 1 };
    let newest = RefCell::new(Vec::new());
    let listings = backends.iter().map(|&backend| list(ports, bucket, key, backend));
    concurrent::each(at_once, listings, |_, listed| match listed {
        Ok(Listed { newest: found, passed_over }) => {
            newest.borrow_mut().extend(found);
            if passed_over {
                *unanswered = Some(Failure::metadata("a write of this key is not known to be committed"));
            }
        }
        Err(failure) => {
            tracing::debug!(%failure, "a backend was not searched");
            *unanswered = Some(failure);
        }
    })
    .await;
    let mut newest = newest.into_inner();
    newest.sort_by(|a, b| b.version.cmp(&a.version).then(a.backend.cmp(&b.backend)));
    newest
}

struct Listed {
    newest: Option<Newest>,
    /// There is one that this process knows to be uncommitted, as far as it heard: without another, nobody can say that
    /// the key is not there.
    passed_over: bool,
}

async fn list<P: Ports>(ports: &P, bucket: &str, key: &str, backend: usize) -> Result<Listed, Failure> {
    let place = &ports.view().backends[backend];
    let literal = blob_name::can_be_literal(bucket, key, place.max_key_bytes);
    // Every version begins with a 0, and nothing else that follows a stem does.
    let prefix = blob_name::stem(bucket, key, literal) + "0";
    let (mut newest, mut passed_over): (Option<Newest>, bool) = (None, false);
    let mut after = String::new();
    for _ in 0..PAGES_MAX {
        let page = ports.list(&place.name, &prefix, &after).await?;
        for (name, _) in page.blobs {
            let Some(version) = blob_name::version_of(&name) else { continue };
            if newest.as_ref().is_some_and(|one| version < one.version) {
                continue;
            }
            if ports.meta().database().is_some_and(|database| database.is_uncommitted(&name)) {
                passed_over = true;
            } else {
                newest = Some(Newest { backend, version, name });
            }
        }
        match page.next {
            Some(next) => after = next,
            None => return Ok(Listed { newest, passed_over }),
        }
    }
    Err(Failure::backend(format!("{} has more blobs of one key than are looked through", place.name.as_str())))
}

/// The newest version of which a backend still tells; its other copies go with it.
async fn locate<P: Ports>(ports: &P, newest: Vec<Newest>, unanswered: &mut Option<Failure>) -> Looked {
    for one in &newest {
        let blob = blob_at(ports, one);
        let head = match ports.head(&blob).await {
            Ok(Some(head)) => head,
            Ok(None) => return Looked::Vanished,
            Err(failure) => {
                *unanswered = Some(failure);
                continue;
            }
        };
        let etag = if head.etag.is_empty() { etag_of(one.version) } else { head.etag };
        let others = newest.iter().filter(|other| other.version == one.version && other.backend != one.backend);
        return Looked::Found(Box::new(Located {
            version: one.version,
            size: head.size,
            etag,
            modified: Timestamp { millis: one.version.millis() as i64 },
            record: head.record,
            blobs: std::iter::once(blob).chain(others.map(|other| blob_at(ports, other))).collect(),
        }));
    }
    Looked::Nowhere
}

fn blob_at<P: Ports>(ports: &P, one: &Newest) -> BlobAt {
    of_name(ports.view().backends[one.backend].name.clone(), one.name.clone())
}

fn of_name(backend: BackendName, name: String) -> BlobAt {
    BlobAt { id: BlobId(0), backend, name, foreign_etag: String::new(), version_id: String::new() }
}

/// Where a backend tells none: one per version, in the form that nobody takes for the MD5 of the body.
fn etag_of(version: Version) -> String {
    let digest = Digester::of(Algorithm::Sha256, version.as_str().as_bytes());
    let mut etag = String::with_capacity(34);
    for byte in &digest.as_bytes()[..16] {
        write!(etag, "{byte:02x}").expect("writing to a string");
    }
    etag + "-1"
}
