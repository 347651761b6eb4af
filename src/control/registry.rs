//! Keeps the registry of buckets and users current, and every core informed: the configuration file is read again on
//! SIGHUP (limits and the log's level too, see limits.rs), stored buckets when a core has changed them or another instance may have.

use super::admin::Operations;
use super::metadata::ControlMetadata;
use crate::base::Failure;
use crate::config::registry::{Bucket, Stored};
use crate::config::written::Written;
use crate::config::{self, Checked, Config, Registry};
use crate::observe::logs;
use crate::reactor::publication::{Heard, Publication};
use crate::store::port::{Answer, BucketRow, Buckets, Metadata, Query};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::Signal;

/// A core that has not taken a registry for so long hangs; the others are not kept from serving by it.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);

/// How soon the buckets of other instances are seen, and how late those of this one when its call was lost.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The file that the process was started with.
pub struct ConfigFile {
    pub path: PathBuf,
    pub written: Written,
}

pub struct Keeper {
    /// None: there is no file to read again.
    file: Option<ConfigFile>,
    config: Config,
    metadata: ControlMetadata,
    /// As last read from the store, and which state of them that is.
    stored: Vec<Bucket>,
    /// None: not read yet.
    generation: Option<u64>,
    publication: Publication,
    heard: Heard,
    /// Limits that the database has not been told yet.
    limits_due: bool,
}

impl Keeper {
    /// Reads the stored buckets for the first time: what is published from the start on. While the database does not answer,
    /// those of the configuration are there, and the others come with the first look that is answered.
    pub async fn open(
        config: &Config,
        file: Option<ConfigFile>,
        metadata: ControlMetadata,
    ) -> Result<(Self, Publication), Failure> {
        let buckets = match stored_buckets(&metadata, None).await {
            Err(failure) if failure.is_of_database() => None,
            read => read?,
        };
        let generation = buckets.as_ref().map(|buckets| buckets.generation);
        let stored: Vec<_> = buckets.into_iter().flat_map(|buckets| buckets.rows).map(of_row).collect();
        warn_of_hidden(config, &stored);
        let (publication, heard) = Publication::new(registry(config, generation, &stored));
        let config = config.clone();
        let limits_due = false;
        let own = publication.clone();
        Ok((Self { file, config, metadata, stored, generation, publication: own, heard, limits_due }, publication))
    }

    /// Runs as long as the process.
    pub async fn run(mut self, mut hangup: Signal, operations: Arc<Operations>) {
        loop {
            let asked = tokio::select! {
                _ = hangup.recv() => true,
                () = self.heard.changed.heard() => false,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let reloaded = asked && self.reload();
            if reloaded {
                logs::set_level(self.config.server.log_level);
                operations.set_limits(&self.config).await;
                self.limits_due = true;
            }
            self.tell_limits(&operations).await;
            let changed = self.look().await.unwrap_or_else(|failure| {
                // The breaker and the log of the store say so too; the next look is soon.
                tracing::debug!(%failure, "the stored buckets could not be read");
                false
            });
            if reloaded || changed {
                self.publish().await;
            } else {
                self.publication.settle();
            }
            if reloaded {
                // Only now does the mover know what it is to be.
                operations.wake_replication();
                let (buckets, credentials) = (self.config.buckets.len(), self.config.credentials.len());
                tracing::info!(buckets, credentials, "buckets and users are in force as configured");
            }
        }
    }

    async fn tell_limits(&mut self, operations: &Operations) {
        if self.limits_due && !operations.readiness.is_degraded() {
            match operations.tell_limits().await {
                Ok(()) => {
                    self.limits_due = false;
                    tracing::info!("limits are in force as configured");
                }
                Err(failure) => tracing::debug!(%failure, "limits could not be told yet"),
            }
        }
    }

    /// Reads the stored buckets again if they have changed; whether they had.
    async fn look(&mut self) -> Result<bool, Failure> {
        let Some(buckets) = stored_buckets(&self.metadata, self.generation).await? else { return Ok(false) };
        self.generation = Some(buckets.generation);
        self.stored = buckets.rows.into_iter().map(of_row).collect();
        Ok(true)
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
        warn_of_hidden(&self.config, &self.stored);
        true
    }

    async fn publish(&self) {
        let registry = registry(&self.config, self.generation, &self.stored);
        if tokio::time::timeout(TAKEN_WITHIN, self.publication.publish(registry, &self.heard)).await.is_err() {
            tracing::error!("a core did not take the new buckets and users in time");
        }
    }
}

fn registry(config: &Config, generation: Option<u64>, stored: &[Bucket]) -> Registry {
    match generation {
        Some(generation) => Registry::new(config, generation, stored.iter().cloned()),
        None => Registry::incomplete(config),
    }
}

async fn stored_buckets(metadata: &ControlMetadata, unless: Option<u64>) -> Result<Option<Buckets>, Failure> {
    match metadata.query(Query::Buckets { unless }).await? {
        Answer::Buckets(buckets) => Ok(buckets),
        other => Err(Failure::ourselves(format!("a query of buckets was answered with {other:?}"))),
    }
}

fn of_row(row: BucketRow) -> Bucket {
    Bucket {
        name: row.name,
        max_multipart_uploads: 0,
        cors: Vec::new(),
        owner: row.owner.into(),
        stored: Some(Stored { created: row.created, region: row.region.into() }),
    }
}

/// A stored bucket whose name the configuration has taken since.
fn warn_of_hidden(config: &Config, stored: &[Bucket]) {
    for bucket in stored.iter().filter(|one| config.buckets.iter().any(|configured| configured.name == one.name)) {
        let (name, owner) = (bucket.name.as_str(), &*bucket.owner);
        tracing::warn!(bucket = name, owner, "the configuration has taken the name of a bucket that a user created");
    }
}
