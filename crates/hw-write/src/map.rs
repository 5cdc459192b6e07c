//! From the names that a client knows to the tables and columns of the source.
//!
//! Built from the active sync configuration (plain renames only) and the `uploads.tables` map.
//! What is in neither is rejected by name: clients never choose a table freely.

use std::collections::{BTreeMap, HashMap};

use hw_types::TableName;

/// The client's name of the column that identifies a row.
pub(crate) const ID: &str = "id";

/// Where each output table of the sync configuration is written.
#[derive(Clone, Debug)]
pub struct UploadMap {
    tables: HashMap<String, TableTarget>,
    unknown: Unknown,
}

/// What becomes of a write to a table that the map does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// It is rejected: the configuration is complete.
    Rejected,
    /// It has to come again: no configuration is served yet, so nobody knows.
    Waits,
}

/// Where one output table is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableTarget {
    /// To this table.
    Table(MappedTable),
    /// Nowhere: the definition is more than a rename. The reason completes the sentence
    /// `table "t" cannot be written: …`.
    NotPlain(String),
    /// Nowhere yet: a sync configuration that has it is being built.
    Waits,
}

/// A source table with the way its columns are named for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedTable {
    /// The source table.
    pub source: TableName,
    /// Its columns.
    pub columns: ColumnMap,
    /// How the output column `id` is made of key columns, when it is more than one column under
    /// its own or another name. Empty: as `columns` has it.
    pub id: Vec<IdPart>,
    /// Whether a column `id` of the table, if it has one, is what clients know instead.
    pub id_yields: bool,
    /// What happens when another writer was first.
    pub conflict: ConflictPolicy,
    /// The columns of a sync configuration that is being built; writes to those that only it has
    /// wait for it.
    pub to_come: Option<ColumnMap>,
}

/// A part of an id that is made of several parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdPart {
    /// The value of this source column.
    Column(String),
    /// This text, which is not empty.
    Text(String),
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
    /// A map without tables.
    pub fn new(unknown: Unknown) -> UploadMap {
        UploadMap { tables: HashMap::new(), unknown }
    }

    /// What becomes of a write to a table that the map does not have.
    pub fn unknown(&self) -> Unknown {
        self.unknown
    }

    /// The output tables and where each is written.
    pub fn tables(&self) -> impl Iterator<Item = (&str, &TableTarget)> {
        self.tables.iter().map(|(name, target)| (name.as_str(), target))
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
}

impl MappedTable {
    /// A table that is written under the same names.
    pub fn plain(source: TableName, conflict: ConflictPolicy) -> MappedTable {
        MappedTable {
            source,
            columns: ColumnMap { same_names: true, ..ColumnMap::default() },
            id: Vec::new(),
            id_yields: false,
            conflict,
            to_come: None,
        }
    }
}

impl ColumnMap {
    /// Whether an output column is known, computed ones too.
    pub fn knows(&self, output: &str) -> bool {
        self.target(output).is_some()
    }

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
