//! A copy under way, and the changes of its tables, kept until the tables enter.
//!
//! One recording for the whole copy, in memory while it is small, whatever the size of a
//! transaction; transactions are told apart by a message in front of each that carries its commit
//! position. A crash drops the recording with the copy, so it is never read by another process.

use crate::error::EngineError;
use crate::tables::Table;
use hw_input::entry::Behind;
use hw_input::transactions::changes::{ChangesIter, Recorder};
use hw_store::segment::SpoolDir;
use hw_types::{Change, CommitLsn, LogMessage, Lsn, RelationId, Xid};
use std::collections::HashMap;
use std::sync::Arc;

/// A copy under way. There is one at a time; it may hold many tables.
pub(crate) struct Copying {
    /// Nothing is shown until it is complete: the source's history moved.
    pub whole: bool,
    pub boundary: Lsn,
    /// The incarnations that are being loaded, by the source's oid.
    pub loading: HashMap<RelationId, Arc<Table>>,
    pub spool: CopySpool,
    /// What the complete copy waits for; `None` while rows are loaded.
    pub behind: Option<Behind>,
}

/// Memory that a recording may hold before it goes to disk.
const MEMORY: usize = 4 << 20;

/// Nothing is rolled back any more: one name for all.
const NOBODY: Xid = Xid(0);

/// Takes the changes of transactions in log order.
pub(crate) struct CopySpool {
    recorder: Recorder,
    dir: SpoolDir,
}

impl CopySpool {
    pub fn new(dir: SpoolDir) -> CopySpool {
        CopySpool { recorder: Recorder::default(), dir }
    }

    /// Begins with what the transaction at a position did to the tables.
    pub fn transaction(&mut self, at: CommitLsn) -> Spooled<'_> {
        Spooled { spool: self, at: Some(at) }
    }

    fn push(&mut self, change: Change) -> Result<(), EngineError> {
        self.recorder.push(NOBODY, change)?;
        if self.recorder.memory() > MEMORY {
            self.recorder.spill(&self.dir)?;
        }
        Ok(())
    }

    /// The changes of transactions at or behind `boundary`, in log order.
    pub fn finish(self, boundary: Lsn) -> Result<SpooledChanges, EngineError> {
        Ok(SpooledChanges { iter: self.recorder.finish()?.iter(), boundary, passed: true })
    }
}

/// Takes the changes of one transaction.
pub(crate) struct Spooled<'a> {
    spool: &'a mut CopySpool,
    /// The position, until it is written.
    at: Option<CommitLsn>,
}

impl Spooled<'_> {
    pub fn push(&mut self, change: Change) -> Result<(), EngineError> {
        if let Some(at) = self.at.take() {
            let (prefix, content) = Default::default();
            self.spool.push(Change::Message(LogMessage { lsn: at.0, prefix, content }))?;
        }
        self.spool.push(change)
    }
}

/// The changes of a finished recording.
pub(crate) struct SpooledChanges {
    iter: ChangesIter,
    boundary: Lsn,
    /// Whether the transaction that is read stands before the boundary.
    passed: bool,
}

impl Iterator for SpooledChanges {
    type Item = Result<Change, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.iter.next()? {
                Ok(Change::Message(message)) => self.passed = message.lsn < self.boundary,
                Ok(_) if self.passed => {}
                Ok(change) => return Some(Ok(change)),
                Err(error) => return Some(Err(EngineError::Source(error.to_string()))),
            }
        }
    }
}
