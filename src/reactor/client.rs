//! The client's side of one request: its body comes in through here, its answer goes out. Implements the handlers'
//! `Exchange`; the connection begins and ends it.

use super::backends::{Sink, Source};
use super::buffer::Buffer;
use super::client_body::ClientBody;
use super::client_relay;
use super::deadline::Phase;
use super::ports::CorePorts;
use super::race::{Won, race};
use super::relay::Patience;
use super::site::{Scratch, Site};
use super::stream::{Follow, Stream};
use crate::backend::port::Moved;
use crate::base::failure::Kind;
use crate::base::{Blame, Clock, Failure, Retry, Tick};
use crate::handlers::ports::Exchange;
use crate::handlers::response::ResponseHead;
use crate::observe::audit::Entry;
use crate::observe::cells::TimeoutPhase;
use crate::observe::request_id::RequestId;
use crate::policy::body_path::BodyPath;
use crate::proto::aws_chunked::Form;
use crate::proto::body_check::BodyCheck;
use crate::proto::checksum::Algorithm;
use crate::proto::error_code::S3Error;
use crate::proto::http1::{CONTINUE, HeadWriter, Method, RequestHead};
use crate::proto::target::Target;
use crate::proto::xml;
use std::io;
use std::pin::pin;
use std::time::Duration;

/// Work may take so long until the client is told that it goes on, and so long between two times.
const KEEP_WAITING_EVERY: Duration = Duration::from_secs(10);

/// Unread body bytes that are read away so that the connection can go on; a longer rest closes it.
const DRAIN_BYTES_MAX: u64 = 256 * 1024;

/// What becomes of the connection after an exchange.
pub enum Turn {
    /// The next request may follow, behind the head in its buffer or, after a body, in this one.
    Next {
        ahead: Option<Buffer>,
        head_len: usize,
    },
    Close,
    Cut,
}

/// How far the answer has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Progress {
    Nothing,
    /// A head and the beginning of a document have been sent to a client that waits for long work (`patiently`).
    KeptWaiting,
    /// The head is in `out`, to leave with the first bytes of its body.
    HeadHeld,
    Body,
    Whole,
    /// The client went away, or a body cannot be finished.
    Broken,
}

/// What an exchange knows of its request from the start.
#[derive(Clone, Copy)]
pub struct Opening<'c> {
    pub head: &'c RequestHead<'c>,
    /// What came behind the head.
    pub early: &'c [u8],
    pub id: RequestId,
    pub arrived: Tick,
    /// The client's address and port.
    pub peer: &'c str,
}

pub struct ClientExchange<'c> {
    pub(super) site: &'c Site,
    pub(super) stream: &'c mut Stream,
    opening: Opening<'c>,
    /// What was read behind the head of a request with a body: its start, and later what lies behind its end.
    pub(super) ahead: Option<Buffer>,
    pub(super) body: ClientBody,
    continue_due: bool,
    received: Option<Buffer>,
    head: &'c mut ResponseHead,
    out: &'c mut Vec<u8>,
    progress: Progress,
    body_left: u64,
    keep_alive: bool,
    sent: u64,
    pub(super) received_bytes: u64,
    audit: Audit<'c>,
    /// Lines that every answer carries: what a bucket's CORS rules say to this request.
    cors: String,
    /// The key that a form named; others stand in the target.
    form_key: Option<Box<str>>,
}

/// How an answer's body ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Length {
    /// There is none, whatever the status says.
    None,
    Bytes(u64),
    Chunked,
}

fn write_chunk(out: &mut Vec<u8>, bytes: &[u8]) {
    use std::io::Write;
    write!(out, "{:x}\r\n", bytes.len()).expect("writing to a vector");
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// What the audit line will say beyond the request's head.
#[derive(Clone, Copy, Default)]
pub struct Audit<'c> {
    pub operation: &'static str,
    /// In place of the operation's own event.
    pub event: &'static str,
    pub bucket: &'c str,
    pub key: &'c str,
    pub user: &'c str,
    pub error: &'static str,
    /// No line at all: a probe of our health, which comes every few seconds and says nothing about objects.
    pub is_probe: bool,
    backend: &'c str,
    body_path: Option<BodyPath>,
}

impl<'c> ClientExchange<'c> {
    pub fn begin(
        site: &'c Site,
        stream: &'c mut Stream,
        opening: Opening<'c>,
        head: &'c mut ResponseHead,
        out: &'c mut Vec<u8>,
    ) -> Self {
        head.clear();
        out.clear();
        site.cells().request_started(opening.head.method);
        Self {
            site,
            stream,
            ahead: (!opening.head.framing.is_empty()).then(|| site.room_ahead(opening.early)),
            // Until its request is admitted a body is only something to be read away.
            body: ClientBody::new(opening.head.framing, None, None, None),
            continue_due: opening.head.expects_continue,
            received: None,
            head,
            out,
            progress: Progress::Nothing,
            body_left: 0,
            keep_alive: opening.head.keep_alive && !site.stopping.is_set(),
            sent: 0,
            received_bytes: 0,
            audit: Audit::default(),
            cors: String::new(),
            form_key: None,
            opening,
        }
    }

    /// The request is admitted: how its body is to be read.
    pub fn expect_body(&mut self, form: Option<Form>, length: Option<u64>, trailer: Option<Algorithm>) {
        self.body = ClientBody::new(self.opening.head.framing, form, length, trailer);
    }

    pub fn audit(&mut self) -> &mut Audit<'c> {
        &mut self.audit
    }

    pub fn note_target(&mut self, target: &Target<'c>) {
        self.audit.bucket = target.bucket.unwrap_or_default();
        self.audit.key = target.key.unwrap_or_default();
    }

    pub fn add_to_answer(&mut self, lines: String) {
        self.cors = lines;
    }

    pub(super) fn note_form_key(&mut self, key: &str) {
        self.form_key = Some(key.into());
    }

    pub(super) fn note_path(&mut self, path: BodyPath) {
        self.audit.body_path = Some(path);
    }

    /// The connection ends after this exchange, and the client is told so if it was not told anything yet.
    pub(super) fn close_after(&mut self) {
        self.keep_alive = false;
    }

    /// The client has to read: this long, until the deadline is disarmed again.
    pub(super) fn time_client(&self) {
        self.stream.deadline().arm(Phase::Body, self.site.view().server.body_progress_timeout);
    }

    /// The client has to send; it can be told that it did not.
    pub(super) fn time_input(&self) {
        self.stream.deadline().arm(Phase::Input, self.site.view().server.body_progress_timeout);
    }

    /// Sends `100 Continue` if the client waits for it.
    pub(super) async fn before_body(&mut self) -> Result<(), Failure> {
        if std::mem::take(&mut self.continue_due) {
            self.time_client();
            self.stream.write_all(CONTINUE, Follow::Nothing).await.map_err(|cause| self.lost_client(&cause))?;
            self.stream.deadline().disarm();
        }
        Ok(())
    }

    pub(super) fn lost_client(&mut self, cause: &io::Error) -> Failure {
        self.progress = Progress::Broken;
        if cause.kind() == io::ErrorKind::TimedOut {
            self.count_timeout();
        }
        Failure::new(Kind::Gone, Blame::Client, Retry::Never, format!("client: {cause}"))
    }

    pub(super) fn count_timeout(&self) {
        self.site.cells().timeouts.at(TimeoutPhase::ClientBody).inc();
    }

    pub(super) fn head_held(&self) -> bool {
        self.progress == Progress::HeadHeld
    }

    /// How long each side may stand still while the client's body goes to a backend.
    pub(super) fn patience_in(&self) -> Patience {
        let server = &self.site.view().server;
        Patience { source: server.body_progress_timeout, sink: server.backend_timeout }
    }

    /// The same for a backend's body on its way to the client.
    pub(super) fn patience_out(&self) -> Patience {
        let server = &self.site.view().server;
        Patience { source: server.backend_timeout, sink: server.body_progress_timeout }
    }

    /// Whether the whole body will be off the connection once the exchange has ended, so that another request can follow.
    fn can_go_on(&self) -> bool {
        // A client that was not told to continue may send its body or not: nobody can tell what its next bytes are. Even if
        // there is none: botocore misreads every further answer on a connection where an answer came in place of `100`.
        !self.continue_due && self.body.unread().is_some_and(|left| left <= DRAIN_BYTES_MAX)
    }

    /// The head as it goes out, in `out`.
    fn write_head(&mut self, length: Length) {
        self.keep_alive &= self.can_go_on() && !self.site.stopping.is_set();
        let mut head = HeadWriter::response(self.out, self.head.status);
        head.own("x-amz-request-id", self.opening.id);
        head.own("date", self.site.http_date());
        head.lines(self.head.fields()).lines(self.cors.as_bytes());
        match length {
            Length::None => {}
            Length::Bytes(bytes) => {
                head.header_u64("content-length", bytes);
            }
            Length::Chunked => {
                head.own("transfer-encoding", "chunked");
            }
        }
        if !self.keep_alive {
            head.own("connection", "close");
        }
        head.finish();
    }

    /// Tells a client that waits that the work goes on: the first time with a head and the declaration that its document
    /// begins with, then with a blank. Nothing is told to one that has gone, or that knows no chunks.
    async fn keep_waiting(&mut self) {
        match self.progress {
            Progress::Nothing if self.opening.head.http11 => {
                self.head.clear();
                self.head.field("content-type", "application/xml");
                self.write_head(Length::Chunked);
                write_chunk(self.out, xml::DECLARATION);
                self.progress = Progress::KeptWaiting;
            }
            Progress::KeptWaiting => {
                self.out.clear();
                write_chunk(self.out, b" ");
            }
            _ => return,
        }
        self.time_client();
        let sent = self.stream.write_all(self.out, Follow::Nothing).await;
        self.stream.deadline().disarm();
        match sent {
            Ok(()) => self.site.cells().client_bytes_out.add(self.out.len() as u64),
            Err(cause) => drop(self.lost_client(&cause)),
        }
    }

    /// The rest of the document, after `keep_waiting` has begun it.
    async fn end_waiting(&mut self, body: &[u8]) -> Result<(), Failure> {
        let rest = body.strip_prefix(xml::DECLARATION).unwrap_or(body);
        self.out.clear();
        if !rest.is_empty() {
            write_chunk(self.out, rest);
        }
        self.out.extend_from_slice(b"0\r\n\r\n");
        self.time_client();
        let sent = self.stream.write_all(self.out, Follow::Nothing).await;
        sent.map_err(|cause| self.lost_client(&cause))?;
        self.sent = body.len() as u64;
        self.site.cells().client_bytes_out.add(self.out.len() as u64);
        self.progress = Progress::Whole;
        Ok(())
    }

    /// Sends what is held of the head together with the first bytes of the body, all that `bytes` holds.
    pub(super) async fn send_body(&mut self, bytes: &mut Buffer) -> Result<(), Failure> {
        self.time_client();
        let count = bytes.len() as u64;
        let sent = if self.progress == Progress::HeadHeld {
            self.progress = Progress::Body;
            self.site.cells().client_bytes_out.add(self.out.len() as u64);
            if self.body_left == count {
                self.stream.post_from(self.out, bytes).await
            } else {
                self.stream.write_both(self.out, bytes.data(), Follow::Nothing).await
            }
        } else {
            self.stream.write_all(bytes.data(), Follow::Nothing).await
        };
        bytes.clear();
        sent.map_err(|cause| self.lost_client(&cause))?;
        // Whoever sends more of the body may wait for a backend first.
        self.stream.deadline().disarm();
        self.count_sent(count);
        Ok(())
    }

    pub(super) fn count_sent(&mut self, bytes: u64) {
        self.sent += bytes;
        self.site.cells().client_bytes_out.add(bytes);
        self.body_left -= bytes;
        if self.body_left == 0 && self.progress == Progress::Body {
            self.progress = Progress::Whole;
        }
    }

    /// Ends the exchange: what is left of the body is read away or the connection closed; metrics and audit.
    pub async fn end(&mut self) -> Turn {
        self.received = None;
        let turn = match self.progress {
            Progress::Whole if self.keep_alive => self.read_away().await,
            Progress::Whole => Turn::Close,
            // A handler that answered nothing, or only a part.
            _ => Turn::Cut,
        };
        self.stream.deadline().disarm();
        self.record();
        turn
    }

    /// Reads an unread body away, so that the next request can be found.
    async fn read_away(&mut self) -> Turn {
        let head_len = self.opening.head.head_len;
        let Some(mut ahead) = self.ahead.take() else { return Turn::Next { ahead: None, head_len } };
        let Some(unread) = self.body.unread() else { return Turn::Close };
        let mut left = usize::try_from(unread).unwrap_or(usize::MAX);
        self.time_client();
        loop {
            let count = ahead.len().min(left);
            ahead.consume(count);
            left -= count;
            if left == 0 {
                return Turn::Next { ahead: Some(ahead), head_len };
            }
            ahead.clear();
            match self.stream.read_at_most(&mut ahead, left).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Turn::Close,
            }
        }
    }

    fn record(&self) {
        let request = self.opening.head;
        let site = self.site;
        let ended = site.core().clock.tick();
        let duration = ended.since(self.opening.arrived);
        let status = if self.progress == Progress::Nothing { 0 } else { self.head.status };
        site.cells().request_ended(request.method, status, duration, self.received_bytes, self.sent);
        if self.audit.is_probe {
            return;
        }
        let entry = Entry {
            time: site.core().clock.wall_at(ended),
            request_id: self.opening.id,
            operation: self.audit.operation,
            event: if self.audit.operation.is_empty() && self.audit.event.is_empty() {
                "s3.InvalidRequest"
            } else {
                self.audit.event
            },
            method: request.method_word,
            path: request.path,
            remote: self.opening.peer,
            bucket: self.audit.bucket,
            key: self.form_key.as_deref().unwrap_or(self.audit.key),
            status,
            duration,
            request_size: self.received_bytes,
            response_size: self.sent,
            error: self.audit.error,
            cause: "",
            user: self.audit.user,
            backend: self.audit.backend,
            body_path: self.audit.body_path,
        };
        site.audit.record(&entry, site.cells());
    }
}

/// Answers a head that is no request; what it seems to ask for is named. The connection is closed afterwards.
pub async fn refuse(
    site: &Site,
    stream: &mut Stream,
    peer: &str,
    (method, path): (&str, &str),
    scratch: &mut Scratch,
    error: &S3Error,
) {
    let id = site.request_id();
    let arrived = site.core().clock.tick();
    let body = &mut scratch.handlers.body;
    body.clear();
    if method != "HEAD" {
        let about = xml::About { resource: path, ..xml::About::default() };
        xml::write_error(body, error, about, id.as_str());
    }
    scratch.out.clear();
    let mut head = HeadWriter::response(&mut scratch.out, error.http_status());
    head.own("x-amz-request-id", id);
    head.own("date", site.http_date());
    head.own("content-type", "application/xml");
    head.header_u64("content-length", body.len() as u64);
    head.own("connection", "close");
    head.finish();
    // A client that has gone away needs no answer.
    let _ = stream.write_both(&scratch.out, body, Follow::Nothing).await;
    let entry = Entry {
        time: site.now(),
        request_id: id,
        operation: "",
        event: "s3.MalformedRequest",
        method,
        path,
        remote: peer,
        bucket: "",
        key: "",
        status: error.http_status(),
        duration: site.core().clock.tick().since(arrived),
        request_size: 0,
        response_size: body.len() as u64,
        error: error.code.name(),
        cause: "",
        user: "",
        backend: "",
        body_path: None,
    };
    site.audit.record(&entry, site.cells());
}

impl Exchange<CorePorts> for ClientExchange<'_> {
    fn head(&mut self) -> &mut ResponseHead {
        self.head
    }

    async fn receive(&mut self, max: usize, check: &mut BodyCheck) -> Result<(), S3Error> {
        let received = client_relay::receive(self, max, check).await;
        self.stream.deadline().disarm();
        self.received = Some(received?);
        Ok(())
    }

    fn received(&self) -> &[u8] {
        self.received.as_ref().map_or(&[], Buffer::data)
    }

    async fn receive_into(&mut self, sinks: &mut [Sink], check: &mut BodyCheck) -> Moved {
        let moved = client_relay::receive_into(self, sinks, check).await;
        self.stream.deadline().disarm();
        moved
    }

    async fn patiently<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            // The work is never dropped: it is asked on after every wait.
            match race(work.as_mut(), self.site.core().clock.sleep(KEEP_WAITING_EVERY)).await {
                Won::First(done) => return done,
                Won::Second(()) => self.keep_waiting().await,
            }
        }
    }

    async fn respond(&mut self, body: &[u8]) -> Result<(), Failure> {
        match self.progress {
            Progress::KeptWaiting => return self.end_waiting(body).await,
            Progress::Broken => {
                return Err(Failure::new(Kind::Gone, Blame::Client, Retry::Never, "the client is gone"));
            }
            _ => {}
        }
        debug_assert_eq!(self.progress, Progress::Nothing, "a request is answered once");
        let to_head = self.opening.head.method == Method::Head;
        let length = match self.head.status {
            204 | 304 => Length::None,
            _ if to_head => Length::Bytes(self.head.content_length),
            _ => Length::Bytes(body.len() as u64),
        };
        self.write_head(length);
        let body = if to_head || length == Length::None { &[] } else { body };
        self.time_client();
        let sent = self.stream.post(self.out, body).await;
        sent.map_err(|cause| self.lost_client(&cause))?;
        self.sent = body.len() as u64;
        self.site.cells().client_bytes_out.add((self.out.len() + body.len()) as u64);
        self.progress = Progress::Whole;
        Ok(())
    }

    async fn send_head(&mut self, length: u64) -> Result<(), Failure> {
        debug_assert_eq!(self.progress, Progress::Nothing, "a request is answered once");
        self.write_head(Length::Bytes(length));
        self.body_left = length;
        self.progress = Progress::HeadHeld;
        if length == 0 {
            self.send_body(&mut Buffer::roomy(0)).await?;
        }
        Ok(())
    }

    async fn send_from(&mut self, source: Source) -> Moved {
        client_relay::send_from(self, source).await
    }

    fn note_backend(&mut self, backend: usize) {
        self.audit.backend = self.site.view().backends[backend].name.as_str();
    }

    fn answered(&self) -> bool {
        !matches!(self.progress, Progress::Nothing | Progress::KeptWaiting)
    }

    fn note_error(&mut self, error: &S3Error) {
        self.audit.error = error.code.name();
        self.keep_alive &= !error.close;
    }

    fn cut(&mut self) {
        self.keep_alive = false;
        if self.progress != Progress::Whole {
            self.site.cells().bodies_cut.inc();
            self.progress = Progress::Broken;
        }
    }
}
