//! Signs requests of our own: to backends, and in the load test. The same canonicaliser as for verification.

use super::canonical::{Canonical, Form, is_amz, write_scope};
use super::key::KeyOf;
use super::{ALGORITHM, AmzDate, ChunkSigner, Hex, KeyCache, PayloadMode, Request};
use crate::base::{Secret, Timestamp};
use crate::proto::fields::Fields;
use std::ops::Range;

/// With whose key, and for which region, a request is signed.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub access_key: &'a str,
    pub secret: &'a Secret,
    pub region: &'a str,
}

/// One per core: derived keys and buffers, all reused.
#[derive(Default)]
pub struct Signer {
    keys: KeyCache,
    canonical: Canonical,
    /// The names of the fields to sign, in lower case one after the other, and where each lies.
    lower: Vec<u8>,
    spans: Vec<Range<usize>>,
    /// The same names sorted, each once, joined by `;`.
    names: String,
    /// Of the last signature, and for all of the same second.
    date: Option<AmzDate>,
}

impl Signer {
    pub fn new() -> Self {
        Self::default()
    }

    /// Signs `request` and appends the three lines `x-amz-date`, `x-amz-content-sha256` and `authorization`, each with
    /// its CRLF, to the head in `out`. The request's fields must hold `host` and none of the three.
    ///
    /// Path and query are signed as they are, so they must be encoded as S3 does it (`encode_path_into`,
    /// `encode_query_into`). Signed are `host`, `content-md5`, `content-type` and `x-amz-*`: what lies between us and a
    /// backend may change other fields. Returns the signature, from which signed chunks continue.
    pub fn sign_into<H: Fields + ?Sized>(
        &mut self,
        out: &mut Vec<u8>,
        request: &Request<'_, H>,
        target: &Target<'_>,
        payload: PayloadMode,
        now: Timestamp,
    ) -> Hex {
        let date = self.date.filter(|date| date.seconds() == now.seconds()).unwrap_or_else(|| AmzDate::at(now));
        self.date = Some(date);
        let mut hash = [0; 64];
        let payload = payload.write(&mut hash);
        let digest = match lone_host(request.headers) {
            Some(host) => self.digest_of_host(request, host, &date, payload),
            None => self.digest_of_all(request, &date, payload),
        };
        let of = KeyOf { access_key: target.access_key, secret: target.secret, day: date.day(), region: target.region };
        let signature = self.canonical.signature(self.keys.find_or_derive(&of), &date, target.region, &digest);
        out.extend_from_slice(b"x-amz-date: ");
        out.extend_from_slice(date.as_bytes());
        out.extend_from_slice(b"\r\nx-amz-content-sha256: ");
        out.extend_from_slice(payload.as_bytes());
        out.extend_from_slice(b"\r\nauthorization: ");
        out.extend_from_slice(ALGORITHM.as_bytes());
        out.extend_from_slice(b" Credential=");
        out.extend_from_slice(target.access_key.as_bytes());
        out.push(b'/');
        write_scope(out, &date, target.region);
        out.extend_from_slice(b",SignedHeaders=");
        out.extend_from_slice(self.names.as_bytes());
        out.extend_from_slice(b",Signature=");
        out.extend_from_slice(&signature);
        out.extend_from_slice(b"\r\n");
        signature
    }

    /// For a body of signed chunks that follows a request signed at `now` with the signature `seed`.
    pub fn chunk_signer(&mut self, target: &Target<'_>, now: Timestamp, seed: Hex) -> ChunkSigner {
        let date = AmzDate::at(now);
        let of = KeyOf { access_key: target.access_key, secret: target.secret, day: date.day(), region: target.region };
        ChunkSigner::new(self.keys.find_or_derive(&of).clone(), date, target.region, seed)
    }

    /// Of a request whose only field to sign is its host, as of most: nothing has to be looked for or sorted.
    fn digest_of_host<H: Fields + ?Sized>(
        &mut self,
        request: &Request<'_, H>,
        host: &[u8],
        date: &AmzDate,
        payload: &str,
    ) -> [u8; 32] {
        self.names.clear();
        self.names.push_str("host;x-amz-content-sha256;x-amz-date");
        let lines: [&[u8]; 7] =
            [b"host:", host, b"\nx-amz-content-sha256:", payload.as_bytes(), b"\nx-amz-date:", date.as_bytes(), b"\n"];
        self.canonical.digest_of_lines(request, &lines, &self.names, payload.as_bytes())
    }

    fn digest_of_all<H: Fields + ?Sized>(
        &mut self,
        request: &Request<'_, H>,
        date: &AmzDate,
        payload: &str,
    ) -> [u8; 32] {
        let with_ours = WithOurs { inner: request.headers, date, payload };
        self.list_names(&with_ours);
        let complete =
            Request { method: request.method, path: request.path, query: request.query, headers: &with_ours };
        self.canonical
            .digest(&complete, Form::Wire, Form::Wire, &self.names, payload.as_bytes())
            .expect("the names are those of the fields")
    }

    /// Fills `names` with the names to sign, in lower case, sorted, each once.
    fn list_names<H: Fields + ?Sized>(&mut self, headers: &WithOurs<'_, H>) {
        self.lower.clear();
        self.spans.clear();
        for (name, _) in headers.fields().filter(|(name, _)| is_signed(name)) {
            let start = self.lower.len();
            self.lower.extend(name.iter().map(u8::to_ascii_lowercase));
            self.spans.push(start..self.lower.len());
        }
        let lower = &self.lower;
        self.spans.sort_unstable_by(|a, b| lower[a.clone()].cmp(&lower[b.clone()]));
        self.spans.dedup_by(|a, b| lower[a.clone()] == lower[b.clone()]);
        self.names.clear();
        for span in &self.spans {
            if !self.names.is_empty() {
                self.names.push(';');
            }
            self.names.push_str(std::str::from_utf8(&lower[span.clone()]).expect("names are tokens, so ASCII"));
        }
    }
}

fn is_signed(name: &[u8]) -> bool {
    let named = |known: &[u8]| name.eq_ignore_ascii_case(known);
    named(b"host") || named(b"content-md5") || named(b"content-type") || is_amz(name)
}

/// The value of Host, if it is the only one of the caller's fields to sign and stands as it is signed.
fn lone_host<H: Fields + ?Sized>(headers: &H) -> Option<&[u8]> {
    let mut signed = headers.fields().filter(|(name, _)| is_signed(name));
    let (name, value) = signed.next()?;
    let is_bare = name.eq_ignore_ascii_case(b"host") && value.iter().all(u8::is_ascii_graphic);
    (is_bare && signed.next().is_none()).then_some(value)
}

/// The caller's fields and the two that signing adds.
struct WithOurs<'a, H: ?Sized> {
    inner: &'a H,
    date: &'a AmzDate,
    payload: &'a str,
}

impl<H: Fields + ?Sized> Fields for WithOurs<'_, H> {
    fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let ours: [(&[u8], &[u8]); 2] =
            [(b"x-amz-date", self.date.as_bytes()), (b"x-amz-content-sha256", self.payload.as_bytes())];
        self.inner.fields().chain(ours)
    }
}
