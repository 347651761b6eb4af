//! One keep-alive HTTP/1.1 connection: as little machinery as a load generator can do with. Called by `client`, which says
//! what the bytes mean. Answers come with Content-Length; a chunked one is an error, never an empty body.

use crate::socket;
use anyhow::{Context, Result, ensure};
use std::io;
use std::ops::Range;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// No progress for so long is an error.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const INPUT_BYTES: usize = 256 * 1024;
/// An error answer or a page that is longer than this is not one.
const TEXT_BYTES_MAX: u64 = 16 * 1024 * 1024;

pub(crate) struct Wire {
    /// `host:port`.
    address: String,
    stream: Option<TcpStream>,
    input: Vec<u8>,
}

/// The head of an answer; its body is still to be read.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) etag: String,
    pub(crate) length: u64,
    close: bool,
    /// Body bytes that came with the head.
    early: Range<usize>,
}

impl Wire {
    pub(crate) fn new(address: String) -> Self {
        Self { address, stream: None, input: vec![0; INPUT_BYTES] }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Closes the connection; the next request makes a new one.
    pub(crate) fn close(&mut self) {
        self.stream = None;
    }

    /// Connects if there is no connection.
    pub(crate) async fn open(&mut self) -> Result<()> {
        if self.stream.is_none() {
            let stream = socket::connect(&self.address).await.context("connect")?;
            stream.set_nodelay(true)?;
            self.stream = Some(stream);
        }
        Ok(())
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let stream = self.stream.as_mut().context("no connection")?;
        let mut left = bytes;
        while !left.is_empty() {
            let n = in_time(stream.write(left)).await.context("send")?;
            ensure!(n > 0, "the connection takes no more");
            left = &left[n..];
        }
        Ok(())
    }

    /// `is_head`: the answer to a HEAD has no body, whatever length it tells.
    pub(crate) async fn read_head(&mut self, is_head: bool) -> Result<Answer> {
        let stream = self.stream.as_mut().context("no connection")?;
        let mut held = 0;
        loop {
            let n = in_time(stream.read(&mut self.input[held..])).await.context("read")?;
            ensure!(n > 0, "connection closed before an answer");
            held += n;
            if let Some((mut answer, used)) = parse(&self.input[..held])? {
                if is_head || answer.status == 204 || answer.status == 304 {
                    answer.length = 0;
                }
                answer.early = used..held;
                ensure!(answer.early.len() as u64 <= answer.length, "more bytes than announced");
                return Ok(answer);
            }
            ensure!(held < self.input.len(), "an answer's head of more than {held} bytes");
        }
    }

    /// Reads the answer's body; `right` says of each piece, with its offset, whether it is what it should be.
    pub(crate) async fn read_body(
        &mut self,
        answer: &Answer,
        mut right: impl FnMut(u64, &[u8]) -> bool,
    ) -> Result<u64> {
        let stream = self.stream.as_mut().context("no connection")?;
        let mut at = answer.early.len() as u64;
        ensure!(right(0, &self.input[answer.early.clone()]), "wrong bytes at offset 0");
        while at < answer.length {
            let want = (answer.length - at).min(self.input.len() as u64) as usize;
            let n = in_time(stream.read(&mut self.input[..want])).await.context("in a body")?;
            ensure!(n > 0, "body cut after {at} of {} bytes", answer.length);
            ensure!(right(at, &self.input[..n]), "wrong bytes at offset {at}");
            at += n as u64;
        }
        if answer.close {
            self.stream = None;
        }
        Ok(at)
    }

    pub(crate) async fn read_text(&mut self, answer: &Answer) -> Result<String> {
        ensure!(answer.length <= TEXT_BYTES_MAX, "a text of {} bytes", answer.length);
        let mut text = Vec::new();
        self.read_body(answer, |_, piece| {
            text.extend_from_slice(piece);
            true
        })
        .await?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// An error if nothing has moved for too long.
async fn in_time(transfer: impl Future<Output = io::Result<usize>>) -> io::Result<usize> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no progress within {SILENCE_MAX:?}"));
    tokio::time::timeout(SILENCE_MAX, transfer).await.map_err(late)?
}

/// The head at the start of `bytes` and its length; None while it is not complete.
fn parse(bytes: &[u8]) -> Result<Option<(Answer, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(used) = response.parse(bytes)? else { return Ok(None) };
    let field = |name: &str| {
        let found = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        found.and_then(|field| std::str::from_utf8(field.value).ok())
    };
    let status = response.code.unwrap_or(0);
    ensure!(field("transfer-encoding").is_none(), "an answer in chunks, which this client cannot read");
    let length = match field("content-length") {
        Some(digits) => digits.parse().with_context(|| format!("content-length {digits:?}"))?,
        None => 0,
    };
    let answer = Answer {
        status,
        etag: field("etag").unwrap_or("").trim_matches('"').to_owned(),
        length,
        close: field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
        early: 0..0,
    };
    Ok(Some((answer, used)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    /// What a server that answers `reply` and closes makes the client see: status and body, or the error's text.
    fn check(reply: &'static str, want: Result<(u16, &str), &str>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the client comes");
            stream.write_all(reply.as_bytes()).expect("the client reads");
        });
        let got: Result<(u16, String)> = crate::cores::event_loop().block_on(async {
            let mut wire = Wire::new(address);
            wire.open().await.expect("the server listens");
            server.join().expect("no panic");
            let answer = wire.read_head(false).await?;
            Ok((answer.status, wire.read_text(&answer).await?))
        });
        match (got, want) {
            (Ok((status, text)), Ok(want)) => assert_eq!((status, text.as_str()), want, "{reply:?}"),
            (Err(error), Err(want)) => assert!(format!("{error:#}").contains(want), "{reply:?}: {error:#}"),
            (got, want) => panic!("{reply:?}: {got:?}, expected {want:?}"),
        }
    }

    #[test]
    fn answers() {
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", Ok((200, "hi")));
        check("HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n", Ok((204, "")));
        check("HTTP/1.1 404 Not Found\r\n\r\n", Ok((404, "")));
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi", Err("body cut after 2 of 3 bytes"));
        check("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nhi", Err("more bytes than announced"));
        check("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", Err("content-length"));
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Err("an answer in chunks"));
        check("HTTP/1.1 200", Err("closed before an answer"));
        check("", Err("closed before an answer"));
    }
}
