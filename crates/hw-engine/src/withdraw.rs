//! What changes of a table that is copied again take away.
//!
//! They are passed over until the copy has entered ([`crate::frozen`]), but who loses access by one of
//! them must not wait for that (E-4). So each of them is looked at for this alone: the lookups that read
//! the table lose what its row gave them and does not give as the log has it now. Each change counts by
//! itself: nothing is gained back by a later one, not even of the same transaction.
//!
//! A change belongs to the table whose oid it has, and to the one whose name it has: a table that took
//! the name of another one is read in its place. A row of the log is that of the replica with the same key
//! only where it is the same table with the same key columns: another table may have made its keys anew,
//! and there a row is known only by what it gives, if the log has the whole of it. That the keys of a table
//! were written anew under their own type, or that its rows went with a partition or while it was not sent, is
//! not in the log; a look at the catalog tells it ([`hw_input::entry::Control::Stale`]). Where a change can take something away and it cannot be told from
//! which row, the lookups answer nobody until they go on.

use crate::error::EngineError;
use crate::evaluate::FoldedChange;
use crate::fold::RowChange;
use crate::overlay::Overlay;
use crate::state::BuildState;
use crate::tables::{Bound, Gate, Planned, StoredRow, Table, TablePlan, same_identity};
use crate::writer::Writer;
use hw_input::transactions::Transaction;
use hw_types::row::RowRef;
use hw_types::{Change, ChangeKind, Relation, ReplicaIdentity, Row};
use std::collections::HashMap;
use std::sync::Arc;

/// A stale table as a description in the log reads it.
struct Reading {
    /// The table as it is stored.
    stored: Arc<Table>,
    /// Its rows as the log has them; `None` when their keys are others.
    seen: Option<Table>,
    /// Whether rows with the same key are the same.
    by_key: bool,
    /// How the lookups that stand still read the stored rows, and how those of the log.
    plans: [TablePlan; 2],
}

/// The tables that a description in the log belongs to. Changes of one description share it.
type Readings = HashMap<*const Relation, (Arc<Relation>, Vec<Arc<Reading>>)>;

impl Writer {
    /// Takes from lookups what a transaction's changes of stale tables take away.
    ///
    /// Before anything else of the transaction, and in commits of any size (E-5): a crash between them
    /// leaves access that goes gone a little early, and the transaction comes again.
    pub(crate) fn withdraw(&mut self, transaction: &Transaction) -> Result<(), EngineError> {
        if self.stale.is_empty() {
            return Ok(());
        }
        let mut known = Readings::new();
        for change in transaction.changes.iter() {
            self.beat.count();
            match change.map_err(|e| EngineError::Source(e.to_string()))? {
                Change::Row { relation, kind } => {
                    for reading in self.readings(&relation, &mut known) {
                        self.withdraw_row(&reading, kind.clone())?;
                    }
                }
                Change::Truncate { relations } => {
                    for relation in relations {
                        for reading in self.readings(&relation, &mut known) {
                            self.shut(&reading.stored)?;
                        }
                    }
                }
                Change::Relation(_) | Change::Message(_) => {}
            }
            if self.is_full() {
                self.commit()?;
            }
        }
        Ok(())
    }

    /// The stale tables that changes of this description belong to, and that a lookup reads.
    fn readings(&self, relation: &Arc<Relation>, known: &mut Readings) -> Vec<Arc<Reading>> {
        let made = || {
            let stale = self.stale.iter().filter_map(|number| self.tables.get(*number));
            let readings = stale.filter_map(|table| self.reading(table, relation).map(Arc::new));
            (relation.clone(), readings.collect())
        };
        known.entry(Arc::as_ptr(relation)).or_insert_with(made).1.clone()
    }

    fn reading(&self, stored: &Arc<Table>, relation: &Relation) -> Option<Reading> {
        let own = &stored.record.relation;
        if own.id != relation.id && own.name != relation.name {
            return None;
        }
        let plan = self.standing_lookups(stored.record.number);
        let bind = |planned: &Planned| {
            let bound = self.definitions.derived.get(&planned.number)?.bind(relation)?;
            Some(Planned { number: planned.number, bound: Arc::new(bound) })
        };
        let after = TablePlan(plan.0.iter().filter_map(bind).collect());
        let seen = stored.described(relation).filter(|seen| same_keys(stored, seen));
        let (stored, by_key) = (stored.clone(), own.id == relation.id);
        (!plan.is_empty()).then(|| Reading { stored, seen, by_key, plans: [plan, after] })
    }

    /// The lookups that stand still and read a table.
    fn standing_lookups(&self, table: u32) -> TablePlan {
        let is_standing = |planned: &&Planned| {
            matches!(*planned.bound, Bound::Lookup(_))
                && self.gates.0.get(&planned.number) == Some(&Gate::Frozen)
        };
        let planned = self.plans.get(&table).into_iter().flat_map(|plan| &plan.0);
        TablePlan(planned.filter(is_standing).cloned().collect())
    }

    fn withdraw_row(&mut self, reading: &Reading, kind: ChangeKind) -> Result<(), EngineError> {
        let seen = match (&reading.seen, &kind) {
            (Some(seen), _) if reading.by_key => seen,
            // A row that comes takes nothing away.
            (_, ChangeKind::Insert { .. }) => return Ok(()),
            (
                Some(seen),
                ChangeKind::Delete { old } | ChangeKind::Update { old: Some(old), .. },
            ) if self.is_known(reading, seen, old)? => seen,
            _ => return self.shut(&reading.stored),
        };
        let states = match RowChange::of(seen, kind) {
            RowChange::Remove { key } => [Some((key, None)), None],
            RowChange::Add { key, row } | RowChange::Set { key, row } => {
                [Some((key, Some(row))), None]
            }
            RowChange::Move { from, to, row } => [Some((from, None)), Some((to, Some(row)))],
        };
        // Taken out, so that it can be written into while the writer evaluates.
        let mut overlay = std::mem::replace(&mut self.overlay, Overlay::new(self.store.clone()));
        let mut outcome = Ok(());
        for (key, row) in states.into_iter().flatten() {
            outcome = outcome.and_then(|()| self.withdraw_from(&mut overlay, reading, &key, row));
        }
        self.overlay = overlay;
        outcome
    }

    /// What the row under a key gave and does not give as it is now.
    fn withdraw_from(
        &mut self,
        overlay: &mut Overlay,
        reading: &Reading,
        key: &[u8],
        now: Option<Row>,
    ) -> Result<(), EngineError> {
        let Reading { stored, plans: [before, after], .. } = reading;
        let Some(row) = overlay.get(&stored.rows, key)?.map(|value| value.to_vec()) else {
            return Ok(());
        };
        // A large value that the log leaves out is known only of rows that are followed: a lookup that
        // reads it finds nothing.
        let whole;
        let after = match &now {
            Some(row) if row.view().has_absent() => {
                whole = after.evaluable(&row.view());
                &whole
            }
            _ => after,
        };
        let change = FoldedChange {
            table: stored.record.number,
            name: &stored.record.relation.name,
            key,
            before: Some(RowRef::new(StoredRow::split(&row)?.1)),
            after: now.as_ref().map(|row| row.view()),
        };
        self.interpret(overlay, [before, after], stored, &change)
    }

    /// Whether a row whose key may be another's gave in every lookup what the stored one with this key
    /// gives. Then it makes no difference which of them goes.
    fn is_known(
        &mut self,
        reading: &Reading,
        seen: &Table,
        old: &Row,
    ) -> Result<bool, EngineError> {
        let Reading { stored, plans: [before, after], .. } = reading;
        if seen.record.relation.replica_identity != ReplicaIdentity::Full {
            return Ok(false);
        }
        let row = self.overlay.get(&stored.rows, &seen.key(&old.view()))?;
        let row = row.as_deref().map(StoredRow::split).transpose()?;
        let row = row.map(|(_, row)| RowRef::new(row));
        let (name, old) = (&stored.record.relation.name, Some(old.view()));
        Ok(before.0.iter().all(|Planned { number, bound }| {
            self.effects.is_same((Some(bound), &row), (after.find(*number), &old), name)
        }))
    }

    /// From here on the lookups that stand still and read a table answer nobody.
    pub(crate) fn shut(&mut self, table: &Table) -> Result<(), EngineError> {
        let mut has_shut = false;
        for Planned { number, .. } in self.standing_lookups(table.record.number).0 {
            let incarnation = self.definitions.derived.get(&number);
            let state = incarnation.map(|incarnation| incarnation.record.state.clone());
            if let Some(BuildState::Frozen { since, shut: false }) = state {
                let to = BuildState::Frozen { since, shut: true };
                let numbers = [number].into();
                self.definitions.set_state(&numbers, &to, &mut self.overlay, &self.state)?;
                has_shut = true;
            }
        }
        if !has_shut {
            return Ok(());
        }
        tracing::warn!(
            table = %table.record.relation.name,
            "what the rows of a table that is copied again still grant cannot be told; nobody has access by \
             it until it has entered"
        );
        self.serve_anew()
    }
}

/// Whether row keys of a table and of its rows in the log mean the same, as far as the log tells.
fn same_keys(stored: &Table, seen: &Table) -> bool {
    let types = |table: &Table| -> Vec<u32> {
        let columns = &table.record.relation.columns;
        table.key_columns.iter().map(|&index| columns[index].type_oid).collect()
    };
    same_identity(stored, seen) && types(stored) == types(seen)
}
