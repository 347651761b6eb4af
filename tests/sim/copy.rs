//! A client that writes by copying: the source is put under a name of its own, which nobody else touches, so that the history
//! of the target sees one more write of a value of its own.

use super::backend::md5_hex;
use super::client::{Ask, call, new_value, told_of_write, value_fields};
use super::counts::count;
use super::history::{Answer, Call, Condition};
use super::world::{BUCKET, World, body_of};
use s3_orchestrator::base::Clock;
use std::rc::Rc;
use std::time::Duration;

const TRIES_MAX: u32 = 5;

pub async fn copy(world: &Rc<World>, key: &'static str) {
    let epoch = world.restores.epoch.get();
    let size = 16 + world.sim.below(5_000) as usize;
    let (value, operation) = new_value(world, key, size);
    let body = body_of(value, size);
    let source = format!("/{BUCKET}/source-{value}");
    world.sources.borrow_mut().push(source.clone());
    if put_source(world, &source, value, &body).await {
        world.etags.borrow_mut().insert(md5_hex(&body), value);
        world.called(key, operation, Call::Put { value, condition: Condition::None });
        let mut ask = Ask::new("PUT", format!("/{BUCKET}/{key}"));
        (ask.fields, ask.operation) = (format!("x-amz-copy-source: {source}\r\n"), operation);
        let response = call(world, ask).await;
        let is_known = epoch == world.restores.epoch.get();
        if response.status == 404 && is_known && !world.removals.took(&source) {
            world.violated("I1 (an acknowledged write is there)", format!("{source} was not found to be copied"));
        }
        if response.status == 200 {
            count(&world.counts.object_copies);
        }
        // The source has gone, not the target.
        let told = if response.status == 404 { Answer::Nothing } else { told_of_write(world, &response, 200) };
        world.answered(key, operation, told);
    }
    call(world, Ask::new("DELETE", source)).await;
}

/// Whether it was acknowledged.
async fn put_source(world: &Rc<World>, source: &str, value: u64, body: &[u8]) -> bool {
    for _ in 0..TRIES_MAX {
        let mut put = Ask::new("PUT", source);
        (put.fields, put.body) = (value_fields(value), body.to_vec());
        if call(world, put).await.status == 200 {
            return true;
        }
        world.sim.sleep(Duration::from_millis(200)).await;
    }
    false
}

/// In peace: sources whose deletes were not answered go.
pub async fn delete_sources(world: &Rc<World>) {
    let sources = world.sources.take();
    for source in sources {
        // Some answers are lost in peace, too.
        let mut tries = 0;
        while call(world, Ask::new("DELETE", source.clone())).await.status != 204 {
            tries += 1;
            assert!(tries < 20, "{source} cannot be deleted in peace");
        }
    }
}
