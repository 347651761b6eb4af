//! Takes connections from a listener: non-blocking, in batches, waiting by readiness. `accept()` of the runtime is never
//! raced: on the ring a lost race is a lost connection (RUNTIME 7).

use super::core::Core;
use super::driver::DriverKind;
use super::handle::Pollable;
use super::race::race;
use super::receive_buffer;
use super::signal::Signal;
use crate::observe::cells::CoreCells;
use monoio::net::TcpStream;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Connections that the kernel completes for us before we take them; it caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Connections taken before the core's other tasks run.
const ACCEPT_BATCH: u32 = 64;
/// Pause when the process has no descriptor or memory left; the connection waits in the backlog.
const EXHAUSTED_WAIT_MS: u64 = 50;
/// What a connection over the limit is told. It may not arrive if the client has sent its request already.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n";

/// One listener per reactor on one address; port 0 gives them all the same free port. Fails with `AddrInUse` if another
/// process serves the address, though it would share it: that is tried by a bind without SO_REUSEPORT first.
pub fn listen(address: SocketAddr, reactors: usize) -> io::Result<Vec<TcpListener>> {
    let probe = bind(address, false)?;
    let address = probe.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
    drop(probe);
    (0..reactors)
        .map(|_| {
            let socket = bind(address, true)?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            Ok(socket.into())
        })
        .collect()
}

fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    // Connections of a former process in TIME_WAIT are no reason to fail.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    receive_buffer::bound_accepted(&socket);
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A connection's place under the limit; hold it until the connection has ended.
pub struct Place {
    cells: Arc<CoreCells>,
}

impl Place {
    fn new(cells: &Arc<CoreCells>) -> Self {
        cells.connections.inc();
        cells.connections_open.inc();
        Self { cells: Arc::clone(cells) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.cells.connections_open.dec();
    }
}

#[derive(Clone, Copy, Debug)]
pub struct AcceptLimits {
    /// Connections of this core at once; more are turned away.
    pub connections_max: u64,
    /// Whether a connection turned away can be told so in plaintext.
    pub plaintext: bool,
}

/// Hands every connection to `serve`, until `stop` is set; then takes what the kernel had completed, closes the listener
/// and returns. An error means that the listener itself is broken. Cancel: NOT safe for connections being handed over.
pub async fn accept_loop(
    core: &Core,
    listener: TcpListener,
    limits: AcceptLimits,
    stop: &Signal,
    serve: impl FnMut(TcpStream, Place),
) -> io::Result<()> {
    accept_with_call(core, listener, limits, stop, serve, accept_one).await
}

fn accept_one(listener: &Pollable, driver: DriverKind) -> Result<OwnedFd, Errno> {
    let flags = match driver {
        DriverKind::Ring => SocketFlags::CLOEXEC,
        DriverKind::Epoll => SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
    };
    accept_with(listener.as_fd(), flags)
}

async fn accept_with_call(
    core: &Core,
    listener: TcpListener,
    limits: AcceptLimits,
    stop: &Signal,
    mut serve: impl FnMut(TcpStream, Place),
    mut accept: impl FnMut(&Pollable, DriverKind) -> Result<OwnedFd, Errno>,
) -> io::Result<()> {
    let listener = Pollable::new(listener.into())?;
    let mut batch = 0;
    loop {
        match accept(&listener, core.driver) {
            Ok(fd) => {
                if core.cells.connections_open.value() >= limits.connections_max {
                    core.cells.connections_refused.inc();
                    turn_away(&fd, limits);
                } else if let Ok(tcp) = TcpStream::from_std(fd.into()) {
                    serve(tcp, Place::new(&core.cells));
                }
            }
            Err(Errno::AGAIN) => {
                if stop.is_set() {
                    return Ok(());
                }
                race(listener.readable(), stop.wait()).await;
                continue;
            }
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                core.cells.accept_errors.inc();
                monoio::time::sleep(Duration::from_millis(EXHAUSTED_WAIT_MS)).await;
                continue;
            }
            Err(cause) if is_of_one_connection(cause) => {}
            Err(cause) => return Err(cause.into()),
        }
        batch += 1;
        if batch == ACCEPT_BATCH {
            batch = 0;
            core.fair.yield_io().await;
        }
    }
}

/// Errors that the connection brought with it (accept(2), "Error handling") or that say nothing.
fn is_of_one_connection(cause: Errno) -> bool {
    matches!(
        cause,
        Errno::INTR
            | Errno::CONNABORTED
            | Errno::PERM
            | Errno::PROTO
            | Errno::NOPROTOOPT
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::NETDOWN
            | Errno::NETUNREACH
            | Errno::NONET
            | Errno::OPNOTSUPP
    )
}

fn turn_away(fd: &OwnedFd, limits: AcceptLimits) {
    use rustix::net::{SendFlags, Shutdown, send, shutdown};
    if limits.plaintext {
        let _ = send(fd, TOO_MANY, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        let _ = shutdown(fd, Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::stream::Stream;
    use crate::reactor::task;
    use crate::reactor::testing::{on_both, sleep_ms, until};
    use std::io::{ErrorKind, Read, Write};
    use std::rc::Rc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const LIMITS: AcceptLimits = AcceptLimits { connections_max: 10_000, plaintext: true };

    fn loopback() -> (TcpListener, SocketAddr) {
        let mut listeners = listen("127.0.0.1:0".parse().expect("an address"), 1).expect("a free port");
        let listener = listeners.pop().expect("one");
        let address = listener.local_addr().expect("bound");
        (listener, address)
    }

    /// Echoes one byte per connection.
    fn echo(core: &Rc<Core>) -> impl FnMut(TcpStream, Place) + use<> {
        let core = Rc::clone(core);
        move |tcp, place| {
            let serving = Rc::clone(&core);
            task::spawn(&core.cells, "echo", async move {
                let _place = place;
                let mut stream = Stream::plain(&serving, tcp);
                let mut buffer = serving.heads.take().await;
                if let Ok(1..) = stream.read_some(&mut buffer).await {
                    assert_ne!(buffer.data(), b"!", "asked to panic");
                    let _ = stream.write_buffer(&mut buffer).await;
                }
            });
        }
    }

    /// Connects, sends a byte and reads what comes until the end.
    fn ask(address: SocketAddr, byte: u8) -> Vec<u8> {
        let mut socket = std::net::TcpStream::connect(address).expect("the listener is there");
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket option");
        let mut answer = Vec::new();
        let _ = socket.write_all(&[byte]);
        let _ = socket.read_to_end(&mut answer);
        answer
    }

    #[test]
    fn no_connection_is_lost_while_ticks_go_by_and_panics_happen() {
        on_both(|core| async move {
            let (listener, address) = loopback();
            let answered = Arc::new(AtomicUsize::new(0));
            let clients: Vec<_> = (0..6)
                .map(|_| {
                    let answered = Arc::clone(&answered);
                    std::thread::spawn(move || {
                        for round in 0..100 {
                            let panics = round % 10 == 9;
                            let answer = ask(address, if panics { b'!' } else { b'x' });
                            if answer == if panics { b"" } else { &b"x"[..] } {
                                answered.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    })
                })
                .collect();
            let stop = Rc::new(Signal::default());
            let (accepting, stopped) = (Rc::clone(&core), Rc::clone(&stop));
            let accepted = task::spawn(&core.cells, "accept", async move {
                accept_loop(&accepting, listener, LIMITS, &stopped, echo(&accepting)).await
            });
            until("all clients are done", || clients.iter().all(std::thread::JoinHandle::is_finished)).await;
            assert_eq!(answered.load(Ordering::Relaxed), 600);
            assert_eq!((core.cells.connections.value(), core.cells.panics.value()), (600, 60));
            stop.set();
            accepted.await.expect("no panic").expect("an orderly end");
            until("all places are free", || core.cells.connections_open.value() == 0).await;
        });
    }

    #[test]
    fn when_descriptors_run_out_accepting_pauses_and_goes_on() {
        on_both(|core| async move {
            let (listener, address) = loopback();
            let client = std::thread::spawn(move || ask(address, b'x'));
            let stop = Signal::default();
            let mut failures = [Errno::MFILE, Errno::NFILE, Errno::INTR, Errno::CONNABORTED].into_iter();
            let mut starved = |listener: &Pollable, driver| match failures.next() {
                Some(cause) => Err(cause),
                None => accept_one(listener, driver),
            };
            let serving = accept_with_call(&core, listener, LIMITS, &stop, echo(&core), &mut starved);
            race(serving, until("the client was answered", || client.is_finished())).await;
            assert_eq!(client.join().expect("no panic"), b"x");
            assert_eq!(core.cells.accept_errors.value(), 2);
        });
    }

    #[test]
    fn a_connection_over_the_limit_is_told_so() {
        on_both(|core| async move {
            let (listener, address) = loopback();
            let limits = AcceptLimits { connections_max: 1, plaintext: true };
            let stop = Signal::default();
            let holding = std::net::TcpStream::connect(address).expect("the listener is there");
            let clients = async {
                until("the first is served", || core.cells.connections_open.value() == 1).await;
                let second = std::thread::spawn(move || {
                    let mut socket = std::net::TcpStream::connect(address).expect("the listener is there");
                    let mut answer = String::new();
                    let _ = socket.read_to_string(&mut answer);
                    answer
                });
                until("the second was answered", || second.is_finished()).await;
                assert!(second.join().expect("no panic").starts_with("HTTP/1.1 503 "));
                drop(holding);
                until("the first has ended", || core.cells.connections_open.value() == 0).await;
                let third = std::thread::spawn(move || ask(address, b'x'));
                until("the third was answered", || third.is_finished()).await;
                assert_eq!(third.join().expect("no panic"), b"x");
            };
            race(accept_loop(&core, listener, limits, &stop, echo(&core)), clients).await;
            assert_eq!(core.cells.connections_refused.value(), 1);
        });
    }

    #[test]
    fn a_stop_serves_what_the_kernel_had_completed_and_closes_the_port() {
        on_both(|core| async move {
            let (listener, address) = loopback();
            let clients: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(address).expect("backlog")).collect();
            let stop = Signal::default();
            stop.set();
            accept_loop(&core, listener, LIMITS, &stop, echo(&core)).await.expect("an orderly end");
            assert_eq!(core.cells.connections.value(), 20);
            for mut client in clients {
                client.write_all(b"x").expect("open");
                sleep_ms(1).await;
            }
            until("the port is closed", || {
                std::net::TcpStream::connect(address).is_err_and(|cause| cause.kind() == ErrorKind::ConnectionRefused)
            })
            .await;
        });
    }

    #[test]
    fn an_address_that_is_served_already_is_refused() {
        let (_listener, address) = loopback();
        let cause = listen(address, 2).expect_err("it would share the port unseen");
        assert_eq!(cause.kind(), ErrorKind::AddrInUse);
        let several = listen("127.0.0.1:0".parse().expect("an address"), 3).expect("a free port");
        let ports: Vec<_> = several.iter().map(|listener| listener.local_addr().expect("bound").port()).collect();
        assert!(ports.iter().all(|&port| port == ports[0]), "one port for all reactors: {ports:?}");
    }
}
