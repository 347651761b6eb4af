//! The harness of this layer's tests: runs one future on each driver, in a thread of its own, with a watchdog; and plain
//! blocking peers, because a real client is not on our runtime.
#![allow(clippy::disallowed_methods)] // tests wait for real time to pass

use super::buffer::Buffer;
use super::core::{Core, CoreLimits};
use super::driver::{DriverChoice, DriverKind, build};
use super::stream::Stream;
use crate::observe::cells::CoreCells;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

const WATCHDOG: Duration = Duration::from_secs(100);

/// Runs `test` to its end on the ring and on epoll.
pub(crate) fn on_both<F, Fut>(test: F)
where
    F: Fn(Rc<Core>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()>,
{
    for choice in [DriverChoice::Ring, DriverChoice::Epoll] {
        on(choice, test.clone());
    }
}

pub(crate) fn on<F, Fut>(choice: DriverChoice, test: F)
where
    F: FnOnce(Rc<Core>) -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    let (done, finished) = channel();
    let thread = std::thread::spawn(move || {
        let (mut runtime, driver) = build(choice).expect("this machine has both drivers");
        runtime.block_on(async {
            let core = Core::start(driver, CoreLimits::default(), Arc::new(CoreCells::new("test", [])))
                .expect("a core starts");
            test(core).await;
        });
        let _ = done.send(());
    });
    match finished.recv_timeout(WATCHDOG) {
        Ok(()) => {}
        Err(RecvTimeoutError::Timeout) => panic!("{choice:?}: still running after {WATCHDOG:?}"),
        Err(RecvTimeoutError::Disconnected) => {
            if let Err(cause) = thread.join() {
                eprintln!("on {choice:?}:");
                std::panic::resume_unwind(cause);
            }
        }
    }
}

/// Our side of a loopback connection, and the peer's as a blocking socket with a generous time limit.
pub(crate) fn pair(core: &Core) -> (Stream, TcpStream) {
    let (ours, peer) = raw_pair(core);
    (Stream::plain(core, ours), peer)
}

pub(crate) fn raw_pair(core: &Core) -> (monoio::net::TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("the listener is there");
    let (ours, _) = listener.accept().expect("the peer has connected");
    peer.set_read_timeout(Some(WATCHDOG)).expect("a socket option");
    peer.set_write_timeout(Some(WATCHDOG)).expect("a socket option");
    (adopt(core, ours), peer)
}

/// A blocking socket as the core's driver wants it.
pub(crate) fn adopt(core: &Core, socket: TcpStream) -> monoio::net::TcpStream {
    socket.set_nonblocking(core.driver == DriverKind::Epoll).expect("a socket option");
    monoio::net::TcpStream::from_std(socket).expect("registers")
}

pub(crate) async fn sleep_ms(wait_ms: u64) {
    monoio::time::sleep(Duration::from_millis(wait_ms)).await;
}

/// For peers' threads.
pub(crate) fn pause_ms(wait_ms: u64) {
    std::thread::sleep(Duration::from_millis(wait_ms));
}

/// Waits on the reactor for something a peer's thread does.
pub(crate) async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < WATCHDOG / 2, "never came: {what}");
        sleep_ms(1).await;
    }
}

pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).expect("a short test")
    }
}

/// Bytes that tell their place: no two windows of eight are alike, so a lost, doubled or swapped piece shows.
pub(crate) fn pattern(from: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 16);
    let mut word = from / 8;
    while bytes.len() < len + 8 {
        bytes.extend_from_slice(&word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        word += 1;
    }
    let skip = usize::try_from(from % 8).expect("under eight");
    bytes.drain(..skip);
    bytes.truncate(len);
    bytes
}

/// Sends the pattern from `from` in pieces.
pub(crate) fn send_pattern(peer: &mut TcpStream, from: u64, len: u64, piece: usize) {
    let mut sent = 0;
    while sent < len {
        let count = (len - sent).min(piece as u64);
        let bytes = pattern(from + sent, usize::try_from(count).expect("a piece"));
        peer.write_all(&bytes).expect("the other side reads");
        sent += count;
    }
}

/// Reads to the end of input and checks every byte against the pattern from `from`; how many came.
pub(crate) fn receive_pattern(peer: &mut TcpStream, from: u64, piece: usize) -> u64 {
    let mut buffer = vec![0; piece];
    let mut received = 0;
    loop {
        match peer.read(&mut buffer) {
            Ok(0) => return received,
            Ok(count) => {
                assert_eq!(buffer[..count], pattern(from + received, count), "bytes differ at {received}");
                received += count as u64;
            }
            Err(cause) if cause.kind() == std::io::ErrorKind::ConnectionReset => return received,
            Err(cause) => panic!("after {received} bytes: {cause}"),
        }
    }
}

/// Reads exactly `len` bytes through a pooled buffer.
pub(crate) async fn read_exactly(core: &Core, stream: &mut Stream, len: usize) -> Vec<u8> {
    let mut got = Vec::new();
    let mut buffer: Buffer = core.heads.take().await;
    while got.len() < len {
        let count = stream.read_at_most(&mut buffer, len - got.len()).await.expect("readable");
        assert!(count > 0, "ended after {} of {len} bytes", got.len());
        got.extend_from_slice(buffer.data());
        buffer.clear();
    }
    got
}

/// A self-signed certificate and its key, in PEM files as a user would give them.
pub(crate) struct Pki {
    folder: tempfile::TempDir,
}

impl Pki {
    pub(crate) fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
        std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).expect("written");
        std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).expect("written");
        Self { folder }
    }

    pub(crate) fn server(&self) -> Arc<rustls::ServerConfig> {
        let (cert, key) = (self.folder.path().join("cert.pem"), self.folder.path().join("key.pem"));
        let files = super::tls::ServerFiles { cert_file: &cert, key_file: &key, client_ca_file: None, only_1_3: false };
        super::tls::server_config(&files).expect("a pair").0
    }

    pub(crate) fn client(&self) -> Arc<rustls::ClientConfig> {
        super::tls::client_config(Some(&self.folder.path().join("cert.pem"))).expect("roots")
    }
}
