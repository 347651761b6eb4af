//! Hosts that are silent, and what another database than the last one may have missed.

use super::*;
use std::sync::mpsc;

/// Long enough to be noticed, and not for ever.
const HANGS_FOR: Duration = Duration::from_secs(60);

/// Whoever connects is let in by the kernel and never answered: a server that hangs.
fn silent_host() -> (TcpListener, (String, u16)) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    (listener, ("127.0.0.1".to_owned(), port))
}

fn registration() -> Change {
    Register { deployment: "d".into(), backends: vec![BackendLimit { name: name("a"), bytes_limit: 0 }] }.into()
}

#[test]
fn a_host_that_is_silent_does_not_keep_from_the_next() {
    let (silent, host) = silent_host();
    let mut options = cluster::options();
    execute(&options, &format!("CREATE SCHEMA {}", options.schema.clone().expect("of its own")));
    options.connect_timeout = Duration::from_secs(1);
    options.hosts.insert(0, host);
    let store = OnPostgres::open(options, Rules::default(), TestClock::new(), |_| {});
    wait_for(store.apply(BatchId(1, 0), vec![registration()].into())).expect("the second host answers");
    // Three connections by now, and one of them has met the first host.
    silent.set_nonblocking(true).expect("a socket of ours");
    let met = std::iter::from_fn(|| silent.accept().ok()).count();
    assert_eq!(met, 1, "it is asked last from then on");
}

#[test]
fn numbers_that_another_has_used_do_not_stop_all_writes() {
    let (options, one) = bench();
    let other = another(&options, &one);
    one.put("k", 10);
    // As on a standby that has missed only that they were taken.
    execute(&options, "UPDATE counters SET value = 0 WHERE name = 'blob'");
    let begin = |key: &str| {
        let changes = vec![other.begin_write(key, 1).into()];
        wait_for(other.store.apply(BatchId(9, other.roll()), changes.into()))
    };
    let refused = begin("l");
    assert!(matches!(refused, Err(ApplyError::NotApplied(_))), "its number is another's: {refused:?}");
    begin("l").expect("a number of its own");
    one.put("k", 10);
}

#[test]
fn a_run_that_began_after_the_clock_was_set_back_lives() {
    let (options, one) = bench();
    let renew =
        |of: &Bench<OnPostgres>| of.step(Renew { incarnation: of.incarnation.get(), judge: true, leave: false });
    one.advance(60);
    assert_eq!(renew(&one), Ok(Renewed::default()));
    one.clock.set_back(Duration::from_secs(60));
    let other = another(&options, &one);
    for _ in 0..3 {
        one.advance(2);
        assert_eq!(renew(&other), Ok(Renewed::default()), "it was never late");
        assert_eq!(renew(&one), Ok(Renewed::default()), "nobody's lease has lapsed");
    }
    // By the clock that was set back, whoever stops renewing now ends a term later.
    one.advance(11);
    assert_eq!(renew(&one), Ok(Renewed { ended: 1, doomed: 0 }));
    assert_eq!(renew(&other), Err(Refusal::Lost));
}

#[test]
fn a_server_that_hangs_while_it_is_first_looked_at_is_left() {
    let plain = cluster::options();
    let (port, hangs) = hanging_once(plain.hosts[0].1);
    let options = PostgresOptions { hosts: vec![("127.0.0.1".to_owned(), port)], ..plain };
    execute(&options, &format!("CREATE SCHEMA {}", options.schema.as_deref().expect("of its own")));
    let store = OnPostgres::open(options, Rules::default(), TestClock::new(), |_| {});
    let first = std::thread::scope(|scope| {
        let store = &store;
        scope.spawn(move || {
            hangs.recv().expect("it is looked at");
            store.drop_sessions(); // as when the breaker opens
        });
        wait_for(store.apply(BatchId(1, 0), vec![registration()].into()))
    });
    assert!(matches!(first, Err(ApplyError::NotApplied(_))), "{first:?}");
    wait_for(store.apply(BatchId(1, 1), vec![registration()].into())).expect("it answers again");
}

/// A way to the server that keeps back the first question about the database's encoding; tells when it does.
fn hanging_once(server: u16) -> (u16, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let (tells, hangs) = mpsc::channel();
    let has_hung = Arc::new(AtomicBool::new(false));
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("a connection");
            let server = TcpStream::connect(("127.0.0.1", server)).expect("the test's server listens");
            let (mut from_client, mut to_server) =
                (client.try_clone().expect("a copy"), server.try_clone().expect("a copy"));
            let (has_hung, tells) = (Arc::clone(&has_hung), tells.clone());
            std::thread::spawn(move || {
                pass_on(&mut from_client, &mut to_server, |bytes| {
                    let asks = bytes.windows(15).any(|window| window == b"server_encoding");
                    if asks && !has_hung.swap(true, SeqCst) {
                        let _ = tells.send(()); // the test may have ended
                        let (_kept, never) = mpsc::channel::<()>();
                        let _ = never.recv_timeout(HANGS_FOR); // nobody sends
                    }
                    true
                });
            });
            let (mut from_server, mut to_client) = (server, client);
            std::thread::spawn(move || pass_on(&mut from_server, &mut to_client, |_| true));
        }
    });
    (port, hangs)
}
