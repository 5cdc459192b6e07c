//! `docs/sync-config.md`: its examples compile against its tables, and what it calls refused is.

use std::fs;
use std::path::Path;

use super::setup::{headwater, text};
use hw_expr::sync_config::SyncConfig;
use hw_testkit::Cluster;

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/sync-config.md");
    fs::read_to_string(path).expect("the page")
}

/// The blocks of one language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let parts = page.split(&fence).skip(1);
    parts.map(|part| part.split("```").next().expect("a block").to_owned()).collect()
}

#[tokio::test]
async fn fd_70_the_examples_of_the_page_say_nothing_wrong_about_its_tables() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    let page = page();
    for sql in blocks(&page, "sql") {
        client.batch_execute(&sql).await.expect("the page's tables");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("sync.yaml");
    let examples = blocks(&page, "yaml");
    assert!(examples.len() >= 6, "the page has its examples");
    for example in examples {
        fs::write(&file, &example).expect("written");
        let name = file.to_str().expect("unicode");
        let output = headwater(&["check", "--strict", name], Some(&database.url));
        assert_eq!(output.status.code(), Some(0), "{example}\n{}", text(&output.stdout));
    }
}

#[test]
fn fd_70_what_the_page_calls_refused_is_refused_with_a_way_out() {
    let page = page();
    let (_, table) = page.split_once("## What is refused").expect("the section");
    let written = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let mut count = 0;
    for (query, _) in written {
        let query = serde_json::to_string(query).expect("a text");
        let file = format!("config: {{edition: 3}}\nstreams: {{s: {{query: {query}}}}}\n");
        let loaded = SyncConfig::load(&file, "sync.yaml", None);
        assert!(loaded.config.is_none(), "{query}");
        count += 1;
    }
    assert!(count >= 10, "the table is read");
}
