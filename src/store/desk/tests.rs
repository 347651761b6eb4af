//! The desk over a store whose every step the test decides.

use super::*;
use crate::base::{BlobId, Incarnation, Nonce, Tick, Timestamp, UploadId, Version};
use crate::store::conformance::{TestClock, bucket, key, name, on, wait_for, written};
use crate::store::location_cache::{CacheWriter, LocationCache, Trust};
use crate::store::memory::MemoryStore;
use crate::store::port::*;
use crate::store::record::{BlobState, Located, ObjectRecord};
use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use tokio::sync::Semaphore;

/// What happens to the next batch.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    Fine,
    NotApplied,
    /// By a database that answers: this run has ended.
    Refused,
    LostBefore,
    LostAfter,
}

struct Scripted {
    inner: MemoryStore<TestClock>,
    fates: RefCell<VecDeque<Fate>>,
    /// Batches that hold a change of this key are never applied.
    poison: Cell<Option<&'static str>>,
    /// Batches that hold a change of this key wait for permits of their own.
    stuck: Cell<Option<&'static str>>,
    stuck_may_run: Semaphore,
    /// How many batches it bears at a time.
    in_flight: Cell<usize>,
    /// Permits for batches, queries, and answers to `resolve`.
    batches_may_run: Semaphore,
    queries_may_run: Semaphore,
    resolves_fail: Cell<u32>,
    /// How often whatever is open to the database was closed.
    sessions_dropped: Cell<u32>,
    /// The keys of every batch that was tried.
    tried: RefCell<Vec<Vec<String>>>,
}

impl Scripted {
    /// Batches and queries run freely.
    fn new(clock: TestClock) -> Self {
        Self {
            inner: MemoryStore::new(clock, Rules::default()),
            fates: RefCell::default(),
            poison: Cell::default(),
            stuck: Cell::default(),
            stuck_may_run: Semaphore::new(0),
            in_flight: Cell::new(1),
            batches_may_run: Semaphore::new(1000),
            queries_may_run: Semaphore::new(1000),
            resolves_fail: Cell::default(),
            sessions_dropped: Cell::default(),
            tried: RefCell::default(),
        }
    }
}

async fn permit(gate: &Semaphore) {
    gate.acquire().await.expect("never closed").forget();
}

impl MetadataStore for Scripted {
    fn batches_in_flight_max(&self) -> usize {
        self.in_flight.get()
    }

    async fn apply(&self, id: BatchId, changes: Arc<[Change]>) -> Result<Applied, ApplyError> {
        let keys: Vec<String> = changes.iter().map(key_of).collect();
        let poisoned = self.poison.get().is_some_and(|poison| keys.iter().any(|key| key == poison));
        let is_stuck = self.stuck.get().is_some_and(|stuck| keys.iter().any(|key| key == stuck));
        self.tried.borrow_mut().push(keys);
        permit(&self.batches_may_run).await;
        if is_stuck {
            permit(&self.stuck_may_run).await;
        }
        let fate = self.fates.borrow_mut().pop_front().unwrap_or(Fate::Fine);
        match fate {
            _ if poisoned => Err(ApplyError::NotApplied(Failure::metadata("poison"))),
            Fate::Fine => self.inner.apply(id, changes).await,
            Fate::NotApplied => Err(ApplyError::NotApplied(Failure::metadata("scripted"))),
            Fate::Refused => Err(ApplyError::NotApplied(Failure::overloaded("registers anew"))),
            Fate::LostBefore => Err(ApplyError::Unknown(Failure::metadata("lost before"))),
            Fate::LostAfter => {
                self.inner.apply(id, changes).await?;
                Err(ApplyError::Unknown(Failure::metadata("lost after")))
            }
        }
    }

    async fn resolve(&self, id: BatchId) -> Result<Option<Applied>, Failure> {
        if self.resolves_fail.get() > 0 {
            self.resolves_fail.set(self.resolves_fail.get() - 1);
            return Err(Failure::metadata("still away"));
        }
        self.inner.resolve(id).await
    }

    async fn query(&self, query: Query) -> Result<Answer, Failure> {
        // Looked up when it is asked, answered when the test says so.
        let answer = self.inner.query(query).await;
        permit(&self.queries_may_run).await;
        answer
    }

    fn drop_sessions(&self) {
        self.sessions_dropped.set(self.sessions_dropped.get() + 1);
    }
}

fn key_of(change: &Change) -> String {
    change
        .subjects()
        .iter()
        .find_map(|subject| match subject {
            Some(Subject::Key(_, key)) => Some(key.as_str().to_owned()),
            Some(Subject::Upload(upload)) => Some(upload.as_str().to_owned()),
            Some(Subject::Blob(_)) => Some("blob".to_owned()),
            Some(Subject::Everything) => Some("everything".to_owned()),
            _ => None,
        })
        .unwrap_or_default()
}

struct CountingDice(Cell<u64>);

impl Dice for CountingDice {
    fn roll(&self) -> u64 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }
}

/// Sleeping lets others run; virtual time passes while somebody sleeps.
#[derive(Clone)]
struct SleepyClock(TestClock);

impl Clock for SleepyClock {
    fn tick(&self) -> Tick {
        self.0.tick()
    }

    fn now(&self) -> Timestamp {
        self.0.now()
    }

    async fn sleep(&self, wait: Duration) {
        let until = self.tick().after(wait);
        while self.tick() < until {
            self.0.advance(Duration::from_millis(1));
            tokio::task::yield_now().await;
        }
    }
}

type TestDesk = Desk<Scripted, SleepyClock, CountingDice>;

struct Office {
    desk: Rc<TestDesk>,
    meta: LocalMetadata,
    cache: Arc<LocationCache>,
    board: Arc<Board>,
    clock: TestClock,
    nonces: Cell<u64>,
}

/// Runs a scenario beside a desk that has registered `a` (1000 bytes). Batches and queries run freely until it says not to.
fn with_desk<F: Future<Output = ()>>(limits: DeskLimits, scenario: impl FnOnce(Rc<Office>) -> F) {
    with_desk_and(limits, Locations::Exact, Trust::Exact, scenario);
}

fn with_desk_and<F: Future<Output = ()>>(
    limits: DeskLimits,
    locations: impl FnOnce(CacheWriter) -> Locations,
    trust: Trust,
    scenario: impl FnOnce(Rc<Office>) -> F,
) {
    let clock = TestClock::new();
    let store = Scripted::new(clock.clone());
    let (cache, writer) = LocationCache::new(1 << 20, 1);
    let (clock_of_desk, dice) = (SleepyClock(clock.clone()), CountingDice(Cell::new(0)));
    let desk = Rc::new(Desk::new(store, clock_of_desk, dice, limits, locations(writer)));
    let board = Arc::new(Board::new([0]));
    desk.show_on(board.clone(), vec![name("a")]);
    let (meta, inbox) = local(Some(cache.clone()));
    let now = clock.clone();
    let meta = meta.trusting(trust, move || now.tick());
    let office = Rc::new(Office { desk: desk.clone(), meta, cache, board, clock, nonces: Cell::default() });
    let story = async {
        let backends = vec![BackendLimit { name: name("a"), bytes_limit: 1000 }];
        office.meta.step(Register { deployment: "d".into(), backends }).await.unwrap().unwrap();
        office.desk.store.tried.borrow_mut().clear();
        scenario(office).await;
    };
    wait_for(tokio::task::LocalSet::new().run_until(async {
        let working = tokio::task::spawn_local(async move { desk.run(inbox).await });
        story.await;
        working.await.expect("the desk ends when nobody calls any more");
    }));
}

impl Office {
    fn store(&self) -> &Scripted {
        &self.desk.store
    }

    fn begin(&self, text: &str) -> BeginWrite {
        self.nonces.set(self.nonces.get() + 1);
        BeginWrite {
            incarnation: Incarnation(1),
            bucket: bucket(),
            in_stored: false,
            key: key(text),
            size: 10,
            candidates: on(&["a"]),
            condition: WriteCondition::default(),
            nonce: Nonce::from_roll(self.nonces.get()),
            instead_of: None,
        }
    }

    fn commit(&self, text: &str, begun: &Begun) -> CommitWrite {
        CommitWrite {
            incarnation: Incarnation(1),
            bucket: bucket(),
            key: key(text),
            blobs: vec![written(&begun.blob)],
            etag: begun.version.as_str().into(),
            record: ObjectRecord::default(),
            condition: WriteCondition::default(),
        }
    }

    async fn put(&self, text: &str) -> Begun {
        let begun = self.meta.step(self.begin(text)).await.expect("answered").expect("there is room");
        self.meta.step(self.commit(text, &begun)).await.expect("answered").expect("nothing is in the way");
        begun
    }

    /// Another instance writes; this one hears nothing of it.
    async fn put_by_another(&self, text: &str) -> Begun {
        let begin = self.store().inner.apply(self.batch_of_another(), Arc::new([self.begin(text).into()])).await;
        let Ok(Outcome::BeginWrite(Ok(begun))) = begin.map(|mut applied| applied.outcomes.remove(0)) else { panic!() };
        let commit = self.commit(text, &begun).into();
        self.store().inner.apply(self.batch_of_another(), Arc::new([commit])).await.expect("applied");
        begun
    }

    async fn delete_by_another(&self, text: &str) {
        let delete = Delete { bucket: bucket(), key: key(text), condition: WriteCondition::default() };
        self.store().inner.apply(self.batch_of_another(), Arc::new([delete.into()])).await.expect("applied");
    }

    fn batch_of_another(&self) -> BatchId {
        self.nonces.set(self.nonces.get() + 1);
        BatchId(7, self.nonces.get())
    }

    fn cached(&self, text: &str) -> Option<Located> {
        let mut into = Located::empty();
        self.cache.get("bkt", text, &mut into).then_some(into)
    }

    async fn looked_up(&self, text: &str) -> Option<Located> {
        let mut into = Located::empty();
        self.meta.lookup("bkt", text, &mut into).await.expect("answered").then_some(into)
    }

    fn state(&self, id: BlobId) -> Option<BlobState> {
        let query = Query::Blobs { backend: name("a"), after: String::new(), max: 1000 };
        let Answer::Blobs(rows) = wait_free(self.store().inner.query(query)) else { panic!("rows are asked for") };
        rows.iter().find(|row| row.blob.id == id).map(|row| row.state)
    }

    /// Stops batches from running; returns when the desk is idle.
    async fn close_the_gate(&self) {
        settled().await;
        self.store().batches_may_run.forget_permits(1000);
    }

    fn open_the_gate(&self) {
        self.store().batches_may_run.add_permits(1000);
    }
}

/// The in-memory store answers at once.
fn wait_free<T>(future: impl Future<Output = Result<T, Failure>>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        Poll::Ready(answer) => answer.expect("the in-memory store never fails"),
        Poll::Pending => panic!("the in-memory store never waits"),
    }
}

/// Lets everything that can run do so.
async fn settled() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> tokio::task::JoinHandle<T> {
    tokio::task::spawn_local(future)
}

/// Asks for a step in a task of its own.
fn ask<T: Step + 'static>(office: &Rc<Office>, step: T) -> tokio::task::JoinHandle<Result<T::Outcome, Failure>>
where
    T::Outcome: 'static,
{
    let office = office.clone();
    spawn(async move { office.meta.step(step).await })
}

#[test]
fn what_arrives_during_a_batch_forms_the_next_one_one_change_per_key() {
    with_desk(DeskLimits { batch_changes_max: 4, ..DeskLimits::default() }, |office| async move {
        office.close_the_gate().await;
        let mut asked = vec![ask(&office, office.begin("first"))];
        settled().await;
        for text in ["x", "y", "x", "z", "x", "y", "u", "v"] {
            asked.push(ask(&office, office.begin(text)));
        }
        settled().await;
        office.open_the_gate();
        let mut begun = Vec::new();
        for one in asked {
            begun.push(one.await.unwrap().expect("answered").expect("there is room"));
        }
        let tried = office.store().tried.borrow().clone();
        let want: [&[&str]; 4] = [&["first"], &["x", "y", "z", "u"], &["x", "y", "v"], &["x"]];
        assert_eq!(tried, want);
        let of_x: Vec<_> = [1, 3, 5].into_iter().map(|i| begun[i].version).collect();
        assert!(of_x.is_sorted(), "one key's changes keep their order");
        assert_eq!(office.board.charged_bytes(0), 90, "told before the callers");
    });
}

#[test]
fn changes_of_one_upload_take_turns_and_registration_runs_alone() {
    with_desk(DeskLimits::default(), |office| async move {
        office.close_the_gate().await;
        let blocker = ask(&office, office.begin("blocker"));
        settled().await;
        let (upload, other) = (UploadId::from_rolls(0, 1), UploadId::from_rolls(0, 2));
        let reopen = |upload: &UploadId| {
            ask(&office, ReopenUpload { upload: upload.clone(), version: Version::from_parts(1, 1) })
        };
        let mut asked = vec![reopen(&upload), reopen(&other), reopen(&upload)];
        let registration = ask(&office, Register { deployment: "d".into(), backends: vec![] });
        asked.push(reopen(&other));
        settled().await;
        office.open_the_gate();
        blocker.await.unwrap().expect("answered").expect("there is room");
        registration.await.unwrap().expect("answered").expect("not refused");
        for one in asked {
            assert_eq!(one.await.unwrap().expect("answered"), Err(Refusal::NoSuchUpload));
        }
        let (one, two) = (upload.as_str(), other.as_str());
        let want: [&[&str]; 5] = [&["blocker"], &[one, two], &[one], &["everything"], &[two]];
        assert_eq!(*office.store().tried.borrow(), want);
    });
}

/// Of an upload that there is not.
fn start_complete(upload: &UploadId) -> StartComplete {
    StartComplete {
        bucket: bucket(),
        key: key("k"),
        upload: upload.clone(),
        manifest: vec![],
        condition: WriteCondition::default(),
        enforce_min_part_size: true,
    }
}

/// StartComplete concerns its upload and its key: while it waits for the upload, the key's later changes wait for it.
#[test]
fn what_waits_keeps_its_place_for_all_its_subjects() {
    with_desk(DeskLimits::default(), |office| async move {
        office.close_the_gate().await;
        let blocker = ask(&office, office.begin("blocker"));
        settled().await;
        let upload = UploadId::from_rolls(0, 1);
        let reopen = ask(&office, ReopenUpload { upload: upload.clone(), version: Version::from_parts(1, 1) });
        settled().await;
        let complete = ask(&office, start_complete(&upload));
        settled().await;
        let (behind, beside) = (ask(&office, office.begin("k")), ask(&office, office.begin("other")));
        settled().await;
        office.open_the_gate();
        for one in [blocker, behind, beside] {
            one.await.unwrap().expect("answered").expect("there is room");
        }
        assert_eq!(reopen.await.unwrap().expect("answered"), Err(Refusal::NoSuchUpload));
        assert_eq!(complete.await.unwrap().expect("answered"), Err(Refusal::NoSuchUpload));
        let want: [&[&str]; 4] = [&["blocker"], &[upload.as_str(), "other"], &["k"], &["k"]];
        assert_eq!(*office.store().tried.borrow(), want);
    });
}

#[test]
fn nobody_waits_for_ever_behind_a_batch_that_does_not_come_back() {
    let limits = DeskLimits::default();
    let patient = BreakerSettings { failure_threshold: 10, ..limits.breaker };
    with_desk(DeskLimits { breaker: patient, ..limits }, |office| async move {
        let given_up = ask(&office, office.begin("given-up")).await.unwrap().unwrap().unwrap();
        office.close_the_gate().await;
        let running = ask(&office, office.begin("running"));
        settled().await;
        let started = office.clock.tick();
        let behind = ask(&office, office.begin("behind"));
        let end = AbandonWrite {
            incarnation: Incarnation(1),
            given_up: GivenUp { blob: given_up.blob.id, may_appear: false },
            reason: "test".into(),
        };
        let end = ask(&office, end);
        assert!(behind.await.unwrap().is_err() && end.await.unwrap().is_err());
        assert!(running.await.unwrap().is_err(), "nor in it");
        let waited = office.clock.tick().since(started);
        assert!(waited >= Duration::from_secs(2) && waited < Duration::from_secs(4), "{waited:?}");
        let late = ask(&office, office.begin("late"));
        settled().await;
        office.open_the_gate();
        assert!(late.await.unwrap().unwrap().is_ok());
        settled().await;
        let begun_in_vain = BlobId(given_up.blob.id.0 + 1);
        assert_eq!(office.state(begun_in_vain), Some(BlobState::Doomed), "what was begun for nobody is ended");
        let tried = office.store().tried.borrow().concat();
        assert!(!tried.contains(&"behind".to_owned()), "what was refused is not done afterwards: {tried:?}");
        assert_eq!(office.state(given_up.blob.id), Some(BlobState::Doomed), "but ends are");
    });
}

#[test]
fn a_bad_change_fails_alone_and_a_dead_database_fails_fast() {
    with_desk(DeskLimits::default(), |office| async move {
        office.store().poison.set(Some("bad"));
        office.close_the_gate().await;
        let blocker = ask(&office, office.begin("blocker"));
        settled().await;
        let asked: Vec<_> = ["a", "bad", "b"].map(|text| ask(&office, office.begin(text))).into();
        settled().await;
        office.open_the_gate();
        blocker.await.unwrap().expect("answered").expect("there is room");
        let mut outcomes = Vec::new();
        for one in asked {
            outcomes.push(one.await.unwrap().is_ok());
        }
        assert_eq!(outcomes, [true, false, true]);

        office.close_the_gate().await;
        office.store().fates.borrow_mut().extend([Fate::Fine].into_iter().chain([Fate::NotApplied; 4]));
        let blocker = ask(&office, office.begin("blocker"));
        settled().await;
        office.store().tried.borrow_mut().clear();
        let asked: Vec<_> = (0..20).map(|i| ask(&office, office.begin(&format!("k{i}")))).collect();
        settled().await;
        office.open_the_gate();
        blocker.await.unwrap().expect("answered").expect("there is room");
        for one in asked {
            assert!(one.await.unwrap().is_err());
        }
        assert_eq!(office.store().tried.borrow().len(), 4, "the batch, then three alone");
        assert!(ask(&office, office.begin("k")).await.unwrap().is_err(), "and then nobody is let through");
        office.desk.clock.sleep(Duration::from_secs(20)).await;
        settled().await;
        assert!(ask(&office, office.begin("k")).await.unwrap().is_ok(), "until it works again");
    });
}

#[test]
fn a_lost_answer_is_resolved_and_nothing_happens_twice() {
    for fate in [Fate::LostBefore, Fate::LostAfter] {
        with_desk(DeskLimits::default(), |office| async move {
            let begun = ask(&office, office.begin("k")).await.unwrap().unwrap().unwrap();
            office.store().fates.borrow_mut().push_back(fate);
            office.store().resolves_fail.set(3);
            let committed = ask(&office, office.commit("k", &begun)).await.unwrap().expect("resolved in time");
            assert!(matches!(committed, Ok(Committed::Live { .. })), "{fate:?}: {committed:?}");
            assert_eq!(office.board.charged_bytes(0), 10);
            assert_eq!(office.desk.cells.answers_lost.value(), 1);
            let runs = if fate == Fate::LostBefore { 2 } else { 1 };
            let tried = office.store().tried.borrow().iter().filter(|batch| !batch.is_empty()).count();
            assert_eq!(tried, 1 + runs);
        });
    }
}

#[test]
fn callers_do_not_wait_for_ever_and_what_was_begun_for_them_is_ended() {
    for fate in [Fate::LostBefore, Fate::LostAfter] {
        with_desk(DeskLimits::default(), |office| async move {
            let live = office.put("k").await;
            office.looked_up("k").await.expect("live");
            assert!(office.cached("k").is_some());
            office.store().fates.borrow_mut().push_back(fate);
            office.store().resolves_fail.set(30);
            let begin = ask(&office, office.begin("lost"));
            let delete = Delete { bucket: bucket(), key: key("k"), condition: WriteCondition::default() };
            let delete = ask(&office, delete);
            let started = office.clock.tick();
            assert!(begin.await.unwrap().is_err());
            let waited = office.clock.tick().since(started);
            assert!(waited >= Duration::from_secs(2) && waited < Duration::from_secs(5), "{waited:?}");
            assert!(delete.await.unwrap().is_err());
            assert!(office.store().resolves_fail.get() > 0, "told while nobody knew");
            assert_eq!(office.cached("k"), None, "absent while its fate is not known");
            assert_eq!(office.looked_up("k").await.is_some(), fate == Fate::LostBefore, "readers go on");
            assert_eq!(office.cached("k"), None, "and what they find is not remembered");
            while office.store().resolves_fail.get() > 0 {
                settled().await;
            }
            // The last wait before it is asked once more.
            office.desk.clock.sleep(Duration::from_secs(2)).await;
            settled().await;
            assert_eq!(office.looked_up("k").await.is_some(), fate == Fate::LostBefore);
            assert_eq!(office.cached("k").is_some(), fate == Fate::LostBefore, "remembered again");
            let orphan = BlobId(live.blob.id.0 + 1);
            let want = if fate == Fate::LostAfter { Some(BlobState::Doomed) } else { None };
            assert_eq!(office.state(orphan), want, "a begin that nobody heard of is ended, and not run again");
        });
    }
}

#[test]
fn a_key_whose_caller_was_told_before_its_batch_failed_is_remembered_again() {
    with_desk(DeskLimits::default(), |office| async move {
        office.put("k").await;
        office.close_the_gate().await;
        office.store().fates.borrow_mut().push_back(Fate::NotApplied);
        let begin = ask(&office, office.begin("other"));
        let delete = Delete { bucket: bucket(), key: key("k"), condition: WriteCondition::default() };
        let delete = ask(&office, delete);
        assert!(begin.await.unwrap().is_err() && delete.await.unwrap().is_err(), "the batch does not come back");
        assert_eq!(office.store().tried.borrow().last().map(Vec::len), Some(2), "of both");
        assert!(office.looked_up("k").await.is_some());
        assert_eq!(office.cached("k"), None, "its fate is not known yet");
        office.open_the_gate();
        settled().await;
        assert!(office.looked_up("k").await.is_some());
        assert!(office.cached("k").is_some());
    });
}

#[test]
fn what_was_begun_for_a_caller_that_went_away_is_ended() {
    with_desk(DeskLimits::default(), |office| async move {
        office.close_the_gate().await;
        let begin = ask(&office, office.begin("k"));
        settled().await;
        begin.abort();
        settled().await;
        // Its end fails once, and is asked for again when the store works again.
        office.store().fates.borrow_mut().extend([Fate::Fine, Fate::NotApplied]);
        office.open_the_gate();
        settled().await;
        assert_eq!(office.state(BlobId(1)), Some(BlobState::Reserved));
        office.put("other").await;
        settled().await;
        assert_eq!(office.state(BlobId(1)), Some(BlobState::Doomed));
        assert_eq!(office.state(BlobId(2)), Some(BlobState::Live));
    });
}

#[test]
fn the_cache_holds_what_is_committed_and_nothing_else() {
    with_desk(DeskLimits::default(), |office| async move {
        let first = office.put("k").await;
        assert_eq!(office.cached("k"), None, "lookups fill it");
        assert_eq!(office.looked_up("k").await.map(|live| live.version), Some(first.version));
        assert_eq!(office.cached("k").map(|live| live.version), Some(first.version));

        // A lookup that was sent before a commit and comes back after it.
        office.store().queries_may_run.forget_permits(1000);
        let touched = [Change::from(Delete { bucket: bucket(), key: key("k"), condition: WriteCondition::default() })];
        office.desk.locations.borrow_mut().hold(&touched);
        office.desk.locations.borrow_mut().release(&touched);
        let slow = {
            let office = office.clone();
            spawn(async move { office.looked_up("k").await })
        };
        settled().await;
        let second = office.put("k").await;
        office.store().queries_may_run.add_permits(1000);
        assert_eq!(slow.await.unwrap().map(|live| live.version), Some(first.version), "it began before");
        assert_eq!(office.cached("k"), None, "and is not remembered");
        assert_eq!(office.looked_up("k").await.map(|live| live.version), Some(second.version));

        // Absent from before the transaction until after it.
        let third = ask(&office, office.begin("k")).await.unwrap().unwrap().unwrap();
        assert!(office.cached("k").is_some(), "a begin alters nothing");
        office.close_the_gate().await;
        let commit = ask(&office, office.commit("k", &third));
        settled().await;
        assert_eq!(office.cached("k"), None);
        assert_eq!(office.looked_up("k").await.map(|live| live.version), Some(second.version));
        assert_eq!(office.cached("k"), None, "not brought back while it runs");
        office.open_the_gate();
        assert!(commit.await.unwrap().unwrap().is_ok());
        assert_eq!(office.looked_up("k").await.map(|live| live.version), Some(third.version));
        assert_eq!(office.cached("k").map(|live| live.version), Some(third.version));
        office
            .meta
            .step(Delete { bucket: bucket(), key: key("k"), condition: WriteCondition::default() })
            .await
            .unwrap()
            .unwrap();
        assert_eq!((office.cached("k"), office.looked_up("k").await), (None, None));
    });
}

#[test]
fn too_much_is_refused_but_ends_never_are() {
    let limits = DeskLimits { waiting_changes_max: 3, queries_max: 2, ..DeskLimits::default() };
    with_desk(limits, |office| async move {
        let begun = ask(&office, office.begin("k")).await.unwrap().unwrap().unwrap();
        office.close_the_gate().await;
        let running = ask(&office, office.begin("running"));
        settled().await;
        let waiting: Vec<_> = (0..3).map(|i| ask(&office, office.begin(&format!("w{i}")))).collect();
        settled().await;
        let refused = ask(&office, office.begin("more")).await.unwrap().expect_err("too many wait");
        assert_eq!(refused.kind, crate::base::failure::Kind::Overloaded);
        let end = ask(&office, office.commit("k", &begun));
        settled().await;
        office.open_the_gate();
        assert!(end.await.unwrap().expect("an end is taken").is_ok());
        for one in waiting.into_iter().chain([running]) {
            assert!(one.await.unwrap().is_ok());
        }

        office.store().queries_may_run.forget_permits(1000);
        let look = || {
            let office = office.clone();
            spawn(async move { office.meta.query(Query::Lookup { bucket: "bkt".into(), key: "none".into() }).await })
        };
        let (first, second) = (look(), look());
        settled().await;
        let refused = look().await.unwrap().expect_err("too many are under way");
        assert_eq!(refused.kind, crate::base::failure::Kind::Overloaded);
        office.store().queries_may_run.add_permits(1000);
        assert!(first.await.unwrap().is_ok() && second.await.unwrap().is_ok());
        assert_eq!(office.desk.cells.refused.value(), 2);
    });
}

#[test]
fn a_new_board_shows_what_was_charged_before() {
    with_desk(DeskLimits::default(), |office| async move {
        office.put("k").await;
        let board = Arc::new(Board::new([0, 0]));
        office.desk.show_on(board.clone(), vec![name("new"), name("a")]);
        assert_eq!((board.charged_bytes(0), board.charged_bytes(1)), (0, 10));
        office.put("l").await;
        assert_eq!((board.charged_bytes(1), office.board.charged_bytes(0)), (20, 10));
    });
}

mod outage;
mod quiet;
mod several;
mod staleness;
