//! The words every crate of Headwater shares: log positions, relations, types, rows,
//! changes and diagnostics.
//!
//! Plain data: no I/O, no async, no wire formats. Suggested reading order:
//! [`position`], [`relation`], [`pgtype`], [`row`], [`change`], [`facts`], [`diagnostic`].

pub mod change;
pub mod diagnostic;
pub mod facts;
pub mod key;
pub mod pace;
pub mod pattern;
pub mod pgtype;
pub mod position;
pub mod relation;
pub mod row;
pub mod run_as;
pub mod sample;
pub mod sql;
pub mod text;
pub mod user_key;
pub mod varint;

pub use change::{Change, ChangeKind, LogMessage};
pub use diagnostic::{Code, Diagnostic, Severity, Span};
pub use pace::Pace;
pub use pattern::{NamePattern, TablePattern};
pub use pgtype::PgType;
pub use position::{Checkpoint, CommitLsn, EndLsn, FullXid, Lsn, OpId, PgSnapshot, Place, Xid};
pub use relation::{Column, Relation, RelationId, ReplicaIdentity, TableName};
pub use row::{Cell, Row, RowBuilder, RowRef};
pub use run_as::RunAs;
pub use sample::Sample;
pub use sql::Sql;
