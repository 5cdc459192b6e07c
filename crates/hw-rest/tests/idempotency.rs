//! At most once: the same transaction again, under every circumstance.

use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use crate::rig::{Rig, bearer, patch, put, row_id, send};

const RUNS: &str = "SELECT count(*) FROM runs";

/// F-48: the reply was lost, the client repeats: applied once, the same verdict.
#[tokio::test]
async fn f48_a_repeated_transaction_gets_its_first_verdict_and_never_runs_twice() {
    let rig = Rig::start().await;
    let good = json!([put(1, &row_id(1), json!({"name": "a", "slug": "s"}))]);
    let bad = json!([put(2, &row_id(2), json!({"name": "b", "slug": "s"}))]);
    let first = (rig.write("ada", good.clone()).await, rig.write("ada", bad.clone()).await);
    assert_eq!((&first.0["verdict"], &first.1["verdict"]), (&json!("applied"), &json!("rejected")));
    // The reason for the rejection goes away: the verdict stands nevertheless.
    rig.sql.batch_execute("DELETE FROM lists").await.unwrap();
    for _ in 0..3 {
        let again = (rig.write("ada", good.clone()).await, rig.write("ada", bad.clone()).await);
        assert_eq!(again, first);
    }
    assert_eq!(rig.ask("SELECT count(*) FROM runs WHERE op = 'INSERT'").await, "1");
    assert_eq!(rig.ask("SELECT count(*) FROM headwater.rejected_writes").await, "1");
}

#[tokio::test]
async fn a_verdict_stands_although_the_table_can_no_longer_be_written() {
    let rig = Rig::start().await;
    let write = json!([put(1, &row_id(1), json!({"name": "a"}))]);
    let first = rig.write("ada", write.clone()).await;
    rig.uploads.set_map(hw_write::UploadMap::new(hw_write::Unknown::Rejected));
    assert_eq!(rig.write("ada", write).await, first);
}

#[tokio::test]
async fn twenty_requests_at_once_apply_a_transaction_once() {
    let rig = Rig::start().await;
    let body = json!({"client_id": "c", "transactions": [
        {"id": 1, "operations": [put(1, &row_id(1), json!({"name": "a"}))]}
    ]});
    let mut requests = JoinSet::new();
    for _ in 0..20 {
        let (router, body) = (rig.router.clone(), body.to_string());
        requests.spawn(async move { send(&router, &bearer("ada", Map::new()), body).await });
    }
    for (_, answer) in requests.join_all().await {
        let verdict = answer["transactions"][0]["verdict"].as_str().unwrap().to_owned();
        assert!(verdict == "applied" || verdict == "retry", "{answer}");
    }
    assert_eq!(rig.ask(RUNS).await, "1");
    assert_eq!(
        rig.write("ada", json!([put(1, &row_id(1), json!({"name": "a"}))])).await["verdict"],
        "applied"
    );
    assert_eq!(rig.ask(RUNS).await, "1");
}

#[tokio::test]
async fn the_same_key_with_other_contents_is_rejected_and_the_first_verdict_stands() {
    let rig = Rig::start().await;
    let write = |name: &str| json!([put(1, &row_id(1), json!({"name": name}))]);
    rig.write("ada", write("first")).await;
    let other = rig.write("ada", write("second")).await;
    assert_eq!(other["verdict"], "rejected");
    assert_eq!(
        other["error"]["message"],
        "another transaction with this id but other contents was uploaded before"
    );
    assert_eq!(rig.write("ada", write("first")).await["verdict"], "applied");
    assert_eq!(rig.ask("SELECT name FROM lists").await, "first");
    assert_eq!(rig.ask(RUNS).await, "1");
    // The lost contents can be read by their author.
    assert_eq!(
        rig.ask("SELECT entries->0->'data'->>'name' FROM headwater.rejected_writes").await,
        "second"
    );
}

#[tokio::test]
async fn an_unknown_id_at_or_below_the_high_water_mark_is_too_old() {
    let rig = Rig::start().await;
    let write = |op_id: i64| json!([patch(op_id, &row_id(1), json!({"n": op_id}))]);
    rig.write("ada", json!([put(10, &row_id(1), json!({"name": "a"}))])).await;
    assert_eq!(rig.write("ada", write(20)).await["verdict"], "applied");
    // Records are deleted after their time; the mark stays.
    rig.sql
        .batch_execute("UPDATE headwater.uploads SET at = now() - interval '31 days'")
        .await
        .unwrap();
    assert_eq!(rig.uploads.purge().await.unwrap(), 2);
    for op_id in [20, 15, 1] {
        let answer = rig.write("ada", write(op_id)).await;
        assert_eq!(
            answer["error"]["message"],
            "the transaction is older than what this client uploaded last, and is not known any more",
            "{op_id}"
        );
    }
    assert_eq!(rig.write("ada", write(21)).await["verdict"], "applied");
    assert_eq!(rig.ask("SELECT n FROM lists").await, "21");
}

#[tokio::test]
async fn records_are_kept_for_thirty_days() {
    let rig = Rig::start().await;
    rig.write("ada", json!([put(1, &row_id(1), json!({"name": "a"}))])).await;
    rig.write("ada", json!([patch(2, &row_id(9), json!({"name": "b"}))])).await;
    rig.sql
        .batch_execute(
            "UPDATE headwater.uploads SET at = now() - interval '29 days'; \
             UPDATE headwater.rejected_writes SET rejected_at = now() - interval '29 days'",
        )
        .await
        .unwrap();
    assert_eq!(rig.uploads.purge().await.unwrap(), 0);
    rig.sql
        .batch_execute(
            "UPDATE headwater.rejected_writes SET rejected_at = now() - interval '31 days'",
        )
        .await
        .unwrap();
    assert_eq!(rig.uploads.purge().await.unwrap(), 1);
}

#[tokio::test]
async fn nobody_can_claim_or_spend_the_ids_of_another_user() {
    let rig = Rig::start().await;
    let write = |id: u32| json!([put(5, &row_id(id), json!({"name": "mine"}))]);
    // Bob uses Ada's client id and ids before her, and high ones too.
    rig.write("bob", write(1)).await;
    rig.write("bob", json!([put(1_000_000, &row_id(3), json!({"name": "high"}))])).await;
    let answer = rig.write("ada", write(2)).await;
    assert_eq!(answer, json!({"id": 5, "verdict": "applied"}));
    let owners = "SELECT string_agg(owner, ',' ORDER BY id) FROM lists";
    assert_eq!(rig.ask(owners).await, "bob,ada,bob");
    // And does not learn her verdicts.
    let bobs = rig.write("bob", write(2)).await;
    assert!(bobs["error"]["message"].as_str().unwrap().contains("other contents"));
}

#[tokio::test]
async fn after_a_retry_everything_behind_it_waits_untouched() {
    let rig = Rig::start().await;
    rig.write("ada", json!([put(1, &row_id(1), json!({"name": "a"}))])).await;
    let mut blocker = rig.cluster.client("postgres").await;
    let lock = blocker.transaction().await.unwrap();
    lock.execute("SELECT FROM lists FOR UPDATE", &[]).await.unwrap();
    let mut impatient = Rig { uploads: rig.uploads.clone(), ..rig };
    impatient.configure(
        hw_write::UploadConfig {
            lock_timeout: std::time::Duration::from_millis(10),
            ..Default::default()
        },
        &[],
    );
    let transactions = json!([
        {"id": 2, "operations": [patch(2, &row_id(1), json!({"n": 2}))]},
        {"id": 3, "operations": [put(3, &row_id(3), json!({"name": "free"}))]},
    ]);
    let (_, body) = impatient.upload("ada", transactions.clone()).await;
    let verdicts: Vec<&Value> =
        (0..2).map(|place| &body["transactions"][place]["verdict"]).collect();
    assert_eq!(verdicts, ["retry", "retry"], "{body}");
    assert_eq!(
        body["transactions"][0]["error"]["message"],
        "the row is locked by another transaction"
    );
    assert_eq!(impatient.ask("SELECT count(*) FROM lists").await, "1");
    lock.rollback().await.unwrap();
    let (_, body) = impatient.upload("ada", transactions).await;
    assert_eq!(body["transactions"][1], json!({"id": 3, "verdict": "applied"}), "{body}");
    assert_eq!(impatient.ask("SELECT n FROM lists WHERE name = 'a'").await, "2");
}

/// Where nobody can have written there is nothing to delete, and nothing to say each hour.
#[tokio::test]
async fn a_database_that_is_not_set_up_for_writes_has_no_records_to_delete() {
    let rig = Rig::start().await;
    rig.sql.batch_execute("DROP SCHEMA headwater CASCADE").await.unwrap();
    assert_eq!(rig.uploads.purge().await.unwrap(), 0);
}
