//! Courses of events that the dice seldom choose, played without faults.

use super::client::{Ask, call, new_value, value_fields};
use super::multipart::ask_to_complete;
use super::mutant::Mutant;
use super::run::{crash_and_boot, play};
use super::world::{BUCKET, Setting, World, body_of};
use s3_orchestrator::base::Clock;
use s3_orchestrator::proto::xml;
use std::rc::Rc;
use std::time::Duration;

const UPLOADED: usize = 700;
const PUT: usize = 300;

async fn put(world: &Rc<World>, target: &str, value: u64, body: Vec<u8>) -> String {
    let mut ask = Ask::new("PUT", target);
    (ask.fields, ask.body) = (value_fields(value), body);
    loop {
        // Some answers are lost on the way.
        let response = call(world, ask.clone()).await;
        if response.status == 200 {
            return response.field("etag").expect("an ETag").to_owned();
        }
    }
}

/// A name is as old as its upload, an object as its completion: an upload that was completed after another write had begun is
/// the newest object of its key and has the older name. Once the database knows of neither, nobody can tell, and both stay.
#[test]
fn a_completed_upload_outlives_a_restore_beside_a_newer_name() {
    let setting = Setting { factor: 1, operated: false, ..Setting::restored(1, Mutant::None) };
    play(setting, async |world: Rc<World>| {
        let target = format!("/{BUCKET}/d");
        world.dump();
        let (value, _) = new_value(&world, "d", UPLOADED);
        let mut create = Ask::new("POST", format!("{target}?uploads"));
        create.fields = value_fields(value);
        let id = loop {
            let response = call(&world, create.clone()).await;
            if let Some(id) = xml::read_initiate_result(&response.body).ok().filter(|_| response.status == 200) {
                break id;
            }
        };
        let upload = format!("{target}?uploadId={id}");
        let etag = put(&world, &format!("{upload}&partNumber=1"), value, body_of(value, UPLOADED)).await;
        let (other, _) = new_value(&world, "d", PUT);
        put(&world, &target, other, body_of(other, PUT)).await;
        let manifest = format!("<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>");
        while call(&world, ask_to_complete(&upload, &manifest)).await.status != 200 {}

        crash_and_boot(&world, || world.restore(false)).await;
        world.clone().put_right().await;
        // All that is deleted has gone by then.
        world.sim.sleep(Duration::from_secs(30)).await;
        let sizes: Vec<u64> =
            world.backends.iter().flat_map(|backend| backend.names_and_sizes()).map(|(_, size)| size).collect();
        assert!(sizes.contains(&(UPLOADED as u64)), "the newest object was deleted: {sizes:?}");
        let mut located = world.located(BUCKET, "d").expect("one of the two is live");
        assert_eq!(located.blobs.pop().map(|blob| blob.backend.as_str().to_owned()), Some("b0".to_owned()));
        assert_eq!(located.size, PUT as u64, "by their names this is the newest");
    });
}
