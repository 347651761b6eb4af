//! Connections: a pool for transactions and scans, and two that requests' lookups share, pipelined.

use super::faults::{failure, keeps_session, pool_failure};
use super::hosts::Connecting;
use super::migrate;
use super::options::PostgresOptions;
use super::tls::Tls;
use crate::base::Failure;
use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolConfig, QueueMode, RecyclingMethod, Runtime, Timeouts,
};
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, OnceCell};
use tokio::task::AbortHandle;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, Row, Statement};

/// Connections that lookups take turns on: one sends while the other's answers are read.
const LOOKUP_SESSIONS: usize = 2;

/// A statement and the types of its parameters. Known beforehand, so that no session state is needed to send it.
#[derive(Debug)]
pub(super) struct Sql {
    pub(super) text: &'static str,
    pub(super) types: &'static [Type],
}

/// `sql!("SELECT $1", INT8)`.
macro_rules! sql {
    ($text:expr $(, $kind:ident)* $(,)?) => {
        Sql { text: $text, types: &[$(tokio_postgres::types::Type::$kind),*] }
    };
}
pub(super) use sql;

pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A connection in use. It goes back to its pool when dropped, unless something went wrong on it.
pub(super) struct Session {
    object: Option<Object>,
    options: Arc<PostgresOptions>,
    broken: AtomicBool,
}

/// A statement that can be sent without waiting for anything.
pub(super) enum Ready {
    Prepared(Statement),
    Text(&'static Sql),
}

impl Session {
    pub(super) fn object(&self) -> &Object {
        self.object.as_ref().expect("present until dropped")
    }

    /// Timeouts (of statements, of locks, in milliseconds) that a transaction sets for itself: if it has less time for locks
    /// than others, or this session is not ours alone.
    pub(super) fn settings(&self, lock_within: Option<Duration>) -> Option<(String, String)> {
        let is_set = lock_within.is_none() && self.options.prepared_statements;
        let lock = self.options.lock_within().min(lock_within.unwrap_or(Duration::MAX));
        // None at all would be none to the server too.
        let text = |time: Duration| time.as_millis().max(1).to_string();
        (!is_set).then(|| (text(self.options.statement_timeout), text(lock)))
    }

    /// Never to be used again: its state is not known.
    pub(super) fn give_up(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.broken.load(Ordering::Relaxed) && !self.object().is_closed()
    }

    /// Cancel: safe.
    pub(super) async fn ready(&self, sql: &'static Sql) -> Result<Ready, Error> {
        if !self.options.prepared_statements {
            return Ok(Ready::Text(sql));
        }
        let statement = self.object().prepare_typed_cached(sql.text, sql.types).await;
        statement.map(Ready::Prepared).inspect_err(|error| self.note(error))
    }

    /// Sends at its first poll, so statements polled in order are one pipeline. Cancel: the statement runs all the same.
    pub(super) async fn run(&self, ready: &Ready, params: Params<'_>) -> Result<Vec<Row>, Error> {
        let rows = match ready {
            Ready::Prepared(statement) => self.object().query(statement, params).await,
            Ready::Text(sql) => {
                assert_eq!(params.len(), sql.types.len(), "the parameters of {}", sql.text);
                let typed: Vec<_> = params.iter().copied().zip(sql.types.iter().cloned()).collect();
                self.object().query_typed(sql.text, &typed).await
            }
        };
        rows.inspect_err(|error| self.note(error))
    }

    /// One statement. Cancel: the statement runs all the same.
    pub(super) async fn query(&self, sql: &'static Sql, params: Params<'_>) -> Result<Vec<Row>, Error> {
        let ready = self.ready(sql).await?;
        self.run(&ready, params).await
    }

    /// A statement without parameters and results (BEGIN, COMMIT). Sends at its first poll.
    pub(super) async fn command(&self, text: &str) -> Result<(), Error> {
        self.object().batch_execute(text).await.inspect_err(|error| self.note(error))
    }

    fn note(&self, error: &Error) {
        if !keeps_session(error) {
            self.give_up();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.broken.load(Ordering::Relaxed)
            && let Some(object) = self.object.take()
        {
            drop(Object::take(object));
        }
    }
}

pub(super) struct Sessions {
    pool: Pool,
    options: Arc<PostgresOptions>,
    /// The database has been reached once, and its tables are those of this program.
    up_to_date: OnceCell<()>,
    migrating: AtomicBool,
    lookups: [LookupSlot; LOOKUP_SESSIONS],
    turn: Cell<usize>,
    /// Connections that were made since this was last looked at, and those that may be open.
    connections: flume::Receiver<AbortHandle>,
    open: RefCell<Vec<AbortHandle>>,
}

#[derive(Default)]
struct LookupSlot {
    session: RefCell<Option<Arc<Session>>>,
    connecting: Mutex<()>,
}

impl Sessions {
    /// Connects to nobody yet.
    pub(super) fn new(options: PostgresOptions) -> std::io::Result<Self> {
        let options = Arc::new(options);
        let tls = Tls::new(&options)?;
        let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let (made, connections) = flume::unbounded();
        let connecting = Connecting::new(Arc::clone(&options), tls, made);
        let manager = Manager::from_connect(options.config(), connecting, manager);
        let config = PoolConfig {
            max_size: options.connections_max,
            timeouts: Timeouts {
                wait: Some(options.statement_timeout),
                create: None, // each host has its own
                recycle: Some(options.statement_timeout),
            },
            // The one that was used last: what its server process needs is in the processor's caches still.
            queue_mode: QueueMode::Lifo,
        };
        let settings: Arc<str> = options.session_settings().into();
        let told = Hook::async_fn(move |object: &mut deadpool_postgres::ClientWrapper, _| {
            let settings = Arc::clone(&settings);
            Box::pin(async move { object.batch_execute(&settings).await.map_err(HookError::Backend) })
        });
        let pool = Pool::builder(manager).config(config).runtime(Runtime::Tokio1).post_create(told).build();
        let pool = pool.map_err(std::io::Error::other)?;
        Ok(Self {
            pool,
            options,
            up_to_date: OnceCell::new(),
            migrating: AtomicBool::new(false),
            lookups: Default::default(),
            turn: Cell::new(0),
            connections,
            open: RefCell::default(),
        })
    }

    /// A connection for a transaction or a scan, to a database whose tables are up to date. Cancel: safe.
    pub(super) async fn get(&self) -> Result<Session, Failure> {
        self.up_to_date.get_or_try_init(|| self.bring_up_to_date()).await?;
        self.connect().await
    }

    async fn connect(&self) -> Result<Session, Failure> {
        self.note_connections();
        loop {
            let object = self.pool.get().await.map_err(|error| pool_failure(&error))?;
            let age = Object::metrics(&object).age();
            if age < self.options.connection_lifetime {
                return Ok(self.session(object));
            }
            drop(Object::take(object));
        }
    }

    fn session(&self, object: Object) -> Session {
        Session { object: Some(object), options: Arc::clone(&self.options), broken: AtomicBool::new(false) }
    }

    /// Applies the migrations, once per process.
    async fn bring_up_to_date(&self) -> Result<(), Failure> {
        let done = migrate::bring_up_to_date(&self.pool, &self.options, &self.migrating).await;
        // Nobody else has any yet, and the server may hang with those that were tried.
        done.inspect_err(|_| self.drop_all())?;
        // Further ones are opened now rather than under the first load.
        let wanted = self.options.connections_min.min(self.options.connections_max);
        let more = futures_util::future::join_all((0..wanted).map(|_| self.pool.get())).await;
        more.into_iter().try_for_each(|one| one.map(drop)).map_err(|error| pool_failure(&error))
    }

    /// A connection that others use at the same time: for single statements only. Cancel: safe.
    pub(super) async fn shared(&self) -> Result<Arc<Session>, Failure> {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let slot = &self.lookups[turn % LOOKUP_SESSIONS];
        if let Some(session) = slot.open(&self.options) {
            return Ok(session);
        }
        let _one_at_a_time = slot.connecting.lock().await;
        if let Some(session) = slot.open(&self.options) {
            return Ok(session);
        }
        let session = Arc::new(self.get().await?);
        *slot.session.borrow_mut() = Some(Arc::clone(&session));
        Ok(session)
    }

    fn note_connections(&self) {
        if !self.connections.is_empty() {
            let mut open = self.open.borrow_mut();
            open.retain(|one| !one.is_finished());
            open.extend(self.connections.try_iter());
        }
    }

    /// Cuts every connection, so that what waits on one fails now: a server that hangs would let it wait for ever. A
    /// migration goes on.
    pub(super) fn drop_all(&self) {
        if self.migrating.load(Ordering::Relaxed) {
            return;
        }
        self.note_connections();
        self.open.borrow_mut().drain(..).for_each(|one| one.abort());
        for slot in &self.lookups {
            if let Some(session) = slot.session.borrow_mut().take() {
                session.give_up();
            }
        }
        self.pool.retain(|_, _| false);
    }
}

impl LookupSlot {
    /// The slot's connection, if it works and is not too old; an old one ends when its last statement does.
    fn open(&self, options: &PostgresOptions) -> Option<Arc<Session>> {
        let mut session = self.session.borrow_mut();
        let fresh =
            |one: &Arc<Session>| one.is_usable() && Object::metrics(one.object()).age() < options.connection_lifetime;
        if !session.as_ref().is_some_and(fresh) {
            *session = None;
        }
        session.clone()
    }
}

/// `failure` for results.
pub(super) trait Blamed<T> {
    fn blamed(self) -> Result<T, Failure>;
}

impl<T> Blamed<T> for Result<T, Error> {
    fn blamed(self) -> Result<T, Failure> {
        self.map_err(|error| failure(&error))
    }
}
