//! `loadtest`: S3 load against any endpoint, and a stub to put behind a proxy under test.

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use loadtest::client::{Payload, Target};
use loadtest::load::{self, Mix, Plan, Verb};
use loadtest::sign::Credentials;
use loadtest::{size, stub};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// S3 load generator. It signs every request and checks every body byte for byte; the exit status is 1 if any operation
/// failed.
///
/// A first run against `s3-orchestrator dev`:
///
///     loadtest put   --sizes 4KiB,1MiB --keys 1000 --operations 1000
///     loadtest get   --sizes 4KiB,1MiB --keys 1000 --duration 10
///     loadtest mixed --mix get=70,put=20,list=5,delete=5 --rate 500
#[derive(Parser)]
#[command(version, verbatim_doc_comment)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write objects, each key in turn
    Put(Load),
    /// Read objects that `put` with the same --keys, --sizes and --prefix wrote
    Get(Load),
    /// Walk the keys below --prefix in pages of 1000, checking their order
    List(Load),
    /// Read, write, list and delete by weights (--mix), after writing every key once
    Mixed(Load),
    /// Serve S3 without keeping bodies, to measure what stands in front of it
    Stub {
        /// Address to listen on; port 0 takes a free one and prints it
        #[arg(long, default_value = "127.0.0.1:9100")]
        listen: String,
    },
}

#[derive(Args)]
struct Load {
    /// host:port of the endpoint (plain HTTP)
    #[arg(long, default_value = "127.0.0.1:9000", help_heading = "Endpoint")]
    endpoint: String,
    #[arg(long, default_value = "photos", help_heading = "Endpoint")]
    bucket: String,
    #[arg(long, default_value = "photoskey", help_heading = "Endpoint")]
    access_key: String,
    #[arg(long, default_value = "photossecret", help_heading = "Endpoint")]
    secret_key: String,
    #[arg(long, default_value = "us-east-1", help_heading = "Endpoint")]
    region: String,
    /// Object sizes, by key in turn: 4KiB,1MiB,…
    #[arg(long, value_delimiter = ',', value_parser = size::parse, default_value = "4KiB", help_heading = "Objects")]
    sizes: Vec<u64>,
    /// Distinct keys
    #[arg(long, default_value_t = 1000, help_heading = "Objects")]
    keys: u64,
    /// What every key starts with
    #[arg(long, default_value = "load/", help_heading = "Objects")]
    prefix: String,
    /// How a PUT's signature covers its body
    #[arg(long, value_enum, default_value_t, help_heading = "Objects")]
    payload: Payload,
    /// Put objects larger than this in parts of this size (S3 wants at least 5MiB)
    #[arg(long, value_parser = size::parse, help_heading = "Objects")]
    part_size: Option<u64>,
    /// Do not compare the bytes and keys that were read
    #[arg(long, help_heading = "Objects")]
    no_verify: bool,
    /// Connections, each with one request at a time
    #[arg(long, default_value_t = 16, help_heading = "Load")]
    connections: usize,
    /// Stop after so many operations instead of after --duration
    #[arg(long, help_heading = "Load")]
    operations: Option<u64>,
    /// Seconds
    #[arg(long, default_value_t = 10, help_heading = "Load")]
    duration: u64,
    /// Open loop: operations per second in all, at fixed times; a latency counts from the time its operation was due.
    /// Without it, each connection sends its next request when it has the answer (closed loop)
    #[arg(long, value_parser = parse_rate, help_heading = "Load")]
    rate: Option<f64>,
    /// Weights for `mixed`, of put, get, head, list and delete
    #[arg(long, value_parser = parse_mix, default_value = "get=80,put=20", help_heading = "Load")]
    mix: Mix,
    /// Print JSON instead of a progress bar and a table
    #[arg(long, help_heading = "Report")]
    json: bool,
    /// Also write the JSON to a file
    #[arg(long, help_heading = "Report")]
    json_file: Option<PathBuf>,
}

impl Load {
    fn plan(&self, mix: Mix) -> Plan {
        Plan {
            target: Target {
                address: self.endpoint.clone(),
                bucket: self.bucket.clone(),
                credentials: Credentials::new(&self.access_key, &self.secret_key, &self.region),
            },
            mix,
            connections: self.connections.max(1),
            operations: self.operations,
            duration: Duration::from_secs(self.duration),
            rate: self.rate,
            sizes: self.sizes.clone(),
            keys: self.keys.max(1),
            prefix: self.prefix.clone(),
            payload: self.payload,
            part_size: self.part_size.filter(|&bytes| bytes > 0),
            verify: !self.no_verify,
            quiet: self.json,
        }
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Put(load) => drive(&load, Mix::only(Verb::Put)),
        Command::Get(load) => drive(&load, Mix::only(Verb::Get)),
        Command::List(load) => drive(&load, Mix::only(Verb::List)),
        Command::Mixed(load) => {
            let fill = Plan { operations: Some(load.keys), rate: None, ..load.plan(Mix::only(Verb::Put)) };
            let filled = load::run(&fill);
            if filled.errors() > 0 {
                bail!("filling failed:\n{}", filled.table());
            }
            drive(&load, load.mix)
        }
        Command::Stub { listen } => {
            let listener = stub::bind(&listen).with_context(|| format!("stub on {listen}"))?;
            println!("stub listening on {}", listener.local_addr()?);
            stub::serve(&listener).context("accepting")
        }
    }
}

/// Runs and reports; any failed operation makes the exit status 1.
fn drive(load: &Load, mix: Mix) -> Result<()> {
    let plan = load.plan(mix);
    let report = load::run(&plan);
    let json = serde_json::to_string_pretty(&report.json(&plan))?;
    if let Some(path) = &load.json_file {
        std::fs::write(path, &json).with_context(|| format!("writing {}", path.display()))?;
    }
    println!("{}", if load.json { json } else { report.table() });
    if report.errors() > 0 {
        bail!("{} operations failed", report.errors());
    }
    Ok(())
}

fn parse_mix(text: &str) -> Result<Mix, String> {
    let mut mix = Mix::default();
    for pair in text.split(',') {
        let (name, weight) = pair.split_once('=').ok_or_else(|| format!("{pair:?} is not of the form get=80"))?;
        let weight = weight.parse().map_err(|_| format!("the weight in {pair:?} is not a number"))?;
        let known = Verb::ALL.into_iter().find(|verb| verb.name() == name);
        let verb = known.ok_or_else(|| format!("unknown operation {name:?}: use put, get, head, list or delete"))?;
        mix = mix.with(verb, weight);
    }
    Ok(mix)
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| format!("{text:?} is not a number of operations per second"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn mixes_and_rates() {
        let mix = Mix::default().with(Verb::Get, 3).with(Verb::Put, 1);
        assert_eq!(parse_mix("get=3,put=1"), Ok(mix));
        for bad in ["fly=1", "get", "get=", "get=-1", ""] {
            assert!(parse_mix(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parse_rate("0.5"), Ok(0.5));
        for bad in ["0", "-1", "inf", "NaN", "x"] {
            assert!(parse_rate(bad).is_err(), "{bad:?}");
        }
    }
}
