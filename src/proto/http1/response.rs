//! A backend's response head.
//!
//! Called by the upstream exchange. Interim answers (1xx) are handed out as heads without a body, so that the caller can
//! skip them or learn of `100 Continue`; what cannot be delimited for sure makes the connection useless, never a guess.

use super::fields::{BadHead, DeclaredLength, Headers, find_end, list_holds};
use crate::base::limits::HEAD_FIELDS_MAX;
use std::mem::MaybeUninit;

/// How the body of a response is delimited (RFC 9112, 6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResponseFraming {
    /// An answer to HEAD, or 1xx, 204, 304.
    None,
    Length(u64),
    Chunked,
    /// Neither length nor chunks: it ends with the connection, and a cut cannot be told from its end. Good enough for an
    /// error's XML, never for an object's bytes.
    UntilClose,
}

#[derive(Clone, Debug)]
pub struct ResponseHead<'b> {
    pub status: u16,
    pub framing: ResponseFraming,
    /// What Content-Length says, also where no body follows (HEAD).
    pub content_length: Option<u64>,
    /// Whether the connection may carry another request after this body.
    pub keep_alive: bool,
    pub head_len: usize,
    pub headers: Headers<'b>,
}

impl<'b> ResponseHead<'b> {
    /// None while the head is not complete. `to_head`: the request was a HEAD. `scanned`: 0 for a new head, then kept between
    /// calls as more bytes come in.
    pub fn parse(bytes: &'b [u8], to_head: bool, scanned: &mut usize) -> Result<Option<Self>, BadHead> {
        let Some(head_len) = find_end(bytes, scanned)? else { return Ok(None) };
        let head = &bytes[..head_len];
        let mut fields = [const { MaybeUninit::uninit() }; HEAD_FIELDS_MAX];
        let mut response = httparse::Response::new(&mut []);
        let parser = httparse::ParserConfig::default();
        let parsed = parser.parse_response_with_uninit_headers(&mut response, head, &mut fields);
        match parsed.map_err(|error| BadHead::from_parser(error, || head.starts_with(b"HTTP/")))? {
            httparse::Status::Complete(used) if used == head_len => {}
            _ => return Err(BadHead::MalformedField),
        }
        let (Some(status), Some(minor)) = (response.code, response.version) else {
            return Err(BadHead::MalformedFirstLine);
        };
        if !(100..600).contains(&status) || status == 101 {
            return Err(BadHead::Status);
        }
        let headers = Headers::new(head, response.headers);
        let http11 = minor == 1;
        let declared = DeclaredLength::of(&headers, http11)?;
        let framing = match declared {
            _ if to_head || status < 200 || matches!(status, 204 | 304) => ResponseFraming::None,
            DeclaredLength::Length(bytes) => ResponseFraming::Length(bytes),
            DeclaredLength::Chunked => ResponseFraming::Chunked,
            DeclaredLength::Nothing => ResponseFraming::UntilClose,
        };
        Ok(Some(Self {
            status,
            framing,
            content_length: match declared {
                DeclaredLength::Length(bytes) => Some(bytes),
                DeclaredLength::Nothing | DeclaredLength::Chunked => None,
            },
            keep_alive: http11
                && framing != ResponseFraming::UntilClose
                && !list_holds(&headers, "connection", "close"),
            head_len,
            headers,
        }))
    }

    /// 1xx: the real answer follows after `head_len` bytes.
    pub fn is_interim(&self) -> bool {
        self.status < 200
    }

    /// All fields: name and value.
    pub fn fields(&self) -> impl Iterator<Item = (&'b [u8], &'b [u8])> + '_ {
        self.headers.iter().map(|header| (header.name.as_bytes(), header.value))
    }

    /// Value of the first field of this name.
    pub fn header(&self, name: &str) -> Option<&'b [u8]> {
        self.headers.first(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status_and_fields: &str, to_head: bool, want: ResponseFraming, keep_alive: bool) {
        let text = format!("HTTP/1.1 {status_and_fields}\r\n");
        let head = ResponseHead::parse(text.as_bytes(), to_head, &mut 0).expect("well-formed").expect("complete");
        assert_eq!((head.framing, head.keep_alive), (want, keep_alive), "{text:?}");
        assert_eq!(head.head_len, text.len());
    }

    fn refused(text: &str, want: BadHead) {
        let outcome = ResponseHead::parse(text.as_bytes(), false, &mut 0);
        assert_eq!(outcome.map(|_| ()), Err(want), "{text:?}");
    }

    #[test]
    fn bodies_are_delimited_by_the_rules() {
        check("200 OK\r\nContent-Length: 5\r\n", false, ResponseFraming::Length(5), true);
        check("200 OK\r\nContent-Length: 5\r\n", true, ResponseFraming::None, true);
        check("204 No Content\r\nContent-Length: 5\r\n", false, ResponseFraming::None, true);
        check("304 Not Modified\r\nETag: \"a\"\r\n", false, ResponseFraming::None, true);
        check("200 OK\r\nTransfer-Encoding: chunked\r\n", false, ResponseFraming::Chunked, true);
        check("200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n", false, ResponseFraming::Chunked, false);
        check("500 Oops\r\n", false, ResponseFraming::UntilClose, false);
        check("200\r\nContent-Length: 0\r\n", false, ResponseFraming::Length(0), true);
        check("100 Continue\r\n", false, ResponseFraming::None, true);
    }

    #[test]
    fn a_head_answer_tells_the_length() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n";
        let head = ResponseHead::parse(text.as_bytes(), true, &mut 0).expect("well-formed").expect("complete");
        assert_eq!((head.content_length, head.is_interim()), (Some(77), false));
    }

    #[test]
    fn ambiguity_is_refused() {
        refused("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", BadHead::Length);
        refused(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            BadHead::LengthAndTransfer,
        );
        refused("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", BadHead::TransferCoding);
        refused("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", BadHead::Transfer);
        refused("HTTP/1.1 200 OK\nContent-Length: 5\n\n", BadHead::BareLineFeed);
        refused("HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", BadHead::MalformedField);
        refused("HTTP/1.1 101 Switching Protocols\r\n\r\n", BadHead::Status);
        refused("HTTP/1.1 999 Odd\r\n\r\n", BadHead::Status);
        refused("HTTP/2 200 OK\r\n\r\n", BadHead::Version);
        refused("SSH-2.0-OpenSSH\r\n\r\n", BadHead::MalformedFirstLine);
    }
}
