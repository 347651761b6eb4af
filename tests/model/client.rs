//! A blocking S3 client on one keep-alive connection, signing with the product's signer (which is compared with others'
//! elsewhere). It never retries and never interprets.

use super::server::{ACCESS_KEY, SECRET};
use super::sums::Kind;
use s3_orchestrator::base::{Secret, Timestamp};
use s3_orchestrator::proto::aws_chunked::{Encoder, Form};
use s3_orchestrator::proto::checksum::{Algorithm, Checksum};
use s3_orchestrator::proto::sigv4::{PayloadMode, Request, Signer, Target};
use s3_orchestrator::proto::target::encode_percent;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One request, its names and values as they are meant.
#[derive(Clone, Default, Debug)]
pub struct Ask {
    pub method: &'static str,
    pub bucket: String,
    pub key: String,
    pub query: Vec<(&'static str, String)>,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    pub framing: Framing,
    /// Whether it goes without a signature of its own.
    pub anonymous: bool,
}

/// How the body is framed; the trailer is a checksum, in base64.
#[derive(Clone, Default, Debug)]
pub enum Framing {
    #[default]
    Plain,
    Signed,
    SignedTrailer(Kind, String),
    UnsignedTrailer(Kind, String),
}

impl Framing {
    fn payload(&self) -> PayloadMode {
        match self {
            Self::Plain => PayloadMode::Unsigned,
            Self::Signed => PayloadMode::StreamingSigned { trailer: false },
            Self::SignedTrailer(..) => PayloadMode::StreamingSigned { trailer: true },
            Self::UnsignedTrailer(..) => PayloadMode::StreamingUnsignedTrailer,
        }
    }

    fn trailer(&self) -> Option<(Kind, &str)> {
        match self {
            Self::Plain | Self::Signed => None,
            Self::SignedTrailer(kind, value) | Self::UnsignedTrailer(kind, value) => Some((*kind, value)),
        }
    }
}

fn algorithm(kind: Kind) -> Algorithm {
    Algorithm::parse(kind.name()).expect("a kind that S3 knows")
}

#[derive(Clone)]
pub struct Reply {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start = &self.body[..self.body.len().min(400)];
        write!(f, "{} {:?} {}", self.status, self.headers, String::from_utf8_lossy(start))
    }
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} stands twice");
        value
    }

    /// Names, without their prefix, and values.
    pub fn headers_below(&self, prefix: &str) -> Vec<(String, String)> {
        let below = self.headers.iter().filter_map(|(name, value)| {
            let name = name.to_ascii_lowercase();
            name.strip_prefix(prefix).map(|rest| (rest.to_owned(), value.clone()))
        });
        let mut found: Vec<_> = below.collect();
        found.sort();
        found
    }

    pub fn etag(&self) -> Option<&str> {
        self.header("etag").map(|etag| etag.trim_matches('"'))
    }
}

/// Of the bytes of a framed body, but for the last one.
const CHUNK_BYTES: usize = 20_000;

/// A body so long is sent only when it is asked for: a refusal may end the connection before it is through.
const EXPECT_BYTES_MIN: usize = 1 << 20;

pub struct Client {
    address: SocketAddr,
    stream: Option<TcpStream>,
    signer: Signer,
    secret: Secret,
    input: Vec<u8>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, stream: None, signer: Signer::new(), secret: Secret::new(SECRET), input: Vec::new() }
    }

    pub fn ask(&mut self, ask: &Ask) -> Reply {
        let (head, body) = self.request(ask);
        let expects = ask.body.len() >= EXPECT_BYTES_MIN;
        self.send(&head);
        if !expects {
            self.send(&body);
        }
        let mut reply = self.reply(ask.method == "HEAD");
        if reply.status == 100 {
            self.send(&body);
            reply = self.reply(false);
        } else if expects {
            // The body was not asked for, so the connection is of no more use.
            (self.stream, self.input) = (None, Vec::new());
        }
        if reply.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            self.stream = None;
            self.input.clear();
        }
        assert!(self.input.is_empty(), "{} {}: {} bytes after the answer", ask.method, ask.key, self.input.len());
        reply
    }

    fn send(&mut self, bytes: &[u8]) {
        let address = self.address;
        self.stream.get_or_insert_with(|| connect(address)).write_all(bytes).expect("the server reads");
    }

    /// Head and body as they go over the wire.
    fn request(&mut self, ask: &Ask) -> (Vec<u8>, Vec<u8>) {
        let (mut path, mut query) = (format!("/{}", ask.bucket), String::new());
        if !ask.key.is_empty() {
            path.push('/');
            encode_percent(ask.key.as_bytes(), true, &mut path);
        }
        for (name, value) in &ask.query {
            query.push_str(if query.is_empty() { "" } else { "&" });
            encode_percent(name.as_bytes(), false, &mut query);
            query.push('=');
            encode_percent(value.as_bytes(), false, &mut query);
        }
        let host = self.address.to_string();
        let mut fields: Vec<(&str, String)> = vec![("host", host)];
        let payload = ask.framing.payload();
        let trailer = ask.framing.trailer();
        // A dry run with any signer: how long a body is on the wire does not depend on it.
        let signing = Target { access_key: ACCESS_KEY, secret: &self.secret, region: "eu-central-1" };
        let dry =
            Form::of(payload, Some(Box::new(self.signer.chunk_signer(&signing, Timestamp::default(), [b'0'; 64]))));
        let length = dry.map_or(ask.body.len(), |form| framed(form, ask).len());
        fields.push(("content-length", length.to_string()));
        if payload.is_streaming() {
            fields.push(("x-amz-decoded-content-length", ask.body.len().to_string()));
            fields.push(("content-encoding", "aws-chunked".to_owned()));
        }
        fields.extend(trailer.map(|(kind, _)| ("x-amz-trailer", kind.header().to_owned())));
        if ask.body.len() >= EXPECT_BYTES_MIN {
            fields.push(("expect", "100-continue".to_owned()));
        }
        fields.extend(ask.headers.iter().cloned());
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let target = if query.is_empty() { path.clone() } else { format!("{path}?{query}") };
        let mut head = format!("{} {target} HTTP/1.1\r\n", ask.method).into_bytes();
        for (name, value) in &fields {
            write!(head, "{name}: {value}\r\n").expect("writing to memory");
        }
        let now = now();
        let mut seed = [0; 64];
        if !ask.anonymous {
            let request =
                Request { method: ask.method, path: path.as_bytes(), query: query.as_bytes(), headers: &*fields };
            seed = self.signer.sign_into(&mut head, &request, &signing, payload, now);
        }
        head.extend_from_slice(b"\r\n");
        let form = Form::of(payload, Some(Box::new(self.signer.chunk_signer(&signing, now, seed))));
        let body = form.map_or_else(|| ask.body.clone(), |form| framed(form, ask));
        (head, body)
    }

    fn reply(&mut self, to_head: bool) -> Reply {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut response = httparse::Response::new(&mut fields);
            if let httparse::Status::Complete(used) = response.parse(&self.input).expect("an HTTP answer") {
                let status = response.code.expect("a status");
                let text = |value: &[u8]| String::from_utf8(value.to_vec()).expect("a value in UTF-8");
                let headers = response.headers.iter().map(|field| (field.name.to_owned(), text(field.value))).collect();
                let mut reply = Reply { status, headers, body: Vec::new() };
                let length = reply.header("content-length").map_or(0, |value| value.parse().expect("a length"));
                let length = if to_head || matches!(status, 100 | 204 | 304) { 0 } else { length };
                self.input.drain(..used);
                while self.input.len() < length {
                    self.read_more();
                }
                reply.body = self.input.drain(..length).collect();
                return reply;
            }
            self.read_more();
        }
    }

    fn read_more(&mut self) {
        let mut piece = vec![0; 1 << 17];
        let count = self.stream.as_mut().expect("a request was sent").read(&mut piece).expect("an answer");
        assert!(count > 0, "the server closed before its answer was whole");
        self.input.extend_from_slice(&piece[..count]);
    }
}

fn framed(form: Form, ask: &Ask) -> Vec<u8> {
    let mut wire = Vec::with_capacity(ask.body.len() + 1_000);
    let mut encoder = Encoder::new(form);
    ask.body.chunks(CHUNK_BYTES).for_each(|chunk| encoder.chunk(&mut wire, chunk));
    let trailer = ask.framing.trailer();
    let trailer = trailer.and_then(|(kind, value)| Checksum::parse(algorithm(kind), value.as_bytes()));
    encoder.finish(&mut wire, trailer.as_ref());
    wire
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server listens");
    stream.set_nodelay(true).expect("a socket option");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket option");
    stream
}

#[allow(clippy::disallowed_methods)] // a client's clock is the wall's
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    Timestamp { millis: since.as_millis() as i64 }
}
