//! Several batches under way: what may be beside what, and what waits for whom.

use super::*;

/// A desk whose store bears three batches at a time; those with the key `slow` stay there until `let_go`. Nobody concludes from
/// a few failures that the database is away.
fn with_several<F: Future<Output = ()>>(beside_min: impl Into<Option<usize>>, scenario: impl FnOnce(Rc<Office>) -> F) {
    let limits = DeskLimits { beside_changes_min: beside_min.into(), ..DeskLimits::default() };
    let patient = BreakerSettings { failure_threshold: 100, ..limits.breaker };
    with_desk(DeskLimits { breaker: patient, ..limits }, |office| async move {
        office.store().in_flight.set(3);
        office.store().stuck.set(Some("slow"));
        scenario(office).await;
    });
}

impl Office {
    fn let_go(&self) {
        self.store().stuck_may_run.add_permits(1000);
    }

    fn tried(&self) -> Vec<Vec<String>> {
        self.store().tried.borrow().clone()
    }
}

type Begins = tokio::task::JoinHandle<Result<Result<Begun, Refusal>, Failure>>;

fn ask_begin(office: &Rc<Office>, text: &str) -> Begins {
    ask(office, office.begin(text))
}

async fn begun(asked: Begins) -> Begun {
    asked.await.unwrap().expect("answered").expect("there is room")
}

#[test]
fn a_subject_under_way_keeps_its_changes_waiting_and_no_others() {
    with_several(1, |office| async move {
        let slow = ask_begin(&office, "slow");
        settled().await;
        let (behind, beside) = (ask_begin(&office, "slow"), ask_begin(&office, "x"));
        let beside = begun(beside).await;
        settled().await;
        office.meta.step(office.commit("x", &beside)).await.expect("answered").expect("nothing is in the way");
        assert_eq!(office.tried(), [["slow"], ["x"], ["x"]], "answered while another batch is under way");
        assert!(!slow.is_finished() && !behind.is_finished());
        office.let_go();
        let (first, second) = (begun(slow).await, begun(behind).await);
        assert!(first.version < second.version, "one key's changes keep their order");
        assert_eq!(office.tried()[3..], [["slow"]]);
    });
}

/// StartComplete waits for its upload, and what is behind it on its key waits for it.
#[test]
fn what_waits_for_a_batch_under_way_keeps_its_place_for_all_its_subjects() {
    with_several(1, |office| async move {
        let upload = UploadId::from_rolls(0, 1);
        let slow = ask_begin(&office, "slow");
        let reopen = ask(&office, ReopenUpload { upload: upload.clone(), version: Version::from_parts(1, 1) });
        settled().await;
        let complete = ask(&office, start_complete(&upload));
        settled().await;
        let behind = ask_begin(&office, "k");
        settled().await;
        assert_eq!(office.tried(), [["slow", upload.as_str()]]);
        assert!(!behind.is_finished());
        office.let_go();
        begun(slow).await;
        begun(behind).await;
        assert!(reopen.await.unwrap().expect("answered").is_err());
        assert!(complete.await.unwrap().expect("answered").is_err());
        assert_eq!(office.tried()[1..], [["k"], ["k"]]);
    });
}

#[test]
fn what_concerns_everything_is_beside_nothing_and_is_not_overtaken() {
    with_several(1, |office| async move {
        let slow = ask_begin(&office, "slow");
        settled().await;
        let everything = ask(&office, Register { deployment: "d".into(), backends: vec![] });
        settled().await;
        let behind = ask_begin(&office, "x");
        settled().await;
        assert_eq!(office.tried(), [["slow"]]);
        office.let_go();
        begun(slow).await;
        everything.await.unwrap().expect("answered").expect("not refused");
        assert!(behind.await.unwrap().is_ok());
        assert_eq!(office.tried(), [["slow"], ["everything"], ["x"]]);
    });
}

/// Usage, facts and upkeep share a batch with others, but no time with other batches.
#[test]
fn what_is_of_no_object_is_in_the_only_batch_under_way() {
    with_several(1, |office| async move {
        let first = ask_begin(&office, "slow");
        settled().await;
        let upkeep = ask(&office, ForgetOld {});
        settled().await;
        let with_it = ask_begin(&office, "x");
        settled().await;
        assert_eq!(office.tried(), [["slow"]], "it waits until nothing is under way");
        office.store().stuck.set(Some("x"));
        office.store().stuck_may_run.add_permits(1);
        begun(first).await;
        let beside = ask_begin(&office, "y");
        settled().await;
        assert_eq!(office.tried()[1..], [["", "x"]], "and nothing is begun beside it");
        office.let_go();
        upkeep.await.unwrap().expect("answered").expect("not refused");
        begun(with_it).await;
        begun(beside).await;
        assert_eq!(office.tried()[2..], [["y"]]);
    });
}

#[test]
fn nothing_is_begun_beside_a_batch_whose_answer_is_lost_until_it_is_resolved() {
    with_several(1, |office| async move {
        let slow = ask_begin(&office, "slow");
        settled().await;
        office.store().fates.borrow_mut().push_back(Fate::LostAfter);
        office.store().resolves_fail.set(4);
        let lost = ask_begin(&office, "lost");
        while office.desk.cells.answers_lost.value() == 0 {
            tokio::task::yield_now().await;
        }
        let late = ask_begin(&office, "late");
        while office.store().resolves_fail.get() > 0 {
            assert_eq!(office.tried(), [["slow"], ["lost"]]);
            tokio::task::yield_now().await;
        }
        begun(lost).await;
        begun(late).await;
        assert!(!slow.is_finished(), "each batch ends when it ends");
        assert_eq!(office.tried(), [["slow"], ["lost"], ["late"]]);
        office.let_go();
        begun(slow).await;
    });
}

/// The bad one's neighbours are tried alone, and its subjects are held until that is over.
#[test]
fn a_batch_that_is_taken_apart_holds_its_subjects_to_its_end() {
    with_several(2, |office| async move {
        office.store().poison.set(Some("bad"));
        office.store().in_flight.set(2);
        let first = ask_begin(&office, "first");
        settled().await;
        office.close_the_gate().await;
        let blocker = ask_begin(&office, "blocker");
        settled().await;
        let (a, bad) = (ask_begin(&office, "a"), ask_begin(&office, "bad"));
        settled().await;
        let again = ask_begin(&office, "a");
        settled().await;
        office.open_the_gate();
        begun(first).await;
        begun(blocker).await;
        let (first, second) = (begun(a).await, begun(again).await);
        assert!(bad.await.unwrap().is_err());
        assert!(first.version < second.version);
        let tried = office.tried();
        let of_a: Vec<usize> = (0..tried.len()).filter(|at| tried[*at].iter().any(|key| key == "a")).collect();
        let bad = (0..tried.len()).rfind(|at| tried[*at] == ["bad"]).expect("it was tried alone");
        assert!(of_a.len() == 3 && of_a[2] > bad, "{tried:?}");
    });
}

#[test]
fn a_further_batch_is_begun_when_enough_wait_for_it() {
    with_several(3, |office| async move {
        let slow = ask_begin(&office, "slow");
        settled().await;
        let mut asked: Vec<_> = ["x", "y", "slow", "x"].map(|text| ask_begin(&office, text)).into();
        settled().await;
        assert_eq!(office.tried(), [["slow"]], "two of them can be taken");
        asked.push(ask_begin(&office, "z"));
        settled().await;
        assert_eq!(office.tried()[1..], [["x", "y", "z"]]);
        office.let_go();
        begun(slow).await;
        for one in asked {
            begun(one).await;
        }
        assert_eq!(office.tried()[2..], [["slow", "x"]]);
    });
}

#[test]
fn what_is_enough_follows_how_many_there_are() {
    with_several(None, |office| async move {
        office.store().in_flight.set(2);
        let ask_all =
            |keys: std::ops::Range<u32>| keys.map(|n| ask_begin(&office, &format!("k{n}"))).collect::<Vec<Begins>>();
        let slow = ask_begin(&office, "slow");
        settled().await;
        let few = ask_all(0..3);
        settled().await;
        assert_eq!(office.tried(), [["slow"]], "a batch of three is not worth while");
        let mut asked = ask_all(3..4);
        settled().await;
        assert_eq!(office.tried()[1..], [["k0", "k1", "k2", "k3"]]);
        for one in few {
            begun(one).await;
        }
        // A crowd: a part of it is not enough any more, until it is forgotten.
        office.let_go();
        begun(slow).await;
        office.close_the_gate().await;
        asked.extend(ask_all(10..50));
        settled().await;
        assert_eq!(office.tried()[2..].iter().map(Vec::len).collect::<Vec<_>>(), [40], "what is there goes at once");
        asked.extend(ask_all(50..69));
        settled().await;
        assert_eq!(office.tried().len(), 3);
        asked.extend(ask_all(69..70));
        settled().await;
        assert_eq!(office.tried()[3..].iter().map(Vec::len).collect::<Vec<_>>(), [20]);
        office.open_the_gate();
        for one in asked {
            begun(one).await;
        }
    });
}

#[test]
fn who_waits_behind_a_batch_that_hangs_is_told_while_others_go_on() {
    with_several(1, |office| async move {
        let started = office.clock.tick();
        let slow = ask_begin(&office, "slow");
        settled().await;
        let behind = ask_begin(&office, "slow");
        for i in 0.. {
            office.put(&format!("k{i}")).await;
            office.clock.advance(Duration::from_millis(50));
            if behind.is_finished() {
                break;
            }
            assert!(office.clock.tick().since(started) < Duration::from_secs(10), "nobody waits for ever");
        }
        assert!(behind.await.unwrap().is_err() && slow.await.unwrap().is_err());
        let waited = office.clock.tick().since(started);
        assert!(waited >= Duration::from_secs(2) && waited < Duration::from_secs(4), "{waited:?}");
        office.let_go();
        settled().await;
        let tried = office.tried().concat();
        assert_eq!(tried.iter().filter(|key| *key == "slow").count(), 1, "what was refused is not done: {tried:?}");
    });
}
