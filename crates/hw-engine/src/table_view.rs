//! Tables as surfaces read them: rows by key, and all of them, in one published state.

use crate::error::EngineError;
use crate::tables::{StoredRow, Table, Tables};
use hw_store::Snapshot;
use hw_types::{Relation, TableName, TablePattern};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The tables of a state, and those that are to come.
#[derive(Default)]
pub(crate) struct ShownTables {
    pub tables: BTreeMap<TableName, Shown>,
    /// What definitions read and what is demanded.
    pub wanted: Vec<TablePattern>,
    /// Of these, what exists and cannot be replicated.
    pub refused: BTreeSet<TableName>,
    pub demanded: BTreeSet<TableName>,
}

/// A table of a state.
pub(crate) struct Shown {
    table: Arc<Table>,
    stands_still: bool,
}

/// The tables of the replica by name.
pub(crate) fn shown_tables(
    tables: &Tables,
    stands_still: impl Fn(u32) -> bool,
) -> BTreeMap<TableName, Shown> {
    let shown = |table: Arc<Table>| {
        let stands_still = stands_still(table.record.number);
        (table.record.relation.name.clone(), Shown { table, stands_still })
    };
    // By number: of two tables with one name the later one has taken it.
    tables.all().into_iter().map(shown).collect()
}

/// How a table stands in a published state.
pub enum TableState<'p> {
    /// It has entered, and can be read.
    Entered(TableView<'p>),
    /// It is to be replicated and has not entered yet, or nobody is answered from the state.
    Waits,
    /// It is to be replicated and cannot be; [`Engine::refusal`](crate::Engine::refusal) says why. Should
    /// that be mended, it enters.
    Refused,
    /// No definition reads it and nobody has demanded it.
    Unknown,
}

impl<'p> TableState<'p> {
    pub(crate) fn of(name: &TableName, shown: &'p ShownTables, snapshot: &'p Snapshot) -> Self {
        if shown.refused.contains(name) {
            return TableState::Refused;
        }
        match shown.tables.get(name) {
            Some(table) => TableState::Entered(TableView::new(table, snapshot)),
            None if shown.wanted.iter().any(|pattern| pattern.matches(name)) => TableState::Waits,
            None => TableState::Unknown,
        }
    }

    /// The table, if it can be read.
    pub fn entered(self) -> Option<TableView<'p>> {
        match self {
            TableState::Entered(view) => Some(view),
            TableState::Waits | TableState::Refused | TableState::Unknown => None,
        }
    }

    /// The table, if its rows, and what the log says of them, are all there is to know of it at the source.
    pub fn followed(self) -> Option<TableView<'p>> {
        self.entered().filter(|view| view.why_not_followed().is_none())
    }
}

/// A table in a published state.
#[derive(Clone, Copy)]
pub struct TableView<'p> {
    table: &'p Arc<Table>,
    stands_still: bool,
    snapshot: &'p Snapshot,
}

impl<'p> TableView<'p> {
    fn new(shown: &'p Shown, snapshot: &'p Snapshot) -> TableView<'p> {
        TableView { table: &shown.table, stands_still: shown.stands_still, snapshot }
    }

    /// Number of the table's incarnation, as in the change list: row keys of one number mean the same.
    pub fn number(&self) -> u32 {
        self.table.record.number
    }

    /// Its name and the columns of its rows. What the change list says of it behind this state has the
    /// same relation, until it says that the table is unknown.
    pub fn relation(&self) -> &'p Arc<Relation> {
        &self.table.record.relation
    }

    /// Indexes of the columns of its row key, in key order.
    pub fn key_columns(&self) -> &'p [usize] {
        &self.table.key_columns
    }

    /// Whether equal rows may exist more than once: it has no key but all of its columns.
    pub fn has_multiplicity(&self) -> bool {
        self.table.multiple
    }

    /// Whether it cannot be followed at the moment. Its rows are those of the moment from which on that was
    /// so, for everybody, until it was copied again and compared; who may see them by what they were then, and
    /// not by what they are now, must not be shown anything on their account (E-4).
    pub fn stands_still(&self) -> bool {
        self.stands_still
    }

    /// Why its rows, and what the log says of them, are not all there is to know of it at the source; none
    /// if they are.
    pub fn why_not_followed(&self) -> Option<&'static str> {
        let sent = self.table.facts.as_ref().and_then(|facts| facts.published.sent());
        if self.stands_still {
            return Some("it cannot be followed at the moment");
        }
        if sent.is_some_and(|sent| sent.row_filter.is_some()) {
            return Some("its publication sends only the rows that pass a row filter (WHERE)");
        }
        None
    }

    /// The row under a key.
    ///
    /// - Errors: the store's.
    pub fn get(&self, key: &[u8]) -> Result<Option<StoredRow>, EngineError> {
        let value = self.snapshot.get(&self.table.rows, key)?;
        value.map(|value| StoredRow::decode(&value)).transpose()
    }

    /// All rows with their keys, by key.
    ///
    /// - Errors: the store's, in place of a row.
    pub fn rows(&self) -> impl Iterator<Item = Result<(Box<[u8]>, StoredRow), EngineError>> + 'p {
        self.snapshot.all(&self.table.rows).map(|entry| {
            let (key, value) = entry?;
            Ok((Box::from(&*key), StoredRow::decode(&value)?))
        })
    }
}
