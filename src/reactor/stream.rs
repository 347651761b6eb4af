//! A connection's bytes, plaintext or TLS, client's side or backend's, with its deadline.
//!
//! Used by connections, exchanges and relays. Plaintext reads into pooled buffers and writes of pooled buffers are the
//! runtime's own operations (one submission on the ring); slices go out by direct calls that never wait. A deadline that
//! has struck shows as `TimedOut`.

use super::buffer::Buffer;
use super::core::Core;
use super::deadline::{Deadline, Phase};
use super::driver::DriverKind;
use super::handle::{borrow, send_vectored};
use super::outbox::{MESSAGE_BYTES_MAX, Outbox, Turn};
use super::race::{Won, race};
use super::tls::Tls;
use monoio::io::{AsyncReadRent, AsyncWriteRent};
use monoio::net::TcpStream;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, shutdown};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub struct Stream {
    // First, so that it is dropped before the socket: the tick must never shut down a descriptor that is someone else's.
    deadline: Deadline,
    tls: Option<Box<Tls>>,
    tcp: TcpStream,
    driver: DriverKind,
    outbox: Rc<Outbox>,
    /// The turn in which a message was posted last.
    posted: Turn,
}

/// Whether more bytes are in hand that will follow at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Follow {
    /// Nothing follows yet: the bytes leave now.
    Nothing,
    /// More bytes follow at once; these may wait for them in the kernel. Only with those bytes in hand: the kernel holds
    /// a short segment back for up to 200 ms.
    Now,
}

/// Why a wait for room has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ready {
    Writable,
    /// The peer speaks, or has ended, before all was written.
    Answered,
}

/// What an idle connection is up to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Idle {
    /// Open, and nothing has arrived.
    Quiet,
    Closed,
    /// The peer has sent bytes that nobody asked for.
    Spoke,
}

impl Stream {
    /// Takes over a connected socket. Nagle's delay is off: what we write is meant to leave.
    pub fn plain(core: &Core, tcp: TcpStream) -> Self {
        let _ = tcp.set_nodelay(true);
        let deadline = core.deadlines.watch(tcp.as_raw_fd());
        let outbox = Rc::clone(&core.outbox);
        Self { deadline, tls: None, tcp, driver: core.driver, outbox, posted: Turn::default() }
    }

    /// Takes over an accepted socket and shakes hands within `patience`. Cancel: NOT safe, the socket is closed.
    pub async fn accept_tls(
        core: &Core,
        tcp: TcpStream,
        config: Arc<ServerConfig>,
        patience: Duration,
    ) -> io::Result<Self> {
        Self::plain(core, tcp).with_tls(Tls::server(config)?, patience).await
    }

    /// Takes over a connected socket and shakes hands within `patience`, checking the server's name.
    /// Cancel: NOT safe, the socket is closed.
    pub async fn connect_tls(
        core: &Core,
        tcp: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        patience: Duration,
    ) -> io::Result<Self> {
        Self::plain(core, tcp).with_tls(Tls::client(config, name)?, patience).await
    }

    async fn with_tls(mut self, tls: Tls, patience: Duration) -> io::Result<Self> {
        self.deadline.arm(Phase::Body, patience);
        let mut tls = Box::new(tls);
        let done = tls.handshake(&self.tcp).await;
        self.timed(done)?;
        self.deadline.disarm();
        self.tls = Some(tls);
        Ok(self)
    }

    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub fn driver(&self) -> DriverKind {
        self.driver
    }

    pub fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    pub fn peer(&self) -> io::Result<SocketAddr> {
        self.tcp.peer_addr()
    }

    /// Reads what is there into the buffer's room, waiting for at least one byte. 0 = the peer has ended; for TLS it said
    /// so, a connection that was cut is `UnexpectedEof`. Cancel: NOT safe, the buffer stays hollow and bytes may be lost.
    pub async fn read_some(&mut self, buffer: &mut Buffer) -> io::Result<usize> {
        self.read_at_most(buffer, usize::MAX).await
    }

    /// As `read_some`, and never more than `limit` bytes: what lies behind a body belongs to the next request.
    /// Cancel: NOT safe.
    pub async fn read_at_most(&mut self, buffer: &mut Buffer, limit: usize) -> io::Result<usize> {
        let room = limit.min(buffer.spare());
        assert!(room > 0, "reading into no room would look like the end");
        let done = match &mut self.tls {
            Some(tls) => {
                let done = tls.read(&self.tcp, &mut buffer.spare_mut()[..room]).await;
                done.inspect(|&count| buffer.filled(count))
            }
            None => loop {
                let (done, filling) = self.tcp.read(buffer.take_to_fill(room)).await;
                *buffer = filling.into_buffer();
                match done {
                    Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                    done => break done,
                }
            },
        };
        self.timed_read(done)
    }

    /// Sends the bytes that the buffer holds, consuming them as the kernel takes them: after an error, those left in the
    /// buffer were not taken. Cancel: NOT safe, the buffer stays hollow.
    pub async fn write_buffer(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        self.write_front(buffer, buffer.len()).await
    }

    /// As `write_buffer`, the first `count` bytes only. Cancel: NOT safe, the buffer stays hollow.
    pub async fn write_front(&mut self, buffer: &mut Buffer, count: usize) -> io::Result<()> {
        if self.tls.is_some() {
            let mut sent = 0;
            let done = self.write_tls(&buffer.data()[..count], &mut sent).await;
            buffer.consume(sent);
            return self.timed(done);
        }
        self.settled().await?;
        let mut left = count;
        while left > 0 {
            let (done, draining) = self.tcp.write(buffer.take_to_drain(left)).await;
            *buffer = draining.into_buffer();
            match done {
                Ok(0) => return self.timed(Err(io::ErrorKind::WriteZero.into())),
                Ok(taken) => {
                    left -= taken;
                    buffer.consume(taken);
                    self.deadline.progress();
                }
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return self.timed(Err(cause)),
            }
        }
        Ok(())
    }

    /// As `write_front`, to a peer that may answer before it has taken everything: then it ends early, and what is left in
    /// the buffer was not taken. Cancel: NOT safe, an unknown part of a TLS record may have left.
    pub async fn write_front_or_answered(&mut self, buffer: &mut Buffer, count: usize) -> io::Result<Ready> {
        self.settled().await?;
        let mut left = count;
        while left > 0 {
            let bytes = &buffer.data()[..left];
            let taken = match &mut self.tls {
                Some(tls) => match tls.buffer(bytes) {
                    Ok(taken) => taken,
                    Err(cause) => return self.timed(Err(cause)),
                },
                None => match send_vectored(&self.tcp, &[IoSlice::new(bytes)], SendFlags::empty()) {
                    Ok(taken) => taken,
                    Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => 0,
                    Err(cause) => return self.timed(Err(cause)),
                },
            };
            while !self.flushed(taken)? {
                if self.writable_or_answered().await? == Ready::Answered {
                    return Ok(Ready::Answered);
                }
                if self.tls.is_none() {
                    break;
                }
            }
            if taken > 0 {
                left -= taken;
                buffer.consume(taken);
                self.deadline.progress();
            }
        }
        Ok(Ready::Writable)
    }

    /// Sends a message that is whole in hand, head and body: a small one leaves with others' when the core's turn ends, and
    /// what becomes of it then shows to whoever reads from the peer. Cancel: NOT safe, an unknown part is sent.
    pub async fn post(&mut self, head: &[u8], body: &[u8]) -> io::Result<()> {
        if self.tls.is_some() || head.len() + body.len() > MESSAGE_BYTES_MAX {
            return self.write_both(head, body, Follow::Nothing).await;
        }
        self.settled().await?;
        self.posted = self.outbox.post(self.tcp.as_raw_fd(), head, body, self.deadline.wait());
        self.deadline.progress();
        Ok(())
    }

    /// As `post`, of a body that fills `body`: the head is put in front of it, if there is room, and both leave from there.
    /// The buffer is left empty. Cancel: NOT safe, an unknown part is sent.
    pub async fn post_from(&mut self, head: &[u8], body: &mut Buffer) -> io::Result<()> {
        let is_long = head.len() + body.len() > MESSAGE_BYTES_MAX;
        if self.tls.is_some() || is_long || !body.put_before(head) {
            self.post(head, body.data()).await?;
            body.clear();
            return Ok(());
        }
        self.settled().await?;
        self.posted = self.outbox.post_buffer(self.tcp.as_raw_fd(), body.take(), self.deadline.wait());
        self.deadline.progress();
        Ok(())
    }

    /// What was posted leaves now. Before anything else is done to the socket.
    fn flush_posted(&self) {
        if self.posted == self.outbox.turn() {
            self.outbox.flush();
        }
    }

    /// Waits until what was posted has left. BrokenPipe: it was lost. Cancel: safe.
    pub async fn settled(&self) -> io::Result<()> {
        self.flush_posted();
        if !self.outbox.has_troubled() {
            return Ok(());
        }
        let settled = self.outbox.unstuck(self.tcp.as_raw_fd()).await;
        self.timed(settled)
    }

    /// Whether what was just taken has gone to the kernel.
    fn flushed(&mut self, taken: usize) -> io::Result<bool> {
        let done = match &mut self.tls {
            Some(tls) => tls.try_flush(&self.tcp),
            None => Ok(taken > 0),
        };
        self.timed(done)
    }

    /// Sends all of `bytes`. Cancel: NOT safe, an unknown part is sent.
    pub async fn write_all(&mut self, bytes: &[u8], follow: Follow) -> io::Result<()> {
        self.write_both(bytes, &[], follow).await
    }

    /// Sends a head and the start of its body with as few calls as can be. Cancel: NOT safe, an unknown part is sent.
    pub async fn write_both(&mut self, head: &[u8], body: &[u8], follow: Follow) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            let buffered = match tls.buffer(head) {
                Ok(count) => count,
                Err(cause) => return self.timed(Err(cause)),
            };
            let rest = &head[buffered..];
            if rest.is_empty() && body.is_empty() && follow == Follow::Now {
                return Ok(());
            }
            let mut done = Ok(());
            if !rest.is_empty() {
                done = self.write_tls(rest, &mut 0).await;
            }
            if done.is_ok() {
                done = self.write_tls(body, &mut 0).await;
            }
            return self.timed(done);
        }
        self.settled().await?;
        let done = self.send_both(head, body, follow).await;
        self.timed(done)
    }

    async fn write_tls(&mut self, bytes: &[u8], sent: &mut usize) -> io::Result<()> {
        let tls = self.tls.as_mut().expect("only for TLS");
        let deadline = &self.deadline;
        tls.write_all(&self.tcp, bytes, |count| {
            *sent += count;
            deadline.progress();
        })
        .await?;
        tls.flush(&self.tcp).await
    }

    async fn send_both(&mut self, mut head: &[u8], mut body: &[u8], follow: Follow) -> io::Result<()> {
        let flags = if follow == Follow::Now { SendFlags::MORE } else { SendFlags::empty() };
        while !(head.is_empty() && body.is_empty()) {
            let both = [IoSlice::new(head), IoSlice::new(body)];
            let some = if body.is_empty() { &both[..1] } else { &both[..] };
            match send_vectored(&self.tcp, some, flags) {
                Ok(count) => {
                    let of_head = count.min(head.len());
                    head = &head[of_head..];
                    body = &body[count - of_head..];
                    self.deadline.progress();
                }
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => self.tcp.writable(false).await?,
                Err(cause) => return Err(cause),
            }
        }
        Ok(())
    }

    /// Waits until something can be read, or the peer has ended. Plaintext that TLS holds already is not seen.
    /// Cancel: safe.
    pub async fn readable(&self) -> io::Result<()> {
        let done = self.tcp.readable(false).await;
        self.timed(done)
    }

    /// Waits until something can be written. Cancel: safe.
    pub async fn writable(&self) -> io::Result<()> {
        let done = self.tcp.writable(false).await;
        self.timed(done)
    }

    /// Waits until something can be written or the peer has said something (or ended) that nobody waits for.
    /// Cancel: safe.
    async fn writable_or_answered(&mut self) -> io::Result<Ready> {
        loop {
            if self.writable_or_readable().await? == Ready::Writable {
                return Ok(Ready::Writable);
            }
            if self.look_idle() != Idle::Quiet {
                return self.answered();
            }
        }
    }

    /// As `writable_or_answered`, for a plaintext connection that a relay has split. Cancel: safe.
    pub(super) async fn plain_writable_or_answered(&self) -> io::Result<Ready> {
        match self.writable_or_readable().await? {
            Ready::Answered if self.look_idle_plain() != Idle::Quiet => self.answered(),
            _ => Ok(Ready::Writable),
        }
    }

    async fn writable_or_readable(&self) -> io::Result<Ready> {
        match race(self.tcp.writable(false), self.tcp.readable(false)).await {
            Won::First(done) => self.timed(done).map(|()| Ready::Writable),
            Won::Second(done) => self.timed(done).map(|()| Ready::Answered),
        }
    }

    fn answered(&self) -> io::Result<Ready> {
        if self.deadline.hit() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Ready::Answered) }
    }

    /// What the peer of an idle connection has done meanwhile, without waiting.
    pub fn look_idle(&mut self) -> Idle {
        if let Some(tls) = &mut self.tls {
            // What arrives on an idle TLS connection may be its own business (session tickets).
            return match tls.peek(&self.tcp) {
                Ok(None) => Idle::Quiet,
                Ok(Some(1..)) => Idle::Spoke,
                Ok(Some(0)) | Err(_) => Idle::Closed,
            };
        }
        self.look_idle_plain()
    }

    fn look_idle_plain(&self) -> Idle {
        match recv(borrow(&self.tcp), &mut [0u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((0, _)) => Idle::Closed,
            Ok(_) => Idle::Spoke,
            Err(Errno::AGAIN | Errno::INTR) => Idle::Quiet,
            Err(_) => Idle::Closed,
        }
    }

    /// Ends our direction, so that the peer sees a proper end; it may still speak. Cancel: NOT safe.
    pub async fn end(&mut self) -> io::Result<()> {
        self.settled().await?;
        if let Some(tls) = &mut self.tls {
            let done = tls.close(&self.tcp).await;
            self.timed(done)?;
        }
        Ok(shutdown(borrow(&self.tcp), Shutdown::Write)?)
    }

    /// Cuts the connection at once, so that the peer sees a reset and not an end: a body that cannot be finished must not
    /// look whole.
    pub fn cut(self) {
        let _ = rustix::net::sockopt::set_socket_linger(borrow(&self.tcp), Some(Duration::ZERO));
    }

    /// An error of a direct call on this socket, or `TimedOut` if the deadline brought it about.
    pub(super) fn blame(&self, cause: io::Error) -> io::Error {
        if self.deadline.hit() { io::ErrorKind::TimedOut.into() } else { cause }
    }

    /// An end of input that the deadline brought about is not the peer's.
    fn timed_read(&self, done: io::Result<usize>) -> io::Result<usize> {
        match done {
            Ok(count @ 1..) => {
                self.deadline.progress();
                Ok(count)
            }
            Ok(0) if !self.deadline.hit() => Ok(0),
            Ok(_) => Err(io::ErrorKind::TimedOut.into()),
            Err(cause) => self.timed(Err(cause)),
        }
    }

    fn timed<T>(&self, done: io::Result<T>) -> io::Result<T> {
        match done {
            Err(_) if self.deadline.hit() => Err(io::ErrorKind::TimedOut.into()),
            done => done,
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.flush_posted();
        if self.outbox.has_troubled() {
            self.outbox.forget(self.tcp.as_raw_fd());
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.flush_posted();
        borrow(&self.tcp)
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        self.flush_posted();
        self.tcp.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::testing::{
        Pki, Stopwatch, on_both, pair, pattern, pause_ms, raw_pair, read_exactly, receive_pattern, sleep_ms, until,
    };
    use std::io::{ErrorKind, Read, Write};

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn buffers_and_slices_arrive_in_order() {
        on_both(|core| async move {
            let (mut stream, mut peer) = pair(&core);
            let receiving = std::thread::spawn(move || receive_pattern(&mut peer, 0, 10_000));
            let mut buffer = core.bodies.take().await;
            let mut sent = 0;
            for round in 0..20 {
                buffer.append(&pattern(sent, 200_000));
                sent += 200_000;
                stream.write_buffer(&mut buffer).await.expect("the peer reads");
                let (head, body) = (pattern(sent, 70), pattern(sent + 70, 100_000));
                sent += 70;
                if round % 2 == 0 {
                    stream.write_both(&head, &body, Follow::Nothing).await.expect("the peer reads");
                } else {
                    stream.write_all(&head, Follow::Now).await.expect("the peer reads");
                    stream.write_all(&body, Follow::Nothing).await.expect("the peer reads");
                }
                sent += 100_000;
            }
            stream.end().await.expect("open");
            until("the peer has everything", || receiving.is_finished()).await;
            assert_eq!(receiving.join().expect("bytes in order"), sent);
        });
    }

    #[test]
    fn a_read_stops_at_its_limit_and_sees_the_end() {
        on_both(|core| async move {
            let (mut stream, mut peer) = pair(&core);
            peer.write_all(b"bodynext").expect("open");
            let mut buffer = core.heads.take().await;
            while buffer.len() < 4 {
                let left = 4 - buffer.len();
                stream.read_at_most(&mut buffer, left).await.expect("bytes");
            }
            assert_eq!(buffer.data(), b"body");
            peer.shutdown(std::net::Shutdown::Write).expect("open");
            assert_eq!(read_exactly(&core, &mut stream, 4).await, b"next");
            assert_eq!(stream.read_some(&mut buffer).await.expect("the end"), 0);
            stream.write_all(b"still", Follow::Nothing).await.expect("half open");
            drop(stream);
            let reading = std::thread::spawn(move || {
                let mut last = Vec::new();
                peer.read_to_end(&mut last).map(|_| last)
            });
            until("the end is there", || reading.is_finished()).await;
            assert_eq!(reading.join().expect("no panic").expect("a proper end"), b"still");
        });
    }

    #[test]
    fn a_cut_is_a_reset_and_not_an_end() {
        on_both(|core| async move {
            let (mut stream, mut peer) = pair(&core);
            stream.write_all(b"half of it", Follow::Nothing).await.expect("open");
            stream.cut();
            let reading = std::thread::spawn(move || {
                let mut all = Vec::new();
                peer.read_to_end(&mut all).expect_err("not a proper end").kind()
            });
            until("the peer saw it", || reading.is_finished()).await;
            assert_eq!(reading.join().expect("no panic"), ErrorKind::ConnectionReset);
        });
    }

    #[test]
    fn idle_connections_are_looked_at_without_reading() {
        on_both(|core| async move {
            let (mut stream, mut peer) = pair(&core);
            assert_eq!(stream.look_idle(), Idle::Quiet);
            peer.write_all(b"x").expect("open");
            until("the byte is there", || stream.look_idle() == Idle::Spoke).await;
            assert_eq!(read_exactly(&core, &mut stream, 1).await, b"x");
            drop(peer);
            until("the end is there", || stream.look_idle() == Idle::Closed).await;
        });
    }

    #[test]
    fn a_lone_head_is_not_held_back() {
        on_both(|core| async move {
            let (mut stream, mut peer) = pair(&core);
            let answering = std::thread::spawn(move || {
                let mut byte = [0];
                for _ in 0..10 {
                    peer.read_exact(&mut byte).expect("a head");
                    peer.write_all(&byte).expect("open");
                }
            });
            let watch = Stopwatch::start();
            for _ in 0..10 {
                stream.write_all(b"h", Follow::Nothing).await.expect("open");
                read_exactly(&core, &mut stream, 1).await;
            }
            assert!(watch.elapsed_ms() < 1_000, "10 heads took {} ms", watch.elapsed_ms());
            answering.join().expect("no panic");
        });
    }

    /// Shakes hands as a server with a client of the standard library and runs `client` there.
    async fn tls_pair<T: Send + 'static>(
        core: &Core,
        client: impl FnOnce(rustls::StreamOwned<rustls::ClientConnection, std::net::TcpStream>) -> T + Send + 'static,
    ) -> (io::Result<Stream>, std::thread::JoinHandle<T>) {
        let pki = Pki::new("localhost");
        let (tcp, peer) = raw_pair(core);
        let trusted = pki.client();
        let thread = std::thread::spawn(move || {
            let name = ServerName::try_from("localhost").expect("a name");
            let connection = rustls::ClientConnection::new(trusted, name).expect("a client");
            client(rustls::StreamOwned::new(connection, peer))
        });
        (Stream::accept_tls(core, tcp, pki.server(), PATIENCE).await, thread)
    }

    #[test]
    fn tls_as_a_server_moves_bytes_both_ways_and_ends_properly() {
        const BYTES: u64 = 3 << 20;
        on_both(|core| async move {
            let (stream, client) = tls_pair(&core, |mut tls| {
                let bytes = pattern(0, 3 << 20);
                tls.write_all(&bytes).expect("the server reads");
                let mut all = Vec::new();
                tls.read_to_end(&mut all).expect("a proper end");
                assert!(all == bytes, "the bytes came back");
            })
            .await;
            let mut stream = stream.expect("shakes hands");
            assert!(stream.is_tls());
            let got = read_exactly(&core, &mut stream, usize::try_from(BYTES).expect("small")).await;
            let (head, body) = got.split_at(1000);
            stream.write_all(head, Follow::Now).await.expect("open");
            stream.write_both(&body[..5000], &body[5000..200_000], Follow::Nothing).await.expect("open");
            let mut buffer = core.bodies.take().await;
            for piece in body[200_000..].chunks(buffer.capacity()) {
                buffer.append(piece);
                stream.write_buffer(&mut buffer).await.expect("open");
                assert!(buffer.is_empty());
            }
            stream.end().await.expect("open");
            until("the client has everything", || client.is_finished()).await;
            client.join().expect("no panic");
        });
    }

    #[test]
    fn tls_as_a_client_checks_the_name() {
        on_both(|core| async move {
            for (name, fits) in [("localhost", true), ("elsewhere", false)] {
                let pki = Pki::new("localhost");
                let (tcp, mut peer) = raw_pair(&core);
                let server = pki.server();
                let thread = std::thread::spawn(move || {
                    let mut connection = rustls::ServerConnection::new(server).expect("a server");
                    let mut tls = rustls::Stream::new(&mut connection, &mut peer);
                    let mut bytes = [0; 5];
                    let echoed = tls.read_exact(&mut bytes).and_then(|()| tls.write_all(&bytes));
                    let _ = tls.read_to_end(&mut Vec::new());
                    echoed.is_ok()
                });
                let wanted = ServerName::try_from(name).expect("a name");
                match Stream::connect_tls(&core, tcp, pki.client(), wanted, PATIENCE).await {
                    Ok(mut stream) => {
                        stream.write_all(b"hello", Follow::Nothing).await.expect("open");
                        assert_eq!(read_exactly(&core, &mut stream, 5).await, b"hello");
                        // The server's session tickets have arrived by now; they are not unexpected data.
                        assert_eq!(stream.look_idle(), Idle::Quiet);
                        assert!(fits, "{name} must not be taken for localhost");
                    }
                    Err(cause) => assert!(!fits && cause.kind() == ErrorKind::InvalidData, "{name}: {cause}"),
                }
                until("the server has ended", || thread.is_finished()).await;
                assert_eq!(thread.join().expect("no panic"), fits);
            }
        });
    }

    #[test]
    fn a_tls_end_is_told_from_a_cut() {
        on_both(|core| async move {
            for proper in [true, false] {
                let (stream, client) = tls_pair(&core, move |mut tls| {
                    tls.write_all(b"last").expect("open");
                    if proper {
                        tls.conn.send_close_notify();
                    }
                    let _ = tls.flush();
                    let _ = tls.sock.shutdown(std::net::Shutdown::Write);
                    pause_ms(50);
                })
                .await;
                let mut stream = stream.expect("shakes hands");
                assert_eq!(read_exactly(&core, &mut stream, 4).await, b"last");
                let mut buffer = core.heads.take().await;
                match stream.read_some(&mut buffer).await {
                    Ok(0) => assert!(proper, "a cut must not look like an end"),
                    Err(cause) => assert!(!proper && cause.kind() == ErrorKind::UnexpectedEof, "{cause}"),
                    Ok(count) => panic!("{count} bytes out of nowhere"),
                }
                assert_eq!(stream.look_idle(), Idle::Closed);
                client.join().expect("no panic");
            }
        });
    }

    #[test]
    fn a_handshake_that_does_not_come_times_out() {
        on_both(|core| async move {
            let (tcp, peer) = raw_pair(&core);
            let config = Pki::new("localhost").server();
            let done = Stream::accept_tls(&core, tcp, config, Duration::from_millis(100)).await;
            assert_eq!(done.err().map(|cause| cause.kind()), Some(ErrorKind::TimedOut));
            drop(peer);
            sleep_ms(1).await;
        });
    }
}
