//! Live queries whose conditions nobody well-meaning sends: what follows them is what Postgres shows (F-71).

use std::collections::BTreeMap;
use std::time::Duration;

use hw_testkit::poll_until;
use hw_testkit::server::{OPERATOR, http_get};
use hw_testkit::wheres::{HOSTILE, Wheres};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::live_queries::{Rig, Socket, query};

/// Columns with the values that rows get, as SQL. Some have names that would mean something else without quotes.
const COLUMNS: [(&str, &str, &[&str]); 12] = [
    ("s", "text", &["'a'", "'A'", "'a '", "''", "'1=1) OR (1=1'", "'$1'", "NULL"]),
    ("we\"ird", "text", &["'a'", "'id'", "'true'", "NULL"]),
    ("$1", "text", &["'a'", "'$1'", "NULL"]),
    ("or true --", "varchar(8)", &["'a'", "'NULL'", "NULL"]),
    ("n", "int4", &["0", "1", "-1", "2147483647", "NULL"]),
    ("b", "int8", &["0", "1", "9223372036854775807", "NULL"]),
    ("d", "numeric", &["0", "1", "1.50", "'NaN'", "NULL"]),
    ("f", "float8", &["0", "'-0'", "1.5", "'NaN'", "'Infinity'", "NULL"]),
    ("t", "bool", &["true", "false", "NULL"]),
    ("u", "uuid", &["'00000000-0000-4000-8000-000000000001'", "NULL"]),
    (
        "at",
        "timestamptz",
        &["'2024-01-02T03:04:05.678Z'", "'2024-01-02T05:04:05+02:00'", "'infinity'", "NULL"],
    ),
    ("ta", "text[]", &["'{}'", "'{a,NULL}'", "'{\"1=1) OR (1=1\"}'", "NULL"]),
];

/// From this id on rows are another user's.
const HIDDEN: i64 = 1_000;

/// What is followed of one condition.
struct Followed {
    query: Value,
    rows: BTreeMap<i64, Value>,
    /// It was told that it has no result any more.
    ended: bool,
}

fn id_of(row: &Value) -> i64 {
    row["id"].as_i64().expect("a number")
}

fn rows_of(result: &Value) -> BTreeMap<i64, Value> {
    let rows = result.as_array().expect("rows");
    let held: BTreeMap<i64, Value> = rows.iter().map(|row| (id_of(row), row.clone())).collect();
    assert_eq!(held.len(), rows.len(), "no id comes twice");
    held
}

/// The names of columns as SQL and on the wire, with values that mean something there.
fn fields() -> Wheres {
    let value = |sql: &&str| match sql.trim_matches('\'') {
        "NULL" => Value::Null,
        text if sql.starts_with('\'') => json!(text),
        text => serde_json::from_str(text).expect("a number or a boolean"),
    };
    let fields = COLUMNS.iter().map(|(name, _, values)| {
        let mut values: Vec<Value> = values.iter().map(value).collect();
        match *name {
            "ta" => values = vec![json!([]), json!(["a", null]), json!(["1=1) OR (1=1"])],
            "n" | "b" => values.extend([json!(1.5), json!("1"), json!(9_007_199_254_740_993_i64)]),
            "s" | "we\"ird" => values.extend(HOSTILE.map(|text| json!(text))),
            _ => {}
        }
        ((*name).to_owned(), values)
    });
    Wheres { fields: fields.collect() }
}

fn assignment(rng: &mut StdRng) -> String {
    let (name, _, values) = COLUMNS.choose(rng).expect("there are columns");
    let name = name.replace('"', "\"\"");
    format!("\"{name}\" = {}", values.choose(rng).expect("there are values"))
}

/// Takes all that comes until nothing does for a moment.
async fn drain(socket: &mut Socket, followed: &mut BTreeMap<String, Followed>) {
    loop {
        let event = match socket.pushes.is_empty() {
            false => socket.pushes.remove(0),
            true => match tokio::time::timeout(Duration::from_millis(30), socket.receive()).await {
                Ok(event) => event,
                Err(_) => return,
            },
        };
        let id = event["subscriptionId"].as_str().expect("an id");
        let Followed { query, rows, ended } = followed.get_mut(id).expect("is followed");
        match event["tag"].as_str() {
            Some("DidInsert") => {
                let row = event["record"].clone();
                assert!(id_of(&row) < HIDDEN, "{row} is shown by {query}");
                assert!(rows.insert(id_of(&row), row).is_none(), "{event}");
            }
            Some("DidUpdate") => {
                let row = rows.get_mut(&id_of(&event)).unwrap_or_else(|| panic!("{event}"));
                for (field, value) in event["changeSet"].as_object().into_iter().flatten() {
                    row[field] = value.clone();
                }
            }
            // Of one that came and went before anybody looked nothing else is told.
            Some("DidDelete") => drop(rows.remove(&id_of(&event))),
            Some("DataSyncError") => *ended = true,
            _ => panic!("{event}"),
        }
    }
}

#[tokio::test]
async fn f_71_what_follows_hostile_conditions_is_what_postgres_shows() {
    let seed = std::env::var("HEADWATER_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let mut rng = StdRng::seed_from_u64(seed);
    let rig = Rig::start().await;
    let columns: Vec<String> = COLUMNS
        .iter()
        .map(|(name, ty, _)| format!(", \"{}\" {ty}", name.replace('"', "\"\"")))
        .collect();
    rig.run(&format!(
        "CREATE TABLE odd (id int4 PRIMARY KEY, owner text NOT NULL{}); ALTER TABLE odd ENABLE ROW LEVEL SECURITY;
         CREATE POLICY owner ON odd USING (owner = current_setting('request.jwt.claim.sub', true));
         GRANT SELECT ON odd TO headwater_authenticated;
         INSERT INTO odd SELECT n, 'amy' FROM generate_series(1, 12) AS n;
         INSERT INTO odd SELECT n, 'bob' FROM generate_series({HIDDEN}, {HIDDEN} + 11) AS n",
        columns.concat()
    ))
    .await;
    let change = async |rng: &mut StdRng, count: usize| {
        for _ in 0..count {
            let id = rng.random_range(1..=12) + i64::from(rng.random_bool(0.3)) * (HIDDEN - 1);
            let set = [assignment(rng), assignment(rng)];
            // One column cannot be set twice.
            rig.run(&format!(
                "UPDATE odd SET {} WHERE id = {id}; UPDATE odd SET {} WHERE id = {id}",
                set[0], set[1]
            ))
            .await;
        }
    };
    change(&mut rng, 60).await;
    // Fields are named as the server names columns.
    let mut wheres = fields();
    let mut amy = rig.connect("amy").await;
    rig.run("UPDATE odd SET \"we\"\"ird\" = 'w', \"$1\" = 'p', \"or true --\" = 'o' WHERE id = 1")
        .await;
    let all = amy.ask(json!({"tag": "DataSyncQuery", "query": query("odd", json!({}))})).await;
    let first = rows_of(&all["result"])[&1].clone();
    for (column, marker) in [("we\"ird", "w"), ("$1", "p"), ("or true --", "o")] {
        let record = first.as_object().expect("an object");
        let (field, _) = record.iter().find(|(_, value)| *value == marker).expect("it is there");
        let known = wheres.fields.iter_mut().find(|(name, _)| name == column).expect("known");
        known.0.clone_from(field);
    }
    let mut sockets = Vec::new();
    let mut refused = 0;
    for _ in 0..2 {
        let mut socket = rig.connect("amy").await;
        let mut followed = BTreeMap::new();
        while followed.len() < 80 {
            let depth = rng.random_range(0..4);
            let condition = wheres.condition(&mut rng, depth);
            let query = query("odd", json!({"whereCondition": condition}));
            let once = socket.ask(json!({"tag": "DataSyncQuery", "query": query})).await;
            let message = json!({"tag": "CreateDataSubscription", "query": query});
            let began = socket.ask(message).await;
            if once["tag"] == "DataSyncError" {
                refused += 1;
                assert_eq!(began["tag"], "DataSyncError", "{query}: {began}");
                assert_eq!(began["sqlstate"], once["sqlstate"], "{query}");
                continue;
            }
            let rows = rows_of(&began["result"]);
            assert_eq!(rows, rows_of(&once["result"]), "{query}");
            assert!(rows.keys().all(|id| *id < HIDDEN), "{query}");
            let id = began["subscriptionId"].as_str().expect("an id").to_owned();
            followed.insert(id, Followed { query, rows, ended: false });
        }
        sockets.push((socket, followed));
    }
    assert!(refused > 0, "{refused}");
    let address = rig.process.address();
    let planned = async || {
        let metrics = http_get(address, "/metrics", &OPERATOR).await.ok()?.body;
        let line = metrics.lines().find_map(|line| line.strip_prefix("headwater_live_planned "))?;
        line.parse::<usize>().ok().filter(|planned| *planned > 40)
    };
    let planned = poll_until("most are told by plans", planned).await;
    eprintln!("seed {seed}: {planned} are planned, {refused} were refused");
    for _ in 0..3 {
        change(&mut rng, 12).await;
        let end = tokio::time::Instant::now() + Duration::from_secs(60);
        for (socket, followed) in &mut sockets {
            let mut waiting: Vec<String> = followed.keys().cloned().collect();
            while !waiting.is_empty() {
                drain(socket, followed).await;
                let mut behind = Vec::new();
                for id in waiting {
                    let Followed { query, rows, ended } = &followed[&id];
                    let message = json!({"tag": "DataSyncQuery", "query": query});
                    let (query, rows, ended) = (query.clone(), rows.clone(), *ended);
                    let now = socket.ask(message).await;
                    let is_right = match now["tag"] == "DataSyncError" {
                        true => ended,
                        false => !ended && rows_of(&now["result"]) == rows,
                    };
                    if is_right {
                        continue;
                    }
                    let is_late = tokio::time::Instant::now() > end;
                    assert!(!is_late, "seed {seed}, {query}:\nheld {rows:#?}\nPostgres {now:#}");
                    behind.push(id);
                }
                waiting = behind;
            }
            followed.retain(|_, it| !it.ended);
        }
    }
}
