//! Building the first definitions: nothing is served yet, so nobody waits for slices.
//!
//! All rows are evaluated in one go; what they make is sorted on disk and loaded straight into
//! the incarnations' empty spaces. A crash leaves them incomplete under a cursor that has not
//! moved; the next attempt begins with new spaces.

use crate::buckets::Origin;
use crate::error::EngineError;
use crate::evaluate::FoldedChange;
use crate::overlay::{Overlay, Sink};
use crate::tables::{Gates, StoredRow};
use crate::writer::Writer;
use hw_store::sorter::Sorter;
use hw_store::{Space, Store};
use hw_types::Xid;
use hw_types::row::RowRef;

/// Collects writes to empty spaces and loads them sorted.
struct BulkSink<'a> {
    base: &'a Overlay,
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
        let untouched = |gate: &crate::tables::Gate| gate.table == 0 && gate.key.is_empty();
        self.definitions.active.is_none()
            && self.definitions.sources.len() == self.gates.sources.len()
            && self.definitions.lookups.len() == self.gates.lookups.len()
            && self.gates.sources.values().chain(self.gates.lookups.values()).all(untouched)
    }

    /// Builds everything that is applied from all rows.
    pub(crate) fn build_at_once(&mut self) -> Result<(), EngineError> {
        self.commit()?;
        self.book.forget_all();
        self.spaces.renew(&self.store)?;
        let overlay = std::mem::replace(&mut self.overlay, Overlay::new(self.store.clone()));
        let sorter = Sorter::new(self.store.spool(), self.shared.options.sort_bytes);
        let mut sink = BulkSink { base: &overlay, spaces: Vec::new(), sorter, key: Vec::new() };
        let snapshot = self.store.snapshot();
        for table in self.tables.all() {
            let number = table.record.number;
            let Some(plan) = self.plans.get(&number).cloned() else { continue };
            if !table.record.entered || plan.is_empty() {
                continue;
            }
            for entry in snapshot.all(&table.rows) {
                let (key, value) = entry?;
                let (_, row) = StoredRow::split(&value)?;
                let after = Some(RowRef::new(row));
                let change = FoldedChange { table: &table, key: &key, before: None, after };
                self.effects.evaluate([&plan, &plan], &Gates::default(), &change);
                self.book.append(
                    &self.spaces,
                    &mut sink,
                    &mut self.effects,
                    Origin { xid: Xid(0), change: 0 },
                    (number, &key),
                    &mut self.progress.op_id,
                    &mut self.touched,
                )?;
                self.built_rows += 1;
            }
        }
        self.book.flush(&self.spaces, &mut sink)?;
        sink.finish(&self.store)?;
        drop(overlay);
        self.all_live()
    }
}
