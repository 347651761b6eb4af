//! The cache is exact: what it answers is what was filled in, whole, and never after it was held.

use super::*;
use crate::base::{BlobId, Timestamp, Version};
use crate::store::record::{BlobAt, ObjectRecord, StoredChecksum};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

/// Everything of a version made from one number, so that a torn or mixed answer cannot look right.
fn located(number: u64) -> Located {
    let text = |what: &str| format!("{what}-{number}");
    let pairs = |count: u64| (0..count).map(|i| (text(&format!("name{i}")), text(&format!("value{i}")))).collect();
    let blob = |i: u64| BlobAt {
        id: BlobId((number * 10 + i) as i64),
        backend: BackendName::new(["near", "far", "nas"][i as usize % 3]),
        name: text(&format!("bkt/key!{i}")),
        foreign_etag: if i == 1 { text("foreign") } else { String::new() },
        version_id: if i == 2 { text("version") } else { String::new() },
    };
    Located {
        version: Version::from_parts(number, u128::from(number)),
        size: number,
        etag: text("etag"),
        modified: Timestamp { millis: number as i64 },
        record: ObjectRecord {
            headers: pairs(number % 4),
            user_metadata: pairs(number % 3),
            checksums: (0..number % 2)
                .map(|_| StoredChecksum { algorithm: "CRC32".into(), value: text("sum"), composite: number % 4 == 1 })
                .collect(),
            tags: pairs(number % 2),
            parts: number as u16,
        },
        blobs: (0..1 + number % 3).map(blob).collect(),
    }
}

fn fill(writer: &mut CacheWriter, key: &str, value: &Located) -> bool {
    let place = writer.place("bkt", key, Tick::default());
    writer.fill(place, "bkt", key, value)
}

#[test]
fn what_was_filled_is_answered_whatever_was_in_the_buffers() {
    let (cache, mut writer) = LocationCache::new(1 << 20, 7);
    for number in 0..24 {
        assert!(fill(&mut writer, &format!("k{number}"), &located(number)));
    }
    let mut into = Located::empty();
    for number in (0..24).chain((0..24).rev()) {
        assert!(cache.get("bkt", &format!("k{number}"), &mut into));
        assert_eq!(into, located(number));
    }
    for (bucket, key) in [("bkt", "k99"), ("bkt2", "k1"), ("bk", "tk1"), ("", "")] {
        assert!(!cache.get(bucket, key, &mut into), "{bucket}/{key}");
    }
}

#[test]
fn a_full_set_gives_way_and_never_lies() {
    let (cache, mut writer) = LocationCache::new((SLOT_BYTES * WAYS) as u64, 7);
    for number in 0..50 {
        assert!(fill(&mut writer, &format!("k{number}"), &located(number)));
    }
    let mut into = Located::empty();
    let found: Vec<u64> = (0..50).filter(|number| cache.get("bkt", &format!("k{number}"), &mut into)).collect();
    assert_eq!(found, [46, 47, 48, 49], "one set holds the last of each of its slots");
    assert!(fill(&mut writer, "k49", &located(7)));
    assert!(cache.get("bkt", "k49", &mut into) && into == located(7), "a key stands in one slot only");
}

#[test]
fn what_may_have_changed_is_not_filled_in() {
    let (cache, mut writer) = LocationCache::new(1 << 20, 7);
    let mut into = Located::empty();
    fill(&mut writer, "k", &located(1));
    writer.hold("bkt", "k");
    assert!(!cache.get("bkt", "k", &mut into), "absent while a transaction is under way");
    assert!(!fill(&mut writer, "k", &located(1)), "and not brought back by a lookup");
    let during = writer.place("bkt", "k", Tick::default());
    writer.release("bkt", "k");
    assert!(!writer.fill(during, "bkt", "k", &located(1)), "nor by one that was sent while it ran");
    assert!(fill(&mut writer, "k", &located(2)), "only by one sent after it");
    let before = writer.place("bkt", "k", Tick::default());
    writer.hold("bkt", "k");
    writer.hold("bkt", "k");
    writer.release("bkt", "k");
    assert!(!fill(&mut writer, "k", &located(3)), "held twice is released twice");
    writer.release("bkt", "k");
    assert!(!writer.fill(before, "bkt", "k", &located(2)));
    assert!(!cache.get("bkt", "k", &mut into));
}

#[test]
fn an_entry_is_trusted_for_its_time() {
    let (cache, mut writer) = LocationCache::new(1 << 20, 7);
    let at = |nanos| Tick { nanos };
    let trust = Trust::Within(Duration::from_nanos(10));
    let answer = |trust, now, into: &mut Located| cache.answer(trust, || at(now), "bkt", "k", into);
    let mut into = Located::empty();
    let early = writer.place("bkt", "k", at(100));
    let late = writer.place("bkt", "k", at(105));
    assert!(writer.fill(late, "bkt", "k", &located(2)));
    assert!(!writer.fill(early, "bkt", "k", &located(1)), "what was asked later stands");
    assert!(answer(trust, 114, &mut into) && into == located(2));
    assert!(!answer(trust, 115, &mut into), "too old");
    assert!(answer(Trust::Exact, 115, &mut into) && !answer(Trust::Nothing, 105, &mut into));

    writer.distrust("bkt", "k");
    assert!(!answer(trust, 106, &mut into), "a transaction may alter it");
    assert!(cache.get("bkt", "k", &mut into) && into == located(2), "as a memory it stays");
    let during = writer.place("bkt", "k", at(107));
    assert!(!writer.fill(during, "bkt", "k", &located(2)));
    writer.trust_again("bkt", "k");
    assert!(!writer.fill(during, "bkt", "k", &located(2)) && !answer(trust, 108, &mut into));
    let after = writer.place("bkt", "k", at(108));
    assert!(writer.fill(after, "bkt", "k", &located(3)));
    assert!(answer(trust, 109, &mut into) && into == located(3));
}

#[test]
fn what_does_not_fit_is_not_cached() {
    let (cache, mut writer) = LocationCache::new(1 << 20, 7);
    let with_etag = |length: usize| Located { etag: "e".repeat(length), ..located(0) };
    let mut into = Located::empty();
    let largest =
        (0..PAYLOAD_BYTES).rev().find(|&length| fill(&mut writer, "k", &with_etag(length))).expect("some fit");
    assert!(cache.get("bkt", "k", &mut into) && into == with_etag(largest));
    assert!(!fill(&mut writer, "k", &with_etag(largest + 1)));
    let crowded = ObjectRecord { tags: vec![(String::new(), String::new()); 300], ..ObjectRecord::default() };
    assert!(!fill(&mut writer, "m", &Located { record: crowded, ..located(0) }));

    let (none, mut writer) = LocationCache::new(100, 7);
    assert!(!fill(&mut writer, "k", &located(1)) && !none.get("bkt", "k", &mut into), "no cache at all");
    writer.hold("bkt", "k");
    writer.release("bkt", "k");
    writer.distrust("bkt", "k");
    writer.trust_again("bkt", "k");
}

/// Two readers against one writer that never rests: an answer is always whole, and never older than one before it.
#[test]
fn readers_see_whole_entries_while_they_are_rewritten() {
    let (cache, mut writer) = LocationCache::new((SLOT_BYTES * WAYS) as u64, 7);
    let stop = AtomicBool::new(false);
    let seen = [AtomicU64::new(0), AtomicU64::new(0)];
    std::thread::scope(|scope| {
        for seen in &seen {
            let (cache, stop) = (&cache, &stop);
            scope.spawn(move || {
                let mut into = Located::empty();
                let mut last = 0;
                while !stop.load(Relaxed) {
                    if cache.get("bkt", "k", &mut into) {
                        if into != located(into.size) || into.size < last {
                            stop.store(true, Relaxed);
                            panic!("{into:?} after {last}");
                        }
                        last = into.size;
                        seen.fetch_add(1, Relaxed);
                    }
                }
            });
        }
        let mut number = 0;
        let enough = |number: u64| number >= 5_000 && seen.iter().all(|seen| seen.load(Relaxed) >= 1_000);
        while !enough(number) && !stop.load(Relaxed) {
            number += 1;
            writer.hold("bkt", "k");
            writer.release("bkt", "k");
            assert!(fill(&mut writer, "k", &located(number)));
            fill(&mut writer, &format!("other{}", number % 9), &located(number));
        }
        stop.store(true, Relaxed);
    });
}
