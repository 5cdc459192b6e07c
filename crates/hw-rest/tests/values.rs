//! What a client holds goes back to the column exactly.

use hw_write::ConflictPolicy;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::rig::{Rig, bearer, send};

/// Uploads one value as raw JSON into column `v` of this type; returns what Postgres then has.
struct Zoo {
    rig: Rig,
    op_id: i64,
}

impl Zoo {
    async fn start() -> Zoo {
        let rig = Rig::start().await;
        rig.sql
            .batch_execute(
                "CREATE TYPE mood AS ENUM ('sad', 'so so'); CREATE TYPE pair AS (a int8, b text); \
                 CREATE DOMAIN short AS varchar(5) CHECK (VALUE <> 'no'); \
                 CREATE SCHEMA other; CREATE TYPE other.\"Odd Type\" AS ENUM ('x')",
            )
            .await
            .unwrap();
        Zoo { rig, op_id: 0 }
    }

    async fn check(&mut self, ty: &str, raw: &str, expected: &str) {
        self.rig
            .sql
            .batch_execute(&format!(
                "DROP TABLE IF EXISTS zoo; CREATE TABLE zoo (id text PRIMARY KEY, v {ty}); \
                 GRANT ALL ON zoo TO headwater_authenticated"
            ))
            .await
            .unwrap();
        self.rig.also("zoo", ConflictPolicy::LastWriteWins);
        self.op_id += 1;
        let raw = RawValue::from_string(raw.to_owned()).unwrap();
        let body = format!(
            "{{\"client_id\":\"c\",\"transactions\":[{{\"id\":{0},\"operations\":[{{\"op_id\":{0},\
             \"op\":\"PUT\",\"type\":\"zoo\",\"id\":\"1\",\"data\":{{\"v\":{1}}}}}]}}]}}",
            self.op_id,
            raw.get()
        );
        let (_, answer) = send(&self.rig.router, &bearer("ada", Map::new()), body).await;
        let answer = &answer["transactions"][0];
        let got = match answer["verdict"].as_str() {
            Some("applied") => self.rig.ask("SELECT v::text FROM zoo").await,
            _ => format!("! {}", answer["error"]["sqlstate"].as_str().unwrap_or("?")),
        };
        assert_eq!(got, expected, "{raw} into {ty}: {answer}");
    }
}

#[tokio::test]
async fn numbers_keep_every_digit() {
    let mut zoo = Zoo::start().await;
    let long = "12345678901234567890.123456789012345678901234567890";
    for (ty, raw, expected) in [
        ("int8", "9223372036854775807", "9223372036854775807"),
        ("int8", "\"9007199254740993\"", "9007199254740993"),
        ("int8", "5.0", "5"),
        ("int8", "9223372036854775808", "! 22003"),
        ("int4", "1.5", "! 22P02"),
        ("numeric", long, long),
        ("numeric", "1.50", "1.50"),
        ("numeric", "\"NaN\"", "NaN"),
        ("numeric", "1e-30", "0.000000000000000000000000000001"),
        ("float8", "0.1", "0.1"),
        ("float8", "\"Infinity\"", "Infinity"),
        ("float4", "1.1", "1.1"),
        ("bool", "1", "true"),
        ("bool", "0", "false"),
        ("bool", "true", "true"),
        ("bool", "7", "! 22P02"),
        ("money", "\"$1.00\"", "$1.00"),
        ("oid", "4294967295", "4294967295"),
    ] {
        zoo.check(ty, raw, expected).await;
    }
}

#[tokio::test]
async fn texts_are_never_cut_and_their_types_are_found_in_any_schema() {
    let mut zoo = Zoo::start().await;
    for (ty, raw, expected) in [
        ("text", "\"a'b\\\"c\\\\ \\u00e9\\n\"", "a'b\"c\\ é\n"),
        ("text", "\"\"", ""),
        ("text", "null", "NULL"),
        ("text", "12.50", "12.50"),
        ("text", "\"a\\u0000b\"", "! 22021"),
        ("text", "\"\\ud800\"", "! 22P02"),
        ("varchar(5)", "\"abcdef\"", "! 22001"),
        ("char(5)", "\"abcdef\"", "! 22001"),
        ("char(5)", "\"ab\"", "ab"),
        ("short", "\"abcdef\"", "! 22001"),
        ("short", "\"no\"", "! 23514"),
        ("short", "\"yes\"", "yes"),
        ("bit(3)", "\"1011\"", "! 22026"),
        ("bit(3)", "\"101\"", "101"),
        ("mood", "\"so so\"", "so so"),
        ("mood", "\"glad\"", "! 22P02"),
        ("other.\"Odd Type\"", "\"x\"", "x"),
        (
            "uuid",
            "\"00000000-0000-4000-8000-000000000001\"",
            "00000000-0000-4000-8000-000000000001",
        ),
        ("inet", "\"10.0.0.1/8\"", "10.0.0.1/8"),
        ("pg_lsn", "\"00000016/B374D848\"", "16/B374D848"),
    ] {
        zoo.check(ty, raw, expected).await;
    }
}

#[tokio::test]
async fn times_come_back_in_both_renderings() {
    let mut zoo = Zoo::start().await;
    for (ty, raw, expected) in [
        ("timestamptz", "\"2023-03-06 13:47:00.12345Z\"", "2023-03-06 13:47:00.12345+00"),
        ("timestamptz", "\"2023-03-06T13:47:00.123450Z\"", "2023-03-06 13:47:00.12345+00"),
        ("timestamp", "\"2023-03-06T15:47:00.123450\"", "2023-03-06 15:47:00.12345"),
        ("date", "\"2023-03-06\"", "2023-03-06"),
        ("time", "\"15:47:00.123450\"", "15:47:00.12345"),
        ("timetz", "\"15:47:00.5+02\"", "15:47:00.5+02"),
        ("interval", "\"1 year 2 mons 3 days 04:05:06\"", "1 year 2 mons 3 days 04:05:06"),
        ("date", "\"2023-02-30\"", "! 22008"),
    ] {
        zoo.check(ty, raw, expected).await;
    }
}

#[tokio::test]
async fn json_bytes_and_containers_come_back_from_what_clients_hold() {
    let mut zoo = Zoo::start().await;
    for (ty, raw, expected) in [
        (
            "jsonb",
            r#""{\"a\": 1.50, \"a\": 12345678901234567890.5}""#,
            "{\"a\": 12345678901234567890.5}",
        ),
        ("jsonb", r#"{"b":[1,null]}"#, r#"{"b": [1, null]}"#),
        ("json", r#""{ \"a\" :1}""#, r#"{ "a" :1}"#),
        ("jsonb", "\"not json\"", "! 22P02"),
        ("bytea", "\"3q2+7w==\"", "\\xdeadbeef"),
        ("bytea", "\"\\\\xdeadbeef\"", "\\xdeadbeef"),
        ("int4[]", "\"[1,2,null]\"", "{1,2,NULL}"),
        ("int4[]", "[[1,2],[3,4]]", "{{1,2},{3,4}}"),
        ("int4[]", "\"[]\"", "{}"),
        (
            "text[]",
            r#"["a,b","{}","NULL","",null,"\"\\"]"#,
            r#"{"a,b","{}","NULL","",NULL,"\"\\"}"#,
        ),
        ("bool[]", "\"[1,0]\"", "{t,f}"),
        ("numeric[]", r#"["1.50","NaN"]"#, "{1.50,NaN}"),
        ("jsonb[]", r#"[{"a":1},"s"]"#, r#"{"{\"a\": 1}","\"s\""}"#),
        ("box[]", r#"["(1,1),(0,0)","(2,2),(1,1)"]"#, "{(1,1),(0,0);(2,2),(1,1)}"),
        ("mood[]", r#"["sad","so so"]"#, r#"{sad,"so so"}"#),
        (
            "int4range",
            r#""{\"lower\":1,\"upper\":5,\"lower_exclusive\":0,\"upper_exclusive\":1}""#,
            "[1,5)",
        ),
        (
            "int4range",
            r#"{"lower":null,"upper":5,"lower_exclusive":1,"upper_exclusive":1}"#,
            "(,5)",
        ),
        ("int4range", r#""\"empty\"""#, "empty"),
        ("int4range", "\"[1,5)\"", "[1,5)"),
        (
            "tsrange",
            r#"{"lower":"2024-01-01T00:00:00.000000","upper":null,"upper_exclusive":1}"#,
            "[\"2024-01-01 00:00:00\",)",
        ),
        ("int4multirange", r#"[{"lower":1,"upper":3,"upper_exclusive":1}]"#, "{[1,3)}"),
        ("pair", r#""{\"a\":9007199254740993,\"b\":\"x,y\"}""#, "(9007199254740993,\"x,y\")"),
        ("pair", r#""(1,z)""#, "(1,z)"),
    ] {
        zoo.check(ty, raw, expected).await;
    }
}

#[tokio::test]
async fn columns_that_the_database_computes_take_null_only() {
    let rig = Rig::start().await;
    rig.sql
        .batch_execute(
            "CREATE TABLE sums (id text PRIMARY KEY, a int4, b int4 GENERATED ALWAYS AS (a * 2) STORED); \
             GRANT ALL ON sums TO headwater_authenticated",
        )
        .await
        .unwrap();
    rig.also("sums", ConflictPolicy::LastWriteWins);
    let put = |op_id: i64, b: Value| json!([{"op_id": op_id, "op": "PUT", "type": "sums", "id": "1", "data": {"a": 4, "b": b}}]);
    assert_eq!(rig.write("ada", put(1, json!(null))).await["verdict"], "applied");
    assert_eq!(rig.ask("SELECT b FROM sums").await, "8");
    let answer = rig.write("ada", put(2, json!(9))).await;
    assert_eq!(
        (&answer["error"]["sqlstate"], &answer["error"]["column"]),
        (&json!("428C9"), &json!("b"))
    );
}
