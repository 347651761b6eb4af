//! The admin commands' way to a running server: one request per connection, over HTTP or HTTPS, answered whole or line by
//! line. Small on purpose: a library for this would be the largest dependency of the program.

use crate::config;
use crate::reactor::tls;
use anyhow::{Context, anyhow, bail};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Of the server's answer: head, and a line of a stream.
const HEAD_BYTES_MAX: u64 = 64 * 1024;
/// A connection that cannot be made by then is not made.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// How long a server may say nothing that only has to look something up, or to note it.
pub const SOON: Duration = Duration::from_secs(60);
/// The same of what goes through a whole backend or database: a removal is silent until its end.
pub const AT_LENGTH: Duration = Duration::from_secs(3600);

/// Where the server listens for administrators, and who we are.
#[derive(clap::Args, Clone, Debug)]
pub struct Reach {
    /// Where the server listens for administrators: host:port, http://host:port or https://host:port. Without it the
    /// configuration file's `admin.listen_addr`, else 127.0.0.1:9001.
    #[arg(long, env = "S3O_ADMIN_ADDR", value_name = "ADDRESS", global = true)]
    pub addr: Option<String>,
    /// The server's `admin.token`; without it the configuration file's.
    #[arg(long, env = "S3O_ADMIN_TOKEN", value_name = "TOKEN", hide_env_values = true, global = true)]
    pub token: Option<String>,
    /// The server's configuration file, to find address and token in.
    #[arg(long, value_name = "PATH", global = true)]
    pub config: Option<PathBuf>,
    /// PEM roots to trust for https instead of the system's.
    #[arg(long, value_name = "PATH", global = true)]
    pub ca_file: Option<PathBuf>,
}

/// A server that can be asked.
pub struct Server {
    host: String,
    authority: String,
    port: u16,
    tls: Option<Arc<rustls::ClientConfig>>,
    token: Option<String>,
}

/// An answer whose body is still to be read.
pub struct Answer {
    pub status: u16,
    body: Box<dyn BufRead>,
}

impl Reach {
    pub fn server(&self) -> anyhow::Result<Server> {
        let view = match &self.config {
            Some(path) => match config::load(path) {
                Ok(checked) => Some(checked.config),
                Err(problems) => bail!("{} is not a valid configuration\n{problems}", path.display()),
            },
            None => None,
        };
        let configured = view.as_ref().map(|view| reachable(view.admin.listen_addr).to_string());
        let address = self.addr.clone().or(configured).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
        let own = view.and_then(|view| view.admin.token.map(|token| token.expose().to_owned()));
        Server::at(&address, self.token.clone().or(own), self.ca_file.as_deref())
    }
}

/// The address that a client on this machine uses.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    address
}

impl Server {
    fn at(address: &str, token: Option<String>, roots: Option<&std::path::Path>) -> anyhow::Result<Self> {
        let (secure, rest) = match address.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some((scheme, _)) => bail!("{address}: {scheme} is not known; use http or https"),
            None => (false, address),
        };
        let authority = rest.trim_end_matches('/');
        if authority.is_empty() || authority.contains(['/', '@', ' ']) {
            bail!("{address} is not an address: write host:port");
        }
        let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) => (host, port.parse().map_err(|_| anyhow!("{address}: {port:?} is not a port"))?),
            None => (authority, if secure { 443 } else { 80 }),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = secure.then(|| tls::client_config(roots)).transpose().context("trusted certificates")?;
        Ok(Self { host, authority: authority.to_owned(), port, tls, token })
    }

    fn connect(&self) -> anyhow::Result<TcpStream> {
        use std::net::ToSocketAddrs;
        let mut last = None;
        for address in (self.host.as_str(), self.port).to_socket_addrs().context("the name cannot be resolved")? {
            match TcpStream::connect_timeout(&address, CONNECT_PATIENCE) {
                Ok(tcp) => return Ok(tcp),
                Err(cause) => last = Some(cause),
            }
        }
        Err(last.map_or_else(|| anyhow!("the name has no address"), Into::into))
    }

    /// Whether somebody listens there.
    pub fn is_up(&self) -> bool {
        self.connect().is_ok()
    }

    /// Sends a request without a body. An answer that says what is wrong is an answer; a server that says nothing for
    /// `patience`, before it or within, has given none. Whether it does what was asked is unknown then.
    pub fn ask(&self, method: &str, path: &str, patience: Duration) -> anyhow::Result<Answer> {
        if patience > SOON {
            // Nobody shall wait at length for a server that hangs.
            self.ask_now("GET", "/health", SOON)?;
        }
        self.ask_now(method, path, patience)
    }

    fn ask_now(&self, method: &str, path: &str, patience: Duration) -> anyhow::Result<Answer> {
        let unreachable = || {
            format!(
                "no server answers administrators at {}: is it running, and is this its admin address?",
                self.authority
            )
        };
        let tcp = Patient::new(self.connect().with_context(unreachable)?, patience)?;
        // By HTTP/1.0, so that a stream ends with its connection.
        let mut request = format!("{method} {path} HTTP/1.0\r\nhost: {}\r\ncontent-length: 0\r\n", self.authority);
        if let Some(token) = &self.token {
            request.push_str(&format!("x-admin-token: {token}\r\n"));
        }
        request.push_str("\r\n");
        let stream: Box<dyn ReadWrite> = match &self.tls {
            None => Box::new(tcp),
            Some(config) => {
                let name = rustls::pki_types::ServerName::try_from(self.host.clone()).context("the server's name")?;
                let client = rustls::ClientConnection::new(Arc::clone(config), name)?;
                Box::new(rustls::StreamOwned::new(client, tcp))
            }
        };
        exchange(stream, &request).with_context(|| format!("no answer from the server at {}", self.authority))
    }
}

/// A connection whose other side may be silent for so long.
struct Patient {
    tcp: TcpStream,
    patience: Duration,
}

impl Patient {
    fn new(tcp: TcpStream, patience: Duration) -> io::Result<Self> {
        tcp.set_read_timeout(Some(patience))?;
        tcp.set_write_timeout(Some(patience))?;
        Ok(Self { tcp, patience })
    }

    fn told<T>(&self, done: io::Result<T>) -> io::Result<T> {
        done.map_err(|cause| match cause.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                let text = format!(
                    "it has said nothing for {:?}: it hangs, or is still at work, and what was asked may have been done",
                    self.patience
                );
                io::Error::new(io::ErrorKind::TimedOut, text)
            }
            _ => cause,
        })
    }
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let done = self.tcp.read(buffer);
        self.told(done)
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let done = self.tcp.write(bytes);
        self.told(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
    }
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

fn exchange(mut stream: Box<dyn ReadWrite>, request: &str) -> anyhow::Result<Answer> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut body = BufReader::new(stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if body.by_ref().take(HEAD_BYTES_MAX - head.len() as u64).read_until(b'\n', &mut head)? == 0 {
            bail!("its answer is not HTTP");
        }
    }
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    response.parse(&head).context("its answer is not HTTP")?;
    let status = response.code.context("its answer has no status")?;
    let length = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|field| std::str::from_utf8(field.value).ok()?.parse::<u64>().ok());
    let body: Box<dyn BufRead> = match length {
        Some(length) => Box::new(body.take(length)),
        None => Box::new(body),
    };
    Ok(Answer { status, body })
}

impl Answer {
    /// The whole body, which must be a JSON object: whoever answers anything else is not our server, or did not finish. An
    /// answer of 400 and above is an error with the server's own words.
    pub fn json(mut self) -> anyhow::Result<serde_json::Value> {
        let mut text = String::new();
        self.body.read_to_string(&mut text).context("the answer broke off")?;
        let value: Option<serde_json::Value> = serde_json::from_str(&text).ok().filter(serde_json::Value::is_object);
        if self.status >= 400 {
            let words = value.as_ref().and_then(|value| value.get("error")).and_then(serde_json::Value::as_str);
            bail!("the server answered {}: {}", self.status, words.unwrap_or(&text));
        }
        value.with_context(|| {
            format!("what answered {} is no answer to an administrator: is this the admin address?", self.status)
        })
    }

    /// The next line of a stream of JSON; None at its end. Call `refused` first.
    pub fn next_line(&mut self) -> anyhow::Result<Option<serde_json::Value>> {
        let mut line = String::new();
        if self.body.read_line(&mut line).context("the stream broke off")? == 0 {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&line).context("the stream holds something that is not JSON")?))
    }

    /// An answer of 400 and above as an error, otherwise the answer.
    pub fn refused(self) -> anyhow::Result<Self> {
        if self.status < 400 { Ok(self) } else { Err(self.json().expect_err("an answer of 400 and above is an error")) }
    }
}

/// A name or value in a path or query.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(address: &str, want: Result<(&str, u16, bool), &str>) {
        match (Server::at(address, None, None), want) {
            (Ok(got), Ok(want)) => assert_eq!((got.host.as_str(), got.port, got.tls.is_some()), want, "{address}"),
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{address}: {error}"),
            (got, want) => panic!("{address}: {want:?} was wanted, refused: {:?}", got.err()),
        }
    }

    #[test]
    fn only_an_object_of_json_is_an_answer() {
        let json = |status, text: &'static str| Answer { status, body: Box::new(text.as_bytes()) }.json();
        assert_eq!(json(200, r#"{"depth": 0}"#).unwrap()["depth"], 0);
        // Another server's page, a redirect, an answer that broke off.
        for (status, text) in [(200, "<html></html>"), (302, ""), (200, r#"{"depth": 0, "it"#), (200, "[]"), (200, "")]
        {
            assert!(json(status, text).unwrap_err().to_string().contains("admin address"), "{status} {text}");
        }
        for (status, text, want) in
            [(409, r#"{"error": "busy"}"#, "409: busy"), (502, "Bad Gateway", "502: Bad Gateway")]
        {
            assert!(json(status, text).unwrap_err().to_string().contains(want), "{status} {text}");
        }
    }

    #[test]
    fn addresses() {
        check("127.0.0.1:9001", Ok(("127.0.0.1", 9001, false)));
        check("http://admin.example", Ok(("admin.example", 80, false)));
        check("http://[::1]:9001/", Ok(("::1", 9001, false)));
        check("[::1]", Ok(("::1", 80, false)));
        check("ftp://x", Err("use http or https"));
        check("host:port", Err("not a port"));
        check("http://", Err("not an address"));
        check("a/b", Err("not an address"));
        assert_eq!(reachable("0.0.0.0:9001".parse().unwrap()).to_string(), "127.0.0.1:9001");
        assert_eq!(quoted("a/b ä~"), "a%2Fb%20%C3%A4~");
    }

    /// The error of a command whose server says this and no more, and keeps the connection.
    fn asked_of_one_that_says(text: &'static str) -> String {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("bound").to_string();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let serving = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("it comes");
            client.write_all(text.as_bytes()).expect("taken");
            let _ = wait.recv();
        });
        let server = Server::at(&address, None, None).expect("an address");
        let asked = server.ask("GET", "/admin/api/status", Duration::from_millis(50));
        let error = asked.and_then(Answer::json).expect_err("no answer is complete");
        drop(done);
        serving.join().expect("it ends");
        format!("{error:#}")
    }

    #[test]
    fn a_server_that_falls_silent_is_not_waited_for_without_end() {
        for text in
            ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", "HTTP/1.0 200 OK\r\n\r\n{"]
        {
            let error = asked_of_one_that_says(text);
            assert!(error.contains("it has said nothing for 50ms"), "{text:?}: {error}");
        }
    }
}
