//! Where a change of a row becomes operations and lookups, and the row is written and listed: the one place,
//! whatever the change came from and whatever the writes go into.

use crate::change_list::Recorder;
use crate::error::EngineError;
use crate::evaluate::FoldedChange;
use crate::fold::FoldedRow;
use crate::held;
use crate::overlay::Sink;
use crate::tables::{Bound, StoredRow, Table, TablePlan};
use crate::writer::Writer;
use std::sync::Arc;

impl Writer {
    /// Evaluates a row's two states, writes the row and lists the change: the one place where a change of
    /// a transaction is applied, whatever the writes go into.
    pub(crate) fn apply_row<S: Sink>(
        &mut self,
        sink: &mut S,
        table: &Arc<Table>,
        key: Vec<u8>,
        row: FoldedRow,
    ) -> Result<(), EngineError> {
        let listed = self.listed.as_ref().is_some_and(Recorder::takes_rows).then(|| key.clone());
        if row.before != row.after {
            self.change_row(sink, table, key, &row)?;
        }
        if let Some(recorder) = &mut self.listed {
            recorder.row(table, listed, row.before, row.after);
        }
        Ok(())
    }

    fn change_row<S: Sink>(
        &mut self,
        sink: &mut S,
        table: &Arc<Table>,
        key: Vec<u8>,
        row: &FoldedRow,
    ) -> Result<(), EngineError> {
        let number = table.record.number;
        if let Some(plan) = self.plans.get(&number).cloned() {
            let change = FoldedChange {
                table: number,
                name: &table.record.relation.name,
                key: &key,
                before: row.before.as_ref().map(|r| r.row.view()),
                after: row.after.as_ref().map(|r| r.row.view()),
            };
            self.interpret(sink, [&plan, &plan], table, &change)?;
        }
        match &row.after {
            Some(row) => {
                let value = StoredRow::encode(row.copies, row.row.as_bytes());
                sink.put(&table.rows, key, value)
            }
            None => sink.delete(&table.rows, key),
        }
    }

    /// Evaluates a change, numbers its operations, and for incarnations that stand still keeps what the
    /// row was, and withdraws what it no longer gives.
    ///
    /// - Takes: the table as the state before was stored.
    pub(crate) fn interpret<S: Sink>(
        &mut self,
        sink: &mut S,
        plans: [&TablePlan; 2],
        was: &Table,
        change: &FoldedChange<'_>,
    ) -> Result<(), EngineError> {
        self.effects.evaluate(plans, &self.gates, change);
        let held = std::mem::take(&mut self.effects.held);
        for number in &held {
            self.hold(*number, sink, plans, was, change)?;
        }
        self.effects.held = held;
        self.book.append(
            &self.spaces,
            sink,
            &mut self.effects,
            (change.table, change.key),
            &mut self.progress.op_id,
            &mut self.touched,
        )
    }

    /// Keeps what a row was for an incarnation that stands still. A lookup loses what the row gave it
    /// then and does not give now: whoever loses access does so at once, whatever is waited for (E-4).
    fn hold<S: Sink>(
        &mut self,
        number: u32,
        sink: &mut S,
        plans: [&TablePlan; 2],
        was: &Table,
        change: &FoldedChange<'_>,
    ) -> Result<(), EngineError> {
        let held = held::hold(number, sink, was, change)?;
        let [before, after] = plans.map(|plan| plan.find(number));
        if !matches!(after.or(before), Some(Bound::Lookup(_))) {
            return Ok(());
        }
        let Some(row) = &held.row else { return Ok(()) };
        // It may have been held with other columns than the table has now.
        let bound;
        let before = match held.layout == was.record.layout {
            true => before,
            false => {
                let columns = held::columns(sink.base(), number, change.table, held.layout)?;
                bound = self.definitions.derived.get(&number).and_then(|i| i.bind(&columns));
                bound.as_ref()
            }
        };
        let (held, now) = ((before, &Some(row.view())), (after, &change.after));
        self.effects.withdraw(number, held, now, change.name);
        Ok(())
    }
}
