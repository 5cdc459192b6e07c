//! `datasync.md` 14: tables over HTTP.

use hw_datasync::DataSyncOptions;
use hw_write::StatementOptions;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::{Rig, equal, row_id, token_of};

/// A request by hand; status, head and body of the answer.
async fn send(
    rig: &Rig,
    method: &str,
    path: &str,
    more: &str,
    body: &str,
) -> (u16, String, String) {
    let mut stream = tokio::net::TcpStream::connect(rig.address).await.expect("connected");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{more}\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, head.to_lowercase(), body.to_owned())
}

/// A request of a user with JSON, and its answer.
pub async fn ask(rig: &Rig, sub: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let token = token_of(sub);
    let more = format!("authorization: Bearer {token}\r\ncontent-type: application/json\r\n");
    let (status, _, answer) = send(rig, method, path, &more, &body).await;
    (status, serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}")))
}

#[tokio::test]
async fn ds_14_records_are_created_read_changed_and_deleted() {
    let rig = Rig::start().await;
    let one = json!({"id": row_id(1), "title": "a", "isDone": true});
    let (status, made) = ask(&rig, "amy", "POST", "/api/tasks", one).await;
    assert_eq!((status, &made[0]["title"], &made[0]["owner"]), (200, &json!("a"), &json!("amy")));
    let two = json!([{"id": row_id(2), "title": "b"}, {"id": row_id(3), "title": "c"}]);
    let (status, made) = ask(&rig, "amy", "POST", "/api/tasks", two).await;
    assert_eq!((status, made.as_array().map(Vec::len)), (200, Some(2)));
    let (_, made) =
        ask(&rig, "amy", "POST", "/api/tasks?single=true", json!({"id": row_id(4)})).await;
    assert_eq!(made["title"], "untitled");
    let (status, all) = ask(
        &rig,
        "amy",
        "GET",
        "/api/tasks?fields=title,isDone&orderBy=isDone&orderBy=title,desc&limit=2&offset=1",
        Value::Null,
    )
    .await;
    assert_eq!(
        (status, all),
        (200, json!([{"title": "c", "isDone": false}, {"title": "b", "isDone": false}]))
    );
    let condition: String =
        equal("title", json!("c")).to_string().bytes().map(|byte| format!("%{byte:02x}")).collect();
    let (_, found) =
        ask(&rig, "amy", "GET", &format!("/api/tasks?fields=id&where={condition}"), Value::Null)
            .await;
    assert_eq!(found, json!([{"id": row_id(3)}]));
    let path = format!("/api/tasks/{}", row_id(1));
    assert_eq!(ask(&rig, "amy", "GET", &path, Value::Null).await.1["title"], "a");
    let (status, changed) = ask(&rig, "amy", "PATCH", &path, json!({"title": "new"})).await;
    assert_eq!((status, &changed["title"]), (200, &json!("new")));
    // Bob has none of them.
    assert_eq!(ask(&rig, "bob", "GET", "/api/tasks", Value::Null).await, (200, json!([])));
    assert_eq!(ask(&rig, "bob", "GET", &path, Value::Null).await, (200, Value::Null));
    assert_eq!(ask(&rig, "bob", "PATCH", &path, json!({"title": "x"})).await, (200, Value::Null));
    assert_eq!(ask(&rig, "bob", "DELETE", &path, Value::Null).await, (200, json!(true)));
    let strict = format!("{path}?strict=true");
    for (method, words) in
        [("GET", "There is no row with this id"), ("PATCH", "Could not apply the update")]
    {
        let (status, error) = ask(&rig, "bob", method, &strict, json!({"title": "x"})).await;
        assert_eq!((status, &error["error"]["code"]), (404, &json!("HW5406")));
        let message = error["error"]["message"].as_str().expect("a text");
        assert!(message.starts_with(words), "{message}");
    }
    assert_eq!(ask(&rig, "amy", "DELETE", &path, Value::Null).await, (200, json!(true)));
    assert_eq!(ask(&rig, "amy", "GET", &path, Value::Null).await, (200, Value::Null));
}

#[tokio::test]
async fn ds_14_keys_of_several_columns_are_arrays_in_the_path() {
    let rig = Rig::start().await;
    ask(
        &rig,
        "amy",
        "POST",
        "/api/lines",
        json!([{"tenant": "a/b", "n": 1}, {"tenant": "c", "n": 1}]),
    )
    .await;
    let path = "/api/lines/%5B%22a%2Fb%22%2C1%5D";
    let (status, changed) = ask(&rig, "amy", "PATCH", path, json!({"words": "w"})).await;
    assert_eq!((status, changed), (200, json!({"tenant": "a/b", "n": 1, "words": "w"})));
}

#[tokio::test]
async fn ds_14_refusals_have_their_status_and_are_json() {
    let rig = Rig::start().await;
    let make = json!({"id": row_id(1), "slug": "hush"});
    ask(&rig, "amy", "POST", "/api/tasks", make.clone()).await;
    let bad = format!("/api/tasks/{}", row_id(1));
    let cases = [
        ("POST", "/api/tasks", make, 409, "HW5306"),
        ("POST", "/api/tasks", json!({"title": null}), 422, "HW5306"),
        ("POST", "/api/tasks", json!({"feeling": "hush"}), 422, "HW5306"),
        ("POST", "/api/tasks", json!({"owner": "amy"}), 403, "HW5306"),
        ("POST", "/api/tasks", json!({"nothing": 1}), 400, "HW5402"),
        ("POST", "/api/tasks", json!([]), 400, "HW5407"),
        ("POST", "/api/tasks", json!([7]), 400, "HW5401"),
        ("POST", "/api/tasks", json!([{}, 7]), 400, "HW5401"),
        ("POST", "/api/tasks", json!("text"), 400, "HW5401"),
        ("POST", "/api/tasks", Value::Null, 400, "HW5401"),
        ("PATCH", &bad, json!([1]), 400, "HW5401"),
        ("GET", "/api/bare", Value::Null, 403, "HW4305"),
        ("GET", "/api/nowhere", Value::Null, 404, "HW5305"),
        ("GET", "/api/tasks?limit=-1", Value::Null, 400, "HW5401"),
        ("GET", "/api/tasks?orderBy=title,sideways", Value::Null, 400, "HW5401"),
        ("GET", "/api/tasks?orderBy=nothing", Value::Null, 400, "HW5402"),
        ("GET", "/api/tasks?where=7", Value::Null, 400, "HW5401"),
        ("GET", "/api/tasks/no-uuid", Value::Null, 422, "HW5306"),
        ("PUT", "/api/tasks", json!({}), 405, "HW5002"),
        ("POST", &bad, json!({}), 405, "HW5002"),
        ("GET", "/api/v1", Value::Null, 404, "HW5001"),
        ("GET", "/api/admin/v1", Value::Null, 404, "HW5001"),
        ("GET", "/api/sync-rules/v1", Value::Null, 404, "HW5001"),
    ];
    for (method, path, body, status, code) in cases {
        let (found, error) = ask(&rig, "bob", method, path, body).await;
        assert_eq!(
            (found, &error["error"]["code"]),
            (status, &json!(code)),
            "{method} {path}: {error}"
        );
        assert!(
            error["error"]["message"].as_str().is_some_and(|it| !it.contains("hush")),
            "{error}"
        );
    }
}

#[tokio::test]
async fn ds_14_callers_show_a_token_and_bodies_are_bounded() {
    let options = DataSyncOptions { message_bytes: 1_000, ..DataSyncOptions::default() };
    let rig = Rig::start_with(options, StatementOptions::default(), &[]).await;
    let (status, head, body) = send(&rig, "GET", "/api/tasks", "", "").await;
    assert_eq!((status, head.contains("www-authenticate: bearer")), (401, true), "{head}");
    assert!(body.contains(r#""code":"HW4106""#), "{body}");
    let query = format!("/api/tasks?access_token={}", token_of("amy"));
    assert_eq!(send(&rig, "GET", &query, "", "").await.0, 200);
    let large = format!("{{\"title\":\"{}\"}}", "x".repeat(1_000));
    let json = "content-type: application/json\r\n";
    assert_eq!(send(&rig, "POST", &query, json, &large).await.0, 413);
    let form = "content-type: application/x-www-form-urlencoded\r\n";
    let (status, _, body) = send(&rig, "POST", &query, form, "title=x").await;
    assert_eq!((status, body.contains("Expected JSON body")), (400, true), "{body}");
}

#[tokio::test]
async fn ds_14_a_cookie_counts_for_listed_pages_and_they_may_send_it() {
    let options = DataSyncOptions {
        cookie: Some("session".into()),
        origins: vec!["https://app.example".into()],
        ..DataSyncOptions::default()
    };
    let rig = Rig::start_with(options, StatementOptions::default(), &[]).await;
    let cookie = format!("cookie: session={}\r\n", token_of("amy"));
    let with = |origin: &str| format!("{cookie}origin: {origin}\r\n");
    let (status, head, _) = send(&rig, "GET", "/api/tasks", &with("https://app.example"), "").await;
    assert_eq!(status, 200);
    assert!(head.contains("access-control-allow-origin: https://app.example"), "{head}");
    assert!(head.contains("access-control-allow-credentials: true"), "{head}");
    let (status, head, _) =
        send(&rig, "GET", "/api/tasks", &with("https://evil.example"), "").await;
    assert_eq!(status, 403);
    assert!(!head.contains("access-control-allow-origin"), "{head}");
    let make = format!("{cookie}content-type: application/json\r\n");
    assert_eq!(send(&rig, "POST", "/api/tasks", &make, "{}").await.0, 403, "no page at all");
    assert_eq!(
        send(&rig, "GET", "/api/tasks", &format!("{cookie}sec-fetch-site: same-origin\r\n"), "")
            .await
            .0,
        200
    );
}

/// Whoever writes a parameter means something by it.
#[tokio::test]
async fn ds_14_parameters_that_mean_nothing_are_refused_by_name() {
    let rig = Rig::start().await;
    let row = format!("/api/tasks/{}", row_id(1));
    for (method, path, words) in [
        ("GET", "/api/tasks?filter=1".to_owned(), "\"filter\""),
        ("GET", "/api/tasks?title=eq.a".into(), "takes fields, where, orderBy"),
        ("GET", "/api/tasks?single=true".into(), "\"single\""),
        ("GET", "/api/tasks?limit=1&limit=2".into(), "\"limit\" is there twice"),
        ("POST", "/api/tasks?limit=1".into(), "\"limit\" is not one of a POST"),
        ("POST", "/api/tasks?single=yes".into(), "single must be true or false"),
        ("GET", format!("{row}?fields=id"), "\"fields\""),
        ("GET", format!("{row}?strict=yes"), "strict must be true or false"),
        ("DELETE", format!("{row}?strict=true"), "which takes none"),
    ] {
        let (status, error) = ask(&rig, "amy", method, &path, json!({})).await;
        let message = error["error"]["message"].as_str().unwrap_or_default();
        assert_eq!((status, &error["error"]["code"]), (400, &json!("HW5401")), "{path}: {error}");
        assert!(message.contains(words), "{path}: {message}");
    }
    assert_eq!(rig.ask("SELECT count(*) FROM tasks").await, "0", "nothing was written");
    let (status, _) = ask(&rig, "amy", "GET", &format!("{row}?strict=false"), Value::Null).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn ds_14_a_method_that_a_path_does_not_take_is_answered_with_those_that_it_does() {
    let rig = Rig::start().await;
    let token = format!("authorization: Bearer {}\r\n", token_of("amy"));
    let row = format!("/api/tasks/{}", row_id(1));
    for (method, path, allow) in
        [("PUT", "/api/tasks", "get, head, post"), ("POST", &row, "get, head, patch, delete")]
    {
        let (status, head, _) = send(&rig, method, path, &token, "").await;
        assert_eq!(status, 405);
        assert!(head.contains(&format!("\r\nallow: {allow}\r\n")), "{head}");
    }
}
