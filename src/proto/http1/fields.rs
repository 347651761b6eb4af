//! What request and response heads share: where a head ends, its fields, and how a body's length is declared.
//!
//! Fields are kept as offsets into the head's bytes: those of an ordinary head without an allocation.

use crate::base::limits::HEAD_BYTES_MAX;
use crate::proto::error_code::{ErrorCode, S3Error};
use crate::proto::fields::Fields;
use std::fmt;

const _: () = assert!(HEAD_BYTES_MAX <= u16::MAX as usize, "offsets into a head are 16 bits wide");

/// Why bytes are no head that may be acted upon. The connection must end: where the next message starts is unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadHead {
    TooLong,
    TooManyFields,
    /// A line that ends in LF without CR.
    BareLineFeed,
    /// No request or status line.
    MalformedFirstLine,
    Version,
    /// A target in absolute, authority or asterisk form.
    TargetForm,
    Connect,
    /// A field without a name, with a blank before its colon, folded, or with a control byte.
    MalformedField,
    /// Both Content-Length and Transfer-Encoding.
    LengthAndTransfer,
    /// Content-Length twice, or not a plain number.
    Length,
    /// Transfer-Encoding twice, or in HTTP/1.0.
    Transfer,
    /// A transfer coding other than `chunked`.
    TransferCoding,
    /// No Host, two, or one that is no host.
    Host,
    /// A status that nobody asked for: 101, or outside of 100 to 599.
    Status,
}

impl BadHead {
    pub fn reason(self) -> &'static str {
        match self {
            Self::TooLong => "The request head is too long.",
            Self::TooManyFields => "The request has too many header fields.",
            Self::BareLineFeed => "A header line does not end in CR LF.",
            Self::MalformedFirstLine => "The request line is malformed.",
            Self::Version => "The HTTP version of the request is not supported.",
            Self::TargetForm => "The request target must be a path.",
            Self::Connect => "CONNECT is not supported.",
            Self::MalformedField => "A header field is malformed.",
            Self::LengthAndTransfer => "Content-Length and Transfer-Encoding exclude each other.",
            Self::Length => "Content-Length must be one number.",
            Self::Transfer => "Transfer-Encoding may be given once, in HTTP/1.1.",
            Self::TransferCoding => "The only transfer coding supported is chunked.",
            Self::Host => "Exactly one valid Host header is required.",
            Self::Status => "The status code is not one that can be acted upon.",
        }
    }

    /// As answered to a client.
    pub fn to_s3_error(self) -> S3Error {
        let code = match self {
            Self::TooLong | Self::TooManyFields => ErrorCode::RequestHeaderSectionTooLarge,
            Self::Version => ErrorCode::HttpVersionNotSupported,
            Self::Connect => ErrorCode::MethodNotAllowed,
            Self::TransferCoding => ErrorCode::NotImplemented,
            Self::TargetForm => ErrorCode::InvalidURI,
            _ => ErrorCode::BadRequest,
        };
        S3Error::new(code, self.reason()).closing()
    }
}

impl fmt::Display for BadHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl BadHead {
    /// What httparse found wrong. It says "version" of whatever stands where a version should; `is_version` tells whether
    /// one does.
    pub(super) fn from_parser(error: httparse::Error, is_version: impl FnOnce() -> bool) -> Self {
        match error {
            httparse::Error::HeaderName | httparse::Error::HeaderValue => Self::MalformedField,
            httparse::Error::TooManyHeaders => Self::TooManyFields,
            httparse::Error::Version if is_version() => Self::Version,
            _ => Self::MalformedFirstLine,
        }
    }
}

/// One field. The name keeps the sender's case; the value is without blanks around it and may hold any byte but controls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header<'b> {
    pub name: &'b str,
    pub value: &'b [u8],
}

#[derive(Clone, Copy, Default)]
struct Span {
    name_at: u16,
    name_len: u16,
    value_at: u16,
    value_len: u16,
}

/// The fields of one head, in the order sent.
#[derive(Clone)]
pub struct Headers<'b> {
    head: &'b [u8],
    /// The first `count`, if there are no more than fit.
    few: [Span; FIELDS_IN_PLACE],
    count: usize,
    /// All of them otherwise.
    many: Vec<Span>,
    /// One bit for each length that a name has, 63 and more in one: most fields that are asked for are not there, and few
    /// of those that are have a name of that length.
    lengths: u64,
}

fn length_bit(name_len: usize) -> u64 {
    1 << name_len.min(63)
}

/// Clients send about a dozen. Heads are moved by value, so room for the most that are allowed would cost every request.
const FIELDS_IN_PLACE: usize = 24;

impl<'b> Headers<'b> {
    /// From fields that httparse found in `head`.
    pub(super) fn new(head: &'b [u8], parsed: &[httparse::Header<'b>]) -> Self {
        let offset = |part: &[u8]| (part.as_ptr() as usize - head.as_ptr() as usize) as u16;
        let spans = parsed.iter().map(|field| Span {
            name_at: offset(field.name.as_bytes()),
            name_len: field.name.len() as u16,
            // An empty value may be a slice of nothing rather than of the head.
            value_at: if field.value.is_empty() { 0 } else { offset(field.value) },
            value_len: field.value.len() as u16,
        });
        let lengths = parsed.iter().fold(0, |bits, field| bits | length_bit(field.name.len()));
        let mut few = [Span::default(); FIELDS_IN_PLACE];
        if parsed.len() > FIELDS_IN_PLACE {
            return Self { head, few, count: parsed.len(), many: spans.collect(), lengths };
        }
        few.iter_mut().zip(spans).for_each(|(place, span)| *place = span);
        Self { head, few, count: parsed.len(), many: Vec::new(), lengths }
    }

    fn spans(&self) -> &[Span] {
        if self.count > FIELDS_IN_PLACE { &self.many } else { &self.few[..self.count] }
    }

    pub fn iter(&self) -> impl Iterator<Item = Header<'b>> + '_ {
        self.spans().iter().map(|span| Header { name: self.name(span), value: self.value(span) })
    }

    fn name(&self, span: &Span) -> &'b str {
        let name = &self.head[span.name_at as usize..][..span.name_len as usize];
        std::str::from_utf8(name).expect("httparse lets only token characters into a name")
    }

    fn value(&self, span: &Span) -> &'b [u8] {
        &self.head[span.value_at as usize..][..span.value_len as usize]
    }

    /// False if no field can have this name: none has its length.
    #[inline]
    pub fn may_have(&self, name: &str) -> bool {
        self.lengths & length_bit(name.len()) != 0
    }

    /// Values of every field of this name, in the order sent.
    pub fn all<'n>(&self, name: &'n str) -> impl Iterator<Item = &'b [u8]> + use<'_, 'b, 'n> {
        let spans = if self.may_have(name) { self.spans() } else { &[] };
        spans
            .iter()
            .filter(move |span| {
                let sent = &self.head[span.name_at as usize..][..span.name_len as usize];
                sent.eq_ignore_ascii_case(name.as_bytes())
            })
            .map(|span| self.value(span))
    }

    /// Value of the first field of this name.
    #[inline]
    pub fn first(&self, name: &str) -> Option<&'b [u8]> {
        if self.may_have(name) { self.first_of(name) } else { None }
    }

    /// Apart, so that asking for what is not there is a test in place.
    #[inline(never)]
    fn first_of(&self, name: &str) -> Option<&'b [u8]> {
        self.all(name).next()
    }

    /// As `first`, for values that must be text. InvalidArgument when it is not UTF-8.
    pub fn text(&self, name: &str) -> Result<Option<&'b str>, S3Error> {
        let text = self.first(name).map(std::str::from_utf8).transpose();
        text.map_err(|_| S3Error::new(ErrorCode::InvalidArgument, format!("The value of {name} is not valid UTF-8.")))
    }

    pub fn count_of(&self, name: &str) -> usize {
        self.all(name).count()
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl Fields for Headers<'_> {
    fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let slice = |at: u16, len: u16| &self.head[usize::from(at)..][..usize::from(len)];
        self.spans().iter().map(move |span| (slice(span.name_at, span.name_len), slice(span.value_at, span.value_len)))
    }
}

impl fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|h| (h.name, h.value.escape_ascii().to_string()))).finish()
    }
}

/// Length of the head at the start of `bytes`, with the empty line that ends it; None while that line has not come.
/// `scanned` is what earlier calls on the same bytes have looked at: 0 at first, kept by the caller between calls, so that a
/// head that trickles in is scanned once.
pub(super) fn find_end(bytes: &[u8], scanned: &mut usize) -> Result<Option<usize>, BadHead> {
    if bytes.first().is_some_and(|&b| !b.is_ascii_graphic() && b != b'\r') {
        return Err(BadHead::MalformedFirstLine);
    }
    let lead = leading_empty_lines(bytes);
    for at in memchr::memchr_iter(b'\n', &bytes[*scanned..]) {
        let line_feed = *scanned + at;
        if line_feed == 0 || bytes[line_feed - 1] != b'\r' {
            return Err(BadHead::BareLineFeed);
        }
        if line_feed >= lead + 3 && bytes[line_feed - 2] == b'\n' {
            let end = line_feed + 1;
            return if end <= HEAD_BYTES_MAX { Ok(Some(end)) } else { Err(BadHead::TooLong) };
        }
    }
    *scanned = bytes.len();
    if bytes.len() >= HEAD_BYTES_MAX { Err(BadHead::TooLong) } else { Ok(None) }
}

/// Bytes of empty lines before the first line; a robust reader skips them (RFC 9112, 2.2).
fn leading_empty_lines(bytes: &[u8]) -> usize {
    2 * bytes.chunks_exact(2).take_while(|pair| pair == b"\r\n").count()
}

/// How the two length fields read together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DeclaredLength {
    Nothing,
    Length(u64),
    Chunked,
}

impl DeclaredLength {
    /// `http11`: HTTP/1.0 has no transfer codings.
    pub(super) fn of(headers: &Headers<'_>, http11: bool) -> Result<Self, BadHead> {
        let mut declared = Self::Nothing;
        if !headers.may_have("content-length") && !headers.may_have("transfer-encoding") {
            return Ok(declared);
        }
        for (name, value) in headers.fields() {
            let one = if name.eq_ignore_ascii_case(b"content-length") {
                Self::Length(plain_number(value).ok_or(BadHead::Length)?)
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                Self::transfer(value, http11)?
            } else {
                continue;
            };
            declared = match (declared, one) {
                (Self::Nothing, one) => one,
                (Self::Length(_), Self::Length(_)) => return Err(BadHead::Length),
                (Self::Chunked, Self::Chunked) => return Err(BadHead::Transfer),
                _ => return Err(BadHead::LengthAndTransfer),
            };
        }
        Ok(declared)
    }

    fn transfer(value: &[u8], http11: bool) -> Result<Self, BadHead> {
        if !http11 {
            return Err(BadHead::Transfer);
        }
        if value.eq_ignore_ascii_case(b"chunked") { Ok(Self::Chunked) } else { Err(BadHead::TransferCoding) }
    }
}

/// Digits only: no sign, blank, list or radix. 19 digits always fit 64 bits.
pub(super) fn plain_number(value: &[u8]) -> Option<u64> {
    let well_formed = (1..=19).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    well_formed.then(|| value.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// Whether the list fields of this name hold `token`, in any case (RFC 9110, 5.6.1).
pub(super) fn list_holds(headers: &Headers<'_>, name: &str, token: &str) -> bool {
    headers.may_have(name)
        && headers.all(name).any(|value| {
            value.split(|&b| b == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
        })
}
