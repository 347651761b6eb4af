//! `list`: pages of 1000 keys out of a million objects, asked of the SQLite store itself. The store is filled through its
//! own steps, in batches, so that its rows are what a deployment has.

use crate::contestant::Ground;
use crate::figures::{Outcome, Verdict};
use crate::objects::{self, BUCKET};
use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use s3_orchestrator::base::{Incarnation, Timestamp};
use s3_orchestrator::store::port::{
    Answer, Applied, BatchId, BeginWrite, Change, CommitWrite, ListQuery, MetadataStore, Outcome as Done, Query,
    Register, Rules, Step,
};
use s3_orchestrator::store::sqlite::SqliteStore;
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

const PAGE_KEYS: u32 = 1000;
const PAGES: u64 = 500;
const BATCH: u64 = 5000;
const PAGE_MS_MAX: f64 = 5.0;
/// Objects in a folder.
const FOLDER: u64 = 500;

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct ListOptions {
    /// Objects in the bucket
    #[arg(long, default_value_t = 1_000_000)]
    objects: u64,
}

pub fn list(ground: &Ground, options: ListOptions) -> Result<Outcome> {
    let filled = Filled::make(ground, options.objects)?;
    let title = format!("A page of {PAGE_KEYS} out of {} objects, in the store", options.objects);
    let mut outcome = Outcome::new(title, ["median ms", "p99 ms", "most ms", "entries"]);
    let after = |n: u64| key_of(n % options.objects);
    // A step that is coprime with the number of objects visits places all over the bucket.
    let place = |n: u64| n * 611_953 % options.objects;
    for (label, query) in [
        ("keys from anywhere", Box::new(|n| (String::new(), "", after(place(n)))) as Box<dyn Fn(u64) -> _>),
        ("one page after the other", Box::new(|n| (String::new(), "", after(n * u64::from(PAGE_KEYS))))),
        ("keys of a folder", Box::new(|n| (folder_of(place(n)), "", String::new()))),
        ("folders, by delimiter", Box::new(|n| ("albums/".to_owned(), "/", folder_of(place(n))))),
    ] {
        let mut times = Vec::with_capacity(PAGES as usize);
        let mut entries = 0;
        for n in 0..PAGES {
            let (prefix, delimiter, after) = query(n);
            let (bucket, delimiter) = (BUCKET.to_owned(), delimiter.to_owned());
            let query = ListQuery { bucket, prefix, delimiter, after, max: PAGE_KEYS };
            let (milliseconds, found) = filled.page(query)?;
            times.push(milliseconds);
            entries += found;
        }
        times.sort_by(f64::total_cmp);
        let at = |quantile: f64| times[((times.len() - 1) as f64 * quantile) as usize];
        outcome.row(label, [at(0.5), at(0.99), at(1.0), (entries / PAGES) as f64]);
    }
    let median = outcome.rows[0].values[0];
    outcome.verdicts.push(Verdict::at_most("milliseconds for a page of keys from anywhere", median, PAGE_MS_MAX));
    Ok(outcome)
}

fn key_of(n: u64) -> String {
    format!("{}photo-{n:07}.jpg", folder_of(n))
}

fn folder_of(n: u64) -> String {
    format!("albums/{:05}/", n / FOLDER)
}

/// A store with its objects.
struct Filled {
    store: SqliteStore,
    runtime: tokio::runtime::Runtime,
    rolls: Cell<u64>,
    incarnation: Cell<Incarnation>,
}

impl Filled {
    fn make(ground: &Ground, objects: u64) -> Result<Self> {
        let path = ground.dir.join("list.db");
        let store = SqliteStore::open(&path, Rules::default(), Arc::new(wall)).context("opening the store")?;
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let filled = Self { store, runtime, rolls: Cell::new(0), incarnation: Cell::new(Incarnation(0)) };
        let register = objects::register(0);
        let mut done = filled.apply(vec![register.into()])?.outcomes;
        let registered = Register::outcome(done.pop().context("an outcome")?);
        filled
            .incarnation
            .set(registered.map_err(|refusal| anyhow::anyhow!("not registered: {refusal:?}"))?.incarnation);
        let bar = ProgressBar::new(objects);
        let style = "filling {wide_bar} {pos}/{len} objects, {eta} left";
        bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
        for from in (0..objects).step_by(BATCH as usize) {
            filled.write(from..(from + BATCH).min(objects))?;
            bar.set_position(from + BATCH);
        }
        bar.finish_and_clear();
        Ok(filled)
    }

    fn write(&self, numbers: std::ops::Range<u64>) -> Result<()> {
        let begin = |n| objects::begin(self.incarnation.get(), &key_of(n), 1000 + n % 5000, self.roll());
        let begins: Vec<BeginWrite> = numbers.clone().map(begin).collect::<Result<_>>()?;
        let begun = self.apply(begins.iter().cloned().map(Change::from).collect())?.outcomes;
        let commit = |((n, begin), begun): ((u64, &BeginWrite), Done)| -> Result<Change> {
            Ok(objects::commit(begin, BeginWrite::outcome(begun), format!("{n:032x}"))?.into())
        };
        let commits = numbers.zip(&begins).zip(begun).map(commit).collect::<Result<_>>()?;
        let refused = |outcome: Done| CommitWrite::outcome(outcome).is_err();
        ensure!(!self.apply(commits)?.outcomes.into_iter().any(refused), "a commit was refused");
        Ok(())
    }

    fn roll(&self) -> u64 {
        self.rolls.set(self.rolls.get() + 1);
        self.rolls.get()
    }

    fn apply(&self, changes: Vec<Change>) -> Result<Applied> {
        let applied = self.runtime.block_on(self.store.apply(BatchId(1, self.roll()), changes.into()));
        applied.map_err(|error| anyhow::anyhow!("not applied: {error:?}"))
    }

    /// Milliseconds that a page took, and how many entries it has.
    #[allow(clippy::disallowed_methods)] // a bench's clock is the wall's
    fn page(&self, query: ListQuery) -> Result<(f64, u64)> {
        let start = Instant::now();
        let answer = self.runtime.block_on(self.store.query(Query::List(query)));
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        match answer {
            Ok(Answer::List(page)) => Ok((milliseconds, (page.keys.len() + page.common_prefixes.len()) as u64)),
            other => bail!("not a page: {other:?}"),
        }
    }
}

#[allow(clippy::disallowed_methods)]
fn wall() -> Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { millis: i64::try_from(now.as_millis()).unwrap_or(i64::MAX) }
}
