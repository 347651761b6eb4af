//! TCP sockets of the load and of the stub, which hold little that is on its way.
//!
//! A measurement has both ends of every connection on one host, whose kernel has one allowance for all TCP
//! (`net.ipv4.tcp_mem`, about a tenth of its memory). Where 128 streams may fill their buffers it runs out, drops what has
//! arrived, and what is measured are its timers. What the proxies' own sockets hold is up to them.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use tokio::net::{TcpSocket, TcpStream};

/// Each way. The kernel reserves twice what it is asked for.
const ASKED_BYTES: usize = 512 * 1024;
/// Of connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Connects to the first address of `host:port` that answers.
pub(crate) async fn connect(address: &str) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        let socket = TcpSocket::from_std_stream(bounded(address)?.into());
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(cause) => failure = cause,
        }
    }
    Err(failure)
}

/// Listens at `host:port`; accepted connections inherit the bounds.
pub(crate) fn listen(address: &str) -> io::Result<TcpListener> {
    let name = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let address = address.to_socket_addrs()?.next().ok_or(name)?;
    let socket = bounded(address)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Bounded before it has a peer: the window that it offers is chosen then.
fn bounded(address: SocketAddr) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_recv_buffer_size(ASKED_BYTES)?;
    socket.set_send_buffer_size(ASKED_BYTES)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cores::event_loop;
    use std::io::{Read, Write};

    #[test]
    fn both_ends_hold_little() {
        let listener = listen("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let connected = event_loop().block_on(async { connect(&address).await?.into_std() });
        let (mut near, mut far) = (connected.unwrap(), listener.accept().unwrap().0);
        let piece = [1; 64 * 1024];
        let mut held = 0;
        while let Ok(count) = near.write(&piece) {
            held += count;
        }
        assert!((piece.len()..=4 * ASKED_BYTES).contains(&held), "{held}");
        let mut first = [0; 3];
        far.read_exact(&mut first).unwrap();
        assert_eq!(first, [1; 3]);
    }

    #[test]
    fn a_name_without_an_address_is_an_error() {
        assert!(event_loop().block_on(connect("nowhere.invalid:1")).is_err());
    }
}
