//! What the catalog says of tables and their publication, against the server's own view of it, on
//! every major.

use hw_pg::catalog::{Catalog, resolve};
use hw_pg::publication;
use hw_testkit::{Cluster, ClusterOptions};
use hw_types::{TableName, TablePattern};
use tokio_postgres::Client;

const TABLES: &str = "
    CREATE SCHEMA other;
    CREATE TABLE plain (a int PRIMARY KEY, b text, g int GENERATED ALWAYS AS (1) STORED);
    CREATE TABLE other.plain (a int PRIMARY KEY, gone int, c text);
    ALTER TABLE other.plain DROP gone;
    CREATE TABLE parted (a int PRIMARY KEY, b text) PARTITION BY RANGE (a);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
    CREATE TABLE other.parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20)
      PARTITION BY RANGE (a);
    CREATE TABLE parted_2a PARTITION OF other.parted_2 FOR VALUES FROM (10) TO (15);
    CREATE TABLE parent (a int PRIMARY KEY);
    CREATE TABLE child (PRIMARY KEY (a)) INHERITS (parent);
    CREATE UNLOGGED TABLE unlogged (a int PRIMARY KEY);
    CREATE VIEW viewed AS SELECT * FROM plain;
    CREATE SEQUENCE numbers;";

/// Every table of every schema.
fn everything() -> [TablePattern; 1] {
    [TablePattern::new("%", "%")]
}

/// What `pg_publication_tables` shows: name, columns (15 and newer), whether there is a filter.
async fn view(sql: &Client, major: u32) -> Vec<(String, Option<Vec<String>>, bool)> {
    let (columns, filter) = match major {
        14 => ("NULL::text[]", "false"),
        // Generated columns are named before 18 though they are never sent.
        _ => (
            "ARRAY(SELECT n::text FROM unnest(t.attnames) WITH ORDINALITY AS u(n, o)
               WHERE n <> 'g' OR current_setting('server_version_num')::int >= 180000 ORDER BY o)",
            "rowfilter IS NOT NULL",
        ),
    };
    let query = format!(
        "SELECT schemaname || '.' || tablename, {columns}, {filter}
         FROM pg_publication_tables t WHERE pubname = 'p' ORDER BY schemaname, tablename"
    );
    let rows = sql.query(&query, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

#[tokio::test]
async fn contents_are_what_the_servers_own_view_shows_on_every_major() {
    for major in hw_testkit::majors() {
        let options = ClusterOptions { major: Some(major), ..ClusterOptions::default() };
        let cluster = Cluster::start_with(options);
        let database = cluster.create_database().await;
        let sql = cluster.client(&database.name).await;
        sql.batch_execute(TABLES).await.unwrap();
        let mut cases = vec![
            "",
            "FOR TABLE plain, other.plain",
            "FOR TABLE parent",
            "FOR TABLE ONLY parent",
            "FOR TABLE parted",
            "FOR TABLE parted, parted_1",
            "FOR TABLE other.parted_2, plain",
            "FOR TABLE parted_2a",
            "FOR ALL TABLES",
        ];
        if major >= 15 {
            cases.extend([
                "FOR TABLE plain (b, a) WHERE (a > 3 AND b <> 'x')",
                "FOR TABLES IN SCHEMA other",
                "FOR TABLES IN SCHEMA public, other",
                "FOR TABLE plain WHERE (a > 3), TABLES IN SCHEMA public",
                "FOR TABLE parted_1 WHERE (a > 3), parted",
            ]);
        }
        for case in cases {
            for via_root in [true, false] {
                let mut generated = vec![""];
                if major >= 18 {
                    generated.push(", publish_generated_columns = stored");
                }
                for generated in generated {
                    let create = format!(
                        "DROP PUBLICATION IF EXISTS p; CREATE PUBLICATION p {case}
                         WITH (publish_via_partition_root = {via_root}{generated})"
                    );
                    sql.batch_execute(&create).await.unwrap();
                    let found = Catalog::read(&sql, "p", &everything(), &[]).await.unwrap();
                    let publication = found.publication.as_ref().unwrap();
                    assert_eq!(publication.via_root, via_root);
                    assert_eq!(publication.all_tables, case == "FOR ALL TABLES");
                    assert!(publication.owned);
                    let mut expected = view(&sql, major).await;
                    let mut tables = Vec::new();
                    for table in &found.tables {
                        let Some(sent) = table.facts.published.sent() else { continue };
                        let columns = (major > 14)
                            .then(|| table.facts.sent_columns().map(|c| c.name.clone()).collect());
                        tables.push((
                            table.facts.name.to_string(),
                            columns,
                            sent.row_filter.is_some(),
                        ));
                    }
                    tables.sort();
                    expected.sort();
                    // Major 14 shows a partition twice that is listed beside its root.
                    expected.dedup();
                    assert_eq!(tables, expected, "major {major}: {create}");

                    let members = Catalog::members(&sql, "p").await.unwrap();
                    let is_member = |name: &str| {
                        found.tables.iter().any(|table| {
                            table.facts.name.to_string() == name
                                && members.contains(&table.facts.id)
                        })
                    };
                    assert!(expected.iter().all(|(name, ..)| is_member(name)), "{major}: {create}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_table_that_is_being_rewritten_holds_up_nobody_who_looks() {
    let cluster = Cluster::start();
    let sql = cluster.client("postgres").await;
    sql.batch_execute(TABLES).await.unwrap();
    sql.batch_execute("CREATE PUBLICATION headwater FOR TABLE plain, parted").await.unwrap();
    let rewriter = cluster.client("postgres").await;
    rewriter
        .batch_execute("BEGIN; LOCK plain, parted, parted_1 IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    // Waiting for the lock would end in an error.
    sql.batch_execute("SET lock_timeout = '1ms'").await.unwrap();
    let patterns = [TablePattern::new("public", "plain"), TablePattern::new("public", "part%")];
    let found = Catalog::read(&sql, "headwater", &patterns, &[]).await.unwrap();
    let leaves: Vec<usize> = found.tables.iter().map(|table| table.facts.leaves.len()).collect();
    assert_eq!((leaves.len(), leaves.iter().max()), (4, Some(&2)));
    assert_eq!(Catalog::members(&sql, "headwater").await.unwrap().len(), 5);
    Catalog::fingerprint(&sql, "headwater", &patterns, &[]).await.unwrap();
}

#[tokio::test]
async fn two_instances_that_add_tables_at_the_same_time_both_succeed() {
    let cluster = Cluster::start();
    let sql = cluster.client("postgres").await;
    let names: Vec<TableName> = (0..6).map(|n| TableName::new("public", format!("t{n}"))).collect();
    for name in &names {
        sql.batch_execute(&format!("CREATE TABLE {} (a int PRIMARY KEY)", name.quoted()))
            .await
            .unwrap();
    }
    let patterns = [TablePattern::new("public", "t%")];
    let clients = [
        cluster.client("postgres").await,
        cluster.client("postgres").await,
        cluster.client("postgres").await,
    ];
    let ensure = |client| publication::ensure(client, "headwater", &patterns, &[]);
    let (a, b, c) = tokio::join!(ensure(&clients[0]), ensure(&clients[1]), ensure(&clients[2]));
    let mut made = 0;
    for ensured in [a, b, c] {
        let ensured = ensured.unwrap();
        made += usize::from(ensured.made);
        assert_eq!(ensured.resolved.tables.len(), names.len());
        assert_eq!(ensured.resolved.refused, []);
    }
    assert_eq!(made, 1);
    let found = Catalog::read(&sql, "headwater", &patterns, &[]).await.unwrap();
    assert!(found.tables.iter().all(|table| table.facts.published.sent().is_some()));
    assert!(found.publication.unwrap().via_root);
    assert_eq!(resolve(&Catalog { publication: None, ..found }, &patterns).missing, []);
}

/// Drops `t` while `look` waits for a system catalog that it needs behind its first question, so that
/// its snapshot is of before.
async fn dropped_while<T>(cluster: &Cluster, catalog: &str, look: impl Future<Output = T>) -> T {
    let other = cluster.client("postgres").await;
    other.batch_execute(&format!("BEGIN; LOCK pg_catalog.{catalog}")).await.unwrap();
    let watcher = cluster.client("postgres").await;
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    let drop = async {
        while watcher.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {}
        other.batch_execute("DROP TABLE t; COMMIT").await.unwrap();
    };
    tokio::join!(look, drop).0
}

#[tokio::test]
async fn a_table_that_is_dropped_in_the_middle_of_a_look_is_gone_and_not_unreadable() {
    let cluster = Cluster::start();
    let sql = cluster.client("postgres").await;
    sql.batch_execute("CREATE ROLE reader LOGIN").await.unwrap();
    let reader = cluster.client("postgres").await;
    reader.batch_execute("SET ROLE reader").await.unwrap();
    for (grant, looker) in [
        ("SELECT", &sql),
        ("GRANT SELECT ON t TO reader", &reader),
        ("GRANT SELECT (a) ON t TO reader", &reader),
    ] {
        let table = "CREATE TABLE t (a int PRIMARY KEY); CREATE TABLE other (a int PRIMARY KEY);";
        sql.batch_execute(&format!("{table} {grant}")).await.unwrap();
        let patterns = [TablePattern::new("public", "t"), TablePattern::new("public", "other")];
        let looked = Catalog::read(looker, "headwater", &patterns, &[]);
        let found = dropped_while(&cluster, "pg_publication", looked).await.unwrap();
        let names: Vec<&str> = found.tables.iter().map(|t| t.facts.name.name.as_str()).collect();
        assert_eq!(names, ["other"], "{grant}");
        let resolved = resolve(&found, &patterns);
        assert_eq!(resolved.missing[0].finding.what, "there is no table public.t", "{grant}");
        sql.batch_execute("DROP TABLE other").await.unwrap();
    }
}

#[tokio::test]
async fn a_table_that_is_dropped_while_it_is_published_is_missing_and_refuses_no_other() {
    let cluster = Cluster::start();
    let sql = cluster.client("postgres").await;
    sql.batch_execute(
        "CREATE PUBLICATION headwater WITH (publish_via_partition_root = true);
         CREATE TABLE t (a int PRIMARY KEY); CREATE TABLE other (a int PRIMARY KEY)",
    )
    .await
    .unwrap();
    let patterns = [TablePattern::new("public", "t"), TablePattern::new("public", "other")];
    let ensured = publication::ensure(&sql, "headwater", &patterns, &[]);
    let ensured = dropped_while(&cluster, "pg_publication_rel", ensured).await.unwrap();
    assert_eq!(ensured.resolved.refused, []);
    assert_eq!(ensured.resolved.missing.len(), 1);
    assert_eq!(ensured.added, [TableName::new("public", "other")]);
}
