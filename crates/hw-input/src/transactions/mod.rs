//! From frames to whole transactions.
//!
//! In: the frames of a [`hw_pg::replication::ReplicationStream`]. Out: [`Item`]s in commit order.
//! Invariant: a transaction is delivered once per connection, whole, or not at all; one whose
//! commit has not arrived when the connection ends is dropped, and the server sends it again from
//! its beginning. Nothing is filtered: after a reconnect the server repeats transactions behind
//! the acknowledged position, and the engine passes over those that it has (by commit LSN).
//!
//! [`assemble`] is the pure core (messages in, items out), [`drive`] runs it in a task of its
//! own between socket and engine, [`changes`] holds what one transaction did, [`describe`] asks
//! the catalog what the columns of a relation mean, [`early`] knows what cannot be sent early,
//! [`next_xid`] gives 32-bit ids of transactions their epoch.

mod assemble;
pub mod changes;
mod describe;
mod drive;
mod early;
mod next_xid;

pub use changes::{Changes, ChangesIter};
pub use describe::{Describer, Outdated, Values};
pub use drive::{StatusHandle, StreamStatus, TransactionStream};
pub use early::Early;
pub use next_xid::NextXid;

use hw_types::{CommitLsn, EndLsn, FullXid};

/// A committed transaction.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Where its commit record starts: its identity.
    pub commit_lsn: CommitLsn,
    /// Where its commit record ends: what is acknowledged.
    pub end_lsn: EndLsn,
    /// Its top-level id.
    pub xid: FullXid,
    /// When it was committed, microseconds since 2000-01-01 UTC.
    pub commit_time_micros: i64,
    /// What it did, in log order.
    pub changes: Changes,
}

/// What the input delivers.
#[derive(Clone, Debug)]
pub enum Item {
    /// A transaction with at least one change.
    Transaction(Transaction),
    /// Everything relevant up to this position has been delivered; positions only grow. Made from
    /// keepalives and from transactions without a published change.
    Progress(EndLsn),
}

impl Item {
    /// The position that may be acknowledged once this item is durable.
    pub fn end_lsn(&self) -> EndLsn {
        match self {
            Item::Transaction(transaction) => transaction.end_lsn,
            Item::Progress(end) => *end,
        }
    }

    /// Bytes of memory that the item holds.
    pub fn memory(&self) -> usize {
        const OVERHEAD: usize = 128;
        match self {
            Item::Transaction(transaction) => OVERHEAD + transaction.changes.memory(),
            Item::Progress(_) => OVERHEAD,
        }
    }
}

/// The bounds of a [`TransactionStream`], all in bytes of memory.
#[derive(Clone, Copy, Debug)]
pub struct StreamLimits {
    /// What all open transactions together may hold before the one that grows goes to a spool.
    pub open_bytes: usize,
    /// What items that wait for the engine may hold before the stream is no longer read.
    pub waiting_bytes: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        StreamLimits { open_bytes: 8 << 20, waiting_bytes: 16 << 20 }
    }
}
