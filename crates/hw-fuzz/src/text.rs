//! Files and texts that people write: sync configurations, SQL, cases, settings.

use hw_expr::eval::evaluate_case;
use hw_expr::sync_config::{CatalogColumn, CatalogKind, CatalogTable, SyncConfig, render};
use hw_types::pgtype::PgType;
use hw_types::{Diagnostic, TableName};
use std::sync::LazyLock;

static CATALOG: LazyLock<Vec<CatalogTable>> = LazyLock::new(|| {
    let columns = ["id", "a", "b", "owner_id"].map(|name| CatalogColumn::new(name, PgType::TEXT));
    let table = |name: &str| CatalogTable {
        name: TableName::new("public", name),
        kind: CatalogKind::Table,
        columns: columns.to_vec(),
    };
    vec![table("t"), table("lists")]
});

/// A whole file, without and with a source that is known.
pub(crate) fn sync_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    load(text, None);
    load(text, Some(&CATALOG));
}

fn load(text: &str, catalog: Option<&[CatalogTable]>) {
    let loaded = SyncConfig::load(text, "sync.yaml", catalog);
    let refused = loaded.diagnostics.iter().any(Diagnostic::is_error);
    assert_eq!(loaded.config.is_none(), refused, "refused exactly where an error is named");
    for finding in &loaded.diagnostics {
        let span = finding.span.as_ref().expect("every finding has a place");
        assert!(text.get(span.start..span.end).is_some(), "{finding}");
    }
    render(&loaded.diagnostics, text);
    if let Some(config) = loaded.config {
        // One text gives one configuration.
        let again = SyncConfig::load(text, "sync.yaml", None).config.expect("it compiled");
        let of = |config: &SyncConfig| -> Vec<[u8; 32]> {
            config.sources().iter().map(|source| source.fingerprint).collect()
        };
        assert_eq!(of(&config), of(&again));
        config.client_schema(&CATALOG);
        drop(config.outputs());
    }
}

/// One query: of a stream, of an old stream, of a bucket definition.
pub(crate) fn sql(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(query) = serde_json::to_string(text) else { return };
    for file in [
        format!(
            "config: {{edition: 3}}\nwith: {{c: SELECT a FROM t}}\nstreams: {{s: {{query: {query}}}}}\n"
        ),
        format!(
            "config: {{edition: 3}}\nwith: {{c: {query}}}\nstreams: {{s: {{query: SELECT * FROM t WHERE a IN c}}}}\n"
        ),
        format!("config: {{edition: 2}}\nstreams: {{s: {{query: {query}}}}}\n"),
        format!("bucket_definitions: {{b: {{parameters: {query}, data: [{query}]}}}}\n"),
    ] {
        load(&file, None);
        load(&file, Some(&CATALOG));
    }
}

/// A case of `eval`: configuration, rows and requests at once.
pub(crate) fn eval_case(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(answer) = evaluate_case(text) {
        let answer: Result<serde_json::Value, _> = serde_json::from_str(&answer);
        assert!(answer.is_ok(), "an answer is JSON");
    }
}

/// The file of settings.
pub(crate) fn settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let environment = |name: &str| (name == "A").then(|| "value".to_owned());
    if let Err(findings) = headwater::config::file::parse(text, "headwater.yaml", &environment) {
        assert!(findings.iter().any(Diagnostic::is_error));
        for span in findings.iter().filter_map(|finding| finding.span.as_ref()) {
            assert!(text.get(span.start..span.end).is_some(), "a place in the file");
        }
    }
}
