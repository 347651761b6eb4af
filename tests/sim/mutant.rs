//! Bugs of TRAPS.md, put back one at a time around the product's code, to see that the checks find them.

use super::world::{World, value_of};
use s3_orchestrator::base::{BlobId, BucketName, ObjectKey};
use s3_orchestrator::store::record::ObjectRecord;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// The product as it is.
    None,
    /// L1: bytes live under bucket and key alone, so a delete by name may hit a newer object.
    NamesReused,
    /// L4: DeleteObject deletes the bytes before its row.
    BytesBeforeRow,
    /// L5: the charge of a doomed blob ends before its bytes do.
    ChargeFreedEarly,
    /// L6: no row names the bytes before they are written.
    NoIntent,
    /// L7: recovery commits what it finds, without what only the writer knew.
    RecoveryForgets,
    /// L8: recovery commits on finding something under the key, which may be the previous bytes.
    RecoveryPromotes,
    /// L9: a failed upload is cleaned up by key, after the client's retry has succeeded.
    CleanupByKey,
    /// L21: a commit that lost a deadlock cleans up "its orphan" under the key.
    DeadlockCleansUp,
    /// L22: recovery commits a write that nobody was told of, over a later one that was acknowledged.
    RecoveryReimports,
    /// PROTOCOL, "Deleting bytes": a body given up without an answer is taken for one that can never appear.
    NoSettleTime,
    /// DESIGN, decision 5: a read that breaks midway goes on with whatever the key holds now.
    ResumeOnAnotherVersion,
    /// A directory that does not sync before it acknowledges.
    NoSyncDirectory,
    /// A database that does not.
    NoSyncStore,
    /// PROTOCOL, "Who is alive": reservations that no task holds stay.
    NoSweep,
    /// L20: what a dead instance held of a budget is lent again.
    DeadLeasesLentAgain,
    /// A removal of a backend that passes over what is still being written there.
    RemovalForgetsWrites,
    /// One that deletes the bytes before the rows.
    RemovalBytesBeforeRows,
    /// One that takes what it has doomed for gone.
    RemovalChargeFreedEarly,
    /// What is due is deleted although the database was put back and not compared yet.
    DeletesWhileHeld,
    /// A `sync` that takes what is known to be overwritten or deleted for unknown.
    SyncRevives,
    /// One that releases the database although it has not come to its end.
    SyncReleasesTooEarly,
}

impl Mutant {
    pub fn is_of_removal(self) -> bool {
        matches!(self, Self::RemovalForgetsWrites | Self::RemovalBytesBeforeRows | Self::RemovalChargeFreedEarly)
    }

    pub fn is_of_restore(self) -> bool {
        matches!(self, Self::DeletesWhileHeld | Self::SyncRevives | Self::SyncReleasesTooEarly)
    }

    /// Each, with the checks that may be the first to catch it.
    pub const ALL: [(Self, &[&str]); 21] = [
        (Self::NamesReused, &["I1", "I4"]),
        (Self::BytesBeforeRow, &["I4"]),
        (Self::ChargeFreedEarly, &["I5"]),
        (Self::NoIntent, &["I5"]),
        (Self::RecoveryForgets, &["I2"]),
        // I5: what was promoted is overwritten and deleted, and then its own bytes arrive, which nobody charges for.
        (Self::RecoveryPromotes, &["I1-I3", "I2", "I5"]),
        (Self::CleanupByKey, &["I4"]),
        (Self::DeadlockCleansUp, &["I4"]),
        (Self::RecoveryReimports, &["I1-I3"]),
        (Self::NoSettleTime, &["I5"]),
        (Self::ResumeOnAnotherVersion, &["I2"]),
        (Self::NoSyncDirectory, &["I4", "I5"]),
        (Self::NoSweep, &["I7"]),
        (Self::DeadLeasesLentAgain, &["I6"]),
        (Self::RemovalForgetsWrites, &["I7"]),
        (Self::RemovalBytesBeforeRows, &["I4"]),
        (Self::RemovalChargeFreedEarly, &["I5", "I7"]),
        (Self::DeletesWhileHeld, &["I9"]),
        (Self::SyncRevives, &["I9"]),
        (Self::SyncReleasesTooEarly, &["I9"]),
        (Self::NoSyncStore, &["I1", "I1-I3", "I4", "I5"]),
    ];
}

/// What they do.
impl World {
    pub fn key_of(&self, record: &ObjectRecord) -> Option<(BucketName, ObjectKey)> {
        let values = self.values.borrow();
        let key = values.get(&value_of(record)?)?.key;
        Some((self.view.buckets[0].name.clone(), ObjectKey::parse(key)?))
    }

    /// Everything that this blob's backend holds for this blob's key.
    pub fn erase_key_of(&self, blob: BlobId) {
        let Some(at) = self.blob_names.borrow().get(&blob).cloned() else { return };
        let backend = &self.backends[self.view.backend_index(&at.backend).expect("configured")];
        let stem = at.name.rsplit_once('!').map_or("", |(stem, _)| stem);
        for (name, _) in backend.names_and_sizes() {
            if name.starts_with(&format!("{stem}!")) {
                backend.erase(&name);
            }
        }
    }

    pub fn erase_blob(&self, blob: BlobId) {
        for backend in &self.backends {
            if let Some(row) = self.rows(backend).into_iter().find(|row| row.blob.id == blob) {
                backend.erase(&row.blob.name);
            }
        }
    }

    pub fn erase_live(&self, bucket: &BucketName, key: &ObjectKey) {
        for blob in self.located(bucket.as_str(), key.as_str()).map(|located| located.blobs).unwrap_or_default() {
            self.backends[self.view.backend_index(&blob.backend).expect("configured")].erase(&blob.name);
        }
    }
}
