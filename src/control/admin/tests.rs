//! Operations over a database that the test plays.

use super::status::last_known;
use super::*;
use crate::backend::budget::Spend;
use crate::config::from_text;
use crate::control::metadata::played;
use crate::policy::breaker::BreakerSettings;
use crate::policy::usage::BackendCall;
use crate::reactor::wake::bell;
use crate::store::database_state::DatabaseState;
use crate::store::desk::{Ask, Reply, ReplyTo};
use crate::store::port::{BudgetLease, BudgetsLeased, Change, Outcome, Registered};
use futures_util::FutureExt;
use std::path::Path;

const CONFIG: &str = "server: {listen_addr: '127.0.0.1:0'}
buckets:
  - name: photos
    credentials: [{access_key_id: photoskey, secret_access_key: photossecret}]
backends:
  - {name: near, directory: near, api_request_limit: 100}
";
const CALL: Spend = Spend { call: Some(BackendCall::Put), egress: 0, ingress: 0 };

/// Of a run that is registered; the budgets ring nobody.
fn operations(metadata: ControlMetadata) -> (Arc<Operations>, Arc<Budgets>) {
    let checked = from_text(CONFIG, Path::new("/nowhere"), &|_| None).unwrap_or_else(|problems| panic!("{problems}"));
    let view = Arc::new(View::new(checked.config));
    let metered = view.backends.iter().map(|backend| (&backend.name, &backend.budget));
    let budgets = Arc::new(Budgets::new(metered, Box::new(|| {})));
    let breaker = BreakerSettings {
        failure_threshold: 3,
        open_timeout: Duration::from_secs(15),
        probe_max: Duration::from_secs(4),
    };
    let database = Arc::new(DatabaseState::new(breaker));
    database.set_registered(Registered {
        incarnation: Incarnation(7),
        deployment: "first".to_owned(),
        doomed: 0,
        restored: false,
        facts: Vec::new(),
        draining: Vec::new(),
        unknown_backends: Vec::new(),
    });
    let names = || view.backends.iter().map(|backend| backend.name.clone());
    let ring = || bell().0;
    let operations = Operations::new(
        Arc::clone(&view),
        Arc::new(Board::new([0])),
        Arc::new(Standing::new(1)),
        vec![Arc::new(CoreCells::new("0", names()))],
        Arc::default(),
        metadata,
        Arc::new(Readiness::new(database)),
        Arc::clone(&budgets),
        None,
        Rings { cleanup: ring(), drain: ring(), replicate: ring(), trim: ring() },
        Arc::default(),
        || Timestamp { millis: 1_796_000_000_000 },
    );
    (operations, budgets)
}

/// Whoever asks for the budgets borrows for the calls that wait; when it hangs up, they must get what was lent all the same.
#[test]
fn who_hangs_up_takes_nothing_along_that_calls_wait_for() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (metadata, calls) = played();
        let (operations, budgets) = operations(metadata);
        assert!(budgets.admit_now(0, &CALL).is_none() && budgets.has_room(0, &CALL), "nothing is lent yet");
        budgets.ask_for(0, &CALL);
        let mut scrape = Box::pin(operations.budgets());
        while calls.is_empty() {
            assert!(scrape.as_mut().now_or_never().is_none(), "it waits for the database");
            tokio::task::yield_now().await;
        }
        drop(scrape);
        tokio::task::yield_now().await;
        let call = calls.try_recv().expect("it was asked");
        let Ask::Change(Change::LeaseBudgets(asked)) = &call.ask else { panic!("{:?}", call.ask) };
        assert_eq!((asked.incarnation, asked.asks[0].waiting), (Incarnation(7), 1));
        let leases = vec![BudgetLease { granted: 50, free: 50, held_back: 0, goes_on: false }];
        let answer = Reply::Change(Ok(Outcome::LeaseBudgets(Ok(BudgetsLeased { leases }))));
        assert!(call.reply.send(answer).is_ok(), "somebody waits for it still");
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(budgets.admit_now(0, &CALL).is_some(), "what was lent is there");
    });
}

/// Without the database: what is known here, and nothing that is not.
#[test]
fn a_backend_without_the_database_shows_what_was_told_last() {
    let (operations, _) = operations(played().0);
    operations.board.set_charged_bytes(0, 4096);
    operations.board.set_limit_bytes(0, 9000);
    operations.standing.set_draining(0, true);
    let line = serde_json::to_value(last_known(&operations, 0)).expect("plain JSON");
    let want = serde_json::json!({
        "name": "near", "last_known": true, "healthy": false, "breaker": null, "draining": true, "drained": null,
        "bytes_charged": 4096, "bytes_limit": 9000, "bytes_used": null, "bytes_reserved": null, "orphan_bytes": null,
        "object_count": null, "cleanup_queue": null, "cleanup_dlq": null, "api_requests": null, "egress_bytes": null,
        "ingress_bytes": null,
    });
    assert_eq!(line, want);
}
