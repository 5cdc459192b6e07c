//! What a client that comes back is told of rows that it may not see any more, as raw messages: `datasync.md` 21 R.

use serde_json::{Value, json};

use crate::live_queries::{Rig, Socket, query, select};

fn tasks() -> Value {
    query("tasks", json!({"selectedColumns": select(&["id", "title"])}))
}

/// Takes what comes until a task is told; what came before it.
async fn until(socket: &mut Socket, id: i64) -> Vec<Value> {
    let mut before = Vec::new();
    loop {
        let push = socket.push().await;
        if push["record"]["id"] == id {
            return before;
        }
        before.push(push);
    }
}

/// Amy was told a task on a socket that is gone, and is not known to have received it; then something is done of which
/// somebody else is told. What she is told when she comes back, before she is told of a task with the number 9.
async fn told_behind(rig: &Rig, done: &[&str], lost: &str) -> Vec<Value> {
    let mut beside = rig.connect("amy").await;
    beside.subscribe(tasks()).await;
    let mut amy = rig.connect("amy").await;
    let had = amy.ask(json!({"tag": "CreateDataSubscription", "query": tasks()})).await;
    rig.is_planned(2).await;
    rig.run("INSERT INTO tasks (id, owner, title) VALUES (1, 'amy', 'secret')").await;
    until(&mut amy, 1).await;
    until(&mut beside, 1).await;
    drop(amy);
    for sql in done {
        rig.run(sql).await;
        beside.push().await;
    }
    rig.run(lost).await;
    let mut amy = rig.connect("amy").await;
    let resumed = amy.resume(tasks(), &had).await;
    assert_eq!(resumed["resumed"], true, "{resumed}");
    rig.run("INSERT INTO tasks (id, owner, title) VALUES (9, 'amy', 'shown')").await;
    until(&mut amy, 9).await
}

fn is_shown(push: &Value) -> bool {
    push["tag"] == "DidInsert" || push["changeSet"].is_object()
}

#[tokio::test]
async fn ds_21_a_row_that_was_lost_meanwhile_is_not_told_as_missed() {
    let rig = Rig::start().await;
    let told = told_behind(&rig, &["UPDATE tasks SET owner = 'bob' WHERE id = 1"], "").await;
    assert!(!told.iter().any(is_shown), "{told:?}");
    assert!(told.iter().any(|push| push["tag"] == "DidDelete" && push["id"] == 1), "{told:?}");
}

/// Nobody is asked for somebody who takes nothing: that a policy has changed is found when she comes back.
#[tokio::test]
async fn ds_21_what_a_policy_has_taken_meanwhile_is_not_told_as_missed() {
    let rig = Rig::start().await;
    let taken = "ALTER POLICY owner ON tasks USING (owner = current_setting('request.jwt.claim.sub', true) \
                 AND title = 'shown')";
    let done = ["UPDATE tasks SET title = 'more of it' WHERE id = 1"];
    let told = told_behind(&rig, &done, taken).await;
    assert!(!told.iter().any(is_shown), "{told:?}");
}
