//! The store: the API over its two backends, the database on disk and the twin in memory.

use std::sync::Arc;

use fjall::Slice;

use crate::disk::{Disk, Upkeep};
use crate::segment::SpoolDir;
use crate::simulation::{Simulation, Twin};
use crate::{Batch, BulkLoad, Snapshot, Space, StoreError, StoreOptions};
use hw_types::Diagnostic;

/// An open store. Cloning shares it; the last clone that is dropped closes it.
///
/// Writers are the engine's single writer and its copies; readers are anybody. No call is async:
/// commits, syncs and reads may wait for the disk.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    /// Ends before the backend is let go of, so that the directory is free once a store is dropped.
    _upkeep: Option<Upkeep>,
    backend: Backend,
    spool: SpoolDir,
}

enum Backend {
    Disk(Arc<Disk>),
    Twin(Arc<Twin>),
}

/// What the store holds and does at the moment; all sizes are bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStatistics {
    /// Spaces that exist.
    pub spaces: usize,
    /// Journal and tables on disk.
    pub disk_bytes: u64,
    /// The journal's share of `disk_bytes`.
    pub journal_bytes: u64,
    /// Writes in memory: not yet flushed, or flushed and still needed by an old snapshot.
    pub memtable_bytes: u64,
    /// Blocks in the read cache.
    pub cache_bytes: u64,
    /// Memory tables waiting to be flushed.
    pub pending_flushes: usize,
    /// Compactions that run now.
    pub running_compactions: usize,
    /// Dropped spaces of which something may still take room on disk.
    pub removals: usize,
    /// Bytes in spools.
    pub spool_bytes: u64,
    /// Commits since the store was opened.
    pub commits: u64,
    /// Syncs of the journal since the store was opened (callers that shared one count once).
    pub syncs: u64,
}

impl Store {
    /// Opens the store in `options.dir`, creating it when the directory is missing or empty, and
    /// removes segments left over by an earlier process.
    ///
    /// - Errors: `Locked`, `Format`, `Foreign`, `Damaged`, `Full`, `Io`.
    pub fn open(options: &StoreOptions) -> Result<Store, StoreError> {
        let disk = Arc::new(Disk::open(options)?);
        let spool = SpoolDir::open(&disk.home().spool(), options.spool_bytes)?;
        let upkeep = Some(Upkeep::start(&disk)?);
        Ok(Store(Arc::new(Inner { _upkeep: upkeep, backend: Backend::Disk(disk), spool })))
    }

    /// Opens the twin of `simulation` in memory, as after a crash: with what its last store had
    /// synced. Segments are real files in a temporary directory of the simulation.
    pub fn simulated(simulation: &Simulation) -> Store {
        simulation.crash()
    }

    pub(crate) fn of_twin(twin: Arc<Twin>, spool: SpoolDir) -> Store {
        Store(Arc::new(Inner { _upkeep: None, backend: Backend::Twin(twin), spool }))
    }

    /// The space `name`, created when it is missing.
    ///
    /// Creating costs one record, like a commit: it is durable with everything that is committed
    /// behind it, and not part of any batch, so a space may be left over by a crash between its
    /// creation and the commit that first names it. Thousands of spaces are fine. Those whose names
    /// begin alike, up to the first dot, share files; there may be hundreds of such beginnings.
    ///
    /// - Takes: a name of 1 to 200 bytes.
    /// - Errors: `Name`; `Full`, `Poisoned`, `NoFiles`, `Io`.
    pub fn space(&self, name: &str) -> Result<Space, StoreError> {
        if name.is_empty() || name.len() > 200 {
            return Err(StoreError::Name { name: name.to_owned() });
        }
        match &self.0.backend {
            Backend::Disk(disk) => disk.space(name),
            Backend::Twin(twin) => twin.space(name),
        }
    }

    /// The space `name` if it exists.
    pub fn existing_space(&self, name: &str) -> Option<Space> {
        match &self.0.backend {
            Backend::Disk(disk) => disk.existing_space(name),
            Backend::Twin(twin) => twin.existing_space(name),
        }
    }

    /// Removes the space and everything in it, at once for all that begins afterwards; a missing one
    /// is no error. Durable with everything that is committed behind it.
    ///
    /// Not part of any batch: first commit what no longer names the space. Snapshots taken before
    /// still read it through handles that still exist. Its bytes are removed in the background; see
    /// [`Store::finish_removals`].
    pub fn drop_space(&self, name: &str) -> Result<(), StoreError> {
        match &self.0.backend {
            Backend::Disk(disk) => disk.drop_space(name),
            Backend::Twin(twin) => twin.drop_space(name),
        }
    }

    /// The names of all spaces, ascending.
    pub fn space_names(&self) -> Vec<String> {
        let mut names = match &self.0.backend {
            Backend::Disk(disk) => disk.space_names(),
            Backend::Twin(twin) => twin.space_names(),
        };
        names.sort_unstable();
        names
    }

    /// The names of spaces that were found damaged and whose bytes were given up, ascending: reads of
    /// them answer `SpaceDamaged`. They are to be filled again under other names, and dropped.
    ///
    /// Damage that nobody has read yet is not known. Whoever meets some makes the store read-only;
    /// [`Store::reopen`] then looks through everything, and names here what is lost.
    pub fn damaged_spaces(&self) -> Vec<String> {
        let mut names = match &self.0.backend {
            Backend::Disk(disk) => disk.damaged_spaces(),
            Backend::Twin(twin) => twin.damaged_spaces(),
        };
        names.sort_unstable();
        names
    }

    /// Writes `batch` atomically over all its spaces. Later reads and snapshots see it; it is
    /// durable only behind a later [`Store::sync`] (a killed process loses nothing, a power cut may
    /// lose the newest commits, but never part of one).
    ///
    /// Waits while flushing or compaction is behind.
    ///
    /// - Errors: `KeyLength` and `NoSpace`, which change nothing. Any other error means that the
    ///   store is read-only until [`Store::reopen`], and that only reading behind it tells whether
    ///   the batch is there (it is there wholly or not at all).
    pub fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        batch.check()?;
        if batch.is_empty() {
            return Ok(());
        }
        match &self.0.backend {
            Backend::Disk(disk) => disk.commit(batch),
            Backend::Twin(twin) => twin.commit(batch),
        }
    }

    /// Makes everything durable that was committed before the call. Commits go on meanwhile;
    /// callers that wait for each other share one sync.
    ///
    /// - Errors: after one, nothing counts as durable that was not before; the store is read-only
    ///   until [`Store::reopen`].
    pub fn sync(&self) -> Result<(), StoreError> {
        match &self.0.backend {
            Backend::Disk(disk) => disk.sync(),
            Backend::Twin(twin) => twin.sync(),
        }
    }

    /// Whether commits are taken; if not, the store is to be reopened, with the reason.
    pub fn check_writable(&self) -> Result<(), StoreError> {
        match &self.0.backend {
            Backend::Disk(disk) => disk.check_writable(),
            Backend::Twin(twin) => twin.check_writable(),
        }
    }

    /// All spaces at this moment, between two commits. Waits for a commit that is being applied.
    pub fn snapshot(&self) -> Snapshot {
        match &self.0.backend {
            Backend::Disk(disk) => disk.snapshot(),
            Backend::Twin(twin) => twin.snapshot(),
        }
    }

    /// The newest value of `key`, committed or being committed: for the writer itself.
    pub fn get(&self, space: &Space, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        match &self.0.backend {
            Backend::Disk(disk) => disk.get(space, key),
            Backend::Twin(twin) => twin.get(space, key),
        }
    }

    /// Starts a bulk load: ascending pairs straight into tables, around the journal and the memory
    /// tables. Invisible until [`BulkLoad::finish`].
    pub fn bulk(&self, space: &Space) -> Result<BulkLoad, StoreError> {
        if space.is_dropped() {
            return Err(space.missing());
        }
        match &self.0.backend {
            Backend::Disk(disk) => Ok(BulkLoad::on_disk(disk, space)),
            Backend::Twin(twin) => Ok(BulkLoad::in_twin(twin, space)),
        }
    }

    /// Removes what is left of dropped spaces now, on the caller's thread, instead of in the
    /// background.
    pub fn finish_removals(&self) -> Result<(), StoreError> {
        match &self.0.backend {
            Backend::Disk(disk) => {
                while disk.remove_piece()? {}
                Ok(())
            }
            Backend::Twin(_) => Ok(()),
        }
    }

    /// The directory of segments that belong to this store, for incoming changes; for others see
    /// [`SpoolDir::of`].
    pub fn spool(&self) -> &SpoolDir {
        &self.0.spool
    }

    /// A failure of this store for a person: what happened, in which directory, and how to mend it.
    pub fn finding(&self, error: &StoreError) -> Diagnostic {
        let mut finding = error.diagnostic();
        let Backend::Disk(disk) = &self.0.backend else { return finding };
        if matches!(error, StoreError::Full) {
            let needed = disk.needed_bytes().div_ceil(1 << 20);
            finding.what.push_str(&format!("; it is written again when {needed} MB are free"));
        }
        finding.at(format!("directory {}", disk.home().dir().display()))
    }

    /// Bytes on disk: journal, tables and spools.
    pub fn disk_bytes(&self) -> u64 {
        let statistics = self.statistics();
        statistics.disk_bytes + statistics.spool_bytes
    }

    /// What the store holds and does at the moment.
    pub fn statistics(&self) -> StoreStatistics {
        let mut statistics = match &self.0.backend {
            Backend::Disk(disk) => disk.statistics(),
            Backend::Twin(twin) => twin.statistics(),
        };
        statistics.spool_bytes = self.0.spool.used_in_all();
        statistics
    }

    /// Opens the database again in this process, after a full disk or a failed write. Commits that
    /// no sync covered may be lost by it, so the caller reads its position again, as at a start.
    ///
    /// Spaces stay valid. Snapshots taken before answer `Superseded`. Running bulk loads fail.
    ///
    /// - Errors: `Full` when the disk has still no room: nothing has changed and reads go on. Any
    ///   other error leaves the store closed; calling again tries again.
    pub fn reopen(&self) -> Result<(), StoreError> {
        match &self.0.backend {
            Backend::Disk(disk) => disk.reopen(),
            Backend::Twin(twin) => twin.reopen(),
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("spaces", &self.space_names().len()).finish()
    }
}
