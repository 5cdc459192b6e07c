//! `check` as a process, without and with a database.

use super::setup::{headwater, text};
use hw_testkit::{Cluster, ClusterOptions};

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
    let asked = text(&informed.stderr);
    assert!(asked.contains("headwater: its tables are looked up in postgres"), "{asked}");
    assert!(asked.contains(&database.name), "{asked}");
    assert!(!text(&alone.stderr).contains("looked up"), "{}", text(&alone.stderr));
    let said = text(&informed.stdout);
    assert!(said.contains("onwer_id") && said.contains("owner_id"), "{said}");
    assert!(said.contains(&format!("{name}:6:")), "{said}");

    write("SELECT FROM WHERE");
    let broken = headwater(&["check", name], None);
    assert_eq!(broken.status.code(), Some(1));
    assert!(text(&broken.stdout).contains("error[HW1"), "{}", text(&broken.stdout));
}

/// A file of edition 3 with these streams, each subscribed by default.
struct File {
    _directory: tempfile::TempDir,
    path: String,
}

fn file(queries: &[&str]) -> File {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("sync.yaml");
    let streams: String = queries
        .iter()
        .enumerate()
        .map(|(n, query)| {
            format!("  s{n}:\n    auto_subscribe: true\n    query: >\n      {query}\n")
        })
        .collect();
    std::fs::write(&path, format!("config:\n  edition: 3\nstreams:\n{streams}")).expect("written");
    let path = path.to_str().expect("unicode").to_owned();
    File { _directory: directory, path }
}

/// Exit code, and what is said in one line each: headline, place in words, mend.
fn check(file: &File, options: &[&str], url: Option<&str>) -> (Option<i32>, Vec<String>) {
    let output = headwater(&[&["check", &file.path], options].concat(), url);
    let said = text(&output.stdout);
    let mut lines: Vec<String> = Vec::new();
    for line in said.lines() {
        let line = line.replace(&file.path, "sync.yaml");
        match line.trim_start() {
            rest if rest.starts_with("mend:") || rest.starts_with("where:") => {
                if let Some(last) = lines.last_mut() {
                    let (_, what) = rest.split_once(':').expect("a colon");
                    *last = format!("{last} | {}", what.trim());
                }
            }
            rest if rest.starts_with(|c: char| c.is_ascii_digit() || c == '|') => {}
            "" => {}
            _ => lines.push(line),
        }
    }
    let asked = |line: &str| line.starts_with("headwater: its tables are looked up in postgres");
    assert!(text(&output.stderr).lines().all(asked), "{}", text(&output.stderr));
    (output.status.code(), lines)
}

#[tokio::test]
async fn fd_65_what_is_not_in_the_database_is_an_error_and_a_query_without_id_too() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, a text);
             CREATE SCHEMA billing;
             CREATE TABLE billing.invoices (id int PRIMARY KEY);",
        )
        .await
        .expect("made");
    for (query, line) in [
        (
            "SELECT * FROM invoices",
            "error[HW1204]: relation public.invoices does not exist | sync.yaml:7:21, stream \
             \"s0\" | did you mean billing.invoices?",
        ),
        (
            "SELECT id, b FROM t",
            "error[HW1203]: relation public.t has no column \"b\" | sync.yaml:7:18, stream \"s0\" | \
             did you mean \"a\"?",
        ),
        (
            "SELECT a FROM t",
            "error[HW1213]: Query must return an \"id\" column | sync.yaml:7:14, stream \"s0\" | \
             select the primary key AS id; without it all rows are one row on the client",
        ),
    ] {
        let file = file(&[query]);
        let (code, said) = check(&file, &[], Some(&database.url));
        assert_eq!(said, [line, "sync.yaml: 1 error, 0 warnings"], "{query}");
        assert_eq!(code, Some(1), "{query}");
    }
    let right = file(&["SELECT * FROM t", "SELECT * FROM billing.invoices"]);
    let (code, said) = check(&right, &["--strict"], Some(&database.url));
    assert_eq!((code, said), (Some(0), vec!["sync.yaml: 0 errors, 0 warnings".to_owned()]));
}

#[test]
fn fd_65_strict_makes_warnings_fail() {
    let file = file(&["SELECT a FROM t"]);
    let (code, said) = check(&file, &[], None);
    assert_eq!(
        (code, said.last().map(String::as_str)),
        (Some(0), Some("sync.yaml: 0 errors, 1 warning"))
    );
    assert_eq!(check(&file, &["--strict"], None).0, Some(1));
}

#[test]
fn fd_65_a_stream_that_nobody_is_subscribed_to_by_default_gets_a_note() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("sync.yaml");
    let streams = "  mine:\n    query: SELECT * FROM t\n  all:\n    auto_subscribe: true\n    query: SELECT * FROM u\n";
    std::fs::write(&path, format!("config: {{edition: 3}}\nstreams:\n{streams}")).expect("written");
    let path = path.to_str().expect("unicode").to_owned();
    let file = File { _directory: directory, path };
    assert_eq!(
        check(&file, &["--strict"], None),
        (
            Some(0),
            vec![
                "note: stream \"mine\" is not subscribed by default; the app must call \
                 syncStream('mine').subscribe(), or the stream says auto_subscribe: true"
                    .to_owned(),
                "sync.yaml: 0 errors, 0 warnings".to_owned(),
            ]
        )
    );
}

#[tokio::test]
async fn fd_63_generated_columns_are_named_unless_the_publication_carries_them() {
    let file = file(&["SELECT * FROM t", "SELECT id FROM t WHERE g = '4'"]);
    for major in hw_testkit::majors() {
        let cluster =
            Cluster::start_with(ClusterOptions { major: Some(major), ..ClusterOptions::default() });
        let database = cluster.create_database().await;
        let client = cluster.client(&database.name).await;
        client
            .batch_execute(
                "CREATE TABLE t (id int PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a * 2) STORED)",
            )
            .await
            .expect("made");
        let (code, said) = check(&file, &[], Some(&database.url));
        assert_eq!(code, Some(1), "{major}");
        assert!(
            said[0].starts_with("error[HW1225]: column \"g\" of public.t is generated"),
            "{said:?}"
        );
        assert_eq!(said[1], "sync.yaml: 1 error, 0 warnings");
        if major >= 18 {
            client
                .batch_execute(
                    "CREATE PUBLICATION headwater FOR TABLE t
                     WITH (publish_generated_columns = stored)",
                )
                .await
                .expect("made");
            let (code, said) = check(&file, &["--strict"], Some(&database.url));
            assert_eq!((code, said), (Some(0), vec!["sync.yaml: 0 errors, 0 warnings".to_owned()]));
        }
    }
}

#[tokio::test]
async fn fd_22_views_and_tables_without_a_key_are_refused_by_name() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY);
             CREATE VIEW open_orders AS SELECT id FROM t;
             CREATE MATERIALIZED VIEW totals AS SELECT id FROM t;
             CREATE TABLE audit_log (who text);
             CREATE UNLOGGED TABLE fast (id int PRIMARY KEY);
             CREATE TABLE people (id int PRIMARY KEY);
             CREATE TABLE staff (PRIMARY KEY (id)) INHERITS (people);
             CREATE TABLE kinds (id int PRIMARY KEY, of regclass);",
        )
        .await
        .expect("made");
    let file = file(&[
        "SELECT * FROM open_orders",
        "SELECT * FROM totals",
        "SELECT *, who AS id FROM audit_log",
        "SELECT t.* FROM t JOIN fast ON fast.id = t.id WHERE fast.id = auth.user_id()",
        "SELECT * FROM people",
        "SELECT * FROM staff",
        "SELECT * FROM kinds",
    ]);
    let (code, said) = check(&file, &[], Some(&database.url));
    assert_eq!(code, Some(1));
    assert_eq!(
        said,
        [
            "error[HW1204]: public.open_orders is a view: its changes are not in the log | \
             sync.yaml:7:21, stream \"s0\" | name the tables that it reads",
            "error[HW1204]: public.totals is a materialized view: its changes are not in the log | \
             sync.yaml:11:21, stream \"s1\" | name the tables that it reads",
            "error[HW2106]: public.audit_log has no primary key: the log does not tell which row \
             was updated or deleted | table public.audit_log, read by \"s2\" | ALTER TABLE \
             \"public\".\"audit_log\" REPLICA IDENTITY FULL;",
            "error[HW2105]: public.fast is an unlogged table: its changes are not in the log | \
             table public.fast, read by \"s3\" | ALTER TABLE \"public\".\"fast\" SET LOGGED;",
            "error[HW2118]: public.people shows the rows of public.staff as its own, which inherit from it: the log \
             tells their changes under their own names | table public.people, read by \"s4\" | name that table in \
             place of public.people, and keep its own rows in one that inherits; or make it a partitioned table",
            "error[HW2119]: column \"of\" of public.kinds prints names of other objects: they change when these are \
             renamed, and the log does not tell it | table public.kinds, read by \"s6\" | keep what it says as a \
             text: ALTER TABLE \"public\".\"kinds\" ALTER COLUMN \"of\" TYPE text; or leave it out with a column \
             list of the publication",
            "sync.yaml: 6 errors, 0 warnings",
        ]
    );
}

#[tokio::test]
async fn section_11_a_label_that_the_enum_does_not_have_is_said() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    client
        .batch_execute(
            "CREATE TYPE status AS ENUM ('new', 'shipped');
             CREATE DOMAIN state AS status;
             CREATE TABLE orders (id int PRIMARY KEY, status status, state state);",
        )
        .await
        .expect("made");
    let file = file(&[
        "SELECT * FROM orders WHERE status = 'shiped'",
        "SELECT * FROM orders WHERE state = 'nwe'",
        "SELECT * FROM orders WHERE status = 'shipped'",
    ]);
    let (code, said) = check(&file, &[], Some(&database.url));
    assert_eq!(code, Some(0));
    assert_eq!(
        said,
        [
            "warning[HW1227]: \"status\" never is 'shiped' | sync.yaml:7:43, stream \"s0\" | did you \
             mean 'shipped'?",
            "warning[HW1227]: \"state\" never is 'nwe' | sync.yaml:11:42, stream \"s1\" | did you \
             mean 'new'?",
            "sync.yaml: 0 errors, 2 warnings",
        ]
    );
}

/// FD-20: a table that the role may not add holds back what reads it, so `check` says it before.
#[tokio::test]
async fn fd_20_a_table_that_this_role_may_not_publish_is_said_before_anything_waits_for_it() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    client
        .batch_execute(
            "CREATE TABLE notes (id int PRIMARY KEY);
             CREATE TABLE other (id int PRIMARY KEY);
             CREATE PUBLICATION headwater FOR TABLE notes WITH (publish_via_partition_root);
             CREATE ROLE checker LOGIN;
             GRANT SELECT ON notes, other TO checker;",
        )
        .await
        .expect("made");
    let url = cluster.url_as("checker", None, &database.name);
    let file = file(&["SELECT * FROM notes", "SELECT * FROM other"]);
    let (code, said) = check(&file, &[], Some(&url));
    assert_eq!(code, Some(0), "{said:?}");
    assert_eq!(
        said,
        [
            "warning[HW2103]: publication \"headwater\" lacks public.other and this role may not \
             add it | table public.other, read by \"s1\" | ALTER PUBLICATION \"headwater\" ADD TABLE ONLY \
             \"public\".\"other\"; -- as a superuser, or as a role that owns both",
            "sync.yaml: 0 errors, 1 warning",
        ]
    );
}

/// FD-16: what a pattern means is asked of the catalog by the one function that `serve` asks.
#[tokio::test]
async fn fd_16_a_partition_beside_its_root_is_refused_and_wildcard_schemas_mean_their_tables() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    client
        .batch_execute(
            "CREATE TABLE ev (id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE ev_1 PARTITION OF ev FOR VALUES FROM (0) TO (10);
             CREATE SCHEMA tenant_a; CREATE TABLE tenant_a.wo (id int PRIMARY KEY);
             CREATE SCHEMA tenant_b; CREATE TABLE tenant_b.wo (who text);",
        )
        .await
        .expect("made");
    let file =
        file(&["SELECT * FROM ev", "SELECT * FROM ev_1 AS one", "SELECT * FROM \"tenant_%\".wo"]);
    let (code, said) = check(&file, &[], Some(&database.url));
    assert_eq!(code, Some(1), "{said:?}");
    assert!(
        said.iter().any(|line| line.starts_with(
            "error[HW2109]: changes of partition public.ev_1 arrive under public.ev, which is \
             synced as well | table public.ev_1, read by \"s1\""
        )),
        "{said:?}"
    );
    assert!(
        said.iter().any(|line| line.starts_with("error[HW2106]: tenant_b.wo has no primary key")),
        "{said:?}"
    );
}
