//! Where the tables that clients know are written: what the sync configuration merely passes on,
//! and what `uploads.tables` says.
//!
//! In: a compiled sync configuration and the settings. Out: an [`UploadMap`]. Invariant: only a
//! column that reaches clients unchanged, under its own name or another, is written back by itself;
//! everything else is refused by name until `uploads.tables` says where it goes.

use std::collections::{BTreeMap, BTreeSet};

use hw_expr::sync_config::{OutputOrigin, OutputStar, OutputTable, SyncConfig};
use hw_types::TableName;
use hw_write::{ColumnMap, ColumnTarget, ConflictPolicy, MappedTable, TableTarget, UploadMap};

use crate::config::{Conflict, UploadTable};

/// Makes the map. The settings have the last word.
pub fn make(sync: Option<&SyncConfig>, settings: &BTreeMap<String, UploadTable>) -> UploadMap {
    let mut targets: BTreeMap<String, TableTarget> = BTreeMap::new();
    for output in sync.map(SyncConfig::outputs).unwrap_or_default() {
        let Some((name, target)) = sent(&output) else { continue };
        let target = match targets.remove(&name) {
            Some(known) => merge(known, target),
            None => target,
        };
        targets.insert(name, target);
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

/// What one data query says about its table; `None` when not even its name is known, because it
/// is that of every table that fits a pattern.
fn sent(output: &OutputTable) -> Option<(String, TableTarget)> {
    let source = &output.source;
    if source.is_wildcard() {
        let several = TableTarget::NotPlain("it is sent from several tables".to_owned());
        return Some((output.name.clone()?, several));
    }
    let name = output.name.clone().unwrap_or_else(|| source.table.text.clone());
    let listed = output.columns.iter().map(|column| {
        let target = match &column.origin {
            OutputOrigin::Column(source) => ColumnTarget::Column(source.clone()),
            OutputOrigin::Computed => ColumnTarget::Expression,
        };
        (column.name.clone(), target)
    });
    let table = MappedTable {
        source: TableName::new(&source.schema.text, &source.table.text),
        columns: ColumnMap {
            same_names: output.star != OutputStar::None,
            listed: listed.collect(),
        },
        conflict: ConflictPolicy::default(),
    };
    Some((name, TableTarget::Table(table)))
}

/// Two queries may send one table. A column that they take from different places has no way back.
fn merge(one: TableTarget, other: TableTarget) -> TableTarget {
    let (TableTarget::Table(one), TableTarget::Table(other)) = (&one, &other) else {
        return match one {
            TableTarget::NotPlain(_) => one,
            TableTarget::Table(_) => other,
        };
    };
    if one.source != other.source {
        return TableTarget::NotPlain("several tables are sent under this name".to_owned());
    }
    let says = |map: &ColumnMap, name: &String| match map.listed.get(name) {
        Some(target) => Some(target.clone()),
        None => map.same_names.then(|| ColumnTarget::Column(name.clone())),
    };
    let names: BTreeSet<&String> =
        one.columns.listed.keys().chain(other.columns.listed.keys()).collect();
    let listed = names.into_iter().filter_map(|name| {
        let target = match (says(&one.columns, name), says(&other.columns, name)) {
            (Some(a), Some(b)) if a == b => a,
            (Some(_), Some(_)) => ColumnTarget::Expression,
            (a, b) => a.or(b)?,
        };
        Some((name.clone(), target))
    });
    let columns = ColumnMap {
        same_names: one.columns.same_names || other.columns.same_names,
        listed: listed.collect(),
    };
    TableTarget::Table(MappedTable { columns, ..one.clone() })
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
    fn columns_are_written_back_when_they_are_renamed_and_refused_when_they_are_computed() {
        let sync = sync("SELECT id, title AS heading, upper(name) AS name FROM notes");
        let notes = table(&make(Some(&sync), &BTreeMap::new()), "notes");
        assert!(!notes.columns.same_names);
        assert_eq!(notes.columns.listed["heading"], ColumnTarget::Column("title".into()));
        assert_eq!(notes.columns.listed["name"], ColumnTarget::Expression);
        assert_eq!(notes.columns.listed["id"], ColumnTarget::Column("id".into()));
    }

    #[test]
    fn what_two_queries_take_from_different_places_has_no_way_back() {
        let text = "config:\n  edition: 3\nstreams:\n  a:\n    queries:\n      \
                    - SELECT * FROM notes WHERE a = auth.user_id()\n      \
                    - SELECT id, a, title AS name FROM notes\n      \
                    - SELECT * FROM other AS twice\n      \
                    - SELECT * FROM another AS twice\n";
        let sync = SyncConfig::load(text, "sync.yaml", None).config.expect("valid");
        let map = make(Some(&sync), &BTreeMap::new());
        let notes = table(&map, "notes");
        assert_eq!(notes.columns.listed["a"], ColumnTarget::Column("a".into()));
        assert_eq!(notes.columns.listed["name"], ColumnTarget::Expression);
        assert!(notes.columns.same_names);
        assert!(matches!(map.get("twice"), Some(TableTarget::NotPlain(_))));
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
