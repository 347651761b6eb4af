//! The way of lines to the one plain thread that writes them, and how whoever ends the process waits for that thread.

use std::io::Write;
use std::time::{Duration, Instant};

/// What a process that ends waits for its last lines of one kind to be written.
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);

/// Told to the thread that writes.
#[derive(Debug)]
pub(super) enum Told {
    /// Whole lines.
    Lines(Vec<u8>),
    /// What was told before it is written.
    Flush(flume::Sender<()>),
}

/// Writes lines, or says that those before are written. An output that fails is given up for these lines only: a closed
/// output is no reason to stop the service.
pub(super) fn write(out: &mut impl Write, told: Told) -> Option<Vec<u8>> {
    match told {
        Told::Lines(lines) => {
            let _ = out.write_all(&lines).and_then(|()| out.flush());
            Some(lines)
        }
        Told::Flush(done) => {
            let _ = done.try_send(()); // or nobody waits any more
            None
        }
    }
}

/// A way to wait for the thread that writes.
#[derive(Clone, Debug)]
pub struct Flush(pub(super) flume::Sender<Told>);

impl Flush {
    /// Blocks until everything that was told before is written, though not for long: before the process ends. False: whoever
    /// reads the output stands still.
    pub fn wait(&self) -> bool {
        self.wait_at_most(FLUSH_PATIENCE)
    }

    #[allow(clippy::disallowed_methods)] // the machine's own time: nothing but this wait is decided by it
    pub(super) fn wait_at_most(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let (done, written) = flume::bounded(1);
        self.0.send_deadline(Told::Flush(done), until).is_ok() && written.recv_deadline(until).is_ok()
    }
}
