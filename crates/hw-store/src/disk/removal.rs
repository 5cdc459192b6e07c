//! Removing what dropped spaces have left, in bounded pieces, in the background.
//!
//! A space is gone for readers and writers as soon as its name is. What stands under its number is
//! removed by one thread: a keyspace of its own as a whole; in a shared keyspace first the tables
//! that hold nothing else, then the remaining keys through small commits. At each opening all shared
//! keyspaces are looked through for numbers that no name has, so that a crash leaves nothing for ever
//! and nothing needs to be remembered about a removal.
//!
//! Invariant: tables are dropped only behind a sync that covers the end of the name.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use fjall::{AbstractTree, Slice};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{Disk, Failure, catalogue};
use crate::StoreError;
use crate::space::{self, Keyspace, prefix};

/// Keys that one commit of a removal deletes.
const PIECE_KEYS: usize = 1000;

/// Numbers that are looked at in one piece.
const PIECE_NUMBERS: usize = 64;

/// How often the thread looks whether the store is idle.
const LOOK_EVERY: Duration = Duration::from_secs(20);

/// What the store itself writes into a shared keyspace: the last number removed from it. Tables that
/// were dropped may have held the newest sequence number of their keyspace, and fjall keeps each
/// journal file until something newer than it was flushed.
pub(super) const MARK: [u8; 3] = [0, 0, b'r'];

#[derive(Default)]
pub(super) struct Removals {
    /// Held during each piece.
    piece: Mutex<()>,
    work: Arc<Work>,
}

/// What is to be done, shared with the thread that does it.
#[derive(Default)]
struct Work {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    removals: VecDeque<Removal>,
    /// Shared keyspaces to look through, each from a number on.
    unseen: Vec<(String, u32)>,
    /// Counts what was added, so that the thread waits after a failure until there is more to do.
    added: u64,
    closed: bool,
}

struct Removal {
    number: u32,
    keyspace: String,
    /// The entry of the journal that ended the space.
    ended: u64,
    /// Up to where the keys are deleted; none while its tables are still to be dropped.
    behind: Option<Slice>,
}

impl Removals {
    /// Adds what entry `ended` of the journal, counted as `Disk::entries`, has dropped.
    pub(super) fn add(&self, number: u32, keyspace: &str, ended: u64) {
        let removal = Removal { number, keyspace: keyspace.to_owned(), ended, behind: None };
        self.work.change(|state| state.removals.push_back(removal));
    }

    /// Begins again with all of `shared`, as behind an opening.
    pub(super) fn look_through(&self, shared: Vec<String>) {
        self.work.change(|state| {
            state.removals.clear();
            state.unseen = shared.into_iter().map(|name| (name, 1)).collect();
        });
    }

    /// Dropped spaces of which something is perhaps left.
    pub(super) fn pending(&self) -> usize {
        self.work.state.lock().removals.len()
    }

    /// No piece runs while this is held.
    pub(super) fn pause(&self) -> MutexGuard<'_, ()> {
        self.piece.lock()
    }
}

impl Work {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        state.added += 1;
        self.changed.notify_all();
    }
}

impl Disk {
    /// Does one piece of what is left to remove; false when nothing is.
    pub(crate) fn remove_piece(&self) -> Result<bool, StoreError> {
        let _piece = self.removals.pause();
        let unseen = self.removals.work.state.lock().unseen.pop();
        if let Some((keyspace, from)) = unseen {
            self.look(&keyspace, from)?;
            return Ok(true);
        }
        let Some(mut removal) = self.removals.work.state.lock().removals.pop_front() else {
            return Ok(false);
        };
        let more = match self.remove(&mut removal) {
            // What cannot be read cannot be removed one by one; it is tried again when opened next.
            Err(StoreError::Damaged { what }) => {
                tracing::warn!("remove a dropped space: {what}");
                false
            }
            Err(error) => {
                self.removals.work.state.lock().removals.push_front(removal);
                return Err(error);
            }
            Ok(more) => more,
        };
        if more {
            self.removals.work.state.lock().removals.push_front(removal);
        }
        Ok(true)
    }

    /// Looks for numbers that no name has, one key for each number.
    fn look(&self, name: &str, from: u32) -> Result<(), StoreError> {
        let Some(keyspace) = self.spaces.read().keyspaces.get(name).cloned() else {
            return Ok(());
        };
        let mut from = from;
        for _ in 0..PIECE_NUMBERS {
            let Some(pair) = keyspace.tree.range(&prefix(from)[..]..).next() else {
                return Ok(());
            };
            let key = pair.key()?;
            let Some(number) = space::number(&key) else {
                return Err(StoreError::damaged("a key without the number of its space"));
            };
            if !self.spaces.read().numbers.contains(&number) {
                // Its name was gone when the database was opened, or waits to be removed already.
                self.removals.add(number, name, self.entries.load(Ordering::Acquire));
            }
            from = number.saturating_add(1);
        }
        self.removals.work.change(|state| state.unseen.push((name.to_owned(), from)));
        Ok(())
    }

    /// One piece of a removal; false when it was the last one.
    fn remove(&self, removal: &mut Removal) -> Result<bool, StoreError> {
        let Some(keyspace) = self.spaces.read().keyspaces.get(&removal.keyspace).cloned() else {
            return Ok(false);
        };
        let Some(behind) = &removal.behind else {
            if !self.is_durable(removal.ended) {
                self.sync()?;
            }
            if catalogue::is_own(&removal.keyspace) {
                self.spaces.write().keyspaces.remove(&removal.keyspace);
                self.database()?.delete_keyspace(keyspace.tree.clone())?;
                return Ok(false);
            }
            let (start, end) = (prefix(removal.number), prefix(removal.number + 1));
            let tree = &keyspace.tree.tree;
            // Dropping none would cost as many syncs as dropping some.
            let any = tree.current_version().iter_tables().any(|table| {
                let keys = &table.metadata.key_range;
                keys.min()[..] >= start[..] && keys.max()[..] < end[..]
            });
            if any {
                tree.drop_range(&start[..]..&end[..]).map_err(|error| {
                    self.failed(fjall::Error::from(error).into(), Failure::Write)
                })?;
            }
            removal.behind = Some(Slice::from(&*start));
            return Ok(true);
        };
        let rest = (
            Bound::Excluded(behind.clone()),
            Bound::Excluded(Slice::from(&*prefix(removal.number + 1))),
        );
        let keys = keyspace.tree.range(rest).take(PIECE_KEYS).map(|pair| pair.key());
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        if let Some(last) = keys.last() {
            removal.behind = Some(last.clone());
        }
        let more = !keys.is_empty();
        self.delete(&keyspace, keys, removal.number)?;
        Ok(more)
    }

    /// Deletes keys in one commit, which also leaves the mark.
    fn delete(
        &self,
        keyspace: &Arc<Keyspace>,
        keys: Vec<Slice>,
        number: u32,
    ) -> Result<(), StoreError> {
        self.wait_for_room(std::slice::from_ref(keyspace))?;
        let bytes = keys.iter().map(|key| key.len() as u64).sum();
        {
            let _writing = self.writing.lock();
            self.check_writable()?;
            let mark = (Slice::from(MARK), Some(Slice::from(&*prefix(number))));
            let deletions = keys.into_iter().map(|key| (key, None)).chain([mark]);
            self.append(deletions.map(|(key, value)| (&keyspace.tree, key, value)))?;
        }
        self.flush_if_due(bytes);
        Ok(())
    }
}

/// The thread that removes, and gives memory back when the store is idle; ends when this is dropped.
pub(crate) struct Upkeep {
    work: Arc<Work>,
    thread: Option<JoinHandle<()>>,
}

impl Upkeep {
    pub(crate) fn start(disk: &Arc<Disk>) -> Result<Upkeep, StoreError> {
        let work = disk.removals.work.clone();
        let thread = hw_process::start("store-upkeep", {
            let (work, disk) = (work.clone(), Arc::downgrade(disk));
            move || run(&work, &disk)
        });
        let thread = thread.map_err(StoreError::io("start the upkeep of the store"))?;
        Ok(Upkeep { work, thread: Some(thread) })
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.work.change(|state| state.closed = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Gives memory back once in each time of rest: a store that is written to does it by itself.
#[derive(Default)]
struct Idle {
    /// Entries of the journal when it was last looked.
    entries: u64,
    /// Entries when memory was last given back.
    given_back: u64,
}

impl Idle {
    fn look(&mut self, disk: &Disk) {
        let entries = disk.entries.load(Ordering::Acquire);
        if entries == self.entries && entries != self.given_back {
            if let Err(error) = disk.give_back() {
                tracing::debug!("memory is not given back: {error}");
            }
            self.given_back = disk.entries.load(Ordering::Acquire);
        }
        self.entries = disk.entries.load(Ordering::Acquire);
    }
}

fn run(work: &Work, disk: &Weak<Disk>) {
    let mut seen = 0;
    let mut idle = Idle::default();
    loop {
        let mut waited = false;
        {
            let mut state = work.state.lock();
            while !state.closed && state.added == seen && !waited {
                waited = work.changed.wait_for(&mut state, LOOK_EVERY).timed_out();
            }
            if state.closed {
                return;
            }
            seen = state.added;
        }
        if waited {
            let Some(disk) = disk.upgrade() else { return };
            idle.look(&disk);
        }
        loop {
            if work.state.lock().closed {
                return;
            }
            let Some(disk) = disk.upgrade() else { return };
            match disk.remove_piece() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    // Whoever writes next learns of it, too; it goes on when the store is reopened.
                    tracing::debug!("removal of dropped spaces stands still: {error}");
                    break;
                }
            }
        }
    }
}
