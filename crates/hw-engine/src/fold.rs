//! Folding: all changes of a transaction become one (before, after) per row.
//!
//! *Before* is the state behind the preceding transaction, *after* the state at the end of this
//! one; what happened in between is nobody's business (`design/engine.md` 7.2). What the log does
//! not carry (an unchanged TOAST value) comes from the row as it stands at that moment of the
//! transaction (E-6).

use crate::error::EngineError;
use crate::overlay::Overlay;
use crate::tables::{StoredRow, Table};
use hw_types::row::{Cell, Row, RowBuilder, RowRef};
use hw_types::{ChangeKind, ReplicaIdentity};
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
    /// A value that the log left out is not in the replica: this table must be copied again.
    #[error("the replica does not hold a row that the log changes")]
    Incomplete(u32),
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
        self.row_change(table, RowChange::of(table, kind), base)
    }

    /// Folds one change of a row that was read.
    pub fn row_change(
        &mut self,
        table: &Table,
        change: RowChange,
        base: &Overlay,
    ) -> Result<(), FoldError> {
        match change {
            RowChange::Add { key, row } => self.insert(table, key, row, base),
            RowChange::Remove { key } => self.remove(table, key, base),
            RowChange::Set { key, row } => {
                let row = match row.view().has_absent() {
                    true => self.completed(table, &key, &row, base)?,
                    false => row,
                };
                self.set(table, key, Some(StoredRow { copies: 1, row }), base)
            }
            RowChange::Move { from, to, row } => {
                let row = match row.view().has_absent() {
                    true => self.completed(table, &from, &row, base)?,
                    false => row,
                };
                self.remove(table, from, base)?;
                self.insert(table, to, row, base)
            }
        }
    }

    /// A row with what the log left out taken from its state so far, under its old key.
    fn completed(
        &mut self,
        table: &Table,
        key: &[u8],
        row: &Row,
        base: &Overlay,
    ) -> Result<Row, FoldError> {
        let missing = FoldError::Incomplete(table.record.number);
        let current = self.at(table, key, base)?.after.as_ref().ok_or(missing)?;
        Ok(complete(&row.view(), &current.row.view()))
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

    fn insert(
        &mut self,
        table: &Table,
        key: Vec<u8>,
        row: Row,
        base: &Overlay,
    ) -> Result<(), FoldError> {
        let copies = if table.multiple {
            1 + self.at(table, &key, base)?.after.as_ref().map_or(0, |r| r.copies)
        } else {
            1
        };
        self.set(table, key, Some(StoredRow { copies, row }), base)
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

/// What a change of the log does to rows by their keys: one reading for folds in memory and on
/// disk. Rows may lack values that the log left out; keys never do, as far as the log can tell.
pub(crate) enum RowChange {
    /// A row comes; one more copy of it in a table without identity.
    Add { key: Vec<u8>, row: Row },
    /// A row goes; one copy of it.
    Remove { key: Vec<u8> },
    /// The row under this key is this one now.
    Set { key: Vec<u8>, row: Row },
    /// The row goes under one key and comes under another (or the same one, in a table without
    /// identity). What the log left out stands in the row under the old key.
    Move { from: Vec<u8>, to: Vec<u8>, row: Row },
}

impl RowChange {
    /// Whether a value of the new row stands only in the old one.
    pub fn is_partial(&self) -> bool {
        match self {
            RowChange::Set { row, .. } | RowChange::Move { row, .. } => row.view().has_absent(),
            RowChange::Add { .. } | RowChange::Remove { .. } => false,
        }
    }

    /// Reads a change of a table.
    pub fn of(table: &Table, kind: ChangeKind) -> RowChange {
        match kind {
            ChangeKind::Insert { new } => RowChange::Add { key: table.key(&new.view()), row: new },
            ChangeKind::Delete { old } => RowChange::Remove { key: table.key(&old.view()) },
            ChangeKind::Update { old: None, new } => {
                RowChange::Set { key: table.key(&new.view()), row: new }
            }
            ChangeKind::Update { old: Some(old), new } => {
                // The old tuple has every column (REPLICA IDENTITY FULL) or those of the key; a
                // key that is itself stored out of line is only there.
                let full = table.record.relation.replica_identity == ReplicaIdentity::Full;
                let known = |index: usize| full || table.key_columns.contains(&index);
                let row = if new.view().has_absent() {
                    complete_where(&new.view(), &old.view(), known)
                } else {
                    new
                };
                let (from, to) = (table.key(&old.view()), table.key(&row.view()));
                if table.multiple || from != to {
                    RowChange::Move { from, to, row }
                } else {
                    RowChange::Set { key: to, row }
                }
            }
        }
    }
}

/// Fills a row's absent columns from another state of it.
pub(crate) fn complete(new: &RowRef<'_>, from: &RowRef<'_>) -> Row {
    complete_where(new, from, |_| true)
}

fn complete_where(new: &RowRef<'_>, from: &RowRef<'_>, known: impl Fn(usize) -> bool) -> Row {
    let mut builder = RowBuilder::new();
    for (index, cell) in new.iter().enumerate() {
        builder.push(match cell {
            Cell::Absent if known(index) => from.get(index),
            present => present,
        });
    }
    builder.finish()
}
