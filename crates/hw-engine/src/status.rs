//! What the engine is doing, as plain data for the admin surface and metrics.

use hw_types::{Checkpoint, Diagnostic, EndLsn, TableName};
use std::fmt;

/// A moment's account.
#[derive(Clone, Debug, Default)]
pub struct EngineStatus {
    /// The source.
    pub source: SourceState,
    /// Published position.
    pub published: Checkpoint,
    /// Number of publications of this process.
    pub publication: u64,
    /// Everything up to here is durable.
    pub durable: EndLsn,
    /// Where the source's log ends, as last heard.
    pub source_end: EndLsn,
    /// Seconds since 1970 at which the source was last heard of.
    pub heard_at: u64,
    /// Epoch of op ids.
    pub epoch: u64,
    /// Version of the sync configuration that is served.
    pub sync_version: Option<u64>,
    /// Whether a configuration is being built.
    pub building: bool,
    /// Version of the configuration that is being built, while one is.
    pub waiting_version: Option<u64>,
    /// Tables whose changes are passed over until they have been copied again.
    pub stale: Vec<TableName>,
    /// Definitions that stand still, because a table that they read cannot be followed.
    pub frozen: Vec<String>,
    /// Definitions that are not served, because a table that they read cannot be replicated.
    pub withheld: Vec<String>,
    /// Copies under way.
    pub copies: Vec<CopyStatus>,
    /// Tables that definitions name and that are not in the replica yet; `None` before the
    /// source was asked.
    pub tables_missing: Option<usize>,
    /// Tables that definitions name and that cannot be replicated, with the reason.
    pub refused: Vec<Diagnostic>,
    /// Memory of transactions and positions that wait for the writer.
    pub queue_bytes: u64,
    /// Its bound.
    pub queue_limit_bytes: u64,
    /// Bytes of log that the slot retains, as last asked.
    pub retained_bytes: u64,
    /// Bytes of the store on disk.
    pub store_bytes: u64,
    /// Why the stream stands still, while a transaction does not fit into the spool.
    pub stalled: Option<String>,
    /// A server with another data directory has used the slot since: what is served grows old.
    pub displaced: bool,
    /// Grows while the writer works or waits for work; stands still when it hangs.
    pub beat: u64,
    /// Why the store cannot be written, while it cannot.
    pub store_error: Option<String>,
    /// How often the writer began again from the durable state.
    pub restarts: u64,
}

/// A table that is being copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyStatus {
    /// Which table.
    pub table: TableName,
    /// Rows read.
    pub rows: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Rows that the source's statistics expect, when they know.
    pub estimate: Option<u64>,
    /// Whether all rows are read.
    pub done: bool,
}

/// Where the connection to the source stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SourceState {
    /// Not yet tried.
    #[default]
    Starting,
    /// Connecting, or connecting again.
    Connecting,
    /// Waiting, with the reason (another instance holds the slot, a transaction blocks it).
    Waiting {
        /// What is waited for and how to mend it.
        finding: Box<Diagnostic>,
    },
    /// Copying tables before the stream can begin.
    Copying,
    /// The stream runs.
    Streaming,
    /// Failed; tried again with growing pauses.
    Failed {
        /// What happened and how to mend it.
        finding: Box<Diagnostic>,
    },
}

impl fmt::Display for SourceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceState::Starting => f.write_str("starting"),
            SourceState::Connecting => f.write_str("connecting"),
            SourceState::Waiting { finding } => write!(f, "waiting: {}", finding.what),
            SourceState::Copying => f.write_str("copying tables"),
            SourceState::Streaming => f.write_str("streaming"),
            SourceState::Failed { finding } => write!(f, "failed: {}", finding.what),
        }
    }
}
