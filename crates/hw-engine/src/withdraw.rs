//! What changes of a table that is copied again take away.
//!
//! They are passed over until the copy has entered ([`crate::frozen`]), but who loses access by one of
//! them must not wait for that (E-4). So each of them is looked at for this alone: the lookups that read
//! the table lose what its row gave them and does not give as the log has it now. Each change counts by
//! itself: nothing is gained back by a later one, not even of the same transaction.
//!
//! A change belongs to the table whose oid it has, and to the one whose name it has: a table that took
//! the name of another one is read in its place. Its rows are those of the replica if they have the same
//! key. Where a change can take something away and it cannot be told from which row, the lookups answer
//! nobody until they go on.

use crate::error::EngineError;
use crate::evaluate::FoldedChange;
use crate::fold::RowChange;
use crate::overlay::Overlay;
use crate::state::BuildState;
use crate::tables::{Bound, Gate, Planned, StoredRow, Table, TablePlan, same_identity};
use crate::writer::Writer;
use hw_input::transactions::Transaction;
use hw_types::row::RowRef;
use hw_types::{Change, ChangeKind, Relation, Row};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A stale table as a description in the log reads it.
struct Reading {
    /// The table as it is stored.
    stored: Arc<Table>,
    /// Its rows as the log has them; `None` when their keys are others.
    seen: Option<Table>,
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
            self.beat.fetch_add(1, Ordering::Relaxed);
            match change.map_err(|e| EngineError::Source(e.to_string()))? {
                Change::Row { relation, kind } => {
                    for reading in self.readings(&relation, &mut known) {
                        self.withdraw_row(&reading, kind.clone())?;
                    }
                }
                Change::Truncate { relations } => {
                    for relation in relations {
                        for reading in self.readings(&relation, &mut known) {
                            self.shut(&reading)?;
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
        let is_shown = |planned: &&Planned| {
            matches!(*planned.bound, Bound::Lookup(_))
                && self.gates.0.get(&planned.number) == Some(&Gate::Frozen)
        };
        let plan = self.plans.get(&stored.record.number)?;
        let plan = TablePlan(plan.0.iter().filter(is_shown).cloned().collect());
        let bind = |planned: &Planned| {
            let bound = self.definitions.derived.get(&planned.number)?.bind(relation)?;
            Some(Planned { number: planned.number, bound: Arc::new(bound) })
        };
        let after = TablePlan(plan.0.iter().filter_map(bind).collect());
        let seen = stored.described(relation).filter(|seen| same_identity(stored, seen));
        (!plan.is_empty()).then(|| Reading { stored: stored.clone(), seen, plans: [plan, after] })
    }

    fn withdraw_row(&mut self, reading: &Reading, kind: ChangeKind) -> Result<(), EngineError> {
        let Some(seen) = &reading.seen else {
            // A row that comes takes nothing away.
            let adds = matches!(kind, ChangeKind::Insert { .. });
            return if adds { Ok(()) } else { self.shut(reading) };
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
        // A large value that the log leaves out is known only of rows that are followed.
        let now = now.filter(|row| !row.view().has_absent());
        let change = FoldedChange {
            table: stored.record.number,
            name: &stored.record.relation.name,
            key,
            before: Some(RowRef::new(StoredRow::split(&row)?.1)),
            after: now.as_ref().map(|row| row.view()),
        };
        self.interpret(overlay, [before, after], stored, &change)
    }

    /// From here on the lookups that read a table answer nobody.
    fn shut(&mut self, reading: &Reading) -> Result<(), EngineError> {
        let mut has_shut = false;
        for Planned { number, .. } in &reading.plans[0].0 {
            let incarnation = self.definitions.derived.get(number);
            let state = incarnation.map(|incarnation| incarnation.record.state.clone());
            if let Some(BuildState::Frozen { since, shut: false }) = state {
                let to = BuildState::Frozen { since, shut: true };
                let numbers = [*number].into();
                self.definitions.set_state(&numbers, &to, &mut self.overlay, &self.state)?;
                has_shut = true;
            }
        }
        if !has_shut {
            return Ok(());
        }
        tracing::warn!(
            table = %reading.stored.record.relation.name,
            "rows of a table that is copied again were removed and cannot be told apart; nobody has \
             access by it until it has entered"
        );
        self.serve_anew()
    }
}
