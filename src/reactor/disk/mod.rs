//! Files of directory backends, as a reactor sees them: every call goes to a disk thread through the mailbox, on both
//! drivers, because file calls block epoll's reactor and are slow on the ring (RUNTIME 6).
//!
//! Called by exchanges with directory backends and by relays. What a call does to the file system, and in which order, is
//! `directory`'s.

mod job;
#[cfg(test)]
mod tests;

pub use job::{DiskPostbox, start};

use super::buffer::Buffer;
use super::core::Core;
use super::directory::{Directory, Writing};
use super::mailbox::{Mailbox, Undelivered};
use super::relay::pipe::PooledPipe;
use crate::backend::port::{Span, Stored};
use crate::backend::travel::{Label, Luggage};
use crate::base::{Failure, PartNumber};
use job::{Answer, AnyAnswer, HeldReading, HeldWriting, Job};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

/// One core's way to the disk threads.
pub struct Disk {
    mailbox: Mailbox<Job, Answer>,
    postbox: DiskPostbox,
}

impl Disk {
    /// Only inside the core's runtime. Of its calls at most `calls_max` are begun at once; more are `Overloaded`.
    pub fn open(core: &Core, postbox: DiskPostbox, calls_max: usize) -> io::Result<Rc<Self>> {
        let fair = Rc::clone(&core.fair);
        let mailbox = Mailbox::open(postbox.0.clone(), calls_max, fair, Arc::clone(&core.cells))?;
        Ok(Rc::new(Self { mailbox, postbox }))
    }

    /// Runs a blocking call on a disk thread: `disk.run(move || directory.delete(&name)).await`. Refused when too many are
    /// under way. Cancel: safe; the call still happens and its result is dropped.
    pub async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        ran(self.mailbox.call(boxed(call)).await)
    }

    /// As `run`, never refused: for the end of something that was let begin. Cancel: safe; the call still happens.
    pub async fn run_accepted<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        ran(self.mailbox.call_accepted(boxed(call)).await)
    }

    /// A new blob of `size` bytes; `Draft::commit` makes it appear. Cancel: safe, it is given up.
    pub async fn create(
        self: &Rc<Self>,
        directory: &Arc<Directory>,
        name: &str,
        size: u64,
        luggage: Luggage<'_>,
    ) -> Result<Draft, Failure> {
        let (directory, name, label) = (Arc::clone(directory), name.to_owned(), Label::new(name, luggage));
        self.draft(move || directory.create(&name, size, &label)).await
    }

    /// An attempt at a part of an open upload. `NotFound`: there is no such upload. Cancel: safe, it is given up.
    pub async fn create_part(
        self: &Rc<Self>,
        directory: &Arc<Directory>,
        name: &str,
        number: PartNumber,
        nonce: &str,
        size: u64,
    ) -> Result<Draft, Failure> {
        let (directory, name, nonce) = (Arc::clone(directory), name.to_owned(), nonce.to_owned());
        self.draft(move || directory.create_part(&name, number, &nonce, size)).await
    }

    async fn draft(
        self: &Rc<Self>,
        create: impl FnOnce() -> Result<Writing, Failure> + Send + 'static,
    ) -> Result<Draft, Failure> {
        let postbox = self.postbox.clone();
        let held = self.run(move || create().map(|writing| HeldWriting::new(writing, postbox))).await?;
        Ok(Draft { held: Some(held), disk: Rc::clone(self) })
    }

    /// Opens a span (None: all) of a blob that must have exactly `size` bytes. Cancel: safe, it is closed.
    pub async fn read(
        self: &Rc<Self>,
        directory: &Arc<Directory>,
        name: &str,
        size: u64,
        span: Option<Span>,
    ) -> Result<OpenFile, Failure> {
        let (directory, name, postbox) = (Arc::clone(directory), name.to_owned(), self.postbox.clone());
        let opened = move || {
            let reading = directory.reading(&name, size, span)?;
            Ok((reading.left(), HeldReading::new(reading, postbox)))
        };
        let (left, held) = self.run(opened).await?;
        Ok(OpenFile { held: Some(held), left, disk: Rc::clone(self) })
    }

    /// As `read`, for a span that fits the buffer's room: it is read there and then, so that one hop does it all, and
    /// nothing is left open. Cancel: safe, the buffer is lost.
    pub async fn read_whole(
        self: &Rc<Self>,
        directory: &Arc<Directory>,
        name: &str,
        size: u64,
        span: Option<Span>,
        mut into: Buffer,
    ) -> Result<(OpenFile, Buffer), Failure> {
        let (directory, name) = (Arc::clone(directory), name.to_owned());
        let (lease, mut loose) = into.lend();
        let read = move || {
            let mut reading = directory.reading(&name, size, span)?;
            if reading.left() > loose.spare_mut().len() as u64 {
                return Err(Failure::ourselves("no room for a span"));
            }
            while reading.left() > 0 {
                let count = reading.fill(loose.spare_mut())?;
                loose.filled(count);
            }
            Ok(loose)
        };
        let loose = self.run(read).await?;
        Ok((OpenFile { held: None, left: 0, disk: Rc::clone(self) }, lease.restore(loose)))
    }
}

fn boxed<T: Send + 'static>(call: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Job {
    Job::Run(Box::new(move || -> AnyAnswer { Box::new(call()) }))
}

fn ran<T: Send + 'static>(answer: Result<Answer, Undelivered>) -> Result<T, Failure> {
    let Answer::Ran(any) = answer.map_err(undelivered)? else { unreachable!("an answer to another job") };
    *any.downcast::<Result<T, Failure>>().expect("what the call returned")
}

fn undelivered(cause: Undelivered) -> Failure {
    match cause {
        Undelivered::Full => Failure::overloaded("too many disk calls are under way"),
        Undelivered::Lost => Failure::ourselves("a disk thread did not answer"),
    }
}

/// A span of a blob being read, front to back; it may go through several files. Closed when dropped.
pub struct OpenFile {
    held: Option<HeldReading>,
    left: u64,
    disk: Rc<Disk>,
}

impl OpenFile {
    /// Bytes that are still to come.
    pub fn left(&self) -> u64 {
        self.left
    }

    fn take(&mut self) -> Result<HeldReading, Failure> {
        self.held.take().ok_or_else(|| Failure::ourselves("a file was lost in an earlier call"))
    }

    /// Reads into the buffer's room, at most `limit` bytes. 0 = the end of the span; a file that is too short for it is a
    /// failure. Cancel: NOT safe, file and buffer are lost.
    pub async fn read(&mut self, buffer: &mut Buffer, limit: usize) -> Result<usize, Failure> {
        assert!(limit.min(buffer.spare()) > 0, "reading into no room would look like the end");
        let file = self.take()?;
        let (lease, into) = buffer.lend();
        let answer = self.disk.mailbox.call_accepted(Job::Read { file, into, limit }).await;
        let Answer::Read(file, loose, done) = answer.map_err(undelivered)? else {
            unreachable!("an answer to another job")
        };
        self.held = Some(file);
        *buffer = lease.restore(loose);
        done.inspect(|&count| self.left -= count as u64)
    }

    /// Fills an empty pipe with at most `wanted` bytes. 0 = the end of the span.
    /// Cancel: NOT safe, file and pipe are lost.
    pub async fn fill(&mut self, wanted: usize, pipe: &mut PooledPipe) -> Result<usize, Failure> {
        let file = self.take()?;
        let lent = pipe.lend();
        let answer = self.disk.mailbox.call_accepted(Job::FillPipe { file, pipe: lent, wanted }).await;
        let Answer::Filled(file, back, done) = answer.map_err(undelivered)? else {
            unreachable!("an answer to another job")
        };
        self.held = Some(file);
        pipe.restore(back);
        done.inspect(|&count| self.left -= count as u64)
    }
}

/// A blob or part being written. Dropped uncommitted it is given up: nothing of it becomes visible.
pub struct Draft {
    held: Option<HeldWriting>,
    disk: Rc<Disk>,
}

impl Draft {
    /// Writes the first `count` bytes of the buffer and consumes them. After a failure the draft is good for nothing but to
    /// be given up. Cancel: NOT safe, the draft is given up and the buffer lost.
    pub async fn write(&mut self, buffer: &mut Buffer, count: usize) -> Result<(), Failure> {
        let draft = self.held.take().ok_or_else(lost_draft)?;
        let (lease, bytes) = buffer.lend();
        let answer = self.disk.mailbox.call_accepted(Job::Append { draft, bytes, count }).await;
        let Answer::Appended(draft, loose, done) = answer.map_err(undelivered)? else {
            unreachable!("an answer to another job")
        };
        self.held = Some(draft);
        *buffer = lease.restore(loose);
        done.inspect(|()| buffer.consume(count))
    }

    /// Makes the whole body durable and visible. A failure leaves unknown whether it appeared; a delete takes either.
    /// Cancel: safe, it happens or not.
    pub async fn commit(mut self) -> Result<Stored, Failure> {
        let writing = self.held.take().ok_or_else(lost_draft)?.take();
        self.disk.run_accepted(move || writing.commit()).await
    }

    /// Gives it up, and waits until nothing of it is left. Cancel: safe, it happens.
    pub async fn discard(mut self) {
        if let Some(held) = self.held.take() {
            let writing = held.take();
            let gone = self.disk.run_accepted(move || {
                writing.abandon();
                Ok(())
            });
            // Only a lost answer can fail, and a delete of the blob takes what is left.
            let _ = gone.await;
        }
    }
}

fn lost_draft() -> Failure {
    Failure::ourselves("a draft was lost in an earlier call")
}
