//! Live queries of a server as a process, on a real source: `datasync.md` 10.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use hw_auth::{Clock, Secret, token};
use hw_testkit::server::{API_TOKEN, OPERATOR, http_get};
use hw_testkit::{
    Cluster, ClusterOptions, HeadwaterProcess, ProcessOptions, TestDatabase, poll_until,
};
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;
use tokio_postgres::Client;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

const SECRET: &str = "a secret of thirty-two characters";

const SCHEMA: &str = "
CREATE TABLE tasks (id int4 PRIMARY KEY, owner text NOT NULL, title text NOT NULL DEFAULT 'untitled', n int4,
  created_at timestamptz NOT NULL DEFAULT '2024-01-02T03:04:05.678Z');
ALTER TABLE tasks ENABLE ROW LEVEL SECURITY;
CREATE POLICY owner ON tasks USING (owner = current_setting('request.jwt.claim.sub', true));
CREATE TABLE members (team int4, who text, PRIMARY KEY (team, who));
ALTER TABLE members ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON members FOR SELECT USING (who = current_setting('request.jwt.claim.sub', true));
CREATE TABLE notes (id int4 PRIMARY KEY, team int4, body text);
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
CREATE POLICY team ON notes FOR SELECT USING (team IN (SELECT team FROM members));
GRANT SELECT, INSERT, UPDATE, DELETE ON tasks, notes, members TO headwater_authenticated;
";

/// The process ends first: what it says of a source that is gone would be a finding.
pub struct Rig {
    pub process: HeadwaterProcess,
    sql: Client,
    _database: TestDatabase,
    _cluster: Cluster,
    _directory: tempfile::TempDir,
}

impl Rig {
    pub async fn start() -> Rig {
        Rig::start_allowing(&[]).await
    }

    /// With findings in the log that are meant to be there.
    async fn start_allowing(findings: &[&str]) -> Rig {
        Rig::start_with("{}", findings).await
    }

    /// With a configuration.
    pub async fn start_with(config: &str, findings: &[&str]) -> Rig {
        let cluster = Cluster::start_with(ClusterOptions {
            settings: &[("max_slot_wal_keep_size", "20GB")],
            ..ClusterOptions::default()
        });
        let database = cluster.create_database().await;
        let sql = cluster.client(&database.name).await;
        sql.batch_execute(&format!("CREATE ROLE headwater_authenticated; {SCHEMA}"))
            .await
            .expect("made");
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("headwater.yaml");
        std::fs::write(&file, config).expect("written");
        let process = HeadwaterProcess::start(ProcessOptions {
            binary: env!("CARGO_BIN_EXE_headwater").into(),
            arguments: vec!["serve".into()],
            environment: vec![
                ("DATABASE_URL".into(), database.url.clone()),
                ("HEADWATER_CONFIG".into(), file.display().to_string()),
                ("HEADWATER_DATA_DIR".into(), directory.path().join("data").display().to_string()),
                ("HEADWATER_JWT_SECRET".into(), SECRET.into()),
                ("HEADWATER_API_TOKEN".into(), API_TOKEN.into()),
                ("HEADWATER_DATASYNC".into(), "true".into()),
            ],
            allowed_log: findings.iter().map(|&finding| finding.to_owned()).collect(),
        })
        .await;
        Rig { _cluster: cluster, _directory: directory, _database: database, sql, process }
    }

    pub async fn run(&self, sql: &str) {
        self.sql.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Waits until so many subscriptions are told by plans: what is written before their tables are followed is told,
    /// but not what rows were before.
    pub async fn is_planned(&self, count: usize) {
        let line = format!("\nheadwater_live_planned {count}\n");
        poll_until("all are told by plans", async || {
            let metrics = http_get(self.process.address(), "/metrics", &OPERATOR).await.ok()?.body;
            metrics.contains(&line).then_some(())
        })
        .await;
    }

    /// Waits until nobody has been asked for a while: what made tables followed is over.
    pub async fn rests(&self) {
        let (mut last, mut times) = (None, 0);
        while times < 6 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let metrics = http_get(self.process.address(), "/metrics", &OPERATOR).await;
            let metrics = metrics.expect("answered").body;
            let rounds = metrics.lines().find(|it| it.starts_with("headwater_live_rounds_total"));
            let rounds = rounds.map(str::to_owned);
            times = if last == rounds { times + 1 } else { 0 };
            last = rounds;
        }
    }

    pub async fn status(&self) -> Value {
        let status = http_get(self.process.address(), "/admin/api/status", &OPERATOR).await;
        serde_json::from_str(&status.expect("answered").body).expect("JSON")
    }

    /// How much is used of a bound of live queries.
    async fn used(&self, bound: &str) -> u64 {
        let status = self.status().await;
        let bounds = status["bounds"].as_array().expect("bounds");
        let found = bounds.iter().find(|it| it["name"] == bound).expect("a bound");
        found["used"].as_u64().expect("a number")
    }

    /// Another session in the database.
    pub async fn session(&self) -> Client {
        self._cluster.client(&self._database.name).await
    }

    pub async fn connect(&self, sub: &str) -> Socket {
        self.connect_by(&token_of(sub)).await
    }

    async fn connect_by(&self, token: &str) -> Socket {
        let url =
            format!("ws://{}/DataSyncController?access_token={token}", self.process.address());
        let (socket, _) = connect_async(url).await.expect("connected");
        Socket { socket, next: 0, pushes: Vec::new() }
    }
}

fn token_of(sub: &str) -> String {
    token_with(sub, json!({}))
}

/// An hour's token with claims.
fn token_with(sub: &str, claims: Value) -> String {
    token_at(sub, claims, Clock::system())
}

/// The same, issued when a clock says.
fn token_at(sub: &str, claims: Value, clock: Clock) -> String {
    let secret = Secret::parse(SECRET).expect("usable");
    let claims: Map<String, Value> = serde_json::from_value(claims).expect("an object");
    token::issue(&secret, sub, Duration::from_secs(3600), &claims, &[], &clock)
}

pub struct Socket {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    next: i64,
    /// What came before an answer that was waited for.
    pub pushes: Vec<Value>,
}

impl Socket {
    pub async fn receive(&mut self) -> Value {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    let message: Value = serde_json::from_str(&text).expect("JSON");
                    if message["tag"] != "KeepAlive" {
                        return message;
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("no message but {other:?}"),
            }
        }
    }

    /// The next message, or the code with which the socket is closed.
    async fn receive_or_closed(&mut self) -> Result<Value, u16> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    let message: Value = serde_json::from_str(&text).expect("JSON");
                    if message["tag"] != "KeepAlive" {
                        return Ok(message);
                    }
                }
                Some(Ok(Message::Close(Some(frame)))) => return Err(frame.code.into()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("neither a message nor a code but {other:?}"),
            }
        }
    }

    /// Sends and waits for the answer.
    pub async fn ask(&mut self, mut message: Value) -> Value {
        let number = self.next;
        self.next += 1;
        message["requestId"] = number.into();
        self.socket.send(Message::text(message.to_string())).await.expect("sent");
        loop {
            let answer = self.receive().await;
            if answer["requestId"] == number {
                return answer;
            }
            self.pushes.push(answer);
        }
    }

    /// The next push, without its position.
    pub async fn push(&mut self) -> Value {
        let mut push = self.push_at().await;
        push.as_object_mut().expect("an object").remove("lsn");
        push
    }

    /// The next push.
    async fn push_at(&mut self) -> Value {
        if !self.pushes.is_empty() {
            return self.pushes.remove(0);
        }
        self.receive().await
    }

    pub async fn subscribe(&mut self, query: Value) -> (String, Value) {
        let answer = self.ask(json!({"tag": "CreateDataSubscription", "query": query})).await;
        assert_eq!(answer["tag"], "DidCreateDataSubscription", "{answer}");
        (answer["subscriptionId"].as_str().expect("an id").to_owned(), answer["result"].clone())
    }

    /// Subscribes and says what was had of an earlier subscription.
    pub async fn resume(&mut self, query: Value, had: &Value) -> Value {
        let resume = json!({"subscriptionId": had["subscriptionId"], "lsn": had["lsn"]});
        let message = json!({"tag": "CreateDataSubscription", "query": query, "resume": resume});
        let answer = self.ask(message).await;
        assert_eq!(answer["tag"], "DidCreateDataSubscription", "{answer}");
        answer
    }

    /// The code with which the server closes it, `None` without a word.
    async fn closed(&mut self) -> Option<u16> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Close(frame))) => return frame.map(|it| it.code.into()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }
}

pub fn query(table: &str, more: Value) -> Value {
    let mut query = json!({
        "table": table, "selectedColumns": {"tag": "SelectAll"}, "whereCondition": null, "orderByClause": [],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        query[key] = value.clone();
    }
    query
}

pub fn select(fields: &[&str]) -> Value {
    json!({"tag": "SelectSpecific", "contents": fields})
}

#[tokio::test]
async fn ds_10_5_a_result_follows_what_anybody_commits() {
    let rig = Rig::start().await;
    rig.run("INSERT INTO tasks (id, owner) VALUES (1, 'amy'), (2, 'bob')").await;
    let mut amy = rig.connect("amy").await;
    let fields = json!({"selectedColumns": select(&["id", "title"])});
    let (id, first) = amy.subscribe(query("tasks", fields)).await;
    assert_eq!(first, json!([{"id": 1, "title": "untitled"}]));
    rig.is_planned(1).await;
    let event = |tag: &str, more: Value| {
        let mut event = json!({"tag": tag, "subscriptionId": id});
        for (key, value) in more.as_object().into_iter().flatten() {
            event[key] = value.clone();
        }
        event
    };
    rig.run("INSERT INTO tasks (id, owner, title) VALUES (3, 'amy', 'c'), (4, 'bob', 'd')").await;
    assert_eq!(amy.push().await, event("DidInsert", json!({"record": {"id": 3, "title": "c"}})));
    // A row that enters and one that leaves by an UPDATE.
    rig.run("UPDATE tasks SET owner = 'amy' WHERE id = 2").await;
    assert_eq!(
        amy.push().await,
        event("DidInsert", json!({"record": {"id": 2, "title": "untitled"}}))
    );
    rig.run("UPDATE tasks SET owner = 'bob' WHERE id = 3").await;
    assert_eq!(amy.push().await, event("DidDelete", json!({"id": 3})));
    rig.run("UPDATE tasks SET title = 'new', n = 7 WHERE id = 2").await;
    assert_eq!(
        amy.push().await,
        event("DidUpdate", json!({"id": 2, "changeSet": {"title": "new"}}))
    );
    rig.run("UPDATE tasks SET title = title WHERE id = 2").await;
    assert_eq!(amy.push().await, event("DidUpdate", json!({"id": 2})), "touched, and nothing else");
    // Of a transaction its net effect, of one that is rolled back nothing.
    rig.run("BEGIN; UPDATE tasks SET title = 'x' WHERE id = 1; ROLLBACK").await;
    rig.run(
        "BEGIN; INSERT INTO tasks VALUES (9, 'amy'); UPDATE tasks SET title = 'a' WHERE id = 1;
         UPDATE tasks SET title = 'b' WHERE id = 1; DELETE FROM tasks WHERE id = 9; COMMIT",
    )
    .await;
    assert_eq!(amy.push().await, event("DidUpdate", json!({"id": 1, "changeSet": {"title": "b"}})));
    rig.run("TRUNCATE tasks").await;
    let mut gone = [amy.push().await["id"].clone(), amy.push().await["id"].clone()];
    gone.sort_by_key(|id| id.as_i64());
    assert_eq!(gone, [json!(1), json!(2)]);
    let answer = amy.ask(json!({"tag": "DeleteDataSubscription", "subscriptionId": id})).await;
    assert_eq!(answer["tag"], "DidDeleteDataSubscription");
    rig.run("INSERT INTO tasks (id, owner) VALUES (1, 'amy')").await;
    let (_, again) =
        amy.subscribe(query("tasks", json!({"selectedColumns": select(&["id"])}))).await;
    assert_eq!((again, amy.pushes.len()), (json!([{"id": 1}]), 0), "nothing came behind the end");
}

/// Conditions of queries and policies are computed here, of owners and of members: changed rows find
/// subscriptions, and the source is not asked for each (`datasync.md` 21 A).
#[tokio::test]
async fn ds_21_changed_rows_find_subscriptions_by_what_they_have() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    let field = json!({"tag": "ColumnExpression", "field": "n"});
    let value = json!({"tag": "LiteralExpression", "value": 7});
    let is_seven =
        json!({"tag": "InfixOperatorExpression", "op": "OpEqual", "left": field, "right": value});
    amy.subscribe(query("tasks", json!({"whereCondition": is_seven}))).await;
    amy.subscribe(query("notes", json!({}))).await;
    // One by its owner, one by its only team.
    rig.run("INSERT INTO members VALUES (1, 'amy')").await;
    let address = rig.process.address();
    let planned = || async {
        let metrics = http_get(address, "/metrics", &OPERATOR).await.ok()?.body;
        let has = |line: &str| metrics.contains(&format!("\n{line}\n"));
        let is_planned = has("headwater_live_results 2") && has("headwater_live_planned 2");
        (is_planned && has("headwater_live_unindexed 0")).then_some(())
    };
    poll_until("both are found by what rows have", planned).await;
    rig.run("INSERT INTO tasks (id, owner, n) VALUES (1, 'amy', 7), (2, 'amy', 8), (3, 'bob', 7)")
        .await;
    assert_eq!(amy.push().await["record"]["id"], 1);
    rig.run("INSERT INTO notes VALUES (1, 1, 'a'), (2, 2, 'b')").await;
    assert_eq!(amy.push().await["record"]["body"], "a");
}

/// A function of Postgres itself does something else from now on, which no policy and no right shows.
const OTHERWISE: &str = "SET allow_system_table_mods = on;
CREATE OR REPLACE FUNCTION pg_catalog.starts_with(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE STRICT
  AS $$ SELECT pg_catalog.left($1, pg_catalog.length($2) + 1) = $2 || '!' $$";

/// Where what is computed here is not what Postgres shows, users are shown what Postgres shows, and operators are told.
#[tokio::test]
async fn e_4_operators_are_told_what_an_audit_has_found() {
    let rig = Rig::start_allowing(&["HW4306"]).await;
    rig.run(
        "CREATE POLICY begins ON notes FOR SELECT USING (starts_with(body, 'open'));
         INSERT INTO notes VALUES (1, 1, 'open')",
    )
    .await;
    let mut amy = rig.connect("amy").await;
    let (_, notes) = amy.subscribe(query("notes", json!({}))).await;
    assert_eq!(notes[0]["body"], "open");
    let address = rig.process.address();
    let is_exported = async |line: &str| {
        let metrics = http_get(address, "/metrics", &OPERATOR).await.ok()?.body;
        metrics.contains(&format!("\n{line}\n")).then_some(())
    };
    rig.is_planned(1).await;
    let page = async |path: &str| {
        let answer = http_get(address, path, &OPERATOR).await.expect("answered");
        serde_json::from_str::<Value>(&answer.body).expect("JSON")
    };
    let of_notes = async || {
        let page = page("/admin/api/policies?role=headwater_authenticated").await;
        let tables = page["tables"].as_array().expect("tables").clone();
        tables.into_iter().find(|table| table["table"] == "notes").expect("listed")
    };
    assert_eq!(of_notes().await["tier"], "with_lookup");
    assert_eq!(page("/admin/api/status").await["live"]["disagreements"], json!([]));
    rig.run(OTHERWISE).await;
    let found = "headwater_live_audit_disagreements_total 1";
    poll_until("it is found", || is_exported(found)).await;
    assert_eq!(amy.push().await["tag"], "DidDelete");
    let told = "public.notes for headwater_authenticated: what policies begins, team admit was not what Postgres shows \
                (only here: 1 rows (keys 1)); it is asked instead (HW4306)";
    assert_eq!(page("/admin/api/status").await["live"]["disagreements"], json!([told]));
    let notes = of_notes().await;
    assert_eq!((&notes["tier"], &notes["because"]["reason"]), (&json!("asked"), &json!(told)));
    rig.run("INSERT INTO notes VALUES (2, 2, 'open'), (3, 2, 'open!')").await;
    assert_eq!(amy.push().await["record"]["id"], 3);
}

/// Where a permission table cannot be followed any more, whoever sees by it is shown what Postgres shows, and the status
/// says what is wrong with the table.
#[tokio::test]
async fn e_4_the_status_says_why_a_permission_table_takes_access() {
    let findings = ["the table's description changed", "the table leaves the replica", "HW2106"];
    let rig = Rig::start_allowing(&findings).await;
    rig.run("INSERT INTO notes VALUES (1, 1, 'a'); INSERT INTO members VALUES (1, 'amy')").await;
    let mut amy = rig.connect("amy").await;
    amy.subscribe(query("notes", json!({}))).await;
    rig.is_planned(1).await;
    rig.run(
        "ALTER TABLE members DROP CONSTRAINT members_pkey; TRUNCATE members;
         INSERT INTO notes VALUES (2, 1, 'hush')",
    )
    .await;
    let event = amy.push().await;
    assert_eq!((&event["tag"], &event["id"]), (&json!("DidDelete"), &json!(1)), "{event}");
    let address = rig.process.address();
    poll_until("the status names the table", async || {
        let answer = http_get(address, "/admin/api/status", &OPERATOR).await.ok()?;
        let page: Value = serde_json::from_str(&answer.body).ok()?;
        let refused = page["sync"]["refused"].as_array()?.clone();
        refused
            .iter()
            .any(|line| line.as_str().is_some_and(|it| it.contains("members")))
            .then_some(())
    })
    .await;
    // It heals, also where nothing else happens.
    rig.run(
        "ALTER TABLE members ADD PRIMARY KEY (team, who); INSERT INTO members VALUES (1, 'amy')",
    )
    .await;
    let mut seen = [amy.push().await, amy.push().await].map(|event| event["record"]["id"].clone());
    seen.sort_by_key(Value::to_string);
    assert_eq!(seen, [json!(1), json!(2)]);
    rig.is_planned(1).await;
}

/// A table that others inherit from shows their rows as its own, and the log tells these under other names.
#[tokio::test]
async fn ds_10_5_rows_of_tables_that_inherit_are_shown_and_followed() {
    let findings = ["the table's description changed", "the table leaves the replica", "HW2118"];
    let rig = Rig::start_allowing(&findings).await;
    rig.run("INSERT INTO tasks (id, owner) VALUES (1, 'amy')").await;
    let mut amy = rig.connect("amy").await;
    amy.subscribe(query("tasks", json!({}))).await;
    rig.is_planned(1).await;
    rig.run(
        "CREATE TABLE chores () INHERITS (tasks);
         INSERT INTO chores (id, owner) VALUES (2, 'amy'), (3, 'bob')",
    )
    .await;
    assert_eq!(amy.push().await["record"]["id"], 2);
    rig.run("INSERT INTO chores (id, owner) VALUES (4, 'amy')").await;
    assert_eq!(amy.push().await["record"]["id"], 4);
    rig.run("DELETE FROM chores WHERE id = 2").await;
    assert_eq!(amy.push().await["tag"], "DidDelete");
    rig.run("DROP TABLE chores").await;
    assert_eq!(amy.push().await["id"], 4);
    rig.is_planned(1).await;
}

/// Nothing that was known of the role a moment ago counts.
#[tokio::test]
async fn ds_12_a_role_that_comes_to_stand_above_policies_is_refused_at_once() {
    let rig = Rig::start().await;
    rig.run("INSERT INTO tasks (id, owner) VALUES (1, 'amy'), (2, 'bob')").await;
    let mut amy = rig.connect("amy").await;
    let all = json!({"tag": "DataSyncQuery", "query": query("tasks", json!({}))});
    let answer = amy.ask(all.clone()).await;
    assert_eq!(answer["result"].as_array().map(Vec::len), Some(1), "{answer}");
    rig.run("ALTER ROLE headwater_authenticated BYPASSRLS").await;
    let answer = amy.ask(all).await;
    assert_eq!(answer["code"], "HW4301", "{answer}");
    let patch =
        json!({"tag": "UpdateRecordMessage", "table": "tasks", "id": 2, "patch": {"title": "x"}});
    let answer = amy.ask(patch).await;
    assert_eq!(answer["code"], "HW4301", "{answer}");
    let row = rig.sql.query_one("SELECT title FROM tasks WHERE id = 2", &[]).await.expect("read");
    assert_eq!(row.get::<_, &str>(0), "untitled");
}

/// What is open is of the user who opened it.
#[tokio::test]
async fn ds_9_a_login_of_another_user_ends_a_socket_with_an_open_transaction() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    let begun = amy.ask(json!({"tag": "StartTransaction"})).await;
    assert_eq!(begun["tag"], "DidStartTransaction");
    let login = json!({"tag": "LoginWithJWT", "jwt": token_of("bob")});
    assert_eq!(amy.ask(login).await["tag"], "LoginSuccessful");
    loop {
        match amy.socket.next().await {
            Some(Ok(Message::Close(Some(frame)))) => {
                assert_eq!(u16::from(frame.code), 4401);
                break;
            }
            Some(Ok(_)) => {}
            other => panic!("no close but {other:?}"),
        }
    }
}

#[tokio::test]
async fn ds_10_5_rows_come_and_go_with_membership() {
    let rig = Rig::start().await;
    rig.run(
        "INSERT INTO notes VALUES (1, 1, 'a'), (2, 2, 'b'); INSERT INTO members VALUES (1, 'amy')",
    )
    .await;
    let mut amy = rig.connect("amy").await;
    let (_, first) = amy.subscribe(query("notes", json!({}))).await;
    assert_eq!(first, json!([{"id": 1, "team": 1, "body": "a"}]));
    rig.is_planned(1).await;
    rig.run("INSERT INTO members VALUES (2, 'amy')").await;
    assert_eq!(amy.push().await["record"], json!({"id": 2, "team": 2, "body": "b"}));
    rig.run("DELETE FROM members WHERE team = 1").await;
    let event = amy.push().await;
    assert_eq!((&event["tag"], &event["id"]), (&json!("DidDelete"), &json!(1)));
    // What is written to it from now on is nobody's business here.
    rig.run(
        "UPDATE notes SET body = 'hush' WHERE id = 1; UPDATE notes SET body = 'seen' WHERE id = 2",
    )
    .await;
    let event = amy.push().await;
    assert_eq!(
        (&event["id"], &event["changeSet"]),
        (&json!(2), &json!({"body": "seen"})),
        "{event}"
    );
}

#[tokio::test]
async fn ds_10_5_own_writes_come_back_as_events_when_they_are_committed() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    let (_, first) = amy.subscribe(query("tasks", json!({}))).await;
    assert_eq!(first, json!([]));
    rig.is_planned(1).await;
    let record = json!({"id": 1, "owner": "amy", "createdAt": "2024-05-06T07:08:09.123Z"});
    let made =
        amy.ask(json!({"tag": "CreateRecordMessage", "table": "tasks", "record": record})).await;
    let event = amy.push().await;
    assert_eq!(
        (&event["tag"], &event["record"]),
        (&json!("DidInsert"), &made["record"]),
        "of one form"
    );
    let begun = amy.ask(json!({"tag": "StartTransaction"})).await;
    let transaction = begun["transactionId"].clone();
    let patch = json!({"tag": "UpdateRecordMessage", "table": "tasks", "id": 1, "patch": {"title": "b"}, "transactionId": transaction});
    amy.ask(patch).await;
    amy.ask(json!({"tag": "CreateRecordMessage", "table": "tasks", "record": {"id": 2, "owner": "amy"}})).await;
    let event = amy.push().await;
    assert_eq!(event["record"]["id"], 2, "what is not committed is not told");
    amy.ask(json!({"tag": "CommitTransaction", "id": transaction})).await;
    let event = amy.push().await;
    assert_eq!((&event["id"], &event["changeSet"]), (&json!(1), &json!({"title": "b"})));
}

#[tokio::test]
async fn ds_10_5_counts_follow_and_conditions_decide() {
    let rig = Rig::start().await;
    rig.run("INSERT INTO tasks (id, owner, n) SELECT n, 'amy', n FROM generate_series(1, 5) AS n")
        .await;
    let mut amy = rig.connect("amy").await;
    let condition = json!({"tag": "InfixOperatorExpression", "op": "OpGreaterThan",
        "left": {"tag": "ColumnExpression", "field": "n"}, "right": {"tag": "LiteralExpression", "value": 3}});
    let message = json!({"tag": "CreateCountSubscription", "query": query("tasks", json!({"whereCondition": condition}))});
    let answer = amy.ask(message).await;
    assert_eq!(
        (&answer["tag"], &answer["count"]),
        (&json!("DidCreateCountSubscription"), &json!(2))
    );
    rig.run("UPDATE tasks SET title = 'x'").await;
    rig.run("UPDATE tasks SET n = 10 WHERE id = 1").await;
    let event = amy.push().await;
    assert_eq!((&event["tag"], &event["count"]), (&json!("DidChangeCount"), &json!(3)), "{event}");
    assert_eq!(event["subscriptionId"], answer["subscriptionId"]);
}

#[tokio::test]
async fn issue_6_2_groups_follow_what_anybody_commits() {
    let rig = Rig::start().await;
    rig.run("INSERT INTO tasks (id, owner, title, n) VALUES (1, 'amy', 'a', 3), (2, 'amy', 'a', 4), (3, 'bob', 'a', 5)").await;
    let groups = |tag: &str, group_by: Value| {
        let aggregates = json!({"tasks": {"tag": "Count"}, "sum": {"tag": "Sum", "field": "n"}, "mean": {"tag": "Avg", "field": "n"}});
        json!({"tag": tag, "query": query("tasks", json!({})), "groupBy": group_by, "aggregates": aggregates})
    };
    let mut amy = rig.connect("amy").await;
    let once = amy.ask(groups("DataSyncAggregateQuery", json!(["title"]))).await;
    let first = json!([{"title": "a", "tasks": 2, "sum": 7, "mean": 3.5}]);
    assert_eq!((&once["tag"], &once["result"]), (&json!("DataSyncResult"), &first));
    let subscribe = || groups("CreateAggregateSubscription", json!(["title"]));
    let began = amy.ask(subscribe()).await;
    assert_eq!(
        (&began["tag"], &began["result"]),
        (&json!("DidCreateAggregateSubscription"), &first)
    );
    let all = amy.ask(groups("CreateAggregateSubscription", json!([]))).await;
    assert_eq!(all["result"], json!([{"tasks": 2, "sum": 7, "mean": 3.5}]));
    rig.is_planned(2).await;
    // Events of both, by what they are about.
    async fn events(socket: &mut Socket, count: usize) -> Vec<Value> {
        let mut events = Vec::new();
        for _ in 0..count {
            let mut event = socket.push().await;
            event.as_object_mut().expect("an object").remove("subscriptionId");
            events.push(event);
        }
        events.sort_by_key(Value::to_string);
        events
    }
    rig.run("UPDATE tasks SET owner = 'amy' WHERE id = 3").await;
    let changed = json!({"tasks": 3, "sum": 12, "mean": 4.0});
    let update = |id: Value| json!({"tag": "DidUpdate", "id": id, "changeSet": changed});
    assert_eq!(events(&mut amy, 2).await, [update(json!(["a"])), update(json!([]))]);
    // From one group to others; what is none of hers is not told.
    rig.run("BEGIN; UPDATE tasks SET title = id::text; INSERT INTO tasks (id, owner, title) VALUES (4, 'bob', 'a'); COMMIT").await;
    let group = |id: i32, n: i32| {
        let record = json!({"title": id.to_string(), "tasks": 1, "sum": n, "mean": f64::from(n)});
        json!({"tag": "DidInsert", "record": record})
    };
    let mut expected =
        vec![group(1, 3), group(2, 4), group(3, 5), json!({"tag": "DidDelete", "id": ["a"]})];
    expected.sort_by_key(Value::to_string);
    assert_eq!(events(&mut amy, 4).await, expected);
    // Whoever comes back with the same question goes on where she was.
    let last = amy.ask(subscribe()).await;
    let had = json!({"subscriptionId": last["subscriptionId"], "lsn": last["lsn"]});
    drop(amy);
    rig.run("DELETE FROM tasks WHERE id = 3").await;
    let mut amy = rig.connect("amy").await;
    let mut again = subscribe();
    again["resume"] = had.clone();
    let resumed = amy.ask(again).await;
    assert_eq!((&resumed["resumed"], resumed.get("result")), (&json!(true), None), "{resumed}");
    assert_eq!(events(&mut amy, 1).await, [json!({"tag": "DidDelete", "id": ["3"]})]);
    drop(amy);
    let mut amy = rig.connect("amy").await;
    let mut other = groups("CreateAggregateSubscription", json!([]));
    other["resume"] = json!({"subscriptionId": resumed["subscriptionId"], "lsn": had["lsn"]});
    assert!(amy.ask(other).await["result"].is_array(), "another question does not");
    // What cannot be computed is refused with its code and what to write.
    let mut wrong = groups("CreateAggregateSubscription", json!([]));
    wrong["aggregates"] = json!({"sum": {"tag": "Sum", "field": "title"}});
    let refused = amy.ask(wrong).await;
    assert_eq!((&refused["tag"], &refused["code"]), (&json!("DataSyncError"), &json!("HW5412")));
}

#[tokio::test]
async fn ds_10_5_a_window_is_kept_full() {
    let rig = Rig::start().await;
    rig.run(
        "INSERT INTO tasks (id, owner, n) SELECT n, 'amy', 10 * n FROM generate_series(1, 5) AS n",
    )
    .await;
    let mut amy = rig.connect("amy").await;
    let window = json!({"limit": 2, "selectedColumns": select(&["n"]),
        "orderByClause": [{"orderByColumn": "n", "orderByDirection": "Asc"}]});
    let (_, first) = amy.subscribe(query("tasks", window)).await;
    assert_eq!(first, json!([{"n": 10}, {"n": 20}]));
    rig.run("INSERT INTO tasks (id, owner, n) VALUES (6, 'amy', 15)").await;
    let both = [amy.push().await, amy.push().await];
    let of = |tag: &str| {
        both.iter().find(|event| event["tag"] == tag).unwrap_or_else(|| panic!("{both:?}"))
    };
    assert_eq!(of("DidInsert")["record"], json!({"n": 15}));
    assert_eq!(of("DidDelete")["id"], 2, "the key is told though it was not selected");
    rig.run("DELETE FROM tasks WHERE id = 1").await;
    let both = [amy.push().await, amy.push().await];
    let of = |tag: &str| {
        both.iter().find(|event| event["tag"] == tag).unwrap_or_else(|| panic!("{both:?}"))
    };
    assert_eq!(
        (&of("DidDelete")["id"], &of("DidInsert")["record"]),
        (&json!(1), &json!({"n": 20}))
    );
}

#[tokio::test]
async fn ds_10_5_what_can_no_longer_be_evaluated_is_ended() {
    let rig = Rig::start().await;
    rig.run("INSERT INTO tasks (id, owner) VALUES (1, 'amy')").await;
    let mut amy = rig.connect("amy").await;
    let (id, _) = amy.subscribe(query("tasks", json!({}))).await;
    rig.run("ALTER TABLE tasks DISABLE ROW LEVEL SECURITY; INSERT INTO tasks (id, owner) VALUES (2, 'bob')").await;
    let event = amy.push().await;
    assert_eq!((&event["tag"], &event["id"]), (&json!("DidDelete"), &json!(1)), "{event}");
    let end = amy.push().await;
    assert_eq!(
        (&end["tag"], &end["subscriptionId"]),
        (&json!("DataSyncError"), &json!(id)),
        "{end}"
    );
    assert!(end.get("requestId").is_none() && end["code"].is_string(), "{end}");
    let answer = amy.ask(json!({"tag": "DeleteDataSubscription", "subscriptionId": id})).await;
    assert_eq!(answer["tag"], "DataSyncError");
}

#[tokio::test]
async fn ds_10_5_what_a_follower_holds_is_what_postgres_shows() {
    let rig = Rig::start().await;
    rig.run("INSERT INTO tasks (id, owner, n) SELECT n, 'amy', n FROM generate_series(1, 20) AS n")
        .await;
    let mut amy = rig.connect("amy").await;
    let (_, first) = amy.subscribe(query("tasks", json!({}))).await;
    let key = |record: &Value| record["id"].as_i64().expect("a number");
    let mut held: BTreeMap<i64, Value> = BTreeMap::new();
    for record in first.as_array().expect("rows") {
        held.insert(key(record), record.clone());
    }
    for round in 0..40 {
        let (one, two) = (round * 7 % 23 + 1, round * 5 % 23 + 1);
        rig.run(&format!(
            "UPDATE tasks SET owner = CASE owner WHEN 'amy' THEN 'bob' ELSE 'amy' END WHERE id = {one};
             UPDATE tasks SET title = 't{round}', n = {round} WHERE id = {two};
             INSERT INTO tasks (id, owner) VALUES ({}, 'amy');
             DELETE FROM tasks WHERE id = {}",
            100 + round,
            90 + round
        ))
        .await;
    }
    rig.run("INSERT INTO tasks (id, owner, title) VALUES (1000, 'amy', 'last')").await;
    loop {
        let event = amy.push().await;
        match event["tag"].as_str() {
            Some("DidInsert") => {
                let record = event["record"].clone();
                assert!(held.insert(key(&record), record).is_none(), "no id comes twice: {event}");
            }
            Some("DidUpdate") => {
                let id = event["id"].as_i64().expect("a number");
                let record = held.get_mut(&id).unwrap_or_else(|| panic!("not held: {event}"));
                for (field, value) in event["changeSet"].as_object().into_iter().flatten() {
                    record[field] = value.clone();
                }
            }
            Some("DidDelete") => {
                let id = event["id"].as_i64().expect("a number");
                // It may have come and gone in commits that are told as one.
                assert!(held.remove(&id).is_some() || (100..130).contains(&id), "{event}");
            }
            _ => panic!("{event}"),
        }
        if held.contains_key(&1000) {
            break;
        }
    }
    let ordered = json!({"orderByClause": [{"orderByColumn": "id", "orderByDirection": "Asc"}]});
    let rows = amy.ask(json!({"tag": "DataSyncQuery", "query": query("tasks", ordered)})).await;
    let held: Vec<Value> = held.into_values().collect();
    assert_eq!(Value::from(held), rows["result"]);
}

#[tokio::test]
async fn ds_1_a_login_of_another_user_ends_the_socket_that_follows_results() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    amy.subscribe(query("tasks", json!({}))).await;
    let renewed = amy.ask(json!({"tag": "LoginWithJWT", "jwt": token_of("amy")})).await;
    assert_eq!(renewed["tag"], "LoginSuccessful");
    rig.run("INSERT INTO tasks (id, owner) VALUES (1, 'amy')").await;
    assert_eq!(amy.push().await["record"]["id"], 1, "the same user goes on");
    let other = amy.ask(json!({"tag": "LoginWithJWT", "jwt": token_of("bob")})).await;
    assert_eq!(other["tag"], "LoginSuccessful");
    loop {
        match amy.socket.next().await {
            Some(Ok(Message::Close(Some(frame)))) => break assert_eq!(u16::from(frame.code), 4401),
            Some(Ok(_)) => {}
            other => panic!("not closed with a code: {other:?}"),
        }
    }
}

/// Nothing is told of the user before, whenever his subscription begins.
#[tokio::test]
async fn ds_1_a_login_that_overtakes_a_subscription_ends_the_socket() {
    let rig = Rig::start().await;
    rig.run("INSERT INTO tasks (id, owner) VALUES (1, 'amy')").await;
    let mut amy = rig.connect("amy").await;
    amy.ask(json!({"tag": "DataSyncQuery", "query": query("tasks", json!({}))})).await;
    // The subscription waits for the table, the login for nobody.
    rig.run("BEGIN; LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE").await;
    let number = amy.next;
    amy.next += 1;
    let subscribe = json!({"tag": "CreateDataSubscription", "requestId": number, "query": query("tasks", json!({}))});
    amy.socket.send(Message::text(subscribe.to_string())).await.expect("sent");
    let login = amy.ask(json!({"tag": "LoginWithJWT", "jwt": token_of("bob")})).await;
    assert_eq!(login["tag"], "LoginSuccessful");
    assert_eq!(amy.pushes, [Value::Null; 0], "it waits");
    rig.run("COMMIT").await;
    assert_eq!(amy.closed().await, Some(4401));
}

/// Who may see a task says a claim, or the role.
const BY_CLAIMS: &str = "
CREATE ROLE auditor; GRANT SELECT ON tasks TO auditor; DROP POLICY owner ON tasks;
CREATE POLICY org ON tasks FOR SELECT TO headwater_authenticated
  USING (title = current_setting('request.jwt.claims', true)::jsonb ->> 'org');
CREATE POLICY audit ON tasks FOR SELECT TO auditor USING (n = 7);
INSERT INTO tasks VALUES (1, 'x', 'one', 1), (2, 'x', 'two', 2), (3, 'x', 'three', 7)";

/// Tokens of one user with whom others would be confused if users were compared by their names.
fn others_of_amy() -> [(&'static str, String); 3] {
    [
        ("another claim", token_with("amy", json!({"org": "two"}))),
        ("another role", token_with("amy", json!({"org": "one", "role": "auditor"}))),
        ("another token of hers", token_with("amy", json!({"org": "one", "jti": "b"}))),
    ]
}

/// Who follows the tasks of `one` is told what becomes of them.
async fn goes_on(rig: &Rig, socket: &mut Socket) {
    rig.run("INSERT INTO tasks VALUES (9, 'x', 'one')").await;
    assert_eq!(socket.push().await["record"]["id"], 9);
    rig.run("DELETE FROM tasks WHERE id = 9").await;
    assert_eq!(socket.push().await["id"], 9);
}

/// F-45: policies read claims, so whoever has others is somebody else, whatever the name.
#[tokio::test]
async fn f_45_who_comes_back_with_other_claims_goes_on_with_nothing() {
    let rig = Rig::start_with("{auth: {allowed_roles: [auditor]}}", &[]).await;
    rig.run(BY_CLAIMS).await;
    let ids = || query("tasks", json!({"selectedColumns": select(&["id"])}));
    let subscribe = || json!({"tag": "CreateDataSubscription", "query": ids()});
    let one = token_with("amy", json!({"org": "one"}));
    let seen = [json!([{"id": 2}]), json!([{"id": 3}]), json!([{"id": 1}])];
    for ((what, token), seen) in others_of_amy().into_iter().zip(seen) {
        // On a socket that is still there: it is not taken from whoever has it.
        let mut old = rig.connect_by(&one).await;
        let first = old.ask(subscribe()).await;
        assert_eq!(first["result"], json!([{"id": 1}]));
        let mut new = rig.connect_by(&token).await;
        let answer = new.resume(ids(), &first).await;
        assert_eq!((&answer["result"], answer.get("resumed")), (&seen, None), "{what}");
        goes_on(&rig, &mut old).await;
        // And behind its end.
        drop(old);
        let mut new = rig.connect_by(&token).await;
        let answer = new.resume(ids(), &first).await;
        assert_eq!((&answer["result"], answer.get("resumed")), (&seen, None), "{what}");
        // A token of the same claims is the same.
        let mut again = rig.connect_by(&token_with("amy", json!({"org": "one"}))).await;
        assert_eq!(again.resume(ids(), &first).await["resumed"], true, "{what}");
    }
}

/// The same of a login on a socket that follows results.
#[tokio::test]
async fn f_45_a_login_with_other_claims_ends_the_socket_that_follows_results() {
    let rig = Rig::start_with("{auth: {allowed_roles: [auditor]}}", &[]).await;
    rig.run(BY_CLAIMS).await;
    for (what, token) in others_of_amy() {
        let mut amy = rig.connect_by(&token_with("amy", json!({"org": "one"}))).await;
        amy.subscribe(query("tasks", json!({}))).await;
        let renewed = token_with("amy", json!({"org": "one"}));
        let login = amy.ask(json!({"tag": "LoginWithJWT", "jwt": renewed})).await;
        assert_eq!(login["tag"], "LoginSuccessful");
        // A token that is renewed is the same.
        goes_on(&rig, &mut amy).await;
        let login = amy.ask(json!({"tag": "LoginWithJWT", "jwt": token})).await;
        assert_eq!(login["tag"], "LoginSuccessful");
        rig.run("INSERT INTO tasks VALUES (9, 'x', 'one'); DELETE FROM tasks WHERE id = 9").await;
        assert_eq!(amy.receive_or_closed().await, Err(4401), "{what}");
    }
}

/// F-45: time alone ends the socket, and nothing that is committed later is told on it.
#[tokio::test]
async fn f_45_a_subscriber_whose_token_expires_is_told_nothing_more() {
    let rig = Rig::start().await;
    // An hour and a minute, of which 4 s are left.
    let left = Duration::from_secs(4);
    let ends = Clock::system().now() + left;
    let issued = ends - Duration::from_secs(3660);
    let token = token_at("amy", json!({}), Clock::new(move || issued));
    let mut amy = rig.connect_by(&token).await;
    amy.subscribe(query("tasks", json!({"selectedColumns": select(&["n"])}))).await;
    let write = async {
        let mut n = 0;
        loop {
            n += 1;
            let row = format!(
                "INSERT INTO tasks (id, owner, n) VALUES ({n}, 'amy', extract(epoch FROM clock_timestamp())::int)"
            );
            rig.run(&row).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let read = async {
        let mut told = 0;
        loop {
            match amy.receive_or_closed().await {
                Ok(event) => {
                    told += 1;
                    let written = event["record"]["n"].as_u64().expect("a number");
                    // Rounded to a second.
                    assert!(
                        written <= ends.as_secs() + 1,
                        "{written} is told, and it ended at {ends:?}"
                    );
                }
                Err(code) => break (told, code),
            }
        }
    };
    let (told, code) = tokio::select! { read = read => read, () = write => unreachable!() };
    assert!(told > 0, "it was followed until then");
    assert_eq!(code, 4401);
}

/// `datasync.md` 21 R: whoever comes back is told what has changed, not everything.
#[tokio::test]
async fn ds_21_a_client_that_comes_back_goes_on_where_it_was() {
    let rig = Rig::start().await;
    rig.run("INSERT INTO tasks (id, owner) VALUES (1, 'amy'), (2, 'amy'), (3, 'amy')").await;
    let all = || query("tasks", json!({"selectedColumns": select(&["id", "title"])}));
    let mut amy = rig.connect("amy").await;
    let first = amy.ask(json!({"tag": "CreateDataSubscription", "query": all()})).await;
    assert_eq!(first["result"].as_array().map(Vec::len), Some(3));
    rig.run("UPDATE tasks SET title = 'a' WHERE id = 1").await;
    let told = amy.push_at().await;
    assert_eq!((&told["changeSet"]["title"], told["lsn"].is_string()), (&json!("a"), true));
    drop(amy);
    rig.run("UPDATE tasks SET title = 'b' WHERE id = 2; DELETE FROM tasks WHERE id = 3").await;
    let mut amy = rig.connect("amy").await;
    let resumed = amy.resume(all(), &told).await;
    assert_eq!((&resumed["resumed"], resumed.get("result")), (&json!(true), None), "{resumed}");
    let id = resumed["subscriptionId"].clone();
    let mut tags = Vec::new();
    let mut last = resumed;
    for _ in 0..2 {
        last = amy.push_at().await;
        assert_eq!(last["subscriptionId"], id);
        tags.push((last["tag"].clone(), last["id"].clone()));
    }
    tags.sort_by_key(|(tag, _)| tag.to_string());
    assert_eq!(tags, [(json!("DidDelete"), json!(3)), (json!("DidUpdate"), json!(2))]);
    // Of what may not have come the rows are told whole, also those that went.
    drop(amy);
    let mut amy = rig.connect("amy").await;
    let had = json!({"subscriptionId": id, "lsn": first["lsn"]});
    let resumed = amy.resume(all(), &had).await;
    assert_eq!(resumed["resumed"], true, "{resumed}");
    let mut again = vec![amy.push().await, amy.push().await, amy.push().await];
    again
        .iter_mut()
        .for_each(|event| drop(event.as_object_mut().expect("one").remove("subscriptionId")));
    again.sort_by_key(Value::to_string);
    let record =
        |id: i32, title: &str| json!({"tag": "DidInsert", "record": {"id": id, "title": title}});
    assert_eq!(again, [json!({"id": 3, "tag": "DidDelete"}), record(1, "a"), record(2, "b")]);
    // And then what happens.
    rig.run("INSERT INTO tasks (id, owner, title) VALUES (4, 'amy', 'd')").await;
    assert_eq!(amy.push().await["record"], json!({"id": 4, "title": "d"}));
    // Nobody else, and no other query, goes on with it.
    let had = json!({"subscriptionId": resumed["subscriptionId"], "lsn": last["lsn"]});
    drop(amy);
    let mut bob = rig.connect("bob").await;
    assert_eq!(bob.resume(all(), &had).await["result"], json!([]));
    let mut amy = rig.connect("amy").await;
    let other = query("tasks", json!({"selectedColumns": select(&["id"])}));
    let answer = amy.resume(other, &had).await;
    assert_eq!(answer["result"].as_array().map(Vec::len), Some(3), "{answer}");
    let nonsense = json!({"subscriptionId": had["subscriptionId"], "lsn": "nonsense"});
    assert!(amy.resume(all(), &nonsense).await["result"].is_array());
    assert!(amy.resume(all(), &had).await["result"].is_array(), "it was asked for once");
}

/// A client whose network changed is back before its old socket is known to be dead.
#[tokio::test]
async fn ds_21_a_client_that_is_back_early_takes_over_from_its_old_socket() {
    let rig = Rig::start().await;
    let all = || query("tasks", json!({"selectedColumns": select(&["id"])}));
    let mut old = rig.connect("amy").await;
    let first = old.ask(json!({"tag": "CreateDataSubscription", "query": all()})).await;
    let mut new = rig.connect("amy").await;
    let resumed = new.resume(all(), &first).await;
    assert_eq!(resumed["resumed"], true, "{resumed}");
    assert_eq!(old.closed().await, None);
    rig.run("INSERT INTO tasks (id, owner) VALUES (1, 'amy')").await;
    assert_eq!(new.push().await["record"], json!({"id": 1}));
}

/// One user subscribes to all that he can and takes nothing: that is bounded, others are served, and all of it is given
/// back when his sockets have ended, and nobody has come back for what waited.
#[tokio::test]
async fn f_69_one_users_live_results_leave_room_to_others_and_are_given_back() {
    let config = "{limits: {live_memory: 8 MB}, datasync: {resume: 2 s}}";
    let rig = Rig::start_with(config, &[]).await;
    rig.run(
        "INSERT INTO tasks (id, owner) SELECT n, 'mal' FROM generate_series(1, 10000) n;
         INSERT INTO tasks (id, owner) VALUES (0, 'bob')",
    )
    .await;
    let few = json!({"selectedColumns": select(&["id"])});
    let mut sockets = Vec::new();
    let refused = loop {
        let mut mal = rig.connect("mal").await;
        let message =
            json!({"tag": "CreateDataSubscription", "query": query("tasks", few.clone())});
        let answer = mal.ask(message).await;
        if answer["tag"] != "DidCreateDataSubscription" {
            break answer;
        }
        sockets.push(mal);
    };
    assert_eq!(
        (&refused["tag"], &refused["code"]),
        (&json!("DataSyncError"), &json!("HW5414")),
        "{refused}"
    );
    assert!((1..=2).contains(&sockets.len()), "{}", sockets.len());
    assert!(rig.used("live_memory_bytes").await <= 2 << 20, "a quarter");
    let mut bob = rig.connect("bob").await;
    let (_, first) = bob.subscribe(query("tasks", few)).await;
    assert_eq!(first, json!([{"id": 0}]));
    rig.run("UPDATE tasks SET n = 1 WHERE owner = 'mal'; INSERT INTO tasks (id, owner) VALUES (-1, 'bob')").await;
    assert_eq!(bob.push().await["tag"], "DidInsert");
    assert!(rig.used("live_memory_bytes").await <= 3 << 20);
    drop(sockets);
    drop(bob);
    poll_until("nobody came back", async || {
        (rig.used("live_memory_bytes").await == 0).then_some(())
    })
    .await;
}

/// What JavaScript cannot count is a text, in keys and in rows, and is computed from the log as everything else is.
#[tokio::test]
async fn ds_7_numbers_that_are_texts_are_told_by_plans() {
    let rig = Rig::start_with("{datasync: {bigint: string}}", &[]).await;
    rig.run(
        "CREATE TABLE bills (id int8 PRIMARY KEY, total numeric, note text);
         ALTER TABLE bills ENABLE ROW LEVEL SECURITY;
         CREATE POLICY all_of_it ON bills FOR SELECT USING (true);
         GRANT SELECT ON bills TO headwater_authenticated;
         INSERT INTO bills VALUES (9007199254740993, 1.50, 'a')",
    )
    .await;
    let mut amy = rig.connect("amy").await;
    let (_, first) = amy.subscribe(query("bills", json!({}))).await;
    let bill = |total: &str| json!({"id": "9007199254740993", "total": total, "note": "a"});
    assert_eq!(first, json!([bill("1.50")]));
    rig.is_planned(1).await;
    rig.run("UPDATE bills SET total = total * 2; INSERT INTO bills VALUES (-1, 'NaN', NULL)").await;
    // Rows of one commit are told in any order.
    let mut told = [amy.push().await, amy.push().await];
    told.sort_by_key(|told| told["tag"].to_string());
    assert_eq!(told[0]["record"], json!({"id": "-1", "total": "NaN", "note": null}));
    assert_eq!(
        (&told[1]["id"], &told[1]["changeSet"]),
        (&json!("9007199254740993"), &json!({"total": "3.00"})),
        "{told:?}"
    );
}

/// P6: live or loud. What Postgres does not answer is told with how far results are behind.
#[tokio::test]
async fn p_6_operators_are_told_that_live_results_are_behind() {
    let rig = Rig::start_with("{}", &["HW4307"]).await;
    rig.run(
        "CREATE FUNCTION slow() RETURNS bool STABLE LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
         CREATE TABLE slow (id int4 PRIMARY KEY);
         ALTER TABLE slow ENABLE ROW LEVEL SECURITY;
         CREATE POLICY slow ON slow FOR SELECT USING (slow());
         GRANT SELECT ON slow TO headwater_authenticated;
         INSERT INTO slow VALUES (1)",
    )
    .await;
    let mut amy = rig.connect("amy").await;
    amy.subscribe(query("slow", json!({}))).await;
    assert_eq!(rig.status().await["live"]["results"], 1);
    rig.run(
        "CREATE OR REPLACE FUNCTION slow() RETURNS bool STABLE LANGUAGE plpgsql AS \
         'BEGIN PERFORM pg_sleep(600); RETURN true; END'",
    )
    .await;
    let told = poll_until("it is told", async || {
        rig.status().await["trouble"].as_str().filter(|it| it.contains("HW4307")).map(str::to_owned)
    })
    .await;
    assert!(told.contains("live results are"), "{told}");
    assert!(rig.status().await["live"]["behind_seconds"].as_f64() >= Some(10.0));
}

/// What depends on a table beside whose changes Postgres does not log is asked each second, and the table named with
/// the reason.
#[tokio::test]
async fn p_6_operators_are_told_which_tables_live_results_cannot_follow() {
    let rig = Rig::start_with("{datasync: {resume: 1 s}}", &["HW4308"]).await;
    rig.run(
        "CREATE UNLOGGED TABLE drafts (id int4 PRIMARY KEY);
         GRANT SELECT ON drafts TO headwater_authenticated;
         CREATE TABLE papers (id int4 PRIMARY KEY);
         ALTER TABLE papers ENABLE ROW LEVEL SECURITY;
         CREATE POLICY drafted ON papers FOR SELECT USING (id IN (SELECT id FROM drafts));
         GRANT SELECT ON papers TO headwater_authenticated;
         INSERT INTO papers VALUES (1)",
    )
    .await;
    let mut amy = rig.connect("amy").await;
    amy.subscribe(query("papers", json!({}))).await;
    rig.run("INSERT INTO drafts VALUES (1)").await;
    assert_eq!(amy.push().await["record"], json!({"id": 1}));
    let told = poll_until("it is told", async || {
        rig.status().await["trouble"].as_str().filter(|it| it.contains("HW4308")).map(str::to_owned)
    })
    .await;
    assert!(told.contains("public.drafts"), "{told}");
    drop(amy);
    poll_until("it is over", async || rig.status().await["trouble"].is_null().then_some(())).await;
}
