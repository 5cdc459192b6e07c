//! What is told where moments, copies and values meet.

use crate::world::{Follower, World, count, planned, query, user};
use hw_live::{Live, LiveOptions};
use std::time::Duration;

/// Who sees `asked` says a function that waits for an advisory lock before it reads a table.
const SCHEMA: &str = "
CREATE FUNCTION me() RETURNS text LANGUAGE sql STABLE
  AS $$ SELECT nullif(current_setting('request.jwt.claim.sub', true), '') $$;
CREATE TABLE members (id int PRIMARY KEY, team int NOT NULL, who text NOT NULL);
CREATE FUNCTION teams() RETURNS SETOF int LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$ BEGIN
  PERFORM pg_catalog.pg_advisory_xact_lock_shared(1);
  RETURN QUERY SELECT m.team FROM public.members m WHERE m.who = public.me();
END $$;
CREATE TABLE plain (id int PRIMARY KEY, team int, owner text, body text);
CREATE TABLE joined (id int PRIMARY KEY, team int, owner text, body text);
CREATE TABLE asked (id int PRIMARY KEY, team int, owner text, body text);
CREATE TABLE prices (id numeric PRIMARY KEY, owner text);
GRANT SELECT ON members, plain, joined, asked, prices TO app;
ALTER TABLE members ENABLE ROW LEVEL SECURITY;
ALTER TABLE plain ENABLE ROW LEVEL SECURITY;
ALTER TABLE joined ENABLE ROW LEVEL SECURITY;
ALTER TABLE asked ENABLE ROW LEVEL SECURITY;
ALTER TABLE prices ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON members FOR SELECT USING (who = me());
CREATE POLICY seen ON plain FOR SELECT USING (owner = me());
CREATE POLICY seen ON joined FOR SELECT USING (team IN (SELECT m.team FROM members m WHERE m.who = me()));
CREATE POLICY seen ON asked FOR SELECT USING (team IN (SELECT teams()));
CREATE POLICY seen ON prices FOR SELECT USING (owner = me());
INSERT INTO members VALUES (1, 1, 'ada');
INSERT INTO plain VALUES (1, 1, 'ada', 'a'), (2, 1, 'ada', 'a');
INSERT INTO joined VALUES (1, 1, 'ada', 'a');
INSERT INTO asked VALUES (1, 1, 'ada', 'a'), (2, 1, 'ada', 'a');
INSERT INTO prices VALUES (1.0, 'ada'), (2.50, 'ada');
";

/// Questions may wait for a lock as long as a test does.
fn patient(world: &World) -> Live {
    let time = Duration::from_secs(120);
    world.live_beside(LiveOptions { question_time: time, patience: time, ..LiveOptions::default() })
}

async fn follow(world: &World, live: &Live, table: &str) -> Follower {
    world.follow_in(live, query(table, "true", ""), &user("ada")).await
}

/// Keys that are equal for Postgres may print otherwise, and are others for whoever holds them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ds_10_5_a_key_that_becomes_an_equal_one_is_told_as_another_row() {
    let mut world = World::new(SCHEMA).await;
    let follower = follow(&world, &world.live, "prices").await;
    planned(&world.live, 1).await;
    for sql in [
        "UPDATE prices SET id = 1.00 WHERE id = 1",
        "BEGIN; DELETE FROM prices WHERE id = 2.5; INSERT INTO prices VALUES (2.5, 'ada'); COMMIT",
        "UPDATE prices SET owner = owner",
        "UPDATE prices SET id = id + 100",
    ] {
        world.sql(sql).await;
        world.settles(&follower).await;
    }
    assert_eq!(follower.held().unknown, 0);
    world.end().await;
}

/// What a row was is known also where it was away between two questions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ds_10_5_3_a_row_that_goes_and_comes_back_between_two_answers_is_told_with_what_it_was() {
    let mut world = World::new(SCHEMA).await;
    let live = patient(&world);
    let follower = follow(&world, &live, "asked").await;
    while world.rows("asked").is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // From then on it is known what rows were.
    world.sql("UPDATE asked SET body = 'b' WHERE id = 1").await;
    world.settles(&follower).await;
    let unknown = follower.held().unknown;
    let lock = world.lock().await;
    world.sql("UPDATE asked SET body = 'c' WHERE id = 1").await;
    world.is_waiting_for_lock().await;
    world.sql("DELETE FROM asked WHERE id = 2").await;
    world.sql("INSERT INTO asked VALUES (2, 1, 'ada', 'new')").await;
    lock.batch_execute("SELECT pg_advisory_unlock(1)").await.unwrap();
    world.settles(&follower).await;
    let held = follower.held();
    assert_eq!((held.unknown, held.gone.len()), (unknown, 0), "{held:?}");
    world.end().await;
}

/// For a snapshot of before, a table that was emptied is empty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_a_table_that_is_emptied_and_filled_during_a_question_is_never_told_as_empty() {
    let mut world = World::new(SCHEMA).await;
    let live = patient(&world);
    let follower = follow(&world, &live, "asked").await;
    for round in 10..13 {
        let lock = world.lock().await;
        world.sql(&format!("INSERT INTO asked VALUES ({round}, 1, 'ada', 'on')")).await;
        world.is_waiting_for_lock().await;
        world
            .sql("BEGIN; TRUNCATE members; INSERT INTO members VALUES (1, 1, 'ada'); COMMIT")
            .await;
        lock.batch_execute("SELECT pg_advisory_unlock(1)").await.unwrap();
        world.settles(&follower).await;
    }
    let held = follower.held();
    assert!(held.gone.is_empty(), "{held:?}");
    world.end().await;
}

/// What cannot be told at once is not overtaken by what can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ds_10_5_4_nothing_is_told_over_a_transaction_that_has_to_be_asked() {
    let mut world = World::new(SCHEMA).await;
    let follower = world.follow(count("plain", "true"), &user("ada")).await;
    planned(&world.live, 1).await;
    let writer = world.client_of("postgres").await;
    // Whoever has read the table once needs no policies to write or to send it.
    writer.batch_execute("INSERT INTO plain VALUES (3, 1, 'ada', 'a')").await.unwrap();
    world.settles(&follower).await;
    // Nobody learns who may see what for a while.
    world.sql("BEGIN; LOCK TABLE pg_catalog.pg_policy IN ACCESS EXCLUSIVE MODE").await;
    for sql in [
        "UPDATE plain SET body = 'b' WHERE id = 1",
        // More than is listed of one transaction.
        "INSERT INTO plain SELECT n, 1, 'ada', repeat('x', 100) FROM generate_series(1000, 40999) n",
        "DELETE FROM plain WHERE id = 1000",
    ] {
        writer.batch_execute(sql).await.unwrap();
    }
    let behind = |world: &World| world.rows("plain").is_some_and(|rows| rows.len() == 40_002);
    while !behind(&world) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.sql("COMMIT").await;
    world.settles(&follower).await;
    let shown = follower.held().shown;
    let right = [3, 40_003, 40_002].map(|count| format!("{{\"count\": {count}}}"));
    assert!(shown.iter().all(|record| right.contains(record)), "{shown:?}");
    world.end().await;
}
