//! Configurations that would load and silently sync nothing, too much, or not what was meant, and
//! the words that are said about them (findings FD-63 to FD-67).

use hw_expr::eval::evaluate_case;
use hw_expr::sync_config::{CatalogColumn, CatalogKind, CatalogTable, SyncConfig, Withheld};
use hw_types::TableName;
use hw_types::pgtype::{PgType, TextKind};

/// A source with everything that a finding can be about.
fn catalog() -> Vec<CatalogTable> {
    let text = |name: &str| CatalogColumn::new(name, PgType::TEXT);
    let table = |schema: &str, name: &str, columns: Vec<CatalogColumn>| CatalogTable {
        name: TableName::new(schema, name),
        kind: CatalogKind::Table,
        columns,
    };
    let generated = CatalogColumn { withheld: Some(Withheld::Generated), ..text("g") };
    let unpublished = CatalogColumn { withheld: Some(Withheld::Unpublished), ..text("secret") };
    let status = CatalogColumn {
        pg_type: PgType::Text { kind: TextKind::Enum },
        labels: vec!["new".into(), "shipped".into()],
        ..text("status")
    };
    vec![
        table("public", "t", vec![text("id"), text("a"), generated]),
        table("public", "u", vec![text("id"), unpublished]),
        table("public", "orders", vec![text("id"), status, text("customerId")]),
        table("public", "projects", vec![text("id"), text("org_id")]),
        table("billing", "invoices", vec![text("id")]),
        CatalogTable {
            kind: CatalogKind::Other("a view"),
            ..table("public", "open_orders", vec![text("id")])
        },
    ]
}

/// What is said, one line each: severity, code, message, and the way out behind `→`.
fn said(yaml: &str, catalog: Option<&[CatalogTable]>) -> Vec<String> {
    let loaded = SyncConfig::load(yaml, "sync.yaml", catalog);
    let line = |finding: &hw_types::Diagnostic| {
        let severity = if finding.is_error() { "error" } else { "warning" };
        let mend = finding.mend.as_ref().map(|mend| format!(" → {mend}")).unwrap_or_default();
        format!("{severity} {}: {}{mend}", finding.code, finding.what)
    };
    loaded.diagnostics.iter().map(line).collect()
}

fn stream(query: &str) -> String {
    let query = serde_json::to_string(query).unwrap();
    format!("config: {{edition: 3}}\nstreams:\n  s:\n    query: {query}\n")
}

/// All that is said about a query of a stream, without a source.
fn query(query: &str) -> Vec<String> {
    said(&stream(query), None)
}

/// The same, with [`catalog`].
fn checked(query: &str) -> Vec<String> {
    said(&stream(query), Some(&catalog()))
}

const COMPUTE: &str = "compute it here from the columns that it is made of, or, with Postgres 18 \
     and for a stored one, publish it: ALTER PUBLICATION … SET (publish_generated_columns = stored)";

#[test]
fn fd_63_a_generated_column_is_named_where_it_is_read() {
    let read: &str = &format!(
        "warning HW1225: column \"g\" of public.t is generated and not in the log: what reads it is \
         not served → {COMPUTE}"
    );
    for (text, expected) in [
        ("SELECT * FROM t", vec![]),
        ("SELECT id, g FROM t", vec![read]),
        ("SELECT id, upper(g) AS up FROM t", vec![read]),
        ("SELECT t.*, t.a AS g FROM t", vec![]),
        ("SELECT id, a FROM t WHERE g = '4'", vec![read]),
        ("SELECT id FROM t WHERE g = auth.parameter('n')", vec![read]),
        ("SELECT g AS id FROM t", vec![read]),
        ("SELECT id FROM u WHERE id IN (SELECT g FROM t)", vec![read]),
        ("SELECT u.id FROM u JOIN t ON t.g = u.id", vec![read]),
        ("SELECT id, a FROM t", vec![]),
    ] {
        assert_eq!(checked(text), expected, "{text}");
    }
    let classic = |parameters: &str, data: &str| {
        let yaml = format!(
            "bucket_definitions:\n  b:\n    parameters: {parameters}\n    data: ['{data}']\n"
        );
        said(&yaml, Some(&catalog()))
    };
    let own = "SELECT request.user_id() AS u";
    assert_eq!(classic(own, "SELECT * FROM t WHERE a = bucket.u"), Vec::<String>::new());
    assert_eq!(classic(own, "SELECT id FROM t WHERE g = bucket.u"), [read]);
    let through = "SELECT g AS u FROM t WHERE a = request.user_id()";
    assert_eq!(classic(through, "SELECT id FROM u WHERE id = bucket.u"), [read]);
}

#[test]
fn fd_63_a_column_that_the_publication_leaves_out_is_named_like_a_generated_one() {
    assert_eq!(
        checked("SELECT id, secret FROM u"),
        ["warning HW1225: column \"secret\" of public.u is left out by the publication's column \
          list: what reads it is not served → add it to the column list, or publish the table \
          without one"]
    );
    assert_eq!(checked("SELECT * FROM u"), Vec::<String>::new());
    let without_id = [CatalogTable {
        columns: vec![CatalogColumn {
            withheld: Some(Withheld::Unpublished),
            ..CatalogColumn::new("id", PgType::TEXT)
        }],
        ..catalog().remove(1)
    }];
    let all = said(&stream("SELECT * FROM u"), Some(&without_id));
    assert!(all[0].starts_with("warning HW1225: column \"id\" of public.u"), "{all:?}");
}

#[test]
fn a_definition_knows_which_columns_it_needs_of_which_table() {
    let columns = |query: &str, table: &str| -> Vec<String> {
        let config =
            SyncConfig::load(&stream(query), "sync.yaml", None).config.expect("it compiles");
        let table = TableName::new("public", table);
        config.definitions()[0].columns_of(&table).into_iter().collect()
    };
    let through = "SELECT id, upper(a) AS up FROM t WHERE list IN (SELECT l FROM members WHERE usr = \
                   auth.user_id() AND hidden IS NULL) AND n = 1";
    assert_eq!(columns(through, "t"), ["a", "id", "list", "n"]);
    assert_eq!(columns(through, "members"), ["hidden", "l", "usr"]);
    assert_eq!(columns("SELECT * FROM t WHERE n = 1", "t"), ["id", "n"]);
    assert_eq!(columns("SELECT *, key AS id FROM t", "t"), ["key"]);
    assert_eq!(columns("SELECT * FROM \"t_%\" AS t", "t_1"), ["id"]);
    assert_eq!(columns("SELECT * FROM t", "u"), Vec::<String>::new());
}

/// With `ctes` under `with:` and one stream over projects.
fn with(ctes: &[(&str, &str)], condition: &str) -> String {
    let ctes: String = ctes.iter().map(|(name, text)| format!("  {name}: {text}\n")).collect();
    format!(
        "config: {{edition: 3}}\nwith:\n{ctes}streams:\n  s:\n    query: SELECT * FROM projects \
         WHERE {condition}\n"
    )
}

#[test]
fn fd_64_a_common_table_expression_behind_in_cannot_see_others_and_says_so() {
    let yaml = with(
        &[
            ("user_orgs", "SELECT org FROM members WHERE usr = auth.user_id()"),
            (
                "ap",
                "SELECT id FROM projects WHERE org_id IN user_orgs OR id IN (SELECT p FROM shares)",
            ),
        ],
        "id IN ap OR org_id IN user_orgs",
    );
    let found = said(&yaml, None);
    assert_eq!(
        found[0],
        "error HW1210: user_orgs is a common table expression; CTEs cannot see others → write \
         its SELECT here: IN (SELECT … FROM …)"
    );
    let read = with(
        &[("mine", "SELECT org FROM members"), ("other", "SELECT org FROM mine")],
        "org_id IN other OR org_id IN mine",
    );
    assert_eq!(
        said(&read, None),
        ["warning HW1217: mine is a common table expression; CTEs cannot see others, so this is \
          a table of that name → write its SELECT here as a subquery"]
    );
}

#[test]
fn fd_64_a_name_behind_in_that_is_no_expression_or_table_is_an_error_without_a_database() {
    let mine = [("my_orgs", "SELECT org FROM members WHERE usr = auth.user_id()")];
    let unused = "warning HW1217: This common table expression isn't referenced.";
    assert_eq!(
        said(&with(&mine, "org_id IN my_org"), None),
        [
            unused,
            "error HW1210: there is no common table expression \"my_org\" here → did you mean \
             \"my_orgs\"?"
        ]
    );
    assert_eq!(
        query("SELECT * FROM projects WHERE org_id IN no_such_cte"),
        ["error HW1210: there is no common table expression \"no_such_cte\" here → define it \
          under with:, or name the table as well (t.no_such_cte) if it is a column that holds a \
          JSON array"]
    );
    assert_eq!(
        query("SELECT * FROM projects WHERE id IN projects"),
        ["error HW1210: projects is a table, and IN needs one column of it → write IN (SELECT … \
          FROM projects)"]
    );
    assert_eq!(
        checked("SELECT * FROM projects WHERE auth.user_id() IN orders"),
        ["error HW1210: orders is a table, and IN needs one column of it → write IN (SELECT … \
          FROM orders)"]
    );
    assert_eq!(
        said(&with(&mine, "projects.tags && my_orgs"), None),
        ["error HW1210: my_orgs is a common table expression → write (SELECT … FROM my_orgs)"]
    );
}

#[test]
fn fd_64_columns_that_hold_arrays_are_still_columns() {
    for text in [
        "SELECT * FROM projects WHERE auth.user_id() IN members",
        "SELECT * FROM projects WHERE org_id IN projects.other_orgs",
        "SELECT * FROM projects WHERE org_id IN auth.parameter('orgs')",
        "SELECT * FROM projects WHERE tags && auth.parameter('tags')",
    ] {
        assert_eq!(query(text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn fd_64_the_suffix_of_a_wildcard_is_a_function_in_streams() {
    assert_eq!(
        query("SELECT * FROM \"todos_%\" AS todos WHERE _table_suffix != 'archived'"),
        ["error HW1210: _table_suffix belongs to bucket definitions → use table_suffix() of the \
          table's alias: FROM \"t_%\" AS t WHERE t.table_suffix() = …"]
    );
    assert_eq!(
        query("SELECT * FROM \"todos_%\" AS todos WHERE todos.table_suffix() != 'archived'"),
        Vec::<String>::new()
    );
}

/// A row of a stream with an array and a composite in it, as its payload.
fn payload(options: &str) -> serde_json::Value {
    let case = serde_json::json!({
        "yaml": format!("config: {{edition: 3{options}}}\nstreams:\n  s:\n    auto_subscribe: true\n    query: SELECT * FROM t\n"),
        "rows": [{"table": "t", "row": {"id": "1", "b": true, "list": [true, false, null]}}],
    });
    let answer: serde_json::Value =
        serde_json::from_str(&evaluate_case(&case.to_string()).unwrap()).unwrap();
    assert_eq!(answer["config_errors"], serde_json::json!([]));
    serde_json::from_str(answer["rows"][0]["data"][0]["data"].as_str().unwrap()).unwrap()
}

#[test]
fn fd_66_options_of_newer_services_load_and_mean_what_they_say() {
    let numbers = serde_json::json!({"id": "1", "b": 1, "list": "[1,0,null]"});
    let booleans = serde_json::json!({"id": "1", "b": 1, "list": "[true,false,null]"});
    assert_eq!(payload(""), numbers);
    assert_eq!(payload(", storage_version: 2"), numbers);
    assert_eq!(payload(", storage_version: 4"), numbers);
    assert_eq!(payload(", fixed_booleans_in_json: false"), numbers);
    assert_eq!(payload(", fixed_booleans_in_json: true"), booleans);
    let of = |version: &str| {
        said(
            &stream("SELECT * FROM t").replace("edition: 3", &format!("edition: 3, {version}")),
            None,
        )
    };
    assert_eq!(
        of("storage_version: 7"),
        [
            "warning HW1223: Storage version 7 has no effect: Headwater's store has versions of its own"
        ]
    );
    assert_eq!(of("storage_version: 0"), ["error HW1202: Storage version 0 is not supported"]);
}

#[test]
fn fd_66_what_the_option_changes_has_buckets_of_its_own() {
    let fingerprint = |options: &str| {
        let yaml = stream("SELECT * FROM t").replace("edition: 3", &format!("edition: 3{options}"));
        SyncConfig::load(&yaml, "sync.yaml", None).config.unwrap().sources()[0].fingerprint
    };
    assert_eq!(fingerprint(""), fingerprint(", fixed_booleans_in_json: false"));
    assert_ne!(fingerprint(""), fingerprint(", fixed_booleans_in_json: true"));
}

/// What `eval` says about a case with these further fields.
fn refused(fields: serde_json::Value) -> String {
    let mut case = serde_json::json!({"yaml": stream("SELECT * FROM t WHERE a = auth.user_id()")});
    for (key, value) in fields.as_object().unwrap() {
        case[key] = value.clone();
    }
    match evaluate_case(&case.to_string()) {
        Ok(answer) => format!("accepted: {answer}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn fd_67_eval_refuses_keys_that_mean_nothing_at_every_level() {
    use serde_json::json;
    for (fields, message) in [
        (json!({"requets": []}), "a case has no key \"requets\"; did you mean \"requests\"?"),
        (
            json!({"requests": [{"sub": "u1"}]}),
            "a request has no key \"sub\"; claims stand under jwt: {\"jwt\": {\"sub\": …}}",
        ),
        (
            json!({"requests": [{"claims": {}}]}),
            "a request has no key \"claims\"; it has jwt, parameters, subscriptions, \
             include_defaults",
        ),
        (
            json!({"requests": ["u1"]}),
            "a request is an object with the keys jwt, parameters, subscriptions, include_defaults",
        ),
        (
            json!({"requests": [{"subscriptions": [{"stream": "s", "params": {}}]}]}),
            "a subscription has no key \"params\"; it has stream, parameters, override_priority",
        ),
        (
            json!({"requests": [{"include_defaults": "no"}]}),
            "include_defaults must be true or false",
        ),
        (json!({"rows": {"t": {"id": 1}}}), "rows must be a list of {\"table\": …, \"row\": {…}}"),
        (
            json!({"rows": [{"table": "t", "rows": {"id": 1}}]}),
            "a row has no key \"rows\"; did you mean \"row\"?",
        ),
        (
            json!({"schema": [{"table": "t", "columns": [{"name": "id", "type": "text"}]}]}),
            "a column has no key \"type\"; it has name, pg_type",
        ),
    ] {
        assert_eq!(refused(fields.clone()), message, "{fields}");
    }
    assert!(refused(json!({"expected": {}, "_why": "a remark"})).starts_with("accepted"));
}

#[test]
fn section_11_messages_say_what_was_meant() {
    for (text, expected) in [
        (
            "SELECT * FROM orders WERE \"customerId\" = auth.user_id()",
            "error HW1205: expected WHERE after the table's name, found were → did you mean WHERE?",
        ),
        (
            "SELECT * FROM orders WERE id = auth.user_id()",
            "error HW1205: expected WHERE after the table's name, found were → did you mean WHERE?",
        ),
        (
            "SELECT * FROM orders o \"customerId\" = 1",
            "error HW1205: expected WHERE after the table's name, found o → write one SELECT … \
             FROM … WHERE …; texts stand in single quotes, names that are no plain lower-case words \
             in double ones",
        ),
        (
            "SELECT * FROM t WHERE a = :user_id",
            "error HW1205: values of the request are functions here, not parameters → use \
             auth.user_id() in streams, request.user_id() in parameter queries",
        ),
        (
            "SELECT * FROM t WHERE a = auth.uid()",
            "error HW1207: Unknown request function: auth.uid → did you mean auth.user_id()?",
        ),
        (
            "SELECT * FROM t WHERE a = auth.jwt() ->> 'org'",
            "error HW1207: Unknown request function: auth.jwt → use auth.parameter('x') for claim \
             x of the token",
        ),
        (
            "SELECT * FROM t WHERE at > now() - interval '30 days'",
            "error HW1205: intervals and now() are not supported → a row is evaluated when it \
             changes, not when time passes: keep a column that a job in the database updates and \
             compare that, or filter by time in the client's query",
        ),
        (
            "SELECT * FROM t WHERE at > timestamp '2026-01-01'",
            "error HW1205: TIMESTAMP before a string is not supported → write the string alone: \
             dates and times are compared as texts",
        ),
        (
            "SELECT a FROM t GROUP BY a",
            "error HW1206: GROUP BY is not supported → sync the rows and count them in the \
             client's query, or sync a table of totals",
        ),
        (
            "SELECT * FROM t ORDER BY a",
            "error HW1206: ORDER BY is not supported → rows arrive in no order; write ORDER BY in \
             the client's query",
        ),
        (
            "SELECT * FROM t LIMIT 10",
            "error HW1206: LIMIT is not supported → choose the rows by what is in them, in WHERE; \
             write LIMIT in the client's query",
        ),
        (
            "SELECT * FROM t WHERE a LIKE 'x%'",
            "error HW1209: LIKE expressions are not currently supported. → compare a part of the \
             text: substring(x, 1, 3) = 'abc', or instr(x, 'abc') > 0",
        ),
        (
            "SELECT * FROM t JOIN json_each(t.a) AS e WHERE e.value = auth.user_id()",
            "error HW1206: Sync streams can only select from actual tables → name the table before \
             *: t.*",
        ),
        (
            "SELECT * FROM t JOIN u ON u.id = t.a",
            "error HW1206: Sync streams can only select from a single table, and this one already \
             selects from 't'. → name the table before *: t.*",
        ),
        (
            "WITH x AS (SELECT 1) SELECT * FROM t",
            "error HW1205: Only SELECT statements are supported → common table expressions stand \
             under with: in the file, each under its name",
        ),
    ] {
        assert_eq!(query(text), [expected], "{text}");
    }
}

#[test]
fn section_11_a_wrong_relation_is_named_with_what_there_is() {
    for (text, expected) in [
        (
            "SELECT * FROM invoices",
            "warning HW1204: relation public.invoices does not exist → did you mean \
             billing.invoices?",
        ),
        (
            "SELECT * FROM order",
            "error HW1205: order is a reserved word → to use it as a name, write it in double quotes",
        ),
        (
            "SELECT * FROM \"order\"",
            "warning HW1204: relation public.order does not exist → did you mean \"orders\"?",
        ),
        (
            "SELECT * FROM open_orders",
            "warning HW1204: public.open_orders is a view: its changes are not in the log → name \
             the tables that it reads",
        ),
        ("SELECT * FROM \"%\".wo", "warning HW1204: no relation matches %.wo"),
        (
            "SELECT * FROM orders WHERE status = 'shiped'",
            "warning HW1227: \"status\" never is 'shiped' → did you mean 'shipped'?",
        ),
        (
            "SELECT * FROM orders WHERE status != 'cancelled'",
            "warning HW1227: \"status\" never is 'cancelled' → it is one of 'new', 'shipped'",
        ),
        (
            "SELECT * FROM orders WHERE status IN ARRAY['new', 'shiped']",
            "warning HW1227: \"status\" never is 'shiped' → did you mean 'shipped'?",
        ),
    ] {
        assert_eq!(checked(text), [expected], "{text}");
    }
    assert_eq!(checked("SELECT * FROM orders WHERE status = 'new'"), Vec::<String>::new());
}

#[test]
fn section_11_one_mistake_in_the_form_of_the_file_is_one_finding() {
    let head = "config: {edition: 3}\n";
    for (yaml, expected) in [
        (
            format!("{head}streams:\n  mine:\n  query: SELECT * FROM t\n"),
            "error HW1202: \"query\" belongs under \"mine\" → indent it further than the name that \
             it belongs to",
        ),
        (
            format!("{head}streams:\n  mine:\n  auto_subscribe: true\n  query: SELECT * FROM t\n"),
            "error HW1202: \"auto_subscribe\" belongs under \"mine\" → indent it further than the \
             name that it belongs to",
        ),
        (
            format!("{head}streams:\n  mine: SELECT * FROM t\n"),
            "error HW1202: Expected a map here. → write query: under the name, and the SELECT \
             behind it",
        ),
        (
            format!("{head}stream:\n  mine:\n    query: SELECT * FROM t\n"),
            "error HW1202: Unknown key 'stream'. → did you mean \"streams\"?",
        ),
        (
            "bucket_definitions:\n  mine:\n  data: [SELECT * FROM t]\n".to_string(),
            "error HW1202: \"data\" belongs under \"mine\" → indent it further than the name that \
             it belongs to",
        ),
        (
            String::new(),
            "error HW1202: the file is empty → begin with: config: {edition: 3}, and streams: with \
             a name, and under it query: SELECT * FROM …",
        ),
        (
            "# nothing yet\n".to_string(),
            "error HW1202: the file is empty → begin with: config: {edition: 3}, and streams: with \
             a name, and under it query: SELECT * FROM …",
        ),
    ] {
        assert_eq!(said(&yaml, None), [expected], "{yaml}");
    }
}
