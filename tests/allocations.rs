//! What must not allocate in steady state, counted by an allocator that wraps the system's.
#![allow(unsafe_code)] // an allocator is an unsafe trait

use s3_orchestrator::base::{BackendName, BlobId, Tick, Timestamp, Version};
use s3_orchestrator::store::location_cache::LocationCache;
use s3_orchestrator::store::record::{BlobAt, Located, ObjectRecord, StoredChecksum};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is the system allocator's, with the arguments as they came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        unsafe { System.realloc(memory, layout, new_bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations_of(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

fn located(number: u64) -> Located {
    let pairs = |count: u64| (0..count).map(|i| (format!("name-{i}-{number}"), format!("value-{number}"))).collect();
    let checksum = StoredChecksum {
        algorithm: "CRC32".into(),
        value: format!("{number:06}=="),
        composite: number.is_multiple_of(2),
    };
    let blob = |i: u64| BlobAt {
        id: BlobId(i as i64),
        backend: BackendName::new(["a", "b", "c"][((number + i) % 3) as usize]),
        name: format!("bkt/key-{number}!{i}"),
        foreign_etag: String::new(),
        version_id: String::new(),
    };
    Located {
        version: Version::from_parts(number, 1),
        size: number,
        etag: format!("etag-{number}"),
        modified: Timestamp { millis: number as i64 },
        record: ObjectRecord {
            headers: pairs(number % 4),
            user_metadata: pairs((number + 1) % 3),
            checksums: (0..number % 3).map(|_| checksum.clone()).collect(),
            tags: pairs((number + 2) % 4),
            parts: 0,
        },
        blobs: (0..1 + number % 3).map(blob).collect(),
    }
}

#[test]
fn a_cached_location_is_read_without_allocating_whatever_was_read_before() {
    let (cache, mut writer) = LocationCache::new(1 << 20, 1);
    let keys: Vec<String> = (0..24).map(|number| format!("key-{number}")).collect();
    for (number, key) in (0..).zip(&keys) {
        let place = writer.place("bkt", key, Tick::default());
        assert!(writer.fill(place, "bkt", key, &located(number)));
    }
    let mut into = Located::empty();
    let mut read_all = || {
        for (number, key) in (0..).zip(&keys) {
            assert!(cache.get("bkt", key, &mut into));
            assert_eq!(into.size, number);
        }
    };
    for _ in 0..50 {
        read_all();
    }
    assert_eq!(allocations_of(read_all), 0);
    assert!(allocations_of(|| drop(located(23))) > 0, "the counter counts");
}
