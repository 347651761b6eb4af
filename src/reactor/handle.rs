//! Descriptors as the runtime sees them: an eventfd that any thread may ring, and any pollable descriptor waited for by
//! readiness.
#![allow(unsafe_code)] // one borrow of a raw descriptor: monoio's sockets offer no other form

use monoio::net::TcpStream;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The descriptor of a monoio socket, for direct calls.
pub fn borrow(tcp: &TcpStream) -> BorrowedFd<'_> {
    // Safety: the borrow ends before the socket can be dropped, and the socket owns an open descriptor.
    unsafe { BorrowedFd::borrow_raw(tcp.as_raw_fd()) }
}

/// A descriptor that can be waited for. monoio has no such type of its own, but its TcpStream asks nothing of a
/// descriptor except that it can be polled.
pub struct Pollable {
    inner: TcpStream,
}

impl Pollable {
    /// Only inside a runtime.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { inner: TcpStream::from_std(fd.into())? })
    }

    /// Cancel: safe, nothing is read.
    pub async fn readable(&self) -> io::Result<()> {
        self.inner.readable(false).await
    }
}

impl AsFd for Pollable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(&self.inner)
    }
}

/// A bell between threads: rung by any, waited for by one reactor.
#[derive(Debug)]
pub struct Bell {
    fd: OwnedFd,
}

impl Bell {
    pub fn new() -> io::Result<Self> {
        Ok(Self { fd: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)? })
    }

    /// The waiting side's own descriptor of the same bell. Only inside a runtime.
    pub fn listen(&self) -> io::Result<Pollable> {
        Pollable::new(self.fd.try_clone()?)
    }

    /// Rings. A full counter (2^64 - 2 unheard rings) is already ringing, so every failure may be ignored.
    pub fn ring(&self) {
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }

    /// Stops the ringing, before looking at what it was rung for.
    pub fn quiet(&self) {
        let _ = rustix::io::read(&self.fd, &mut [0u8; 8]);
    }
}

/// Sends by one call that never waits. How many bytes the kernel took.
pub fn send_now(socket: BorrowedFd<'_>, bytes: &[u8], flags: SendFlags) -> io::Result<usize> {
    uninterrupted(|| send(socket, bytes, flags | SendFlags::DONTWAIT | SendFlags::NOSIGNAL))
}

/// As `send_now`, from several slices.
pub fn send_vectored(tcp: &TcpStream, bytes: &[io::IoSlice<'_>], flags: SendFlags) -> io::Result<usize> {
    // A lone slice needs no vector, and the kernel then none to check and copy.
    if let [one] = bytes {
        return send_now(borrow(tcp), one, flags);
    }
    let flags = flags | SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    uninterrupted(|| sendmsg(borrow(tcp), bytes, &mut SendAncillaryBuffer::default(), flags))
}

fn uninterrupted(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}
