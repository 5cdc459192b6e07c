//! Changes that are easily got wrong, seen through the sync surface.

use hw_testkit::oracle::SyncClient;
use serde_json::Value;

use crate::rig::{self, CONFIG, Rig, SCHEMA, caught_up, client};

/// F-22: clients are emptied in one state, also by CASCADE and RESTART IDENTITY.
#[tokio::test(flavor = "multi_thread")]
async fn f_22_truncate_empties_clients_atomically() {
    let schema = format!(
        "{SCHEMA}
         CREATE TABLE parts (id text PRIMARY KEY, list text, todo text REFERENCES todos (id), n serial);
         INSERT INTO parts SELECT 'p' || i, 'l1', 't' || i FROM generate_series(1, 50) i;"
    );
    let config = format!("{CONFIG}      - SELECT * FROM parts WHERE list = bucket.list\n");
    let (rig, mut server, mut amy) = rig::served(&schema, &config).await;
    assert_eq!(amy.table("parts").len(), 50);
    amy.history.clear();
    let completed = amy.completed;
    rig.execute("TRUNCATE todos RESTART IDENTITY CASCADE").await;
    caught_up(&mut amy, &server).await;
    assert!(amy.table("todos").is_empty() && amy.table("parts").is_empty());
    // Nothing between full and empty was shown: each state shown is one of the two.
    amy.history.dedup();
    assert!(
        amy.history.len() <= 2,
        "{} states of {}",
        amy.history.len(),
        amy.completed - completed
    );
    rig.execute(
        "BEGIN; INSERT INTO todos VALUES ('gone', 'l1', 'x', 1); TRUNCATE todos CASCADE;
                 INSERT INTO todos VALUES ('stays', 'l1', 'x', 1); COMMIT",
    )
    .await;
    rig.check(&mut amy, &server, "amy").await;
    assert_eq!(amy.table("todos").len(), 1);
    server.stop().await;
}

/// F-23: a key change is one step, and moves leave no ghost.
#[tokio::test(flavor = "multi_thread")]
async fn f_23_key_changes_and_moves_are_one_step() {
    let rig = Rig::new(SCHEMA, CONFIG).await;
    let mut server = rig.start().await;
    let (mut amy, mut bob) = (client("amy"), client("bob"));
    rig.check(&mut amy, &server, "amy").await;
    rig.check(&mut bob, &server, "bob").await;
    for sql in [
        "UPDATE todos SET id = 'renamed' WHERE id = 't4'",
        "UPDATE todos SET list = 'l3' WHERE id = 'renamed'",
        "UPDATE todos SET id = 't4', list = 'l1' WHERE id = 'renamed'",
        "BEGIN; UPDATE todos SET id = 'tmp' WHERE id = 't4'; UPDATE todos SET id = 't4' WHERE id = 't8';
         UPDATE todos SET id = 't8' WHERE id = 'tmp'; COMMIT",
        "UPDATE lists SET owner = 'bob' WHERE id = 'l1'",
        "UPDATE lists SET id = 'l9' WHERE id = 'l3'",
        "BEGIN; UPDATE lists SET owner = 'amy' WHERE id = 'l1'; UPDATE todos SET list = 'l1' WHERE list = 'l3'; COMMIT",
    ] {
        let count = |client: &SyncClient| client.table("todos").len();
        rig.execute(sql).await;
        rig.check(&mut amy, &server, "amy").await;
        rig.check(&mut bob, &server, "bob").await;
        assert!(count(&amy) + count(&bob) <= 200, "{sql}");
    }
    server.stop().await;
}

/// F-24: what the log does not carry comes from the replica, for rows and for filters.
#[tokio::test(flavor = "multi_thread")]
async fn f_24_unchanged_toast_values_are_kept_and_filters_on_them_are_right() {
    let schema = format!("{SCHEMA} ALTER TABLE todos ALTER body SET STORAGE EXTERNAL;");
    let config = format!(
        "{CONFIG}  long:\n    data:\n      - SELECT id, body FROM todos AS long WHERE upper(body) = body\n"
    );
    let rig = Rig::new(&schema, &config).await;
    let mut server = rig.start().await;
    let mut amy = client("amy");
    for sql in [
        "INSERT INTO todos VALUES ('big', 'l1', repeat('LONG ', 3000), 1), ('low', 'l1', repeat('low ', 3000), 1)",
        "UPDATE todos SET n = 2 WHERE id IN ('big', 'low')",
        "UPDATE todos SET list = 'l2' WHERE id = 'big'",
        "UPDATE todos SET id = 'bigger' WHERE id = 'big'",
        "UPDATE todos SET list = 'l3' WHERE id = 'bigger'",
        "UPDATE todos SET list = 'l1' WHERE id = 'bigger'",
        "UPDATE todos SET body = lower(body) WHERE id = 'bigger'",
        "UPDATE todos SET n = 3 WHERE id = 'bigger'",
    ] {
        rig.execute(sql).await;
        rig.check(&mut amy, &server, "amy").await;
        let expected =
            rig.sql.query("SELECT id FROM todos WHERE upper(body) = body ORDER BY id", &[]);
        let expected: Vec<String> =
            expected.await.expect("asked").iter().map(|row| row.get(0)).collect();
        assert_eq!(amy.table("long").into_keys().collect::<Vec<_>>(), expected, "{sql}");
    }
    server.stop().await;
}

/// F-25: each replica identity is right, or its table is refused by name and nothing else is.
#[tokio::test(flavor = "multi_thread")]
async fn f_25_every_replica_identity_is_right_or_refused_by_name() {
    let kinds = [
        ("plain", "PRIMARY KEY", "DEFAULT"),
        ("whole", "PRIMARY KEY", "FULL"),
        ("indexed", "NOT NULL UNIQUE", "USING INDEX indexed_id_key"),
        ("keyless", "", "FULL"),
        ("nothing", "PRIMARY KEY", "NOTHING"),
        ("bare", "", "DEFAULT"),
    ];
    let mut schema = String::new();
    let mut config = "config:\n  edition: 3\nstreams:\n".to_owned();
    for (name, key, identity) in kinds {
        schema.push_str(&format!(
            "CREATE TABLE {name} (id text {key}, n int8);
             ALTER TABLE {name} REPLICA IDENTITY {identity};
             INSERT INTO {name} SELECT 'r' || i, i FROM generate_series(1, 20) i;"
        ));
        config.push_str(&format!(
            "  {name}:\n    auto_subscribe: true\n    query: SELECT * FROM {name}\n"
        ));
    }
    let rig = Rig::new(&schema, &config).await;
    let options = crate::rig::allowing(rig.options(), &["nothing", "bare"]);
    let mut server = hw_testkit::HeadwaterProcess::start(options).await;
    let mut amy = client("amy");
    caught_up(&mut amy, &server).await;
    for (name, ..) in &kinds[..4] {
        for sql in [
            format!("UPDATE {name} SET n = -n WHERE n % 3 = 0"),
            format!("DELETE FROM {name} WHERE n = 4"),
            format!("UPDATE {name} SET id = 'new' WHERE n = 5"),
            format!("INSERT INTO {name} VALUES ('more', 1)"),
        ] {
            rig.execute(&sql).await;
            caught_up(&mut amy, &server).await;
            let query = format!("SELECT id, to_json(t)::text FROM {name} t");
            let expected = rig.sql.query(&query, &[]).await.expect("asked");
            let expected: std::collections::BTreeMap<String, Value> = expected
                .iter()
                .map(|row| (row.get(0), serde_json::from_str(row.get(1)).expect("JSON")))
                .collect();
            assert_eq!(amy.table(name), expected, "{sql}");
        }
    }
    for (name, ..) in &kinds[4..] {
        assert!(amy.table(name).is_empty(), "{name} is refused");
        assert!(server.log().contains(name), "{name} is named:\n{}", server.log());
    }
    server.stop().await;
}
