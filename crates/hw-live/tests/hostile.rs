//! Whoever loses access is not shown what is written from then on, however access is lost, while writers go on
//! and connections are cut (`engine.md` 11; E-4).

use crate::world::{Follower, ROLE, World, query, unbounded, user};
use hw_live::LiveError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Mutex;

/// A table for each tier: computed here, with a table beside, asked.
const SCHEMA: &str = "
CREATE ROLE staff NOLOGIN; GRANT staff TO app;
CREATE FUNCTION me() RETURNS text LANGUAGE sql STABLE
  AS $$ SELECT nullif(current_setting('request.jwt.claim.sub', true), '') $$;
CREATE FUNCTION teams() RETURNS SETOF int LANGUAGE plpgsql STABLE SECURITY DEFINER
  AS $$ BEGIN RETURN QUERY SELECT m.team FROM public.members m WHERE m.who = public.me(); END $$;
CREATE TABLE members (id int PRIMARY KEY, team int NOT NULL, who text NOT NULL);
CREATE TABLE plain (id int PRIMARY KEY, team int, owner text, body text);
CREATE TABLE joined (id int PRIMARY KEY, team int, owner text, body text);
CREATE TABLE asked (id int PRIMARY KEY, team int, owner text, body text);
GRANT SELECT ON members, plain, joined, asked TO app;
ALTER TABLE members ENABLE ROW LEVEL SECURITY;
ALTER TABLE plain ENABLE ROW LEVEL SECURITY;
ALTER TABLE joined ENABLE ROW LEVEL SECURITY;
ALTER TABLE asked ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON members FOR SELECT USING (who = me());
CREATE POLICY seen ON plain FOR SELECT TO staff USING (owner = me());
CREATE POLICY seen ON joined FOR SELECT TO staff
  USING (team IN (SELECT m.team FROM members m WHERE m.who = me()));
CREATE POLICY seen ON asked FOR SELECT TO staff USING (team IN (SELECT teams()));
INSERT INTO members VALUES (1, 1, 'ada');
";

const TABLES: [&str; 3] = ["plain", "joined", "asked"];

/// How access is lost to some of the tables, and how it comes back.
const LOSSES: &[(&[&str], &str, &str)] = &[
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
    (&TABLES, "REVOKE staff FROM app", "GRANT staff TO app"),
    (&["asked"], "ALTER POLICY seen ON asked TO postgres", "ALTER POLICY seen ON asked TO staff"),
    (
        &["joined"],
        "ALTER POLICY own ON members USING (false)",
        "ALTER POLICY own ON members USING (who = me())",
    ),
    (&["plain"], "REVOKE SELECT ON plain FROM app", "GRANT SELECT ON plain TO app"),
    (
        &["joined"],
        "ALTER TABLE joined DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE joined ENABLE ROW LEVEL SECURITY",
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
    let mut world = World::new(SCHEMA).await;
    let mut followers = followers(&world).await;
    let (stop, turn) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(())));
    let writer = world.client_of(ROLE_OF_WRITER).await;
    let writer = tokio::spawn(write(writer, turn.clone(), stop.clone()));
    for (round, (lost, loss, back)) in LOSSES.iter().enumerate() {
        {
            // What is written all the time is never the same here and there.
            let _rest = turn.lock().await;
            for follower in &followers {
                world.settles(follower).await;
            }
        }
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
        let (id, table) = (3 + round % 40, TABLES[round as usize % 3]);
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
    while world.live.planned() < 2 {
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
    assert_eq!(world.live.subscriptions(), 0);
    world.end().await;
}
