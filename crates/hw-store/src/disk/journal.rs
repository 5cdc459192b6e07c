//! Making the journal durable without stopping commits.
//!
//! fjall's own sync holds the lock that commits need. Every commit has already handed its bytes to
//! the operating system when it returns, so syncing the journal's newest file through a handle of
//! our own is enough: fjall syncs a file before it starts the next one, and a table before it drops
//! the journal file that held its writes.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::{Disk, Failure, entries};
use crate::StoreError;

/// What is known to be durable, and the file that is synced next.
#[derive(Default)]
pub(super) struct Syncing {
    /// Entries (counted as `Disk::entries`) that are durable.
    synced: u64,
    /// A sequence number up to which all entries are durable.
    durable: u64,
    newest: Option<(u64, File)>,
}

impl Disk {
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        let wanted = self.entries.load(Ordering::Acquire);
        let mut syncing = self.syncing.lock();
        if self.failure() == Failure::Sync {
            return Err(StoreError::Poisoned);
        }
        if syncing.synced >= wanted {
            return Ok(());
        }
        // What was committed while waiting for the lock is covered as well: group commit.
        let covered = self.entries.load(Ordering::Acquire);
        let durable = self.newest_entry.load(Ordering::Acquire);
        let result = syncing.newest(&self.home.data()).and_then(File::sync_data);
        if let Err(error) = result {
            syncing.newest = None;
            return Err(self.failed(StoreError::io("sync journal")(error), Failure::Sync));
        }
        syncing.synced = covered;
        syncing.durable = durable;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Syncing {
    /// As behind an opening, at which everything that was found is durable.
    pub(super) fn opened(durable: u64) -> Syncing {
        Syncing { durable, ..Syncing::default() }
    }

    /// Notes that entries up to this sequence number are durable. Kept here, because reopening may
    /// have to be tried several times.
    pub(super) fn covers(&mut self, durable: u64) {
        self.durable = self.durable.max(durable);
    }

    /// A sequence number up to which all entries are durable.
    pub(super) fn durable(&self) -> u64 {
        self.durable
    }

    /// The newest journal file. Names are consecutive numbers, so looking for the next one is one
    /// call as long as there is none.
    fn newest(&mut self, data: &Path) -> io::Result<&File> {
        let mut newest = match self.newest.take() {
            Some(newest) => newest,
            None => {
                let newest = entries::files(data)?.pop();
                let (id, path) = newest.ok_or(io::ErrorKind::NotFound)?;
                (id, File::options().write(true).open(path)?)
            }
        };
        loop {
            match open(data, newest.0 + 1) {
                Ok(file) => newest = (newest.0 + 1, file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        Ok(&self.newest.insert(newest).1)
    }
}

fn open(data: &Path, id: u64) -> io::Result<File> {
    File::options().write(true).open(data.join(format!("{id}.jnl")))
}

/// Bytes that the journal takes on disk. Its newest file is as long as it may become from the
/// beginning, but takes room only for what was written.
pub(super) fn bytes_on_disk(data: &Path) -> u64 {
    let files = entries::files(data).unwrap_or_default();
    files.iter().filter_map(|(_, path)| Some(path.metadata().ok()?.blocks() * 512)).sum()
}
