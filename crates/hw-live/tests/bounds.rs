//! F-69: what live results hold in memory is counted, bounded and given back.

use crate::world::{Budget, Follower, LIMIT, World, count, planned, query, unbounded, user};
use hw_live::{LiveError, LiveOptions, LiveQuery};
use std::time::Duration;

const SCHEMA: &str = "
CREATE TABLE plain (id int PRIMARY KEY, team int, owner text, body text);
GRANT SELECT ON plain TO app;
ALTER TABLE plain ENABLE ROW LEVEL SECURITY;
CREATE POLICY seen ON plain FOR SELECT USING (owner = nullif(current_setting('request.jwt.claim.sub', true), ''));
INSERT INTO plain SELECT n, 1, 'ada', 'a' FROM generate_series(1, 1000) n;
";

fn rows(condition: &str) -> LiveQuery {
    query("plain", condition, "")
}

async fn given_back(budget: &Budget) {
    while budget.used() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_69_a_result_that_there_is_no_room_for_is_refused_and_leaves_nothing() {
    let world = World::new(SCHEMA).await;
    let budget = Budget::new(50_000);
    let of = |query: LiveQuery| world.live.subscribe(query, user("ada"), budget.room());
    let (_, few) = of(rows("id < 10")).await.expect("there is room");
    let beside = budget.used();
    assert!(beside > 9 * 50, "{beside}");
    assert_eq!(of(rows("true")).await.err(), Some(LiveError::NoRoom));
    given_back_but(&budget, beside).await;
    // What is asked with counts as well: nobody keeps a megabyte of values by a query that has no row.
    let mut long = rows("body = $1::text");
    long.rows.parameters = vec!["x".repeat(60_000)];
    assert_eq!(of(long).await.err(), Some(LiveError::NoRoom));
    // As many as fit.
    let mut many = Vec::new();
    let refused = loop {
        match of(count("plain", "true")).await {
            Ok((_, subscription)) => many.push(subscription),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, LiveError::NoRoom);
    assert!((10..=48).contains(&many.len()), "{}", many.len());
    assert_eq!(world.live.figures().results, many.len() + 1);
    let other = world.live.subscribe(rows("true"), user("bob"), unbounded()).await;
    assert!(other.is_ok(), "others have room of their own");
    drop((few, many));
    given_back(&budget).await;
    world.end().await;
}

async fn given_back_but(budget: &Budget, rest: usize) {
    while budget.used() > rest {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What there is no room for is not told, and is asked for as soon as there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_69_news_that_there_is_no_room_for_is_told_when_there_is() {
    let mut world = World::new(SCHEMA).await;
    let patience = LIMIT;
    let live = world.live_beside(LiveOptions { patience, ..LiveOptions::default() });
    let groups = count("plain", "id < 30");
    for (query, is_small) in [
        (rows("id < 30"), false),
        (query("plain", "id < 30", "ORDER BY body DESC, id LIMIT 20"), false),
        (groups, true),
    ] {
        let budget = Budget::new(usize::MAX);
        let room = budget.room();
        let who = user("ada");
        let (first, subscription) =
            live.subscribe(query.clone(), who.clone(), room).await.expect("begun");
        let follower = Follower::new(query.clone(), who.clone(), first, subscription);
        let beside = world.follow_in(&live, query, &who).await;
        planned(&live, 2).await;
        let before = follower.held().rows;
        let full = budget.used();
        budget.limit(full);
        // The first of them goes, the second comes, and all others change.
        world
            .sql(
                "UPDATE plain SET id = -id WHERE id = 1;
                 UPDATE plain SET body = repeat('x', 500) || id WHERE id < 30",
            )
            .await;
        world.settles(&beside).await;
        if !is_small {
            world.sql("UPDATE plain SET body = 'b' WHERE id IN (2, 3)").await;
            world.settles(&beside).await;
            assert_eq!(follower.held().rows, before, "nothing in part");
            assert!(budget.used() <= full);
        }
        budget.limit(usize::MAX);
        world.settles(&follower).await;
        world.sql("UPDATE plain SET body = 'c' WHERE id = 4").await;
        world.settles(&follower).await;
        drop((follower, beside));
        given_back(&budget).await;
        world.sql("UPDATE plain SET id = 1 WHERE id = -1; UPDATE plain SET body = 'a'").await;
    }
    world.end().await;
}

/// Somebody who takes nothing holds what waits for him as far as there is room, and is told what it comes to when he
/// comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_69_what_waits_for_somebody_who_takes_nothing_is_bounded() {
    let mut world = World::new(SCHEMA).await;
    let live = world.live_beside(LiveOptions { patience: LIMIT, ..LiveOptions::default() });
    let budget = Budget::new(usize::MAX);
    let (query, who) = (rows("true"), user("ada"));
    let subscribed = live.subscribe(query.clone(), who.clone(), budget.room()).await;
    let (first, subscription) = subscribed.expect("there is room");
    let beside = world.follow_in(&live, query.clone(), &who).await;
    planned(&live, 2).await;
    let held = budget.used();
    budget.limit(held + 100_000);
    let mut most = 0;
    for round in 0..20 {
        world
            .sql(&format!("UPDATE plain SET body = repeat('{round}', 100) WHERE id % 20 = {round}"))
            .await;
        world.settles(&beside).await;
        most = most.max(budget.used());
    }
    assert!(most > held, "it waits as long as there is room");
    assert_eq!(budget.used(), held, "and is forgotten where there is none");
    budget.limit(usize::MAX);
    let follower = Follower::new(query, who, first, subscription);
    world.settles(&follower).await;
    world.end().await;
}

/// A result whose changes cannot be told for long is not shown as if it were live.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_69_a_result_that_has_no_room_for_long_ends() {
    let world = World::new(SCHEMA).await;
    let patience = Duration::from_secs(3);
    let live = world.live_beside(LiveOptions { patience, ..LiveOptions::default() });
    let budget = Budget::new(usize::MAX);
    let subscribed = live.subscribe(rows("id = 1"), user("ada"), budget.room()).await;
    let (_, mut subscription) = subscribed.expect("there is room");
    planned(&live, 1).await;
    budget.limit(budget.used());
    world.sql("UPDATE plain SET body = repeat('x', 1000) WHERE id = 1").await;
    assert_eq!(subscription.next().await.err(), Some(LiveError::NoRoom));
    assert_eq!(live.figures().results, 0);
    drop(subscription);
    given_back(&budget).await;
    world.end().await;
}
