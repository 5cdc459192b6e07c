//! A copy under way, and the changes of its tables, kept until the tables enter.
//!
//! One recording for the whole copy, in memory while it is small, whatever the size of a
//! transaction; transactions are told apart by a message in front of each that carries its commit
//! position and its id. A crash drops the recording with the copy, so it is never read by another process.

use crate::error::EngineError;
use crate::tables::Table;
use hw_input::entry::{Behind, Reading};
use hw_input::transactions::changes::{ChangesIter, Recorder, SentUnder};
use hw_store::segment::SpoolDir;
use hw_types::{Change, CommitLsn, FullXid, LogMessage, Lsn, RelationId, Xid};
use std::collections::HashMap;
use std::sync::Arc;

/// A copy under way. There is one at a time; it may hold many tables.
pub(crate) struct Copying {
    /// Everything is copied, from this slot, and nothing is shown until it is complete.
    pub whole: Option<String>,
    /// X; zero until it is known, with what is loaded.
    pub boundary: Lsn,
    /// The incarnations that are being loaded, by the source's oid.
    pub loading: HashMap<RelationId, Arc<Table>>,
    /// Incarnations that will not enter. Thrown away when nothing is loaded any more.
    pub left_out: Vec<Arc<Table>>,
    /// Tables whose rows were sent under others while it was not known what is loaded, and where.
    pub sent_under: Vec<(CommitLsn, SentUnder)>,
    pub spool: CopySpool,
    /// What the complete copy waits for, and how it was read; `None` while rows are loaded.
    pub loaded: Option<(Behind, Reading)>,
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

    /// Begins with what a transaction did to the tables.
    pub fn transaction(&mut self, commit_lsn: CommitLsn, xid: FullXid) -> Spooled<'_> {
        Spooled { spool: self, at: Some(Commit { lsn: commit_lsn.0, xid }) }
    }

    fn push(&mut self, change: Change) -> Result<(), EngineError> {
        self.recorder.push(NOBODY, change)?;
        if self.recorder.memory() > MEMORY {
            self.recorder.spill(&self.dir)?;
        }
        Ok(())
    }

    /// All changes in log order.
    pub fn finish(self) -> Result<SpooledChanges, EngineError> {
        let commit = Commit { lsn: Lsn::ZERO, xid: FullXid(0) };
        Ok(SpooledChanges { iter: self.recorder.finish()?.iter(), commit })
    }
}

/// The transaction of a spooled change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Commit {
    /// Where its commit record starts.
    pub lsn: Lsn,
    pub xid: FullXid,
}

/// Takes the changes of one transaction.
pub(crate) struct Spooled<'a> {
    spool: &'a mut CopySpool,
    /// The transaction, until it is written.
    at: Option<Commit>,
}

impl Spooled<'_> {
    pub fn push(&mut self, change: Change) -> Result<(), EngineError> {
        if let Some(Commit { lsn, xid }) = self.at.take() {
            let content = xid.0.to_be_bytes().to_vec().into();
            self.spool.push(Change::Message(LogMessage { lsn, prefix: String::new(), content }))?;
        }
        self.spool.push(change)
    }
}

/// The changes of a finished recording.
pub(crate) struct SpooledChanges {
    iter: ChangesIter,
    /// The transaction that is read.
    commit: Commit,
}

impl Iterator for SpooledChanges {
    type Item = Result<(Commit, Change), EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.iter.next()? {
                Ok(Change::Message(LogMessage { lsn, content, .. })) => {
                    let Ok(xid) = <[u8; 8]>::try_from(&content[..]) else {
                        return Some(Err(EngineError::damaged("spool", "transaction")));
                    };
                    self.commit = Commit { lsn, xid: FullXid(u64::from_be_bytes(xid)) };
                }
                Ok(change) => return Some(Ok((self.commit, change))),
                Err(error) => return Some(Err(EngineError::Source(error.to_string()))),
            }
        }
    }
}
