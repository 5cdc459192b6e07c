//! `setup` as a process.

use std::process::{Command, Output, Stdio};

use hw_testkit::Cluster;

/// Runs the program, with a database or none.
pub fn headwater(arguments: &[&str], url: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.args(arguments).stdin(Stdio::null());
    if let Some(url) = url {
        command.env("DATABASE_URL", url);
    }
    command.output().expect("the program runs")
}

/// What it wrote.
pub fn text(bytes: &[u8]) -> String {
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
