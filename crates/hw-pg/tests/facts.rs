//! What becomes of a table under every kind of DDL, on every major: the facts before and behind a
//! statement, and the fingerprint that says when to read them again.

use hw_pg::catalog::{Catalog, Difference, compare, is_traced, resolve, settle};
use hw_pg::memory;
use hw_pg::publication;
use hw_testkit::{Cluster, ClusterOptions};
use hw_types::facts::TableFacts;
use hw_types::{OpId, TableName, TablePattern, Xid};
use tokio_postgres::Client;

const PLAIN: &str = "
    CREATE TYPE mood AS ENUM ('a', 'b');
    CREATE TYPE addr AS (street text, zip text);
    CREATE DOMAIN positive AS int CHECK (value > 0);
    CREATE TABLE t (id int PRIMARY KEY, a varchar(10), n int, m mood, ad addr, p positive,
                    ms mood[]);
    INSERT INTO t VALUES (1, 'x', 10, 'a', '(s,z)', 5, '{a}');
    CREATE TABLE other (id int PRIMARY KEY);
    CREATE PUBLICATION headwater FOR TABLE ONLY t WITH (publish_via_partition_root = true);";

const PARTED: &str = "
    CREATE TABLE t (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);
    CREATE TABLE p_1 PARTITION OF t FOR VALUES FROM (0) TO (10);
    CREATE TABLE loose (id int PRIMARY KEY, a text);
    INSERT INTO t VALUES (1, 'x');
    CREATE PUBLICATION headwater FOR TABLE t WITH (publish_via_partition_root = true);";

/// By its schema.
const IN_SCHEMA: &str = "
    CREATE SCHEMA s; CREATE TABLE t (id int PRIMARY KEY);
    CREATE PUBLICATION headwater FOR TABLES IN SCHEMA public;";

/// By the partitioned table above it.
const BELOW: &str = "
    CREATE TABLE top (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE mid PARTITION OF top FOR VALUES FROM (0) TO (100) PARTITION BY RANGE (id);
    CREATE TABLE t PARTITION OF mid FOR VALUES FROM (0) TO (50);
    CREATE PUBLICATION headwater FOR TABLE top;";

/// By the schema of the partitioned table above it.
const BELOW_IN_SCHEMA: &str = "
    CREATE SCHEMA s; CREATE TABLE s.top (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE t PARTITION OF s.top FOR VALUES FROM (0) TO (50);
    CREATE PUBLICATION headwater FOR TABLES IN SCHEMA s;";

/// A statement (several, one a line, run one by one) and what follows for `t`: `same`, `adopt`,
/// `copied: …` or the code of the finding of a table that is gone.
type Case = (&'static str, &'static str);

const EXPECTED: &[Case] = &[
    ("INSERT INTO t VALUES (2)\nANALYZE t\nVACUUM t", "same"),
    ("CREATE INDEX ON t (a)", "same"),
    ("REINDEX TABLE t", "same"),
    ("COMMENT ON TABLE t IS 'x'", "same"),
    ("ALTER TABLE t SET (fillfactor = 50)", "same"),
    ("GRANT SELECT ON t TO PUBLIC", "same"),
    ("ALTER PUBLICATION headwater ADD TABLE other", "same"),
    ("CREATE TABLE unrelated (id int)", "same"),
    ("ALTER TABLE t ALTER n SET NOT NULL", "adopt"),
    ("ALTER TABLE t ALTER n SET STATISTICS 10", "adopt"),
    ("ALTER TABLE t ALTER a TYPE varchar(20)", "adopt"),
    ("ALTER TYPE mood ADD VALUE 'c'", "adopt"),
    ("ALTER TYPE mood ADD VALUE 'c' BEFORE 'a'", "adopt"),
    ("VACUUM FULL t", "adopt"),
    ("CLUSTER t USING t_pkey", "adopt"),
    ("TRUNCATE t", "adopt"),
    // Attached to a partitioned table for a while, it would not be told.
    (BELOW_FOR_A_WHILE, REWRITTEN),
    ("ALTER TABLE t ALTER n TYPE int USING n * 100", REWRITTEN),
    ("ALTER TABLE t ALTER id TYPE int USING id + 1", REWRITTEN),
    ("ALTER TABLE t ALTER id TYPE int USING id + 1, ADD c int", COLUMNS),
    ("ALTER TABLE t DROP id, ADD id serial PRIMARY KEY", COLUMNS),
    ("ALTER TABLE t ALTER id TYPE bigint", COLUMNS),
    ("ALTER TABLE t ALTER n TYPE bigint", COLUMNS),
    ("ALTER TABLE t ADD c int", COLUMNS),
    ("ALTER TABLE t ADD c int DEFAULT 7", COLUMNS),
    ("ALTER TABLE t ADD c float DEFAULT random()", COLUMNS),
    ("ALTER TABLE t RENAME a TO z", COLUMNS),
    ("ALTER TABLE t DROP a", COLUMNS),
    ("ALTER TABLE t DROP a, ADD a varchar(10)", COLUMNS),
    ("ALTER TYPE mood RENAME VALUE 'a' TO 'x'", TYPES),
    // There and back between two looks: what was written in between has another label.
    ("ALTER TYPE mood RENAME VALUE 'a' TO 'x'\nALTER TYPE mood RENAME VALUE 'x' TO 'a'", TYPES),
    ("ALTER TYPE addr ADD ATTRIBUTE country text", TYPES),
    ("ALTER TYPE addr DROP ATTRIBUTE zip", TYPES),
    ("ALTER TYPE addr RENAME ATTRIBUTE zip TO code", TYPES),
    ("ALTER TABLE t REPLICA IDENTITY FULL", KEY),
    ("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, n)", KEY),
    ("ALTER PUBLICATION headwater DROP TABLE t\nALTER PUBLICATION headwater ADD TABLE t", MEMBER),
    (
        "ALTER PUBLICATION headwater SET (publish = 'insert')
         ALTER PUBLICATION headwater SET (publish = 'insert, update, delete, truncate')",
        SETTINGS,
    ),
    ("ALTER PUBLICATION headwater SET (publish_via_partition_root = false)", SETTINGS),
    (
        "DROP PUBLICATION headwater
         CREATE PUBLICATION headwater FOR TABLE t WITH (publish_via_partition_root = true)",
        "copied: the publication is another one than before",
    ),
    ("DROP TABLE t", "HW2108"),
    ("DROP TABLE t\nCREATE TABLE t (id int PRIMARY KEY)", "HW2108"),
    ("ALTER TABLE t RENAME TO t_old", "HW2115"),
    ("CREATE SCHEMA s\nALTER TABLE t SET SCHEMA s", "HW2115"),
    // It is listed itself, wherever it is.
    ("CREATE SCHEMA s\nALTER TABLE t SET SCHEMA s\nALTER TABLE s.t SET SCHEMA public", "same"),
    (
        "ALTER TABLE t RENAME TO x\nALTER TABLE other RENAME TO t\nALTER TABLE x RENAME TO other",
        "HW2115",
    ),
    ("ALTER PUBLICATION headwater DROP TABLE t", "HW2103"),
    ("ALTER PUBLICATION headwater SET TABLE other", "HW2103"),
    ("DROP PUBLICATION headwater", "HW2103"),
    ("ALTER PUBLICATION headwater SET (publish = 'insert, update')", "HW2104"),
    ("ALTER PUBLICATION headwater SET (publish = 'insert, update, delete')", "HW2104"),
    ("ALTER TABLE t DROP CONSTRAINT t_pkey", "HW2106"),
    ("ALTER TABLE t REPLICA IDENTITY NOTHING", "HW2106"),
    ("CREATE TEMPORARY TABLE heir () INHERITS (t)", "same"),
    ("CREATE TABLE heir () INHERITS (t)", "HW2118"),
    ("ALTER TABLE other ADD a varchar(10), ADD n int, ADD m mood, ADD ad addr, ADD p positive, ADD ms mood[]
      ALTER TABLE other INHERIT t", "HW2118"),
    ("CREATE TABLE heir () INHERITS (t)\nDROP TABLE heir", "same"),
    ("CREATE TABLE parent (n int)\nALTER TABLE t INHERIT parent", "adopt"),
    ("ALTER TABLE t ADD named regclass", "HW2119"),
    ("ALTER TABLE t ADD named regrole[] DEFAULT '{}'", "HW2119"),
    ("ALTER TYPE addr ADD ATTRIBUTE named regtype", "HW2119"),
];

const BELOW_FOR_A_WHILE: &str = "CREATE TABLE top (LIKE t) PARTITION BY RANGE (id)
         ALTER TABLE top ATTACH PARTITION t FOR VALUES FROM (0) TO (100)
         TRUNCATE t
         ALTER TABLE top DETACH PARTITION t
         DROP TABLE top";
const COLUMNS: &str = "copied: its columns, or those that the publication sends, have changed";
const TYPES: &str = "copied: a type of its columns was altered";
const KEY: &str = "copied: its key or replica identity has changed";
const MEMBER: &str = "copied: it left the publication and came back";
const SETTINGS: &str = "copied: the publication's settings were changed";
const REWRITTEN: &str = "copied: it was rewritten";
const PARTITIONS: &str = "copied: its partitions have changed";

/// Those behind which rows of before may be gone or others without a trace in the log, by how they begin.
const UNTRACED: &[&str] = &[
    "ALTER TABLE t ALTER id TYPE int USING id + 1",
    "ALTER TABLE t DROP id, ADD id serial PRIMARY KEY",
    "ALTER TABLE t ALTER a TYPE text USING a || '!'",
    "ALTER TABLE t DETACH",
    "DROP TABLE p_1",
    "TRUNCATE",
    "ALTER TABLE t SET UNLOGGED",
    "ALTER PUBLICATION headwater DROP TABLE t",
    "ALTER PUBLICATION headwater SET",
    "ALTER PUBLICATION headwater ADD TABLES",
    "DROP PUBLICATION headwater",
    // It publishes the table under another one.
    "CREATE TABLE top",
    "BEGIN",
    "ALTER TABLE t SET SCHEMA s",
    "ALTER TABLE mid DETACH",
    "ALTER TABLE top DETACH",
    "ALTER TABLE s.top",
];

const UNSEEN: &str = "ALTER TABLE t DETACH PARTITION p_1\nUPDATE p_1 SET a = 'unseen'
         ALTER TABLE t ATTACH PARTITION p_1 FOR VALUES FROM (0) TO (10)";

/// Right if the log told a TRUNCATE.
const EMPTIED: &str = "emptied, or copied";

/// Since major 15.
const SINCE_15: &[Case] = &[
    ("ALTER PUBLICATION headwater SET TABLE t (id, a)", MEMBER),
    ("ALTER PUBLICATION headwater SET TABLE t WHERE (id > 3)", MEMBER),
    ("ALTER PUBLICATION headwater SET TABLE t (a)", "HW2114"),
    ("ALTER PUBLICATION headwater SET TABLE t (id, a)\nALTER TABLE t ADD named regclass", MEMBER),
    ("ALTER PUBLICATION headwater ADD TABLES IN SCHEMA public", MEMBER),
];

const SINCE_18: &[Case] =
    &[("ALTER PUBLICATION headwater SET (publish_generated_columns = stored)", SETTINGS)];

const OF_PARTITIONS: &[Case] = &[
    ("INSERT INTO t VALUES (2)\nANALYZE t\nANALYZE p_1", "same"),
    ("CREATE TABLE p_2 PARTITION OF t FOR VALUES FROM (10) TO (20)", "adopt"),
    ("ALTER TABLE t ATTACH PARTITION loose FOR VALUES FROM (10) TO (20)", "adopt"),
    (
        "INSERT INTO loose VALUES (11)
         ALTER TABLE t ATTACH PARTITION loose FOR VALUES FROM (10) TO (20)",
        PARTITIONS,
    ),
    ("ALTER TABLE t DETACH PARTITION p_1", PARTITIONS),
    ("ALTER TABLE t DETACH PARTITION p_1 CONCURRENTLY", PARTITIONS),
    (UNSEEN, PARTITIONS),
    ("DROP TABLE p_1", PARTITIONS),
    ("TRUNCATE p_1", EMPTIED),
    ("TRUNCATE t", EMPTIED),
    ("ALTER TABLE t ALTER a TYPE text USING a || '!'", REWRITTEN),
    ("ALTER TABLE p_1 REPLICA IDENTITY NOTHING", "HW2106"),
    ("ALTER PUBLICATION headwater SET (publish_via_partition_root = false)", "HW2103"),
    (
        "CREATE TABLE top (id int PRIMARY KEY, a text) PARTITION BY RANGE (id)
         ALTER TABLE top ATTACH PARTITION t FOR VALUES FROM (0) TO (100)
         ALTER PUBLICATION headwater ADD TABLE top",
        "HW2109",
    ),
];

const OF_SCHEMAS: &[Case] = &[
    ("INSERT INTO t VALUES (1)\nANALYZE t\nVACUUM t\nVACUUM FREEZE pg_catalog.pg_depend", "same"),
    ("VACUUM FULL pg_catalog.pg_depend", "same"),
    ("GRANT SELECT ON t TO PUBLIC", "same"),
    ("ALTER TABLE t OWNER TO reader", "same"),
    ("ALTER SCHEMA public OWNER TO reader\nALTER SCHEMA public OWNER TO CURRENT_USER", "same"),
    ("ALTER TABLE t SET SCHEMA s\nDELETE FROM s.t\nALTER TABLE s.t SET SCHEMA public", MEMBER),
    ("BEGIN\nALTER TABLE t SET SCHEMA s\nALTER TABLE s.t SET SCHEMA public\nCOMMIT", MEMBER),
];

const OF_ANCESTORS: &[Case] = &[
    ("INSERT INTO t VALUES (1)\nANALYZE t\nANALYZE top", "same"),
    ("CREATE TABLE p_2 PARTITION OF mid FOR VALUES FROM (50) TO (100)", "same"),
    ("ALTER TABLE mid DETACH PARTITION t", "HW2103"),
    (
        "BEGIN
         ALTER TABLE mid DETACH PARTITION t
         ALTER TABLE mid ATTACH PARTITION t FOR VALUES FROM (0) TO (50)
         COMMIT",
        MEMBER,
    ),
    (
        "ALTER TABLE top DETACH PARTITION mid
         DELETE FROM t
         ALTER TABLE top ATTACH PARTITION mid FOR VALUES FROM (0) TO (100)",
        MEMBER,
    ),
];

const OF_ANCESTORS_IN_SCHEMAS: &[Case] = &[
    ("INSERT INTO t VALUES (1)\nANALYZE t\nANALYZE s.top", "same"),
    ("ALTER TABLE s.top SET SCHEMA public\nALTER TABLE top SET SCHEMA s", MEMBER),
    (
        "ALTER TABLE s.top DETACH PARTITION t
         ALTER TABLE s.top ATTACH PARTITION t FOR VALUES FROM (0) TO (50)",
        MEMBER,
    ),
];

/// As role `reader`, which may read everything to begin with.
const OF_RIGHTS: &[Case] = &[
    ("REVOKE SELECT ON t FROM reader", "HW2144"),
    ("REVOKE SELECT ON t FROM reader\nGRANT SELECT (id, n) ON t TO reader", "HW2144"),
    ("REVOKE USAGE ON SCHEMA public FROM reader, PUBLIC", "HW2144"),
    ("ALTER TABLE t ENABLE ROW LEVEL SECURITY", "HW2131"),
    ("ALTER TABLE t ENABLE ROW LEVEL SECURITY\nCREATE POLICY few ON t USING (id > 3)", "HW2131"),
    (
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY
         CREATE POLICY each_row ON t FOR SELECT TO reader USING (true)",
        "adopt",
    ),
    ("ALTER TABLE t ENABLE ROW LEVEL SECURITY\nALTER ROLE reader BYPASSRLS", "same"),
];

fn word(difference: Difference) -> String {
    match difference {
        Difference::Same => "same".into(),
        Difference::Adopt => "adopt".into(),
        Difference::Leaves(_) => "not settled".into(),
        Difference::Rewritten(_) => EMPTIED.into(),
        Difference::CopyAgain(reason) => format!("copied: {reason}"),
        Difference::Gone(finding) => finding.code.to_string(),
    }
}

/// Runs each case in a database that is as new.
async fn run_cases(owner: &Client, reader: &Client, setup: &str, cases: &[Case]) {
    const CLEAR: &str = "
        DROP PUBLICATION IF EXISTS headwater; DROP SCHEMA IF EXISTS s CASCADE;
        DROP SCHEMA public CASCADE; CREATE SCHEMA public; ALTER ROLE reader NOBYPASSRLS;
        GRANT USAGE ON SCHEMA public TO PUBLIC;
        ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO reader";
    let patterns = [TablePattern::new("public", "t")];
    for (statements, expected) in cases {
        owner.batch_execute(CLEAR).await.unwrap();
        owner.batch_execute(setup).await.unwrap();
        let before = Catalog::read(reader, "headwater", &patterns, &[]).await.unwrap();
        let noted = before.tables[0].facts.clone();
        assert_eq!(TableFacts::decode(&noted.encode()), Ok(noted.clone()));
        let ids = [noted.id];
        let fingerprint = Catalog::fingerprint(reader, "headwater", &patterns, &ids).await.unwrap();
        for statement in statements.lines() {
            owner.batch_execute(statement).await.unwrap_or_else(|e| panic!("{statement}: {e:?}"));
        }
        let after = Catalog::fingerprint(reader, "headwater", &patterns, &ids).await.unwrap();
        let now = Catalog::read(reader, "headwater", &patterns, &ids).await.unwrap();
        let now = now.table_by_id(noted.id).map(|table| &table.facts);
        let difference = settle(reader, compare(&noted, now), &[]).await.unwrap();
        if difference != Difference::Same {
            assert_ne!(fingerprint, after, "the fingerprint stayed: {statements}");
        }
        if statements.starts_with("INSERT INTO t") || statements.starts_with("CREATE TABLE un") {
            assert_eq!(fingerprint, after, "{statements}");
        }
        if !matches!(difference, Difference::Same | Difference::Adopt) {
            let untraced = now.is_some_and(|now| !is_traced(&noted, now));
            let is_one = UNTRACED.iter().any(|begin| statements.starts_with(begin));
            assert_eq!(untraced, is_one, "whether the log tells what became of rows: {statements}");
        }
        assert_eq!(word(difference), *expected, "{statements}");
    }
}

#[tokio::test]
async fn fd_8_fd_9_fd_10_fd_14_each_kind_of_ddl_has_its_verdict_on_every_major() {
    for major in hw_testkit::majors() {
        let options = ClusterOptions { major: Some(major), ..ClusterOptions::default() };
        let cluster = Cluster::start_with(options);
        let sql = cluster.client("postgres").await;
        sql.batch_execute("CREATE ROLE reader LOGIN").await.unwrap();
        run_cases(&sql, &sql, PLAIN, EXPECTED).await;
        if major >= 15 {
            run_cases(&sql, &sql, PLAIN, SINCE_15).await;
            run_cases(&sql, &sql, IN_SCHEMA, OF_SCHEMAS).await;
            run_cases(&sql, &sql, BELOW_IN_SCHEMA, OF_ANCESTORS_IN_SCHEMAS).await;
        }
        if major >= 18 {
            run_cases(&sql, &sql, PLAIN, SINCE_18).await;
        }
        run_cases(&sql, &sql, PARTED, OF_PARTITIONS).await;
        run_cases(&sql, &sql, BELOW, OF_ANCESTORS).await;
        let reader = cluster.url_as("reader", None, "postgres");
        let reader = hw_testkit::cluster::connect(&reader).await;
        run_cases(&sql, &reader, PLAIN, OF_RIGHTS).await;
        // FD-13: the log's flags do not change under FULL.
        let full = format!("{PLAIN} ALTER TABLE t REPLICA IDENTITY FULL;");
        let key = &[("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, n)", KEY)];
        run_cases(&sql, &sql, &full, key).await;
        // What is published by its schema or with all tables can be unlogged for a while.
        let all = "CREATE TABLE t (id int PRIMARY KEY);
                   CREATE PUBLICATION headwater FOR ALL TABLES;";
        let unlogged = &[
            (
                "ALTER TABLE t SET UNLOGGED\nINSERT INTO t VALUES (1)\nALTER TABLE t SET LOGGED",
                REWRITTEN,
            ),
            ("ALTER TABLE t SET UNLOGGED", "HW2105"),
        ];
        run_cases(&sql, &sql, all, unlogged).await;
    }
}

/// Other files are those of a TRUNCATE that the log told, where its transaction changed every leaf last.
#[tokio::test]
async fn files_of_partitions_are_known_by_the_transaction_that_made_them_on_every_major() {
    // What is written while a table is unlogged is not in the log, whatever that told of the transaction.
    let altered = |before: &str, behind: &str| {
        format!(
            "TRUNCATE t\nINSERT INTO t VALUES (1, 'x')\n{before}ALTER TABLE p_1 SET UNLOGGED
             DELETE FROM p_1\nALTER TABLE p_1 SET LOGGED{behind}"
        )
    };
    let clustered = "\nRELEASE one\nCLUSTER p_1 USING p_1_pkey";
    for major in hw_testkit::majors() {
        let options = ClusterOptions { major: Some(major), ..ClusterOptions::default() };
        let cluster = Cluster::start_with(options);
        let sql = cluster.client("postgres").await;
        sql.batch_execute(PARTED).await.unwrap();
        sql.batch_execute("CREATE TABLE p_2 PARTITION OF t FOR VALUES FROM (10) TO (20)")
            .await
            .unwrap();
        let patterns = [TablePattern::new("public", "t")];
        let read = async || {
            let mut catalog = Catalog::read(&sql, "headwater", &patterns, &[]).await.unwrap();
            catalog.tables.remove(0).facts
        };
        // Statements, one a line, in a transaction that the log told, and behind it; what follows.
        for (told, behind, expected) in [
            ("TRUNCATE t", "INSERT INTO t VALUES (1, 'x')", "adopt"),
            ("TRUNCATE t", "VACUUM FREEZE pg_catalog.pg_class", "adopt"),
            ("TRUNCATE t\nTRUNCATE p_1", "VACUUM t", "adopt"),
            (&altered("", ""), "VACUUM t", REWRITTEN),
            (&altered("", ""), "GRANT SELECT ON p_1 TO PUBLIC", EMPTIED),
            (&altered("", "\nGRANT SELECT ON p_1 TO PUBLIC"), "SELECT 1", REWRITTEN),
            (&altered("SAVEPOINT one\n", "\nRELEASE one"), "SELECT 1", REWRITTEN),
            (&altered("SAVEPOINT one\n", clustered), "SELECT 1", REWRITTEN),
            ("TRUNCATE t", "TRUNCATE p_1", EMPTIED),
            ("TRUNCATE t", "TRUNCATE t", EMPTIED),
            ("TRUNCATE t", "GRANT SELECT ON p_2 TO PUBLIC", EMPTIED),
            ("SAVEPOINT one\nTRUNCATE t\nRELEASE one", "SELECT 1", EMPTIED),
            ("TRUNCATE t", "ALTER TABLE t ALTER a SET NOT NULL", REWRITTEN),
            ("TRUNCATE t", "VACUUM FULL p_1", EMPTIED),
            ("TRUNCATE t", "CREATE TABLE p_3 PARTITION OF t FOR VALUES FROM (20) TO (30)", "adopt"),
            ("TRUNCATE t", "INSERT INTO p_3 VALUES (21, 'x')\nTRUNCATE p_3", EMPTIED),
            (
                "TRUNCATE t",
                "CREATE TABLE p_4 PARTITION OF t FOR VALUES FROM (30) TO (40)\nTRUNCATE p_4",
                EMPTIED,
            ),
            (
                "TRUNCATE t",
                "CREATE TABLE p_5 (id int PRIMARY KEY, a text NOT NULL)
                 INSERT INTO p_5 VALUES (41, 'x')
                 ALTER TABLE t ATTACH PARTITION p_5 FOR VALUES FROM (40) TO (50)",
                PARTITIONS,
            ),
        ] {
            let noted = read().await;
            let xid = transaction(&sql, told).await;
            for statement in behind.lines() {
                sql.batch_execute(statement).await.unwrap_or_else(|e| panic!("{statement}: {e:?}"));
            }
            let difference = compare(&noted, Some(&read().await));
            let others = [Xid(3), xid, Xid(4)];
            let settled = settle(&sql, difference, &others).await.unwrap();
            assert_eq!(word(settled), expected, "{major}: {told}; {behind}");
        }
    }
}

/// The same without a TOAST table, where the numbers of files tell it.
#[tokio::test]
async fn files_of_partitions_without_large_values_are_known_on_every_major() {
    for major in hw_testkit::majors() {
        let options = ClusterOptions { major: Some(major), ..ClusterOptions::default() };
        let cluster = Cluster::start_with(options);
        let sql = cluster.client("postgres").await;
        sql.batch_execute(
            "CREATE TABLE t (id int, usr uuid) PARTITION BY RANGE (id);
             ALTER TABLE t REPLICA IDENTITY FULL;
             CREATE TABLE p_1 PARTITION OF t FOR VALUES FROM (0) TO (10);
             CREATE TABLE p_2 PARTITION OF t FOR VALUES FROM (10) TO (20);
             CREATE INDEX ON p_1 (usr); CREATE INDEX ON p_1 (id);
             ALTER TABLE p_1 REPLICA IDENTITY FULL; ALTER TABLE p_2 REPLICA IDENTITY FULL;
             CREATE PUBLICATION headwater FOR TABLE t WITH (publish_via_partition_root = true)",
        )
        .await
        .unwrap();
        let patterns = [TablePattern::new("public", "t")];
        let read = async || {
            let mut catalog = Catalog::read(&sql, "headwater", &patterns, &[]).await.unwrap();
            catalog.tables.remove(0).facts
        };
        const ALTERED: &str = "TRUNCATE t\nINSERT INTO t VALUES (1)\nALTER TABLE p_1 SET UNLOGGED
             DELETE FROM p_1\nALTER TABLE p_1 SET LOGGED";
        for (before, told, expected) in [
            // The second one has nothing that tells it.
            ("SELECT 1", "TRUNCATE t", REWRITTEN),
            ("CREATE INDEX ON p_2 (id)", "TRUNCATE t", "adopt"),
            ("SELECT 1", "INSERT INTO t VALUES (1)\nTRUNCATE t\nINSERT INTO t VALUES (2)", "adopt"),
            ("SELECT 1", ALTERED, REWRITTEN),
            ("DROP INDEX p_1_usr_idx, p_1_id_idx", "TRUNCATE t", "adopt"),
            ("SELECT 1", ALTERED, REWRITTEN),
        ] {
            sql.batch_execute(before).await.unwrap();
            let noted = read().await;
            let xid = transaction(&sql, told).await;
            let difference = compare(&noted, Some(&read().await));
            let settled = settle(&sql, difference, &[xid]).await.unwrap();
            assert_eq!(word(settled), expected, "{major}: {before}; {told}");
        }
    }
}

/// Runs statements, one a line, in a transaction.
async fn transaction(sql: &Client, statements: &str) -> Xid {
    sql.batch_execute("BEGIN").await.unwrap();
    let xid = sql.query_one("SELECT pg_current_xact_id()::xid::text", &[]).await.unwrap();
    for statement in statements.lines().chain(["COMMIT"]) {
        sql.batch_execute(statement).await.unwrap_or_else(|e| panic!("{statement}: {e:?}"));
    }
    Xid(xid.get::<_, &str>(0).parse().unwrap())
}

/// Names of tables, and codes of what is refused.
fn outcome(catalog: &Catalog, patterns: &[TablePattern]) -> (Vec<String>, Vec<String>) {
    let resolved = resolve(catalog, patterns);
    let ids = resolved.tables.iter().chain(&resolved.to_publish);
    let mut tables: Vec<String> =
        ids.map(|id| catalog.table_by_id(*id).unwrap().facts.name.to_string()).collect();
    tables.sort();
    let finding = |refused: &hw_pg::catalog::Refused| {
        let table = refused.table.as_ref().map_or("-".into(), TableName::to_string);
        format!("{} {table}", refused.finding.code)
    };
    (tables, resolved.missing.iter().chain(&resolved.refused).map(finding).collect())
}

#[tokio::test]
async fn fd_16_fd_22_patterns_mean_the_same_for_all_who_ask() {
    let cluster = Cluster::start();
    let sql = cluster.client("postgres").await;
    sql.batch_execute(
        "CREATE SCHEMA tenant_a; CREATE SCHEMA tenant_b;
         CREATE TABLE tenant_a.wo (id int PRIMARY KEY);
         CREATE TABLE tenant_b.wo (id int PRIMARY KEY);
         CREATE TABLE ev (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE ev_1 PARTITION OF ev FOR VALUES FROM (0) TO (10);
         CREATE TABLE ev_2 PARTITION OF ev FOR VALUES FROM (10) TO (20);
         CREATE TABLE ev_x (id int PRIMARY KEY);
         CREATE VIEW viewed AS SELECT 1 AS id; CREATE UNLOGGED TABLE fast (id int PRIMARY KEY);
         CREATE TABLE bare (id int); CREATE TABLE named (id int PRIMARY KEY, of regclass);
         CREATE TABLE elder (id int PRIMARY KEY);
         CREATE TABLE elder_1 (PRIMARY KEY (id)) INHERITS (elder);
         CREATE TABLE elder_2 (PRIMARY KEY (id)) INHERITS (elder_1)",
    )
    .await
    .unwrap();
    let none: &[&str] = &[];
    type Expected<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a [&'a str]);
    let own: &[Expected<'_>] = &[
        (&[("%", "wo")], &["tenant_a.wo", "tenant_b.wo"], none),
        (&[("tenant_%", "wo")], &["tenant_a.wo", "tenant_b.wo"], none),
        (&[("tenant_%", "w%")], &["tenant_a.wo", "tenant_b.wo"], none),
        // Leaves by wildcard, beside a plain table.
        (&[("public", "ev_%")], &["public.ev_1", "public.ev_2", "public.ev_x"], none),
        // Root and leaves by one wildcard: the leaves' rows come as the root's.
        (&[("public", "ev%")], &["public.ev", "public.ev_x"], none),
        (&[("public", "ev"), ("public", "ev_1")], &["public.ev"], &["HW2109 public.ev_1"]),
        (&[("public", "ev_1")], &["public.ev_1"], none),
        (&[("public", "viewed")], none, &["HW2105 public.viewed"]),
        (&[("public", "fast")], none, &["HW2105 public.fast"]),
        (&[("public", "bare")], none, &["HW2106 public.bare"]),
        (
            &[("public", "elder%")],
            &["public.elder_2"],
            &["HW2118 public.elder", "HW2118 public.elder_1"],
        ),
        (&[("public", "named")], none, &["HW2119 public.named"]),
        (&[("public", "absent")], none, &["HW2108 public.absent"]),
        (&[("nowhere_%", "x")], none, &["HW2108 -"]),
        (&[("public", "view%")], none, &["HW2108 -"]),
    ];
    let check = async |cases: &[Expected<'_>], publication: &str| {
        for (patterns, tables, findings) in cases {
            let patterns: Vec<TablePattern> =
                patterns.iter().map(|(schema, table)| TablePattern::new(schema, table)).collect();
            let catalog = Catalog::read(&sql, "headwater", &patterns, &[]).await.unwrap();
            let (found, refused) = outcome(&catalog, &patterns);
            assert_eq!(found, *tables, "{publication}: {patterns:?}");
            assert_eq!(refused, *findings, "{publication}: {patterns:?}");
        }
    };
    check(own, "none yet").await;
    sql.batch_execute("CREATE PUBLICATION headwater WITH (publish_via_partition_root = true)")
        .await
        .unwrap();
    check(own, "ours").await;

    // A given one that sends partitions as themselves.
    sql.batch_execute(
        "CREATE ROLE dba SUPERUSER; DROP PUBLICATION headwater;
         CREATE PUBLICATION headwater FOR ALL TABLES; ALTER PUBLICATION headwater OWNER TO dba",
    )
    .await
    .unwrap();
    let leaves: &[&str] = &["public.ev_1", "public.ev_2", "public.ev_x"];
    let given: &[Expected<'_>] = &[
        (&[("tenant_%", "wo")], &["tenant_a.wo", "tenant_b.wo"], none),
        (&[("public", "ev_%")], leaves, none),
        (&[("public", "ev%")], leaves, none),
        (&[("public", "ev")], none, &["HW2109 public.ev"]),
        (&[("public", "ev"), ("public", "ev_1")], &["public.ev_1"], &["HW2109 public.ev"]),
    ];
    check(given, "given").await;
    sql.batch_execute("ALTER PUBLICATION headwater SET (publish_via_partition_root = true)")
        .await
        .unwrap();
    let given: &[Expected<'_>] = &[
        (&[("public", "ev%")], &["public.ev", "public.ev_x"], none),
        (&[("public", "ev_1")], none, &["HW2109 public.ev_1"]),
        (&[("public", "ev_%")], &["public.ev_x"], &["HW2109 public.ev_1", "HW2109 public.ev_2"]),
    ];
    check(given, "given, via root").await;
}

#[tokio::test]
async fn fd_8_fd_20_a_publication_of_ours_is_mended_and_one_table_refuses_no_other_on_every_major()
{
    for major in hw_testkit::majors() {
        let options = ClusterOptions { major: Some(major), ..ClusterOptions::default() };
        let cluster = Cluster::start_with(options);
        let sql = cluster.client("postgres").await;
        sql.batch_execute(
            "CREATE ROLE app LOGIN; GRANT CREATE ON DATABASE postgres TO app;
             CREATE TABLE mine (id int PRIMARY KEY); CREATE TABLE locked (id int PRIMARY KEY);
             ALTER TABLE mine OWNER TO app; ALTER TABLE locked OWNER TO app;
             CREATE TABLE theirs (id int PRIMARY KEY);
             GRANT SELECT ON theirs TO app",
        )
        .await
        .unwrap();
        let app = hw_testkit::cluster::connect(&cluster.url_as("app", None, "postgres")).await;
        let patterns = ["mine", "theirs", "locked"].map(|name| TablePattern::new("public", name));
        // Somebody analyses a large table.
        sql.batch_execute("BEGIN; LOCK locked IN SHARE UPDATE EXCLUSIVE MODE").await.unwrap();
        let ensured = publication::ensure(&app, "headwater", &patterns, &[]).await.unwrap();
        assert!(ensured.made && !ensured.mended);
        assert_eq!(ensured.added, [TableName::new("public", "mine")]);
        assert_eq!(ensured.resolved.tables.len(), 1);
        let mut refused: Vec<String> =
            ensured.resolved.refused.iter().map(|refused| refused.finding.to_string()).collect();
        refused.sort();
        assert_eq!(
            refused,
            [
                "error[HW2103]: public.locked cannot be added to publication \"headwater\": \
                 somebody holds a lock on it; it is tried again\n  where: table public.locked\n  \
                 mend:  ALTER PUBLICATION \"headwater\" ADD TABLE ONLY \"public\".\"locked\";",
                "error[HW2103]: publication \"headwater\" lacks public.theirs and this role may \
                 not add it\n  where: table public.theirs\n  \
                 mend:  ALTER PUBLICATION \"headwater\" ADD TABLE ONLY \"public\".\"theirs\"; \
                 -- as a superuser, or as a role that owns both",
            ],
            "major {major}"
        );
        sql.batch_execute("COMMIT").await.unwrap();
        let ensured = publication::ensure(&app, "headwater", &patterns, &[]).await.unwrap();
        assert_eq!((ensured.added.len(), ensured.made), (1, false));

        app.batch_execute(
            "ALTER PUBLICATION headwater SET (publish = 'insert');
             ALTER PUBLICATION headwater DROP TABLE mine",
        )
        .await
        .unwrap();
        let ensured = publication::ensure(&app, "headwater", &patterns, &[]).await.unwrap();
        assert!(ensured.mended && !ensured.made);
        assert_eq!(ensured.added, [TableName::new("public", "mine")]);
        assert_eq!(ensured.resolved.tables.len(), 2);
        let before = ensured.catalog.publication.unwrap();
        assert!(before.via_root && before.actions.left_out().is_empty());

        // FD-9: dropped, it is made again, and is another one.
        app.batch_execute("DROP PUBLICATION headwater").await.unwrap();
        let ensured = publication::ensure(&app, "headwater", &patterns, &[]).await.unwrap();
        assert!(ensured.made);
        assert_ne!(ensured.catalog.publication.unwrap().oid, before.oid);

        // A given one is left as it is.
        sql.batch_execute(
            "ALTER PUBLICATION headwater OWNER TO postgres;
             ALTER PUBLICATION headwater SET (publish = 'insert');
             ALTER PUBLICATION headwater DROP TABLE locked",
        )
        .await
        .unwrap();
        let ensured = publication::ensure(&app, "headwater", &patterns, &[]).await.unwrap();
        assert!(!ensured.made && !ensured.mended && ensured.added.is_empty());
        let codes: Vec<u16> =
            ensured.resolved.refused.iter().map(|refused| refused.finding.code.0).collect();
        assert_eq!(codes, [2104, 2103, 2103]);
        // Whoever only looks says the same.
        assert_eq!(resolve(&ensured.catalog, &patterns), ensured.resolved);
        app.batch_execute("ALTER TABLE locked ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
            .await
            .unwrap();
        let hidden = Catalog::read(&app, "headwater", &patterns, &[]).await.unwrap();
        let locked = TableName::new("public", "locked");
        let refused = resolve(&hidden, &patterns).refused.into_iter();
        let of_locked = refused.filter(|refused| refused.table.as_ref() == Some(&locked));
        let codes: Vec<u16> = of_locked.map(|refused| refused.finding.code.0).collect();
        assert_eq!(codes, [2131, 2103], "all that is missing is said at once");
    }
}

#[tokio::test]
async fn a_role_that_owns_the_tables_is_told_the_one_right_that_it_lacks() {
    let cluster = Cluster::start();
    let sql = cluster.client("postgres").await;
    sql.batch_execute(
        "CREATE ROLE app LOGIN; CREATE TABLE mine (id int PRIMARY KEY); ALTER TABLE mine OWNER TO app",
    )
    .await
    .unwrap();
    let app = hw_testkit::cluster::connect(&cluster.url_as("app", None, "postgres")).await;
    let patterns = [TablePattern::new("public", "mine")];
    let refused = publication::ensure(&app, "headwater", &patterns, &[]).await.unwrap();
    let refused = refused.resolved.refused;
    let fingerprint = || Catalog::fingerprint(&app, "headwater", &patterns, &[]);
    let before = fingerprint().await.unwrap();
    assert_eq!(refused[0].finding.code.0, 2102);
    let mend = refused[0].finding.mend.clone().unwrap();
    assert_eq!(mend, "GRANT CREATE ON DATABASE \"postgres\" TO \"app\";");
    sql.batch_execute(&mend).await.unwrap();
    assert_ne!(fingerprint().await.unwrap(), before, "whoever watches sees it");
    let ensured = publication::ensure(&app, "headwater", &patterns, &[]).await.unwrap();
    assert_eq!((ensured.made, ensured.added.len()), (true, 1));
}

#[tokio::test]
async fn fd_27_fd_28_the_source_remembers_who_used_a_slot_without_any_right_on_every_major() {
    for major in hw_testkit::majors() {
        let options = ClusterOptions { major: Some(major), ..ClusterOptions::default() };
        let cluster = Cluster::start_with(options);
        let sql = cluster.client("postgres").await;
        sql.batch_execute("CREATE ROLE app LOGIN; CREATE ROLE mallory LOGIN").await.unwrap();
        let app = hw_testkit::cluster::connect(&cluster.url_as("app", None, "postgres")).await;
        assert_eq!(memory::recall(&app, "headwater_1").await.unwrap(), None);
        memory::remember(&app, "headwater_1", (7, OpId(9)), None).await.unwrap();
        memory::remember(&app, "headwater_2", (8, OpId(1)), None).await.unwrap();
        let found = memory::recall(&app, "headwater_1").await.unwrap().unwrap();
        assert_eq!((found.store, found.op_id), (7, OpId(9)));
        memory::remember(&app, "headwater_1", (7, OpId(10)), None).await.unwrap();
        let found = memory::recall(&app, "headwater_1").await.unwrap().unwrap();
        assert_eq!((found.store, found.op_id), (7, OpId(10)));
        // Who is overtaken does not overwrite that.
        let kept = memory::remember(&app, "headwater_1", (6, OpId(99)), None).await.unwrap();
        let found = memory::recall(&app, "headwater_1").await.unwrap().unwrap();
        assert_eq!((kept, found.store), (false, 7));
        assert!(memory::remember(&app, "headwater_1", (7, OpId(11)), None).await.unwrap());
        // Of two that take it from the same store one does, and what was given stays known.
        let take = |store| memory::remember(&app, "headwater_1", (store, OpId(5)), Some(7));
        assert!(take(3).await.unwrap());
        assert!(!take(4).await.unwrap());
        let found = memory::recall(&app, "headwater_1").await.unwrap().unwrap();
        assert_eq!((found.store, found.op_id), (3, OpId(11)));
        let count = "SELECT count(*) FROM pg_largeobject_metadata";
        assert_eq!(sql.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 2);
        // What another role wrote is not believed, nor is its place taken.
        let mallory =
            hw_testkit::cluster::connect(&cluster.url_as("mallory", None, "postgres")).await;
        memory::remember(&mallory, "headwater_3", (66, OpId(66)), None).await.unwrap();
        assert_eq!(memory::recall(&app, "headwater_3").await.unwrap(), None);
        memory::remember(&app, "headwater_3", (5, OpId(5)), None).await.unwrap();
        let found = memory::recall(&app, "headwater_3").await.unwrap().unwrap();
        assert_eq!((found.store, found.op_id), (5, OpId(5)));
    }
}

#[tokio::test]
async fn fd_28_what_keeps_the_source_from_remembering_is_named_with_its_mend() {
    let cluster = Cluster::start();
    let sql = cluster.client("postgres").await;
    sql.batch_execute(
        "CREATE ROLE app LOGIN; REVOKE EXECUTE ON FUNCTION lo_create(oid) FROM PUBLIC",
    )
    .await
    .unwrap();
    let app = hw_testkit::cluster::connect(&cluster.url_as("app", None, "postgres")).await;
    let named = async || {
        let refused = memory::remember(&app, "headwater_1", (7, OpId(9)), None).await;
        refused.expect_err("it is not remembered").diagnostic()
    };
    let mend = named().await.mend.expect("a statement");
    assert_eq!(mend, "GRANT EXECUTE ON FUNCTION pg_catalog.lo_create(oid) TO \"app\";");
    sql.batch_execute(&mend).await.unwrap();
    memory::remember(&app, "headwater_1", (7, OpId(9)), None).await.unwrap();
    // Every place is somebody else's.
    let oid = "SELECT oid FROM pg_largeobject_metadata";
    let place: u32 = sql.query_one(oid, &[]).await.unwrap().get(0);
    let first = place & !7;
    sql.batch_execute(&format!(
        "SELECT lo_unlink({place}); SELECT lo_create(i::oid) FROM generate_series({first}::int8, {first} + 7) i"
    ))
    .await
    .unwrap();
    assert!(named().await.mend.is_some_and(|mend| mend.contains(&first.to_string())));
    sql.batch_execute(&format!("SELECT lo_unlink({})", first + 3)).await.unwrap();
    memory::remember(&app, "headwater_1", (7, OpId(9)), None).await.unwrap();
    assert!(memory::recall(&app, "headwater_1").await.unwrap().is_some());
}
