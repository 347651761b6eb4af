//! A connection to a backend: name, address, TCP, TLS, each within its time. Called by the pool.

use crate::base::Clock;
use crate::reactor::core::Core;
use crate::reactor::dns::Resolver;
use crate::reactor::handle::borrow;
use crate::reactor::receive_buffer;
use crate::reactor::stream::Stream;
use monoio::net::TcpStream;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Where a backend is.
#[derive(Clone, Debug)]
pub struct Target {
    host: Box<str>,
    port: u16,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// How long a resolved name is believed.
    dns_ttl: Duration,
    /// For name and TCP together, and again for TLS.
    timeout: Duration,
}

impl Target {
    /// `tls`: what to trust; None: plaintext. Fails when `host` is not a name that a certificate can be for.
    pub fn new(
        host: &str,
        port: u16,
        tls: Option<Arc<ClientConfig>>,
        dns_ttl: Duration,
        timeout: Duration,
    ) -> io::Result<Self> {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        let tls = match tls {
            Some(config) => {
                let name = ServerName::try_from(bare.to_owned());
                Some((config, name.map_err(|cause| io::Error::new(io::ErrorKind::InvalidInput, cause))?))
            }
            None => None,
        };
        Ok(Self { host: host.into(), port, tls, dns_ttl, timeout })
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// Why there is no connection. Nothing was sent: the request may go anywhere else.
#[derive(Debug)]
pub enum ConnectError {
    /// The core has as many connections to this backend as it may, and none came free in time.
    Busy,
    Resolve(io::Error),
    Connect(SocketAddr, io::Error),
    Tls(io::Error),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("no connection came free in time"),
            Self::Resolve(cause) => write!(f, "looking up the host: {cause}"),
            Self::Connect(address, cause) => write!(f, "connecting to {address}: {cause}"),
            Self::Tls(cause) => write!(f, "tls handshake: {cause}"),
        }
    }
}

impl std::error::Error for ConnectError {}

/// Connects. Of several addresses each gets an equal share of the time left, the first one chosen by `start`.
/// Cancel: safe, what was opened is closed.
pub async fn connect(
    core: &Core,
    resolver: &Rc<Resolver>,
    target: &Target,
    start: u64,
) -> Result<Stream, ConnectError> {
    let begun = core.clock.tick();
    let lookup = within(target.timeout, resolver.resolve(&target.host, target.dns_ttl)).await;
    let addresses = lookup.map_err(ConnectError::Resolve)?;
    let first = usize::try_from(start % addresses.len() as u64).expect("an index");
    let mut last = None;
    for number in 0..addresses.len() {
        let address = SocketAddr::new(addresses[(first + number) % addresses.len()], target.port);
        let left = target.timeout.saturating_sub(core.clock.tick().since(begun));
        let share = left / u32::try_from(addresses.len() - number).unwrap_or(u32::MAX);
        match within(share, TcpStream::connect_addr(address)).await {
            Ok(tcp) => {
                receive_buffer::bound_connected(&borrow(&tcp));
                return shake_hands(core, tcp, target).await;
            }
            Err(cause) => last = Some(ConnectError::Connect(address, cause)),
        }
    }
    Err(last.expect("a name has at least one address"))
}

async fn shake_hands(core: &Core, tcp: TcpStream, target: &Target) -> Result<Stream, ConnectError> {
    let Some((config, name)) = &target.tls else { return Ok(Stream::plain(core, tcp)) };
    let stream = Stream::connect_tls(core, tcp, Arc::clone(config), name.clone(), target.timeout).await;
    stream.map_err(ConnectError::Tls)
}

/// Only for what may be dropped half done.
async fn within<T>(time: Duration, act: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    monoio::time::timeout(time, act).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::dns;
    use crate::reactor::stream::Follow;
    use crate::reactor::testing::{Pki, Stopwatch, on_both, read_exactly, until};
    use std::io::{ErrorKind, Read, Write};
    use std::net::{IpAddr, TcpListener};

    const PATIENCE: Duration = Duration::from_secs(30);

    fn lookup(host: &str) -> io::Result<Vec<IpAddr>> {
        match host {
            // Nothing listens on the first two.
            "several" => {
                Ok(["127.0.0.2", "127.0.0.3", "127.0.0.1"].iter().map(|one| one.parse().expect("one")).collect())
            }
            "localhost" => Ok(vec![IpAddr::from([127, 0, 0, 1])]),
            _ => Err(ErrorKind::NotFound.into()),
        }
    }

    fn resolver(core: &Rc<Core>) -> Rc<Resolver> {
        Resolver::open(core, dns::start(1, lookup).expect("a thread starts")).expect("a mailbox opens")
    }

    fn target(host: &str, port: u16, tls: Option<Arc<ClientConfig>>) -> Target {
        Target::new(host, port, tls, PATIENCE, PATIENCE).expect("a name")
    }

    fn echo_server() -> (u16, std::thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let thread = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().expect("somebody comes");
            let mut bytes = [0; 5];
            peer.read_exact(&mut bytes).expect("five bytes");
            peer.write_all(&bytes).expect("open");
        });
        (port, thread)
    }

    #[test]
    fn every_address_of_a_name_is_tried() {
        on_both(|core| async move {
            let resolver = resolver(&core);
            for (host, start) in [("several", 0), ("several", 1), ("several", 2), ("127.0.0.1", 7)] {
                let (port, server) = echo_server();
                let mut stream = connect(&core, &resolver, &target(host, port, None), start).await.expect("connects");
                stream.write_all(b"hello", Follow::Nothing).await.expect("open");
                assert_eq!(read_exactly(&core, &mut stream, 5).await, b"hello", "{host} from {start}");
                until("the server has ended", || server.is_finished()).await;
            }
        });
    }

    #[test]
    fn failures_say_where_they_happened() {
        on_both(|core| async move {
            let resolver = resolver(&core);
            let closed = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port();
            let unknown = connect(&core, &resolver, &target("unknown", 1, None), 0).await.map(drop);
            assert!(matches!(unknown, Err(ConnectError::Resolve(_))), "{unknown:?}");
            let refused = connect(&core, &resolver, &target("several", closed, None), 0).await.map(drop);
            assert!(
                matches!(&refused, Err(ConnectError::Connect(_, cause)) if cause.kind() == ErrorKind::ConnectionRefused),
                "{refused:?}"
            );
            let (port, server) = echo_server();
            let trusted = Some(Pki::new("localhost").client());
            let mut not_tls = target("localhost", port, trusted);
            not_tls.timeout = Duration::from_secs(5);
            let failed = connect(&core, &resolver, &not_tls, 0).await.map(drop);
            assert!(matches!(failed, Err(ConnectError::Tls(_))), "{failed:?}");
            until("the server has ended", || server.is_finished()).await;
        });
    }

    #[test]
    fn a_backend_that_does_not_answer_is_given_up_in_time() {
        on_both(|core| async move {
            let resolver = resolver(&core);
            // A listener whose backlog is full drops what comes.
            let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
            full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
            full.listen(0).expect("listens");
            let address = full.local_addr().expect("bound").as_socket().expect("an address");
            let _fillers: Vec<_> = (0..4)
                .filter_map(|_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok())
                .collect();
            let mut silent = target("127.0.0.1", address.port(), None);
            silent.timeout = Duration::from_millis(200);
            let watch = Stopwatch::start();
            let given_up = connect(&core, &resolver, &silent, 0).await.map(drop);
            assert!(
                matches!(&given_up, Err(ConnectError::Connect(_, cause)) if cause.kind() == ErrorKind::TimedOut),
                "{given_up:?}"
            );
            assert!(watch.elapsed_ms() < 5_000, "{} ms", watch.elapsed_ms());

            // One that accepts and then says nothing, where TLS is due.
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let port = listener.local_addr().expect("bound").port();
            let mut mute = target("localhost", port, Some(Pki::new("localhost").client()));
            mute.timeout = Duration::from_millis(200);
            let given_up = connect(&core, &resolver, &mute, 0).await.map(drop);
            assert!(
                matches!(&given_up, Err(ConnectError::Tls(cause)) if cause.kind() == ErrorKind::TimedOut),
                "{given_up:?}"
            );
        });
    }
}
