//! The bytes of one connection to the stub: heads and bodies in, answers out. Knows HTTP, and how aws-chunked frames a
//! body, but no S3.

use s3_orchestrator::proto::checksum::Algorithm;
use std::io;
use std::ops::Range;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const INPUT_BYTES: usize = 256 * 1024;

pub(super) struct Connection {
    pub(super) stream: TcpStream,
    input: Vec<u8>,
    /// Bytes of `input` that were read and not used yet.
    held: Range<usize>,
}

/// What the stub needs of a request's head.
pub(super) struct Head {
    pub(super) method: String,
    /// As on the wire.
    pub(super) path: String,
    query: String,
    /// Bytes of the body on the wire, and of what it carries.
    length: u64,
    pub(super) size: u64,
    is_chunked: bool,
    pub(super) sha256: Option<String>,
    pub(super) checksums: Vec<(Algorithm, String)>,
    /// First byte, and the last one if it is given.
    pub(super) range: Option<(u64, Option<u64>)>,
}

impl Head {
    /// The raw value of a query parameter; empty if it has none.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        let mut pairs = self.query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.find_map(|(key, value)| (key == name).then_some(value))
    }
}

impl Connection {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, input: vec![0; INPUT_BYTES], held: 0..0 }
    }

    /// The next request; None when the peer has closed.
    pub(super) async fn read_head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some((head, used)) = parse(&self.input[self.held.clone()])? {
                self.held.start += used;
                return Ok(Some(head));
            }
            if !self.read_more().await? {
                return Ok(None);
            }
        }
    }

    /// Reads the request's body, handing what it carries to `each` piece by piece.
    pub(super) async fn read_body(&mut self, head: &Head, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        if !head.is_chunked {
            return self.read_bytes(head.length, each).await;
        }
        let mut left = head.length;
        loop {
            let line = self.read_line().await?;
            let digits = line.split(';').next().unwrap_or("");
            let size = u64::from_str_radix(digits, 16).map_err(|_| bad(format!("chunk line {line:?}")))?;
            left = left.checked_sub(line.len() as u64 + 2).ok_or_else(|| bad("a chunk beyond the body".to_owned()))?;
            if size == 0 {
                // The trailers.
                return self.read_bytes(left, |_| ()).await;
            }
            left = left.checked_sub(size + 2).ok_or_else(|| bad("a chunk beyond the body".to_owned()))?;
            self.read_bytes(size, &mut each).await?;
            self.read_bytes(2, |_| ()).await?;
        }
    }

    /// Reads the body away; the seed that its first bytes say, 0 if it is too short for one.
    pub(super) async fn discard(&mut self, head: &Head) -> io::Result<u64> {
        let mut first = Vec::with_capacity(8);
        self.read_body(head, |piece| first.extend(piece.iter().take(8 - first.len()))).await?;
        Ok(first.try_into().map_or(0, u64::from_le_bytes))
    }

    pub(super) async fn reply(&mut self, status: u16, fields: &str, body: &[u8]) -> io::Result<()> {
        let length = body.len();
        let mut answer = if status == 204 {
            format!("HTTP/1.1 204 No Content\r\n{fields}\r\n")
        } else {
            format!("HTTP/1.1 {status} Status\r\n{fields}Content-Length: {length}\r\n\r\n")
        }
        .into_bytes();
        answer.extend_from_slice(body);
        self.stream.write_all(&answer).await
    }

    /// False when the peer has closed.
    async fn read_more(&mut self) -> io::Result<bool> {
        if self.held.start > 0 {
            self.input.copy_within(self.held.clone(), 0);
            self.held = 0..self.held.len();
        }
        if self.held.end == self.input.len() {
            return Err(bad("a head or line longer than the buffer".to_owned()));
        }
        let n = self.stream.read(&mut self.input[self.held.end..]).await?;
        self.held.end += n;
        Ok(n > 0)
    }

    async fn read_bytes(&mut self, mut left: u64, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        while left > 0 {
            if self.held.is_empty() {
                let n = self.stream.read(&mut self.input).await?;
                if n == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.held = 0..n;
            }
            let n = (self.held.len() as u64).min(left) as usize;
            each(&self.input[self.held.start..self.held.start + n]);
            self.held.start += n;
            left -= n as u64;
        }
        Ok(())
    }

    /// Without its CRLF.
    async fn read_line(&mut self) -> io::Result<String> {
        loop {
            let held = &self.input[self.held.clone()];
            if let Some(at) = held.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&held[..at]).into_owned();
                self.held.start += at + 2;
                return Ok(line);
            }
            if !self.read_more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// The head at the start of `bytes` and its length; None while it is not complete.
fn parse(bytes: &[u8]) -> io::Result<Option<(Head, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    let used = match request.parse(bytes).map_err(|error| bad(error.to_string()))? {
        httparse::Status::Complete(used) => used,
        httparse::Status::Partial => return Ok(None),
    };
    let target = request.path.unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut head = Head {
        method: request.method.unwrap_or("").to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        length: 0,
        size: 0,
        is_chunked: false,
        sha256: None,
        checksums: Vec::new(),
        range: None,
    };
    let mut decoded = None;
    for field in request.headers.iter() {
        let value = std::str::from_utf8(field.value).unwrap_or("");
        let number = || value.parse().map_err(|_| bad(format!("{}: {value}", field.name)));
        match field.name.to_ascii_lowercase().as_str() {
            "content-length" => head.length = number()?,
            "x-amz-decoded-content-length" => decoded = Some(number()?),
            "x-amz-content-sha256" => {
                head.is_chunked = value.starts_with("STREAMING-");
                head.sha256 = Some(value.to_owned());
            }
            "range" => {
                let span = value.strip_prefix("bytes=").and_then(|span| span.split_once('-'));
                head.range = span.and_then(|(from, last)| Some((from.parse().ok()?, last.parse().ok())));
            }
            name => {
                if let Some(algorithm) = Algorithm::from_header(name.as_bytes()) {
                    head.checksums.push((algorithm, value.to_owned()));
                }
            }
        }
    }
    head.size = decoded.filter(|_| head.is_chunked).unwrap_or(head.length);
    Ok(Some((head, used)))
}

fn bad(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
