//! The database does not answer, and what is remembered for that.

use super::*;

#[test]
fn after_failures_in_a_row_nobody_is_let_through_until_a_probe_succeeds() {
    with_desk(DeskLimits::default(), |office| async move {
        let circuit = office.desk.state();
        let circuit = &circuit.circuit;
        office.put("k").await;
        office.store().fates.borrow_mut().extend([Fate::NotApplied; 4]);
        for text in ["a", "b", "c"] {
            assert!(circuit.is_closed());
            assert!(ask(&office, office.begin(text)).await.unwrap().is_err());
        }
        assert!(!circuit.is_closed(), "three in a row");
        office.store().tried.borrow_mut().clear();
        assert!(ask(&office, office.begin("d")).await.unwrap().is_err());
        assert!(office.store().tried.borrow().is_empty(), "the database was not asked");
        assert!(office.looked_up("k").await.is_some(), "queries work still");
        // The first probe fails, the second does not.
        for _ in 0..2 {
            assert!(!circuit.is_closed());
            office.desk.clock.sleep(Duration::from_secs(20)).await;
            settled().await;
        }
        assert!(circuit.is_closed());
        assert_eq!(office.store().tried.borrow().concat().len(), 0, "probes change nothing");
        office.put("d").await;
    });
}

#[test]
fn a_probe_that_is_refused_was_answered() {
    with_desk(DeskLimits::default(), |office| async move {
        office.store().fates.borrow_mut().extend([Fate::NotApplied, Fate::NotApplied, Fate::NotApplied, Fate::Refused]);
        for text in ["a", "b", "c"] {
            assert!(ask(&office, office.begin(text)).await.unwrap().is_err());
        }
        assert!(!office.desk.state().circuit.is_closed());
        office.desk.clock.sleep(Duration::from_secs(20)).await;
        settled().await;
        assert!(office.desk.state().circuit.is_closed(), "or a run that was ended meanwhile could never register anew");
    });
}

#[test]
fn a_query_that_is_not_answered_is_told_in_time_and_then_refused() {
    with_desk(DeskLimits::default(), |office| async move {
        office.put("k").await;
        office.store().queries_may_run.forget_permits(usize::MAX >> 4);
        let started = office.clock.tick();
        let lookup = || Query::Lookup { bucket: bucket().as_str().into(), key: "k".into() };
        let (a, b, c) = tokio::join!(
            office.meta.query(lookup()),
            office.meta.query(lookup()),
            office.meta.query(Query::Lookup { bucket: "other".into(), key: "k".into() }),
        );
        assert!(a.is_err() && b.is_err() && c.is_err());
        let waited = office.clock.tick().since(started);
        assert!(waited >= Duration::from_secs(2) && waited < Duration::from_secs(4), "{waited:?}");
        let state = office.desk.state();
        assert!(!state.circuit.is_closed(), "three in a row");
        let started = office.clock.tick();
        assert!(office.meta.query(lookup()).await.is_err());
        assert!(office.clock.tick().since(started) < Duration::from_secs(1), "at once");
        office.store().queries_may_run.add_permits(1000);
        office.desk.clock.sleep(Duration::from_secs(25)).await;
        settled().await;
        assert!(state.circuit.is_closed());
        assert!(office.meta.query(lookup()).await.is_ok());
    });
}

#[test]
fn writers_alone_open_the_breaker_of_a_database_that_hangs() {
    with_desk(DeskLimits::default(), |office| async move {
        office.close_the_gate().await;
        let asked: Vec<_> = ["running", "a", "b"].map(|text| ask(&office, office.begin(text))).into();
        for one in asked {
            assert!(one.await.unwrap().is_err());
        }
        let state = office.desk.state();
        assert!(!state.circuit.is_closed(), "three were told that it does not answer");
        assert_eq!(office.store().sessions_dropped.get(), 1, "what hangs is cut");
        office.desk.clock.sleep(Duration::from_secs(60)).await;
        office.open_the_gate();
        office.desk.clock.sleep(Duration::from_secs(60)).await;
        settled().await;
        assert!(state.circuit.is_closed());
        let dropped = office.store().sessions_dropped.get();
        office.put("k").await;
        assert_eq!(office.store().sessions_dropped.get(), dropped);
    });
}

#[test]
fn a_memory_is_no_authority_and_keeps_what_it_heard() {
    with_desk_and(DeskLimits::default(), Locations::memory, Trust::Nothing, |office| async move {
        let recalled = |text: &str| {
            let mut into = Located::empty();
            office.meta.recall("bkt", text, &mut into).then_some(into)
        };
        let first = office.put("k").await;
        let known = recalled("k").expect("remembered from its write");
        assert_eq!(Some(known), office.looked_up("k").await, "as the database has it");
        office.put("other").await;

        let second = office.put_by_another("k").await;
        office.delete_by_another("other").await;
        assert_eq!(recalled("k").map(|one| one.version), Some(first.version), "old, but better than nothing");
        assert_eq!(office.looked_up("k").await.map(|one| one.version), Some(second.version), "never instead of asking");
        assert_eq!(recalled("k").map(|one| one.version), Some(second.version));
        assert!(recalled("other").is_some());
        assert_eq!((office.looked_up("other").await, recalled("other")), (None, None));

        let delete = Delete { bucket: bucket(), key: key("k"), condition: WriteCondition::default() };
        office.meta.step(delete).await.unwrap().unwrap();
        assert_eq!(recalled("k"), None);

        // A lookup that is overtaken by a write of this process.
        office.put("k").await;
        office.store().queries_may_run.forget_permits(1000);
        let slow = {
            let office = office.clone();
            spawn(async move { office.looked_up("k").await })
        };
        settled().await;
        let third = office.put("k").await;
        office.store().queries_may_run.add_permits(1000);
        assert!(slow.await.unwrap().is_some_and(|one| one.version < third.version));
        assert_eq!(recalled("k").map(|one| one.version), Some(third.version));

        // What became of the last write is not known, and then that it was not.
        office.store().fates.borrow_mut().push_back(Fate::Fine);
        office.store().fates.borrow_mut().push_back(Fate::NotApplied);
        let fourth = office.meta.step(office.begin("k")).await.unwrap().unwrap();
        assert!(office.meta.step(office.commit("k", &fourth)).await.is_err());
        assert_eq!(recalled("k").map(|one| one.version), Some(third.version));
    });
}
