//! The database on disk: fjall, with what it leaves to its caller.
//!
//! fjall 3.1 gives ordered keyspaces, one journal, atomic batches over keyspaces and snapshots. Added
//! here:
//!
//! - Thousands of spaces (`catalogue`): a keyspace costs files, syncs and memory, a space a record.
//! - Removal of dropped spaces in the background (`removal`).
//! - Syncs beside commits (`journal`): fjall syncs under its writer's lock.
//! - One bound for the memory tables of all keyspaces (`memory`): fjall only has one per keyspace, and
//!   its own waits never end once a background thread has died of a full disk.
//! - Snapshots only between commits: fjall's flushes move the visible position while a commit is
//!   still being applied.
//! - Opening again in the same process (`reopen`).
//! - Sequence numbers that never go back (`advance_sequence`): fjall finds the newest one among the
//!   keyspaces' data at opening, not among its own records of which keyspaces exist.
//!
//! Locks, in the order in which they are taken: `removing`, then `writing` (commits, snapshots, spaces,
//! the end of bulk loads, reopening), then `syncing`, then `spaces`.

mod catalogue;
mod entries;
mod journal;
mod memory;
mod mend;
mod removal;

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use fjall::compaction::Leveled;
use fjall::config::{BlockSizePolicy, CompressionPolicy};
use fjall::{
    AbstractTree, CompressionType, Database, DatabaseBuilder, KeyspaceCreateOptions,
    OwnedWriteBatch, PersistMode, Slice,
};
use parking_lot::{Mutex, RwLock};

use self::catalogue::{CATALOGUE, Change, Content, Entry};
use self::journal::Syncing;
use self::memory::Memory;
use self::mend::Depth;
use self::removal::Removals;
pub(crate) use self::removal::Upkeep;
use crate::batch::Write;
use crate::bulk::Loads;
use crate::home::{Home, free_bytes};
use crate::snapshot::Opening;
use crate::space::{Keyspace, NUMBERS, SpaceInner};
use crate::suspicion::Suspicion;
use crate::{Batch, Snapshot, Space, StoreError, StoreOptions, StoreStatistics};

/// fjall queues a message for every keyspace at opening into a channel of 1,000 places before anybody
/// reads it, so that a database with more keyspaces would never open. Families of names beyond this
/// share the keyspace of those without a dot.
const MAX_KEYSPACES: usize = 900;

/// Spaces with a keyspace of their own. A further one that is loaded with much goes into a shared
/// keyspace: its tables are rewritten more often, but opening stays fast (about 1 ms for each).
const MAX_OWN: usize = 256;

/// Below this much free space, a failure of a background thread is taken for a full disk, and
/// reopening is not tried: it needs room for flushing what the journal holds.
const LEAST_ROOM: u64 = 4 << 20;

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
    removals: Removals,
    /// A [`Failure`]: why nothing may be written any more.
    failure: AtomicU8,
    /// Whether something read was damaged, or a background thread died for a reason unknown.
    suspicion: Arc<Suspicion>,
    /// Entries of the journal since the store was created in this process; `syncing` compares with it.
    entries: AtomicU64,
    /// The sequence number of the newest of them, or one in front of the next.
    newest_entry: AtomicU64,
    /// Those of them that callers committed.
    commits: AtomicU64,
    syncs: AtomicU64,
    /// Spaces dropped in this process; changes under `writing`.
    drops: AtomicU64,
    /// Dropped last: the next process may come in only when the database is closed.
    home: Home,
}

#[derive(Default)]
struct Spaces {
    by_name: HashMap<String, Space>,
    /// Every handle given out, also those of dropped spaces: each keeps the database's lock file
    /// open as long as it holds a tree.
    all: Vec<Weak<SpaceInner>>,
    /// The open keyspaces by name, with the catalogue.
    keyspaces: HashMap<String, Arc<Keyspace>>,
    /// The numbers of all spaces that exist.
    numbers: HashSet<u32>,
    /// The number of the next space.
    next: u32,
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
            removals: Removals::default(),
            failure: AtomicU8::new(Failure::None as u8),
            suspicion: Arc::default(),
            entries: AtomicU64::new(0),
            newest_entry: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            drops: AtomicU64::new(0),
            home: Home::take(&options.dir)?,
        };
        disk.check_closed()?;
        disk.open_database()?;
        *disk.syncing.lock() = disk.syncing_as_opened();
        Ok(disk)
    }

    /// Compares the database with what it was when the store was closed, if that is known.
    fn check_closed(&self) -> Result<(), StoreError> {
        let (data, closed) = (self.home.data(), self.home.closed());
        let doing = "read the journal";
        match std::fs::read_to_string(&closed) {
            Ok(text) => {
                if !entries::is_as_described(&data, &text).map_err(StoreError::io(doing))? {
                    return Err(StoreError::damaged("the journal is not as it was left"));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                return Err(StoreError::damaged("the description of the journal"));
            }
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io(doing)(error));
            }
            Err(_) => {}
        }
        mend::check_born(&data)?;
        // From now on the journal changes.
        self.home.replace(&closed, None).map_err(StoreError::io("remove the mark of closing"))
    }

    fn syncing_as_opened(&self) -> Syncing {
        let entries = self.entries.load(Ordering::Acquire);
        Syncing::opened(entries, self.newest_entry.load(Ordering::Acquire))
    }

    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    pub(crate) fn options(&self) -> &StoreOptions {
        &self.options
    }

    /// Opens the database and fills the handles. The caller holds `writing` or is the only one.
    fn open_database(&self) -> Result<(), StoreError> {
        let data = self.home.data();
        if self.suspicion.clear() {
            self.mend(Depth::Bytes).inspect_err(|error| self.suspicion.raise(error))?;
        } else if mend::has_damaged_list(&data)? {
            self.mend(Depth::Lists)?;
        }
        let opened = open_fjall(&data, &self.options);
        let database = match opened {
            Err(StoreError::Damaged { what }) => {
                mend::tell(what);
                self.mend(Depth::Tables)?;
                open_fjall(&data, &self.options)?
            }
            opened => opened?,
        };
        let (catalogue, content) = catalogue::open(&database)?;
        for (name, entry) in &content.entries {
            if !catalogue::is_lost(&entry.keyspace) && !database.keyspace_exists(&entry.keyspace) {
                // Its keyspace may be made again for others, and must not be taken for this one's.
                let (key, value) = catalogue::lost(name, entry.number);
                catalogue.insert(key, value.unwrap_or_default())?;
            }
        }
        advance_sequence(&database, &catalogue)?;
        let generation = self.generation.load(Ordering::Acquire);
        let mut keyspaces = HashMap::new();
        for name in database.list_keyspace_names() {
            let tree = database.keyspace(&name, keyspace_options)?;
            keyspaces.insert(name.to_string(), Arc::new(Keyspace { generation, tree }));
        }
        let shared = keyspaces.keys().filter(|name| catalogue::is_shared(name)).cloned().collect();
        self.removals.look_through(shared);
        let named: HashSet<&str> = content.entries.values().map(|e| e.keyspace.as_str()).collect();
        for name in keyspaces.keys().filter(|name| catalogue::is_own(name)) {
            if !named.contains(name.as_str()) {
                self.removals.add(0, name, 0);
            }
        }
        self.fill_handles(keyspaces, content);
        self.failure.store(Failure::None as u8, Ordering::Release);
        self.newest_entry.store(database.seqno().saturating_sub(1), Ordering::Release);
        self.database.store(Some(Arc::new(database)));
        Ok(())
    }

    /// Gives each handle its keyspace of this opening, and makes those that are missing.
    fn fill_handles(&self, keyspaces: HashMap<String, Arc<Keyspace>>, content: Content) {
        let mut spaces = self.spaces.write();
        let mut before = std::mem::take(&mut spaces.by_name);
        for (name, Entry { number, keyspace }) in content.entries {
            let keyspace = keyspaces.get(&keyspace).cloned();
            if keyspace.is_none() {
                let what = String::from("the files that hold it are gone");
                StoreError::SpaceDamaged { space: name.to_string(), what }.diagnostic().log();
            }
            // One of another number is another space: what happened since was not durable.
            let known = before.get(&name).filter(|space| space.0.number == number).cloned();
            let space = match known {
                Some(space) => {
                    before.remove(&name);
                    if let Some(place) = space.disk() {
                        place.lost.store(keyspace.is_none(), Ordering::Release);
                        place.written.store(false, Ordering::Release);
                        place.keyspace.store(keyspace);
                    }
                    space
                }
                None => {
                    let space = Space::on_disk(&name, number, keyspace);
                    spaces.all.push(Arc::downgrade(&space.0));
                    space
                }
            };
            spaces.numbers.insert(number);
            spaces.by_name.insert(name, space);
        }
        for gone in before.values() {
            gone.mark_dropped(self.drops.fetch_add(1, Ordering::AcqRel) + 1);
        }
        spaces.keyspaces = keyspaces;
        spaces.next = content.next;
    }

    /// Lets go of everything that keeps the database open, and returns a sequence number up to which
    /// all entries have been in the journal durably: that of the newest table.
    ///
    /// Tables are written behind a sync of the journal that covers them, so that what one holds must
    /// never be cut from the journal: other spaces have their part of a batch only there.
    fn close(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.memory.forget();
        let mut spaces = self.spaces.write();
        spaces.all.retain(|space| space.strong_count() > 0);
        for space in spaces.all.iter().filter_map(Weak::upgrade).map(Space) {
            if let Some(place) = space.disk() {
                place.keyspace.store(None);
            }
        }
        spaces.numbers.clear();
        let keyspaces = std::mem::take(&mut spaces.keyspaces);
        drop(spaces);
        let trees: Vec<_> = keyspaces.into_values().map(|k| k.tree.tree.clone()).collect();
        // Whoever uses the database at this moment lets go of it soon; the last one ends its threads.
        let mut database = self.database.swap(None);
        let waited = std::time::Instant::now();
        while let Some(shared) = database.take() {
            match Arc::try_unwrap(shared) {
                Err(shared) if waited.elapsed() < DRAIN => {
                    database = Some(shared);
                    std::thread::sleep(Duration::from_millis(1));
                }
                _ => {}
            }
        }
        trees.iter().filter_map(AbstractTree::get_highest_persisted_seqno).max().unwrap_or(0)
    }

    /// Free space that it takes to open again behind a failure.
    pub(crate) fn needed_bytes(&self) -> u64 {
        self.options.memtable_bytes.max(LEAST_ROOM)
    }

    pub(crate) fn reopen(&self) -> Result<(), StoreError> {
        let free = free_bytes(&self.home.data()).map_err(StoreError::io("ask for free space"))?;
        if free < self.needed_bytes() {
            return Err(StoreError::Full);
        }
        // Before `writing` is taken, because a load that is ending and a removal take it.
        let _no_loads = self.loads.stop();
        let _no_removals = self.removals.pause();
        let _writing = self.writing.lock();
        let mut syncing = self.syncing.lock();
        let flushed = self.close();
        syncing.covers(flushed);
        if self.failure() != Failure::None {
            let cut = entries::cut(&self.home.data(), syncing.durable());
            cut.map_err(StoreError::io("cut journal"))?;
        }
        self.open_database()?;
        *syncing = self.syncing_as_opened();
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
        let number = self.spaces.read().next;
        // The last number stays free: the range of a space ends where the next one begins.
        if number >= NUMBERS - 1 {
            return Err(StoreError::damaged("all numbers of spaces are used up"));
        }
        let mut entry = Entry { number, keyspace: catalogue::shared_keyspace(name) };
        let spaces = self.spaces.read();
        if spaces.keyspaces.len() >= MAX_KEYSPACES
            && !spaces.keyspaces.contains_key(&entry.keyspace)
        {
            entry.keyspace = catalogue::shared_keyspace("");
        }
        drop(spaces);
        let keyspace = self.keyspace(&entry.keyspace)?;
        self.record(catalogue::created(name, &entry))?;
        let space = Space::on_disk(name, number, Some(keyspace));
        let mut spaces = self.spaces.write();
        spaces.next = number + 1;
        spaces.numbers.insert(number);
        spaces.all.push(Arc::downgrade(&space.0));
        spaces.by_name.insert(name.to_owned(), space.clone());
        Ok(space)
    }

    /// The keyspace `name`, created when it is missing. The caller holds `writing`.
    fn keyspace(&self, name: &str) -> Result<Arc<Keyspace>, StoreError> {
        if let Some(keyspace) = self.spaces.read().keyspaces.get(name) {
            return Ok(keyspace.clone());
        }
        let tree = self.database()?.keyspace(name, keyspace_options);
        let tree = tree.map_err(|error| self.failed(error.into(), Failure::Write))?;
        let generation = self.generation.load(Ordering::Acquire);
        let keyspace = Arc::new(Keyspace { generation, tree });
        self.spaces.write().keyspaces.insert(name.to_owned(), keyspace.clone());
        Ok(keyspace)
    }

    /// The keyspace for a load of much into `space`: one of its own, which an empty space is moved to
    /// at this occasion, unless there are too many of them.
    ///
    /// A space that holds pairs, or that older snapshots may find pairs in, stays where it is.
    pub(crate) fn place_for_load(&self, space: &Space) -> Result<Arc<Keyspace>, StoreError> {
        let _writing = self.writing.lock();
        self.check_writable()?;
        if space.is_dropped() {
            return Err(space.missing());
        }
        let here = keyspace(space)?;
        let own =
            self.spaces.read().keyspaces.keys().filter(|name| catalogue::is_own(name)).count();
        let place = space.disk().ok_or_else(|| space.missing())?;
        if catalogue::is_own(here.tree.name())
            || own >= MAX_OWN
            || place.written.load(Ordering::Acquire)
            || here.tree.prefix(&*space.prefix()).next().is_some()
        {
            return Ok(here);
        }
        let number = space.0.number;
        let entry = Entry { number, keyspace: catalogue::own_keyspace(number) };
        let there = self.keyspace(&entry.keyspace)?;
        self.record([catalogue::placed(space.name(), &entry)])?;
        place.keyspace.store(Some(there.clone()));
        Ok(there)
    }

    /// Makes changes of the catalogue one entry of the journal. The caller holds `writing`.
    fn record(&self, changes: impl IntoIterator<Item = Change>) -> Result<(), StoreError> {
        let catalogue = self.spaces.read().keyspaces.get(CATALOGUE).cloned();
        let catalogue = catalogue.ok_or(StoreError::Closed)?;
        self.append(changes.into_iter().map(|(key, value)| (&catalogue.tree, key, value)))
    }

    /// Appends one entry to the journal and applies it. The caller holds `writing`.
    fn append<'k>(
        &self,
        writes: impl Iterator<Item = (&'k fjall::Keyspace, Slice, Option<Slice>)>,
    ) -> Result<(), StoreError> {
        let database = self.database()?;
        let batch = Database::clone(&database);
        let batch = OwnedWriteBatch::with_capacity(batch, writes.size_hint().0);
        let mut batch = batch.durability(Some(PersistMode::Buffer));
        for (tree, key, value) in writes {
            match value {
                Some(value) => batch.insert(tree, key, value),
                None => batch.remove(tree, key),
            }
        }
        batch.commit().map_err(|error| self.failed(error.into(), Failure::Write))?;
        // Sequence numbers ascend along the journal, and no other entry follows before this returns.
        self.newest_entry.store(database.seqno().saturating_sub(1), Ordering::Release);
        self.entries.fetch_add(1, Ordering::AcqRel);
        Ok(())
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
        self.check_writable()?;
        self.record([catalogue::dropped(name)])?;
        space.mark_dropped(self.drops.fetch_add(1, Ordering::AcqRel) + 1);
        let mut spaces = self.spaces.write();
        spaces.by_name.remove(name);
        spaces.numbers.remove(&space.0.number);
        spaces.all.retain(|space| space.strong_count() > 0);
        drop(spaces);
        if let Ok(keyspace) = keyspace(&space) {
            let ended = self.entries.load(Ordering::Acquire);
            self.removals.add(space.0.number, keyspace.tree.name(), ended);
        }
        Ok(())
    }

    pub(crate) fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.commit_in(batch, None)
    }

    /// The same, unless the database was opened again since `opening`.
    pub(crate) fn commit_in(
        &self,
        batch: Batch,
        opening: Option<&Opening>,
    ) -> Result<(), StoreError> {
        let bytes = batch.bytes();
        let (spaces, mut writes) = batch.into_writes();
        // In the order in which the memory tables hold them: the place of one is then near that of the one
        // before, in the processor's cache. Stable, because later writes to a key win.
        writes.sort_by(|a, b| a.key.cmp(&b.key));
        let keyspaces: Vec<_> = spaces.iter().map(keyspace).collect::<Result<_, _>>()?;
        self.wait_for_room(&keyspaces)?;
        {
            let _writing = self.writing.lock();
            self.check_writable()?;
            opening.map_or(Ok(()), Opening::check)?;
            let trees = spaces.iter().map(written).collect::<Result<Vec<_>, _>>()?;
            self.append(
                writes
                    .into_iter()
                    .map(|Write { space, key, value }| (&trees[space as usize].tree, key, value)),
            )?;
            self.commits.fetch_add(1, Ordering::AcqRel);
        }
        self.flush_if_due(bytes);
        Ok(())
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let _writing = self.writing.lock();
        match self.database.load_full() {
            Some(database) => {
                let drops = self.drops.load(Ordering::Acquire);
                Snapshot::on_disk(database.snapshot(), drops, self.opening())
            }
            None => Snapshot::closed(),
        }
    }

    pub(crate) fn get(&self, space: &Space, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        space.check_readable(self.drops.load(Ordering::Acquire))?;
        let found = keyspace(space)?.tree.get(space.stored(key));
        found.map_err(|error| self.opening().read_failed(space, error))
    }

    pub(crate) fn statistics(&self) -> StoreStatistics {
        let mut statistics = StoreStatistics {
            spaces: self.spaces.read().by_name.len(),
            commits: self.commits.load(Ordering::Relaxed),
            syncs: self.syncs.load(Ordering::Relaxed),
            removals: self.removals.pending(),
            ..StoreStatistics::default()
        };
        if let Ok(database) = self.database() {
            statistics.disk_bytes = self.table_bytes() + journal::bytes_on_disk(&self.home.data());
            statistics.journal_bytes = journal::bytes_on_disk(&self.home.data());
            statistics.cache_bytes = database.cache_size();
            statistics.pending_flushes = database.outstanding_flushes();
            statistics.running_compactions = database.active_compactions();
            statistics.memtable_bytes = self.memtable_bytes();
        }
        statistics
    }

    /// The current opening, for things that must not outlive it.
    pub(crate) fn opening(&self) -> Opening {
        Opening {
            mine: self.generation.load(Ordering::Acquire),
            current: self.generation.clone(),
            suspicion: self.suspicion.clone(),
        }
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

    /// The names of spaces of which nothing can be read.
    pub(crate) fn damaged_spaces(&self) -> Vec<String> {
        let spaces = self.spaces.read();
        let lost = |space: &&Space| space.disk().is_some_and(|p| p.lost.load(Ordering::Acquire));
        spaces.by_name.values().filter(lost).map(|space| space.name().to_owned()).collect()
    }

    pub(crate) fn check_writable(&self) -> Result<(), StoreError> {
        if self.suspicion.is_raised() && self.failure() == Failure::None {
            // A compaction could meet what is damaged at any moment, and spread or end with it.
            self.failed(self.suspicion.error(), Failure::Write);
        }
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
        let starved = || free_bytes(&self.home.data()).is_ok_and(|free| free < self.needed_bytes());
        if matches!(error, StoreError::Damaged { .. } | StoreError::SpaceDamaged { .. }) {
            self.suspicion.raise(&error);
        }
        let (kind, error) = match error {
            StoreError::Full => (Failure::Full, StoreError::Full),
            StoreError::Poisoned if starved() => (Failure::Full, StoreError::Full),
            StoreError::Poisoned if self.failure() == Failure::None => {
                self.suspicion.raise(&StoreError::Poisoned);
                (kind, StoreError::Poisoned)
            }
            other => (kind, other),
        };
        if self.failure.swap(kind as u8, Ordering::AcqRel) == Failure::None as u8 {
            // Whoever gets the error tells a person of it.
            tracing::debug!(code = %error.code(), "store is read-only until reopened: {error}");
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
        let whole = self.database.load().is_some() && self.failure() == Failure::None;
        self.close();
        if whole {
            let described = entries::describe(&self.home.data());
            let closed =
                described.and_then(|text| self.home.replace(&self.home.closed(), Some(&text)));
            if let Err(error) = closed {
                tracing::debug!("mark the store as closed: {error}");
            }
        }
    }
}

/// The keyspace behind a handle.
pub(crate) fn keyspace(space: &Space) -> Result<Arc<Keyspace>, StoreError> {
    let place = space.disk().ok_or_else(|| space.missing())?;
    place.keyspace.load_full().ok_or_else(|| space.absent())
}

/// The same for a write, which is noted. The caller holds `writing`.
fn written(space: &Space) -> Result<Arc<Keyspace>, StoreError> {
    if space.is_dropped() {
        return Err(space.missing());
    }
    let keyspace = keyspace(space)?;
    if let Some(place) = space.disk() {
        place.written.store(true, Ordering::Release);
    }
    Ok(keyspace)
}

/// Opens fjall. Its recovery states some expectations about bytes on disk as panics; they become
/// damage here, because a damaged disk must end in a message.
fn open_fjall(path: &Path, options: &StoreOptions) -> Result<Database, StoreError> {
    let waited = std::time::Instant::now();
    loop {
        let builder = builder(path, options).worker_threads(options.workers.max(1));
        let opened = std::panic::catch_unwind(AssertUnwindSafe(|| builder.open()));
        match opened.unwrap_or(Err(fjall::Error::Unrecoverable)) {
            Err(fjall::Error::Locked) if waited.elapsed() < DRAIN => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(fjall::Error::Locked) => {
                return Err(StoreError::Locked { dir: path.to_owned(), holder: None });
            }
            opened => return Ok(opened?),
        }
    }
}

/// The same without threads that compact, which would meet damaged tables.
fn mending_database(path: &Path, options: &StoreOptions) -> Result<Database, StoreError> {
    let builder = builder(path, options).worker_threads_unchecked(0);
    let opened = std::panic::catch_unwind(AssertUnwindSafe(|| builder.open()));
    Ok(opened.unwrap_or(Err(fjall::Error::Unrecoverable))?)
}

fn builder(path: &Path, options: &StoreOptions) -> DatabaseBuilder<Database> {
    Database::builder(path)
        .cache_size(options.cache_bytes)
        .max_journaling_size(options.journal_bytes.max(64 << 20))
        .max_cached_files(Some(options.open_files.max(16)))
}

/// Moves the sequence numbers past everything that earlier openings wrote, durably, before any
/// keyspace is created or dropped.
///
/// fjall 3.1 takes up counting behind the newest pair in any keyspace. Its records of creations and
/// drops are newer than that when no commit followed them; a drop would then be recorded as older
/// than the creation that it ends, and at the next opening the dropped keyspace would be back.
fn advance_sequence(database: &Database, catalogue: &fjall::Keyspace) -> Result<(), fjall::Error> {
    database.supervisor.seqno.fetch_max(database.seqno() + SEQUENCE_STEP);
    let (key, value) = catalogue::opened();
    catalogue.insert(key, value.unwrap_or_default())?;
    database.persist(PersistMode::SyncData)
}

/// How a keyspace stores its pairs; kept with it from its creation on.
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
