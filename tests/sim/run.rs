//! One run of a seed: boots, clients, crashes and outages; then peace, and the last look.

use super::backend::Faults;
use super::client::Client;
use super::copy;
use super::counts::count;
use super::executor::{Group, Sim, WORLD};
use super::instance::Instance;
use super::operations;
use super::store::StoreFaults;
use super::world::{KEYS, Setting, World};
use s3_orchestrator::base::Clock;
use s3_orchestrator::store::location_cache::Trust;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const CLIENTS: usize = 6;

/// What became of a run.
pub struct Outcome {
    pub steps: u64,
    pub hash: u64,
    pub violation: Option<String>,
    pub counts: [(&'static str, u64); 28],
    pub summary: String,
    pub story: String,
}

/// Runs a seed for about so many steps, and then until all is quiet.
pub fn run(setting: Setting, steps: u64) -> Outcome {
    let world = World::new(setting);
    let sim = world.sim.clone();
    let quiet = Rc::new(Cell::new(false));
    sim.spawn(WORLD, operator(world.clone(), steps, quiet.clone()));
    if setting.operated {
        sim.spawn(WORLD, operations::operate(world.clone()));
    }
    if setting.metered {
        sim.spawn(WORLD, world.clone().turn_months());
    }
    for _ in 0..CLIENTS {
        sim.spawn(WORLD, Client { world: world.clone() }.run());
    }
    let bound = steps * 4 + 2_000_000;
    while !quiet.get() && world.violation().is_none() {
        assert!(sim.step(), "seed {}: everything stands still", setting.seed);
        assert!(sim.steps() < bound, "seed {}: it never becomes quiet", setting.seed);
    }
    if world.violation().is_none() {
        world.check_quiescence();
    }
    end(&world, &sim);
    let counts = world.counts.all();
    let summary = format!("{setting:?}, at most {} explanations, {counts:?}", world.widest());
    let (steps, hash) = (sim.steps(), sim.hash());
    Outcome { steps, hash, violation: world.violation(), counts, summary, story: world.story() }
}

/// Plays a scene in which nothing fails, until it ends; panics at a violation.
pub fn play<F: Future<Output = ()> + 'static>(setting: Setting, scene: impl FnOnce(Rc<World>) -> F + 'static) {
    let world = World::new(setting);
    no_faults(&world);
    let sim = world.sim.clone();
    let is_over = Rc::new(Cell::new(false));
    let (stage, over) = (world.clone(), is_over.clone());
    sim.spawn(WORLD, async move {
        boot(&stage, &mut 0).await;
        scene(stage).await;
        over.set(true);
    });
    while !is_over.get() && world.violation().is_none() {
        assert!(sim.step(), "everything stands still");
    }
    end(&world, &sim);
    assert_eq!(world.violation(), None);
}

/// The process is killed; `meanwhile` happens before another one starts.
pub async fn crash_and_boot(world: &Rc<World>, meanwhile: impl FnOnce()) {
    crash(world);
    meanwhile();
    boot(world, &mut 1).await;
}

fn no_faults(world: &World) {
    world.store_faults.set(StoreFaults::NONE);
    for backend in &world.backends {
        backend.faults.set(Faults::NONE);
        backend.down_for(Duration::ZERO);
    }
}

/// Tasks hold the world and the world holds the tasks: they are let go of one another.
fn end(world: &World, sim: &Sim) {
    if let Some(instance) = world.instance.borrow_mut().take() {
        instance.crash();
    }
    sim.kill(WORLD);
}

/// Starts the instance, kills it, cuts it off, starts it again; ends in peace.
async fn operator(world: Rc<World>, steps: u64, quiet: Rc<Cell<bool>>) {
    let sim = world.sim.clone();
    let mut runs = 0;
    boot(&world, &mut runs).await;
    while sim.steps() < steps {
        sim.sleep(Duration::from_millis(100 + sim.below(2_500))).await;
        if world.setting.restored && !world.restores.is_unsettled() && sim.chance(250) {
            dump_or_restore(&world, &mut runs).await;
            continue;
        }
        match sim.below(10) {
            0..6 if !world.setting.killed => {}
            0..6 => {
                crash(&world);
                sim.sleep(Duration::from_millis(sim.below(500))).await;
                boot(&world, &mut runs).await;
            }
            6..8 => {
                let backend = &world.backends[sim.below(world.backends.len() as u64) as usize];
                backend.down_for(Duration::from_millis(sim.below(4_000)));
            }
            _ => {
                let away = sim.tick().after(Duration::from_millis(sim.below(3_500)));
                world.store_away_until_nanos.set(away.nanos);
            }
        }
    }
    world.stopping.set(true);
    no_faults(&world);
    // Clients end what they are doing; uploads that were left are ended; late bodies arrive; what was given up is deleted;
    // copies are made.
    sim.sleep(Duration::from_secs(30)).await;
    while world.restores.is_unsettled() {
        sim.sleep(Duration::from_millis(100)).await;
    }
    copy::delete_sources(&world).await;
    world.backends.iter().for_each(|backend| backend.wipe_disowned());
    sim.sleep(Duration::from_secs(40)).await;
    let last = Client { world: world.clone() };
    for key in KEYS {
        last.look(key).await;
    }
    quiet.set(true);
}

/// Makes a backup of the database, or puts the last one back.
async fn dump_or_restore(world: &Rc<World>, runs: &mut u64) {
    if !world.restores.has_dump() {
        return world.dump();
    }
    // An instance that keeps locations of its own is the only one, and must end before.
    let is_running = world.setting.trust == Trust::Nothing && world.sim.chance(600);
    if !is_running {
        crash(world);
    }
    world.restore(is_running);
    if !is_running {
        boot(world, runs).await;
    }
    world.sim.spawn(WORLD, world.clone().put_right());
}

async fn boot(world: &Rc<World>, runs: &mut u64) {
    *runs += 1;
    let instance = Instance::boot(world.clone(), Group(*runs)).await;
    *world.instance.borrow_mut() = Some(instance);
}

fn crash(world: &World) {
    count(&world.counts.crashes);
    world.tell(|| "CRASH".into());
    if let Some(instance) = world.instance.borrow_mut().take() {
        instance.crash();
    }
    if world.sim.chance(300) {
        world.power_lost();
    }
}
