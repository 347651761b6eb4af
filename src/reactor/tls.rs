//! TLS in its direct form (RUNTIME 5): rustls reads and writes the socket itself by calls that never wait, and we wait for
//! readiness in between. No owned buffers, no copy besides rustls' own.
//!
//! Called by `stream` only. Configurations are made by `server_config` and `client_config`.

use super::handle::borrow;
use crate::base::Timestamp;
use crate::proto::date;
use monoio::net::TcpStream;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

/// Ciphertext and plaintext that rustls may hold before we flush.
const TLS_BUFFER_BYTES: usize = 128 * 1024;

/// What a server's side is made of.
#[derive(Clone, Copy, Debug)]
pub struct ServerFiles<'p> {
    pub cert_file: &'p Path,
    pub key_file: &'p Path,
    /// Clients must show a certificate that one of these signed.
    pub client_ca_file: Option<&'p Path>,
    pub only_1_3: bool,
}

/// A server's side, and when its certificate ends (seconds since 1970; None if it does not say so in a way that we read).
/// HTTP/1.1 only.
pub fn server_config(files: &ServerFiles<'_>) -> io::Result<(Arc<ServerConfig>, Option<i64>)> {
    let ServerFiles { cert_file, key_file, client_ca_file, only_1_3 } = *files;
    let certs: Vec<_> = pem_certs(cert_file)?;
    let ends = certs.first().and_then(|cert| certificate_end(cert));
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|cause| in_file(key_file, &cause))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = if only_1_3 { &[&rustls::version::TLS13][..] } else { rustls::ALL_VERSIONS };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(io::Error::other)?;
    let builder = match client_ca_file {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let roots = Arc::new(trusted_roots(file)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|cause| in_file(file, &cause))?)
        }
    };
    let mut config = builder.with_single_cert(certs, key).map_err(|cause| in_file(cert_file, &cause))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((Arc::new(config), ends))
}

/// The server's side in force, which can be replaced: connections that shake hands later get the new one.
#[derive(Debug)]
pub struct ServerTls(RwLock<Arc<ServerConfig>>);

impl ServerTls {
    pub fn new(config: Arc<ServerConfig>) -> Self {
        Self(RwLock::new(config))
    }

    pub fn current(&self) -> Arc<ServerConfig> {
        // Held for the length of a copy only, by whom nothing can go wrong.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn replace(&self, config: Arc<ServerConfig>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = config;
    }
}

/// A client's side that trusts `roots`, or the system's roots when there are none. Fails when nothing would be trusted.
pub fn client_config(roots: Option<&Path>) -> io::Result<Arc<ClientConfig>> {
    let mut store = RootCertStore::empty();
    match roots {
        Some(file) => store = trusted_roots(file)?,
        None => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if store.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no trusted root certificates found"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn trusted_roots(file: &Path) -> io::Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for cert in pem_certs(file)? {
        store.add(cert).map_err(|cause| in_file(file, &cause))?;
    }
    Ok(store)
}

/// `notAfter` of an X.509 certificate (RFC 5280, 4.1), seconds since 1970. Only warnings depend on it: whether a certificate
/// is good is the clients' business.
fn certificate_end(der: &[u8]) -> Option<i64> {
    let (_, certificate, _) = der_value(der)?;
    let (_, mut fields, _) = der_value(certificate)?;
    // [0] version, serial number, algorithm, issuer; then the validity.
    let (first, _, rest) = der_value(fields)?;
    let before = if first == 0xa0 { 3 } else { 2 };
    fields = rest;
    for _ in 0..before {
        fields = der_value(fields)?.2;
    }
    let (_, validity, _) = der_value(fields)?;
    let (_, _, rest) = der_value(validity)?;
    let (tag, time, _) = der_value(rest)?;
    let text = std::str::from_utf8(time).ok()?;
    let full = match tag {
        // Two digits of the year: 1950 to 2049.
        0x17 if text.get(..2)? < "50" => format!("20{text}"),
        0x17 => format!("19{text}"),
        0x18 => text.to_owned(),
        _ => return None,
    };
    let basic = format!("{}T{}", full.get(..8)?, full.get(8..)?);
    date::parse_basic(basic.as_bytes()).map(Timestamp::seconds)
}

/// Tag, contents and what follows of the first value.
fn der_value(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&short, rest) = rest.split_first()?;
    let (length, rest) = if short < 0x80 {
        (usize::from(short), rest)
    } else {
        let (digits, rest) =
            rest.split_at_checked(usize::from(short & 0x7f)).filter(|(digits, _)| digits.len() <= 4)?;
        (digits.iter().fold(0, |length, &digit| length << 8 | usize::from(digit)), rest)
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
}

fn pem_certs(file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let certs = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let certs: Vec<_> = certs.map_err(|cause| in_file(file, &cause))?;
    if certs.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{}: no certificate in it", file.display())));
    }
    Ok(certs)
}

fn in_file(file: &Path, cause: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {cause}", file.display()))
}

/// The TLS state of one connection.
pub(super) struct Tls {
    state: Connection,
}

impl Tls {
    pub(super) fn server(config: Arc<ServerConfig>) -> io::Result<Self> {
        let mut state = ServerConnection::new(config).map_err(io::Error::other)?;
        state.set_buffer_limit(Some(TLS_BUFFER_BYTES));
        Ok(Self { state: state.into() })
    }

    pub(super) fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        let mut state = ClientConnection::new(config, name).map_err(io::Error::other)?;
        state.set_buffer_limit(Some(TLS_BUFFER_BYTES));
        Ok(Self { state: state.into() })
    }

    /// Cancel: NOT safe.
    pub(super) async fn handshake(&mut self, tcp: &TcpStream) -> io::Result<()> {
        loop {
            self.flush(tcp).await?;
            if !self.state.is_handshaking() {
                return Ok(());
            }
            if self.receive(tcp).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads plaintext. 0 = the peer said that it is done; a connection that just ended is `UnexpectedEof`.
    /// Cancel: safe, nothing is lost.
    pub(super) async fn read(&mut self, tcp: &TcpStream, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.state.reader().read(into) {
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            self.receive(tcp).await?;
            if self.state.wants_write() {
                self.flush(tcp).await?;
            }
        }
    }

    /// Plaintext that has arrived and not been read, without waiting. Ok(None) = nothing is there.
    pub(super) fn peek(&mut self, tcp: &TcpStream) -> io::Result<Option<usize>> {
        loop {
            match self.state.read_tls(&mut Direct(tcp)) {
                Ok(0) => break,
                Ok(_) => {
                    self.state.process_new_packets().map_err(invalid)?;
                }
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => break,
                Err(cause) => return Err(cause),
            }
        }
        match self.state.reader().into_first_chunk() {
            Ok(bytes) => Ok(Some(bytes.len())),
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(cause) => Err(cause),
        }
    }

    /// Writes and flushes all of `bytes`, telling `sent` as it goes. Cancel: NOT safe.
    pub(super) async fn write_all(
        &mut self,
        tcp: &TcpStream,
        mut bytes: &[u8],
        mut sent: impl FnMut(usize),
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = self.state.writer().write(bytes)?;
            self.flush(tcp).await?;
            sent(taken);
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Puts bytes into rustls' buffer, to leave with the next flush; how many fitted.
    pub(super) fn buffer(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.state.writer().write(bytes)
    }

    /// Says that nothing more will come. Cancel: NOT safe.
    pub(super) async fn close(&mut self, tcp: &TcpStream) -> io::Result<()> {
        self.state.send_close_notify();
        self.flush(tcp).await
    }

    /// Cancel: NOT safe.
    pub(super) async fn flush(&mut self, tcp: &TcpStream) -> io::Result<()> {
        while !self.try_flush(tcp)? {
            tcp.writable(false).await?;
        }
        Ok(())
    }

    /// Sends what rustls holds, without waiting; whether all of it left.
    pub(super) fn try_flush(&mut self, tcp: &TcpStream) -> io::Result<bool> {
        while self.state.wants_write() {
            match self.state.write_tls(&mut Direct(tcp)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(cause) => return Err(cause),
            }
        }
        Ok(true)
    }

    /// Takes what the socket has, waiting for it, and works it in. A broken message is answered by its alert first.
    async fn receive(&mut self, tcp: &TcpStream) -> io::Result<usize> {
        loop {
            match self.state.read_tls(&mut Direct(tcp)) {
                Ok(count) => {
                    if let Err(cause) = self.state.process_new_packets() {
                        let _ = self.flush(tcp).await;
                        return Err(invalid(cause));
                    }
                    return Ok(count);
                }
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => tcp.readable(false).await?,
                Err(cause) => return Err(cause),
            }
        }
    }
}

fn invalid(cause: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}

/// The socket by calls that never wait, whatever its mode.
struct Direct<'a>(&'a TcpStream);

impl Read for Direct<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match recv(borrow(self.0), &mut *into, RecvFlags::DONTWAIT) {
                Err(rustix::io::Errno::INTR) => {}
                Ok((count, _)) => return Ok(count),
                Err(cause) => return Err(cause.into()),
            }
        }
    }
}

impl Write for Direct<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match send(borrow(self.0), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(count) => return Ok(count),
                Err(cause) => return Err(cause.into()),
            }
        }
    }

    fn write_vectored(&mut self, bytes: &[io::IoSlice<'_>]) -> io::Result<usize> {
        super::handle::send_vectored(self.0, bytes, SendFlags::empty())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_found() {
        // 2049 is the last year in two digits.
        for (year, want) in [(2030, 1_893_456_000), (2049, 2_493_072_000), (2050, 2_524_608_000)] {
            let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let key = rcgen::KeyPair::generate().expect("a key");
            let made = params.self_signed(&key).expect("a certificate");
            assert_eq!(certificate_end(made.der()), Some(want), "{year}");
            for cut in 0..60 {
                certificate_end(&made.der()[..cut]);
            }
        }
        assert_eq!(certificate_end(b""), None);
    }
}
