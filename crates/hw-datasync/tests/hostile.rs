//! Messages that nobody well-meaning sends: each is answered or ends its own socket, and nothing else happens.

use hw_datasync::DataSyncOptions;
use hw_testkit::wheres::{HOSTILE, Wheres};
use hw_write::StatementOptions;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::rest;
use crate::rig::{Rig, Socket, create, equal, query, select, update};

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

/// What stands in the part of an address behind its path, or in one segment of that.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Fields of `tasks` with values that mean something there.
fn of_tasks() -> Wheres {
    let hostile: Vec<Value> = HOSTILE.iter().map(|text| json!(text)).collect();
    let fields = [
        ("title", hostile.clone()),
        ("slug", hostile),
        ("isDone", vec![json!(true), json!(false), json!(1)]),
        ("createdAt", vec![json!("2024-01-02T03:04:05.678Z")]),
        ("tags", vec![json!([]), json!(["a", null]), json!(HOSTILE[..3])]),
        ("n", vec![json!(1), json!(1.5), json!("2"), json!(i64::MAX)]),
        ("price", vec![json!(1), json!("1.50"), json!(1e300)]),
    ];
    Wheres { fields: fields.map(|(name, values)| (name.to_owned(), values)).into() }
}

fn sorted(rows: &Value) -> Vec<String> {
    let mut rows: Vec<String> =
        rows.as_array().expect("rows").iter().map(Value::to_string).collect();
    rows.sort();
    rows
}

/// F-71: whatever is asked, in whatever part of a request, it is of rows that are the caller's.
#[tokio::test]
async fn f_71_hostile_conditions_orders_groups_and_ids_show_nothing_of_others() {
    let mut rng = StdRng::seed_from_u64(1);
    let rig = Rig::start().await;
    let rows = "INSERT INTO tasks (owner, title, slug, n, price, tags) SELECT owner, title, owner || n, n, n, '{a}'
                FROM unnest('{amy,bob}'::text[]) AS owner, generate_series(1, 6) AS n,
                LATERAL (SELECT CASE owner WHEN 'bob' THEN 'hush' ELSE (ARRAY['', '$1', 'true', 'id', 'a', '1'])[n] END) t (title)";
    rig.sql.batch_execute(rows).await.expect("inserted");
    let hidden = |answer: &Value| !answer.to_string().contains("hush");
    let wheres = of_tasks();
    let mut amy = rig.connect("amy").await;
    let (mut answered, mut refused) = (0, 0);
    for _ in 0..150 {
        let condition = wheres.condition(&mut rng, 3);
        let all = query("tasks", json!({"whereCondition": condition}));
        let once = amy.ask(json!({"tag": "DataSyncQuery", "query": all})).await;
        assert!(hidden(&once), "{condition}: {once}");
        let path = format!("/api/tasks?where={}", encoded(&condition.to_string()));
        let (status, rows) = rest::ask(&rig, "amy", "GET", &path, Value::Null).await;
        assert!(hidden(&rows), "{condition}: {rows}");
        let count = json!({"n": {"tag": "Count"}});
        let groups = json!({"tag": "DataSyncAggregateQuery", "query": all, "groupBy": [], "aggregates": count});
        let counted = amy.ask(groups).await;
        if once["tag"] == "DataSyncError" {
            refused += 1;
            assert_eq!(
                (&once["code"], &once["sqlstate"]),
                (&rows["error"]["code"], &rows["error"]["sqlstate"])
            );
            assert_eq!(counted["tag"], "DataSyncError", "{condition}: {counted}");
            continue;
        }
        answered += 1;
        assert_eq!((status, sorted(&rows)), (200, sorted(&once["result"])), "{condition}");
        assert_eq!(counted["result"][0]["n"], sorted(&rows).len(), "{condition}");
    }
    assert!(answered > 50 && refused > 10, "{answered}, {refused}");
    let own = rig.ask("SELECT id FROM tasks WHERE owner = 'bob' LIMIT 1").await;
    // Without a text there is no such path.
    for text in HOSTILE.iter().chain(&NASTY).filter(|text| !text.is_empty()) {
        let text = encoded(text);
        for path in [
            format!("/api/tasks/{text}"),
            format!("/api/tasks/{own}{text}"),
            format!("/api/tasks?orderBy={text}"),
            format!("/api/tasks?orderBy=title,{text}"),
            format!("/api/tasks?fields={text}"),
            format!("/api/tasks?distinctOnColumn={text}"),
            format!("/api/tasks?where={text}"),
            format!("/api/{text}"),
        ] {
            let (status, answer) = rest::ask(&rig, "amy", "GET", &path, Value::Null).await;
            assert!(hidden(&answer), "{path}: {answer}");
            let is_answer = answer.is_array() || answer.is_null();
            assert!(
                status == 200 && is_answer || (400..500).contains(&status),
                "{path}: {status}, {answer}"
            );
        }
    }
    let (_, none) = rest::ask(&rig, "amy", "GET", &format!("/api/tasks/{own}"), Value::Null).await;
    assert_eq!(none, Value::Null);
    for text in HOSTILE.iter().chain(&NASTY) {
        let named = json!({(*text).to_owned(): {"tag": "Max", "field": "title"}});
        for (group_by, aggregates) in [
            (json!([text]), json!({"n": {"tag": "Count"}})),
            (json!([]), json!({"n": {"tag": "Max", "field": text}})),
            (json!([]), json!({"n": {"tag": text, "field": "title"}})),
            (json!(["isDone"]), named),
        ] {
            let all = query("tasks", json!({}));
            let message = json!({"tag": "DataSyncAggregateQuery", "query": all, "groupBy": group_by, "aggregates": aggregates});
            let answer = amy.ask(message.clone()).await;
            assert!(hidden(&answer), "{message}: {answer}");
        }
    }
    assert_eq!(rig.ask("SELECT count(*) FROM tasks").await, "12");
}

/// A column that is not granted decides nothing that is told, wherever it is named.
#[tokio::test]
async fn f_71_what_is_not_granted_is_not_told_by_conditions_orders_or_groups() {
    let mut rng = StdRng::seed_from_u64(2);
    let rig = Rig::start().await;
    let make = "CREATE TABLE granted (id int4 PRIMARY KEY, n int4, secret text);
                ALTER TABLE granted ENABLE ROW LEVEL SECURITY; CREATE POLICY all_ ON granted USING (true);
                GRANT SELECT (id, n) ON granted TO headwater_authenticated;
                INSERT INTO granted SELECT n, n, 'a' FROM generate_series(1, 6) AS n";
    rig.sql.batch_execute(make).await.expect("made");
    let fields = [
        ("secret", vec![json!("a"), json!("b"), json!("")]),
        ("n", vec![json!(1), json!(5)]),
        ("id", vec![json!(3)]),
    ];
    let wheres = Wheres { fields: fields.map(|(name, values)| (name.to_owned(), values)).into() };
    let order = |field: &str| json!([{"orderByColumn": field, "orderByDirection": "Desc"}]);
    let ids = |more: Value| {
        let mut ids = query("granted", more);
        ids["selectedColumns"] = select(&["id"]);
        ids
    };
    let mut messages: Vec<Value> = [
        ids(json!({"orderByClause": order("secret"), "limit": 1})),
        ids(json!({"distinctOnColumn": "secret"})),
        query("granted", json!({"selectedColumns": select(&["secret"])})),
        query("granted", json!({})),
    ]
    .map(|query| json!({"tag": "DataSyncQuery", "query": query}))
    .into();
    for (group_by, aggregates) in [
        (json!(["secret"]), json!({"n": {"tag": "Count"}})),
        (json!(["n"]), json!({"most": {"tag": "Max", "field": "secret"}})),
    ] {
        messages.push(json!({"tag": "DataSyncAggregateQuery", "query": ids(json!({})), "groupBy": group_by, "aggregates": aggregates}));
    }
    let mut amy = rig.connect("amy").await;
    for message in &messages {
        let answer = amy.ask(message.clone()).await;
        assert_eq!(answer["sqlstate"], "42501", "{message}: {answer}");
    }
    messages.clear();
    for _ in 0..120 {
        let fields = ["n", "id", "secret"].choose(&mut rng).expect("there are some");
        let order = if rng.random_bool(0.3) { order(fields) } else { json!([]) };
        let condition = wheres.condition(&mut rng, 2);
        let query = ids(json!({"whereCondition": condition, "orderByClause": order}));
        messages.push(json!({"tag": "DataSyncQuery", "query": query}));
    }
    async fn answers(amy: &mut Socket, messages: &[Value]) -> Vec<Value> {
        let mut answers = Vec::new();
        for message in messages {
            let mut answer = amy.ask(message.clone()).await;
            answer.as_object_mut().expect("an object").remove("requestId");
            answers.push(answer);
        }
        answers
    }
    let one = answers(&mut amy, &messages).await;
    rig.sql
        .batch_execute("UPDATE granted SET secret = CASE WHEN id > 3 THEN 'b' END")
        .await
        .expect("changed");
    let rewritten = "CREATE TABLE other AS SELECT * FROM granted ORDER BY id; TRUNCATE granted; INSERT INTO granted SELECT * FROM other";
    rig.sql.batch_execute(rewritten).await.expect("in their order again");
    let other = answers(&mut amy, &messages).await;
    for ((message, one), other) in messages.iter().zip(&one).zip(&other) {
        assert_eq!(one, other, "{message}");
    }
    let results = one.iter().filter(|answer| answer["tag"] == "DataSyncResult").count();
    let denied = one.iter().filter(|answer| answer["sqlstate"] == "42501").count();
    assert!(results > 20 && denied > 20, "{results}, {denied}");
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
