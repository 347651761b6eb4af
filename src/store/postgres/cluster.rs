//! A PostgreSQL for tests, started by tests/postgres.sh when a test first needs it and ended with the process, and a store on
//! it that any thread may wait for.

use super::super::port::*;
use super::{PostgresOptions, PostgresStore, Protection, hosts};
use crate::base::{Clock, Failure, Secret, Tenure, Tick};
use futures_util::future::LocalBoxFuture;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{Client, Connection, NoTls, Socket};

/// The server lives as long as its input is open: as this process.
struct Cluster {
    directory: String,
    port: u16,
    _server: Child,
}

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/postgres.sh");
    let mut server =
        Command::new(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("tests/postgres.sh");
    let mut line = String::new();
    BufReader::new(server.stdout.take().expect("piped")).read_line(&mut line).expect("its first line");
    let mut words = line.split_whitespace();
    let (Some(directory), Some(port)) = (words.next(), words.next().and_then(|port| port.parse().ok())) else {
        panic!("tests/postgres.sh could not start a PostgreSQL: it says above why");
    };
    Cluster { directory: directory.to_owned(), port, _server: server }
});

static STORES: AtomicU32 = AtomicU32::new(0);

/// Tables of their own, not made yet.
pub(in crate::store) fn options() -> PostgresOptions {
    PostgresOptions {
        hosts: vec![(CLUSTER.directory.clone(), CLUSTER.port)],
        database: "s3o".into(),
        user: "s3o".into(),
        password: Secret::new(""),
        protection: Protection::Disable,
        root_certificates: None,
        connections_max: 4,
        connections_min: 1,
        connection_lifetime: Duration::from_secs(300),
        connect_timeout: Duration::from_secs(10),
        statement_timeout: Duration::from_secs(30),
        lock_timeout: Duration::from_secs(10),
        decide_within: Duration::MAX,
        prepared_statements: true,
        schema: Some(format!("store{}", STORES.fetch_add(1, Ordering::Relaxed))),
    }
}

/// A session of the test's own.
pub(super) async fn connect(options: &PostgresOptions) -> (Client, Connection<Socket, NoTlsStream>) {
    let config = hosts::to(&options.config(), &options.hosts[0], None);
    config.connect(NoTls).await.expect("the test's server answers")
}

pub(in crate::store) async fn execute(options: &PostgresOptions, sql: &str) -> Vec<tokio_postgres::SimpleQueryMessage> {
    let (client, connection) = connect(options).await;
    let connection = tokio::spawn(connection);
    let answer = client.simple_query(sql).await.expect("a test's own statement");
    drop(client);
    let _ = connection.await; // it has said what it had to say
    answer
}

#[allow(clippy::disallowed_methods)] // the clock of tests
pub(super) fn tick() -> Tick {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    Tick { nanos: START.elapsed().as_nanos() as u64 }
}

type Job = Box<dyn FnOnce(Rc<PostgresStore>) -> LocalBoxFuture<'static, ()> + Send>;

/// A store on a thread of its own, as the metadata thread has it.
pub(in crate::store) struct OnPostgres {
    jobs: flume::Sender<Job>,
    pub(super) tenure: Arc<Tenure>,
}

impl OnPostgres {
    pub(in crate::store) fn new<C: Clock + Clone + Send + Sync + 'static>(clock: C, rules: Rules) -> Self {
        Self::on(options(), clock, rules)
    }

    /// In a schema of its own, which is made here.
    pub(super) fn on<C: Clock + Clone + Send + Sync + 'static>(
        options: PostgresOptions,
        clock: C,
        rules: Rules,
    ) -> Self {
        let schema = format!("CREATE SCHEMA {}", options.schema.as_deref().expect("of its own"));
        let made = options.clone();
        Self::open(made, rules, clock, move |runtime| {
            runtime.block_on(execute(&options, &schema));
        })
    }

    pub(in crate::store) fn open<C: Clock + Clone + Send + Sync + 'static>(
        options: PostgresOptions,
        rules: Rules,
        clock: C,
        before: impl FnOnce(&tokio::runtime::Runtime) + Send + 'static,
    ) -> Self {
        let (jobs, inbox) = flume::unbounded::<Job>();
        let tenure = Arc::new(Tenure::default());
        let kept = Arc::clone(&tenure);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            before(&runtime);
            let lease = Duration::from_secs(10);
            let store = PostgresStore::new(options, rules, lease, kept, tick, Some(Arc::new(move || clock.now())));
            let store = Rc::new(store.expect("nothing is opened yet"));
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async {
                while let Ok(job) = inbox.recv_async().await {
                    tokio::task::spawn_local(job(Rc::clone(&store)));
                }
            });
        });
        Self { jobs, tenure }
    }

    pub(super) async fn on_thread<T: Send + 'static>(
        &self,
        job: impl FnOnce(Rc<PostgresStore>) -> LocalBoxFuture<'static, T> + Send + 'static,
    ) -> T {
        let (reply, answer) = oneshot::channel();
        let boxed: Job = Box::new(move |store| {
            Box::pin(async move {
                let _ = reply.send(job(store).await); // a caller that is gone does not want it
            })
        });
        self.jobs.send(boxed).expect("the store's thread lives");
        answer.await.expect("the store's thread answers")
    }
}

impl MetadataStore for OnPostgres {
    async fn apply(&self, id: BatchId, changes: Arc<[Change]>) -> Result<Applied, ApplyError> {
        self.on_thread(move |store| Box::pin(async move { store.apply(id, changes).await })).await
    }

    async fn resolve(&self, id: BatchId) -> Result<Option<Applied>, Failure> {
        self.on_thread(move |store| Box::pin(async move { store.resolve(id).await })).await
    }

    async fn query(&self, query: Query) -> Result<Answer, Failure> {
        self.on_thread(move |store| Box::pin(async move { store.query(query).await })).await
    }

    fn drop_sessions(&self) {
        let dropping: Job = Box::new(|store| Box::pin(async move { store.drop_sessions() }));
        self.jobs.send(dropping).expect("the store's thread lives");
    }
}
