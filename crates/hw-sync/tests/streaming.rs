//! Streams: what a client receives, and when.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hw_sync::SyncOptions;
use serde_json::{Value, json};

use crate::client::{Server, Stream, operations};
use crate::twin::token;

fn bucket(name: &str) -> String {
    format!("1.1#list[{name:?}]")
}

#[tokio::test]
async fn a_client_gets_its_buckets_and_then_what_changes_in_them() {
    let server = Server::start().await;
    server.twin.put("a", "t1", "Milk \"2 l\"");
    server.twin.put("b", "t2", "not amy's");
    server.twin.join("amy", "a");
    server.twin.publish();

    let mut amy = server.stream("amy").await;
    assert_eq!(amy.headers["content-type"], "application/x-ndjson");
    assert_eq!(amy.headers["x-accel-buffering"], "no");
    let checkpoint = amy.expect("checkpoint").await;
    assert_eq!(checkpoint["buckets"].as_array().unwrap().len(), 1);
    assert_eq!(checkpoint["buckets"][0]["bucket"], bucket("a"));
    assert_eq!(checkpoint["streams"], json!([{"name":"lists","is_default":true,"errors":[]}]));
    let data = amy.expect("data").await;
    assert_eq!(data["data"][0]["data"], r#"{"id":"t1","text":"Milk \"2 l\""}"#);
    assert_eq!(data["has_more"], false);
    amy.expect("checkpoint_complete").await;

    // Not hers: no line. Hers: diff, data, complete.
    server.twin.put("b", "t3", "nor this");
    server.twin.publish();
    server.twin.remove("a", "t1");
    server.twin.publish();
    let lines = amy.until_complete().await;
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["checkpoint_diff"]["updated_buckets"][0]["count"], 2);
    assert_eq!(operations(&lines), ["REMOVE t1"]);
}

#[tokio::test]
async fn access_that_comes_and_goes_moves_buckets_in_and_out() {
    let server = Server::start().await;
    server.twin.put("a", "t1", "x");
    server.twin.publish();
    let mut amy = server.stream("amy").await;
    assert_eq!(amy.until_complete().await.len(), 2);

    server.twin.join("amy", "a");
    server.twin.publish();
    assert_eq!(operations(&amy.until_complete().await), ["PUT t1"]);
    server.twin.leave("amy", "a");
    server.twin.publish();
    let lines = amy.until_complete().await;
    assert_eq!(lines[0]["checkpoint_diff"]["removed_buckets"], json!([bucket("a")]));
    // Its rows may be deleted by now, so they are sent again.
    server.twin.join("amy", "a");
    server.twin.publish();
    assert_eq!(operations(&amy.until_complete().await), ["PUT t1"]);
}

/// FD-75: what a change of one membership costs does not grow with the user's buckets.
#[tokio::test]
async fn fd_75_a_membership_that_comes_reads_its_own_bucket_and_those_that_changed() {
    let server = Server::start().await;
    for name in ["a", "b", "c", "d"] {
        server.twin.put(name, name, "x");
        server.twin.join("amy", name);
    }
    server.twin.publish();
    let mut amy = server.stream("amy").await;
    amy.until_complete().await;
    let read = || server.twin.totals_read.swap(0, Ordering::Relaxed);
    assert_eq!(read(), 4);
    server.twin.put("e", "e", "x");
    server.twin.join("amy", "e");
    server.twin.publish();
    assert_eq!(operations(&amy.until_complete().await), ["PUT e"]);
    assert_eq!(read(), 1);
    server.twin.leave("amy", "b");
    server.twin.put("c", "c", "y");
    server.twin.publish();
    let lines = amy.until_complete().await;
    assert_eq!(lines[0]["checkpoint_diff"]["removed_buckets"], json!([bucket("b")]));
    assert_eq!(operations(&lines), ["PUT c"]);
    assert_eq!(read(), 1);
}

#[tokio::test]
async fn a_bucket_that_was_empty_at_first_wakes_its_user() {
    let server = Server::start().await;
    server.twin.join("amy", "a");
    server.twin.publish();
    let mut amy = server.stream("amy").await;
    amy.until_complete().await;
    server.twin.put("a", "t1", "x");
    server.twin.publish();
    assert_eq!(operations(&amy.until_complete().await), ["PUT t1"]);
}

#[tokio::test]
async fn urgent_buckets_are_complete_before_the_rest() {
    let server = Server::start().await;
    for name in ["a", "urgent"] {
        server.twin.put(name, name, "x");
        server.twin.join("amy", name);
    }
    server.twin.publish();
    let lines = server.stream("amy").await.until_complete().await;
    assert_eq!(operations(&lines), ["PUT urgent", "PUT a"]);
    assert_eq!(lines[2]["partial_checkpoint_complete"]["priority"], 1);
}

#[tokio::test]
async fn resuming_sends_only_what_is_newer() {
    let server = Server::start().await;
    server.twin.put("a", "t1", "x");
    let seen = server.twin.put("a", "t2", "x");
    server.twin.put("a", "t3", "x");
    server.twin.join("amy", "a");
    server.twin.publish();
    let held = BTreeMap::from([
        (bucket("a"), seen.to_string()),
        ("0.9#list[\"a\"]".into(), "999999999".into()),
    ]);
    let lines = server.resume("amy", &held).await.until_complete().await;
    assert_eq!(operations(&lines), ["PUT t3"]);
}

/// E-5, E-17: thousands of operations, in both codings, are the same for all clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_bucket_arrives_whole_for_many_clients_in_both_codings() {
    let server = Server::start().await;
    for i in 0..5000 {
        server.twin.put("a", &format!("t{i}"), &"some text ".repeat(i % 30));
    }
    for user in 0..10 {
        server.twin.join(&format!("u{user}"), "a");
    }
    server.twin.publish();
    let mut tasks = Vec::new();
    for user in 0..10 {
        let token = token(&format!("u{user}"), Duration::from_secs(3600));
        let mut headers = vec![("authorization", format!("Bearer {token}"))];
        if user % 2 == 0 {
            headers.push(("accept-encoding", "gzip, deflate".into()));
        }
        let mut stream =
            server.send("POST", "/sync/stream", &headers, r#"{"raw_data":true}"#).await;
        assert_eq!(stream.headers.contains_key("content-encoding"), user % 2 == 0);
        tasks.push(tokio::spawn(async move {
            let lines = stream.until_complete().await;
            (operations(&lines), checksums(&lines))
        }));
    }
    let expected: Vec<String> = (0..5000).map(|i| format!("PUT t{i}")).collect();
    for task in tasks {
        let (operations, (announced, summed)) = task.await.unwrap();
        assert_eq!(operations, expected);
        assert_eq!(announced, summed);
    }
    // Live changes go through the same encoders.
    server.twin.put("a", "last", "x");
    server.twin.publish();
}

/// (announced, summed) checksum of the one bucket of these lines.
fn checksums(lines: &[Value]) -> (u32, u32) {
    let announced = lines[0]["checkpoint"]["buckets"][0]["checksum"].as_i64().unwrap() as u32;
    let data = lines.iter().filter_map(|line| line.get("data"));
    let sums = data.flat_map(|data| data["data"].as_array().unwrap());
    let sum = sums.fold(0u32, |sum, op| sum.wrapping_add(op["checksum"].as_u64().unwrap() as u32));
    (announced, sum)
}

#[tokio::test]
async fn a_gzip_client_sees_each_live_line_at_once() {
    let server = Server::start().await;
    server.twin.join("amy", "a");
    server.twin.publish();
    let token = token("amy", Duration::from_secs(3600));
    let headers =
        [("authorization", format!("Token {token}")), ("accept-encoding", "gzip".to_owned())];
    let mut amy = server.send("POST", "/sync/stream", &headers, r#"{"raw_data":true}"#).await;
    amy.until_complete().await;
    for i in 0..20 {
        server.twin.put("a", &format!("t{i}"), &"x".repeat(i * 400));
        server.twin.publish();
        assert_eq!(operations(&amy.until_complete().await), [format!("PUT t{i}")]);
    }
    server.stop.cancel();
    assert!(amy.line().await.is_none(), "the gzip member has its end");
}

#[tokio::test]
async fn old_clients_get_nested_data() {
    let server = Server::start().await;
    server.twin.put("a", "t1", "x");
    server.twin.join("amy", "a");
    server.twin.publish();
    let token = token("amy", Duration::from_secs(3600));
    let headers = [("authorization", format!("Token {token}"))];
    let mut amy = server.send("POST", "/sync/stream", &headers, "{}").await;
    amy.expect("checkpoint").await;
    let data = amy.expect("data").await;
    assert_eq!(data["data"][0]["data"], json!({"id": "t1", "text": "x"}));
}

#[tokio::test]
async fn a_write_checkpoint_comes_on_the_stream_and_is_repeated() {
    let server = Server::start().await;
    server.twin.join("amy", "a");
    server.twin.publish();
    let mut amy = server.stream("amy").await;
    let first = amy.expect("checkpoint").await;
    assert!(first.get("write_checkpoint").is_none());
    amy.expect("checkpoint_complete").await;

    let headers = [("authorization", format!("Token {}", token("amy", Duration::from_secs(60))))];
    let answer = server.send("GET", "/write-checkpoint2.json?client_id=c1", &headers, "").await;
    assert_eq!(answer.status, 200);
    let number = answer.json().await["data"]["write_checkpoint"].clone();
    let lines = amy.until_complete().await;
    assert_eq!(
        lines[0]["checkpoint_diff"],
        json!({"last_op_id": lines[1]["checkpoint_complete"]["last_op_id"],
               "write_checkpoint": number, "updated_buckets": [], "removed_buckets": []})
    );
    server.twin.put("a", "t1", "x");
    server.twin.publish();
    let lines = amy.until_complete().await;
    assert_eq!(lines[0]["checkpoint_diff"]["write_checkpoint"], number);

    // Client-numbered requests share the record; a smaller number learns the stored one.
    let body = r#"{"client_id":"c1","checkpoint_request_id":"3"}"#;
    let answer = server.send("POST", "/sync/checkpoint-request", &headers, body).await;
    assert_eq!(answer.json().await, json!({"data": {"checkpoint_request_id": number}}));
    let body = r#"{"client_id":"c1","checkpoint_request_id":"9000000000000"}"#;
    let answer = server.send("POST", "/sync/checkpoint-request", &headers, body).await;
    assert_eq!(answer.json().await["data"]["checkpoint_request_id"], "9000000000000");
    let lines = amy.until_complete().await;
    assert_eq!(lines[0]["checkpoint_diff"]["write_checkpoint"], "9000000000000");
    let answer = server.send("GET", "/write-checkpoint.json?client_id=c1", &headers, "").await;
    assert!(answer.json().await["data"]["checkpoint"].as_str().unwrap().parse::<u64>().is_ok());
}

#[tokio::test]
async fn a_new_configuration_with_the_same_streams_sends_nothing_again() {
    let server = Server::start().await;
    server.twin.put("a", "t1", "x");
    server.twin.join("amy", "a");
    server.twin.publish();
    let mut amy = server.stream("amy").await;
    amy.until_complete().await;
    server.twin.configure(&["lists"]);
    server.twin.publish();
    server.twin.put("a", "t2", "x");
    server.twin.publish();
    let lines = amy.until_complete().await;
    assert_eq!(operations(&lines), ["PUT t2"]);

    server.twin.configure(&["lists", "more"]);
    server.twin.publish();
    assert!(amy.line().await.is_none(), "another set of streams ends the response cleanly");
}

#[tokio::test]
async fn another_incarnation_replaces_the_buckets_by_new_ones() {
    let server = Server::start().await;
    server.twin.put("a", "t1", "x");
    server.twin.join("amy", "a");
    server.twin.publish();
    let mut amy = server.stream("amy").await;
    amy.until_complete().await;
    server.twin.rebuild();
    server.twin.publish();
    let lines = amy.until_complete().await;
    assert_eq!(lines[0]["checkpoint_diff"]["removed_buckets"], json!([bucket("a")]));
    assert_eq!(lines[1]["data"]["bucket"], "1.2#list[\"a\"]");
    assert_eq!(operations(&lines), ["PUT t1"]);
}

/// F-45: the stream ends at the token's expiry.
#[tokio::test]
async fn an_expired_token_ends_the_stream_with_zero() {
    let server = Server::start().await;
    server.twin.publish();
    let token = token("amy", Duration::ZERO);
    let headers = [("authorization", format!("Token {token}"))];
    let mut amy = server.send("POST", "/sync/stream", &headers, "{}").await;
    assert_eq!(amy.status, 200, "inside the tolerance");
    assert_eq!(amy.expect("token_expires_in").await, 0);
    assert!(amy.line().await.is_none());
}

#[tokio::test]
async fn a_stopping_server_ends_its_streams() {
    let server = Server::start().await;
    server.twin.publish();
    let mut amy = server.stream("amy").await;
    amy.until_complete().await;
    server.stop.cancel();
    assert!(amy.line().await.is_none());
    let token = token("amy", Duration::from_secs(60));
    let headers = [("authorization", format!("Token {token}"))];
    let late = server.send("POST", "/sync/stream", &headers, "{}").await;
    assert_eq!(late.status, 503);
}

#[tokio::test]
async fn a_user_who_passes_the_limit_in_mid_stream_is_cut_off() {
    let mut options = SyncOptions::default();
    options.user.max_buckets = 2;
    let server = Server::start_with(options).await;
    server.twin.join("amy", "a");
    server.twin.publish();
    let mut amy = server.stream("amy").await;
    amy.until_complete().await;
    server.twin.join("amy", "b");
    server.twin.join("amy", "c");
    server.twin.publish();
    assert!(amy.broken_off().await);
}

/// F-41: a client that reads nothing holds a bounded amount, and others are not affected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_cost_a_bounded_amount() {
    let options = SyncOptions {
        page_budget_bytes: 4 << 20,
        page_cache_bytes: 1 << 20,
        ..SyncOptions::default()
    };
    let server = Server::start_with(options).await;
    for i in 0..20_000 {
        server.twin.put("a", &format!("t{i}"), &"x".repeat(1000));
    }
    let mut sleepers: Vec<Stream> = Vec::new();
    for user in 0..20 {
        server.twin.join(&format!("u{user}"), "a");
    }
    server.twin.publish();
    for user in 0..20 {
        sleepers.push(server.stream(&format!("u{user}")).await);
    }
    server.twin.join("amy", "a");
    server.twin.publish();
    let lines = server.stream("amy").await.until_complete().await;
    assert_eq!(operations(&lines).len(), 20_000);
    // The budget, and beyond it what each sleeper may hold at its small lines.
    let bound = (4 << 20) + 21 * (2 << 20);
    assert!(server.used("page_memory_bytes") < bound, "{}", server.used("page_memory_bytes"));
    drop(sleepers);
}

/// FD-39: the end of a stream whose client takes nothing is the end of its connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fd_39_a_stream_that_ends_before_a_client_that_reads_nothing_ends_its_connection() {
    let server = Server::start().await;
    for i in 0..20_000 {
        server.twin.put("a", &format!("t{i}"), &"x".repeat(1000));
    }
    server.twin.join("amy", "a");
    server.twin.publish();
    let _silent = server.stream("amy").await;
    // The listener stays: only the stream is told to stop, and its end finds no room.
    server.stop.cancel();
    hw_testkit::poll_until("its connection is cut", || async {
        (server.connections.open() == 0).then_some(())
    })
    .await;
}

/// The index of listeners is empty when nobody is connected, and open streams are counted.
#[tokio::test]
async fn a_client_that_hangs_up_leaves_nothing_behind() {
    let server = Server::start().await;
    server.twin.join("amy", "a");
    server.twin.publish();
    let mut amy = server.stream("amy").await;
    amy.until_complete().await;
    assert_eq!(server.state.open_streams(), 1);
    assert_eq!(server.state.hub().sizes(), (1, 1, 1));
    drop(amy);
    while server.state.open_streams() > 0 || server.state.hub().sizes() != (0, 0, 0) {
        tokio::task::yield_now().await;
    }
}
