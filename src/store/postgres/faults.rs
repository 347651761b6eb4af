//! What an error of the database means: whose fault it is, and whether the session may be used again.

use crate::base::Failure;
use crate::base::failure::Kind;
use deadpool_postgres::PoolError;
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

/// For the log and the breaker: every error of the database is the database's fault, except that it lets us wait too long
/// for another of our own transactions.
pub(super) fn failure(error: &Error) -> Failure {
    match is_stale(error) || error.code() == Some(&SqlState::QUERY_CANCELED) {
        true => Failure::overloaded(describe(error)),
        false => Failure::metadata(describe(error)),
    }
}

/// Who only reads waits for no transaction of ours: whatever kept him waiting, reads have to do without the database.
pub(super) fn of_reader(failure: Failure) -> Failure {
    match failure.kind {
        Kind::Overloaded => Failure::metadata(failure.cause),
        _ => failure,
    }
}

pub(super) fn pool_failure(error: &PoolError) -> Failure {
    match error {
        PoolError::Backend(error) => failure(error),
        other => Failure::metadata(format!("postgres: {other}")),
    }
}

fn describe(error: &Error) -> String {
    match error.as_db_error() {
        Some(answer) => {
            let advice = if is_of_pooler(answer.code()) { BEHIND_A_POOLER } else { "" };
            format!("postgres: {} ({}){advice}", answer.message(), answer.code().code())
        }
        None => {
            let mut text = format!("postgres: {error}");
            let mut cause = std::error::Error::source(error);
            while let Some(inner) = cause {
                text.push_str(&format!(": {inner}"));
                cause = inner.source();
            }
            text
        }
    }
}

pub(super) const BEHIND_A_POOLER: &str =
    ": behind a pooler in transaction mode set database.prepared_statements: false";

/// A statement that this session has prepared is not there, or one that it has not is: it is not ours alone.
fn is_of_pooler(code: &SqlState) -> bool {
    [SqlState::INVALID_SQL_STATEMENT_NAME, SqlState::DUPLICATE_PSTATEMENT].contains(code)
}

/// The batch was decided on rows that have changed since, or it lost a race for locks: decided anew, it may pass.
pub(super) fn is_stale(error: &Error) -> bool {
    let again = [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED, SqlState::LOCK_NOT_AVAILABLE];
    error.code().is_some_and(|code| again.contains(code))
}

/// The server said no to a statement and goes on: its session is as good as before. Not so after a lost connection, a server
/// that shuts down, one that no longer lets us write, or a statement that it does not know (a pooler's other session).
pub(super) fn keeps_session(error: &Error) -> bool {
    let Some(answer) = error.as_db_error() else { return false };
    let code = answer.code().code();
    let fatal = answer.parsed_severity().is_none_or(|severity| {
        matches!(severity, tokio_postgres::error::Severity::Fatal | tokio_postgres::error::Severity::Panic)
    });
    !(fatal || code == "25006" || code == "26000" || code == "0A000")
}
