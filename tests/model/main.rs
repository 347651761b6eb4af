//! The S3 surface against a model: random sequences of operations go through a real socket to the real server, on the
//! memory and on the SQLite store, and are compared step by step with plain maps that know S3's rules (world.rs).
//!
//! A failing sequence is shrunk and printed; its seed is kept in `failures.txt` here and is tried first from then on.

mod action;
mod client;
mod document;
mod play;
mod server;
mod strategy;
mod sums;
mod world;

use action::{Action, Body, Facts, ListKind, Listing};
use client::Client;
use play::Player;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use server::{Server, Store};
use world::World;

/// Sequences per store; a sequence has at most so many actions.
const SEQUENCES: u32 = 100;
const ACTIONS_MAX: usize = 40;

fn play(server: &Server, actions: &[Action]) {
    let mut player = Player { client: Client::new(server.address), world: World::default() };
    player.start_anew();
    for action in actions {
        player.play(action);
    }
    player.check_all();
}

fn random_sequences(store: Store) {
    let server = Server::start(store);
    let failures = FileFailurePersistence::Direct("tests/model/failures.txt");
    let config = Config {
        cases: SEQUENCES,
        failure_persistence: Some(Box::new(failures)),
        max_shrink_iters: 1_000,
        ..Config::default()
    };
    let sequence = prop::collection::vec(strategy::action(), 1..ACTIONS_MAX);
    let outcome = TestRunner::new(config).run(&sequence, |actions| {
        play(&server, &actions);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{store:?}: {failure}"));
}

#[test]
fn random_sequences_on_memory() {
    random_sequences(Store::Memory);
}

#[test]
fn random_sequences_on_sqlite() {
    random_sequences(Store::Sqlite);
}

/// Buckets that hold as many keys as a page, one fewer, one more, none, and twice as many, listed in pages of all sizes.
fn pages(store: Store) {
    let server = Server::start(store);
    let mut player = Player { client: Client::new(server.address), world: World::default() };
    let mut held = 0;
    for count in [0, 1, 999, 1_000, 1_001, 2_001] {
        player.put_many(held, count);
        held = count;
        for kind in [ListKind::V1, ListKind::V2, ListKind::Versions] {
            for (max, delimiter) in
                [(None, ""), (Some(0), ""), (Some(999), ""), (Some(1_000), "/"), (Some(1_001), ""), (Some(1), "7")]
            {
                let (prefix, after) = (String::new(), String::new());
                // Pages of one entry: only of what a delimiter leaves.
                let prefix = if max == Some(1) { "key-07".to_owned() } else { prefix };
                let delimiter = delimiter.to_owned();
                player.list(&Listing { bucket: 0, kind, prefix, delimiter, max, after, encoded: false });
            }
        }
    }
}

#[test]
fn pages_around_a_thousand_keys_on_memory() {
    pages(Store::Memory);
}

#[test]
fn pages_around_a_thousand_keys_on_sqlite() {
    pages(Store::Sqlite);
}

impl Player {
    /// Adds keys of these numbers to the first bucket.
    fn put_many(&mut self, from: usize, until: usize) {
        let facts = Facts { content_type: false, metadata: 0, tags: 0 };
        for number in from..until {
            let body = Body { len: number % 7, seed: 1 };
            self.put_key(&format!("key-{number:04}"), body, facts);
        }
    }
}
