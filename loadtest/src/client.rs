//! A blocking S3 client over one keep-alive connection: as little machinery as a load generator can do with.

use crate::body;
use crate::sign::{Kept, Line, Signer};
use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::digest;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Bodies up to this size are sent with their SHA-256, as SDKs do over HTTP; larger ones as `UNSIGNED-PAYLOAD`.
const HASHED_BYTES_MAX: u64 = 1024 * 1024;
/// No answer for so long is an error.
const SILENCE_MAX: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct Target {
    /// `host:port`.
    pub address: String,
    pub bucket: String,
    pub signer: Signer,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    Put,
    Get,
    Head,
    List,
    Delete,
}

impl Verb {
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
        }
    }

    fn method(self) -> &'static str {
        match self {
            Self::Put => "PUT",
            Self::Get | Self::List => "GET",
            Self::Head => "HEAD",
            Self::Delete => "DELETE",
        }
    }
}

pub struct Client {
    target: Target,
    stream: Option<TcpStream>,
    kept: Kept,
    head: Vec<u8>,
    input: Vec<u8>,
}

struct Answer {
    status: u16,
    length: u64,
    close: bool,
    /// Body bytes that came with the head.
    early: std::ops::Range<usize>,
}

impl Client {
    pub fn new(target: Target) -> Self {
        Self { target, stream: None, kept: Kept::default(), head: Vec::new(), input: vec![0; 256 * 1024] }
    }

    /// One operation; the body bytes that it moved. After an error the connection is closed and made anew.
    pub fn perform(&mut self, verb: Verb, key: &str, seed: u64, size: u64, verify: bool) -> Result<u64> {
        let outcome = self.exchange(verb, key, seed, size, verify);
        if outcome.is_err() {
            self.stream = None;
        }
        outcome
    }

    fn exchange(&mut self, verb: Verb, key: &str, seed: u64, size: u64, verify: bool) -> Result<u64> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(&self.target.address).context("connect")?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(SILENCE_MAX))?;
            stream.set_write_timeout(Some(SILENCE_MAX))?;
            self.stream = Some(stream);
        }
        let sent = self.send(verb, key, seed, size)?;
        let answer = self.read_head(verb)?;
        if !(200..300).contains(&answer.status) {
            let text = self.read_error(&answer)?;
            bail!("status {} {}", answer.status, code_of(&text));
        }
        let got = match verb {
            Verb::Get => self.read_body(&answer, |at, bytes| !verify || body::matches(seed, at, bytes))?,
            Verb::Head | Verb::Delete => 0,
            Verb::Put | Verb::List => self.read_body(&answer, |_, _| true)?,
        };
        if verify && verb == Verb::Get {
            ensure!(got == size, "body of {got} bytes, expected {size}");
        }
        if answer.close {
            self.stream = None;
        }
        Ok(if verb == Verb::Put { sent } else { got })
    }

    fn send(&mut self, verb: Verb, key: &str, seed: u64, size: u64) -> Result<u64> {
        let length = if verb == Verb::Put { size } else { 0 };
        let small = (length <= HASHED_BYTES_MAX).then(|| body::whole(seed, length as usize));
        let hash = small.as_ref().map(|bytes| digest::digest(&digest::SHA256, bytes));
        let hash = hash.as_ref().map(|hash| <[u8; 32]>::try_from(hash.as_ref()).expect("SHA-256 has 32 bytes"));
        let (path, query) = match verb {
            Verb::List => (format!("/{}", self.target.bucket), "list-type=2&max-keys=1000"),
            _ => (format!("/{}/{key}", self.target.bucket), ""),
        };
        self.head.clear();
        write!(self.head, "{} {path}", verb.method())?;
        if !query.is_empty() {
            write!(self.head, "?{query}")?;
        }
        write!(self.head, " HTTP/1.1\r\nHost: {}\r\n", self.target.address)?;
        if verb == Verb::Put {
            write!(self.head, "Content-Length: {length}\r\n")?;
        }
        let line = Line { method: verb.method(), path: &path, query, host: &self.target.address };
        self.target.signer.sign(&mut self.kept, &mut self.head, &line, hash);
        self.head.extend_from_slice(b"\r\n");
        let stream = self.stream.as_mut().expect("connected above");
        if let Some(bytes) = small {
            self.head.extend_from_slice(&bytes);
            stream.write_all(&self.head).context("send")?;
        } else {
            stream.write_all(&self.head).context("send")?;
            let (mut at, mut scratch) = (0, [0; 8]);
            while at < length {
                let piece = body::window(seed, at, (length - at).min(256 * 1024) as usize, &mut scratch);
                stream.write_all(piece).context("send body")?;
                at += piece.len() as u64;
            }
        }
        Ok(length)
    }

    fn read_head(&mut self, verb: Verb) -> Result<Answer> {
        let stream = self.stream.as_mut().expect("connected above");
        let mut held = 0;
        loop {
            let n = stream.read(&mut self.input[held..]).context("read")?;
            ensure!(n > 0, "connection closed before an answer");
            held += n;
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut response = httparse::Response::new(&mut fields);
            let httparse::Status::Complete(used) = response.parse(&self.input[..held])? else { continue };
            let field = |name: &str| {
                let found = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
                found.and_then(|field| std::str::from_utf8(field.value).ok())
            };
            let status = response.code.unwrap_or(0);
            let no_body = verb == Verb::Head || status == 204 || status == 304;
            let length = if no_body { 0 } else { field("content-length").and_then(|n| n.parse().ok()).unwrap_or(0) };
            let close = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
            return Ok(Answer { status, length, close, early: used..held });
        }
    }

    /// Reads the answer's body, checking each piece with `right`.
    fn read_body(&mut self, answer: &Answer, mut right: impl FnMut(u64, &[u8]) -> bool) -> Result<u64> {
        let stream = self.stream.as_mut().expect("connected above");
        let mut at = answer.early.len() as u64;
        ensure!(at <= answer.length, "more bytes than announced");
        ensure!(right(0, &self.input[answer.early.clone()]), "wrong bytes at offset 0");
        while at < answer.length {
            let want = (answer.length - at).min(self.input.len() as u64) as usize;
            let n = stream.read(&mut self.input[..want]).context("read body")?;
            ensure!(n > 0, "body cut after {at} of {} bytes", answer.length);
            ensure!(right(at, &self.input[..n]), "wrong bytes at offset {at}");
            at += n as u64;
        }
        Ok(at)
    }

    fn read_error(&mut self, answer: &Answer) -> Result<String> {
        let mut text = String::from_utf8_lossy(&self.input[answer.early.clone()]).into_owned();
        let mut left = answer.length.saturating_sub(answer.early.len() as u64).min(64 * 1024) as usize;
        while left > 0 {
            let n = self.stream.as_mut().expect("connected above").read(&mut self.input[..left])?;
            ensure!(n > 0, "error answer cut");
            text.push_str(&String::from_utf8_lossy(&self.input[..n]));
            left -= n;
        }
        if answer.close {
            self.stream = None;
        }
        Ok(text)
    }
}

/// What stands between `<Code>` and `</Code>`.
fn code_of(xml: &str) -> &str {
    let after = xml.split_once("<Code>").map_or("", |(_, after)| after);
    after.split_once("</Code>").map_or("", |(code, _)| code)
}
