//! The published state: what all surfaces read, at one position.
//!
//! Invariant E-2: a snapshot is published only behind the sync that made it durable. How it is read
//! stands in a view per kind of reading: [`SyncView`], [`TableState`]. What brought a state
//! about, seen from an earlier one, stands in [`crate::change_list`].

use crate::change_list::{ChangeList, ChangePlace, Since};
use crate::error::{EngineError, code};
use crate::kept_back::KeptBack;
use crate::lease::{Lease, Leases};
use crate::runs::{Met, Runs};
use crate::state::{Record, WriteCheckpoint};
use crate::sync_view::{ActiveSync, SyncView};
use crate::table_view::{ShownTables, TableState};
use crate::wake::{ChangeRing, Changes};
use hw_store::{Snapshot, Space};
use hw_types::{Checkpoint, Diagnostic, TableName};
use std::sync::Arc;

/// Why nobody is answered from a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// The source has not been asked yet whether clients were shown more than it holds.
    Unasked,
    /// They were: the store was put back to an earlier state, or another one was in its place, and
    /// everything is being compared.
    Behind,
}

impl Withheld {
    /// Whether the store lacks what clients were shown, and whether the source was asked or does not answer.
    pub(crate) fn new(behind: bool, asked: bool) -> Option<Withheld> {
        match (behind, asked) {
            (true, _) => Some(Withheld::Behind),
            (false, false) => Some(Withheld::Unasked),
            (false, true) => None,
        }
    }

    /// What there is to say of it to a person.
    pub(crate) fn finding(self) -> Option<Diagnostic> {
        let what = "the store was put back to an earlier state than clients were shown, or another one \
                    was in its place: everything is copied again and compared, and nobody is answered \
                    until that is done";
        let finding = Diagnostic::warning(code::BEHIND, what).mend("nothing is to be done");
        (self == Withheld::Behind).then_some(finding)
    }
}

/// What all surfaces read: one store snapshot at a transaction boundary, with its position.
#[derive(Clone)]
pub struct Published {
    /// Counts publications of this process, from 0 (the state at start).
    pub number: u64,
    /// The position.
    pub checkpoint: Checkpoint,
    /// The epoch of op ids and incarnations (`design/engine.md` 5).
    pub epoch: u64,
    /// The sync configuration that is served, once one has been built.
    pub sync: Option<Arc<ActiveSync>>,
    /// Why nobody is answered from it, if so.
    pub withheld: Option<Withheld>,
    pub(crate) snapshot: Snapshot,
    /// Op ids that were never given.
    pub(crate) runs: Arc<Runs>,
    pub(crate) kept_back: KeptBack,
    pub(crate) met: Arc<Met>,
    pub(crate) write_floor: u64,
    pub(crate) write_checkpoints: Space,
    pub(crate) ring: Arc<ChangeRing>,
    pub(crate) change_place: ChangePlace,
    pub(crate) change_list: Arc<ChangeList>,
    pub(crate) tables: Arc<ShownTables>,
    pub(crate) leases: Arc<Leases>,
}

/// What becomes of a number that a client asks for by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requested {
    /// This greater one is recorded already.
    Known(u64),
    /// A marker records this one.
    Marked(u64),
}

impl Published {
    /// The buckets of the sync configuration; `None` while none is served, or nobody is answered.
    pub fn sync_view(&self) -> Option<SyncView<'_>> {
        if self.withheld.is_some() {
            return None;
        }
        Some(SyncView { sync: self.sync.as_deref()?, snapshot: &self.snapshot })
    }

    /// Keeps what a reader at this position needs from being compacted away, until it is dropped.
    pub fn lease(&self) -> Lease {
        self.leases.take(self.checkpoint.op_id)
    }

    /// Which op ids this store never gave: a client that holds one is sent its bucket anew.
    pub fn runs(&self) -> &Runs {
        &self.runs
    }

    /// Notes that a stream's client holds an op id that this store never gave.
    pub fn meet_lost(&self) {
        self.met.meet();
    }

    /// The greatest write checkpoint of a user key that this position contains for somebody who is
    /// subscribed to these definitions (by index): one whose writes a definition does not have yet,
    /// because it stands still before them, is not told (`design/engine.md` 9).
    pub fn write_checkpoint(
        &self,
        user_key: &str,
        definitions: impl IntoIterator<Item = usize>,
    ) -> Result<Option<u64>, EngineError> {
        let floor = (self.write_floor > 0).then_some(self.write_floor);
        let Some(value) = self.snapshot.get(&self.write_checkpoints, user_key.as_bytes())? else {
            return Ok(floor);
        };
        let stored = WriteCheckpoint::decode(&value)?;
        let since = |index: usize| *self.sync.as_ref()?.frozen.get(index)?;
        let waits = definitions.into_iter().filter_map(since).any(|since| since.0 <= stored.at);
        Ok(if waits { floor } else { floor.max(Some(stored.number)) })
    }

    /// What becomes of a number that a client asks for by itself ([`Engine::checkpoint_request`]).
    ///
    /// [`Engine::checkpoint_request`]: crate::Engine::checkpoint_request
    pub(crate) fn requested(&self, user_key: &str, number: u64) -> Result<Requested, EngineError> {
        let stored = self.snapshot.get(&self.write_checkpoints, user_key.as_bytes())?;
        let stored = stored.map(|value| WriteCheckpoint::decode(&value)).transpose()?;
        let recorded = stored.map_or(0, |stored| stored.number);
        Ok(match recorded > self.write_floor {
            true if number < recorded => Requested::Known(recorded),
            true => Requested::Marked(number),
            // What everybody is told says nothing of what was written before this request.
            false => Requested::Marked(number.max(self.write_floor + 1)),
        })
    }

    /// How a table stands, by name.
    pub fn table(&self, name: &TableName) -> TableState<'_> {
        match self.withheld {
            None => TableState::of(name, &self.tables, &self.snapshot),
            Some(_) => TableState::Waits,
        }
    }

    /// Whether a table is replicated whatever definitions read ([`Engine::demand`](crate::Engine::demand)).
    pub fn is_demanded(&self, name: &TableName) -> bool {
        self.tables.demanded.contains(name)
    }

    /// Where this state stands in the change list.
    pub fn change_place(&self) -> ChangePlace {
        self.change_place
    }

    /// What was done to rows of the replica between another state of this process and this one. Gone also
    /// where no list is kept, and while nobody is answered.
    pub fn committed_since(&self, place: ChangePlace) -> Since {
        match self.withheld {
            None => self.change_list.between(place, self.change_place),
            Some(_) => Since::Gone,
        }
    }

    /// What changed in publications behind `number`, up to this one.
    pub fn changes_since(&self, number: u64) -> Changes {
        self.ring.between(number, self.number)
    }
}
