//! Keys as this run's last batches left them. The commit of a write comes soon after its begin, and is decided on what the
//! begin's batch wrote: that need not be asked for again. Like what is loaded, it is verified under the batch's locks; where
//! others were faster, the batch is decided anew on what is loaded then.

use super::super::memory::tables::{Blob, Key, Live, Tables};
use super::load::Loaded;
use crate::base::{BlobId, Tick};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

/// Writes under way whose keys are kept; the oldest go first.
const KEYS_MAX: usize = 4096;
/// Far less than it takes a database to come round to the same transaction number, which is what a row's mark is.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// All rows of one key, with their marks.
#[derive(Debug)]
pub(super) struct KeyRows {
    pub(super) blobs: Vec<(BlobId, Blob, i64)>,
    pub(super) live: Option<(Live, i64)>,
}

#[derive(Debug, Default)]
pub(super) struct Recall {
    keys: HashMap<Key, (Tick, KeyRows)>,
    /// What was kept, in that order; some of it was taken since.
    order: VecDeque<(Tick, Key)>,
}

impl Recall {
    /// Takes out what is known of these keys.
    pub(super) fn take(&mut self, keys: &BTreeSet<Key>, now: Tick) -> Vec<(Key, KeyRows)> {
        if self.keys.is_empty() {
            return Vec::new();
        }
        let kept = keys.iter().filter_map(|key| self.keys.remove_entry(key));
        kept.filter(|(_, (since, _))| now.since(*since) < KEPT_FOR).map(|(key, (_, rows))| (key, rows)).collect()
    }

    /// Keeps these keys as a batch left them that was decided on `before` and committed as transaction `mark`.
    pub(super) fn keep<'k>(
        &mut self,
        keys: impl Iterator<Item = &'k Key>,
        before: &Tables,
        mut after: Loaded,
        mark: i64,
        now: Tick,
    ) {
        for key in keys {
            if let Some(rows) = rows_of(key, before, &mut after, mark) {
                self.keys.insert(key.clone(), (now, rows));
                self.order.push_back((now, key.clone()));
            }
        }
        loop {
            let too_many = self.order.len() > KEYS_MAX;
            let oldest = self.order.pop_front_if(|(since, _)| too_many || now.since(*since) >= KEPT_FOR);
            let Some((since, key)) = oldest else { break };
            if self.keys.get(&key).is_some_and(|(kept, _)| *kept == since) {
                self.keys.remove(&key);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// None where an upload is under way: its row would belong to them.
fn rows_of(key: &Key, before: &Tables, after: &mut Loaded, mark: i64) -> Option<KeyRows> {
    let ids = after.tables.blobs_of.remove(key)?;
    let blobs = ids.into_iter().map(|id| {
        let blob = after.tables.blobs.remove(&id)?;
        let is_as_before = before.blobs.get(&id) == Some(&blob);
        let mark = if is_as_before { *after.blob_marks.get(&id.0)? } else { mark };
        blob.upload.is_none().then_some((id, blob, mark))
    });
    let blobs = blobs.collect::<Option<Vec<_>>>()?;
    let live = match after.tables.versions.remove(key) {
        Some(live) if before.versions.get(key) == Some(&live) => Some((live, *after.live_marks.get(key)?)),
        Some(live) => Some((live, mark)),
        None => None,
    };
    Some(KeyRows { blobs, live })
}
