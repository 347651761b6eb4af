//! A small S3 server for tests, on plain blocking threads: it checks every signature and payload hash, keeps objects,
//! versions and uploads in memory, and misbehaves when told to.
#![allow(clippy::disallowed_methods)] // it is on the other side of the wire: a real clock, real waiting

use crate::base::{Secret, Timestamp};
use crate::proto::http1::{BodyFraming, RequestHead};
use crate::proto::range::Range;
use crate::proto::sigv4::{PayloadMode, Request, Verifier};
use crate::proto::target::Query;
use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use md5::{Digest, Md5};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, SystemTime};

pub(super) const BUCKET: &str = "blobs";
pub(super) const ACCESS_KEY: &str = "stub-key";
pub(super) const SECRET_KEY: &str = "stub-secret";

/// What the stub does wrong, once each, in the order of requests.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    None,
    /// Closes without an answer, after the head.
    CloseUnanswered,
    /// Carries the request out, and closes without an answer.
    LoseAnswer,
    /// Answers, and closes although it did not say so.
    CloseAfter,
    /// Answers this, after the body was read.
    Answer(u16, &'static str),
    /// Answers this without reading the body, and closes.
    Early(u16, &'static str),
    /// Sends so many bytes of the body and cuts the connection.
    CutBodyAt(usize),
    /// Never answers.
    Stall,
    /// Sends this head in place of its own.
    Head(String),
    /// Sends an interim answer first, and its XML in chunks of a few bytes.
    Odd,
}

#[derive(Default)]
pub(super) struct State {
    /// By name: versions, oldest first; None is a delete marker.
    objects: BTreeMap<String, Vec<(String, Option<Vec<u8>>)>>,
    uploads: BTreeMap<(String, String), BTreeMap<u16, (String, Vec<u8>)>>,
    /// Of each name that was put or opened, whatever became of it.
    metadata: BTreeMap<String, Vec<(String, String)>>,
    minted: u64,
    pub(super) faults: VecDeque<Fault>,
    pub(super) is_versioned: bool,
    pub(super) lists_no_uploads: bool,
    /// An upload that it does not know is an upload that nobody may touch.
    pub(super) forbids_unknown_uploads: bool,
    pub(super) ignores_sha256: bool,
    /// Method and target of every request.
    pub(super) log: Vec<String>,
    /// The fields of the last PUT or POST that the stub took, without those of signing.
    pub(super) fields: Vec<(String, String)>,
    pub(super) connections: usize,
}

impl State {
    pub(super) fn body(&self, name: &str) -> Option<&[u8]> {
        self.objects.get(name)?.last()?.1.as_deref()
    }

    pub(super) fn names(&self) -> Vec<&str> {
        self.objects.keys().map(String::as_str).collect()
    }

    pub(super) fn open_uploads(&self) -> usize {
        self.uploads.len()
    }

    pub(super) fn put(&mut self, name: &str, body: Option<Vec<u8>>) -> String {
        self.minted += 1;
        let id = if self.is_versioned { format!("v/{}", self.minted) } else { String::new() };
        let versions = self.objects.entry(name.to_owned()).or_default();
        if !self.is_versioned {
            versions.clear();
        }
        versions.push((id.clone(), body));
        id
    }

    fn remove(&mut self, name: &str, keep: impl Fn(&str) -> bool) {
        if let Some(versions) = self.objects.get_mut(name) {
            versions.retain(|(id, _)| keep(id));
            if versions.is_empty() {
                self.objects.remove(name);
            }
        }
    }
}

#[derive(Clone)]
pub(super) struct Stub {
    pub(super) address: SocketAddr,
    state: Arc<Mutex<State>>,
    open: Arc<Mutex<Vec<Weak<TcpStream>>>>,
}

impl Stub {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let stub = Self { address, state: Arc::default(), open: Arc::default() };
        let served = stub.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let stub = served.clone();
                stub.state().connections += 1;
                let stream = Arc::new(stream);
                stub.open.lock().expect("no panic").push(Arc::downgrade(&stream));
                std::thread::spawn(move || drop(stub.serve(&stream)));
            }
        });
        stub
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic in the stub")
    }

    pub(super) fn fail_next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().faults.extend(faults);
    }

    /// Closes every connection that is open.
    pub(super) fn close_idle(&self) {
        for stream in self.open.lock().expect("no panic").drain(..).filter_map(|open| open.upgrade()) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn serve(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut unread = Vec::new();
        loop {
            let head_len = loop {
                if let Some(head) = RequestHead::parse(&unread, &mut 0).expect("we send well-formed heads") {
                    break head.head_len;
                }
                if read_more(stream, &mut unread)? == 0 {
                    return Ok(());
                }
            };
            let fault = self.state().faults.pop_front().unwrap_or(Fault::None);
            match &fault {
                Fault::CloseUnanswered => return Ok(()),
                Fault::Stall => {
                    while read_more(stream, &mut unread)? > 0 {}
                    return Ok(());
                }
                Fault::Early(status, code) => {
                    stream.write_all(error(*status, code).render(false).as_slice())?;
                    stream.shutdown(Shutdown::Write)?;
                    // Reset only after the answer has arrived.
                    std::thread::sleep(Duration::from_millis(200));
                    return Ok(());
                }
                _ => {}
            }
            let head_bytes = unread[..head_len].to_vec();
            let head = RequestHead::parse(&head_bytes, &mut 0).expect("parsed before").expect("complete");
            let body_len = match head.framing {
                BodyFraming::Length(len) => usize::try_from(len).expect("a test's body"),
                BodyFraming::None => 0,
                BodyFraming::Chunked => panic!("we never send chunks to a backend"),
            };
            while unread.len() < head_len + body_len {
                if read_more(stream, &mut unread)? == 0 {
                    return Ok(());
                }
            }
            let body = unread[head_len..head_len + body_len].to_vec();
            unread.drain(..head_len + body_len);
            if !self.answer(stream, &head, &body, &fault)? {
                return Ok(());
            }
        }
    }

    /// Whether the connection goes on.
    fn answer(&self, mut stream: &TcpStream, head: &RequestHead<'_>, body: &[u8], fault: &Fault) -> io::Result<bool> {
        let answer = match fault {
            Fault::Answer(status, code) => {
                self.state().log.push(format!("{} {}", head.method_word, head.target));
                error(*status, code)
            }
            _ => self.handle(head, body),
        };
        let mut bytes = answer.render(matches!(fault, Fault::Odd) && head.method_word != "HEAD");
        if head.method_word == "HEAD" {
            bytes.truncate(answer.head_len());
        }
        match fault {
            Fault::LoseAnswer => return Ok(false),
            Fault::Odd => stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?,
            Fault::CutBodyAt(len) => {
                stream.write_all(&bytes[..answer.head_len() + len])?;
                return Ok(false);
            }
            Fault::Head(head) => {
                stream.write_all(head.as_bytes())?;
                stream.write_all(&answer.body)?;
                return Ok(false);
            }
            _ => {}
        }
        stream.write_all(&bytes)?;
        Ok(!matches!(fault, Fault::CloseAfter))
    }

    fn handle(&self, head: &RequestHead<'_>, body: &[u8]) -> Answer {
        let mut state = self.state();
        state.log.push(format!("{} {}", head.method_word, head.target));
        if let Err(code) = verify(head, body, state.ignores_sha256) {
            return error(if code == "XAmzContentSHA256Mismatch" { 400 } else { 403 }, code);
        }
        if matches!(head.method_word, "PUT" | "POST") {
            let own = |name: &str| ["host", "authorization", "x-amz-date", "x-amz-content-sha256"].contains(&name);
            let fields = head.headers.iter().filter(|field| !own(field.name));
            state.fields = fields.map(|field| (field.name.to_owned(), text(field.value))).collect();
        }
        let (path, query) = head.target.split_once('?').unwrap_or((head.target, ""));
        let query = Query::new(query);
        let Some(name) = path.strip_prefix(&format!("/{BUCKET}/")).map(decode) else {
            return error(404, "NoSuchBucket");
        };
        let parameter = |key: &str| query.value(key).expect("well-formed").map(std::borrow::Cow::into_owned);
        if matches!(head.method_word, "PUT" | "POST") && parameter("uploadId").is_none() {
            let mut kept = state.fields.clone();
            kept.retain(|(name, _)| name.starts_with("x-amz-meta-"));
            state.metadata.insert(name.clone(), kept);
        }
        match (head.method_word, name.is_empty()) {
            ("GET", true) => list(
                &state,
                &query,
                &parameter("prefix").unwrap_or_default(),
                &parameter("start-after").unwrap_or_default(),
            ),
            ("GET" | "HEAD", false) => read(&state, head, &name, parameter("versionId")),
            ("PUT", false) => {
                let source = match copied(&state, head) {
                    Ok(source) => source,
                    Err(code) => return error(404, code),
                };
                let is_copy = source.is_some();
                let body = source.as_deref().unwrap_or(body);
                let answer = match (parameter("uploadId"), parameter("partNumber")) {
                    (Some(upload), Some(number)) => put_part(&mut state, name, upload, &number, body),
                    _ => put_object(&mut state, head, &name, body),
                };
                if is_copy {
                    let etag = etag_of(body);
                    return Answer::xml(format!("<CopyObjectResult><ETag>{etag}</ETag></CopyObjectResult>"));
                }
                answer
            }
            ("DELETE", false) => match parameter("uploadId") {
                Some(upload) => match state.uploads.remove(&(name, upload)) {
                    Some(_) => Answer::new(204),
                    None if state.forbids_unknown_uploads => error(403, "AccessDenied"),
                    None => error(404, "NoSuchUpload"),
                },
                None => delete(&mut state, &name, parameter("versionId")),
            },
            ("POST", false) => match parameter("uploadId") {
                Some(upload) => complete(&mut state, name, upload, body),
                None => {
                    state.minted += 1;
                    let upload = format!("u+/{}", state.minted);
                    state.uploads.insert((name, upload.clone()), BTreeMap::new());
                    Answer::xml(format!(
                        "<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
                    ))
                }
            },
            _ => error(405, "MethodNotAllowed"),
        }
    }
}

fn verify(head: &RequestHead<'_>, body: &[u8], ignores_sha256: bool) -> Result<(), &'static str> {
    let (path, query) = head.target.split_once('?').unwrap_or((head.target, ""));
    let request =
        Request { method: head.method_word, path: path.as_bytes(), query: query.as_bytes(), headers: &head.headers };
    let millis = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis();
    let now = Timestamp { millis: i64::try_from(millis).expect("soon enough") };
    let secret = Secret::new(SECRET_KEY);
    let verified = Verifier::new()
        .verify(&request, now, None, |key| (key == ACCESS_KEY).then_some((&secret, ())))
        .map_err(|_| "SignatureDoesNotMatch")?;
    match verified.payload {
        PayloadMode::DeclaredSha256(want) if !ignores_sha256 => {
            let got = digest::digest(&digest::SHA256, body);
            if got.as_ref() == want { Ok(()) } else { Err("XAmzContentSHA256Mismatch") }
        }
        _ => Ok(()),
    }
}

fn put_object(state: &mut State, head: &RequestHead<'_>, name: &str, body: &[u8]) -> Answer {
    if let Some(declared) = head.header("x-amz-checksum-crc32")
        && data_encoding::BASE64.encode(&crc32fast::hash(body).to_be_bytes()).as_bytes() != declared
    {
        return error(400, "BadDigest");
    }
    let id = state.put(name, Some(body.to_vec()));
    let mut answer = Answer::new(200).field("ETag", etag_of(body));
    if !id.is_empty() {
        answer = answer.field("x-amz-version-id", id);
    }
    answer
}

/// The bytes that a copy is made of.
fn copied(state: &State, head: &RequestHead<'_>) -> Result<Option<Vec<u8>>, &'static str> {
    let Some(source) = head.header("x-amz-copy-source").map(text) else { return Ok(None) };
    let name = source.strip_prefix(&format!("/{BUCKET}/")).map(decode).ok_or("NoSuchBucket")?;
    let body = state.body(&name).ok_or("NoSuchKey")?;
    let range = head.header("x-amz-copy-source-range").map(text);
    let ends = range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let number = |end: &str| end.parse::<usize>().expect("a number");
    let piece = ends.map_or(body, |(first, last)| &body[number(first)..=number(last)]);
    Ok(Some(piece.to_vec()))
}

fn put_part(state: &mut State, name: String, upload: String, number: &str, body: &[u8]) -> Answer {
    let Some(parts) = state.uploads.get_mut(&(name, upload)) else { return error(404, "NoSuchUpload") };
    parts.insert(number.parse().expect("a part number"), (etag_of(body), body.to_vec()));
    Answer::new(200).field("ETag", etag_of(body))
}

fn complete(state: &mut State, name: String, upload: String, body: &[u8]) -> Answer {
    let Ok(manifest) = crate::proto::xml::read_complete_multipart_upload(body) else {
        return error(400, "MalformedXML");
    };
    let key = (name, upload);
    let Some(parts) = state.uploads.get(&key) else { return error(404, "NoSuchUpload") };
    let mut whole = Vec::new();
    for part in &manifest {
        match parts.get(&part.number.get()) {
            Some((etag, bytes)) if etag.trim_matches('"') == part.etag => whole.extend_from_slice(bytes),
            _ => return error(400, "InvalidPart"),
        }
    }
    state.uploads.remove(&key);
    state.put(&key.0, Some(whole));
    Answer::xml(format!(
        "<CompleteMultipartUploadResult><ETag>\"e-{}\"</ETag></CompleteMultipartUploadResult>",
        manifest.len()
    ))
}

fn read(state: &State, head: &RequestHead<'_>, name: &str, version: Option<String>) -> Answer {
    let versions = state.objects.get(name).map(Vec::as_slice).unwrap_or_default();
    let found = match version {
        Some(id) => versions.iter().find(|(other, _)| *other == id),
        None => versions.last(),
    };
    let Some(body) = found.and_then(|(_, body)| body.as_deref()) else { return error(404, "NoSuchKey") };
    if head.header("if-match").is_some_and(|want| want != etag_of(body).as_bytes()) {
        return error(412, "PreconditionFailed");
    }
    let size = body.len() as u64;
    let mut answer = match Range::of(head.header("range"), size) {
        Range::Part { first, last } => {
            let mut answer = Answer::new(206).field("Content-Range", format!("bytes {first}-{last}/{size}"));
            answer.body = body[first as usize..=last as usize].to_vec();
            answer
        }
        Range::Whole => {
            let mut answer = Answer::new(200);
            answer.body = body.to_vec();
            answer
        }
        Range::Unsatisfiable => return error(416, "InvalidRange"),
    };
    answer = answer.field("ETag", etag_of(body));
    let metadata = state.metadata.get(name).map(Vec::as_slice).unwrap_or_default();
    metadata.iter().fold(answer, |answer, (name, value)| answer.field(name, value))
}

fn delete(state: &mut State, name: &str, version: Option<String>) -> Answer {
    match version {
        Some(id) => state.remove(name, |other| other != id),
        None if state.is_versioned => {
            let id = state.put(name, None);
            return Answer::new(204).field("x-amz-delete-marker", "true").field("x-amz-version-id", id);
        }
        None => state.remove(name, |_| false),
    }
    Answer::new(204)
}

fn list(state: &State, query: &Query<'_>, prefix: &str, after: &str) -> Answer {
    const PAGE: usize = 3;
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
    if query.has("uploads") {
        if state.lists_no_uploads {
            return error(501, "NotImplemented");
        }
        let uploads = state.uploads.keys().filter(|(name, _)| name.starts_with(prefix)).take(PAGE);
        let uploads: String = uploads
            .map(|(name, id)| format!("<Upload><Key>{}</Key><UploadId>{id}</UploadId></Upload>", escape(name)))
            .collect();
        return Answer::xml(format!("<ListMultipartUploadsResult>{uploads}</ListMultipartUploadsResult>"));
    }
    let names = state.objects.iter().filter(|(name, _)| name.starts_with(prefix));
    if query.has("versions") {
        let versions = names.flat_map(|(name, versions)| versions.iter().map(move |one| (name, one)));
        let element = |is_marker: bool| if is_marker { "DeleteMarker" } else { "Version" };
        let versions: String = versions
            .take(PAGE)
            .map(|(name, (id, body))| {
                let element = element(body.is_none());
                format!("<{element}><Key>{}</Key><VersionId>{id}</VersionId></{element}>", escape(name))
            })
            .collect();
        return Answer::xml(format!("<ListVersionsResult>{versions}</ListVersionsResult>"));
    }
    let bodies = names.filter_map(|(name, versions)| Some((name, versions.last()?.1.as_ref()?.len())));
    let found: Vec<(&String, usize)> = bodies.filter(|(name, _)| name.as_str() > after).collect();
    let more = if found.len() > PAGE {
        "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
    } else {
        "<IsTruncated>false</IsTruncated>"
    };
    let entries: String = found
        .iter()
        .take(PAGE)
        .map(|(name, size)| {
            let mut encoded = String::new();
            crate::proto::target::encode_percent(name.as_bytes(), true, &mut encoded);
            format!("<Contents><Key>{encoded}</Key><Size>{size}</Size></Contents>")
        })
        .collect();
    Answer::xml(format!("<ListBucketResult>{more}{entries}<EncodingType>url</EncodingType></ListBucketResult>"))
}

/// An answer to be sent.
struct Answer {
    status: u16,
    fields: String,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16) -> Self {
        Self { status, fields: String::new(), body: Vec::new() }
    }

    fn xml(inner: String) -> Self {
        Self { body: format!("<?xml version=\"1.0\"?>\n{inner}").into_bytes(), ..Self::new(200) }
    }

    fn field(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.fields.push_str(&format!("{name}: {}\r\n", value.as_ref()));
        self
    }

    fn head(&self) -> String {
        let length =
            if self.status == 204 { String::new() } else { format!("Content-Length: {}\r\n", self.body.len()) };
        format!("HTTP/1.1 {} Status\r\n{length}{}\r\n", self.status, self.fields)
    }

    fn head_len(&self) -> usize {
        self.head().len()
    }

    fn render(&self, chunked: bool) -> Vec<u8> {
        if !chunked || self.body.is_empty() {
            return [self.head().as_bytes(), &self.body].concat();
        }
        let mut bytes = format!("HTTP/1.1 {} Status\r\nTransfer-Encoding: chunked\r\n{}\r\n", self.status, self.fields);
        for piece in self.body.chunks(7) {
            bytes.push_str(&format!("{:x}\r\n{}\r\n", piece.len(), String::from_utf8_lossy(piece)));
        }
        bytes.push_str("0\r\n\r\n");
        bytes.into_bytes()
    }
}

fn error(status: u16, code: &str) -> Answer {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>told by the stub</Message></Error>");
    Answer { body: body.into_bytes(), ..Answer::new(status) }
}

pub(super) fn etag_of(body: &[u8]) -> String {
    format!("\"{}\"", HEXLOWER.encode(&Md5::digest(body)))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A path's percent escapes undone; a plus is a plus.
fn decode(path: &str) -> String {
    crate::proto::target::decode_query(&path.replace('+', "%2B")).expect("we encode well").into_owned()
}

fn read_more(mut stream: &TcpStream, into: &mut Vec<u8>) -> io::Result<usize> {
    let mut piece = [0; 64 * 1024];
    let count = stream.read(&mut piece)?;
    into.extend_from_slice(&piece[..count]);
    Ok(count)
}
