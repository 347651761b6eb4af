//! What the program tells about itself: metric cells that each core writes for itself, their text form, audit lines, logs.

pub mod cells;
