//! The tables of the replica as the writer knows them, and what is evaluated for each.

use crate::error::EngineError;
use crate::record::{bounded_key, take};
use crate::state::TableRecord;
use hw_expr::sync_config::{BoundLookup, BoundSource};
use hw_store::{Space, Store};
use hw_types::facts::TableFacts;
use hw_types::row::{Row, RowRef};
use hw_types::{PgType, Relation, RelationId, key, varint};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A table of the replica.
pub(crate) struct Table {
    pub record: TableRecord,
    /// The `rows` space of this incarnation.
    pub rows: Space,
    /// What its rows depend on, as noted; nothing that can be read is noted of no table.
    pub facts: Option<Arc<TableFacts>>,
    /// Columns of the row key, in key order.
    pub key_columns: Vec<usize>,
    /// Equal rows may exist more than once.
    pub multiple: bool,
}

/// What is evaluated for each row of a table: everything that is derived from it, by number.
#[derive(Default)]
pub(crate) struct TablePlan(pub Vec<Planned>);

/// An incarnation as it reads one table.
#[derive(Clone)]
pub(crate) struct Planned {
    pub number: u32,
    pub bound: Arc<Bound>,
}

/// What an incarnation computes, for the columns of one table.
pub(crate) enum Bound {
    Source(BoundSource),
    Lookup(BoundLookup),
}

impl TablePlan {
    /// Whether nobody reads the table.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The lookups that read nothing of a row that the log leaves out.
    pub fn evaluable(&self, row: &RowRef<'_>) -> TablePlan {
        let is_whole = |planned: &&Planned| match &*planned.bound {
            Bound::Lookup(bound) => bound.has_all_of(row),
            Bound::Source(_) => false,
        };
        TablePlan(self.0.iter().filter(is_whole).cloned().collect())
    }

    /// How an incarnation reads the table.
    pub fn find(&self, number: u32) -> Option<&Bound> {
        let place = self.0.binary_search_by_key(&number, |p| p.number).ok()?;
        Some(&self.0[place].bound)
    }
}

/// Gates of the incarnations that do not follow every change, by number; all others are open.
#[derive(Default)]
pub(crate) struct Gates(pub BTreeMap<u32, Gate>);

/// Which changes an incarnation follows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Gate {
    /// It is being built: it covers the rows up to and including this table and row key, and
    /// follows changes of these (`design/engine.md` 8: live apply serves a new definition only
    /// for keys already passed).
    Building { table: u32, key: Vec<u8> },
    /// It stands still: what rows were before their first change since is kept for it.
    Frozen,
}

/// What is done for an incarnation when a row changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passage {
    /// The change is evaluated.
    Open,
    /// It has not come so far.
    Shut,
    /// What the row was is kept.
    Held,
}

impl Gates {
    /// What is done for an incarnation when this row changes.
    pub fn passage(&self, number: u32, table: u32, key: &[u8]) -> Passage {
        match self.0.get(&number) {
            None => Passage::Open,
            Some(Gate::Frozen) => Passage::Held,
            Some(Gate::Building { table: to, key: last }) => {
                match (table, key) <= (*to, last.as_slice()) {
                    true => Passage::Open,
                    false => Passage::Shut,
                }
            }
        }
    }

    /// Whether a change of any row of this table would come to nothing: everything that reads it
    /// is being built and has not come so far.
    pub fn shut(&self, plan: &TablePlan, table: u32) -> bool {
        plan.0.iter().all(|planned| match self.0.get(&planned.number) {
            Some(Gate::Building { table: to, .. }) => *to < table,
            _ => false,
        })
    }

    /// Where the build of the least complete incarnation stands, with all that stand there; without those
    /// that are built later.
    pub fn least_complete(&self, later: &BTreeSet<u32>) -> Option<(Gate, BTreeSet<u32>)> {
        let is_now = |number: &u32, gate: &Gate| *gate != Gate::Frozen && !later.contains(number);
        let building = || self.0.iter().filter(|(number, gate)| is_now(number, gate));
        let least = building().map(|(_, gate)| gate).min()?.clone();
        let numbers = building().filter(|(_, gate)| **gate == least).map(|(n, _)| *n).collect();
        Some((least, numbers))
    }
}

/// A row as the `rows` space holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRow {
    /// How often it exists: 1, or more in a table without identity (REPLICA IDENTITY FULL).
    pub copies: u64,
    /// Its values.
    pub row: Row,
}

const ROW_V1: u8 = 1;

impl StoredRow {
    /// The value in the `rows` space.
    pub(crate) fn encode(copies: u64, row: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(row.len() + 3);
        out.push(ROW_V1);
        varint::put(&mut out, copies);
        out.extend_from_slice(row);
        out
    }

    /// Number of copies and the row's bytes.
    pub(crate) fn split(mut value: &[u8]) -> Result<(u64, &[u8]), EngineError> {
        let input = &mut value;
        let damaged = || EngineError::damaged("rows", "row");
        if take(input, 1).ok_or_else(damaged)? != [ROW_V1] {
            return Err(damaged());
        }
        let copies = varint::take(input).ok_or_else(damaged)?;
        Ok((copies, input))
    }

    /// Reads a value.
    pub(crate) fn decode(value: &[u8]) -> Result<StoredRow, EngineError> {
        let (copies, row) = StoredRow::split(value)?;
        Ok(StoredRow { copies, row: Row::from_encoded(row) })
    }
}

impl Table {
    /// Opens the table's space.
    pub fn open(store: &Store, record: TableRecord) -> Result<Table, EngineError> {
        let rows = store.space(&format!("rows.{}", record.number))?;
        let key_columns = record.relation.key_columns();
        let multiple = record.relation.has_multiplicity();
        let facts = TableFacts::decode(&record.facts).ok().map(Arc::new);
        Ok(Table { record, rows, facts, key_columns, multiple })
    }

    /// The table with the columns that a description in the log gives its rows. The primary key's
    /// places are not in the log and are taken from the stored relation; `None` when a column of it is
    /// not there, or is not part of what the log says of an old row.
    pub fn described(&self, seen: &Relation) -> Option<Table> {
        let mut relation = seen.clone();
        for key in self.record.relation.columns.iter().filter(|column| column.primary_key > 0) {
            let column = relation.columns.iter_mut().find(|column| column.name == key.name)?;
            column.primary_key = key.primary_key;
        }
        let key_columns = relation.key_columns();
        if !key_columns.iter().all(|&index| relation.columns[index].identity) {
            return None;
        }
        let multiple = relation.has_multiplicity();
        let record = TableRecord { relation: Arc::new(relation), ..self.record.clone() };
        Some(Table { record, rows: self.rows.clone(), facts: None, key_columns, multiple })
    }

    /// The row key.
    pub fn key(&self, row: &RowRef<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        key::row_key(&self.record.relation, &self.key_columns, row, &mut out);
        match bounded_key(&out) {
            Cow::Borrowed(_) => out,
            Cow::Owned(cut) => cut,
        }
    }
}

/// All tables of the replica. Cheap enough to clone for a large step.
#[derive(Clone, Default)]
pub(crate) struct Tables {
    by_number: HashMap<u32, Arc<Table>>,
    by_relation: HashMap<RelationId, u32>,
}

impl Tables {
    /// Adds or replaces a table.
    pub fn insert(&mut self, table: Table) {
        let number = table.record.number;
        // It may have another oid than before.
        self.by_relation.retain(|_, known| *known != number);
        self.by_relation.insert(table.record.relation.id, number);
        self.by_number.insert(number, Arc::new(table));
    }

    /// Forgets a table.
    pub fn remove(&mut self, number: u32) {
        if let Some(table) = self.by_number.remove(&number) {
            // Another table may have its oid by now.
            let id = table.record.relation.id;
            if self.by_relation.get(&id) == Some(&number) {
                self.by_relation.remove(&id);
            }
        }
    }

    pub fn get(&self, number: u32) -> Option<&Arc<Table>> {
        self.by_number.get(&number)
    }

    /// The table with the source's oid, entered or not.
    pub fn of_relation(&self, id: RelationId) -> Option<&Arc<Table>> {
        self.by_relation.get(&id).and_then(|number| self.by_number.get(number))
    }

    /// All tables by number.
    pub fn all(&self) -> Vec<Arc<Table>> {
        let mut all: Vec<_> = self.by_number.values().cloned().collect();
        all.sort_by_key(|t| t.record.number);
        all
    }
}

/// Whether the log describes a table as the replica knows it. The primary key's places are not
/// in the log and are taken from the stored relation.
pub(crate) fn same_shape(stored: &Relation, seen: &Relation) -> bool {
    stored.id == seen.id
        && stored.name == seen.name
        && stored.replica_identity == seen.replica_identity
        && stored.columns.len() == seen.columns.len()
        && stored.columns.iter().zip(&seen.columns).all(|(a, b)| {
            a.name == b.name
                && a.type_oid == b.type_oid
                && a.type_modifier == b.type_modifier
                && a.identity == b.identity
                && a.pg_type == b.pg_type
        })
}

/// Whether row keys of two incarnations mean the same.
pub(crate) fn same_identity(old: &Table, new: &Table) -> bool {
    let columns = |t: &Table| -> Vec<(String, PgType)> {
        let columns = &t.record.relation.columns;
        t.key_columns
            .iter()
            .map(|&i| (columns[i].name.clone(), columns[i].pg_type.clone()))
            .collect()
    };
    old.multiple == new.multiple && columns(old) == columns(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_lets_rows_pass_up_to_and_including_its_cursor() {
        let building = Gate::Building { table: 2, key: vec![5] };
        let gates = Gates(BTreeMap::from([(7, building), (8, Gate::Frozen)]));
        for (table, key, passage) in [
            (1, vec![9], Passage::Open),
            (2, vec![5], Passage::Open),
            (2, vec![5, 0], Passage::Shut),
            (3, vec![], Passage::Shut),
        ] {
            assert_eq!(gates.passage(7, table, &key), passage, "{table} {key:?}");
            assert_eq!(gates.passage(8, table, &key), Passage::Held);
            assert_eq!(gates.passage(9, table, &key), Passage::Open);
        }
    }

    #[test]
    fn stored_rows_round_trip() {
        let value = StoredRow::encode(3, &[2, 2]);
        assert_eq!(
            StoredRow::decode(&value).unwrap(),
            StoredRow { copies: 3, row: Row::from_encoded(&[2u8, 2][..]) }
        );
        assert!(StoredRow::decode(&[]).is_err());
    }
}
