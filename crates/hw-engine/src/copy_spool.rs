//! Changes of tables that are being copied, kept until the tables enter.
//!
//! One recording for the whole copy, in memory while it is small; transactions are told apart by
//! a message in front of each that carries its commit position. A crash drops the recording with
//! the copy, so it is never read by another process.

use crate::error::EngineError;
use hw_input::transactions::changes::{ChangesIter, Recorder};
use hw_store::segment::SpoolDir;
use hw_types::{Change, CommitLsn, LogMessage, Xid};

/// Memory that a recording may hold before it goes to disk.
const MEMORY: usize = 4 << 20;

/// Takes the changes of transactions in log order.
pub(crate) struct CopySpool {
    recorder: Recorder,
    dir: SpoolDir,
}

impl CopySpool {
    pub fn new(dir: SpoolDir) -> CopySpool {
        CopySpool { recorder: Recorder::default(), dir }
    }

    /// Appends what a transaction did to the tables.
    pub fn append(&mut self, at: CommitLsn, changes: Vec<Change>) -> Result<(), EngineError> {
        let message = LogMessage { lsn: at.0, prefix: String::new(), content: Default::default() };
        // Nothing is rolled back any more: one name for all.
        let xid = Xid(0);
        for change in std::iter::once(Change::Message(message)).chain(changes) {
            self.recorder.push(xid, change)?;
        }
        if self.recorder.memory() > MEMORY {
            self.recorder.spill(&self.dir)?;
        }
        Ok(())
    }

    /// The transactions in log order.
    pub fn finish(self) -> Result<SpooledTransactions, EngineError> {
        let changes = self.recorder.finish()?;
        Ok(SpooledTransactions { iter: changes.iter(), next: None })
    }
}

/// The transactions of a finished recording.
pub(crate) struct SpooledTransactions {
    iter: ChangesIter,
    next: Option<CommitLsn>,
}

impl Iterator for SpooledTransactions {
    type Item = Result<(CommitLsn, Vec<Change>), EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut changes = Vec::new();
        loop {
            match self.iter.next() {
                Some(Ok(Change::Message(message))) => {
                    let before = self.next.replace(CommitLsn(message.lsn));
                    if let Some(at) = before {
                        return Some(Ok((at, changes)));
                    }
                }
                Some(Ok(change)) => changes.push(change),
                Some(Err(error)) => return Some(Err(EngineError::Source(error.to_string()))),
                None => return self.next.take().map(|at| Ok((at, changes))),
            }
        }
    }
}
