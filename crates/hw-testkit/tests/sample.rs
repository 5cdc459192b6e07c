//! The sample loads into every major, is the same everywhere, and its policies show each user what
//! they should.

use hw_testkit::{Cluster, ClusterOptions};
use tokio_postgres::Client;

#[path = "../../headwater/src/sample.rs"]
mod source;

async fn load(client: &Client, scale: u32) {
    client.batch_execute(source::SCHEMA).await.unwrap();
    client.batch_execute(source::POLICIES).await.unwrap();
    for statement in source::statements(scale) {
        client.batch_execute(&statement.sql).await.unwrap_or_else(|error| {
            panic!("{:?}: {error:?}", statement.table);
        });
    }
}

async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// A hash over every row of every table, in the order of keys.
async fn fingerprint(client: &Client) -> Vec<(String, i64, String)> {
    let mut prints = Vec::new();
    for table in source::TABLES {
        let sql = format!(
            "SELECT count(*), coalesce(md5(string_agg(t::text, '|' ORDER BY id)), '') FROM {table} AS t"
        );
        let row = client.query_one(&sql, &[]).await.unwrap();
        prints.push((table.to_owned(), row.get(0), row.get(1)));
    }
    prints
}

/// Runs a query as a user of the application: as Headwater does, by role and claims.
async fn count_as(client: &mut Client, claims: &str, sql: &str) -> i64 {
    let transaction = client.transaction().await.unwrap();
    transaction
        .execute("SELECT set_config('role', 'headwater_authenticated', true), set_config('request.jwt.claims', $1, true)", &[&claims])
        .await
        .unwrap();
    transaction.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn the_sample_is_the_same_in_every_major() {
    let mut first: Option<Vec<(String, i64, String)>> = None;
    for major in hw_testkit::majors() {
        let cluster =
            Cluster::start_with(ClusterOptions { major: Some(major), ..Default::default() });
        let client = cluster.client("postgres").await;
        client.batch_execute("SET timezone TO 'UTC'").await.unwrap();
        load(&client, 1).await;
        let prints = fingerprint(&client).await;
        let rows: i64 = prints.iter().map(|(_, rows, _)| rows).sum();
        assert_eq!(rows, 1_091, "{prints:?}");
        assert_eq!(first.get_or_insert_with(|| prints.clone()), &prints, "Postgres {major}");
    }
}

#[tokio::test]
async fn a_larger_scale_only_adds_rows() {
    let cluster = Cluster::start();
    let small = cluster.create_database().await;
    let small = cluster.client(&small.name).await;
    load(&small, 1).await;
    let ids = |table: &str| {
        format!(
            "SELECT coalesce(string_agg(t::text, '|' ORDER BY id), '') FROM {table} AS t WHERE id = ANY($1::text[]::uuid[])"
        )
    };
    let large = cluster.create_database().await;
    let large = cluster.client(&large.name).await;
    large.batch_execute(source::SCHEMA).await.unwrap();
    for statement in source::statements(5) {
        large.batch_execute(&statement.sql).await.unwrap();
    }
    for table in source::TABLES {
        let keys: Vec<String> = small
            .query(&format!("SELECT id::text FROM {table}"), &[])
            .await
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect();
        let in_small: String = small.query_one(&ids(table), &[&keys]).await.unwrap().get(0);
        let in_large: String = large.query_one(&ids(table), &[&keys]).await.unwrap().get(0);
        assert_eq!(in_small, in_large, "{table}");
        assert_eq!(
            number(&large, &format!("SELECT count(*) FROM {table}")).await,
            5 * keys.len() as i64
        );
    }
}

#[tokio::test]
async fn policies_show_each_user_what_they_should() {
    let cluster = Cluster::start();
    let mut client = cluster.client("postgres").await;
    load(&client, 1).await;
    let ada = format!(r#"{{"sub": "{}"}}"#, source::USER);
    let ada = ada.as_str();
    let staff = r#"{"sub": "zoe", "app_metadata": {"role": "staff"}}"#;
    let nobody = "";
    for (claims, sql, expected) in [
        (ada, "SELECT count(*) FROM lists WHERE owner_id = 'ada'", 2),
        (ada, "SELECT count(*) FROM lists WHERE owner_id <> 'ada' AND NOT is_public", 0),
        (
            ada,
            "SELECT count(*) FROM todos WHERE list_id IN (SELECT id FROM lists WHERE owner_id = 'ada')",
            12,
        ),
        (ada, "SELECT count(*) FROM organisations", 3),
        (ada, "SELECT count(*) FROM members", 24),
        (ada, "SELECT count(*) FROM projects", 9),
        (ada, "SELECT count(*) FROM issues", 153),
        (ada, "SELECT count(*) FROM people", 1),
        (ada, "SELECT count(*) FROM phone_numbers", 2),
        (staff, "SELECT count(*) FROM people", 40),
        (staff, "SELECT count(*) FROM phone_numbers", 60),
        (staff, "SELECT count(*) FROM issues", 0),
        (staff, "SELECT count(*) FROM lists WHERE NOT is_public", 0),
        (nobody, "SELECT count(*) FROM organisations", 0),
        (nobody, "SELECT count(*) FROM lists", 3),
        (nobody, "SELECT count(*) FROM companies", 8),
        (
            r#"{"sub": "x", "app_metadata": {"role": "support"}}"#,
            "SELECT count(*) FROM phone_numbers",
            40,
        ),
    ] {
        assert_eq!(count_as(&mut client, claims, sql).await, expected, "{claims}: {sql}");
    }
}

#[tokio::test]
async fn a_user_writes_what_they_own_and_nothing_else() {
    let cluster = Cluster::start();
    let mut client = cluster.client("postgres").await;
    load(&client, 1).await;
    for (sql, allowed) in [
        ("INSERT INTO lists (owner_id, name) VALUES ('ada', 'New')", true),
        ("INSERT INTO lists (owner_id, name) VALUES ('ben', 'Not mine')", false),
        (
            "INSERT INTO todos (list_id, description) SELECT id, 'x' FROM lists WHERE owner_id = 'ada'",
            true,
        ),
        (
            "INSERT INTO todos (list_id, description) SELECT id, 'x' FROM lists WHERE owner_id <> 'ada'",
            false,
        ),
        ("UPDATE members SET role = 'admin' WHERE user_id = 'ben'", true),
        (
            "INSERT INTO issues (project_id, number, title, author_id) SELECT id, 900, 'x', 'ada' FROM projects LIMIT 1",
            true,
        ),
        ("INSERT INTO companies (name, country) VALUES ('Mine', 'FR')", false),
    ] {
        let transaction = client.transaction().await.unwrap();
        transaction
            .batch_execute(
                "SET LOCAL role headwater_authenticated; SET LOCAL request.jwt.claims = '{\"sub\": \"ada\"}'",
            )
            .await
            .unwrap();
        let outcome = transaction.execute(sql, &[]).await;
        assert_eq!(outcome.is_ok_and(|rows| rows > 0), allowed, "{sql}");
    }
}

#[test]
fn the_streams_read_tables_of_the_sample_only() {
    let words: Vec<&str> = source::SYNC_CONFIG
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(str::split_whitespace)
        .collect();
    let mut read: Vec<&str> =
        words.windows(2).filter(|pair| pair[0] == "FROM").map(|pair| pair[1]).collect();
    read.sort_unstable();
    read.dedup();
    let mut tables = source::TABLES;
    tables.sort_unstable();
    assert_eq!(read, tables);
}
