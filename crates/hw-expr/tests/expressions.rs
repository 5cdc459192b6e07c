//! Expressions: against real SQLite where the language follows it, and against a table where it
//! follows the reference instead.

use crate::world::World;
use hw_expr::eval::evaluate_case;
use serde_json::{Value, json};

/// `cases/sqlite.jsonl` was recorded from real SQLite by `generate.py`. Arguments come as
/// columns, so nothing is folded at load.
#[test]
fn expressions_give_what_sqlite_gives_where_the_language_follows_it() {
    let lines: Vec<Value> = include_str!("cases/sqlite.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(lines.len() > 1000);
    let mut forms: Vec<&str> = lines.iter().map(|l| l["form"].as_str().unwrap()).collect();
    forms.dedup();
    let mut wrong = Vec::new();
    for form in forms {
        let cases: Vec<&Value> = lines.iter().filter(|l| l["form"] == form).collect();
        let rows: Vec<Value> = cases
            .iter()
            .map(|c| json!({"table": "t", "row": {"id": "1", "a": c["a"], "b": c["b"]}}))
            .collect();
        let query = format!("SELECT id, {form} AS v, hex({form}) AS h, typeof({form}) AS k FROM t");
        let yaml = format!(
            "bucket_definitions:\n  b:\n    data: [{}]\n",
            serde_json::to_string(&query).unwrap()
        );
        let case = json!({"yaml": yaml, "rows": rows});
        let answer: Value =
            serde_json::from_str(&evaluate_case(&case.to_string()).unwrap()).unwrap();
        assert_eq!(answer["accepted"], true, "{form}: {}", answer["config_errors"]);
        for (case, row) in cases.iter().zip(answer["rows"].as_array().unwrap()) {
            let text = row["data"][0]["data"].as_str().unwrap_or("{}");
            let data: Value = serde_json::from_str(text).unwrap();
            let value = match &case["value"]["$blob"] {
                Value::String(hex) => data["h"] == hex.to_uppercase(),
                _ => same(&data["v"], &case["value"]),
            };
            if !value || data["k"] != case["type"] {
                wrong.push(format!("{case} gave {text}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn same(a: &Value, b: &Value) -> bool {
    a == b || a.as_f64().is_some_and(|x| Some(x) == b.as_f64())
}

fn values(edition: u8, row: Value, cases: &[(&str, &str)]) {
    let items: Vec<String> =
        cases.iter().enumerate().map(|(i, (e, _))| format!("{e} AS v{i}")).collect();
    let query = format!("SELECT id, {} FROM t", items.join(", "));
    let query = serde_json::to_string(&query).unwrap();
    let yaml = match edition {
        3 => format!("config: {{edition: 3}}\nstreams:\n  s:\n    query: {query}\n"),
        e => format!("config: {{edition: {e}}}\nbucket_definitions:\n  b:\n    data: [{query}]\n"),
    };
    let mut row = row;
    row["id"] = json!("1");
    let payload = World::new(&yaml).row("t", row).payloads().remove(0);
    let found: Value = serde_json::from_str(&payload).unwrap();
    for (i, (expression, expected)) in cases.iter().enumerate() {
        // As text, so that 1 and 1.0 differ; a blob has no key.
        let found = found.get(format!("v{i}")).map_or("none".to_string(), Value::to_string);
        assert_eq!(found, *expected, "{expression} in edition {edition}");
    }
}

/// `sync-rules.md` 6.2, 6.3, 7: where the language differs from SQLite.
#[test]
fn expressions_give_what_the_reference_gives_where_the_language_follows_that() {
    let row = json!({"n": null, "i": 5, "r": 2.0, "x": -2.5, "t": "abcde", "big": i64::MAX,
        "emoji": "a😀b", "bin": {"$blob": "c0de"}, "sharp": "straße"});
    let all = [
        ("NOT n", "1"),
        ("n AND 1", "0"),
        ("n OR 0", "0"),
        ("'1abc' AND 1", "1"),
        ("'0.9' OR 0", "0"),
        ("CAST(x AS integer)", "-3"),
        ("CAST(r AS text)", "\"2\""),
        ("'x' || r", "\"x2\""),
        ("'1' || 2 + 3", "15"),
        ("big + 1", "9223372036854775808"),
        ("big * big / big", "9223372036854775807"),
        ("-7 / 2", "-3"),
        ("i / 0", "null"),
        ("1.0 / 0.0", "null"),
        ("length(emoji)", "4"),
        ("substring(emoji, 4)", "\"b\""),
        ("instr(emoji, 'b')", "4"),
        ("substring(t, 0, 3)", "\"ab\""),
        ("substring(t, -2, 1)", "\"d\""),
        ("substring(t, 5, -2)", "\"cd\""),
        ("substring(t, 2, n)", "null"),
        ("upper(sharp)", "\"STRASSE\""),
        ("lower('ΑΣ')", "\"ας\""),
        ("hex(n) || base64(n)", "\"\""),
        ("base64(bin)", "\"wN4=\""),
        ("hex(bin)", "\"C0DE\""),
        ("bin", "none"),
        (
            "hex(uuid_blob('00112233-4455-6677-8899-aabbccddeeff'))",
            "\"00112233445566778899AABBCCDDEEFF\"",
        ),
        ("unixepoch('2023-06-28 14:12')", "1687961520"),
        ("unixepoch(1.5, 'unixepoch', 'subsec')", "1.5"),
        ("datetime(0)", "\"-4713-11-24 12:00:00\""),
        ("datetime('2023-06-28T14:12:00+02:00')", "\"2023-06-28 12:12:00\""),
        ("datetime('now')", "null"),
        ("datetime('2023-02-30')", "null"),
        (
            "json_keys('{\"b\":1,\"2\":1,\"a\":1,\"0\":1}')",
            "\"[\\\"0\\\",\\\"2\\\",\\\"b\\\",\\\"a\\\"]\"",
        ),
        ("json_array_length('[1,2]')", "2"),
        ("json_array_length('{}')", "0"),
        ("json_extract('{\"a\":{\"b\":1.50}}', '$.a')", "\"{\\\"b\\\":1.5}\""),
        ("typeof('{\"a\":2.0}' ->> 'a')", "\"real\""),
    ];
    values(1, row.clone(), &all);
    values(2, row.clone(), &all);
    values(3, row, &all);
}

#[test]
fn editions_differ_in_inequality_json_paths_and_forms() {
    let row = json!({"n": null, "i": 5, "j": {"$json": "{\"a.b\":1,\"a\":{\"b\":2,\"z\":null}}"}});
    values(
        1,
        row.clone(),
        &[
            ("n != 1", "null"),
            ("j ->> 'a.b'", "2"),
            ("j -> '$.a.z'", "null"),
            ("j ->> '$.a.z'", "\"null\""),
            ("json_valid(j)", "1"),
            ("i IN '[4,5]'", "1"),
            ("NOT (i IN '[4,5]')", "0"),
        ],
    );
    values(
        2,
        row.clone(),
        &[
            ("n != 1", "null"),
            ("j ->> 'a.b'", "1"),
            ("j ->> '$.a.b'", "2"),
            ("j -> '$.a.z'", "\"null\""),
            ("j ->> '$.a.z'", "null"),
        ],
    );
    values(
        3,
        row,
        &[
            ("n != 1", "1"),
            ("n NOT BETWEEN 1 AND 2", "1"),
            ("n BETWEEN 1 AND 2", "null"),
            ("i IN ARRAY[1, NULL]", "null"),
            ("i NOT IN ARRAY[1, NULL]", "1"),
            ("i IN ROW(5, NULL)", "1"),
            ("i NOT IN '[5]'", "0"),
            ("2 IS TRUE", "0"),
            ("n IS NOT TRUE", "1"),
            ("CASE i WHEN 4 THEN 'four' WHEN 5 THEN 'five' END", "\"five\""),
            ("CASE WHEN n THEN 1 END", "null"),
            ("'[7,8]' ->> 1", "8"),
            ("+'5x'", "5"),
            ("i - -1", "6"),
        ],
    );
}

/// `sync-rules.md` 5.2: equality binds looser than IS, comparison tighter, and so on.
#[test]
fn precedence_is_that_of_the_language_not_that_of_postgres() {
    values(
        3,
        json!({"a": 1, "b": 2, "n": null}),
        &[
            ("1 + 2 * 3", "7"),
            ("'a' || 1 + 2", "2"),
            ("n IS NULL = 1", "1"),
            ("1 = n IS NULL", "1"),
            ("1 = 2 < 3", "1"),
            ("NOT a = b", "1"),
            ("NOT 0 AND 0", "0"),
            ("1 OR 0 AND 0", "1"),
            ("a BETWEEN 0 AND 1 AND b = 2", "1"),
            ("'{\"a\":{\"b\":3}}' -> 'a' ->> 'b' + 1", "4"),
            ("a::text || b", "\"12\""),
        ],
    );
}
