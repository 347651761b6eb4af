//! A location cache beside other writers (`location_cache.max_staleness`): theirs are seen when the bound is over, ours at once.

use super::*;
use crate::base::Version;

const BOUND: Duration = Duration::from_secs(5);

fn with_bound<F: Future<Output = ()>>(scenario: impl FnOnce(Rc<Office>) -> F) {
    with_desk_and(DeskLimits::default(), Locations::memory, Trust::Within(BOUND), |office| {
        // An age of zero would be the start of the clock.
        office.clock.advance(Duration::from_secs(1));
        scenario(office)
    });
}

impl Office {
    async fn version(&self, text: &str) -> Option<Version> {
        self.looked_up(text).await.map(|one| one.version)
    }

    async fn version_afresh(&self, text: &str) -> Option<Version> {
        let mut into = Located::empty();
        self.meta.lookup_afresh("bkt", text, &mut into).await.expect("answered").then_some(into.version)
    }

    /// A lookup that has been sent and is not answered yet.
    async fn slow_lookup(self: &Rc<Self>, text: &'static str) -> tokio::task::JoinHandle<Option<Version>> {
        self.store().queries_may_run.forget_permits(1000);
        let office = self.clone();
        let slow = spawn(async move { office.version_afresh(text).await });
        settled().await;
        slow
    }

    fn let_lookups_answer(&self) {
        self.store().queries_may_run.add_permits(1000);
    }

    /// Goes on to this long after that; time passes by itself only while somebody waits for the store.
    fn pass(&self, since: Tick, time: Duration) {
        self.clock.advance(since.after(time).since(self.clock.tick()));
    }
}

#[test]
fn what_others_write_is_seen_when_the_bound_is_over() {
    with_bound(|office| async move {
        let began = office.clock.tick();
        let first = office.put("k").await.version;
        let gone = office.put("gone").await.version;
        office.pass(began, BOUND - Duration::from_millis(1));
        let second = office.put_by_another("k").await.version;
        office.delete_by_another("gone").await;
        // Written by this process less than the bound ago: answered without asking.
        let asked = office.desk.cells.queries.value();
        assert_eq!((office.version("k").await, office.version("gone").await), (Some(first), Some(gone)));
        assert_eq!(office.desk.cells.queries.value(), asked);
        office.pass(office.clock.tick(), BOUND);
        assert_eq!((office.version("k").await, office.version("gone").await), (Some(second), None));

        // The same of what a lookup has told, counted from when it was sent.
        office.pass(office.clock.tick(), BOUND);
        let began = office.clock.tick();
        let slow = office.slow_lookup("k").await;
        let sent = office.clock.tick();
        office.clock.advance(Duration::from_secs(1));
        office.let_lookups_answer();
        assert_eq!(slow.await.unwrap(), Some(second));
        let third = office.put_by_another("k").await.version;
        office.pass(began, BOUND - Duration::from_millis(1));
        assert_eq!(office.version("k").await, Some(second), "within the bound");
        office.pass(sent, BOUND);
        assert_eq!(office.version("k").await, Some(third));
        let fourth = office.put_by_another("k").await.version;
        assert_eq!(office.version_afresh("k").await, Some(fourth), "whoever needs to know asks");
        assert_eq!(office.version("k").await, Some(fourth), "and others know it too then");
    });
}

#[test]
fn what_this_process_writes_is_seen_at_once() {
    with_bound(|office| async move {
        office.put("k").await;
        let second = office.put("k").await.version;
        let asked = office.desk.cells.queries.value();
        assert_eq!(office.version("k").await, Some(second));
        assert_eq!(office.desk.cells.queries.value(), asked, "without asking");

        let (bucket, key) = (bucket(), key("k"));
        let tags = vec![("a".to_owned(), "b".to_owned())];
        let set = SetTags { bucket: bucket.clone(), key: key.clone(), tags: tags.clone() };
        let slow = office.slow_lookup("k").await;
        office.meta.step(set).await.unwrap().unwrap();
        office.let_lookups_answer();
        slow.await.unwrap();
        assert_eq!(office.looked_up("k").await.map(|one| one.record.tags), Some(tags), "a lookup was overtaken");
        office.meta.step(Delete { bucket, key, condition: WriteCondition::default() }).await.unwrap().unwrap();
        assert_eq!(office.version("k").await, None);
    });
}

#[test]
fn what_a_batch_may_alter_is_asked_for_until_its_outcome_is_known() {
    with_bound(|office| async move {
        let first = office.put("k").await.version;
        let begun = office.meta.step(office.begin("k")).await.unwrap().unwrap();
        office.store().fates.borrow_mut().push_back(Fate::LostAfter);
        office.store().resolves_fail.set(3);
        office.close_the_gate().await;
        let commit = ask(&office, office.commit("k", &begun));
        settled().await;
        let asked = office.desk.cells.queries.value();
        assert_eq!(office.version("k").await, Some(first));
        assert_eq!(office.desk.cells.queries.value(), asked + 1, "while it runs");
        let mut into = Located::empty();
        assert!(office.meta.recall("bkt", "k", &mut into) && into.version == first, "still a memory");
        // Asked before it was applied, answered after it is known to be.
        let slow = office.slow_lookup("k").await;
        office.open_the_gate();
        assert!(commit.await.unwrap().unwrap().is_ok());
        office.let_lookups_answer();
        assert_eq!(slow.await.unwrap(), Some(first));
        assert_eq!(office.version("k").await, Some(begun.version));
    });
}
