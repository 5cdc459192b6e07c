//! One start of the simulated store: applies commits, remembers what is durable, dies on demand.
//!
//! Commits, creations and drops of spaces have one sequence of numbers, as entries of a journal.
//! Invariant: `durable <= newest`; every entry between them can still be lost, newest first.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fjall::Slice;
use parking_lot::RwLock;

use super::knobs::{Fault, Inner};
use super::versions::{Bounds, TwinSpace};
use crate::snapshot::Opening;
use crate::space::{Place, without_prefix};
use crate::{Batch, Snapshot, Space, StoreError, StoreStatistics};

pub(crate) struct Twin {
    machine: Arc<Inner>,
    state: RwLock<State>,
    /// Counts reopenings and the crash, so that snapshots of before answer `Superseded`.
    generation: Arc<AtomicU64>,
}

struct State {
    spaces: BTreeMap<String, Known>,
    /// Spaces whose drop is not durable yet.
    gone: Vec<(String, Known, u64)>,
    /// Spaces dropped so far.
    drops: u64,
    newest: u64,
    durable: u64,
    /// Numbers that snapshots read at, and how many do.
    readers: BTreeMap<u64, usize>,
    failure: Option<Fault>,
    alive: bool,
    commits: u64,
    syncs: u64,
}

/// A space and the number of its creation.
#[derive(Clone)]
struct Known {
    space: Space,
    created: u64,
}

/// What a crash leaves on the simulated disk.
pub(super) type Content = BTreeMap<String, Arc<TwinSpace>>;

impl Twin {
    pub(super) fn new(machine: Arc<Inner>, content: Content) -> Twin {
        let spaces = content.into_iter().map(|(name, twin)| {
            let space = Space::in_twin(&name, twin);
            (name, Known { space, created: 0 })
        });
        let state = State {
            spaces: spaces.collect(),
            gone: Vec::new(),
            drops: 0,
            newest: 0,
            durable: 0,
            readers: BTreeMap::new(),
            failure: None,
            alive: true,
            commits: 0,
            syncs: 0,
        };
        Twin { machine, state: RwLock::new(state), generation: Arc::new(AtomicU64::new(0)) }
    }

    /// Ends this start and returns what the next one finds.
    pub(super) fn kill(&self, unsynced_commits_kept: u64) -> Content {
        let mut state = self.state.write();
        state.alive = false;
        self.generation.fetch_add(1, Ordering::AcqRel);
        let at = state.newest.min(state.durable.saturating_add(unsynced_commits_kept));
        let spaces = state.at(at).into_iter();
        spaces.map(|(name, known)| (name, Arc::new(twin(&known.space).copy_at(at)))).collect()
    }

    pub(crate) fn space(&self, name: &str) -> Result<Space, StoreError> {
        let mut state = self.state.write();
        if let Some(known) = state.spaces.get(name) {
            return Ok(known.space.clone());
        }
        state.check()?;
        state.newest += 1;
        let space = Space::in_twin(name, Arc::default());
        let known = Known { space: space.clone(), created: state.newest };
        state.spaces.insert(name.to_owned(), known);
        Ok(space)
    }

    pub(crate) fn existing_space(&self, name: &str) -> Option<Space> {
        self.state.read().spaces.get(name).map(|known| known.space.clone())
    }

    pub(crate) fn space_names(&self) -> Vec<String> {
        self.state.read().spaces.keys().cloned().collect()
    }

    pub(super) fn damage(&self, name: &str) {
        if let Some(known) = self.state.read().spaces.get(name) {
            twin(&known.space).damage();
        }
    }

    pub(crate) fn damaged_spaces(&self) -> Vec<String> {
        let state = self.state.read();
        let damaged = state.spaces.iter().filter(|(_, known)| twin(&known.space).is_damaged());
        damaged.map(|(name, _)| name.clone()).collect()
    }

    /// Refuses a read of a damaged space; the store is read-only from then on.
    fn check_whole(&self, space: &TwinSpace, name: &str) -> Result<(), StoreError> {
        if !space.is_damaged() {
            return Ok(());
        }
        self.state.write().failure.get_or_insert(Fault::Broken);
        let what = "a simulated space".to_owned();
        Err(StoreError::SpaceDamaged { space: name.to_owned(), what })
    }

    pub(crate) fn drop_space(&self, name: &str) -> Result<(), StoreError> {
        let mut state = self.state.write();
        state.check()?;
        if let Some(known) = state.spaces.remove(name) {
            state.newest += 1;
            state.drops += 1;
            known.space.mark_dropped(state.drops);
            let at = state.newest;
            state.gone.push((name.to_owned(), known, at));
        }
        Ok(())
    }

    pub(crate) fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.state.write().apply(&self.machine, batch)
    }

    pub(crate) fn check_writable(&self) -> Result<(), StoreError> {
        self.state.read().check()
    }

    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        let mut state = self.state.write();
        if !state.alive {
            return Err(StoreError::Closed);
        }
        if state.failure == Some(Fault::Broken) {
            return Err(StoreError::Poisoned);
        }
        if let Err(kept) = self.machine.knobs.lock().on_sync() {
            state.durable = state.newest.min(state.durable.saturating_add(kept));
            state.failure = Some(Fault::Broken);
            return Err(broken("sync journal"));
        }
        state.all_durable();
        state.syncs += 1;
        Ok(())
    }

    pub(crate) fn snapshot(self: &Arc<Self>) -> Snapshot {
        let mut state = self.state.write();
        if !state.alive {
            return Snapshot::closed();
        }
        let at = state.newest;
        *state.readers.entry(at).or_default() += 1;
        let opening = Opening {
            mine: self.generation.load(Ordering::Acquire),
            current: self.generation.clone(),
            suspicion: Arc::default(),
        };
        let drops = state.drops;
        Snapshot::of_twin(TwinView { twin: self.clone(), at, drops, opening })
    }

    pub(crate) fn get(&self, space: &Space, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        let Place::Twin(twin) = &space.0.place else { return Err(space.missing()) };
        let found = {
            let state = self.state.read();
            if !state.alive {
                return Err(StoreError::Closed);
            }
            space.check_readable(state.drops)?;
            twin.get(key, state.newest)
        };
        self.check_whole(twin, space.name()).map(|()| found)
    }

    pub(crate) fn statistics(&self) -> StoreStatistics {
        let state = self.state.read();
        StoreStatistics {
            spaces: state.spaces.len(),
            disk_bytes: state.spaces.values().map(|known| twin(&known.space).bytes()).sum(),
            commits: state.commits,
            syncs: state.syncs,
            ..StoreStatistics::default()
        }
    }

    /// Goes back to what is durable: the least that a real disk may come back with.
    pub(crate) fn reopen(&self) -> Result<(), StoreError> {
        let mut state = self.state.write();
        if !state.alive {
            return Err(StoreError::Closed);
        }
        if state.failure == Some(Fault::Full) && !self.machine.knobs.lock().has_room() {
            return Err(StoreError::Full);
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
        let durable = state.durable;
        let mut spaces = state.at(durable);
        for (name, known) in &mut spaces {
            twin(&known.space).roll_back(durable);
            // A drop that was lost: its handles stay dropped, the space has a new one.
            if known.space.is_dropped() {
                known.space = Space::in_twin(name, twin(&known.space).clone());
            }
        }
        for lost in state.spaces.values().filter(|known| known.created > durable) {
            lost.space.mark_dropped(state.drops + 1);
        }
        state.drops += 1;
        state.spaces = spaces;
        state.gone.clear();
        state.newest = durable;
        state.readers.clear();
        state.failure = None;
        Ok(())
    }
}

impl State {
    fn check(&self) -> Result<(), StoreError> {
        match self.failure {
            _ if !self.alive => Err(StoreError::Closed),
            None => Ok(()),
            Some(Fault::Full) => Err(StoreError::Full),
            Some(Fault::Broken) => Err(StoreError::Poisoned),
        }
    }

    fn apply(&mut self, machine: &Inner, batch: Batch) -> Result<(), StoreError> {
        self.check()?;
        if let Some(foreign) = batch.spaces().iter().find(|space| !self.owns(space)) {
            return Err(foreign.missing());
        }
        if let Err(fault) = machine.knobs.lock().on_commit(batch.bytes()) {
            self.failure = Some(fault);
            return Err(match fault {
                Fault::Full => StoreError::Full,
                Fault::Broken => broken("write journal"),
            });
        }
        self.newest += 1;
        self.commits += 1;
        let oldest = self.readers.keys().next().copied().unwrap_or(u64::MAX).min(self.durable);
        let (spaces, writes) = batch.into_writes();
        for write in writes {
            let space = twin(&spaces[write.space as usize]);
            space.put(without_prefix(write.key), write.value, self.newest, oldest);
        }
        Ok(())
    }

    fn owns(&self, space: &Space) -> bool {
        self.spaces.get(space.name()).is_some_and(|known| known.space == *space)
    }

    fn all_durable(&mut self) {
        self.durable = self.newest;
        self.gone.clear();
    }

    /// The spaces that existed behind entry `at`, which is not older than what is durable.
    fn at(&self, at: u64) -> BTreeMap<String, Known> {
        let gone = self.gone.iter().filter(|(.., dropped)| *dropped > at);
        let gone = gone.map(|(name, known, _)| (name, known));
        let known = self.spaces.iter().chain(gone).filter(|(_, known)| known.created <= at);
        known.map(|(name, known)| (name.clone(), known.clone())).collect()
    }
}

fn twin(space: &Space) -> &Arc<TwinSpace> {
    match &space.0.place {
        Place::Twin(twin) => twin,
        Place::Disk(_) => unreachable!("a simulated store makes simulated spaces only"),
    }
}

fn broken(doing: &'static str) -> StoreError {
    StoreError::Io { doing, source: std::io::Error::from_raw_os_error(libc::EIO) }
}

/// All simulated spaces at one moment.
pub(crate) struct TwinView {
    twin: Arc<Twin>,
    at: u64,
    /// How many spaces had been dropped when it was taken.
    drops: u64,
    opening: Opening,
}

impl TwinView {
    pub(crate) fn get(
        &self,
        space: &Space,
        twin: &TwinSpace,
        key: &[u8],
    ) -> Result<Option<Slice>, StoreError> {
        let found = twin.get(key, self.at);
        self.check(space).map(|()| found)
    }

    /// Refuses a read of `space`.
    pub(crate) fn check(&self, space: &Space) -> Result<(), StoreError> {
        self.check_opening()?;
        space.check_readable(self.drops)?;
        self.twin.check_whole(twin(space), space.name())
    }

    fn check_opening(&self) -> Result<(), StoreError> {
        self.opening.check().map_err(|superseded| {
            if self.twin.state.read().alive { superseded } else { StoreError::Closed }
        })
    }
}

impl Drop for TwinView {
    fn drop(&mut self) {
        let mut state = self.twin.state.write();
        // Reopening has forgotten the readers of before.
        if self.opening.check().is_err() {
            return;
        }
        if let Some(count) = state.readers.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                state.readers.remove(&self.at);
            }
        }
    }
}

/// A scan of a simulated space: each step is one look into the map behind the last key.
pub(crate) struct TwinIter {
    view: Arc<TwinView>,
    space: Arc<TwinSpace>,
    rest: Option<Bounds>,
}

impl TwinIter {
    pub(crate) fn new(
        view: Arc<TwinView>,
        space: Arc<TwinSpace>,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
    ) -> TwinIter {
        let rest = Some((start.map(Slice::from), end.map(Slice::from)));
        TwinIter { view, space, rest }
    }

    fn step(
        &mut self,
        find: fn(&TwinSpace, &Bounds, u64) -> Option<(Slice, Slice)>,
        cut: fn(Bounds, Slice) -> Bounds,
    ) -> Option<Result<(Slice, Slice), StoreError>> {
        let rest = self.rest.take()?;
        if is_empty(&rest) {
            return None;
        }
        let found = find(&self.space, &rest, self.view.at);
        if let Err(error) = self.view.check_opening() {
            return Some(Err(error));
        }
        let pair = found?;
        self.rest = Some(cut(rest, pair.0.clone()));
        Some(Ok(pair))
    }
}

impl Iterator for TwinIter {
    type Item = Result<(Slice, Slice), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(TwinSpace::first, |rest, key| (Bound::Excluded(key), rest.1))
    }
}

impl DoubleEndedIterator for TwinIter {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(TwinSpace::last, |rest, key| (rest.0, Bound::Excluded(key)))
    }
}

/// What steps from both ends leave may be bounds that hold no key, on which the map would panic.
fn is_empty((start, end): &Bounds) -> bool {
    match (start, end) {
        (Bound::Excluded(start), Bound::Excluded(end) | Bound::Included(end))
        | (Bound::Included(start), Bound::Excluded(end)) => start >= end,
        _ => false,
    }
}
