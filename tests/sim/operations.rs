//! What operators do while clients go on: backends are drained, removed and taken back, compared with the database, and the
//! database is held as if it had been restored. Each is asked of the instance that lives, and ends with it if that is killed; what it had
//! set is in the database. In peace all of it is taken back.

use super::counts::count;
use super::instance::Instance;
use super::world::World;
use s3_orchestrator::backend::standing::Standing;
use s3_orchestrator::base::{BackendName, BlobId, Clock};
use s3_orchestrator::handlers::ports::Ports;
use s3_orchestrator::store::port::{Answer, Metadata, Query, Requeue, SetDraining, SetRestored};
use s3_orchestrator::workers::sync::{self, Event, Plan};
use s3_orchestrator::workers::{drain, trim};
use std::rc::Rc;
use std::time::Duration;

pub async fn operate(world: Rc<World>) {
    let sim = world.sim.clone();
    while !world.stopping.get() {
        sim.sleep(Duration::from_millis(200 + sim.below(1_800))).await;
        let Some(instance) = world.instance.borrow().clone() else { continue };
        let backend = world.backends[sim.below(world.backends.len() as u64) as usize].name.clone();
        let (choice, group) = (sim.below(10), instance.group);
        sim.spawn(group, async move { instance.obey(choice, backend).await });
    }
}

impl Instance {
    async fn obey(self: Rc<Self>, choice: u64, backend: BackendName) {
        match choice {
            // What is lost with the database, and what operators have lost, would explain one another.
            5.. if self.world.setting.restored => {}
            0..3 => drop(self.set_draining(backend, true).await),
            3..5 => self.take_back(backend).await,
            8.. => self.remove_for_a_while(backend, choice == 8).await,
            // What is compared while it is held may be adopted, of which nothing here was lost: one or the other.
            _ if self.world.setting.seed.is_multiple_of(2) => self.set_restored(choice.is_multiple_of(2)).await,
            _ => self.compare(backend).await,
        }
    }

    /// Whether the database has said so.
    pub(super) async fn set_draining(&self, backend: BackendName, draining: bool) -> bool {
        let index = self.world.view.backend_index(&backend).expect("a configured backend");
        let done = matches!(self.meta().step(SetDraining { backend, draining }).await, Ok(Ok(_)));
        if done {
            self.standing().set_draining(index, draining);
        }
        done
    }

    pub(super) async fn set_restored(&self, restored: bool) {
        let _ = self.meta().step(SetRestored { restored }).await; // without the database it stays as it is
    }

    /// `sync` of one backend, beside everything else that goes on. Nothing was put back, so it may find nothing to do, but for what
    /// a removal has left there.
    pub(super) async fn compare(&self, backend: BackendName) {
        let Some(_busy) = self.world.removals.compare(&self.world, &backend) else { return };
        let bucket = Some(self.world.view.buckets[0].name.clone());
        let plan = Plan { backends: vec![backend], bucket, prefix: String::new(), dry_run: false, restored: false };
        sync::run(self, &plan, |event| {
            match event {
                Event::Item { found, name, .. } if !self.world.removals.left(&name) => {
                    self.world.violated("I9 (nothing to compare)", format!("{name}: {found:?}"));
                }
                Event::Result(_) => count(&self.world.counts.compared),
                _ => {}
            }
            true
        })
        .await;
    }

    /// What `sync` could not tell the age of is not wanted after all.
    async fn requeue_dead_letters(&self) {
        let dead = Query::Cleanups { dead: true, backend: None, after: BlobId(0), max: 1000 };
        let Ok(Answer::Cleanups(letters)) = self.meta().query(dead).await else { return };
        for letter in letters {
            let _ = self.meta().step(Requeue { blob: letter.blob.id }).await; // again at the next round
        }
    }

    /// The drain worker and the trimmer; at the end everything is taken back.
    pub async fn work_for_operators(self: Rc<Self>) {
        loop {
            self.world.sim.sleep(Duration::from_millis(700)).await;
            if self.world.stopping.get() {
                for backend in &self.world.backends {
                    self.take_back(backend.name.clone()).await;
                }
                if !self.world.setting.restored {
                    self.set_restored(false).await;
                }
                self.requeue_dead_letters().await;
            }
            let drained = drain::pass(&*self).await.unwrap_or_default();
            let finished = drained.iter().filter(|report| report.finished).count() as u64;
            self.world.counts.drained.set(self.world.counts.drained.get() + finished);
            let _ = trim::pass(&*self).await; // again at the next round
        }
    }
}

/// What the database says of draining when a run begins.
pub fn take_over(world: &World, standing: &Standing, draining: &[BackendName]) {
    for index in draining.iter().filter_map(|name| world.view.backend_index(name)) {
        standing.set_draining(index, true);
    }
}
