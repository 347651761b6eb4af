//! `dev`: everything below one folder, nothing to configure, and a session to paste.

use super::{Dev, serve};
use crate::config::checked::Place;
use crate::config::{self, Config, DEV_ACCESS_KEY, DEV_BUCKET, DEV_SECRET, View};
use crate::observe::logs;
use anyhow::{Context, anyhow};
use std::fmt::Write;
use std::path::Path;

pub(super) fn dev(options: &Dev) -> anyhow::Result<()> {
    let config = config::dev(&options.dir, options.listen, options.admin_listen)
        .map_err(|problems| anyhow!("these options do not go together\n{problems}"))?;
    make_directories(&options.dir, &config)?;
    println!("{}", session(&options.dir, &config));
    let view = View::new(config);
    logs::init(view.server.log_level).context("logging cannot be set up")?;
    serve::run(view, None)
}

fn make_directories(dir: &Path, config: &Config) -> anyhow::Result<()> {
    let backends = config.backends.iter().filter_map(|backend| match &backend.place {
        Place::Directory(path) => Some(path.as_path()),
        Place::Endpoint(_) => None,
    });
    for path in std::iter::once(dir).chain(backends) {
        std::fs::create_dir_all(path).with_context(|| format!("{} cannot be made", path.display()))?;
    }
    Ok(())
}

/// What a person can do next, ready to be pasted into a shell.
fn session(dir: &Path, config: &Config) -> String {
    let listen = reachable(config.server.listen_addr);
    let admin = reachable(config.admin.listen_addr);
    let mut text = String::new();
    let mut line = |words: std::fmt::Arguments<'_>| writeln!(text, "{words}").expect("writing to a string");
    line(format_args!("S3 endpoint   http://{listen}   bucket {DEV_BUCKET}"));
    line(format_args!("status        http://{admin}/admin/api/status   metrics http://{admin}{}", config.metrics.path));
    line(format_args!("kept in       {}   (delete it to begin anew)", dir.display()));
    line(format_args!(""));
    line(format_args!("Try it in another shell:"));
    line(format_args!(""));
    line(format_args!("  export AWS_ACCESS_KEY_ID={DEV_ACCESS_KEY} AWS_SECRET_ACCESS_KEY={DEV_SECRET}"));
    line(format_args!("  export AWS_DEFAULT_REGION=us-east-1 AWS_ENDPOINT_URL=http://{listen}"));
    line(format_args!("  echo 'hello' > hello.txt"));
    line(format_args!("  aws s3 cp hello.txt s3://{DEV_BUCKET}/hello.txt"));
    line(format_args!("  aws s3 ls s3://{DEV_BUCKET}/"));
    line(format_args!("  aws s3 cp s3://{DEV_BUCKET}/hello.txt -"));
    line(format_args!("  aws s3 rm s3://{DEV_BUCKET}/hello.txt"));
    text
}

/// The address that a client on this machine uses.
fn reachable(mut address: std::net::SocketAddr) -> std::net::SocketAddr {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_names_what_is_served_and_the_directories_are_there() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let dir = folder.path().join("dev");
        let options = Dev {
            dir: dir.clone(),
            listen: "0.0.0.0:9100".parse().expect("an address"),
            admin_listen: "127.0.0.1:9101".parse().expect("an address"),
        };
        let config = config::dev(&options.dir, options.listen, options.admin_listen).expect("valid");
        make_directories(&dir, &config).expect("a fresh directory");
        make_directories(&dir, &config).expect("a second start finds them there");
        assert!(["disk-1", "disk-2", "disk-3"].iter().all(|name| dir.join(name).is_dir()));
        let text = session(&dir, &config);
        for words in [
            "AWS_ENDPOINT_URL=http://127.0.0.1:9100",
            "AWS_ACCESS_KEY_ID=photoskey AWS_SECRET_ACCESS_KEY=photossecret",
            "aws s3 ls s3://photos/",
            "http://127.0.0.1:9101/metrics",
        ] {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
    }
}
