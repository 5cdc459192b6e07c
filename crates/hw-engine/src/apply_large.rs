//! A transaction that does not fit in memory: folded on disk, evaluated whole, decided, applied.

use crate::error::EngineError;
use crate::fold::{FoldError, FoldedRow};
use crate::fold_large::{Again, LargeFold, LargeRow, Sorted};
use crate::large::DecidedSink;
use crate::overlay::{Overlay, Sink};
use crate::route::Route;
use crate::state::{Record, keys};
use crate::writer::Writer;
use hw_input::transactions::Transaction;
use hw_store::sorter::Sorter;
use hw_types::LogMessage;

impl Writer {
    /// Applies a transaction of any size.
    pub(crate) fn apply_large(&mut self, transaction: &Transaction) -> Result<(), EngineError> {
        // The progress of this transaction is part of its step, not of its predecessors' commit.
        self.commit()?;
        let before = self.progress;
        let base = Overlay::new(self.store.clone());
        let (messages, aside) = loop {
            match self.decide_large(transaction, &base) {
                Ok(decided) => break decided,
                Err(FoldError::Engine(error)) => return Err(error),
                Err(FoldError::Incomplete(table)) => {
                    // Nothing is decided: everything is as it was, but for the mark.
                    self.progress = before;
                    self.book.forget_all();
                    self.incomplete(table)?;
                    self.commit()?;
                }
            }
        };
        self.committed = self.progress;
        self.note_commit();
        self.list_transaction(transaction, &messages);
        // Behind the step: a copy that is given up for it commits, and may commit no part of it.
        if aside {
            self.spool(transaction)?;
        }
        for message in messages {
            self.marker(&message, transaction)?;
        }
        Ok(())
    }

    /// Evaluates the transaction whole and decides its writes. Returns its messages, and whether there is
    /// something of tables that are not applied.
    fn decide_large(
        &mut self,
        transaction: &Transaction,
        base: &Overlay,
    ) -> Result<(Vec<LogMessage>, bool), FoldError> {
        let (mut sorted, messages, aside) = self.sort_large(transaction, base)?;
        if aside {
            self.withdraw(transaction)?;
            self.commit()?;
        }
        self.note_transaction(transaction);
        let mut sink = DecidedSink::new(base, &self.beat)?;
        let mut rows = 0u64;
        let tables = self.tables.clone();
        sorted.read(
            base,
            |number| tables.get(number).cloned(),
            |row| {
                self.beat.count();
                rows += 1;
                let Some(table) = tables.get(row.table) else { return Ok(()) };
                let LargeRow { key, before, after, .. } = row;
                let row = FoldedRow { before, after };
                Ok(self.apply_row(&mut sink, table, key, row)?)
            },
        )?;
        self.counted.rows.increment(rows);
        let (key, value) = crate::tail::record(transaction.commit_lsn, transaction.xid.short());
        sink.append(&self.tail, &key, value)?;
        self.book.flush(&self.spaces, &mut sink)?;
        sink.put(&self.state, keys::PROGRESS.to_vec(), self.progress.encode())?;
        hw_process::failpoint::reached("large::before_decision");
        sink.decide(&self.state)?;
        self.note_truncated(transaction.xid.short(), sorted.truncated());
        Ok((messages, aside))
    }

    /// Sorts the transaction's changes; reads it again while rows move in ways that need it, and
    /// when a table turns out not to be what the replica holds.
    fn sort_large(
        &mut self,
        transaction: &Transaction,
        base: &Overlay,
    ) -> Result<(Sorted, Vec<LogMessage>, bool), FoldError> {
        let mut again = Again::default();
        'pass: loop {
            let sorter = Sorter::new(self.store.spool(), self.bounds.sort_bytes);
            let mut fold = LargeFold::new(sorter, std::mem::take(&mut again));
            let (mut messages, mut aside) = (Vec::new(), false);
            if let Some(listed) = &mut self.listed {
                listed.begin();
                listed.is_large();
            }
            for change in transaction.changes.iter() {
                self.beat.count();
                match self.route(change.map_err(|e| EngineError::Source(e.to_string()))?)? {
                    Route::Nothing => {}
                    Route::Stale => {
                        self.commit()?;
                        continue 'pass;
                    }
                    Route::Message(message) => messages.push(message),
                    Route::Aside => aside = true,
                    Route::Row(table, kind) => fold.change(&table, kind, base)?,
                    Route::Truncate { tables, others } => {
                        aside |= others;
                        tables.iter().for_each(|table| fold.truncate(table));
                    }
                }
            }
            if fold.again.needed() {
                again = std::mem::take(&mut fold.again);
                continue;
            }
            return Ok((fold.finish()?, messages, aside));
        }
    }
}
