//! One JSON line per request, whoever sent it and however it ended. A core formats into its own buffer without allocating
//! and hands full buffers over; one plain thread writes them to standard output and returns them empty. A core never
//! waits for that thread: when it does not keep up, lines are dropped and counted.

use super::cells::CoreCells;
use super::json_line::{JsonLine, name};
use super::output::{Flush, Told, write};
use super::request_id::RequestId;
use crate::base::Timestamp;
use crate::policy::body_path::BodyPath;
use crate::proto::date::{DateText, Iso8601};
use std::cell::RefCell;
use std::io::Write;
use std::time::Duration;

/// A buffer is handed over when it holds so much; the reactor's tick hands it over earlier.
const HAND_OVER_BYTES: usize = 32 * 1024;
/// While no buffer can be handed over a core's may grow to this; then lines are dropped.
const BUFFER_BYTES_MAX: usize = 1024 * 1024;
/// Full buffers on their way to the writer, from all cores.
const BUFFERS_IN_FLIGHT: usize = 64;

/// What is known of a request when it is over. Empty texts are left out of the line.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    pub time: Timestamp,
    pub request_id: RequestId,
    /// As S3 calls the operation; the event is then `s3.{operation}`. Empty: `event` says what happened.
    pub operation: &'static str,
    /// `s3.AuthFailure`, `s3.InvalidPath`, `s3.BucketDenied`, `s3.ActionDenied`, `s3.MethodNotAllowed`, …: the event in
    /// place of the operation's.
    pub event: &'static str,
    pub method: &'a str,
    /// As the client sent it, without the query.
    pub path: &'a str,
    /// Its address and port.
    pub remote: &'a str,
    pub bucket: &'a str,
    pub key: &'a str,
    pub status: u16,
    pub duration: Duration,
    /// Body bytes, without framing.
    pub request_size: u64,
    pub response_size: u64,
    /// The S3 error code that the client got.
    pub error: &'a str,
    /// What was behind it; never shown to the client.
    pub cause: &'a str,
    pub user: &'a str,
    /// The backend that served it.
    pub backend: &'a str,
    /// How the body was moved, if there was one.
    pub body_path: Option<BodyPath>,
}

/// A core's end.
#[derive(Debug)]
pub struct AuditLog {
    buffer: RefCell<Vec<u8>>,
    date: RefCell<Iso8601>,
    full: flume::Sender<Told>,
    empty: flume::Receiver<Vec<u8>>,
}

impl AuditLog {
    pub fn record(&self, entry: &Entry<'_>, cells: &CoreCells) {
        let mut buffer = self.buffer.borrow_mut();
        if buffer.len() >= HAND_OVER_BYTES {
            self.hand_over(&mut buffer);
        }
        if buffer.len() >= BUFFER_BYTES_MAX {
            cells.audit_dropped.inc();
            return;
        }
        write_line(&mut buffer, self.date.borrow_mut().of(entry.time), entry, &cells.core);
        cells.audit_lines.inc();
    }

    /// Hands over what is there; called by the reactor's tick, and at its end. False: the writer does not keep up, and it waits
    /// for the next time.
    pub fn flush(&self) -> bool {
        let mut buffer = self.buffer.borrow_mut();
        if !buffer.is_empty() {
            self.hand_over(&mut buffer);
        }
        buffer.is_empty()
    }

    /// At the end, when nobody waits any longer for the writer: what is left is dropped and counted. Answers how many lines.
    pub fn give_up(&self, cells: &CoreCells) -> u64 {
        let lost = std::mem::take(&mut *self.buffer.borrow_mut());
        let lines = lost.iter().filter(|&&byte| byte == b'\n').count() as u64;
        cells.audit_dropped.add(lines);
        lines
    }

    fn hand_over(&self, buffer: &mut Vec<u8>) {
        if self.full.is_full() {
            return;
        }
        let fresh = self.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(2 * HAND_OVER_BYTES));
        let lines = Told::Lines(std::mem::replace(buffer, fresh));
        if let Err(error) = self.full.try_send(lines)
            && let Told::Lines(lines) = error.into_inner()
        {
            *buffer = lines; // another core was faster; what is here waits for the next try
        }
    }
}

/// The writer's end.
#[derive(Debug)]
pub struct AuditWriter {
    full: flume::Receiver<Told>,
    empty: flume::Sender<Vec<u8>>,
}

impl AuditWriter {
    /// Writes until every core's end is gone, and whoever may wait. Blocks: it has a thread to itself.
    pub fn run(self, out: &mut impl Write) {
        for told in &self.full {
            let Some(mut buffer) = write(out, told) else { continue };
            buffer.clear();
            if buffer.capacity() <= 4 * HAND_OVER_BYTES {
                let _ = self.empty.try_send(buffer);
            }
        }
    }
}

/// One end per core, the writer's, and what whoever ends the process waits with.
pub fn audit_log(cores: usize) -> (Vec<AuditLog>, AuditWriter, Flush) {
    let (full_in, full) = flume::bounded(BUFFERS_IN_FLIGHT);
    let (empty_in, empty) = flume::bounded(BUFFERS_IN_FLIGHT);
    let end = |_| AuditLog {
        buffer: RefCell::new(Vec::with_capacity(2 * HAND_OVER_BYTES)),
        date: RefCell::default(),
        full: full_in.clone(),
        empty: empty.clone(),
    };
    ((0..cores).map(end).collect(), AuditWriter { full, empty: empty_in }, Flush(full_in.clone()))
}

fn write_line(buffer: &mut Vec<u8>, time: DateText<24>, entry: &Entry<'_>, core: &str) {
    let mut line = JsonLine::begin(buffer, time, "INFO", "audit");
    line.flag(name!("audit"), true);
    if entry.event.is_empty() {
        line.word_in_two(name!("event"), "s3.", entry.operation);
    } else {
        line.word(name!("event"), entry.event);
    }
    line.word(name!("request_id"), entry.request_id);
    if !entry.operation.is_empty() {
        line.word(name!("operation"), entry.operation);
    }
    line.text_if_any(name!("method"), entry.method);
    line.text_if_any(name!("path"), entry.path);
    line.text_if_any(name!("remote"), entry.remote);
    line.text_if_any(name!("bucket"), entry.bucket);
    line.text_if_any(name!("key"), entry.key);
    line.whole(name!("status"), u64::from(entry.status));
    line.seconds(name!("duration"), entry.duration);
    line.whole(name!("request_size"), entry.request_size);
    line.whole(name!("response_size"), entry.response_size);
    line.text_if_any(name!("error"), entry.error);
    line.text_if_any(name!("cause"), entry.cause);
    line.text_if_any(name!("user"), entry.user);
    line.text_if_any(name!("backend"), entry.backend);
    if let Some(path) = entry.body_path {
        line.word(name!("body_path"), path.as_str());
    }
    line.word(name!("core"), core);
    line.end();
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: Entry<'static> = Entry {
        time: Timestamp { millis: 1_790_000_000_123 },
        request_id: RequestId::ZERO,
        operation: "GetObject",
        event: "",
        method: "GET",
        path: "/photos/a%22b",
        remote: "127.0.0.1:4321",
        bucket: "photos",
        key: "a\"b",
        status: 200,
        duration: Duration::from_micros(1_000_042),
        request_size: 0,
        response_size: 4096,
        error: "",
        cause: "",
        user: "photoskey",
        backend: "one",
        body_path: Some(BodyPath::Copy),
    };

    fn cells() -> CoreCells {
        CoreCells::new("0", [])
    }

    #[test]
    fn a_line_says_everything_once() {
        let mut buffer = Vec::new();
        write_line(&mut buffer, Iso8601::default().of(ENTRY.time), &ENTRY, "0");
        let want = concat!(
            r#"{"time":"2026-09-21T14:13:20.123Z","level":"INFO","msg":"audit","audit":true,"event":"s3.GetObject","#,
            r#""request_id":"0000000000000000","operation":"GetObject","method":"GET","path":"/photos/a%22b","#,
            r#""remote":"127.0.0.1:4321","bucket":"photos","key":"a\"b","status":200,"duration":1.000042,"#,
            r#""request_size":0,"response_size":4096,"user":"photoskey","backend":"one","body_path":"copy","core":"0"}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(buffer).expect("UTF-8"), want);
        let mut buffer = Vec::new();
        let denied =
            Entry { event: "s3.AuthFailure", operation: "", error: "SignatureDoesNotMatch", body_path: None, ..ENTRY };
        write_line(&mut buffer, Iso8601::default().of(denied.time), &denied, "0");
        let json: serde_json::Value = serde_json::from_slice(&buffer).expect("valid JSON");
        assert_eq!(
            (json["event"].as_str(), json["error"].as_str()),
            (Some("s3.AuthFailure"), Some("SignatureDoesNotMatch"))
        );
        assert!(json.get("operation").is_none() && json.get("body_path").is_none());
    }

    #[test]
    fn every_line_arrives_whole() {
        let (logs, writer, _) = audit_log(2);
        let cells = cells();
        for i in 0..1000 {
            logs[i % 2].record(&ENTRY, &cells);
        }
        assert!(logs.iter().all(AuditLog::flush), "there is room");
        drop(logs);
        let mut out = Vec::new();
        writer.run(&mut out);
        let text = String::from_utf8(out).expect("UTF-8");
        assert_eq!(text.lines().count(), 1000);
        assert!(text.lines().all(|line| line.starts_with("{\"time\"") && line.ends_with("\"}")));
        assert_eq!((cells.audit_lines.value(), cells.audit_dropped.value()), (1000, 0));
    }

    #[test]
    fn a_writer_that_stands_still_costs_lines_and_never_a_core() {
        let (logs, writer, _) = audit_log(1);
        let cells = cells();
        while cells.audit_dropped.value() == 0 {
            logs[0].record(&ENTRY, &cells);
        }
        logs[0].flush();
        let kept = cells.audit_lines.value();
        let mut out = Vec::new();
        let writing = std::thread::spawn(move || {
            writer.run(&mut out);
            out
        });
        while logs[0].full.is_full() {
            std::thread::yield_now();
        }
        logs[0].record(&ENTRY, &cells);
        while !logs[0].flush() {
            std::thread::yield_now();
        }
        drop(logs);
        let out = writing.join().expect("the writer ends with the cores");
        assert_eq!(out.iter().filter(|&&b| b == b'\n').count() as u64, kept + 1, "what was not dropped was written");
        assert_eq!(cells.audit_lines.value(), kept + 1);
    }

    #[test]
    fn what_is_given_up_at_the_end_is_counted() {
        let (logs, writer, _) = audit_log(1);
        let cells = cells();
        while logs[0].flush() {
            logs[0].record(&ENTRY, &cells);
        }
        logs[0].record(&ENTRY, &cells);
        assert!(!logs[0].flush(), "the writer stands still");
        assert_eq!((logs[0].give_up(&cells), cells.audit_dropped.value()), (2, 2));
        assert_eq!((logs[0].flush(), logs[0].give_up(&cells)), (true, 0), "nothing is left");
        drop(logs);
        let mut out = Vec::new();
        writer.run(&mut out);
        let written = out.iter().filter(|&&b| b == b'\n').count() as u64;
        assert_eq!(written + 2, cells.audit_lines.value());
    }

    #[test]
    fn the_end_waits_for_what_was_handed_over_and_not_for_ever() {
        let (logs, writer, flush) = audit_log(1);
        for _ in 0..1000 {
            logs[0].record(&ENTRY, &cells());
        }
        logs[0].flush();
        assert!(!flush.wait_at_most(Duration::from_millis(10)), "nobody writes");
        let (written_in, written) = flume::unbounded();
        let writing = std::thread::spawn(move || writer.run(&mut Slowly(written_in)));
        assert!(flush.wait_at_most(Duration::from_secs(60)));
        let lines: Vec<u8> = written.try_iter().collect();
        assert_eq!(lines.iter().filter(|&&b| b == b'\n').count(), 1000, "all are written by then");
        drop((logs, flush));
        writing.join().expect("it ends with the cores");
    }

    /// Takes a piece of a buffer at a time, as a pipe does.
    struct Slowly(flume::Sender<u8>);

    impl Write for Slowly {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let piece = bytes.len().min(4096);
            bytes[..piece].iter().for_each(|byte| self.0.send(*byte).expect("the test reads to the end"));
            std::thread::yield_now();
            Ok(piece)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
