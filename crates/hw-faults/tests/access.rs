//! Who may see what, and from when: tokens that expire, claims that change, clients that are ahead.

use std::time::Duration;

use hw_testkit::oracle::{Line, SyncClient, SyncError};
use hw_testkit::wait;
use serde_json::{Map, json};

use crate::rig::{self, CONFIG, Rig, SCHEMA, caught_up, client, issue, issue_expired, issue_for};

/// F-45: the stream ends with the token, and without a new one there is no other.
#[tokio::test(flavor = "multi_thread")]
async fn f_45_a_token_that_expires_ends_the_stream_and_nothing_leaks() {
    let rig = Rig::new(SCHEMA, CONFIG).await;
    let mut server = rig.start().await;
    // The shortest life that still reaches the first state on a slow machine.
    let mut amy = client("amy");
    amy.token = issue_for("amy", &Map::new(), Duration::from_secs(4));
    amy.connect(server.address()).await.expect("the token is good");
    let mut warned = None;
    let end = wait::within_limit("the stream ends", async {
        loop {
            match amy.step().await {
                Ok(Line::TokenExpiresIn(seconds)) => warned = Some(seconds),
                Ok(Line::End) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
    })
    .await;
    end.expect("it ends in order");
    assert_eq!(warned, Some(0), "the last line says that the token is over");
    let shown = amy.rows().clone();
    rig.execute("INSERT INTO todos VALUES ('secret', 'l1', 'x', 1)").await;
    // A barrier, so that the server surely has the row.
    caught_up(&mut client("bob"), &server).await;
    // Within the tolerance of clocks (`powersync-protocol.md` 10) a stream ends at once and shows
    // nothing.
    amy.connect(server.address()).await.expect("clocks may differ by a minute");
    let first = wait::within_limit("a line", amy.step()).await.expect("a line");
    assert_eq!(first, Line::TokenExpiresIn(0));
    let second = wait::within_limit("the end", amy.step()).await.expect("the end");
    assert_eq!(second, Line::End);
    // Beyond it there is no stream.
    amy.token = issue_expired("amy", Duration::from_secs(61));
    match amy.connect(server.address()).await.expect_err("the token has expired") {
        SyncError::Refused { status, body } => {
            assert_eq!(status, 401);
            assert!(body.contains("PSYNC_S2103"), "{body}");
        }
        other => panic!("{other}"),
    }
    assert_eq!(*amy.rows(), shown);
    amy.token = issue("amy", &Map::new());
    rig.check(&mut amy, &server, "amy").await;
    server.stop().await;
}

/// F-45: the claims of the next token decide; what they no longer give goes away.
#[tokio::test(flavor = "multi_thread")]
async fn f_45_changed_claims_take_away_what_they_no_longer_give() {
    let config = "config:\n  edition: 3\nstreams:\n  team:\n    auto_subscribe: true\n    \
                  query: SELECT * FROM todos WHERE list = auth.parameter('team')\n";
    let rig = Rig::new(SCHEMA, config).await;
    let mut server = rig.start().await;
    let claims = |team: &str| json!({"team": team}).as_object().cloned().expect("an object");
    let mut amy = SyncClient::new(&issue("amy", &claims("l1")), "one");
    caught_up(&mut amy, &server).await;
    let lists = |amy: &SyncClient| -> Vec<String> {
        let mut lists: Vec<String> =
            amy.table("todos").values().map(|row| row["list"].to_string()).collect();
        lists.dedup();
        lists
    };
    assert_eq!(lists(&amy), ["\"l1\""]);
    amy.disconnect();
    amy.token = issue("amy", &claims("l2"));
    amy.write_checkpoint = None;
    caught_up(&mut amy, &server).await;
    assert_eq!(lists(&amy), ["\"l2\""]);
    // A token that was revoked by a change of the signing secret is no token.
    let forged =
        amy.token.rsplit_once('.').map(|(head, _)| format!("{head}.AAAA")).expect("a token");
    amy.token = forged;
    let refused = amy.connect(server.address()).await.expect_err("refused");
    assert!(matches!(refused, SyncError::Refused { status: 401, .. }), "{refused}");
    server.stop().await;
}

/// F-45, E-4: a user whose membership is revoked in mid-stream loses the rows in that very state.
#[tokio::test(flavor = "multi_thread")]
async fn f_45_a_revoked_membership_removes_its_rows_before_anything_later_is_shown() {
    let (rig, mut server, mut amy) = rig::served(SCHEMA, CONFIG).await;
    rig.execute("DELETE FROM lists WHERE id = 'l2'").await;
    rig.execute("INSERT INTO todos VALUES ('later', 'l2', 'not for amy', 1)").await;
    rig.execute("INSERT INTO todos VALUES ('seen', 'l1', 'for amy', 1)").await;
    let seen = amy.follow_until(server.address(), |amy| amy.table("todos").contains_key("seen"));
    wait::within_limit("the later row is there", seen).await.expect("followed");
    assert!(!amy.table("todos").contains_key("later"));
    assert_eq!(amy.table("todos"), rig.todos("amy").await);
    server.stop().await;
}

/// E-10: a client ahead of the server waits for it, and is answered when it has come so far.
#[tokio::test(flavor = "multi_thread")]
async fn e_10_a_client_that_is_ahead_waits_and_is_answered_when_it_is_reached() {
    let (rig, mut server, _amy) = rig::served(SCHEMA, CONFIG).await;
    let mut ahead = client("amy");
    caught_up(&mut ahead, &server).await;
    ahead.disconnect();
    ahead.pretend_position(ahead.last_op() + 3);
    let write = async {
        for row in 0..6 {
            rig.execute(&format!("INSERT INTO todos VALUES ('n{row}', 'l1', 'x', 1)")).await;
        }
    };
    let (connected, ()) = tokio::join!(ahead.connect(server.address()), write);
    connected.expect("it is answered");
    server.stop().await;
}

/// E-10: it is never answered from the past; after ten seconds it is told to come again.
#[tokio::test(flavor = "multi_thread")]
async fn e_10_a_client_that_is_far_ahead_is_told_to_come_again() {
    let (_rig, mut server, mut amy) = rig::served(SCHEMA, CONFIG).await;
    amy.disconnect();
    amy.pretend_position(amy.last_op() + 1_000_000);
    match wait::within_limit("an answer", amy.connect(server.address())).await {
        Err(SyncError::Refused { status: 503, .. }) => {}
        other => panic!("expected 503, got {other:?}"),
    }
    let _ = rig::status(&server).await.expect("it serves on");
    server.stop().await;
}
