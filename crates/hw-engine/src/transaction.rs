//! One transaction: folded, evaluated, and put into the commit that waits. One that does not fit
//! into memory goes through [`crate::apply_large`].

use crate::change_list::Recorder;
use crate::error::EngineError;
use crate::fold::{Fold, FoldError};
use crate::overlay::{Overlay, Sink};
use crate::route::Route;
use crate::tables::{StoredRow, Table};
use crate::writer::Writer;
use hw_input::transactions::Transaction;
use hw_types::LogMessage;
use std::sync::Arc;

/// Whether a transaction was folded in memory.
enum Folded {
    /// With the messages in it, and whether there is something of tables that are not applied.
    Whole(Fold, Vec<LogMessage>, bool),
    /// It does not fit.
    TooLarge,
    /// A table of it was marked: it must be read again.
    Stale,
}

impl Writer {
    /// Applies a transaction behind the last one.
    pub(crate) fn transaction(&mut self, transaction: Transaction) -> Result<(), EngineError> {
        debug_assert!(transaction.commit_lsn > self.progress.commit_lsn);
        self.counted.transactions.increment(1);
        // Values that had another shape than their type has now: rows of before are not right.
        for relation in transaction.changes.misfits() {
            if let Some(table) = self.appliable(*relation) {
                tracing::warn!(table = %table.record.relation.name, "a type of the table was altered; it is copied again and compared");
                self.mark_stale(table.record.number)?;
            }
        }
        self.note_sent_under(&transaction)?;
        // A table that turns out not to be what the replica holds is marked before any part of
        // the transaction is applied; then the transaction is read again without it, so that
        // nobody is shown half of it (E-1).
        let folded = loop {
            match self.fold(&transaction)? {
                Folded::Stale => {}
                other => break other,
            }
        };
        match folded {
            Folded::Whole(fold, messages, aside) => {
                if aside {
                    self.spool(&transaction)?;
                    self.withdraw(&transaction)?;
                }
                self.note_truncated(transaction.xid.short(), fold.truncated.iter().copied());
                self.note_transaction(&transaction);
                let (key, value) =
                    crate::tail::record(transaction.commit_lsn, transaction.xid.short());
                self.overlay.append(&self.tail, &key, value)?;
                self.apply_folded(fold)?;
                self.list_transaction(&transaction, &messages);
                for message in messages {
                    self.marker(&message, &transaction)?;
                }
                Ok(())
            }
            _ => self.apply_large(&transaction),
        }
    }

    /// Folds all changes in memory, up to the bound.
    fn fold(&mut self, transaction: &Transaction) -> Result<Folded, EngineError> {
        self.listed.as_mut().map(Recorder::begin);
        let bound = self.bounds.fold_bytes;
        // The changes carry one state of a row, the fold holds both: it is not begun in vain.
        if transaction.changes.bytes() > bound as u64 {
            return Ok(Folded::TooLarge);
        }
        let (mut fold, mut messages, mut aside) = (Fold::default(), Vec::new(), false);
        let mut rows = 0;
        for change in transaction.changes.iter() {
            match self.route(change.map_err(|e| EngineError::Source(e.to_string()))?)? {
                Route::Nothing => {}
                Route::Stale => return Ok(Folded::Stale),
                Route::Message(message) => messages.push(message),
                Route::Aside => aside = true,
                Route::Row(table, kind) => {
                    rows += 1;
                    match fold.change(&table, kind, &self.overlay) {
                        Ok(()) => {}
                        Err(FoldError::Engine(error)) => return Err(error),
                        Err(FoldError::Incomplete(table)) => {
                            self.incomplete(table)?;
                            return Ok(Folded::Stale);
                        }
                    }
                }
                Route::Truncate { tables, others } => {
                    aside |= others;
                    for table in tables {
                        fold.truncate(&table);
                        if !self.fold_truncated(&table, &mut fold, bound)? {
                            return Ok(Folded::TooLarge);
                        }
                    }
                }
            }
            if fold.bytes() > bound {
                return Ok(Folded::TooLarge);
            }
        }
        self.counted.rows.increment(rows);
        Ok(Folded::Whole(fold, messages, aside))
    }

    /// Adds a truncated table's stored rows to the fold; false when they do not fit.
    fn fold_truncated(
        &mut self,
        table: &Arc<Table>,
        fold: &mut Fold,
        bound: usize,
    ) -> Result<bool, EngineError> {
        // A scan of the store sees committed writes only.
        self.commit()?;
        let snapshot = self.store.snapshot();
        for entry in snapshot.all(&table.rows) {
            let (key, value) = entry?;
            fold.gone(table.record.number, &key, StoredRow::decode(&value)?);
            if fold.bytes() > bound {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Evaluates a fold and puts its writes into the overlay.
    fn apply_folded(&mut self, fold: Fold) -> Result<(), EngineError> {
        // Taken out, so that it can be written into while the writer evaluates.
        let mut overlay = std::mem::replace(&mut self.overlay, Overlay::new(self.store.clone()));
        let mut outcome = Ok(());
        for ((number, key), row) in fold.rows {
            let Some(table) = self.tables.get(number).cloned() else { continue };
            outcome = self.apply_row(&mut overlay, &table, key, row);
            if outcome.is_err() {
                break;
            }
        }
        self.overlay = overlay;
        outcome
    }
}
