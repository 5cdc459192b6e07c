//! Whoever loses access is not shown what is written from then on, however access is lost, while writers go on
//! and connections are cut (`engine.md` 11; E-4).

use crate::world::{Follower, ROLE, World, planned, query, unbounded, user};
use hw_live::{LiveError, LiveOptions};
use hw_types::TableName;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Mutex;

/// A table for each tier: computed here, with a table beside that a policy names, or a function of which Postgres knows
/// nothing, and asked.
const SCHEMA: &str = "
CREATE ROLE staff NOLOGIN; GRANT staff TO app;
CREATE FUNCTION me() RETURNS text LANGUAGE sql STABLE
  AS $$ SELECT nullif(current_setting('request.jwt.claim.sub', true), '') $$;
CREATE FUNCTION teams() RETURNS SETOF int LANGUAGE plpgsql STABLE SECURITY DEFINER
  AS $$ BEGIN RETURN QUERY SELECT m.team FROM public.members m WHERE m.who = public.me(); END $$;
CREATE TABLE members (id int PRIMARY KEY, team int NOT NULL, who text NOT NULL);
CREATE TABLE helpers (id int PRIMARY KEY, team int NOT NULL, who text NOT NULL);
CREATE FUNCTION helped() RETURNS SETOF int LANGUAGE sql STABLE SECURITY DEFINER
  AS $$ SELECT h.team FROM public.helpers h WHERE h.who = public.me() $$;
CREATE TABLE plain (id int PRIMARY KEY, team int, owner text, body text);
CREATE TABLE joined (id int PRIMARY KEY, team int, owner text, body text);
CREATE TABLE helped (id int PRIMARY KEY, team int, owner text, body text);
CREATE TABLE asked (id int PRIMARY KEY, team int, owner text, body text);
GRANT SELECT ON members, plain, joined, helped, asked TO app;
ALTER TABLE members ENABLE ROW LEVEL SECURITY;
ALTER TABLE plain ENABLE ROW LEVEL SECURITY;
ALTER TABLE joined ENABLE ROW LEVEL SECURITY;
ALTER TABLE helped ENABLE ROW LEVEL SECURITY;
ALTER TABLE asked ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON members FOR SELECT USING (who = me());
CREATE POLICY seen ON plain FOR SELECT TO staff USING (owner = me());
CREATE POLICY seen ON joined FOR SELECT TO staff
  USING (team IN (SELECT m.team FROM members m WHERE m.who = me()));
CREATE POLICY seen ON helped FOR SELECT TO staff USING (team IN (SELECT helped()));
CREATE POLICY seen ON asked FOR SELECT TO staff USING (team IN (SELECT teams()));
INSERT INTO members VALUES (1, 1, 'ada');
INSERT INTO helpers VALUES (1, 1, 'ada');
";

const TABLES: [&str; 4] = ["plain", "joined", "helped", "asked"];

/// All but the last.
const PLANNED: usize = 3;

/// How access is lost to some of the tables, and how it comes back.
type Loss = (&'static [&'static str], &'static str, &'static str);

/// By what policies, functions and rows say.
const LOSSES: &[Loss] = &[
    (
        &["plain"],
        "DROP POLICY seen ON plain",
        "CREATE POLICY seen ON plain FOR SELECT TO staff USING (owner = me())",
    ),
    (
        &["plain"],
        "ALTER POLICY seen ON plain USING (owner = 'nobody')",
        "ALTER POLICY seen ON plain USING (owner = me())",
    ),
    (
        &["joined"],
        "CREATE POLICY shut ON joined AS RESTRICTIVE FOR SELECT USING (false)",
        "DROP POLICY shut ON joined",
    ),
    (&["joined", "asked"], "DELETE FROM members", "INSERT INTO members VALUES (1, 1, 'ada')"),
    (&["joined", "asked"], "TRUNCATE members", "INSERT INTO members VALUES (1, 1, 'ada')"),
    (&["joined", "asked"], "UPDATE members SET team = 2", "UPDATE members SET team = 1"),
    (
        &TABLES,
        "CREATE OR REPLACE FUNCTION me() RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'nobody'::text $$",
        "CREATE OR REPLACE FUNCTION me() RETURNS text LANGUAGE sql STABLE
         AS $$ SELECT nullif(current_setting('request.jwt.claim.sub', true), '') $$",
    ),
    (&["asked"], "ALTER POLICY seen ON asked TO postgres", "ALTER POLICY seen ON asked TO staff"),
    (
        &["joined"],
        "ALTER POLICY own ON members USING (false)",
        "ALTER POLICY own ON members USING (who = me())",
    ),
    (&["helped"], "DELETE FROM helpers", "INSERT INTO helpers VALUES (1, 1, 'ada')"),
    (
        &["joined"],
        "ALTER TABLE joined DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE joined ENABLE ROW LEVEL SECURITY",
    ),
];

/// By grants, memberships and owners.
const LOSSES_OF_RIGHTS: &[Loss] = &[
    (&TABLES, "REVOKE staff FROM app", "GRANT staff TO app"),
    (&["plain"], "REVOKE SELECT ON plain FROM app", "GRANT SELECT ON plain TO app"),
    (
        &["plain"],
        "REVOKE SELECT ON plain FROM app; GRANT SELECT (id, team, owner, body) ON plain TO app;
         REVOKE SELECT (body) ON plain FROM app",
        "GRANT SELECT ON plain TO app",
    ),
    // What a policy reads beside is read as whoever asks.
    (
        &["joined"],
        "REVOKE SELECT ON members FROM app; GRANT SELECT (id, team) ON members TO app",
        "GRANT SELECT ON members TO app",
    ),
    // Postgres shows an owner everything, and nothing stands between.
    (
        &["plain"],
        "ALTER TABLE plain OWNER TO app",
        "ALTER TABLE plain OWNER TO postgres; GRANT SELECT ON plain TO app",
    ),
    (
        &["asked"],
        "ALTER FUNCTION teams() OWNER TO staff",
        "ALTER FUNCTION teams() OWNER TO postgres",
    ),
];

/// By what becomes of columns of the tables that say who may see what. `joined` depends on the first of them by itself,
/// of which Postgres knows, the others on names.
const LOSSES_BY_COLUMNS: &[Loss] = &[
    (
        &["joined", "asked"],
        "ALTER TABLE members DROP COLUMN team CASCADE",
        "ALTER TABLE members ADD COLUMN team int; UPDATE members SET team = 1;
         CREATE POLICY seen ON joined FOR SELECT TO staff
           USING (team IN (SELECT m.team FROM members m WHERE m.who = me()))",
    ),
    (&["helped"], "ALTER TABLE helpers DROP COLUMN who", "ALTER TABLE helpers ADD COLUMN who text DEFAULT 'ada'"),
    // Rows are others from then on, and the log says nothing of it.
    (
        &["joined", "asked"],
        "DROP POLICY seen ON joined; ALTER TABLE members ALTER COLUMN team TYPE int USING team + 100;
         CREATE POLICY seen ON joined FOR SELECT TO staff
           USING (team IN (SELECT m.team FROM members m WHERE m.who = me()))",
        "DROP POLICY seen ON joined; ALTER TABLE members ALTER COLUMN team TYPE int USING team - 100;
         CREATE POLICY seen ON joined FOR SELECT TO staff
           USING (team IN (SELECT m.team FROM members m WHERE m.who = me()))",
    ),
    (
        &["helped"],
        "ALTER TABLE helpers ALTER COLUMN team TYPE int USING team + 100",
        "ALTER TABLE helpers ALTER COLUMN team TYPE int USING team - 100",
    ),
    (
        &["helped"],
        "ALTER TABLE helpers ALTER COLUMN who TYPE varchar USING 'eve'",
        "ALTER TABLE helpers ALTER COLUMN who TYPE text USING 'ada'",
    ),
    // It is copied again, and meanwhile it changes.
    (
        &["joined", "asked"],
        "ALTER TABLE members ALTER COLUMN id TYPE bigint; DELETE FROM members",
        "ALTER TABLE members ALTER COLUMN id TYPE int; INSERT INTO members (id, team, who) VALUES (1, 1, 'ada')",
    ),
    (
        &["helped"],
        "ALTER TABLE helpers ALTER COLUMN id TYPE bigint; UPDATE helpers SET team = 2",
        "ALTER TABLE helpers ALTER COLUMN id TYPE int; UPDATE helpers SET team = 1",
    ),
];

/// By what becomes of these tables.
const LOSSES_BY_TABLES: &[Loss] = &[
    // Another table has the name, and who may see what is in this one for some and in that one for others.
    (
        &["joined"],
        "ALTER TABLE members RENAME TO were; CREATE TABLE members (LIKE were INCLUDING ALL);
         INSERT INTO members (id, team, who) VALUES (1, 1, 'ada'); DELETE FROM were",
        "DROP TABLE members; ALTER TABLE were RENAME TO members;
         INSERT INTO members (id, team, who) VALUES (1, 1, 'ada')",
    ),
    (
        &["asked"],
        "ALTER TABLE members RENAME TO were; CREATE TABLE members (LIKE were INCLUDING ALL)",
        "DROP TABLE members; ALTER TABLE were RENAME TO members",
    ),
    (
        &["helped"],
        "ALTER TABLE helpers RENAME TO were; CREATE TABLE helpers (LIKE were INCLUDING ALL)",
        "DROP TABLE helpers; ALTER TABLE were RENAME TO helpers",
    ),
    // Without a key.
    (
        &["joined", "asked"],
        "ALTER TABLE members DROP CONSTRAINT members_pkey; TRUNCATE members",
        "ALTER TABLE members ADD PRIMARY KEY (id); INSERT INTO members (id, team, who) VALUES (1, 1, 'ada')",
    ),
    (
        &["helped"],
        "ALTER TABLE helpers REPLICA IDENTITY FULL; ALTER TABLE helpers DROP CONSTRAINT helpers_pkey;
         DELETE FROM helpers",
        "ALTER TABLE helpers ADD PRIMARY KEY (id); ALTER TABLE helpers REPLICA IDENTITY DEFAULT;
         INSERT INTO helpers (id, team, who) VALUES (1, 1, 'ada')",
    ),
    // What the log does not have.
    (
        &["joined", "asked"],
        "ALTER PUBLICATION headwater DROP TABLE members; DELETE FROM members",
        "INSERT INTO members (id, team, who) VALUES (1, 1, 'ada')",
    ),
    (
        &["helped"],
        "ALTER PUBLICATION headwater DROP TABLE helpers; UPDATE helpers SET who = 'eve';
         ALTER PUBLICATION headwater ADD TABLE helpers",
        "UPDATE helpers SET who = 'ada'",
    ),
    (
        &["helped"],
        "ALTER PUBLICATION headwater SET (publish = 'insert'); DELETE FROM helpers",
        "INSERT INTO helpers (id, team, who) VALUES (1, 1, 'ada')",
    ),
    (
        &["joined", "asked"],
        "DROP TABLE members CASCADE",
        "CREATE TABLE members (id int PRIMARY KEY, team int NOT NULL, who text NOT NULL);
         GRANT SELECT ON members TO app; ALTER TABLE members ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON members FOR SELECT USING (who = me());
         CREATE POLICY seen ON joined FOR SELECT TO staff
           USING (team IN (SELECT m.team FROM members m WHERE m.who = me()));
         INSERT INTO members VALUES (1, 1, 'ada')",
    ),
    (
        &["helped"],
        "DROP TABLE helpers",
        "CREATE TABLE helpers (id int PRIMARY KEY, team int NOT NULL, who text NOT NULL);
         INSERT INTO helpers VALUES (1, 1, 'ada')",
    ),
];

/// Rows that are written while access is lost have this in them.
const SECRET: &str = "secret";

async fn followers(world: &World) -> Vec<Follower> {
    let ada = user("ada");
    let mut followers = Vec::new();
    for table in TABLES {
        followers.push(world.follow(query(table, "true", ""), &ada).await);
    }
    followers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_nobody_is_shown_what_is_written_behind_the_loss_of_access() {
    nobody_is_shown_what_is_written_behind(LOSSES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_nobody_is_shown_what_is_written_behind_the_loss_of_rights() {
    nobody_is_shown_what_is_written_behind(LOSSES_OF_RIGHTS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_nobody_is_shown_what_is_written_behind_what_becomes_of_permission_columns() {
    nobody_is_shown_what_is_written_behind(LOSSES_BY_COLUMNS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_nobody_is_shown_what_is_written_behind_what_becomes_of_permission_tables() {
    nobody_is_shown_what_is_written_behind(LOSSES_BY_TABLES).await;
}

async fn nobody_is_shown_what_is_written_behind(losses: &[Loss]) {
    let mut world = World::new(SCHEMA).await;
    // Those that are followed from their first result on: their tables have entered.
    let before = followers(&world).await;
    planned(&world.live, PLANNED).await;
    drop(before);
    let mut followers = followers(&world).await;
    let (stop, turn) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(())));
    let writer = world.client_of(ROLE_OF_WRITER).await;
    let writer = tokio::spawn(write(writer, turn.clone(), stop.clone()));
    for (round, (lost, loss, back)) in losses.iter().enumerate() {
        {
            // What is written all the time is never the same here and there.
            let _rest = turn.lock().await;
            for follower in &followers {
                world.settles(follower).await;
            }
        }
        // What is held here is what would be shown too long.
        planned(&world.live, PLANNED).await;
        eprintln!("{loss}");
        world.sql(loss).await;
        for (number, table) in lost.iter().enumerate() {
            let id = 1000 + 10 * round + number;
            world.sql(&format!("INSERT INTO {table} VALUES ({id}, 1, 'ada', '{SECRET}')")).await;
            world.sql(&format!("UPDATE {table} SET body = '{SECRET}' WHERE id < 3")).await;
        }
        if round % 3 == 0 {
            world.cut_sessions().await;
        }
        // What was written then is gone before access comes back; until that is seen to be so, nothing of
        // it may have been shown.
        {
            let _rest = turn.lock().await;
            world.settles_or_ends(&mut followers, lost).await;
        }
        for table in *lost {
            world.sql(&format!("DELETE FROM {table} WHERE body = '{SECRET}'")).await;
        }
        world.sql(back).await;
        for table in TABLES {
            let again =
                format!("INSERT INTO {table} VALUES (1, 1, 'ada', 'again') ON CONFLICT DO NOTHING");
            world.sql(&again).await;
        }
        for follower in &mut followers {
            assert!(!follower.held().was_shown(SECRET), "behind {loss}: {}", follower.query.table);
            if follower.held().ended.is_some() {
                *follower = world.follow(follower.query.clone(), &follower.who.clone()).await;
            }
        }
    }
    stop.store(true, Ordering::Release);
    writer.await.unwrap();
    for follower in &followers {
        world.settles(follower).await;
        assert!(!follower.held().was_shown(SECRET));
    }
    world.end().await;
}

const ROLE_OF_WRITER: &str = "postgres";

/// Writes rows that ada may see, and rows that she may not, all the time.
async fn write(client: tokio_postgres::Client, turn: Arc<Mutex<()>>, stop: Arc<AtomicBool>) {
    let mut round = 0_u32;
    while !stop.load(Ordering::Acquire) {
        let own_turn = turn.lock().await;
        round += 1;
        let (id, table) = (3 + round % 40, TABLES[round as usize % 4]);
        let team = round % 2 + 1;
        let owner = ["ada", "eve"][round as usize % 2];
        let upsert = format!(
            "INSERT INTO {table} VALUES ({id}, {team}, '{owner}', 'round {round}') ON CONFLICT (id) DO UPDATE \
             SET team = excluded.team, owner = excluded.owner, body = excluded.body WHERE {table}.body <> '{SECRET}'"
        );
        client.batch_execute(&upsert).await.unwrap();
        drop(own_turn);
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

/// What is asked is of a moment before access went, or the session in which it is asked ends meanwhile, or both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_a_round_that_is_cut_in_the_middle_shows_nothing_of_before() {
    // Whoever asks for rows waits for an advisory lock.
    let mut world = World::new(&SCHEMA.replace(
        "BEGIN RETURN",
        "BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared(1); RETURN",
    ))
    .await;
    let time = std::time::Duration::from_secs(120);
    let live = world.live_beside(LiveOptions {
        question_time: time,
        patience: time,
        ..LiveOptions::default()
    });
    let ada = user("ada");
    world.sql("INSERT INTO asked VALUES (1, 1, 'ada', 'a')").await;
    let mut follower = world.follow_in(&live, query("asked", "true", ""), &ada).await;
    let writer = world.client_of(ROLE_OF_WRITER).await;
    let losses = LOSSES.iter().chain(LOSSES_OF_RIGHTS);
    let losses = losses.filter(|(tables, ..)| tables.contains(&"asked"));
    for (round, (_, loss, back)) in losses.enumerate() {
        world.settles(&follower).await;
        while world.rows("asked").is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        eprintln!("{loss}");
        let lock = world.lock().await;
        world.sql("UPDATE asked SET body = body || 'a' WHERE id = 1").await;
        world.is_waiting_for_lock().await;
        if round % 2 == 0 {
            world.cut_sessions().await;
        }
        // It may wait for whoever asks.
        let (lost, ()) = tokio::join!(writer.batch_execute(loss), async {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            world.cut_sessions().await;
        });
        lost.unwrap();
        world.sql(&format!("INSERT INTO asked VALUES (2, 1, 'ada', '{SECRET}')")).await;
        if round % 3 == 0 {
            world.cut_sessions().await;
        }
        lock.batch_execute("SELECT pg_advisory_unlock(1)").await.unwrap();
        world.settles_or_ends(std::slice::from_mut(&mut follower), &["asked"]).await;
        assert!(!follower.held().was_shown(SECRET), "behind {loss}");
        world.sql("DELETE FROM asked WHERE id = 2").await;
        world.sql(back).await;
        if follower.held().ended.is_some() {
            follower = world.follow_in(&live, query("asked", "true", ""), &ada).await;
        }
    }
    world.settles(&follower).await;
    assert!(!follower.held().was_shown(SECRET));
    world.end().await;
}

/// What becomes of its rows is told by nobody from then on, however long that is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_access_goes_by_a_permission_table_that_cannot_be_followed_any_more() {
    let mut world = World::new(SCHEMA).await;
    let mut followers = followers(&world).await;
    planned(&world.live, PLANNED).await;
    world
        .sql(
            "INSERT INTO joined VALUES (1, 1, 'ada', 'a'), (2, 2, 'eve', 'b');
             INSERT INTO helped VALUES (1, 1, 'ada', 'a'), (2, 2, 'eve', 'b')",
        )
        .await;
    for follower in &followers {
        world.settles(follower).await;
    }
    world
        .sql(
            "ALTER PUBLICATION headwater DROP TABLE members, helpers;
             CREATE FUNCTION never() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'never'; END $$;
             CREATE EVENT TRIGGER unmended ON ddl_command_start WHEN TAG IN ('ALTER PUBLICATION')
               EXECUTE FUNCTION never()",
        )
        .await;
    let stand_still = |world: &World| {
        let published = world.engine.published();
        ["members", "helpers"].iter().all(|table| {
            let view = published.table(&TableName::new("public", *table)).entered();
            view.is_none_or(|view| view.stands_still())
        })
    };
    while !stand_still(&world) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for team in [2, 1, 3] {
        for follower in &followers {
            world.settles(follower).await;
        }
        // They rest, and nothing but the rows of these tables changes.
        world
            .sql(&format!("UPDATE members SET team = {team}; UPDATE helpers SET team = {team}"))
            .await;
    }
    world.settles_or_ends(&mut followers, &TABLES).await;
    world.sql("DROP EVENT TRIGGER unmended").await;
    for follower in &followers {
        world.settles(follower).await;
    }
    planned(&world.live, PLANNED).await;
    world.end().await;
}

/// `character(n)` is equal to texts that differ from it in padding, also where a policy looks for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_what_is_equal_but_for_padding_is_found_where_a_policy_looks_for_it() {
    let mut world = World::new(
        "CREATE TABLE members (id int PRIMARY KEY, team int, who varchar);
         CREATE TABLE plain (id int PRIMARY KEY, team int, owner char(5), body text);
         CREATE TABLE joined (id int PRIMARY KEY, team int, owner varchar, body text);
         GRANT SELECT ON members, plain, joined TO app;
         ALTER TABLE members ENABLE ROW LEVEL SECURITY; ALTER TABLE plain ENABLE ROW LEVEL SECURITY;
         ALTER TABLE joined ENABLE ROW LEVEL SECURITY;
         CREATE POLICY all_ ON members FOR SELECT USING (true);
         CREATE POLICY unlisted ON plain FOR SELECT
           USING (NOT EXISTS (SELECT FROM members m WHERE m.who::bpchar = plain.owner));
         CREATE POLICY listed ON joined FOR SELECT
           USING (owner::bpchar = ANY (SELECT p.owner FROM plain p));
         INSERT INTO members VALUES (1, 1, 'eve');
         INSERT INTO plain VALUES (1, 1, 'ada', 'a')",
    )
    .await;
    let ada = user("ada");
    let mut followers = Vec::new();
    for table in ["plain", "joined"] {
        followers.push(world.follow(query(table, "true", ""), &ada).await);
    }
    while world.live.figures().planned < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    world.sql("INSERT INTO plain VALUES (2, 1, 'eve', 'banned'), (3, 1, 'bob', 'b')").await;
    world.sql("INSERT INTO joined VALUES (1, 1, 'bob', 'b'), (2, 1, 'eve', 'banned'), (3, 1, 'ada  ', 'c')").await;
    for follower in &followers {
        world.settles(follower).await;
        assert!(!follower.held().was_shown("banned"), "{}", follower.query.table);
    }
    world.end().await;
}

/// A question that cannot be answered keeps nobody else from being answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ds_10_5_a_row_without_a_key_ends_its_own_result_and_no_other() {
    let mut world = World::new(
        "CREATE TABLE plain (id int, team int, owner text, body text);
         CREATE TABLE members (id int PRIMARY KEY, team int, who text);
         GRANT SELECT ON plain, members TO app;
         ALTER TABLE plain REPLICA IDENTITY FULL;
         ALTER TABLE plain ENABLE ROW LEVEL SECURITY; ALTER TABLE members ENABLE ROW LEVEL SECURITY;
         CREATE POLICY all_ ON plain FOR SELECT USING (true);
         CREATE POLICY all_ ON members FOR SELECT USING (true)",
    )
    .await;
    let ada = user("ada");
    let poisoned = world.follow(query("plain", "true", ""), &ada).await;
    let other = world.follow(query("members", "true", "ORDER BY id LIMIT 5"), &ada).await;
    world.sql("INSERT INTO plain VALUES (NULL, 1, 'ada', 'x')").await;
    world.sql("INSERT INTO members VALUES (1, 1, 'ada')").await;
    world.settles(&other).await;
    while poisoned.held().ended.is_none() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    world.sql("INSERT INTO members VALUES (2, 1, 'ada')").await;
    world.settles(&other).await;
    world.end().await;
}

/// A session keeps what it has planned, and computed while it planned, also behind a savepoint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_what_was_planned_for_one_of_a_round_does_not_decide_for_the_next() {
    let mut world = World::new(
        "CREATE FUNCTION uid() RETURNS text LANGUAGE sql IMMUTABLE AS
           $$ SELECT current_setting('request.jwt.claim.sub', true) $$;
         CREATE FUNCTION is_mine(who text) RETURNS bool LANGUAGE plpgsql STABLE AS
           $$ BEGIN IF who IS NULL THEN RETURN false; END IF; RETURN who = uid(); END $$;
         CREATE TABLE owned (id int PRIMARY KEY, team int, who text, label text);
         ALTER TABLE owned ENABLE ROW LEVEL SECURITY;
         GRANT SELECT ON owned TO app;
         CREATE POLICY owned ON owned USING (is_mine(who))",
    )
    .await;
    let mut followers = Vec::new();
    let names = ["ada", "bob", "eve"];
    for name in names {
        followers.push(world.follow(query("owned", "true", ""), &user(name)).await);
    }
    // Each of these lets all of them be asked, in one round.
    for id in 1..=10 {
        let of = |(at, name)| format!("({}, 1, '{name}', 'of {name}')", 3 * id + at);
        let rows: Vec<String> = names.iter().enumerate().map(of).collect();
        world.sql(&format!("INSERT INTO owned VALUES {}", rows.join(", "))).await;
        for follower in &followers {
            world.settles(follower).await;
        }
    }
    for (follower, name) in followers.iter().zip(names) {
        for other in names.iter().filter(|other| **other != name) {
            assert!(!follower.held().was_shown(&format!("of {other}")), "{other} to {name}");
        }
    }
    world.end().await;
}

/// What the log says of a table of which its publication sends some rows is not all there is to know of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_a_permission_table_with_a_row_filter_is_asked_for() {
    let mut world = World::new(
        "CREATE TABLE blocked (id int PRIMARY KEY, who text, team int);
         CREATE TABLE shared (id int PRIMARY KEY, team int, who text, label text);
         INSERT INTO blocked VALUES (1, 'ada', 7);
         ALTER TABLE shared ENABLE ROW LEVEL SECURITY;
         GRANT SELECT ON shared, blocked TO app;
         CREATE POLICY shared ON shared USING (NOT EXISTS (SELECT FROM blocked b
           WHERE b.who = current_setting('request.jwt.claim.sub', true) AND b.team = shared.team));
         CREATE PUBLICATION headwater FOR TABLE shared, blocked WHERE (id < 0)",
    )
    .await;
    let follower = world.follow(query("shared", "true", ""), &user("ada")).await;
    for id in 1..=20 {
        let rows = format!("({id}, 7, '', '{SECRET}'), ({}, 1, '', 'for all')", id + 100);
        world.sql(&format!("INSERT INTO shared VALUES {rows}")).await;
        world.settles(&follower).await;
    }
    assert!(!follower.held().was_shown(SECRET));
    let polled = world.live.figures().polled;
    assert!(polled.iter().any(|one| one.table.name == "blocked" && one.why.contains("row filter")));
    // Nothing in the log tells of this.
    world.sql("DELETE FROM blocked").await;
    world.settles(&follower).await;
    world.end().await;
}

#[tokio::test]
async fn e_4_a_table_without_row_security_is_not_shown() {
    let world = World::new("CREATE TABLE open (id int PRIMARY KEY); GRANT SELECT ON open TO app; INSERT INTO open VALUES (1)").await;
    let refused = world.live.subscribe(query("open", "true", ""), user("ada"), unbounded()).await;
    assert!(matches!(refused.err(), Some(LiveError::NotSecured { .. })));
    world
        .sql(&format!(
            "ALTER TABLE open ENABLE ROW LEVEL SECURITY; ALTER TABLE open OWNER TO {ROLE}"
        ))
        .await;
    let refused = world.live.subscribe(query("open", "true", ""), user("ada"), unbounded()).await;
    assert!(matches!(refused.err(), Some(LiveError::NotSecured { .. })));
    world.sql(&format!("ALTER TABLE open OWNER TO postgres; ALTER ROLE {ROLE} BYPASSRLS")).await;
    let refused = world.live.subscribe(query("open", "true", ""), user("ada"), unbounded()).await;
    assert!(matches!(refused.err(), Some(LiveError::Role { .. })));
    let unknown =
        world.live.subscribe(query("nothing", "true", ""), user("ada"), unbounded()).await;
    assert!(matches!(unknown.err(), Some(LiveError::NotReadable(_))));
    assert_eq!(world.live.figures().results, 0);
    world.end().await;
}
