//! Windows: the first rows in an order, told by plans (`datasync.md` 10.5, rule 8).

use crate::world::{Follower, World, first, planned, query, user};
use hw_live::LiveQuery;
use std::time::Duration;

/// `body` has the order of a language, `team` that of numbers.
const SCHEMA: &str = "
CREATE TABLE plain (id int PRIMARY KEY, team int, owner text, body text);
GRANT SELECT ON plain TO app;
ALTER TABLE plain ENABLE ROW LEVEL SECURITY;
CREATE POLICY seen ON plain FOR SELECT USING (owner = nullif(current_setting('request.jwt.claim.sub', true), ''));
CREATE TABLE members (id int PRIMARY KEY, team int, who text);
GRANT SELECT ON members TO app;
ALTER TABLE members ENABLE ROW LEVEL SECURITY;
CREATE POLICY seen ON members FOR SELECT USING (true);
INSERT INTO members VALUES (1, 0, 'x');
INSERT INTO plain SELECT n, n * 10, 'ada', 'body ' || n FROM generate_series(1, 40) n;
";

async fn follow(world: &mut World, queries: Vec<LiveQuery>) -> Vec<Follower> {
    let mut followers = vec![world.follow(query("members", "true", ""), &user("ada")).await];
    for query in queries {
        followers.push(world.follow(query, &user("ada")).await);
    }
    planned(&world.live, followers.len()).await;
    // Transactions of the database's own that went on when all began have everybody asked once when they end.
    while questions(world, &followers, "SELECT 1").await > 0 {}
    followers
}

/// Commits, waits until everybody is told, and gives how many questions that took.
async fn questions(world: &mut World, followers: &[Follower], sql: &str) -> u64 {
    let before = world.live.figures().questions;
    world.sql(sql).await;
    // When it is told what came behind, what was to be asked is known.
    world.sql("UPDATE members SET team = team + 1").await;
    world.settles(&followers[0]).await;
    while world.live.figures().waiting > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for follower in followers {
        world.settles(follower).await;
    }
    let asked = world.live.figures().questions - before;
    // Everybody at once is asked where something else was looked at anew: `members` is told by a plan.
    asked % followers.len() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ds_10_5_8_a_window_in_an_order_that_is_known_is_not_asked_while_it_is_full() {
    let mut world = World::new(SCHEMA).await;
    let order: &[(&str, bool)] = &[("team", true), ("id", false)];
    let queries = vec![
        first("plain", "true", order, (0, 3)),
        first("plain", "true", order, (2, 3)),
        first("plain", "team > 100", &[("team", false), ("id", false)], (0, 5)),
    ];
    let followers = follow(&mut world, queries).await;
    for sql in [
        // To the front, to the end, among equals, and without a value, which comes first where the order descends.
        "INSERT INTO plain VALUES (41, 410, 'ada', 'front'), (42, 420, 'ada', 'front')",
        "INSERT INTO plain VALUES (43, 5, 'ada', 'end')",
        "INSERT INTO plain VALUES (44, 420, 'ada', 'equal')",
        "INSERT INTO plain VALUES (45, NULL, 'ada', 'null')",
        // Into the window, within it, out of it, and beyond it.
        "UPDATE plain SET team = 500 WHERE id = 1",
        "UPDATE plain SET team = 600 WHERE id = 45",
        "UPDATE plain SET team = 430 WHERE id = 1",
        "UPDATE plain SET team = 1 WHERE id = 45",
        "UPDATE plain SET team = team - 1 WHERE id IN (2, 3)",
        "UPDATE plain SET body = 'new' WHERE id IN (2, 41, 42)",
        // What is touched is told of.
        "UPDATE plain SET body = body",
        // Another key in the same place, and somebody else's.
        "UPDATE plain SET id = 99 WHERE id = 42",
        "UPDATE plain SET owner = 'eve' WHERE id = 5",
        "INSERT INTO plain VALUES (100, 1000, 'eve', 'not yours')",
        "BEGIN; DELETE FROM plain WHERE id = 99; INSERT INTO plain VALUES (99, 15, 'ada', 'again'); COMMIT",
        "DELETE FROM plain WHERE id IN (44, 11)",
    ] {
        let asked = questions(&mut world, &followers, sql).await;
        assert_eq!(asked, 0, "{sql}");
    }
    assert!(followers.iter().all(|follower| !follower.held().was_shown("not yours")));
    // More go than stand behind the window: what follows is asked, once each.
    let asked = questions(&mut world, &followers, "DELETE FROM plain WHERE team > 250").await;
    assert!((1..=3).contains(&asked), "{asked}");
    // All of the rows are known then, whatever comes.
    let asked = questions(&mut world, &followers, "DELETE FROM plain WHERE id > 14").await;
    assert!(asked <= 3, "{asked}");
    for sql in [
        "DELETE FROM plain WHERE id NOT IN (12, 13)",
        "INSERT INTO plain VALUES (50, 115, 'ada', 'x'), (51, 300, 'ada', 'x')",
        "DELETE FROM plain",
        "INSERT INTO plain SELECT n, n * 10, 'ada', 'body' FROM generate_series(1, 3) n",
    ] {
        questions(&mut world, &followers, sql).await;
    }
    let filled = "INSERT INTO plain SELECT n, n * 10, 'ada', 'b' FROM generate_series(11, 40) n";
    assert_eq!(questions(&mut world, &followers, filled).await, 0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ds_10_5_8_a_window_in_the_order_of_a_language_is_asked_where_its_order_decides_only() {
    let mut world = World::new(SCHEMA).await;
    let order: &[(&str, bool)] = &[("body", false), ("id", false)];
    let queries =
        vec![first("plain", "true", order, (0, 3)), first("plain", "true", order, (1, 2))];
    let followers = follow(&mut world, queries).await;
    for sql in [
        // Inside and beyond, without a new place.
        "UPDATE plain SET team = team + 1",
        "DELETE FROM plain WHERE id IN (10, 39, 40)",
        "UPDATE plain SET owner = 'eve' WHERE id = 1",
    ] {
        assert_eq!(questions(&mut world, &followers, sql).await, 0, "{sql}");
    }
    for sql in [
        "INSERT INTO plain VALUES (50, 1, 'ada', 'body 0')",
        "INSERT INTO plain VALUES (51, 1, 'ada', 'zz')",
        "UPDATE plain SET body = 'Aa' WHERE id = 20",
    ] {
        assert!(questions(&mut world, &followers, sql).await > 0, "{sql}");
    }
    world.end().await;
}
