//! Results of a group are told in the order of commits (`datasync.md` 10.5, rule 4).

use crate::world::{Budget, Held, LIMIT, World, count, planned, query, unbounded, user};
use futures_util::FutureExt as _;
use hw_live::{Group, Live, LiveOptions, LiveQuery, News, Room, Subscription, Wants};
use hw_pg::marker::DDL_PREFIX;
use std::collections::BTreeMap;
use std::time::Duration;

const SCHEMA: &str = "
CREATE TABLE plain (id int PRIMARY KEY, team int, owner text, body text);
CREATE TABLE asked (id int PRIMARY KEY, team int, owner text, body text);
GRANT SELECT ON plain, asked TO app;
ALTER TABLE plain ENABLE ROW LEVEL SECURITY;
ALTER TABLE asked ENABLE ROW LEVEL SECURITY;
CREATE POLICY seen ON plain FOR SELECT USING (owner = nullif(current_setting('request.jwt.claim.sub', true), ''));
CREATE POLICY seen ON asked FOR SELECT USING (owner = nullif(current_setting('request.jwt.claim.sub', true), ''));
INSERT INTO plain SELECT n, 1, 'ada', 'a' FROM generate_series(1, 1000) n;
INSERT INTO asked VALUES (1, 1, 'ada', 'a');
";

/// A question that waits for whoever holds an advisory lock.
fn waiting() -> LiveQuery {
    let condition = "(SELECT pg_catalog.pg_advisory_xact_lock_shared(1)) IS NOT NULL";
    let mut query = query("asked", condition, "");
    query.matcher = None;
    query
}

/// Waits until what is committed to the table that is asked is followed, and told.
async fn is_followed(world: &mut World, socket: &mut Socket) {
    while world.rows("asked").is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Behind this nobody waits for what the table was when it entered.
    world.sql("UPDATE asked SET body = 'c'").await;
    socket.settles(world).await;
    // Nor for what is being asked once more.
    while socket.live.figures().waiting > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    socket.settles(world).await;
    socket.came.clear();
}

/// Whoever follows the results of a group.
struct Socket {
    live: Live,
    group: Group,
    subscriptions: Vec<Subscription>,
    queries: BTreeMap<u64, LiveQuery>,
    held: BTreeMap<u64, Held>,
    /// Of which result news came, in their order.
    came: Vec<u64>,
}

impl Socket {
    fn new(live: &Live) -> Socket {
        let group = live.group();
        let (subscriptions, came) = (Vec::new(), Vec::new());
        let (queries, held) = (BTreeMap::new(), BTreeMap::new());
        Socket { live: live.clone(), group, subscriptions, queries, held, came }
    }

    async fn follow(&mut self, query: LiveQuery, room: Room) -> u64 {
        let (live, group) = (self.live.clone(), self.group.clone());
        let subscribing = live.subscribe_in(&group, query.clone(), user("ada"), room);
        tokio::pin!(subscribing);
        let begun = loop {
            tokio::select! {
                begun = &mut subscribing => break begun,
                news = group.next() => self.take(news),
            }
        };
        let (first, subscription) = begun.unwrap();
        let number = subscription.number();
        let rows = first.result.iter();
        let rows = rows.map(|(key, row)| (key.to_string(), row.json().to_owned())).collect();
        self.held.insert(number, Held { rows, ..Held::default() });
        self.queries.insert(number, query);
        subscription.begun();
        self.subscriptions.push(subscription);
        number
    }

    fn take(&mut self, news: Vec<News>) {
        for News { number, told } in news {
            let is_of_rows = self.queries[&number].wants == Wants::Rows;
            let held = self.held.get_mut(&number).expect("it has begun");
            for change in told.unwrap().changes {
                held.change(change, is_of_rows);
            }
            self.came.push(number);
        }
    }

    /// Takes what comes until a result has a row.
    async fn until(&mut self, number: u64, key: &str) {
        while !self.held[&number].rows.contains_key(key) {
            let news = tokio::time::timeout(LIMIT, self.group.next()).await;
            self.take(news.expect("it comes"));
        }
    }

    /// Takes what comes until all hold what Postgres shows.
    async fn settles(&mut self, world: &mut World) {
        let end = tokio::time::Instant::now() + LIMIT;
        let who = user("ada");
        for (number, query) in self.queries.clone() {
            loop {
                if world.asked(&query, &who).await == self.held[&number].rows {
                    break;
                }
                assert!(tokio::time::Instant::now() < end, "{query:?} is behind");
                let news = tokio::time::timeout(Duration::from_millis(20), self.group.next()).await;
                self.take(news.unwrap_or_default());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ds_10_5_4_nothing_is_told_over_what_another_result_of_the_group_lacks() {
    let mut world = World::new(SCHEMA).await;
    let live = world.live_beside(LiveOptions {
        patience: LIMIT,
        question_time: LIMIT,
        ..LiveOptions::default()
    });
    let mut socket = Socket::new(&live);
    let rows = socket.follow(query("plain", "id > 1000", ""), unbounded()).await;
    let asked = socket.follow(waiting(), unbounded()).await;
    let beside = world.follow_in(&live, query("plain", "id > 1000", ""), &user("ada")).await;
    planned(&live, 2).await;
    is_followed(&mut world, &mut socket).await;
    let lock = world.lock().await;
    world.sql("INSERT INTO plain VALUES (1001, 1, 'ada', 'before')").await;
    socket.until(rows, "1001").await;
    world.sql("INSERT INTO asked VALUES (2, 1, 'ada', 'b')").await;
    world.sql("INSERT INTO plain VALUES (1002, 1, 'ada', 'behind')").await;
    world.is_waiting_for_lock().await;
    world.settles(&beside).await;
    assert!(socket.group.next().now_or_never().is_none(), "others are not kept waiting");
    socket.came.clear();
    drop(lock);
    socket.until(rows, "1002").await;
    assert_eq!(socket.came, [asked, rows]);
    assert!(socket.held[&asked].rows.contains_key("2"));
    // It goes on in this order.
    for id in 3..30 {
        world.sql(&format!("INSERT INTO asked VALUES ({id}, 1, 'ada', 'b')")).await;
        world.sql(&format!("INSERT INTO plain VALUES (1000 + {id}, 1, 'ada', 'b')")).await;
        socket.until(rows, &(1000 + id).to_string()).await;
        assert!(socket.held[&asked].rows.contains_key(&id.to_string()), "{id} is overtaken");
    }
    socket.settles(&mut world).await;
    drop((socket, beside));
    world.end().await;
}

/// A statement on the schema is a commit like others for those whom it concerns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ds_10_5_4_nothing_is_told_over_what_a_statement_makes_of_another_result() {
    let mut world = World::new(SCHEMA).await;
    let live = world.live_beside(LiveOptions {
        patience: LIMIT,
        question_time: LIMIT,
        ..LiveOptions::default()
    });
    let mut socket = Socket::new(&live);
    let rows = socket.follow(query("plain", "id > 1000", ""), unbounded()).await;
    let asked = socket.follow(waiting(), unbounded()).await;
    let beside = world.follow_in(&live, query("plain", "id > 1000", ""), &user("ada")).await;
    planned(&live, 2).await;
    is_followed(&mut world, &mut socket).await;
    let lock = world.lock().await;
    // As the event trigger tells it.
    let alters = "ALTER POLICY seen ON asked USING (owner = 'nobody')";
    let tells = format!("SELECT pg_logical_emit_message(true, '{DDL_PREFIX}', '')");
    world.sql(&format!("BEGIN; {alters}; {tells}; COMMIT")).await;
    world.sql("INSERT INTO plain VALUES (1001, 1, 'ada', 'behind')").await;
    world.is_waiting_for_lock().await;
    world.settles(&beside).await;
    assert!(socket.group.next().now_or_never().is_none(), "others are not kept waiting");
    drop(lock);
    socket.until(rows, "1001").await;
    assert!(socket.held[&asked].rows.is_empty(), "it is overtaken");
    socket.settles(&mut world).await;
    drop((socket, beside));
    world.end().await;
}

/// One that Postgres does not answer keeps nobody waiting for ever: it is overtaken, said to be, and told when it comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ds_10_5_4_a_result_that_is_not_answered_is_overtaken_after_a_while() {
    let mut world = World::new(SCHEMA).await;
    let options = LiveOptions {
        question_time: LIMIT,
        patience: Duration::from_secs(4),
        ..LiveOptions::default()
    };
    let live = world.live_beside(options);
    let mut socket = Socket::new(&live);
    let rows = socket.follow(query("plain", "id > 1000", ""), unbounded()).await;
    let asked = socket.follow(waiting(), unbounded()).await;
    planned(&live, 1).await;
    is_followed(&mut world, &mut socket).await;
    let lock = world.lock().await;
    world.sql("INSERT INTO asked VALUES (2, 1, 'ada', 'b')").await;
    world.sql("INSERT INTO plain VALUES (1001, 1, 'ada', 'b')").await;
    socket.until(rows, "1001").await;
    assert!(!socket.held[&asked].rows.contains_key("2"), "nobody could know");
    assert_eq!(live.figures().overtaken, 1);
    drop(lock);
    socket.until(asked, "2").await;
    world.sql("INSERT INTO asked VALUES (3, 1, 'ada', 'b')").await;
    world.sql("INSERT INTO plain VALUES (1002, 1, 'ada', 'b')").await;
    socket.until(rows, "1002").await;
    assert!(socket.held[&asked].rows.contains_key("3"), "it is waited for again");
    assert_eq!(live.figures().overtaken, 0);
    socket.settles(&mut world).await;
    drop(socket);
    world.end().await;
}

/// What is kept for the order counts, is bounded, and is asked for where there was no room for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_69_what_is_kept_until_its_turn_is_bounded() {
    let mut world = World::new(SCHEMA).await;
    let live = world.live_beside(LiveOptions {
        patience: LIMIT,
        question_time: LIMIT,
        ..LiveOptions::default()
    });
    let budget = Budget::new(usize::MAX);
    let mut socket = Socket::new(&live);
    let rows = socket.follow(query("plain", "true", ""), budget.room()).await;
    let counted = socket.follow(count("plain", "body = 'a'"), unbounded()).await;
    let asked = socket.follow(waiting(), unbounded()).await;
    let beside = world.follow_in(&live, query("plain", "true", ""), &user("ada")).await;
    planned(&live, 3).await;
    is_followed(&mut world, &mut socket).await;
    let lock = world.lock().await;
    world.sql("INSERT INTO asked VALUES (2, 1, 'ada', 'b')").await;
    let held = budget.used();
    budget.limit(held + 100_000);
    let mut most = 0;
    for round in 0..20 {
        let body =
            format!("UPDATE plain SET body = repeat('{round}', 100) WHERE id % 20 = {round}");
        world.sql(&body).await;
        world.settles(&beside).await;
        most = most.max(budget.used());
    }
    assert!(most > held, "it is kept as long as there is room");
    assert!(most <= held + 100_000);
    budget.limit(usize::MAX);
    drop(lock);
    socket.settles(&mut world).await;
    assert!([rows, counted, asked].iter().all(|number| socket.came.contains(number)));
    drop((socket, beside));
    world.end().await;
}
