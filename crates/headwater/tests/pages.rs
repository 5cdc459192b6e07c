//! Published pages equal what the program says of itself.

use std::path::{Path, PathBuf};

use headwater::dev::banner::{Banner, Psql};
use headwater::dev::postgres::psql_command;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

/// Compares a page with what the program says. `HEADWATER_WRITE_PAGES=1` writes it instead.
fn check(name: &str, expected: &str) {
    let path = docs().join(name);
    if std::env::var_os("HEADWATER_WRITE_PAGES").is_some() {
        std::fs::write(&path, expected).expect("the page is written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/{name} differs from the program; write it anew with \
         HEADWATER_WRITE_PAGES=1 cargo nextest run -p headwater pages"
    );
}

#[test]
fn the_command_line_page_is_the_help_of_the_program() {
    check("cli.md", &headwater::cli::reference());
}

#[test]
fn the_configuration_page_has_every_key() {
    let page = headwater::config::reference::page();
    for setting in headwater::config::settings::SETTINGS {
        let name = setting.path.rsplit('.').next().expect("a path has a last part");
        assert!(page.contains(&format!("| `{name}` |")), "{}", setting.path);
    }
    check("configuration.md", &page);
}

/// What begins like our variables is a setting, or is known as one of our tools'.
#[test]
fn every_variable_that_this_repository_names_is_known() {
    let mut unknown = std::collections::BTreeSet::new();
    let mut folders = vec![docs().join("..")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("listed").flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            let name = name.to_string_lossy();
            match entry.file_type().expect("a type") {
                kind if kind.is_dir() => {
                    if !["target", "node_modules", "dist"].contains(&&*name)
                        && !name.starts_with('.')
                    {
                        folders.push(path);
                    }
                }
                _ => {
                    let text = std::fs::read_to_string(path).unwrap_or_default();
                    for part in text.split("HEADWATER_").skip(1) {
                        let is_part = |c: char| c.is_ascii_uppercase() || c == '_';
                        let rest = part.split(|c: char| !is_part(c)).next().unwrap_or("");
                        let name = format!("HEADWATER_{rest}");
                        if !rest.is_empty() && !headwater::config::environment::is_known(&name) {
                            unknown.insert(name);
                        }
                    }
                }
            }
        }
    }
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn the_schema_of_the_configuration_is_the_settings_table() {
    let schema = serde_json::to_string_pretty(&headwater::config::reference::schema())
        .expect("a schema is JSON");
    check("headwater.schema.json", &format!("{schema}\n"));
}

/// The names of a JSON value's parts: `store.bytes`, `copies[].table`.
fn fields(prefix: &str, value: &serde_json::Value, into: &mut std::collections::BTreeSet<String>) {
    match value {
        serde_json::Value::Object(members) => {
            for (name, member) in members {
                let dot = if prefix.is_empty() { "" } else { "." };
                fields(&format!("{prefix}{dot}{name}"), member, into);
            }
        }
        serde_json::Value::Array(items) => {
            assert!(!items.is_empty(), "the sample shows what {prefix} holds");
            items.iter().for_each(|item| fields(&format!("{prefix}[]"), item, into));
        }
        _ => drop(into.insert(prefix.to_owned())),
    }
}

#[test]
fn fd_71_the_operations_page_has_every_field_of_the_status() {
    use headwater::server::status::{
        BoundReport, CopyReport, HeldReport, LiveReport, StatusReport, SyncReport,
    };
    let sample = StatusReport {
        copies: vec![CopyReport::default()],
        bounds: vec![BoundReport::default()],
        live: LiveReport {
            disagreements: vec!["e".into()],
            polled: vec!["f".into()],
            ..LiveReport::default()
        },
        sync: SyncReport {
            stale_tables: vec!["public.t".into()],
            frozen: vec!["a".into()],
            held: vec![HeldReport::default()],
            withheld: vec!["b".into()],
            refused: vec!["c".into()],
            lost: vec!["d".into()],
            ..SyncReport::default()
        },
        ..StatusReport::default()
    };
    let mut expected = std::collections::BTreeSet::new();
    fields("", &serde_json::to_value(sample).expect("JSON"), &mut expected);
    let page = std::fs::read_to_string(docs().join("operations.md")).expect("there is a page");
    let section = page.split_once("### Status").expect("its section").1;
    let section = section.split_once("### Log").expect("the next section").0;
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let found: std::collections::BTreeSet<String> = rows.map(str::to_owned).collect();
    assert_eq!(found, expected);
}

#[test]
fn the_three_minutes_of_the_readme_are_what_dev_prints() {
    let banner = Banner {
        url: "http://127.0.0.1:8080".into(),
        psql: Some(Psql {
            command: psql_command(Path::new(".headwater/postgres.pass"), 38765),
            installed: true,
        }),
        client: Some("conformance/client".into()),
        program: "target/demo/headwater".into(),
        data_dir: ".headwater".into(),
        sync_config: Some(".headwater/sync.yaml".into()),
        from_policies: false,
    };
    let readme = docs().join("../README.md");
    let readme = std::fs::read_to_string(readme).expect("there is a README");
    let text = banner.text();
    assert!(readme.contains(text.trim_end()), "the README does not show:{text}");
}
