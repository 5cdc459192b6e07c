//! Where the tables that clients know are written: what the sync configuration merely passes on,
//! and what `uploads.tables` says.
//!
//! In: a compiled sync configuration and the settings. Out: an [`UploadMap`]. Invariant: only a
//! column that reaches clients unchanged under its own name is written back by itself; everything
//! else is refused by name until `uploads.tables` says where it goes.

use std::collections::BTreeMap;

use hw_engine::write::{
    ColumnMap, ColumnTarget, ConflictPolicy, MappedTable, TableTarget, UploadMap,
};
use hw_expr::sync_config::{CatalogColumn, CatalogTable, SyncConfig};
use hw_types::{PgType, TableName};

use crate::config::{Conflict, UploadTable};

/// A column name that no table has; where it comes out, the query says `*`.
const ANY_COLUMN: &str = "\u{1}any column";

/// Makes the map. The settings have the last word.
pub fn make(sync: Option<&SyncConfig>, settings: &BTreeMap<String, UploadTable>) -> UploadMap {
    let mut targets: BTreeMap<String, TableTarget> = BTreeMap::new();
    if let Some(sync) = sync {
        for source in source_tables(sync) {
            for (output, columns) in outputs(sync, &source) {
                let mapped =
                    MappedTable { source: source.clone(), columns, conflict: Default::default() };
                targets
                    .entry(output)
                    .and_modify(|known| merge(known, &mapped))
                    .or_insert(TableTarget::Table(mapped));
            }
        }
    }
    for (output, setting) in settings {
        let target = configured(output, setting, targets.get(output));
        targets.insert(output.clone(), target);
    }
    let mut map = UploadMap::new();
    for (output, target) in targets {
        map.insert(output, target);
    }
    map
}

/// The source tables whose rows are sent, without those that are only looked up.
fn source_tables(sync: &SyncConfig) -> Vec<TableName> {
    let mut tables: Vec<TableName> = sync
        .sources()
        .iter()
        .flat_map(|source| source.tables())
        .filter(|pattern| !pattern.is_wildcard())
        .map(|pattern| TableName::new(&pattern.schema.text, &pattern.table.text))
        .collect();
    tables.sort();
    tables.dedup();
    tables
}

/// Two definitions may send one table. The same source is united; two sources are ambiguous.
fn merge(known: &mut TableTarget, other: &MappedTable) {
    let TableTarget::Table(table) = known else { return };
    if table.source != other.source {
        *known = TableTarget::NotPlain("several tables are sent under this name".to_owned());
        return;
    }
    table.columns.same_names |= other.columns.same_names;
    table.columns.listed.extend(other.columns.listed.clone());
}

/// The output tables that one source table is sent as, with their columns.
///
/// The configuration is asked how the types of its outputs follow those of a column of the same
/// name: one that follows every type is that column.
fn outputs(sync: &SyncConfig, source: &TableName) -> Vec<(String, ColumnMap)> {
    let schema_with = |columns: Vec<(String, PgType)>| {
        let columns =
            columns.into_iter().map(|(name, pg_type)| CatalogColumn { name, pg_type }).collect();
        sync.client_schema(&[CatalogTable { name: source.clone(), columns }])
    };
    let bare = schema_with(vec![(ANY_COLUMN.to_owned(), PgType::TEXT)]);
    bare.into_iter()
        .map(|output| {
            let named: Vec<String> = output
                .columns
                .iter()
                .map(|(name, _)| name.clone())
                .filter(|name| name != ANY_COLUMN)
                .collect();
            let same_names = output.columns.len() > named.len();
            let follows = |column: &str| {
                [(PgType::Bool, "integer"), (PgType::Float8, "real"), (PgType::TEXT, "text")]
                    .into_iter()
                    .all(|(pg_type, expected)| {
                        schema_with(vec![(column.to_owned(), pg_type)])
                            .iter()
                            .filter(|table| table.name == output.name)
                            .flat_map(|table| &table.columns)
                            .any(|(name, found)| name == column && *found == expected)
                    })
            };
            let listed = named
                .into_iter()
                .map(|name| {
                    let target = match follows(&name) {
                        true => ColumnTarget::Column(name.clone()),
                        false => ColumnTarget::Expression,
                    };
                    (name, target)
                })
                .chain([("id".to_owned(), ColumnTarget::Column("id".to_owned()))])
                .collect();
            (output.name, ColumnMap { same_names, listed })
        })
        .collect()
}

fn configured(output: &str, setting: &UploadTable, known: Option<&TableTarget>) -> TableTarget {
    let conflict = match setting.conflict {
        Conflict::LastWriteWins => ConflictPolicy::LastWriteWins,
        Conflict::Reject => ConflictPolicy::RejectIfChanged,
    };
    let mut table = match (&setting.table, known) {
        (None, Some(TableTarget::Table(known))) => known.clone(),
        (table, _) => {
            let name = table.as_deref().unwrap_or(output);
            let (schema, name) = name.split_once('.').unwrap_or(("public", name));
            MappedTable {
                source: TableName::new(schema, name),
                columns: ColumnMap { same_names: true, ..ColumnMap::default() },
                conflict,
            }
        }
    };
    table.conflict = conflict;
    for (output, column) in &setting.columns {
        table.columns.listed.insert(output.clone(), ColumnTarget::Column(column.clone()));
    }
    TableTarget::Table(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sync(query: &str) -> SyncConfig {
        let text = format!("config:\n  edition: 3\nstreams:\n  s:\n    query: {query}\n");
        let loaded = SyncConfig::load(&text, "sync.yaml", None);
        loaded.config.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics))
    }

    fn table(map: &UploadMap, output: &str) -> MappedTable {
        match map.get(output) {
            Some(TableTarget::Table(table)) => table.clone(),
            other => panic!("{output}: {other:?}"),
        }
    }

    #[test]
    fn a_star_is_written_back_by_name() {
        let sync = sync("SELECT * FROM todos WHERE list_id IN (SELECT id FROM lists)");
        let map = make(Some(&sync), &BTreeMap::new());
        let todos = table(&map, "todos");
        assert_eq!(todos.source, TableName::new("public", "todos"));
        assert!(todos.columns.same_names);
        assert_eq!(map.get("lists"), None, "a table that is only looked up is not written");
    }

    #[test]
    fn columns_are_written_back_when_they_are_passed_on_and_refused_when_they_are_computed() {
        let sync = sync("SELECT id, title, upper(name) AS name FROM notes");
        let notes = table(&make(Some(&sync), &BTreeMap::new()), "notes");
        assert!(!notes.columns.same_names);
        assert_eq!(notes.columns.listed["title"], ColumnTarget::Column("title".into()));
        assert_eq!(notes.columns.listed["name"], ColumnTarget::Expression);
        assert_eq!(notes.columns.listed["id"], ColumnTarget::Column("id".into()));
    }

    #[test]
    fn the_settings_have_the_last_word() {
        let sync = sync("SELECT id, upper(name) AS name FROM notes");
        let setting = UploadTable {
            table: Some("app.real_notes".into()),
            columns: [("name".to_owned(), "title".to_owned())].into(),
            conflict: Conflict::Reject,
        };
        let notes = table(&make(Some(&sync), &[("notes".to_owned(), setting)].into()), "notes");
        assert_eq!(notes.source, TableName::new("app", "real_notes"));
        assert_eq!(notes.columns.listed["name"], ColumnTarget::Column("title".into()));
        assert_eq!(notes.conflict, ConflictPolicy::RejectIfChanged);
    }
}
