//! An S3 endpoint as one core reaches it: a request out, an answer in, on a pooled connection; a stale one is replaced
//! once, unseen.

use super::account::{Account, call_of, is_exempt};
use super::charge::Charge;
use crate::backend::budget::Spend;
use crate::backend::s3::answer::{self, ERROR_BYTES_MAX};
use crate::backend::s3::kept_heads::KeptHeads;
use crate::backend::s3::{Ask, Endpoint, RequestWriter};
use crate::base::failure::Kind;
use crate::base::limits::XML_BYTES_MAX;
use crate::base::{Blame, Failure, Retry, Tick};
use crate::proto::http1::ResponseHead;
use crate::proto::sigv4::ChunkSigner;
use crate::reactor::core::Right;
use crate::reactor::stream::Idle;
use crate::reactor::upstream::connect::ConnectError;
use crate::reactor::upstream::exchange::{self, Answer, NoAnswer};
use crate::reactor::upstream::pool::{Lent, Pool};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// A backend may be silent so long while it puts the parts of a big object together, or copies one.
const ASSEMBLY_PATIENCE: Duration = Duration::from_secs(300);

/// Calls of one core to a backend whose breaker is open: reads for which there is no other copy. More would only wait.
pub(super) const LAST_RESORTS_MAX: usize = 16;

pub(super) struct Remote {
    pub(super) account: Account,
    pub(super) patience: Duration,
    endpoint: Endpoint,
    pool: Rc<Pool>,
    writer: RefCell<RequestWriter>,
    kept_heads: RefCell<KeptHeads>,
    /// Head buffers that nobody is sending from.
    heads: RefCell<Vec<Vec<u8>>>,
}

impl Remote {
    pub(super) fn new(account: Account, endpoint: Endpoint, pool: Rc<Pool>, patience: Duration) -> Self {
        let writer = RefCell::default();
        let (kept_heads, heads) = (RefCell::default(), RefCell::default());
        Self { account, patience, endpoint, pool, writer, kept_heads, heads }
    }

    /// A connection, warm if there is one; it is `now`. Cancel: safe.
    pub(super) async fn line(&self, now: Tick) -> Result<Lent, Failure> {
        if self.account.is_open() && self.pool.in_use() >= LAST_RESORTS_MAX {
            return Err(self.account.down(format_args!("its breaker is open, and enough calls wait for it")));
        }
        self.pool.take(now).await.map_err(|cause| self.unreachable(&cause))
    }

    /// A new one, after a warm one turned out stale. Cancel: safe.
    pub(super) async fn fresh_line(&self) -> Result<Lent, Failure> {
        self.pool.take_fresh().await.map_err(|cause| self.unreachable(&cause))
    }

    fn unreachable(&self, cause: &ConnectError) -> Failure {
        let text = format!("backend {}: {cause}", self.account.name);
        match cause {
            ConnectError::Busy => Failure::new(Kind::Overloaded, Blame::Ourselves, Retry::OtherBackend, text),
            _ => Failure::backend(text),
        }
    }

    /// The line, or a new one if its peer has closed it or spoken out of turn. Cancel: safe.
    pub(super) async fn still_quiet(&self, mut line: Lent) -> Result<Lent, Failure> {
        if line.reused() && line.look_idle() != Idle::Quiet {
            drop(line);
            return self.fresh_line().await;
        }
        Ok(line)
    }

    /// As messages call it.
    pub(super) fn place(&self) -> String {
        self.endpoint.to_string()
    }

    /// A signed head in a buffer of this core's, to be given back by `done_with`.
    pub(super) fn head_of(&self, ask: &Ask<'_>) -> Vec<u8> {
        let Ask::Get { name, span: None, if_match: "" } = *ask else { return self.head_and_signer(ask).0 };
        let now = self.account.core.clock.coarse_now();
        if let Some(kept) = self.kept_heads.borrow().find(name, now) {
            let mut head = self.empty_head();
            head.extend_from_slice(kept);
            return head;
        }
        let (head, _) = self.head_and_signer(ask);
        self.kept_heads.borrow_mut().keep(name, now, &head);
        head
    }

    /// The same, with what signs the chunks of its body if it goes in such.
    pub(super) fn head_and_signer(&self, ask: &Ask<'_>) -> (Vec<u8>, Option<ChunkSigner>) {
        let mut head = self.empty_head();
        let signer =
            self.writer.borrow_mut().write(&mut head, &self.endpoint, ask, self.account.core.clock.coarse_now());
        (head, signer)
    }

    fn empty_head(&self) -> Vec<u8> {
        let mut head = self.heads.borrow_mut().pop().unwrap_or_default();
        head.clear();
        head
    }

    pub(super) fn done_with(&self, head: Vec<u8>) {
        self.heads.borrow_mut().push(head);
    }

    fn patience_for(&self, ask: &Ask<'_>) -> Duration {
        let is_long = matches!(ask, Ask::CompleteUpload { .. } | Ask::Copy { .. } | Ask::CopyPart { .. });
        if is_long { self.patience.max(ASSEMBLY_PATIENCE) } else { self.patience }
    }

    /// Asks, with a body that is in hand, and reads the answer's head, whatever its status. A success is not counted yet,
    /// a failure is. It is `start`. Cancel: NOT safe, whether the backend carries it out is unknown.
    pub(super) fn call<R>(
        &self,
        start: Tick,
        ask: &Ask<'_>,
        body: &[u8],
        look: impl Fn(&ResponseHead<'_>) -> R,
    ) -> impl Future<Output = Result<(Answer, R), Failure>> {
        // Handed on as it is: to await it here would be to move all that it holds.
        self.call_within(Right::Any, start, ask, body, look)
    }

    async fn call_within<R>(
        &self,
        right: Right,
        start: Tick,
        ask: &Ask<'_>,
        body: &[u8],
        look: impl Fn(&ResponseHead<'_>) -> R,
    ) -> Result<(Answer, R), Failure> {
        let called = self.call_uncounted(right, ask, body, start, look).await;
        called.inspect_err(|failure| self.account.failed(call_of(ask), start, failure))
    }

    async fn call_uncounted<R>(
        &self,
        right: Right,
        ask: &Ask<'_>,
        body: &[u8],
        start: Tick,
        look: impl Fn(&ResponseHead<'_>) -> R,
    ) -> Result<(Answer, R), Failure> {
        let mut charge = self.pay(ask, body).await?;
        let mut line = self.line(start).await?;
        loop {
            self.account.core.may_send(right)?;
            let is_reused = line.reused();
            if let Some(charge) = charge.take() {
                charge.all_sent();
            }
            match self.try_call(ask, body, line, &look).await {
                Ok(answered) => return Ok(answered),
                // It may have been carried out all the same; every request of ours may be repeated.
                Err(NoAnswer::Closed(_)) if is_reused => {
                    self.account.cells().stale_retries.inc();
                    charge = self.pay(ask, body).await?;
                    line = self.fresh_line().await?;
                }
                Err(none) => return Err(self.no_answer(ask, &none)),
            }
        }
    }

    /// For the request, and for a body that is in hand. Cancel: safe.
    async fn pay(&self, ask: &Ask<'_>, body: &[u8]) -> Result<Option<Box<Charge>>, Failure> {
        let ingress = body.len() as u64;
        self.account.pay(Spend { ingress, ..Spend::call(call_of(ask)) }, is_exempt(ask)).await
    }

    async fn try_call<R>(
        &self,
        ask: &Ask<'_>,
        body: &[u8],
        mut line: Lent,
        look: impl Fn(&ResponseHead<'_>) -> R,
    ) -> Result<(Answer, R), NoAnswer> {
        let head = self.head_of(ask);
        self.account.cells().api_requests.inc();
        let sent = exchange::send_whole(&mut line, &head, body, self.patience).await;
        self.done_with(head);
        match sent {
            Ok(()) => self.account.cells().ingress_bytes.add(body.len() as u64),
            // A backend that refuses a body early may have said so before it closed.
            Err(cause) if exchange::is_closing(&cause) => {}
            Err(cause) => return Err(NoAnswer::Failed(cause)),
        }
        exchange::receive(&self.account.core, line, ask.is_head(), self.patience_for(ask), look).await
    }

    /// As `call`, for answers with a small body or none: reads it whole, gives the connection back, and answers what `look`
    /// saw and the body, if the status is the one hoped for. Cancel: NOT safe.
    pub(super) async fn ask<R>(
        &self,
        ask: &Ask<'_>,
        body: &[u8],
        look: impl Fn(&ResponseHead<'_>) -> R,
    ) -> Result<(R, Vec<u8>), Failure> {
        self.ask_at_most(ask, body, XML_BYTES_MAX, look).await
    }

    /// As `ask` of what changes something: not sent, nor sent again, when the right to it has passed. Cancel: NOT safe.
    pub(super) async fn ask_within<R>(
        &self,
        right: Right,
        ask: &Ask<'_>,
        body: &[u8],
        look: impl Fn(&ResponseHead<'_>) -> R,
    ) -> Result<(R, Vec<u8>), Failure> {
        let start = self.account.now();
        let (answer, seen) = self.call_within(right, start, ask, body, look).await?;
        let body = self.body_of(ask, answer, XML_BYTES_MAX, start).await?;
        Ok((seen, body))
    }

    pub(super) async fn ask_at_most<R>(
        &self,
        ask: &Ask<'_>,
        body: &[u8],
        answer_max: usize,
        look: impl Fn(&ResponseHead<'_>) -> R,
    ) -> Result<(R, Vec<u8>), Failure> {
        let start = self.account.now();
        let (answer, seen) = self.call(start, ask, body, look).await?;
        let body = self.body_of(ask, answer, answer_max, start).await?;
        Ok((seen, body))
    }

    /// The small body of an answer, whose call is counted now; or what the answer means if it is not the one hoped for.
    /// Cancel: NOT safe.
    pub(super) async fn body_of(
        &self,
        ask: &Ask<'_>,
        mut answer: Answer,
        max: usize,
        start: Tick,
    ) -> Result<Vec<u8>, Failure> {
        if !answer::is_success(ask, answer.status()) {
            return Err(self.refusal(ask, answer, start).await);
        }
        let mut body = Vec::new();
        let read = answer.read_body(&self.account.core, max, self.patience_for(ask), &mut body).await;
        let done = match read {
            Ok(true) => {
                self.reuse(answer);
                Ok(body)
            }
            Ok(false) => Err(self.account.down(format_args!("its answer to {} is too long", described(ask)))),
            Err(cause) => Err(self.account.down(format_args!("its answer to {} broke off: {cause}", described(ask)))),
        };
        self.account.noted(call_of(ask), start, done)
    }

    /// What an answer other than the one hoped for means. Counts it. Cancel: NOT safe.
    pub(super) async fn refusal(&self, ask: &Ask<'_>, mut answer: Answer, start: Tick) -> Failure {
        let mut body = Vec::new();
        // What came of it is enough to classify it.
        let read = answer.read_body(&self.account.core, ERROR_BYTES_MAX, self.patience, &mut body).await;
        let status = answer.status();
        let mut failure = answer::failure(ask, &answer.head(), &body);
        failure.cause = format!("backend {}: {}", self.account.name, failure.cause);
        if matches!(read, Ok(true)) {
            self.reuse(answer);
        }
        self.account.refused(call_of(ask), start, status, &failure);
        failure
    }

    fn reuse(&self, answer: Answer) {
        if let Some(line) = answer.into_reusable() {
            line.give_back(self.account.now());
        }
    }

    pub(super) fn no_answer(&self, ask: &Ask<'_>, none: &NoAnswer) -> Failure {
        self.account.down(format_args!("{}: {none}", described(ask)))
    }
}

fn described(ask: &Ask<'_>) -> String {
    format!("{} {}", ask.method(), ask.name())
}
