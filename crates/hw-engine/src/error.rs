//! What can go wrong in the engine. Callers at the edge turn it into their protocol's form.

use hw_input::markers::MarkerError;
use hw_store::StoreError;
use hw_types::Diagnostic;

/// Stable codes of the engine's findings.
pub mod code {
    /// The engine is stopping and takes no more commands.
    pub const STOPPING: u16 = 3101;
    /// A configuration was not taken over, because a newer one was handed in before.
    pub const OVERTAKEN: u16 = 3102;
    /// A part of the store is damaged. What it held is copied and built again; until that is done
    /// nothing is served.
    pub const LOST: u16 = 3103;
    /// Clients hold operations that this store has never had: it was put back to an earlier state,
    /// perhaps together with the database. They are sent their buckets anew; the others notice nothing.
    pub const WENT_BACK: u16 = 3104;
    /// The store was put back to an earlier state alone, although the server has run since, or a server
    /// with another data directory was in its place. Everything is copied again and compared, and nobody
    /// is answered until that is done.
    pub const BEHIND: u16 = 3105;
    /// A table that somebody wants to read cannot be replicated beside those that are: of a partitioned
    /// table and its partitions only the one or the others can be.
    pub const BESIDE: u16 = 3106;
    /// The source repeats other transactions than those that were applied: it was put back to an earlier
    /// state. Everything is copied again and compared.
    pub const HISTORY_MOVED: u16 = 3107;
    /// The log changes a row that the replica does not hold. The table is copied again and compared.
    pub const ROW_MISSING: u16 = 3108;
    /// A sync configuration of the store, or one that was handed in, does not compile with this version, and is
    /// not served.
    pub const NO_LONGER_COMPILES: u16 = 3109;
    /// The writer failed and begins again from what is durable, as often as it takes.
    pub const WRITER_FAILED: u16 = 3111;
}

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The store failed; see [`StoreError`] for whether it heals.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// Something a person must mend.
    #[error("{0}")]
    Finding(Box<Diagnostic>),
    /// The source said something or failed; the driver decides whether to try again.
    #[error("source: {0}")]
    Source(String),
    /// The operating system gives no thread.
    #[error("start a thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The engine is stopping.
    #[error("the engine is stopping")]
    Stopping,
}

impl EngineError {
    /// A stored record cannot be read: the store is damaged in a way that its checksums do not
    /// show, or of another version.
    pub fn damaged(space: &str, what: &str) -> EngineError {
        StoreError::Damaged { what: format!("a record in {space}: {what}") }.into()
    }

    /// Whether the store is damaged and it cannot be told what of it is lost.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, EngineError::Store(StoreError::Damaged { .. }))
    }

    /// The same for a person, where it has a code of its own: what happened and how to mend it.
    pub fn finding(&self) -> Option<Diagnostic> {
        match self {
            EngineError::Store(error) => Some(error.diagnostic()),
            EngineError::Finding(finding) => Some((**finding).clone()),
            EngineError::Source(_) | EngineError::Thread(_) | EngineError::Stopping => None,
        }
    }
}

impl From<MarkerError> for EngineError {
    fn from(error: MarkerError) -> Self {
        match error {
            MarkerError::Source(what) => EngineError::Source(what),
            MarkerError::Closed => EngineError::Stopping,
        }
    }
}

impl From<Diagnostic> for EngineError {
    fn from(finding: Diagnostic) -> Self {
        EngineError::Finding(Box::new(finding))
    }
}
