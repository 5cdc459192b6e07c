//! `doctor` against real sources: each finding names the statement that mends it, and running that
//! statement makes the finding go away.

use headwater::config::{Config, Sources, load};
use headwater::doctor::{self, Examination};
use hw_pg::config::ConnectConfig;
use hw_testkit::{Cluster, ClusterOptions};
use hw_types::TablePattern;

fn config(url: &str) -> Config {
    load(&Sources {
        file: None,
        flags: [("database.url", url.to_owned())].into(),
        environment: &|_| None,
    })
    .expect("valid")
}

/// A server of which there is nothing to find.
fn fit() -> Cluster {
    Cluster::start_with(ClusterOptions {
        settings: &[("max_slot_wal_keep_size", "20GB")],
        ..ClusterOptions::default()
    })
}

async fn examine(url: &str, tables: &[&str]) -> Examination {
    let patterns: Vec<TablePattern> =
        tables.iter().map(|table| TablePattern::new("public", table)).collect();
    let (connect, _) = ConnectConfig::parse(url).expect("a connection string");
    let mut examination = Examination::default();
    doctor::examine_source(&config(url), &connect, &patterns, &mut examination)
        .await
        .expect("examined");
    examination
}

fn shown(examination: &Examination) -> Vec<String> {
    examination.findings.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_fit_source_has_no_findings() {
    let cluster = fit();
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY) WITH (autovacuum_enabled = false);
             INSERT INTO t SELECT generate_series(1, 10000)",
        )
        .await
        .expect("created");
    let size = async || {
        let examination = examine(&database.url, &["t"]).await;
        assert_eq!(shown(&examination), Vec::<String>::new());
        let fact = examination.facts.iter().find(|fact| fact.contains("1 table to replicate"));
        fact.expect("said").clone()
    };
    // Nobody has analysed it.
    assert!(size().await.ends_with(" kB in the source"), "{}", size().await);
    client.batch_execute("BEGIN; LOCK t").await.expect("locked");
    assert!(size().await.ends_with("of unknown size in the source"), "{}", size().await);
}

#[tokio::test]
async fn a_source_without_logical_log_is_refused_with_the_statement() {
    let cluster = Cluster::start_with(ClusterOptions {
        settings: &[("wal_level", "replica"), ("max_slot_wal_keep_size", "20GB")],
        ..ClusterOptions::default()
    });
    let database = cluster.create_database().await;
    let findings = shown(&examine(&database.url, &[]).await);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].starts_with("error[HW2101]: wal_level is \"replica\""), "{findings:?}");
    assert!(findings[0].contains("ALTER SYSTEM SET wal_level = 'logical'"), "{findings:?}");
}

#[tokio::test]
async fn too_few_slots_and_a_short_log_are_found() {
    let cluster = Cluster::start_with(ClusterOptions {
        settings: &[("max_replication_slots", "1"), ("max_slot_wal_keep_size", "1GB")],
        ..ClusterOptions::default()
    });
    let database = cluster.create_database().await;
    let findings = shown(&examine(&database.url, &[]).await);
    let short = "warning[HW2121]: others use 0 of 1 replication slots; one is enough until";
    assert!(findings.iter().any(|f| f.starts_with(short)), "{findings:?}");
    assert!(findings.iter().any(|f| f.starts_with("warning[HW2141]:")), "{findings:?}");
}

#[tokio::test]
async fn what_a_lesser_role_lacks_is_found_and_each_mend_works() {
    let cluster = fit();
    let database = cluster.create_database().await;
    let owner = cluster.client(&database.name).await;
    owner
        .batch_execute(
            "CREATE ROLE reader LOGIN;
             CREATE TABLE t (id int PRIMARY KEY, owner text);
             CREATE TABLE no_key (a int);
             ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        )
        .await
        .expect("made");
    let url = cluster.url_as("reader", None, &database.name);
    let first = examine(&url, &["t", "no_key", "absent"]).await;
    let findings = shown(&first);
    for code in ["HW2112", "HW2102", "HW2106", "HW2108", "HW2131", "HW2144"] {
        assert!(findings.iter().any(|f| f.contains(code)), "{code} in {findings:#?}");
    }

    let mut statements: Vec<String> = Vec::new();
    for finding in &first.findings {
        let mend = finding.mend.clone().unwrap_or_default();
        let statement = mend.rsplit(": ").next().unwrap_or_default();
        if ["ALTER", "GRANT", "CREATE"].iter().any(|word| statement.starts_with(word)) {
            statements.push(statement.to_owned());
        }
    }
    // What makes the tables fit comes before the publication that holds them.
    statements.sort_by_key(|statement| statement.starts_with("CREATE PUBLICATION"));
    for statement in statements {
        owner.batch_execute(&statement).await.unwrap_or_else(|error| {
            panic!("{statement}: {error:?}");
        });
    }
    let second = examine(&url, &["t"]).await;
    assert_eq!(shown(&second), Vec::<String>::new());

    // Who uses the slot is remembered there.
    let revoke = "REVOKE EXECUTE ON FUNCTION lo_create(oid) FROM PUBLIC";
    owner.batch_execute(revoke).await.expect("revoked");
    let [finding] = &examine(&url, &["t"]).await.findings[..] else { panic!("one finding") };
    assert_eq!(finding.code.0, 2125, "{finding}");
    owner.batch_execute(finding.mend.as_deref().expect("a statement")).await.expect("granted");
    assert_eq!(shown(&examine(&url, &["t"]).await), Vec::<String>::new());
}

/// Whoever may read only some columns of a table cannot copy it.
#[tokio::test]
async fn fd_62_a_table_of_which_only_some_columns_may_be_read_is_found() {
    let cluster = fit();
    let database = cluster.create_database().await;
    let owner = cluster.client(&database.name).await;
    owner
        .batch_execute(
            "CREATE ROLE reader LOGIN REPLICATION; CREATE TABLE t (id int PRIMARY KEY, a text, b text);
             GRANT SELECT (id, a) ON t TO reader; CREATE PUBLICATION headwater FOR TABLE t",
        )
        .await
        .expect("made");
    let url = cluster.url_as("reader", None, &database.name);
    let [finding] = &examine(&url, &["t"]).await.findings[..] else { panic!("one finding") };
    assert_eq!(finding.code.0, 2144, "{finding}");
    let mend = finding.mend.clone().expect("a statement");
    let statement = mend.rsplit(": ").next().expect("not empty");
    owner.batch_execute(statement).await.unwrap_or_else(|error| panic!("{mend}: {error:?}"));
    assert_eq!(shown(&examine(&url, &["t"]).await), Vec::<String>::new());
}

#[tokio::test]
async fn a_publication_that_leaves_out_deletes_is_found() {
    let cluster = fit();
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY);
             CREATE PUBLICATION headwater FOR TABLE t WITH (publish = 'insert, update, truncate')",
        )
        .await
        .expect("made");
    // One of ours is set right.
    assert_eq!(shown(&examine(&database.url, &["t"]).await), Vec::<String>::new());
    client
        .batch_execute("CREATE ROLE dba SUPERUSER; ALTER PUBLICATION headwater OWNER TO dba")
        .await
        .expect("given away");
    assert_eq!(
        shown(&examine(&database.url, &["t"]).await),
        ["error[HW2104]: publication \"headwater\" does not publish deletes\n  \
          where: table public.t\n  \
          mend:  ALTER PUBLICATION \"headwater\" SET (publish = 'insert, update, delete, truncate');"]
    );
}

/// What `check` says of columns `doctor` says, too; and what somebody left out on purpose it names.
#[tokio::test]
async fn columns_that_do_not_come_and_a_narrowed_publication_are_named() {
    let cluster = fit();
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    let filter = if cluster.major() >= 15 { "(id, a) WHERE (id > 3)" } else { "" };
    client
        .batch_execute(&format!(
            "CREATE TABLE t (id int PRIMARY KEY, a int, b int,
                             g int GENERATED ALWAYS AS (a * 2) STORED);
             CREATE PUBLICATION headwater FOR TABLE t {filter}"
        ))
        .await
        .expect("made");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("sync.yaml");
    let query = "SELECT id, g, gone FROM t WHERE a = bucket.a";
    let text = format!(
        "bucket_definitions:\n  s:\n    parameters: SELECT request.user_id() AS a\n    \
         data:\n      - {query}\n"
    );
    std::fs::write(&file, text).expect("written");
    let flags = [
        ("database.url", database.url.clone()),
        ("sync.config", file.display().to_string()),
        ("auth.jwt_secret", "a secret of thirty-two characters".to_owned()),
    ];
    let config = load(&Sources { file: None, flags: flags.into(), environment: &|_| None });
    let examination = doctor::examine(&config.expect("valid")).await.expect("examined");
    let findings = shown(&examination);
    let unsent = "error[HW2116]: publication \"headwater\" does not send column \"g\" of public.t";
    let absent = "error[HW2117]: ";
    for both in [unsent, absent] {
        assert!(findings.iter().any(|f| f.starts_with(both)), "{both} in {findings:?}");
    }
    if cluster.major() >= 15 {
        let narrowed = "publication \"headwater\" sends of public.t only rows that pass its row \
                        filter (WHERE), and not column \"b\"";
        assert!(examination.facts.iter().any(|fact| fact == narrowed), "{:?}", examination.facts);
    }
}

/// What live queries would be asked for again and again is said before anybody subscribes.
#[tokio::test]
async fn live_queries_that_are_only_polled_are_named_with_what_hinders_them() {
    let cluster = fit();
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    client
        .batch_execute(
            "CREATE ROLE app_user; CREATE TABLE notes (id int PRIMARY KEY, team int, email text);
             CREATE TABLE mails (id int PRIMARY KEY, email text); CREATE UNLOGGED TABLE teams (id int PRIMARY KEY);
             CREATE TABLE keyless (id int); ALTER TABLE keyless ENABLE ROW LEVEL SECURITY;
             GRANT SELECT ON keyless TO app_user; CREATE POLICY low ON keyless USING (id < 9);
             ALTER TABLE notes ENABLE ROW LEVEL SECURITY; ALTER TABLE mails ENABLE ROW LEVEL SECURITY;
             GRANT SELECT ON notes, mails, teams TO app_user;
             CREATE POLICY team ON notes USING (team IN (SELECT id FROM teams));
             CREATE POLICY lowered ON mails USING (lower(email) = current_user)",
        )
        .await
        .expect("made");
    let flags = [("datasync.enabled", "true"), ("datasync.role", "app_user")];
    let flags = flags.map(|(key, value)| (key, value.to_owned()));
    let url = [("database.url", database.url.clone())];
    let sources = Sources {
        file: None,
        flags: url.into_iter().chain(flags).collect(),
        environment: &|_| None,
    };
    let examination = doctor::examine(&load(&sources).expect("valid")).await.expect("examined");
    let found = shown(&examination);
    let polled: Vec<&String> = found.iter().filter(|it| it.contains("HW4308")).collect();
    assert_eq!(polled.len(), 1, "{found:?}");
    assert!(
        polled[0].contains("live queries of public.notes") && polled[0].contains("public.teams"),
        "{polled:?}"
    );
    let refused: Vec<&String> = found.iter().filter(|it| it.contains("HW5416")).collect();
    assert_eq!(refused.len(), 1, "{found:?}");
    assert!(
        refused[0].contains("live queries of public.keyless are refused, because public.keyless"),
        "{refused:?}"
    );
    let facts = &examination.facts;
    assert!(
        facts
            .iter()
            .any(|fact| fact.contains("live queries of public.mails as app_user ask Postgres")),
        "{facts:?}"
    );
}
