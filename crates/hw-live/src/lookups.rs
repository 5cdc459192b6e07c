//! Tables that policies read beside their own, as they stand: memberships, parents. Kept in memory by what is
//! asked of them, and kept up to date from the list of changes (tier 2 of `design/engine.md` 11).
//!
//! A table is read once, when somebody's policies first need it, and again when something was done to it of which no
//! transaction tells. Invariant: of a table that is held, every transaction up to the place where it was read, and every
//! one that was followed since, is in it.

use hw_engine::{ChangedTable, Committed, EngineError, Published, Rows};
use hw_expr::postgres::{EvalError, Table, Tables, Type};
use hw_pg::rights::{Rights, TableRights};
use hw_types::row::RowRef;
use hw_types::{EndLsn, Relation, Row, TableName};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The tables that are held, by their oids.
#[derive(Default)]
pub(crate) struct Lookups {
    /// Bytes that all of them may have.
    limit: usize,
    tables: BTreeMap<u32, Lookup>,
    bytes: usize,
    /// One of them was read up to here: it is ahead of transactions before that.
    read_until: EndLsn,
    /// Those for which there is no memory, and since when.
    too_large: BTreeMap<u32, Instant>,
}

/// When it is tried again to hold a table for which there was no memory.
const TRIED_AGAIN: Duration = Duration::from_secs(300);

/// Memory of a row beside its bytes, roughly.
const PER_ROW: usize = 96;

/// One table.
struct Lookup {
    /// What was committed up to here was in it from the beginning.
    read_until: EndLsn,
    relation: Arc<Relation>,
    /// What the catalog said of it before.
    rights: TableRights,
    rows: HashMap<Box<[u8]>, Row>,
    /// By column: the keys of the rows that have a value. Made when it is first asked for.
    by_value: RefCell<BTreeMap<usize, ByValue>>,
}

type ByValue = HashMap<Vec<u8>, HashSet<Box<[u8]>>>;

/// A table that was read.
pub(crate) struct ReadTable {
    oid: u32,
    read_until: EndLsn,
    relation: Arc<Relation>,
    rows: HashMap<Box<[u8]>, Row>,
    bytes: usize,
}

/// Why a table is not held.
#[derive(Debug)]
pub(crate) enum NotHeld {
    /// It is not followed, or its columns are not those that policies name.
    NotFollowed,
    /// There is no memory for it.
    TooLarge,
    Failed,
}

impl From<EngineError> for NotHeld {
    fn from(_: EngineError) -> NotHeld {
        NotHeld::Failed
    }
}

/// The name of a table that conditions read.
pub(crate) fn name_of(table: &Table) -> TableName {
    TableName::new(&*table.name.0, &*table.name.1)
}

/// Whether the rows of the log have the columns that conditions read.
pub(crate) fn has_columns(relation: &Relation, columns: &[(String, Type)]) -> bool {
    let is_same = |(column, (name, ty)): (&hw_types::Column, &(String, Type))| {
        let of = Type::of(column.type_oid, &column.pg_type);
        column.name == *name && (of == *ty || *ty == Type::Other(column.type_oid))
    };
    relation.columns.len() == columns.len() && relation.columns.iter().zip(columns).all(is_same)
}

impl ReadTable {
    /// Which one.
    pub fn oid(&self) -> u32 {
        self.oid
    }

    /// Reads a table, all of it.
    ///
    /// - Takes: how many bytes it may have.
    pub fn read(published: &Published, table: &Table, limit: usize) -> Result<ReadTable, NotHeld> {
        let view = published.table(&name_of(table)).followed().ok_or(NotHeld::NotFollowed)?;
        // Another table may have taken the name meanwhile.
        let is_it = view.relation().id.0 == table.number;
        if !is_it || !has_columns(view.relation(), &table.columns) {
            return Err(NotHeld::NotFollowed);
        }
        let (mut rows, mut bytes) = (HashMap::new(), 0);
        for entry in view.rows() {
            let (key, row) = entry?;
            bytes += weight(&key, &row.row);
            if bytes > limit {
                return Err(NotHeld::TooLarge);
            }
            rows.insert(key, row.row);
        }
        let relation = view.relation().clone();
        let read_until = published.checkpoint.end_lsn;
        Ok(ReadTable { oid: table.number, read_until, relation, rows, bytes })
    }
}

impl Lookups {
    /// None yet, of so many bytes at most.
    pub fn new(limit: usize) -> Lookups {
        Lookups { limit, ..Lookups::default() }
    }

    pub fn has(&self, oid: u32) -> bool {
        self.tables.contains_key(&oid)
    }

    /// How many bytes all of them may have.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether it is of use to read a table: it is not held, and there may be memory for it.
    pub fn lacks(&self, oid: u32) -> bool {
        let is_too_large = self.too_large.get(&oid).is_some_and(|at| at.elapsed() < TRIED_AGAIN);
        !self.has(oid) && !is_too_large
    }

    /// Notes that there is no memory for a table: whom it concerns is asked.
    pub fn refuse(&mut self, oid: u32) {
        self.drop_table(oid);
        self.too_large.insert(oid, Instant::now());
    }

    /// Holds a table that was read.
    ///
    /// - Takes: who might see what before that.
    pub fn hold(&mut self, read: ReadTable, rights: &Rights) -> Result<(), NotHeld> {
        let ReadTable { oid, read_until, relation, rows, bytes } = read;
        self.drop_table(oid);
        if self.bytes + bytes > self.limit {
            self.refuse(oid);
            return Err(NotHeld::TooLarge);
        }
        self.bytes += bytes;
        self.read_until = self.read_until.max(read_until);
        let (rights, by_value) = (rights.of_tables([oid]), RefCell::default());
        self.tables.insert(oid, Lookup { read_until, relation, rights, rows, by_value });
        Ok(())
    }

    /// Keeps those of which the catalog says the same as before they were read.
    pub fn keep_as_of(&mut self, rights: &Rights) {
        let is_other = |(oid, lookup): &(&u32, &Lookup)| rights.of_tables([**oid]) != lookup.rights;
        let others = self.tables.iter().filter(is_other).map(|(oid, _)| *oid);
        others.collect::<Vec<u32>>().into_iter().for_each(|oid| self.drop_table(oid));
    }

    /// Forgets all of them, but for which there is no memory.
    pub fn forget(&mut self) {
        (self.tables, self.bytes) = Default::default();
        self.read_until = EndLsn::default();
    }

    /// Forgets a table.
    fn drop_table(&mut self, oid: u32) {
        if let Some(lookup) = self.tables.remove(&oid) {
            self.bytes -= lookup.rows.iter().map(|(key, row)| weight(key, row)).sum::<usize>();
        }
    }

    /// Keeps those that somebody still needs.
    pub fn retain(&mut self, is_needed: impl Fn(u32) -> bool) {
        let gone: Vec<u32> = self.tables.keys().copied().filter(|oid| !is_needed(*oid)).collect();
        gone.into_iter().for_each(|oid| self.drop_table(oid));
    }

    /// Up to where one of them may be ahead of transactions that are still to be told.
    pub fn read_until(&self) -> EndLsn {
        self.read_until
    }

    /// Takes what a transaction did to a table. One whose rows are not known any more is forgotten.
    pub fn apply(&mut self, one: &Committed, changed: &ChangedTable) {
        let oid = changed.relation.id.0;
        let Some(lookup) = self.tables.get_mut(&oid) else { return };
        if one.xid.is_some() && one.end_lsn <= lookup.read_until {
            return;
        }
        let is_known = Arc::ptr_eq(&lookup.relation, &changed.relation)
            || lookup.relation.columns == changed.relation.columns;
        let Rows::Known(rows) = &changed.rows else { return self.drop_table(oid) };
        if !is_known {
            return self.drop_table(oid);
        }
        for row in rows {
            let after = row.after.as_ref().map(|row| row.row.clone());
            self.bytes += after.as_ref().map_or(0, |after| weight(&row.key, after));
            self.bytes -= lookup.set(&row.key, after);
        }
        if self.bytes > self.limit {
            self.refuse(oid);
        }
    }
}

fn weight(key: &[u8], row: &Row) -> usize {
    2 * key.len() + row.as_bytes().len() + PER_ROW
}

impl Lookup {
    /// Replaces a row; returns how much the old one weighed.
    fn set(&mut self, key: &[u8], row: Option<Row>) -> usize {
        let before = match row.clone() {
            Some(row) => self.rows.insert(key.into(), row),
            None => self.rows.remove(key),
        };
        for (column, by_value) in self.by_value.get_mut() {
            if let Some(value) = before.as_ref().and_then(|row| value(row, *column))
                && let Some(keys) = by_value.get_mut(&value)
            {
                keys.remove(key);
                if keys.is_empty() {
                    by_value.remove(&value);
                }
            }
            if let Some(value) = row.as_ref().and_then(|row| value(row, *column)) {
                by_value.entry(value).or_default().insert(key.into());
            }
        }
        before.map_or(0, |row| weight(key, &row))
    }

    /// The keys of rows that have one of these values.
    fn having(&self, keys: &[(usize, Vec<u8>)]) -> HashSet<Box<[u8]>> {
        let mut by_value = self.by_value.borrow_mut();
        let mut found = HashSet::new();
        for (column, wanted) in keys {
            let by_value = by_value.entry(*column).or_insert_with(|| self.indexed(*column));
            found.extend(by_value.get(wanted).into_iter().flatten().cloned());
        }
        found
    }

    fn indexed(&self, column: usize) -> ByValue {
        let mut by_value = ByValue::default();
        for (key, row) in &self.rows {
            if let Some(value) = value(row, column) {
                by_value.entry(value).or_default().insert(key.clone());
            }
        }
        by_value
    }
}

fn value(row: &Row, column: usize) -> Option<Vec<u8>> {
    row.view().get(column).bytes().map(<[u8]>::to_vec)
}

const NOT_HELD: EvalError = EvalError("a table that policies read is not held");

impl Tables for Lookups {
    fn each(
        &self,
        table: u32,
        visit: &mut dyn FnMut(&RowRef<'_>) -> Result<bool, EvalError>,
    ) -> Result<(), EvalError> {
        for row in self.tables.get(&table).ok_or(NOT_HELD)?.rows.values() {
            if !visit(&row.view())? {
                break;
            }
        }
        Ok(())
    }

    fn each_having(
        &self,
        table: u32,
        keys: &[(usize, Vec<u8>)],
        visit: &mut dyn FnMut(&RowRef<'_>) -> Result<bool, EvalError>,
    ) -> Result<(), EvalError> {
        let lookup = self.tables.get(&table).ok_or(NOT_HELD)?;
        for key in lookup.having(keys) {
            if let Some(row) = lookup.rows.get(&key)
                && !visit(&row.view())?
            {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_for_which_there_is_no_memory_is_not_read_again_at_once() {
        let mut lookups = Lookups::new(1000);
        assert!(lookups.lacks(1));
        lookups.refuse(1);
        assert!(!lookups.lacks(1) && !lookups.has(1) && lookups.lacks(2));
        // Nor because policies have changed.
        lookups.forget();
        assert!(!lookups.lacks(1));
    }
}
