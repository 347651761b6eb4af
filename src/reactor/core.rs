//! What the tasks of one reactor thread share. Made once by that thread, inside its runtime; nothing in it crosses threads
//! except the cells.

use super::buffer::BufferPool;
use super::clock::{CoreClock, monotonic};
use super::deadline::{DEADLINE_TICK_MS, Deadlines};
use super::dice::CoreDice;
use super::driver::DriverKind;
use super::fair::Fair;
use super::outbox::Outbox;
use super::relay::pipe::PipePool;
use crate::backend::budget::{Budgets, Fare};
use crate::base::limits::{BODY_BUFFER_BYTES, HEAD_BYTES_MAX};
use crate::base::{Failure, Incarnation, Mandate, Tenure};
use crate::observe::cells::CoreCells;
use std::cell::OnceCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Unused buffers and pipes are given back to the system after this long.
const TRIM_EVERY_MS: u64 = 5_000;

/// How much one core may hold.
#[derive(Clone, Copy, Debug)]
pub struct CoreLimits {
    /// Head buffers that are kept for reuse, each `HEAD_BYTES_MAX`. More are made as connections need them.
    pub head_buffers_max: usize,
    /// Body buffers, each `BODY_BUFFER_BYTES`: bodies in the copy path at once. More go through smaller ones.
    pub body_buffers_max: usize,
    /// Pipes of up to a mebibyte: bodies spliced at once. Bodies beyond are copied.
    pub pipes_max: usize,
}

impl Default for CoreLimits {
    fn default() -> Self {
        Self { head_buffers_max: 16 * 1024, body_buffers_max: 256, pipes_max: 48 }
    }
}

/// What a request to a backend rests on.
#[derive(Clone, Copy, Debug)]
pub enum Right {
    /// It changes nothing, or what is ours alone.
    Any,
    /// The lease of whoever has reserved what is written.
    Write(Incarnation),
    Delete(Mandate),
}

/// What a body to or from a backend rests on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Footing {
    /// The lease of whoever has reserved what is written.
    pub writer: Option<Incarnation>,
    /// What was taken for it of the backend's monthly budget.
    pub fare: Option<Fare>,
}

pub struct Core {
    pub driver: DriverKind,
    pub clock: Rc<CoreClock>,
    pub dice: CoreDice,
    pub fair: Rc<Fair>,
    pub outbox: Rc<Outbox>,
    pub deadlines: Rc<Deadlines>,
    pub heads: Rc<BufferPool>,
    pub bodies: Rc<BufferPool>,
    pub pipes: Rc<PipePool>,
    pub cells: Arc<CoreCells>,
    /// None: nothing on this core writes for a run that has a lease.
    tenure: OnceCell<Arc<Tenure>>,
    /// None: nothing on this core is paid for.
    budgets: OnceCell<Arc<Budgets>>,
}

impl Core {
    /// Whose lease bodies to backends depend on. Called once, before there are any.
    pub fn set_tenure(&self, tenure: Arc<Tenure>) {
        let _ = self.tenure.set(tenure); // the first one is the process's
    }

    /// What bodies are paid from. Called once, before there are any.
    pub fn set_budgets(&self, budgets: Arc<Budgets>) {
        let _ = self.budgets.set(budgets);
    }

    /// Asked before each piece of a body to or from a backend: otherwise it is cut.
    pub fn may_go_on(&self, footing: Footing) -> Result<(), Failure> {
        if let Some(writer) = footing.writer {
            self.may_write(writer)?;
        }
        let (Some(fare), Some(budgets)) = (footing.fare, self.budgets.get()) else { return Ok(()) };
        let ended = || Failure::metadata("the month that this body was paid for has ended: it is cut");
        if budgets.may_go_on(fare, monotonic) { Ok(()) } else { Err(ended()) }
    }

    /// Asked before every write to a backend, for whoever has begun it. When its lease has passed, others may have given up
    /// what is being written: the body is cut, also when this process has another lease since.
    pub fn may_write(&self, incarnation: Incarnation) -> Result<(), Failure> {
        may_write(self.tenure.get(), incarnation)
    }

    /// Asked directly before each request to a backend: this thread may have slept, or waited for a connection, since its
    /// right to it was known.
    pub fn may_send(&self, right: Right) -> Result<(), Failure> {
        match right {
            Right::Any => Ok(()),
            Right::Write(incarnation) => self.may_write(incarnation),
            Right::Delete(mandate) => may_delete(self.tenure.get(), mandate),
        }
    }

    /// `may_write` for a thread of the disks, which gets to it later.
    pub fn fence(&self, incarnation: Incarnation) -> impl Fn() -> Result<(), Failure> + Send + 'static {
        let tenure = self.tenure.get().cloned();
        move || may_write(tenure.as_ref(), incarnation)
    }

    /// `may_send` of a delete, for a thread of the disks, which gets to it later.
    pub fn delete_fence(&self, mandate: Mandate) -> impl Fn() -> Result<(), Failure> + Send + 'static {
        let tenure = self.tenure.get().cloned();
        move || may_delete(tenure.as_ref(), mandate)
    }

    /// Starts the core's own tasks (yields, ticks). Only inside its runtime.
    pub fn start(driver: DriverKind, limits: CoreLimits, cells: Arc<CoreCells>) -> io::Result<Rc<Self>> {
        let clock = Rc::new(CoreClock::default());
        let outbox = Outbox::start();
        let core = Rc::new(Self {
            driver,
            dice: CoreDice::from_system()?,
            fair: Fair::start(&outbox)?,
            outbox,
            deadlines: Deadlines::new(Rc::clone(&clock)),
            heads: BufferPool::new(HEAD_BYTES_MAX, limits.head_buffers_max),
            bodies: BufferPool::new(BODY_BUFFER_BYTES, limits.body_buffers_max),
            pipes: PipePool::new(limits.pipes_max),
            clock,
            cells,
            tenure: OnceCell::new(),
            budgets: OnceCell::new(),
        });
        let ticking = Rc::clone(&core);
        monoio::spawn(async move { ticking.tick_for_ever().await });
        Ok(core)
    }

    async fn tick_for_ever(&self) {
        let mut until_trim = TRIM_EVERY_MS / DEADLINE_TICK_MS;
        loop {
            monoio::time::sleep(Duration::from_millis(DEADLINE_TICK_MS)).await;
            self.deadlines.sweep(self.clock.refresh());
            until_trim -= 1;
            if until_trim == 0 {
                until_trim = TRIM_EVERY_MS / DEADLINE_TICK_MS;
                self.heads.trim();
                self.bodies.trim();
                self.pipes.trim();
            }
        }
    }
}

fn may_write(tenure: Option<&Arc<Tenure>>, incarnation: Incarnation) -> Result<(), Failure> {
    let lasts = tenure.is_none_or(|tenure| tenure.lasts_for(incarnation, monotonic));
    let passed = || Failure::metadata("this run's lease has passed: its writes are cut");
    if lasts { Ok(()) } else { Err(passed()) }
}

fn may_delete(tenure: Option<&Arc<Tenure>>, mandate: Mandate) -> Result<(), Failure> {
    let covers = tenure.is_none_or(|tenure| tenure.covers(mandate, monotonic));
    let passed = || Failure::metadata("that something may be deleted was asked too long ago, or under another lease");
    if covers { Ok(()) } else { Err(passed()) }
}
