//! `setup`, `check` and `eval` as processes.

use std::process::{Command, Output, Stdio};

use hw_testkit::Cluster;

fn headwater(arguments: &[&str], url: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.args(arguments).stdin(Stdio::null());
    if let Some(url) = url {
        command.env("DATABASE_URL", url);
    }
    command.output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn setup_changes_nothing_unasked_and_the_same_twice() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    let there = async || -> bool {
        let sql = "SELECT to_regclass('headwater.rejected_writes') IS NOT NULL";
        client.query_one(sql, &[]).await.expect("asked").get(0)
    };
    let unasked = headwater(&["setup"], Some(&database.url));
    assert_eq!(unasked.status.code(), Some(1));
    assert!(text(&unasked.stderr).contains("CREATE SCHEMA IF NOT EXISTS headwater"));
    assert!(!there().await, "nothing is run without a yes");

    let printed = headwater(&["setup", "--print"], Some(&database.url));
    assert_eq!(printed.status.code(), Some(0));
    assert!(!there().await, "printing runs nothing");

    for _ in 0..2 {
        let output = headwater(&["setup", "--yes"], Some(&database.url));
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(there().await);
    }
    client
        .batch_execute(
            "DROP SCHEMA headwater CASCADE;
             DROP OWNED BY headwater_authenticated;
             DROP ROLE headwater_authenticated",
        )
        .await
        .expect("dropped");
    client.batch_execute(&text(&printed.stdout)).await.expect("the printed SQL is a script");
    assert!(there().await);
}

#[tokio::test]
async fn a_change_of_a_table_leaves_a_marker_in_the_log_after_setup() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let output = headwater(&["setup", "--yes"], Some(&database.url));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let client = cluster.client(&database.name).await;
    client
        .batch_execute(
            "SELECT pg_create_logical_replication_slot('probe', 'test_decoding');
             CREATE TABLE t (id int PRIMARY KEY);
             ALTER TABLE t ADD COLUMN a text",
        )
        .await
        .expect("changed");
    let sql = "SELECT count(*) FROM pg_logical_slot_get_changes('probe', NULL, NULL)
               WHERE data LIKE '%prefix: headwater_ddl%'";
    let markers: i64 = client.query_one(sql, &[]).await.expect("read").get(0);
    assert_eq!(markers, 2);
}

#[tokio::test]
async fn check_prints_every_finding_with_its_place_and_knows_the_databases_tables() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("sync.yaml");
    let name = file.to_str().expect("unicode");
    let write = |query: &str| {
        let text = format!(
            "config:\n  edition: 3\nstreams:\n  s:\n    auto_subscribe: true\n    query: {query}\n"
        );
        std::fs::write(&file, text).expect("written");
    };
    write("SELECT * FROM lists WHERE onwer_id = auth.user_id()");
    let alone = headwater(&["check", name], None);
    assert_eq!(alone.status.code(), Some(0), "{}", text(&alone.stdout));

    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    client
        .batch_execute("CREATE TABLE lists (id uuid PRIMARY KEY, owner_id text)")
        .await
        .expect("made");
    let informed = headwater(&["check", name], Some(&database.url));
    let said = text(&informed.stdout);
    assert!(said.contains("onwer_id") && said.contains("owner_id"), "{said}");
    assert!(said.contains(&format!("{name}:6:")), "{said}");

    write("SELECT FROM WHERE");
    let broken = headwater(&["check", name], None);
    assert_eq!(broken.status.code(), Some(1));
    assert!(text(&broken.stdout).contains("error[HW1"), "{}", text(&broken.stdout));
}

#[test]
fn eval_answers_one_line_for_each_case() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("cases.jsonl");
    let yaml = "config:\\n  edition: 3\\nstreams:\\n  s:\\n    auto_subscribe: true\\n    query: SELECT * FROM t\\n";
    let case = |id: &str| {
        format!(
            r#"{{"id":"{id}","yaml":"{yaml}","rows":[{{"table":"t","row":{{"id":"1"}}}}],"requests":[]}}"#
        )
    };
    std::fs::write(&file, format!("{}\n\n{}\n", case("one"), case("two"))).expect("written");
    let output = headwater(&["eval", file.to_str().expect("unicode")], None);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let answers: Vec<serde_json::Value> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("an answer is JSON"))
        .collect();
    let ids: Vec<&str> = answers.iter().filter_map(|answer| answer["id"].as_str()).collect();
    assert_eq!(ids, ["one", "two"]);
    assert_eq!(answers[0]["accepted"], true, "{}", answers[0]);

    std::fs::write(&file, "not json\n").expect("written");
    let output = headwater(&["eval", file.to_str().expect("unicode")], None);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("line 1"));
}
