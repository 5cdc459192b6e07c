//! Statements on the schema: those that concern a result have it asked again, and no others do.

use crate::world::{Follower, LIMIT, World, planned, query, user};
use hw_live::{Figures, Live};
use std::time::Duration;

/// Everybody is told by a plan: from the row alone, with a table that a policy names, with one that a function reads.
const SCHEMA: &str = "
CREATE ROLE staff NOLOGIN; GRANT staff TO app;
CREATE TYPE mood AS ENUM ('calm');
CREATE FUNCTION me() RETURNS text LANGUAGE sql STABLE
  AS $$ SELECT nullif(current_setting('request.jwt.claim.sub', true), '') $$;
CREATE TABLE members (id int PRIMARY KEY, team int NOT NULL, who text NOT NULL);
CREATE TABLE helpers (id int PRIMARY KEY, team int NOT NULL, who text NOT NULL);
CREATE FUNCTION helped() RETURNS SETOF int LANGUAGE sql STABLE SECURITY DEFINER
  AS $$ SELECT h.team FROM public.helpers h WHERE h.who = public.me() $$;
CREATE TABLE tasks (id int PRIMARY KEY, team int, owner text, title text, done boolean, at timestamptz, price numeric);
CREATE TABLE plain (id int PRIMARY KEY, team int, owner text, body text);
CREATE TABLE joined (id int PRIMARY KEY, team int, owner text, body text);
CREATE TABLE helped (id int PRIMARY KEY, team int, owner text, body text);
GRANT SELECT ON members, tasks, plain, joined, helped TO app;
ALTER TABLE members ENABLE ROW LEVEL SECURITY;
ALTER TABLE tasks ENABLE ROW LEVEL SECURITY;
ALTER TABLE plain ENABLE ROW LEVEL SECURITY;
ALTER TABLE joined ENABLE ROW LEVEL SECURITY;
ALTER TABLE helped ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON members FOR SELECT USING (who = me());
CREATE POLICY seen ON tasks FOR SELECT USING (owner = me());
CREATE POLICY seen ON plain FOR SELECT TO staff USING (owner = me());
CREATE POLICY seen ON joined FOR SELECT TO staff
  USING (team IN (SELECT m.team FROM members m WHERE m.who = me()));
CREATE POLICY seen ON helped FOR SELECT TO staff USING (team IN (SELECT helped()));
INSERT INTO members VALUES (1, 1, 'ada');
INSERT INTO helpers VALUES (1, 1, 'ada');
INSERT INTO tasks VALUES (1, 1, 'ada', 'a', true, NULL, 1);
INSERT INTO plain VALUES (1, 1, 'ada', 'a');
INSERT INTO joined VALUES (1, 1, 'ada', 'a');
INSERT INTO helped VALUES (1, 1, 'ada', 'a');
";

/// None of them changes what anybody is shown.
const UNRELATED: &[&str] = &[
    "CREATE TABLE stranger (id int PRIMARY KEY, team int, body text)",
    "ALTER TABLE stranger ADD COLUMN owner text; ALTER TABLE stranger ALTER COLUMN body TYPE varchar",
    "ALTER TABLE stranger ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY seen ON stranger FOR SELECT USING (owner = me())",
    "GRANT SELECT ON stranger TO app",
    "ALTER TABLE stranger OWNER TO staff",
    "CREATE UNIQUE INDEX ON stranger (owner)",
    "CREATE TEMP TABLE passing (id int PRIMARY KEY)",
    "DROP TABLE passing",
    "CREATE INDEX ON plain (owner); CREATE INDEX ON members (who)",
    "CREATE INDEX CONCURRENTLY ON joined (team)",
    "ANALYZE",
    "VACUUM plain",
    "COMMENT ON TABLE plain IS 'plain'",
    // Of nobody who reads.
    "CREATE POLICY written ON plain FOR INSERT WITH CHECK (owner = me())",
    "CREATE FUNCTION unused() RETURNS boolean LANGUAGE sql AS 'SELECT true'",
    "CREATE OR REPLACE FUNCTION unused() RETURNS boolean LANGUAGE sql AS 'SELECT false'",
    "DROP FUNCTION unused()",
    "CREATE VIEW looked AS SELECT id FROM plain",
    "CREATE SCHEMA other",
    "CREATE TABLE other.plain (id int PRIMARY KEY)",
    "CREATE FUNCTION other.me() RETURNS text LANGUAGE sql AS $$ SELECT 'eve' $$",
    "CREATE ROLE boss NOLOGIN; GRANT boss TO staff; REVOKE boss FROM staff",
    "ALTER ROLE boss BYPASSRLS",
    "DROP TABLE stranger",
];

/// What is read of them is the same behind them as before, and they may have undone what was otherwise for a moment.
const WRITTEN_AGAIN: &[&str] = &[
    "ALTER TABLE plain ADD CHECK (id > 0)",
    "REVOKE SELECT ON members FROM app; GRANT SELECT ON members TO app",
    "REVOKE staff FROM app; GRANT staff TO app",
    // In other words.
    "CREATE OR REPLACE FUNCTION me() RETURNS text LANGUAGE sql STABLE
       AS $$ -- who asks
       SELECT nullif(current_setting('request.jwt.claim.sub', true), '') $$",
];

/// Each of them, with the table whose rows it may concern, and how it ends, which concerns them as well.
const RELATED: &[(&str, &str, &str)] = &[
    // Policies of the table, and of tables that policies read.
    (
        "plain",
        "CREATE POLICY more ON plain FOR SELECT USING (team = 7)",
        "DROP POLICY more ON plain",
    ),
    (
        "plain",
        "ALTER POLICY seen ON plain USING (team = 7)",
        "ALTER POLICY seen ON plain USING (owner = me())",
    ),
    ("plain", "ALTER POLICY seen ON plain TO postgres", "ALTER POLICY seen ON plain TO staff"),
    (
        "joined",
        "ALTER POLICY own ON members USING (false)",
        "ALTER POLICY own ON members USING (who = me())",
    ),
    (
        "joined",
        "ALTER TABLE members FORCE ROW LEVEL SECURITY",
        "ALTER TABLE members NO FORCE ROW LEVEL SECURITY",
    ),
    // Functions, what they read, and as whom.
    (
        "helped",
        "CREATE OR REPLACE FUNCTION helped() RETURNS SETOF int LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT 7 $$",
        "CREATE OR REPLACE FUNCTION helped() RETURNS SETOF int LANGUAGE sql STABLE SECURITY DEFINER
           AS $$ SELECT h.team FROM public.helpers h WHERE h.who = public.me() $$",
    ),
    (
        "helped",
        "ALTER FUNCTION helped() SECURITY INVOKER",
        "ALTER FUNCTION helped() SECURITY DEFINER",
    ),
    (
        "helped",
        "ALTER TABLE helpers RENAME TO were; CREATE TABLE helpers (LIKE were INCLUDING ALL)",
        "DROP TABLE helpers; ALTER TABLE were RENAME TO helpers",
    ),
    ("plain", "ALTER FUNCTION me() RENAME TO i", "ALTER FUNCTION i() RENAME TO me"),
    // Rights of the role, by itself and by others.
    ("plain", "REVOKE staff FROM app", "GRANT staff TO app"),
    ("plain", "GRANT SELECT (id) ON plain TO staff", "REVOKE SELECT (id) ON plain FROM staff"),
    (
        "joined",
        "REVOKE SELECT ON members FROM app; GRANT SELECT (team, who) ON members TO app",
        "GRANT SELECT ON members TO app",
    ),
    // Columns and keys, and what the log has of them.
    ("joined", "ALTER TABLE members ADD COLUMN note text", "ALTER TABLE members DROP COLUMN note"),
    (
        "helped",
        "ALTER TABLE helpers ALTER COLUMN team TYPE int USING team + 1",
        "ALTER TABLE helpers ALTER COLUMN team TYPE int USING team - 1",
    ),
    (
        "plain",
        "ALTER TABLE plain REPLICA IDENTITY FULL",
        "ALTER TABLE plain REPLICA IDENTITY DEFAULT",
    ),
    ("joined", "CREATE TABLE heir () INHERITS (members)", "DROP TABLE heir; ANALYZE members"),
    ("joined", "ALTER PUBLICATION headwater DROP TABLE members", ""),
    // Nobody knows whom these concern.
    ("plain", "CREATE PUBLICATION other FOR TABLE tasks", "DROP PUBLICATION other"),
    ("plain", "ALTER TYPE mood ADD VALUE 'angry'", ""),
    ("plain", "CREATE CAST (mood AS int) WITH INOUT", "DROP CAST (mood AS int)"),
];

/// Once what made their tables followed is behind them.
async fn followers(world: &mut World) -> Vec<Follower> {
    let ada = user("ada");
    let mut followers = Vec::new();
    for query in [
        query("plain", "true", ""),
        query("plain", "team = 1 AND body <> 'x'", ""),
        query("joined", "true", ""),
        query("helped", "true", ""),
        query("helped", "team = 1", ""),
        query("tasks", "done", "ORDER BY price LIMIT 3"),
        query("members", "true", ""),
    ] {
        followers.push(world.follow(query, &ada).await);
    }
    planned(&world.live, followers.len()).await;
    written(world, &followers, "first").await;
    let is_quiet = |live: &Live| {
        let Figures { waiting, planned, results, .. } = live.figures();
        waiting == 0 && planned == results
    };
    while !is_quiet(&world.live) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    followers
}

/// Writes to all tables of which nobody has a window, and waits until everybody is told.
async fn written(world: &mut World, followers: &[Follower], body: &str) {
    for table in ["plain", "joined", "helped"] {
        world.sql(&format!("UPDATE {table} SET body = '{body}'")).await;
    }
    for follower in followers {
        world.settles(follower).await;
    }
}

/// Everybody is told what is written behind it, so that it was looked at who may see what by then: whoever was to be
/// asked because of that was asked, or waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_statements_that_concern_nobody_have_nobody_asked() {
    let mut world = World::new(SCHEMA).await;
    let followers = followers(&mut world).await;
    let before = world.live.figures();
    for (round, sql) in UNRELATED.iter().enumerate() {
        world.sql(sql).await;
        written(&mut world, &followers, &format!("round {round}")).await;
        let now = world.live.figures();
        assert_eq!((now.questions, now.waiting), (before.questions, 0), "{sql}");
    }
    // Who could see what was committed by then is asked, and nothing behind it.
    let plans = before.planned;
    for (round, sql) in WRITTEN_AGAIN.iter().enumerate() {
        world.sql(sql).await;
        written(&mut world, &followers, &format!("again {round}")).await;
        // Plans come when the engine has looked at the catalog behind the answers.
        planned(&world.live, plans).await;
        while world.live.figures().waiting > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let before = world.live.figures();
        written(&mut world, &followers, &format!("behind {round}")).await;
        let now = world.live.figures();
        assert_eq!((now.questions, now.waiting), (before.questions, 0), "{sql}");
    }
    // What comes to be asked for is.
    let before = world.live.figures();
    world.sql("ALTER POLICY seen ON tasks USING (owner = me() AND done)").await;
    while world.live.figures().questions == before.questions {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_statements_that_concern_a_result_have_it_asked() {
    let mut world = World::new(SCHEMA).await;
    for (table, sql, back) in RELATED {
        eprintln!("{sql}");
        // By itself: nothing else has it asked.
        let mut follower = [world.follow(query(table, "true", ""), &user("ada")).await];
        planned(&world.live, 1).await;
        for statement in [sql, back].into_iter().filter(|statement| !statement.is_empty()) {
            let before = world.live.figures().questions;
            world.sql(statement).await;
            let end = tokio::time::Instant::now() + LIMIT;
            while follower[0].held().ended.is_none() && world.live.figures().questions == before {
                assert!(tokio::time::Instant::now() < end, "nobody is asked behind {statement}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            world.sql(&format!("UPDATE {table} SET body = body || 'x'")).await;
            world.settles_or_ends(&mut follower, &[table]).await;
        }
        drop(follower);
        while world.live.figures().results > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    world.end().await;
}

/// A row may come with a label that a policy names, under the name that it was given in the same transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_a_row_with_a_label_that_its_transaction_renamed_is_told_to_nobody() {
    let mut world = World::new(
        "CREATE TYPE status AS ENUM ('open', 'hidden');
         CREATE TABLE cases (id int PRIMARY KEY, status status, body text);
         ALTER TABLE cases ENABLE ROW LEVEL SECURITY; GRANT SELECT ON cases TO app;
         CREATE POLICY seen ON cases FOR SELECT USING (status <> 'hidden');",
    )
    .await;
    let follower = world.follow(query("cases", "true", ""), &user("ada")).await;
    planned(&world.live, 1).await;
    world.sql("INSERT INTO cases VALUES (1, 'open', 'a')").await;
    world.settles(&follower).await;
    world
        .sql(
            "BEGIN; ALTER TYPE status RENAME VALUE 'hidden' TO 'secret';
             INSERT INTO cases VALUES (2, 'secret', 'hush'); COMMIT; INSERT INTO cases VALUES (3, 'open', 'b')",
        )
        .await;
    world.settles(&follower).await;
    assert!(!follower.held().was_shown("hush"));
    world.end().await;
}
