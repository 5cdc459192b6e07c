//! What followers hold is what Postgres shows them, whatever happens to rows, memberships and policies.

use crate::world::{
    Follower, Held, LIMIT, ROLE, World, audited, count, first, query, user, user_as,
};
use hw_types::RunAs;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::error::SqlState;

/// Policies of every kind: owner, membership, parent's membership, role claim, restrictive, a helper function.
const SCHEMA: &str = "
CREATE ROLE guest NOLOGIN; CREATE ROLE staff NOLOGIN; GRANT staff TO app;
CREATE FUNCTION me() RETURNS text LANGUAGE sql STABLE
  AS $$ SELECT nullif(current_setting('request.jwt.claim.sub', true), '') $$;
CREATE TABLE members (id int PRIMARY KEY, team int NOT NULL, who text NOT NULL);
CREATE TABLE tasks (id int PRIMARY KEY, team int, owner text, title text, done boolean, at timestamptz DEFAULT '2026-01-02 03:04:05.678+00', price numeric);
CREATE TABLE notes (id uuid PRIMARY KEY, task int, body text, secret boolean NOT NULL DEFAULT false);
CREATE FUNCTION is_member(team int) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER
  AS $$ SELECT EXISTS (SELECT FROM public.members m WHERE m.team = is_member.team AND m.who = public.me()) $$;
GRANT SELECT ON members, tasks, notes TO app, guest;
ALTER TABLE members ENABLE ROW LEVEL SECURITY;
ALTER TABLE tasks ENABLE ROW LEVEL SECURITY;
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON members FOR SELECT USING (who = me());
CREATE POLICY own ON tasks FOR SELECT USING (owner = me());
CREATE POLICY team ON tasks FOR SELECT USING (team IN (SELECT m.team FROM members m WHERE m.who = me()));
CREATE POLICY task ON notes FOR SELECT USING (EXISTS (SELECT FROM tasks t WHERE t.id = task));
CREATE POLICY plain ON notes AS RESTRICTIVE FOR SELECT USING (NOT secret OR is_member(1));
";

const USERS: [&str; 3] = ["ada", "bob", "eve"];

const TABLES: [&str; 3] = ["members", "tasks", "notes"];

/// Statements that change who may see what.
const RULES: [&str; 8] = [
    "ALTER POLICY own ON tasks USING (owner = me() AND NOT coalesce(done, false))",
    "ALTER POLICY own ON tasks USING (owner = me())",
    "DROP POLICY IF EXISTS extra ON tasks; CREATE POLICY extra ON tasks FOR SELECT USING (title = 'open')",
    "DROP POLICY IF EXISTS extra ON tasks",
    "CREATE OR REPLACE FUNCTION is_member(team int) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT false $$",
    "CREATE OR REPLACE FUNCTION is_member(team int) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER \
     AS $$ SELECT EXISTS (SELECT FROM public.members m WHERE m.team = is_member.team AND m.who = public.me()) $$",
    "ALTER POLICY plain ON notes USING (true)",
    "ALTER POLICY plain ON notes USING (NOT secret OR is_member(1))",
];

/// Somebody at random, as one of two roles.
fn somebody(rng: &mut StdRng) -> Arc<RunAs> {
    let role = if rng.random_bool(0.75) { ROLE } else { "guest" };
    user_as(role, USERS.choose(rng).unwrap())
}

/// Who gets in by what else a random policy may say.
#[derive(Clone, Copy, PartialEq)]
enum Says {
    /// What is computed here.
    Known,
    /// Also what only Postgres knows.
    Anything,
}

/// A random policy in the place of another: permissive or restrictive, for one command or all, for some roles or all.
fn policy(rng: &mut StdRng, table: &str, says: Says) -> String {
    let name = format!("random_{}", rng.random_range(0..4));
    let kind = if rng.random_bool(0.75) { "PERMISSIVE" } else { "RESTRICTIVE" };
    let commands = ["ALL", "SELECT", "SELECT", "SELECT", "INSERT", "UPDATE", "DELETE"];
    let command = commands.choose(rng).unwrap();
    let roles = ["PUBLIC", "PUBLIC", "app", "staff", "guest", "app, guest"].choose(rng).unwrap();
    let clause = if *command == "INSERT" { "WITH CHECK" } else { "USING" };
    let condition = condition(rng, table, 2, says);
    format!(
        "DROP POLICY IF EXISTS {name} ON {table}; \
         CREATE POLICY {name} ON {table} AS {kind} FOR {command} TO {roles} {clause} ({condition})"
    )
}

/// A random condition over the rows of a table. Policies of members read no other table, those of tasks read members,
/// those of notes both: Postgres refuses circles.
fn condition(rng: &mut StdRng, table: &str, depth: u32, says: Says) -> String {
    if depth > 0 && rng.random_bool(0.5) {
        let mut part = || condition(rng, table, depth - 1, says);
        let (one, other) = (part(), part());
        return match rng.random_range(0..6) {
            0..2 => format!("({one}) AND ({other})"),
            2..4 => format!("({one}) OR ({other})"),
            4 => format!("NOT ({one})"),
            _ => format!("CASE WHEN {one} THEN {other} ELSE me() = 'bob' END"),
        };
    }
    let number = rng.random_range(0..4);
    if says == Says::Anything && rng.random_bool(0.1) {
        return format!("lower(me()) < 'c' AND abs({number}) > 1");
    }
    let anywhere =
        ["true", "false", "NULL", "me() = 'ada'", "current_user = 'guest'", "is_member(1)"];
    if rng.random_bool(0.15) {
        return anywhere.choose(rng).unwrap().to_string();
    }
    let of_team = |team: &str| {
        vec![
            format!("{team} = {number}"),
            format!("{team} = ANY (ARRAY[1, {number}])"),
            format!("{team} BETWEEN 1 AND {number}"),
            format!("{team} IS DISTINCT FROM {number}"),
        ]
    };
    let by_member = |team: &str| {
        vec![
            format!("{team} IN (SELECT m.team FROM members m WHERE m.who = me())"),
            format!("EXISTS (SELECT FROM members m WHERE m.team = {team} AND m.id > {number})"),
            format!("is_member({team})"),
        ]
    };
    let texts = |all: &[&str]| all.iter().map(|&text| text.to_owned()).collect::<Vec<String>>();
    let of_table = match table {
        "members" => {
            [of_team("team"), texts(&["who = me()", "who <> me()", "who IN ('ada', 'eve')"])]
                .concat()
        }
        "tasks" => [
            of_team("team"),
            by_member("team"),
            texts(&[
                "owner = me()",
                "owner IS NULL",
                "done",
                "done IS NOT TRUE",
                "coalesce(done, me() = 'eve')",
            ]),
            texts(&[
                "title = 'open'",
                "title <> 'open'",
                "price > 1.5",
                "nullif(title, 'open') IS NULL",
            ]),
        ]
        .concat(),
        _ => [
            of_team("task"),
            by_member("task"),
            texts(&["secret", "NOT secret", "body = 'open'", "body || 'a' = 'opena'"]),
            texts(&[
                "EXISTS (SELECT FROM tasks t WHERE t.id = task AND t.owner = me())",
                "task IN (SELECT t.id FROM tasks t WHERE t.done)",
                "(SELECT t.title FROM tasks t WHERE t.id = task) = 'open'",
            ]),
        ]
        .concat(),
    };
    of_table.choose(rng).unwrap().clone()
}

/// Changes who may see what, at random.
fn rule(rng: &mut StdRng, says: Says) -> String {
    match rng.random_range(0..10) {
        0..2 => RULES.choose(rng).unwrap().to_string(),
        2 => ["GRANT staff TO app", "REVOKE staff FROM app"].choose(rng).unwrap().to_string(),
        3 => {
            let (name, table) = (rng.random_range(0..4), TABLES.choose(rng).unwrap());
            format!("DROP POLICY IF EXISTS random_{name} ON {table}")
        }
        _ => {
            let table = TABLES.choose(rng).unwrap();
            policy(rng, table, says)
        }
    }
}

fn statement(rng: &mut StdRng, with_rules: bool) -> String {
    let (id, team) = (rng.random_range(0..12), rng.random_range(0..3));
    let who = USERS.choose(rng).unwrap();
    let title = ["open", "shut", "a\"b"].choose(rng).unwrap();
    let done = ["true", "false", "NULL"].choose(rng).unwrap();
    let uuid = format!("00000000-0000-4000-8000-{:012}", id % 8);
    match rng.random_range(0..100) {
        0..22 => format!(
            "INSERT INTO tasks (id, team, owner, title, done, price) VALUES ({id}, {team}, '{who}', '{title}', {done}, {}.50) \
             ON CONFLICT (id) DO UPDATE SET title = excluded.title, owner = excluded.owner",
            rng.random_range(0..3)
        ),
        22..34 => format!("UPDATE tasks SET owner = '{who}', done = {done} WHERE id = {id}"),
        34..42 => format!("UPDATE tasks SET team = {team} WHERE id = {id}"),
        42..46 => format!("UPDATE tasks SET title = title WHERE id = {id}"),
        46..54 => format!("DELETE FROM tasks WHERE id = {id}"),
        54..62 => format!(
            "INSERT INTO members VALUES ({}, {team}, '{who}') ON CONFLICT DO NOTHING",
            id % 6
        ),
        62..69 => format!("DELETE FROM members WHERE id = {}", id % 6),
        69..72 => format!("UPDATE members SET who = '{who}' WHERE id = {}", id % 6),
        72..82 => format!(
            "INSERT INTO notes VALUES ('{uuid}', {id}, '{title}', {}) ON CONFLICT (id) DO UPDATE SET task = excluded.task",
            rng.random_bool(0.5)
        ),
        82..86 => format!("UPDATE notes SET secret = NOT secret WHERE id = '{uuid}'"),
        86..89 => format!("DELETE FROM notes WHERE id = '{uuid}'"),
        // What the rows of an emptied table were is listed nowhere.
        89..90 if with_rules => "TRUNCATE notes".into(),
        90..91 if with_rules => "TRUNCATE members".into(),
        91..93 => format!(
            "UPDATE tasks SET id = id + 100 WHERE id = {id}; UPDATE tasks SET id = id - 100 WHERE id = {id} + 100"
        ),
        _ if with_rules => rule(rng, Says::Anything),
        _ => format!("UPDATE tasks SET price = price + 1 WHERE id = {id}"),
    }
}

/// Rows whose keys and prices are told as texts.
fn with_texts(condition: &str, window: &str) -> hw_live::LiveQuery {
    let mut query = query("tasks", condition, window);
    query.as_text = ["id", "price"].map(str::to_owned).into();
    query.rows.text = format!(
        "WITH q AS (SELECT * FROM public.tasks WHERE {condition} {window}) SELECT to_jsonb(q.id::text)::text, \
         (to_jsonb(q) || jsonb_build_object('id', q.id::text, 'price', q.price::text))::text FROM q"
    );
    query
}

fn queries() -> Vec<hw_live::LiveQuery> {
    vec![
        query("tasks", "true", ""),
        query("tasks", "team = 1 AND done IS NOT TRUE", ""),
        count("tasks", "owner = 'ada' OR title = 'open'"),
        query("tasks", "true", "ORDER BY price DESC, id LIMIT 3"),
        with_texts("true", ""),
        with_texts("team = 1", "ORDER BY id LIMIT 3"),
        query("notes", "true", ""),
        count("notes", "body <> 'shut'"),
        query("members", "true", ""),
        count("members", "team <> 2"),
        query("members", "true", "ORDER BY id LIMIT 2"),
        first("tasks", "true", &[("price", true), ("id", false)], (0, 3)),
        first("tasks", "team = 1", &[("title", false), ("at", true), ("id", false)], (1, 2)),
        first("notes", "true", &[("body", true), ("id", false)], (0, 2)),
        first("members", "true", &[("team", false), ("id", true)], (0, 3)),
    ]
}

/// Audits come between commits of several sessions, some of which wait to be seen, and find nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_an_audit_accuses_nobody_whatever_is_written_meanwhile() {
    let mut rng = StdRng::seed_from_u64(
        std::env::var("HEADWATER_SEED").map_or(7, |seed| seed.parse().unwrap()),
    );
    let mut world = World::new(SCHEMA).await;
    let live = world.live_beside(audited(2));
    let mut followers: Vec<Follower> = Vec::new();
    for query in queries().into_iter().chain(queries()) {
        let who = user(USERS.choose(&mut rng).unwrap());
        followers.push(world.follow_in(&live, query, &who).await);
    }
    let sessions = [world.client_of("postgres").await, world.client_of("postgres").await];
    for step in 0..200 {
        if step % 50 == 49 {
            world.sql(RULES.choose(&mut rng).unwrap()).await;
        }
        let before = live.audits().compared;
        let truncated = (step % 8 == 7).then_some("TRUNCATE notes; TRUNCATE tasks");
        let mut transaction = || {
            let count = rng.random_range(1..3);
            let statements = (0..count).map(|_| statement(&mut rng, false));
            let statements: Vec<String> = statements.chain(truncated.map(str::to_owned)).collect();
            format!("BEGIN; {}; COMMIT", statements.join("; "))
        };
        let [one, other] = [transaction(), transaction()];
        let both = tokio::join!(sessions[0].batch_execute(&one), sessions[1].batch_execute(&other));
        for (session, result) in sessions.iter().zip([both.0, both.1]) {
            if let Err(error) = result {
                let may_be = [SqlState::T_R_DEADLOCK_DETECTED, SqlState::UNIQUE_VIOLATION];
                assert!(error.code().is_some_and(|code| may_be.contains(code)), "{error:?}");
                session.batch_execute("ROLLBACK").await.unwrap();
            }
        }
        let wanted = before + rng.random_range(0..4);
        let end = tokio::time::Instant::now() + LIMIT;
        while live.audits().compared < wanted {
            assert!(tokio::time::Instant::now() < end, "nobody is audited");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    for follower in &followers {
        world.settles(follower).await;
    }
    let audits = live.audits();
    assert!(audits.compared > 200 && audits.differed == 0, "{audits:?}");
    world.end().await;
}

/// Under policies at random. Where these stay as they are everything is told by plans; else they change among the
/// rows, and some are known to Postgres alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_followers_hold_what_postgres_shows_them() {
    let seeds = std::env::var("HEADWATER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds: Vec<u64> = seeds.map_or_else(|| (0..6).collect(), |seed| vec![seed]);
    for seed in seeds {
        eprintln!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::new(SCHEMA).await;
        let says = if seed % 2 == 0 { Says::Known } else { Says::Anything };
        for _ in 0..8 {
            world.sql(&rule(&mut rng, says)).await;
        }
        let mut followers: Vec<Follower> = Vec::new();
        for round in 0..20 {
            if round % 5 == 0 {
                // New ones come among the old ones.
                for query in queries() {
                    let who = somebody(&mut rng);
                    followers.push(world.follow(query, &who).await);
                }
            }
            // Without statements that change who may see what all of them are told by plans.
            while seed % 2 == 0 && world.live.figures().planned < followers.len() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            for _ in 0..rng.random_range(1..6) {
                let count = rng.random_range(1..4);
                let statements: Vec<String> =
                    (0..count).map(|_| statement(&mut rng, seed % 2 == 1)).collect();
                world.sql(&format!("BEGIN; {}; COMMIT", statements.join("; "))).await;
            }
            if rng.random_bool(0.3) && !followers.is_empty() {
                followers.swap_remove(rng.random_range(0..followers.len()));
            }
            for follower in &followers {
                world.settles(follower).await;
            }
        }
        assert_eq!(world.live.figures().results, followers.len());
        if seed % 2 == 0 {
            // What rows were before they changed comes with what changes them, but for one that goes and comes back
            // in commits that are told together.
            let sum = |of: fn(&Held) -> u64| -> u64 {
                followers.iter().map(|follower| of(&follower.held())).sum()
            };
            let (unknown, updates) = (sum(|held| held.unknown), sum(|held| held.updates));
            assert!(
                unknown * 20 <= updates,
                "of {unknown} of {updates} it is not told what they change"
            );
        }
        world.end().await;
    }
}
