//! Messages that nobody well-meaning sends: each is answered or ends its own socket, and nothing else happens.

use hw_datasync::DataSyncOptions;
use hw_write::StatementOptions;
use serde_json::{Value, json};

use crate::rig::{Rig, create, equal, query, update};

/// Names and values that would mean something if they were pasted into SQL.
const NASTY: [&str; 12] = [
    "\"; DROP TABLE tasks; --",
    "'; DROP TABLE tasks; --",
    "\\",
    "a\" FROM bare; --",
    "$1",
    "{}",
    "%s",
    "t.\"id\"",
    "id\") OR (1=1",
    "\u{202e}id",
    "''",
    "ctid",
];

#[tokio::test]
async fn ds_13_names_of_strangers_never_become_sql() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    for name in NASTY {
        let read = |more: Value| json!({"tag": "DataSyncQuery", "query": query("tasks", more)});
        let order = |field: &str| json!([{"orderByColumn": field, "orderByDirection": "Asc"}]);
        let rank = json!([{"tag": "OrderByTSRank", "tsvector": name, "tsquery": "a"}]);
        for message in [
            json!({"tag": "DataSyncQuery", "query": query(name, json!({}))}),
            read(json!({"selectedColumns": {"tag": "SelectSpecific", "contents": [name]}})),
            read(json!({"whereCondition": equal(name, json!(1))})),
            read(json!({"whereCondition": {"tag": "ColumnExpression", "field": name}})),
            read(json!({"orderByClause": order(name)})),
            read(json!({"orderByClause": rank})),
            read(json!({"distinctOnColumn": name})),
            create("tasks", json!({name: 1})),
            create(name, json!({"id": 1})),
            update("tasks", json!("1"), json!({name: 1})),
            json!({"tag": "DeleteRecordMessage", "table": name, "id": "1"}),
            json!({"tag": "CommitTransaction", "id": name}),
            json!({"tag": "DeleteDataSubscription", "subscriptionId": name}),
        ] {
            let answer = amy.ask(message.clone()).await;
            assert_eq!(answer["tag"], "DataSyncError", "{message}: {answer}");
            let code = answer["code"].as_str().expect("a code");
            assert!(["HW5305", "HW5402", "HW5405"].contains(&code), "{message}: {answer}");
        }
    }
    assert_eq!(rig.ask("SELECT count(*) FROM bare").await, "1");
}

#[tokio::test]
async fn ds_13_values_of_strangers_are_values() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    for value in NASTY {
        let answer = amy
            .ask(create(
                "tasks",
                json!({"title": value, "tags": [value, null], "meta": {value: value}}),
            ))
            .await;
        assert_eq!(answer["tag"], "DidCreateRecord", "{answer}");
        let record = &answer["record"];
        assert_eq!(record["title"], value);
        assert_eq!(
            (&record["tags"], &record["meta"]),
            (&json!([value, null]), &json!({value: value}))
        );
        let found =
            amy.rows(query("tasks", json!({"whereCondition": equal("title", json!(value))}))).await;
        assert_eq!(found.as_array().map(Vec::len), Some(1), "{value}");
        let found = amy
            .rows(query("tasks", json!({"whereCondition": equal("tags", json!([value, null]))})))
            .await;
        assert_eq!(found.as_array().map(Vec::len), Some(1), "{value}");
    }
}

#[tokio::test]
async fn ds_13_bad_messages_are_answered_and_never_close_the_socket() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    let deep = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let message = |field: &str, json: &str| {
        format!(
            r#"{{"tag":"CreateRecordMessage","requestId":5,"table":"tasks","record":{{"{field}":{json}}}}}"#
        )
    };
    for text in [
        "".to_owned(),
        "null".into(),
        "[]".into(),
        "\"text\"".into(),
        "{".into(),
        "{}".into(),
        deep(100_000),
        r#"{"tag":"StartTransaction"}"#.into(),
        r#"{"tag":"StartTransaction","requestId":"0"}"#.into(),
        r#"{"tag":"StartTransaction","requestId":1.5}"#.into(),
        r#"{"tag":"StartTransaction","requestId":99999999999999999999}"#.into(),
    ] {
        amy.send_text(&text).await;
        let answer = amy.receive().await;
        assert_eq!(answer["tag"], "FailedToDecodeMessageError", "{answer}");
        assert!(answer.get("requestId").is_none());
    }
    for text in [
        r#"{"tag":"Nothing","requestId":5}"#.to_owned(),
        r#"{"tag":7,"requestId":5}"#.into(),
        r#"{"requestId":5}"#.into(),
        r#"{"tag":"DataSyncQuery","requestId":5,"query":7}"#.into(),
        r#"{"tag":"UpdateRecordMessage","requestId":5,"table":"tasks","id":null,"patch":{}}"#
            .into(),
        r#"{"tag":"UpdateRecordMessage","requestId":5,"table":"tasks","id":{},"patch":{}}"#.into(),
        r#"{"tag":"CreateRecordMessage","requestId":5,"table":["tasks"],"record":{}}"#.into(),
        r#"{"tag":"CreateRecordMessage","requestId":5,"table":"tasks","record":[]}"#.into(),
        r#"{"tag":"CreateRecordsMessage","requestId":5,"table":"tasks","records":{}}"#.into(),
        r#"{"tag":"CommitTransaction","requestId":5,"id":5}"#.into(),
        message("title", &deep(5)),
        message("n", "{}"),
        message("n", "\"\""),
        message("tags", "[[1],2]"),
        message("meta", &deep(50_000)),
        message("isDone", "\"maybe\""),
    ] {
        amy.send_text(&text).await;
        let answer = amy.receive().await;
        let is_row = answer["tag"] == "DidCreateRecord" && text.contains("title");
        assert!(answer["tag"] == "DataSyncError" || is_row, "{text:.100}: {answer}");
        assert_eq!(answer["requestId"], 5);
    }
    assert_eq!(amy.ask(create("counters", json!({"id": 1}))).await["tag"], "DidCreateRecord");
}

#[tokio::test]
async fn ds_5_conditions_have_bounds() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    let and = |left: &str, right: &str| {
        format!(r#"{{"tag":"InfixOperatorExpression","op":"OpAnd","left":{left},"right":{right}}}"#)
    };
    let done = r#"{"tag":"ColumnExpression","field":"isDone"}"#;
    let nested = |depth: usize| (1..depth).fold(done.to_owned(), |inner, _| and(&inner, done));
    let list = |length: usize| {
        let values = vec!["1"; length].join(",");
        format!(
            r#"{{"tag":"InfixOperatorExpression","op":"OpIn","left":{{"tag":"ColumnExpression","field":"n"}},
               "right":{{"tag":"ListExpression","values":[{values}]}}}}"#
        )
    };
    let many = (0..6).fold(list(10_000), |left, _| and(&left, &list(10_000)));
    for (condition, code) in [
        (nested(64), None),
        (nested(65), Some("HW5401")),
        (nested(5_000), Some("HW5401")),
        (list(10_000), None),
        (list(10_001), Some("HW5401")),
        (many, Some("HW5310")),
    ] {
        let text = format!(
            r#"{{"tag":"DataSyncQuery","requestId":1,"query":{{"table":"tasks","selectedColumns":{{"tag":"SelectAll"}},
               "whereCondition":{condition},"orderByClause":[]}}}}"#
        );
        amy.send_text(&text).await;
        let answer = amy.receive().await;
        assert_eq!(answer["code"].as_str(), code, "{answer}");
    }
    for (key, value) in [("limit", json!(-1)), ("offset", json!(1.5)), ("limit", json!("1"))] {
        let message = json!({"tag": "DataSyncQuery", "query": query("tasks", json!({key: value}))});
        assert_eq!(amy.ask(message).await["code"], "HW5401");
    }
    let last = query("tasks", json!({"limit": i64::MAX, "offset": i64::MAX}));
    assert_eq!(amy.rows(last).await, json!([]));
}

/// Postgres has no such name, and would take it for the end of a message.
#[tokio::test]
async fn ds_13_a_name_with_a_nul_is_that_of_no_table() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    for name in ["\0", "tasks\0", "a\0b"] {
        for message in [
            json!({"tag": "DataSyncQuery", "query": query(name, json!({}))}),
            create(name, json!({})),
            json!({"tag": "DeleteRecordMessage", "table": name, "id": "1"}),
        ] {
            let answer = amy.ask(message).await;
            assert_eq!(
                (&answer["code"], &answer["sqlstate"]),
                (&json!("HW5305"), &json!("42P01")),
                "{answer}"
            );
        }
    }
}

/// What only Postgres can find out is told in words about the request.
#[tokio::test]
async fn ds_13_what_is_too_much_for_the_database_is_said_so() {
    let statements = StatementOptions { max_result_bytes: 100_000, ..StatementOptions::default() };
    let rig = Rig::start_with(DataSyncOptions::default(), statements, &[]).await;
    rig.sql.batch_execute("ALTER TABLE lines ADD COLUMN found tsvector").await.expect("altered");
    let mut amy = rig.connect("amy").await;
    let search = |text: &str| {
        let condition = json!({
            "tag": "InfixOperatorExpression", "op": "OpTSMatch",
            "left": {"tag": "ColumnExpression", "field": "found"},
            "right": {"tag": "CallExpression", "functionCall": {"tag": "ToTSQuery", "text": text}},
        });
        json!({"tag": "DataSyncQuery", "query": query("lines", json!({"whereCondition": condition}))})
    };
    let fields = vec!["n"; 1_700];
    let many =
        query("lines", json!({"selectedColumns": {"tag": "SelectSpecific", "contents": fields}}));
    let long = json!({"tenant": "a", "n": 1, "words": "x".repeat(200_000)});
    for (message, sqlstate, words) in [
        (search("a b"), json!("42601"), "ToTSQuery"),
        (search(&format!("{}a", "!".repeat(100))), json!("XX000"), "nests too deeply"),
        (
            search(&format!("{}a{}", "(".repeat(200_000), ")".repeat(200_000))),
            json!("54001"),
            "nests too deeply",
        ),
        (json!({"tag": "DataSyncQuery", "query": many}), json!("54011"), "select fewer fields"),
        (create("lines", long), Value::Null, "nothing was written; write fewer rows"),
    ] {
        let answer = amy.ask(message).await;
        assert_eq!(answer["tag"], "DataSyncError");
        assert_eq!(answer["sqlstate"], sqlstate, "{answer}");
        let message = answer["errorMessage"].as_str().expect("a text");
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(rig.ask("SELECT count(*) FROM lines").await, "0");
}
