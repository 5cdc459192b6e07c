//! F-69: what many sockets, or one user's, may hold; and that nothing runs on for somebody who has left.

use std::time::Duration;

use hw_datasync::DataSyncOptions;
use hw_testkit::poll_until;
use hw_write::StatementOptions;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::rig::{Rig, Socket, create, query, token_of, token_with, within};

/// Statements of the server that run.
const RUNNING: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE usename = 'headwater_login' AND state = 'active'";

/// An insert into `counters` takes ten minutes.
const SLOW: &str = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN PERFORM pg_sleep(600); RETURN NEW; END $$;
    CREATE TRIGGER wait BEFORE INSERT ON counters FOR EACH ROW EXECUTE FUNCTION wait()";

/// Nothing but the server's own doing ends a statement.
fn patient() -> StatementOptions {
    let long = Duration::from_secs(3_600);
    StatementOptions {
        statement_timeout: long,
        idle_timeout: long,
        transaction_timeout: long,
        ..StatementOptions::default()
    }
}

async fn slow(options: DataSyncOptions) -> Rig {
    let rig = Rig::start_with(options, patient(), &[]).await;
    rig.sql.batch_execute(SLOW).await.expect("made");
    rig
}

async fn running(rig: &Rig, number: u32) {
    let what = format!("{number} statements run");
    poll_until(&what, || async { (rig.ask(RUNNING).await == number.to_string()).then_some(()) })
        .await;
}

fn lines() -> Value {
    json!({"tag": "DataSyncQuery", "query": query("lines", json!({}))})
}

/// 4 MB in one result.
async fn large(options: DataSyncOptions) -> Rig {
    let rig = Rig::start_with(options, StatementOptions::default(), &[]).await;
    let rows =
        "INSERT INTO lines SELECT 't', n, repeat('x', 1000000) FROM generate_series(1, 4) AS n";
    rig.sql.batch_execute(rows).await.expect("inserted");
    rig
}

#[tokio::test]
async fn f_69_answers_that_nobody_reads_are_bounded_and_others_are_answered() {
    let options = DataSyncOptions {
        answer_bytes: 40 << 20,
        stuck_for: Duration::from_secs(3_600),
        ..DataSyncOptions::default()
    };
    let rig = large(options).await;
    let mut mal = rig.connect_small(Some("mal")).await;
    for _ in 0..30 {
        mal.send(lines()).await;
    }
    poll_until("his answers wait", || async {
        (rig.used("answer_memory_bytes") > 11_000_000).then_some(())
    })
    .await;
    assert!(
        rig.used("answer_memory_bytes") <= 17 << 20,
        "a message and its result fit, and no more"
    );
    let mut bob = rig.connect("bob").await;
    assert_eq!(bob.ask(lines()).await["result"].as_array().map(Vec::len), Some(4));
    // Whoever reads has an answer to everything.
    let (mut answers, mut refused) = (Vec::new(), 0);
    for _ in 0..30 {
        let answer = mal.receive().await;
        match answer["tag"] == "DataSyncResult" {
            true => assert_eq!(answer["result"].as_array().map(Vec::len), Some(4)),
            false => {
                assert_eq!(answer["code"], "HW5311", "{answer}");
                refused += 1;
            }
        }
        answers.push(answer["requestId"].as_i64().expect("a number"));
    }
    assert!(refused > 0);
    answers.sort_unstable();
    assert_eq!(answers, (0..30).collect::<Vec<i64>>());
    poll_until("all is given back", || async {
        (rig.used("answer_memory_bytes") == 0).then_some(())
    })
    .await;
    assert_eq!(mal.ask(lines()).await["tag"], "DataSyncResult");
}

/// Nobody waits longer for a reader than his token counts.
#[tokio::test]
async fn f_45_a_token_that_expires_while_nothing_is_taken_ends_the_socket() {
    let options =
        DataSyncOptions { stuck_for: Duration::from_secs(3_600), ..DataSyncOptions::default() };
    let rig = large(options).await;
    let short = token_with("mal", Duration::from_secs(600), json!({}));
    let mut mal = rig.connect_small_with(Some(&short)).await;
    let mut bob = rig.connect_small(Some("bob")).await;
    for socket in [&mut mal, &mut bob] {
        for _ in 0..4 {
            socket.send(lines()).await;
        }
    }
    poll_until("their answers wait", || async {
        (rig.used("answer_memory_bytes") > 24 << 20).then_some(())
    })
    .await;
    rig.advance(661);
    poll_until("his are gone, with his socket", || async {
        (rig.used("answer_memory_bytes") < 24 << 20 && rig.used("sockets") == 1).then_some(())
    })
    .await;
    for _ in 0..4 {
        assert_eq!(bob.receive().await["tag"], "DataSyncResult");
    }
}

#[tokio::test]
async fn f_69_who_takes_nothing_is_cut_when_memory_is_wanted() {
    let options = DataSyncOptions {
        answer_bytes: 24 << 20,
        stuck_for: Duration::from_millis(100),
        ..DataSyncOptions::default()
    };
    let rig = large(options).await;
    let mut mal = rig.connect_small(Some("mal")).await;
    for _ in 0..16 {
        mal.send(lines()).await;
    }
    poll_until("his answers wait", || async {
        (rig.used("answer_memory_bytes") > 8 << 20).then_some(())
    })
    .await;
    poll_until("they are gone", || async {
        (rig.used("answer_memory_bytes") == 0 && rig.used("sockets") == 0).then_some(())
    })
    .await;
    assert!(mal.is_cut().await);
}

/// What waits for room waits for those who hold it, however little that is: where they take nothing, they are cut.
#[tokio::test]
async fn f_69_a_message_never_waits_for_room_that_somebody_holds_who_takes_nothing() {
    let options = DataSyncOptions {
        anonymous: Some(None),
        // As little as there may be for strangers, so that two of them want the same room.
        answer_bytes: 1 << 20,
        stuck_for: Duration::from_millis(100),
        ..DataSyncOptions::default()
    };
    let rig = large(options).await;
    for user in [Some("amy"), None] {
        let mut stuck = rig.connect_small(user).await;
        for _ in 0..2 {
            stuck.send(lines()).await;
        }
        poll_until("its answers wait", || async {
            (rig.used("answer_memory_bytes") > 8_000_000).then_some(())
        })
        .await;
        assert!(rig.used("answer_memory_bytes") < 17 << 19, "it holds less than half of a share");
        // There is no room for this beside them.
        let token = user.map(|sub| format!("?access_token={}", token_of(sub))).unwrap_or_default();
        let mut other = rig.connect_with(&token, &[]).await.expect("connected");
        let fields: serde_json::Map<String, Value> =
            "abcdefghi".chars().map(|field| (field.to_string(), json!(1))).collect();
        let records = vec![Value::Object(fields); 10_000];
        let message = json!({"tag": "CreateRecordsMessage", "table": "lines", "records": records});
        assert_eq!(other.ask(message).await["tag"], "DataSyncError", "there are no such fields");
        assert!(stuck.is_cut().await);
        poll_until("all is given back", || async {
            (rig.used("answer_memory_bytes") == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn f_69_statements_end_with_the_socket_that_wants_them() {
    let rig = slow(DataSyncOptions::default()).await;
    let mut amy = rig.connect("amy").await;
    amy.send(create("counters", json!({"id": 1}))).await;
    running(&rig, 1).await;
    drop(amy);
    running(&rig, 0).await;
    let mut amy = rig.connect("amy").await;
    let begun = amy.ask(json!({"tag": "StartTransaction"})).await;
    amy.send(within(&begun["transactionId"], create("counters", json!({"id": 1})))).await;
    running(&rig, 1).await;
    drop(amy);
    running(&rig, 0).await;
    poll_until("its places are free", || async {
        (rig.used("statements") == 0 && rig.used("transactions") == 0).then_some(())
    })
    .await;
    // And over HTTP.
    let mut stream = tokio::net::TcpStream::connect(rig.address).await.expect("connected");
    let head = format!(
        "POST /api/counters HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 8\r\n\r\n{{\"id\":1}}",
        token_of("amy")
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    running(&rig, 1).await;
    drop(stream);
    running(&rig, 0).await;
    assert_eq!(rig.ask("SELECT count(*) FROM counters").await, "0");
}

#[tokio::test]
async fn f_69_users_who_fill_their_shares_leave_connections_to_others() {
    let rig = slow(DataSyncOptions::default()).await;
    let mut sockets: Vec<Socket> = Vec::new();
    for user in ["a", "b", "c", "d"] {
        for number in 0..3 {
            let mut socket = rig.connect(user).await;
            socket.send(create("counters", json!({"id": number}))).await;
            socket.looked_at().await;
            sockets.push(socket);
        }
    }
    running(&rig, 5).await;
    let mut eve = rig.connect("eve").await;
    assert_eq!(eve.rows(query("lines", json!({}))).await, json!([]));
    drop(sockets);
    running(&rig, 0).await;
}

#[tokio::test]
async fn f_69_strangers_leave_half_of_the_sockets_and_transactions_to_users() {
    let options = DataSyncOptions {
        anonymous: Some(None),
        sockets: (10, 4),
        all_transactions: 8,
        ..DataSyncOptions::default()
    };
    let rig = Rig::start_with(options, StatementOptions::default(), &[]).await;
    let mut strangers = Vec::new();
    for _ in 0..5 {
        strangers.push(rig.connect_with("", &[]).await.expect("let in"));
    }
    assert_eq!(rig.connect_with("", &[]).await.err(), Some(429));
    let mut amy = rig.connect("amy").await;
    // Each has a share of its own, and all together half.
    let begin = || json!({"tag": "StartTransaction"});
    for stranger in &mut strangers[..2] {
        for _ in 0..2 {
            assert_eq!(stranger.ask(begin()).await["tag"], "DidStartTransaction");
        }
    }
    assert_eq!(strangers[2].ask(begin()).await["code"], "HW5404");
    assert_eq!(amy.ask(begin()).await["tag"], "DidStartTransaction");
}

/// What one of them does not read is not another one's, and users are answered whatever strangers do.
#[tokio::test]
async fn f_69_strangers_have_memory_of_their_own_and_leave_half_to_users() {
    let options = DataSyncOptions {
        anonymous: Some(None),
        answer_bytes: 48 << 20,
        stuck_for: Duration::from_secs(3_600),
        ..DataSyncOptions::default()
    };
    let rig = large(options).await;
    let held = |least: u64| {
        let rig = &rig;
        poll_until("answers wait", move || async move {
            (rig.used("answer_memory_bytes") > least).then_some(())
        })
    };
    let mut first = rig.connect_small(None).await;
    for _ in 0..16 {
        first.send(lines()).await;
    }
    held(11_000_000).await;
    // A quarter of all, or one result, is what one of them may hold.
    let mut second = rig.connect_with("", &[]).await.expect("let in");
    let answer = second.ask(lines()).await;
    assert_eq!(answer["result"].as_array().map(Vec::len), Some(4), "{answer}");
    let mut third = rig.connect_small(None).await;
    for _ in 0..16 {
        third.send(lines()).await;
    }
    held(16_000_000).await;
    assert!(rig.used("answer_memory_bytes") <= 24 << 20, "half of all");
    let mut amy = rig.connect("amy").await;
    let answer = amy.ask(lines()).await;
    assert_eq!(answer["result"].as_array().map(Vec::len), Some(4), "{answer}");
}

/// A server that may hold 1 MB of messages and answers, a quarter of it for one user; each of them is 100 kB at most.
async fn narrow() -> Rig {
    let options = DataSyncOptions {
        answer_bytes: 1 << 20,
        message_bytes: 100_000,
        ..DataSyncOptions::default()
    };
    let statements = StatementOptions { max_result_bytes: 100_000, ..patient() };
    Rig::start_with(options, statements, &[]).await
}

#[tokio::test]
async fn f_69_messages_that_wait_count_too() {
    let rig = narrow().await;
    rig.sql.batch_execute(SLOW).await.expect("made");
    let mut amy = rig.connect("amy").await;
    amy.send(create("counters", json!({"id": 1}))).await;
    for _ in 0..20 {
        let words = "x".repeat(50_000);
        let record = json!({"tenant": "a", "n": 1, "words": words});
        amy.send(create("lines", record)).await;
    }
    poll_until("some wait", || async { (rig.used("answer_memory_bytes") > 200_000).then_some(()) })
        .await;
    assert!(rig.used("answer_memory_bytes") <= 1 << 20);
    // Their turn comes.
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
      WHERE usename = 'headwater_login' AND wait_event = 'PgSleep'";
    poll_until("the first is cancelled", || async { (rig.ask(cancel).await == "1").then_some(()) })
        .await;
    for _ in 0..21 {
        amy.receive().await;
    }
    poll_until("they are given back", || async {
        (rig.used("answer_memory_bytes") == 0).then_some(())
    })
    .await;
}

/// What is there of a message that never becomes whole is memory too, and every socket may have one.
#[tokio::test]
async fn f_69_messages_that_are_not_whole_count_as_their_senders() {
    let rig = narrow().await;
    let used = |bytes: std::ops::Range<u64>| {
        let used = bytes.contains(&rig.used("answer_memory_bytes"));
        async move { used.then_some(()) }
    };
    // A quarter of all is one user's: two of three have room.
    let mut halves = Vec::new();
    for _ in 0..2 {
        let mut socket = rig.connect("amy").await;
        socket.send_part(99_000, 90_000).await;
        halves.push(socket);
    }
    poll_until("two count", || used(180_000..182_000)).await;
    let mut third = rig.connect("amy").await;
    third.send_part(99_000, 90_000).await;
    let (code, reason) = third.closed_with().await;
    assert_eq!(code, 1013, "{reason}");
    poll_until("the third counts no more", || used(180_000..182_000)).await;
    // Nobody else is kept waiting.
    assert_eq!(rig.connect("bob").await.rows(query("tasks", json!({}))).await, json!([]));
    // In pieces, with signs of life in between.
    let mut pieces = rig.connect("bob").await;
    for first in [true, false] {
        // A frame of text or one that goes on with it, not the last; 40,000 bytes in two bytes of length.
        let mut frame = vec![if first { 0x01 } else { 0x00 }, 0xfe];
        frame.extend(40_000_u16.to_be_bytes());
        frame.extend([0; 4]);
        frame.extend([b' '; 40_000]);
        // A pong that nobody asked for.
        frame.extend([0x8a, 0x80, 0, 0, 0, 0]);
        pieces.send_bytes(&frame).await;
    }
    poll_until("the pieces count", || used(260_000..263_000)).await;
    drop(pieces);
    // What becomes whole is answered, and given back.
    for half in &mut halves {
        half.send_bytes(&[b' '; 9_000]).await;
        assert_eq!(half.receive().await["tag"], "FailedToDecodeMessageError");
    }
    poll_until("all is given back", || used(0..1)).await;
}

/// Records of many small values are more in memory than on the wire, and stay there while they wait for a
/// connection: they count as what they are, until they are done. What there is no room for is not read.
#[tokio::test]
async fn f_69_messages_that_run_count_as_what_they_hold() {
    let rig = slow(DataSyncOptions::default()).await;
    let records = |from: u32| {
        let records: Vec<Value> = (from..from + 10_000).map(|n| json!({"id": n})).collect();
        json!({"tag": "CreateRecordsMessage", "table": "counters", "records": records})
    };
    let mut sockets = Vec::new();
    for number in 0..4 {
        let mut amy = rig.connect("amy").await;
        amy.send(records(number * 10_000)).await;
        sockets.push(amy);
    }
    poll_until("two are counted", || async {
        (rig.used("answer_memory_bytes") > 13_000_000).then_some(())
    })
    .await;
    let mut ben = rig.connect("ben").await;
    assert_eq!(ben.ask(lines()).await["tag"], "DataSyncResult");
    assert!(
        rig.used("answer_memory_bytes") <= 17 << 20,
        "a message and its result fit, and no more"
    );
    // Each of them has its turn.
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
      WHERE usename = 'headwater_login' AND wait_event = 'PgSleep'";
    let cancelling = async {
        loop {
            rig.ask(cancel).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let answered = async {
        for amy in &mut sockets {
            assert_eq!(amy.receive().await["tag"], "DataSyncError");
        }
    };
    tokio::select! {
        () = answered => {}
        () = cancelling => unreachable!(),
    }
    poll_until("all is given back", || async {
        (rig.used("answer_memory_bytes") == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn f_69_one_message_has_only_so_many_rows_and_values() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    let ids = vec![1; 10_001];
    let refused =
        amy.refused(json!({"tag": "DeleteRecordsMessage", "table": "counters", "ids": ids})).await;
    assert_eq!(refused, "field `ids` may have 10000 elements at most; send fewer at a time");
    let records = vec![json!({}); 10_001];
    let refused = amy
        .refused(json!({"tag": "CreateRecordsMessage", "table": "counters", "records": records}))
        .await;
    assert_eq!(refused, "field `records` may have 10000 elements at most; send fewer at a time");
    // What is more than one user may hold would never have its turn.
    let options = DataSyncOptions { answer_bytes: 1 << 20, ..DataSyncOptions::default() };
    let statements = StatementOptions { max_result_bytes: 100_000, ..StatementOptions::default() };
    let rig = Rig::start_with(options, statements, &[]).await;
    let mut amy = rig.connect("amy").await;
    let records = vec![json!({}); 5_000];
    let answer = amy
        .ask(json!({"tag": "CreateRecordsMessage", "table": "counters", "records": records}))
        .await;
    assert_eq!((&answer["tag"], &answer["code"]), (&json!("DataSyncError"), &json!("HW5401")));
    assert_eq!(amy.rows(query("counters", json!({}))).await, json!([]), "and the socket goes on");
}

/// What there was no connection for is part of what its author wrote, who may have sent the commit already.
#[tokio::test]
async fn ds_9_a_statement_that_is_refused_because_all_is_busy_spoils_its_transaction() {
    let rig = Rig::start_whole(DataSyncOptions::default(), patient(), &[], None, 1).await;
    rig.sql.batch_execute(SLOW).await.expect("made");
    let (mut amy, mut ben) = (rig.connect("amy").await, rig.connect("ben").await);
    let begun = amy.ask(json!({"tag": "StartTransaction"})).await;
    let id = &begun["transactionId"];
    let line = || create("lines", json!({"tenant": "a", "n": 1}));
    assert_eq!(amy.ask(within(id, line())).await["tag"], "DidCreateRecord");
    ben.send(create("counters", json!({"id": 1}))).await;
    running(&rig, 1).await;
    // What the table is must be asked of the database first.
    amy.send(within(id, create("tasks", json!({"title": "x"})))).await;
    amy.send(json!({"tag": "CommitTransaction", "id": id})).await;
    assert_eq!(amy.receive().await["code"], "HW5307");
    let answer = amy.receive().await;
    assert_eq!(answer["tag"], "DataSyncError", "{answer}");
    let message = answer["errorMessage"].as_str().expect("a sentence");
    assert_eq!(message, "Transaction was rolled back because an earlier statement failed");
    assert_eq!(rig.ask("SELECT count(*) FROM lines").await, "0");
}

#[tokio::test]
async fn ds_9_the_place_of_a_transaction_is_free_when_time_has_ended_it() {
    let options = DataSyncOptions { all_transactions: 4, ..DataSyncOptions::default() };
    let statements = StatementOptions {
        idle_timeout: Duration::from_millis(200),
        ..StatementOptions::default()
    };
    let rig = Rig::start_with(options, statements, &[]).await;
    let mut first = rig.connect("amy").await;
    let begin = || json!({"tag": "StartTransaction"});
    assert_eq!(first.ask(begin()).await["tag"], "DidStartTransaction");
    let mut second = rig.connect("amy").await;
    assert_eq!(second.ask(begin()).await["code"], "HW5404", "a quarter of all");
    // The first socket stays, and says nothing.
    poll_until("its place is free", || async { (rig.used("transactions") == 0).then_some(()) })
        .await;
    assert_eq!(second.ask(begin()).await["tag"], "DidStartTransaction");
}
