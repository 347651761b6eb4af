//! A client's request head: found, checked for ambiguity, and read.
//!
//! Called by the connection for every request, and by the fuzz target. It never decides what a request means (that is
//! proto/operation.rs), only where it ends and how its body is delimited.

use super::fields::{BadHead, DeclaredLength, Header, Headers, find_end, list_holds};
use crate::base::limits::HEAD_FIELDS_MAX;
use crate::proto::error_code::S3Error;
use std::mem::MaybeUninit;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    Get,
    Head,
    Put,
    Post,
    Delete,
    Options,
    Patch,
    Trace,
    /// A well-formed word that names no method known here.
    Other,
}

impl Method {
    fn parse(word: &str) -> Self {
        match word {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "PUT" => Self::Put,
            "POST" => Self::Post,
            "DELETE" => Self::Delete,
            "OPTIONS" => Self::Options,
            "PATCH" => Self::Patch,
            "TRACE" => Self::Trace,
            _ => Self::Other,
        }
    }
}

/// How the body of a request is delimited (RFC 9112, 6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyFraming {
    /// Neither length nor transfer coding: no body.
    None,
    Length(u64),
    Chunked,
}

impl BodyFraming {
    pub fn is_empty(self) -> bool {
        matches!(self, Self::None | Self::Length(0))
    }
}

/// A head that is complete and unambiguous. Borrows the buffer that it was read into.
#[derive(Clone, Debug)]
pub struct RequestHead<'b> {
    pub method: Method,
    /// The method's word as sent, which the signature covers.
    pub method_word: &'b str,
    /// The target as sent: starts with `/`, holds no blank or control byte, is UTF-8.
    pub target: &'b str,
    /// The target up to its first `?`, and what follows it.
    pub path: &'b str,
    pub query: &'b str,
    pub http11: bool,
    pub framing: BodyFraming,
    /// Whether another request may follow. Never after HTTP/1.0.
    pub keep_alive: bool,
    /// The client sends its body, which may be empty, only after `100 Continue`. Other expectations are ignored, as S3 does.
    pub expects_continue: bool,
    /// Bytes up to the body, with the empty line.
    pub head_len: usize,
    pub headers: Headers<'b>,
}

impl<'b> RequestHead<'b> {
    /// None while the head is not complete. `scanned`: 0 for a new head, then kept between calls as more bytes come in.
    pub fn parse(bytes: &'b [u8], scanned: &mut usize) -> Result<Option<Self>, BadHead> {
        let Some(head_len) = find_end(bytes, scanned)? else { return Ok(None) };
        let head = &bytes[..head_len];
        let mut fields = [const { MaybeUninit::uninit() }; HEAD_FIELDS_MAX];
        let mut request = httparse::Request::new(&mut []);
        let parsed = request.parse_with_uninit_headers(head, &mut fields);
        match parsed.map_err(|error| BadHead::from_parser(error, || ends_in_version(head)))? {
            httparse::Status::Complete(used) if used == head_len => {}
            // The parsers disagree about where the head ends: a folded line or the like.
            _ => return Err(BadHead::MalformedField),
        }
        let (Some(method_word), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
            return Err(BadHead::MalformedFirstLine);
        };
        if method_word == "CONNECT" {
            return Err(BadHead::Connect);
        }
        if !target.starts_with('/') {
            return Err(BadHead::TargetForm);
        }
        let (path, query) = match memchr::memchr(b'?', target.as_bytes()) {
            Some(at) => (&target[..at], &target[at + 1..]),
            None => (target, ""),
        };
        let headers = Headers::new(head, request.headers);
        let http11 = minor == 1;
        let framing = match DeclaredLength::of(&headers, http11)? {
            DeclaredLength::Nothing => BodyFraming::None,
            DeclaredLength::Length(bytes) => BodyFraming::Length(bytes),
            DeclaredLength::Chunked => BodyFraming::Chunked,
        };
        check_host(&headers, http11)?;
        let expects_continue = http11 && list_holds(&headers, "expect", "100-continue");
        Ok(Some(Self {
            method: Method::parse(method_word),
            method_word,
            target,
            path,
            query,
            http11,
            framing,
            keep_alive: http11 && !list_holds(&headers, "connection", "close"),
            expects_continue,
            head_len,
            headers,
        }))
    }

    /// Value of the first field of this name.
    #[inline]
    pub fn header(&self, name: &str) -> Option<&'b [u8]> {
        self.headers.first(name)
    }

    /// As `header`, for values that must be text. InvalidArgument when it is not UTF-8.
    pub fn header_text(&self, name: &str) -> Result<Option<&'b str>, S3Error> {
        self.headers.text(name)
    }

    pub fn headers(&self) -> impl Iterator<Item = Header<'b>> + '_ {
        self.headers.iter()
    }

    pub fn header_count(&self, name: &str) -> usize {
        self.headers.count_of(name)
    }
}

/// Method and path that a head which was refused, or is not whole, seems to ask for, to be named in its answer; empty where
/// they cannot be told.
pub fn asked_for(head: &[u8]) -> (&str, &str) {
    fn text(word: Option<&[u8]>) -> &str {
        let visible = word.filter(|word| word.iter().all(u8::is_ascii_graphic));
        visible.and_then(|word| std::str::from_utf8(word).ok()).unwrap_or_default()
    }
    let mut words = head.split(|&b| matches!(b, b' ' | b'\r' | b'\n'));
    let (method, target) = (text(words.next()), text(words.next()));
    let path = target.split('?').next().filter(|path| path.starts_with('/'));
    (method, path.unwrap_or_default())
}

/// Whether the first line has three words, the last of which is a version.
fn ends_in_version(head: &[u8]) -> bool {
    let line = head.trim_ascii_start().split(|&b| b == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&b| b == b' ').skip(2);
    words.next().is_some_and(|word| word.starts_with(b"HTTP/")) && words.next().is_none()
}

/// RFC 9112, 3.2: exactly one Host in HTTP/1.1. It enters the signature, so it must be nothing but a host and a port.
fn check_host(headers: &Headers<'_>, http11: bool) -> Result<(), BadHead> {
    let mut hosts = headers.all("host");
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(BadHead::Host);
    }
    let is_host = |host: &[u8]| host.iter().fold(!host.is_empty(), |all, &byte| all & HOST_BYTES[usize::from(byte)]);
    match host {
        None if http11 => Err(BadHead::Host),
        None => Ok(()),
        Some(host) if is_host(host) => Ok(()),
        Some(_) => Err(BadHead::Host),
    }
}

/// The bytes of a host and a port (RFC 3986, 3.2).
const HOST_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let bytes = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~%!$&'()*+,;=:[]";
    let mut at = 0;
    while at < bytes.len() {
        table[bytes[at] as usize] = true;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::HEAD_BYTES_MAX;
    use crate::proto::error_code::ErrorCode;

    fn parse(text: &str) -> Result<Option<RequestHead<'_>>, BadHead> {
        RequestHead::parse(text.as_bytes(), &mut 0)
    }

    fn good(text: &str) -> RequestHead<'_> {
        match parse(text) {
            Ok(Some(head)) => head,
            other => panic!("{text:?} gave {other:?}"),
        }
    }

    fn refused(text: &str, want: BadHead) {
        assert_eq!(parse(text).map(|_| ()), Err(want), "{text:?}");
    }

    #[test]
    fn refused_heads_are_named_as_far_as_they_can_be() {
        for (text, want) in [
            ("HEAD /a/b?X-Amz-Signature=s HTTP/2.0\r\n", ("HEAD", "/a/b")),
            ("GET /a", ("GET", "/a")),
            ("GET http://x/a HTTP/1.1\r\n", ("GET", "")),
            ("\u{16}\u{3}\u{1}", ("", "")),
            ("GET /\u{fc} HTTP/1.1", ("GET", "")),
            ("", ("", "")),
        ] {
            assert_eq!(asked_for(text.as_bytes()), want, "{text:?}");
        }
    }

    #[test]
    fn a_plain_request_is_read() {
        let text = "PUT /photos/a%20b?x-id=PutObject HTTP/1.1\r\nHost: s3.local:9000\r\nContent-Length: 12\r\n\
                    X-Amz-Meta-Note:  two  words \t\r\nEmpty:\r\nx-amz-meta-note: again\r\n\r\nbody";
        let head = good(text);
        assert_eq!((head.method, head.method_word), (Method::Put, "PUT"));
        assert_eq!(head.target, "/photos/a%20b?x-id=PutObject");
        assert_eq!((head.path, head.query), ("/photos/a%20b", "x-id=PutObject"));
        assert_eq!(head.framing, BodyFraming::Length(12));
        assert!(head.keep_alive && !head.expects_continue && head.http11);
        assert_eq!(&text[head.head_len..], "body");
        assert_eq!(head.header("x-amz-META-note"), Some(&b"two  words"[..]));
        assert_eq!(head.header_count("x-amz-meta-note"), 2);
        assert_eq!(head.header("empty"), Some(&b""[..]));
        assert_eq!(head.header("absent"), None);
        let names: Vec<&str> = head.headers().map(|h| h.name).collect();
        assert_eq!(names, ["Host", "Content-Length", "X-Amz-Meta-Note", "Empty", "x-amz-meta-note"]);
    }

    #[test]
    fn a_head_may_come_in_pieces() {
        let text = "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut scanned = 0;
        for end in 0..text.len() {
            let outcome = RequestHead::parse(&text.as_bytes()[..end], &mut scanned);
            assert!(matches!(outcome, Ok(None)), "after {end} bytes: {outcome:?}");
        }
        let head = RequestHead::parse(text.as_bytes(), &mut scanned).expect("it is well-formed").expect("and whole");
        assert_eq!((head.head_len, head.target, head.path, head.query), (text.len(), "/", "/", ""));
    }

    #[test]
    fn pipelined_requests_are_told_apart() {
        let one = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
        let both = format!("{one}GET /b HTTP/1.1\r\nHost: a\r\n\r\n");
        let first = good(&both);
        assert_eq!(first.head_len, one.len());
        assert_eq!(good(&both[first.head_len..]).target, "/b");
    }

    #[test]
    fn bodies_are_delimited_one_way_only() {
        let framing = |fields: &str| good_fields(fields).framing;
        fn good_fields(fields: &str) -> RequestHead<'static> {
            good(Box::leak(format!("PUT /b/k HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_boxed_str()))
        }
        assert_eq!(framing(""), BodyFraming::None);
        assert_eq!(framing("content-LENGTH: 0\r\n"), BodyFraming::Length(0));
        assert_eq!(framing("Content-Length: 9999999999999999999\r\n"), BodyFraming::Length(9_999_999_999_999_999_999));
        assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), BodyFraming::Chunked);
        assert_eq!(framing("Upgrade: websocket\r\nConnection: upgrade\r\n"), BodyFraming::None);
        for (fields, want) in [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", BadHead::LengthAndTransfer),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", BadHead::LengthAndTransfer),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", BadHead::Length),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", BadHead::Length),
            ("Content-Length: 5, 5\r\n", BadHead::Length),
            ("Content-Length: +5\r\n", BadHead::Length),
            ("Content-Length: -1\r\n", BadHead::Length),
            ("Content-Length: 0x5\r\n", BadHead::Length),
            ("Content-Length: 5 5\r\n", BadHead::Length),
            ("Content-Length:\r\n", BadHead::Length),
            ("Content-Length: 18446744073709551616\r\n", BadHead::Length),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", BadHead::Transfer),
            ("Transfer-Encoding: gzip, chunked\r\n", BadHead::TransferCoding),
            ("Transfer-Encoding: chunked, chunked\r\n", BadHead::TransferCoding),
            ("Transfer-Encoding: identity\r\n", BadHead::TransferCoding),
            ("Transfer-Encoding: xchunked\r\n", BadHead::TransferCoding),
            ("Transfer-Encoding: \"chunked\"\r\n", BadHead::TransferCoding),
            ("Transfer-Encoding:\r\n", BadHead::TransferCoding),
        ] {
            refused(&format!("PUT /b/k HTTP/1.1\r\nHost: a\r\n{fields}\r\n"), want);
        }
        refused("PUT /b/k HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", BadHead::Transfer);
    }

    #[test]
    fn malformed_lines_are_refused() {
        for (text, want) in [
            ("GET / HTTP/1.1\nHost: a\n\n", BadHead::BareLineFeed),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", BadHead::BareLineFeed),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: y\n", BadHead::BareLineFeed),
            ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", BadHead::MalformedFirstLine),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", BadHead::MalformedField),
            ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", BadHead::MalformedField),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", BadHead::MalformedField),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\n", BadHead::MalformedField),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length\r\n\r\n", BadHead::MalformedField),
            ("GET / HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n", BadHead::MalformedField),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", BadHead::MalformedField),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: a\x07b\r\n\r\n", BadHead::MalformedField),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n", BadHead::MalformedField),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", BadHead::MalformedField),
            ("GET / HTTP/1.1\r\nHost: a\r\nX(y): b\r\n\r\n", BadHead::MalformedField),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", BadHead::MalformedFirstLine),
            ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", BadHead::MalformedFirstLine),
            ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", BadHead::MalformedFirstLine),
            ("GET /\r\nHost: a\r\n\r\n", BadHead::MalformedFirstLine),
            ("G@T / HTTP/1.1\r\nHost: a\r\n\r\n", BadHead::MalformedFirstLine),
            ("\x16\x03\x01\x02", BadHead::MalformedFirstLine),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", BadHead::Version),
            ("PRI * HTTP/2.0\r\n\r\n", BadHead::Version),
            ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", BadHead::Version),
            ("GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n", BadHead::TargetForm),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", BadHead::TargetForm),
            ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", BadHead::TargetForm),
            ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", BadHead::Connect),
        ] {
            refused(text, want);
        }
    }

    #[test]
    fn exactly_one_host() {
        for (fields, want) in [
            ("", false),
            ("Host:\r\n", false),
            ("Host: a\r\nhost: a\r\n", false),
            ("Host: a b\r\n", false),
            ("Host: a/b\r\n", false),
            ("Host: user@a\r\n", false),
            ("Host: a\r\n", true),
            ("Host: [::1]:9000\r\n", true),
            ("Host: photos.s3.example.com:443\r\n", true),
        ] {
            let text = format!("GET / HTTP/1.1\r\n{fields}\r\n");
            assert_eq!(parse(&text).is_ok(), want, "{fields:?}");
        }
        assert!(!good("GET /health HTTP/1.0\r\n\r\n").keep_alive, "HTTP/1.0 needs no Host and ends after the answer");
    }

    #[test]
    fn connections_end_when_told() {
        let keeps = |connection: &str| {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{connection}\r\n");
            parse(&text).expect("well-formed").expect("complete").keep_alive
        };
        assert!(keeps("") && keeps("Connection: keep-alive\r\n") && keeps("Connection: upgrade\r\n"));
        assert!(!keeps("Connection: Close\r\n") && !keeps("Connection: te, close\r\n"));
        assert!(!keeps("Connection: te\r\nConnection: close\r\n"));
    }

    #[test]
    fn expectations() {
        let text = |fields: &str| format!("PUT /b/k HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let expects = |fields: &str| parse(&text(fields)).map(|head| head.expect("complete").expects_continue);
        assert_eq!(expects("Content-Length: 5\r\nExpect: 100-Continue\r\n"), Ok(true));
        assert_eq!(expects("Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n"), Ok(true));
        assert_eq!(expects("Content-Length: 0\r\nExpect: 100-continue\r\n"), Ok(true), "it waits all the same");
        assert_eq!(expects("Expect: 100-continue, more\r\n"), Ok(true));
        assert_eq!(expects("Expect: more\r\nExpect: 100-continue\r\n"), Ok(true));
        for other in ["200-maybe", "", "100", "100-continue-not"] {
            assert_eq!(
                expects(&format!("Expect: {other}\r\n")),
                Ok(false),
                "{other}: S3 ignores what it does not know"
            );
        }
        let old = "PUT /b/k HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
        assert!(!good(old).expects_continue, "HTTP/1.0 knows no interim answers");
    }

    #[test]
    fn heads_are_bounded() {
        let fields = |count: usize| {
            let more: String = (1..count).map(|i| format!("X-{i}: y\r\n")).collect();
            format!("GET / HTTP/1.1\r\nHost: a\r\n{more}\r\n")
        };
        assert_eq!(good(&fields(HEAD_FIELDS_MAX)).headers.len(), HEAD_FIELDS_MAX);
        refused(&fields(HEAD_FIELDS_MAX + 1), BadHead::TooManyFields);
        let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        let padded = |bytes: usize| format!("{start}{}\r\n\r\n", "y".repeat(bytes - start.len() - 4));
        assert_eq!(good(&padded(HEAD_BYTES_MAX)).head_len, HEAD_BYTES_MAX);
        refused(&padded(HEAD_BYTES_MAX + 1), BadHead::TooLong);
        refused(&"G".repeat(HEAD_BYTES_MAX), BadHead::TooLong);
    }

    #[test]
    fn refusals_end_the_connection_with_the_right_status() {
        for (bad, status) in [
            (BadHead::TooLong, 400),
            (BadHead::LengthAndTransfer, 400),
            (BadHead::TransferCoding, 501),
            (BadHead::Version, 505),
            (BadHead::Connect, 405),
            (BadHead::Host, 400),
        ] {
            let error = bad.to_s3_error();
            assert!(error.close, "{bad:?}");
            assert_eq!(error.http_status(), status, "{bad:?}");
        }
        assert_eq!(BadHead::TooManyFields.to_s3_error().code, ErrorCode::RequestHeaderSectionTooLarge);
    }
}
