//! Replicated tables, as the log and the catalog describe them.

use crate::pgtype::PgType;
use std::fmt;

/// The source's oid of a table. A table that is dropped and created again has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelationId(pub u32);

/// Schema and name of a table, unquoted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// Schema, for example `public`.
    pub schema: String,
    /// Table, for example `todos`.
    pub name: String,
}

impl TableName {
    /// A name from its two parts.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        TableName { schema: schema.into(), name: name.into() }
    }

    /// The name as SQL: both parts quoted, quotes doubled.
    pub fn quoted(&self) -> String {
        format!("{}.{}", quote_ident(&self.schema), quote_ident(&self.name))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// Quotes an SQL identifier, always with quotes.
pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes an SQL string constant; safe whatever `standard_conforming_strings` says.
pub fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!(" E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// What the log carries of the old row (`REPLICA IDENTITY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplicaIdentity {
    /// The primary key's columns.
    Default,
    /// The columns of a unique index.
    Index,
    /// All columns.
    Full,
    /// Nothing: updates and deletes cannot be replicated.
    Nothing,
}

/// One column of a [`Relation`], in the order in which the publication sends it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Column {
    /// Name, unquoted.
    pub name: String,
    /// The source's oid of the column's type.
    pub type_oid: u32,
    /// Type modifier (length of a bpchar, precision of a timestamp), -1 without.
    pub type_modifier: i32,
    /// The type, resolved: what the canonical bytes of a value mean.
    pub pg_type: PgType,
    /// Whether the log marks the column as part of the replica identity.
    pub identity: bool,
    /// Place in the primary key from 1, 0 outside of it. The catalog tells it, the log does not: 0 in
    /// what the log describes.
    pub primary_key: u16,
}

/// A replicated table as the log describes it at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Relation {
    /// The source's oid.
    pub id: RelationId,
    /// Schema and name.
    pub name: TableName,
    /// What the log carries of old rows.
    pub replica_identity: ReplicaIdentity,
    /// The published columns, in table order.
    pub columns: Vec<Column>,
}

impl Relation {
    /// Index of a column by exact name.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == name)
    }

    /// Indexes of the columns that identify a row: the primary key in its own order when the
    /// log's old tuple contains it (DEFAULT, FULL), else the identity columns, else nothing.
    ///
    /// FULL without a primary key gives all columns; the caller keeps a multiplicity.
    /// Source: `design/engine.md` 13.
    pub fn key_columns(&self) -> Vec<usize> {
        let mut primary: Vec<usize> =
            (0..self.columns.len()).filter(|&i| self.columns[i].primary_key > 0).collect();
        primary.sort_by_key(|&i| self.columns[i].primary_key);
        match self.replica_identity {
            ReplicaIdentity::Default => primary,
            ReplicaIdentity::Full if !primary.is_empty() => primary,
            ReplicaIdentity::Full => (0..self.columns.len()).collect(),
            ReplicaIdentity::Index => {
                (0..self.columns.len()).filter(|&i| self.columns[i].identity).collect()
            }
            ReplicaIdentity::Nothing => Vec::new(),
        }
    }

    /// Whether equal rows may exist more than once (FULL without a primary key).
    pub fn has_multiplicity(&self) -> bool {
        self.replica_identity == ReplicaIdentity::Full
            && self.columns.iter().all(|c| c.primary_key == 0)
    }
}
