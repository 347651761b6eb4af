//! Removes copies above `replication.factor`: a backend that was given up came back with its bytes, so its objects have
//! the copies that were made in its place and the old ones too.
//!
//! Which copy goes is decided here, whether it may go by the transaction (PROTOCOL.md, "Copies of a version").

use super::replicate;
use super::sync::is_held;
use crate::base::{BackendName, Failure};
use crate::config::checked::Replication;
use crate::handlers::concurrent;
use crate::handlers::placing;
use crate::handlers::ports::{Ports, Worker};
use crate::store::port::{Answer, Metadata, Query, RemoveCopy};
use crate::store::record::{BlobAt, Located};

/// One pass over all versions. Answers how many copies were removed.
pub async fn pass<P: Ports>(ports: &P) -> Result<u64, Failure> {
    let counted = replicate::reliable(ports);
    let factor = ports.registry().replication.factor;
    let mut removed = 0;
    // With one copy each, a second is a backup of somebody who lowered the factor: it is left alone.
    if factor < 2 || counted.len() as u32 <= factor {
        return Ok(removed);
    }
    // What it says of other copies is not known to be true.
    if is_held(ports).await? {
        return Ok(removed);
    }
    let Replication { batch_size: max, concurrency, .. } = ports.registry().replication;
    let mut after = None;
    loop {
        let query = Query::OverReplicated { factor, counted: counted.clone(), after, max };
        let Answer::UnderReplicated { found, next } = ports.meta().query(query).await? else {
            return Err(Failure::ourselves("a query was answered with another's answer"));
        };
        let removals = found.iter().flat_map(|(bucket, key, located)| {
            surplus(ports, located, &counted, factor).into_iter().map(|blob| RemoveCopy {
                bucket: bucket.clone(),
                key: key.clone(),
                blob: blob.id,
                floor: factor,
                not_counted: not_counted(ports, &counted),
                reason: "over-replicated".to_owned(),
            })
        });
        let steps: Vec<_> = removals.map(|removal| ports.meta().step(removal)).collect();
        concurrent::each(concurrency, steps, |_, outcome| {
            // Refused: the key was written or another copy went meanwhile.
            removed += u64::from(matches!(outcome, Ok(Ok(_))));
        })
        .await;
        match next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    if removed > 0 {
        ports.cells().over_replication_removed.add(removed);
        ports.wake(Worker::Cleanup);
    }
    Ok(removed)
}

fn not_counted<P: Ports>(ports: &P, counted: &[BackendName]) -> Vec<BackendName> {
    let backends = ports.view().backends.iter();
    backends.filter(|one| !counted.contains(&one.name)).map(|one| one.name.clone()).collect()
}

/// The copies above the factor, from the fullest backends.
fn surplus<'l, P: Ports>(ports: &P, located: &'l Located, counted: &[BackendName], factor: u32) -> Vec<&'l BlobAt> {
    let mut copies: Vec<&BlobAt> = located.blobs.iter().filter(|blob| counted.contains(&blob.backend)).collect();
    let share = |blob: &BlobAt| {
        let index = placing::index_of(ports, &blob.backend);
        match ports.board().limit_bytes(index) {
            0 => 0,
            limit => u128::from(ports.board().charged_bytes(index)) * 1_000_000 / u128::from(limit),
        }
    };
    copies.sort_by_key(|blob| std::cmp::Reverse(share(blob)));
    copies.truncate(copies.len().saturating_sub(factor as usize));
    copies
}
