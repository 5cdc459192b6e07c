//! Changes: what one statement did to one row, as the log tells it.

use crate::position::Lsn;
use crate::relation::Relation;
use crate::row::Row;
use bytes::Bytes;
use std::sync::Arc;

/// One change of a transaction, in log order.
#[derive(Clone, Debug)]
pub enum Change {
    /// Something happened to a row.
    Row {
        /// The table as the log described it last before this change.
        relation: Arc<Relation>,
        /// What happened.
        kind: ChangeKind,
    },
    /// Tables were emptied together (TRUNCATE, with CASCADE's further tables named too).
    Truncate {
        /// All tables of the statement.
        relations: Vec<Arc<Relation>>,
    },
    /// A transactional logical message.
    Message(LogMessage),
    /// The log described a table again (again, or for the first time since the connection).
    Relation(Arc<Relation>),
}

/// What happened to a row.
#[derive(Clone, Debug)]
pub enum ChangeKind {
    /// A new row, complete.
    Insert {
        /// The row.
        new: Row,
    },
    /// A changed row.
    Update {
        /// The old row: identity columns only (others NULL) when the key changed, all columns
        /// under REPLICA IDENTITY FULL, `None` when the identity did not change.
        old: Option<Row>,
        /// The new row; unchanged TOAST values are absent.
        new: Row,
    },
    /// A row that is gone.
    Delete {
        /// Its identity columns (others NULL), or all columns under REPLICA IDENTITY FULL.
        old: Row,
    },
}

/// A message written by `pg_logical_emit_message(true, …)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogMessage {
    /// Where the message stands in the log.
    pub lsn: Lsn,
    /// Its prefix, `headwater` for our markers.
    pub prefix: String,
    /// Its content.
    pub content: Bytes,
}
