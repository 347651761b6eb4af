//! `bench`: what the product costs, beside a bare relay, nginx and haproxy in the same run, and whether it keeps its
//! targets. docs/benchmarks.md says how to read the figures.

mod contestant;
mod disk;
mod figures;
mod instance;
mod machine;
mod objects;
mod postgres;
mod process;
mod rounds;
mod scenario;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use contestant::{Ground, ProductOptions};
use figures::Outcome;
use rounds::Pace;
use scenario::{allocations, contest, list, memory, metadata, put_small, relay};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Speed and memory of the product, measured beside others in the same run. The exit status is 1 if a target was missed.
///
/// Figures of two runs are not comparable: quote ratios within one run. Measure on an idle machine.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
    #[command(flatten)]
    pace: Pace,
    #[command(flatten)]
    product: ProductOptions,
    /// Also write everything as JSON to a file
    #[arg(long, global = true, value_name = "PATH")]
    json: Option<PathBuf>,
    /// Where databases and logs of a run are made; on the disk that is to be measured [default: target/bench]
    #[arg(long, global = true, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// Do not build the binaries first
    #[arg(long, global = true)]
    no_build: bool,
}

#[derive(Subcommand)]
enum Scenario {
    /// GET of 4 KiB: CPU per request, at most 1.3 times the bare relay's
    GetSmall,
    /// GET of 64 MiB: CPU per GiB, no more than nginx
    GetLarge,
    /// PUT of 64 MiB: CPU per GiB, no more than nginx; and in the forms that SDKs send
    PutLarge,
    /// PUT of 1 KiB under new keys on SQLite and PostgreSQL: 5 000 a second, or as often as the disk can sync
    PutSmall(put_small::PutSmallOptions),
    /// Lookups and commits a second of the metadata thread on SQLite and PostgreSQL, and their CPU
    Metadata(metadata::MetadataOptions),
    /// Resident memory with 64 uploads and 64 downloads at once: below 256 MiB
    Memory(memory::MemoryOptions),
    /// A page of 1000 keys out of a million: below 5 ms in the store
    List(list::ListOptions),
    /// Heap allocations of the reactor per request: none for a GET of 4 KiB
    Allocations(allocations::AllocationOptions),
    /// Everybody, GET and PUT, 4 KiB to 64 MiB
    Contest,
}

fn main() -> ExitCode {
    match bench(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every target was met.
fn bench(cli: &Cli) -> Result<bool> {
    if !cli.no_build {
        build()?;
    }
    let machine = machine::describe();
    println!("machine: {machine}");
    if machine::load_average() > 0.5 {
        println!("warning: the load average is {:.2}: others are using this machine", machine::load_average());
    }
    let top = cli.dir.clone().unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench")));
    std::fs::create_dir_all(&top).with_context(|| format!("making {}", top.display()))?;
    let dir = tempfile::Builder::new().prefix("run-").tempdir_in(top.canonicalize()?)?;
    let outcomes = run(cli, &Ground::prepare(dir.path(), cli.product.clone())?);
    // Logs are of use only when something went wrong.
    if outcomes.is_err() {
        eprintln!("logs are in {}", dir.keep().display());
    }
    let outcomes = outcomes?;
    for outcome in &outcomes {
        println!("\n{}", outcome.text());
    }
    if let Some(path) = &cli.json {
        let outcomes: Vec<_> = outcomes.iter().map(Outcome::json).collect();
        let text = serde_json::to_string_pretty(&serde_json::json!({ "machine": machine, "outcomes": outcomes }))?;
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(outcomes.iter().all(Outcome::is_met))
}

fn run(cli: &Cli, ground: &Ground) -> Result<Vec<Outcome>> {
    let pace = cli.pace;
    let outcome = match &cli.scenario {
        Scenario::GetSmall => relay::get_small(ground, pace),
        Scenario::GetLarge => relay::get_large(ground, pace),
        Scenario::PutLarge => relay::put_large(ground, pace),
        Scenario::PutSmall(options) => put_small::put_small(ground, *options, pace),
        Scenario::Metadata(options) => metadata::metadata(ground, options, pace),
        Scenario::Memory(options) => memory::memory(ground, *options),
        Scenario::List(options) => list::list(ground, *options),
        Scenario::Allocations(options) => allocations::allocations(ground, *options),
        Scenario::Contest => return contest::contest(ground, pace),
    }?;
    Ok(vec![outcome])
}

/// Builds what takes part, as this program was built: `cargo run` built this program alone.
fn build() -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(["build", "--quiet", "-p", "s3-orchestrator", "-p", "loadtest", "-p", "bench"]);
    for bin in ["s3-orchestrator", "loadtest", "relay", "counted"] {
        command.args(["--bin", bin]);
    }
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    ensure!(command.status().context("cargo")?.success(), "the contestants could not be built");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
