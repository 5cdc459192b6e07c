//! Which source tables a query reads, and what is known about their columns.
//!
//! Source: `sync-rules.md` 5.3.

use crate::sql::ast::Ident;
use hw_types::pgtype::PgType;
use hw_types::{TableName, TablePattern};
use std::collections::BTreeSet;

/// A table of the source as `check` and the suggestions need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogTable {
    /// Schema and name.
    pub name: TableName,
    /// What it is.
    pub kind: CatalogKind,
    /// Columns in table order.
    pub columns: Vec<CatalogColumn>,
}

/// What a relation of the source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatalogKind {
    /// A table, whose changes are in the log.
    Table,
    /// Something else that one can select from, in words: `a view`.
    Other(&'static str),
}

/// A column of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogColumn {
    /// Name.
    pub name: String,
    /// Type.
    pub pg_type: PgType,
    /// Why the log does not carry it, if it does not.
    pub withheld: Option<Withheld>,
    /// The labels of an enum, or of the enum below a domain; empty for any other type.
    pub labels: Vec<String>,
}

impl CatalogColumn {
    /// A column that the log carries.
    pub fn new(name: impl Into<String>, pg_type: PgType) -> CatalogColumn {
        CatalogColumn { name: name.into(), pg_type, withheld: None, labels: Vec::new() }
    }
}

/// Why the log does not carry a column: what reads it is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// It is generated, and the publication does not publish generated columns.
    Generated,
    /// The publication has a column list without it.
    Unpublished,
}

/// What is read of the tables that a pattern means.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableRead {
    /// The tables.
    pub table: TablePattern,
    /// The columns that must be there for it to mean what it says, as far as a table has them: those that it
    /// names, and `id` where `*` gives it. All others of `*` are those that there are.
    pub columns: BTreeSet<String>,
    /// Whether `id` is one of them by `*` alone.
    pub id_of_star: bool,
}

impl TableRead {
    /// Of the columns those without which a table that is named as a whole says something else: a condition
    /// over NULL holds for other rows. Of the tables that a wildcard means each may lack some.
    pub fn required(&self) -> impl Iterator<Item = &String> {
        let is_meant = |column: &&String| !(self.id_of_star && *column == "id");
        let columns = self.columns.iter().filter(is_meant);
        columns.filter(|_| !self.table.is_wildcard())
    }
}

/// The pattern of `schema.name`; without a schema it is `default_schema`.
///
/// - Errors: a connection tag other than `default` (`"tag.schema"`), which names another
///   source database.
pub(super) fn pattern_of(
    schema: Option<&Ident>,
    name: &Ident,
    default_schema: &str,
) -> Result<TablePattern, String> {
    let schema = match schema {
        None => default_schema,
        Some(ident) if ident.quoted => match ident.name.split_once('.') {
            None => &ident.name,
            Some(("default", schema)) => schema,
            Some((tag, _)) => return Err(format!("there is no connection tagged \"{tag}\"")),
        },
        Some(ident) => &ident.name,
    };
    Ok(TablePattern::new(schema, &name.name))
}

/// What is known about the source, if anything.
#[derive(Clone, Copy)]
pub struct Catalog<'a>(pub Option<&'a [CatalogTable]>);

impl<'a> Catalog<'a> {
    /// The tables that a pattern means; `None` when nothing is known about the source.
    pub fn tables(self, pattern: &TablePattern) -> Option<Vec<&'a CatalogTable>> {
        let tables = self.all().filter(|t| t.kind == CatalogKind::Table);
        self.0.map(|_| tables.filter(|t| pattern.matches(&t.name)).collect())
    }

    /// Everything that is known.
    pub fn all(self) -> impl Iterator<Item = &'a CatalogTable> {
        self.0.unwrap_or(&[]).iter()
    }

    /// All names of tables, for suggestions.
    pub fn table_names(self) -> impl Iterator<Item = &'a str> {
        self.all().map(|t| t.name.name.as_str())
    }

    /// The labels that a column of the first table that a pattern means can have, if it is an
    /// enum.
    pub fn labels(self, pattern: &TablePattern, column: &str) -> &'a [String] {
        let tables = self.all().filter(|t| t.kind == CatalogKind::Table);
        tables
            .filter(|t| pattern.matches(&t.name))
            .flat_map(|t| &t.columns)
            .find(|c| c.name == column)
            .map_or(&[], |c| &c.labels)
    }
}
