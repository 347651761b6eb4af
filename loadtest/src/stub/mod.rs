//! An S3 endpoint that keeps no large bodies: it answers at once, so that what is measured is whoever stands in front of it.
//!
//! Small bodies (up to 64 KiB) are kept and checked as S3 would: a wrong `x-amz-content-sha256` or checksum is refused and
//! the ETag is the MD5. Of larger ones only size and seed are kept, and GET makes the bytes anew (`body`); their declared
//! hash is taken on trust and their ETag is a constant, because hashing here would be measured as the proxy's time on a
//! small machine. Signatures are not checked. Never for anything but measurements.

mod connection;
mod objects;

use crate::{body, socket};
use connection::{Connection, Head};
use objects::{KEEP_BYTES, Object, Objects, Part, UNHASHED_ETAG};
use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

const STACK_BYTES: usize = 256 * 1024;
const PIECE_BYTES: u64 = 256 * 1024;

/// A listener; port 0 takes a free one.
pub fn bind(listen: &str) -> io::Result<TcpListener> {
    socket::listen(listen)
}

/// Serves until the process ends, a thread per connection.
pub fn serve(listener: &TcpListener) -> io::Result<()> {
    let objects = Arc::new(Objects::default());
    for stream in listener.incoming() {
        let (stream, objects) = (stream?, Arc::clone(&objects));
        std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            // A connection that breaks concerns its own client only.
            let _ = answer_all(stream, &objects);
        })?;
    }
    Ok(())
}

fn answer_all(stream: TcpStream, objects: &Objects) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = Connection::new(stream);
    while let Some(head) = connection.read_head()? {
        Exchange { connection: &mut connection, objects, head: &head }.answer()?;
    }
    Ok(())
}

/// One request and its answer.
struct Exchange<'a> {
    connection: &'a mut Connection,
    objects: &'a Objects,
    head: &'a Head,
}

impl Exchange<'_> {
    fn answer(&mut self) -> io::Result<()> {
        let head = self.head;
        let (upload, uploads) = (head.query("uploadId"), head.query("uploads"));
        match (head.method.as_str(), upload) {
            ("PUT", Some(upload)) => self.put_part(upload),
            ("PUT", None) => self.put(),
            ("POST", None) if uploads.is_some() => self.create_upload(),
            ("POST", Some(upload)) => self.complete(upload),
            ("DELETE", Some(upload)) => {
                self.objects.abort(upload);
                self.connection.reply(204, "", b"")
            }
            ("DELETE", None) => {
                self.objects.remove(&head.path);
                self.connection.reply(204, "", b"")
            }
            ("GET", None) if uploads.is_some() => {
                self.xml("<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>")
            }
            ("GET", None) if head.query("list-type").is_some() => self.list(),
            ("GET", None) if head.query("versions").is_some() => self.list_versions(),
            ("GET" | "HEAD", None) => self.get(),
            _ => {
                self.connection.discard(head)?;
                self.error(501, "NotImplemented")
            }
        }
    }

    fn put(&mut self) -> io::Result<()> {
        let head = self.head;
        if head.size > KEEP_BYTES {
            let seed = self.connection.discard(head)?;
            self.objects.insert(&head.path, Object::Made { seed, size: head.size });
            return self.connection.reply(200, &format!("ETag: \"{UNHASHED_ETAG}\"\r\n"), b"");
        }
        let mut bytes = Vec::with_capacity(head.size as usize);
        self.connection.read_body(head, |piece| bytes.extend_from_slice(piece))?;
        if let Err(code) = objects::check_declared(&bytes, head.sha256.as_deref(), &head.checksums) {
            return self.error(400, code);
        }
        let etag = objects::md5_of(&bytes);
        self.objects.insert(&head.path, Object::Kept { bytes: bytes.into(), etag: etag.clone() });
        self.connection.reply(200, &format!("ETag: \"{etag}\"\r\n"), b"")
    }

    fn put_part(&mut self, upload: &str) -> io::Result<()> {
        let number = self.head.query("partNumber").and_then(|digits| digits.parse().ok()).unwrap_or(0);
        let seed = self.connection.discard(self.head)?;
        if !self.objects.add_part(upload, number, Part { size: self.head.size, seed }) {
            return self.error(404, "NoSuchUpload");
        }
        self.connection.reply(200, &format!("ETag: \"{UNHASHED_ETAG}\"\r\n"), b"")
    }

    fn create_upload(&mut self) -> io::Result<()> {
        self.connection.discard(self.head)?;
        let id = self.objects.create_upload();
        self.xml(&format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"))
    }

    fn complete(&mut self, upload: &str) -> io::Result<()> {
        self.connection.discard(self.head)?;
        let Some(count) = self.objects.complete(upload, &self.head.path) else {
            return self.error(404, "NoSuchUpload");
        };
        let etag = format!("&quot;{UNHASHED_ETAG}-{count}&quot;");
        self.xml(&format!("<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>"))
    }

    /// Keys come as they stood on the wire, and so does the token.
    fn list(&mut self) -> io::Result<()> {
        let query = |name| self.head.query(name).unwrap_or("").replace("%2F", "/");
        let max = self.head.query("max-keys").and_then(|digits| digits.parse().ok()).unwrap_or(1000);
        let bucket = format!("{}/", self.head.path.trim_end_matches('/'));
        let after = query("continuation-token").max(query("start-after"));
        let page = self.objects.page(&bucket, &query("prefix"), &after, max);
        let mut text = format!(
            "<ListBucketResult><KeyCount>{}</KeyCount><IsTruncated>{}</IsTruncated>",
            page.keys.len(),
            page.next.is_some()
        );
        if let Some(next) = &page.next {
            let _ = write!(text, "<NextContinuationToken>{next}</NextContinuationToken>");
        }
        for (key, size, etag) in &page.keys {
            let _ =
                write!(text, "<Contents><Key>{key}</Key><Size>{size}</Size><ETag>&quot;{etag}&quot;</ETag></Contents>");
        }
        text.push_str("</ListBucketResult>");
        self.xml(&text)
    }

    /// As of a bucket without versioning: every object has one, called `null`.
    fn list_versions(&mut self) -> io::Result<()> {
        let bucket = format!("{}/", self.head.path.trim_end_matches('/'));
        let prefix = self.head.query("prefix").unwrap_or("").replace("%2F", "/");
        let page = self.objects.page(&bucket, &prefix, "", 1000);
        let version = |(key, ..): &(String, u64, String)| {
            format!("<Version><Key>{key}</Key><VersionId>null</VersionId><IsLatest>true</IsLatest></Version>")
        };
        let versions: String = page.keys.iter().map(version).collect();
        self.xml(&format!("<ListVersionsResult><IsTruncated>false</IsTruncated>{versions}</ListVersionsResult>"))
    }

    fn get(&mut self) -> io::Result<()> {
        let Some(object) = self.objects.find(&self.head.path) else {
            return self.error(404, "NoSuchKey");
        };
        let (size, etag) = (object.size(), object.etag());
        let (from, to) = match self.head.range {
            None => (0, size),
            Some((from, last)) => (from.min(size), last.map_or(size, |last| (last + 1).min(size))),
        };
        let mut out = BufWriter::with_capacity(8 * 1024, &self.connection.stream);
        let status = if self.head.range.is_some() { "206 Partial Content" } else { "200 OK" };
        write!(out, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: \"{etag}\"\r\n", to - from)?;
        if self.head.range.is_some() {
            write!(out, "Content-Range: bytes {from}-{}/{size}\r\n", to.saturating_sub(1))?;
        }
        out.write_all(b"Content-Type: application/octet-stream\r\n\r\n")?;
        if self.head.method == "GET" {
            match &object {
                Object::Kept { bytes, .. } => out.write_all(&bytes[from as usize..to as usize])?,
                Object::Made { seed, .. } => write_made(&mut out, *seed, from, to)?,
            }
        }
        out.flush()
    }

    fn xml(&mut self, body: &str) -> io::Result<()> {
        self.connection.reply(200, "Content-Type: application/xml\r\n", body.as_bytes())
    }

    fn error(&mut self, status: u16, code: &str) -> io::Result<()> {
        let body = format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>");
        // An answer to HEAD has no body.
        let body = if self.head.method == "HEAD" { "" } else { body.as_str() };
        self.connection.reply(status, "Content-Type: application/xml\r\n", body.as_bytes())
    }
}

fn write_made(out: &mut impl Write, seed: u64, from: u64, to: u64) -> io::Result<()> {
    let (mut at, mut scratch) = (from, [0; 8]);
    while at < to {
        let piece = body::window(seed, at, (to - at).min(PIECE_BYTES) as usize, &mut scratch);
        out.write_all(piece)?;
        at += piece.len() as u64;
    }
    Ok(())
}
