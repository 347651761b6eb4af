//! The load against its own stub: what is written is read back and checked, in every form of a body; what is wrong is
//! counted as an error and not overlooked.

use loadtest::client::{Client, Payload, Refused, Target};
use loadtest::load::{self, Mix, Plan, Verb};
use loadtest::report::Report;
use loadtest::sign::Credentials;
use loadtest::stub;
use std::time::Duration;

/// A stub on a port of its own; it ends with the process.
fn target() -> Target {
    let listener = stub::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    std::thread::spawn(move || stub::serve(&listener));
    Target { address, bucket: "photos".to_owned(), credentials: Credentials::new("key", "secret", "us-east-1") }
}

fn answer<T>(of: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an event loop").block_on(of)
}

fn plan(target: Target, mix: Mix, operations: u64) -> Plan {
    Plan {
        target,
        mix,
        connections: 4,
        operations: Some(operations),
        duration: Duration::ZERO,
        rate: None,
        sizes: vec![4096],
        keys: operations,
        prefix: "load/".to_owned(),
        payload: Payload::Auto,
        part_size: None,
        verify: true,
        quiet: true,
    }
}

fn counts(report: &Report) -> (u64, u64) {
    (report.count(), report.errors())
}

#[test]
fn what_is_put_in_any_form_is_read_back() {
    let forms = [Payload::Auto, Payload::Signed, Payload::Unsigned, Payload::AwsChunked, Payload::AwsChunkedUnsigned];
    let sizes = [0, 1, 7, 8, 9, 4096, 64 << 10, (64 << 10) + 1, (1 << 20) + 3, 12 << 20];
    for payload in forms {
        for part_size in [None, Some(5 << 20)] {
            let put = Plan { sizes: sizes.to_vec(), payload, part_size, ..plan(target(), Mix::only(Verb::Put), 10) };
            let what = format!("{payload:?} in parts of {part_size:?}");
            assert_eq!(counts(&load::run(&put)), (10, 0), "put {what}: {}", load::run(&put).table());
            for verb in [Verb::Get, Verb::Head] {
                let report = load::run(&Plan { mix: Mix::only(verb), operations: Some(40), ..put.clone() });
                assert_eq!(counts(&report), (40, 0), "{what}: {}", report.table());
            }
        }
    }
}

#[test]
fn what_is_wrong_is_an_error() {
    let target = target();
    answer(async {
        let mut client = Client::new(target.clone(), Payload::Auto);
        client.put("a", 1, 100_000, None).await.expect("the stub takes it");
        for (seed, size, want) in [(2, 100_000, "wrong bytes at offset 0"), (1, 99_999, "body of 100000 bytes")] {
            let error = client.get("a", seed, size, true).await.expect_err("not what was put");
            assert!(format!("{error:#}").contains(want), "seed {seed}, {size} bytes: {error:#}");
        }
        client.get("a", 1, 100_000, true).await.expect("the client goes on after an error");
        let error = client.get("b", 1, 1, true).await.expect_err("there is none");
        let refused = error.downcast_ref::<Refused>().expect("an answer");
        assert_eq!((refused.status, refused.code.as_str()), (404, "NoSuchKey"));
    });
    let report = load::run(&plan(target, Mix::only(Verb::Get), 8));
    assert_eq!(counts(&report), (0, 8));
    assert!(report.table().contains("8 x get: status 404 NoSuchKey"), "{}", report.table());
}

#[test]
fn a_walk_sees_every_key_once_and_in_order() {
    let target = target();
    let put = plan(target.clone(), Mix::only(Verb::Put), 2500);
    assert_eq!(counts(&load::run(&put)), (2500, 0));
    let keys = answer(async {
        let mut client = Client::new(target, Payload::Auto);
        let mut keys = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page = client.list("load/", token.as_deref()).await.expect("a page");
            keys.extend(page.keys);
            token = page.token;
            if token.is_none() {
                return keys;
            }
        }
    });
    assert_eq!(keys, (0..2500).map(|n| format!("load/{n:08}")).collect::<Vec<_>>());
    assert_eq!(counts(&load::run(&Plan { mix: Mix::only(Verb::List), operations: Some(9), ..put })), (9, 0));
}

#[test]
fn a_mix_with_deletes_may_miss_keys() {
    let mix = Verb::ALL.into_iter().fold(Mix::default(), |mix, verb| mix.with(verb, 1));
    let report = load::run(&Plan { keys: 20, ..plan(target(), mix, 500) });
    assert_eq!(counts(&report), (500, 0), "{}", report.table());
    assert_eq!(report.operations.len(), Verb::ALL.len());
}

#[test]
fn the_open_loop_keeps_its_rate_and_its_end() {
    let open = Plan {
        operations: None,
        duration: Duration::from_millis(500),
        rate: Some(200.0),
        keys: 10,
        ..plan(target(), Mix::only(Verb::Put), 0)
    };
    let report = load::run(&open);
    // A busy machine does fewer, never more: 200/s for 0.5 s, and one that was due at the very end.
    assert!(report.errors() == 0 && (20..=101).contains(&report.count()), "{}", report.table());
}

#[test]
fn a_low_rate_ends_in_its_time() {
    let slow = Plan {
        operations: None,
        duration: Duration::from_millis(300),
        rate: Some(0.1),
        keys: 10,
        ..plan(target(), Mix::only(Verb::Put), 0)
    };
    let report = load::run(&slow);
    assert_eq!(counts(&report), (1, 0), "the second one is due after 10 s");
    let seconds = report.elapsed.as_secs_f64();
    assert!((0.3..9.0).contains(&seconds), "so long the load was there: {seconds} s");
}
