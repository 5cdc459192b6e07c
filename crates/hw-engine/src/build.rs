//! Building a definition over the replica, in slices between transactions.
//!
//! Each slice is a control entry: one commit with the operations of some rows and the new
//! cursor. It reads the rows as they are now; live apply serves the new incarnations only for
//! keys already passed (their gate), so that every row is counted once whatever happens between
//! slices. The source is not asked for anything.

use crate::error::EngineError;
use crate::evaluate::FoldedChange;
use crate::overlay::Sink;
use crate::state::{BuildState, Record, keys};
use crate::tables::{Gate, Gates, StoredRow, TablePlan};
use crate::writer::Writer;
use hw_types::row::RowRef;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

/// What a slice did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slice {
    /// Nothing is being built, or a table is still missing.
    Idle,
    /// More rows wait.
    More,
    /// The last incarnation became complete.
    Complete,
}

/// Incarnations that stand at the same cursor and are built in one pass.
struct Group {
    gate: Gate,
    sources: BTreeSet<u32>,
    lookups: BTreeSet<u32>,
}

impl Writer {
    /// Builds the next slice: at most `rows` rows, committed at its end.
    pub(crate) fn build_slice(&mut self, rows: usize) -> Result<(), EngineError> {
        let Some(group) = self.next_group() else { return Ok(()) };
        // Everything before a control entry is committed before it (E-9).
        self.commit()?;
        let Some(table) = self.tables.all().into_iter().find(|t| {
            let number = t.record.number;
            t.record.entered && number >= group.gate.table && self.plan_reads(number, &group)
        }) else {
            return self.finish(&group);
        };
        let number = table.record.number;
        let start = match group.gate.table == number {
            true => Bound::Excluded(group.gate.key.clone()),
            false => Bound::Unbounded,
        };
        let plan = self.plan_of(number, &group);
        let snapshot = self.store.snapshot();
        let mut last_key: Option<Vec<u8>> = None;
        let mut count = 0;
        for entry in snapshot.range(&table.rows, (start, Bound::Unbounded)) {
            if count == rows {
                break;
            }
            let (key, value) = entry?;
            count += 1;
            let (_, row) = StoredRow::split(&value)?;
            let change = FoldedChange {
                table: &table,
                key: &key,
                before: None,
                after: Some(RowRef::new(row)),
            };
            self.effects.evaluate([&plan, &plan], &Gates::default(), &change);
            self.append(&change)?;
            last_key = Some(key.to_vec());
        }
        self.built_rows += count as u64;
        // A table that is done leaves the cursor on the next table's beginning.
        let gate = match last_key {
            Some(key) if count == rows => Gate { table: number, key },
            _ => Gate { table: number + 1, key: Vec::new() },
        };
        self.move_gate(&group, BuildState::Building { table: gate.table, key: gate.key })?;
        self.commit()
    }

    fn next_group(&self) -> Option<Group> {
        let gate = self.gates.sources.values().chain(self.gates.lookups.values()).min()?.clone();
        let at = |gates: &std::collections::BTreeMap<u32, Gate>| {
            gates.iter().filter(|(_, g)| **g == gate).map(|(n, _)| *n).collect()
        };
        Some(Group { sources: at(&self.gates.sources), lookups: at(&self.gates.lookups), gate })
    }

    fn plan_reads(&self, table: u32, group: &Group) -> bool {
        self.plans.get(&table).is_some_and(|plan| {
            plan.sources.iter().any(|p| group.sources.contains(&p.number))
                || plan.lookups.iter().any(|p| group.lookups.contains(&p.number))
        })
    }

    /// The part of a table's plan that belongs to the group.
    fn plan_of(&self, table: u32, group: &Group) -> Arc<TablePlan> {
        let mut part = TablePlan::default();
        if let Some(plan) = self.plans.get(&table) {
            let sources = plan.sources.iter().filter(|p| group.sources.contains(&p.number));
            part.sources = sources.cloned().collect();
            let lookups = plan.lookups.iter().filter(|p| group.lookups.contains(&p.number));
            part.lookups = lookups.cloned().collect();
        }
        Arc::new(part)
    }

    fn move_gate(&mut self, group: &Group, state: BuildState) -> Result<(), EngineError> {
        for (applied, numbers, prefix) in [
            (&mut self.definitions.sources, &group.sources, keys::SOURCE),
            (&mut self.definitions.lookups, &group.lookups, keys::LOOKUP),
        ] {
            for number in numbers {
                if let Some(incarnation) = applied.get_mut(number) {
                    incarnation.record.state = state.clone();
                    let value = incarnation.record.encode();
                    self.overlay.put(&self.state, keys::numbered(prefix, *number), value)?;
                }
            }
        }
        self.gates = self.definitions.gates();
        Ok(())
    }

    /// Every incarnation is complete.
    pub(crate) fn all_live(&mut self) -> Result<(), EngineError> {
        let sources = self.gates.sources.keys().copied().collect();
        let lookups = self.gates.lookups.keys().copied().collect();
        let gate = Gate { table: 0, key: Vec::new() };
        self.finish(&Group { gate, sources, lookups })
    }

    fn finish(&mut self, group: &Group) -> Result<(), EngineError> {
        self.move_gate(group, BuildState::Live)?;
        self.commit()
    }
}
