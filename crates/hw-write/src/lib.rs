//! Writes of clients: each transaction of a client's upload queue runs as one Postgres
//! transaction, as its author, under row level security, at most once.
//!
//! In: an [`Author`] (a verified principal), a client id, [`UploadTransaction`]s in the order of
//! the queue. Out: one [`Verdict`] each. Invariants:
//! - what was applied is recorded in the transaction that applied it, so a repeated transaction
//!   gets its first verdict and never runs twice (P5);
//! - the record is keyed by the verified subject first, so nobody reaches another user's records;
//! - SQL is built from names of the catalog, never from names that a client sent; values travel
//!   as parameters.
//!
//! What an operator can mend (a missing grant, a table that is not there yet) is never a rejection.
//!
//! Beside uploads: [`statements`] runs single messages of surfaces as their authors, [`interactive`] holds
//! transactions open between messages.
//!
//! Suggested reading order: [`transaction`], [`verdict`], [`map`]; [`apply`] is the centre and
//! `attempt` one try; `catalog`, `key`, `value` and `statement` make the SQL, `run` runs it,
//! `ledger` remembers; `rights` and [`mod@examine`] say what
//! operators have to grant; [`schema`] is what `headwater setup` creates.

pub mod apply;
mod attempt;
mod catalog;
pub mod code;
pub mod config;
pub mod examine;
pub mod interactive;
mod key;
mod ledger;
pub mod map;
pub mod refusal;
mod rights;
mod role;
mod run;
pub mod schema;
mod session;
pub mod shape;
mod statement;
pub mod statements;
#[cfg(test)]
mod tests;
pub mod transaction;
mod value;
pub mod verdict;

pub use apply::{UploadError, Uploads};
pub use catalog::USUAL_ROLES;
pub use config::{Keep, UploadConfig};
pub use interactive::{End, Interactive};
pub use map::{
    ColumnMap, ColumnTarget, ConflictPolicy, IdPart, MappedTable, TableTarget, Unknown, UploadMap,
};
pub use refusal::{RefusalKind, StatementError};
pub use shape::{ShapeColumn, TableShape};
pub use statements::{Access, Make, Rows, StatementOptions, Statements, Tally};
pub use transaction::{
    Author, AuthorRole, Fields, OperationKind, UploadOperation, UploadTransaction,
};
pub use verdict::{Delay, Rejection, Verdict};
