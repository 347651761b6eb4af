//! Configuration: as written (`raw`, one table of keys in `schema`), as meant (`checked`, made by `check`), as published
//! (`view`,
//! and `registry` for what may change while serving). The only place that reads the environment.

mod check;
mod check_auth;
mod check_backends;
mod check_budgets;
mod check_cors;
mod check_postgres;
mod check_unused;
pub mod checked;
mod dev;
mod expand;
pub mod files;
pub mod fuzz;
pub mod problem;
mod raw;
mod reader;
pub mod registry;
pub mod schema;
#[cfg(test)]
mod tests;
mod values;
pub mod view;
pub mod written;

pub use check::Checked;
pub use checked::Config;
pub use dev::{DEV_ACCESS_KEY, DEV_BUCKET, DEV_SECRET, dev};
pub use problem::{Problem, Problems};
pub use registry::Registry;
pub use view::View;

use std::path::Path;

/// Reads and checks a configuration file. Relative paths in it start from its folder.
pub fn load(path: &Path) -> Result<Checked, Problems> {
    let text =
        std::fs::read_to_string(path).map_err(|error| Problems::one(0, "", format!("cannot be read: {error}")))?;
    let base = path.parent().unwrap_or(Path::new(""));
    from_text(&text, base, &environment_variable)
}

/// The same from memory; `variable` answers `${NAME}`.
pub fn from_text(text: &str, base: &Path, variable: &dyn Fn(&str) -> Option<String>) -> Result<Checked, Problems> {
    let mut root = raw::parse(text)?;
    let unset = expand::expand(&mut root, variable);
    check::check(&root, base, unset)
}

#[allow(clippy::disallowed_methods)] // the owner of the environment; a value that is not Unicode counts as unset
fn environment_variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
