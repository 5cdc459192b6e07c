//! Clients that take their time, under a virtual clock: no sockets, the router is called directly.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::Request;
use futures_util::StreamExt;
use hw_http::socket::ConnectionHandle;
use hw_sync::{SyncOptions, SyncState, routes};
use serde_json::Value;
use tokio::time::Instant;
use tower_service::Service;

use crate::twin::{Twin, serve, token};

/// A response whose body is taken chunk by chunk.
struct Slow {
    body: BodyDataStream,
    text: Vec<u8>,
    cut: ConnectionHandle,
}

impl Slow {
    async fn open(state: &SyncState<Twin>, user: &str) -> Slow {
        let cut = ConnectionHandle::default();
        let request = Request::post("/sync/stream")
            .header("authorization", format!("Token {}", token(user, Duration::from_secs(3600))))
            .extension(cut.clone())
            .body(Body::from(r#"{"raw_data":true}"#))
            .unwrap();
        let response = routes(state.clone()).call(request).await.unwrap();
        assert_eq!(response.status(), 200);
        Slow { body: response.into_body().into_data_stream(), text: Vec::new(), cut }
    }

    /// Takes one chunk; false when the response was broken off or ended.
    async fn chunk(&mut self) -> bool {
        match self.body.next().await {
            Some(Ok(bytes)) => {
                self.text.extend_from_slice(&bytes);
                true
            }
            Some(Err(_)) | None => false,
        }
    }

    async fn line(&mut self) -> Option<Value> {
        loop {
            if let Some(at) = self.text.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=at).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            if !self.chunk().await {
                return None;
            }
        }
    }
}

fn large(rows: usize) -> Twin {
    let twin = Twin::new();
    for i in 0..rows {
        twin.put("a", &format!("t{i}"), &"x".repeat(1000));
    }
    twin.join("amy", "a");
    twin.publish();
    twin
}

#[tokio::test(start_paused = true)]
async fn an_idle_stream_says_every_20_seconds_that_it_is_alive() {
    let (state, _stop) = serve(large(1), SyncOptions::default());
    let mut amy = Slow::open(&state, "amy").await;
    for _ in 0..3 {
        amy.line().await.unwrap();
    }
    let mut last = Instant::now();
    for _ in 0..20 {
        let line = amy.line().await.unwrap();
        assert!(line["token_expires_in"].as_i64().unwrap() > 3000);
        let gap = last.elapsed();
        assert!(gap >= Duration::from_secs(18) && gap <= Duration::from_secs(23), "{gap:?}");
        last = Instant::now();
    }
}

/// E-5, F-41: a client that takes nothing for a minute is cut, with its connection.
#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_for_a_minute_is_cut() {
    let (state, _stop) = serve(large(5000), SyncOptions::default());
    let mut amy = Slow::open(&state, "amy").await;
    assert!(amy.chunk().await);
    tokio::time::sleep(Duration::from_secs(58)).await;
    assert_eq!(state.open_streams(), 1);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(state.open_streams(), 0);
    assert!(amy.cut.is_cut(), "the body alone cannot end a stuck connection");
    assert!(!amy.chunk().await);
}

/// Engine.md 14: a slow but living client is moved to the newest checkpoint between lines, and
/// never completes one that is older than a minute.
#[tokio::test(start_paused = true)]
async fn a_slow_client_is_moved_to_the_newest_checkpoint() {
    let twin = large(3000);
    let (state, _stop) = serve(twin.clone(), SyncOptions::default());
    let mut amy = Slow::open(&state, "amy").await;
    let first = amy.line().await.unwrap()["checkpoint"]["last_op_id"].clone();
    let newest = twin.put("a", "late", "x");
    twin.publish();
    let mut diffs = 0;
    let mut operations = 0;
    let complete = loop {
        tokio::time::sleep(Duration::from_secs(30)).await;
        let line = amy.line().await.expect("slow, but never silent for a minute");
        diffs += usize::from(line.get("checkpoint_diff").is_some());
        operations += line["data"]["data"].as_array().map_or(0, Vec::len);
        if let Some(complete) = line.get("checkpoint_complete") {
            break complete["last_op_id"].clone();
        }
    };
    assert_ne!(complete, first);
    assert_eq!(complete, newest.to_string());
    assert_eq!((diffs, operations), (1, 3001));
}
