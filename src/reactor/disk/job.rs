//! What a reactor asks of the disk threads, and the threads that do it. They are not pinned, so they are started before the
//! reactors pin themselves. A panic ends one job, not its thread; its caller hears that it was lost.

use crate::base::Failure;
use crate::reactor::buffer::Loose;
use crate::reactor::directory::{Reading, Writing};
use crate::reactor::mailbox::{Desk, Postbox, channel};
use crate::reactor::relay::pipe::Pipe;
use crate::reactor::task::panic_text;
use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub(super) type AnyAnswer = Box<dyn Any + Send>;

pub(super) enum Job {
    /// Anything that happens once per blob or less.
    Run(Box<dyn FnOnce() -> AnyAnswer + Send>),
    /// The first `count` bytes.
    Append {
        draft: HeldWriting,
        bytes: Loose,
        count: usize,
    },
    Read {
        file: HeldReading,
        into: Loose,
        limit: usize,
    },
    FillPipe {
        file: HeldReading,
        pipe: Pipe,
        wanted: usize,
    },
    Abandon(Writing),
    Close(Reading),
}

pub(super) enum Answer {
    Ran(AnyAnswer),
    Appended(HeldWriting, Loose, Result<(), Failure>),
    Read(HeldReading, Loose, Result<usize, Failure>),
    Filled(HeldReading, Pipe, Result<usize, Failure>),
    /// To a job that nobody waits for.
    Nothing,
}

/// A blob being read. Whoever lets go of it, on whatever thread, has a disk thread close it: a close can wait for a disk.
pub(super) struct HeldReading {
    reading: Option<Reading>,
    postbox: DiskPostbox,
}

impl HeldReading {
    pub(super) fn new(reading: Reading, postbox: DiskPostbox) -> Self {
        Self { reading: Some(reading), postbox }
    }

    fn reading(&mut self) -> &mut Reading {
        self.reading.as_mut().expect("held until dropped")
    }
}

impl Drop for HeldReading {
    fn drop(&mut self) {
        if let Some(reading) = self.reading.take() {
            self.postbox.0.post(Job::Close(reading));
        }
    }
}

/// A file being written. Dropped uncommitted, on whatever thread, it is given up by a disk thread.
pub(super) struct HeldWriting {
    writing: Option<Writing>,
    postbox: DiskPostbox,
}

impl HeldWriting {
    pub(super) fn new(writing: Writing, postbox: DiskPostbox) -> Self {
        Self { writing: Some(writing), postbox }
    }

    /// To be ended on a disk thread.
    pub(super) fn take(mut self) -> Writing {
        self.writing.take().expect("held until taken")
    }
}

impl Drop for HeldWriting {
    fn drop(&mut self) {
        if let Some(writing) = self.writing.take() {
            self.postbox.0.post(Job::Abandon(writing));
        }
    }
}

/// Where disk jobs are sent.
#[derive(Clone)]
pub struct DiskPostbox(pub(super) Postbox<Job, Answer>);

/// Starts the disk threads, at least one. They end when every postbox and everything opened through one is gone.
pub fn start(threads: usize) -> io::Result<DiskPostbox> {
    let (postbox, desk) = channel();
    for number in 0..threads.max(1) {
        let desk = desk.clone();
        std::thread::Builder::new().name(format!("disk-{number}")).spawn(move || work(&desk))?;
    }
    Ok(DiskPostbox(postbox))
}

fn work(desk: &Desk<Job, Answer>) {
    while let Some(letter) = desk.wait() {
        let job = letter.request;
        match catch_unwind(AssertUnwindSafe(|| run(job))) {
            Ok(answer) => letter.replier.reply(answer),
            // Dropping the replier tells the caller.
            Err(cause) => tracing::error!(cause = panic_text(&*cause), "disk job panicked"),
        }
    }
}

fn run(job: Job) -> Answer {
    match job {
        Job::Run(work) => Answer::Ran(work()),
        Job::Append { mut draft, bytes, count } => {
            let writing = draft.writing.as_mut().expect("held until taken");
            let done = writing.append(&bytes.data()[..count]);
            Answer::Appended(draft, bytes, done)
        }
        Job::Read { mut file, mut into, limit } => {
            let room = into.spare_mut();
            let room_len = room.len().min(limit);
            let done = file.reading().fill(&mut room[..room_len]);
            let done = done.inspect(|&count| into.filled(count));
            Answer::Read(file, into, done)
        }
        Job::FillPipe { mut file, mut pipe, wanted } => {
            let done = fill_pipe(file.reading(), &mut pipe, wanted);
            Answer::Filled(file, pipe, done)
        }
        Job::Abandon(writing) => {
            writing.abandon();
            Answer::Nothing
        }
        Job::Close(reading) => {
            drop(reading);
            Answer::Nothing
        }
    }
}

/// Splices from the file of the current piece. 0 = the end of the span.
fn fill_pipe(reading: &mut Reading, pipe: &mut Pipe, wanted: usize) -> Result<usize, Failure> {
    let Some(piece) = reading.piece()? else { return Ok(0) };
    let wanted = usize::try_from(piece.left()).unwrap_or(usize::MAX).min(wanted);
    let mut offset = piece.offset();
    match pipe.fill(piece.file(), Some(&mut offset), wanted) {
        Ok(0) => Err(reading.too_short()),
        Ok(count) => {
            reading.advance(count as u64);
            Ok(count)
        }
        Err(cause) => Err(Failure::backend(format!("splicing from a file: {cause}"))),
    }
}
