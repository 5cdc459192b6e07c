//! Building a definition over the replica, in slices between transactions.
//!
//! Each slice is a control entry: one commit with the operations of some rows and the new
//! cursor. It reads the rows as they are now; live apply serves the new incarnations only for
//! keys already passed (their gate), so that every row is counted once whatever happens between
//! slices. The source is not asked for anything.

use crate::error::EngineError;
use crate::evaluate::FoldedChange;
use crate::overlay::Overlay;
use crate::state::BuildState;
use crate::tables::{Gate, StoredRow, TablePlan};
use crate::writer::Writer;
use hw_types::row::RowRef;
use std::collections::BTreeSet;
use std::ops::Bound;

impl Writer {
    /// Builds the next slice: at most `rows` rows of the incarnations that are the least complete
    /// and stand at the same place, committed at its end.
    ///
    /// - Takes: the incarnations that are built later, because tables that they read have not entered.
    pub(crate) fn build_slice(
        &mut self,
        rows: usize,
        later: &BTreeSet<u32>,
    ) -> Result<(), EngineError> {
        let Some((gate, numbers)) = self.gates.least_complete(later) else { return Ok(()) };
        let Gate::Building { table: from, key } = gate else { return Ok(()) };
        // Everything before a control entry is committed before it (E-9).
        self.commit()?;
        let next = self.tables.all().into_iter().find_map(|table| {
            let plan = self.plan_of(table.record.number, &numbers);
            (table.record.number >= from && !plan.is_empty()).then_some((table, plan))
        });
        let Some((table, plan)) = next else {
            return self.move_gate(&numbers, &BuildState::Live);
        };
        let number = table.record.number;
        let start = match from == number {
            true => Bound::Excluded(key),
            false => Bound::Unbounded,
        };
        let snapshot = self.store.snapshot();
        let mut overlay = std::mem::replace(&mut self.overlay, Overlay::new(self.store.clone()));
        let gates = std::mem::take(&mut self.gates);
        let mut last_key: Option<Vec<u8>> = None;
        let mut count = 0;
        for entry in snapshot.range(&table.rows, (start, Bound::Unbounded)).take(rows) {
            let (key, value) = entry?;
            count += 1;
            let change = FoldedChange {
                table: number,
                name: &table.record.relation.name,
                key: &key,
                before: None,
                after: Some(RowRef::new(StoredRow::split(&value)?.1)),
            };
            self.interpret(&mut overlay, [&plan, &plan], &table, &change)?;
            last_key = Some(key.to_vec());
        }
        (self.overlay, self.gates) = (overlay, gates);
        self.built_rows += count as u64;
        // A table that is done leaves the cursor on the next table's beginning.
        let (table, key) = match last_key {
            Some(key) if count == rows => (number, key),
            _ => (number + 1, Vec::new()),
        };
        self.move_gate(&numbers, &BuildState::Building { table, key })
    }

    /// The part of a table's plan that belongs to these incarnations.
    fn plan_of(&self, table: u32, numbers: &BTreeSet<u32>) -> TablePlan {
        let planned = self.plans.get(&table).into_iter().flat_map(|plan| &plan.0);
        TablePlan(planned.filter(|p| numbers.contains(&p.number)).cloned().collect())
    }

    fn move_gate(&mut self, numbers: &BTreeSet<u32>, to: &BuildState) -> Result<(), EngineError> {
        self.definitions.set_state(numbers, to, &mut self.overlay, &self.state)?;
        self.gates = self.definitions.gates();
        self.commit()
    }

    /// Every incarnation is complete.
    pub(crate) fn all_live(&mut self) -> Result<(), EngineError> {
        let all = self.definitions.derived.keys().copied().collect();
        self.move_gate(&all, &BuildState::Live)
    }
}
