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
    /// A record of the store cannot be read: it is damaged, or of another version.
    pub const UNREADABLE: u16 = 3103;
}

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The store failed; see [`StoreError`] for whether it heals.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// A stored record cannot be read. The store is damaged or of another version.
    #[error("damaged record in {space}: {what}")]
    Damaged {
        /// The space that holds it.
        space: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Something a person must mend.
    #[error("{0}")]
    Finding(Box<Diagnostic>),
    /// The source said something or failed; the driver decides whether to try again.
    #[error("source: {0}")]
    Source(String),
    /// The engine is stopping.
    #[error("the engine is stopping")]
    Stopping,
}

impl EngineError {
    /// A damaged record.
    pub fn damaged(space: impl Into<String>, what: &'static str) -> EngineError {
        EngineError::Damaged { space: space.into(), what }
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
