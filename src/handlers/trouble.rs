//! How a request ends when it does not end well, and the one place where that becomes an answer.

use super::degraded::Found;
use super::ports::{Exchange, Ports};
use super::request::Request;
use super::scratch::Scratch;
use super::selection::write_found;
use crate::base::failure::Kind;
use crate::base::{Blame, Failure};
use crate::proto::body_error::BodyError;
use crate::proto::error_code::{ErrorCode, S3Error};
use crate::proto::http1::{Method, RequestHead};
use crate::proto::operation::Operation;
use crate::proto::xml;
use crate::store::port::{Metadata, Refusal};

#[derive(Clone, Debug)]
pub enum Trouble {
    /// What was asked for is refused; the client learns why.
    Refused(S3Error),
    /// Something we depend on failed; the client learns no more than whether to try again.
    Failed(Failure),
    /// The client is gone, or its answer cannot be finished: nothing more can be said on this connection.
    Cut,
}

impl From<S3Error> for Trouble {
    fn from(error: S3Error) -> Self {
        Self::Refused(error)
    }
}

impl From<ErrorCode> for Trouble {
    fn from(code: ErrorCode) -> Self {
        Self::Refused(code.into())
    }
}

impl From<BodyError> for Trouble {
    fn from(error: BodyError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(error_of_refusal(refusal))
    }
}

/// What the store refuses, in S3's words.
pub fn error_of_refusal(refusal: Refusal) -> S3Error {
    match refusal {
        Refusal::NoSuchKey => ErrorCode::NoSuchKey,
        Refusal::NoSuchUpload => ErrorCode::NoSuchUpload,
        Refusal::PreconditionFailed => ErrorCode::PreconditionFailed,
        Refusal::Conflict => ErrorCode::ConditionalRequestConflict,
        Refusal::NoSpace | Refusal::NoSpaceYet => ErrorCode::InsufficientStorage,
        Refusal::Lost => ErrorCode::ServiceUnavailable,
        Refusal::Busy => ErrorCode::OperationAborted,
        Refusal::InvalidPart => ErrorCode::InvalidPart,
        Refusal::InvalidPartOrder => ErrorCode::InvalidPartOrder,
        Refusal::EntityTooSmall => ErrorCode::EntityTooSmall,
        Refusal::EntityTooLarge => ErrorCode::EntityTooLarge,
        Refusal::TooManyUploads => ErrorCode::SlowDown,
        Refusal::NoSuchBucket => ErrorCode::NoSuchBucket,
        Refusal::BucketNotEmpty => ErrorCode::BucketNotEmpty,
        Refusal::TooManyBuckets => ErrorCode::TooManyBuckets,
    }
    .into()
}

/// What a failure looks like from outside: whose fault it was decides, its cause stays in the log.
pub fn error_of_failure(failure: &Failure) -> S3Error {
    match (failure.blame, failure.kind) {
        (_, Kind::Overloaded) => ErrorCode::SlowDown.into(),
        (_, Kind::NoSpace) => ErrorCode::InsufficientStorage.into(),
        (_, Kind::WriteBudget) => {
            S3Error::new(ErrorCode::InsufficientStorage, ErrorCode::UsageLimitExceeded.default_message())
        }
        (_, Kind::ReadBudget) => S3Error::from(ErrorCode::UsageLimitExceeded),
        (Blame::Client, Kind::Unavailable) => S3Error::from(ErrorCode::RequestTimeout).closing(),
        (Blame::Client, _) => S3Error::from(ErrorCode::IncompleteBody).closing(),
        (Blame::Backend, Kind::Corrupt | Kind::NotFound | Kind::Refused) | (Blame::Ourselves, _) => {
            ErrorCode::InternalError.into()
        }
        (Blame::Backend | Blame::Metadata, _) => ErrorCode::ServiceUnavailable.into(),
    }
}

/// Seconds after which a client may try again.
const RETRY_AFTER: &str = "1";

/// Answers the error, or cuts the connection where an answer has begun. The only place where either happens.
pub async fn answer<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
    trouble: Trouble,
) {
    let error = match trouble {
        Trouble::Cut => return exchange.cut(),
        Trouble::Refused(error) => error,
        Trouble::Failed(failure) => {
            if failure.is_of_database() {
                ports.cells().degraded_rejections.at(request.operation).inc();
            }
            let is_known = failure.is_of_database()
                && ports.meta().database().is_some_and(|database| !database.circuit.is_closed());
            if matches!(failure.kind, Kind::ReadBudget | Kind::WriteBudget) {
                let is_read = failure.kind == Kind::ReadBudget;
                ports.cells().usage_limit_rejections(request.operation, is_read).inc();
            // While the breaker is open, its own line says it for all.
            } else if failure.blame != Blame::Client && !is_known {
                tracing::warn!(request = request.id, operation = request.operation.name(), %failure, "request failed");
            }
            error_of_failure(&failure)
        }
    };
    // What a copy is refused for may be its source.
    let copies = matches!(request.operation, Operation::CopyObject | Operation::UploadPartCopy);
    let about = if copies { ("", "") } else { (request.bucket(), request.key()) };
    refuse_about(request.head, (request.id, about), exchange, scratch, &error, scratch.found).await;
}

/// Answers an error to a request that may not have been understood yet. Cancel: NOT safe.
pub async fn refuse<P: Ports, X: Exchange<P>>(
    head: &RequestHead<'_>,
    id: &str,
    exchange: &mut X,
    scratch: &mut Scratch,
    error: &S3Error,
) {
    refuse_about(head, (id, ("", "")), exchange, scratch, error, Found::Exact).await;
}

async fn refuse_about<P: Ports, X: Exchange<P>>(
    head: &RequestHead<'_>,
    (id, (bucket, key)): (&str, (&str, &str)),
    exchange: &mut X,
    scratch: &mut Scratch,
    error: &S3Error,
    found: Found,
) {
    if exchange.answered() {
        return exchange.cut();
    }
    write_head(exchange, scratch, error);
    write_found(exchange.head(), found);
    scratch.body.clear();
    if head.method != Method::Head && error.code != ErrorCode::NotModified {
        let mut about = xml::About { resource: head.path, bucket, key, ..xml::About::default() };
        match error.code {
            ErrorCode::PreconditionFailed | ErrorCode::ConditionalRequestConflict => {
                about.condition = only_condition(head);
            }
            ErrorCode::InvalidRange => {
                let range = ["range", "x-amz-copy-source-range"].iter().find_map(|name| head.header_text(name).ok()?);
                about.range = range.map(|range| (range, scratch.located.size));
            }
            _ => {}
        }
        xml::write_error(&mut scratch.body, error, about, id);
    }
    exchange.note_error(error);
    // A client that is gone does not hear of its error; the connection ends either way.
    if exchange.respond(&scratch.body).await.is_err() || error.close {
        exchange.cut();
    }
}

/// The condition of a request that has one, as S3 writes it: of several nobody says here which one it was.
fn only_condition(head: &RequestHead<'_>) -> &'static str {
    const CONDITIONS: [(&str, &str); 8] = [
        ("if-match", "If-Match"),
        ("if-none-match", "If-None-Match"),
        ("if-modified-since", "If-Modified-Since"),
        ("if-unmodified-since", "If-Unmodified-Since"),
        ("x-amz-copy-source-if-match", "x-amz-copy-source-If-Match"),
        ("x-amz-copy-source-if-none-match", "x-amz-copy-source-If-None-Match"),
        ("x-amz-copy-source-if-modified-since", "x-amz-copy-source-If-Modified-Since"),
        ("x-amz-copy-source-if-unmodified-since", "x-amz-copy-source-If-Unmodified-Since"),
    ];
    let mut sent = CONDITIONS.iter().filter(|(name, _)| head.header(name).is_some());
    match (sent.next(), sent.next()) {
        (Some((_, shown)), None) => shown,
        _ => "",
    }
}

fn write_head<P: Ports, X: Exchange<P>>(exchange: &mut X, scratch: &Scratch, error: &S3Error) {
    let head = exchange.head();
    head.clear();
    head.status = error.http_status();
    head.field("content-type", "application/xml");
    match error.code {
        ErrorCode::SlowDown | ErrorCode::UsageLimitExceeded | ErrorCode::ServiceUnavailable => {
            head.field("retry-after", RETRY_AFTER);
        }
        ErrorCode::InvalidRange => {
            head.format("content-range", format_args!("bytes */{}", scratch.located.size));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Retry;

    #[test]
    fn blame_and_kind_decide_what_the_client_sees() {
        let failure = |kind, blame| error_of_failure(&Failure::new(kind, blame, Retry::Never, "secret")).code;
        for (kind, blame, want) in [
            (Kind::Unavailable, Blame::Metadata, ErrorCode::ServiceUnavailable),
            (Kind::Unavailable, Blame::Backend, ErrorCode::ServiceUnavailable),
            (Kind::NotFound, Blame::Backend, ErrorCode::InternalError),
            (Kind::Corrupt, Blame::Backend, ErrorCode::InternalError),
            (Kind::NoSpace, Blame::Backend, ErrorCode::InsufficientStorage),
            (Kind::Overloaded, Blame::Ourselves, ErrorCode::SlowDown),
            (Kind::WriteBudget, Blame::Ourselves, ErrorCode::InsufficientStorage),
            (Kind::ReadBudget, Blame::Ourselves, ErrorCode::UsageLimitExceeded),
            (Kind::Overloaded, Blame::Metadata, ErrorCode::SlowDown),
            (Kind::Unavailable, Blame::Ourselves, ErrorCode::InternalError),
            (Kind::Unavailable, Blame::Client, ErrorCode::RequestTimeout),
            (Kind::Gone, Blame::Client, ErrorCode::IncompleteBody),
        ] {
            assert_eq!(failure(kind, blame), want, "{kind:?} {blame:?}");
        }
    }
}
