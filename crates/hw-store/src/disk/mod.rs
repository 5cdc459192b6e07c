//! The database on disk: fjall, with what it leaves to its caller.
//!
//! fjall 3.1 gives ordered spaces, one journal, atomic batches over spaces and snapshots. Added here:
//!
//! - Syncs beside commits (`journal`): fjall syncs under its writer's lock.
//! - One bound for the memory tables of all spaces (`memory`): fjall only has one per space, and its
//!   own waits never end once a background thread has died of a full disk.
//! - Snapshots only between commits: fjall's flushes move the visible position while a commit is
//!   still being applied.
//! - Opening again in the same process (`reopen`).
//! - Sequence numbers that never go back (`advance_sequence`): fjall finds the newest one among the
//!   spaces' data at opening, not among its own records of which spaces exist.
//!
//! Locks, in the order in which they are taken: `writing` (commits, snapshots, spaces, the end of
//! bulk loads, reopening), then `syncing`, then `spaces`.

mod journal;
mod memory;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use fjall::compaction::Leveled;
use fjall::config::{BlockSizePolicy, CompressionPolicy};
use fjall::{
    CompressionType, Database, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Slice,
};
use parking_lot::{Mutex, RwLock};

use self::journal::Syncing;
use self::memory::Memory;
use crate::bulk::Loads;
use crate::home::{Home, free_bytes};
use crate::snapshot::Opening;
use crate::space::{Keyspace, Place, SpaceInner};
use crate::{Batch, Snapshot, Space, StoreError, StoreOptions, StoreStatistics};

/// fjall queues a message for every space at opening into a channel of 1,000 places before anybody
/// reads it, so that a store with more spaces would never open.
const MAX_SPACES: usize = 900;

/// Below this much free space, a failure of a background thread is taken for a full disk, and
/// reopening is not tried: it needs room for flushing what the journal holds.
const LEAST_ROOM: u64 = 4 << 20;

/// The space that `advance_sequence` writes to. No caller sees it.
const CLOCK: &str = "\0clock";

/// How far the sequence numbers of an opening are from all those of the opening before: more than
/// one opening can use up without making a commit durable, and there are 2^63.
const SEQUENCE_STEP: u64 = 1 << 32;

/// How long reopening waits for readers that are inside a read of the old database.
const DRAIN: Duration = Duration::from_secs(5);

pub(crate) struct Disk {
    options: StoreOptions,
    /// The open database; empty while it is closed.
    database: ArcSwapOption<Database>,
    /// Counts openings, so that snapshots and handles of different ones never meet.
    generation: Arc<AtomicU64>,
    writing: Mutex<()>,
    syncing: Mutex<Syncing>,
    spaces: RwLock<Spaces>,
    memory: Memory,
    pub(crate) loads: Loads,
    /// A [`Failure`]: why nothing may be written any more.
    failure: AtomicU8,
    /// Commits applied since the store was created in this process; `syncing` compares with it.
    commits: AtomicU64,
    syncs: AtomicU64,
    /// Dropped last: the next process may come in only when the database is closed.
    home: Home,
}

#[derive(Default)]
struct Spaces {
    by_name: HashMap<String, Space>,
    /// Every handle given out, also those of dropped spaces: each keeps the database's lock file
    /// open as long as it holds a tree.
    all: Vec<Weak<SpaceInner>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Failure {
    None = 0,
    Full = 1,
    /// A write failed for another reason.
    Write = 2,
    /// A sync failed: the kernel may have dropped the pages, so later syncs would lie.
    Sync = 3,
}

impl Disk {
    pub(crate) fn open(options: &StoreOptions) -> Result<Disk, StoreError> {
        let disk = Disk {
            options: options.clone(),
            database: ArcSwapOption::empty(),
            generation: Arc::new(AtomicU64::new(0)),
            writing: Mutex::new(()),
            syncing: Mutex::new(Syncing::default()),
            spaces: RwLock::default(),
            memory: Memory::new(options.memtable_bytes),
            loads: Loads::default(),
            failure: AtomicU8::new(Failure::None as u8),
            commits: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            home: Home::take(&options.dir)?,
        };
        disk.open_database()?;
        Ok(disk)
    }

    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// Opens the database and fills the handles. The caller holds `writing` or is the only one.
    fn open_database(&self) -> Result<(), StoreError> {
        let path = self.home.data();
        let waited = std::time::Instant::now();
        let database = loop {
            match open_fjall(&path, &self.options) {
                Err(fjall::Error::Locked) if waited.elapsed() < DRAIN => continue,
                Err(fjall::Error::Locked) => {
                    return Err(StoreError::Locked { dir: path, holder: None });
                }
                other => break other?,
            }
        };
        advance_sequence(&database)?;
        let generation = self.generation.load(Ordering::Acquire);
        let mut spaces = self.spaces.write();
        let mut found = HashMap::new();
        for name in database.list_keyspace_names() {
            if &*name == CLOCK {
                continue;
            }
            let tree = database.keyspace(&name, keyspace_options)?;
            let keyspace = Keyspace { generation, tree };
            let space = match spaces.by_name.remove(&*name) {
                Some(space) => {
                    if let Place::Disk(place) = &space.0.place {
                        place.store(Some(Arc::new(keyspace)));
                    }
                    space
                }
                None => {
                    let space = Space::on_disk(&name, keyspace);
                    spaces.all.push(Arc::downgrade(&space.0));
                    space
                }
            };
            found.insert(name.to_string(), space);
        }
        for gone in spaces.by_name.values() {
            gone.mark_dropped();
        }
        spaces.by_name = found;
        drop(spaces);
        self.failure.store(Failure::None as u8, Ordering::Release);
        self.database.store(Some(Arc::new(database)));
        Ok(())
    }

    /// Lets go of everything that keeps the database open.
    fn close(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.memory.forget();
        let mut spaces = self.spaces.write();
        spaces.all.retain(|space| space.strong_count() > 0);
        for space in spaces.all.iter().filter_map(Weak::upgrade) {
            if let Place::Disk(place) = &space.place {
                place.store(None);
            }
        }
        drop(spaces);
        self.database.store(None);
    }

    pub(crate) fn reopen(&self) -> Result<(), StoreError> {
        let needed = self.options.memtable_bytes.max(LEAST_ROOM);
        if free_bytes(&self.home.data()).map_err(StoreError::io("ask for free space"))? < needed {
            return Err(StoreError::Full);
        }
        // Before `writing` is taken, because a load that is ending takes it.
        let _no_loads = self.loads.stop();
        let _writing = self.writing.lock();
        let mut syncing = self.syncing.lock();
        self.close();
        *syncing = Syncing::default();
        self.open_database()?;
        tracing::info!("store reopened");
        Ok(())
    }

    pub(crate) fn database(&self) -> Result<Arc<Database>, StoreError> {
        self.database.load_full().ok_or(StoreError::Closed)
    }

    pub(crate) fn space(&self, name: &str) -> Result<Space, StoreError> {
        if let Some(space) = self.existing_space(name) {
            return Ok(space);
        }
        // Only holders of `writing` change the set of spaces, so `spaces` need not be held meanwhile.
        let _writing = self.writing.lock();
        if let Some(space) = self.existing_space(name) {
            return Ok(space);
        }
        self.check_writable()?;
        if self.spaces.read().by_name.len() >= MAX_SPACES {
            return Err(StoreError::TooManySpaces { max: MAX_SPACES });
        }
        let tree = self.database()?.keyspace(name, keyspace_options)?;
        let generation = self.generation.load(Ordering::Acquire);
        let space = Space::on_disk(name, Keyspace { generation, tree });
        let mut spaces = self.spaces.write();
        spaces.all.push(Arc::downgrade(&space.0));
        spaces.by_name.insert(name.to_owned(), space.clone());
        Ok(space)
    }

    pub(crate) fn existing_space(&self, name: &str) -> Option<Space> {
        self.spaces.read().by_name.get(name).cloned()
    }

    pub(crate) fn space_names(&self) -> Vec<String> {
        self.spaces.read().by_name.keys().cloned().collect()
    }

    pub(crate) fn drop_space(&self, name: &str) -> Result<(), StoreError> {
        let _writing = self.writing.lock();
        let Some(space) = self.existing_space(name) else {
            return Ok(());
        };
        self.database()?.delete_keyspace(keyspace(&space)?.tree.clone())?;
        space.mark_dropped();
        let mut spaces = self.spaces.write();
        spaces.by_name.remove(name);
        spaces.all.retain(|space| space.strong_count() > 0);
        Ok(())
    }

    pub(crate) fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let bytes = batch.bytes();
        self.wait_for_room(batch.spaces())?;
        let (spaces, writes) = batch.into_writes();
        {
            let _writing = self.writing.lock();
            self.check_writable()?;
            let database = self.database()?;
            let trees = spaces.iter().map(keyspace).collect::<Result<Vec<_>, _>>()?;
            let mut batch =
                OwnedWriteBatch::with_capacity(Database::clone(&database), writes.len())
                    .durability(Some(PersistMode::Buffer));
            for write in writes {
                let tree = &trees[write.space as usize].tree;
                match write.value {
                    Some(value) => batch.insert(tree, write.key, value),
                    None => batch.remove(tree, write.key),
                }
            }
            batch.commit().map_err(|error| self.failed(error.into(), Failure::Write))?;
            self.commits.fetch_add(1, Ordering::AcqRel);
        }
        self.flush_if_due(bytes);
        Ok(())
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let _writing = self.writing.lock();
        match self.database.load_full() {
            Some(database) => Snapshot::on_disk(database.snapshot(), self.opening()),
            None => Snapshot::closed(),
        }
    }

    pub(crate) fn get(&self, space: &Space, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        Ok(keyspace(space)?.tree.get(key)?)
    }

    pub(crate) fn statistics(&self) -> StoreStatistics {
        let mut statistics = StoreStatistics {
            spaces: self.spaces.read().by_name.len(),
            commits: self.commits.load(Ordering::Relaxed),
            syncs: self.syncs.load(Ordering::Relaxed),
            ..StoreStatistics::default()
        };
        if let Ok(database) = self.database() {
            statistics.disk_bytes = database.disk_space().unwrap_or_default();
            statistics.journal_bytes = database.journal_disk_space().unwrap_or_default();
            statistics.cache_bytes = database.cache_size();
            statistics.pending_flushes = database.outstanding_flushes();
            statistics.running_compactions = database.active_compactions();
            statistics.memtable_bytes = self.memtable_bytes();
        }
        statistics
    }

    /// The current opening, for things that must not outlive it.
    pub(crate) fn opening(&self) -> Opening {
        Opening { mine: self.generation.load(Ordering::Acquire), current: self.generation.clone() }
    }

    /// Runs `end` of a bulk load between commits, behind a sync: loading flushes what the space has
    /// in memory, so a power cut must not find that half of a batch without the other spaces' half.
    pub(crate) fn end_load(
        &self,
        space: &Space,
        end: impl FnOnce() -> Result<(), fjall::Error>,
    ) -> Result<(), StoreError> {
        let _writing = self.writing.lock();
        self.check_writable()?;
        if space.is_dropped() {
            return Err(space.missing());
        }
        self.sync()?;
        end().map_err(|error| self.failed(error.into(), Failure::Write))
    }

    fn check_writable(&self) -> Result<(), StoreError> {
        match self.failure() {
            Failure::None => Ok(()),
            Failure::Full => Err(StoreError::Full),
            Failure::Write | Failure::Sync => Err(StoreError::Poisoned),
        }
    }

    fn failure(&self) -> Failure {
        match self.failure.load(Ordering::Acquire) {
            0 => Failure::None,
            1 => Failure::Full,
            2 => Failure::Write,
            _ => Failure::Sync,
        }
    }

    /// Notes why the store is read-only from now on and returns the error for the caller.
    ///
    /// fjall says only that it is poisoned when a background thread died. Free space then tells
    /// whether the disk was full: what that thread was writing still takes the room.
    fn failed(&self, error: StoreError, kind: Failure) -> StoreError {
        let starved = || {
            free_bytes(&self.home.data())
                .is_ok_and(|free| free < self.options.memtable_bytes.max(LEAST_ROOM))
        };
        let (kind, error) = match error {
            StoreError::Full => (Failure::Full, StoreError::Full),
            StoreError::Poisoned if starved() => (Failure::Full, StoreError::Full),
            other => (kind, other),
        };
        if self.failure.swap(kind as u8, Ordering::AcqRel) == Failure::None as u8 {
            tracing::error!(code = %error.code(), "store is read-only until reopened: {error}");
        }
        error
    }

    /// Finds out whether a background thread has died.
    fn check_background(&self, database: &Database) -> Result<(), StoreError> {
        self.check_writable()?;
        database
            .persist(PersistMode::Buffer)
            .map_err(|error| self.failed(error.into(), Failure::Write))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.close();
    }
}

/// The tree behind a handle.
pub(crate) fn keyspace(space: &Space) -> Result<Arc<Keyspace>, StoreError> {
    match &space.0.place {
        Place::Disk(place) => place.load_full().ok_or(StoreError::Closed),
        Place::Twin(_) => Err(space.missing()),
    }
}

/// Opens fjall. Its recovery states some expectations about bytes on disk as panics; they become
/// damage here, because a damaged disk must end in a message.
fn open_fjall(path: &Path, options: &StoreOptions) -> Result<Database, fjall::Error> {
    let builder = Database::builder(path)
        .cache_size(options.cache_bytes)
        .max_journaling_size(options.journal_bytes.max(64 << 20))
        .max_cached_files(Some(options.open_files.max(16)))
        .worker_threads(options.workers.max(1));
    std::panic::catch_unwind(AssertUnwindSafe(|| builder.open()))
        .unwrap_or(Err(fjall::Error::Unrecoverable))
}

/// Moves the sequence numbers past everything that earlier openings wrote, durably, before any space
/// is created or dropped.
///
/// fjall 3.1 takes up counting behind the newest pair in any space. Its records of creations and
/// drops are newer than that when no commit followed them; a drop would then be recorded as older
/// than the creation that it ends, and at the next opening the dropped space would be back, in place
/// of the one that was created under its name since.
fn advance_sequence(database: &Database) -> Result<(), fjall::Error> {
    database.supervisor.seqno.fetch_max(database.seqno() + SEQUENCE_STEP);
    database.keyspace(CLOCK, keyspace_options)?.insert("opened", "")?;
    database.persist(PersistMode::SyncData)
}

/// How a space stores its pairs; kept with the space from its creation on.
///
/// Flushed tables are short-lived and stay uncompressed; everything that compaction or a bulk load
/// writes is compressed. Rotation is `memory`'s, hence the limit that is never reached. Blocks of
/// 4 KiB: 8 KiB cost half as much again per point read. Tables of 32 MiB: half of fjall's default,
/// so that the pieces that compaction rewrites match our small memory tables (`examples/bulk.rs`).
fn keyspace_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(u64::MAX)
        .compaction_strategy(Arc::new(Leveled::default().with_table_target_size(32 << 20)))
        .data_block_size_policy(BlockSizePolicy::all(4 << 10))
        .data_block_compression_policy(CompressionPolicy::new([
            CompressionType::None,
            CompressionType::Lz4,
        ]))
}
