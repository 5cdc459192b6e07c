//! Folding: all changes of a transaction become one (before, after) per row.
//!
//! *Before* is the state behind the preceding transaction, *after* the state at the end of this
//! one; what happened in between is nobody's business (`design/engine.md` 7.2). What the log does
//! not carry (an unchanged TOAST value) comes from the row as it stands at that moment of the
//! transaction (E-6).

use crate::error::EngineError;
use crate::overlay::Overlay;
use crate::tables::{StoredRow, Table};
use hw_types::ChangeKind;
use hw_types::row::{Cell, Row, RowBuilder, RowRef};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// The folded changes of one transaction, ordered by table number and row key.
#[derive(Default)]
pub(crate) struct Fold {
    pub rows: BTreeMap<(u32, Vec<u8>), FoldedRow>,
    /// Tables that the transaction emptied: rows that were there before and are not in `rows`
    /// are gone.
    pub truncated: HashSet<u32>,
    bytes: usize,
}

/// A row's two states.
#[derive(Debug)]
pub(crate) struct FoldedRow {
    pub before: Option<StoredRow>,
    pub after: Option<StoredRow>,
}

/// Why a change cannot be folded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FoldError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A value that the log left out is not in the replica: the table must be copied again.
    #[error("the replica does not hold a row that the log changes")]
    Incomplete,
}

impl Fold {
    /// Bytes held, roughly.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Folds one change of a row.
    pub fn change(
        &mut self,
        table: &Arc<Table>,
        kind: ChangeKind,
        base: &Overlay,
    ) -> Result<(), FoldError> {
        match kind {
            ChangeKind::Insert { new } => self.insert(table, new, base),
            ChangeKind::Delete { old } => {
                let key = table.key(&old.view());
                self.remove(table, key, base)
            }
            ChangeKind::Update { old, new } => {
                let new_key = table.key(&new.view());
                let old_key = match &old {
                    Some(old) => table.key(&old.view()),
                    None => new_key.clone(),
                };
                let new = if new.view().has_absent() {
                    let current = self.at(table, &old_key, base)?.after.as_ref();
                    let full = old.as_ref().filter(|_| table.sends_whole_old_rows());
                    let from = current.map(|r| &r.row).or(full).ok_or(FoldError::Incomplete)?;
                    complete(&new.view(), &from.view())
                } else {
                    new
                };
                if table.multiple || old_key != new_key {
                    self.remove(table, old_key, base)?;
                    return self.insert(table, new, base);
                }
                self.set(table, new_key, Some(StoredRow { copies: 1, row: new }), base)
            }
        }
    }

    /// Empties a table.
    pub fn truncate(&mut self, table: &Table) {
        let number = table.record.number;
        self.truncated.insert(number);
        let rows = self.rows.range_mut((number, Vec::new())..(number + 1, Vec::new()));
        rows.for_each(|(_, row)| row.after = None);
    }

    /// A stored row of a truncated table: gone, unless the transaction touched it.
    pub fn gone(&mut self, number: u32, key: &[u8], stored: StoredRow) {
        use std::collections::btree_map::Entry;
        if let Entry::Vacant(entry) = self.rows.entry((number, key.to_vec())) {
            self.bytes += key.len() + stored.row.as_bytes().len() + 96;
            entry.insert(FoldedRow { before: Some(stored), after: None });
        }
    }

    /// Forgets what was folded for a table.
    pub fn forget(&mut self, number: u32) {
        self.truncated.remove(&number);
        self.rows.retain(|(table, _), _| *table != number);
    }

    fn insert(&mut self, table: &Table, new: Row, base: &Overlay) -> Result<(), FoldError> {
        let key = table.key(&new.view());
        let copies = if table.multiple {
            1 + self.at(table, &key, base)?.after.as_ref().map_or(0, |r| r.copies)
        } else {
            1
        };
        self.set(table, key, Some(StoredRow { copies, row: new }), base)
    }

    fn remove(&mut self, table: &Table, key: Vec<u8>, base: &Overlay) -> Result<(), FoldError> {
        let left = match &self.at(table, &key, base)?.after {
            Some(row) if row.copies > 1 => {
                Some(StoredRow { copies: row.copies - 1, row: row.row.clone() })
            }
            _ => None,
        };
        self.set(table, key, left, base)
    }

    fn set(
        &mut self,
        table: &Table,
        key: Vec<u8>,
        row: Option<StoredRow>,
        base: &Overlay,
    ) -> Result<(), FoldError> {
        self.bytes += row.as_ref().map_or(0, |r| r.row.as_bytes().len());
        self.at(table, &key, base)?.after = row;
        Ok(())
    }

    /// The row's state, read from the base at its first touch.
    fn at(
        &mut self,
        table: &Table,
        key: &[u8],
        base: &Overlay,
    ) -> Result<&mut FoldedRow, FoldError> {
        use std::collections::btree_map::Entry;
        let number = table.record.number;
        match self.rows.entry((number, key.to_vec())) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let stored = base.get(&table.rows, key)?;
                let before = stored.map(|value| StoredRow::decode(&value)).transpose()?;
                self.bytes += key.len() + 96;
                self.bytes += before.as_ref().map_or(0, |r| r.row.as_bytes().len());
                let after = before.clone().filter(|_| !self.truncated.contains(&number));
                Ok(entry.insert(FoldedRow { before, after }))
            }
        }
    }
}

impl Table {
    /// Whether an update's old tuple holds every column.
    pub fn sends_whole_old_rows(&self) -> bool {
        self.record.relation.replica_identity == hw_types::ReplicaIdentity::Full
    }
}

/// Fills a row's absent columns from another state of it.
pub(crate) fn complete(new: &RowRef<'_>, from: &RowRef<'_>) -> Row {
    let mut builder = RowBuilder::new();
    for (index, cell) in new.iter().enumerate() {
        builder.push(match cell {
            Cell::Absent => from.get(index),
            present => present,
        });
    }
    builder.finish()
}
