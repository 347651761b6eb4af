//! What is known of backends when a blob is placed or read: from the view, the board, the standing and this core's health
//! into the plain facts that `policy/` ranks.

use super::ports::Ports;
use crate::backend::budget::Spend;
use crate::backend::port::UpstreamPayload;
use crate::base::failure::Kind;
use crate::base::{BackendName, Blame, Clock, Failure, Retry};
use crate::config::checked::{Backend, PayloadSigning, Place};
use crate::policy::placement::{self, BackendFacts};
use crate::policy::read_order::{self, CopyFacts, ReadOrder};
use crate::policy::usage::BackendCall;
use crate::proto::body_check::Help;
use crate::proto::checksum::{Algorithm, Algorithms, Digester};
use crate::store::port::Candidate;
use crate::store::record::BlobAt;
use std::cmp::Reverse;

/// Copies of one version that are looked at; the best eight of them are tried.
const COPIES_LOOKED_AT: usize = 16;

/// Where the view has this backend; `usize::MAX`, which no table holds, if it has not.
pub fn index_of<P: Ports>(ports: &P, backend: &BackendName) -> usize {
    ports.view().backend_index(backend).unwrap_or(usize::MAX)
}

/// Backends that may take a blob of this size, best first. Empty if none may. One whose monthly budget has no room for it is
/// none of them; whether it has is decided when the bytes go.
pub fn candidates<P: Ports>(ports: &P, bucket: &str, key: &str, size: u64) -> Vec<Candidate> {
    let view = ports.view();
    let facts: Vec<BackendFacts> = (0..view.backends.len()).map(|index| placement_facts(ports, index, size)).collect();
    placement::rank(view.routing_strategy, bucket, key, size, &facts)
        .into_iter()
        .map(|choice| Candidate { backend: view.backends[choice.backend].name.clone(), literal: choice.literal })
        .collect()
}

fn placement_facts<P: Ports>(ports: &P, index: usize, size: u64) -> BackendFacts {
    let (view, standing) = (ports.view(), ports.standing());
    let backend = &view.backends[index];
    let spend = Spend { ingress: size, ..Spend::call(BackendCall::Put) };
    BackendFacts {
        used_bytes: ports.board().charged_bytes(index),
        limit_bytes: ports.board().limit_bytes(index),
        // A backend whose marker was not seen takes nothing, like one that is being emptied.
        draining: standing.draining(index) || !standing.usable(index),
        affordable: ports.budgets().has_room(index, &spend),
        healthy: ports.health().is_good(index, ports.clock().tick()),
        max_object_bytes: backend.max_object_size_bytes,
        max_key_bytes: backend.max_key_bytes,
    }
}

/// For what grows after it was placed: those with `ample` bytes of room, or half as much as the roomiest, come first in the order
/// they had, then the others by how much they have; one that has had failures comes last all the same. By what was charged at
/// the last batch.
pub fn prefer_room<P: Ports>(ports: &P, candidates: &mut [Candidate], ample: u64) {
    let now = ports.clock().tick();
    let room = |candidate: &Candidate| {
        let index = index_of(ports, &candidate.backend);
        match ports.board().limit_bytes(index) {
            0 => u64::MAX,
            limit => limit.saturating_sub(ports.board().charged_bytes(index)),
        }
    };
    let enough = ample.min(candidates.iter().map(room).max().unwrap_or(0) / 2);
    candidates.sort_by_key(|candidate| {
        let is_good = ports.health().is_good(index_of(ports, &candidate.backend), now);
        (!is_good, Reverse(room(candidate).min(enough)))
    });
}

/// Whether a blob of this size seems to fit, by what was charged at the last batch. Only the store's transaction decides.
pub fn may_fit<P: Ports>(ports: &P, backend: &BackendName, size: u64) -> bool {
    ports.view().backend_index(backend).is_some_and(|index| match ports.board().limit_bytes(index) {
        0 => true,
        limit => ports.board().charged_bytes(index).saturating_add(size) <= limit,
    })
}

/// Whether any backend could take anything now. If not, the trouble is the backends', not a lack of room.
pub fn any_usable<P: Ports>(ports: &P) -> bool {
    let standing = ports.standing();
    (0..ports.view().backends.len()).any(|index| standing.usable(index) && !standing.draining(index))
}

/// Whether the budgets of the month alone keep a blob of this size out of every backend that could take it.
pub fn is_unaffordable<P: Ports>(ports: &P, size: u64) -> bool {
    let all: Vec<BackendFacts> = (0..ports.view().backends.len())
        .map(|index| BackendFacts { affordable: true, ..placement_facts(ports, index, size) })
        .collect();
    !placement::rank(ports.view().routing_strategy, "", "", size, &all).is_empty()
}

/// Why a write finds no backend then.
pub fn over_budget() -> Failure {
    let cause = "the month's budget of every backend that could take it is spent";
    Failure::new(Kind::WriteBudget, Blame::Ourselves, Retry::Never, cause)
}

/// In which order to try copies. Allocates nothing.
pub fn read_order<P: Ports>(ports: &P, copies: &[BlobAt]) -> ReadOrder {
    // Mostly there is one, and nothing to choose: then nothing need be known of its backend.
    if let [only] = copies {
        return ReadOrder::of_one(ports.view().backend_index(&only.backend).is_some());
    }
    let now = ports.clock().tick();
    let mut facts =
        [CopyFacts { backend: usize::MAX, healthy: false, local: false, latency_micros: 0 }; COPIES_LOOKED_AT];
    for (fact, copy) in facts.iter_mut().zip(copies) {
        let Some(index) = ports.view().backend_index(&copy.backend) else { continue };
        *fact = CopyFacts {
            backend: index,
            healthy: ports.standing().usable(index) && ports.health().is_good(index, now),
            local: ports.view().backends[index].is_local(),
            latency_micros: ports.health().latency_micros(index, now),
        };
    }
    read_order::rank(&facts[..copies.len().min(COPIES_LOOKED_AT)])
}

/// Checksums that a backend may be left to verify.
const CRCS: [Algorithm; 3] = [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme];

/// What a backend was measured to do for the body of a PUT, as far as the configuration lets it.
pub fn help_of<P: Ports>(ports: &P, index: usize) -> Help {
    let backend = &ports.view().backends[index];
    let is_left_to_it =
        |one: &Algorithm| ports.standing().verifies_checksum(index, one.name()) && takes_checksums(backend);
    Help {
        verifies_sha256: ports.standing().verifies_sha256(index) && signing_of(backend) != PayloadSigning::Never,
        verifies_checksums: Algorithms::NONE.and(CRCS.into_iter().filter(is_left_to_it)),
        tells_md5: ports.standing().etag_is_md5(index),
    }
}

/// How the payload is signed upstream: with the hash that the client declared; with one made here if the body is in hand;
/// otherwise in chunks or not at all, as the configuration says.
pub fn upstream_payload<P: Ports>(
    ports: &P,
    index: usize,
    declared: Option<[u8; 32]>,
    in_hand: Option<&[u8]>,
) -> UpstreamPayload {
    let signing = signing_of(&ports.view().backends[index]);
    if signing == PayloadSigning::Never {
        return UpstreamPayload::Unsigned;
    }
    let computed = || in_hand.map(|body| Digester::of(Algorithm::Sha256, body));
    let hash = declared.or_else(|| computed().and_then(|checksum| checksum.as_bytes().try_into().ok()));
    match hash {
        Some(hash) => UpstreamPayload::Sha256(hash),
        None if signing == PayloadSigning::Always => UpstreamPayload::Chunked,
        None => UpstreamPayload::Unsigned,
    }
}

fn signing_of(backend: &Backend) -> PayloadSigning {
    match &backend.place {
        Place::Endpoint(place) => place.signing,
        Place::Directory(_) => PayloadSigning::Never,
    }
}

fn takes_checksums(backend: &Backend) -> bool {
    matches!(&backend.place, Place::Endpoint(place) if !place.disable_checksum)
}
