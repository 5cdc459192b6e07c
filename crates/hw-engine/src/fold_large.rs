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
            RowChange::Add { key, row } | RowChange::Set { key, row } => self.set(table, key, row),
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
                    Some(row) => self.set(table, to, row),
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

    fn set(&mut self, table: &Table, key: Vec<u8>, new: Row) -> Result<(), FoldError> {
        let name = (table.record.number, key);
        if let Some(state) = self.followed.get_mut(&name) {
            let complete = match state {
                Some(Some(before)) if new.view().has_absent() => {
                    complete(&new.view(), &before.view())
                }
                _ => new.clone(),
            };
            *state = Some(Some(complete));
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
    /// Calls `each` for every row, ordered by table number and row key. `table` finds the table,
    /// `base` holds the state before.
    pub fn read(
        &mut self,
        base: &Overlay,
        table: impl Fn(u32) -> Option<Arc<Table>>,
        mut each: impl FnMut(LargeRow) -> Result<(), FoldError>,
    ) -> Result<(), FoldError> {
        let snapshot = base.store().snapshot();
        let mut truncated: Vec<(u32, u64)> = self.truncated.iter().map(|(t, s)| (*t, *s)).collect();
        truncated.sort_unstable();
        let cursor = self.runs.cursor().map_err(EngineError::from)?;
        let mut events = Events { cursor, ahead: None };
        let mut next = events.next_row()?;
        // Rows of truncated tables that no event names are gone too: both streams are merged.
        for (number, at) in
            truncated.into_iter().map(|(n, s)| (n, Some(s))).chain([(u32::MAX, None)])
        {
            while let Some(row) = next.take_if(|row| row.table < number) {
                each(row.folded(base, &table, 0)?)?;
                next = events.next_row()?;
            }
            let (Some(at), Some(emptied)) = (at, table(number)) else { continue };
            for entry in snapshot.all(&emptied.rows) {
                let (key, value) = entry.map_err(EngineError::from)?;
                while let Some(row) = next.take_if(|r| r.table == number && r.key[..] < key[..]) {
                    each(row.folded(base, &table, at)?)?;
                    next = events.next_row()?;
                }
                match next.take_if(|r| r.table == number && r.key[..] == key[..]) {
                    Some(row) => {
                        each(row.folded(base, &table, at)?)?;
                        next = events.next_row()?;
                    }
                    None => each(LargeRow {
                        table: number,
                        key: key.to_vec(),
                        before: Some(StoredRow::decode(&value)?),
                        after: None,
                    })?,
                }
            }
            while let Some(row) = next.take_if(|row| row.table == number) {
                each(row.folded(base, &table, at)?)?;
                next = events.next_row()?;
            }
        }
        Ok(())
    }
}

/// The events of one row.
struct RowEvents {
    table: u32,
    key: Vec<u8>,
    events: Vec<Vec<u8>>,
}

impl RowEvents {
    /// Folds the events that stand behind `at` over the stored row.
    fn folded(
        self,
        base: &Overlay,
        table: &impl Fn(u32) -> Option<Arc<Table>>,
        at: u64,
    ) -> Result<LargeRow, FoldError> {
        let damaged = || EngineError::damaged("spool", "sorted change");
        let home = table(self.table).ok_or_else(damaged)?;
        let stored = base.get(&home.rows, &self.key)?;
        let before = stored.map(|value| StoredRow::decode(&value)).transpose()?;
        let mut after = before.clone().filter(|_| at == 0);
        for event in &self.events {
            let (sequence, event) = decode(event).ok_or_else(damaged)?;
            if sequence < at {
                continue;
            }
            after = match event {
                Event::Delete => match after {
                    Some(row) if row.copies > 1 => {
                        Some(StoredRow { copies: row.copies - 1, row: row.row })
                    }
                    _ => None,
                },
                Event::Add(row) => {
                    let copies = after.as_ref().map_or(0, |r| r.copies) + 1;
                    Some(StoredRow { copies, row: Row::from_encoded(row) })
                }
                Event::Set(row) => {
                    let view = RowRef::new(row);
                    let row = if view.has_absent() {
                        let from = after.ok_or(FoldError::Incomplete(self.table))?;
                        complete(&view, &from.row.view())
                    } else {
                        view.to_row()
                    };
                    Some(StoredRow { copies: 1, row })
                }
            };
        }
        Ok(LargeRow { table: self.table, key: self.key, before, after })
    }
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

/// Groups sorted events by row.
struct Events {
    cursor: SortedCursor,
    ahead: Option<(Vec<u8>, Vec<u8>)>,
}

impl Events {
    fn next_row(&mut self) -> Result<Option<RowEvents>, EngineError> {
        let first = match self.ahead.take() {
            Some(entry) => Some(entry),
            None => self.cursor.next()?.map(|(k, v)| (k.to_vec(), v.to_vec())),
        };
        let Some((key, value)) = first else { return Ok(None) };
        let mut events = vec![value];
        while let Some((k, value)) = self.cursor.next()? {
            if k != key {
                self.ahead = Some((k.to_vec(), value.to_vec()));
                break;
            }
            events.push(value.to_vec());
        }
        let table = key.get(..4).and_then(|k| k.try_into().ok()).map(u32::from_be_bytes);
        let table = table.ok_or_else(|| EngineError::damaged("spool", "sorted change"))?;
        Ok(Some(RowEvents { table, key: key[4..].to_vec(), events }))
    }
}
