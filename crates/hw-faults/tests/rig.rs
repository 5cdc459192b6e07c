//! A database, a server process on it, and clients.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hw_auth::{Clock, Secret, token};
use hw_testkit::oracle::SyncClient;
use hw_testkit::server::{OPERATOR, http_get};
use hw_testkit::{Cluster, ClusterOptions, HeadwaterProcess, ProcessOptions, TestDatabase};
use serde_json::{Map, Value};
use tokio_postgres::Client;

/// The secret of all servers here.
pub const SECRET: &str = "a secret of the fault tests, long enough";

/// Lists of owners and what is on them.
pub const SCHEMA: &str = "
    CREATE TABLE lists (id text PRIMARY KEY, owner text);
    CREATE TABLE todos (id text PRIMARY KEY, list text, body text, n int8);
    INSERT INTO lists VALUES ('l1', 'amy'), ('l2', 'amy'), ('l3', 'bob');
    INSERT INTO todos SELECT 't' || i, 'l' || 1 + i % 4, 'body ' || i, i FROM generate_series(1, 200) i;
";

/// A user's lists and todos.
pub const CONFIG: &str = "
bucket_definitions:
  lists:
    parameters: SELECT request.user_id() AS owner
    data:
      - SELECT * FROM lists WHERE owner = bucket.owner
  todos:
    parameters: SELECT id AS list FROM lists WHERE owner = request.user_id()
    data:
      - SELECT * FROM todos WHERE list = bucket.list
";

/// The binary: `HEADWATER_BIN`, else the one that was built beside this test.
///
/// - Panics: if it is not there; a test of this crate builds nothing.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("HEADWATER_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a test has a path");
    let path = test.parent().and_then(Path::parent).expect("target/…/deps").join("headwater");
    assert!(
        path.exists(),
        "{} is missing: build it first with `cargo build --package headwater` (or name another \
         one in HEADWATER_BIN)",
        path.display()
    );
    path
}

/// A token of an hour.
pub fn issue(subject: &str, claims: &Map<String, Value>) -> String {
    issue_for(subject, claims, Duration::from_secs(3600))
}

/// A token of a given life.
pub fn issue_for(subject: &str, claims: &Map<String, Value>, life: Duration) -> String {
    let secret = Secret::parse(SECRET).expect("the secret is one");
    token::issue(&secret, subject, life, claims, &[], &Clock::system())
}

/// A token of one minute that ended so long ago.
pub fn issue_expired(subject: &str, ago: Duration) -> String {
    let secret = Secret::parse(SECRET).expect("the secret is one");
    let life = Duration::from_secs(60);
    let then = Clock::new(move || Clock::system().now() - ago - life);
    token::issue(&secret, subject, life, &Map::new(), &[], &then)
}

/// A cluster that `doctor` has nothing to say about.
pub fn cluster() -> Cluster {
    cluster_with(&[])
}

/// The same with further settings.
pub fn cluster_with(settings: &[(&str, &str)]) -> Cluster {
    let mut all = vec![("max_slot_wal_keep_size", "20GB")];
    all.extend_from_slice(settings);
    Cluster::start_with(ClusterOptions { settings: &all, ..ClusterOptions::default() })
}

/// A database with a schema, and a directory for one server.
pub struct Rig {
    pub cluster: Cluster,
    pub database: TestDatabase,
    pub sql: Client,
    pub directory: tempfile::TempDir,
}

impl Rig {
    pub async fn new(schema: &str, config: &str) -> Rig {
        Rig::on(cluster(), schema, config).await
    }

    pub async fn on(cluster: Cluster, schema: &str, config: &str) -> Rig {
        let database = cluster.create_database().await;
        let sql = cluster.client(&database.name).await;
        sql.batch_execute(schema).await.expect("the schema is made");
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("sync.yaml"), config).expect("written");
        Rig { cluster, database, sql, directory }
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// `serve` on the database with data in the rig's directory.
    pub fn options(&self) -> ProcessOptions {
        ProcessOptions {
            binary: binary(),
            arguments: vec!["serve".into()],
            environment: vec![
                ("DATABASE_URL".into(), self.database.url.clone()),
                ("HEADWATER_DATA_DIR".into(), self.path("data")),
                ("HEADWATER_SYNC_CONFIG".into(), self.path("sync.yaml")),
                ("HEADWATER_JWT_SECRET".into(), SECRET.into()),
            ],
            // No test here but those of uploads sets them up, and the server says so.
            allowed_log: vec!["HW4301".into()],
        }
    }

    /// The same with limits and other settings in a file.
    pub fn options_with(&self, yaml: &str) -> ProcessOptions {
        let path = self.path("headwater.yaml");
        std::fs::write(&path, yaml).expect("written");
        with(self.options(), "HEADWATER_CONFIG", &path)
    }

    pub async fn start(&self) -> HeadwaterProcess {
        HeadwaterProcess::start(self.options()).await
    }

    pub async fn execute(&self, sql: &str) {
        self.sql.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// The first column of the first row, as text.
    pub async fn ask(&self, sql: &str) -> Option<String> {
        ask(&self.sql, sql).await
    }

    /// What SQL says the todos of a user are.
    pub async fn todos(&self, user: &str) -> std::collections::BTreeMap<String, Value> {
        let sql = "SELECT id, to_json(t)::text FROM todos t
                   WHERE list IN (SELECT id FROM lists WHERE owner = $1)";
        let rows = self.sql.query(sql, &[&user]).await.expect("asked");
        rows.iter()
            .map(|row| (row.get(0), serde_json::from_str(row.get(1)).expect("JSON of Postgres")))
            .collect()
    }

    /// Lets a client catch up and compares it with SQL; then a fresh one, too.
    pub async fn check(&self, client: &mut SyncClient, server: &HeadwaterProcess, user: &str) {
        caught_up(client, server).await;
        assert_eq!(client.table("todos"), self.todos(user).await, "{user}");
        let mut fresh = SyncClient::new(&client.token, &client.client_id);
        caught_up(&mut fresh, server).await;
        assert_eq!(fresh.table("todos"), self.todos(user).await, "{user}, a fresh client");
    }
}

/// A database, its server, and amy, who has all that is hers.
pub async fn served(schema: &str, config: &str) -> (Rig, HeadwaterProcess, SyncClient) {
    let rig = Rig::new(schema, config).await;
    let server = rig.start().await;
    let mut amy = client("amy");
    rig.check(&mut amy, &server, "amy").await;
    (rig, server, amy)
}

/// The first column of the first row, as text.
pub async fn ask(sql: &Client, query: &str) -> Option<String> {
    let rows = sql.simple_query(query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
    rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}

/// Adds or replaces a variable.
pub fn with(mut options: ProcessOptions, name: &str, value: &str) -> ProcessOptions {
    options.environment.retain(|(known, _)| known != name);
    options.environment.push((name.into(), value.into()));
    options
}

/// Lets ERROR and WARN lines with these parts pass.
pub fn allowing(mut options: ProcessOptions, parts: &[&str]) -> ProcessOptions {
    options.allowed_log.extend(parts.iter().map(|part| (*part).to_owned()));
    options
}

/// A client of a user.
pub fn client(user: &str) -> SyncClient {
    SyncClient::new(&issue(user, &Map::new()), &format!("client-of-{user}"))
}

/// Catches up with everything committed, failing the test after the limit.
pub async fn caught_up(client: &mut SyncClient, server: &HeadwaterProcess) {
    let caught = client.catch_up(server.address());
    hw_testkit::wait::within_limit("a client has caught up", caught)
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", server.log()));
}

/// The server's own report.
pub async fn status(server: &HeadwaterProcess) -> Option<Value> {
    let answer = http_get(server.address(), "/admin/api/status", &OPERATOR).await.ok()?;
    serde_json::from_str(&answer.body).ok()
}

/// What a gauge or counter without labels says.
pub async fn metric(server: &HeadwaterProcess, name: &str) -> Option<f64> {
    let answer = http_get(server.address(), "/metrics", &OPERATOR).await.ok()?;
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    answer.body.lines().find_map(value)
}

/// Waits until the report satisfies a condition.
pub async fn until_status(what: &str, server: &HeadwaterProcess, is: impl Fn(&Value) -> bool) {
    hw_testkit::poll_until(what, || async { status(server).await.filter(|s| is(s)).map(drop) })
        .await;
}
