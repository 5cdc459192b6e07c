//! What the engine is doing, as plain data for the admin surface and metrics.

pub use hw_input::status::{CopyStatus, SourceState, SourceStatus};
use hw_types::{Checkpoint, Diagnostic, EndLsn, OpId, TableName};
use std::collections::BTreeSet;

/// A moment's account.
#[derive(Clone, Debug, Default)]
pub struct EngineStatus {
    /// What the driver says of the source.
    pub source: SourceStatus,
    /// Published position.
    pub published: Checkpoint,
    /// Number of publications of this process.
    pub publication: u64,
    /// Everything up to here is durable.
    pub durable: EndLsn,
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
    /// The same by name, with the write checkpoints that are kept back from who uses them.
    pub held: Vec<Held>,
    /// Tables by which nobody has access until they have entered again: what was removed from them cannot
    /// be told row by row.
    pub shut: Vec<String>,
    /// Definitions that are not served, because a table that they read cannot be replicated, or a column
    /// is not sent; or not yet, because they are new and a table has to be copied.
    pub withheld: Vec<String>,
    /// Tables and definitions that the store has lost to damage and that are made again; nothing
    /// is served until they are.
    pub lost: Vec<String>,
    /// Op ids have been given above this one without gaps, since the start or the last epoch.
    pub began: OpId,
    /// What was seen of clients that hold operations which this store has never had.
    pub went_back: Option<Diagnostic>,
    /// Said while nobody is answered, because the store was put back to an earlier state.
    pub behind: Option<Diagnostic>,
    /// What keeps definitions of the configuration which is being built from being served.
    pub waits_for: Waits,
    /// Memory of transactions and positions that wait for the writer.
    pub queue_bytes: u64,
    /// Its bound.
    pub queue_limit_bytes: u64,
    /// Bytes of the store on disk.
    pub store_bytes: u64,
    /// Grows while the writer works or waits for work; stands still when it hangs.
    pub beat: u64,
    /// Why the store cannot be written, while it cannot.
    pub store_error: Option<String>,
    /// How often the writer began again from the durable state.
    pub restarts: u64,
}

/// A definition that stands still, and what is kept back because of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its name.
    pub definition: String,
    /// Where it stands.
    pub since: EndLsn,
    /// Write checkpoints whose markers came behind that.
    pub write_checkpoints: u64,
}

/// What keeps definitions from being served that are under construction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// Tables that they read, and that have not entered as they are at the source.
    pub tables: BTreeSet<TableName>,
    /// The definitions that read these.
    pub definitions: Vec<String>,
    /// Definitions whose tables are there, and that share something with what stands still.
    pub standing: Vec<String>,
}
