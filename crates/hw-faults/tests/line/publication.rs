//! The publication is changed by somebody else (FD-8, FD-9).

use std::collections::BTreeSet;

use hw_testkit::{Cluster, ClusterOptions};

use super::{Line, Output, fresh, streams};
use crate::rig;

const SCHEMA: &str = "
    CREATE TABLE t (id int PRIMARY KEY, a text, b int);
    CREATE TABLE o (id int PRIMARY KEY, a text);
    INSERT INTO t VALUES (1, 'one', 1), (2, 'two', 2);
    INSERT INTO o VALUES (1, 'other');
";
const OUTPUTS: &[Output] = &[("t", "SELECT * FROM t"), ("o", "SELECT * FROM o")];

fn config() -> String {
    streams(&["SELECT * FROM t", "SELECT * FROM o"])
}

/// Runs `change` on a server with the publication that it made, then one more change of each table;
/// everything comes to be right.
async fn is_mended(change: &str) {
    let mut line = Line::start(SCHEMA, &config(), &["u1"], OUTPUTS).await;
    line.execute(change).await;
    line.execute("INSERT INTO o VALUES (99, 'later')").await;
    line.agree(change).await;
    line.execute("UPDATE t SET a = a || '!' WHERE id = 2; INSERT INTO t VALUES (77, 'x', 7)").await;
    line.agree("and goes on").await;
    line.is_well().await;
    line.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_8_a_table_that_left_the_publication_and_came_back_loses_nothing() {
    is_mended(
        "ALTER PUBLICATION headwater DROP TABLE t;
         INSERT INTO t VALUES (3, 'lost', 1); UPDATE t SET a = 'new' WHERE id = 1;
         ALTER PUBLICATION headwater ADD TABLE t; INSERT INTO t VALUES (4, 'x', 1)",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_8_a_table_that_left_our_publication_is_published_again() {
    is_mended(
        "ALTER PUBLICATION headwater DROP TABLE t;
         INSERT INTO t VALUES (3, 'lost', 1); UPDATE t SET a = 'new' WHERE id = 1",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_8_set_table_to_another_one_is_mended() {
    is_mended("ALTER PUBLICATION headwater SET TABLE o; INSERT INTO t VALUES (3, 'lost', 1)").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_8_actions_that_are_no_longer_published_are_mended() {
    is_mended(
        "ALTER PUBLICATION headwater SET (publish = 'insert');
         UPDATE t SET a = 'new' WHERE id = 1; DELETE FROM t WHERE id = 2",
    )
    .await;
    is_mended(
        "ALTER PUBLICATION headwater SET (publish = 'insert, update, delete'); TRUNCATE t;
         INSERT INTO t VALUES (2, 'again', 0)",
    )
    .await;
    // And set back before anybody has looked.
    is_mended(
        "ALTER PUBLICATION headwater SET (publish = 'insert'); DELETE FROM t WHERE id = 1;
         ALTER PUBLICATION headwater SET (publish = 'insert, update, delete, truncate')",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_8_a_row_filter_and_a_column_list_that_come_and_go_lose_nothing() {
    is_mended(
        "ALTER PUBLICATION headwater SET TABLE t WHERE (id < 2), o;
         INSERT INTO t VALUES (3, 'lost', 1); DELETE FROM t WHERE id = 2;
         ALTER PUBLICATION headwater SET TABLE t, o; INSERT INTO t VALUES (2, 'x', 1)",
    )
    .await;
    is_mended(
        "ALTER PUBLICATION headwater SET TABLE t (id, a), o;
         INSERT INTO t VALUES (3, 'x', 1); UPDATE t SET b = 100 WHERE id = 1;
         ALTER PUBLICATION headwater SET TABLE t, o",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_8_rows_of_leaves_come_by_their_root_again() {
    let schema = "
        CREATE TABLE t (id int PRIMARY KEY, a text, b int) PARTITION BY RANGE (id);
        CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (50);
        CREATE TABLE t_2 PARTITION OF t FOR VALUES FROM (50) TO (100);
        CREATE TABLE o (id int PRIMARY KEY, a text);
        INSERT INTO t VALUES (1, 'one', 1), (51, 'two', 2); INSERT INTO o VALUES (1, 'other')";
    let mut line = Line::start(schema, &config(), &["u1"], OUTPUTS).await;
    line.execute(
        "ALTER PUBLICATION headwater SET (publish_via_partition_root = false);
         INSERT INTO t VALUES (2, 'lost', 1); DELETE FROM t WHERE id = 51;
         ALTER PUBLICATION headwater SET (publish_via_partition_root = true)",
    )
    .await;
    line.agree("set back").await;
    line.execute(
        "ALTER PUBLICATION headwater SET (publish_via_partition_root = false);
         INSERT INTO t VALUES (3, 'lost', 1), (53, 'lost', 1)",
    )
    .await;
    line.agree("left for us to mend").await;
    line.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_8_what_happened_to_the_publication_while_we_were_down_loses_nothing() {
    let mut line = Line::start(SCHEMA, &config(), &["u1"], OUTPUTS).await;
    line.server.kill();
    line.execute(
        "ALTER PUBLICATION headwater DROP TABLE t;
         INSERT INTO t VALUES (3, 'lost', 1); UPDATE t SET a = 'new' WHERE id = 1;
         ALTER PUBLICATION headwater ADD TABLE t; INSERT INTO t VALUES (4, 'x', 1)",
    )
    .await;
    line.server.spawn_again();
    line.agree("left and came back").await;
    line.server.kill();
    line.execute("ALTER PUBLICATION headwater DROP TABLE t; DELETE FROM t WHERE id = 2").await;
    line.server.spawn_again();
    line.agree("left and is ours to add").await;
    line.stop().await;
}

/// A line as a role that owns neither the tables nor the publication, which sends `published`.
async fn given(published: &str, config: &str, outputs: &[Output]) -> Line {
    given_over(SCHEMA, published, config, outputs).await
}

/// The same over other tables.
async fn given_over(schema: &str, published: &str, config: &str, outputs: &[Output]) -> Line {
    let tables = format!("TABLE {published} WITH (publish_via_partition_root = true)");
    given_on(rig::cluster(), schema, &tables, config, outputs).await
}

/// The same on a cluster of one's own, with a publication `FOR` anything.
async fn given_on(
    cluster: Cluster,
    schema: &str,
    published: &str,
    config: &str,
    outputs: &[Output],
) -> Line {
    let schema = format!(
        "{schema}
         DO $$ BEGIN
           IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'app') THEN
             CREATE ROLE app LOGIN REPLICATION;
           END IF;
         END $$;
         GRANT SELECT ON ALL TABLES IN SCHEMA public TO app;
         CREATE PUBLICATION headwater FOR {published};"
    );
    let mut rig = rig::Rig::on(cluster, &schema, config).await;
    rig.database.url = rig.cluster.url_as("app", None, &rig.database.name);
    let options = rig.options();
    Line::of(rig, options, &["u1"], outputs).await
}

/// A table that the login may not read any more, or whose rows cannot be told apart: its rows leave, also for who comes
/// later, it is named, others go on, and all is there again when that is mended.
#[tokio::test(flavor = "multi_thread")]
async fn fd_10_a_table_that_may_not_be_read_any_more_takes_its_rows_away() {
    let ways = [
        ("REVOKE SELECT ON t FROM app", "GRANT SELECT ON t TO app"),
        (
            "REVOKE SELECT ON t FROM app; GRANT SELECT (id, a) ON t TO app",
            "GRANT SELECT ON t TO app",
        ),
        ("ALTER TABLE t ENABLE ROW LEVEL SECURITY", "ALTER TABLE t DISABLE ROW LEVEL SECURITY"),
        ("ALTER TABLE t DROP CONSTRAINT t_pkey", "ALTER TABLE t ADD PRIMARY KEY (id)"),
        ("ALTER TABLE t REPLICA IDENTITY NOTHING", "ALTER TABLE t REPLICA IDENTITY DEFAULT"),
    ];
    let mut line = given("t, o", &config(), OUTPUTS).await;
    for (round, (gone, back)) in ways.into_iter().enumerate() {
        line.execute(gone).await;
        line.names("public.t").await;
        line.follow("u1", &format!("{gone}: rows leave"), |client| client.table("t").is_empty())
            .await;
        assert!(fresh(&line.server, "u1").await.table("t").is_empty(), "{gone}: a fresh client");
        let id = 100 + round;
        line.execute(&format!(
            "INSERT INTO t VALUES ({id}, 'unseen'); INSERT INTO o VALUES ({id})"
        ))
        .await;
        let key = id.to_string();
        line.follow("u1", "others flow", |client| client.table("o").contains_key(&key)).await;
        assert!(line.clients["u1"].table("t").is_empty(), "{gone}: what came behind it");
        line.execute(back).await;
        line.agree(back).await;
        line.is_well().await;
    }
    line.stop().await;
}

/// A publication that is not ours to change: what it leaves out is held back and named.
#[tokio::test(flavor = "multi_thread")]
async fn fd_8_a_table_that_left_a_publication_of_somebody_else_is_named_until_it_is_back() {
    let mut line = given("t, o", &config(), OUTPUTS).await;
    line.execute("ALTER PUBLICATION headwater DROP TABLE t; INSERT INTO t VALUES (3, 'x', 1)")
        .await;
    line.names("public.t").await;
    line.execute("INSERT INTO o VALUES (2, 'others flow')").await;
    line.follow("u1", "others flow", |client| client.table("o").contains_key("2")).await;
    line.execute("ALTER PUBLICATION headwater ADD TABLE t").await;
    line.agree("it is back").await;
    line.is_well().await;
    line.stop().await;
}

/// Members of a list, who may read its documents.
const DOCS_OF_MEMBERS: &str =
    "SELECT * FROM docs WHERE list IN (SELECT list FROM members WHERE usr = auth.user_id())";
const THEIR_DOCS: &[Output] =
    &[("docs", "SELECT * FROM docs WHERE list IN (SELECT list FROM members WHERE usr = {user})")];

/// What is sent by its schema, or by the partitioned table above it, leaves and comes back without a trace
/// in the publication, and what is deleted meanwhile is not in the log.
#[tokio::test(flavor = "multi_thread")]
async fn fd_8_a_table_that_left_what_is_published_and_came_back_loses_nothing() {
    let members = "CREATE SCHEMA other; GRANT USAGE ON SCHEMA other TO PUBLIC;
        CREATE TABLE docs (id text PRIMARY KEY, list text);
        CREATE TABLE roots (id int PRIMARY KEY, usr text, list text) PARTITION BY RANGE (id);
        CREATE TABLE members PARTITION OF roots FOR VALUES FROM (0) TO (100);
        INSERT INTO docs VALUES ('d1', 'l1'); INSERT INTO members VALUES (1, 'u1', 'l1');";
    for (published, leaves, deleted, returns) in [
        (
            "TABLES IN SCHEMA public",
            "ALTER TABLE members SET SCHEMA other; ALTER TABLE roots SET SCHEMA other",
            "DELETE FROM other.members",
            "ALTER TABLE other.members SET SCHEMA public; ALTER TABLE other.roots SET SCHEMA public",
        ),
        (
            "TABLE docs, roots",
            "ALTER TABLE roots DETACH PARTITION members",
            "DELETE FROM members",
            "ALTER TABLE roots ATTACH PARTITION members FOR VALUES FROM (0) TO (100)",
        ),
    ] {
        let config = streams(&[DOCS_OF_MEMBERS]);
        let mut line = given_on(rig::cluster(), members, published, &config, THEIR_DOCS).await;
        line.execute(&format!("BEGIN; {leaves}; {deleted}; {returns}; COMMIT")).await;
        line.agree(leaves).await;
        line.execute("INSERT INTO members VALUES (2, 'u1', 'l1')").await;
        line.agree("and goes on").await;
        line.is_well().await;
        line.stop().await;
    }
}

/// What is sent under a partitioned table for a moment is not sent under its own name, and nothing in the
/// publication shows it afterwards (E-4).
#[tokio::test(flavor = "multi_thread")]
async fn fd_8_what_was_sent_under_a_table_above_for_a_moment_is_not_lost() {
    const DOCS: &str = "CREATE TABLE docs (id text PRIMARY KEY, list text);
        CREATE TABLE top (id int PRIMARY KEY, usr text, list text) PARTITION BY RANGE (id);
        INSERT INTO docs VALUES ('d1', 'l1');";
    const ALONE: &str = "CREATE TABLE members (id int PRIMARY KEY, usr text, list text);";
    const BELOW: &str =
        "CREATE TABLE members PARTITION OF top FOR VALUES FROM (0) TO (100) PARTITION BY RANGE (id);
         CREATE TABLE leaf PARTITION OF members FOR VALUES FROM (0) TO (100);";
    const IN: &str = "ALTER TABLE top ATTACH PARTITION members FOR VALUES FROM (0) TO (100)";
    const OUT: &str = "ALTER TABLE top DETACH PARTITION members";
    const LISTED: &str = "ALTER PUBLICATION headwater ADD TABLE top";
    const UNLISTED: &str = "ALTER PUBLICATION headwater DROP TABLE top";
    for (members, from, gone, to) in [
        (ALONE, IN, "DELETE FROM members", OUT),
        (ALONE, IN, "UPDATE top SET usr = 'u9'", OUT),
        (ALONE, IN, "TRUNCATE members", OUT),
        (ALONE, IN, "TRUNCATE top", OUT),
        (BELOW, LISTED, "DELETE FROM members", UNLISTED),
        (BELOW, LISTED, "DELETE FROM leaf", UNLISTED),
        (BELOW, LISTED, "TRUNCATE top", UNLISTED),
    ] {
        let schema = format!("{DOCS}{members} INSERT INTO members VALUES (1, 'u1', 'l1');");
        let published = if members == ALONE { "docs, members, top" } else { "docs, members" };
        let mut line =
            given_over(&schema, published, &streams(&[DOCS_OF_MEMBERS]), THEIR_DOCS).await;
        line.execute(&format!("BEGIN; {from}; {gone}; {to}; COMMIT")).await;
        line.agree(&format!("{from}; {gone}")).await;
        line.execute("INSERT INTO members VALUES (2, 'u1', 'l1')").await;
        line.agree(&format!("behind {from}; {gone}")).await;
        line.is_well().await;
        line.stop().await;
    }
}

/// A table that is not listed by itself can be made unlogged, also in a transaction that empties it.
#[tokio::test(flavor = "multi_thread")]
async fn fd_8_what_an_unlogged_table_lost_in_a_transaction_that_empties_it_is_not_kept() {
    let plain = "CREATE TABLE members (id int PRIMARY KEY, usr text, list text);";
    let parted = "CREATE TABLE members (id int PRIMARY KEY, usr varchar(9), list varchar(9))
            PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF members FOR VALUES FROM (0) TO (100);";
    for (members, table, published) in
        [(plain, "members", "ALL TABLES"), (parted, "p1", "TABLE docs, members")]
    {
        let schema = format!(
            "CREATE TABLE docs (id text PRIMARY KEY, list text); INSERT INTO docs VALUES ('d1', 'l1');
             {members} INSERT INTO members VALUES (1, 'u1', 'l1');"
        );
        let published = format!("{published} WITH (publish_via_partition_root = true)");
        let config = streams(&[DOCS_OF_MEMBERS]);
        let mut line = given_on(rig::cluster(), &schema, &published, &config, THEIR_DOCS).await;
        for unlogged in ["DELETE FROM members", "INSERT INTO members VALUES (2, 'u1', 'l1')"] {
            line.execute(&format!(
                "BEGIN; TRUNCATE members; INSERT INTO members VALUES (1, 'u1', 'l1');
                 ALTER TABLE {table} SET UNLOGGED; {unlogged}; ALTER TABLE {table} SET LOGGED; COMMIT"
            ))
            .await;
            line.agree(&format!("{table}: {unlogged}")).await;
            line.execute("INSERT INTO members VALUES (3, 'u1', 'l1')").await;
            line.agree(&format!("{table}: behind {unlogged}")).await;
        }
        line.is_well().await;
        line.stop().await;
    }
}

/// A catalog that our role may not read is trouble, told once, while what the log brings flows on.
#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_cannot_be_read_is_trouble_until_it_can_be() {
    let mut line = given("t, o", &config(), OUTPUTS).await;
    line.server.allow_log("HW3053");
    line.execute("REVOKE SELECT ON pg_catalog.pg_publication FROM PUBLIC").await;
    let trouble = async |told: bool| {
        super::soon("what the status says of the catalog", line.report(), || async {
            let status = rig::status(&line.server).await?;
            let why = status["trouble"].as_str().unwrap_or_default();
            (why.contains("HW3053") == told).then_some(())
        })
        .await;
    };
    trouble(true).await;
    line.execute("INSERT INTO o VALUES (2, 'others flow')").await;
    trouble(true).await;
    line.server.until_log("HW3053").await;
    let logged = line.server.log().matches("\"code\":\"HW3053\"").count();
    assert_eq!(logged, 1, "once, not with each look");
    line.execute("GRANT SELECT ON pg_catalog.pg_publication TO PUBLIC").await;
    trouble(false).await;
    line.agree("behind it").await;
    line.is_well().await;
    line.stop().await;
}

/// Whose lock keeps looks at the catalog waiting is said while it does, and logged once.
#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_somebody_has_locked_is_trouble_that_names_who() {
    let config = config();
    let mut line = Line::on(rig::cluster(), SCHEMA, &config, OUTPUTS).await;
    let locker = line.rig.cluster.client(&line.rig.database.name).await;
    let lock = "BEGIN; LOCK TABLE pg_catalog.pg_publication_rel IN ACCESS EXCLUSIVE MODE";
    locker.batch_execute(lock).await.expect("locked");
    let pid: i32 = locker.query_one("SELECT pg_backend_pid()", &[]).await.expect("asked").get(0);
    line.names("HW2127").await;
    line.names(&format!("pid {pid} ")).await;
    locker.batch_execute("COMMIT").await.expect("unlocked");
    line.execute("INSERT INTO o VALUES (2, 'later')").await;
    line.agree("unlocked").await;
    line.is_well().await;
    assert_eq!(line.server.log().matches("\"code\":\"HW2127\"").count(), 1);
    line.stop().await;
}

/// A table that somebody else's publication lacks when a configuration first names it is withheld and
/// named, not served as if it were empty.
#[tokio::test(flavor = "multi_thread")]
async fn fd_22_a_table_that_a_given_publication_lacks_is_withheld_until_it_is_there() {
    let mut line = given("o", &streams(&["SELECT * FROM o"]), &OUTPUTS[1..]).await;
    line.configure(&streams(&["SELECT * FROM o", "SELECT * FROM t"]));
    line.names("public.t").await;
    super::soon("its definition is withheld", line.report(), || async {
        let status = rig::status(&line.server).await?;
        let withheld = status["sync"]["withheld"].as_array()?;
        (withheld.len() == 1 && status["sync"]["refused"].as_array()?.len() == 1).then_some(())
    })
    .await;
    line.execute("INSERT INTO o VALUES (2, 'others flow')").await;
    line.agree("the other table is served").await;
    line.execute("ALTER PUBLICATION headwater ADD TABLE t").await;
    line.outputs = OUTPUTS.to_vec();
    line.agree("it is there").await;
    line.is_well().await;
    line.stop().await;
}

/// The status says that these are not served.
async fn withholds(line: &Line, names: &[&str]) {
    super::soon(&format!("{names:?} are withheld"), line.report(), || async {
        let status = rig::status(&line.server).await?;
        let withheld = status["sync"]["withheld"].as_array()?.iter().map(|name| name.as_str());
        withheld.eq(names.iter().copied().map(Some)).then_some(())
    })
    .await;
}

/// A column that a publication does not send is not NULL: what reads it is not served and named, at a
/// start, behind a change, at a reload; `*` gives the columns that there are.
#[tokio::test(flavor = "multi_thread")]
async fn fd_22_what_reads_a_column_that_is_not_sent_is_withheld_until_it_is_sent() {
    let queries = [
        "SELECT id, a FROM t",
        "SELECT * FROM t AS every",
        "SELECT id, b FROM t AS part",
        "SELECT id, a FROM t AS chosen WHERE b IS NULL",
    ];
    let without: &[Output] = &[("t", "SELECT id, a FROM t"), ("every", "SELECT id, a FROM t")];
    let with: &[Output] = &[
        ("t", "SELECT id, a FROM t"),
        ("every", "SELECT * FROM t"),
        ("part", "SELECT id, b FROM t"),
        ("chosen", "SELECT id, a FROM t WHERE b IS NULL"),
    ];
    let mut line = given("t (id, a), o", &streams(&queries), without).await;
    withholds(&line, &["s2", "s3"]).await;
    line.names("of public.t: what reads it is not served").await;
    line.execute("INSERT INTO t VALUES (3, 'later', NULL)").await;
    line.agree("what reads no such column goes on").await;

    line.execute("ALTER PUBLICATION headwater SET TABLE t, o").await;
    line.outputs = with.to_vec();
    line.agree("all columns are sent").await;
    withholds(&line, &[]).await;
    line.is_well().await;

    line.execute("ALTER PUBLICATION headwater SET TABLE t (id, a), o").await;
    line.execute("INSERT INTO t VALUES (4, 'later', NULL), (5, 'later', 5)").await;
    line.outputs = without.to_vec();
    line.agree("they are not sent any more").await;
    withholds(&line, &["s2", "s3"]).await;

    // What is served stays, in place of what would not be.
    line.configure(&streams(&["SELECT id, a, b FROM t", queries[1], queries[2], queries[3]]));
    line.logs("could not be served any more").await;
    line.execute("INSERT INTO t VALUES (6, 'later', NULL)").await;
    line.agree("the reload is refused").await;
    line.configure(&streams(&queries));

    line.server.kill();
    line.execute("INSERT INTO t VALUES (7, 'while away', NULL)").await;
    line.server.spawn_again();
    line.agree("at a start").await;
    withholds(&line, &["s2", "s3"]).await;

    // As the finding says.
    line.execute(
        "BEGIN; ALTER PUBLICATION \"headwater\" DROP TABLE ONLY \"public\".\"t\";
         ALTER PUBLICATION \"headwater\" ADD TABLE ONLY \"public\".\"t\" (\"id\", \"a\", \"b\"); COMMIT;",
    )
    .await;
    line.outputs = with.to_vec();
    line.agree("mended").await;
    line.is_well().await;
    line.stop().await;
}

/// A column that is not there, any more or yet, is not NULL either: a condition over NULL would let other
/// rows through. At a change of the table and at a reload; and no reload takes the place of what is served
/// with a table that is not there.
#[tokio::test(flavor = "multi_thread")]
async fn fd_22_what_reads_a_column_that_is_not_there_is_withheld_until_it_is() {
    let schema = "
        CREATE TABLE notes (id int PRIMARY KEY, body text, secret boolean NOT NULL);
        INSERT INTO notes VALUES (1, 'for all', false), (2, 'for nobody', true);";
    let all = "SELECT id, body FROM notes";
    let queries = [all, "SELECT id, body FROM notes AS open WHERE NOT secret"];
    let without: &[Output] = &[("notes", all)];
    let with: &[Output] =
        &[("notes", all), ("open", "SELECT id, body FROM notes WHERE NOT secret")];
    let mut line = given_over(schema, "notes", &streams(&queries), with).await;
    line.agree("the column is there").await;

    line.execute("ALTER TABLE notes RENAME secret TO is_secret").await;
    line.execute("INSERT INTO notes VALUES (3, 'for nobody', true)").await;
    line.outputs = without.to_vec();
    line.agree("it is not").await;
    withholds(&line, &["s1"]).await;
    line.names("public.notes has no column").await;
    line.execute("ALTER TABLE notes RENAME is_secret TO secret").await;
    line.outputs = with.to_vec();
    line.agree("it is there again").await;
    withholds(&line, &[]).await;

    for (mistyped, what) in [
        ("SELECT id, body FROM notes AS open WHERE NOT secrt", "public.notes has no column"),
        ("SELECT id, body FROM notez AS open", "there is no table public.notez"),
    ] {
        line.configure(&streams(&[all, mistyped]));
        line.logs(what).await;
        line.execute("UPDATE notes SET body = body || '.'").await;
        line.agree("the reload is refused").await;
    }
    line.configure(&streams(&queries));

    line.execute("ALTER TABLE notes DROP COLUMN secret").await;
    line.outputs = without.to_vec();
    line.agree("it was dropped").await;
    line.execute("ALTER TABLE notes ADD COLUMN secret boolean NOT NULL DEFAULT true").await;
    line.execute("INSERT INTO notes VALUES (4, 'for all', false)").await;
    line.outputs = with.to_vec();
    line.agree("it was made again").await;
    line.is_well().await;
    line.stop().await;
}

/// A permission of which a column is not sent grants nothing, also where another definition has the same
/// buckets.
#[tokio::test(flavor = "multi_thread")]
async fn fd_22_a_permission_without_one_of_its_columns_grants_nothing() {
    let schema = "
        CREATE TABLE members (usr text, list text, hidden boolean, PRIMARY KEY (usr, list));
        CREATE TABLE docs (id text PRIMARY KEY, list text);
        INSERT INTO members VALUES ('u1', 'l1', true), ('u1', 'l2', NULL);
        INSERT INTO docs VALUES ('own', 'u1'), ('hidden', 'l1'), ('shown', 'l2');";
    let config = streams(&[
        "SELECT * FROM docs WHERE list = auth.user_id()",
        "SELECT * FROM docs WHERE list IN \
         (SELECT list FROM members WHERE usr = auth.user_id() AND hidden IS NULL)",
    ]);
    let own: &[Output] = &[("docs", "SELECT * FROM docs WHERE list = {user}")];
    let all: &[Output] = &[(
        "docs",
        "SELECT * FROM docs WHERE list = {user} OR list IN
         (SELECT list FROM members WHERE usr = {user} AND hidden IS NULL)",
    )];
    let mut line = given_over(schema, "docs, members (usr, list)", &config, own).await;
    withholds(&line, &["s1"]).await;
    line.execute("ALTER PUBLICATION headwater SET TABLE docs, members").await;
    line.outputs = all.to_vec();
    line.agree("the column is sent").await;
    line.execute("ALTER PUBLICATION headwater SET TABLE docs, members (usr, list)").await;
    line.outputs = own.to_vec();
    line.agree("and is not any more").await;
    line.stop().await;
}

/// Generated columns are not sent by a publication of ours.
#[tokio::test(flavor = "multi_thread")]
async fn fd_22_what_reads_a_generated_column_is_withheld_and_takes_nobodys_place() {
    let schema = "
        CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, 'one');
        CREATE TABLE gen (id int PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a * 2) STORED);
        INSERT INTO gen VALUES (1, 21);";
    let served = "SELECT id, a FROM t";
    let t: Output = ("t", "SELECT * FROM t");
    let mut line = Line::start(schema, &streams(&[served]), &["u1"], &[t]).await;
    line.configure(&streams(&["SELECT id, g FROM gen"]));
    line.logs("could not be served any more").await;
    line.agree("the reload is refused").await;
    line.configure(&streams(&[served, "SELECT id, g FROM gen AS part", "SELECT * FROM gen"]));
    line.outputs = vec![t, ("gen", "SELECT id, a FROM gen")];
    line.agree("what can be served is").await;
    withholds(&line, &["s1"]).await;
    line.names("of public.gen: what reads it is not served").await;
    line.stop().await;
}

/// A cluster of this major.
fn cluster_of(major: u32) -> Cluster {
    let settings = &[("max_slot_wal_keep_size", "20GB")];
    Cluster::start_with(ClusterOptions {
        major: Some(major),
        settings,
        ..ClusterOptions::default()
    })
}

/// On the oldest and the newest major, where the server answers a missing publication differently.
async fn on_major(major: u32, change: &str) {
    let mut line = Line::on(cluster_of(major), SCHEMA, &config(), OUTPUTS).await;
    line.execute(change).await;
    line.agree(&format!("Postgres {major}: {change}")).await;
    line.execute("INSERT INTO t VALUES (9, 'later', 1); INSERT INTO o VALUES (9, 'later')").await;
    line.agree(&format!("Postgres {major}, later")).await;
    line.is_well().await;
    line.stop().await;
}

/// The oldest and the newest.
fn some_majors() -> BTreeSet<u32> {
    let majors = hw_testkit::majors();
    majors.first().into_iter().chain(majors.last()).copied().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_9_a_publication_that_is_dropped_and_made_again_loses_nothing() {
    for major in some_majors() {
        on_major(
            major,
            "DROP PUBLICATION headwater; INSERT INTO t VALUES (3, 'lost', 1);
             CREATE PUBLICATION headwater FOR TABLE t, o",
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_9_a_publication_that_is_dropped_is_made_again() {
    for major in some_majors() {
        on_major(
            major,
            "DROP PUBLICATION headwater; INSERT INTO t VALUES (3, 'lost', 1);
             UPDATE o SET a = 'changed'",
        )
        .await;
    }
}

/// A publication of somebody else that is gone: what it sent is not shown, and named by table, until there
/// is one again.
#[tokio::test(flavor = "multi_thread")]
async fn fd_9_a_given_publication_that_was_dropped_is_named_until_there_is_one_again() {
    for major in hw_testkit::majors() {
        let mut line = given_on(cluster_of(major), SCHEMA, "TABLE t, o", &config(), OUTPUTS).await;
        line.execute("DROP PUBLICATION headwater; INSERT INTO t VALUES (3, 'unseen', 1)").await;
        line.outputs.clear();
        line.agree(&format!("Postgres {major}: nothing is vouched for")).await;
        line.execute("INSERT INTO o VALUES (2, 'unseen as well')").await;
        line.names("does not exist and this role may not create it").await;
        super::soon("both tables are refused", line.report(), || async {
            let status = rig::status(&line.server).await?;
            (status["sync"]["refused"].as_array()?.len() == 2).then_some(())
        })
        .await;
        line.execute("CREATE PUBLICATION headwater FOR TABLE t, o").await;
        line.outputs = OUTPUTS.to_vec();
        line.agree(&format!("Postgres {major}: there is one again")).await;
        line.is_well().await;
        line.stop().await;
    }
}
