//! What an error of PostgreSQL means. None of them is an absence.

use account_store::StoreError;
use std::error::Error as _;
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

/// Why a statement failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The connection ended, so that the server did not answer: a question may be asked once more.
    Ended(StoreError),
    /// The statement was prepared on another server, or for tables that have changed since.
    PrepareAgain(StoreError),
    /// The role lacks a permission: trying again is of no use.
    Denied(StoreError),
    /// Anything else.
    Store(StoreError),
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Ended(error)
            | Failure::PrepareAgain(error)
            | Failure::Denied(error)
            | Failure::Store(error) => error,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let Some(code) = error.code() else {
            return match error.is_closed() || is_io(&error) {
                true => Self::Ended(StoreError::Unavailable(text(&error))),
                // A column of another type, or a NULL where none is written.
                false => Self::Store(StoreError::Damaged(text(&error))),
            };
        };
        let is_damage = matches!(code.code().get(..2), Some("23"))
            || [
                SqlState::DATA_CORRUPTED,
                SqlState::INDEX_CORRUPTED,
                SqlState::UNDEFINED_TABLE,
                SqlState::UNDEFINED_COLUMN,
                SqlState::INVALID_SCHEMA_NAME,
            ]
            .contains(code);
        let store = match is_damage {
            true => StoreError::Damaged(text(&error)),
            false => StoreError::Unavailable(text(&error)),
        };
        if [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::IDLE_SESSION_TIMEOUT].contains(code)
            || code.code().starts_with("08")
        {
            return Self::Ended(store);
        }
        if *code == SqlState::INSUFFICIENT_PRIVILEGE {
            return Self::Denied(store);
        }
        // 42P05: a pooler gave this session a server where another one has prepared a statement of this name.
        let is_stale = [
            SqlState::FEATURE_NOT_SUPPORTED,
            SqlState::INVALID_SQL_STATEMENT_NAME,
            SqlState::DUPLICATE_PSTATEMENT,
        ]
        .contains(code);
        match is_stale {
            true => Self::PrepareAgain(store),
            false => Self::Store(store),
        }
    }
}

fn is_io(error: &Error) -> bool {
    error.source().is_some_and(|source| source.is::<std::io::Error>())
}

/// The error without the values that PostgreSQL quotes in its details.
fn text(error: &Error) -> String {
    if let Some(error) = error.as_db_error() {
        return format!("PostgreSQL: {} (SQLSTATE {})", error.message(), error.code().code());
    }
    let mut text = format!("PostgreSQL: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
