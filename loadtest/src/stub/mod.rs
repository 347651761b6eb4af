//! An S3 endpoint that keeps no large bodies: it answers at once, so that what is measured is whoever stands in front of it.
//!
//! Small bodies (up to 64 KiB) are checked as S3 would: a wrong `x-amz-content-sha256` or checksum is refused and the ETag is
//! the MD5. Of the load's own and of larger ones only size and seed are kept, and GET makes the bytes anew (`body`); the
//! declared hash of large ones is taken on trust and their ETag is a constant, because hashing here would be measured as the
//! proxy's time on a small machine. Signatures are not checked. Never for anything but measurements.

mod connection;
mod objects;

use crate::body::Span;
use crate::{cores, socket};
use connection::{Connection, Head};
use objects::{Body, KEEP_BYTES, Object, Objects, Part, UNHASHED_ETAG};
use std::fmt::Write as _;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// A listener; port 0 takes a free one.
pub fn bind(listen: &str) -> io::Result<TcpListener> {
    socket::listen(listen)
}

/// Serves until the process ends, or until no connection can be accepted.
pub fn serve(listener: &TcpListener) -> io::Result<()> {
    let objects = Arc::new(Objects::default());
    let ended = cores::on_each(cores::count(usize::MAX), async |_| {
        let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
        loop {
            let (stream, objects) = (listener.accept().await?.0, Arc::clone(&objects));
            // A connection that breaks concerns its own client only.
            tokio::spawn(async move { drop(answer_all(stream, &objects).await) });
        }
    });
    ended.into_iter().collect()
}

async fn answer_all(stream: TcpStream, objects: &Objects) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = Connection::new(stream);
    while let Some(head) = connection.read_head().await? {
        Exchange { connection: &mut connection, objects, head: &head }.answer().await?;
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
    async fn answer(&mut self) -> io::Result<()> {
        let head = self.head;
        let (upload, uploads) = (head.query("uploadId"), head.query("uploads"));
        match (head.method.as_str(), upload) {
            ("PUT", Some(upload)) => self.put_part(upload).await,
            ("PUT", None) => self.put().await,
            ("POST", None) if uploads.is_some() => self.create_upload().await,
            ("POST", Some(upload)) => self.complete(upload).await,
            ("DELETE", Some(upload)) => {
                self.objects.abort(upload);
                self.connection.reply(204, "", b"").await
            }
            ("DELETE", None) => {
                self.objects.remove(&head.path);
                self.connection.reply(204, "", b"").await
            }
            ("GET", None) if uploads.is_some() => {
                self.xml("<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>")
                    .await
            }
            ("GET", None) if head.query("list-type").is_some() => self.list().await,
            ("GET", None) if head.query("versions").is_some() => self.list_versions().await,
            ("GET" | "HEAD", None) => self.get().await,
            _ => {
                self.connection.discard(head).await?;
                self.error(501, "NotImplemented").await
            }
        }
    }

    async fn put(&mut self) -> io::Result<()> {
        let head = self.head;
        if head.size > KEEP_BYTES {
            let seed = self.connection.discard(head).await?;
            self.objects.insert(&head.path, Object::unhashed(seed, head.size));
            return self.connection.reply(200, &format!("ETag: \"{UNHASHED_ETAG}\"\r\n"), b"").await;
        }
        let mut bytes = Vec::with_capacity(head.size as usize);
        self.connection.read_body(head, |piece| bytes.extend_from_slice(piece)).await?;
        if let Err(code) = objects::check_declared(&bytes, head.sha256.as_deref(), &head.checksums) {
            return self.error(400, code).await;
        }
        let object = Object::of(bytes);
        let etag = format!("ETag: \"{}\"\r\n", object.etag);
        self.objects.insert(&head.path, object);
        self.connection.reply(200, &etag, b"").await
    }

    async fn put_part(&mut self, upload: &str) -> io::Result<()> {
        let number = self.head.query("partNumber").and_then(|digits| digits.parse().ok()).unwrap_or(0);
        let seed = self.connection.discard(self.head).await?;
        if !self.objects.add_part(upload, number, Part { size: self.head.size, seed }) {
            return self.error(404, "NoSuchUpload").await;
        }
        self.connection.reply(200, &format!("ETag: \"{UNHASHED_ETAG}\"\r\n"), b"").await
    }

    async fn create_upload(&mut self) -> io::Result<()> {
        self.connection.discard(self.head).await?;
        let id = self.objects.create_upload();
        self.xml(&format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"))
            .await
    }

    async fn complete(&mut self, upload: &str) -> io::Result<()> {
        self.connection.discard(self.head).await?;
        let Some(count) = self.objects.complete(upload, &self.head.path) else {
            return self.error(404, "NoSuchUpload").await;
        };
        let etag = format!("&quot;{UNHASHED_ETAG}-{count}&quot;");
        self.xml(&format!("<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>")).await
    }

    /// Keys come as they stood on the wire, and so does the token.
    async fn list(&mut self) -> io::Result<()> {
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
        self.xml(&text).await
    }

    /// As of a bucket without versioning: every object has one, called `null`.
    async fn list_versions(&mut self) -> io::Result<()> {
        let bucket = format!("{}/", self.head.path.trim_end_matches('/'));
        let prefix = self.head.query("prefix").unwrap_or("").replace("%2F", "/");
        let page = self.objects.page(&bucket, &prefix, "", 1000);
        let version = |(key, ..): &(String, u64, String)| {
            format!("<Version><Key>{key}</Key><VersionId>null</VersionId><IsLatest>true</IsLatest></Version>")
        };
        let versions: String = page.keys.iter().map(version).collect();
        self.xml(&format!("<ListVersionsResult><IsTruncated>false</IsTruncated>{versions}</ListVersionsResult>")).await
    }

    async fn get(&mut self) -> io::Result<()> {
        let Some(object) = self.objects.find(&self.head.path) else {
            return self.error(404, "NoSuchKey").await;
        };
        let (size, etag) = (object.size(), &object.etag);
        let (from, to) = match self.head.range {
            None => (0, size),
            Some((from, last)) => (from.min(size), last.map_or(size, |last| (last + 1).min(size))),
        };
        let is_part = self.head.range.is_some();
        let status = if is_part { "206 Partial Content" } else { "200 OK" };
        let mut out = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: \"{etag}\"\r\n", to - from);
        if is_part {
            let _ = write!(out, "Content-Range: bytes {from}-{}/{size}\r\n", to.saturating_sub(1));
        }
        out.push_str("Content-Type: application/octet-stream\r\n\r\n");
        let mut out = out.into_bytes();
        let stream = &mut self.connection.stream;
        if self.head.method == "HEAD" {
            return stream.write_all(&out).await;
        }
        let span = |seed| Span { seed, from, to };
        match object.body {
            Body::Kept(bytes) => out.extend_from_slice(&bytes[from as usize..to as usize]),
            Body::Made { seed, .. } if to - from <= KEEP_BYTES => span(seed).each(|piece| out.extend_from_slice(piece)),
            Body::Made { seed, .. } => {
                stream.write_all(&out).await?;
                let (mut left, mut scratch) = (span(seed), [0; 8]);
                while let Some(piece) = left.next(&mut scratch) {
                    stream.write_all(piece).await?;
                }
                return Ok(());
            }
        }
        stream.write_all(&out).await
    }

    async fn xml(&mut self, body: &str) -> io::Result<()> {
        self.connection.reply(200, "Content-Type: application/xml\r\n", body.as_bytes()).await
    }

    async fn error(&mut self, status: u16, code: &str) -> io::Result<()> {
        let body = format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>");
        // An answer to HEAD has no body.
        let body = if self.head.method == "HEAD" { "" } else { body.as_str() };
        self.connection.reply(status, "Content-Type: application/xml\r\n", body.as_bytes()).await
    }
}
