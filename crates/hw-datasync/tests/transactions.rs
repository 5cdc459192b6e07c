//! `datasync.md` 9: transactions that stay open between messages.

use std::time::Duration;

use hw_datasync::DataSyncOptions;
use hw_testkit::poll_until;
use hw_write::StatementOptions;
use serde_json::{Value, json};

use crate::rig::{Rig, Socket, create, query, row_id, update, within};

async fn begin(socket: &mut Socket) -> Value {
    let answer = socket.ask(json!({"tag": "StartTransaction"})).await;
    assert_eq!(answer["tag"], "DidStartTransaction", "{answer}");
    answer["transactionId"].clone()
}

fn commit(id: &Value) -> Value {
    json!({"tag": "CommitTransaction", "id": id})
}

fn rollback(id: &Value) -> Value {
    json!({"tag": "RollbackTransaction", "id": id})
}

fn read(transaction: &Value) -> Value {
    within(transaction, json!({"tag": "DataSyncQuery", "query": query("counters", json!({}))}))
}

#[tokio::test]
async fn ds_9_changes_are_seen_by_others_when_they_are_committed() {
    let rig = Rig::start().await;
    let (mut amy, mut bob) = (rig.connect("amy").await, rig.connect("bob").await);
    let id = begin(&mut amy).await;
    amy.ask(within(&id, create("counters", json!({"id": 1, "n": 1})))).await;
    assert_eq!(amy.ask(read(&id)).await["result"], json!([{"id": 1, "n": 1}]));
    assert_eq!(bob.rows(query("counters", json!({}))).await, json!([]));
    assert_eq!(amy.rows(query("counters", json!({}))).await, json!([]), "nor outside of it");
    amy.ask(within(&id, update("counters", json!(1), json!({"n": 2})))).await;
    let answer = amy.ask(commit(&id)).await;
    assert_eq!((&answer["tag"], &answer["transactionId"]), (&json!("DidCommitTransaction"), &id));
    assert_eq!(bob.rows(query("counters", json!({}))).await, json!([{"id": 1, "n": 2}]));
    let unknown = format!("No transaction with id {}", id.as_str().expect("a text"));
    for message in [commit(&id), rollback(&id), read(&id)] {
        assert_eq!(amy.refused(message).await, unknown);
    }
}

#[tokio::test]
async fn ds_9_a_rollback_leaves_nothing() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    let id = begin(&mut amy).await;
    amy.ask(within(&id, create("counters", json!({"id": 1})))).await;
    assert_eq!(amy.ask(rollback(&id)).await["tag"], "DidRollbackTransaction");
    assert_eq!(amy.rows(query("counters", json!({}))).await, json!([]));
}

#[tokio::test]
async fn ds_9_a_commit_behind_a_failure_is_told_as_the_rollback_that_it_is() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    let id = begin(&mut amy).await;
    amy.ask(within(&id, create("counters", json!({"id": 1})))).await;
    amy.refused(within(&id, create("counters", json!({"id": 1})))).await;
    let later = amy.ask(read(&id)).await;
    assert_eq!(later["sqlstate"], "25P02", "{later}");
    let refused = amy.refused(commit(&id)).await;
    assert_eq!(refused, "Transaction was rolled back because an earlier statement failed");
    assert_eq!(rig.ask("SELECT count(*) FROM counters").await, "0");
    assert!(amy.refused(commit(&id)).await.starts_with("No transaction with id"));
}

#[tokio::test]
async fn ds_9_what_never_reached_postgres_does_not_spoil_a_transaction() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    let id = begin(&mut amy).await;
    amy.refused(within(&id, create("bare", json!({"id": 2})))).await;
    amy.refused(within(&id, create("counters", json!({"nothing": 2})))).await;
    amy.refused(within(&id, create("nowhere", json!({"id": 2})))).await;
    amy.ask(within(&id, create("counters", json!({"id": 2})))).await;
    assert_eq!(amy.ask(commit(&id)).await["tag"], "DidCommitTransaction");
    assert_eq!(rig.ask("SELECT count(*) FROM counters").await, "1");
}

#[tokio::test]
async fn ds_9_transactions_belong_to_their_socket_and_end_with_it() {
    let rig = Rig::start().await;
    let (mut amy, mut bob) = (rig.connect("amy").await, rig.connect("amy").await);
    let id = begin(&mut amy).await;
    amy.ask(within(&id, create("counters", json!({"id": 1})))).await;
    assert!(bob.refused(read(&id)).await.starts_with("No transaction with id"));
    drop(amy);
    let open = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'headwater_login' AND state LIKE 'idle in%'";
    poll_until("it is rolled back", || async { (rig.ask(open).await == "0").then_some(()) }).await;
    assert_eq!(rig.ask("SELECT count(*) FROM counters").await, "0");
}

#[tokio::test]
async fn ds_9_a_socket_and_a_user_have_only_so_many() {
    let options =
        DataSyncOptions { transactions: 2, all_transactions: 12, ..DataSyncOptions::default() };
    let rig = Rig::start_with(options, StatementOptions::default(), &[]).await;
    let mut amy = rig.connect("amy").await;
    let first = begin(&mut amy).await;
    begin(&mut amy).await;
    let refused = amy.refused(json!({"tag": "StartTransaction"})).await;
    assert!(
        refused.contains("You've reached the transaction limit of 2 transactions"),
        "{refused}"
    );
    // A quarter of all is one user's share.
    let mut second = rig.connect("amy").await;
    begin(&mut second).await;
    let refused = second.ask(json!({"tag": "StartTransaction"})).await;
    assert_eq!(refused["code"], "HW5404", "{refused}");
    let mut bob = rig.connect("bob").await;
    begin(&mut bob).await;
    amy.ask(rollback(&first)).await;
    begin(&mut second).await;
}

#[tokio::test]
async fn ds_9_time_ends_transactions_and_says_so() {
    let statements = StatementOptions {
        idle_timeout: Duration::from_millis(300),
        transaction_timeout: Duration::from_millis(900),
        ..StatementOptions::default()
    };
    let rig = Rig::start_with(DataSyncOptions::default(), statements, &[]).await;
    let mut amy = rig.connect("amy").await;
    let open = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'headwater_login' AND state LIKE 'idle in%'";
    let idle = begin(&mut amy).await;
    poll_until("it is rolled back", || async { (rig.ask(open).await == "0").then_some(()) }).await;
    let refused = amy.refused(read(&idle)).await;
    assert!(refused.contains("idle for more than 0.3 s"), "{refused}");
    assert_eq!(amy.refused(commit(&idle)).await, refused);
    assert!(
        amy.refused(commit(&idle)).await.starts_with("No transaction"),
        "and is forgotten then"
    );
    let long = begin(&mut amy).await;
    let refused = loop {
        let answer = amy.ask(read(&long)).await;
        if answer["tag"] == "DataSyncError" {
            break answer["errorMessage"].as_str().expect("a sentence").to_owned();
        }
    };
    assert!(refused.contains("open for more than 0.9 s"), "{refused}");
    assert_eq!(amy.ask(rollback(&long)).await["tag"], "DidRollbackTransaction");
}

#[tokio::test]
async fn ds_9_a_table_that_is_altered_meanwhile_is_noticed() {
    let rig = Rig::start().await;
    rig.sql.batch_execute("INSERT INTO counters VALUES (1, 1)").await.expect("inserted");
    let mut amy = rig.connect("amy").await;
    let id = begin(&mut amy).await;
    amy.rows(query("counters", json!({}))).await;
    rig.sql.batch_execute("ALTER TABLE counters ADD COLUMN more int4").await.expect("altered");
    assert_eq!(amy.ask(read(&id)).await["result"], json!([{"id": 1, "n": 1, "more": null}]));
    amy.ask(rollback(&id)).await;
    rig.sql
        .batch_execute("ALTER TABLE counters DISABLE ROW LEVEL SECURITY")
        .await
        .expect("altered");
    let id = begin(&mut amy).await;
    let refused = amy.refused(read(&id)).await;
    assert!(refused.contains("Row level security is required"), "{refused}");
}

#[tokio::test]
async fn ds_3_a_commit_does_not_overtake_the_writes_of_its_transaction() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    for round in 0..5 {
        let id = begin(&mut amy).await;
        for n in 0..10 {
            amy.send(within(&id, create("tasks", json!({"id": row_id(round * 10 + n)})))).await;
        }
        amy.send(commit(&id)).await;
        amy.send(json!({"tag": "DataSyncQuery", "query": query("tasks", json!({}))})).await;
        let mut last = Value::Null;
        for _ in 0..12 {
            last = amy.receive().await;
        }
        let seen = last["result"].as_array().map(Vec::len);
        assert_eq!(seen, Some(round as usize * 10 + 10), "{last}");
    }
}
