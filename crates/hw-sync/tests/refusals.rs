//! What is refused, with which status and words, and the routes beside the stream.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hw_sync::SyncOptions;
use hw_sync::source::Source;
use hw_testkit::poll_until;
use serde_json::{Value, json};

use crate::client::Server;
use crate::twin::token;

fn bearer(user: &str) -> (&'static str, String) {
    ("authorization", format!("Bearer {}", token(user, Duration::from_secs(60))))
}

async fn refused(server: &Server, headers: &[(&str, String)], body: &str) -> (u16, Value) {
    let answer = server.send("POST", "/sync/stream", headers, body).await;
    assert_eq!(answer.headers["content-type"], "application/json; charset=utf-8");
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    (answer.status, answer.json().await["error"].clone())
}

#[tokio::test]
async fn validation_comes_before_authorization() {
    let server = Server::start().await;
    server.twin.publish();
    let (status, error) = refused(&server, &[], r#"{"buckets":5}"#).await;
    assert_eq!((status, &error["code"]), (400, &json!("PSYNC_S2001")));
    let (status, error) = refused(&server, &[], "{}").await;
    assert_eq!((status, &error["code"]), (401, &json!("PSYNC_S2106")));
    assert_eq!(error["description"], "Authentication required");
    let (status, error) =
        refused(&server, &[("authorization", "Token nonsense".into())], "{}").await;
    assert_eq!((status, &error["code"]), (401, &json!("PSYNC_S2101")));
    let (status, error) = refused(&server, &[bearer("amy")], "no json").await;
    assert_eq!((status, &error["code"]), (400, &json!("FST_ERR_CTP_INVALID_JSON_BODY")));
}

/// FD-36: a long body is taken from those who are known; of a stranger nothing is kept, and he
/// reads why behind all that he sends.
#[tokio::test]
async fn fd_36_long_bodies_are_taken_from_those_who_are_known() {
    let server = Server::start().await;
    server.twin.publish();
    let held = |count: usize| {
        let bucket = |i| json!({"name": format!("0.0#b[{i}]"), "after": "7"});
        json!({"buckets": (0..count).map(bucket).collect::<Vec<_>>()}).to_string()
    };
    let long = held(60_000);
    assert!(long.len() > 2 << 20);
    let taken = server.send("POST", "/sync/stream", &[bearer("amy")], &long).await;
    assert_eq!(taken.status, 200);
    let (status, error) = refused(&server, &[], &long).await;
    assert_eq!((status, &error["code"]), (401, &json!("PSYNC_S2106")));
}

/// FD-36: bodies in flight have a budget, and each user a share of it. (A twin's is 64 MB.)
#[tokio::test]
async fn fd_36_a_body_above_the_bound_is_refused_and_the_next_one_is_taken() {
    let options = SyncOptions { max_body_bytes: 1 << 20, ..SyncOptions::default() };
    let server = Server::start_with(options).await;
    server.twin.publish();
    let long = format!(r#"{{"x":"{}"}}"#, "x".repeat(2 << 20));
    let (status, error) = refused(&server, &[bearer("amy")], &long).await;
    assert_eq!((status, &error["code"]), (413, &json!("FST_ERR_CTP_BODY_TOO_LARGE")));
    let taken = server.send("POST", "/sync/stream", &[bearer("amy")], "{}").await;
    assert_eq!(taken.status, 200);
}

/// FD-38: one user takes his share of the streams and nobody else's.
#[tokio::test]
async fn fd_38_one_user_cannot_take_all_streams() {
    let options = SyncOptions { max_streams_per_user: 2, ..SyncOptions::default() };
    let server = Server::start_with(options).await;
    server.twin.publish();
    let first = server.stream("amy").await;
    let _second = server.stream("amy").await;
    let (status, error) = refused(&server, &[bearer("amy")], "{}").await;
    assert_eq!((status, &error["code"]), (429, &json!("PSYNC_S2304")));
    server.stream("bob").await.until_complete().await;
    drop(first);
    poll_until("a place is free", || async { (server.used("streams") == 1).then_some(()) }).await;
    server.stream("amy").await.until_complete().await;
}

/// FD-38: what a stream keeps of its request, as text, counts as memory of the surface for as long
/// as it lives. One user who keeps all that he may is refused more, and takes nothing from others.
#[tokio::test]
async fn fd_38_what_a_stream_keeps_of_its_request_is_counted_by_user() {
    let options = SyncOptions { page_budget_bytes: 8 << 20, ..SyncOptions::default() };
    let server = Server::start_with(options).await;
    server.twin.publish();
    let large = format!(r#"{{"parameters":{{"x":[{}0]}}}}"#, "0,".repeat(32_000));
    let mut open = Vec::new();
    let (status, error) = loop {
        let answer = server.send("POST", "/sync/stream", &[bearer("amy")], &large).await;
        if answer.status != 200 {
            break refused(&server, &[bearer("amy")], &large).await;
        }
        open.push(answer);
    };
    assert_eq!((status, &error["code"]), (503, &json!("PSYNC_S2003")));
    assert!(error["description"].as_str().unwrap().contains("this user"), "{error}");
    assert!(open.len() >= 4, "{}", open.len());
    let held = server.used("page_memory_bytes");
    assert!(held < (3 << 19) && held > open.len() * 64_000, "{held}");
    server.stream("amy").await.until_complete().await;
    let other = server.send("POST", "/sync/stream", &[bearer("bob")], &large).await;
    assert_eq!(other.status, 200);
    drop((open, other));
    poll_until("it is given back", || async {
        (server.used("page_memory_bytes") < 32_000).then_some(())
    })
    .await;
}

/// FD-38: the largest request that the limits allow is let in, however little memory there is for those
/// of all.
#[tokio::test]
async fn fd_38_the_largest_request_that_may_be_sent_is_let_in() {
    let mut options = SyncOptions { page_budget_bytes: 4 << 20, ..SyncOptions::default() };
    options.user.max_buckets = 10_000;
    let server = Server::start_with(options).await;
    server.twin.publish();
    let text = "x".repeat(210);
    let subscriptions = vec![json!({"stream": "s", "parameters": {"x": text}}); 10_000];
    let largest = json!({"streams": {"subscriptions": subscriptions}}).to_string();
    assert!(largest.len() > 2 << 20);
    let answer = server.send("POST", "/sync/stream", &[bearer("amy")], &largest).await;
    assert_eq!(answer.status, 200);
    assert!(server.used("page_memory_bytes") > 2 << 20);
}

/// FD-43: client ids that no key can hold are refused on every route, before anything is logged.
#[tokio::test]
async fn fd_43_a_client_id_has_at_most_256_bytes() {
    let server = Server::start().await;
    server.twin.publish();
    for (length, expected) in [(256, 200), (257, 400), (60_000, 400)] {
        let id = "x".repeat(length);
        let stream = format!(r#"{{"client_id":"{id}"}}"#);
        let checkpoint = format!(r#"{{"client_id":"{id}","checkpoint_request_id":1}}"#);
        for (method, path, body) in [
            ("POST", "/sync/stream".to_owned(), stream),
            ("POST", format!("/sync/stream?client_id={id}"), "{}".into()),
            ("POST", "/sync/checkpoint-request".into(), checkpoint),
            ("GET", format!("/write-checkpoint2.json?client_id={id}"), String::new()),
            ("GET", format!("/write-checkpoint.json?client_id={id}"), String::new()),
        ] {
            let answer = server.send(method, &path, &[bearer("amy")], &body).await;
            assert_eq!(answer.status, expected, "{method} {} {length}", &path[..20]);
        }
    }
}

/// FD-34: a user cannot move another's write checkpoints by a client id that looks like his name.
#[tokio::test]
async fn fd_34_no_user_and_client_share_a_key_with_another_pair() {
    let server = Server::start().await;
    server.twin.publish();
    let theirs = r#"{"client_id":"u2/c1","checkpoint_request_id":"9000000000000000000"}"#;
    let asked = server.send("POST", "/sync/checkpoint-request", &[bearer("team")], theirs).await;
    assert_eq!(asked.status, 200);
    let other = bearer("team/u2");
    let mut stream = server.send("POST", "/sync/stream", &[other], r#"{"client_id":"c1"}"#).await;
    let first = stream.expect("checkpoint").await;
    assert_eq!(first.get("write_checkpoint"), None, "{first}");
    let same = bearer("team");
    let mut stream = server.send("POST", "/sync/stream", &[same], r#"{"client_id":"u2/c1"}"#).await;
    let first = stream.expect("checkpoint").await;
    assert_eq!(first["write_checkpoint"], "9000000000000000000");
}

#[tokio::test]
async fn a_client_that_takes_only_bson_is_told_so() {
    let server = Server::start().await;
    server.twin.publish();
    let bson = "application/vnd.powersync.bson-stream";
    let (status, error) = refused(&server, &[bearer("amy"), ("accept", bson.into())], "{}").await;
    assert_eq!((status, &error["code"]), (415, &json!("PSYNC_S2004")));
    let both = format!("{bson};q=0.9,application/x-ndjson;q=0.8");
    let taken = server.send("POST", "/sync/stream", &[bearer("amy"), ("accept", both)], "{}").await;
    assert_eq!(taken.headers["content-type"], "application/x-ndjson");
}

#[tokio::test]
async fn limits_are_told_before_the_stream_begins() {
    let mut options = SyncOptions { max_streams: 1, ..SyncOptions::default() };
    options.user.max_buckets = 1;
    let server = Server::start_with(options).await;
    server.twin.join("amy", "a");
    server.twin.join("amy", "b");
    server.twin.publish();
    let (status, error) = refused(&server, &[bearer("amy")], "{}").await;
    assert_eq!((status, &error["code"]), (400, &json!("PSYNC_S2305")));
    assert_eq!(error["description"], "Too many buckets: 2 (limit of 1)");

    let mut bob = server.stream("bob").await;
    bob.until_complete().await;
    let (status, error) = refused(&server, &[bearer("eve")], "{}").await;
    assert_eq!((status, &error["code"]), (429, &json!("PSYNC_S2304")));
}

#[tokio::test]
async fn without_a_configuration_there_is_nothing_to_sync() {
    let server = Server::start().await;
    server.twin.unconfigure();
    let (status, error) = refused(&server, &[bearer("amy")], "{}").await;
    assert_eq!((status, &error["code"]), (500, &json!("PSYNC_S2302")));
    let answer = server.send("GET", "/write-checkpoint2.json", &[bearer("amy")], "").await;
    assert_eq!(answer.status, 500);
}

/// E-10: a client is never answered from the past.
#[tokio::test]
async fn a_client_that_is_ahead_waits_until_the_server_has_reached_it() {
    let server = Server::start().await;
    server.twin.join("amy", "a");
    let ahead = server.twin.put("a", "t1", "x");
    let held = BTreeMap::from([("1.1#list[\"a\"]".to_owned(), ahead.to_string())]);
    let (mut amy, ()) = tokio::join!(server.resume("amy", &held), async {
        tokio::task::yield_now().await;
        server.twin.publish();
    });
    let first = amy.expect("checkpoint").await;
    let position: u64 = first["last_op_id"].as_str().unwrap().parse().unwrap();
    assert!(position >= ahead);
}

/// E-10: 503 when the server does not get there, and other epochs are not waited for.
#[tokio::test]
async fn a_client_that_stays_ahead_is_turned_away() {
    let options = SyncOptions { ahead_wait: Duration::from_millis(20), ..SyncOptions::default() };
    let server = Server::start_with(options).await;
    server.twin.join("amy", "a");
    server.twin.publish();
    let body = r#"{"buckets":[{"name":"1.1#list[\"a\"]","after":"99999"}]}"#;
    let (status, error) = refused(&server, &[bearer("amy")], body).await;
    assert_eq!((status, &error["code"]), (503, &json!("PSYNC_S2003")));
    let body = r#"{"buckets":[{"name":"0.7#list[\"a\"]","after":"99999"}]}"#;
    let taken = server.send("POST", "/sync/stream", &[bearer("amy")], body).await;
    assert_eq!(taken.status, 200);
}

/// A server whose store was put back behind what the client holds of list `a`, and what it sends.
async fn put_back(user: &str, options: SyncOptions) -> (Server, &'static str) {
    let server = Server::start_with(options).await;
    server.twin.join(user, "a");
    for n in 0..300 {
        server.twin.put("a", &format!("t{n}"), "x");
    }
    server.twin.begin_run(1000);
    server.twin.publish();
    (server, r#"{"buckets":[{"name":"1.1#list[\"a\"]","after":"999"}],"raw_data":true}"#)
}

/// Who holds what was lost is sent all of it anew: a large read, although he stands at a high number.
#[tokio::test]
async fn what_a_client_holds_that_was_lost_is_read_with_the_large_reads() {
    let (server, body) = put_back("amy", SyncOptions::default()).await;
    let mut amy = server.send("POST", "/sync/stream", &[bearer("amy")], body).await;
    let lines = amy.until_complete().await;
    let first = &lines.iter().find_map(|line| line.get("data")).unwrap()["data"][0];
    assert_eq!(first["op"], "CLEAR");
    assert_eq!(operations_of(&lines), 301);
    let read_on = server.twin.probe.read_on.lock();
    let here = std::thread::current().id();
    assert!(!read_on.is_empty() && read_on[0] != here, "inline");
}

fn operations_of(lines: &[Value]) -> usize {
    let data = lines.iter().filter_map(|line| line.get("data"));
    data.map(|data| data["data"].as_array().unwrap().len()).sum()
}

/// A client that waits for what the source has holds no state of the store, and a stop ends its wait.
#[tokio::test]
async fn a_client_that_waits_for_the_present_holds_nothing_and_stops_with_the_server() {
    let options = SyncOptions { ahead_wait: Duration::from_secs(3600), ..SyncOptions::default() };
    let (server, body) = put_back("patient", options).await;
    let old = Arc::downgrade(&server.twin.newest());
    let headers = [bearer("patient")];
    let (answer, ()) = tokio::join!(server.send("POST", "/sync/stream", &headers, body), async {
        let probe = &server.twin.probe;
        poll_until("it has asked", || async {
            (probe.asked.load(Ordering::Relaxed) > 0).then_some(())
        })
        .await;
        server.twin.publish();
        poll_until("the old state is let go", || async { old.upgrade().is_none().then_some(()) })
            .await;
        server.stop.cancel();
    });
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json().await["error"]["description"], "Server is stopping");
}

/// While it is looked whether a write checkpoint has arrived, others publish.
#[tokio::test]
async fn who_looks_for_a_write_checkpoint_keeps_nobody_from_publishing() {
    let (server, body) = put_back("amy", SyncOptions::default()).await;
    for (method, path, body) in
        [("POST", "/sync/stream", body), ("GET", "/write-checkpoint.json", "")]
    {
        let (published, all) = std::sync::mpsc::channel();
        let twin = server.twin.clone();
        *server.twin.probe.at_look.lock() = Some(Box::new(move || {
            let (done, publisher) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                twin.publish();
                let _ = done.send(());
            });
            let _ = published.send(publisher.recv_timeout(Duration::from_secs(20)).is_ok());
        }));
        let answer = server.send(method, path, &[bearer("amy")], body).await;
        assert_eq!(answer.status, 200);
        assert_eq!(all.try_recv(), Ok(true), "{path}");
    }
}

/// Where a client stands is decided of the state that it is shown: a bucket of an incarnation that
/// begins to be served meanwhile is either not shown, or told to be forgotten.
#[tokio::test]
async fn a_place_is_lost_in_the_state_that_is_shown() {
    for look in 1..=6 {
        let (server, body) = put_back("amy", SyncOptions::default()).await;
        let before = server.twin.probe.rebuild_at_look(look);
        let body = body.replace("1.1#", "1.2#");
        let mut amy = server.send("POST", "/sync/stream", &[bearer("amy")], &body).await;
        let lines = amy.until_complete().await;
        let shown = &lines[0]["checkpoint"]["buckets"][0]["bucket"];
        let first = &lines.iter().find_map(|line| line.get("data")).unwrap()["data"][0];
        if shown == "1.2#list[\"a\"]" {
            assert_eq!(first["op"], "CLEAR", "at look {look} behind {before}");
        }
    }
}

#[tokio::test]
async fn a_source_that_cannot_be_reached_is_told_without_its_text() {
    let server = Server::start().await;
    server.twin.publish();
    let answer = server.send("GET", "/write-checkpoint2.json", &[bearer("unlucky")], "").await;
    assert_eq!(answer.status, 503);
    assert!(!answer.json().await.to_string().contains("refused"));
}

#[tokio::test]
async fn unknown_paths_and_methods_are_404_in_the_manner_of_powersync() {
    let server = Server::start().await;
    for (method, path) in [
        ("GET", "/sync/stream"),
        ("POST", "/sync"),
        ("GET", "/sync/reactive"),
        ("GET", "/probes/other"),
        ("POST", "/write-checkpoint2.json"),
    ] {
        let answer = server.send(method, path, &[], "").await;
        assert_eq!(answer.status, 404, "{method} {path}");
        assert_eq!(answer.json().await["error"]["code"], "PSYNC_S2002");
    }
}

#[tokio::test]
async fn browsers_may_come_from_anywhere() {
    let server = Server::start().await;
    let headers = [
        ("origin", "https://app.example".to_owned()),
        ("access-control-request-method", "POST".to_owned()),
        ("access-control-request-headers", "authorization,content-type,x-user-agent".to_owned()),
    ];
    let answer = server.send("OPTIONS", "/sync/stream", &headers, "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    assert_eq!(answer.headers["access-control-max-age"], "3600");
    let allowed = answer.headers["access-control-allow-headers"].to_ascii_lowercase();
    for header in ["content-type", "authorization", "user-agent", "x-user-agent"] {
        assert!(allowed.contains(header));
    }
}

#[tokio::test]
async fn probes_tell_started_ready_and_alive() {
    let server = Server::start().await;
    for (path, status) in
        [("/probes/startup", 200), ("/probes/readiness", 400), ("/probes/liveness", 400)]
    {
        let answer = server.send("GET", path, &[], "").await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(
            answer.json().await,
            json!({"ready": false, "started": true, "touched_at": "1970-01-01T00:00:00.000Z"})
        );
    }
}
