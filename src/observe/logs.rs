//! Log events of all threads as JSON lines on standard output, in the form of audit lines: `time`, `level`, `msg`, then
//! the event's own fields. Set up once, before any thread is spawned. Reactors log rarely: requests are told by audit lines,
//! rates by metrics. Who logs hands the line to one plain thread and never waits for it: when that does not keep up, because
//! whoever reads standard output stands still, lines are dropped and counted.

use super::json_line::JsonLine;
use super::output::{Flush, Told, write};
use crate::base::Timestamp;
use crate::config::checked::LogLevel;
use crate::proto::date;
use std::cell::RefCell;
use std::fmt;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::reload;

/// Lines on their way to the writer, of all threads.
const LINES_IN_FLIGHT: usize = 8 * 1024;

/// Installs the subscriber for the process and a panic hook that logs. Fails if one is installed already.
pub fn init(level: LogLevel) -> io::Result<()> {
    let (ends, writer) = handed_over();
    let _ = TO_WRITER.set(Flush(ends.0.clone())); // set twice, it is the subscriber that fails
    std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.run(&mut io::stdout()))?;
    install(level, ends)
}

/// The same on standard error, for commands whose output is for others, each line written at once.
pub fn init_beside(level: LogLevel) -> io::Result<()> {
    install(level, StandardError)
}

fn install(level: LogLevel, out: impl Lines + Send + Sync + 'static) -> io::Result<()> {
    let (filter, handle) = reload::Layer::new(filter(level));
    let subscriber = tracing_subscriber::registry().with(JsonLayer { out }.with_filter(filter));
    tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)?;
    let change = move |level| handle.reload(self::filter(level)).is_ok();
    assert!(CHANGE_LEVEL.set(Box::new(change)).is_ok(), "only one subscriber is ever installed");
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload();
        let said = text.downcast_ref::<&str>().copied().or_else(|| text.downcast_ref::<String>().map(String::as_str));
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("");
        tracing::error!(place, thread, cause = said.unwrap_or(""), "panic");
        // A reactor goes on, and so does the mover; what else ends may be the process.
        if !thread.starts_with("reactor-") && thread != "mover" {
            flush();
        }
    }));
    Ok(())
}

static CHANGE_LEVEL: OnceLock<Box<dyn Fn(LogLevel) -> bool + Send + Sync>> = OnceLock::new();

/// From now on lines of this level and above are written. Nothing happens where `init` was not called.
pub fn set_level(level: LogLevel) {
    if CHANGE_LEVEL.get().is_some_and(|change| !change(level)) {
        tracing::error!("the log level could not be changed");
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    }
}

/// Takes whole lines; each is one write, so lines of several threads do not mix.
trait Lines {
    fn line(&self, line: &[u8]);
}

struct StandardError;

impl Lines for StandardError {
    fn line(&self, line: &[u8]) {
        let _ = io::stderr().lock().write_all(line); // a closed output is no reason to stop
    }
}

/// The end of whoever logs.
struct HandedOver(flume::Sender<Told>);

impl Lines for HandedOver {
    fn line(&self, line: &[u8]) {
        if self.0.try_send(Told::Lines(line.to_owned())).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The writer's end.
struct Writer(flume::Receiver<Told>);

impl Writer {
    /// Blocks: it has a thread to itself.
    fn run(self, out: &mut impl Write) {
        for told in &self.0 {
            write(out, told);
        }
    }
}

fn handed_over() -> (HandedOver, Writer) {
    let (ends, told) = flume::bounded(LINES_IN_FLIGHT);
    (HandedOver(ends), Writer(told))
}

static TO_WRITER: OnceLock<Flush> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines that were lost since the process began.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Waits until everything that this thread has logged is written, though not for long: before the process ends.
pub fn flush() {
    if let Some(writer) = TO_WRITER.get() {
        writer.wait();
    }
}

struct JsonLayer<O> {
    out: O,
}

impl<S: Subscriber, O: Lines + 'static> Layer<S> for JsonLayer<O> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        thread_local!(static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
        LINE.with(|cell| {
            // A Debug of a field that itself logs would find the buffer in use; its event is left out.
            let Ok(mut buffer) = cell.try_borrow_mut() else { return };
            buffer.clear();
            let mut message = Message(String::new());
            event.record(&mut message);
            let mut line = JsonLine::begin(
                &mut buffer,
                date::iso8601(now()).as_str(),
                event.metadata().level().as_str(),
                &message.0,
            );
            event.record(&mut Fields(&mut line));
            line.end();
            self.out.line(&buffer);
        });
    }
}

/// Log lines carry the machine's own time: they are for people, nothing is decided by them.
#[allow(clippy::disallowed_methods)]
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { millis: i64::try_from(since.as_millis()).unwrap_or(i64::MAX) }
}

/// The event's text, which comes as a field among others.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

struct Fields<'a, 'b>(&'a mut JsonLine<'b>);

impl Visit for Fields<'_, '_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() != "message" {
            self.0.display(field.name(), format_args!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != "message" {
            self.0.display(field.name(), value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.number(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.number(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.number(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.0.number(field.name(), value);
        } else {
            self.0.display(field.name(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Lines for Kept {
        fn line(&self, line: &[u8]) {
            self.0.lock().expect("no test panicked").extend_from_slice(line);
        }
    }

    #[test]
    fn an_output_that_stands_still_costs_lines_and_holds_up_nobody() {
        let (ends, writer) = handed_over();
        let before = dropped();
        for number in 0..LINES_IN_FLIGHT + 3 {
            ends.line(format!("{number}\n").as_bytes());
        }
        assert_eq!(dropped() - before, 3, "what there was no room for");
        let writing = std::thread::spawn(move || {
            let mut out = Vec::new();
            writer.run(&mut out);
            out
        });
        assert!(Flush(ends.0.clone()).wait_at_most(Duration::from_secs(60)), "what came before is written");
        ends.line(b"the last\n");
        drop(ends);
        let out = String::from_utf8(writing.join().expect("no panic")).expect("UTF-8");
        let want = (0..LINES_IN_FLIGHT).map(|number| number.to_string()).chain(["the last".to_owned()]);
        assert!(out.lines().eq(want), "in order, and no other");
    }

    #[test]
    fn an_event_is_one_line_with_its_fields() {
        let kept = Kept::default();
        let layer = JsonLayer { out: kept.clone() }.with_filter(filter(LogLevel::Info));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!(backend = "one", bytes = 7u64, ratio = 0.5, ok = true, cause = %"a \"b\"", "blob deleted");
            tracing::debug!("not shown");
            tracing::warn!(delta = -1, why = ?Some("x"), "plain {}", "text");
        });
        let out = String::from_utf8(kept.0.lock().expect("no test panicked").clone()).expect("UTF-8");
        let lines: Vec<serde_json::Value> =
            out.lines().map(|line| serde_json::from_str(line).expect("valid JSON")).collect();
        assert_eq!(lines.len(), 2, "{out}");
        assert_eq!((lines[0]["level"].as_str(), lines[0]["msg"].as_str()), (Some("INFO"), Some("blob deleted")));
        assert_eq!((lines[0]["backend"].as_str(), lines[0]["bytes"].as_u64()), (Some("one"), Some(7)));
        assert_eq!((lines[0]["ok"].as_bool(), lines[0]["cause"].as_str()), (Some(true), Some("a \"b\"")));
        assert_eq!((lines[1]["msg"].as_str(), lines[1]["delta"].as_i64()), (Some("plain text"), Some(-1)));
        assert_eq!(lines[1]["why"].as_str(), Some("Some(\"x\")"));
    }
}
