//! DDL that says nothing in the log, and tables that can no longer be followed (FD-10 to FD-14).

use super::{Line, Output, fresh, streams};
use crate::rig;

/// Runs the statements one after another, with the clients agreeing behind each.
async fn follows(schema: &str, config: &str, outputs: &[Output], changes: &[&str]) {
    let mut line = Line::start(schema, config, &["u1"], outputs).await;
    for change in changes {
        line.execute(change).await;
        line.agree(change).await;
    }
    line.is_well().await;
    line.stop().await;
}

const PARTITIONED: &str = "
    CREATE TABLE p (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);
    CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (10);
    CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (10) TO (20);
    INSERT INTO p VALUES (1, 'one'), (2, 'two'), (11, 'eleven');
    CREATE TABLE p_3 (id int PRIMARY KEY, a text);
    INSERT INTO p_3 VALUES (21, 'there before'), (22, 'it came');
";
const P: &[Output] = &[("p", "SELECT * FROM p")];

#[tokio::test(flavor = "multi_thread")]
async fn fd_10_a_filled_partition_that_is_attached_comes_with_its_rows() {
    let changes = &[
        "ALTER TABLE p ATTACH PARTITION p_3 FOR VALUES FROM (20) TO (30)",
        "DELETE FROM p WHERE id = 21",
    ];
    follows(PARTITIONED, &streams(&["SELECT * FROM p"]), P, changes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_10_a_partition_that_is_detached_dropped_or_emptied_takes_its_rows_away() {
    let changes = &[
        "TRUNCATE p_1",
        "INSERT INTO p VALUES (3, 'again')",
        "ALTER TABLE p DETACH PARTITION p_1",
        "DROP TABLE p_2",
    ];
    follows(PARTITIONED, &streams(&["SELECT * FROM p"]), P, changes).await;
}

/// The log tells a TRUNCATE of a root, and none of a partition: what follows at once must not be taken for
/// what was told.
#[tokio::test(flavor = "multi_thread")]
async fn fd_10_a_partition_that_is_emptied_right_behind_something_that_is_told_is_noticed() {
    let again = "INSERT INTO p VALUES (1, 'again'), (11, 'again')";
    for steps in [
        &["TRUNCATE p", again, "TRUNCATE p_1"][..],
        &[
            "CREATE TABLE p_4 PARTITION OF p FOR VALUES FROM (100) TO (200)",
            "INSERT INTO p VALUES (101, 'new')",
            "TRUNCATE p_4",
        ],
        // What another transaction than the one in the log did to the catalog is not known as told.
        &["BEGIN; SAVEPOINT one; TRUNCATE p; RELEASE one; COMMIT", again],
        &["TRUNCATE p", again, "TRUNCATE p", again],
    ] {
        let mut line = Line::start(PARTITIONED, &streams(&["SELECT * FROM p"]), &["u1"], P).await;
        for step in steps {
            line.execute(step).await;
        }
        line.agree(&format!("{steps:?}")).await;
        line.is_well().await;
        line.stop().await;
    }
}

const PLAIN: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'glad');
    CREATE TABLE t (id int PRIMARY KEY, n int, m mood);
    INSERT INTO t VALUES (1, 10, 'sad'), (2, 20, 'glad');
";
const T: &[Output] = &[("t", "SELECT * FROM t")];

#[tokio::test(flavor = "multi_thread")]
async fn fd_10_columns_and_types_that_change_without_a_write_are_noticed() {
    let changes = &[
        "ALTER TABLE t ALTER COLUMN n TYPE int USING n * 100",
        "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",
        "ALTER TABLE t ADD COLUMN c text DEFAULT 'constant'",
        "ALTER TABLE t ADD COLUMN v float8 DEFAULT random()",
        "ALTER TABLE t RENAME COLUMN c TO d",
        "ALTER TABLE t ADD COLUMN e text",
        "ALTER TABLE t DROP COLUMN v",
        "INSERT INTO t VALUES (3, 3, 'blue', 'd', 'e')",
    ];
    follows(PLAIN, &streams(&["SELECT * FROM t"]), T, changes).await;
}

/// The type of what was written while the server was away is not the one that the server finds: an
/// attribute went and another came, of the same type or not.
#[tokio::test(flavor = "multi_thread")]
async fn fd_15_composites_altered_while_the_server_is_away_are_copied_again() {
    let schema = "
        CREATE TYPE addr AS (street text, zip text);
        CREATE TABLE t (id int PRIMARY KEY, a addr); INSERT INTO t VALUES (1, '(x,1)')";
    let t: &[Output] = &[("t", "SELECT id, row_to_json(a)::text AS a FROM t")];
    let mut line = Line::start(schema, &streams(&["SELECT * FROM t"]), &["u1"], t).await;
    for (id, came) in [(2, "town text"), (4, "since int"), (6, "town text")] {
        line.server.stop().await;
        let went = rig::ask(
            &line.rig.sql,
            "SELECT attname FROM pg_attribute WHERE attrelid = 'addr'::regclass AND attnum > 0
             AND NOT attisdropped ORDER BY attnum DESC LIMIT 1",
        );
        let went = went.await.expect("it has one");
        line.execute(&format!(
            "INSERT INTO t VALUES ({id}, ROW('y', NULL)); UPDATE t SET a.street = 'z'"
        ))
        .await;
        line.execute(&format!("ALTER TYPE addr DROP ATTRIBUTE {went}, ADD ATTRIBUTE {came}")).await;
        line.execute(&format!("INSERT INTO t VALUES ({id} + 1, ROW('z', '7'))")).await;
        line.server.spawn_again();
        line.agree(came).await;
        line.is_well().await;
    }
    line.stop().await;
}

/// A table that is gone by name: its rows leave, also for a client that comes later; the status names
/// it; and when it is there again, so are they.
async fn leaves_and_returns(gone: &str, back: &str) {
    let mut line = Line::start(PLAIN, &streams(&["SELECT * FROM t"]), &["u1"], T).await;
    line.execute(gone).await;
    line.names("public.t").await;
    line.follow("u1", &format!("{gone}: the rows leave"), |client| client.table("t").is_empty())
        .await;
    assert!(fresh(&line.server, "u1").await.table("t").is_empty(), "{gone}: a fresh client");
    line.execute(back).await;
    line.agree(back).await;
    line.is_well().await;
    line.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_10_a_table_that_is_dropped_takes_its_rows_away() {
    let back =
        "CREATE TABLE t (id int PRIMARY KEY, n int, m mood); INSERT INTO t VALUES (9, 9, 'sad')";
    leaves_and_returns("DROP TABLE t", back).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_10_a_table_that_is_renamed_or_moved_away_takes_its_rows_away() {
    leaves_and_returns("ALTER TABLE t RENAME TO away", "ALTER TABLE away RENAME TO t").await;
    leaves_and_returns(
        "CREATE SCHEMA far; ALTER TABLE t SET SCHEMA far",
        "ALTER TABLE far.t SET SCHEMA public; INSERT INTO t VALUES (3, 3, 'sad')",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_10_tables_of_a_wildcard_come_and_go() {
    let schema = "
        CREATE TABLE l_1 (id int PRIMARY KEY, a text); INSERT INTO l_1 VALUES (1, 'a');
        CREATE TABLE l_2 (id int PRIMARY KEY, a text); INSERT INTO l_2 VALUES (2, 'b')";
    let config = streams(&["SELECT * FROM \"l_%\" AS l"]);
    let all = |names: &[&str]| -> String {
        let parts: Vec<String> = names.iter().map(|n| format!("SELECT * FROM {n}")).collect();
        parts.join(" UNION ALL ")
    };
    let mut line =
        Line::start(schema, &config, &["u1"], &[("l", all(&["l_1", "l_2"]).leak())]).await;
    let mut step = async |change: &str, names: &[&str]| {
        line.execute(change).await;
        let sql: &'static str = all(names).leak();
        line.outputs = vec![("l", sql)];
        line.agree(change).await;
    };
    step("INSERT INTO l_1 VALUES (10, 'c')", &["l_1", "l_2"]).await;
    step("DROP TABLE l_2", &["l_1"]).await;
    step("ALTER TABLE l_1 RENAME TO l_9", &["l_9"]).await;
    step(
        "CREATE TABLE l_3 (id int PRIMARY KEY, a text); INSERT INTO l_3 VALUES (3, 'n')",
        &["l_9", "l_3"],
    )
    .await;
    step("ALTER TABLE l_9 RENAME TO other", &["l_3"]).await;
    line.stop().await;
}

const DOCS: &str = "
    CREATE TABLE members (usr text, list text, PRIMARY KEY (usr, list));
    CREATE TABLE docs (id text PRIMARY KEY, list text, body text);
    CREATE TABLE o (id text PRIMARY KEY, a text);
    INSERT INTO members VALUES ('u1', 'l1'), ('u2', 'l2');
    INSERT INTO docs VALUES ('d1', 'l1', 'one'), ('d2', 'l2', 'two');
    INSERT INTO o VALUES ('o1', 'for all');
";

fn docs_config() -> String {
    streams(&[
        "SELECT * FROM docs WHERE list IN (SELECT list FROM members WHERE usr = auth.user_id())",
        "SELECT * FROM o",
    ])
}

const DOCS_OUT: &[Output] = &[
    ("docs", "SELECT * FROM docs WHERE list IN (SELECT list FROM members WHERE usr = {user})"),
    ("o", "SELECT * FROM o"),
];

/// What decides access can no longer be followed: nothing new of what it guards is sent to anybody,
/// and what does not depend on it flows.
async fn guards_nothing_more(gone: &str, who_mends: Option<&str>) {
    let mut line = Line::start(DOCS, &docs_config(), &["u1", "u2"], DOCS_OUT).await;
    line.execute(gone).await;
    line.names("public.members").await;
    line.execute(
        "INSERT INTO docs VALUES ('secret', 'l1', 'x'); INSERT INTO o VALUES ('later', 'x')",
    )
    .await;
    line.follow("u1", "what does not depend on it flows", |c| c.table("o").contains_key("later"))
        .await;
    let has = |client: &hw_testkit::oracle::SyncClient| client.table("docs").contains_key("secret");
    assert!(!has(&line.clients["u1"]), "{gone}: a client that was there");
    assert!(!has(&fresh(&line.server, "u1").await), "{gone}: a fresh client");
    if let Some(mend) = who_mends {
        line.execute(mend).await;
        line.agree(mend).await;
        line.is_well().await;
    }
    line.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_11_a_permission_table_that_is_dropped_or_renamed_ends_what_it_grants() {
    guards_nothing_more("DROP TABLE members", None).await;
    guards_nothing_more(
        "ALTER TABLE members RENAME TO away",
        Some("DELETE FROM away WHERE usr = 'u1'; ALTER TABLE away RENAME TO members"),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_11_a_permission_table_without_its_key_ends_what_it_grants() {
    guards_nothing_more(
        "ALTER TABLE members DROP CONSTRAINT members_pkey",
        Some(
            "ALTER TABLE members ADD PRIMARY KEY (usr, list); DELETE FROM members WHERE usr = 'u1'",
        ),
    )
    .await;
}

/// Our own publication: it is published again, and the members are those of now.
#[tokio::test(flavor = "multi_thread")]
async fn fd_11_a_permission_table_that_leaves_the_publication_is_compared() {
    let mut line = Line::start(DOCS, &docs_config(), &["u1", "u2"], DOCS_OUT).await;
    line.execute(
        "ALTER PUBLICATION headwater DROP TABLE members; DELETE FROM members WHERE usr = 'u1'",
    )
    .await;
    line.agree("the member that was removed unseen").await;
    line.execute("INSERT INTO docs VALUES ('secret', 'l1', 'x'), ('d3', 'l2', 'x')").await;
    line.agree("behind it").await;
    line.stop().await;
}

const PAIR: &str = "
    CREATE TABLE a (id text PRIMARY KEY, v text); CREATE TABLE b (id text PRIMARY KEY, v text);
    INSERT INTO a SELECT 'a' || i, 'a' FROM generate_series(1, 5) i;
    INSERT INTO b SELECT 'b' || i, 'b' FROM generate_series(1, 5) i;
";
const PAIR_OUT: &[Output] = &[("a", "SELECT * FROM a"), ("b", "SELECT * FROM b")];
const SWAP: &str = "BEGIN; ALTER TABLE a RENAME TO tmp; ALTER TABLE b RENAME TO a;
    ALTER TABLE tmp RENAME TO b;";

#[tokio::test(flavor = "multi_thread")]
async fn fd_12_two_tables_that_exchange_their_names_are_not_mixed() {
    let config = streams(&["SELECT * FROM a", "SELECT * FROM b"]);
    let mut line = Line::start(PAIR, &config, &["u1"], PAIR_OUT).await;
    line.execute(&format!(
        "{SWAP} INSERT INTO a VALUES ('new-a', 'x'); INSERT INTO b VALUES ('new-b', 'x'); COMMIT"
    ))
    .await;
    line.agree("with writes").await;
    line.execute(&format!("{SWAP} COMMIT")).await;
    line.agree("without a write").await;
    line.server.kill();
    line.execute(&format!("{SWAP} INSERT INTO a VALUES ('down-a', 'x'); COMMIT")).await;
    line.server.spawn_again();
    line.agree("while down").await;
    line.execute("UPDATE a SET v = 'later'; DELETE FROM b WHERE v = 'a'").await;
    line.agree("later").await;
    line.stop().await;
}

/// A table that goes, and whose name another synced table takes, leaves when that one enters.
#[tokio::test(flavor = "multi_thread")]
async fn fd_12_a_table_that_is_replaced_by_another_synced_table_leaves() {
    let pair = streams(&["SELECT * FROM a", "SELECT * FROM b"]);
    let parts = "
        CREATE TABLE l_1 (id text PRIMARY KEY, v text); INSERT INTO l_1 VALUES ('1', 'new');
        CREATE TABLE l_2 (id text PRIMARY KEY, v text); INSERT INTO l_2 VALUES ('2', 'old');
        CREATE TABLE l_3 (id text PRIMARY KEY, v text); INSERT INTO l_3 VALUES ('3', 'oldest')";
    let wildcard = streams(&["SELECT * FROM \"l_%\" AS l"]);
    let all = [("l", "SELECT * FROM l_1 UNION ALL SELECT * FROM l_2 UNION ALL SELECT * FROM l_3")];
    let ways: [(&str, &str, &[Output], &str, &str); 3] = [
        (PAIR, &pair, PAIR_OUT, "DROP TABLE b; ALTER TABLE a RENAME TO b;", "a"),
        (
            PAIR,
            &pair,
            PAIR_OUT,
            "ALTER TABLE a RENAME TO a_old; ALTER TABLE b RENAME TO a; DROP TABLE a_old;",
            "b",
        ),
        (
            parts,
            &wildcard,
            &all,
            "DROP TABLE l_3; ALTER TABLE l_2 RENAME TO l_3; ALTER TABLE l_1 RENAME TO l_2;",
            "l_1",
        ),
    ];
    for (schema, config, outputs, change, free) in ways {
        let mut line = Line::start(schema, config, &["u1"], outputs).await;
        // Each time another id: two tables of one output must not have one row name between them.
        let again = |id: &str| {
            format!(
                "CREATE TABLE {free} (id text PRIMARY KEY, v text); \
                 INSERT INTO {free} VALUES ('{id}', 'y')"
            )
        };
        line.execute(change).await;
        line.execute(&again("x")).await;
        line.agree(change).await;
        line.is_well().await;
        line.server.kill();
        line.execute(&format!("{change} {}", again("z"))).await;
        line.server.spawn_again();
        line.agree(&format!("while down: {change}")).await;
        line.is_well().await;
        line.execute(&format!("UPDATE {free} SET v = 'later'")).await;
        line.agree("later").await;
        line.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_13_another_primary_key_under_identity_full_is_noticed() {
    let schema = "
        CREATE TABLE t (id text PRIMARY KEY, org text, v text);
        ALTER TABLE t REPLICA IDENTITY FULL;
        INSERT INTO t VALUES ('1', 'x', 'v')";
    let outputs: &[Output] = &[("t", "SELECT id || '-' || org AS id, v FROM t")];
    let config = streams(&["SELECT id || '-' || org AS id, v FROM t"]);
    let mut line = Line::start(schema, &config, &["u1"], outputs).await;
    line.execute("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, org)").await;
    line.execute("INSERT INTO t VALUES ('1', 'y', 'v'), ('2', 'x', 'v')").await;
    line.execute("DELETE FROM t WHERE id = '1' AND org = 'x'").await;
    line.agree("two rows with one id").await;
    line.stop().await;
}

/// A table that loses its identity is named at once, its definition stands still, others flow, write
/// checkpoints of those who do not read it complete; with the key it heals.
#[tokio::test(flavor = "multi_thread")]
async fn fd_14_a_table_that_loses_its_identity_is_named_and_heals_with_it() {
    let schema = "
        CREATE TABLE t (id int PRIMARY KEY, a text); CREATE TABLE o (id text PRIMARY KEY, a text);
        INSERT INTO t VALUES (1, 'x'); INSERT INTO o VALUES ('o1', 'x')";
    let outputs: &[Output] = &[("t", "SELECT * FROM t"), ("o", "SELECT * FROM o")];
    let ways = [
        ("ALTER TABLE t DROP CONSTRAINT t_pkey", "ALTER TABLE t ADD PRIMARY KEY (id)"),
        ("ALTER TABLE t REPLICA IDENTITY NOTHING", "ALTER TABLE t REPLICA IDENTITY DEFAULT"),
    ];
    let config = streams(&["SELECT * FROM t", "SELECT * FROM o"]);
    let mut line = Line::start(schema, &config, &["u1"], outputs).await;
    for (round, (gone, back)) in ways.iter().enumerate() {
        line.execute(&format!("{gone}; INSERT INTO t VALUES ({round} + 10, 'z')")).await;
        line.names("public.t").await;
        line.execute(&format!("INSERT INTO o VALUES ('later{round}', 'x')")).await;
        let key = format!("later{round}");
        line.follow("u1", "others flow", |client| client.table("o").contains_key(&key)).await;
        line.execute(back).await;
        line.agree(back).await;
        line.is_well().await;
    }
    line.stop().await;
}
