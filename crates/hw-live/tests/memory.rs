//! What results cost in memory. Not a test: it prints figures.
//!
//! `cargo nextest run -p hw-live --run-ignored only -E 'test(memory)' --no-capture`

use crate::world::{World, query, unbounded, user};
use hw_live::{LiveQuery, Subscription};
use std::sync::Arc;

const SCHEMA: &str = "
CREATE FUNCTION me() RETURNS text LANGUAGE sql STABLE
  AS $$ SELECT nullif(current_setting('request.jwt.claim.sub', true), '') $$;
CREATE TABLE plain (id int PRIMARY KEY, team int, owner text, body text);
GRANT SELECT ON plain TO app;
ALTER TABLE plain ENABLE ROW LEVEL SECURITY;
CREATE POLICY seen ON plain FOR SELECT USING (owner = me());
";

const USERS: usize = 2_000;
/// Subscriptions of each.
const EACH: usize = 10;

/// The rows of a team, as surfaces ask for them: with the value as a parameter.
fn of_team(team: usize) -> LiveQuery {
    let mut query = query("plain", "team = CAST($1::text AS int4)", "");
    query.rows.parameters = vec![team.to_string()];
    let filter = query.matcher.as_mut().and_then(|matcher| matcher.filter.as_mut());
    filter.unwrap().parameters = vec![team.to_string()];
    query
}

fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn memory_of_results() {
    for rows in [0, 10, 50] {
        let world = World::new(SCHEMA).await;
        world
            .sql(&format!(
                "INSERT INTO plain SELECT u * {0} + n, n % {EACH}, 'user' || u, repeat('x', 500)
                 FROM generate_series(0, {USERS} - 1) u, generate_series(0, {0} - 1) n",
                rows * EACH
            ))
            .await;
        let mut held: Vec<Subscription> = Vec::new();
        // Whatever the first ones bring with them is not theirs.
        held.push(world.live.subscribe(of_team(0), user("nobody"), unbounded()).await.unwrap().1);
        while world.live.figures().planned < 1 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let before = resident();
        let began = std::time::Instant::now();
        for number in 0..USERS {
            let who = user(&format!("user{number}"));
            let each = (0..EACH)
                .map(|team| world.live.subscribe(of_team(team), Arc::clone(&who), unbounded()));
            for begun in futures_util::future::join_all(each).await {
                held.push(begun.unwrap().1);
            }
        }
        let took = began.elapsed();
        while world.live.figures().planned < held.len() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        let bytes = resident().saturating_sub(before) / (USERS * EACH);
        eprintln!("{rows} rows of 500 bytes: {bytes} bytes a subscription; begun in {took:?}");
        drop(held);
        world.end().await;
    }
}
