//! Why a session with the source ends.

use crate::error::{InputError, code};
use crate::markers::MarkerError;
use hw_pg::error::Policy;
use hw_store::StoreError;
use hw_types::Diagnostic;

/// A session's end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Marker(#[from] MarkerError),
    /// Somebody must mend something, or the replica cannot be read.
    #[error("{0}")]
    Finding(Box<Diagnostic>),
    /// The engine started again; the stream must begin behind the durable state.
    #[error("the writer started again")]
    Restarted,
    /// The publication is another one than before.
    #[error("the publication is another one than before")]
    OtherPublication,
    /// The source's history is not the stored one.
    #[error("the source's history moved")]
    Moved,
    /// Another store took the slot.
    #[error("another server took the slot over")]
    Taken,
    /// The catalog could not be compared before the stream.
    #[error("the source does not answer a look at its catalog")]
    Silent,
    /// A copy was thrown away by the engine.
    #[error("{0}")]
    CopyDropped(Box<Diagnostic>),
    #[error("stopping")]
    Stopping,
}

impl Ended {
    /// A part of the driver that failed for no reason of the source's.
    pub fn broken(what: String) -> Ended {
        Ended::Finding(Box::new(Diagnostic::error(code::SESSION, what)))
    }

    /// The finding for a person.
    pub fn diagnostic(&self) -> Diagnostic {
        match self {
            Ended::Input(error) => error.diagnostic(),
            Ended::Finding(finding) | Ended::CopyDropped(finding) => (**finding).clone(),
            other => Diagnostic::error(code::SESSION, other.to_string()),
        }
    }

    /// Why a copy comes to nothing that begins again and comes to nothing again, until somebody mends it:
    /// there is no room for it.
    pub fn starved(&self) -> Option<Diagnostic> {
        let finding = self.diagnostic();
        let is_full = |error: &InputError| {
            matches!(error, InputError::Store(StoreError::Full | StoreError::SpoolFull { .. }))
        };
        let is_starved = match self {
            Ended::Input(error) => is_full(error),
            Ended::CopyDropped(finding) => finding.code.0 == code::COPY_OUTGROWN,
            _ => false,
        };
        is_starved.then_some(finding)
    }

    /// Whether it ended because the source does not answer.
    pub fn is_silence(&self) -> bool {
        match self {
            Ended::Input(error) => error.is_silence(),
            Ended::Silent => true,
            _ => false,
        }
    }

    /// Whether the next session is expected to go on without anybody doing anything.
    pub fn is_passing(&self) -> bool {
        match self {
            Ended::Restarted | Ended::Moved | Ended::OtherPublication | Ended::Taken => true,
            Ended::Input(error) => error.policy() == Policy::Retry,
            _ => false,
        }
    }
}

impl From<Box<Diagnostic>> for Ended {
    fn from(finding: Box<Diagnostic>) -> Ended {
        Ended::Finding(finding)
    }
}
