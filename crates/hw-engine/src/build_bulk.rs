//! Building the first definitions: nothing is served yet, so nobody waits for slices.
//!
//! All rows are evaluated in one go, on a thread of their own beside the writer, which numbers what
//! they make in their order; that is sorted on disk and loaded straight into the incarnations'
//! empty spaces. A crash leaves them incomplete under a cursor that has not moved; the next attempt
//! begins with new spaces.

use crate::beat::Beat;
use crate::error::EngineError;
use crate::evaluate::{Effects, FoldedChange};
use crate::overlay::{Overlay, Sink};
use crate::state::BuildState;
use crate::tables::{Gates, StoredRow, Table, TablePlan};
use crate::writer::Writer;
use hw_store::sorter::Sorter;
use hw_store::{Slice, Snapshot, Space, Store};
use hw_types::row::RowRef;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};

/// Rows that the evaluating thread hands over together.
const BATCH: usize = 256;

/// Batches that may wait for the writer.
const WAITING: usize = 4;

/// Collects writes to empty spaces and loads them sorted.
struct BulkSink<'a> {
    base: &'a Overlay,
    beat: &'a Beat,
    /// A write's sort key begins with its space's place in this list.
    spaces: Vec<Space>,
    sorter: Sorter,
    key: Vec<u8>,
}

impl BulkSink<'_> {
    fn write(&mut self, space: &Space, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        let place = match self.spaces.iter().position(|s| s == space) {
            Some(place) => place,
            None => {
                self.spaces.push(space.clone());
                self.spaces.len() - 1
            }
        };
        self.beat.count();
        self.key.clear();
        self.key.extend_from_slice(&(place as u16).to_be_bytes());
        self.key.extend_from_slice(key);
        Ok(self.sorter.push(&self.key, value)?)
    }

    fn finish(self, store: &Store) -> Result<(), EngineError> {
        let runs = self.sorter.finish()?;
        let mut cursor = runs.cursor()?;
        let mut open: Option<(u16, hw_store::BulkLoad)> = None;
        while let Some((key, value)) = cursor.next()? {
            self.beat.count();
            let place = u16::from_be_bytes([key[0], key[1]]);
            if open.as_ref().is_none_or(|(at, _)| *at != place) {
                if let Some((_, load)) = open.take() {
                    load.finish()?;
                }
                open = Some((place, store.bulk(&self.spaces[usize::from(place)])?));
            }
            if let Some((_, load)) = &mut open {
                load.push(&key[2..], value)?;
            }
        }
        if let Some((_, load)) = open {
            load.finish()?;
        }
        Ok(())
    }
}

impl Sink for BulkSink<'_> {
    fn base(&self) -> &Overlay {
        self.base
    }

    fn put(&mut self, space: &Space, key: Vec<u8>, value: Vec<u8>) -> Result<(), EngineError> {
        self.write(space, &key, &value)
    }

    fn append(&mut self, space: &Space, key: &[u8], value: Vec<u8>) -> Result<(), EngineError> {
        self.write(space, key, &value)
    }

    fn delete(&mut self, _: &Space, _: Vec<u8>) -> Result<(), EngineError> {
        // Rows only come here; nothing was there before.
        Ok(())
    }
}

impl Writer {
    /// Whether everything that is applied is still to be built from its beginning.
    pub(crate) fn can_build_at_once(&self) -> bool {
        let untouched = BuildState::Building { table: 0, key: Vec::new() };
        let mut all = self.definitions.derived.values();
        self.definitions.active.is_none() && all.all(|i| i.record.state == untouched)
    }

    /// Builds everything that is applied from all rows.
    pub(crate) fn build_at_once(&mut self) -> Result<(), EngineError> {
        self.commit()?;
        self.book.forget_all();
        self.spaces.renew(&self.store)?;
        let overlay = std::mem::replace(&mut self.overlay, Overlay::new(self.store.clone()));
        let sorter = Sorter::new(self.store.spool(), self.bounds.sort_bytes);
        let beat = self.beat.clone();
        let mut sink =
            BulkSink { base: &overlay, beat: &beat, spaces: Vec::new(), sorter, key: Vec::new() };
        let snapshot = self.store.snapshot();
        let planned = |table: Arc<Table>| {
            let plan = self.plans.get(&table.record.number)?.clone();
            (table.record.entered && !plan.is_empty()).then_some((table, plan))
        };
        let tables: Vec<_> = self.tables.all().into_iter().filter_map(planned).collect();
        std::thread::scope(|scope| {
            let (full, batches) = sync_channel(WAITING);
            let (spare, spares) = channel();
            let evaluation = scope.spawn(|| evaluate(&snapshot, &tables, full, spares));
            for mut batch in batches {
                beat.count();
                for row in &mut batch.rows[..batch.filled] {
                    self.book.append(
                        &self.spaces,
                        &mut sink,
                        &mut row.effects,
                        (batch.table, &row.key),
                        &mut self.progress.op_id,
                        &mut self.touched,
                    )?;
                }
                self.built_rows += batch.filled as u64;
                batch.filled = 0;
                // The thread that took them has ended behind the last row.
                let _ = spare.send(batch);
            }
            evaluation.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        self.book.flush(&self.spaces, &mut sink)?;
        sink.finish(&self.store)?;
        drop(overlay);
        self.all_live()
    }
}

/// Evaluated rows of one table. Travels back when it is done with, with its buffers.
#[derive(Default)]
struct Batch {
    table: u32,
    rows: Vec<Evaluated>,
    /// How many of `rows` are of this round.
    filled: usize,
}

#[derive(Default)]
struct Evaluated {
    key: Slice,
    effects: Effects,
}

/// Evaluates all rows of the tables in order. Ends early when nobody takes them any more.
fn evaluate(
    snapshot: &Snapshot,
    tables: &[(Arc<Table>, Arc<TablePlan>)],
    full: SyncSender<Batch>,
    spares: Receiver<Batch>,
) -> Result<(), EngineError> {
    let gates = Gates::default();
    for (table, plan) in tables {
        let mut rows = snapshot.all(&table.rows).peekable();
        while rows.peek().is_some() {
            let mut batch: Batch = spares.try_recv().unwrap_or_default();
            batch.table = table.record.number;
            for entry in rows.by_ref().take(BATCH) {
                let (key, value) = entry?;
                if batch.rows.len() == batch.filled {
                    batch.rows.push(Evaluated::default());
                }
                let row = &mut batch.rows[batch.filled];
                batch.filled += 1;
                row.key = key;
                let after = Some(RowRef::new(StoredRow::split(&value)?.1));
                let (number, name) = (table.record.number, &table.record.relation.name);
                let change =
                    FoldedChange { table: number, name, key: &row.key, before: None, after };
                row.effects.evaluate([plan, plan], &gates, &change);
            }
            if full.send(batch).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}
