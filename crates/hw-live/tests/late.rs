//! Transactions that are published before snapshots see them: their commits wait for a standby (`engine.md` 11).

use crate::world::{Follower, World, count, planned, query, user};
use hw_live::{Live, LiveOptions};
use hw_types::Row;
use std::time::Duration;
use tokio::task::JoinHandle;

/// A table for each way of being told: computed here, with a table beside, asked.
const SCHEMA: &str = "
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
CREATE POLICY seen ON plain FOR SELECT USING (owner = me());
CREATE POLICY seen ON joined FOR SELECT USING (team IN (SELECT m.team FROM members m WHERE m.who = me()));
CREATE POLICY seen ON asked FOR SELECT USING (team IN (SELECT teams()));
INSERT INTO members VALUES (1, 1, 'ada');
INSERT INTO plain VALUES (1, 1, 'ada', 'a'), (2, 1, 'ada', 'a');
INSERT INTO joined VALUES (1, 1, 'ada', 'a');
INSERT INTO asked VALUES (1, 1, 'ada', 'a'), (2, 1, 'ada', 'a');
";

const TABLES: [&str; 3] = ["plain", "joined", "asked"];

/// Results of the first two.
const PLANNED: usize = 6;

async fn followers(world: &World, live: &Live) -> Vec<Follower> {
    let ada = user("ada");
    let mut followers = Vec::new();
    for table in TABLES {
        let window = query(table, "true", "ORDER BY id DESC LIMIT 2");
        for query in [query(table, "true", ""), window, count(table, "true")] {
            followers.push(world.follow_in(live, query, &ada).await);
        }
    }
    followers
}

/// A transaction whose commit waits for a standby that there is not.
struct Held(Vec<JoinHandle<()>>);

impl Held {
    /// Returns when all of it is published.
    async fn begin(world: &World) -> Held {
        // What makes a table followed commits as well.
        while TABLES.iter().any(|table| world.rows(table).is_none()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        world.commits_wait(true).await;
        let mut writers = Vec::new();
        for table in TABLES {
            let client = world.client_of("postgres").await;
            let sql = format!(
                "BEGIN; INSERT INTO {table} VALUES (7, 1, 'ada', 'late'); \
                 UPDATE {table} SET body = 'changed' WHERE id = 1; DELETE FROM {table} WHERE id = 2; COMMIT"
            );
            writers.push(tokio::spawn(async move { client.batch_execute(&sql).await.unwrap() }));
        }
        for table in TABLES {
            while !world.rows(table).is_some_and(|rows| rows.iter().any(is_late)) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        assert!(writers.iter().all(|writer| !writer.is_finished()), "the commits do not wait");
        Held(writers)
    }

    async fn release(self, world: &World) {
        world.commits_wait(false).await;
        for writer in self.0 {
            writer.await.unwrap();
        }
    }
}

fn is_late(row: &Row) -> bool {
    row.view().get(3).bytes() == Some(b"late")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_what_is_published_before_anybody_asks_is_told_when_it_is_seen() {
    let mut world = World::new(SCHEMA).await;
    // So that the tables are followed.
    let _first = followers(&world, &world.live).await;
    let held = Held::begin(&world).await;
    let live = world.live_beside(LiveOptions::default());
    let late = followers(&world, &live).await;
    for follower in &late {
        world.settles(follower).await;
        assert!(!follower.held().was_shown("late"), "a first result is of one snapshot");
    }
    // From then on nobody is asked for another reason.
    planned(&live, PLANNED).await;
    held.release(&world).await;
    for follower in &late {
        world.settles(follower).await;
    }
    // It goes on from there.
    for table in TABLES {
        world.sql(&format!("INSERT INTO {table} VALUES (8, 1, 'ada', 'on')")).await;
    }
    for follower in &late {
        world.settles(follower).await;
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_what_is_published_and_not_seen_is_told_once_and_nobody_is_asked_until_then() {
    let mut world = World::new(SCHEMA).await;
    let followers = followers(&world, &world.live).await;
    for follower in &followers {
        world.settles(follower).await;
    }
    planned(&world.live, PLANNED).await;
    let held = Held::begin(&world).await;
    // Rounds that follow each other without a pause would be hundreds by then.
    let before = world.live.rounds();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let rounds = world.live.rounds() - before;
    assert!(rounds < 20, "{rounds} rounds while nothing could be seen");
    held.release(&world).await;
    for follower in &followers {
        world.settles(follower).await;
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ds_10_5_4_what_was_told_and_is_not_seen_yet_stays_when_it_is_asked_again() {
    let mut world = World::new(SCHEMA).await;
    world.sql("INSERT INTO joined VALUES (20, 2, 'eve', 'b'), (21, 2, 'eve', 'b')").await;
    let followers = followers(&world, &world.live).await;
    for follower in &followers {
        world.settles(follower).await;
    }
    planned(&world.live, PLANNED).await;
    let held = Held::begin(&world).await;
    let joined = &followers[3];
    while !joined.held().rows.contains_key("7") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Somebody who does not wait lets her see more: it is asked.
    world.sql("SET synchronous_commit = local; INSERT INTO members VALUES (9, 2, 'ada')").await;
    while !joined.held().rows.contains_key("21") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let now = joined.held();
    assert!(now.rows.contains_key("7") && !now.gone.contains("7"), "it vanishes: {now:?}");
    held.release(&world).await;
    for follower in &followers {
        world.settles(follower).await;
    }
    assert!(!joined.held().gone.contains("7"), "it vanished: {:?}", joined.held());
    world.end().await;
}

/// What is late is not overtaken by what is committed behind its end, before anybody has looked whether it is seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ds_10_5_4_nothing_is_told_over_what_is_late() {
    let mut world = World::new(SCHEMA).await;
    let follower = world.follow(query("joined", "true", ""), &user("ada")).await;
    planned(&world.live, 1).await;
    let writer = world.client_of("postgres").await;
    for round in 1..4 {
        world.settles(&follower).await;
        world.commits_wait(true).await;
        let late = world.client_of("postgres").await;
        // Who sees what changes with it, so that it has to be asked.
        let sql = format!(
            "BEGIN; INSERT INTO members VALUES (10 + {round}, 10 + {round}, 'ada'); INSERT INTO joined \
             SELECT 100 * {round} + n, 10 + {round}, 'ada', 'late' FROM generate_series(1, 2) n; COMMIT"
        );
        let late = tokio::spawn(async move { late.batch_execute(&sql).await.unwrap() });
        while world.rows("joined").is_none_or(|rows| rows.len() != 1 + 3 * (round - 1) + 2) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // So long that it is looked once a second.
        tokio::time::sleep(Duration::from_millis(2_700)).await;
        world.commits_wait(false).await;
        late.await.unwrap();
        let sql = format!("INSERT INTO joined VALUES ({round} * 100, 1, 'ada', 'on')");
        writer.batch_execute(&sql).await.unwrap();
    }
    world.settles(&follower).await;
    let sizes = follower.held().sizes;
    assert!(sizes.is_subset(&[1, 3, 4, 6, 7, 9, 10].into()), "{sizes:?}");
    world.end().await;
}
