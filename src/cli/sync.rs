//! `sync`: compares a backend with the database, by the running server if there is one, otherwise here.
//!
//! A running server has the database (an SQLite file is exclusive to one process) and the backends' connections, and goes on
//! serving meanwhile. When none runs, as right after a restore, the same comparison runs in this process, with the mover and
//! without listeners: so a restored database can be put right before the first client is served.

use super::admin::{AT_LENGTH, Reach, on_one_line, quoted};
use crate::base::{BackendName, BucketName};
use crate::config::{self, View};
use crate::control::start;
use crate::observe::logs;
use crate::workers::sync::{Event, Plan};
use anyhow::{Context, anyhow, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use std::time::Duration;

#[derive(Args, Debug)]
pub struct Sync {
    /// The backend whose objects are compared with the database.
    #[arg(long, value_name = "BACKEND", required_unless_present = "restored")]
    backend: Option<String>,
    /// The bucket whose objects are compared; objects that others put on the backend become objects of this bucket.
    #[arg(long, value_name = "BUCKET", required_unless_present = "restored")]
    bucket: Option<String>,
    /// Only keys that begin so.
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    /// Tell what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// The database was restored from a backup: compare every backend; only when all were, bytes are deleted again.
    #[arg(long, conflicts_with_all = ["backend", "bucket", "prefix"])]
    restored: bool,
    /// Print every event as a line of JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

/// Runs to the end; fails if the comparison did.
pub fn sync(options: &Sync) -> anyhow::Result<()> {
    let server = options.reach.server()?;
    if server.is_up() || options.reach.config.is_none() {
        let mut answer = server.ask("POST", &options.path(), AT_LENGTH)?.refused()?;
        let mut shown = Shown::new(options);
        while let Some(event) = answer.next_line()? {
            shown.event(&event);
        }
        return shown.end();
    }
    let path = options.reach.config.as_deref().expect("tested above");
    let view = match config::load(path) {
        Ok(checked) => View::new(checked.config),
        Err(problems) => bail!("{} is not a valid configuration\n{problems}", path.display()),
    };
    let plan = options.plan(&view)?;
    logs::init_beside(config::checked::LogLevel::Error).context("logging cannot be set up")?;
    let (events, told) = std::sync::mpsc::channel();
    let mut shown = Shown::new(options);
    let working = std::thread::spawn(move || {
        start::sync(view, plan, move |event: Event| drop(events.send(event))) // the printer lives longer
    });
    for event in told {
        shown.event(&serde_json::to_value(&event).expect("an event is plain JSON"));
    }
    working.join().map_err(|_| anyhow!("the comparison broke off"))??;
    shown.end()
}

impl Sync {
    fn path(&self) -> String {
        let dry_run = self.dry_run;
        match (&self.backend, &self.bucket) {
            (Some(backend), Some(bucket)) if !self.restored => format!(
                "/admin/api/backends/{}/sync?bucket={}&prefix={}&dry_run={dry_run}",
                quoted(backend),
                quoted(bucket),
                quoted(&self.prefix)
            ),
            _ => format!("/admin/api/sync?restored=true&dry_run={dry_run}"),
        }
    }

    fn plan(&self, view: &View) -> anyhow::Result<Plan> {
        if self.restored {
            return Ok(Plan::after_restore(view, self.dry_run));
        }
        let backend = BackendName::new(self.backend.as_deref().unwrap_or_default());
        if view.backend_index(&backend).is_none() {
            bail!("no backend of the configuration is called {}", backend.as_str());
        }
        let bucket =
            BucketName::parse(self.bucket.as_deref().unwrap_or_default()).context("--bucket is no bucket's name")?;
        let prefix = self.prefix.clone();
        Ok(Plan { backends: vec![backend], bucket: Some(bucket), prefix, dry_run: self.dry_run, restored: false })
    }
}

/// What the operator sees: a line per difference, the progress below it, and the counts at the end.
struct Shown {
    json: bool,
    bar: ProgressBar,
    last: Option<Value>,
}

impl Shown {
    fn new(options: &Sync) -> Self {
        let bar = if options.json { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        bar.set_style(ProgressStyle::with_template("{spinner} {msg} [{elapsed}]").expect("a template of our own"));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { json: options.json, bar, last: None }
    }

    fn event(&mut self, event: &Value) {
        if self.json {
            println!("{event}");
        }
        match event["event"].as_str() {
            Some("progress") => self.bar.set_message(format!(
                "{}: {} names compared",
                event["backend"].as_str().unwrap_or("?"),
                event["listed"]
            )),
            Some("item") if !self.json => self.bar.suspend(|| println!("{}", item_words(event))),
            Some("result" | "failed") => self.last = Some(event.clone()),
            _ => {}
        }
    }

    fn end(self) -> anyhow::Result<()> {
        self.bar.finish_and_clear();
        let last = self.last.context("the comparison broke off: see the server's log, and run it again")?;
        if last["event"] == "failed" {
            if let Some(untold) = untold_words(&last["counts"]) {
                eprintln!("{untold}");
            }
            bail!("{}; what was settled stays so, run it again", last["error"].as_str().unwrap_or("it failed"));
        }
        if !self.json {
            println!("{}", result_words(&last));
        }
        Ok(())
    }
}

fn item_words(event: &Value) -> String {
    let what = match event["found"].as_str() {
        Some("imported") => "imported, the database did not know it",
        Some("newer") => "newer than the database knew",
        Some("copy") => "one more copy",
        Some("outdated") => "outdated, will be deleted",
        Some("unclear") => "left alone, it cannot be said what it is",
        Some("copy_gone") => "its bytes are gone, there are other copies",
        Some("object_gone") => "its bytes are gone, and the object with them",
        Some("unfinished") => "left by a write that was cut off, deleted",
        Some("differs") => "has another size than the database says",
        _ => "?",
    };
    let text = |field: &str| on_one_line(event[field].as_str().unwrap_or("?"));
    format!("{}: {} ({} bytes, {}): {what}", text("backend"), text("key"), event["size"], text("name"))
}

fn result_words(result: &Value) -> String {
    let mut lines = Vec::new();
    if result["dry_run"] == Value::Bool(true) {
        lines.push("Nothing was changed (--dry-run). It would have been:".to_owned());
    }
    for (field, what) in [
        ("listed", "names listed"),
        ("known", "known to the database"),
        ("imported", "imported"),
        ("newer", "newer versions adopted"),
        ("copies", "more copies adopted"),
        ("outdated", "outdated, to be deleted"),
        ("unclear", "left alone"),
        ("copies_gone", "copies dropped, their bytes are gone"),
        ("objects_gone", "objects dropped, their bytes are gone"),
        ("differs", "of another size than the database says"),
        ("unfinished", "files deleted that cut-off writes had left"),
        ("ignored", "not of this bucket and prefix"),
    ] {
        lines.push(format!("{:>10} {what}", result[field].as_u64().unwrap_or(0)));
    }
    lines.extend(untold_words(result));
    if result["released"] == Value::Bool(true) {
        lines.push("The database is in use again as any other: bytes are deleted when their time has come.".to_owned());
    }
    lines.join("\n")
}

/// None: all items were shown.
fn untold_words(counts: &Value) -> Option<String> {
    let untold = counts["untold"].as_u64().filter(|&untold| untold > 0)?;
    Some(format!("Of these, {untold} are counted but not shown one by one: they came faster than they were read."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser, Debug)]
    struct Line {
        #[command(flatten)]
        sync: Sync,
    }

    #[test]
    fn what_is_asked() {
        let path = |words: &str| Line::try_parse_from(words.split(' ')).map(|line| line.sync.path());
        assert_eq!(
            path("x --backend b --bucket v --prefix a/").unwrap(),
            "/admin/api/backends/b/sync?bucket=v&prefix=a%2F&dry_run=false"
        );
        assert_eq!(path("x --restored --dry-run").unwrap(), "/admin/api/sync?restored=true&dry_run=true");
        for wrong in ["x", "x --backend b", "x --bucket v", "x --restored --backend b --bucket v"] {
            assert!(path(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_difference_is_one_line() {
        let event =
            serde_json::json!({"backend": "b", "found": "copy", "key": "v/a\nb", "name": "v/a\u{1b}b!0", "size": 7});
        assert_eq!(item_words(&event), "b: v/a\\nb (7 bytes, v/a\\u{1b}b!0): one more copy");
    }

    #[test]
    fn the_result_counts() {
        let text = result_words(&serde_json::json!({"listed": 7, "imported": 2, "released": true, "dry_run": false}));
        assert!(
            text.contains("7 names listed") && text.contains("2 imported") && text.contains("in use again"),
            "{text}"
        );
        assert!(!text.contains("not shown"), "{text}");
        let text = result_words(&serde_json::json!({"listed": 7, "imported": 7, "untold": 3}));
        assert!(text.contains("3 are counted but not shown"), "{text}");
    }
}
