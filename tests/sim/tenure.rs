//! A run's right to write: that it registers, anew when the database was put back under it, and what it may still do.

use super::instance::Instance;
use super::world::World;
use s3_orchestrator::base::{Clock, Failure, Incarnation, Mandate, Tenure, Tick};
use s3_orchestrator::store::desk::LocalMetadata;
use s3_orchestrator::store::port::*;
use std::rc::Rc;
use std::time::Duration;

/// Nobody ends it but a database that was put back.
pub fn begin_term(world: &World, tenure: &Tenure, registered: &Registered) {
    world.last_incarnation.set(Some(registered.incarnation));
    tenure.set_incarnation(registered.incarnation);
    tenure.renew(Tick { nanos: u64::MAX });
}

pub async fn register(world: &World, calls: &LocalMetadata) -> Registered {
    let backends = world.view.backends.iter();
    let backends = backends.map(|one| BackendLimit { name: one.name.clone(), bytes_limit: one.quota_bytes }).collect();
    let register = Register { deployment: "simulated".into(), backends };
    loop {
        match calls.step(register.clone()).await {
            Ok(Ok(registered)) => return registered,
            Ok(Err(refusal)) => panic!("registering was refused: {refusal:?}"),
            Err(_) => world.sim.sleep(Duration::from_millis(50)).await,
        }
    }
}

impl Instance {
    /// Registers anew when the store has ended this run: the database was put back under it.
    pub async fn keep_lease(self: Rc<Self>) {
        loop {
            self.world.sim.sleep(Duration::from_millis(50)).await;
            if self.tenure.has_ended() {
                let registered = register(&self.world, &self.meta.desk).await;
                begin_term(&self.world, &self.tenure, &registered);
                self.world.recovered();
            }
        }
    }

    pub fn may_delete(&self, mandate: Mandate) -> Result<(), Failure> {
        let covers = self.tenure.covers(mandate, || self.world.sim.tick());
        if covers { Ok(()) } else { Err(Failure::metadata("that was decided too long ago")) }
    }

    pub fn may_write(&self, incarnation: Incarnation) -> Result<(), Failure> {
        let lasts = self.tenure.lasts_for(incarnation, || self.world.sim.tick());
        if lasts { Ok(()) } else { Err(Failure::metadata("this run's lease has passed")) }
    }
}
