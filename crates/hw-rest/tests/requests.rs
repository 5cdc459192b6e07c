//! Requests that are refused before anything is written, each in our manner.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request};
use serde_json::{Map, Value, json};
use tower::ServiceExt as _;

use crate::rig::{bearer, router, uploads};

/// A router whose database is nowhere: nothing here may reach it.
fn nowhere() -> Router {
    router(uploads("postgres://nobody@127.0.0.1:1/none", Default::default()), &[])
}

async fn ask(request: Request<Body>) -> (u16, Value) {
    let response = nowhere().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

fn request(method: Method, body: impl Into<Body>) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri("/api/v1/upload")
        .header("authorization", bearer("ada", Map::new()))
        .header("content-type", "application/json; charset=utf-8")
        .body(body.into())
        .unwrap()
}

fn refusal(status: u16, code: &str, description: &str) -> (u16, Value) {
    (status, json!({"error": {"code": code, "status": status, "description": description}}))
}

#[tokio::test]
async fn without_a_good_token_nothing_is_read() {
    let bare = Request::post("/api/v1/upload").body(Body::from("{")).unwrap();
    assert_eq!(ask(bare).await, refusal(401, "HW4106", "Authentication required"));
    let forged = Request::post("/api/v1/upload")
        .header("authorization", "Bearer a.b.c")
        .body(Body::empty())
        .unwrap();
    let expected = "Token is not a well-formed JWT. Check the token format.";
    assert_eq!(ask(forged).await, refusal(401, "HW4101", expected));
    let response = nowhere()
        .oneshot(Request::post("/api/v1/upload").body(Body::empty()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
}

#[tokio::test]
async fn a_request_that_is_no_upload_is_refused_with_its_code() {
    assert_eq!(
        ask(request(Method::GET, "")).await,
        refusal(405, "HW5002", "The path takes POST requests only")
    );
    assert_eq!(
        ask(request(Method::POST, "{")).await,
        refusal(400, "HW5005", "The body is not an upload (line 1, column 1)")
    );
    let large = " ".repeat(256 * 1024 + 1);
    assert_eq!(
        ask(request(Method::POST, large)).await,
        refusal(413, "HW5004", "The body is larger than 262144 bytes")
    );
    let mut form = request(Method::POST, "a=b");
    let form_type = "application/x-www-form-urlencoded".parse().unwrap();
    form.headers_mut().insert("content-type", form_type);
    assert_eq!(ask(form).await, refusal(415, "HW5006", "The body must be application/json"));
    let deep = format!(
        "{{\"client_id\":\"c\",\"transactions\":[{{\"id\":1,\"operations\":{}}}]}}",
        "[".repeat(100_000)
    );
    assert_eq!(ask(request(Method::POST, deep)).await.0, 400);
}

#[tokio::test]
async fn an_upload_of_nothing_is_answered_without_the_database() {
    let body = json!({"client_id": "c", "transactions": []}).to_string();
    assert_eq!(ask(request(Method::POST, body)).await, (200, json!({"transactions": []})));
}

#[tokio::test]
async fn browsers_may_upload_from_any_origin() {
    let preflight = Request::builder()
        .method(Method::OPTIONS)
        .uri("/api/v1/upload")
        .header("origin", "https://app.example.com")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type")
        .body(Body::empty())
        .unwrap();
    let response = nowhere().oneshot(preflight).await.unwrap();
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    let allowed = response.headers()["access-control-allow-headers"].to_str().unwrap();
    assert!(allowed.contains("authorization") && allowed.contains("content-type"), "{allowed}");
}
