//! Every decoder of bytes from outside as a fuzz target: a name and a function that takes any bytes and checks what must
//! hold for all of them.
//!
//! Called by the fuzz targets (tests/fuzz) and by the replay of their corpora (tests/corpus.rs). A broken rule panics;
//! anything else, refusals included, is fine. The program itself never calls them.

use crate::{backend, config, handlers, proto};

/// Names and entries, the layers' tables one after the other.
pub fn targets() -> impl Iterator<Item = (&'static str, fn(&[u8]))> {
    [proto::fuzz::TARGETS, config::fuzz::TARGETS, backend::fuzz::TARGETS, handlers::fuzz::TARGETS]
        .into_iter()
        .flatten()
        .copied()
}

/// Panics also when there is no such target.
pub fn run(name: &str, input: &[u8]) {
    let (_, entry) =
        targets().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no target is called {name}"));
    entry(input);
}
