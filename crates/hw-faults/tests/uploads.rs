//! Writes through HTTP: lost replies, poison, a database that is away, and races.

use std::net::SocketAddr;
use std::process::Command;

use hw_testkit::oracle::{Request, Response};
use hw_testkit::{Direction, Ending, Fault, FaultProxy, HeadwaterProcess, Stop, poll_until, wait};
use serde_json::{Map, Value, json};

use crate::rig::{self, Rig, binary, caught_up, client, issue};

const TABLES: &str = "
    CREATE TABLE notes (id text PRIMARY KEY, owner text, body text CHECK (body <> 'poison'), n int8);
    CREATE TABLE runs (at int8 GENERATED ALWAYS AS IDENTITY, note text);
    CREATE FUNCTION count_run() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
      $$ BEGIN INSERT INTO runs (note) VALUES (NEW.id); RETURN NEW; END $$;
    CREATE TRIGGER count_run AFTER INSERT OR UPDATE ON notes
      FOR EACH ROW EXECUTE FUNCTION count_run();
    INSERT INTO notes VALUES ('shared', 'amy', 'first', 0)";

/// Policies need the role that `headwater setup` makes.
const POLICIES: &str = "
    ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
    CREATE POLICY everyone ON notes USING (true) WITH CHECK (true);
    GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO headwater_authenticated";

const CONFIG: &str = "config:\n  edition: 3\nstreams:\n  notes:\n    auto_subscribe: true\n    \
                      query: SELECT * FROM notes\n";

async fn rig() -> Rig {
    let rig = Rig::new(TABLES, CONFIG).await;
    let setup = Command::new(binary())
        .args(["setup", "--yes"])
        .env("DATABASE_URL", &rig.database.url)
        .output()
        .expect("headwater runs");
    assert!(setup.status.success(), "{}", String::from_utf8_lossy(&setup.stderr));
    rig.execute(POLICIES).await;
    rig
}

/// A transaction with one operation.
fn one(id: u64, op: &str, row: &str, data: Value) -> Value {
    let operation = json!({"op_id": id, "op": op, "type": "notes", "id": row, "data": data});
    json!({"id": id, "operations": [operation]})
}

/// Uploads; the status and the answer.
async fn upload(
    address: SocketAddr,
    user: &str,
    transactions: &[Value],
) -> std::io::Result<(u16, Value)> {
    let token = issue(user, &Map::new());
    let body = json!({"client_id": format!("client-of-{user}"), "transactions": transactions});
    let request = Request {
        method: "POST",
        path: "/api/v1/upload",
        token: Some(&token),
        body: Some(body.to_string()),
        gzip: false,
    };
    let mut response = Response::ask(address, &request).await?;
    let text = response.text().await?;
    Ok((response.status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

fn verdicts(answer: &Value) -> Vec<String> {
    let verdict = |transaction: &Value| transaction["verdict"].as_str().unwrap_or("?").to_owned();
    answer["transactions"].as_array().into_iter().flatten().map(verdict).collect()
}

/// Uploads until every transaction has a verdict that is final, as the queue of a client does.
async fn until_final(server: &HeadwaterProcess, user: &str, transactions: &[Value]) -> Value {
    poll_until("the upload has its verdicts", || async {
        let (status, answer) = upload(server.address(), user, transactions).await.ok()?;
        let all = verdicts(&answer);
        let done = status == 200 && !all.is_empty() && all.iter().all(|v| v != "retry");
        done.then_some(answer)
    })
    .await
}

/// F-48, P5: the reply is lost; the same upload again is applied once, with the same verdict.
#[tokio::test(flavor = "multi_thread")]
async fn f_48_an_upload_whose_reply_is_lost_is_applied_once() {
    let rig = rig().await;
    let mut server = rig.start().await;
    let mut amy = client("amy");
    caught_up(&mut amy, &server).await;
    let proxy = FaultProxy::start(&server.address().to_string()).await;
    let through = SocketAddr::from(([127, 0, 0, 1], proxy.port()));
    for id in 1..=5_u64 {
        let transactions = [
            one(id * 10, "PUT", &format!("n{id}"), json!({"owner": "amy", "body": "new", "n": 1})),
            one(id * 10 + 1, "PATCH", "shared", json!({"n": id})),
        ];
        proxy.set(Direction::ToClient, Fault { swallow: true, ..Fault::default() });
        let before = proxy.swallowed();
        let asking = upload(through, "amy", &transactions);
        let lost = async {
            // The reply has been made and lost; then the line goes, too.
            poll_until("a reply is lost", || async { (proxy.swallowed() > before).then_some(()) })
                .await;
            proxy.end_all(Ending::Reset);
        };
        let (asked, ()) = tokio::join!(asking, lost);
        assert!(asked.is_err(), "the client learns nothing");
        proxy.heal();
        let (status, answer) = upload(through, "amy", &transactions).await.expect("answered");
        assert_eq!((status, verdicts(&answer)), (200, vec!["applied".to_owned(); 2]), "{answer}");
        let runs = format!("SELECT count(*) FROM runs WHERE note = 'n{id}'");
        assert_eq!(rig.ask(&runs).await.as_deref(), Some("1"), "applied once");
        caught_up(&mut amy, &server).await;
        assert_eq!(amy.table("notes")["shared"]["n"], id, "P5: the own write is visible");
    }
    let runs = "SELECT count(*) FROM runs WHERE note = 'shared'";
    // One more for the row that was there at first.
    assert_eq!(rig.ask(runs).await.as_deref(), Some("6"));
    server.stop().await;
}

/// F-49: a write that can never succeed is rejected by type, and those behind it pass.
#[tokio::test(flavor = "multi_thread")]
async fn f_49_a_poison_write_is_rejected_and_later_ones_pass() {
    let rig = rig().await;
    let mut server = rig.start().await;
    let transactions = [
        one(1, "PUT", "bad", json!({"owner": "amy", "body": "poison", "n": 1})),
        one(2, "PUT", "good", json!({"owner": "amy", "body": "fine", "n": 2})),
    ];
    let (status, answer) = upload(server.address(), "amy", &transactions).await.expect("answered");
    assert_eq!(
        (status, verdicts(&answer)),
        (200, vec!["rejected".into(), "applied".into()]),
        "{answer}"
    );
    let error = &answer["transactions"][0]["error"];
    assert_eq!(error["sqlstate"], "23514", "{error}");
    assert_eq!(error["constraint"], "notes_body_check");
    let (_, again) = upload(server.address(), "amy", &transactions).await.expect("answered");
    assert_eq!(verdicts(&again), ["rejected", "applied"], "the same verdicts again");
    assert_eq!(
        rig.ask("SELECT count(*) FROM runs WHERE note = 'good'").await.as_deref(),
        Some("1")
    );
    let recorded = "SELECT count(*) FROM headwater.rejected_writes";
    assert_eq!(rig.ask(recorded).await.as_deref(), Some("1"));
    let mut amy = client("amy");
    caught_up(&mut amy, &server).await;
    assert!(amy.table("notes").contains_key("good") && !amy.table("notes").contains_key("bad"));
    server.stop().await;
}

/// F-50: while the database is away the answer is "later", and the queue goes through unchanged.
#[tokio::test(flavor = "multi_thread")]
async fn f_50_uploads_are_told_to_come_again_while_the_database_is_away() {
    let mut rig = rig().await;
    let mut server = HeadwaterProcess::start(rig::allowing(
        rig.options(),
        &["HW2", "upload postponed", "source"],
    ))
    .await;
    let transactions = [one(1, "PUT", "late", json!({"owner": "amy", "body": "x", "n": 1}))];
    rig.cluster.stop(Stop::Fast);
    for _ in 0..3 {
        let (status, answer) =
            upload(server.address(), "amy", &transactions).await.expect("answered");
        let later = status >= 500 || verdicts(&answer) == ["retry"];
        assert!(later, "{status} {answer}");
    }
    rig.cluster.start_again();
    rig.sql = rig.cluster.client(&rig.database.name).await;
    let answer = until_final(&server, "amy", &transactions).await;
    assert_eq!(verdicts(&answer), ["applied"]);
    assert_eq!(
        rig.ask("SELECT count(*) FROM runs WHERE note = 'late'").await.as_deref(),
        Some("1")
    );
    let mut amy = client("amy");
    caught_up(&mut amy, &server).await;
    assert!(amy.table("notes").contains_key("late"));
    server.stop().await;
}

/// F-52: two clients write one row at once, again and again; everybody ends with what Postgres has.
#[tokio::test(flavor = "multi_thread")]
async fn f_52_two_clients_write_one_row_and_the_same_one_wins_everywhere() {
    let writes: u64 = if std::env::var_os("HEADWATER_SOAK").is_some() { 10_000 } else { 1_000 };
    let rig = rig().await;
    let mut server = rig.start().await;
    let address = server.address();
    let write = |user: &'static str| {
        tokio::spawn(async move {
            for id in 1..=writes / 2 {
                let body = json!({"body": format!("{user} {id}"), "n": id});
                let (status, answer) = upload(address, user, &[one(id, "PATCH", "shared", body)])
                    .await
                    .expect("answered");
                assert_eq!(
                    (status, verdicts(&answer)),
                    (200, vec!["applied".to_owned()]),
                    "{answer}"
                );
            }
        })
    };
    let writers = [write("amy"), write("bob")];
    let (mut amy, mut bob) = (client("amy"), client("bob"));
    for writer in writers {
        writer.await.expect("every write was applied");
    }
    let won = rig.ask("SELECT body FROM notes WHERE id = 'shared'").await.expect("a row");
    for reader in [&mut amy, &mut bob] {
        caught_up(reader, &server).await;
        assert_eq!(reader.table("notes")["shared"]["body"], *won);
    }
    let runs = rig.ask("SELECT count(*) FROM runs WHERE note = 'shared'").await.expect("counted");
    assert_eq!(runs, (writes + 1).to_string(), "each write once");
    wait::within_limit("it stops", server.stop()).await;
}
