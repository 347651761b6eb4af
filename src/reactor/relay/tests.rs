//! Relays against real peers, spliced and copied, on both drivers.

use super::copy::{Body, Inspect, Looked, Refused, Unseen, Wire, copy_body};
use super::splice::splice_body;
use super::*;
use crate::backend::budget::{Budgets, Counter, Fare, Spend};
use crate::base::{BackendName, Incarnation, Tenure};
use crate::policy::usage::Budget;
use crate::reactor::buffer::Buffer;
use crate::reactor::clock::monotonic;
use crate::reactor::core::Core;
use crate::reactor::driver::DriverKind;
use crate::reactor::stream::Follow;
use crate::reactor::testing::{
    Pki, Stopwatch, on_both, pair, pattern, pause_ms, raw_pair, read_exactly, receive_pattern, send_pattern, sleep_ms,
    until,
};
use rustix::fs::{OFlags, fcntl_getfl};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{JoinHandle, spawn};

/// There are no leases here.
const NOBODY: Footing = Footing { writer: None, fare: None };
const PATIENCE: Patience = Patience { source: Duration::from_secs(60), sink: Duration::from_secs(60) };
const SHORT: Duration = Duration::from_millis(150);

#[derive(Clone, Copy, PartialEq, Debug)]
enum How {
    Splice,
    Copy,
}

/// Runs a test for each way on each driver.
fn each_way<F, Fut>(test: F)
where
    F: Fn(Rc<Core>, How) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()>,
{
    for how in [How::Splice, How::Copy] {
        let test = test.clone();
        on_both(move |core| test(core, how));
    }
}

async fn relay(core: &Core, how: How, source: &mut Stream, sink: Sink<'_>, len: u64, patience: Patience) -> Moved {
    relay_from(core, how, Source::Client(source), sink, len, patience).await
}

async fn relay_from(core: &Core, how: How, source: Source<'_>, sink: Sink<'_>, len: u64, patience: Patience) -> Moved {
    match how {
        How::Splice => {
            let mut pipe = core.pipes.take().expect("a pipe");
            splice_body(core, source, sink, len, patience, &mut pipe).await
        }
        How::Copy => {
            let mut nothing = Buffer::from_bytes(&[]);
            let body = Body { wire: Wire::Exact(len), size: len, ahead: &mut nothing };
            copy_body(core, source, &mut [sink], body, &mut Unseen, patience).await
        }
    }
}

async fn join<T>(what: &str, thread: JoinHandle<T>) -> T {
    until(what, || thread.is_finished()).await;
    thread.join().expect("the peer's thread did not panic")
}

fn kind(cause: &Cause) -> Option<ErrorKind> {
    if let Cause::Socket(cause) = cause { Some(cause.kind()) } else { None }
}

fn reset(peer: TcpStream) {
    socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).expect("a socket option");
}

fn check_done(moved: &Moved, len: u64) {
    assert!(matches!(moved.end, End::Done) && moved.bytes == len, "{moved:?} instead of {len} bytes");
}

#[test]
fn bytes_arrive_exactly_at_a_slow_reader() {
    const LEN: u64 = 8 << 20;
    each_way(|core, how| async move {
        let ((mut source, mut giver), (mut sink, mut taker)) = (pair(&core), pair(&core));
        let giving = spawn(move || send_pattern(&mut giver, 0, LEN + 5, 300_000));
        let taking = spawn(move || {
            // The window fills before the first byte is taken.
            pause_ms(100);
            receive_pattern(&mut taker, 0, 400_000)
        });
        check_done(&relay(&core, how, &mut source, Sink::Socket(&mut sink), LEN, PATIENCE).await, LEN);
        for stream in [&source, &sink] {
            let nonblocking = fcntl_getfl(stream).expect("open").contains(OFlags::NONBLOCK);
            assert_eq!(nonblocking, core.driver == DriverKind::Epoll, "the mode is as before");
        }
        assert_eq!(read_exactly(&core, &mut source, 5).await, pattern(LEN, 5), "what follows is still there");
        sink.end().await.expect("open");
        assert_eq!(join("everything arrived", taking).await, LEN);
        join("everything was sent", giving).await;
        assert_eq!(core.bodies.out(), 0);
    });
}

#[test]
fn a_short_part_before_a_pause_is_not_held_back() {
    each_way(|core, how| async move {
        let ((mut source, mut giver), (mut sink, mut taker)) = (pair(&core), pair(&core));
        let watch = Stopwatch::start();
        let pacing = spawn(move || {
            let mut part = [0; 1000];
            for round in 0..10 {
                send_pattern(&mut giver, round * 1000, 1000, 1000);
                // The next part is sent only when this one has arrived.
                taker.read_exact(&mut part).expect("the part arrives");
                assert_eq!(part[..], pattern(round * 1000, 1000));
            }
            giver
        });
        let moved = relay(&core, how, &mut source, Sink::Socket(&mut sink), 10_001, PATIENCE);
        let ended = race(moved, async {
            until("all parts arrived", || pacing.is_finished()).await;
        });
        assert!(matches!(ended.await, Won::Second(())));
        assert!(watch.elapsed_ms() < 1_500, "10 parts took {} ms", watch.elapsed_ms());
        pacing.join().expect("every part in time");
    });
}

#[test]
fn a_source_that_ends_early_is_told_from_one_that_ends_in_time() {
    each_way(|core, how| async move {
        for (sent, declared) in [(100_000, 100_000), (100_000, 100_001), (0, 1), (3_000_000, 9_000_000)] {
            let ((mut source, mut giver), (mut sink, mut taker)) = (pair(&core), pair(&core));
            let giving = spawn(move || {
                send_pattern(&mut giver, 0, sent, 70_000);
                giver.shutdown(Shutdown::Write).expect("open");
                pause_ms(20);
            });
            let taking = spawn(move || receive_pattern(&mut taker, 0, 64 * 1024));
            let moved = relay(&core, how, &mut source, Sink::Socket(&mut sink), declared, PATIENCE).await;
            match &moved.end {
                End::Done => assert_eq!(sent, declared),
                End::SourceFailed(cause) => {
                    assert!(sent < declared && kind(cause) == Some(ErrorKind::UnexpectedEof), "{cause}");
                }
                end => panic!("{sent} of {declared}: {end:?}"),
            }
            assert_eq!(moved.bytes, sent, "{declared} declared");
            sink.end().await.expect("open");
            assert_eq!(join("what was sent arrived", taking).await, sent);
            join("the giver is done", giving).await;
        }
    });
}

#[test]
fn a_reset_is_blamed_on_the_side_that_did_it() {
    each_way(|core, how| async move {
        let ((mut source, mut giver), (mut sink, mut taker)) = (pair(&core), pair(&core));
        let giving = spawn(move || {
            send_pattern(&mut giver, 0, 50_000, 50_000);
            pause_ms(50);
            reset(giver);
        });
        let moved = relay(&core, how, &mut source, Sink::Socket(&mut sink), 1 << 20, PATIENCE).await;
        assert!(matches!(moved.end, End::SourceFailed(_)) && moved.bytes == 50_000, "{moved:?}");
        sink.end().await.expect("open");
        join("the giver is gone", giving).await;
        assert_eq!(receive_pattern(&mut taker, 0, 1 << 16), 50_000);

        for abrupt in [true, false] {
            let ((mut source, mut giver), (mut sink, taker)) = (pair(&core), pair(&core));
            let leaving = spawn(move || {
                pause_ms(30);
                if abrupt {
                    reset(taker);
                }
            });
            let giving = spawn(move || {
                let bytes = pattern(0, 1 << 20);
                while giver.write_all(&bytes).is_ok() {}
            });
            let moved = relay(&core, how, &mut source, Sink::Socket(&mut sink), 1 << 40, PATIENCE).await;
            assert!(matches!(moved.end, End::SinkFailed(0, _)), "{moved:?}");
            drop((source, sink));
            join("the taker has left", leaving).await;
            join("the giver noticed", giving).await;
        }
        let pipe = core.pipes.take();
        assert_eq!(pipe.expect("a pipe").pipe().holds(), 0, "no pipe with bytes in it was kept");
    });
}

#[test]
fn only_the_side_that_is_waited_for_is_timed() {
    each_way(|core, how| async move {
        let ((mut source, _giver), (mut sink, _taker)) = (pair(&core), pair(&core));
        let patience = Patience { source: SHORT, ..PATIENCE };
        let moved = relay(&core, how, &mut source, Sink::Socket(&mut sink), 1000, patience).await;
        assert!(
            matches!(&moved.end, End::SourceFailed(cause) if kind(cause) == Some(ErrorKind::TimedOut)),
            "{moved:?}"
        );

        let ((mut source, mut giver), (mut sink, _taker)) = (pair(&core), pair(&core));
        let giving = spawn(move || while giver.write_all(&[0; 1 << 16]).is_ok() {});
        let patience = Patience { sink: SHORT, ..PATIENCE };
        let moved = relay(&core, how, &mut source, Sink::Socket(&mut sink), 1 << 40, patience).await;
        assert!(
            matches!(&moved.end, End::SinkFailed(0, cause) if kind(cause) == Some(ErrorKind::TimedOut)),
            "{moved:?}"
        );
        drop((source, sink));
        join("the giver noticed", giving).await;

        // Nor does it matter what was armed before: neither side waits here for longer than it may.
        let ((mut source, mut giver), (mut sink, mut taker)) = (pair(&core), pair(&core));
        source.deadline().arm(Phase::Body, SHORT);
        sink.deadline().arm(Phase::Body, SHORT);
        let giving = spawn(move || {
            for part in 0..8 {
                send_pattern(&mut giver, part * 1000, 1000, 1000);
                pause_ms(100);
            }
        });
        let taking = spawn(move || receive_pattern(&mut taker, 0, 1 << 20));
        check_done(&relay(&core, how, &mut source, Sink::Socket(&mut sink), 8000, PATIENCE).await, 8000);
        sink.end().await.expect("open");
        assert_eq!(join("everything arrived", taking).await, 8000);
        join("everything was sent", giving).await;

        // A reader that rests longer than the giver may: nobody is at fault.
        let ((mut source, mut giver), (mut sink, mut taker)) = (pair(&core), pair(&core));
        let giving = spawn(move || send_pattern(&mut giver, 0, 12 << 20, 1 << 20));
        let taking = spawn(move || {
            pause_ms(2_000);
            receive_pattern(&mut taker, 0, 1 << 20)
        });
        let patience = Patience { source: Duration::from_millis(800), ..PATIENCE };
        check_done(&relay(&core, how, &mut source, Sink::Socket(&mut sink), 12 << 20, patience).await, 12 << 20);
        sink.end().await.expect("open");
        assert_eq!(join("everything arrived", taking).await, 12 << 20);
        join("everything was sent", giving).await;
    });
}

fn written_by(run: i64) -> Footing {
    Footing { writer: Some(Incarnation(run)), ..NOBODY }
}

/// Of 2000 bytes 1000 are moved; what then?
async fn moved_before_the_month_ends(core: Rc<Core>, how: How, spend: Spend, next_has_room: bool) -> Moved {
    let budget = Budget { egress_bytes: 2000, ingress_bytes: 2000, ..Budget::default() };
    let budgets = Arc::new(Budgets::new([(&BackendName::new("b"), &budget)], Box::new(|| {})));
    budgets.counters().for_each(|counter| counter.lend(&budgets, 2000));
    core.set_budgets(Arc::clone(&budgets));
    let taken = budgets.admit_now(0, &spend).expect("it was lent");
    let footing = Footing { writer: None, fare: Some(Fare { backend: 0, taken }) };
    let ((mut source, mut giver), (mut sink, mut taker)) = (pair(&core), pair(&core));
    let giving = spawn(move || {
        giver.write_all(&[1; 1000]).expect("open");
        taker.read_exact(&mut [0; 1000]).expect("it is moved");
        let end = (!next_has_room).then(monotonic);
        budgets.counters().for_each(|counter: &Counter| counter.set_go_on_until(end));
        let _ = giver.write_all(&[1; 1000]);
        (giver, taker)
    });
    let (source, sink) = if spend.egress > 0 {
        (Source::Backend(&mut source, footing), Sink::Socket(&mut sink))
    } else {
        (Source::Client(&mut source), Sink::Answering(&mut sink, footing))
    };
    let moved = relay_from(&core, how, source, sink, 2000, PATIENCE).await;
    drop(join("all was given", giving).await);
    moved
}

#[test]
fn a_body_is_cut_at_the_end_of_the_month_that_it_was_paid_for() {
    let (read, written) = (Spend { egress: 2000, ..Spend::default() }, Spend { ingress: 2000, ..Spend::default() });
    each_way(move |core, how| async move {
        let moved = moved_before_the_month_ends(core, how, read, false).await;
        assert!(matches!(moved.end, End::SourceFailed(Cause::Disk(_))) && moved.bytes == 1000, "{moved:?}");
    });
    each_way(move |core, how| async move {
        let moved = moved_before_the_month_ends(core, how, written, false).await;
        assert!(matches!(moved.end, End::SinkFailed(0, Cause::Disk(_))) && moved.bytes == 1000, "{moved:?}");
    });
    each_way(move |core, how| async move {
        check_done(&moved_before_the_month_ends(core, how, read, true).await, 2000);
    });
}

#[test]
fn nothing_goes_on_under_the_lease_of_a_later_run() {
    each_way(|core, how| async move {
        let ((mut source, mut giver), (mut sink, taker)) = (pair(&core), pair(&core));
        let tenure = Tenure::default();
        tenure.set_incarnation(Incarnation(2));
        core.set_tenure(Arc::new(tenure));
        giver.write_all(&[1; 1000]).expect("open");
        let moved = relay(&core, how, &mut source, Sink::Answering(&mut sink, written_by(1)), 1000, PATIENCE).await;
        assert!(matches!(moved.end, End::SinkFailed(0, _)) && moved.bytes == 0, "{moved:?}");
        drop((source, sink));
        assert_eq!(join("the end", spawn(|| receive_all(taker))).await, 0);

        let ((mut source, mut giver), (mut sink, taker)) = (pair(&core), pair(&core));
        giver.write_all(&[1; 1000]).expect("open");
        check_done(
            &relay(&core, how, &mut source, Sink::Answering(&mut sink, written_by(2)), 1000, PATIENCE).await,
            1000,
        );
        drop((source, sink));
        assert_eq!(join("the end", spawn(|| receive_all(taker))).await, 1000);
    });
}

/// How many bytes came until the end.
fn receive_all(mut taker: TcpStream) -> usize {
    let mut bytes = Vec::new();
    taker.read_to_end(&mut bytes).expect("it ends")
}

#[test]
fn a_sink_that_answers_early_ends_the_movement() {
    each_way(|core, how| async move {
        let ((mut source, mut giver), (mut sink, mut taker)) = (pair(&core), pair(&core));
        let giving = spawn(move || while giver.write_all(&[1; 1 << 16]).is_ok() {});
        let answering = spawn(move || {
            pause_ms(50);
            taker.write_all(b"HTTP/1.1 507 ").expect("open");
            taker
        });
        let moved = relay(&core, how, &mut source, Sink::Answering(&mut sink, NOBODY), 1 << 40, PATIENCE).await;
        assert!(matches!(moved.end, End::Answered(0)) && moved.bytes > 0, "{moved:?}");
        assert_eq!(read_exactly(&core, &mut sink, 13).await, b"HTTP/1.1 507 ");
        drop(join("the answer is sent", answering).await);
        drop((source, sink));
        join("the giver noticed", giving).await;

        // One that is only slow is waited for.
        let ((mut source, mut giver), (mut sink, mut taker)) = (pair(&core), pair(&core));
        let giving = spawn(move || send_pattern(&mut giver, 0, 9 << 20, 1 << 20));
        let taking = spawn(move || {
            pause_ms(100);
            let mut bytes = vec![0; 9 << 20];
            taker.read_exact(&mut bytes).expect("everything arrives");
            assert!(bytes == pattern(0, 9 << 20));
        });
        check_done(
            &relay(&core, how, &mut source, Sink::Answering(&mut sink, NOBODY), 9 << 20, PATIENCE).await,
            9 << 20,
        );
        join("everything arrived", taking).await;
        join("everything was sent", giving).await;
    });
}

#[test]
fn a_big_body_leaves_room_for_small_requests() {
    each_way(|core, how| async move {
        let ((mut source, mut giver), (mut sink, mut taker)) = (pair(&core), pair(&core));
        let giving = spawn(move || while giver.write_all(&[2; 1 << 20]).is_ok() {});
        let taking = spawn(move || {
            let mut bytes = vec![0; 1 << 20];
            while matches!(taker.read(&mut bytes), Ok(1..)) {}
        });
        let relaying = Rc::clone(&core);
        monoio::spawn(async move {
            relay(&relaying, how, &mut source, Sink::Socket(&mut sink), 256 << 20, PATIENCE).await;
        });
        let (mut small, mut client) = pair(&core);
        let asking = spawn(move || {
            for round in 0..50u8 {
                client.write_all(&[round]).expect("open");
                client.read_exact(&mut [0]).expect("answered");
            }
        });
        let watch = Stopwatch::start();
        for _ in 0..50 {
            let byte = read_exactly(&core, &mut small, 1).await;
            small.write_all(&byte, Follow::Nothing).await.expect("open");
            sleep_ms(1).await;
        }
        assert!(watch.elapsed_ms() < 5_000, "50 small requests took {} ms", watch.elapsed_ms());
        join("every request was answered", asking).await;
        join("the giver noticed the end", giving).await;
        join("the taker noticed the end", taking).await;
    });
}

#[test]
fn tls_bodies_are_copied_both_ways() {
    const LEN: u64 = 5 << 20;
    on_both(|core| async move {
        let pki = Pki::new("localhost");
        let (tcp, peer) = raw_pair(&core);
        let trusted = pki.client();
        let client = spawn(move || {
            let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
            let connection = rustls::ClientConnection::new(trusted, name).expect("a client");
            let mut tls = rustls::StreamOwned::new(connection, peer);
            tls.write_all(&pattern(0, 5 << 20)).expect("the relay reads");
            let mut back = vec![0; 5 << 20];
            tls.read_exact(&mut back).expect("the relay writes");
            assert!(back == pattern(9, 5 << 20));
        });
        let mut secret = Stream::accept_tls(&core, tcp, pki.server(), PATIENCE.sink).await.expect("shakes hands");
        let (mut plain, mut other) = pair(&core);
        let backend = spawn(move || {
            let mut bytes = vec![0; 5 << 20];
            other.read_exact(&mut bytes).expect("the relay writes");
            assert!(bytes == pattern(0, 5 << 20));
            send_pattern(&mut other, 9, LEN, 100_000);
        });
        check_done(
            &relay(&core, How::Copy, &mut secret, Sink::Answering(&mut plain, NOBODY), LEN, PATIENCE).await,
            LEN,
        );
        check_done(&relay(&core, How::Copy, &mut plain, Sink::Socket(&mut secret), LEN, PATIENCE).await, LEN);
        join("the backend has it", backend).await;
        join("the client has it", client).await;
    });
}

/// A toy framing: every data byte is followed by a zero; a one in its place ends the body.
#[derive(Default)]
struct Toy {
    /// A data byte whose mark is still to come.
    open: bool,
    seen: u64,
    judged: bool,
    bad: bool,
}

fn toy(data: &[u8]) -> Vec<u8> {
    let last = data.len() - 1;
    data.iter().enumerate().flat_map(|(i, &byte)| [byte, u8::from(i == last)]).collect()
}

impl Inspect for Toy {
    fn look(&mut self, bytes: &mut [u8]) -> Result<Looked, Refused> {
        assert!(!self.judged, "nothing is looked at after the verdict");
        let (mut kept, mut used, mut ended) = (0, 0, false);
        while used < bytes.len() && !ended {
            if self.open {
                ended = bytes[used] == 1;
            } else {
                bytes[kept] = bytes[used];
                kept += 1;
            }
            self.open = !self.open;
            used += 1;
        }
        self.seen += kept as u64;
        Ok(Looked { forward: 0..kept, used, ended })
    }

    fn verdict(&mut self) -> Result<(), Refused> {
        self.judged = true;
        if self.bad { Err(Refused) } else { Ok(()) }
    }
}

/// Sends `wire` and then `behind`, of which `ahead_len` bytes were read ahead; what the sink got, what was left behind.
async fn inspected(
    core: &Core,
    wire: &[u8],
    behind: &[u8],
    ahead_len: usize,
    body: (Wire, u64),
    toy: &mut Toy,
) -> (Moved, Vec<u8>, Vec<u8>) {
    let ((mut source, mut giver), (mut sink, mut taker)) = (pair(core), pair(core));
    let all = [wire, behind].concat();
    let mut ahead = core.heads.take().await;
    ahead.append(&all[..ahead_len]);
    let later = all[ahead_len..].to_vec();
    let giving = spawn(move || {
        let _ = giver.write_all(&later);
        giver
    });
    let taking = spawn(move || {
        let mut got = Vec::new();
        taker.read_to_end(&mut got).map(|_| got)
    });
    let body = Body { wire: body.0, size: body.1, ahead: &mut ahead };
    let sinks = &mut [Sink::Socket(&mut sink)];
    let moved = copy_body(core, Source::Client(&mut source), sinks, body, toy, PATIENCE).await;
    sink.end().await.expect("open");
    let got = join("the sink's end", taking).await.expect("a proper end");
    drop(join("the giver is done", giving).await);
    (moved, got, ahead.data().to_vec())
}

#[test]
fn framed_bodies_are_decoded_and_what_follows_is_kept() {
    on_both(|core| async move {
        for size in [1usize, 2, 100, 20_000, 300_000] {
            for ahead_len in [0, 1, 2, 50] {
                let (data, behind) = (pattern(3, size), b"GET / HTTP/1.1");
                let wire = toy(&data);
                let ahead_len = ahead_len.min(wire.len());
                let body = (Wire::Framed, size as u64);
                let (moved, got, left) = inspected(&core, &wire, behind, ahead_len, body, &mut Toy::default()).await;
                check_done(&moved, size as u64);
                assert!(got == data, "{size} bytes, {ahead_len} ahead");
                assert!(behind.starts_with(&left), "{left:?} is what follows, as far as it was read");
            }
        }
        // Everything was read ahead, the next request too.
        let wire = toy(b"abc");
        let (moved, got, left) =
            inspected(&core, &wire, b"next", wire.len() + 4, (Wire::Framed, 3), &mut Toy::default()).await;
        check_done(&moved, 3);
        assert_eq!((got.as_slice(), left.as_slice()), (&b"abc"[..], &b"next"[..]));
        assert_eq!((core.heads.out(), core.bodies.out()), (0, 0));
    });
}

#[test]
fn a_refused_body_is_never_complete() {
    on_both(|core| async move {
        // In the second half the end's mark, which decides, comes apart from the last byte.
        for (size, apart) in [(1, false), (5, false), (30_000, false), (600_000, false), (1, true), (9_000, true)] {
            let data = pattern(0, size);
            let wire = toy(&data);
            let mut toy = Toy { bad: true, ..Toy::default() };
            let body = (Wire::Exact(wire.len() as u64), size as u64);
            let ahead_len = if apart { wire.len() - 1 } else { 0 };
            let (moved, got, _) = inspected(&core, &wire, b"", ahead_len, body, &mut toy).await;
            assert!(matches!(moved.end, End::Refused) && toy.judged, "{moved:?}");
            assert!(got.len() < size && data.starts_with(&got), "{} of {size} bytes went out", got.len());
            assert_eq!(moved.bytes, got.len() as u64);
        }
    });
}

#[test]
fn lengths_that_do_not_agree_are_refused() {
    on_both(|core| async move {
        let wire = toy(&pattern(0, 1000));
        // (bytes on the wire, size declared): too little, too much, and a framing that ends before its length does.
        for (wire_len, size) in [(2000, 1001), (2000, 999), (2001, 1000)] {
            let body = (Wire::Exact(wire_len), size);
            let (moved, got, _) = inspected(&core, &wire, b"x", 10, body, &mut Toy::default()).await;
            assert!(matches!(moved.end, End::Refused), "{wire_len} {size}: {moved:?}");
            assert!((got.len() as u64) < size, "{} bytes of {size}", got.len());
        }
        let (moved, got, left) = inspected(&core, b"", b"next", 4, (Wire::Exact(0), 0), &mut Toy::default()).await;
        check_done(&moved, 0);
        assert!(got.is_empty() && left == b"next", "an empty body leaves what follows alone");
    });
}

#[test]
fn several_sinks_get_the_same_bytes() {
    on_both(|core| async move {
        let (mut source, mut giver) = pair(&core);
        let giving = spawn(move || send_pattern(&mut giver, 0, 3 << 20, 1 << 20));
        let (mut one, mut one_taker) = pair(&core);
        let (mut two, mut two_taker) = pair(&core);
        let takers = [
            spawn(move || receive_pattern(&mut one_taker, 0, 1 << 16)),
            spawn(move || receive_pattern(&mut two_taker, 0, 1 << 20)),
        ];
        let mut nothing = Buffer::from_bytes(&[]);
        let body = Body { wire: Wire::Exact(3 << 20), size: 3 << 20, ahead: &mut nothing };
        let mut sinks = [Sink::Socket(&mut one), Sink::Answering(&mut two, NOBODY)];
        let moved = copy_body(&core, Source::Client(&mut source), &mut sinks, body, &mut Unseen, PATIENCE).await;
        check_done(&moved, 3 << 20);
        for stream in [&mut one, &mut two] {
            stream.end().await.expect("open");
        }
        for taker in takers {
            assert_eq!(join("everything arrived", taker).await, 3 << 20);
        }
        join("everything was sent", giving).await;
    });
}
