//! The suite that every `MetadataStore` passes, generic over the store and a clock that the test moves. After every step
//! the books are audited: what shares say was charged is what the rows hold, and no limit is exceeded.
//!
//! `conforms!` instantiates it for one implementation; `random` compares implementations outcome by outcome.

mod buckets;
mod budgets;
mod cleanup;
mod completing;
mod copies;
mod listing;
mod operator;
mod quota;
mod random;
mod scans;
mod uploads;
mod writes;

use super::port::*;
use super::postgres::cluster::OnPostgres;
use super::record::{BlobState, Located, ObjectRecord};
use super::sqlite::SqliteStore;
use crate::base::{BackendName, BlobId, BucketName, Clock, Failure, Incarnation, Nonce, ObjectKey, Tick, Timestamp};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// A clock that stands still until it is moved.
#[derive(Clone, Debug)]
pub(crate) struct TestClock(Arc<AtomicI64>);

impl TestClock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicI64::new(1_790_000_000_000)))
    }

    #[cfg(test)]
    pub(crate) fn set_back(&self, by: Duration) {
        self.0.fetch_sub(by.as_millis() as i64, Ordering::SeqCst);
    }

    pub(crate) fn advance(&self, wait: Duration) {
        self.0.fetch_add(wait.as_millis() as i64, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn tick(&self) -> Tick {
        Tick { nanos: self.0.load(Ordering::SeqCst) as u64 * 1_000_000 }
    }

    fn now(&self) -> Timestamp {
        Timestamp { millis: self.0.load(Ordering::SeqCst) }
    }

    async fn sleep(&self, wait: Duration) {
        self.advance(wait);
    }
}

/// Runs a future on this thread; a store's own threads wake it.
pub(crate) fn wait_for<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(future)
}

/// A store with a registered incarnation, and the moves that scenarios are made of.
pub(super) struct Bench<S> {
    pub(super) store: S,
    pub(super) clock: TestClock,
    pub(super) incarnation: Cell<Incarnation>,
    rolls: Cell<u64>,
}

pub(super) const BUCKET: &str = "bkt";

pub(super) fn bucket() -> BucketName {
    BucketName::parse(BUCKET).unwrap()
}

pub(super) fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

pub(super) fn name(backend: &str) -> BackendName {
    BackendName::new(backend)
}

pub(super) fn on(backends: &[&str]) -> Vec<Candidate> {
    backends.iter().map(|one| Candidate { backend: name(one), literal: true }).collect()
}

pub(super) fn gone(blob: &BlobAt) -> GivenUp {
    GivenUp { blob: blob.id, may_appear: false }
}

pub(super) fn written(blob: &BlobAt) -> Written {
    Written { blob: blob.id, version_id: String::new() }
}

use super::record::BlobAt;

impl<S: MetadataStore> Bench<S> {
    /// Backends `a` and `b` hold 1000 bytes each, `c` is unlimited.
    pub(super) fn new(store: S, clock: TestClock) -> Self {
        Self::rolling_from(0, store, clock)
    }

    /// One of several on the same tables: ids of batches, and nonces, must not meet.
    pub(super) fn rolling_from(rolls: u64, store: S, clock: TestClock) -> Self {
        let bench = Self { store, clock, incarnation: Cell::new(Incarnation(0)), rolls: Cell::new(rolls) };
        bench.register(&[("a", 1000), ("b", 1000), ("c", 0)]);
        bench
    }

    pub(super) fn register(&self, backends: &[(&str, u64)]) -> Registered {
        let limit = |&(backend, bytes_limit): &(&str, u64)| BackendLimit { name: name(backend), bytes_limit };
        let backends = backends.iter().map(limit).collect();
        let registered =
            self.step(Register { deployment: "first".into(), backends }).expect("registering is not refused");
        self.incarnation.set(registered.incarnation);
        registered
    }

    pub(super) fn roll(&self) -> u64 {
        self.rolls.set(self.rolls.get() + 1);
        self.rolls.get()
    }

    pub(super) fn nonce(&self) -> Nonce {
        Nonce::from_roll(self.roll())
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    // ---- changes ---------------------------------------------------------------------------------------------------

    pub(super) fn batch(&self, changes: Vec<Change>) -> Applied {
        let id = BatchId(7, self.roll());
        let applied = wait_for(self.store.apply(id, changes.into())).expect("the batch is applied");
        self.check_books(&applied);
        applied
    }

    /// One change as a batch of its own.
    pub(super) fn step<T: Step>(&self, step: T) -> T::Outcome {
        let mut applied = self.batch(vec![step.into()]);
        assert_eq!(applied.outcomes.len(), 1);
        T::outcome(applied.outcomes.remove(0))
    }

    pub(super) fn begin_write(&self, text: &str, size: u64) -> BeginWrite {
        BeginWrite {
            incarnation: self.incarnation.get(),
            bucket: bucket(),
            in_stored: false,
            key: key(text),
            size,
            candidates: on(&["a"]),
            condition: WriteCondition::default(),
            nonce: self.nonce(),
            instead_of: None,
        }
    }

    pub(super) fn begin(&self, text: &str, size: u64) -> Begun {
        self.step(self.begin_write(text, size)).expect("there is room")
    }

    pub(super) fn commit_write(&self, text: &str, begun: &Begun) -> CommitWrite {
        CommitWrite {
            incarnation: self.incarnation.get(),
            bucket: bucket(),
            key: key(text),
            blobs: vec![written(&begun.blob)],
            etag: format!("etag-{}", begun.version.as_str()),
            record: ObjectRecord::default(),
            condition: WriteCondition::default(),
        }
    }

    pub(super) fn commit(&self, text: &str, begun: &Begun) -> Result<Committed, Refusal> {
        self.step(self.commit_write(text, begun))
    }

    pub(super) fn put(&self, text: &str, size: u64) -> Begun {
        let begun = self.begin(text, size);
        let committed = self.commit(text, &begun).expect("nothing is in the way");
        assert!(matches!(committed, Committed::Live { version, .. } if version == begun.version), "{committed:?}");
        begun
    }

    pub(super) fn abandon(&self, blob: &BlobAt, may_appear: bool) {
        let given_up = GivenUp { blob: blob.id, may_appear };
        let incarnation = self.incarnation.get();
        self.step(AbandonWrite { incarnation, given_up, reason: "test".into() }).expect("abandoning is not refused");
    }

    pub(super) fn delete(&self, text: &str) -> bool {
        let delete = Delete { bucket: bucket(), key: key(text), condition: WriteCondition::default() };
        self.step(delete).expect("no condition").existed
    }

    /// A replica on the first of `backends` that has none.
    pub(super) fn copy(&self, text: &str, backends: &[&str]) -> BlobAt {
        let begun = self.step(self.begin_copy(text, backends)).expect("there is room for a copy");
        self.step(self.commit_copy(text, &begun.blob)).expect("the version is live");
        begun.blob
    }

    pub(super) fn begin_copy(&self, text: &str, backends: &[&str]) -> BeginCopy {
        BeginCopy {
            incarnation: self.incarnation.get(),
            bucket: bucket(),
            key: key(text),
            version: self.lookup(text).expect("live").version,
            candidates: on(backends),
            nonce: self.nonce(),
        }
    }

    pub(super) fn commit_copy(&self, text: &str, blob: &BlobAt) -> CommitCopy {
        let incarnation = self.incarnation.get();
        CommitCopy { incarnation, bucket: bucket(), key: key(text), written: written(blob) }
    }

    /// Every due blob's bytes are deleted.
    pub(super) fn clean(&self) -> usize {
        let due = self.due();
        for one in &due {
            self.step(CleanupDone { blob: one.blob.id, found: one.found }).expect("it is doomed");
        }
        due.len()
    }

    // ---- queries ---------------------------------------------------------------------------------------------------

    pub(super) fn query(&self, query: Query) -> Answer {
        wait_for(self.store.query(query)).expect("the query is answered")
    }

    pub(super) fn lookup(&self, text: &str) -> Option<Located> {
        match self.query(Query::Lookup { bucket: BUCKET.into(), key: text.into() }) {
            Answer::Lookup(found) => found,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn copies(&self, text: &str, begun: &Begun) -> Vec<BlobId> {
        match self.query(Query::Copies { bucket: BUCKET.into(), key: text.into(), version: begun.version }) {
            Answer::Copies(blobs) => blobs.iter().map(|blob| blob.id).collect(),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn due(&self) -> Vec<DueCleanup> {
        self.due_on(&["a", "b", "c"])
    }

    pub(super) fn due_on(&self, backends: &[&str]) -> Vec<DueCleanup> {
        match self.query(Query::DueCleanups { on: backends.iter().map(|one| name(one)).collect(), max: 1000 }) {
            Answer::DueCleanups(due) => due,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn next_cleanup(&self) -> Option<Timestamp> {
        match self.query(Query::NextCleanup { on: vec![name("a"), name("b"), name("c")] }) {
            Answer::NextCleanup(next) => next,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn rows(&self, backend: &str) -> Vec<BlobRow> {
        match self.query(Query::Blobs { backend: name(backend), after: String::new(), max: 1000 }) {
            Answer::Blobs(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    /// State, bytes and reason of a blob; None when its row has ended.
    pub(super) fn row(&self, blob: &BlobAt) -> Option<BlobRow> {
        self.rows(blob.backend.as_str()).into_iter().find(|row| row.blob.id == blob.id)
    }

    pub(super) fn state(&self, blob: &BlobAt) -> Option<BlobState> {
        self.row(blob).map(|row| row.state)
    }

    pub(super) fn status(&self, backend: &str) -> BackendStatus {
        match self.query(Query::Status { period: "2026-11".into() }) {
            Answer::Status(all) => all.into_iter().find(|one| one.name == backend).expect("the backend is known"),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn audit(&self) -> Vec<BackendAudit> {
        match self.query(Query::Audit) {
            Answer::Audit(books) => books,
            other => panic!("{other:?}"),
        }
    }

    /// I5: what is charged is what the rows hold, within the limit; and the counters tell the truth.
    fn check_books(&self, applied: &Applied) {
        let books = self.audit();
        for one in &books {
            assert_eq!(one.charged, one.rows_bytes as i64, "charges of {one:?}");
            assert_eq!(one.counters, one.counted, "counters of {}", one.name);
            if one.bytes_limit > 0 {
                assert!(one.granted <= one.bytes_limit as i64, "grants of {one:?}");
            }
        }
        for (backend, bytes) in &applied.charged {
            let told = books.iter().find(|one| one.name == backend.as_str()).expect("a charged backend is known");
            assert_eq!(*bytes as i64, told.charged, "charge of {backend:?} as answered");
        }
    }
}

/// Instantiates the suite for one implementation: `$make` opens an empty store with this clock and these rules.
macro_rules! conforms {
    ($name:ident, $make:expr) => {
        mod $name {
            use super::*;
            conforms!(@tests $make,
                writes: [a_write_is_seen_when_committed, an_overwrite_displaces_with_grace, conditions,
                    later_versions_win_whatever_the_order_of_commits, a_delete_supersedes,
                    a_condition_does_not_see_what_is_under_way, conditions_of_size_and_time, only_what_is_reserved_commits,
                    tags_of_the_live_version, several_copies_commit_together, a_replacement_keeps_version_and_fate,
                    versions_rise_when_the_clock_does_not, any_key_is_kept_byte_for_byte, batches_are_resolved_by_id,
                    registration_dooms_the_dead],
                buckets: [buckets_come_and_go, users_own_so_many, a_bucket_with_something_in_it_stays,
                    writes_see_the_end_of_their_bucket],
                quota: [the_first_that_fits, never_above_the_limit, displaced_bytes_make_room,
                    what_was_charged_stays_charged, limits_may_change, limits_change_while_a_run_goes_on, draining_backends_take_nothing,
                    vanished_backends_are_told],
                cleanup: [grace_and_settle, a_late_answer_to_an_early_delete, failures_back_off_until_dead,
                    only_doomed_blobs_end],
                copies: [copies_of_a_live_version, copies_come_too_late, the_last_copies_stay],
                uploads: [an_upload_becomes_an_object, parts_replace_each_other, attempts_that_fail, an_aborted_upload,
                    uploads_survive_registration, uploads_are_bounded, ended_uploads_are_forgotten,
                    stale_uploads_are_aborted, which_parts_a_run_is_writing],
                completing: [manifests_are_checked, completing_can_be_asked_again,
                    uploads_are_superseded_while_completing, refused_completions_end_the_upload,
                    a_version_knows_its_parts, what_was_completing_at_the_backup_is_taken_back,
                    what_may_be_newer_than_is_known_is_set_aside, a_finish_of_another_manifest_is_lost,
                    what_a_reopened_upload_may_assemble_is_waited_for],
                listing: [pages_follow_the_model, the_edges_of_a_page, pages_of_uploads_follow_the_model],
                operator: [dead_letters, a_drain_ends_when_nothing_is_left, copies_are_dropped,
                    uploads_on_a_dropped_backend_end, versions_with_too_many_copies, found_blobs_are_adopted,
                    known_deletes_are_not_revived, found_bytes_are_charged_above_the_limit, foreign_objects_are_imported,
                    a_restored_database_deletes_nothing, a_restored_database_skips_numbers,
                    what_is_found_on_a_drained_backend],
                budgets: [slices_never_exceed_the_limit, the_dead_keep_what_they_were_lent, asking_twice_lends_once,
                    what_is_given_back_is_lent_again, recorded_usage_counts, what_is_never_refused_counts,
                    months_and_counters_are_apart, a_month_keeps_what_may_go_on_from_the_one_before, a_month_awaits_who_was_heard_of_before_it_began,
                    a_restored_database_lends_nothing_of_a_month_in_doubt],
                scans: [under_replicated_versions, status_and_usage, facts_and_draining_are_told, what_a_run_has_reserved,
                    blobs_page_by_name],
            );
        }
    };
    (@tests $make:expr, $($part:ident: [$($test:ident),* $(,)?]),* $(,)?) => {
        $($(#[test]
        fn $test() {
            let clock = TestClock::new();
            let make: fn(TestClock, Rules) -> _ = $make;
            $part::$test(&Bench::new(make(clock.clone(), Rules::default()), clock));
        })*)*
    };
}

conforms!(memory, |clock, rules| crate::store::memory::MemoryStore::new(clock, rules));
conforms!(sqlite, OnDisk::new);
conforms!(postgres, OnPostgres::new);

/// An SQLite store in a directory that goes with it.
pub(super) struct OnDisk {
    store: SqliteStore, // dropped first
    _directory: tempfile::TempDir,
}

impl OnDisk {
    fn new(clock: TestClock, rules: Rules) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = SqliteStore::open(&directory.path().join("meta.db"), rules, Arc::new(move || clock.now()));
        Self { store: store.expect("the database opens"), _directory: directory }
    }
}

impl MetadataStore for OnDisk {
    async fn apply(&self, id: BatchId, changes: Arc<[Change]>) -> Result<Applied, ApplyError> {
        self.store.apply(id, changes).await
    }

    async fn resolve(&self, id: BatchId) -> Result<Option<Applied>, Failure> {
        self.store.resolve(id).await
    }

    async fn query(&self, query: Query) -> Result<Answer, Failure> {
        self.store.query(query).await
    }
}
