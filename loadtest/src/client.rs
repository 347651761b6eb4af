//! An S3 client over one keep-alive connection: the verbs of the load, bodies made and checked by `body`.

use crate::body::{self, Span};
use crate::sign::{Credentials, Line, Signer};
use crate::wire::{Answer, Wire};
use anyhow::{Result, bail, ensure};
use aws_lc_rs::digest;
use s3_orchestrator::proto::aws_chunked::{Encoder, Form};
use s3_orchestrator::proto::checksum::{Algorithm, Checksum};
use s3_orchestrator::proto::sigv4::{ChunkSigner, EMPTY_SHA256, PayloadMode, encode_query_into};
use std::fmt;
use std::io::Write;

/// `Payload::Auto` signs the SHA-256 of bodies up to this size, as SDKs do over HTTP, and leaves larger ones unsigned.
const HASHED_BYTES_MAX: u64 = 1024 * 1024;
/// A body up to this size leaves together with its head.
const TOGETHER_BYTES_MAX: u64 = 64 * 1024;
/// A chunk of an aws-chunked body, as botocore cuts it.
const CHUNK_BYTES: u64 = 1024 * 1024;
/// S3's answer holds at most so many keys.
const PAGE_KEYS_MAX: u32 = 1000;

/// Where the load goes.
#[derive(Clone, Debug)]
pub struct Target {
    /// `host:port`.
    pub address: String,
    pub bucket: String,
    pub credentials: Credentials,
}

/// How a PUT's signature covers its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Payload {
    /// Signed up to 1 MiB, unsigned above
    #[default]
    Auto,
    /// The SHA-256 of the whole body is declared and signed
    Signed,
    /// UNSIGNED-PAYLOAD
    Unsigned,
    /// Signed chunks and a CRC32 as signed trailer: what today's SDKs send over HTTP
    AwsChunked,
    /// Unsigned chunks and a CRC32 as trailer: what today's SDKs send over HTTPS
    AwsChunkedUnsigned,
}

/// An operation that the endpoint refused.
#[derive(Debug)]
pub struct Refused {
    pub status: u16,
    /// S3's error code; empty for an answer without a document, such as one to HEAD.
    pub code: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {} {}", self.status, self.code)
    }
}

impl std::error::Error for Refused {}

/// A page of a listing.
#[derive(Debug, Default)]
pub struct Page {
    /// Exactly as in the XML, in its order.
    pub keys: Vec<String>,
    pub bytes: u64,
    /// Continues the listing; None at its end.
    pub token: Option<String>,
}

pub struct Client {
    bucket: String,
    payload: Payload,
    signer: Signer,
    wire: Wire,
    head: Vec<u8>,
}

impl Client {
    pub fn new(target: Target, payload: Payload) -> Self {
        let (signer, wire) = (Signer::new(target.credentials), Wire::new(target.address));
        Self { bucket: target.bucket, payload, signer, wire, head: Vec::new() }
    }

    /// Writes the whole object of `seed`: at once, or in parts if it is larger than `part_size`.
    pub async fn put(&mut self, key: &str, seed: u64, size: u64, part_size: Option<u64>) -> Result<u64> {
        self.closing(async |client| {
            let path = client.path(key);
            match part_size.filter(|&part| size > part) {
                Some(part) => client.put_in_parts(&path, seed, size, part).await?,
                None => drop(client.put_span(&path, "", Span { seed, from: 0, to: size }).await?),
            }
            Ok(size)
        })
        .await
    }

    /// Reads an object; `verify`: every byte and the size must be what `put` wrote.
    pub async fn get(&mut self, key: &str, seed: u64, size: u64, verify: bool) -> Result<u64> {
        self.closing(async |client| {
            let answer = client.ask("GET", &client.path(key), "", b"").await?;
            let got = client.wire.read_body(&answer, |at, bytes| !verify || body::matches(seed, at, bytes)).await?;
            ensure!(!verify || got == size, "body of {got} bytes, expected {size}");
            Ok(got)
        })
        .await
    }

    pub async fn head(&mut self, key: &str) -> Result<()> {
        self.closing(async |client| {
            let answer = client.ask("HEAD", &client.path(key), "", b"").await?;
            client.wire.read_body(&answer, |_, _| true).await.map(drop)
        })
        .await
    }

    pub async fn delete(&mut self, key: &str) -> Result<()> {
        self.closing(async |client| {
            let answer = client.ask("DELETE", &client.path(key), "", b"").await?;
            client.wire.read_body(&answer, |_, _| true).await.map(drop)
        })
        .await
    }

    /// One page of the keys below `prefix`, from where `token` says.
    pub async fn list(&mut self, prefix: &str, token: Option<&str>) -> Result<Page> {
        self.closing(async |client| {
            let mut query = Vec::new();
            if let Some(token) = token {
                query.extend_from_slice(b"continuation-token=");
                encode_query_into(&mut query, token.as_bytes());
                query.push(b'&');
            }
            write!(query, "list-type=2&max-keys={PAGE_KEYS_MAX}&prefix=")?;
            encode_query_into(&mut query, prefix.as_bytes());
            let path = format!("/{}", client.bucket);
            let answer = client.ask("GET", &path, std::str::from_utf8(&query)?, b"").await?;
            let text = client.wire.read_text(&answer).await?;
            let keys = text.split("<Key>").skip(1).filter_map(|rest| Some(rest.split_once("</Key>")?.0.to_owned()));
            let token = element(&text, "NextContinuationToken").map(str::to_owned);
            Ok(Page { keys: keys.collect(), bytes: text.len() as u64, token })
        })
        .await
    }

    fn path(&self, key: &str) -> String {
        format!("/{}/{key}", self.bucket)
    }

    /// After an error nobody knows what is still to come on the connection, unless it was an answer read to its end.
    async fn closing<T>(&mut self, operation: impl AsyncFnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let outcome = operation(self).await;
        if outcome.as_ref().is_err_and(|error| !error.is::<Refused>()) {
            self.wire.close();
        }
        outcome
    }

    async fn put_in_parts(&mut self, path: &str, seed: u64, size: u64, part: u64) -> Result<()> {
        let answer = self.ask("POST", path, "uploads=", b"").await?;
        let text = self.wire.read_text(&answer).await?;
        let upload = element(&text, "UploadId").unwrap_or("").to_owned();
        ensure!(!upload.is_empty(), "an answer without an upload id: {text}");
        let mut manifest = String::from("<CompleteMultipartUpload>");
        for (number, from) in (1..).zip((0..size).step_by(part as usize)) {
            let span = Span { seed, from, to: (from + part).min(size) };
            let (etag, crc32) = self.put_span(path, &format!("partNumber={number}&uploadId={upload}"), span).await?;
            let crc32 = crc32.map_or_else(String::new, |crc32| format!("<ChecksumCRC32>{crc32}</ChecksumCRC32>"));
            manifest +=
                &format!("<Part><PartNumber>{number}</PartNumber><ETag>&quot;{etag}&quot;</ETag>{crc32}</Part>");
        }
        manifest += "</CompleteMultipartUpload>";
        let answer = self.ask("POST", path, &format!("uploadId={upload}"), manifest.as_bytes()).await?;
        let text = self.wire.read_text(&answer).await?;
        // S3 may find that it cannot complete after it has answered 200.
        ensure!(!text.contains("<Error>"), "not completed: {}", element(&text, "Code").unwrap_or(&text));
        Ok(())
    }

    /// Sends a request whose body is in hand, and reads the answer's head.
    async fn ask(&mut self, method: &str, path: &str, query: &str, body: &[u8]) -> Result<Answer> {
        let hash = match body {
            [] => EMPTY_SHA256,
            body => digest::digest(&digest::SHA256, body).as_ref().try_into().expect("SHA-256 has 32 bytes"),
        };
        let creates_in_chunks = query == "uploads=" && self.is_chunked();
        let extra: &[_] = if creates_in_chunks { &[("x-amz-checksum-algorithm", "CRC32".to_owned())] } else { &[] };
        let length = (method == "POST").then_some(body.len() as u64);
        self.start(method, path, query, length, extra, PayloadMode::DeclaredSha256(hash)).await?;
        self.head.extend_from_slice(body);
        self.wire.send(&self.head).await?;
        self.answer(method == "HEAD").await
    }

    /// PUTs a span; its ETag and, if it was sent as a trailer, its CRC32.
    async fn put_span(&mut self, path: &str, query: &str, span: Span) -> Result<(String, Option<String>)> {
        let size = span.to - span.from;
        let mode = match self.payload {
            Payload::Unsigned => PayloadMode::Unsigned,
            Payload::Auto if size > HASHED_BYTES_MAX => PayloadMode::Unsigned,
            Payload::Auto | Payload::Signed => PayloadMode::DeclaredSha256(sha256_of(span)),
            Payload::AwsChunked => PayloadMode::StreamingSigned { trailer: true },
            Payload::AwsChunkedUnsigned => PayloadMode::StreamingUnsignedTrailer,
        };
        let crc32 = if self.is_chunked() {
            Some(self.send_in_chunks(path, query, span, mode).await?)
        } else {
            self.start("PUT", path, query, Some(size), &[], mode).await?;
            self.send_plain(span).await?;
            None
        };
        let answer = self.answer(false).await?;
        self.wire.read_body(&answer, |_, _| true).await?;
        Ok((answer.etag, crc32))
    }

    fn is_chunked(&self) -> bool {
        matches!(self.payload, Payload::AwsChunked | Payload::AwsChunkedUnsigned)
    }

    async fn send_plain(&mut self, span: Span) -> Result<()> {
        if span.to - span.from <= TOGETHER_BYTES_MAX {
            span.each(|piece| self.head.extend_from_slice(piece));
            return self.wire.send(&self.head).await;
        }
        self.wire.send(&self.head).await?;
        let mut left = span;
        let mut scratch = [0; 8];
        while let Some(piece) = left.next(&mut scratch) {
            self.wire.send(piece).await?;
        }
        Ok(())
    }

    /// Its CRC32, which is the trailer.
    async fn send_in_chunks(&mut self, path: &str, query: &str, span: Span, mode: PayloadMode) -> Result<String> {
        let size = span.to - span.from;
        let form = |signer: Option<ChunkSigner>| match signer {
            Some(signer) => Form::SignedTrailer(Box::new(signer)),
            None => Form::UnsignedTrailer,
        };
        let extra = [
            ("content-encoding", "aws-chunked".to_owned()),
            ("x-amz-decoded-content-length", size.to_string()),
            ("x-amz-trailer", Algorithm::Crc32.header().to_owned()),
        ];
        // The length depends on the form, not on the key; a signature of the same form stands in for the real one, which
        // is known only when the length has been signed.
        let placeholder = form(self.signer.sign(
            &mut Vec::new(),
            &Line { method: "PUT", path, query, fields: &[("host", self.wire.address())] },
            mode,
        ));
        let length = Encoder::encoded_length(&placeholder, size, CHUNK_BYTES, Some(Algorithm::Crc32));
        let signer = self.start("PUT", path, query, Some(length), &extra, mode).await?;
        let mut encoder = Encoder::new(form(signer));
        let mut crc32 = crc32fast::Hasher::new();
        let mut at = span.from;
        let mut chunk = Vec::new();
        while at < span.to {
            let end = (at + CHUNK_BYTES).min(span.to);
            chunk.clear();
            Span { from: at, to: end, ..span }.each(|piece| chunk.extend_from_slice(piece));
            crc32.update(&chunk);
            encoder.chunk(&mut self.head, &chunk);
            self.wire.send(&self.head).await?;
            self.head.clear();
            at = end;
        }
        let sum = crc32.finalize().to_be_bytes();
        let sum = Checksum::new(Algorithm::Crc32, &sum).expect("a CRC32 has 4 bytes");
        encoder.finish(&mut self.head, Some(&sum));
        self.wire.send(&self.head).await?;
        Ok(sum.to_base64())
    }

    /// Makes the head of a request in `self.head`, on an open connection. For signed chunks, what signs them.
    async fn start(
        &mut self,
        method: &str,
        path: &str,
        query: &str,
        length: Option<u64>,
        extra: &[(&str, String)],
        mode: PayloadMode,
    ) -> Result<Option<ChunkSigner>> {
        self.wire.open().await?;
        let mut fields = vec![("host", self.wire.address())];
        fields.extend(extra.iter().map(|(name, value)| (*name, value.as_str())));
        self.head.clear();
        let mark = if query.is_empty() { "" } else { "?" };
        write!(self.head, "{method} {path}{mark}{query} HTTP/1.1\r\n")?;
        for (name, value) in &fields {
            write!(self.head, "{name}: {value}\r\n")?;
        }
        if let Some(length) = length {
            write!(self.head, "content-length: {length}\r\n")?;
        }
        let signer = self.signer.sign(&mut self.head, &Line { method, path, query, fields: &fields }, mode);
        self.head.extend_from_slice(b"\r\n");
        Ok(signer)
    }

    /// The head of a good answer.
    async fn answer(&mut self, is_head: bool) -> Result<Answer> {
        let answer = self.wire.read_head(is_head).await?;
        if (200..300).contains(&answer.status) {
            return Ok(answer);
        }
        let text = self.wire.read_text(&answer).await?;
        bail!(Refused { status: answer.status, code: element(&text, "Code").unwrap_or("").to_owned() })
    }
}

fn sha256_of(span: Span) -> [u8; 32] {
    let mut running = digest::Context::new(&digest::SHA256);
    span.each(|piece| running.update(piece));
    running.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// What stands between the first `<name>` and `</name>`.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let after = xml.split_once(&format!("<{name}>"))?.1;
    Some(after.split_once(&format!("</{name}>"))?.0)
}
