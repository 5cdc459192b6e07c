//! What people read when a configuration is wrong: whole texts, with excerpt and mark.
//!
//! `cases/findings/NAME.yaml` is a configuration, `NAME.txt` all that is said about it.

use hw_expr::sync_config::{CatalogColumn, CatalogKind, CatalogTable, SyncConfig, render};
use hw_types::TableName;
use hw_types::pgtype::PgType;

fn check(yaml: &str, expected: &str) {
    let column = |name: &str| CatalogColumn::new(name, PgType::TEXT);
    let catalog = [CatalogTable {
        name: TableName::new("public", "lists"),
        kind: CatalogKind::Table,
        columns: vec![column("id"), column("owner_id")],
    }];
    let loaded = SyncConfig::load(yaml, "sync.yaml", Some(&catalog));
    let found = render(&loaded.diagnostics, yaml);
    assert_eq!(found, expected, "{found}");
}

macro_rules! case {
    ($name:ident, $file:literal) => {
        #[test]
        fn $name() {
            check(
                include_str!(concat!("cases/findings/", $file, ".yaml")),
                include_str!(concat!("cases/findings/", $file, ".txt")),
            );
        }
    };
}

case!(findings_in_data_queries_name_the_place_and_a_way_out, "buckets");
case!(findings_in_parameter_queries_name_the_place_and_a_way_out, "parameters");
case!(findings_in_streams_name_the_place_and_a_way_out, "streams");
case!(a_file_that_is_not_yaml_says_where, "yaml");

fn first(query: &str) -> String {
    let query = serde_json::to_string(query).unwrap();
    let yaml = format!("config: {{edition: 3}}\nstreams:\n  s:\n    query: {query}\n");
    let loaded = SyncConfig::load(&yaml, "sync.yaml", None);
    loaded.diagnostics.iter().find(|d| d.is_error()).map(|d| d.what.clone()).unwrap_or_default()
}

/// Refused, never silently read as something else.
#[test]
fn forms_outside_of_the_language_are_refused_by_name() {
    for (query, message) in [
        ("SELECT * FROM t WHERE a % 2 = 0", "Unsupported binary operator: %"),
        ("SELECT * FROM t WHERE a << 2 = 0", "Unsupported binary operator: <<"),
        (
            "SELECT id, substring(a FROM 2) AS b FROM t",
            "the form f(x FROM y) is not supported, write f(x, y)",
        ),
        ("SELECT * FROM t WHERE name ILIKE 'a%'", "LIKE expressions are not currently supported."),
        ("SELECT * FROM t WHERE a = -b", "Unary minus is not currently supported"),
        ("SELECT * FROM t WHERE a IN (1, 2)", "x IN (a, b) is not supported"),
        ("SELECT * FROM t WHERE EXISTS (SELECT id FROM u)", "EXISTS is not supported"),
        (
            "SELECT * FROM t WHERE a = $1",
            "SQL parameters are not allowed. Use functions of the request instead.",
        ),
        ("SELECT * FROM t WHERE at < CURRENT_TIMESTAMP", "CURRENT_TIMESTAMP is not supported"),
        (
            "SELECT id, random() AS r FROM t",
            "Forbidden call: Sync definitions must be deterministic.",
        ),
        ("SELECT * FROM t WHERE a::varchar = 'x'", "Invalid SQLite cast: varchar"),
        ("SELECT * FROM t GROUP BY a", "GROUP BY is not supported"),
        ("SELECT id FROM t UNION SELECT id FROM u", "UNION is not supported"),
        ("DELETE FROM t", "Only SELECT statements are supported"),
        ("SELECT id, a IN b AS c FROM t", "IN is only supported in WHERE clauses"),
        (
            "SELECT t.id, u.name FROM t JOIN u ON t.u = u.id",
            "Sync streams can only select from a single table, and this one already selects from 't'.",
        ),
        (
            "SELECT * FROM t WHERE a IN (SELECT x, y FROM u)",
            "Must return a single expression column",
        ),
        (
            "SELECT t.* FROM t JOIN u ON t.a > u.b",
            "This expression already references rows of t, so it can't also reference rows of u \
             unless the two are compared with an equals operator.",
        ),
        (
            "SELECT json_each.value AS id FROM t, json_each(t.a)",
            "Sync streams can only select from actual tables",
        ),
        ("SELECT * FROM t WHERE json_extract('[', '$.a') = 1", "Expected JSON string"),
        ("SELECT only FROM t", "only is a reserved word"),
    ] {
        assert_eq!(first(query), message, "{query}");
    }
}

/// A negated membership would mean "some row is different", which admits nearly everybody.
#[test]
fn a_negated_subquery_is_refused_whatever_it_is_compared_with() {
    for query in [
        "SELECT * FROM t WHERE id NOT IN (SELECT a FROM u)",
        "SELECT * FROM t WHERE NOT ('x' IN (SELECT a FROM u))",
        "SELECT * FROM t WHERE NOT (a = 1 OR 'x' IN (SELECT a FROM u WHERE u.b))",
    ] {
        assert_eq!(first(query), "NOT cannot be applied to a subquery", "{query}");
    }
    assert_eq!(first("SELECT * FROM t WHERE NOT (NOT (id IN (SELECT a FROM u)))"), "");
}
