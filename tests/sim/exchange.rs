//! The client's side of one request, as the product's handlers hold it, and what the client got.

use super::backend::Body;
use super::executor::Sim;
use super::instance::Instance;
use s3_orchestrator::backend::port::{MoveEnd, Moved};
use s3_orchestrator::base::failure::Kind;
use s3_orchestrator::base::{Blame, Clock, Failure, Retry};
use s3_orchestrator::handlers::ports::Exchange;
use s3_orchestrator::handlers::response::ResponseHead;
use s3_orchestrator::proto::body_check::BodyCheck;
use s3_orchestrator::proto::error_code::{ErrorCode, S3Error};
use std::time::Duration;

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// 0: no head came.
    pub status: u16,
    pub fields: String,
    pub length: u64,
    pub body: Vec<u8>,
    pub cut: bool,
}

impl Response {
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.fields.split("\r\n").filter_map(|line| line.split_once(": "));
        lines.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub fn is_whole(&self) -> bool {
        self.status != 0 && !self.cut && self.body.len() as u64 == self.length
    }
}

pub struct SimExchange {
    sim: Sim,
    is_head: bool,
    body: Body,
    /// The client goes away after so many bytes of its body, or of the answer's.
    gone_after: Option<usize>,
    head: ResponseHead,
    received: Vec<u8>,
    pub response: Response,
}

/// What a body moves in: a few pieces, so that something may happen between two of them.
pub fn piece_bytes(size: usize) -> usize {
    (size / 5).max(1_024)
}

impl SimExchange {
    pub fn new(sim: &Sim, is_head: bool, body: Body, gone_after: Option<usize>) -> Self {
        let mut head = ResponseHead::default();
        head.clear();
        let response = Response::default();
        Self { sim: sim.clone(), is_head, body, gone_after, head, received: Vec::new(), response }
    }

    /// Up to which byte the client sends its body.
    fn sent_until(&self) -> usize {
        self.gone_after.map_or(self.body.len(), |after| after.min(self.body.len()))
    }

    async fn pace(&self) {
        let micros = if self.sim.chance(50) { self.sim.below(400_000) } else { self.sim.below(300) };
        self.sim.sleep(Duration::from_micros(micros)).await;
    }

    fn open_answer(&mut self, length: u64) {
        assert!(self.response.status == 0, "an exchange is answered once");
        self.response.status = self.head.status;
        self.response.fields = String::from_utf8_lossy(self.head.fields()).into_owned();
        self.response.length = length;
    }
}

fn gone() -> Failure {
    Failure::new(Kind::Gone, Blame::Client, Retry::Never, "the client went away")
}

impl Exchange<Instance> for SimExchange {
    fn head(&mut self) -> &mut ResponseHead {
        &mut self.head
    }

    async fn receive(&mut self, max: usize, check: &mut BodyCheck) -> Result<(), S3Error> {
        self.pace().await;
        if self.body.len() > max {
            return Err(ErrorCode::EntityTooLarge.into());
        }
        let until = self.sent_until();
        self.received = self.body[..until].to_vec();
        check.update(&self.received);
        if until < self.body.len() {
            return Err(S3Error::from(ErrorCode::IncompleteBody).closing());
        }
        check.end(None)
    }

    fn received(&self) -> &[u8] {
        &self.received
    }

    async fn receive_into(&mut self, sinks: &mut [super::backend::Sink], check: &mut BodyCheck) -> Moved {
        let body = self.body.clone();
        let until = self.sent_until();
        let mut bytes = 0;
        for piece in body[..until].chunks(piece_bytes(body.len())) {
            self.pace().await;
            check.update(piece);
            let is_last = bytes as usize + piece.len() == body.len();
            if is_last && let Err(error) = check.end(None) {
                return Moved { bytes, end: MoveEnd::Refused(error) };
            }
            for sink in sinks.iter_mut() {
                if let Err(failure) = sink.push(piece) {
                    return Moved { bytes, end: MoveEnd::Sink(failure) };
                }
            }
            bytes += piece.len() as u64;
        }
        if until < body.len() {
            return Moved { bytes, end: MoveEnd::Source(gone()) };
        }
        if body.is_empty()
            && let Err(error) = check.end(None)
        {
            return Moved { bytes, end: MoveEnd::Refused(error) };
        }
        Moved { bytes, end: MoveEnd::Done }
    }

    async fn patiently<T>(&mut self, work: impl Future<Output = T>) -> T {
        work.await
    }

    async fn respond(&mut self, body: &[u8]) -> Result<(), Failure> {
        let length = if self.is_head { self.head.content_length } else { body.len() as u64 };
        self.open_answer(length);
        self.pace().await;
        if !self.is_head {
            self.response.body.extend_from_slice(body);
        }
        Ok(())
    }

    async fn send_head(&mut self, length: u64) -> Result<(), Failure> {
        self.open_answer(length);
        self.pace().await;
        Ok(())
    }

    async fn send_from(&mut self, mut source: super::backend::Source) -> Moved {
        let mut bytes = 0;
        loop {
            self.pace().await;
            if self.gone_after.is_some_and(|after| self.response.body.len() >= after) {
                return Moved { bytes, end: MoveEnd::Sink(gone()) };
            }
            match source.pull(piece_bytes(self.response.length as usize)) {
                Ok(Some(piece)) => {
                    self.response.body.extend_from_slice(&piece);
                    bytes += piece.len() as u64;
                }
                Ok(None) => return Moved { bytes, end: MoveEnd::Done },
                Err(failure) => return Moved { bytes, end: MoveEnd::Source(failure) },
            }
        }
    }

    fn note_backend(&mut self, _backend: usize) {}

    fn note_error(&mut self, _error: &S3Error) {}

    fn answered(&self) -> bool {
        self.response.status != 0
    }

    fn cut(&mut self) {
        self.response.cut = true;
    }
}
