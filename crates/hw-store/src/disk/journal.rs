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
    /// Whether an entry, counted as `Disk::entries`, is durable.
    pub(super) fn is_durable(&self, entry: u64) -> bool {
        self.syncing.lock().synced >= entry
    }

    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        let wanted = self.entries.load(Ordering::Acquire);
        let mut syncing = self.syncing.lock();
        if syncing.synced >= wanted {
            return Ok(());
        }
        // Behind any failure: the kernel tells each file handle once that it could not write, so that
        // another try, or the try of another handle, would succeed without anything being written.
        self.check_writable()?;
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
    /// As behind an opening, at which everything that was found is durable: all entries so far, and all
    /// sequence numbers up to this one.
    pub(super) fn opened(synced: u64, durable: u64) -> Syncing {
        Syncing { synced, durable, newest: None }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, StoreOptions};

    /// After a failed sync the kernel may keep bytes in memory that it never writes: they are read
    /// back until the machine stops, and are gone then.
    #[test]
    fn fd_1_behind_a_failed_sync_only_what_earlier_syncs_covered_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(&StoreOptions::new(dir.path())).unwrap();
        let space = disk.space("rows.1").unwrap();
        let put = |key: &str| {
            let mut batch = Batch::new();
            batch.put(&space, key, "value");
            disk.commit(batch)
        };
        put("a").unwrap();
        disk.sync().unwrap();
        put("b").unwrap();
        disk.space("rows.2").unwrap();
        disk.failed(StoreError::Full, Failure::Sync);
        assert!(matches!(disk.sync(), Err(StoreError::Full)), "no second try");
        assert!(matches!(put("c"), Err(StoreError::Full)));
        disk.reopen().unwrap();
        assert_eq!(disk.space_names(), ["rows.1"]);
        assert_eq!(disk.snapshot().all(&space).count(), 1);
        put("c").unwrap();
        disk.sync().unwrap();
        // Nothing has failed: nothing is lost, synced or not.
        put("d").unwrap();
        disk.reopen().unwrap();
        assert_eq!(disk.snapshot().all(&space).count(), 3);
    }
}
