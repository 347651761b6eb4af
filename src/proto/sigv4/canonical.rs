//! The canonical request, the one text that both sides hash ("Create a canonical request").
//!
//! Built in a reused buffer and hashed in one go. A client may have signed its target as it stands on the wire or in
//! S3's normal form; both mean the same object, so a verifier may ask for either.

use super::uri::{Part, is_normal, normalise_into};
use super::{AmzDate, Hex, QUERY_PARAMETERS_MAX, Request, SigningKey, hex};
use crate::proto::fields::{Fields, of_amz};
use sha2::{Digest, Sha256};
use std::ops::Range;

/// How a part of the target is taken into the canonical request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// As it is on the wire: what botocore, the SDKs for Go, Java and JavaScript, s3cmd and rclone sign.
    Wire,
    /// Decoded and encoded by S3's rules: what clients sign that leave the encoding on the wire to an HTTP library.
    Normal,
}

/// The buffers of one core.
#[derive(Default)]
pub struct Canonical {
    text: Vec<u8>,
    /// Normalised names and values of the query; `parameters` points into it, or into the query on the wire.
    encoded: Vec<u8>,
    parameters: Vec<Parameter>,
    amz_fields: usize,
}

struct Parameter {
    name: Range<usize>,
    value: Range<usize>,
}

/// A signed header that the request does not have.
#[derive(Debug)]
pub(super) struct HeaderMissing;

/// The parameter that carries a signature and is never under it.
const SIGNATURE_PARAMETER: &[u8] = b"X-Amz-Signature";

impl Canonical {
    pub fn new() -> Self {
        Self::default()
    }

    /// The canonical request that was hashed last, for explaining a mismatch.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// How many `x-amz-*` fields of the request went into it.
    pub(super) fn amz_fields(&self) -> usize {
        self.amz_fields
    }

    /// SHA-256 of the canonical request. `signed` are the names of the signed headers in the order in which they are
    /// signed, joined by `;`; `payload` is the value of `x-amz-content-sha256`.
    pub(super) fn digest<H: Fields + ?Sized>(
        &mut self,
        request: &Request<'_, H>,
        path: Form,
        query: Form,
        signed: &str,
        payload: &[u8],
    ) -> Result<[u8; 32], HeaderMissing> {
        self.begin(request, path, query);
        self.amz_fields = 0;
        for name in signed.as_bytes().split(|&byte| byte == b';') {
            self.write_header(request.headers, name)?;
        }
        Ok(self.end(signed, payload))
    }

    /// As `digest`, of a request of our own as it is on the wire, when the lines of its signed headers are at hand: `lines`
    /// are their pieces, each line with its end.
    pub(super) fn digest_of_lines<H: ?Sized>(
        &mut self,
        request: &Request<'_, H>,
        lines: &[&[u8]],
        signed: &str,
        payload: &[u8],
    ) -> [u8; 32] {
        self.begin(request, Form::Wire, Form::Wire);
        lines.iter().for_each(|piece| self.text.extend_from_slice(piece));
        self.end(signed, payload)
    }

    /// Up to the headers.
    fn begin<H: ?Sized>(&mut self, request: &Request<'_, H>, path: Form, query: Form) {
        self.text.clear();
        self.text.extend_from_slice(request.method.as_bytes());
        self.text.push(b'\n');
        match path {
            _ if request.path.is_empty() => self.text.push(b'/'),
            Form::Wire => self.text.extend_from_slice(request.path),
            Form::Normal => normalise_into(&mut self.text, request.path, Part::Path),
        }
        self.text.push(b'\n');
        self.write_query(request.query, query);
        self.text.push(b'\n');
    }

    /// From behind the headers.
    fn end(&mut self, signed: &str, payload: &[u8]) -> [u8; 32] {
        self.text.push(b'\n');
        self.text.extend_from_slice(signed.as_bytes());
        self.text.push(b'\n');
        self.text.extend_from_slice(payload);
        Sha256::digest(&self.text).into()
    }

    /// The signature over a canonical request's digest. Overwrites [`Self::text`] no more than the next digest does.
    pub(super) fn signature(&mut self, key: &SigningKey, date: &AmzDate, region: &str, digest: &[u8; 32]) -> Hex {
        let text = &mut self.encoded;
        text.clear();
        text.extend_from_slice(b"AWS4-HMAC-SHA256\n");
        text.extend_from_slice(date.as_bytes());
        text.push(b'\n');
        write_scope(text, date, region);
        text.push(b'\n');
        text.extend_from_slice(&hex(digest));
        key.sign(text)
    }

    fn write_query(&mut self, query: &[u8], form: Form) {
        if query.is_empty() {
            return;
        }
        self.encoded.clear();
        self.parameters.clear();
        let mut start = 0;
        for pair in query.split(|&byte| byte == b'&') {
            let end = start + pair.len();
            let equals = pair.iter().position(|&byte| byte == b'=').map_or(end, |at| start + at);
            let value = (equals + 1).min(end)..end;
            if pair.get(..equals - start) != Some(SIGNATURE_PARAMETER) {
                match form {
                    Form::Wire => self.parameters.push(Parameter { name: start..equals, value }),
                    Form::Normal if pair.is_empty() => {}
                    Form::Normal => {
                        let name = append_normal(&mut self.encoded, &query[start..equals]);
                        let value = append_normal(&mut self.encoded, &query[value]);
                        self.parameters.push(Parameter { name, value });
                    }
                }
            }
            start = end + 1;
        }
        let bytes: &[u8] = if form == Form::Wire { query } else { &self.encoded };
        if self.parameters.len() > 1 {
            let order = |one: &Parameter| (&bytes[one.name.clone()], &bytes[one.value.clone()]);
            self.parameters.sort_unstable_by(|a, b| order(a).cmp(&order(b)));
        }
        for (index, one) in self.parameters.iter().enumerate() {
            if index > 0 {
                self.text.push(b'&');
            }
            self.text.extend_from_slice(&bytes[one.name.clone()]);
            self.text.push(b'=');
            self.text.extend_from_slice(&bytes[one.value.clone()]);
        }
    }

    fn write_header<H: Fields + ?Sized>(&mut self, headers: &H, name: &[u8]) -> Result<(), HeaderMissing> {
        self.text.extend_from_slice(name);
        self.text.push(b':');
        let is_amz = usize::from(is_amz(name));
        let mut found = false;
        for (candidate, value) in headers.fields() {
            if candidate.eq_ignore_ascii_case(name) {
                if found {
                    self.text.push(b',');
                }
                found = true;
                self.amz_fields += is_amz;
                write_folded(&mut self.text, value);
            }
        }
        if !found && name == b"expect" {
            // An intermediary may have answered the expectation itself and taken it away. It has only one value
            // (RFC 9110, 10.1.1), so nobody else can choose it.
            self.text.extend_from_slice(b"100-continue");
            found = true;
        }
        self.text.push(b'\n');
        if found { Ok(()) } else { Err(HeaderMissing) }
    }
}

/// Whether the field must be signed wherever it occurs.
pub(super) fn is_amz(name: &[u8]) -> bool {
    of_amz(name).is_some()
}

/// `YYYYMMDD/region/s3/aws4_request`.
pub(super) fn write_scope(out: &mut Vec<u8>, date: &AmzDate, region: &str) {
    out.extend_from_slice(&date.day());
    out.push(b'/');
    out.extend_from_slice(region.as_bytes());
    out.extend_from_slice(b"/s3/aws4_request");
}

/// Whether the path means the same in both forms byte for byte, so that the second need not be tried.
pub(super) fn path_is_normal(path: &[u8]) -> bool {
    is_normal(path, Part::Path)
}

pub(super) fn query_is_normal(query: &[u8]) -> bool {
    query.is_empty()
        || query.split(|&byte| byte == b'&').all(|pair| {
            let equals = pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len());
            !pair.is_empty()
                && is_normal(&pair[..equals], Part::Query)
                && is_normal(&pair[(equals + 1).min(pair.len())..], Part::Query)
        })
}

pub(super) fn has_too_many_parameters(query: &[u8]) -> bool {
    query.iter().filter(|&&byte| byte == b'&').count() >= QUERY_PARAMETERS_MAX
}

fn append_normal(out: &mut Vec<u8>, wire: &[u8]) -> Range<usize> {
    let start = out.len();
    normalise_into(out, wire, Part::Query);
    start..out.len()
}

/// A header's value without white space around it, each run of it inside as one space.
fn write_folded(out: &mut Vec<u8>, value: &[u8]) {
    let value = value.trim_ascii();
    if memchr::memchr2(b' ', b'\t', value).is_none() {
        out.extend_from_slice(value);
        return;
    }
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    for (index, word) in value.split(blank).filter(|word| !word.is_empty()).enumerate() {
        if index > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(path: &str, query: &str, form: Form, headers: &[(&str, &str)], signed: &str) -> Option<String> {
        let mut canonical = Canonical::new();
        let request = Request { method: "GET", path: path.as_bytes(), query: query.as_bytes(), headers };
        canonical.digest(&request, form, form, signed, b"UNSIGNED-PAYLOAD").ok()?;
        Some(String::from_utf8(canonical.text().to_vec()).expect("inputs are UTF-8"))
    }

    fn check_query(query: &str, wire: &str, normal: &str) {
        for (form, want) in [(Form::Wire, wire), (Form::Normal, normal)] {
            let text = canonical("/b/k", query, form, &[("Host", "h")], "host").expect("host is there");
            assert_eq!(text, format!("GET\n/b/k\n{want}\nhost:h\n\nhost\nUNSIGNED-PAYLOAD"), "{query} {form:?}");
        }
        assert!(!query_is_normal(query.as_bytes()) || wire == normal, "{query} is the same in both forms");
    }

    #[test]
    fn queries() {
        check_query("", "", "");
        check_query("uploads", "uploads=", "uploads=");
        check_query("uploads=", "uploads=", "uploads=");
        check_query("b=2&a=1", "a=1&b=2", "a=1&b=2");
        check_query("a=2&a=10&a=1", "a=1&a=10&a=2", "a=1&a=10&a=2");
        // By name, then by value: not by the whole text, where '-' comes before '='.
        check_query("a-b=1&a=2&a%2Fb=3", "a=2&a%2Fb=3&a-b=1", "a=2&a%2Fb=3&a-b=1");
        check_query("prefix=a/b&x", "prefix=a/b&x=", "prefix=a%2Fb&x=");
        check_query("prefix=a+b", "prefix=a+b", "prefix=a%20b");
        check_query("prefix=%c3%a9", "prefix=%c3%a9", "prefix=%C3%A9");
        check_query("a=b=c", "a=b=c", "a=b%3Dc");
        check_query("a&&b", "=&a=&b=", "a=&b=");
        check_query("&", "=&=", "");
        check_query("A=1&a=2&X-Amz-Signature=feed", "A=1&a=2", "A=1&a=2");
    }

    fn check_headers(headers: &[(&str, &str)], signed: &str, want: Option<&str>) {
        let text = canonical("/", "", Form::Wire, headers, signed);
        let want = want.map(|lines| format!("GET\n/\n\n{lines}\n{signed}\nUNSIGNED-PAYLOAD"));
        assert_eq!(text, want, "{headers:?}");
    }

    #[test]
    fn header_values() {
        check_headers(&[("HOST", " h "), ("Other", "x")], "host", Some("host:h\n"));
        check_headers(&[("a", "  x   y  ")], "a", Some("a:x y\n"));
        check_headers(&[("a", "x\ty")], "a", Some("a:x y\n"));
        check_headers(&[("a", "x \t y\t")], "a", Some("a:x y\n"));
        check_headers(&[("a", "\"x   y\"")], "a", Some("a:\"x y\"\n"));
        check_headers(&[("a", "")], "a", Some("a:\n"));
        check_headers(&[("a", " 2 "), ("b", "x"), ("A", "1")], "a;b", Some("a:2,1\nb:x\n"));
        check_headers(&[("a", "é")], "a", Some("a:é\n"));
        check_headers(&[("a", "1")], "a;b", None);
        check_headers(&[("a", "1")], "a;expect", Some("a:1\nexpect:100-continue\n"));
    }

    #[test]
    fn paths() {
        for (path, wire, normal) in [
            ("", "/", "/"),
            ("/b/a//b", "/b/a//b", "/b/a//b"),
            ("/b/%e9+!", "/b/%e9+!", "/b/%E9%2B%21"),
            ("/b/../c", "/b/../c", "/b/../c"),
        ] {
            for (form, want) in [(Form::Wire, wire), (Form::Normal, normal)] {
                let text = canonical(path, "", form, &[("host", "h")], "host").expect("host is there");
                assert_eq!(text.lines().nth(1), Some(want), "{path} {form:?}");
            }
        }
    }
}
