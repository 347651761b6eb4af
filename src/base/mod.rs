//! What every layer may use: identities, time, chance, failures, named limits, secrets. Depends on nothing above it.

pub mod blob_name;
pub mod clock;
pub mod decimal;
pub mod dice;
pub mod failure;
pub mod ids;
pub mod limits;
pub mod secret;
pub mod tenure;
pub mod text_hash;

pub use clock::{Clock, Tick, Timestamp};
pub use dice::Dice;
pub use failure::{Blame, Failure, Retry};
pub use ids::{BackendName, BlobId, BucketName, Incarnation, Nonce, ObjectKey, PartNumber, UploadId, Version};
pub use secret::Secret;
pub use tenure::{Mandate, Tenure};
