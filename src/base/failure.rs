//! What went wrong between us and something we depend on: what it was, whose fault, and whether another try can help.
//!
//! A client's own error is not a `Failure` but an `S3Error` (proto/error_code.rs). A `Failure` is turned into one at the
//! handler, from its blame alone; its text goes to the log, once, and never to the client.

use std::fmt;

/// Whose fault it was. Only a backend's own faults count against its breaker, only the database's against the database's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blame {
    Client,
    Backend,
    Metadata,
    Ourselves,
}

/// What may be tried again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retry {
    /// Trying again gives the same answer.
    Never,
    /// The same request may be sent once more on a fresh connection: a pooled one had gone stale before any answer.
    FreshConnection,
    /// Another backend may answer.
    OtherBackend,
}

/// What kind of thing happened, as far as callers decide by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The thing asked for is not there: NoSuchKey or NoSuchUpload of a backend, ENOENT of a mounted directory.
    NotFound,
    /// The backend understood and said no (4xx other than 404); says nothing about its health.
    Refused,
    /// The backend has no room left (507, ENOSPC, QuotaExceeded).
    NoSpace,
    /// No answer, a broken answer, 5xx, or a deadline passed.
    Unavailable,
    /// The backend's budget of the month is spent, so it was not asked: another copy may be read.
    ReadBudget,
    /// The same, of a write: another backend may take it.
    WriteBudget,
    /// We are at a limit of our own; the client should slow down.
    Overloaded,
    /// The bytes do not add up: short body, wrong checksum, changed ETag.
    Corrupt,
    /// The other side of a body went away midway.
    Gone,
}

#[derive(Clone, Debug)]
pub struct Failure {
    pub kind: Kind,
    pub blame: Blame,
    pub retry: Retry,
    pub cause: String,
}

impl Failure {
    pub fn new(kind: Kind, blame: Blame, retry: Retry, cause: impl Into<String>) -> Self {
        Self { kind, blame, retry, cause: cause.into() }
    }

    /// A backend that did not answer properly; another one may.
    pub fn backend(cause: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, Blame::Backend, Retry::OtherBackend, cause)
    }

    /// The metadata database did not answer.
    pub fn metadata(cause: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, Blame::Metadata, Retry::Never, cause)
    }

    /// A limit of our own is reached: 503 SlowDown.
    pub fn overloaded(cause: impl Into<String>) -> Self {
        Self::new(Kind::Overloaded, Blame::Ourselves, Retry::Never, cause)
    }

    /// A state that our own code should have excluded.
    pub fn ourselves(cause: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, Blame::Ourselves, Retry::Never, cause)
    }
}

impl Failure {
    /// The database did not answer, or not properly: what counts against its breaker, and what reads can do without.
    pub fn is_of_database(&self) -> bool {
        self.blame == Blame::Metadata && self.kind == Kind::Unavailable
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({:?}'s): {}", self.kind, self.blame, self.cause)
    }
}

impl std::error::Error for Failure {}
