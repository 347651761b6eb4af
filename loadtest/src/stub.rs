//! An S3 endpoint that keeps no bodies: it answers at once, so that what is measured is whoever stands in front of it.
//!
//! Small bodies (up to `KEEP_BYTES`) are kept and checked as S3 would: a wrong `x-amz-content-sha256` is refused and the ETag
//! is the MD5. Of larger ones only size and seed are kept, and GET makes the bytes anew (`body`); their declared hash is
//! taken on trust and their ETag is a constant, because hashing here would be measured as the proxy's time on a small
//! machine. Signatures are not checked. Never for anything but measurements.

use crate::body;
use aws_lc_rs::digest;
use md5::{Digest, Md5};
use std::collections::BTreeMap;
use std::io::{self, BufWriter, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

const KEEP_BYTES: u64 = 64 * 1024;
const UNHASHED_ETAG: &str = "0123456789abcdef0123456789abcdef";

#[derive(Clone)]
enum Object {
    Kept { bytes: Arc<[u8]>, etag: String },
    Made { seed: u64, size: u64 },
}

#[derive(Default)]
struct Upload {
    parts: BTreeMap<u16, (u64, Option<u64>)>,
}

#[derive(Default)]
struct State {
    objects: RwLock<BTreeMap<String, Object>>,
    uploads: RwLock<BTreeMap<String, Upload>>,
    next_upload: AtomicU64,
}

/// Serves until the process ends, a thread per connection.
pub fn serve(listen: &str) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    println!("stub listening on {}", listener.local_addr()?);
    let state = Arc::new(State::default());
    for stream in listener.incoming() {
        let (stream, state) = (stream?, Arc::clone(&state));
        std::thread::Builder::new().stack_size(256 * 1024).spawn(move || {
            let _ = stream.set_nodelay(true);
            // A connection that breaks concerns its own client only.
            let _ = Connection { stream, state, input: vec![0; 64 * 1024], held: 0..0 }.run();
        })?;
    }
    Ok(())
}

struct Head {
    method: String,
    path: String,
    query: String,
    length: u64,
    sha256: Option<String>,
    range: Option<(u64, Option<u64>)>,
}

struct Connection {
    stream: TcpStream,
    state: Arc<State>,
    input: Vec<u8>,
    /// Bytes of `input` that were read and not used yet.
    held: std::ops::Range<usize>,
}

impl Connection {
    fn run(mut self) -> io::Result<()> {
        while let Some(head) = self.read_head()? {
            self.answer(&head)?;
        }
        Ok(())
    }

    fn read_head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some((head, used)) = parse(&self.input[self.held.clone()])? {
                self.held.start += used;
                return Ok(Some(head));
            }
            if self.held.start > 0 {
                self.input.copy_within(self.held.clone(), 0);
                self.held = 0..self.held.len();
            }
            let n = self.stream.read(&mut self.input[self.held.end..])?;
            if n == 0 {
                return Ok(None);
            }
            self.held.end += n;
        }
    }

    /// Reads the request's body, handing each piece to `each`.
    fn read_body(&mut self, mut left: u64, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        while left > 0 {
            if self.held.is_empty() {
                let n = self.stream.read(&mut self.input)?;
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

    fn answer(&mut self, head: &Head) -> io::Result<()> {
        let query = |name: &str| {
            head.query.split('&').find_map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (key == name).then(|| value.to_owned())
            })
        };
        match (head.method.as_str(), query("uploadId"), query("uploads").is_some()) {
            ("PUT", Some(upload), _) => {
                let number = query("partNumber").and_then(|n| n.parse().ok()).unwrap_or(0);
                let seed = self.discard(head.length)?;
                let mut uploads = self.state.uploads.write().expect("no poisoned lock");
                let Some(entry) = uploads.get_mut(&upload) else {
                    drop(uploads);
                    return self.error(404, "NoSuchUpload");
                };
                entry.parts.insert(number, (head.length, seed));
                drop(uploads);
                self.reply(200, &format!("ETag: \"{UNHASHED_ETAG}\"\r\n"), b"")
            }
            ("PUT", None, _) => self.put(head),
            ("POST", None, true) => {
                self.read_body(head.length, |_| ())?;
                let id = format!("u{}", self.state.next_upload.fetch_add(1, Ordering::Relaxed));
                self.state.uploads.write().expect("no poisoned lock").insert(id.clone(), Upload::default());
                self.xml(&format!(
                    "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                ))
            }
            ("POST", Some(upload), _) => {
                self.read_body(head.length, |_| ())?;
                let Some(upload) = self.state.uploads.write().expect("no poisoned lock").remove(&upload) else {
                    return self.error(404, "NoSuchUpload");
                };
                let size = upload.parts.values().map(|(size, _)| size).sum();
                let seed = upload.parts.values().next().and_then(|(_, seed)| *seed).unwrap_or(0);
                self.state
                    .objects
                    .write()
                    .expect("no poisoned lock")
                    .insert(head.path.clone(), Object::Made { seed, size });
                let count = upload.parts.len();
                self.xml(&format!(
                    "<CompleteMultipartUploadResult><ETag>\"{UNHASHED_ETAG}-{count}\"</ETag></CompleteMultipartUploadResult>"
                ))
            }
            ("DELETE", upload, _) => {
                match upload {
                    Some(upload) => drop(self.state.uploads.write().expect("no poisoned lock").remove(&upload)),
                    None => drop(self.state.objects.write().expect("no poisoned lock").remove(&head.path)),
                }
                self.reply(204, "", b"")
            }
            ("GET", None, true) => self.xml("<ListMultipartUploadsResult></ListMultipartUploadsResult>"),
            ("GET", None, _) if query("list-type").is_some() => {
                self.xml("<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>")
            }
            ("GET" | "HEAD", None, _) => self.get(head),
            _ => {
                self.read_body(head.length, |_| ())?;
                self.error(501, "NotImplemented")
            }
        }
    }

    /// Reads a body away; its seed, if it is long enough to hold one.
    fn discard(&mut self, length: u64) -> io::Result<Option<u64>> {
        let mut first = Vec::with_capacity(8);
        self.read_body(length, |piece| first.extend(piece.iter().take(8 - first.len())))?;
        Ok(first.try_into().ok().map(u64::from_le_bytes))
    }

    fn put(&mut self, head: &Head) -> io::Result<()> {
        let (object, etag) = if head.length <= KEEP_BYTES {
            let mut bytes = Vec::with_capacity(head.length as usize);
            self.read_body(head.length, |piece| bytes.extend_from_slice(piece))?;
            let declared = head.sha256.as_deref().filter(|text| text.len() == 64);
            if declared.is_some_and(|text| text != hex(digest::digest(&digest::SHA256, &bytes).as_ref())) {
                return self.error(400, "XAmzContentSHA256Mismatch");
            }
            let etag = hex(&Md5::digest(&bytes));
            (Object::Kept { bytes: bytes.into(), etag: etag.clone() }, etag)
        } else {
            let seed = self.discard(head.length)?.unwrap_or(0);
            (Object::Made { seed, size: head.length }, UNHASHED_ETAG.to_owned())
        };
        self.state.objects.write().expect("no poisoned lock").insert(head.path.clone(), object);
        self.reply(200, &format!("ETag: \"{etag}\"\r\n"), b"")
    }

    fn get(&mut self, head: &Head) -> io::Result<()> {
        let Some(object) = self.state.objects.read().expect("no poisoned lock").get(&head.path).cloned() else {
            return self.error(404, "NoSuchKey");
        };
        let (size, etag) = match &object {
            Object::Kept { bytes, etag } => (bytes.len() as u64, etag.as_str()),
            Object::Made { size, .. } => (*size, UNHASHED_ETAG),
        };
        let (from, to) = match head.range {
            None => (0, size),
            Some((from, last)) => (from.min(size), last.map_or(size, |last| (last + 1).min(size))),
        };
        let mut out = BufWriter::with_capacity(8 * 1024, &self.stream);
        write!(out, "HTTP/1.1 {}\r\n", if head.range.is_some() { "206 Partial Content" } else { "200 OK" })?;
        write!(out, "Content-Length: {}\r\nETag: \"{etag}\"\r\n", to - from)?;
        if head.range.is_some() {
            write!(out, "Content-Range: bytes {from}-{}/{size}\r\n", to.saturating_sub(1))?;
        }
        out.write_all(b"Content-Type: application/octet-stream\r\n\r\n")?;
        if head.method == "GET" {
            match &object {
                Object::Kept { bytes, .. } => out.write_all(&bytes[from as usize..to as usize])?,
                Object::Made { seed, .. } => write_made(&mut out, *seed, from, to)?,
            }
        }
        out.flush()
    }

    fn xml(&mut self, body: &str) -> io::Result<()> {
        self.reply(200, "Content-Type: application/xml\r\n", body.as_bytes())
    }

    fn error(&mut self, status: u16, code: &str) -> io::Result<()> {
        let body = format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>");
        self.reply(status, "Content-Type: application/xml\r\n", body.as_bytes())
    }

    fn reply(&mut self, status: u16, fields: &str, body: &[u8]) -> io::Result<()> {
        let length = body.len();
        let mut answer = if status == 204 {
            format!("HTTP/1.1 204 No Content\r\n{fields}\r\n")
        } else {
            format!("HTTP/1.1 {status} Status\r\n{fields}Content-Length: {length}\r\n\r\n")
        }
        .into_bytes();
        answer.extend_from_slice(body);
        self.stream.write_all(&answer)
    }
}

fn write_made(out: &mut impl Write, seed: u64, from: u64, to: u64) -> io::Result<()> {
    let (mut at, mut scratch) = (from, [0; 8]);
    while at < to {
        let piece = body::window(seed, at, (to - at).min(256 * 1024) as usize, &mut scratch);
        out.write_all(piece)?;
        at += piece.len() as u64;
    }
    Ok(())
}

fn parse(bytes: &[u8]) -> io::Result<Option<(Head, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    let bad = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let used = match request.parse(bytes).map_err(|e| bad(e.to_string()))? {
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
        sha256: None,
        range: None,
    };
    for field in request.headers.iter() {
        let value = std::str::from_utf8(field.value).unwrap_or("");
        match field.name.to_ascii_lowercase().as_str() {
            "content-length" => head.length = value.parse().map_err(|_| bad(format!("content-length {value}")))?,
            "x-amz-content-sha256" => head.sha256 = Some(value.to_owned()),
            "range" => {
                let span = value.strip_prefix("bytes=").and_then(|span| span.split_once('-'));
                head.range = span.and_then(|(from, last)| Some((from.parse().ok()?, last.parse().ok())));
            }
            _ => {}
        }
    }
    Ok(Some((head, used)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
