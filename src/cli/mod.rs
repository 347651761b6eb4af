//! The command line: what can be asked of the program, and what is printed to a person. Commands read the configuration
//! and hand it over; none of them serves by itself.

mod admin;
mod dev;
mod migrate_store;
mod serve;
mod sync;
mod validate;

use crate::observe::logs;
use clap::{Args, Parser, Subcommand};
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// One S3 endpoint in front of many S3-compatible backends.
#[derive(Parser, Debug)]
#[command(name = "s3-orchestrator", version, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Serve clients as the configuration file says, until SIGTERM or SIGINT.
    Serve(ConfigFile),
    /// Serve from three local directories, without a configuration file: to try it out and to develop against.
    ///
    /// Everything is kept in one directory: the metadata database and three backends with quotas. One bucket, `photos`, with
    /// fixed keys is there from the start. Begin anew by deleting the directory.
    Dev(Dev),
    /// Check a configuration file: prints every problem at once with its line and what to do.
    ///
    /// Exits with 0 when the file is valid, even if there are warnings, and with 1 when it is not.
    Validate(ConfigFile),
    /// Move the metadata from SQLite into the empty PostgreSQL database that the configuration names.
    ///
    /// Stop the instance first. Everything is copied, read back and compared in one transaction: a move that is interrupted
    /// leaves nothing behind, and can be started again. The SQLite file is kept and marked, so that no instance serves from
    /// it any more.
    MigrateStore(MigrateStore),
    /// Ask a running server: what it holds, cleanup and dead letters, drains, removal of backends.
    Admin(admin::Admin),
    /// Compare a backend with the database: import what it does not know, report what is gone.
    ///
    /// Asks the running server; when none runs (and --config is given), the comparison runs in this process.
    Sync(sync::Sync),
    /// Print version and platform.
    Version,
}

#[derive(Args, Debug)]
struct ConfigFile {
    /// The configuration file (YAML; see config/example.yaml and docs/configuration.md).
    #[arg(long, value_name = "PATH", default_value = "config.yaml")]
    config: PathBuf,
}

#[derive(Args, Debug)]
struct MigrateStore {
    #[command(flatten)]
    config: ConfigFile,
    /// The SQLite database (`database.path` of the instance until now).
    #[arg(long, value_name = "PATH")]
    from: PathBuf,
}

#[derive(Args, Debug)]
struct Dev {
    /// Where everything is kept; made if it does not exist.
    #[arg(long, value_name = "PATH", default_value = "./s3o-dev")]
    dir: PathBuf,
    /// Where clients connect.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// Where status and metrics are served; only a loopback address, because no token protects it.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9001")]
    admin_listen: SocketAddr,
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let outcome = match CommandLine::parse_from(std::env::args_os().map(as_we_write_it)).command {
        Command::Serve(file) => serve::serve(&file.config),
        Command::Dev(options) => dev::dev(&options),
        Command::MigrateStore(options) => migrate_store::migrate_store(&options),
        Command::Validate(file) => return validate::validate(&file.config),
        Command::Admin(options) => admin::admin(&options),
        Command::Sync(options) => sync::sync(&options),
        Command::Version => {
            println!("{}", version_line());
            Ok(())
        }
    };
    logs::flush();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("s3-orchestrator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `-json` as the reference system writes it, for the options that are common to both.
fn as_we_write_it(word: OsString) -> OsString {
    match word.to_str() {
        Some("-json" | "-config" | "-addr") => [OsStr::new("-"), word.as_os_str()].into_iter().collect(),
        _ => word,
    }
}

/// The product's version, as metrics and `version` say it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

fn version_line() -> String {
    format!("s3-orchestrator {VERSION} {}/{}", std::env::consts::OS, std::env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::path::Path;

    fn parse(words: &str) -> Result<Command, clap::Error> {
        CommandLine::try_parse_from(words.split(' ')).map(|line| line.command)
    }

    #[test]
    fn command_lines() {
        CommandLine::command().debug_assert();
        let Ok(Command::Dev(dev)) = parse("x dev") else { panic!("dev needs no options") };
        assert_eq!(dev.dir, PathBuf::from("./s3o-dev"));
        assert_eq!(
            (dev.listen.to_string(), dev.admin_listen.to_string()),
            ("127.0.0.1:9000".into(), "127.0.0.1:9001".into())
        );
        let Ok(Command::Dev(dev)) = parse("x dev --dir=/d --listen=[::1]:1 --admin-listen 127.0.0.1:2") else {
            panic!("all options")
        };
        assert_eq!((dev.dir, dev.listen.to_string()), (PathBuf::from("/d"), "[::1]:1".into()));
        let Ok(Command::Serve(file)) = parse("x serve --config a.yaml") else { panic!("serve") };
        assert_eq!(file.config, PathBuf::from("a.yaml"));
        assert!(matches!(parse("x validate"), Ok(Command::Validate(file)) if file.config == Path::new("config.yaml")));
        let Ok(Command::MigrateStore(options)) = parse("x migrate-store --from a.db --config b.yaml") else {
            panic!("both paths")
        };
        assert_eq!((options.from, options.config.config), (PathBuf::from("a.db"), PathBuf::from("b.yaml")));
        assert!(matches!(parse("x version"), Ok(Command::Version)));
        for wrong in ["x", "x what", "x dev --listen nowhere", "x serve extra", "x serve --confg a", "x migrate-store"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_version_says_what_was_built() {
        let line = version_line();
        assert!(line.starts_with(concat!("s3-orchestrator ", env!("CARGO_PKG_VERSION"), " linux/")), "{line}");
    }
}
