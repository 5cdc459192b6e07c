//! Folding a transaction that does not fit in memory: its changes are sorted by table and row
//! key on disk, then read row by row beside the replica.
//!
//! In: the transaction's changes, replayable. Out: per row (before, after), in the same order as
//! the fold in memory gives. Memory is the sorter's bound, plus the rows of one key.
//!
//! A row whose key changes while a TOAST value does not needs the row under its old key as it
//! stands at that moment. The replica has it unless the same transaction touched that row
//! before; such keys are found in a first pass and followed in memory in a second one.

use crate::error::EngineError;
use crate::fold::{FoldError, RowChange, complete};
use crate::overlay::Overlay;
use crate::record::take;
use crate::tables::{StoredRow, Table};
use hw_store::sorter::{SortedCursor, SortedRuns, Sorter};
use hw_store::{Ascending, Snapshot};
use hw_types::row::{Row, RowRef};
use hw_types::{ChangeKind, varint};
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::Arc;

/// One event of a row, in transaction order.
enum Event<'a> {
    /// The row is this; absent columns keep their value.
    Set(&'a [u8]),
    /// The row is gone (one copy of it).
    Delete,
    /// One more copy, of a table without identity.
    Add(&'a [u8]),
}

const SET: u8 = 1;
const DELETE: u8 = 2;
const ADD: u8 = 3;

type Name = (u32, Vec<u8>);

/// Sorts the events of one transaction.
pub(crate) struct LargeFold {
    sorter: Sorter,
    /// Place in the transaction of the table's last TRUNCATE: earlier events do not count.
    truncated: HashMap<u32, u64>,
    sequence: u64,
    /// Rows that are followed in memory: their state, as far as the transaction has set it.
    followed: HashMap<Name, Option<Option<Row>>>,
    /// Hashes of all rows touched, kept once a pass has shown that they are needed.
    touched: Option<HashSet<u64, foldhash::fast::RandomState>>,
    hasher: foldhash::fast::RandomState,
    /// What another pass must know.
    pub again: Again,
}

/// What a pass found out that it needed.
#[derive(Default)]
pub(crate) struct Again {
    touched: bool,
    follow: HashSet<Name>,
}

impl Again {
    /// Whether the transaction must be read again.
    pub fn needed(&self) -> bool {
        self.touched || !self.follow.is_empty()
    }
}

impl LargeFold {
    /// Starts a pass; `after` is what the pass before it found out.
    pub fn new(sorter: Sorter, after: Again) -> LargeFold {
        let second = after.needed();
        LargeFold {
            sorter,
            truncated: HashMap::new(),
            sequence: 0,
            followed: after.follow.into_iter().map(|name| (name, None)).collect(),
            touched: second.then(HashSet::default),
            hasher: foldhash::fast::RandomState::default(),
            again: Again::default(),
        }
    }

    /// Takes one change of a row.
    pub fn change(
        &mut self,
        table: &Arc<Table>,
        kind: ChangeKind,
        base: &Overlay,
    ) -> Result<(), FoldError> {
        self.sequence += 1;
        match RowChange::of(table, kind) {
            RowChange::Add { key, row } | RowChange::Set { key, row } => {
                self.set(table, key, row, base)
            }
            RowChange::Remove { key } => self.delete(table, key),
            RowChange::Move { from, to, row } => {
                let row = match row.view().has_absent() {
                    false => Some(row),
                    true => {
                        let current = self.current(table, &from, base)?;
                        current.map(|current| complete(&row.view(), &current.view()))
                    }
                };
                self.delete(table, from)?;
                self.sequence += 1;
                // Without the old row this pass is not the last one; its result is thrown away.
                match row {
                    Some(row) => self.set(table, to, row, base),
                    None => Ok(()),
                }
            }
        }
    }

    /// Takes a TRUNCATE.
    pub fn truncate(&mut self, table: &Table) {
        self.sequence += 1;
        self.truncated.insert(table.record.number, self.sequence);
        for ((number, _), state) in &mut self.followed {
            if *number == table.record.number {
                *state = Some(None);
            }
        }
    }

    /// The row under a key as it stands now, or `None` when another pass must follow it.
    fn current(
        &mut self,
        table: &Table,
        key: &[u8],
        base: &Overlay,
    ) -> Result<Option<Row>, FoldError> {
        let name = (table.record.number, key.to_vec());
        match self.followed.get(&name) {
            Some(Some(state)) => {
                return state.clone().map(Some).ok_or(FoldError::Incomplete(name.0));
            }
            Some(None) => {}
            None => {
                let hash = self.hasher.hash_one(&name);
                match &self.touched {
                    None => {
                        self.again.touched = true;
                        return Ok(None);
                    }
                    Some(touched)
                        if touched.contains(&hash) || self.truncated.contains_key(&name.0) =>
                    {
                        self.again.follow.insert(name);
                        return Ok(None);
                    }
                    Some(_) => {}
                }
            }
        }
        let stored =
            base.get(&table.rows, key)?.ok_or(FoldError::Incomplete(table.record.number))?;
        Ok(Some(StoredRow::decode(&stored)?.row))
    }

    fn set(
        &mut self,
        table: &Table,
        key: Vec<u8>,
        new: Row,
        base: &Overlay,
    ) -> Result<(), FoldError> {
        let name = (table.record.number, key);
        if self.followed.contains_key(&name) {
            let whole = match new.view().has_absent() {
                true => self
                    .current(table, &name.1, base)?
                    .map(|now| complete(&new.view(), &now.view())),
                false => Some(new.clone()),
            };
            self.followed.insert(name.clone(), whole.map(Some));
        }
        let kind = if table.multiple { ADD } else { SET };
        self.push(name, kind, new.as_bytes())
    }

    fn delete(&mut self, table: &Table, key: Vec<u8>) -> Result<(), FoldError> {
        let name = (table.record.number, key);
        if let Some(state) = self.followed.get_mut(&name) {
            *state = Some(None);
        }
        self.push(name, DELETE, &[])
    }

    fn push(&mut self, name: Name, kind: u8, row: &[u8]) -> Result<(), FoldError> {
        if let Some(touched) = &mut self.touched {
            touched.insert(self.hasher.hash_one(&name));
        }
        let mut key = name.0.to_be_bytes().to_vec();
        key.extend_from_slice(&name.1);
        let mut value = vec![kind];
        varint::put(&mut value, self.sequence);
        value.extend_from_slice(row);
        self.sorter.push(&key, &value).map_err(EngineError::from)?;
        Ok(())
    }

    /// The sorted events and the truncated tables.
    pub fn finish(self) -> Result<Sorted, EngineError> {
        Ok(Sorted { runs: self.sorter.finish()?, truncated: self.truncated })
    }
}

/// Sorted events, to be read beside the replica.
pub(crate) struct Sorted {
    runs: SortedRuns,
    truncated: HashMap<u32, u64>,
}

/// A folded row of a large step.
pub(crate) struct LargeRow {
    pub table: u32,
    pub key: Vec<u8>,
    pub before: Option<StoredRow>,
    pub after: Option<StoredRow>,
}

impl Sorted {
    /// The tables that the transaction emptied.
    pub fn truncated(&self) -> impl Iterator<Item = u32> + use<> {
        self.truncated.keys().copied().collect::<Vec<_>>().into_iter()
    }

    /// Calls `each` for every row, ordered by table number and row key. `table` finds the table,
    /// `base` holds the state before.
    pub fn read(
        &mut self,
        base: &Overlay,
        table: impl Fn(u32) -> Option<Arc<Table>>,
        mut each: impl FnMut(LargeRow) -> Result<(), FoldError>,
    ) -> Result<(), FoldError> {
        let snapshot = base.store().snapshot();
        let mut stored = Stored { snapshot: snapshot.clone(), reader: None };
        let mut truncated: Vec<(u32, u64)> = self.truncated.iter().map(|(t, s)| (*t, *s)).collect();
        truncated.sort_unstable();
        let mut rows = RowEvents::new(self.runs.cursor().map_err(EngineError::from)?)?;
        // Rows of truncated tables that no event names are gone too: both streams are merged.
        for (number, at) in
            truncated.into_iter().map(|(n, s)| (n, Some(s))).chain([(u32::MAX, None)])
        {
            while rows.next_is(|table, _| table < number) {
                each(rows.folded(&mut stored, &table, 0)?)?;
            }
            let (Some(at), Some(emptied)) = (at, table(number)) else { continue };
            for entry in snapshot.all(&emptied.rows) {
                let (key, value) = entry.map_err(EngineError::from)?;
                while rows.next_is(|t, k| t == number && *k < key[..]) {
                    each(rows.folded(&mut stored, &table, at)?)?;
                }
                if rows.next_is(|t, k| t == number && *k == key[..]) {
                    each(rows.folded(&mut stored, &table, at)?)?;
                } else {
                    each(LargeRow {
                        table: number,
                        key: key.to_vec(),
                        before: Some(StoredRow::decode(&value)?),
                        after: None,
                    })?;
                }
            }
            while rows.next_is(|t, _| t == number) {
                each(rows.folded(&mut stored, &table, at)?)?;
            }
        }
        Ok(())
    }
}

/// The replica, read in the order of table number and row key.
struct Stored {
    snapshot: Snapshot,
    reader: Option<(u32, Ascending)>,
}

impl Stored {
    fn row(&mut self, table: &Table, key: &[u8]) -> Result<Option<StoredRow>, EngineError> {
        let number = table.record.number;
        let reader = match &mut self.reader {
            Some((of, reader)) if *of == number => reader,
            other => {
                let reader = Ascending::new(self.snapshot.clone(), table.rows.clone());
                &mut other.insert((number, reader)).1
            }
        };
        reader.get(key)?.map(|value| StoredRow::decode(&value)).transpose()
    }
}

/// Sorted events, row by row. Of a row only the state so far and the next event are in memory,
/// however often the transaction rewrites it.
struct RowEvents {
    cursor: SortedCursor,
    /// The next event with its key.
    next: Option<(Vec<u8>, Vec<u8>)>,
}

impl RowEvents {
    fn new(cursor: SortedCursor) -> Result<RowEvents, EngineError> {
        let mut rows = RowEvents { cursor, next: None };
        rows.advance()?;
        Ok(rows)
    }

    fn advance(&mut self) -> Result<(), EngineError> {
        self.next = self.cursor.next()?.map(|(key, value)| (key.to_vec(), value.to_vec()));
        Ok(())
    }

    /// Whether there is a next row and it is like this; told by its table and row key.
    fn next_is(&self, like: impl Fn(u32, &[u8]) -> bool) -> bool {
        let name = self.next.as_ref().and_then(|(key, _)| key.split_first_chunk());
        name.is_some_and(|(table, key)| like(u32::from_be_bytes(*table), key))
    }

    /// Folds the next row's events that stand behind `at` over the stored row.
    fn folded(
        &mut self,
        stored: &mut Stored,
        table: &impl Fn(u32) -> Option<Arc<Table>>,
        at: u64,
    ) -> Result<LargeRow, FoldError> {
        let damaged = || EngineError::damaged("spool", "sorted change");
        let name = self.next.as_ref().map(|(name, _)| name.clone()).ok_or_else(damaged)?;
        let (number, key) = name.split_first_chunk().ok_or_else(damaged)?;
        let number = u32::from_be_bytes(*number);
        let home = table(number).ok_or_else(damaged)?;
        let before = stored.row(&home, key)?;
        let mut after = before.clone().filter(|_| at == 0);
        while let Some((_, event)) = self.next.take_if(|(next, _)| *next == name) {
            let (sequence, event) = decode(&event).ok_or_else(damaged)?;
            if sequence >= at {
                after = apply(event, after).map_err(|()| FoldError::Incomplete(number))?;
            }
            self.advance()?;
        }
        Ok(LargeRow { table: number, key: key.to_vec(), before, after })
    }
}

/// The row behind an event; an error when the event leaves out what no row has.
fn apply(event: Event<'_>, row: Option<StoredRow>) -> Result<Option<StoredRow>, ()> {
    Ok(match event {
        Event::Delete => match row {
            Some(row) if row.copies > 1 => Some(StoredRow { copies: row.copies - 1, row: row.row }),
            _ => None,
        },
        Event::Add(new) => {
            let copies = row.map_or(0, |r| r.copies) + 1;
            Some(StoredRow { copies, row: Row::from_encoded(new) })
        }
        Event::Set(new) => {
            let view = RowRef::new(new);
            let row = if view.has_absent() {
                let from = row.ok_or(())?;
                complete(&view, &from.row.view())
            } else {
                view.to_row()
            };
            Some(StoredRow { copies: 1, row })
        }
    })
}

/// Reads a sorted event; a door of [`crate::fuzzing`].
pub(crate) fn fuzz_event(value: &[u8]) {
    let _ = decode(value);
}

fn decode(mut value: &[u8]) -> Option<(u64, Event<'_>)> {
    let kind = take(&mut value, 1)?[0];
    let sequence = varint::take(&mut value)?;
    let event = match kind {
        SET => Event::Set(value),
        DELETE => Event::Delete,
        ADD => Event::Add(value),
        _ => return None,
    };
    Some((sequence, event))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::Sink;
    use crate::testing::{relation, row, table};
    use hw_store::{Simulation, Store};
    use hw_types::row::{Cell, RowBuilder};

    /// Most memory that this process ever used (each test is one), in MB.
    fn peak() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
    }

    /// What a first change of the row leaves out is in the replica, what a second one does in the first.
    #[test]
    fn f_24_a_row_that_changes_and_moves_keeps_what_the_log_leaves_out() {
        let store = Store::simulated(&Simulation::new());
        let mut overlay = Overlay::new(store.clone());
        let table = Arc::new(table(&store, 1, &relation(1, "t", &["id", "list", "text"])));
        let stored = row(&[Some("a"), Some("l1"), Some("large")]);
        let value = StoredRow::encode(1, stored.as_bytes());
        overlay.put(&table.rows, table.key(&stored.view()), value).unwrap();
        overlay.commit().unwrap();
        let partial = |id: &str, list: &str| {
            let mut row = RowBuilder::new();
            row.push(Cell::Value(id.as_bytes()));
            row.push(Cell::Value(list.as_bytes()));
            row.push(Cell::Absent);
            row.finish()
        };
        let old = Some(row(&[Some("a"), None, None]));
        let changes = [
            ChangeKind::Update { old: None, new: partial("a", "l2") },
            ChangeKind::Update { old, new: partial("b", "l3") },
        ];
        let mut again = Again::default();
        let mut sorted = loop {
            let mut fold = LargeFold::new(Sorter::new(store.spool(), 1 << 20), again);
            for change in changes.clone() {
                fold.change(&table, change, &overlay).unwrap();
            }
            again = std::mem::take(&mut fold.again);
            if !again.needed() {
                break fold.finish().unwrap();
            }
        };
        let mut rows = Vec::new();
        let each = |row: LargeRow| {
            rows.push(row.after.map(|after| after.row));
            Ok(())
        };
        sorted.read(&overlay, |_| Some(table.clone()), each).unwrap();
        assert_eq!(rows, [None, Some(row(&[Some("b"), Some("l3"), Some("large")]))]);
    }

    #[test]
    fn fd_41_a_wide_row_that_is_rewritten_often_is_held_once() {
        let store = Store::simulated(&Simulation::new());
        let overlay = Overlay::new(store.clone());
        let table = Arc::new(table(&store, 1, &relation(1, "t", &["id", "text"])));
        let mut fold = LargeFold::new(Sorter::new(store.spool(), 1 << 20), Again::default());
        let text = |n: u64| format!("{n}").repeat(1 << 20);
        for n in 0..200 {
            let new = row(&[Some("a"), Some(&text(n % 10))]);
            fold.change(&table, ChangeKind::Update { old: None, new }, &overlay).unwrap();
        }
        let before = peak();
        let mut rows = Vec::new();
        fold.finish()
            .unwrap()
            .read(
                &overlay,
                |_| Some(table.clone()),
                |row| {
                    rows.push(row);
                    Ok(())
                },
            )
            .unwrap();
        let [LargeRow { before: None, after: Some(after), .. }] = &rows[..] else {
            panic!("one row that is new")
        };
        assert_eq!(after.row, row(&[Some("a"), Some(&text(9))]));
        assert!(peak() < before + 50, "{before} MB, then {} MB for 200 MB of versions", peak());
    }
}
