//! When bytes are deleted, and when a row and its charge end (PROTOCOL.md, "Deleting bytes").

use super::*;

pub(super) fn grace_and_settle<S: MetadataStore>(bench: &Bench<S>) {
    let certain = bench.begin("certain", 10);
    let unsure = bench.begin("unsure", 20);
    let displaced = bench.put("displaced", 30);
    bench.abandon(&certain.blob, false);
    bench.abandon(&unsure.blob, true);
    bench.delete("displaced");
    let due: Vec<BlobId> = bench.due().iter().map(|due| due.blob.id).collect();
    assert_eq!(due, vec![certain.blob.id, unsure.blob.id], "both are tried at once");
    assert_eq!(bench.due_on(&["b", "c"]), vec![], "only where the caller can reach");
    bench.clean();
    assert_eq!(bench.state(&certain.blob), None);
    let row = bench.row(&unsure.blob).expect("its row and charge stay");
    assert_eq!((row.state, row.bytes), (BlobState::Doomed, 20));
    assert_eq!(
        row.not_before,
        bench.now().plus(Duration::from_secs(20 * 60)),
        "due again when it can no longer appear"
    );
    bench.advance(5 * 60 - 1);
    assert_eq!(bench.due(), vec![]);
    bench.advance(1);
    assert_eq!(bench.due().iter().map(|due| due.blob.id).collect::<Vec<_>>(), vec![displaced.blob.id]);
    bench.clean();
    bench.advance(15 * 60);
    assert_eq!(bench.due().iter().map(|due| due.blob.id).collect::<Vec<_>>(), vec![unsure.blob.id]);
    bench.clean();
    assert_eq!(bench.rows("a"), vec![]);
}

/// The DELETE was sent before the settle time ended; that its answer is told after it proves nothing.
pub(super) fn a_late_answer_to_an_early_delete<S: MetadataStore>(bench: &Bench<S>) {
    let unsure = bench.begin("unsure", 20);
    bench.abandon(&unsure.blob, true);
    let early = bench.due().remove(0);
    bench.advance(20 * 60 + 1);
    bench.step(CleanupDone { blob: early.blob.id, found: early.found }).expect("it is doomed");
    assert_eq!(bench.state(&unsure.blob), Some(BlobState::Doomed));
    assert_eq!(bench.clean(), 1, "it is due again at once");
    assert_eq!(bench.state(&unsure.blob), None);
}

pub(super) fn failures_back_off_until_dead<S: MetadataStore>(bench: &Bench<S>) {
    let blob = bench.begin("k", 10).blob;
    bench.abandon(&blob, false);
    let mut wait_minutes = 1;
    for attempt in 1..10 {
        let due = bench.due().remove(0);
        assert_eq!((due.blob.id, due.attempts), (blob.id, attempt - 1));
        let failed = bench.step(CleanupFailed { blob: blob.id, error: format!("error {attempt}") });
        assert_eq!(failed, Ok(CleanupFailedOutcome { dead: false }));
        let wait = Duration::from_secs(60 * wait_minutes);
        assert_eq!(bench.next_cleanup(), Some(bench.now().plus(wait)), "after attempt {attempt}");
        bench.clock.advance(wait - Duration::from_millis(1));
        assert_eq!(bench.due(), vec![]);
        bench.clock.advance(Duration::from_millis(1));
        wait_minutes = (wait_minutes * 2).min(24 * 60);
    }
    let failed = bench.step(CleanupFailed { blob: blob.id, error: "the last".into() });
    assert_eq!(failed, Ok(CleanupFailedOutcome { dead: true }));
    assert_eq!((bench.state(&blob), bench.due(), bench.next_cleanup()), (Some(BlobState::Dead), vec![], None));
    let status = bench.status("a");
    assert_eq!((status.orphan_bytes, status.cleanup_depth, status.dlq_depth), (10, 0, 1));
    let again = bench.step(CleanupFailed { blob: blob.id, error: "late".into() });
    assert_eq!(again, Ok(CleanupFailedOutcome { dead: false }), "it dies once");
    bench.step(CleanupDone { blob: blob.id, found: bench.now() }).expect("a late success ends it");
    assert_eq!(bench.state(&blob), None);
}

pub(super) fn only_doomed_blobs_end<S: MetadataStore>(bench: &Bench<S>) {
    let reserved = bench.begin("r", 10).blob;
    let live = bench.put("l", 10).blob;
    for blob in [&reserved, &live] {
        let before = bench.state(blob);
        assert_eq!(bench.step(CleanupDone { blob: blob.id, found: bench.now() }), Err(Refusal::Lost));
        let failed = bench.step(CleanupFailed { blob: blob.id, error: "?".into() });
        assert_eq!(failed, Ok(CleanupFailedOutcome { dead: false }));
        assert_eq!(bench.state(blob), before);
    }
    let nobody = BlobId(12_345);
    assert_eq!(bench.step(CleanupDone { blob: nobody, found: bench.now() }), Ok(Done), "ended is ended");
    let failed = bench.step(CleanupFailed { blob: nobody, error: "?".into() });
    assert_eq!(failed, Ok(CleanupFailedOutcome { dead: false }));
}
