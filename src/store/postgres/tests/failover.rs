//! Hosts that are silent, and what another database than the last one may have missed.

use super::*;

/// Whoever connects is let in by the kernel and never answered: a server that hangs.
fn silent_host() -> (TcpListener, (String, u16)) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    (listener, ("127.0.0.1".to_owned(), port))
}

#[test]
fn a_host_that_is_silent_does_not_keep_from_the_next() {
    let (silent, host) = silent_host();
    let mut options = cluster::options();
    execute(&options, &format!("CREATE SCHEMA {}", options.schema.clone().expect("of its own")));
    options.connect_timeout = Duration::from_secs(1);
    options.hosts.insert(0, host);
    let store = OnPostgres::open(options, Rules::default(), TestClock::new(), |_| {});
    let register =
        Register { deployment: "d".into(), backends: vec![BackendLimit { name: name("a"), bytes_limit: 0 }] };
    wait_for(store.apply(BatchId(1, 0), vec![register.into()].into())).expect("the second host answers");
    // Three connections by now, and one of them has met the first host.
    silent.set_nonblocking(true).expect("a socket of ours");
    let met = std::iter::from_fn(|| silent.accept().ok()).count();
    assert_eq!(met, 1, "it is asked last from then on");
}
