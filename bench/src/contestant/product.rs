//! The product, with one backend: the stub.

use super::{Contestant, Ground, Kind, sibling};
use crate::postgres::Postgres;
use crate::process::{Process, free_address};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

const READY_MAX: Duration = Duration::from_secs(30);
/// How a line of the counted product starts that is an answer and not a log line.
const ANSWER: &str = "counted: ";

/// How the product is started.
#[derive(Clone, Debug, clap::Args)]
pub struct ProductOptions {
    /// The product's binary [default: built with this program]
    #[arg(long, global = true, value_name = "PATH")]
    product: Option<PathBuf>,
    /// Its `server.driver`
    #[arg(long, global = true, default_value = "auto")]
    driver: String,
    /// Its `server.relay`
    #[arg(long, global = true, default_value = "auto")]
    relay: String,
}

/// Where the product keeps its metadata.
#[derive(Clone, Copy)]
pub enum Database<'s> {
    /// A file of its own.
    Sqlite,
    /// As it is: what another product left there is there still.
    Postgres(&'s Postgres),
}

/// The product, running.
pub struct Product {
    pub address: SocketAddr,
    pub process: Process,
}

impl Product {
    /// On a fresh SQLite. `name`: its folder in the scratch space. `pinned`: on the proxies' core alone; else wherever it puts
    /// itself.
    pub fn start(ground: &Ground, name: &str, pinned: bool) -> Result<Self> {
        Self::start_under(ground, name, Database::Sqlite, pinned, &[])
    }

    /// The same on any database, and under another program, such as strace: its words come before the product's.
    pub fn start_under(
        ground: &Ground,
        name: &str,
        database: Database<'_>,
        pinned: bool,
        wrapper: &[&str],
    ) -> Result<Self> {
        let (address, config) = write_config(ground, name, database)?;
        let binary = ground.product.product.clone().map_or_else(|| sibling("s3-orchestrator"), Ok)?;
        let mut command = match wrapper {
            [] => Command::new(binary),
            [program, words @ ..] => {
                let mut command = Command::new(program);
                command.args(words).arg(binary);
                command
            }
        };
        command.arg("serve").arg("--config").arg(config).stdin(Stdio::null()).stdout(Stdio::null());
        // The audit lines of a run would fill the disk; writing them to nowhere costs the product the same.
        let log = ground.dir.join(name).join("stderr.log");
        command.stderr(fs::File::create(&log)?);
        let spawn = || command.spawn().context("starting the product");
        let cores = ground.cores;
        let child = if pinned { cores.start_on(cores.proxy, spawn) } else { cores.start_anywhere(spawn) }?;
        let mut process = Process::adopt(child);
        wait_until_ready(&mut process, address).with_context(|| format!("the product: see {}", log.display()))?;
        Ok(Self { address, process })
    }

    pub fn into_contestant(self) -> Contestant {
        Contestant { name: Kind::Product.name(), address: self.address, process: self.process }
    }
}

/// The product with a counting allocator (bench/src/bin/counted.rs).
pub struct Counted {
    pub address: SocketAddr,
    _process: Process,
    commands: ChildStdin,
    answers: Receiver<String>,
}

impl Counted {
    pub fn start(ground: &Ground) -> Result<Self> {
        let (address, config) = write_config(ground, "counted", Database::Sqlite)?;
        let mut command = Command::new(sibling("counted")?);
        command.arg("serve").arg("--config").arg(config);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(fs::File::create(ground.dir.join("counted").join("stderr.log"))?);
        let mut child =
            ground.cores.start_on(ground.cores.proxy, || command.spawn().context("starting the counted product"))?;
        let commands = child.stdin.take().context("its standard input")?;
        let answers = answers_of(child.stdout.take().context("its standard output")?);
        let mut process = Process::adopt(child);
        wait_until_ready(&mut process, address).context("the counted product")?;
        Ok(Self { address, _process: process, commands, answers })
    }

    /// Allocations so far, by thread name.
    pub fn counts(&mut self) -> Result<Value> {
        self.commands.write_all(b"count\n")?;
        serde_json::from_str(&self.answer("counts ")?).context("counts")
    }

    /// Where the next allocations of the threads with this name come from: at most so many stacks, once `provoke` ran.
    pub fn trace(&mut self, thread: &str, stacks: u32, provoke: impl FnOnce()) -> Result<String> {
        writeln!(self.commands, "trace {thread} {stacks}")?;
        self.answer("tracing")?;
        provoke();
        self.commands.write_all(b"stacks\n")?;
        let text: String = serde_json::from_str(&self.answer("stacks ")?)?;
        Ok(text)
    }

    /// The rest of the answer that starts so.
    fn answer(&self, start: &str) -> Result<String> {
        let line = self.answers.recv_timeout(READY_MAX).context("the counted product does not answer")?;
        let rest = line.strip_prefix(ANSWER).and_then(|rest| rest.strip_prefix(start));
        rest.map(str::to_owned).with_context(|| format!("an answer to something else: {line}"))
    }
}

/// The lines that are answers. Logs are read away, so that the product never waits for us.
fn answers_of(output: ChildStdout) -> Receiver<String> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(output).lines().map_while(std::io::Result::ok);
        for line in lines.filter(|line| line.starts_with(ANSWER)) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    receive
}

/// Writes a configuration, with a fresh database if that is a file; the address that it listens on.
fn write_config(ground: &Ground, name: &str, database: Database<'_>) -> Result<(SocketAddr, PathBuf)> {
    let dir = ground.dir.join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("clearing {}", dir.display()))?;
    }
    fs::create_dir_all(&dir)?;
    let (address, admin) = (free_address()?, free_address()?);
    let database = match database {
        Database::Sqlite => "driver: sqlite\n  path: metadata.db".to_owned(),
        Database::Postgres(server) => format!(
            "driver: postgres\n  host: {}\n  port: {}\n  database: s3o\n  user: s3o\n  ssl_mode: disable",
            server.host, server.port
        ),
    };
    let text = format!(
        "server:
  listen_addr: {address}
  log_level: warn
  reactors: 1
  driver: {driver}
  relay: {relay}
admin:
  listen_addr: {admin}
database:
  {database}
buckets:
  - name: photos
    credentials:
      - access_key_id: photoskey
        secret_access_key: photossecret
backends:
  - name: stub
    endpoint: http://{stub}
    bucket: {name}
    access_key_id: stubkey
    secret_access_key: stubsecret
    force_path_style: true
    unsigned_payload: true
    http:
      max_idle_conns_per_host: 512
      max_conns_per_host: 512
      idle_conn_timeout: 300s
",
        driver = ground.product.driver,
        relay = ground.product.relay,
        stub = ground.stub,
    );
    let path = dir.join("config.yaml");
    fs::write(&path, text).context("config.yaml")?;
    Ok((address, path))
}

#[allow(clippy::disallowed_methods)] // a bench's clock is the wall's
fn wait_until_ready(process: &mut Process, address: SocketAddr) -> Result<()> {
    process.wait_until_listening(address)?;
    let start = Instant::now();
    loop {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(READY_MAX))?;
        write!(stream, "GET /health/ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if answer.starts_with("HTTP/1.1 200") {
            return Ok(());
        }
        if start.elapsed() > READY_MAX {
            bail!("it is not ready: {answer}");
        }
        sleep(Duration::from_millis(50));
    }
}
