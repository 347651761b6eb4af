//! Who takes part: each a process of its own in front of the same stub, started on a free port and on the proxies' core.
//!
//! Configurations of nginx and haproxy are the ones that cost them least here: beat them at their best, not at their
//! defaults. What is not installed is reported as absent, not left out silently.

mod haproxy;
mod nginx;
mod product;

pub use product::{Counted, Database, Product, ProductOptions};

use crate::machine::Cores;
use crate::process::{Process, free_address};
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What every contestant needs to know.
pub struct Ground {
    /// Scratch space, on a real disk.
    pub dir: PathBuf,
    pub cores: Cores,
    /// The discarding S3 endpoint behind all of them.
    pub stub: SocketAddr,
    _stub: Process,
    pub product: ProductOptions,
}

/// A proxy that is running.
pub struct Contestant {
    pub name: &'static str,
    pub address: SocketAddr,
    pub process: Process,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Kind {
    /// This program
    Product,
    /// The bare relay of bench/src/bin/relay.rs
    Relay,
    /// Without buffering
    Nginx,
    /// With buffering of answers, which costs it less on small ones
    NginxBuffered,
    /// Without splicing, which costs it less on small bodies
    Haproxy,
    /// With splicing
    HaproxySplice,
}

impl Kind {
    pub const ALL: [Self; 6] =
        [Self::Product, Self::Relay, Self::Nginx, Self::NginxBuffered, Self::Haproxy, Self::HaproxySplice];

    pub fn name(self) -> &'static str {
        match self {
            Self::Product => "s3-orchestrator",
            Self::Relay => "bare relay",
            Self::Nginx => "nginx",
            Self::NginxBuffered => "nginx, buffered",
            Self::Haproxy => "haproxy",
            Self::HaproxySplice => "haproxy, splice",
        }
    }

    /// Starts it; None if it is not installed.
    pub fn start(self, ground: &Ground) -> Result<Option<Contestant>> {
        let started = match self {
            Self::Product => Some(Product::start(ground, "product", true)?.into_contestant()),
            Self::Relay => Some(relay(ground)?),
            Self::Nginx => nginx::start(ground, self.name(), false)?,
            Self::NginxBuffered => nginx::start(ground, self.name(), true)?,
            Self::Haproxy => haproxy::start(ground, self.name(), false)?,
            Self::HaproxySplice => haproxy::start(ground, self.name(), true)?,
        };
        Ok(started)
    }
}

impl Ground {
    /// Starts the stub. `dir` must exist.
    pub fn prepare(dir: &Path, product: ProductOptions) -> Result<Self> {
        let cores = Cores::split()?;
        let stub = free_address()?;
        let mut command = Command::new(sibling("loadtest")?);
        command.args(["stub", "--listen", &stub.to_string()]);
        let mut process = cores.start_on(cores.load, || Process::start(&mut command, &dir.join("stub.log")))?;
        process.wait_until_listening(stub).context("stub")?;
        Ok(Self { dir: dir.to_owned(), cores, stub, _stub: process, product })
    }

    /// Starts a proxy on the proxies' core and waits until it listens.
    fn start(&self, name: &'static str, command: &mut Command, address: SocketAddr, log: &str) -> Result<Contestant> {
        let process = self.cores.start_on(self.cores.proxy, || Process::start(command, &self.dir.join(log)));
        let mut process = process.context(name)?;
        process
            .wait_until_listening(address)
            .with_context(|| format!("{name}: see {}", self.dir.join(log).display()))?;
        Ok(Contestant { name, address, process })
    }
}

fn relay(ground: &Ground) -> Result<Contestant> {
    let address = free_address()?;
    let mut command = Command::new(sibling("relay")?);
    command.args(["--listen", &address.to_string(), "--backend", &ground.stub.to_string()]);
    ground.start(Kind::Relay.name(), &mut command, address, "relay.log")
}

/// A binary that was built beside this one.
pub fn sibling(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("where this program is")?;
    Ok(this.parent().context("this program is in a folder")?.join(name))
}

/// Whether a program of the system can be started.
fn is_installed(program: &str, version_flag: &str) -> bool {
    Command::new(program).arg(version_flag).output().is_ok()
}
