//! `datasync.md` 15: messages that the application answers.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use hw_datasync::{DataSyncOptions, Hooks};
use hw_write::StatementOptions;
use serde_json::{Value, json};

use crate::rig::Rig;

const SECRET: &[u8] = b"a secret of hooks";

/// JSON of which a `serde_json::Value` would lose something, or which it cannot hold.
const BEYOND: &str = r#"[1e999,123456789012345678901234567890.10,"\ud800",[[[[[[[[[[1]]]]]]]]]]]"#;

/// An application, and the hooks that lead to it.
async fn application() -> Hooks {
    let answer = async |headers: HeaderMap, body: String| {
        let signature = headers["x-headwater-signature"].to_str().expect("a text").to_owned();
        let (seconds, tag) =
            signature.strip_prefix("t=").and_then(|it| it.split_once(",v1=")).expect("both");
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SECRET);
        let bytes: Vec<u8> = (0..tag.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&tag[at..at + 2], 16).expect("hex"))
            .collect();
        aws_lc_rs::hmac::verify(&key, format!("{seconds}.{body}").as_bytes(), &bytes)
            .expect("signed by us");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        json!({"tag": "DidCreateUser", "requestId": 99, "userId": "new", "asked": body}).to_string()
    };
    let router = Router::new()
        .route("/create", post(answer))
        .route(
            "/as-written",
            post(async |body: String| json!({"tag": "Told", "asked": body}).to_string()),
        )
        .route("/digits", post(async || format!(r#"{{"tag":"Digits","of":{BEYOND}}}"#)))
        .route("/nonsense", post(async || "[1]"))
        .route("/refused", post(async || (StatusCode::FORBIDDEN, "{}")))
        .route("/large", post(async || "x".repeat(100_000)))
        .route("/slow", post(async || tokio::time::sleep(Duration::from_secs(60)).await));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    let of = |tag: &str, path: &str| (tag.to_owned(), format!("http://{address}{path}"));
    let addresses = [
        of("CreateUser", "/create"),
        of("AsWritten", "/as-written"),
        of("Digits", "/digits"),
        of("Nonsense", "/nonsense"),
        of("Refused", "/refused"),
        of("Large", "/large"),
        of("Slow", "/slow"),
        ("Away".to_owned(), "http://127.0.0.1:1/".to_owned()),
    ];
    Hooks::new(BTreeMap::from(addresses), SECRET).expect("usable")
}

#[tokio::test]
async fn ds_15_an_application_answers_its_own_messages() {
    let hooks = application().await;
    let options = DataSyncOptions::default();
    let rig = Rig::start_hooked(options, StatementOptions::default(), &[], Some(hooks)).await;
    let mut amy = rig.connect("amy").await;
    let message = json!({"tag": "CreateUser", "email": "a@b.example", "password": "p"});
    let answer = amy.ask(message.clone()).await;
    assert_eq!((&answer["tag"], &answer["userId"]), (&json!("DidCreateUser"), &json!("new")));
    let mut sent = message;
    sent["requestId"] = 0.into();
    assert_eq!(answer["asked"], json!({"message": sent, "userId": "amy"}));
    for tag in ["Nonsense", "Refused", "Large", "Slow", "Away"] {
        let answer = amy.ask(json!({"tag": tag})).await;
        assert_eq!(
            (&answer["tag"], &answer["code"]),
            (&json!("DataSyncError"), &json!("HW5408")),
            "{tag}"
        );
    }
    let answer = amy.ask(json!({"tag": "Unheard"})).await;
    assert_eq!(
        (&answer["code"], &answer["errorMessage"]),
        (&json!("HW5401"), &json!("the tag Unheard is not known"))
    );
}

/// No message ends its socket, and none loses a digit on the way there or back.
#[tokio::test]
async fn ds_15_messages_and_answers_are_passed_on_as_they_were_written() {
    let hooks = application().await;
    let options = DataSyncOptions::default();
    let rig = Rig::start_hooked(options, StatementOptions::default(), &[], Some(hooks)).await;
    let mut amy = rig.connect("amy").await;
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    for value in [BEYOND, &deep] {
        let message = format!(r#"{{"tag":"AsWritten","requestId":7,"x":{value}}}"#);
        amy.send_text(&message).await;
        let answer = amy.receive().await;
        let asked = format!(r#"{{"message":{message},"userId":"amy"}}"#);
        assert_eq!((&answer["tag"], &answer["asked"]), (&json!("Told"), &json!(asked)), "{answer}");
    }
    amy.send_text(r#"{"tag":"Digits","requestId":8}"#).await;
    let answer = amy.receive_text().await;
    assert_eq!(answer, format!(r#"{{"of":{BEYOND},"requestId":8,"tag":"Digits"}}"#));
}

#[test]
fn ds_15_hooks_lead_to_http_alone() {
    for address in ["", "ftp://x", "file:///etc/passwd", "x"] {
        let addresses = BTreeMap::from([("CreateUser".to_owned(), address.to_owned())]);
        assert!(Hooks::new(addresses, SECRET).is_err(), "{address}");
    }
}
