//! A transaction that does not fit in memory: folded on disk, evaluated whole, decided, applied.

use crate::buckets::Origin;
use crate::error::EngineError;
use crate::evaluate::FoldedChange;
use crate::fold::FoldError;
use crate::fold_large::{Again, LargeFold, LargeRow, Sorted};
use crate::large::DecidedSink;
use crate::overlay::{Overlay, Sink};
use crate::state::{Record, keys};
use crate::tables::StoredRow;
use crate::writer::Writer;
use hw_input::transactions::Transaction;
use hw_store::sorter::Sorter;
use hw_types::{Change, LogMessage, RelationId};
use std::collections::BTreeSet;

impl Writer {
    /// Applies a transaction of any size. The writer's progress is already its own, and nothing
    /// waits in the overlay.
    pub(crate) fn apply_large(&mut self, transaction: &Transaction) -> Result<(), EngineError> {
        let mut messages = Vec::new();
        let mut sorted = self.sort_large(transaction, &mut messages)?;
        let overlay = std::mem::replace(&mut self.overlay, Overlay::new(self.store.clone()));
        let mut sink = DecidedSink::new(&overlay)?;
        let mut index = 0u64;
        let tables = self.tables.clone();
        sorted
            .read(
                &overlay,
                |number| tables.get(number).cloned(),
                |row| {
                    let place = index;
                    index += 1;
                    self.large_row(&mut sink, row, transaction, place).map_err(FoldError::from)
                },
            )
            .map_err(|error| match error {
                FoldError::Engine(error) => error,
                FoldError::Incomplete => EngineError::damaged("rows", "a row that the log changes"),
            })?;
        self.book.flush(&self.spaces, &mut sink)?;
        sink.put(&self.state, keys::PROGRESS.to_vec(), self.progress.encode())?;
        crate::failpoint::reached("large::before_decision");
        sink.decide(&self.state)?;
        drop(overlay);
        self.committed = self.progress;
        self.note_commit();
        for message in messages {
            self.marker(&message, transaction)?;
        }
        Ok(())
    }

    /// Sorts the transaction's changes; reads it again while rows move in ways that need it.
    fn sort_large(
        &mut self,
        transaction: &Transaction,
        messages: &mut Vec<LogMessage>,
    ) -> Result<Sorted, EngineError> {
        let mut again = Again::default();
        let mut first = true;
        loop {
            let sorter = Sorter::new(self.store.spool(), self.shared.options.sort_bytes);
            let mut fold = LargeFold::new(sorter, std::mem::take(&mut again));
            let mut spooled: BTreeSet<RelationId> = BTreeSet::new();
            for change in transaction.changes.iter() {
                match change.map_err(|e| EngineError::Source(e.to_string()))? {
                    Change::Message(message) if first => messages.push(message),
                    Change::Relation(relation) => {
                        self.described(&relation, &mut Default::default())?;
                    }
                    Change::Row { relation, kind } => match self.appliable(relation.id) {
                        Some(table) => match fold.change(&table, kind, &self.overlay) {
                            Ok(()) => {}
                            Err(FoldError::Engine(error)) => return Err(error),
                            Err(FoldError::Incomplete) => {
                                self.mark_stale(table.record.number, &mut Default::default())?;
                            }
                        },
                        None => {
                            spooled.insert(relation.id);
                        }
                    },
                    Change::Truncate { relations } => {
                        for relation in relations {
                            match self.appliable(relation.id) {
                                Some(table) => fold.truncate(&table),
                                None => {
                                    spooled.insert(relation.id);
                                }
                            }
                        }
                    }
                    Change::Message(_) => {}
                }
            }
            if first && !spooled.is_empty() {
                self.spool(transaction, &spooled)?;
            }
            first = false;
            if fold.again.needed() {
                again = std::mem::take(&mut fold.again);
                continue;
            }
            return fold.finish();
        }
    }

    /// Evaluates one folded row into the step's writes.
    fn large_row(
        &mut self,
        sink: &mut DecidedSink<'_>,
        row: LargeRow,
        transaction: &Transaction,
        place: u64,
    ) -> Result<(), EngineError> {
        if row.before == row.after || self.stale.contains(&row.table) {
            return Ok(());
        }
        let Some(table) = self.tables.get(row.table).cloned() else { return Ok(()) };
        metrics::counter!("headwater_rows_replicated_total").increment(1);
        let change = FoldedChange {
            table: &table,
            key: &row.key,
            before: row.before.as_ref().map(|r| r.row.view()),
            after: row.after.as_ref().map(|r| r.row.view()),
        };
        if let Some(plan) = self.plans.get(&row.table) {
            self.effects.evaluate([plan, plan], &self.gates, &change);
            self.book.append(
                &self.spaces,
                sink,
                &mut self.effects,
                Origin { xid: transaction.xid, change: place },
                (row.table, &row.key),
                &mut self.progress.op_id,
                &mut self.touched,
            )?;
        }
        match &row.after {
            Some(after) => {
                let value = StoredRow::encode(after.copies, after.row.as_bytes());
                sink.put(&table.rows, row.key, value)
            }
            None => sink.delete(&table.rows, row.key),
        }
    }
}
