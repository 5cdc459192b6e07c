//! One user's uploads take neither everybody's time nor the operator's disk, and leave nothing in
//! the sessions that others use next.

use std::time::Duration;

use axum::http::StatusCode;
use hw_write::{ConflictPolicy, Keep, UploadConfig};
use serde_json::{Map, Value, json};

use crate::rig::{Rig, bearer, patch, row_id, send};

/// Uploads from a client database of its own.
async fn upload(rig: &Rig, sub: &str, client: &str, transactions: Value) -> Value {
    let body = json!({"client_id": client, "transactions": transactions}).to_string();
    let (status, answer) = send(&rig.router, &bearer(sub, Map::new()), body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["transactions"].clone()
}

fn one(operation: Value) -> Value {
    json!([{"id": operation["op_id"], "operations": [operation]}])
}

#[tokio::test]
async fn fd_40_a_transaction_has_a_time_for_all_of_its_operations() {
    let mut rig = Rig::start().await;
    rig.sql
        .batch_execute(
            "CREATE TABLE slow (id text PRIMARY KEY);
             CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN PERFORM pg_sleep(0.2); RETURN NEW; END $$;
             CREATE TRIGGER slow BEFORE INSERT ON slow FOR EACH ROW EXECUTE FUNCTION slow();
             GRANT ALL ON slow TO headwater_authenticated",
        )
        .await
        .unwrap();
    let transaction_timeout = Duration::from_secs(1);
    rig.configure(UploadConfig { transaction_timeout, ..Default::default() }, &[]);
    rig.also("slow", ConflictPolicy::LastWriteWins);
    let rows = |from: i64, count: i64| -> Value {
        let put = |op_id: i64| json!({"op_id": op_id, "op": "PUT", "type": "slow", "id": op_id.to_string()});
        (from..from + count).map(put).collect()
    };
    // Each of its operations is short; all of them together are not.
    let answer = rig.write("ada", rows(1, 20)).await;
    assert_eq!(answer["verdict"], "retry", "{answer}");
    // It would come again for ever, so it is said what lets it through.
    let error = json!({"message": "the transaction of 20 operations took longer than 1 s", "code": "HW5312"});
    assert_eq!(answer["error"], error);
    assert_eq!(rig.ask("SELECT count(*) FROM slow").await, "0");
    let transaction_timeout = Duration::from_secs(60);
    rig.configure(UploadConfig { transaction_timeout, ..Default::default() }, &[]);
    rig.also("slow", ConflictPolicy::LastWriteWins);
    let answer = rig.write("ada", rows(1, 20)).await;
    assert_eq!(answer["verdict"], "applied", "{answer}");
    // One operation that does not end in what is left of the time.
    rig.configure(
        UploadConfig { transaction_timeout: Duration::from_millis(100), ..Default::default() },
        &[],
    );
    rig.also("slow", ConflictPolicy::LastWriteWins);
    let answer = rig.write("ada", rows(21, 1)).await;
    assert_eq!(answer["error"]["code"], "HW5312", "{answer}");
    let transaction_timeout = Duration::from_secs(1);
    rig.configure(UploadConfig { transaction_timeout, ..Default::default() }, &[]);
    rig.also("slow", ConflictPolicy::LastWriteWins);
    let answer = rig.write("ada", rows(21, 1)).await;
    assert_eq!(answer["verdict"], "applied", "{answer}");
}

#[tokio::test]
async fn fd_55_records_of_a_user_are_bounded_and_large_ones_are_kept_without_their_operations() {
    let mut rig = Rig::start().await;
    let keep =
        Keep { records: 20, rejected: 10, clients: 3, entries_bytes: 1000, ..Keep::default() };
    rig.configure(UploadConfig { keep, ..Default::default() }, &[]);
    let rejected = |from: i64| -> Value {
        let transaction =
            |id: i64| json!({"id": id, "operations": [patch(id, &row_id(9), json!({"n": 1}))]});
        (from..from + 200).map(transaction).collect()
    };
    upload(&rig, "bob", "c", one(patch(1, &row_id(9), json!({"n": 1})))).await;
    upload(&rig, "ada", "c", rejected(1)).await;
    let count = |table: &str| {
        let hers = if table == "rejected_writes" { "sub = 'ada'" } else { "user_key = 't3:ada'" };
        format!("SELECT count(*) FROM headwater.{table} WHERE {hers}")
    };
    // While they come: within the bound and what comes between two looks.
    for (table, most) in [("uploads", 20 + 64), ("rejected_writes", 10 + 64)] {
        let kept: i64 = rig.ask(&count(table)).await.parse().unwrap();
        assert!(kept < most, "{table}: {kept}");
    }
    for client in 0..5 {
        upload(&rig, "ada", &format!("d{client}"), one(patch(1, &row_id(9), json!({"n": 1}))))
            .await;
    }
    rig.uploads.purge().await.unwrap();
    for (table, kept) in [("uploads", "20"), ("rejected_writes", "10"), ("upload_high_water", "3")]
    {
        assert_eq!(rig.ask(&count(table)).await, kept, "{table}");
    }
    // The newest stay, and those of others.
    let newest =
        "SELECT string_agg(client_id, ' ' ORDER BY client_id) FROM headwater.upload_high_water";
    assert_eq!(rig.ask(newest).await, "c d2 d3 d4");
    assert_eq!(
        rig.ask("SELECT count(*) FROM headwater.rejected_writes WHERE sub = 'bob'").await,
        "1"
    );

    let long = patch(500, &row_id(9), json!({"name": "x".repeat(2000)}));
    let answer = upload(&rig, "ada", "e", one(long.clone())).await;
    assert_eq!(answer[0]["verdict"], "rejected");
    let entries = "SELECT entries::text FROM headwater.rejected_writes WHERE client_id = 'e'";
    assert_eq!(rig.ask(entries).await, "null");
    // And it is known again.
    assert_eq!(upload(&rig, "ada", "e", one(long)).await, answer);
}

#[tokio::test]
async fn fd_54_a_rejection_that_cannot_be_kept_with_its_operations_is_kept_without() {
    let rig = Rig::start().await;
    rig.sql
        .batch_execute(
            "ALTER TABLE headwater.rejected_writes ADD CHECK (entries::text NOT LIKE '%odd%')",
        )
        .await
        .unwrap();
    let answer = rig.write("ada", json!([patch(1, &row_id(9), json!({"name": "odd"}))])).await;
    assert_eq!(answer["verdict"], "rejected", "{answer}");
    let kept = "SELECT sqlstate || ' ' || entries::text FROM headwater.rejected_writes";
    assert_eq!(rig.ask(kept).await, "02000 null");
    // The deepest value that is let in, and one of a depth that only Postgres refuses.
    rig.sql
        .batch_execute(
            "CREATE TABLE docs (id text PRIMARY KEY, j jsonb); \
             GRANT ALL ON docs TO headwater_authenticated",
        )
        .await
        .unwrap();
    rig.also("docs", ConflictPolicy::LastWriteWins);
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let put = |op_id: i64, j: Value| json!([{"op_id": op_id, "op": "PUT", "type": "docs", "id": "1", "data": {"j": j}}]);
    let deep: Value = serde_json::from_str(&nested(100)).unwrap();
    assert_eq!(rig.write("ada", put(2, deep)).await["verdict"], "applied");
    let answer = rig.write("ada", put(3, json!(nested(100_000)))).await;
    assert_eq!(answer["verdict"], "rejected", "{answer}");
}

#[tokio::test]
async fn fd_58_nothing_of_one_users_session_reaches_the_next() {
    let mut rig = Rig::start().await;
    rig.sql
        .batch_execute(
            "CREATE TABLE seen (id text PRIMARY KEY, setting text, locks int8, temporary text, prepared int8);
             CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               NEW.setting := current_setting('app.leak', true);
               NEW.locks := (SELECT count(*) FROM pg_locks
                             WHERE locktype = 'advisory' AND pid = pg_backend_pid());
               NEW.temporary := to_regclass('pg_temp.left_behind')::text;
               NEW.prepared := (SELECT count(*) FROM pg_prepared_statements);
               PERFORM set_config('app.leak', NEW.id, false), pg_advisory_lock(7);
               CREATE TEMP TABLE IF NOT EXISTS left_behind (a text);
               EXECUTE 'PREPARE p' || NEW.id || ' AS SELECT 1';
               RETURN NEW;
             END $$;
             CREATE TRIGGER look BEFORE INSERT ON seen FOR EACH ROW EXECUTE FUNCTION look();
             GRANT ALL ON seen TO headwater_authenticated;
             GRANT TEMPORARY ON DATABASE postgres TO headwater_authenticated",
        )
        .await
        .unwrap();
    // One connection for everybody.
    rig.uploads = hw_write::Uploads::connect(
        &rig.cluster.url_as(crate::rig::LOGIN, None, "postgres"),
        1,
        UploadConfig::default(),
    )
    .unwrap();
    rig.router = crate::rig::router(rig.uploads.clone(), &[]);
    rig.also("seen", ConflictPolicy::RejectIfChanged);
    for (op_id, sub) in [(1, "ada"), (2, "bob")] {
        let put = json!([{"op_id": op_id, "op": "PUT", "type": "seen", "id": op_id.to_string()}]);
        let answer = rig.write(sub, put).await;
        assert_eq!(answer["verdict"], "applied", "{answer}");
    }
    let seen = "SELECT concat_ws('|', coalesce(setting, ''), locks, coalesce(temporary, ''), prepared) \
                FROM seen WHERE id = '2'";
    assert_eq!(rig.ask(seen).await, "|0||0");
}
