//! `dev` as a process: a private Postgres, the sample, a client's stream, a second run, `--reset`.

use futures_util::StreamExt as _;
use hw_testkit::server::http_get;
use hw_testkit::{HeadwaterProcess, ProcessOptions, wait};
use serde_json::{Value, json};

fn options(directory: &std::path::Path) -> ProcessOptions {
    let data_dir = directory.join(".headwater").display().to_string();
    ProcessOptions {
        binary: env!("CARGO_BIN_EXE_headwater").into(),
        arguments: vec!["dev".into(), "--data-dir".into(), data_dir],
        environment: Vec::new(),
        allowed_log: Vec::new(),
    }
}

/// A client's stream as lines of JSON.
struct Lines {
    body: std::pin::Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<bytes::Bytes>>>>,
    rest: Vec<u8>,
}

impl Lines {
    async fn open(process: &HeadwaterProcess) -> Lines {
        let answer = http_get(process.address(), "/admin/api/dev-token", &[]).await.expect("asked");
        let token: Value = serde_json::from_str(&answer.body).expect("a token");
        let response = reqwest::Client::new()
            .post(format!("{}/sync/stream", process.url()))
            .bearer_auth(token["token"].as_str().expect("text"))
            .json(&json!({ "buckets": [], "include_checksum": true, "raw_data": true, "client_id": "c" }))
            .send()
            .await
            .expect("sent");
        assert_eq!(response.status(), 200);
        Lines { body: Box::pin(response.bytes_stream()), rest: Vec::new() }
    }

    /// The next line for which `wanted` gives an answer.
    async fn until<T>(&mut self, what: &str, wanted: impl Fn(&Value) -> Option<T>) -> T {
        let search = async {
            loop {
                while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = self.rest.drain(..=end).collect();
                    let line: Value = serde_json::from_slice(&line).expect("a line of JSON");
                    if let Some(found) = wanted(&line) {
                        return found;
                    }
                }
                let chunk = self.body.next().await.expect("the stream goes on").expect("bytes");
                self.rest.extend_from_slice(&chunk);
            }
        };
        wait::within_limit(what, search).await
    }
}

fn url_of(process: &HeadwaterProcess, directory: &std::path::Path) -> String {
    let pass = std::fs::read_to_string(directory.join(".headwater/postgres.pass")).expect("there");
    let fields: Vec<&str> = pass.trim().split(':').collect();
    assert!(!process.log().contains(fields[4]), "the password is not said");
    format!("postgres://{}:{}@{}:{}/sample", fields[3], fields[4], fields[0], fields[1])
}

#[tokio::test]
async fn a_change_in_the_private_postgres_reaches_a_client() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let directory = tempfile::tempdir().expect("a directory");
    let mut process = HeadwaterProcess::start(options(directory.path())).await;
    process.until_log("  psql    PGPASSFILE=").await;

    let mut lines = Lines::open(&process).await;
    let buckets = lines
        .until("a first checkpoint", |line| line["checkpoint"]["buckets"].as_array().map(Vec::len))
        .await;
    assert!(buckets > 0, "the sample's user has buckets");
    lines.until("it is complete", |line| line.get("checkpoint_complete").map(drop)).await;

    let client = hw_testkit::cluster::connect(&url_of(&process, directory.path())).await;
    let list: String = client
        .query_one(
            "INSERT INTO lists (owner_id, name) VALUES ('ada', 'written in psql') RETURNING id::text",
            &[],
        )
        .await
        .expect("written")
        .get(0);
    lines
        .until("the new list", |line| {
            let rows = line["data"]["data"].as_array()?;
            rows.iter().find(|row| row["object_id"] == list.as_str()).map(drop)
        })
        .await;
    drop(client);
    process.stop().await;
    // A stop ends streams between lines, not in the middle of one.
    while let Some(chunk) = lines.body.next().await {
        lines.rest.extend_from_slice(&chunk.expect("the stream ends by itself"));
    }
    assert!(lines.rest.is_empty() || lines.rest.ends_with(b"\n"));
    let pid =
        std::fs::read_to_string(directory.path().join(".headwater/postgres/data/postmaster.pid"));
    assert!(pid.is_err(), "the private Postgres was stopped");
}

/// Lists in the private Postgres with the name that [`leave_a_trace`] gives.
async fn traces(process: &HeadwaterProcess, directory: &std::path::Path) -> i64 {
    let client = hw_testkit::cluster::connect(&url_of(process, directory)).await;
    let sql = "SELECT count(*) FROM lists WHERE name = 'left by an earlier run'";
    client.query_one(sql, &[]).await.expect("asked").get(0)
}

async fn leave_a_trace(process: &HeadwaterProcess, directory: &std::path::Path) {
    let client = hw_testkit::cluster::connect(&url_of(process, directory)).await;
    let sql = "INSERT INTO lists (owner_id, name) VALUES ('ada', 'left by an earlier run')";
    client.batch_execute(sql).await.expect("written");
}

#[tokio::test]
async fn a_second_run_keeps_the_data_and_reset_starts_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let kept = |name: &str| directory.path().join(".headwater").join(name);
    let read = |name: &str| std::fs::read_to_string(kept(name)).expect("kept");
    let mut process = HeadwaterProcess::start(options(directory.path())).await;
    leave_a_trace(&process, directory.path()).await;
    process.stop().await;
    let (secret, sync) = (read("dev-secret"), read("sync.yaml"));
    std::fs::write(kept("sync.yaml"), format!("# mine\n{sync}")).expect("written");

    process.spawn_again();
    process.until_ready().await;
    assert_eq!(traces(&process, directory.path()).await, 1);
    process.stop().await;
    assert_eq!(read("dev-secret"), secret);
    assert!(read("sync.yaml").starts_with("# mine"));

    let mut anew = options(directory.path());
    anew.arguments.push("--reset".into());
    let mut process = HeadwaterProcess::start(anew).await;
    assert_eq!(traces(&process, directory.path()).await, 0);
    assert_ne!(read("dev-secret"), secret, "tokens of earlier runs are void");
    assert_eq!(read("sync.yaml"), sync);
    process.stop().await;
}

#[tokio::test]
async fn a_reset_with_the_users_own_database_is_refused_before_anything_is_deleted() {
    let directory = tempfile::tempdir().expect("a directory");
    let secret = directory.path().join(".headwater/dev-secret");
    std::fs::create_dir(directory.path().join(".headwater")).expect("made");
    std::fs::write(&secret, "kept").expect("written");
    let mut options = options(directory.path());
    let own = "postgres://nobody@127.0.0.1:1/none";
    options.arguments.extend(["--reset", "--database-url", own].map(str::to_owned));
    let mut process = HeadwaterProcess::spawn(options);
    assert_eq!(process.wait_exit().await.code(), Some(2));
    let said = process.log();
    assert!(said.contains("'--reset' cannot be used with '--database-url"), "{said}");
    assert_eq!(std::fs::read_to_string(&secret).expect("still there"), "kept");
}

#[tokio::test]
async fn the_client_command_is_the_official_sdk_with_a_token_that_the_server_takes() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut process = HeadwaterProcess::start(options(directory.path())).await;
    let line = process.until_log("  client  ").await;
    let token = process.until_log("          --token \"$(").await;
    // This test runs in a checkout, which has the example client.
    let command = line.trim().trim_start_matches("client").trim();
    let (program, arguments) = command.split_once(' ').expect("a program and arguments");
    assert!(program.ends_with("conformance/client") && std::path::Path::new(program).is_file());
    assert_eq!(arguments, format!("--endpoint {} \\", process.url()));
    // The shell makes the token as it would for a person.
    let word = token.trim().strip_prefix("--token ").expect("the option");
    let mut shell = std::process::Command::new("sh");
    let shell = shell.args(["-c", &format!("printf %s {word}")]).output().expect("a shell");
    let bearer = format!("Bearer {}", String::from_utf8_lossy(&shell.stdout));
    let headers = [("authorization", bearer.as_str())];
    let path = "/write-checkpoint2.json?client_id=c";
    let answer = http_get(process.address(), path, &headers).await.expect("answered");
    assert_eq!(answer.status, 200, "{}", answer.body);
    process.stop().await;
}

/// The table of section 12: a browser gets the page, a program a sentence, and the page may be any user.
#[tokio::test]
async fn the_page_is_for_browsers_and_acts_as_the_user_that_it_is_asked_to_be() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut process = HeadwaterProcess::start(options(directory.path())).await;
    let get = async |path: &str, headers: &[(&str, &str)]| {
        http_get(process.address(), path, headers).await.expect("answered").body
    };
    assert!(get("/", &[("accept", "text/html")]).await.starts_with("<!doctype html>"));
    assert!(get("/", &[("accept", "*/*")]).await.starts_with("Headwater "));
    let session = async |query: &str| -> Value {
        let body = get(&format!("/admin/api/dev-token{query}"), &[]).await;
        serde_json::from_str(&body).expect("a session")
    };
    let first = session("").await;
    assert_eq!((&first["sub"], &first["users"]), (&json!("ada"), &json!(["ada", "ben", "cleo"])));
    assert!(first["psql"].as_str().expect("a command").starts_with("PGPASSFILE="));
    let other = session("?sub=ben").await;
    let bearer = format!("Bearer {}", other["token"].as_str().expect("a token"));
    let path = "/write-checkpoint2.json?client_id=c";
    let headers = [("authorization", bearer.as_str())];
    let answer = http_get(process.address(), path, &headers).await.expect("answered");
    assert_eq!((answer.status, &other["sub"]), (200, &json!("ben")));
    process.stop().await;
}

#[tokio::test]
async fn killing_dev_takes_its_postgres_with_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut process = HeadwaterProcess::start(options(directory.path())).await;
    process.kill();
    let pid_file = directory.path().join(".headwater/postgres/data/postmaster.pid");
    hw_testkit::poll_until("Postgres has ended", || async { (!pid_file.exists()).then_some(()) })
        .await;
}

#[tokio::test]
async fn an_end_that_is_asked_for_before_everything_is_up_is_heard_and_the_next_run_goes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut first = HeadwaterProcess::spawn(options(directory.path()));
    first.until_log("making a private Postgres").await;
    first.stop().await;
    assert!(first.log().contains("stopping before everything is up"), "{}", first.log());

    let mut opening = options(directory.path());
    opening.environment.push(("HEADWATER_FAILPOINT".into(), "writer::open:1:hang".into()));
    opening.allowed_log.push("failpoint".into());
    let mut opening = HeadwaterProcess::spawn(opening);
    opening.until_log("loading the sample data").await;
    opening.until_log("failpoint reached").await;
    opening.signal(libc::SIGINT);
    assert_eq!(opening.wait_exit().await.code(), Some(0));

    HeadwaterProcess::start(options(directory.path())).await.stop().await;
}

#[tokio::test]
async fn the_users_own_database_is_not_changed_without_a_yes() {
    let cluster = hw_testkit::Cluster::start();
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    client.batch_execute("CREATE TABLE t (id text PRIMARY KEY)").await.expect("made");
    let directory = tempfile::tempdir().expect("a directory");
    let sync = directory.path().join("sync.yaml");
    let text = "config:\n  edition: 3\nstreams:\n  all:\n    auto_subscribe: true\n    \
                query: SELECT * FROM t\n";
    std::fs::write(&sync, text).expect("written");
    let own = |yes: bool| {
        let mut options = options(directory.path());
        let sync = sync.display().to_string();
        options.arguments.extend(["--database-url".into(), database.url.clone()]);
        options.arguments.extend(["--sync-config".into(), sync]);
        options.arguments.extend(yes.then(|| "--yes".into()));
        options
    };
    let count =
        async |sql: &str| -> i64 { client.query_one(sql, &[]).await.expect("asked").get(0) };
    let changes = "SELECT (SELECT count(*) FROM pg_publication) + \
                   (SELECT count(*) FROM pg_replication_slots) + \
                   (SELECT count(*) FROM pg_namespace WHERE nspname = 'headwater')";

    let mut asked = HeadwaterProcess::spawn(own(false));
    assert_eq!(asked.wait_exit().await.code(), Some(1));
    let said = asked.log();
    for shown in ["CREATE PUBLICATION", "pg_create_logical_replication_slot", "nothing was changed"]
    {
        assert!(said.contains(shown), "{shown} in {said}");
    }
    assert_eq!(count(changes).await, 0);

    let mut process = HeadwaterProcess::start(own(true)).await;
    assert_eq!(count(changes).await, 3);
    assert!(process.log().contains("CREATE SCHEMA headwater"), "shown before it ran");
    process.stop().await;
}
