//! Groups and their aggregates are what Postgres computes for whoever asks, whatever happens to rows.

use crate::world::{Follower, World, query, unbounded, user};
use hw_live::{Aggregate, Function, GroupedBy, Groups, LiveError, LiveQuery, Wants};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::time::Duration;

const SCHEMA: &str = "
CREATE FUNCTION me() RETURNS text LANGUAGE sql STABLE
  AS $$ SELECT nullif(current_setting('request.jwt.claim.sub', true), '') $$;
CREATE TYPE mood AS ENUM ('sad', 'calm', 'glad');
CREATE TABLE members (id int PRIMARY KEY, team int NOT NULL, who text NOT NULL);
CREATE TABLE sales (id int PRIMARY KEY, team int, owner text, mood mood, is_open boolean, day date, at timestamptz,
  small int2, n int4, big int8, price numeric(10,2), weight numeric, rate float8, span interval, label text);
GRANT SELECT ON members, sales TO app;
ALTER TABLE members ENABLE ROW LEVEL SECURITY;
ALTER TABLE sales ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON members FOR SELECT USING (who = me());
CREATE POLICY own ON sales FOR SELECT USING (owner = me());
CREATE POLICY team ON sales FOR SELECT USING (team IN (SELECT m.team FROM members m WHERE m.who = me()));
";

const USERS: [&str; 3] = ["ada", "bob", "eve"];

/// Name, function, column with its type as SQL names it.
type Computed = (&'static str, Function, Option<(&'static str, &'static str)>);

fn grouped(condition: &str, window: &str, by: &[&str], computed: &[Computed]) -> LiveQuery {
    let mut query = query("sales", condition, window);
    let inner = format!("SELECT * FROM public.sales WHERE {condition} {window}");
    let value = |function: Function, column: Option<(&str, &str)>| match column {
        None => "count(*)".to_owned(),
        Some((column, _)) => format!("{}(q.{column})", function.name()),
    };
    let names: Vec<String> = by.iter().map(|by| format!("q.{by}")).collect();
    let of_by = by.iter().map(|by| format!("'{by}', q.{by}"));
    let of_computed =
        computed.iter().map(|(name, f, column)| format!("'{name}', {}", value(*f, *column)));
    let members: Vec<String> = of_by.chain(of_computed).collect();
    let state = |(_, function, column): &Computed| {
        let column = column.map(|(column, base)| (base, format!("q.{column}")));
        function.state(column.as_ref().map(|(base, column)| (*base, &**column)))
    };
    let states: Vec<String> =
        std::iter::once("count(*)".to_owned()).chain(computed.iter().map(state)).collect();
    let behind =
        if by.is_empty() { String::new() } else { format!("GROUP BY {}", names.join(", ")) };
    query.rows.text = format!(
        "SELECT jsonb_build_array({})::text, jsonb_build_object({})::text, jsonb_build_array({})::text \
         FROM ({inner}) AS q {behind}",
        names.join(", "),
        members.join(", "),
        states.join(", "),
    );
    let plain = |name: &str| GroupedBy { field: name.into(), column: name.into(), as_text: false };
    let aggregates = computed.iter().map(|(name, function, column)| Aggregate {
        field: (*name).into(),
        function: *function,
        column: column.map(|(column, _)| column.into()),
        as_text: false,
    });
    query.wants = Wants::Groups(Groups {
        by: by.iter().copied().map(plain).collect(),
        aggregates: aggregates.collect(),
    });
    query
}

const COUNT: Computed = ("count", Function::Count, None);

fn of(
    name: &'static str,
    function: Function,
    column: &'static str,
    base: &'static str,
) -> Computed {
    (name, function, Some((column, base)))
}

/// All that is computed here, and what is asked.
fn queries() -> Vec<LiveQuery> {
    use Function::{Avg, Count, Max, Min, Sum};
    let whole = [
        COUNT,
        of("open", Count, "is_open", "boolean"),
        of("small", Sum, "small", "smallint"),
        of("n", Sum, "n", "integer"),
        of("mean_n", Avg, "n", "integer"),
        of("big", Sum, "big", "bigint"),
        of("mean_big", Avg, "big", "bigint"),
        of("price", Sum, "price", "numeric"),
        of("mean_price", Avg, "price", "numeric"),
    ];
    let free = [of("weight", Sum, "weight", "numeric"), of("mean", Avg, "weight", "numeric")];
    let ends = [
        of("first", Min, "at", "timestamp with time zone"),
        of("last", Max, "at", "timestamp with time zone"),
        of("day", Max, "day", "date"),
        of("least", Min, "n", "integer"),
        of("most", Max, "price", "numeric"),
        of("heaviest", Max, "weight", "numeric"),
        of("rate", Max, "rate", "double precision"),
    ];
    let asked = [
        COUNT,
        of("rate", Sum, "rate", "double precision"),
        of("span", Avg, "span", "interval"),
        of("label", Min, "label", "text"),
        of("mood", Max, "mood", "public.mood"),
    ];
    vec![
        grouped("true", "", &[], &whole),
        grouped("true", "", &["team"], &whole),
        grouped("n > 0", "", &["label", "mood"], &[COUNT, whole[3], free[0]]),
        grouped("true", "", &["is_open"], &free),
        grouped("team IS NOT NULL", "", &["owner"], &ends),
        grouped("true", "", &["day", "at"], &[COUNT]),
        grouped("true", "", &["team"], &asked),
        grouped("true", "", &["price"], &[COUNT, whole[3]]),
        grouped("true", "ORDER BY id LIMIT 5", &["team"], &[COUNT, whole[7]]),
    ]
}

/// A value, often none, often one of few.
fn value(rng: &mut StdRng, column: &str) -> String {
    if rng.random_bool(0.2) {
        return "NULL".into();
    }
    let big = rng.random_range(-4_000_000_000_000_000_000_i64..4_000_000_000_000_000_000);
    match column {
        "team" => rng.random_range(0..3).to_string(),
        "owner" => format!("'{}'", USERS.choose(rng).unwrap()),
        "mood" => format!("'{}'", ["sad", "calm", "glad"].choose(rng).unwrap()),
        "is_open" => rng.random_bool(0.5).to_string(),
        "day" => format!("'2026-01-0{}'", rng.random_range(1..4)),
        "at" => format!("'2026-01-01 00:00:0{}.5+00'", rng.random_range(0..4)),
        "small" => rng.random_range(-3..300).to_string(),
        "n" if rng.random_bool(0.5) => rng.random_range(-2..3).to_string(),
        "n" => rng.random_range(-2_000_000_000..2_000_000_000).to_string(),
        "big" if rng.random_bool(0.5) => rng.random_range(-9..9).to_string(),
        "big" => big.to_string(),
        "price" => format!("{}.{:02}", rng.random_range(-9..100_000), rng.random_range(0..100)),
        "weight" => {
            let usual = [
                "0",
                "0.0",
                "1",
                "1.0",
                "1.50",
                "-2.125",
                "33333.3",
                "0.00001",
                "12345678901234567890.5",
                "-0.0000000000001234",
                "1e20",
                "NaN",
                "Infinity",
            ];
            // The last two are not kept, and rare.
            let last = if rng.random_bool(0.05) { usual.len() } else { usual.len() - 2 };
            format!("'{}'", usual[..last].choose(rng).unwrap())
        }
        "rate" => format!("'{}'", ["0.1", "0.2", "-0", "0", "1e300", "NaN"].choose(rng).unwrap()),
        "span" => format!("'{}'", ["1 day", "24:00", "1 mon"].choose(rng).unwrap()),
        _ => format!("'{}'", ["a", "B", "null", "é\"", ""].choose(rng).unwrap()),
    }
}

const COLUMNS: [&str; 14] = [
    "team", "owner", "mood", "is_open", "day", "at", "small", "n", "big", "price", "weight",
    "rate", "span", "label",
];

fn statement(rng: &mut StdRng) -> String {
    let id = rng.random_range(0..25);
    match rng.random_range(0..100) {
        0..40 => {
            let values: Vec<String> = COLUMNS.iter().map(|column| value(rng, column)).collect();
            format!(
                "INSERT INTO sales (id, {}) VALUES ({id}, {}) ON CONFLICT (id) DO NOTHING",
                COLUMNS.join(", "),
                values.join(", ")
            )
        }
        40..75 => {
            let column = COLUMNS.choose(rng).unwrap();
            format!("UPDATE sales SET {column} = {} WHERE id = {id}", value(rng, column))
        }
        75..78 => format!("UPDATE sales SET label = label WHERE id < {id}"),
        78..90 => format!("DELETE FROM sales WHERE id = {id}"),
        90..91 => "TRUNCATE sales".into(),
        91..96 => format!(
            "INSERT INTO members VALUES ({}, {}, '{}') ON CONFLICT DO NOTHING",
            id % 6,
            rng.random_range(0..3),
            USERS.choose(rng).unwrap()
        ),
        _ => format!("DELETE FROM members WHERE id = {}", id % 6),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ds_10_5_11_aggregates_are_what_postgres_computes() {
    let seeds = std::env::var("HEADWATER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds: Vec<u64> = seeds.map_or_else(|| (0..3).collect(), |seed| vec![seed]);
    for seed in seeds {
        eprintln!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::new(SCHEMA).await;
        let mut followers: Vec<Follower> = Vec::new();
        for round in 0..40 {
            if round % 8 == 0 {
                for query in queries() {
                    let who = user(USERS.choose(&mut rng).unwrap());
                    followers.push(world.follow(query, &who).await);
                }
            }
            while world.live.figures().planned < followers.len() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            for _ in 0..rng.random_range(1..6) {
                let count = rng.random_range(1..5);
                let statements: Vec<String> = (0..count).map(|_| statement(&mut rng)).collect();
                world.sql(&format!("BEGIN; {}; COMMIT", statements.join("; "))).await;
            }
            if rng.random_bool(0.3) {
                followers.swap_remove(rng.random_range(0..followers.len()));
            }
            for follower in &followers {
                world.settles(follower).await;
            }
        }
        world.end().await;
    }
}

/// A follower that is told by a plan.
async fn planned(world: &mut World, query: LiveQuery) -> Follower {
    let follower = world.follow(query, &user("ada")).await;
    while world.live.figures().planned < 1 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.settles(&follower).await;
    follower
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ds_10_5_11_groups_are_kept_without_asking() {
    use Function::{Avg, Count, Max, Min, Sum};
    let mut world = World::new(SCHEMA).await;
    world.sql("INSERT INTO sales (id, owner, team, n, price) VALUES (1, 'ada', 1, 7, 1.10), (2, 'bob', 1, 9, 5)").await;
    let computed = [
        COUNT,
        of("known", Count, "n", "integer"),
        of("sum", Sum, "price", "numeric"),
        of("mean", Avg, "n", "integer"),
        of("least", Min, "n", "integer"),
        of("most", Max, "n", "integer"),
    ];
    let follower = planned(&mut world, grouped("true", "", &["team"], &computed)).await;
    let first = &follower.held().rows["[1]"];
    let expected = r#"{"sum": 1.10, "mean": 7.0000000000000000, "most": 7, "team": 1, "count": 1, "known": 1, "least": 7}"#;
    assert_eq!(first, expected, "of rows that ada sees alone");
    let statements = [
        "INSERT INTO sales (id, owner, team, n, price) VALUES (3, 'ada', 1, 9, 0.05)",
        "INSERT INTO sales (id, owner, team, n) VALUES (4, 'ada', 2, NULL)",
        "INSERT INTO sales (id, owner, team, n) VALUES (5, 'ada', NULL, -1)",
        // From one group to another, and out of what is seen, and into it.
        "UPDATE sales SET team = 1, n = 8 WHERE id = 4",
        "UPDATE sales SET owner = 'bob' WHERE id = 4",
        "UPDATE sales SET owner = 'ada', n = 11 WHERE id = 2",
        // The greatest is beaten by what comes in the same transaction.
        "UPDATE sales SET n = 12 WHERE id = 2",
        "UPDATE sales SET label = 'of no concern'",
    ];
    let again =
        "DELETE FROM sales WHERE id > 2; UPDATE sales SET n = 9, owner = 'bob' WHERE id = 2";
    // Whatever is asked while tables begin to be followed is not asked for a statement.
    let mut passes = 0;
    loop {
        let rounds = world.live.rounds();
        for statement in statements {
            world.sql(statement).await;
            world.settles(&follower).await;
        }
        if world.live.rounds() == rounds {
            break;
        }
        passes += 1;
        assert!(passes < 5, "somebody is asked");
        world.sql(again).await;
        world.settles(&follower).await;
    }
    let rounds = world.live.rounds();
    // Which is the greatest now is not known here.
    world.sql("DELETE FROM sales WHERE id = 2").await;
    world.settles(&follower).await;
    assert!(world.live.rounds() > rounds);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ds_10_5_11_a_result_of_too_many_groups_is_refused_and_ends() {
    let mut world = World::new(SCHEMA).await;
    world
        .sql("INSERT INTO sales (id, owner) SELECT n, 'ada' FROM generate_series(1, 10001) n")
        .await;
    let by_id = |condition| grouped(condition, "", &["n"], &[COUNT]);
    let follower = planned(&mut world, by_id("true")).await;
    assert_eq!(follower.held().rows.len(), 1);
    world.sql("UPDATE sales SET n = id").await;
    while follower.held().ended.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let held = follower.held();
    assert!(held.rows.is_empty() && held.ended == Some(LiveError::TooManyGroups.to_string()));
    let refused = world.live.subscribe(by_id("true"), user("ada"), unbounded()).await;
    assert_eq!(refused.err(), Some(LiveError::TooManyGroups));
    let fits = world.live.subscribe(by_id("id < 10001"), user("ada"), unbounded()).await;
    assert!(fits.is_ok());
    world.end().await;
}
