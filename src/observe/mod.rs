//! What the program tells about itself: metric cells that each core writes for itself, their text form, audit lines, logs.

pub mod audit;
pub mod catalogue;
pub mod cells;
pub mod circuit;
mod json_line;
pub mod logs;
pub mod metrics;
pub mod output;
pub mod process;
pub mod redis;
pub mod request_id;

pub use request_id::RequestId;
