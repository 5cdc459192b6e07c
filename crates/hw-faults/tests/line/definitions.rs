//! What is served while a table cannot be followed, and which configuration is (FD-18 to FD-22).

use std::time::Duration;

use hw_testkit::oracle::SyncClient;
use hw_testkit::server::http_get;
use hw_testkit::{Direction, Fault, FaultProxy};

use super::{Line, Output, fresh, loud, soon, streams};
use crate::rig::{self, Rig};

const DOCS: &str = "
    CREATE TABLE members (id int PRIMARY KEY, usr text, list text);
    CREATE TABLE docs (id text PRIMARY KEY, list text, body text);
    CREATE TABLE o (id text PRIMARY KEY, a text);
    CREATE TABLE etl (v text);
    INSERT INTO members VALUES (1, 'u1', 'l1'), (2, 'u2', 'l1');
    INSERT INTO docs VALUES ('d1', 'l1', 'one');
    INSERT INTO o VALUES ('o1', 'for all');
";
const DOCS_OUT: &[Output] = &[
    ("docs", "SELECT * FROM docs WHERE list IN (SELECT list FROM members WHERE usr = {user})"),
    ("o", "SELECT * FROM o"),
];

fn docs_config() -> String {
    streams(&[
        "SELECT * FROM docs WHERE list IN (SELECT list FROM members WHERE usr = auth.user_id())",
        "SELECT * FROM o",
    ])
}

/// The unrelated open transaction keeps the copy of `members` from beginning for as long as the test
/// wants.
#[tokio::test(flavor = "multi_thread")]
async fn fd_18_a_revoked_user_is_sent_nothing_while_the_permission_table_is_copied() {
    let mut line = Line::start(DOCS, &docs_config(), &["u1", "u2"], DOCS_OUT).await;
    let open = line.rig.cluster.client(&line.rig.database.name).await;
    open.batch_execute("BEGIN; INSERT INTO etl VALUES ('x')").await.expect("open");
    line.execute("ALTER TABLE members ADD COLUMN note text; DELETE FROM members WHERE id = 1")
        .await;
    line.execute("INSERT INTO docs VALUES ('secret', 'l1', 'x'); UPDATE docs SET body = 'secret'")
        .await;
    line.execute("INSERT INTO o VALUES ('later', 'x')").await;
    line.follow("u1", "what does not depend on it flows", |c| c.table("o").contains_key("later"))
        .await;
    line.names("public.members").await;
    for client in [&line.clients["u1"], &fresh(&line.server, "u1").await] {
        assert!(!client.rows().values().any(|row| row["body"] == "secret"), "{:?}", client.rows());
    }
    open.batch_execute("COMMIT").await.expect("ended");
    line.agree("the table has entered").await;
    line.is_well().await;
    line.stop().await;
}

/// A copy that waits, or takes long, keeps nobody from seeing that a permission table is gone, whether
/// another table is copied or that one.
#[tokio::test(flavor = "multi_thread")]
async fn fd_11_a_permission_table_that_goes_while_a_copy_waits_ends_access() {
    let schema = format!("{DOCS}; CREATE TABLE p (id text PRIMARY KEY);");
    let config = streams(&[
        "SELECT * FROM docs WHERE list IN (SELECT list FROM members WHERE usr = auth.user_id())",
        "SELECT * FROM o",
        "SELECT * FROM p",
    ]);
    let outputs = [DOCS_OUT, &[("p", "SELECT * FROM p")]].concat();
    for copied in [
        "ALTER TABLE o ADD COLUMN note text; INSERT INTO o VALUES ('n', 'x', 'y')",
        "ALTER TABLE members ADD COLUMN note text; INSERT INTO members VALUES (3, 'u3', 'l1', 'x')",
    ] {
        let mut line = Line::start(&schema, &config, &["u1", "u2"], &outputs).await;
        let open = line.rig.cluster.client(&line.rig.database.name).await;
        open.batch_execute("BEGIN; INSERT INTO etl VALUES ('x')").await.expect("open");
        line.execute(copied).await;
        // The copy waits for the open transaction.
        line.logs("HW2123").await;
        line.execute("DROP TABLE members").await;
        line.logs(r#""the table leaves the replica","table":"public.members""#).await;
        line.names("public.members").await;
        line.execute("INSERT INTO docs VALUES ('secret', 'l1', 'secret')").await;
        line.execute("INSERT INTO p VALUES ('later')").await;
        for user in ["u1", "u2"] {
            let ended = |c: &SyncClient| c.table("p").contains_key("later");
            line.follow(user, "what does not depend on it flows", ended).await;
            for client in [&line.clients[user], &fresh(&line.server, user).await] {
                assert_eq!(client.table("docs"), Default::default(), "{copied}: {user}");
            }
        }
        open.batch_execute("COMMIT").await.expect("ended");
        line.outputs = vec![("o", "SELECT * FROM o"), ("p", "SELECT * FROM p")];
        line.agree("the copy has ended").await;
        line.stop().await;
    }
}

/// A transaction with the change of a table in its middle is shown whole or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn fd_18_nobody_is_shown_half_of_a_transaction_that_alters_a_table() {
    let schema = "
        CREATE TABLE a (id text PRIMARY KEY, n int); CREATE TABLE b (id text PRIMARY KEY, n int);
        CREATE TABLE etl (v text);
        INSERT INTO a VALUES ('x', 100); INSERT INTO b VALUES ('x', 0)";
    let config = "bucket_definitions:\n  both:\n    data:\n      - SELECT id, n FROM a\n      \
                  - SELECT id, n FROM b\n";
    let outputs: &[Output] = &[("a", "SELECT id, n FROM a"), ("b", "SELECT id, n FROM b")];
    let mut line = Line::start(schema, config, &["u1"], outputs).await;
    let open = line.rig.cluster.client(&line.rig.database.name).await;
    open.batch_execute("BEGIN; INSERT INTO etl VALUES ('x')").await.expect("open");
    let sum = |client: &SyncClient| -> i64 {
        client.rows().values().filter_map(|row| row["n"].as_i64()).sum()
    };
    line.execute(
        "BEGIN; UPDATE a SET n = n - 10; ALTER TABLE b ADD COLUMN w text; UPDATE b SET n = n + 10;
         COMMIT",
    )
    .await;
    line.names("public.b").await;
    assert_eq!(sum(&fresh(&line.server, "u1").await), 100);
    open.batch_execute("COMMIT").await.expect("ended");
    line.agree("entered").await;
    line.stop().await;
}

/// A server whose connection to Postgres is as slow as a test wants, so that a copy takes a while.
async fn throttled(schema: &str, config: &str, outputs: &[Output]) -> (Line, FaultProxy) {
    let rig = Rig::new(schema, config).await;
    let proxy = FaultProxy::start(&format!("127.0.0.1:{}", rig.cluster.port())).await;
    let url = rig.database.url.replace(&rig.cluster.port().to_string(), &proxy.port().to_string());
    let options = rig::with(rig.options(), "DATABASE_URL", &url);
    (Line::of(rig, options, &["u1"], outputs).await, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_19_a_configuration_is_complete_when_its_new_tables_are() {
    let schema = "
        CREATE TABLE a (id text PRIMARY KEY, v text); INSERT INTO a VALUES ('1', 'x');
        CREATE TABLE b (id text PRIMARY KEY, v text);
        INSERT INTO b SELECT i::text, repeat('x', 100) FROM generate_series(1, 20000) i";
    let (mut line, proxy) =
        throttled(schema, &streams(&["SELECT * FROM a"]), &[("a", "SELECT * FROM a")]).await;
    proxy.set(Direction::ToClient, Fault { bytes_per_second: Some(1 << 20), ..Fault::default() });
    line.configure(&streams(&["SELECT * FROM a", "SELECT id, v FROM b WHERE id = '7'"]));
    // The first state with the new bucket has its row.
    line.follow("u1", "the new bucket is there", |client| client.bucket_names().len() > 1).await;
    let client = &line.clients["u1"];
    let before = client.completed;
    line.follow("u1", "its state is complete", |client| client.completed > before).await;
    assert!(line.clients["u1"].table("b").contains_key("7"), "complete without its row");
    proxy.heal();
    line.outputs = vec![("a", "SELECT * FROM a"), ("b", "SELECT id, v FROM b WHERE id = '7'")];
    line.agree("at the end").await;
    line.stop().await;
}

const REFUSED: &str = "
    CREATE TABLE notes (id text PRIMARY KEY, body text);
    CREATE TABLE other (id text PRIMARY KEY, body text);
    CREATE TABLE later (id text PRIMARY KEY, body text);
    INSERT INTO notes VALUES ('n1', 'u1'), ('n2', 'u2'); INSERT INTO other VALUES ('o1', 'x');
    INSERT INTO later VALUES ('x1', 'x');
    DO $$ BEGIN
      IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'app') THEN
        CREATE ROLE app LOGIN REPLICATION;
      END IF;
    END $$;
    ALTER TABLE notes OWNER TO app; ALTER TABLE later OWNER TO app;
    REVOKE ALL ON other FROM public; GRANT CREATE ON DATABASE postgres TO app;
";

/// A sync configuration waits for the tables that it reads, and says so; not for those of the one before.
#[tokio::test(flavor = "multi_thread")]
async fn fd_19_a_configuration_waits_for_its_own_tables_alone() {
    let mut line = Line::start(DOCS, &docs_config(), &["u1", "u2"], DOCS_OUT).await;
    let open = line.rig.cluster.client(&line.rig.database.name).await;
    open.batch_execute("BEGIN; INSERT INTO etl VALUES ('x')").await.expect("open");
    let altered =
        "ALTER TABLE docs ADD COLUMN note text; INSERT INTO docs VALUES ('n', 'l9', 'x', 'y')";
    line.execute(altered).await;
    line.logs("HW2123").await;
    line.configure(&streams(&[
        "SELECT * FROM docs WHERE list = auth.user_id()",
        "SELECT * FROM o",
    ]));
    let said = "is served, and not yet 2, until these have been copied: public.docs";
    line.names(said).await;
    line.configure(&streams(&["SELECT * FROM o"]));
    line.outputs = vec![("o", "SELECT * FROM o")];
    line.agree("without the table that waits").await;
    line.execute("INSERT INTO o VALUES ('later', 'x')").await;
    line.agree("and goes on").await;
    open.batch_execute("COMMIT").await.expect("ended");
    line.configure(&docs_config());
    line.outputs = DOCS_OUT.to_vec();
    line.agree("the first one again").await;
    line.is_well().await;
    line.stop().await;
}

/// Only the newest configuration is served or built, without these definitions.
async fn waits(line: &Line, names: &[&str]) {
    soon(&format!("{names:?} wait"), line.report(), || async {
        let sync = rig::status(&line.server).await?["sync"].take();
        let withheld = sync["withheld"].as_array()?.iter().map(|name| name.as_str());
        let is_one = sync["waiting_version"].is_null();
        (is_one && withheld.eq(names.iter().copied().map(Some))).then_some(())
    })
    .await;
}

/// What clients do not have yet keeps nobody else waiting: a definition over a table that waits, and one that
/// shares a lookup with what stands still. What they have stands still as before.
#[tokio::test(flavor = "multi_thread")]
async fn fd_19_a_definition_that_has_to_wait_holds_back_no_other() {
    const DOCS_OF: &str =
        "SELECT * FROM docs WHERE list IN (SELECT list FROM members WHERE usr = auth.user_id())";
    let schema = format!(
        "{DOCS} CREATE TABLE notes (id text PRIMARY KEY, list text); INSERT INTO notes VALUES ('n', 'l1');"
    );
    let mut line = Line::start(&schema, &docs_config(), &["u1", "u2"], DOCS_OUT).await;
    let open = line.rig.cluster.client(&line.rig.database.name).await;
    open.batch_execute("BEGIN; INSERT INTO etl VALUES ('x')").await.expect("open");
    // What the open transaction was begun before cannot be copied until it ends.
    line.execute(
        "ALTER TABLE docs ADD COLUMN note text; INSERT INTO docs VALUES ('n', 'l9', 'x', 'y');
         CREATE TABLE fresh (id text PRIMARY KEY); INSERT INTO fresh VALUES ('f')",
    )
    .await;
    line.logs("HW2123").await;
    let shared =
        "SELECT * FROM notes WHERE list IN (SELECT list FROM members WHERE usr = auth.user_id())";
    let all = streams(&[
        DOCS_OF,
        "SELECT * FROM o",
        "SELECT * FROM o AS two",
        "SELECT * FROM fresh",
        shared,
    ]);
    line.configure(&all);
    let follow = |client: &SyncClient| client.table("two").contains_key("o1");
    line.follow("u1", "the new definition is served", follow).await;
    let u1 = &line.clients["u1"];
    assert_eq!(u1.table("docs").into_keys().collect::<Vec<_>>(), ["d1"], "it stands still");
    waits(&line, &["s3", "s4"]).await;
    line.names("until these have been copied: public.fresh, public.notes, for s3, s4").await;
    // So it is behind a crash, and when the same is handed in again.
    line.server.kill();
    line.server.spawn_again();
    waits(&line, &["s3", "s4"]).await;
    line.configure(&streams(&[DOCS_OF, "SELECT * FROM o"]));
    waits(&line, &[]).await;
    line.configure(&all);
    waits(&line, &["s3", "s4"]).await;
    open.batch_execute("COMMIT").await.expect("ended");
    line.outputs.extend([
        ("two", "SELECT * FROM o"),
        ("fresh", "SELECT * FROM fresh"),
        (
            "notes",
            "SELECT * FROM notes WHERE list IN (SELECT list FROM members WHERE usr = {user})",
        ),
    ]);
    line.agree("all tables have entered").await;
    waits(&line, &[]).await;
    line.execute("INSERT INTO fresh VALUES ('g'); DELETE FROM members WHERE id = 1").await;
    line.agree("and go on").await;
    line.is_well().await;
    line.stop().await;
}

/// One table that the role may not add: the definitions of that table wait, named; nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn fd_20_a_table_that_cannot_be_added_holds_back_nobody_else() {
    let all = streams(&["SELECT * FROM notes"]);
    let mut rig = Rig::new(REFUSED, &all).await;
    rig.execute(&format!("GRANT CREATE ON DATABASE {} TO app", rig.database.name)).await;
    rig.database.url = rig.cluster.url_as("app", None, &rig.database.name);
    let options = rig.options();
    let notes: &[Output] = &[("notes", "SELECT * FROM notes")];
    let mut line = Line::of(rig, options, &["u1", "u2"], notes).await;
    line.configure(&streams(&[
        "SELECT * FROM notes",
        "SELECT * FROM other",
        "SELECT * FROM later",
    ]));
    line.names("public.other").await;
    line.outputs.push(("later", "SELECT * FROM later"));
    line.agree("the other new table is served").await;
    // Rights are taken away by a third configuration.
    line.configure(&streams(&["SELECT * FROM notes WHERE body = auth.user_id()"]));
    line.outputs = vec![("notes", "SELECT * FROM notes WHERE body = {user}")];
    line.agree("the newest configuration is served").await;
    line.execute("INSERT INTO notes VALUES ('n3', 'u1')").await;
    line.agree("and followed").await;
    line.is_well().await;
    line.stop().await;
}

/// The file decides at the start, whatever waited before.
#[tokio::test(flavor = "multi_thread")]
async fn fd_20_at_the_start_the_file_decides() {
    let mut rig = Rig::new(REFUSED, &streams(&["SELECT * FROM notes"])).await;
    rig.execute(&format!("GRANT CREATE ON DATABASE {} TO app", rig.database.name)).await;
    rig.database.url = rig.cluster.url_as("app", None, &rig.database.name);
    let options = rig.options();
    let notes: &[Output] = &[("notes", "SELECT * FROM notes")];
    let mut line = Line::of(rig, options, &["u1", "u2"], notes).await;
    line.configure(&streams(&["SELECT * FROM notes", "SELECT * FROM other"]));
    line.names("public.other").await;
    line.server.kill();
    std::fs::write(
        line.rig.path("sync.yaml"),
        streams(&["SELECT * FROM notes WHERE body = auth.user_id()"]),
    )
    .expect("written");
    line.server.spawn_again();
    line.outputs = vec![("notes", "SELECT * FROM notes WHERE body = {user}")];
    line.agree("behind the restart").await;
    line.is_well().await;
    line.stop().await;
}

/// A definition that is being dropped is used again by a configuration that is being built.
#[tokio::test(flavor = "multi_thread")]
async fn fd_21_a_definition_that_is_used_again_is_not_dropped() {
    let schema = "
        CREATE TABLE one (id text PRIMARY KEY, v text); INSERT INTO one VALUES ('1', 'x');
        CREATE TABLE two (id text PRIMARY KEY, v text); INSERT INTO two VALUES ('2', 'x');
        CREATE TABLE big (id text PRIMARY KEY, v text);
        INSERT INTO big SELECT i::text, 'x' FROM generate_series(1, 60000) i";
    let big = "SELECT id, 'fixed' AS v FROM big WHERE v = auth.user_id()";
    let (one, two) = ("SELECT * FROM one", "SELECT * FROM two");
    let rig =
        Rig::new(schema, &streams(&[one, two, "SELECT id FROM big WHERE v = auth.user_id()"]))
            .await;
    let options = rig.options_with("limits:\n  definition_retention: 2 s\n");
    let outputs: &[Output] = &[("one", "SELECT * FROM one")];
    let mut line = Line::of(rig, options, &[], outputs).await;
    // With the retired definition in each stage of its end while the next file is built.
    for round in 0..4 {
        line.configure(&streams(&[one]));
        soon("the small file is served", line.report(), || async {
            let client = fresh(&line.server, "u1").await;
            client.table("two").is_empty().then_some(())
        })
        .await;
        // The moment at which it is used again moves over that of its end.
        tokio::time::sleep(Duration::from_millis(1000 + 400 * round)).await;
        line.configure(&streams(&[one, two, big]));
        soon("the large file is served", line.report(), || async {
            let client = fresh(&line.server, "u1").await;
            client.table("two").contains_key("2").then_some(())
        })
        .await;
        line.execute(&format!("INSERT INTO one VALUES ('r{round}', 'x')")).await;
        line.clients.insert("u1", rig::client("u1"));
        line.outputs = vec![("one", "SELECT * FROM one"), ("two", "SELECT * FROM two")];
        line.agree("behind a round").await;
        line.clients.clear();
    }
    line.stop().await;
}

/// What only a definition reads that has left is copied when that one comes back, and not before: no
/// status says otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn fd_21_a_table_that_only_a_definition_which_left_reads_is_no_trouble() {
    let schema = "
        CREATE TABLE a (id text PRIMARY KEY, v text); INSERT INTO a VALUES ('1', 'x');
        CREATE TABLE b (id text PRIMARY KEY, v text); INSERT INTO b VALUES ('2', 'x')";
    let (a, b) = ("SELECT * FROM a", "SELECT * FROM b");
    let both: &[Output] = &[("a", a), ("b", b)];
    let mut line = Line::start(schema, &streams(&[a, b]), &["u1"], both).await;
    line.configure(&streams(&[a]));
    line.outputs = vec![("a", a)];
    line.agree("without the second table").await;
    line.execute("ALTER TABLE b ADD COLUMN w text; INSERT INTO b VALUES ('3', 'x', 'y')").await;
    line.execute("INSERT INTO a VALUES ('later', 'x')").await;
    line.agree("behind a change of the second table").await;
    line.is_well().await;
    line.configure(&streams(&[a, b]));
    line.outputs = both.to_vec();
    line.agree("with both again").await;
    line.is_well().await;
    line.stop().await;
}

/// A view and a table without a key are refused by name, and never shown as empty.
#[tokio::test(flavor = "multi_thread")]
async fn fd_22_a_refused_table_is_named_and_never_shown_as_empty() {
    let schema = "
        CREATE TABLE orders (id text PRIMARY KEY, open boolean NOT NULL DEFAULT true, v text);
        INSERT INTO orders (id) VALUES ('1');
        CREATE VIEW open_orders AS SELECT id, v FROM orders WHERE open;
        CREATE TABLE audit_log (who text, what text); INSERT INTO audit_log VALUES ('a', 'b')";
    let served = "SELECT id, v FROM orders";
    let outputs: &[Output] = &[("orders", "SELECT id, v FROM orders")];
    for (name, query) in [
        ("open_orders", "SELECT * FROM open_orders"),
        ("audit_log", "SELECT *, who AS id FROM audit_log"),
    ] {
        let mut line = Line::start(schema, &streams(&[served]), &["u1"], outputs).await;
        line.configure(&streams(&[served, query]));
        line.names(name).await;
        line.execute(&format!("INSERT INTO orders (id) VALUES ('{name}')")).await;
        line.agree("what can be served is").await;
        // In place of a full one: the full one stays.
        line.configure(&streams(&[query]));
        line.execute(&format!("INSERT INTO orders (id) VALUES ('{name}2')")).await;
        line.names(name).await;
        let shown = fresh(&line.server, "u1").await;
        assert!(!shown.rows().is_empty(), "{name}: an empty state was shown as complete");
        line.stop().await;
        // At a start with nothing else to serve there is nothing to be ready for.
        let rig = Rig::new(schema, &streams(&[query])).await;
        let server = hw_testkit::HeadwaterProcess::spawn(loud(rig.options()));
        soon("the start names it", async { server.log() }, || async {
            rig::status(&server).await.filter(|s| super::is_named(s, name)).map(drop)
        })
        .await;
        let ready = http_get(server.address(), "/probes/readiness", &[]).await.expect("answered");
        assert_ne!(ready.status, 200, "{name}: nothing is served");
    }
}

/// One that is mended is shown with its rows, as soon as it has entered, and not without them before that.
#[tokio::test(flavor = "multi_thread")]
async fn fd_22_a_refused_table_that_is_mended_is_shown_when_it_has_entered() {
    let schema = "
        CREATE TABLE orders (id text PRIMARY KEY, v text); INSERT INTO orders VALUES ('1', 'x');
        CREATE TABLE audit_log (who text, what text); INSERT INTO audit_log VALUES ('a', 'b');
        CREATE TABLE etl (v text)";
    let orders: &[Output] = &[("orders", "SELECT * FROM orders")];
    let mut line = Line::start(schema, &streams(&["SELECT * FROM orders"]), &["u1"], orders).await;
    line.configure(&streams(&["SELECT * FROM orders", "SELECT *, who AS id FROM audit_log"]));
    line.names("audit_log").await;
    waits(&line, &["s1"]).await;
    let open = line.rig.cluster.client(&line.rig.database.name).await;
    open.batch_execute("BEGIN; INSERT INTO etl VALUES ('x')").await.expect("open");
    line.execute("ALTER TABLE audit_log ADD PRIMARY KEY (who)").await;
    // The copy waits for the open transaction.
    line.logs("HW2123").await;
    line.execute("INSERT INTO orders VALUES ('later', 'x')").await;
    line.follow("u1", "the rest goes on", |c| c.table("orders").contains_key("later")).await;
    for client in [&line.clients["u1"], &fresh(&line.server, "u1").await] {
        assert_eq!(client.bucket_names().len(), 1, "an empty state was shown as complete");
    }
    waits(&line, &["s1"]).await;
    open.batch_execute("COMMIT").await.expect("ended");
    line.outputs.push(("audit_log", "SELECT *, who AS id FROM audit_log"));
    line.agree("it has entered").await;
    line.is_well().await;
    line.stop().await;
}
