//! A place for a new blob or part, as whoever moves the bytes sees it.

use super::account::Account;
use super::charge::Charge;
use super::local::Local;
use super::remote::Remote;
use crate::backend::budget::Spend;
use crate::backend::port::{Put, PutTarget, Stored, UpstreamPayload};
use crate::backend::s3::{Ask, answer};
use crate::backend::travel::Luggage;
use crate::base::{Failure, Incarnation, PartNumber, Tick};
use crate::observe::cells::BackendCall;
use crate::proto::aws_chunked::SignedFrames;
use crate::reactor::core::Footing;
use crate::reactor::disk::Draft;
use crate::reactor::relay::{self, Cause};
use crate::reactor::stream::Stream;
use crate::reactor::upstream::exchange;
use crate::reactor::upstream::pool::Lent;
use crate::store::record::ObjectRecord;
use std::io;
use std::rc::Rc;

/// A body of known length on its way to a backend.
///
/// The request's head is held back until `start` gives it the first bytes to go with. After that the relay writes to
/// `relay()`. The end is the port's `finish`, or `discard`.
pub struct Sink {
    to: To,
    size: u64,
    /// On whose lease it depends.
    writer: Incarnation,
    /// Of a backend with a budget: the request and the whole body, less what was sent of them.
    charge: Option<Box<Charge>>,
}

enum To {
    Remote(ToRemote),
    Local { local: Rc<Local>, draft: Draft, start: Tick, is_part: bool },
}

struct ToRemote {
    remote: Rc<Remote>,
    /// None after a failure: the connection is closed.
    line: Option<Lent>,
    /// Signed, not sent. Empty once it was.
    head: Vec<u8>,
    /// Of a body that goes in signed chunks.
    signed: Option<SignedFrames>,
    name: String,
    part: Option<PartNumber>,
    start: Tick,
}

impl Sink {
    pub(super) fn of_remote(
        remote: &Rc<Remote>,
        line: Lent,
        put: &Put<'_>,
        ask: &Ask<'_>,
        start: Tick,
        charge: Option<Box<Charge>>,
    ) -> Self {
        let part = if let PutTarget::Part { number, .. } = put.target { Some(number) } else { None };
        let ((head, signer), name) = (remote.head_and_signer(ask), ask.name().to_owned());
        let signed = signer.map(|signer| SignedFrames::new(signer, put.size));
        let to = ToRemote { remote: Rc::clone(remote), line: Some(line), head, signed, name, part, start };
        Self { to: To::Remote(to), size: put.size, writer: put.incarnation, charge }
    }

    pub(super) fn of_local(
        local: &Rc<Local>,
        draft: Draft,
        put: &Put<'_>,
        start: Tick,
        charge: Option<Box<Charge>>,
    ) -> Self {
        let is_part = matches!(put.target, PutTarget::Part { .. });
        Self {
            to: To::Local { local: Rc::clone(local), draft, start, is_part },
            size: put.size,
            writer: put.incarnation,
            charge,
        }
    }

    /// The backend's index in the view.
    pub fn backend(&self) -> usize {
        self.account().index
    }

    /// The whole body's length.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether bytes may be spliced to it, and given to `start`. A directory's are copied.
    pub fn is_plain_socket(&self) -> bool {
        match &self.to {
            To::Remote(to) => to.signed.is_none() && to.line.as_ref().is_some_and(|line| !line.is_tls()),
            To::Local { .. } => false,
        }
    }

    /// Sends the head and the first bytes of the body, in one call where the kernel takes them. A pooled connection that
    /// turns out to have gone stale is replaced. Called once, before `relay`. A directory, and a body in signed chunks, take
    /// all bytes through the relay: `first` is empty then. Cancel: NOT safe.
    pub async fn start(&mut self, first: &[u8]) -> Result<(), Failure> {
        assert!(first.len() as u64 <= self.size, "more bytes than were announced");
        assert!(first.is_empty() || self.is_plain_socket(), "other bytes than a plain socket's go through the relay");
        match &mut self.to {
            To::Remote(to) => to.send_head(first, self.writer, self.charge.as_deref_mut()).await?,
            To::Local { local, .. } => {
                local.account.core.may_write(self.writer)?;
                if let Some(charge) = &mut self.charge {
                    charge.head_sent();
                }
            }
        }
        self.moved(first.len() as u64);
        Ok(())
    }

    /// So many bytes more have gone through `relay`.
    pub fn moved(&mut self, bytes: u64) {
        self.account().cells().ingress_bytes.add(bytes);
        if let Some(charge) = &mut self.charge {
            charge.moved(bytes);
        }
    }

    /// Where the relay writes, after `start`.
    pub fn relay(&mut self) -> relay::Sink<'_> {
        let fare = self.charge.as_ref().map(|charge| charge.fare());
        let footing = Footing { writer: Some(self.writer), fare };
        match &mut self.to {
            To::Remote(to) => to.relay(footing),
            To::Local { draft, .. } => relay::Sink::File(draft, footing),
        }
    }

    /// What a failed write means. A backend that refuses a body may have said so before it closed, so its answer is looked
    /// for. The sink is then good for `discard` only. Cancel: NOT safe.
    pub async fn broken(&mut self, cause: Cause) -> Failure {
        let failure = match cause {
            Cause::Socket(cause) if exchange::is_closing(&cause) => return self.early_answer().await,
            Cause::Socket(cause) => self.account().down(format_args!("a body was not taken: {cause}")),
            Cause::Disk(failure) => failure,
        };
        match &self.to {
            To::Remote(to) => to.count_failure(&failure),
            To::Local { local, start, is_part, .. } => {
                local.account.failed(Local::put_call(*is_part), *start, &failure);
            }
        }
        failure
    }

    /// What it means that the backend has answered, or closed, before it had the body (`relay::End::Answered`): its
    /// answer is read if there is one. The sink is then good for `discard` only. Cancel: NOT safe.
    pub async fn early_answer(&mut self) -> Failure {
        match &mut self.to {
            To::Remote(to) => to.early_answer().await,
            To::Local { .. } => Failure::ourselves("a directory does not answer early"),
        }
    }

    /// Ends a body that was moved whole. Cancel: NOT safe.
    pub(super) async fn finish(mut self) -> Result<Stored, Failure> {
        if let To::Remote(to) = &self.to
            && !to.head.is_empty()
        {
            // Nothing had to be moved: an empty body.
            self.start(&[]).await?;
        }
        match self.to {
            To::Remote(to) => to.finish().await,
            To::Local { local, draft, start, is_part } => match local.account.core.may_write(self.writer) {
                Ok(()) => local.commit(draft, start, is_part).await,
                Err(failure) => {
                    draft.discard().await;
                    Err(failure)
                }
            },
        }
    }

    /// Gives it up: a body that was cut short never becomes visible. Cancel: NOT safe.
    pub(super) async fn discard(self) {
        match self.to {
            To::Local { draft, .. } => draft.discard().await,
            To::Remote(ToRemote { remote, line: Some(line), head, .. }) => {
                if head.is_empty() {
                    line.cut();
                } else {
                    // Nothing was said on it.
                    remote.done_with(head);
                    line.give_back(remote.account.now());
                }
            }
            To::Remote(ToRemote { line: None, .. }) => {}
        }
    }

    fn account(&self) -> &Account {
        match &self.to {
            To::Remote(to) => &to.remote.account,
            To::Local { local, .. } => &local.account,
        }
    }
}

impl ToRemote {
    fn relay(&mut self, footing: Footing) -> relay::Sink<'_> {
        assert!(self.head.is_empty(), "the head goes first");
        let stream: &mut Stream = self.line.as_mut().expect("a sink is not used after a failure");
        match &mut self.signed {
            Some(signed) => relay::Sink::Signed(stream, signed, footing),
            None => relay::Sink::Answering(stream, footing),
        }
    }

    async fn send_head(
        &mut self,
        first: &[u8],
        writer: Incarnation,
        charge: Option<&mut Charge>,
    ) -> Result<(), Failure> {
        let remote = Rc::clone(&self.remote);
        let line = self.line.take().ok_or_else(|| Failure::ourselves("a sink was started after a failure"))?;
        let mut line = remote.still_quiet(line).await.inspect_err(|failure| self.count_failure(failure))?;
        let head = std::mem::take(&mut self.head);
        remote.account.core.may_write(writer)?;
        if let Some(charge) = charge {
            charge.head_sent();
        }
        let mut sent = self.send_on(&mut line, &head, first).await;
        if line.reused() && sent.as_ref().is_err_and(exchange::is_closing) {
            remote.account.cells().stale_retries.inc();
            // Another request than the one that was paid for.
            let charge = remote.account.pay(Spend::call(self.call()), false).await?;
            line = remote.fresh_line().await.inspect_err(|failure| self.count_failure(failure))?;
            remote.account.core.may_write(writer)?;
            if let Some(charge) = charge {
                charge.all_sent();
            }
            sent = self.send_on(&mut line, &head, first).await;
        }
        remote.done_with(head);
        self.line = Some(line);
        match sent {
            Ok(()) => Ok(()),
            Err(cause) if exchange::is_closing(&cause) => Err(self.early_answer().await),
            Err(cause) => {
                self.line = None;
                let failure = remote.account.down(format_args!("PUT {} was not taken: {cause}", self.name));
                self.count_failure(&failure);
                Err(failure)
            }
        }
    }

    async fn send_on(&self, line: &mut Lent, head: &[u8], first: &[u8]) -> io::Result<()> {
        self.remote.account.cells().api_requests.inc();
        exchange::send(line, head, first, self.remote.patience).await
    }

    async fn finish(mut self) -> Result<Stored, Failure> {
        let Some(line) = self.line.take() else {
            return Err(Failure::ourselves("a sink was finished after a failure"));
        };
        let remote = &self.remote;
        let received = exchange::receive(&remote.account.core, line, false, remote.patience, answer::stored).await;
        let record = ObjectRecord::default();
        let ask = self.ask(&record);
        match received {
            Ok((answer, stored)) => {
                remote.body_of(&ask, answer, answer::ERROR_BYTES_MAX, self.start).await.map(|_| stored)
            }
            Err(none) => {
                let failure = remote.no_answer(&ask, &none);
                self.count_failure(&failure);
                Err(failure)
            }
        }
    }

    /// The answer to a body that was not taken whole. It cannot be a success.
    async fn early_answer(&mut self) -> Failure {
        let Some(line) = self.line.take() else { return Failure::ourselves("a sink failed twice") };
        let remote = &self.remote;
        let record = ObjectRecord::default();
        let ask = self.ask(&record);
        match exchange::receive(&remote.account.core, line, false, remote.patience, |_| ()).await {
            Ok((answer, ())) if !answer::is_success(&ask, answer.status()) => {
                // The rest of our body is still in its way: the connection ends with this answer.
                let mut body = Vec::new();
                let mut answer = answer;
                let _ =
                    answer.read_body(&remote.account.core, answer::ERROR_BYTES_MAX, remote.patience, &mut body).await;
                let mut failure = answer::failure(&ask, &answer.head(), &body);
                failure.cause = format!("backend {}: {}", remote.account.name, failure.cause);
                remote.account.refused(self.call(), self.start, answer.status(), &failure);
                failure
            }
            Ok(_) => {
                let failure = remote.account.down(format_args!("PUT {} was answered before its body", self.name));
                self.count_failure(&failure);
                failure
            }
            Err(none) => {
                let failure = remote.no_answer(&ask, &none);
                self.count_failure(&failure);
                failure
            }
        }
    }

    /// The request as far as its answer's meaning depends on it.
    fn ask<'a>(&'a self, record: &'a ObjectRecord) -> Ask<'a> {
        let (name, size, payload) = (self.name.as_str(), 0, UpstreamPayload::Unsigned);
        match self.part {
            Some(number) => Ask::PutPart { name, upload: "", number, size, payload },
            None => Ask::Put { name, size, payload, luggage: Luggage { key: "", record }, checksum: None },
        }
    }

    fn call(&self) -> BackendCall {
        if self.part.is_some() { BackendCall::UploadPart } else { BackendCall::Put }
    }

    fn count_failure(&self, failure: &Failure) {
        self.remote.account.failed(self.call(), self.start, failure);
    }
}
