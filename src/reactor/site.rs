//! What all connections of one reactor share, and the answers that need no handler.

use super::buffer::Buffer;
use super::client::ClientExchange;
use super::core::Core;
use super::ports::CorePorts;
use super::readiness::Readiness;
use super::signal::Signal;
use super::tls::ServerTls;
use crate::base::Dice;
use crate::base::{Clock, Timestamp};
use crate::config::registry::Published;
use crate::config::view::View;
use crate::handlers;
use crate::handlers::ports::{Exchange, Ports};
use crate::handlers::response::ResponseHead;
use crate::observe::audit::AuditLog;
use crate::observe::cells::CoreCells;
use crate::observe::request_id::RequestId;
use crate::proto::date::{self, DateText};
use crate::proto::sigv4::Verifier;
use crate::proto::target::Target;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// Buffers of one request that are reused by the next, so that a small request allocates nothing.
pub struct Scratch {
    pub target: String,
    pub handlers: handlers::scratch::Scratch,
    pub head: ResponseHead,
    pub out: Vec<u8>,
}

/// Scratches kept for reuse; more are freed.
const SCRATCHES_MAX: usize = 256;
/// A buffer that an unusual request has grown is not kept.
const OUT_BYTES_KEPT: usize = 64 * 1024;

pub struct Site {
    pub ports: Rc<CorePorts>,
    /// The main port speaks TLS.
    pub tls: Option<Arc<ServerTls>>,
    pub stopping: Rc<Signal>,
    pub verifier: RefCell<Verifier>,
    pub audit: AuditLog,
    pub readiness: Arc<Readiness>,
    scratches: RefCell<Vec<Box<Scratch>>>,
    /// The Date field's value and the second that it stands for.
    date: Cell<(i64, DateText<29>)>,
}

impl Site {
    pub fn new(
        ports: Rc<CorePorts>,
        tls: Option<Arc<ServerTls>>,
        audit: AuditLog,
        readiness: Arc<Readiness>,
    ) -> Rc<Self> {
        Rc::new(Self {
            ports,
            tls,
            stopping: Rc::default(),
            verifier: RefCell::new(Verifier::new()),
            audit,
            readiness,
            scratches: RefCell::default(),
            date: Cell::new((i64::MIN, date::http(Timestamp::default()))),
        })
    }

    pub fn cells(&self) -> &CoreCells {
        &self.ports.core.cells
    }

    pub fn core(&self) -> &Core {
        &self.ports.core
    }

    pub fn view(&self) -> &View {
        &self.ports.shared.view
    }

    pub fn registry(&self) -> Rc<Published> {
        self.ports.registry()
    }

    pub fn now(&self) -> Timestamp {
        self.ports.core.clock.now()
    }

    pub fn request_id(&self) -> RequestId {
        RequestId::from_roll(self.ports.core.dice.roll())
    }

    /// Room for what was read behind the head of a request with a body; what is there already is put in.
    pub fn room_ahead(&self, early: &[u8]) -> Buffer {
        // Never waits: this connection holds a buffer of the same pool already.
        let mut room = self.ports.core.heads.take_now();
        let taken = room.append(early);
        assert_eq!(taken, early.len(), "a head's buffer is as large as the one it was read with");
        room
    }

    pub fn scratch(&self) -> Box<Scratch> {
        let kept = self.scratches.borrow_mut().pop();
        kept.unwrap_or_else(|| {
            Box::new(Scratch {
                target: String::new(),
                handlers: handlers::scratch::Scratch::default(),
                head: ResponseHead::default(),
                out: Vec::with_capacity(2048),
            })
        })
    }

    pub fn give_back(&self, scratch: Box<Scratch>) {
        let mut kept = self.scratches.borrow_mut();
        if kept.len() < SCRATCHES_MAX && scratch.out.capacity() <= OUT_BYTES_KEPT {
            kept.push(scratch);
        }
    }

    /// The Date field's value for now or a tick ago, formatted once a second.
    pub fn http_date(&self) -> DateText<29> {
        let now = self.ports.core.clock.coarse_now();
        let (second, text) = self.date.get();
        if second == now.seconds() {
            return text;
        }
        let text = date::http(now);
        self.date.set((now.seconds(), text));
        text
    }

    /// `/health` says whether the process lives and how well, `/health/ready` whether to send it requests.
    pub async fn answer_health(&self, target: &Target<'_>, exchange: &mut ClientExchange<'_>) {
        let (status, body): (u16, &[u8]) = match (target.raw_path, self.readiness.is_ready()) {
            ("/health/ready", false) => (503, b"not ready\n"),
            ("/health/ready", true) => (200, b"ready\n"),
            _ if self.readiness.is_degraded() => (200, b"{\"status\":\"degraded\"}\n"),
            _ => (200, b"{\"status\":\"ok\"}\n"),
        };
        let head = exchange.head();
        head.status = status;
        head.content_length = body.len() as u64;
        let json = body.starts_with(b"{");
        head.field("content-type", if json { "application/json" } else { "text/plain; charset=utf-8" });
        // A client that has gone away needs no answer.
        let _ = exchange.respond(body).await;
    }
}
