//! Why there is no result, or no more of it.

use crate::result::{MOST_GROUP_BYTES, MOST_GROUPS};
use hw_pg::error::PgError;
use hw_types::TableName;

/// Why a query has no live result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LiveError {
    /// There is no such table, or the role may not use it: which of both is nobody's business.
    #[error("table {0} is not there, or may not be read")]
    NotReadable(TableName),
    /// Row security does not stand between the role and the table, so that every row would be shown.
    #[error("Row level security is required for accessing this table: {table} {reason}")]
    NotSecured {
        /// The table.
        table: TableName,
        /// What is missing.
        reason: &'static str,
    },
    /// The role may not be taken for users.
    #[error("the database role {role} {reason}")]
    Role {
        /// The role.
        role: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Postgres refused the query.
    #[error("{message}")]
    Query {
        /// Five characters.
        sqlstate: String,
        /// Its message, which may quote what was asked, and never what others wrote.
        message: String,
    },
    /// The result is larger than anybody is sent.
    #[error("the result has more than {0} bytes; ask for less of it")]
    TooLarge(usize),
    /// The result has more groups than are kept, or larger ones.
    #[error(
        "the result has more than {MOST_GROUPS} groups, or they have more than {MOST_GROUP_BYTES} bytes; group by \
         something coarser, or ask for fewer rows"
    )]
    TooManyGroups,
    /// Live results, of whoever asks or of all, hold as much memory as they may.
    #[error(
        "live results hold as much memory as they may, those of this user or those of all; end subscriptions, or ask \
         for less"
    )]
    NoRoom,
    /// The table is not replicated yet: it is being copied meanwhile.
    #[error(
        "table {0} is being copied, which takes longer than a subscription waits; subscribe again later"
    )]
    NotEntered(TableName),
    /// Its changes cannot be followed.
    #[error("changes of table {table} cannot be followed: {why}")]
    NotFollowed {
        /// The table.
        table: TableName,
        /// What hinders it.
        why: String,
    },
    /// The source does not answer.
    #[error("the database does not answer: {0}")]
    Source(String),
    /// Who may see what changed again and again while it was asked.
    #[error("policies or grants change all the time; ask again later")]
    Unsettled,
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
}

impl LiveError {
    /// Whether the same question may have an answer later.
    pub fn is_passing(&self) -> bool {
        use LiveError::{NotEntered, Source, Stopping, Unsettled};
        matches!(self, NotEntered(_) | Source(_) | Unsettled | Stopping)
    }

    /// Whether it may be otherwise when it is asked again at once: the statement took too long, waited for a
    /// lock, or for memory.
    pub(crate) fn may_pass(&self) -> bool {
        let LiveError::Query { sqlstate, .. } = self else { return self.is_passing() };
        ["40", "53", "55", "57", "58"].iter().any(|class| sqlstate.starts_with(class))
    }

    /// Whether Postgres gave up because it took too long.
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(self, LiveError::Query { sqlstate, .. } if sqlstate == "57014")
    }

    /// What a failure of our own statements means.
    pub(crate) fn source(error: &PgError) -> LiveError {
        LiveError::Source(error.to_string())
    }
}
