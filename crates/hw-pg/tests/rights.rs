//! Everything that decides who sees which rows changes one text, and nothing else does (`engine.md` 11).

use hw_pg::rights::Rights;
use hw_testkit::Cluster;

const SCHEMA: &str = "
CREATE ROLE app NOLOGIN; CREATE ROLE team NOLOGIN; CREATE ROLE boss NOLOGIN;
CREATE SCHEMA other;
CREATE TYPE mood AS ENUM ('calm');
CREATE TABLE items (id int PRIMARY KEY, owner text, secret text);
CREATE TABLE parted (id int) PARTITION BY RANGE (id);
CREATE FUNCTION me() RETURNS text LANGUAGE sql AS $$ SELECT 'a'::text $$;
ALTER TABLE items ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON items USING (owner = me());
GRANT SELECT ON items TO app;
INSERT INTO items VALUES (1, 'a', 'x');
";

/// Each of them changes who may see what, or what a policy means.
const CHANGES: &[&str] = &[
    "CREATE POLICY theirs ON items FOR SELECT TO team USING (true)",
    "ALTER POLICY theirs ON items USING (false)",
    "ALTER POLICY theirs ON items TO app",
    "DROP POLICY theirs ON items",
    "ALTER TABLE items DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE items ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE items FORCE ROW LEVEL SECURITY",
    "ALTER TABLE items OWNER TO boss",
    "REVOKE SELECT ON items FROM app",
    "GRANT SELECT (id, owner) ON items TO app",
    "REVOKE SELECT (owner) ON items FROM app",
    "CREATE OR REPLACE FUNCTION me() RETURNS text LANGUAGE sql AS $$ SELECT 'b'::text $$",
    "ALTER FUNCTION me() SECURITY DEFINER",
    "REVOKE EXECUTE ON FUNCTION me() FROM PUBLIC",
    "GRANT team TO app",
    "REVOKE team FROM app",
    "ALTER ROLE app BYPASSRLS",
    "ALTER ROLE app NOBYPASSRLS",
    "ALTER ROLE app NOINHERIT",
    "ALTER ROLE app SET search_path = other",
    "CREATE SCHEMA third",
    "GRANT USAGE ON SCHEMA other TO app",
    "CREATE TABLE other.items (id int)",
    "ALTER TABLE other.items RENAME TO things",
    "ALTER TABLE other.things ADD COLUMN owner text",
    "ALTER TABLE other.things ALTER COLUMN owner TYPE varchar",
    "ALTER TABLE other.things RENAME COLUMN owner TO who",
    "CREATE TABLE heir () INHERITS (items)",
    "CREATE FUNCTION other.eq(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$",
    "CREATE OPERATOR other.= (FUNCTION = other.eq, LEFTARG = text, RIGHTARG = text)",
    "ALTER TYPE mood ADD VALUE 'busy'",
    "ALTER TYPE mood RENAME VALUE 'busy' TO 'angry'",
    "CREATE CAST (mood AS int) WITH INOUT",
    // What the log has of rows.
    "CREATE PUBLICATION ours",
    "ALTER PUBLICATION ours ADD TABLE items",
    "ALTER PUBLICATION ours DROP TABLE items",
    "ALTER PUBLICATION ours SET TABLE items; ALTER PUBLICATION ours DROP TABLE items; ALTER PUBLICATION ours SET TABLE items",
    "ALTER PUBLICATION ours SET (publish = 'insert')",
    "ALTER TABLE items REPLICA IDENTITY FULL",
    "ALTER TABLE items ALTER COLUMN id TYPE int USING id + 10",
    "ALTER TABLE other.things SET UNLOGGED",
    "DROP PUBLICATION ours",
];

/// The same, from a major on.
const CHANGES_SINCE: &[(u32, &str)] = &[
    (15, "CREATE PUBLICATION ours FOR TABLE items"),
    (15, "ALTER PUBLICATION ours SET TABLE items WHERE (id > 1)"),
    (15, "ALTER PUBLICATION ours SET TABLE items (id)"),
    (15, "ALTER PUBLICATION ours SET TABLES IN SCHEMA other"),
    (15, "ALTER PUBLICATION ours DROP TABLES IN SCHEMA other"),
];

/// None of them does.
const OTHERS: &[&str] = &[
    "INSERT INTO items VALUES (2, 'b', 'y')",
    "UPDATE items SET secret = 'z'",
    "TRUNCATE items",
    "ANALYZE",
    "VACUUM items",
    "CREATE TEMP TABLE passing (id int)",
    "CREATE INDEX ON items (owner)",
];

#[tokio::test]
async fn e_4_whatever_decides_who_sees_what_changes_the_text_of_rights_on_every_major() {
    for major in hw_testkit::majors() {
        let options = hw_testkit::ClusterOptions { major: Some(major), ..Default::default() };
        let cluster = Cluster::start_with(options);
        let client = cluster.client("postgres").await;
        client.batch_execute(SCHEMA).await.unwrap();
        let mut seen = vec![Rights::read(&client).await.unwrap()];
        let since = CHANGES_SINCE.iter().filter(|(since, _)| *since <= major);
        let changes = CHANGES.iter().chain(since.map(|(_, change)| change));
        for change in changes {
            client.batch_execute(change).await.unwrap();
            let now = Rights::read(&client).await.unwrap();
            assert_ne!(seen.last(), Some(&now), "{change} on {major}");
            seen.push(now);
        }
        for other in OTHERS {
            client.batch_execute(other).await.unwrap();
            let now = Rights::read(&client).await.unwrap();
            assert_eq!(seen.last(), Some(&now), "{other} on {major}");
        }
    }
}

/// Statements, and the tables of which rights say something else behind them. What names mean is told elsewhere.
const OF_TABLES: &[(&str, &[&str])] = &[
    ("CREATE TABLE stranger (id int)", &[]),
    ("ALTER TABLE items ADD COLUMN note text", &["items"]),
    ("CREATE POLICY theirs ON items FOR SELECT TO team USING (true)", &["items"]),
    ("CREATE POLICY written ON items FOR INSERT WITH CHECK (true)", &[]),
    ("GRANT SELECT (id) ON items TO team", &["items"]),
    ("CREATE OR REPLACE FUNCTION me() RETURNS text LANGUAGE sql AS $$ SELECT 'b'::text $$", &[]),
    ("GRANT team TO app", &[]),
    ("ALTER TABLE other.things REPLICA IDENTITY FULL", &["other.things"]),
    ("GRANT USAGE ON SCHEMA other TO app", &["other.things"]),
    // Rows of a table are also those of its parts.
    ("CREATE TABLE part (id int)", &[]),
    ("ALTER TABLE parted ATTACH PARTITION part FOR VALUES FROM (1) TO (9)", &["parted"]),
    ("ALTER TABLE part ENABLE ROW LEVEL SECURITY", &["parted"]),
    ("CREATE PUBLICATION ours FOR TABLE items", &["items", "other.things", "parted"]),
    ("ALTER PUBLICATION ours ADD TABLE other.things", &["other.things"]),
    // Nobody knows whom these concern.
    ("ALTER TYPE mood ADD VALUE 'busy'", &["items", "other.things", "parted"]),
    ("ALTER ROLE app SET search_path = other", &["items", "other.things", "parted"]),
];

#[tokio::test]
async fn e_4_rights_of_a_table_change_with_what_concerns_it() {
    let cluster = Cluster::start();
    let client = cluster.client("postgres").await;
    client.batch_execute(SCHEMA).await.unwrap();
    client.batch_execute("CREATE TABLE other.things (id int)").await.unwrap();
    let names = ["items", "other.things", "parted"];
    let oids = names.map(|name| format!("'{name}'::regclass::oid")).join(", ");
    let row = client.query_one(&format!("SELECT {oids}"), &[]).await.unwrap();
    let oids: [u32; 3] = [row.get(0), row.get(1), row.get(2)];
    let mut before = Rights::read(&client).await.unwrap();
    for (sql, changed) in OF_TABLES {
        client.batch_execute(sql).await.unwrap();
        let now = before.again(&client).await.unwrap();
        let is_other = |oid: &u32| now.of_tables([*oid]) != before.of_tables([*oid]);
        let others = names.iter().zip(&oids).filter(|(_, oid)| is_other(oid));
        let others: Vec<&str> = others.map(|(name, _)| *name).collect();
        assert_eq!(others, *changed, "{sql}");
        assert_eq!(now, now.again(&client).await.unwrap(), "{sql}");
        before = now;
    }
}

/// What is taken and given again is as it was, but was otherwise in between.
#[tokio::test]
async fn e_4_rights_that_were_others_in_between_may_have_changed_on_every_major() {
    for major in hw_testkit::majors() {
        let options = hw_testkit::ClusterOptions { major: Some(major), ..Default::default() };
        let cluster = Cluster::start_with(options);
        let client = cluster.client("postgres").await;
        let schema = "CREATE ROLE reader; CREATE ROLE staff; GRANT staff TO reader;
            CREATE SCHEMA shop; CREATE TABLE shop.goods (id int PRIMARY KEY);
            CREATE TABLE items (id int PRIMARY KEY, owner text);
            GRANT USAGE ON SCHEMA shop TO reader; GRANT SELECT ON items TO reader;
            CREATE POLICY seen ON items USING (true)";
        client.batch_execute(schema).await.unwrap();
        let mut before = Rights::read(&client).await.unwrap();
        for sql in [
            "REVOKE SELECT ON items FROM reader; GRANT SELECT ON items TO reader",
            "REVOKE USAGE ON SCHEMA shop FROM reader; GRANT USAGE ON SCHEMA shop TO reader",
            "REVOKE staff FROM reader; GRANT staff TO reader",
            "ALTER TABLE items ENABLE ROW LEVEL SECURITY; ALTER TABLE items DISABLE ROW LEVEL SECURITY",
            "ALTER POLICY seen ON items USING (false); ALTER POLICY seen ON items USING (true)",
        ] {
            // Each a transaction of its own.
            for part in sql.split("; ") {
                client.batch_execute(part).await.unwrap();
            }
            let now = before.again(&client).await.unwrap();
            assert!(now.may_have_changed_since(&before), "{sql} on {major}");
            assert!(now.at() > before.at(), "{sql} on {major}");
            before = now;
        }
        client.batch_execute("INSERT INTO items VALUES (1, 'x'); ANALYZE items").await.unwrap();
        let now = before.again(&client).await.unwrap();
        assert!(!now.may_have_changed_since(&before), "{major}");
    }
}
