//! A blob opened for reading, as whoever moves its bytes sees it.

use super::account::Account;
use super::charge::Charge;
use super::local::Local;
use super::remote::Remote;
use crate::base::failure::Kind;
use crate::base::{Blame, Failure, Retry};
use crate::reactor::buffer::Buffer;
use crate::reactor::core::Footing;
use crate::reactor::disk::OpenFile;
use crate::reactor::relay::{self, Cause};
use crate::reactor::upstream::pool::Lent;
use std::io::ErrorKind;
use std::rc::Rc;

/// A span of a blob: first what came with the backend's answer (`ahead`), then what `relay` gives.
///
/// Whoever moves it calls `moved` as the bytes go, and `finished` at a good end. Dropped before that, its connection is
/// closed.
pub struct Source {
    from: From,
    ahead: Buffer,
    /// Bytes of the span that have not been moved, those in `ahead` included.
    left: u64,
    /// Of a backend with a budget: what was not moved yet.
    charge: Option<Box<Charge>>,
}

enum From {
    Remote {
        remote: Rc<Remote>,
        line: Lent,
        keep_alive: bool,
    },
    /// The file is boxed, so that a source is small: it passes through many hands with every request.
    Local {
        local: Rc<Local>,
        file: Box<OpenFile>,
    },
}

impl Source {
    /// `ahead` is what came of the body already.
    pub(super) fn of_remote(
        remote: &Rc<Remote>,
        line: Lent,
        ahead: Buffer,
        keep_alive: bool,
        len: u64,
        charge: Option<Box<Charge>>,
    ) -> Self {
        let surplus = ahead.len() as u64 > len;
        // A whole pooled buffer is not kept for nothing while a long body is moved.
        let mut ahead = if ahead.is_empty() { Buffer::from_bytes(&[]) } else { ahead };
        ahead.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        let keep_alive = keep_alive && !surplus;
        Self { from: From::Remote { remote: Rc::clone(remote), line, keep_alive }, ahead, left: len, charge }
    }

    /// `ahead` is what was read as the file was opened.
    pub(super) fn of_local(local: &Rc<Local>, file: OpenFile, ahead: Buffer, charge: Option<Box<Charge>>) -> Self {
        let left = ahead.len() as u64 + file.left();
        Self { from: From::Local { local: Rc::clone(local), file: Box::new(file) }, ahead, left, charge }
    }

    /// Bytes that are still to be moved.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The backend's index in the view.
    pub fn backend(&self) -> usize {
        self.account().index
    }

    /// Bytes that come through `relay`: those behind `ahead`.
    pub fn segment_left(&self) -> u64 {
        self.left - self.ahead.len() as u64
    }

    /// Whether what follows `ahead` may be spliced: it comes from a plaintext socket or a file.
    pub fn is_plain(&self) -> bool {
        match &self.from {
            From::Remote { line, .. } => !line.is_tls(),
            From::Local { .. } => true,
        }
    }

    /// Bytes of the body that are in hand.
    pub fn ahead(&mut self) -> &mut Buffer {
        &mut self.ahead
    }

    /// Where the bytes after `ahead` come from.
    pub fn relay(&mut self) -> relay::Source<'_> {
        self.parts().0
    }

    /// Both at once, for a copy that takes what is in hand first.
    pub fn parts(&mut self) -> (relay::Source<'_>, &mut Buffer) {
        let footing = Footing { writer: None, fare: self.charge.as_ref().map(|charge| charge.fare()) };
        let relay = match &mut self.from {
            From::Remote { line, .. } => relay::Source::Backend(line, footing),
            From::Local { file, .. } => relay::Source::File(file, footing),
        };
        (relay, &mut self.ahead)
    }

    /// So many bytes have reached the other side.
    pub fn moved(&mut self, bytes: u64) {
        assert!(bytes <= self.left, "more was moved than there was");
        self.left -= bytes;
        self.account().cells().egress_bytes.add(bytes);
        if let Some(charge) = &mut self.charge {
            charge.moved(bytes);
        }
    }

    /// All was moved: a connection goes back to its pool.
    pub fn finished(self) {
        debug_assert!(self.left == 0, "finished with {} bytes left", self.left);
        let now = self.account().now();
        self.account().came_whole(now);
        if let From::Remote { line, keep_alive: true, .. } = self.from
            && self.left == 0
            && self.ahead.is_empty()
        {
            line.give_back(now);
        }
    }

    /// What a failed read means. The backend is remembered as one that breaks off.
    pub fn failure(&self, cause: Cause) -> Failure {
        let account = self.account();
        let failure = match cause {
            Cause::Disk(failure) => failure,
            Cause::Socket(cause) => match cause.kind() {
                ErrorKind::UnexpectedEof => account.down(format_args!("a body ended {} bytes short", self.left)),
                ErrorKind::TimedOut => account.down(format_args!("a body stood still with {} bytes left", self.left)),
                _ => account.down(format_args!("a body broke off with {} bytes left: {cause}", self.left)),
            },
        };
        if failure.blame == Blame::Backend {
            account.broke_off();
        }
        failure
    }

    fn account(&self) -> &Account {
        match &self.from {
            From::Remote { remote, .. } => &remote.account,
            From::Local { local, .. } => &local.account,
        }
    }
}

/// An answer that is not the body that was asked for.
pub(super) fn wrong_body(account: &Account, name: &str, failure: Failure) -> Failure {
    let cause = format!("backend {}: GET {name}: {}", account.name, failure.cause);
    Failure::new(Kind::Corrupt, Blame::Backend, Retry::OtherBackend, cause)
}
