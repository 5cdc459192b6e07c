//! The tables and columns that clients will see, inferred from the source's tables. Source:
//! `sync-rules.md` 16.

use super::data::{DataQuery, OutputItem};
use super::plan::{EachPart, RowName};
use super::table::CatalogTable;
use super::{DefinitionKind, SyncConfig};
use crate::routines::TypeSet;
use hw_types::pgtype::PgType;

/// A table as clients declare it. The column `id` is TEXT everywhere and not listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTable {
    /// Its name.
    pub name: String,
    /// Names and types (`text`, `integer`, `real`) of its columns.
    pub columns: Vec<(String, &'static str)>,
}

impl SyncConfig {
    /// The tables that clients see, given the source's tables.
    pub fn client_schema(&self, catalog: &[CatalogTable]) -> Vec<ClientTable> {
        let mut tables: Vec<(String, Vec<(String, TypeSet)>)> = Vec::new();
        for source in &self.sources {
            // Editions 1 and 2 keep the first definition of a column, edition 3 unites them.
            let unite = self.options.edition == 3
                && self.definitions[source.definition].kind == DefinitionKind::Stream;
            for query in &source.queries {
                for table in catalog.iter().filter(|t| query.table.matches(&t.name)) {
                    let name = query.output.as_ref().unwrap_or(&table.name.name);
                    let index = match tables.iter().position(|(n, _)| n == name) {
                        Some(index) => index,
                        None => {
                            tables.push((name.clone(), Vec::new()));
                            tables.len() - 1
                        }
                    };
                    for (column, types) in columns(query, table) {
                        let known = &mut tables[index].1;
                        match known.iter_mut().find(|(n, _)| *n == column) {
                            Some((_, set)) if unite => *set = set.union(types),
                            Some(_) => {}
                            None => known.push((column, types)),
                        }
                    }
                }
            }
        }
        tables
            .into_iter()
            .map(|(name, columns)| ClientTable {
                name,
                columns: columns
                    .into_iter()
                    .filter(|(name, _)| name != "id")
                    .map(|(name, types)| (name, types.client_type()))
                    .collect(),
            })
            .collect()
    }
}

/// The columns of one query over one table, each once.
fn columns(query: &DataQuery, table: &CatalogTable) -> Vec<(String, TypeSet)> {
    let of_column = |name: &str| {
        let found = table.columns.iter().find(|c| c.name == name);
        found.map_or(TypeSet::ANY, |c| types_of(&c.pg_type))
    };
    let mut out: Vec<(String, TypeSet)> = Vec::new();
    for item in &query.items {
        let found: Vec<(String, TypeSet)> = match item {
            OutputItem::Star => {
                table.columns.iter().map(|c| (c.name.clone(), types_of(&c.pg_type))).collect()
            }
            OutputItem::Named(name, value) => {
                let types = value.types(&|reference| match reference {
                    RowName::Column(name) => of_column(name),
                    RowName::Table(_) => TypeSet::TEXT,
                    RowName::Each(_, EachPart::Key) => TypeSet::INTEGER.union(TypeSet::TEXT),
                    RowName::Each(_, EachPart::Value) => TypeSet::ANY,
                });
                vec![(name.clone(), types)]
            }
        };
        for (name, types) in found {
            match out.iter_mut().find(|(n, _)| *n == name) {
                Some((_, set)) => *set = types,
                None => out.push((name, types)),
            }
        }
    }
    out
}

fn types_of(pg_type: &PgType) -> TypeSet {
    match pg_type.base() {
        PgType::Bool | PgType::Int2 | PgType::Int4 | PgType::Int8 | PgType::Oid => TypeSet::INTEGER,
        PgType::Float4 | PgType::Float8 => TypeSet::REAL,
        PgType::Bytea => TypeSet::BLOB,
        _ => TypeSet::TEXT,
    }
}
