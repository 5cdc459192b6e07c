//! From the names that a client knows to the tables and columns of the source.
//!
//! Built from the active sync configuration (plain renames only) and the `uploads.tables` map.
//! What is in neither is rejected by name: clients never choose a table freely.

use std::collections::{BTreeMap, HashMap};

use hw_types::TableName;

/// Where each output table of the sync configuration is written.
#[derive(Clone, Debug, Default)]
pub struct UploadMap {
    tables: HashMap<String, TableTarget>,
}

/// Where one output table is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableTarget {
    /// To this table.
    Table(MappedTable),
    /// Nowhere: the definition is more than a rename. The reason completes the sentence
    /// `table "t" cannot be written: …`.
    NotPlain(String),
}

/// A source table with the way its columns are named for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedTable {
    /// The source table.
    pub source: TableName,
    /// Its columns. The output column `id` must lead to a unique column.
    pub columns: ColumnMap,
    /// What happens when another writer was first.
    pub conflict: ConflictPolicy,
}

/// From output columns to source columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnMap {
    /// Whether an output column that is not listed means the source column of its name
    /// (`SELECT *`). If not, it is unknown.
    pub same_names: bool,
    /// Output columns that are renamed or computed; they win over `same_names`.
    pub listed: BTreeMap<String, ColumnTarget>,
}

/// What an output column is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnTarget {
    /// The source column of this name.
    Column(String),
    /// Computed; cannot be written.
    Expression,
}

/// What happens to a write when somebody else changed the row since the client read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConflictPolicy {
    /// The last write of each column wins.
    #[default]
    LastWriteWins,
    /// The write is rejected when a previous value that the client tracked has changed.
    RejectIfChanged,
}

impl UploadMap {
    /// A map without tables: every write is rejected.
    pub fn new() -> UploadMap {
        UploadMap::default()
    }

    /// Says where an output table is written; the last word wins, so the configured `uploads`
    /// map goes in after the sync configuration.
    pub fn insert(&mut self, output_table: impl Into<String>, target: TableTarget) {
        self.tables.insert(output_table.into(), target);
    }

    /// Where an output table is written; `None`: it is not known.
    pub fn get(&self, output_table: &str) -> Option<&TableTarget> {
        self.tables.get(output_table)
    }

    /// The same, for changes to a table that is there.
    pub fn get_mut(&mut self, output_table: &str) -> Option<&mut TableTarget> {
        self.tables.get_mut(output_table)
    }
}

impl ColumnMap {
    /// What an output column means; `None`: the client's column is not known.
    pub(crate) fn target<'a>(&'a self, output: &'a str) -> Option<Target<'a>> {
        match self.listed.get(output) {
            Some(ColumnTarget::Column(name)) => Some(Target::Column(name)),
            Some(ColumnTarget::Expression) => Some(Target::Expression),
            None => self.same_names.then_some(Target::Column(output)),
        }
    }

    /// The output name of a source column, for messages; its own name when it has none.
    pub(crate) fn output_name<'a>(&'a self, source: &'a str) -> &'a str {
        let renamed = self
            .listed
            .iter()
            .find(|(_, target)| matches!(target, ColumnTarget::Column(column) if column == source));
        renamed.map_or(source, |(output, _)| output)
    }
}

/// A borrowed [`ColumnTarget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    Column(&'a str),
    Expression,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_columns_win_over_same_names() {
        let listed = [
            ("title".to_owned(), ColumnTarget::Column("name".into())),
            ("upper".to_owned(), ColumnTarget::Expression),
        ];
        let mut map = ColumnMap { same_names: true, listed: listed.into() };
        assert_eq!(map.target("title"), Some(Target::Column("name")));
        assert_eq!(map.target("upper"), Some(Target::Expression));
        assert_eq!(map.target("id"), Some(Target::Column("id")));
        assert_eq!((map.output_name("name"), map.output_name("id")), ("title", "id"));
        map.same_names = false;
        assert_eq!(map.target("id"), None);
    }
}
