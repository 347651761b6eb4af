//! What must be true at the end, when nothing fails any more and everybody has had time.

use super::history::KeyHistory;
use super::world::{BUCKET, KEYS, World, now};
use s3_orchestrator::base::Version;
use s3_orchestrator::store::port::*;
use s3_orchestrator::store::record::BlobState;
use std::collections::{BTreeMap, BTreeSet};

impl World {
    /// I7: after quiescence copies match the policy, no orphan is left, and charges are bytes.
    pub fn check_quiescence(&self) {
        self.end_histories();
        let mut copies: BTreeMap<Version, (u32, u64)> = BTreeMap::new();
        for backend in &self.backends {
            let rows = self.rows(backend);
            let mut named: Vec<String> = rows.iter().map(|row| backend.place(&row.blob.name)).collect();
            let mut stored = backend.names();
            named.sort();
            stored.sort();
            if named != stored {
                let story = format!("{}: rows {rows:#?}\nnames {stored:#?}", backend.name.as_str());
                self.violated("I7 (rows are bytes)", story);
            }
            if let Some(row) = rows.iter().find(|row| row.state != BlobState::Live) {
                self.violated("I7 (nothing but live rows)", format!("{}: {row:?}", backend.name.as_str()));
            }
            let charged = self.charged.borrow()[backend.index];
            if charged != backend.bytes() {
                let story = format!("{} holds {} bytes, {charged} are charged", backend.name.as_str(), backend.bytes());
                self.violated("I7 (charges are bytes)", story);
            }
            for row in rows.iter().filter(|row| row.state == BlobState::Live) {
                let copy = copies.entry(row.version).or_default();
                (copy.0, copy.1) = (copy.0 + 1, row.bytes);
            }
        }
        for (version, (held, size)) in copies {
            if held < self.setting.factor && self.could_take_another(version, size) {
                self.violated("I7 (copies match the policy)", format!("{version:?} has {held} copies"));
            }
        }
        self.check_live_versions();
        self.check_books();
    }

    /// A live blob is one of its key's live version.
    fn check_live_versions(&self) {
        let lookup = |key: &str| Query::Lookup { bucket: BUCKET.to_owned(), key: key.to_owned() };
        let found = KEYS.iter().filter_map(|key| match now(self.store().query(lookup(key))) {
            Ok(Answer::Lookup(located)) => located,
            other => panic!("the memory store answered {other:?}"),
        });
        let of_keys: BTreeSet<String> = found.flat_map(|located| located.blobs).map(|blob| blob.name).collect();
        let rows = self.backends.iter().flat_map(|backend| self.rows(backend));
        let live: BTreeSet<String> = rows.filter(|row| row.state == BlobState::Live).map(|row| row.blob.name).collect();
        if of_keys != live {
            self.violated("I7 (live blobs are of live versions)", format!("rows {live:#?}\nkeys {of_keys:#?}"));
        }
    }

    fn end_histories(&self) {
        for history in self.histories.borrow_mut().values_mut() {
            if let Err(story) = history.end(self.sim.now_nanos()) {
                self.violated("I1-I3 (linearizable per key)", story);
            }
        }
    }

    /// The most explanations that any key's history had beside each other.
    pub fn widest(&self) -> usize {
        self.histories.borrow().values().map(KeyHistory::widest).max().unwrap_or(0)
    }

    fn could_take_another(&self, version: Version, size: u64) -> bool {
        self.backends.iter().any(|backend| {
            let has_one = self.rows(backend).iter().any(|row| row.version == version);
            !has_one && self.charged.borrow()[backend.index] + size <= self.setting.quota_bytes
        })
    }

    fn check_books(&self) {
        let Ok(Answer::Audit(books)) = now(self.store().query(Query::Audit)) else {
            panic!("the memory store did not answer the audit");
        };
        for book in books {
            if book.charged != book.rows_bytes as i64 || book.counters != book.counted {
                self.violated("I5 (books)", format!("{book:#?}"));
            }
        }
    }
}
