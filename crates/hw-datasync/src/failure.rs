//! Why a request failed, in the words of the protocol.
//!
//! Fixed sentences are those that clients of the original know; see `datasync.md` 13.

use axum::http::StatusCode;
use hw_live::LiveError;
use hw_types::{Code, TableName};
use hw_write::{RefusalKind, StatementError, code as write_code};

use crate::code;
use crate::statement::Unknown;
use crate::wire::Answer;

/// A failure, safe to show to whoever sent the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The sentence.
    pub message: String,
    /// What `docs/errors.md` calls it.
    pub code: Code,
    /// Postgres's code, where Postgres refused.
    pub sqlstate: Option<String>,
    /// The status of an HTTP answer.
    pub status: StatusCode,
}

impl Failure {
    /// A failure of the request itself.
    pub fn new(code: u16, message: impl Into<String>) -> Failure {
        Failure {
            message: message.into(),
            code: Code(code),
            sqlstate: None,
            status: StatusCode::BAD_REQUEST,
        }
    }

    /// With another status than 400.
    pub fn with_status(self, status: StatusCode) -> Failure {
        Failure { status, ..self }
    }

    /// An update met no row.
    pub fn no_row() -> Failure {
        let message = "Could not apply the update to the given record. Are you sure the record ID you passed \
                       is correct? If the record ID is correct, likely the row level security policy is not \
                       making the record visible to the UPDATE operation.";
        Failure::new(code::NO_ROW, message).with_status(StatusCode::NOT_FOUND)
    }

    /// There is no row to show.
    pub fn nothing_found(table: &str) -> Failure {
        let message = format!(
            "There is no row with this id in \"{}\", or this user may not see it",
            shown(table)
        );
        Failure::new(code::NO_ROW, message).with_status(StatusCode::NOT_FOUND)
    }

    /// Too much of what was answered is not read yet.
    pub fn unread() -> Failure {
        let message =
            "Too many answers wait to be read, of this user or of all; read them, and ask again";
        Failure::new(write_code::UNREAD, message).with_status(StatusCode::SERVICE_UNAVAILABLE)
    }

    /// A result is not there, or no more.
    pub fn of_live(error: LiveError, table: &TableName) -> Failure {
        let (code, status) = match &error {
            // Postgres may quote values in it; what its code means is told in our words.
            LiveError::Query { sqlstate, .. } => {
                return StatementError::of_query(sqlstate, table).into();
            }
            LiveError::NotReadable(_) => (write_code::NO_TABLE, StatusCode::NOT_FOUND),
            LiveError::NotSecured { .. } => (write_code::NO_ROW_SECURITY, StatusCode::FORBIDDEN),
            LiveError::Role { .. } => (write_code::ROLE, StatusCode::SERVICE_UNAVAILABLE),
            LiveError::NotEntered(_) => (code::NOT_ENTERED, StatusCode::SERVICE_UNAVAILABLE),
            LiveError::NotFollowed { .. } => (code::NOT_FOLLOWED, StatusCode::CONFLICT),
            LiveError::NoRoom => (code::LIVE_MEMORY, StatusCode::SERVICE_UNAVAILABLE),
            LiveError::TooManyGroups => (code::GROUPS, StatusCode::BAD_REQUEST),
            LiveError::TooLarge(_) => (write_code::RESULT_TOO_LARGE, StatusCode::BAD_REQUEST),
            _ => (write_code::LATER, StatusCode::SERVICE_UNAVAILABLE),
        };
        let message = match error {
            LiveError::Source(_) => {
                "The database is not available at the moment; come again".to_owned()
            }
            other => other.to_string(),
        };
        Failure { message, code: Code(code), sqlstate: None, status }
    }

    /// A creation without records.
    pub fn no_record() -> Failure {
        Failure::new(code::ROWS, "At least one record is required")
    }

    /// The transaction is not one of this socket, or not any more.
    pub fn no_transaction(id: &str) -> Failure {
        Failure::new(code::NO_SUCH_ID, format!("No transaction with id {}", shown(id)))
    }

    /// The subscription is not one of this socket, or not any more.
    pub fn no_subscription(id: &str) -> Failure {
        let message = format!(
            "Failed to delete DataSubscription, could not find DataSubscription with id {}",
            shown(id)
        );
        Failure::new(code::NO_SUCH_ID, message)
    }

    /// The answer to the request with this number.
    pub fn answer(&self, request: i64) -> String {
        self.json(Some(request), None)
    }

    /// What a subscription that ended by itself is told with: no request failed.
    pub fn push(&self, subscription: &str) -> String {
        self.json(None, Some(subscription))
    }

    fn json(&self, request: Option<i64>, subscription: Option<&str>) -> String {
        Answer::DataSyncError {
            request_id: request,
            subscription_id: subscription,
            error_message: &self.message,
            code: Some(&self.code.to_string()),
            sqlstate: self.sqlstate.as_deref(),
        }
        .json()
    }
}

/// An identifier that a client sent, as far as it may be one of ours.
pub(crate) fn shown(id: &str) -> String {
    id.chars().take(64).collect()
}

impl From<StatementError> for Failure {
    fn from(error: StatementError) -> Failure {
        let status = match error.kind {
            RefusalKind::Invalid => StatusCode::BAD_REQUEST,
            RefusalKind::Forbidden => StatusCode::FORBIDDEN,
            RefusalKind::NotFound => StatusCode::NOT_FOUND,
            RefusalKind::Conflict => StatusCode::CONFLICT,
            RefusalKind::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
            RefusalKind::Later => StatusCode::SERVICE_UNAVAILABLE,
        };
        Failure { message: error.message, code: error.code, sqlstate: error.sqlstate, status }
    }
}

impl From<Unknown> for StatementError {
    fn from(unknown: Unknown) -> StatementError {
        let code = match unknown {
            Unknown::Aggregate(_) => code::AGGREGATE,
            Unknown::Field { .. } | Unknown::Place(_) | Unknown::NoKey(_) => code::FIELD,
        };
        StatementError::new(RefusalKind::Invalid, code, unknown.to_string())
    }
}
