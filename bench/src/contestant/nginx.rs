//! nginx with one worker, keep-alive on both sides, no log, no temporary files.

use super::{Contestant, Ground, is_installed};
use crate::process::free_address;
use anyhow::{Context, Result};
use std::fs;
use std::process::Command;

pub(super) fn start(ground: &Ground, name: &'static str, is_buffered: bool) -> Result<Option<Contestant>> {
    let program = if is_installed("nginx", "-v") { "nginx" } else { "/usr/sbin/nginx" };
    if !is_installed(program, "-v") {
        return Ok(None);
    }
    let dir = ground.dir.join(if is_buffered { "nginx-buffered" } else { "nginx" });
    fs::create_dir_all(&dir)?;
    let address = free_address()?;
    // Large answers pass through a few large buffers; small ones cost least when they are read whole before they are sent.
    let buffers = if is_buffered {
        "proxy_buffering on; proxy_buffer_size 16k; proxy_buffers 16 16k; proxy_busy_buffers_size 128k;"
    } else {
        "proxy_buffering off; proxy_buffer_size 256k; proxy_buffers 8 256k; proxy_busy_buffers_size 512k; \
         client_body_buffer_size 256k;"
    };
    let scratch: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("  {what}_temp_path {}/{what};\n", dir.display()))
        .concat();
    let text = format!(
        "daemon off; master_process off; worker_processes 1;
pid {dir}/pid; error_log {dir}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; tcp_nodelay on; tcp_nopush on; sendfile on;
  keepalive_requests 1000000000; keepalive_timeout 300; client_max_body_size 0;
{scratch}  upstream stub {{ server {stub}; keepalive 512; keepalive_requests 1000000000; keepalive_timeout 300; }}
  server {{
    listen {address} backlog=1024;
    location / {{
      proxy_pass http://stub; proxy_http_version 1.1; proxy_set_header Connection \"\";
      proxy_request_buffering off; proxy_max_temp_file_size 0;
      {buffers}
    }}
  }}
}}
",
        dir = dir.display(),
        stub = ground.stub,
    );
    let config = dir.join("nginx.conf");
    fs::write(&config, text).context("nginx.conf")?;
    let mut command = Command::new(program);
    command.arg("-p").arg(&dir).arg("-c").arg(&config).arg("-e").arg(dir.join("error.log"));
    let log = if is_buffered { "nginx-buffered.log" } else { "nginx.log" };
    ground.start(name, &mut command, address, log).map(Some)
}
