//! One bound for the unflushed writes of all spaces.
//!
//! fjall flushes a keyspace when *its* memory table is large. With hundreds of them that bounds
//! nothing (its option for all of them is not read in 3.1), so flushing is decided here: when the sum
//! passes the limit, the largest memory tables go to disk until a quarter of the limit is left.
//! Commits wait here, too, when flushing or compaction is behind: fjall's own waits would begin
//! later, and do not end when its background thread has died.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fjall::{AbstractTree, Database};
use parking_lot::Mutex;

use super::catalogue::{self, CATALOGUE};
use super::{Disk, Failure};
use crate::StoreError;
use crate::space::Keyspace;

/// Sealed memory tables of one keyspace at which commits to it wait; fjall waits for ever at 4.
const MAX_SEALED: usize = 2;

/// Runs of unsorted tables of one keyspace at which commits to it wait: reads look into each of them.
/// fjall waits for ever at 30.
const MAX_RUNS: usize = 20;

/// Flushed memory that is worth a small flush to be rid of.
const GIVE_BACK: u64 = 1 << 20;

/// How often a waiting commit looks again. fjall tells nobody when it has flushed.
const PAUSE: Duration = Duration::from_millis(1);

pub(super) struct Memory {
    limit: u64,
    /// Bytes committed since the sizes were last added up.
    unweighed: AtomicU64,
    /// Memory tables that were sealed and are perhaps not yet on disk, with their sizes.
    flushing: Mutex<Vec<(Arc<Keyspace>, u64)>>,
}

impl Memory {
    pub(super) fn new(limit: u64) -> Memory {
        Memory { limit, unweighed: AtomicU64::new(0), flushing: Mutex::default() }
    }

    /// Forgets the trees of a database that is being closed.
    pub(super) fn forget(&self) {
        self.flushing.lock().clear();
    }

    fn flushing_bytes(&self) -> u64 {
        let mut flushing = self.flushing.lock();
        flushing.retain(|(keyspace, _)| keyspace.tree.tree.sealed_memtable_count() > 0);
        flushing.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl Disk {
    /// Waits until a commit or a load may add to `keyspaces`.
    pub(crate) fn wait_for_room(&self, keyspaces: &[Arc<Keyspace>]) -> Result<(), StoreError> {
        loop {
            let behind = keyspaces.iter().find_map(Behind::of);
            if behind.is_none() && self.memory.flushing_bytes() <= self.memory.limit {
                return Ok(());
            }
            let database = self.database()?;
            self.check_background(&database)?;
            match behind {
                Some(Behind::Compaction(keyspace)) if database.active_compactions() == 0 => {
                    self.compact(&database, &keyspace)?;
                }
                _ => std::thread::sleep(PAUSE),
            }
        }
    }

    /// Compacts a keyspace on the caller's thread. fjall asks for compactions only behind a flush, so
    /// that a keyspace whose last one chose another level would wait for a commit that waits for it.
    fn compact(&self, database: &Database, keyspace: &Keyspace) -> Result<(), StoreError> {
        let oldest = database.supervisor.snapshot_tracker.get_seqno_safe_to_gc();
        let strategy = keyspace.tree.config.compaction_strategy.clone();
        let result = keyspace.tree.tree.compact(strategy, oldest);
        result.map_err(|error| self.failed(fjall::Error::from(error).into(), Failure::Write))
    }

    /// Seals the largest memory tables when all together passed the limit. `written` is the size
    /// of the commit just applied.
    pub(super) fn flush_if_due(&self, written: u64) {
        // Adding up costs a lock per keyspace, so it is done once per eighth of the limit.
        let unweighed = self.memory.unweighed.fetch_add(written, Ordering::Relaxed) + written;
        if unweighed < self.memory.limit / 8 {
            return;
        }
        self.memory.unweighed.store(0, Ordering::Relaxed);
        let keyspaces: Vec<_> = self.spaces.read().keyspaces.values().cloned().collect();
        let size = |k: &Arc<Keyspace>| k.tree.tree.active_memtable().size();
        let mut sizes: Vec<_> = keyspaces.into_iter().map(|k| (size(&k), k)).collect();
        let mut total: u64 = sizes.iter().map(|(size, _)| size).sum();
        if total < self.memory.limit {
            return;
        }
        sizes.sort_unstable_by_key(|(size, _)| std::cmp::Reverse(*size));
        for (size, keyspace) in sizes {
            if total <= self.memory.limit / 4 {
                break;
            }
            match keyspace.tree.rotate_memtable() {
                Ok(_) => self.memory.flushing.lock().push((keyspace, size)),
                // The next commit finds out why; what is in memory stays readable.
                Err(error) => return tracing::warn!("flush of a keyspace: {error}"),
            }
            total -= size;
        }
    }

    /// Lets go of memory tables that are on disk and that no snapshot needs.
    ///
    /// fjall looks for them when it flushes something, which an idle store does not do: a flush
    /// whose writes an older snapshot still read leaves them in memory until the next one.
    pub(super) fn give_back(&self) -> Result<(), StoreError> {
        if self.superseded_bytes() < GIVE_BACK {
            return Ok(());
        }
        let _writing = self.writing.lock();
        self.check_writable()?;
        self.record([catalogue::opened()])?;
        let catalogue = self.spaces.read().keyspaces.get(CATALOGUE).cloned();
        let catalogue = catalogue.ok_or(StoreError::Closed)?;
        let rotated = catalogue.tree.rotate_memtable();
        rotated.map(drop).map_err(|error| self.failed(error.into(), Failure::Write))
    }

    /// Memory of tables that were flushed. The newest memory table counts once for each version of its
    /// keyspace that has it, so this says too much as long as there are several; then there is
    /// something to let go of.
    fn superseded_bytes(&self) -> u64 {
        let spaces = self.spaces.read();
        let trees = spaces.keyspaces.values().map(|keyspace| &keyspace.tree.tree);
        let flushed = trees.filter(|tree| tree.sealed_memtable_count() == 0);
        let bytes = flushed.map(|tree| {
            tree.version_memtable_size_sum().saturating_sub(tree.active_memtable().size())
        });
        bytes.sum()
    }

    /// Memory of all memory tables, also of those that only old snapshots still read.
    pub(super) fn memtable_bytes(&self) -> u64 {
        let spaces = self.spaces.read();
        spaces.keyspaces.values().map(|k| k.tree.tree.version_memtable_size_sum()).sum()
    }

    /// Bytes of all tables.
    pub(super) fn table_bytes(&self) -> u64 {
        self.spaces.read().keyspaces.values().map(|k| k.tree.tree.disk_space()).sum()
    }
}

/// Why a commit to a keyspace has to wait.
enum Behind {
    Flush,
    Compaction(Arc<Keyspace>),
}

impl Behind {
    fn of(keyspace: &Arc<Keyspace>) -> Option<Behind> {
        let tree = &keyspace.tree.tree;
        if tree.sealed_memtable_count() >= MAX_SEALED {
            return Some(Behind::Flush);
        }
        (tree.l0_run_count() >= MAX_RUNS).then(|| Behind::Compaction(keyspace.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, StoreOptions};

    #[test]
    fn fd_76_flushed_memory_is_given_back_by_an_idle_store() {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { memtable_bytes: 256 << 10, ..StoreOptions::new(dir.path()) };
        let disk = Disk::open(&options).unwrap();
        let space = disk.space("rows.1").unwrap();
        let snapshot = disk.snapshot();
        for n in 0..400u32 {
            let mut batch = Batch::new();
            batch.put(&space, n.to_be_bytes(), vec![7; 10_000]);
            disk.commit(batch).unwrap();
        }
        while disk.memory.flushing_bytes() > 0 {
            std::thread::yield_now();
        }
        assert!(disk.superseded_bytes() > GIVE_BACK, "the snapshot needs it");
        drop(snapshot);
        disk.give_back().unwrap();
        assert!(disk.superseded_bytes() < GIVE_BACK);
        assert_eq!(disk.snapshot().all(&space).count(), 400);
    }
}
