//! Where the tables that clients know are written: what the sync configuration merely passes on,
//! and what `uploads.tables` says.
//!
//! In: the sync configuration that is served, the newest one that was given, the settings. Out: an
//! [`UploadMap`]. Invariants: only a column that reaches clients unchanged, under its own name or
//! another, is written back by itself, and only a key of columns with texts between them; everything
//! else is refused by name until `uploads.tables` says where it goes. What only the newest
//! configuration has, or only a definition that waits for its tables, waits until that is served.

use std::collections::{BTreeMap, BTreeSet};

use hw_expr::sync_config::{OutputOrigin, OutputPart, OutputStar, OutputTable, SyncConfig};
use hw_types::TableName;
use hw_write::{
    ColumnMap, ColumnTarget, ConflictPolicy, IdPart, MappedTable, TableTarget, Unknown, UploadMap,
};

use crate::config::upload_tables::{Conflict, UploadTable};

/// The output column that identifies a row.
const ID: &str = "id";

type Targets = BTreeMap<String, TableTarget>;

/// Makes the map. The settings have the last word.
///
/// - Takes: the configuration that is served; which of its definitions wait for tables, by their place; the newest
///   one that was given, which may be the same.
pub fn make(
    served: Option<&SyncConfig>,
    waits: impl Fn(usize) -> bool,
    given: Option<&SyncConfig>,
    settings: &BTreeMap<String, UploadTable>,
) -> UploadMap {
    let Some(served) = served else {
        // Nobody knows yet what else will be known.
        let mut map = UploadMap::new(Unknown::Waits);
        for (output, target) in targets(Vec::new(), settings) {
            map.insert(output, target);
        }
        for output in targets(outputs(given), &BTreeMap::new()).into_keys() {
            map.insert(output, TableTarget::Waits);
        }
        return map;
    };
    let is_served = |definition: usize| !waits(definition);
    let mut map = UploadMap::new(Unknown::Rejected);
    let mut now = targets(served.outputs_of(is_served), settings);
    // What is written there would not come back before it is served, whatever the settings say.
    let known = targets(served.outputs_of(is_served), &BTreeMap::new());
    let to_come = [outputs(Some(served)), outputs(given)].concat();
    for output in targets(to_come, &BTreeMap::new()).into_keys() {
        if !known.contains_key(&output) {
            now.insert(output, TableTarget::Waits);
        }
    }
    for (output, target) in targets(outputs(given), settings) {
        match (now.get_mut(&output), target) {
            (Some(TableTarget::Table(now)), TableTarget::Table(then)) if *now != then => {
                now.to_come = Some(then.columns);
            }
            (Some(TableTarget::Table(_)), _) => {}
            (Some(TableTarget::NotPlain(_)), TableTarget::NotPlain(_)) => {}
            // As it is served nobody can write it; as it was given clients can.
            _ => {
                now.insert(output, TableTarget::Waits);
            }
        }
    }
    for (output, target) in now {
        map.insert(output, target);
    }
    map
}

/// All that a configuration sends.
fn outputs(sync: Option<&SyncConfig>) -> Vec<OutputTable> {
    sync.map(SyncConfig::outputs).unwrap_or_default()
}

/// Where tables that are sent are written.
fn targets(outputs: Vec<OutputTable>, settings: &BTreeMap<String, UploadTable>) -> Targets {
    let mut targets = Targets::new();
    for output in outputs {
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
    targets
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
            // What yields may be one of two columns.
            OutputOrigin::Column(source) if !column.yields || *source == column.name => {
                ColumnTarget::Column(source.clone())
            }
            _ => ColumnTarget::Expression,
        };
        (column.name.clone(), target)
    });
    let id_column = output.columns.iter().find(|column| column.name == ID);
    let id = match id_column.map(|column| (&column.origin, column.yields)) {
        Some((OutputOrigin::Joined(parts), _)) => parts.iter().map(id_part).collect(),
        Some((OutputOrigin::Column(source), true)) => vec![IdPart::Column(source.clone())],
        _ => Vec::new(),
    };
    let source = TableName::new(&source.schema.text, &source.table.text);
    let table = MappedTable {
        columns: ColumnMap {
            same_names: output.star != OutputStar::None,
            listed: listed.collect(),
        },
        id_yields: id_column.is_some_and(|column| column.yields),
        id,
        ..MappedTable::plain(source, ConflictPolicy::default())
    };
    Some((name, TableTarget::Table(table)))
}

fn id_part(part: &OutputPart) -> IdPart {
    match part {
        OutputPart::Column(name) => IdPart::Column(name.clone()),
        OutputPart::Text(text) => IdPart::Text(text.clone()),
    }
}

/// Two queries may send one table. A column that they take from different places has no way back.
fn merge(one: TableTarget, other: TableTarget) -> TableTarget {
    let (TableTarget::Table(one), TableTarget::Table(other)) = (&one, &other) else {
        return if matches!(one, TableTarget::Table(_)) { other } else { one };
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
    let mut columns = ColumnMap {
        same_names: one.columns.same_names || other.columns.same_names,
        listed: listed.collect(),
    };
    let mut merged = one.clone();
    if (&one.id, one.id_yields) != (&other.id, other.id_yields) {
        merged.id.clear();
        merged.id_yields = false;
        columns.listed.insert(ID.to_owned(), ColumnTarget::Expression);
    }
    TableTarget::Table(MappedTable { columns, ..merged })
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
            MappedTable::plain(TableName::new(schema, name), conflict)
        }
    };
    table.conflict = conflict;
    if !setting.key.is_empty() {
        table.id = key(setting);
        table.id_yields = false;
    }
    for (output, column) in &setting.columns {
        table.columns.listed.insert(output.clone(), ColumnTarget::Column(column.clone()));
    }
    TableTarget::Table(table)
}

/// The id of a table whose key the settings name: its columns with the separator between them.
fn key(setting: &UploadTable) -> Vec<IdPart> {
    let mut parts = Vec::new();
    for column in &setting.key {
        if !parts.is_empty() {
            parts.push(IdPart::Text(setting.separator.clone()));
        }
        parts.push(IdPart::Column(column.clone()));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The map of a configuration that is served and the newest.
    fn map(sync: &SyncConfig, settings: &BTreeMap<String, UploadTable>) -> UploadMap {
        make(Some(sync), |_| false, Some(sync), settings)
    }

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
        let map = map(&sync, &BTreeMap::new());
        let todos = table(&map, "todos");
        assert_eq!(todos.source, TableName::new("public", "todos"));
        assert!(todos.columns.same_names);
        assert_eq!(map.get("lists"), None, "a table that is only looked up is not written");
    }

    #[test]
    fn columns_are_written_back_when_they_are_renamed_and_refused_when_they_are_computed() {
        let sync = sync("SELECT id, title AS heading, upper(name) AS name FROM notes");
        let notes = table(&map(&sync, &BTreeMap::new()), "notes");
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
        let map = map(&sync, &BTreeMap::new());
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
            ..UploadTable::default()
        };
        let notes = table(&map(&sync, &[("notes".to_owned(), setting)].into()), "notes");
        assert_eq!(notes.source, TableName::new("app", "real_notes"));
        assert_eq!(notes.columns.listed["name"], ColumnTarget::Column("title".into()));
        assert_eq!(notes.conflict, ConflictPolicy::RejectIfChanged);
    }

    #[test]
    fn an_id_that_joins_columns_is_taken_apart_and_the_settings_may_name_the_key() {
        let column = |name: &str| IdPart::Column(name.into());
        let text = |text: &str| IdPart::Text(text.into());
        let joined = sync("SELECT tenant || '/' || n AS id, * FROM notes");
        let notes = table(&map(&joined, &BTreeMap::new()), "notes");
        assert_eq!(notes.id, [column("tenant"), text("/"), column("n")]);
        assert!(notes.id_yields, "a column id of the table would win");
        let renamed = sync("SELECT uid AS id, * FROM notes");
        assert_eq!(table(&map(&renamed, &BTreeMap::new()), "notes").id, [column("uid")]);
        let computed = sync("SELECT lower(tenant) || '/' || n AS id, * FROM notes");
        assert_eq!(table(&map(&computed, &BTreeMap::new()), "notes").id, []);
        let setting = UploadTable {
            key: vec!["tenant".into(), "n".into()],
            separator: ":".into(),
            ..UploadTable::default()
        };
        let notes = table(&map(&computed, &[("notes".to_owned(), setting)].into()), "notes");
        assert_eq!(notes.id, [column("tenant"), text(":"), column("n")]);
    }

    #[test]
    fn fd_51_what_only_the_newest_configuration_has_waits_and_unknown_tables_while_none_is_served()
    {
        let old = sync("SELECT id, title FROM notes");
        let text = "config:\n  edition: 3\nstreams:\n  s:\n    queries:\n      \
                    - SELECT id, title, body FROM notes\n      - SELECT * FROM lists\n";
        let new = SyncConfig::load(text, "sync.yaml", None).config.expect("valid");
        let switching = make(Some(&old), |_| false, Some(&new), &BTreeMap::new());
        assert_eq!(switching.get("lists"), Some(&TableTarget::Waits));
        assert_eq!(switching.unknown(), Unknown::Rejected);
        let notes = table(&switching, "notes");
        assert!(!notes.columns.knows("body") && notes.to_come.expect("columns").knows("body"));
        let starting = make(None, |_| false, Some(&new), &BTreeMap::new());
        assert_eq!(starting.get("notes"), Some(&TableTarget::Waits));
        assert_eq!((starting.get("else"), starting.unknown()), (None, Unknown::Waits));
        let served = make(Some(&new), |_| false, Some(&new), &BTreeMap::new());
        assert_eq!((served.unknown(), table(&served, "notes").to_come), (Unknown::Rejected, None));
    }

    /// What is written to a table whose definition waits would be told as come back, and be gone.
    #[test]
    fn fd_51_what_only_a_definition_that_waits_sends_waits_whatever_the_settings_say() {
        let text = "config:\n  edition: 3\nstreams:\n  s:\n    query: SELECT * FROM notes\n  \
                    t:\n    queries:\n      - SELECT * FROM fresh\n      - SELECT * FROM notes\n";
        let sync = SyncConfig::load(text, "sync.yaml", None).config.expect("valid");
        let second = |definition: usize| sync.definitions()[definition].name == "t";
        let setting = UploadTable { table: Some("fresh".into()), ..UploadTable::default() };
        for settings in [BTreeMap::new(), [("fresh".to_owned(), setting)].into()] {
            let map = make(Some(&sync), second, Some(&sync), &settings);
            assert_eq!(map.get("fresh"), Some(&TableTarget::Waits));
            assert!(table(&map, "notes").columns.same_names, "another definition sends it");
            let map = make(Some(&sync), |_| false, Some(&sync), &settings);
            assert!(table(&map, "fresh").columns.same_names);
        }
    }
}
