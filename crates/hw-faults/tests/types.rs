//! F-30: the type zoo through the whole line, in both editions, by copy and by stream.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::rig::{Rig, caught_up, client};

const TYPES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'happy');
    CREATE DOMAIN small AS int4 CHECK (value < 100);
    CREATE TYPE pair AS (a bool, b int4);
    CREATE TABLE zoo (id text PRIMARY KEY, i2 int2, i4 int4, i8 int8, b bool, f4 float4, f8 float8,
      n numeric, m money, t text, c char(5), u uuid, by bytea, j json, jb jsonb, d date, ti time,
      tz timetz, iv interval, ts timestamp, tst timestamptz, l pg_lsn, ai int4[], ab bool[],
      an numeric[], af float8[], aj json[], aby bytea[], e mood, ae mood[], dom small, comp pair,
      r int4range, mr int4multirange, ip inet, bi bit(3))";

/// A column with the SQL of its value and what a client sees in edition 1 and in edition 3.
type Cell = (&'static str, &'static str, Value, Value);

/// Rows: an id, and of some columns the SQL and the text of edition 1 and of edition 3
/// (`powersync-protocol.md` 11.2). A column that is not named is NULL.
fn rows() -> Vec<(&'static str, Vec<Cell>)> {
    let same = |column, sql, value: Value| (column, sql, value.clone(), value);
    vec![
        (
            "plain",
            vec![
                same("i2", "-32768", json!(-32768)),
                same("i4", "2147483647", json!(2147483647)),
                same("i8", "9007199254740993", json!(9_007_199_254_740_993_i64)),
                same("b", "true", json!(1)),
                same("f8", "1.5", json!(1.5)),
                same("f4", "0.25", json!(0.25)),
                same("n", "1.50", json!("1.50")),
                same("m", "1", json!("$1.00")),
                same("t", "E'\"Café\" \\\\ \\u2615\\n'", json!("\"Café\" \\ ☕\n")),
                same("c", "'ab'", json!("ab   ")),
                same(
                    "u",
                    "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'",
                    json!("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
                ),
                same("j", "'{\"a\":  1, \"a\": 2}'", json!("{\"a\":  1, \"a\": 2}")),
                same("jb", "'{\"a\":  1, \"a\": 2}'", json!("{\"a\": 2}")),
                same("d", "'2023-03-06'", json!("2023-03-06")),
                ("ti", "'15:47:00.12345'", json!("15:47:00.12345"), json!("15:47:00.123450")),
                same("tz", "'15:47:00.5+02'", json!("15:47:00.5+02")),
                same(
                    "iv",
                    "'1 year 2 mons 3 days 04:05:06'",
                    json!("1 year 2 mons 3 days 04:05:06"),
                ),
                (
                    "ts",
                    "'2023-03-06 15:47:00.12345'",
                    json!("2023-03-06 15:47:00.12345"),
                    json!("2023-03-06T15:47:00.123450"),
                ),
                (
                    "tst",
                    "'2023-03-06 15:47:00.12345+02'",
                    json!("2023-03-06 13:47:00.12345Z"),
                    json!("2023-03-06T13:47:00.123450Z"),
                ),
                same("l", "'16/B374D848'", json!("00000016/B374D848")),
                same("ai", "'{1,2,null}'", json!("[1,2,null]")),
                same("ab", "'{t,f}'", json!("[1,0]")),
                same("an", "'{1.50,NaN}'", json!("[\"1.50\",\"NaN\"]")),
                same("af", "'{1,2.5}'", json!("[1.0,2.5]")),
                same("aby", "ARRAY['x'::bytea]", json!("[null]")),
                same("by", "'\\xc0de'", Value::Null),
                same("aj", "ARRAY['{\"a\":  1}'::json, 'null']", json!("[{\"a\":  1},null]")),
                (
                    "mr",
                    "'{[1,3),[5,)}'",
                    json!("{[1,3),[5,)}"),
                    json!(
                        "[{\"lower\":1,\"upper\":3,\"lower_exclusive\":0,\"upper_exclusive\":1},\
                         {\"lower\":5,\"upper\":null,\"lower_exclusive\":0,\"upper_exclusive\":1}]"
                    ),
                ),
                same("e", "'happy'", json!("happy")),
                ("ae", "'{sad,happy}'", json!("{sad,happy}"), json!("[\"sad\",\"happy\"]")),
                ("dom", "7", json!("7"), json!(7)),
                ("comp", "ROW(true, 123)", json!("(t,123)"), json!("{\"a\":1,\"b\":123}")),
                (
                    "r",
                    "'[1,5)'",
                    json!("[1,5)"),
                    json!("{\"lower\":1,\"upper\":5,\"lower_exclusive\":0,\"upper_exclusive\":1}"),
                ),
                same("ip", "'10.0.0.1/8'", json!("10.0.0.1/8")),
                same("bi", "B'101'", json!("101")),
            ],
        ),
        (
            "odd",
            vec![
                same("i8", "-9223372036854775808", json!(i64::MIN)),
                same("b", "false", json!(0)),
                same("n", "'NaN'", json!("NaN")),
                same("f8", "12", json!(12.0)),
                same("t", "''", json!("")),
                same("d", "'infinity'", json!("9999-12-31")),
                ("ti", "'15:47:00'", json!("15:47:00"), json!("15:47:00.000000")),
                (
                    "ts",
                    "'infinity'",
                    json!("9999-12-31 23:59:59"),
                    json!("9999-12-31T23:59:59.000000"),
                ),
                (
                    "tst",
                    "'-infinity'",
                    json!("0000-01-01 00:00:00Z"),
                    json!("0000-01-01T00:00:00.000000Z"),
                ),
                same("ai", "'[0:1]={5,6}'", json!("[5,6]")),
                same("an", "'{}'", json!("[]")),
                ("r", "'empty'", json!("empty"), json!("\"empty\"")),
            ],
        ),
        (
            "far",
            vec![
                same("f8", "'-0'", json!(0.0)),
                same("n", "1e1000", json!(format!("1{}", "0".repeat(1000)))),
                same("d", "'-infinity'", json!("0000-01-01")),
                same("ts", "'0044-03-15 12:00:00 BC'", Value::Null),
                same("tst", "'10000-01-01 00:00:00+00'", Value::Null),
                same("ai", "'{{1,2},{3,4}}'", json!("[[1,2],[3,4]]")),
                (
                    "r",
                    "'[3,)'",
                    json!("[3,)"),
                    json!(
                        "{\"lower\":3,\"upper\":null,\"lower_exclusive\":0,\"upper_exclusive\":1}"
                    ),
                ),
            ],
        ),
        ("nothing", vec![]),
    ]
}

fn insert(prefix: &str) -> String {
    let mut sql = String::new();
    for (id, columns) in rows() {
        let names: String = columns.iter().map(|column| format!(", {}", column.0)).collect();
        let values: String = columns.iter().map(|column| format!(", {}", column.1)).collect();
        sql.push_str(&format!("INSERT INTO zoo (id{names}) VALUES ('{prefix}{id}'{values});\n"));
    }
    sql
}

async fn zoo(config: &str, edition: usize) {
    let rig = Rig::new(TYPES, config).await;
    rig.execute(&insert("copied-")).await;
    let mut server = rig.start().await;
    let mut amy = client("amy");
    caught_up(&mut amy, &server).await;
    rig.execute(&insert("streamed-")).await;
    caught_up(&mut amy, &server).await;
    let shown: BTreeMap<String, Value> = amy.table("zoo");
    let mut wrong = Vec::new();
    for way in ["copied-", "streamed-"] {
        for (id, columns) in rows() {
            let row = &shown[&format!("{way}{id}")];
            if id == "plain" {
                assert!(row.get("by").is_none(), "binary values are not in the row: {row}");
            }
            for (column, sql, first, third) in columns {
                let expected = if edition == 1 { first } else { third };
                if row[column] != expected {
                    wrong.push(format!(
                        "{way}{id}: {column} {sql}: {expected} expected, got {}",
                        row[column]
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f_30_every_type_has_the_text_of_edition_1() {
    zoo("bucket_definitions:\n  zoo:\n    data:\n      - SELECT * FROM zoo\n", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f_30_every_type_has_the_text_of_edition_3() {
    let config = "config:\n  edition: 3\nstreams:\n  zoo:\n    auto_subscribe: true\n    \
                  query: SELECT * FROM zoo\n";
    zoo(config, 3).await;
}
