//! What mutants do when a run begins, before the product registers and recovers: the intent reapers of other systems.

use super::backend::{Backend, md5_hex};
use super::mutant::Mutant;
use super::world::World;
use s3_orchestrator::base::{Dice, Incarnation, Nonce, ObjectKey};
use s3_orchestrator::store::desk::LocalMetadata;
use s3_orchestrator::store::port::*;
use s3_orchestrator::store::record::{BlobState, ObjectRecord};
use std::rc::Rc;

pub async fn before_registering(world: &Rc<World>, calls: &LocalMetadata) {
    let mutant = world.setting.mutant;
    if !matches!(mutant, Mutant::RecoveryForgets | Mutant::RecoveryPromotes | Mutant::RecoveryReimports) {
        return;
    }
    for backend in &world.backends {
        for row in world.rows(backend).into_iter().filter(|row| row.state == BlobState::Reserved) {
            promote(world, calls, backend, &row).await;
        }
    }
}

/// Makes a reserved blob live because something is found for it.
async fn promote(world: &Rc<World>, calls: &LocalMetadata, backend: &Rc<Backend>, row: &BlobRow) {
    let Some(record) = world.records.borrow().get(&row.blob.name).cloned() else { return };
    let Some(incarnation) = world.last_incarnation.get() else { return };
    let Some((bucket, key)) = world.key_of(&record) else { return };
    let mut commit = CommitWrite {
        incarnation,
        bucket: bucket.clone(),
        key: key.clone(),
        blobs: vec![Written { blob: row.blob.id, version_id: String::new() }],
        etag: String::new(),
        record: record.clone(),
        condition: WriteCondition::default(),
    };
    match world.setting.mutant {
        Mutant::RecoveryForgets => commit.record = ObjectRecord::default(),
        Mutant::RecoveryPromotes => {
            // A key that is reused: what is there may be what was there before.
            let stem = row.blob.name.rsplit_once('!').map_or("", |(stem, _)| stem);
            let fits = |name: &str| backend.object_at(name).is_some_and(|one| one.body.len() as u64 == row.bytes);
            let former = backend.names().into_iter().rfind(|name| name.starts_with(stem) && fits(name));
            if backend.object(&row.blob.name).is_none()
                && let Some(former) = former
            {
                backend.duplicate(&former, &row.blob.name);
            }
        }
        Mutant::RecoveryReimports => {
            let Some(begun) = begin(world, calls, incarnation, backend, row, &key).await else { return };
            backend.rename(&row.blob.name, &begun.blob.name);
            commit.blobs[0].blob = begun.blob.id;
            commit.etag = backend.object(&begun.blob.name).map(|one| md5_hex(&one.body)).unwrap_or_default();
        }
        _ => {}
    }
    if commit.etag.is_empty() {
        let Some(object) = backend.object(&row.blob.name) else { return };
        commit.etag = md5_hex(&object.body);
    }
    let _ = calls.step(commit).await;
}

async fn begin(
    world: &Rc<World>,
    calls: &LocalMetadata,
    incarnation: Incarnation,
    backend: &Rc<Backend>,
    row: &BlobRow,
    key: &ObjectKey,
) -> Option<Begun> {
    let object = backend.object(&row.blob.name)?;
    let begin = BeginWrite {
        incarnation,
        bucket: world.view.buckets[0].name.clone(),
        in_stored: false,
        key: key.clone(),
        size: object.body.len() as u64,
        candidates: vec![Candidate { backend: backend.name.clone(), literal: true }],
        condition: WriteCondition::default(),
        nonce: Nonce::from_roll(world.sim.roll()),
        instead_of: None,
    };
    calls.step(begin).await.ok()?.ok()
}
