//! Keeps the main port's certificate current: its files are read again when they change and on SIGHUP, and an end that comes
//! near is warned of. Connections that are open keep what they shook hands with.

use crate::base::{Clock, Timestamp};
use crate::config::checked::{Tls, TlsVersion};
use crate::reactor::clock::CoreClock;
use crate::reactor::tls::{ServerFiles, ServerTls, server_config};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::signal::unix::Signal;

const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Warnings begin so long before the end, and come once a day.
const WARN_BEFORE_SECONDS: i64 = 14 * DAY_SECONDS;
const DAY_SECONDS: i64 = 24 * 3600;

pub struct Certificate {
    files: Tls,
    current: Arc<ServerTls>,
    seen: Vec<Version>,
    /// Seconds since 1970, if the certificate says so.
    ends: Option<i64>,
    warned: Option<i64>,
}

/// What tells a file from its former contents.
type Version = Option<(SystemTime, u64)>;

impl Certificate {
    /// Reads the files for the first time; wrong ones end the start.
    pub fn open(files: &Tls) -> io::Result<Self> {
        let seen = versions(files);
        let (config, ends) = server_config(&of(files))?;
        let current = Arc::new(ServerTls::new(config));
        let mut certificate = Self { files: files.clone(), current, seen, ends, warned: None };
        certificate.warn(CoreClock::default().now());
        Ok(certificate)
    }

    pub fn current(&self) -> Arc<ServerTls> {
        Arc::clone(&self.current)
    }

    /// Reads the files again if they changed, or were `asked` for.
    fn look(&mut self, asked: bool) {
        let found = versions(&self.files);
        if asked || found != self.seen {
            // Also after a failure: what is half written changes once more.
            self.seen = found;
            match server_config(&of(&self.files)) {
                Ok((config, ends)) => {
                    self.current.replace(config);
                    (self.ends, self.warned) = (ends, None);
                    tracing::info!("certificate read again");
                }
                Err(cause) => tracing::error!(%cause, "the certificate cannot be used; the former one stays in force"),
            }
        }
        self.warn(CoreClock::default().now());
    }

    fn warn(&mut self, now: Timestamp) {
        let Some(left) = self.ends.map(|end| end - now.seconds()).filter(|left| *left < WARN_BEFORE_SECONDS) else {
            return;
        };
        let today = now.seconds() / DAY_SECONDS;
        if self.warned.replace(today) == Some(today) {
            return;
        }
        let file = self.files.cert_file.display().to_string();
        match left {
            ..0 => tracing::error!(file, "the certificate has expired"),
            _ => tracing::warn!(file, days_left = left / DAY_SECONDS, "the certificate expires soon"),
        }
    }
}

/// Looks after the certificate, if there is one, for as long as the process lives. SIGHUP never ends the process.
pub async fn keep(mut certificate: Option<Certificate>, mut hangup: Signal) {
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            () = tokio::time::sleep(LOOK_EVERY) => false,
        };
        match &mut certificate {
            Some(certificate) => certificate.look(asked),
            None if asked => tracing::info!(signal = "SIGHUP", "there is no certificate to read again"),
            None => {}
        }
    }
}

fn of(files: &Tls) -> ServerFiles<'_> {
    ServerFiles {
        cert_file: &files.cert_file,
        key_file: &files.key_file,
        client_ca_file: files.client_ca_file.as_deref(),
        only_1_3: files.min_version == TlsVersion::V1_3,
    }
}

fn versions(files: &Tls) -> Vec<Version> {
    let version = |path: &Path| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.modified().ok()?, found.len()))
    };
    [Some(files.cert_file.as_path()), Some(&files.key_file), files.client_ca_file.as_deref()]
        .into_iter()
        .flatten()
        .map(version)
        .collect()
}
