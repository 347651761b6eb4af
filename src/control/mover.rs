//! What the mover does: background jobs over the same ports as a reactor's handlers, each when the schedule says so.

use super::backend_checks::{Book, check_backends, probe_when_due};
use super::threads::start_thread;
use crate::base::{Clock, Failure, Timestamp};
use crate::handlers::ports::Ports;
use crate::observe::cells::{CoreCells, Service};
use crate::reactor::jobs::{Ask, EVENTS_MAX, Go, Pass, SyncOrder};
use crate::reactor::mailbox::{Mailbox, Postbox};
use crate::reactor::ports::CorePorts;
use crate::reactor::run::{CoreParts, mover};
use crate::reactor::task;
use crate::workers::{cleanup, drain, recover, replicate, stale_uploads, sync, trim};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Services ask one at a time each.
const ASKS_MAX: usize = 16;
/// Of a serving process.
pub const ALL_SERVICES: &[Service] = &[
    Service::Standing,
    Service::Cleanup,
    Service::Replicate,
    Service::Trim,
    Service::Drain,
    Service::Sync,
    Service::StaleUploads,
    Service::Sweep,
    Service::Forget,
];
/// Of one that compares and serves nobody.
pub const SYNC_SERVICES: &[Service] = &[Service::Standing, Service::Sync];

/// Starts the mover's thread. `checked` hears when every backend has been looked at once.
pub async fn spawn(
    parts: CoreParts,
    asks: Postbox<Ask, Go>,
    checked: flume::Sender<()>,
    services: &'static [Service],
) -> anyhow::Result<()> {
    start_thread("mover".to_owned(), |started| {
        move || mover(parts, started, |ports| async move { work(ports, asks, checked, services).await })
    })
    .await
}

async fn work(ports: Rc<CorePorts>, asks: Postbox<Ask, Go>, checked: flume::Sender<()>, services: &'static [Service]) {
    let cells = Arc::clone(&ports.core.cells);
    let mailbox = match Mailbox::open(asks, ASKS_MAX, Rc::clone(&ports.core.fair), Arc::clone(&cells)) {
        Ok(mailbox) => Rc::new(mailbox),
        Err(cause) => {
            tracing::error!(%cause, "the mover cannot ask for work");
            return;
        }
    };
    let book = Rc::new(Book::new(checked, ports.view().backends.len()));
    for &service in services {
        let (ports, mailbox, book) = (Rc::clone(&ports), Rc::clone(&mailbox), Rc::clone(&book));
        task::spawn(&cells, service_name(service), async move {
            serve_for_ever(service, &ports, &mailbox, &book).await;
        });
    }
    probe_when_due(&ports).await;
    std::future::pending::<()>().await;
}

fn service_name(service: Service) -> &'static str {
    use crate::observe::cells::Label;
    service.as_str()
}

async fn serve_for_ever(service: Service, ports: &Rc<CorePorts>, mailbox: &Mailbox<Ask, Go>, book: &Rc<Book>) {
    let mut last = None;
    while let Ok(go) = mailbox.call_accepted(Ask { service, last }).await {
        let pass = told(service, ports.cells(), run_pass(service, go, ports, book)).await;
        if !pass.failed {
            ports.cells().service(service).succeeded(ports.clock().now().seconds().unsigned_abs());
        }
        last = Some(pass);
    }
}

/// Runs a pass and tells of its failure. A panic ends the pass it is in, and not the job.
async fn told(service: Service, cells: &CoreCells, pass: impl Future<Output = Result<Pass, Failure>>) -> Pass {
    let failed = Pass { failed: true, ..Pass::default() };
    let pass = match task::shielded(cells, service_name(service), pass).await {
        Some(Ok(pass)) => pass,
        Some(Err(failure)) => {
            tracing::warn!(service = service_name(service), %failure, "a background pass failed");
            failed
        }
        None => failed,
    };
    if pass.failed {
        cells.service(service).failed();
    }
    pass
}

/// What a pass has left though it is due: its backend is slow, or this machine's clock is ahead of the database's.
const LEFT_DUE: Duration = Duration::from_secs(1);

fn until(due: Timestamp, now: Timestamp) -> Duration {
    if due <= now { LEFT_DUE } else { due.since(now) }
}

async fn run_pass(service: Service, go: Go, core: &Rc<CorePorts>, book: &Rc<Book>) -> Result<Pass, Failure> {
    let ports: &CorePorts = core;
    match service {
        Service::Standing => Ok(Pass { failed: !check_backends(core, book).await, ..Pass::default() }),
        Service::Cleanup => {
            let report = cleanup::pass(ports).await?;
            let due_in = cleanup::next_due(ports).await?.map(|due| until(due, ports.clock().now()));
            Ok(Pass { more: report.more, due_in, ..Pass::default() })
        }
        Service::Replicate => {
            let report = replicate::pass(ports).await?;
            Ok(Pass { pending: Some(report.pending), more: report.copied > 0 && report.pending > 0, ..Pass::default() })
        }
        Service::StaleUploads => {
            let report = stale_uploads::pass(ports).await?;
            Ok(Pass { more: report.more, ..Pass::default() })
        }
        Service::Sweep => {
            let mut sweep = book.sweep.take();
            let swept = sweep.pass(ports).await;
            book.sweep.set(sweep);
            swept.map(|_| Pass::default())
        }
        Service::Trim => trim::pass(ports).await.map(|_| Pass::default()),
        Service::Drain => {
            let drains = drain::pass(ports).await?;
            Ok(Pass { more: drains.iter().any(|one| one.moved > 0 && one.more), drains, ..Pass::default() })
        }
        Service::Sync => {
            if let Some(SyncOrder { plan, events }) = go.order {
                sync::run(ports, &plan, teller(&events, EVENTS_MAX)).await;
            }
            Ok(Pass::default())
        }
        _ => recover::forget_old(ports).await.map(|()| Pass::default()),
    }
}

/// Tells whoever asked; beyond `max` that wait to be read, items are only counted, and the last event says how many.
fn teller(events: &flume::Sender<sync::Event>, max: usize) -> impl FnMut(sync::Event) -> bool {
    let mut untold = 0;
    move |event| {
        if matches!(event, sync::Event::Item { .. }) && events.len() >= max {
            untold += 1;
            return !events.is_disconnected();
        }
        events.send(event.with_untold(untold)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn items_that_there_was_no_room_for_are_counted_at_the_end() {
        let (events, told) = flume::unbounded();
        let item = sync::Event::Item {
            backend: "b".into(),
            found: sync::Found::Imported,
            key: "k".into(),
            name: "n".into(),
            size: 1,
        };
        let mut tell = teller(&events, 2);
        for _ in 0..5 {
            assert!(tell(item.clone()));
        }
        let counts = sync::Counts { imported: 5, ..sync::Counts::default() };
        assert!(tell(sync::Event::Result(counts)));
        let all: Vec<_> = told.try_iter().collect();
        let last = sync::Event::Result(sync::Counts { untold: 3, ..counts });
        assert_eq!(all, [item.clone(), item.clone(), last]);
        assert!((0..2).all(|_| tell(item.clone())));
        drop(told);
        assert!(!tell(item), "nobody listens any more");
    }

    #[test]
    fn what_was_left_though_it_is_due_is_not_looked_for_without_a_pause() {
        let at = |millis| Timestamp { millis };
        for (due, now, want) in [(5_030, 5_000, 30), (5_000, 5_000, 1_000), (1_000, 5_000, 1_000)] {
            assert_eq!(until(at(due), at(now)), Duration::from_millis(want), "{due} {now}");
        }
    }

    #[test]
    fn a_job_goes_on_after_a_pass_that_panics() {
        let cells = CoreCells::new("test", []);
        let panics = async { panic!("a row that nobody has thought of") };
        let pass = told(Service::Cleanup, &cells, panics).now_or_never().expect("it waits for nothing");
        assert!(pass.failed && cells.panics.value() == 1);
        let pass = told(Service::Cleanup, &cells, async { Err(Failure::metadata("down")) }).now_or_never();
        assert!(pass.expect("it waits for nothing").failed);
        let pass = told(Service::Cleanup, &cells, async { Ok(Pass { more: true, ..Pass::default() }) }).now_or_never();
        let pass = pass.expect("it waits for nothing");
        assert!(pass.more && !pass.failed && cells.panics.value() == 1);
    }
}
