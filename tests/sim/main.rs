//! The simulator: the product's handlers and workers, its metadata desk and its memory store, under a virtual clock and
//! seeded dice, with several clients per key and everything failing that can fail.

mod backend;
mod channel;
mod executor;
mod history;
