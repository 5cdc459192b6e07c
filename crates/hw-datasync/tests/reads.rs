//! `datasync.md` 5 to 7: queries through the socket.

use std::collections::BTreeMap;

use hw_datasync::DataSyncOptions;
use hw_datasync::names::{Naming, Namings};
use hw_datasync::statement::BigNumbers;
use hw_write::StatementOptions;
use serde_json::json;

use crate::rig::{Rig, equal, query, row_id, select};

const ROWS: &str = "INSERT INTO tasks (id, owner, title, slug, n, price, tags, meta, feeling, type, created_at) VALUES
  ('00000000-0000-4000-8000-000000000001', 'amy', 'a', 's1', 9007199254740993, 1.50, '{x,\"y z\"}', '{\"k\": [1]}',
   'ok', 't', '2024-01-02 03:04:05.678+02'),
  ('00000000-0000-4000-8000-000000000002', 'amy', 'b', NULL, 2, NULL, '{}', 'null', NULL, NULL, DEFAULT),
  ('00000000-0000-4000-8000-000000000003', 'bob', 'c', 's3', 3, NULL, NULL, NULL, NULL, NULL, DEFAULT)";

#[tokio::test]
async fn ds_7_records_have_the_names_and_forms_of_the_protocol() {
    let rig = Rig::start().await;
    rig.sql.batch_execute(ROWS).await.expect("inserted");
    let mut amy = rig.connect("amy").await;
    let one = query("tasks", json!({"whereCondition": equal("id", json!(row_id(1)))}));
    let number = amy.send(json!({"tag": "DataSyncQuery", "query": one})).await;
    let text = amy.receive_text().await;
    assert_eq!(
        text,
        format!(
            r#"{{"tag":"DataSyncResult","requestId":{number},"result":[{{"n": 9007199254740993, "id": "{}", "meta": {{"k": [1]}}, "slug": "s1", "tags": ["x", "y z"], "owner": "amy", "price": 1.50, "title": "a", "type_": "t", "isDone": false, "feeling": "ok", "createdAt": "2024-01-02T01:04:05.678+00:00"}}]}}"#,
            row_id(1)
        )
    );
}

#[tokio::test]
async fn ds_5_selection_order_and_window_are_those_of_the_query() {
    let rig = Rig::start().await;
    rig.sql.batch_execute(ROWS).await.expect("inserted");
    let mut amy = rig.connect("amy").await;
    let by = |direction: &str| json!([{"orderByColumn": "title", "orderByDirection": direction}]);
    let titles = |more: serde_json::Value| {
        let mut all = query("tasks", more);
        all["selectedColumns"] = select(&["title"]);
        all
    };
    let rows = amy.rows(titles(json!({"orderByClause": by("Asc")}))).await;
    assert_eq!(rows, json!([{"title": "a"}, {"title": "b"}]), "and none of bob's");
    let rows = amy.rows(titles(json!({"orderByClause": by("Desc"), "limit": 1}))).await;
    assert_eq!(rows, json!([{"title": "b"}]));
    let rows = amy.rows(titles(json!({"orderByClause": by("Asc"), "offset": 1}))).await;
    assert_eq!(rows, json!([{"title": "b"}]));
    let rows = amy
        .rows(titles(json!({"whereCondition": {"tag": "LiteralExpression", "value": true}})))
        .await;
    assert_eq!(rows.as_array().map(Vec::len), Some(2));
    let distinct = json!({"distinctOnColumn": "isDone", "orderByClause": by("Asc")});
    let answer = amy.ask(json!({"tag": "DataSyncQuery", "query": titles(distinct)})).await;
    assert_eq!(
        (&answer["sqlstate"], &answer["code"]),
        (&json!("42P10"), &json!("HW5306")),
        "{answer}"
    );
    let both = json!({"distinctOnColumn": "isDone", "orderByClause": [
        {"orderByColumn": "isDone", "orderByDirection": "Asc"},
        {"orderByColumn": "title", "orderByDirection": "Desc"}]});
    assert_eq!(amy.rows(titles(both)).await, json!([{"title": "b"}]));
}

#[tokio::test]
async fn ds_6_operators_choose_how_columns_are_called() {
    let options = DataSyncOptions {
        naming: Namings {
            usual: Naming::Identity,
            tables: BTreeMap::from([("lines".into(), Naming::Camel)]),
        },
        big_numbers: BigNumbers::Texts,
        ..DataSyncOptions::default()
    };
    let rig = Rig::start_with(options, StatementOptions::default(), &[]).await;
    rig.sql.batch_execute(ROWS).await.expect("inserted");
    let mut amy = rig.connect("amy").await;
    let mut all = query(
        "tasks",
        json!({"orderByClause": [{"orderByColumn": "n", "orderByDirection": "Asc"}]}),
    );
    all["selectedColumns"] = select(&["is_done", "type", "n", "price"]);
    let rows = amy.rows(all).await;
    let expected = json!([
        {"is_done": false, "type": null, "n": "2", "price": null},
        {"is_done": false, "type": "t", "n": "9007199254740993", "price": "1.50"},
    ]);
    assert_eq!(rows, expected, "numbers as texts, sorted as numbers");
    // One table has another way.
    let altered = "ALTER TABLE lines ADD COLUMN in_all int4; INSERT INTO lines VALUES ('a', 1)";
    rig.sql.batch_execute(altered).await.expect("altered");
    let lines = amy.rows(query("lines", json!({"selectedColumns": select(&["inAll"])}))).await;
    assert_eq!(lines, json!([{"inAll": null}]));
}

#[tokio::test]
async fn ds_12_what_is_altered_is_noticed_at_once() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    let all = || query("counters", json!({}));
    rig.sql.batch_execute("INSERT INTO counters VALUES (1, 1)").await.expect("inserted");
    assert_eq!(amy.rows(all()).await, json!([{"id": 1, "n": 1}]));
    rig.sql
        .batch_execute("ALTER TABLE counters ADD COLUMN extra_text text DEFAULT 'x'")
        .await
        .expect("altered");
    assert_eq!(amy.rows(all()).await, json!([{"id": 1, "n": 1, "extraText": "x"}]));
    rig.sql.batch_execute("ALTER TABLE counters DROP COLUMN n").await.expect("altered");
    assert_eq!(amy.rows(all()).await, json!([{"id": 1, "extraText": "x"}]));
    rig.sql
        .batch_execute("ALTER TABLE counters DISABLE ROW LEVEL SECURITY")
        .await
        .expect("altered");
    let refused = amy.refused(json!({"tag": "DataSyncQuery", "query": all()})).await;
    assert!(
        refused.contains("Row level security is required for accessing this table"),
        "{refused}"
    );
    rig.sql.batch_execute("ALTER TABLE counters ENABLE ROW LEVEL SECURITY").await.expect("altered");
    assert_eq!(amy.rows(all()).await, json!([{"id": 1, "extraText": "x"}]));
}

#[tokio::test]
async fn a_result_has_a_bound() {
    let statements = StatementOptions { max_result_bytes: 10_000, ..StatementOptions::default() };
    let rig = Rig::start_with(DataSyncOptions::default(), statements, &[]).await;
    let make = "INSERT INTO counters SELECT n, n FROM generate_series(1, 10000) AS n";
    rig.sql.batch_execute(make).await.expect("inserted");
    let mut amy = rig.connect("amy").await;
    let all = json!({"tag": "DataSyncQuery", "query": query("counters", json!({}))});
    let answer = amy.ask(all).await;
    assert_eq!(answer["code"], "HW5309", "{answer}");
    assert_eq!(
        amy.rows(query("counters", json!({"limit": 10}))).await.as_array().map(Vec::len),
        Some(10)
    );
}
