//! What one TCP connection may hold of bytes that nobody has read yet.
//!
//! The kernel lets a receive buffer grow up to `net.ipv4.tcp_rmem` (32 MiB in recent kernels) and has one allowance for all TCP
//! of the host (`net.ipv4.tcp_mem`, about a tenth of its memory): some tens of streams that arrive faster than they are read use
//! it up. Then it drops what has arrived, on everybody's connections, and they stand still while retransmissions back off,
//! longer than `server.body_progress_timeout` allows. So ours hold less.
//!
//! The price is speed over a long way: a connection receives at most its buffer per round trip, 80 MB/s at 50 ms. TCP_WINDOW_CLAMP
//! alone would not do: the kernel's own tuning raises it again as the buffer grows.

use rustix::net::sockopt;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::LazyLock;

/// The buffer, with the kernel's bookkeeping.
const BUFFER_BYTES: usize = 4 << 20;
/// The kernel reserves twice what it is asked for.
const ASKED_BYTES: usize = BUFFER_BYTES / 2;

/// Whether this host's buffers grow beyond ours, and whether it gives us as much as we ask for: less than that, which also
/// ends the kernel's own tuning, would be a worse bound than the host's own.
static IS_OURS_BETTER: LazyLock<bool> = LazyLock::new(|| {
    let last = |path: &str| {
        let text = fs::read_to_string(path).ok()?;
        text.split_whitespace().next_back()?.parse::<usize>().ok()
    };
    is_ours_better(last("/proc/sys/net/ipv4/tcp_rmem"), last("/proc/sys/net/core/rmem_max"))
});

fn is_ours_better(grows_to: Option<usize>, may_ask_for: Option<usize>) -> bool {
    grows_to.is_some_and(|bytes| bytes > BUFFER_BYTES) && may_ask_for.is_some_and(|bytes| bytes >= ASKED_BYTES)
}

/// For a socket that shall listen: connections that it accepts inherit the bound.
pub fn bound_accepted(listener: &impl AsFd) {
    if *IS_OURS_BETTER {
        // A socket that refuses is one without the bound, no error.
        let _ = sockopt::set_socket_recv_buffer_size(listener, ASKED_BYTES);
    }
}

/// For a connection that was just made.
pub fn bound_connected(connection: &impl AsFd) {
    if *IS_OURS_BETTER {
        let _ = sockopt::set_socket_recv_buffer_size(connection, ASKED_BYTES);
        allow_window(connection);
    }
}

/// Once it is connected, a socket offers its peer no more than the buffer that it had then, in kernels before 6.11.
#[expect(unsafe_code, reason = "no safe wrapper knows this option")]
fn allow_window(connection: &impl AsFd) {
    let bytes = libc::c_int::try_from(BUFFER_BYTES).expect("a few MiB");
    let length = libc::socklen_t::try_from(size_of_val(&bytes)).expect("four bytes");
    // SAFETY: an open descriptor, and a pointer to an int that outlives the call, with its length.
    unsafe {
        let value = std::ptr::from_ref(&bytes).cast();
        libc::setsockopt(connection.as_fd().as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, value, length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};
    use std::net::TcpStream;

    #[test]
    fn a_host_that_is_tighter_keeps_its_own() {
        for (grows_to, may_ask_for, want) in [
            (Some(32 << 20), Some(4 << 20), true),
            (Some(32 << 20), Some(ASKED_BYTES), true),
            (Some(32 << 20), Some(212_992), false),
            (Some(BUFFER_BYTES), Some(4 << 20), false),
            (None, Some(4 << 20), false),
            (Some(32 << 20), None, false),
        ] {
            assert_eq!(is_ours_better(grows_to, may_ask_for), want, "{grows_to:?} {may_ask_for:?}");
        }
    }

    /// How much of what the sender sends the receiver takes while nobody reads, after a while of reading: bytes.
    fn held(mut sender: TcpStream, mut receiver: TcpStream) -> usize {
        let mut piece = vec![0; 1 << 20];
        let reading = std::thread::spawn(move || {
            // Buffers grow with what is read.
            let mut left = 256 << 20;
            while left > 0 {
                left -= receiver.read(&mut piece).expect("open").min(left);
            }
            receiver
        });
        sender.set_write_timeout(Some(std::time::Duration::from_millis(300))).expect("a socket option");
        let bytes = vec![0; 1 << 20];
        loop {
            match sender.write(&bytes) {
                Ok(_) => {}
                Err(cause) if cause.kind() == ErrorKind::WouldBlock && reading.is_finished() => break,
                Err(cause) => assert_eq!(cause.kind(), ErrorKind::WouldBlock),
            }
        }
        let receiver = reading.join().expect("no panic");
        usize::try_from(rustix::io::ioctl_fionread(&receiver).expect("a socket")).expect("fits")
    }

    #[test]
    fn a_connection_that_nobody_reads_holds_no_more() {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        bound_accepted(&listener);
        listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        listener.listen(1).expect("listens");
        let address = listener.local_addr().expect("bound").as_socket().expect("an address");
        // Where the host's own bound counts, it may be that of its tuning.
        let most = if *IS_OURS_BETTER { BUFFER_BYTES } else { usize::MAX };
        for is_accepted in [true, false] {
            let connected = TcpStream::connect(address).expect("the listener is there");
            let accepted = TcpStream::from(listener.accept().expect("a connection").0);
            if !is_accepted {
                bound_connected(&connected);
            }
            let (sender, receiver) = if is_accepted { (connected, accepted) } else { (accepted, connected) };
            let held = held(sender, receiver);
            // And more than the 64 KiB that a connection begins with.
            assert!((256 << 10..=most).contains(&held), "accepted: {is_accepted}, held {held}");
        }
    }
}
