//! Live queries and what becomes of their tables and of the slot, as raw messages: `datasync.md` 10.5, rules 3 and 8 to 12.

use futures_util::SinkExt as _;
use hw_testkit::poll_until;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::live_queries::{Rig, Socket, query, select};

/// A table that is not replicated yet is waited for, and not longer than is said.
#[tokio::test]
async fn ds_10_5_a_subscription_waits_for_its_table_to_enter() {
    let rig = Rig::start_with("{datasync: {table_wait: 2 s}}", &[]).await;
    rig.run("INSERT INTO tasks (id, owner, title) VALUES (1, 'amy', 'a')").await;
    // It can be read, and not published.
    let other = rig.session().await;
    let lock = "BEGIN; LOCK TABLE tasks IN SHARE UPDATE EXCLUSIVE MODE";
    other.batch_execute(lock).await.expect("locked");
    let mut amy = rig.connect("amy").await;
    let subscribe = json!({"tag": "CreateDataSubscription", "query": query("tasks", json!({}))});
    let refused = amy.ask(subscribe.clone()).await;
    assert_eq!(
        (&refused["tag"], &refused["code"]),
        (&json!("DataSyncError"), &json!("HW5415")),
        "{refused}"
    );
    let said = refused["errorMessage"].as_str().expect("a sentence");
    assert!(said.contains("public.tasks is being copied"), "{said}");
    // One that waits is answered when it has entered, with what is there by then, and nothing is lost behind it.
    amy.socket
        .send(Message::text(
            json!({"tag": "CreateDataSubscription", "requestId": 70, "query": query("tasks", json!({}))})
                .to_string(),
        ))
        .await
        .expect("sent");
    rig.run("UPDATE tasks SET title = 'b' WHERE id = 1").await;
    other.batch_execute("COMMIT").await.expect("unlocked");
    let mut answer = amy.receive().await;
    while answer["code"] == "HW5415" {
        answer = amy.ask(subscribe.clone()).await;
    }
    assert_eq!(answer["tag"], "DidCreateDataSubscription", "{answer}");
    assert_eq!(answer["result"][0]["title"], "b");
    rig.is_planned(1).await;
    for title in ["c", "d"] {
        rig.run(&format!("UPDATE tasks SET title = '{title}' WHERE id = 1")).await;
        assert_eq!(amy.push().await["changeSet"], json!({"title": title}));
    }
}

/// Nobody is asked for ever for what cannot be followed.
#[tokio::test]
async fn ds_10_5_12_what_cannot_be_followed_is_refused_with_the_reason_and_ends() {
    let rig = Rig::start_with("{datasync: {table_wait: 2 s}}", FINDINGS_OF_KEYS).await;
    rig.run(
        "CREATE UNLOGGED TABLE drafts (id int4 PRIMARY KEY);
         ALTER TABLE drafts ENABLE ROW LEVEL SECURITY;
         CREATE POLICY all_of_it ON drafts FOR SELECT USING (true);
         GRANT SELECT ON drafts TO headwater_authenticated;
         INSERT INTO tasks (id, owner) VALUES (1, 'amy')",
    )
    .await;
    let mut amy = rig.connect("amy").await;
    for tag in ["CreateDataSubscription", "CreateCountSubscription"] {
        let refused = amy.ask(json!({"tag": tag, "query": query("drafts", json!({}))})).await;
        assert_eq!(
            (&refused["tag"], &refused["code"]),
            (&json!("DataSyncError"), &json!("HW5416")),
            "{refused}"
        );
        let said = refused["errorMessage"].as_str().expect("a sentence");
        assert!(said.contains("public.drafts is an unlogged table"), "{said}");
    }
    assert_eq!(rig.status().await["live"]["results"], 0);
    // Queries need no more than Postgres.
    let asked = amy.ask(json!({"tag": "DataSyncQuery", "query": query("drafts", json!({}))})).await;
    assert_eq!(asked["result"], json!([]), "{asked}");
    let (id, _) = amy.subscribe(query("tasks", json!({}))).await;
    rig.is_planned(1).await;
    rig.run("ALTER TABLE tasks DROP CONSTRAINT tasks_pkey").await;
    assert_eq!(
        amy.push().await,
        json!({"tag": "DidDelete", "subscriptionId": id, "id": 1}),
        "it goes with its rows"
    );
    let ended = amy.push().await;
    assert_eq!(
        (&ended["tag"], &ended["subscriptionId"], &ended["code"], &ended["requestId"]),
        (&json!("DataSyncError"), &json!(id), &json!("HW5416"), &Value::Null),
        "{ended}"
    );
    assert_eq!(rig.status().await["live"]["results"], 0);
}

/// What the server says of a table that has lost its key.
const FINDINGS_OF_KEYS: &[&str] = &["HW5416", "HW4308", "HW2106", "the table leaves the replica"];

fn ascending(columns: &[&str]) -> Value {
    let order = |column: &&str| json!({"orderByColumn": column, "orderByDirection": "Asc"});
    columns.iter().map(order).collect()
}

/// So many pushes, by their tags.
async fn pushes(socket: &mut Socket, count: usize) -> Vec<Value> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(socket.push().await);
    }
    all.sort_by_key(|push| push["tag"].as_str().map(str::to_owned));
    all
}

#[tokio::test]
async fn ds_10_5_3_a_commit_is_told_as_its_net_effect_and_never_as_nothing() {
    let rig = Rig::start().await;
    rig.run("INSERT INTO tasks (id, owner, title) VALUES (1, 'amy', 'a'), (2, 'amy', 'b')").await;
    let mut amy = rig.connect("amy").await;
    let fields = json!({"selectedColumns": select(&["id", "title"])});
    amy.subscribe(query("tasks", fields)).await;
    rig.is_planned(1).await;
    let told = [
        // What came and went is nothing, and what is as it was is touched, once.
        (
            "INSERT INTO tasks (id, owner) VALUES (9, 'amy'); UPDATE tasks SET title = 'x' WHERE id = 1;
             UPDATE tasks SET title = 'a' WHERE id = 1; DELETE FROM tasks WHERE id = 9",
            json!({"tag": "DidUpdate", "id": 1}),
        ),
        (
            "DELETE FROM tasks WHERE id = 2; INSERT INTO tasks (id, owner, title) VALUES (2, 'amy', 'c')",
            json!({"tag": "DidUpdate", "id": 2, "changeSet": {"title": "c"}}),
        ),
        // To another and back.
        (
            "UPDATE tasks SET owner = 'bob' WHERE id = 1; UPDATE tasks SET owner = 'amy' WHERE id = 1",
            json!({"tag": "DidUpdate", "id": 1}),
        ),
    ];
    for (sql, expected) in told {
        rig.run(&format!("BEGIN; {sql}; COMMIT")).await;
        let mut push = amy.push().await;
        push.as_object_mut().expect("an object").remove("subscriptionId");
        assert_eq!(push, expected, "{sql}");
    }
}

#[tokio::test]
async fn ds_10_5_8_windows_with_an_offset_or_of_distinct_rows_are_kept_full() {
    let rig = Rig::start().await;
    rig.run(
        "INSERT INTO tasks (id, owner, title, n)
         SELECT n, 'amy', chr(97 + n / 3), 10 * n FROM generate_series(1, 6) AS n",
    )
    .await;
    let mut amy = rig.connect("amy").await;
    let fields = select(&["n"]);
    let window = json!({"limit": 2, "offset": 1, "selectedColumns": fields, "orderByClause": ascending(&["n"])});
    let (id, first) = amy.subscribe(query("tasks", window)).await;
    assert_eq!(first, json!([{"n": 20}, {"n": 30}]));
    rig.run("DELETE FROM tasks WHERE id = 1").await;
    let both = pushes(&mut amy, 2).await;
    assert_eq!((&both[0]["id"], &both[1]["record"]), (&json!(2), &json!({"n": 40})), "{both:?}");
    let answer = amy.ask(json!({"tag": "DeleteDataSubscription", "subscriptionId": id})).await;
    assert_eq!(answer["tag"], "DidDeleteDataSubscription");
    let distinct = json!({"distinctOnColumn": "title", "selectedColumns": fields,
        "orderByClause": ascending(&["title", "n"])});
    let (_, first) = amy.subscribe(query("tasks", distinct)).await;
    assert_eq!(first, json!([{"n": 20}, {"n": 30}, {"n": 60}]));
    rig.run("UPDATE tasks SET n = 55 WHERE id = 3").await;
    let both = pushes(&mut amy, 2).await;
    assert_eq!((&both[0]["id"], &both[1]["record"]), (&json!(3), &json!({"n": 40})), "{both:?}");
}

#[tokio::test]
async fn ds_10_5_9_a_change_of_the_schema_is_told_as_what_it_makes_of_the_result() {
    let rig = Rig::start_with(
        "{}",
        // Some come while the one before has the table copied.
        &[
            "it is copied again and compared",
            "the table is copied again and compared",
            "while it was copied",
        ],
    )
    .await;
    rig.run("INSERT INTO tasks (id, owner, n) VALUES (1, 'amy', 1), (2, 'bob', 1)").await;
    let mut amy = rig.connect("amy").await;
    let fields = select(&["id", "n"]);
    amy.subscribe(query("tasks", json!({"selectedColumns": fields}))).await;
    rig.is_planned(1).await;
    for (sql, n) in [
        ("ALTER TABLE tasks ADD COLUMN note text DEFAULT 'x'; UPDATE tasks SET n = 2", json!(2)),
        ("UPDATE tasks SET n = 3", json!(3)),
        ("ALTER TABLE tasks RENAME COLUMN note TO remark; UPDATE tasks SET n = 4", json!(4)),
        ("ALTER TABLE tasks DROP COLUMN remark; UPDATE tasks SET n = 5", json!(5)),
        // All rows are others, and the log says of none of them.
        ("ALTER TABLE tasks ALTER COLUMN n TYPE numeric USING n + 0.5", json!(5.5)),
        ("UPDATE tasks SET n = 7", json!(7)),
    ] {
        rig.run(sql).await;
        loop {
            let push = amy.push().await;
            assert_eq!(
                (&push["tag"], &push["id"]),
                (&json!("DidUpdate"), &json!(1)),
                "{sql}: {push}"
            );
            if push["changeSet"]["n"] == n {
                break;
            }
        }
    }
    // Those that subscribe now have what is there now.
    rig.run("ALTER TABLE tasks ADD COLUMN note text DEFAULT 'x'").await;
    let (_, rows) = amy.subscribe(query("tasks", json!({}))).await;
    assert_eq!((&rows[0]["note"], &rows[0]["n"]), (&json!("x"), &json!(7)), "{rows}");
}

/// What becomes of tables, and of the columns that somebody asks for.
const ENDS: &[&str] = &[
    "ALTER TABLE ended_0 RENAME TO elsewhere",
    "DROP TABLE ended_1",
    "ALTER TABLE ended_2 DROP COLUMN title",
    "ALTER TABLE ended_3 RENAME COLUMN title TO name",
    "REVOKE SELECT ON ended_4 FROM headwater_authenticated",
    "CREATE SCHEMA other; ALTER TABLE ended_5 SET SCHEMA other",
    "ALTER TABLE ended_6 RENAME TO elsewhere_too; CREATE VIEW ended_6 AS SELECT * FROM elsewhere_too",
];

#[tokio::test]
async fn ds_10_5_12_what_a_change_of_the_schema_takes_is_ended_with_its_rows() {
    let rig = Rig::start_with("{}", FINDINGS_OF_ENDS).await;
    let mut amy = rig.connect("amy").await;
    let mut ids = Vec::new();
    for number in 0..ENDS.len() {
        let table = format!("ended_{number}");
        rig.run(&format!(
            "CREATE TABLE {table} (id int4 PRIMARY KEY, title text);
             ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
             CREATE POLICY all_of_it ON {table} FOR SELECT USING (true);
             GRANT SELECT ON {table} TO headwater_authenticated;
             INSERT INTO {table} VALUES (1, 'a')"
        ))
        .await;
        ids.push(amy.subscribe(query(&table, json!({}))).await.0);
    }
    rig.is_planned(ENDS.len()).await;
    for (id, sql) in ids.iter().zip(ENDS) {
        rig.run(sql).await;
        let gone = json!({"tag": "DidDelete", "subscriptionId": id, "id": 1});
        assert_eq!(amy.push().await, gone, "{sql}");
        let end = amy.push().await;
        assert_eq!(
            (&end["tag"], &end["subscriptionId"]),
            (&json!("DataSyncError"), &json!(id)),
            "{sql}: {end}"
        );
        assert!(end.get("requestId").is_none() && end["code"].is_string(), "{sql}: {end}");
        let answer = amy.ask(json!({"tag": "DeleteDataSubscription", "subscriptionId": id})).await;
        assert_eq!(answer["code"], "HW5405", "{sql}: nothing is left of it");
    }
    assert_eq!(rig.status().await["live"]["results"], 0);
}

/// What the server says of tables that go while they are followed.
const FINDINGS_OF_ENDS: &[&str] = &[
    "HW2105",
    "HW2108",
    "HW2115",
    "the table leaves the replica",
    "the table is copied again and compared",
];

#[tokio::test]
async fn ds_10_5_11_a_count_is_told_once_a_commit_and_only_when_it_is_another() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    let answer = amy
        .ask(json!({"tag": "CreateCountSubscription", "query": query("tasks", json!({}))}))
        .await;
    assert_eq!(
        (&answer["tag"], &answer["count"]),
        (&json!("DidCreateCountSubscription"), &json!(0))
    );
    rig.is_planned(1).await;
    let id = answer["subscriptionId"].clone();
    for (sql, count) in [
        (
            "INSERT INTO tasks (id, owner) VALUES (1, 'amy'), (2, 'amy'), (3, 'amy'), (4, 'bob')",
            Some(3),
        ),
        ("UPDATE tasks SET title = 'x'", None),
        ("INSERT INTO tasks (id, owner) VALUES (5, 'amy'); DELETE FROM tasks WHERE id = 5", None),
        ("UPDATE tasks SET owner = CASE owner WHEN 'amy' THEN 'bob' ELSE 'amy' END", Some(1)),
        ("TRUNCATE tasks", Some(0)),
    ] {
        rig.run(&format!("BEGIN; {sql}; COMMIT")).await;
        if let Some(count) = count {
            let told = json!({"tag": "DidChangeCount", "subscriptionId": id, "count": count});
            assert_eq!(amy.push().await, told, "{sql}");
        }
    }
}

/// What was committed while there was no slot is in no stream. It is told all the same, over the same socket, and so is
/// what comes behind it.
#[tokio::test]
async fn ds_10_5_10_behind_a_lost_slot_the_difference_is_told() {
    let mut rig = Rig::start_with("{}", &["HW2012", "the slot was dropped"]).await;
    rig.run("INSERT INTO tasks (id, owner, title) VALUES (1, 'amy', 'a'), (2, 'amy', 'b')").await;
    let mut amy = rig.connect("amy").await;
    let fields = json!({"selectedColumns": select(&["id", "title"])});
    let (id, _) = amy.subscribe(query("tasks", fields)).await;
    rig.is_planned(1).await;
    // A new slot begins behind transactions that were open before it, and does not have them.
    let open = rig.session().await;
    let changes =
        "BEGIN; UPDATE tasks SET title = 'c' WHERE id = 1; DELETE FROM tasks WHERE id = 2;
        INSERT INTO tasks (id, owner, title) VALUES (3, 'amy', 'd'), (4, 'bob', 'e')";
    open.batch_execute(changes).await.expect("changed");
    let drop_slot =
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active;
        SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots";
    let other = rig.session().await;
    poll_until("the slot is dropped", async || {
        other.batch_execute(drop_slot).await.ok()?;
        let left = other.query_one("SELECT count(*) FROM pg_replication_slots", &[]).await.ok()?;
        (left.get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    open.batch_execute("COMMIT").await.expect("committed");
    let told = pushes(&mut amy, 3).await;
    let told: Vec<Value> = told
        .iter()
        .map(|push| json!([push["tag"], push["id"], push["changeSet"], push["record"]]))
        .collect();
    let expected = json!([
        ["DidDelete", 2, null, null],
        ["DidInsert", null, null, {"id": 3, "title": "d"}],
        ["DidUpdate", 1, {"id": 1, "title": "c"}, null],
    ]);
    assert_eq!(json!(told), expected, "{id}");
    rig.run("UPDATE tasks SET title = 'f' WHERE id = 3").await;
    assert_eq!(amy.push().await["changeSet"], json!({"title": "f"}));
    rig.process.stop().await;
}
