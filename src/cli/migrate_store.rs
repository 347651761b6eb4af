//! `migrate-store`: from the embedded database to PostgreSQL, once, while no instance runs.

use super::MigrateStore;
use crate::base::Clock;
use crate::config::checked::DatabaseDriver;
use crate::config::{self, View};
use crate::control::stores::postgres_options;
use crate::reactor::clock::CoreClock;
use crate::store::transfer::{Moved, Step, transfer};
use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};

pub(super) fn migrate_store(options: &MigrateStore) -> anyhow::Result<()> {
    let path = &options.config.config;
    let checked = match config::load(path) {
        Ok(checked) => checked,
        Err(problems) => bail!("{} is not a valid configuration\n{problems}", path.display()),
    };
    let view = View::new(checked.config);
    let DatabaseDriver::Postgres(postgres) = &view.database.driver else {
        bail!(
            "{}: database.driver is sqlite: give the configuration that the instances will have, with `driver: postgres` and \
             an empty database",
            path.display()
        )
    };
    let target = postgres_options(postgres);
    let label = target.label();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let mut bar = Bar::new();
    let now = CoreClock::default().now();
    let moved = runtime.block_on(transfer(&options.from, target, now, &mut |step, table, done, all| {
        bar.show(step, table, done, all);
    }));
    bar.inner.finish_and_clear();
    match moved? {
        Moved::Before => println!("{} was moved to {label} before: nothing to do", options.from.display()),
        Moved::Now(tables) => {
            for (table, rows) in tables.iter().filter(|(_, rows)| *rows > 0) {
                println!("{table:>16}  {rows}");
            }
            println!("{} is now in {label}; each row was read back and compared.", options.from.display());
            println!(
                "Start the instances with {}. The old file is kept, and no instance starts from it.",
                path.display()
            );
        }
    }
    Ok(())
}

/// Drawn at most ten times a second, so that counting is what a row costs.
struct Bar {
    inner: ProgressBar,
    table: &'static str,
    step: Step,
}

impl Bar {
    fn new() -> Self {
        let style =
            ProgressStyle::with_template("{msg:30} {bar:30} {human_pos}/{human_len} rows  {elapsed}, {eta} to go");
        let inner = ProgressBar::new(0);
        if let Ok(style) = style {
            inner.set_style(style);
        }
        Self { inner, table: "", step: Step::Copy }
    }

    fn show(&mut self, step: Step, table: &'static str, done: u64, all: u64) {
        if (step, table) != (self.step, self.table) {
            (self.step, self.table) = (step, table);
            let doing = match step {
                Step::Copy => "copying",
                Step::Compare => "comparing",
            };
            self.inner.reset();
            self.inner.set_length(all);
            self.inner.set_message(format!("{doing} {table}"));
        }
        self.inner.set_position(done);
    }
}
