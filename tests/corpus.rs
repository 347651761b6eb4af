//! The corpora of the fuzz targets (tests/fuzz), replayed: every file, cut at every place, and with random damage. A find of
//! a fuzzer becomes a test by being copied into the target's folder.

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use s3_orchestrator::fuzz;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Cuts and damages of larger files would take too long.
const SMALL_BYTES: usize = 2_000;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// File names and contents by target.
fn corpora() -> BTreeMap<&'static str, Vec<(String, Vec<u8>)>> {
    let corpus = |target: &str| {
        let folder = folder().join("corpus").join(target);
        let read = |name: String| (name.clone(), std::fs::read(folder.join(&name)).expect("a corpus file"));
        names_in(&folder).into_iter().map(read).collect()
    };
    fuzz::targets().map(|(target, _)| (target, corpus(target))).collect()
}

#[test]
fn every_target_has_its_program_and_its_corpus() {
    let mut targets: Vec<String> = fuzz::targets().map(|(name, _)| name.to_owned()).collect();
    targets.sort();
    assert_eq!(names_in(&folder().join("corpus")), targets, "folders of tests/fuzz/corpus");
    let programs: Vec<String> = targets.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names_in(&folder().join("fuzz_targets")), programs, "files of tests/fuzz/fuzz_targets");
    let manifest = std::fs::read_to_string(folder().join("Cargo.toml")).expect("tests/fuzz/Cargo.toml");
    for target in &targets {
        assert!(
            manifest.contains(&format!("name = \"{target}\"\n")),
            "{target} is no [[bin]] of tests/fuzz/Cargo.toml"
        );
    }
    for (target, files) in corpora() {
        assert!(!files.is_empty(), "{target} has an empty corpus");
    }
}

#[test]
fn every_corpus_passes_whole_and_cut() {
    for (target, files) in corpora() {
        for (name, bytes) in files {
            let cuts = if bytes.len() <= SMALL_BYTES { 0 } else { bytes.len() };
            for end in cuts..=bytes.len() {
                let passed = catch_unwind(AssertUnwindSafe(|| fuzz::run(target, &bytes[..end])));
                assert!(passed.is_ok(), "{target}/{name}, its first {end} of {} bytes", bytes.len());
            }
        }
    }
}

/// Seeds of failures are kept here and tried first.
fn config() -> ProptestConfig {
    let failures = FileFailurePersistence::Direct("tests/fuzz/failures.txt");
    ProptestConfig { failure_persistence: Some(Box::new(failures)), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_bytes_pass(input in prop::collection::vec(any::<u8>(), 0..200)) {
        for (target, _) in fuzz::targets() {
            fuzz::run(target, &input);
        }
    }

    #[test]
    fn damaged_corpora_pass(
        file in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..4), 1..4),
    ) {
        for (target, files) in corpora() {
            let mut input = file.get(&files).1.clone();
            input.truncate(SMALL_BYTES);
            for (at, byte, kind) in &damage {
                let at = if input.is_empty() { 0 } else { at.index(input.len()) };
                match kind {
                    0 if at < input.len() => input[at] = *byte,
                    1 if at < input.len() => drop(input.remove(at)),
                    2 => input.extend_from_within(at..),
                    _ => input.insert(at, *byte),
                }
            }
            fuzz::run(target, &input);
        }
    }
}
