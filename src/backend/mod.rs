//! Backends: where blobs' bytes are. An S3 endpoint or a local directory, behind one port.
//!
//! `port` is what handlers and workers ask. `s3` builds the requests of an S3 endpoint and reads its answers, `directory`
//! maps blob names to paths and says what a directory does; both are pure. The reactor layer carries them out.

pub mod budget;
pub mod directory;
pub mod fuzz;
pub mod health;
pub mod marker;
pub mod measure;
pub mod port;
pub mod s3;
pub mod standing;
pub mod travel;
