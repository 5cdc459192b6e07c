//! Bad days: no set-up, no database, connections that break at any byte, writers that race.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use hw_testkit::{Cluster, Direction, Ending, FaultProxy, Stop};
use hw_write::{ConflictPolicy, Unknown, UploadConfig, UploadMap};
use serde_json::{Map, json};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use crate::rig::{LOGIN, Rig, bearer, patch, plain, put, router, row_id, send, set_up, uploads};

fn one_put(op_id: i64) -> serde_json::Value {
    json!([{"id": op_id, "operations": [put(op_id, &row_id(op_id as u32), json!({"name": "a"}))]}])
}

#[tokio::test]
async fn a_database_that_is_not_set_up_is_answered_with_the_command() {
    let cluster = Cluster::start();
    let sql = cluster.client("postgres").await;
    sql.batch_execute(&format!(
        "CREATE ROLE {LOGIN} LOGIN; CREATE ROLE authenticated; GRANT authenticated TO {LOGIN}; \
         CREATE TABLE lists (id uuid PRIMARY KEY, name text); GRANT ALL ON lists TO authenticated"
    ))
    .await
    .unwrap();
    let writes = uploads(&cluster.url_as(LOGIN, None, "postgres"), UploadConfig::default());
    let mut map = UploadMap::new(Unknown::Rejected);
    map.insert("lists", plain("lists", ConflictPolicy::LastWriteWins));
    writes.set_map(map);
    let router = router(writes, &[]);
    let body = json!({"client_id": "c", "transactions": one_put(1)}).to_string();
    let (status, answer) = send(&router, &bearer("ada", Map::new()), body.clone()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        answer,
        json!({"error": {"code": "HW5301", "status": 503,
            "description": "The database is not set up for writes; run: headwater setup"}})
    );
    // The same queue goes through once it is, with the role that was there.
    set_up(&sql).await;
    set_up(&sql).await;
    let (_, answer) = send(&router, &bearer("ada", Map::new()), body).await;
    assert_eq!(answer["transactions"][0]["verdict"], "applied", "{answer}");
    let made = "SELECT FROM pg_roles WHERE rolname = 'headwater_authenticated'";
    assert!(sql.query_opt(made, &[]).await.unwrap().is_none());
}

#[tokio::test]
async fn a_database_that_is_away_is_a_retry_and_then_works() {
    let rig = Rig::start().await;
    rig.upload("ada", one_put(1)).await;
    rig.cluster.stop(Stop::Immediate);
    let (status, body) = rig.upload("ada", one_put(2)).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["transactions"][0]["verdict"], "retry", "{body}");
    rig.cluster.start_again();
    // Connections that the stop broke may still be in the pool: each costs one retry at most.
    let mut last = json!(null);
    for _ in 0..10 {
        last = rig.upload("ada", one_put(2)).await.1["transactions"][0]["verdict"].clone();
        if last == "applied" {
            break;
        }
    }
    assert_eq!(last, "applied");
}

#[tokio::test]
async fn a_read_only_default_of_the_database_does_not_stop_writes() {
    let rig = Rig::start().await;
    rig.sql
        .batch_execute("ALTER DATABASE postgres SET default_transaction_read_only = on")
        .await
        .unwrap();
    let (_, body) = rig.upload("ada", one_put(1)).await;
    assert_eq!(body["transactions"][0]["verdict"], "applied", "{body}");
}

/// F-48 at the database's side: the connection breaks after every k-th byte of Postgres's answer,
/// the reply to COMMIT among them.
#[tokio::test]
async fn f48_a_connection_cut_at_any_byte_never_applies_twice_and_never_loses() {
    let rig = Rig::start().await;
    let proxy = FaultProxy::start(&format!("127.0.0.1:{}", rig.cluster.port())).await;
    let url = format!("postgres://{LOGIN}@{}/postgres?sslmode=disable", proxy.address());
    let fresh = || {
        let writes = uploads(&url, UploadConfig::default());
        let mut map = UploadMap::new(Unknown::Rejected);
        map.insert("lists", plain("lists", ConflictPolicy::LastWriteWins));
        writes.set_map(map);
        router(writes, &[])
    };
    let attempt = |router: axum::Router, op_id: i64| async move {
        let body = json!({"client_id": "c", "transactions": one_put(op_id)}).to_string();
        let (status, answer) = send(&router, &bearer("ada", Map::new()), body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["transactions"][0]["verdict"].as_str().unwrap().to_owned()
    };
    assert_eq!(attempt(fresh(), 1).await, "applied");
    let whole = proxy.bytes(Direction::ToClient);
    let (mut op_id, mut retried, mut cut_at) = (1, 0, 0);
    while cut_at <= whole {
        op_id += 1;
        proxy.cut_after(Direction::ToClient, cut_at, Ending::Reset);
        let router = fresh();
        let mut verdict = attempt(router.clone(), op_id).await;
        proxy.heal();
        while verdict == "retry" {
            retried += 1;
            verdict = attempt(router.clone(), op_id).await;
        }
        assert_eq!(verdict, "applied", "cut at {cut_at}");
        // The first steps are the connection's start; the exchange of the write is cut finely.
        cut_at += if cut_at < whole / 2 { 211 } else { 37 };
    }
    assert!(retried > 10, "the cuts were felt: {retried}");
    assert_eq!(rig.ask("SELECT count(*) FROM lists").await, op_id.to_string());
    assert_eq!(rig.ask("SELECT count(*) FROM runs").await, op_id.to_string());
}

/// F-52 in short: two clients write one row at once; what stays is what Postgres committed last.
#[tokio::test]
async fn f52_two_writers_of_one_row_are_all_applied_and_the_last_commit_stays() {
    let rig = Rig::start().await;
    rig.write("ada", json!([put(1, &row_id(1), json!({"name": "start"}))])).await;
    let mut writers = JoinSet::new();
    for client in ["phone", "laptop"] {
        let router = rig.router.clone();
        writers.spawn(async move {
            for op_id in 1..=100 {
                let name = format!("{client} {op_id}");
                let body = json!({"client_id": client, "transactions": [
                    {"id": op_id, "operations": [patch(op_id, &row_id(1), json!({"name": name}))]}
                ]});
                let (_, answer) = send(&router, &bearer("ada", Map::new()), body.to_string()).await;
                assert_eq!(answer["transactions"][0]["verdict"], "applied", "{answer}");
            }
        });
    }
    writers.join_all().await;
    assert_eq!(rig.ask("SELECT count(*) FROM runs WHERE op = 'UPDATE'").await, "200");
    let last = "SELECT name FROM runs ORDER BY at DESC LIMIT 1";
    assert_eq!(rig.ask("SELECT name FROM lists").await, rig.ask(last).await);
}

#[tokio::test]
async fn a_deadlock_is_a_retry_for_one_and_both_end_applied() {
    let rig = Rig::start().await;
    let rows =
        json!(
            [put(1, &row_id(1), json!({"name": "a"})), put(2, &row_id(2), json!({"name": "b"})),]
        );
    rig.write("ada", rows).await;
    let mut writers = JoinSet::new();
    for (client, order) in [("one", [1, 2]), ("two", [2, 1])] {
        let router = rig.router.clone();
        writers.spawn(async move {
            for round in 0..30i64 {
                let operations: Vec<_> = order
                    .iter()
                    .enumerate()
                    .map(|(place, row)| {
                        let op_id = round * 2 + place as i64 + 1;
                        patch(op_id, &row_id(*row), json!({"n": round}))
                    })
                    .collect();
                let body = json!({"client_id": client, "transactions": [
                    {"id": round, "operations": operations}
                ]});
                loop {
                    let (_, answer) =
                        send(&router, &bearer("ada", Map::new()), body.to_string()).await;
                    match answer["transactions"][0]["verdict"].as_str() {
                        Some("applied") => break,
                        Some("retry") => {}
                        other => panic!("{other:?}: {answer}"),
                    }
                }
            }
        });
    }
    writers.join_all().await;
    assert_eq!(rig.ask("SELECT count(*) FROM runs WHERE op = 'UPDATE'").await, "120");
}

/// FD-40: bodies that never arrive take no place, whoever sends them.
#[tokio::test]
async fn fd_40_bodies_that_never_arrive_keep_nobody_from_writing() {
    let rig = Rig::start().await;
    let mut slow = JoinSet::new();
    for _ in 0..70 {
        let request = Request::post("/api/v1/upload")
            .header("authorization", bearer("ada", Map::new()))
            .body(Body::from_stream(futures_util::stream::pending::<std::io::Result<Vec<u8>>>()))
            .unwrap();
        slow.spawn(rig.router.clone().oneshot(request));
    }
    let (status, body) = rig.upload("bob", one_put(1)).await;
    assert_eq!((status, &body["transactions"][0]["verdict"]), (StatusCode::OK, &json!("applied")));
    assert!(slow.try_join_next().is_none(), "the slow ones are still being received");
}

/// FD-40: one user's uploads that wait in the database take a part of the connections only.
#[tokio::test]
async fn fd_40_one_users_uploads_cannot_take_all_connections() {
    let rig = Rig::start().await;
    rig.sql
        .batch_execute(
            "CREATE TABLE notes (id uuid PRIMARY KEY, body text);
             GRANT ALL ON notes TO headwater_authenticated;
             CREATE TABLE held (id uuid PRIMARY KEY, body text);
             GRANT ALL ON held TO headwater_authenticated",
        )
        .await
        .unwrap();
    let mut map = UploadMap::new(Unknown::Rejected);
    for table in ["notes", "held"] {
        map.insert(table, plain(table, ConflictPolicy::LastWriteWins));
    }
    rig.uploads.set_map(map);
    let upload = |table: &str, n: i64| {
        let row = json!({"op_id": n, "op": "PUT", "type": table, "id": row_id(n as u32),
            "data": {"body": "b"}});
        let transactions = json!([{"id": n, "operations": [row]}]);
        json!({"client_id": format!("c{n}"), "transactions": transactions}).to_string()
    };
    rig.sql.batch_execute("BEGIN; LOCK TABLE held").await.unwrap();
    let mut held = JoinSet::new();
    for n in 1..=20 {
        let (router, body) = (rig.router.clone(), upload("held", n));
        held.spawn(async move { send(&router, &bearer("ada", Map::new()), body).await });
    }
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    let sql = rig.cluster.client("postgres").await;
    hw_testkit::poll_until("two of them wait for the lock", || async {
        let count: i64 = sql.query_one(waiting, &[]).await.unwrap().get(0);
        (count == 2).then_some(())
    })
    .await;
    for n in 1..=8 {
        let (_, body) = send(&rig.router, &bearer("bob", Map::new()), upload("notes", n)).await;
        assert_eq!(body["transactions"][0]["verdict"], "applied", "{body}");
    }
    let count: i64 = sql.query_one(waiting, &[]).await.unwrap().get(0);
    assert_eq!(count, 2, "the others of that user wait for their turn");
    rig.sql.batch_execute("COMMIT").await.unwrap();
    while let Some(done) = held.join_next().await {
        let (_, body) = done.unwrap();
        assert_eq!(body["transactions"][0]["verdict"], "applied", "{body}");
    }
}
