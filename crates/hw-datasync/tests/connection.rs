//! `datasync.md` 1: the socket and who is behind it.

use std::time::Duration;

use hw_datasync::DataSyncOptions;
use hw_testkit::poll_until;
use hw_write::StatementOptions;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::rig::{Rig, create, query, row_id, token_of, token_with};

fn options(change: impl FnOnce(&mut DataSyncOptions)) -> DataSyncOptions {
    let mut options = DataSyncOptions::default();
    change(&mut options);
    options
}

#[tokio::test]
async fn ds_1_a_token_may_come_in_four_ways_and_the_first_decides() {
    let options = options(|it| {
        it.cookie = Some("session".into());
        it.origins = vec!["https://app.example".into()];
    });
    let rig = Rig::start_with(options, StatementOptions::default(), &[]).await;
    let (good, bad) = (token_of("amy"), "no.token.here");
    let bearer = format!("Bearer {good}");
    let cookie = format!("a=b; session={good}");
    let origin = ("origin", "https://app.example");
    assert!(rig.connect_with(&format!("?access_token={good}&unknown=1"), &[]).await.is_ok());
    assert!(rig.connect_with(&format!("?jwt={good}"), &[]).await.is_ok());
    assert!(rig.connect_with("", &[("authorization", &bearer)]).await.is_ok());
    assert!(rig.connect_with("", &[("cookie", &cookie), origin]).await.is_ok());
    let refused =
        rig.connect_with("", &[("cookie", &cookie), ("origin", "https://evil.example")]).await;
    assert_eq!(refused.err(), Some(403));
    assert_eq!(rig.connect_with("", &[("cookie", &cookie)]).await.err(), Some(403));
    // One that does not hold is not taken for none, nor is another looked for.
    let query = format!("?access_token={bad}");
    assert_eq!(rig.connect_with(&query, &[("authorization", &bearer)]).await.err(), Some(401));
    assert_eq!(rig.connect_with("", &[]).await.err(), Some(401));
}

#[tokio::test]
async fn ds_1_nobody_is_let_in_without_a_token_unless_operators_say_so() {
    let options = options(|it| it.anonymous = Some(None));
    let rig = Rig::start_with(options, StatementOptions::default(), &[]).await;
    rig.sql.batch_execute("INSERT INTO tasks (owner) VALUES ('amy')").await.expect("inserted");
    let mut nobody = rig.connect_with("", &[]).await.expect("let in");
    assert_eq!(nobody.rows(query("tasks", json!({}))).await, json!([]));
    assert_eq!(rig.connect_with("?access_token=bad", &[]).await.err(), Some(401));
    // And becomes somebody on the same socket.
    let token = token_of("amy");
    let answer = nobody.ask(json!({"tag": "LoginWithJWT", "jwt": token})).await;
    assert_eq!(
        answer,
        json!({"tag": "LoginSuccessful", "requestId": 1, "userId": "amy", "jwt": token})
    );
    assert_eq!(nobody.rows(query("tasks", json!({}))).await.as_array().map(Vec::len), Some(1));
    let refused = nobody.refused(json!({"tag": "LoginWithJWT", "jwt": "x.y.z"})).await;
    assert!(!refused.contains("x.y.z"), "{refused}");
    assert_eq!(
        nobody.rows(query("tasks", json!({}))).await.as_array().map(Vec::len),
        Some(1),
        "still amy"
    );
}

#[tokio::test]
async fn ds_1_anonymous_users_have_a_role_of_their_own_if_operators_say_so() {
    let options = options(|it| it.anonymous = Some(Some("anon".into())));
    let rig = Rig::start_with(options, StatementOptions::default(), &[]).await;
    let make =
        "CREATE ROLE anon; GRANT anon TO headwater_login; GRANT SELECT (id) ON counters TO anon;
                INSERT INTO counters VALUES (1, 1)";
    rig.sql.batch_execute(make).await.expect("made");
    let mut nobody = rig.connect_with("", &[]).await.expect("let in");
    let ids = query(
        "counters",
        json!({"selectedColumns": {"tag": "SelectSpecific", "contents": ["id"]}}),
    );
    assert_eq!(nobody.rows(ids).await, json!([{"id": 1}]));
    let all = json!({"tag": "DataSyncQuery", "query": query("counters", json!({}))});
    let answer = nobody.ask(all).await;
    assert_eq!(answer["sqlstate"], "42501", "{answer}");
}

/// One rule for requests and for what stays open: a minute more than the token says, because clocks differ.
#[tokio::test]
async fn ds_1_a_socket_ends_with_its_token_unless_it_is_renewed() {
    let rig = Rig::start().await;
    let short = token_with("amy", Duration::from_secs(600), json!({}));
    let connect = async || rig.connect_with(&format!("?access_token={short}"), &[]).await;
    let get = async || reqwest_get(&rig, &format!("/api/tasks?access_token={short}")).await;
    let tasks = || query("tasks", json!({}));
    let mut first = connect().await.expect("connected");
    let mut second = connect().await.expect("connected");
    rig.advance(630);
    let mut late = connect().await.expect("the clocks may differ");
    for socket in [&mut first, &mut second, &mut late] {
        assert_eq!(socket.rows(tasks()).await, json!([]));
    }
    assert!(get().await.starts_with("HTTP/1.1 200 "));
    let login = second.ask(json!({"tag": "LoginWithJWT", "jwt": token_of("amy")})).await;
    assert_eq!(login["tag"], "LoginSuccessful", "{login}");
    rig.advance(31);
    assert_eq!(connect().await.err(), Some(401));
    let answer = get().await;
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("HW4103"), "{answer}");
    // It notices when it looks at the clock again.
    first.send(json!({"tag": "DataSyncQuery", "query": tasks()})).await;
    assert_eq!(first.closed().await, 4401);
    assert_eq!(second.rows(tasks()).await, json!([]));
}

#[tokio::test]
async fn ds_1_an_empty_token_is_told_as_none() {
    let options = options(|it| it.anonymous = Some(None));
    // Also where nobody needs one: somebody meant to show it.
    for rig in
        [Rig::start().await, Rig::start_with(options, StatementOptions::default(), &[]).await]
    {
        let answer = reqwest_get(&rig, "/api/tasks?access_token=").await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        assert!(
            answer.contains("HW4106") && answer.contains("Authentication required"),
            "{answer}"
        );
        assert_eq!(rig.connect_with("?access_token=", &[]).await.err(), Some(401));
    }
}

#[tokio::test]
async fn ds_1_plain_requests_are_told_what_the_path_is_for() {
    let rig = Rig::start().await;
    let answer = reqwest_get(&rig, "/DataSyncController").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("content-type: text/plain"), "{answer}");
    assert!(answer.ends_with("This endpoint is only available via a WebSocket"), "{answer}");
}

/// A request by hand, and the whole answer.
async fn reqwest_get(rig: &Rig, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(rig.address).await.expect("connected");
    let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer
}

#[tokio::test]
async fn ds_1_messages_may_be_binary_and_are_bounded() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    let message =
        json!({"tag": "DataSyncQuery", "requestId": 7, "query": query("tasks", json!({}))});
    amy.send_frame(Message::binary(message.to_string().into_bytes())).await;
    assert_eq!(amy.receive().await, json!({"tag": "DataSyncResult", "requestId": 7, "result": []}));
    // As large as it may be.
    let mut large = message.to_string();
    large.extend(std::iter::repeat_n(' ', (1 << 20) - large.len()));
    amy.send_text(&large).await;
    assert_eq!(amy.receive().await["tag"], "DataSyncResult");
    large.push(' ');
    amy.send_frame(Message::text(large)).await;
    let reason = "a message may have 1048576 bytes (datasync.max_message)".to_owned();
    assert_eq!(amy.closed_with().await, (1009, reason));
}

#[tokio::test]
async fn ds_1_a_server_that_stops_says_so() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    amy.rows(query("tasks", json!({}))).await;
    drop(rig);
    assert_eq!(amy.closed().await, 1001);
}

#[tokio::test]
async fn ds_17_a_slow_answer_is_preceded_by_signs_of_life() {
    let rig = Rig::start().await;
    let make = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
                  $$ BEGIN PERFORM pg_sleep(3.5); RETURN NEW; END $$;
                CREATE TRIGGER wait BEFORE INSERT ON counters FOR EACH ROW EXECUTE FUNCTION wait()";
    rig.sql.batch_execute(make).await.expect("made");
    let mut amy = rig.connect("amy").await;
    amy.send(create("counters", json!({"id": 1}))).await;
    assert_eq!(amy.receive_text().await, r#"{"tag":"KeepAlive"}"#);
    assert_eq!(amy.receive().await["tag"], "DidCreateRecord");
}

#[tokio::test]
async fn ds_3_messages_that_are_not_awaited_see_what_came_before_them() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    for n in 0..20 {
        amy.send(create("tasks", json!({"id": row_id(n), "n": n}))).await;
        amy.send(json!({"tag": "DataSyncQuery", "query": query("tasks", json!({}))})).await;
    }
    let mut seen = vec![0; 40];
    for _ in 0..40 {
        let answer = amy.receive().await;
        let number = answer["requestId"].as_u64().expect("a number") as usize;
        if answer["tag"] == "DataSyncResult" {
            seen[number] = answer["result"].as_array().expect("rows").len();
        }
    }
    for n in 0..20 {
        assert!(seen[2 * n + 1] > n, "query {n} saw {}", seen[2 * n + 1]);
    }
}

/// Who calls when a transaction is opened is not always who calls when it is open.
#[tokio::test]
async fn ds_1_a_transaction_that_a_login_overtakes_does_not_stay_open() {
    let rig = Rig::start().await;
    let mut socket = rig.connect("amy").await;
    // Postgres lets nobody in for a while.
    rig.sql.batch_execute("BEGIN; LOCK TABLE pg_authid").await.expect("locked");
    let begin = socket.send(json!({"tag": "StartTransaction"})).await;
    let login = socket.send(json!({"tag": "LoginWithJWT", "jwt": token_of("ben")})).await;
    let answer = socket.receive().await;
    assert_eq!((&answer["tag"], &answer["requestId"]), (&json!("LoginSuccessful"), &json!(login)));
    rig.sql.batch_execute("COMMIT").await.expect("unlocked");
    let answer = socket.receive().await;
    assert_eq!(
        (&answer["tag"], &answer["requestId"]),
        (&json!("DidStartTransaction"), &json!(begin))
    );
    assert_eq!(socket.closed().await, 4401);
    let open = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'headwater_login' AND state LIKE 'idle in%'";
    poll_until("nothing is open", || async { (rig.ask(open).await == "0").then_some(()) }).await;
}
