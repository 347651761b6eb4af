//! Temporary files and open uploads that no row names, in a directory backend: a stop cut their writes off after the backup was
//! made.

use super::{Counts, Event, Found, Plan, ROWS, blobs_after, must_be_usable};
use crate::backend::directory::paths;
use crate::backend::port::Unfinished;
use crate::base::{BackendName, Failure, Mandate};
use crate::handlers::ports::Ports;
use std::collections::BTreeMap;

/// Deletes what `unnamed` finds, and tells it. Cancel: NOT safe.
pub(super) async fn remove<P: Ports>(
    ports: &P,
    plan: &Plan,
    backend: &BackendName,
    counts: &mut Counts,
    tell: &mut impl FnMut(Event) -> bool,
) -> Result<(), Failure> {
    // That no row names it stays true for as long as this run is the one that has read them, however long that takes.
    let incarnation = ports.incarnation();
    for one in unnamed(ports, plan, backend).await? {
        if !plan.dry_run {
            let mandate = Mandate { incarnation, ..ports.mandate() };
            ports.remove_unfinished(backend, &one.path, mandate).await?;
        }
        counts.add(Found::Unfinished);
        let backend = backend.as_str().to_owned();
        let _ = tell(Event::Item {
            backend,
            found: Found::Unfinished,
            key: "?".to_owned(),
            name: one.path,
            size: one.bytes,
        });
    }
    Ok(())
}

/// What unfinished writes have on a backend that no row of any state names. A row is there before the first byte, so whose
/// bytes are seen first and whose row is then not found has none: a restored database does not know of that write, and
/// will never commit it, whoever may still be writing.
async fn unnamed<P: Ports>(ports: &P, plan: &Plan, backend: &BackendName) -> Result<Vec<Unfinished>, Failure> {
    must_be_usable(ports, backend)?;
    let below = plan.bucket.as_ref().map(|bucket| format!("{}/{}", bucket.as_str(), plan.prefix.replace('!', "!!")));
    let mut left: BTreeMap<String, Vec<Unfinished>> = BTreeMap::new();
    for one in ports.unfinished(backend).await? {
        if below.as_ref().is_none_or(|below| one.path.starts_with(below)) {
            let path = one.path.strip_suffix(paths::PARTS_SUFFIX).unwrap_or(&one.path).to_owned();
            left.entry(path).or_default().push(one);
        }
    }
    let mut after = String::new();
    while !left.is_empty() {
        let rows = blobs_after(ports, backend, after).await?;
        for row in &rows {
            left.remove(&paths::unfinished(&row.blob.name));
        }
        match rows.last() {
            Some(last) if rows.len() == ROWS as usize => after = last.blob.name.clone(),
            _ => break,
        }
    }
    if left.is_empty() {
        return Ok(Vec::new());
    }
    // What was deleted meanwhile, and its row after it, is none of these.
    let still_there = ports.unfinished(backend).await?;
    Ok(left.into_values().flatten().filter(|one| still_there.iter().any(|other| other.path == one.path)).collect())
}
