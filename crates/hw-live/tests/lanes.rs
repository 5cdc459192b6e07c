//! Nobody waits for the questions of others.

use crate::world::{World, query, unbounded, user};
use hw_live::{LiveOptions, LiveQuery};
use std::time::Duration;

const SCHEMA: &str = "
CREATE FUNCTION me() RETURNS text LANGUAGE sql STABLE
  AS $$ SELECT nullif(current_setting('request.jwt.claim.sub', true), '') $$;
CREATE TABLE members (id int PRIMARY KEY, team int NOT NULL, who text NOT NULL);
CREATE TABLE plain (id int PRIMARY KEY, team int, owner text, body text);
CREATE TABLE joined (id int PRIMARY KEY, team int, owner text, body text);
GRANT SELECT ON members, plain, joined TO app;
ALTER TABLE members ENABLE ROW LEVEL SECURITY;
ALTER TABLE plain ENABLE ROW LEVEL SECURITY;
ALTER TABLE joined ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON members FOR SELECT USING (who = me());
CREATE POLICY seen ON plain FOR SELECT USING (owner = me());
CREATE POLICY seen ON joined FOR SELECT USING (team IN (SELECT m.team FROM members m WHERE m.who = me()));
INSERT INTO members VALUES (1, 1, 'ada'), (2, 1, 'eve');
INSERT INTO plain VALUES (1, 1, 'ada', 'a'), (2, 1, 'eve', 'a');
INSERT INTO joined VALUES (1, 1, 'ada', 'a');
";

/// A question that waits for whoever holds an advisory lock.
fn waiting(table: &str) -> LiveQuery {
    let condition = "(SELECT pg_catalog.pg_advisory_xact_lock_shared(1)) IS NOT NULL";
    let mut query = query(table, condition, "");
    query.matcher = None;
    query
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_a_question_that_takes_long_holds_up_nobody_else() {
    let mut world = World::new(SCHEMA).await;
    let options = LiveOptions {
        question_time: Duration::from_secs(120),
        patience: Duration::from_secs(120),
        ..LiveOptions::default()
    };
    let live = world.live_beside(options);
    let (ada, eve) = (user("ada"), user("eve"));
    let lock = world.client_of("postgres").await;
    lock.batch_execute("SELECT pg_advisory_lock(1)").await.unwrap();
    let slow: Vec<_> = (0..3)
        .map(|_| {
            let (live, eve) = (live.clone(), eve.clone());
            tokio::spawn(async move { live.subscribe(waiting("plain"), eve, unbounded()).await })
        })
        .collect();
    world.is_waiting_for_lock().await;
    // Results of every kind begin and go on meanwhile, those of the same user as well.
    let mut followers = Vec::new();
    for who in [&ada, &eve] {
        for table in ["plain", "joined", "members"] {
            for window in ["", "ORDER BY id DESC LIMIT 1"] {
                let query = query(table, "true", window);
                followers.push(world.follow_in(&live, query, who).await);
            }
        }
    }
    for round in 10..15 {
        world.sql(&format!("INSERT INTO plain VALUES ({round}, 1, 'ada', 'b')")).await;
        world.sql(&format!("INSERT INTO joined VALUES ({round}, 1, 'ada', 'b')")).await;
        world.sql(&format!("INSERT INTO members VALUES ({round}, 1, 'eve')")).await;
        for follower in &followers {
            world.settles(follower).await;
        }
    }
    assert!(slow.iter().all(|task| !task.is_finished()), "they wait for the lock");
    lock.batch_execute("SELECT pg_advisory_unlock(1)").await.unwrap();
    for task in slow {
        task.await.unwrap().unwrap();
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_who_reads_a_table_that_is_too_large_to_be_held_is_asked() {
    let mut world = World::new(SCHEMA).await;
    let live = world.live_beside(LiveOptions { lookup_bytes: 1, ..LiveOptions::default() });
    let ada = user("ada");
    let joined = query("joined", "true", "");
    let follower = world.follow_in(&live, joined, &ada).await;
    for round in 10..13 {
        world.sql(&format!("INSERT INTO joined VALUES ({round}, 1, 'ada', 'b')")).await;
        world.settles(&follower).await;
        world.sql("UPDATE members SET team = 3 - team WHERE who = 'ada'").await;
        world.settles(&follower).await;
    }
    assert_eq!(live.figures().planned, 0);
    world.end().await;
}
