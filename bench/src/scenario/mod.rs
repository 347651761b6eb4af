//! One file per scenario: what is measured, against what target, and how the figures are shown.

pub mod allocations;
pub mod contest;
pub mod list;
pub mod memory;
pub mod metadata;
pub mod put_small;
pub mod relay;
