//! `uploads.tables`: where the tables that clients know are written.
//!
//! In: a mapping of the file. Out: an [`UploadTable`] for each, or what is wrong with it, at its line.

use std::collections::BTreeMap;

use hw_types::Diagnostic;

use super::file::{Key, Node, Value};
use crate::code;

/// Where one table that clients know is written.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UploadTable {
    /// The source table, `schema.table`. Unset: the table of the same name in `public`.
    pub table: Option<String>,
    /// Source column by output column, where they differ.
    pub columns: BTreeMap<String, String>,
    /// Source columns that the clients' `id` is made of, where the sync configuration does not
    /// show it.
    pub key: Vec<String>,
    /// What stands between the columns of `key` in an id.
    pub separator: String,
    /// What happens when another writer was first.
    pub conflict: Conflict,
}

impl Default for UploadTable {
    fn default() -> UploadTable {
        UploadTable {
            table: None,
            columns: BTreeMap::new(),
            key: Vec::new(),
            separator: "/".to_owned(),
            conflict: Conflict::default(),
        }
    }
}

/// What happens to a write when somebody else changed the row since the client read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conflict {
    /// The last write of each column wins.
    #[default]
    LastWriteWins,
    /// The write is rejected when a previous value that the client tracked has changed.
    Reject,
}

/// What is wrong with the tables of a file, each at the entry that cannot be read.
pub fn wrong(tables: &[(Key, Node)]) -> impl Iterator<Item = Diagnostic> {
    tables.iter().filter(|(_, table)| !is_table(table)).map(|(name, table)| {
        let entries = match &table.value {
            Value::Map(entries) => entries.as_slice(),
            _ => &[],
        };
        let alone = |key: &Key, value: &Node| Node {
            value: Value::Map(vec![(key.clone(), value.clone())]),
            span: key.span.clone(),
        };
        let wrong = entries.iter().find(|(key, value)| !is_table(&alone(key, value)));
        let mut finding = bad(&format!("table \"{}\" of uploads.tables", name.text));
        finding.span = Some(wrong.map_or(&name.span, |(key, _)| &key.span).clone());
        finding
    })
}

fn is_table(node: &Node) -> bool {
    serde_json::from_value::<UploadTable>(node.to_json()).is_ok()
}

/// The finding for what cannot be read. serde's own text may quote the value.
pub fn bad(what: &str) -> Diagnostic {
    Diagnostic::error(code::CONFIG_VALUE, format!("{what} is not valid")).mend(
        "each output table has a mapping of table, columns, key, separator and conflict \
         (last_write_wins or reject)",
    )
}
