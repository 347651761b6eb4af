//! `validate`: what `serve` would make of a configuration file, in words.

use crate::config::checked::{Config, Place};
use crate::config::{self, Checked, Problem, files};
use crate::policy::placement::Strategy;
use rustix::io::Errno;
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

pub(super) fn validate(path: &Path) -> ExitCode {
    let file = path.display();
    match config::load(path) {
        Ok(Checked { config, mut warnings, .. }) => {
            warnings.extend(files::missing(&config));
            warnings.extend(without_attributes(&config));
            print!("config {file}: valid\n{}", summary(&config));
            for warning in warnings {
                println!("warning: {warning}");
            }
            ExitCode::SUCCESS
        }
        Err(problems) => {
            let count = problems.0.len();
            eprintln!(
                "config {file}: not valid, {count} {}\n{problems}",
                if count == 1 { "problem" } else { "problems" }
            );
            ExitCode::FAILURE
        }
    }
}

fn summary(config: &Config) -> String {
    let mut text = String::new();
    let directories = config.backends.iter().filter(|backend| matches!(backend.place, Place::Directory(_))).count();
    let routing = match config.routing_strategy {
        Strategy::Pack => "pack",
        Strategy::Spread => "spread",
    };
    writeln!(text, "buckets: {}, credentials: {}", config.buckets.len(), config.credentials.len()).expect(TO_A_STRING);
    let endpoints = config.backends.len() - directories;
    writeln!(text, "backends: {} (S3 endpoints: {endpoints}, directories: {directories})", config.backends.len())
        .expect(TO_A_STRING);
    writeln!(text, "routing: {routing}, copies: {}", config.replication.factor).expect(TO_A_STRING);
    text
}

const TO_A_STRING: &str = "writing to a string";

/// Directories whose file system keeps no user attributes. Asking for one that is not there tells without writing.
fn without_attributes(config: &Config) -> Vec<Problem> {
    let lacks = |path: &Path| {
        let mut nothing: [u8; 0] = [];
        matches!(rustix::fs::getxattr(path, "user.s3o", &mut nothing[..]), Err(Errno::OPNOTSUPP))
    };
    let directories = config.backends.iter().enumerate().filter_map(|(i, backend)| match &backend.place {
        Place::Directory(path) if lacks(path) => Some((i, path)),
        _ => None,
    });
    directories
        .map(|(i, path)| Problem {
            line: 0,
            key: format!("backends[{i}].directory"),
            message: format!(
                "the file system of {} keeps no user attributes, so headers and metadata do not travel with the bytes: \
                 while the database is down, and after its loss, objects read from there have none, and those whose keys \
                 cannot be file names are not found by sync",
                path.display()
            ),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts() {
        let text = "\
server: {listen_addr: ':9000'}
buckets: [{name: photos, credentials: [{access_key_id: a, secret_access_key: b}, {access_key_id: c, secret_access_key: d}]}]
backends: [{name: one, directory: /nowhere}, {name: two, endpoint: 'https://x', bucket: b, access_key_id: a, secret_access_key: b}]
routing_strategy: spread
";
        let config = config::from_text(text, Path::new("/"), &|_| None).expect("a valid file").config;
        let want = "\
buckets: 1, credentials: 2
backends: 2 (S3 endpoints: 1, directories: 1)
routing: spread, copies: 1
";
        assert_eq!(summary(&config), want);
        assert_eq!(without_attributes(&config), [], "a directory that is not there is another warning's business");
    }

    #[test]
    fn proc_keeps_no_attributes() {
        let text = "\
server: {listen_addr: ':9000'}
buckets: [{name: photos, credentials: [{access_key_id: a, secret_access_key: b}]}]
backends: [{name: one, directory: /proc}]
";
        let config = config::from_text(text, Path::new("/"), &|_| None).expect("a valid file").config;
        let warnings = without_attributes(&config);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].to_string().starts_with("backends[0].directory: the file system of /proc keeps no"));
    }
}
