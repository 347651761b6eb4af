//! `serve`: a configuration file to a running program.

use crate::config::{self, Checked, View};
use crate::control::registry::ConfigFile;
use crate::observe::logs;
use anyhow::{Context, bail};
use std::path::Path;

pub(super) fn serve(path: &Path) -> anyhow::Result<()> {
    let Checked { config, warnings, written } = match config::load(path) {
        Ok(checked) => checked,
        Err(problems) => bail!("{} is not a valid configuration\n{problems}", path.display()),
    };
    let view = View::new(config);
    logs::init(view.server.log_level).context("logging cannot be set up")?;
    for warning in warnings {
        tracing::warn!(key = warning.key, line = warning.line, why = warning.message, "doubtful configuration");
    }
    run(view, Some(ConfigFile { path: path.to_owned(), written }))
}

/// Starts every thread and returns when the program has been told to stop and has stopped.
pub(super) fn run(view: View, file: Option<ConfigFile>) -> anyhow::Result<()> {
    crate::control::start::serve(view, file)
}
