//! A PostgreSQL of the run's own (tests/postgres.sh), on the disk that is measured and with its durability on.

use crate::contestant::Ground;
use crate::process;
use anyhow::{Context, Result};
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The server, with a database `s3o` of the user `s3o`; ended when it is dropped.
pub struct Postgres {
    /// An address, or the directory of its Unix socket.
    pub host: String,
    pub port: u16,
    /// Its standard input is what it lives by.
    child: Child,
}

impl Postgres {
    /// On whatever cores it likes. An empty database. `by_socket`: to be reached by its Unix socket, else by TCP.
    pub fn start(ground: &Ground, by_socket: bool) -> Result<Self> {
        // The server may run as another user, who must come through to its own folder.
        fs::set_permissions(&ground.dir, Permissions::from_mode(0o711))?;
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/postgres.sh"));
        command.args(["fsync=on", "full_page_writes=on"]).env("TMPDIR", &ground.dir);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = ground.cores.start_anywhere(|| command.spawn().context("starting tests/postgres.sh"))?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its standard output")?).read_line(&mut line)?;
        let (directory, port) = line.trim().rsplit_once(' ').unwrap_or_default();
        let port = port.parse().context("PostgreSQL did not start: tests/postgres.sh says above why")?;
        let host = if by_socket { directory } else { "127.0.0.1" };
        Ok(Self { host: host.to_owned(), port, child })
    }

    /// CPU time of all its processes.
    pub fn cpu(&self) -> Result<Duration> {
        process::cpu_of_family(self.child.id())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It may have ended already.
        let _ = self.child.wait();
    }
}
