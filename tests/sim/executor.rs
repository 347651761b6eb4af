//! A single-threaded, deterministic executor: tasks are polled one at a time in an order that the seed decides, time is
//! virtual and jumps to the next timer when nobody can go on, and every poll and reported event is folded into one hash,
//! so that two runs of a seed can be compared.
//!
//! Tasks belong to a group (one run of the instance, or the world outside it); a crash drops a whole group at once.

use s3_orchestrator::base::{Clock, Dice, Tick, Timestamp};
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// Who a task belongs to: dropped together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Group(pub u64);

/// The world outside the instance: clients, bytes that are under way, the operator.
pub const WORLD: Group = Group(0);

/// A handle to the executor; clones share it.
#[derive(Clone)]
pub struct Sim(Rc<Inner>);

struct Inner {
    now_nanos: Cell<u64>,
    chance: Cell<u64>,
    steps: Cell<u64>,
    hash: Cell<u64>,
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<usize>>,
    ready: Arc<Ready>,
    timers: RefCell<BinaryHeap<Reverse<Timer>>>,
    timers_made: Cell<u64>,
}

struct Slot {
    generation: u64,
    group: Group,
    task: Option<Pin<Box<dyn Future<Output = ()>>>>,
    waker: Option<Waker>,
}

/// Tasks that were woken, in the order of their wakes; each stands here at most once.
#[derive(Default)]
struct Ready {
    woken: Mutex<Vec<(usize, u64)>>,
}

struct TaskWaker {
    slot: usize,
    generation: u64,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut woken = self.ready.woken.lock().expect("one thread");
        let entry = (self.slot, self.generation);
        if !woken.contains(&entry) {
            woken.push(entry);
        }
    }
}

struct Timer {
    at_nanos: u64,
    order: u64,
    alive: Rc<Cell<bool>>,
    waker: Waker,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        (self.at_nanos, self.order) == (other.at_nanos, other.order)
    }
}
impl Eq for Timer {}
impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_nanos, self.order).cmp(&(other.at_nanos, other.order))
    }
}

/// What a poll costs in virtual time, so that two events are never simultaneous.
const STEP_NANOS: u64 = 1_000;
/// The virtual day on which every run starts: 2026-01-01.
const EPOCH_MILLIS: i64 = 1_767_225_600_000;

impl Sim {
    pub fn new(seed: u64) -> Self {
        Self(Rc::new(Inner {
            now_nanos: Cell::new(0),
            chance: Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d),
            steps: Cell::new(0),
            hash: Cell::new(0xcbf2_9ce4_8422_2325),
            slots: RefCell::default(),
            free: RefCell::default(),
            ready: Arc::default(),
            timers: RefCell::default(),
            timers_made: Cell::new(0),
        }))
    }

    /// Starts a task. It is polled for the first time when the dice choose it.
    pub fn spawn(&self, group: Group, task: impl Future<Output = ()> + 'static) {
        let inner = &self.0;
        let mut slots = inner.slots.borrow_mut();
        let at = inner.free.borrow_mut().pop().unwrap_or_else(|| {
            slots.push(Slot { generation: 0, group, task: None, waker: None });
            slots.len() - 1
        });
        let slot = &mut slots[at];
        slot.generation += 1;
        slot.group = group;
        slot.task = Some(Box::pin(task));
        let waker = TaskWaker { slot: at, generation: slot.generation, ready: inner.ready.clone() };
        let waker = Waker::from(Arc::new(waker));
        waker.wake_by_ref();
        slot.waker = Some(waker);
    }

    /// Drops every task of a group, wherever it stands, as a SIGKILL would end it.
    pub fn kill(&self, group: Group) {
        let count = self.0.slots.borrow().len();
        for at in 0..count {
            let dropped = {
                let mut slots = self.0.slots.borrow_mut();
                let slot = &mut slots[at];
                if slot.group != group || slot.task.is_none() {
                    continue;
                }
                self.0.free.borrow_mut().push(at);
                slot.waker = None;
                slot.task.take()
            };
            // Outside the borrow: a dropped future's guards may look at the executor.
            drop(dropped);
        }
    }

    /// Tasks of a group that have not ended.
    pub fn live_tasks(&self, group: Group) -> usize {
        self.0.slots.borrow().iter().filter(|slot| slot.group == group && slot.task.is_some()).count()
    }

    /// One step: polls a ready task, or lets time pass to the next timer. False when nothing will ever happen again.
    pub fn step(&self) -> bool {
        loop {
            let chosen = {
                let mut woken = self.0.ready.woken.lock().expect("one thread");
                match woken.len() {
                    0 => None,
                    count => {
                        let at = self.below(count as u64) as usize;
                        Some(woken.swap_remove(at))
                    }
                }
            };
            match chosen {
                Some((slot, generation)) if self.poll(slot, generation) => return true,
                Some(_) => {}
                None if !self.pass_time() => return false,
                None => {}
            }
        }
    }

    /// False if the task had ended before its wake was looked at.
    fn poll(&self, at: usize, generation: u64) -> bool {
        let (mut task, waker) = {
            let mut slots = self.0.slots.borrow_mut();
            let slot = &mut slots[at];
            if slot.generation != generation {
                return false;
            }
            let Some(task) = slot.task.take() else { return false };
            (task, slot.waker.clone().expect("a live task has its waker"))
        };
        self.0.steps.set(self.0.steps.get() + 1);
        self.0.now_nanos.set(self.0.now_nanos.get() + STEP_NANOS);
        self.event(at as u64);
        let ended = task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if ended {
            self.0.free.borrow_mut().push(at);
            self.0.slots.borrow_mut()[at].waker = None;
            drop(task);
        } else {
            self.0.slots.borrow_mut()[at].task = Some(task);
        }
        true
    }

    /// Jumps to the next timer that somebody still waits for, and wakes all that are due then.
    fn pass_time(&self) -> bool {
        let mut timers = self.0.timers.borrow_mut();
        while timers.peek().is_some_and(|Reverse(timer)| !timer.alive.get()) {
            timers.pop();
        }
        let Some(Reverse(first)) = timers.peek() else { return false };
        let now = first.at_nanos.max(self.0.now_nanos.get());
        self.0.now_nanos.set(now);
        while timers.peek().is_some_and(|Reverse(timer)| timer.at_nanos <= now) {
            let Reverse(timer) = timers.pop().expect("peeked");
            timer.waker.wake();
        }
        true
    }

    /// Folds something that happened into the run's hash.
    pub fn event(&self, what: u64) {
        let mixed =
            (self.0.hash.get() ^ what ^ self.0.now_nanos.get().rotate_left(17)).wrapping_mul(0x0000_0100_0000_01b3);
        self.0.hash.set(mixed ^ (mixed >> 29));
    }

    pub fn hash(&self) -> u64 {
        self.0.hash.get()
    }

    pub fn steps(&self) -> u64 {
        self.0.steps.get()
    }

    pub fn now_nanos(&self) -> u64 {
        self.0.now_nanos.get()
    }

    /// Uniform enough for a simulator: 0 <= result < bound.
    pub fn below(&self, bound: u64) -> u64 {
        self.roll() % bound
    }

    /// True `per_mille` times in a thousand.
    pub fn chance(&self, per_mille: u64) -> bool {
        per_mille > 0 && self.below(1000) < per_mille
    }

    pub fn sleep_for(&self, wait: Duration) -> Sleep {
        let at_nanos = self.tick().after(wait).nanos;
        Sleep { sim: self.clone(), at_nanos, alive: Rc::new(Cell::new(true)), armed: false }
    }

    /// Lets everybody else go first, once.
    pub async fn pause(&self) {
        let mut first = true;
        std::future::poll_fn(|context| {
            if std::mem::take(&mut first) {
                context.waker().wake_by_ref();
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }
}

impl Dice for Sim {
    /// SplitMix64.
    fn roll(&self) -> u64 {
        let state = self.0.chance.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.chance.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Clock for Sim {
    fn tick(&self) -> Tick {
        Tick { nanos: self.now_nanos() }
    }

    fn now(&self) -> Timestamp {
        Timestamp { millis: EPOCH_MILLIS + (self.now_nanos() / 1_000_000) as i64 }
    }

    async fn sleep(&self, wait: Duration) {
        self.sleep_for(wait).await;
    }
}

/// Dropped before its time, it no longer moves the clock.
pub struct Sleep {
    sim: Sim,
    at_nanos: u64,
    alive: Rc<Cell<bool>>,
    armed: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.sim.now_nanos() >= self.at_nanos {
            return Poll::Ready(());
        }
        if !self.armed {
            self.armed = true;
            let inner = &self.sim.0;
            let order = inner.timers_made.get();
            inner.timers_made.set(order + 1);
            let timer =
                Timer { at_nanos: self.at_nanos, order, alive: self.alive.clone(), waker: context.waker().clone() };
            inner.timers.borrow_mut().push(Reverse(timer));
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.alive.set(false);
    }
}

#[test]
fn time_passes_only_when_nobody_can_go_on() {
    let sim = Sim::new(1);
    let order = Rc::new(RefCell::new(Vec::new()));
    for (name, wait_ms) in [("late", 20), ("early", 10), ("now", 0)] {
        let (sim_in, order) = (sim.clone(), order.clone());
        sim.spawn(WORLD, async move {
            sim_in.sleep(Duration::from_millis(wait_ms)).await;
            order.borrow_mut().push(name);
        });
    }
    while sim.step() {}
    assert_eq!(*order.borrow(), ["now", "early", "late"]);
    assert!((20_000_000..21_000_000).contains(&sim.now_nanos()));
}

#[test]
fn a_killed_group_ends_and_the_others_go_on() {
    let sim = Sim::new(2);
    let count = Rc::new(Cell::new(0));
    for group in [Group(1), Group(1), Group(2)] {
        let (sim_in, count) = (sim.clone(), count.clone());
        sim.spawn(group, async move {
            sim_in.sleep(Duration::from_millis(5)).await;
            count.set(count.get() + 1);
        });
    }
    sim.kill(Group(1));
    while sim.step() {}
    assert_eq!((count.get(), sim.live_tasks(Group(1))), (1, 0));
}
