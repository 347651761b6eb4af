//! Objects as handlers write them: a begin that names one backend, and the commit of what was begun.

use anyhow::{Context, Result, bail};
use s3_orchestrator::base::{BackendName, BucketName, Incarnation, Nonce, ObjectKey};
use s3_orchestrator::store::port::{
    BackendLimit, BeginWrite, Begun, Candidate, CommitWrite, Register, WriteCondition, Written,
};
use s3_orchestrator::store::record::ObjectRecord;

pub const BUCKET: &str = "photos";
const BACKEND: &str = "stub";

/// The first step of a run on a database: its one backend may hold `bytes_limit` (0: any number of bytes).
pub fn register(bytes_limit: u64) -> Register {
    let limit = BackendLimit { name: BackendName::new(BACKEND), bytes_limit };
    Register { deployment: "bench".to_owned(), backends: vec![limit] }
}

/// `roll`: never the same twice.
pub fn begin(incarnation: Incarnation, key: &str, size: u64, roll: u64) -> Result<BeginWrite> {
    Ok(BeginWrite {
        incarnation,
        bucket: BucketName::parse(BUCKET).context("a bucket's name")?,
        in_stored: false,
        key: ObjectKey::parse(key).context("a key")?,
        size,
        candidates: vec![Candidate { backend: BackendName::new(BACKEND), literal: true }],
        condition: WriteCondition::default(),
        nonce: Nonce::from_roll(roll),
        instead_of: None,
    })
}

pub fn commit(begin: &BeginWrite, begun: Result<Begun, impl std::fmt::Debug>, etag: String) -> Result<CommitWrite> {
    let begun = match begun {
        Ok(begun) => begun,
        Err(refusal) => bail!("a begin was refused: {refusal:?}"),
    };
    let headers = vec![("content-type".to_owned(), "image/jpeg".to_owned())];
    Ok(CommitWrite {
        incarnation: begin.incarnation,
        bucket: begin.bucket.clone(),
        key: begin.key.clone(),
        blobs: vec![Written { blob: begun.blob.id, version_id: String::new() }],
        etag,
        record: ObjectRecord { headers, ..ObjectRecord::default() },
        condition: WriteCondition::default(),
    })
}
