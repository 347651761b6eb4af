//! The product with an allocator that counts, for the scenario `allocations`: takes the product's command line, and
//! commands on standard input, one a line. Answers go to standard output behind `counted: `, among the log lines.
//!
//!     count             how often each thread has allocated
//!     trace NAME N      remember the stacks of the next N allocations of the threads with this name
//!     stacks            the remembered stacks

#![allow(unsafe_code)] // an allocator cannot be written without

use std::alloc::{GlobalAlloc, Layout};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::BufRead;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// The product's own allocator, counted.
struct Counting(mimalloc::MiMalloc);

#[global_allocator]
static ALLOCATOR: Counting = Counting(mimalloc::MiMalloc);

/// One thread's figures, written by that thread alone.
struct Slot {
    thread: AtomicU32,
    allocations: AtomicU64,
    bytes: AtomicU64,
    /// So many stacks are still to be remembered.
    stacks_left: AtomicU32,
}

/// Threads that ever lived; later ones share the last slot.
const SLOTS: usize = 512;
static TABLE: [Slot; SLOTS] = [const {
    Slot {
        thread: AtomicU32::new(0),
        allocations: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        stacks_left: AtomicU32::new(0),
    }
}; SLOTS];
static TAKEN: AtomicU32 = AtomicU32::new(0);
static STACKS: Mutex<Vec<String>> = Mutex::new(Vec::new());

thread_local! {
    /// The slot of this thread. Made without allocating, because it is used by the allocator.
    static SLOT: Cell<Option<&'static Slot>> = const { Cell::new(None) };
    /// Set while a stack is being remembered, which allocates itself.
    static REMEMBERS: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: every call is passed on to the inner allocator as it came; counting touches atomics and cells only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are those that the inner allocator asks for.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as above.
        unsafe { self.0.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { self.0.dealloc(pointer, layout) }
    }
}

fn count(bytes: usize) {
    // A thread that is ending has no cells any more; what it frees and allocates then is nobody's request.
    let Ok(slot) = SLOT.try_with(|slot| slot.get().unwrap_or_else(|| take_slot(slot))) else { return };
    slot.allocations.store(slot.allocations.load(Relaxed) + 1, Relaxed);
    slot.bytes.store(slot.bytes.load(Relaxed) + bytes as u64, Relaxed);
    if slot.stacks_left.load(Relaxed) > 0 && !REMEMBERS.get() {
        REMEMBERS.set(true);
        slot.stacks_left.store(slot.stacks_left.load(Relaxed) - 1, Relaxed);
        let stack = format!("{bytes} bytes\n{}", Backtrace::force_capture());
        STACKS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(stack);
        REMEMBERS.set(false);
    }
}

fn take_slot(cell: &Cell<Option<&'static Slot>>) -> &'static Slot {
    let slot = &TABLE[(TAKEN.fetch_add(1, Relaxed) as usize).min(SLOTS - 1)];
    slot.thread.store(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs(), Relaxed);
    cell.set(Some(slot));
    slot
}

fn main() -> ExitCode {
    std::thread::Builder::new().name("counted".to_owned()).spawn(obey).expect("a thread for commands");
    s3_orchestrator::cli::main()
}

fn obey() {
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["count"] => println!("counted: counts {}", counts()),
            ["trace", name, stacks] => {
                let stacks = stacks.parse().unwrap_or(1);
                taken().filter(|slot| name_of(slot) == *name).for_each(|slot| slot.stacks_left.store(stacks, Relaxed));
                println!("counted: tracing");
            }
            ["stacks"] => {
                let stacks = STACKS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).join("\n");
                println!("counted: stacks {}", serde_json::Value::from(stacks));
            }
            _ => println!("counted: unknown command {line:?}"),
        }
    }
}

fn taken() -> impl Iterator<Item = &'static Slot> {
    TABLE.iter().take((TAKEN.load(Relaxed) as usize).min(SLOTS))
}

/// Allocations and bytes by thread name.
fn counts() -> serde_json::Value {
    let mut by_name: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for slot in taken() {
        let sum = by_name.entry(name_of(slot)).or_default();
        *sum = (sum.0 + slot.allocations.load(Relaxed), sum.1 + slot.bytes.load(Relaxed));
    }
    serde_json::json!(by_name)
}

fn name_of(slot: &Slot) -> String {
    let thread = slot.thread.load(Relaxed);
    fs::read_to_string(format!("/proc/self/task/{thread}/comm"))
        .map_or_else(|_| "ended".to_owned(), |name| name.trim().to_owned())
}
