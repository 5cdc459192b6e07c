//! Queries of clients are what their rules say, asked of a real Postgres (`datasync.md` 5, 7).

use hw_datasync::aggregate;
use hw_datasync::names::{Fields, Naming};
use hw_datasync::statement::{self, Column, Kind, Shape, Unknown};
use hw_datasync::wire::{Aggregation, Message, Query, Request};
use hw_testkit::Cluster;
use hw_types::Sql;
use serde_json::{Value, json};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

const TABLE: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE TABLE \"my tasks\" (id int8 PRIMARY KEY, title text, is_done bool, due timestamptz, price numeric, tags text[],
      meta jsonb, feeling mood, raw bytea, place point, words tsvector, small int2, type text);
    INSERT INTO \"my tasks\" VALUES
      (1, 'a', true, '2024-01-02 03:04:05.678+00', 1.50, '{x,\"y z\"}', '{\"k\": [1]}', 'ok', '\\x01ff', '(1,2)', 'cat:1 sat:2', 1, 't1'),
      (2, 'b', false, '2023-01-01 00:00:00+00', 2, '{}', '[1, 2]', 'sad', 'abc', '(0,0)', 'dog:1 cat:3', 2, 't2'),
      (3, 'c', NULL, NULL, NULL, NULL, 'null', NULL, NULL, NULL, NULL, NULL, NULL),
      (9007199254740993, 'big', true, NULL, 12345678901234567890.123, '{NULL,q}', NULL, NULL, NULL, NULL, NULL, 3, 't\"; DROP TABLE x')";

fn shape() -> Shape {
    let columns = [
        ("id", "bigint", Kind::Integer),
        ("title", "text", Kind::Text),
        ("is_done", "boolean", Kind::Bool),
        ("due", "timestamp with time zone", Kind::Text),
        ("price", "numeric", Kind::Text),
        ("tags", "text[]", Kind::Array),
        ("meta", "jsonb", Kind::Json),
        ("feeling", "public.mood", Kind::Text),
        ("raw", "bytea", Kind::Bytes),
        ("place", "point", Kind::Point),
        ("words", "tsvector", Kind::Text),
        ("small", "smallint", Kind::Integer),
        ("type", "text", Kind::Text),
    ];
    let names: Vec<String> = columns.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let columns = columns.map(|(name, type_name, kind)| Column {
        name: name.into(),
        type_name: type_name.into(),
        kind,
        as_text: false,
    });
    Shape {
        key: vec![0],
        name: ("public".into(), "my tasks".into()),
        columns: columns.to_vec(),
        fields: Fields::of(&names, Naming::Camel),
    }
}

fn query(condition: &Value, more: &Value) -> Query {
    let mut query = json!({
        "table": "my tasks", "selectedColumns": {"tag": "SelectAll"}, "whereCondition": condition,
        "orderByClause": [{"orderByColumn": "id", "orderByDirection": "Asc"}],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        query[key] = value.clone();
    }
    Query::read(&query.to_string()).unwrap_or_else(|error| panic!("{query}: {error}"))
}

async fn asked(client: &Client, statement: &Sql) -> Result<Vec<Value>, tokio_postgres::Error> {
    let parameters: Vec<(&(dyn ToSql + Sync), Type)> = statement
        .parameters
        .iter()
        .map(|value| (value as &(dyn ToSql + Sync), Type::TEXT))
        .collect();
    let rows = client.query_typed(&statement.text, &parameters).await?;
    Ok(rows.iter().map(|row| serde_json::from_str(row.get(0)).expect("JSON")).collect())
}

/// Key, record and state of each group.
async fn groups(client: &Client, statement: &Sql) -> Vec<[Value; 3]> {
    let parameters =
        statement.parameters.iter().map(|text| text as _).collect::<Vec<&(dyn ToSql + Sync)>>();
    let rows = client.query(&statement.text, &parameters).await;
    let rows = rows.unwrap_or_else(|error| panic!("{error:?} in {statement:?}"));
    let json = |text: &str| serde_json::from_str(text).expect("JSON");
    rows.iter().map(|row| [0, 1, 2].map(|at| json(row.get(at)))).collect()
}

fn field(name: &str) -> Value {
    json!({"tag": "ColumnExpression", "field": name})
}

fn literal(value: Value) -> Value {
    json!({"tag": "LiteralExpression", "value": value})
}

fn list(values: Value) -> Value {
    json!({"tag": "ListExpression", "values": values})
}

fn infix(left: Value, op: &str, right: Value) -> Value {
    json!({"tag": "InfixOperatorExpression", "left": left, "op": op, "right": right})
}

#[tokio::test]
async fn conditions_admit_the_rows_that_the_rules_say() {
    let cluster = Cluster::start();
    let client = cluster.client("postgres").await;
    client.batch_execute(TABLE).await.expect("made");
    let shape = shape();
    let cat = json!({"tag": "CallExpression", "functionCall": {"tag": "ToTSQuery", "text": "cat"}});
    let big = 9_007_199_254_740_993_i64;
    let cases: Vec<(Value, Vec<i64>)> = vec![
        (infix(field("id"), "OpEqual", literal(json!(big))), vec![big]),
        (infix(field("title"), "OpNotEqual", literal(json!("a"))), vec![2, 3, big]),
        (infix(field("isDone"), "OpNotEqual", literal(json!(true))), vec![2]),
        (infix(field("isDone"), "OpEqual", literal(Value::Null)), vec![3]),
        (infix(field("isDone"), "OpNotEqual", literal(Value::Null)), vec![1, 2, big]),
        (infix(literal(Value::Null), "OpEqual", field("isDone")), vec![3]),
        (infix(field("isDone"), "OpIs", literal(Value::Null)), vec![3]),
        (infix(field("isDone"), "OpIsNot", literal(json!(true))), vec![2, 3]),
        (infix(field("isDone"), "OpIs", literal(json!(false))), vec![2]),
        (infix(field("title"), "OpIsNot", literal(json!("a"))), vec![2, 3, big]),
        (infix(field("isDone"), "OpEqual", literal(json!(1))), vec![1, big]),
        (infix(field("isDone"), "OpEqual", literal(json!("t"))), vec![1, big]),
        (infix(field("id"), "OpIn", list(json!([]))), vec![]),
        (infix(field("id"), "OpIn", list(json!([1, "2", 7]))), vec![1, 2]),
        (infix(field("isDone"), "OpIn", list(json!([false, null]))), vec![2, 3]),
        (infix(field("isDone"), "OpIn", list(json!([null]))), vec![3]),
        (infix(field("due"), "OpLessThan", literal(json!("2024-01-01T00:00:00Z"))), vec![2]),
        (infix(field("due"), "OpEqual", literal(json!("2024-01-02T03:04:05.678+00:00"))), vec![1]),
        (infix(field("price"), "OpGreaterThanOrEqual", literal(json!(1.5))), vec![1, 2, big]),
        (infix(field("price"), "OpEqual", literal(json!("12345678901234567890.123"))), vec![big]),
        (infix(field("tags"), "OpEqual", literal(json!(["x", "y z"]))), vec![1]),
        (infix(field("tags"), "OpEqual", literal(json!([]))), vec![2]),
        (infix(field("tags"), "OpEqual", literal(json!([null, "q"]))), vec![big]),
        (infix(field("meta"), "OpEqual", literal(json!([1, 2]))), vec![2]),
        // Without a column beside it an array is one of what its elements are.
        (
            infix(literal(json!([1, 2.5])), "OpEqual", literal(json!([1.0, 2.5]))),
            vec![1, 2, 3, big],
        ),
        (
            infix(literal(json!([[true], [false]])), "OpEqual", literal(json!([[true], [true]]))),
            vec![],
        ),
        (
            infix(literal(json!(["a", "b"])), "OpLessThan", literal(json!(["a", "c"]))),
            vec![1, 2, 3, big],
        ),
        (
            infix(literal(json!([{"k": 1}])), "OpNotEqual", literal(json!(["x"]))),
            vec![1, 2, 3, big],
        ),
        (infix(field("meta"), "OpEqual", literal(json!({"k": [1]}))), vec![1]),
        (infix(field("feeling"), "OpEqual", literal(json!("sad"))), vec![2]),
        (infix(field("raw"), "OpEqual", literal(json!("\\x01ff"))), vec![1]),
        (infix(field("raw"), "OpEqual", literal(json!("abc"))), vec![2]),
        (infix(field("words"), "OpTSMatch", cat), vec![1, 2]),
        (infix(field("small"), "OpEqual", literal(json!(1.6))), vec![2]),
        (infix(field("type_"), "OpEqual", literal(json!("t\"; DROP TABLE x"))), vec![big]),
        (infix(field("type"), "OpEqual", literal(json!("t1"))), vec![1]),
        (infix(field("is_done"), "OpEqual", field("isDone")), vec![1, 2, big]),
        (infix(field("id"), "OpGreaterThan", field("small")), vec![big]),
        (literal(json!(true)), vec![1, 2, 3, big]),
        (literal(json!(false)), vec![]),
        (
            infix(
                infix(field("id"), "OpEqual", literal(json!(1))),
                "OpOr",
                infix(
                    infix(field("title"), "OpEqual", literal(json!("b"))),
                    "OpAnd",
                    infix(field("small"), "OpLessThanOrEqual", literal(json!("2"))),
                ),
            ),
            vec![1, 2],
        ),
        (
            json!({"tag": "InfixOperatorExpression", "op": "OpAnd",
                "left": infix(field("id"), "OpEqual", literal(json!(3)))}),
            vec![3],
        ),
    ];
    for (condition, expected) in cases {
        let query = query(&condition, &Value::Null);
        let statement =
            statement::rows(&query, &shape).unwrap_or_else(|error| panic!("{condition}: {error}"));
        let rows = asked(&client, &statement).await;
        let rows = rows.unwrap_or_else(|error| panic!("{condition}: {error:?} in {statement:?}"));
        let ids: Vec<i64> = rows.iter().map(|row| row["id"].as_i64().expect("an id")).collect();
        assert_eq!(ids, expected, "{condition}");
        let (count, _) = aggregate::live_count(&query, &shape).unwrap();
        let group = groups(&client, &count).await.remove(0);
        assert_eq!(
            group,
            [json!([]), json!({"count": expected.len()}), json!([expected.len(), expected.len()])],
            "{condition}"
        );
    }
}

#[tokio::test]
async fn columns_orders_and_windows_are_those_of_the_query() {
    let cluster = Cluster::start();
    let client = cluster.client("postgres").await;
    client.batch_execute(TABLE).await.expect("made");
    let shape = shape();
    let rows = async |more: Value| {
        let statement = statement::rows(&query(&Value::Null, &more), &shape).unwrap();
        asked(&client, &statement).await.unwrap_or_else(|error| panic!("{more}: {error:?}"))
    };
    let selected = json!({"tag": "SelectSpecific", "contents": ["title", "isDone", "type"]});
    assert_eq!(
        rows(json!({"selectedColumns": selected, "limit": 1, "offset": 1})).await,
        [json!({"title": "b", "isDone": false, "type_": "t2"})]
    );
    let all = rows(json!({"limit": 1})).await;
    assert_eq!(all[0]["place"], json!("(1,2)"));
    assert_eq!(all[0]["raw"], json!("\\x01ff"));
    assert_eq!(all[0]["meta"], json!({"k": [1]}));
    assert_eq!(all[0].as_object().unwrap().len(), 13);
    let titles = |rows: Vec<Value>| -> Vec<String> {
        rows.iter().map(|row| row["title"].as_str().unwrap().to_owned()).collect()
    };
    let by_title = json!([{"orderByColumn": "title", "orderByDirection": "Desc"}]);
    assert_eq!(titles(rows(json!({"orderByClause": by_title})).await), ["c", "big", "b", "a"]);
    let distinct = json!([{"orderByColumn": "isDone", "orderByDirection": "Asc"},
                          {"orderByColumn": "id", "orderByDirection": "Desc"}]);
    let found = rows(json!({"orderByClause": distinct, "distinctOnColumn": "isDone"})).await;
    assert_eq!(titles(found), ["b", "big", "c"]);
    let rank = |direction: Option<&str>| {
        let mut rank = json!({"tag": "OrderByTSRank", "tsvector": "words", "tsquery": "sat | cat"});
        if let Some(direction) = direction {
            rank["orderByDirection"] = json!(direction);
        }
        json!({"orderByClause": [rank], "limit": 2})
    };
    assert_eq!(
        titles(rows(rank(None)).await),
        ["b", "a"],
        "the worst first, as the original has it"
    );
    assert_eq!(titles(rows(rank(Some("Desc"))).await).last().map(String::as_str), Some("big"));
}

#[test]
fn fields_that_are_not_there_and_values_in_wrong_places_are_refused() {
    let shape = shape();
    let refused =
        |condition: Value| statement::rows(&query(&condition, &Value::Null), &shape).unwrap_err();
    let unknown = refused(infix(field("nothing"), "OpEqual", literal(json!(1))));
    assert!(matches!(&unknown, Unknown::Field { field, .. } if field == "nothing"), "{unknown}");
    let injected = refused(infix(field("id\" = 1 OR \"id"), "OpEqual", literal(json!(1))));
    assert!(matches!(injected, Unknown::Field { .. }), "{injected}");
    assert!(matches!(refused(infix(field("id"), "OpIn", literal(json!(1)))), Unknown::Place(_)));
    assert!(matches!(refused(infix(field("id"), "OpEqual", list(json!([])))), Unknown::Place(_)));
    for array in [json!([]), json!([[]]), json!([[[[[[[1]]]]]]])] {
        assert!(matches!(refused(literal(array)), Unknown::Place(_)));
    }
}

fn grouped(group_by: &Value, aggregates: &Value, more: &Value) -> (Query, Aggregation) {
    let mut query = json!({"table": "my tasks", "selectedColumns": {"tag": "SelectAll"}, "whereCondition": null,
                           "orderByClause": [{"orderByColumn": "id", "orderByDirection": "Desc"}]});
    for (key, value) in more.as_object().into_iter().flatten() {
        query[key] = value.clone();
    }
    let message = json!({"tag": "DataSyncAggregateQuery", "requestId": 1, "query": query,
                         "groupBy": group_by, "aggregates": aggregates});
    match Request::read(&message.to_string()).map(|read| read.message) {
        Ok(Message::QueryGroups { query, groups, .. }) => (query, groups),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn issue_6_2_groups_are_what_postgres_computes() {
    let cluster = Cluster::start();
    let client = cluster.client("postgres").await;
    client.batch_execute(TABLE).await.unwrap();
    let (mut shape, of) = (shape(), |tag: &str, field: &str| json!({"tag": tag, "field": field}));
    let (query, groups_of) = grouped(
        &json!(["isDone"]),
        &json!({"a \"name\"": {"tag": "Count"}, "priced": of("Count", "price"), "sum": of("Sum", "price"),
                "mean": of("Avg", "small"), "first": of("Min", "due"), "last": of("Max", "title")}),
        &Value::Null,
    );
    let statement = aggregate::groups(&query, &groups_of, &shape).unwrap();
    let mut once = asked(&client, &statement).await.unwrap();
    once.sort_by_key(|group| group["isDone"].to_string());
    let group = |done: Value,
                 rows: i64,
                 priced: i64,
                 sum: Value,
                 mean: Value,
                 first: Value,
                 last: &str| {
        json!({"isDone": done, "a \"name\"": rows, "priced": priced, "sum": sum, "mean": mean, "first": first, "last": last})
    };
    let (early, late) =
        (json!("2023-01-01T00:00:00+00:00"), json!("2024-01-02T03:04:05.678+00:00"));
    let large: Value = serde_json::from_str("12345678901234567891.623").unwrap();
    let expected = [
        group(json!(false), 1, 1, json!(2), json!(2.0), early, "b"),
        group(Value::Null, 1, 0, Value::Null, Value::Null, Value::Null, "c"),
        group(json!(true), 2, 2, large, json!(2.0), late, "big"),
    ];
    assert_eq!(once, expected);
    // As it is kept live it is the same, with keys and what it takes to keep it.
    let (statement, wants) = aggregate::live_groups(&query, &groups_of, &shape).unwrap();
    let mut live = groups(&client, &statement).await;
    live.sort_by_key(|[key, ..]| key.to_string());
    let records: Vec<&Value> = live.iter().map(|[_, record, _]| record).collect();
    assert_eq!(records, expected.iter().collect::<Vec<_>>());
    assert_eq!(live[0][0], json!([false]));
    assert_eq!(live[0][2], json!([1, 1, "2023-01-01 00:00:00+00", "b", [1, 2], 1, [1, 2, 0, 0]]));
    assert_eq!((wants.by.len(), wants.aggregates.len()), (1, 6));
    // The rows of a window are grouped, and without groups there is one of no row, too.
    let count = json!({"n": {"tag": "Count"}, "sum": of("Sum", "small"), "ids": of("Max", "id")});
    for (more, expected) in [
        (json!({"limit": 2}), json!({"n": 2, "sum": 3, "ids": 9_007_199_254_740_993_i64})),
        (json!({"limit": 0}), json!({"n": 0, "sum": null, "ids": null})),
    ] {
        let (query, groups) = grouped(&json!([]), &count, &more);
        let statement = aggregate::groups(&query, &groups, &shape).unwrap();
        assert_eq!(asked(&client, &statement).await.unwrap(), [expected]);
    }
    // Large numbers as texts, where that is chosen.
    for column in [0, 4] {
        shape.columns[column].as_text = true;
    }
    let (query, groups_of) = grouped(&json!(["id"]), &count, &json!({"limit": 1}));
    let (statement, _) = aggregate::live_groups(&query, &groups_of, &shape).unwrap();
    let id = "9007199254740993";
    assert_eq!(
        groups(&client, &statement).await[0][..2],
        [json!([id]), json!({"id": id, "n": 1, "sum": 3, "ids": id})]
    );
}

#[test]
fn issue_6_2_what_cannot_be_computed_is_refused_with_what_to_write() {
    let refused = |group_by: Value, aggregate: Value| {
        let (query, groups) = grouped(&group_by, &json!({"x": aggregate}), &Value::Null);
        aggregate::groups(&query, &groups, &shape()).unwrap_err().to_string()
    };
    let of = |tag: &str, field: &str| json!({"tag": tag, "field": field});
    for (group_by, aggregate, expected) in [
        (
            json!([]),
            of("Sum", "title"),
            "sum takes numbers and intervals, and \"title\" has the type text. Count its values, or group by it",
        ),
        (
            json!([]),
            of("Avg", "isDone"),
            "avg takes numbers and intervals, and \"isDone\" has the type boolean. Count its values, or group by it",
        ),
        (
            json!([]),
            of("Max", "meta"),
            "max takes values that have an order, and \"meta\" has the type jsonb. Count its values",
        ),
        (
            json!(["place"]),
            of("Count", "id"),
            "rows cannot be grouped by \"place\": the database does not compare values of the type point. Group by a \
             column that has of it what you need",
        ),
        (
            json!(["tags"]),
            of("Count", "id"),
            "rows cannot be grouped by \"tags\": arrays that are not equal may be the same in JSON. Group by a column \
             that has of it what you need",
        ),
        (json!(["owner"]), of("Count", "id"), "the table my tasks has no field owner"),
        (json!([]), of("Min", "nothing"), "the table my tasks has no field nothing"),
        (
            json!(["isDone", "is_done"]),
            of("Count", "id"),
            "\"isDone\" stands twice in a group: as a field of groupBy, and as another one or an aggregate",
        ),
        (
            json!(["is_done"]),
            of("Count", "id"),
            "groupBy has \"is_done\", whose name is \"isDone\"",
        ),
    ] {
        assert_eq!(refused(group_by, aggregate), expected);
    }
}
