//! `loadtest`: S3 load against any endpoint, and a stub to put behind a proxy under test.

mod body;
mod client;
mod report;
mod run;
mod sign;
mod stub;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use client::Target;
use run::{Mix, Plan};
use sign::Signer;
use std::path::PathBuf;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// S3 load generator. Every body is checked byte for byte.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write objects, each key in turn.
    Put(Load),
    /// Read objects that `put` with the same --keys, --sizes and --prefix wrote.
    Get(Load),
    /// List pages of 1000 keys.
    List(Load),
    /// Read and write by weights (--mix), after writing every key once.
    Mixed(Load),
    /// Serve S3 without keeping bodies, to measure what stands in front of it.
    Stub {
        #[arg(long, default_value = "127.0.0.1:9100")]
        listen: String,
    },
}

#[derive(Args)]
struct Load {
    /// host:port of the endpoint.
    #[arg(long, default_value = "127.0.0.1:9000")]
    endpoint: String,
    #[arg(long, default_value = "photos")]
    bucket: String,
    #[arg(long, default_value = "photoskey")]
    access_key: String,
    #[arg(long, default_value = "photossecret")]
    secret_key: String,
    #[arg(long, default_value = "us-east-1")]
    region: String,
    /// Object sizes, taken in turn: 4KiB,1MiB,…
    #[arg(long, value_delimiter = ',', value_parser = parse_size, default_value = "4KiB")]
    sizes: Vec<u64>,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Stop after so many operations instead of after --duration.
    #[arg(long)]
    operations: Option<u64>,
    /// Seconds.
    #[arg(long, default_value_t = 10)]
    duration: u64,
    /// Open loop: operations per second in all, at fixed times; latencies count from the time each was due.
    #[arg(long)]
    rate: Option<f64>,
    /// Distinct keys.
    #[arg(long, default_value_t = 1000)]
    keys: u64,
    #[arg(long, default_value = "load/")]
    prefix: String,
    /// Weights for `mixed`, e.g. get=70,put=20,head=5,list=1,delete=4.
    #[arg(long, default_value = "get=80,put=20")]
    mix: String,
    /// Do not compare the bytes that were read.
    #[arg(long)]
    no_verify: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Also write the JSON to a file.
    #[arg(long)]
    json_file: Option<PathBuf>,
}

impl Load {
    fn plan(&self, mix: Mix) -> Plan {
        Plan {
            target: Target {
                address: self.endpoint.clone(),
                bucket: self.bucket.clone(),
                signer: Signer::new(&self.access_key, &self.secret_key, &self.region),
            },
            mix,
            connections: self.connections.max(1),
            operations: self.operations,
            duration: Duration::from_secs(self.duration),
            rate: self.rate,
            sizes: self.sizes.clone(),
            keys: self.keys.max(1),
            prefix: self.prefix.clone(),
            verify: !self.no_verify,
            quiet: self.json,
        }
    }
}

fn main() -> Result<()> {
    let one = |verb: fn(&mut Mix) -> &mut u32| {
        let mut mix = Mix::default();
        *verb(&mut mix) = 1;
        mix
    };
    match Cli::parse().command {
        Command::Put(load) => drive(&load, one(|mix| &mut mix.put)),
        Command::Get(load) => drive(&load, one(|mix| &mut mix.get)),
        Command::List(load) => drive(&load, one(|mix| &mut mix.list)),
        Command::Mixed(load) => {
            let fill = Plan { operations: Some(load.keys), rate: None, ..load.plan(one(|mix| &mut mix.put)) };
            let filled = run::run(&fill);
            if filled.errors() > 0 {
                bail!("filling failed:\n{}", filled.table());
            }
            drive(&load, parse_mix(&load.mix)?)
        }
        Command::Stub { listen } => stub::serve(&listen).with_context(|| format!("stub on {listen}")),
    }
}

/// Runs and reports; any failed operation makes the exit status 1.
fn drive(load: &Load, mix: Mix) -> Result<()> {
    let report = run::run(&load.plan(mix));
    let json = serde_json::to_string_pretty(&report.json())?;
    if let Some(path) = &load.json_file {
        std::fs::write(path, &json).with_context(|| format!("writing {}", path.display()))?;
    }
    println!("{}", if load.json { json } else { report.table() });
    if report.errors() > 0 {
        bail!("{} operations failed", report.errors());
    }
    Ok(())
}

fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        other => return Err(format!("unknown unit {other:?}: use KiB, MiB or GiB")),
    };
    let count: u64 = digits.parse().map_err(|_| format!("{text:?} is not a size such as 4KiB"))?;
    count.checked_mul(unit).ok_or_else(|| format!("{text:?} is too large"))
}

fn parse_mix(text: &str) -> Result<Mix> {
    let mut mix = Mix::default();
    for pair in text.split(',') {
        let (name, weight) = pair.split_once('=').with_context(|| format!("{pair:?} is not of the form get=80"))?;
        let weight = weight.parse().with_context(|| format!("the weight in {pair:?} is not a number"))?;
        match name {
            "put" => mix.put = weight,
            "get" => mix.get = weight,
            "head" => mix.head = weight,
            "list" => mix.list = weight,
            "delete" => mix.delete = weight,
            _ => bail!("unknown operation {name:?}: use put, get, head, list or delete"),
        }
    }
    Ok(mix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_mixes() {
        assert_eq!(parse_size("4KiB"), Ok(4096));
        assert_eq!(parse_size("10"), Ok(10));
        assert_eq!(parse_size("2g"), Ok(2 << 30));
        assert!(parse_size("4XB").is_err() && parse_size("").is_err());
        assert_eq!(parse_mix("get=3,put=1").map(|mix| (mix.get, mix.put)).ok(), Some((3, 1)));
        assert!(parse_mix("fly=1").is_err() && parse_mix("get").is_err());
    }
}
