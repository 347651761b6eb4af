//! A client that uploads in parts: parts are sent again when they fail, Complete is asked again, some uploads are left to the
//! worker that ends stale ones.

use super::client::{Ask, call, new_value, value_fields};
use super::counts::count;
use super::executor::WORLD;
use super::history::{Answer, Call, Condition};
use super::world::{BUCKET, World, body_of};
use s3_orchestrator::base::Clock;
use s3_orchestrator::proto::xml;
use std::rc::Rc;
use std::time::Duration;

const TRIES_MAX: u32 = 5;

pub async fn upload(world: &Rc<World>, key: &'static str) {
    let parts = 1 + world.sim.below(3) as usize;
    let size = parts * (20 + world.sim.below(2_000) as usize);
    let (value, operation) = new_value(world, key, size);
    let mut create = Ask::new("POST", format!("/{BUCKET}/{key}?uploads"));
    create.fields = value_fields(value);
    let response = call(world, create).await;
    let Some(id) = xml::read_initiate_result(&response.body).ok().filter(|_| response.status == 200) else { return };
    let target = format!("/{BUCKET}/{key}?uploadId={id}");
    if world.sim.chance(60) {
        return; // the client forgets it
    }
    let body = body_of(value, size);
    let (mut manifest, mut of_first) = (String::new(), String::new());
    for (index, piece) in body.chunks(size / parts).enumerate() {
        let number = index + 1;
        let Some(etag) = send_part(world, &target, number, piece).await else {
            return abort(world, &target).await;
        };
        manifest.push_str(&format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"));
        if number == 1 {
            of_first.clone_from(&manifest);
        }
    }
    world.called(key, operation, Call::Put { value, condition: Condition::None });
    if world.sim.chance(300) {
        world.sim.spawn(WORLD, meddle(world.clone(), target.clone(), [manifest.clone(), of_first]));
        world.sim.sleep(Duration::from_micros(world.sim.below(10_000))).await;
    }
    let told = complete(world, &target, &manifest, value).await;
    world.answered(key, operation, told);
    if told != Answer::Done {
        abort(world, &target).await;
    }
}

/// The part's ETag once it is acknowledged. Sometimes something else is sent first under the same number.
async fn send_part(world: &Rc<World>, target: &str, number: usize, piece: &[u8]) -> Option<String> {
    if world.sim.chance(100) {
        let mut other = Ask::new("PUT", format!("{target}&partNumber={number}"));
        other.body = vec![7; 10 + world.sim.below(3_000) as usize];
        call(world, other).await;
    }
    for _ in 0..TRIES_MAX {
        let mut part = Ask::new("PUT", format!("{target}&partNumber={number}"));
        part.body = piece.to_vec();
        part.gone_after = world.sim.chance(30).then(|| world.sim.below(piece.len() as u64 + 1) as usize);
        let response = call(world, part).await;
        match response.status {
            200 => return response.field("etag").map(str::to_owned),
            404 => return None,
            _ => world.sim.sleep(Duration::from_millis(200)).await,
        }
    }
    None
}

async fn complete(world: &Rc<World>, target: &str, manifest: &str, value: u64) -> Answer {
    let mut unsure = false;
    for _ in 0..TRIES_MAX {
        let response = call(world, ask_to_complete(target, manifest)).await;
        match response.status {
            200 => {
                if let Ok(xml::CompletedUpload::Done { etag }) = xml::read_complete_result(&response.body) {
                    world.etags.borrow_mut().insert(etag, value);
                }
                count(&world.counts.acknowledged_writes);
                count(&world.counts.completed_uploads);
                return Answer::Done;
            }
            400 | 404 => return if unsure { Answer::Unknown } else { Answer::Nothing },
            409 => {}
            _ => unsure = true,
        }
        world.sim.sleep(Duration::from_millis(300)).await;
    }
    count(&world.counts.unknown_writes);
    Answer::Unknown
}

pub fn ask_to_complete(target: &str, manifest: &str) -> Ask {
    let mut ask = Ask::new("POST", target);
    ask.body = format!("<CompleteMultipartUpload>{manifest}</CompleteMultipartUpload>").into_bytes();
    ask
}

/// Completes beside the right one that are refused before the backend is asked, and maybe an abort.
async fn meddle(world: Rc<World>, target: String, manifests: [String; 2]) {
    for _ in 0..1 + world.sim.below(4) {
        world.sim.sleep(Duration::from_micros(world.sim.below(6_000))).await;
        let mut wrong = ask_to_complete(&target, &manifests[world.sim.below(2) as usize]);
        wrong.field("x-amz-mp-object-size", "1");
        call(&world, wrong).await;
    }
    if world.sim.chance(300) {
        abort(&world, &target).await;
    }
}

async fn abort(world: &Rc<World>, target: &str) {
    call(world, Ask::new("DELETE", target)).await;
}
