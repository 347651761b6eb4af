//! `metadata`: how many lookups and commits a second the metadata thread carries, and what they cost it and its database.
//! One thread asks on behalf of everybody, each of the callers one call after the other; instances share one PostgreSQL.

use crate::contestant::Ground;
use crate::disk;
use crate::figures::{Outcome, median};
use crate::instance::Instance;
use crate::machine;
use crate::objects::{self, BUCKET};
use crate::postgres::Postgres;
use crate::rounds::Pace;
use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use s3_orchestrator::store::port::Metadata;
use s3_orchestrator::store::record::Located;
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::{JoinHandle, LocalSet};

const IN_FLIGHT: [usize; 3] = [1, 16, 128];
const INSTANCES: [usize; 3] = [1, 4, 8];
/// Objects that are looked up.
const OBJECTS: u64 = 20_000;
const OBJECT_BYTES: u64 = 1024;

#[derive(Clone, Debug, clap::Args)]
pub struct MetadataOptions {
    /// Only the lines whose names have this in them
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verb {
    /// Of keys that are there, asked of the database: no cache answers.
    Lookup,
    /// A begin, and the commit of what was begun: two changes, of a key that is new.
    Commit,
}

/// One line of the table.
struct Case {
    verb: Verb,
    database: &'static str,
    instances: usize,
    /// Callers of each instance.
    in_flight: usize,
    windows: Vec<Window>,
}

struct Window {
    per_second: f64,
    batches_per_second: f64,
    changes_per_batch: f64,
    own_cpu_us: f64,
    /// NaN where the database is a part of the process.
    server_cpu_us: f64,
    mean_ms: f64,
}

pub fn metadata(ground: &Ground, options: &MetadataOptions, pace: Pace) -> Result<Outcome> {
    let mut cases = cases();
    cases.retain(|case| options.only.as_ref().is_none_or(|text| case.label().contains(text)));
    ensure!(!cases.is_empty(), "no line has that in its name");
    let bench = Bench::start(ground)?;
    let bar = ProgressBar::new(u64::from(pace.rounds) * cases.len() as u64);
    bar.set_style(ProgressStyle::with_template("{wide_bar} {pos}/{len} windows").expect("a valid template"));
    let mut syncs = Vec::new();
    for round in 0..pace.rounds as usize {
        syncs.push(disk::syncs_per_second(&ground.dir, Duration::from_secs_f64(pace.seconds / 3.0))?);
        for turn in 0..cases.len() {
            let at = (round + turn) % cases.len();
            let window = bench.window(&cases[at], pace.seconds)?;
            cases[at].windows.push(window);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let columns = ["a second", "batches/s", "changes/batch", "own CPU us", "PostgreSQL CPU us", "mean ms"];
    let mut outcome = Outcome::new("The metadata thread, databases syncing", columns);
    for case in &cases {
        let column = |of: fn(&Window) -> f64| median(case.windows.iter().map(of));
        let values = [
            column(|one| one.per_second),
            column(|one| one.batches_per_second),
            column(|one| one.changes_per_batch),
            column(|one| one.own_cpu_us),
            column(|one| one.server_cpu_us),
            column(|one| one.mean_ms),
        ];
        outcome.row(case.label(), values);
    }
    outcome.notes.push(format!("{:.0} serial fdatasync a second (median)", median(syncs)));
    outcome.notes.push("a commit is one object's begin and its commit: two changes".to_owned());
    Ok(outcome)
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for verb in [Verb::Lookup, Verb::Commit] {
        let databases = [("SQLite", &INSTANCES[..1]), ("PostgreSQL", &INSTANCES[..])];
        for (database, instances) in databases {
            for &instances in instances {
                let case = |in_flight| Case { verb, database, instances, in_flight, windows: Vec::new() };
                all.extend(IN_FLIGHT.map(case));
            }
        }
    }
    all
}

impl Case {
    fn label(&self) -> String {
        let Self { verb, database, instances, in_flight, .. } = self;
        let what = match verb {
            Verb::Lookup => "lookups",
            Verb::Commit => "commits",
        };
        match instances {
            1 => format!("{what}, {database}, {in_flight} in flight"),
            _ => format!("{what}, {database}, {instances} instances with {in_flight} in flight"),
        }
    }
}

/// Both databases with the objects in them.
struct Bench {
    runtime: Runtime,
    sqlite: Vec<Rc<Instance>>,
    postgres: Vec<Rc<Instance>>,
    server: Postgres,
    /// Numbers keys that are new, and nonces.
    next: Rc<Cell<u64>>,
}

/// What the callers of a window have in common.
#[derive(Clone)]
struct Load {
    verb: Verb,
    /// Calls are counted until then, or until there are so many.
    until: Option<Instant>,
    calls_max: u64,
    next: Rc<Cell<u64>>,
    calls: Rc<Cell<u64>>,
    waited: Rc<Cell<Duration>>,
}

impl Bench {
    fn start(ground: &Ground) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let server = Postgres::start(ground, false)?;
        let (sqlite, postgres) = runtime.block_on(async {
            let mut postgres = Vec::new();
            for _ in 0..*INSTANCES.last().expect("some") {
                postgres.push(Rc::new(Instance::on_postgres(ground, &server).await?));
            }
            anyhow::Ok((vec![Rc::new(Instance::on_sqlite(ground).await?)], postgres))
        })?;
        let bench = Self { runtime, sqlite, postgres, server, next: Rc::default() };
        for instances in [&bench.sqlite, &bench.postgres] {
            bench.next.set(0);
            bench.run(&instances[..1], 128, &bench.load(Verb::Commit, None, OBJECTS))?;
        }
        Ok(bench)
    }

    fn load(&self, verb: Verb, until: Option<Instant>, calls_max: u64) -> Load {
        Load { verb, until, calls_max, next: self.next.clone(), calls: Rc::default(), waited: Rc::default() }
    }

    #[allow(clippy::disallowed_methods)] // a bench's clock is the wall's
    fn window(&self, case: &Case, seconds: f64) -> Result<Window> {
        let on_postgres = case.database == "PostgreSQL";
        let instances = &(if on_postgres { &self.postgres } else { &self.sqlite })[..case.instances];
        // Sessions shall be open and statements prepared.
        let start = Instant::now();
        self.run(instances, case.in_flight, &self.load(case.verb, Some(start + Duration::from_millis(200)), u64::MAX))?;
        let counts = || -> (u64, u64) {
            let cells = || instances.iter().map(|one| &one.cells);
            (cells().map(|one| one.batches.value()).sum(), cells().map(|one| one.changes.value()).sum())
        };
        let cpu = || Ok::<_, anyhow::Error>((machine::cpu_of_other_threads()?, self.server.cpu()?));
        let (cpu_before, (batches_before, changes_before), start) = (cpu()?, counts(), Instant::now());
        let load = self.load(case.verb, Some(start + Duration::from_secs_f64(seconds)), u64::MAX);
        self.run(instances, case.in_flight, &load)?;
        let (elapsed, cpu_after, (batches, changes)) = (start.elapsed().as_secs_f64(), cpu()?, counts());
        let (batches, changes) = ((batches - batches_before) as f64, (changes - changes_before) as f64);
        let calls = load.calls.get() as f64;
        let cpu_us = |before: Duration, after: Duration| after.saturating_sub(before).as_secs_f64() * 1e6 / calls;
        let of_commits = |value: f64| if case.verb == Verb::Commit { value } else { f64::NAN };
        Ok(Window {
            per_second: calls / elapsed,
            batches_per_second: of_commits(batches / elapsed),
            changes_per_batch: of_commits(changes / batches),
            own_cpu_us: cpu_us(cpu_before.0, cpu_after.0),
            server_cpu_us: if on_postgres { cpu_us(cpu_before.1, cpu_after.1) } else { f64::NAN },
            mean_ms: load.waited.get().as_secs_f64() * 1e3 / calls,
        })
    }

    /// Until every caller has ended.
    fn run(&self, instances: &[Rc<Instance>], in_flight: usize, load: &Load) -> Result<()> {
        let local = LocalSet::new();
        let callers: Vec<JoinHandle<Result<()>>> = instances
            .iter()
            .flat_map(|instance| std::iter::repeat_n(instance, in_flight))
            .map(|instance| local.spawn_local(call(Rc::clone(instance), load.clone())))
            .collect();
        local.block_on(&self.runtime, async {
            for caller in callers {
                caller.await.context("a caller")??;
            }
            Ok(())
        })
    }
}

/// One caller: call after call.
#[allow(clippy::disallowed_methods)] // a bench's clock is the wall's
async fn call(instance: Rc<Instance>, load: Load) -> Result<()> {
    let mut located = Located::empty();
    loop {
        let began = Instant::now();
        if load.until.is_some_and(|until| began >= until) || load.calls.get() >= load.calls_max {
            return Ok(());
        }
        let n = load.next.get();
        load.next.set(n + 1);
        load.calls.set(load.calls.get() + 1);
        match load.verb {
            // A step that is coprime with the number of objects visits places all over them.
            Verb::Lookup => {
                let key = key_of(n % OBJECTS * 611_953 % OBJECTS);
                ensure!(instance.metadata.lookup(BUCKET, &key, &mut located).await?, "{key} is not there");
            }
            Verb::Commit => {
                let begin = objects::begin(instance.incarnation, &key_of(n), OBJECT_BYTES, n)?;
                let begun = instance.metadata.step(begin.clone()).await?;
                let commit = objects::commit(&begin, begun, format!("{n:032x}"))?;
                if let Err(refusal) = instance.metadata.step(commit).await? {
                    bail!("a commit was refused: {refusal:?}");
                }
            }
        }
        load.waited.set(load.waited.get() + began.elapsed());
    }
}

fn key_of(n: u64) -> String {
    format!("albums/{:05}/photo-{n:08}.jpg", n / 500)
}
