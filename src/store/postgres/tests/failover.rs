//! Hosts that are silent, and what another database than the last one may have missed.

use super::*;
use std::sync::mpsc;

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
    execute(&options, "CREATE TABLE blobs_before AS SELECT * FROM blobs");
    let refused = begin("l");
    assert!(matches!(refused, Err(ApplyError::NotApplied(_))), "its number is another's: {refused:?}");
    let untouched =
        "IF EXISTS (SELECT FROM (TABLE blobs_before EXCEPT TABLE blobs) AS changed) THEN RAISE 'changed'; END IF";
    execute(&options, &format!("DO $$ BEGIN {untouched}; END $$"));
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
    let (port, hangs) = hanging_once(plain.hosts[0].1, b"server_encoding");
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

#[test]
fn a_server_that_hangs_in_a_migration_is_left() {
    let plain = cluster::options();
    let (port, hangs) = hanging_once(plain.hosts[0].1, b"CREATE TABLE deployment");
    let hosts = vec![("127.0.0.1".to_owned(), port)];
    let options = PostgresOptions { hosts, statement_timeout: Duration::from_secs(5), ..plain };
    execute(&options, &format!("CREATE SCHEMA {}", options.schema.as_deref().expect("of its own")));
    let store = OnPostgres::open(options, Rules::default(), TestClock::new(), |_| {});
    let hung = wait_for(store.apply(BatchId(1, 0), vec![registration()].into()));
    let Err(ApplyError::NotApplied(failure)) = hung else { panic!("{hung:?}") };
    assert!(failure.cause.contains("within a migration"), "{failure}");
    hangs.recv().expect("that was it");
    wait_for(store.apply(BatchId(1, 1), vec![registration()].into())).expect("it is brought up to date now");
}

#[test]
fn a_migration_may_take_longer_than_any_statement() {
    let plain = cluster::options();
    let options = PostgresOptions { statement_timeout: Duration::from_secs(5), ..plain };
    execute(&options, &format!("CREATE SCHEMA {}", options.schema.as_deref().expect("of its own")));
    // Each table of the migrations takes its time.
    let slow = format!(
        "SET search_path = {0};
         CREATE FUNCTION linger() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
             IF current_schema() = '{0}' AND NOT EXISTS (SELECT 1 FROM pg_tables WHERE schemaname = '{0}' AND tablename = 'lingered')
             THEN EXECUTE 'CREATE TABLE lingered ()'; PERFORM pg_sleep(7); END IF; END $$;
         CREATE EVENT TRIGGER {0}_lingers ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION linger()",
        options.schema.as_deref().expect("of its own")
    );
    execute(&options, &slow);
    let drop_trigger = format!("DROP EVENT TRIGGER {}_lingers", options.schema.as_deref().expect("of its own"));
    let store = OnPostgres::open(options.clone(), Rules::default(), TestClock::new(), |_| {});
    let done = wait_for(store.apply(BatchId(1, 0), vec![registration()].into()));
    execute(&options, &drop_trigger);
    done.expect("it was waited for");
}

/// A way to the server that keeps back the first message that says this, and from then on what comes on all connections that are
/// open, until they are closed; tells when it does.
fn hanging_once(server: u16, at: &'static [u8]) -> (u16, mpsc::Receiver<()>) {
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
            let (is_later, waiting) = (has_hung.load(SeqCst), client.try_clone().expect("a copy"));
            std::thread::spawn(move || {
                pass_on(&mut from_client, &mut to_server, |bytes| {
                    let says = bytes.windows(at.len()).any(|window| window == at);
                    let begins = says && !has_hung.swap(true, SeqCst);
                    if begins {
                        let _ = tells.send(()); // the test may have ended
                    }
                    let hangs = !is_later && has_hung.load(SeqCst);
                    if hangs {
                        wait_until_closed(&waiting);
                    }
                    !hangs
                });
            });
            let (mut from_server, mut to_client) = (server, client);
            std::thread::spawn(move || pass_on(&mut from_server, &mut to_client, |_| true));
        }
    });
    (port, hangs)
}

/// By whoever waits for an answer; what it says meanwhile is not heard.
fn wait_until_closed(mut client: &TcpStream) {
    while let Ok(1..) = client.read(&mut [0; 4096]) {}
}
