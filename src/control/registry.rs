//! Keeps the registry of buckets and users current, and every core informed: the configuration file is read again on
//! SIGHUP, stored buckets when a core has changed them or another instance may have.

use crate::config::written::Written;
use crate::config::{self, Checked, Config, Registry};
use crate::reactor::publication::{Heard, Publication};
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::Signal;

/// A core that has not taken a registry for so long hangs; the others are not kept from serving by it.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);

/// The file that the process was started with.
pub struct ConfigFile {
    pub path: PathBuf,
    pub written: Written,
}

pub struct Keeper {
    /// None: there is no file to read again.
    pub file: Option<ConfigFile>,
    pub config: Config,
    pub publication: Publication,
    pub heard: Heard,
}

impl Keeper {
    /// Runs as long as the process.
    pub async fn run(mut self, mut hangup: Signal) {
        while hangup.recv().await.is_some() {
            if self.reload() {
                self.publish().await;
            }
        }
    }

    /// Reads the file again; whether there is something to publish. A file that is not valid changes nothing.
    fn reload(&mut self) -> bool {
        let Some(file) = &mut self.file else {
            tracing::info!(signal = "SIGHUP", "there is no configuration file to read again");
            return false;
        };
        let Checked { config, warnings, written } = match config::load(&file.path) {
            Ok(checked) => checked,
            Err(problems) => {
                for problem in problems.0 {
                    let (key, line, why) = (problem.key, problem.line, problem.message);
                    tracing::error!(key, line, why, "the configuration is not valid; the former one stays in force");
                }
                return false;
            }
        };
        for warning in warnings {
            tracing::warn!(key = warning.key, line = warning.line, why = warning.message, "doubtful configuration");
        }
        for key in file.written.needs_restart(&written) {
            tracing::warn!(key, "changed in the configuration file, but takes effect at the next start only");
        }
        // Compared with what the process started with: what is not in force yet is named again.
        self.config = config;
        true
    }

    async fn publish(&self) {
        let registry = Registry::new(&self.config, 0, []);
        let (buckets, credentials) = (self.config.buckets.len(), self.config.credentials.len());
        match tokio::time::timeout(TAKEN_WITHIN, self.publication.publish(registry, &self.heard)).await {
            Ok(()) => tracing::info!(buckets, credentials, "buckets and users are in force as configured"),
            Err(_) => tracing::error!("a core did not take the new buckets and users in time"),
        }
    }
}
