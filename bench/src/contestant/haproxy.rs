//! haproxy with one thread, shared keep-alive connections to the stub, and splicing of bodies where it is asked for.

use super::{Contestant, Ground, is_installed};
use crate::process::free_address;
use anyhow::{Context, Result};
use std::fs;
use std::process::Command;

pub(super) fn start(ground: &Ground, name: &'static str, splices: bool) -> Result<Option<Contestant>> {
    let program = if is_installed("haproxy", "-v") { "haproxy" } else { "/usr/sbin/haproxy" };
    if !is_installed(program, "-v") {
        return Ok(None);
    }
    let address = free_address()?;
    let (global, splice) = if splices {
        (
            "  maxpipes 1000\n  tune.pipesize 1048576\n",
            "  option splice-auto\n  option splice-request\n  option splice-response\n",
        )
    } else {
        ("  nosplice\n", "")
    };
    let text = format!(
        "global
  maxconn 4000
  nbthread 1
  no-memory-trimming
{global}defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
{splice}  http-reuse always
frontend clients
  bind {address}
  default_backend stub
backend stub
  server stub {stub} pool-max-conn 512
",
        stub = ground.stub,
    );
    let file = if splices { "haproxy-splice" } else { "haproxy" };
    let config = ground.dir.join(format!("{file}.cfg"));
    fs::write(&config, text).context("haproxy.cfg")?;
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(&config);
    ground.start(name, &mut command, address, &format!("{file}.log")).map(Some)
}
