//! The audit: plans that are not what Postgres does are found, and those that are, are not accused.

use crate::world::{Follower, LIMIT, World, audited, count, query, user};
use hw_live::Disagreement;
use hw_types::TableName;
use std::time::Duration;

/// A function of Postgres itself decides who sees rows. What it does is no matter of policies, so that nobody
/// notices when it does something else.
const SCHEMA: &str = "
CREATE TABLE members (id int PRIMARY KEY, team int NOT NULL, who text NOT NULL);
CREATE TABLE plain (id int PRIMARY KEY, team int, owner text, body text);
CREATE TABLE joined (id int PRIMARY KEY, team int, owner text, body text);
GRANT SELECT ON members, plain, joined TO app;
ALTER TABLE members ENABLE ROW LEVEL SECURITY;
ALTER TABLE plain ENABLE ROW LEVEL SECURITY;
ALTER TABLE joined ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON members FOR SELECT USING (who = current_setting('request.jwt.claim.sub', true));
CREATE POLICY begins ON plain FOR SELECT USING (starts_with(body, 'open'));
CREATE POLICY seen ON joined FOR SELECT
  USING (team IN (SELECT m.team FROM members m) AND starts_with(body, 'open'));
INSERT INTO members VALUES (1, 1, 'ada');
INSERT INTO plain VALUES (1, 1, 'ada', 'open'), (2, 1, 'eve', 'shut');
INSERT INTO joined VALUES (1, 1, 'ada', 'open'), (2, 1, 'ada', 'shut');
";

const TABLES: [&str; 3] = ["members", "plain", "joined"];

/// What no policy, function or grant of users shows: Postgres decides otherwise than it did.
const BREAK: &str = "SET allow_system_table_mods = on;
CREATE OR REPLACE FUNCTION pg_catalog.starts_with(text, text) RETURNS boolean
  LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT pg_catalog.left($1, pg_catalog.length($2) + 1) = $2 || '!' $$;
RESET allow_system_table_mods";

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + LIMIT;
    while !is_so() {
        assert!(tokio::time::Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn of<'d>(all: &'d [Disagreement], table: &str) -> &'d Disagreement {
    let found = all.iter().find(|one| one.table == TableName::new("public", table));
    found.unwrap_or_else(|| panic!("nothing is said of {table}: {all:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_a_plan_that_is_not_what_postgres_does_is_found_and_postgres_is_asked() {
    let mut world = World::new(SCHEMA).await;
    // One in whose disagreements nobody is interested at the end.
    let live = world.live_beside(audited(2));
    let ada = user("ada");
    let mut followers: Vec<Follower> = Vec::new();
    for table in TABLES {
        for query in [query(table, "true", ""), count(table, "true")] {
            followers.push(world.follow_in(&live, query, &ada).await);
        }
    }
    until("all are told by plans", || live.figures().planned == followers.len()).await;
    let before = live.audits().compared;
    until("they are compared", || live.audits().compared > before + 30).await;
    assert_eq!((live.audits().differed, live.disagreements()), (0, vec![]));
    // Nothing is told, and nobody is asked, because of that.
    world.sql(BREAK).await;
    until("it is found", || live.disagreements().len() == 2).await;
    let all = live.disagreements();
    let (plain, joined) = (of(&all, "plain"), of(&all, "joined"));
    assert_eq!((&*plain.role, &*plain.policies), ("app", &["begins".to_owned()][..]));
    assert!(!plain.with_lookup && joined.with_lookup);
    for one in [plain, joined] {
        // Whichever of both results had its turn first.
        let said = &one.difference;
        let is_known = ["only here: 1 rows (keys 1)", "other values: 1 groups"];
        assert!(is_known.contains(&&**said), "{said}");
    }
    // From then on they hold what Postgres shows, and go on by being asked.
    for follower in &followers {
        world.settles(follower).await;
    }
    until("the others have their plans", || live.figures().planned == 2).await;
    world.sql("INSERT INTO plain VALUES (3, 1, 'ada', 'open'), (4, 1, 'ada', 'open!')").await;
    world.sql("INSERT INTO joined VALUES (3, 1, 'ada', 'open'), (4, 1, 'ada', 'open!')").await;
    for follower in &followers {
        world.settles(follower).await;
    }
    assert_eq!(live.figures().planned, 2);
    // So does whoever comes now.
    let query = query("plain", "true", "");
    let late = world.follow_in(&live, query, &ada).await;
    world.sql("UPDATE plain SET body = 'open!' WHERE id < 3").await;
    world.settles(&late).await;
    assert_eq!(live.figures().planned, 2);
    // Other policies are another matter.
    world.sql("ALTER POLICY begins ON plain USING (owner = 'ada')").await;
    world.sql("ALTER POLICY seen ON joined USING (team IN (SELECT m.team FROM members m))").await;
    until("all are told by plans again", || live.figures().planned == followers.len() + 1).await;
    assert_eq!(live.disagreements(), []);
    for follower in followers.iter().chain([&late]) {
        world.settles(follower).await;
    }
    world.end().await;
}
