//! One instance's metadata thread over its database, as a server starts it, without anything else of a server.

use crate::contestant::Ground;
use crate::objects;
use crate::postgres::Postgres;
use anyhow::{Context, Result, bail};
use s3_orchestrator::base::{Clock, Incarnation, Secret, Tenure, Tick, Timestamp};
use s3_orchestrator::config::{self, View};
use s3_orchestrator::control::metadata::{self, ControlMetadata, Parts};
use s3_orchestrator::observe::cells::DeskCells;
use s3_orchestrator::reactor::clock::CoreClock;
use s3_orchestrator::reactor::mailbox;
use s3_orchestrator::store::board::Board;
use s3_orchestrator::store::desk::Locations;
use s3_orchestrator::store::location_cache::{CacheWriter, LocationCache};
use s3_orchestrator::store::port::{Metadata, MetadataStore, Registered, Rules};
use s3_orchestrator::store::postgres::{PostgresOptions, PostgresStore, Protection};
use s3_orchestrator::store::sqlite::SqliteStore;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// As a configuration's defaults.
const CACHE_BYTES: u64 = 64 << 20;
/// Never reached, so that shares are refilled now and then and nothing is refused.
const BYTES_LIMIT: u64 = 1 << 44;
/// Nobody renews it.
const LEASE: Duration = Duration::from_secs(24 * 3600);

pub struct Instance {
    pub metadata: ControlMetadata,
    pub cells: Arc<DeskCells>,
    pub incarnation: Incarnation,
}

impl Instance {
    /// On a new database.
    pub async fn on_sqlite(ground: &Ground) -> Result<Self> {
        let wall = Arc::new(|| -> Timestamp { CoreClock::default().now() });
        let path = ground.dir.join("metadata.db");
        let store = SqliteStore::open(&path, Rules::default(), wall).context("opening the store")?;
        Self::start(ground, store, Locations::Exact).await
    }

    /// Any number of them may share one server.
    pub async fn on_postgres(ground: &Ground, server: &Postgres) -> Result<Self> {
        let tick = || -> Tick { CoreClock::default().tick() };
        let store =
            PostgresStore::new(options(server), Rules::default(), LEASE, Arc::new(Tenure::default()), tick, None);
        Self::start(ground, store.context("PostgreSQL")?, Locations::memory).await
    }

    async fn start<S: MetadataStore + Send + 'static>(
        ground: &Ground,
        store: S,
        locations: fn(CacheWriter) -> Locations,
    ) -> Result<Self> {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let view = match config::dev(&ground.dir, nowhere, nowhere) {
            Ok(config) => View::new(config),
            Err(problems) => bail!("{problems}"),
        };
        let (_, cache) = LocationCache::new(CACHE_BYTES, 1);
        // No core asks.
        let (_, cores) = mailbox::channel();
        let board = Arc::new(Board::new(view.backends.iter().map(|one| one.quota_bytes)));
        let parts = Parts { store, locations: locations(cache), board, view: Arc::new(view), cores };
        let (metadata, cells, _) = ground.cores.start_anywhere(|| metadata::spawn(parts))?;
        let registered: Result<Registered, _> = metadata.step(objects::register(BYTES_LIMIT)).await?;
        let incarnation = match registered {
            Ok(registered) => registered.incarnation,
            Err(refusal) => bail!("not registered: {refusal:?}"),
        };
        Ok(Self { metadata, cells, incarnation })
    }
}

fn options(server: &Postgres) -> PostgresOptions {
    PostgresOptions {
        hosts: vec![(server.host.clone(), server.port)],
        database: "s3o".to_owned(),
        user: "s3o".to_owned(),
        password: Secret::new(""),
        protection: Protection::Disable,
        root_certificates: None,
        connections_max: 10,
        connections_min: 2,
        connection_lifetime: Duration::from_secs(3600),
        connect_timeout: Duration::from_secs(2),
        statement_timeout: Duration::from_secs(5),
        lock_timeout: Duration::from_secs(2),
        decide_within: Duration::from_millis(1500),
        prepared_statements: true,
        schema: None,
    }
}
