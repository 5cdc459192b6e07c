//! What can go wrong while the source is read, and what the driver does about it.

use hw_pg::copy::CopyError;
use hw_pg::error::{PgError, PgErrorKind, Policy};
use hw_store::StoreError;
use hw_types::{Diagnostic, TableName};

/// Shorthand.
pub type Result<T, E = InputError> = std::result::Result<T, E>;

/// Stable codes of this crate's findings.
pub mod code {
    /// The slot's place is taken by a slot that Headwater cannot use.
    pub const SLOT_NOT_OURS: u16 = 3050;
    /// Tables kept changing their form or storage while they were copied.
    pub const COPY_RESTLESS: u16 = 3051;
    /// The slot belongs to a server with another data directory, which may be alive.
    pub const SLOT_OF_ANOTHER_STORE: u16 = 3052;
    /// Looks at the source's catalog fail, several in a row: what is done to tables without a trace in the
    /// log is not noticed until they succeed (a warning).
    pub const CATALOG_UNREAD: u16 = 3053;
    /// The source cannot send a transaction before its end: the stream begins again, and large transactions
    /// are sent behind their end until all that was in the log is confirmed and the stream, once more, is
    /// begun again (a warning).
    pub const SENT_WHOLE: u16 = 3054;
    /// What was written to tables while they were copied did not fit into limits.spool_bytes: the copy was
    /// thrown away and begins again.
    pub const COPY_OUTGROWN: u16 = 3055;
    /// The replication session ended; it is begun again with growing pauses.
    pub const SESSION: u16 = 3100;
}

/// A failure of the input.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// Postgres, or the connection to it.
    #[error("{0}")]
    Pg(#[from] PgError),
    /// The spools.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The stream carries binary values, and a table has a column that can only be read as text.
    /// Start again: the source now asks for text.
    #[error("column \"{column}\" of {table} has no binary form that we read")]
    NeedsText {
        /// The table.
        table: TableName,
        /// The first such column.
        column: String,
    },
    /// The source cannot send a transaction before its end. Start again: it is now sent behind that.
    #[error("{0}")]
    NeedsWhole(PgError),
    /// A table that is being copied is not what was noted before: copy again at a new boundary.
    #[error("{0} changed its form or storage while it was copied")]
    Overtaken(TableName),
    /// The stream broke its own rules: a change without its relation, a commit without its
    /// beginning. What was received of open transactions is dropped; the server sends it again.
    #[error("the replication stream makes no sense: {0}")]
    Stream(String),
    /// The input was closed by its owner.
    #[error("the input is closed")]
    Closed,
}

impl InputError {
    /// What to do about it.
    pub fn policy(&self) -> Policy {
        match self {
            InputError::Pg(error) => error.policy(),
            InputError::Store(StoreError::Full | StoreError::SpoolFull { .. }) => {
                Policy::RetryWithBackoff
            }
            InputError::Store(_) | InputError::Closed => Policy::Stop,
            InputError::NeedsText { .. } | InputError::NeedsWhole(_) | InputError::Overtaken(_) => {
                Policy::Retry
            }
            InputError::Stream(_) => Policy::RetryWithBackoff,
        }
    }

    /// Whether it is that the source does not answer.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(self, InputError::Pg(error) if error.code() == hw_pg::error::code::TIMEOUT)
    }

    /// The finding for a person.
    pub fn diagnostic(&self) -> Diagnostic {
        match self {
            InputError::Pg(error) | InputError::NeedsWhole(error) => hw_pg::slot::diagnose(error),
            InputError::Store(error) => error.diagnostic(),
            InputError::Overtaken(_) => {
                Diagnostic::error(hw_pg::catalog::code::COPY_OVERTAKEN, self.to_string())
            }
            other => Diagnostic::error(hw_pg::error::code::PROTOCOL, other.to_string()),
        }
    }
}

impl From<CopyError> for InputError {
    fn from(error: CopyError) -> InputError {
        match error {
            CopyError::Overtaken(table) => InputError::Overtaken(table),
            CopyError::Pg(error) => InputError::Pg(error),
        }
    }
}

impl From<Diagnostic> for InputError {
    fn from(finding: Diagnostic) -> InputError {
        InputError::Pg(PgError::from(finding))
    }
}

/// Bytes of the stream that cannot be right: the connection is given up and made anew (F-35).
pub(crate) fn damaged(what: impl Into<String>) -> InputError {
    InputError::Pg(PgError::new(PgErrorKind::Lost(what.into())))
}
