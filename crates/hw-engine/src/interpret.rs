//! Where a change of a row becomes operations and lookups, and the row is written: the one place,
//! whatever the change came from and whatever the writes go into.

use crate::error::EngineError;
use crate::evaluate::FoldedChange;
use crate::fold::FoldedRow;
use crate::overlay::Sink;
use crate::tables::{StoredRow, Table, TablePlan};
use crate::writer::Writer;
use std::sync::Arc;

impl Writer {
    /// Evaluates a row's two states and writes the row: the one place where a change is applied,
    /// whatever the writes go into.
    pub(crate) fn apply_row<S: Sink>(
        &mut self,
        sink: &mut S,
        table: &Arc<Table>,
        key: Vec<u8>,
        row: FoldedRow,
    ) -> Result<(), EngineError> {
        if row.before == row.after {
            return Ok(());
        }
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
        match row.after {
            Some(row) => {
                let value = StoredRow::encode(row.copies, row.row.as_bytes());
                sink.put(&table.rows, key, value)
            }
            None => sink.delete(&table.rows, key),
        }
    }

    /// Evaluates a change, numbers its operations, and keeps what the row was for incarnations
    /// that stand still.
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
        if !self.effects.held.is_empty() {
            crate::held::hold(&self.effects.held, sink, was, change)?;
        }
        self.book.append(
            &self.spaces,
            sink,
            &mut self.effects,
            (change.table, change.key),
            &mut self.progress.op_id,
            &mut self.touched,
        )
    }
}
