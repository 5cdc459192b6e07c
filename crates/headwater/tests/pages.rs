//! Published pages equal what the program says of itself.

use std::path::{Path, PathBuf};

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

#[test]
fn the_schema_of_the_configuration_is_the_settings_table() {
    let schema = serde_json::to_string_pretty(&headwater::config::reference::schema())
        .expect("a schema is JSON");
    check("headwater.schema.json", &format!("{schema}\n"));
}
